//! One turn: from the input on disk to the answer on disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::{CallError, Completion, Message, Model, Part, Piece, Prompt};
use serde_json::{Value, json};
use store::{AgentSession, Entry, RunState};

use super::events::{self, Teller};
use super::{Assistant, Input, Live, Outcome, clock_ms, prompt, rows};
use crate::app::App;
use crate::clock;

/// Tries before a provider that refuses or is away is given up.
const TRIES: u32 = 3;
/// A provider that asks for a longer pause is not waited for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The whole text is sent with every piece, as clients expect. So that a long answer does not flood them, pieces of
/// it are joined until this many bytes a second suffice.
const STREAM_BYTES_PER_S: f64 = 4_000_000.0;

/// What is known of a turn when it ends.
struct Ended {
    state: RunState,
    completion: Completion,
    error: Option<String>,
    model: Option<Model>,
}

pub(super) async fn run(app: Arc<App>, assistant: Arc<Assistant>, live: Arc<Live>, input: Input) {
    let lane = assistant.lane(&input.session_key);
    let mut stop = app.stopping.subscribe();
    // A turn that is called off while it waits never begins.
    let turn = tokio::select! {
        turn = lane.lock_owned() => Some(turn),
        () = live.cancel.cancelled() => None,
    };
    let started_ms = clock::now_ms();
    let Ok(Some(session)) = assistant.session(&input.session_key).await else {
        let why = failed("the session is gone".to_owned());
        return assistant.finish(&live, outcome_of(&input, "", started_ms, &why));
    };
    let mut teller = Teller::new(&app, &input, &session.session_id);
    tell_input(&app, &assistant, &session, &input).await;
    let ended = if turn.is_none() {
        Ended {
            state: RunState::Aborted,
            completion: Completion::default(),
            error: Some("aborted".to_owned()),
            model: None,
        }
    } else {
        tokio::select! {
            ended = work(&app, &assistant, &live, &input, &session, &mut teller, started_ms) => ended,
            () = live.cancel.cancelled() => Ended {
                state: RunState::Aborted,
                completion: said(&live),
                error: Some("aborted".to_owned()),
                model: None,
            },
            _ = stop.changed() => {
                // Not ended in the store: the next start says that it was interrupted.
                let why = "the gateway is stopping".to_owned();
                return assistant.finish(&live, outcome_of(&input, &session.session_id, started_ms, &failed(why)));
            }
        }
    };
    let outcome = outcome_of(&input, &session.session_id, started_ms, &ended);
    let kept = keep(&assistant, &input, &session, &ended, &outcome).await;
    tell_end(&mut teller, &ended, &outcome);
    if let Some((session, entry, position)) = kept {
        if let Some(entry) = entry {
            events::session_message(&app, &assistant, &session, &entry, position);
        }
        assistant.finish(&live, outcome);
        events::session_changed(&app, &assistant, &session, "run-end");
    } else {
        assistant.finish(&live, outcome);
    }
    drop(turn);
}

/// What there is of an answer that does not end.
fn said(live: &Live) -> Completion {
    Completion {
        text: live.text().trim_end().to_owned(),
        ..Completion::default()
    }
}

fn failed(why: String) -> Ended {
    Ended {
        state: RunState::Error,
        completion: Completion::default(),
        error: Some(why),
        model: None,
    }
}

async fn tell_input(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    session: &AgentSession,
    input: &Input,
) {
    let Ok(entries) = assistant.entries(&session.session_id, usize::MAX).await else {
        return;
    };
    let own = entries
        .iter()
        .enumerate()
        .find(|(_, entry)| entry.id == rows::user_id(&input.run_id));
    if let Some((index, entry)) = own {
        events::session_message(app, assistant, session, entry, index + 1);
    }
}

