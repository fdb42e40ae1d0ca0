//! `health`, its event, and `status`.
//!
//! With an upstream both tell of its agents, plugins and channels: `health` is its latest payload, re-served
//! while fresh ([`Cache`]); `status` is always bridged. Without one, the answers below say what is here.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use wire::raw::Fields;

use super::agents::MAIN_KEY;
use super::{Facts, Inputs};

/// How old a cached payload may be; then the upstream is asked. Source: `health` in
/// src/gateway/server-methods/health.ts, whose own cache lives as long.
pub const FRESH_MS: u64 = 60_000;
/// The original renews its health, and sends the event, this often. Source: `HEALTH_REFRESH_INTERVAL_MS`.
pub const REFRESH_MS: u64 = 60_000;

/// The upstream's health as last heard.
///
/// The `health` event carries everything but `modelRuntime`, which the method adds at the end; that part is
/// kept from the latest answer to the method.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// JSON text ready to be sent as the answer to `health`.
    text: Option<Arc<str>>,
    model_runtime: Option<Arc<str>>,
    heard_ms: u64,
}

impl Cache {
    /// The payload of a `health` event of the upstream.
    pub fn event(&mut self, payload: &RawValue, now_ms: u64) {
        self.text = Some(match &self.model_runtime {
            Some(runtime) => with_field(payload.get(), "modelRuntime", runtime).into(),
            None => payload.get().into(),
        });
        self.heard_ms = now_ms;
    }

    /// The upstream's answer to our own `health` call, made when the control connection opens.
    pub fn answer(&mut self, payload: &RawValue, now_ms: u64) {
        let fields = Fields::parse(payload);
        self.model_runtime = fields
            .and_then(|fields| fields.get("modelRuntime"))
            .map(|runtime| runtime.get().into());
        self.text = Some(payload.get().into());
        self.heard_ms = now_ms;
    }

    /// The last word, however old: for a hello while the upstream is away.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// What to answer, unless the caller asks for a probe or the cache is too old: then bridge the call.
    pub fn serve(&self, params: Option<&RawValue>, now_ms: u64) -> Option<&str> {
        let fresh = now_ms.saturating_sub(self.heard_ms) < FRESH_MS;
        self.text
            .as_deref()
            .filter(|_| fresh && !wants_probe(params))
    }
}

/// `{"probe": true}` asks for a new collection.
pub fn wants_probe(params: Option<&RawValue>) -> bool {
    params
        .and_then(Fields::parse)
        .is_some_and(|fields| fields.is_true("probe"))
}

/// Sets one field of an object in JSON text, at the end.
fn with_field(object: &str, name: &str, value: &str) -> String {
    let body = object.trim_end().strip_suffix('}').unwrap_or_default();
    let comma = if body.trim_end().ends_with('{') {
        ""
    } else {
        ","
    };
    format!("{body}{comma}\"{name}\":{value}}}")
}

/// `health` of a gateway without an upstream, and the payload of its event.
pub fn alone(inputs: &Inputs<'_>) -> Value {
    let roster = inputs.roster();
    // Configured order. Source: `resolveHealthAgentOrder` in src/gateway/health/collector.ts.
    let listed: Vec<Value> = roster
        .agents
        .iter()
        .map(|agent| {
            let mut row = json!({ "agentId": agent.id });
            if let Some(name) = agent.entry.get("name").and_then(Value::as_str) {
                row["name"] = json!(name);
            }
            row["isDefault"] = json!(agent.id == roster.default_id);
            // Nothing beats without an agent runtime.
            row["heartbeat"] = json!({ "enabled": false, "every": "disabled", "everyMs": null });
            row["sessions"] = sessions(inputs, &agent.id);
            row
        })
        .collect();
    json!({
        "ok": true,
        "ts": inputs.now_ms,
        "durationMs": 0,
        "channels": {},
        "channelOrder": [],
        "channelLabels": {},
        "heartbeatSeconds": 0,
        "defaultAgentId": roster.default_id,
        "agents": listed,
        "sessions": sessions(inputs, &roster.default_id),
        "modelRuntime": { "degraded": false, "pendingAgents": [] },
    })
}

