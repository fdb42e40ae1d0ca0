//! `sessions.create`: a conversation, and its first turn if the call brings one.

use serde_json::{Value, json};
use store::AgentSession;
use wire::error::ErrorShape;

use super::super::{events, rows, thinking, unavailable};
use super::Call;
use crate::auth::sha256_hex;

/// What a session keeps of the call.
const KEPT: [&str; 4] = ["label", "displayName", "category", "model"];
/// What says nothing here, or what is looked at below. Hooks are the original's, and a parent is nothing but the session one
/// came from.
const KNOWN: [&str; 14] = [
    "key",
    "agentId",
    "idempotencyKey",
    "message",
    "task",
    "attachments",
    "parentSessionKey",
    "spawnDepth",
    "emitCommandHooks",
    "succeedsParent",
    "thinkingLevel",
    "fork",
    "forkFrom",
    // What a title may be made from; none is made here.
    "titleSource",
];
/// In a session's settings: `ONCE:PARAMS` of the call that made it, as hashes.
const MADE_BY: &str = "createRequest";

impl Call {
    /// `{ok, key, sessionId, entry, runStarted, runId?, status?, runError?}`. Source: `sessionCreateHandlers` in
    /// src/gateway/server-methods/sessions-create.ts at 2026.9.6.
    pub(super) async fn create(&self) -> Result<Value, ErrorShape> {
        self.refuse_unsupported()?;
        let once = self.once()?;
        let main = self.main_to_begin_anew();
        let key = match (&main, self.text("key")) {
            (Some(main), _) => main.clone(),
            (None, Some(_)) => self.key("key"),
            (None, None) => self.fresh_key(once.as_deref()),
        };
        self.known_agent(&key)?;
        let request = once
            .as_ref()
            .map(|once| format!("{once}:{}", sha256_hex(self.params.to_string().as_bytes())));
        let session = match self.made_before(&key, request.as_deref()).await? {
            Some(session) => session,
            None => {
                if main.is_some() {
                    self.assistant.begin_anew(&self.app, &key).await?;
                }
                self.make(&key, request.as_deref()).await?
            }
        };
        let row = rows::session(&self.app, &self.assistant, &session);
        let mut answer = json!({ "ok": true, "key": key, "sessionId": session.session_id, "entry": row, "runStarted": false });
        if let Some(turn) = self.first_turn(&key, once.as_deref()) {
            match turn.send().await {
                Ok(run) => {
                    answer["runStarted"] = json!(true);
                    answer["runId"] = run["runId"].clone();
                    answer["status"] = run["status"].clone();
                }
                // The session is there all the same, as in the original.
                Err(error) => answer["runError"] = json!(error),
            }
        }
        Ok(answer)
    }

    /// The session that this very call made already: what became of it since stays. Another call under its idempotency key is
    /// refused.
    async fn made_before(
        &self,
        key: &str,
        request: Option<&str>,
    ) -> Result<Option<AgentSession>, ErrorShape> {
        let Some(request) = request else {
            return Ok(None);
        };
        let session = self.assistant.session(key).await?;
        let before = session
            .as_ref()
            .and_then(|session| rows::settings(session)[MADE_BY].as_str().map(str::to_owned));
        let once = |text: &str| text.split(':').next().map(str::to_owned);
        match before {
            Some(before) if before == request => Ok(session),
            Some(before) if once(&before) == once(request) => Err(ErrorShape::invalid_request(
                "session creation idempotency key was reused with different parameters",
            )),
            _ => Ok(None),
        }
    }

    async fn make(&self, key: &str, request: Option<&str>) -> Result<AgentSession, ErrorShape> {
        let agent = super::agent_for(&self.app, key);
        let model = self
            .assistant
            .model(&self.app, &agent, self.text("model"))
            .map_err(|error| ErrorShape::invalid_request(error.to_string()));
        let thinking = match (self.params.get("thinkingLevel"), &model) {
            (None, _) => None,
            (Some(wanted), Ok(model)) => {
                let level = thinking::patched(wanted, model);
                Some(level.map_err(ErrorShape::invalid_request)?)
            }
            (Some(_), Err(error)) => return Err(error.clone()),
        };
        if self.text("model").is_some() {
            model?;
        }
        if let Some(label) = self.text("label") {
            self.unused_label(&agent, key, label).await?;
        }
        let parent = self.forked_from().await?;
        let session = self.open(key).await?;
        if let Some((parent, before)) = parent {
            if !self
                .assistant
                .entries(&session.session_id, 1)
                .await?
                .is_empty()
            {
                return Err(ErrorShape::invalid_request("fork requires a new session"));
            }
            self.copy(&parent, before, &session).await?;
        }
        let mut settings = rows::settings(&session);
        if let Some(request) = request {
            settings[MADE_BY] = json!(request);
        }
        if let Some(level) = thinking {
            settings["thinkingLevel"] = level;
        }
        for name in KEPT {
            if let Some(value) = self.text(name) {
                settings[name] = json!(value);
            }
        }
        self.keep_settings(&session, &settings, session.archived)
            .await?;
        let session = self.open(key).await?;
        events::session_changed(&self.app, &self.assistant, &session, "create");
        Ok(session)
    }

