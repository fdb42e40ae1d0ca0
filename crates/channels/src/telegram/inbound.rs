//! An update of Telegram to a message of ours. Never fails: what can't be understood is no message.

use crate::message::{Attachment, Chat, ChatKind, EventKind, InboundMessage, Sender};
use serde_json::Value;

/// The topic of a forum that is always there. It can be read but not be named when sending.
pub(super) const GENERAL_TOPIC: i64 = 1;

/// Who the bot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Me {
    pub(super) id: i64,
    pub(super) username: String,
    pub(super) name: Option<String>,
}

/// All updates of one answer, in order. Files that were sent together (one `media_group_id`) come as one
/// update each and are one message: under the first one's ids, with the text of whichever has it.
pub(super) fn messages(updates: &[Value], me: &Me) -> Vec<InboundMessage> {
    let mut all: Vec<(Option<(&str, String)>, InboundMessage)> = Vec::new();
    for update in updates {
        let Some(next) = message(update, me) else {
            continue;
        };
        let album = album(update).map(|id| (id, next.chat.id.clone()));
        let first = album
            .as_ref()
            .and_then(|album| all.iter_mut().find(|(one, _)| one.as_ref() == Some(album)));
        if let Some((_, first)) = first {
            if first.text.is_empty() {
                first.text = next.text;
            }
            first.mentions_us |= next.mentions_us;
            first.attachments.extend(next.attachments);
        } else {
            all.push((album, next));
        }
    }
    all.into_iter().map(|(_, message)| message).collect()
}

/// The group of files that an update is part of.
pub(super) fn album(update: &Value) -> Option<&str> {
    ["message", "channel_post"]
        .iter()
        .find_map(|field| update[field]["media_group_id"].as_str())
}

/// `None`: nothing that concerns anybody (a service message, an unknown kind).
pub(super) fn message(update: &Value, me: &Me) -> Option<InboundMessage> {
    let event_id = update["update_id"].as_i64()?.to_string();
    for (field, kind) in [
        ("message", EventKind::Message),
        ("channel_post", EventKind::Message),
        ("edited_message", EventKind::Edit),
        ("edited_channel_post", EventKind::Edit),
    ] {
        if let Some(message) = update.get(field).filter(|m| m.is_object()) {
            return of_message(event_id, message, kind, me);
        }
    }
    if let Some(query) = update.get("callback_query").filter(|q| q.is_object()) {
        let message = &query["message"];
        return Some(InboundMessage {
            event_id,
            message_id: query["id"].as_str().unwrap_or_default().to_owned(),
            kind: EventKind::Button,
            chat: chat(message)?,
            sender: sender(&query["from"])?,
            text: query["data"].as_str().unwrap_or_default().to_owned(),
            reply_to: message["message_id"].as_i64().map(|id| id.to_string()),
            edit_of: None,
            quoted: None,
            mentions_us: true,
            attachments: Vec::new(),
            sent_at_ms: message["date"].as_i64().unwrap_or(0) * 1000,
        });
    }
    let reaction = update.get("message_reaction").filter(|r| r.is_object())?;
    let emoji = reaction["new_reaction"]
        .as_array()
        .and_then(|list| list.last())
        .and_then(|one| one["emoji"].as_str())
        .unwrap_or_default();
    Some(InboundMessage {
        message_id: event_id.clone(),
        event_id,
        kind: EventKind::Reaction,
        chat: chat(reaction)?,
        sender: sender(&reaction["user"])?,
        text: emoji.to_owned(),
        reply_to: reaction["message_id"].as_i64().map(|id| id.to_string()),
        edit_of: None,
        quoted: None,
        mentions_us: false,
        attachments: Vec::new(),
        sent_at_ms: reaction["date"].as_i64().unwrap_or(0) * 1000,
    })
}

