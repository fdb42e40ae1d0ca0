//! The files of a workspace that are memory, and bringing the database up to them.
//!
//! `MEMORY.md`, `USER.md`, every `*.md` under `memory/`, and what [`Extra`] names beside it; links are not followed. Source:
//! `listMemoryFiles` of packages/memory-host-sdk at 2026.9.6. A file is read when its size or the time of its last change is
//! another.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use memory::{Agent, DOCUMENT_BYTES_MAX, Document, Mark, Memory, MemoryError};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::extra::{Extra, named};
use super::folder;
use crate::assistant::beneath;
use crate::clock;

/// More files, or folders in each other, are left out and counted.
const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 32;
/// Entries of folders that are looked at, meant or not; nothing is known of the rest.
pub(super) const SEEN_MAX: usize = 200_000;
/// The lists of what to remember, cut item by item.
const LISTS: [&str; 2] = ["MEMORY.md", "USER.md"];
/// Where the original's repairs keep what they replaced.
const REPAIRS: &str = ".openclaw-repair";
/// A file that was changed so shortly before may change again under the same time of change.
const SETTLED_MS: i64 = 100;

/// What became of the files.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) kept: usize,
    pub(super) unchanged: usize,
    /// Too large, unreadable, or beyond the limits.
    pub(super) left_out: usize,
    /// Their files are gone.
    pub(super) forgotten: usize,
    /// Not read for lack of time.
    pub(super) behind: usize,
    /// Folders were not looked at to their end: for lack of time, or beyond [`SEEN_MAX`].
    pub(super) is_cut: bool,
    /// The workspace can't be read.
    pub(super) is_away: bool,
}

impl Counts {
    pub(super) const fn has_changed(&self) -> bool {
        self.kept + self.forgotten > 0
    }
}

/// Whether a path from the workspace on is memory.
pub(super) fn is_source(path: &str) -> bool {
    LISTS.contains(&path) || (path.starts_with("memory/") && path.ends_with(".md"))
}

/// A workspace, open: what is asked of it is under it, links or not.
pub(super) struct Workspace(OwnedFd);

impl Workspace {
    pub(super) fn open(folder: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(folder, flags, Mode::empty())?))
    }

    /// Anything that is there, but no link; a pipe does not make the reader wait.
    pub(super) fn file(&self, inside: &str) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        beneath(&self.0, Path::new(inside), flags).map(File::from)
    }
}

/// A file that is memory.
struct Source {
    /// As hits name it.
    path: String,
    mark: Mark,
    /// Which configured path it is under; `None` for the workspace.
    extra: Option<usize>,
    /// From there on; empty for a configured file.
    inside: String,
}

struct Listed {
    files: Vec<Source>,
    left_out: usize,
    /// Everything that is there is listed.
    whole: bool,
    seen: usize,
    until: Option<Instant>,
    is_cut: bool,
}

/// Lists and reads what changed until the time is over, forgets what is gone.
///
/// # Errors
/// The database's.
pub(super) fn follow(
    memory: &mut Memory,
    agent: &Agent,
    folder: &Path,
    extra: &[Extra],
    until: Option<Instant>,
) -> Result<Counts, MemoryError> {
    let Ok(workspace) = Workspace::open(folder) else {
        // A disk that is not there says nothing of the files on it.
        return Ok(Counts {
            is_away: true,
            ..Counts::default()
        });
    };
    let known = memory.files(agent)?;
    let listed = listed(folder, extra, until);
    let mut counts = Counts {
        left_out: listed.left_out,
        is_cut: listed.is_cut,
        ..Counts::default()
    };
    let mut batch = folder::Batch::default();
    for (at, source) in listed.files.iter().enumerate() {
        if known.get(&source.path) == Some(&source.mark) {
            counts.unchanged += 1;
            continue;
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            counts.behind = listed.files[at..]
                .iter()
                .filter(|source| known.get(&source.path) != Some(&source.mark))
                .count();
            break;
        }
        let file = match source.extra {
            None => workspace.file(&source.inside),
            Some(at) => extra_file(&extra[at], &source.inside),
        };
        match file.ok().and_then(|file| read(&file, &source.path)) {
            Some(entry) => batch.push(entry),
            None => counts.left_out += 1,
        }
        if batch.is_full() {
            keep(memory, agent, &mut batch, &mut counts)?;
        }
    }
    keep(memory, agent, &mut batch, &mut counts)?;
    if listed.whole {
        let there: HashSet<&str> = listed.files.iter().map(|source| &*source.path).collect();
        let gone: Vec<&str> = known
            .keys()
            .map(String::as_str)
            .filter(|path| !there.contains(path))
            .collect();
        counts.forgotten = memory.forget_all(agent, &gone)?.len();
    }
    Ok(counts)
}

