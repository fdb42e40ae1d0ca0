//! Idle: authenticated connections that only listen and answer pings, until the server ends them or stdin ends. Some of
//! them may have a call in flight. Tells how each connection ended and what it was told before.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use super::Meter;
use crate::client::{Client, Closed, Flow, Incoming, Target, connect_all, request};
use crate::frame::{self, Kind};

pub struct Idle {
    pub connections: usize,
    pub batch: usize,
    /// How many of the connections send one call and wait for its answer.
    pub calls: usize,
    pub method: String,
    /// `{n}` in it becomes the number of the call.
    pub params: String,
    /// Answers to expect per call before it counts as in flight (1 for calls that say "accepted" first).
    pub accepts: usize,
    pub pid: Option<u32>,
}

#[derive(Default)]
struct Seen {
    events: BTreeMap<String, u64>,
    closes: BTreeMap<String, u64>,
    answers: BTreeMap<String, u64>,
    accepted: usize,
    first_close: Option<Instant>,
    last_close: Option<Instant>,
}

/// `report` is called with each line the driver waits for: connected, in flight, ended.
pub fn run(
    target: Target,
    load: &Idle,
    mut report: impl FnMut(&Value) -> Result<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        let started = Instant::now();
        let meter = Meter::start(load.pid);
        let clients = connect_all(Arc::new(target), load.connections, load.batch).await?;
        let elapsed = started.elapsed();
        report(&json!({
            "step": "connected",
            "connections": clients.len(),
            "seconds": elapsed.as_secs_f64(),
            "usage": meter.stop(elapsed),
        }))?;

        let seen = Rc::new(RefCell::new(Seen::default()));
        let (accepted, mut all_accepted) = watch::channel(0usize);
        let accepted = Rc::new(accepted);
        let mut listening = JoinSet::new();
        for (index, client) in clients.into_iter().enumerate() {
            let call = (index < load.calls)
                .then(|| call(load, index))
                .transpose()?;
            let listener = listen(
                client,
                call,
                load.accepts,
                Rc::clone(&seen),
                Rc::clone(&accepted),
            );
            listening.spawn_local(listener);
        }
        if load.calls > 0 {
            all_accepted
                .wait_for(|accepted| *accepted >= load.calls)
                .await?;
            report(&json!({ "step": "inFlight", "calls": load.calls }))?;
        }
        let mut stdin = Box::pin(stdin_end());
        loop {
            tokio::select! {
                ended = listening.join_next() => match ended {
                    Some(ended) => ended?,
                    None => break,
                },
                () = &mut stdin => break,
            }
        }
        let still_open = listening.len();
        listening.abort_all();
        let seen = seen.borrow();
        let since_first = |at: Option<Instant>| Some(ms(at?.duration_since(seen.first_close?)));
        report(&json!({
            "step": "ended",
            "stillOpen": still_open,
            "events": seen.events,
            "closes": seen.closes,
            "answers": seen.answers,
            "closeSpreadMs": since_first(seen.last_close),
        }))
    }))
}

fn call(load: &Idle, index: usize) -> Result<Vec<u8>> {
    let text = load.params.replace("{n}", &index.to_string());
    let params =
        serde_json::from_str(&text).map_err(|error| anyhow!("--params is not JSON: {error}"))?;
    Ok(request("call", &load.method, &params))
}

fn ms(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1e6).round() / 1e3
}

/// Ends when the driver closes our stdin or goes away.
async fn stdin_end() {
    let (ended, end) = tokio::sync::oneshot::channel();
    // A plain thread: tokio's stdin would keep the runtime from shutting down while it blocks.
    std::thread::spawn(move || {
        let mut sink = Vec::new();
        drop(std::io::Read::read_to_end(&mut std::io::stdin(), &mut sink));
        ended.send(())
    });
    drop(end.await);
}

async fn listen(
    mut client: Client,
    call: Option<Vec<u8>>,
    accepts: usize,
    seen: Rc<RefCell<Seen>>,
    accepted: Rc<watch::Sender<usize>>,
) {
    let mut missing = if call.is_some() { accepts } else { usize::MAX };
    let note_accepted = |missing: usize| {
        if missing == 0 {
            accepted.send_modify(|count| *count += 1);
        }
    };
    if let Some(call) = call {
        drop(client.stream.write_all(&call).await);
        note_accepted(missing);
    }
    let mut closed = None;
    while closed.is_none() {
        match client.read_more().await {
            Ok(0) => {
                closed = Some(Closed {
                    code: 1006,
                    reason: "TCP end".to_owned(),
                })
            }
            Err(error) => {
                closed = Some(Closed {
                    code: 1006,
                    reason: error.kind().to_string(),
                })
            }
            Ok(_) => {}
        }
        let drained = client.drain(|incoming| {
            match incoming {
                Incoming::Closed(told) => {
                    closed = Some(told);
                    return Ok(Flow::Pause);
                }
                Incoming::Text(payload) => match frame::classify(payload)? {
                    Kind::Event { name } => {
                        *seen.borrow_mut().events.entry(name.to_owned()).or_default() += 1;
                    }
                    Kind::Response { .. } if missing > 0 && missing != usize::MAX => {
                        missing -= 1;
                        seen.borrow_mut().accepted += 1;
                        note_accepted(missing);
                    }
                    Kind::Response { ok, .. } => {
                        let answer = if ok {
                            "ok".to_owned()
                        } else {
                            error_code(payload)
                        };
                        *seen.borrow_mut().answers.entry(answer).or_default() += 1;
                    }
                },
            }
            Ok(Flow::Continue)
        });
        match drained {
            Ok(pongs) if pongs.is_empty() => {}
            Ok(pongs) => drop(client.stream.write_all(&pongs).await),
            Err(error) => {
                closed = Some(Closed {
                    code: 1002,
                    reason: error.to_string(),
                })
            }
        }
        client.release();
    }
    let Some(Closed { code, reason }) = closed else {
        return;
    };
    let mut seen = seen.borrow_mut();
    *seen
        .closes
        .entry(format!("{code} {reason}").trim_end().to_owned())
        .or_default() += 1;
    let now = Instant::now();
    seen.first_close.get_or_insert(now);
    seen.last_close = Some(now);
}

fn error_code(payload: &[u8]) -> String {
    let parsed: Value = serde_json::from_slice(payload).unwrap_or_default();
    parsed["error"]["code"]
        .as_str()
        .unwrap_or("error without a code")
        .to_owned()
}
