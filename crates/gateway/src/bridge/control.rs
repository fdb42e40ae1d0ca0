//! Our own connection to the upstream: its hello (what it serves), its health and presence as they change, and
//! calls we make for ourselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot, watch};
use wire::frame::UpstreamFrame;

use super::link::{self, backend_connect};
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

/// What the upstream tells us by itself.
#[derive(Debug)]
pub(crate) enum News<'a> {
    /// The payload of its hello to us.
    Hello(Value),
    Event {
        name: &'a str,
        payload: Option<&'a RawValue>,
        state_version: Option<&'a RawValue>,
    },
}

struct Call {
    method: &'static str,
    params: Value,
    answer: oneshot::Sender<Result<String, String>>,
}

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
        let (answer, waiting) = oneshot::channel();
        self.calls
            .try_send(Call {
                method,
                params,
                answer,
            })
            .map_err(|_full| "the upstream is not answering".to_owned())?;
        match tokio::time::timeout(CALL_TIMEOUT, waiting).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_dropped)) => Err("the upstream went away".to_owned()),
            Err(_elapsed) => Err(format!("{method} was not answered within {CALL_TIMEOUT:?}")),
        }
    }
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
                if let Err(why) = serve(&ready, &mut queue, &mut upstream, &*news).await {
                    tracing::debug!(%why, "control connection to the upstream ended");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            } else {
                tokio::select! {
                    changed = upstream.changed() => if changed.is_err() { return },
                    call = queue.recv() => match call {
                        Some(call) => drop(call.answer.send(Err("the upstream is down".to_owned()))),
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
    queue: &mut mpsc::Receiver<Call>,
    upstream: &mut watch::Receiver<UpstreamState>,
    news: &(dyn Fn(News<'_>) + Send + Sync),
) -> Result<(), String> {
    let scopes = ALL_SCOPES.map(str::to_owned);
    let headers = vec![("Host".to_owned(), ready.address.to_string())];
    let mut dialled = link::dial(ready, &headers).await?;
    let frame = backend_connect("control", ready.token.expose(), &scopes, &[]);
    let answer = dialled
        .connect(&frame)
        .await
        .map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    if answer["ok"] != true {
        tracing::error!(error = %answer["error"], "the upstream refused our own connection: is [upstream] token right?");
        return Err("refused".to_owned());
    }
    news(News::Hello(answer["payload"].clone()));
    let (mut reader, mut writer) = dialled.into_parts();
    let mut waiting: HashMap<String, oneshot::Sender<Result<String, String>>> = HashMap::new();
    let mut next_id = 0_u64;
    loop {
        tokio::select! {
            call = queue.recv() => {
                let Some(call) = call else { return Ok(()) };
                next_id += 1;
                let id = format!("control:{next_id}");
                let frame = serde_json::json!({ "type": "req", "id": id, "method": call.method, "params": call.params });
                writer.feed(wire::websocket::Opcode::Text, frame.to_string().as_bytes());
                waiting.retain(|_, answer| !answer.is_closed());
                waiting.insert(id, call.answer);
                writer.flush().await.map_err(|error| error.to_string())?;
            }
            changed = upstream.changed() => {
                let gone = changed.is_err() || upstream.borrow_and_update().ready().is_none_or(|now| now.epoch != ready.epoch);
                if gone { return Ok(()); }
            }
            incoming = reader.next() => match incoming.map_err(|error| error.to_string())? {
                client::socket::Incoming::Text(text) => match UpstreamFrame::parse(&text) {
                    Ok(UpstreamFrame::Event { event, payload, state_version, .. }) => {
                        news(News::Event { name: &event, payload, state_version });
                    }
                    Ok(UpstreamFrame::Response { id, ok, payload, error }) => {
                        if let Some(answer) = waiting.remove(&*id) {
                            let text = if ok { payload } else { error }.map_or("null", RawValue::get).to_owned();
                            // A caller that stopped waiting is not an error.
                            drop(answer.send(if ok { Ok(text) } else { Err(text) }));
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
