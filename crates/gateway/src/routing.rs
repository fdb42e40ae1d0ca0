//! From a message that arrived to the session it belongs to, or to the reason why nobody answers it. Pure: no
//! socket, no database, no clock; what was decided names the rule that decided it.
//!
//! Source: docs/channels/channel-routing.md, groups.md and pairing.md of the installed package at 2026.9.6.

mod bindings;
mod bots;
pub(crate) mod commands;
pub(crate) mod explain;
mod gate;
mod groups;
pub(crate) mod rights;
mod session_key;

use std::collections::BTreeSet;

use channels::InboundMessage;
use channels::accounts::DEFAULT_ACCOUNT;
use channels::message::ChatKind;
use serde_json::Value;

use crate::native::agents::{Roster, normalize_id};
use bindings::{Bindings, normalize_account};
pub(crate) use bots::LoopLimits;
use gate::Gate;
pub(crate) use groups::is_reference;
pub use rights::Standing;
use session_key::{DmScope, Scopes, SessionRules};
pub(crate) use session_key::{SessionKey, lane};

/// What is known about the sender that no message says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// Let in by a pairing code.
    pub paired: bool,
}

/// What is to be done with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nobody answers, for this reason.
    Drop {
        rule: String,
    },
    /// The sender is unknown: offer a pairing code.
    Pair,
    Route(Route),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub agent: String,
    pub session_key: String,
    /// The binding tier (`binding.peer`, …) or `default`.
    pub matched_by: &'static str,
    /// Whether this message may become the session's `lastRoute`: in a shared main session only the owner's.
    pub pins_route: bool,
    /// What the sender may order here.
    pub standing: Standing,
}

/// The rules of one configuration; made anew when it changes.
#[derive(Debug)]
pub struct Routing {
    roster: Roster,
    bindings: Bindings,
    sessions: SessionRules,
    gate: Gate,
    /// The configuration lists agents, so a binding to another one is a mistake.
    agents_listed: bool,
    /// Direct messages of another Telegram account, which nobody bound, keep to themselves.
    telegram_default: String,
}

impl Routing {
    /// `config`: includes and variables resolved. Never fails: a rule that can't be understood is left out and named
    /// in the log.
    pub fn from_config(config: &Value) -> Self {
        let roster = Roster::read(config);
        let bindings = Bindings::read(config);
        let listed = |path| match config.pointer(path) {
            Some(Value::Object(entries)) => !entries.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            _ => false,
        };
        Self {
            sessions: SessionRules::read(config),
            gate: Gate::read(config, &roster),
            agents_listed: listed("/agents/entries") || listed("/agents/list"),
            telegram_default: telegram_default(config, &roster),
            roster,
            bindings,
        }
    }

    /// Decides. `account_settings`: the section that holds for this account.
    pub fn decide(
        &self,
        channel: &str,
        account: &str,
        account_settings: &serde_json::Map<String, Value>,
        message: &InboundMessage,
        known: Known,
    ) -> Decision {
        let (agent, matched_by, scopes) = match self.agent(channel, account, message) {
            Ok(found) => found,
            Err(rule) => return Decision::Drop { rule },
        };
        match self
            .gate
            .check(channel, &agent, account_settings, message, known)
        {
            gate::Verdict::Pass => {}
            gate::Verdict::Pair => return Decision::Pair,
            gate::Verdict::Drop(rule) => return Decision::Drop { rule },
        }
        let session_key = self.key(&agent, channel, account, message, matched_by, scopes);
        let pins_route = message.chat.kind != ChatKind::Direct
            || !session_key.ends_with(":main")
            || gate::owner(account_settings)
                .is_none_or(|owner| gate::is_sender(channel, owner, &message.sender));
        Decision::Route(Route {
            agent,
            session_key,
            matched_by,
            pins_route,
            standing: self.gate.standing(channel, account_settings, message),
        })
    }

    /// Whether a message calls `agent`, by the service's own word or by a pattern.
    pub(crate) fn is_mentioned(&self, agent: &str, message: &InboundMessage) -> bool {
        message.mentions_us || self.gate.is_mentioned(agent, &message.text)
    }

    /// How often the sender of a message is answered in its chat; `None`: always, as a person is.
    pub(crate) fn loop_limits(
        &self,
        channel: &str,
        settings: &serde_json::Map<String, Value>,
        message: &InboundMessage,
    ) -> Option<LoopLimits> {
        self.gate.loop_limits(channel, settings, message)
    }

