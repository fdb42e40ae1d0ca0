//! `rollout status|set|promote|pause|rollback`: works on the file, so with and without a running gateway.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::{Value, json};

use super::target::environment;
use super::{EXIT_CONFIG, To, api, print};
use crate::config::{OwnSettings, Paths, UpstreamMode};
use crate::rollout::{Action, Note, STEPS, change};

#[derive(Debug, Subcommand)]
pub(super) enum RolloutCommand {
    /// The percent, what is in force, and why.
    Status {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        to: To,
    },
    /// Where our own answers differ from OpenClaw's: what `rollout.shadow_percent` compared since the start.
    Diff {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        to: To,
    },
    /// Let this gateway answer for so many percent of the clients.
    Set {
        /// 0 to 100.
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
        #[command(flatten)]
        to: To,
    },
    /// Go to the next step: 5, 25, 50, 100.
    Promote {
        #[command(flatten)]
        to: To,
    },
    /// Stay where it is: `promote` is refused until a percent is set.
    Pause {
        #[command(flatten)]
        to: To,
    },
    /// Go back to 0: the upstream answers everything that it can.
    Rollback {
        #[command(flatten)]
        to: To,
    },
}

/// A running gateway applies the file within this.
const APPLIED_WITHIN: Duration = Duration::from_secs(3);

pub(super) fn run(profile: Option<&str>, command: &RolloutCommand) -> anyhow::Result<ExitCode> {
    let (action, to) = match command {
        RolloutCommand::Status { json, to } => {
            let status = status(profile, to)?;
            show(&status, *json);
            return Ok(ExitCode::SUCCESS);
        }
        RolloutCommand::Diff { json, to } => {
            let found = api::get(profile, to, crate::shadow::PATH)?;
            print(&match json {
                true => found.to_string(),
                false => differences(&found),
            });
            return Ok(ExitCode::SUCCESS);
        }
        RolloutCommand::Set { percent, to } => (Action::Set(*percent), to),
        RolloutCommand::Promote { to } => (Action::Promote, to),
        RolloutCommand::Pause { to } => (Action::Pause, to),
        RolloutCommand::Rollback { to } => (Action::Rollback, to),
    };
    let (_, paths) = environment(profile)?;
    let own = OwnSettings::load(&paths.own_file)?;
    let now = (own.rollout_percent, own.rollout_paused);
    let next = match change(&paths.own_file, &paths.own_dir, now, &action) {
        Ok(next) => next,
        Err(error) => {
            super::complain(&error.to_string());
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    // A running gateway watches the file; say what came of it.
    let deadline = Instant::now() + APPLIED_WITHIN;
    loop {
        let status = status(profile, to)?;
        let applied = status["percent"] == next;
        if status["running"] != true || applied || Instant::now() > deadline {
            show(&status, false);
            if status["running"] == true && !applied {
                super::complain("the running gateway has not taken the change yet; see its log");
                return Ok(ExitCode::FAILURE);
            }
            return Ok(ExitCode::SUCCESS);
        }
        api::pause(Duration::from_millis(50))?;
    }
}

/// As the running gateway says, else as the file says.
fn status(profile: Option<&str>, to: &To) -> anyhow::Result<Value> {
    if let Ok(status) = api::get(profile, to, crate::rollout::PATH) {
        return Ok(status);
    }
    let (_, paths) = environment(profile)?;
    of_files(&paths)
}

fn of_files(paths: &Paths) -> anyhow::Result<Value> {
    let own = OwnSettings::load(&paths.own_file)?;
    let note = Note::read(&paths.own_dir);
    let percent = own.rollout_percent;
    let off = own.upstream.mode == UpstreamMode::Off;
    let reason = match off {
        true => "no OpenClaw is configured, so everything is answered here",
        false => note.for_percent(percent),
    };
    Ok(json!({
        "percent": percent,
        "effective": if off { 100 } else { percent },
        "reason": reason,
        "paused": own.rollout_paused,
        "setAtMs": (note.percent == Some(percent)).then_some(note.at_ms),
        "upstream": if off { "off" } else { "unknown" },
        "steps": STEPS,
        "disabled": own.native_disable,
        "running": false,
    }))
}

fn show(status: &Value, json: bool) {
    if json {
        return print(&status.to_string());
    }
    let word = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    let mut lines = vec![
        format!("percent    {}", status["percent"]),
        format!("effective  {}", status["effective"]),
        format!("reason     {}", word("reason")),
        format!("upstream   {}", word("upstream")),
    ];
    if status["paused"] == true {
        lines.push("paused     yes".to_owned());
    }
    if status["running"] != true {
        lines.push("gateway    not running; it starts with this".to_owned());
    }
    print(&lines.join("\n"));
}

/// The share, then each method that differs and where, the most frequent first.
fn differences(found: &Value) -> String {
    let count = |key: &str| found[key].as_u64().unwrap_or(0);
    if count("percent") == 0 && count("compared") == 0 {
        return "nothing is compared: set `rollout.shadow_percent` in openclaw-gateway.toml, to 5 for instance".to_owned();
    }
    let share = found["share"].as_f64().map_or_else(
        || "none yet".to_owned(),
        |share| format!("{:.2} % equal", share * 100.0),
    );
    let mut lines = vec![format!(
        "{} reads compared, {share}, {} skipped; {} of 100 are",
        count("compared"),
        count("skipped"),
        count("percent")
    )];
    let mut rows: Vec<(&String, &Value)> =
        found["methods"].as_object().into_iter().flatten().collect();
    rows.retain(|(_, row)| row["different"] != 0);
    rows.sort_by_key(|(_, row)| std::cmp::Reverse(row["different"].as_u64()));
    for (method, row) in rows {
        lines.push(format!(
            "{method}: {} of {} differ",
            row["different"],
            row["different"].as_u64().unwrap_or(0) + row["equal"].as_u64().unwrap_or(0)
        ));
        for example in row["examples"].as_array().into_iter().flatten() {
            let word = |key: &str| example[key].as_str().unwrap_or_default().to_owned();
            let place = match word("path") {
                path if path.is_empty() => "the whole".to_owned(),
                path => path,
            };
            lines.push(format!(
                "  {place}: here {}, OpenClaw {}",
                word("here"),
                word("openclaw")
            ));
        }
    }
    lines.join("\n")
}
