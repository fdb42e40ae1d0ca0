//! Our own connection to the upstream: its hello (what it serves), its health and presence as they change, and
//! calls we make for ourselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot, watch};
use wire::frame::UpstreamFrame;

use super::link;
use super::{Ready, UpstreamState};

/// Every scope a backend client may ask for.
pub(crate) const ALL_SCOPES: [&str; 8] = [
    "operator.admin",
    "operator.read",
    "operator.write",
    "operator.approvals",
    "operator.questions",
    "operator.pairing",
    "operator.talk",
    "operator.talk.secrets",
];

const CALLS_WAITING_MAX: usize = 64;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How many keys a message is given to OpenClaw under, and the words by which it asks for another one.
/// Source: `assertPendingInputOwnerCurrent` and the admission of pending inputs at 2026.9.6.
pub(crate) const KEYS_MAX: u32 = 4;
pub(crate) const NEW_TURN: &str = "submit a new turn to continue";
const REFUSED: &str = "refused";
/// Until we ask again, who were refused: what is wrong takes a person.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// What the upstream tells us by itself.
#[derive(Debug)]
pub(crate) enum News<'a> {
    /// The payload of its hello to us.
    Hello(Value),
    Event {
        name: &'a str,
        payload: Option<&'a RawValue>,
    },
}

struct Call {
    method: &'static str,
    params: Value,
    /// Answers that only say `accepted` are passed over.
    final_only: bool,
    answer: oneshot::Sender<Result<String, String>>,
}

/// A call whose answer is awaited.
struct Waiting {
    final_only: bool,
    answer: oneshot::Sender<Result<String, String>>,
}

/// Why a call of ours has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It never reached the upstream.
    #[error("{0}")]
    NotSent(String),
    /// The upstream's error object as JSON text.
    #[error("{0}")]
    Refused(String),
    /// It may have reached the upstream.
    #[error("{0}")]
    Lost(String),
    /// The same, and it may still be at it.
    #[error("{0}")]
    Late(String),
}

const DOWN: &str = "the upstream is down";

/// Makes calls as ourselves. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    calls: mpsc::Sender<Call>,
}

impl Control {
    /// The payload as JSON text.
    ///
    /// # Errors
    /// The upstream's error object as JSON text, or why there was no answer.
    pub(crate) async fn call(&self, method: &'static str, params: Value) -> Result<String, String> {
        self.ask(method, params, false, CALL_TIMEOUT)
            .await
            .map_err(|error| error.to_string())
    }

    /// As [`call`](Self::call), for a method that is first accepted and later answered. Says whether it was the
    /// upstream that refused, or nobody answered.
    pub(crate) async fn ask(
        &self,
        method: &'static str,
        params: Value,
        final_only: bool,
        patience: Duration,
    ) -> Result<String, CallError> {
        let (answer, waiting) = oneshot::channel();
        let call = Call {
            method,
            params,
            final_only,
            answer,
        };
        self.calls
            .try_send(call)
            .map_err(|_full| CallError::NotSent("the upstream is not answering".to_owned()))?;
        match tokio::time::timeout(patience, waiting).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) if error == DOWN => Err(CallError::NotSent(error)),
            Ok(Ok(Err(error))) => Err(CallError::Refused(error)),
            Ok(Err(_dropped)) => Err(CallError::Lost("the upstream went away".to_owned())),
            Err(_elapsed) => Err(CallError::Late(format!(
                "{method} was not answered within {patience:?}"
            ))),
        }
    }
}

/// Of the connection for what people in chats ask: a turn that comes over it is no owner's.
const PEOPLE_SCOPES: [&str; 2] = ["operator.read", "operator.write"];
/// How long that connection stays without a call.
const PEOPLE_IDLE: Duration = Duration::from_secs(600);

/// A connection that may read and write and no more, made with its first call; it lives as long as `upstream` has a sender.
pub(crate) fn start_for_people(mut upstream: watch::Receiver<UpstreamState>) -> Control {
    let (calls, mut queue) = mpsc::channel::<Call>(CALLS_WAITING_MAX);
    tokio::spawn(async move {
        while let Some(first) = queue.recv().await {
            let ready = upstream.borrow_and_update().ready().cloned();
            let Some(ready) = ready else {
                drop(first.answer.send(Err(DOWN.to_owned())));
                continue;
            };
            let who = Who {
                name: "people",
                scopes: &PEOPLE_SCOPES,
                first: Some(first),
                idle: PEOPLE_IDLE,
            };
            if let Err(why) = serve(&ready, who, &mut queue, &mut upstream, &|_| {}).await {
                tracing::debug!(%why, "the connection for people in chats ended");
            }
        }
    });
    Control { calls }
}

/// As whom a connection is made.
struct Who {
    name: &'static str,
    scopes: &'static [&'static str],
    /// What is asked at once.
    first: Option<Call>,
    /// It ends when nothing was asked for so long and nothing is awaited.
    idle: Duration,
}

