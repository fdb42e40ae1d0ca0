//! Events as the server sends them, to messages. Nothing here trusts anything: whoever is in a room
//! writes what they like into an event.

use super::config::Threads;
use crate::InboundMessage;
use crate::message::{Attachment, Chat, ChatKind, EventKind, Sender};
use serde_json::Value;

/// What is known of the room that an event is in.
#[derive(Debug, Clone, Default)]
pub(super) struct Room {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) direct: bool,
    /// A direct chat is that person's, in whatever room (`dm.sessionScope: "per-user"`).
    pub(super) per_user: bool,
}

/// Who we are, for mentions.
#[derive(Debug, Clone, Default)]
pub(super) struct Me {
    pub(super) user: String,
    pub(super) name: Option<String>,
}

/// The message that an event is; `None` for those that are none for us: our own, state, redacted,
/// unknown. Reactions and redactions are [`reaction`]'s.
pub(super) fn message(
    event: &Value,
    room: &Room,
    me: &Me,
    threads: Threads,
) -> Option<InboundMessage> {
    let kind = event["type"].as_str()?;
    if event.get("state_key").is_some() || event["unsigned"].get("redacted_because").is_some() {
        return None;
    }
    let content = &event["content"];
    let relation = &content["m.relates_to"];
    let edit_of = match relation["rel_type"].as_str() {
        Some("m.replace") => Some(relation["event_id"].as_str()?.to_owned()),
        _ => None,
    };
    // Of an edit the new content counts; its relation is that of the first one.
    let shown = match &edit_of {
        Some(_) => &content["m.new_content"],
        None => content,
    };
    let msgtype = match kind {
        "m.room.message" => shown["msgtype"].as_str()?,
        "m.sticker" => "m.image",
        _ => return None,
    };
    let body = shown["body"].as_str().unwrap_or_default();
    let attachment = attachment(shown, msgtype);
    let (quoted, body) = match relation.get("m.in_reply_to") {
        Some(_) => without_fallback(body),
        None => (None, body.to_owned()),
    };
    let text = match (&attachment, msgtype) {
        (Some(file), _) if file.name.as_deref() == Some(body.as_str()) => String::new(),
        (None, "m.emote") => format!("* {body}"),
        (None, "m.location") => {
            format!("{body} {}", shown["geo_uri"].as_str().unwrap_or_default())
        }
        _ => body,
    };
    if text.trim().is_empty() && attachment.is_none() {
        return None;
    }
    let sender = event["sender"].as_str()?;
    if sender == me.user {
        return None;
    }
    let id = event["event_id"].as_str()?.to_owned();
    let in_thread = (relation["rel_type"] == "m.thread")
        .then(|| relation["event_id"].as_str().map(str::to_owned))
        .flatten();
    // In a thread a reply may stand only for those clients that know no threads.
    let falling_back = in_thread.is_some() && relation["is_falling_back"] == true;
    let reply_to = relation["m.in_reply_to"]["event_id"].as_str();
    let thread = match threads {
        Threads::Off => None,
        Threads::Inbound => in_thread,
        Threads::Always => in_thread.or_else(|| edit_of.is_none().then(|| id.clone())),
    };
    Some(InboundMessage {
        mentions_us: mentions(shown, &text, me),
        message_id: id.clone(),
        event_id: id,
        kind: if edit_of.is_some() {
            EventKind::Edit
        } else {
            EventKind::Message
        },
        chat: chat(room, sender, thread),
        sender: by(sender, msgtype == "m.notice"),
        text,
        reply_to: reply_to.filter(|_| !falling_back).map(str::to_owned),
        edit_of,
        quoted: quoted.filter(|_| !falling_back),
        attachments: attachment.into_iter().collect(),
        sent_at_ms: event["origin_server_ts"].as_i64().unwrap_or_default(),
    })
}

/// The message that a reaction is, or its taking back (`emoji` empty).
pub(super) fn reaction(
    event: &Value,
    room: &Room,
    me: &Me,
    target: &str,
    emoji: &str,
) -> Option<InboundMessage> {
    let sender = event["sender"].as_str().filter(|s| *s != me.user)?;
    let id = event["event_id"].as_str()?.to_owned();
    Some(InboundMessage {
        message_id: id.clone(),
        event_id: id,
        kind: EventKind::Reaction,
        chat: chat(room, sender, None),
        sender: by(sender, false),
        text: emoji.to_owned(),
        reply_to: Some(target.to_owned()),
        edit_of: None,
        quoted: None,
        mentions_us: false,
        attachments: Vec::new(),
        sent_at_ms: event["origin_server_ts"].as_i64().unwrap_or_default(),
    })
}

/// Target and emoji of an `m.reaction`.
pub(super) fn annotation(event: &Value) -> Option<(&str, &str)> {
    let relation = &event["content"]["m.relates_to"];
    if event["type"] != "m.reaction" || relation["rel_type"] != "m.annotation" {
        return None;
    }
    let emoji = relation["key"].as_str().filter(|key| !key.is_empty())?;
    Some((relation["event_id"].as_str()?, emoji))
}

