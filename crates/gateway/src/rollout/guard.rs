//! Watches what is answered here against what the upstream answers, and goes back to 0 % by itself when a bound is
//! passed. It stays there until a person promotes or sets a percent, also over restarts.
//!
//! Calls are counted in [`crate::metrics::Moved`]; here they are looked at twice a second. Going back is one flag that
//! every call reads: no connection is closed, and calls under way end where they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::Note;
use super::window::{Look, Reading, Sample, Side, Signal, Window};
use crate::app::App;
use crate::clock;
use crate::metrics::{Moved, Owner};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two questions to the message store.
const QUEUE_EVERY: Duration = Duration::from_secs(5);
/// What a person does about a rollback.
const ADVICE: &str = "find the cause (docs/operations.md#openclawguardtripped), then `openclaw-gateway rollout promote`, or `rollout set PERCENT`";

/// Why it went back, as it is kept beside the percent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trip {
    pub(crate) signal: Signal,
    pub(crate) native: f64,
    pub(crate) upstream: Option<f64>,
    pub(crate) bound: f64,
    /// Of clients that were served here until then.
    pub(crate) percent: u8,
    pub(crate) at_ms: u64,
}

impl Trip {
    /// `p99 480 ms here, 12 ms at OpenClaw, bound 100 ms`.
    pub(crate) fn words(&self) -> String {
        let words = |value| self.signal.words(value);
        let theirs = self
            .upstream
            .map(|value| format!("{} at OpenClaw, ", words(value)));
        format!(
            "{} {} here, {}bound {}",
            self.signal.as_str(),
            words(self.native),
            theirs.unwrap_or_default(),
            words(self.bound)
        )
    }

    fn told(&self) -> Value {
        let mut told = json!(self);
        told["text"] = Value::from(self.words());
        told["todo"] = Value::from(ADVICE);
        told
    }
}

/// How things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Standing {
    /// Switched off, or there is nobody to go back to.
    #[default]
    Off,
    /// Nothing can be said: the reason.
    Watching(&'static str),
    Ok,
    Tripped,
}

impl Standing {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Watching(_) => "watching",
            Self::Ok => "ok",
            Self::Tripped => "tripped",
        }
    }
}

/// What the last look gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) standing: Standing,
    pub(crate) look: Look,
    pub(crate) trip: Option<Trip>,
    /// Not on disk yet: a reload must not take the file's word for it.
    unrecorded: bool,
}

/// Lives as long as the process.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    /// Nobody's calls are answered here for the rollout.
    back: AtomicBool,
    /// By [`Signal::ALL`].
    trips: [AtomicU64; 4],
    report: Mutex<Report>,
    /// The window begins anew: a person brought the clients again.
    renew: AtomicBool,
}

impl Guard {
    pub(crate) fn is_back(&self) -> bool {
        self.back.load(Ordering::Relaxed)
    }

    pub(crate) fn report(&self) -> Report {
        self.report.lock().clone()
    }

    pub(crate) fn trips(&self) -> [u64; 4] {
        std::array::from_fn(|at| self.trips[at].load(Ordering::Relaxed))
    }

    /// Takes what is kept beside the percent: at the start, and whenever our file was read again.
    pub(crate) fn obey(&self, note: &Note, percent: u8) {
        let mut report = self.report.lock();
        if report.unrecorded {
            return;
        }
        let trip = note.holding(percent).cloned();
        let is_back = trip.is_some();
        report.trip = trip;
        if self.back.swap(is_back, Ordering::Relaxed) && !is_back {
            report.standing = Standing::Watching("it begins anew");
            self.renew.store(true, Ordering::Relaxed);
            tracing::info!(
                percent,
                "the rollout's guard lets clients be served here again"
            );
        } else if is_back {
            report.standing = Standing::Tripped;
        }
    }

    fn trip(&self, trip: Trip, look: Look) {
        self.back.store(true, Ordering::Relaxed);
        self.trips[trip.signal as usize].fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            signal = trip.signal.as_str(),
            percent = trip.percent,
            "the rollout's guard went back to 0 %: {}; {ADVICE}",
            trip.words()
        );
        *self.report.lock() = Report {
            standing: Standing::Tripped,
            look,
            trip: Some(trip),
            unrecorded: true,
        };
    }
}

