//! The approvals document: what may run on this machine, whatever `openclaw.json` allows.
//!
//! The original keeps it in its own database, which is never opened here; ours is `openclaw-rs/exec-approvals.json` in the
//! state directory, or `exec-approvals.json` there if that file of older releases is still in use. Its shape and its rules
//! are the original's: src/infra/exec-approvals-config.ts, -resolver.ts and -allow-always.ts at 2026.9.6.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::allowlist::{CWD_BOUND, sha256};
use super::policy::{Ask, Security};
use crate::clock;
use crate::config;

const NAME: &str = "exec-approvals.json";
const BYTES_MAX: u64 = 8 << 20;

/// The document as it is now.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) path: PathBuf,
    pub(super) exists: bool,
    /// Normalised: ids given, policies that mean nothing taken out.
    pub(super) file: Value,
    pub(super) hash: String,
    /// Why it can't be used: nothing runs then, and nothing is written over it.
    pub(super) fault: Option<String>,
}

/// What holds for one agent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rules {
    pub(super) security: Security,
    pub(super) ask: Ask,
    /// When nobody answers.
    pub(super) ask_fallback: Security,
    pub(super) allowlist: Vec<Value>,
}

impl Rules {
    /// Whether what was judged by these rules may still run by `now`: entries may have come, none may have gone.
    pub(super) fn still_hold(&self, now: &Self) -> bool {
        let key = |entry: &Value| (entry["pattern"].clone(), entry["argPattern"].clone());
        (self.security, self.ask, self.ask_fallback) == (now.security, now.ask, now.ask_fallback)
            && self
                .allowlist
                .iter()
                .all(|entry| now.allowlist.iter().any(|other| key(other) == key(entry)))
    }
}

impl Document {
    /// Where the document is.
    pub(super) fn place(state_dir: &Path) -> PathBuf {
        let legacy = state_dir.join(NAME);
        match legacy.exists() {
            true => legacy,
            false => state_dir.join("openclaw-rs").join(NAME),
        }
    }

