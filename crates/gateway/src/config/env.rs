//! The environment as one value: the process's variables, `.env` files below them, then `env.vars`.
//!
//! Source: src/infra/dotenv.ts, dotenv-global-core.ts and src/config/config-env-vars.ts at 2026.9.6.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::env_policy as policy;
use super::paths::Paths;

/// A `.env` file larger than this is skipped, as the original does.
const DOTENV_BYTES_MAX: u64 = 1024 * 1024;

/// A snapshot of environment variables. The process's own environment is never changed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// The variables of this process; those that are not UTF-8 are left out.
    pub fn from_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(key, value)| {
                    Some((key.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        )
    }

    pub fn from_pairs<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value without surrounding white space; a blank one counts as unset.
    pub fn trimmed(&self, key: &str) -> Option<&str> {
        self.get(key)
            .map(str::trim)
            .filter(|value| !value.is_empty())
    }

    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// A home directory variable; the words a careless script leaves behind count as unset.
    pub(super) fn home_value(&self, key: &str) -> Option<&str> {
        self.trimmed(key)
            .filter(|value| !matches!(*value, "undefined" | "null"))
    }

    /// Adds what `.env` files define and the process does not: `./.env` (without names that choose
    /// credentials, endpoints or another gateway), `<state>/.env`, then
    /// `~/.config/openclaw/gateway.env` when the state directory is the default one.
    pub fn with_dotenv(&self, paths: &Paths, current_dir: Option<&Path>) -> Self {
        let mut env = self.clone();
        if let Some(dir) = current_dir {
            env.add_missing(&dir.join(".env"), |key| !is_blocked_in_workspace(key));
        }
        let present = env.clone();
        let state_env = paths.state_dir.join(".env");
        let mut files = vec![state_env.clone()];
        let default_state_env = paths.home.join(".openclaw").join(".env");
        if env.trimmed("OPENCLAW_STATE_DIR").is_none() || state_env == default_state_env {
            files.push(paths.home.join(".config/openclaw/gateway.env"));
        }
        for file in files {
            env.add_missing(&file, |key| !present.0.contains_key(key));
        }
        env
    }

    fn add_missing(&mut self, file: &Path, allowed: impl Fn(&str) -> bool) {
        for (key, value) in read_dotenv(file) {
            if allowed(&key) {
                self.0.entry(key).or_insert(value);
            }
        }
    }

    /// Adds what the file's own `env` section sets (`env.vars` and direct string keys), below
    /// everything that is already set. Names that change what a process loads are ignored.
    pub fn with_config_vars(&self, config: &Value) -> Self {
        let mut env = self.clone();
        let Some(section) = config.get("env").and_then(Value::as_object) else {
            return env;
        };
        let mut entries = BTreeMap::new();
        let vars = section
            .get("vars")
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        let direct = section
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "shellEnv" | "vars"));
        for (key, value) in vars.chain(direct) {
            let (key, Some(value)) = (key.trim(), value.as_str()) else {
                continue;
            };
            let usable = is_portable_key(key)
                && !value.trim().is_empty()
                && !is_blocked_in_config(key)
                && !contains_reference(value);
            if usable {
                entries.insert(key.to_owned(), value.to_owned());
            }
        }
        for (key, value) in entries {
            if env.trimmed(&key).is_none() {
                env.set(key, value);
            }
        }
        // Two spellings of one key. Source: `normalizeZaiEnv`, src/infra/env.ts.
        if env.trimmed("ZAI_API_KEY").is_none()
            && let Some(value) = env.get("Z_AI_API_KEY").map(str::to_owned)
            && !value.trim().is_empty()
        {
            env.set("ZAI_API_KEY", value);
        }
        env
    }
}

