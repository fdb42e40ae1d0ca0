//! Bots that answer each other: how often, before one of ours rests.
//!
//! Source: docs/channels/bot-loop-protection.md at 2026.9.6. Kept in memory: a loop that a restart lets go on ends again.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::routing::LoopLimits;

/// Pairs that are watched; of more, the one that was silent for longest is forgotten.
const PAIRS_MAX: usize = 4096;

/// Who wrote to whom, and when.
#[derive(Debug, Default)]
pub(super) struct Pairs(Mutex<HashMap<String, Pair>>);

#[derive(Debug, Default)]
struct Pair {
    /// Within the window, oldest first; at most as many as the limit.
    events: VecDeque<i64>,
    /// Until then nothing is answered.
    rests_until: i64,
}

impl Pair {
    fn last(&self) -> i64 {
        self.events
            .back()
            .copied()
            .unwrap_or(0)
            .max(self.rests_until)
    }
}

impl Pairs {
    /// Whether one more message of this pair is answered, at `now`, ms since the epoch.
    pub(super) fn admits(&self, pair: &str, limits: LoopLimits, now: i64) -> bool {
        let mut pairs = self.0.lock();
        if !pairs.contains_key(pair) && pairs.len() >= PAIRS_MAX {
            let silent = pairs.iter().min_by_key(|(_, pair)| pair.last());
            if let Some(silent) = silent.map(|(name, _)| name.clone()) {
                pairs.remove(&silent);
            }
        }
        let pair = pairs.entry(pair.to_owned()).or_default();
        if now < pair.rests_until {
            return false;
        }
        // One from a clock that was put back counts for nothing.
        pair.events
            .retain(|at| *at <= now && now - at < limits.window_ms);
        if pair.events.len() >= limits.events_max {
            pair.events.clear();
            pair.rests_until = now.saturating_add(limits.cooldown_ms);
            return false;
        }
        pair.events.push_back(now);
        true
    }
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
            .map(|now| pairs.admits("a", limits, now))
            .collect();
        assert_eq!(
            said,
            [
                true, true, true, false, false, false, true, true, true, true
            ]
        );
        assert!(pairs.admits("b", limits, 35), "another pair");
        // Slow ones never rest.
        assert!((0..20).all(|n| pairs.admits("c", limits, n * 400)));
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
            assert!(pairs.admits(&n.to_string(), limits, now));
        }
        assert_eq!(pairs.0.lock().len(), PAIRS_MAX);
    }
}
