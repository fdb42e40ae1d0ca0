//! Each rule finds what it is for.

use super::*;

fn text(path: &str, content: &str) -> Text {
    Text {
        path: path.to_owned(),
        content: content.to_owned(),
    }
}

#[track_caller]
fn finds(rule: fn(&Text, &mut Vec<String>), path: &str, content: &str, expected: &[&str]) {
    let mut findings = Vec::new();
    rule(&text(path, content), &mut findings);
    assert_eq!(findings.len(), expected.len(), "{findings:?}");
    for (finding, part) in findings.iter().zip(expected) {
        assert!(finding.contains(part), "{finding} does not contain {part}");
    }
}

#[test]
fn crates_keep_to_their_edges() {
    let lints = "[lints]\nworkspace = true\n";
    let edges = |path: &str, content: &str| {
        let mut findings = Vec::new();
        crate_edges(&[text(path, &format!("{content}\n{lints}"))], &mut findings);
        findings
    };
    assert_eq!(
        edges(
            "crates/client/Cargo.toml",
            "[dependencies]\nwire.workspace = true"
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        edges(
            "crates/wire/Cargo.toml",
            "[dev-dependencies]\ntokio = \"1\""
        ),
        Vec::<String>::new()
    );
    for (path, content) in [
        (
            "crates/wire/Cargo.toml",
            "[dependencies]\ntokio.workspace = true",
        ),
        (
            "crates/client/Cargo.toml",
            "[dependencies]\ngateway = { path = \"../gateway\" }",
        ),
        (
            "crates/client/Cargo.toml",
            "[dev-dependencies]\ngateway = { path = \"../gateway\" }",
        ),
        (
            "crates/gateway/Cargo.toml",
            "[target.'cfg(unix)'.dependencies]\nrusqlite = \"1\"",
        ),
        (
            "crates/gateway/Cargo.toml",
            "[dependencies.axum]\nversion = \"1\"",
        ),
        ("xtask/Cargo.toml", "[build-dependencies]\nserde = \"1\""),
    ] {
        assert!(
            edges(path, content)[0].contains("must not depend"),
            "{content}"
        );
    }
    assert!(edges("crates/common/Cargo.toml", "")[0].contains("no line in EDGES"));
    let mut findings = Vec::new();
    crate_edges(
        &[text("crates/wire/Cargo.toml", "[dependencies]")],
        &mut findings,
    );
    assert!(findings[0].contains("[lints]"), "{findings:?}");
}

#[test]
fn long_files_are_found() {
    finds(long_file, "a.rs", &"x\n".repeat(LINES_MAX), &[]);
    finds(
        long_file,
        "a.rs",
        &"x\n".repeat(LINES_MAX + 1),
        &["801 lines"],
    );
    finds(long_file, "data.json", &"x\n".repeat(LINES_MAX + 1), &[]);
}

#[test]
fn leftovers_are_found() {
    for (word, _) in LEFTOVERS {
        finds(
            leftovers,
            "a.rs",
            &format!("fine\n    {word}\n"),
            &["a.rs:2"],
        );
        finds(leftovers, "a.md", word, &[]);
    }
    let todo = concat!("TO", "DO");
    finds(
        leftovers,
        "a.mjs",
        &format!("// {todo} later"),
        &["name the issue"],
    );
    finds(
        leftovers,
        "a.mjs",
        &format!("// {todo}(#12) later\nconst {todo}S = 1; edit.skip(1)"),
        &[],
    );
}

#[test]
fn paths_of_one_machine_are_found() {
    for root in MACHINE_ROOTS {
        finds(
            machine_paths,
            "a.md",
            &format!("see {root}x"),
            &["one machine"],
        );
        finds(
            machine_paths,
            "a.md",
            &format!("https://example.org{root}x and ./a{root}x"),
            &[],
        );
    }
    for host in PACKAGE_HOSTS {
        finds(
            machine_paths,
            "a.json",
            &format!("{host}.org"),
            &["registry"],
        );
    }
}

#[test]
fn files_say_what_they_are() {
    finds(purpose, "a.rs", "//! A thing.\n", &[]);
    finds(purpose, "a.rs", "// A thing.\n", &["open with `//!`"]);
    finds(purpose, "a.mjs", "#!/usr/bin/env node\n// A thing.\n", &[]);
    finds(
        purpose,
        "a.mjs",
        "import x from 'y';\n",
        &["open with `//`"],
    );
    finds(purpose, "a.rs", "", &["open with"]);
}

#[test]
fn documents_are_kept_in_step() {
    let crates: Vec<String> = EDGES.iter().map(|own| format!("`{}`", own.name)).collect();
    let crates = format!("{} `app` [tests](docs/testing.md#x)", crates.join(" "));
    let good = [
        text("ARCHITECTURE.md", &crates),
        text("CHANGELOG.md", "## [Unreleased]"),
        text("Makefile", "\nrun: x\n"),
        text("crates/gateway/src/app.rs", "//! The app."),
        text(
            "docs/README.md",
            "[why](decisions/0001-a.md), testing.md, `make run`",
        ),
        text("docs/decisions/0001-a.md", &DECISION_HEADINGS.join("\n\n")),
        text("docs/testing.md", "`tests/lib` [up](../CHANGELOG.md)"),
        text("tests/lib/self.test.mjs", "// The harness."),
    ];
    assert_eq!(check(&good), Vec::<String>::new());
    for (path, from, to, finding) in [
        ("ARCHITECTURE.md", "`app`", "", "gateway part `app`"),
        ("ARCHITECTURE.md", "`bench`", "", "crate `bench`"),
        (
            "ARCHITECTURE.md",
            "docs/testing.md",
            "docs/gone.md",
            "leads nowhere",
        ),
        ("CHANGELOG.md", "Unreleased", "1.0", "Unreleased"),
        (
            "docs/README.md",
            "make run",
            "make walk",
            "no target `walk`",
        ),
        (
            "docs/README.md",
            ", testing.md",
            "",
            "does not list testing.md",
        ),
        (
            "docs/decisions/0001-a.md",
            "## Context",
            "## Story",
            "lacks `## Context`",
        ),
        ("docs/testing.md", "tests/lib", "tests", "suite `tests/lib`"),
    ] {
        let bad: Vec<Text> = good
            .iter()
            .map(|f| {
                text(
                    &f.path,
                    &if f.path == path {
                        f.content.replace(from, to)
                    } else {
                        f.content.clone()
                    },
                )
            })
            .collect();
        let findings = check(&bad);
        assert!(
            findings.iter().any(|f| f.contains(finding)),
            "{finding}: {findings:?}"
        );
    }
}
