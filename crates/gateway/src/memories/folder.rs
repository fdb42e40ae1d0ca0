//! A folder's text files into a memory, under limits, as `memory index` does; [`super::sources`] reads in the same batches.

use std::collections::HashSet;
use std::io::Read;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use memory::{Agent, DOCUMENT_BYTES_MAX, Document, Mark, Memory};
use serde_json::{Value, json};

const FILES_MAX: usize = 1_000_000;
const DEPTH_MAX: usize = 64;
/// Documents and bytes of one transaction.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// A file that was read.
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) at: Option<i64>,
    pub(crate) mark: Option<Mark>,
}

/// What goes into one transaction.
#[derive(Default)]
pub(crate) struct Batch {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Batch {
    pub(crate) fn push(&mut self, entry: Entry) {
        self.bytes += entry.text.len();
        self.entries.push(entry);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() == BATCH || self.bytes > BATCH_BYTES
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) kept: usize,
    pub(crate) unchanged: usize,
    /// Too large, unreadable or no text.
    pub(crate) left_out: usize,
    /// Their files are gone.
    pub(crate) forgotten: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.kept += other.kept;
        self.unchanged += other.unchanged;
        self.left_out += other.left_out;
        self.forgotten += other.forgotten;
    }
}

impl Counts {
    pub(crate) fn value(&self) -> Value {
        json!({
            "kept": self.kept, "unchanged": self.unchanged, "leftOut": self.left_out, "forgotten": self.forgotten
        })
    }

    pub(crate) fn text(&self) -> String {
        format!(
            "kept {}, unchanged {}, forgotten {} (their files are gone), left out {} (too large, unreadable or no text)",
            self.kept, self.unchanged, self.forgotten, self.left_out
        )
    }
}

/// # Errors
/// When it is no folder, or has more files than anyone means; the memory's own.
pub(crate) fn index(
    memory: &mut Memory,
    agent: &Agent,
    folder: &Path,
    progress: &mut impl FnMut(usize, usize),
) -> anyhow::Result<Counts> {
    let root = folder
        .canonicalize()
        .with_context(|| format!("cannot read {}", folder.display()))?;
    let mut counts = Counts::default();
    let mut whole = true;
    let files = if root.is_dir() {
        files(&root, &mut counts, &mut whole)?
    } else {
        vec![root.clone()]
    };
    let mut batch = Batch::default();
    let mut there = HashSet::new();
    for (at, file) in files.iter().enumerate() {
        let name = file.to_string_lossy().into_owned();
        let open = std::fs::File::open(file).ok();
        let at_ms = open.as_ref().and_then(written);
        match open.and_then(text_of) {
            Some(text) => batch.push(Entry {
                path: name.clone(),
                text,
                at: at_ms,
                mark: None,
            }),
            None => counts.left_out += 1,
        }
        there.insert(name);
        if batch.is_full() || at + 1 == files.len() {
            let rows: Vec<Document<'_>> = batch
                .entries()
                .iter()
                .map(|entry| Document {
                    at: entry.at,
                    ..Document::new(&entry.path, &entry.text)
                })
                .collect();
            let kept = memory.put_documents(agent, &rows)?;
            counts.kept += kept;
            counts.unchanged += rows.len() - kept;
            batch.clear();
        }
        progress(at + 1, files.len());
    }
    // A folder that could not be read to its end says nothing of what is missing.
    if whole && root.is_dir() {
        let mut prefix = root.to_string_lossy().into_owned();
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        for path in memory.paths(agent, &prefix)? {
            if !there.contains(&path) {
                counts.forgotten += usize::from(memory.forget(agent, &path)?);
            }
        }
    }
    Ok(counts)
}

/// When a file was last changed, milliseconds since 1970.
pub(crate) fn written(file: &std::fs::File) -> Option<i64> {
    let at = file.metadata().ok()?.modified().ok()?;
    i64::try_from(at.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()
}

fn files(root: &Path, counts: &mut Counts, whole: &mut bool) -> anyhow::Result<Vec<PathBuf>> {
    let mut folders = vec![(root.to_owned(), 0)];
    let mut files = Vec::new();
    while let Some((folder, depth)) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            counts.left_out += 1;
            *whole = false;
            continue;
        };
        for entry in entries.flatten() {
            // Of the entry itself: a link is neither, so a loop of them is never entered.
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() && depth < DEPTH_MAX {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() && is_text(&entry.path()) {
                anyhow::ensure!(
                    files.len() < FILES_MAX,
                    "over {FILES_MAX} files: index its folders one by one"
                );
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn is_text(path: &Path) -> bool {
    path.extension()
        .and_then(|name| name.to_str())
        .is_some_and(|name| {
            ["md", "markdown", "txt", "jsonl"]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
        })
}

/// Zero bytes mean that it is no text.
pub(crate) fn text_of(file: impl Read) -> Option<String> {
    let bytes = bytes_of(file)?;
    if bytes.contains(&0) {
        return None;
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // Replaced bytes grow.
    (text.len() <= DOCUMENT_BYTES_MAX).then_some(text)
}

/// At most the limit is ever read, whatever the file's size says.
pub(crate) fn bytes_of(file: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(DOCUMENT_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .ok()?;
    (bytes.len() <= DOCUMENT_BYTES_MAX).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::Query;

    fn counts(kept: usize, unchanged: usize, left_out: usize, forgotten: usize) -> Counts {
        Counts {
            kept,
            unchanged,
            left_out,
            forgotten,
        }
    }

    #[test]
    fn a_hostile_folder_is_bounded_and_the_rest_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let notes = dir.path().join("notes");
        std::fs::create_dir(&notes).unwrap();
        std::os::unix::fs::symlink(&notes, notes.join("loop")).unwrap();
        std::fs::write(notes.join("good.md"), "# Keys\nthe spare key is with Ada\n").unwrap();
        std::fs::write(notes.join("bad.txt"), b"latin \xe9 and Ada").unwrap();
        std::fs::write(notes.join("zero.txt"), b"Ada\0Ada").unwrap();
        std::fs::File::create(notes.join("line.txt"))
            .unwrap()
            .set_len(100 * 1024 * 1024)
            .unwrap();
        let mut memory = Memory::open(&dir.path().join("memory.sqlite")).unwrap();
        let main = Agent::parse("main").unwrap();
        let again = |memory: &mut Memory| index(memory, &main, &notes, &mut |_, _| {}).unwrap();
        assert_eq!(again(&mut memory), counts(2, 0, 2, 0));
        memory.put(&main, "notes/elsewhere.md", "stays").unwrap();
        assert_eq!(again(&mut memory), counts(0, 2, 2, 0));
        let found = memory
            .search(&main, &Query::new("where is the spare key"))
            .unwrap();
        let path = notes.canonicalize().unwrap().join("good.md");
        assert_eq!(found.hits[0].path, path.to_str().unwrap());
        std::fs::remove_file(path).unwrap();
        assert_eq!(again(&mut memory), counts(0, 1, 2, 1));
        assert!(memory.get(&main, "notes/elsewhere.md").unwrap().is_some());
    }
}
