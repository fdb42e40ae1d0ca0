//! What is counted while the gateway works, and how Prometheus is told.
//!
//! A call costs two atomic additions for its method and two for its time; nothing is locked. Rows are those of
//! [`wire::methods::all`] and one for all other names, so what a client calls can't make more of them. What is
//! known elsewhere (connections, the store, `/proc`) is read when somebody asks: [`snapshot`], then [`render`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wire::methods::{self, Method};

pub(crate) mod render;
pub(crate) mod route;
pub(crate) mod snapshot;

/// Upper bounds of the latency buckets, microseconds. From 5 ms on they are the original's; below are ours, since a call
/// that is answered here takes microseconds.
/// Source: `DURATION_BUCKETS_SECONDS` of the diagnostics-prometheus plugin.
pub(crate) const BUCKETS_US: [u64; 23] = [
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    600_000_000,
];

/// Error codes with a series of their own; any other is `other`.
pub(crate) const ERROR_CODES: [&str; 7] = [
    "INVALID_REQUEST",
    "FORBIDDEN",
    "NOT_PAIRED",
    "UNAVAILABLE",
    "APPROVAL_NOT_FOUND",
    "AGENT_TIMEOUT",
    "other",
];

/// Close codes with a series of their own; any other is `other`. 1005: without one. 1006: the socket just ended.
pub(crate) const CLOSE_CODES: [u16; 11] = [
    1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012,
];

/// Who answers a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// We; refusals are ours too.
    Native,
    /// The TypeScript gateway, also while it can't be reached.
    Upstream,
}

impl Owner {
    pub(crate) const ALL: [Self; 2] = [Self::Native, Self::Upstream];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Upstream => "upstream",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// A call that has come and is not answered yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Index into [`methods::all`], or its length for any other name.
    row: u16,
    /// Whether the rollout decides who answers it.
    moves: bool,
    since: Instant,
}

impl Timing {
    /// The row of the method, when it is one known at build time.
    pub(crate) fn method(self) -> Option<&'static Method> {
        methods::at(usize::from(self.row))
    }

    /// Of a call that the rollout's percent decides about, or of one that it turned out not to.
    pub(crate) const fn moving(self, moves: bool) -> Self {
        Self { moves, ..self }
    }
}

/// Times by bucket.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// The last one is for what is longer than every bound.
    counts: [AtomicU64; BUCKETS_US.len() + 1],
    sum_ns: AtomicU64,
}

/// How many times fell into each bucket; the last one is for what is longer than every bound.
pub(crate) type Counts = [u64; BUCKETS_US.len() + 1];

impl Histogram {
    fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BUCKETS_US.partition_point(|bound| *bound < us);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        std::array::from_fn(|at| self.counts[at].load(Ordering::Relaxed))
    }

    /// How many were up to each bound, then all of them, and their sum in seconds.
    pub(crate) fn read(&self) -> ([u64; BUCKETS_US.len() + 1], f64) {
        let mut sum = 0;
        let cumulative = std::array::from_fn(|at| {
            sum += self.counts[at].load(Ordering::Relaxed);
            sum
        });
        let seconds = self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        (cumulative, seconds)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) requests: AtomicU64,
    /// By [`Owner`].
    pub(crate) answers: [Histogram; 2],
}

/// Calls that the rollout's percent decides about, as one side answered them: what its guard compares.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// Taken up; counted of our own side alone.
    pub(crate) begun: AtomicU64,
    /// Answered with an error that the caller did not earn.
    pub(crate) failed: AtomicU64,
    pub(crate) times: Histogram,
}

/// Whether an error of this code is the answering side's own: any but those that say what the caller did wrong.
fn is_own_fault(code: &str) -> bool {
    !matches!(
        code,
        "INVALID_REQUEST" | "FORBIDDEN" | "NOT_PAIRED" | "APPROVAL_NOT_FOUND"
    )
}

