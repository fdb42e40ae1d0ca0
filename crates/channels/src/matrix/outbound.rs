//! Markdown and files, to events with our delivery id as their transaction.

use super::Matrix;
use super::api::quote;
use crate::message::Attachment;
use crate::{OutboundMessage, Receipt, Reconciled, SendError, markup};
use bytes::Bytes;
use serde_json::{Value, json};

/// Pages of the room's history that are searched for a message of unknown outcome.
const RECONCILE_PAGES_MAX: usize = 3;

pub(super) async fn send(matrix: &Matrix, message: &OutboundMessage) -> Result<Receipt, SendError> {
    let room = matrix.room_of(&message.target).await?;
    let mut contents = Vec::new();
    let captioned = message.attachments.len() == 1 && !message.text.trim().is_empty();
    if !message.text.trim().is_empty() && !captioned {
        contents.push(text_content(&message.text, message.silent));
    }
    for attachment in &message.attachments {
        let caption = captioned.then_some(message.text.as_str());
        contents.push(file_content(matrix, attachment, caption).await?);
    }
    if contents.is_empty() {
        return Err(SendError::Rejected {
            reason: "neither text nor files".into(),
        });
    }
    let mut ids = Vec::new();
    for (n, content) in contents.iter_mut().enumerate() {
        if let Some(relation) = relation(message) {
            content["m.relates_to"] = relation;
        }
        let transaction = transaction(&message.delivery_id, n);
        let sent = matrix.put_event(&room, "m.room.message", &transaction, content);
        ids.push(sent.await?);
    }
    let mut ids = ids.into_iter();
    Ok(Receipt {
        message_id: ids.next().unwrap_or_default(),
        more_ids: ids.collect(),
    })
}

fn transaction(delivery_id: &str, n: usize) -> String {
    match n {
        0 => delivery_id.to_owned(),
        n => format!("{delivery_id}.{n}"),
    }
}

fn relation(message: &OutboundMessage) -> Option<Value> {
    match (&message.thread, &message.reply_to) {
        // Clients that know no threads show a reply to the thread's root instead.
        (Some(thread), reply_to) => Some(json!({
            "rel_type": "m.thread",
            "event_id": thread,
            "is_falling_back": reply_to.is_none(),
            "m.in_reply_to": { "event_id": reply_to.as_ref().unwrap_or(thread) },
        })),
        (None, Some(reply_to)) => Some(json!({ "m.in_reply_to": { "event_id": reply_to } })),
        (None, None) => None,
    }
}

/// Body, HTML and whom it mentions. A silent message is a notice, which notifies nobody.
pub(super) fn text_content(text: &str, silent: bool) -> Value {
    let users = mentioned(text);
    let mut linked = text.to_owned();
    // Inside code a link would be shown as text.
    if !text.contains('`') {
        for user in &users {
            let link = format!("[{user}](https://matrix.to/#/{user})");
            linked = linked.replace(user.as_str(), &link);
        }
    }
    json!({
        "msgtype": if silent { "m.notice" } else { "m.text" },
        "body": text,
        "format": "org.matrix.custom.html",
        "formatted_body": markup::html(&linked, markup::Html::Full),
        "m.mentions": if users.is_empty() { json!({}) } else { json!({ "user_ids": users }) },
    })
}

/// `@user:server` as words of the text.
fn mentioned(text: &str) -> Vec<String> {
    let part = |c: char| c.is_ascii_alphanumeric() || "._=-/+:".contains(c);
    let mut users: Vec<String> = Vec::new();
    for (at, _) in text.match_indices('@') {
        if text[..at]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric())
        {
            continue;
        }
        let rest = &text[at + 1..];
        let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
        let user = rest[..end].trim_end_matches(['.', ':', '-', '/', '+', '=']);
        let whole = user
            .split_once(':')
            .is_some_and(|(local, server)| !local.is_empty() && !server.is_empty());
        let user = format!("@{user}");
        // One that begins like another would be linked twice.
        if whole
            && !users
                .iter()
                .any(|u| u.starts_with(&user) || user.starts_with(u))
        {
            users.push(user);
        }
    }
    users
}

