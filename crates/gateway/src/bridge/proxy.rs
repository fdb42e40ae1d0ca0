//! HTTP that we do not serve: streamed to the upstream and back, upgrades included.
//!
//! Nothing is buffered beyond a socket's read buffer, in either direction. `Host` is kept, hop-by-hop headers are not,
//! and the headers that say who calls are written by us alone.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::counted::Counted;
use self::pool::{Lease, Pool};
use super::process::Handle;
use super::{Ready, UpstreamState};
use crate::ingress::http::{Body, full};

pub(crate) mod client;
mod counted;
mod pool;
#[cfg(test)]
mod tests;

pub(crate) use client::Client;

/// Requests and tunnels under way at once. More are refused: the upstream serves them from one thread.
const UNDER_WAY_MAX: usize = 512;
/// From the request to the first byte of the answer. A whole agent turn may lie between (`/v1/chat/completions`
/// without streaming), and a dead upstream shows by its closed socket, so this only ends what hangs for ever.
const FIRST_BYTE: Duration = Duration::from_secs(15 * 60);
/// How long the upstream may take to say whether it knows a token. It holds a refusal back for seconds when there
/// were others before, and a handshake has 15.
const BEARER_QUESTION: Duration = Duration::from_secs(10);
/// How long a request waits for an upstream that sleeps or is replaced to be ready.
const WAKE_WAIT: Duration = Duration::from_secs(60);
const REPLACED_LOOK: Duration = Duration::from_millis(100);

/// The original's own words while it can't take HTTP. Source: `runWithGatewayHttpWorkAdmission` at 2026.9.6.
const UNAVAILABLE: &str = r#"{"error":{"message":"Gateway is temporarily unavailable while suspending or restarting","type":"service_unavailable","code":"gateway_unavailable"}}"#;
const STOPPED: &str = r#"{"error":{"message":"The OpenClaw gateway behind this one is stopped. Start it with: openclaw-gateway upstream start","type":"service_unavailable","code":"gateway_stopped"}}"#;
const BUSY: &str = r#"{"error":{"message":"The server is busy. Please try again in a moment.","type":"service_unavailable","code":"gateway_busy"}}"#;
const BAD_BODY: &str = r#"{"error":{"message":"The request's body is malformed or ended early","type":"invalid_request_error"}}"#;
const BROKE_OFF: &str = r#"{"error":{"message":"The OpenClaw gateway behind this one ended before it answered","type":"bad_gateway","code":"gateway_unavailable"}}"#;
const TOO_LATE: &str = r#"{"error":{"message":"The OpenClaw gateway behind this one did not answer in time","type":"gateway_timeout","code":"gateway_timeout"}}"#;

/// Hop-by-hop headers. Source: RFC 9110 section 7.6.1.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Passes requests on. One for the process.
#[derive(Debug)]
pub(crate) struct Proxy {
    pool: Arc<Pool>,
    permits: Arc<Semaphore>,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            pool: Arc::default(),
            permits: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
        }
    }
}

