//! Signs of life to a person whose message is worked on: the acknowledging reaction and typing. They are lost without
//! harm, so they hold nothing up and fail nothing.
//!
//! Source: src/channels/ack-reactions.ts, src/agents/identity.ts and docs/concepts/typing-indicators.md at 2026.9.6.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::time::Duration;

use channels::message::{Action, ChatKind, InboundMessage};
use serde_json::{Map, Value};
use store::InboxRow;

use super::Messages;
use super::intake::Back;
use super::status::{Looks, Status};
use crate::native::agents::Roster;

const EMOJI: &str = "👀";
const REACTION_TIMEOUT: Duration = Duration::from_secs(10);
const TYPING_EVERY_SECONDS: u64 = 6;
const TYPING_EVERY_SECONDS_MAX: u64 = 3600;

/// What a configuration says of them.
#[derive(Debug)]
pub(super) struct Signs {
    emoji: Option<String>,
    scope: Option<String>,
    /// `identity.emoji`, by agent.
    identities: HashMap<String, String>,
    /// Agents with `typingMode: "never"`.
    silent: HashSet<String>,
    typing_every: Duration,
    /// Set: the reaction tells what the turn is at.
    status: Option<Looks>,
}

impl Signs {
    pub(super) fn read(config: &Value) -> Self {
        let messages = &config["messages"];
        let text = |value: &Value| value.as_str().map(|text| text.trim().to_owned());
        let defaults = &config["agents"]["defaults"];
        let mut signs = Self {
            emoji: text(&messages["ackReaction"]),
            scope: text(&messages["ackReactionScope"]),
            identities: HashMap::new(),
            silent: HashSet::new(),
            status: Looks::read(config),
            typing_every: Duration::from_secs(
                defaults["typingIntervalSeconds"]
                    .as_u64()
                    .unwrap_or(TYPING_EVERY_SECONDS)
                    .clamp(1, TYPING_EVERY_SECONDS_MAX),
            ),
        };
        for agent in Roster::read(config).agents {
            let entry = Value::Object(agent.entry);
            let own = text(&entry["identity"]["emoji"]).filter(|emoji| !emoji.is_empty());
            if let Some(emoji) = own {
                signs.identities.insert(agent.id.clone(), emoji);
            }
            let mode = entry["typingMode"]
                .as_str()
                .or(defaults["typingMode"].as_str());
            if mode == Some("never") {
                signs.silent.insert(agent.id);
            }
        }
        signs
    }

    /// The reaction to a message that `agent` takes up; `account`: the settings that hold for its account.
    fn reaction(
        &self,
        account: &Map<String, Value>,
        agent: &str,
        message: &InboundMessage,
        mentioned: bool,
    ) -> Option<String> {
        let own = |key: &str| account.get(key).and_then(Value::as_str).map(str::trim);
        let scope = own("ackReactionScope").or(self.scope.as_deref());
        let is_direct = message.chat.kind == ChatKind::Direct;
        let wanted = match scope.unwrap_or("group-mentions") {
            "all" => true,
            "direct" => is_direct,
            "group-all" => !is_direct,
            "group-mentions" => !is_direct && mentioned,
            _ => false,
        };
        let emoji = own("ackReaction")
            .or(self.emoji.as_deref())
            .or(self.identities.get(agent).map(String::as_str))
            .unwrap_or(EMOJI);
        (wanted && !emoji.is_empty()).then(|| emoji.to_owned())
    }
}

/// Reacts to `message`, whose id on the service is `on`, if the configuration says so. Answers at once: what shows how the turn of
/// `row` goes on, where that is asked for; that of one that was begun before too, whose reaction was left at something else.
pub(super) fn acknowledge<'a>(
    messages: &'a Messages,
    back: &Back,
    agent: &str,
    message: &InboundMessage,
    on: String,
    row: &'a InboxRow,
) -> Option<Status<'a>> {
    let channel = messages.supervisor.get(&back.channel, &back.account)?;
    if !channel.capabilities().reactions || on.is_empty() {
        return None;
    }
    let accounts = messages.accounts.load();
    let account = accounts.get(&back.channel, &back.account)?;
    let mentioned = messages.routing.load().is_mentioned(agent, message);
    let habits = messages.habits.load();
    let settings = &account.settings;
    let emoji = habits.signs.reaction(settings, agent, message, mentioned)?;
    let looks = habits.signs.status.clone();
    if let Some(looks) = looks.filter(|_| back.channel == "telegram") {
        let place = (back.target.clone(), on);
        return Some(Status::begin(
            &messages.watched,
            &row.id,
            channel,
            place,
            emoji,
            looks,
        ));
    }
    if row.run_id.is_some() {
        return None;
    }
    let action = Action::React {
        target: back.target.clone(),
        message_id: on,
        emoji: Some(emoji),
    };
    tokio::spawn(async move {
        match tokio::time::timeout(REACTION_TIMEOUT, channel.act(&action)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a message could not be acknowledged"),
            Err(_elapsed) => tracing::debug!("a message could not be acknowledged in time"),
        }
    });
    None
}

