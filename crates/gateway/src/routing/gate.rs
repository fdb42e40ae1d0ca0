//! Who is answered: allow lists, direct-message policy, group policy, mention gates.
//!
//! Source: docs/channels/groups.md, group-messages.md, pairing.md, bot-loop-protection.md at 2026.9.6.

use std::collections::HashMap;

use channels::InboundMessage;
use channels::message::{ChatKind, EventKind, Sender};
use regex_lite::Regex;
use serde_json::{Map, Value};

use super::bots::{Bots, LoopLimits};
use super::groups::{self, Groups};
use super::rights::{Rights, Standing};
use super::{Known, commands};
use crate::native::agents::Roster;

#[derive(Debug)]
pub(super) enum Verdict {
    Pass,
    Pair,
    Drop(String),
}

#[derive(Debug, Default)]
pub(crate) struct Gate {
    shared: Option<Vec<Regex>>,
    /// By agent id, of those that have their own.
    own: HashMap<String, Mentions>,
    rights: Rights,
    groups: Groups,
    bots: Bots,
}

#[derive(Debug)]
enum Mentions {
    Patterns(Vec<Regex>),
    /// Without any pattern in the configuration an agent listens to its name and its emoji.
    Identity {
        name: Option<String>,
        emoji: Option<String>,
    },
}

impl Gate {
    pub(super) fn read(config: &Value, roster: &Roster) -> Self {
        let mut gate = Self {
            shared: patterns(&config["messages"], "messages"),
            own: HashMap::new(),
            rights: Rights::read(config),
            groups: Groups::read(config),
            bots: Bots::read(config),
        };
        for agent in &roster.agents {
            let entry = Value::Object(agent.entry.clone());
            let text = |key: &str| entry["identity"][key].as_str().map(str::to_owned);
            let mentions = match patterns(&entry, &agent.id) {
                Some(own) => Mentions::Patterns(own),
                None if gate.shared.is_some() => continue,
                None => Mentions::Identity {
                    name: text("name").map(|name| folded(&name)),
                    emoji: text("emoji").map(|emoji| emoji.trim().to_owned()),
                },
            };
            gate.own.insert(agent.id.clone(), mentions);
        }
        gate
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
        if self.bots.is_bot(channel, &message.sender) {
            let is_mentioned = || message.mentions_us || self.is_mentioned(agent, &message.text);
            if let Err(rule) = Bots::may(settings, message, is_mentioned) {
                return Verdict::Drop(rule.to_owned());
            }
        }
        match message.chat.kind {
            ChatKind::Direct => self.direct(channel, settings, message, known),
            ChatKind::Group | ChatKind::Channel => self.group(channel, agent, settings, message),
        }
    }

    /// How often the sender of a message is answered; `None`: always.
    pub(super) fn loop_limits(
        &self,
        channel: &str,
        settings: &Map<String, Value>,
        message: &InboundMessage,
    ) -> Option<LoopLimits> {
        let is_bot = self.bots.is_bot(channel, &message.sender);
        is_bot.then(|| self.bots.limits(channel, settings, message))?
    }

    /// What the sender of a message that may be answered may order.
    pub(super) fn standing(
        &self,
        channel: &str,
        settings: &Map<String, Value>,
        message: &InboundMessage,
    ) -> Standing {
        let own = match message.chat.kind {
            ChatKind::Direct => None,
            ChatKind::Group | ChatKind::Channel => allowed_in_group(settings, message),
        };
        self.rights
            .of(channel, settings, own, message, &self.groups)
    }

