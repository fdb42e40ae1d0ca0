//! `config.set|patch|apply`: from what a client sends to files that say it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use wire::error::{ErrorCode, ErrorShape};

use super::super::json5;
use super::super::reload::{self, plan};
use super::super::schema::Schema;
use super::super::{ConfigDocument, Settings, edit, replace_private, schema};
use super::{ConfigApi, Snapshot, patch};
use crate::config::{defaults, document};

/// Patches below these need no hash: the last writer wins.
const HASHLESS: [&str; 1] = ["ui.prefs"];
const STALE: &str = "config changed since last load; re-run config.get and retry";

/// A write that is on disk.
#[derive(Debug)]
pub struct Written {
    /// What the client is answered.
    pub answer: Value,
    /// Whether a file changed: the configuration in force is then the old one still.
    pub changed: bool,
}

/// A file's next text.
struct Change {
    file: PathBuf,
    /// What it must still say when it is replaced; `None`: it must not exist.
    was: Option<String>,
    text: String,
}

/// What the next configuration is, and how it came about.
struct Next {
    source: Value,
    sent: Option<Sent>,
}

/// What a client sent for the whole file.
struct Sent {
    text: String,
    /// The file's tree, when the client says itself what comes from other files.
    tree: Option<Value>,
}

impl ConfigApi {
    /// Serves `config.set`, `config.patch` or `config.apply`; `params` has been checked against its schema.
    /// `installed`: what the installed plugins may be configured with, when there is somebody who knows.
    ///
    /// # Errors
    /// What the client is answered instead; then no file has changed.
    pub fn write(
        &self,
        method: &str,
        params: &Value,
        installed: Option<&Schema>,
        now_ms: u64,
    ) -> Result<Written, ErrorShape> {
        let _one = self.writing.lock();
        let snapshot = self.read();
        let base = params
            .get("baseHash")
            .and_then(Value::as_str)
            .map(str::trim)
            .filter(|hash| !hash.is_empty());
        let hashless = method == "config.patch" && base.is_none();
        if snapshot.document.exists && !hashless {
            match base {
                None => return refuse("config base hash required; re-run config.get and retry"),
                Some(base) if base != snapshot.hash => return refuse(STALE),
                Some(_) => {}
            }
        }
        let next = if method == "config.patch" {
            match self.patched(&snapshot, params, hashless)? {
                Some(next) => next,
                None => return Ok(self.unchanged(&snapshot)),
            }
        } else {
            self.replaced(method, &snapshot, params)?
        };
        let changes = self.changes(&snapshot, &next, installed)?;
        commit(&changes)?;
        let after = self.read();
        Ok(Written {
            answer: self.answer(method, params, &snapshot, &next, &after, now_ms),
            changed: !changes.is_empty(),
        })
    }

    fn patched(
        &self,
        snapshot: &Snapshot,
        params: &Value,
        hashless: bool,
    ) -> Result<Option<Next>, ErrorShape> {
        if !snapshot.is_valid() {
            let what = schema::summarize(&snapshot.issues);
            return Err(invalid(
                format!("{what}; fix (openclaw doctor) before patching"),
                &snapshot.issues,
            ));
        }
        let (sent, _) = parse(raw_of(params))?;
        if !sent.is_object() {
            return refuse("config.patch raw must be an object");
        }
        if hashless && !is_hashless_shape(&sent) {
            return refuse("config base hash required; re-run config.get and retry");
        }
        let replace = patch::replace_paths(params);
        if let Some(what) = patch::duplicate_id(&sent, Some(&snapshot.config), &replace, "") {
            return refuse(what);
        }
        let merged = patch::apply(&snapshot.source, &sent, &replace);
        let source = self
            .known()
            .hints
            .restore(&merged, &snapshot.config)
            .map_err(request)?;
        let runtime = patch::apply(&snapshot.config, &sent, &replace);
        let destroyed: Vec<String> = patch::destroyed(&snapshot.config, &sent, &runtime, "")
            .into_iter()
            .filter(|path| !replace.contains(path))
            .collect();
        if !destroyed.is_empty() {
            return refuse(format!(
                "config.patch would remove entries from array path(s): {}. Pass replacePaths with the exact path(s) when this is intentional, or use config.apply for full-config replacement.",
                destroyed.join(", ")
            ));
        }
        let changed = patch::changed_leaves(&snapshot.source, &source);
        let guarded: Vec<&str> = changed
            .iter()
            .map(String::as_str)
            .filter(|path| hashless && !is_hashless(path))
            .collect();
        if !guarded.is_empty() {
            return refuse(format!(
                "config base hash required for {}; re-run config.get and retry with baseHash",
                guarded.join(", ")
            ));
        }
        Ok((!changed.is_empty()).then_some(Next { source, sent: None }))
    }

