//! The Control UI: its files served from the installed package, without the upstream's help.
//!
//! What is a file of the page, or the page itself, is answered here always. What might be a plugin's route (any
//! other document) and the page's own configuration are the upstream's while it is ready, and ours while it is
//! away. Without a package there is a page of ours: a chat with the agents that run here, or, with an upstream that is
//! not there now, what runs.
//!
//! Source: src/gateway/control-ui.ts, control-ui-routing.ts, control-ui-static.ts and control-ui-csp.ts at 2026.9.6.

mod bootstrap;
mod document;
mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::app::App;
use crate::auth::RemoteEnd;
use crate::bridge::UpstreamState;
use crate::config::settings::ControlUiSettings;
use crate::console;
use crate::ingress::http::{Body, full, text};

/// Files beside the page that it names.
const ROOT_FILES: [&str; 6] = [
    "apple-touch-icon.png",
    "favicon-32.png",
    "favicon.ico",
    "favicon.svg",
    "manifest.webmanifest",
    "sw.js",
];

/// Where the page's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    /// `dist/control-ui` of an installed package.
    Bundled(PathBuf),
    /// `gateway.controlUi.root`.
    Configured(PathBuf),
    /// Nowhere; why.
    Missing(String),
}

impl Root {
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Bundled(path) | Self::Configured(path) => Some(path),
            Self::Missing(_) => None,
        }
    }
}

/// How the page is served; swapped whole on a reload.
#[derive(Debug)]
pub(crate) struct ControlUi {
    pub(crate) settings: ControlUiSettings,
    pub(crate) root: Root,
    /// `[control_ui] native`.
    pub(crate) is_native: bool,
    /// The build of the files that are there now, as the page names it: a package can be replaced while we run.
    build: Mutex<Option<String>>,
}

impl ControlUi {
    /// `gateway.controlUi.enabled`.
    pub(crate) fn is_enabled(&self) -> bool {
        self.settings.enabled
    }

    pub(crate) fn new(settings: ControlUiSettings, root: Root, is_native: bool) -> Self {
        let ui = Self {
            settings,
            root,
            is_native,
            build: Mutex::new(None),
        };
        if let Root::Bundled(path) = &ui.root {
            // A page that can't be read is said when it is asked for.
            ui.note_build(&std::fs::read_to_string(path.join("index.html")).unwrap_or_default());
        }
        ui
    }

    /// The build that clients of this page must be of: `server.buildId`.
    pub(crate) fn build_id(&self) -> Option<String> {
        document::build_of(self.build.lock().as_deref()?).map(str::to_owned)
    }

    /// Whether the page was another one than before.
    fn note_build(&self, html: &str) -> bool {
        let now = document::public_build(html).map(str::to_owned);
        let mut known = self.build.lock();
        let changed = *known != now;
        *known = now;
        changed
    }

    fn is_build(&self, named: &str) -> bool {
        self.build.lock().as_deref() == Some(named)
    }
}

/// Which part of the page a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked<'a> {
    /// The base path without its slash: sent on to the one with it.
    Redirect,
    Bootstrap,
    /// A path below the base path, percent-encoded as it came.
    Part(&'a str),
}

