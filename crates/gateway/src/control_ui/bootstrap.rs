//! `/control-ui-config.json`: what the page asks before it connects, while the upstream is away.

use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::{ControlUi, Root, guarded};
use crate::app::App;
use crate::auth::RemoteEnd;
use crate::auth::{HttpAuth, HttpRefusal, HttpSurface, Mode, UpstreamTrust};
use crate::clock;
use crate::ingress::http::{Body, full, refused};

pub(super) fn is_terminal_enabled(config: &Value) -> bool {
    config.pointer("/gateway/terminal/enabled") != Some(&Value::Bool(false))
}

pub(super) async fn respond(
    app: &App,
    ui: &ControlUi,
    request: &Request<Incoming>,
    peer: RemoteEnd,
) -> Response<Body> {
    if let Err(refusal) = authorize(app, request, peer).await {
        return guarded(refused(&refusal));
    }
    let mut response = Response::new(full(""));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if *request.method() != Method::HEAD {
        *response.body_mut() = full(body(app, ui).to_string());
    }
    guarded(response)
}

async fn authorize(
    app: &App,
    request: &Request<Incoming>,
    peer: RemoteEnd,
) -> Result<(), HttpRefusal> {
    let attribution = app.auth.attribute(peer, request.headers())?;
    let surface = HttpSurface::ControlUiRead { query_token: None };
    let decided = app.auth.bearer(
        request.headers(),
        &attribution,
        surface,
        UpstreamTrust::Absent,
        clock::now_ms(),
    );
    match decided {
        HttpAuth::Allowed(_) => Ok(()),
        HttpAuth::Refused(refusal) => {
            if !refusal.delay.is_zero() {
                tokio::time::sleep(refusal.delay).await;
            }
            Err(refusal)
        }
        HttpAuth::AskUpstream { .. } => Err(HttpRefusal::unauthorized("device token")),
    }
}

/// In the original's order of fields.
fn body(app: &App, ui: &ControlUi) -> Value {
    let facts = app.facts.load();
    let config = &facts.config;
    let inputs = facts.inputs(clock::now_ms(), app.uptime_ms());
    let identity = crate::native::alone::assistant(&inputs);
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| {
        body.insert(key.to_owned(), value);
    };
    put("basePath", json!(ui.settings.base_path));
    put("assistantName", identity["name"].clone());
    put("assistantAvatar", identity["avatar"].clone());
    for key in [
        "assistantAvatarSource",
        "assistantAvatarStatus",
        "assistantAvatarReason",
    ] {
        put(key, Value::Null);
    }
    put("assistantAgentId", identity["agentId"].clone());
    put("serverVersion", json!(wire::REFERENCE_VERSION));
    if let (Root::Bundled(_), Some(build)) = (&ui.root, &app.auth.settings().build_id) {
        put("serverBuildId", json!(build));
    }
    put("embedSandbox", json!(ui.settings.embed_sandbox));
    put(
        "allowExternalEmbedUrls",
        json!(ui.settings.allow_external_embed_urls),
    );
    put(
        "automaticallyFetchFavicons",
        json!(ui.settings.automatically_fetch_favicons),
    );
    if let Some(color) = config.pointer("/ui/seamColor") {
        put("seamColor", color.clone());
    }
    if let Some(environment) = config.pointer("/gateway/controlUi/environment") {
        put("environment", environment.clone());
    }
    put("communityInvite", json!(ui.settings.community_invite));
    put("terminalEnabled", json!(is_terminal_enabled(config)));
    let cli_agents = config.pointer("/gateway/cliAgents/enabled") != Some(&Value::Bool(false));
    put("cliAgentsEnabled", json!(cli_agents));
    put(
        "pluginAssetsRequireAuth",
        json!(app.auth.settings().mode != Mode::None),
    );
    put("pluginFrameGrants", json!([]));
    Value::Object(body)
}
