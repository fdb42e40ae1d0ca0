//! Whether indexes hold what the database holds: row by row.

use super::Memory;
use crate::{Agent, MemoryError};
use std::collections::BTreeSet;

/// An agent's indexes beside its rows. Nothing in it is a whole index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Chunks that an index should hold by what it says, and does not.
    pub lacking: usize,
    /// Chunks that the keyword index holds and the database does not, though every removal is applied.
    pub strange: usize,
    /// Chunks of the database that came after what the keyword index holds; a search reads them one by one.
    pub pending: usize,
    /// What else is wrong with the database or an index.
    pub broken: Vec<String>,
}

impl Memory {
    /// Reads every row and both indexes of the agent. Changes nothing.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn verify(&self, agent: &Agent) -> Result<Verified, MemoryError> {
        let mut out = Verified::default();
        let read = self.db.unchecked_transaction()?;
        let whole: String = read.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if whole != "ok" {
            out.broken.push(format!("database: {whole}"));
        }
        let Some(owner) = self.owner(agent)? else {
            return Ok(out);
        };
        let ids = |sql: &str, args: &[i64]| -> rusqlite::Result<BTreeSet<i64>> {
            let mut select = read.prepare_cached(sql)?;
            let rows = select.query_map(rusqlite::params_from_iter(args), |row| row.get(0))?;
            rows.collect()
        };
        let table = ids("SELECT id FROM chunk WHERE agent = ?1", &[owner])?;
        let gone: i64 = read.query_row(
            "SELECT coalesce(max(id), 0) FROM gone WHERE agent = ?1",
            [owner],
            |row| row.get(0),
        )?;
        match self.keyword(owner, |index, applied| {
            Ok((index.chunks()?, applied.clone()))
        }) {
            Ok(None) => out.pending = table.len(),
            Ok(Some((held, applied))) => {
                out.pending = table.range(applied.chunk + 1..).count();
                out.lacking = table
                    .range(..=applied.chunk)
                    .filter(|id| !held.contains(id))
                    .count();
                if applied.gone >= gone {
                    out.strange = held.iter().filter(|id| !table.contains(id)).count();
                }
            }
            Err(error) => out.broken.push(format!("keyword index: {error}")),
        }
        for model in super::embedding::models_of(&read, owner)? {
            let kept = "SELECT chunk FROM vector WHERE agent = ?1 AND model = ?2 AND id <= ?3";
            match self.vectors(owner, model, |index| {
                Ok((index.chunks()?, index.head.applied))
            }) {
                Ok(None) => {}
                Ok(Some((held, applied))) => {
                    let kept = ids(kept, &[owner, model, applied])?;
                    out.lacking += kept.iter().filter(|id| !held.contains(id)).count();
                }
                Err(error) => out.broken.push(format!("vector index: {error}")),
            }
        }
        Ok(out)
    }
}
