//! What was said in the built-in web chat while no agent keeps the transcript.

use crate::TxError;
use rusqlite::{Connection, params};
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    pub session_key: String,
    /// `user` or `assistant`.
    pub role: String,
    pub text: String,
    pub message_id: String,
    pub at_ms: i64,
}

pub struct Transcripts<'a>(pub(crate) &'a Connection);

impl Transcripts<'_> {
    /// Appends a line, once per message id. `false`: it was there.
    pub fn append(&self, said: &Said) -> Result<bool, TxError> {
        let added = self
            .0
            .prepare_cached(
                "INSERT INTO transcripts (session_key, role, text, message_id, at_ms) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            )?
            .execute(params![said.session_key, said.role, said.text, said.message_id, said.at_ms])?;
        Ok(added > 0)
    }

    /// The last `limit` lines, oldest first.
    pub fn tail(&self, session_key: &str, limit: usize) -> Result<Vec<Said>, TxError> {
        let mut statement = self.0.prepare_cached(
            "SELECT session_key, role, text, message_id, at_ms FROM transcripts WHERE session_key = ?1 ORDER BY seq DESC LIMIT ?2",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![session_key, limit], |row| {
            Ok(Said {
                session_key: row.get(0)?,
                role: row.get(1)?,
                text: row.get(2)?,
                message_id: row.get(3)?,
                at_ms: row.get(4)?,
            })
        })?;
        let mut lines: Vec<Said> = rows.collect::<Result<_, _>>()?;
        lines.reverse();
        Ok(lines)
    }
}