    pub(super) fn read(state_dir: &Path) -> Self {
        let path = Self::place(state_dir);
        let missing = |path: PathBuf, fault: Option<String>| Self {
            path,
            exists: false,
            file: normalized(&json!({ "version": 1 })),
            hash: format!("missing:{}", sha256(b"")),
            fault,
        };
        let raw = match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > BYTES_MAX => {
                Err(format!("it is larger than {BYTES_MAX} bytes"))
            }
            Ok(_) => std::fs::read_to_string(&path).map_err(|error| error.to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let database = state_dir.join("state").join("openclaw.sqlite");
                let fault = database.exists().then(|| {
                    format!(
                        "OpenClaw has its approvals in {}, which this gateway does not open. Put them into {} (`openclaw approvals get --json | jq .file`), or {{\"version\":1}} if there are none",
                        database.display(),
                        path.display()
                    )
                });
                return missing(path, fault);
            }
            Err(error) => Err(error.to_string()),
        };
        let (raw, parsed) = match raw {
            Ok(raw) => {
                let parsed = serde_json::from_str::<Value>(&raw).map_err(|error| error.to_string());
                (
                    raw,
                    parsed.and_then(|parsed| checked(&parsed).map(|()| parsed)),
                )
            }
            Err(error) => (String::new(), Err(error)),
        };
        match parsed {
            Ok(parsed) => Self {
                path,
                exists: true,
                file: normalized(&parsed),
                hash: sha256(raw.as_bytes()),
                fault: None,
            },
            Err(why) => Self {
                exists: true,
                hash: sha256(raw.as_bytes()),
                file: normalized(&json!({
                    "version": 1, "defaults": { "security": "deny", "ask": "off", "askFallback": "deny" },
                })),
                fault: Some(format!(
                    "{} can't be used: {why}. Correct it or remove it",
                    path.display()
                )),
                path,
            },
        }
    }

    /// # Errors
    /// Why it was not written; the old one is untouched.
    pub(super) fn write(&self, file: &Value) -> Result<(), String> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let text = format!(
            "{}\n",
            serde_json::to_string_pretty(file).unwrap_or_default()
        );
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        config::create_private_dir(dir)
            .and_then(|()| config::replace_private(&self.path, text.as_bytes()))
            .map_err(|error| format!("{} can't be written: {error}", self.path.display()))
    }

    /// What holds for an agent; `security` and `ask` where the document says nothing.
    pub(super) fn rules(&self, agent: &str, security: Security, ask: Ask) -> Rules {
        if self.fault.is_some() {
            return Rules {
                security: Security::Deny,
                ask: Ask::Off,
                ask_fallback: Security::Deny,
                allowlist: Vec::new(),
            };
        }
        let own = &self.file["agents"][agent];
        let every = &self.file["agents"]["*"];
        let word = |key: &str| {
            let mut scopes = [own, every, &self.file["defaults"]].into_iter();
            scopes.find_map(|scope| scope.get(key)?.as_str())
        };
        let list = |scope: &Value| scope["allowlist"].as_array().cloned().unwrap_or_default();
        let mut allowlist = list(every);
        allowlist.extend(list(own));
        Rules {
            security: word("security").and_then(Security::of).unwrap_or(security),
            ask: word("ask").and_then(Ask::of).unwrap_or(ask),
            ask_fallback: word("askFallback")
                .and_then(Security::of)
                .unwrap_or(Security::Deny),
            allowlist,
        }
    }

    /// `exec.approvals.get`.
    pub(super) fn answer(&self) -> Value {
        let rules = self.rules("\0", Security::Full, Ask::Off);
        let defaults = &self.file["defaults"];
        json!({
            "path": self.path.display().to_string(),
            "exists": self.exists,
            "file": without_token(&self.file),
            "hash": self.hash,
            "resolvedDefaults": {
                "security": defaults["security"].as_str().unwrap_or(rules.security.as_str()),
                "ask": defaults["ask"].as_str().unwrap_or(rules.ask.as_str()),
                "askFallback": defaults["askFallback"].as_str().unwrap_or(Security::Deny.as_str()),
                "autoAllowSkills": defaults["autoAllowSkills"] == true,
            },
        })
    }

    /// The document with entries that allow a line for ever.
    pub(super) fn allowing(
        &self,
        agent: &str,
        entries: &[(String, String)],
        command: &str,
    ) -> Value {
        let mut file = self.file.clone();
        let own = agent_of(&mut file, agent);
        let mut list = own["allowlist"].as_array().cloned().unwrap_or_default();
        let text = format!("=node-command:{}", &sha256(command.trim().as_bytes())[..16]);
        let all = entries
            .iter()
            .map(|(pattern, arguments)| (pattern.clone(), Some(arguments.clone())))
            .chain([(text, None)]);
        // Entries that older releases made do not count any more.
        list.retain(|entry| {
            let is_bound = entry["argPattern"]
                .as_str()
                .is_some_and(|bound| bound.starts_with(CWD_BOUND));
            let is_replaced = entries
                .iter()
                .any(|(pattern, _)| entry["pattern"] == pattern.as_str());
            !(is_replaced && entry["source"] == "allow-always" && !is_bound)
        });
        for (pattern, arguments) in all {
            let known = list.iter_mut().find(|entry| {
                entry["pattern"] == pattern.as_str()
                    && entry["argPattern"].as_str() == arguments.as_deref()
            });
            match known {
                Some(entry) => {
                    entry["source"] = json!("allow-always");
                    entry["lastUsedAt"] = json!(clock::now_ms());
                }
                None => {
                    let mut entry =
                        json!({ "id": uuid::Uuid::new_v4().to_string(), "pattern": pattern });
                    if let Some(arguments) = arguments {
                        entry["argPattern"] = json!(arguments);
                    }
                    entry["source"] = json!("allow-always");
                    entry["lastUsedAt"] = json!(clock::now_ms());
                    list.push(entry);
                }
            }
        }
        own["allowlist"] = Value::Array(list);
        file
    }

    /// The document with a note of when entries were last used; `None` when none was.
    pub(super) fn used(
        &self,
        agent: &str,
        entries: &[Value],
        command: &str,
        resolved: Option<&str>,
    ) -> Option<Value> {
        let mut file = self.file.clone();
        let mut is_changed = false;
        for scope in ["*", agent] {
            let list = file["agents"]
                .get_mut(scope)
                .and_then(|scope| scope.get_mut("allowlist")?.as_array_mut());
            for entry in list.into_iter().flatten() {
                let is_used = entries.iter().any(|used| {
                    used["pattern"] == entry["pattern"] && used["argPattern"] == entry["argPattern"]
                });
                if !is_used {
                    continue;
                }
                is_changed = true;
                entry["lastUsedAt"] = json!(clock::now_ms());
                let is_hashed = entry["argPattern"]
                    .as_str()
                    .is_some_and(|bound| bound.starts_with("sha256:"));
                if let Some(fields) = entry.as_object_mut() {
                    match is_hashed {
                        true => drop(fields.shift_remove("lastUsedCommand")),
                        false => drop(fields.insert("lastUsedCommand".to_owned(), json!(command))),
                    }
                    if let Some(resolved) = resolved {
                        fields.insert("lastResolvedPath".to_owned(), json!(resolved));
                    }
                }
            }
        }
        is_changed.then_some(file)
    }
}

