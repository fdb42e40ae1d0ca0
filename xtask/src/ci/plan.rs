//! Which suites there are, in which order, and what may run beside what.

use crate::Result;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(super) struct Suite {
    pub(super) name: String,
    /// Suites without which this one makes no sense.
    pub(super) needs: &'static [&'static str],
    pub(super) work: Work,
}

pub(super) enum Work {
    /// Begins beside what follows: it mostly waits for others' servers, and a build needs nothing of it.
    SetupBegins,
    Setup,
    Tidy,
    Cargo(Vec<&'static str>),
    /// Cargo beside the suites that follow, until [`Work::Awaited`] of the same name: the end of a release
    /// build is one thread's work, and half the machine would wait for it.
    Beside(Vec<&'static str>),
    /// The end of what runs beside.
    Awaited,
    /// Tests by `node --test`: these files.
    NodeTests(Vec<PathBuf>),
    /// The same, beside others of the kind that follow or precede (see [`SHARING`]).
    SharedNodeTests(Vec<PathBuf>),
    BinarySize,
    BenchSmoke,
}

/// Folders of tests that no deadline depends on: they run while the release build ends, which is one thread's work.
const MEANWHILE: [&str; 4] = ["addon", "deploy", "routing", "tables"];

/// Folders of tests that share the machine, [`LANES`] at a time, the longest first: most of their time they wait, for an OpenClaw that
/// starts, for a client. What measures, or floods, has the machine to itself, and so has a folder that is not named.
const SHARING: [&str; 10] = [
    "native",
    "clients",
    "messages",
    "assistant",
    "crash",
    "conformance",
    "lib",
    "security",
    "channels",
    "monitoring",
];
pub(super) const LANES: u16 = 2;
/// Each lane has its own part of the ports that tests listen at (see `freePort` of tests/lib/tools.mjs).
pub(super) const PORTS: Range<u16> = 20_000..32_000;

pub(super) fn suites(root: &Path) -> Result<Vec<Suite>> {
    let suite = |name: &str, needs, work| Suite {
        name: name.to_owned(),
        needs,
        work,
    };
    // By itself, as people build it: together with `bench` it would get that one's features too.
    let release = vec!["build", "--release", "--locked", "-p", "gateway"];
    let mut all = vec![
        suite("setup", &[], Work::SetupBegins),
        suite("fmt", &[], Work::Cargo(vec!["fmt", "--all", "--check"])),
        suite("tidy", &[], Work::Tidy),
        suite("release build", &[], Work::Beside(release)),
        // All targets, as `cargo test` has them: the same features, so nothing is compiled twice. The lints are
        // found on the way (see `lints`).
        suite(
            "build",
            &[],
            Work::Cargo(vec!["build", "--workspace", "--all-targets", "--locked"]),
        ),
        suite("setup", &[], Work::Setup),
        suite(
            "cargo test",
            // The channels are tested against real servers.
            &["setup"],
            Work::Cargo(vec!["test", "--workspace", "--locked", "--no-fail-fast"]),
        ),
    ];
    let (meanwhile, then): (Vec<_>, Vec<_>) = node_suites(root)?
        .into_iter()
        .partition(|(folder, _)| MEANWHILE.contains(&folder.as_str()));
    let (mut sharing, alone): (Vec<_>, Vec<_>) = then
        .into_iter()
        .partition(|(folder, _)| SHARING.contains(&folder.as_str()));
    sharing.sort_by_key(|(folder, _)| SHARING.iter().position(|name| name == folder));
    let tests = |(folder, files): (String, Vec<PathBuf>)| {
        // `make run` is one of the clients' tests.
        let needs: &[_] = match folder == "clients" {
            true => &["setup", "build", "release build"],
            false => &["setup", "build"],
        };
        let work = match SHARING.contains(&folder.as_str()) {
            true => Work::SharedNodeTests(files),
            false => Work::NodeTests(files),
        };
        suite(&format!("tests/{folder}"), needs, work)
    };
    all.extend(meanwhile.into_iter().map(tests));
    all.push(suite("release build", &[], Work::Awaited));
    all.extend(sharing.into_iter().chain(alone).map(tests));
    all.push(suite("binary size", &["release build"], Work::BinarySize));
    all.push(suite("bench smoke", &["setup", "build"], Work::BenchSmoke));
    Ok(all)
}

/// Folders under `tests/` with `*.test.mjs` files, by name, the harness's own first.
fn node_suites(root: &Path) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let tests = root.join("tests");
    let mut found = Vec::new();
    for folder in entries(&tests)? {
        let name = file_name(&folder);
        if ["node_modules", "python_modules"].contains(&&*name) || !folder.is_dir() {
            continue;
        }
        let mut files = entries(&folder)?;
        files.retain(|file| file_name(file).ends_with(".test.mjs"));
        if !files.is_empty() {
            found.push((name, files));
        }
    }
    found.sort_by_key(|(name, _)| (name != "lib", name.clone()));
    Ok(found)
}

pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = fs::read_dir(folder)
        .and_then(|list| {
            list.map(|e| e.map(|e| e.path()))
                .collect::<std::io::Result<Vec<_>>>()
        })
        .map_err(|e| format!("{}: {e}", folder.display()))?;
    all.sort();
    Ok(all)
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The suites named, with those they need; all when none is named.
pub(super) fn pick(all: Vec<Suite>, names: &[String]) -> Result<Vec<Suite>> {
    if names.is_empty() {
        return Ok(all);
    }
    let mut wanted: Vec<&str> = Vec::new();
    for name in names {
        let Some(suite) = all.iter().find(|s| s.name == *name) else {
            return Err(format!("no suite `{name}`: see `cargo xtask ci --list`"));
        };
        wanted.push(&suite.name);
        wanted.extend(suite.needs);
    }
    let keep: Vec<bool> = all
        .iter()
        .map(|s| wanted.contains(&s.name.as_str()))
        .collect();
    Ok(all
        .into_iter()
        .zip(keep)
        .filter_map(|(suite, keep)| keep.then_some(suite))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_suite_brings_what_it_needs() {
        let all = || {
            suites(
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .parent()
                    .expect("in a workspace"),
            )
        };
        let picked = pick(all().expect("readable"), &["tests/lib".to_owned()]).expect("exists");
        let names: Vec<&str> = picked.iter().map(|s| s.name.as_str()).collect();
        // The setup begins, and is awaited.
        assert_eq!(names, ["setup", "build", "setup", "tests/lib"]);
        let Err(error) = pick(all().expect("readable"), &["nope".to_owned()]) else {
            panic!("no such suite")
        };
        assert!(error.contains("nope"), "{error}");
    }
}