    fn replaced(
        &self,
        method: &str,
        snapshot: &Snapshot,
        params: &Value,
    ) -> Result<Next, ErrorShape> {
        let (sent, text) = parse(raw_of(params))?;
        let tree = self
            .known()
            .hints
            .restore(&sent, &snapshot.config)
            .map_err(request)?;
        let includes = has_include(&tree);
        let restored = match includes {
            false => tree.clone(),
            true => {
                let whole = edit::rewrite(text, &tree);
                let document = ConfigDocument::with_text(&self.paths, &self.env, whole);
                if let Some((issue, _)) = document.fault() {
                    let issues = [issue.clone()];
                    return Err(invalid(schema::summarize(&issues), &issues));
                }
                document.resolved
            }
        };
        let source = match snapshot.is_valid() {
            true => patch::project(&snapshot.source, &snapshot.config, &restored),
            false => restored,
        };
        if method == "config.set" {
            let agents = |config: &Value| -> Vec<String> {
                let agents = config.get("agents").map(defaults::roster);
                agents
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(id, _)| crate::config::settings::normalize_agent_id(&id))
                    .collect()
            };
            let kept = agents(&source);
            let explicit = agents(&snapshot.document.resolved);
            let mut dropped: Vec<String> = explicit
                .into_iter()
                .filter(|id| !kept.contains(id))
                .collect();
            if !dropped.is_empty() {
                dropped.sort();
                return refuse(format!(
                    "config.set would remove existing agent entries: {}. Use the agents.delete RPC or `openclaw agents delete <id>` for intentional deletion.",
                    dropped.join(", ")
                ));
            }
        }
        Ok(Next {
            source,
            sent: Some(Sent {
                text: text.to_owned(),
                tree: includes.then_some(tree),
            }),
        })
    }

    /// The files that make `next` so, after every check that can be made here.
    fn changes(
        &self,
        snapshot: &Snapshot,
        next: &Next,
        installed: Option<&Schema>,
    ) -> Result<Vec<Change>, ErrorShape> {
        let document = &snapshot.document;
        let mut wanted = next.source.clone();
        drop_implied_roster(&mut wanted, &document.resolved);
        let read = document::substitute_all(&wanted, &document.env);
        let mut issues = self.check(&read);
        if let Some(installed) = installed.filter(|_| issues.is_empty()) {
            // The upstream runs with the file as it stands: what is wrong there by its own schema is not wrong.
            let known = installed.check(&snapshot.source);
            issues = installed.check(&defaults::with_roster(&read));
            issues.retain(|issue| !known.contains(issue));
        }
        if !issues.is_empty() {
            return Err(invalid(schema::summarize(&issues), &issues));
        }
        let mut changes = Vec::new();
        let mut carry = Carry {
            document,
            files: Vec::new(),
        };
        let tree = match next.sent.as_ref().and_then(|sent| sent.tree.clone()) {
            Some(tree) => tree,
            None => carry.value(
                &document.parsed,
                &document.resolved,
                &wanted,
                &mut Vec::new(),
            )?,
        };
        let raw = document.raw.as_deref().unwrap_or("{}\n");
        let text = match &next.sent {
            // The text that was sent is the file, but for secrets it does not show.
            Some(sent)
                if carry.files.is_empty() && says(&sent.text, &tree, &self.known().hints) =>
            {
                edit::rewrite(&sent.text, &tree)
            }
            _ => edit::rewrite(raw, &tree),
        };
        self.check_start(&text, carry.files.is_empty())?;
        if document.raw.as_deref() != Some(&text)
            && (tree != document.parsed || next.sent.is_some())
        {
            changes.push(Change {
                file: document.file.clone(),
                was: document.raw.clone(),
                text,
            });
        }
        changes.extend(carry.files);
        Ok(changes)
    }

    /// What the schema can't say but would keep this gateway from starting.
    fn check_start(&self, text: &str, whole: bool) -> Result<(), ErrorShape> {
        // With an included file that changes too, the text alone is not the configuration.
        if !whole {
            return Ok(());
        }
        let document = ConfigDocument::with_text(&self.paths, &self.env, text.to_owned());
        match Settings::read(&document, &self.paths) {
            Ok(_) => Ok(()),
            Err(error) => refuse(format!("invalid config: {}", error.what)),
        }
    }

    fn unchanged(&self, snapshot: &Snapshot) -> Written {
        Written {
            answer: json!({
                "ok": true,
                "noop": true,
                "changedPaths": [],
                "path": snapshot.document.file,
                "config": self.known().hints.redact(&snapshot.config),
            }),
            changed: false,
        }
    }

    fn answer(
        &self,
        method: &str,
        params: &Value,
        before: &Snapshot,
        next: &Next,
        after: &Snapshot,
        now_ms: u64,
    ) -> Value {
        let mut answer = Map::new();
        answer.insert("ok".to_owned(), json!(true));
        answer.insert("path".to_owned(), json!(after.document.file));
        answer.insert("hash".to_owned(), json!(after.hash));
        answer.insert(
            "config".to_owned(),
            self.known()
                .hints
                .redact(&defaults::with_roster(&next.source)),
        );
        if method == "config.set" {
            return Value::Object(answer);
        }
        let next_config = defaults::fill(&defaults::with_roster(&next.source), &self.paths);
        if method == "config.patch" {
            let changed = reload::changed_paths(&before.config, &next_config);
            answer.insert("changedPaths".to_owned(), json!(changed));
        }
        let plan = plan((&before.config, None), (&next_config, None));
        let off = next_config.pointer("/gateway/reload/mode") == Some(&json!("off"));
        let mut payload = Map::new();
        let mut put = |key: &str, value: Value| {
            payload.insert(key.to_owned(), value);
        };
        put("kind", json!(method.replace('.', "-")));
        put("status", json!("ok"));
        put("ts", json!(now_ms));
        for key in ["sessionKey", "deliveryContext", "threadId"] {
            if let Some(value) = params.get(key) {
                put(key, value.clone());
            }
        }
        put("message", params.get("note").cloned().unwrap_or_default());
        put(
            "doctorHint",
            json!(
                "Recommended follow-up: run openclaw doctor --non-interactive in a terminal or approvals-capable OpenClaw surface."
            ),
        );
        put(
            "stats",
            json!({
                "mode": method,
                "root": after.document.file,
                "requiresRestart": !plan.is_noop() && (plan.needs_restart() || off),
            }),
        );
        // Nobody is woken by it after a restart of this gateway, and it says so.
        answer.insert(
            "sentinel".to_owned(),
            json!({ "persisted": false, "payload": payload }),
        );
        Value::Object(answer)
    }
}

