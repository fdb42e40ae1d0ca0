//! Failed-authentication limits: a sliding window per credential class and client, then a lockout.
//!
//! Loopback clients are not locked out by default, so that a person never locks themselves out of their own machine;
//! their failures are delayed instead, longer each time. Every map here is bounded.
//! Source: src/gateway/auth-rate-limit.ts at 2026.9.6.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::address;

/// Clients remembered at once; beyond it unknown clients wait out a lockout. Source: `DEFAULT_MAX_ENTRIES`.
const ENTRIES_MAX: usize = 10_000;
/// Source: `PRUNE_INTERVAL_MS`.
const PRUNE_INTERVAL_MS: u64 = 60_000;
/// Source: `LOOPBACK_FAILURE_DELAY_BASE_MS`, `LOOPBACK_FAILURE_DELAY_MAX_MS`: 0.25, 0.5, 1, 2, 4, 5 s.
const EXEMPT_DELAY_BASE_MS: u64 = 250;
const EXEMPT_DELAY_MAX_MS: u64 = 5_000;
/// Failures kept for an exempt client: enough to reach the longest delay.
const EXEMPT_FAILURES_MAX: usize = 6;

/// What is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    SharedSecret,
    DeviceToken,
    BootstrapToken,
    NodePairing,
}

/// `gateway.auth.rateLimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub attempts_max: u32,
    pub window_ms: u64,
    pub lockout_ms: u64,
    pub exempt_loopback: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attempts_max: 10,
            window_ms: 60_000,
            lockout_ms: 300_000,
            exempt_loopback: true,
        }
    }
}

/// May this client try now?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    Locked { retry_after_ms: u64 },
}

pub struct Limiter {
    state: Mutex<State>,
}

struct State {
    policy: Policy,
    entries: HashMap<Key, Entry>,
    /// Set when all remembered clients were locked and one more failed.
    overflow_until: Option<u64>,
    pruned_at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    class: Class,
    client: String,
}

#[derive(Default)]
struct Entry {
    failures: Vec<u64>,
    locked_until: Option<u64>,
    /// When the delay of an exempt client's last failure ends.
    delayed_until: u64,
}