/// Shows typing while it is polled: services forget it after some seconds.
pub(super) async fn typing(messages: &Messages, back: &Back, agent: &str) -> Infallible {
    if messages.habits.load().signs.silent.contains(agent) {
        return std::future::pending().await;
    }
    loop {
        show_typing(messages, back, true).await;
        let every = messages.habits.load().signs.typing_every;
        tokio::time::sleep(every).await;
    }
}

pub(super) async fn show_typing(messages: &Messages, back: &Back, on: bool) {
    let Some(channel) = messages.supervisor.get(&back.channel, &back.account) else {
        return;
    };
    if channel.capabilities().typing {
        let action = Action::Typing {
            target: back.target.clone(),
            thread: back.thread.clone(),
            on,
        };
        if let Err(error) = channel.act(&action).await {
            tracing::debug!(%error, "typing could not be shown");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_reaction_is_the_accounts_then_every_ones_then_the_agents() {
        let message = json!({
            "eventId": "1", "messageId": "1", "chat": { "kind": "direct", "id": "1" }, "sender": { "id": "1" },
            "text": "x", "sentAtMs": 1,
        });
        let message: InboundMessage = serde_json::from_value(message).expect("a message");
        let check = |config: Value, account: Value, expected: Option<&str>| {
            let mut config = config;
            config["messages"]["ackReactionScope"] = "all".into();
            let signs = Signs::read(&config);
            let account = account.as_object().cloned().unwrap_or_default();
            let emoji = signs.reaction(&account, "main", &message, false);
            assert_eq!(emoji.as_deref(), expected, "{config} {account:?}");
        };
        let named =
            json!({ "agents": { "entries": { "main": { "identity": { "emoji": " 🦞 " } } } } });
        check(json!({}), json!({}), Some("👀"));
        check(named.clone(), json!({}), Some("🦞"));
        let mut both = named;
        both["messages"] = json!({ "ackReaction": "👍" });
        check(both.clone(), json!({}), Some("👍"));
        check(both.clone(), json!({ "ackReaction": " 🔥" }), Some("🔥"));
        check(both, json!({ "ackReaction": "" }), None);
        check(
            json!({ "messages": { "ackReaction": "" } }),
            json!({}),
            None,
        );
    }

    #[test]
    fn the_scope_says_where() {
        let check = |scope: Option<&str>, kind: &str, mentioned: bool, expected: bool| {
            let message = json!({
                "eventId": "1", "messageId": "1", "chat": { "kind": kind, "id": "1" }, "sender": { "id": "1" },
                "text": "x", "sentAtMs": 1,
            });
            let message = serde_json::from_value(message).expect("a message");
            let signs = Signs::read(&json!({ "messages": { "ackReactionScope": scope } }));
            let said = signs.reaction(&Map::new(), "main", &message, mentioned);
            assert_eq!(said.is_some(), expected, "{scope:?} {kind} {mentioned}");
            // Of an account, where the service has that key.
            let own = json!({ "ackReactionScope": scope });
            let own = own.as_object().cloned().unwrap_or_default();
            let signs = Signs::read(&json!({}));
            let said = signs.reaction(&own, "main", &message, mentioned);
            assert_eq!(said.is_some(), expected, "own {scope:?} {kind} {mentioned}");
        };
        for (scope, direct, mentioned, group) in [
            (None, false, true, false),
            (Some("group-mentions"), false, true, false),
            (Some("group-all"), false, true, true),
            (Some("direct"), true, false, false),
            (Some("all"), true, true, true),
            (Some("off"), false, false, false),
            (Some("none"), false, false, false),
        ] {
            check(scope, "direct", true, direct);
            check(scope, "group", true, mentioned);
            check(scope, "group", false, group);
        }
    }
}
