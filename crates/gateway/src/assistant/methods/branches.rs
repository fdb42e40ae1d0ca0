//! `sessions.rewind`, `sessions.branches.*` and `sessions.fork`: a conversation that goes another way.

use serde_json::{Value, json};
use store::{AgentSession, Agents, TxError};
use wire::error::{ErrorCode, ErrorShape};

use super::super::{agent_for, clock_ms, events, rows, unavailable};
use super::Call;
use crate::schedule::when;

/// Of a session's settings.
const INHERITED: [&str; 7] = [
    "model",
    "thinkingLevel",
    "reasoningLevel",
    "queueMode",
    "queueDebounceMs",
    "queueCap",
    "queueDrop",
];

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
        let session = self.turning(Turning::Rewind).await?;
        let _turn = self.still(&session, Turning::Rewind)?;
        let wanted = self.text("entryId").unwrap_or_default().to_owned();
        let (was, entry) = (session.clone(), wanted.clone());
        let rewound = self
            .assistant
            .store
            .write(move |tx| {
                let agents = tx.agents();
                let asked = match settled(&agents, &was)? {
                    None => asked(&agents, &was, &entry)?,
                    Some(why) => Err(why),
                };
                let (from, text) = match asked {
                    Ok(asked) => asked,
                    Err(why) => return Ok(Err(why)),
                };
                let unique = uuid::Uuid::new_v4().to_string();
                agents.rewind(&was.session_id, from, &unique)?;
                Ok(Ok((turned(&agents, was)?, text)))
            })
            .await
            .map_err(|error| unavailable(&error))?;
        let (session, text) =
            rewound.map_err(|why| why.told(Turning::Rewind, &session.key, &wanted))?;
        events::session_changed(&self.app, &self.assistant, &session, "rewind");
        Ok(json!({ "editorText": text }))
    }

    pub(super) async fn switch_branch(&self) -> Result<Value, ErrorShape> {
        let session = self.turning(Turning::Switch).await?;
        let _turn = self.still(&session, Turning::Switch)?;
        let leaf = self.text("leafEntryId").unwrap_or_default().to_owned();
        let (was, wanted) = (session.clone(), leaf.clone());
        let switched = self
            .assistant
            .store
            .write(move |tx| {
                let agents = tx.agents();
                if let Some(why) = settled(&agents, &was)? {
                    return Ok(Err(why));
                }
                let last = agents.entries(&was.session_id, None, 1)?;
                if last.last().is_some_and(|entry| entry.id == wanted) {
                    return Ok(Err(Refusal::Active));
                }
                let unique = uuid::Uuid::new_v4().to_string();
                match agents.switch(&was.session_id, &wanted, &unique)? {
                    true => Ok(Ok(turned(&agents, was)?)),
                    false => Ok(Err(Refusal::NoTip)),
                }
            })
            .await
            .map_err(|error| unavailable(&error))?;
        let session = switched.map_err(|why| why.told(Turning::Switch, &session.key, &leaf))?;
        events::session_changed(&self.app, &self.assistant, &session, "branch-switch");
        Ok(json!({}))
    }

    /// The child has what was said before a message; the parent stays as it is.
    pub(super) async fn fork(&self) -> Result<Value, ErrorShape> {
        let session = self.turning(Turning::Fork).await?;
        let _turn = self.still(&session, Turning::Fork)?;
        let wanted = self.text("entryId").unwrap_or_default().to_owned();
        let agent = agent_for(&self.app, &session.key);
        let key = format!("agent:{agent}:dashboard:{}", uuid::Uuid::new_v4());
        let (child, now) = (key.clone(), clock_ms());
        let (from, entry) = (session.clone(), wanted.clone());
        let forked = self
            .assistant
            .store
            .write(move |tx| {
                let agents = tx.agents();
                let asked = match settled(&agents, &from)? {
                    None => asked(&agents, &from, &entry)?,
                    Some(why) => Err(why),
                };
                let (before, text) = match asked {
                    Ok(asked) => asked,
                    Err(why) => return Ok(Err(why)),
                };
                let fresh = uuid::Uuid::new_v4().to_string();
                let opened = agents.open(&child, &agent, &fresh, now)?;
                agents.fork(&from.session_id, before, &opened.session_id)?;
                let settings = inherited(&rows::settings(&from), &from.key);
                agents.set_settings(&child, &settings.to_string(), false)?;
                agents.set_context(&child, agents.context_left(&opened.session_id)?)?;
                Ok(Ok((agents.open(&child, &agent, &fresh, now)?, text)))
            })
            .await
            .map_err(|error| unavailable(&error))?;
        let (forked, text) =
            forked.map_err(|why| why.told(Turning::Fork, &session.key, &wanted))?;
        events::session_changed(&self.app, &self.assistant, &forked, "fork");
        Ok(json!({ "sessionKey": key, "editorText": text }))
    }

    /// The session; a child can be made of an archived one, too.
    async fn turning(&self, turning: Turning) -> Result<AgentSession, ErrorShape> {
        let key = self.key("sessionKey");
        let asked = self.text("sessionKey").unwrap_or_default();
        let session =
            self.assistant.session(&key).await?.ok_or_else(|| {
                ErrorShape::invalid_request(format!("session not found: {asked}"))
            })?;
        match session.archived && turning != Turning::Fork {
            true => Err(ErrorShape::invalid_request(format!(
                "{} is unavailable for archived sessions.",
                turning.words()
            ))),
            false => Ok(session),
        }
    }

    /// Keeps turns from beginning; refused while one works or waits.
    fn still(
        &self,
        session: &AgentSession,
        turning: Turning,
    ) -> Result<tokio::sync::OwnedMutexGuard<()>, ErrorShape> {
        let busy = || Refusal::Busy.told(turning, &session.key, "");
        let turn = self.assistant.lane(&session.key).try_lock_owned();
        let turn = turn.map_err(|_held| busy())?;
        match self.assistant.live_of(&session.key).is_empty() {
            true => Ok(turn),
            false => Err(busy()),
        }
    }
}

