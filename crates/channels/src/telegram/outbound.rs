//! Messages and actions of ours as calls of the Bot API.

use super::api::{Api, ApiError};
use crate::SendError;
use crate::markup::{self, Html};
use crate::message::{Action, Attachment, OutboundMessage, Receipt};
use serde_json::{Map, Value, json};

pub(super) async fn send(api: &Api, message: &OutboundMessage) -> Result<Receipt, SendError> {
    let mut target = message.target.clone();
    let mut rendered = true;
    // At most: as it is, without markup, and both in the chat that it became.
    for _ in 0..4 {
        let sent = match message.attachments.first() {
            None => {
                api.call("sendMessage", &text_call(message, &target, rendered))
                    .await
            }
            Some(file) => upload(api, message, file, &target, rendered).await?,
        };
        match sent {
            Ok(result) => return Ok(receipt(&result)),
            Err(ApiError::Refused {
                migrate_to: Some(chat),
                ..
            }) => target = chat.to_string(),
            // Certainly not sent: plain text is better than nothing.
            Err(ApiError::Refused {
                code: 400,
                description,
                ..
            }) if rendered && description.contains("can't parse entities") => {
                tracing::warn!(%description, "Telegram does not take our markup; sending plain text");
                rendered = false;
            }
            Err(error) => return Err(error.sending()),
        }
    }
    Err(SendError::Rejected {
        reason: "the chat keeps moving".to_owned(),
    })
}

fn receipt(result: &Value) -> Receipt {
    Receipt {
        message_id: result["message_id"]
            .as_i64()
            .map(|id| id.to_string())
            .unwrap_or_default(),
        more_ids: Vec::new(),
    }
}

fn common(message: &OutboundMessage, target: &str) -> Map<String, Value> {
    let mut call = Map::new();
    call.insert("chat_id".to_owned(), chat_id(target));
    if let Some(thread) = message
        .thread
        .as_deref()
        .and_then(|thread| thread.parse::<i64>().ok())
    {
        call.insert("message_thread_id".to_owned(), thread.into());
    }
    if let Some(reply) = message
        .reply_to
        .as_deref()
        .and_then(|id| id.parse::<i64>().ok())
    {
        // A message that was deleted meanwhile is no reason not to answer.
        let reply = json!({ "message_id": reply, "allow_sending_without_reply": true });
        call.insert("reply_parameters".to_owned(), reply);
    }
    if message.silent {
        call.insert("disable_notification".to_owned(), true.into());
    }
    if !message.buttons.is_empty() {
        let rows: Vec<Vec<Value>> = message
            .buttons
            .iter()
            .map(|row| {
                row.iter()
                    .map(|button| {
                        let is_link = button.data.starts_with("https://")
                            || button.data.starts_with("http://");
                        let key = if is_link { "url" } else { "callback_data" };
                        json!({ "text": button.text, key: button.data })
                    })
                    .collect()
            })
            .collect();
        call.insert(
            "reply_markup".to_owned(),
            json!({ "inline_keyboard": rows }),
        );
    }
    call
}

/// A number, or `@name` of a public chat.
fn chat_id(target: &str) -> Value {
    match target.parse::<i64>() {
        Ok(id) => id.into(),
        Err(_) if target.starts_with('@') => target.into(),
        Err(_) => format!("@{target}").into(),
    }
}

fn text_call(message: &OutboundMessage, target: &str, rendered: bool) -> Value {
    let mut call = common(message, target);
    if rendered {
        call.insert(
            "text".to_owned(),
            markup::html(&message.text, Html::Telegram).into(),
        );
        call.insert("parse_mode".to_owned(), "HTML".into());
    } else {
        call.insert("text".to_owned(), message.text.as_str().into());
    }
    call.into()
}

