//! Hides secrets in what `config.get` shows, and puts them back in what is written.
//!
//! Source: src/config/redact-snapshot.ts, sensitive-paths.ts and
//! packages/net-policy/src/redact-sensitive-url.ts at 2026.9.6.

mod url;

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::document::is_reference;
use super::json5;
use crate::packed::packed;

/// Stands for a hidden value. Source: src/config/redact-sentinel.ts at 2026.9.6.
pub const SENTINEL: &str = "__OPENCLAW_REDACTED__";

/// Values that are marks of redaction and never a credential, for secrets that are read.
const MARKS: &[&str] = &[
    SENTINEL,
    "REDACTED",
    "xoxb-REDACTED",
    "xapp-REDACTED",
    "***",
    "[redacted]",
    "[REDACTED]",
    "<redacted>",
    "[REDACTED_PRIVATE_KEY]",
    "[REDACTED CREDENTIAL]",
];

/// Whether a credential is in fact what a redaction left behind.
pub fn is_mark(value: &str) -> bool {
    MARKS.contains(&value.trim())
}

/// Which paths are sensitive. The schema says it for the paths it knows (`*` stands for any key, `[]`
/// for list items); names decide elsewhere.
#[derive(Debug, Clone)]
pub struct Hints {
    marks: HashMap<String, Mark>,
    /// Every sensitive path and all that leads to one.
    lookup: HashSet<String>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    sensitive: Option<bool>,
    secret_in_url: bool,
}

impl Hints {
    /// The hints of the original's own schema and its bundled plugins.
    pub fn bundled() -> Self {
        Self::from_ui_hints(&packed!("config/redact/hints.json").json())
    }

    /// The `uiHints` of a `config.schema` answer.
    pub fn from_ui_hints(hints: &Value) -> Self {
        let mut marks = HashMap::new();
        for (path, hint) in hints.as_object().into_iter().flatten() {
            let tags = hint
                .get("tags")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            let mark = Mark {
                sensitive: hint.get("sensitive").and_then(Value::as_bool),
                secret_in_url: tags
                    .filter_map(Value::as_str)
                    .any(|tag| tag.trim().eq_ignore_ascii_case("url-secret")),
            };
            if mark.sensitive.is_some() || mark.secret_in_url {
                marks.insert(path.clone(), mark);
            }
        }
        let mut lookup = HashSet::new();
        for (path, _) in marks
            .iter()
            .filter(|(_, mark)| mark.sensitive == Some(true))
        {
            let mut joined = String::new();
            for (index, part) in path.split('.').enumerate() {
                if index > 0 {
                    joined.push('.');
                }
                if let Some(list) = part.strip_suffix("[]") {
                    lookup.insert(format!("{joined}{list}"));
                }
                joined.push_str(part);
                lookup.insert(joined.clone());
            }
        }
        Self { marks, lookup }
    }

    fn is_sensitive(&self, path: &str) -> bool {
        self.marks
            .get(path)
            .is_some_and(|mark| mark.sensitive == Some(true))
    }

    fn is_declared_open(&self, paths: &[&str]) -> bool {
        paths.iter().any(|path| {
            self.marks
                .get(*path)
                .is_some_and(|mark| mark.sensitive == Some(false))
        })
    }

    fn has_secret_url(&self, paths: &[&str]) -> bool {
        paths
            .iter()
            .any(|path| self.marks.get(*path).is_some_and(|mark| mark.secret_in_url))
            || paths.first().is_some_and(|path| url::is_url_path(path))
    }

    /// `value` with every secret replaced by [`SENTINEL`].
    pub fn redact(&self, value: &Value) -> Value {
        self.redact_collecting(value, &mut Vec::new())
    }

    /// As [`redact`](Self::redact); the secrets found are added to `secrets`.
    pub(crate) fn redact_collecting(&self, value: &Value, secrets: &mut Vec<String>) -> Value {
        let in_schema = !self.lookup.is_empty();
        Walk {
            hints: self,
            secrets,
        }
        .value(value, "", in_schema)
    }

