//! Messages and actions of ours as calls of the Bot API.

use super::api::{Api, ApiError};
use super::inbound::GENERAL_TOPIC;
use crate::SendError;
use crate::markup::{self, Html};
use crate::message::{Action, Attachment, OutboundMessage, Receipt};
use bytes::Bytes;
use serde_json::{Map, Value, json};

pub(super) async fn send(api: &Api, message: &OutboundMessage) -> Result<Receipt, SendError> {
    let files = read(&message.attachments).await?;
    let mut target = message.target.clone();
    let mut rendered = true;
    let mut shown = Shown::AsItIs;
    // At most: as it is, without markup, as files, and each in the chat that it became.
    for _ in 0..6 {
        let sent = match files.as_slice() {
            [] => {
                api.call("sendMessage", &text_call(message, &target, rendered))
                    .await
            }
            [file] => upload(api, message, file, &target, rendered, shown).await?,
            files => upload_album(api, message, files, &target, rendered, shown).await?,
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
            }) if rendered && is_markup(&description) => {
                tracing::warn!(%description, "Telegram does not take our markup; sending plain text");
                rendered = false;
            }
            // Certainly not sent either: a file is better than nothing.
            Err(ApiError::Refused {
                code: 400,
                description,
                ..
            }) if shown == Shown::AsItIs && is_picture(&description) => {
                tracing::warn!(%description, "Telegram does not take a file as a picture; sending it as a file");
                shown = Shown::AsFiles;
            }
            Err(error) => return Err(error.sending()),
        }
    }
    Err(SendError::Rejected {
        reason: "the chat keeps moving".to_owned(),
    })
}

/// Refused for what rendering made of the text: tags, a table wider than its Markdown, signs without content.
fn is_markup(description: &str) -> bool {
    [
        "can't parse entities",
        "is too long",
        "text is empty",
        "text must be non-empty",
    ]
    .iter()
    .any(|what| description.contains(what))
}

/// Source: sendPhoto, "at most 10 MB in size".
pub(super) const PHOTO_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// How files are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    AsItIs,
    AsFiles,
}

/// Refused for what a picture is: too long, too narrow, or not what its name says.
fn is_picture(description: &str) -> bool {
    [
        "PHOTO_INVALID_DIMENSIONS",
        "PHOTO_SAVE_FILE_INVALID",
        "PHOTO_EXT_INVALID",
        "IMAGE_PROCESS_FAILED",
    ]
    .iter()
    .any(|what| description.contains(what))
}

fn receipt(result: &Value) -> Receipt {
    // An album is a list of messages.
    let mut ids = match result.as_array() {
        Some(all) => all.iter().collect(),
        None => vec![result],
    }
    .into_iter()
    .filter_map(|message| message["message_id"].as_i64())
    .map(|id| id.to_string());
    Receipt {
        message_id: ids.next().unwrap_or_default(),
        more_ids: ids.collect(),
    }
}

fn common(message: &OutboundMessage, target: &str) -> Map<String, Value> {
    let mut call = Map::new();
    call.insert("chat_id".to_owned(), chat_id(target));
    if let Some(thread) = message
        .thread
        .as_deref()
        .and_then(|thread| thread.parse::<i64>().ok())
        // Telegram knows no thread 1 when sending: without one it goes there.
        .filter(|thread| *thread != GENERAL_TOPIC)
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

/// A file with its content, read once for all attempts.
struct File<'a> {
    attachment: &'a Attachment,
    name: String,
    bytes: Bytes,
}

impl File<'_> {
    fn part(&self) -> Result<reqwest::multipart::Part, SendError> {
        let length = self.bytes.len() as u64;
        let body = reqwest::Body::from(self.bytes.clone());
        let part =
            reqwest::multipart::Part::stream_with_length(body, length).file_name(self.name.clone());
        match &self.attachment.mime {
            None => Ok(part),
            Some(mime) => part.mime_str(mime).map_err(|error| SendError::Rejected {
                reason: format!("{mime}: {error}"),
            }),
        }
    }
}

async fn read(attachments: &[Attachment]) -> Result<Vec<File<'_>>, SendError> {
    let mut files = Vec::with_capacity(attachments.len());
    for attachment in attachments {
        let source = &attachment.source;
        let bytes = tokio::fs::read(source)
            .await
            .map_err(|error| SendError::Rejected {
                reason: format!("{source}: {error}"),
            })?;
        let name = attachment.name.clone().unwrap_or_else(|| {
            std::path::Path::new(source).file_name().map_or_else(
                || "file".to_owned(),
                |name| name.to_string_lossy().into_owned(),
            )
        });
        files.push(File {
            attachment,
            name,
            bytes: bytes.into(),
        });
    }
    Ok(files)
}

