//! Ollama on this machine, where the user's file names no provider of models: what it has stands in for one.
//!
//! It is asked once the gateway serves, and again on need; nobody waits for it longer than [`PATIENCE`]. It is looked for
//! where its own programs look (`OLLAMA_HOST`), on this machine alone: one elsewhere is for the file to name.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Assistant;
use crate::app::App;
use crate::bridge::UpstreamState;
use crate::ingress::http::{Body, full};

const PORT: u16 = 11434;
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two questions, while it has nothing and after it had something.
const AGAIN: Duration = Duration::from_secs(4);
const AGAIN_WHEN_FOUND: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: usize = 1 << 20;
const MODELS_MAX: usize = 64;
/// Ollama gives memory for all of the window that it is asked for: enough for an agent's instructions and tools, little
/// enough for a small machine.
const CONTEXT_WINDOW: u64 = 32_768;

#[derive(Default)]
pub(super) struct Found {
    /// `{models: {providers: {ollama: …}}}`.
    config: ArcSwapOption<Value>,
    /// When it was asked last; held while it is.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl Assistant {
    /// The configuration that says which models there are: the user's, or what was found where that names no provider.
    pub(super) fn known<'a>(&self, config: &'a Value) -> Cow<'a, Value> {
        match self.found.config.load_full() {
            Some(found) if !names_provider(config) => {
                Cow::Owned(json!({ "agents": config["agents"], "models": found["models"] }))
            }
            _ => Cow::Borrowed(config),
        }
    }

    /// Whether Ollama could stand in for a provider, were it started.
    pub(crate) fn may_find(app: &App) -> bool {
        place(app).is_some()
    }

    /// Looks for Ollama if that could help; the first model found and where, when there is one.
    pub(crate) async fn look(&self, app: &App) -> Option<(String, String)> {
        let address = place(app)?;
        let mut asked = self.found.asked.lock().await;
        let pause = match self.found.config.load().is_some() {
            true => AGAIN_WHEN_FOUND,
            false => AGAIN,
        };
        if asked.is_none_or(|at| at.elapsed() >= pause) {
            // One that does not answer in time keeps what it had: it may be loading a model.
            if let Ok(Some(tags)) = tokio::time::timeout(PATIENCE, tags(address)).await {
                let provider = provider(&tags, address);
                self.found.config.store(provider.map(Into::into));
            }
            *asked = Some(Instant::now());
        }
        drop(asked);
        let found = self.found.config.load_full()?;
        let first = found.pointer("/models/providers/ollama/models/0/id")?;
        Some((
            format!("ollama/{}", first.as_str()?),
            format!("http://{address}"),
        ))
    }
}

/// Where Ollama could be, when it is needed.
fn place(app: &App) -> Option<SocketAddr> {
    let is_alone = matches!(*app.upstream.borrow(), UpstreamState::Off);
    if !is_alone || names_provider(&app.facts.load().config) {
        return None;
    }
    address(app.variable("OLLAMA_HOST").as_deref())
}

fn names_provider(config: &Value) -> bool {
    let providers = config.pointer("/models/providers");
    providers
        .and_then(Value::as_object)
        .is_some_and(|providers| !providers.is_empty())
}

/// Where Ollama is, as `OLLAMA_HOST` says it; `None`: not on this machine.
/// Source: envconfig.Host of Ollama.
fn address(host: Option<&str>) -> Option<SocketAddr> {
    let host = host.unwrap_or_default();
    let (host, port) = match host.strip_prefix("http://") {
        Some(rest) => (rest, 80),
        None => (host, PORT),
    };
    let host = host.split('/').next().unwrap_or_default();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, digits)) if !digits.ends_with(']') => (name, digits.parse().ok()?),
        _ => (host, port),
    };
    let name = name.trim_matches(|own| matches!(own, '[' | ']'));
    let ip = match name {
        "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        name => name.parse().ok()?,
    };
    match ip.is_unspecified() {
        true => Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
        false => ip.is_loopback().then(|| SocketAddr::new(ip, port)),
    }
}

