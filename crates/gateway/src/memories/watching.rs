//! The folders that memories are read from, watched: what changes there is read without waiting for the next search.
//!
//! An agent is watched from the first call about its memory on. Folders are watched one by one, so that their number is
//! bounded, and no link is followed. A search looks for itself all the same: what could not be watched is only found later.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{CreateKind, EventKind, ModifyKind, RemoveKind};
use notify::{RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::sources::{Cut, Names};
use super::{Shelf, read, sources};
use crate::app::App;

/// Editors write in several steps, agents several files: this long nothing more must happen.
const SETTLED: Duration = Duration::from_millis(500);
/// What goes on changing is read after this all the same.
const LATEST: Duration = Duration::from_secs(10);
/// Of all agents: the system gives a user's programs a number of watches together, often 8192.
const FOLDERS_MAX: usize = 4096;
/// Of one agent, so that others have some left.
const FOLDERS_OF_ONE_MAX: usize = 1024;
const AGENTS_MAX: usize = 256;
/// How often folders are watched before they are left to change for a while.
const ROUNDS_MAX: usize = 3;

/// Who is watched, and whose files changed since they were read.
#[derive(Debug, Default)]
pub(super) struct Watching {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What is read of each agent, as a hash: another one is watched anew.
    agents: HashMap<String, u64>,
    changed: BTreeSet<String>,
    /// Which agents read a folder, and what of it.
    folders: HashMap<PathBuf, BTreeMap<String, Names>>,
}

impl Watching {
    /// From here on, if it is not watched as it is configured now. `missed`: somebody has just found changes that were not told of, or not
    /// yet: it is watched anew, since a folder may have come where none could be watched.
    pub(super) fn want(&self, shelf: &Shelf, missed: bool) {
        let mut hasher = DefaultHasher::new();
        shelf.workspace.hash(&mut hasher);
        for extra in &shelf.extra {
            extra.path.hash(&mut hasher);
        }
        let read = hasher.finish();
        let mut state = self.state.lock();
        let known = state.agents.get(&shelf.id);
        let is_known = known == Some(&read);
        if (is_known && !missed) || (known.is_none() && state.agents.len() == AGENTS_MAX) {
            return;
        }
        state.agents.insert(shelf.id.clone(), read);
        state.changed.insert(shelf.id.clone());
        drop(state);
        self.changed.notify_one();
    }

    fn tell(&self, event: notify::Result<notify::Event>) {
        let told: Option<Vec<(PathBuf, bool)>> = match event {
            Ok(event) if event.kind.is_access() => return,
            Ok(event) if !event.need_rescan() => {
                let kind = event.kind;
                let paths = event.paths.into_iter();
                let told = paths.map(|path| {
                    let is_folder = is_of_folder(kind, &path);
                    (path, is_folder)
                });
                Some(told.collect())
            }
            // The system lost some: anything may have changed.
            _ => None,
        };
        let mut state = self.state.lock();
        let mut whose = BTreeSet::new();
        match told {
            None => whose.extend(state.agents.keys().cloned()),
            Some(told) => {
                for (path, is_folder) in &told {
                    whose.extend(state.whose(path, *is_folder).cloned());
                }
            }
        }
        if whose.is_empty() {
            return;
        }
        state.changed.extend(whose);
        drop(state);
        self.changed.notify_one();
    }

    /// As if its files had changed.
    fn again(&self, agent: &str) {
        self.state.lock().changed.insert(agent.to_owned());
        self.changed.notify_one();
    }

    /// All watches are gone: who was watched is watched anew, but for this agent, which is when somebody asks for it.
    fn begin_anew(&self, without: &str) {
        let mut state = self.state.lock();
        state.folders.clear();
        state.agents.remove(without);
        state.changed = state.agents.keys().cloned().collect();
        drop(state);
        self.changed.notify_one();
    }

    /// Resolves with the agents whose files changed and have settled.
    async fn settled(&self) -> BTreeSet<String> {
        self.changed.notified().await;
        let latest = Instant::now() + LATEST;
        loop {
            let quiet = (Instant::now() + SETTLED).min(latest);
            if timeout_at(quiet, self.changed.notified()).await.is_err() {
                return std::mem::take(&mut self.state.lock().changed);
            }
        }
    }
}

impl State {
    /// The agents whose memory it may change that something became of this path.
    fn whose<'a>(&'a self, path: &'a Path, is_folder: bool) -> impl Iterator<Item = &'a String> {
        let is_markdown = path.extension().is_some_and(|end| end == "md");
        let is_meant = move |names: &Names| match names {
            Names::All => is_markdown || is_folder,
            Names::These(names) => path.file_name().is_some_and(|name| names.contains(name)),
        };
        let itself = self.folders.get(path);
        let inside = path.parent().and_then(|parent| self.folders.get(parent));
        let inside = inside.into_iter().flatten();
        let inside = inside.filter(move |(_, names)| is_meant(names));
        let inside = inside.map(|(agent, _)| agent);
        itself.into_iter().flat_map(BTreeMap::keys).chain(inside)
    }
}

/// Whether it is a folder that came or went; of a name the system does not say it.
fn is_of_folder(kind: EventKind, path: &Path) -> bool {
    match kind {
        EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder) => true,
        EventKind::Modify(ModifyKind::Name(_)) => {
            path.symlink_metadata().is_ok_and(|data| data.is_dir())
        }
        _ => false,
    }
}

