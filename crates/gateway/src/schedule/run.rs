//! One run of a job: the agent's turn, where its answer goes, and what is kept of both.

use std::sync::Arc;
use std::time::Duration;

use agent::thinking::Level;
use serde_json::{Value, json};
use store::{RunState, SessionFilter};
use tokio::sync::OwnedSemaphorePermit;

use super::job::Job;
use super::{Again, Cause, Schedule, ended, failed, now, tell, when};
use crate::app::App;
use crate::assistant::{Accepted, Assistant, Input, Outcome};
use crate::messages::Route;
use crate::native::sessions as keys;

/// A run without `timeoutSeconds` of its own is ended after this.
const PATIENCE: Duration = Duration::from_secs(60 * 60);
/// What is shown of an answer.
const SUMMARY_CHARS: usize = 2000;
/// An agent that says this has nothing to tell anybody.
pub(crate) const SILENT: &str = "NO_REPLY";

/// How a run went.
#[derive(Default)]
struct Done {
    error: Option<String>,
    /// What an error leaves to do.
    again: Option<Again>,
    /// What the agent said, or the reminder.
    summary: String,
    session_key: String,
    meta: Value,
    delivery: Delivery,
}

/// What became of the answer.
#[derive(Default)]
struct Delivery {
    /// `deliveryStatus` of the original; empty: not asked for.
    status: &'static str,
    error: Option<String>,
    silent: bool,
}

impl Schedule {
    /// Lets a job that was taken up do its work, beside everything else.
    pub(super) fn work(
        self: &Arc<Self>,
        app: &Arc<App>,
        assistant: &Arc<Assistant>,
        job: Job,
        cause: &Cause,
        slot: OwnedSemaphorePermit,
    ) {
        let (schedule, app, assistant) = (Arc::clone(self), Arc::clone(app), Arc::clone(assistant));
        let asked = matches!(cause, Cause::Asked(_));
        tokio::spawn(async move {
            let started = job.number("runningAtMs");
            tell(&app, "started", &job, json!({ "runAtMs": started }));
            let done = tokio::select! {
                biased;
                // Not ended in the store: the next start tells that it was cut off.
                () = app.stops() => return,
                done = perform(&app, &assistant, &job) => done,
            };
            schedule.finish(&app, &job, asked, started, done).await;
            drop(slot);
            schedule.changed.notify_one();
        });
    }

