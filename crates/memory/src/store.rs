//! The database: documents and their chunks, replaced whole; the keyword index beside it follows.

use crate::keyword::{self, Applied, Keyword, Writer};
use crate::vector::Vectors;
use crate::{Agent, MemoryError, chunks, entries};
use rusqlite::{
    Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior, params,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod embedding;
mod search;
mod verify;

pub use embedding::{Embedded, VectorStatus};
pub(crate) use search::Allowed;
pub use verify::Verified;

/// Bounds what one hostile file costs.
pub const DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Chunks between two commits of an index that is being filled.
const COMMIT_CHUNKS: i64 = 100_000;
/// The schema that this release writes.
pub const SCHEMA: i64 = 3;
/// Ids never come again, so that an index that is behind can't take one row for another.
const CREATE: &str = "
    CREATE TABLE store (id TEXT NOT NULL) STRICT;
    INSERT INTO store VALUES (lower(hex(randomblob(16))));
    CREATE TABLE agent (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE document (
        id INTEGER PRIMARY KEY AUTOINCREMENT, agent INTEGER NOT NULL REFERENCES agent, path TEXT NOT NULL,
        text TEXT NOT NULL, UNIQUE (agent, path)
    ) STRICT;
    CREATE TABLE chunk (
        id INTEGER PRIMARY KEY AUTOINCREMENT, agent INTEGER NOT NULL,
        document INTEGER NOT NULL REFERENCES document ON DELETE CASCADE,
        start_line INTEGER NOT NULL, end_line INTEGER NOT NULL, text TEXT NOT NULL
    ) STRICT;
    CREATE INDEX chunk_document ON chunk (document);
    CREATE INDEX chunk_agent ON chunk (agent, id);
    CREATE TABLE gone (
        id INTEGER PRIMARY KEY AUTOINCREMENT, agent INTEGER NOT NULL, document INTEGER NOT NULL
    ) STRICT;
";
/// What version 3 has more: documents that follow a file, and how the file was when it was read.
const UPGRADE_3: &str = "
    CREATE TABLE file (
        document INTEGER PRIMARY KEY REFERENCES document ON DELETE CASCADE, bytes INTEGER NOT NULL, changed INTEGER NOT NULL
    ) STRICT;
    PRAGMA user_version = 3;
";
/// What version 2 has more. A vector's row says which chunk it is of; the vector itself is kept by its text's hash, so
/// that a text that comes again, under another name or agent, is not paid for again.
const UPGRADE: &str = "
    ALTER TABLE document ADD COLUMN kind TEXT NOT NULL DEFAULT 'memory';
    ALTER TABLE document ADD COLUMN at INTEGER;
    CREATE TABLE model (
        id INTEGER PRIMARY KEY AUTOINCREMENT, provider TEXT NOT NULL, name TEXT NOT NULL, asked INTEGER NOT NULL,
        dimensions INTEGER NOT NULL, UNIQUE (provider, name, asked)
    ) STRICT;
    CREATE TABLE embedding (
        model INTEGER NOT NULL REFERENCES model, hash BLOB NOT NULL, vector BLOB NOT NULL, UNIQUE (model, hash)
    ) STRICT;
    CREATE TABLE vector (
        id INTEGER PRIMARY KEY AUTOINCREMENT, agent INTEGER NOT NULL, model INTEGER NOT NULL REFERENCES model,
        chunk INTEGER NOT NULL REFERENCES chunk ON DELETE CASCADE, hash BLOB NOT NULL, UNIQUE (chunk, model)
    ) STRICT;
    CREATE INDEX vector_agent ON vector (agent, model, id);
    CREATE INDEX vector_hash ON vector (model, hash);
    CREATE TABLE embedder (
        agent INTEGER PRIMARY KEY REFERENCES agent, provider TEXT NOT NULL, name TEXT NOT NULL, asked INTEGER NOT NULL,
        place TEXT NOT NULL, key_variable TEXT
    ) STRICT;
    PRAGMA user_version = 2;
";

/// One memory database, open for reading and writing.
#[derive(Debug)]
pub struct Memory {
    db: Connection,
    /// One folder for each agent's index.
    indexes: PathBuf,
    store: String,
    open: RefCell<HashMap<i64, Keyword>>,
    /// By agent and model.
    open_vectors: RefCell<HashMap<(i64, i64), Vectors>>,
}

/// A text to keep.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    pub path: &'a str,
    pub text: &'a str,
    /// What it is, for filters: `memory`, as the original says, `sessions`, or one's own word.
    pub kind: &'a str,
    /// When it was written, milliseconds since 1970, if known.
    pub at: Option<i64>,
    /// The file that it follows, if any; see [`Memory::files`].
    pub file: Option<Mark>,
    /// Whether it is a list of things to remember, each an item or under a heading of its own.
    pub is_list: bool,
}

/// How a file was when it was read: while it has the same mark it need not be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub bytes: i64,
    /// A time of the file's, in any unit that tells two changes apart.
    pub changed: i64,
}