/// Why changes in some folders are only noticed by the next search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Cause {
    /// [`FOLDERS_MAX`].
    TooManyOfAll,
    /// [`FOLDERS_OF_ONE_MAX`].
    TooMany,
    /// [`sources::SEEN_MAX`].
    TooLarge,
    /// Of the system's watches.
    NoneLeft,
    Refused,
}

impl Cause {
    /// With what a person can do.
    fn said(self) -> String {
        let smaller = "name smaller folders in memory.search.extraPaths";
        match self {
            Self::TooManyOfAll => format!("all agents have over {FOLDERS_MAX} folders: {smaller}"),
            Self::TooMany => format!("an agent has over {FOLDERS_OF_ONE_MAX} folders: {smaller}"),
            Self::TooLarge => format!(
                "an agent's folders have over {} entries: {smaller}",
                sources::SEEN_MAX
            ),
            Self::NoneLeft => {
                "the system has no more watches: raise fs.inotify.max_user_watches".to_owned()
            }
            Self::Refused => "the system refused it: check that we may read it".to_owned(),
        }
    }

    const fn is_of_one(self) -> bool {
        match self {
            Self::TooManyOfAll | Self::NoneLeft => false,
            Self::TooMany | Self::TooLarge | Self::Refused => true,
        }
    }
}

/// What was said of folders that can't be watched: each cause once, of an agent's own once for each agent.
#[derive(Debug, Default)]
struct Told(HashSet<(Cause, Option<String>)>);

impl Told {
    fn is_new(&mut self, cause: Cause, agent: &str) -> bool {
        let whose = cause.is_of_one().then(|| agent.to_owned());
        self.0.insert((cause, whose))
    }

    fn forget(&mut self, agent: &str) {
        self.0.retain(|(_, whose)| whose.as_deref() != Some(agent));
    }
}

/// The system's watches, as [`State::folders`] says.
struct Watches {
    watching: notify::RecommendedWatcher,
    told: Told,
}

impl Watches {
    fn new(app: &Arc<App>) -> notify::Result<Self> {
        let weak = Arc::downgrade(&app.memories);
        let watching = notify::recommended_watcher(move |event| {
            if let Some(memories) = weak.upgrade() {
                memories.watching.tell(event);
            }
        })?;
        Ok(Self {
            watching,
            told: Told::default(),
        })
    }