/// What a request needs of the gateway around it.
#[derive(Debug)]
pub(crate) struct Around<'a> {
    pub(crate) upstream: watch::Receiver<UpstreamState>,
    pub(crate) supervisor: Option<&'a Handle>,
    /// True once the gateway stops: tunnels end.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Proxy {
    /// Passes `request` on and streams the answer back. Never fails: what went wrong is an answer in the original's
    /// style.
    pub(crate) async fn forward(
        &self,
        request: Request<Incoming>,
        client: Client,
        around: Around<'_>,
    ) -> Response<Body> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tracing::warn!(
                under_way = UNDER_WAY_MAX,
                "too many HTTP requests for the upstream at once; one is refused"
            );
            return refusal(StatusCode::SERVICE_UNAVAILABLE, BUSY);
        };
        let mut upstream = around.upstream.clone();
        let ready = match ready(&mut upstream, around.supervisor).await {
            Ok(ready) => ready,
            Err(answer) => return *answer,
        };
        if let Some(handle) = around.supervisor {
            handle.touch();
        }
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        match self
            .exchange(request, &client, &ready, permit, around.stopping)
            .await
        {
            Ok(response) => response,
            // The client's doing: it says nothing of the upstream's health.
            Err(failure @ Failure::Body(_)) => {
                tracing::debug!(%method, %path, why = %failure, "an HTTP request for the upstream ended early");
                failure.answer()
            }
            Err(failure) => {
                tracing::warn!(%method, %path, why = %failure, "the upstream did not answer an HTTP request");
                if let Some(handle) = around.supervisor {
                    handle.report_failure();
                }
                failure.answer()
            }
        }
    }

    async fn exchange(
        &self,
        mut request: Request<Incoming>,
        client: &Client,
        ready: &Ready,
        permit: OwnedSemaphorePermit,
        stopping: watch::Receiver<bool>,
    ) -> Result<Response<Body>, Failure> {
        let upgrade = upgrade_of(request.headers());
        let downstream = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let request = outgoing(request, client, ready, upgrade);
        let answering = self.send(request, ready);
        let (mut response, lease) = tokio::time::timeout(FIRST_BYTE, answering)
            .await
            .unwrap_or(Err(Failure::TooLate))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(downstream) = downstream
        {
            let upstream = hyper::upgrade::on(&mut response);
            tokio::spawn(tunnel(downstream, upstream, permit, stopping));
            let (mut parts, _) = response.into_parts();
            let upgrade = upgrade_of(&parts.headers);
            strip(&mut parts.headers);
            put_upgrade(&mut parts.headers, upgrade);
            return Ok(Response::from_parts(parts, full("")));
        }
        self.pool.put_back(lease);
        let (mut parts, body) = response.into_parts();
        strip(&mut parts.headers);
        Ok(Response::from_parts(
            parts,
            Counted::new(body, permit).boxed(),
        ))
    }

    /// Sends on a kept connection if there is one. The upstream may just be closing it: what it did not take is sent
    /// again on a new one.
    async fn send(
        &self,
        mut request: Request<Body>,
        ready: &Ready,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        loop {
            let mut lease = self
                .pool
                .take(ready)
                .await
                .map_err(|error| Failure::Unreachable(error.to_string()))?;
            let again = lease.is_reused().then(|| repeatable(&request)).flatten();
            match lease.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, lease)),
                Err(mut error) => match (error.take_message(), again) {
                    (Some(unsent), _) if lease.is_reused() => request = unsent,
                    (None, Some(again)) => request = again,
                    _ => {
                        let error = error.into_error();
                        // What is ours in this exchange is the client's body, streamed.
                        return Err(if error.is_user() {
                            Failure::Body(
                                std::error::Error::source(&error)
                                    .map_or_else(|| error.to_string(), ToString::to_string),
                            )
                        } else {
                            Failure::BrokeOff(error.to_string())
                        });
                    }
                },
            }
        }
    }
}

/// Whether the upstream takes this bearer: 200 or 401 on a route that device tokens open. `None`: no such answer.
pub(crate) async fn accepts_bearer(upstream: &Ready, token: &str) -> Option<bool> {
    let request = Request::get("/control-ui-config.json")
        .header(header::HOST, upstream.host())
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(empty())
        .ok()?;
    let asked = async {
        let mut lease = Pool::default().take(upstream).await.ok()?;
        lease.sender.send_request(request).await.ok()
    };
    match tokio::time::timeout(BEARER_QUESTION, asked)
        .await
        .ok()??
        .status()
    {
        StatusCode::OK => Some(true),
        StatusCode::UNAUTHORIZED => Some(false),
        _ => None,
    }
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// The upstream, woken first if it sleeps.
async fn ready(
    upstream: &mut watch::Receiver<UpstreamState>,
    supervisor: Option<&Handle>,
) -> Result<Ready, Box<Response<Body>>> {
    let state = upstream.borrow_and_update().clone();
    let replaced = supervisor.filter(|child| child.is_replacing());
    match (state, replaced) {
        (UpstreamState::Ready(ready), None) => Ok(ready),
        (UpstreamState::Stopped { .. }, _) => {
            Err(Box::new(refusal(StatusCode::SERVICE_UNAVAILABLE, STOPPED)))
        }
        // Another one follows: the request waits for that.
        (_, Some(child)) => match tokio::time::timeout(WAKE_WAIT, next(upstream, child)).await {
            Ok(Some(ready)) => Ok(ready),
            _ => Err(Box::new(refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                UNAVAILABLE,
            ))),
        },
        _ => Err(Box::new(refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            UNAVAILABLE,
        ))),
    }
}