/// All calls that one side answered.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) times: Counts,
    /// Answered with an error of the side's own, and with one that the caller earned.
    pub(crate) failed: u64,
    pub(crate) refused: u64,
}

/// What is counted. Lives as long as the process.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Request frames, also those that are not well formed.
    pub(crate) requests: AtomicU64,
    /// Of them handed to the upstream.
    pub(crate) bridged: AtomicU64,
    /// Beside [`methods::all`], and one more.
    rows: Box<[Row]>,
    /// By [`Owner`] and [`ERROR_CODES`].
    pub(crate) errors: [[AtomicU64; ERROR_CODES.len()]; 2],
    /// By [`Owner`].
    pub(crate) moved: [Moved; 2],
    pub(crate) websocket_opens: AtomicU64,
    /// Beside [`CLOSE_CODES`], and one more.
    pub(crate) websocket_closes: [AtomicU64; CLOSE_CODES.len() + 1],
    /// By the first digit of the status, from 1.
    pub(crate) http: [AtomicU64; 5],
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            bridged: AtomicU64::new(0),
            rows: (0..=methods::count()).map(|_| Row::default()).collect(),
            errors: Default::default(),
            moved: Default::default(),
            websocket_opens: AtomicU64::new(0),
            websocket_closes: Default::default(),
            http: Default::default(),
        }
    }
}

impl Metrics {
    /// A well-formed call has come.
    pub(crate) fn begin(&self, method: &str) -> Timing {
        let row = methods::index_of(method).unwrap_or(methods::count());
        self.rows[row].requests.fetch_add(1, Ordering::Relaxed);
        Timing {
            // Some 500 rows.
            row: u16::try_from(row).unwrap_or(u16::MAX),
            moves: false,
            since: Instant::now(),
        }
    }

    /// We take it up ourselves.
    pub(crate) fn taken(&self, timing: Timing) {
        if timing.moves {
            let own = &self.moved[Owner::Native.index()];
            own.begun.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Its first answer is on its way; `error` is the code, when it is one.
    pub(crate) fn end(&self, timing: Timing, owner: Owner, error: Option<&str>) {
        if let Some(row) = self.rows.get(usize::from(timing.row)) {
            let took = timing.since.elapsed();
            row.answers[owner.index()].observe(took);
            if timing.moves {
                let side = &self.moved[owner.index()];
                if error.is_some_and(is_own_fault) {
                    side.failed.fetch_add(1, Ordering::Relaxed);
                }
                side.times.observe(took);
            }
        }
        if let Some(code) = error {
            self.error(owner, code);
        }
    }

    pub(crate) fn error(&self, owner: Owner, code: &str) {
        let at = ERROR_CODES
            .iter()
            .position(|known| *known == code)
            .unwrap_or(ERROR_CODES.len() - 1);
        self.errors[owner.index()][at].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self, code: u16) {
        let at = CLOSE_CODES
            .iter()
            .position(|known| *known == code)
            .unwrap_or(CLOSE_CODES.len());
        self.websocket_closes[at].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn responded(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5);
        self.http[class - 1].fetch_add(1, Ordering::Relaxed);
    }

    /// Of all methods together.
    pub(crate) fn totals(&self, owner: Owner) -> Totals {
        let mut totals = Totals::default();
        for row in &self.rows {
            let counts = row.answers[owner.index()].counts();
            for (sum, count) in totals.times.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        for (code, count) in ERROR_CODES.iter().zip(&self.errors[owner.index()]) {
            let count = count.load(Ordering::Relaxed);
            match is_own_fault(code) {
                true => totals.failed += count,
                false => totals.refused += count,
            }
        }
        totals
    }

    /// Each row with its name; the last is `other`.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static str, &Row)> {
        let names = methods::all().map(|method| method.name);
        names.chain(std::iter::once("other")).zip(&self.rows)
    }
}

#[cfg(test)]
mod tests;
