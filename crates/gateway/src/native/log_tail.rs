//! `logs.tail`: the end of a log of JSON lines, by byte cursor.
//!
//! Source: src/logging/log-tail.ts at 2026.9.6.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde_json::{Value, json};

const LIMIT_DEFAULT: u64 = 500;
const LIMIT_MAX: u64 = 5_000;
const BYTES_DEFAULT: u64 = 250_000;
const BYTES_MAX: u64 = 1_000_000;

/// What the caller asks for, already checked against the schema of `logs.tail`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request {
    pub cursor: Option<u64>,
    pub limit: Option<u64>,
    pub max_bytes: Option<u64>,
}

impl Request {
    pub fn read(params: Option<&serde_json::value::RawValue>) -> Self {
        let fields = params
            .and_then(wire::raw::Fields::parse)
            .unwrap_or_default();
        let count = |name| {
            let number = fields.get(name).and_then(wire::raw::number)?;
            // The schema admits whole numbers from 0; what exceeds u64 saturates.
            Some(number as u64)
        };
        Self {
            cursor: count("cursor"),
            limit: count("limit"),
            max_bytes: count("maxBytes"),
        }
    }
}

/// The end of a log: lines with the place where each begins, in bytes since the first one ever.
#[derive(Debug, Default)]
pub struct Lines {
    kept: VecDeque<(u64, String)>,
    end: u64,
}

impl Lines {
    /// Adds a line, without its end.
    pub fn push(&mut self, line: String) {
        let at = self.end;
        self.end += line.len() as u64 + 1;
        self.kept.push_back((at, line));
        while self.kept.len() > LIMIT_MAX as usize
            || self.end - self.kept.front().map_or(self.end, |(at, _)| *at) > BYTES_MAX
        {
            self.kept.pop_front();
        }
    }

    /// What the caller asks for, in the original's shape: `{file, cursor, size, lines, truncated, reset, skippedBytes?}`.
    /// `file`: what the log is called.
    pub fn tail(&self, file: &str, request: Request) -> Value {
        let size = self.end;
        let window = Window::choose(size, request);
        let first = self.kept.front().map_or(size, |(at, _)| *at);
        let limit = request.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
        let asked = self.kept.iter().filter(|(at, _)| *at >= window.start);
        let count = asked.clone().count();
        let cut = count.saturating_sub(usize::try_from(limit).unwrap_or(1));
        let lines: Vec<&str> = asked.skip(cut).map(|(_, line)| line.as_str()).collect();
        let mut answer = json!({
            "file": file,
            "cursor": size,
            "size": size,
            "lines": lines,
            "truncated": window.truncated || cut > 0 || window.start < first,
            "reset": window.reset,
        });
        if let Some(skipped) = window.skipped_bytes {
            answer["skippedBytes"] = json!(skipped);
        }
        answer
    }
}

struct Window {
    start: u64,
    truncated: bool,
    reset: bool,
    skipped_bytes: Option<u64>,
}

impl Window {
    fn choose(size: u64, request: Request) -> Self {
        let max = request
            .max_bytes
            .unwrap_or(BYTES_DEFAULT)
            .clamp(1, BYTES_MAX);
        let last = size.saturating_sub(max);
        let window = |start, truncated, reset, skipped_bytes| Self {
            start,
            truncated,
            reset,
            skipped_bytes,
        };
        match request.cursor {
            None => window(last, last > 0, false, None),
            // The log began anew.
            Some(cursor) if cursor > size => window(last, last > 0, true, None),
            Some(cursor) if size - cursor > max => window(last, true, true, Some(last - cursor)),
            Some(cursor) => window(cursor, false, false, None),
        }
    }
}

/// Hides what looks like a credential. Our log holds none by construction; this is the second line of
/// defence, for text that came from elsewhere (an upstream's output, an error of a library).
pub fn redact(line: &str) -> Cow<'_, str> {
    const MARKERS: &[&str] = &[
        "Bearer ",
        "bearer ",
        "#token=",
        "?token=",
        "&token=",
        "\"token\":\"",
        "\"password\":\"",
        "\\\"token\\\":\\\"",
        "\\\"password\\\":\\\"",
        "sk-",
        "ghp_",
        "github_pat_",
        "xoxb-",
        "xoxp-",
        "AIza",
        "token=",
        "password=",
    ];
    let mut out: Option<String> = None;
    for marker in MARKERS {
        let text = out.as_deref().unwrap_or(line);
        if text.contains(marker) {
            out = Some(hide_after(text, marker));
        }
    }
    out.map_or(Cow::Borrowed(line), Cow::Owned)
}

