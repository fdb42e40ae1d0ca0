//! `hello-ok`: what a client learns of the gateway when it is let in.
//!
//! With an upstream the hello is the upstream's own for the same scopes, with the parts that are ours put in
//! their place; without one it lists exactly what is answered natively.

use serde_json::{Value, json};
use wire::limits;

use crate::app::App;
use crate::dispatch::{self, Principal, natives};
use crate::native::{health, presence};

/// Makes an upstream's hello ours: the connection and the process are ours, and so is what we granted.
pub(crate) fn adopt(
    app: &App,
    mut hello: Value,
    conn_id: &str,
    principal: &Principal,
    auth: Option<&Value>,
) -> Value {
    hello["server"]["connId"] = Value::from(conn_id);
    hello["server"]["bootId"] = Value::from(app.boot_id.as_str());
    if let Some(auth) = auth {
        hello["auth"] = auth.clone();
    }
    if !natives::is_disabled(app, "config.get")
        && let Some(applied) = app.applied_config_hash()
        && let Some(known) = hello.pointer_mut("/snapshot/appliedConfigHash")
    {
        *known = Value::from(applied.as_str());
    }
    if !principal
        .scopes
        .iter()
        .any(|scope| scope == "operator.admin")
        && let Some(snapshot) = hello.get_mut("snapshot").and_then(Value::as_object_mut)
    {
        // Source: `includeSensitive` of buildGatewaySnapshot at 2026.9.6.
        for key in ["configPath", "stateDir", "authMode"] {
            snapshot.remove(key);
        }
    } else if let Some(mode) = hello.pointer_mut("/snapshot/authMode") {
        *mode = Value::from(app.auth.settings().mode.as_str());
    }
    dispatch::presence::tell_in_hello(app, principal, &mut hello["snapshot"]);
    tell_identity_page(app, principal, &mut hello["snapshot"]);
    hello
}

/// Where a browser can be known by who its person is. Source: `sendGatewayHello` at 2026.9.6.
fn tell_identity_page(app: &App, principal: &Principal, snapshot: &mut Value) {
    let page = app
        .tailscale()
        .filter(|_| principal.role == "operator" && app.control_ui().is_enabled())
        .and_then(|tailscale| tailscale.identity_page(&app.auth.settings()));
    if let (Some(page), Some(snapshot)) = (page, snapshot.as_object_mut()) {
        snapshot.insert("controlUiIdentityUrl".to_owned(), Value::from(page));
    }
}

/// The hello while the upstream is away: the last one it gave us, without what belonged to that connection.
pub(crate) fn remembered(
    app: &App,
    conn_id: &str,
    principal: &Principal,
    auth: &Value,
) -> Option<Value> {
    let known = app.known.load();
    let mut hello = known.hello.clone()?;
    if let Some(hello) = hello.as_object_mut() {
        hello.remove("pluginSurfaceUrls");
        if principal.scopes.is_empty() {
            for key in [
                "controlUiTabs",
                "controlUiWidgetKinds",
                "controlUiLinkReaders",
            ] {
                hello.remove(key);
            }
        }
    }
    if let Some(health) = known
        .health
        .text()
        .and_then(|text| serde_json::from_str(text).ok())
    {
        hello["snapshot"]["health"] = health;
    }
    // It was given to us, who may see everything.
    hello["snapshot"]["presence"] = dispatch::presence::theirs_for(app, principal);
    Some(adopt(app, hello, conn_id, principal, Some(auth)))
}

/// The hello of a gateway that has never met an upstream.
pub(crate) fn own(app: &App, conn_id: &str, principal: &Principal, auth: &Value) -> Value {
    let facts = app.facts.load();
    let inputs = facts.inputs(crate::clock::now_ms(), app.uptime_ms());
    let state_version = app.state_version();
    let rows = app.presence.lock().list(inputs.now_ms);
    let applied = app.applied_config_hash();
    let version = |name: &str| state_version[name].as_u64().unwrap_or(1);
    let mut snapshot = health::snapshot(
        &inputs,
        &health::Snapshot {
            presence: presence::visible(&rows, &principal.role, principal.scope_set),
            health: &natives::own_health(app),
            presence_version: version("presence"),
            health_version: version("health"),
            applied_config_hash: applied.as_ref().map(|hash| hash.as_str()),
            auth_mode: app.auth.settings().mode.as_str(),
            admin: principal.scope_set.contains(wire::scope::Scope::Admin),
        },
    );
    tell_identity_page(app, principal, &mut snapshot);
    let mut server =
        json!({ "version": wire::REFERENCE_VERSION, "bootId": app.boot_id, "connId": conn_id });
    if let Some(build) = &app.auth.settings().build_id {
        server["buildId"] = json!(build);
    }
    let events: Vec<&str> = wire::events::EVENTS
        .iter()
        .filter(|event| event.advertised && natives::emits(event.name))
        .map(|event| event.name)
        .collect();
    json!({
        "type": "hello-ok",
        "protocol": wire::PROTOCOL_VERSION,
        "server": server,
        "features": { "methods": natives::names(app), "events": events, "capabilities": [] },
        "snapshot": snapshot,
        "auth": auth,
        "policy": {
            "maxPayload": limits::PAYLOAD_BYTES_MAX,
            "maxBufferedBytes": limits::BUFFERED_BYTES_MAX,
            "tickIntervalMs": limits::TICK_INTERVAL.as_millis() as u64,
        },
    })
}
