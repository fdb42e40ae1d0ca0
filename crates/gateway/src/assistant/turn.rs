//! The work of a turn: the model is asked, its tools are called, until it answers without calling one.
//!
//! A call is on disk before the tool is, and its result before the model hears of it: after a crash the conversation
//! shows what was begun, and nothing is done again that nobody knows of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::thinking::{Level, Profile};
use agent::{CallError, Completion, Model, ModelError, Part, Piece, Prompt, ToolCall, Usage};
use serde_json::{Value, json};
use store::{AgentSession, Entry, RunState};
use tokio::sync::mpsc;

use super::events::{self, Teller, Tooling};
use super::exec::Bench;
use super::tools::{self, Calling, Clock, Desk, Loops, Origin, Post, Toolbox, Verdict};
use super::{
    Assistant, Image, Input, Live, clock_ms, compact, freshness, prompt, queue, rows, thinking,
};
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

/// News of a tool that wait to be told; more are left out.
const TOLD_WAITING_MAX: usize = 16;

/// Pictures that tools answered in this turn, by their calls and the tools' names. They are not kept with the conversation.
type Pictures = Vec<(ToolCall, Vec<Image>)>;

/// Puts pictures behind the results they came with. As the original does it: in a message of its own, since most providers
/// take none in a result.
fn show(prompt: &mut Prompt, pictures: &Pictures, model: &Model) {
    if !model.takes_images || pictures.is_empty() {
        return;
    }
    let mut messages = Vec::with_capacity(prompt.messages.len());
    for message in prompt.messages.drain(..) {
        let results = message.parts.iter().filter_map(|part| match part {
            Part::Result(result) => Some(&result.call_id),
            _ => None,
        });
        let mut parts = Vec::new();
        for (at, id) in results.enumerate() {
            for (call, images) in pictures.iter().filter(|(call, _)| call.id == *id) {
                let words = format!("Image(s) from tool result #{} ({}):", at + 1, call.name);
                parts.push(Part::Text(words));
                parts.extend(images.iter().map(|image| Part::Image {
                    data: image.data.clone(),
                    mime: image.mime.clone(),
                }));
            }
        }
        messages.push(message);
        if !parts.is_empty() {
            let role = "user";
            messages.push(agent::Message { role, parts });
        }
    }
    prompt.messages = messages;
}

/// What is known of a turn when it ends.
pub(super) struct Ended {
    pub(super) state: RunState,
    pub(super) completion: Completion,
    pub(super) error: Option<String>,
    /// All that was said, where that is more than the last answer.
    pub(super) said: Option<String>,
    /// That answered, or was asked last.
    pub(super) model: Option<Model>,
}