fn chat(room: &Room, sender: &str, thread: Option<String>) -> Chat {
    Chat {
        kind: if room.direct {
            ChatKind::Direct
        } else {
            ChatKind::Group
        },
        id: match room.direct && room.per_user {
            true => sender.to_owned(),
            false => room.id.clone(),
        },
        thread,
        parent: None,
        title: room
            .name
            .clone()
            .or_else(|| room.direct.then(|| sender.to_owned())),
    }
}

fn by(user: &str, is_bot: bool) -> Sender {
    let local = user
        .trim_start_matches('@')
        .split(':')
        .next()
        .unwrap_or(user);
    Sender {
        id: user.to_owned(),
        // Not a user name: on another server it is somebody else's, and allow lists go by it.
        username: None,
        name: Some(local.to_owned()),
        is_bot,
        roles: Vec::new(),
    }
}

fn attachment(content: &Value, msgtype: &str) -> Option<Attachment> {
    if !matches!(msgtype, "m.image" | "m.file" | "m.audio" | "m.video") {
        return None;
    }
    let source = content["url"]
        .as_str()
        .filter(|url| url.starts_with("mxc://"))?;
    let name = content["filename"].as_str().or(content["body"].as_str());
    Some(Attachment {
        source: source.to_owned(),
        name: name.map(str::to_owned),
        mime: content["info"]["mimetype"].as_str().map(str::to_owned),
        bytes: content["info"]["size"].as_u64(),
        voice: content.get("org.matrix.msc3245.voice").is_some(),
        as_file: false,
    })
}

/// The quoted lines that older clients put before a reply, and the rest.
/// Source: fallbacks for rich replies, removed from the specification in v1.13 and still sent.
fn without_fallback(body: &str) -> (Option<String>, String) {
    if !body.starts_with("> ") {
        return (None, body.to_owned());
    }
    let mut quoted = Vec::new();
    let mut rest = body;
    while let Some(line) = rest.strip_prefix('>') {
        let (line, after) = line.split_once('\n').unwrap_or((line, ""));
        quoted.push(line.strip_prefix(' ').unwrap_or(line));
        rest = after;
    }
    let first = quoted.first().copied().unwrap_or_default();
    // `<@user:server> text` or `* <@user:server> text`.
    if let Some((_, text)) = first
        .trim_start_matches("* ")
        .strip_prefix('<')
        .and_then(|first| first.split_once("> "))
    {
        quoted[0] = text;
    }
    (
        Some(quoted.join("\n")),
        rest.trim_start_matches('\n').to_owned(),
    )
}

/// By `m.mentions`, by a matrix.to link, by our id or our name as a word.
fn mentions(content: &Value, text: &str, me: &Me) -> bool {
    let listed = content["m.mentions"]["user_ids"].as_array();
    if listed.is_some_and(|users| users.iter().any(|user| *user == me.user.as_str())) {
        return true;
    }
    let linked = content["formatted_body"].as_str().is_some_and(|html| {
        let link = |user: &str| html.contains(&format!("https://matrix.to/#/{user}\""));
        link(&me.user) || link(&super::api::quote(&me.user))
    });
    let local = me
        .user
        .trim_start_matches('@')
        .split(':')
        .next()
        .unwrap_or_default();
    linked
        || text.contains(&me.user)
        || is_word(text, &format!("@{local}"))
        || me.name.as_deref().is_some_and(|name| is_word(text, name))
}

fn is_word(text: &str, word: &str) -> bool {
    let (text, word) = (text.to_lowercase(), word.to_lowercase());
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    !word.trim().is_empty()
        && text.match_indices(&word).any(|(at, found)| {
            !text[..at].chars().next_back().is_some_and(inside)
                && !text[at + found.len()..]
                    .chars()
                    .next()
                    .is_some_and(|c| inside(c) || c == ':' && word.starts_with('@'))
        })
}

