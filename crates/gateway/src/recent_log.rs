//! Our log: to standard error, and its last lines kept as JSON, for `logs.tail`, the console and `openclaw-gateway report`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::json;

use crate::app::App;
use crate::auth::RemoteEnd;
use crate::ingress::http::Body;
use crate::rollout::answer;

pub(crate) const PATH: &str = "/api/diagnostics/log";
/// Lines kept, and the bytes kept of each.
const LINES_MAX: usize = 500;
const LINE_BYTES_MAX: usize = 2048;

/// Cheap to clone; what is written to any goes to all.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecentLog(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    /// Lines written since the start, also those that are gone.
    written: u64,
}

impl RecentLog {
    fn push(&self, bytes: &[u8]) {
        let kept = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
        let line = String::from_utf8_lossy(kept).trim_end().to_owned();
        let mut kept = self.0.lock();
        if kept.lines.len() == LINES_MAX {
            kept.lines.pop_front();
        }
        kept.lines.push_back(line);
        kept.written += 1;
    }

    /// A writer of JSON lines that are kept, and shown as well.
    pub(crate) fn writer(&self, is_shown: bool) -> impl Fn() -> Writer + use<> {
        let kept = self.clone();
        move || Writer {
            kept: Some(kept.clone()),
            is_shown,
        }
    }

    /// Lines written since the start: the `after` of whoever has them all.
    pub(crate) fn written(&self) -> u64 {
        self.0.lock().written
    }

    /// What was written behind the first `after` lines and is still kept, oldest first; and the next `after`.
    pub(crate) fn after(&self, after: u64) -> (Vec<String>, u64) {
        let kept = self.0.lock();
        let gone = kept.written - kept.lines.len() as u64;
        let known = usize::try_from(after.saturating_sub(gone)).unwrap_or(usize::MAX);
        (
            kept.lines.iter().skip(known).cloned().collect(),
            kept.written,
        )
    }
}

/// Writes one event, whole: the formatter hands it over in one piece.
#[derive(Debug)]
pub(crate) struct Writer {
    kept: Option<RecentLog>,
    is_shown: bool,
}

/// To standard error alone.
pub(crate) fn shown() -> Writer {
    Writer {
        kept: None,
        is_shown: true,
    }
}

impl Write for Writer {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if let Some(kept) = &self.kept {
            kept.push(event);
        }
        if self.is_shown {
            // All of it, since a second call would be a second line. Nobody reads on the other side any more: that is no
            // reason to fail, and the formatter's own complaint about it would end the task that logs.
            drop(io::stderr().lock().write_all(event));
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// `GET /api/diagnostics/log?after=N`: `{"lines":[…],"after":N}`, for whoever may read; all that is kept without `after`.
pub(crate) async fn respond(
    app: &App,
    request: &Request<Incoming>,
    peer: RemoteEnd,
) -> Response<Body> {
    if let Err(refusal) =
        crate::messages::api::admit(app, request.headers(), peer, "operator.read").await
    {
        return *refusal;
    }
    let after = match request.uri().query().unwrap_or_default() {
        "" => Some(0),
        query => query
            .strip_prefix("after=")
            .and_then(|after| after.parse().ok()),
    };
    let Some(after) = after else {
        let error = json!({ "error": "use ?after=NUMBER, the `after` of an earlier answer" });
        return answer(StatusCode::BAD_REQUEST, &error);
    };
    let (lines, after) = app.recent_log().after(after);
    answer(StatusCode::OK, &json!({ "lines": lines, "after": after }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_none_grows_beyond_its_limit() {
        let log = RecentLog::default();
        for n in 0..LINES_MAX + 2 {
            log.push(format!("line {n}\n").as_bytes());
        }
        log.push("é".repeat(LINE_BYTES_MAX).as_bytes());
        let (lines, after) = log.after(0);
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines[0], "line 3");
        assert!(lines[LINES_MAX - 1].len() <= LINE_BYTES_MAX + 3);
        assert_eq!((after, log.written()), (503, 503));
        assert_eq!(log.after(501).0, lines[LINES_MAX - 2..]);
        assert_eq!(log.after(503), (Vec::new(), 503));
        // Of another process, which wrote more.
        assert_eq!(log.after(9_000), (Vec::new(), 503));
        log.push(b"one more");
        assert_eq!(log.after(503), (vec!["one more".to_owned()], 504));
    }
}
