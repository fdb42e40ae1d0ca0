//! Numbered, append-only migrations. What a database has seen is written in it, with the text's fingerprint.

use crate::StoreError;
use rusqlite::{Connection, TransactionBehavior};
use std::sync::Arc;

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "init", include_str!("../migrations/0001_init.sql")),
    (2, "agents", include_str!("../migrations/0002_agents.sql")),
];

/// The schema that this release writes.
pub const SCHEMA: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Brings a database up to [`SCHEMA`], each step in its own transaction.
pub(crate) fn run(connection: &mut Connection, path: &Arc<str>) -> Result<(), StoreError> {
    let sqlite = |error: rusqlite::Error| StoreError::sqlite(path, &error);
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(sqlite)?;
    if found > SCHEMA {
        return Err(StoreError::Newer {
            path: Arc::clone(path),
            found,
            known: SCHEMA,
        });
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
