//! Open loop: requests leave at a fixed rate whatever the server does, and latency counts from the moment a request
//! was due, so that a stall shows in every request it delayed. With several targets each slot asks all of them, evenly
//! staggered within the slot: they are compared under the same state of the machine and of the server behind them.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Failures, Meter};
use crate::client::{BlockingClient, Client, Flow, Incoming, Target, connect_all, request};
use crate::frame::{self, Kind};
use crate::histogram::Histogram;

pub struct Rate {
    pub per_second: u32,
    /// Connections to each target, used in turn.
    pub connections: usize,
    pub batch: usize,
    pub warmup: Duration,
    pub duration: Duration,
    pub method: String,
    pub params: Value,
    pub pid: Option<u32>,
}

/// How long answers may arrive after the last request was sent.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Tally {
    since_due: Histogram,
    since_sent: Histogram,
    failures: Failures,
}

/// When each request of one target was due and when it was written; indexed by request id.
struct Schedule {
    start: Instant,
    period: Duration,
    offset: Duration,
    warmup: usize,
    total: usize,
    sent: Mutex<Vec<Instant>>,
    answered: AtomicUsize,
}

impl Schedule {
    fn due(&self, number: usize) -> Instant {
        self.start + self.offset + self.period * u32::try_from(number).unwrap_or(u32::MAX)
    }
}

pub fn run(targets: Vec<Target>, load: &Rate) -> Result<Value> {
    let names: Vec<String> = targets
        .iter()
        .map(|target| target.authority.clone())
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut clients: Vec<Vec<BlockingClient>> = Vec::new();
    for target in targets {
        let opened =
            runtime.block_on(connect_all(Arc::new(target), load.connections, load.batch))?;
        clients.push(
            opened
                .into_iter()
                .map(Client::into_blocking)
                .collect::<Result<_>>()?,
        );
    }
    let period = Duration::from_secs(1) / load.per_second;
    let warmup = (load.warmup.as_secs_f64() * f64::from(load.per_second)) as usize;
    let total = warmup + (load.duration.as_secs_f64() * f64::from(load.per_second)) as usize;
    let start = Instant::now() + Duration::from_millis(100);
    let staggered = names.len() as u32;
    let schedules: Vec<Arc<Schedule>> = (0..staggered)
        .map(|index| {
            Arc::new(Schedule {
                start,
                period,
                offset: period * index / staggered,
                warmup,
                total,
                sent: Mutex::new(Vec::with_capacity(total)),
                answered: AtomicUsize::new(0),
            })
        })
        .collect();

    let mut readers = Vec::new();
    let mut writers = Vec::new();
    for (clients, schedule) in clients.into_iter().zip(&schedules) {
        let mut streams = Vec::new();
        for client in clients {
            streams.push(client.stream.try_clone()?);
            let schedule = Arc::clone(schedule);
            readers.push((
                Arc::clone(&schedule),
                thread::spawn(move || read(client, &schedule)),
            ));
        }
        writers.push(streams);
    }
    let meter = Meter::start(load.pid);
    let late = send(&mut writers, &schedules, load)?;
    let elapsed = start.elapsed();
    // Lost answers end at the deadline.
    let deadline = Instant::now() + GRACE;
    let answered = |schedule: &Arc<Schedule>| schedule.answered.load(Ordering::Acquire) >= total;
    while !schedules.iter().all(answered) && Instant::now() < deadline {
        thread::park_timeout(Duration::from_millis(5));
    }
    for stream in writers.iter().flatten() {
        // A peer that already closed makes this fail, and that is no news.
        drop(stream.shutdown(Shutdown::Both));
    }
    let usage = meter.stop(elapsed);

    let mut results = Vec::new();
    let mut readers = readers.into_iter().peekable();
    for (name, schedule) in names.into_iter().zip(&schedules) {
        let mut all = Tally::default();
        while readers
            .peek()
            .is_some_and(|(theirs, _)| Arc::ptr_eq(theirs, schedule))
        {
            let Some((_, reader)) = readers.next() else {
                break;
            };
            let tally = reader.join().map_err(|_| anyhow!("a reader panicked"))??;
            all.since_due.merge(&tally.since_due);
            all.since_sent.merge(&tally.since_sent);
            all.failures.merge(tally.failures);
        }
        let expected = (total - warmup) as u64;
        results.push(json!({
            "target": name,
            "latencyMs": all.since_due.summary(),
            "sinceSentMs": all.since_sent.summary(),
            "unanswered": expected.saturating_sub(all.since_due.count()),
            "errors": all.failures.summary(),
        }));
    }
    Ok(json!({
        "mode": "rate",
        "method": load.method,
        "perSecond": load.per_second,
        "connections": load.connections,
        "seconds": elapsed.as_secs_f64(),
        "sentLateMs": late.summary(),
        "targets": results,
        "usage": usage,
    }))
}

/// Answers how late the generator itself was: if that is large, the machine was too busy to measure.
fn send(
    writers: &mut [Vec<TcpStream>],
    schedules: &[Arc<Schedule>],
    load: &Rate,
) -> Result<Histogram> {
    let mut late = Histogram::default();
    let total = schedules.first().map_or(0, |schedule| schedule.total);
    for number in 0..total {
        for (streams, schedule) in writers.iter_mut().zip(schedules) {
            let frame = request(&number.to_string(), &load.method, &load.params);
            let due = schedule.due(number);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let connection = number % streams.len();
            let now = Instant::now();
            schedule.sent.lock().push(now);
            streams[connection]
                .write_all(&frame)
                .context("sending to a closed connection")?;
            late.record(now.saturating_duration_since(due));
        }
    }
    Ok(late)
}

fn read(mut client: BlockingClient, schedule: &Schedule) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut closed = false;
    while !closed {
        match client.read_more() {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let now = Instant::now();
        let pongs = client.drain(|incoming| {
            let Incoming::Text(payload) = incoming else {
                closed = true;
                return Ok(Flow::Pause);
            };
            let Kind::Response { id, ok } = frame::classify(payload)? else {
                return Ok(Flow::Continue);
            };
            let number: usize = id
                .parse()
                .with_context(|| format!("answer to unknown id {id}"))?;
            if number >= schedule.warmup {
                let sent = *schedule
                    .sent
                    .lock()
                    .get(number)
                    .context("answer before its request")?;
                tally
                    .since_due
                    .record(now.saturating_duration_since(schedule.due(number)));
                tally.since_sent.record(now.saturating_duration_since(sent));
                if !ok {
                    tally.failures.add(|| frame::excerpt(payload));
                }
            }
            schedule.answered.fetch_add(1, Ordering::Release);
            Ok(Flow::Continue)
        })?;
        if !pongs.is_empty() && client.stream.write_all(&pongs).is_err() {
            break;
        }
    }
    Ok(tally)
}
