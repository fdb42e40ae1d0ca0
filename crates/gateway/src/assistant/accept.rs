//! How a run is taken: among those of its session, on disk, and to its turn or into the line.

use std::sync::Arc;

use agent::ModelError;
use serde_json::{Value, json};
use store::{AgentSession, Begun, Entry, Run, RunState};
use wire::error::{ErrorCode, ErrorShape};

use super::freshness::{self, Policy};
use super::queue::{self, Waiting};
use super::{Assistant, Input, Live, Outcome, clock_ms, ended, events, rows, run, unavailable};
use crate::app::App;

/// Turns that work or wait at once; one more is refused.
pub(super) const RUNS_MAX: usize = 512;
/// A longer message is refused.
const MESSAGE_CHARS_MAX: usize = 1_000_000;
/// Of a run that a fault of ours ended.
pub(super) const BROKEN: &str = "the gateway failed at this: its log says where; send it again";

/// Where a run stands among those of its session.
pub(super) enum Entered {
    First,
    /// Others work or wait.
    Behind,
    /// It is there already.
    Known(Arc<Live>),
}

/// What became of a turn that was asked for.
pub(crate) enum Accepted {
    Started(Arc<Live>),
    /// The same turn is at work.
    InFlight(Arc<Live>),
    /// The same turn has ended.
    Ended(Run),
}

/// A run that has entered and not begun: dropped, also by a panic, it ends, and nobody waits for it in vain.
struct Entering(Option<(Arc<Assistant>, Arc<Live>)>);

impl Drop for Entering {
    fn drop(&mut self) {
        if let Some((assistant, live)) = &self.0 {
            assistant.finish(live, Outcome::failed(BROKEN, live.started_ms));
        }
    }
}

