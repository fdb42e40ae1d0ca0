//! SecretRef objects `{source, provider, id}`, which stand where a secret would: `env`, `file` and `exec` are resolved here.
//!
//! Source: src/secrets/resolve.ts and src/config/types.secrets.ts at 2026.9.6.

mod exec;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use super::{Env, Paths, Secret};

const DEFAULT_PROVIDER: &str = "default";
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Programs that are asked at once.
const PROGRAMS_MAX: usize = 4;

/// A reference to a secret kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SecretRef {
    source: String,
    provider: String,
    id: String,
}

/// What is needed to follow references: the configuration that names the providers, and its surroundings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keepers<'a> {
    pub(crate) config: &'a Value,
    pub(crate) env: &'a Env,
    pub(crate) paths: &'a Paths,
}

/// What the references of a configuration stand for, as of one reading.
#[derive(Debug, Default)]
pub(crate) struct Secrets(BTreeMap<SecretRef, Result<Secret, String>>);

impl SecretRef {
    /// The reference a credential field holds, if it is one: an object, or `$NAME`.
    pub(crate) fn of(config: &Value, value: &Value) -> Option<Self> {
        if let Some(name) = value
            .as_str()
            .map(str::trim)
            .and_then(|text| text.strip_prefix('$'))
        {
            let provider = default_provider(config, "env");
            return is_env_id(name).then(|| Self {
                source: "env".to_owned(),
                provider,
                id: name.to_owned(),
            });
        }
        Self::object(config, value)
    }

    fn object(config: &Value, value: &Value) -> Option<Self> {
        let fields = value.as_object()?;
        let is_alone = fields
            .keys()
            .all(|key| matches!(key.as_str(), "source" | "provider" | "id"));
        let source = fields.get("source")?.as_str()?;
        let id = fields
            .get("id")?
            .as_str()
            .filter(|id| !id.trim().is_empty())?;
        let known = matches!(source, "env" | "file" | "exec" | "store");
        let provider = match fields.get("provider") {
            Some(provider) => provider.as_str()?.to_owned(),
            None => default_provider(config, source),
        };
        (known && is_alone).then(|| Self {
            source: source.to_owned(),
            provider,
            id: id.to_owned(),
        })
    }

    /// Every reference object in this tree. `$NAME` is one only where a secret is meant, which a tree does not tell.
    pub(crate) fn within(config: &Value, tree: &Value, found: &mut BTreeSet<Self>) {
        if let Some(reference) = Self::object(config, tree) {
            found.insert(reference);
            return;
        }
        match tree {
            Value::Object(fields) => fields
                .values()
                .for_each(|value| Self::within(config, value, found)),
            Value::Array(values) => values
                .iter()
                .for_each(|value| Self::within(config, value, found)),
            _ => {}
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// To follow it a program is started.
    pub(crate) fn is_kept_by_a_program(&self) -> bool {
        self.source == "exec"
    }

    pub(crate) fn label(&self) -> String {
        format!("{}:{}:{}", self.source, self.provider, self.id)
    }

    /// The secret. Blocks, for a program as long as its `timeoutMs`. Errors say what is missing and never contain a value.
    pub(crate) fn resolve(&self, keepers: Keepers<'_>) -> Result<Secret, String> {
        match self.provider(keepers.config)? {
            Some(settings) if self.source == "exec" => {
                let ids = [self.id.as_str()];
                let asked = exec::ask(&self.provider, settings, &ids, keepers);
                let text = asked.and_then(|mut answers| match answers.pop() {
                    Some(answer) => answer,
                    None => Err("the program gave no answer".to_owned()),
                });
                self.filled(text?)
            }
            settings => self.read(settings, keepers),
        }
    }

    /// The settings of its provider. `None`: one that is built in.
    fn provider<'a>(&self, config: &'a Value) -> Result<Option<&'a Value>, String> {
        let configured = config
            .get("secrets")
            .and_then(|secrets| secrets.get("providers"))
            .and_then(|providers| providers.get(&self.provider));
        let source = configured
            .and_then(|settings| settings.get("source"))
            .and_then(Value::as_str);
        let is_built_in = matches!(self.source.as_str(), "env" | "store")
            && source != Some(&self.source)
            && self.provider == default_provider(config, &self.source);
        match (configured, source) {
            _ if is_built_in => Ok(None),
            (None, _) => Err(format!(
                "Secret provider \"{}\" is not configured (ref: {}).",
                self.provider,
                self.label()
            )),
            (Some(settings), Some(source)) if source == self.source => Ok(Some(settings)),
            (_, source) => Err(format!(
                "Secret provider \"{}\" has source \"{}\" but ref requests \"{}\".",
                self.provider,
                source.unwrap_or_default(),
                self.source
            )),
        }
    }

