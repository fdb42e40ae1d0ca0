//! The four kinds of load. Each answers one JSON value for the driver.

pub mod closed;
pub mod fanout;
pub mod idle;
pub mod rate;

use std::time::Duration;

use serde_json::{Value, json};

use crate::process;

/// The first error answers of a run, kept to show why it is not clean.
#[derive(Default, Clone)]
pub struct Failures {
    pub count: u64,
    pub samples: Vec<String>,
}

const SAMPLES: usize = 3;

impl Failures {
    pub fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(what());
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        let room = SAMPLES.saturating_sub(self.samples.len());
        self.samples.extend(other.samples.into_iter().take(room));
    }

    pub fn summary(&self) -> Value {
        json!({ "count": self.count, "samples": self.samples })
    }
}

/// CPU and memory of the server (by pid, when known) and CPU of the generator itself over one run.
pub struct Meter {
    pid: Option<u32>,
    server_cpu_s: Option<f64>,
    own_cpu_s: f64,
}

impl Meter {
    pub fn start(pid: Option<u32>) -> Self {
        Self {
            pid,
            server_cpu_s: pid.and_then(process::cpu_s),
            own_cpu_s: process::cpu_s(std::process::id()).unwrap_or(0.0),
        }
    }

    /// `{generatorCores, serverCores?, serverRssKb?, serverPeakKb?}`; cores are CPU seconds per second.
    pub fn stop(self, elapsed: Duration) -> Value {
        let cores = |before: f64, after: Option<f64>| {
            after.map(|after| ((after - before) / elapsed.as_secs_f64() * 1000.0).round() / 1000.0)
        };
        let memory = self.pid.and_then(process::memory);
        json!({
            "generatorCores": cores(self.own_cpu_s, process::cpu_s(std::process::id())),
            "serverCores": self.server_cpu_s.and_then(|s| cores(s, self.pid.and_then(process::cpu_s))),
            "serverRssKb": memory.map(|m| m.rss_kb),
            "serverPeakKb": memory.map(|m| m.peak_kb),
        })
    }
}
