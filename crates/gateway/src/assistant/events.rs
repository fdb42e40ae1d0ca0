//! What clients see of a turn while it works.

use std::sync::Arc;

use agent::ToolCall;
use serde_json::{Value, json};
use store::{AgentSession, Entry};

use super::exec::Progress;
use super::{Assistant, rows, tools};
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
    /// The answer of this turn that is being told, from 1.
    round: usize,
    /// The tool that was last called with arguments it doesn't take, until it or another has failed or it has worked.
    invalid: Option<String>,
}

/// A call of a tool, as clients are told of it.
pub(super) struct Tooling<'a> {
    pub(super) call: &'a ToolCall,
    pub(super) started_ms: u64,
    /// The session's row: clients that follow tools are given it along.
    pub(super) row: &'a Value,
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
            round: 0,
            invalid: None,
        }
    }

    /// The model is asked, once more.
    pub(super) fn asks(&mut self, provider: &str, model: &str) {
        self.round += 1;
        self.lifecycle(json!({ "phase": "model", "provider": provider, "model": model }));
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

    /// The conversation is compacted; `done`: it was, or was not.
    pub(super) fn compaction(&mut self, done: Option<bool>) {
        self.seq += 1;
        let data = match done {
            None => json!({ "phase": "start" }),
            Some(done) => json!({
                "phase": "end", "completed": done, "willRetry": true,
                "outcome": if done { "completed" } else { "skipped" },
            }),
        };
        self.agent("compaction", data, false);
    }

    pub(super) fn usage(&mut self, output_tokens: u64) {
        self.seq += 1;
        self.agent("usage", json!({ "outputTokens": output_tokens }), false);
    }

    /// More of the answer: `item` is all of this answer, `text` all of the turn's so far.
    pub(super) fn assistant(&mut self, item: &str, text: &str, delta: &str) {
        self.seq += 1;
        let id = format!("{}:{}", self.session_id, self.round.max(1));
        self.agent(
            "assistant",
            json!({ "text": item, "delta": delta, "itemId": id }),
            false,
        );
        let mut chat = self.chat("delta");
        chat["deltaText"] = json!(delta);
        chat["message"] = message(text);
        self.send("chat", &chat);
    }

    pub(super) fn tool_begins(&mut self, tooling: &Tooling<'_>) {
        let call = tooling.call;
        if let Some(messages) = self.app.messages() {
            messages.tool_begins(&self.run_id, &call.name);
        }
        let item = item(tooling, "start", "running");
        self.seq += 1;
        self.agent("item", item, false);
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        let data = json!({ "phase": "start", "name": call.name, "toolCallId": call.id, "args": arguments });
        self.tool(tooling, data);
    }

    /// A tool that takes its time.
    pub(super) fn tool_goes_on(&mut self, tooling: &Tooling<'_>, doing: Progress) {
        let call = tooling.call;
        let waiting = |phase: &str, id: String| json!({ "phase": phase, "approvalId": id, "toolCallId": call.id });
        match doing {
            Progress::Waits { id, ask } => {
                ask();
                self.lifecycle(waiting("waiting-approval", id));
            }
            Progress::Decided(id) => self.lifecycle(waiting("approval-resolved", id)),
            Progress::Output { text, details } => {
                let result =
                    json!({ "content": [{ "type": "text", "text": text }], "details": details });
                self.tool(
                    tooling,
                    json!({ "phase": "update", "name": call.name, "toolCallId": call.id, "partialResult": result }),
                );
                let mut item = item(tooling, "update", "running");
                if let Some(item) = item.as_object_mut() {
                    item.shift_remove("startedAt");
                }
                self.seq += 1;
                self.agent("item", item, false);
                self.command_output(tooling, "delta", "running", text.trim(), &json!({}));
            }
        }
    }

    /// What a command wrote, for those who follow commands.
    fn command_output(
        &mut self,
        tooling: &Tooling<'_>,
        phase: &str,
        status: &str,
        output: &str,
        details: &Value,
    ) {
        let call = tooling.call;
        let about = tools::about(&call.name, &call.arguments).unwrap_or_default();
        let mut data = json!({
            "itemId": format!("command:{}", call.id), "phase": phase, "title": format!("command {about}").trim(),
            "toolCallId": call.id, "name": call.name,
        });
        if !output.is_empty() {
            data["output"] = json!(output);
        }
        data["status"] = json!(status);
        for key in ["exitCode", "durationMs", "cwd"] {
            if let Some(value) = details.get(key) {
                data[key] = value.clone();
            }
        }
        self.seq += 1;
        self.agent("command_output", data, false);
    }

    pub(super) fn tool_ends(&mut self, tooling: &Tooling<'_>, answer: &tools::Answer) {
        let call = tooling.call;
        let mut data = json!({ "phase": "result", "name": call.name, "toolCallId": call.id });
        if let Some(about) = tools::about(&call.name, &call.arguments) {
            data["meta"] = json!(about);
        }
        data["isError"] = json!(answer.error.is_some());
        data["commandBearing"] = json!(call.name == "exec");
        data["result"] = json!({
            "content": [{ "type": "text", "text": answer.text }], "details": answer.details,
        });
        match &answer.error {
            Some(_) => self.invalid = answer.is_invalid.then(|| call.name.clone()),
            None if self.invalid.as_ref() == Some(&call.name) => self.invalid = None,
            None => {}
        }
        if let Some(tool) = &self.invalid {
            let summary = format!("{tool} tool validation failed: invalid arguments");
            // The original gives none that is longer.
            if summary.len() <= 160 && !summary.contains(char::is_control) {
                data["toolErrorSummary"] = json!(summary);
            }
        }
        self.tool(tooling, data);
        let has_failed = answer.details["exitCode"]
            .as_i64()
            .is_some_and(|code| code != 0);
        let status = match &answer.error {
            None if has_failed => "failed",
            None => "completed",
            Some(_) if answer.is_blocked => "blocked",
            Some(_) => "failed",
        };
        let mut item = item(tooling, "end", status);
        item["endedAt"] = json!(clock::now_ms());
        if let Some(error) = &answer.error {
            item["error"] = json!(error.lines().next().unwrap_or_default());
            // A failure is told, whatever it was that failed.
            if let Some(item) = item.as_object_mut() {
                item.remove("hideFromChannelProgress");
            }
        }
        self.seq += 1;
        self.agent("item", item, false);
        if call.name == "exec" {
            // A command's own words; what was done with them is not among them.
            let output = answer.details["aggregated"]
                .as_str()
                .unwrap_or(&answer.text);
            let status = match answer.details["status"].as_str() {
                Some("completed" | "running") => "completed",
                _ if answer.is_blocked => "blocked",
                _ => "failed",
            };
            let output = output.to_owned();
            self.command_output(tooling, "end", status, &output, &answer.details);
        }
    }

    /// To those who asked to be told of tools.
    fn tool(&mut self, tooling: &Tooling<'_>, data: Value) {
        self.seq += 1;
        let mut payload = self.event("tool", data, true);
        for (key, value) in tooling.row.as_object().into_iter().flatten() {
            if payload.get(key).is_none() {
                payload[key] = value.clone();
            }
        }
        self.app
            .hub
            .broadcast_if("agent", &payload.to_string(), None, |subscriber| {
                subscriber.wants_tools
            });
    }

    pub(super) fn thinking(&mut self, text: &str, delta: &str) {
        self.seq += 1;
        self.agent("thinking", json!({ "text": text, "delta": delta }), false);
    }

    /// Its message was answered in another run.
    pub(super) fn answered_elsewhere(&mut self) {
        self.seq += 1;
        let chat = json!({
            "runId": self.run_id, "sessionKey": self.session_key, "seq": self.seq, "state": "final",
        });
        self.send("chat", &chat);
    }

    /// It was called off; `text`: what had been said.
    pub(super) fn aborted(&mut self, text: &str, started_ms: u64) {
        self.last("aborted", "rpc", text);
        self.lifecycle(json!({
            "phase": "end", "status": "cancelled", "aborted": true, "stopReason": "rpc",
            "startedAt": started_ms, "endedAt": clock::now_ms(),
        }));
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
        self.send("agent", &self.event(stream, data, with_session));
    }

    fn event(&self, stream: &str, data: Value, with_session: bool) -> Value {
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
        } else if self.run_id.starts_with(super::HEARTBEAT_RUN) {
            payload["isHeartbeat"] = json!(true);
        }
        payload
    }

    fn send(&self, event: &str, payload: &Value) {
        self.app.hub.broadcast(event, &payload.to_string(), None);
    }
}

