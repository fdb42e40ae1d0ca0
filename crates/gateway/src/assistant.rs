//! Agents that this gateway runs itself: sessions, turns, what clients see of them.
//!
//! Runs here while no upstream is configured and a model is. A turn is accepted (session, run and input on disk)
//! before it is answered; turns of one session follow each other, turns of different sessions run side by side.
//! Source of shapes and order: answers and events of the original at 2026.9.6, as tests/assistant compares them.

mod commands;
mod events;
pub(crate) mod methods;
pub(crate) mod openai;
mod prompt;
mod rows;
mod run;
mod tools;
mod turn;

pub(crate) use tools::{beneath, may_use};

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agent::{Limits, Model, ModelError, Sampling};
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{AgentSession, Begun, Entry, Run, RunState, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::error::{ErrorCode, ErrorShape};

use crate::app::App;
use crate::clock;
use crate::native::agents::normalize_id;
use crate::native::sessions::agent_of;

/// Turns that work or wait at once; one more is refused.
const RUNS_MAX: usize = 512;
/// A longer message is refused.
const MESSAGE_CHARS_MAX: usize = 1_000_000;

/// Everything about agents of ours.
pub(crate) struct Assistant {
    store: Store,
    /// Made for the first turn: without one there is no need of certificates.
    client: OnceLock<reqwest::Client>,
    limits: Limits,
    live: Mutex<HashMap<String, Arc<Live>>>,
    /// One turn at a time for each session, in the order of their arrival.
    lanes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
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
    /// Changes with it.
    grown: watch::Sender<()>,
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
}

/// What a turn is to work on.
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
    /// Client id and mode, for the transcript.
    pub(crate) client: Option<(String, String)>,
    /// The model of this turn alone; else the session's choice, or the agent's.
    pub(crate) model: Option<String>,
    pub(crate) sampling: Sampling,
}

/// An attached picture.
pub(crate) struct Image {
    pub(crate) data: String,
    pub(crate) mime: String,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}, {} characters)", self.mime, self.data.len())
    }
}

/// What became of a turn that was asked for.
pub(crate) enum Accepted {
    Started(Arc<Live>),
    /// The same turn is at work.
    InFlight(Arc<Live>),
    /// The same turn has ended.
    Ended(Run),
}

impl Assistant {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            client: OnceLock::new(),
            limits: Limits::default(),
            live: Mutex::default(),
            lanes: Mutex::default(),
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
                    let stopped = "The gateway was stopped while this tool was called";
                    for entry in rows::unanswered(&entries, &run.run_id, stopped, now) {
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
        Model::resolve(&facts.config, agent, chosen, &|name| app.variable(name))
    }

