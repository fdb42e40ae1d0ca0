use std::collections::BTreeMap;
use std::path::Path;

use super::render::render;
use super::snapshot::{MessageFacts, Snapshot};
use super::*;

/// As at a first start with the web chat alone.
fn fresh() -> Snapshot {
    Snapshot {
        messages: Some(MessageFacts {
            channels: ["webchat".to_owned()].into(),
            ..MessageFacts::default()
        }),
        ..Snapshot::default()
    }
}

struct Family {
    name: String,
    kind: String,
    help: String,
    /// Names of the labels of the first sample, without `le`.
    labels: Vec<String>,
    samples: usize,
}

fn families(text: &str) -> Vec<Family> {
    let mut all: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            all.push(Family {
                name: name.to_owned(),
                kind: String::new(),
                help: help.to_owned(),
                labels: Vec::new(),
                samples: 0,
            });
            continue;
        }
        let family = all.last_mut().unwrap();
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family.name);
            family.kind = kind.to_owned();
            continue;
        }
        assert!(line.starts_with(&family.name), "{line}");
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
        if family.samples == 0
            && let Some((_, labels)) = line.split_once('{')
        {
            let labels = labels
                .split("\",")
                .filter_map(|label| label.split_once("=\""));
            family.labels = labels
                .map(|(name, _)| name.to_owned())
                .filter(|name| name != "le")
                .collect();
        }
        family.samples += 1;
    }
    all
}

fn document(text: &str) -> String {
    let mut out = String::from(
        "# Metrics\n\nMade from the code: `UPDATE_DOCS=1 cargo test -p gateway metrics` writes it, and the test fails when it is \
         not in step.\n\nServed without authentication on the admin listener (`admin.listen`, 127.0.0.1:18689) at `/metrics`, and \
         at the\noriginal's `/api/diagnostics/prometheus` on the gateway's own port for a bearer with `operator.read`. Names that \
         start\nwith `openclaw_` and not with `openclaw_rs_` are the original's, with its meaning; `owner` is an addition of \
         ours. Where\nthe OpenClaw behind runs its `diagnostics-prometheus` plugin, its families that are not below follow at \
         the second address.\n\nEvery family has a sample from the start. Labels take a closed set of values: methods are \
         those of the protocol and\n`other`, channels those that are configured or have messages.\n\n\
         | metric | type | labels | what it is |\n|---|---|---|---|\n",
    );
    for family in families(text) {
        let labels: Vec<String> = family
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        out.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            family.name,
            family.kind,
            labels.join(", "),
            family.help
        ));
    }
    out
}

#[test]
fn the_document_is_that_of_the_code() {
    let made = document(&render(&Metrics::default(), &fresh()));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == made,
        "docs/metrics.md is not in step: run UPDATE_DOCS=1 cargo test -p gateway metrics"
    );
}

#[test]
fn every_family_has_a_sample_before_anything_happened_and_is_told_once() {
    let all = families(&render(&Metrics::default(), &fresh()));
    let mut seen = BTreeMap::new();
    for family in &all {
        assert!(family.samples > 0, "{} has no sample", family.name);
        assert!(family.help.ends_with('.'), "{}", family.help);
        assert!(["counter", "gauge", "histogram"].contains(&&*family.kind));
        assert_eq!(seen.insert(&family.name, ()), None, "{} twice", family.name);
    }
    assert!(all.len() > 35, "{}", all.len());
}

#[test]
fn calls_have_a_row_of_their_method_and_names_that_clients_make_up_have_one_together() {
    let metrics = Metrics::default();
    for n in 0..1000 {
        let made_up = metrics.begin(&format!("nope-{n}\"}}"));
        assert_eq!(made_up.method(), None);
        metrics.end(made_up, Owner::Native, Some("INVALID_REQUEST"));
    }
    let health = metrics.begin("health");
    assert_eq!(health.method().map(|method| method.name), Some("health"));
    metrics.end(health, Owner::Upstream, Some("NEVER_SEEN"));
    metrics.closed(1006);
    metrics.closed(4999);
    let text = render(&metrics, &fresh());
    for line in [
        "openclaw_gateway_rpc_requests_total{method=\"health\"} 1",
        "openclaw_gateway_rpc_requests_total{method=\"other\"} 1000",
        "openclaw_gateway_rpc_first_response_seconds_count{method=\"health\",owner=\"upstream\"} 1",
        "openclaw_gateway_rpc_first_response_seconds_bucket{method=\"health\",owner=\"upstream\",le=\"+Inf\"} 1",
        "openclaw_gateway_rpc_first_response_seconds_count{method=\"other\",owner=\"native\"} 1000",
        "openclaw_rs_rpc_errors_total{code=\"INVALID_REQUEST\",owner=\"native\"} 1000",
        "openclaw_rs_rpc_errors_total{code=\"other\",owner=\"upstream\"} 1",
        "openclaw_rs_websocket_closes_total{code=\"1006\"} 1",
        "openclaw_rs_websocket_closes_total{code=\"other\"} 1",
    ] {
        assert!(text.lines().any(|have| have == line), "no {line}");
    }
    assert!(!text.contains("nope-"));
}

#[test]
fn of_calls_that_move_those_failed_that_the_caller_did_not_earn() {
    let metrics = Metrics::default();
    let end = |moves: bool, owner: Owner, error: Option<&str>| {
        let timing = metrics.begin("health").moving(moves);
        metrics.taken(timing);
        metrics.end(timing, owner, error);
    };
    for earned in ["INVALID_REQUEST", "FORBIDDEN", "NOT_PAIRED"] {
        end(true, Owner::Native, Some(earned));
    }
    for own in ["UNAVAILABLE", "AGENT_TIMEOUT", "INTERNAL", ""] {
        end(true, Owner::Native, Some(own));
    }
    end(true, Owner::Upstream, Some("UNAVAILABLE"));
    // The rollout decides nothing about it.
    end(false, Owner::Native, Some("UNAVAILABLE"));
    let seen = metrics.moved.each_ref().map(|side| {
        let calls: u64 = side.times.counts().iter().sum();
        (calls, side.failed.load(Ordering::Relaxed))
    });
    assert_eq!(seen, [(7, 4), (1, 1)]);
    assert_eq!(metrics.moved[0].begun.load(Ordering::Relaxed), 8);
}

#[test]
fn a_time_falls_into_the_first_bucket_that_holds_it() {
    let histogram = Histogram::default();
    for us in [0, 25, 26, 5_000, 5_001, 700_000_000] {
        histogram.observe(Duration::from_micros(us));
    }
    let (cumulative, sum) = histogram.read();
    assert_eq!(&cumulative[..3], [2, 3, 3]);
    let at = |us| BUCKETS_US.iter().position(|bound| *bound == us).unwrap();
    assert_eq!(cumulative[at(2_500)], 3);
    assert_eq!(cumulative[at(5_000)], 4);
    assert_eq!(cumulative[at(10_000)], 5);
    assert_eq!(cumulative[at(600_000_000)], 5);
    assert_eq!(cumulative[BUCKETS_US.len()], 6);
    assert!((sum - 700.010_052).abs() < 1e-6, "{sum}");
}

#[test]
fn a_label_may_hold_anything() {
    let facts = MessageFacts {
        channels: ["a\"b\\c\nd".to_owned()].into(),
        ..MessageFacts::default()
    };
    let snapshot = Snapshot {
        messages: Some(facts),
        ..Snapshot::default()
    };
    let text = render(&Metrics::default(), &snapshot);
    assert!(text.contains(r#"openclaw_message_received_total{channel="a\"b\\c\nd"} 0"#));
}
