//! Outbound messages: enqueued with their cause, leased one per lane, answered with a receipt, a later time, a doubt
//! or a burial.
//!
//! A lane is a conversation on an account. Only its oldest pending message can be leased, so order is kept, and a
//! failing lane delays nobody else. What was leased when the process died may have arrived: it comes back *in doubt*.

use crate::history::{self, Count};
use crate::{TxError, new_id};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use std::cell::RefCell;

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOutbound {
    /// `None`: the store makes one.
    pub id: Option<String>,
    pub channel: String,
    pub account: String,
    pub target: String,
    /// Order is kept within it.
    pub lane: String,
    /// JSON.
    pub payload: String,
    /// Who asked: `api`, `rpc`, `reply`, …
    pub source: String,
    /// Id of the inbox row it answers.
    pub cause: Option<String>,
    /// Not sent later than this.
    pub expires_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboxState {
    Pending,
    Leased,
    Delivered,
    /// It may have arrived; held for a reconciliation or a person.
    InDoubt,
    Dead,
}

impl OutboxState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Leased => "leased",
            Self::Delivered => "delivered",
            Self::InDoubt => "in_doubt",
            Self::Dead => "dead",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "pending" => Self::Pending,
            "leased" => Self::Leased,
            "delivered" => Self::Delivered,
            "in_doubt" => Self::InDoubt,
            "dead" => Self::Dead,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboxRow {
    pub id: String,
    pub channel: String,
    pub account: String,
    pub target: String,
    pub lane: String,
    pub state: OutboxState,
    #[serde(skip)]
    pub payload: String,
    pub source: String,
    pub cause: Option<String>,
    /// JSON array of the parts, once it was split.
    #[serde(skip)]
    pub parts: Option<String>,
    /// JSON array with one receipt per part that was sent.
    #[serde(skip)]
    pub receipts: String,
    pub attempts: i64,
    pub error: Option<String>,
    pub not_before_ms: i64,
    pub expires_ms: Option<i64>,
    pub created_ms: i64,
    pub updated_ms: i64,
}

/// The right to send one message now. Ends with [`Outbox::delivered`], [`Outbox::retry`], [`Outbox::doubt`] or
/// [`Outbox::bury`]; else it is in doubt at the next start. With [`OutboxState::Dead`] it has ended: it expired before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub row: OutboxRow,
}

/// Which rows to list: newest first.
#[derive(Debug, Clone, Default)]
pub struct OutboxFilter {
    pub channel: Option<String>,
    pub target: Option<String>,
    pub state: Option<OutboxState>,
    /// Only rows older than this id: the last of the page before.
    pub before: Option<String>,
    /// Rows, at most 500.
    pub limit: usize,
}

/// What a restart found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    pub in_doubt: usize,
}

/// What waits on one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    pub channel: String,
    pub state: OutboxState,
    pub rows: i64,
    pub oldest_ms: i64,
}

const COLUMNS: &str = "id, channel, account, target, lane, state, payload, source, cause, parts, receipts, attempts, error, not_before_ms, expires_ms, created_ms, updated_ms";

pub struct Outbox<'a> {
    connection: &'a Connection,
    counts: Option<&'a RefCell<Vec<Count>>>,
}

impl<'a> Outbox<'a> {
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