/// Values may be secrets: only the names are shown.
impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn is_portable_key(key: &str) -> bool {
    let bytes = key.as_bytes();
    bytes
        .first()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn is_blocked(upper: &str) -> bool {
    // The linker or runner of a cargo target is a program that would be started.
    let cargo_target = upper.strip_prefix("CARGO_TARGET_").is_some_and(|rest| {
        ["_LINKER", "_RUNNER"]
            .iter()
            .any(|end| rest.strip_suffix(end).is_some_and(|x| !x.is_empty()))
    });
    policy::BLOCKED.binary_search(&upper).is_ok()
        || policy::BLOCKED_PREFIXES
            .iter()
            .any(|prefix| upper.starts_with(prefix))
        || cargo_target
}

fn is_blocked_in_config(key: &str) -> bool {
    let upper = key.to_ascii_uppercase();
    matches!(
        upper.as_str(),
        "OPENCLAW_ALLOW_OLDER_BINARY_DESTRUCTIVE_ACTIONS"
            | "OPENCLAW_INCLUDE_ROOTS"
            | "OPENCLAW_CONFIG_READONLY"
    ) || is_blocked(&upper)
}

fn is_blocked_in_workspace(key: &str) -> bool {
    let upper = key.to_ascii_uppercase();
    let words: Vec<&str> = upper.split('_').filter(|word| !word.is_empty()).collect();
    is_blocked(&upper)
        || policy::WORKSPACE_BLOCKED
            .binary_search(&upper.as_str())
            .is_ok()
        || policy::WORKSPACE_BLOCKED_PREFIXES
            .iter()
            .any(|prefix| upper.starts_with(prefix))
        || policy::WORKSPACE_BLOCKED_SUFFIXES
            .iter()
            .any(|suffix| upper.ends_with(suffix))
        || policy::WORKSPACE_BLOCKED_WORDS
            .iter()
            .any(|run| words.windows(run.len()).any(|window| window == *run))
}

fn read_dotenv(file: &Path) -> Vec<(String, String)> {
    let real: PathBuf = match file.canonicalize() {
        Ok(real) => real,
        Err(_) => return Vec::new(),
    };
    let size_ok = real
        .metadata()
        .is_ok_and(|meta| meta.is_file() && meta.len() <= DOTENV_BYTES_MAX);
    if !size_ok {
        return Vec::new();
    }
    match std::fs::read(&real) {
        Ok(bytes) => parse_dotenv(&String::from_utf8_lossy(&bytes)),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "cannot read the .env file");
            Vec::new()
        }
    }
}

/// Parses the `.env` format: `KEY=value`, `export KEY=value`, `KEY: value`, single, double and back
/// quotes (over several lines too), `#` comments. The last of equal keys wins.
///
/// Source: npm `dotenv` 17 (`parse`), as the original uses it.
fn parse_dotenv(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut out: Vec<(String, String)> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let Some((key, value, next)) = dotenv_entry(&text, at) else {
            at = text[at..]
                .find('\n')
                .map_or(text.len(), |offset| at + offset + 1);
            continue;
        };
        if is_portable_key(&key) {
            out.retain(|(known, _)| *known != key);
            out.push((key, value));
        }
        // The next entry begins at a line start.
        at = match text[next..].find('\n') {
            Some(offset) => next + offset + 1,
            None => text.len(),
        };
    }
    out
}

/// One entry whose leading white space begins at `at`; its end is somewhere on its last line.
fn dotenv_entry(text: &str, at: usize) -> Option<(String, String, usize)> {
    let skip = |from: usize| from + (text[from..].len() - text[from..].trim_start().len());
    let mut cursor = skip(at);
    if let Some(rest) = text[cursor..].strip_prefix("export")
        && rest.starts_with(char::is_whitespace)
    {
        cursor = skip(cursor + "export".len());
    }
    let key_len = text[cursor..]
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')))
        .unwrap_or(text.len() - cursor);
    if key_len == 0 {
        return None;
    }
    let key = text[cursor..cursor + key_len].to_owned();
    cursor += key_len;
    let equals = skip(cursor);
    cursor = if text[equals..].starts_with('=') {
        equals + 1
    } else if text[cursor..].starts_with(':') && text[cursor + 1..].starts_with(char::is_whitespace)
    {
        cursor + 2
    } else {
        return None;
    };
    let open = skip(cursor);
    if let Some(quote) = text[open..]
        .chars()
        .next()
        .filter(|c| matches!(c, '\'' | '"' | '`'))
        && let Some(close) = closing_quote(text, open, quote)
    {
        let inner = &text[open + 1..close];
        let value = if quote == '"' {
            inner.replace("\\n", "\n").replace("\\r", "\r")
        } else {
            inner.to_owned()
        };
        return Some((key, value, close + 1));
    }
    let line_end = text[cursor..]
        .find('\n')
        .map_or(text.len(), |offset| cursor + offset);
    let line = &text[cursor..line_end];
    let value = line.split('#').next().unwrap_or_default().trim();
    Some((key, value.to_owned(), line_end))
}

/// The last quote that may close the one at `open` and is followed by nothing but a comment.
fn closing_quote(text: &str, open: usize, quote: char) -> Option<usize> {
    let mut candidates = Vec::new();
    let mut escaped = false;
    for (offset, c) in text[open + 1..].char_indices() {
        if c == quote {
            candidates.push(open + 1 + offset);
            if !escaped {
                break;
            }
        }
        escaped = c == '\\' && !escaped;
    }
    candidates.into_iter().rev().find(|close| {
        let line = text[close + 1..]
            .split('\n')
            .next()
            .unwrap_or_default()
            .trim_start();
        line.is_empty() || line.starts_with('#')
    })
}