fn keep(
    memory: &mut Memory,
    agent: &Agent,
    batch: &mut folder::Batch,
    counts: &mut Counts,
) -> Result<(), MemoryError> {
    let rows: Vec<Document<'_>> = batch
        .entries()
        .iter()
        .map(|entry| Document {
            at: entry.at,
            file: entry.mark,
            is_list: LISTS.contains(&&*entry.path),
            ..Document::new(&entry.path, &entry.text)
        })
        .collect();
    if !rows.is_empty() {
        let kept = memory.put_documents(agent, &rows)?;
        counts.kept += kept;
        counts.unchanged += rows.len() - kept;
    }
    batch.clear();
    Ok(())
}

/// The folders whose entries decide what [`follow`] reads, `max` of them at most; of a root that is not there the one that it
/// would come into. The agent's own come first: no large extra path takes their place.
pub(super) fn folders(workspace: &Path, extra: &[Extra], max: usize) -> BTreeSet<PathBuf> {
    let mut out = BTreeSet::new();
    let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|data| data.is_dir());
    let own = if workspace.is_dir() {
        Some(workspace)
    } else {
        workspace.parent()
    };
    out.extend(own.filter(|own| own.is_dir()).map(Path::to_owned));
    let mut extras = VecDeque::new();
    for one in extra {
        if is_folder(&one.path) {
            extras.push_back((one.path.clone(), 0));
        } else if let Some(parent) = one.path.parent().filter(|parent| is_folder(parent)) {
            out.insert(parent.to_owned());
        }
    }
    let mut seen = 0;
    for mut waiting in [VecDeque::from([(workspace.join("memory"), 0)]), extras] {
        // Level by level, so that of what is too large each part is watched near its top.
        while let Some((folder, depth)) = waiting.pop_front() {
            if out.len() >= max || seen >= SEEN_MAX {
                break;
            }
            if !is_folder(&folder) {
                continue;
            }
            let Ok(entries) = std::fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries.flatten() {
                seen += 1;
                let is_inner = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_inner && depth < DEPTH_MAX && entry.file_name() != REPAIRS {
                    waiting.push_back((entry.path(), depth + 1));
                }
                if seen >= SEEN_MAX {
                    break;
                }
            }
            out.insert(folder);
        }
    }
    out
}

/// Anything that is there, but no link, nor a configured path that is one.
pub(super) fn extra_file(extra: &Extra, inside: &str) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if inside.is_empty() {
        return rustix::fs::open(&extra.path, flags, Mode::empty()).map(File::from);
    }
    let root = rustix::fs::open(&extra.path, flags | OFlags::DIRECTORY, Mode::empty())?;
    Workspace(root).file(inside)
}

fn read(file: &File, path: &str) -> Option<folder::Entry> {
    let data = file.metadata().ok().filter(Metadata::is_file)?;
    let mark = mark(&data);
    let at = folder::written(file);
    let bytes = folder::bytes_of(file)?;
    let text = String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}");
    let now_ms = i64::try_from(clock::now_ms()).unwrap_or(i64::MAX);
    let is_settled = now_ms.saturating_sub(mark.changed / 1_000_000) > SETTLED_MS;
    (text.len() <= DOCUMENT_BYTES_MAX).then(|| folder::Entry {
        path: path.to_owned(),
        text,
        at,
        mark: Some(Mark {
            changed: if is_settled { mark.changed } else { 0 },
            ..mark
        }),
    })
}

