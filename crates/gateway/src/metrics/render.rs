//! Prometheus text. Every family has a sample before anything happened, so that an alert on it is never without data.
//! `docs/metrics.md` is made from what is written here.
//!
//! Names that start with `openclaw_` and not `openclaw_rs_` are the original's, with its meaning.
//! Source: docs/gateway/prometheus.md at 2026.9.6.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use super::snapshot::{MessageFacts, Snapshot, Upstream};
use super::{BUCKETS_US, CLOSE_CODES, ERROR_CODES, Histogram, Metrics, Owner};
use crate::bridge::UpstreamState;
use crate::messages::api::media::{Counts as MediaCounts, End, Operation};
use crate::rollout::window::Signal;

/// What the message store counts. Source: `history::count` in the crate `store`.
const MESSAGE_COUNTS: [&str; 8] = [
    "accepted",
    "delivered",
    "retried",
    "in_doubt",
    "dead",
    "received",
    "duplicate",
    "failed",
];

/// Where a message may wait.
const MESSAGE_STATES: [&str; 5] = ["pending", "leased", "in_doubt", "dead", "inbound"];

type Labels<'a> = &'a [(&'a str, &'a str)];

/// Text in the exposition format, one family after the other.
struct Text {
    out: String,
    name: &'static str,
}

impl Text {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> &mut Self {
        self.name = name;
        // Writing to a string cannot fail.
        let _infallible = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self
    }

    fn counter(&mut self, name: &'static str, help: &str) -> &mut Self {
        self.family(name, "counter", help)
    }

    fn gauge(&mut self, name: &'static str, help: &str) -> &mut Self {
        self.family(name, "gauge", help)
    }

