//! The page itself: prepared for where it is mounted, with a policy that names its own scripts; and a page of ours for
//! when there is none.

use std::io::Write as _;

use base64::Engine as _;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use ring::digest;

use super::{ControlUi, ROOT_FILES, Root, files, guarded};
use crate::app::App;
use crate::ingress::http::{Body, full};

const BUILD_ATTRIBUTE: &str = "data-openclaw-control-ui-build-id";
/// A build's name in the page is followed by the hash of its public files.
const HASH_CHARS: usize = 64;

/// The build as `server.buildId` names it, of the one that a page names.
pub(super) fn build_of(public: &str) -> Option<&str> {
    let (build, hash) = public.rsplit_once('-')?;
    let is_hash = hash.len() == HASH_CHARS && hash.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash.then_some(build)
}

/// The build that a page names: of its scripts and of its public files.
pub(super) fn public_build(html: &str) -> Option<&str> {
    let rest = &html[html.find(BUILD_ATTRIBUTE)? + BUILD_ATTRIBUTE.len()..];
    let value = rest.strip_prefix("=\"")?;
    let value = &value[..value.find('"')?];
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (!value.is_empty() && value.len() <= 161 && value.bytes().all(plain)).then_some(value)
}

/// The answer with the page. Source: `serveResolvedIndexHtml`, src/gateway/control-ui.ts.
pub(super) fn respond(
    app: &App,
    ui: &ControlUi,
    request: &Request<Incoming>,
    html: &str,
) -> Response<Body> {
    let encoding = files::encodings(request.headers(), &["gzip"])
        .first()
        .copied();
    let is_head = *request.method() == Method::HEAD;
    let terminal = super::bootstrap::is_terminal_enabled(&app.facts.load().config);
    let prepared = prepare(ui, html, terminal);
    let mut response = Response::new(full(""));
    let headers = response.headers_mut();
    if !is_head {
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let policy = policy(&script_hashes(&prepared), terminal, host);
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
    }
    let Some(encoding) = encoding else {
        return files::not_acceptable(response);
    };
    page_headers(headers, encoding);
    if !is_head {
        *response.body_mut() = encoded(prepared, encoding);
    }
    guarded(response)
}

