//! `upstream status|logs|start|restart`: the gateway behind the running one.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::Value;

use super::{To, api, complain, print};
use crate::upstream::PATH;

#[derive(Debug, Subcommand)]
pub(super) enum UpstreamCommand {
    /// How it does, and the last lines it wrote.
    Status {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        to: To,
    },
    /// What it wrote, over its restarts; the last 500 lines are kept.
    Logs {
        /// Go on printing new lines.
        #[arg(long)]
        follow: bool,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        to: To,
    },
    /// Start it if it is stopped or asleep.
    Start {
        #[command(flatten)]
        to: To,
    },
    /// Let it finish what it does and start it anew; clients stay connected.
    Restart {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        to: To,
    },
}

/// A start of OpenClaw may take this long; a first one makes its databases.
const READY_WITHIN: Duration = Duration::from_secs(180);

pub(super) fn run(profile: Option<&str>, command: &UpstreamCommand) -> anyhow::Result<ExitCode> {
    match command {
        UpstreamCommand::Status { json, to } => {
            show(&api::get(profile, to, PATH)?, *json);
            Ok(ExitCode::SUCCESS)
        }
        UpstreamCommand::Logs { follow, json, to } => logs(profile, to, *follow, *json),
        UpstreamCommand::Start { to } => {
            let status = api::post(profile, to, &format!("{PATH}/start"))?;
            let starts = match status["state"].as_str() {
                // Already up, or on its way.
                Some("ready" | "starting") => 0,
                _ => status["starts"].as_u64().unwrap_or(0),
            };
            await_ready(profile, to, starts, false)
        }
        UpstreamCommand::Restart { json, to } => {
            let before = api::get(profile, to, PATH)?["starts"].as_u64().unwrap_or(0);
            api::post(profile, to, &format!("{PATH}/restart"))?;
            await_ready(profile, to, before, *json)
        }
    }
}

/// Waits until a child that was started after `starts` others is ready, or has failed.
fn await_ready(
    profile: Option<&str>,
    to: &To,
    starts: u64,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let status = api::get(profile, to, PATH)?;
        let is_new = status["starts"].as_u64().is_some_and(|now| now > starts);
        let word = status["state"].as_str().unwrap_or_default();
        if is_new && word == "ready" {
            show(&status, json);
            return Ok(ExitCode::SUCCESS);
        }
        if is_new && matches!(word, "down" | "stopped") || Instant::now() > deadline {
            show(&status, json);
            complain("openclaw did not become ready");
            return Ok(ExitCode::FAILURE);
        }
        api::pause(Duration::from_millis(100))?;
    }
}

fn logs(profile: Option<&str>, to: &To, follow: bool, json: bool) -> anyhow::Result<ExitCode> {
    let mut after = 0;
    loop {
        // An answer comes as soon as there is a line, or after this many seconds.
        let wait = if follow { 20 } else { 0 };
        let path = format!("{PATH}/logs?after={after}&wait={wait}");
        let answer = api::get(profile, to, &path)?;
        for line in answer["lines"].as_array().into_iter().flatten() {
            print(&if json { line.to_string() } else { text(line) });
        }
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        after = answer["after"].as_u64().unwrap_or(after);
    }
}

fn text(line: &Value) -> String {
    format!(
        "{}  {}  {}",
        api::clock(line["atMs"].as_i64().unwrap_or(0)),
        line["pid"],
        line["text"].as_str().unwrap_or_default()
    )
}

/// `412 MiB in 3 processes; ceiling 600 MiB, started anew for it 2 times`.
fn memory(memory: &Value) -> String {
    let mib = |key: &str| memory[key].as_u64().unwrap_or(0) / (1024 * 1024);
    let number = |key: &str| memory[key].as_u64().unwrap_or(0);
    let held = format!(
        "{} MiB in {} processes",
        mib("resident"),
        number("processes")
    );
    match (mib("max"), number("restarts")) {
        (0, 0) => held,
        (0, restarts) => format!("{held}; no ceiling, started anew for one {restarts} times"),
        (max, restarts) => {
            format!("{held}; ceiling {max} MiB, started anew for it {restarts} times")
        }
    }
}

fn show(status: &Value, json: bool) {
    if json {
        return print(&status.to_string());
    }
    let mut lines = Vec::new();
    for (key, name) in [
        ("state", "state"),
        ("why", "why"),
        ("pid", "pid"),
        ("version", "version"),
        ("address", "address"),
        ("starts", "starts"),
    ] {
        match &status[key] {
            Value::Null => {}
            Value::String(word) => lines.push(format!("{name:<8} {word}")),
            other => lines.push(format!("{name:<8} {other}")),
        }
    }
    if status["memory"].is_object() {
        lines.push(format!("memory   {}", memory(&status["memory"])));
    }
    let last = status["lastOutput"].as_array().into_iter().flatten();
    lines.extend(last.map(|line| format!("         {}", text(line))));
    print(&lines.join("\n"));
}
