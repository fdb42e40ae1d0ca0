//! Who is answered: allow lists, direct-message policy, group policy, mention gates.
//!
//! Source: docs/channels/groups.md, group-messages.md, pairing.md, bot-loop-protection.md at 2026.9.6.

use std::collections::HashMap;

use channels::InboundMessage;
use channels::message::{ChatKind, EventKind, Sender};
use regex_lite::Regex;
use serde_json::{Map, Value};

use super::Known;
use crate::native::agents::normalize_id;

#[derive(Debug)]
pub(super) enum Verdict {
    Pass,
    Pair,
    Drop(String),
}

/// Mention patterns by agent; `None`: of all.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    patterns: HashMap<Option<String>, Vec<Regex>>,
}

impl Gate {
    pub(super) fn read(config: &Value) -> Self {
        let mut gate = Self::default();
        gate.add(
            None,
            &config["messages"]["groupChat"]["mentionPatterns"],
            "messages.groupChat",
        );
        let listed = config["agents"]["list"].as_array().into_iter().flatten();
        for agent in listed {
            if let Some(id) = agent["id"].as_str() {
                gate.add(
                    Some(normalize_id(id)),
                    &agent["groupChat"]["mentionPatterns"],
                    id,
                );
            }
        }
        gate
    }

    fn add(&mut self, agent: Option<String>, patterns: &Value, of: &str) {
        for pattern in patterns
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            // The original compiles them case-insensitively; ours also can't run away.
            match Regex::new(&format!("(?i){pattern}")) {
                Ok(regex) => self.patterns.entry(agent.clone()).or_default().push(regex),
                Err(error) => {
                    tracing::warn!(pattern, of, %error, "a mention pattern can't be used and is left out")
                }
            }
        }
    }

    pub(super) fn check(
        &self,
        channel: &str,
        agent: &str,
        settings: &Map<String, Value>,
        message: &InboundMessage,
        known: Known,
    ) -> Verdict {
        match message.kind {
            EventKind::Message | EventKind::Button => {}
            EventKind::Edit => {
                return Verdict::Drop("an edit of a message that was taken already".to_owned());
            }
            EventKind::Reaction => return Verdict::Drop("a reaction".to_owned()),
        }
        if message.sender.is_bot && settings.get("allowBots") != Some(&Value::Bool(true)) {
            return Verdict::Drop("the sender is a bot (allowBots is off)".to_owned());
        }
        match message.chat.kind {
            ChatKind::Direct => direct(channel, settings, message, known),
            ChatKind::Group | ChatKind::Channel => self.group(channel, agent, settings, message),
        }
    }

    fn group(
        &self,
        channel: &str,
        agent: &str,
        settings: &Map<String, Value>,
        message: &InboundMessage,
    ) -> Verdict {
        let groups = settings.get("groups").and_then(Value::as_object);
        let group = groups.and_then(|groups| groups.get(&message.chat.id));
        let any = groups.and_then(|groups| groups.get("*"));
        let topic = message
            .chat
            .thread
            .as_ref()
            .and_then(|thread| group?["topics"].get(thread));
        let said = |key: &str| {
            [topic, group, any]
                .into_iter()
                .flatten()
                .find_map(|level| level.get(key))
                .cloned()
        };
        let policy = text(settings, "groupPolicy").unwrap_or(if channel == "webhook" {
            "open"
        } else {
            "allowlist"
        });
        match policy {
            "disabled" => return Verdict::Drop("groupPolicy is disabled".to_owned()),
            "open" => {}
            _ => {
                let listed = groups.is_some_and(|groups| !groups.is_empty());
                if listed && group.is_none() && any.is_none() {
                    return Verdict::Drop(format!("group {} is not in groups", message.chat.id));
                }
                let own = said("allowFrom").map(|list| entries(&list));
                let allowed = own
                    .or_else(|| list(settings, "groupAllowFrom"))
                    .or_else(|| list(settings, "allowFrom"))
                    .unwrap_or_default();
                if !listed && allowed.is_empty() {
                    return Verdict::Drop(
                        "groupPolicy is allowlist and no group or sender is listed".to_owned(),
                    );
                }
                let admitted = allowed
                    .iter()
                    .any(|entry| is_sender(channel, entry, &message.sender))
                    || (listed && allowed.is_empty());
                if !admitted {
                    return Verdict::Drop(format!(
                        "sender {} is not in groupAllowFrom",
                        message.sender.id
                    ));
                }
            }
        }
        if said("enabled") == Some(Value::Bool(false)) {
            return Verdict::Drop(format!("group {} is switched off", message.chat.id));
        }
        let required = said("requireMention")
            .and_then(|value| value.as_bool())
            .unwrap_or(true);
        if !required || message.mentions_us || self.is_mentioned(agent, &message.text) {
            Verdict::Pass
        } else {
            Verdict::Drop("not mentioned (requireMention)".to_owned())
        }
    }

    fn is_mentioned(&self, agent: &str, text: &str) -> bool {
        let own = self.patterns.get(&Some(agent.to_owned()));
        own.or_else(|| self.patterns.get(&None))
            .into_iter()
            .flatten()
            .any(|pattern| pattern.is_match(text))
    }
}

