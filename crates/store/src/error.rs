//! What went wrong, by what the caller does next.

use std::sync::Arc;

/// Cheap to clone: one failed commit is told to everyone who was in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No room. Nothing was written; free space or raise the quota, the store goes on by itself.
    #[error("{path}: no room on the disk; free some space, this goes on by itself ({detail})")]
    Full { path: Arc<str>, detail: Arc<str> },
    /// The file or its folder can't be written.
    #[error("{path}: cannot be written; check owner, permissions and mount ({detail})")]
    ReadOnly { path: Arc<str>, detail: Arc<str> },
    /// The file is damaged. It is never repaired in place.
    #[error(
        "{path}: the database is damaged; put a backup in its place, or move it aside to start empty ({detail})"
    )]
    Corrupt { path: Arc<str>, detail: Arc<str> },
    /// Another process owns the database.
    #[error("{path}: in use by another process{holder}; stop it, or use another state directory")]
    Locked { path: Arc<str>, holder: Arc<str> },
    /// Written by a newer release.
    #[error(
        "{path}: has schema {found}, this release knows up to {known}; use the release that wrote it, or a backup from before{way_back}"
    )]
    Newer {
        path: Arc<str>,
        found: i64,
        known: i64,
        /// Names the copy that the newer release made before it changed the schema; empty when there is none.
        way_back: Arc<str>,
    },
    /// The disk answered with an error, or something of SQLite that has no better name here.
    #[error("{path}: {detail}")]
    Io { path: Arc<str>, detail: Arc<str> },
    /// The queue in front of the writer is full: too much at once. Nothing was written; try again.
    #[error("too many writes are waiting; try again in a moment")]
    Busy,
    /// The same key was used for another request.
    #[error("the idempotency key was used for a different request")]
    Conflict,
    /// No such row, or not in a state that allows this.
    #[error("{what}")]
    NotFound { what: Arc<str> },
    /// The store is shut down.
    #[error("the store is closed")]
    Closed,
    /// A bug of ours: the closure panicked; nothing of it was written.
    #[error("a write failed inside: {detail}")]
    Panicked { detail: Arc<str> },
}

impl StoreError {
    /// Whether the store as a whole can't write now (as opposed to this one request).
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Full { .. }
                | Self::ReadOnly { .. }
                | Self::Corrupt { .. }
                | Self::Locked { .. }
                | Self::Newer { .. }
                | Self::Io { .. }
        )
    }

    pub(crate) fn sqlite(path: &Arc<str>, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let (path, detail) = (Arc::clone(path), Arc::from(error.to_string()));
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path, detail },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::ReadOnly { path, detail }
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, detail }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked {
                path,
                holder: Arc::from(""),
            },
            _ => Self::Io { path, detail },
        }
    }
}

/// Inside a closure errors are SQLite's own; the writer knows the path.
#[derive(Debug)]
pub enum TxError {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for TxError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for TxError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<serde_json::Error> for TxError {
    fn from(error: serde_json::Error) -> Self {
        Self::Store(StoreError::Panicked {
            detail: Arc::from(error.to_string()),
        })
    }
}

impl TxError {
    pub(crate) fn at(self, path: &Arc<str>) -> StoreError {
        match self {
            Self::Sqlite(error) => StoreError::sqlite(path, &error),
            Self::Store(error) => error,
        }
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::Store(StoreError::NotFound {
            what: Arc::from(what.into()),
        })
    }
}
