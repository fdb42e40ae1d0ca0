//! Turns by agents that run in this gateway.

use std::sync::{Arc, Weak};

use agent::ModelError;
use serde_json::Value;
use store::RunState;
use wire::error::ErrorShape;

use super::Messages;
use super::upstream::{Reply, Turn};
use crate::app::App;
use crate::assistant::{Assistant, Image, Input, Outcome};
use crate::bridge::control::CallError;
use crate::schedule::SILENT;

impl Messages {
    /// From here on agents of our own may answer.
    pub(crate) fn employ(&self, app: &Arc<App>) {
        if self.agents.set(Arc::downgrade(app)).is_err() {
            tracing::error!("the agents were introduced twice");
        }
    }

    /// The gateway whose own agents answer messages: there is no upstream, and there is a model.
    pub(super) async fn own_agents(&self, agent: &str) -> Option<Arc<App>> {
        let app = self.agents.get()?.upgrade()?;
        let assistant = app.assistant()?;
        assistant.look(&app).await;
        let model = assistant.model(&app, agent, None);
        (self.upstream.is_off() && model != Err(ModelError::None)).then_some(app)
    }

    /// Whether one may come by itself: no provider is named, so that Ollama is looked for.
    pub(super) fn may_find_agents(&self) -> bool {
        let app = self.agents.get().and_then(Weak::upgrade);
        app.is_some_and(|app| app.assistant().is_some() && Assistant::may_find(&app))
    }
}

impl Messages {
    /// Ends what agents of ours do in a session.
    pub(super) fn abort_own(&self, session_key: &str) {
        let app = self.agents.get().and_then(Weak::upgrade);
        if let Some(assistant) = app.as_ref().and_then(|app| app.assistant()) {
            let live = assistant.live_of(session_key);
            live.iter().for_each(|live| live.abort());
        }
    }
}

/// Whether agents of ours know it as a command.
pub(super) fn is_command(line: &str) -> bool {
    crate::assistant::is_command(line)
}

/// Carries out a command in a session of ours; `params` as for the upstream's `agent`. Asking again with the same id answers
/// the same.
pub(super) async fn command(
    app: &Arc<App>,
    agent: &str,
    params: &Value,
) -> Result<Turn, CallError> {
    let Some(assistant) = app.assistant() else {
        return Err(CallError::NotSent("no agent runs here".to_owned()));
    };
    done(assistant.command(app, input(agent, params)).await)
}

/// Lets an agent of ours work on a message; `params` as for the upstream's `agent`. Asking again with the same id
/// resumes and does not repeat.
pub(super) async fn turn(app: &Arc<App>, agent: &str, params: &Value) -> Result<Turn, CallError> {
    let Some(assistant) = app.assistant() else {
        return Err(CallError::NotSent("no agent runs here".to_owned()));
    };
    done(assistant.turn(app, input(agent, params)).await)
}

fn input(agent: &str, params: &Value) -> Input {
    let text = |key: &str| params[key].as_str().unwrap_or_default().to_owned();
    let images = params["attachments"].as_array();
    Input {
        run_id: text("idempotencyKey"),
        session_key: text("sessionKey"),
        agent: agent.to_owned(),
        message: text("message"),
        images: images
            .into_iter()
            .flatten()
            .map(|file| Image {
                data: file["content"].as_str().unwrap_or_default().to_owned(),
                mime: file["mimeType"].as_str().unwrap_or_default().to_owned(),
            })
            .collect(),
        extra_system: None,
        is_chat: false,
        queue: false,
        client: None,
        model: None,
        sampling: agent::Sampling::default(),
        caller_tools: Vec::new(),
    }
}

fn done(outcome: Result<Outcome, ErrorShape>) -> Result<Turn, CallError> {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            let error = serde_json::to_string(&error).unwrap_or_default();
            return Err(CallError::Refused(error));
        }
    };
    let reply = Reply {
        text: outcome.text.trim().to_owned(),
        media: Vec::new(),
    };
    let is_ok = outcome.state == RunState::Ok;
    // It has said what there was to say by its own tool, or has nothing to say.
    let is_silent = reply.text.is_empty() || reply.text == SILENT;
    Ok(Turn {
        replies: (is_ok && !is_silent).then_some(reply).into_iter().collect(),
        failed: (!is_ok).then(|| {
            outcome
                .error
                .unwrap_or_else(|| "the turn failed".to_owned())
        }),
    })
}
