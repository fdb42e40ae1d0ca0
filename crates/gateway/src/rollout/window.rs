//! What both sides did lately, and whether ours is past its bounds. Pure: counters and the time come from outside.
//!
//! Counters only grow; a sample of them now and then is kept, and what happened in the window is the difference
//! between now and the oldest sample. So the window costs the calls nothing, and memory whatever the load.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::GuardSettings;
use crate::metrics::{BUCKETS_US, Counts};

/// Samples that a window is made of.
const SAMPLES: u32 = 60;
/// Calls past the bound that a p99 takes: one hiccup that catches two calls is no verdict.
const SLOW_MIN: u64 = 3;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Signal {
    /// Share of the calls that failed.
    Errors,
    /// Seconds.
    P99,
    /// Seconds.
    Queue,
    /// Share of the comparisons that differed.
    Mismatch,
}

impl Signal {
    pub(crate) const ALL: [Self; 4] = [Self::Errors, Self::P99, Self::Queue, Self::Mismatch];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Errors => "errors",
            Self::P99 => "p99",
            Self::Queue => "queue",
            Self::Mismatch => "mismatch",
        }
    }

    /// A value in words.
    pub(crate) fn words(self, value: f64) -> String {
        match self {
            Self::Errors | Self::Mismatch => format!("{:.1} %", value * 100.0),
            Self::P99 if value < 0.01 => format!("{:.2} ms", value * 1e3),
            Self::P99 => format!("{:.0} ms", value * 1e3),
            Self::Queue => format!("{value:.0} s"),
        }
    }
}

/// Counters of one side, as they stand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Side {
    pub(crate) times: Counts,
    pub(crate) failed: u64,
}

impl Side {
    fn calls(&self) -> u64 {
        self.times.iter().sum()
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            times: std::array::from_fn(|at| self.times[at].saturating_sub(before.times[at])),
            failed: self.failed.saturating_sub(before.failed),
        }
    }

    /// Share of the calls that failed; 0 without any.
    fn errors(&self) -> f64 {
        match self.calls() {
            0 => 0.0,
            calls => self.failed as f64 / calls as f64,
        }
    }
}

/// All that is counted, at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// Since any fixed moment.
    pub(crate) at: Duration,
    pub(crate) native: Side,
    pub(crate) upstream: Side,
    /// Calls that we took up.
    pub(crate) begun: u64,
    /// Comparisons that were equal, and that were not.
    pub(crate) compared: [u64; 2],
    /// How long the longest due message has not been taken up.
    pub(crate) queue_age: Duration,
}

/// One signal as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reading {
    /// `None`: too little happened to say.
    pub(crate) native: Option<f64>,
    pub(crate) upstream: Option<f64>,
    pub(crate) bound: f64,
    pub(crate) past: bool,
}

/// What a look at the window gives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Look {
    pub(crate) native_calls: u64,
    pub(crate) upstream_calls: u64,
    /// By [`Signal::ALL`].
    pub(crate) readings: [Reading; 4],
}