    /// Accepts a turn: on disk when this answers.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        app: &Arc<App>,
        input: Input,
    ) -> Result<Accepted, ErrorShape> {
        if input.message.chars().count() > MESSAGE_CHARS_MAX {
            return Err(ErrorShape::invalid_request(format!(
                "the message is longer than {MESSAGE_CHARS_MAX} characters"
            )));
        }
        if let Some(live) = self.live(&input.run_id) {
            return self.same(&input, Accepted::InFlight(live)).await;
        }
        if self.live.lock().len() >= RUNS_MAX {
            return Err(ErrorShape::retryable(
                format!("{RUNS_MAX} turns are at work already"),
                Some(1000),
            ));
        }
        // A model that can't be called is told before anything is written.
        let chosen = match &input.model {
            Some(model) => Some(model.clone()),
            None => self.chosen(&input.session_key).await?,
        };
        self.model(app, &input.agent, chosen.as_deref())
            .map_err(|error| unusable(&error))?;
        let now = clock_ms();
        let (run_id, key, agent) = (
            input.run_id.clone(),
            input.session_key.clone(),
            input.agent.clone(),
        );
        let print = fingerprint(&input);
        let entry = rows::user(&input, now);
        let written = self
            .store
            .write(move |tx| {
                let agents = tx.agents();
                let fresh = uuid::Uuid::new_v4().to_string();
                let session = agents.open(&key, &agent, &fresh, now)?;
                let begun = agents.begin(&run_id, &session, &print, now)?;
                if begun == Begun::New {
                    agents.append(&session.session_id, &entry)?;
                }
                Ok((begun, session))
            })
            .await;
        let (mut begun, session) = written.map_err(|error| unavailable(&error))?;
        if let Begun::Known(run) = &begun
            && interrupted(run)
            && self.live(&run.run_id).is_none()
        {
            // Asked for again: the input is there, the work begins anew.
            let run_id = run.run_id.clone();
            let reopened = self
                .store
                .write(move |tx| tx.agents().reopen(&run_id, &rows::failure_id(&run_id)))
                .await
                .map_err(|error| unavailable(&error))?;
            if reopened {
                begun = Begun::New;
            }
        }
        match begun {
            Begun::Conflict => Err(conflict()),
            Begun::Known(run) => Ok(match self.live(&input.run_id) {
                Some(live) => Accepted::InFlight(live),
                None => Accepted::Ended(run),
            }),
            Begun::New => {
                let live = Arc::new(Live {
                    run_id: input.run_id.clone(),
                    session_key: input.session_key.clone(),
                    started_ms: clock::now_ms(),
                    cancel: CancellationToken::new(),
                    text: Mutex::default(),
                    grown: watch::Sender::new(()),
                    done: watch::Sender::new(None),
                });
                self.live
                    .lock()
                    .insert(live.run_id.clone(), Arc::clone(&live));
                events::session_changed(app, self, &session, "send");
                tokio::spawn(run::run(
                    Arc::clone(app),
                    Arc::clone(self),
                    Arc::clone(&live),
                    input,
                ));
                Ok(Accepted::Started(live))
            }
        }
    }

    /// Whether a known id came with the same input.
    async fn same(&self, input: &Input, accepted: Accepted) -> Result<Accepted, ErrorShape> {
        let (run_id, print) = (input.run_id.clone(), fingerprint(input));
        let known = self
            .store
            .read(move |reader| reader.agents().run(&run_id))
            .await
            .map_err(|error| unavailable(&error))?;
        match known {
            Some(run) if run.fingerprint != print => Err(conflict()),
            _ => Ok(accepted),
        }
    }

    /// The model that a session has chosen.
    async fn chosen(&self, key: &str) -> Result<Option<String>, ErrorShape> {
        let session = self.session(key).await?;
        Ok(session.and_then(|session| {
            rows::settings(&session)["model"]
                .as_str()
                .map(str::to_owned)
        }))
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

    /// Turns of a session, oldest first.
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
        live.done.send_replace(Some(Arc::new(outcome)));
    }

    /// Ends what is being worked on and begins the conversation of a key anew.
    pub(crate) async fn begin_anew(
        self: &Arc<Self>,
        app: &Arc<App>,
        key: &str,
    ) -> Result<AgentSession, ErrorShape> {
        for live in self.live_of(key) {
            live.abort();
            live.ended().await;
        }
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
    pub(crate) fn abort(&self) {
        self.cancel.cancel();
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

/// Whether a stop of the gateway ended a run, and not the run itself.
fn interrupted(run: &Run) -> bool {
    let outcome: Option<Value> = run
        .outcome
        .as_deref()
        .and_then(|outcome| serde_json::from_str(outcome).ok());
    run.state == RunState::Accepted || outcome.is_some_and(|outcome| outcome["interrupted"] == true)
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
    }
}

fn fingerprint(input: &Input) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in [&input.session_key, &input.message] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    for image in &input.images {
        context.update(image.data.as_bytes());
        context.update(&[0]);
    }
    context
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn clock_ms() -> i64 {
    i64::try_from(clock::now_ms()).unwrap_or(i64::MAX)
}

fn conflict() -> ErrorShape {
    ErrorShape::invalid_request("This message ID was already used for different input. Check the conversation history and use a new message ID to send again.")
        .with_details(json!({ "reason": "chat-request-conflict" }))
}

fn unavailable(error: &store::StoreError) -> ErrorShape {
    tracing::error!(%error, "the store of conversations failed");
    ErrorShape::retryable(format!("the conversation cannot be kept: {error}"), None)
}

fn unusable(error: &ModelError) -> ErrorShape {
    match error {
        ModelError::None => crate::native::alone::no_agent("chat.send"),
        other => ErrorShape::new(ErrorCode::Unavailable, other.to_string()),
    }
}

/// The agent that owns a session key.
fn agent_for(app: &App, session_key: &str) -> String {
    let facts = app.facts.load();
    let roster = facts.inputs(0, 0).roster();
    normalize_id(&agent_of(&roster, session_key))
}
