//! Rows as clients are shown them: lines of a conversation, and sessions.

use std::collections::HashMap;
use std::sync::Arc;

use agent::{Completion, Model, Thought, ToolCall};
use base64::Engine as _;
use serde_json::{Map, Value, json};
use store::{AgentSession, Entry, Run};

use super::compact::plan as compact;
use super::queue::settings as queue;
use super::{Assistant, Input, Live, thinking};
use crate::app::App;
use crate::clock;
use crate::native::agents::Roster;
use crate::native::{Facts, sessions as empty};
use crate::schedule::heartbeat::settings as heartbeat;

const PREVIEW_CHARS: usize = 160;
/// Of a command's output, beside what the model was given of it.
const OUTPUT_CHARS_KEPT: usize = 8_000;

pub(super) fn user_id(run_id: &str) -> String {
    format!("{run_id}:user")
}

pub(super) fn user(input: &Input, now_ms: i64) -> Entry {
    let content =
        if input.images.is_empty() {
            json!(input.message)
        } else {
            // The pictures themselves are not kept: a line of a conversation stays small.
            let mut parts = vec![json!({ "type": "text", "text": input.message })];
            parts.extend(input.images.iter().map(
                |image| json!({ "type": "text", "text": format!("[image: {}]", image.mime) }),
            ));
            json!(parts)
        };
    let mut message = json!({
        "role": "user", "content": content, "timestamp": now_ms,
        "idempotencyKey": user_id(&input.run_id),
    });
    let mut own = json!({ "senderIsOwner": true, "idempotencyKey": user_id(&input.run_id) });
    if let Some((id, mode)) = &input.client {
        own["transport"] = json!({ "clients": [{ "id": id, "mode": mode }] });
    }
    message["__openclaw"] = own;
    entry(
        user_id(&input.run_id),
        "user",
        &input.run_id,
        message,
        now_ms,
    )
}

pub(super) fn answer(
    run_id: &str,
    completion: &Completion,
    model: Option<&Model>,
    now_ms: i64,
) -> Entry {
    let mut content = Vec::new();
    content.extend(completion.thoughts.iter().map(|thought| {
        let mut part = json!({ "type": "thinking", "thinking": thought.text });
        if let Some(signature) = &thought.signature {
            part["thinkingSignature"] = json!(signature);
        }
        if thought.is_redacted {
            part["redacted"] = json!(true);
        }
        part
    }));
    if !completion.text.is_empty() || completion.calls.is_empty() {
        content.push(json!({ "type": "text", "text": completion.text }));
    }
    content.extend(completion.calls.iter().map(|call| {
        // Broken arguments are answered by an error; a model is not shown them again.
        let arguments: Option<Value> = serde_json::from_str(&call.arguments).ok();
        let mut part = json!({
            "type": "toolCall", "id": call.id, "name": call.name,
            "arguments": arguments.filter(Value::is_object).unwrap_or_else(|| json!({})),
        });
        if let Some(signature) = &call.signature {
            part["thoughtSignature"] = json!(signature);
        }
        part
    }));
    let usage = completion.usage;
    let cost = model.map_or(0.0, |model| model.price(&usage));
    let mut message = json!({
        "role": "assistant", "content": content, "timestamp": now_ms,
        "api": model.map_or("openai-completions", |model| model.api.name()), "stopReason": completion.stop_reason,
        "usage": {
            "input": usage.input, "output": usage.output,
            "cacheRead": usage.cache_read, "cacheWrite": usage.cache_write, "totalTokens": usage.total(),
            "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "total": cost },
        },
    });
    if let Some(model) = model {
        message["provider"] = json!(model.provider);
        message["model"] = json!(model.id);
    }
    if let Some(id) = &completion.response_id {
        message["responseId"] = json!(id);
    }
    message["__openclaw"] = json!({ "runId": run_id });
    // A turn has one last answer, and any number of those that wait for tools.
    let id = match completion.calls.is_empty() {
        true => format!("{run_id}:answer"),
        false => format!("{run_id}:call:{}", uuid::Uuid::new_v4()),
    };
    entry(id, "assistant", run_id, message, now_ms)
}

