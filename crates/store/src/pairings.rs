//! Who may write to a channel's account by direct message: asked with a code, approved by the owner.

use crate::TxError;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pairing {
    pub channel: String,
    pub account: String,
    /// The service's id of the person.
    pub sender: String,
    pub name: Option<String>,
    /// What the person was told and the owner types.
    pub code: String,
    pub approved: bool,
    pub created_ms: i64,
}

/// Requests of one account that may wait; more are not answered. Source: docs/channels/pairing.md, "3 per channel".
pub(crate) const WAITING_MAX: i64 = 3;
/// A request is forgotten after an hour. Source: docs/channels/pairing.md.
pub(crate) const WAITING_MS: i64 = 60 * 60 * 1000;

pub struct Pairings<'a>(pub(crate) &'a Connection);

const COLUMNS: &str = "channel, account, sender, name, code, approved, created_ms";

impl Pairings<'_> {
    /// Whether this person was let in.
    pub fn is_approved(&self, channel: &str, account: &str, sender: &str) -> Result<bool, TxError> {
        Ok(self
            .0
            .prepare_cached("SELECT approved FROM channel_pairings WHERE channel = ?1 AND account = ?2 AND sender = ?3")?
            .query_row([channel, account, sender], |row| row.get(0))
            .optional()?
            .unwrap_or(false))
    }

    /// Notes a request under `code`, unless one waits already. `None`: nothing new is to be said to the person.
    pub fn ask(
        &self,
        channel: &str,
        account: &str,
        sender: &str,
        name: Option<&str>,
        code: &str,
        now_ms: i64,
    ) -> Result<Option<String>, TxError> {
        self.0.prepare_cached(
            "DELETE FROM channel_pairings WHERE channel = ?1 AND account = ?2 AND approved = 0 AND created_ms < ?3",
        )?.execute(params![channel, account, now_ms - WAITING_MS])?;
        let waiting: i64 = self
            .0
            .prepare_cached("SELECT count(*) FROM channel_pairings WHERE channel = ?1 AND account = ?2 AND approved = 0")?
            .query_row([channel, account], |row| row.get(0))?;
        if waiting >= WAITING_MAX {
            return Ok(None);
        }
        let added = self
            .0
            .prepare_cached(
                "INSERT INTO channel_pairings (channel, account, sender, name, code, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            )?
            .execute(params![channel, account, sender, name, code, now_ms])?;
        Ok((added > 0).then(|| code.to_owned()))
    }

    /// Lets the person in whom this code was told. `None`: no such code waits.
    pub fn approve(
        &self,
        channel: &str,
        code: &str,
        now_ms: i64,
    ) -> Result<Option<Pairing>, TxError> {
        let changed = self
            .0
            .prepare_cached(
                "UPDATE channel_pairings SET approved = 1 WHERE channel = ?1 AND code = ?2 AND approved = 0 AND created_ms >= ?3",
            )?
            .execute(params![channel, code.to_uppercase(), now_ms - WAITING_MS])?;
        if changed == 0 {
            return Ok(None);
        }
        Ok(self
            .0
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM channel_pairings WHERE channel = ?1 AND code = ?2"
            ))?
            .query_row([channel, &code.to_uppercase()], row)
            .optional()?)
    }

    /// Forgets a person, approved or waiting.
    pub fn remove(&self, channel: &str, sender: &str) -> Result<bool, TxError> {
        Ok(self
            .0
            .prepare_cached("DELETE FROM channel_pairings WHERE channel = ?1 AND sender = ?2")?
            .execute([channel, sender])?
            > 0)
    }

    pub fn list(&self, channel: Option<&str>) -> Result<Vec<Pairing>, TxError> {
        let mut statement = self.0.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM channel_pairings WHERE ?1 IS NULL OR channel = ?1 ORDER BY created_ms"
        ))?;
        let rows = statement.query_map([channel], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<Pairing> {
    Ok(Pairing {
        channel: row.get(0)?,
        account: row.get(1)?,
        sender: row.get(2)?,
        name: row.get(3)?,
        code: row.get(4)?,
        approved: row.get(5)?,
        created_ms: row.get(6)?,
    })
}
