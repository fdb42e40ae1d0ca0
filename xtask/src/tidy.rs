//! `cargo xtask tidy`: what the compiler cannot check about the source tree.
//!
//! Each rule is a function over the tracked files; each finding says which file, and what to do.

mod edges;

use crate::{Result, process};
use edges::EDGES;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A tracked text file: path from the root, and content.
struct Text {
    path: String,
    content: String,
}

/// Lines of code in one file before it wants to be two.
const LINES_MAX: usize = 800;
/// Longer files, each with its reason. This list may only shrink.
const LONG_FILES: [(&str, &str); 0] = [];

/// Folders of `docs/decisions/` follow one form.
const DECISION_HEADINGS: [&str; 4] = [
    "## Context",
    "## Decision",
    "## Consequences",
    "## What would show it wrong",
];

pub(crate) fn command(root: &Path) -> Result<()> {
    let files = tracked(root)?;
    let findings = check(&files);
    if findings.is_empty() {
        println!("tidy: {} files, nothing to complain about", files.len());
        return Ok(());
    }
    for finding in &findings {
        println!("    {finding}");
    }
    Err(format!("tidy: {} findings", findings.len()))
}

fn check(files: &[Text]) -> Vec<String> {
    let mut findings = Vec::new();
    crate_edges(files, &mut findings);
    for file in files {
        long_file(file, &mut findings);
        leftovers(file, &mut findings);
        machine_paths(file, &mut findings);
        purpose(file, &mut findings);
        links(file, files, &mut findings);
        make_targets(file, files, &mut findings);
    }
    decisions(files, &mut findings);
    maps(files, &mut findings);
    named_files(files, &mut findings);
    findings
}

