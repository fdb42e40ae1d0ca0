//! Reads answered by both sides: a sample of what OpenClaw answers is answered here too, out of sight, and the two are
//! compared. The live measure of how far a row can be taken over; no client gets another answer for it.
//!
//! Times, random ids and measured numbers are left out of the comparison, as in `tests/conformance/mask.mjs`. What is kept
//! of a difference says where it is and of what kind the two values are, never a text.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use regex_lite::Regex;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use wire::frame::RequestFrame;
use wire::methods::{self, ScopeRule};
use wire::scope::Scope;

use crate::app::App;
use crate::auth::RemoteEnd;
use crate::bridge::{Afterwards, Watch};
use crate::clock;
use crate::dispatch::fault::{self, Fault};
use crate::dispatch::natives;
use crate::ingress::http::Body;
use crate::native::alone::{self, Serve};
use crate::rollout::answer;

pub(crate) const PATH: &str = "/api/rollout/diff";
/// Comparisons at a time; a call that finds no room is counted as skipped.
const AT_ONCE: usize = 4;
/// A longer answer is not taken apart a second time.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Of one method, the newest.
const EXAMPLES_MAX: usize = 16;
const DAY_MS: u64 = 86_400_000;

/// Numbers that measure the machine or the moment. Source: `tests/conformance/mask.mjs`, where two originals differ in each.
const MEASURED: [&str; 32] = [
    "ageMs",
    "arrayBuffers",
    "arrayBuffersBytes",
    "cpuCoreRatio",
    "cpuSystemMs",
    "cpuTotalMs",
    "cpuUserMs",
    "delayMaxMs",
    "delayMeanMs",
    "delayP99Ms",
    "diskAvailableBytes",
    "durationMs",
    "elapsedMs",
    "expiresInMs",
    "external",
    "externalBytes",
    "heapTotal",
    "heapTotalBytes",
    "heapUsed",
    "heapUsedBytes",
    "lastAgeMs",
    "latencyMs",
    "memoryFreeBytes",
    "pid",
    "ppid",
    "retryAfterMs",
    "rss",
    "rssBytes",
    "runtimeMs",
    "uptime",
    "uptimeMs",
    "utilization",
];

/// What was compared since the start.
#[derive(Debug)]
pub(crate) struct Shadow {
    asked: AtomicU64,
    pub(crate) equal: AtomicU64,
    pub(crate) different: AtomicU64,
    pub(crate) skipped: AtomicU64,
    /// Of them, those of rows that move with the rollout's percent.
    pub(crate) moving_equal: AtomicU64,
    pub(crate) moving_different: AtomicU64,
    room: Arc<Semaphore>,
    book: Mutex<BTreeMap<&'static str, Row>>,
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            asked: AtomicU64::new(0),
            equal: AtomicU64::new(0),
            different: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            moving_equal: AtomicU64::new(0),
            moving_different: AtomicU64::new(0),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            book: Mutex::default(),
        }
    }
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    equal: u64,
    different: u64,
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    examples: VecDeque<Example>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Example {
    at_ms: u64,
    #[serde(flatten)]
    difference: Difference,
}

/// A place where two answers differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Difference {
    path: String,
    here: String,
    openclaw: String,
}

impl Difference {
    fn at(path: &[String], own: Option<&Value>, theirs: Option<&Value>) -> Self {
        Self {
            path: path.join("."),
            here: kind(own),
            openclaw: kind(theirs),
        }
    }
}

/// A call that OpenClaw answers and that is compared.
pub(crate) struct Comparison {
    app: Arc<App>,
    method: &'static str,
    own: Own,
    params: Option<Box<RawValue>>,
}

/// How we would answer.
#[derive(Clone, Copy)]
enum Own {
    /// What a client gets that the rollout brings over: the upstream's last word, told again.
    Known,
    /// What a gateway without an upstream answers.
    Alone(Serve),
}

impl std::fmt::Debug for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comparison")
            .field("method", &self.method)
            .finish()
    }
}

