//! How fast we may write: servers disconnect those who write faster.

use std::time::Duration;
use tokio::time::Instant;

/// Token bucket: `burst` lines at once, then one each `every`.
#[derive(Debug)]
pub(super) struct Bucket {
    every: Duration,
    burst: u32,
    /// When the bucket would be full again.
    full_at: Instant,
}

impl Bucket {
    pub(super) fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self {
            every,
            burst: burst.max(1),
            full_at: now,
        }
    }

    /// Takes one token that is there at the returned time.
    pub(super) fn take(&mut self, now: Instant) -> Instant {
        self.full_at = self.full_at.max(now) + self.every;
        let reserve = self.every * self.burst;
        self.full_at
            .checked_sub(reserve)
            .map_or(now, |at| at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut bucket = Bucket::new(3, Duration::from_secs(2), start);
        let waits: Vec<u64> = (0..6)
            .map(|_| bucket.take(start).duration_since(start).as_secs())
            .collect();
        assert_eq!(waits, [0, 0, 0, 2, 4, 6]);
        let later = start + Duration::from_secs(60);
        assert_eq!(bucket.take(later), later);
    }
}
