//! Everything we do not do ourselves: the TypeScript gateway as an upstream.
//!
//! [`UpstreamState`] says what is known of it; one [`link`] per client speaks to it.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use wire::error::{ErrorCode, ErrorShape};

pub mod attach;
pub(crate) mod control;
pub(crate) mod errand;
pub(crate) mod link;
pub mod process;
pub(crate) mod proxy;
pub(crate) mod remote;

/// Upstream sockets that may be unauthenticated at once; it allows 32 for our address.
pub(crate) const DIALS_AT_ONCE_MAX: usize = 24;

/// Hears the upstream's answer to one call before the client does.
pub(crate) trait Watch: std::fmt::Debug + Send + Sync {
    /// `answer`: the payload, or the error object of a refusal. What it returns is run once the client's answer is queued.
    fn hear(self: Box<Self>, ok: bool, answer: Option<&RawValue>) -> Option<Afterwards>;
}

pub(crate) type Afterwards = Box<dyn FnOnce() + Send>;

/// A secret: prints nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

/// A TypeScript gateway that answers.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Where its WebSocket and HTTP listen, or, for one on another machine, our way to it; loopback.
    pub address: SocketAddr,
    pub token: Secret,
    pub pid: Option<u32>,
    pub version: Option<String>,
    /// Goes up with every start of the upstream that we notice.
    pub epoch: u64,
    /// Set for a gateway on another machine: who we are there.
    pub(crate) device: Option<Arc<remote::Device>>,
    pub(crate) dial_permits: Arc<Semaphore>,
}

impl Ready {
    pub fn new(
        address: SocketAddr,
        token: Secret,
        pid: Option<u32>,
        version: Option<String>,
        epoch: u64,
    ) -> Self {
        Self {
            address,
            token,
            pid,
            version,
            epoch,
            device: None,
            dial_permits: Arc::new(Semaphore::new(DIALS_AT_ONCE_MAX)),
        }
    }

    /// What it is called in `Host`.
    pub(crate) fn host(&self) -> String {
        match &self.device {
            Some(device) => device.place.to_string(),
            None => self.address.to_string(),
        }
    }

    pub(crate) fn with_device(mut self, device: Option<Arc<remote::Device>>) -> Self {
        self.device = device;
        self
    }
}

/// What is known of the upstream now.
#[derive(Debug, Clone)]
pub enum UpstreamState {
    /// None is configured.
    Off,
    Starting,
    Ready(Ready),
    /// It should run and does not answer.
    Down {
        why: String,
    },
    /// Stopped on purpose; nothing starts it but a person.
    Stopped {
        why: String,
    },
    /// Stopped to save memory; the first bridged call starts it.
    Asleep,
}

impl UpstreamState {
    /// Every answer of [`word`](Self::word).
    pub(crate) const WORDS: [&str; 6] = ["off", "starting", "ready", "down", "stopped", "asleep"];

    pub const fn ready(&self) -> Option<&Ready> {
        match self {
            Self::Ready(ready) => Some(ready),
            _ => None,
        }
    }

    /// One word for status output and metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Starting => "starting",
            Self::Ready(_) => "ready",
            Self::Down { .. } => "down",
            Self::Stopped { .. } => "stopped",
            Self::Asleep => "asleep",
        }
    }
}

/// The answer to a bridged call that the upstream can't take or lost: retryable, as the original's own
/// answers while it starts.
pub(crate) fn unavailable(method: &str) -> ErrorShape {
    ErrorShape {
        details: Some(serde_json::json!({ "reason": "upstream-unavailable", "method": method })),
        ..ErrorShape::retryable(
            format!(
                "{method} unavailable: the OpenClaw gateway behind this one is not answering; retry shortly"
            ),
            Some(500),
        )
    }
}

/// The answer to a bridged call when no upstream is configured.
pub(crate) fn not_configured(method: &str) -> ErrorShape {
    ErrorShape {
        retryable: Some(false),
        details: Some(serde_json::json!({ "reason": "upstream-off", "method": method })),
        ..ErrorShape::new(
            ErrorCode::Unavailable,
            format!(
                "{method} needs the OpenClaw gateway, and none is configured: install openclaw (npm install -g openclaw) and set [upstream] mode = \"supervise\", or \"attach\" to a running one, in openclaw-gateway.toml"
            ),
        )
    }
}

/// The same request frame under another id. `frame` must be a request frame.
pub(crate) fn with_id(frame: &str, id: &str) -> String {
    let Ok(request) = wire::frame::RequestFrame::parse(frame) else {
        return frame.to_owned();
    };
    let mut out = String::with_capacity(frame.len());
    out.push_str(r#"{"type":"req","id":"#);
    wire::frame::push_json_string(&mut out, id);
    out.push_str(r#","method":"#);
    wire::frame::push_json_string(&mut out, &request.method);
    if let Some(params) = request.params {
        out.push_str(r#","params":"#);
        out.push_str(params.get());
    }
    out.push('}');
    out
}

/// Headers for an upstream socket on behalf of a client: the ones by which the upstream judges who calls
/// (`Origin`, forwarded addresses) and makes URLs (`Host`). Hop-by-hop and WebSocket ones are ours.
///
/// Our socket comes from loopback, so a client that is not on this machine is always named: it must never look
/// local to the upstream. An upstream that does not trust us as its proxy refuses it, which is safe.
pub(crate) fn dial_headers(
    client: &http::HeaderMap,
    attribution: &crate::auth::Attribution,
    ready: &Ready,
) -> link::DialHeaders {
    let ours = |name: &str| {
        name.starts_with("sec-websocket-")
            || matches!(
                name,
                "connection" | "upgrade" | "keep-alive" | "content-length" | "transfer-encoding"
            )
    };
    let is_forwarded =
        |name: &str| name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip");
    // To a gateway on another machine all of us are elsewhere already, and it need not trust what we say of others.
    let is_there = ready.device.is_some();
    let remote = !attribution.is_local();
    let mut headers: link::DialHeaders = client
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .filter(|(name, _)| !(ours(name) || (remote || is_there) && is_forwarded(name)))
        .filter_map(|(name, value)| Some((name.to_owned(), value.to_str().ok()?.to_owned())))
        .collect();
    if remote && !is_there {
        headers.push((
            "X-Forwarded-For".to_owned(),
            attribution.client_ip.to_string(),
        ));
    }
    if !client.contains_key(http::header::HOST) {
        headers.push(("Host".to_owned(), ready.address.to_string()));
    }
    headers
}
