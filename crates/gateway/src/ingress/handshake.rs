//! challenge → `connect` → `hello-ok`: decides who a connection is and opens its session.

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use subtle::ConstantTimeEq as _;
use wire::connect::{ConnectParams, claims_worker};
use wire::error::{ErrorCode, ErrorShape};
use wire::frame::{EventText, FrameError, RequestFrame, UpstreamFrame, response_error};

use wire::scope::ScopeSet;

use super::connection::{Handshake, Peer, Verdict};
use super::hello;
use super::outbound::{Close, Outbound};
use crate::app::App;
use crate::bridge::UpstreamState;
use crate::bridge::link::{self, Dialled, Identity};
use crate::dispatch::{self, Principal, Session};
use crate::events::Subscriber;

/// What is known of a connection before it says who it is.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) conn_id: Arc<str>,
    pub(crate) peer: std::net::SocketAddr,
    pub(crate) nonce: String,
    pub(crate) issued_ms: u64,
}

/// The handshake and then the session of one connection.
pub(crate) struct ControlPeer {
    app: Arc<App>,
    facts: Arc<Facts>,
    outbound: Arc<Outbound>,
    /// Of the upgrade; given up with the handshake, since thousands of idle sessions would keep them.
    headers: http::HeaderMap,
    /// The upstream socket whose challenge this client was given.
    dialled: Option<Dialled>,
    session: Arc<OnceLock<Arc<Session>>>,
}

impl ControlPeer {
    pub(crate) fn new(
        app: Arc<App>,
        facts: Facts,
        headers: http::HeaderMap,
        outbound: Arc<Outbound>,
        dialled: Option<Dialled>,
    ) -> Self {
        Self {
            app,
            facts: Arc::new(facts),
            outbound,
            headers,
            dialled,
            session: Arc::new(OnceLock::new()),
        }
    }

    /// The first frame a client sees.
    pub(crate) fn challenge(nonce: &str, issued_ms: u64) -> String {
        let payload = serde_json::json!({ "nonce": nonce, "ts": issued_ms, "capabilities": ["model-catalog-snapshot"] });
        EventText::new("connect.challenge", Some(&payload.to_string()), None).render(None)
    }

    fn refuse(&self, id: Option<&str>, error: &ErrorShape, code: u16, reason: &str) -> Handshake {
        if let Some(id) = id {
            self.outbound.send(response_error(id, error));
        }
        tracing::warn!(conn = %self.facts.conn_id, peer = %self.facts.peer, code, reason, "refused a connection");
        self.outbound
            .close(Close::new(code, wire::frame::close_reason(reason)));
        Handshake::Decided(Verdict::Refused)
    }
}

impl Peer for ControlPeer {
    fn begin(&mut self, text: &str) -> Handshake {
        let frame = match RequestFrame::parse(text) {
            Ok(frame) => frame,
            Err(FrameError::Syntax(error)) => {
                tracing::warn!(conn = %self.facts.conn_id, %error, "text that is not JSON before the handshake");
                self.outbound.close(Close::without_code());
                return Handshake::Decided(Verdict::Refused);
            }
            Err(FrameError::Shape { .. }) => {
                let error = ErrorShape::invalid_request("invalid request frame");
                return self.refuse(None, &error, 1008, "invalid request frame");
            }
        };
        if frame.method != "connect" {
            let message = "invalid handshake: first request must be connect";
            let error = ErrorShape::invalid_request(message);
            return self.refuse(Some(&frame.id), &error, 1008, message);
        }
        let params: Value = frame
            .params
            .and_then(|params| serde_json::from_str(params.get()).ok())
            .unwrap_or(Value::Null);
        if claims_worker(&params) {
            self.outbound.close(Close::new(1008, "invalid-handshake"));
            return Handshake::Decided(Verdict::Refused);
        }
        if let Err(what) = ConnectParams::parse(&params) {
            let message = format!("invalid connect params: {what}");
            let error = ErrorShape::invalid_request(message.as_str());
            return self.refuse(Some(&frame.id), &error, 1008, &message);
        }
        let attempt = Attempt {
            app: Arc::clone(&self.app),
            facts: Arc::clone(&self.facts),
            headers: std::mem::take(&mut self.headers),
            outbound: Arc::clone(&self.outbound),
            id: frame.id.clone().into_owned(),
            frame: text.to_owned(),
            session: Arc::clone(&self.session),
        };
        Handshake::Pending(Box::pin(attempt.decide(self.dialled.take())))
    }

    fn receive(&mut self, text: &str) {
        if let Some(session) = self.session.get() {
            dispatch::receive(&self.app, session, text);
        }
    }

