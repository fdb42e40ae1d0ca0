//! The tool `process`: what goes on in the background, looked at and ended.
//!
//! Source: src/agents/bash-tools.process.ts at 2026.9.6. Commands have no terminal here, so none takes input.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::process::{Exit, Process, Processes, Reason};
use super::{CUT, RETRY, compact, now_ms};
use crate::assistant::tools::{Done, Why};

const ACTIONS: [&str; 10] = [
    "list",
    "poll",
    "log",
    "write",
    "send-keys",
    "submit",
    "paste",
    "kill",
    "clear",
    "remove",
];
const LOG_LINES: usize = 200;
const POLL_MS_MAX: u64 = 30_000;

fn done(text: String, details: Value) -> Result<Done, Why> {
    Ok(Done {
        text,
        kept: Some(details.clone()),
        details,
    })
}

fn failed(text: String) -> Result<Done, Why> {
    let details = json!({ "status": "failed", "error": text });
    Err(Why::Failed { text, details })
}

pub(super) async fn control(
    processes: &Arc<Processes>,
    session: &str,
    args: &Value,
) -> Result<Done, Why> {
    let action = match &args["action"] {
        Value::String(action) if ACTIONS.contains(&action.as_str()) => action.as_str(),
        Value::Null => {
            return Err(Why::Arguments(
                "action: must have required properties action".to_owned(),
            ));
        }
        _ => {
            return Err(Why::Arguments(
                "action: must be equal to one of the allowed values".to_owned(),
            ));
        }
    };
    if action == "list" {
        return list(processes, session);
    }
    let id = match &args["sessionId"] {
        Value::String(id) if !id.trim().is_empty() => id.trim(),
        Value::Null | Value::String(_) => {
            return failed("sessionId is required for this action.".to_owned());
        }
        _ => return Err(Why::Arguments("sessionId: must be string".to_owned())),
    };
    let found = processes.find(session, id);
    let running = found.as_ref().filter(|process| process.exit().is_none());
    let ended = found
        .as_ref()
        .and_then(|process| Some((process, process.exit()?)));
    if let Some(process) = running
        && !process.is_background()
    {
        return failed(format!("Session {id} is not backgrounded."));
    }
    match (action, running, ended) {
        ("poll", _, _) => match &found {
            Some(process) => poll(process, patience(&args["timeout"])).await,
            None => failed(format!("No session found for {id}")),
        },
        ("log", _, _) => match &found {
            Some(process) => log(process, args),
            None => failed(format!("No session found for {id}")),
        },
        ("kill", Some(process), _) => {
            process.cancel();
            done(
                format!("Termination requested for session {id}."),
                json!({ "status": "completed", "name": name_of(process) }),
            )
        }
        ("clear", _, Some(_)) => {
            processes.remove(id);
            done(
                format!("Cleared session {id}."),
                json!({ "status": "completed" }),
            )
        }
        ("clear", _, None) => failed(format!("No finished session found for {id}")),
        ("remove", Some(process), _) => {
            process.cancel();
            processes.remove(id);
            done(
                format!("Removed session {id} (termination requested)."),
                json!({ "status": "completed", "name": name_of(process) }),
            )
        }
        ("remove", None, Some(_)) => {
            processes.remove(id);
            done(
                format!("Removed session {id}."),
                json!({ "status": "completed" }),
            )
        }
        ("remove", ..) => failed(format!("No session found for {id}")),
        (_, Some(_), _) => failed(format!("Session {id} stdin is not writable.")),
        _ => failed(format!("No active session found for {id}")),
    }
}

fn patience(value: &Value) -> Duration {
    let ms = match value {
        Value::String(text) => text.trim().parse::<f64>().ok(),
        other => other.as_f64(),
    };
    Duration::from_millis((ms.unwrap_or(0.0).max(0.0) as u64).min(POLL_MS_MAX))
}

