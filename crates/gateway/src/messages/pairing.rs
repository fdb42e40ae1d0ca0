//! What somebody is told whom the account does not know: a code that its owner can approve.

use channels::message::InboundMessage;
use store::{InboxRow, NewOutbound, StoreError};

use super::intake::Back;
use super::{Messages, now_ms};
use crate::delivery::Payload;
use crate::routing::lane;

pub(super) async fn offer(
    messages: &Messages,
    row: &InboxRow,
    message: &InboundMessage,
    back: &Back,
) -> Result<(), StoreError> {
    let (channel, account, sender) = (
        row.channel.clone(),
        row.account.clone(),
        message.sender.id.clone(),
    );
    let name = message
        .sender
        .username
        .clone()
        .or_else(|| message.sender.name.clone());
    let code = pairing_code();
    let text = format!(
        "I don't know you yet.\n\nYour id here: {sender}\nPairing code: {code}\n\nAsk the owner of this bot to run:\n\n    openclaw-gateway pairing approve {channel} {code}"
    );
    let payload = serde_json::to_string(&Payload {
        content: text,
        ..Payload::default()
    })
    .unwrap_or_default();
    let reply = NewOutbound {
        id: None,
        lane: lane(&back.channel, &back.account, &back.target, None),
        channel: channel.clone(),
        account: account.clone(),
        target: back.target.clone(),
        payload,
        source: "pairing".to_owned(),
        cause: Some(row.id.clone()),
        expires_ms: Some(now_ms() + 60 * 60 * 1000),
    };
    let id = row.id.clone();
    messages
        .store
        .write(move |tx| {
            let now = now_ms();
            let asked =
                tx.pairings()
                    .ask(&channel, &account, &sender, name.as_deref(), &code, now)?;
            if asked.is_some() {
                tx.outbox().enqueue(reply, now)?;
                tx.inbox()
                    .done(&id, "the sender was offered a pairing code", now)
            } else {
                tx.inbox().done(
                    &id,
                    "not answered: the sender has a pairing code already, or too many wait",
                    now,
                )
            }
        })
        .await?;
    messages.outbox.notify_one();
    Ok(())
}

/// Eight characters, none that look alike. Source: docs/channels/pairing.md.
fn pairing_code() -> String {
    const SIGNS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let mut bytes = [0_u8; 8];
    if ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).is_err() {
        bytes = uuid::Uuid::new_v4().as_bytes()[..8]
            .try_into()
            .unwrap_or(bytes);
    }
    bytes
        .iter()
        .map(|byte| char::from(SIGNS[usize::from(*byte) % SIGNS.len()]))
        .collect()
}
