//! A message of ours as the parts that its service takes: text split at the limit, each file on its own.

use std::ops::Range;

use channels::message::{Attachment, Button, OutboundMessage};
use channels::{Capabilities, chunk};
use serde::{Deserialize, Serialize};

/// Of the files of one album together, so that its upload ends in time and is not too much in memory; a larger file goes alone.
const ALBUM_BYTES_MAX: u64 = 20 * 1024 * 1024;

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

/// One send. `media` and `more` are indexes into the payload's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media: Option<usize>,
    /// Files that go with that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) more: Vec<usize>,
}

impl Part {
    fn text(text: String) -> Self {
        Self {
            text,
            media: None,
            more: Vec::new(),
        }
    }

    /// What it takes of the payload's media.
    pub(super) fn files(&self) -> impl Iterator<Item = usize> {
        self.media.into_iter().chain(self.more.iter().copied())
    }
}

/// Part `n` as a message of its own, for who splits by his own limits.
pub(super) fn alone(payload: &Payload, parts: &[Part], n: usize) -> Payload {
    let part = &parts[n];
    Payload {
        content: part.text.clone(),
        media: part
            .files()
            .filter_map(|at| payload.media.get(at).cloned())
            .collect(),
        reply_to: payload.reply_to.clone().filter(|_| n == 0),
        draft: None,
        ..payload.clone()
    }
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
                .map(Part::text),
        );
    }
    if takes_media {
        for album in albums(payload, capabilities) {
            let text = if caption_fits && album.start == 0 {
                content.clone()
            } else {
                String::new()
            };
            parts.push(Part {
                text,
                media: Some(album.start),
                more: album.skip(1).collect(),
            });
        }
    }
    if parts.is_empty() {
        parts.push(Part::text(String::new()));
    }
    parts
}

/// Which of the files go together: those that follow each other and are of one kind, by their names. What a name does not tell
/// stands alone, and so does everything where buttons belong below it.
fn albums(payload: &Payload, capabilities: &Capabilities) -> Vec<Range<usize>> {
    let most = match payload.buttons.is_empty() {
        true => capabilities.album_max.max(1),
        false => 1,
    };
    let mut albums: Vec<Range<usize>> = Vec::new();
    let mut before = None;
    for (n, media) in payload.media.iter().enumerate() {
        let kind = (!media.voice).then(|| kind(&media.source)).flatten();
        match albums.last_mut() {
            Some(album) if kind.is_some() && kind == before && album.len() < most => {
                album.end = n + 1;
            }
            _ => albums.push(n..n + 1),
        }
        before = kind;
    }
    albums
}

/// What of a kind a service shows together.
fn kind(source: &str) -> Option<&'static str> {
    match guess_mime(source)? {
        // It moves, and moves alone.
        "image/gif" => None,
        mime if mime.starts_with("image/") || mime.starts_with("video/") => Some("seen"),
        mime if mime.starts_with("audio/") => Some("heard"),
        _ => Some("file"),
    }
}

/// Which of the files of one part go together indeed: by what they turned out to be, and with no more bytes than one upload takes.
/// Each with its index in the payload's media.
pub(super) fn together(files: &[(usize, Attachment)]) -> Vec<Range<usize>> {
    let mut albums: Vec<Range<usize>> = Vec::new();
    let mut before = None;
    let mut total = 0_u64;
    for (n, (_, file)) in files.iter().enumerate() {
        let kind = shown(file);
        let bytes = file.bytes.unwrap_or(0);
        let fits = total.saturating_add(bytes) <= ALBUM_BYTES_MAX;
        match albums.last_mut() {
            Some(album) if kind.is_some() && kind == before && fits => {
                album.end = n + 1;
                total = total.saturating_add(bytes);
            }
            _ => {
                albums.push(n..n + 1);
                total = bytes;
            }
        }
        before = kind;
    }
    albums
}

/// As [`kind`], of a file that is there. What is no common picture, video or music goes as a file.
fn shown(file: &Attachment) -> Option<&'static str> {
    if file.as_file {
        return Some("file");
    }
    if file.voice {
        return None;
    }
    match file.mime.as_deref().unwrap_or_default() {
        "image/gif" => None,
        "image/jpeg" | "image/png" | "image/webp" | "video/mp4" => Some("seen"),
        mime if mime.starts_with("audio/") => Some("heard"),
        _ => Some("file"),
    }
}

/// Part `n` becomes one for each of these groups of its files; its text stays with the first.
pub(super) fn regroup(parts: &mut Vec<Part>, n: usize, groups: Vec<Vec<usize>>) {
    let mut text = std::mem::take(&mut parts[n].text);
    let anew: Vec<Part> = groups
        .into_iter()
        .map(|group| {
            let mut files = group.into_iter();
            Part {
                text: std::mem::take(&mut text),
                media: files.next(),
                more: files.collect(),
            }
        })
        .collect();
    parts.splice(n..=n, anew);
}