async fn file_content(
    matrix: &Matrix,
    attachment: &Attachment,
    caption: Option<&str>,
) -> Result<Value, SendError> {
    let content = read(&attachment.source, matrix.capabilities.media_bytes_max).await?;
    let size = content.len();
    let from_path = attachment.source.rsplit('/').next().unwrap_or("file");
    let name = attachment.name.as_deref().unwrap_or(from_path);
    let mime = match sniff(&content) {
        Some(found) => found,
        None => attachment
            .mime
            .as_deref()
            .unwrap_or("application/octet-stream"),
    };
    let url = matrix
        .api
        .upload(name, mime, content)
        .await
        .map_err(|f| f.error)?;
    let msgtype = match mime.split('/').next() {
        Some("image") => "m.image",
        Some("audio") => "m.audio",
        Some("video") => "m.video",
        _ => "m.file",
    };
    let mut event = json!({
        "msgtype": msgtype,
        "body": name,
        "filename": name,
        "url": url,
        "info": { "mimetype": mime, "size": size },
    });
    if let Some(caption) = caption {
        let text = text_content(caption, false);
        for key in ["body", "format", "formatted_body", "m.mentions"] {
            event[key] = text[key].clone();
        }
    }
    if attachment.voice && msgtype == "m.audio" {
        event["org.matrix.msc3245.voice"] = json!({});
    }
    Ok(event)
}

/// A local file, not larger than the account may upload.
async fn read(path: &str, bytes_max: u64) -> Result<Bytes, SendError> {
    let wrong = |reason: String| SendError::Rejected {
        reason: format!("{path}: {reason}"),
    };
    let meta = tokio::fs::metadata(path).await;
    let meta = meta.map_err(|e| wrong(e.to_string()))?;
    if !meta.is_file() {
        return Err(wrong("not a file".into()));
    }
    if meta.len() > bytes_max {
        return Err(wrong(format!("{} bytes, at most {bytes_max}", meta.len())));
    }
    let content = tokio::fs::read(path).await;
    content.map(Bytes::from).map_err(|e| wrong(e.to_string()))
}

/// What the first bytes say; a declared type may be wrong.
fn sniff(content: &[u8]) -> Option<&'static str> {
    let starts = |magic: &[u8]| content.starts_with(magic);
    let at = |from: usize, magic: &[u8]| content.get(from..).is_some_and(|c| c.starts_with(magic));
    Some(match () {
        () if starts(b"\x89PNG\r\n\x1a\n") => "image/png",
        () if starts(b"\xff\xd8\xff") => "image/jpeg",
        () if starts(b"GIF8") => "image/gif",
        () if starts(b"RIFF") && at(8, b"WEBP") => "image/webp",
        () if starts(b"RIFF") && at(8, b"WAVE") => "audio/wav",
        () if starts(b"%PDF-") => "application/pdf",
        () if starts(b"OggS") => "audio/ogg",
        () if starts(b"ID3") => "audio/mpeg",
        () if at(4, b"ftypM4A") => "audio/mp4",
        () if at(4, b"ftyp") => "video/mp4",
        () => return None,
    })
}

/// Looks for the transaction in the room's latest history; the server shows it to the device that
/// made it. Not found: a repeat is harmless anyway, the transaction id sees to it.
pub(super) async fn reconcile(
    matrix: &Matrix,
    message: &OutboundMessage,
) -> Result<Reconciled, SendError> {
    let room = matrix.room_of(&message.target).await?;
    let me = matrix.api.credentials().await.map_err(|f| f.error)?;
    let mut from = String::new();
    for _ in 0..RECONCILE_PAGES_MAX {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100{from}",
            quote(&room)
        );
        let page = matrix.api.get(&path).await.map_err(|f| f.error)?;
        let events = page["chunk"].as_array().into_iter().flatten();
        let found = events
            .filter(|e| e["sender"] == me.user.as_str())
            .find(|e| e["unsigned"]["transaction_id"] == message.delivery_id.as_str());
        if let Some(id) = found.and_then(|e| e["event_id"].as_str()) {
            return Ok(Reconciled::Arrived(Receipt {
                message_id: id.to_owned(),
                more_ids: Vec::new(),
            }));
        }
        match page["end"].as_str() {
            Some(end) => from = format!("&from={}", quote(end)),
            None => break,
        }
    }
    Ok(Reconciled::NotArrived)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn people_are_mentioned_and_linked() {
        let content = text_content("hi @amy:example.org, **see** mail@b:c", false);
        assert_eq!(
            content["m.mentions"]["user_ids"],
            json!(["@amy:example.org"])
        );
        let html = content["formatted_body"].as_str().expect("text");
        assert!(
            html.contains("<a href=\"https://matrix.to/#/@amy:example.org\">@amy:example.org</a>"),
            "{html}"
        );
        assert!(
            html.contains("<strong>see</strong>") || html.contains("<b>see</b>"),
            "{html}"
        );
    }

    proptest! {
        #[test]
        fn any_text_becomes_an_event(text in any::<String>(), near in "[@a:x. `]{0,30}") {
            text_content(&text, true);
            text_content(&near, false);
        }
    }
}
