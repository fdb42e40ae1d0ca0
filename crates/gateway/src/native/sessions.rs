//! Sessions as they are where no agent has ever run: none, under well-formed keys.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use wire::error::ErrorShape;
use wire::raw::{Fields, js_trim};

use super::agents::{MAIN_KEY, Roster, normalize_id};
use super::{Answer, Inputs};

/// Rows a list holds when the caller sets no limit. Source: seen live at 2026.9.6.
const LIST_LIMIT_DEFAULT: u64 = 100;

/// The one spelling of a session key. Source: `resolveSessionStoreKey` in src/gateway/session-store-key.ts.
pub fn canonical_key(roster: &Roster, key: &str, agent_id: Option<&str>) -> String {
    let key = js_trim(key);
    let lower = key.to_lowercase();
    if lower == "global" || lower == "unknown" {
        return lower;
    }
    let owner = agent_id.map_or_else(|| roster.default_id.clone(), normalize_id);
    if let Some((agent, rest)) = parse_agent_key(&lower) {
        let agent = normalize_id(agent);
        return match rest == MAIN_KEY {
            true if roster.scope == "global" => "global".to_owned(),
            true => roster.main_session_key(&agent),
            false => format!("agent:{agent}:{rest}"),
        };
    }
    if lower == MAIN_KEY {
        return match roster.scope.as_str() {
            "global" => "global".to_owned(),
            _ => roster.main_session_key(&owner),
        };
    }
    format!("agent:{owner}:{lower}")
}

/// `agent:<id>:<rest>`.
pub(crate) fn parse_agent_key(key: &str) -> Option<(&str, &str)> {
    let (agent, rest) = key.strip_prefix("agent:")?.split_once(':')?;
    (!js_trim(agent).is_empty() && !rest.is_empty() && !rest.starts_with(':'))
        .then_some((agent, rest))
}

/// The agent that a key, or else the configuration, names.
pub fn agent_of(roster: &Roster, key: &str) -> String {
    parse_agent_key(&key.to_lowercase()).map_or_else(
        || roster.default_id.clone(),
        |(agent, _)| normalize_id(agent),
    )
}

/// What a session gets when it says nothing: the configured model, if any.
pub fn defaults(inputs: &Inputs<'_>, agent_id: &str) -> Value {
    let model = inputs.roster().primary_model(inputs.config, agent_id);
    let (provider, model) = match model.as_deref().map(|model| model.split_once('/')) {
        Some(Some((provider, model))) => (json!(provider), json!(model)),
        Some(None) => (Value::Null, json!(model)),
        None => (Value::Null, Value::Null),
    };
    json!({ "modelProvider": provider, "model": model, "contextTokens": null })
}

/// `sessions.list`.
pub fn list(inputs: &Inputs<'_>, params: Option<&RawValue>) -> Value {
    let roster = inputs.roster();
    let fields = params.and_then(Fields::parse).unwrap_or_default();
    let limit = fields
        .get("limit")
        .and_then(wire::raw::number)
        .map_or(LIST_LIMIT_DEFAULT, |limit| limit as u64);
    let agent = fields.text("agentId").map(|id| normalize_id(&id));
    let several =
        agent.is_none() && fields.is_true("configuredAgentsOnly") && roster.agents.len() > 1;
    let agent = agent.unwrap_or_else(|| roster.default_id.clone());
    let path = match several {
        true => "(multiple)".to_owned(),
        false => inputs
            .places
            .session_store(&agent)
            .to_string_lossy()
            .into_owned(),
    };
    json!({
        "ts": inputs.now_ms,
        "path": path,
        "count": 0,
        "totalCount": 0,
        "limitApplied": limit,
        "nextOffset": null,
        "hasMore": false,
        "owners": [],
        "defaults": defaults(inputs, &agent),
        "sessions": [],
    })
}

/// `sessions.subscribe`: list params ask for the list as well.
pub fn subscribe(inputs: &Inputs<'_>, params: Option<&RawValue>) -> Value {
    let mut answer = json!({ "subscribed": true });
    if params
        .and_then(Fields::parse)
        .is_some_and(|fields| !fields.is_empty())
    {
        answer["list"] = list(inputs, params);
    }
    answer
}