async fn work(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    live: &Live,
    input: &Input,
    session: &AgentSession,
    teller: &mut Teller,
    started_ms: u64,
) -> Ended {
    teller.status("preparing_workspace");
    let chosen = rows::settings(session)["model"].as_str().map(str::to_owned);
    let model = match assistant.model(app, &input.agent, chosen.as_deref()) {
        Ok(model) => model,
        Err(error) => return failed(error.to_string()),
    };
    teller.status("preparing_context");
    let entries = match assistant
        .entries(&session.session_id, prompt::ENTRIES_MAX)
        .await
    {
        Ok(entries) => entries,
        Err(error) => return failed(error.message),
    };
    let prompt = prompt_of(app, input, &entries, &model).await;
    teller.lifecycle(json!({ "phase": "start", "startedAt": started_ms }));
    teller.status("starting_model");
    teller.lifecycle(json!({ "phase": "model", "provider": model.provider, "model": model.id }));
    let mut tries = 1;
    loop {
        let outcome = ask(assistant, live, &model, &prompt, teller).await;
        match outcome {
            Ok(completion) => {
                return Ended {
                    state: RunState::Ok,
                    completion,
                    error: None,
                    model: Some(model),
                };
            }
            Err(error) => {
                let begun = !live.text.lock().is_empty();
                let pause = error
                    .retry_after()
                    .unwrap_or(Duration::from_millis(250 * u64::from(tries * tries)));
                tracing::warn!(run = %input.run_id, %error, tries, "a model call failed");
                if begun || !error.is_retryable() || tries >= TRIES || pause > PAUSE_MAX {
                    return Ended {
                        state: RunState::Error,
                        completion: said(live),
                        error: Some(error.to_string()),
                        model: Some(model),
                    };
                }
                tries += 1;
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn prompt_of(app: &Arc<App>, input: &Input, entries: &[Entry], model: &Model) -> Prompt {
    let facts = app.facts.load_full();
    let (agent, extra) = (input.agent.clone(), input.extra_system.clone());
    let system = tokio::task::spawn_blocking(move || prompt::system(&facts, &agent, extra))
        .await
        .unwrap_or_default();
    let mut messages = vec![Message::text("system", system)];
    messages.extend(prompt::conversation(entries, model));
    if let Some(last) = messages.last_mut()
        && last.role == "user"
        && model.takes_images
    {
        last.parts
            .extend(input.images.iter().map(|image| Part::Image {
                data: image.data.clone(),
                mime: image.mime.clone(),
            }));
    }
    Prompt {
        messages,
        ..Prompt::default()
    }
}

async fn ask(
    assistant: &Assistant,
    live: &Live,
    model: &Model,
    prompt: &Prompt,
    teller: &mut Teller,
) -> Result<Completion, CallError> {
    let mut stream = Stream {
        live,
        teller,
        told: 0,
        thought: String::new(),
        next: Instant::now(),
    };
    let mut completion = agent::complete(
        &assistant.client,
        model,
        prompt,
        &assistant.limits,
        |piece| stream.take(piece),
    )
    .await?;
    stream.tell(true);
    completion.text.truncate(completion.text.trim_end().len());
    Ok(completion)
}

/// Hands pieces on, joined when they come faster than clients could want them.
struct Stream<'a> {
    live: &'a Live,
    teller: &'a mut Teller,
    /// Bytes of the text that clients have.
    told: usize,
    thought: String,
    next: Instant,
}

impl Stream<'_> {
    fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Text(text) => {
                self.live.text.lock().push_str(&text);
                self.tell(false);
            }
            Piece::Reasoning(text) => {
                self.thought.push_str(&text);
                self.teller.thinking(&self.thought, &text);
            }
        }
    }

    fn tell(&mut self, all: bool) {
        let now = Instant::now();
        // Blanks at the end wait for what follows them.
        let text = self.live.text.lock().trim_end().to_owned();
        if text.len() <= self.told || (!all && now < self.next) {
            return;
        }
        self.teller.assistant(&text, &text[self.told..]);
        self.told = text.len();
        self.next = now + Duration::from_secs_f64(text.len() as f64 / STREAM_BYTES_PER_S);
    }
}

fn outcome_of(input: &Input, session_id: &str, started_ms: u64, ended: &Ended) -> Outcome {
    let ended_ms = clock::now_ms();
    let (provider, model) = match &ended.model {
        Some(model) => (json!(model.provider), json!(model.id)),
        None => (Value::Null, Value::Null),
    };
    let usage = &ended.completion.usage;
    let cost = ended.model.as_ref().map_or(0.0, |model| model.price(usage));
    let usage = json!({
        "input": usage.input, "output": usage.output,
        "cacheRead": usage.cache_read, "cacheWrite": usage.cache_write,
        "total": usage.total(), "cost": { "total": cost },
    });
    let mut effective = json!({ "provider": provider, "model": model });
    if let Some(named) = &ended.completion.response_model {
        effective["responseModel"] = json!(named);
    }
    let receipt = json!({
        "runId": input.run_id, "sessionId": session_id, "turnId": input.run_id,
        "requested": { "provider": provider, "model": model },
        "effective": effective, "successfulToolNames": [], "rerouted": false,
    });
    let meta = json!({
        "durationMs": ended_ms.saturating_sub(started_ms),
        "agentMeta": {
            "sessionId": session_id, "sessionFile": input.session_key,
            "provider": provider, "model": model, "agentHarnessId": "openclaw-rs",
            "contextTokens": ended.model.as_ref().map(|model| model.context_window),
            "usage": usage, "lastCallUsage": usage,
            "promptTokens": ended.completion.usage.input + ended.completion.usage.cache_read,
            "assistantTurns": 1, "terminalReceipt": receipt,
        },
        "aborted": ended.state == RunState::Aborted,
        "completion": { "finishReason": ended.completion.stop_reason, "stopReason": ended.completion.stop_reason },
    });
    let stop_reason = match ended.state {
        RunState::Aborted => "rpc".to_owned(),
        _ => ended.completion.stop_reason.clone(),
    };
    Outcome {
        state: ended.state,
        text: ended.completion.text.clone(),
        error: ended.error.clone(),
        is_chat: input.is_chat,
        ended_ms,
        started_ms,
        meta,
        receipt,
        stop_reason,
    }
}