fn item(tooling: &Tooling<'_>, phase: &str, status: &str) -> Value {
    let call = tooling.call;
    let about = tools::about(&call.name, &call.arguments);
    let title = tools::title(&call.name);
    let mut item = json!({
        "itemId": format!("tool:{}", call.id), "toolCallId": call.id, "name": call.name, "kind": "tool",
        "phase": phase, "title": about.as_ref().map_or(title.clone(), |about| format!("{title} {about}")),
        "status": status,
    });
    if let Some(about) = about {
        item["meta"] = json!(about);
    }
    item["commandBearing"] = json!(call.name == "exec");
    if is_a_look(call) {
        item["hideFromChannelProgress"] = json!(true);
    }
    item["startedAt"] = json!(tooling.started_ms);
    item
}

/// Looking after a command is nothing to tell a chat of.
fn is_a_look(call: &ToolCall) -> bool {
    let action = || {
        serde_json::from_str::<Value>(&call.arguments).ok()?["action"]
            .as_str()
            .map(str::to_owned)
    };
    call.name == "process" && action().as_deref() == Some("poll")
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
    if rows::is_hidden(entry) {
        return;
    }
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

/// A compaction that was asked for by `sessions.compact`, to those who follow the list. `ended`: whether it was done, and
/// why not.
pub(super) fn session_operation(
    app: &App,
    session: &AgentSession,
    operation_id: &str,
    ended: Option<(bool, Option<&str>)>,
) {
    let mut payload = json!({
        "operationId": operation_id, "operation": "compact",
        "phase": if ended.is_some() { "end" } else { "start" },
        "sessionKey": session.key, "agentId": session.agent,
    });
    if let Some((completed, reason)) = ended {
        payload["completed"] = json!(completed);
        if let Some(reason) = reason {
            payload["reason"] = json!(reason);
        }
    }
    payload["ts"] = json!(clock::now_ms());
    app.hub
        .tell_followers("session.operation", &payload.to_string(), None);
}

/// A conversation was compacted, to those who follow the list.
pub(super) fn session_compacted(app: &Arc<App>, assistant: &Assistant, session: &AgentSession) {
    let payload = json!({
        "sessionKey": session.key,
        "agentId": session.agent,
        "reason": "compact",
        "compacted": true,
        "ts": clock::now_ms(),
        "session": rows::session(app, assistant, session),
    });
    app.hub
        .tell_followers("sessions.changed", &payload.to_string(), None);
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