fn list(processes: &Processes, session: &str) -> Result<Done, Why> {
    let now = now_ms();
    let (mut lines, mut sessions) = (Vec::new(), Vec::new());
    for process in processes.list(session) {
        let exit = process.exit();
        let status = match &exit {
            None => "running",
            Some(exit) if exit.is_completed() => "completed",
            Some(_) => "failed",
        };
        let runtime_ms = exit
            .as_ref()
            .map_or(now, |exit| exit.ended_ms)
            .saturating_sub(process.started_ms);
        let name = name_of(&process);
        let mut row = json!({
            "sessionId": process.id, "status": status, "startedAt": process.started_ms, "runtimeMs": runtime_ms,
            "cwd": process.cwd.display().to_string(), "command": process.command, "name": name,
        });
        process.with_output(|output| {
            row["tail"] = json!(output.tail());
            row["truncated"] = json!(output.all().1);
        });
        let fields = match &exit {
            Some(exit) => {
                row["endedAt"] = json!(exit.ended_ms);
                ended(exit)
            }
            None => {
                row["pid"] = json!(process.pid);
                input(&process)
            }
        };
        extend(&mut row, fields);
        let timeout = match &exit {
            Some(Exit {
                reason: Reason::Timeout,
                ..
            }) => " [overall-timeout]",
            _ => "",
        };
        let label: String = middle_out(&name, 80);
        lines.push(format!(
            "{} {status:9} {}{timeout} :: {label}",
            process.id,
            compact(runtime_ms)
        ));
        sessions.push(row);
    }
    let text = match lines.is_empty() {
        true => "No running or recent sessions.".to_owned(),
        false => lines.join("\n"),
    };
    done(text, json!({ "status": "completed", "sessions": sessions }))
}

async fn poll(process: &Arc<Process>, patience: Duration) -> Result<Done, Why> {
    let something = async {
        let mut changes = process.changes();
        while process.exit().is_none() && !process.with_output(|output| output.has_pending()) {
            if changes.changed().await.is_err() {
                break;
            }
        }
    };
    // Nothing within that time is an answer too.
    drop(tokio::time::timeout(patience, something).await);
    let exit = process.exit();
    let ((pending, is_left_out), aggregated, is_cut) = process.with_output(|output| {
        let pending = output.take_pending();
        let (all, is_cut) = output.all();
        (pending, all.to_owned(), is_cut)
    });
    let mut text = String::new();
    if is_cut {
        text.push_str(CUT);
    }
    if is_left_out {
        text.push_str("[earlier output is omitted from this poll; use action=log with offset and limit to inspect retained output]\n\n");
    }
    text.push_str(match pending.trim() {
        "" => "(no new output)",
        pending => pending,
    });
    let mut details =
        json!({ "sessionId": process.id, "name": name_of(process), "aggregated": aggregated });
    match exit {
        None => {
            text.push_str("\n\nProcess still running.");
            details["status"] = json!("running");
            extend(&mut details, input(process));
            done(text, details)
        }
        Some(exit) => {
            text.push_str(&match exit.reason {
                Reason::Cancelled => format!("\n\nProcess stopped by request ({}).", exit.label()),
                _ => format!("\n\nProcess exited with {}.", exit.label()),
            });
            end_of(&exit, text, details)
        }
    }
}