    async fn finish(&self, app: &App, job: &Job, asked: bool, started: i64, done: Done) {
        let ended_ms = now();
        let run_id = job.run_id.clone().unwrap_or_default();
        let is_ok = done.error.is_none();
        let status = if is_ok { "ok" } else { "error" };
        let mut told = json!({
            "status": status,
            "completionStatus": if is_ok { "succeeded" } else { "failed" },
            "summary": super::clipped(done.summary.trim(), SUMMARY_CHARS),
            "runAtMs": started, "durationMs": (ended_ms - started).max(0),
            "deliveryStatus": match done.delivery.status { "" => "not-requested", status => status },
        });
        let agent = &done.meta["agentMeta"];
        if agent["usage"].is_object() {
            let usage = &agent["usage"];
            told["model"] = agent["model"].clone();
            told["provider"] = agent["provider"].clone();
            told["usage"] = json!({
                "input_tokens": usage["input"], "output_tokens": usage["output"], "total_tokens": usage["total"],
            });
            told["sessionId"] = agent["sessionId"].clone();
        }
        if !done.session_key.is_empty() && job.text("sessionTarget") != "main" {
            told["sessionKey"] = json!(done.session_key);
            told["delivered"] = json!(done.delivery.status == "delivered");
        }
        if asked {
            told["runId"] = json!(run_id);
        }
        if done.delivery.silent {
            told["deliverySuppressionReason"] = json!("silent");
        }
        for (name, value) in [
            ("error", &done.error),
            ("deliveryError", &done.delivery.error),
        ] {
            if let Some(value) = value {
                told[name] = json!(value);
            }
        }
        let (id, kept) = (job.id.clone(), told.clone());
        let again = done.again.unwrap_or(Again::No);
        let written = self.store.write(move |tx| {
            let schedules = tx.schedules();
            let job = schedules.job(&id)?.as_ref().and_then(Job::of);
            let mut entry = kept.clone();
            entry["ts"] = json!(ended_ms);
            entry["jobId"] = json!(id);
            entry["action"] = json!("finished");
            // Removed meanwhile, or at work once more.
            let own = job.filter(|job| job.run_id.as_deref() == Some(&*run_id));
            let Some(mut job) = own else {
                schedules.end(&run_id, &id, &entry.to_string(), ended_ms)?;
                return Ok((None, false));
            };
            match kept["error"].as_str() {
                Some(why) => failed(&mut job, why, started, ended_ms, again),
                None => ended(&mut job, "ok", started, ended_ms),
            }
            for (name, from) in [
                ("lastDeliveryStatus", "deliveryStatus"),
                ("lastDelivered", "delivered"),
                ("lastDeliveryError", "deliveryError"),
            ] {
                match kept.get(from) {
                    Some(value) => drop(job.state.insert(name.into(), value.clone())),
                    None => drop(job.state.remove(name)),
                }
            }
            job.state.insert(
                "lastFailureNotificationDeliveryStatus".into(),
                json!("not-requested"),
            );
            if let Some(next) = job.next_ms {
                entry["nextRunAtMs"] = json!(next);
            }
            entry["jobName"] = json!(job.text("name"));
            schedules.end(&run_id, &id, &entry.to_string(), ended_ms)?;
            // Due once and done; asked for ahead of its time it is still to come.
            let over = is_ok && job.is_once() && job.next_ms.is_none() && !job.is_ahead(started);
            let gone = over && job.fields.get("deleteAfterRun") == Some(&json!(true));
            if gone {
                schedules.remove(&id)?;
            } else {
                if over {
                    job.fields.insert("enabled".into(), json!(false));
                }
                schedules.put(&job.row())?;
            }
            Ok((Some(job), gone))
        });
        match written.await {
            Ok((Some(job), gone)) => {
                tell(app, "finished", &job, told);
                match gone {
                    true => tell(app, "removed", &job, json!({})),
                    false if job.next_ms.is_some() && !asked => {
                        tell(app, "scheduled", &job, json!({}))
                    }
                    false => {}
                }
            }
            // It was removed while it ran.
            Ok((None, _)) => {}
            Err(error) => {
                tracing::error!(job = job.id, %error, "the end of a job's run could not be written; after the next start it counts as cut off")
            }
        }
    }
}

