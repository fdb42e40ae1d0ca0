//! The files of a workspace that are memory, and bringing the database up to them.
//!
//! `MEMORY.md`, `USER.md`, every `*.md` under `memory/`, and what [`Extra`] names beside it; links are not followed. Source:
//! `listMemoryFiles` of packages/memory-host-sdk at 2026.9.6. A file is read when its size or the time of its last change is
//! another.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use memory::{Agent, DOCUMENT_BYTES_MAX, Document, Mark, Memory, MemoryError};
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::extra::{Extra, named, plain};
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
    /// Neither read nor forgotten: there was no time, or others were at it.
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

/// Where an agent's files are.
struct Roots<'a> {
    folder: &'a Path,
    workspace: Workspace,
    extra: &'a [Extra],
}

impl Roots<'_> {
    fn open(&self, source: &Source) -> Result<File, Errno> {
        match source.extra {
            None => self.workspace.file(&source.inside),
            Some(at) => extra_file(&self.extra[at], &source.inside),
        }
    }

    /// Whether a path, as hits name it, is that of a file that would be listed now.
    fn has(&self, path: &str) -> bool {
        let full = plain(&self.folder.join(path));
        let is_there = |root: &Path| {
            let mut way = full.ancestors().take_while(|at| *at != root);
            let is_meant =
                |data: Metadata| data.is_file() && data.len() <= DOCUMENT_BYTES_MAX as u64;
            !way.any(Path::is_symlink) && full.symlink_metadata().is_ok_and(is_meant)
        };
        let is_beside = |one: &Extra| {
            let inside = one.inside(&full);
            inside.is_some_and(|inside| one.has(&inside))
                && !one.path.is_symlink()
                && is_there(&one.path)
        };
        (is_source(path) && is_there(self.folder)) || self.extra.iter().any(is_beside)
    }
}

/// Lists and reads what changed until the time is over, forgets what is gone. Of several who do so for one agent only one at a
/// time has the files (`alone`), for one transaction: what was read before is never put over what was read after.
///
/// # Errors
/// The database's.
pub(super) fn follow(
    memory: &mut Memory,
    agent: &Agent,
    folder: &Path,
    extra: &[Extra],
    alone: &Mutex<()>,
    until: Option<Instant>,
) -> Result<Counts, MemoryError> {
    let Ok(workspace) = Workspace::open(folder) else {
        // A disk that is not there says nothing of the files on it.
        return Ok(Counts {
            is_away: true,
            ..Counts::default()
        });
    };
    let roots = Roots {
        folder,
        workspace,
        extra,
    };
    let known = memory.files(agent)?;
    let listed = listed(folder, extra, until);
    bring(memory, agent, &roots, alone, &known, &listed)
}

/// Brings the database up to what was listed after it was asked what is `known`; both may be behind what others did meanwhile.
fn bring(
    memory: &mut Memory,
    agent: &Agent,
    roots: &Roots<'_>,
    alone: &Mutex<()>,
    known: &HashMap<String, Mark>,
    listed: &Listed,
) -> Result<Counts, MemoryError> {
    let files = listed.files.iter();
    let changed: Vec<&Source> = files
        .filter(|source| known.get(&source.path) != Some(&source.mark))
        .collect();
    let mut counts = Counts {
        unchanged: listed.files.len() - changed.len(),
        left_out: listed.left_out,
        is_cut: listed.is_cut,
        ..Counts::default()
    };
    let mut left = &changed[..];
    while !left.is_empty() && !listed.is_late() {
        let Some(turn) = turn(alone, listed.until) else {
            break;
        };
        left = read_some(memory, agent, roots, left, listed, &mut counts)?;
        MutexGuard::unlock_fair(turn);
    }
    counts.behind = left.len();
    if listed.whole {
        let there: HashSet<&str> = listed.files.iter().map(|source| &*source.path).collect();
        let mut gone: Vec<&str> = known
            .keys()
            .map(String::as_str)
            .filter(|path| !there.contains(path))
            .collect();
        if gone.is_empty() {
            return Ok(counts);
        }
        if let Some(_turn) = turn(alone, listed.until) {
            // Since it was listed it may have come, and somebody else may have read it.
            gone.retain(|path| !roots.has(path));
            counts.forgotten = memory.forget_all(agent, &gone)?.len();
        } else {
            counts.behind += gone.len();
        }
    }
    Ok(counts)
}