/// Whether this call is one of the sample: a read that moves with the rollout's percent, or that we could answer from
/// configuration and state alone.
pub(crate) fn sampled(app: &Arc<App>, frame: &RequestFrame<'_>) -> Option<Box<dyn Watch>> {
    let percent = u64::from(app.settings.load().shadow_percent);
    if percent == 0 {
        return None;
    }
    let row = methods::lookup(&frame.method)?;
    let reads = matches!(
        row.rule,
        ScopeRule::Static(Scope::Read | Scope::SessionsRead)
    );
    let own = match row.name {
        "health" | "last-heartbeat" if natives::moves(app, frame) => Own::Known,
        name => Own::Alone(alone::find(name).filter(|_| reads)?),
    };
    // Spread evenly: of 100 calls in a row, `percent`.
    let asked = app.shadow.asked.fetch_add(1, Ordering::Relaxed);
    if (asked + 1) * percent / 100 == asked * percent / 100 {
        return None;
    }
    Some(Box::new(Comparison {
        app: Arc::clone(app),
        method: row.name,
        own,
        params: frame.params.map(ToOwned::to_owned),
    }))
}

impl Watch for Comparison {
    /// Compares, in a task of its own.
    fn hear(self: Box<Self>, ok: bool, answer: Option<&RawValue>) -> Option<Afterwards> {
        let text = answer.map_or("null", RawValue::get);
        let room = Arc::clone(&self.app.shadow.room);
        let (Ok(permit), true) = (room.try_acquire_owned(), text.len() <= ANSWER_BYTES_MAX) else {
            self.app.shadow.skipped.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let theirs = text.to_owned();
        tokio::task::spawn_blocking(move || {
            let shadow = &self.app.shadow;
            match (self.own(), serde_json::from_str(&theirs)) {
                (Some(own), Ok(theirs)) => {
                    let equal = shadow.count(self.method, own, (ok, theirs), clock::now_ms());
                    if matches!(self.own, Own::Known) {
                        let counter = match equal {
                            true => &shadow.moving_equal,
                            false => &shadow.moving_different,
                        };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                }
                _ => {
                    shadow.skipped.fetch_add(1, Ordering::Relaxed);
                }
            }
            drop(permit);
        });
        None
    }
}

impl Comparison {
    /// `None`: we would have asked the upstream as well.
    fn own(&self) -> Option<(bool, Value)> {
        if fault::planted(self.method) == Some(Fault::Differ) {
            return Some((true, Value::from("planted")));
        }
        let (app, method, params) = (&self.app, self.method, self.params.as_deref());
        let serve = || match self.own {
            Own::Known => natives::known(app, method, params).map(Ok),
            Own::Alone(serve) => Some(natives::alone(app, method, serve, params)),
        };
        let reply = std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve));
        Some(match reply.transpose()? {
            Ok(Ok(payload)) => (true, serde_json::from_str(&payload).unwrap_or_default()),
            Ok(Err(error)) => (
                false,
                json!({ "code": error.code, "message": error.message }),
            ),
            Err(_panic) => (false, Value::from("our own answer panicked")),
        })
    }
}

impl Shadow {
    /// Whether they are equal.
    fn count(
        &self,
        method: &'static str,
        own: (bool, Value),
        theirs: (bool, Value),
        now_ms: u64,
    ) -> bool {
        let found = differences(own, theirs, now_ms);
        let mut book = self.book.lock();
        let row = book.entry(method).or_default();
        if found.is_empty() {
            row.equal += 1;
            self.equal.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        row.different += 1;
        self.different.fetch_add(1, Ordering::Relaxed);
        for difference in found {
            // The same place again says nothing new.
            row.examples
                .retain(|example| example.difference != difference);
            row.examples.push_back(Example {
                at_ms: now_ms,
                difference,
            });
        }
        while row.examples.len() > EXAMPLES_MAX {
            row.examples.pop_front();
        }
        false
    }

    fn report(&self, percent: u8) -> Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (equal, different) = (count(&self.equal), count(&self.different));
        let compared = equal + different;
        json!({
            "percent": percent,
            "compared": compared,
            "equal": equal,
            "different": different,
            "skipped": count(&self.skipped),
            "moving": { "equal": count(&self.moving_equal), "different": count(&self.moving_different) },
            "share": (compared > 0).then(|| equal as f64 / compared as f64),
            "methods": *self.book.lock(),
        })
    }
}

