//! The database: documents and their chunks, replaced whole, and the scan that searches them.

use crate::rank::Scorer;
use crate::{Agent, Found, Hit, MemoryError, Query, chunks};
use rusqlite::{Connection, OptionalExtension as _, params};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bounds what one hostile file costs.
const DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024;
const HITS_MAX: usize = 1000;
const SCHEMA: i64 = 1;
const CREATE: &str = "
    CREATE TABLE document (
        id INTEGER PRIMARY KEY, agent TEXT NOT NULL, path TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (agent, path)
    ) STRICT;
    CREATE TABLE chunk (
        id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES document ON DELETE CASCADE,
        start_line INTEGER NOT NULL, end_line INTEGER NOT NULL, text TEXT NOT NULL
    ) STRICT;
    CREATE INDEX chunk_document ON chunk (document);
    PRAGMA user_version = 1;
";

/// One memory database, open for reading and writing.
#[derive(Debug)]
pub struct Memory {
    db: Connection,
}

/// What one agent's memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub documents: usize,
    pub chunks: usize,
}

impl Memory {
    /// Opens or creates the database.
    ///
    /// # Errors
    /// [`MemoryError::Schema`] for a file of another version, which is left as it is; SQLite's own.
    pub fn open(path: &Path) -> Result<Self, MemoryError> {
        let mut db = Connection::open(path)?;
        db.busy_timeout(Duration::from_secs(5))?;
        let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let foreign = found == 0
            && db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
                row.get::<_, i64>(0)
            })? > 0;
        if foreign || !(0..=SCHEMA).contains(&found) {
            return Err(MemoryError::Schema {
                path: path.display().to_string(),
                found,
                known: SCHEMA,
            });
        }
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON",
        )?;
        // Asked again under the write lock: another process may have created the tables meanwhile.
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        if tx.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? == 0 {
            tx.execute_batch(CREATE)?;
        }
        tx.commit()?;
        Ok(Self { db })
    }

    /// Keeps a document, in place of the one with its path. On disk and searchable when this returns; `false` when
    /// the same text was there.
    ///
    /// # Errors
    /// [`MemoryError::TooLarge`] over 16 MiB; SQLite's own.
    pub fn put(&mut self, agent: &Agent, path: &str, text: &str) -> Result<bool, MemoryError> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(MemoryError::TooLarge {
                path: path.to_owned(),
                bytes: text.len(),
                max: DOCUMENT_BYTES_MAX,
            });
        }
        let tx = self
            .db
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let same = tx.query_row(
            "SELECT text = ?3 FROM document WHERE agent = ?1 AND path = ?2",
            params![agent.as_str(), path, text],
            |row| row.get(0),
        );
        if same.optional()?.unwrap_or(false) {
            return Ok(false);
        }
        tx.execute(
            "DELETE FROM document WHERE agent = ?1 AND path = ?2",
            params![agent.as_str(), path],
        )?;
        tx.execute(
            "INSERT INTO document (agent, path, text) VALUES (?1, ?2, ?3)",
            params![agent.as_str(), path, text],
        )?;
        let document = tx.last_insert_rowid();
        let mut insert = tx.prepare(
            "INSERT INTO chunk (document, start_line, end_line, text) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for chunk in chunks(text) {
            insert.execute(params![
                document,
                chunk.start_line,
                chunk.end_line,
                chunk.text
            ])?;
        }
        drop(insert);
        tx.commit()?;
        Ok(true)
    }

    /// The document's text as it was kept.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn get(&self, agent: &Agent, path: &str) -> Result<Option<String>, MemoryError> {
        let text = self.db.query_row(
            "SELECT text FROM document WHERE agent = ?1 AND path = ?2",
            params![agent.as_str(), path],
            |row| row.get(0),
        );
        Ok(text.optional()?)
    }

    /// Whether there was one to forget.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn forget(&mut self, agent: &Agent, path: &str) -> Result<bool, MemoryError> {
        let gone = self.db.execute(
            "DELETE FROM document WHERE agent = ?1 AND path = ?2",
            params![agent.as_str(), path],
        )?;
        Ok(gone > 0)
    }

    /// # Errors
    /// SQLite's own.
    pub fn status(&self, agent: &Agent) -> Result<Status, MemoryError> {
        let status = self.db.query_row(
            "SELECT (SELECT count(*) FROM document WHERE agent = ?1),
                (SELECT count(*) FROM chunk JOIN document ON document.id = chunk.document WHERE agent = ?1)",
            [agent.as_str()],
            |row| {
                Ok(Status {
                    documents: row.get(0)?,
                    chunks: row.get(1)?,
                })
            },
        )?;
        Ok(status)
    }

    /// The agent's chunks that say something of the query, best first.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn search(&self, agent: &Agent, query: &Query) -> Result<Found, MemoryError> {
        let mut scorer = Scorer::new(&query.text);
        let mut found = Found {
            hits: Vec::new(),
            partial: false,
        };
        if scorer.is_empty() {
            return Ok(found);
        }
        // Scan and texts of one moment, or a replaced chunk would be missing between them.
        let read = self.db.unchecked_transaction()?;
        let mut scan = read.prepare_cached(
            "SELECT chunk.id, chunk.text FROM document JOIN chunk ON chunk.document = document.id
             WHERE agent = ?1 ORDER BY path, chunk.id",
        )?;
        let mut rows = scan.query([agent.as_str()])?;
        while let Some(row) = rows.next()? {
            if query
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
            {
                found.partial = true;
                break;
            }
            scorer.see(
                row.get(0)?,
                row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?,
            );
        }
        let ranked = scorer.ranked();
        let best = ranked.first().map_or(1.0, |&(_, score)| score);
        let mut fetch = read.prepare_cached(
            "SELECT path, start_line, end_line, chunk.text FROM chunk
             JOIN document ON document.id = chunk.document WHERE chunk.id = ?1 AND agent = ?2",
        )?;
        for (id, score) in ranked.into_iter().take(query.limit.min(HITS_MAX)) {
            let score = score / best;
            if score < query.min_score {
                break;
            }
            found
                .hits
                .push(fetch.query_row(params![id, agent.as_str()], |row| {
                    Ok(Hit {
                        path: row.get(0)?,
                        start_line: row.get(1)?,
                        end_line: row.get(2)?,
                        text: row.get(3)?,
                        score,
                    })
                })?);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
