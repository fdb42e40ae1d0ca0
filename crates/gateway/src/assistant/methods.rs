//! `chat.*`, `agent*`, `sessions.*` and `models.list` of agents that run here.

mod branches;
mod create;
mod search;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use store::{AgentSession, RunState};
use wire::error::{ErrorCode, ErrorShape};
use wire::frame::response_ok;

use super::{
    Accepted, Assistant, Image, Input, Outcome, agent_for, commands, queue, rows, thinking,
    unavailable,
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
    "sessions.branches.list",
    "sessions.branches.switch",
    "sessions.compact",
    "sessions.create",
    "sessions.delete",
    "sessions.describe",
    "sessions.fork",
    "sessions.list",
    "sessions.messages.subscribe",
    "sessions.messages.unsubscribe",
    "sessions.patch",
    "sessions.preview",
    "sessions.reset",
    "sessions.resolve",
    "sessions.rewind",
    "sessions.search",
    "sessions.subscribe",
];

const HISTORY_LIMIT: usize = 200;
const HISTORY_LIMIT_MAX: usize = 1000;
const HISTORY_BYTES_MAX: usize = 6 << 20;
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
    let mut names = NAMES.iter().chain(&super::exec::methods::NAMES);
    let name = *names.find(|name| **name == method)?;
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
        if method.starts_with("models.") || matches!(method, "chat.metadata" | "chat.startup") {
            self.assistant.look(&self.app).await;
        }
        match method {
            "agent" => self.agent().await,
            "agent.wait" => tokio::select! {
                answer = self.wait() => answer,
                () = self.session.left() => Err(ErrorShape::retryable("the client is gone", None)),
            },
            "chat.abort" => Ok(self.abort("sessionKey")),
            "chat.history" | "chat.startup" => self.history().await,
            "chat.metadata" => Ok(json!({ "models": self.models(), "commands": commands::list() })),
            "chat.send" => self.send().await,
            method if method.starts_with("exec.") => {
                let call = super::exec::methods::Call {
                    app: &self.app,
                    execs: &self.assistant.execs,
                    session: &self.session,
                    id: &self.id,
                    params: &self.params,
                };
                call.serve(method).await
            }
            "commands.list" => Ok(json!({ "commands": commands::list() })),
            "models.authStatus" => Ok(self.auth_status()),
            "models.list" => Ok(json!({ "models": self.models() })),
            "sessions.abort" => Ok(self.abort("key")),
            "sessions.branches.list" => self.branches().await,
            "sessions.branches.switch" => self.switch_branch().await,
            "sessions.compact" => self.compact().await,
            "sessions.create" => self.create().await,
            "sessions.delete" => self.delete().await,
            "sessions.describe" => self.describe().await,
            "sessions.fork" => self.fork().await,
            "sessions.list" => self.list().await,
            "sessions.messages.subscribe" => Ok(self.follow(true)),
            "sessions.messages.unsubscribe" => Ok(self.follow(false)),
            "sessions.patch" => self.patch().await,
            "sessions.preview" => self.preview().await,
            "sessions.reset" => self.reset().await,
            "sessions.resolve" => self.resolve().await,
            "sessions.rewind" => self.rewind().await,
            "sessions.search" => self.search().await,
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
            queue: is_chat,
            client: self.client(),
            model: None,
            sampling: agent::Sampling {
                // What is no level is no choice.
                thinking: self
                    .text("thinking")
                    .and_then(agent::thinking::Level::parse),
                ..agent::Sampling::default()
            },
            caller_tools: Vec::new(),
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
        let mut live = self.assistant.live_of(&key);
        // What waits goes first: nothing of it is begun meanwhile.
        live.sort_by_key(|live| !live.waits());
        let runs: Vec<String> = live
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
        let (mut bytes, mut more) = (0, first > 0);
        for (index, entry) in entries.iter().enumerate().rev() {
            if rows::is_hidden(entry) {
                continue;
            }
            bytes += entry.message.len();
            if bytes > bytes_max && !messages.is_empty() {
                more = true;
                break;
            }
            messages.push(rows::message(entry, first + index + 1, &session.session_id));
        }
        messages.reverse();
        let mut info = rows::session(&self.app, &self.assistant, &session);
        info["activeLeafEntryId"] = json!(entries.last().map(|entry| &entry.id));
        // As the original: what the session or the configuration says, and nothing of the model's own.
        let thinking = info["thinkingLevel"]
            .as_str()
            .map(str::to_owned)
            .or_else(|| {
                let chosen = rows::settings(&session);
                let chosen = chosen["model"].as_str();
                let model = self
                    .assistant
                    .model(&self.app, &session.agent, chosen)
                    .ok()?;
                let facts = self.app.facts.load();
                let level = model.thinking_configured(&facts.config, &session.agent)?;
                Some(level.name().to_owned())
            });
        let pending = queue::pending(&self.assistant, &key);
        let mut answer = json!({
            "sessionKey": asked,
            "sessionId": session.session_id,
            "hasMore": more,
            "messages": null,
            "pendingInputs": { "total": pending.len(), "items": pending },
            "totalMessages": total,
            "defaults": rows::defaults(&self.app, &self.assistant, &session.agent),
            "sessionInfo": info,
        });
        // `json!` would copy them all.
        answer["messages"] = Value::Array(messages);
        if let Some(level) = thinking {
            answer["thinkingLevel"] = json!(level);
        }
        let live = self.assistant.live_of(&key);
        if let Some(live) = live.iter().find(|live| !live.waits()) {
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
        let known = self.assistant.known(&facts.config);
        let configured = known.pointer("/models/providers");
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
                        let source = reference["source"].as_str().unwrap_or("env");
                        row["apiKey"] = json!({ "source": source });
                        let secret = self.app.secret(reference);
                        if secret.is_none_or(|secret| secret.is_err()) {
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
        agent::Model::all(&self.assistant.known(&facts.config))
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
                let shown = model
                    .as_ref()
                    .map(|model| thinking::Shown::of(&facts.config, &roster.default_id, model));
                row["thinkingLevels"] = shown.as_ref().map_or_else(
                    |_| json!([{ "id": "off", "label": "off" }]),
                    thinking::Shown::levels,
                );
                row["thinkingDefault"] = json!(shown.map_or("off", |shown| shown.default().name()));
                row["available"] = json!(model.is_ok());
                Some(row)
            })
            .collect()
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