    fn read(&self, settings: Option<&Value>, keepers: Keepers<'_>) -> Result<Secret, String> {
        let text = match (self.source.as_str(), settings) {
            ("env", settings) => {
                let allowlist = settings.and_then(|settings| settings.get("allowlist"));
                self.read_env(keepers.env, allowlist)?
            }
            ("file", Some(settings)) => self.read_file(settings, keepers.paths)?,
            _ => {
                return Err(format!(
                    "secret source \"{}\" is resolved by OpenClaw only (ref: {})",
                    self.source,
                    self.label()
                ));
            }
        };
        self.filled(text)
    }

    fn filled(&self, text: String) -> Result<Secret, String> {
        match text.trim() {
            "" => Err(format!("{} resolved to an empty value", self.label())),
            secret => Ok(Secret::new(secret)),
        }
    }

    fn read_env(&self, env: &Env, allowlist: Option<&Value>) -> Result<String, String> {
        let allowed = allowlist.and_then(Value::as_array).is_none_or(|names| {
            names
                .iter()
                .any(|name| name.as_str() == Some(self.id.as_str()))
        });
        if !allowed {
            return Err(format!(
                "Environment variable \"{}\" is not allowlisted in secrets.providers.{}.allowlist.",
                self.id, self.provider
            ));
        }
        match env.trimmed(&self.id) {
            Some(_) => Ok(env.get(&self.id).unwrap_or_default().to_owned()),
            None => Err(format!(
                "Environment variable \"{}\" is missing or empty.",
                self.id
            )),
        }
    }

    fn read_file(&self, provider: &Value, paths: &Paths) -> Result<String, String> {
        let path = provider
            .get("path")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let file = paths.user_path(path);
        let label = format!("secrets.providers.{}.path", self.provider);
        let failed = |what: String| format!("{label} {}: {what}", file.display());
        let meta = file
            .symlink_metadata()
            .map_err(|error| failed(error.to_string()))?;
        if !meta.is_file() {
            return Err(failed("must be a regular file, not a link".to_owned()));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(failed(
                "must be readable by its owner only (chmod 600)".to_owned(),
            ));
        }
        if meta.nlink() > 1 {
            return Err(failed(
                "must not be hardlinked: copy it into a new private file and name that".to_owned(),
            ));
        }
        // SAFETY of trust, not memory: a secret another user may replace is no secret.
        if meta.uid() != current_uid() && meta.uid() != 0 {
            return Err(failed(
                "must belong to the user that runs the gateway".to_owned(),
            ));
        }
        let most = provider
            .get("maxBytes")
            .and_then(Value::as_u64)
            .unwrap_or(FILE_BYTES_MAX);
        if meta.len() > most {
            return Err(failed(format!("is larger than {most} bytes")));
        }
        let text = std::fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        if provider.get("mode").and_then(Value::as_str) == Some("singleValue") {
            if self.id != "value" {
                return Err(format!(
                    "singleValue file provider \"{}\" expects ref id \"value\".",
                    self.provider
                ));
            }
            let text = text.strip_suffix('\n').unwrap_or(text);
            return Ok(text.strip_suffix('\r').unwrap_or(text).to_owned());
        }
        let tree: Value = serde_json::from_str(text)
            .map_err(|error| failed(format!("is not JSON (line {})", error.line())))?;
        if !tree.is_object() {
            return Err(format!(
                "File provider \"{}\" payload is not a JSON object.",
                self.provider
            ));
        }
        match tree.pointer(&self.id).filter(|_| self.id.starts_with('/')) {
            Some(Value::String(secret)) => Ok(secret.clone()),
            Some(_) => Err(failed(format!("the value at {} is not a string", self.id))),
            None => Err(failed(format!("JSON pointer {} does not exist", self.id))),
        }
    }
}

