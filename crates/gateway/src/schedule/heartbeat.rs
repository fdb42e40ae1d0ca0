//! Heartbeats: an agent looks by itself, every so often, whether something needs a person.
//!
//! A beat is a turn in the agent's main conversation. Its question and an answer that says nothing are kept and not shown; an
//! alert goes to whom the file names. Beats that find their agent at work, or nobody to tell, do not begin.

pub(crate) mod settings;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::RunState;

use self::settings::{Beat, Target};
use super::run::route_for;
use super::{now, when};
use crate::app::App;
use crate::assistant::{Accepted, Assistant, Input};
use crate::messages::Route;
use crate::native::sessions as keys;

/// Between two beats of one agent, whatever its interval says.
const GAP_MS: i64 = 30_000;
const PREVIEW_CHARS: usize = 200;
const LIST_BYTES_MAX: u64 = 20_000;

const PROMPT: &str = "This is a heartbeat: nobody has written to you. Look whether something that you were asked to watch needs the person \
    now. Take up nothing that earlier conversations were about unless you were asked to watch it. If nothing needs them, answer \
    NO_REPLY and nothing else; if something does, answer with what they should be told, and nothing else.";

/// When hearts beat next, and how it went last.
pub(super) struct Heartbeats {
    is_on: AtomicBool,
    /// And it was said so.
    has_no_owner: AtomicBool,
    last: Mutex<Option<Value>>,
    /// By agent: the interval that the time was reckoned with, and the time.
    next: Mutex<HashMap<String, (i64, i64)>>,
}

impl Default for Heartbeats {
    fn default() -> Self {
        Self {
            is_on: AtomicBool::new(true),
            has_no_owner: AtomicBool::new(false),
            last: Mutex::default(),
            next: Mutex::default(),
        }
    }
}

impl Heartbeats {
    /// `last-heartbeat`.
    pub(super) fn last(&self) -> Value {
        self.last.lock().clone().unwrap_or_default()
    }

