//! Closed loop: every connection keeps `depth` requests in flight and sends the next when an answer arrives.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use super::{Failures, Meter};
use crate::client::{Client, Flow, Incoming, Target, connect_all, request};
use crate::frame::{self, Kind, TEXT};
use crate::histogram::Histogram;

pub struct Closed {
    pub connections: usize,
    /// Requests each connection keeps in flight.
    pub depth: usize,
    /// Generator threads; connections are dealt out to them.
    pub threads: usize,
    pub batch: usize,
    pub warmup: Duration,
    pub duration: Duration,
    pub method: String,
    pub params: Value,
    /// Server process to watch.
    pub pid: Option<u32>,
}

#[derive(Default)]
struct Tally {
    latency: Histogram,
    failures: Failures,
    events: u64,
    bytes: u64,
}

pub fn run(target: Target, load: Closed) -> Result<Value> {
    let target = Arc::new(target);
    let load = Arc::new(load);
    let threads = load.threads.clamp(1, load.connections.max(1));
    // Connected; warmed up; measured: the main thread reads the meters between the last two.
    let steps = Arc::new(Barrier::new(threads + 1));
    let mut runtimes = Vec::new();
    for _ in 0..threads {
        runtimes.push(
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        );
    }
    let workers: Vec<_> = runtimes
        .into_iter()
        .enumerate()
        .map(|(thread, runtime)| {
            let (target, load, steps) =
                (Arc::clone(&target), Arc::clone(&load), Arc::clone(&steps));
            let share =
                load.connections / threads + usize::from(thread < load.connections % threads);
            std::thread::spawn(move || worker(&runtime, target, &load, share, &steps))
        })
        .collect();
    steps.wait();
    steps.wait();
    let meter = Meter::start(load.pid);
    let started = Instant::now();
    steps.wait();
    let elapsed = started.elapsed();
    let usage = meter.stop(elapsed);
    let mut all = Tally::default();
    for worker in workers {
        let tally = worker
            .join()
            .map_err(|_| anyhow!("a generator thread panicked"))??;
        all.latency.merge(&tally.latency);
        all.failures.merge(tally.failures);
        all.events += tally.events;
        all.bytes += tally.bytes;
    }
    Ok(json!({
        "mode": "closed",
        "method": load.method,
        "connections": load.connections,
        "depth": load.depth,
        "threads": threads,
        "seconds": elapsed.as_secs_f64(),
        "perSecond": (all.latency.count() as f64 / elapsed.as_secs_f64() * 10.0).round() / 10.0,
        "latencyMs": all.latency.summary(),
        "responseBytes": all.bytes.checked_div(all.latency.count()),
        "errors": all.failures.summary(),
        "events": all.events,
        "usage": usage,
    }))
}

fn worker(
    runtime: &Runtime,
    target: Arc<Target>,
    load: &Closed,
    share: usize,
    steps: &Barrier,
) -> Result<Tally> {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let broken = Rc::new(RefCell::new(None));
    let threads = load.threads.max(1);
    let connected = runtime.block_on(connect_all(
        Arc::clone(&target),
        share,
        (load.batch / threads).max(1),
    ));
    steps.wait();
    // Every thread passes every barrier, whatever happened to it: nobody may be left waiting.
    if let Ok(clients) = connected {
        let local = LocalSet::new();
        for client in clients {
            let (tally, broken) = (Rc::clone(&tally), Rc::clone(&broken));
            let requests = encode(load, target.echo);
            local.spawn_local(async move {
                if let Err(error) = closed_loop(client, &requests, &tally).await {
                    broken.borrow_mut().get_or_insert(error);
                }
            });
        }
        runtime.block_on(local.run_until(async { tokio::time::sleep(load.warmup).await }));
        *tally.borrow_mut() = Tally::default();
        steps.wait();
        runtime.block_on(local.run_until(async { tokio::time::sleep(load.duration).await }));
        steps.wait();
        drop(local);
    } else {
        steps.wait();
        steps.wait();
        connected?;
    }
    if let Some(error) = broken.borrow_mut().take() {
        return Err(error);
    }
    Ok(Rc::try_unwrap(tally)
        .map_err(|_| anyhow!("a connection outlived its run"))?
        .into_inner())
}

/// The request of every slot, encoded once. An id is used again only after its answer arrived.
fn encode(load: &Closed, echo: bool) -> Vec<Vec<u8>> {
    (0..load.depth)
        .map(|slot| match echo {
            false => request(&slot.to_string(), &load.method, &load.params),
            // The echo peer answers what it gets: a response frame as long as the request would be.
            true => {
                let size = json!({ "type": "req", "id": "0", "method": load.method })
                    .to_string()
                    .len();
                let mut body = format!(r#"{{"type":"res","id":"{slot}","ok":true"#);
                while body.len() + 1 < size {
                    body.push(' ');
                }
                body.push('}');
                let mut out = Vec::new();
                frame::encode(TEXT, body.as_bytes(), &mut out);
                out
            }
        })
        .collect()
}

async fn closed_loop(
    mut client: Client,
    requests: &[Vec<u8>],
    tally: &RefCell<Tally>,
) -> Result<()> {
    let mut sent = vec![Instant::now(); requests.len()];
    let mut out = requests.concat();
    loop {
        client.stream.write_all(&out).await?;
        let read = client.read_more().await?;
        if read == 0 {
            bail!("the server closed a connection under load");
        }
        out.clear();
        let now = Instant::now();
        let mut tally = tally.borrow_mut();
        let pongs = client.drain(|incoming| {
            let payload = match incoming {
                Incoming::Text(payload) => payload,
                Incoming::Closed(closed) => {
                    bail!("closed under load: {} {}", closed.code, closed.reason)
                }
            };
            match frame::classify(payload)? {
                Kind::Response { id, ok } => {
                    let slot: usize = id
                        .parse()
                        .with_context(|| format!("answer to unknown id {id}"))?;
                    let at = sent
                        .get_mut(slot)
                        .with_context(|| format!("answer to unknown id {id}"))?;
                    tally.latency.record(now - *at);
                    tally.bytes += payload.len() as u64;
                    if !ok {
                        tally.failures.add(|| frame::excerpt(payload));
                    }
                    *at = now;
                    out.extend_from_slice(&requests[slot]);
                }
                Kind::Event { .. } => tally.events += 1,
            }
            Ok(Flow::Continue)
        })?;
        out.extend_from_slice(&pongs);
    }
}
