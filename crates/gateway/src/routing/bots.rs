//! Which senders are bots, which of them are answered, and how often. Pure.
//!
//! Source: docs/channels/bot-loop-protection.md and matrix.md at 2026.9.6.

use std::collections::{HashMap, HashSet};

use channels::InboundMessage;
use channels::message::{ChatKind, Sender};
use serde_json::{Map, Value};

/// Source: bot-loop-protection.md, Defaults.
const EVENTS_MAX: u64 = 20;
const WINDOW_SECONDS: u64 = 60;
const COOLDOWN_SECONDS: u64 = 60;
const SECONDS_MAX: u64 = 24 * 60 * 60;
/// More are kept of no pair.
const EVENTS_HELD_MAX: u64 = 1000;

/// How often a bot is answered in one chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoopLimits {
    pub(crate) events_max: usize,
    pub(crate) window_ms: i64,
    pub(crate) cooldown_ms: i64,
}

/// What one configuration says of bots.
#[derive(Debug, Default)]
pub(super) struct Bots {
    /// Accounts of this gateway on Matrix, which itself has no sign of a bot.
    own: HashSet<String>,
    shared: Value,
    by_channel: HashMap<String, Value>,
}

impl Bots {
    pub(super) fn read(config: &Value) -> Self {
        let channels = &config["channels"];
        let matrix = &channels["matrix"];
        let accounts = matrix["accounts"].as_object().into_iter().flatten();
        let sections = accounts.map(|(_, account)| account).chain([matrix]);
        let ids = sections.filter_map(|section| section["userId"].as_str());
        let named = channels.as_object().into_iter().flatten();
        Self {
            own: ids.map(|id| id.trim().to_lowercase()).collect(),
            shared: channels["defaults"]["botLoopProtection"].clone(),
            by_channel: named
                .map(|(id, section)| (id.clone(), section["botLoopProtection"].clone()))
                .collect(),
        }
    }

    pub(super) fn is_bot(&self, channel: &str, sender: &Sender) -> bool {
        sender.is_bot || (channel == "matrix" && self.own.contains(&sender.id.to_lowercase()))
    }

    /// Whether a bot is answered there at all; `is_mentioned`: it called us.
    pub(super) fn may(
        settings: &Map<String, Value>,
        message: &InboundMessage,
        is_mentioned: impl FnOnce() -> bool,
    ) -> Result<(), &'static str> {
        let of_room = room(settings, message).and_then(|room| room.get("allowBots"));
        match of_room.or_else(|| settings.get("allowBots")) {
            Some(Value::Bool(true)) => Ok(()),
            Some(Value::String(word)) if word == "mentions" => {
                match message.chat.kind == ChatKind::Direct || is_mentioned() {
                    true => Ok(()),
                    false => {
                        Err("the sender is a bot that mentions nobody (allowBots is mentions)")
                    }
                }
            }
            _ => Err("the sender is a bot (allowBots is off)"),
        }
    }

    /// `None`: as often as it writes.
    pub(super) fn limits(
        &self,
        channel: &str,
        settings: &Map<String, Value>,
        message: &InboundMessage,
    ) -> Option<LoopLimits> {
        let of_room = room(settings, message).and_then(|room| room.get("botLoopProtection"));
        let levels = [
            of_room,
            settings.get("botLoopProtection"),
            self.by_channel.get(channel),
            Some(&self.shared),
        ];
        // Key by key, the nearest first.
        let said = |key: &str| {
            let mut levels = levels.iter().flatten();
            levels.find_map(|level| level.get(key))
        };
        if said("enabled") == Some(&Value::Bool(false)) {
            return None;
        }
        let number = |key: &str, default: u64, most: u64| {
            let number = said(key).and_then(Value::as_u64).unwrap_or(default);
            number.clamp(1, most)
        };
        let ms = |key: &str, default: u64| {
            let seconds = number(key, default, SECONDS_MAX);
            i64::try_from(seconds * 1000).unwrap_or(i64::MAX)
        };
        let events = number("maxEventsPerWindow", EVENTS_MAX, EVENTS_HELD_MAX);
        Some(LoopLimits {
            events_max: usize::try_from(events).unwrap_or(usize::MAX),
            window_ms: ms("windowSeconds", WINDOW_SECONDS),
            cooldown_ms: ms("cooldownSeconds", COOLDOWN_SECONDS),
        })
    }
}