/// Carries a resolved tree back to the trees of the files: what did not change keeps its `${NAME}` and `$include`.
struct Carry<'a> {
    document: &'a ConfigDocument,
    /// Included files that change.
    files: Vec<Change>,
}

impl Carry<'_> {
    fn value(
        &mut self,
        written: &Value,
        resolved: &Value,
        next: &Value,
        at: &mut Vec<String>,
    ) -> Result<Value, ErrorShape> {
        if next == resolved || next == written {
            return Ok(written.clone());
        }
        match (written, resolved, next) {
            (Value::Object(members), _, _) if members.contains_key("$include") => {
                self.included(members, resolved, next, at)
            }
            (Value::Object(written), Value::Object(resolved), Value::Object(next)) => {
                let mut out = Map::new();
                // In the order of the file.
                for (key, value) in written {
                    let Some(wanted) = next.get(key) else {
                        continue;
                    };
                    at.push(key.clone());
                    let known = resolved.get(key).unwrap_or(value);
                    out.insert(key.clone(), self.value(value, known, wanted, at)?);
                    at.pop();
                }
                for (key, value) in next {
                    if !out.contains_key(key) {
                        out.insert(key.clone(), value.clone());
                    }
                }
                Ok(Value::Object(out))
            }
            (Value::Array(written), Value::Array(resolved), Value::Array(next))
                if written.len() == resolved.len() =>
            {
                let mut out = Vec::with_capacity(next.len());
                for (index, wanted) in next.iter().enumerate() {
                    let same = resolved.get(index) == Some(wanted);
                    let from = match same {
                        true => Some(index),
                        false => resolved.iter().position(|item| item == wanted),
                    };
                    let from = from.or_else(|| (index < resolved.len()).then_some(index));
                    out.push(match from {
                        Some(from) => {
                            at.push(from.to_string());
                            let item = self.value(&written[from], &resolved[from], wanted, at)?;
                            at.pop();
                            item
                        }
                        None => wanted.clone(),
                    });
                }
                Ok(Value::Array(out))
            }
            _ => Ok(next.clone()),
        }
    }

    /// A change of what another file holds goes into that file, when there is one alone that holds it.
    fn included(
        &mut self,
        members: &Map<String, Value>,
        resolved: &Value,
        next: &Value,
        at: &mut Vec<String>,
    ) -> Result<Value, ErrorShape> {
        let include = self
            .document
            .provenance
            .iter()
            .find(|include| include.path == *at);
        let target = include.and_then(|include| include.target_path.as_deref());
        if members.len() == 1
            && !at.is_empty()
            && let Some(target) = target
        {
            let change = self.write_to(target, resolved, next, at)?;
            self.files.push(change);
            return Ok(Value::Object(members.clone()));
        }
        // Beside an `$include`, what the file itself says is the file's, and so is what is new.
        let (Value::Object(known), Value::Object(next)) = (resolved, next) else {
            return Err(flattens(at));
        };
        let mut out = members.clone();
        for key in known.keys().filter(|key| !next.contains_key(*key)) {
            if out.shift_remove(key).is_none() {
                return Err(flattens(at));
            }
        }
        for (key, value) in next {
            match (members.get(key), known.get(key)) {
                (_, Some(known)) if known == value => {}
                (Some(written), Some(known)) => {
                    at.push(key.clone());
                    let value = self.value(written, known, value, at)?;
                    at.pop();
                    out.insert(key.clone(), value);
                }
                (None, None) if members.len() > 1 => {
                    out.insert(key.clone(), value.clone());
                }
                _ => return Err(flattens(at)),
            }
        }
        Ok(Value::Object(out))
    }

    fn write_to(
        &mut self,
        file: &Path,
        resolved: &Value,
        next: &Value,
        at: &mut Vec<String>,
    ) -> Result<Change, ErrorShape> {
        let failed = |what: String| {
            ErrorShape::new(
                ErrorCode::Unavailable,
                format!("{}: {what}", file.display()),
            )
        };
        let raw = document::read_text(file).map_err(|error| failed(error.to_string()))?;
        let (written, _) = json5::parse(&raw).map_err(|error| failed(error.message))?;
        let tree = self.value(&written, resolved, next, at)?;
        Ok(Change {
            file: file.to_owned(),
            text: edit::rewrite(&raw, &tree),
            was: Some(raw),
        })
    }
}

