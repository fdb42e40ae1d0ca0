//! A Synapse of its own, and people on it who speak plain HTTP.

use crate::support::{PATIENCE, Process, free_port, wait_for};
use channels::web::{Http, HttpOptions};
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// Where `cargo xtask setup` has put it.
fn python() -> PathBuf {
    let requirements = include_str!("../../../../tests/synapse-requirements.txt");
    let version = requirements
        .lines()
        .find_map(|line| line.strip_prefix("matrix-synapse=="))
        .unwrap();
    let set = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("OPENCLAW_RS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|c| c.join("openclaw-rs")))
        .or_else(|| set("HOME").map(|h| h.join(".cache/openclaw-rs")))
        .unwrap();
    let python = cache.join("synapse").join(version).join("bin/python");
    assert!(
        python.exists(),
        "{} is missing: run `cargo xtask setup`",
        python.display()
    );
    python
}

pub struct Synapse {
    _process: Process,
    folder: TempDir,
    pub url: String,
}

impl Synapse {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let port = free_port();
        let limitless = json!({ "per_second": 10000, "burst_count": 10000 });
        // Synapse reads YAML, and JSON is YAML.
        let config = json!({
            "server_name": "localhost",
            "pid_file": at("pid"),
            "listeners": [{ "bind_addresses": ["127.0.0.1"], "port": port, "tls": false,
                "type": "http", "resources": [{ "names": ["client"], "compress": false }] }],
            "database": { "name": "sqlite3", "args": { "database": at("db") } },
            "media_store_path": at("media"),
            "signing_key_path": at("signing.key"),
            "macaroon_secret_key": "m", "form_secret": "f", "registration_shared_secret": "r",
            "report_stats": false, "trusted_key_servers": [],
            "enable_registration": true, "enable_registration_without_verification": true,
            "bcrypt_rounds": 4,
            "rc_message": limitless, "rc_registration": limitless, "rc_invites": {
                "per_room": limitless, "per_user": limitless, "per_issuer": limitless },
            "rc_joins": { "local": limitless }, "rc_room_creation": limitless,
            "rc_login": { "address": limitless, "account": limitless },
        });
        std::fs::write(at("homeserver.yaml"), config.to_string()).unwrap();
        let keys = Command::new(python())
            .args(["-m", "synapse.app.homeserver", "--generate-keys", "-c"])
            .arg(at("homeserver.yaml"))
            .output()
            .unwrap();
        assert!(
            keys.status.success(),
            "{}",
            String::from_utf8_lossy(&keys.stderr)
        );
        let mut command = Command::new(python());
        command
            .args(["-m", "synapse.app.homeserver", "-c"])
            .arg(at("homeserver.yaml"))
            .current_dir(folder.path());
        let mut process = Process::start(command, &folder.path().join("log"));
        process.listens(port).await;
        Self {
            _process: process,
            folder,
            url: format!("http://127.0.0.1:{port}"),
        }
    }

    pub async fn register(&self, name: &str) -> Person {
        let ask = json!({ "username": name, "password": format!("{name}-password"),
            "device_id": "PERSON", "auth": { "type": "m.login.dummy" } });
        let made = call(
            &self.url,
            None,
            Method::POST,
            "/_matrix/client/v3/register",
            Some(ask),
        )
        .await;
        self.person(&made)
    }

    fn person(&self, login: &Value) -> Person {
        Person {
            url: self.url.clone(),
            token: login["access_token"].as_str().unwrap().to_owned(),
            sent: AtomicU32::new(0),
            since: Mutex::new(None),
        }
    }

    /// One who may change the server.
    pub async fn admin(&self) -> Person {
        let made = Command::new(python())
            .args([
                "-m",
                "synapse._scripts.register_new_matrix_user",
                "-u",
                "admin",
                "-p",
                "admin",
                "-a",
                "-c",
            ])
            .arg(self.folder.path().join("homeserver.yaml"))
            .arg(&self.url)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let ask = json!({ "type": "m.login.password", "password": "admin",
            "identifier": { "type": "m.id.user", "user": "admin" } });
        let login = call(
            &self.url,
            None,
            Method::POST,
            "/_matrix/client/v3/login",
            Some(ask),
        )
        .await;
        self.person(&login)
    }
}

