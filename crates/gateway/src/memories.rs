//! Agents' memories over the wire: `memory.*`, and `memory_search` and `memory_get` of `tools.invoke`.
//!
//! An agent's memory is the files of its workspace that the original reads too ([`sources`]), brought up to date before
//! each search, and what the `memory` commands keep for it. [`read`] answers, [`tools`] says it as the tools do.

mod extra;
pub(crate) mod folder;
pub(crate) mod http;
pub(crate) mod provider;
pub(crate) mod read;
mod shelf;
mod sources;
pub(crate) mod tools;
pub(crate) mod watching;

use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use memory::{Embedder, Memory, MemoryError, Usage};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wire::error::{ErrorCode, ErrorShape};

use crate::app::App;
use crate::bridge::UpstreamState;
use crate::dispatch::Session;
use crate::messages::methods::Task;
use crate::native::Facts;
use crate::native::agents::{Ownership, normalize_id};
use read::{Get, Search};
pub(crate) use shelf::Shelf;

/// The methods answered here.
pub(crate) const NAMES: [&str; 6] = [
    "memory.forget",
    "memory.get",
    "memory.index",
    "memory.search",
    "memory.status",
    "tools.invoke",
];
/// Source: src/gateway/server-methods/memory-search.ts at 2026.9.6.
const RESULTS_DEFAULT: usize = 20;
const RESULTS_MAX: usize = 50;
/// Open databases that are kept for the next call; more calls at once open their own.
const IDLE_MAX: usize = 4;

/// Where everything of all agents is kept.
pub(crate) fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("openclaw-rs").join("memory.sqlite")
}

fn client() -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("openclaw-gateway/", env!("CARGO_PKG_VERSION")))
        .use_preconfigured_tls(channels::web::tls_config())
        .build()
        .context("TLS can't be set up")
}

/// The database, open as often as calls need it at once: an index that stays open need not be read again.
#[derive(Debug)]
pub(crate) struct Memories {
    idle: Mutex<Vec<Idle>>,
    /// Agents whose memory is being indexed, so that no text is paid for twice.
    indexing: Mutex<HashSet<String>>,
    /// Of the agents that somebody is at.
    locks: Mutex<HashMap<String, Arc<Locks>>>,
    /// Of those who ask over HTTP.
    turns: Arc<Semaphore>,
    /// Of those of them who want an index.
    index_turns: Arc<Semaphore>,
    /// What embedding services were asked since the start.
    usage: Mutex<Usage>,
    watching: watching::Watching,
    pub(crate) keys: provider::Keys,
}

impl Default for Memories {
    fn default() -> Self {
        Self {
            idle: Mutex::default(),
            indexing: Mutex::default(),
            locks: Mutex::default(),
            turns: Arc::new(Semaphore::new(http::AT_ONCE)),
            index_turns: Arc::new(Semaphore::new(http::INDEXES_AT_ONCE)),
            usage: Mutex::default(),
            watching: watching::Watching::default(),
            keys: provider::Keys::default(),
        }
    }
}

/// What of one agent's memory is done by one at a time: a search, an index or the watcher.
#[derive(Debug, Default)]
struct Locks {
    /// Bringing the database up to the files; held for one transaction.
    files: Mutex<()>,
    /// Writing the words' index.
    index: Mutex<()>,
}

#[derive(Debug)]
struct Idle {
    /// Which file it is: one that was put in its place is another.
    inode: (u64, u64),
    memory: Memory,
}

/// An open database until it is dropped.
pub(crate) struct Lent<'a> {
    memories: &'a Memories,
    idle: Option<Idle>,
}

