//! One message to the upstream over a connection of its own that may read and write and no more: whatever it says, it can't do
//! there what takes an administrator.
//!
//! A command's answer is a `final` event of `chat` under the run's id. It is also in the transcript, under the same id, where it
//! is found when the event came while nobody listened.

use std::future::Future;
use std::time::Duration;

use serde_json::{Value, json};
use wire::frame::UpstreamFrame;
use wire::websocket::Opcode;

use super::control::{CallError, KEYS_MAX, NEW_TURN};
use super::link;
use super::{Ready, link::Dialled};

const SCOPES: [&str; 2] = ["operator.read", "operator.write"];
/// Below the five minutes that the upstream knows an id for. Source: `DEDUPE_TTL_MS` in src/gateway/server-constants.ts.
const KNOWN_MS: u64 = 4 * 60 * 1000;
/// How far back in the transcript an answer is looked for.
const HISTORY_MAX: u32 = 200;

/// What is to be said, once.
#[derive(Debug)]
pub(crate) struct Errand<'a> {
    pub(crate) session_key: &'a str,
    pub(crate) text: &'a str,
    /// What goes with it, as the upstream's `attachments`.
    pub(crate) files: &'a [Value],
    /// Of the run: the upstream takes it once.
    pub(crate) id: &'a str,
    /// When it was said before, if it may have been, ms since the epoch.
    pub(crate) said_ms: Option<u64>,
    /// Said twice it does no more than said once.
    pub(crate) is_repeatable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Said(String),
    /// It ended without a word.
    Silent,
    /// It ended with this error.
    Failed(String),
    /// It was said before, and whether it was carried out can't be found out.
    InDoubt,
}

impl Errand<'_> {
    /// `mark` is awaited before it is said for the first time, and notes that it may have been from then on.
    ///
    /// # Errors
    /// As [`super::control::Control::ask`]; what `mark` answers when nothing was said.
    pub(crate) async fn run(
        &self,
        ready: &Ready,
        patience: Duration,
        mark: impl Future<Output = Result<(), CallError>>,
    ) -> Result<Ended, CallError> {
        let lost = |_elapsed| {
            CallError::Lost(format!(
                "{} was not answered within {patience:?}",
                self.text
            ))
        };
        tokio::time::timeout(patience, self.begin(ready, mark))
            .await
            .map_err(lost)?
    }

    async fn begin(
        &self,
        ready: &Ready,
        mark: impl Future<Output = Result<(), CallError>>,
    ) -> Result<Ended, CallError> {
        let not_sent = |error: &dyn std::fmt::Display| CallError::NotSent(error.to_string());
        let headers = vec![("Host".to_owned(), ready.address.to_string())];
        let mut dialled = link::dial(ready, &headers)
            .await
            .map_err(|error| not_sent(&error))?;
        let frame = dialled.backend_connect("errand", &SCOPES.map(str::to_owned), &[]);
        let hello = dialled
            .connect(&frame)
            .await
            .map_err(|error| not_sent(&error))?;
        let hello: Value = serde_json::from_str(&hello).map_err(|error| not_sent(&error))?;
        if hello["ok"] != true {
            return Err(CallError::Refused(hello["error"].to_string()));
        }
        let now = crate::clock::now_ms();
        let uptime = hello["payload"]["snapshot"]["uptimeMs"]
            .as_u64()
            .unwrap_or(0);
        // One that runs since before it was said knows whether it was.
        let is_known =
            |said: u64| now.saturating_sub(uptime) < said && now.saturating_sub(said) < KNOWN_MS;
        let again = self.said_ms.is_some_and(|said| !is_known(said));
        if self.said_ms.is_none() {
            mark.await?;
        }
        self.talk(dialled, again)
            .await
            .unwrap_or_else(|error| Err(CallError::Lost(error.to_string())))
    }

    fn send(&self, key: &str) -> Value {
        let mut params =
            json!({ "sessionKey": self.session_key, "message": self.text, "idempotencyKey": key });
        if !self.files.is_empty() {
            params["attachments"] = self.files.into();
        }
        json!({ "type": "req", "id": "send", "method": "chat.send", "params": params })
    }

    /// `again`: it may have been said to another process, or too long ago.
    async fn talk(
        &self,
        dialled: Dialled,
        again: bool,
    ) -> std::io::Result<Result<Ended, CallError>> {
        let (mut reader, mut writer) = dialled.into_parts();
        let history = json!({ "type": "req", "id": "history", "method": "chat.history",
            "params": { "sessionKey": self.session_key, "limit": HISTORY_MAX } });
        let mut number = 1;
        let mut key = self.id.to_owned();
        let mut send = self.send(&key);
        let mut is_said = !again;
        let first = if again { &history } else { &send };
        writer.feed(Opcode::Text, first.to_string().as_bytes());
        writer.flush().await?;
        let mut aside = None;
        loop {
            let text = match reader.next().await? {
                client::socket::Incoming::Text(text) => text,
                client::socket::Incoming::Ping(payload) => {
                    writer.feed(Opcode::Pong, &payload);
                    writer.flush().await?;
                    continue;
                }
                client::socket::Incoming::Closed(code, reason) => {
                    return Ok(Err(CallError::Lost(format!("closed with {code} {reason}"))));
                }
            };
            let value = |raw: Option<&serde_json::value::RawValue>| -> Value {
                raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
                    .unwrap_or_default()
            };
            let next = match UpstreamFrame::parse(&text) {
                Ok(UpstreamFrame::Response {
                    ok: false, error, ..
                }) => {
                    let error = value(error).to_string();
                    if number == KEYS_MAX || !error.contains(NEW_TURN) {
                        return Ok(Err(CallError::Refused(error)));
                    }
                    number += 1;
                    key = format!("{}#{number}", self.id);
                    send = self.send(&key);
                    &send
                }
                Ok(UpstreamFrame::Response { id, payload, .. }) if id == "send" => {
                    match value(payload)["status"].as_str() {
                        Some("started" | "in_flight") => continue,
                        // It had ended.
                        _ => &history,
                    }
                }
                Ok(UpstreamFrame::Response { payload, .. }) => match found(&value(payload), &key) {
                    Some(said) => return Ok(Ok(Ended::Said(said))),
                    None if is_said || !self.is_repeatable => return Ok(Ok(Ended::InDoubt)),
                    None => &send,
                },
                Ok(UpstreamFrame::Event { event, payload, .. }) if event.starts_with("chat") => {
                    let payload = value(payload);
                    if payload["runId"] != key.as_str() {
                        continue;
                    }
                    if event == "chat.side_result" {
                        aside = payload["text"].as_str().map(str::to_owned);
                    }
                    match payload["state"].as_str() {
                        Some("final") => {
                            let said = aside.or_else(|| words(&payload["message"]));
                            return Ok(Ok(said.map_or(Ended::Silent, Ended::Said)));
                        }
                        Some("error" | "aborted") => {
                            let why = payload["errorMessage"].as_str().unwrap_or("it was stopped");
                            return Ok(Ok(Ended::Failed(why.to_owned())));
                        }
                        _ => continue,
                    }
                }
                _ => continue,
            };
            is_said |= next == &send;
            writer.feed(Opcode::Text, next.to_string().as_bytes());
            writer.flush().await?;
        }
    }
}

