//! `memory.search.extraPaths`: folders and files beside an agent's own, which are memory too.
//!
//! Source: docs/reference/memory-config.md and `normalizeExtraMemoryPathEntries` of packages/memory-host-sdk at 2026.9.6. A
//! path is relative to the workspace; a folder's Markdown is read at any depth, narrowed by a pattern if there is one. Links
//! are not followed, neither the configured path itself nor what is under it.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::assistant::PathGlob;
use crate::native::agents::Places;

/// More of them are left out.
const EXTRA_MAX: usize = 100;

/// One configured path.
pub(crate) struct Extra {
    /// Absolute, without `.` and `..`.
    pub(super) path: PathBuf,
    pattern: Option<PathGlob>,
}

impl Extra {
    /// The general ones, then the agent's own: an empty list of its own takes none away.
    pub(super) fn all(
        lists: [Option<&Value>; 2],
        workspace: &Path,
        places: &Places<'_>,
    ) -> Vec<Self> {
        let rows = lists.into_iter().flatten().filter_map(Value::as_array);
        let mut all: Vec<Self> = Vec::new();
        for row in rows.flatten().take(EXTRA_MAX) {
            let path = row.as_str().or_else(|| row["path"].as_str());
            let Some(path) = path.map(str::trim).filter(|path| !path.is_empty()) else {
                continue;
            };
            let pattern = match row["pattern"]
                .as_str()
                .filter(|pattern| !pattern.is_empty())
            {
                None => None,
                // What is no pattern matches nothing.
                Some(pattern) => match PathGlob::new(&pattern.replace('\\', "/")) {
                    Some(glob) => Some(glob),
                    None => continue,
                },
            };
            all.push(Self {
                path: plain(&workspace.join(places.expand(path))),
                pattern,
            });
        }
        all
    }

    /// Whether a file is meant; `inside` is its path from the configured one on, empty for that itself.
    pub(super) fn has(&self, inside: &str) -> bool {
        if inside.is_empty() {
            return self.path.to_str().is_some_and(|path| path.ends_with(".md"));
        }
        inside.ends_with(".md")
            && self
                .pattern
                .as_ref()
                .is_none_or(|glob| glob.matches(inside))
    }

    /// The rest of a path that is under this one; empty for this one itself.
    pub(super) fn inside(&self, full: &Path) -> Option<String> {
        Some(full.strip_prefix(&self.path).ok()?.to_str()?.to_owned())
    }
}

/// Without `.` and `..`, as written: links are not looked at.
pub(super) fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// How hits name a file: from the workspace on, upwards if need be. `None` for a name that is no text.
pub(super) fn named(workspace: &Path, full: &Path) -> Option<String> {
    let (mut from, mut to) = (
        workspace.components().peekable(),
        full.components().peekable(),
    );
    while from.peek().is_some() && from.peek() == to.peek() {
        from.next();
        to.next();
    }
    let mut out: PathBuf = from.map(|_| "..").collect();
    out.extend(to);
    Some(out.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_resolved_named_and_narrowed_as_by_the_original() {
        let (general, own) = (
            json!(["../team", "~/x/../notes", { "path": "/srv/shared", "pattern": "runbooks/**/*.md" }, { "path": "only.md" }, "", 5]),
            json!([]),
        );
        let places = Places {
            state_dir: Path::new("/s"),
            home: Path::new("/home/ada"),
            workspace_variable: None,
            state_dir_is_set: true,
        };
        let workspace = Path::new("/s/w");
        let all = Extra::all([Some(&general), Some(&own)], workspace, &places);
        let paths: Vec<&Path> = all.iter().map(|extra| extra.path.as_path()).collect();
        assert_eq!(
            paths,
            ["/s/team", "/home/ada/notes", "/srv/shared", "/s/w/only.md"].map(Path::new)
        );
        assert_eq!(
            named(workspace, Path::new("/s/team/a.md")).unwrap(),
            "../team/a.md"
        );
        assert_eq!(
            named(workspace, Path::new("/s/w/only.md")).unwrap(),
            "only.md"
        );
        assert!(all[0].has("deep/a.md") && !all[0].has("a.txt"));
        assert!(all[2].has("runbooks/a.md") && all[2].has("runbooks/x/y.md"));
        assert!(!all[2].has("other/a.md") && !all[2].has("a.md"));
        let inside = |extra: &Extra, path: &str| extra.inside(Path::new(path));
        assert_eq!(inside(&all[3], "/s/w/only.md").as_deref(), Some(""));
        assert_eq!(inside(&all[0], "/s/teammates/a.md"), None);
        let root_only = json!([{ "path": "d", "pattern": "*.md" }]);
        let root_only = Extra::all([Some(&root_only), None], workspace, &places);
        assert!(root_only[0].has("a.md") && !root_only[0].has("b/a.md"));
    }
}
