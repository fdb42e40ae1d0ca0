//! The console: a page of ours that shows what the gateway does and takes a person's orders, at `/console/` on the admin
//! listener and on the gateway's own port.
//!
//! The page is the same for everybody and holds nothing; all it shows comes over `/api/`, where each call carries the
//! secret. Its policy lets it load its own files and ask this gateway, nothing else.

pub(crate) mod api;

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use crate::app::App;
use crate::ingress::http::{Body, full, secured, text};

/// Where the page is.
pub(crate) const PATH: &str = "/console";

/// `trusted-types` takes away even our own ways to make HTML of a text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Name, type and content of each file.
const FILES: [(&str, &str, &str); 14] = [
    ("", "text/html", include_str!("console/page/index.html")),
    (
        "style.css",
        "text/css",
        include_str!("console/page/style.css"),
    ),
    (
        "icon.svg",
        "image/svg+xml",
        include_str!("console/page/icon.svg"),
    ),
    script("app.mjs", include_str!("console/page/app.mjs")),
    script("api.mjs", include_str!("console/page/api.mjs")),
    script("chart.mjs", include_str!("console/page/chart.mjs")),
    script("config.mjs", include_str!("console/page/config.mjs")),
    script("dom.mjs", include_str!("console/page/dom.mjs")),
    script("figures.mjs", include_str!("console/page/figures.mjs")),
    script("log.mjs", include_str!("console/page/log.mjs")),
    script("messages.mjs", include_str!("console/page/messages.mjs")),
    script("rollout.mjs", include_str!("console/page/rollout.mjs")),
    script("traffic.mjs", include_str!("console/page/traffic.mjs")),
    script("upstream.mjs", include_str!("console/page/upstream.mjs")),
];

const fn script(
    name: &'static str,
    content: &'static str,
) -> (&'static str, &'static str, &'static str) {
    (name, "text/javascript", content)
}

/// Answers what is the page's; `None`: somebody else's request.
pub(crate) fn respond<B>(app: &App, request: &Request<B>) -> Option<Response<Body>> {
    let rest = request.uri().path().strip_prefix(PATH)?;
    if rest.is_empty() {
        return Some(redirect("console/"));
    }
    let name = rest.strip_prefix('/')?;
    let Some((_, kind, content)) = FILES.iter().find(|(own, ..)| *own == name) else {
        return Some(secured(text(StatusCode::NOT_FOUND, "Not Found")));
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        let allow = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return Some(secured(response));
    }
    let content = match name {
        // Which secret the page has to ask for.
        "" => Cow::from(content.replace("{auth}", app.auth.settings().mode.as_str())),
        _ => Cow::from(*content),
    };
    Some(file(kind, &content, *request.method() == Method::HEAD))
}

/// To a place relative to the request's own: a proxy may have put a path in front.
pub(crate) fn redirect(location: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::PERMANENT_REDIRECT, "");
    let location = HeaderValue::from_static(location);
    response.headers_mut().insert(header::LOCATION, location);
    secured(response)
}

fn file(kind: &str, content: &str, is_head: bool) -> Response<Body> {
    let body = match is_head {
        true => Bytes::new(),
        false => Bytes::copy_from_slice(content.as_bytes()),
    };
    let mut response = secured(Response::new(full(body)));
    let headers = response.headers_mut();
    let fixed: [(&'static str, &'static str); 6] = [
        ("content-security-policy", POLICY),
        ("x-frame-options", "DENY"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        (
            "permissions-policy",
            "camera=(), microphone=(), geolocation=()",
        ),
        // A gateway that was upgraded serves another page at once.
        ("cache-control", "no-cache"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(kind) = HeaderValue::from_str(&format!("{kind}; charset=utf-8")) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(content.len()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that the binary carries of it, bytes.
    const BYTES_MAX: usize = 60 * 1024;

    #[test]
    fn every_answer_carries_the_policy() {
        let response = file("text/html", "<p>", false);
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let policy = header("content-security-policy").expect("a policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.split("; ").any(|own| own == part), "{policy}");
        }
        assert!(
            !policy.contains("unsafe") && !policy.contains('*'),
            "{policy}"
        );
        assert_eq!(header("x-frame-options"), Some("DENY"));
        assert_eq!(header("x-content-type-options"), Some("nosniff"));
        assert_eq!(header("referrer-policy"), Some("no-referrer"));
        assert_eq!(header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(header("content-length"), Some("3"));
    }

    #[test]
    fn the_page_is_small_and_names_nothing_but_its_own_files() {
        let bytes: usize = FILES.iter().map(|(.., content)| content.len()).sum();
        assert!(bytes < BYTES_MAX, "{bytes} bytes");
        let mut named = 0;
        for (file, _, content) in FILES {
            // The one address in it is the name of a vocabulary, which nobody fetches.
            let rest = content.replace("http://www.w3.org/2000/svg", "");
            for never in [
                "http://",
                "https://",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                "style=",
                "onclick=",
            ] {
                assert!(!rest.contains(never), "{file}: {never}");
            }
            for part in content.split("from \"./").skip(1) {
                let import = part.split('"').next().unwrap_or_default();
                assert!(
                    FILES.iter().any(|(own, ..)| *own == import),
                    "{file}: {import}"
                );
                named += 1;
            }
        }
        assert!(named >= FILES.len() - 4, "{named} imports");
        let (.., page) = FILES[0];
        assert!(page.contains("data-auth=\"{auth}\""));
        assert!(!page.contains("<script>") && !page.contains("<style"));
    }
}
