//! `POST /api/memory/WHAT`: the methods of memories over HTTP, always answered here, so that an OpenClaw behind this gateway
//! can ask for them (`plugins/memory`) whoever answers its clients.
//!
//! `search`, `get`, `status`, `index` and `forget` take the params of `memory.…` and give their answers; `tool` is
//! `tools.invoke` of `memory_search` and `memory_get`. A refusal is `{"error": {"code", "message"}}`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::RemoteEnd;
use crate::ingress::http::Body;
use crate::rollout::answer;

const PREFIX: &str = "/api/memory/";
const BODY_BYTES_MAX: usize = 256 * 1024;
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Answered at once; more wait.
pub(super) const AT_ONCE: usize = 16;
/// Of `memory.index`, which takes long: searches do not wait for it.
pub(super) const INDEXES_AT_ONCE: usize = 2;

/// Whether a path is one of these.
pub(crate) fn is_ours(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// The method that a path stands for, and the scope it takes.
fn method(path: &str) -> Option<(&'static str, &'static str)> {
    Some(match path.strip_prefix(PREFIX)? {
        "search" => ("memory.search", "operator.read"),
        "get" => ("memory.get", "operator.read"),
        "status" => ("memory.status", "operator.read"),
        "tool" => ("tools.invoke", "operator.read"),
        "index" => ("memory.index", "operator.write"),
        "forget" => ("memory.forget", "operator.write"),
        _ => return None,
    })
}

/// Answers a request whose path [`is_ours`].
pub(crate) async fn respond(
    app: &Arc<App>,
    request: Request<Incoming>,
    peer: RemoteEnd,
) -> Response<Body> {
    let Some((method, scope)) = method(request.uri().path()) else {
        let why = "no such path: use search, get, status, index, forget or tool";
        return refused(StatusCode::NOT_FOUND, "NOT_FOUND", why);
    };
    if let Err(refusal) = crate::messages::api::admit(app, request.headers(), peer, scope).await {
        return *refusal;
    }
    if request.method() != Method::POST {
        let mut response = refused(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "use POST",
        );
        let allow = HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let params = match read(request).await {
        Ok(params) => params,
        Err(refusal) => return *refusal,
    };
    if method == "tools.invoke" && !super::is_our_tool(Some(&params)) {
        let why = format!("name must be one of: {}", super::tools::NAMES.join(", "));
        return refused(StatusCode::BAD_REQUEST, "INVALID_REQUEST", &why);
    }
    let turns = match method {
        "memory.index" => &app.memories.index_turns,
        _ => &app.memories.turns,
    };
    let Ok(turn) = Arc::clone(turns).acquire_owned().await else {
        return refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
            "the gateway is stopping",
        );
    };
    let work = {
        let app = Arc::clone(app);
        move || {
            // The work has it, not whoever waits: work goes on when nobody waits any more.
            let _turn = turn;
            super::serve(&app, method, Some(&params))
        }
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(out)) => answer(StatusCode::OK, &out),
        Ok(Err(error)) => {
            let status = match error.code.as_str() {
                "INVALID_REQUEST" => StatusCode::BAD_REQUEST,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            refused(status, &error.code, &error.message)
        }
        Err(error) => {
            tracing::error!(method, %error, "a question to the memory panicked; answered 500");
            let why = format!("{method} failed inside the gateway; see its log");
            refused(StatusCode::INTERNAL_SERVER_ERROR, "UNAVAILABLE", &why)
        }
    }
}

fn refused(status: StatusCode, code: &str, why: &str) -> Response<Body> {
    let error: Value = json!({ "code": code, "message": why });
    answer(status, &json!({ "error": error }))
}

async fn read(request: Request<Incoming>) -> Result<Box<RawValue>, Box<Response<Body>>> {
    let refuse = |status, code, why: String| -> Box<Response<Body>> {
        Box::new(refused(status, code, &why))
    };
    let collected = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let bytes = tokio::time::timeout(BODY_PATIENCE, collected)
        .await
        .map_err(|_elapsed| {
            let why = "the body took too long".to_owned();
            refuse(StatusCode::REQUEST_TIMEOUT, "TIMEOUT", why)
        })?
        .map_err(|_too_large| {
            let why = format!("the body is larger than {BODY_BYTES_MAX} bytes");
            refuse(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", why)
        })?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| {
        let why = format!("the body is not JSON: {error}");
        refuse(StatusCode::BAD_REQUEST, "INVALID_REQUEST", why)
    })
}
