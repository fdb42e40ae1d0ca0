//! The folders that memories are read from, watched: what changes there is read without waiting for the next search.
//!
//! An agent is watched from the first call about its memory on. Folders are watched one by one, so that their number is
//! bounded, and no link is followed. A search looks for itself all the same: what could not be watched is only found later.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{CreateKind, EventKind, ModifyKind, RemoveKind};
use notify::{RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

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
    /// Which agents read a folder.
    folders: HashMap<PathBuf, BTreeSet<String>>,
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
        let mut state = self.state.lock();
        let whose: BTreeSet<String> = match &event {
            // The system lost some: anything may have changed.
            Err(_) => state.agents.keys().cloned().collect(),
            Ok(event) if event.need_rescan() => state.agents.keys().cloned().collect(),
            Ok(event) => {
                let paths = event.paths.iter();
                let folders = paths.filter_map(|path| state.whose(event.kind, path));
                folders.flatten().cloned().collect()
            }
        };
        if whose.is_empty() {
            return;
        }
        state.changed.extend(whose);
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
    fn whose(&self, kind: EventKind, path: &Path) -> Option<&BTreeSet<String>> {
        let is_folders = matches!(
            kind,
            EventKind::Create(CreateKind::Folder)
                | EventKind::Remove(RemoveKind::Folder)
                | EventKind::Modify(ModifyKind::Name(_))
        );
        if matches!(kind, EventKind::Access(_)) {
            return None;
        }
        if let Some(agents) = self.folders.get(path) {
            return Some(agents);
        }
        let is_markdown = path.extension().is_some_and(|end| end == "md");
        (is_markdown || is_folders)
            .then(|| self.folders.get(path.parent()?))
            .flatten()
    }
}

/// The system's watches, as [`State::folders`] says.
struct Watches {
    watching: notify::RecommendedWatcher,
    /// What could not be watched is said once.
    is_told: bool,
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
            is_told: false,
        })
    }

    /// Watches what this agent's memory is read from now. The state is never locked while the system is asked: whoever tells
    /// of changes waits for it.
    fn watch(&mut self, state: &Mutex<State>, agent: &str, folders: &BTreeSet<PathBuf>) {
        let mut left = Vec::new();
        {
            let mut state = state.lock();
            state.folders.retain(|folder, agents| {
                if !folders.contains(folder) && agents.remove(agent) && agents.is_empty() {
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
        for folder in folders {
            let is_full = {
                let state = state.lock();
                state.folders.len() >= FOLDERS_MAX && !state.folders.contains_key(folder)
            };
            if is_full {
                self.tell(folder, &format!("there are {FOLDERS_MAX} already"));
                return;
            }
            // Those that are watched too: another folder may have come in its place. It is known before anything is told of it.
            let mut known = state.lock();
            known
                .folders
                .entry(folder.clone())
                .or_default()
                .insert(agent.to_owned());
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
                    _ => self.tell(folder, &error),
                }
            }
        }
    }

    fn tell(&mut self, folder: &Path, why: &dyn std::fmt::Display) {
        if !self.is_told {
            tracing::warn!(
                folder = %folder.display(), %why,
                "changes in some folders of memories are only noticed by the next search (fs.inotify.max_user_watches may be raised, \
                 or memory.search.extraPaths name smaller folders)"
            );
        }
        self.is_told = true;
    }

    /// What changed is read; an agent that is gone is left alone.
    fn follow(&mut self, app: &App, agent: &str) {
        let facts = app.facts.load();
        let is_there = facts.inputs(0, 0).roster().get(agent).is_some();
        let Some(shelf) = is_there.then(|| Shelf::of(&facts, agent)).flatten() else {
            self.watch(&app.memories.watching.state, agent, &BTreeSet::new());
            app.memories.watching.state.lock().agents.remove(agent);
            return;
        };
        let folders = sources::folders(&shelf.workspace, &shelf.extra, FOLDERS_OF_ONE_MAX);
        if folders.len() >= FOLDERS_OF_ONE_MAX {
            let why = format!("agent {agent} has {FOLDERS_OF_ONE_MAX} or more");
            self.tell(&shelf.workspace, &why);
        }
        self.watch(&app.memories.watching.state, agent, &folders);
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
            let its = Arc::clone(&app);
            let followed = tokio::task::spawn_blocking(move || {
                current.follow(&its, &agent);
                current
            });
            match followed.await {
                Ok(current) => watches = Some(current),
                Err(error) => {
                    tracing::error!(%error, "reading a changed memory panicked; the rest is watched anew");
                    let mut state = app.memories.watching.state.lock();
                    state.agents.clear();
                    state.folders.clear();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, DataChange, Flag, RenameMode};

    #[test]
    fn an_event_is_of_those_who_read_its_folder() {
        let watching = Watching::default();
        {
            let mut state = watching.state.lock();
            for (folder, agents) in [("/a", &["ada"][..]), ("/both", &["ada", "bob"])] {
                let agents = agents.iter().map(|agent| (*agent).to_owned());
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
        assert_eq!(of(renamed, "/a/memory"), "ada");
        assert_eq!(
            of(EventKind::Remove(RemoveKind::Folder), "/both"),
            "ada bob"
        );
        let lost = notify::Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(told(lost), "ada bob eve");
    }
}
