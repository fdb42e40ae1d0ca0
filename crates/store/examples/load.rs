//! Measures the store beside the disk it stands on: `make bench-store`.
//!
//! Prints one JSON object. Every round runs the disk's own fsync loop, the store, and the store with one commit per
//! write in turn, so that a noisy machine hits all of them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on fails here"
)]

use serde_json::{Value, json};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use store::{NewOutbound, NewSession, Options, Store};

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = if quick { 1 } else { 5 };
    let seconds = Duration::from_secs(if quick { 1 } else { 4 });
    let sessions = if quick { 20_000 } else { 1_000_000 };
    let queued = if quick { 5_000 } else { 100_000 };
    let dir = tempfile::tempdir_in("target").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut all = Vec::new();
    for round in 0..rounds {
        let at = |name: &str| dir.path().join(format!("{name}-{round}.db"));
        all.push(json!({
            "fsyncPerSecond": fsync_rate(&dir.path().join("raw"), seconds),
            "writers64": runtime.block_on(closed(&at("w64"), 64, 1024, seconds)),
            "oneCommitEach64": runtime.block_on(closed(&at("one"), 64, 1, seconds)),
            "writers256": runtime.block_on(closed(&at("w256"), 256, 1024, seconds)),
            "open5000": runtime.block_on(open_loop(&at("open"), 5_000, seconds)),
        }));
    }
    let result = json!({
        "rounds": all,
        "sessions": runtime.block_on(many_sessions(&dir.path().join("sessions.db"), sessions)),
        "drain": runtime.block_on(drain(&dir.path().join("drain.db"), queued)),
    });
    println!("{}", serde_json::to_string_pretty(&result).unwrap());
}

fn message(lane: usize) -> NewOutbound {
    NewOutbound {
        id: None,
        channel: "bench".to_owned(),
        account: "one".to_owned(),
        target: lane.to_string(),
        lane: format!("bench/one/{lane}"),
        payload: format!("{{\"text\":\"{}\"}}", "word ".repeat(40)),
        source: "api".to_owned(),
        cause: None,
        expires_ms: None,
    }
}

/// What the disk can do: one page appended and synced at a time.
fn fsync_rate(path: &Path, for_time: Duration) -> f64 {
    let mut file = File::create(path).unwrap();
    let (began, mut count) = (Instant::now(), 0_u32);
    while began.elapsed() < for_time {
        file.write_all(&[1; 4096]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

async fn opened(path: &Path, batch_max: usize) -> Store {
    let options = Options {
        batch_max,
        ..Options::default()
    };
    let store = Store::open(path, options).unwrap();
    store.opened().await.unwrap();
    store
}

/// Each writer waits for its answer before it writes again.
async fn closed(path: &Path, writers: usize, batch_max: usize, for_time: Duration) -> Value {
    let store = opened(path, batch_max).await;
    let (before, began) = (store.commits(), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..writers {
        let store = store.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            while began.elapsed() < for_time {
                let start = Instant::now();
                store
                    .write(move |tx| tx.outbox().enqueue(message(lane), 1))
                    .await
                    .unwrap();
                times.push(start.elapsed());
            }
            times
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done.unwrap());
    }
    let seconds = began.elapsed().as_secs_f64();
    let commits = store.commits() - before;
    let accepted = times.len();
    store.close();
    json!({
        "perSecond": accepted as f64 / seconds,
        "perFsync": accepted as f64 / commits as f64,
        "ms": percentiles(&mut times),
    })
}

/// Arrivals at a fixed rate, whatever the store does: a stall shows in everyone who comes meanwhile.
async fn open_loop(path: &Path, per_second: u32, for_time: Duration) -> Value {
    let store = opened(path, 1024).await;
    let gap = Duration::from_secs(1) / per_second;
    let began = Instant::now();
    let total = u32::try_from(for_time.as_millis()).unwrap() * per_second / 1000;
    let refused = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    let mut sent = 0;
    while sent < total {
        let due = (began.elapsed().as_nanos() / gap.as_nanos()) as u32;
        while sent < due.min(total) {
            let (store, refused) = (store.clone(), Arc::clone(&refused));
            let arrival = began + gap * sent;
            let lane = sent as usize % 1000;
            tasks.spawn(async move {
                let wrote = store
                    .write(move |tx| tx.outbox().enqueue(message(lane), 1))
                    .await;
                if wrote.is_err() {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                arrival.elapsed()
            });
            sent += 1;
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.push(done.unwrap());
    }
    store.close();
    json!({ "perSecond": per_second, "refused": refused.load(Ordering::Relaxed), "ms": percentiles(&mut times) })
}

async fn many_sessions(path: &Path, count: usize) -> Value {
    let store = opened(path, 1024).await;
    let began = Instant::now();
    for start in (0..count).step_by(1000) {
        store
            .write(move |tx| {
                for n in start..(start + 1000).min(count) {
                    tx.sessions()
                        .upsert(&session(n), i64::try_from(n).unwrap())?;
                }
                Ok(())
            })
            .await
            .unwrap();
    }
    let filled_s = began.elapsed().as_secs_f64();
    let mut times = Vec::new();
    let mut n = 7_usize;
    for _ in 0..20_000 {
        n = (n * 7_919 + 13) % count;
        let key = session(n).key;
        let start = Instant::now();
        let found = store.read_now(|r| r.sessions().get(&key)).unwrap();
        times.push(start.elapsed());
        assert!(found.is_some());
    }
    let rss = rss_mb();
    let bytes = std::fs::metadata(path).unwrap().len();
    store.close();
    json!({ "count": count, "filledSeconds": filled_s, "lookupMs": percentiles(&mut times), "rssMb": rss, "fileMb": bytes as f64 / 1e6 })
}

fn session(n: usize) -> NewSession {
    NewSession {
        key: format!(
            "agent:main:telegram:direct:{:x}",
            n.wrapping_mul(2_654_435_761)
        ),
        agent: "main".to_owned(),
        channel: "telegram".to_owned(),
        account: "default".to_owned(),
        target: n.to_string(),
        thread: None,
        last_route: None,
        metadata: None,
    }
}

/// Many rows that wait, worked off by eight workers as the delivery does it.
async fn drain(path: &Path, count: usize) -> Value {
    let store = opened(path, 1024).await;
    for start in (0..count).step_by(1000) {
        store
            .write(move |tx| {
                for n in start..(start + 1000).min(count) {
                    tx.outbox().enqueue(message(n % 1000), 1)?;
                }
                Ok(())
            })
            .await
            .unwrap();
    }
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut sent = 0;
            loop {
                let leases = store
                    .write(|tx| tx.outbox().lease("bench", "one", 2, 16))
                    .await
                    .unwrap();
                if leases.is_empty() {
                    return sent;
                }
                sent += leases.len();
                let mut answers = tokio::task::JoinSet::new();
                for lease in leases {
                    let store = store.clone();
                    answers.spawn(async move {
                        store
                            .write(move |tx| tx.outbox().delivered(&lease.row.id, "[]", &[], 3))
                            .await
                            .unwrap();
                    });
                }
                while answers.join_next().await.is_some() {}
            }
        });
    }
    let mut sent = 0;
    while let Some(done) = tasks.join_next().await {
        sent += done.unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    let rss = rss_mb();
    store.close();
    json!({ "rows": count, "sent": sent, "perSecond": sent as f64 / seconds, "rssMb": rss })
}

fn percentiles(times: &mut [Duration]) -> Value {
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).map(|time| time.as_secs_f64() * 1000.0)
    };
    json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}

/// VmRSS of this process, MB.
fn rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
        .map_or(0.0, |kb| kb / 1024.0)
}