/// An answer of a turn that goes on because messages have come.
pub(super) fn answer_before(
    run_id: &str,
    completion: &Completion,
    model: &Model,
    now_ms: i64,
) -> Entry {
    Entry {
        id: format!("{run_id}:answer:{}", uuid::Uuid::new_v4()),
        ..answer(run_id, completion, Some(model), now_ms)
    }
}

/// What a tool answered.
pub(super) fn result(
    run_id: &str,
    call: &ToolCall,
    text: &str,
    kept: Option<&Value>,
    is_error: bool,
    now_ms: i64,
) -> Entry {
    let mut message = json!({
        "role": "toolResult", "toolCallId": call.id, "toolName": call.name,
        "content": [{ "type": "text", "text": text }],
    });
    if let Some(kept) = kept {
        message["details"] = kept.clone();
        // The text has it too; each line of a conversation is read again by every turn.
        if let Some(Value::String(output)) = message["details"].get_mut("aggregated")
            && let Some((at, _)) = output.char_indices().nth(OUTPUT_CHARS_KEPT)
        {
            output.truncate(at);
            output.push_str("\n[… more in the text]");
        }
    }
    message["isError"] = json!(is_error);
    message["timestamp"] = json!(now_ms);
    message["__openclaw"] = json!({ "runId": run_id });
    let id = format!("{run_id}:result:{}", uuid::Uuid::new_v4());
    entry(id, "toolResult", run_id, message, now_ms)
}

/// Results in place of those that a stopped turn did not live to write, one for each call without one.
pub(super) fn unanswered(entries: &[Entry], run: &Run, why: &str, now_ms: i64) -> Vec<Entry> {
    let run_id = &*run.run_id;
    let mut open: Vec<ToolCall> = Vec::new();
    let own = entries
        .iter()
        .filter(|entry| entry.run_id.as_deref() == Some(run_id));
    for entry in own {
        let Ok(message) = serde_json::from_str::<Value>(&entry.message) else {
            continue;
        };
        match entry.role.as_str() {
            "assistant" => open.extend(calls_of(&message["content"])),
            "toolResult" => {
                let answered = open
                    .iter()
                    .position(|call| message["toolCallId"] == call.id.as_str());
                if let Some(at) = answered {
                    open.remove(at);
                }
            }
            _ => {}
        }
    }
    let waits = waits_for_approval(run);
    let unknown =
        format!("{why}; whether it took effect is not known. Look before you call it again.");
    let not_begun = format!("{why}; it waited for approval and was not run.");
    open.iter()
        .map(|call| {
            let why = match waits.as_deref() == Some(&*call.id) {
                true => &not_begun,
                false => &unknown,
            };
            result(run_id, call, why, None, true, now_ms)
        })
        .collect()
}

/// The call of a run that waits for a person, as `exec` notes it before it asks.
fn waits_for_approval(run: &Run) -> Option<String> {
    let note: Value = serde_json::from_str(run.outcome.as_deref()?).ok()?;
    note["waitsForApproval"].as_str().map(str::to_owned)
}

/// The thoughts in a stored answer.
pub(super) fn thoughts_of(content: &Value) -> Vec<Thought> {
    let parts = content.as_array().into_iter().flatten();
    parts
        .filter(|part| part["type"] == "thinking")
        .map(|part| Thought {
            text: part["thinking"].as_str().unwrap_or_default().to_owned(),
            signature: part["thinkingSignature"].as_str().map(str::to_owned),
            is_redacted: part["redacted"] == true,
        })
        .collect()
}

/// The calls in a stored answer.
pub(super) fn calls_of(content: &Value) -> Vec<ToolCall> {
    let parts = content.as_array().into_iter().flatten();
    parts
        .filter(|part| part["type"] == "toolCall")
        .map(|part| ToolCall {
            id: part["id"].as_str().unwrap_or_default().to_owned(),
            name: part["name"].as_str().unwrap_or_default().to_owned(),
            arguments: part["arguments"].to_string(),
            signature: part["thoughtSignature"].as_str().map(str::to_owned),
        })
        .collect()
}

