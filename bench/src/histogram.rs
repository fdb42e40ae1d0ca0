//! Log-linear latency histogram: 128 linear buckets per power of two, so a reported value is at most 0.8 % off.

use std::time::Duration;

use serde_json::{Value, json};

const SUB_BITS: u32 = 7;
const SUB: usize = 1 << SUB_BITS;
/// Values are nanoseconds up to 2^40 (18 minutes); longer ones land in the last bucket.
const MAX_BITS: u32 = 40;
const BUCKETS: usize = SUB * (MAX_BITS - SUB_BITS + 1) as usize;

/// Counts of durations; `record` is a shift, an add and a store.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_ns: u128,
    max_ns: u64,
    min_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            sum_ns: 0,
            max_ns: 0,
            min_ns: u64::MAX,
        }
    }
}

impl Histogram {
    pub fn record(&mut self, elapsed: Duration) {
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.counts[index(ns)] += 1;
        self.total += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
        self.min_ns = self.min_ns.min(ns);
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
        self.min_ns = self.min_ns.min(other.min_ns);
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    /// The value below which `percent` of the records lie, in nanoseconds; 0 when nothing was recorded.
    pub fn percentile_ns(&self, percent: f64) -> u64 {
        let wanted = ((percent / 100.0) * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return upper(bucket).min(self.max_ns);
            }
        }
        0
    }

    /// Milliseconds: `{count, mean, min, p50, p75, p90, p95, p99, p999, max}`.
    pub fn summary(&self) -> Value {
        let ms = |ns: u64| (ns as f64 / 1e6 * 1e4).round() / 1e4;
        if self.total == 0 {
            return json!({ "count": 0 });
        }
        json!({
            "count": self.total,
            "mean": ms((self.sum_ns / u128::from(self.total)) as u64),
            "min": ms(self.min_ns),
            "p50": ms(self.percentile_ns(50.0)),
            "p75": ms(self.percentile_ns(75.0)),
            "p90": ms(self.percentile_ns(90.0)),
            "p95": ms(self.percentile_ns(95.0)),
            "p99": ms(self.percentile_ns(99.0)),
            "p999": ms(self.percentile_ns(99.9)),
            "max": ms(self.max_ns),
        })
    }
}

fn index(ns: u64) -> usize {
    let bits = 64 - ns.leading_zeros();
    if bits <= SUB_BITS {
        return ns as usize;
    }
    if bits > MAX_BITS {
        return BUCKETS - 1;
    }
    let shift = bits - SUB_BITS - 1;
    // The top bit is implied by the power of two; the next SUB_BITS select the bucket in it.
    SUB * (shift + 1) as usize + ((ns >> shift) as usize - SUB)
}

fn upper(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let shift = (bucket / SUB - 1) as u32;
    let sub = (bucket % SUB + SUB) as u64;
    ((sub + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_reported_within_one_percent() {
        for exponent in 0..39 {
            for offset in [0u64, 1, 3] {
                let ns = (1u64 << exponent) + offset * (1 << exponent) / 5;
                let high = upper(index(ns));
                assert!(
                    high >= ns && (high - ns) as f64 <= ns as f64 * 0.01,
                    "{ns} reported as {high}"
                );
            }
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_a_known_set() {
        let mut histogram = Histogram::default();
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        for (percent, ms) in [(50.0, 500.0), (99.0, 990.0), (99.9, 999.0), (100.0, 1000.0)] {
            let got = histogram.percentile_ns(percent) as f64 / 1e6;
            assert!(
                (got - ms).abs() <= ms * 0.01,
                "p{percent} is {got}, not {ms}"
            );
        }
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!(twice.count(), 2000);
        assert_eq!(twice.percentile_ns(50.0), histogram.percentile_ns(50.0));
    }
}
