//! `bindings`: which agent a chat belongs to. Looked up by hash, so that ten thousand cost what ten do.
//!
//! Tiers in the original's order, source order within a tier; every field that a binding names must match.

use std::collections::HashMap;

use channels::InboundMessage;
use channels::accounts::DEFAULT_ACCOUNT;
use channels::message::ChatKind;
use serde_json::Value;

use super::session_key::{DmScope, Scopes};
use crate::native::agents::normalize_id;

#[derive(Debug)]
struct Binding {
    /// Empty: the default agent.
    agent: String,
    /// `None`: any account (`accountId: "*"`).
    account: Option<String>,
    /// Of a wildcard its kind alone counts.
    peer: Option<Kind>,
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

impl Kind {
    fn parse(text: &str) -> Option<Self> {
        match text.trim().to_lowercase().as_str() {
            "direct" | "dm" => Some(Self::Direct),
            "group" | "channel" => Some(Self::Room),
            _ => None,
        }
    }
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
    channels: HashMap<String, Channel>,
}

/// The bindings of one channel; indexes into `all` in source order.
#[derive(Debug, Default)]
struct Channel {
    direct: HashMap<String, Vec<usize>>,
    rooms: HashMap<String, Vec<usize>>,
    wildcard: Vec<usize>,
    guilds_with_roles: HashMap<String, Vec<usize>>,
    guilds: HashMap<String, Vec<usize>>,
    teams: HashMap<String, Vec<usize>>,
    accounts: HashMap<String, Vec<usize>>,
    any_account: Vec<usize>,
}

/// Services whose rooms belong to a team (`teamId`) and not to a guild (`guildId`).
const TEAMS: [&str; 3] = ["slack", "msteams", "mattermost"];

/// The account as bindings and keys name it. Source: `normalizeAccountId` in src/routing/account-id.ts.
pub(super) fn normalize_account(id: &str) -> String {
    let named = id.chars().any(|c| c.is_ascii_alphanumeric() || c == '_');
    let id = normalize_id(id);
    if !named || ["__proto__", "constructor", "prototype"].contains(&id.as_str()) {
        return DEFAULT_ACCOUNT.to_owned();
    }
    id
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
            // The other type binds conversations to coding tools, not chats to agents.
            if entry["type"] == "acp" {
                continue;
            }
            if let Err(reason) = bindings.add(entry) {
                tracing::warn!("bindings[{n}]: {reason}; it is left out");
            }
        }
        bindings
    }

    fn add(&mut self, entry: &Value) -> Result<(), &'static str> {
        let matches = &entry["match"];
        let channel = matches["channel"]
            .as_str()
            .map(|channel| channel.trim().to_lowercase())
            .filter(|channel| !channel.is_empty())
            .ok_or("match.channel is missing")?;
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let peer = match &matches["peer"] {
            Value::Null => None,
            // Half a peer must not become a binding of the whole account.
            peer => Some((
                peer["kind"]
                    .as_str()
                    .and_then(Kind::parse)
                    .ok_or("match.peer.kind is not direct, group or channel")?,
                text(&peer["id"]).ok_or("match.peer.id is missing")?,
            )),
        };
        let account = match matches["accountId"].as_str().unwrap_or_default().trim() {
            "*" => None,
            named => Some(normalize_account(named)),
        };
        let binding = Binding {
            agent: entry["agentId"]
                .as_str()
                .unwrap_or_default()
                .trim()
                .to_owned(),
            account: account.clone(),
            peer: peer.as_ref().map(|(kind, _)| *kind),
            guild: text(&matches["guildId"]),
            team: text(&matches["teamId"]),
            roles: matches["roles"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            scopes: Scopes {
                dm: entry["session"]["dmScope"]
                    .as_str()
                    .and_then(DmScope::parse),
                group_main: entry["session"]["groupScope"]
                    .as_str()
                    .map(|scope| scope == "main"),
            },
        };
        let index = self.all.len();
        let own = self.channels.entry(channel).or_default();
        let list = match (peer, &binding.guild, &binding.team, account) {
            (Some((_, id)), ..) if id == "*" => &mut own.wildcard,
            (Some((Kind::Direct, id)), ..) => own.direct.entry(id).or_default(),
            (Some((Kind::Room, id)), ..) => own.rooms.entry(id).or_default(),
            (None, Some(guild), ..) if binding.roles.is_empty() => {
                own.guilds.entry(guild.clone()).or_default()
            }
            (None, Some(guild), ..) => own.guilds_with_roles.entry(guild.clone()).or_default(),
            (None, None, Some(team), _) => own.teams.entry(team.clone()).or_default(),
            (None, None, None, Some(account)) => own.accounts.entry(account).or_default(),
            (None, None, None, None) => &mut own.any_account,
        };
        list.push(index);
        self.all.push(binding);
        Ok(())
    }

    /// `account`: normalised.
    pub(super) fn find(
        &self,
        channel: &str,
        account: &str,
        message: &InboundMessage,
    ) -> Option<Found<'_>> {
        let own = self.channels.get(channel)?;
        let chat = &message.chat;
        let parent = chat.parent.as_deref().map_or("", str::trim);
        let (guild, team) = match TEAMS.contains(&channel) {
            true => ("", parent),
            false => (parent, ""),
        };
        let kind = match chat.kind {
            ChatKind::Direct => Kind::Direct,
            ChatKind::Group | ChatKind::Channel => Kind::Room,
        };
        let roles = &message.sender.roles;
        let fits = |index: &&usize| {
            let binding = &self.all[**index];
            binding.account.as_ref().is_none_or(|own| own == account)
                && binding.peer.is_none_or(|own| own == kind)
                && binding.guild.as_ref().is_none_or(|own| own == guild)
                && binding.team.as_ref().is_none_or(|own| own == team)
                && (binding.roles.is_empty()
                    || binding.roles.iter().any(|role| roles.contains(role)))
        };
        let first = |list: &[usize], tier: &'static str| {
            list.iter().find(fits).map(|index| Found {
                agent: &self.all[*index].agent,
                tier,
                scopes: &self.all[*index].scopes,
            })
        };
        let keyed = |map: &HashMap<String, Vec<usize>>, key: &str, tier| {
            map.get(key).and_then(|list| first(list, tier))
        };
        let peers = match kind {
            Kind::Direct => &own.direct,
            Kind::Room => &own.rooms,
        };
        let peer = peer_id(channel, message);
        keyed(peers, &peer, "binding.peer")
            .or_else(|| {
                let parent = chat.thread.is_some() && kind == Kind::Room;
                parent.then(|| keyed(peers, chat.id.trim(), "binding.peer.parent"))?
            })
            .or_else(|| first(&own.wildcard, "binding.peer.wildcard"))
            .or_else(|| keyed(&own.guilds_with_roles, guild, "binding.guild+roles"))
            .or_else(|| keyed(&own.guilds, guild, "binding.guild"))
            .or_else(|| keyed(&own.teams, team, "binding.team"))
            .or_else(|| keyed(&own.accounts, account, "binding.account"))
            .or_else(|| first(&own.any_account, "binding.channel"))
    }
}

/// Whom a binding means by `peer.id`: the other person, or the room; of Telegram's forums the topic.
pub(super) fn peer_id(channel: &str, message: &InboundMessage) -> String {
    let chat = &message.chat;
    match (chat.kind, &chat.thread) {
        (ChatKind::Direct, _) => match message.sender.id.trim() {
            "" => chat.id.trim().to_owned(),
            sender => sender.to_owned(),
        },
        (_, Some(topic)) if channel == "telegram" => format!("{}:topic:{topic}", chat.id.trim()),
        _ => chat.id.trim().to_owned(),
    }
}
