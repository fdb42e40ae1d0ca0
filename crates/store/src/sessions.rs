//! Route sessions: which conversation is which session, and where its answer goes.

use crate::TxError;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;

/// A session as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    /// Canonical session key (`agent:main:telegram:direct:42`).
    pub key: String,
    pub agent: String,
    pub channel: String,
    pub account: String,
    /// Where an answer goes: room or person.
    pub target: String,
    pub thread: Option<String>,
    /// JSON: the route of the last inbound message, so that a later answer can't go elsewhere.
    pub last_route: Option<String>,
    /// JSON object.
    pub metadata: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    pub key: String,
    pub agent: String,
    pub channel: String,
    pub account: String,
    pub target: String,
    pub thread: Option<String>,
    pub last_route: Option<String>,
    pub metadata: Option<String>,
    pub created_ms: i64,
    pub active_ms: i64,
}

/// What to list: newest activity first.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    pub agent: Option<String>,
    pub channel: Option<String>,
    /// Only sessions less recent than this (activity, key): the last row of the page before.
    pub before: Option<(i64, String)>,
    /// Rows, at most 500.
    pub limit: usize,
}

pub struct Sessions<'a>(pub(crate) &'a Connection);

const COLUMNS: &str =
    "key, agent, channel, account, target, thread, last_route, metadata, created_ms, active_ms";

impl Sessions<'_> {
    pub fn get(&self, key: &str) -> Result<Option<SessionRow>, TxError> {
        Ok(self
            .0
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM route_sessions WHERE key = ?1"
            ))?
            .query_row([key], row)
            .optional()?)
    }

    /// Creates or replaces all but the time of creation.
    pub fn upsert(&self, session: &NewSession, now_ms: i64) -> Result<(), TxError> {
        self.0
            .prepare_cached(
                "INSERT INTO route_sessions (key, agent, channel, account, target, thread, last_route, metadata, created_ms, active_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)
                 ON CONFLICT DO UPDATE SET agent = excluded.agent, channel = excluded.channel, account = excluded.account,
                    target = excluded.target, thread = excluded.thread, last_route = excluded.last_route,
                    metadata = coalesce(excluded.metadata, metadata), active_ms = excluded.active_ms",
            )?
            .execute(params![
                session.key,
                session.agent,
                session.channel,
                session.account,
                session.target,
                session.thread,
                session.last_route,
                session.metadata,
                now_ms
            ])?;
        Ok(())
    }

    /// Moves the time of the last activity. `false`: no such session.
    pub fn touch(&self, key: &str, now_ms: i64) -> Result<bool, TxError> {
        let changed = self
            .0
            .prepare_cached("UPDATE route_sessions SET active_ms = ?2 WHERE key = ?1")?
            .execute(params![key, now_ms])?;
        Ok(changed > 0)
    }

    pub fn delete(&self, key: &str) -> Result<bool, TxError> {
        let changed = self
            .0
            .prepare_cached("DELETE FROM route_sessions WHERE key = ?1")?
            .execute([key])?;
        Ok(changed > 0)
    }

    pub fn list(&self, filter: &SessionFilter) -> Result<Vec<SessionRow>, TxError> {
        let (before_ms, before_key) = filter.before.clone().unwrap_or((i64::MAX, String::new()));
        let mut statement = self.0.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM route_sessions
             WHERE (active_ms, key) < (?1, ?2) AND (?3 IS NULL OR agent = ?3) AND (?4 IS NULL OR channel = ?4)
             ORDER BY active_ms DESC, key DESC LIMIT ?5"
        ))?;
        let limit = i64::try_from(filter.limit.min(500)).unwrap_or(500);
        let rows = statement.query_map(
            params![before_ms, before_key, filter.agent, filter.channel, limit],
            row,
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Rows in all.
    pub fn count(&self) -> Result<i64, TxError> {
        Ok(self
            .0
            .query_row("SELECT count(*) FROM route_sessions", [], |row| row.get(0))?)
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    Ok(SessionRow {
        key: row.get(0)?,
        agent: row.get(1)?,
        channel: row.get(2)?,
        account: row.get(3)?,
        target: row.get(4)?,
        thread: row.get(5)?,
        last_route: row.get(6)?,
        metadata: row.get(7)?,
        created_ms: row.get(8)?,
        active_ms: row.get(9)?,
    })
}
