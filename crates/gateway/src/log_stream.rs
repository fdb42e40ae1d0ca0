//! `logs.tail`: our log and the upstream's as one, in the order of time.
//!
//! The lines of both are brought together when somebody asks, and kept with one cursor, within the limits of one answer.
//! An upstream that does not answer costs its lines, not ours.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::app::App;
use crate::bridge::UpstreamState;
use crate::dispatch::Session;
use crate::messages::methods::Task;
use crate::native::log_tail::{self, Lines, Request};
use crate::native::system::Machine;

/// What one question to the upstream brings at most. Source: src/logging/log-tail.ts at 2026.9.6.
const THEIRS_LINES: u64 = 5_000;
const THEIRS_BYTES: u64 = 1_000_000;
/// The first time: what the original answers by itself.
const THEIRS_BYTES_FIRST: u64 = 250_000;

/// Everybody who reads the log waits for it meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_secs(5);

/// Where our own log goes, for the answer's `file`.
const OURS: &str = "the standard error of openclaw-gateway";

#[derive(Debug, Default)]
pub(crate) struct LogStream(Mutex<Stream>);

#[derive(Debug, Default)]
struct Stream {
    lines: Lines,
    /// Of our own lines, those that are in it.
    ours: u64,
    /// Where the upstream's next line begins.
    theirs: Option<u64>,
    /// What the upstream calls its log.
    file: Option<String>,
    /// It did not answer a moment ago: it is not asked until then.
    quiet_until: Option<Instant>,
}

/// The answer of the upstream that is looked at.
#[derive(Deserialize)]
struct Theirs {
    file: String,
    cursor: u64,
    lines: Vec<String>,
}

/// The task that answers `logs.tail`. `None`: another method, or a client that the rollout leaves to the upstream.
pub(crate) fn find(
    app: &Arc<App>,
    session: &Arc<Session>,
    method: &str,
    params: Option<&RawValue>,
) -> Option<Task> {
    if method != "logs.tail" {
        return None;
    }
    let is_alone = matches!(*app.upstream.borrow(), UpstreamState::Off);
    if !is_alone && !crate::rollout::includes(crate::rollout::in_force(app), session.place) {
        return None;
    }
    let checked = wire::schema::check("logs.tail", params).map(|()| Request::read(params));
    let app = Arc::clone(app);
    Some(Box::pin(async move {
        let request = checked?;
        let mut stream = app.log_stream.0.lock().await;
        stream.renew(&app).await;
        let file = stream.file.as_deref().unwrap_or(OURS);
        Ok(stream.lines.tail(file, request).to_string())
    }))
}

impl Stream {
    /// Adds what both have written since the last time.
    async fn renew(&mut self, app: &App) {
        let theirs = match app.upstream.borrow().ready() {
            Some(_) => true,
            None => {
                self.file = None;
                false
            }
        };
        let theirs = if theirs { self.ask(app).await } else { None };
        // After the question, so that a line about it is not older than its answer.
        let (ours, written) = app.recent_log().after(self.ours);
        self.ours = written;
        // The upstream keeps what it prints in its own log; only what it complains of may be nowhere else.
        let machine = Machine::get();
        let ours = ours
            .iter()
            .filter(|line| theirs.is_none() || !is_printed_by_upstream(line))
            .map(|line| as_the_original_writes(line, &machine.hostname))
            .collect();
        let theirs = theirs.unwrap_or_default();
        for line in in_order(ours, theirs) {
            self.lines.push(line);
        }
    }

    async fn ask(&mut self, app: &App) -> Option<Vec<String>> {
        if self.quiet_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        self.quiet_until = None;
        let bytes = match self.theirs {
            Some(_) => THEIRS_BYTES,
            None => THEIRS_BYTES_FIRST,
        };
        let mut params = json!({ "limit": THEIRS_LINES, "maxBytes": bytes });
        if let Some(cursor) = self.theirs {
            params["cursor"] = json!(cursor);
        }
        let asking = app.control.call("logs.tail", params);
        let answer = match tokio::time::timeout(PATIENCE, asking).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err("no answer in time".to_owned()),
        };
        let answer = answer.and_then(|text| {
            serde_json::from_str::<Theirs>(&text).map_err(|error| error.to_string())
        });
        match answer {
            Ok(answer) => {
                self.theirs = Some(answer.cursor);
                self.file = Some(answer.file);
                Some(answer.lines)
            }
            Err(why) => {
                tracing::debug!(%why, "OpenClaw's log cannot be read");
                self.quiet_until = Some(Instant::now() + QUIET);
                None
            }
        }
    }
}