    /// `set-heartbeats`, until the process ends.
    pub(super) fn set(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    /// Begins the beats that are due; when the next one is.
    pub(super) fn begin_due(
        self: &Arc<Self>,
        app: &Arc<App>,
        assistant: &Arc<Assistant>,
    ) -> Option<i64> {
        let facts = app.facts.load_full();
        let roster = facts.inputs(0, 0).roster();
        // Without any model there are no agents of ours. One that nobody configured is not kept busy unasked.
        let secret = |value: &serde_json::Value| app.secret(value);
        let configured = agent::Model::resolve(&facts.config, &roster.default_id, None, &secret);
        if configured == Err(agent::ModelError::None) {
            return None;
        }
        let beats = settings::beats(&facts.config, &roster);
        if beats.is_empty() != self.has_no_owner.swap(beats.is_empty(), Ordering::Relaxed)
            && beats.is_empty()
        {
            tracing::warn!(
                "no heartbeats: there are several agents and none is the default; set agents.defaults.heartbeat.agentId, or heartbeat of one of agents.entries"
            );
        }
        let now = now();
        let mut next = self.next.lock();
        next.retain(|agent, _| beats.iter().any(|beat| beat.agent == *agent));
        let mut soonest: Option<i64> = None;
        for beat in beats.into_iter().filter(|beat| beat.every_ms > 0) {
            // Somewhere in the interval, so that not all of many gateways ask at once.
            let first = || {
                let random =
                    uuid::Uuid::new_v4().as_u128() % u128::from(beat.every_ms.unsigned_abs());
                now + i64::try_from(random).unwrap_or(beat.every_ms)
            };
            let (every, at) = next
                .entry(beat.agent.clone())
                .or_insert_with(|| (beat.every_ms, first()));
            if *every != beat.every_ms {
                (*every, *at) = (beat.every_ms, first());
            }
            if *at <= now {
                *at = now + beat.every_ms.max(GAP_MS);
                if self.is_on.load(Ordering::Relaxed) {
                    let (hearts, app, assistant) =
                        (Arc::clone(self), Arc::clone(app), Arc::clone(assistant));
                    tokio::spawn(async move {
                        tokio::select! {
                            biased;
                            () = app.stops() => {}
                            () = hearts.beat(&app, &assistant, &beat) => {}
                        }
                    });
                }
            }
            soonest = Some(soonest.map_or(*at, |soonest| soonest.min(*at)));
        }
        soonest
    }

    fn tell(&self, app: &App, began: i64, mut event: Value) {
        event["ts"] = json!(now());
        event["durationMs"] = json!((now() - began).max(0));
        app.hub.broadcast("heartbeat", &event.to_string(), None);
        *self.last.lock() = Some(event);
    }

    async fn beat(&self, app: &Arc<App>, assistant: &Arc<Assistant>, beat: &Beat) {
        let began = now();
        let skipped = |reason: &str| json!({ "status": "skipped", "reason": reason });
        let facts = app.facts.load_full();
        let config = &facts.config;
        if !settings::is_awake(config, &beat.settings, Timestamp::now()) {
            return self.tell(app, began, skipped("quiet-hours"));
        }
        if assistant.is_at_work(app, &beat.agent) {
            return self.tell(app, began, skipped("requests-in-flight"));
        }
        let Ok(route) = way(app, config, beat).await else {
            let mut event = skipped("no-route");
            event["message"] = json!(
                "Heartbeat has no delivery route yet. Message your bot once, or set agents.defaults.heartbeat.target."
            );
            return self.tell(app, began, event);
        };
        let list = match list_of(app, beat).await {
            Some(list) if settings::is_empty(&list) => {
                return self.tell(app, began, skipped("empty-heartbeat-file"));
            }
            list => list,
        };
        let event = match turn(app, assistant, beat, list).await {
            Err(why) => {
                tracing::warn!(agent = beat.agent, %why, "a heartbeat failed");
                json!({ "status": "failed", "reason": why, "indicatorType": "error" })
            }
            Ok(answer) => match settings::news(&answer) {
                None => {
                    json!({ "status": "ok-empty", "reason": "interval", "indicatorType": "ok", "silent": true })
                }
                Some(news) => told(app, route, news, &beat.settings).await,
            },
        };
        self.tell(app, began, event);
    }
}

/// Where an alert would go; `None`: nowhere, as the file says.
///
/// # Errors
/// There is nobody to tell.
async fn way(app: &App, config: &Value, beat: &Beat) -> Result<Option<Route>, ()> {
    let account = beat.settings["accountId"].as_str().map(str::to_owned);
    match settings::target(config, &beat.settings) {
        Target::Nowhere => Ok(None),
        Target::Unknown => Err(()),
        Target::To(channel, to) => {
            let (target, thread) = match to.split_once(":topic:") {
                Some((target, thread)) => (target.to_owned(), Some(thread.to_owned())),
                None => (to, None),
            };
            Ok(Some(Route {
                channel,
                account,
                target,
                thread,
            }))
        }
        Target::Last => {
            let last = json!({ "channel": "last" });
            route_for(app, "", &beat.agent, &last)
                .await
                .map(Some)
                .map_err(drop)
        }
    }
}

/// HEARTBEAT.md of the agent's workspace, its beginning; `None`: there is none.
async fn list_of(app: &App, beat: &Beat) -> Option<String> {
    let facts = app.facts.load_full();
    let agent = beat.agent.clone();
    let read = move || {
        use std::io::Read as _;
        let inputs = facts.inputs(0, 0);
        let roster = inputs.roster();
        let workspace: PathBuf =
            roster.workspace(inputs.config, roster.get(&agent)?, &inputs.places);
        let root = workspace.canonicalize().ok()?;
        let path = root.join("HEARTBEAT.md").canonicalize().ok()?;
        // A link that leads out of the workspace is not followed.
        let file = path
            .starts_with(&root)
            .then(|| std::fs::File::open(&path).ok())
            .flatten()?;
        let mut bytes = Vec::new();
        file.take(LIST_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    tokio::task::spawn_blocking(read).await.ok().flatten()
}

/// The agent's answer.
///
/// # Errors
/// Why there is none.
async fn turn(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    beat: &Beat,
    list: Option<String>,
) -> Result<String, String> {
    let facts = app.facts.load_full();
    let roster = facts.inputs(0, 0).roster();
    let agent = &beat.agent;
    let session_key = match beat.settings["session"].as_str() {
        _ if beat.settings["isolatedSession"] == true => {
            format!("agent:{agent}:cron:heartbeat:run:{}", uuid::Uuid::new_v4())
        }
        Some(key) if key != "main" => keys::canonical_key(&roster, key, Some(agent)),
        _ => roster.main_session_key(agent),
    };
    let prompt = beat.settings["prompt"].as_str().map(str::trim);
    let prompt = prompt.filter(|prompt| !prompt.is_empty()).unwrap_or(PROMPT);
    let list = list.map_or_else(String::new, |list| {
        format!("\n\n# HEARTBEAT.md\n\n{}\n", list.trim())
    });
    let input = Input {
        run_id: format!(
            "{}{}",
            crate::assistant::HEARTBEAT_RUN,
            uuid::Uuid::new_v4()
        ),
        session_key,
        agent: agent.clone(),
        message: format!("{prompt}{list}\nCurrent time: {}", when::told(now())),
        images: Vec::new(),
        extra_system: None,
        is_chat: false,
        queue: false,
        client: Some(("heartbeat".to_owned(), "backend".to_owned())),
        model: beat.settings["model"].as_str().map(str::to_owned),
        sampling: agent::Sampling::default(),
        caller_tools: Vec::new(),
    };
    let live = match assistant
        .accept(app, input)
        .await
        .map_err(|error| error.message)?
    {
        Accepted::Started(live) | Accepted::InFlight(live) => live,
        Accepted::Ended(_) => return Err("the run is known already".to_owned()),
    };
    let patience = settings::patience(&facts.config, beat);
    let Ok(outcome) = tokio::time::timeout(patience, live.ended()).await else {
        live.abort();
        live.ended().await;
        return Err(format!(
            "it was ended: it was not done after {} s",
            patience.as_secs_f64()
        ));
    };
    match outcome.state {
        RunState::Ok => Ok(outcome.text),
        _ => Err(outcome
            .error
            .unwrap_or_else(|| "the turn failed".to_owned())),
    }
}

/// Sends an alert; what became of it.
async fn told(app: &App, route: Option<Route>, news: &str, settings: &Value) -> Value {
    let preview = super::clipped(news, PREVIEW_CHARS);
    let Some(route) = route else {
        return json!({
            "status": "skipped", "preview": preview, "reason": "target-none", "hasMedia": false,
            "message": "Heartbeat delivery is disabled by configuration (target: none).",
        });
    };
    if settings["directPolicy"] == "block"
        && settings["target"]
            .as_str()
            .is_none_or(|target| target == "owner")
    {
        return json!({ "status": "skipped", "preview": preview, "reason": "dm-blocked", "hasMedia": false });
    }
    let (channel, to) = (route.channel.clone(), route.target.clone());
    let failed = |why: String| json!({ "status": "failed", "reason": why, "channel": channel, "preview": preview, "indicatorType": "error" });
    let Some(messages) = app.messages() else {
        return failed("this gateway has no message store".to_owned());
    };
    let key = format!("heartbeat:{}", uuid::Uuid::new_v4());
    match messages.say(route, news, &key, "heartbeat").await {
        Ok(("delivered" | "queued" | "in_doubt", _)) => json!({
            "status": "sent", "to": to, "channel": channel, "preview": preview, "hasMedia": false, "indicatorType": "alert",
        }),
        Ok((state, error)) => failed(error.unwrap_or_else(|| format!("the message is {state}"))),
        Err(why) => failed(why),
    }
}
