//! When a conversation begins anew by itself: `session.reset`, `resetByType` and `resetByChannel`, which nobody need set.
//!
//! Source: docs/concepts/session.md ("Session lifecycle") and src/config/sessions/reset-policy.ts at 2026.9.6;
//! `record-cases.mjs` records what the latter says.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::Value;
use store::{AgentSession, TxError};

use super::tools::BY_A_SESSION;
use super::{HEARTBEAT_RUN, Input};

/// Clients in the transcript that are no person.
const NOBODY: [&str; 2] = ["cron", BY_A_SESSION];
const AT_HOUR: f64 = 4.0;

/// When a conversation is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Policy {
    /// The hour of the day at which those of before end.
    daily: Option<i8>,
    idle_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Direct,
    Group,
    Thread,
}

impl Policy {
    /// What holds for a session; `None`: it goes on for ever. `channel`: of the chat it is held in.
    pub(super) fn of(config: &Value, session_key: &str, channel: Option<&str>) -> Option<Self> {
        let session = config.get("session")?;
        let named = |name: &str, key: &str| session.get(name)?.get(key).filter(|it| it.is_object());
        let by_channel =
            channel.and_then(|channel| named("resetByChannel", &channel.to_lowercase()));
        let kind = match kind(session_key) {
            Kind::Direct => "direct",
            Kind::Group => "group",
            Kind::Thread => "thread",
        };
        let base = by_channel.or_else(|| session.get("reset").filter(|it| it.is_object()));
        let by_type = named("resetByType", kind).filter(|_| by_channel.is_none());
        Self::read(base, by_type)
    }

    fn read(base: Option<&Value>, by_type: Option<&Value>) -> Option<Self> {
        let mode = |reset: Option<&Value>| reset?.get("mode")?.as_str().map(str::to_owned);
        let of_base = mode(base);
        let inherited = of_base
            .clone()
            .filter(|mode| by_type.is_some() && mode != "none");
        let mode = mode(by_type)
            .or(inherited)
            .or_else(|| by_type.map(|_| "daily".to_owned()))
            .or(of_base)
            .or_else(|| base.map(|_| "daily".to_owned()))?;
        if mode == "none" {
            return None;
        }
        let number = |name: &str| {
            let of = |reset: Option<&Value>| reset?.get(name)?.as_f64();
            of(by_type).or_else(|| of(base))
        };
        let hour = number("atHour").unwrap_or(AT_HOUR).floor().clamp(0.0, 23.0);
        let idle = number("idleMinutes")
            .map(f64::floor)
            .filter(|minutes| *minutes > 0.0);
        let policy = Self {
            daily: (mode == "daily").then_some(hour as i8),
            idle_ms: idle.map(|minutes| (minutes * 60_000.0) as i64),
        };
        (policy.daily.is_some() || policy.idle_ms.is_some()).then_some(policy)
    }

    /// Whether a conversation is over that began and was last spoken in at these times.
    fn is_over(self, started_ms: i64, spoken_ms: i64, now_ms: i64, zone: &TimeZone) -> bool {
        let ended_today = self.daily.is_some_and(|hour| {
            boundary(now_ms, hour, zone).is_some_and(|boundary| started_ms < boundary)
        });
        ended_today
            || self
                .idle_ms
                .is_some_and(|idle| now_ms > spoken_ms.saturating_add(idle))
    }

    /// Whether the conversation of a session is over, as its lines tell.
    pub(super) fn ends(
        self,
        agents: &store::Agents<'_>,
        session: &AgentSession,
        now_ms: i64,
    ) -> Result<bool, TxError> {
        let Some(first) = agents.first(&session.session_id)? else {
            return Ok(false);
        };
        let spoken = match self.idle_ms {
            None => now_ms,
            Some(_) => agents
                .last_asked(&session.session_id, &NOBODY, HEARTBEAT_RUN)?
                .unwrap_or(first),
        };
        Ok(self.is_over(first, spoken, now_ms, &TimeZone::system()))
    }
}

