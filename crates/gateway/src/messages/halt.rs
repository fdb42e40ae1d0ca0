//! What does not wait its turn in a conversation: orders to stop, and commands that answer while a turn is at work.
//!
//! A stop closes its rows in the transaction that answers it, after the run was called off: a crash before that stops again, a
//! crash after it resumes nothing. Where OpenClaw can't be asked, the stop stays at the head of its conversation until it can.
//! Source: src/auto-reply/reply/abort-operation.ts at 2026.9.6: what waits is dropped too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{InboxRow, InboxState, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::intake::{Back, Inbound};
use super::{Messages, agents, crash_point, draft, intake, now_ms, orders};
use crate::bridge::control::CallError;
use crate::delivery::Payload;
use crate::routing::{Decision, Route, commands, rights};

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
/// How long a person waits for OpenClaw's answer before they are told that it comes later.
const UPSTREAM_WITHIN: Duration = Duration::from_secs(8);
const AGAIN: Duration = Duration::from_secs(1);
/// What is said when OpenClaw does not answer; [`STOPPED`] follows when it does.
const LATER: &str = "⚠️ OpenClaw does not answer now. What was going on is ended here and nothing of it is sent; OpenClaw is told to stop as soon as it answers.";
/// What is said when it did not for as long as a message may wait for an answer.
const UNTOLD: &str = "⚠️ OpenClaw did not answer for too long and could not be told to stop. Nothing of what was going on is sent here, but it may still be at work.";
/// Note of a stop that waits for that.
const PUT_OFF: &str = "OpenClaw does not answer: it is told to stop when it does";

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

/// Whether an open row is answered at once, whatever the conversation works on. What only looks like an order to somebody, and is a
/// text to the agent, is not.
async fn is_answered(messages: &Messages, row: &InboxRow) -> Result<bool, StoreError> {
    let Ok(Inbound::Channel(message)) = serde_json::from_str(&row.payload) else {
        return Ok(false);
    };
    let Some(order) = commands::read(&message).filter(|order| order.kind.is_urgent()) else {
        return Ok(false);
    };
    Ok(match order.kind {
        commands::Kind::StopWord => match intake::decide(messages, row, &message).await? {
            Decision::Route(route) => route.standing.commands,
            Decision::Drop { .. } | Decision::Pair => true,
        },
        commands::Kind::AtOnce if messages.upstream.is_off() => agents::is_command(&order.line),
        _ => true,
    })
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
    let open = messages
        .store
        .read(move |reader| reader.inbox().before(&id, &lane, &key, ENDED_MAX))
        .await?;
    let mut ended = Vec::with_capacity(open.len());
    for row in open {
        // What is no turn and keeps nobody waiting is answered all the same.
        if !is_answered(messages, &row).await? {
            ended.push(row);
        }
    }
    let ids: Vec<String> = ended.iter().map(|row| row.id.clone()).collect();
    // First nobody asks for the run's answer any more, then it is called off.
    messages.working.end(&ids).await;
    let was_put_off = row.note.as_deref() == Some(PUT_OFF);
    let patience = match was_put_off {
        false => UPSTREAM_WITHIN,
        // As long as a message may wait for an answer, and once more in any case, as after a long stop of ours.
        true => {
            let age = now_ms().saturating_sub(row.received_ms);
            let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
            let age_max = messages.settings.load().inbound_age_max;
            age_max.saturating_sub(age).max(UPSTREAM_WITHIN)
        }
    };
    let told = tokio::select! {
        told = tokio::time::timeout(patience, call_off(messages, &route.session_key)) => told,
        // The row stays: it is carried out at the next start.
        () = messages.stop.cancelled() => return Ok(()),
    };
    crash_point!("halt.called_off");
    for row in &ended {
        draft::end(messages, row).await?;
    }
    let is_put_off = told.is_err() && !was_put_off;
    let is_given_up = told.is_err() && was_put_off;
    let content = match &told {
        Ok(Ok(())) => STOPPED.to_owned(),
        Ok(Err(why)) => {
            format!("⚠️ The agent could not be stopped: {why}. What it says is not sent here.")
        }
        Err(_elapsed) if is_put_off => LATER.to_owned(),
        Err(_elapsed) => UNTOLD.to_owned(),
    };
    let reply_age = messages.settings.load().reply_age_max;
    let payload = Payload {
        content,
        thread: back.thread.clone(),
        reply_to: back.reply_to.clone(),
        ..Payload::default()
    };
    let reply = intake::reply(back, &payload, &row.id, reply_age);
    let (id, by) = (row.id.clone(), by.to_owned());
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
                tx.forget_cursor(&row.channel, &row.account, &orders::said_key(&row.id))?;
                tx.inbox().halt(&row.id, &why, now)?;
            }
            let is_told = match (is_put_off, is_given_up) {
                (true, _) => {
                    let state = tx.inbox().get(&id)?.map(|row| row.state);
                    let is_open = matches!(state, Some(InboxState::Waiting | InboxState::Turn));
                    if is_open {
                        tx.inbox().wait(&id, PUT_OFF, now, now)?;
                    }
                    is_open
                }
                (false, true) => {
                    let why = "OpenClaw did not answer for too long, and was not told to stop";
                    tx.inbox().halt(&id, why, now)?
                }
                (false, false) => {
                    let why = format!("stopped {} message(s)", halted.len());
                    tx.inbox().halt(&id, &why, now)?
                }
            };
            if is_told {
                tx.outbox().enqueue(reply, now)?;
            }
            Ok(())
        })
        .await?;
    crash_point!("halt.closed");
    messages.outbox.notify_one();
    let own = (!is_put_off).then(|| row.id.clone());
    for id in ids.into_iter().chain(own) {
        drop(messages.finished.send(super::Finished {
            id: id.as_str().into(),
        }));
    }
    super::signs::show_typing(messages, back, false).await;
    Ok(())
}

/// Ends the runs of a session, whoever began them. Asks until it is answered.
///
/// # Errors
/// What the upstream said instead.
async fn call_off(messages: &Messages, session_key: &str) -> Result<(), String> {
    if messages.upstream.is_off() {
        messages.abort_own(session_key);
        return Ok(());
    }
    loop {
        // A sleeping one has nothing at work.
        if messages.upstream.word() == "asleep" {
            return Ok(());
        }
        messages.upstream.ready().await;
        let params = json!({ "sessionKey": session_key });
        match messages.upstream.call("chat.abort", params).await {
            Ok(_) => return Ok(()),
            Err(CallError::Refused(error)) => {
                let error: Value = serde_json::from_str(&error).unwrap_or_default();
                // As while it is suspended.
                if error["retryable"] == true {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                return Err(channels::web::head(
                    error["message"].as_str().unwrap_or("it refused"),
                ));
            }
            Err(CallError::NotSent(_) | CallError::Lost(_) | CallError::Late(_)) => {
                tokio::time::sleep(AGAIN).await;
            }
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
