//! Which methods are answered here, and by what.
//!
//! A row is native always, native only while there is no upstream, or native while the upstream has told us
//! what to say (its own health, pushed to us whenever it changes).

use serde_json::value::RawValue;
use serde_json::{Value, json};
use wire::error::ErrorShape;

use super::{Native, NativeReply, Principal, Session};
use crate::app::App;
use crate::bridge;

/// Who answers a native row, beside the setting that can hand it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// The upstream's answer is known here, kept fresh by its own events.
    Known,
    /// No upstream is configured.
    Alone,
}

struct Row {
    name: &'static str,
    when: When,
    serve: fn(&App, &Session, Option<&RawValue>) -> NativeReply,
}

static ROWS: &[Row] = &[
    Row {
        name: "health",
        when: When::Known,
        serve: health,
    },
    Row {
        name: "last-heartbeat",
        when: When::Known,
        serve: last_heartbeat,
    },
    Row {
        name: "health",
        when: When::Alone,
        serve: health_alone,
    },
    Row {
        name: "last-heartbeat",
        when: When::Alone,
        serve: |_, _, _| Ok("null".to_owned()),
    },
    Row {
        name: "sessions.list",
        when: When::Alone,
        serve: |app, _, _| {
            Ok(json!({ "ts": crate::clock::now_ms(), "count": 0, "totalCount": 0, "hasMore": false, "sessions": [], "uptimeMs": app.uptime_ms() }).to_string())
        },
    },
];

/// The native row of a method, unless it is handed back to the upstream (`native.disable`).
pub(crate) fn find(app: &App, _principal: &Principal, method: &str) -> Option<Native> {
    let alone = matches!(&*app.upstream.borrow(), crate::bridge::UpstreamState::Off);
    if alone && let Some(native) = super::devices::find(method) {
        return Some(native);
    }
    let row = ROWS
        .iter()
        .find(|row| row.name == method && (row.when == When::Alone) == alone)?;
    if app
        .settings
        .load()
        .native_disable
        .iter()
        .any(|pattern| matches_pattern(pattern, method))
    {
        return None;
    }
    let known = app.known.load();
    let answerable = match (row.when, method) {
        (When::Alone, _) => true,
        (When::Known, "health") => known.health.is_some(),
        (When::Known, _) => known.last_heartbeat.is_some(),
    };
    answerable.then_some(Native::Now(row.serve))
}

/// `sessions.*` covers every name that starts with `sessions.`; anything else is the name itself.
fn matches_pattern(pattern: &str, method: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => method.starts_with(prefix),
        None => pattern == method,
    }
}

/// Methods answered without an upstream.
pub(crate) fn names(app: &App) -> Vec<&'static str> {
    let disabled = app.settings.load();
    ROWS.iter()
        .filter(|row| row.when == When::Alone)
        .map(|row| row.name)
        .chain(super::devices::NAMES.iter().copied())
        .filter(|name| {
            !disabled
                .native_disable
                .iter()
                .any(|pattern| matches_pattern(pattern, name))
        })
        .collect()
}

/// Events we send of our own accord.
pub(crate) fn emits(event: &str) -> bool {
    matches!(
        event,
        "connect.challenge" | "tick" | "health" | "presence" | "shutdown"
    )
}

/// The error of a method that only an upstream could serve, when none is configured.
pub(crate) fn without_upstream(method: &str) -> ErrorShape {
    bridge::not_configured(method)
}

fn health(app: &App, session: &Session, params: Option<&RawValue>) -> NativeReply {
    let _ = (session, params);
    app.known
        .load()
        .health
        .as_deref()
        .map(str::to_owned)
        .ok_or_else(|| bridge::unavailable("health"))
}

fn last_heartbeat(app: &App, _: &Session, _: Option<&RawValue>) -> NativeReply {
    app.known
        .load()
        .last_heartbeat
        .as_deref()
        .map(str::to_owned)
        .ok_or_else(|| bridge::unavailable("last-heartbeat"))
}

fn health_alone(app: &App, _: &Session, _: Option<&RawValue>) -> NativeReply {
    Ok(own_health(app).to_string())
}

/// Health of a gateway without an upstream: true, and empty where there is nothing.
pub(crate) fn own_health(app: &App) -> Value {
    json!({
        "ok": true, "ts": crate::clock::now_ms(), "durationMs": 0,
        "plugins": { "loaded": [], "errors": [] },
        "channels": {}, "channelOrder": [], "channelLabels": {},
        "heartbeatSeconds": 0, "agents": [],
        "sessions": { "count": 0, "recent": [] },
        "uptimeMs": app.uptime_ms(),
    })
}