fn of_message(
    event_id: String,
    message: &Value,
    kind: EventKind,
    me: &Me,
) -> Option<InboundMessage> {
    let text = message["text"]
        .as_str()
        .or_else(|| message["caption"].as_str())
        .unwrap_or_default();
    let said = match place(message) {
        Some(place) if text.is_empty() => place,
        Some(place) => format!("{text}\n{place}"),
        None => with_links(message, text),
    };
    let attachments = attachments(message);
    // Joins, pins, titles: nobody said anything.
    if said.is_empty() && attachments.is_empty() {
        return None;
    }
    let message_id = message["message_id"].as_i64()?.to_string();
    let reply = &message["reply_to_message"];
    // In a topic every message replies to the one that opened it.
    let replied = reply["message_id"]
        .as_i64()
        .filter(|id| {
            message["message_thread_id"].as_i64() != Some(*id)
                || message["is_topic_message"] != true
        })
        .map(|id| id.to_string());
    let quoted = message["quote"]["text"]
        .as_str()
        .or_else(|| reply["text"].as_str())
        .or_else(|| reply["caption"].as_str())
        .filter(|_| replied.is_some())
        .map(str::to_owned);
    let mentions_us = mentions(message, text, me)
        || (replied.is_some() && reply["from"]["id"].as_i64() == Some(me.id));
    Some(InboundMessage {
        event_id,
        edit_of: (kind == EventKind::Edit).then(|| message_id.clone()),
        message_id,
        kind,
        chat: chat(message)?,
        sender: sender(&message["from"]).or_else(|| sender(&message["sender_chat"]))?,
        text: said,
        reply_to: replied,
        quoted,
        mentions_us,
        attachments,
        sent_at_ms: message["date"].as_i64().unwrap_or(0) * 1000,
    })
}

fn chat(message: &Value) -> Option<Chat> {
    let chat = &message["chat"];
    // What is written in a forum outside of any topic is in "General", whose number is 1 as for the original.
    let thread = message["message_thread_id"]
        .as_i64()
        .filter(|_| message["is_topic_message"] == true)
        .or_else(|| (chat["is_forum"] == true).then_some(GENERAL_TOPIC))
        .map(|id| id.to_string());
    Some(Chat {
        kind: match chat["type"].as_str()? {
            "private" => ChatKind::Direct,
            "channel" => ChatKind::Channel,
            _ => ChatKind::Group,
        },
        id: chat["id"].as_i64()?.to_string(),
        thread,
        parent: None,
        title: chat["title"].as_str().map(str::to_owned),
    })
}

fn sender(from: &Value) -> Option<Sender> {
    let name = [from["first_name"].as_str(), from["last_name"].as_str()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ");
    let title = from["title"].as_str().map(str::to_owned);
    Some(Sender {
        id: from["id"].as_i64()?.to_string(),
        username: from["username"].as_str().map(str::to_owned),
        name: (!name.is_empty()).then_some(name).or(title),
        is_bot: from["is_bot"] == true,
        roles: Vec::new(),
    })
}

fn entities(message: &Value) -> impl Iterator<Item = &Value> {
    message["entities"]
        .as_array()
        .or_else(|| message["caption_entities"].as_array())
        .into_iter()
        .flatten()
}

/// Where an entity lies, in UTF-16 units.
fn range(entity: &Value) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(entity["offset"].as_u64()?).ok()?;
    let end = start.checked_add(usize::try_from(entity["length"].as_u64()?).ok()?)?;
    Some(start..end)
}

/// The text with the addresses that lie behind words, as Markdown: they are not in the text itself.
fn with_links(message: &Value, text: &str) -> String {
    let utf16: Vec<u16> = text.encode_utf16().collect();
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for entity in entities(message).filter(|entity| entity["type"] == "text_link") {
        let Some((range, url)) = range(entity).zip(entity["url"].as_str()) else {
            continue;
        };
        let (Some(before), Some(shown)) = (utf16.get(done..range.start), utf16.get(range.clone()))
        else {
            continue;
        };
        let (Ok(before), Ok(shown)) = (String::from_utf16(before), String::from_utf16(shown))
        else {
            continue;
        };
        out.push_str(&before);
        if shown == url {
            out.push_str(url);
        } else {
            out.push_str(&format!("[{shown}]({url})"));
        }
        done = range.end;
    }
    match utf16.get(done..).map(String::from_utf16) {
        Some(Ok(rest)) => out + &rest,
        _ => text.to_owned(),
    }
}

/// A place that somebody shares, in words as the original's.
fn place(message: &Value) -> Option<String> {
    let venue = &message["venue"];
    let location = if venue.is_object() {
        &venue["location"]
    } else {
        &message["location"]
    };
    let (latitude, longitude) = (
        location["latitude"].as_f64()?,
        location["longitude"].as_f64()?,
    );
    let accuracy = location["horizontal_accuracy"]
        .as_f64()
        .map(|m| format!(" ±{m:.0}m"))
        .unwrap_or_default();
    let named = [venue["title"].as_str(), venue["address"].as_str()]
        .into_iter()
        .flatten()
        .map(|text| format!(" {text}"))
        .collect::<String>();
    let sign = if location["live_period"].is_u64() {
        "🛰 Live location:"
    } else {
        "📍"
    };
    Some(format!(
        "{sign} {latitude:.6}, {longitude:.6}{accuracy}{named}"
    ))
}

