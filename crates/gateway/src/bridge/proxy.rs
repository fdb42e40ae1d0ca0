//! HTTP paths we do not serve: streamed to the upstream and back.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Ready;
use crate::ingress::http::{Body, full};

/// Hop-by-hop headers. Source: RFC 9110 section 7.6.1.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Passes `request` on and streams the answer back. `Host` is kept.
pub(crate) async fn forward(
    mut request: Request<Incoming>,
    upstream: &Ready,
    peer: SocketAddr,
) -> Response<Body> {
    strip(request.headers_mut());
    match exchange(request, upstream).await {
        Ok(response) => {
            let (mut parts, body) = response.into_parts();
            strip(&mut parts.headers);
            Response::from_parts(parts, body.boxed())
        }
        Err(error) => {
            tracing::warn!(%peer, error = %format!("{error:#}"), "the upstream did not answer an HTTP request");
            let mut response = Response::new(full(
                r#"{"error":{"message":"The OpenClaw gateway behind this one is not answering. Please try again in a moment.","type":"unavailable"}}"#,
            ));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            let headers = response.headers_mut();
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json; charset=utf-8"),
            );
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}

/// Whether the upstream takes this bearer: 200 or 401 on a route that device tokens open. `None`: no such answer.
pub(crate) async fn accepts_bearer(upstream: &Ready, token: &str) -> Option<bool> {
    let request = Request::get("/control-ui-config.json")
        .header(header::HOST, upstream.address.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .ok()?;
    let asked = tokio::time::timeout(
        std::time::Duration::from_secs(3),
        exchange(request, upstream),
    )
    .await;
    match asked.ok()?.ok()?.status() {
        StatusCode::OK => Some(true),
        StatusCode::UNAUTHORIZED => Some(false),
        _ => None,
    }
}

async fn exchange<B>(request: Request<B>, upstream: &Ready) -> anyhow::Result<Response<Incoming>>
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(upstream.address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "proxied connection ended with an error");
        }
    });
    Ok(sender.send_request(request).await?)
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}
