//! Agents that this gateway runs itself: sessions, turns, what clients see of them.
//!
//! Runs here while no upstream is configured and a model is. A turn is accepted (session, run and input on disk)
//! before it is answered; turns of one session follow each other, turns of different sessions run side by side.
//! Source of shapes and order: answers and events of the original at 2026.9.6, as tests/assistant compares them.

mod accept;
mod commands;
mod compact;
mod events;
pub(crate) mod exec;
mod found;
mod freshness;
pub(crate) mod invoke;
pub(crate) mod methods;
pub(crate) mod openai;
mod prompt;
mod queue;
mod rows;
mod run;
mod servers;
#[cfg(test)]
mod tests;
mod thinking;
mod tools;
mod turn;

pub(crate) use accept::Accepted;
pub(crate) use commands::is_command;
pub(crate) use compact::unhonoured as unhonoured_compaction;
pub(crate) use servers::{findings as server_findings, unhonoured as unhonoured_servers};
pub(crate) use tools::{PathGlob, beneath, may_use};

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agent::{Limits, Model, ModelError, Sampling};
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{AgentSession, Entry, Run, RunState, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::error::ErrorShape;

use self::accept::{BROKEN, Entered, RUNS_MAX, conflict, fingerprint};
use self::queue::Waiting;
use crate::app::App;
use crate::clock;
use crate::native::agents::normalize_id;
use crate::native::sessions::agent_of;

/// Begins the ids of runs that are heartbeats.
pub(crate) const HEARTBEAT_RUN: &str = "heartbeat:";

/// Everything about agents of ours.
pub(crate) struct Assistant {
    store: Store,
    execs: Arc<exec::Execs>,
    pub(crate) servers: Arc<servers::Servers>,
    /// Answers that OpenAI's clients may continue.
    continued: openai::Continued,
    /// Made for the first turn: without one there is no need of certificates.
    client: OnceLock<reqwest::Client>,
    limits: Limits,
    live: Mutex<HashMap<String, Arc<Live>>>,
    /// One turn at a time for each session, in the order of their arrival.
    lanes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Messages that wait for their turn.
    lines: queue::Lines,
    uncompacted: compact::Failures,
    offered: tools::Shared,
    /// Models that the user's file does not name.
    found: found::Found,
}

impl std::fmt::Debug for Assistant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assistant").finish_non_exhaustive()
    }
}

/// A turn that works or waits.
pub(crate) struct Live {
    pub(crate) run_id: String,
    pub(crate) session_key: String,
    pub(crate) started_ms: u64,
    cancel: CancellationToken,
    /// What has been said so far.
    text: Mutex<String>,
    /// How much of it is in the conversation, bytes.
    settled: AtomicUsize,
    /// Changes with it.
    grown: watch::Sender<()>,
    /// No turn has taken its message up yet.
    waits: watch::Sender<bool>,
    /// Called off for a newer message.
    is_interrupted: AtomicBool,
    /// Of somebody at a client: who writes in a chat need not be the owner.
    is_operator: bool,
    /// Messages for this turn, as long as it takes any.
    steered: Mutex<Option<VecDeque<Waiting>>>,
    /// The outcome, once there is one.
    done: watch::Sender<Option<Arc<Outcome>>>,
}

/// How a turn ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) state: RunState,
    /// The answer, or what there was of it.
    pub(crate) text: String,
    /// Why there is none.
    pub(crate) error: Option<String>,
    /// Begun by `chat.send`.
    pub(crate) is_chat: bool,
    pub(crate) ended_ms: u64,
    pub(crate) started_ms: u64,
    /// `result.meta` of the `agent` method.
    pub(crate) meta: Value,
    pub(crate) receipt: Value,
    pub(crate) stop_reason: String,
    /// Of the caller's tools, which the turn ended with.
    pub(crate) calls: Vec<agent::ToolCall>,
}

impl Outcome {
    /// Of what was not worked on.
    fn failed(why: &str, started_ms: u64) -> Self {
        Self {
            state: RunState::Error,
            error: Some(why.to_owned()),
            stop_reason: String::new(),
            ..Self::said(String::new(), started_ms)
        }
    }

    /// Of what was answered without a model.
    fn said(text: String, started_ms: u64) -> Self {
        Self {
            state: RunState::Ok,
            text,
            error: None,
            is_chat: true,
            ended_ms: clock::now_ms(),
            started_ms,
            meta: Value::Null,
            receipt: Value::Null,
            stop_reason: "stop".to_owned(),
            calls: Vec::new(),
        }
    }
}

