//! `sessions.*`: listed, described, named, begun anew, deleted.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use store::AgentSession;
use wire::error::ErrorShape;

use super::super::compact::{self, NotCompacted};
use super::super::{agent_for, clock_ms, events, rows, thinking, unavailable};
use super::Call;
use crate::clock;
use crate::native::sessions as empty;

const LIST_LIMIT: usize = 100;

impl Call {
    pub(super) async fn list(&self) -> Result<Value, ErrorShape> {
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
        let mut describer = rows::Describer::new(&self.app, &self.assistant);
        let rows: Vec<Value> = sessions
            .iter()
            .map(|(session, last)| {
                let mut row = describer.row(session);
                if let Some(words) = last.as_ref().and_then(rows::preview) {
                    row["lastMessagePreview"] = json!(words);
                }
                row
            })
            .collect();
        let next = offset + rows.len();
        let owner = agent.unwrap_or_else(|| inputs.roster().default_id.clone());
        answer["defaults"] = rows::defaults(&self.app, &self.assistant, &owner);
        if let Ok(model) = self.assistant.model(&self.app, &owner, None)
            && let Some(defaults) = answer["defaults"].as_object_mut()
        {
            thinking::Shown::of(&facts.config, &owner, &model).put(defaults);
        }
        answer["count"] = json!(rows.len());
        answer["totalCount"] = json!(total);
        answer["hasMore"] = json!(next < total);
        answer["nextOffset"] = if next < total {
            json!(next)
        } else {
            Value::Null
        };
        answer["sessions"] = Value::Array(rows);
        Ok(answer)
    }