/// Answers what is the Control UI's; `None`: somebody else's request.
pub(crate) async fn respond(
    app: &App,
    request: &Request<Incoming>,
    peer: RemoteEnd,
) -> Option<Response<Body>> {
    let ui = app.control_ui();
    if !ui.settings.enabled || !ui.is_native {
        return None;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let path = request.uri().path();
    let base = ui.settings.base_path.as_str();
    if base.is_empty() && (path == "/ui" || path.starts_with("/ui/")) {
        // Where the page once was.
        return Some(not_found());
    }
    let asked = classify(base, path)?;
    let (is_ready, upstream) = {
        let state = app.upstream.borrow();
        (state.ready().is_some(), state.word())
    };
    match asked {
        Asked::Redirect => Some(redirect(base, request.uri().query())),
        Asked::Bootstrap if is_ready => None,
        Asked::Bootstrap => Some(bootstrap::respond(app, &ui, request, peer).await),
        Asked::Part(part) => {
            let wants_page = accepts_html(request);
            let Some(root) = ui.root.path() else {
                // An upstream that is there may have the files that we don't.
                let is_asset = files::is_asset_extension(&files::extension(part));
                let page = wants_page && !is_ready && may_be_page(part) && !is_asset;
                return page.then(|| own_page(app, &ui, upstream, request));
            };
            let found = find(&ui.root, root, part).await;
            match found {
                Found::Page => page(app, &ui, root, request).await,
                Found::File(file) => Some(files::respond(&ui, request, file)),
                Found::Refused if is_ready => None,
                Found::Refused => Some(not_found()),
                Found::Nothing if is_ready || !may_be_page(part) => None,
                Found::Nothing if wants_page => page(app, &ui, root, request).await,
                Found::Nothing => Some(not_found()),
            }
        }
    }
}

/// What stands at a path of the page.
enum Found {
    Page,
    File(files::Asset),
    /// Nothing that may be served, and no document either.
    Refused,
    Nothing,
}

async fn find(root: &Root, path: &Path, part: &str) -> Found {
    let Some(relative) = relative_of(part) else {
        return Found::Refused;
    };
    if relative == "index.html" {
        return Found::Page;
    }
    let is_bundled = matches!(root, Root::Bundled(_));
    let extension = files::extension(&relative);
    if is_bundled && matches!(extension.as_str(), "br" | "gz") {
        return Found::Refused;
    }
    let root = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || files::open(&root, &relative, is_bundled));
    match opened.await {
        Ok(Some(asset)) => Found::File(asset),
        _ if files::is_asset_extension(&extension) => Found::Refused,
        _ => Found::Nothing,
    }
}

/// The file that a path below the base path names: decoded, and kept below the root.
pub(crate) fn relative_of(part: &str) -> Option<String> {
    let named = if part == "/share/card.png" {
        "social-card.png"
    } else if let Some(rest) = part.strip_prefix("/__openclaw__/")
        && ROOT_FILES.contains(&rest)
    {
        rest
    } else if let Some(at) = part.find("/assets/") {
        &part[at + 1..]
    } else {
        part.strip_prefix('/').unwrap_or(part)
    };
    let named = if named.is_empty() || named.ends_with('/') {
        format!("{named}index.html")
    } else {
        named.to_owned()
    };
    let decoded = percent_encoding::percent_decode_str(&named)
        .decode_utf8()
        .ok()?
        .into_owned();
    let mut depth = 0_i32;
    for segment in decoded.split('/') {
        match segment {
            ".." => depth -= 1,
            "" | "." => {}
            _ => depth += 1,
        }
        if depth < 0 {
            return None;
        }
    }
    (!decoded.contains('\0') && !decoded.starts_with('/')).then_some(decoded)
}

/// Source: `classifyControlUiRequest`, src/gateway/control-ui-routing.ts.
fn classify<'a>(base: &str, path: &'a str) -> Option<Asked<'a>> {
    let part = match base {
        "" => path,
        base if path == base => return Some(Asked::Redirect),
        base => path
            .strip_prefix(base)
            .filter(|rest| rest.starts_with('/'))?,
    };
    let alias = base.is_empty() && part == "/__openclaw__/control-ui-config.json";
    if alias
        || matches!(
            part,
            "/control-ui-config.json" | "/__openclaw/control-ui-config.json"
        )
    {
        return Some(Asked::Bootstrap);
    }
    let below = |prefix: &str| {
        part.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    // Other servants of the gateway, whether one answers or not.
    let other = base.is_empty()
        && ["/plugins", "/api", "/j", "/v1", "/hooks"]
            .into_iter()
            .any(below);
    (!other).then_some(Asked::Part(part))
}

/// Whether a path that is no file may be one of the page's own addresses, and not a resource that it asks for.
fn may_be_page(part: &str) -> bool {
    !["/__openclaw", "/avatar/", "/sessions/", "/share"]
        .iter()
        .any(|prefix| part.starts_with(prefix))
}

/// Source: `acceptsControlUiHtmlResponse`, src/gateway/http-common.ts.
fn accepts_html(request: &Request<Incoming>) -> bool {
    let Some(accept) = request.headers().get(header::ACCEPT) else {
        return true;
    };
    let accept = accept.to_str().unwrap_or_default().trim().to_lowercase();
    if accept.is_empty() {
        return true;
    }
    let mut best: Option<(u8, bool)> = None;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let rank = match parts.next() {
            Some("text/html" | "application/xhtml+xml") => 3,
            Some("text/*") => 2,
            Some("*/*") => 1,
            _ => continue,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q="));
        let allowed = quality.is_none_or(|q| q.trim().parse::<f32>().is_ok_and(|q| q > 0.0));
        // The most specific range decides.
        if best.is_none_or(|(known, was)| rank > known || (rank == known && !was)) {
            best = Some((rank, allowed));
        }
    }
    best.is_some_and(|(_, allowed)| allowed)
}