/// The child that follows, woken if none runs; `None` when none follows after all.
async fn next(upstream: &mut watch::Receiver<UpstreamState>, child: &Handle) -> Option<Ready> {
    loop {
        let state = upstream.borrow_and_update().clone();
        match state {
            UpstreamState::Ready(ready) if !child.is_replacing() => return Some(ready),
            UpstreamState::Asleep => child.wake(),
            UpstreamState::Off | UpstreamState::Stopped { .. } => return None,
            UpstreamState::Down { .. } if !child.is_replacing() => return None,
            _ => {}
        }
        tokio::select! {
            changed = upstream.changed() => changed.ok()?,
            // A child that was asked whether it may sleep stays without a change of state.
            () = tokio::time::sleep(REPLACED_LOOK) => {}
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot connect: {0}")]
    Unreachable(String),
    #[error("{0}")]
    BrokeOff(String),
    #[error("the request's body: {0}")]
    Body(String),
    #[error("no answer within {FIRST_BYTE:?}")]
    TooLate,
}

impl Failure {
    fn answer(&self) -> Response<Body> {
        match self {
            Self::Unreachable(_) => refusal(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
            Self::Body(_) => refusal(StatusCode::BAD_REQUEST, BAD_BODY),
            Self::BrokeOff(_) => refusal(StatusCode::BAD_GATEWAY, BROKE_OFF),
            Self::TooLate => refusal(StatusCode::GATEWAY_TIMEOUT, TOO_LATE),
        }
    }
}

fn refusal(status: StatusCode, body: &'static str) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The request as the upstream gets it.
fn outgoing(
    request: Request<Incoming>,
    client: &Client,
    ready: &Ready,
    upgrade: Option<HeaderValue>,
) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    // Origin form, whatever form it came in: Node routes by it.
    if let Some(path) = parts.uri.path_and_query() {
        parts.uri = path.clone().into();
    }
    parts.version = Version::HTTP_11;
    strip(&mut parts.headers);
    put_upgrade(&mut parts.headers, upgrade);
    // The answer to it was, or will be, given here as the body is read.
    if parts
        .headers
        .get(header::EXPECT)
        .is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        parts.headers.remove(header::EXPECT);
    }
    client.write(&mut parts.headers, ready.device.is_some());
    if (ready.device.is_some() || !parts.headers.contains_key(header::HOST))
        && let Ok(host) = HeaderValue::from_str(&ready.host())
    {
        parts.headers.insert(header::HOST, host);
    }
    Request::from_parts(parts, body.boxed())
}

/// The same request, if it asks for nothing to be done and has no body: it may be sent twice.
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    use http_body::Body as _;
    if !request.method().is_safe()
        || !request.body().is_end_stream()
        || request.headers().contains_key(header::UPGRADE)
    {
        return None;
    }
    let mut again = Request::new(empty());
    request.method().clone_into(again.method_mut());
    request.uri().clone_into(again.uri_mut());
    request.headers().clone_into(again.headers_mut());
    Some(again)
}

/// What a message wants to be upgraded to.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    named_by_connection(headers)
        .any(|name| name.eq_ignore_ascii_case("upgrade"))
        .then(|| headers.get(header::UPGRADE).cloned())
        .flatten()
}

fn put_upgrade(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    if let Some(upgrade) = upgrade {
        headers.insert(header::UPGRADE, upgrade);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

fn named_by_connection(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
}

/// Removes what belongs to one hop, but keeps a `Trailer` announcement with the trailers it announces.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = named_by_connection(headers)
        .filter_map(|name| name.parse().ok())
        .collect();
    let trailer = headers.get(header::TRAILER).cloned();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
    if let Some(trailer) = trailer {
        headers.insert(header::TRAILER, trailer);
    }
}

/// Carries bytes both ways until one side ends, or the gateway stops.
async fn tunnel(
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    permit: OwnedSemaphorePermit,
    mut stopping: watch::Receiver<bool>,
) {
    let carried = async {
        let (downstream, upstream) =
            tokio::try_join!(downstream, upstream).map_err(std::io::Error::other)?;
        tokio::io::copy_bidirectional(&mut TokioIo::new(downstream), &mut TokioIo::new(upstream))
            .await
    };
    tokio::select! {
        outcome = carried => if let Err(error) = outcome {
            tracing::debug!(%error, "a tunnel to the upstream ended");
        },
        _ = stopping.wait_for(|stop| *stop) => {}
    }
    drop(permit);
}