    pub(super) async fn subscribe(&self) -> Result<Value, ErrorShape> {
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

    pub(super) fn follow(&self, on: bool) -> Value {
        let key = self.key("key");
        self.app.hub.follow_session(&self.session.conn_id, &key, on);
        let facts = self.app.facts.load();
        let inputs = facts.inputs(clock::now_ms(), self.app.uptime_ms());
        let raw = serde_json::value::to_raw_value(&self.params).ok();
        empty::messages(&inputs, raw.as_deref(), on)
    }

    pub(super) async fn describe(&self) -> Result<Value, ErrorShape> {
        let session = self.assistant.session(&self.key("key")).await?;
        let row = session.map(|session| rows::session(&self.app, &self.assistant, &session));
        Ok(json!({ "session": row }))
    }

    pub(super) async fn preview(&self) -> Result<Value, ErrorShape> {
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

    pub(super) async fn resolve(&self) -> Result<Value, ErrorShape> {
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

    pub(super) async fn open(&self, key: &str) -> Result<AgentSession, ErrorShape> {
        let (key, agent, now) = (key.to_owned(), agent_for(&self.app, key), clock_ms());
        self.assistant
            .store
            .write(move |tx| {
                let fresh = uuid::Uuid::new_v4().to_string();
                tx.agents().open(&key, &agent, &fresh, now)
            })
            .await
            .map_err(|error| unavailable(&error))
    }

    pub(super) async fn keep_settings(
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

    pub(super) async fn patch(&self) -> Result<Value, ErrorShape> {
        let key = self.key("key");
        self.known_agent(&key)?;
        let session = self.open(&key).await?;
        let mut settings = rows::settings(&session);
        let mut archived = session.archived;
        let (mut wanted, mut unread) = (None, None);
        for (name, value) in self.params.as_object().into_iter().flatten() {
            match name.as_str() {
                "key" | "agentId" => {}
                "archived" => archived = value == true,
                "unread" => unread = value.as_bool(),
                "model" if value.is_string() => {
                    let named = value.as_str().unwrap_or_default();
                    self.assistant
                        .model(&self.app, &session.agent, Some(named))
                        .map_err(|error| ErrorShape::invalid_request(error.to_string()))?;
                    settings[name] = value.clone();
                }
                "thinkingLevel" => wanted = Some(value),
                "reasoningLevel" => {
                    let level = value.as_str().map(thinking::reasoning);
                    settings[name] = match level {
                        None => Value::Null,
                        Some(Some(level)) => json!(level),
                        Some(None) => {
                            return Err(ErrorShape::invalid_request(
                                "invalid reasoningLevel (use \"on\"|\"off\"|\"stream\")",
                            ));
                        }
                    };
                }
                "label" => {
                    let label = value.as_str().map(str::trim).unwrap_or_default();
                    self.unused_label(&session.agent, &session.key, label)
                        .await?;
                    settings[name] = value.clone();
                }
                "displayName" | "pinned" | "category" | "color" | "icon" | "model" => {
                    settings[name] = value.clone();
                }
                other => {
                    return Err(ErrorShape::invalid_request(format!(
                        "sessions.patch: {other} is not supported for agents that run in this gateway"
                    )));
                }
            }
        }
        let model = self
            .assistant
            .model(&self.app, &session.agent, settings["model"].as_str());
        if let Some(wanted) = wanted {
            let level = match &model {
                Ok(model) => thinking::patched(wanted, model),
                // Whether the model can is seen when there is one.
                Err(_) => thinking::parsed(wanted),
            };
            settings["thinkingLevel"] = level.map_err(ErrorShape::invalid_request)?;
        } else if let (Some(level), Ok(model)) = (thinking::chosen(&settings), &model)
            && self.params.get("model").is_some()
        {
            // What was chosen for another model stays as close as this one can.
            let nearest = agent::thinking::Profile::of(model).nearest(level);
            settings["thinkingLevel"] = json!(nearest.name());
        }
        self.keep_settings(&session, &settings, archived).await?;
        if let Some(unread) = unread {
            let read_ms = match unread {
                // Read, but for the last thing said.
                true => (session.updated_ms - 1).max(1),
                false => clock_ms().max(session.updated_ms),
            };
            let key = key.clone();
            self.assistant
                .store
                .write(move |tx| tx.agents().set_read(&key, read_ms))
                .await
                .map_err(|error| unavailable(&error))?;
        }
        let session = self.open(&key).await?;
        events::session_changed(&self.app, &self.assistant, &session, "patch");
        let row = rows::session(&self.app, &self.assistant, &session);
        let mut answer = json!({ "ok": true, "key": key });
        let resolves = |name: &&str| self.params.get(*name).is_some();
        if ["model", "thinkingLevel"].iter().any(resolves) {
            let mut resolved = json!({});
            for name in [
                "modelProvider",
                "model",
                "agentRuntime",
                "runtimeSelectionLocked",
                "thinkingLevel",
                "thinkingLevels",
            ] {
                // Of the levels the original tells with one that was chosen.
                let is_told = name != "thinkingLevels" || row.get("thinkingLevel").is_some();
                if let Some(value) = row.get(name).filter(|_| is_told) {
                    resolved[name] = value.clone();
                }
            }
            answer["resolved"] = resolved;
        }
        answer["entry"] = row;
        Ok(answer)
    }

    /// Two sessions of an agent don't share a label.
    pub(super) async fn unused_label(
        &self,
        agent: &str,
        key: &str,
        label: &str,
    ) -> Result<(), ErrorShape> {
        if label.is_empty() {
            return Ok(());
        }
        let (key, agent, wanted) = (key.to_owned(), agent.to_owned(), label.to_owned());
        let is_taken = self
            .assistant
            .store
            .read(move |reader| reader.agents().is_labelled(&agent, &wanted, &key))
            .await
            .map_err(|error| unavailable(&error))?;
        match is_taken {
            true => Err(ErrorShape::invalid_request(format!(
                "label already in use: {label}"
            ))),
            false => Ok(()),
        }
    }

    /// Sums up what is older in a conversation. Not while it is being worked on.
    pub(super) async fn compact(&self) -> Result<Value, ErrorShape> {
        let key = self.key("key");
        let asked = self.text("key").unwrap_or_default();
        let not =
            |reason: &str| json!({ "ok": true, "key": key, "compacted": false, "reason": reason });
        if !self.params["maxLines"].is_null() {
            return Err(ErrorShape::invalid_request(
                "sessions.compact: maxLines is not supported for agents that run in this gateway: nothing of a conversation is thrown away",
            ));
        }
        let Some(session) = self.assistant.session(&key).await? else {
            return Ok(not("no sessionId"));
        };
        if self
            .assistant
            .entries(&session.session_id, 1)
            .await?
            .is_empty()
        {
            return Ok(not("no transcript"));
        }
        let busy = || {
            ErrorShape::invalid_request(format!(
                "Session {asked} has an active run; retry after it finishes."
            ))
        };
        if self.assistant.live_of(&key).iter().any(|live| live.waits()) {
            return Err(ErrorShape::invalid_request(format!(
                "Session {asked} has queued work; retry after it finishes."
            )));
        }
        let lane = self.assistant.lane(&key);
        let _turn = lane.try_lock_owned().map_err(|_held| busy())?;
        if !self.assistant.live_of(&key).is_empty() {
            return Err(busy());
        }
        let operation = uuid::Uuid::new_v4().to_string();
        let has_begun = AtomicBool::new(false);
        let begins = || {
            has_begun.store(true, Ordering::Relaxed);
            events::session_operation(&self.app, &session, &operation, None);
        };
        let outcome = tokio::select! {
            biased;
            () = self.app.stops() => Err(NotCompacted::Failed("the gateway is stopping".to_owned())),
            asked = compact::asked(&self.app, &self.assistant, &key, None, &begins) => asked.outcome,
        };
        let answer = match &outcome {
            Ok(done) => {
                json!({ "ok": true, "key": key, "compacted": true, "result": done.answer() })
            }
            Err(why) => {
                json!({ "ok": false, "key": key, "compacted": false, "reason": why.to_string() })
            }
        };
        if has_begun.load(Ordering::Relaxed) {
            let ended = (outcome.is_ok(), answer["reason"].as_str());
            events::session_operation(&self.app, &session, &operation, Some(ended));
        }
        Ok(answer)
    }

    pub(super) async fn reset(&self) -> Result<Value, ErrorShape> {
        let key = self.key("key");
        self.known_agent(&key)?;
        let session = self.assistant.begin_anew(&self.app, &key).await?;
        let row = rows::session(&self.app, &self.assistant, &session);
        Ok(json!({ "ok": true, "key": key, "entry": row }))
    }

    pub(super) async fn delete(&self) -> Result<Value, ErrorShape> {
        let key = self.key("key");
        let facts = self.app.facts.load_full();
        let roster = facts.inputs(0, 0).roster();
        if key == roster.default_session_key() {
            return Err(ErrorShape::invalid_request(format!(
                "Cannot delete the main session ({key})."
            )));
        }
        self.assistant.call_off(&key).await;
        self.assistant.servers.retire(&key);
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
}