/// `GET /api/rollout/diff`.
pub(crate) async fn respond(
    app: &App,
    request: &Request<Incoming>,
    peer: RemoteEnd,
) -> Response<Body> {
    let admitted = crate::messages::api::admit(app, request.headers(), peer, "operator.read").await;
    if let Err(refusal) = admitted {
        return *refusal;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = answer(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({ "error": "use GET" }),
        );
        let allow = http::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(http::header::ALLOW, allow);
        return response;
    }
    let percent = app.settings.load().shadow_percent;
    answer(StatusCode::OK, &app.shadow.report(percent))
}

/// The first places where two answers differ.
fn differences(own: (bool, Value), theirs: (bool, Value), now_ms: u64) -> Vec<Difference> {
    if own.0 != theirs.0 {
        let word = |ok| if ok { "answers" } else { "refuses" }.to_owned();
        return vec![Difference {
            path: String::new(),
            here: word(own.0),
            openclaw: word(theirs.0),
        }];
    }
    let theirs = match own.0 {
        true => theirs.1,
        // Of a refusal: what a client decides by, and what a person reads.
        false => json!({ "code": theirs.1["code"], "message": theirs.1["message"] }),
    };
    let mut found = Vec::new();
    let (own, theirs) = (masked(own.1, "", now_ms), masked(theirs, "", now_ms));
    compare(&own, &theirs, &mut Vec::new(), &mut found);
    found
}

fn compare(own: &Value, theirs: &Value, path: &mut Vec<String>, found: &mut Vec<Difference>) {
    if found.len() >= EXAMPLES_MAX {
        return;
    }
    match (own, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let missing = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(missing) {
                path.push(name(key));
                match (a.get(key), b.get(key)) {
                    (Some(own), Some(theirs)) => compare(own, theirs, path, found),
                    (own, theirs) => found.push(Difference::at(path, own, theirs)),
                }
                path.pop();
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (own, theirs)) in a.iter().zip(b).enumerate() {
                path.push(index.to_string());
                compare(own, theirs, path, found);
                path.pop();
            }
        }
        _ if own == theirs => {}
        _ => found.push(Difference::at(path, Some(own), Some(theirs))),
    }
}

/// A key as it may be shown: one with many digits, or long, is somebody's number or id.
fn name(key: &str) -> String {
    let digits = key.bytes().filter(u8::is_ascii_digit).count();
    let plain = key.len() <= 40 && digits <= 4 && !key.contains(['@', ':', '/']);
    if plain { key } else { "*" }.to_owned()
}

/// A value as it may be shown.
fn kind(value: Option<&Value>) -> String {
    match value {
        None => "missing".to_owned(),
        Some(Value::String(text)) => format!("a text of {} characters", text.chars().count()),
        Some(Value::Array(items)) => format!("{} items", items.len()),
        Some(Value::Object(members)) => format!("an object of {}", members.len()),
        // A number can be somebody's.
        Some(Value::Number(number)) if number.to_string().len() > 6 => "a number".to_owned(),
        Some(plain) => plain.to_string(),
    }
}

/// Without what must differ between two answers: each such value becomes a word for its kind.
fn masked(value: Value, key: &str, now_ms: u64) -> Value {
    match value {
        // Of `health`: what the machine did in the seconds before, down to which members there are.
        Value::Object(_) if key == "eventLoop" => Value::from("<measured>"),
        Value::Object(members) => {
            let masked = |(name, value): (String, Value)| {
                let value = masked(value, &name, now_ms);
                (text(&name), value)
            };
            Value::Object(members.into_iter().map(masked).collect::<Map<_, _>>())
        }
        Value::Array(items) => {
            let masked = |item| masked(item, key, now_ms);
            Value::Array(items.into_iter().map(masked).collect())
        }
        Value::Number(_) if MEASURED.binary_search(&key).is_ok() => Value::from("<measured>"),
        Value::Number(number)
            if number.as_f64().is_some_and(|ms| {
                ms > 1e12 && (ms - now_ms as f64).abs() < 400.0 * DAY_MS as f64
            }) =>
        {
            Value::from("<ms>")
        }
        Value::String(one) => Value::from(text(&one)),
        other => other,
    }
}

