//! `config.get|set|patch|apply`: the user's file as clients see and change it.
//!
//! There is one owner of the file's revisions: this gateway, whether an upstream is there or not. What is
//! answered is the original's, field by field, but for its hashes (keyed by a secret of ours), its private
//! migrations, and what installed plugins add. A write keeps the file's comments and order (`config::edit`).
//!
//! Source: src/gateway/server-methods/config.ts, config-get-response.ts and src/config/io.snapshot.ts at
//! 2026.9.6; tests/config/fixtures/original.json holds its answers.

mod patch;
#[cfg(test)]
mod tests;
mod write;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use parking_lot::Mutex;
use ring::{digest, hmac};
use serde_json::{Map, Value, json};

use super::redact::Hints;
use super::schema::Schema;
use super::{ConfigDocument, ConfigError, Env, Issue, Paths, defaults, replace_private};

pub use write::Written;

/// Keys the hashes, so that a client can't guess secrets by hashing.
const KEY_FILE: &str = "config-hash.key";
const KEY_BYTES: usize = 32;

/// The configuration methods of one gateway.
#[derive(Debug)]
pub struct ConfigApi {
    paths: Paths,
    env: Env,
    known: OnceLock<Known>,
    key: hmac::Key,
    /// One write at a time, from reading the file to replacing it.
    writing: Mutex<()>,
}

/// What a configuration may hold, and what of it is hidden.
#[derive(Debug)]
struct Known {
    hints: Hints,
    schema: Schema,
}

/// The file as it stands, and what it comes to.
struct Snapshot {
    document: ConfigDocument,
    /// As resolved, with the roster that a file without one stands for.
    source: Value,
    /// What the original would run with.
    config: Value,
    issues: Vec<Issue>,
    hash: String,
}

impl Snapshot {
    fn is_valid(&self) -> bool {
        self.issues.is_empty()
    }
}

impl ConfigApi {
    /// `env` is the process's environment. The key of the hashes is made at the first start.
    pub fn open(paths: &Paths, env: &Env) -> Result<Self, ConfigError> {
        let file = paths.own_dir.join(KEY_FILE);
        let key = key_of(&file).map_err(|error| {
            ConfigError::new(format!(
                "cannot keep the key of configuration hashes: {error}"
            ))
            .file(&file)
            .fix("make the directory writable by this user, or remove the file to get a new key")
        })?;
        Ok(Self {
            paths: paths.clone(),
            env: env.clone(),
            known: OnceLock::new(),
            key,
            writing: Mutex::new(()),
        })
    }

    /// Read at the first call: a gateway whose configuration nobody asks for needs none of it.
    fn known(&self) -> &Known {
        self.known.get_or_init(|| Known {
            hints: Hints::bundled(),
            schema: Schema::bundled(),
        })
    }

    /// The hash of the file as it stands, as `config.get` gives it.
    pub fn hash(&self) -> String {
        self.text_hash(&ConfigDocument::read(&self.paths, &self.env))
    }

    /// The answer of `config.get`. `applied`: the [`revision`](Self::revision) in force.
    pub fn get(&self, applied: Option<&str>) -> Value {
        let snapshot = self.read();
        let document = &snapshot.document;
        let valid = snapshot.is_valid();
        let mut answer = Map::new();
        let mut put = |key: &str, value: Value| {
            answer.insert(key.to_owned(), value);
        };
        put("path", json!(document.file));
        put("includedPaths", json!(document.included));
        if document.is_merged {
            put("includeProvenance", json!(document.provenance));
            let (roster, bindings) =
                document
                    .provenance
                    .iter()
                    .fold((false, false), |(roster, bindings), include| {
                        (
                            roster || include.owns_roster,
                            bindings || include.owns_bindings,
                        )
                    });
            put("agentRosterIncludeOwned", json!(roster));
            put("bindingsIncludeOwned", json!(bindings));
        }
        put("exists", json!(document.exists));
        let shown = valid.then(|| self.shown_text(&snapshot)).flatten();
        put("raw", json!(shown));
        if valid {
            put("parsed", self.known().hints.redact(&document.parsed));
        } else {
            put("parsed", Value::Null);
        }
        let redacted = |value: &Value| match valid {
            true => self.known().hints.redact(value),
            false => json!({}),
        };
        let source = redacted(&snapshot.source);
        let config = redacted(&snapshot.config);
        put("sourceConfig", source.clone());
        put("resolved", source);
        put("valid", json!(valid));
        put("runtimeConfig", config.clone());
        put("config", config);
        put("hash", json!(snapshot.hash));
        put("issues", json!(snapshot.issues));
        put("warnings", json!(warnings(&snapshot)));
        put("legacyIssues", json!(legacy_issues(&document.resolved)));
        let revision = valid.then(|| self.revision(&snapshot.source));
        put("configRevisionHash", json!(revision));
        put("appliedConfigHash", json!(applied));
        Value::Object(answer)
    }

    /// The hash of a configuration with everything resolved: equal for equal meaning.
    pub fn revision(&self, resolved: &Value) -> String {
        self.project(
            "resolved",
            canonical(&defaults::with_roster(resolved)).as_bytes(),
        )
    }

    fn read(&self) -> Snapshot {
        self.snapshot(ConfigDocument::read(&self.paths, &self.env))
    }

