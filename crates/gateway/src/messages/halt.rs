//! What does not wait its turn in a conversation: orders to stop, and commands that answer while a turn is at work.
//!
//! A stop closes its rows in the transaction that answers it, after the run was called off: a crash before that stops again, a
//! crash after it resumes nothing. Source: src/auto-reply/reply/abort-operation.ts at 2026.9.6: what waits is dropped too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{InboxRow, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::intake::{Back, Inbound};
use super::{Messages, crash_point, draft, intake, now_ms};
use crate::bridge::control::CallError;
use crate::delivery::Payload;
use crate::routing::{Route, commands, rights};

/// What the original says, also when nothing was at work. Source: `formatAbortReplyText`.
pub(super) const STOPPED: &str = "⚙️ Agent was aborted.";
/// Orders that nobody has looked at yet; one more waits in its conversation.
const URGENT_MAX: usize = 1024;
/// Rows that one stop ends.
const ENDED_MAX: usize = 1000;
/// How far back in a conversation an order to stop is looked for after a start.
const LOOK_MAX: usize = 64;
const HEADS_MAX: usize = 128;
/// Turns end the step that they are at, as a draft that is being sent.
const SETTLE: Duration = Duration::from_secs(10);
/// An upstream that is away for longer has no run of before.
const UPSTREAM_WITHIN: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_secs(1);

/// Rows that are not to be kept waiting, as they are spooled.
#[derive(Debug, Default)]
pub(super) struct Urgent(Mutex<Vec<String>>);

impl Urgent {
    pub(super) fn push(&self, id: &str) {
        let mut rows = self.0.lock();
        if rows.len() < URGENT_MAX {
            rows.push(id.to_owned());
        }
    }

    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

/// Rows that are worked on, each with what ends its work.
#[derive(Debug, Default)]
pub(super) struct Working {
    rows: Mutex<HashMap<String, CancellationToken>>,
    left: Notify,
}

/// One of them, until this goes.
pub(super) struct Work<'a> {
    working: &'a Working,
    id: &'a str,
    pub(super) halted: CancellationToken,
    /// It did not wait for what came before it in its conversation: unless it is an order, it has to.
    pub(super) is_ahead: bool,
}

impl Working {
    pub(super) fn enter<'a>(&'a self, id: &'a str) -> Work<'a> {
        let halted = CancellationToken::new();
        self.rows.lock().insert(id.to_owned(), halted.clone());
        Work {
            working: self,
            id,
            halted,
            is_ahead: false,
        }
    }

    /// Ends the work on these and waits until nobody is at it.
    async fn end(&self, ids: &[String]) {
        let gone = async {
            loop {
                let left = self.left.notified();
                tokio::pin!(left);
                left.as_mut().enable();
                let is_left = {
                    let rows = self.rows.lock();
                    let tokens = ids.iter().filter_map(|id| rows.get(id));
                    tokens.inspect(|token| token.cancel()).count() > 0
                };
                if !is_left {
                    return;
                }
                left.await;
            }
        };
        if tokio::time::timeout(SETTLE, gone).await.is_err() {
            tracing::warn!("a turn that was stopped is still at its last step");
        }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.working.rows.lock().remove(self.id);
        self.working.left.notify_waiters();
    }
}

pub(super) fn order(row: &InboxRow) -> Option<commands::Order> {
    match serde_json::from_str(&row.payload) {
        Ok(Inbound::Channel(message)) => commands::read(&message),
        Ok(Inbound::Api(_)) | Err(_) => None,
    }
}

/// Orders to stop that wait behind a row, as after a crash.
pub(super) async fn behind(
    messages: &Messages,
    row: &InboxRow,
) -> Result<Vec<InboxRow>, StoreError> {
    let (lane, id) = (row.lane.clone(), row.id.clone());
    let mut rows = messages
        .store
        .read(move |reader| reader.inbox().behind(&lane, &id, LOOK_MAX))
        .await?;
    rows.retain(|row| {
        let kind = order(row).map(|order| order.kind);
        matches!(kind, Some(commands::Kind::Stop | commands::Kind::StopWord))
    });
    Ok(rows)
}

/// Those that wait behind messages which are not begun yet, as one that is put off: they pass them.
pub(super) async fn look(messages: &Messages) -> Result<(), StoreError> {
    let heads = messages
        .store
        .read(|reader| reader.inbox().heads(i64::MAX, HEADS_MAX))
        .await?;
    for head in &heads {
        for stop in behind(messages, head).await? {
            messages.urgent.push(&stop.id);
        }
    }
    Ok(())
}

/// Ends what the conversation of a stop works on and what waits before it, and says so. Goes on until that is on disk.
pub(super) async fn stop(
    messages: &Arc<Messages>,
    row: &InboxRow,
    route: &Route,
    back: &Back,
    by: &str,
) -> Result<(), StoreError> {
    loop {
        match try_stop(messages, row, route, back, by).await {
            Err(error) if !messages.stop.is_cancelled() => {
                // Those that were at work are not any more, so nobody else would end them.
                tracing::error!(%error, "an order to stop could not be carried out; it is tried again");
                tokio::time::sleep(AGAIN).await;
            }
            done => return done,
        }
    }
}

