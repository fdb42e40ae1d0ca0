//! `sessions.rewind`, `sessions.branches.*` and `sessions.fork`: a conversation that goes another way.

use serde_json::{Value, json};
use store::AgentSession;
use wire::error::{ErrorCode, ErrorShape};

use super::super::{agent_for, clock_ms, events, rows, unavailable};
use super::Call;
use crate::schedule::when;

/// What a request does to the way that is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turning {
    Rewind,
    Switch,
    Fork,
}

impl Turning {
    const fn words(self) -> &'static str {
        match self {
            Self::Rewind => "Rewind",
            Self::Switch => "Branch switch",
            Self::Fork => "Fork",
        }
    }
}

impl Call {
    pub(super) async fn branches(&self) -> Result<Value, ErrorShape> {
        let Some(session) = self.assistant.session(&self.key("sessionKey")).await? else {
            return Ok(json!({ "branches": [] }));
        };
        let branches = self
            .assistant
            .store
            .read(move |reader| reader.agents().branches(&session.session_id))
            .await
            .map_err(|error| unavailable(&error))?;
        let branches: Vec<Value> = branches
            .iter()
            .map(|branch| {
                json!({
                    "leafEntryId": branch.leaf.id,
                    "headline": rows::preview(&branch.leaf).unwrap_or_default(),
                    "messageCount": branch.entries,
                    "updatedAt": when::iso(branch.leaf.at_ms),
                    "active": branch.is_active,
                })
            })
            .collect();
        Ok(json!({ "branches": branches }))
    }

    pub(super) async fn rewind(&self) -> Result<Value, ErrorShape> {
        let session = self.turning().await?;
        let _turn = self.still(&session, Turning::Rewind)?;
        let (from, text) = self.asked_of(&session).await?;
        let id = session.session_id.clone();
        self.assistant
            .store
            .write(move |tx| {
                let unique = uuid::Uuid::new_v4().to_string();
                tx.agents().rewind(&id, from, &unique)
            })
            .await
            .map_err(|error| unavailable(&error))?;
        events::session_changed(&self.app, &self.assistant, &session, "rewind");
        Ok(json!({ "editorText": text }))
    }

    pub(super) async fn switch_branch(&self) -> Result<Value, ErrorShape> {
        let session = self.turning().await?;
        let _turn = self.still(&session, Turning::Switch)?;
        let leaf = self.text("leafEntryId").unwrap_or_default().to_owned();
        let last = self.assistant.entries(&session.session_id, 1).await?;
        if last.last().is_some_and(|entry| entry.id == leaf) {
            return Err(ErrorShape::invalid_request(format!(
                "branch is already active: {leaf}"
            )));
        }
        let (id, wanted) = (session.session_id.clone(), leaf.clone());
        let is_there = self
            .assistant
            .store
            .write(move |tx| {
                let unique = uuid::Uuid::new_v4().to_string();
                tx.agents().switch(&id, &wanted, &unique)
            })
            .await
            .map_err(|error| unavailable(&error))?;
        if !is_there {
            return Err(ErrorShape::invalid_request(format!(
                "entry is not a branch tip: {leaf}"
            )));
        }
        events::session_changed(&self.app, &self.assistant, &session, "branch-switch");
        Ok(json!({}))
    }

    /// The child has what was said before a message; the parent stays as it is.
    pub(super) async fn fork(&self) -> Result<Value, ErrorShape> {
        let session = self.turning().await?;
        let _turn = self.still(&session, Turning::Fork)?;
        let (before, text) = self.asked_of(&session).await?;
        let agent = agent_for(&self.app, &session.key);
        let key = format!("agent:{agent}:dashboard:{}", uuid::Uuid::new_v4());
        let (child, from, now) = (key.clone(), session.clone(), clock_ms());
        let forked = self
            .assistant
            .store
            .write(move |tx| {
                let agents = tx.agents();
                let fresh = uuid::Uuid::new_v4().to_string();
                let opened = agents.open(&child, &agent, &fresh, now)?;
                agents.fork(&from.session_id, before, &opened.session_id)?;
                let mut settings = rows::settings(&from);
                // A label is one session's alone.
                for name in ["label", "displayName", "pinned"] {
                    settings[name] = Value::Null;
                }
                agents.set_settings(&child, &settings.to_string(), false)?;
                agents.set_context(&child, from.context_tokens)?;
                agents.open(&child, &agent, &fresh, now)
            })
            .await
            .map_err(|error| unavailable(&error))?;
        events::session_changed(&self.app, &self.assistant, &forked, "create");
        Ok(json!({ "sessionKey": key, "editorText": text }))
    }

    async fn turning(&self) -> Result<AgentSession, ErrorShape> {
        let key = self.key("sessionKey");
        let asked = self.text("sessionKey").unwrap_or_default();
        self.assistant
            .session(&key)
            .await?
            .ok_or_else(|| ErrorShape::invalid_request(format!("session not found: {asked}")))
    }

    /// Keeps turns from beginning; refused while one works or waits.
    fn still(
        &self,
        session: &AgentSession,
        turning: Turning,
    ) -> Result<tokio::sync::OwnedMutexGuard<()>, ErrorShape> {
        let busy = || {
            ErrorShape::new(
                ErrorCode::Unavailable,
                format!(
                    "{} is unavailable while the agent is working.",
                    turning.words()
                ),
            )
        };
        let turn = self.assistant.lane(&session.key).try_lock_owned();
        let turn = turn.map_err(|_held| busy())?;
        match self.assistant.live_of(&session.key).is_empty() {
            true => Ok(turn),
            false => Err(busy()),
        }
    }

    /// The place of the message of a person's that `entryId` names, and its words.
    async fn asked_of(&self, session: &AgentSession) -> Result<(i64, String), ErrorShape> {
        let wanted = self.text("entryId").unwrap_or_default().to_owned();
        let (id, entry) = (session.session_id.clone(), wanted.clone());
        let known = self
            .assistant
            .store
            .read(move |reader| reader.agents().placed(&id, &entry))
            .await
            .map_err(|error| unavailable(&error))?;
        let Some((entry, _)) = known else {
            return Err(ErrorShape::invalid_request(format!(
                "message entry not found: {wanted}"
            )));
        };
        if entry.role != "user" {
            return Err(ErrorShape::invalid_request(format!(
                "entry is not a user message: {wanted}"
            )));
        }
        let message: Value = serde_json::from_str(&entry.message).unwrap_or_default();
        Ok((entry.seq, rows::text_of(&message["content"])))
    }
}
