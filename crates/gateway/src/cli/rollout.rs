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