pub(super) fn aborted(run_id: &str, text: &str, now_ms: i64) -> Entry {
    let key = format!("{run_id}:assistant");
    let message = json!({
        "role": "assistant", "content": [{ "type": "text", "text": text }], "timestamp": now_ms,
        "stopReason": "stop", "idempotencyKey": key,
        "openclawAbort": { "aborted": true, "origin": "rpc", "runId": run_id },
        "__openclaw": { "runId": run_id, "idempotencyKey": key },
    });
    entry(key, "assistant", run_id, message, now_ms)
}

pub(super) fn failure_id(run_id: &str) -> String {
    format!("{run_id}:terminal-error")
}

/// A line that says why there is no answer; models are not shown it.
pub(super) fn failure(run_id: &str, why: &str, now_ms: i64) -> Entry {
    let key = failure_id(run_id);
    let message = json!({
        "role": "assistant", "content": [{ "type": "text", "text": format!("⚠️ {why}") }], "timestamp": now_ms,
        "stopReason": "error", "idempotencyKey": key,
        "__openclaw": { "runId": run_id, "idempotencyKey": key },
    });
    entry(key, "assistant", run_id, message, now_ms)
}

/// A compaction: `kept` has `summary`, `firstKeptEntryId`, `tokensBefore`, `tokensAfter` and `details`.
pub(super) fn compaction(kept: &Value, now_ms: i64) -> Entry {
    let mut message = kept.clone();
    message["type"] = json!("compaction");
    message["timestamp"] = json!(now_ms);
    Entry {
        seq: 0,
        id: uuid::Uuid::new_v4().to_string(),
        role: compact::ROLE.to_owned(),
        run_id: None,
        message: message.to_string(),
        at_ms: now_ms,
    }
}

fn entry(id: String, role: &str, run_id: &str, message: Value, at_ms: i64) -> Entry {
    Entry {
        seq: 0,
        id,
        role: role.to_owned(),
        run_id: Some(run_id.to_owned()),
        message: message.to_string(),
        at_ms,
    }
}

/// Whether clients are not shown a line: a heartbeat's question, and an answer that says nothing.
pub(super) fn is_hidden(entry: &Entry) -> bool {
    let run_id = entry.run_id.as_deref().unwrap_or_default();
    if !run_id.starts_with(super::HEARTBEAT_RUN) {
        return false;
    }
    match entry.role.as_str() {
        "user" => true,
        "assistant" => {
            let message: Value = serde_json::from_str(&entry.message).unwrap_or_default();
            message["stopReason"] != "error"
                && calls_of(&message["content"]).is_empty()
                && heartbeat::news(&text_of(&message["content"])).is_none()
        }
        _ => false,
    }
}

/// A line with its place in the conversation, `position` from 1.
pub(super) fn message(entry: &Entry, position: usize, session_id: &str) -> Value {
    let mut message: Value = serde_json::from_str(&entry.message).unwrap_or_default();
    let hash = ring::digest::digest(&ring::digest::SHA256, session_id.as_bytes());
    let source = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash);
    let position_of = json!({ "source": source, "rawSeq": position });
    if entry.role == compact::ROLE {
        // Of a compaction clients see that there was one.
        return json!({
            "role": "system", "content": [{ "type": "text", "text": "Compaction" }], "timestamp": entry.at_ms,
            "__openclaw": {
                "kind": "compaction", "id": entry.id, "tokensBefore": message["tokensBefore"],
                "tokensAfter": message["tokensAfter"], "transcriptPosition": position_of, "seq": position,
            },
        });
    }
    // What only its provider can read is nothing to show.
    if let Some(parts) = message["content"].as_array_mut() {
        parts.retain(|part| part["type"] != "thinking" || part["redacted"] != true);
        for part in parts {
            if let Some(part) = part.as_object_mut() {
                part.shift_remove("thinkingSignature");
            }
        }
    }
    let own = &mut message["__openclaw"];
    own["id"] = json!(entry.id);
    own["recordTimestampMs"] = json!(entry.at_ms);
    own["transcriptPosition"] = position_of;
    own["seq"] = json!(position);
    message
}