    fn closed(&mut self, close: Option<(u16, String)>) {
        if self.session.get().is_some() {
            self.app.hub.remove(&self.facts.conn_id);
        }
        let (code, reason) = close.unwrap_or((1006, String::new()));
        tracing::debug!(conn = %self.facts.conn_id, code, reason, "connection closed");
    }
}

struct Attempt {
    app: Arc<App>,
    facts: Arc<Facts>,
    headers: http::HeaderMap,
    outbound: Arc<Outbound>,
    id: String,
    frame: String,
    session: Arc<OnceLock<Arc<Session>>>,
}

impl Attempt {
    async fn decide(self, dialled: Option<Dialled>) -> Verdict {
        if let Some(principal) = self.local_backend() {
            return self.admit_backend(principal, dialled).await;
        }
        match dialled {
            Some(dialled) => self.relay(dialled).await,
            None => self.try_later(),
        }
    }

    /// The close a client retries by itself.
    fn try_later(&self) -> Verdict {
        let error = ErrorShape::retryable("gateway starting; retry shortly", Some(500));
        self.outbound.send(response_error(&self.id, &error));
        self.outbound.close(Close::new(1013, "gateway starting"));
        Verdict::Refused
    }

    /// A device-less command line or backend client on this machine that knows the shared token: the one kind
    /// whose identity is nothing but its scopes.
    fn local_backend(&self) -> Option<Principal> {
        let token = self.app.settings.load().token.clone()?;
        let connect: Value = serde_json::from_str(&self.frame).ok()?;
        let params = ConnectParams::parse(connect.get("params")?).ok()?;
        let facts = &self.facts;
        let kind = (params.client.id.as_str(), params.client.mode.as_str());
        let plain = facts.peer.ip().to_canonical().is_loopback()
            && ![
                "origin",
                "forwarded",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto",
                "x-real-ip",
            ]
            .iter()
            .any(|name| self.headers.contains_key(*name))
            && matches!(kind, ("gateway-client", "backend") | ("cli", "cli"))
            && params.device.is_none()
            && params.min_protocol <= 4.0
            && params.max_protocol >= 4.0
            && params.role.as_deref().is_none_or(|role| role == "operator");
        let given = connect.pointer("/params/auth")?.as_object()?;
        let only_token = given.len() == 1;
        let same = given
            .get("token")?
            .as_str()?
            .as_bytes()
            .ct_eq(token.expose().as_bytes());
        if !plain || !only_token || !bool::from(same) {
            return None;
        }
        let mut scopes = params.scopes.clone().unwrap_or_default();
        if let Some(cap) = self.headers.get("x-openclaw-scopes") {
            let cap: Vec<&str> = cap.to_str().ok()?.split(',').map(str::trim).collect();
            scopes.retain(|scope| cap.contains(&scope.as_str()));
        }
        Some(Principal {
            role: "operator".to_owned(),
            scope_set: ScopeSet::parse(&scopes),
            scopes,
            caps: params.caps.clone().unwrap_or_default(),
            client_id: params.client.id.clone(),
            client_mode: params.client.mode.clone(),
            device_id: None,
            shared_auth: true,
        })
    }

