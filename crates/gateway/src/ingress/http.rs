//! HTTP and the upgrade on one port: probes answered here, upgrades to the control protocol, the rest proxied.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::api;
use super::complaints::{Cause, complain};
use super::connection::{Connection, Limits};
use super::handshake::{ControlPeer, Facts};
use super::outbound::Outbound;
use super::transport::Transport;
use super::websocket;
use crate::app::App;
use crate::assistant::{invoke, openai};
use crate::auth::{Attribution, HttpRefusal};
use crate::auth::{Door, RemoteEnd};
use crate::bridge::{self, UpstreamState, link, proxy};
use crate::console;
use crate::control_ui;
use crate::metrics;

/// Body of every response we give or pass on.
pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

/// How long a client's greeting may wait for the upstream's challenge before it gets one of ours. A Node that has just started,
/// or whose machine is busy, is late by seconds; without it a new device would be paired here, and a page be asked to come once
/// more. Clients wait 15 s for theirs (`PREAUTH_HANDSHAKE_TIMEOUT_MS`).
pub(crate) const CHALLENGE_WAIT: Duration = Duration::from_secs(5);

/// Largest head of a request, bytes; more is 431. Source: Node's default `--max-http-header-size`, which the original
/// leaves as it is.
const HEAD_BYTES_MAX: usize = 16 * 1024;

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}