/// Writes the end of a turn, all of it or nothing. `None`: it could not be written, and the log says why.
async fn keep(
    assistant: &Assistant,
    input: &Input,
    session: &AgentSession,
    ended: &Ended,
    outcome: &Outcome,
) -> Option<(AgentSession, Option<Entry>, usize)> {
    let now = clock_ms();
    let entry = match ended.state {
        RunState::Ok => Some(rows::answer(
            &input.run_id,
            &ended.completion,
            ended.model.as_ref(),
            now,
        )),
        RunState::Aborted if !outcome.text.is_empty() => {
            Some(rows::aborted(&input.run_id, &outcome.text, now))
        }
        RunState::Aborted => None,
        _ => {
            let why = ended.error.as_deref().unwrap_or("the turn failed");
            Some(rows::failure(&input.run_id, why, now))
        }
    };
    let kept = json!({
        "text": outcome.text, "error": outcome.error, "meta": outcome.meta,
        "receipt": outcome.receipt, "stopReason": outcome.stop_reason, "chat": outcome.is_chat,
    })
    .to_string();
    let status = match ended.state {
        RunState::Ok => "done",
        RunState::Aborted => "killed",
        _ => "failed",
    };
    let last_run = json!({
        "runId": input.run_id, "status": status, "startedAt": outcome.started_ms,
        "endedAt": outcome.ended_ms, "error": outcome.error,
        "provider": ended.model.as_ref().map(|model| &model.provider),
        "model": ended.model.as_ref().map(|model| &model.id),
    })
    .to_string();
    let usage = ended.completion.usage;
    let tokens = (signed(usage.input + usage.cache_read), signed(usage.output));
    let (run_id, key, session_id, state) = (
        input.run_id.clone(),
        session.key.clone(),
        session.session_id.clone(),
        ended.state,
    );
    let stored = entry.clone();
    let written = assistant
        .store
        .write(move |tx| {
            let agents = tx.agents();
            if let Some(entry) = &stored {
                agents.append(&session_id, entry)?;
            }
            agents.end(&run_id, state, &kept, now)?;
            agents.note_run(&key, &last_run, tokens, tokens.0 + tokens.1, now)?;
            Ok((agents.session(&key)?, agents.entry_count(&session_id)?))
        })
        .await;
    match written {
        Ok((Some(session), count)) => {
            Some((session, entry, usize::try_from(count).unwrap_or(usize::MAX)))
        }
        Ok((None, _)) => None,
        Err(error) => {
            tracing::error!(run = %input.run_id, %error, "the end of a turn could not be written; after the next start it counts as interrupted");
            None
        }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn tell_end(teller: &mut Teller, ended: &Ended, outcome: &Outcome) {
    let none = json!({ "phase": "model", "provider": null, "model": null });
    match ended.state {
        RunState::Ok => {
            let stop = &outcome.stop_reason;
            teller.usage(ended.completion.usage.output);
            teller.lifecycle(json!({
                "phase": "finishing", "stopReason": stop, "aborted": false,
                "livenessState": "working", "endedAt": outcome.ended_ms,
            }));
            teller.lifecycle(none);
            let mut receipt = outcome.receipt.clone();
            receipt["terminalDisposition"] = json!("visible");
            teller.lifecycle(json!({
                "phase": "end", "startedAt": outcome.started_ms, "endedAt": outcome.ended_ms,
                "aborted": false, "stopReason": stop, "livenessState": "working", "executionSettled": true,
                "replayInvalid": false, "terminalReceipt": receipt,
                "terminalReply": { "disposition": "visible", "text": outcome.text },
            }));
            teller.last("final", stop, &outcome.text);
        }
        RunState::Aborted => {
            teller.last("aborted", "rpc", &outcome.text);
            teller.lifecycle(json!({
                "phase": "end", "status": "cancelled", "aborted": true, "stopReason": "rpc",
                "startedAt": outcome.started_ms, "endedAt": outcome.ended_ms,
            }));
        }
        _ => {
            let why = outcome.error.as_deref().unwrap_or("the turn failed");
            let (provider, model) = match &ended.model {
                Some(model) => (model.provider.as_str(), model.id.as_str()),
                None => ("", ""),
            };
            teller.lifecycle(json!({
                "phase": "finishing", "error": why, "aborted": false,
                "livenessState": "blocked", "endedAt": outcome.ended_ms,
            }));
            teller.lifecycle(none);
            teller.lifecycle(json!({
                "phase": "error", "error": why, "aborted": false, "livenessState": "blocked",
                "executionSettled": true, "startedAt": outcome.started_ms, "endedAt": outcome.ended_ms,
            }));
            teller.failed(why, provider, model);
        }
    }
}