/// The inode's change time in nanoseconds: unlike the time of writing, no program sets it.
fn mark(data: &Metadata) -> Mark {
    Mark {
        bytes: i64::try_from(data.len()).unwrap_or(i64::MAX),
        changed: data.ctime().saturating_mul(1_000_000_000) + data.ctime_nsec(),
    }
}

fn listed(workspace: &Path, extra: &[Extra], until: Option<Instant>) -> Listed {
    let mut listed = Listed {
        files: Vec::new(),
        left_out: 0,
        whole: true,
        seen: 0,
        until,
        is_cut: false,
    };
    for name in LISTS {
        if let Some(data) = listed.there(workspace.join(name).symlink_metadata()) {
            listed.add(name.to_owned(), &data, None, name.to_owned());
        }
    }
    let is_md = |inside: &str| inside.ends_with(".md");
    listed.walk(workspace, "memory", is_md, |inside| {
        Some((None, inside.to_owned()))
    });
    let repairs = workspace.join(REPAIRS);
    for (at, one) in extra.iter().enumerate() {
        if one.path.starts_with(&repairs) {
            continue;
        }
        let Some(data) = listed.there(one.path.symlink_metadata()) else {
            continue;
        };
        if data.is_dir() {
            let has = |inside: &str| one.has(inside);
            listed.walk(&one.path, "", has, |inside| {
                Some((Some(at), named(workspace, &one.path.join(inside))?))
            });
        } else if let Some(path) = named(workspace, &one.path)
            && one.has("")
        {
            listed.add(path, &data, Some(at), String::new());
        }
    }
    // A file may be under two of them.
    listed.files.sort_by(|a, b| a.path.cmp(&b.path));
    listed
        .files
        .dedup_by(|later, first| later.path == first.path);
    listed
}