/// By the name, where no server said it.
pub(super) fn guess_mime(source: &str) -> Option<&'static str> {
    let name = source.split(['?', '#']).next()?.rsplit('/').next()?;
    let (_, extension) = name.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "mp4" => "video/mp4",
        "mp3" => "audio/mpeg",
        "ogg" | "opus" => "audio/ogg",
        "pdf" => "application/pdf",
        _ => return None,
    })
}

/// Part `n` of a message as the channel sends it. `files`: its media, fetched.
pub(super) fn outbound(
    id: &str,
    target: &str,
    payload: &Payload,
    parts: &[Part],
    n: usize,
    files: Vec<Attachment>,
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
        attachments: files,
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
            album_max: 3,
            pictures: None,
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
    fn files_of_a_kind_that_follow_each_other_go_together() {
        let check = |sources: &[&str], expected: &[&[usize]]| {
            let mut payload = payload("hi", 0);
            payload.buttons.clear();
            payload.media = sources
                .iter()
                .map(|source| Media {
                    source: (*source).to_owned(),
                    voice: source.ends_with("opus"),
                })
                .collect();
            let parts = split(&payload, &capabilities(20, 10, 9));
            let got: Vec<Vec<usize>> = parts.iter().map(|part| part.files().collect()).collect();
            assert_eq!(got, expected, "{sources:?}");
            assert_eq!(parts[0].text, "hi");
        };
        check(&["/a.jpg", "https://x/b.PNG?w=1", "c.mp4"], &[&[0, 1, 2]]);
        check(&["1.jpg", "2.jpg", "3.jpg", "4.jpg"], &[&[0, 1, 2], &[3]]);
        check(
            &["1.jpg", "a.pdf", "b.pdf", "2.jpg"],
            &[&[0], &[1, 2], &[3]],
        );
        check(&["1.jpg", "https://x/2", "3.jpg"], &[&[0], &[1], &[2]]);
        check(&["1.gif", "2.gif"], &[&[0], &[1]]);
        check(&["1.opus", "2.opus", "1.mp3"], &[&[0], &[1], &[2]]);
        let mut payload = payload("hi", 0);
        payload.media = vec![
            Media {
                source: "1.jpg".to_owned(),
                voice: false,
            };
            2
        ];
        assert_eq!(
            split(&payload, &capabilities(20, 10, 9)).len(),
            2,
            "buttons"
        );
    }

    #[test]
    fn what_was_fetched_goes_together_by_what_it_is_and_how_large() {
        let file = |mime: &str, bytes: u64| Attachment {
            source: "f".to_owned(),
            name: None,
            mime: Some(mime.to_owned()),
            bytes: Some(bytes),
            voice: false,
            as_file: mime == "image/odd",
        };
        let check = |files: &[(&str, u64)], expected: &[Range<usize>]| {
            let files: Vec<(usize, Attachment)> = files
                .iter()
                .map(|(mime, megabytes)| file(mime, megabytes << 20))
                .enumerate()
                .collect();
            assert_eq!(together(&files), expected, "{files:?}");
        };
        let (picture, video) = ("image/png", "video/mp4");
        check(&[(picture, 1), (video, 19), (picture, 1)], &[0..2, 2..3]);
        check(&[(video, 50), (video, 1), (video, 1)], &[0..1, 1..3]);
        check(
            &[(picture, 1), ("image/odd", 1), (picture, 1), (picture, 1)],
            &[0..1, 1..2, 2..4],
        );
        check(&[("image/gif", 1), ("image/gif", 1)], &[0..1, 1..2]);
        check(
            &[("audio/mpeg", 1), ("audio/mpeg", 1), (picture, 1)],
            &[0..2, 2..3],
        );
        check(&[], &[]);
    }

    #[test]
    fn a_part_that_is_split_keeps_its_text_with_the_first() {
        let mut parts = vec![
            Part::text("before".to_owned()),
            Part {
                text: "hi".to_owned(),
                media: Some(0),
                more: vec![1, 2, 3],
            },
            Part::text("after".to_owned()),
        ];
        regroup(&mut parts, 1, vec![vec![1], vec![2, 3]]);
        let got: Vec<(&str, Vec<usize>)> = parts
            .iter()
            .map(|part| (part.text.as_str(), part.files().collect()))
            .collect();
        let expected = [
            ("before", vec![]),
            ("hi", vec![1]),
            ("", vec![2, 3]),
            ("after", vec![]),
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn a_reply_begins_and_buttons_end() {
        let payload = payload("one two three four five six", 0);
        let parts = split(&payload, &capabilities(20, 0, 0));
        let first = outbound("m", "t", &payload, &parts, 0, Vec::new());
        let last = outbound("m", "t", &payload, &parts, 1, Vec::new());
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
