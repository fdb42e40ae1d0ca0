//! The TypeScript side as a carrier of messages and as the agent that answers them.

use std::sync::Arc;
use std::time::Duration;

use channels::web::{Http, HttpOptions};
use channels::{Receipt, SendError};
use serde_json::{Value, json};
use store::OutboxRow;
use tokio::sync::{Notify, watch};

use crate::bridge::control::{CallError, Control, KEYS_MAX, NEW_TURN};
use crate::bridge::{Ready, UpstreamState};
use crate::delivery::Payload;

/// How long the upstream may take to hand a message to its channel.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a send that takes longer is asked for.
const ASKED_MAX: usize = 3;

pub(crate) struct Upstream {
    control: Control,
    /// For those who are nobody's owner.
    people: Control,
    state: watch::Receiver<UpstreamState>,
    wake: Arc<Notify>,
    http: Http,
}

/// What an agent answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Text and files, in order.
    pub(crate) replies: Vec<Reply>,
    /// Why it did not work, when it did not.
    pub(crate) failed: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) text: String,
    pub(crate) media: Vec<String>,
}

impl Upstream {
    pub(super) fn new(
        control: Control,
        people: Control,
        state: watch::Receiver<UpstreamState>,
        wake: Arc<Notify>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            control,
            people,
            state,
            wake,
            http: Http::new(&HttpOptions::default())?,
        })
    }

    pub(crate) fn is_off(&self) -> bool {
        matches!(*self.state.borrow(), UpstreamState::Off)
    }

    pub(crate) fn word(&self) -> &'static str {
        self.state.borrow().word()
    }

    /// Its state, to be told of changes.
    pub(crate) fn watch(&self) -> watch::Receiver<UpstreamState> {
        self.state.clone()
    }

    /// Wakes it if it sleeps.
    pub(crate) fn wake(&self) {
        if matches!(*self.state.borrow(), UpstreamState::Asleep) {
            self.wake.notify_one();
        }
    }

    /// Resolves when it answers; wakes it if it sleeps. Never, when none is configured.
    pub(crate) async fn ready(&self) {
        let mut state = self.state.clone();
        loop {
            if state.borrow_and_update().ready().is_some() {
                return;
            }
            self.wake();
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Where it answers now.
    pub(crate) fn at(&self) -> Option<Ready> {
        self.state.borrow().ready().cloned()
    }

    fn epoch(&self) -> Option<u64> {
        self.state.borrow().ready().map(|ready| ready.epoch)
    }

    /// Any method, as ourselves.
    pub(crate) async fn call(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<String, CallError> {
        self.control
            .ask(method, params, false, Duration::from_secs(10))
            .await
    }

    /// Sends through its own channels, by the method `send`.
    pub(crate) async fn send(
        &self,
        row: &OutboxRow,
        payload: &Payload,
        key: &str,
    ) -> Result<Receipt, SendError> {
        if self.is_off() {
            return Err(SendError::Rejected {
                reason: format!(
                    "{} is not a channel that this gateway runs, and no OpenClaw gateway is behind it",
                    row.channel
                ),
            });
        }
        let Some(epoch) = self.epoch() else {
            self.wake();
            return Err(SendError::Retry {
                after: None,
                reason: format!("the OpenClaw gateway is {}", self.word()),
            });
        };
        let mut params = json!({
            "to": row.target, "message": payload.content, "channel": row.channel, "idempotencyKey": key,
        });
        if !row.account.is_empty() {
            params["accountId"] = row.account.as_str().into();
        }
        if !payload.media.is_empty() {
            params["mediaUrls"] = payload
                .media
                .iter()
                .map(|media| media.source.as_str())
                .collect();
        }
        for (key, value) in [
            ("threadId", &payload.thread),
            ("replyToId", &payload.reply_to),
            ("sessionKey", &payload.session_key),
        ] {
            if let Some(value) = value {
                params[key] = value.as_str().into();
            }
        }
        if payload.silent {
            params["silent"] = true.into();
        }
        let mut late = String::new();
        for _ in 0..ASKED_MAX {
            let asked = self
                .control
                .ask("send", params.clone(), false, SEND_TIMEOUT);
            match asked.await {
                Ok(answer) => return Ok(receipt(&answer, key)),
                Err(CallError::NotSent(reason)) if late.is_empty() => {
                    return Err(SendError::Retry {
                        after: None,
                        reason,
                    });
                }
                // The same process remembers the key, so asking again is harmless; a new one does not.
                Err(CallError::Late(reason)) if self.epoch() == Some(epoch) => late = reason,
                Err(CallError::Refused(error)) => return Err(refused(&error)),
                // It may have sent it before its end, or do so from its own queue when it is back.
                Err(
                    CallError::NotSent(reason) | CallError::Lost(reason) | CallError::Late(reason),
                ) => return Err(SendError::Unknown { reason }),
            }
        }
        Err(SendError::Unknown { reason: late })
    }

    /// Sends by the contract of a bridge: `POST {base}/api/legacy/message`.
    pub(crate) async fn send_legacy(
        &self,
        base: &str,
        row: &OutboxRow,
        payload: &Payload,
        key: &str,
    ) -> Result<Receipt, SendError> {
        let url = format!("{}/api/legacy/message", base.trim_end_matches('/'));
        let media: Vec<&str> = payload
            .media
            .iter()
            .map(|media| media.source.as_str())
            .collect();
        let body = json!({
            "channel": row.channel, "target": row.target, "content": payload.content, "account": row.account,
            "thread": payload.thread, "replyTo": payload.reply_to, "media": media, "idempotencyKey": key,
        });
        let sent = self
            .http
            .post(&url)?
            .header("idempotency-key", key)
            .json(&body)
            .send()
            .await;
        let response = sent.map_err(|error| channels::web::failed(&error))?;
        let (status, after) = (response.status(), channels::web::retry_after(&response));
        let body = channels::web::body(response, 64 * 1024).await?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if status.is_success() && answer["success"] == true {
            return Ok(Receipt {
                message_id: answer["message_id"].as_str().unwrap_or(key).to_owned(),
                more_ids: Vec::new(),
            });
        }
        let why = answer["error"].as_str().unwrap_or_default();
        if status.is_success() {
            return Err(SendError::Rejected {
                reason: channels::web::head(why),
            });
        }
        Err(channels::web::refused(status, after, why))
    }

    /// Begins the conversation of a session anew.
    pub(crate) async fn reset(&self, session_key: &str) -> Result<(), CallError> {
        let params = json!({ "key": session_key, "reason": "new" });
        self.control
            .ask("sessions.reset", params, false, SEND_TIMEOUT)
            .await
            .map(drop)
    }

    /// Lets OpenClaw work on the message of this id. One that was killed between taking a message and beginning with it refuses its
    /// key from then on, and asks for a new turn: nothing was done yet, so it is given the next key, which is the same after any crash.
    pub(crate) async fn turn(
        &self,
        id: &str,
        mut params: Value,
        patience: Duration,
        is_owner: bool,
    ) -> Result<Turn, CallError> {
        // OpenClaw takes whoever holds an administrator's scope for its owner, with an owner's tools.
        let who = match is_owner {
            true => &self.control,
            false => &self.people,
        };
        let mut number = 1;
        loop {
            let outcome = Self::ask(who, params.clone(), patience).await;
            let refusal = match &outcome {
                Ok(turn) => turn.failed.as_deref(),
                Err(CallError::Refused(error)) => Some(error.as_str()),
                Err(_) => None,
            };
            if number == KEYS_MAX || !refusal.is_some_and(|why| why.contains(NEW_TURN)) {
                return outcome;
            }
            number += 1;
            tracing::info!(
                id,
                number,
                "OpenClaw did not begin with a message that it took before it was killed; it is given again"
            );
            params["idempotencyKey"] = json!(format!("{id}#{number}"));
        }
    }

    /// Asks for the run of this key: asking again resumes and does not repeat.
    async fn ask(who: &Control, params: Value, patience: Duration) -> Result<Turn, CallError> {
        let answer = who.ask("agent", params, true, patience).await?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or(Value::Null);
        let payloads = answer["result"]["payloads"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let replies = payloads
            .iter()
            .map(|payload| {
                let mut media: Vec<String> = payload["mediaUrls"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect();
                if let Some(one) = payload["mediaUrl"].as_str()
                    && !media.iter().any(|url| url == one)
                {
                    media.push(one.to_owned());
                }
                Reply {
                    text: payload["text"]
                        .as_str()
                        .unwrap_or_default()
                        .trim()
                        .to_owned(),
                    media,
                }
            })
            .filter(|reply| !reply.text.is_empty() || !reply.media.is_empty())
            .collect();
        let failed = (answer["status"] != "ok").then(|| {
            let summary = answer["summary"]
                .as_str()
                .or_else(|| answer["error"].as_str());
            channels::web::head(summary.unwrap_or("the run ended with an error"))
        });
        Ok(Turn { replies, failed })
    }

    /// Puts an answer into a session's transcript, which the agent's owner keeps.
    pub(crate) async fn inject(&self, session_key: &str, text: &str) -> Result<Receipt, SendError> {
        let params = json!({ "sessionKey": session_key, "message": text });
        match self
            .control
            .ask("chat.inject", params, false, SEND_TIMEOUT)
            .await
        {
            Ok(answer) => Ok(receipt(&answer, session_key)),
            Err(CallError::NotSent(reason)) => Err(SendError::Retry {
                after: None,
                reason,
            }),
            Err(CallError::Lost(reason) | CallError::Late(reason)) => {
                Err(SendError::Unknown { reason })
            }
            Err(CallError::Refused(error)) => Err(refused(&error)),
        }
    }
}

fn receipt(answer: &str, fallback: &str) -> Receipt {
    let answer: Value = serde_json::from_str(answer).unwrap_or(Value::Null);
    Receipt {
        message_id: answer["messageId"].as_str().unwrap_or(fallback).to_owned(),
        more_ids: Vec::new(),
    }
}

/// What an error object of the upstream means for a message.
fn refused(error: &str) -> SendError {
    let error: Value = serde_json::from_str(error).unwrap_or(Value::Null);
    let reason = channels::web::head(
        error["message"]
            .as_str()
            .unwrap_or("the upstream refused without a reason"),
    );
    // It was taken into the upstream's own queue, which may have sent it already and may drop it.
    let queued = error["details"]["code"] == "OUTBOUND_DELIVERY_QUEUED"
        || error["details"]["reason"] == "OUTBOUND_DELIVERY_QUEUED";
    match error["code"].as_str() {
        _ if queued => SendError::Unknown { reason },
        Some("UNAVAILABLE") if error["retryable"] == true => SendError::Retry {
            after: error["retryAfterMs"].as_u64().map(Duration::from_millis),
            reason,
        },
        Some("AGENT_TIMEOUT") => SendError::Unknown { reason },
        _ => SendError::Rejected { reason },
    }
}
