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
    let moved = wanted.accounts(&config);
    let deadline = Instant::now() + MOVED_WITHIN;
    loop {
        let status = match api::get(profile, to, crate::rollout::PATH) {
            Ok(status) => status,
            Err(why) if api::is_not_running(&why) => {
                print("gateway          not running; it starts with this");
                return Ok(ExitCode::SUCCESS);
            }
            Err(why) => {
                return Err(why.context(
                    "openclaw-gateway.toml says so now; whether it is in force can't be told",
                ));
            }
        };
        let is_late = Instant::now() > deadline;
        match Stands::read(&status, &moved, wanted.side()) {
            Stands::Alone => {
                print(
                    "in force once OpenClaw is behind this gateway; until then every account runs here",
                );
                return Ok(ExitCode::SUCCESS);
            }
            Stands::InForce => {
                print("in force");
                return Ok(ExitCode::SUCCESS);
            }
            // One that is down tries again by itself.
            Stands::Down(state) if state == "down" && !is_late => {
                api::pause(Duration::from_millis(100))?;
            }
            Stands::Down(state) => {
                let moved = match wanted.side() {
                    Side::Native => "it runs here now",
                    Side::Upstream => "it does not run here any more, and nowhere else yet",
                };
                super::complain(&format!(
                    "{moved}: OpenClaw is {state}, `openclaw-gateway upstream status` says why"
                ));
                return Ok(ExitCode::FAILURE);
            }
            Stands::Waits(what) if is_late => {
                super::complain(&format!(
                    "not in force yet: {what}; see the running gateway's log"
                ));
                return Ok(ExitCode::FAILURE);
            }
            Stands::Waits(_) => api::pause(Duration::from_millis(100))?,
        }
    }
}

/// How a move stands, as the running gateway tells.
#[derive(Debug, PartialEq, Eq)]
enum Stands {
    /// No OpenClaw is behind it.
    Alone,
    /// Every account has changed hands, and who has it is up.
    InForce,
    /// They have, and OpenClaw does not run: in which state it is.
    Down(String),
    Waits(String),
}

impl Stands {
    /// `moved`: the accounts, `(channel, account)`; one with the same channel that stays where it is says nothing of them.
    fn read(status: &Value, moved: &[(String, String)], side: Side) -> Self {
        let upstream = status["upstream"].as_str().unwrap_or_default();
        if upstream == "off" {
            return Self::Alone;
        }
        let here = status["accounts"].as_array().map_or(&[][..], Vec::as_slice);
        let elsewhere = moved.iter().find(|(channel, account)| {
            let name = format!("{channel}/{account}");
            here.iter().any(|one| *one == name) != (side == Side::Native)
        });
        match (elsewhere, upstream) {
            (Some((channel, account)), _) => Self::Waits(match side {
                Side::Native => format!("this gateway does not run {channel}/{account} yet"),
                Side::Upstream => format!("this gateway still runs {channel}/{account}"),
            }),
            // It runs no account in its sleep, and is woken for one that it is given.
            (None, "asleep") if side == Side::Upstream => {
                Self::Waits("OpenClaw is asleep".to_owned())
            }
            (None, "ready" | "asleep") => Self::InForce,
            (None, "down" | "stopped") => Self::Down(upstream.to_owned()),
            // The other side is ready for it once OpenClaw has started anew.
            (None, other) => Self::Waits(format!("OpenClaw is {other}")),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_in_force_when_each_account_is_where_it_belongs_and_openclaw_is_up() {
        #[track_caller]
        fn check(here: &[&str], upstream: &str, moved: &[&str], side: Side, expected: &Stands) {
            let moved: Vec<(String, String)> = moved
                .iter()
                .map(|account| ("telegram".to_owned(), (*account).to_owned()))
                .collect();
            let status = json!({ "accounts": here, "upstream": upstream });
            assert_eq!(Stands::read(&status, &moved, side), *expected);
        }
        let waits = |what: &str| Stands::Waits(what.to_owned());
        let (a, both) = (["telegram/a"], ["telegram/a", "telegram/b"]);
        check(&a, "ready", &["a"], Side::Native, &Stands::InForce);
        check(&both, "asleep", &["a", "b"], Side::Native, &Stands::InForce);
        // Another one of the channel says nothing of it.
        let not_yet = waits("this gateway does not run telegram/b yet");
        check(&a, "ready", &["a", "b"], Side::Native, &not_yet);
        check(&a, "ready", &["b"], Side::Native, &not_yet);
        check(&a, "ready", &["b"], Side::Upstream, &Stands::InForce);
        let asleep = waits("OpenClaw is asleep");
        check(&a, "asleep", &["b"], Side::Upstream, &asleep);
        let still = waits("this gateway still runs telegram/a");
        check(&a, "ready", &["a", "b"], Side::Upstream, &still);
        for side in [Side::Native, Side::Upstream] {
            let here: &[&str] = if side == Side::Native { &a } else { &[] };
            for state in ["down", "stopped"] {
                check(here, state, &["a"], side, &Stands::Down(state.to_owned()));
            }
            check(
                here,
                "starting",
                &["a"],
                side,
                &waits("OpenClaw is starting"),
            );
            check(here, "off", &["a"], side, &Stands::Alone);
        }
        check(
            &[],
            "down",
            &["a"],
            Side::Native,
            &waits("this gateway does not run telegram/a yet"),
        );
    }
}