async fn try_stop(
    messages: &Arc<Messages>,
    row: &InboxRow,
    route: &Route,
    back: &Back,
    by: &str,
) -> Result<(), StoreError> {
    let (id, lane, key) = (row.id.clone(), row.lane.clone(), route.session_key.clone());
    let mut ended = messages
        .store
        .read(move |reader| reader.inbox().before(&id, &lane, &key, ENDED_MAX))
        .await?;
    // What is no turn and keeps nobody waiting is answered all the same.
    ended.retain(|row| !order(row).is_some_and(|order| order.kind.is_urgent()));
    let ids: Vec<String> = ended.iter().map(|row| row.id.clone()).collect();
    // First nobody asks for the run's answer any more, then it is called off.
    messages.working.end(&ids).await;
    let told = call_off(messages, &route.session_key).await;
    crash_point!("halt.called_off");
    for row in &ended {
        draft::end(messages, row).await?;
    }
    let words = match &told {
        Ok(()) => STOPPED.to_owned(),
        Err(why) => {
            format!("⚠️ The agent could not be stopped: {why}. What it says is not sent here.")
        }
    };
    let payload = Payload {
        content: words,
        thread: back.thread.clone(),
        reply_to: back.reply_to.clone(),
        ..Payload::default()
    };
    let (id, by) = (row.id.clone(), by.to_owned());
    let reply = intake::reply(back, &payload, &id, messages.settings.load().reply_age_max);
    let halted = ended.clone();
    messages
        .store
        .write(move |tx| {
            let now = now_ms();
            for row in &halted {
                let why = match row.run_id {
                    Some(_) => format!("stopped by {by} ({id})"),
                    None => format!("not begun: {by} said stop ({id})"),
                };
                tx.inbox().halt(&row.id, &why, now)?;
            }
            let why = format!("stopped {} message(s)", halted.len());
            if tx.inbox().halt(&id, &why, now)? {
                tx.outbox().enqueue(reply, now)?;
            }
            Ok(())
        })
        .await?;
    crash_point!("halt.closed");
    messages.outbox.notify_one();
    for id in ids.into_iter().chain([row.id.clone()]) {
        drop(messages.finished.send(super::Finished {
            id: id.as_str().into(),
        }));
    }
    super::signs::show_typing(messages, back, false).await;
    Ok(())
}

/// Ends the runs of a session, whoever began them.
///
/// # Errors
/// What the upstream said instead.
async fn call_off(messages: &Messages, session_key: &str) -> Result<(), String> {
    if messages.upstream.is_off() {
        messages.abort_own(session_key);
        return Ok(());
    }
    let call = async {
        loop {
            messages.upstream.ready().await;
            let params = json!({ "sessionKey": session_key });
            match messages.upstream.call("chat.abort", params).await {
                Ok(_) => return Ok(()),
                Err(CallError::Refused(error)) => {
                    let error: Value = serde_json::from_str(&error).unwrap_or_default();
                    return Err(channels::web::head(
                        error["message"].as_str().unwrap_or("it refused"),
                    ));
                }
                Err(CallError::NotSent(_) | CallError::Lost(_)) => tokio::time::sleep(AGAIN).await,
            }
        }
    };
    // A sleeping one has nothing at work.
    if messages.upstream.word() == "asleep" {
        return Ok(());
    }
    match tokio::time::timeout(UPSTREAM_WITHIN, call).await {
        Ok(told) => told,
        Err(_elapsed) => {
            tracing::warn!(
                session_key,
                "a run was stopped while the OpenClaw gateway is away"
            );
            Ok(())
        }
    }
}

/// Who ordered it, for `why`.
pub(super) fn by(message: &channels::InboundMessage) -> String {
    rights::name(&message.sender).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_is_ended_is_waited_for() {
        let working = Arc::new(Working::default());
        let ids = ["a".to_owned(), "gone".to_owned()];
        let (begun, is_begun) = tokio::sync::oneshot::channel();
        let task = tokio::spawn({
            let working = Arc::clone(&working);
            async move {
                let work = working.enter("a");
                begun.send(()).expect("somebody waits");
                work.halted.cancelled().await;
            }
        });
        let other = working.enter("b");
        is_begun.await.expect("it began");
        working.end(&ids).await;
        task.await.expect("it ended");
        assert!(!other.halted.is_cancelled());
        assert_eq!(working.rows.lock().len(), 1);
    }

    #[test]
    fn what_is_urgent_is_taken_once() {
        let urgent = Urgent::default();
        urgent.push("a");
        assert_eq!(urgent.take(), ["a"]);
        assert!(urgent.take().is_empty());
        for n in 0..2 * URGENT_MAX {
            urgent.push(&n.to_string());
        }
        assert_eq!(urgent.take().len(), URGENT_MAX);
    }
}