    /// The conversation that this one begins with, and where in it that ends.
    async fn forked_from(&self) -> Result<Option<(AgentSession, i64)>, ErrorShape> {
        if self.params["fork"] != true {
            return match self.text("forkFrom") {
                None => Ok(None),
                Some(_) => Err(ErrorShape::invalid_request("forkFrom requires fork=true")),
            };
        }
        let Some(named) = self.text("parentSessionKey") else {
            return Err(ErrorShape::invalid_request(
                "fork requires parentSessionKey",
            ));
        };
        let parent = self
            .assistant
            .session(&self.key("parentSessionKey"))
            .await?;
        let parent = parent.ok_or_else(|| {
            ErrorShape::invalid_request(format!("unknown parent session: {named}"))
        })?;
        let id = parent.session_id.clone();
        let entries = self
            .assistant
            .store
            .read(move |reader| reader.agents().entries(&id, None, usize::MAX))
            .await
            .map_err(|error| unavailable(&error))?;
        // What is being said has no answer yet.
        let is_answered = |entry: &&store::Entry| entry.role == "assistant";
        let last = match self.text("forkFrom") {
            Some(_) => entries.iter().rfind(is_answered),
            None if self.assistant.live_of(&parent.key).is_empty() => entries.last(),
            None => {
                return Err(ErrorShape::new(
                    wire::error::ErrorCode::Unavailable,
                    "Fork is unavailable while the agent is working.",
                ));
            }
        };
        let before = last.map_or(0, |entry| entry.seq + 1);
        Ok(Some((parent, before)))
    }

    async fn copy(
        &self,
        parent: &AgentSession,
        before: i64,
        session: &AgentSession,
    ) -> Result<(), ErrorShape> {
        let (from, into) = (parent.session_id.clone(), session.clone());
        self.assistant
            .store
            .write(move |tx| {
                let agents = tx.agents();
                agents.fork(&from, before, &into.session_id)?;
                let context = agents.context_left(&into.session_id)?;
                agents.set_context(&into.key, context)
            })
            .await
            .map_err(|error| unavailable(&error))
    }

    /// Nothing that was asked for is left out in silence: an incognito session that is kept would be worse than none.
    fn refuse_unsupported(&self) -> Result<(), ErrorShape> {
        let asked = self.params.as_object().into_iter().flatten();
        for (name, value) in asked {
            let is_known = KNOWN.contains(&name.as_str()) || KEPT.contains(&name.as_str());
            let says_nothing = value.is_null() || value == false;
            // With one operator nobody else is there to see it.
            let is_default = match name.as_str() {
                "visibility" => value == "shared",
                _ => false,
            };
            if !is_known && !says_nothing && !is_default {
                return Err(ErrorShape::invalid_request(format!(
                    "sessions.create: {name} is not supported for agents that run in this gateway"
                )));
            }
        }
        let has_words = ["task", "message"]
            .iter()
            .any(|name| self.text(name).is_some());
        let attachments = self.params["attachments"].as_array();
        let has_content =
            |one: &Value| one["content"].as_str().is_some_and(|text| !text.is_empty());
        if attachments
            .is_some_and(|all| !all.is_empty() && !has_words && !all.iter().any(has_content))
        {
            return Err(ErrorShape::invalid_request(
                "sessions.create attachments require usable content",
            ));
        }
        Ok(())
    }

    /// Where all direct messages share the main session, a page's new session beside it is that one begun anew.
    fn main_to_begin_anew(&self) -> Option<String> {
        let facts = self.app.facts.load();
        let shares_main = facts
            .config
            .pointer("/session/dmScope")
            .is_some_and(|scope| scope == "main");
        let is_bare = ["key", "task", "message"]
            .iter()
            .all(|name| self.text(name).is_none())
            && self.params["attachments"]
                .as_array()
                .is_none_or(Vec::is_empty);
        if !shares_main || !is_bare || self.params["emitCommandHooks"] != true {
            return None;
        }
        self.text("parentSessionKey")?;
        let parent = self.key("parentSessionKey");
        let roster = facts.inputs(0, 0).roster();
        let agent = super::agent_for(&self.app, &parent);
        (parent == roster.main_session_key(&agent)).then_some(parent)
    }

    /// What the same call must find again: whose it is, and its idempotency key.
    fn once(&self) -> Result<Option<String>, ErrorShape> {
        let Some(key) = self.text("idempotencyKey") else {
            return Ok(None);
        };
        let device = self.session.principal.device_id.as_deref();
        let owner = device.ok_or_else(|| {
            ErrorShape::invalid_request(
                "idempotent session creation requires an authenticated principal or device identity",
            )
        })?;
        Ok(Some(sha256_hex(format!("{owner}\n{key}").as_bytes())))
    }

    fn fresh_key(&self, once: Option<&str>) -> String {
        let facts = self.app.facts.load();
        let roster = facts.inputs(0, 0).roster();
        let agent = self.text("agentId").map_or_else(
            || roster.default_id.clone(),
            crate::native::agents::normalize_id,
        );
        let id = once.map_or_else(uuid::Uuid::new_v4, uuid_of);
        format!("agent:{agent}:dashboard:{id}")
    }

    /// The call that sends what the session begins with.
    fn first_turn(&self, key: &str, once: Option<&str>) -> Option<Self> {
        let with_words = ["task", "message"]
            .into_iter()
            .find(|name| self.text(name).is_some());
        let attachments = &self.params["attachments"];
        if with_words.is_none() && attachments.as_array().is_none_or(Vec::is_empty) {
            return None;
        }
        let run_id = once.map_or_else(uuid::Uuid::new_v4, uuid_of);
        Some(Self {
            app: self.app.clone(),
            assistant: self.assistant.clone(),
            session: self.session.clone(),
            id: self.id.clone(),
            params: json!({
                "sessionKey": key,
                "message": with_words.map_or(&json!(""), |name| &self.params[name]),
                "attachments": attachments,
                "idempotencyKey": run_id.to_string(),
            }),
        })
    }
}

/// The id that a hash (64 hex digits) always gives.
fn uuid_of(hash: &str) -> uuid::Uuid {
    let bytes = u128::from_str_radix(hash.get(..32).unwrap_or_default(), 16).unwrap_or_default();
    uuid::Builder::from_custom_bytes(bytes.to_be_bytes()).into_uuid()
}