    /// Watches what this agent's memory is read from now. The state is never locked while the system is asked: whoever tells
    /// of changes waits for it.
    fn watch(&mut self, state: &Mutex<State>, agent: &str, folders: &BTreeMap<PathBuf, Names>) {
        let mut left = Vec::new();
        {
            let mut state = state.lock();
            state.folders.retain(|folder, agents| {
                let is_left = !folders.contains_key(folder) && agents.remove(agent).is_some();
                if is_left && agents.is_empty() {
                    left.push(folder.clone());
                    return false;
                }
                true
            });
        }
        // First: a folder that was renamed keeps its watch, which would end with its old name.
        for folder in left {
            if let Err(error) = self.watching.unwatch(&folder) {
                tracing::debug!(folder = %folder.display(), %error, "its watch is gone already");
            }
        }
        for (folder, names) in folders {
            let is_full = {
                let state = state.lock();
                state.folders.len() >= FOLDERS_MAX && !state.folders.contains_key(folder)
            };
            if is_full {
                self.tell(Cause::TooManyOfAll, agent, folder, None);
                return;
            }
            // Those that are watched too: another folder may have come in its place. It is known before anything is told of it.
            let mut known = state.lock();
            known
                .folders
                .entry(folder.clone())
                .or_default()
                .insert(agent.to_owned(), names.clone());
            drop(known);
            if let Err(error) = self.watching.watch(folder, RecursiveMode::NonRecursive) {
                let mut state = state.lock();
                if let Some(agents) = state.folders.get_mut(folder) {
                    agents.remove(agent);
                    if agents.is_empty() {
                        state.folders.remove(folder);
                    }
                }
                drop(state);
                match error.kind {
                    // Removed since it was listed: its parent tells of that.
                    notify::ErrorKind::PathNotFound => {
                        tracing::debug!(folder = %folder.display(), "is gone again");
                    }
                    notify::ErrorKind::MaxFilesWatch => {
                        self.tell(Cause::NoneLeft, agent, folder, None);
                    }
                    _ => self.tell(Cause::Refused, agent, folder, Some(&error)),
                }
            }
        }
    }

    fn tell(&mut self, cause: Cause, agent: &str, folder: &Path, error: Option<&notify::Error>) {
        if self.told.is_new(cause, agent) {
            let error = error.map(ToString::to_string);
            tracing::warn!(
                agent, folder = %folder.display(), error,
                "changes in some folders of memories are only noticed by the next search: {}", cause.said()
            );
        }
    }

    /// Watches its folders as they are once they are watched: one that came after its parent was listed and before that was watched
    /// told nobody. `false`: there were others each time.
    fn watch_all(&mut self, state: &Mutex<State>, agent: &str, shelf: &Shelf) -> bool {
        let list = || {
            let (max, seen_max) = (FOLDERS_OF_ONE_MAX, sources::SEEN_MAX);
            sources::folders(&shelf.workspace, &shelf.extra, max, seen_max)
        };
        let mut listed = list();
        let mut is_all = false;
        for _ in 0..ROUNDS_MAX {
            self.watch(state, agent, &listed.all);
            let now = list();
            is_all = now.all == listed.all;
            listed = now;
            if is_all {
                break;
            }
        }
        if let Some(cut) = listed.cut {
            let cause = match cut {
                Cut::TooMany => Cause::TooMany,
                Cut::TooLarge => Cause::TooLarge,
            };
            self.tell(cause, agent, &shelf.workspace, None);
        }
        is_all
    }

    /// What changed is read; an agent that is gone is left alone.
    fn follow(&mut self, app: &App, agent: &str) {
        let watching = &app.memories.watching;
        let facts = app.facts.load();
        let is_there = facts.inputs(0, 0).roster().get(agent).is_some();
        let Some(shelf) = is_there.then(|| Shelf::of(&facts, agent)).flatten() else {
            self.watch(&watching.state, agent, &BTreeMap::new());
            watching.state.lock().agents.remove(agent);
            self.told.forget(agent);
            return;
        };
        if !self.watch_all(&watching.state, agent, &shelf) {
            watching.again(agent);
        }
        match read::catch_up(&app.memories, &shelf) {
            Ok(counts) => tracing::debug!(agent, ?counts, "changed files of a memory were read"),
            Err(error) => {
                tracing::warn!(agent, %error, "changed files of a memory can't be read; the next search tries again");
            }
        }
    }
}

