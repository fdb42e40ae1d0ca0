//! The user's file as written, and as it reads once `$include` and `${ENV}` are resolved.

mod include;

pub(super) use include::Include;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::env::{Token, contains_reference, reference_token};
use super::json5::{self, Position, Spans};
use super::{ConfigError, Env, Issue, Paths};

/// A larger file is refused; the original has no limit of its own here.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The user's configuration file. It is always readable as a value: a file that cannot be used has a
/// [`fault`](Self::fault), and then `resolved` holds as much as could be read.
///
/// Source: `readConfigSnapshotWithPreparation`, src/config/io.snapshot.ts at 2026.9.6.
#[derive(Debug, Clone)]
pub struct ConfigDocument {
    pub file: PathBuf,
    /// The text; `None` when there is no file (which is valid and means `{}`) or it is unreadable.
    pub raw: Option<String>,
    pub exists: bool,
    /// The file's own tree, unknown keys and order included, nothing resolved.
    pub parsed: Value,
    /// `$include` merged and `${NAME}` replaced. Always an object.
    pub resolved: Value,
    /// Files read through `$include`, sorted.
    pub included: Vec<PathBuf>,
    /// Every `$include`, in the order of reading.
    pub provenance: Vec<Include>,
    /// Whether all of them could be merged.
    pub is_merged: bool,
    /// `${NAME}` references without a value, which stay as written: the variable and the path.
    pub missing_vars: Vec<(String, String)>,
    /// The environment this file was resolved with: the process's, `.env` files, its `env` section.
    pub env: Env,
    fault: Option<(Issue, ConfigError)>,
    sources: Vec<Source>,
}

/// A file that contributed, and where in the whole its tree hangs.
#[derive(Debug, Clone)]
struct Source {
    file: PathBuf,
    under: Vec<String>,
    spans: Spans,
}

impl ConfigDocument {
    /// Reads `paths.config_file`. `env` is the process's environment; `.env` files are added here.
    pub fn read(paths: &Paths, env: &Env) -> Self {
        let current_dir = std::env::current_dir().ok();
        let env = env.with_dotenv(paths, current_dir.as_deref());
        let roots = paths.include_roots(&env);
        Self::read_file(&paths.config_file, env, &roots)
    }

    /// As [`read`](Self::read), for a caller that needs a usable file.
    pub fn load(paths: &Paths, env: &Env) -> Result<Self, ConfigError> {
        Self::read(paths, env).usable()
    }

    /// This document, unless it has a fault.
    pub fn usable(self) -> Result<Self, ConfigError> {
        match self.fault {
            Some((_, error)) => Err(error),
            None => Ok(self),
        }
    }

    /// A document of this text in place of the file's, with the same environment and include rules:
    /// what the file would be after a write.
    pub fn with_text(paths: &Paths, env: &Env, raw: String) -> Self {
        let current_dir = std::env::current_dir().ok();
        let env = env.with_dotenv(paths, current_dir.as_deref());
        let roots = paths.include_roots(&env);
        Self::empty(&paths.config_file, env).resolve(raw, &roots)
    }

    /// Why this file cannot be used, as the original's issue and as our error.
    pub fn fault(&self) -> Option<(&Issue, &ConfigError)> {
        self.fault.as_ref().map(|(issue, error)| (issue, error))
    }