impl<'a> Document<'a> {
    #[must_use]
    pub const fn new(path: &'a str, text: &'a str) -> Self {
        Self {
            path,
            text,
            kind: "memory",
            at: None,
            file: None,
            is_list: false,
        }
    }
}

/// What one agent's memory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub documents: usize,
    pub chunks: usize,
    /// Chunks that the keyword index does not hold yet; a search reads them one by one.
    pub pending: usize,
    /// Why the index can't be used, if so. The next [`Memory::index`] makes it again.
    pub degraded: Option<String>,
}

/// How an index was brought up to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexed {
    /// With the number of chunks that were added.
    Done(usize),
    /// Another process is at it.
    Busy,
}

impl Memory {
    /// Opens or creates the database. Indexes are in a folder beside it, of its name and `.index`.
    ///
    /// # Errors
    /// [`MemoryError::Schema`] for a file of another version, which is left as it is; SQLite's own.
    pub fn open(path: &Path) -> Result<Self, MemoryError> {
        Self::with(Connection::open(path)?, path)
    }

    /// [`Memory::open`] on another file system of SQLite's (a VFS by its name), such as one whose power can be cut.
    /// Indexes are on the usual one.
    ///
    /// # Errors
    /// As [`Memory::open`].
    pub fn open_on(path: &Path, vfs: &str) -> Result<Self, MemoryError> {
        let flags = OpenFlags::default();
        Self::with(Connection::open_with_flags_and_vfs(path, flags, vfs)?, path)
    }

    fn with(mut db: Connection, path: &Path) -> Result<Self, MemoryError> {
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
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: i64 = tx.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found == 0 {
            tx.execute_batch(CREATE)?;
        }
        if found < 2 {
            tx.execute_batch(UPGRADE)?;
        }
        if found < SCHEMA {
            tx.execute_batch(UPGRADE_3)?;
        }
        let store = tx.query_row("SELECT id FROM store", [], |row| row.get(0))?;
        tx.commit()?;
        let mut indexes = path.as_os_str().to_owned();
        indexes.push(".index");
        Ok(Self {
            db,
            indexes: indexes.into(),
            store,
            open: RefCell::default(),
            open_vectors: RefCell::default(),
        })
    }

    /// Keeps a document, in place of the one with its path. On disk and searchable when this returns; `false` when
    /// the same text was there.
    ///
    /// # Errors
    /// [`MemoryError::TooLarge`] over 16 MiB; SQLite's own.
    pub fn put(&mut self, agent: &Agent, path: &str, text: &str) -> Result<bool, MemoryError> {
        Ok(self.put_all(agent, &[(path, text)])? == 1)
    }

    /// [`Memory::put`] for many, all or none of them. How many were new or changed.
    ///
    /// # Errors
    /// [`MemoryError::TooLarge`] over 16 MiB for any; SQLite's own.
    pub fn put_all(
        &mut self,
        agent: &Agent,
        documents: &[(&str, &str)],
    ) -> Result<usize, MemoryError> {
        let documents: Vec<_> = documents
            .iter()
            .map(|(path, text)| Document::new(path, text))
            .collect();
        self.put_documents(agent, &documents)
    }

