//! What agents remember. SQLite holds every document and its chunks; a search ranks the chunks of one agent by BM25.
//!
//! A write is on disk when it returns and in the next answer. A search reads, never writes, and stops at its deadline.
//! There is no derived index yet: a search reads all chunks of its agent, so its time grows with them.

mod analyse;
mod chunk;
mod rank;
mod store;

pub use analyse::terms;
pub use chunk::{Chunk, chunks};
pub use rank::{Found, Hit, Query};
pub use store::{Memory, Status};

/// Whose memory it is. Every call takes one: there is no way to ask for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent(String);

impl Agent {
    /// # Errors
    /// [`MemoryError::Agent`] when the name is empty.
    pub fn parse(name: &str) -> Result<Self, MemoryError> {
        match name.trim() {
            "" => Err(MemoryError::Agent),
            name => Ok(Self(name.to_owned())),
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why the memory could not do it. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("an agent's name can't be empty: give one, such as main")]
    Agent,
    #[error(
        "{path}: {bytes} bytes are more than the {max} a document may have: split it or leave it out"
    )]
    TooLarge {
        path: String,
        bytes: usize,
        max: usize,
    },
    #[error(
        "{path} has schema {found}, this version knows {known}: use the version that wrote it, or another file"
    )]
    Schema {
        path: String,
        found: i64,
        known: i64,
    },
    #[error(
        "memory database: {0}: check that its disk has room and that its file is whole and writable"
    )]
    Sqlite(#[from] rusqlite::Error),
}
