//! `$include`: other files merged into the tree, inside the configuration directory.
//!
//! Source: src/config/includes.ts at 2026.9.6 (rules and messages).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Source;
use crate::config::json5::{self, Position};
use crate::config::paths::absolute;

const KEY: &str = "$include";
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;
const PATH_LENGTH_MAX: usize = 4096;
const DEPTH_MAX: usize = 10;

/// Why an include cannot be followed.
pub(super) struct Fault {
    pub what: String,
    /// The path in the whole tree of the object that has the `$include`.
    pub under: Vec<String>,
    /// The file at fault when it is not the root file, and the place in it.
    pub file: Option<PathBuf>,
    pub at: Option<Position>,
}

/// One `$include` that was followed: an item of `includeProvenance` in `config.get`.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Include {
    /// Where in the whole tree the included content hangs.
    pub path: Vec<String>,
    /// `single` or `multiple`.
    pub kind: &'static str,
    pub has_sibling_overrides: bool,
    pub has_array_ancestor: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_paths: Option<Vec<PathBuf>>,
    #[serde(skip)]
    pub owns_roster: bool,
    #[serde(skip)]
    pub owns_bindings: bool,
}

impl Include {
    /// Which of the two lists that the original guards the included content brings.
    ///
    /// Source: src/config/agent-roster-provenance.ts at 2026.9.6.
    fn ownership(path: &[String], value: &Value) -> (bool, bool) {
        let has_roster =
            |agents: &Value| agents.get("entries").is_some() || agents.get("list").is_some();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let roster = match path.as_slice() {
            [] => value.get("agents").is_some_and(has_roster),
            ["agents"] => has_roster(value),
            ["agents", "entries" | "list"] | ["agents", "entries" | "list", _] => true,
            ["agents", "entries", _, field, ..] => *field == "default",
            ["agents", "list", _, field, ..] => matches!(*field, "id" | "default"),
            _ => false,
        };
        let bindings = match path.first() {
            None => value.get("bindings").is_some(),
            Some(first) => *first == "bindings",
        };
        (roster, bindings)
    }
}

pub(super) struct Includes {
    /// Allowed directories: as written and with symbolic links resolved; the first is the
    /// configuration file's own.
    roots: Vec<(PathBuf, PathBuf)>,
    pub files: Vec<PathBuf>,
    pub sources: Vec<Source>,
    pub provenance: Vec<Include>,
    /// How many lists enclose what is being read.
    lists: usize,
}

/// The file being read and those that led to it.
struct Chain<'a> {
    base: &'a Path,
    visited: Vec<PathBuf>,
}

impl Includes {
    pub(crate) fn new(config_file: &Path, extra_roots: &[PathBuf]) -> Self {
        let dir = config_file.parent().unwrap_or(Path::new("/")).to_path_buf();
        let roots = std::iter::once(&dir)
            .chain(extra_roots)
            .map(|root| {
                (
                    absolute(root),
                    root.canonicalize().unwrap_or_else(|_| absolute(root)),
                )
            })
            .collect();
        Self {
            roots,
            files: Vec::new(),
            sources: Vec::new(),
            provenance: Vec::new(),
            lists: 0,
        }
    }

    pub(crate) fn process(&mut self, config_file: &Path, parsed: &Value) -> Result<Value, Fault> {
        let chain = Chain {
            base: config_file,
            visited: vec![absolute(config_file)],
        };
        self.value(&chain, parsed, &mut Vec::new())
    }

    fn value(
        &mut self,
        chain: &Chain<'_>,
        value: &Value,
        under: &mut Vec<String>,
    ) -> Result<Value, Fault> {
        match value {
            Value::Array(items) => {
                let mut out = Vec::with_capacity(items.len());
                self.lists += 1;
                for (index, item) in items.iter().enumerate() {
                    under.push(index.to_string());
                    out.push(self.value(chain, item, under)?);
                    under.pop();
                }
                self.lists -= 1;
                Ok(Value::Array(out))
            }
            Value::Object(members) if members.contains_key(KEY) => {
                self.include(chain, members, under)
            }
            Value::Object(members) => Ok(Value::Object(self.members(chain, members, under)?)),
            other => Ok(other.clone()),
        }
    }

    fn members(
        &mut self,
        chain: &Chain<'_>,
        members: &Map<String, Value>,
        under: &mut Vec<String>,
    ) -> Result<Map<String, Value>, Fault> {
        let mut out = Map::new();
        for (key, item) in members.iter().filter(|(key, _)| *key != KEY) {
            under.push(key.clone());
            let resolved = self.value(chain, item, under)?;
            under.pop();
            out.insert(key.clone(), resolved);
        }
        Ok(out)
    }