fn text(one: &str) -> String {
    static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let patterns = [
            (
                r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)",
                "<iso>",
            ),
            (
                r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
                "<uuid>",
            ),
            (
                r"\b[0-9a-f]{32}(?:[0-9a-f]{8}(?:[0-9a-f]{24})?)?\b",
                "<hex>",
            ),
            (r"\b1[789]\d{11}\b", "<ms>"),
            (r"\b\d+(?:\.\d+)?\s?ms\b", "<n>ms"),
        ];
        let compiled = |(pattern, word)| Some((Regex::new(pattern).ok()?, word));
        patterns.into_iter().filter_map(compiled).collect()
    });
    let mut out = one.to_owned();
    for (pattern, word) in PATTERNS.iter() {
        if pattern.is_match(&out) {
            out = pattern.replace_all(&out, *word).into_owned();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000_000;

    #[test]
    fn the_list_is_sorted_and_every_pattern_compiles() {
        assert!(MEASURED.is_sorted());
        let each = "2026-11-29T08:00:00.123Z 0f8fad5b-d9cb-469f-a165-70867728950e 00112233445566778899aabbccddeeff 1795000000000 12 ms";
        assert_eq!(text(each), "<iso> <uuid> <hex> <ms> <n>ms");
    }

    #[test]
    fn moments_and_random_ids_are_no_difference() {
        let own = json!({ "ts": NOW, "uptimeMs": 5, "eventLoop": { "degraded": true, "reasons": ["cpu"] }, "id": "0f8fad5b-d9cb-469f-a165-70867728950e", "rows": [] });
        let theirs = json!({ "rows": [], "id": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "uptimeMs": 77, "eventLoop": { "degraded": false }, "ts": NOW - 9 });
        assert_eq!(differences((true, own), (true, theirs), NOW), []);
    }

    #[test]
    fn a_difference_says_where_and_of_what_kind_and_never_a_text() {
        let check = |own: Value, theirs: Value, path: &str, here: &str, openclaw: &str| {
            let found = differences((true, own), (true, theirs), NOW);
            let [found] = &found[..] else {
                panic!("{found:?}")
            };
            assert_eq!(
                (
                    found.path.as_str(),
                    found.here.as_str(),
                    found.openclaw.as_str()
                ),
                (path, here, openclaw)
            );
        };
        check(
            json!({ "a": [1, { "b": "secret" }] }),
            json!({ "a": [1, { "b": "other!!" }] }),
            "a.1.b",
            "a text of 6 characters",
            "a text of 7 characters",
        );
        check(
            json!({ "a": [] }),
            json!({ "a": [1, 2] }),
            "a",
            "0 items",
            "2 items",
        );
        check(
            json!({}),
            json!({ "agent:main:+491701234567": 1 }),
            "*",
            "missing",
            "1",
        );
        check(
            json!({ "x": null }),
            json!({ "x": true }),
            "x",
            "null",
            "true",
        );
        check(
            json!({ "n": 491_701_234_567_u64 }),
            json!({ "n": 5 }),
            "n",
            "a number",
            "5",
        );
        // A moment beside none is one.
        check(
            json!({ "at": null }),
            json!({ "at": NOW }),
            "at",
            "null",
            "a text of 4 characters",
        );
    }

    #[test]
    fn refusals_are_compared_by_code_and_words() {
        let error = |message: &str| {
            (
                false,
                json!({ "code": "INVALID_REQUEST", "message": message }),
            )
        };
        let more = (
            false,
            json!({ "code": "INVALID_REQUEST", "message": "no", "retryable": false }),
        );
        assert_eq!(differences(error("no"), more, NOW), []);
        assert_eq!(differences(error("no"), error("never"), NOW).len(), 1);
        let found = &differences((true, json!({})), error("no"), NOW)[0];
        assert_eq!(
            (found.here.as_str(), found.openclaw.as_str()),
            ("answers", "refuses")
        );
    }

    #[test]
    fn of_one_method_so_many_examples_are_kept() {
        let shadow = Shadow::default();
        for number in 0..50 {
            let own = json!({ format!("key{}", number % 20): 1 });
            shadow.count("health", (true, own), (true, json!({})), NOW + number);
        }
        shadow.count("health", (true, json!({})), (true, json!({})), NOW);
        let report = shadow.report(5);
        let row = &report["methods"]["health"];
        assert_eq!((&row["equal"], &row["different"]), (&json!(1), &json!(50)));
        assert_eq!(row["examples"].as_array().map(Vec::len), Some(EXAMPLES_MAX));
        assert_eq!(report["compared"], 51);
    }
}
