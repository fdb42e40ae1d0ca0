//! Our log: to standard error, and its last lines kept for `openclaw-gateway report`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::app::App;
use crate::ingress::http::Body;
use crate::rollout::answer;

pub(crate) const PATH: &str = "/api/diagnostics/log";
/// Lines kept, and the bytes kept of each.
const LINES_MAX: usize = 500;
const LINE_BYTES_MAX: usize = 2048;

/// Cheap to clone; what is written to any goes to all.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecentLog(Arc<Mutex<VecDeque<String>>>);

impl RecentLog {
    fn push(&self, bytes: &[u8]) {
        let kept = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
        let line = String::from_utf8_lossy(kept).trim_end().to_owned();
        let mut lines = self.0.lock();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// Oldest first.
    fn lines(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

/// Writes one event, whole: the formatter hands it over in one piece.
#[derive(Debug)]
pub(crate) struct Tee(RecentLog);

impl Write for Tee {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.push(event);
        // All of it, since a second call would be a second line. Nobody reads on the other side any more: that is no
        // reason to fail, and the formatter's own complaint about it would end the task that logs.
        drop(io::stderr().lock().write_all(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for RecentLog {
    type Writer = Tee;

    fn make_writer(&'a self) -> Tee {
        Tee(self.clone())
    }
}

/// `GET /api/diagnostics/log`: `{"lines":[…]}`, for whoever may read.
pub(crate) async fn respond(
    app: &App,
    request: &Request<Incoming>,
    peer: SocketAddr,
) -> Response<Body> {
    match crate::messages::api::admit(app, request.headers(), peer, "operator.read").await {
        Ok(()) => answer(
            StatusCode::OK,
            &json!({ "lines": app.recent_log().lines() }),
        ),
        Err(refusal) => *refusal,
    }
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
        let lines = log.lines();
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines[0], "line 3");
        assert!(lines[LINES_MAX - 1].len() <= LINE_BYTES_MAX + 3);
    }
}