impl Secrets {
    /// Follows these references; each program is asked once for all that it keeps. Blocks.
    pub(crate) fn resolve(wanted: BTreeSet<SecretRef>, keepers: Keepers<'_>) -> Self {
        let mut found = BTreeMap::new();
        let mut asked: BTreeMap<String, Vec<SecretRef>> = BTreeMap::new();
        for reference in wanted {
            if reference.source == "exec" {
                let batch = asked.entry(reference.provider.clone()).or_default();
                batch.push(reference);
            } else {
                let secret = reference.resolve(keepers);
                found.insert(reference, secret);
            }
        }
        let batches: Vec<Vec<SecretRef>> = asked.into_values().collect();
        for at_once in batches.chunks(PROGRAMS_MAX) {
            let answers = std::thread::scope(|scope| {
                let running: Vec<_> = at_once
                    .iter()
                    .map(|batch| scope.spawn(move || ask(batch, keepers)))
                    .collect();
                let ended = running.into_iter().map(std::thread::ScopedJoinHandle::join);
                ended.collect::<Vec<_>>()
            });
            for (batch, answers) in at_once.iter().zip(answers) {
                let answers = answers.unwrap_or_else(|_| {
                    vec![Err("asking for it failed within the gateway".to_owned()); batch.len()]
                });
                found.extend(batch.iter().cloned().zip(answers));
            }
        }
        Self(found)
    }

    /// What a credential field holds, when that is a reference: its secret, or why there is none.
    pub(crate) fn get(&self, config: &Value, value: &Value) -> Option<Result<Secret, String>> {
        Some(self.followed(&SecretRef::of(config, value)?))
    }

    /// What a reference stands for, or why there is nothing.
    pub(crate) fn followed(&self, reference: &SecretRef) -> Result<Secret, String> {
        self.0.get(reference).cloned().unwrap_or_else(|| {
            Err(format!(
                "{} was not resolved; a reload does it",
                reference.label()
            ))
        })
    }

    /// Puts the secrets in the place of the reference objects of this tree. One that could not be resolved stays.
    pub(crate) fn fill(&self, config: &Value, tree: &mut Value) {
        if let Some(reference) = SecretRef::object(config, tree) {
            if let Some(Ok(secret)) = self.0.get(&reference) {
                *tree = Value::String(secret.expose().to_owned());
            }
            return;
        }
        match tree {
            Value::Object(fields) => fields
                .values_mut()
                .for_each(|value| self.fill(config, value)),
            Value::Array(values) => values.iter_mut().for_each(|value| self.fill(config, value)),
            _ => {}
        }
    }

    /// Where a reference cannot be followed now: what it stood for `before`, if it is kept at the same place. A vault that is locked for
    /// a moment stops nothing that runs. The labels of those that stay so, and why.
    pub(crate) fn or_as_before(
        &mut self,
        before: &Self,
        (old, new): (&Value, &Value),
    ) -> Vec<(String, String)> {
        let keeper = |config: &Value, reference: &SecretRef| {
            let providers = config.get("secrets")?.get("providers")?;
            providers.get(&reference.provider).cloned()
        };
        let mut stale = Vec::new();
        for (reference, secret) in &mut self.0 {
            if let Err(why) = secret
                && let Some(Ok(known)) = before.0.get(reference)
                && keeper(old, reference) == keeper(new, reference)
            {
                stale.push((reference.label(), std::mem::take(why)));
                *secret = Ok(known.clone());
            }
        }
        stale
    }

    /// Those that could be resolved.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Secret> {
        self.0.values().filter_map(|secret| secret.as_ref().ok())
    }

    /// Those that could not be resolved, and why.
    pub(crate) fn failed(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().filter_map(|(reference, secret)| {
            let why = secret.as_ref().err()?;
            Some((reference.label(), why.as_str()))
        })
    }
}

/// The secrets that one program keeps, in the order of the references.
fn ask(batch: &[SecretRef], keepers: Keepers<'_>) -> Vec<Result<Secret, String>> {
    let ids: Vec<&str> = batch
        .iter()
        .map(|reference| reference.id.as_str())
        .collect();
    let settings = batch
        .first()
        .map_or(Ok(None), |first| first.provider(keepers.config));
    let asked = settings.and_then(|settings| {
        let first = batch.first().map_or("", |first| &first.provider);
        exec::ask(first, settings.unwrap_or(&Value::Null), &ids, keepers)
    });
    match asked {
        Ok(answers) => batch
            .iter()
            .zip(answers)
            .map(|(reference, answer)| reference.filled(answer?))
            .collect(),
        Err(why) => vec![Err(why); batch.len()],
    }
}