/// `sessions.messages.subscribe` and `…unsubscribe`.
pub fn messages(inputs: &Inputs<'_>, params: Option<&RawValue>, subscribed: bool) -> Value {
    let roster = inputs.roster();
    let fields = params.and_then(Fields::parse).unwrap_or_default();
    let (key, agent) = (
        fields.text("key").unwrap_or_default(),
        fields.text("agentId"),
    );
    let key = canonical_key(&roster, &key, agent.as_deref());
    let mut answer = json!({ "subscribed": subscribed, "key": key });
    if subscribed && fields.is_true("includeApprovals") {
        answer["approvalReplay"] = json!({
            "sessionKey": key, "updatedAtMs": inputs.now_ms, "approvals": [], "truncated": false,
        });
    }
    answer
}

/// `chat.history` and `chat.startup` of a session that does not exist yet.
pub fn history(inputs: &Inputs<'_>, params: Option<&RawValue>) -> Value {
    let roster = inputs.roster();
    let fields = params.and_then(Fields::parse).unwrap_or_default();
    let asked = fields.text("sessionKey").unwrap_or_default();
    let key = canonical_key(&roster, &asked, fields.text("agentId").as_deref());
    let agent_id = agent_of(&roster, &key);
    let is_main = key == "global" || key == roster.main_session_key(&agent_id);
    let mut info = Map::new();
    for (name, value) in [
        ("key", json!(key)),
        ("permissionModePending", json!(false)),
        (
            "kind",
            json!(if key == "global" { "global" } else { "direct" }),
        ),
        ("agentId", json!(agent_id)),
        ("isMain", json!(is_main)),
        ("isBackground", json!(false)),
        ("updatedAt", Value::Null),
        ("archived", json!(false)),
        ("pinned", json!(false)),
        ("unread", json!(false)),
        ("totalTokensFresh", json!(false)),
        ("snapshotAt", json!(inputs.now_ms)),
        ("hasActiveRun", json!(false)),
        ("activeRunIds", json!([])),
        ("activeLeafEntryId", Value::Null),
    ] {
        info.insert(name.to_owned(), value);
    }
    if is_main {
        info.insert("classification".to_owned(), json!("main"));
    }
    json!({
        "sessionKey": asked,
        "messages": [],
        "pendingInputs": { "items": [], "total": 0 },
        "hasMore": false,
        "totalMessages": 0,
        "defaults": defaults(inputs, &agent_id),
        "sessionInfo": info,
    })
}

/// `sessions.preview`: every key is asked for and none exists.
pub fn preview(inputs: &Inputs<'_>, params: Option<&RawValue>) -> Value {
    let previews: Vec<Value> = keys(params, "keys")
        .into_iter()
        .map(|key| json!({ "key": key, "status": "missing", "items": [] }))
        .collect();
    json!({ "ts": inputs.now_ms, "previews": previews })
}

/// `sessions.viewers.set` repeats what the connection shows.
pub fn viewers(inputs: &Inputs<'_>, params: Option<&RawValue>) -> Value {
    let roster = inputs.roster();
    let mut shown: Vec<String> = Vec::new();
    for key in keys(params, "sessionKeys") {
        let key = canonical_key(&roster, &key, None);
        if !shown.contains(&key) {
            shown.push(key);
        }
    }
    json!({ "sessionKeys": shown })
}

/// `sessions.resolve` finds nothing.
pub fn resolve(params: Option<&RawValue>) -> Answer {
    let fields = params.and_then(Fields::parse).unwrap_or_default();
    let named = ["key", "sessionId", "label", "reference", "shortId"]
        .iter()
        .find_map(|name| fields.text(name).filter(|value| !js_trim(value).is_empty()));
    match named {
        _ if fields.is_true("allowMissing") => Ok(json!({ "ok": false })),
        Some(key) => Err(ErrorShape::invalid_request(format!(
            "No session found: {}",
            js_trim(&key)
        ))),
        None => Err(ErrorShape::invalid_request(
            "Either key, sessionId, label, shortId, or reference is required",
        )),
    }
}

fn keys(params: Option<&RawValue>, name: &str) -> Vec<String> {
    let fields = params.and_then(Fields::parse).unwrap_or_default();
    fields
        .get(name)
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_one_spelling() {
        let check = |config: Value, key: &str, expected: &str| {
            assert_eq!(
                canonical_key(&Roster::read(&config), key, None),
                expected,
                "{key:?} in {config}"
            );
        };
        check(json!({}), "main", "agent:main:main");
        check(json!({}), " Agent:Main:MAIN ", "agent:main:main");
        check(json!({}), "work", "agent:main:work");
        check(json!({}), "GLOBAL", "global");
        check(json!({}), "agent:ops:telegram:1", "agent:ops:telegram:1");
        check(json!({"session":{"scope":"global"}}), "main", "global");
    }
}