fn agent_of<'a>(file: &'a mut Value, agent: &str) -> &'a mut Value {
    if !file["agents"].is_object() {
        file["agents"] = json!({});
    }
    let own = &mut file["agents"][agent];
    if !own.is_object() {
        *own = json!({});
    }
    own
}

fn without_token(file: &Value) -> Value {
    let mut file = file.clone();
    let path = file["socket"]["path"].clone();
    if let Some(fields) = file.as_object_mut() {
        match path.is_string() {
            true => drop(fields.insert("socket".to_owned(), json!({ "path": path }))),
            false => drop(fields.shift_remove("socket")),
        }
    }
    file
}

/// What makes a document unusable, as the original's schema has it.
pub(super) fn checked(file: &Value) -> Result<(), String> {
    let expected = |what: &str, kind: &str| Err(format!("{what}: expected {kind}"));
    let Some(fields) = file.as_object() else {
        return expected("document", "an object");
    };
    if fields.get("version") != Some(&json!(1)) {
        return expected("version", "a supported value");
    }
    let policy = |what: &str, scope: &Value| -> Result<(), String> {
        if !scope.is_object() {
            return expected(what, "an object");
        }
        for (key, is_known) in [
            (
                "security",
                (|word| matches!(word, "allowlist" | "full" | "deny")) as fn(&str) -> bool,
            ),
            ("ask", |word| matches!(word, "always" | "off" | "on-miss")),
            ("askFallback", |word| {
                matches!(word, "allowlist" | "full" | "deny")
            }),
        ] {
            match scope.get(key) {
                None => {}
                Some(value) if value.as_str().is_some_and(is_known) => {}
                Some(_) => return expected(&format!("{what}.{key}"), "a supported value"),
            }
        }
        match scope.get("autoAllowSkills") {
            None | Some(Value::Bool(_)) => Ok(()),
            Some(_) => expected(&format!("{what}.autoAllowSkills"), "a boolean"),
        }
    };
    if let Some(defaults) = fields.get("defaults") {
        policy("defaults", defaults)?;
    }
    let agents = match fields.get("agents") {
        None => return Ok(()),
        Some(Value::Object(agents)) => agents,
        Some(_) => return expected("agents", "an object"),
    };
    for (at, agent) in agents.values().enumerate() {
        let what = format!("agents entry #{}", at + 1);
        policy(&what, agent)?;
        match agent.get("allowlist") {
            None => {}
            Some(Value::Array(list)) => {
                let is_entry = |entry: &Value| {
                    let pattern = entry.as_str().or_else(|| entry.get("pattern")?.as_str());
                    let texts = [
                        "id",
                        "source",
                        "commandText",
                        "argPattern",
                        "lastUsedCommand",
                        "lastResolvedPath",
                    ];
                    pattern.is_some_and(|pattern| !pattern.trim().is_empty())
                        && texts
                            .iter()
                            .all(|key| entry.get(key).is_none_or(Value::is_string))
                        && entry.get("lastUsedAt").is_none_or(Value::is_number)
                };
                if let Some(bad) = list.iter().position(|entry| !is_entry(entry)) {
                    return expected(
                        &format!("{what}.allowlist[{bad}]"),
                        "a non-empty string or an object with a non-empty pattern",
                    );
                }
            }
            Some(_) => return expected(&format!("{what}.allowlist"), "an array"),
        }
    }
    Ok(())
}