impl Limiter {
    pub fn new(policy: Policy) -> Self {
        let state = State {
            policy,
            entries: HashMap::new(),
            overflow_until: None,
            pruned_at: 0,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    pub fn set_policy(&self, policy: Policy) {
        self.state.lock().policy = policy;
    }

    pub fn check(&self, client: &str, class: Class, now_ms: u64) -> Verdict {
        let state = &mut *self.state.lock();
        if state.is_exempt(client) {
            return Verdict::Allowed;
        }
        state.prune_sometimes(now_ms);
        let policy = state.policy;
        let Some(entry) = state.entries.get_mut(&Key::new(client, class)) else {
            return state.overflow(now_ms);
        };
        entry.refresh(policy, now_ms);
        if entry.locked_until.is_none() && entry.failures.len() >= policy.attempts_max as usize {
            entry.locked_until = Some(now_ms + policy.lockout_ms);
        }
        match entry.locked_until {
            Some(until) if now_ms < until => Verdict::Locked {
                retry_after_ms: until - now_ms,
            },
            _ if entry.failures.len() >= policy.attempts_max as usize => {
                Verdict::Locked { retry_after_ms: 0 }
            }
            _ => Verdict::Allowed,
        }
    }

    pub fn record_failure(&self, client: &str, class: Class, now_ms: u64) {
        self.state.lock().record(client, class, now_ms);
    }

    /// Records, and says how long the answer must be held back: more than zero only for exempt clients.
    pub fn record_failure_and_delay(&self, client: &str, class: Class, now_ms: u64) -> Duration {
        let state = &mut *self.state.lock();
        state.record(client, class, now_ms);
        if !state.is_exempt(client) {
            return Duration::ZERO;
        }
        let Some(entry) = state.entries.get_mut(&Key::new(client, class)) else {
            return Duration::from_millis(EXEMPT_DELAY_BASE_MS);
        };
        let doublings = entry
            .failures
            .len()
            .saturating_sub(1)
            .min(EXEMPT_FAILURES_MAX);
        let penalty = (EXEMPT_DELAY_BASE_MS << doublings).min(EXEMPT_DELAY_MAX_MS);
        // Answers to parallel guesses leave together, when the longest of their delays ends.
        entry.delayed_until = entry.delayed_until.max(now_ms + penalty);
        Duration::from_millis(entry.delayed_until - now_ms)
    }

    pub fn reset(&self, client: &str, class: Class) {
        self.state.lock().entries.remove(&Key::new(client, class));
    }

    /// Clients remembered now.
    pub fn tracked(&self) -> usize {
        self.state.lock().entries.len()
    }
}

impl State {
    fn is_exempt(&self, client: &str) -> bool {
        self.policy.exempt_loopback && address::parse(client).is_some_and(address::is_loopback)
    }

    fn record(&mut self, client: &str, class: Class, now_ms: u64) {
        self.prune_sometimes(now_ms);
        let policy = self.policy;
        let exempt = self.is_exempt(client);
        let key = Key::new(client, class);
        if !self.entries.contains_key(&key) && !self.make_room(now_ms) {
            let until = now_ms + policy.lockout_ms;
            self.overflow_until = Some(self.overflow_until.unwrap_or(0).max(until));
            return;
        }
        let entry = self.entries.entry(key).or_default();
        if !exempt && entry.locked_until.is_some_and(|until| now_ms < until) {
            return;
        }
        entry.refresh(policy, now_ms);
        entry.failures.push(now_ms);
        if exempt {
            let surplus = entry.failures.len().saturating_sub(EXEMPT_FAILURES_MAX);
            entry.failures.drain(..surplus);
        } else if entry.failures.len() >= policy.attempts_max as usize {
            entry.locked_until = Some(now_ms + policy.lockout_ms);
        }
    }

    fn prune_sometimes(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.pruned_at) >= PRUNE_INTERVAL_MS {
            self.prune(now_ms);
        }
    }

    fn prune(&mut self, now_ms: u64) {
        self.pruned_at = now_ms;
        let policy = self.policy;
        self.entries.retain(|_, entry| {
            entry.locked_until.is_some_and(|until| now_ms < until) || {
                entry.refresh(policy, now_ms);
                !entry.failures.is_empty()
            }
        });
    }

    fn make_room(&mut self, now_ms: u64) -> bool {
        if self.entries.len() < ENTRIES_MAX {
            return true;
        }
        self.prune(now_ms);
        if self.entries.len() < ENTRIES_MAX {
            return true;
        }
        let unlocked = self
            .entries
            .iter()
            .find(|(_, entry)| entry.locked_until.is_none_or(|until| now_ms >= until))
            .map(|(key, _)| key.clone());
        unlocked.is_some_and(|key| self.entries.remove(&key).is_some())
    }

    fn overflow(&mut self, now_ms: u64) -> Verdict {
        let Some(until) = self.overflow_until else {
            return Verdict::Allowed;
        };
        if now_ms < until && self.entries.len() >= ENTRIES_MAX {
            self.prune(now_ms);
        }
        if now_ms >= until || self.entries.len() < ENTRIES_MAX {
            self.overflow_until = None;
            return Verdict::Allowed;
        }
        Verdict::Locked {
            retry_after_ms: until - now_ms,
        }
    }
}

impl Key {
    /// A client address is taken in its canonical form, so that both spellings of one address are one client.
    fn new(client: &str, class: Class) -> Self {
        let client = address::parse(client).map_or_else(|| client.to_owned(), |ip| ip.to_string());
        Self { class, client }
    }
}

impl Entry {
    fn refresh(&mut self, policy: Policy, now_ms: u64) {
        if self.locked_until.is_some_and(|until| now_ms >= until) {
            self.locked_until = None;
            self.failures.clear();
        }
        self.failures.retain(|at| at + policy.window_ms > now_ms);
    }
}

#[cfg(test)]
mod tests;