impl Ended {
    pub(super) fn failed(why: String) -> Self {
        Self {
            state: RunState::Error,
            completion: Completion::default(),
            error: Some(why),
            said: None,
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

/// Why a model gave no answer.
struct Failure {
    why: String,
    /// Another model may do better.
    is_another_s_chance: bool,
    /// A shorter conversation may do better.
    is_too_long: bool,
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
        let client = self.input.client.as_ref();
        let is_at_a_client = client.is_some_and(|(id, _)| freshness::is_a_persons(id));
        let wanted = self.input.sampling.thinking.or_else(|| {
            // Who writes in a chat need not be the owner.
            let (level, _) = thinking::inline(&self.input.message).filter(|_| is_at_a_client)?;
            Some(level)
        });
        let refused = wanted.and_then(|level| thinking::refused(&model, level));
        // Nobody is there to choose another one for a job: it thinks as close to that as the model can.
        if let Some(why) = refused
            && (is_at_a_client || client.is_none())
        {
            return self.told(why, model);
        }
        progress.requested = Some((model.provider.clone(), model.id.clone()));
        teller.status("preparing_context");
        let entries = self.assistant.context(&self.session.session_id).await;
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return Ended::failed(error.message),
        };
        let facts = self.app.facts.load_full();
        let origin = match self.input.client {
            Some(_) => Origin::Operator,
            None => Origin::Channel,
        };
        let mut toolbox = Toolbox::of(
            &facts,
            &self.app.memories,
            &self.input.agent,
            &self.input.session_key,
            (&model.provider, &model.id),
            origin,
            Bench::new(
                self.app,
                &self.assistant.execs,
                &self.input.agent,
                &self.input.session_key,
                &self.input.run_id,
                origin,
            ),
        );
        // Who writes in a chat need not be the owner.
        if origin == Origin::Operator {
            toolbox = toolbox.with_clock(Clock {
                app: Arc::clone(self.app),
                agent: self.input.agent.clone(),
                session_key: self.input.session_key.clone(),
            });
            toolbox = toolbox.with_desk(Desk {
                app: Arc::clone(self.app),
                assistant: Arc::clone(self.assistant),
                agent: self.input.agent.clone(),
                session_key: self.input.session_key.clone(),
                run_id: self.input.run_id.clone(),
            });
        }
        let toolbox = toolbox.with_post(Post {
            app: Arc::clone(self.app),
            agent: self.input.agent.clone(),
            session_key: self.input.session_key.clone(),
            run_id: self.input.run_id.clone(),
            origin,
        });
        let servers = &self.assistant.servers;
        let offer = servers
            .offer(self.app, self.session, |server| toolbox.hides(server))
            .await;
        let toolbox = toolbox.with_servers(offer);
        let roster = facts.inputs(0, 0).roster();
        let entry = roster.get(&self.input.agent).map(|agent| &agent.entry);
        let mut loops = Loops::new(&facts.config, entry);
        let mut prompt = self.prompt(&toolbox).await;
        let instructions = prompt.messages.clone();
        let fixed = compact::fixed(&prompt);
        if compact::is_due(self.session, &entries, &model, fixed, &facts.config) {
            let all: Vec<Model> = [model.clone()].into_iter().chain(models.clone()).collect();
            // The original tells nobody of it before a turn, and of one in a turn it does.
            self.compact(&mut entries, &all, fixed, None).await;
        }
        let mut window = None;
        let mut pictures = Pictures::new();
        teller.lifecycle(json!({ "phase": "start", "startedAt": self.started_ms }));
        teller.status("starting_model");
        let end = |state, completion, error, model: &Model| Ended {
            state,
            completion,
            error,
            said: None,
            model: Some(model.clone()),
        };
        let mut answers = 0;
        let asked = rows::user_id(&self.input.run_id);
        loop {
            self.take_messages(&mut entries).await;
            prompt.messages = instructions.clone();
            prompt.messages.extend(prompt::conversation(
                &entries,
                &model,
                window.unwrap_or(model.context_window),
                (&asked, &self.input.images),
            ));
            show(&mut prompt, &pictures, &model);
            prompt.sampling.thinking = Some(self.thinking(&facts.config, &model, wanted));
            teller.asks(&model.provider, &model.id);
            let completion = match self.ask(&model, &prompt, teller, !models.is_empty()).await {
                Ok(completion) => completion,
                // Once: what the rough count missed, or a window that is smaller than it was said to be.
                Err(failure) if failure.is_too_long && window.is_none() => {
                    tracing::warn!(run = %self.input.run_id, error = %failure.why, "a conversation is too long for its model");
                    let all: Vec<Model> =
                        [model.clone()].into_iter().chain(models.clone()).collect();
                    self.compact(&mut entries, &all, fixed, Some(teller)).await;
                    window = Some(model.context_window / 2);
                    continue;
                }
                Err(failure) if failure.is_another_s_chance && !models.is_empty() => {
                    let next = models.remove(0);
                    tracing::warn!(
                        run = %self.input.run_id, error = %failure.why,
                        "{}/{} can't answer; {}/{} is asked", model.provider, model.id, next.provider, next.id
                    );
                    model = next;
                    continue;
                }
                Err(failure) => {
                    let why = match failure.is_too_long {
                        true => format!(
                            "{}. The conversation is too long for the model: /compact makes it shorter, /new begins another",
                            failure.why
                        ),
                        false => failure.why,
                    };
                    return end(RunState::Error, self.said(), Some(why), &model);
                }
            };
            progress.usage.add(&completion.usage);
            progress.rounds += 1;
            teller.usage(progress.usage.output);
            if completion.calls.is_empty() && (self.live.closes() || progress.rounds >= ROUNDS_MAX)
            {
                let said = (answers > 0).then(|| self.live.text().trim_end().to_owned());
                return Ended {
                    said,
                    ..end(RunState::Ok, completion, None, &model)
                };
            }
            if completion.calls.is_empty() {
                // Messages have come: they are answered in this turn.
                answers += 1;
                let answer =
                    rows::answer_before(&self.input.run_id, &completion, &model, clock_ms());
                if let Err(why) = self.record(&mut entries, answer, true).await {
                    return end(RunState::Error, self.said(), Some(why), &model);
                }
                self.live.settle();
                continue;
            }
            if progress.rounds >= ROUNDS_MAX {
                let why = format!(
                    "the turn was ended: after {ROUNDS_MAX} rounds of tool calls there was no answer"
                );
                return end(RunState::Error, self.said(), Some(why), &model);
            }
            let is_callers = |call: &ToolCall| {
                let mut tools = self.input.caller_tools.iter();
                tools.any(|tool| tool.name == call.name)
            };
            if completion.calls.iter().any(is_callers) {
                // What else was called for in the same answer is not begun: the caller's results may change it.
                let mut completion = completion;
                completion.calls.retain(is_callers);
                return end(RunState::Ok, completion, None, &model);
            }
            let intent = rows::answer(&self.input.run_id, &completion, Some(&model), clock_ms());
            if let Err(why) = self.record(&mut entries, intent, true).await {
                return end(RunState::Error, self.said(), Some(why), &model);
            }
            for (at, call) in completion.calls.iter().enumerate() {
                if at > 0 && self.live.has_messages() {
                    let skipped = rows::result(
                        &self.input.run_id,
                        call,
                        "Not called: a newer message of the person came first.",
                        None,
                        true,
                        clock_ms(),
                    );
                    if let Err(why) = self.record(&mut entries, skipped, false).await {
                        return end(RunState::Error, self.said(), Some(why), &model);
                    }
                    continue;
                }
                let called = self
                    .call(&toolbox, call, teller, progress, &mut loops)
                    .await;
                let (result, stop) = called;
                let shown = toolbox.pictures();
                if !shown.is_empty() {
                    pictures.push((call.clone(), shown));
                }
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
        let (app, wanted) = (self.app, self.input.model.as_deref());
        self.assistant.models(app, self.session, wanted)
    }

    /// How hard a model thinks in this turn: as this message says, or its session, or the configuration.
    fn thinking(&self, config: &Value, model: &Model, wanted: Option<Level>) -> Level {
        let own = rows::settings(self.session);
        match wanted.or_else(|| thinking::chosen(&own)) {
            Some(level) => Profile::of(model).nearest(level),
            None => model.thinking_default(config, &self.input.agent),
        }
    }

    /// A turn that is answered without a model: in the chat, or as an error to who asked by method.
    fn told(&self, why: String, model: Model) -> Ended {
        if !self.input.is_chat {
            return Ended::failed(why);
        }
        Ended {
            state: RunState::Ok,
            completion: Completion {
                text: why,
                stop_reason: "stop".to_owned(),
                ..Completion::default()
            },
            error: None,
            said: None,
            model: Some(model),
        }
    }

    /// Instructions and tools; the conversation comes after them.
    async fn prompt(&self, toolbox: &Toolbox) -> Prompt {
        let facts = self.app.facts.load_full();
        let (agent, extra) = (self.input.agent.clone(), self.input.extra_system.clone());
        let mut tools = toolbox.list();
        let callers = &self.input.caller_tools;
        tools.retain(|tool| callers.iter().all(|own| own.name != tool.name));
        tools.extend(callers.iter().cloned());
        let tools = self.assistant.offered.of(tools);
        let known = Arc::clone(&tools);
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

    /// What there is of an answer that does not end.
    pub(super) fn said(&self) -> Completion {
        Completion {
            text: self.live.unsettled(),
            ..Completion::default()
        }
    }

    /// Makes lines of the conversation of the messages that have come for this turn.
    async fn take_messages(&self, entries: &mut Vec<Entry>) {
        for waiting in self.live.messages() {
            let (app, assistant, session) = (self.app, self.assistant, self.session);
            let run_id = &self.input.run_id;
            entries.extend(queue::steered(app, assistant, session, run_id, waiting).await);
        }
    }

    /// Compacts what is older than this turn, unless that has just failed. What stays as it is and doesn't fit is left out of
    /// the prompt.
    async fn compact(
        &self,
        entries: &mut Vec<Entry>,
        models: &[Model],
        fixed: u64,
        mut teller: Option<&mut Teller>,
    ) {
        let failures = &self.assistant.uncompacted;
        if failures.is_recent(&self.session.session_id, Instant::now()) {
            return;
        }
        if let Some(teller) = &mut teller {
            teller.compaction(None);
        }
        let done = self.try_compact(entries, models, fixed).await;
        if let Some(teller) = teller {
            teller.compaction(Some(done));
        }
    }

    async fn try_compact(&self, entries: &mut Vec<Entry>, models: &[Model], fixed: u64) -> bool {
        let pending = rows::user_id(&self.input.run_id);
        let cause = compact::Cause::Full {
            pending: &pending,
            fixed,
        };
        let (app, assistant) = (self.app, self.assistant);
        match compact::compact(app, assistant, self.session, models, entries, cause).await {
            Ok(compacted) => {
                entries.push(compacted.entry);
                true
            }
            Err(why) => {
                if let compact::NotCompacted::Failed(_) = why {
                    let failures = &self.assistant.uncompacted;
                    failures.note(&self.session.session_id, Instant::now());
                }
                tracing::warn!(run = %self.input.run_id, %why, "a conversation was not compacted: the model is not shown its oldest part");
                false
            }
        }
    }

    /// Asks until there is an answer, something of one, or no hope of one.
    async fn ask(
        &self,
        model: &Model,
        prompt: &Prompt,
        teller: &mut Teller,
        has_another: bool,
    ) -> Result<Completion, Failure> {
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
                return Err(Failure {
                    why: error.to_string(),
                    is_another_s_chance: !begun && error.is_another_s_chance(),
                    is_too_long: !begun && error.is_too_long(),
                });
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
        progress.has_effects |= tools::has_effects(&call.name, &call.arguments);
        let (told, mut telling) = mpsc::channel(TOLD_WAITING_MAX);
        let calling = Calling {
            id: &call.id,
            cancel: &self.live.cancel,
            progress: &told,
        };
        let mut answer = {
            let work = toolbox.call(&call.name, &call.arguments, &calling);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    biased;
                    Some(doing) = telling.recv() => teller.tool_goes_on(&tooling, doing),
                    answer = &mut work => break answer,
                }
            }
        };
        while let Ok(doing) = telling.try_recv() {
            teller.tool_goes_on(&tooling, doing);
        }
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