/// Starts the task; it lives as long as `upstream` has a sender.
pub(crate) fn start(
    mut upstream: watch::Receiver<UpstreamState>,
    news: Arc<dyn Fn(News<'_>) + Send + Sync>,
) -> Control {
    let (calls, mut queue) = mpsc::channel(CALLS_WAITING_MAX);
    tokio::spawn(async move {
        loop {
            let ready = upstream.borrow_and_update().ready().cloned();
            if let Some(ready) = ready {
                let mut pause = Duration::from_millis(100);
                let who = Who {
                    name: "control",
                    scopes: &ALL_SCOPES,
                    first: None,
                    idle: Duration::MAX,
                };
                if let Err(why) = serve(&ready, who, &mut queue, &mut upstream, &*news).await {
                    tracing::debug!(%why, "control connection to the upstream ended");
                    if why == REFUSED {
                        pause = REFUSED_PAUSE;
                    }
                }
                tokio::time::sleep(pause).await;
            } else {
                tokio::select! {
                    changed = upstream.changed() => if changed.is_err() { return },
                    call = queue.recv() => match call {
                        Some(call) => drop(call.answer.send(Err(DOWN.to_owned()))),
                        None => return,
                    },
                }
            }
        }
    });
    Control { calls }
}

async fn serve(
    ready: &Ready,
    mut who: Who,
    queue: &mut mpsc::Receiver<Call>,
    upstream: &mut watch::Receiver<UpstreamState>,
    news: &(dyn Fn(News<'_>) + Send + Sync),
) -> Result<(), String> {
    let (dialled, hello) = match connected(ready, &who).await {
        Ok(connected) => connected,
        Err(why) => {
            if let Some(first) = who.first {
                drop(first.answer.send(Err(DOWN.to_owned())));
            }
            return Err(why);
        }
    };
    news(News::Hello(hello));
    let (mut reader, mut writer) = dialled.into_parts();
    let mut waiting: HashMap<String, Waiting> = HashMap::new();
    let mut next_id = 0_u64;
    let mut quiet_since = tokio::time::Instant::now();
    loop {
        let first = who.first.take();
        let is_idle = waiting.is_empty() && first.is_none() && who.idle < Duration::MAX;
        let call = async {
            match first {
                Some(first) => Some(first),
                None => queue.recv().await,
            }
        };
        tokio::select! {
            biased;
            call = call => {
                let Some(call) = call else { return Ok(()) };
                next_id += 1;
                let id = format!("control:{next_id}");
                let frame = serde_json::json!({ "type": "req", "id": id, "method": call.method, "params": call.params });
                writer.feed(wire::websocket::Opcode::Text, frame.to_string().as_bytes());
                waiting.retain(|_, call| !call.answer.is_closed());
                waiting.insert(id, Waiting { final_only: call.final_only, answer: call.answer });
                writer.flush().await.map_err(|error| error.to_string())?;
                quiet_since = tokio::time::Instant::now();
            }
            () = tokio::time::sleep_until(quiet_since + who.idle.min(PEOPLE_IDLE)), if is_idle => return Ok(()),
            changed = upstream.changed() => {
                let gone = changed.is_err() || upstream.borrow_and_update().ready().is_none_or(|now| now.epoch != ready.epoch);
                if gone { return Ok(()); }
            }
            incoming = reader.next() => match incoming.map_err(|error| error.to_string())? {
                client::socket::Incoming::Text(text) => match UpstreamFrame::parse(&text) {
                    Ok(UpstreamFrame::Event { event, payload, .. }) => {
                        news(News::Event { name: &event, payload });
                    }
                    Ok(UpstreamFrame::Response { id, ok, payload, error }) => {
                        let text = if ok { payload } else { error }.map_or("null", RawValue::get);
                        let more = ok && waiting.get(&*id).is_some_and(|call| call.final_only) && is_accepted(text);
                        if !more && let Some(call) = waiting.remove(&*id) {
                            let text = text.to_owned();
                            // A caller that stopped waiting is not an error.
                            drop(call.answer.send(if ok { Ok(text) } else { Err(text) }));
                        }
                    }
                    Ok(UpstreamFrame::Other) | Err(_) => {}
                },
                client::socket::Incoming::Ping(payload) => {
                    writer.feed(wire::websocket::Opcode::Pong, &payload);
                    writer.flush().await.map_err(|error| error.to_string())?;
                }
                client::socket::Incoming::Closed(code, reason) => return Err(format!("closed with {code} {reason}")),
            },
        }
    }
}

/// A connection, and its hello.
async fn connected(ready: &Ready, who: &Who) -> Result<(link::Dialled, Value), String> {
    let scopes: Vec<String> = who.scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let headers = vec![("Host".to_owned(), ready.address.to_string())];
    let mut dialled = link::dial(ready, &headers).await?;
    let frame = dialled.backend_connect(who.name, &scopes, &[]);
    let answer = dialled
        .connect(&frame)
        .await
        .map_err(|error| error.to_string())?;
    let mut answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    if answer["ok"] == true {
        return Ok((dialled, answer["payload"].take()));
    }
    match &ready.device {
        Some(device) => tracing::error!("{}", device.refusal(&answer["error"])),
        None => {
            tracing::error!(error = %answer["error"], "the upstream refused our own connection: is [upstream] token right?");
        }
    }
    Err(REFUSED.to_owned())
}

/// `{"status":"accepted"}`: the answer proper comes later under the same id.
fn is_accepted(payload: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Status<'a> {
        #[serde(borrow, default)]
        status: std::borrow::Cow<'a, str>,
    }
    serde_json::from_str::<Status<'_>>(payload).is_ok_and(|payload| payload.status == "accepted")
}