fn hide_after(text: &str, marker: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(marker) {
        let (before, after) = rest.split_at(at + marker.len());
        out.push_str(before);
        let is_secret = |c: char| c.is_ascii_alphanumeric() || "_-.~+/=:".contains(c);
        let end = after.find(|c| !is_secret(c)).unwrap_or(after.len());
        match end >= 8 {
            true => out.push_str("***"),
            false => out.push_str(&after[..end]),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// One line in the original's format, for `openclaw logs` and the Control UI's log page to parse.
/// `time_iso` is UTC with milliseconds, `2026-11-23T11:33:07.577Z`.
pub fn line(time_iso: &str, level: &str, subsystem: &str, message: &str, host: &str) -> String {
    let level_name = level.to_uppercase();
    let level_id = match &*level_name {
        "TRACE" => 1,
        "DEBUG" => 2,
        "WARN" => 4,
        "ERROR" => 5,
        _ => 3,
    };
    let name = json!({ "subsystem": subsystem }).to_string();
    json!({
        "0": name,
        "1": message,
        "_meta": {
            "runtime": "rust", "hostname": host, "date": time_iso,
            "logLevelId": level_id, "logLevelName": level_name, "name": name, "parentNames": ["openclaw"],
        },
        "time": time_iso.strip_suffix('Z').map_or_else(|| time_iso.to_owned(), |time| format!("{time}+00:00")),
        "hostname": host,
        "message": message,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cursor: Option<u64>, limit: Option<u64>, max_bytes: Option<u64>) -> Request {
        Request {
            cursor,
            limit,
            max_bytes,
        }
    }

    /// Expected fields besides `file`: answers of the original's reader for files with the same lines.
    #[test]
    fn windows_cursors_and_limits_are_the_originals() {
        let answers: Vec<(String, [Option<u64>; 3], Value)> =
            serde_json::from_str(include_str!("../../tests/captures/log-tail.json"))
                .expect("recorded answers");
        // A line that is not whole yet is in no log of ours.
        let whole = answers
            .into_iter()
            .filter(|(text, ..)| text.is_empty() || text.ends_with('\n'));
        let mut checked = 0;
        for (text, [cursor, limit, max_bytes], expected) in whole {
            let mut log = Lines::default();
            text.split_terminator('\n')
                .for_each(|line| log.push(line.to_owned()));
            let request = request(cursor, limit, max_bytes);
            let mut answer = log.tail("", request);
            answer.as_object_mut().expect("an object").remove("file");
            assert_eq!(answer, expected, "{text:?} {request:?}");
            checked += 1;
        }
        assert!(checked >= 50, "{checked}");
    }

    #[test]
    fn what_is_gone_is_said_to_be_gone() {
        let mut log = Lines::default();
        for n in 0..LIMIT_MAX + 10 {
            log.push(format!("line {n:05}"));
        }
        let answer = log.tail("", request(Some(0), Some(LIMIT_MAX), Some(BYTES_MAX)));
        assert_eq!(answer["lines"][0], "line 00010");
        assert_eq!(answer["truncated"], true);
        assert_eq!(answer["cursor"], (LIMIT_MAX + 10) * 11);
        let next = log.tail("", request(answer["cursor"].as_u64(), None, None));
        assert_eq!(
            (&next["lines"], &next["truncated"]),
            (&json!([]), &json!(false))
        );
        log.push("x".repeat(BYTES_MAX as usize + 1));
        assert!(log.kept.is_empty(), "bounded in bytes, too");
    }

    #[test]
    fn secrets_are_hidden_and_the_rest_is_kept() {
        let check = |line: &str, expected: &str| assert_eq!(redact(line), expected);
        check("nothing here", "nothing here");
        check(
            "Authorization: Bearer abcdef123456 next",
            "Authorization: Bearer *** next",
        );
        check("http://h/#token=abcdefghij&x", "http://h/#token=***&x");
        check(
            r#"{"token":"abcdefghij","a":1}"#,
            r#"{"token":"***","a":1}"#,
        );
        check("token=short", "token=short");
    }

    #[test]
    fn a_line_is_what_log_readers_parse() {
        let line = line(
            "2026-11-23T11:33:07.577Z",
            "warn",
            "gateway/ws",
            "hello",
            "vm",
        );
        let parsed: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(parsed["0"], "{\"subsystem\":\"gateway/ws\"}");
        assert_eq!(
            (
                &parsed["_meta"]["logLevelName"],
                &parsed["_meta"]["logLevelId"]
            ),
            (&json!("WARN"), &json!(4))
        );
        assert_eq!(
            (&parsed["time"], &parsed["message"]),
            (&json!("2026-11-23T11:33:07.577+00:00"), &json!("hello"))
        );
    }
}