/// The document as it is kept: `agents.default` is `main`, every entry has an id, and no command's text is in it.
pub(super) fn normalized(file: &Value) -> Value {
    let mut out = Map::new();
    out.insert("version".to_owned(), json!(1));
    if let Some(socket) = file.get("socket").filter(|socket| socket.is_object()) {
        out.insert("socket".to_owned(), socket.clone());
    }
    let defaults = file.get("defaults").filter(|defaults| defaults.is_object());
    out.insert(
        "defaults".to_owned(),
        defaults.cloned().unwrap_or_else(|| json!({})),
    );
    let mut agents = file
        .get("agents")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    if let Some(legacy) = agents.shift_remove("default") {
        let main = agents.entry("main").or_insert_with(|| json!({}));
        merge(main, &legacy);
    }
    for agent in agents.values_mut() {
        if let Some(list) = agent.get_mut("allowlist").and_then(Value::as_array_mut) {
            for entry in list.iter_mut() {
                if let Some(pattern) = entry.as_str() {
                    *entry = json!({ "pattern": pattern.trim() });
                }
                if let Some(fields) = entry.as_object_mut() {
                    fields.shift_remove("commandText");
                    let has_id = fields
                        .get("id")
                        .and_then(Value::as_str)
                        .is_some_and(|id| !id.is_empty());
                    if !has_id {
                        fields.insert("id".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
                    }
                }
            }
        }
    }
    out.insert("agents".to_owned(), Value::Object(agents));
    // What we do not know stays.
    for (key, value) in file.as_object().into_iter().flatten() {
        out.entry(key.clone()).or_insert_with(|| value.clone());
    }
    Value::Object(out)
}

fn merge(into: &mut Value, legacy: &Value) {
    for (key, value) in legacy.as_object().into_iter().flatten() {
        if key == "allowlist" {
            let mut list = into["allowlist"].as_array().cloned().unwrap_or_default();
            list.extend(value.as_array().cloned().unwrap_or_default());
            into["allowlist"] = Value::Array(list);
        } else if into.get(key).is_none() {
            into[key] = value.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn state(document: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        if let Some(document) = document {
            std::fs::create_dir(dir.path().join("openclaw-rs")).expect("made");
            std::fs::write(dir.path().join("openclaw-rs").join(NAME), document).expect("written");
        }
        dir
    }

    #[test]
    fn the_narrowest_word_counts_and_lists_add_up() {
        let dir = state(Some(
            r#"{"version":1,"defaults":{"security":"allowlist","ask":"on-miss"},"agents":{"*":{"ask":"always","allowlist":["a"]},"main":{"security":"full","allowlist":[{"pattern":"b"}]},"default":{"askFallback":"full","allowlist":["c"]}}}"#,
        ));
        let document = Document::read(dir.path());
        let rules = document.rules("main", Security::Deny, Ask::Off);
        assert_eq!(
            (rules.security, rules.ask, rules.ask_fallback),
            (Security::Full, Ask::Always, Security::Full)
        );
        let patterns: Vec<&str> = rules
            .allowlist
            .iter()
            .filter_map(|entry| entry["pattern"].as_str())
            .collect();
        assert_eq!(patterns, ["a", "b", "c"]);
        let other = document.rules("other", Security::Deny, Ask::Off);
        assert_eq!(
            (other.security, other.ask_fallback),
            (Security::Allowlist, Security::Deny)
        );
        let none = Document::read(state(None).path()).rules("main", Security::Full, Ask::Off);
        assert_eq!((none.security, none.ask), (Security::Full, Ask::Off));
    }

    #[test]
    fn what_can_t_be_read_refuses_everything_and_is_not_written_over() {
        for text in [
            "{",
            "[]",
            "{}",
            r#"{"version":2}"#,
            r#"{"version":1,"defaults":{"security":"fulll"}}"#,
            r#"{"version":1,"agents":{"main":{"allowlist":[{"pattern":" "}]}}}"#,
            r#"{"version":1,"agents":[]}"#,
        ] {
            let dir = state(Some(text));
            let document = Document::read(dir.path());
            assert!(document.fault.is_some(), "{text}");
            assert_eq!(
                document.rules("main", Security::Full, Ask::Off).security,
                Security::Deny
            );
            assert!(document.write(&json!({ "version": 1 })).is_err());
            let kept =
                std::fs::read_to_string(dir.path().join("openclaw-rs").join(NAME)).expect("read");
            assert_eq!(kept, text);
        }
    }

    #[test]
    fn another_s_approvals_are_not_taken_for_none() {
        let dir = state(None);
        std::fs::create_dir(dir.path().join("state")).expect("made");
        std::fs::write(dir.path().join("state").join("openclaw.sqlite"), "").expect("written");
        let document = Document::read(dir.path());
        assert_eq!(
            document.rules("main", Security::Full, Ask::Off).security,
            Security::Deny
        );
        assert!(
            document
                .fault
                .is_some_and(|fault| fault.contains("openclaw approvals get"))
        );
        // A file of an older release is used where it is.
        std::fs::write(dir.path().join(NAME), r#"{"version":1}"#).expect("written");
        let legacy = Document::read(dir.path());
        assert_eq!(legacy.path, dir.path().join(NAME));
        assert_eq!(
            legacy.rules("main", Security::Full, Ask::Off).security,
            Security::Full
        );
    }

    #[test]
    fn an_entry_for_always_is_written_once_and_privately() {
        let dir = state(Some(
            r#"{"version":1,"future":7,"agents":{"main":{"allowlist":[{"pattern":"/p","source":"allow-always"}]}}}"#,
        ));
        let entries = [("/p".to_owned(), format!("{CWD_BOUND}00"))];
        for _ in 0..2 {
            let document = Document::read(dir.path());
            document
                .write(&document.allowing("main", &entries, "p x"))
                .expect("written");
        }
        let document = Document::read(dir.path());
        let list = document.file["agents"]["main"]["allowlist"]
            .as_array()
            .expect("a list")
            .clone();
        assert_eq!(list.len(), 2, "{list:?}");
        assert_eq!(list[0]["argPattern"], format!("{CWD_BOUND}00"));
        assert!(
            list[1]["pattern"]
                .as_str()
                .is_some_and(|pattern| pattern.starts_with("=node-command:"))
        );
        assert_eq!(document.file["future"], 7);
        let mode = std::fs::metadata(&document.path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let used = document
            .used("main", &list[..1], "p x", Some("/p"))
            .expect("used");
        assert!(
            used["agents"]["main"]["allowlist"][0]
                .get("lastUsedCommand")
                .is_none()
        );
        assert!(
            document
                .used("main", &[json!({ "pattern": "q" })], "q", None)
                .is_none()
        );
    }
}
