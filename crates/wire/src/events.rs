//! The one list of events, and who may receive them.

mod table;

use crate::scope::{Scope, ScopeSet};
pub use table::EVENTS;

/// One event of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub name: &'static str,
    pub audience: Audience,
    /// Listed in `hello-ok.features.events`.
    pub advertised: bool,
    /// Left out (its number is used up all the same) when the client's buffer is over the limit; for any
    /// other event such a client is closed with 1008 `slow consumer`.
    pub drop_if_slow: bool,
}

/// Who may receive an event when it is broadcast.
/// Source: `EVENT_SCOPE_GUARDS` in src/gateway/server-broadcast-scopes.ts at 2026.9.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Every authenticated connection, nodes included.
    Everyone,
    /// Operators with one of these scopes.
    Scope(&'static [Scope]),
    /// Not in the guard table: sent to one named connection only, never broadcast.
    Targeted,
}

const fn event(name: &'static str, audience: Audience, advertised: bool) -> Event {
    Event {
        name,
        audience,
        advertised,
        drop_if_slow: false,
    }
}

impl Event {
    const fn drop_if_slow(self) -> Self {
        Self {
            drop_if_slow: true,
            ..self
        }
    }
}

pub fn lookup(name: &str) -> Option<&'static Event> {
    table::BY_NAME
        .binary_search_by(|index| EVENTS[usize::from(*index)].name.cmp(name))
        .ok()
        .map(|at| &EVENTS[usize::from(table::BY_NAME[at])])
}

/// May a broadcast of `name` reach this connection? Plugin events that the table does not know need
/// `operator.write`; any other unknown name reaches nobody. Source: `hasEventScope`.
pub fn may_receive(name: &str, role: &str, scopes: ScopeSet) -> bool {
    match lookup(name).map(|event| event.audience) {
        Some(audience) => audience.admits(role, scopes),
        None if name.starts_with("plugin.") => {
            Audience::Scope(&[Scope::Write]).admits(role, scopes)
        }
        None => false,
    }
}

impl Audience {
    pub fn admits(self, role: &str, scopes: ScopeSet) -> bool {
        match self {
            Self::Everyone => true,
            Self::Scope(any) => {
                role == "operator" && any.iter().any(|scope| scopes.satisfies(*scope))
            }
            Self::Targeted => false,
        }
    }
}

/// Events that a connection with the cap `session-scoped-events` receives only for sessions it subscribed
/// to. Source: `SESSION_SUBSCRIPTION_EVENTS` in src/gateway/server-broadcast.ts.
pub fn is_session_scoped(name: &str) -> bool {
    matches!(
        name,
        "agent" | "chat" | "chat.side_result" | "session.observer" | "session.tool"
    )
}

#[cfg(test)]
mod tests;
