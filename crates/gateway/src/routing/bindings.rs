//! `bindings`: which agent a chat belongs to. Looked up by hash, so that ten thousand cost what ten do.
//!
//! Tiers in the original's order, source order within a tier; every field that a binding names must match.

use std::collections::HashMap;

use channels::InboundMessage;
use channels::accounts::DEFAULT_ACCOUNT;
use channels::message::ChatKind;
use serde_json::Value;

use super::session_key::{DmScope, Scopes};

#[derive(Debug)]
struct Binding {
    agent: String,
    /// `None`: the default account alone. `Some("*")`: any.
    account: Option<String>,
    peer: Option<(Kind, String)>,
    guild: Option<String>,
    team: Option<String>,
    roles: Vec<String>,
    scopes: Scopes,
}

/// `group` and `channel` are one kind when chats are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Direct,
    Room,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) agent: &'a str,
    pub(super) tier: &'static str,
    pub(super) scopes: &'a Scopes,
}

#[derive(Debug, Default)]
pub(super) struct Bindings {
    all: Vec<Binding>,
    /// By channel, kind and id; indexes into `all` in source order.
    peers: HashMap<(String, Kind, String), Vec<usize>>,
    /// The others, by channel.
    rest: HashMap<String, Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    wildcard: Vec<usize>,
    guilds: HashMap<String, Vec<usize>>,
    teams: HashMap<String, Vec<usize>>,
    accounts: HashMap<String, Vec<usize>>,
    channel: Vec<usize>,
}

impl Bindings {
    pub(super) fn read(config: &Value) -> Self {
        let mut bindings = Self::default();
        for (n, entry) in config["bindings"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            // Other types bind sessions to tools, not chats to agents.
            if entry["type"].as_str().is_some_and(|kind| kind != "route") {
                continue;
            }
            let matches = &entry["match"];
            let (Some(agent), Some(channel)) =
                (entry["agentId"].as_str(), matches["channel"].as_str())
            else {
                tracing::warn!(
                    "bindings[{n}] names no agentId or no match.channel and is left out"
                );
                continue;
            };
            bindings.add(agent, channel, entry);
        }
        bindings
    }

    fn add(&mut self, agent: &str, channel: &str, entry: &Value) {
        let matches = &entry["match"];
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let peer = text(&matches["peer"]["id"]).map(|id| {
            let kind = match matches["peer"]["kind"].as_str() {
                Some("direct" | "dm") => Kind::Direct,
                _ => Kind::Room,
            };
            (kind, id.to_lowercase())
        });
        let index = self.all.len();
        let channel = channel.trim().to_lowercase();
        let binding = Binding {
            agent: agent.to_owned(),
            account: text(&matches["accountId"]).map(|id| id.to_lowercase()),
            guild: text(&matches["guildId"]),
            team: text(&matches["teamId"]),
            roles: matches["roles"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(text)
                .collect(),
            scopes: Scopes {
                dm: entry["session"]["dmScope"]
                    .as_str()
                    .and_then(DmScope::parse),
                group_main: entry["session"]["groupScope"]
                    .as_str()
                    .map(|scope| scope == "main"),
            },
            peer: peer.clone(),
        };
        let rest = self.rest.entry(channel.clone()).or_default();
        match (&peer, &binding.guild, &binding.team, &binding.account) {
            (Some((_, id)), ..) if id == "*" => rest.wildcard.push(index),
            (Some((kind, id)), ..) => self
                .peers
                .entry((channel, *kind, id.clone()))
                .or_default()
                .push(index),
            (None, Some(guild), ..) => rest.guilds.entry(guild.clone()).or_default().push(index),
            (None, None, Some(team), _) => rest.teams.entry(team.clone()).or_default().push(index),
            (None, None, None, Some(account)) if account == "*" => rest.channel.push(index),
            (None, None, None, account) => {
                let account = account
                    .clone()
                    .unwrap_or_else(|| DEFAULT_ACCOUNT.to_owned());
                rest.accounts.entry(account).or_default().push(index);
            }
        }
        self.all.push(binding);
    }

    pub(super) fn find(
        &self,
        channel: &str,
        account: &str,
        message: &InboundMessage,
    ) -> Option<Found<'_>> {
        let chat = &message.chat;
        let (kind, id) = match chat.kind {
            ChatKind::Direct => (Kind::Direct, message.sender.id.to_lowercase()),
            ChatKind::Group | ChatKind::Channel => (Kind::Room, chat.id.to_lowercase()),
        };
        let account = account.to_lowercase();
        let fits = |index: &&usize| {
            let binding = &self.all[**index];
            let account_fits = match binding.account.as_deref() {
                None => account == DEFAULT_ACCOUNT,
                Some("*") => true,
                Some(own) => own == account,
            };
            account_fits
                && binding
                    .guild
                    .as_ref()
                    .is_none_or(|guild| chat.parent.as_ref() == Some(guild))
                && binding
                    .team
                    .as_ref()
                    .is_none_or(|team| chat.parent.as_ref() == Some(team))
                && (binding.roles.is_empty()
                    || binding
                        .roles
                        .iter()
                        .any(|role| message.sender.roles.contains(role)))
        };
        let first = |list: Option<&Vec<usize>>| list.into_iter().flatten().find(fits).copied();
        let found = |index: usize, tier: &'static str| Found {
            agent: &self.all[index].agent,
            tier,
            scopes: &self.all[index].scopes,
        };
        let peer = |id: &str| self.peers.get(&(channel.to_owned(), kind, id.to_owned()));
        // A thread of a forum may be bound by itself; else its chat is its parent.
        if let Some(thread) = &chat.thread {
            for sign in [":topic:", ":thread:"] {
                if let Some(index) = first(peer(&format!("{id}{sign}{thread}"))) {
                    return Some(found(index, "binding.peer"));
                }
            }
            if let Some(index) = first(peer(&id)) {
                return Some(found(index, "binding.peer.parent"));
            }
        } else if let Some(index) = first(peer(&id)) {
            return Some(found(index, "binding.peer"));
        }
        let rest = self.rest.get(channel)?;
        let wildcard = rest.wildcard.iter().find(|index| {
            self.all[**index]
                .peer
                .as_ref()
                .is_some_and(|(own, _)| *own == kind)
                && fits(index)
        });
        if let Some(index) = wildcard {
            return Some(found(*index, "binding.peer.wildcard"));
        }
        if let Some(parent) = &chat.parent {
            let guild = rest.guilds.get(parent);
            let with_roles = |index: &&usize| !self.all[**index].roles.is_empty();
            if let Some(index) = guild.into_iter().flatten().filter(with_roles).find(fits) {
                return Some(found(*index, "binding.guild+roles"));
            }
            let plain = |index: &&usize| self.all[**index].roles.is_empty();
            if let Some(index) = guild.into_iter().flatten().filter(plain).find(fits) {
                return Some(found(*index, "binding.guild"));
            }
            if let Some(index) = first(rest.teams.get(parent)) {
                return Some(found(index, "binding.team"));
            }
        }
        if let Some(index) = first(rest.accounts.get(&account)) {
            return Some(found(index, "binding.account"));
        }
        rest.channel
            .iter()
            .find(fits)
            .map(|index| found(*index, "binding.channel"))
    }
}