async fn perform(app: &Arc<App>, assistant: &Arc<Assistant>, job: &Job) -> Done {
    let (agent, session_key) = whose(app, job);
    let payload = &job.fields["payload"];
    let is_main = job.text("sessionTarget") == "main";
    let time = when::told(now());
    let said = match is_main {
        true => payload["text"].as_str().unwrap_or_default(),
        false => payload["message"].as_str().unwrap_or_default(),
    };
    let message = match is_main {
        true => format!(
            "A scheduled reminder is due:\n\n{said}\n\nSee to it here; tell the person of it only if it asks for that.\nCurrent time: {time}"
        ),
        false => format!(
            "[cron:{} {}] {said}\nCurrent time: {time}\n\n{}",
            job.id,
            job.text("name"),
            unattended(&job.fields["delivery"])
        ),
    };
    let input = Input {
        run_id: job.run_id.clone().unwrap_or_default(),
        session_key: session_key.clone(),
        agent: agent.clone(),
        message,
        images: Vec::new(),
        extra_system: None,
        is_chat: false,
        queue: false,
        client: Some(("cron".to_owned(), "backend".to_owned())),
        model: payload["model"].as_str().map(str::to_owned),
        sampling: agent::Sampling {
            thinking: payload["thinking"].as_str().and_then(Level::parse),
            ..agent::Sampling::default()
        },
        caller_tools: Vec::new(),
    };
    let mut done = Done {
        session_key: session_key.clone(),
        ..Done::default()
    };
    let outcome = match turn(app, assistant, input, payload["timeoutSeconds"].as_f64()).await {
        Ok(outcome) => outcome,
        Err((why, again)) => {
            done.error = Some(why);
            done.again = Some(again);
            return done;
        }
    };
    done.meta = outcome.meta.clone();
    done.summary = match is_main {
        true => said.to_owned(),
        false => outcome.text.clone(),
    };
    if outcome.state != RunState::Ok {
        let why = outcome.error.as_deref().unwrap_or("the turn failed");
        done.error = Some(why.to_owned());
        // Tools are called for by an answer: without one nothing was done.
        let is_fresh = outcome.state == RunState::Error
            && outcome.meta["agentMeta"]["usage"]["total"].as_u64() == Some(0);
        done.again = Some(if is_fresh { Again::Yes } else { Again::No });
        return done;
    }
    let delivery = job.fields.get("delivery").cloned().unwrap_or_default();
    if delivery["mode"] == "announce" {
        done.delivery = announce(app, job, &agent, &delivery, outcome.text.trim()).await;
        let is_optional = delivery["bestEffort"] == true;
        if done.delivery.status == "not-delivered" && !is_optional {
            done.error.clone_from(&done.delivery.error);
            done.again = Some(Again::Done);
        }
    }
    done
}

/// The agent's turn, ended when it takes too long.
async fn turn(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    input: Input,
    seconds: Option<f64>,
) -> Result<Outcome, (String, Again)> {
    let accepted = assistant.accept(app, input).await.map_err(|error| {
        let again = match error.retryable {
            Some(true) => Again::Yes,
            _ => Again::No,
        };
        (error.message, again)
    })?;
    let live = match accepted {
        Accepted::Started(live) | Accepted::InFlight(live) => live,
        Accepted::Ended(run) => return Ok(crate::assistant::ended(&run)),
    };
    // 0 means no limit; the turn's own limits stay.
    let patience = match seconds {
        Some(seconds) if seconds > 0.0 => Duration::from_secs_f64(seconds.min(1e7)),
        Some(_) => return Ok(live.ended().await),
        None => PATIENCE,
    };
    match tokio::time::timeout(patience, live.ended()).await {
        Ok(outcome) => Ok(outcome),
        Err(_elapsed) => {
            live.abort();
            live.ended().await;
            let why = format!(
                "the job was ended: it was not done after {} s",
                patience.as_secs_f64()
            );
            Err((why, Again::No))
        }
    }
}

/// Hands the answer to the outbox, once for each run, and waits a while for what becomes of it.
async fn announce(app: &App, job: &Job, agent: &str, delivery: &Value, text: &str) -> Delivery {
    if text.is_empty() || text == SILENT {
        return Delivery {
            status: "not-requested",
            error: None,
            silent: true,
        };
    }
    let missed = |why: String| Delivery {
        status: "not-delivered",
        error: Some(why),
        silent: false,
    };
    let Some(messages) = app.messages() else {
        return missed("this gateway has no message store".to_owned());
    };
    let route = match route(app, job, agent, delivery).await {
        Ok(route) => route,
        Err(why) => return missed(why),
    };
    let key = format!("cron:{}", job.run_id.as_deref().unwrap_or_default());
    match messages.say(route, text, &key, "cron").await {
        Ok((state, error)) => match state {
            "delivered" => Delivery {
                status: "delivered",
                ..Delivery::default()
            },
            "queued" | "in_doubt" => Delivery {
                status: "unknown",
                error,
                silent: false,
            },
            _ => missed(error.unwrap_or_else(|| format!("the message is {state}"))),
        },
        Err(why) => missed(why),
    }
}