/// What a turn is to work on.
#[derive(Clone)]
pub(crate) struct Input {
    pub(crate) run_id: String,
    pub(crate) session_key: String,
    pub(crate) agent: String,
    pub(crate) message: String,
    pub(crate) images: Vec<Image>,
    /// More for the system prompt, this time.
    pub(crate) extra_system: Option<String>,
    /// `chat.send` tells of its preparations, `agent` does not.
    pub(crate) is_chat: bool,
    /// `messages.queue` says what becomes of it while another turn works; else it waits for its own.
    pub(crate) queue: bool,
    /// Client id and mode, for the transcript.
    pub(crate) client: Option<(String, String)>,
    /// The model of this turn alone; else the session's choice, or the agent's.
    pub(crate) model: Option<String>,
    pub(crate) sampling: Sampling,
    /// Tools of who asks: a call of one ends the turn, and is theirs to make.
    pub(crate) caller_tools: Vec<agent::Tool>,
}

/// An attached picture.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) data: String,
    pub(crate) mime: String,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}, {} characters)", self.mime, self.data.len())
    }
}

impl Assistant {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            execs: Arc::new(exec::Execs::new(store.clone())),
            servers: Arc::default(),
            continued: openai::Continued::default(),
            store,
            client: OnceLock::new(),
            limits: Limits::default(),
            live: Mutex::default(),
            lanes: Mutex::default(),
            lines: queue::Lines::default(),
            uncompacted: compact::Failures::default(),
            offered: tools::Shared::default(),
            found: found::Found::default(),
        }
    }

    /// # Errors
    /// When TLS can't be set up.
    fn client(&self) -> Result<&reqwest::Client, String> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(8)
            .user_agent(concat!("openclaw-gateway/", env!("CARGO_PKG_VERSION")))
            .use_preconfigured_tls(channels::web::tls_config())
            .build()
            .map_err(|error| format!("model calls cannot be made: {error}"))?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Ends what a crash left open: the input is kept, and the conversation says what happened.
    /// `before`: when this process began, milliseconds since the epoch.
    pub(crate) async fn recover(&self, before: u64) -> Result<usize, store::StoreError> {
        let now = clock_ms();
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        self.store
            .write(move |tx| {
                let mut open = tx.agents().open_runs()?;
                open.retain(|run| run.started_ms < before);
                for run in &open {
                    let why = "the gateway was stopped while it worked on this; send it again";
                    let outcome = json!({ "error": why, "interrupted": true }).to_string();
                    tx.agents()
                        .end(&run.run_id, RunState::Error, &outcome, now)?;
                    let entries =
                        tx.agents()
                            .entries(&run.session_id, None, prompt::ENTRIES_MAX)?;
                    if let Some(input) = queue::noted(run) {
                        tx.agents().append(&run.session_id, &input)?;
                    }
                    let stopped = "The gateway was stopped while this tool was called";
                    for entry in rows::unanswered(&entries, run, stopped, now) {
                        tx.agents().append(&run.session_id, &entry)?;
                    }
                    let entry = rows::failure(&run.run_id, why, now);
                    tx.agents().append(&run.session_id, &entry)?;
                }
                Ok(open.len())
            })
            .await
    }

    /// The model that an agent's turns use, `chosen` by a session when it is.
    pub(crate) fn model(
        &self,
        app: &App,
        agent: &str,
        chosen: Option<&str>,
    ) -> Result<Model, ModelError> {
        let facts = app.facts.load();
        let known = self.known(&facts.config);
        Model::resolve(&known, agent, chosen, &|value| app.secret(value))
    }

    /// The model that a session's turns use (`wanted`, for one of them), and those to ask when it can't answer. A fallback
    /// that can't be called is left out.
    ///
    /// # Errors
    /// Why the first can't be called.
    fn models(
        &self,
        app: &App,
        session: &AgentSession,
        wanted: Option<&str>,
    ) -> Result<Vec<Model>, ModelError> {
        let settings = rows::settings(session);
        let chosen = wanted.or_else(|| settings["model"].as_str());
        let model = |name: Option<&str>| self.model(app, &session.agent, name);
        let mut models = vec![model(chosen)?];
        let facts = app.facts.load();
        for name in Model::fallbacks(&facts.config, &session.agent, chosen) {
            match model(Some(&name)) {
                Ok(model) if !models.contains(&model) => models.push(model),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a fallback model is left out"),
            }
        }
        Ok(models)
    }

    pub(crate) async fn session(&self, key: &str) -> Result<Option<AgentSession>, ErrorShape> {
        let key = key.to_owned();
        self.store
            .read(move |reader| reader.agents().session(&key))
            .await
            .map_err(|error| unavailable(&error))
    }

    async fn entries(&self, session_id: &str, limit: usize) -> Result<Vec<Entry>, ErrorShape> {
        let id = session_id.to_owned();
        self.store
            .read(move |reader| reader.agents().entries(&id, None, limit))
            .await
            .map_err(|error| unavailable(&error))
    }

    pub(crate) fn live(&self, run_id: &str) -> Option<Arc<Live>> {
        self.live.lock().get(run_id).cloned()
    }

    /// Turns of a session that work or wait, oldest first.
    pub(crate) fn live_of(&self, session_key: &str) -> Vec<Arc<Live>> {
        let mut live: Vec<Arc<Live>> = self
            .live
            .lock()
            .values()
            .filter(|live| live.session_key == session_key)
            .cloned()
            .collect();
        live.sort_by_key(|live| live.started_ms);
        live
    }

    /// Whether a turn of an agent works or waits.
    pub(crate) fn is_at_work(&self, app: &App, agent: &str) -> bool {
        let lives = self.live.lock();
        lives
            .values()
            .any(|live| agent_for(app, &live.session_key) == agent)
    }

    fn lane(&self, session_key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut lanes = self.lanes.lock();
        // What nobody holds and nobody waits for is not kept.
        if lanes.len() > RUNS_MAX {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        Arc::clone(lanes.entry(session_key.to_owned()).or_default())
    }

    fn finish(&self, live: &Live, outcome: Outcome) {
        self.live.lock().remove(&live.run_id);
        live.taken_up();
        live.done.send_replace(Some(Arc::new(outcome)));
    }

    /// Ends what works and waits in a session.
    async fn call_off(&self, key: &str) {
        let all = self.live_of(key);
        all.iter().for_each(|live| live.abort());
        for live in all {
            live.ended().await;
        }
    }

    /// Ends what is being worked on and begins the conversation of a key anew.
    pub(crate) async fn begin_anew(
        self: &Arc<Self>,
        app: &Arc<App>,
        key: &str,
    ) -> Result<AgentSession, ErrorShape> {
        self.call_off(key).await;
        self.servers.retire(key);
        let (owned, agent, now) = (key.to_owned(), agent_for(app, key), clock_ms());
        let session = self
            .store
            .write(move |tx| {
                let agents = tx.agents();
                let fresh = uuid::Uuid::new_v4().to_string();
                agents.open(&owned, &agent, &fresh, now)?;
                agents.reset(&owned, &uuid::Uuid::new_v4().to_string(), now)?;
                agents.open(&owned, &agent, &fresh, now)
            })
            .await
            .map_err(|error| unavailable(&error))?;
        events::session_changed(app, self, &session, "reset");
        Ok(session)
    }

    /// Runs a turn for a message that came over a channel; answers when it has ended.
    ///
    /// # Errors
    /// Why it could not begin.
    pub(crate) async fn turn(
        self: &Arc<Self>,
        app: &Arc<App>,
        input: Input,
    ) -> Result<Outcome, ErrorShape> {
        match self.accept(app, input).await? {
            Accepted::Started(live) | Accepted::InFlight(live) => Ok(live.ended().await),
            Accepted::Ended(run) => Ok(ended(&run)),
        }
    }
}