    /// The text of a file with every secret of `config` replaced, or `None` when that would say
    /// something else than the file says.
    pub fn redact_text(&self, raw: &str, config: &Value, parsed: &Value) -> Option<String> {
        let mut secrets = Vec::new();
        self.redact_collecting(config, &mut secrets);
        secrets.retain(|secret| !secret.is_empty());
        // Longest first, in UTF-16 units as the original counts: a secret may contain another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.encode_utf16().count()));
        secrets.dedup();
        let mut text = raw.to_owned();
        for secret in secrets {
            text = text.replace(&secret, SENTINEL);
        }
        let (redacted, _) = json5::parse(&text).ok()?;
        let restored = self.restore(&redacted, config).ok()?;
        (restored == *parsed).then_some(text)
    }

    /// `incoming` with every [`SENTINEL`] on a sensitive path replaced by the value `original` has
    /// there. Errors, in the original's words, where there is none or the sentinel is elsewhere.
    pub fn restore(&self, incoming: &Value, original: &Value) -> Result<Value, String> {
        if !incoming.is_object() && !incoming.is_array() {
            return Err("invalid config".to_owned());
        }
        let in_schema = !self.lookup.is_empty();
        let restored = self.restore_value(incoming, Some(original), "", in_schema)?;
        match find_sentinel(&restored, String::new()) {
            None => Ok(restored),
            Some(path) => {
                let path = if path.is_empty() {
                    "<root>".to_owned()
                } else {
                    path
                };
                Err(format!(
                    "Reserved redaction sentinel \"{SENTINEL}\" is not valid config data ({path})."
                ))
            }
        }
    }

    fn restore_value(
        &self,
        incoming: &Value,
        original: Option<&Value>,
        prefix: &str,
        in_schema: bool,
    ) -> Result<Value, String> {
        match incoming {
            Value::Array(items) => {
                let path = format!("{prefix}[]");
                let matched = in_schema && self.lookup.contains(&path);
                let sensitive = !self.is_declared_open(&[&path]) && has_sensitive_name(&path);
                let originals = original
                    .and_then(Value::as_array)
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                let pairs = pair_items(items, originals);
                let restore = |(item, original): (&Value, Option<&Value>)| {
                    if item.as_str() == Some(SENTINEL) && (matched || sensitive) {
                        // The original leaves a hole here, which is no JSON; null says the same.
                        return Ok(original.cloned().unwrap_or(Value::Null));
                    }
                    self.restore_value(item, original, &path, matched)
                };
                pairs
                    .into_iter()
                    .map(restore)
                    .collect::<Result<_, _>>()
                    .map(Value::Array)
            }
            Value::Object(members) => {
                let originals = original.and_then(Value::as_object);
                let mut out = Map::new();
                for (key, value) in members {
                    let original = originals.and_then(|members| members.get(key));
                    let restored = self.restore_member(key, value, original, prefix, in_schema)?;
                    out.insert(key.clone(), restored);
                }
                Ok(Value::Object(out))
            }
            other => Ok(other.clone()),
        }
    }

    fn restore_member(
        &self,
        key: &str,
        value: &Value,
        original: Option<&Value>,
        prefix: &str,
        in_schema: bool,
    ) -> Result<Value, String> {
        let (path, wildcard) = member_paths(prefix, key);
        let candidate = self.candidate(&path, &wildcard, in_schema);
        let paths = [path.as_str(), wildcard.as_str()];
        let can_restore = match candidate {
            Some(candidate) => self.is_sensitive(candidate),
            None => !self.is_declared_open(&paths) && has_sensitive_name(&path),
        } || self.has_secret_url(&paths);
        let under = candidate.unwrap_or(&path);
        match value {
            Value::String(text) if text == SENTINEL && can_restore => {
                original.cloned().ok_or_else(|| {
                    format!(
                        "Sentinel value \"{SENTINEL}\" in key {under} is not valid as real data"
                    )
                })
            }
            Value::Object(_) | Value::Array(_) => {
                if (candidate.is_some() || can_restore)
                    && let Some(restored) = restore_reference(value, original, &path)?
                {
                    return Ok(restored);
                }
                self.restore_value(value, original, under, candidate.is_some())
            }
            other => Ok(other.clone()),
        }
    }

    fn candidate<'a>(&self, path: &'a str, wildcard: &'a str, in_schema: bool) -> Option<&'a str> {
        [path, wildcard]
            .into_iter()
            .find(|path| in_schema && self.lookup.contains(*path))
    }
}