fn log(process: &Arc<Process>, args: &Value) -> Result<Done, Why> {
    let count = |name: &str| match &args[name] {
        Value::String(text) => text.trim().parse::<f64>().ok(),
        other => other.as_f64(),
    };
    let count = |name: &str| count(name).map(|count| count.max(0.0) as usize);
    let (offset, limit) = (count("offset"), count("limit"));
    let is_tail = offset.is_none() && limit.is_none();
    let limit = limit.or(is_tail.then_some(LOG_LINES));
    let (all, is_cut) = process.with_output(|output| {
        let (all, is_cut) = output.all();
        (all.replace("\r\n", "\n"), is_cut)
    });
    let lines: Vec<&str> = all.lines().collect();
    let from = match (offset, limit) {
        (Some(offset), _) => offset.min(lines.len()),
        (None, Some(limit)) => lines.len().saturating_sub(limit),
        (None, None) => 0,
    };
    let to = limit.map_or(lines.len(), |limit| {
        from.saturating_add(limit).min(lines.len())
    });
    let page = lines[from..to].join("\n");
    let exit = process.exit();
    let mut text = String::new();
    if is_cut {
        text.push_str(CUT);
    }
    text.push_str(match (page.is_empty(), &exit) {
        (false, _) => &page,
        (true, None) => "(no output yet)",
        (true, Some(_)) => "(no output recorded)",
    });
    if is_tail && lines.len() > LOG_LINES {
        text.push_str(&format!(
            "\n\n[showing last {LOG_LINES} of {} lines; pass offset/limit to page]",
            lines.len()
        ));
    }
    let mut details = json!({
        "sessionId": process.id, "name": name_of(process), "total": lines.len(), "totalLines": lines.len(),
        "totalChars": all.chars().count(), "truncated": is_cut,
    });
    match exit {
        None => {
            details["status"] = json!("running");
            details["output"] = json!(text);
            extend(&mut details, input(process));
            done(text, details)
        }
        Some(exit) => {
            if exit.reason == Reason::Cancelled {
                text.push_str(&format!(
                    "\n\nProcess stopped by request ({}).",
                    exit.label()
                ));
            }
            details["output"] = json!(text);
            end_of(&exit, text, details)
        }
    }
}

/// Whoever asked for the end gets it as he wished; any other end but a clean one is told as a failure.
fn end_of(exit: &Exit, mut text: String, mut details: Value) -> Result<Done, Why> {
    extend(&mut details, ended(exit));
    if exit.reason == Reason::Timeout {
        text.push_str(&format!("\n\n{RETRY}"));
    }
    match exit.is_completed() || exit.reason == Reason::Cancelled {
        true => {
            details["status"] = json!("completed");
            done(text, details)
        }
        false => {
            details["status"] = json!("failed");
            Err(Why::Failed { text, details })
        }
    }
}

fn ended(exit: &Exit) -> Value {
    let mut fields = json!({});
    if let Some(code) = exit.code {
        fields["exitCode"] = json!(code);
    }
    if let Some(signal) = exit.signal {
        fields["exitSignal"] = json!(signal);
    }
    fields["exitReason"] = json!(exit.reason.as_str());
    fields["timedOut"] = json!(exit.reason == Reason::Timeout);
    fields["noOutputTimedOut"] = json!(false);
    fields
}

fn input(process: &Process) -> Value {
    let last = process.last_output_ms();
    json!({
        "stdinWritable": false, "waitingForInput": false, "idleMs": now_ms().saturating_sub(last), "lastOutputAt": last,
    })
}

fn extend(into: &mut Value, fields: Value) {
    if let (Some(into), Value::Object(fields)) = (into.as_object_mut(), fields) {
        into.extend(fields);
    }
}

/// The program and what it works on.
fn name_of(process: &Process) -> String {
    let words: Vec<&str> = process
        .command
        .split_whitespace()
        .map(|word| word.trim_matches(['"', '\'']))
        .filter(|word| !word.is_empty())
        .collect();
    let target = words.iter().skip(1).find(|word| !word.starts_with('-'));
    match (words.first(), target.or_else(|| words.get(1))) {
        (None, _) => String::new(),
        (Some(verb), None) => (*verb).to_owned(),
        (Some(verb), Some(target)) => format!("{verb} {}", middle_out(target, 48)),
    }
}

fn middle_out(text: &str, chars_max: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= chars_max {
        return text.to_owned();
    }
    let half = (chars_max - 3) / 2;
    let (first, last): (String, String) = (
        chars[..half].iter().collect(),
        chars[chars.len() - half..].iter().collect(),
    );
    format!("{first}...{last}")
}