/// Where an answer goes.
///
/// # Errors
/// Why it can go nowhere, and what to do.
pub(super) async fn route(
    app: &App,
    job: &Job,
    agent: &str,
    delivery: &Value,
) -> Result<Route, String> {
    route_for(app, job.text("sessionKey"), agent, delivery).await
}

/// The same, for a session (`""`: any of the agent's).
pub(super) async fn route_for(
    app: &App,
    session_key: &str,
    agent: &str,
    delivery: &Value,
) -> Result<Route, String> {
    let text = |name: &str| delivery[name].as_str().map(str::to_owned);
    let thread = match &delivery["threadId"] {
        Value::Number(number) => Some(number.to_string()),
        other => other.as_str().map(str::to_owned),
    };
    let channel = text("channel").filter(|channel| channel != "last");
    if let (Some(channel), Some(target)) = (channel.clone(), text("to")) {
        return Ok(Route {
            channel,
            account: text("accountId"),
            target,
            thread,
        });
    }
    let Some(messages) = app.messages() else {
        return Err("this gateway has no message store".to_owned());
    };
    let own = (!session_key.is_empty()).then(|| session_key.to_owned());
    let filter = SessionFilter {
        agent: Some(agent.to_owned()),
        channel: channel.clone(),
        limit: 1,
        ..SessionFilter::default()
    };
    let found = messages.store.read(move |reader| {
        let sessions = reader.sessions();
        let named = match &own {
            Some(key) => sessions.get(key)?,
            None => None,
        };
        Ok(match named {
            Some(row) => Some(row),
            None => sessions.list(&filter)?.into_iter().next(),
        })
    });
    match found.await {
        Ok(Some(row)) => Ok(Route {
            channel: row.channel,
            account: Some(row.account),
            target: text("to").unwrap_or(row.target),
            thread: thread.or(row.thread),
        }),
        Ok(None) => Err(format!(
            "{} has not been written to from any chat yet, so there is no last one to answer in: set delivery.channel and delivery.to, or delivery.mode to \"none\"",
            match channel {
                Some(channel) => format!("agent {agent} on {channel}"),
                None => format!("agent {agent}"),
            }
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// Which agent does a job, in which conversation.
pub(super) fn whose(app: &App, job: &Job) -> (String, String) {
    let facts = app.facts.load();
    let roster = facts.inputs(0, 0).roster();
    let key = job.text("sessionKey");
    let agent = match job.text("agentId") {
        "" if !key.is_empty() => keys::agent_of(&roster, key),
        "" => roster.default_id.clone(),
        id => id.to_owned(),
    };
    let agent = crate::native::agents::normalize_id(&agent);
    let session_key = match job.text("sessionTarget") {
        "main" if !key.is_empty() => keys::canonical_key(&roster, key, Some(&agent)),
        "main" => roster.main_session_key(&agent),
        "current" => keys::canonical_key(&roster, key, Some(&agent)),
        "isolated" => format!("agent:{agent}:cron:{}:run:{}", job.id, uuid::Uuid::new_v4()),
        named => {
            let named = named.strip_prefix("session:").unwrap_or(named);
            keys::canonical_key(&roster, named, Some(&agent))
        }
    };
    (agent, session_key)
}

/// What an agent must know that works while nobody looks.
fn unattended(delivery: &Value) -> String {
    let answer = match delivery["mode"] == "announce" {
        true => {
            "Your last answer is sent as it is: write what the person is to read and nothing about the sending."
        }
        false => "Your last answer is kept in the history of the job and sent to nobody.",
    };
    format!(
        "This run was started by the clock and nobody is there to answer questions or approve anything: finish with what you have. {answer} If there is nothing to tell, answer {SILENT} alone. If something failed, say what and what you tried."
    )
}