/// A walk that hides what it finds.
struct Walk<'a> {
    hints: &'a Hints,
    secrets: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn value(&mut self, value: &Value, prefix: &str, in_schema: bool) -> Value {
        match value {
            Value::Array(items) => {
                let path = format!("{prefix}[]");
                let matched = in_schema && self.hints.lookup.contains(&path);
                let sensitive = !self.hints.is_declared_open(&[&path]) && has_sensitive_name(&path);
                let hide = |item: &Value| match item {
                    Value::String(text) if is_concrete(text) && (matched || sensitive) => {
                        self.hide(text)
                    }
                    item => self.value(item, &path, matched),
                };
                Value::Array(items.iter().map(hide).collect())
            }
            Value::Object(members) => Value::Object(
                members
                    .iter()
                    .map(|(key, value)| (key.clone(), self.member(key, value, prefix, in_schema)))
                    .collect(),
            ),
            other => other.clone(),
        }
    }

    fn member(&mut self, key: &str, value: &Value, prefix: &str, in_schema: bool) -> Value {
        let (path, wildcard) = member_paths(prefix, key);
        let paths = [path.as_str(), wildcard.as_str()];
        if let Some(candidate) = self.hints.candidate(&path, &wildcard, in_schema) {
            return self.known_member(value, candidate);
        }
        let open = self.hints.is_declared_open(&paths);
        let sensitive = !open && has_sensitive_name(&path);
        match value {
            Value::String(text) if sensitive && is_concrete(text) => self.hide(text),
            Value::Object(_) if !in_schema && sensitive && names_service_account(&path) => {
                collect_strings(value, self.secrets);
                Value::from(SENTINEL)
            }
            Value::String(text) if self.hints.has_secret_url(&paths) && url::has_secret(text) => {
                self.hide(text)
            }
            Value::Object(_) | Value::Array(_) => self.value(value, &path, false),
            other => other.clone(),
        }
    }

    /// A member the schema leads to.
    fn known_member(&mut self, value: &Value, candidate: &str) -> Value {
        let sensitive = self.hints.is_sensitive(candidate);
        match value {
            Value::String(text) if is_concrete(text) => self.hide(text),
            Value::Object(members) if sensitive => {
                if is_reference_shape(value) {
                    let mut reference = members.clone();
                    if let Some(id) = members["id"].as_str().filter(|id| is_concrete(id)) {
                        reference.insert("id".to_owned(), self.hide(id));
                    }
                    return Value::Object(reference);
                }
                collect_strings(value, self.secrets);
                Value::from(SENTINEL)
            }
            Value::Object(_) | Value::Array(_) => self.value(value, candidate, true),
            Value::Bool(_) | Value::Number(_) if sensitive => Value::from(SENTINEL),
            other => other.clone(),
        }
    }

    fn hide(&mut self, secret: &str) -> Value {
        self.secrets.push(secret.to_owned());
        Value::from(SENTINEL)
    }
}

fn member_paths(prefix: &str, key: &str) -> (String, String) {
    if prefix.is_empty() {
        (key.to_owned(), "*".to_owned())
    } else {
        (format!("{prefix}.{key}"), format!("{prefix}.*"))
    }
}

/// A reference to the environment is shown: it names a secret and is none.
fn is_concrete(text: &str) -> bool {
    let text = text.trim();
    let placeholder = text
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| !name.contains('}'));
    !text.is_empty() && !placeholder
}

/// Source: `isSensitiveConfigPath`, src/config/sensitive-paths.ts.
fn has_sensitive_name(path: &str) -> bool {
    const OPEN: &[&str] = &[
        "maxtokens",
        "maxoutputtokens",
        "maxinputtokens",
        "maxcompletiontokens",
        "contexttokens",
        "totaltokens",
        "tokencount",
        "tokenlimit",
        "tokenbudget",
        "passwordfile",
    ];
    let path = path.strip_suffix("[]").unwrap_or(path).to_lowercase();
    if path.contains("localservice.env.") {
        return true;
    }
    if OPEN.iter().any(|end| path.ends_with(end)) {
        return false;
    }
    path.ends_with("token")
        || path.contains("password")
        || path.contains("secret")
        || has_key_after(&path, "api")
        || has_key_after(&path, "encrypt")
        || has_key_after(&path, "private")
        || names_service_account(&path)
}