fn flattens(at: &[String]) -> ErrorShape {
    let place = if at.is_empty() {
        "<root>".to_owned()
    } else {
        at.join(".")
    };
    ErrorShape::new(
        ErrorCode::Unavailable,
        format!(
            "Error: Config write would flatten $include-owned config at {place}; edit that include file directly or remove the $include first.: code=CONFIG_INCLUDE_OWNERSHIP"
        ),
    )
}

/// Replaces the files, each after a look that nobody else changed it meanwhile. The state before is kept
/// beside it (`.bak`), and put back when a later file of the same write can't be replaced.
fn commit(changes: &[Change]) -> Result<(), ErrorShape> {
    for change in changes {
        let now = match document::read_text(&change.file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(unwritten(&change.file, &error)),
        };
        if now != change.was {
            return refuse(STALE);
        }
    }
    for (index, change) in changes.iter().enumerate() {
        if let Some(was) = &change.was {
            let mut backup = change.file.clone().into_os_string();
            backup.push(".bak");
            if let Err(error) = replace_private(Path::new(&backup), was.as_bytes()) {
                tracing::warn!(file = %change.file.display(), %error, "cannot keep a copy of the configuration as it was");
            }
        }
        if let Err(error) = replace_private(&change.file, change.text.as_bytes()) {
            for done in &changes[..index] {
                let back = done.was.as_deref().unwrap_or("{}\n");
                if let Err(error) = replace_private(&done.file, back.as_bytes()) {
                    tracing::error!(file = %done.file.display(), %error, "cannot put the configuration back; its copy is beside it (.bak)");
                }
            }
            return Err(unwritten(&change.file, &error));
        }
    }
    Ok(())
}