/// The words of a message's content.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts
                .iter()
                .filter(|part| part["type"] == "text")
                .filter_map(|part| part["text"].as_str())
                .collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

/// What a person wrote, without the marks of pictures that [`user`] puts behind it.
pub(super) fn written(content: &Value) -> String {
    match content {
        Value::Array(parts) => {
            let first = parts.first().and_then(|part| part["text"].as_str());
            first.unwrap_or_default().to_owned()
        }
        content => text_of(content),
    }
}

pub(super) fn settings(session: &AgentSession) -> Value {
    serde_json::from_str(&session.settings).unwrap_or_else(|_| json!({}))
}

/// The defaults of a session: the model and what it can do.
pub(super) fn defaults(app: &App, assistant: &Assistant, agent: &str) -> Value {
    let facts = app.facts.load();
    let mut defaults = empty::defaults(&facts.inputs(clock::now_ms(), 0), agent);
    if let Ok(model) = assistant.model(app, agent, None) {
        defaults["modelProvider"] = json!(model.provider);
        defaults["model"] = json!(model.id);
        defaults["contextTokens"] = json!(model.context_window);
    }
    defaults["agentRuntime"] = json!({
        "id": "auto", "cloudPlacementSupported": false, "devicePlacementSupported": false, "source": "implicit",
    });
    defaults["modelSelectionTarget"] = json!("session");
    defaults
}

/// What is shown of a model.
#[derive(Clone)]
struct Shown {
    provider: String,
    id: String,
    window: u64,
    thinking: thinking::Shown,
}

/// Describes sessions. What many of them share, the configuration and their models, is read once: a list has hundreds.
pub(super) struct Describer<'a> {
    assistant: &'a Assistant,
    app: &'a Arc<App>,
    facts: Arc<Facts>,
    roster: Roster,
    /// By agent and the session's own choice; `None`: there is none to call.
    models: HashMap<(String, Option<String>), Option<Shown>>,
}

/// A row of `sessions.list`, without what is said in it.
pub(super) fn session(app: &Arc<App>, assistant: &Assistant, session: &AgentSession) -> Value {
    Describer::new(app, assistant).row(session)
}

impl<'a> Describer<'a> {
    pub(super) fn new(app: &'a Arc<App>, assistant: &'a Assistant) -> Self {
        let facts = app.facts.load_full();
        let roster = facts.inputs(0, 0).roster();
        Self {
            assistant,
            app,
            facts,
            roster,
            models: HashMap::new(),
        }
    }

    fn model(&mut self, agent: &str, chosen: Option<&str>) -> Option<Shown> {
        let key = (agent.to_owned(), chosen.map(str::to_owned));
        let (app, assistant, facts) = (self.app, self.assistant, &self.facts);
        let known = self.models.entry(key).or_insert_with(|| {
            let model = assistant.model(app, agent, chosen).ok()?;
            let thinking = thinking::Shown::of(&facts.config, agent, &model);
            Some(Shown {
                provider: model.provider,
                id: model.id,
                window: model.context_window,
                thinking,
            })
        });
        known.clone()
    }

    /// A row of `sessions.list`, without what is said in it.
    pub(super) fn row(&mut self, session: &AgentSession) -> Value {
        let settings = settings(session);
        let model = self.model(&session.agent, settings["model"].as_str());
        let mut live = self.assistant.live_of(&session.key);
        live.retain(|live| !live.waits());
        row(&self.facts, &self.roster, session, &settings, model, &live)
    }
}