/// `first`, at most one character, then `key`.
fn has_key_after(path: &str, first: &str) -> bool {
    path.match_indices(first).any(|(at, _)| {
        let rest = &path[at + first.len()..];
        let mut skipped = rest.chars();
        skipped.next();
        rest.starts_with("key") || skipped.as_str().starts_with("key")
    })
}

fn names_service_account(path: &str) -> bool {
    let path = path.to_lowercase();
    path.ends_with("serviceaccount") || path.ends_with("serviceaccountref")
}

fn is_reference_shape(value: &Value) -> bool {
    ["source", "id"]
        .iter()
        .all(|key| value.get(key).is_some_and(Value::is_string))
}

fn collect_strings(value: &Value, secrets: &mut Vec<String>) {
    match value {
        Value::String(text) if is_concrete(text) => secrets.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect_strings(item, secrets)),
        Value::Object(_) if is_reference_shape(value) => collect_strings(&value["id"], secrets),
        Value::Object(members) => {
            members
                .values()
                .for_each(|item| collect_strings(item, secrets));
        }
        _ => {}
    }
}

/// A SecretRef whose id is hidden gets it back when the rest of the reference is unchanged.
fn restore_reference(
    incoming: &Value,
    original: Option<&Value>,
    path: &str,
) -> Result<Option<Value>, String> {
    if !is_reference_shape(incoming) || incoming["id"] != SENTINEL {
        return Ok(None);
    }
    let provider = |value: &Value| {
        value
            .get("provider")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let original = original.filter(|original| is_reference_shape(original)).ok_or_else(|| {
        format!("SecretRef at {path} contains a redacted id placeholder with no matching original value.")
    })?;
    let Some(known) = provider(original) else {
        return Err(format!(
            "SecretRef at {path} requires a provider field to restore the redacted id automatically (original ref lacks provider)."
        ));
    };
    let Some(given) = provider(incoming) else {
        return Err(format!(
            "SecretRef at {path} must include source, provider, and id when redacted placeholders are present."
        ));
    };
    if incoming["source"] != original["source"] || given != known {
        return Err(format!(
            "SecretRef at {path} changed source/provider while id is redacted. Provide an explicit id when changing source/provider."
        ));
    }
    let mut restored = incoming.clone();
    restored["id"] = original["id"].clone();
    Ok(Some(restored))
}

/// Pairs list items with the originals they stand for: by a unique `id`, else by position.
fn pair_items<'a>(
    items: &'a [Value],
    originals: &'a [Value],
) -> Vec<(&'a Value, Option<&'a Value>)> {
    let incoming_ids = index_by_id(items);
    let original_ids = index_by_id(originals);
    let unique = |ids: &HashMap<&str, Vec<usize>>, id: &str| match ids.get(id).map(Vec::as_slice) {
        Some([at]) => Some(*at),
        _ => None,
    };
    let reserved: HashSet<usize> = incoming_ids
        .keys()
        .filter(|id| unique(&incoming_ids, id).is_some())
        .filter_map(|id| unique(&original_ids, id))
        .collect();
    let any_unique = original_ids.values().any(|at| at.len() == 1);
    let pair = |(index, item): (usize, &'a Value)| {
        if let Some(id) = item_id(item).filter(|id| unique(&incoming_ids, id).is_some()) {
            if let Some(at) = unique(&original_ids, id) {
                return (item, Some(&originals[at]));
            }
            if !original_ids.contains_key(id) && any_unique {
                return (item, None);
            }
        }
        (
            item,
            originals.get(index).filter(|_| !reserved.contains(&index)),
        )
    };
    items.iter().enumerate().map(pair).collect()
}

fn index_by_id(items: &[Value]) -> HashMap<&str, Vec<usize>> {
    let mut ids: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        if let Some(id) = item_id(item) {
            ids.entry(id).or_default().push(index);
        }
    }
    ids
}

fn item_id(item: &Value) -> Option<&str> {
    let usable =
        |id: &&str| !id.is_empty() && *id != SENTINEL && !is_reference(id) && !id.contains("$${");
    item.get("id").and_then(Value::as_str).filter(usable)
}