    fn value(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Self {
        self.sample("", labels, value)
    }

    fn atomic(&mut self, labels: Labels<'_>, value: &AtomicU64) -> &mut Self {
        self.sample("", labels, value.load(Ordering::Relaxed))
    }

    fn sample(&mut self, suffix: &str, labels: Labels<'_>, value: impl Display) -> &mut Self {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.out.push(if at == 0 { '{' } else { ',' });
            self.out.push_str(label);
            self.out.push_str("=\"");
            for character in text.chars() {
                match character {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _infallible = writeln!(self.out, " {value}");
        self
    }

    fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        let (cumulative, sum) = histogram.read();
        for (at, count) in cumulative.iter().enumerate() {
            let bound = BUCKETS_US
                .get(at)
                .map_or_else(|| "+Inf".to_owned(), |us| (*us as f64 / 1e6).to_string());
            let with_bound: Vec<(&str, &str)> = labels
                .iter()
                .copied()
                .chain(std::iter::once(("le", bound.as_str())))
                .collect();
            self.sample("_bucket", &with_bound, count);
        }
        self.sample("_sum", labels, sum);
        self.sample("_count", labels, cumulative[BUCKETS_US.len()]);
    }
}

/// All families, each with its samples.
pub(crate) fn render(metrics: &Metrics, snapshot: &Snapshot) -> String {
    let mut text = Text {
        out: String::with_capacity(64 * 1024),
        name: "",
    };
    identity(&mut text, snapshot);
    process(&mut text, snapshot);
    traffic(&mut text, metrics, snapshot);
    upstream(&mut text, &snapshot.upstream);
    configuration(&mut text, snapshot);
    if let Some(facts) = &snapshot.messages {
        messages(&mut text, facts);
    }
    media(&mut text, &snapshot.media);
    text.out
}

fn identity(text: &mut Text, snapshot: &Snapshot) {
    let mut labels = vec![("process_instance_id", snapshot.instance_id.as_str())];
    labels.extend(snapshot.build_id.as_deref().map(|id| ("build_id", id)));
    text.gauge(
        "openclaw_gateway_build_info",
        "1, with the process that serves this and the build of the Control UI.",
    )
    .value(&labels, 1);
    text.gauge(
        "openclaw_rs_build_info",
        "1, with this gateway's version and the OpenClaw version it speaks.",
    )
    .value(
        &[
            ("version", env!("CARGO_PKG_VERSION")),
            ("openclaw", wire::REFERENCE_VERSION),
        ],
        1,
    );
    text.counter("openclaw_rs_uptime_seconds", "Seconds since the start.")
        .value(&[], snapshot.uptime_seconds);
}

fn process(text: &mut Text, snapshot: &Snapshot) {
    let own = &snapshot.own;
    text.counter(
        "process_cpu_seconds_total",
        "User and system time of this process.",
    )
    .value(&[], own.cpu_seconds);
    text.gauge(
        "process_resident_memory_bytes",
        "Resident memory of this process.",
    )
    .value(&[], own.resident_bytes);
    text.gauge(
        "process_virtual_memory_bytes",
        "Address space of this process.",
    )
    .value(&[], own.virtual_bytes);
    text.gauge("process_open_fds", "Open file descriptors of this process.")
        .value(&[], own.open_files);
    text.gauge(
        "process_max_fds",
        "File descriptors that this process may open; 0 means without a limit.",
    )
    .value(&[], own.open_files_max);
    text.gauge("process_threads", "Threads of this process.")
        .value(&[], own.threads);
    text.gauge(
        "process_start_time_seconds",
        "When this process started, Unix time.",
    )
    .value(&[], snapshot.started_seconds);
    text.gauge(
        "openclaw_memory_bytes",
        "Memory of the gateway by kind; of this one only `rss` exists.",
    )
    .value(&[("kind", "rss")], own.resident_bytes);
    text.gauge(
        "openclaw_rs_heap_bytes",
        "Bytes that the allocator has given out; 0 where it does not tell.",
    )
    .value(&[], snapshot.heap_bytes);
}

fn traffic(text: &mut Text, metrics: &Metrics, snapshot: &Snapshot) {
    text.gauge(
        "openclaw_rs_connections",
        "Open authenticated client connections.",
    )
    .value(&[], snapshot.connections);
    text.counter(
        "openclaw_rs_connects_refused_total",
        "Connects that were turned away; `openclaw-gateway doctor` lists the last ones.",
    )
    .value(&[], snapshot.refused_connects);
    text.counter("openclaw_rs_websocket_opens_total", "WebSockets opened.")
        .atomic(&[], &metrics.websocket_opens);
    text.counter(
        "openclaw_rs_websocket_closes_total",
        "WebSockets closed, by close code; 1005 is a close without one, 1006 a socket that just ended.",
    );
    for (at, count) in metrics.websocket_closes.iter().enumerate() {
        let code = CLOSE_CODES
            .get(at)
            .map_or_else(|| "other".to_owned(), ToString::to_string);
        text.atomic(&[("code", &code)], count);
    }
    text.counter(
        "openclaw_rs_http_responses_total",
        "HTTP answers by class of status; 1xx are upgrades.",
    );
    for (at, count) in metrics.http.iter().enumerate() {
        text.atomic(&[("class", &format!("{}xx", at + 1))], count);
    }
    text.counter("openclaw_rs_requests_total", "Request frames received.")
        .atomic(&[], &metrics.requests);
    text.counter(
        "openclaw_rs_requests_bridged_total",
        "Request frames handed to the TypeScript gateway; the others were answered here.",
    )
    .atomic(&[], &metrics.bridged);
    text.counter(
        "openclaw_gateway_rpc_requests_total",
        "Calls by method; `other` are those of plugins and unknown ones. A method has a series once it was called.",
    );
    for (name, row) in metrics.rows() {
        if name == "other" || row.requests.load(Ordering::Relaxed) > 0 {
            text.atomic(&[("method", name)], &row.requests);
        }
    }
    text.family(
        "openclaw_gateway_rpc_first_response_seconds",
        "histogram",
        "From a call's frame to its first answer, by method and by who answers it: `native` (here) or `upstream`.",
    );
    for (name, row) in metrics.rows() {
        for owner in Owner::ALL {
            let histogram = &row.answers[owner as usize];
            let is_used = || histogram.read().0[BUCKETS_US.len()] > 0;
            if name == "other" || is_used() {
                let labels = [("method", name), ("owner", owner.as_str())];
                text.histogram(&labels, histogram);
            }
        }
    }
    text.counter(
        "openclaw_rs_rpc_errors_total",
        "Calls answered with an error, by its code and by who answers.",
    );
    for owner in Owner::ALL {
        for (at, code) in ERROR_CODES.iter().enumerate() {
            let labels = [("code", *code), ("owner", owner.as_str())];
            text.atomic(&labels, &metrics.errors[owner as usize][at]);
        }
    }
}

fn upstream(text: &mut Text, upstream: &Upstream) {
    text.gauge(
        "openclaw_rs_upstream_state",
        "1 for what is true of the TypeScript gateway now, 0 for the others.",
    );
    for word in UpstreamState::WORDS {
        text.value(&[("state", word)], u8::from(word == upstream.state));
    }
    text.gauge(
        "openclaw_rs_upstream_ready",
        "1 while the TypeScript gateway answers.",
    )
    .value(&[], u8::from(upstream.state == "ready"));
    text.counter(
        "openclaw_rs_upstream_epoch",
        "Starts of the TypeScript gateway that were noticed; 0 while it does not answer.",
    )
    .value(&[], upstream.epoch);
    text.counter(
        "openclaw_rs_upstream_starts_total",
        "Starts of a TypeScript gateway that this one supervises; all but the first are restarts.",
    )
    .value(&[], upstream.vitals.starts);
    text.gauge(
        "openclaw_rs_upstream_memory_bytes",
        "Resident memory of the TypeScript gateway and all it started; pages that several processes share count for each.",
    )
    .value(&[], upstream.tree.resident_bytes);
    text.gauge(
        "openclaw_rs_upstream_memory_max_bytes",
        "Ceiling of that memory (`upstream.memory_max_mib`); 0 for none.",
    )
    .value(&[], upstream.vitals.memory_max);
    text.counter(
        "openclaw_rs_upstream_memory_restarts_total",
        "Times that a supervised TypeScript gateway was started anew for being past its ceiling.",
    )
    .value(&[], upstream.vitals.memory_restarts);
    text.gauge(
        "openclaw_rs_upstream_processes",
        "The TypeScript gateway and all it started, as processes.",
    )
    .value(&[], upstream.tree.processes);
    text.gauge(
        "openclaw_rs_upstream_cpu_seconds",
        "User and system time of those of them that live.",
    )
    .value(&[], upstream.tree.cpu_seconds);
}

fn configuration(text: &mut Text, snapshot: &Snapshot) {
    text.gauge(
        "openclaw_rs_rollout_percent",
        "Percent of clients, as configured, whose native methods are answered here.",
    )
    .value(&[], snapshot.percent);
    text.gauge(
        "openclaw_rs_rollout_effective_percent",
        "The same, as it is in force: 100 without an upstream.",
    )
    .value(&[], snapshot.effective);
    guard(text, snapshot);
    let shadow = text.counter(
        "openclaw_rs_shadow_total",
        "Reads answered by both sides, by what the comparison gave.",
    );
    for (result, value) in snapshot.shadow {
        shadow.value(&[("result", result)], value);
    }
    let moving = text.counter(
        "openclaw_rs_shadow_moving_total",
        "Those of them whose rows move with the rollout's percent: what a client would notice.",
    );
    for (result, value) in ["equal", "different"].iter().zip(snapshot.shadow_moving) {
        moving.value(&[("result", result)], value);
    }
    text.counter(
        "openclaw_rs_config_reloads_total",
        "Changed configurations that were taken.",
    )
    .value(&[], snapshot.reloads_applied);
    text.counter(
        "openclaw_rs_config_reloads_refused_total",
        "Changed configurations that could not be used; the old one stayed.",
    )
    .value(&[], snapshot.reloads_refused);
    embedding(text, &snapshot.embedding);
}

/// What the vectors of memories cost.
fn embedding(text: &mut Text, usage: &memory::Usage) {
    let rows = [
        (
            "openclaw_rs_memory_embedding_requests_total",
            "Requests to embedding services for memories.",
            usage.requests,
        ),
        (
            "openclaw_rs_memory_embedding_repeats_total",
            "Of these, asked again because the service was busy or away.",
            usage.repeats,
        ),
        (
            "openclaw_rs_memory_embedding_texts_total",
            "Texts that got a vector from a service, questions included; what was kept from before costs none.",
            usage.texts,
        ),
        (
            "openclaw_rs_memory_embedding_tokens_total",
            "Tokens of these texts as the services count them; some do not say.",
            usage.tokens,
        ),
    ];
    for (name, help, value) in rows {
        text.counter(name, help).value(&[], value);
    }
}

/// What the rollout's guard sees, in seconds and shares.
fn guard(text: &mut Text, snapshot: &Snapshot) {
    let report = &snapshot.guard;
    text.gauge(
        "openclaw_rs_rollout_guard_tripped",
        "1 while the rollout is back at 0 % because its guard saw a bound passed; `openclaw-gateway rollout status` says which.",
    )
    .value(&[], u8::from(report.trip.is_some()));
    text.counter(
        "openclaw_rs_rollout_guard_trips_total",
        "Times that the guard went back, by the signal that was past its bound.",
    );
    for (signal, trips) in Signal::ALL.into_iter().zip(snapshot.guard_trips) {
        text.value(&[("signal", signal.as_str())], trips);
    }
    text.gauge(
        "openclaw_rs_rollout_guard_calls",
        "Calls in the guard's window whose rows move with the percent, by who answered.",
    );
    for (owner, calls) in Owner::ALL
        .into_iter()
        .zip([report.look.native_calls, report.look.upstream_calls])
    {
        text.value(&[("side", owner.as_str())], calls);
    }
    let readings = || Signal::ALL.into_iter().zip(report.look.readings);
    text.gauge(
        "openclaw_rs_rollout_guard_value",
        "What the guard's window gives: `errors` and `mismatch` as shares, `p99` and `queue` in seconds; 0 while too little happened to say.",
    );
    for (signal, reading) in readings() {
        let labels = [("signal", signal.as_str()), ("side", "native")];
        text.value(&labels, reading.native.unwrap_or(0.0));
        // Of the upstream's queue nothing is known, and a comparison has no sides.
        if matches!(signal, Signal::Errors | Signal::P99) {
            let labels = [("signal", signal.as_str()), ("side", "upstream")];
            text.value(&labels, reading.upstream.unwrap_or(0.0));
        }
    }
    text.gauge(
        "openclaw_rs_rollout_guard_bound",
        "What the native value must not pass now; it follows the upstream's.",
    );
    for (signal, reading) in readings() {
        text.value(&[("signal", signal.as_str())], reading.bound);
    }
}

fn messages(text: &mut Text, facts: &MessageFacts) {
    text.gauge(
        "openclaw_rs_store_healthy",
        "1 while messages can be stored.",
    )
    .value(&[], u8::from(facts.healthy));
    text.counter(
        "openclaw_rs_store_commits_total",
        "Commits of the message store; each is one fsync.",
    )
    .value(&[], facts.commits);
    let counted = |channel: &str, what: &str| {
        let found = facts
            .counters
            .iter()
            .find(|(c, w, _)| c == channel && w == what);
        found.map_or(0, |(.., value)| *value)
    };
    text.counter(
        "openclaw_rs_messages_total",
        "Messages by channel and what became of them: `accepted` to be sent, then `delivered`, `retried`, `in_doubt`, `dead`; `received` from a chat, `duplicate`, `failed`.",
    );
    for channel in &facts.channels {
        for what in MESSAGE_COUNTS {
            text.value(
                &[("channel", channel), ("what", what)],
                counted(channel, what),
            );
        }
    }
    text.counter(
        "openclaw_message_received_total",
        "Messages that came from a chat, by channel.",
    );
    for channel in &facts.channels {
        text.value(&[("channel", channel)], counted(channel, "received"));
    }
    text.counter(
        "openclaw_message_delivery_total",
        "Messages that came to rest, by channel: `completed`, or `error` for a dead letter.",
    );
    for channel in &facts.channels {
        for (outcome, what) in [("completed", "delivered"), ("error", "dead")] {
            let labels = [("channel", channel.as_str()), ("outcome", outcome)];
            text.value(&labels, counted(channel, what));
        }
    }
    // Rows and when the oldest of them came.
    let waiting = |channel: &str, state: &str| {
        let outbound = facts
            .outbound
            .iter()
            .find(|w| w.channel == channel && w.state.as_str() == state);
        let inbound = facts
            .inbound
            .iter()
            .find(|(c, ..)| state == "inbound" && c == channel);
        outbound
            .map(|waiting| (waiting.rows, waiting.oldest_ms))
            .or(inbound.map(|(_, rows, oldest_ms)| (*rows, *oldest_ms)))
    };
    text.gauge(
        "openclaw_rs_messages_waiting",
        "Messages that have not come to rest, or are held, by channel and state; `inbound` wait for an agent.",
    );
    for channel in &facts.channels {
        for state in MESSAGE_STATES {
            let rows = waiting(channel, state).map_or(0, |(rows, _)| rows);
            text.value(&[("channel", channel), ("state", state)], rows);
        }
    }
    text.gauge(
        "openclaw_rs_messages_oldest_seconds",
        "Age of the oldest of them; 0 without any.",
    );
    for channel in &facts.channels {
        for state in MESSAGE_STATES {
            let age = waiting(channel, state).map_or(0, |(_, oldest_ms)| {
                facts.now_ms.saturating_sub(oldest_ms).max(0) / 1000
            });
            text.value(&[("channel", channel), ("state", state)], age);
        }
    }
}

/// `POST /api/media/…`.
fn media(text: &mut Text, counts: &MediaCounts) {
    text.counter(
        "openclaw_rs_media_requests_total",
        "Requests to /api/media, by how they ended: `refused` for what they were, `busy` for want of room or time, `gone` when nobody waited any more.",
    );
    for (operation, ends) in Operation::ALL.into_iter().zip(&counts.ends) {
        for (end, count) in End::ALL.into_iter().zip(ends) {
            text.value(
                &[("operation", operation.name()), ("end", end.name())],
                count,
            );
        }
    }
    text.counter(
        "openclaw_rs_media_work_seconds_total",
        "Time that was waited for their work.",
    )
    .value(&[], counts.work_seconds);
    text.gauge(
        "openclaw_rs_media_body_bytes",
        "Room that their files have now; past 64 MiB more are refused.",
    )
    .value(&[], counts.body_bytes);
}