/// `None`: others had it all the time.
fn turn(alone: &Mutex<()>, until: Option<Instant>) -> Option<MutexGuard<'_, ()>> {
    match until {
        None => Some(alone.lock()),
        Some(until) => alone.try_lock_until(until),
    }
}

/// Reads as many as one transaction takes, if there is time for them; gives back the rest.
fn read_some<'a, 'b>(
    memory: &mut Memory,
    agent: &Agent,
    roots: &Roots<'_>,
    mut left: &'a [&'b Source],
    listed: &Listed,
    counts: &mut Counts,
) -> Result<&'a [&'b Source], MemoryError> {
    // Whoever was at it before may have read them.
    let known = memory.files(agent)?;
    let mut batch = folder::Batch::default();
    while let [source, rest @ ..] = left
        && !batch.is_full()
        && !listed.is_late()
    {
        left = rest;
        if known.get(&source.path) == Some(&source.mark) {
            counts.unchanged += 1;
            continue;
        }
        let file = roots.open(source).ok();
        match file.and_then(|file| read(&file, &source.path)) {
            Some(entry) => batch.push(entry),
            None => counts.left_out += 1,
        }
    }
    keep(memory, agent, &mut batch, counts)?;
    Ok(left)
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

/// Which entries of a folder decide what is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    All,
    /// These alone: it is only where something else is, or would be.
    These(BTreeSet<OsString>),
}

/// Folders whose entries decide what [`follow`] reads.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Folders {
    pub(super) all: BTreeMap<PathBuf, Names>,
    pub(super) cut: Option<Cut>,
}

/// Why there are more folders than were listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    TooMany,
    /// So many entries were looked at.
    TooLarge,
}