    /// [`Memory::put_all`] with what filters ask for.
    ///
    /// # Errors
    /// As [`Memory::put_all`].
    pub fn put_documents(
        &mut self,
        agent: &Agent,
        documents: &[Document<'_>],
    ) -> Result<usize, MemoryError> {
        if let Some(Document { path, text, .. }) = documents
            .iter()
            .find(|document| document.text.len() > DOCUMENT_BYTES_MAX)
        {
            return Err(MemoryError::TooLarge {
                path: (*path).to_owned(),
                bytes: text.len(),
                max: DOCUMENT_BYTES_MAX,
            });
        }
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let owner = owner_made(&tx, agent)?;
        let mut changed = 0;
        for document in documents {
            changed += usize::from(replace(&tx, owner, document)?);
        }
        tx.commit()?;
        Ok(changed)
    }

    /// The document's text as it was kept.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn get(&self, agent: &Agent, path: &str) -> Result<Option<String>, MemoryError> {
        let text = self.db.query_row(
            "SELECT text FROM document JOIN agent ON agent.id = agent WHERE name = ?1 AND path = ?2",
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
        Ok(!self.forget_all(agent, &[path])?.is_empty())
    }

    /// [`Memory::forget`] for many at once. Those that there were.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn forget_all<'a>(
        &mut self,
        agent: &Agent,
        paths: &[&'a str],
    ) -> Result<Vec<&'a str>, MemoryError> {
        let mut gone = Vec::new();
        let Some(owner) = self.owner(agent)?.filter(|_| !paths.is_empty()) else {
            return Ok(gone);
        };
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for path in paths {
            if remove(&tx, owner, path)? {
                gone.push(*path);
            }
        }
        tx.commit()?;
        Ok(gone)
    }