/// What is set for the room of a message.
fn room<'a>(
    settings: &'a Map<String, Value>,
    message: &InboundMessage,
) -> Option<&'a Map<String, Value>> {
    let rooms = settings.get("groups")?.as_object()?;
    let room = rooms.get(&message.chat.id).or_else(|| rooms.get("*"))?;
    (message.chat.kind != ChatKind::Direct)
        .then(|| room.as_object())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(kind: &str, sender: &str, is_bot: bool) -> InboundMessage {
        let message = json!({
            "eventId": "1", "messageId": "1", "chat": { "kind": kind, "id": "!r" }, "sender": { "id": sender, "isBot": is_bot },
            "text": "x", "sentAtMs": 1,
        });
        serde_json::from_value(message).expect("a message")
    }

    #[test]
    fn on_matrix_our_other_accounts_are_bots() {
        let bots = Bots::read(&json!({ "channels": { "matrix": {
            "userId": "@One:x", "accounts": { "two": { "userId": "@two:x" } },
        } } }));
        let check = |channel: &str, id: &str, is_bot, expected| {
            let message = said("group", id, is_bot);
            assert_eq!(
                bots.is_bot(channel, &message.sender),
                expected,
                "{channel} {id}"
            );
        };
        check("matrix", "@one:x", false, true);
        check("matrix", "@two:x", false, true);
        check("matrix", "@ann:x", false, false);
        check("irc", "@two:x", false, false);
        check("webhook", "any", true, true);
    }

    #[test]
    fn a_room_says_it_before_its_account() {
        let check = |settings: Value, kind: &str, mentioned: bool, expected: bool| {
            let message = said(kind, "b", true);
            let object = settings.as_object().expect("settings");
            let may = Bots::may(object, &message, || mentioned);
            assert_eq!(may.is_ok(), expected, "{settings} {kind} {mentioned}");
        };
        check(json!({}), "direct", true, false);
        check(json!({ "allowBots": true }), "group", false, true);
        check(json!({ "allowBots": "mentions" }), "group", false, false);
        check(json!({ "allowBots": "mentions" }), "group", true, true);
        check(json!({ "allowBots": "mentions" }), "direct", false, true);
        let room = json!({ "allowBots": true, "groups": { "!r": { "allowBots": false } } });
        check(room.clone(), "group", true, false);
        check(room, "direct", true, true);
        let any = json!({ "groups": { "*": { "allowBots": "mentions" } } });
        check(any, "group", true, true);
    }

    #[test]
    fn limits_are_the_nearest_key_by_key() {
        let check = |config: Value, expected: Option<(usize, i64, i64)>| {
            let settings = config["channels"]["matrix"].as_object();
            let settings = settings.cloned().unwrap_or_default();
            let message = said("group", "b", true);
            let limits = Bots::read(&config).limits("matrix", &settings, &message);
            let limits = limits.map(|l| (l.events_max, l.window_ms, l.cooldown_ms));
            assert_eq!(limits, expected, "{config}");
        };
        check(json!({}), Some((20, 60_000, 60_000)));
        check(
            json!({ "channels": {
                "defaults": { "botLoopProtection": { "maxEventsPerWindow": 9, "cooldownSeconds": 5 } },
                "matrix": {
                    "botLoopProtection": { "windowSeconds": 7 },
                    "groups": { "!r": { "botLoopProtection": { "maxEventsPerWindow": 2 } } },
                },
            } }),
            Some((2, 7000, 5000)),
        );
        let off = json!({ "enabled": false });
        check(
            json!({ "channels": { "defaults": { "botLoopProtection": off } } }),
            None,
        );
    }
}
