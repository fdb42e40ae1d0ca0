//! The admin listener: metrics, detailed readiness and the console, on an address of its own so that none can be exposed
//! by accident. Loopback unless the user says otherwise.
//!
//! Figures are open to whoever reaches it, since a scraper has no secret. What shows messages or the configuration, or acts,
//! takes the gateway's own secret as on its port: a machine has other users.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::http::{Body, full, secured, text};
use super::{api, door};
use crate::app::App;
use crate::auth::Mode;
use crate::auth::RemoteEnd;
use crate::console;
use crate::metrics::route as metrics;

/// Serves until the app drains.
pub(crate) async fn serve(app: Arc<App>, listener: TcpListener) {
    let mut stop = app.stopping.subscribe();
    loop {
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "admin listener cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = stop.changed() => return,
        };
        let app = Arc::clone(&app);
        let peer = RemoteEnd::from(address);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let app = Arc::clone(&app);
                async move { Ok::<_, Infallible>(respond(&app, request, peer).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "admin connection ended with an error");
            }
        });
    }
}

async fn respond(app: &Arc<App>, request: Request<Incoming>, peer: RemoteEnd) -> Response<Body> {
    match request.uri().path() {
        "/metrics" => typed(
            StatusCode::OK,
            metrics::CONTENT_TYPE,
            metrics::text_of(app).await.into(),
        ),
        "/readyz" | "/ready" => {
            let (status, body) = app.readiness();
            typed(status, "application/json; charset=utf-8", body)
        }
        "/healthz" | "/health" => typed(
            StatusCode::OK,
            "application/json; charset=utf-8",
            Bytes::from_static(br#"{"ok":true,"status":"live"}"#),
        ),
        // Names clients, addresses and servers, so not for a web page that had its own name point here.
        "/refusals" | "/mcp" if !door::names_an_address(request.headers()) => {
            text(StatusCode::FORBIDDEN, "Forbidden")
        }
        "/mcp" => typed(
            StatusCode::OK,
            "application/json; charset=utf-8",
            servers(app).into(),
        ),
        "/refusals" => typed(
            StatusCode::OK,
            "application/json; charset=utf-8",
            refusals(app).into(),
        ),
        "/" => console::redirect("console/"),
        path if path.starts_with("/api/") => guarded(app, request, peer).await,
        // Its WebSocket is at the gateway's own port.
        path if console::is_chat(path) => text(
            StatusCode::NOT_FOUND,
            "The chat is at the gateway's own port",
        ),
        _ => console::respond(app, &request)
            .unwrap_or_else(|| text(StatusCode::NOT_FOUND, "Not Found")),
    }
}

/// What takes the gateway's own secret.
async fn guarded(app: &Arc<App>, request: Request<Incoming>, peer: RemoteEnd) -> Response<Body> {
    if let Err(why) = door::check(request.headers()) {
        return secured(text(StatusCode::FORBIDDEN, why));
    }
    // As the gateway's port, which does not open beyond this machine without a secret.
    if app.auth.settings().mode == Mode::None && !peer.ip().to_canonical().is_loopback() {
        let why = "gateway.auth.mode is none: from another machine this takes a token";
        return secured(text(StatusCode::FORBIDDEN, why));
    }
    match api::of(app, request.uri().path()) {
        Some(api) => secured(api::respond(api, app, request, peer).await),
        None => text(StatusCode::NOT_FOUND, "Not Found"),
    }
}

/// `{"mcp":[…]}`: how each MCP server of the file is, for `doctor`.
fn servers(app: &App) -> String {
    let assistant = app.assistant();
    let servers = assistant.map(|assistant| assistant.servers.status(app));
    serde_json::json!({ "mcp": servers }).to_string()
}

/// `{"refusals":[…]}`, oldest first: the connects that were turned away, for `doctor`.
fn refusals(app: &App) -> String {
    let list: Vec<serde_json::Value> = app
        .auth
        .recent_refusals()
        .iter()
        .map(|log| {
            serde_json::json!({
                "atMs": log.at_ms,
                "cause": log.cause,
                "reason": log.reason,
                "fix": log.fix,
                "text": log.to_string(),
            })
        })
        .collect();
    serde_json::json!({ "refusals": list }).to_string()
}

fn typed(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
