//! How long to wait before the next start of a child that crashed.

use std::time::Duration;

use tokio::time::Instant;

/// First and longest pause between starts.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A child that was ready this long is healthy: the next crash starts counting anew.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// This many failures without a stable run between them is a crash loop.
const LOOP_FAILURES: u32 = 5;

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    ready_since: Option<Instant>,
}

impl Backoff {
    /// The child answers from now on.
    pub(super) fn ready(&mut self) {
        self.ready_since = Some(Instant::now());
    }

    /// The child failed. Answers the pause before the next start.
    pub(super) fn failed(&mut self) -> Duration {
        if self
            .ready_since
            .take()
            .is_some_and(|since| since.elapsed() >= STABLE_AFTER)
        {
            self.failures = 0;
        }
        let pause = FIRST
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// Somebody asked for a start: what happened before does not count.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) const fn is_loop(&self) -> bool {
        self.failures >= LOOP_FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_minute_and_start_anew_after_a_stable_run() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..8).map(|_| backoff.failed().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(backoff.is_loop());

        backoff.ready();
        tokio::time::advance(STABLE_AFTER - Duration::from_millis(1)).await;
        assert_eq!(backoff.failed().as_secs(), 60, "a short life is not stable");

        backoff.ready();
        tokio::time::advance(STABLE_AFTER).await;
        assert_eq!(backoff.failed().as_secs(), 1);
        assert!(!backoff.is_loop());
    }

    #[test]
    fn no_number_of_failures_overflows() {
        let mut backoff = Backoff {
            failures: u32::MAX - 1,
            ready_since: None,
        };
        assert_eq!(backoff.failed(), LONGEST);
        assert_eq!(backoff.failed(), LONGEST);
    }
}