async fn call(
    url: &str,
    token: Option<&str>,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Value {
    let http = Http::new(&HttpOptions {
        timeout: PATIENCE,
        ..HttpOptions::default()
    })
    .unwrap();
    let mut request = http.request(method, &format!("{url}{path}")).unwrap();
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert!(status.is_success(), "{path}: {status}: {body}");
    body
}

pub struct Person {
    url: String,
    pub token: String,
    sent: AtomicU32,
    /// Where `ephemeral` goes on.
    since: Mutex<Option<String>>,
}

impl Person {
    pub async fn get(&self, path: &str) -> Value {
        call(&self.url, Some(&self.token), Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        call(&self.url, Some(&self.token), Method::POST, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Value {
        call(
            &self.url,
            Some(&self.token),
            Method::DELETE,
            path,
            Some(json!({})),
        )
        .await
    }

    pub async fn room(&self, ask: Value) -> String {
        let made = self.post("/_matrix/client/v3/createRoom", ask).await;
        made["room_id"].as_str().unwrap().to_owned()
    }

    pub async fn invite(&self, room: &str, user: &str) {
        let path = format!("/_matrix/client/v3/rooms/{room}/invite");
        self.post(&path, json!({ "user_id": user })).await;
    }

    pub async fn event(&self, room: &str, kind: &str, content: Value) -> String {
        let n = self.sent.fetch_add(1, Ordering::Relaxed);
        let path = format!("/_matrix/client/v3/rooms/{room}/send/{kind}/t{n}");
        let sent = call(
            &self.url,
            Some(&self.token),
            Method::PUT,
            &path,
            Some(content),
        )
        .await;
        sent["event_id"].as_str().unwrap().to_owned()
    }

    pub async fn say(&self, room: &str, text: &str) -> String {
        self.event(
            room,
            "m.room.message",
            json!({ "msgtype": "m.text", "body": text }),
        )
        .await
    }

    pub async fn redact(&self, room: &str, event: &str) {
        let n = self.sent.fetch_add(1, Ordering::Relaxed);
        let path = format!("/_matrix/client/v3/rooms/{room}/redact/{event}/r{n}");
        call(
            &self.url,
            Some(&self.token),
            Method::PUT,
            &path,
            Some(json!({})),
        )
        .await;
    }

    pub async fn upload(&self, name: &str, mime: &str, content: &[u8]) -> String {
        let http = Http::new(&HttpOptions::default()).unwrap();
        let url = format!("{}/_matrix/media/v3/upload?filename={name}", self.url);
        let request = http.post(&url).unwrap().bearer_auth(&self.token);
        let request = request.header("content-type", mime).body(content.to_vec());
        let made: Value = request.send().await.unwrap().json().await.unwrap();
        made["content_uri"].as_str().unwrap().to_owned()
    }

    pub async fn download(&self, mxc: &str) -> Vec<u8> {
        let http = Http::new(&HttpOptions::default()).unwrap();
        let place = mxc.strip_prefix("mxc://").unwrap();
        let url = format!("{}/_matrix/client/v1/media/download/{place}", self.url);
        let answer = http
            .get(&url)
            .unwrap()
            .bearer_auth(&self.token)
            .send()
            .await
            .unwrap();
        answer.bytes().await.unwrap().to_vec()
    }

    /// The newest events of a room, oldest first.
    pub async fn history(&self, room: &str) -> Vec<Value> {
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=200");
        let mut events = self.get(&path).await["chunk"].as_array().unwrap().clone();
        events.reverse();
        events
    }

    pub async fn wait_event(
        &self,
        room: &str,
        what: &str,
        is_it: impl Fn(&Value) -> bool,
    ) -> Value {
        wait_for(what, async || {
            self.history(room).await.into_iter().find(&is_it)
        })
        .await
    }

    /// Until somebody is in the room.
    pub async fn meet(&self, room: &str, user: &str) {
        let path = format!("/_matrix/client/v3/rooms/{room}/joined_members");
        wait_for("member", async || {
            let found = self.get(&path).await;
            found["joined"].get(user).is_some().then_some(())
        })
        .await;
    }

    /// What went on in a room besides messages since the last time we looked.
    pub async fn ephemeral(&self, room: &str, kind: &str) -> Option<Value> {
        let since = self.since.lock().clone();
        let since = since.map_or_else(String::new, |s| format!("&since={s}"));
        let answer = self
            .get(&format!("/_matrix/client/v3/sync?timeout=0{since}"))
            .await;
        *self.since.lock() = answer["next_batch"].as_str().map(str::to_owned);
        let events = answer["rooms"]["join"][room]["ephemeral"]["events"]
            .as_array()?
            .clone();
        events.into_iter().find(|e| e["type"] == kind)
    }
}
