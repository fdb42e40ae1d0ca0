//! The console: a page of ours that shows what the gateway does and takes a person's orders, at `/console/` on the admin
//! listener and on the gateway's own port.
//!
//! The page is the same for everybody and holds nothing; all it shows comes over `/api/`, where each call carries the
//! secret. Its policy lets it load its own files and ask this gateway, nothing else.
//!
//! Beside it, at `/console/chat/` of the gateway's own port: a chat with its agents, a client as any other, which signs in
//! over the WebSocket with a device key of its own. Without the Control UI it is the page at `/` too.

pub(crate) mod api;
pub(crate) mod history;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use crate::app::App;
use crate::ingress::http::{Body, full, secured, text};
use crate::packed::{Packed, packed};

/// Where the page is.
pub(crate) const PATH: &str = "/console";

/// Where the chat is, below [`PATH`].
const CHAT: &str = "chat/";

/// `trusted-types` takes away even our own ways to make HTML of a text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Name, type and content of each file.
const FILES: [(&str, &str, Packed); 21] = [
    ("", "text/html", packed!("console/page/index.html")),
    ("style.css", "text/css", packed!("console/page/style.css")),
    (
        "icon.svg",
        "image/svg+xml",
        packed!("console/page/icon.svg"),
    ),
    script("app.mjs", packed!("console/page/app.mjs")),
    script("api.mjs", packed!("console/page/api.mjs")),
    script("chart.mjs", packed!("console/page/chart.mjs")),
    script("config.mjs", packed!("console/page/config.mjs")),
    script("dom.mjs", packed!("console/page/dom.mjs")),
    script("figures.mjs", packed!("console/page/figures.mjs")),
    script("log.mjs", packed!("console/page/log.mjs")),
    script("messages.mjs", packed!("console/page/messages.mjs")),
    script("rollout.mjs", packed!("console/page/rollout.mjs")),
    script("traffic.mjs", packed!("console/page/traffic.mjs")),
    script("upstream.mjs", packed!("console/page/upstream.mjs")),
    (CHAT, "text/html", CHAT_PAGE),
    (
        "chat/chat.css",
        "text/css",
        packed!("console/chat/chat.css"),
    ),
    script("chat/app.mjs", packed!("console/chat/app.mjs")),
    script("chat/device.mjs", packed!("console/chat/device.mjs")),
    script("chat/markdown.mjs", packed!("console/chat/markdown.mjs")),
    script("chat/socket.mjs", packed!("console/chat/socket.mjs")),
    script("chat/view.mjs", packed!("console/chat/view.mjs")),
];

const CHAT_PAGE: Packed = packed!("console/chat/index.html");

const fn script(name: &'static str, content: Packed) -> (&'static str, &'static str, Packed) {
    (name, "text/javascript", content)
}

/// Answers what is the page's; `None`: somebody else's request.
pub(crate) fn respond<B>(app: &App, request: &Request<B>) -> Option<Response<Body>> {
    let rest = request.uri().path().strip_prefix(PATH)?;
    if rest.is_empty() {
        return Some(redirect("console/"));
    }
    let name = rest.strip_prefix('/')?;
    if name == "chat" {
        return Some(redirect(CHAT));
    }
    let Some((_, kind, content)) = FILES.iter().find(|(own, ..)| *own == name) else {
        return Some(secured(text(StatusCode::NOT_FOUND, "Not Found")));
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        let allow = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return Some(secured(response));
    }
    let content = match *kind {
        "text/html" => page(app, &content.text(), "", ""),
        _ => content.text(),
    };
    Some(file(kind, &content, *request.method() == Method::HEAD))
}

/// Whether a path is the chat's.
pub(crate) fn is_chat(path: &str) -> bool {
    let rest = path
        .strip_prefix(PATH)
        .and_then(|rest| rest.strip_prefix("/chat"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The chat's page at another path of this port; `why`, as HTML: why another one is not there.
pub(crate) fn chat<B>(app: &App, request: &Request<B>, why: &str) -> Response<Body> {
    let html = page(
        app,
        &CHAT_PAGE.text(),
        &chat_from(request.uri().path()),
        why,
    );
    file("text/html", &html, *request.method() == Method::HEAD)
}

/// The way to the chat's files from a path: relative, since a proxy may have put a path in front.
fn chat_from(path: &str) -> String {
    let folders = path.matches('/').count().saturating_sub(1);
    format!("{}{}/{CHAT}", "../".repeat(folders), &PATH[1..])
}

/// A page with what it has to know: which secret it asks for, where its files are, what else is not there.
fn page(app: &App, html: &str, at: &str, why: &str) -> String {
    html.replace("{auth}", app.auth.settings().mode.as_str())
        .replace("{version}", wire::REFERENCE_VERSION)
        .replace("{at}", at)
        .replace("{why}", why)
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
    const BYTES_MAX: usize = 96 * 1024;

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
        let bytes: usize = FILES.iter().map(|(.., file)| file.text().len()).sum();
        assert!(bytes < BYTES_MAX, "{bytes} bytes");
        let mut named = 0;
        for (file, _, content) in FILES {
            let content = content.text();
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
            let folder = file.rfind('/').map_or("", |at| &file[..=at]);
            for part in content.split(" from \"").skip(1) {
                let import = part.split('"').next().unwrap_or_default();
                let named_file = match import.strip_prefix("./") {
                    Some(beside) => format!("{folder}{beside}"),
                    None => import.replacen("../", "", 1),
                };
                assert!(
                    FILES.iter().any(|(own, ..)| *own == named_file),
                    "{file}: {import}"
                );
                named += 1;
            }
        }
        assert!(named >= FILES.len() - 7, "{named} imports");
        for page in [FILES[0].2.text(), CHAT_PAGE.text()] {
            assert!(page.contains("data-auth=\"{auth}\""));
            assert!(!page.contains("<script>") && !page.contains("<style"));
        }
    }

    #[test]
    fn the_chat_finds_its_files_from_wherever_it_is_shown() {
        assert_eq!(chat_from("/"), "console/chat/");
        assert_eq!(chat_from("/agents"), "console/chat/");
        assert_eq!(chat_from("/ui/chat/main"), "../../console/chat/");
        assert!(is_chat("/console/chat") && is_chat("/console/chat/app.mjs"));
        assert!(!is_chat("/console/chart.mjs") && !is_chat("/console/chats"));
    }
}