/// The answer under an id in what `chat.history` answers.
fn found(history: &Value, id: &str) -> Option<String> {
    let mut messages = history["messages"].as_array()?.iter().rev();
    let is_answer = |message: &&Value| {
        let keys = [
            &message["idempotencyKey"],
            &message["__openclaw"]["idempotencyKey"],
        ];
        message["role"] == "assistant" && keys.iter().any(|key| **key == id)
    };
    messages.find(is_answer).and_then(words)
}

/// What a message says. `None`: nothing.
fn words(message: &Value) -> Option<String> {
    let parts = message["content"].as_array().into_iter().flatten();
    let parts: Vec<&str> = parts
        .filter(|part| part["type"] == "text")
        .filter_map(|part| part["text"].as_str())
        .collect();
    let text = match parts.is_empty() {
        true => message["content"]
            .as_str()
            .or_else(|| message["text"].as_str())?
            .to_owned(),
        false => parts.join("\n\n"),
    };
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_with_what_is_said() {
        let file = [json!({ "type": "image", "content": "" })];
        let mut errand = Errand {
            session_key: "agent:main:main",
            text: "/look",
            files: &file,
            id: "1",
            said_ms: None,
            is_repeatable: false,
        };
        assert_eq!(errand.send("1")["params"]["attachments"], json!(file));
        errand.files = &[];
        assert_eq!(errand.send("1")["params"].get("attachments"), None);
    }

    #[test]
    fn an_answer_is_found_by_its_id() {
        let said = |key: &str, text: &str| json!({ "role": "assistant", "content": [{ "type": "text", "text": text }], "__openclaw": { "idempotencyKey": key } });
        let asked = json!({ "role": "user", "content": "/status", "idempotencyKey": "2" });
        let history = json!({ "messages": [said("1", "one"), asked, said("2", " two "), said("3", "three")] });
        assert_eq!(found(&history, "2").as_deref(), Some("two"));
        assert_eq!(found(&history, "4"), None);
        assert_eq!(found(&json!({}), "1"), None);
    }

    #[test]
    fn words_of_a_message_in_either_shape() {
        let check = |message: Value, expected: Option<&str>| {
            assert_eq!(words(&message).as_deref(), expected, "{message}")
        };
        check(json!({ "content": "plain" }), Some("plain"));
        check(json!({ "text": "alone" }), Some("alone"));
        check(
            json!({ "content": [{ "type": "text", "text": "a" }, { "type": "image" }, { "type": "text", "text": "b" }] }),
            Some("a\n\nb"),
        );
        check(
            json!({ "content": [{ "type": "text", "text": " " }] }),
            None,
        );
        check(Value::Null, None);
    }
}