impl Live {
    fn new(run_id: &str, session_key: &str, is_operator: bool) -> Self {
        Self {
            run_id: run_id.to_owned(),
            session_key: session_key.to_owned(),
            started_ms: clock::now_ms(),
            cancel: CancellationToken::new(),
            text: Mutex::default(),
            settled: AtomicUsize::new(0),
            grown: watch::Sender::new(()),
            waits: watch::Sender::new(false),
            is_interrupted: AtomicBool::new(false),
            is_operator,
            steered: Mutex::default(),
            done: watch::Sender::new(None),
        }
    }

    pub(crate) fn waits(&self) -> bool {
        *self.waits.borrow()
    }

    fn taken_up(&self) {
        self.waits.send_replace(false);
    }

    async fn no_longer_waits(&self) {
        // The sender lives as long as this.
        self.waits.subscribe().wait_for(|waits| !waits).await.ok();
    }

    /// Called off for a newer message.
    fn interrupt(&self) {
        self.is_interrupted.store(true, Ordering::Relaxed);
        self.abort();
    }

    fn is_interrupted(&self) -> bool {
        self.is_interrupted.load(Ordering::Relaxed)
    }

    /// From here on this turn takes messages.
    fn open_to_messages(&self) {
        *self.steered.lock() = Some(VecDeque::new());
    }

