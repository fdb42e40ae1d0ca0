//! One turn: from the input on disk to the answer on disk.

use std::sync::Arc;

use serde_json::{Value, json};
use store::{AgentSession, Entry, RunState};

use super::events::{self, Teller};
use super::turn::{Ended, Progress, Turn};
use super::{Assistant, BROKEN, Input, Live, Outcome, clock_ms, prompt, queue, rows};
use crate::app::App;
use crate::clock;

pub(super) async fn run(app: Arc<App>, assistant: Arc<Assistant>, live: Arc<Live>, input: Input) {
    let lane = assistant.lane(&input.session_key);
    // A turn that is called off while it waits never begins.
    let turn = tokio::select! {
        turn = lane.lock_owned() => Some(turn),
        () = live.cancel.cancelled() => None,
    };
    worked(&app, &assistant, &live, input, turn.is_some()).await;
    drop(turn);
}

/// A turn whose session is its own already; one that does not begin is ended as called off.
pub(super) async fn worked(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    live: &Arc<Live>,
    input: Input,
    begins: bool,
) {
    let input = Arc::new(input);
    let turn = {
        let (app, assistant, live) = (Arc::clone(app), Arc::clone(assistant), Arc::clone(live));
        let input = Arc::clone(&input);
        async move { work(&app, &assistant, &live, &input, begins).await }
    };
    attend(app, assistant, live, input, turn).await;
}

/// Waits for a turn to end. One that panics ends all the same: those who wait for it, or behind it, go on.
async fn attend(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    live: &Arc<Live>,
    input: Arc<Input>,
    turn: impl Future<Output = ()> + Send + 'static,
) {
    let Err(error) = tokio::spawn(turn).await else {
        return;
    };
    tracing::error!(run = %input.run_id, %error, "a turn ended by a fault of the gateway");
    queue::put_back(app, assistant, &input.session_key, live.close());
    // As unsure as the turn itself.
    let told = {
        let (app, assistant, live) = (Arc::clone(app), Arc::clone(assistant), Arc::clone(live));
        async move { end_broken(&app, &assistant, &live, &input).await }
    };
    tokio::spawn(told).await.ok();
    assistant.finish(live, Outcome::failed(BROKEN, live.started_ms));
}

async fn end_broken(app: &Arc<App>, assistant: &Arc<Assistant>, live: &Live, input: &Input) {
    let Ok(Some(session)) = assistant.session(&input.session_key).await else {
        return;
    };
    let (ended, progress) = (Ended::failed(BROKEN.to_owned()), Progress::default());
    let outcome = outcome_of(
        input,
        &session.session_id,
        live.started_ms,
        &ended,
        &progress,
    );
    let kept = keep(assistant, input, &session, &ended, &progress, &outcome).await;
    let mut teller = Teller::new(app, input, &session.session_id);
    tell_end(&mut teller, &ended, &progress, &outcome);
    if let Some((session, Some(entry), position)) = kept {
        events::session_message(app, assistant, &session, &entry, position);
    }
}

async fn work(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    live: &Arc<Live>,
    input: &Input,
    begins: bool,
) {
    let started_ms = clock::now_ms();
    let Ok(Some(session)) = assistant.session(&input.session_key).await else {
        let why = Ended::failed("the session is gone".to_owned());
        let outcome = outcome_of(input, "", started_ms, &why, &Progress::default());
        return assistant.finish(live, outcome);
    };
    if input.queue {
        live.open_to_messages();
    }
    let mut teller = Teller::new(app, input, &session.session_id);
    tell_input(app, assistant, &session, input).await;
    let mut progress = Progress::default();
    let work = Turn {
        app,
        assistant,
        live,
        input,
        session: &session,
        started_ms,
    };
    let aborted = || Ended {
        state: RunState::Aborted,
        completion: work.said(),
        error: Some("aborted".to_owned()),
        model: None,
        said: None,
    };
    let ended = if !begins {
        aborted()
    } else {
        tokio::select! {
            biased;
            () = app.stops() => {
                // Not ended in the store: the next start says that it was interrupted.
                let why = Ended::failed("the gateway is stopping".to_owned());
                let outcome = outcome_of(input, &session.session_id, started_ms, &why, &progress);
                assistant.finish(live, outcome);
                return queue::put_back(app, assistant, &input.session_key, live.close());
            }
            () = live.cancel.cancelled() => aborted(),
            ended = work.work(&mut teller, &mut progress) => ended,
        }
    };
    queue::put_back(app, assistant, &input.session_key, live.close());
    let outcome = outcome_of(input, &session.session_id, started_ms, &ended, &progress);
    let kept = keep(assistant, input, &session, &ended, &progress, &outcome).await;
    tell_end(&mut teller, &ended, &progress, &outcome);
    if let Some((session, entry, position)) = kept {
        if let Some(entry) = entry {
            events::session_message(app, assistant, &session, &entry, position);
        }
        assistant.finish(live, outcome);
        events::session_changed(app, assistant, &session, "run-end");
    } else {
        assistant.finish(live, outcome);
    }
    // What runs once has no later turn that its servers could wait for.
    if is_one_shot(&input.session_key) {
        assistant.servers.retire(&input.session_key);
    }
}