    /// Of later upstream sockets for this client: its `Host`, since plugin URLs are made from it, and its scopes
    /// once more as a cap.
    fn reconnect_headers(&self, principal: &Principal) -> link::DialHeaders {
        let host = self
            .headers
            .get(http::header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or("localhost");
        vec![
            ("Host".to_owned(), host.to_owned()),
            ("x-openclaw-scopes".to_owned(), principal.scopes.join(",")),
        ]
    }

    /// Lets in a client that we judged ourselves; the upstream sees a backend client with the same scopes.
    async fn admit_backend(self, principal: Principal, dialled: Option<Dialled>) -> Verdict {
        let mut connected = None;
        let mut payload = None;
        if let Some(mut dialled) = dialled {
            let frame = link::backend_connect(
                "hello",
                dialled.ready.token.expose(),
                &principal.scopes,
                &principal.caps,
            );
            match dialled.connect(&frame).await {
                Ok(answer) => {
                    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
                    if answer["ok"] == true {
                        payload = answer.get("payload").cloned();
                        connected = Some(dialled);
                    } else {
                        tracing::error!(error = %answer["error"], "the upstream refused our backend client");
                    }
                }
                Err(why) => tracing::debug!(%why, "no upstream hello for a backend client"),
            }
        }
        let conn_id = &self.facts.conn_id;
        let hello = match payload {
            Some(payload) => hello::adopt(&self.app, payload, conn_id, &principal, Some("token")),
            None => hello::remembered(&self.app, conn_id, &principal, "token")
                .unwrap_or_else(|| hello::own(&self.app, conn_id, &principal, "token")),
        };
        let frame = wire::frame::response_ok(&self.id, &hello.to_string());
        let identity = Identity::Backend {
            scopes: principal.scopes.clone(),
            caps: principal.caps.clone(),
            headers: self.reconnect_headers(&principal),
        };
        self.open(principal, frame, |outbound, app| {
            link::start(connected, identity, outbound, app.upstream.clone())
        });
        Verdict::Open
    }

    /// Lets the upstream judge the very frame the client signed.
    async fn relay(self, mut dialled: Dialled) -> Verdict {
        let answer = match dialled.connect(&self.frame).await {
            Ok(answer) => answer,
            Err(link::ConnectError::Closed { code, reason }) => {
                self.outbound.close(Close::new(code, reason));
                return Verdict::Refused;
            }
            Err(link::ConnectError::Failed(why)) => {
                tracing::warn!(conn = %self.facts.conn_id, %why, "relayed handshake failed");
                return self.try_later();
            }
        };
        let accepted = matches!(
            UpstreamFrame::parse(&answer),
            Ok(UpstreamFrame::Response { ok: true, .. })
        );
        if !accepted {
            self.outbound.send(answer);
            let (code, reason) = dialled.closing().await;
            self.outbound.close(Close::new(code, reason));
            return Verdict::Refused;
        }
        match self.accept(&answer) {
            Ok((principal, hello)) => {
                self.open(principal, hello, |outbound, app| {
                    link::start(
                        Some(dialled),
                        Identity::Relayed,
                        outbound,
                        app.upstream.clone(),
                    )
                });
                Verdict::Open
            }
            Err(error) => {
                tracing::error!(%error, "the upstream's hello is not what we know");
                let error = ErrorShape::new(
                    ErrorCode::Unavailable,
                    "the OpenClaw gateway sent a hello this one does not understand",
                );
                self.outbound.send(response_error(&self.id, &error));
                self.outbound.close(Close::new(1011, "unknown hello"));
                Verdict::Refused
            }
        }
    }

    /// Reads who the client is from the upstream's hello and makes it ours.
    fn accept(&self, answer: &str) -> Result<(Principal, String), String> {
        let mut frame: Value = serde_json::from_str(answer).map_err(|error| error.to_string())?;
        let hello = frame.get_mut("payload").ok_or("no payload")?;
        let auth = hello.get("auth").ok_or("no auth")?;
        let texts = |value: Option<&Value>| -> Vec<String> {
            value
                .and_then(Value::as_array)
                .map(|list| {
                    list.iter()
                        .filter_map(Value::as_str)
                        .map(str::to_owned)
                        .collect()
                })
                .unwrap_or_default()
        };
        let connect: Value =
            serde_json::from_str(&self.frame).map_err(|error| error.to_string())?;
        let text = |pointer: &str| {
            connect
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let principal = Principal {
            role: auth
                .get("role")
                .and_then(Value::as_str)
                .unwrap_or("operator")
                .to_owned(),
            scope_set: ScopeSet::parse(texts(auth.get("scopes"))),
            scopes: texts(auth.get("scopes")),
            caps: texts(connect.pointer("/params/caps")),
            client_id: text("/params/client/id"),
            client_mode: text("/params/client/mode"),
            device_id: connect
                .pointer("/params/device/id")
                .and_then(Value::as_str)
                .map(str::to_owned),
            shared_auth: matches!(
                auth.get("method").and_then(Value::as_str),
                Some("token" | "password")
            ),
        };
        self.app.learn_hello(hello);
        *hello = hello::adopt(
            &self.app,
            hello.take(),
            &self.facts.conn_id,
            &principal,
            None,
        );
        Ok((principal, frame.to_string()))
    }

    /// Queues the hello first, so that no event can come before it.
    fn open(
        &self,
        principal: Principal,
        hello: String,
        link: impl FnOnce(Arc<Outbound>, &App) -> link::Link,
    ) {
        self.outbound.send(hello);
        // Without an upstream a link would only wait for one, ten thousand times.
        let has_upstream = !matches!(*self.app.upstream.borrow(), UpstreamState::Off);
        let link = has_upstream.then(|| link(Arc::clone(&self.outbound), &self.app));
        self.app.hub.add(Arc::new(Subscriber {
            conn_id: Arc::clone(&self.facts.conn_id),
            outbound: Arc::clone(&self.outbound),
            is_node: principal.role == "node",
            scopes: principal.scope_set,
        }));
        let session = Session::new(
            Arc::clone(&self.facts.conn_id),
            principal,
            Arc::clone(&self.outbound),
            link,
        );
        if self.session.set(Arc::new(session)).is_err() {
            tracing::error!(conn = %self.facts.conn_id, "a session was opened twice");
        }
    }
}