    /// Adds a message behind what waits in its lane. Answers its id.
    pub fn enqueue(&self, message: NewOutbound, now_ms: i64) -> Result<String, TxError> {
        let id = message.id.unwrap_or_else(|| new_id(now_ms));
        self.connection
            .prepare_cached(
                "INSERT INTO outbox (id, channel, account, target, lane, state, payload, source, cause, not_before_ms, expires_ms, created_ms, updated_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'pending', ?6, ?7, ?8, ?9, ?10, ?9, ?9)",
            )?
            .execute(params![
                id,
                message.channel,
                message.account,
                message.target,
                message.lane,
                message.payload,
                message.source,
                message.cause,
                now_ms,
                message.expires_ms
            ])?;
        self.connection
            .prepare_cached(
                "INSERT INTO outbox_lanes (lane, channel, account, due_ms) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            )?
            .execute(params![message.lane, message.channel, message.account, now_ms])?;
        history::count(self.counts, &message.channel, "accepted", 1);
        history::note(
            self.connection,
            &id,
            now_ms,
            "queued",
            &format!(
                "{} to {}/{} {}",
                message.source, message.channel, message.account, message.target
            ),
        )?;
        Ok(id)
    }

    /// Accounts with something due, and since when.
    pub fn due_accounts(&self, now_ms: i64) -> Result<Vec<(String, String, i64)>, TxError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT channel, account, min(due_ms) FROM outbox_lanes WHERE busy = 0 AND due_ms <= ?1 GROUP BY channel, account",
        )?;
        let rows =
            statement.query_map([now_ms], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// When the next lane of anybody becomes due that is not due yet.
    pub fn next_due_ms(&self, now_ms: i64) -> Result<Option<i64>, TxError> {
        Ok(self.connection.query_row(
            "SELECT min(due_ms) FROM outbox_lanes WHERE busy = 0 AND due_ms > ?1",
            [now_ms],
            |row| row.get(0),
        )?)
    }

    /// Whether [`expire`](Self::expire) would find something.
    pub fn has_expired(&self, channel: &str, account: &str, now_ms: i64) -> Result<bool, TxError> {
        Ok(!self.expired(channel, account, now_ms, 1)?.is_empty())
    }

    /// Buries up to `limit` messages of an account that are too old, without leasing any; answers them.
    pub fn expire(
        &self,
        channel: &str,
        account: &str,
        now_ms: i64,
        limit: usize,
    ) -> Result<Vec<OutboxRow>, TxError> {
        let mut rows = self.expired(channel, account, now_ms, limit)?;
        for row in &mut rows {
            self.bury_expired(row, now_ms)?;
        }
        Ok(rows)
    }

    fn expired(
        &self,
        channel: &str,
        account: &str,
        now_ms: i64,
        limit: usize,
    ) -> Result<Vec<OutboxRow>, TxError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM outbox WHERE channel = ?1 AND account = ?2 AND state = 'pending' AND expires_ms <= ?3
               AND lane IN (SELECT lane FROM outbox_lanes WHERE channel = ?1 AND account = ?2 AND busy = 0)
             ORDER BY seq LIMIT ?4"
        ))?;
        let rows = statement.query_map(params![channel, account, now_ms, limit], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn bury_expired(&self, row: &mut OutboxRow, now_ms: i64) -> Result<(), TxError> {
        let why = "expired before it could be sent";
        self.set_state(&row.id, OutboxState::Dead, Some(why), now_ms)?;
        history::count(self.counts, &row.channel, "dead", 1);
        history::note(self.connection, &row.id, now_ms, "buried", why)?;
        self.next_in_lane(&row.lane)?;
        row.state = OutboxState::Dead;
        Ok(())
    }

    /// Leases the heads of up to `limit` due lanes of one account, the longest due first.
    pub fn lease(
        &self,
        channel: &str,
        account: &str,
        now_ms: i64,
        limit: usize,
    ) -> Result<Vec<Lease>, TxError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let lanes: Vec<String> = self
            .connection
            .prepare_cached(
                "SELECT lane FROM outbox_lanes WHERE channel = ?1 AND account = ?2 AND busy = 0 AND due_ms <= ?3
                 ORDER BY due_ms LIMIT ?4",
            )?
            .query_map(params![channel, account, now_ms, limit], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let mut leases = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let row = self
                .connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM outbox WHERE lane = ?1 AND state = 'pending' ORDER BY seq LIMIT 1"
                ))?
                .query_row([&lane], row)
                .optional()?;
            let Some(mut row) = row else {
                self.connection
                    .prepare_cached("DELETE FROM outbox_lanes WHERE lane = ?1")?
                    .execute([&lane])?;
                continue;
            };
            if row.expires_ms.is_some_and(|expires| expires <= now_ms) {
                self.bury_expired(&mut row, now_ms)?;
                leases.push(Lease { row });
                continue;
            }
            self.connection
                .prepare_cached(
                    "UPDATE outbox SET state = 'leased', attempts = attempts + 1, updated_ms = ?2 WHERE id = ?1",
                )?
                .execute(params![row.id, now_ms])?;
            self.connection
                .prepare_cached("UPDATE outbox_lanes SET busy = 1 WHERE lane = ?1")?
                .execute([&lane])?;
            row.state = OutboxState::Leased;
            row.attempts += 1;
            history::note(
                self.connection,
                &row.id,
                now_ms,
                "attempt",
                &format!("number {}", row.attempts),
            )?;
            leases.push(Lease { row });
        }
        Ok(leases)
    }

    /// Remembers how a message was split, before its first part goes out: after a crash the rest is the same.
    pub fn split(&self, id: &str, parts: &str, now_ms: i64) -> Result<(), TxError> {
        self.leased(
            "UPDATE outbox SET parts = ?2, updated_ms = ?3 WHERE id = ?1 AND state = 'leased'",
            params![id, parts, now_ms],
            id,
        )
    }

    /// Changes what is sent, before it is.
    pub fn rewrite(&self, id: &str, payload: &str, why: &str, now_ms: i64) -> Result<(), TxError> {
        self.leased(
            "UPDATE outbox SET payload = ?2, updated_ms = ?3 WHERE id = ?1 AND state = 'leased'",
            params![id, payload, now_ms],
            id,
        )?;
        history::note(self.connection, id, now_ms, "rewritten", why)
    }

    /// One part of several was sent.
    pub fn part_sent(&self, id: &str, receipts: &str, now_ms: i64) -> Result<(), TxError> {
        self.leased(
            "UPDATE outbox SET receipts = ?2, updated_ms = ?3 WHERE id = ?1 AND state = 'leased'",
            params![id, receipts, now_ms],
            id,
        )
    }

    /// The service has it. `names`: its ids there, by which it is found again.
    pub fn delivered(
        &self,
        id: &str,
        receipts: &str,
        names: &[String],
        now_ms: i64,
    ) -> Result<(), TxError> {
        let row = self.end(id, OutboxState::Delivered, None, now_ms)?;
        self.connection
            .prepare_cached(
                "UPDATE outbox SET receipts = ?2, payload = '', parts = NULL WHERE id = ?1",
            )?
            .execute(params![id, receipts])?;
        for name in names {
            history::alias_of(self.connection, name, id, now_ms)?;
        }
        history::count(self.counts, &row.channel, "delivered", 1);
        history::note(self.connection, id, now_ms, "delivered", &names.join(", "))
    }

    /// Certainly not sent; again at `not_before_ms`. Its lane waits with it.
    pub fn retry(
        &self,
        id: &str,
        why: &str,
        not_before_ms: i64,
        now_ms: i64,
    ) -> Result<(), TxError> {
        let row = self.taken(id)?;
        self.set_state(id, OutboxState::Pending, Some(why), now_ms)?;
        self.connection
            .prepare_cached("UPDATE outbox SET not_before_ms = ?2 WHERE id = ?1")?
            .execute(params![id, not_before_ms])?;
        self.next_in_lane(&row.lane)?;
        history::count(self.counts, &row.channel, "retried", 1);
        history::note(self.connection, id, now_ms, "retry", why)
    }

    /// What waits for its next try through an account is due now, and its tries count anew: another sends for it from here on.
    pub fn hurry(&self, channel: &str, account: &str, now_ms: i64) -> Result<(), TxError> {
        self.connection
            .prepare_cached(
                "UPDATE outbox SET not_before_ms = min(not_before_ms, ?3), attempts = 0 WHERE channel = ?1 AND account = ?2 AND state = 'pending'",
            )?
            .execute(params![channel, account, now_ms])?;
        self.connection
            .prepare_cached(
                "UPDATE outbox_lanes SET due_ms = ?3 WHERE channel = ?1 AND account = ?2 AND due_ms > ?3",
            )?
            .execute(params![channel, account, now_ms])?;
        Ok(())
    }

    /// It may have arrived. The lane goes on without it.
    pub fn doubt(&self, id: &str, why: &str, now_ms: i64) -> Result<(), TxError> {
        let row = self.end(id, OutboxState::InDoubt, Some(why), now_ms)?;
        history::count(self.counts, &row.channel, "in_doubt", 1);
        history::note(self.connection, id, now_ms, "in doubt", why)
    }

    /// Given up: a dead letter.
    pub fn bury(&self, id: &str, why: &str, now_ms: i64) -> Result<(), TxError> {
        let row = self.end(id, OutboxState::Dead, Some(why), now_ms)?;
        history::count(self.counts, &row.channel, "dead", 1);
        history::note(self.connection, id, now_ms, "buried", why)
    }

    /// A doubt that turned out to have arrived.
    pub fn doubt_arrived(
        &self,
        id: &str,
        receipts: &str,
        names: &[String],
        now_ms: i64,
    ) -> Result<(), TxError> {
        let row = self.in_state(id, &[OutboxState::InDoubt])?;
        self.set_state(id, OutboxState::Delivered, None, now_ms)?;
        self.connection
            .prepare_cached(
                "UPDATE outbox SET receipts = ?2, payload = '', parts = NULL WHERE id = ?1",
            )?
            .execute(params![id, receipts])?;
        for name in names {
            history::alias_of(self.connection, name, id, now_ms)?;
        }
        history::count(self.counts, &row.channel, "delivered", 1);
        history::note(self.connection, id, now_ms, "delivered", "it had arrived")
    }

    /// Sends a dead or doubtful message again, behind what waits in its lane now. By a person, or where a repeat is
    /// harmless.
    pub fn resend(&self, id: &str, why: &str, now_ms: i64) -> Result<(), TxError> {
        let row = self.in_state(id, &[OutboxState::Dead, OutboxState::InDoubt])?;
        self.connection
            .prepare_cached(
                "UPDATE outbox SET state = 'pending', not_before_ms = ?2, expires_ms = NULL, attempts = 0, updated_ms = ?2 WHERE id = ?1",
            )?
            .execute(params![id, now_ms])?;
        self.connection
            .prepare_cached(
                "INSERT INTO outbox_lanes (lane, channel, account, due_ms) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![row.lane, row.channel, row.account, now_ms])?;
        // The lane is due when its oldest message is, which may be another that waits for its next try.
        self.connection
            .prepare_cached(
                "UPDATE outbox_lanes SET due_ms = (SELECT not_before_ms FROM outbox WHERE lane = ?1 AND state = 'pending' ORDER BY seq LIMIT 1) WHERE lane = ?1",
            )?
            .execute([&row.lane])?;
        history::note(self.connection, id, now_ms, "resent", why)
    }

    /// Forgets a dead or doubtful message; its history stays.
    pub fn drop_dead(&self, id: &str, now_ms: i64) -> Result<(), TxError> {
        self.in_state(id, &[OutboxState::Dead, OutboxState::InDoubt])?;
        self.connection
            .prepare_cached("DELETE FROM outbox WHERE id = ?1")?
            .execute([id])?;
        history::note(self.connection, id, now_ms, "dropped", "by hand")
    }

    pub fn get(&self, id: &str) -> Result<Option<OutboxRow>, TxError> {
        Ok(self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM outbox WHERE id = ?1"))?
            .query_row([id], row)
            .optional()?)
    }

    pub fn list(&self, filter: &OutboxFilter) -> Result<Vec<OutboxRow>, TxError> {
        let limit = i64::try_from(filter.limit.min(500)).unwrap_or(500);
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM outbox
             WHERE (?1 IS NULL OR channel = ?1) AND (?2 IS NULL OR target = ?2) AND (?3 IS NULL OR state = ?3)
               AND (?4 IS NULL OR seq < (SELECT seq FROM outbox WHERE id = ?4))
             ORDER BY seq DESC LIMIT ?5"
        ))?;
        let rows = statement.query_map(
            params![
                filter.channel,
                filter.target,
                filter.state.map(OutboxState::as_str),
                filter.before,
                limit
            ],
            row,
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Answers to an inbound message, oldest first.
    pub fn answers(&self, cause: &str) -> Result<Vec<OutboxRow>, TxError> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM outbox WHERE cause = ?1 ORDER BY seq LIMIT 100"
        ))?;
        let rows = statement.query_map([cause], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// In doubt, oldest first.
    pub fn doubtful(&self, limit: usize) -> Result<Vec<OutboxRow>, TxError> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM outbox WHERE state = 'in_doubt' ORDER BY seq LIMIT ?1"
        ))?;
        let rows = statement.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Rows that are not delivered, per channel and state.
    pub fn waiting(&self) -> Result<Vec<Waiting>, TxError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT channel, state, count(*), min(created_ms) FROM outbox WHERE state <> 'delivered' GROUP BY 1, 2",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(Waiting {
                channel: row.get(0)?,
                state: OutboxState::parse(row.get_ref(1)?.as_str()?).unwrap_or(OutboxState::Dead),
                rows: row.get(2)?,
                oldest_ms: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Ends a lease and lets the lane go on.
    fn end(
        &self,
        id: &str,
        state: OutboxState,
        error: Option<&str>,
        now_ms: i64,
    ) -> Result<OutboxRow, TxError> {
        let row = self.taken(id)?;
        self.set_state(id, state, error, now_ms)?;
        self.next_in_lane(&row.lane)?;
        Ok(row)
    }

    fn taken(&self, id: &str) -> Result<OutboxRow, TxError> {
        self.in_state(id, &[OutboxState::Leased])
    }

    fn in_state(&self, id: &str, allowed: &[OutboxState]) -> Result<OutboxRow, TxError> {
        let row = self
            .get(id)?
            .ok_or_else(|| TxError::not_found(format!("no outbound message {id}")))?;
        if allowed.contains(&row.state) {
            Ok(row)
        } else {
            Err(TxError::not_found(format!(
                "outbound message {id} is {}, which does not allow this",
                row.state.as_str()
            )))
        }
    }

    fn set_state(
        &self,
        id: &str,
        state: OutboxState,
        error: Option<&str>,
        now_ms: i64,
    ) -> Result<(), TxError> {
        self.connection
            .prepare_cached(
                "UPDATE outbox SET state = ?2, error = ?3, updated_ms = ?4 WHERE id = ?1",
            )?
            .execute(params![id, state.as_str(), error, now_ms])?;
        Ok(())
    }

    fn next_in_lane(&self, lane: &str) -> Result<(), TxError> {
        next_in_lane(self.connection, lane)
    }

    fn leased(&self, sql: &str, values: impl rusqlite::Params, id: &str) -> Result<(), TxError> {
        if self.connection.prepare_cached(sql)?.execute(values)? == 0 {
            return Err(TxError::not_found(format!(
                "outbound message {id} is not leased"
            )));
        }
        Ok(())
    }
}

