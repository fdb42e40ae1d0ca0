//! Measures how long a message waits for its route: `make bench-routing`.
//!
//! Prints one JSON object: the decision alone with 10, 1,000 and 10,000 bindings, and the decision with the session's row
//! read from a store that holds 1,000,000.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on fails here"
)]

use channels::InboundMessage;
use gateway::routing::{Decision, Known, Routing};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};
use store::{NewSession, Options, Store};

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (sessions, lookups) = if quick {
        (20_000, 20_000)
    } else {
        (1_000_000, 200_000)
    };
    let pure: Vec<Value> = [10, 1_000, 10_000]
        .into_iter()
        .map(|bindings| {
            let mut times = Vec::with_capacity(lookups);
            decide_all(bindings, sessions, lookups, |_| {}, &mut times);
            json!({ "bindings": bindings, "decideUs": percentiles(&mut times) })
        })
        .collect();
    let dir = tempfile::tempdir_in("target").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let store = Store::open(&dir.path().join("sessions.db"), Options::default()).unwrap();
    runtime.block_on(fill(&store, sessions));
    let mut times = Vec::with_capacity(lookups);
    decide_all(
        10_000,
        sessions,
        lookups,
        |key| assert!(store.read_now(|r| r.sessions().get(key)).unwrap().is_some()),
        &mut times,
    );
    store.close();
    let whole = json!({ "bindings": 10_000, "sessions": sessions, "decideAndReadUs": percentiles(&mut times) });
    let result = json!({ "lookups": lookups, "pure": pure, "withSessions": whole });
    println!("{}", serde_json::to_string_pretty(&result).unwrap());
}

/// Half of the senders are bound by a peer of their own, the others by the last tier; none comes in order, so that
/// neither the index nor the store answers from a warm corner. `then` gets the session's key.
fn decide_all(
    bindings: usize,
    people: usize,
    lookups: usize,
    then: impl Fn(&str),
    times: &mut Vec<Duration>,
) {
    let config = config(bindings);
    let routing = Routing::from_config(&config);
    let settings = config["channels"]["telegram"].as_object().unwrap().clone();
    for at in 0..lookups {
        let any = scattered(at);
        let message = message(match at % 2 {
            0 => any % bindings * 2,
            _ => any % people,
        });
        let start = Instant::now();
        let key = key(&routing, &settings, &message);
        then(&key);
        times.push(start.elapsed());
    }
}

/// SplitMix64: the same order in every run.
const fn scattered(at: usize) -> usize {
    let mut z = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as usize
}

fn key(routing: &Routing, settings: &Map<String, Value>, message: &InboundMessage) -> String {
    match routing.decide("telegram", "default", settings, message, Known::default()) {
        Decision::Route(route) => route.session_key,
        other => panic!("{other:?}"),
    }
}

fn config(bindings: usize) -> Value {
    let bound = (0..bindings).map(|n| {
        json!({ "agentId": "main", "match": { "channel": "telegram", "accountId": "*", "peer": { "kind": "direct", "id": (n * 2).to_string() } } })
    });
    let last = json!({ "agentId": "main", "match": { "channel": "telegram", "accountId": "*" } });
    json!({
        "session": { "dmScope": "per-channel-peer" },
        "bindings": bound.chain([last]).collect::<Vec<_>>(),
        "channels": { "telegram": { "dmPolicy": "open", "allowFrom": ["*"] } },
    })
}

fn message(n: usize) -> InboundMessage {
    let id = n.to_string();
    serde_json::from_value(json!({
        "eventId": id, "messageId": id, "text": "hi", "sentAtMs": 0,
        "chat": { "kind": "direct", "id": id }, "sender": { "id": id },
    }))
    .unwrap()
}

async fn fill(store: &Store, count: usize) {
    let config = config(0);
    let routing = Routing::from_config(&config);
    let settings = config["channels"]["telegram"].as_object().unwrap().clone();
    for start in (0..count).step_by(1000) {
        let rows: Vec<NewSession> = (start..(start + 1000).min(count))
            .map(|n| NewSession {
                key: key(&routing, &settings, &message(n)),
                agent: "main".to_owned(),
                channel: "telegram".to_owned(),
                account: "default".to_owned(),
                target: n.to_string(),
                thread: None,
                last_route: None,
                metadata: None,
            })
            .collect();
        store
            .write(move |tx| {
                for (at, row) in rows.iter().enumerate() {
                    tx.sessions()
                        .upsert(row, i64::try_from(start + at).unwrap())?;
                }
                Ok(())
            })
            .await
            .unwrap();
    }
}

fn percentiles(times: &mut [Duration]) -> Value {
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).map(|time| time.as_secs_f64() * 1e6)
    };
    json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}