fn find_sentinel(value: &Value, path: String) -> Option<String> {
    match value {
        Value::String(text) => (text == SENTINEL).then_some(path),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| find_sentinel(item, format!("{path}[{index}]"))),
        Value::Object(members) => members.iter().find_map(|(key, item)| {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            find_sentinel(item, path)
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_hidden_and_come_back() {
        let config = json!({
            "gateway": {"auth": {"mode": "token", "token": "t0"}, "port": 1},
            "models": {"providers": {
                "a": {"apiKey": {"source": "env", "provider": "default", "id": "KEY"}, "baseUrl": "https://u:p@host/v1"},
                "b": {"apiKey": "${KEY}", "baseUrl": "https://host/v1", "maxTokens": 5},
            }},
            "env": {"vars": {"PLAIN": "x", "MY_TOKEN": "y"}},
            "list": [{"id": "1", "password": "p1"}, {"id": "2", "password": "p2"}],
        });
        let hints = Hints::bundled();
        let shown = hints.redact(&config);
        assert_eq!(
            shown["gateway"],
            json!({"auth": {"mode": "token", "token": SENTINEL}, "port": 1})
        );
        assert_eq!(shown["models"]["providers"]["a"]["apiKey"]["id"], SENTINEL);
        assert_eq!(shown["models"]["providers"]["a"]["baseUrl"], SENTINEL);
        assert_eq!(
            shown["models"]["providers"]["b"],
            config["models"]["providers"]["b"]
        );
        assert_eq!(shown["list"][1]["password"], SENTINEL);
        assert_eq!(hints.restore(&shown, &config), Ok(config.clone()));

        // Items are found again by id, wherever they moved.
        let mut moved = shown.clone();
        let items = moved["list"].as_array_mut().expect("a list");
        items.swap(0, 1);
        let restored = hints.restore(&moved, &config).expect("restored");
        assert_eq!(
            restored["list"],
            json!([{"id": "2", "password": "p2"}, {"id": "1", "password": "p1"}])
        );
    }

    #[test]
    fn a_sentinel_elsewhere_is_refused() {
        let hints = Hints::bundled();
        let refused = |incoming: Value, want: &str| {
            assert_eq!(hints.restore(&incoming, &json!({})), Err(want.to_owned()));
        };
        refused(
            json!({"messages": {"ackReaction": SENTINEL}}),
            "Reserved redaction sentinel \"__OPENCLAW_REDACTED__\" is not valid config data (messages.ackReaction).",
        );
        refused(
            json!({"hooks": {"token": SENTINEL}}),
            "Sentinel value \"__OPENCLAW_REDACTED__\" in key hooks.token is not valid as real data",
        );
        refused(
            json!({"gateway": {"auth": {"token": {"source": "env", "id": SENTINEL}}}}),
            "SecretRef at gateway.auth.token contains a redacted id placeholder with no matching original value.",
        );
    }

    #[test]
    fn text_is_shown_only_where_it_still_says_the_same() {
        let hints = Hints::bundled();
        let config = json!({"gateway": {"auth": {"token": "s3"}}});
        let raw = "{ gateway: { auth: { token: 's3' } } } // mine";
        let shown = hints.redact_text(raw, &config, &config).expect("shown");
        assert_eq!(
            shown,
            "{ gateway: { auth: { token: '__OPENCLAW_REDACTED__' } } } // mine"
        );
        let config = json!({"gateway": {"auth": {"token": "port"}, "port": 1}});
        let raw = "{ gateway: { auth: { token: 'port' }, port: 1 } }";
        assert_eq!(hints.redact_text(raw, &config, &config), None);
    }

    #[test]
    fn names_decide_where_the_schema_is_silent() {
        for name in [
            "x.botToken",
            "a.API_KEY",
            "a.apiKey",
            "private-key",
            "mySecretThing",
            "Passwords",
            "x.encryptKey",
            "a.serviceAccountRef",
            "x.localService.env.FOO",
        ] {
            assert!(has_sensitive_name(name), "{name}");
        }
        for name in [
            "x.maxTokens",
            "tokens",
            "apixxkey",
            "a.passwordFile",
            "keyapi",
        ] {
            assert!(!has_sensitive_name(name), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn restore_undoes_redact(tree in crate::config::tests::tree()) {
            let hints = Hints::bundled();
            let config = json!({"token": tree.clone(), "a": {"apiKey": tree.clone()}, "other": tree});
            let shown = hints.redact(&config);
            proptest::prop_assert_eq!(hints.restore(&shown, &config), Ok(config));
        }
    }
}
