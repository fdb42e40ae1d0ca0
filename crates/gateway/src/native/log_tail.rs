//! `logs.tail`: the end of a log file of JSON lines, by byte cursor.
//!
//! Source: src/logging/log-tail.ts at 2026.9.6. With an upstream the call is bridged, because the original
//! redacts by its own configured rules; this reader serves our log when there is none.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

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
        let fields = params.and_then(wire::raw::Fields::parse).unwrap_or_default();
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

/// Reads the tail; a file that does not exist has no lines.
///
/// # Errors
/// The file is not a regular file, or cannot be read.
pub fn tail(file: &Path, request: Request) -> io::Result<Value> {
    let shown = file.to_string_lossy();
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(io::Error::other(format!("Log path is not a regular file: {shown}")));
        }
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let size = metadata.map_or(0, |metadata| metadata.len());
    let window = Window::choose(size, request);
    if size <= window.start {
        return Ok(window.answer(&shown, size, &[], false));
    }
    let handle = File::open(file)?;
    // One byte before the window says whether it starts at a line.
    let from = window.start.saturating_sub(1);
    let mut bytes = vec![0; usize::try_from(size - from).unwrap_or(usize::MAX)];
    let read = read_window(&handle, &mut bytes, from)?;
    bytes.truncate(read);
    let starts_a_line = window.start == 0 || bytes.first() == Some(&b'\n');
    let body = match window.start {
        0 => &bytes[..],
        _ => bytes.get(1..).unwrap_or_default(),
    };
    let Some(end) = body.iter().rposition(|byte| *byte == b'\n') else {
        return Ok(window.answer(&shown, window.start, &[], false));
    };
    let text = String::from_utf8_lossy(&body[..end]);
    let mut lines: Vec<&str> = text.split('\n').collect();
    if !starts_a_line {
        lines.remove(0);
    }
    let limit = usize::try_from(request.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX)).unwrap_or(1);
    let cut = lines.len().saturating_sub(limit);
    let kept: Vec<Cow<'_, str>> = lines[cut..].iter().map(|line| redact(line)).collect();
    let cursor = window.start + end as u64 + 1;
    Ok(window.answer_sized(&shown, cursor, size, &kept, cut > 0))
}

struct Window {
    start: u64,
    truncated: bool,
    reset: bool,
    skipped_bytes: Option<u64>,
    size: u64,
}

impl Window {
    fn choose(size: u64, request: Request) -> Self {
        let max = request.max_bytes.unwrap_or(BYTES_DEFAULT).clamp(1, BYTES_MAX);
        let last = size.saturating_sub(max);
        let window = |start, truncated, reset, skipped_bytes| Self {
            start,
            truncated,
            reset,
            skipped_bytes,
            size,
        };
        match request.cursor {
            None => window(last, last > 0, false, None),
            // The file was replaced by a shorter one.
            Some(cursor) if cursor > size => window(last, last > 0, true, None),
            Some(cursor) if size - cursor > max => window(last, true, true, Some(last - cursor)),
            Some(cursor) => window(cursor, false, false, None),
        }
    }

    fn answer(&self, file: &str, cursor: u64, lines: &[Cow<'_, str>], cut: bool) -> Value {
        self.answer_sized(file, cursor, self.size, lines, cut)
    }

    fn answer_sized(&self, file: &str, cursor: u64, size: u64, lines: &[Cow<'_, str>], cut: bool) -> Value {
        let mut answer = json!({
            "file": file,
            "cursor": cursor,
            "size": size,
            "lines": lines,
            "truncated": self.truncated || cut,
            "reset": self.reset,
        });
        if let Some(skipped) = self.skipped_bytes {
            answer["skippedBytes"] = json!(skipped);
        }
        answer
    }
}

fn read_window(file: &File, buffer: &mut [u8], from: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], from + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// Hides what looks like a credential. Our log holds none by construction; this is the second line of
/// defence, for text that came from elsewhere (an upstream's output, an error of a library).
pub fn redact(line: &str) -> Cow<'_, str> {
    const MARKERS: &[&str] = &[
        "Bearer ", "bearer ", "#token=", "?token=", "&token=", "\"token\":\"", "\"password\":\"", "\\\"token\\\":\\\"",
        "\\\"password\\\":\\\"", "sk-", "ghp_", "github_pat_", "xoxb-", "xoxp-", "AIza", "token=", "password=",
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

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    fn request(cursor: Option<u64>, limit: Option<u64>, max_bytes: Option<u64>) -> Request {
        Request { cursor, limit, max_bytes }
    }

    /// Expected fields besides `file`: answers of the original's reader for the same files.
    #[test]
    fn windows_cursors_and_limits_are_the_originals() {
        let check = |text: &str, request: Request, expected: Value| {
            let file = file(text);
            let mut answer = tail(file.path(), request).expect("a tail");
            answer.as_object_mut().expect("an object").remove("file");
            assert_eq!(answer, expected, "{text:?} {request:?}");
        };
        let answers: Vec<(String, [Option<u64>; 3], Value)> =
            serde_json::from_str(include_str!("../../tests/captures/log-tail.json")).expect("recorded answers");
        assert!(answers.len() > 20);
        for (text, [cursor, limit, max_bytes], expected) in answers {
            check(&text, request(cursor, limit, max_bytes), expected);
        }
    }

    #[test]
    fn a_missing_file_has_no_lines_and_a_directory_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let answer = tail(&dir.path().join("none.log"), Request::default()).expect("a tail");
        assert_eq!((&answer["lines"], &answer["size"]), (&json!([]), &json!(0)));
        let error = tail(dir.path(), Request::default()).expect_err("a directory");
        assert!(error.to_string().starts_with("Log path is not a regular file: "), "{error}");
    }

    #[test]
    fn secrets_are_hidden_and_the_rest_is_kept() {
        let check = |line: &str, expected: &str| assert_eq!(redact(line), expected);
        check("nothing here", "nothing here");
        check("Authorization: Bearer abcdef123456 next", "Authorization: Bearer *** next");
        check("http://h/#token=abcdefghij&x", "http://h/#token=***&x");
        check(r#"{"token":"abcdefghij","a":1}"#, r#"{"token":"***","a":1}"#);
        check("token=short", "token=short");
    }

    #[test]
    fn a_line_is_what_log_readers_parse() {
        let line = line("2026-11-23T11:33:07.577Z", "warn", "gateway/ws", "hello", "vm");
        let parsed: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(parsed["0"], "{\"subsystem\":\"gateway/ws\"}");
        assert_eq!((&parsed["_meta"]["logLevelName"], &parsed["_meta"]["logLevelId"]), (&json!("WARN"), &json!(4)));
        assert_eq!((&parsed["time"], &parsed["message"]), (&json!("2026-11-23T11:33:07.577+00:00"), &json!("hello")));
    }
}
