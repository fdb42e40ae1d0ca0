//! `/api/upstream`: how the gateway behind this one does, what it wrote, and orders to it.

use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::RemoteEnd;
use crate::bridge::UpstreamState;
use crate::bridge::process::output::Line;
use crate::ingress::http::Body;
use crate::procfs;
use crate::rollout::answer;

pub(crate) const PATH: &str = "/api/upstream";
/// Lines in `status`.
const LAST_LINES: usize = 12;
/// Longest that a request for new lines waits for them.
const WAIT_MAX: Duration = Duration::from_secs(20);
const NO_CHILD: &str = "no OpenClaw is supervised by this gateway; one that is attached to is restarted by its own means (`openclaw gateway restart`)";

/// `GET /api/upstream`, `GET /api/upstream/logs?after=N&wait=SECONDS`, `POST /api/upstream/start` and `/restart`.
pub(crate) async fn respond(
    app: &App,
    request: &Request<Incoming>,
    peer: RemoteEnd,
) -> Response<Body> {
    let path = request.uri().path();
    let (allowed, scope) = match path.strip_prefix(PATH).unwrap_or_default() {
        "" | "/logs" => ("GET, HEAD", "operator.read"),
        "/start" | "/restart" => ("POST", "operator.admin"),
        _ => return answer(StatusCode::NOT_FOUND, &json!({ "error": "no such path" })),
    };
    if let Err(refusal) = crate::messages::api::admit(app, request.headers(), peer, scope).await {
        return *refusal;
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads != (scope == "operator.read") || !reads && *request.method() != Method::POST {
        let mut response = answer(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({ "error": format!("use {allowed}") }),
        );
        let allow = HeaderValue::from_static(allowed);
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    if path == PATH {
        return answer(StatusCode::OK, &status(app).await);
    }
    let Some(child) = app.supervisor() else {
        return answer(StatusCode::CONFLICT, &json!({ "error": NO_CHILD }));
    };
    if path.ends_with("/restart") {
        child.restart();
        return answer(StatusCode::ACCEPTED, &status(app).await);
    }
    if path.ends_with("/start") {
        child.start();
        return answer(StatusCode::ACCEPTED, &status(app).await);
    }
    let (after, wait) = match query(request.uri().query().unwrap_or_default()) {
        Ok(asked) => asked,
        Err(why) => return answer(StatusCode::BAD_REQUEST, &json!({ "error": why })),
    };
    let output = child.output();
    let mut stop = app.stopping.subscribe();
    tokio::select! {
        () = output.newer(after) => {}
        () = tokio::time::sleep(wait.min(WAIT_MAX)) => {}
        _ = stop.changed() => {}
    }
    let lines = output.after(after);
    let next = lines.last().map_or(after, |line| line.seq);
    let lines: Vec<Value> = lines.iter().map(line).collect();
    answer(StatusCode::OK, &json!({ "lines": lines, "after": next }))
}

/// `after` (0: all that is kept) and `wait` (seconds, 0: answer at once).
fn query(query: &str) -> Result<(u64, Duration), String> {
    let (mut after, mut wait) = (0, 0);
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let into = match name {
            "after" => &mut after,
            "wait" => &mut wait,
            _ => {
                return Err(format!(
                    "{name} is unknown; use after=NUMBER and wait=SECONDS"
                ));
            }
        };
        *into = value
            .parse()
            .map_err(|_bad| format!("{name}: {value:?} is no whole number"))?;
    }
    Ok((after, Duration::from_secs(wait)))
}

fn line(line: &Line) -> Value {
    json!({
        "seq": line.seq,
        "atMs": line.at_ms,
        "pid": line.pid,
        "stream": line.stream,
        "text": line.text,
    })
}

/// What is known of it now.
async fn status(app: &App) -> Value {
    let state = app.upstream.borrow().clone();
    let child = app.supervisor();
    let why = match &state {
        UpstreamState::Down { why } | UpstreamState::Stopped { why } => Some(why.clone()),
        _ => None,
    };
    let ready = state.ready();
    let last: Vec<Value> = child
        .map(|child| child.output().after(0))
        .unwrap_or_default()
        .iter()
        .rev()
        .take(LAST_LINES)
        .rev()
        .map(line)
        .collect();
    let memory = match ready.and_then(|ready| ready.pid) {
        Some(pid) => tokio::task::spawn_blocking(move || procfs::tree(pid))
            .await
            .ok()
            .flatten(),
        None => None,
    };
    let vitals = child.map(|child| child.vitals());
    json!({
        "state": state.word(),
        "why": why,
        "supervised": child.is_some(),
        "address": ready.map(|ready| ready.address.to_string()),
        "pid": ready.and_then(|ready| ready.pid),
        "version": ready.and_then(|ready| ready.version.clone()),
        "epoch": ready.map(|ready| ready.epoch),
        "starts": child.map(|child| child.output().starts()),
        // Bytes; `max` 0 is no ceiling.
        "memory": memory.map(|tree| json!({
            "resident": tree.resident_bytes,
            "processes": tree.processes,
            "max": vitals.map(|vitals| vitals.memory_max),
            "restarts": vitals.map(|vitals| vitals.memory_restarts),
        })),
        "lastOutput": last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_and_what_is_wrong_is_named() {
        assert_eq!(query(""), Ok((0, Duration::ZERO)));
        assert_eq!(query("after=7&wait=2"), Ok((7, Duration::from_secs(2))));
        for (wrong, named) in [("after=x", "after"), ("since=1", "since"), ("wait", "wait")] {
            assert!(
                query(wrong).is_err_and(|why| why.contains(named)),
                "{wrong}"
            );
        }
    }
}