    fn include(
        &mut self,
        chain: &Chain<'_>,
        members: &Map<String, Value>,
        under: &mut Vec<String>,
    ) -> Result<Value, Fault> {
        let place = under.clone();
        let fault = |what: String| Fault::at(chain, &place, what);
        let mut targets = Vec::new();
        let mut included = match &members[KEY] {
            Value::String(path) => self.load(chain, path, under, &mut targets)?,
            Value::Array(paths) => {
                let mut merged = Value::Object(Map::new());
                for path in paths {
                    let Value::String(path) = path else {
                        let got = js_type(path);
                        return Err(fault(format!(
                            "Invalid $include array item: expected string, got {got}"
                        )));
                    };
                    let next = self.load(chain, path, under, &mut targets)?;
                    merge(&mut merged, next);
                }
                merged
            }
            other => {
                let got = js_type(other);
                return Err(fault(format!(
                    "Invalid $include value: expected string or array of strings, got {got}"
                )));
            }
        };
        let (owns_roster, owns_bindings) = Include::ownership(&place, &included);
        let single = members[KEY].is_string();
        self.provenance.push(Include {
            path: place.clone(),
            kind: if single { "single" } else { "multiple" },
            has_sibling_overrides: members.len() > 1,
            has_array_ancestor: self.lists > 0,
            target_path: targets.first().filter(|_| single).cloned(),
            target_paths: (!single).then_some(targets),
            owns_roster,
            owns_bindings,
        });
        if members.len() == 1 {
            return Ok(included);
        }
        if !included.is_object() {
            return Err(fault(
                "Sibling keys require included content to be an object".to_owned(),
            ));
        }
        let siblings = self.members(chain, members, under)?;
        merge(&mut included, Value::Object(siblings));
        Ok(included)
    }

    fn load(
        &mut self,
        chain: &Chain<'_>,
        path: &str,
        under: &mut Vec<String>,
        targets: &mut Vec<PathBuf>,
    ) -> Result<Value, Fault> {
        let resolved = self
            .resolve(chain.base, path)
            .map_err(|what| Fault::at(chain, under, what))?;
        let fault = |what: String| Fault::at(chain, under, what);
        if chain.visited.contains(&resolved) {
            let mut names: Vec<_> = chain
                .visited
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            names.push(resolved.display().to_string());
            return Err(fault(format!(
                "Circular include detected: {}",
                names.join(" -> ")
            )));
        }
        if chain.visited.len() > DEPTH_MAX {
            return Err(fault(format!(
                "Maximum include depth ({DEPTH_MAX}) exceeded at: {path}"
            )));
        }
        let raw = read(path, &resolved).map_err(fault)?;
        let (parsed, spans) = json5::parse(&raw).map_err(|error| Fault {
            what: format!(
                "Failed to parse include file: {path} (resolved: {})",
                resolved.display()
            ),
            under: under.clone(),
            file: Some(resolved.clone()),
            at: Some(error.at),
        })?;
        // Before what it includes in turn: siblings win over included content.
        self.sources.push(Source {
            file: resolved.clone(),
            under: under.clone(),
            spans,
        });
        targets.push(resolved.clone());
        let mut visited = chain.visited.clone();
        visited.push(resolved.clone());
        self.value(
            &Chain {
                base: &resolved,
                visited,
            },
            &parsed,
            under,
        )
    }

    /// The absolute path of an include, after the containment checks.
    fn resolve(&mut self, base: &Path, path: &str) -> Result<PathBuf, String> {
        if path.contains('\0') {
            return Err("Include path must not contain null bytes".to_owned());
        }
        if path.len() >= PATH_LENGTH_MAX {
            return Err(format!(
                "Include path exceeds maximum length ({PATH_LENGTH_MAX} characters)"
            ));
        }
        let dir = base.parent().unwrap_or(Path::new("/"));
        let resolved = absolute(&dir.join(path));
        let root = self.roots[0].0.display().to_string();
        if !self
            .roots
            .iter()
            .any(|(lexical, _)| resolved.starts_with(lexical))
        {
            return Err(format!(
                "Include path escapes config directory: {path} (root: {root})"
            ));
        }
        self.files.push(resolved.clone());
        match resolved.canonicalize() {
            Ok(real)
                if !self
                    .roots
                    .iter()
                    .any(|(_, allowed)| real.starts_with(allowed)) =>
            {
                Err(format!(
                    "Include path resolves outside config directory (symlink): {path} (root: {root})"
                ))
            }
            Ok(real) => {
                self.files.push(real);
                Ok(resolved)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(resolved),
            Err(_) => Err(format!(
                "Failed to resolve include file realpath: {path} (resolved: {})",
                resolved.display()
            )),
        }
    }
}

impl Fault {
    fn at(chain: &Chain<'_>, under: &[String], what: String) -> Self {
        let in_include = chain.visited.len() > 1;
        Self {
            what,
            under: under.to_vec(),
            file: in_include.then(|| chain.base.to_path_buf()),
            at: in_include.then_some((1, 1)),
        }
    }
}

fn read(path: &str, resolved: &Path) -> Result<String, String> {
    let failed = || {
        format!(
            "Failed to read include file: {path} (resolved: {})",
            resolved.display()
        )
    };
    let meta = resolved.metadata().map_err(|_cause| failed())?;
    // A hard link could bring in a file of another directory under an allowed name.
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX || meta.nlink() > 1 {
        return Err(format!(
            "Include file failed security checks (regular file, max {FILE_BYTES_MAX} bytes, no hardlinks): {path}"
        ));
    }
    let bytes = std::fs::read(resolved).map_err(|_cause| failed())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Objects merge, arrays concatenate, anything else is replaced.
fn merge(target: &mut Value, source: Value) {
    match (target, source) {
        (Value::Object(target), Value::Object(source)) => {
            for (key, value) in source {
                match target.get_mut(&key) {
                    Some(known) => merge(known, value),
                    None => {
                        target.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(target), Value::Array(source)) => target.extend(source),
        (target, source) => *target = source,
    }
}

fn js_type(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Null | Value::Array(_) | Value::Object(_) => "object",
    }
}
