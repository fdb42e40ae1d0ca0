//! What the original answered to the same files and calls (tests/config/fixtures/original.json), compared with
//! what we answer, field by field.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// Reads whose answer differs, and why.
const READS_APART: &[&str] = &[];

/// In a write's answer: what the original adds to the file of its own accord.
///
/// `meta` is its version stamp; `agents.defaults.model` is a choice it makes for a provider without one.
const ADDED: [&str; 2] = ["/meta", "/agents/defaults"];

struct Case {
    dir: tempfile::TempDir,
    api: ConfigApi,
}

impl Case {
    fn new(files: &Value, env: &Value) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, content) in files.as_object().expect("files") {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().expect("a parent")).expect("made");
            fs::write(file, content.as_str().expect("text")).expect("written");
        }
        let state = dir.path().to_str().expect("utf-8").to_owned();
        let vars = env
            .as_object()
            .expect("variables")
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().expect("text").to_owned()))
            .chain([
                ("HOME".to_owned(), state.clone()),
                ("OPENCLAW_STATE_DIR".to_owned(), state),
            ]);
        let env = Env::from_pairs(vars);
        let paths = Paths::resolve(&env).expect("paths");
        let api = ConfigApi::open(&paths, &env).expect("an api");
        Self { dir, api }
    }

    /// As the recording masked its answers.
    fn masked(&self, value: &Value) -> Value {
        let dir = self.dir.path().to_str().expect("utf-8");
        mask(&value.to_string().replace(dir, "<dir>"))
    }
}

fn mask(text: &str) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::String(text) if text.starts_with("hmac-sha256:v1:") => {
                *text = "<hash>".to_owned();
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            Value::Object(members) => {
                for (key, value) in members.iter_mut() {
                    if key == "ts" {
                        *value = json!(0);
                    }
                    walk(value);
                }
            }
            _ => {}
        }
    }
    let mut value = serde_json::from_str(text).expect("JSON");
    walk(&mut value);
    value
}

fn recorded() -> Value {
    let text = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/config/fixtures/original.json"
    ));
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn every_file_reads_as_in_the_original() {
    let recorded = recorded();
    let mut wrong = BTreeMap::new();
    for (name, case) in recorded["reads"].as_object().expect("reads") {
        let here = Case::new(&case["files"], &recorded["env"]);
        let ours = here.masked(&here.api.get(Some("hmac-sha256:v1:x")));
        let theirs = &case["answer"]["payload"];
        let differences: Vec<String> = theirs
            .as_object()
            .expect("an answer")
            .iter()
            .filter(|(key, value)| ours.get(*key) != Some(*value))
            .map(|(key, value)| format!("{key}:\n  theirs {value}\n  ours   {}", ours[key]))
            .chain(
                ours.as_object()
                    .expect("an answer")
                    .keys()
                    .filter(|key| theirs.get(key.as_str()).is_none())
                    .map(|key| format!("{key}: only ours")),
            )
            .collect();
        if differences.is_empty() == READS_APART.contains(&name.as_str()) {
            wrong.insert(name, differences);
        }
    }
    let shown: Vec<String> = wrong
        .iter()
        .map(|(name, lines)| format!("## {name}\n{}", lines.join("\n")))
        .collect();
    assert!(shown.is_empty(), "{}", shown.join("\n"));
}