/// By an entity, never by looking for the name in the text: somebody may be called almost like us.
fn mentions(message: &Value, text: &str, me: &Me) -> bool {
    let utf16: Vec<u16> = text.encode_utf16().collect();
    entities(message).any(|entity| {
        let covered = || String::from_utf16(utf16.get(range(entity)?)?).ok();
        match entity["type"].as_str() {
            Some("mention") => covered().is_some_and(|name| {
                name.strip_prefix('@')
                    .is_some_and(|name| name.eq_ignore_ascii_case(&me.username))
            }),
            Some("text_mention") => entity["user"]["id"].as_i64() == Some(me.id),
            Some("bot_command") => covered().is_some_and(|command| {
                command
                    .split_once('@')
                    .is_some_and(|(_, name)| name.eq_ignore_ascii_case(&me.username))
            }),
            _ => false,
        }
    })
}

fn attachments(message: &Value) -> Vec<Attachment> {
    let one = |file: &Value, mime: Option<&str>, voice: bool| {
        Some(Attachment {
            source: file["file_id"].as_str()?.to_owned(),
            name: file["file_name"].as_str().map(str::to_owned),
            mime: file["mime_type"].as_str().or(mime).map(str::to_owned),
            bytes: file["file_size"].as_u64(),
            voice,
            as_file: false,
        })
    };
    let mut all = Vec::new();
    // The last size is the largest.
    if let Some(largest) = message["photo"].as_array().and_then(|sizes| sizes.last()) {
        all.extend(one(largest, Some("image/jpeg"), false));
    }
    for (field, mime, voice) in [
        ("animation", Some("video/mp4"), false),
        ("audio", None, false),
        ("voice", Some("audio/ogg"), true),
        ("video", Some("video/mp4"), false),
        ("video_note", Some("video/mp4"), false),
        ("sticker", Some("image/webp"), false),
    ] {
        all.extend(one(&message[field], mime, voice));
    }
    // An animation comes as a document too.
    if message.get("animation").is_none() {
        all.extend(one(&message["document"], None, false));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn me() -> Me {
        Me {
            id: 7,
            username: "our_bot".into(),
            name: None,
        }
    }

    fn group(extra: Value) -> Value {
        let mut message = json!({
            "message_id": 5, "date": 100, "chat": { "id": -100, "type": "supergroup", "title": "T" },
            "from": { "id": 1, "first_name": "Ann", "username": "ann", "is_bot": false },
        });
        message
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        json!({ "update_id": 9, "message": message })
    }

    #[test]
    fn mentions_are_read_from_entities() {
        let check = |extra: Value, expected: bool| {
            assert_eq!(message(&group(extra), &me()).unwrap().mentions_us, expected)
        };
        check(json!({ "text": "hi @our_bot" }), false);
        check(
            json!({ "text": "👍 @Our_Bot", "entities": [{ "type": "mention", "offset": 3, "length": 8 }] }),
            true,
        );
        check(
            json!({ "text": "@our_bot2", "entities": [{ "type": "mention", "offset": 0, "length": 9 }] }),
            false,
        );
        check(
            json!({ "text": "/new@our_bot", "entities": [{ "type": "bot_command", "offset": 0, "length": 12 }] }),
            true,
        );
        check(
            json!({ "text": "you", "reply_to_message": { "message_id": 3, "from": { "id": 7 } } }),
            true,
        );
        check(
            json!({ "text": "x", "entities": [{ "type": "mention", "offset": 900, "length": 8 }] }),
            false,
        );
    }

    #[test]
    fn a_topic_is_a_thread_and_not_a_reply() {
        let topic = message(&group(json!({
            "text": "x", "message_thread_id": 3, "is_topic_message": true, "reply_to_message": { "message_id": 3 },
        })), &me()).unwrap();
        assert_eq!(topic.chat.thread.as_deref(), Some("3"));
        assert_eq!(topic.reply_to, None);
    }

    #[test]
    fn a_forum_without_a_topic_is_its_general_one() {
        let general = message(
            &json!({ "update_id": 1, "message": { "message_id": 2, "date": 1, "text": "x", "from": { "id": 1 },
                "chat": { "id": -100, "type": "supergroup", "is_forum": true } } }),
            &me(),
        )
        .unwrap();
        assert_eq!(general.chat.thread.as_deref(), Some("1"));
    }

    #[test]
    fn links_behind_words_and_places_are_said() {
        let text = |extra: Value| message(&group(extra), &me()).unwrap().text;
        let link = |offset: i64, length: i64| json!({ "type": "text_link", "offset": offset, "length": length, "url": "https://x.org" });
        assert_eq!(
            text(json!({ "text": "👍 see here now", "entities": [link(7, 4)] })),
            "👍 see [here](https://x.org) now"
        );
        // Out of range, inside a surrogate pair, overlapping.
        for wrong in [link(900, 4), link(1, 3), link(0, 1)] {
            let said = text(json!({ "text": "👍 see", "entities": [wrong.clone(), wrong] }));
            assert_eq!(said, "👍 see");
        }
        assert_eq!(
            text(
                json!({ "location": { "latitude": 48.858_844, "longitude": 2.294_351, "horizontal_accuracy": 12.4 } })
            ),
            "📍 48.858844, 2.294351 ±12m"
        );
    }

    #[test]
    fn files_sent_together_are_one_message() {
        let photo = |update: i64, group: &str, caption: &str, chat: i64| {
            json!({ "update_id": update, "message": { "message_id": update, "date": 1, "caption": caption,
                "media_group_id": group, "chat": { "id": chat, "type": "private" }, "from": { "id": 1 },
                "photo": [{ "file_id": format!("f{update}") }] } })
        };
        let updates = [
            photo(1, "a", "", 5),
            photo(2, "b", "other", 5),
            photo(3, "a", "look", 5),
            photo(4, "a", "elsewhere", 6),
        ];
        let all = messages(&updates, &me());
        let got: Vec<_> = all
            .iter()
            .map(|m| (m.event_id.as_str(), m.text.as_str(), m.attachments.len()))
            .collect();
        assert_eq!(
            got,
            [("1", "look", 2), ("2", "other", 1), ("4", "elsewhere", 1)]
        );
    }

    #[test]
    fn files_buttons_and_reactions() {
        let photo = message(
            &group(json!({
                "caption": "c", "photo": [{ "file_id": "s" }, { "file_id": "l", "file_size": 9 }],
            })),
            &me(),
        )
        .unwrap();
        assert_eq!(
            (photo.text.as_str(), photo.attachments[0].source.as_str()),
            ("c", "l")
        );
        let button = message(
            &json!({ "update_id": 1, "callback_query": {
            "id": "q", "data": "yes", "from": { "id": 1, "first_name": "A" },
            "message": { "message_id": 4, "date": 1, "chat": { "id": 1, "type": "private" } } } }),
            &me(),
        )
        .unwrap();
        assert_eq!(
            (
                button.kind,
                button.text.as_str(),
                button.reply_to.as_deref()
            ),
            (EventKind::Button, "yes", Some("4"))
        );
        let reaction = message(
            &json!({ "update_id": 2, "message_reaction": {
            "chat": { "id": 1, "type": "private" }, "message_id": 4, "date": 1, "user": { "id": 1 },
            "new_reaction": [{ "type": "emoji", "emoji": "👍" }] } }),
            &me(),
        )
        .unwrap();
        assert_eq!(
            (reaction.kind, reaction.text.as_str()),
            (EventKind::Reaction, "👍")
        );
        assert_eq!(
            message(&group(json!({ "new_chat_title": "x" })), &me()),
            None
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        let key = prop_oneof![
            Just("message"),
            Just("chat"),
            Just("id"),
            Just("type"),
            Just("from"),
            Just("text"),
            Just("entities"),
            Just("offset"),
            Just("length"),
            Just("message_id"),
            Just("photo"),
            Just("callback_query"),
            Just("data"),
            Just("update_id"),
            Just("url"),
            Just("location"),
            Just("media_group_id"),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_that_telegram_may_send_is_a_panic(mut update in any_json(), id in any::<i64>()) {
            if let Some(map) = update.as_object_mut() {
                map.insert("update_id".into(), id.into());
            }
            messages(&[update.clone(), update], &me());
        }
    }
}