/// [`alone`] as text, made once for each configuration: only its time differs from call to call.
#[derive(Debug)]
pub struct AloneText {
    facts: Arc<Facts>,
    before: String,
    after: String,
}

impl AloneText {
    pub fn of(facts: &Arc<Facts>) -> Self {
        const TIME: &str = "\"ts\":0";
        let text = alone(&facts.inputs(0, 0)).to_string();
        let (before, after) = text.split_once(TIME).unwrap_or((&text, ""));
        Self {
            facts: Arc::clone(facts),
            before: format!("{before}\"ts\":"),
            after: after.to_owned(),
        }
    }

    pub fn is_of(&self, facts: &Arc<Facts>) -> bool {
        Arc::ptr_eq(&self.facts, facts)
    }

    pub fn at(&self, now_ms: u64) -> String {
        format!("{}{now_ms}{}", self.before, self.after)
    }
}

/// `status` of a gateway without an upstream.
pub fn status(inputs: &Inputs<'_>, params: Option<&RawValue>) -> Value {
    let roster = inputs.roster();
    let fields = params.and_then(Fields::parse).unwrap_or_default();
    let agents = roster.ordered();
    let heartbeats: Vec<Value> = agents
        .iter()
        .map(|agent| json!({ "agentId": agent.id, "enabled": false, "every": "disabled", "everyMs": null }))
        .collect();
    let paths: Vec<String> = agents
        .iter()
        .map(|agent| store(inputs, &agent.id))
        .collect();
    let by_agent: Vec<Value> = agents
        .iter()
        .zip(&paths)
        .map(|(agent, path)| json!({ "agentId": agent.id, "path": path, "count": 0, "recent": [] }))
        .collect();
    let mut status = json!({ "runtimeVersion": wire::REFERENCE_VERSION });
    if fields.is_true("includeCliProjection") {
        let rows: Vec<Value> = agents
            .iter()
            .map(|agent| match &agent.name {
                Some(name) => json!({ "id": agent.id, "name": name }),
                None => json!({ "id": agent.id }),
            })
            .collect();
        status["cliProjection"] = json!({
            "agents": {
                "defaultId": roster.default_id, "ownership": roster.ownership.as_str(),
                "selectionRequired": roster.selection_required, "rows": rows,
            },
            "updateChannel": inputs.config.pointer("/update/channel").cloned().unwrap_or(Value::Null),
            "memoryPlugin": { "enabled": false, "slot": null, "reason": "no agent runtime" },
        });
    }
    let rest = json!({
        "heartbeat": { "defaultAgentId": roster.default_id, "agents": heartbeats },
        "channelSummary": [],
        "queuedSystemEvents": [],
        "degradedSecretOwners": [],
        "degradedPlugins": [],
        "tasks": {
            "total": 0, "active": 0, "terminal": 0, "failures": 0,
            "byStatus": zeros(&["queued", "running", "succeeded", "failed", "timed_out", "cancelled", "lost"]),
            "byRuntime": zeros(&["subagent", "acp", "cli", "cron"]),
        },
        "taskAudit": {
            "total": 0, "warnings": 0, "errors": 0,
            "byCode": zeros(&[
                "stale_queued", "stale_running", "lost", "delivery_failed", "missing_cleanup", "inconsistent_timestamps",
            ]),
        },
        "sessions": {
            "paths": paths, "count": 0,
            "defaults": { "model": roster.primary_model(inputs.config, &roster.default_id), "contextTokens": null },
            "recent": [], "byAgent": by_agent,
        },
        "modelRuntime": { "degraded": false, "pendingAgents": [] },
        "pid": std::process::id(),
    });
    merge(&mut status, rest);
    status
}

fn sessions(inputs: &Inputs<'_>, agent_id: &str) -> Value {
    json!({ "path": store(inputs, agent_id), "count": 0, "recent": [] })
}

fn store(inputs: &Inputs<'_>, agent_id: &str) -> String {
    inputs
        .places
        .session_store(agent_id)
        .to_string_lossy()
        .into_owned()
}

fn zeros(names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| ((*name).to_owned(), json!(0)))
        .collect()
}