fn direct(
    channel: &str,
    settings: &Map<String, Value>,
    message: &InboundMessage,
    known: Known,
) -> Verdict {
    // Matrix has its own place for these. Source: `docs/channels/matrix.md`, access and policy.
    let dm = settings.get("dm").and_then(Value::as_object);
    if dm.is_some_and(|dm| dm.get("enabled") == Some(&Value::Bool(false))) {
        return Verdict::Drop("dm.enabled is false".to_owned());
    }
    let written = text(settings, "dmPolicy").or_else(|| text(dm?, "policy"));
    let policy = written.unwrap_or(match channel {
        // Whoever can sign was let in by the secret.
        "webhook" | "webchat" | "api" => "open",
        // A sender's address is easily forged, and an answer to a stranger is an answer to spam.
        "email" => "allowlist",
        _ => "pairing",
    });
    let allowed = list(settings, "allowFrom")
        .or_else(|| list(dm?, "allowFrom"))
        .unwrap_or_default();
    let listed = allowed
        .iter()
        .any(|entry| is_sender(channel, entry, &message.sender));
    match policy {
        "disabled" => Verdict::Drop("dmPolicy is disabled".to_owned()),
        "open" if allowed.is_empty() || listed => Verdict::Pass,
        "open" | "allowlist" if !listed => {
            Verdict::Drop(format!("sender {} is not in allowFrom", message.sender.id))
        }
        _ if listed || known.paired => Verdict::Pass,
        _ => Verdict::Pair,
    }
}

/// The one person that an account belongs to: the only entry of `allowFrom` that is no wildcard.
pub(super) fn owner(settings: &Map<String, Value>) -> Option<&str> {
    let allowed = settings.get("allowFrom")?.as_array()?;
    let [Value::String(only)] = allowed.as_slice() else {
        return None;
    };
    (only.trim() != "*").then_some(only.trim())
}

/// Whether an entry of an allow list means this sender: `*`, an id, `@name`, with or without the service's prefix.
pub(super) fn is_sender(channel: &str, entry: &str, sender: &Sender) -> bool {
    let entry = entry.trim();
    if entry == "*" {
        return true;
    }
    let short = match channel {
        "telegram" => "tg:",
        _ => "",
    };
    let lower = entry.to_lowercase();
    let bare = lower
        .strip_prefix(&format!("{channel}:"))
        .or_else(|| lower.strip_prefix(short).filter(|_| !short.is_empty()))
        .unwrap_or(&lower)
        .trim_start_matches("user:");
    bare == sender.id.to_lowercase()
        || sender
            .username
            .as_ref()
            .is_some_and(|name| bare.trim_start_matches('@') == name.to_lowercase())
}

fn text<'a>(settings: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    settings.get(key).and_then(Value::as_str)
}

fn list(settings: &Map<String, Value>, key: &str) -> Option<Vec<String>> {
    settings.get(key).map(entries)
}

fn entries(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| match entry {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
        .collect()
}
