//! `sessions.create`: a conversation, and its first turn if the call brings one.

use serde_json::{Value, json};
use store::{AgentSession, Agents, TxError};
use wire::error::{ErrorCode, ErrorShape};

use super::super::{clock_ms, events, rows, thinking, unavailable};
use super::{Call, branches};
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

/// A session that is to be made.
struct Wanted {
    agent: String,
    /// Of its settings.
    kept: Vec<(&'static str, Value)>,
    parent: Option<AgentSession>,
    /// It begins with what the parent's has.
    is_fork: bool,
    /// With that of it which has an answer; else the parent must be at rest.
    until_completed: bool,
}

enum NotMade {
    Busy,
    NotNew,
}

impl Wanted {
    /// Once: a call that made it already finds it as it is.
    fn make(
        self,
        agents: &Agents<'_>,
        key: &str,
        request: Option<&str>,
        now: i64,
    ) -> Result<Result<AgentSession, NotMade>, TxError> {
        let fresh = uuid::Uuid::new_v4().to_string();
        let session = agents.open(key, &self.agent, &fresh, now)?;
        let mut settings = rows::settings(&session);
        if request.is_some() && settings[MADE_BY].as_str() == request {
            return Ok(Ok(session));
        }
        if let Some(parent) = &self.parent {
            if self.is_fork {
                if !agents.entries(&session.session_id, None, 1)?.is_empty() {
                    return Ok(Err(NotMade::NotNew));
                }
                if !self.until_completed && agents.is_at_work(&parent.key)? {
                    return Ok(Err(NotMade::Busy));
                }
                let end = agents.end_of(&parent.session_id, self.until_completed)?;
                agents.fork(&parent.session_id, end, &session.session_id)?;
                agents.set_context(key, agents.context_left(&session.session_id)?)?;
            }
            let inherited = branches::inherited(&rows::settings(parent), &parent.key);
            let names_model = self.kept.iter().any(|(name, _)| *name == "model");
            for (name, value) in inherited.as_object().into_iter().flatten() {
                if !names_model || name == "parentSessionKey" {
                    settings[name] = value.clone();
                }
            }
        }
        if let Some(request) = request {
            settings[MADE_BY] = json!(request);
        }
        for (name, value) in self.kept {
            settings[name] = value;
        }
        agents.set_settings(key, &settings.to_string(), session.archived)?;
        Ok(Ok(agents.open(key, &self.agent, &fresh, now)?))
    }
}

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
                let wanted = self.wanted(&key).await?;
                if main.is_some() {
                    self.assistant.begin_anew(&self.app, &key).await?;
                }
                self.make(&key, request, wanted).await?
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

    /// What the session is to be, or why it can't be that.
    async fn wanted(&self, key: &str) -> Result<Wanted, ErrorShape> {
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
        let is_fork = self.params["fork"] == true;
        let until_completed = self.text("forkFrom").is_some();
        if until_completed && !is_fork {
            return Err(ErrorShape::invalid_request("forkFrom requires fork=true"));
        }
        let parent = match self.text("parentSessionKey") {
            Some(named) => {
                let parent = self
                    .assistant
                    .session(&self.key("parentSessionKey"))
                    .await?;
                if parent.is_none() && is_fork {
                    return Err(ErrorShape::invalid_request(format!(
                        "unknown parent session: {named}"
                    )));
                }
                parent
            }
            None if is_fork => {
                return Err(ErrorShape::invalid_request(
                    "fork requires parentSessionKey",
                ));
            }
            None => None,
        };
        let kept = KEPT
            .into_iter()
            .filter_map(|name| Some((name, json!(self.text(name)?))));
        Ok(Wanted {
            agent,
            kept: kept
                .chain(thinking.map(|level| ("thinkingLevel", level)))
                .collect(),
            parent,
            is_fork,
            until_completed,
        })
    }

    async fn make(
        &self,
        key: &str,
        request: Option<String>,
        wanted: Wanted,
    ) -> Result<AgentSession, ErrorShape> {
        let (key, now) = (key.to_owned(), clock_ms());
        let asked = self.text("parentSessionKey").unwrap_or_default().to_owned();
        let made = self
            .assistant
            .store
            .write(move |tx| wanted.make(&tx.agents(), &key, request.as_deref(), now))
            .await
            .map_err(|error| unavailable(&error))?;
        let session = made.map_err(|why| match why {
            NotMade::Busy => ErrorShape::new(
                ErrorCode::Unavailable,
                format!("Parent session {asked} is still active; try again in a moment."),
            ),
            NotMade::NotNew => ErrorShape::invalid_request("fork requires a new session"),
        })?;
        events::session_changed(&self.app, &self.assistant, &session, "create");
        Ok(session)
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
        let is_fork = self.params["fork"] == true;
        if !shares_main || !is_bare || is_fork || self.params["emitCommandHooks"] != true {
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
