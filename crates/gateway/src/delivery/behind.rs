//! What goes out through the upstream: through a channel of its own, or a bridge beside it.

use std::sync::Arc;

use channels::{Receipt, SendError};
use store::OutboxRow;

use super::prepare::{self, Part, Payload};
use super::worker::{part_sent, without_draft};
use crate::messages::{Messages, Owner, crash_point};

/// Whether what goes out on this way needs an OpenClaw that is away: it is not tried, since an hour without it must cost no message
/// its tries. One that sleeps is woken.
pub(super) fn waits(messages: &Messages, owner: &Owner) -> bool {
    let is_direct = match owner {
        Owner::Native => true,
        Owner::Webchat => false,
        Owner::Upstream => messages.settings.load().legacy_url.is_some(),
    };
    if is_direct || messages.upstream.is_off() || messages.upstream.at().is_some() {
        return false;
    }
    messages.upstream.wake();
    true
}

/// Sends it whole, since who has the channel splits it; one that was begun while the account was ours goes on part by part.
pub(super) async fn send(
    messages: &Arc<Messages>,
    row: &OutboxRow,
    payload: Payload,
    receipts: &mut Vec<Receipt>,
) -> Result<(), SendError> {
    let stored = row.parts.as_deref();
    let parts = stored.and_then(|parts| serde_json::from_str::<Vec<Part>>(parts).ok());
    if let Some(parts) = parts.filter(|_| !receipts.is_empty()) {
        while receipts.len() < parts.len() {
            let n = receipts.len();
            let part = prepare::alone(&payload, &parts, n);
            receipts.push(one(messages, row, &part, &format!("{}-{n}", row.id)).await?);
            if n + 1 < parts.len() {
                part_sent(messages, row, receipts).await?;
                crash_point!("delivery.between_parts");
            }
        }
        return Ok(());
    }
    let payload = match &payload.draft {
        Some(draft) => {
            let channel = messages.hand(&row.channel, &row.account);
            without_draft(messages, row, &payload, draft, channel.as_deref()).await?
        }
        None => payload,
    };
    receipts.push(one(messages, row, &payload, &row.id).await?);
    Ok(())
}

/// `key`: by which a repeat is known.
async fn one(
    messages: &Messages,
    row: &OutboxRow,
    payload: &Payload,
    key: &str,
) -> Result<Receipt, SendError> {
    let legacy = messages.settings.load().legacy_url.clone();
    match legacy {
        Some(base) => {
            messages
                .upstream
                .send_legacy(&base, row, payload, key)
                .await
        }
        None => messages.upstream.send(row, payload, key).await,
    }
}
