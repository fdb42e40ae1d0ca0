//! Jobs by the clock, for agents that run here: kept in the store, begun once each time they are due, over restarts.
//!
//! A run is on disk before it begins, and its job's next time with it, so that a crash repeats nothing: what it cut off
//! is told as failed. What came due while nobody was here runs once (`cron.skipMissedJobs` leaves recurring jobs out).
//! Source of shapes, events and rules: docs/automation of the installed package at 2026.9.6, and its answers.

pub(crate) mod heartbeat;
mod job;
pub(crate) mod methods;
mod run;
pub(crate) mod when;

pub(crate) use run::SILENT;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use store::{Store, StoreError};
use tokio::sync::{Notify, Semaphore};

use crate::app::App;
use crate::assistant::Assistant;
use crate::clock;
use job::Job;

/// Jobs at work at once; others wait, oldest first.
const RUNS_MAX: usize = 4;
/// Jobs that are kept; one more is refused.
const JOBS_MAX: usize = 1000;
/// A recurring job that failed waits at least so long, the more often in a row the longer.
const BACKOFF_MS: [i64; 5] = [30_000, 60_000, 300_000, 900_000, 3_600_000];
/// A job that is due once is tried so often.
const ONCE_TRIES: i64 = 3;
/// Between two runs of one job, whatever its interval says.
const GAP_MS: i64 = 2_000;
/// How long the conversation of a single run is kept, unless `cron.sessionRetention` says otherwise.
const CONVERSATION_MS: i64 = 24 * 60 * 60 * 1000;
/// And how often those that are too old are looked for.
const TIDY: Duration = Duration::from_secs(60 * 60);
/// The clock is looked at again at least so often: it can be set.
const LOOK: Duration = Duration::from_secs(30);

/// The jobs of this process.
pub(crate) struct Schedule {
    store: Store,
    /// Names this process to those who wait for a run.
    process: String,
    manual: AtomicU64,
    /// Jobs or slots have changed.
    changed: Notify,
    slots: Arc<Semaphore>,
    heartbeats: Arc<heartbeat::Heartbeats>,
}

/// Why a run begins.
#[derive(Clone)]
enum Cause {
    Due,
    /// Somebody asked: the run's id.
    Asked(String),
}