/// Of a room's events in order, those since we were asked into it: what was written before that was
/// not written to us. A join without an invitation counts itself.
pub(super) fn since_we_came(events: &[Value], user: &str) -> usize {
    let own = |event: &Value, membership: &str| {
        event["type"] == "m.room.member"
            && event["state_key"] == user
            && event["content"]["membership"] == membership
    };
    let joined = events.iter().rposition(|event| {
        own(event, "join") && event["unsigned"]["prev_content"]["membership"] != "join"
    });
    let Some(joined) = joined else {
        return 0;
    };
    let invited = events[..joined]
        .iter()
        .rposition(|event| own(event, "invite"));
    invited.unwrap_or(joined) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn me() -> Me {
        Me {
            user: "@bot:x".into(),
            name: Some("Claw".into()),
        }
    }

    fn room() -> Room {
        Room {
            id: "!r:x".into(),
            ..Room::default()
        }
    }

    fn event(content: Value) -> Value {
        json!({"type": "m.room.message", "event_id": "$1", "sender": "@amy:x",
            "origin_server_ts": 5, "content": content})
    }

    fn read(content: Value) -> Option<InboundMessage> {
        message(&event(content), &room(), &me(), Threads::Inbound)
    }

    #[test]
    fn a_reply_in_a_thread_an_edit_and_a_file() {
        let reply = read(
            json!({"msgtype": "m.text", "body": "> <@bot:x> one\n> two\n\nanswer",
            "m.relates_to": {"m.in_reply_to": {"event_id": "$0"}}}),
        )
        .expect("a message");
        assert_eq!(
            (reply.text.as_str(), reply.quoted.as_deref()),
            ("answer", Some("one\ntwo"))
        );
        assert_eq!(reply.reply_to.as_deref(), Some("$0"));
        let threaded = read(json!({"msgtype": "m.text", "body": "t", "m.relates_to": {
            "rel_type": "m.thread", "event_id": "$t", "is_falling_back": true,
            "m.in_reply_to": {"event_id": "$9"}}}))
        .expect("a message");
        assert_eq!(
            (threaded.chat.thread.as_deref(), threaded.reply_to),
            (Some("$t"), None)
        );
        let edit = read(json!({"msgtype": "m.text", "body": "* new",
            "m.new_content": {"msgtype": "m.text", "body": "new"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": "$0"}}))
        .expect("a message");
        assert_eq!(
            (edit.kind, edit.text.as_str(), edit.edit_of.as_deref()),
            (EventKind::Edit, "new", Some("$0"))
        );
        let file = read(
            json!({"msgtype": "m.image", "body": "see", "filename": "a.png",
            "url": "mxc://x/1", "info": {"mimetype": "image/png", "size": 3}}),
        )
        .expect("a message");
        assert_eq!((file.text.as_str(), file.attachments.len()), ("see", 1));
        assert!(
            read(json!({"msgtype": "m.image", "body": "a", "url": "http://evil/"}))
                .is_none_or(|m| m.attachments.is_empty())
        );
    }

    #[test]
    fn mentions_are_found() {
        let check = |content: Value| {
            let mut content = content;
            content["msgtype"] = "m.text".into();
            read(content).expect("a message").mentions_us
        };
        assert!(check(
            json!({"body": "x", "m.mentions": {"user_ids": ["@bot:x"]}})
        ));
        assert!(check(
            json!({"body": "x", "formatted_body": "<a href=\"https://matrix.to/#/@bot:x\">Claw</a>"})
        ));
        assert!(check(
            json!({"body": "x", "formatted_body": "<a href=\"https://matrix.to/#/%40bot%3Ax\">Claw</a>"})
        ));
        assert!(check(json!({"body": "claw, help"})));
        assert!(check(json!({"body": "hi @bot!"})));
        assert!(!check(json!({"body": "hi @bot:elsewhere"})));
        assert!(!check(json!({"body": "clawed"})));
    }

    #[test]
    fn what_was_said_before_we_came_is_not_for_us() {
        let member = |membership: &str| {
            json!({"type": "m.room.member", "state_key": "@bot:x",
            "content": {"membership": membership}})
        };
        let say = || event(json!({"msgtype": "m.text", "body": "x"}));
        assert_eq!(since_we_came(&[say(), say()], "@bot:x"), 0);
        assert_eq!(since_we_came(&[say(), member("join"), say()], "@bot:x"), 2);
        let events = [say(), member("invite"), say(), member("join"), say()];
        assert_eq!(since_we_came(&events, "@bot:x"), 2);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            prop::sample::select(vec![
                "m.room.message",
                "m.text",
                "m.image",
                "m.replace",
                "m.thread",
                "m.annotation",
                "mxc://a/b",
                "> <",
                "> > \n>",
                "@bot:x"
            ])
            .prop_map(Value::from),
        ];
        let key = prop::sample::select(vec![
            "type",
            "content",
            "m.relates_to",
            "rel_type",
            "event_id",
            "sender",
            "body",
            "msgtype",
            "m.in_reply_to",
            "m.new_content",
            "url",
            "info",
            "m.mentions",
            "user_ids",
            "formatted_body",
            "unsigned",
            "key",
            "filename",
        ]);
        leaf.prop_recursive(5, 60, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..8).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_event_is_read_without_panic(content in any_json(), whole in any_json()) {
            if let Some(found) = read(content) {
                prop_assert!(!found.text.trim().is_empty() || !found.attachments.is_empty());
            }
            message(&whole, &room(), &me(), Threads::Always);
            annotation(&whole);
            since_we_came(&[whole], "@bot:x");
        }

        #[test]
        fn any_body_is_cut_without_panic(body in "[> <@a:x\n*]{0,40}") {
            without_fallback(&body);
            is_word(&body, "@a");
        }
    }
}
