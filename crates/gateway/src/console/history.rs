//! What both sides did in the last minutes, so that the console's graphs are there when the page is opened.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::app::App;
use crate::metrics::{BUCKETS_US, Owner, Totals};

/// Pause between samples: two of them make the rate of one point of a graph.
const EVERY: Duration = Duration::from_secs(5);
/// As far back as the page's graphs reach, and the window of their first point.
const SAMPLES_MAX: usize = 62;

#[derive(Debug, Default)]
pub(crate) struct History(Mutex<VecDeque<Sample>>);

#[derive(Debug)]
struct Sample {
    at_ms: u64,
    native: Totals,
    upstream: Totals,
}

impl History {
    fn push(&self, sample: Sample) {
        let mut samples = self.0.lock();
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// `{bootId, boundsUs, samples: [{nowMs, native, upstream}]}`, the oldest first; sides as in `/api/console`.
    pub(super) fn json(&self, boot_id: &str) -> Value {
        let samples = self.0.lock();
        let samples: Vec<Value> = samples
            .iter()
            .map(|sample| {
                json!({
                    "nowMs": sample.at_ms,
                    "native": side(&sample.native),
                    "upstream": side(&sample.upstream),
                })
            })
            .collect();
        json!({ "bootId": boot_id, "boundsUs": BUCKETS_US, "samples": samples })
    }
}

/// Counters since the start.
pub(super) fn side(totals: &Totals) -> Value {
    json!({ "times": totals.times, "failed": totals.failed, "refused": totals.refused })
}

/// Takes samples as long as the gateway runs.
pub(crate) async fn keep(app: Arc<App>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        app.traffic.push(Sample {
            at_ms: crate::clock::now_ms(),
            native: app.metrics.totals(Owner::Native),
            upstream: app.metrics.totals(Owner::Upstream),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minutes_are_kept_and_no_more() {
        let history = History::default();
        for at_ms in 0..200 {
            history.push(Sample {
                at_ms,
                native: Totals::default(),
                upstream: Totals::default(),
            });
        }
        let told = history.json("boot");
        let samples = told["samples"].as_array().expect("a list");
        assert_eq!(samples.len(), SAMPLES_MAX);
        assert_eq!(samples[0]["nowMs"], 200 - SAMPLES_MAX);
        assert_eq!(samples[SAMPLES_MAX - 1]["nowMs"], 199);
    }
}