    /// Gives a message to this turn, or back.
    fn steer(&self, waiting: Waiting) -> Result<(), Box<Waiting>> {
        let mut steered = self.steered.lock();
        // Its tools are for who began it. Pictures stand beside the message they came with, which has a turn of its own.
        let fits = waiting.live.is_operator == self.is_operator
            && waiting.input.images.is_empty()
            && !self.cancel.is_cancelled();
        match steered.as_mut() {
            Some(steered) if fits && steered.len() < waiting.settings.cap => {
                steered.push_back(waiting);
                Ok(())
            }
            _ => Err(Box::new(waiting)),
        }
    }

    fn with_steered(&self, work: impl FnOnce(&mut VecDeque<Waiting>)) {
        if let Some(steered) = self.steered.lock().as_mut() {
            work(steered);
        }
    }

    fn has_messages(&self) -> bool {
        let steered = self.steered.lock();
        steered.as_ref().is_some_and(|steered| !steered.is_empty())
    }

    /// The messages that have come for this turn.
    fn messages(&self) -> VecDeque<Waiting> {
        let mut steered = self.steered.lock();
        steered.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// No more messages, unless some have come.
    fn closes(&self) -> bool {
        let mut steered = self.steered.lock();
        if steered.as_ref().is_some_and(|steered| !steered.is_empty()) {
            return false;
        }
        *steered = None;
        true
    }

    /// No more messages; those that were not taken up.
    fn close(&self) -> VecDeque<Waiting> {
        self.steered.lock().take().unwrap_or_default()
    }

    async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    pub(crate) fn abort(&self) {
        self.cancel.cancel();
    }

    /// What was said so far is in the conversation.
    fn settle(&self) {
        // Blanks at the end are cut when more is said.
        let said = self.text.lock().trim_end().len();
        self.settled.store(said, Ordering::Relaxed);
    }

    /// What was said and is not in the conversation.
    fn unsettled(&self) -> String {
        let text = self.text.lock();
        let rest = text.get(self.settled.load(Ordering::Relaxed)..);
        rest.unwrap_or(&text).trim().to_owned()
    }

    pub(crate) fn text(&self) -> String {
        self.text.lock().clone()
    }

    pub(crate) async fn ended(&self) -> Outcome {
        let mut done = self.done.subscribe();
        let outcome = done.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(outcome)) => Outcome::clone(outcome),
            // The sender lives as long as this.
            _ => unreachable!("a turn ends with an outcome"),
        }
    }
}

/// The outcome of a run, from what the store kept of it.
pub(crate) fn ended(run: &Run) -> Outcome {
    let kept: Value = run
        .outcome
        .as_deref()
        .and_then(|outcome| serde_json::from_str(outcome).ok())
        .unwrap_or_default();
    let text = |key: &str| kept[key].as_str().map(str::to_owned);
    let ms = |ms: i64| u64::try_from(ms).unwrap_or(0);
    Outcome {
        state: run.state,
        text: text("text").unwrap_or_default(),
        error: text("error"),
        is_chat: kept["chat"] == true,
        ended_ms: ms(run.ended_ms.unwrap_or(run.started_ms)),
        started_ms: ms(run.started_ms),
        meta: kept["meta"].clone(),
        receipt: kept["receipt"].clone(),
        stop_reason: text("stopReason").unwrap_or_default(),
        calls: Vec::new(),
    }
}

fn clock_ms() -> i64 {
    i64::try_from(clock::now_ms()).unwrap_or(i64::MAX)
}

fn unavailable(error: &store::StoreError) -> ErrorShape {
    tracing::error!(%error, "the store of conversations failed");
    ErrorShape::retryable(format!("the conversation cannot be kept: {error}"), None)
}

/// The agent that owns a session key.
fn agent_for(app: &App, session_key: &str) -> String {
    let facts = app.facts.load();
    let roster = facts.inputs(0, 0).roster();
    normalize_id(&agent_of(&roster, session_key))
}
