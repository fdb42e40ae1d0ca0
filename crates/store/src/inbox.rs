//! The inbound spool: committed before the service is told, worked off in order per lane, kept as tombstones.

use crate::history::{self, Count};
use crate::{TxError, new_id};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use std::cell::RefCell;

/// A message that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInbound {
    pub channel: String,
    pub account: String,
    /// Unique within the account for ever.
    pub event_id: String,
    /// The service's id of the message; also found by `why`.
    pub message_id: String,
    /// Order is kept within it: one per conversation.
    pub lane: String,
    /// JSON.
    pub payload: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spooled {
    New(String),
    /// The id of the row it was the first time.
    Duplicate(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InboxState {
    /// Waits for its turn.
    Waiting,
    /// The agent works on it.
    Turn,
    /// Finished; a tombstone.
    Done,
    /// Given up, with a note why; can be taken up again.
    Failed,
}

impl InboxState {
    fn parse(text: &str) -> Self {
        match text {
            "waiting" => Self::Waiting,
            "turn" => Self::Turn,
            "done" => Self::Done,
            _ => Self::Failed,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InboxRow {
    pub id: String,
    pub channel: String,
    pub account: String,
    pub event_id: String,
    pub lane: String,
    pub state: InboxState,
    #[serde(skip)]
    pub payload: String,
    pub session_key: Option<String>,
    pub run_id: Option<String>,
    pub note: Option<String>,
    pub attempts: i64,
    pub received_ms: i64,
    pub updated_ms: i64,
}

const COLUMNS: &str = "id, channel, account, event_id, lane, state, payload, session_key, run_id, note, attempts, received_ms, updated_ms";

pub struct Inbox<'a> {
    connection: &'a Connection,
    counts: Option<&'a RefCell<Vec<Count>>>,
}

impl<'a> Inbox<'a> {
    pub(crate) fn reading(connection: &'a Connection) -> Self {
        Self {
            connection,
            counts: None,
        }
    }

    pub(crate) fn writing(connection: &'a Connection, counts: &'a RefCell<Vec<Count>>) -> Self {
        Self {
            connection,
            counts: Some(counts),
        }
    }

    /// Spools one message, unless it was spooled before.
    pub fn spool(&self, message: &NewInbound, now_ms: i64) -> Result<Spooled, TxError> {
        let id = new_id(now_ms);
        let added = self
            .connection
            .prepare_cached(
                "INSERT INTO inbox (id, channel, account, event_id, lane, state, payload, not_before_ms, received_ms, updated_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'waiting', ?6, ?7, ?7, ?7) ON CONFLICT (channel, account, event_id) DO NOTHING",
            )?
            .execute(params![
                id,
                message.channel,
                message.account,
                message.event_id,
                message.lane,
                message.payload,
                now_ms
            ])?;
        if added == 0 {
            history::count(self.counts, &message.channel, "duplicate", 1);
            let first: String = self
                .connection
                .prepare_cached(
                    "SELECT id FROM inbox WHERE channel = ?1 AND account = ?2 AND event_id = ?3",
                )?
                .query_row(
                    params![message.channel, message.account, message.event_id],
                    |row| row.get(0),
                )?;
            history::note(self.connection, &first, now_ms, "duplicate", "")?;
            return Ok(Spooled::Duplicate(first));
        }
        history::count(self.counts, &message.channel, "received", 1);
        history::note(
            self.connection,
            &id,
            now_ms,
            "spooled",
            &format!(
                "{}/{} event {}",
                message.channel, message.account, message.event_id
            ),
        )?;
        history::alias_of(self.connection, &message.event_id, &id, now_ms)?;
        history::alias_of(self.connection, &message.message_id, &id, now_ms)?;
        Ok(Spooled::New(id))
    }

    pub fn get(&self, id: &str) -> Result<Option<InboxRow>, TxError> {
        Ok(self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM inbox WHERE id = ?1"))?
            .query_row([id], row)
            .optional()?)
    }

    /// The oldest open row of each lane that has no turn under way, oldest first.
    pub fn heads(&self, now_ms: i64, limit: usize) -> Result<Vec<InboxRow>, TxError> {
        // From lane to lane along the index: the cost grows with the lanes, not with what waits in them.
        let mut statement = self.connection.prepare_cached(&format!(
            "WITH RECURSIVE lanes (lane) AS (
                 SELECT min(lane) FROM inbox WHERE state IN ('waiting', 'turn')
                 UNION ALL
                 SELECT (SELECT min(lane) FROM inbox WHERE state IN ('waiting', 'turn') AND lane > lanes.lane)
                 FROM lanes WHERE lane IS NOT NULL)
             SELECT {COLUMNS} FROM inbox WHERE seq IN (
                 SELECT (SELECT min(seq) FROM inbox WHERE state IN ('waiting', 'turn') AND lane = lanes.lane)
                 FROM lanes WHERE lane IS NOT NULL)
             AND state = 'waiting' AND not_before_ms <= ?1 ORDER BY seq LIMIT ?2"
        ))?;
        let rows = statement.query_map(
            params![now_ms, i64::try_from(limit).unwrap_or(i64::MAX)],
            row,
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What waits behind a row of its lane and was never begun, oldest first.
    pub fn behind(&self, lane: &str, id: &str, limit: usize) -> Result<Vec<InboxRow>, TxError> {
        // The states as the partial index names them, or it is not used.
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM inbox WHERE state IN ('waiting', 'turn') AND lane = ?1
             AND seq > (SELECT seq FROM inbox WHERE id = ?2) AND state = 'waiting' AND run_id IS NULL
             ORDER BY seq LIMIT ?3"
        ))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![lane, id, limit], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What an order to stop ends: open rows of its lane that came before it, and turns of its session, oldest first.
    pub fn before(
        &self,
        stop: &str,
        lane: &str,
        session_key: &str,
        limit: usize,
    ) -> Result<Vec<InboxRow>, TxError> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM inbox WHERE state IN ('waiting', 'turn') AND id <> ?1
             AND ((lane = ?2 AND seq < (SELECT seq FROM inbox WHERE id = ?1)) OR (state = 'turn' AND session_key = ?3))
             ORDER BY seq LIMIT ?4"
        ))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![stop, lane, session_key, limit], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Ends a row that is open; `false`: it had ended already.
    pub fn halt(&self, id: &str, why: &str, now_ms: i64) -> Result<bool, TxError> {
        let state = self.get(id)?.map(|row| row.state);
        let is_open = matches!(state, Some(InboxState::Waiting | InboxState::Turn));
        if is_open {
            self.done(id, why, now_ms)?;
        }
        Ok(is_open)
    }

    /// Makes one message of several: the first goes on with `payload`, the others come to rest in it and whoever asks for
    /// one of them is shown it too.
    pub fn join(
        &self,
        first: &str,
        payload: &str,
        others: &[String],
        now_ms: i64,
    ) -> Result<(), TxError> {
        self.change(
            "UPDATE inbox SET payload = ?2, updated_ms = ?3 WHERE id = ?1 AND state = 'waiting'",
            params![first, payload, now_ms],
            first,
        )?;
        let with = format!("one turn with {}", others.join(", "));
        history::note(self.connection, first, now_ms, "joined", &with)?;
        let to = format!("to {first}, which is answered for both");
        for other in others {
            self.change(
                "UPDATE inbox SET state = 'done', payload = '', note = ?2, updated_ms = ?3
                 WHERE id = ?1 AND state = 'waiting'",
                params![other, format!("joined {to}"), now_ms],
                other,
            )?;
            history::note(self.connection, other, now_ms, "joined", &to)?;
            self.connection
                .prepare_cached(
                    "INSERT INTO aliases (alias, subject, at_ms)
                     SELECT alias, ?2, ?3 FROM aliases WHERE subject = ?1 ON CONFLICT DO NOTHING",
                )?
                .execute(params![other, first, now_ms])?;
            history::alias_of(self.connection, other, first, now_ms)?;
        }
        Ok(())
    }

    /// Rows whose turn was under way when the last owner ended: to be resumed under their run id.
    pub fn interrupted(&self) -> Result<Vec<InboxRow>, TxError> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM inbox WHERE state = 'turn' ORDER BY seq"
        ))?;
        let rows = statement.query_map([], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The turn begins (or goes on): the session and the run are known from here on.
    pub fn begin_turn(
        &self,
        id: &str,
        session_key: &str,
        run_id: &str,
        now_ms: i64,
    ) -> Result<(), TxError> {
        self.change(
            "UPDATE inbox SET state = 'turn', session_key = ?2, run_id = ?3, attempts = attempts + 1, updated_ms = ?4
             WHERE id = ?1 AND state IN ('waiting', 'turn')",
            params![id, session_key, run_id, now_ms],
            id,
        )?;
        history::alias_of(self.connection, run_id, id, now_ms)?;
        history::note(
            self.connection,
            id,
            now_ms,
            "turn",
            &format!("run {run_id} in {session_key}"),
        )
    }

    /// Puts it back, to be tried again at `not_before_ms`.
    pub fn wait(
        &self,
        id: &str,
        why: &str,
        not_before_ms: i64,
        now_ms: i64,
    ) -> Result<(), TxError> {
        self.change(
            "UPDATE inbox SET state = 'waiting', note = ?2, not_before_ms = ?3, updated_ms = ?4
             WHERE id = ?1 AND state IN ('waiting', 'turn')",
            params![id, why, not_before_ms, now_ms],
            id,
        )?;
        history::note(self.connection, id, now_ms, "waits", why)
    }

    /// Finished: what it held is dropped, that it was there is kept.
    pub fn done(&self, id: &str, why: &str, now_ms: i64) -> Result<(), TxError> {
        self.change(
            "UPDATE inbox SET state = 'done', payload = '', note = ?2, updated_ms = ?3
             WHERE id = ?1 AND state IN ('waiting', 'turn')",
            params![id, why, now_ms],
            id,
        )?;
        history::note(self.connection, id, now_ms, "done", why)
    }

    /// Given up. The payload is kept: a person may take it up again.
    pub fn fail(&self, id: &str, why: &str, now_ms: i64) -> Result<(), TxError> {
        self.change(
            "UPDATE inbox SET state = 'failed', note = ?2, updated_ms = ?3
             WHERE id = ?1 AND state IN ('waiting', 'turn')",
            params![id, why, now_ms],
            id,
        )?;
        if let Some(row) = self.get(id)? {
            history::count(self.counts, &row.channel, "failed", 1);
        }
        history::note(self.connection, id, now_ms, "failed", why)
    }

    /// Takes a failed one up again, at the end of its lane's open rows as its own age says.
    pub fn retry(&self, id: &str, now_ms: i64) -> Result<(), TxError> {
        self.change(
            "UPDATE inbox SET state = 'waiting', note = NULL, attempts = 0, not_before_ms = ?2, updated_ms = ?2
             WHERE id = ?1 AND state = 'failed' AND payload <> ''",
            params![id, now_ms],
            id,
        )?;
        history::note(self.connection, id, now_ms, "retried by hand", "")
    }

    /// Forgets a failed one for good: what it held is dropped, that it was there is kept.
    pub fn drop_failed(&self, id: &str, now_ms: i64) -> Result<(), TxError> {
        self.change(
            "UPDATE inbox SET state = 'done', payload = '', note = 'dropped by hand', updated_ms = ?2
             WHERE id = ?1 AND state = 'failed'",
            params![id, now_ms],
            id,
        )?;
        history::note(self.connection, id, now_ms, "dropped", "by hand")
    }

    /// Open rows and the oldest of them, per channel.
    pub fn waiting(&self) -> Result<Vec<(String, i64, i64)>, TxError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT channel, count(*), min(received_ms) FROM inbox WHERE state IN ('waiting', 'turn') GROUP BY channel",
        )?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Given-up rows, newest first.
    pub fn failed(&self, limit: usize) -> Result<Vec<InboxRow>, TxError> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM inbox WHERE state = 'failed' ORDER BY updated_ms DESC, seq DESC LIMIT ?1"
        ))?;
        let rows = statement.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn change(&self, sql: &str, values: impl rusqlite::Params, id: &str) -> Result<(), TxError> {
        if self.connection.prepare_cached(sql)?.execute(values)? == 0 {
            return Err(TxError::not_found(format!(
                "no inbound message {id} in a state that allows this"
            )));
        }
        Ok(())
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<InboxRow> {
    Ok(InboxRow {
        id: row.get(0)?,
        channel: row.get(1)?,
        account: row.get(2)?,
        event_id: row.get(3)?,
        lane: row.get(4)?,
        state: InboxState::parse(row.get_ref(5)?.as_str()?),
        payload: row.get(6)?,
        session_key: row.get(7)?,
        run_id: row.get(8)?,
        note: row.get(9)?,
        attempts: row.get(10)?,
        received_ms: row.get(11)?,
        updated_ms: row.get(12)?,
    })
}

pub(crate) fn cursor(
    connection: &Connection,
    channel: &str,
    account: &str,
    key: &str,
) -> Result<Option<String>, TxError> {
    Ok(connection
        .prepare_cached(
            "SELECT value FROM cursors WHERE channel = ?1 AND account = ?2 AND key = ?3",
        )?
        .query_row([channel, account, key], |row| row.get(0))
        .optional()?)
}

pub(crate) fn set_cursor(
    connection: &Connection,
    channel: &str,
    account: &str,
    key: &str,
    value: &str,
    now_ms: i64,
) -> Result<(), TxError> {
    connection
        .prepare_cached(
            "INSERT INTO cursors (channel, account, key, value, updated_ms) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET value = excluded.value, updated_ms = excluded.updated_ms",
        )?
        .execute(params![channel, account, key, value, now_ms])?;
    Ok(())
}

pub(crate) fn forget_cursor(
    connection: &Connection,
    channel: &str,
    account: &str,
    key: &str,
) -> Result<(), TxError> {
    connection
        .prepare_cached("DELETE FROM cursors WHERE channel = ?1 AND account = ?2 AND key = ?3")?
        .execute([channel, account, key])?;
    Ok(())
}