impl Listed {
    /// Every file under a folder of a root that is meant; `name` says which configured path it is under, and its path.
    fn walk(
        &mut self,
        root: &Path,
        folder: &str,
        is_meant: impl Fn(&str) -> bool,
        name: impl Fn(&str) -> Option<(Option<usize>, String)>,
    ) {
        let mut folders = vec![(folder.to_owned(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            if self.is_over() {
                return;
            }
            let full: PathBuf = root.join(&folder);
            let data = self.there(full.symlink_metadata());
            if !data.is_some_and(|data| data.is_dir()) {
                continue;
            }
            let Some(entries) = self.there(std::fs::read_dir(&full)) else {
                continue;
            };
            for entry in entries {
                if self.is_over() {
                    return;
                }
                self.seen += 1;
                let Some(entry) = self.there(entry) else {
                    continue;
                };
                let Some(kind) = self.there(entry.file_type()) else {
                    continue;
                };
                let Ok(own) = entry.file_name().into_string() else {
                    self.left_out += 1;
                    continue;
                };
                let inside = match folder.is_empty() {
                    true => own.clone(),
                    false => format!("{folder}/{own}"),
                };
                if kind.is_dir() && own != REPAIRS {
                    if depth == DEPTH_MAX {
                        self.left_out += 1;
                        self.whole = false;
                    } else {
                        folders.push((inside, depth + 1));
                    }
                } else if kind.is_file()
                    && is_meant(&inside)
                    && let Some(data) = self.there(entry.metadata())
                    && let Some((extra, path)) = name(&inside)
                {
                    self.add(path, &data, extra, inside);
                }
            }
        }
    }

    /// What is not there is nothing. Of what can't be looked at nothing is known, so nothing may be forgotten for it.
    fn there<T>(&mut self, found: io::Result<T>) -> Option<T> {
        match found {
            Ok(found) => Some(found),
            Err(error) => {
                let is_gone = matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                );
                if !is_gone {
                    self.left_out += 1;
                    self.whole = false;
                }
                None
            }
        }
    }

    /// Whether no more is looked at.
    fn is_over(&mut self) -> bool {
        let is_late = self.until.is_some_and(|until| Instant::now() >= until);
        if is_late || self.seen >= SEEN_MAX {
            self.whole = false;
            self.is_cut = true;
        }
        self.is_cut
    }

    fn add(&mut self, path: String, data: &Metadata, extra: Option<usize>, inside: String) {
        if !data.is_file() {
            return;
        }
        if self.files.len() == FILES_MAX {
            self.whole = false;
        }
        if self.files.len() == FILES_MAX || data.len() > DOCUMENT_BYTES_MAX as u64 {
            self.left_out += 1;
            return;
        }
        self.files.push(Source {
            path,
            mark: mark(data),
            extra,
            inside,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::Query;
    use std::os::unix::fs::symlink;

    fn counts(kept: usize, unchanged: usize, left_out: usize, forgotten: usize) -> Counts {
        Counts {
            kept,
            unchanged,
            left_out,
            forgotten,
            ..Counts::default()
        }
    }

    #[test]
    fn the_database_follows_what_the_original_would_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("workspace");
        let write = |path: &str, text: &[u8]| {
            let file = home.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let mut memory = Memory::open(&dir.path().join("memory.sqlite")).unwrap();
        let main = Agent::parse("main").unwrap();
        let paths = |memory: &Memory| memory.paths(&main, "").unwrap();
        let again = |memory: &mut Memory| follow(memory, &main, &home, &[], None).unwrap();

        assert!(again(&mut memory).is_away);
        write("MEMORY.md", b"- zebra\n");
        write("memory.md", b"zebra");
        write("notes.md", b"zebra");
        write("memory/a/deep.md", b"latin \xe9 and a \0 zebra");
        write("memory/a.txt", b"zebra");
        write("memory/.openclaw-repair/old.md", b"zebra");
        symlink(home.join("notes.md"), home.join("memory/link.md")).unwrap();
        symlink(&home, home.join("memory/loop")).unwrap();
        let huge = std::fs::File::create(home.join("memory/huge.md")).unwrap();
        huge.set_len(DOCUMENT_BYTES_MAX as u64 + 1).unwrap();
        assert_eq!(again(&mut memory), counts(2, 0, 1, 0));
        assert_eq!(paths(&memory), ["MEMORY.md", "memory/a/deep.md"]);
        assert_eq!(again(&mut memory), counts(0, 2, 1, 0));

        // Somebody's own text is no file's, and stays.
        memory.put(&main, "memory/by-hand.md", "zebra").unwrap();
        std::fs::remove_file(home.join("memory/a/deep.md")).unwrap();
        write("MEMORY.md", b"- otter\n");
        assert_eq!(again(&mut memory), counts(1, 0, 1, 1));
        assert_eq!(paths(&memory), ["MEMORY.md", "memory/by-hand.md"]);
        let found = memory.search(&main, &Query::new("otter")).unwrap();
        assert_eq!(found.hits.len(), 1);

        // A folder in place of the list is not read, a workspace that is away forgets nothing.
        std::fs::rename(&home, dir.path().join("elsewhere")).unwrap();
        assert!(again(&mut memory).is_away);
        assert_eq!(paths(&memory).len(), 2);
    }

    #[test]
    fn configured_paths_are_read_too_and_forgotten_with_their_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = dir.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("w/MEMORY.md", "zebra");
        write("w/notes/own.md", "zebra");
        write("team/a/b.md", "zebra");
        write("team/a.txt", "zebra");
        write("real/c.md", "zebra");
        symlink(dir.path().join("real"), dir.path().join("linked")).unwrap();
        symlink(dir.path().join("real/c.md"), dir.path().join("team/c.md")).unwrap();
        let home = dir.path().join("w");
        let rows = serde_json::json!(["../team", "../team/a", "notes", "../linked", "../none"]);
        let places = crate::native::agents::Places {
            state_dir: dir.path(),
            home: dir.path(),
            workspace_variable: None,
            state_dir_is_set: true,
        };
        let extra = Extra::all([Some(&rows), None], &home, &places);
        let mut memory = Memory::open(&dir.path().join("memory.sqlite")).unwrap();
        let main = Agent::parse("main").unwrap();
        let first = follow(&mut memory, &main, &home, &extra, None).unwrap();
        assert_eq!(first, counts(3, 0, 0, 0));
        let paths = memory.paths(&main, "").unwrap();
        assert_eq!(paths, ["../team/a/b.md", "MEMORY.md", "notes/own.md"]);
        let again = follow(&mut memory, &main, &home, &extra, None).unwrap();
        assert_eq!(again, counts(0, 3, 0, 0));
        let without = follow(&mut memory, &main, &home, &[], None).unwrap();
        assert_eq!(without, counts(0, 1, 0, 2));
    }

    #[test]
    fn the_folders_of_a_memory_are_those_that_are_read_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in [
            "w/memory/a/b",
            "w/memory/.openclaw-repair/x",
            "w/other",
            "team/c",
        ] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        symlink(root, root.join("w/memory/loop")).unwrap();
        std::fs::write(root.join("only.md"), "zebra").unwrap();
        let rows = serde_json::json!(["../team", "../only.md", "../gone/deep"]);
        let places = crate::native::agents::Places {
            state_dir: root,
            home: root,
            workspace_variable: None,
            state_dir_is_set: true,
        };
        let check = |extra: &[Extra], max: usize, expected: &[&str]| {
            let found = folders(&root.join("w"), extra, max);
            let expected: BTreeSet<PathBuf> = expected.iter().map(|path| root.join(path)).collect();
            assert_eq!(found, expected);
        };
        let extra = Extra::all([Some(&rows), None], &root.join("w"), &places);
        let all = [
            "",
            "team",
            "team/c",
            "w",
            "w/memory",
            "w/memory/a",
            "w/memory/a/b",
        ];
        check(&extra, 100, &all);
        check(&[], 2, &["w", "w/memory"]);
        let own_first = ["", "w", "w/memory", "w/memory/a", "w/memory/a/b"];
        check(&extra, own_first.len(), &own_first);
        std::fs::remove_dir_all(root.join("w")).unwrap();
        check(&[], 100, &[""]);
    }

    #[test]
    fn without_time_nothing_is_read_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("USER.md"), "zebra").unwrap();
        let mut memory = Memory::open(&dir.path().join("memory.sqlite")).unwrap();
        let main = Agent::parse("main").unwrap();
        let late = follow(&mut memory, &main, dir.path(), &[], Some(Instant::now())).unwrap();
        assert_eq!((late.behind, late.kept, late.is_cut), (1, 0, true));
        let done = follow(&mut memory, &main, dir.path(), &[], None).unwrap();
        assert_eq!((done.behind, done.kept, done.is_cut), (0, 1, false));
        // What was not looked at is not gone.
        std::fs::remove_file(dir.path().join("USER.md")).unwrap();
        let late = follow(&mut memory, &main, dir.path(), &[], Some(Instant::now())).unwrap();
        assert_eq!((late.forgotten, late.is_cut), (0, true));
    }

    #[test]
    fn of_what_cannot_be_looked_at_nothing_is_forgotten() {
        let mut listed = listed(Path::new("/nowhere"), &[], None);
        assert!(listed.whole);
        for errno in [Errno::NOENT, Errno::NOTDIR] {
            assert!(listed.there::<()>(Err(errno.into())).is_none());
        }
        assert!(listed.whole && listed.left_out == 0);
        for errno in [Errno::ACCESS, Errno::IO, Errno::STALE] {
            assert!(listed.there::<()>(Err(errno.into())).is_none());
        }
        assert!(!listed.whole && listed.left_out == 3);
    }
}
