//! What is set in both files, secrets hidden, and where each value comes from.

use std::path::Path;

use serde_json::{Value, json};

use super::own::Effective;
use super::redact::{Hints, SENTINEL};
use super::{ConfigDocument, ConfigError, Env, OwnSettings, Paths, Settings};

/// One value and where it comes from.
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) origin: String,
}

/// What is set in each file, secrets hidden.
pub(crate) struct Shown {
    pub(crate) paths: Paths,
    pub(crate) user: Vec<Row>,
    pub(crate) own: Vec<Row>,
}

impl Shown {
    /// `{config: {file, values: [{key, value, origin}]}, own: …}`.
    pub(crate) fn json(&self) -> Value {
        let list = |rows: &[Row]| -> Vec<Value> {
            rows.iter()
                .map(|row| json!({ "key": row.key, "value": row.value, "origin": row.origin }))
                .collect()
        };
        json!({
            "config": { "file": self.paths.config_file, "values": list(&self.user) },
            "own": { "file": self.paths.own_file, "values": list(&self.own) },
        })
    }
}

/// Reads both files as they are now. `effective`: also defaults of ours, and what variables set.
///
/// # Errors
/// A file that can't be used, with its place.
pub(crate) fn shown(env: &Env, paths: &Paths, effective: bool) -> Result<Shown, ConfigError> {
    let document = ConfigDocument::load(paths, env)?;
    let own = OwnSettings::effective(&paths.own_file, &text_of(&paths.own_file)?)?;
    let mut user = Vec::new();
    let redacted = Hints::bundled().redact(&document.resolved);
    leaves(&document, &redacted, &mut Vec::new(), &mut user);
    if effective {
        apply_variables(&document, paths, &mut user);
    }
    let own: Vec<Row> = own
        .into_iter()
        .filter(|row| effective || row.at.is_some())
        .map(|row| own_row(&paths.own_file, row))
        .collect();
    Ok(Shown {
        paths: paths.clone(),
        user,
        own,
    })
}

/// A missing file is an empty one.
pub(crate) fn text_of(file: &Path) -> Result<String, ConfigError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(ConfigError::new(format!("cannot be read: {error}"))
            .file(file)
            .fix("make it readable by this user")),
    }
}

fn own_row(file: &Path, row: Effective) -> Row {
    Row {
        key: row.name.to_owned(),
        value: row.value.unwrap_or(Value::Null),
        origin: match row.at {
            Some(at) => place(file, at),
            None => "default".to_owned(),
        },
    }
}

fn place(file: &Path, (line, column): (u32, u32)) -> String {
    format!("{}:{line}:{column}", file.display())
}

/// Every value that is not a section, lists whole.
fn leaves<'a>(
    document: &ConfigDocument,
    value: &'a Value,
    path: &mut Vec<&'a str>,
    rows: &mut Vec<Row>,
) {
    match value.as_object().filter(|members| !members.is_empty()) {
        Some(members) => {
            for (key, value) in members {
                path.push(key);
                leaves(document, value, path, rows);
                path.pop();
            }
        }
        None if path.is_empty() => {}
        None => {
            let mut origin = document
                .locate(path)
                .map_or_else(|| "?".to_owned(), |(file, at)| place(file, at));
            if let Some(names) = variables(document, path) {
                origin.push_str(&format!(" with {names}"));
            }
            rows.push(Row {
                key: path.join("."),
                value: value.clone(),
                origin,
            });
        }
    }
}

/// The variables that a value of the file itself refers to.
fn variables(document: &ConfigDocument, path: &[&str]) -> Option<String> {
    let written = path
        .iter()
        .try_fold(&document.parsed, |value, key| value.get(key))?
        .as_str()?;
    if document.get(path)?.as_str() == Some(written) {
        return None;
    }
    let names: Vec<&str> = written
        .split("${")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('}')?.0))
        .collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// What a variable sets instead of, or in addition to, the file.
fn apply_variables(document: &ConfigDocument, paths: &Paths, rows: &mut Vec<Row>) {
    let mut set = |key: &str, value: Value, origin: &str| {
        rows.retain(|row| row.key != key);
        rows.push(Row {
            key: key.to_owned(),
            value,
            origin: origin.to_owned(),
        });
    };
    let configured = document
        .get(&["gateway", "port"])
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok());
    let port = super::gateway_port(&document.env, configured);
    if configured != Some(port) {
        let named = document.env.trimmed("OPENCLAW_GATEWAY_PORT").is_some();
        let derived = super::gateway_port(&Env::default(), None) != port;
        let origin = match (named, derived) {
            (true, true) => "variable OPENCLAW_GATEWAY_PORT",
            (false, true) => "profile",
            (_, false) => "default",
        };
        set("gateway.port", json!(port), origin);
    }
    // Which of two credentials wins is decided where they are read.
    let Ok(settings) = Settings::read(document, paths) else {
        return;
    };
    let credentials = [
        ("token", &settings.auth.token, "OPENCLAW_GATEWAY_TOKEN"),
        (
            "password",
            &settings.auth.password,
            "OPENCLAW_GATEWAY_PASSWORD",
        ),
    ];
    for (name, secret, variable) in credentials {
        let Some(secret) = secret else { continue };
        let matches = |text: Option<&str>| text.is_some_and(|text| secret.matches(text.trim()));
        let written = document
            .get(&["gateway", "auth", name])
            .and_then(Value::as_str);
        if !matches(written) && matches(document.env.get(variable)) {
            let hidden = Value::from(SENTINEL);
            set(
                &format!("gateway.auth.{name}"),
                hidden,
                &format!("variable {variable}"),
            );
        }
    }
}