/// `guard` of `rollout status` and `GET /api/rollout`.
pub(crate) fn told(app: &App) -> Value {
    let Report {
        standing,
        look,
        trip,
        ..
    } = app.guard.report();
    let settings = &app.settings.load().guard;
    let signals: Vec<Value> = Signal::ALL
        .into_iter()
        .zip(look.readings)
        .map(|(signal, reading)| {
            let mut told = json!(reading);
            told["signal"] = Value::from(signal.as_str());
            let words = |value: Option<f64>| value.map(|value| signal.words(value));
            told["text"] = json!({
                "native": words(reading.native), "upstream": words(reading.upstream), "bound": signal.words(reading.bound),
            });
            told
        })
        .collect();
    let why = match standing {
        Standing::Watching(why) => Some(why),
        Standing::Off if !settings.enabled => Some("[rollout.guard] enabled is false"),
        Standing::Off => Some("no OpenClaw is configured"),
        Standing::Ok | Standing::Tripped => None,
    };
    json!({
        "state": standing.as_str(),
        "why": why,
        "windowS": settings.window.as_secs(),
        "callsMin": settings.calls_min,
        "calls": { "native": look.native_calls, "upstream": look.upstream_calls },
        "signals": signals,
        "trip": trip.as_ref().map(Trip::told),
    })
}

/// The same of files alone, while no gateway runs.
pub(crate) fn told_of(note: &Note, percent: u8, enabled: bool) -> Value {
    match note.holding(percent) {
        Some(trip) => json!({ "state": Standing::Tripped.as_str(), "trip": trip.told() }),
        None if enabled => json!({ "state": "watching", "why": "the gateway does not run" }),
        None => {
            json!({ "state": Standing::Off.as_str(), "why": "[rollout.guard] enabled is false" })
        }
    }
}

/// Looks until the gateway stops.
pub(crate) fn start(app: &Arc<App>, own_dir: &Path) {
    let note = Note::read(own_dir);
    app.guard.obey(&note, app.settings.load().rollout_percent);
    if let Some(trip) = note.holding(app.settings.load().rollout_percent) {
        tracing::warn!(
            "the rollout stays at 0 % since its guard went back: {}; {ADVICE}",
            trip.words()
        );
    }
    tokio::spawn(watch(Arc::clone(app), own_dir.to_owned()));
}

async fn watch(app: Arc<App>, own_dir: PathBuf) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = app.stopping.subscribe();
    let mut watcher = Watcher::default();
    loop {
        tokio::select! {
            _ = every.tick() => {}
            _ = stop.changed() => return,
        }
        watcher.look(&app).await;
        if app.guard.report.lock().unrecorded {
            record(&app, &own_dir).await;
        }
    }
}

/// What one look hands to the next.
#[derive(Default)]
struct Watcher {
    window: Window,
    epoch: Option<u64>,
    queue: Option<(Instant, Duration)>,
}

impl Watcher {
    async fn look(&mut self, app: &App) {
        let settings = app.settings.load_full();
        let upstream = app.upstream.borrow().clone();
        let waiting = match upstream.word() {
            "off" => Some(Standing::Off),
            _ if app.guard.is_back() => Some(Standing::Tripped),
            _ if !settings.guard.enabled => Some(Standing::Off),
            _ if settings.rollout_percent == 0 => Some(Standing::Watching("nobody is served here")),
            // Nobody to go back to; and what happens meanwhile is not our side's fault.
            "ready" | "asleep" => None,
            _ => Some(Standing::Watching("OpenClaw does not answer")),
        };
        let epoch = upstream.ready().map(|ready| ready.epoch);
        if app.guard.renew.swap(false, Ordering::Relaxed) || epoch != self.epoch {
            self.window.clear();
            self.epoch = epoch;
        }
        if let Some(standing) = waiting {
            self.window.clear();
            let mut report = app.guard.report.lock();
            report.standing = standing;
            // After going back, what was seen then stays to be read.
            if standing != Standing::Tripped {
                let nothing = sample(app, Duration::ZERO);
                report.look = Window::default().look(nothing, &settings.guard);
            }
            return;
        }
        let queue_age = self.queue_age(app).await;
        let look = self.window.look(sample(app, queue_age), &settings.guard);
        if let Some((signal, reading)) = look.past() {
            let Reading {
                native,
                upstream,
                bound,
                ..
            } = reading;
            let trip = Trip {
                signal,
                native: native.unwrap_or_default(),
                upstream,
                bound,
                percent: settings.rollout_percent,
                at_ms: clock::now_ms(),
            };
            return app.guard.trip(trip, look);
        }
        let mut report = app.guard.report.lock();
        report.standing = match look.native_calls >= settings.guard.calls_min {
            true => Standing::Ok,
            false => Standing::Watching("too few calls for a verdict"),
        };
        report.look = look;
    }