/// `GET /api/tags`; null: nobody listens there, so that there is nothing; `None`: no answer that tells.
async fn tags(address: SocketAddr) -> Option<Value> {
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Some(Value::Null),
        Err(_) => return None,
    };
    let (mut sender, connection) = Builder::new()
        .handshake::<_, Body>(TokioIo::new(stream))
        .await
        .ok()?;
    // Ends with the sender.
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/api/tags")
        .header(header::HOST, address.to_string())
        .body(full(""))
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    if response.status() != StatusCode::OK {
        return None;
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.ok()?.to_bytes();
    serde_json::from_slice(&body).ok()
}

/// What it has as the user's file would name it. Left out: models that only make vectors, and those that are not on this
/// machine but reached through it.
fn provider(tags: &Value, address: SocketAddr) -> Option<Value> {
    let models = tags["models"].as_array().into_iter().flatten();
    let models: Vec<Value> = models
        .filter(|model| model["remote_host"].is_null())
        .filter(|model| {
            !model["details"]["family"]
                .as_str()
                .unwrap_or_default()
                .ends_with("bert")
        })
        .filter_map(|model| model["name"].as_str())
        .map(|name| json!({ "id": name, "name": name, "contextWindow": CONTEXT_WINDOW }))
        .take(MODELS_MAX)
        .collect();
    (!models.is_empty()).then(|| {
        let ollama =
            json!({ "api": "ollama", "baseUrl": format!("http://{address}"), "models": models });
        json!({ "models": { "providers": { "ollama": ollama } } })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_on_this_machine_alone() {
        let check = |host: Option<&str>, expected: Option<&str>| {
            let found = address(host).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{host:?}");
        };
        check(None, Some("127.0.0.1:11434"));
        check(Some("0.0.0.0"), Some("127.0.0.1:11434"));
        check(Some(":8080"), Some("127.0.0.1:8080"));
        check(Some("http://localhost:9/"), Some("127.0.0.1:9"));
        check(Some("http://127.0.0.1"), Some("127.0.0.1:80"));
        check(Some("[::1]:5"), Some("[::1]:5"));
        check(Some("[::1]"), Some("[::1]:11434"));
        check(Some("192.168.1.2:11434"), None);
        check(Some("https://ollama.example"), None);
        check(Some("gpu"), None);
    }

    #[tokio::test]
    async fn nobody_there_is_no_model_and_silence_tells_nothing() {
        let here = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let here = here.expect("a port");
        let address = here.local_addr().expect("its address");
        let (answer, _) = tokio::join!(tags(address), async {
            drop(here.accept().await);
        });
        assert_eq!(answer, None);
        drop(here);
        let answer = tags(address).await;
        assert_eq!(answer, Some(Value::Null));
        assert_eq!(provider(&Value::Null, address), None);
    }

    #[test]
    fn what_can_chat_here_stands_in_for_a_provider() {
        let address = address(None).expect("an address");
        let tags = json!({ "models": [
            { "name": "nomic-embed-text:latest", "details": { "family": "nomic-bert" } },
            { "name": "big:cloud", "remote_host": "https://ollama.com:443", "details": { "family": "x" } },
            { "name": "qwen3:8b", "details": { "family": "qwen3" } },
            { "name": "llama3.2:latest" },
        ] });
        let config = provider(&tags, address).expect("models");
        let model = agent::Model::resolve(&config, "main", None, &|_| None).expect("a model");
        assert_eq!((&*model.provider, &*model.id), ("ollama", "qwen3:8b"));
        assert_eq!(model.base_url, "http://127.0.0.1:11434");
        assert_eq!(model.context_window, CONTEXT_WINDOW);
        assert_eq!(agent::Model::all(&config).len(), 2);
        assert_eq!(provider(&json!({ "models": [] }), address), None);
        assert_eq!(provider(&json!([1]), address), None);
    }
}