    /// Paths of all documents that begin so, in order.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn paths(&self, agent: &Agent, prefix: &str) -> Result<Vec<String>, MemoryError> {
        let mut all = self.db.prepare_cached(
            "SELECT path FROM document JOIN agent ON agent.id = agent
             WHERE name = ?1 AND substr(path, 1, length(?2)) = ?2 ORDER BY path",
        )?;
        let rows = all.query_map([agent.as_str(), prefix], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The documents that follow a file, by path.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn files(&self, agent: &Agent) -> Result<HashMap<String, Mark>, MemoryError> {
        let mut all = self.db.prepare_cached(
            "SELECT path, bytes, changed FROM file JOIN document ON document.id = document
             JOIN agent ON agent.id = agent WHERE name = ?1",
        )?;
        let rows = all.query_map([agent.as_str()], |row| {
            let mark = Mark {
                bytes: row.get(1)?,
                changed: row.get(2)?,
            };
            Ok((row.get(0)?, mark))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// # Errors
    /// SQLite's own.
    pub fn status(&self, agent: &Agent) -> Result<Status, MemoryError> {
        let mut status = Status {
            documents: 0,
            chunks: 0,
            pending: 0,
            degraded: None,
        };
        let Some(owner) = self.owner(agent)? else {
            return Ok(status);
        };
        let (upto, degraded) = match self.keyword(owner, |_, applied| Ok(applied.chunk)) {
            Ok(upto) => (upto.unwrap_or(0), None),
            Err(error) => (0, Some(unusable(&error))),
        };
        status.degraded = degraded;
        (status.documents, status.chunks, status.pending) = self.db.query_row(
            "SELECT (SELECT count(*) FROM document WHERE agent = ?1), (SELECT count(*) FROM chunk WHERE agent = ?1),
                (SELECT count(*) FROM chunk WHERE agent = ?1 AND id > ?2)",
            [owner, upto],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        Ok(status)
    }

    /// Brings the agent's index up to the database; makes it again when it is broken or of another database.
    /// `progress` is told chunks done and chunks in all.
    ///
    /// # Errors
    /// [`MemoryError::Index`] when the index can't be written; the database is untouched and searches go on.
    pub fn index(
        &mut self,
        agent: &Agent,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Indexed, MemoryError> {
        let Some(owner) = self.owner(agent)? else {
            return Ok(Indexed::Done(0));
        };
        let Some(writer) = self.writer(owner)? else {
            return Ok(Indexed::Busy);
        };
        self.fill(owner, writer, &mut progress)
    }

    /// The agent's index, open for writing, made again when it is broken or of another database; `None` when another
    /// process has it.
    fn writer(&self, owner: i64) -> Result<Option<Writer>, MemoryError> {
        let folder = self.folder(owner);
        let upto = self.keyword(owner, |_, applied| Ok(applied.chunk));
        let upto = upto.ok().flatten().unwrap_or(0);
        let chunks = self.db.query_row(
            "SELECT count(*) FROM chunk WHERE agent = ?1 AND id > ?2",
            [owner, upto],
            |row| row.get(0),
        )?;
        match Writer::open(&folder, chunks) {
            Ok(Some(writer)) if writer.is_of(&self.store) => return Ok(Some(writer)),
            Ok(None) => return Ok(None),
            Ok(Some(_)) | Err(_) => {}
        }
        // Whoever writes a broken one is left to it.
        let Some(lock) = keyword::lock(&folder)? else {
            return Ok(None);
        };
        self.drop_index(owner)?;
        drop(lock);
        Ok(Writer::open(&folder, chunks)?)
    }

    fn fill(
        &mut self,
        owner: i64,
        mut writer: Writer,
        progress: &mut impl FnMut(usize, usize),
    ) -> Result<Indexed, MemoryError> {
        let from = writer.applied.clone();
        // What is behind an empty index was never in it.
        let (last_gone, last_chunk, total): (i64, i64, usize) = self.db.query_row(
            "SELECT (SELECT coalesce(max(id), 0) FROM gone WHERE agent = ?1), coalesce(max(id), 0), count(*)
             FROM chunk WHERE agent = ?1 AND id > ?2",
            [owner, from.chunk],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let mut gone = self.db.prepare_cached(
            "SELECT document FROM gone WHERE agent = ?1 AND id > ?2 AND id <= ?3",
        )?;
        let mut rows = gone.query([owner, from.gone, last_gone])?;
        while let Some(row) = rows.next()? {
            writer.remove(row.get(0)?);
        }
        let (mut done, mut upto) = (0, from.chunk);
        let mut read = self.db.prepare_cached(
            "SELECT id, document, text FROM chunk WHERE agent = ?1 AND id > ?2 AND id <= ?3 ORDER BY id LIMIT ?4",
        )?;
        while upto < last_chunk {
            let mut rows = read.query([owner, upto, last_chunk, COMMIT_CHUNKS])?;
            let before = upto;
            while let Some(row) = rows.next()? {
                upto = row.get(0)?;
                writer.add(
                    upto,
                    row.get(1)?,
                    row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?,
                )?;
                done += 1;
                if done % 1000 == 0 {
                    progress(done, total);
                }
            }
            if upto == before {
                break;
            }
            writer.commit(Applied {
                store: self.store.clone(),
                chunk: upto,
                gone: last_gone,
            })?;
        }
        let applied = Applied {
            store: self.store.clone(),
            chunk: last_chunk.max(from.chunk),
            gone: last_gone.max(from.gone),
        };
        if writer.applied != applied {
            writer.commit(applied)?;
        }
        progress(done, total);
        writer.close()?;
        self.db.execute(
            "DELETE FROM gone WHERE agent = ?1 AND id <= ?2",
            [owner, last_gone],
        )?;
        Ok(Indexed::Done(done))
    }

    /// Makes the agent's index from nothing; a whole one answers until the new one does.
    ///
    /// # Errors
    /// As [`Memory::index`].
    pub fn rebuild(
        &mut self,
        agent: &Agent,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Indexed, MemoryError> {
        let Some(owner) = self.owner(agent)? else {
            return Ok(Indexed::Done(0));
        };
        let Some(mut writer) = self.writer(owner)? else {
            return Ok(Indexed::Busy);
        };
        self.rebuild_vectors(owner)?;
        writer.clear()?;
        self.fill(owner, writer, &mut progress)
    }

    fn owner(&self, agent: &Agent) -> Result<Option<i64>, MemoryError> {
        let mut one = self
            .db
            .prepare_cached("SELECT id FROM agent WHERE name = ?1")?;
        Ok(one
            .query_row([agent.as_str()], |row| row.get(0))
            .optional()?)
    }

    fn folder(&self, owner: i64) -> PathBuf {
        self.indexes.join(owner.to_string())
    }

    fn drop_index(&self, owner: i64) -> Result<(), MemoryError> {
        self.open.borrow_mut().remove(&owner);
        match std::fs::remove_dir_all(self.folder(owner)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(MemoryError::Index(error.into()))
            }
            _ => Ok(()),
        }
    }

    /// `None` when there is no index of this database yet. One that fails is opened anew the next time.
    fn keyword<T>(
        &self,
        owner: i64,
        ask: impl FnOnce(&Keyword, &Applied) -> tantivy::Result<T>,
    ) -> tantivy::Result<Option<T>> {
        let mut open = self.open.borrow_mut();
        let mut index = match open.remove(&owner) {
            Some(index) => index,
            None => match Keyword::open(&self.folder(owner))? {
                Some(index) => index,
                None => return Ok(None),
            },
        };
        let applied = index.refresh()?.clone();
        if applied.store != self.store {
            return Ok(None);
        }
        let answer = ask(&index, &applied)?;
        open.insert(owner, index);
        Ok(Some(answer))
    }
}

fn unusable(error: &tantivy::TantivyError) -> String {
    format!(
        "the keyword index can't be used ({error}); every chunk was read instead: run `memory rebuild`"
    )
}

fn owner_made(tx: &Transaction<'_>, agent: &Agent) -> rusqlite::Result<i64> {
    tx.execute(
        "INSERT OR IGNORE INTO agent (name) VALUES (?1)",
        [agent.as_str()],
    )?;
    tx.query_row(
        "SELECT id FROM agent WHERE name = ?1",
        [agent.as_str()],
        |row| row.get(0),
    )
}

/// Whether the text changed. All else is changed in place.
fn replace(tx: &Transaction<'_>, owner: i64, new: &Document<'_>) -> rusqlite::Result<bool> {
    let Document {
        path,
        text,
        kind,
        at,
        file,
        is_list,
    } = new;
    let same = tx
        .prepare_cached("SELECT id FROM document WHERE agent = ?1 AND path = ?2 AND text = ?3")?
        .query_row(params![owner, path, text], |row| row.get(0))
        .optional()?;
    if let Some(document) = same {
        tx.prepare_cached(
            "UPDATE document SET kind = ?2, at = coalesce(?3, at)
             WHERE id = ?1 AND (kind IS NOT ?2 OR at IS NOT coalesce(?3, at))",
        )?
        .execute(params![document, kind, at])?;
        follow(tx, document, *file)?;
        return Ok(false);
    }
    remove(tx, owner, path)?;
    tx.prepare_cached(
        "INSERT INTO document (agent, path, text, kind, at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![owner, path, text, kind, at])?;
    let document = tx.last_insert_rowid();
    let mut insert = tx.prepare_cached(
        "INSERT INTO chunk (agent, document, start_line, end_line, text) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let cut = if *is_list { entries } else { chunks };
    for chunk in cut(text) {
        insert.execute(params![
            owner,
            document,
            chunk.start_line,
            chunk.end_line,
            chunk.text
        ])?;
    }
    follow(tx, document, *file)?;
    Ok(true)
}

fn follow(tx: &Transaction<'_>, document: i64, file: Option<Mark>) -> rusqlite::Result<()> {
    if let Some(Mark { bytes, changed }) = file {
        tx.prepare_cached(
            "INSERT OR REPLACE INTO file (document, bytes, changed) VALUES (?1, ?2, ?3)",
        )?
        .execute([document, bytes, changed])?;
    }
    Ok(())
}

fn remove(tx: &Transaction<'_>, owner: i64, path: &str) -> rusqlite::Result<bool> {
    tx.prepare_cached("INSERT INTO gone (agent, document) SELECT agent, id FROM document WHERE agent = ?1 AND path = ?2")?
        .execute(params![owner, path])?;
    let gone = tx
        .prepare_cached("DELETE FROM document WHERE agent = ?1 AND path = ?2")?
        .execute(params![owner, path])?;
    Ok(gone > 0)
}

#[cfg(test)]
mod tests;
