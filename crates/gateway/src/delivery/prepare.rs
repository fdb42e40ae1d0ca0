//! A message of ours as the parts that its service takes: text split at the limit, each file on its own.

use channels::message::{Attachment, Button, OutboundMessage};
use channels::{Capabilities, chunk};
use serde::{Deserialize, Serialize};

/// What an outbox row holds. Fields are only ever added, with a default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Payload {
    /// Markdown.
    pub(crate) content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) media: Vec<Media>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thread: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) buttons: Vec<Vec<Button>>,
    pub(crate) silent: bool,
    /// Session whose transcript it belongs to, for the web chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session_key: Option<String>,
    /// A message of ours that is there already and becomes the first part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) draft: Option<String>,
}

/// A file to send along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Media {
    /// `http(s)` URL, or path of a file that the agent made.
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) voice: bool,
}

/// One send. `media` is an index into the payload's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media: Option<usize>,
}

/// Splits by the service's limits. Never empty.
pub(super) fn split(payload: &Payload, capabilities: &Capabilities) -> Vec<Part> {
    let mut content = payload.content.clone();
    let takes_media = capabilities.media_bytes_max > 0;
    if !takes_media {
        for media in &payload.media {
            if !content.is_empty() {
                content.push('\n');
            }
            content.push_str(&media.source);
        }
    }
    // Markup that is rendered by us makes the text longer than it is: entities, tags. The service counts what is left
    // of it, so the Markdown itself is an upper bound for everything but links.
    let mut parts = Vec::new();
    let caption_fits = takes_media
        && !payload.media.is_empty()
        && capabilities.caption_max > 0
        && capabilities.text_unit.len(&content) <= capabilities.caption_max;
    if !caption_fits {
        parts.extend(
            chunk::split(&content, capabilities.text_max, capabilities.text_unit)
                .into_iter()
                .map(|text| Part { text, media: None }),
        );
    }
    if takes_media {
        for (n, _) in payload.media.iter().enumerate() {
            let text = if caption_fits && n == 0 {
                content.clone()
            } else {
                String::new()
            };
            parts.push(Part {
                text,
                media: Some(n),
            });
        }
    }
    if parts.is_empty() {
        parts.push(Part {
            text: String::new(),
            media: None,
        });
    }
    parts
}

/// Part `n` of a message as the channel sends it. `file`: the media, fetched.
pub(super) fn outbound(
    id: &str,
    target: &str,
    payload: &Payload,
    parts: &[Part],
    n: usize,
    file: Option<Attachment>,
) -> OutboundMessage {
    let part = &parts[n];
    OutboundMessage {
        // The first part has the message's own id, so that a short message is known by it.
        delivery_id: if n == 0 {
            id.to_owned()
        } else {
            format!("{id}-{n}")
        },
        target: target.to_owned(),
        thread: payload.thread.clone(),
        reply_to: payload.reply_to.clone().filter(|_| n == 0),
        text: part.text.clone(),
        attachments: file.into_iter().collect(),
        buttons: if n + 1 == parts.len() {
            payload.buttons.clone()
        } else {
            Vec::new()
        },
        silent: payload.silent,
        subject: payload.subject.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use channels::{Markup, TextUnit};

    fn capabilities(text_max: usize, caption_max: usize, media_bytes_max: u64) -> Capabilities {
        Capabilities {
            channel: "test",
            text_max,
            text_unit: TextUnit::Chars,
            caption_max,
            markup: Markup::Plain,
            media_bytes_max,
            replies: true,
            threads: true,
            edits: false,
            deletes: false,
            reactions: false,
            typing: false,
            buttons: true,
            idempotent_send: false,
        }
    }

    fn payload(content: &str, media: usize) -> Payload {
        Payload {
            content: content.into(),
            media: (0..media)
                .map(|n| Media {
                    source: format!("https://x/{n}"),
                    voice: false,
                })
                .collect(),
            reply_to: Some("7".into()),
            buttons: vec![vec![Button {
                text: "a".into(),
                data: "b".into(),
            }]],
            ..Payload::default()
        }
    }

    #[test]
    fn a_caption_goes_with_the_first_file_when_it_fits() {
        let check =
            |content: &str, media, caption_max, media_max, expected: &[(&str, Option<usize>)]| {
                let parts = split(
                    &payload(content, media),
                    &capabilities(20, caption_max, media_max),
                );
                let got: Vec<_> = parts.iter().map(|p| (p.text.as_str(), p.media)).collect();
                assert_eq!(got, expected);
            };
        check("hi", 0, 10, 9, &[("hi", None)]);
        check("hi", 2, 10, 9, &[("hi", Some(0)), ("", Some(1))]);
        check(
            "longer than caption",
            1,
            10,
            9,
            &[("longer than caption", None), ("", Some(0))],
        );
        check("hi", 1, 10, 0, &[("hi\nhttps://x/0", None)]);
        check(
            "one two three four five six",
            0,
            0,
            0,
            &[("one two three four", None), ("five six", None)],
        );
    }

    #[test]
    fn a_reply_begins_and_buttons_end() {
        let payload = payload("one two three four five six", 0);
        let parts = split(&payload, &capabilities(20, 0, 0));
        let first = outbound("m", "t", &payload, &parts, 0, None);
        let last = outbound("m", "t", &payload, &parts, 1, None);
        assert_eq!(
            (
                first.delivery_id.as_str(),
                first.reply_to.as_deref(),
                first.buttons.len()
            ),
            ("m", Some("7"), 0)
        );
        assert_eq!(
            (
                last.delivery_id.as_str(),
                last.reply_to.as_deref(),
                last.buttons.len()
            ),
            ("m-1", None, 1)
        );
    }
}
