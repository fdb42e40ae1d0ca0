//! Taking a message: the commit before the answer, and the wait for what becomes of it. Shared by the HTTP API and the
//! method `send`.

use std::sync::Arc;
use std::time::Duration;

use store::{Claim, NewInbound, OutboxState, Spooled, StoreError};

use super::intake::{Inbound, TurnRequest};
use super::request::SendRequest;
use super::{Messages, crash_point, now_ms};
use crate::routing::lane;

/// How long `mode: "wait"` waits for the outcome.
const WAIT: Duration = Duration::from_secs(20);

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

/// Waits until the message has come to rest, or long enough.
pub(super) async fn outcome(
    messages: &Messages,
    id: &str,
    finished: &mut tokio::sync::broadcast::Receiver<super::Finished>,
) -> Result<(&'static str, Option<String>), StoreError> {
    let until = tokio::time::Instant::now() + WAIT;
    loop {
        let wanted = id.to_owned();
        let row = messages
            .store
            .read(move |reader| reader.outbox().get(&wanted))
            .await?;
        match row {
            Some(row)
                if matches!(
                    row.state,
                    OutboxState::Delivered | OutboxState::Dead | OutboxState::InDoubt
                ) =>
            {
                return Ok((row.state.as_str(), row.error));
            }
            _ => {}
        }
        loop {
            match tokio::time::timeout_at(until, finished.recv()).await {
                Ok(Ok(done)) if &*done.id != id => {}
                // Ours, or so many that ours may have been missed.
                Ok(Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_))) => break,
                Ok(Err(_)) | Err(_) => return Ok(("queued", None)),
            }
        }
    }
}