    fn agent(
        &self,
        channel: &str,
        account: &str,
        message: &InboundMessage,
    ) -> Result<(String, &'static str, Scopes), String> {
        let found = self
            .bindings
            .find(channel, &normalize_account(account), message);
        if let Some(found) = &found
            && !found.agent.is_empty()
        {
            let agent = normalize_id(found.agent);
            let known = !self.agents_listed || agent == "main" || self.roster.get(&agent).is_some();
            if !known {
                return Err(format!(
                    "a binding names agent {agent}, which agents does not list"
                ));
            }
            return Ok((agent, found.tier, found.scopes.clone()));
        }
        if self.roster.selection_required {
            return Err(
                "several agents and no binding for this chat (AGENT_SELECTION_REQUIRED)".to_owned(),
            );
        }
        let (tier, scopes) = found.map_or(("default", Scopes::default()), |found| {
            (found.tier, found.scopes.clone())
        });
        Ok((self.roster.default_id.clone(), tier, scopes))
    }

    fn key(
        &self,
        agent: &str,
        channel: &str,
        account: &str,
        message: &InboundMessage,
        matched_by: &str,
        mut scopes: Scopes,
    ) -> String {
        let account = normalize_account(account);
        // Source: `resolveTelegramNamedAccountBaseSessionKey` in extensions/telegram/src/dm-session-key.ts.
        if channel == "telegram" && matched_by == "default" && account != self.telegram_default {
            scopes.dm = Some(DmScope::PerAccountChannelPeer);
        }
        self.sessions
            .key(agent, channel, &account, message, &scopes)
    }

    /// The session of an answer that the API asked for (`turn`): as if the target had written to us.
    pub(crate) fn session_for_target(
        &self,
        channel: &str,
        account: &str,
        message: &InboundMessage,
    ) -> (String, String) {
        let (agent, tier, scopes) =
            self.agent(channel, account, message)
                .unwrap_or_else(|_several| {
                    (self.roster.default_id.clone(), "default", Scopes::default())
                });
        let key = self.key(&agent, channel, account, message, tier, scopes);
        (agent, key)
    }
}

/// Source: `resolveDefaultTelegramAccountSelection` in extensions/telegram/src/account-selection.ts.
fn telegram_default(config: &Value, roster: &Roster) -> String {
    // The accounts that bindings name, also those bindings that can't be used otherwise.
    let bound = config["bindings"].as_array().into_iter().flatten();
    let bound: Vec<(&Value, String)> = bound
        .filter_map(|entry| {
            let text = |key: &str| entry["match"][key].as_str().map(str::trim);
            let channel = text("channel")?.to_lowercase();
            let account = text("accountId")
                .filter(|id| channel == "telegram" && !id.is_empty() && *id != "*")?;
            Some((entry, normalize_account(account)))
        })
        .collect();
    let own = bound.iter().find(|(entry, _)| {
        let agent = entry["agentId"].as_str().unwrap_or_default();
        entry["type"] != "acp" && normalize_id(agent) == roster.default_id
    });
    if let Some((_, account)) = own.filter(|_| !roster.selection_required) {
        return account.clone();
    }
    let section = &config["channels"]["telegram"];
    let mut accounts: BTreeSet<String> = bound.into_iter().map(|(_, account)| account).collect();
    let named = section["accounts"].as_object().into_iter().flatten();
    accounts.extend(named.map(|(id, _)| normalize_account(id)));
    let has = |key: &str| match &section[key] {
        Value::String(text) => !text.trim().is_empty(),
        other => !other.is_null(),
    };
    if has("botToken") || has("tokenFile") {
        accounts.insert(DEFAULT_ACCOUNT.to_owned());
    }
    let chosen = section["defaultAccount"].as_str().map(normalize_account);
    match chosen.filter(|chosen| accounts.contains(chosen)) {
        Some(chosen) => chosen,
        None if accounts.contains(DEFAULT_ACCOUNT) => DEFAULT_ACCOUNT.to_owned(),
        None => accounts
            .pop_first()
            .unwrap_or_else(|| DEFAULT_ACCOUNT.to_owned()),
    }
}

#[cfg(test)]
mod tests;
