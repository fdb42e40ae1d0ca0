//! `config check|show|diff`: what is written, what it comes to, and what a change would take.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::target::environment;
use super::{ConfigCommand, EXIT_CONFIG, print};
use crate::config::own::Effective;
use crate::config::redact::Hints;
use crate::config::reload::{changed_paths, plan};
use crate::config::schema::Schema;
use crate::config::{ConfigDocument, ConfigError, Env, OwnSettings, Paths, Settings};

pub(super) fn run(profile: Option<&str>, command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check { json } => check(profile, json),
        ConfigCommand::Show { effective, json } => show(profile, effective, json),
        ConfigCommand::Diff { file, json } => diff(profile, &file, json),
        ConfigCommand::Example => {
            print(&crate::config::example());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(profile: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let (env, paths) = environment(profile)?;
    let document = ConfigDocument::read(&paths, &env);
    let mut faults: Vec<String> = match document.fault() {
        Some((_, error)) => vec![error.to_string()],
        None => schema_faults(&document),
    };
    if let Err(error) = OwnSettings::load(&paths.own_file) {
        faults.push(error.to_string());
    }
    if json {
        print(&json!({ "ok": faults.is_empty(), "config": paths.config_file, "own": paths.own_file, "issues": faults }).to_string());
    } else if faults.is_empty() {
        print(&format!(
            "{}: fine\n{}: fine",
            paths.config_file.display(),
            paths.own_file.display()
        ));
    } else {
        print(&faults.join("\n"));
    }
    Ok(ExitCode::from(if faults.is_empty() {
        0
    } else {
        EXIT_CONFIG
    }))
}

/// What OpenClaw's own schema finds, each with its place.
fn schema_faults(document: &ConfigDocument) -> Vec<String> {
    Schema::bundled()
        .check(&document.resolved)
        .into_iter()
        .map(|issue| {
            let path: Vec<&str> = issue
                .path
                .split('.')
                .filter(|part| !part.is_empty())
                .collect();
            document
                .error(&path, issue.message)
                .fix("OpenClaw refuses this file as it is")
                .to_string()
        })
        .collect()
}

/// One value and where it comes from.
struct Row {
    key: String,
    value: Value,
    origin: String,
}

/// What is set in each file, secrets hidden.
pub(super) struct Shown {
    paths: Paths,
    user: Vec<Row>,
    own: Vec<Row>,
}

impl Shown {
    /// `{config: {file, values: [{key, value, origin}]}, own: …}`.
    pub(super) fn json(&self) -> Value {
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

pub(super) fn shown(profile: Option<&str>, effective: bool) -> anyhow::Result<Shown> {
    let (env, paths) = environment(profile)?;
    let document = ConfigDocument::load(&paths, &env)?;
    let own = OwnSettings::effective(&paths.own_file, &text_of(&paths.own_file)?)?;
    let mut user = Vec::new();
    let redacted = Hints::bundled().redact(&document.resolved);
    leaves(&document, &redacted, &mut Vec::new(), &mut user);
    if effective {
        apply_variables(&document, &paths, &mut user);
    }
    let own: Vec<Row> = own
        .into_iter()
        .filter(|row| effective || row.at.is_some())
        .map(|row| own_row(&paths.own_file, row))
        .collect();
    Ok(Shown { paths, user, own })
}

fn show(profile: Option<&str>, effective: bool, json: bool) -> anyhow::Result<ExitCode> {
    let shown = shown(profile, effective)?;
    if json {
        print(&shown.json().to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let Shown { paths, user, own } = shown;
    for (file, rows) in [(&paths.config_file, &user), (&paths.own_file, &own)] {
        print(&format!("# {}", file.display()));
        for row in rows {
            print(&format!("{} = {}  # {}", row.key, row.value, row.origin));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A missing file is an empty one.
fn text_of(file: &Path) -> anyhow::Result<String> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(ConfigError::new(format!("cannot be read: {error}"))
            .file(file)
            .fix("make it readable by this user")
            .into()),
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
    let port = crate::config::gateway_port(&document.env, configured);
    if configured != Some(port) {
        let named = document.env.trimmed("OPENCLAW_GATEWAY_PORT").is_some();
        let derived = crate::config::gateway_port(&Env::default(), None) != port;
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
            let hidden = Value::from(crate::config::redact::SENTINEL);
            set(
                &format!("gateway.auth.{name}"),
                hidden,
                &format!("variable {variable}"),
            );
        }
    }
}

/// A change and what it takes.
struct Change {
    key: String,
    old: Value,
    new: Value,
    effect: &'static str,
}

const LIVE: &str = "applies while running";
const RESTART: &str = "takes a restart";

fn diff(profile: Option<&str>, file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let (env, paths) = environment(profile)?;
    let text = std::fs::read_to_string(file).map_err(|error| {
        ConfigError::new(format!("cannot be read: {error}"))
            .file(file)
            .fix("name a readable candidate file")
    })?;
    let changes = if file.extension().is_some_and(|end| end == "toml") {
        own_changes(&paths, file, &text)?
    } else {
        user_changes(&env, &paths, file, text)?
    };
    if json {
        let list: Vec<Value> = changes
            .iter()
            .map(|change| json!({ "key": change.key, "old": change.old, "new": change.new, "restart": change.effect == RESTART }))
            .collect();
        print(&json!({ "changes": list }).to_string());
    } else if changes.is_empty() {
        print("no difference");
    }
    for change in changes.iter().filter(|_| !json) {
        print(&format!(
            "{}: {} -> {}  # {}",
            change.key,
            or_unset(&change.old),
            or_unset(&change.new),
            change.effect
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn or_unset(value: &Value) -> &dyn Display {
    match value {
        Value::Null => &"unset",
        value => value,
    }
}

fn own_changes(paths: &Paths, file: &Path, text: &str) -> anyhow::Result<Vec<Change>> {
    let old_text = text_of(&paths.own_file)?;
    let old = OwnSettings::effective(&paths.own_file, &old_text)?;
    let new = OwnSettings::effective(file, text)?;
    let (hidden_old, hidden_new) = (
        OwnSettings::parse(&paths.own_file, &old_text)?,
        OwnSettings::parse(file, text)?,
    );
    // Two different secrets look alike once hidden.
    let token = hidden_old.upstream.token != hidden_new.upstream.token;
    Ok(old
        .into_iter()
        .zip(new)
        .filter(|(old, new)| old.value != new.value || (token && old.name == "upstream.token"))
        .map(|(old, new)| Change {
            key: old.name.to_owned(),
            old: old.value.unwrap_or(Value::Null),
            new: new.value.unwrap_or(Value::Null),
            effect: if old.hot { LIVE } else { RESTART },
        })
        .collect())
}

fn user_changes(
    env: &Env,
    paths: &Paths,
    file: &Path,
    text: String,
) -> anyhow::Result<Vec<Change>> {
    let old = ConfigDocument::load(paths, env)?;
    // Read as if it stood in the place of the present file, so that includes mean what they will mean.
    let new = ConfigDocument::with_text(paths, env, text);
    if let Some((_, error)) = new.fault() {
        let error = error.to_string();
        let own = paths.config_file.display().to_string();
        return Err(anyhow::Error::new(ConfigError::new(
            error.replace(&own, &file.display().to_string()),
        )));
    }
    let plan = plan(
        (&old.resolved, Settings::read(&old, paths).ok().as_ref()),
        (&new.resolved, Settings::read(&new, paths).ok().as_ref()),
    );
    let hints = Hints::bundled();
    let (hidden_old, hidden_new) = (hints.redact(&old.resolved), hints.redact(&new.resolved));
    let at = |tree: &Value, path: &str| -> Value {
        path.split('.')
            .try_fold(tree, |value, key| value.get(key))
            .cloned()
            .unwrap_or(Value::Null)
    };
    Ok(changed_paths(&old.resolved, &new.resolved)
        .into_iter()
        .map(|path| Change {
            old: at(&hidden_old, &path),
            new: at(&hidden_new, &path),
            effect: if plan.restart.contains(&path) {
                RESTART
            } else {
                LIVE
            },
            key: path,
        })
        .collect())
}