    fn group(
        &self,
        channel: &str,
        agent: &str,
        settings: &Map<String, Value>,
        message: &InboundMessage,
    ) -> Verdict {
        let telegram = channel == "telegram";
        let chat = &message.chat.id;
        let groups = settings.get("groups").and_then(Value::as_object);
        let exact = groups.and_then(|groups| groups.get(chat));
        let any = groups.and_then(|groups| groups.get("*"));
        let listed = groups.is_some_and(|groups| !groups.is_empty());
        let topics = topics(exact.or(any), message);
        let said = |levels: &[Option<&Value>], key: &str| {
            let mut all = topics.iter().chain(levels).copied().flatten();
            all.find_map(|level| level.get(key)).cloned()
        };
        let near = [exact.or(any)];
        let off = |level: Option<&Value>| level.is_some_and(|level| level["enabled"] == false);
        let topic_off = topics
            .into_iter()
            .flatten()
            .find_map(|topic| topic.get("enabled"));
        if off(near[0]) || topic_off == Some(&Value::Bool(false)) {
            return Verdict::Drop(format!("group {chat} is switched off"));
        }
        let own = allowed_in_group(settings, message);
        let is_allowed = |list: &[String]| self.groups.has(channel, list, &message.sender);
        let turned_away =
            |list: &str| Verdict::Drop(format!("sender {} is not in {list}", message.sender.id));
        if own.as_ref().is_some_and(|own| !is_allowed(own)) {
            return turned_away("the allowFrom of the group");
        }
        let fallback = match channel {
            "webhook" => "open",
            _ => "allowlist",
        };
        let of_account = text(settings, "groupPolicy").unwrap_or(fallback);
        let nearer = said(&near, "groupPolicy");
        let policy = nearer
            .as_ref()
            .and_then(Value::as_str)
            .unwrap_or(of_account);
        if policy == "disabled" {
            return Verdict::Drop("groupPolicy is disabled".to_owned());
        }
        let allowed = own
            .or_else(|| list(settings, "groupAllowFrom"))
            .or_else(|| list(settings, "allowFrom"))
            .unwrap_or_default();
        if listed && (of_account == "disabled" || (exact.is_none() && any.is_none())) {
            return Verdict::Drop(format!("group {chat} is not in groups"));
        }
        // Elsewhere than on Telegram listed senders are enough.
        if !listed && of_account == "allowlist" && (telegram || allowed.is_empty()) {
            return Verdict::Drop(
                "groupPolicy is allowlist and groups does not list this one".to_owned(),
            );
        }
        if policy == "allowlist" {
            let by_group = match telegram {
                true => exact.is_some(),
                false => listed,
            };
            if allowed.is_empty() && !by_group {
                return Verdict::Drop(
                    "groupPolicy is allowlist and no group or sender is listed".to_owned(),
                );
            }
            if !allowed.is_empty() && !is_allowed(&allowed) {
                return turned_away("groupAllowFrom");
            }
        }
        let required = said(&[exact, any], "requireMention")
            .and_then(|value| value.as_bool())
            .unwrap_or(true);
        if !required || message.mentions_us || self.is_mentioned(agent, &message.text) {
            return Verdict::Pass;
        }
        // Source: `shouldBypassMention` in src/channels/mention-gating.ts.
        let is_control = commands::read(message).is_some_and(|order| order.kind.is_control());
        match is_control && self.standing(channel, settings, message).reset {
            true => Verdict::Pass,
            false => Verdict::Drop("not mentioned (requireMention)".to_owned()),
        }
    }

    fn direct(
        &self,
        channel: &str,
        settings: &Map<String, Value>,
        message: &InboundMessage,
        known: Known,
    ) -> Verdict {
        // Telegram has settings for one chat, as for one group.
        let chats = settings.get("direct").filter(|_| channel == "telegram");
        let own = chats.and_then(|chats| chats.get(&message.chat.id).or_else(|| chats.get("*")));
        if own.is_some_and(|own| own["enabled"] == false) {
            return Verdict::Drop(format!("chat {} is switched off", message.chat.id));
        }
        // Matrix has its own place for these. Source: `docs/channels/matrix.md`, access and policy.
        let section = settings.get("dm").unwrap_or(&Value::Null);
        if section["enabled"] == false {
            return Verdict::Drop("dm.enabled is false".to_owned());
        }
        // Whoever can sign was let in by the secret.
        let trusted = ["webhook", "webchat", "api"].contains(&channel);
        let policy = own
            .and_then(|own| own["dmPolicy"].as_str())
            .or_else(|| text(settings, "dmPolicy"))
            .or_else(|| section["policy"].as_str())
            .unwrap_or(match channel {
                _ if trusted => "open",
                // A sender's address is easily forged, and an answer to a stranger is an answer to spam.
                "email" => "allowlist",
                _ => "pairing",
            });
        let allowed = own
            .and_then(|own| own.get("allowFrom"))
            .map(entries)
            .or_else(|| list(settings, "allowFrom"))
            .or_else(|| section.get("allowFrom").map(entries))
            .unwrap_or_default();
        let listed = self.groups.has(channel, &allowed, &message.sender);
        match policy {
            "disabled" => Verdict::Drop("dmPolicy is disabled".to_owned()),
            _ if listed => Verdict::Pass,
            "open" if trusted && allowed.is_empty() => Verdict::Pass,
            "open" if allowed.is_empty() => {
                Verdict::Drop("dmPolicy is open and allowFrom lacks \"*\"".to_owned())
            }
            "open" | "allowlist" => {
                Verdict::Drop(format!("sender {} is not in allowFrom", message.sender.id))
            }
            _ if known.paired => Verdict::Pass,
            _ => Verdict::Pair,
        }
    }

