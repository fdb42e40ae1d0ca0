//! The work of a turn: the model is asked, its tools are called, until it answers without calling one.
//!
//! A call is on disk before the tool is, and its result before the model hears of it: after a crash the conversation
//! shows what was begun, and nothing is done again that nobody knows of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::{CallError, Completion, Model, ModelError, Part, Piece, Prompt, ToolCall, Usage};
use serde_json::json;
use store::{AgentSession, Entry, RunState};

use super::events::{self, Teller, Tooling};
use super::tools::{self, Loops, Origin, Toolbox, Verdict};
use super::{Assistant, Input, Live, clock_ms, prompt, rows};
use crate::app::App;
use crate::clock;

/// Tries before a provider that refuses or is away is given up.
const TRIES: u32 = 3;
/// A provider that asks for a longer pause is not waited for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The same, while another model could be asked instead.
const PAUSE_MAX_WITH_ANOTHER: Duration = Duration::from_secs(2);
/// Times that one turn may ask the model.
const ROUNDS_MAX: usize = 100;
/// The whole text is sent with every piece, as clients expect. So that a long answer does not flood them, pieces of
/// it are joined until this many bytes a second suffice.
const STREAM_BYTES_PER_S: f64 = 4_000_000.0;

/// What is known of a turn when it ends.
pub(super) struct Ended {
    pub(super) state: RunState,
    pub(super) completion: Completion,
    pub(super) error: Option<String>,
    /// That answered, or was asked last.
    pub(super) model: Option<Model>,
}

impl Ended {
    pub(super) fn failed(why: String) -> Self {
        Self {
            state: RunState::Error,
            completion: Completion::default(),
            error: Some(why),
            model: None,
        }
    }
}

/// What a turn has done so far, however it ends.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Of all answers.
    pub(super) usage: Usage,
    pub(super) rounds: usize,
    /// Tools that did what they were called for, each once.
    pub(super) tools: Vec<String>,
    /// Provider and model that were asked first.
    pub(super) requested: Option<(String, String)>,
    /// A tool changed something: doing the turn again is not the same as doing it once.
    pub(super) has_effects: bool,
}

/// What a turn works with.
pub(super) struct Turn<'a> {
    pub(super) app: &'a Arc<App>,
    pub(super) assistant: &'a Arc<Assistant>,
    pub(super) live: &'a Live,
    pub(super) input: &'a Input,
    pub(super) session: &'a AgentSession,
    pub(super) started_ms: u64,
}