/// `max` of them at most, for which `seen_max` entries are looked at; of a root that is not there the one that it would come
/// into. The agent's own come first: no large extra path takes their place.
pub(super) fn folders(workspace: &Path, extra: &[Extra], max: usize, seen_max: usize) -> Folders {
    let mut out = Folders::default();
    let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|data| data.is_dir());
    if workspace.is_dir() {
        let names = LISTS.into_iter().chain(["memory"]).map(OsString::from);
        let names = Names::These(names.collect());
        out.all.insert(workspace.to_owned(), names);
    } else if let Some(parent) = workspace.parent().filter(|parent| parent.is_dir()) {
        let name = workspace.file_name().map(ToOwned::to_owned);
        let names = Names::These(name.into_iter().collect());
        out.all.insert(parent.to_owned(), names);
    }
    let mut extras = VecDeque::new();
    for one in extra {
        if is_folder(&one.path) {
            extras.push_back((one.path.clone(), 0));
        } else if let Some(parent) = one.path.parent().filter(|parent| is_folder(parent)) {
            let all = out.all.entry(parent.to_owned());
            all.or_insert_with(|| Names::These(BTreeSet::new()));
        }
    }
    for one in extra {
        if let (Some(parent), Some(name)) = (one.path.parent(), one.path.file_name())
            && let Some(Names::These(names)) = out.all.get_mut(parent)
        {
            names.insert(name.to_owned());
        }
    }
    let mut seen = 0;
    for mut waiting in [VecDeque::from([(workspace.join("memory"), 0)]), extras] {
        // Level by level, so that of what is too large each part is watched near its top.
        while let Some((folder, depth)) = waiting.pop_front() {
            if !is_folder(&folder) {
                continue;
            }
            if seen >= seen_max {
                out.cut = Some(Cut::TooLarge);
                break;
            }
            if out.all.len() >= max {
                out.cut = Some(Cut::TooMany);
                break;
            }
            let Ok(entries) = std::fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries.flatten() {
                if seen >= seen_max {
                    out.cut = Some(Cut::TooLarge);
                    break;
                }
                seen += 1;
                let is_inner = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_inner && depth < DEPTH_MAX && entry.file_name() != REPAIRS {
                    waiting.push_back((entry.path(), depth + 1));
                }
            }
            out.all.insert(folder, Names::All);
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

    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Whether no more is looked at.
    fn is_over(&mut self) -> bool {
        if self.is_late() || self.seen >= SEEN_MAX {
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
    use std::time::Duration;

    /// Nobody else is at it.
    fn follow(
        memory: &mut Memory,
        agent: &Agent,
        folder: &Path,
        extra: &[Extra],
        until: Option<Instant>,
    ) -> Result<Counts, MemoryError> {
        super::follow(memory, agent, folder, extra, &Mutex::new(()), until)
    }

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
        let check = |extra: &[Extra], max: [usize; 2], expected: &[&str], cut: Option<Cut>| {
            let found = folders(&root.join("w"), extra, max[0], max[1]);
            let paths: BTreeSet<PathBuf> = found.all.keys().cloned().collect();
            let expected: BTreeSet<PathBuf> = expected.iter().map(|path| root.join(path)).collect();
            assert_eq!((paths, found.cut), (expected, cut));
            found.all
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
        let found = check(&extra, [all.len(), 100], &all, None);
        let these = |names: &[&str]| Names::These(names.iter().map(OsString::from).collect());
        assert_eq!(found[root], these(&["only.md", "team"]));
        assert_eq!(
            found[&root.join("w")],
            these(&["MEMORY.md", "USER.md", "memory"])
        );
        assert_eq!(found[&root.join("team")], Names::All);
        check(&[], [2, 100], &["w", "w/memory"], Some(Cut::TooMany));
        let own_first = ["", "w", "w/memory", "w/memory/a", "w/memory/a/b"];
        let max = own_first.len();
        check(&extra, [max, 100], &own_first, Some(Cut::TooMany));
        check(&[], [100, 1], &["w", "w/memory"], Some(Cut::TooLarge));
        std::fs::remove_dir_all(root.join("w")).unwrap();
        let found = check(&[], [100, 100], &[""], None);
        assert_eq!(found[root], these(&["w"]));
    }

    #[test]
    fn of_two_who_follow_none_puts_what_it_read_before_over_what_the_other_read_after() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("w");
        let write = |path: &str, text: &str| std::fs::write(home.join(path), text).unwrap();
        std::fs::create_dir(&home).unwrap();
        let mut memory = Memory::open(&dir.path().join("memory.sqlite")).unwrap();
        let main = Agent::parse("main").unwrap();
        let alone = Mutex::new(());
        write("MEMORY.md", "- zebra\n");
        write("USER.md", "tea\n");
        follow(&mut memory, &main, &home, &[], None).unwrap();
        write("MEMORY.md", "- otter\n");
        std::fs::remove_file(home.join("USER.md")).unwrap();

        // One looks; then it all changes, and the other is done with that before the first goes on.
        let roots = Roots {
            folder: &home,
            workspace: Workspace::open(&home).unwrap(),
            extra: &[],
        };
        let known = memory.files(&main).unwrap();
        let listed = listed(&home, &[], None);
        write("MEMORY.md", "- walrus\n");
        write("USER.md", "coffee\n");
        follow(&mut memory, &main, &home, &[], None).unwrap();
        let late = bring(&mut memory, &main, &roots, &alone, &known, &listed).unwrap();
        assert_eq!((late.kept, late.forgotten), (0, 0));
        for (path, text) in [("MEMORY.md", "- walrus\n"), ("USER.md", "coffee\n")] {
            let kept = memory.get(&main, path).unwrap();
            assert_eq!(kept.as_deref(), Some(text));
        }

        // Whoever has no time to wait leaves it, and says so.
        write("MEMORY.md", "- gnu\n");
        std::fs::remove_file(home.join("USER.md")).unwrap();
        let other = alone.lock();
        let until = Instant::now().checked_add(Duration::from_millis(100));
        let late = super::follow(&mut memory, &main, &home, &[], &alone, until).unwrap();
        assert_eq!((late.kept, late.forgotten), (0, 0));
        assert!(late.behind > 0);
        drop(other);
        let done = super::follow(&mut memory, &main, &home, &[], &alone, None).unwrap();
        assert_eq!((done.kept, done.forgotten, done.behind), (1, 1, 0));
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
