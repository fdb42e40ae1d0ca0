//! Numbered, append-only migrations. What a database has seen is written in it, with the text's fingerprint.

use crate::{StoreError, backup};
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;
use std::sync::Arc;

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "init", include_str!("../migrations/0001_init.sql")),
    (2, "agents", include_str!("../migrations/0002_agents.sql")),
    (
        3,
        "schedules",
        include_str!("../migrations/0003_schedules.sql"),
    ),
];

/// The schema that this release writes.
pub const SCHEMA: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Brings a database up to [`SCHEMA`], each step in its own transaction. An older one is copied first, so that the release
/// that knew it can be gone back to.
pub(crate) fn run(
    connection: &mut Connection,
    file: &Path,
    path: &Arc<str>,
) -> Result<(), StoreError> {
    let sqlite = |error: rusqlite::Error| StoreError::sqlite(path, &error);
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(sqlite)?;
    if found > SCHEMA {
        return Err(StoreError::Newer {
            path: Arc::clone(path),
            found,
            known: SCHEMA,
            way_back: way_back(file),
        });
    }
    if (1..SCHEMA).contains(&found) {
        copy_before(connection, file, found)?;
    }
    for (version, name, sql) in MIGRATIONS.iter().filter(|(version, ..)| *version > found) {
        let tx = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(sqlite)?;
        tx.execute_batch(sql).map_err(sqlite)?;
        tx.pragma_update(None, "user_version", version)
            .map_err(sqlite)?;
        tx.commit().map_err(sqlite)?;
        tracing::debug!(version, name, "migrated the message store");
    }
    Ok(())
}

fn copy_before(connection: &Connection, file: &Path, schema: i64) -> Result<(), StoreError> {
    let copy = backup::before_upgrade(file, schema);
    let mut unfinished = copy.as_os_str().to_owned();
    unfinished.push(".new");
    let io = |error: std::io::Error| StoreError::Io {
        path: Arc::from(copy.display().to_string()),
        detail: Arc::from(error.to_string()),
    };
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    backup::copy_of(connection, Path::new(&unfinished))?;
    std::fs::rename(&unfinished, &copy).map_err(io)?;
    tracing::info!(
        file = %copy.display(),
        "the message store gets a new schema; what it was before is kept for going back to the last release"
    );
    Ok(())
}

/// The newest copy that this release can read.
fn way_back(file: &Path) -> Arc<str> {
    let kept = (1..=SCHEMA)
        .rev()
        .map(|schema| backup::before_upgrade(file, schema))
        .find(|copy| copy.exists());
    match kept {
        Some(copy) => Arc::from(format!(
            ", or put {} in its place: it is as the upgrade found it, without what came since",
            copy.display()
        )),
        None => Arc::from(""),
    }
}
