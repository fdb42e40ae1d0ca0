//! Taking a message: the commit before the answer, and the wait for what becomes of it. Shared by the HTTP API and the
//! method `send`.

use std::sync::Arc;
use std::time::Duration;

use store::{Claim, InboxState, NewInbound, OutboxState, Spooled, StoreError};

use super::intake::{Inbound, TurnRequest};
use super::request::SendRequest;
use super::{Messages, crash_point, now_ms};
use crate::delivery::Payload;
use crate::routing::lane;

/// How long `mode: "wait"` waits for the outcome.
const WAIT: Duration = Duration::from_secs(20);
/// How long an agent's word, a job's answer or a beat's news is carried at most.
const SAID_WITHIN_MS: i64 = 60 * 60 * 1000;

/// The commit: key, row and answer in one transaction. Answers the id, and whether the key had been seen.
pub(super) async fn accept(
    messages: &Arc<Messages>,
    request: &SendRequest,
    row: store::NewOutbound,
) -> Result<(String, bool), StoreError> {
    let key = request.idempotency_key.clone();
    let fingerprint = request.fingerprint();
    let turn = request.turn.then(|| TurnRequest {
        content: request.payload.content.clone(),
        target: request.target.clone(),
        thread: request.payload.thread.clone(),
        reply_to: request.payload.reply_to.clone(),
        is_owner: request.is_owner,
    });
    crash_point!("accept.before_commit");
    let taken = messages
        .store
        .write(move |tx| {
            let now = now_ms();
            if let Some(key) = &key
                && let Claim::Seen(id) = tx.keys().claim("send", key, &fingerprint)?
            {
                return Ok((id, true));
            }
            let id = match turn {
                None => tx.outbox().enqueue(row, now)?,
                Some(turn) => {
                    let event = row.id.clone().unwrap_or_default();
                    let inbound = NewInbound {
                        lane: lane(
                            &row.channel,
                            &row.account,
                            &turn.target,
                            turn.thread.as_deref(),
                        ),
                        channel: row.channel,
                        account: row.account,
                        message_id: event.clone(),
                        event_id: event,
                        payload: serde_json::to_string(&Inbound::Api(Box::new(turn)))?,
                    };
                    match tx.inbox().spool(&inbound, now)? {
                        Spooled::New(id) | Spooled::Duplicate(id) => id,
                    }
                }
            };
            if let Some(key) = &key {
                tx.keys().settle("send", key, &fingerprint, &id, now)?;
            }
            Ok((id, false))
        })
        .await?;
    crash_point!("accept.after_commit");
    if request.turn {
        messages.inbox.notify_one();
    } else {
        messages.outbox.notify_one();
    }
    Ok(taken)
}

/// Where something is to be said that nobody asked for over an API.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) channel: String,
    /// `None`: the channel's default.
    pub(crate) account: Option<String>,
    pub(crate) target: String,
    pub(crate) thread: Option<String>,
}

/// What has become of a message that was put into the outbox.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) id: String,
    /// As in the message API: `delivered`, `queued`, `in_doubt`, `dead`.
    pub(crate) state: &'static str,
    pub(crate) error: Option<String>,
}

impl Messages {
    /// Puts a text into the outbox, once for a key, and waits a while: its state, and why when it is not delivered.
    ///
    /// # Errors
    /// Why it can't be sent at all.
    pub(crate) async fn say(
        self: &Arc<Self>,
        route: Route,
        text: &str,
        key: &str,
        source: &str,
    ) -> Result<(&'static str, Option<String>), String> {
        let request = SendRequest {
            channel: route.channel,
            account: route.account,
            target: route.target,
            payload: Payload {
                content: text.to_owned(),
                thread: route.thread,
                ..Payload::default()
            },
            idempotency_key: Some(key.to_owned()),
            wait: true,
            turn: false,
            is_owner: false,
        };
        let said = self.post(request, source).await?;
        Ok((said.state, said.error))
    }

    /// Puts a message into the outbox, once for its key, and waits a while.
    ///
    /// # Errors
    /// Why it can't be sent at all.
    pub(crate) async fn post(
        self: &Arc<Self>,
        request: SendRequest,
        source: &str,
    ) -> Result<Said, String> {
        let mut row = request
            .outbound(self, source)
            .map_err(|invalid| format!("{}: {}", invalid.field, invalid.message))?;
        // What nobody waits for any more must not stand before the rest of the chat.
        row.expires_ms = Some(now_ms() + SAID_WITHIN_MS);
        let mut finished = self.finished.subscribe();
        let (id, _) = accept(self, &request, row)
            .await
            .map_err(|error| error.to_string())?;
        let (state, error) = outcome(self, &id, false, &mut finished)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Said { id, state, error })
    }
}

/// Waits until the message has come to rest, or long enough.
pub(super) async fn outcome(
    messages: &Messages,
    id: &str,
    is_turn: bool,
    finished: &mut tokio::sync::broadcast::Receiver<super::Finished>,
) -> Result<(&'static str, Option<String>), StoreError> {
    let until = tokio::time::Instant::now() + WAIT;
    loop {
        let wanted = id.to_owned();
        let state = messages
            .store
            .read(move |reader| at_rest(reader, &wanted))
            .await?;
        if let Some(state) = state {
            return Ok(state);
        }
        loop {
            match tokio::time::timeout_at(until, finished.recv()).await {
                // An answer to a turn has an id of its own.
                Ok(Ok(done)) if &*done.id != id && !is_turn => {}
                // Ours, or so many that ours may have been missed.
                Ok(Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_))) => break,
                Ok(Err(_)) | Err(_) => return Ok(("queued", None)),
            }
        }
    }
}

/// What became of a message, or of the answers to one; `None` while something is still to come.
fn at_rest(
    reader: &store::Reader<'_>,
    id: &str,
) -> Result<Option<(&'static str, Option<String>)>, store::TxError> {
    let rests = |state| {
        matches!(
            state,
            OutboxState::Delivered | OutboxState::Dead | OutboxState::InDoubt
        )
    };
    if let Some(row) = reader.outbox().get(id)? {
        return Ok(rests(row.state).then(|| (row.state.as_str(), row.error)));
    }
    let Some(asked) = reader.inbox().get(id)? else {
        return Ok(None);
    };
    match asked.state {
        InboxState::Waiting | InboxState::Turn => Ok(None),
        InboxState::Failed => Ok(Some(("dead", asked.note))),
        InboxState::Done => {
            let answers = reader.outbox().answers(id)?;
            if answers.iter().any(|row| !rests(row.state)) {
                return Ok(None);
            }
            let bad = answers
                .into_iter()
                .find(|row| row.state != OutboxState::Delivered);
            Ok(Some(bad.map_or(("delivered", None), |row| {
                (row.state.as_str(), row.error)
            })))
        }
    }
}
