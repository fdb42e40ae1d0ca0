//! What clients see of a turn while it works.

use std::sync::Arc;

use serde_json::{Value, json};
use store::{AgentSession, Entry};

use super::{Assistant, rows};
use crate::app::App;
use crate::clock;

/// Numbers and sends the events of one run.
pub(super) struct Teller {
    app: Arc<App>,
    run_id: String,
    session_key: String,
    session_id: String,
    agent: String,
    is_chat: bool,
    seq: u64,
}

impl Teller {
    pub(super) fn new(app: &Arc<App>, input: &super::Input, session_id: &str) -> Self {
        Self {
            app: Arc::clone(app),
            run_id: input.run_id.clone(),
            session_key: input.session_key.clone(),
            session_id: session_id.to_owned(),
            agent: input.agent.clone(),
            is_chat: input.is_chat,
            seq: 0,
        }
    }

    /// A step before the model is asked: told to those who chat.
    pub(super) fn status(&mut self, phase: &str) {
        if !self.is_chat {
            return;
        }
        self.seq += 1;
        let mut chat = self.chat("status");
        chat["phase"] = json!(phase);
        self.send("chat", &chat);
        self.agent("run_status", json!({ "phase": phase }), false);
    }

    pub(super) fn lifecycle(&mut self, data: Value) {
        self.seq += 1;
        self.agent("lifecycle", data, true);
    }

    pub(super) fn usage(&mut self, output_tokens: u64) {
        self.seq += 1;
        self.agent("usage", json!({ "outputTokens": output_tokens }), false);
    }

    /// More of the answer: `text` is all of it so far.
    pub(super) fn assistant(&mut self, text: &str, delta: &str) {
        self.seq += 1;
        let item = format!("{}:1", self.session_id);
        self.agent(
            "assistant",
            json!({ "text": text, "delta": delta, "itemId": item }),
            false,
        );
        let mut chat = self.chat("delta");
        chat["deltaText"] = json!(delta);
        chat["message"] = message(text);
        self.send("chat", &chat);
    }

    pub(super) fn thinking(&mut self, text: &str, delta: &str) {
        self.seq += 1;
        self.agent("thinking", json!({ "text": text, "delta": delta }), false);
    }

    pub(super) fn last(&mut self, state: &str, stop_reason: &str, text: &str) {
        let mut chat = self.chat(state);
        chat["stopReason"] = json!(stop_reason);
        if !text.is_empty() {
            chat["message"] = message(text);
        }
        self.send("chat", &chat);
    }

    pub(super) fn failed(&mut self, why: &str, provider: &str, model: &str) {
        let mut chat = self.chat("error");
        chat["errorMessage"] = json!(why);
        chat["errorDetail"] = json!({ "provider": provider, "model": model });
        self.send("chat", &chat);
    }

    fn chat(&self, state: &str) -> Value {
        json!({
            "runId": self.run_id,
            "sessionKey": self.session_key,
            "agentId": self.agent,
            "seq": self.seq,
            "state": state,
        })
    }

    fn agent(&self, stream: &str, data: Value, with_session: bool) {
        let mut payload = json!({ "runId": self.run_id, "sessionKey": self.session_key });
        if with_session {
            payload["sessionId"] = json!(self.session_id);
        }
        payload["agentId"] = json!(self.agent);
        payload["stream"] = json!(stream);
        payload["data"] = data;
        payload["seq"] = json!(self.seq);
        payload["ts"] = json!(clock::now_ms());
        if self.is_chat {
            payload["isHeartbeat"] = json!(false);
        }
        self.send("agent", &payload);
    }

    fn send(&self, event: &str, payload: &Value) {
        self.app.hub.broadcast(event, &payload.to_string(), None);
    }
}

fn message(text: &str) -> Value {
    json!({
        "role": "assistant",
        "content": [{ "type": "text", "text": text }],
        "timestamp": clock::now_ms(),
    })
}

/// A stored line, to those who follow the session.
pub(super) fn session_message(
    app: &Arc<App>,
    assistant: &Assistant,
    session: &AgentSession,
    entry: &Entry,
    position: usize,
) {
    let row = rows::session(app, assistant, session);
    let mut payload = row.clone();
    payload["sessionKey"] = json!(session.key);
    payload["message"] = rows::message(entry, position, &session.session_id);
    payload["messageId"] = json!(entry.id);
    payload["messageSeq"] = json!(position);
    payload["session"] = row;
    payload["ts"] = json!(clock::now_ms());
    app.hub
        .tell_followers("session.message", &payload.to_string(), Some(&session.key));
}

/// A session changed, to those who follow the list.
pub(super) fn session_changed(
    app: &Arc<App>,
    assistant: &Assistant,
    session: &AgentSession,
    reason: &str,
) {
    let payload = json!({
        "sessionKey": session.key,
        "agentId": session.agent,
        "reason": reason,
        "ts": clock::now_ms(),
        "session": rows::session(app, assistant, session),
    });
    app.hub
        .tell_followers("sessions.changed", &payload.to_string(), None);
}