/// Why a conversation stays as it is.
#[derive(Clone, Copy)]
enum Refusal {
    Busy,
    /// It is another one by now.
    Changed,
    NoEntry,
    NotAsked,
    Active,
    NoTip,
}

impl Refusal {
    fn told(self, turning: Turning, key: &str, entry: &str) -> ErrorShape {
        let words = turning.words();
        ErrorShape::invalid_request(match self {
            Self::Busy => {
                let why = format!("{words} is unavailable while the agent is working.");
                return ErrorShape::new(ErrorCode::Unavailable, why);
            }
            Self::Changed => {
                let again = match turning {
                    Turning::Switch => "switch",
                    Turning::Rewind => "rewind",
                    Turning::Fork => "fork",
                };
                format!("Session {key} changed; retry {again}.")
            }
            Self::NoEntry => format!("message entry not found: {entry}"),
            Self::NotAsked => format!("entry is not a user message: {entry}"),
            Self::Active => format!("branch is already active: {entry}"),
            Self::NoTip => format!("entry is not a branch tip: {entry}"),
        })
    }
}

/// Looked at where it is written: a message is accepted without waiting for the turn that a request holds.
fn settled(agents: &Agents<'_>, was: &AgentSession) -> Result<Option<Refusal>, TxError> {
    let now = agents.session(&was.key)?;
    if now.is_none_or(|now| now.session_id != was.session_id) {
        return Ok(Some(Refusal::Changed));
    }
    Ok(agents.is_at_work(&was.key)?.then_some(Refusal::Busy))
}

/// The place of a message of a person's, and its words.
fn asked(
    agents: &Agents<'_>,
    session: &AgentSession,
    id: &str,
) -> Result<Result<(i64, String), Refusal>, TxError> {
    let Some((entry, _)) = agents.placed(&session.session_id, id)? else {
        return Ok(Err(Refusal::NoEntry));
    };
    if entry.role != "user" {
        return Ok(Err(Refusal::NotAsked));
    }
    let message: Value = serde_json::from_str(&entry.message).unwrap_or_default();
    Ok(Ok((entry.seq, rows::written(&message["content"]))))
}

/// The session once its conversation has gone another way.
fn turned(agents: &Agents<'_>, was: AgentSession) -> Result<AgentSession, TxError> {
    let tokens = agents.context_left(&was.session_id)?;
    agents.note_turned(&was.key, tokens)?;
    Ok(agents.session(&was.key)?.unwrap_or(was))
}

/// What a child takes over: how it is answered. A name, a pin and a colour are one session's alone.
pub(super) fn inherited(settings: &Value, parent: &str) -> Value {
    let mut own = json!({ "parentSessionKey": parent });
    for name in INHERITED {
        if let Some(value) = settings.get(name).filter(|value| !value.is_null()) {
            own[name] = value.clone();
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_anew_is_the_words_alone() {
        let text = |text: &str| json!({ "type": "text", "text": text });
        let content = json!([text("look\n[image: here]"), text("[image: image/png]")]);
        assert_eq!(rows::written(&content), "look\n[image: here]");
        assert_eq!(rows::written(&json!("plain")), "plain");
    }

    #[test]
    fn a_child_is_answered_as_its_parent_and_looks_like_itself() {
        let parent = json!({ "model": "a/b", "label": "x", "color": "red", "pinned": true, "queueCap": 3, "thinkingLevel": null });
        assert_eq!(
            inherited(&parent, "agent:main:main"),
            json!({ "parentSessionKey": "agent:main:main", "model": "a/b", "queueCap": 3 })
        );
    }
}
