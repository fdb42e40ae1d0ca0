use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn write(file: &Path, text: &str) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A package at `root`, as npm lays it out.
fn install(root: &Path, version: &str) {
    write(
        &root.join("package.json"),
        &format!(r#"{{"name":"openclaw","version":"{version}"}}"#),
    );
    write(&root.join(ENTRY), "");
}

fn fake_node(file: &Path, version: &str) {
    write(file, &format!("#!/bin/sh\necho {version}\n"));
}

fn places(home: &Path, path: &[&Path]) -> Places {
    Places {
        path: Some(std::env::join_paths(path).unwrap()),
        home: Some(home.to_path_buf()),
        ..Places::default()
    }
}

#[test]
fn the_launcher_on_path_leads_to_its_package() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let prefix = root.join("prefix");
    install(&prefix.join("lib/node_modules/openclaw"), "2026.9.6");
    std::fs::create_dir_all(prefix.join("bin")).unwrap();
    std::os::unix::fs::symlink(
        "../lib/node_modules/openclaw/openclaw.mjs",
        prefix.join("bin/openclaw"),
    )
    .unwrap();
    let found = package(&places(&root, &[&prefix.join("bin")]), &[]).unwrap();
    assert_eq!(
        found,
        Package {
            root: prefix.join("lib/node_modules/openclaw"),
            version: "2026.9.6".to_owned()
        }
    );
}

#[test]
fn a_script_of_pnpm_leads_to_its_package() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    install(
        &root.join("pnpm/global/5/node_modules/openclaw"),
        "2026.9.6",
    );
    write(
        &root.join("pnpm/openclaw"),
        "#!/bin/sh\nbasedir=$(dirname \"$0\")\nexec node  \"$basedir/global/5/node_modules/openclaw/openclaw.mjs\" \"$@\"\n",
    );
    let found = package(&places(&root, &[&root.join("pnpm")]), &[]).unwrap();
    assert_eq!(found.root, root.join("pnpm/global/5/node_modules/openclaw"));
}

#[test]
fn global_packages_are_found_without_a_launcher_and_the_newest_first() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    for (node, version) in [("v24.9.0", "1.0.0"), ("v24.16.0", "2.0.0")] {
        install(
            &root
                .join(".nvm/versions/node")
                .join(node)
                .join("lib/node_modules/openclaw"),
            version,
        );
    }
    assert_eq!(package(&places(&root, &[]), &[]).unwrap().version, "2.0.0");

    write(
        &root.join(".npmrc"),
        "registry=https://example.invalid\nprefix = ~/packages\n",
    );
    install(&root.join("packages/lib/node_modules/openclaw"), "3.0.0");
    assert_eq!(package(&places(&root, &[]), &[]).unwrap().version, "3.0.0");
}

#[test]
fn what_the_settings_name_is_taken_or_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    install(&root.join("here"), "2026.9.6");
    let entry = root.join("here/openclaw.mjs").display().to_string();
    let nowhere = places(&root, &[]);
    assert_eq!(
        package(&nowhere, &["/any/node".to_owned(), entry])
            .unwrap()
            .root,
        root.join("here")
    );
    assert_eq!(
        package(&nowhere, &[root.join("here").display().to_string()])
            .unwrap()
            .version,
        "2026.9.6"
    );

    write(
        &root.join("other/package.json"),
        r#"{"name":"left-pad","version":"1.0.0"}"#,
    );
    let error = package(&nowhere, &[root.join("other").display().to_string()])
        .unwrap_err()
        .to_string();
    assert!(error.contains("is the package \"left-pad\""), "{error}");
    let error = package(&nowhere, &["/no/such/openclaw.mjs".to_owned()])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("[upstream] command names /no/such/openclaw.mjs"),
        "{error}"
    );
}

#[test]
fn nothing_installed_says_where_it_looked_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = package(&places(folder.path(), &[]), &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("npm install -g openclaw"), "{error}");
    assert!(
        error.contains(".npm-global/lib/node_modules/openclaw"),
        "{error}"
    );
}

#[tokio::test]
async fn the_first_node_that_is_new_enough_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    install(&root.join("prefix/lib/node_modules/openclaw"), "2026.9.6");
    let package = read_package(&root.join("prefix/lib/node_modules/openclaw")).unwrap();
    fake_node(&root.join("old/node"), "v22.1.0");
    fake_node(&root.join("new/node"), "v24.16.0");
    let found = node(
        &places(&root, &[&root.join("old"), &root.join("new")]),
        &package,
        &[],
        None,
    )
    .await
    .unwrap();
    assert_eq!(
        found,
        Node {
            program: root.join("new/node"),
            version: "24.16.0".to_owned()
        }
    );

    fake_node(&root.join("prefix/bin/node"), "v26.1.0");
    let found = node(&places(&root, &[&root.join("new")]), &package, &[], None)
        .await
        .unwrap();
    assert_eq!(
        found.version, "26.1.0",
        "the one beside the package comes first"
    );
}

#[tokio::test]
async fn no_usable_node_says_what_was_seen() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    install(&root.join("here"), "2026.9.6");
    let package = read_package(&root.join("here")).unwrap();
    fake_node(&root.join("old/node"), "v24.15.9");
    let error = node(&places(&root, &[&root.join("old")]), &package, &[], None)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("old/node is 24.15.9"), "{error}");
    assert!(error.contains(">=24.16 <25, or >=26.1"), "{error}");
    let named = ["/no/node".to_owned(), package.entry().display().to_string()];
    let error = node(&places(&root, &[]), &package, &named, None)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("/no/node is not usable"), "{error}");
}

#[test]
fn supported_nodes_are_the_originals() {
    for version in ["24.16.0", "24.99.1", "26.1.0", "27.0.0", "100.0.0"] {
        assert!(is_supported(version), "{version}");
    }
    for version in [
        "24.15.0",
        "25.0.0",
        "26.0.9",
        "22.20.0",
        "26.1.0-rc.1",
        "26.1",
        "",
        "x.y.z",
    ] {
        assert!(!is_supported(version), "{version}");
    }
}