/// Reads what changes as long as the gateway runs.
pub(crate) async fn keep(app: Arc<App>) {
    // Nothing is asked of the system before somebody has a memory.
    let mut watches = None;
    loop {
        for agent in app.memories.watching.settled().await {
            let mut current = match watches.take() {
                Some(watches) => watches,
                None => match Watches::new(&app) {
                    Ok(watches) => watches,
                    Err(error) => {
                        tracing::warn!(%error, "folders of memories can't be watched: changes are only noticed by the next search");
                        return;
                    }
                },
            };
            let (its, whose) = (Arc::clone(&app), agent.clone());
            let followed = tokio::task::spawn_blocking(move || {
                current.follow(&its, &whose);
                current
            });
            match followed.await {
                Ok(current) => watches = Some(current),
                Err(error) => {
                    tracing::error!(
                        agent, %error,
                        "reading a changed memory panicked; it is watched again from its next search on, others' at once"
                    );
                    app.memories.watching.begin_anew(&agent);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, DataChange, Flag, RenameMode};
    use std::ffi::OsString;

    #[test]
    fn an_event_is_of_those_who_read_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let there = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir(there("folder")).unwrap();
        std::fs::write(there("file"), "").unwrap();
        let watching = Watching::default();
        {
            let mut state = watching.state.lock();
            let all = Names::All;
            let only = Names::These(["only.md", "team"].map(OsString::from).into());
            for (folder, agents, names) in [
                (Path::new("/a"), &["ada"][..], &all),
                (Path::new("/both"), &["ada", "bob"][..], &all),
                (dir.path(), &["ada"][..], &all),
                (Path::new("/home"), &["bob"][..], &only),
            ] {
                let agents = agents
                    .iter()
                    .map(|agent| ((*agent).to_owned(), names.clone()));
                state.folders.insert(folder.into(), agents.collect());
            }
            state.agents = ["ada", "bob", "eve"].map(|id| (id.to_owned(), 0)).into();
        }
        let told = |event: notify::Event| {
            watching.tell(Ok(event));
            let whose = std::mem::take(&mut watching.state.lock().changed);
            whose.into_iter().collect::<Vec<_>>().join(" ")
        };
        let of = |kind: EventKind, path: &str| told(notify::Event::new(kind).add_path(path.into()));
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert_eq!(of(data, "/a/MEMORY.md"), "ada");
        assert_eq!(of(data, "/both/x.md"), "ada bob");
        assert_eq!(of(data, "/both/deep/x.md"), "");
        assert_eq!(of(data, "/a/trace.log"), "");
        assert_eq!(of(EventKind::Access(AccessKind::Any), "/a/MEMORY.md"), "");
        assert_eq!(
            of(EventKind::Create(CreateKind::Folder), "/a/memory"),
            "ada"
        );
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert_eq!(of(renamed, "/a"), "ada");
        // Editors and programs rename files all the time.
        for (name, whose) in [
            ("folder", "ada"),
            ("file", ""),
            ("gone", ""),
            ("gone.md", "ada"),
        ] {
            assert_eq!(of(renamed, &there(name)), whose, "{name}");
        }
        for (name, whose) in [
            ("only.md", "bob"),
            ("team", "bob"),
            ("other.md", ""),
            ("x", ""),
        ] {
            for kind in [data, renamed, EventKind::Create(CreateKind::Folder)] {
                assert_eq!(of(kind, &format!("/home/{name}")), whose, "{name} {kind:?}");
            }
        }
        assert_eq!(
            of(EventKind::Remove(RemoveKind::Folder), "/both"),
            "ada bob"
        );
        let lost = notify::Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(told(lost), "ada bob eve");
    }

    #[test]
    fn when_all_watches_are_gone_the_others_are_watched_anew() {
        let watching = Watching::default();
        {
            let mut state = watching.state.lock();
            state.agents = ["ada", "bob", "eve"].map(|id| (id.to_owned(), 0)).into();
            state.folders.insert("/a".into(), BTreeMap::new());
            state.changed.insert("ada".to_owned());
        }
        watching.begin_anew("ada");
        let state = watching.state.lock();
        assert!(state.folders.is_empty() && !state.agents.contains_key("ada"));
        let changed: Vec<&String> = state.changed.iter().collect();
        assert_eq!(changed, ["bob", "eve"]);
    }

    #[test]
    fn no_cause_keeps_another_from_being_said() {
        let mut told = Told::default();
        let mut said = |cause: Cause, agent: &str| told.is_new(cause, agent);
        for cause in [Cause::TooManyOfAll, Cause::NoneLeft] {
            assert_eq!([said(cause, "ada"), said(cause, "bob")], [true, false]);
        }
        for cause in [Cause::TooMany, Cause::TooLarge, Cause::Refused] {
            assert_eq!([said(cause, "ada"), said(cause, "ada")], [true, false]);
            assert!(said(cause, "bob"));
        }
    }
}
