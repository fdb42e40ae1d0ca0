use super::*;

struct Here(tempfile::TempDir);

impl Here {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        Self(dir)
    }

    fn run(&self, tool: fn(&Root, &Value) -> Result<Done, Why>, args: Value) -> String {
        let root = Root::open(self.0.path()).expect("open");
        match tool(&root, &args) {
            Ok(done) => done.text,
            Err(
                Why::Error(why)
                | Why::Refused(why)
                | Why::Arguments(why)
                | Why::Unknown(why)
                | Why::Failed { text: why, .. },
            ) => why,
        }
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join(name)).expect("there")
    }
}

#[test]
fn pages_of_a_file() {
    let long: String = (1..=3000).map(|n| format!("line {n}\n")).collect();
    let wide = format!("{}\nend\n", "é".repeat(40_000));
    let here = Here::new(&[
        ("a", "one\r\ntwo\r\nthree"),
        ("long", &long),
        ("wide", &wide),
        ("empty", ""),
        ("bin", "a\0b"),
    ]);
    let read = |args: Value| here.run(read, args);
    assert_eq!(read(json!({ "path": "a" })), "one\ntwo\nthree");
    assert_eq!(
        read(json!({ "path": "a", "offset": 2, "limit": 1 })),
        "two\n\n[1 more line in file. Use offset=3 to continue.]"
    );
    assert_eq!(
        read(json!({ "path": "a", "offset": 3, "limit": 1 })),
        "three"
    );
    assert_eq!(
        read(json!({ "path": "a", "offset": 9 })),
        "Offset 9 is beyond end of file (3 lines total). Retry with offset <= 3."
    );
    assert_eq!(read(json!({ "path": "empty" })), "File is empty (0 bytes).");
    let page = read(json!({ "path": "long" }));
    assert!(page.ends_with("line 2000\n\n[Showing lines 1-2000 of 3000 (50.0KB limit). Use offset=2001 to continue.]"), "{}", &page[page.len() - 200..]);
    assert!(read(json!({ "path": "long", "offset": 2001 })).ends_with("line 3000\n"));
    let page = read(json!({ "path": "wide" }));
    assert!(
        page.ends_with("Use read with offset=1, cursor=25600 to continue.]"),
        "{}",
        &page[page.len() - 200..]
    );
    assert!(read(json!({ "path": "wide", "cursor": 25_600 })).ends_with("é\nend\n"));
    assert!(read(json!({ "path": "bin" })).contains("is not text"));
    assert!(read(json!({ "path": "nope" })).starts_with("File not found: "));
    assert_eq!(
        read(json!({ "path": "nope", "optional": true })),
        "Optional file not found: nope."
    );
    assert!(read(json!({ "path": "." })).contains("is a directory"));
    assert!(read(json!({})).contains("path"));
}

#[test]
fn a_write_is_whole_or_nothing() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let here = Here::new(&[("run.sh", "#!/bin/sh\n"), ("target", "t")]);
    let path = here.0.path();
    std::fs::set_permissions(path.join("run.sh"), std::fs::Permissions::from_mode(0o755))
        .expect("set");
    symlink("target", path.join("link")).expect("linked");
    let write = |args: Value| here.run(write, args);
    assert_eq!(
        write(json!({ "path": "a/b/c.md", "content": "é\n" })),
        "Successfully wrote 3 bytes to a/b/c.md"
    );
    assert_eq!(here.text("a/b/c.md"), "é\n");
    assert!(write(json!({ "path": "a/b/c.md", "content": "é\n" })).starts_with("No changes made"));
    write(json!({ "path": "run.sh", "content": "#!/bin/sh\nls\n" }));
    let mode = std::fs::metadata(path.join("run.sh"))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
    assert!(write(json!({ "path": "link", "content": "x" })).contains("is a link"));
    assert!(write(json!({ "path": "a", "content": "x" })).contains("is a directory"));
    assert!(write(json!({ "path": "../x", "content": "x" })).contains("outside of the workspace"));
    assert_eq!(here.text("target"), "t");
    let left: Vec<_> = std::fs::read_dir(path)
        .expect("listed")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().contains("openclaw-new")),
        "{left:?}"
    );
}

#[test]
fn edits_are_exact_once_and_apart() {
    let here = Here::new(&[("a", "one\ntwo\nthree\ntwo!\n"), ("dos", "x\r\ny\r\n")]);
    let edit = |args: Value| here.run(edit, args);
    let one = |old: &str, new: &str| json!({ "path": "a", "edits": [{ "oldText": old, "newText": new }] });
    assert!(edit(one("two", "2")).starts_with("Found 2 occurrences of the text in a."));
    assert!(edit(one("nope", "2")).contains("Current file contents:\none\n"));
    assert!(edit(one("", "2")).contains("must not be empty"));
    assert!(edit(json!({ "path": "a", "edits": [] })).contains("at least one replacement"));
    let both = json!([{ "oldText": "one\ntwo", "newText": "x" }, { "oldText": "two\nthree", "newText": "y" }]);
    assert!(edit(json!({ "path": "a", "edits": both })).contains("overlap in a."));
    assert_eq!(
        here.text("a"),
        "one\ntwo\nthree\ntwo!\n",
        "nothing was changed so far"
    );
    let both =
        json!([{ "oldText": "three", "newText": "3" }, { "oldText": "one", "newText": "1" }])
            .to_string();
    assert_eq!(
        edit(json!({ "path": "a", "edits": both })),
        "Successfully replaced 2 block(s) in a."
    );
    assert_eq!(here.text("a"), "1\ntwo\n3\ntwo!\n");
    assert!(
        edit(json!({ "path": "a", "oldText": "1", "newText": "1" })).starts_with("No changes made")
    );
    edit(json!({ "path": "dos", "oldText": "x\ny", "newText": "x\nz" }));
    assert_eq!(here.text("dos"), "x\r\nz\r\n");
    assert!(
        edit(json!({ "path": "gone", "oldText": "x", "newText": "y" }))
            .starts_with("Could not edit file: gone. File not found")
    );
}

#[test]
fn a_listing_goes_on_where_it_stopped() {
    let here = Here::new(&[("b", ""), ("a", ""), (".c", "")]);
    std::fs::create_dir(here.0.path().join("d")).expect("made");
    let ls = |args: Value| here.run(ls, args);
    assert_eq!(ls(json!({})), "\".c\"\n\"a\"\n\"b\"\n\"d/\"");
    assert_eq!(
        ls(json!({ "limit": 2 })),
        "\".c\"\n\"a\"\n\n[More entries. Use after=\"a\" to continue.]"
    );
    assert_eq!(ls(json!({ "limit": 2, "after": "a" })), "\"b\"\n\"d/\"");
    assert_eq!(ls(json!({ "path": "d" })), "(empty directory)");
    assert!(ls(json!({ "path": "nope" })).starts_with("File not found"));
}