impl Memories {
    pub(crate) fn open(&self, file: &Path) -> Result<Lent<'_>, MemoryError> {
        let inode = || std::fs::metadata(file).map(|data| (data.dev(), data.ino()));
        let unusable = |why| MemoryError::Place {
            path: file.display().to_string(),
            why,
        };
        let idle = {
            let mut idle = self.idle.lock();
            idle.pop()
        };
        let idle = match idle {
            Some(idle) if inode().is_ok_and(|now| now == idle.inode) => idle,
            _ => {
                if let Some(folder) = file.parent() {
                    std::fs::create_dir_all(folder).map_err(unusable)?;
                }
                let memory = Memory::open(file)?;
                let inode = inode().map_err(unusable)?;
                Idle { inode, memory }
            }
        };
        Ok(Lent {
            memories: self,
            idle: Some(idle),
        })
    }

    /// What embedding services were asked since the start.
    pub(crate) fn usage(&self) -> Usage {
        *self.usage.lock()
    }

    /// Counts what an embedder was asked; an embedder is counted once, at its end.
    fn spent(&self, embedder: &dyn Embedder) -> Usage {
        let usage = embedder.usage();
        *self.usage.lock() += usage;
        usage
    }

    fn locks(&self, agent: &str) -> Arc<Locks> {
        let mut all = self.locks.lock();
        all.retain(|_, locks| Arc::strong_count(locks) > 1);
        Arc::clone(all.entry(agent.to_owned()).or_default())
    }

    /// `None`: somebody is at it.
    fn index_alone(&self, agent: &str) -> Option<Indexing<'_>> {
        let is_first = self.indexing.lock().insert(agent.to_owned());
        is_first.then(|| Indexing {
            memories: self,
            agent: agent.to_owned(),
        })
    }
}

impl Deref for Lent<'_> {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        let idle = self.idle.as_ref();
        &idle.expect("it is given back when this is dropped").memory
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Memory {
        let idle = self.idle.as_mut();
        &mut idle.expect("it is given back when this is dropped").memory
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // What a panic left is in an unknown state.
        if std::thread::panicking() {
            return;
        }
        let mut idle = self.memories.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.extend(self.idle.take());
        }
    }
}

struct Indexing<'a> {
    memories: &'a Memories,
    agent: String,
}

impl Drop for Indexing<'_> {
    fn drop(&mut self) {
        self.memories.indexing.lock().remove(&self.agent);
    }
}

/// Whether the rollout's percent decides who answers this call.
pub(crate) fn moves(app: &App, method: &str, params: Option<&RawValue>) -> bool {
    NAMES.contains(&method)
        && app.settings.load().memory_native
        && wire::methods::OWN.iter().all(|own| own.name != method)
        && (method != "tools.invoke" || is_our_tool(params))
}

fn is_our_tool(params: Option<&RawValue>) -> bool {
    params
        .and_then(tools::named)
        .is_some_and(|tool| tools::NAMES.contains(&tool.as_str()))
}

/// The task that answers this call. `None`: not of memories, or the upstream's.
pub(crate) fn find(
    app: &Arc<App>,
    session: &Session,
    method: &str,
    params: Option<&RawValue>,
) -> Option<Task> {
    let name = *NAMES.iter().find(|name| **name == method)?;
    let alone = matches!(&*app.upstream.borrow(), UpstreamState::Off);
    if wire::methods::OWN.iter().all(|own| own.name != name) {
        let chosen = app.settings.load().memory_native
            && crate::rollout::includes(crate::rollout::in_force(app), session.place);
        if !alone && !chosen {
            return None;
        }
    }
    if name == "tools.invoke" {
        let tool = params.and_then(tools::named);
        let is_ours = tool
            .as_deref()
            .is_some_and(|tool| tools::NAMES.contains(&tool));
        // Whatever else there is to invoke is the upstream's; without one only it could have it. Bad params are anybody's.
        let is_bad = || tool.is_none() || wire::schema::check(name, params).is_err();
        if alone && !is_ours && !is_bad() {
            let is_owner = session
                .principal
                .scopes
                .iter()
                .any(|scope| scope == "operator.admin");
            return Some(invoke(
                Arc::clone(app),
                params.map(ToOwned::to_owned),
                is_owner,
            ));
        }
        if !(is_ours || alone) {
            return None;
        }
    }
    let app = Arc::clone(app);
    let params = params.map(ToOwned::to_owned);
    Some(Box::pin(async move {
        let answer = tokio::task::spawn_blocking(move || serve(&app, name, params.as_deref()));
        match answer.await {
            Ok(answer) => answer.map(|answer| answer.to_string()),
            Err(error) => {
                tracing::error!(method = name, %error, "native method panicked; answered UNAVAILABLE");
                Err(ErrorShape::retryable(
                    format!("{name} failed inside the gateway; see its log"),
                    None,
                ))
            }
        }
    }))
}

