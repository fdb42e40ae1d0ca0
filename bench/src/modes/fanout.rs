//! Fan-out: many listeners wait for one event; how long from the cause (a call) to the last of them having it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::Meter;
use crate::client::{Client, Flow, Incoming, Target, connect_all, request};
use crate::frame::{self, Kind};

/// What makes the event.
pub enum Cause {
    /// Nothing of ours: it is awaited (`tick`), and time counts from the first receipt.
    Awaited,
    /// A call of this method with these params (`{n}` becomes the round).
    Call(String, String),
    /// Another client connecting, as this target.
    Arrival(Box<Target>),
}

pub struct Fanout {
    pub listeners: usize,
    pub batch: usize,
    pub event: String,
    pub cause: Cause,
    /// Called once by each listener before the first round (a subscription).
    pub subscribe: Option<(String, String)>,
    pub rounds: usize,
    /// Pause between rounds.
    pub gap: Duration,
    /// Longest wait for one round.
    pub patience: Duration,
    pub pid: Option<u32>,
}

/// Receipts of the current round.
struct Round {
    number: usize,
    receipts: Vec<Instant>,
    /// Milliseconds from the event's own `ts` to each receipt; the clock is this machine's for both.
    since_ts: Vec<f64>,
    bytes: usize,
    /// Events that the listeners got more than once in a round.
    repeats: usize,
    error: Option<anyhow::Error>,
    /// When the event last arrived anywhere, in a round or not.
    latest: Instant,
}

/// Connecting makes events too (presence): the first round starts when there was none for this long.
const QUIET: Duration = Duration::from_millis(1500);
const QUIET_PATIENCE: Duration = Duration::from_secs(30);

pub fn run(target: Target, load: &Fanout) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        let target = Arc::new(target);
        let clients = connect_all(Arc::clone(&target), load.listeners, load.batch).await?;
        let mut sender = Client::connect(&target, "trigger").await?;
        let mut arrived = Vec::new();
        let round = Rc::new(RefCell::new(Round {
            number: 0,
            receipts: Vec::with_capacity(load.listeners),
            since_ts: Vec::with_capacity(load.listeners),
            bytes: 0,
            repeats: 0,
            error: None,
            latest: Instant::now(),
        }));
        let complete = Rc::new(Notify::new());
        for mut client in clients {
            if let Some((method, params)) = &load.subscribe {
                ask(&mut client, method, params, 0).await?;
            }
            let (round, complete) = (Rc::clone(&round), Rc::clone(&complete));
            let (event, wanted) = (load.event.clone(), load.listeners);
            tokio::task::spawn_local(async move {
                if let Err(error) = listen(client, &event, wanted, &round, &complete).await {
                    round.borrow_mut().error.get_or_insert(error);
                    complete.notify_one();
                }
            });
        }
        if !matches!(load.cause, Cause::Awaited) {
            quiet(&round).await;
        }
        let meter = Meter::start(load.pid);
        let started = Instant::now();
        let mut rounds = Vec::new();
        for number in 1..=load.rounds {
            if number > 1 {
                tokio::time::sleep(load.gap).await;
            }
            begin(&round, number);
            let cause = Instant::now();
            match &load.cause {
                Cause::Awaited => {}
                Cause::Call(method, params) => ask(&mut sender, method, params, number).await?,
                // Kept open: its leaving would be an event too.
                Cause::Arrival(guest) => {
                    arrived.push(Client::connect(guest, &format!("arrival-{number}")).await?);
                }
            }
            if tokio::time::timeout(load.patience, complete.notified())
                .await
                .is_err()
            {
                let got = round.borrow().receipts.len();
                bail!(
                    "round {number}: {got} of {} listeners had `{}` in time",
                    load.listeners,
                    load.event
                );
            }
            let mut done = round.borrow_mut();
            if let Some(error) = done.error.take() {
                return Err(error);
            }
            let first = done.receipts.first().copied().context("no receipt")?;
            let last = done.receipts.last().copied().context("no receipt")?;
            let zero = if matches!(load.cause, Cause::Awaited) {
                first
            } else {
                cause
            };
            let ms = |at: Instant| (at.duration_since(zero).as_secs_f64() * 1e6).round() / 1e3;
            let half = done.receipts[done.receipts.len() / 2];
            rounds.push(json!({
                "firstMs": ms(first),
                "halfMs": ms(half),
                "lastMs": ms(last),
                "spreadMs": (last.duration_since(first).as_secs_f64() * 1e6).round() / 1e3,
                "lastSinceTsMs": done.since_ts.iter().copied().reduce(f64::max),
                "bytes": done.bytes,
                "repeats": done.repeats,
            }));
        }
        Ok(json!({
            "mode": "fanout",
            "event": load.event,
            "cause": match &load.cause {
                Cause::Awaited => "awaited",
                Cause::Call(method, _) => method,
                Cause::Arrival(_) => "a client arrives",
            },
            "listeners": load.listeners,
            "rounds": rounds,
            "usage": meter.stop(started.elapsed()),
        }))
    }))
}