impl Schedule {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            process: uuid::Uuid::new_v4().to_string(),
            manual: AtomicU64::new(0),
            changed: Notify::new(),
            slots: Arc::new(Semaphore::new(RUNS_MAX)),
            heartbeats: Arc::default(),
        }
    }

    /// The configuration has changed: what it says of times is in force at once.
    pub(crate) fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Begins what is due until the process stops.
    pub(crate) async fn serve(self: Arc<Self>, app: Arc<App>, assistant: Arc<Assistant>) {
        let mut recovered = false;
        let mut tidied: Option<Instant> = None;
        loop {
            let mut sleep = LOOK;
            if is_ours(&app) {
                if !recovered {
                    recovered = self.recover(&app).await;
                }
                if recovered && tidied.is_none_or(|at| at.elapsed() >= TIDY) {
                    tidied = Some(Instant::now());
                    self.tidy(&app).await;
                }
                if recovered && is_on(&app) {
                    match self.begin_due(&app, &assistant).await {
                        Ok(Some(next)) => {
                            let wait = u64::try_from(next - now()).unwrap_or(0);
                            sleep = sleep.min(Duration::from_millis(wait));
                        }
                        Ok(None) => {}
                        Err(error) => {
                            tracing::error!(%error, "jobs that may be due cannot be read");
                            sleep = Duration::from_secs(5);
                        }
                    }
                    if let Some(next) = self.heartbeats.begin_due(&app, &assistant) {
                        let wait = u64::try_from(next - now()).unwrap_or(0);
                        sleep = sleep.min(Duration::from_millis(wait));
                    }
                } else if !recovered {
                    sleep = Duration::from_secs(1);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.changed.notified() => {}
                () = app.stops() => return,
            }
        }
    }

    /// Tells of runs that the last stop cut off. `false`: the store can't be used yet.
    async fn recover(&self, app: &App) -> bool {
        let now = now();
        let skip = setting(app, "/cron/skipMissedJobs") == Some(json!(true));
        let began = i64::try_from(app.started_ms).unwrap_or(i64::MAX);
        let done = self.store.write(move |tx| {
            let schedules = tx.schedules();
            let mut cut_off = Vec::new();
            for run in schedules.open_runs()? {
                // Asked for in this process, before the store could be looked through.
                if run.started_ms >= began {
                    continue;
                }
                let why = "the gateway was stopped while this job was at work";
                let mut entry = json!({
                    "ts": now, "jobId": run.job_id, "action": "finished", "status": "error",
                    "completionStatus": "failed", "error": why, "runId": run.run_id,
                    "runAtMs": run.started_ms, "durationMs": (now - run.started_ms).max(0),
                });
                if let Some(mut job) = schedules.job(&run.job_id)?.as_ref().and_then(Job::of) {
                    entry["jobName"] = json!(job.text("name"));
                    // It may have done what it was for: once means once.
                    failed(&mut job, why, run.started_ms, now, Again::No);
                    schedules.put(&job.row())?;
                }
                schedules.end(&run.run_id, &run.job_id, &entry.to_string(), now)?;
                cut_off.push(run.job_id);
            }
            if skip {
                for row in schedules.jobs()? {
                    let missed = row.next_ms.is_some_and(|next| next < now);
                    if let Some(mut job) = Job::of(&row).filter(|job| missed && !job.is_once()) {
                        job.next_ms = job.when().and_then(|when| when.next(now, &job.id));
                        job.note_next();
                        schedules.put(&job.row())?;
                    }
                }
            }
            Ok(cut_off)
        });
        match done.await {
            Ok(cut_off) => {
                for job in cut_off {
                    tracing::warn!(
                        job,
                        "a job was cut off by the last stop; it counts as failed"
                    );
                }
                true
            }
            Err(error) => {
                tracing::debug!(%error, "jobs cannot be read yet");
                false
            }
        }
    }

    /// Forgets the conversations of runs long ended.
    async fn tidy(&self, app: &App) {
        let retention = setting(app, "/cron/sessionRetention").unwrap_or_default();
        let Some(kept) = retention_ms(&retention) else {
            return;
        };
        let before = now() - kept;
        let forgotten = self
            .store
            .write(move |tx| tx.schedules().forget_conversations(before));
        match forgotten.await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "conversations of ended jobs were forgotten"),
            Err(error) => tracing::warn!(%error, "conversations of ended jobs cannot be forgotten"),
        }
    }

    /// Begins what is due and there is room for; answers when the next one is.
    async fn begin_due(
        self: &Arc<Self>,
        app: &Arc<App>,
        assistant: &Arc<Assistant>,
    ) -> Result<Option<i64>, StoreError> {
        let rows = self.store.read(|reader| reader.schedules().jobs()).await?;
        let mut waiting: Vec<(i64, String)> = rows
            .into_iter()
            .filter(|row| row.run_id.is_none())
            .filter_map(|row| Some((row.next_ms?, row.id)))
            .collect();
        waiting.sort();
        let now = now();
        let mut next = None;
        for (at, id) in waiting {
            if at > now {
                next = Some(at);
                break;
            }
            // Without a free slot the end of a run looks again.
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
                break;
            };
            if let Some(job) = self.begin(&id, &Cause::Due).await? {
                self.work(app, assistant, job, &Cause::Due, slot);
            }
        }
        Ok(next)
    }

    /// Takes a job up, on disk. `None`: it is at work, or no longer due.
    async fn begin(&self, id: &str, cause: &Cause) -> Result<Option<Job>, StoreError> {
        let (id, cause, now) = (id.to_owned(), cause.clone(), now());
        self.store
            .write(move |tx| {
                let schedules = tx.schedules();
                let Some(mut job) = schedules.job(&id)?.as_ref().and_then(Job::of) else {
                    return Ok(None);
                };
                let due = job.next_ms.is_some_and(|next| next <= now);
                if job.run_id.is_some() || (matches!(cause, Cause::Due) && !due) {
                    return Ok(None);
                }
                let run_id = match cause {
                    Cause::Due => uuid::Uuid::new_v4().to_string(),
                    Cause::Asked(run_id) => run_id,
                };
                if due {
                    let next = job.when().filter(|_| !job.is_once());
                    job.next_ms = next.and_then(|when| when.next(now + GAP_MS, &job.id));
                }
                job.run_id = Some(run_id.clone());
                job.state.insert("runningAtMs".into(), json!(now));
                schedules.begin(&run_id, &id, now)?;
                schedules.put(&job.row())?;
                Ok(Some(job))
            })
            .await
    }

    fn manual_id(&self, job: &str) -> String {
        let count = self.manual.fetch_add(1, Ordering::Relaxed) + 1;
        format!("manual:{job}:{}:{count}", now())
    }
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schedule").finish_non_exhaustive()
    }
}