    pub(super) fn is_mentioned(&self, agent: &str, text: &str) -> bool {
        let text = folded(text);
        let by_pattern = |all: &[Regex]| all.iter().any(|pattern| pattern.is_match(&text));
        match self.own.get(agent) {
            Some(Mentions::Patterns(own)) => by_pattern(own),
            Some(Mentions::Identity { name, emoji }) => {
                let sign = emoji
                    .as_deref()
                    .is_some_and(|e| !e.is_empty() && text.contains(e));
                sign || name.as_deref().is_some_and(|name| is_named(&text, name))
            }
            None => self.shared.as_deref().is_some_and(by_pattern),
        }
    }
}

/// The patterns of `groupChat.mentionPatterns`; `None` when the key is not there.
fn patterns(level: &Value, of: &str) -> Option<Vec<Regex>> {
    let listed = level["groupChat"].as_object()?.get("mentionPatterns")?;
    let mut all = Vec::new();
    for pattern in listed.as_array().into_iter().flatten() {
        let Some(pattern) = pattern.as_str() else {
            continue;
        };
        // `"\b"` with one backslash is a backspace in JSON; people mean the edge of a word.
        let pattern = pattern.replace('\u{8}', r"\b");
        // The original compiles them case-insensitively; ours also can't run away.
        match Regex::new(&format!("(?i){pattern}")) {
            Ok(regex) => all.push(regex),
            Err(error) => {
                tracing::warn!(pattern, of, %error, "a mention pattern can't be used and is left out");
            }
        }
    }
    Some(all)
}

/// Lowercase, without characters that can't be seen. Source: `normalizeMentionText`.
fn folded(text: &str) -> String {
    let hidden = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    let shown: String = text.chars().filter(|c| !hidden(*c)).collect();
    shown.trim().to_lowercase()
}

/// Whether `name` stands in `text` as words of their own, with or without the emoji that decorate it.
fn is_named(text: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let decorates = |c: char| !c.is_ascii() && !word(c) && name.contains(c);
    let plain = |text: &str| {
        let plain: String = text.chars().filter(|c| !decorates(*c)).collect();
        plain.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let (text, name) = (plain(text), plain(name));
    name.contains(word)
        && text.match_indices(&name).any(|(at, found)| {
            !text[..at].ends_with(word) && !text[at + found.len()..].starts_with(word)
        })
}

/// The one person that an account belongs to: the only entry of `allowFrom` that is no wildcard.
pub(super) fn owner(settings: &Map<String, Value>) -> Option<&str> {
    let allowed = settings.get("allowFrom")?.as_array()?;
    let [Value::String(only)] = allowed.as_slice() else {
        return None;
    };
    (only.trim() != "*" && !groups::is_reference(only)).then_some(only.trim())
}

/// Whether an entry of an allow list means this sender: `*`, an id, `@name`, with or without the service's prefix.
/// On Telegram numbers alone: a name there can be given up and taken by another.
pub(super) fn is_sender(channel: &str, entry: &str, sender: &Sender) -> bool {
    let entry = entry.trim();
    if entry == "*" {
        return true;
    }
    let lower = entry.to_lowercase();
    let bare = lower.strip_prefix(&format!("{channel}:")).unwrap_or(&lower);
    if channel == "telegram" {
        let bare = bare.strip_prefix("tg:").unwrap_or(bare);
        return bare == sender.id && bare.bytes().all(|byte| byte.is_ascii_digit());
    }
    let bare = bare.trim_start_matches("user:");
    bare == sender.id.to_lowercase()
        || sender
            .username
            .as_ref()
            .is_some_and(|name| bare.trim_start_matches('@') == name.to_lowercase())
}

/// The settings of the topic of a message within its group, and of all topics there.
fn topics<'a>(group: Option<&'a Value>, message: &InboundMessage) -> [Option<&'a Value>; 2] {
    let topic = |id: &str| group?.get("topics")?.get(id);
    let thread = message.chat.thread.as_deref();
    [thread.and_then(topic), thread.and_then(|_| topic("*"))]
}

/// `allowFrom` of the topic or the group itself.
fn allowed_in_group(
    settings: &Map<String, Value>,
    message: &InboundMessage,
) -> Option<Vec<String>> {
    let groups = settings.get("groups")?.as_object()?;
    let group = groups.get(&message.chat.id).or_else(|| groups.get("*"));
    let mut levels = topics(group, message).into_iter().chain([group]).flatten();
    levels.find_map(|level| level.get("allowFrom")).map(entries)
}

fn text<'a>(settings: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    settings.get(key).and_then(Value::as_str)
}

fn list(settings: &Map<String, Value>, key: &str) -> Option<Vec<String>> {
    settings.get(key).map(entries)
}

pub(super) fn entries(list: &Value) -> Vec<String> {
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
