//! What happened to each message, and what was counted.

use crate::TxError;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// One step of a message's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Id of the inbox or outbox row.
    pub subject: String,
    pub at_ms: i64,
    /// `received`, `spooled`, `routed`, `turn`, `queued`, `attempt`, `delivered`, …
    pub step: String,
    pub detail: String,
}

/// Everything known about one message and those it is tied to (its answer, its cause).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// Rows that the asked id names, causes first.
    pub subjects: Vec<String>,
    pub aliases: Vec<String>,
    pub steps: Vec<Step>,
}

/// A counter and by how much it grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    pub channel: String,
    pub name: &'static str,
    pub by: i64,
}

/// Timelines and counters.
pub struct History<'a> {
    connection: &'a Connection,
}

/// Rows that one `why` follows from its id: a message, its cause, the answers.
const SUBJECTS_MAX: usize = 64;

impl<'a> History<'a> {
    pub(crate) fn reading(connection: &'a Connection) -> Self {
        Self { connection }
    }

    /// Notes a step. Only inside a write.
    pub fn note(&self, subject: &str, at_ms: i64, step: &str, detail: &str) -> Result<(), TxError> {
        note(self.connection, subject, at_ms, step, detail)
    }

    /// Gives a message another name. Only inside a write.
    pub fn alias(&self, alias: &str, subject: &str, at_ms: i64) -> Result<(), TxError> {
        alias_of(self.connection, alias, subject, at_ms)
    }

    /// What is known under any id: ours, the service's, a run's. Empty `subjects`: nothing.
    pub fn why(&self, id: &str) -> Result<Timeline, TxError> {
        let mut subjects = BTreeSet::new();
        let mut pending = vec![id.to_owned()];
        pending.extend(self.strings("SELECT subject FROM aliases WHERE alias = ?1 LIMIT 32", id)?);
        while let Some(next) = pending.pop() {
            if subjects.len() >= SUBJECTS_MAX || subjects.contains(&next) || !self.exists(&next)? {
                continue;
            }
            pending.extend(self.strings("SELECT id FROM outbox WHERE cause = ?1 LIMIT 32", &next)?);
            pending.extend(self.strings(
                "SELECT cause FROM outbox WHERE id = ?1 AND cause IS NOT NULL",
                &next,
            )?);
            subjects.insert(next);
        }
        let mut timeline = Timeline::default();
        for subject in &subjects {
            timeline
                .aliases
                .extend(self.strings("SELECT alias FROM aliases WHERE subject = ?1", subject)?);
            let mut statement = self.connection.prepare_cached(
                "SELECT subject, at_ms, step, detail FROM history WHERE subject = ?1 ORDER BY seq LIMIT 1000",
            )?;
            let rows = statement.query_map([subject], |row| {
                Ok(Step {
                    subject: row.get(0)?,
                    at_ms: row.get(1)?,
                    step: row.get(2)?,
                    detail: row.get(3)?,
                })
            })?;
            for row in rows {
                timeline.steps.push(row?);
            }
        }
        // Stable: steps of one row keep their order even when the clock stood still or went back.
        timeline.steps.sort_by_key(|step| step.at_ms);
        timeline.subjects = subjects.into_iter().collect();
        Ok(timeline)
    }

    /// Counters as (channel, name, value).
    pub fn counters(&self) -> Result<Vec<(String, String, i64)>, TxError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT channel, name, value FROM counters WHERE channel <> '' ORDER BY 1, 2",
        )?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn exists(&self, id: &str) -> Result<bool, TxError> {
        Ok(self
            .connection
            .prepare_cached(
                "SELECT 1 FROM inbox WHERE id = ?1 UNION ALL SELECT 1 FROM outbox WHERE id = ?1
                 UNION ALL SELECT 1 FROM history WHERE subject = ?1 LIMIT 1",
            )?
            .query_row([id], |_| Ok(()))
            .optional()?
            .is_some())
    }

    fn strings(&self, sql: &str, value: &str) -> Result<Vec<String>, TxError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([value], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

pub(crate) fn note(
    connection: &Connection,
    subject: &str,
    at_ms: i64,
    step: &str,
    detail: &str,
) -> Result<(), TxError> {
    connection
        .prepare_cached(
            "INSERT INTO history (subject, at_ms, step, detail) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![subject, at_ms, step, detail])?;
    Ok(())
}

pub(crate) fn alias_of(
    connection: &Connection,
    alias: &str,
    subject: &str,
    at_ms: i64,
) -> Result<(), TxError> {
    if !alias.is_empty() {
        connection
            .prepare_cached(
                "INSERT INTO aliases (alias, subject, at_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            )?
            .execute(params![alias, subject, at_ms])?;
    }
    Ok(())
}

pub(crate) fn count(
    counts: Option<&RefCell<Vec<Count>>>,
    channel: &str,
    name: &'static str,
    by: i64,
) {
    let Some(counts) = counts else { return };
    let mut counts = counts.borrow_mut();
    if let Some(same) = counts
        .iter_mut()
        .find(|count| count.name == name && count.channel == channel)
    {
        same.by += by;
    } else {
        counts.push(Count {
            channel: channel.to_owned(),
            name,
            by,
        });
    }
}

/// Once per transaction, whatever it holds.
pub(crate) fn add_counts(connection: &Connection, counts: &[Count]) -> rusqlite::Result<()> {
    let mut sums: Vec<&Count> = counts.iter().collect();
    sums.sort_by(|a, b| (&a.channel, a.name).cmp(&(&b.channel, b.name)));
    for same in sums.chunk_by(|a, b| a.channel == b.channel && a.name == b.name) {
        let by: i64 = same.iter().map(|count| count.by).sum();
        connection
            .prepare_cached(
                "INSERT INTO counters (channel, name, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET value = value + excluded.value",
            )?
            .execute(params![same[0].channel, same[0].name, by])?;
    }
    Ok(())
}