/// Any tool of an agent of ours.
fn invoke(app: Arc<App>, params: Option<Box<RawValue>>, is_owner: bool) -> Task {
    Box::pin(async move {
        let params: Value = params
            .and_then(|params| serde_json::from_str(params.get()).ok())
            .unwrap_or_default();
        let answer = crate::assistant::invoke::invoke(&app, &params, "rpc", is_owner).await?;
        Ok(answer.to_string())
    })
}

fn serve(app: &App, method: &str, params: Option<&RawValue>) -> Result<Value, ErrorShape> {
    wire::schema::check(method, params)?;
    let params: Value = params
        .and_then(|params| serde_json::from_str(params.get()).ok())
        .unwrap_or_default();
    let facts = app.facts.load();
    let memories = &app.memories;
    match method {
        "memory.search" => search(memories, &facts, &params),
        "tools.invoke" => tools::invoke(memories, &facts, &params),
        "memory.get" => get(memories, &shelf(&facts, &params)?, &params),
        "memory.forget" => forget(memories, &shelf(&facts, &params)?, &params),
        "memory.index" => index(memories, &shelf(&facts, &params)?),
        _ => {
            let shelf = shelf(&facts, &params)?;
            read::status(memories, &shelf).map_err(|error| failed("status", &error))
        }
    }
}

/// Whose memory is meant.
///
/// # Errors
/// In the original's words. Source: src/gateway/server-methods/memory-search.ts at 2026.9.6.
fn shelf(facts: &Facts, params: &Value) -> Result<Shelf, ErrorShape> {
    let roster = facts.inputs(0, 0).roster();
    let id = match params.get("agentId") {
        Some(Value::String(id)) => {
            let id = is_usable(id).then(|| normalize_id(id));
            id.filter(|id| roster.get(id).is_some())
                .ok_or_else(|| ErrorShape::invalid_request("unknown agentId"))?
        }
        Some(_) => return Err(ErrorShape::invalid_request("agentId must be a string")),
        None if roster.ownership == Ownership::Sole => roster.default_id,
        None => {
            return Err(ErrorShape::invalid_request(
                "Multiple agents are configured, but memory search has no explicit owner. Pass agentId to select a configured agent.",
            ));
        }
    };
    Shelf::of(facts, &id)
        .ok_or_else(|| ErrorShape::new(ErrorCode::Unavailable, "memory search unavailable"))
}

/// Whether anything of it is left when it is normalised.
fn is_usable(id: &str) -> bool {
    normalize_id(&format!("{id}a")) != "a"
}

fn failed(doing: &str, error: &MemoryError) -> ErrorShape {
    tracing::warn!(%error, doing, "a call about a memory failed");
    ErrorShape::new(
        ErrorCode::Unavailable,
        format!("memory {doing} failed: {error}"),
    )
}

fn search(memories: &Memories, facts: &Facts, params: &Value) -> Result<Value, ErrorShape> {
    let query = params["query"].as_str().map_or("", wire::raw::js_trim);
    if query.is_empty() {
        return Err(ErrorShape::invalid_request(
            "query must be a non-empty string",
        ));
    }
    let number = |name: &str| match params.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        Some(_) => Err(ErrorShape::invalid_request(
            "maxResults and minScore must be finite numbers when provided",
        )),
    };
    let (limit, min_score) = (number("maxResults")?, number("minScore")?);
    let shelf = shelf(facts, params)?;
    let asked = Search {
        query,
        limit: limit.map_or(RESULTS_DEFAULT, |limit| {
            (limit.max(1.0) as usize).min(RESULTS_MAX)
        }),
        min_score: min_score.unwrap_or(0.0),
        kinds: Vec::new(),
        words_only: params["lexicalOnly"] == true,
    };
    let answer =
        read::search(memories, &shelf, &asked).map_err(|error| failed("search", &error))?;
    let mut out = json!({
        "agentId": shelf.id, "provider": answer.provider, "searchMode": answer.mode(), "results": answer.results,
    });
    if let Some(warning) = answer.warning {
        out["warning"] = json!(warning);
    }
    Ok(out)
}

