//! Bots that answer each other: how often, before one of ours rests.
//!
//! Source: docs/channels/bot-loop-protection.md at 2026.9.6. Kept in memory: a loop that a restart lets go on ends again.

use std::collections::{HashMap, VecDeque};

use channels::message::InboundMessage;
use parking_lot::Mutex;
use store::InboxRow;

use super::{Messages, now_ms};
use crate::routing::LoopLimits;

/// Pairs that are watched; of more, the one that was silent for longest is forgotten.
const PAIRS_MAX: usize = 4096;

/// Who wrote to whom, and when.
#[derive(Debug, Default)]
pub(super) struct Pairs(Mutex<HashMap<String, Pair>>);

#[derive(Debug, Default)]
struct Pair {
    /// When within the window, oldest first, and which message it was; at most as many as the limit.
    events: VecDeque<(i64, String)>,
    /// Until then nothing more is answered.
    rests_until: Option<i64>,
}

impl Pair {
    fn last(&self) -> i64 {
        let last = self.events.back().map_or(0, |(at, _)| *at);
        last.max(self.rests_until.unwrap_or(0))
    }
}

impl Pairs {
    /// Whether the message `id` of this pair is answered, at `now`, ms since the epoch. One that was to be is not counted again.
    pub(super) fn admits(&self, pair: &str, id: &str, limits: LoopLimits, now: i64) -> bool {
        let mut pairs = self.0.lock();
        if !pairs.contains_key(pair) && pairs.len() >= PAIRS_MAX {
            let silent = pairs.iter().min_by_key(|(_, pair)| pair.last());
            if let Some(silent) = silent.map(|(name, _)| name.clone()) {
                pairs.remove(&silent);
            }
        }
        let pair = pairs.entry(pair.to_owned()).or_default();
        if pair.events.iter().any(|(_, counted)| counted == id) {
            return true;
        }
        if let Some(until) = pair.rests_until {
            if now < until {
                return false;
            }
            pair.rests_until = None;
            pair.events.clear();
        }
        // One from a clock that was put back counts for nothing.
        pair.events
            .retain(|(at, _)| *at <= now && now - at < limits.window_ms);
        if pair.events.len() >= limits.events_max {
            pair.rests_until = Some(now.saturating_add(limits.cooldown_ms));
            return false;
        }
        pair.events.push_back((now, id.to_owned()));
        true
    }
}

/// Whether the sender is a bot that was answered too often of late.
pub(super) fn is_loop(messages: &Messages, row: &InboxRow, message: &InboundMessage) -> bool {
    let accounts = messages.accounts.load();
    let Some(account) = accounts.get(&row.channel, &row.account) else {
        return false;
    };
    let routing = messages.routing.load();
    let limits = routing.loop_limits(&row.channel, &account.settings, message);
    limits.is_some_and(|limits| {
        let (chat, sender) = (&message.chat.id, &message.sender.id);
        let pair = format!("{}/{}/{chat}/{sender}", row.channel, row.account);
        !messages.bots.admits(&pair, &row.id, limits, now_ms())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_too_long_rests_and_begins_anew() {
        let pairs = Pairs::default();
        let limits = LoopLimits {
            events_max: 3,
            window_ms: 1000,
            cooldown_ms: 500,
        };
        let said: Vec<bool> = [0, 10, 20, 30, 400, 529, 530, 540, 1539, 1540]
            .into_iter()
            .map(|now| pairs.admits("a", &now.to_string(), limits, now))
            .collect();
        assert_eq!(
            said,
            [
                true, true, true, false, false, false, true, true, true, true
            ]
        );
        assert!(pairs.admits("b", "1", limits, 35), "another pair");
        // Slow ones never rest.
        assert!((0..20).all(|n| pairs.admits("c", &n.to_string(), limits, n * 400)));
    }

    #[test]
    fn a_message_that_is_looked_at_again_counts_once() {
        let pairs = Pairs::default();
        let limits = LoopLimits {
            events_max: 2,
            window_ms: 1000,
            cooldown_ms: 500,
        };
        let said = ["1", "1", "2", "1", "3", "2", "3"].map(|id| pairs.admits("a", id, limits, 10));
        assert_eq!(said, [true, true, true, true, false, true, false]);
    }

    #[test]
    fn only_so_many_are_watched() {
        let pairs = Pairs::default();
        let limits = LoopLimits {
            events_max: 1,
            window_ms: 100_000_000,
            cooldown_ms: 1,
        };
        for n in 0..PAIRS_MAX + 10 {
            let now = i64::try_from(n).expect("a few");
            assert!(pairs.admits(&n.to_string(), "1", limits, now));
        }
        assert_eq!(pairs.0.lock().len(), PAIRS_MAX);
    }
}
