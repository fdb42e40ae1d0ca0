//! Session keys: their grammar and who shares one. Source: src/routing/session-key.ts at 2026.9.6.

use std::collections::HashMap;

use channels::InboundMessage;
use channels::message::ChatKind;
use serde_json::Value;

use crate::native::agents::normalize_id;

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
    /// `channel:peer` or `peer`, lowercase, to the one name of that person.
    links: HashMap<String, String>,
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

/// Services whose ids mean something else in lowercase.
const CASE_MATTERS: [&str; 3] = ["matrix", "signal", "email"];

impl SessionRules {
    pub(super) fn read(config: &Value) -> Self {
        let session = &config["session"];
        let mut links = HashMap::new();
        for (name, peers) in session["identityLinks"].as_object().into_iter().flatten() {
            for peer in peers
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                links.insert(peer.trim().to_lowercase(), name.trim().to_lowercase());
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

    pub(super) fn key(
        &self,
        agent: &str,
        channel: &str,
        account: &str,
        message: &InboundMessage,
        scopes: Scopes,
    ) -> String {
        let agent = normalize_id(agent);
        let id = |id: &str| {
            if CASE_MATTERS.contains(&channel) {
                id.trim().to_owned()
            } else {
                id.trim().to_lowercase()
            }
        };
        let chat = &message.chat;
        let rest = match chat.kind {
            ChatKind::Direct => {
                let peer = id(&message.sender.id);
                let linked = |peer: &str| {
                    let lower = peer.to_lowercase();
                    self.links
                        .get(&format!("{channel}:{lower}"))
                        .or_else(|| self.links.get(&lower))
                        .cloned()
                        .unwrap_or_else(|| peer.to_owned())
                };
                match scopes.dm.unwrap_or(self.dm) {
                    DmScope::Main => "main".to_owned(),
                    DmScope::PerPeer => format!("direct:{}", linked(&peer)),
                    DmScope::PerChannelPeer => format!("{channel}:direct:{}", linked(&peer)),
                    DmScope::PerAccountChannelPeer => {
                        format!(
                            "{channel}:{}:direct:{}",
                            account.to_lowercase(),
                            linked(&peer)
                        )
                    }
                }
            }
            ChatKind::Group | ChatKind::Channel if scopes.group_main.unwrap_or(self.group_main) => {
                "main".to_owned()
            }
            ChatKind::Group | ChatKind::Channel => {
                let kind = if chat.kind == ChatKind::Group {
                    "group"
                } else {
                    "channel"
                };
                let thread = chat.thread.as_deref().map_or(String::new(), |thread| {
                    let word = if channel == "telegram" {
                        "topic"
                    } else {
                        "thread"
                    };
                    format!(":{word}:{thread}")
                });
                format!("{channel}:{kind}:{}{thread}", id(&chat.id))
            }
        };
        SessionKey { agent, rest }.to_string()
    }
}

/// The conversation within which order is kept: chat and thread on an account.
pub(crate) fn lane(channel: &str, account: &str, target: &str, thread: Option<&str>) -> String {
    match thread {
        None => format!("{channel}/{account}/{target}"),
        Some(thread) => format!("{channel}/{account}/{target}#{thread}"),
    }
}