fn form(fields: Map<String, Value>) -> reqwest::multipart::Form {
    let mut form = reqwest::multipart::Form::new();
    for (key, value) in fields {
        let text = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        form = form.text(key, text);
    }
    form
}

/// Text below a file: `caption` and how to read it.
fn caption(text: &str, rendered: bool) -> Map<String, Value> {
    let mut fields = Map::new();
    if !text.is_empty() {
        let shown = match rendered {
            true => markup::html(text, Html::Telegram),
            false => text.to_owned(),
        };
        fields.insert("caption".to_owned(), shown.into());
    }
    if rendered {
        fields.insert("parse_mode".to_owned(), "HTML".into());
    }
    fields
}

/// Outer error: the file can't be sent like this, so nothing was.
async fn upload(
    api: &Api,
    message: &OutboundMessage,
    file: &File<'_>,
    target: &str,
    rendered: bool,
    shown: Shown,
) -> Result<Result<Value, ApiError>, SendError> {
    let (method, field) = kind(file.attachment, shown);
    let mut fields = common(message, target);
    fields.extend(caption(&message.text, rendered));
    let form = form(fields).part(field, file.part()?);
    Ok(api.upload(method, form, file.bytes.len() as u64).await)
}

/// Source: sendMediaGroup, "must include 2-10 items"; documents and audio only among themselves.
pub(super) const ALBUM_MAX: usize = 10;

/// Outer error: these files can't be sent together, so nothing was.
async fn upload_album(
    api: &Api,
    message: &OutboundMessage,
    files: &[File<'_>],
    target: &str,
    rendered: bool,
    shown: Shown,
) -> Result<Result<Value, ApiError>, SendError> {
    let refused = |reason: &str| SendError::Rejected {
        reason: reason.to_owned(),
    };
    if files.len() > ALBUM_MAX {
        return Err(refused("Telegram takes at most 10 files in one message"));
    }
    if !message.buttons.is_empty() {
        return Err(refused("Telegram takes no buttons below several files"));
    }
    let kinds: Vec<_> = files
        .iter()
        .map(|file| kind(file.attachment, shown).1)
        .collect();
    let is_seen = |kind: &&str| matches!(*kind, "photo" | "video");
    let alike = kinds.iter().all(is_seen)
        || kinds.iter().all(|kind| *kind == "audio")
        || kinds.iter().all(|kind| *kind == "document");
    // Anything is a document.
    let kinds = if alike {
        kinds
    } else {
        vec!["document"; files.len()]
    };
    let mut media = Vec::with_capacity(files.len());
    let mut fields = common(message, target);
    for (n, kind) in kinds.iter().enumerate() {
        let mut item = if n == 0 {
            caption(&message.text, rendered)
        } else {
            Map::new()
        };
        item.insert("type".to_owned(), (*kind).into());
        item.insert("media".to_owned(), format!("attach://file{n}").into());
        media.push(Value::Object(item));
    }
    fields.insert("media".to_owned(), media.into());
    let mut form = form(fields);
    for (n, file) in files.iter().enumerate() {
        form = form.part(format!("file{n}"), file.part()?);
    }
    let bytes = files.iter().map(|file| file.bytes.len() as u64).sum();
    Ok(api.upload("sendMediaGroup", form, bytes).await)
}

fn kind(file: &Attachment, shown: Shown) -> (&'static str, &'static str) {
    if file.as_file || shown == Shown::AsFiles {
        return ("sendDocument", "document");
    }
    let mime = file.mime.as_deref().unwrap_or_default();
    match mime.split('/').next() {
        Some("audio") if file.voice => ("sendVoice", "voice"),
        Some("audio") => ("sendAudio", "audio"),
        // What is no common picture goes as a file.
        Some("image")
            if matches!(mime, "image/jpeg" | "image/png" | "image/webp")
                && file.bytes.is_none_or(|n| n <= PHOTO_BYTES_MAX) =>
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
                // Telegram knows its reactions without the sign that asks for a picture.
                .map(|emoji| emoji.replace(['\u{fe0e}', '\u{fe0f}'], ""))
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
    let mut done = api.call(method, &call).await;
    if let (
        Action::Edit { text, .. },
        Err(ApiError::Refused {
            code: 400,
            description,
            ..
        }),
    ) = (action, &done)
        && is_markup(description)
    {
        let mut plain = call;
        plain["text"] = text.as_str().into();
        if let Some(fields) = plain.as_object_mut() {
            fields.shift_remove("parse_mode");
        }
        done = api.call(method, &plain).await;
    }
    match done {
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
