//! Peers that run on Node, driven by expressions: see `tests/lib/peers.mjs`.

use crate::support::{Process, free_port};
use channels::accounts::{self, Account};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Peers {
    process: Process,
    control: String,
    _folder: tempfile::TempDir,
}

impl Peers {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/lib/peers.mjs");
        let port = free_port();
        let mut command = Command::new(node());
        command.arg(script).arg(port.to_string());
        let mut process = Process::start(command, &folder.path().join("log"));
        process.listens(port).await;
        Self {
            process,
            control: format!("http://127.0.0.1:{port}/"),
            _folder: folder,
        }
    }

    /// The value of a JavaScript expression.
    pub async fn eval(&self, expression: &str) -> Value {
        let http = channels::web::Http::new(&channels::web::HttpOptions::default()).unwrap();
        let request = http.post(&self.control).unwrap();
        let answer = request.body(expression.to_owned()).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.process.said()));
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{expression}: {text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// The pinned Node that `cargo xtask setup` installs, else the one on PATH.
fn node() -> PathBuf {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("OPENCLAW_RS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|c| c.join("openclaw-rs")))
        .or_else(|| set("HOME").map(|h| h.join(".cache/openclaw-rs")));
    let versions = cache.and_then(|cache| std::fs::read_dir(cache.join("node")).ok());
    versions
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin/node")))
        .filter(|node| node.exists())
        .max()
        .unwrap_or_else(|| PathBuf::from("node"))
}

pub fn account(channel: &str, settings: &Value) -> Account {
    accounts::of(channel, settings).remove(0)
}
