//! `config check|show|diff`: what is written, what it comes to, and what a change would take.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::target::environment;
use super::{ConfigCommand, EXIT_CONFIG, print};
use crate::config::origins::{self, Shown, text_of};
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

/// What is set on this machine.
pub(super) fn shown(profile: Option<&str>, effective: bool) -> anyhow::Result<Shown> {
    let (env, paths) = environment(profile)?;
    Ok(origins::shown(&env, &paths, effective)?)
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