/// Frees a lane and sets when its next message is due; forgets a lane without any.
pub(crate) fn next_in_lane(connection: &Connection, lane: &str) -> Result<(), TxError> {
    let due: Option<i64> = connection
        .prepare_cached(
            "SELECT not_before_ms FROM outbox WHERE lane = ?1 AND state = 'pending' ORDER BY seq LIMIT 1",
        )?
        .query_row([lane], |row| row.get(0))
        .optional()?;
    match due {
        Some(due) => connection
            .prepare_cached("UPDATE outbox_lanes SET busy = 0, due_ms = ?2 WHERE lane = ?1")?
            .execute(params![lane, due])?,
        None => connection
            .prepare_cached("DELETE FROM outbox_lanes WHERE lane = ?1")?
            .execute([lane])?,
    };
    Ok(())
}

/// What was leased when the last owner died is in doubt.
pub(crate) fn recover(connection: &Connection) -> Result<Recovered, TxError> {
    let rows: Vec<(String, String, String, i64)> = connection
        .prepare("SELECT id, lane, channel, updated_ms FROM outbox WHERE state = 'leased'")?
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<Result<_, _>>()?;
    if rows.is_empty() {
        return Ok(Recovered::default());
    }
    const WHY: &str = "the gateway ended while it was being sent";
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let done = (|| -> Result<(), TxError> {
        let mut counts = Vec::new();
        for (id, lane, channel, updated_ms) in &rows {
            connection.execute(
                "UPDATE outbox SET state = 'in_doubt', error = ?2 WHERE id = ?1",
                params![id, WHY],
            )?;
            next_in_lane(connection, lane)?;
            history::note(connection, id, *updated_ms, "in doubt", WHY)?;
            counts.push(Count {
                channel: channel.clone(),
                name: "in_doubt",
                by: 1,
            });
        }
        history::add_counts(connection, &counts)?;
        Ok(())
    })();
    match done {
        Ok(()) => connection.execute_batch("COMMIT")?,
        Err(error) => {
            connection.execute_batch("ROLLBACK")?;
            return Err(error);
        }
    }
    Ok(Recovered {
        in_doubt: rows.len(),
    })
}

fn row(row: &Row<'_>) -> rusqlite::Result<OutboxRow> {
    Ok(OutboxRow {
        id: row.get(0)?,
        channel: row.get(1)?,
        account: row.get(2)?,
        target: row.get(3)?,
        lane: row.get(4)?,
        state: OutboxState::parse(row.get_ref(5)?.as_str()?).unwrap_or(OutboxState::Dead),
        payload: row.get(6)?,
        source: row.get(7)?,
        cause: row.get(8)?,
        parts: row.get(9)?,
        receipts: row.get(10)?,
        attempts: row.get(11)?,
        error: row.get(12)?,
        not_before_ms: row.get(13)?,
        expires_ms: row.get(14)?,
        created_ms: row.get(15)?,
        updated_ms: row.get(16)?,
    })
}