/// Whether what failed may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// Nothing was done yet.
    Yes,
    /// Something may have been done.
    No,
    /// It was done, and the answer got nowhere: no reason to wait longer the next time.
    Done,
}

/// Notes a failed run in a job's state, and puts the next one off.
fn failed(job: &mut Job, why: &str, started_ms: i64, now: i64, again: Again) {
    let in_a_row = job.number("consecutiveErrors") + 1;
    ended(job, "error", started_ms, now);
    job.state.insert("lastError".into(), json!(why));
    job.state
        .insert("consecutiveErrors".into(), json!(in_a_row));
    let step = usize::try_from(in_a_row - 1)
        .unwrap_or(0)
        .min(BACKOFF_MS.len() - 1);
    let soonest = now + BACKOFF_MS[step];
    if !job.is_enabled() {
        return;
    }
    if job.is_once() {
        // One that was asked for ahead of its time keeps it.
        if job.next_ms.is_none() {
            job.next_ms = (again == Again::Yes && in_a_row < ONCE_TRIES).then_some(soonest);
            if job.next_ms.is_none() {
                job.fields.insert("enabled".into(), json!(false));
            }
        }
    } else if again != Again::Done {
        job.next_ms = job.next_ms.map(|next| next.max(soonest));
    }
    job.note_next();
}

/// Notes any end of a run.
fn ended(job: &mut Job, status: &str, started_ms: i64, now: i64) {
    job.run_id = None;
    job.state.remove("runningAtMs");
    job.state.remove("lastError");
    for (name, value) in [
        ("lastRunAtMs", json!(started_ms)),
        ("lastRunStatus", json!(status)),
        ("lastStatus", json!(status)),
        ("lastDurationMs", json!((now - started_ms).max(0))),
        ("consecutiveErrors", json!(0)),
        ("consecutiveSkipped", json!(0)),
    ] {
        job.state.insert(name.into(), value);
    }
    job.fields.insert("updatedAtMs".into(), json!(now));
    job.note_next();
}

/// Tells clients what happened to a job.
fn tell(app: &App, action: &str, job: &Job, more: Value) {
    let mut payload = json!({ "jobId": job.id, "action": action, "job": job.told() });
    if let (Some(payload), Value::Object(more)) = (payload.as_object_mut(), more) {
        payload.extend(more);
    }
    if let Some(next) = job.next_ms {
        payload["nextRunAtMs"] = json!(next);
    }
    app.hub.broadcast("cron", &payload.to_string(), None);
}

/// `cron.sessionRetention`: `24h`, `30m`, `7d`; `None`: kept for good.
fn retention_ms(setting: &Value) -> Option<i64> {
    let text = match setting {
        Value::Bool(false) => return None,
        Value::String(text) => text.trim(),
        _ => return Some(CONVERSATION_MS),
    };
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit_ms = match unit.trim() {
        "ms" => 1.0,
        "s" => 1e3,
        "m" | "" => 6e4,
        "h" => 3.6e6,
        "d" => 8.64e7,
        _ => return Some(CONVERSATION_MS),
    };
    match number.parse::<f64>() {
        Ok(0.0) => None,
        Ok(number) => Some((number * unit_ms) as i64),
        Err(_) => Some(CONVERSATION_MS),
    }
}

/// Agents run here: their jobs are ours.
fn is_ours(app: &App) -> bool {
    app.upstream.borrow().word() == "off"
}

/// Source: `cron.enabled` and OPENCLAW_SKIP_CRON.
fn is_on(app: &App) -> bool {
    let skipped = app.variable("OPENCLAW_SKIP_CRON");
    setting(app, "/cron/enabled") != Some(json!(false)) && skipped.as_deref() != Some("1")
}

fn setting(app: &App, pointer: &str) -> Option<Value> {
    app.facts.load().config.pointer(pointer).cloned()
}

fn now() -> i64 {
    i64::try_from(clock::now_ms()).unwrap_or(i64::MAX)
}

/// At most so many characters of a text.
fn clipped(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
        None => text.to_owned(),
    }
}

fn digest(text: &str) -> String {
    crate::auth::sha256_hex(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_of_runs_are_kept_as_long_as_the_user_says() {
        let day = Some(CONVERSATION_MS);
        for (setting, expected) in [
            (json!(null), day),
            (json!("24h"), day),
            (json!("1d"), day),
            (json!("30m"), Some(1_800_000)),
            (json!("1.5h"), Some(5_400_000)),
            (json!(false), None),
            (json!("0h"), None),
            (json!("soon"), day),
        ] {
            assert_eq!(retention_ms(&setting), expected, "{setting}");
        }
    }
}
