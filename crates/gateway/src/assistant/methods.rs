//! `chat.*`, `agent*`, `sessions.*` and `models.list` of agents that run here.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use store::{AgentSession, RunState};
use wire::error::{ErrorCode, ErrorShape};
use wire::frame::response_ok;

use super::{
    Accepted, Assistant, Image, Input, Outcome, agent_for, commands, events, rows, unavailable,
};
use crate::app::App;
use crate::clock;
use crate::dispatch::Session;
use crate::messages::methods::Task;
use crate::native::sessions as empty;

/// The methods answered here, sorted.
pub(crate) const NAMES: &[&str] = &[
    "agent",
    "agent.wait",
    "chat.abort",
    "chat.history",
    "chat.metadata",
    "chat.send",
    "chat.startup",
    "commands.list",
    "models.authStatus",
    "models.list",
    "sessions.abort",
    "sessions.create",
    "sessions.delete",
    "sessions.describe",
    "sessions.list",
    "sessions.messages.subscribe",
    "sessions.messages.unsubscribe",
    "sessions.patch",
    "sessions.preview",
    "sessions.reset",
    "sessions.resolve",
    "sessions.subscribe",
];

const HISTORY_LIMIT: usize = 200;
const HISTORY_LIMIT_MAX: usize = 1000;
const HISTORY_BYTES_MAX: usize = 6 << 20;
const LIST_LIMIT: usize = 100;
const WAIT_DEFAULT_MS: u64 = 30_000;
const WAIT_MAX_MS: u64 = 24 * 60 * 60 * 1000;
const IMAGE_BYTES_MAX: usize = 20 << 20;

/// One call and all that answering it may need.
struct Call {
    app: Arc<App>,
    assistant: Arc<Assistant>,
    session: Arc<Session>,
    id: String,
    params: Value,
}

/// The task that answers this call; `None`: not a method of agents, or no agent runs here.
pub(crate) fn find(
    app: &Arc<App>,
    session: &Arc<Session>,
    id: &str,
    method: &str,
    params: Option<&RawValue>,
) -> Option<Task> {
    let name = *NAMES.iter().find(|name| **name == method)?;
    let assistant = Arc::clone(app.assistant()?);
    if app.upstream.borrow().word() != "off" {
        return None;
    }
    let raw = params.map(ToOwned::to_owned);
    let call = Call {
        app: Arc::clone(app),
        assistant,
        session: Arc::clone(session),
        id: id.to_owned(),
        params: Value::Null,
    };
    Some(Box::pin(async move {
        wire::schema::check(name, raw.as_deref())?;
        let params = raw.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let call = Call {
            params: params.unwrap_or_else(|| json!({})),
            ..call
        };
        call.serve(name).await.map(|answer| answer.to_string())
    }))
}

