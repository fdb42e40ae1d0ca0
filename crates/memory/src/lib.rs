//! What agents remember. SQLite holds every document and its chunks and is the truth; a keyword index and, where
//! there is an embedder, a vector index for each agent are derived from it and may be deleted at any time.
//!
//! A write is on disk when it returns and in the next answer: what the index does not hold yet is read from the
//! database. A search reads, never writes, and stops at its deadline.

mod analyse;
mod chunk;
mod embed;
mod fuse;
mod keyword;
mod rank;
mod store;
mod vector;

pub use analyse::{terms, words};
pub use chunk::{Chunk, chunks, entries};
pub use embed::{EmbedError, Embedder, EmbedderSettings, Model, Purpose, Usage};
pub use fuse::{HALF_LIFE_DAYS, MMR_LAMBDA, Recency, midnight};
pub use rank::{Explain, Filter, Found, Hit, Mode, Query};
pub use store::{
    DOCUMENT_BYTES_MAX, Document, Embedded, Indexed, Mark, Memory, SCHEMA, Status, VectorStatus,
    Verified,
};

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
    #[error("{path}: {why}: check that its folder is there and writable")]
    Place {
        path: String,
        #[source]
        why: std::io::Error,
    },
    /// What was made before stays.
    #[error(transparent)]
    Embedding(#[from] EmbedError),
    #[error(
        "{model} answers with {other} numbers, the vectors that are kept have {known}: give the other model another name"
    )]
    Dimensions {
        model: String,
        known: usize,
        other: usize,
    },
    #[error(
        "vector index: {0}: check that its disk has room; what is kept is safe, and `memory rebuild` makes the index again"
    )]
    VectorIndex(#[from] std::io::Error),
    #[error(
        "memory database: {0}: check that its disk has room and that its file is whole and writable"
    )]
    Sqlite(#[from] rusqlite::Error),
    #[error(
        "keyword index: {0}: check that its disk has room; what is kept is safe, and `memory rebuild` makes the index again"
    )]
    Index(#[from] tantivy::TantivyError),
}
