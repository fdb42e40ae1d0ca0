//! What is forgotten and when, in steps small enough not to delay a commit.

use crate::TxError;
use rusqlite::{Connection, params};
use std::time::Duration;

/// How long finished things are kept.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Tombstones: an event that comes again within this time is known.
    pub tombstones: Duration,
    /// Delivered messages.
    pub delivered: Duration,
    /// Dead letters, given-up inbound messages and doubts that nobody resolved.
    pub dead: Duration,
    pub history: Duration,
    pub keys: Duration,
    /// Route sessions without activity; `None`: for ever.
    pub sessions: Option<Duration>,
    /// Rows that one step may delete from one table.
    pub step_rows: u32,
    /// Free pages that one step gives back to the file system.
    pub step_pages: u32,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Retention {
    fn default() -> Self {
        Self {
            tombstones: DAY * 30,
            delivered: DAY * 7,
            dead: DAY * 30,
            history: DAY * 30,
            keys: DAY * 7,
            sessions: None,
            step_rows: 500,
            step_pages: 256,
        }
    }
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Maintained {
    pub deleted: usize,
    /// Another step would find more at once.
    pub more: bool,
}

pub(crate) fn maintain(
    connection: &Connection,
    retention: &Retention,
    now_ms: i64,
) -> Result<Maintained, TxError> {
    let before =
        |age: Duration| now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let limit = i64::from(retention.step_rows);
    let steps = [
        (
            "DELETE FROM inbox WHERE seq IN (SELECT seq FROM inbox WHERE state IN ('done', 'failed') AND updated_ms < ?1 LIMIT ?2)",
            Some(retention.tombstones),
        ),
        (
            "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE state = 'delivered' AND updated_ms < ?1 LIMIT ?2)",
            Some(retention.delivered),
        ),
        (
            "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE state IN ('dead', 'in_doubt') AND updated_ms < ?1 LIMIT ?2)",
            Some(retention.dead),
        ),
        (
            "DELETE FROM history WHERE seq IN (SELECT seq FROM history WHERE at_ms < ?1 LIMIT ?2)",
            Some(retention.history),
        ),
        (
            "DELETE FROM aliases WHERE (alias, subject) IN (SELECT alias, subject FROM aliases WHERE at_ms < ?1 LIMIT ?2)",
            Some(retention.history),
        ),
        (
            "DELETE FROM idempotency WHERE (scope, key) IN (SELECT scope, key FROM idempotency WHERE created_ms < ?1 LIMIT ?2)",
            Some(retention.keys),
        ),
        (
            "DELETE FROM agent_runs WHERE run_id IN (SELECT run_id FROM agent_runs WHERE state <> 'accepted' AND ended_ms < ?1 LIMIT ?2)",
            Some(retention.history),
        ),
        (
            "DELETE FROM agent_entries WHERE seq IN (SELECT e.seq FROM agent_entries e LEFT JOIN agent_sessions s ON s.session_id = substr(e.session_id, 1, instr(e.session_id || '/', '/') - 1) WHERE s.key IS NULL AND e.at_ms < ?1 LIMIT ?2)",
            Some(retention.history),
        ),
        (
            "DELETE FROM route_sessions WHERE key IN (SELECT key FROM route_sessions WHERE active_ms < ?1 LIMIT ?2)",
            retention.sessions,
        ),
    ];
    let mut done = Maintained::default();
    for (sql, age) in steps {
        let Some(age) = age else { continue };
        let deleted = connection
            .prepare_cached(sql)?
            .execute(params![before(age), limit])?;
        done.deleted += deleted;
        done.more |= deleted >= retention.step_rows as usize;
    }
    connection
        .prepare(&format!(
            "PRAGMA incremental_vacuum({})",
            retention.step_pages
        ))?
        .query_map([], |_| Ok(()))?
        .for_each(drop);
    Ok(done)
}