fn merge(target: &mut Value, more: Value) {
    if let (Value::Object(target), Value::Object(more)) = (target, more) {
        target.extend(more);
    }
}

/// The parts of the hello snapshot that configuration and state decide.
/// Source: `buildGatewaySnapshot` in src/gateway/server/health-state.ts.
pub fn session_defaults(inputs: &Inputs<'_>) -> Value {
    let roster = inputs.roster();
    json!({
        "defaultAgentId": roster.default_id,
        "modelConfigured": roster.primary_model(inputs.config, &roster.default_id).is_some(),
        "ownership": roster.ownership.as_str(),
        "selectionRequired": roster.selection_required,
        "mainKey": MAIN_KEY,
        "mainSessionKey": roster.default_session_key(),
        "scope": roster.scope,
    })
}

/// What a hello snapshot is made from besides [`Inputs`].
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// Rows this caller may see ([`super::presence::visible`]).
    pub presence: &'a [Value],
    /// The upstream's health, or [`alone`].
    pub health: &'a Value,
    pub presence_version: u64,
    pub health_version: u64,
    pub applied_config_hash: Option<&'a str>,
    /// `token`, `password`, `trusted-proxy` or `none`.
    pub auth_mode: &'a str,
    /// The caller holds `operator.admin`, so paths are shown.
    pub admin: bool,
}

/// `hello-ok.snapshot` of a gateway without an upstream.
pub fn snapshot(inputs: &Inputs<'_>, from: &Snapshot<'_>) -> Value {
    let mut out = json!({
        "suspension": { "phase": "accepting" },
        "presence": from.presence,
        "health": from.health,
        "stateVersion": { "presence": from.presence_version, "health": from.health_version },
        "uptimeMs": inputs.uptime_ms,
        "appliedConfigHash": from.applied_config_hash,
        "sessionDefaults": session_defaults(inputs),
    });
    if from.admin {
        out["configPath"] = json!(inputs.config_path.to_string_lossy());
        out["stateDir"] = json!(inputs.places.state_dir.to_string_lossy());
        out["authMode"] = json!(from.auth_mode);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn the_text_of_our_own_differs_in_its_time_alone() {
        let facts = Arc::new(Facts {
            config: json!({ "agents": { "entries": { "main": { "name": "\"ts\":0" }, "ops": {} } } }),
            ..Facts::default()
        });
        let text = AloneText::of(&facts);
        for now_ms in [0, 7, 1_795_415_710_722] {
            assert_eq!(text.at(now_ms), alone(&facts.inputs(now_ms, 0)).to_string());
        }
        assert!(text.is_of(&facts) && !text.is_of(&Arc::new(Facts::default())));
    }

    #[test]
    fn the_upstreams_health_is_served_while_fresh() {
        let mut cache = Cache::default();
        assert_eq!(cache.serve(None, 0), None);
        cache.answer(
            raw(r#"{"ok":true,"ts":1,"modelRuntime":{"degraded":false}}"#),
            1_000,
        );
        assert_eq!(
            cache.serve(None, 1_000),
            Some(r#"{"ok":true,"ts":1,"modelRuntime":{"degraded":false}}"#)
        );
        cache.event(raw(r#"{"ok":true,"ts":2}"#), 2_000);
        let renewed = r#"{"ok":true,"ts":2,"modelRuntime":{"degraded":false}}"#;
        assert_eq!(cache.serve(None, 61_999), Some(renewed));
        assert_eq!(cache.serve(None, 62_000), None, "too old");
        assert_eq!(cache.serve(Some(raw(r#"{"probe":true}"#)), 2_000), None);
        for params in ["{}", "null", "[]", r#"{"probe":"true"}"#] {
            assert_eq!(
                cache.serve(Some(raw(params)), 2_000),
                Some(renewed),
                "{params}"
            );
        }
        assert_eq!(cache.text(), Some(renewed));
    }

    #[test]
    fn a_field_is_added_to_an_object_in_text() {
        assert_eq!(with_field("{}", "a", "1"), r#"{"a":1}"#);
        assert_eq!(with_field(r#"{"b":{}} "#, "a", "1"), r#"{"b":{},"a":1}"#);
    }
}
