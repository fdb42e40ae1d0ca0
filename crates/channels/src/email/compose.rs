//! A message of ours as a mail that says who, to what it answers, and that a machine sent it.

use super::parse::clean_id;
use crate::message::Attachment;
use crate::{OutboundMessage, SendError, markup};
use mail_builder::MessageBuilder;
use mail_builder::headers::message_id::MessageId;
use mail_builder::headers::raw::Raw;

/// The Message-ID of a delivery: the same at each attempt, so that a repeat can be told.
pub(super) fn message_id(delivery_id: &str, own: &str) -> String {
    let local: String = delivery_id
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(200)
        .collect();
    let domain = own.rsplit('@').next().unwrap_or("localhost");
    format!("openclaw.{local}@{domain}")
}

/// What the mail answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Answered {
    pub(super) subject: Option<String>,
}

pub(super) async fn compose(
    message: &OutboundMessage,
    own: &str,
    name: Option<&str>,
    answered: &Answered,
    bytes_max: u64,
) -> Result<Vec<u8>, SendError> {
    let from = match name {
        Some(name) => mail_builder::headers::address::Address::new_address(Some(name), own),
        None => own.into(),
    };
    let parent = message
        .reply_to
        .as_deref()
        .map(clean_id)
        .filter(|id| !id.is_empty());
    let root = message
        .thread
        .as_deref()
        .map(clean_id)
        .filter(|id| !id.is_empty());
    let mut references: Vec<String> = root.into_iter().collect();
    if let Some(parent) = &parent
        && !references.contains(parent)
    {
        references.push(parent.clone());
    }
    let is_reply = !references.is_empty();
    let mut mail = MessageBuilder::new()
        .from(from)
        .to(message.target.as_str())
        .message_id(message_id(&message.delivery_id, own))
        .subject(subject(message, answered, is_reply))
        .header(
            "Auto-Submitted",
            Raw::new(if is_reply {
                "auto-replied"
            } else {
                "auto-generated"
            }),
        )
        .header("X-Auto-Response-Suppress", Raw::new("OOF, AutoReply"))
        .header("X-Loop", Raw::new(own))
        .text_body(markup::plain(&message.text))
        .html_body(markup::html(&message.text, markup::Html::Full));
    if let Some(parent) = parent.or_else(|| references.last().cloned()) {
        mail = mail.in_reply_to(parent);
    }
    if is_reply {
        mail = mail.references(MessageId::new_list(references.into_iter()));
    }
    let mut room = bytes_max;
    for attachment in &message.attachments {
        let content = read(attachment, room).await?;
        room -= content.len() as u64;
        let file = attachment.source.rsplit('/').next().unwrap_or("file");
        let name = attachment.name.as_deref().unwrap_or(file);
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        let declared = attachment.mime.as_deref().filter(|m| is_mime(m));
        let mime = declared.unwrap_or("application/octet-stream").to_owned();
        mail = mail.attachment(mime, name, content);
    }
    mail.write_to_vec().map_err(|error| SendError::Rejected {
        reason: format!("the mail cannot be written: {error}"),
    })
}

fn is_mime(text: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || "-+.".contains(c);
    text.split_once('/').is_some_and(|(kind, sub)| {
        !kind.is_empty() && !sub.is_empty() && kind.chars().all(part) && sub.chars().all(part)
    })
}

fn subject(message: &OutboundMessage, answered: &Answered, is_reply: bool) -> String {
    let written = message.subject.as_deref().or(answered.subject.as_deref());
    let clean = |text: &str| -> String {
        text.chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(300)
            .collect()
    };
    match written.map(clean).filter(|s| !s.trim().is_empty()) {
        Some(subject) if is_reply && !subject.to_lowercase().starts_with("re:") => {
            format!("Re: {subject}")
        }
        Some(subject) => subject,
        None => {
            let plain = markup::plain(&message.text);
            let first = clean(plain.lines().next().unwrap_or_default());
            let short: String = first.chars().take(60).collect();
            if short.trim().is_empty() {
                "Message".into()
            } else {
                short
            }
        }
    }
}

async fn read(attachment: &Attachment, bytes_max: u64) -> Result<Vec<u8>, SendError> {
    let path = &attachment.source;
    let wrong = |reason: String| SendError::Rejected {
        reason: format!("{path}: {reason}"),
    };
    let meta = tokio::fs::metadata(path)
        .await
        .map_err(|e| wrong(e.to_string()))?;
    if !meta.is_file() {
        return Err(wrong("not a file".into()));
    }
    if meta.len() > bytes_max {
        return Err(wrong(format!(
            "{} bytes, and there is room for {bytes_max}",
            meta.len()
        )));
    }
    tokio::fs::read(path)
        .await
        .map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::MessageParser;
    use proptest::prelude::*;

    fn outbound(text: String, subject: String, id: String) -> OutboundMessage {
        OutboundMessage {
            delivery_id: id.clone(),
            target: "amy@example.com".into(),
            thread: Some(id.clone()),
            reply_to: Some(id),
            text,
            attachments: Vec::new(),
            buttons: Vec::new(),
            silent: false,
            subject: Some(subject),
        }
    }

    proptest! {
        #[test]
        fn nothing_of_a_message_becomes_a_header(text in any::<String>(), subject in any::<String>(), id in any::<String>()) {
            let message = outbound(text, format!("{subject}\r\nBcc: evil@x.y"), format!("{id}\r\nBcc: evil@x.y"));
            let nothing = Answered::default();
            let composing = compose(&message, "bot@example.org", Some("B\r\nBcc: e@x.y"), &nothing, 1);
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let raw = runtime.block_on(composing).expect("a mail");
            let mail = MessageParser::default().parse(&raw).expect("a mail");
            prop_assert!(mail.bcc().is_none(), "{}", String::from_utf8_lossy(&raw));
        }
    }
}
