//! `rollout status|set|promote|pause|rollback`: works on the file, so with and without a running gateway.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::{Value, json};

use super::target::environment;
use super::{EXIT_CONFIG, To, api, print};
use crate::config::{ConfigDocument, OwnSettings, Paths, UpstreamMode};
use crate::messages::owned;
use crate::rollout::moves::{Move, Side};
use crate::rollout::{Action, Note, STEPS, change, guard, reason};

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
    /// Give what has one owner to the other side, while both run.
    Move {
        #[command(subcommand)]
        what: Moved,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Moved {
    /// A channel account: whoever has it lets go of it before the other one takes it.
    Account {
        /// `telegram`, or `telegram/work`.
        id: String,
        side: Side,
        #[command(flatten)]
        to: To,
    },
}

/// OpenClaw finishes what it does and starts anew without the account, or with it.
const MOVED_WITHIN: Duration = Duration::from_secs(180);

fn account(profile: Option<&str>, to: &To, wanted: &Move) -> anyhow::Result<ExitCode> {
    let (env, paths) = environment(profile)?;
    let document = ConfigDocument::load(&paths, &env)?;
    let config = owned::with_own(&document.resolved, &paths.own_dir).map_err(anyhow::Error::msg)?;
    let native = match wanted.write(&paths.own_file, &config) {
        Ok(native) => native,
        Err(error) => {
            super::complain(&error.to_string());
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    print(&format!("channels.native  {native:?}"));
    let deadline = Instant::now() + MOVED_WITHIN;
    loop {
        let Ok(status) = api::get(profile, to, crate::rollout::PATH) else {
            print("gateway          not running; it starts with this");
            return Ok(ExitCode::SUCCESS);
        };
        let accounts = status["accounts"].as_array().into_iter().flatten();
        let is_here = accounts
            .filter_map(Value::as_str)
            .filter_map(|name| name.split_once('/'))
            .any(|(channel, account)| wanted.includes(channel, account));
        if status["upstream"] == "off" {
            print(
                "in force once OpenClaw is behind this gateway; until then every account runs here",
            );
            return Ok(ExitCode::SUCCESS);
        }
        // The other side is ready for it once OpenClaw has started anew.
        let is_up = !matches!(status["upstream"].as_str(), Some("starting" | "stopped"));
        if is_here == (wanted.side() == Side::Native) && is_up {
            print("in force");
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() > deadline {
            super::complain("the running gateway has not taken the change yet; see its log");
            return Ok(ExitCode::FAILURE);
        }
        api::pause(Duration::from_millis(100))?;
    }
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
        RolloutCommand::Move {
            what: Moved::Account { id, side, to },
        } => return account(profile, to, &Move::new(id, *side)),
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
        // Whoever sets a percent or promotes ends what the guard holds back; the others leave it as it is.
        let lifts = matches!(action, Action::Set(_) | Action::Promote);
        let applied =
            status["percent"] == next && !(lifts && status["guard"]["state"] == "tripped");
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
    let upstream = if off { "off" } else { "unknown" };
    let guard = guard::told_of(&note, percent, own.guard.enabled);
    let effective = match note.holding(percent) {
        _ if off => 100,
        Some(_) => 0,
        None => percent,
    };
    Ok(json!({
        "percent": percent,
        "effective": effective,
        "reason": reason(upstream, &note, percent, &guard),
        "paused": own.rollout_paused,
        "setAtMs": (note.percent == Some(percent)).then_some(note.at_ms),
        "upstream": upstream,
        "steps": STEPS,
        "disabled": own.native_disable,
        "guard": guard,
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
    lines.extend(guard_lines(&status["guard"]));
    if status["running"] != true {
        lines.push("gateway    not running; it starts with this".to_owned());
    }
    print(&lines.join("\n"));
}

/// How long ago, in the largest unit.
fn age(at_ms: u64) -> String {
    let seconds = crate::clock::now_ms().saturating_sub(at_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The guard's state, the figures of both sides beside their bounds, and after a rollback what to do.
fn guard_lines(guard: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or("too few calls").to_owned();
    let mut head = format!("guard      {}", word(&guard["state"]));
    if let Some(why) = guard["why"].as_str() {
        head.push_str(&format!(": {why}"));
    }
    if let Some(calls) = guard["calls"].as_object() {
        head.push_str(&format!(
            " ({} calls here and {} at OpenClaw in {} s)",
            calls["native"], calls["upstream"], guard["windowS"]
        ));
    }
    let mut lines = vec![head];
    let trip = &guard["trip"];
    if let Some(why) = trip["text"].as_str() {
        lines.push(format!(
            "  tripped  {} ago at {} %: {why}",
            age(trip["atMs"].as_u64().unwrap_or(0)),
            trip["percent"]
        ));
        lines.push(format!("  todo     {}", word(&trip["todo"])));
        return lines;
    }
    if guard["state"] == "off" {
        return lines;
    }
    for signal in guard["signals"].as_array().into_iter().flatten() {
        let text = &signal["text"];
        let theirs = match text["upstream"].as_str() {
            Some(upstream) => format!(", {upstream} at OpenClaw"),
            None => String::new(),
        };
        lines.push(format!(
            "  {:<8} {} here{theirs}, bound {}",
            word(&signal["signal"]),
            word(&text["native"]),
            word(&text["bound"])
        ));
    }
    lines
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