#[test]
fn every_write_does_what_the_original_s_did() {
    let recorded = recorded();
    let mut wrong = Vec::new();
    for (name, case) in recorded["writes"].as_object().expect("writes") {
        let here = Case::new(&case["files"], &recorded["env"]);
        for (index, step) in case["steps"].as_array().expect("steps").iter().enumerate() {
            let method = step["method"].as_str().expect("a method");
            let mut params = step["params"].clone();
            if step["base"] == json!(true) {
                params["baseHash"] = here.api.get(None)["hash"].clone();
            }
            let raw = serde_json::value::to_raw_value(&params).expect("raw");
            let checked = wire::schema::check(method, Some(&raw));
            let ours = match checked {
                Err(error) => Err(error),
                Ok(()) if method == "config.get" => Ok(here.api.get(None)),
                Ok(()) => here
                    .api
                    .write(method, &params, None, 1)
                    .map(|written| written.answer),
            };
            let ours = match ours {
                Ok(payload) => json!({ "ok": true, "payload": payload }),
                Err(error) => json!({ "ok": false, "error": error }),
            };
            let mut ours = here.masked(&ours);
            let mut theirs = step["answer"].clone();
            // Nobody of ours is woken by it.
            if let Some(persisted) = theirs.pointer_mut("/payload/sentinel/persisted") {
                *persisted = json!(false);
            }
            for answer in [&mut ours, &mut theirs] {
                // Theirs come in the order of their schema.
                if let Some(Value::Array(paths)) = answer.pointer_mut("/payload/changedPaths") {
                    paths.sort_by_key(Value::to_string);
                }
                if let Some(config) = answer.pointer_mut("/payload/config") {
                    without_added(config);
                }
            }
            if ours != theirs {
                wrong.push(format!(
                    "## {name} [{index}]\n  theirs {theirs}\n  ours   {ours}"
                ));
            }
            for (file, text) in step["after"].as_object().expect("files") {
                if file.ends_with(".bak") {
                    continue;
                }
                let now = fs::read_to_string(here.dir.path().join(file)).expect("read");
                let tree = |text: &str| {
                    let (mut value, _) = super::super::json5::parse(text).expect("JSON5");
                    without_added(&mut value);
                    value
                };
                if tree(&now) != tree(text.as_str().expect("text")) {
                    wrong.push(format!(
                        "## {name} [{index}] {file}\n  theirs {text}\n  ours   {now}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn without_added(config: &mut Value) {
    for pointer in ADDED {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        if let Some(Value::Object(members)) = config.pointer_mut(parent) {
            members.shift_remove(key);
        }
    }
    // A section that held nothing else.
    if config.get("agents") == Some(&json!({}))
        && let Some(root) = config.as_object_mut()
    {
        root.shift_remove("agents");
    }
}

fn written(files: &Value, method: &str, mut params: Value) -> (Case, String) {
    let here = Case::new(files, &json!({}));
    params["baseHash"] = here.api.get(None)["hash"].clone();
    let written = here.api.write(method, &params, None, 1).expect("written");
    assert!(written.changed);
    let text = fs::read_to_string(here.dir.path().join("openclaw.json")).expect("read");
    (here, text)
}

const COMMENTED: &str = "// mine\n{\n  gateway: { mode: 'local', auth: { mode: 'token', token: 'conformance-token-0123456789abcdef' } }, // end\n  messages: {\n    ackReaction: 'x', // seen\n  },\n}\n";

#[test]
fn comments_and_spacing_survive_a_patch() {
    let (here, text) = written(
        &json!({ "openclaw.json": COMMENTED }),
        "config.patch",
        json!({ "raw": "{ messages: { ackReaction: 'y' } }" }),
    );
    assert_eq!(text, COMMENTED.replace("'x'", "\"y\""));
    let backup = here.dir.path().join("openclaw.json.bak");
    assert_eq!(fs::read_to_string(backup).expect("a copy"), COMMENTED);
}

#[test]
fn a_text_that_was_shown_and_edited_is_written_as_it_came() {
    let here = Case::new(&json!({ "openclaw.json": COMMENTED }), &json!({}));
    let shown = here.api.get(None);
    let raw = shown["raw"].as_str().expect("text");
    assert!(!raw.contains("conformance"), "{raw}");
    let edited = raw.replace("'x', // seen", "'z', // changed by hand");
    let params = json!({ "raw": edited, "baseHash": shown["hash"] });
    here.api
        .write("config.set", &params, None, 1)
        .expect("written");
    let text = fs::read_to_string(here.dir.path().join("openclaw.json")).expect("read");
    let expected = COMMENTED
        .replace("'x', // seen", "'z', // changed by hand")
        .replace("'conformance", "\"conformance")
        .replace("abcdef'", "abcdef\"");
    assert_eq!(text, expected);
}

#[test]
fn an_included_file_that_changed_makes_the_hash_stale() {
    let files = json!({
        "openclaw.json": "{ gateway: { mode: 'local', auth: { mode: 'token', token: 'conformance-token-0123456789abcdef' } }, messages: { $include: './m.json' } }",
        "m.json": "{ \"ackReaction\": \"a\" }",
    });
    let here = Case::new(&files, &json!({}));
    let hash = here.api.get(None)["hash"].clone();
    fs::write(here.dir.path().join("m.json"), "{ \"ackReaction\": \"b\" }").expect("written");
    let params = json!({ "raw": "{ messages: { responsePrefix: 'p' } }", "baseHash": hash });
    let error = here
        .api
        .write("config.patch", &params, None, 1)
        .expect_err("stale");
    assert_eq!(
        error.message,
        "config changed since last load; re-run config.get and retry"
    );
}

#[test]
fn a_write_that_would_lock_the_gateway_out_is_refused() {
    let here = Case::new(&json!({ "openclaw.json": COMMENTED }), &json!({}));
    let hash = here.api.get(None)["hash"].clone();
    let params = json!({ "raw": "{ gateway: { auth: { token: '' } } }", "baseHash": hash });
    let before = fs::read_to_string(here.dir.path().join("openclaw.json")).expect("read");
    let outcome = here.api.write("config.patch", &params, None, 1);
    let after = fs::read_to_string(here.dir.path().join("openclaw.json")).expect("read");
    assert!(outcome.is_err() || after != before, "{outcome:?}");
}

#[test]
fn the_key_of_the_hashes_stays() {
    let here = Case::new(&json!({ "openclaw.json": COMMENTED }), &json!({}));
    let hash = here.api.get(None)["hash"].clone();
    let again = ConfigApi::open(&here.api.paths, &here.api.env).expect("opened");
    assert_eq!(again.get(None)["hash"], hash);
    let file = here.api.paths.own_dir.join(KEY_FILE);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        fs::metadata(&file).expect("a file").permissions().mode() & 0o777,
        0o600
    );
    fs::write(&file, "short").expect("written");
    assert!(ConfigApi::open(&here.api.paths, &here.api.env).is_err());
    assert!(Path::new(&file).exists());
}