async fn quiet(round: &RefCell<Round>) {
    let deadline = Instant::now() + QUIET_PATIENCE;
    while round.borrow().latest.elapsed() < QUIET && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn begin(round: &RefCell<Round>, number: usize) {
    let mut round = round.borrow_mut();
    round.number = number;
    round.receipts.clear();
    round.since_ts.clear();
    round.repeats = 0;
}

async fn ask(client: &mut Client, method: &str, params: &str, number: usize) -> Result<()> {
    let text = params.replace("{n}", &number.to_string());
    let params =
        serde_json::from_str(&text).with_context(|| format!("params of {method}: {text}"))?;
    client
        .stream
        .write_all(&request("ask", method, &params))
        .await?;
    loop {
        let answer = client.next_json().await?;
        if answer["type"] == "res" {
            if answer["ok"] != true {
                bail!("{method} failed: {answer}");
            }
            return Ok(());
        }
    }
}

async fn listen(
    mut client: Client,
    event: &str,
    wanted: usize,
    round: &RefCell<Round>,
    complete: &Notify,
) -> Result<()> {
    let mut had = 0;
    loop {
        if client.read_more().await? == 0 {
            bail!("the server closed a listener");
        }
        let pongs = client.drain(|incoming| {
            let payload = match incoming {
                Incoming::Text(payload) => payload,
                Incoming::Closed(closed) => {
                    bail!("listener closed: {} {}", closed.code, closed.reason)
                }
            };
            if frame::classify(payload)? != (Kind::Event { name: event }) {
                return Ok(Flow::Continue);
            }
            let mut round = round.borrow_mut();
            round.latest = Instant::now();
            if had == round.number {
                round.repeats += 1;
                return Ok(Flow::Continue);
            }
            had = round.number;
            round.receipts.push(Instant::now());
            round.since_ts.extend(since_ts(payload));
            round.bytes = payload.len();
            if round.receipts.len() == wanted {
                complete.notify_one();
            }
            Ok(Flow::Continue)
        })?;
        if !pongs.is_empty() {
            client.stream.write_all(&pongs).await?;
        }
        client.release();
    }
}

/// From the event's `payload.ts` (ms of the same clock) to now.
fn since_ts(payload: &[u8]) -> Option<f64> {
    const KEY: &[u8] = br#""payload":{"ts":"#;
    let at = payload.windows(KEY.len()).position(|part| part == KEY)? + KEY.len();
    let digits: Vec<u8> = payload[at..]
        .iter()
        .copied()
        .take_while(u8::is_ascii_digit)
        .collect();
    let ts: f64 = std::str::from_utf8(&digits).ok()?.parse().ok()?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    Some(((now.as_secs_f64() * 1e3 - ts) * 1e3).round() / 1e3)
}
