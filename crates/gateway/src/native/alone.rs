//! Answers of a gateway without an upstream: what clients ask when they load, from the state there is.
//!
//! No agent runs here, so stores are empty; what the configuration says (agents, workspaces, models) is said.
//! Methods that would need an agent answer with [`no_agent`].

use serde_json::value::RawValue;
use serde_json::{Value, json};
use wire::error::{ErrorCode, ErrorShape};
use wire::raw::Fields;

use super::agents::{Agent, MAIN_KEY, normalize_id};
use super::{Answer, Inputs, sessions};

/// Params are already checked against their schema ([`wire::schema::check`]).
pub type Serve = fn(&Inputs<'_>, Option<&RawValue>) -> Answer;

/// The answer of a method without an upstream; `None` when only an upstream can answer it.
pub fn find(method: &str) -> Option<Serve> {
    let at = TABLE.binary_search_by_key(&method, |(name, _)| name).ok()?;
    Some(TABLE[at].1)
}

/// Names that [`find`] knows, sorted.
pub fn methods() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

/// What a method answers that only an agent could serve. The message names the two ways out.
pub fn no_agent(method: &str) -> ErrorShape {
    let message = format!(
        "{method} needs an agent and none is reachable: start OpenClaw behind this gateway ([upstream] in \
         openclaw-gateway.toml), or configure a model for this gateway"
    );
    ErrorShape::new(ErrorCode::Unavailable, message)
        .with_details(json!({ "reason": "no-agent", "method": method }))
}

static TABLE: &[(&str, Serve)] = &[
    ("agent", |_, _| Err(no_agent("agent"))),
    ("agent.identity.get", agent_identity),
    ("agents.list", agents_list),
    ("approval.history", |_, _| Ok(json!({ "items": [] }))),
    ("artifacts.list", |_, _| Ok(json!({ "artifacts": [] }))),
    ("audit.list", |_, _| Ok(json!({ "events": [] }))),
    ("board.get", board),
    ("channels.status", channels_status),
    ("chat.abort", |_, _| {
        Ok(json!({ "ok": true, "aborted": false, "runIds": [] }))
    }),
    ("chat.history", |inputs, params| {
        Ok(sessions::history(inputs, params))
    }),
    ("chat.metadata", |_, _| {
        Ok(json!({ "models": [], "commands": [] }))
    }),
    ("chat.send", |_, _| Err(no_agent("chat.send"))),
    ("chat.startup", |inputs, params| {
        Ok(sessions::history(inputs, params))
    }),
    ("commands.list", |_, _| Ok(json!({ "commands": [] }))),
    ("controlUi.sessionPullRequests.subscribe", |_, _| {
        Ok(json!({ "subscribed": false }))
    }),
    ("environments.list", environments),
    ("exec.approval.list", |_, _| Ok(json!([]))),
    ("mentions.list", no_profile_mentions),
    ("models.authStatus", |inputs, _| {
        Ok(json!({ "ts": inputs.now_ms, "providers": [] }))
    }),
    ("models.list", |_, _| Ok(json!({ "models": [] }))),
    // What nodes do, OpenClaw alone has them do: none is at anybody's service here.
    ("node.list", |inputs, _| {
        Ok(json!({ "ts": inputs.now_ms, "nodes": [] }))
    }),
    ("node.pair.list", |_, _| {
        Ok(json!({ "pending": [], "paired": [] }))
    }),
    ("openclaw.approval.list", |_, _| Ok(json!([]))),
    ("plugin.approval.list", |_, _| Ok(json!([]))),
    ("plugins.list", |_, _| {
        Ok(json!({ "plugins": [], "diagnostics": [], "mutationAllowed": false }))
    }),
    ("progressCard.get", |_, _| Ok(json!({ "card": null }))),
    ("projects.list", projects),
    ("question.list", |_, _| Ok(json!({ "questions": [] }))),
    ("session.discussion.info", |_, _| {
        Ok(json!({ "state": "none" }))
    }),
    ("sessions.branches.list", |_, _| {
        Ok(json!({ "branches": [] }))
    }),
    ("sessions.catalog.list", |_, _| {
        Ok(json!({ "catalogs": [] }))
    }),
    ("sessions.companion.state", |_, _| {
        Ok(json!({ "exchanges": [] }))
    }),
    ("sessions.describe", |_, _| Ok(json!({ "session": null }))),
    ("sessions.groups.defaults", |_, _| {
        Ok(json!({ "defaults": [] }))
    }),
    ("sessions.groups.list", |_, _| {
        Ok(json!({ "groups": [], "sectionOrder": [] }))
    }),
    ("sessions.list", |inputs, params| {
        Ok(sessions::list(inputs, params))
    }),
    ("sessions.messages.subscribe", |inputs, params| {
        Ok(sessions::messages(inputs, params, true))
    }),
    ("sessions.messages.unsubscribe", |inputs, params| {
        Ok(sessions::messages(inputs, params, false))
    }),
    ("sessions.observer.visibility", |_, _| {
        Ok(json!({ "ok": true }))
    }),
    ("sessions.preview", |inputs, params| {
        Ok(sessions::preview(inputs, params))
    }),
    ("sessions.resolve", |_, params| sessions::resolve(params)),
    ("sessions.search", |_, _| Ok(json!({ "results": [] }))),
    ("sessions.subscribe", |inputs, params| {
        Ok(sessions::subscribe(inputs, params))
    }),
    ("sessions.viewers.set", |inputs, params| {
        Ok(sessions::viewers(inputs, params))
    }),
    ("set-heartbeats", set_heartbeats),
    ("status", |inputs, params| {
        Ok(super::health::status(inputs, params))
    }),
    ("talk.catalog", |_, _| Ok(talk_catalog())),
    ("taskSuggestions.list", |_, _| {
        Ok(json!({ "suggestions": [] }))
    }),
    ("tasks.list", |_, _| Ok(json!({ "tasks": [] }))),
    ("update.status", update_status),
    ("usage.status", |inputs, _| {
        Ok(json!({ "updatedAt": inputs.now_ms, "providers": [] }))
    }),
    ("users.prefs.get", |_, _| {
        Ok(json!({ "status": "no_durable_identity" }))
    }),
    ("users.self", |_, _| {
        Err(ErrorShape::new(
            ErrorCode::Forbidden,
            "users.self requires an authenticated user",
        ))
    }),
    ("worktrees.list", |_, _| Ok(json!({ "worktrees": [] }))),
];

/// The default agent as the page shows it: `agentId`, `name`, `avatar`.
pub(crate) fn assistant(inputs: &Inputs<'_>) -> Value {
    agent_identity(inputs, None).unwrap_or_default()
}

/// Source of the name and the letter: `DEFAULT_ASSISTANT_IDENTITY` in src/gateway/assistant-avatar.ts.
fn agent_identity(inputs: &Inputs<'_>, params: Option<&RawValue>) -> Answer {
    let roster = inputs.roster();
    let fields = params.and_then(Fields::parse).unwrap_or_default();
    let asked = fields
        .text("agentId")
        .filter(|id| !wire::raw::js_trim(id).is_empty());
    let id = match (&asked, fields.text("sessionKey")) {
        (Some(id), _) => normalize_id(id),
        (None, Some(key)) => sessions::agent_of(&roster, &key),
        (None, None) => roster.default_id.clone(),
    };
    let identity = roster
        .get(&id)
        .and_then(|agent| agent.entry.get("identity"));
    let own = |name: &str| {
        let value = identity?.get(name)?.as_str()?;
        Some(wire::raw::js_trim(value).to_owned()).filter(|value| !value.is_empty())
    };
    let (name, source) = match own("name") {
        Some(name) => (name, "agent"),
        None => ("Assistant".to_owned(), "default"),
    };
    let avatar = own("avatar")
        .or_else(|| own("emoji"))
        .unwrap_or_else(|| "A".to_owned());
    let mut answer = json!({ "agentId": id, "name": name, "nameSource": source, "avatar": avatar });
    if let Some(emoji) = own("emoji") {
        answer["emoji"] = json!(emoji);
    }
    Ok(answer)
}

fn agents_list(inputs: &Inputs<'_>, _: Option<&RawValue>) -> Answer {
    let roster = inputs.roster();
    let agents: Vec<Value> = roster
        .ordered()
        .into_iter()
        .map(|agent| {
            let mut row = json!({ "id": agent.id });
            if let Some(name) = &agent.name {
                row["name"] = json!(name);
            }
            if let Some(identity) = agent
                .entry
                .get("identity")
                .filter(|value| value.is_object())
            {
                row["identity"] = identity.clone();
            }
            let workspace = roster.workspace(inputs.config, agent, &inputs.places);
            row["workspaceGit"] = json!(workspace.join(".git").exists());
            row["workspace"] = json!(workspace.to_string_lossy());
            if let Some(model) = roster.primary_model(inputs.config, &agent.id) {
                row["model"] = json!({ "primary": model });
            }
            row
        })
        .collect();
    Ok(json!({
        "defaultId": roster.default_id,
        "ownership": roster.ownership.as_str(),
        "selectionRequired": roster.selection_required,
        "mainKey": MAIN_KEY,
        "scope": roster.scope,
        "agents": agents,
    }))
}

fn board(inputs: &Inputs<'_>, params: Option<&RawValue>) -> Answer {
    let fields = params.and_then(Fields::parse).unwrap_or_default();
    let key = fields.text("sessionKey").unwrap_or_default();
    let key = sessions::canonical_key(&inputs.roster(), &key, fields.text("agentId").as_deref());
    Ok(json!({ "sessionKey": key, "revision": 0, "tabs": [], "widgets": [] }))
}

fn channels_status(inputs: &Inputs<'_>, _: Option<&RawValue>) -> Answer {
    Ok(json!({
        "ts": inputs.now_ms, "channelOrder": [], "channelLabels": {}, "channelDetailLabels": {},
        "channelSystemImages": {}, "channelMeta": [], "channels": {}, "channelAccounts": {},
        "channelDefaultAccountId": {}, "statusIssues": [],
    }))
}

/// The gateway itself is an environment, though without an agent it hosts no session.
fn environments(_: &Inputs<'_>, _: Option<&RawValue>) -> Answer {
    Ok(json!({ "environments": [{
        "id": "gateway", "type": "local", "label": "Gateway local", "status": "available",
        "platform": super::system::platform(), "sessionHost": false, "trust": "persistent", "capabilities": [],
    }] }))
}

fn no_profile_mentions(_: &Inputs<'_>, _: Option<&RawValue>) -> Answer {
    let message = "Human mentions require a verified user profile. Sign in to use mentions.";
    Err(ErrorShape::new(ErrorCode::Forbidden, message))
}

/// The workspaces of the configured agents.
fn projects(inputs: &Inputs<'_>, _: Option<&RawValue>) -> Answer {
    let roster = inputs.roster();
    let mut agents: Vec<&Agent> = roster.agents.iter().collect();
    agents.sort_by(|a, b| a.id.cmp(&b.id));
    let projects: Vec<Value> = agents
        .into_iter()
        .map(|agent| {
            let root = roster.workspace(inputs.config, agent, &inputs.places);
            let name = root.file_name().map_or_else(|| agent.id.clone(), |name| name.to_string_lossy().into_owned());
            json!({
                "id": format!("workspace:{}", agent.id), "displayName": name, "repoRoot": root.to_string_lossy(),
                "source": "workspace", "agentId": agent.id,
            })
        })
        .collect();
    Ok(json!({ "projects": projects }))
}

/// Nothing beats here; the setting is acknowledged as the original does, so that a client may send it early.
fn set_heartbeats(_: &Inputs<'_>, params: Option<&RawValue>) -> Answer {
    let enabled =
        params
            .and_then(Fields::parse)
            .and_then(|fields| match fields.get("enabled")?.get() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            });
    match enabled {
        Some(enabled) => Ok(json!({ "ok": true, "enabled": enabled })),
        None => Err(ErrorShape::invalid_request(
            "invalid set-heartbeats params: enabled (boolean) required",
        )),
    }
}

fn talk_catalog() -> Value {
    json!({
        "modes": ["realtime", "stt-tts", "transcription"],
        "transports": ["webrtc", "provider-websocket", "gateway-relay", "managed-room"],
        "brains": ["agent-consult", "direct-tools", "none"],
        "speech": { "providers": [] },
        "transcription": { "ready": false, "providers": [] },
        "realtime": { "ready": false, "providers": [] },
    })
}

/// This gateway does not update itself.
fn update_status(inputs: &Inputs<'_>, _: Option<&RawValue>) -> Answer {
    let channel = inputs
        .config
        .pointer("/update/channel")
        .and_then(Value::as_str)
        .unwrap_or("stable");
    Ok(json!({
        "sentinel": null, "updateAvailable": null, "effectiveChannel": channel,
        "schedule": { "channel": channel, "autoEnabled": false, "install": { "kind": "unknown" } },
    }))
}

#[cfg(test)]
mod tests;