/// A `${NAME}` or `$${NAME}` at the start of `text`.
pub(super) enum Token<'a> {
    Reference(&'a str),
    Escaped(&'a str),
}

/// The token at the start of `text` (which begins with `$`) and its length in bytes.
///
/// Source: `parseEnvTokenAt`, src/config/env-substitution.ts at 2026.9.6.
pub(super) fn reference_token(text: &str) -> Option<(Token<'_>, usize)> {
    let name_in = |rest: &'static str| -> Option<(&str, usize)> {
        let inner = text.strip_prefix(rest)?;
        let end = inner.find('}')?;
        is_reference_name(&inner[..end]).then_some((&inner[..end], rest.len() + end + 1))
    };
    if let Some((name, length)) = name_in("$${") {
        return Some((Token::Escaped(name), length));
    }
    name_in("${").map(|(name, length)| (Token::Reference(name), length))
}

fn is_reference_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes
        .first()
        .is_some_and(|byte| byte.is_ascii_uppercase() || *byte == b'_')
        && bytes
            .iter()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
}

/// Whether `text` has an unescaped `${NAME}`.
pub(super) fn contains_reference(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = &rest[at..];
        match reference_token(rest) {
            Some((Token::Reference(_), _)) => return true,
            Some((Token::Escaped(_), length)) => rest = &rest[length..],
            None => rest = &rest[1..],
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotenv_reads_what_the_npm_package_reads() {
        let text = "# head\nA=1\n export B = two words # note\nC: colon\nD='it''s'\nE=\"a\\nb\"\n\
                    F=\"x\ny\" # end\nG=\nH=`b'q\"`\r\nI='a\\'b'\nbad line\nJ=a#b\nA=last\n1X=no\nK='open\n";
        let got = parse_dotenv(text);
        let want = [
            ("B", "two words"),
            ("C", "colon"),
            ("D", "'it''s'"),
            ("E", "a\nb"),
            ("F", "x\ny"),
            ("G", ""),
            ("H", "b'q\""),
            ("I", "a\\'b"),
            ("J", "a"),
            ("A", "last"),
            ("K", "'open"),
        ];
        let want: Vec<_> = want
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn files_add_and_never_replace() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = dir.path().join("state");
        std::fs::create_dir_all(&state).expect("mkdir");
        std::fs::write(
            state.join(".env"),
            "A=state\nB=state\nC=state\nOPENCLAW_GATEWAY_TOKEN=t\n",
        )
        .expect("write");
        std::fs::write(
            dir.path().join(".env"),
            "B=cwd\nOPENCLAW_GATEWAY_TOKEN=evil\nFOO_BASE_URL=x\nX_SKIP_AUTH_Y=1\nPATH=/tmp\n",
        )
        .expect("write");
        let env = Env::from_pairs([
            ("A", "process"),
            ("HOME", dir.path().to_str().expect("utf-8")),
            ("OPENCLAW_STATE_DIR", state.to_str().expect("utf-8")),
        ]);
        let paths = Paths::resolve(&env).expect("paths");
        let env = env.with_dotenv(&paths, Some(dir.path()));
        let got: Vec<_> = [
            "A",
            "B",
            "C",
            "OPENCLAW_GATEWAY_TOKEN",
            "FOO_BASE_URL",
            "PATH",
        ]
        .map(|key| env.get(key))
        .to_vec();
        assert_eq!(
            got,
            [
                Some("process"),
                Some("cwd"),
                Some("state"),
                Some("t"),
                None,
                None
            ]
        );
        assert_eq!(env.get("X_SKIP_AUTH_Y"), None);
    }

    #[test]
    fn the_env_section_fills_what_is_unset() {
        let config = serde_json::json!({"env": {
            "vars": {"A": "vars", "B": "vars", "LD_PRELOAD": "x", "R": "${A}", "BLANK": " "},
            "B": "direct", "shellEnv": {"enabled": true}, "OPENCLAW_INCLUDE_ROOTS": "/"
        }});
        let env = Env::from_pairs([("A", "process")]).with_config_vars(&config);
        let pairs: Vec<_> = env.iter().collect();
        assert_eq!(pairs, [("A", "process"), ("B", "direct")]);
    }

    #[test]
    fn lists_are_sorted() {
        assert!(policy::BLOCKED.is_sorted() && policy::WORKSPACE_BLOCKED.is_sorted());
    }
}