async fn page(
    app: &App,
    ui: &Arc<ControlUi>,
    root: &Path,
    request: &Request<Incoming>,
) -> Option<Response<Body>> {
    let file = root.join("index.html");
    let html = match tokio::fs::read_to_string(&file).await {
        Ok(html) => html,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the Control UI's page cannot be read");
            return Some(unavailable(&ui.root));
        }
    };
    if matches!(ui.root, Root::Bundled(_)) && ui.note_build(&html) {
        app.serve_build(ui.build_id());
    }
    Some(document::respond(app, ui, request, &html))
}

fn own_page(
    app: &App,
    ui: &ControlUi,
    upstream: &str,
    request: &Request<Incoming>,
) -> Response<Body> {
    let why = match &ui.root {
        Root::Missing(why) => why.as_str(),
        _ => "",
    };
    // Agents run here: a chat with them is more use than what runs.
    if matches!(*app.upstream.borrow(), UpstreamState::Off) {
        let why = why.trim_end_matches('.');
        let words = format!(
            "No Control UI: {why}. It comes with npm install -g openclaw and a restart of the gateway."
        );
        return console::chat(app, request, &document::escape(&words));
    }
    document::own(app, upstream, why, request)
}

fn unavailable(root: &Root) -> Response<Body> {
    let what = match root {
        Root::Configured(path) => format!(
            "Control UI assets not found at {}. Build them with `pnpm ui:build` (auto-installs UI deps), or update gateway.controlUi.root.",
            path.display()
        ),
        _ => "Control UI assets not found. Install the openclaw package again (npm install -g openclaw), or name it in openclaw-gateway.toml: [control_ui] package = \"/path/to/openclaw\".".to_owned(),
    };
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "");
    *response.body_mut() = full(what);
    guarded(response)
}

fn redirect(base: &str, query: Option<&str>) -> Response<Body> {
    let to = query.map_or_else(|| format!("{base}/"), |query| format!("{base}/?{query}"));
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::FOUND;
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    guarded(response)
}

fn not_found() -> Response<Body> {
    guarded(text(StatusCode::NOT_FOUND, "Not Found"))
}

/// The headers that every answer of the page carries; a policy that is set already stays.
fn guarded(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    for (name, value) in [
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        (
            "permissions-policy",
            "camera=(self), microphone=*, geolocation=*, clipboard-write=*",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY)
        && let Ok(policy) = HeaderValue::from_str(&document::policy(&[], false, None))
    {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_files_below_the_root_alone() {
        let check =
            |part, expected: Option<&str>| assert_eq!(relative_of(part).as_deref(), expected);
        check("/", Some("index.html"));
        check("/chat/assets/x.js", Some("assets/x.js"));
        check("/__openclaw__/sw.js", Some("sw.js"));
        check("/__openclaw__/index.html", Some("__openclaw__/index.html"));
        check("/share/card.png", Some("social-card.png"));
        check("/a%2Fb.png", Some("a/b.png"));
        check("/..%2f..%2fetc/passwd", None);
        check("/a/../../x", None);
        check("/a/../x", Some("a/../x"));
        check("/%00", None);
        check("/%ff", None);
        check("//etc/passwd", None);
    }

    #[test]
    fn other_servants_keep_their_paths() {
        assert_eq!(classify("", "/api/x"), None);
        assert_eq!(classify("", "/v1"), None);
        assert_eq!(classify("", "/apix"), Some(Asked::Part("/apix")));
        assert_eq!(classify("/ui", "/ui"), Some(Asked::Redirect));
        assert_eq!(classify("/ui", "/ui/api/x"), Some(Asked::Part("/api/x")));
        assert_eq!(classify("/ui", "/other"), None);
        assert_eq!(
            classify("", "/__openclaw__/control-ui-config.json"),
            Some(Asked::Bootstrap)
        );
    }
}