/// Accepts until the app drains. A failed accept (no file descriptors) waits a moment instead of spinning.
pub(crate) async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    door: Door,
    tls: Option<TlsAcceptor>,
) {
    let mut stop = app.stopping.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let peer = RemoteEnd { address, door };
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY was refused");
                }
                match &tls {
                    None => drop(tokio::spawn(connection(
                        Arc::clone(&app),
                        Transport::Tcp(stream),
                        peer,
                    ))),
                    Some(acceptor) => {
                        drop(tokio::spawn(secure_connection(
                            Arc::clone(&app),
                            acceptor.clone(),
                            stream,
                            peer,
                        )));
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept connections; trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn secure_connection(
    app: Arc<App>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: RemoteEnd,
) {
    let deadline = app.settings.load().http_header_timeout;
    match tokio::time::timeout(deadline, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => connection(app, Transport::Tls(Box::new(stream)), peer).await,
        Ok(Err(error)) => {
            // The error's own text may quote what was sent.
            tracing::debug!(%peer, %error, "TLS handshake failed");
            complain(Cause::Tls, peer.ip(), None, &error.kind());
        }
        Err(_elapsed) => complain(Cause::Tls, peer.ip(), None, &"it took too long"),
    }
}

async fn connection(app: Arc<App>, transport: Transport, peer: RemoteEnd) {
    let header_timeout = app.settings.load().http_header_timeout;
    let mut stop = app.stopping.subscribe();
    let is_tls = matches!(transport, Transport::Tls(_));
    let asked = Arc::new(AtomicBool::new(false));
    let has_asked = Arc::clone(&asked);
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        has_asked.store(true, Ordering::Relaxed);
        async move {
            let metrics = Arc::clone(&app.metrics);
            let response = respond(app, request, peer, is_tls).await;
            metrics.responded(response.status());
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(64 * 1024)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(transport), service)
        .with_upgrades();
    tokio::pin!(served);
    let outcome = tokio::select! {
        outcome = served.as_mut() => outcome,
        _ = stop.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "HTTP connection ended with an error");
        if error.is_parse() {
            complain(Cause::Http, peer.ip(), None, &error);
        } else if error.is_timeout() && !asked.load(Ordering::Relaxed) {
            // One that has asked before is kept alive and idle, which is no fault.
            complain(Cause::SlowHead, peer.ip(), None, &error);
        }
    }
}

async fn respond(
    app: Arc<App>,
    request: Request<Incoming>,
    peer: RemoteEnd,
    is_tls: bool,
) -> Response<Body> {
    let path = request.uri().path();
    if websocket::is_upgrade(request.headers()) && !path.starts_with("/__openclaw__/worker") {
        return upgrade(app, request, peer);
    }
    if let Some(probe) = probe(&app, &request) {
        return secured(probe);
    }
    if let Some(api) = api::of(&app, path) {
        return secured(api::respond(api, &app, request, peer).await);
    }
    if let Some(page) = console::respond(&app, &request) {
        return page;
    }
    if path == metrics::route::PATH {
        return secured(metrics::route::respond(&app, request, peer, is_tls).await);
    }
    let alone = matches!(*app.upstream.borrow(), UpstreamState::Off);
    if alone && path == invoke::PATH {
        return secured(invoke::respond(&app, request, peer).await);
    }
    if let Some(page) = control_ui::respond(&app, &request, peer).await {
        return page;
    }
    if alone && openai::is_ours(path) {
        let answered = openai::respond(&app, request, peer).await;
        return secured(answered.unwrap_or_else(|| text(StatusCode::NOT_FOUND, "Not Found")));
    }
    if alone {
        return secured(text(StatusCode::NOT_FOUND, "Not Found"));
    }
    proxied(&app, request, peer, is_tls).await
}

/// Passes a request to the upstream, with what we know of its client.
pub(crate) async fn proxied(
    app: &App,
    request: Request<Incoming>,
    peer: RemoteEnd,
    is_tls: bool,
) -> Response<Body> {
    let client = app.auth.attribute(peer, request.headers()).map_or_else(
        |_refusal| proxy::Client::unknown(),
        |attribution| proxy::Client::of(&attribution, is_tls),
    );
    let around = proxy::Around {
        upstream: app.upstream.clone(),
        supervisor: app.supervisor(),
        stopping: app.stopping.subscribe(),
    };
    let response = app.proxy.forward(request, client, around).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        || response
            .headers()
            .contains_key(header::X_CONTENT_TYPE_OPTIONS)
    {
        response
    } else {
        // An answer of ours about the upstream; its own carry these headers.
        secured(response)
    }
}

/// Headers the original puts on every answer. Source: src/gateway/http-security-headers at 2026.9.6.
pub(crate) fn secured(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    headers.insert(
        "permissions-policy",
        HeaderValue::from_static("camera=(), microphone=(self), geolocation=()"),
    );
    response
}

pub(crate) fn text(status: StatusCode, body: &'static str) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// `/health(z)`, `/ready(z)`, `/startup(z)`. Source: `handleGatewayProbeRequest` at 2026.9.6.
fn probe(app: &App, request: &Request<Incoming>) -> Option<Response<Body>> {
    let (status, body) = match request.uri().path() {
        "/health" | "/healthz" => (
            StatusCode::OK,
            Bytes::from_static(br#"{"ok":true,"status":"live"}"#),
        ),
        "/ready" | "/readyz" => app.readiness(),
        "/startup" | "/startupz" => app.startup(),
        _ => return None,
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(response);
    }
    let length = body.len();
    let mut response = Response::new(if request.method() == Method::HEAD {
        full("")
    } else {
        full(body)
    });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Some(response)
}

/// Answers the upgrade and starts the connection's task.
fn upgrade(app: Arc<App>, mut request: Request<Incoming>, peer: RemoteEnd) -> Response<Body> {
    let accept = match websocket::check(&request) {
        Ok(accept) => accept,
        Err(bad) => {
            let mut response = Response::new(full(bad.body));
            *response.status_mut() = bad.status;
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
            if bad.supported_versions {
                headers.insert(
                    header::SEC_WEBSOCKET_VERSION,
                    HeaderValue::from_static("13, 8"),
                );
            }
            return response;
        }
    };
    let attribution = match app.auth.attribute(peer, request.headers()) {
        Ok(attribution) => attribution,
        Err(refusal) => return refused(&refusal),
    };
    let Some(permit) = app.preauth.acquire(attribution.client_ip) else {
        let client = attribution.client_ip;
        complain(Cause::TooManySockets, client, None, &"refused with 503");
        let mut response = text(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many unauthenticated sockets",
        );
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let headers = request.headers().clone();
    let metrics = Arc::clone(&app.metrics);
    tokio::spawn(async move {
        // Boxed: what opening needs is gone from memory while the connection lives.
        let opening = Box::pin(open(app, upgraded, headers, attribution, peer, permit));
        if let Some(connection) = opening.await {
            metrics.websocket_opens.fetch_add(1, Ordering::Relaxed);
            metrics.closed(connection.run().await);
        }
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// From the upgrade to a connection that has been sent its challenge. `None`: the client left.
async fn open(
    app: Arc<App>,
    upgraded: hyper::upgrade::OnUpgrade,
    headers: http::HeaderMap,
    attribution: Attribution,
    peer: RemoteEnd,
    permit: impl Send + 'static,
) -> Option<Connection<ControlPeer>> {
    let greeting = greet(&app, &headers, &attribution).await;
    let upgraded = match upgraded.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%peer, %error, "upgrade did not complete");
            return None;
        }
    };
    // Down to the bare socket, so that no HTTP buffers stay with an idle connection.
    let Ok(parts) = upgraded.downcast::<TokioIo<Transport>>() else {
        tracing::error!("the upgraded socket is not ours");
        return None;
    };
    let outbound = Arc::new(Outbound::new(app.settings.load().buffered_bytes_max));
    outbound.send(ControlPeer::challenge(&greeting.nonce, greeting.issued_ms));
    let facts = Facts {
        conn_id: uuid::Uuid::new_v4().to_string().into(),
        peer: peer.address,
        nonce: greeting.nonce,
    };
    let limits = {
        let settings = app.settings.load();
        Limits {
            preauth_bytes_max: settings.preauth_bytes_max,
            payload_bytes_max: settings.payload_bytes_max,
            handshake_timeout: settings.handshake_timeout,
        }
    };
    let peer = ControlPeer::new(
        app,
        facts,
        headers,
        attribution,
        Arc::clone(&outbound),
        greeting.dialled,
    );
    Some(Connection::new(
        parts.io.into_inner(),
        &parts.read_buf,
        outbound,
        peer,
        limits,
        Box::new(permit),
    ))
}

/// A refusal of the authentication as an HTTP answer.
pub(crate) fn refused(refusal: &HttpRefusal) -> Response<Body> {
    let mut response = Response::new(full(refusal.body.clone()));
    *response.status_mut() = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::FORBIDDEN);
    let headers = response.headers_mut();
    for (name, value) in &refusal.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(*name, value);
        }
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

struct Greeting {
    nonce: String,
    issued_ms: u64,
    dialled: Option<link::Dialled>,
}

/// The upstream's challenge where one comes in time, else our own.
async fn greet(app: &App, headers: &http::HeaderMap, attribution: &Attribution) -> Greeting {
    let ready = app.upstream.borrow().ready().cloned();
    if let Some(ready) = ready {
        let dialling = async {
            let _permit = ready
                .dial_permits
                .acquire()
                .await
                .map_err(|closed| closed.to_string())?;
            link::dial(&ready, &bridge::dial_headers(headers, attribution, &ready)).await
        };
        match tokio::time::timeout(CHALLENGE_WAIT, dialling).await {
            Ok(Ok(dialled)) => {
                return Greeting {
                    nonce: dialled.nonce.clone(),
                    issued_ms: dialled.issued_ms,
                    dialled: Some(dialled),
                };
            }
            Ok(Err(why)) => tracing::debug!(%why, "no upstream challenge"),
            Err(_elapsed) => tracing::debug!("the upstream's challenge is late"),
        }
    }
    Greeting {
        nonce: uuid::Uuid::new_v4().to_string(),
        issued_ms: crate::clock::now_ms(),
        dialled: None,
    }
}