/// Both lists in one, by time; lines without a time stay behind the one before them.
fn in_order(ours: Vec<String>, theirs: Vec<String>) -> Vec<String> {
    let timed = |lines: Vec<String>| {
        let mut last = i64::MIN;
        let with_time = lines.into_iter().map(move |line| {
            last = time_of(&line).unwrap_or(last);
            (last, line)
        });
        with_time.collect::<Vec<_>>()
    };
    let mut all = timed(theirs);
    all.extend(timed(ours));
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, line)| line).collect()
}

/// Milliseconds since 1970 of a line in the original's form.
fn time_of(line: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Timed<'a> {
        time: Option<&'a str>,
    }
    let line: Timed<'_> = serde_json::from_str(line).ok()?;
    let at: jiff::Timestamp = line.time?.parse().ok()?;
    Some(at.as_millisecond())
}

fn is_printed_by_upstream(line: &str) -> bool {
    line.contains(r#""target":"openclaw""#) && line.contains(r#""stream":"stdout""#)
}

/// A line of ours as log readers know them; one that was cut is shown as it is.
fn as_the_original_writes(line: &str, host: &str) -> String {
    let line = log_tail::redact(line);
    let Ok(mut event) = serde_json::from_str::<Map<String, Value>>(&line) else {
        return line.into_owned();
    };
    let mut take = |name: &str| match event.remove(name) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let (time, level, target) = (take("timestamp"), take("level"), take("target"));
    let mut message = take("message");
    for (name, value) in &event {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        message = format!("{message} {name}={value}");
    }
    let time = time
        .parse::<jiff::Timestamp>()
        .map_or(time, |at| format!("{at:.3}"));
    let part = target.strip_prefix("gateway").unwrap_or(&target);
    let subsystem = format!("openclaw-rs/{}", part.trim_start_matches("::"));
    let subsystem = subsystem.replace("::", "/");
    log_tail::line(
        &time,
        &level,
        subsystem.trim_end_matches('/'),
        message.trim_start(),
        host,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ours_reads_like_one_of_theirs() {
        let ours = r#"{"timestamp":"2026-11-30T02:05:24.738912Z","level":"WARN","message":"refused a connection","conn":"c1","code":1008,"target":"gateway::ingress::handshake"}"#;
        let line = as_the_original_writes(ours, "vm");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["time"], "2026-11-30T02:05:24.738+00:00");
        assert_eq!(line["_meta"]["logLevelName"], "WARN");
        assert_eq!(
            line["0"],
            r#"{"subsystem":"openclaw-rs/ingress/handshake"}"#
        );
        assert_eq!(line["message"], "refused a connection conn=c1 code=1008");
        assert_eq!(time_of(&line.to_string()), Some(1_796_004_324_738));
        let cut = r#"{"timestamp":"2026-11-30T02:05:24.738912Z","mess"#;
        assert_eq!(as_the_original_writes(cut, "vm"), cut);
    }

    #[test]
    fn both_logs_are_one_by_time() {
        let at = |ms: u32, text: &str| {
            format!(r#"{{"time":"2026-11-30T02:05:24.{ms:03}+00:00","message":"{text}"}}"#)
        };
        let ours = vec![at(2, "b"), "no time".to_owned(), at(9, "d")];
        let theirs = vec!["its first line".to_owned(), at(1, "a"), at(5, "c")];
        let all = in_order(ours.clone(), theirs.clone());
        assert_eq!(
            all,
            [
                &theirs[0], &theirs[1], &ours[0], &ours[1], &theirs[2], &ours[2]
            ]
            .map(Clone::clone)
        );
    }

    #[test]
    fn what_the_child_printed_is_told_from_what_it_complained_of() {
        assert!(is_printed_by_upstream(
            r#"{"message":"x","stream":"stdout","target":"openclaw"}"#
        ));
        assert!(!is_printed_by_upstream(
            r#"{"message":"x","stream":"stderr","target":"openclaw"}"#
        ));
        assert!(!is_printed_by_upstream(
            r#"{"message":"openclaw","target":"gateway"}"#
        ));
    }
}
