//! Idempotency keys: a repeated request gets the first one's answer, for as long as retention says.

use crate::{StoreError, TxError};
use rusqlite::{Connection, OptionalExtension as _, params};

/// What a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Not seen before: go on, and [`Keys::settle`] in the same transaction.
    New,
    /// The answer that the first request got.
    Seen(String),
}

pub struct Keys<'a>(pub(crate) &'a Connection);

impl Keys<'_> {
    /// # Errors
    /// [`StoreError::Conflict`] when the key belongs to a request with another fingerprint.
    pub fn claim(&self, scope: &str, key: &str, request: &str) -> Result<Claim, TxError> {
        let found: Option<(String, String)> = self
            .0
            .prepare_cached(
                "SELECT request, answer FROM idempotency WHERE scope = ?1 AND key = ?2",
            )?
            .query_row(params![scope, key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match found {
            None => Ok(Claim::New),
            Some((first, answer)) if first == request => Ok(Claim::Seen(answer)),
            Some(_) => Err(StoreError::Conflict.into()),
        }
    }

    /// Remembers the answer.
    pub fn settle(
        &self,
        scope: &str,
        key: &str,
        request: &str,
        answer: &str,
        now_ms: i64,
    ) -> Result<(), TxError> {
        self.0
            .prepare_cached(
                "INSERT INTO idempotency (scope, key, request, answer, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET answer = excluded.answer",
            )?
            .execute(params![scope, key, request, answer, now_ms])?;
        Ok(())
    }
}