    fn snapshot(&self, document: ConfigDocument) -> Snapshot {
        let issues = match document.fault() {
            Some((issue, _)) => vec![issue.clone()],
            None => self.check(&document.resolved),
        };
        let source = defaults::with_roster(&document.resolved);
        let config = match issues.is_empty() {
            true => defaults::fill(&source, &self.paths),
            false => source.clone(),
        };
        let hash = self.text_hash(&document);
        Snapshot {
            document,
            source,
            config,
            issues,
            hash,
        }
    }

    /// Findings of the schema and of the rules across fields that it can't say.
    fn check(&self, resolved: &Value) -> Vec<Issue> {
        let migrated = defaults::with_roster(resolved);
        let mut issues = self.known().schema.check(&migrated);
        if issues.is_empty() {
            issues.extend(roster_issue(&migrated));
        }
        issues
    }

    /// Covers the file and all it includes: a write on top of any of them that changed is refused.
    fn text_hash(&self, document: &ConfigDocument) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(document.raw.as_deref().unwrap_or_default().as_bytes());
        for file in &document.included {
            context.update(&[0]);
            // One that can't be read is a fault of the document already.
            context.update(&fs::read(file).unwrap_or_default());
        }
        self.project("raw", context.finish().as_ref())
    }

    fn project(&self, kind: &str, bytes: &[u8]) -> String {
        use base64::Engine as _;
        let mut context = hmac::Context::with_key(&self.key);
        context.update(kind.as_bytes());
        context.update(&[0]);
        context.update(bytes);
        let tag = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(context.sign());
        format!("hmac-sha256:v1:{tag}")
    }

    /// The file's text without its secrets; `None` when hiding them would make it say something else.
    fn shown_text(&self, snapshot: &Snapshot) -> Option<String> {
        let document = &snapshot.document;
        let raw = document.raw.as_deref()?;
        self.known()
            .hints
            .redact_text(raw, &document.parsed, &document.parsed)
    }
}

fn key_of(file: &Path) -> std::io::Result<hmac::Key> {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
    let bytes = match fs::read_to_string(file) {
        Ok(text) => engine
            .decode(text.trim())
            .map_err(|error| std::io::Error::other(format!("not a key: {error}")))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut bytes = vec![0; KEY_BYTES];
            ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
                .map_err(|_cause| std::io::Error::other("the system gives no random bytes"))?;
            if let Some(dir) = file.parent() {
                super::create_private_dir(dir)?;
            }
            replace_private(file, format!("{}\n", engine.encode(&bytes)).as_bytes())?;
            bytes
        }
        Err(error) => return Err(error),
    };
    if bytes.len() != KEY_BYTES {
        return Err(std::io::Error::other(format!("not {KEY_BYTES} bytes")));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// JSON with sorted keys.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut keys: Vec<&String> = members.keys().collect();
            keys.sort();
            let members: Vec<String> = keys
                .into_iter()
                .map(|key| format!("{}:{}", Value::from(key.as_str()), canonical(&members[key])))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

/// Several agents need an owner for what concerns none of them.
///
/// Source: src/config/agent-roster-validation.ts.
fn roster_issue(resolved: &Value) -> Option<Issue> {
    let agents = resolved.get("agents")?;
    let roster = defaults::roster(agents);
    let has_default = roster
        .iter()
        .any(|(_, agent)| agent.get("default") == Some(&Value::Bool(true)));
    (roster.len() > 1 && agents.get("ownership").is_none() && !has_default).then(|| {
        Issue::new(
            "agents.ownership",
            "multi-agent rosters require agents.ownership=\"explicit\" or one legacy default=true marker; add agents.ownership=\"explicit\" or run openclaw doctor",
        )
    })
}

fn warnings(snapshot: &Snapshot) -> Vec<Issue> {
    let mut warnings = Vec::new();
    let agents = snapshot.document.resolved.get("agents");
    if agents.is_some_and(|agents| agents.get("list").is_some_and(Value::is_array)) {
        warnings.push(Issue::new(
            "agents.entries",
            "Moved agents.list to keyed agents.entries.",
        ));
        warnings.push(Issue::new(
            "agents.entries",
            "Preserved the first legacy agent's existing workspace.",
        ));
    }
    let ambient = |agents: &Value| {
        let named = |pointer: &str| agents.pointer(pointer).is_some_and(Value::is_string);
        defaults::roster(agents).len() > 1
            && agents.get("ownership").is_some()
            && !named("/defaults/heartbeat/agentId")
            && !named("/defaults/systemAgent/agentId")
    };
    if snapshot.is_valid() && agents.is_some_and(ambient) {
        warnings.push(Issue::new(
            "agents.defaults.heartbeat.agentId",
            "Multi-agent config has no ambient heartbeat owner; heartbeats stay disabled until agents.defaults.heartbeat.agentId or agents.defaults.systemAgent.agentId is set.",
        ));
    }
    warnings.extend(snapshot.document.missing_vars.iter().map(|(name, path)| {
        Issue::new(
            path.clone(),
            format!("Missing env var \"{name}\" - feature using this value will be unavailable"),
        )
    }));
    warnings
}

fn legacy_issues(resolved: &Value) -> Vec<Issue> {
    let port = resolved.pointer("/gateway/port").and_then(Value::as_f64);
    let outside = port.is_some_and(|port| !(1.0..=65535.0).contains(&port));
    let issue = Issue::new(
        "gateway.port",
        "gateway.port is outside the valid TCP range (1–65535) and will be removed to avoid startup failure. Run \"openclaw doctor --fix\".",
    );
    outside.then_some(issue).into_iter().collect()
}
