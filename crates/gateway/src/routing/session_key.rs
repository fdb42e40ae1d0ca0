//! Session keys: their grammar and who shares one. Source: src/routing/session-key.ts at 2026.9.6.

use std::collections::HashMap;

use channels::InboundMessage;
use channels::message::ChatKind;
use serde_json::Value;

use super::bindings::peer_id;
use crate::native::agents::{MAIN_KEY, normalize_id};

/// Which direct messages share a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum DmScope {
    #[default]
    Main,
    PerPeer,
    PerChannelPeer,
    PerAccountChannelPeer,
}

impl DmScope {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "main" => Self::Main,
            "per-peer" => Self::PerPeer,
            "per-channel-peer" => Self::PerChannelPeer,
            "per-account-channel-peer" => Self::PerAccountChannelPeer,
            _ => return None,
        })
    }
}

/// What a binding says otherwise for the chats it matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Scopes {
    pub(super) dm: Option<DmScope>,
    /// Groups share the main session.
    pub(super) group_main: Option<bool>,
}

#[derive(Debug, Default)]
pub(super) struct SessionRules {
    dm: DmScope,
    group_main: bool,
    /// `channel:peer` or `peer`, lowercase, to the one name of that person and its place in the file.
    links: HashMap<String, (usize, String)>,
}

/// A key in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionKey {
    pub(crate) agent: String,
    /// Behind `agent:<id>:`.
    pub(crate) rest: String,
}

impl SessionKey {
    /// `agent:<id>:<rest>`; anything else is no key of an agent.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (agent, rest) = text.strip_prefix("agent:")?.split_once(':')?;
        let known = agent.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && agent.len() <= 64
            && agent
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
        (known && !rest.is_empty() && !rest.starts_with(':')).then(|| Self {
            agent: agent.to_owned(),
            rest: rest.to_owned(),
        })
    }
}

impl std::fmt::Display for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "agent:{}:{}", self.agent, self.rest)
    }
}

/// Whether the ids of these rooms mean something else in lowercase. Source: `casePreservingPeerSpan`.
fn case_matters(channel: &str, kind: ChatKind) -> bool {
    match channel {
        "matrix" => kind != ChatKind::Direct,
        "signal" => kind == ChatKind::Group,
        _ => false,
    }
}

impl SessionRules {
    pub(super) fn read(config: &Value) -> Self {
        let session = &config["session"];
        let mut links: HashMap<String, (usize, String)> = HashMap::new();
        let named = session["identityLinks"].as_object().into_iter().flatten();
        for (order, (name, peers)) in named.enumerate() {
            let name = name.trim();
            let listed = peers.as_array().into_iter().flatten();
            for peer in listed.filter_map(Value::as_str) {
                let peer = peer.trim().to_lowercase();
                if !name.is_empty() && !peer.is_empty() {
                    // Whoever is named twice is the first of them.
                    links
                        .entry(peer)
                        .or_insert_with(|| (order, name.to_lowercase()));
                }
            }
        }
        Self {
            dm: session["dmScope"]
                .as_str()
                .and_then(DmScope::parse)
                .unwrap_or_default(),
            group_main: session["groupScope"] == "main",
            links,
        }
    }

    pub(super) fn dm(&self, scopes: &Scopes) -> DmScope {
        scopes.dm.unwrap_or(self.dm)
    }

    /// `account`: normalised.
    pub(super) fn key(
        &self,
        agent: &str,
        channel: &str,
        account: &str,
        message: &InboundMessage,
        scopes: &Scopes,
    ) -> String {
        let chat = &message.chat;
        let rest = match chat.kind {
            ChatKind::Direct => self.direct(channel, account, message, self.dm(scopes)),
            ChatKind::Group | ChatKind::Channel => {
                // Posts of a Telegram channel are a group's to the original.
                let kind = match chat.kind {
                    ChatKind::Channel if channel != "telegram" => "channel",
                    _ => "group",
                };
                let fold = |id: &str| match case_matters(channel, chat.kind) {
                    true => id.trim().to_owned(),
                    false => id.trim().to_lowercase(),
                };
                let room = match scopes.group_main.unwrap_or(self.group_main) {
                    true => MAIN_KEY.to_owned(),
                    false => format!("{channel}:{kind}:{}", fold(&peer_id(channel, message))),
                };
                match &chat.thread {
                    // Of Telegram's forums the topic is part of the peer already.
                    Some(thread) if channel != "telegram" => {
                        let thread = match channel {
                            "matrix" => thread.trim().to_owned(),
                            _ => thread.trim().to_lowercase(),
                        };
                        format!("{room}:thread:{thread}")
                    }
                    _ => room,
                }
            }
        };
        SessionKey {
            agent: normalize_id(agent),
            rest,
        }
        .to_string()
    }

    fn direct(
        &self,
        channel: &str,
        account: &str,
        message: &InboundMessage,
        scope: DmScope,
    ) -> String {
        let peer = peer_id(channel, message).to_lowercase();
        if peer.is_empty() {
            return MAIN_KEY.to_owned();
        }
        let scoped = self.links.get(&format!("{channel}:{peer}"));
        let link = scoped
            .into_iter()
            .chain(self.links.get(&peer))
            .min_by_key(|(order, _)| *order);
        let peer = link.map_or(peer, |(_, name)| name.clone());
        match scope {
            DmScope::Main => MAIN_KEY.to_owned(),
            DmScope::PerPeer => format!("direct:{peer}"),
            DmScope::PerChannelPeer => format!("{channel}:direct:{peer}"),
            DmScope::PerAccountChannelPeer => format!("{channel}:{account}:direct:{peer}"),
        }
    }
}

/// The conversation within which order is kept: chat and thread on an account.
pub(crate) fn lane(channel: &str, account: &str, target: &str, thread: Option<&str>) -> String {
    match thread {
        None => format!("{channel}/{account}/{target}"),
        Some(thread) => format!("{channel}/{account}/{target}#{thread}"),
    }
}