/// Every file git would show a newcomer; without git, every file but build products.
fn tracked(root: &Path) -> Result<Vec<Text>> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ])
    .current_dir(root);
    let paths: Vec<String> = match git.output() {
        Ok(done) if done.status.success() => String::from_utf8(done.stdout)
            .map_err(|e| format!("{}: {e}", process::show(&git)))?
            .split_terminator('\0')
            .map(str::to_owned)
            .collect(),
        _ => {
            let mut paths = Vec::new();
            walk(root, "", &mut paths)?;
            paths
        }
    };
    let mut files = Vec::new();
    for path in paths {
        let full = root.join(&path);
        // Deleted but not committed, or a link: nothing to read.
        if !full.is_file() || full.is_symlink() {
            continue;
        }
        let bytes = fs::read(&full).map_err(|e| format!("{path}: {e}"))?;
        // Binary files (pictures, fuzz corpora) have no text to check.
        if let Ok(content) = String::from_utf8(bytes) {
            files.push(Text { path, content });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn walk(root: &Path, folder: &str, paths: &mut Vec<String>) -> Result<()> {
    let list = fs::read_dir(root.join(folder)).map_err(|e| format!("{folder}: {e}"))?;
    for entry in list {
        let entry = entry.map_err(|e| format!("{folder}: {e}"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() {
            name.clone()
        } else {
            format!("{folder}/{name}")
        };
        if [
            "target",
            "artifacts",
            "node_modules",
            "python_modules",
            ".git",
        ]
        .contains(&name.as_str())
        {
            continue;
        }
        if entry
            .file_type()
            .map_err(|e| format!("{path}: {e}"))?
            .is_dir()
        {
            walk(root, &path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

// === crates ===

/// Section, key and line number of each entry in a manifest.
fn manifest_entries(content: &str) -> Vec<(String, String, usize)> {
    let mut section = String::new();
    let mut entries = Vec::new();
    for (index, line) in content.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = header.trim_matches(['[', ']']).to_owned();
            // [dependencies.name]
            if let Some((table, name)) = section.split_once("dependencies.") {
                entries.push((format!("{table}dependencies"), name.to_owned(), index + 1));
            }
        } else if let Some((key, _)) = line.split_once('=')
            && !line.starts_with('#')
        {
            let name = key
                .trim()
                .split('.')
                .next()
                .unwrap_or_default()
                .trim_matches('"');
            entries.push((section.clone(), name.to_owned(), index + 1));
        }
    }
    entries
}

fn crate_edges(files: &[Text], findings: &mut Vec<String>) {
    let manifests = files
        .iter()
        .filter(|f| f.path.ends_with("/Cargo.toml") && !f.path.starts_with("fuzz/"));
    for file in manifests {
        let folder = file.path.trim_end_matches("/Cargo.toml");
        let name = folder.rsplit('/').next().unwrap_or(folder);
        let Some(edges) = EDGES.iter().find(|e| e.name == name) else {
            findings.push(format!(
                "{}: crate `{name}` has no line in EDGES (xtask/src/tidy.rs)",
                file.path
            ));
            continue;
        };
        for (section, key, line) in manifest_entries(&file.content) {
            if !section.ends_with("dependencies") {
                continue;
            }
            let ours = EDGES.iter().any(|e| e.name == key);
            // What only tests use may be anything from outside: it reaches no user.
            let for_tests = section.ends_with("dev-dependencies");
            let allowed = if ours {
                edges.ours.contains(&key.as_str())
            } else {
                for_tests
                    || (edges.only.is_none_or(|only| only.contains(&key.as_str()))
                        && !edges.never.contains(&key.as_str()))
            };
            if !allowed {
                findings.push(format!(
                    "{}:{line}: `{name}` must not depend on `{key}`; if that is meant to change, EDGES and a decision change first",
                    file.path
                ));
            }
        }
        if !file.content.contains("[lints]\nworkspace = true") {
            findings.push(format!("{}: add [lints] workspace = true", file.path));
        }
    }
}

// === text ===

fn is_code(path: &str) -> bool {
    [".rs", ".mjs", ".js", ".py", ".sh"]
        .iter()
        .any(|end| path.ends_with(end))
}

fn long_file(file: &Text, findings: &mut Vec<String>) {
    let lines = file.content.lines().count();
    let excused = LONG_FILES.iter().any(|(path, _)| *path == file.path);
    if is_code(&file.path) && lines > LINES_MAX && !excused {
        findings.push(format!(
            "{}: {lines} lines, more than {LINES_MAX}: split it",
            file.path
        ));
    }
    if excused && lines <= LINES_MAX {
        findings.push(format!(
            "{}: no longer long, take it off LONG_FILES",
            file.path
        ));
    }
}

/// What must not stay behind. Written in two halves so that this file is not its own finding.
const LEFTOVERS: [(&str, &str); 11] = [
    (
        concat!("FIX", "ME"),
        "fix it, or open an issue and write TODO(#number)",
    ),
    (concat!("todo", "!("), "write it"),
    (concat!("unimpl", "emented!("), "write it"),
    (concat!("db", "g!("), "remove it"),
    (
        concat!("#[ign", "ore"),
        "a test that does not run proves nothing: fix or delete it",
    ),
    (
        concat!("test.sk", "ip("),
        "a test that does not run proves nothing: fix or delete it",
    ),
    (
        concat!("describe.sk", "ip("),
        "a test that does not run proves nothing: fix or delete it",
    ),
    (
        concat!("it.sk", "ip("),
        "a test that does not run proves nothing: fix or delete it",
    ),
    (concat!("test.to", "do("), "write it, or open an issue"),
    (
        concat!("test.on", "ly("),
        "remove it: the others must run too",
    ),
    (
        concat!("it.on", "ly("),
        "remove it: the others must run too",
    ),
];

fn leftovers(file: &Text, findings: &mut Vec<String>) {
    if !is_code(&file.path) {
        return;
    }
    for (number, line) in numbered(&file.content) {
        for (word, advice) in LEFTOVERS {
            // `await.only(` or `edit.skip(` are other words.
            let whole = word.starts_with(['#', 'F']) || starts_a_word(line, word);
            if whole && line.contains(word) {
                findings.push(format!("{}:{number}: `{word}`: {advice}", file.path));
            }
        }
        let todo = concat!("TO", "DO");
        if let Some((_, rest)) = line.split_once(todo)
            && starts_a_word(line, todo)
            && !rest.starts_with("(#")
            && !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        {
            findings.push(format!(
                "{}:{number}: name the issue: {todo}(#number)",
                file.path
            ));
        }
    }
}

/// Whether `word` occurs in `line` with nothing before it that could belong to it.
fn starts_a_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || ['_', '-', '.', '}'].contains(&c))
    })
}

/// Roots that exist on one machine only.
const MACHINE_ROOTS: [&str; 2] = [concat!("/ro", "ot/"), concat!("/wo", "rk/")];
/// Hosts that serve packages: which one is used is the machine's own setting.
const PACKAGE_HOSTS: [&str; 9] = [
    concat!("registry.np", "mjs"),
    concat!("registry.yar", "npkg"),
    concat!("npm", "mirror"),
    concat!("static.cra", "tes.io"),
    concat!("index.cra", "tes.io"),
    concat!("files.python", "hosted"),
    concat!("deb.deb", "ian"),
    concat!("proxy.gol", "ang"),
    concat!("\"resolved\": \"", "http"),
];

fn machine_paths(file: &Text, findings: &mut Vec<String>) {
    for (number, line) in numbered(&file.content) {
        for root in MACHINE_ROOTS {
            if starts_a_word(line, root) {
                findings.push(format!(
                    "{}:{number}: `{root}` is a path of one machine",
                    file.path
                ));
            }
        }
        for host in PACKAGE_HOSTS {
            if line.contains(host) {
                findings.push(format!(
                    "{}:{number}: `{host}`: leave the registry to the machine's settings",
                    file.path
                ));
            }
        }
    }
}

fn numbered(content: &str) -> impl Iterator<Item = (usize, &str)> {
    content
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// A file opens by saying what it is.
fn purpose(file: &Text, findings: &mut Vec<String>) {
    let comment = if file.path.ends_with(".rs") {
        "//!"
    } else {
        "//"
    };
    // A `tests.rs` says by its place what it tests.
    let named = file.path.ends_with("/tests.rs");
    let code = !named && (file.path.ends_with(".rs") || file.path.ends_with(".mjs"));
    let first = file.content.lines().find(|line| !line.starts_with("#!"));
    if code && !first.is_some_and(|line| line.starts_with(comment)) {
        findings.push(format!(
            "{}:1: open with `{comment}`: what this file is for",
            file.path
        ));
    }
}

// === documents ===

/// Relative links in Markdown lead somewhere.
fn links(file: &Text, files: &[Text], findings: &mut Vec<String>) {
    if !file.path.ends_with(".md") {
        return;
    }
    for (number, line) in numbered(&file.content) {
        for piece in line.split("](").skip(1) {
            let target = piece.split([')', '#', ' ']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let path = join(&file.path, target);
            let there = files
                .iter()
                .any(|f| f.path == path || f.path.starts_with(&format!("{path}/")));
            // Pictures are not text and so not in the list.
            let picture = target.ends_with(".png") || target.ends_with(".svg");
            if !there && !picture {
                findings.push(format!(
                    "{}:{number}: the link to {target} leads nowhere",
                    file.path
                ));
            }
        }
    }
}

/// `target` as seen from the folder of `from`.
fn join(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// Every `make x` that a document mentions exists.
fn make_targets(file: &Text, files: &[Text], findings: &mut Vec<String>) {
    let Some(makefile) = files.iter().find(|f| f.path == "Makefile") else {
        return;
    };
    if !file.path.ends_with(".md") {
        return;
    }
    let mut in_code = false;
    for (number, line) in numbered(&file.content) {
        in_code ^= line.starts_with("```");
        let quoted = line.split("`make ").skip(1);
        let typed = line.strip_prefix("make ").filter(|_| in_code).into_iter();
        for rest in quoted.chain(typed) {
            let target = rest
                .split(|c: char| !c.is_ascii_lowercase() && c != '-')
                .next()
                .unwrap_or_default();
            if !makefile.content.contains(&format!("\n{target}:")) {
                findings.push(format!(
                    "{}:{number}: the Makefile has no target `{target}`",
                    file.path
                ));
            }
        }
    }
}

/// Decisions have one form, one number each, and are listed.
fn decisions(files: &[Text], findings: &mut Vec<String>) {
    let index = files
        .iter()
        .find(|f| f.path == "docs/README.md")
        .map_or("", |f| &f.content);
    let mut numbers = Vec::new();
    for file in files
        .iter()
        .filter(|f| f.path.starts_with("docs/") && f.path.ends_with(".md"))
    {
        let name = file.path.trim_start_matches("docs/");
        if name != "README.md" && !index.contains(name) {
            findings.push(format!("docs/README.md: does not list {name}"));
        }
        let Some(decision) = name.strip_prefix("decisions/") else {
            continue;
        };
        let number = decision.split('-').next().unwrap_or_default();
        if numbers.contains(&number) {
            findings.push(format!("{}: number {number} is taken", file.path));
        }
        numbers.push(number);
        for heading in DECISION_HEADINGS {
            if !file.content.lines().any(|line| line == heading) {
                findings.push(format!("{}: lacks `{heading}`", file.path));
            }
        }
    }
}

/// Source files that the map names exist.
fn named_files(files: &[Text], findings: &mut Vec<String>) {
    let Some(map) = files.iter().find(|f| f.path == "ARCHITECTURE.md") else {
        return;
    };
    for (number, line) in numbered(&map.content) {
        for name in line.split('`').skip(1).step_by(2) {
            let is_file = name.ends_with(".rs") || name.ends_with(".mjs");
            let there = files
                .iter()
                .any(|f| f.path == name || f.path.ends_with(&format!("/{name}")));
            if is_file && !there {
                findings.push(format!("ARCHITECTURE.md:{number}: there is no {name}"));
            }
        }
    }
}

/// The map names every part, the test guide every suite, the change log has a place for what is new.
fn maps(files: &[Text], findings: &mut Vec<String>) {
    let mut must_name = |document: &str, what: &str, names: Vec<String>| {
        let Some(text) = files.iter().find(|f| f.path == document) else {
            findings.push(format!("{document} is missing"));
            return;
        };
        for name in names {
            if !text.content.contains(&name) {
                findings.push(format!("{document}: does not name the {what} {name}"));
            }
        }
    };
    let crates = EDGES.iter().map(|e| format!("`{}`", e.name)).collect();
    must_name("ARCHITECTURE.md", "crate", crates);
    let modules = files.iter().filter_map(|f| {
        f.path
            .strip_prefix("crates/gateway/src/")?
            .strip_suffix(".rs")
    });
    let modules = modules.filter(|m| !m.contains('/') && !["lib", "main"].contains(m));
    must_name(
        "ARCHITECTURE.md",
        "gateway part",
        modules.map(|m| format!("`{m}`")).collect(),
    );
    let suites = files
        .iter()
        .filter(|f| f.path.starts_with("tests/") && f.path.ends_with(".test.mjs"));
    let mut suites: Vec<String> = suites
        .filter_map(|f| Some(format!("`{}`", f.path.rsplit_once('/')?.0)))
        .collect();
    suites.dedup();
    must_name("docs/testing.md", "suite", suites);
    must_name(
        "CHANGELOG.md",
        "section",
        vec!["## [Unreleased]".to_owned()],
    );
}
#[cfg(test)]
mod tests;