impl Turn<'_> {
    pub(super) async fn work(&self, teller: &mut Teller, progress: &mut Progress) -> Ended {
        teller.status("preparing_workspace");
        let mut models = match self.models() {
            Ok(models) => models,
            Err(error) => return Ended::failed(error.to_string()),
        };
        let mut model = models.remove(0);
        progress.requested = Some((model.provider.clone(), model.id.clone()));
        teller.status("preparing_context");
        let entries = self
            .assistant
            .entries(&self.session.session_id, prompt::ENTRIES_MAX)
            .await;
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return Ended::failed(error.message),
        };
        let facts = self.app.facts.load_full();
        let origin = match self.input.client {
            Some(_) => Origin::Operator,
            None => Origin::Channel,
        };
        let toolbox = Toolbox::of(
            &facts,
            &self.app.memories,
            &self.input.agent,
            &self.input.session_key,
            &model,
            origin,
        );
        let roster = facts.inputs(0, 0).roster();
        let entry = roster.get(&self.input.agent).map(|agent| &agent.entry);
        let mut loops = Loops::new(&facts.config, entry);
        let mut prompt = self.prompt(&toolbox).await;
        let instructions = prompt.messages.clone();
        teller.lifecycle(json!({ "phase": "start", "startedAt": self.started_ms }));
        teller.status("starting_model");
        let end = |state, completion, error, model: &Model| Ended {
            state,
            completion,
            error,
            model: Some(model.clone()),
        };
        loop {
            prompt.messages = instructions.clone();
            prompt
                .messages
                .extend(prompt::conversation(&entries, &model));
            self.add_images(&mut prompt, &model);
            teller.asks(&model.provider, &model.id);
            let completion = match self.ask(&model, &prompt, teller, !models.is_empty()).await {
                Ok(completion) => completion,
                Err((error, true)) if !models.is_empty() => {
                    let next = models.remove(0);
                    tracing::warn!(
                        run = %self.input.run_id, %error,
                        "{}/{} can't answer; {}/{} is asked", model.provider, model.id, next.provider, next.id
                    );
                    model = next;
                    continue;
                }
                Err((error, _)) => return end(RunState::Error, self.said(), Some(error), &model),
            };
            progress.usage.add(&completion.usage);
            progress.rounds += 1;
            teller.usage(progress.usage.output);
            if completion.calls.is_empty() {
                return end(RunState::Ok, completion, None, &model);
            }
            if progress.rounds >= ROUNDS_MAX {
                let why = format!(
                    "the turn was ended: after {ROUNDS_MAX} rounds of tool calls there was no answer"
                );
                return end(RunState::Error, self.said(), Some(why), &model);
            }
            let intent = rows::answer(&self.input.run_id, &completion, Some(&model), clock_ms());
            if let Err(why) = self.record(&mut entries, intent, true).await {
                return end(RunState::Error, self.said(), Some(why), &model);
            }
            for call in &completion.calls {
                let called = self
                    .call(&toolbox, call, teller, progress, &mut loops)
                    .await;
                let (result, stop) = called;
                if let Err(why) = self.record(&mut entries, result, false).await {
                    return end(RunState::Error, self.said(), Some(why), &model);
                }
                if let Some(why) = stop {
                    return end(RunState::Error, self.said(), Some(why), &model);
                }
            }
        }
    }

    /// The model that was chosen, and those to ask when it can't answer. A fallback that can't be called is left out.
    fn models(&self) -> Result<Vec<Model>, ModelError> {
        let chosen = self.input.model.clone().or_else(|| {
            rows::settings(self.session)["model"]
                .as_str()
                .map(str::to_owned)
        });
        let model = |name: Option<&str>| self.assistant.model(self.app, &self.input.agent, name);
        let mut models = vec![model(chosen.as_deref())?];
        let facts = self.app.facts.load();
        for name in Model::fallbacks(&facts.config, &self.input.agent, chosen.as_deref()) {
            match model(Some(&name)) {
                Ok(model) if !models.contains(&model) => models.push(model),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a fallback model is left out"),
            }
        }
        Ok(models)
    }

    /// Instructions and tools; the conversation comes after them.
    async fn prompt(&self, toolbox: &Toolbox) -> Prompt {
        let facts = self.app.facts.load_full();
        let (agent, extra) = (self.input.agent.clone(), self.input.extra_system.clone());
        let tools = toolbox.list();
        let known = tools.clone();
        let system =
            tokio::task::spawn_blocking(move || prompt::system(&facts, &agent, &known, extra))
                .await
                .unwrap_or_default();
        Prompt {
            messages: vec![agent::Message::text("system", system)],
            tools,
            sampling: self.input.sampling.clone(),
        }
    }

    /// The pictures of this turn, beside what was said with them.
    fn add_images(&self, prompt: &mut Prompt, model: &Model) {
        let asked = prompt
            .messages
            .iter_mut()
            .rfind(|message| message.role == "user");
        if let Some(asked) = asked
            && model.takes_images
        {
            asked
                .parts
                .extend(self.input.images.iter().map(|image| Part::Image {
                    data: image.data.clone(),
                    mime: image.mime.clone(),
                }));
        }
    }

    /// What there is of an answer that does not end.
    pub(super) fn said(&self) -> Completion {
        Completion {
            text: self.live.text().trim_end().to_owned(),
            ..Completion::default()
        }
    }

    /// Asks until there is an answer, something of one, or no hope of one: why, and whether another model may do better.
    async fn ask(
        &self,
        model: &Model,
        prompt: &Prompt,
        teller: &mut Teller,
        has_another: bool,
    ) -> Result<Completion, (String, bool)> {
        let before = self.live.text.lock().len();
        let (tries_max, pause_max) = match has_another {
            true => (TRIES - 1, PAUSE_MAX_WITH_ANOTHER),
            false => (TRIES, PAUSE_MAX),
        };
        let mut tries = 1;
        loop {
            let error = match self.ask_once(model, prompt, teller).await {
                Ok(completion) => return Ok(completion),
                Err(error) => error,
            };
            let begun = self.live.text.lock().len() > before;
            let pause = error
                .retry_after()
                .unwrap_or(Duration::from_millis(250 * u64::from(tries * tries)));
            tracing::warn!(run = %self.input.run_id, %error, tries, "a model call failed");
            if begun || !error.is_retryable() || tries >= tries_max || pause > pause_max {
                return Err((error.to_string(), !begun && error.is_another_s_chance()));
            }
            tries += 1;
            tokio::time::sleep(pause).await;
        }
    }

    async fn ask_once(
        &self,
        model: &Model,
        prompt: &Prompt,
        teller: &mut Teller,
    ) -> Result<Completion, CallError> {
        let client = self
            .assistant
            .client()
            .map_err(|why| CallError::Unreachable {
                provider: model.provider.clone(),
                why,
            })?;
        let mut stream = Stream {
            live: self.live,
            teller,
            from: None,
            told: 0,
            thought: String::new(),
            next: Instant::now(),
        };
        let limits = &self.assistant.limits;
        let mut completion =
            agent::complete(client, model, prompt, limits, |piece| stream.take(piece)).await?;
        stream.tell(true);
        completion.text.truncate(completion.text.trim_end().len());
        Ok(completion)
    }

    /// Calls a tool: its result, and why the turn ends with it when it does.
    async fn call(
        &self,
        toolbox: &Toolbox,
        call: &ToolCall,
        teller: &mut Teller,
        progress: &mut Progress,
        loops: &mut Loops,
    ) -> (Entry, Option<String>) {
        let row = rows::session(self.app, self.assistant, self.session);
        let tooling = Tooling {
            call,
            started_ms: clock::now_ms(),
            row: &row,
        };
        teller.tool_begins(&tooling);
        progress.has_effects |= tools::has_effects(&call.name);
        let mut answer = toolbox
            .call(&call.name, &call.arguments, &self.live.cancel)
            .await;
        teller.tool_ends(&tooling, &answer);
        if answer.error.is_none() && !progress.tools.contains(&call.name) {
            progress.tools.push(call.name.clone());
        }
        let stop = match loops.note(&call.name, &call.arguments, &answer.text) {
            Verdict::Fine => None,
            Verdict::Tell(words) => {
                answer.text.push_str(&words);
                None
            }
            Verdict::End(why) => Some(why),
        };
        let result = rows::result(
            &self.input.run_id,
            call,
            &answer.text,
            answer.kept.as_ref(),
            answer.error.is_some(),
            clock_ms(),
        );
        (result, stop)
    }

    /// Writes a line of the conversation; those who follow it are told when the original tells them.
    async fn record(
        &self,
        entries: &mut Vec<Entry>,
        entry: Entry,
        tell: bool,
    ) -> Result<(), String> {
        let (id, stored) = (self.session.session_id.clone(), entry.clone());
        let count = self
            .assistant
            .store
            .write(move |tx| {
                let agents = tx.agents();
                agents.append(&id, &stored)?;
                agents.entry_count(&id)
            })
            .await
            .map_err(|error| {
                tracing::error!(run = %self.input.run_id, %error, "a line of a turn could not be written");
                format!("the conversation cannot be kept: {error}")
            })?;
        if tell {
            let position = usize::try_from(count).unwrap_or(usize::MAX);
            events::session_message(self.app, self.assistant, self.session, &entry, position);
        }
        entries.push(entry);
        Ok(())
    }
}