    /// The value at a path of the resolved tree.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        path.iter()
            .try_fold(&self.resolved, |value, key| match value {
                Value::Array(items) => items.get(key.parse::<usize>().ok()?),
                other => other.get(key),
            })
    }

    /// The file and position that set the value at `path`: the file itself wins over what it includes,
    /// as in the merge; without a hit, the nearest enclosing value.
    pub fn locate(&self, path: &[&str]) -> Option<(&Path, Position)> {
        let mut nearest: Option<(usize, &Path, Position)> = None;
        for source in &self.sources {
            let depth = source.under.len();
            if path.len() < depth || source.under.iter().zip(path).any(|(a, b)| a != b) {
                continue;
            }
            let (at, exact) = source.spans.locate(path[depth..].iter().copied());
            if exact {
                return Some((&source.file, at));
            }
            if nearest.is_none_or(|(known, ..)| depth > known) {
                nearest = Some((depth, &source.file, at));
            }
        }
        nearest.map(|(_, file, at)| (file, at))
    }

    /// An error about the value at `path`, with its file and position.
    pub fn error(&self, path: &[&str], what: impl Into<String>) -> ConfigError {
        let error = ConfigError::new(what).key(dotted(path.iter().copied()));
        match self.locate(path) {
            Some((file, at)) => error.file(file).at(Some(at)),
            None => error.file(&self.file),
        }
    }

    fn empty(file: &Path, env: Env) -> Self {
        Self {
            file: file.to_path_buf(),
            raw: None,
            exists: false,
            parsed: Value::Object(Map::new()),
            resolved: Value::Object(Map::new()),
            included: Vec::new(),
            provenance: Vec::new(),
            is_merged: false,
            missing_vars: Vec::new(),
            env,
            fault: None,
            sources: Vec::new(),
        }
    }

    fn read_file(file: &Path, env: Env, roots: &[PathBuf]) -> Self {
        let mut document = Self::empty(file, env);
        if !file.exists() {
            return document;
        }
        document.exists = true;
        match read_text(file) {
            Ok(raw) => document.resolve(raw, roots),
            Err(error) => {
                let what = format!("read failed: {error}");
                let fix = "make the file readable by this user (chown, chmod 600)";
                let error = ConfigError::new(what.clone()).file(file).fix(fix);
                document.fault = Some((Issue::new("", what), error));
                document
            }
        }
    }

    fn resolve(mut self, raw: String, roots: &[PathBuf]) -> Self {
        self.exists = true;
        let parsed = json5::parse(&raw);
        self.raw = Some(raw);
        let (parsed, spans) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                let issue = format!("JSON5 parse failed: SyntaxError: {}", error.message);
                let located = ConfigError::new(error.message)
                    .file(&self.file)
                    .at(Some(error.at))
                    .fix("correct the JSON5 there; no change has been made to the file");
                self.fault = Some((Issue::new("", issue), located));
                return self;
            }
        };
        self.sources.push(Source {
            file: self.file.clone(),
            under: Vec::new(),
            spans,
        });
        self.parsed = parsed;
        self.resolved = as_object(&self.parsed);
        let mut includes = include::Includes::new(&self.file, roots);
        let merged = includes.process(&self.file, &self.parsed);
        self.sources.extend(includes.sources);
        includes.files.sort();
        includes.files.dedup();
        self.included = includes.files;
        self.provenance = includes.provenance;
        match merged {
            Ok(merged) => {
                self.is_merged = true;
                self.env = self.env.with_config_vars(&merged);
                let mut missing = Vec::new();
                let resolved = substitute(&merged, &self.env, &mut String::new(), &mut missing);
                self.missing_vars = missing;
                self.check_root(&resolved);
                self.resolved = as_object(&resolved);
            }
            Err(fault) => {
                let path: Vec<&str> = fault.under.iter().map(String::as_str).collect();
                let at = self.locate(&path).map(|(_, at)| at);
                let error = ConfigError::new(fault.what.clone())
                    .file(fault.file.as_deref().unwrap_or(&self.file))
                    .at(fault.at.or(at))
                    .key(dotted(path.iter().copied().chain(["$include"])))
                    .fix("correct the $include (see docs/configuration.md)");
                self.fault = Some((Issue::new("", fault.what), error));
            }
        }
        self
    }

    fn check_root(&mut self, resolved: &Value) {
        if !resolved.is_object() {
            let what = format!(
                "Invalid input: expected object, received {}",
                type_name(resolved)
            );
            let error = ConfigError::new(what.clone())
                .file(&self.file)
                .at(Some((1, 1)))
                .fix("write one JSON5 object: { gateway: { mode: \"local\" } }");
            self.fault = Some((Issue::new("", what), error));
        }
    }
}

pub(super) fn read_text(file: &Path) -> std::io::Result<String> {
    let size = std::fs::metadata(file)?.len();
    if size > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "larger than {FILE_BYTES_MAX} bytes"
        )));
    }
    // The original decodes with replacement characters and so do we: a bad byte in a comment does
    // not make the file unusable.
    Ok(String::from_utf8_lossy(&std::fs::read(file)?).into_owned())
}

fn as_object(value: &Value) -> Value {
    if value.is_object() {
        value.clone()
    } else {
        Value::Object(Map::new())
    }
}

/// The type's name as the original's schema errors write it.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `value` with every reference replaced that has a value.
pub(super) fn substitute_all(value: &Value, env: &Env) -> Value {
    substitute(value, env, &mut String::new(), &mut Vec::new())
}

/// Replaces `${NAME}` in every string; `$${NAME}` is a literal `${NAME}`. A variable without a value
/// (or with an empty one) leaves the reference as written and is noted in `missing`.
///
/// Source: `substituteString`, src/config/env-substitution.ts at 2026.9.6.
fn substitute(
    value: &Value,
    env: &Env,
    path: &mut String,
    missing: &mut Vec<(String, String)>,
) -> Value {
    let length = path.len();
    match value {
        Value::String(text) => Value::String(substitute_text(text, env, path, missing)),
        Value::Array(items) => {
            let resolve = |(index, item)| {
                path.push_str(&format!("[{index}]"));
                let resolved = substitute(item, env, path, missing);
                path.truncate(length);
                resolved
            };
            Value::Array(items.iter().enumerate().map(resolve).collect())
        }
        Value::Object(members) => {
            let resolve = |(key, item): (&String, &Value)| {
                push_segment(path, key);
                let resolved = substitute(item, env, path, missing);
                path.truncate(length);
                (key.clone(), resolved)
            };
            Value::Object(members.iter().map(resolve).collect())
        }
        other => other.clone(),
    }
}