/// Sessions that are made for one turn: of a job by the clock, of a call over OpenAI's protocol.
fn is_one_shot(session_key: &str) -> bool {
    let mut parts = session_key.splitn(3, ':');
    let own = parts.nth(2).unwrap_or_default();
    own.starts_with("openai:")
        || own.starts_with("openresponses:")
        || (own.starts_with("cron:") && own.contains(":run:"))
}

async fn tell_input(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    session: &AgentSession,
    input: &Input,
) {
    let (id, own) = (session.session_id.clone(), rows::user_id(&input.run_id));
    let placed = assistant
        .store
        .read(move |reader| reader.agents().placed(&id, &own))
        .await;
    if let Ok(Some((entry, position))) = placed {
        let position = usize::try_from(position).unwrap_or(usize::MAX);
        events::session_message(app, assistant, session, &entry, position);
    }
}

fn outcome_of(
    input: &Input,
    session_id: &str,
    started_ms: u64,
    ended: &Ended,
    progress: &Progress,
) -> Outcome {
    let ended_ms = clock::now_ms();
    let (provider, model) = match &ended.model {
        Some(model) => (json!(model.provider), json!(model.id)),
        None => (Value::Null, Value::Null),
    };
    let counted = |usage: &agent::Usage| {
        let cost = ended.model.as_ref().map_or(0.0, |model| model.price(usage));
        json!({
            "input": usage.input, "output": usage.output,
            "cacheRead": usage.cache_read, "cacheWrite": usage.cache_write,
            "total": usage.total(), "cost": { "total": cost },
        })
    };
    let mut effective = json!({ "provider": provider, "model": model });
    if let Some(named) = &ended.completion.response_model {
        effective["responseModel"] = json!(named);
    }
    let requested = match &progress.requested {
        Some((provider, model)) => json!({ "provider": provider, "model": model }),
        None => json!({ "provider": provider, "model": model }),
    };
    let rerouted = requested["provider"] != provider || requested["model"] != model;
    let receipt = json!({
        "runId": input.run_id, "sessionId": session_id, "turnId": input.run_id,
        "requested": requested,
        "effective": effective, "successfulToolNames": progress.tools, "rerouted": ended.model.is_some() && rerouted,
    });
    let meta = json!({
        "durationMs": ended_ms.saturating_sub(started_ms),
        "agentMeta": {
            "sessionId": session_id, "sessionFile": input.session_key,
            "provider": provider, "model": model, "agentHarnessId": "openclaw-rs",
            "contextTokens": ended.model.as_ref().map(|model| model.context_window),
            "usage": counted(&progress.usage), "lastCallUsage": counted(&ended.completion.usage),
            "promptTokens": ended.completion.usage.input + ended.completion.usage.cache_read,
            "assistantTurns": progress.rounds.max(1), "terminalReceipt": receipt,
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
        text: match &ended.said {
            Some(said) => said.clone(),
            None => ended.completion.text.clone(),
        },
        error: ended.error.clone(),
        is_chat: input.is_chat,
        ended_ms,
        started_ms,
        meta,
        receipt,
        stop_reason,
        calls: match ended.state {
            RunState::Ok => ended.completion.calls.clone(),
            _ => Vec::new(),
        },
    }
}

/// Writes the end of a turn, all of it or nothing. `None`: it could not be written, and the log says why.
async fn keep(
    assistant: &Assistant,
    input: &Input,
    session: &AgentSession,
    ended: &Ended,
    progress: &Progress,
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
        RunState::Aborted if !ended.completion.text.is_empty() => {
            Some(rows::aborted(&input.run_id, &ended.completion.text, now))
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
    let (usage, last) = (progress.usage, ended.completion.usage);
    let tokens = (signed(usage.input + usage.cache_read), signed(usage.output));
    let context = signed(last.input + last.cache_read + last.output);
    let (run_id, key, session_id, state) = (
        input.run_id.clone(),
        session.key.clone(),
        session.session_id.clone(),
        ended.state,
    );
    let stored = entry.clone();
    // Each call has a result: what the caller makes of it comes as a message.
    let handed = "Handed to the caller: the result comes with the next message.";
    let results: Vec<Entry> = outcome
        .calls
        .iter()
        .map(|call| rows::result(&input.run_id, call, handed, None, false, now))
        .collect();
    let written = assistant
        .store
        .write(move |tx| {
            let agents = tx.agents();
            if state != RunState::Ok {
                let entries = agents.entries(&session_id, None, prompt::ENTRIES_MAX)?;
                let ended = "The turn ended while this tool was called";
                if let Some(run) = agents.run(&run_id)? {
                    for open in rows::unanswered(&entries, &run, ended, now) {
                        agents.append(&session_id, &open)?;
                    }
                }
            }
            if let Some(entry) = &stored {
                agents.append(&session_id, entry)?;
            }
            for result in &results {
                agents.append(&session_id, result)?;
            }
            agents.end(&run_id, state, &kept, now)?;
            agents.note_run(&key, &last_run, tokens, context, now)?;
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

fn tell_end(teller: &mut Teller, ended: &Ended, progress: &Progress, outcome: &Outcome) {
    let none = json!({ "phase": "model", "provider": null, "model": null });
    match ended.state {
        RunState::Ok => {
            let stop = &outcome.stop_reason;
            let mut finishing = json!({
                "phase": "finishing", "stopReason": stop, "aborted": false,
                "livenessState": "working", "endedAt": outcome.ended_ms,
            });
            if progress.has_effects {
                finishing["replayInvalid"] = json!(true);
            }
            teller.lifecycle(finishing);
            teller.lifecycle(none);
            let mut receipt = outcome.receipt.clone();
            receipt["terminalDisposition"] = json!("visible");
            teller.lifecycle(json!({
                "phase": "end", "startedAt": outcome.started_ms, "endedAt": outcome.ended_ms,
                "aborted": false, "stopReason": stop, "livenessState": "working", "executionSettled": true,
                "replayInvalid": progress.has_effects, "terminalReceipt": receipt,
                "terminalReply": { "disposition": "visible", "text": outcome.text },
            }));
            teller.last("final", stop, &outcome.text);
        }
        RunState::Aborted => teller.aborted(&outcome.text, outcome.started_ms),
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

#[cfg(test)]
mod tests {
    use super::super::Accepted;
    use super::super::tests::{World, in_time, input};
    use super::*;

    #[tokio::test]
    async fn a_turn_that_panics_ends_and_those_behind_it_go_on() {
        let world = World::start();
        let (app, assistant) = (&world.app, &world.assistant);
        let live = world.busy("broken").await;
        let steered = world.begun(input("steered", "now")).await;
        // As if the turn that works had met the fault.
        let turn = async { panic!("a fault") };
        attend(
            app,
            assistant,
            &live,
            Arc::new(input("broken", "work")),
            turn,
        )
        .await;
        let outcome = in_time(live.ended()).await;
        assert_eq!(outcome.error.as_deref(), Some(BROKEN));
        assert_eq!(world.state("broken").await, RunState::Error);
        assert!(assistant.live("broken").is_none());
        live.abort();
        in_time(async {
            while !world.was_asked() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        steered.abort();
        assert_eq!(in_time(steered.ended()).await.state, RunState::Aborted);
        let again = assistant.accept(app, input("broken", "work")).await;
        assert!(matches!(again, Ok(Accepted::Ended(_))));
    }
}