fn unwritten(file: &Path, error: &std::io::Error) -> ErrorShape {
    ErrorShape::new(
        ErrorCode::Unavailable,
        format!(
            "cannot write {}: {error}; nothing was changed. Make the file and its directory writable by the gateway's user",
            file.display()
        ),
    )
}

fn parse(raw: &str) -> Result<(Value, &str), ErrorShape> {
    match json5::parse(raw) {
        Ok((value, _)) => Ok((value, raw)),
        Err(error) => refuse(format!("SyntaxError: {}", error.message)),
    }
}

fn has_include(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            members.contains_key("$include") || members.values().any(has_include)
        }
        Value::Array(items) => items.iter().any(has_include),
        _ => false,
    }
}

fn raw_of(params: &Value) -> &str {
    params["raw"].as_str().unwrap_or_default()
}

/// Whether a sent text is this tree, where it shows no redacted mark.
fn says(text: &str, tree: &Value, hints: &crate::config::redact::Hints) -> bool {
    json5::parse(text)
        .ok()
        .and_then(|(sent, _)| hints.restore(&sent, tree).ok())
        .is_some_and(|sent| sent == *tree)
}

fn is_hashless(path: &str) -> bool {
    HASHLESS
        .iter()
        .any(|prefix| path == *prefix || path.starts_with(&format!("{prefix}.")))
}

/// Whether a patch goes down to what needs no hash without replacing anything on the way.
fn is_hashless_shape(sent: &Value) -> bool {
    HASHLESS.iter().all(|prefix| {
        let mut node = sent;
        for segment in prefix.split('.') {
            let Some(members) = node.as_object() else {
                return false;
            };
            match members.get(segment) {
                None => return true,
                Some(next) => node = next,
            }
        }
        node.is_object()
    })
}

/// The roster that a file without one stands for is not written into it.
fn drop_implied_roster(wanted: &mut Value, resolved: &Value) {
    let roster = |config: &Value| {
        config
            .get("agents")
            .is_some_and(|agents| agents.get("entries").is_some() || agents.get("list").is_some())
    };
    if roster(resolved) {
        return;
    }
    let Some(agents) = wanted.get_mut("agents").and_then(Value::as_object_mut) else {
        return;
    };
    if agents.get("entries") == Some(&json!({ "main": {} })) {
        agents.shift_remove("entries");
    }
    if agents.is_empty()
        && resolved.get("agents").is_none()
        && let Some(root) = wanted.as_object_mut()
    {
        root.shift_remove("agents");
    }
}

fn refuse<T>(what: impl Into<String>) -> Result<T, ErrorShape> {
    Err(request(what.into()))
}

fn request(what: String) -> ErrorShape {
    ErrorShape::new(ErrorCode::InvalidRequest, what)
}

fn invalid(what: String, issues: &[crate::config::Issue]) -> ErrorShape {
    request(what).with_details(json!({ "issues": issues }))
}