fn substitute_text(
    text: &str,
    env: &Env,
    path: &str,
    missing: &mut Vec<(String, String)>,
) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some((token, length)) = reference_token(rest) else {
            out.push('$');
            rest = &rest[1..];
            continue;
        };
        match token {
            Token::Escaped(name) => out.push_str(&format!("${{{name}}}")),
            Token::Reference(name) => match env.get(name).filter(|value| !value.is_empty()) {
                Some(value) => out.push_str(value),
                None => {
                    missing.push((name.to_owned(), path.to_owned()));
                    out.push_str(&rest[..length]);
                }
            },
        }
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// Whether a value as written refers to the environment; such a value is never overwritten by what it
/// resolves to.
pub(super) fn is_reference(value: &str) -> bool {
    contains_reference(value)
}

/// Appends `.key`, or `["key"]` when the key is not a plain name.
///
/// Source: `appendConfigPathSegment`, src/shared/dot-path.ts at 2026.9.6.
pub(super) fn push_segment(path: &mut String, key: &str) {
    let bytes = key.as_bytes();
    let plain = bytes
        .first()
        .is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'_' | b'$'))
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b':' | b'-'));
    if plain {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    } else {
        path.push_str(&format!("[{}]", Value::String(key.to_owned())));
    }
}

fn dotted<'a>(path: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for segment in path {
        if !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit()) {
            out.push_str(&format!("[{segment}]"));
        } else {
            push_segment(&mut out, segment);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().expect("temp dir");
            for (name, text) in files {
                let file = dir.path().join(name);
                std::fs::create_dir_all(file.parent().expect("parent")).expect("mkdir");
                std::fs::write(file, text).expect("write");
            }
            Self(dir)
        }

        fn read(&self, vars: &[(&str, &str)]) -> ConfigDocument {
            let mut env = Env::from_pairs(vars.iter().copied());
            env.set("HOME", self.0.path().to_string_lossy());
            env.set("OPENCLAW_STATE_DIR", self.0.path().to_string_lossy());
            ConfigDocument::read(&Paths::resolve(&env).expect("paths"), &env)
        }

        fn fault(&self) -> (String, String) {
            let document = self.read(&[]);
            let (issue, error) = document.fault().expect("a fault");
            let root = self.0.path().to_string_lossy().into_owned();
            (
                issue.message.replace(&root, "~"),
                error.to_string().replace(&root, "~"),
            )
        }
    }

    #[test]
    fn includes_merge_and_siblings_win() {
        let dir = Dir::new(&[
            (
                "openclaw.json",
                "{ $include: ['./a.json5', 'sub/b.json5'], gateway: { port: 3, x: { $include: 'x.json' } }, list: ['own'] }",
            ),
            (
                "a.json5",
                "{ gateway: { port: 1, bind: 'lan' }, list: ['a'] }",
            ),
            (
                "sub/b.json5",
                "{ $include: './c.json5', gateway: { port: 2 }, list: ['b'] }",
            ),
            ("sub/c.json5", "{ deep: true }"),
            ("x.json", "[1, 2]"),
        ]);
        let document = dir.read(&[]);
        assert!(document.fault().is_none(), "{:?}", document.fault());
        let want = json!({
            "gateway": {"port": 3, "bind": "lan", "x": [1, 2]}, "list": ["a", "b", "own"], "deep": true
        });
        assert_eq!(document.resolved, want);
        assert_eq!(document.included.len(), 4);
        let place = |path: &[&str]| {
            let (file, at) = document.locate(path).expect("found");
            (
                file.file_name()
                    .expect("name")
                    .to_string_lossy()
                    .into_owned(),
                at,
            )
        };
        assert_eq!(place(&["gateway", "bind"]), ("a.json5".to_owned(), (1, 23)));
        assert_eq!(place(&["gateway", "port"]).0, "openclaw.json");
        assert_eq!(place(&["deep"]).0, "c.json5");
    }

    #[test]
    fn references_resolve_or_stay() {
        let dir = Dir::new(&[
            (
                "openclaw.json",
                "{ a: '${X}/$${X}/${lower}/$', b: ['${NONE}', '${EMPTY}'], 'c d': '${NONE}', e: '${FROM_FILE}${FROM_VARS}', env: { vars: { FROM_VARS: 'v', X: 'ignored' } } }",
            ),
            (".env", "FROM_FILE=f\n"),
        ]);
        let document = dir.read(&[("X", "x"), ("EMPTY", "")]);
        assert_eq!(document.resolved["a"], json!("x/${X}/${lower}/$"));
        assert_eq!(document.resolved["b"], json!(["${NONE}", "${EMPTY}"]));
        assert_eq!(document.resolved["e"], json!("fv"));
        let missing: Vec<_> = document
            .missing_vars
            .iter()
            .map(|(name, path)| format!("{name} {path}"))
            .collect();
        assert_eq!(missing, ["NONE b[0]", "EMPTY b[1]", "NONE [\"c d\"]"]);
        assert_eq!(document.parsed["a"], json!("${X}/$${X}/${lower}/$"));
    }

    #[test]
    fn faults_name_the_place() {
        let check = |files: &[(&str, &str)], issue: &str, error: &str| {
            let got = Dir::new(files).fault();
            assert_eq!(got.0, issue);
            assert!(got.1.starts_with(error), "{}", got.1);
        };
        check(
            &[("openclaw.json", "{\n  a: 1\n  b: 2\n}")],
            "JSON5 parse failed: SyntaxError: JSON5: invalid character 'b' at 3:3",
            "~/openclaw.json:3:3: JSON5: invalid character 'b' at 3:3; correct",
        );
        check(
            &[("openclaw.json", "[]")],
            "Invalid input: expected object, received array",
            "~/openclaw.json:1:1: Invalid input",
        );
        check(
            &[("openclaw.json", "{\n a: { $include: '../x' } }")],
            "Include path escapes config directory: ../x (root: ~)",
            "~/openclaw.json:2:2: a.$include: Include path escapes",
        );
        check(
            &[
                ("openclaw.json", "{ $include: 'a' }"),
                ("a", "{ $include: 'openclaw.json' }"),
            ],
            "Circular include detected: ~/openclaw.json -> ~/a -> ~/openclaw.json",
            "~/a:1:1: $include: Circular",
        );
        check(
            &[("openclaw.json", "{ $include: 'a' }"), ("a", "{\n x }")],
            "Failed to parse include file: a (resolved: ~/a)",
            "~/a:2:4: $include: Failed to parse include file: a",
        );
        check(
            &[("openclaw.json", "{ $include: 'none' }")],
            "Failed to read include file: none (resolved: ~/none)",
            "~/openclaw.json:1:1: $include: Failed",
        );
        check(
            &[
                ("openclaw.json", "{ b: 1, $include: ['a', 3] }"),
                ("a", "{}"),
            ],
            "Invalid $include array item: expected string, got number",
            "~/openclaw.json:1:1: $include: Invalid",
        );
        check(
            &[
                ("openclaw.json", "{ x: { b: 1, $include: 'a' } }"),
                ("a", "[]"),
            ],
            "Sibling keys require included content to be an object",
            "~/openclaw.json:1:3: x.$include: Sibling",
        );
    }

    #[test]
    fn includes_stay_inside_and_shallow() {
        let outside = Dir::new(&[("secret.json", "{ s: 1 }")]);
        let secret = outside.0.path().join("secret.json");
        let text = format!("{{ $include: {:?} }}", secret.to_string_lossy());
        let dir = Dir::new(&[("openclaw.json", &text)]);
        assert!(
            dir.fault()
                .0
                .starts_with("Include path escapes config directory")
        );
        let roots = outside.0.path().to_string_lossy().into_owned();
        assert_eq!(
            dir.read(&[("OPENCLAW_INCLUDE_ROOTS", &roots)]).resolved["s"],
            json!(1)
        );

        let linked = Dir::new(&[("openclaw.json", "{ $include: 'link.json' }")]);
        std::os::unix::fs::symlink(&secret, linked.0.path().join("link.json")).expect("symlink");
        assert!(
            linked.fault().0.contains("(symlink)"),
            "{:?}",
            linked.fault()
        );

        let mut files: Vec<(String, String)> = (0..12)
            .map(|n| (format!("f{n}"), format!("{{ $include: 'f{}' }}", n + 1)))
            .collect();
        files.push(("openclaw.json".to_owned(), "{ $include: 'f0' }".to_owned()));
        let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(
            Dir::new(&files).fault().0,
            "Maximum include depth (10) exceeded at: f10"
        );
    }

    #[test]
    fn no_file_is_an_empty_valid_document() {
        let document = Dir::new(&[]).read(&[]);
        assert!(!document.exists && document.fault().is_none());
        assert_eq!(document.resolved, json!({}));
    }
}
