//! The book on disk: one private file, replaced whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Book;
use crate::auth::files;

const VERSION: u32 = 1;
/// A book larger than this was not written by us.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot read {path}: {source}; check that this user owns it")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "cannot write {path}: {source}; check free space and that this user owns the directory"
    )]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{path} was written by a newer release (format {version}); use that release, or move the file away"
    )]
    Newer { path: PathBuf, version: u64 },
}

/// A book that could not be read and was put aside; the gateway went on with an empty one.
#[derive(Debug, Clone)]
pub struct Damaged {
    pub kept_at: PathBuf,
    pub what: String,
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kept_at, what } = self;
        write!(
            out,
            "the paired devices could not be read ({what}); the file is kept at {}, devices must pair again or the \
             file be repaired and put back",
            kept_at.display()
        )
    }
}

#[derive(Debug)]
pub struct Store {
    path: PathBuf,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    #[serde(flatten)]
    book: &'a Book,
}

#[derive(Deserialize)]
struct Read {
    #[serde(flatten)]
    book: Book,
}

impl Store {
    /// Reads the book, which may not exist yet.
    ///
    /// # Errors
    /// When the file cannot be read at all, or is of a newer format. A damaged one is kept aside instead.
    pub fn open(path: &Path, now_ms: u64) -> Result<(Self, Book, Option<Damaged>), StoreError> {
        files::sweep_temporaries(path);
        let store = Self {
            path: path.to_owned(),
        };
        let read_error = |source| StoreError::Read {
            path: path.to_owned(),
            source,
        };
        let bytes = match fs::metadata(path) {
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                let what = format!("{} bytes are too many", meta.len());
                return store
                    .put_aside(what, now_ms)
                    .map(|(book, damaged)| (store, book, Some(damaged)));
            }
            Ok(_) => fs::read(path).map_err(read_error)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((store, Book::default(), None));
            }
            Err(error) => return Err(read_error(error)),
        };
        match parse(&bytes) {
            Ok(book) => Ok((store, book, None)),
            Err(Unreadable::Newer(version)) => Err(StoreError::Newer {
                path: path.to_owned(),
                version,
            }),
            Err(Unreadable::Damaged(what)) => store
                .put_aside(what, now_ms)
                .map(|(book, damaged)| (store, book, Some(damaged))),
        }
    }

    /// # Errors
    /// When the file system refuses; the old book is then still in place.
    pub fn save(&self, book: &Book) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(&Written {
            version: VERSION,
            book,
        })
        .expect("a book is plain data");
        files::replace_private(&self.path, &text).map_err(|source| StoreError::Write {
            path: self.path.clone(),
            source,
        })
    }

    fn put_aside(&self, what: String, now_ms: u64) -> Result<(Book, Damaged), StoreError> {
        let mut kept_at = self.path.clone().into_os_string();
        kept_at.push(format!(".damaged-{now_ms}"));
        let kept_at = PathBuf::from(kept_at);
        fs::rename(&self.path, &kept_at).map_err(|source| StoreError::Write {
            path: kept_at.clone(),
            source,
        })?;
        Ok((Book::default(), Damaged { kept_at, what }))
    }
}

enum Unreadable {
    Newer(u64),
    Damaged(String),
}

fn parse(bytes: &[u8]) -> Result<Book, Unreadable> {
    let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version > u64::from(VERSION) => return Err(Unreadable::Newer(version)),
        Some(_) => {}
        None => return Err(Unreadable::Damaged("it has no format version".to_owned())),
    }
    serde_json::from_value::<Read>(value)
        .map(|read| read.book)
        .map_err(damaged)
}