/// Outer error: the file can't be read, so nothing was sent.
async fn upload(
    api: &Api,
    message: &OutboundMessage,
    file: &Attachment,
    target: &str,
    rendered: bool,
) -> Result<Result<Value, ApiError>, SendError> {
    let (method, field) = kind(file);
    let bytes = tokio::fs::read(&file.source)
        .await
        .map_err(|error| SendError::Rejected {
            reason: format!("{}: {error}", file.source),
        })?;
    let name = file.name.clone().unwrap_or_else(|| {
        let path = std::path::Path::new(&file.source);
        path.file_name().map_or_else(
            || "file".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        )
    });
    let mut part = reqwest::multipart::Part::bytes(bytes).file_name(name);
    if let Some(mime) = &file.mime {
        part = part.mime_str(mime).map_err(|error| SendError::Rejected {
            reason: format!("{mime}: {error}"),
        })?;
    }
    let mut form = reqwest::multipart::Form::new().part(field, part);
    for (key, value) in common(message, target) {
        let text = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        form = form.text(key, text);
    }
    if !message.text.is_empty() {
        form = if rendered {
            form.text("caption", markup::html(&message.text, Html::Telegram))
                .text("parse_mode", "HTML")
        } else {
            form.text("caption", message.text.clone())
        };
    }
    Ok(api.upload(method, form).await)
}

fn kind(file: &Attachment) -> (&'static str, &'static str) {
    let mime = file.mime.as_deref().unwrap_or_default();
    match mime.split('/').next() {
        Some("audio") if file.voice => ("sendVoice", "voice"),
        Some("audio") => ("sendAudio", "audio"),
        // Source: sendPhoto takes at most 10 MB; what is no common picture goes as a file.
        Some("image")
            if matches!(mime, "image/jpeg" | "image/png" | "image/webp")
                && file.bytes.is_none_or(|n| n <= 10 * 1024 * 1024) =>
        {
            ("sendPhoto", "photo")
        }
        Some("image") if mime == "image/gif" => ("sendAnimation", "animation"),
        Some("video") if mime == "video/mp4" => ("sendVideo", "video"),
        _ => ("sendDocument", "document"),
    }
}

pub(super) async fn act(api: &Api, action: &Action) -> Result<(), SendError> {
    let id = |text: &str| {
        text.parse::<i64>()
            .map_err(|_no_number| SendError::Rejected {
                reason: format!("{text} is not the number of a message on Telegram"),
            })
    };
    let (method, call) = match action {
        Action::Typing { on: false, .. } => return Ok(()),
        Action::Typing { target, thread, .. } => {
            let mut call = json!({ "chat_id": chat_id(target), "action": "typing" });
            if let Some(thread) = thread
                .as_deref()
                .and_then(|thread| thread.parse::<i64>().ok())
            {
                call["message_thread_id"] = thread.into();
            }
            ("sendChatAction", call)
        }
        Action::React {
            target,
            message_id,
            emoji,
        } => {
            let reaction: Vec<Value> = emoji
                .iter()
                .map(|emoji| json!({ "type": "emoji", "emoji": emoji }))
                .collect();
            (
                "setMessageReaction",
                json!({ "chat_id": chat_id(target), "message_id": id(message_id)?, "reaction": reaction }),
            )
        }
        Action::Edit {
            target,
            message_id,
            text,
        } => (
            "editMessageText",
            json!({ "chat_id": chat_id(target), "message_id": id(message_id)?, "text": markup::html(text, Html::Telegram), "parse_mode": "HTML" }),
        ),
        Action::Delete { target, message_id } => (
            "deleteMessage",
            json!({ "chat_id": chat_id(target), "message_id": id(message_id)? }),
        ),
    };
    match api.call(method, &call).await {
        Ok(_) => Ok(()),
        // An edit that changes nothing has the effect that was asked for.
        Err(ApiError::Refused { description, .. })
            if description.contains("message is not modified") =>
        {
            Ok(())
        }
        Err(error) => Err(error.sending()),
    }
}