fn page_headers(headers: &mut http::HeaderMap, encoding: &'static str) {
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if encoding != "identity" {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
}

fn encoded(text: String, encoding: &str) -> Body {
    if encoding != "gzip" {
        return full(text);
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    let packed = encoder
        .write_all(text.as_bytes())
        .and_then(|()| encoder.finish());
    // Writing to memory does not fail.
    full(packed.unwrap_or_default())
}

/// Names of files made absolute, and what the page must know before it runs put on its root element.
fn prepare(ui: &ControlUi, html: &str, terminal: bool) -> String {
    let base = ui.settings.base_path.as_str();
    let public = match ui.root {
        Root::Bundled(_) => public_build(html),
        _ => None,
    };
    let mut out = html
        .replace("src=\"./assets/", &format!("src=\"{base}/assets/"))
        .replace("href=\"./assets/", &format!("href=\"{base}/assets/"));
    for file in ROOT_FILES {
        let version = match public.filter(|_| file != "sw.js") {
            Some(build) => format!("?v={build}"),
            None => String::new(),
        };
        let href = format!("href=\"{base}/{file}{version}\"");
        for written in [format!("href=\"./{file}\""), format!("href=\"/{file}\"")] {
            out = out.replace(&written, &href);
        }
    }
    let Some(start) = out.find("<html") else {
        return out;
    };
    let Some(end) = out[start..].find('>').map(|at| start + at) else {
        return out;
    };
    let mut tag = out[start..end].to_owned();
    if let Some(build) = public_build(&tag).map(str::to_owned) {
        tag = tag.replace(&format!(" {BUILD_ATTRIBUTE}=\"{build}\""), "");
    }
    let mut attributes = format!(
        " data-openclaw-control-ui-base-path=\"{}\" data-openclaw-terminal-enabled=\"{terminal}\"",
        escape(base)
    );
    if let Some((label, color)) = &ui.settings.environment {
        let environment = serde_json::json!({ "label": label, "color": color }).to_string();
        attributes.push_str(&format!(
            " data-openclaw-environment=\"{}\"",
            escape(&environment)
        ));
    }
    if let Some(build) = public {
        attributes.push_str(&format!(" {BUILD_ATTRIBUTE}=\"{}\"", escape(build)));
    }
    let tag = tag.replacen("<html", &format!("<html{attributes}"), 1);
    out.replace_range(start..end, &tag);
    out
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// `sha256-…` of every script that stands in the page.
fn script_hashes(html: &str) -> Vec<String> {
    let mut hashes = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find("<script") {
        let after = &rest[at + "<script".len()..];
        let Some(open) = after.find('>') else { break };
        let (tag, body) = (&after[..open], &after[open + 1..]);
        let Some(close) = body.find("</script>") else {
            break;
        };
        let is_tag = tag.is_empty() || tag.starts_with(char::is_whitespace);
        let has_source = tag
            .split_whitespace()
            .any(|attribute| attribute.split('=').next() == Some("src"));
        if is_tag && !has_source && close > 0 {
            let hash = digest::digest(&digest::SHA256, &body.as_bytes()[..close]);
            let hash = base64::engine::general_purpose::STANDARD.encode(hash);
            hashes.push(format!("sha256-{hash}"));
        }
        rest = &body[close..];
    }
    hashes
}

/// Source: `buildControlUiCspHeader`, src/gateway/control-ui-csp.ts.
pub(super) fn policy(scripts: &[String], wasm: bool, host: Option<&str>) -> String {
    let mut script = "'self'".to_owned();
    for hash in scripts {
        script.push_str(&format!(" '{hash}'"));
    }
    if wasm {
        script.push_str(" 'wasm-unsafe-eval'");
    }
    let mut connect = "'self' ws: wss: data: https://api.openai.com https://tweakcn.com".to_owned();
    if let Some(name) = host.and_then(host_name) {
        connect.push_str(&format!(" http://{name}:* https://{name}:*"));
    }
    [
        "default-src 'self'",
        "base-uri 'none'",
        "object-src 'none'",
        "frame-ancestors 'none'",
        "frame-src 'self' http: https:",
        &format!("script-src {script}"),
        "style-src 'self' 'unsafe-inline' https://fonts.googleapis.com",
        "img-src 'self' data: blob: https:",
        "media-src 'self' data: blob:",
        "font-src 'self' https://fonts.gstatic.com",
        "worker-src 'self'",
        &format!("connect-src {connect}"),
    ]
    .join("; ")
}

/// The host of a `Host` header, when it is nothing but a host and perhaps a port.
fn host_name(host: &str) -> Option<String> {
    let authority: http::uri::Authority = host.parse().ok()?;
    if host.contains('@') {
        return None;
    }
    let name = authority.host().to_lowercase();
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    (!name.is_empty() && name.bytes().all(plain)).then_some(name)
}

/// A page of ours: what runs, and how to get the Control UI.
pub(super) fn own(
    app: &App,
    upstream: &str,
    why: &str,
    request: &Request<Incoming>,
) -> Response<Body> {
    let encoding = files::encodings(request.headers(), &["gzip"])
        .first()
        .copied();
    let Some(encoding) = encoding else {
        return files::not_acceptable(Response::new(full("")));
    };
    let minutes = app.started.elapsed().as_secs() / 60;
    let uptime = match (minutes / 60, minutes % 60) {
        (0, 0) => "less than a minute".to_owned(),
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    };
    let body = include_str!("own.html")
        .replace("{version}", env!("CARGO_PKG_VERSION"))
        .replace("{reference}", wire::REFERENCE_VERSION)
        .replace("{upstream}", upstream)
        .replace("{uptime}", &uptime)
        .replace("{why}", &escape(why));
    let mut response = Response::new(full(""));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"),
    );
    page_headers(headers, encoding);
    if *request.method() != Method::HEAD {
        *response.body_mut() = encoded(body, encoding);
    }
    guarded(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_read_from_the_page() {
        let hash = "a".repeat(HASH_CHARS);
        let html = format!("<html {BUILD_ATTRIBUTE}=\"2026.9.6-x-{hash}\" lang=\"en\">");
        let named = public_build(&html).expect("named");
        assert_eq!(build_of(named), Some("2026.9.6-x"));
        assert_eq!(public_build("<html>"), None);
        assert_eq!(build_of("dev"), None);
    }

    #[test]
    fn inline_scripts_are_hashed_and_others_are_not() {
        let html = "<script src=\"x\"></script><script data-x>a</script><script></script>";
        let hashes = script_hashes(html);
        assert_eq!(
            hashes,
            ["sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs="]
        );
    }

    #[test]
    fn a_host_that_is_more_than_a_host_is_not_allowed_to() {
        assert_eq!(host_name("Example.com:1").as_deref(), Some("example.com"));
        assert_eq!(host_name("[::1]:1").as_deref(), Some("[::1]"));
        assert_eq!(host_name("a@b"), None);
        assert_eq!(host_name("a;b"), None);
        assert_eq!(host_name(""), None);
    }
}
