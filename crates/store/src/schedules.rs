//! Jobs by the clock: what they are, when they are due, and their runs.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::TxError;

/// Runs of one job that are remembered.
const RUNS_KEPT: i64 = 2000;
/// And for how long.
const RUNS_KEPT_MS: i64 = 7 * 24 * 60 * 60 * 1000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronJob {
    pub id: String,
    /// JSON object, without `state`.
    pub job: String,
    /// JSON object.
    pub state: String,
    /// When it is due; `None`: not by itself.
    pub next_ms: Option<i64>,
    /// The run at work.
    pub run_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronRun {
    pub run_id: String,
    pub job_id: String,
    pub started_ms: i64,
    /// JSON object, once it has ended.
    pub entry: Option<String>,
}

/// Which runs.
#[derive(Debug, Clone, Default)]
pub struct CronRunFilter {
    pub job_id: Option<String>,
    pub run_id: Option<String>,
}

pub struct Schedules<'a>(pub(crate) &'a Connection);

fn job_of(row: &Row<'_>) -> rusqlite::Result<CronJob> {
    Ok(CronJob {
        id: row.get(0)?,
        job: row.get(1)?,
        state: row.get(2)?,
        next_ms: row.get(3)?,
        run_id: row.get(4)?,
    })
}

fn run_of(row: &Row<'_>) -> rusqlite::Result<CronRun> {
    Ok(CronRun {
        run_id: row.get(0)?,
        job_id: row.get(1)?,
        started_ms: row.get(2)?,
        entry: row.get(3)?,
    })
}

impl Schedules<'_> {
    /// All jobs, oldest first.
    pub fn jobs(&self) -> Result<Vec<CronJob>, TxError> {
        let mut statement = self.0.prepare_cached(
            "SELECT id, job, state, next_ms, run_id FROM cron_jobs ORDER BY rowid",
        )?;
        let rows = statement.query_map([], job_of)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub fn job(&self, id: &str) -> Result<Option<CronJob>, TxError> {
        Ok(self
            .0
            .prepare_cached("SELECT id, job, state, next_ms, run_id FROM cron_jobs WHERE id = ?1")?
            .query_row([id], job_of)
            .optional()?)
    }

    pub fn put(&self, job: &CronJob) -> Result<(), TxError> {
        self.0
            .prepare_cached("INSERT INTO cron_jobs (id, job, state, next_ms, run_id) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO UPDATE SET job = ?2, state = ?3, next_ms = ?4, run_id = ?5")?
            .execute(params![job.id, job.job, job.state, job.next_ms, job.run_id])?;
        Ok(())
    }

    /// `false`: there is none.
    pub fn remove(&self, id: &str) -> Result<bool, TxError> {
        let removed = self
            .0
            .prepare_cached("DELETE FROM cron_jobs WHERE id = ?1")?
            .execute([id])?;
        Ok(removed > 0)
    }

    /// Begins a run: from here on it is not begun again.
    pub fn begin(&self, run_id: &str, job_id: &str, now_ms: i64) -> Result<(), TxError> {
        self.0
            .prepare_cached(
                "INSERT INTO cron_runs (run_id, job_id, started_ms) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![run_id, job_id, now_ms])?;
        Ok(())
    }

    /// Ends a run. `false`: it had ended.
    pub fn end(
        &self,
        run_id: &str,
        job_id: &str,
        entry: &str,
        now_ms: i64,
    ) -> Result<bool, TxError> {
        let ended = self
            .0
            .prepare_cached("UPDATE cron_runs SET entry = ?2 WHERE run_id = ?1 AND entry IS NULL")?
            .execute([run_id, entry])?;
        self.0
            .prepare_cached("DELETE FROM cron_runs WHERE entry IS NOT NULL AND (started_ms < ?2 OR job_id = ?1 AND seq <= (SELECT seq FROM cron_runs WHERE job_id = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?3))")?
            .execute(params![job_id, now_ms - RUNS_KEPT_MS, RUNS_KEPT])?;
        Ok(ended > 0)
    }

    /// Forgets conversations that single runs had and that nobody has touched since. Answers how many.
    pub fn forget_conversations(&self, before_ms: i64) -> Result<usize, TxError> {
        let keys: Vec<String> = {
            let mut statement = self.0.prepare_cached(
                "SELECT key FROM agent_sessions WHERE key GLOB 'agent:*:cron:*:run:*' AND updated_ms < ?1 LIMIT 1000",
            )?;
            let rows = statement.query_map([before_ms], |row| row.get(0))?;
            rows.collect::<Result<_, _>>()?
        };
        let agents = crate::Agents(self.0);
        for key in &keys {
            agents.delete(key)?;
        }
        Ok(keys.len())
    }

    /// Runs without an end: what a stop cut off, or what is at work.
    pub fn open_runs(&self) -> Result<Vec<CronRun>, TxError> {
        let mut statement = self.0.prepare_cached(
            "SELECT run_id, job_id, started_ms, entry FROM cron_runs WHERE entry IS NULL ORDER BY seq",
        )?;
        let rows = statement.query_map([], run_of)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Ended runs, latest first.
    pub fn runs(&self, filter: &CronRunFilter) -> Result<Vec<CronRun>, TxError> {
        let mut statement = self.0.prepare_cached(
            "SELECT run_id, job_id, started_ms, entry FROM cron_runs WHERE entry IS NOT NULL AND (?1 IS NULL OR job_id = ?1) AND (?2 IS NULL OR run_id = ?2) ORDER BY seq DESC LIMIT 10000",
        )?;
        let rows = statement.query_map(params![filter.job_id, filter.run_id], run_of)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
