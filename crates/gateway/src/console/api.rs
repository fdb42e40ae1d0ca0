//! What the console reads that no other API tells: `/api/console`, how things stand now, `/api/console/history`, how they stood
//! in the last minutes, and `/api/console/config`, what is set and where.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::RemoteEnd;
use crate::ingress::http::Body;
use crate::metrics::snapshot::MessageFacts;
use crate::metrics::{BUCKETS_US, Owner};
use crate::procfs;
use crate::rollout::answer;

const NOW: &str = "/api/console";
const CONFIG: &str = "/api/console/config";
const HISTORY: &str = "/api/console/history";

/// Whether a path is ours.
pub(crate) fn is_ours(path: &str) -> bool {
    matches!(path, NOW | CONFIG | HISTORY)
}

/// Answers a `GET` by whoever may do everything: it shows what is set, and who is there.
pub(crate) async fn respond(
    app: &Arc<App>,
    request: &Request<Incoming>,
    peer: RemoteEnd,
) -> Response<Body> {
    if let Err(refusal) =
        crate::messages::api::admit(app, request.headers(), peer, "operator.admin").await
    {
        return *refusal;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = answer(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({ "error": "use GET" }),
        );
        let allow = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let reader = Arc::clone(app);
    let path = request.uri().path().to_owned();
    // Files and the store are read: not on a thread that serves.
    let read = tokio::task::spawn_blocking(move || match path.as_str() {
        CONFIG => config(&reader),
        HISTORY => (StatusCode::OK, reader.traffic.json(&reader.boot_id)),
        _ => (StatusCode::OK, now(&reader)),
    });
    let (status, body) = read.await.unwrap_or_else(|error| {
        tracing::error!(%error, "the console's figures could not be put together");
        let error = json!({ "error": "the figures could not be put together; see the log" });
        (StatusCode::INTERNAL_SERVER_ERROR, error)
    });
    let mut response = answer(status, &body);
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

fn config(app: &App) -> (StatusCode, Value) {
    let Some(follower) = app.follower() else {
        let error = json!({ "error": "the gateway is starting" });
        return (StatusCode::SERVICE_UNAVAILABLE, error);
    };
    match follower.origins() {
        Ok(shown) => (StatusCode::OK, shown.json()),
        // What is in force is older than the files.
        Err(error) => (StatusCode::CONFLICT, json!({ "error": error.to_string() })),
    }
}

/// Counters since the start; who asks makes rates of them. Times in milliseconds, memory in bytes.
fn now(app: &App) -> Value {
    let side = |owner: Owner| super::history::side(&app.metrics.totals(owner));
    let own = procfs::Own::read();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "openclaw": wire::REFERENCE_VERSION,
        "bootId": app.boot_id,
        "pid": std::process::id(),
        "nowMs": crate::clock::now_ms(),
        "uptimeMs": app.uptime_ms(),
        "failing": app.failing(),
        "connections": app.hub.len(),
        "refusedConnects": app.auth.refused(),
        "memory": own.resident_bytes,
        "cpuSeconds": own.cpu_seconds,
        // Upper bounds of `times`, microseconds; one more is for what is longer.
        "boundsUs": BUCKETS_US,
        "native": side(Owner::Native),
        "upstream": side(Owner::Upstream),
        "reloadsRefused": app.reloads.refused.load(std::sync::atomic::Ordering::Relaxed),
        "logWritten": app.recent_log().written(),
        "queue": app.messages().map(|messages| queue(&MessageFacts::read(messages))),
    })
}

/// `{healthy, waiting: [{channel, state, rows, oldestMs}]}`; `inbound` wait for an agent.
fn queue(facts: &MessageFacts) -> Value {
    let outbound = facts.outbound.iter().map(|waiting| json!(waiting));
    let inbound = facts.inbound.iter().map(|(channel, rows, oldest_ms)| {
        json!({ "channel": channel, "state": "inbound", "rows": rows, "oldestMs": oldest_ms })
    });
    json!({ "healthy": facts.healthy, "waiting": outbound.chain(inbound).collect::<Vec<_>>() })
}
