//! What changes the gateway itself may be called [`CALLS_MAX`] times a minute by one device at one address, each method for itself.
//!
//! Source: src/gateway/control-plane-rate-limit.ts at 2026.9.6; docs/gateway/security/rate-limiting.md of the package. Only calls that are
//! served here count here: the upstream counts its own.

use std::collections::HashMap;

use serde_json::json;
use wire::error::ErrorShape;

use super::Session;

/// Calls of one key in one window.
const CALLS_MAX: u32 = 30;
const WINDOW_MS: u64 = 60_000;
/// Keys kept: device ids are the callers' to choose.
const KEYS_MAX: usize = 10_000;

/// Calls counted by key.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    buckets: HashMap<String, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    began_ms: u64,
    calls: u32,
}

impl Budget {
    /// Counts one call. `Err`: how many milliseconds from now the next one is taken.
    fn take(&mut self, key: String, now_ms: u64) -> Result<(), u64> {
        let is_over = |bucket: &Bucket| now_ms.saturating_sub(bucket.began_ms) >= WINDOW_MS;
        if let Some(bucket) = self.buckets.get_mut(&key)
            && !is_over(bucket)
        {
            if bucket.calls >= CALLS_MAX {
                return Err((bucket.began_ms + WINDOW_MS).saturating_sub(now_ms));
            }
            bucket.calls += 1;
            return Ok(());
        }
        if self.buckets.len() >= KEYS_MAX {
            self.buckets.retain(|_, bucket| !is_over(bucket));
        }
        // Ten thousand devices within a minute: the oldest window gives way.
        if self.buckets.len() >= KEYS_MAX
            && let Some(oldest) = self
                .buckets
                .iter()
                .min_by_key(|(_, bucket)| bucket.began_ms)
                .map(|(key, _)| key.clone())
        {
            self.buckets.remove(&oldest);
        }
        let bucket = Bucket {
            began_ms: now_ms,
            calls: 1,
        };
        self.buckets.insert(key, bucket);
        Ok(())
    }

    /// Counts a call of `method`, and refuses it past the budget.
    pub(crate) fn check(
        &mut self,
        session: &Session,
        method: &str,
        now_ms: u64,
    ) -> Result<(), ErrorShape> {
        let device = session.principal.device_id.as_deref();
        let ip = session.judged.as_ref().and_then(|judged| judged.client_ip);
        let caller = match (device, ip) {
            (None, None) => format!("conn={}", session.conn_id),
            (device, ip) => format!("{}|{ip:?}", device.unwrap_or_default()),
        };
        let retry_after_ms = match self.take(format!("{method}|{caller}"), now_ms) {
            Ok(()) => return Ok(()),
            Err(retry_after_ms) => retry_after_ms,
        };
        tracing::warn!(
            method, conn = %session.conn_id, device, ?ip, retry_after_ms,
            "refused: more than {CALLS_MAX} calls within a minute"
        );
        let seconds = retry_after_ms.div_ceil(1000);
        let message = format!("rate limit exceeded for {method}; retry after {seconds}s");
        let limit = format!("{CALLS_MAX} per {}s", WINDOW_MS / 1000);
        Err(ErrorShape::retryable(message, Some(retry_after_ms))
            .with_details(json!({ "method": method, "limit": limit })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_calls_of_a_key_in_a_window_and_then_none_until_it_is_over() {
        let mut budget = Budget::default();
        let mut take = |key: &str, at| budget.take(key.to_owned(), at);
        for at in 0..30 {
            assert_eq!(take("config.patch|a", 1_000 + at), Ok(()));
        }
        assert_eq!(take("config.patch|a", 2_000), Err(59_000));
        assert_eq!(take("config.patch|b", 2_000), Ok(()), "of another caller");
        assert_eq!(take("config.apply|a", 2_000), Ok(()), "another method");
        assert_eq!(take("config.patch|a", 60_999), Err(1));
        assert_eq!(take("config.patch|a", 61_000), Ok(()));
    }

    #[test]
    fn keys_are_bounded() {
        let mut budget = Budget::default();
        for n in 0..KEYS_MAX as u64 + 10 {
            assert_eq!(budget.take(n.to_string(), n), Ok(()));
        }
        assert_eq!(budget.buckets.len(), KEYS_MAX);
        assert!(!budget.buckets.contains_key("0"), "the oldest went");
        assert_eq!(budget.take("later".to_owned(), 1_000_000), Ok(()));
        assert_eq!(budget.buckets.len(), 1);
    }
}
