//! The admin listener: metrics and detailed readiness, on an address of its own so that neither can be exposed
//! by accident. No authentication; loopback unless the user says otherwise.

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

use super::http::{Body, full, text};
use crate::app::App;
use crate::metrics::route as metrics;

/// Serves until the app drains.
pub(crate) async fn serve(app: Arc<App>, listener: TcpListener) {
    let mut stop = app.stopping.subscribe();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "admin listener cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = stop.changed() => return,
        };
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let app = Arc::clone(&app);
                async move { Ok::<_, Infallible>(respond(&app, &request).await) }
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

async fn respond(app: &Arc<App>, request: &Request<Incoming>) -> Response<Body> {
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
        // Names clients and addresses, so not for a web page that had its own name point here.
        "/refusals" if !names_an_address(request) => text(StatusCode::FORBIDDEN, "Forbidden"),
        "/refusals" => typed(
            StatusCode::OK,
            "application/json; charset=utf-8",
            refusals(app).into(),
        ),
        _ => text(StatusCode::NOT_FOUND, "Not Found"),
    }
}

/// Whether `Host` is an IP address or `localhost`: no name that someone else's DNS decides.
fn names_an_address(request: &Request<Incoming>) -> bool {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .and_then(|host| host.parse::<http::uri::Authority>().ok());
    host.is_some_and(|host| {
        let name = host.host().trim_matches(['[', ']']);
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
    })
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
