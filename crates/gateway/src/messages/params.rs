//! A message as OpenClaw's method `agent`, and an agent of ours, take it: its text, who says it, and its pictures.

use base64::Engine as _;
use channels::message::{Attachment, ChatKind, InboundMessage};
use serde_json::{Value, json};
use store::InboxRow;

use super::Messages;
use crate::routing::{Route, commands};

/// Largest file that is shown to the agent, and how many of one message.
const IMAGE_BYTES_MAX: u64 = 5 * 1024 * 1024;
const IMAGES_MAX: usize = 4;
/// Of all of them: with what base64 adds they fit OpenClaw's frame of 25 MiB.
const IMAGES_BYTES_MAX: u64 = 18 * 1024 * 1024;

/// What a turn is asked for with. `rest`: what of a command to begin anew is left for the agent.
pub(super) async fn of(
    messages: &Messages,
    row: &InboxRow,
    route: &Route,
    message: &InboundMessage,
    rest: Option<&str>,
) -> Value {
    let reset = commands::read(message).filter(|order| order.kind == commands::Kind::Reset);
    let (text, files) = match (rest, &reset) {
        (Some(rest), _) => (rest.to_owned(), message.attachments.as_slice()),
        // The agent knows it by its beginning alone.
        (None, Some(order)) => match commands::after_reset(order) {
            Some(_) => (order.line.clone(), message.attachments.as_slice()),
            // No turn follows that could look at a file.
            None => (order.line.clone(), [].as_slice()),
        },
        (None, None) => (said(message), message.attachments.as_slice()),
    };
    with_files(messages, row, route, text, files).await
}

/// Who says what, and to what.
fn said(message: &InboundMessage) -> String {
    let mut text = String::new();
    if message.chat.kind != ChatKind::Direct {
        let name = message
            .sender
            .name
            .as_deref()
            .or(message.sender.username.as_deref())
            .unwrap_or(&message.sender.id);
        text = format!("{name}: ");
    }
    if let Some(quoted) = &message.quoted {
        text = format!("[replying to: {}]\n{text}", channels::web::head(quoted));
    }
    text.push_str(&message.text);
    text
}

/// A text with files, as of a person who sent both.
pub(super) async fn with_files(
    messages: &Messages,
    row: &InboxRow,
    route: &Route,
    mut text: String,
    files: &[Attachment],
) -> Value {
    let mut attachments = Vec::new();
    let mut room = IMAGES_BYTES_MAX;
    for file in files.iter().take(IMAGES_MAX) {
        let is_image = file
            .mime
            .as_deref()
            .is_some_and(|mime| mime.starts_with("image/"));
        let fetched = match messages.hand(&row.channel, &row.account) {
            Some(channel) if is_image => {
                let bytes_max = IMAGE_BYTES_MAX.min(room);
                channel.fetch(&file.source, bytes_max).await
            }
            _ => {
                text.push_str(&format!(
                    "\n[file: {}]",
                    file.name
                        .as_deref()
                        .or(file.mime.as_deref())
                        .unwrap_or("unnamed")
                ));
                continue;
            }
        };
        match fetched {
            Ok(bytes) => {
                room = room.saturating_sub(bytes.len() as u64);
                attachments.push(json!({
                    "type": "image",
                    "mimeType": file.mime,
                    "fileName": file.name.as_deref().unwrap_or("image"),
                    "content": base64::engine::general_purpose::STANDARD.encode(&bytes),
                }));
            }
            Err(error) => {
                tracing::warn!(id = row.id, %error, "an image could not be fetched");
                text.push_str("\n[an image that could not be fetched]");
            }
        }
    }
    if text.trim().is_empty() {
        text = "[a file without text]".to_owned();
    }
    let mut params = json!({
        "message": text, "sessionKey": route.session_key, "idempotencyKey": row.id, "deliver": false,
    });
    if !attachments.is_empty() {
        params["attachments"] = attachments.into();
    }
    params
}