/// Whether a turn is asked for by a person, and not by the clock or another session: only those end a conversation, or keep it going.
pub(super) fn asks_in_person(input: &Input) -> bool {
    let by_nobody = input.client.as_ref().is_some_and(|(id, _)| is_nobody(id));
    !by_nobody && !input.run_id.starts_with(HEARTBEAT_RUN)
}

/// Whether a client is no person: the clock, or another session.
fn is_nobody(client: &str) -> bool {
    NOBODY.contains(&client)
}

/// Whether a client is a person's: neither the clock nor another session, nor what wakes an agent.
pub(super) fn is_a_persons(client: &str) -> bool {
    !is_nobody(client) && !["heartbeat", "wake"].contains(&client)
}

fn kind(session_key: &str) -> Kind {
    let key = session_key.to_lowercase();
    if key.contains(":thread:") || key.contains(":topic:") {
        Kind::Thread
    } else if key.contains(":group:") || key.contains(":channel:") {
        Kind::Group
    } else {
        Kind::Direct
    }
}

/// The last time that it was this hour, to the full hour, where this machine stands.
fn boundary(now_ms: i64, hour: i8, zone: &TimeZone) -> Option<i64> {
    let now = Timestamp::from_millisecond(now_ms)
        .ok()?
        .to_zoned(zone.clone());
    let at = |day: jiff::civil::Date| {
        let at = day.at(hour, 0, 0, 0).to_zoned(zone.clone()).ok()?;
        Some(at.timestamp().as_millisecond())
    };
    match at(now.date())? {
        today if now_ms < today => at(now.date().checked_sub(Span::new().days(1)).ok()?),
        today => Some(today),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_the_original_would_end_it() {
        let cases: Value =
            serde_json::from_str(include_str!("freshness/cases.json")).expect("cases");
        let zone = TimeZone::get("Europe/Berlin").expect("a zone");
        let cases = cases.as_array().expect("a list");
        assert!(cases.len() > 500);
        for case in cases {
            let number = |name: &str| case[name].as_i64().expect("a number");
            let some = |name: &str| Some(&case[name]).filter(|it| it.is_object());
            let over = Policy::read(some("base"), some("byType")).is_some_and(|policy| {
                policy.is_over(number("started"), number("spoken"), number("now"), &zone)
            });
            assert_eq!(json_bool(over), case["over"], "{case}");
        }
    }

    fn json_bool(value: bool) -> Value {
        Value::Bool(value)
    }

    #[test]
    fn what_holds_for_a_session_is_its_channel_s_then_its_kind_s() {
        let config = serde_json::json!({ "session": {
            "reset": { "mode": "daily", "atHour": 5 },
            "resetByType": { "group": { "mode": "idle", "idleMinutes": 10 }, "thread": { "atHour": 6 } },
            "resetByChannel": { "irc": { "mode": "none" }, "matrix": { "idleMinutes": 1 } },
        } });
        let of = |key: &str, channel: Option<&str>| Policy::of(&config, key, channel);
        let policy = |daily: Option<i8>, idle_ms: Option<i64>| Some(Policy { daily, idle_ms });
        assert_eq!(of("agent:main:main", None), policy(Some(5), None));
        assert_eq!(
            of("agent:main:telegram:group:1", Some("telegram")),
            policy(None, Some(600_000))
        );
        assert_eq!(
            of("agent:main:telegram:group:1:topic:2", None),
            policy(Some(6), None)
        );
        assert_eq!(of("agent:main:irc:channel:#a", Some("IRC")), None);
        assert_eq!(
            of("agent:main:main", Some("matrix")),
            policy(Some(4), Some(60_000))
        );
        assert_eq!(
            Policy::of(&serde_json::json!({}), "agent:main:main", None),
            None
        );
    }
}