fn get(memories: &Memories, shelf: &Shelf, params: &Value) -> Result<Value, ErrorShape> {
    let lines = |name: &str| {
        let lines = params[name].as_u64();
        lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX))
    };
    let asked = Get {
        path: params["path"].as_str().unwrap_or_default(),
        from: lines("from"),
        lines: lines("lines"),
    };
    match read::get(memories, shelf, &asked) {
        Ok(mut answer) => {
            answer["agentId"] = json!(shelf.id);
            Ok(answer)
        }
        Err(refusal) => Err(ErrorShape::invalid_request(refusal.message)),
    }
}

fn index(memories: &Memories, shelf: &Shelf) -> Result<Value, ErrorShape> {
    let Some(alone) = memories.index_alone(&shelf.id) else {
        return Err(ErrorShape::retryable(
            format!("the memory of {} is being indexed already", shelf.id),
            Some(1000),
        ));
    };
    let answer = read::index(memories, shelf).map_err(|error| failed("index", &error));
    drop(alone);
    answer
}

fn forget(memories: &Memories, shelf: &Shelf, params: &Value) -> Result<Value, ErrorShape> {
    let paths: Vec<&str> = params["paths"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    read::forget(memories, shelf, &paths).map_err(|error| failed("forget", &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::Agent;

    #[test]
    fn a_database_stays_open_until_another_file_is_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        let (memories, main) = (Memories::default(), Agent::parse("main").unwrap());
        let kept = || memories.open(&file).unwrap().paths(&main, "").unwrap();
        memories
            .open(&file)
            .unwrap()
            .put(&main, "a.md", "a")
            .unwrap();
        assert_eq!(kept(), ["a.md"]);
        assert_eq!(memories.idle.lock().len(), 1);
        let two = [memories.open(&file).unwrap(), memories.open(&file).unwrap()];
        assert_eq!(memories.idle.lock().len(), 0);
        drop(two);
        assert_eq!(memories.idle.lock().len(), 2);
        // As a person who restores a copy.
        let other = dir.path().join("other.sqlite");
        Memory::open(&other)
            .unwrap()
            .put(&main, "b.md", "b")
            .unwrap();
        for end in ["-wal", "-shm"] {
            drop(std::fs::remove_file(format!("{}{end}", file.display())));
        }
        std::fs::rename(&other, &file).unwrap();
        assert_eq!(kept(), ["b.md"]);
    }

    #[test]
    fn one_agents_memory_is_indexed_once_at_a_time() {
        let memories = Memories::default();
        let first = memories.index_alone("main").unwrap();
        assert!(memories.index_alone("main").is_none());
        assert!(memories.index_alone("ada").is_some());
        drop(first);
        assert!(memories.index_alone("main").is_some());
    }

    #[test]
    fn a_watcher_and_an_index_wait_for_each_other_and_neither_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = dir.path().join("w");
        let facts = Facts {
            config: json!({ "agents": { "entries": { "a": { "workspace": workspace } } } }),
            state_dir: dir.path().into(),
            ..Facts::default()
        };
        let shelf = Shelf::of(&facts, "a").unwrap();
        let write = |text: &str| std::fs::write(workspace.join("MEMORY.md"), text).unwrap();
        std::fs::create_dir(&workspace).unwrap();
        write("- zebra\n");
        let memories = Memories::default();
        // An index asks a service for vectors meanwhile, for minutes maybe.
        let alone = memories.index_alone("a").unwrap();
        assert_eq!(read::catch_up(&memories, &shelf).unwrap().kept, 1);
        drop(alone);
        let locks = memories.locks("a");
        let watcher = (locks.files.lock(), locks.index.lock());
        write("- otter\n");
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| index(&memories, &shelf));
            drop(watcher);
            let answer = asked.join().unwrap().unwrap();
            assert_eq!(
                (&answer["kept"], &answer["pending"]),
                (&json!(1), &json!(0))
            );
        });
        drop(locks);
        drop(memories.locks("b"));
        assert_eq!(memories.locks.lock().len(), 1);
    }
}
