//! A copy of a database while it is in use, the check of a copy, and what a restored one must not do by itself.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, params};

use crate::db::{self, Options};
use crate::{StoreError, TxError, history, outbox};

/// Rows that a restored database doesn't act on until somebody has looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Outbound messages that had not been sent: now in doubt.
    pub outbound: usize,
    /// Inbound messages that had not been answered: now given up, to be taken up again by hand.
    pub inbound: usize,
}

/// Writes what `from` holds at this moment into `to`, as a database of its own that only its owner reads, on disk when
/// this returns. Writers of `from` go on meanwhile. Takes any SQLite database.
///
/// # Errors
/// Why `from` can't be read or `to` not be written; `to` must not exist.
pub fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let shown: Arc<str> = Arc::from(from.display().to_string());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = db::open(from, flags, &Options::default())
        .map_err(|error| StoreError::sqlite(&shown, &error))?;
    copy_of(&connection, to)
}

/// As [`copy`], of the database that is open.
pub(crate) fn copy_of(connection: &Connection, to: &Path) -> Result<(), StoreError> {
    let shown: Arc<str> = Arc::from(to.display().to_string());
    let name = to.to_str().ok_or_else(|| StoreError::Io {
        path: Arc::clone(&shown),
        detail: Arc::from("its name is not UTF-8"),
    })?;
    // SQLite takes an empty file as one that is not there; made here for its mode.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(|error| io(&shown, &error))?;
    let copied = connection
        .execute("VACUUM INTO ?1", [name])
        .map_err(|error| StoreError::sqlite(&shown, &error))
        // SQLite leaves that to us: it syncs no file that nobody has used yet.
        .and_then(|_rows| file.sync_all().map_err(|error| io(&shown, &error)))
        .and_then(|()| sync_folder(to).map_err(|error| io(&shown, &error)));
    if copied.is_err()
        && let Err(error) = std::fs::remove_file(to)
    {
        tracing::debug!(file = name, %error, "cannot remove an unfinished copy");
    }
    copied
}

/// Reads all of a database that nobody uses, and answers its schema.
///
/// # Errors
/// What is wrong with it, [`StoreError::Newer`] past `known`.
pub fn check(path: &Path, known: i64) -> Result<i64, StoreError> {
    let shown: Arc<str> = Arc::from(path.display().to_string());
    let sqlite = |error: rusqlite::Error| StoreError::sqlite(&shown, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = db::open(path, flags, &Options::default()).map_err(sqlite)?;
    let found: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(sqlite)?;
    if found != "ok" {
        return Err(StoreError::Corrupt {
            path: Arc::clone(&shown),
            detail: Arc::from(found),
        });
    }
    let schema: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(sqlite)?;
    if schema > known {
        return Err(StoreError::Newer {
            path: shown,
            found: schema,
            known,
            way_back: Arc::from(""),
        });
    }
    Ok(schema)
}

/// Makes a restored message store hold what was under way when it was copied: the gateway went on after that, so a message
/// may have been sent, or answered, since. Nothing is dropped; each can be sent or taken up again by hand.
///
/// # Errors
/// Why it can't be written.
pub fn hold(path: &Path, why: &str, now_ms: i64) -> Result<Held, StoreError> {
    let shown: Arc<str> = Arc::from(path.display().to_string());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = db::open(path, flags, &Options::default())
        .map_err(|error| StoreError::sqlite(&shown, &error))?;
    let mut held = || -> Result<Held, TxError> {
        let tx = connection.transaction()?;
        let ids = |query: &str| -> Result<Vec<String>, TxError> {
            let mut statement = tx.prepare(query)?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        let out = ids("SELECT id FROM outbox WHERE state IN ('pending', 'leased')")?;
        for id in &out {
            let lane: String = tx.query_row(
                "UPDATE outbox SET state = 'in_doubt', error = ?2, updated_ms = ?3 WHERE id = ?1 RETURNING lane",
                params![id, why, now_ms],
                |row| row.get(0),
            )?;
            outbox::next_in_lane(&tx, &lane)?;
            history::note(&tx, id, now_ms, "in doubt", why)?;
        }
        let inbound = ids("SELECT id FROM inbox WHERE state IN ('waiting', 'turn')")?;
        for id in &inbound {
            tx.execute(
                "UPDATE inbox SET state = 'failed', note = ?2, updated_ms = ?3 WHERE id = ?1",
                params![id, why, now_ms],
            )?;
            history::note(&tx, id, now_ms, "failed", why)?;
        }
        tx.commit()?;
        Ok(Held {
            outbound: out.len(),
            inbound: inbound.len(),
        })
    };
    held().map_err(|error| error.at(&shown))
}

/// Where a database is copied to before a release changes its schema.
pub(crate) fn before_upgrade(database: &Path, schema: i64) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(format!(".schema-{schema}"));
    name.into()
}

fn io(shown: &Arc<str>, error: &std::io::Error) -> StoreError {
    let (path, detail) = (Arc::clone(shown), Arc::from(error.to_string()));
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full { path, detail },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            StoreError::ReadOnly { path, detail }
        }
        _ => StoreError::Io { path, detail },
    }
}

/// So that the file's name outlives a power cut.
fn sync_folder(file: &Path) -> std::io::Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}