    /// How long the longest due message has not been taken up; asked now and then.
    async fn queue_age(&mut self, app: &App) -> Duration {
        if let Some((asked, age)) = self.queue
            && asked.elapsed() < QUEUE_EVERY
        {
            return age;
        }
        let due = match app.messages() {
            Some(messages) => messages.due_since().await,
            None => None,
        };
        let now_ms = i64::try_from(clock::now_ms()).unwrap_or(i64::MAX);
        let late_ms = due.map_or(0, |due_ms| now_ms.saturating_sub(due_ms));
        let age = Duration::from_millis(u64::try_from(late_ms).unwrap_or(0));
        self.queue = Some((Instant::now(), age));
        age
    }
}

fn sample(app: &App, queue_age: Duration) -> Sample {
    let side = |owner: Owner| {
        let moved: &Moved = &app.metrics.moved[owner as usize];
        Side {
            times: moved.times.counts(),
            failed: moved.failed.load(Ordering::Relaxed),
        }
    };
    let shadow = &app.shadow;
    Sample {
        at: app.started.elapsed(),
        // Before the answers: a call that is both begun and answered meanwhile must not look unanswered.
        begun: app.metrics.moved[Owner::Native as usize]
            .begun
            .load(Ordering::Relaxed),
        native: side(Owner::Native),
        upstream: side(Owner::Upstream),
        compared: [&shadow.moving_equal, &shadow.moving_different]
            .map(|counter| counter.load(Ordering::Relaxed)),
        queue_age,
    }
}

/// Keeps the reason beside the percent. What can't be written is tried again at the next look.
async fn record(app: &App, own_dir: &Path) {
    let Some(trip) = app.guard.report.lock().trip.clone() else {
        return;
    };
    let own_dir = own_dir.to_owned();
    let written =
        tokio::task::spawn_blocking(move || Note::read(&own_dir).tripped(trip).write(&own_dir));
    match written.await {
        Ok(Ok(())) => app.guard.report.lock().unrecorded = false,
        Ok(Err(error)) => {
            tracing::error!(%error, "that the rollout's guard went back cannot be kept; it holds until this gateway ends");
        }
        Err(error) => tracing::error!(%error, "keeping the rollout's state panicked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trip() -> Trip {
        Trip {
            signal: Signal::P99,
            native: 0.48,
            upstream: Some(0.0042),
            bound: 0.1,
            percent: 50,
            at_ms: 7,
        }
    }

    #[test]
    fn a_trip_says_what_was_seen() {
        let p99 = trip();
        assert_eq!(
            p99.words(),
            "p99 480 ms here, 4.20 ms at OpenClaw, bound 100 ms"
        );
        let errors = Trip {
            signal: Signal::Errors,
            native: 1.0,
            upstream: None,
            bound: 0.05,
            ..p99
        };
        assert_eq!(errors.words(), "errors 100.0 % here, bound 5.0 %");
    }

    #[test]
    fn what_is_not_on_disk_yet_is_not_lifted_by_a_reload() {
        let guard = Guard::default();
        guard.trip(trip(), Look::default());
        guard.obey(&Note::default(), 50);
        assert!(guard.is_back());
        guard.report.lock().unrecorded = false;
        guard.obey(&Note::default().tripped(trip()), 50);
        assert!(guard.is_back());
        guard.obey(&Note::default(), 50);
        assert!(!guard.is_back() && guard.report().trip.is_none());
        assert_eq!(guard.trips(), [0, 1, 0, 0]);
    }
}