impl Look {
    /// The first signal that is past its bound.
    pub(crate) fn past(&self) -> Option<(Signal, Reading)> {
        let each = Signal::ALL.into_iter().zip(self.readings);
        each.into_iter().find(|(_, reading)| reading.past)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Window {
    samples: VecDeque<Sample>,
    /// Calls that had no answer when it began.
    open_before: u64,
}

impl Window {
    /// What was before is over: nothing of it is held against what comes.
    pub(crate) fn clear(&mut self) {
        self.samples.clear();
    }

    /// Takes a sample and judges the window that ends with it.
    pub(crate) fn look(&mut self, now: Sample, bounds: &GuardSettings) -> Look {
        let begins = now.at.saturating_sub(bounds.window);
        // One sample at its beginning or before it stays, so that the window is whole.
        while self.samples.get(1).is_some_and(|next| next.at <= begins) {
            self.samples.pop_front();
        }
        let look = self.judge(self.samples.front().unwrap_or(&now), &now, bounds);
        let apart = bounds.window / SAMPLES;
        if self
            .samples
            .back()
            .is_none_or(|last| now.at.saturating_sub(last.at) >= apart)
        {
            if self.samples.is_empty() {
                self.open_before = now.begun.saturating_sub(now.native.calls());
            }
            self.samples.push_back(now);
        }
        look
    }

    fn judge(&self, before: &Sample, now: &Sample, bounds: &GuardSettings) -> Look {
        let mut native = now.native.since(&before.native);
        let upstream = now.upstream.since(&before.upstream);
        self.add_unanswered(&mut native, now, bounds.p99_floor);
        let (native_calls, upstream_calls) = (native.calls(), upstream.calls());
        let is_enough = |calls: u64| calls >= bounds.calls_min;
        let theirs = is_enough(upstream_calls);
        let reading = |native: Option<f64>, upstream: Option<f64>, bound: f64| Reading {
            native,
            upstream,
            bound,
            past: native.is_some_and(|native| native > bound),
        };

        let upstream_errors = theirs.then(|| upstream.errors());
        let errors = reading(
            is_enough(native_calls).then(|| native.errors()),
            upstream_errors,
            f64::max(
                bounds.error_percent as f64 / 100.0,
                upstream_errors.unwrap_or(0.0) * bounds.error_factor as f64,
            ),
        );

        let upstream_p99 = theirs.then(|| quantile(&upstream.times, 0.99));
        let bound = match upstream_p99 {
            Some(p99) => f64::max(
                bounds.p99_floor.as_secs_f64(),
                p99 * bounds.p99_factor as f64,
            ),
            // Nobody to compare with.
            None => f64::max(
                bounds.p99_floor.as_secs_f64(),
                bounds.p99_alone.as_secs_f64(),
            ),
        };
        let mut p99 = reading(
            is_enough(native_calls).then(|| quantile(&native.times, 0.99)),
            upstream_p99,
            bound,
        );
        p99.past &= longer_than(&native.times, bound) >= SLOW_MIN;

        // Over the whole window: after an outage of the agents' side what is old is worked off first.
        let is_whole = now.at.saturating_sub(before.at) >= bounds.window;
        let queue_age = self.samples.iter().map(|sample| sample.queue_age);
        let least = queue_age.chain([now.queue_age]).min().unwrap_or_default();
        let mut queue = reading(
            Some(least.as_secs_f64()),
            None,
            bounds.queue_age.unwrap_or_default().as_secs_f64(),
        );
        queue.past &= is_whole && bounds.queue_age.is_some();

        let [equal, different] =
            [0, 1].map(|at: usize| now.compared[at].saturating_sub(before.compared[at]));
        let compared = equal + different;
        let mismatch = reading(
            is_enough(compared).then(|| different as f64 / compared.max(1) as f64),
            None,
            bounds.mismatch_percent as f64 / 100.0,
        );
        Look {
            native_calls,
            upstream_calls,
            readings: [errors, p99, queue, mismatch],
        }
    }

    /// Calls that were taken up longer ago than `floor` and have no answer yet count with what they took so far: a row
    /// that hangs would have no time at all.
    fn add_unanswered(&self, native: &mut Side, now: &Sample, floor: Duration) {
        let answered = now.native.calls() + self.open_before;
        let mut counted = 0;
        for sample in &self.samples {
            let age = now.at.saturating_sub(sample.at);
            if age <= floor {
                break;
            }
            let open = sample.begun.saturating_sub(answered);
            native.times[bucket(age)] += open.saturating_sub(counted);
            counted = counted.max(open);
        }
    }
}

fn bucket(time: Duration) -> usize {
    let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    BUCKETS_US.partition_point(|bound| *bound < us)
}

/// Seconds that a share `q` of the calls took at most, as Prometheus reckons within a bucket; 0 without any.
fn quantile(counts: &Counts, q: f64) -> f64 {
    let total: u64 = counts.iter().sum();
    let rank = q * total as f64;
    let mut below = 0.0;
    for (at, count) in counts.iter().enumerate() {
        let here = *count as f64;
        if here > 0.0 && below + here >= rank {
            let least = at.checked_sub(1).map_or(0, |at| BUCKETS_US[at]) as f64;
            // What is longer than every bound is told as the last one.
            let most = BUCKETS_US.get(at).map_or(least, |us| *us as f64);
            return (least + (most - least) * (rank - below) / here) / 1e6;
        }
        below += here;
    }
    0.0
}

/// Calls in buckets that reach past a bound in seconds.
fn longer_than(counts: &Counts, bound: f64) -> u64 {
    let first = BUCKETS_US.partition_point(|us| *us as f64 / 1e6 <= bound);
    counts[first..].iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock and counters that are moved by hand.
    struct Bench {
        window: Window,
        now: Sample,
        bounds: GuardSettings,
    }

    impl Bench {
        fn new() -> Self {
            let mut bench = Self {
                window: Window::default(),
                now: Sample::default(),
                bounds: GuardSettings {
                    window: Duration::from_secs(60),
                    ..crate::config::OwnSettings::default().guard
                },
            };
            bench.after(0);
            bench
        }

        fn native(&mut self, calls: u64, ms: u64) -> &mut Self {
            self.now.native.times[bucket(Duration::from_millis(ms))] += calls;
            self.now.begun += calls;
            self
        }

        fn upstream(&mut self, calls: u64, ms: u64) -> &mut Self {
            self.now.upstream.times[bucket(Duration::from_millis(ms))] += calls;
            self
        }

        fn after(&mut self, seconds: u64) -> Look {
            self.now.at += Duration::from_secs(seconds);
            self.window.look(self.now.clone(), &self.bounds)
        }

        fn past(&mut self, seconds: u64) -> Option<Signal> {
            self.after(seconds).past().map(|(signal, _)| signal)
        }
    }

    #[test]
    fn a_quantile_is_within_its_bucket_and_none_of_nothing() {
        let mut counts: Counts = [0; BUCKETS_US.len() + 1];
        assert_eq!(quantile(&counts, 0.99), 0.0);
        counts[bucket(Duration::from_millis(4))] = 99;
        counts[bucket(Duration::from_millis(400))] = 1;
        let p99 = quantile(&counts, 0.99);
        assert!((p99 - 0.005).abs() < 1e-9, "{p99}");
        assert!((0.25..=0.5).contains(&quantile(&counts, 0.999)));
        assert_eq!(longer_than(&counts, 0.1), 1);
        assert_eq!(longer_than(&counts, 0.005), 1);
        assert_eq!(longer_than(&counts, 0.004), 100);
        counts[BUCKETS_US.len()] = 10_000;
        assert_eq!(quantile(&counts, 0.99), 600.0);
    }

    #[test]
    fn a_few_calls_are_no_verdict_however_bad() {
        let mut bench = Bench::new();
        bench.native(99, 60_000).now.native.failed += 99;
        assert_eq!(bench.past(1), None);
        bench.native(1, 60_000);
        bench.now.native.failed += 1;
        assert_eq!(bench.past(1), Some(Signal::Errors));
    }

    #[test]
    fn slow_beside_the_upstream_is_past_and_microseconds_never_are() {
        let mut bench = Bench::new();
        // A hundred times as long, and nothing that anybody notices.
        bench.native(1000, 90).upstream(1000, 0);
        assert_eq!(bench.past(1), None);
        // The upstream is slow as well: going back would not help.
        let mut bench = Bench::new();
        bench.native(1000, 400).upstream(1000, 400);
        assert_eq!(bench.past(1), None);
        let mut bench = Bench::new();
        bench.native(1000, 400).upstream(1000, 10);
        let look = bench.after(1);
        let (signal, reading) = look.past().expect("past");
        assert_eq!(signal, Signal::P99);
        assert!(reading.native > Some(0.25) && reading.upstream <= Some(0.01));
        assert!((reading.bound - 0.1).abs() < 1e-9, "{reading:?}");
    }

    #[test]
    fn a_hiccup_that_catches_two_calls_is_no_verdict() {
        let mut bench = Bench::new();
        bench.native(98, 0).native(2, 5_000).upstream(100, 1);
        assert_eq!(bench.past(1), None);
        bench.native(1, 5_000);
        assert_eq!(bench.past(1), Some(Signal::P99));
    }

    #[test]
    fn without_enough_of_the_upstream_a_bound_of_its_own_holds() {
        let mut bench = Bench::new();
        bench.native(1000, 900).upstream(99, 1);
        assert_eq!(bench.past(1), None);
        bench.native(1000, 2_400);
        let look = bench.after(1);
        assert_eq!(look.past().map(|(signal, _)| signal), Some(Signal::P99));
        assert_eq!(look.readings[1].upstream, None);
    }

    #[test]
    fn a_row_that_hangs_is_slow_although_nothing_was_answered() {
        let mut bench = Bench::new();
        bench.native(100, 0).upstream(100, 1);
        bench.now.begun += 100;
        assert_eq!(bench.past(1), None, "they are a moment old");
        assert_eq!(bench.past(1), Some(Signal::P99));
        // Answered: they count once, with what they took.
        bench.now.native.times[bucket(Duration::from_secs(2))] += 100;
        let look = bench.after(1);
        assert_eq!(look.native_calls, 200);
        // Slower than any bound, however long it hangs.
        let mut bench = Bench::new();
        bench.native(200, 0).upstream(200, 400);
        bench.now.begun += 10;
        assert_eq!(bench.past(1), None);
        assert_eq!(bench.past(1), None, "a second beside 400 ms");
        assert_eq!(bench.past(1), Some(Signal::P99), "it grows");
        bench.window.clear();
        bench.after(1);
        bench.native(200, 0).upstream(200, 400);
        assert_eq!(bench.past(30), None, "what hung before is over");
    }

    #[test]
    fn errors_are_held_against_the_upstream_s() {
        let check = |native: u64, upstream: u64, want: Option<Signal>| {
            let mut bench = Bench::new();
            bench.native(1000, 0).upstream(1000, 0);
            bench.now.native.failed = native;
            bench.now.upstream.failed = upstream;
            assert_eq!(bench.past(1), want, "{native} beside {upstream}");
        };
        check(0, 0, None);
        check(50, 0, None);
        check(51, 0, Some(Signal::Errors));
        check(51, 26, None);
        check(1000, 499, Some(Signal::Errors));
        check(1000, 1000, None);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten_and_memory_is_bounded() {
        let mut bench = Bench::new();
        bench.native(1000, 0).now.native.failed += 1000;
        assert_eq!(bench.past(1), Some(Signal::Errors));
        for _ in 0..59 {
            bench.native(100, 0).after(1);
        }
        assert_eq!(bench.past(0), Some(Signal::Errors), "still within");
        bench.native(100, 0);
        assert_eq!(bench.past(2), None);
        for _ in 0..10_000 {
            bench.native(1, 0).after(1);
        }
        assert!(bench.window.samples.len() <= SAMPLES as usize + 2);
        // Looks that follow each other fast are no further samples.
        let kept = bench.window.samples.len();
        for _ in 0..50 {
            bench.now.at += Duration::from_millis(10);
            bench.after(0);
        }
        assert!(bench.window.samples.len() <= kept);
        bench.window.clear();
        assert_eq!(bench.after(1).native_calls, 0);
    }

    #[test]
    fn a_queue_is_old_when_it_is_so_for_the_whole_window() {
        let mut bench = Bench::new();
        bench.now.queue_age = Duration::from_secs(5_000);
        for _ in 0..59 {
            assert_eq!(bench.past(1), None);
        }
        // The first sample saw none; one after it did for all of the window.
        assert_eq!(bench.past(1), None);
        assert_eq!(bench.past(1), Some(Signal::Queue));
        bench.now.queue_age = Duration::ZERO;
        assert_eq!(bench.past(1), None);
        bench.bounds.queue_age = None;
        bench.now.queue_age = Duration::from_secs(5_000);
        for _ in 0..70 {
            assert_eq!(bench.past(1), None);
        }
    }

    #[test]
    fn comparisons_that_differ_are_a_share_of_those_made() {
        let mut bench = Bench::new();
        bench.now.compared = [0, 99];
        assert_eq!(bench.past(1), None);
        bench.now.compared = [400, 100];
        assert_eq!(bench.past(1), None);
        bench.now.compared = [400, 101];
        assert_eq!(bench.past(1), Some(Signal::Mismatch));
        bench.bounds.mismatch_percent = 100;
        bench.now.compared = [400, 100_000];
        assert_eq!(bench.past(1), None);
    }
}