/// Hands pieces on, joined when they come faster than clients could want them.
struct Stream<'a> {
    live: &'a Live,
    teller: &'a mut Teller,
    /// Where this answer begins in the text of the turn.
    from: Option<usize>,
    /// Bytes of the turn's text that clients have.
    told: usize,
    thought: String,
    next: Instant,
}

impl Stream<'_> {
    fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Text(text) => {
                let mut all = self.live.text.lock();
                if self.from.is_none() {
                    // What was said before a tool was called stands apart.
                    let blanks = all.trim_end().len();
                    all.truncate(blanks);
                    if !all.is_empty() {
                        all.push_str("\n\n");
                    }
                    self.from = Some(all.len());
                    self.told = all.len();
                }
                all.push_str(&text);
                drop(all);
                self.live.grown.send_replace(());
                self.tell(false);
            }
            Piece::Reasoning(text) => {
                self.thought.push_str(&text);
                self.teller.thinking(&self.thought, &text);
            }
        }
    }

    fn tell(&mut self, all: bool) {
        let Some(from) = self.from else { return };
        let now = Instant::now();
        // Blanks at the end wait for what follows them.
        let text = self.live.text.lock().trim_end().to_owned();
        if text.len() <= self.told || (!all && now < self.next) {
            return;
        }
        self.teller
            .assistant(&text[from..], &text, &text[self.told..]);
        self.told = text.len();
        self.next = now + Duration::from_secs_f64(text.len() as f64 / STREAM_BYTES_PER_S);
    }
}