impl Call {
    async fn serve(&self, method: &str) -> Result<Value, ErrorShape> {
        match method {
            "agent" => self.agent().await,
            "agent.wait" => self.wait().await,
            "chat.abort" => Ok(self.abort("sessionKey")),
            "chat.history" | "chat.startup" => self.history().await,
            "chat.metadata" => Ok(json!({ "models": self.models(), "commands": commands::list() })),
            "chat.send" => self.send().await,
            "commands.list" => Ok(json!({ "commands": commands::list() })),
            "models.authStatus" => Ok(self.auth_status()),
            "models.list" => Ok(json!({ "models": self.models() })),
            "sessions.abort" => Ok(self.abort("key")),
            "sessions.create" => self.create().await,
            "sessions.delete" => self.delete().await,
            "sessions.describe" => self.describe().await,
            "sessions.list" => self.list().await,
            "sessions.messages.subscribe" => Ok(self.follow(true)),
            "sessions.messages.unsubscribe" => Ok(self.follow(false)),
            "sessions.patch" => self.patch().await,
            "sessions.preview" => self.preview().await,
            "sessions.reset" => self.reset().await,
            "sessions.resolve" => self.resolve().await,
            _ => self.subscribe().await,
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.params[name]
            .as_str()
            .map(str::trim)
            .filter(|text| !text.is_empty())
    }

    /// The canonical form of the key that a parameter names.
    fn key(&self, name: &str) -> String {
        let facts = self.app.facts.load();
        let roster = facts.inputs(0, 0).roster();
        let asked = self.text(name).unwrap_or("main");
        empty::canonical_key(&roster, asked, self.text("agentId"))
    }

    fn client(&self) -> Option<(String, String)> {
        let principal = &self.session.principal;
        Some((principal.client_id.clone(), principal.client_mode.clone()))
    }

    fn input(&self, key: String, is_chat: bool) -> Result<Input, ErrorShape> {
        let run_id = self.text("idempotencyKey").unwrap_or_default().to_owned();
        Ok(Input {
            run_id,
            agent: agent_for(&self.app, &key),
            session_key: key,
            message: self.params["message"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            images: images(&self.params["attachments"])?,
            extra_system: self.text("extraSystemPrompt").map(str::to_owned),
            is_chat,
            client: self.client(),
        })
    }

    async fn send(&self) -> Result<Value, ErrorShape> {
        let key = self.key("sessionKey");
        self.known_agent(&key)?;
        let input = self.input(key, true)?;
        let run_id = input.run_id.clone();
        if let Some(command) = commands::parse(&input.message)
            && commands::run(&self.app, &self.assistant, &input, command).await?
        {
            return Ok(json!({ "runId": run_id, "status": "started" }));
        }
        let status = match self.assistant.accept(&self.app, input).await? {
            Accepted::Started(_) => "started",
            Accepted::InFlight(_) => "in_flight",
            Accepted::Ended(run) if run.state == RunState::Error => "error",
            Accepted::Ended(_) => "ok",
        };
        Ok(json!({ "runId": run_id, "status": status }))
    }

    /// Two answers under one id: accepted, then the outcome.
    async fn agent(&self) -> Result<Value, ErrorShape> {
        let key = match (self.text("sessionKey"), self.text("agentId")) {
            (Some(_), _) => self.key("sessionKey"),
            (None, agent) => {
                let facts = self.app.facts.load();
                let roster = facts.inputs(0, 0).roster();
                match agent {
                    Some(agent) => {
                        roster.main_session_key(&crate::native::agents::normalize_id(agent))
                    }
                    None => roster.default_session_key(),
                }
            }
        };
        if let Some(agent) = self.text("agentId")
            && !self.knows(agent)
        {
            return Err(ErrorShape::invalid_request(format!(
                "invalid agent params: unknown agent id \"{agent}\""
            )));
        }
        self.known_agent(&key)?;
        let input = self.input(key, false)?;
        let (run_id, key, agent) = (
            input.run_id.clone(),
            input.session_key.clone(),
            input.agent.clone(),
        );
        let outcome = match self.assistant.accept(&self.app, input).await? {
            Accepted::Started(live) | Accepted::InFlight(live) => {
                let accepted = json!({
                    "runId": run_id, "sessionKey": key, "agentId": agent,
                    "status": "accepted", "acceptedAt": clock::now_ms(),
                });
                let first = response_ok(&self.id, &accepted.to_string());
                self.session.outbound.send(first);
                live.ended().await
            }
            Accepted::Ended(run) => super::ended(&run),
        };
        match outcome.state {
            RunState::Ok => Ok(json!({
                "runId": run_id, "status": "ok", "summary": "completed",
                "result": { "payloads": payloads(&outcome.text), "meta": outcome.meta },
            })),
            _ => {
                let why = outcome
                    .error
                    .unwrap_or_else(|| "the turn failed".to_owned());
                Err(ErrorShape::new(ErrorCode::Unavailable, why))
            }
        }
    }

    async fn wait(&self) -> Result<Value, ErrorShape> {
        let run_id = self.text("runId").unwrap_or_default().to_owned();
        let patience = self.params["timeoutMs"]
            .as_u64()
            .unwrap_or(WAIT_DEFAULT_MS)
            .min(WAIT_MAX_MS);
        let patience = Duration::from_millis(patience);
        let outcome = match self.assistant.live(&run_id) {
            Some(live) => tokio::time::timeout(patience, live.ended()).await.ok(),
            None => {
                let id = run_id.clone();
                let known = self
                    .assistant
                    .store
                    .read(move |reader| reader.agents().run(&id))
                    .await
                    .map_err(|error| unavailable(&error))?;
                match known.filter(|run| run.state != RunState::Accepted) {
                    Some(run) => Some(super::ended(&run)),
                    None => {
                        tokio::time::sleep(patience).await;
                        None
                    }
                }
            }
        };
        Ok(match outcome {
            Some(outcome) => waited(&run_id, &outcome),
            None => json!({ "runId": run_id, "status": "timeout" }),
        })
    }

    fn abort(&self, key: &str) -> Value {
        let key = self.key(key);
        let wanted = self.text("runId");
        let runs: Vec<String> = self
            .assistant
            .live_of(&key)
            .into_iter()
            .filter(|live| wanted.is_none_or(|run| run == live.run_id))
            .map(|live| {
                live.abort();
                live.run_id.clone()
            })
            .collect();
        json!({ "ok": true, "aborted": !runs.is_empty(), "runIds": runs })
    }

    async fn history(&self) -> Result<Value, ErrorShape> {
        let key = self.key("sessionKey");
        let asked = self.params["sessionKey"].clone();
        let Some(session) = self.assistant.session(&key).await? else {
            return Ok(self.empty_history(&key));
        };
        let limit = self.params["limit"]
            .as_u64()
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(HISTORY_LIMIT)
            .clamp(1, HISTORY_LIMIT_MAX);
        let id = session.session_id.clone();
        let (total, entries) = self
            .assistant
            .store
            .read(move |reader| {
                let agents = reader.agents();
                Ok((agents.entry_count(&id)?, agents.entries(&id, None, limit)?))
            })
            .await
            .map_err(|error| unavailable(&error))?;
        let total = usize::try_from(total).unwrap_or(0);
        let first = total.saturating_sub(entries.len());
        let bytes_max = self.params["maxBytes"]
            .as_u64()
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map_or(HISTORY_BYTES_MAX, |bytes| bytes.min(HISTORY_BYTES_MAX));
        let mut messages = Vec::new();
        let mut bytes = 0;
        for (index, entry) in entries.iter().enumerate().rev() {
            bytes += entry.message.len();
            if bytes > bytes_max && !messages.is_empty() {
                break;
            }
            messages.push(rows::message(entry, first + index + 1, &session.session_id));
        }
        messages.reverse();
        let mut info = rows::session(&self.app, &self.assistant, &session);
        info["activeLeafEntryId"] = json!(entries.last().map(|entry| &entry.id));
        let mut answer = json!({
            "sessionKey": asked,
            "sessionId": session.session_id,
            "hasMore": messages.len() < total,
            "messages": messages,
            "pendingInputs": { "items": [], "total": 0 },
            "totalMessages": total,
            "defaults": rows::defaults(&self.app, &self.assistant, &session.agent),
            "sessionInfo": info,
        });
        if let Some(live) = self.assistant.live_of(&key).first() {
            answer["inFlightRun"] = json!({
                "runId": live.run_id, "text": live.text(), "startedAt": live.started_ms, "events": [],
            });
        }
        self.mark_read(&session).await?;
        Ok(answer)
    }

    fn empty_history(&self, key: &str) -> Value {
        let facts = self.app.facts.load();
        let inputs = facts.inputs(clock::now_ms(), self.app.uptime_ms());
        let raw = serde_json::value::to_raw_value(&self.params).ok();
        let mut answer = empty::history(&inputs, raw.as_deref());
        let agent = agent_for(&self.app, key);
        answer["defaults"] = rows::defaults(&self.app, &self.assistant, &agent);
        answer
    }

    /// Whoever looks at a conversation has read it.
    async fn mark_read(&self, session: &AgentSession) -> Result<(), ErrorShape> {
        if session.read_ms >= session.updated_ms {
            return Ok(());
        }
        let (key, now) = (session.key.clone(), super::clock_ms());
        self.assistant
            .store
            .write(move |tx| tx.agents().set_read(&key, now))
            .await
            .map_err(|error| unavailable(&error))
    }

    /// Which providers can be asked, and where their keys come from.
    fn auth_status(&self) -> Value {
        let facts = self.app.facts.load();
        let configured = facts.config.pointer("/models/providers");
        let providers: Vec<Value> = configured
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(name, settings)| {
                let mut row = json!({
                    "provider": name, "authProvider": name, "displayName": name,
                    "status": "static", "profiles": [],
                });
                match settings.get("apiKey") {
                    None | Some(Value::Null) => {}
                    Some(Value::String(_)) => row["apiKey"] = json!({ "source": "config" }),
                    Some(reference) => {
                        let name = reference["id"].as_str().unwrap_or_default();
                        row["apiKey"] = json!({ "source": "env" });
                        if self.app.variable(name).is_none() {
                            row["status"] = json!("missing");
                        }
                    }
                }
                row
            })
            .collect();
        json!({ "ts": clock::now_ms(), "providers": providers, "providerCapabilities": [] })
    }

    fn models(&self) -> Vec<Value> {
        let facts = self.app.facts.load();
        let roster = facts.inputs(0, 0).roster();
        let default = self
            .assistant
            .model(&self.app, &roster.default_id, None)
            .ok();
        agent::Model::all(&facts.config)
            .into_iter()
            .filter_map(|(provider, entry)| {
                let id = entry["id"].as_str()?;
                let is_default = default
                    .as_ref()
                    .is_some_and(|model| model.provider == provider && model.id == id);
                let named = format!("{provider}/{id}");
                let model = self.assistant.model(&self.app, &roster.default_id, Some(&named));
                let mut row = json!({ "id": id, "name": entry["name"].as_str().unwrap_or(id), "provider": provider });
                if let Ok(model) = &model {
                    row["contextWindow"] = json!(model.context_window);
                    row["reasoning"] = json!(model.is_reasoning);
                }
                if is_default {
                    row["tags"] = json!(["default"]);
                }
                row["thinkingLevels"] = json!([{ "id": "off", "label": "off" }]);
                row["thinkingDefault"] = json!("off");
                row["available"] = json!(model.is_ok());
                Some(row)
            })
            .collect()
    }

    async fn list(&self) -> Result<Value, ErrorShape> {
        let facts = self.app.facts.load_full();
        let inputs = facts.inputs(clock::now_ms(), self.app.uptime_ms());
        let raw = serde_json::value::to_raw_value(&self.params).ok();
        let mut answer = empty::list(&inputs, raw.as_deref());
        let agent = self
            .text("agentId")
            .map(crate::native::agents::normalize_id);
        let number = |name: &str| {
            self.params[name]
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
        };
        let limit = number("limit").unwrap_or(LIST_LIMIT);
        let offset = number("offset").unwrap_or(0);
        let archived = self.params["archived"] == true;
        let previews = self.params["includeLastMessage"] == true;
        let filter = agent.clone();
        let (total, sessions) = self
            .assistant
            .store
            .read(move |reader| {
                let agents = reader.agents();
                let total = agents.count(filter.as_deref(), archived)?;
                let mut rows = Vec::new();
                for session in agents.list(filter.as_deref(), archived, offset, limit)? {
                    let last = match previews {
                        true => agents.entries(&session.session_id, None, 1)?.pop(),
                        false => None,
                    };
                    rows.push((session, last));
                }
                Ok((total, rows))
            })
            .await
            .map_err(|error| unavailable(&error))?;
        let total = usize::try_from(total).unwrap_or(0);
        let rows: Vec<Value> = sessions
            .iter()
            .map(|(session, last)| {
                let mut row = rows::session(&self.app, &self.assistant, session);
                if let Some(words) = last.as_ref().and_then(rows::preview) {
                    row["lastMessagePreview"] = json!(words);
                }
                row
            })
            .collect();
        let next = offset + rows.len();
        let owner = agent.unwrap_or_else(|| inputs.roster().default_id.clone());
        answer["defaults"] = rows::defaults(&self.app, &self.assistant, &owner);
        answer["count"] = json!(rows.len());
        answer["totalCount"] = json!(total);
        answer["hasMore"] = json!(next < total);
        answer["nextOffset"] = if next < total {
            json!(next)
        } else {
            Value::Null
        };
        answer["sessions"] = json!(rows);
        Ok(answer)
    }

    async fn subscribe(&self) -> Result<Value, ErrorShape> {
        self.app.hub.follow_list(&self.session.conn_id);
        let mut answer = json!({ "subscribed": true });
        if self
            .params
            .as_object()
            .is_some_and(|params| !params.is_empty())
        {
            answer["list"] = self.list().await?;
        }
        Ok(answer)
    }

    fn follow(&self, on: bool) -> Value {
        let key = self.key("key");
        self.app.hub.follow_session(&self.session.conn_id, &key, on);
        let facts = self.app.facts.load();
        let inputs = facts.inputs(clock::now_ms(), self.app.uptime_ms());
        let raw = serde_json::value::to_raw_value(&self.params).ok();
        empty::messages(&inputs, raw.as_deref(), on)
    }

    async fn describe(&self) -> Result<Value, ErrorShape> {
        let session = self.assistant.session(&self.key("key")).await?;
        let row = session.map(|session| rows::session(&self.app, &self.assistant, &session));
        Ok(json!({ "session": row }))
    }

    async fn preview(&self) -> Result<Value, ErrorShape> {
        let mut previews = Vec::new();
        let keys = self.params["keys"].as_array().cloned().unwrap_or_default();
        let limit = self.params["limit"].as_u64().unwrap_or(12).clamp(1, 50);
        for asked in keys.iter().filter_map(Value::as_str) {
            let facts = self.app.facts.load_full();
            let key = empty::canonical_key(&facts.inputs(0, 0).roster(), asked, None);
            let Some(session) = self.assistant.session(&key).await? else {
                previews.push(json!({ "key": asked, "status": "missing", "items": [] }));
                continue;
            };
            let limit = usize::try_from(limit).unwrap_or(12);
            let entries = self.assistant.entries(&session.session_id, limit).await?;
            let items: Vec<Value> = entries
                .iter()
                .filter_map(|entry| {
                    Some(json!({ "role": entry.role, "text": rows::preview(entry)? }))
                })
                .collect();
            let status = if items.is_empty() { "empty" } else { "ok" };
            previews.push(json!({ "key": asked, "status": status, "items": items }));
        }
        Ok(json!({ "ts": clock::now_ms(), "previews": previews }))
    }

    async fn resolve(&self) -> Result<Value, ErrorShape> {
        let missing = self.params["allowMissing"] == true;
        let raw = serde_json::value::to_raw_value(&self.params).ok();
        if let Some(named) = self.text("key") {
            let key = self.key("key");
            if self.assistant.session(&key).await?.is_some() {
                return Ok(json!({ "ok": true, "key": key }));
            }
            if !missing {
                return Err(ErrorShape::invalid_request(format!(
                    "No session found: {named}"
                )));
            }
        }
        if let Some(id) = self.text("sessionId").map(str::to_owned) {
            let found = self
                .assistant
                .store
                .read(move |reader| {
                    let all = reader.agents().list(None, false, 0, usize::MAX)?;
                    Ok(all.into_iter().find(|session| session.session_id == id))
                })
                .await
                .map_err(|error| unavailable(&error))?;
            if let Some(session) = found {
                return Ok(json!({ "ok": true, "key": session.key }));
            }
        }
        empty::resolve(raw.as_deref())
    }

    async fn create(&self) -> Result<Value, ErrorShape> {
        let facts = self.app.facts.load_full();
        let roster = facts.inputs(0, 0).roster();
        let agent = self.text("agentId").map_or_else(
            || roster.default_id.clone(),
            crate::native::agents::normalize_id,
        );
        let key = match self.text("key") {
            Some(_) => self.key("key"),
            None => format!("agent:{agent}:dashboard:{}", uuid::Uuid::new_v4()),
        };
        self.known_agent(&key)?;
        let session = self.open(&key).await?;
        let mut chosen = rows::settings(&session);
        for name in ["label", "model"] {
            if let Some(value) = self.text(name) {
                chosen[name] = json!(value);
            }
        }
        self.keep_settings(&session, &chosen, session.archived)
            .await?;
        let session = self.open(&key).await?;
        events::session_changed(&self.app, &self.assistant, &session, "create");
        let row = rows::session(&self.app, &self.assistant, &session);
        Ok(json!({ "ok": true, "key": key, "sessionId": session.session_id, "entry": row }))
    }

    async fn open(&self, key: &str) -> Result<AgentSession, ErrorShape> {
        let (key, agent, now) = (key.to_owned(), agent_for(&self.app, key), super::clock_ms());
        self.assistant
            .store
            .write(move |tx| {
                let fresh = uuid::Uuid::new_v4().to_string();
                tx.agents().open(&key, &agent, &fresh, now)
            })
            .await
            .map_err(|error| unavailable(&error))
    }

    async fn keep_settings(
        &self,
        session: &AgentSession,
        settings: &Value,
        archived: bool,
    ) -> Result<(), ErrorShape> {
        let (key, text) = (session.key.clone(), settings.to_string());
        self.assistant
            .store
            .write(move |tx| tx.agents().set_settings(&key, &text, archived))
            .await
            .map_err(|error| unavailable(&error))
    }

    async fn patch(&self) -> Result<Value, ErrorShape> {
        let key = self.key("key");
        self.known_agent(&key)?;
        let session = self.open(&key).await?;
        let mut settings = rows::settings(&session);
        let mut archived = session.archived;
        for (name, value) in self.params.as_object().into_iter().flatten() {
            match name.as_str() {
                "key" | "agentId" => {}
                "archived" => archived = value == true,
                "model" if value.is_string() => {
                    let named = value.as_str().unwrap_or_default();
                    self.assistant
                        .model(&self.app, &session.agent, Some(named))
                        .map_err(|error| ErrorShape::invalid_request(error.to_string()))?;
                    settings[name] = value.clone();
                }
                "label" | "displayName" | "pinned" | "category" | "color" | "icon" | "model" => {
                    settings[name] = value.clone();
                }
                other => {
                    return Err(ErrorShape::invalid_request(format!(
                        "sessions.patch: {other} is not supported for agents that run in this gateway"
                    )));
                }
            }
        }
        self.keep_settings(&session, &settings, archived).await?;
        let session = self.open(&key).await?;
        events::session_changed(&self.app, &self.assistant, &session, "patch");
        let row = rows::session(&self.app, &self.assistant, &session);
        Ok(json!({ "ok": true, "key": key, "entry": row }))
    }

    async fn reset(&self) -> Result<Value, ErrorShape> {
        let key = self.key("key");
        self.known_agent(&key)?;
        let session = self.assistant.begin_anew(&self.app, &key).await?;
        let row = rows::session(&self.app, &self.assistant, &session);
        Ok(json!({ "ok": true, "key": key, "entry": row }))
    }

    async fn delete(&self) -> Result<Value, ErrorShape> {
        let key = self.key("key");
        let facts = self.app.facts.load_full();
        let roster = facts.inputs(0, 0).roster();
        if key == roster.default_session_key() {
            return Err(ErrorShape::invalid_request(format!(
                "Cannot delete the main session ({key})."
            )));
        }
        for live in self.assistant.live_of(&key) {
            live.abort();
            live.ended().await;
        }
        let gone = key.clone();
        let session = self.assistant.session(&key).await?;
        let deleted = self
            .assistant
            .store
            .write(move |tx| tx.agents().delete(&gone))
            .await
            .map_err(|error| unavailable(&error))?;
        if let Some(session) = session {
            events::session_changed(&self.app, &self.assistant, &session, "delete");
        }
        Ok(json!({ "ok": true, "key": key, "deleted": deleted, "archived": [] }))
    }

    fn knows(&self, agent: &str) -> bool {
        let facts = self.app.facts.load();
        facts.inputs(0, 0).roster().get(agent).is_some()
    }

    /// A key must belong to an agent that is configured.
    fn known_agent(&self, key: &str) -> Result<(), ErrorShape> {
        let agent = agent_for(&self.app, key);
        if self.knows(&agent) {
            return Ok(());
        }
        Err(ErrorShape::invalid_request(format!(
            "unknown agent id \"{agent}\" in session key {key}; agents are listed under agents.entries in openclaw.json"
        )))
    }
}

fn payloads(text: &str) -> Value {
    match text.is_empty() {
        true => json!([]),
        false => json!([{ "text": text, "mediaUrl": null }]),
    }
}

fn waited(run_id: &str, outcome: &Outcome) -> Value {
    let mut answer = json!({ "runId": run_id, "endedAt": outcome.ended_ms });
    match outcome.state {
        RunState::Ok => {
            let mut receipt = outcome.receipt.clone();
            receipt["terminalDisposition"] = json!("visible");
            answer["status"] = json!("ok");
            if !outcome.is_chat {
                answer["livenessState"] = json!("working");
                answer["startedAt"] = json!(outcome.started_ms);
                answer["stopReason"] = json!(outcome.stop_reason);
            }
            answer["terminalReceipt"] = receipt;
            answer["terminalReply"] = json!({ "disposition": "visible", "text": outcome.text });
        }
        state => {
            answer["status"] = json!("error");
            answer["error"] = json!(outcome.error);
            if state == RunState::Aborted {
                answer["stopReason"] = json!("rpc");
            }
        }
    }
    answer
}

/// Attached pictures, as base64; anything else is refused by name.
fn images(attachments: &Value) -> Result<Vec<Image>, ErrorShape> {
    let refuse = |what: String| Err(ErrorShape::invalid_request(what));
    let mut images = Vec::new();
    let mut bytes = 0;
    for (index, attachment) in attachments.as_array().into_iter().flatten().enumerate() {
        let text = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| attachment[*name].as_str())
                .map(str::to_owned)
        };
        let mime = text(&["mimeType", "mime", "contentType"]).unwrap_or_default();
        let Some(data) = text(&["content", "data", "base64"]) else {
            return refuse(format!("attachments[{index}]: no content"));
        };
        if !mime.starts_with("image/") {
            return refuse(format!(
                "attachments[{index}]: {} can't be shown to a model here; pictures can",
                if mime.is_empty() {
                    "a file of unknown type"
                } else {
                    &mime
                }
            ));
        }
        let data = match data.split_once(";base64,") {
            Some((_, data)) => data.to_owned(),
            None => data,
        };
        bytes += data.len();
        if bytes > IMAGE_BYTES_MAX {
            return refuse(format!(
                "attachments are larger than {IMAGE_BYTES_MAX} bytes"
            ));
        }
        images.push(Image { data, mime });
    }
    Ok(images)
}
