//! The original's address for metrics, `/api/diagnostics/prometheus`, with its authentication.
//!
//! The original has it from a plugin. Where the upstream runs that plugin, what it alone knows (models, tools, its
//! event loop) follows our families in the same answer, so that one scrape has both.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::render::render;
use super::snapshot::Snapshot;
use crate::app::App;
use crate::auth::RemoteEnd;
use crate::ingress::http::{Body, full, proxied, text};

pub(crate) const PATH: &str = "/api/diagnostics/prometheus";
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The plugin keeps 2,048 samples of at most 19 lines.
const UPSTREAM_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Our families as text. Reads files and the store on a thread that may wait.
pub(crate) async fn text_of(app: &Arc<App>) -> String {
    let reader = Arc::clone(app);
    let rendered =
        tokio::task::spawn_blocking(move || render(&reader.metrics, &Snapshot::take(&reader)));
    rendered.await.unwrap_or_else(|error| {
        tracing::error!(%error, "metrics could not be put together");
        String::new()
    })
}

/// Answers a `GET` by whoever may read.
pub(crate) async fn respond(
    app: &Arc<App>,
    request: Request<Incoming>,
    peer: RemoteEnd,
    is_tls: bool,
) -> Response<Body> {
    if let Err(refusal) =
        crate::messages::api::admit(app, request.headers(), peer, "operator.read").await
    {
        return *refusal;
    }
    let method = request.method().clone();
    if !matches!(method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        let allow = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let mut body = String::new();
    if method == Method::GET {
        body = text_of(app).await;
        let is_ready = app.upstream.borrow().ready().is_some();
        if is_ready
            && let Some(theirs) = plugin_text(proxied(app, request, peer, is_tls).await).await
        {
            append_unknown(&mut body, &theirs);
        }
    }
    let mut response = Response::new(full(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The plugin's answer, when it is one.
async fn plugin_text(response: Response<Body>) -> Option<String> {
    let headers = response.headers();
    let is_text = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/plain; version=0.0.4"));
    if response.status() != StatusCode::OK
        || !is_text
        || headers.contains_key(header::CONTENT_ENCODING)
    {
        return None;
    }
    let bytes: Bytes = match Limited::new(response.into_body(), UPSTREAM_BYTES_MAX)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            tracing::warn!(%error, "the upstream's metrics could not be read; ours are told alone");
            return None;
        }
    };
    String::from_utf8(bytes.to_vec()).ok()
}

/// Appends the families of `theirs` that `ours` does not have: a family may be told once.
fn append_unknown(ours: &mut String, theirs: &str) {
    let is_ours = |name: &str| ours.contains(&format!("# TYPE {name} "));
    let mut more = String::new();
    let mut keep = false;
    for line in theirs.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            // `HELP name …` or `TYPE name …`.
            keep = comment.split(' ').nth(1).is_some_and(|name| !is_ours(name));
        }
        if keep && !line.is_empty() {
            more.push_str(line);
            more.push('\n');
        }
    }
    ours.push_str(&more);
}

#[cfg(test)]
mod tests {
    use super::append_unknown;

    #[test]
    fn a_family_is_told_once_and_the_others_follow() {
        let mut ours = "# HELP a A.\n# TYPE a gauge\na 1\n".to_owned();
        let theirs = "# HELP a Theirs.\n# TYPE a gauge\na{x=\"y\"} 2\n# HELP ab B.\n# TYPE ab counter\nab 3\n\n";
        append_unknown(&mut ours, theirs);
        assert_eq!(
            ours,
            "# HELP a A.\n# TYPE a gauge\na 1\n# HELP ab B.\n# TYPE ab counter\nab 3\n"
        );
        append_unknown(&mut ours, "Unauthorized");
        assert!(!ours.contains("Unauthorized"));
    }
}
