//! From a message that arrived to the session it belongs to, or to the reason why nobody answers it. Pure: no
//! socket, no database, no clock; what was decided names the rule that decided it.
//!
//! Source: docs/channels/channel-routing.md, groups.md and pairing.md of the installed package at 2026.9.6.

mod bindings;
mod gate;
mod session_key;

use channels::InboundMessage;
use channels::message::ChatKind;
use serde_json::Value;

use crate::native::agents::{Roster, normalize_id};
use bindings::Bindings;
pub(crate) use gate::Gate;
use session_key::{Scopes, SessionRules};
pub(crate) use session_key::{SessionKey, lane};

/// What is known about the sender that no message says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known {
    /// Let in by a pairing code.
    pub(crate) paired: bool,
}

/// What is to be done with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nobody answers, for this reason.
    Drop {
        rule: String,
    },
    /// The sender is unknown: offer a pairing code.
    Pair,
    Route(Route),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) agent: String,
    pub(crate) session_key: String,
    /// The binding tier (`binding.peer`, …) or `default`.
    pub(crate) matched_by: &'static str,
    /// Whether this message may become the session's `lastRoute`: in a shared main session only the owner's.
    pub(crate) pins_route: bool,
}

/// The rules of one configuration; made anew when it changes.
#[derive(Debug)]
pub(crate) struct Routing {
    roster: Roster,
    bindings: Bindings,
    sessions: SessionRules,
    gate: Gate,
}

impl Routing {
    /// `config`: includes and variables resolved. Never fails: a rule that can't be understood is left out and named
    /// in the log.
    pub(crate) fn from_config(config: &Value) -> Self {
        Self {
            roster: Roster::read(config),
            bindings: Bindings::read(config),
            sessions: SessionRules::read(config),
            gate: Gate::read(config),
        }
    }

    /// Decides. `account_settings`: the section that holds for this account.
    pub(crate) fn decide(
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
        let session_key = self.sessions.key(&agent, channel, account, message, scopes);
        let pins_route = message.chat.kind != ChatKind::Direct
            || !session_key.ends_with(":main")
            || gate::owner(account_settings)
                .is_none_or(|owner| gate::is_sender(channel, owner, &message.sender));
        Decision::Route(Route {
            agent,
            session_key,
            matched_by,
            pins_route,
        })
    }

    fn agent(
        &self,
        channel: &str,
        account: &str,
        message: &InboundMessage,
    ) -> Result<(String, &'static str, Scopes), String> {
        if let Some(found) = self.bindings.find(channel, account, message) {
            return Ok((normalize_id(found.agent), found.tier, found.scopes.clone()));
        }
        if self.roster.selection_required {
            return Err(
                "several agents and no binding for this chat (AGENT_SELECTION_REQUIRED)".to_owned(),
            );
        }
        Ok((self.roster.default_id.clone(), "default", Scopes::default()))
    }

    /// The session of an answer that the API asked for (`turn`): as if the target had written to us.
    pub(crate) fn session_for_target(
        &self,
        channel: &str,
        account: &str,
        message: &InboundMessage,
    ) -> (String, String) {
        let (agent, _, scopes) = self
            .agent(channel, account, message)
            .unwrap_or_else(|_several| {
                (self.roster.default_id.clone(), "default", Scopes::default())
            });
        let key = self.sessions.key(&agent, channel, account, message, scopes);
        (agent, key)
    }
}

#[cfg(test)]
mod tests;
