//! An update of Telegram to a message of ours. Never fails: what can't be understood is no message.

use crate::message::{Attachment, Chat, ChatKind, EventKind, InboundMessage, Sender};
use serde_json::Value;

/// Who the bot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Me {
    pub(super) id: i64,
    pub(super) username: String,
    pub(super) name: Option<String>,
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
    let attachments = attachments(message);
    // Joins, pins, titles: nobody said anything.
    if text.is_empty() && attachments.is_empty() {
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
        text: text.to_owned(),
        reply_to: replied,
        quoted,
        mentions_us,
        attachments,
        sent_at_ms: message["date"].as_i64().unwrap_or(0) * 1000,
    })
}

fn chat(message: &Value) -> Option<Chat> {
    let chat = &message["chat"];
    let thread = message["message_thread_id"]
        .as_i64()
        .filter(|_| message["is_topic_message"] == true)
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

/// By an entity, never by looking for the name in the text: somebody may be called almost like us.
fn mentions(message: &Value, text: &str, me: &Me) -> bool {
    let entities = message["entities"]
        .as_array()
        .or_else(|| message["caption_entities"].as_array());
    let utf16: Vec<u16> = text.encode_utf16().collect();
    entities.into_iter().flatten().any(|entity| {
        let covered = || {
            let start = usize::try_from(entity["offset"].as_u64()?).ok()?;
            let end = start.checked_add(usize::try_from(entity["length"].as_u64()?).ok()?)?;
            String::from_utf16(utf16.get(start..end)?).ok()
        };
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
            message(&update, &me());
        }
    }
}