impl Assistant {
    /// Notes a run that works or waits from here on.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn enter(&self, live: &Arc<Live>) -> Result<Entered, ErrorShape> {
        let mut lives = self.live.lock();
        if let Some(known) = lives.get(&live.run_id) {
            return Ok(Entered::Known(Arc::clone(known)));
        }
        if lives.len() >= RUNS_MAX {
            return Err(ErrorShape::retryable(
                format!("{RUNS_MAX} turns are at work already"),
                Some(1000),
            ));
        }
        let mut others = lives.values();
        let is_behind = others.any(|other| other.session_key == live.session_key);
        lives.insert(live.run_id.clone(), Arc::clone(live));
        Ok(match is_behind {
            true => Entered::Behind,
            false => Entered::First,
        })
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
        self.look(app).await;
        let session = self.session(&input.session_key).await?;
        let own = session.as_ref().map(rows::settings).unwrap_or_default();
        // A model that can't be called is told before anything is written.
        let chosen = input.model.as_deref().or_else(|| own["model"].as_str());
        self.model(app, &input.agent, chosen)
            .map_err(|error| unusable(&error))?;
        let live = Arc::new(Live::new(
            &input.run_id,
            &input.session_key,
            input.client.is_some(),
        ));
        let waits = match self.enter(&live)? {
            Entered::First => false,
            Entered::Behind => true,
            Entered::Known(known) => {
                return self.same(&input, Accepted::InFlight(known)).await;
            }
        };
        // What has entered begins or ends, also when whoever asked for it is gone meanwhile: a client of an HTTP request that
        // leaves takes this call with it.
        let (app, assistant) = (Arc::clone(app), Arc::clone(self));
        let begins = tokio::spawn(async move {
            let mut entering = Entering(Some((Arc::clone(&assistant), Arc::clone(&live))));
            let accepted = assistant.begin(&app, input, &own, live, waits).await;
            entering.0 = None;
            accepted
        });
        begins.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a run could not begin");
            Err(ErrorShape::new(ErrorCode::Unavailable, BROKEN))
        })
    }

    /// Begins a run that has entered, or ends it.
    async fn begin(
        self: &Arc<Self>,
        app: &Arc<App>,
        input: Input,
        own: &Value,
        live: Arc<Live>,
        waits: bool,
    ) -> Result<Accepted, ErrorShape> {
        let now = clock_ms();
        let entry = rows::user(&input, now);
        let begun = match self.write(app, &input, &entry, waits, now).await {
            Ok((begun, session, was_over)) => {
                if was_over {
                    self.servers.retire(&input.session_key);
                    events::session_changed(app, self, &session, "reset");
                }
                let begun = self.reopened(begun).await;
                begun.map(|begun| (begun, session))
            }
            Err(error) => Err(error),
        };
        let refused = |error: ErrorShape| {
            self.finish(&live, Outcome::failed(&error.message, live.started_ms));
            error
        };
        match begun.map_err(refused)? {
            (Begun::Conflict, _) => Err(refused(conflict())),
            (Begun::Known(run), _) => {
                self.finish(&live, ended(&run));
                Ok(Accepted::Ended(run))
            }
            (Begun::New, session) => {
                if waits {
                    let settings = match input.queue {
                        true => {
                            let facts = app.facts.load();
                            queue::settings::Settings::of(&facts.config, own, "webchat")
                        }
                        false => queue::settings::Settings::SERIAL,
                    };
                    live.waits.send_replace(true);
                    let waiting = Waiting {
                        input,
                        live: Arc::clone(&live),
                        entry,
                        settings,
                    };
                    queue::wait(app, self, waiting);
                    events::session_changed(app, self, &session, "send");
                } else {
                    events::session_changed(app, self, &session, "send");
                    let (app, live) = (Arc::clone(app), Arc::clone(&live));
                    tokio::spawn(run::run(app, Arc::clone(self), live, input));
                }
                Ok(Accepted::Started(live))
            }
        }
    }

    /// Puts a run and its input on disk: as a line of the conversation, or as a note on the run while it `waits`.
    async fn write(
        &self,
        app: &App,
        input: &Input,
        entry: &Entry,
        waits: bool,
        now: i64,
    ) -> Result<(Begun, AgentSession, bool), ErrorShape> {
        let may_end = !waits && freshness::asks_in_person(input);
        let facts = app.facts.load_full();
        let (run_id, key, agent) = (
            input.run_id.clone(),
            input.session_key.clone(),
            input.agent.clone(),
        );
        let (print, entry) = (fingerprint(input), entry.clone());
        self.store
            .write(move |tx| {
                let agents = tx.agents();
                let fresh = uuid::Uuid::new_v4().to_string();
                let mut session = agents.open(&key, &agent, &fresh, now)?;
                let mut was_over = false;
                if may_end && agents.run(&run_id)?.is_none() {
                    let route = tx.sessions().get(&key)?;
                    let channel = route.as_ref().map(|route| &*route.channel);
                    let policy = Policy::of(&facts.config, &key, channel);
                    if let Some(policy) = policy
                        && policy.ends(&agents, &session, now)?
                    {
                        agents.reset(&key, &uuid::Uuid::new_v4().to_string(), now)?;
                        session = agents.open(&key, &agent, &fresh, now)?;
                        was_over = true;
                    }
                }
                let begun = agents.begin(&run_id, &session, &print, now)?;
                match &begun {
                    Begun::New if waits => agents.note(&run_id, Some(&queue::note(&entry)))?,
                    Begun::New => drop(agents.append(&session.session_id, &entry)?),
                    Begun::Known(_) | Begun::Conflict => {}
                }
                Ok((begun, session, was_over))
            })
            .await
            .map_err(|error| unavailable(&error))
    }

    /// A run that a stop of the gateway ended and that is asked for again: its input is there, its work begins anew.
    async fn reopened(&self, begun: Begun) -> Result<Begun, ErrorShape> {
        let run_id = match &begun {
            Begun::Known(run) if interrupted(run) => run.run_id.clone(),
            _ => return Ok(begun),
        };
        let reopened = self
            .store
            .write(move |tx| {
                let (failure, asked) = (rows::failure_id(&run_id), rows::user_id(&run_id));
                tx.agents().reopen(&run_id, &failure, &asked)
            })
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(if reopened { Begun::New } else { begun })
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
}

/// Whether a stop of the gateway ended a run, and not the run itself.
fn interrupted(run: &Run) -> bool {
    let outcome: Option<Value> = run
        .outcome
        .as_deref()
        .and_then(|outcome| serde_json::from_str(outcome).ok());
    run.state == RunState::Accepted || outcome.is_some_and(|outcome| outcome["interrupted"] == true)
}

pub(super) fn fingerprint(input: &Input) -> String {
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

pub(super) fn conflict() -> ErrorShape {
    ErrorShape::invalid_request("This message ID was already used for different input. Check the conversation history and use a new message ID to send again.")
        .with_details(json!({ "reason": "chat-request-conflict" }))
}

fn unusable(error: &ModelError) -> ErrorShape {
    match error {
        ModelError::None => crate::native::alone::no_agent("chat.send"),
        other => ErrorShape::new(ErrorCode::Unavailable, other.to_string()),
    }
}