fn row(
    facts: &Facts,
    roster: &Roster,
    session: &AgentSession,
    settings: &Value,
    model: Option<Shown>,
    live: &[Arc<Live>],
) -> Value {
    let last: Value = session
        .last_run
        .as_deref()
        .and_then(|last| serde_json::from_str(last).ok())
        .unwrap_or_default();
    let chosen = settings["model"].as_str();
    let is_main = session.key == "global" || session.key == roster.main_session_key(&session.agent);
    let mut row = Map::new();
    let mut put = |key: &str, value: Value| {
        row.insert(key.to_owned(), value);
    };
    put("key", json!(session.key));
    put("permissionModePending", json!(false));
    put("createdVia", json!("operator"));
    put("createdAt", json!(session.created_ms));
    put(
        "kind",
        json!(if session.key == "global" {
            "global"
        } else {
            "direct"
        }),
    );
    put(
        "classification",
        json!(if is_main { "main" } else { "direct" }),
    );
    put("agentId", json!(session.agent));
    put("isMain", json!(is_main));
    put("isBackground", json!(false));
    put("chatType", json!("direct"));
    put("updatedAt", json!(session.updated_ms));
    put("archived", json!(session.archived));
    put("pinned", json!(settings["pinned"] == true));
    put(
        "unread",
        json!(session.read_ms > 0 && session.updated_ms > session.read_ms),
    );
    put("lastInteractionAt", json!(session.updated_ms));
    put("sessionId", json!(session.session_id));
    put("systemSent", json!(true));
    put("abortedLastRun", json!(last["status"] == "killed"));
    for key in [
        "label",
        "displayName",
        "category",
        "color",
        "icon",
        "parentSessionKey",
    ] {
        if let Some(value) = settings.get(key).filter(|value| !value.is_null()) {
            put(key, value.clone());
        }
    }
    put("inputTokens", json!(session.input_tokens));
    put("outputTokens", json!(session.output_tokens));
    put("totalTokens", json!(session.context_tokens));
    put("totalTokensFresh", json!(true));
    let status = match live.first() {
        Some(_) => json!("running"),
        None => last["status"].clone(),
    };
    if !status.is_null() {
        put("status", status);
    }
    if let Some(first) = live.first() {
        put("startedAt", json!(first.started_ms));
    } else {
        for key in ["startedAt", "endedAt"] {
            if !last[key].is_null() {
                put(key, last[key].clone());
            }
        }
        if let Some(run) = last["runId"].as_str() {
            put("lastRunId", json!(run));
        }
        if let Some(error) = last["error"].as_str() {
            put("lastRunError", json!(error));
        }
    }
    if let Some(model) = &model {
        put("modelProvider", json!(model.provider));
        put("model", json!(model.id));
        put("contextTokens", json!(model.window));
        if let Some(level) = thinking::chosen(settings) {
            put("thinkingLevel", json!(model.thinking.nearest(level).name()));
        }
    }
    if let Some(level) = settings["reasoningLevel"].as_str() {
        put("reasoningLevel", json!(level));
    }
    put(
        "modelOverrideSource",
        chosen.map_or(Value::Null, |_| json!("user")),
    );
    put("runtimeSelectionLocked", json!(false));
    put(
        "agentRuntime",
        json!({ "id": "openclaw-rs", "cloudPlacementSupported": false, "devicePlacementSupported": false, "source": "implicit" }),
    );
    put("effectiveFastMode", json!(false));
    put("effectiveFastModeSource", json!("default"));
    let queue = queue::Settings::of(&facts.config, settings, "webchat");
    put("effectiveQueueMode", json!(queue.mode.word()));
    for key in ["queueMode", "queueDebounceMs", "queueCap", "queueDrop"] {
        if let Some(value) = settings.get(key).filter(|value| !value.is_null()) {
            put(key, value.clone());
        }
    }
    put("effectiveResponseUsage", json!("off"));
    put("hasActiveRun", json!(!live.is_empty()));
    put(
        "activeRunIds",
        live.iter().map(|live| json!(live.run_id)).collect(),
    );
    put("snapshotAt", json!(clock::now_ms()));
    put("sharingRole", json!("admin"));
    if let Some(model) = model {
        model.thinking.put(&mut row);
    }
    if !row.contains_key("displayName")
        && let Some(label) = row.get("label").cloned()
    {
        row.insert("displayName".to_owned(), label);
    }
    Value::Object(row)
}

/// The first words of the last thing said.
pub(super) fn preview(entry: &Entry) -> Option<String> {
    let message: Value = serde_json::from_str(&entry.message).ok()?;
    let text = text_of(&message["content"]);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().take(PREVIEW_CHARS).collect();
    (!short.is_empty()).then_some(short)
}