fn default_provider(config: &Value, source: &str) -> String {
    config
        .get("secrets")
        .and_then(|secrets| secrets.get("defaults"))
        .and_then(|defaults| defaults.get(source))
        .and_then(Value::as_str)
        .unwrap_or(DEFAULT_PROVIDER)
        .to_owned()
}

fn is_env_id(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes[0].is_ascii_uppercase()
        && bytes
            .iter()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
}

#[allow(
    unsafe_code,
    reason = "the C library's geteuid has no safe wrapper in our dependencies"
)]
fn current_uid() -> u32 {
    // SAFETY: geteuid takes no arguments, cannot fail and touches no memory of ours.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_of_a_tree_are_followed_and_put_in_their_place() {
        let env = Env::from_pairs([("HOME", "/h"), ("KEY", " k "), ("OTHER", "o")]);
        let paths = Paths::resolve(&env).expect("paths");
        let config = json!({ "secrets": {
            "providers": {
                "some": { "source": "env", "allowlist": ["KEY"] },
                "default": { "source": "file", "path": "/absent" },
            },
        } });
        let keepers = Keepers {
            config: &config,
            env: &env,
            paths: &paths,
        };
        let mut tree = json!({
            "a": { "source": "env", "provider": "some", "id": "KEY" },
            "list": [{ "source": "env", "id": "OTHER" }, "$OTHER"],
            "denied": { "source": "env", "provider": "some", "id": "OTHER" },
            "nobody": { "source": "exec", "provider": "vault", "id": "x" },
            "theirs": { "source": "store", "id": "KEY" },
            "other kind": { "source": "exec", "provider": "some", "id": "x" },
            "no reference": { "source": "env", "id": "KEY", "more": 1 },
        });
        let before = tree.clone();
        let mut wanted = BTreeSet::new();
        SecretRef::within(&config, &tree, &mut wanted);
        assert_eq!(wanted.len(), 6);
        let secrets = Secrets::resolve(wanted, keepers);
        let failed: Vec<(String, &str)> = secrets.failed().collect();
        let failed: Vec<(&str, &str)> = failed
            .iter()
            .map(|(label, why)| (label.as_str(), *why))
            .collect();
        assert_eq!(
            failed,
            [
                (
                    "env:some:OTHER",
                    "Environment variable \"OTHER\" is not allowlisted in secrets.providers.some.allowlist."
                ),
                (
                    "exec:some:x",
                    "Secret provider \"some\" has source \"env\" but ref requests \"exec\"."
                ),
                (
                    "exec:vault:x",
                    "Secret provider \"vault\" is not configured (ref: exec:vault:x)."
                ),
                (
                    "store:default:KEY",
                    "secret source \"store\" is resolved by OpenClaw only (ref: store:default:KEY)"
                ),
            ]
        );
        secrets.fill(&config, &mut tree);
        assert_eq!(tree["a"], "k");
        assert_eq!(tree["list"], json!(["o", "$OTHER"]));
        for key in ["denied", "nobody", "theirs", "other kind", "no reference"] {
            assert_eq!(tree[key], before[key], "{key}");
        }
        assert!(!format!("{secrets:?}").contains("\"k\""));

        // Its value is gone: it stays what it was, unless it is kept elsewhere now.
        let key = json!({ "source": "env", "provider": "some", "id": "KEY" });
        let without = Env::from_pairs([("HOME", "/h")]);
        let keepers = Keepers {
            env: &without,
            ..keepers
        };
        let again = || {
            let mut wanted = BTreeSet::new();
            SecretRef::within(&config, &key, &mut wanted);
            Secrets::resolve(wanted, keepers)
        };
        let mut new = again();
        let stale = new.or_as_before(&secrets, (&config, &config));
        assert_eq!(stale.len(), 1);
        let value = new.get(&config, &key).and_then(Result::ok);
        assert_eq!(value.as_ref().map(Secret::expose), Some("k"));
        let mut other = config.clone();
        other["secrets"]["providers"]["some"] = json!({ "source": "env" });
        let mut new = again();
        assert!(new.or_as_before(&secrets, (&config, &other)).is_empty());
        assert!(new.get(&config, &key).is_some_and(|value| value.is_err()));
    }
}
