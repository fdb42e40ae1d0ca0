//! challenge → `connect` → `hello-ok`: decides who a connection is and opens its session.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;
use wire::connect::{ConnectParams, claims_worker, client_id};
use wire::error::{ErrorCode, ErrorShape};
use wire::frame::{EventText, FrameError, RequestFrame, UpstreamFrame, response_error};

use wire::scope::ScopeSet;

use super::complaints::{self, Cause};
use super::connection::{Handshake, Peer, Verdict};
use super::hello;
use super::outbound::{Close, Outbound};
use crate::app::App;
use crate::auth::{self, Attribution, ConnectAttempt, Decision, Refusal, UpstreamTrust};
use crate::bridge;
use crate::bridge::UpstreamState;
use crate::bridge::link::{self, Dialled, Identity};
use crate::config::IdentityMode;
use crate::dispatch::presence::Teller;
use crate::dispatch::{self, Principal, Session};
use crate::events::Subscriber;
use crate::native::presence;

const ADMIN: &str = "operator.admin";
const PAIRING: &str = "operator.pairing";

/// How long a client that is let in may wait for its upstream socket.
const BACKEND_WAIT: Duration = Duration::from_secs(1);

/// What is known of a connection before it says who it is.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) conn_id: Arc<str>,
    pub(crate) peer: std::net::SocketAddr,
    pub(crate) nonce: String,
}

/// The handshake and then the session of one connection.
pub(crate) struct ControlPeer {
    app: Arc<App>,
    facts: Arc<Facts>,
    outbound: Arc<Outbound>,
    /// Of the upgrade; given up with the handshake, since thousands of idle sessions would keep them.
    headers: http::HeaderMap,
    attribution: Option<Attribution>,
    /// The upstream socket whose challenge this client was given.
    dialled: Option<Dialled>,
    session: Arc<OnceLock<Arc<Session>>>,
}

impl ControlPeer {
    pub(crate) fn new(
        app: Arc<App>,
        facts: Facts,
        headers: http::HeaderMap,
        attribution: Attribution,
        outbound: Arc<Outbound>,
        dialled: Option<Dialled>,
    ) -> Self {
        Self {
            app,
            facts: Arc::new(facts),
            outbound,
            headers,
            attribution: Some(attribution),
            dialled,
            session: Arc::new(OnceLock::new()),
        }
    }

    /// The first frame a client sees.
    pub(crate) fn challenge(nonce: &str, issued_ms: u64) -> String {
        let payload = serde_json::json!({ "nonce": nonce, "ts": issued_ms, "capabilities": ["model-catalog-snapshot"] });
        EventText::new("connect.challenge", Some(&payload.to_string()), None).render(None)
    }

    /// Whose connection it is, behind a proxy too.
    fn client(&self) -> Option<IpAddr> {
        self.attribution
            .as_ref()
            .map(|attribution| attribution.client_ip)
    }

    fn refuse(&self, id: Option<&str>, error: &ErrorShape, code: u16, reason: &str) -> Handshake {
        if let Some(id) = id {
            self.outbound.send(response_error(id, error));
        }
        if complaints::admits(Cause::Refused, self.client()) {
            tracing::warn!(conn = %self.facts.conn_id, peer = %self.facts.peer, code, reason, "refused a connection");
        }
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
                if complaints::admits(Cause::Refused, self.client()) {
                    tracing::warn!(conn = %self.facts.conn_id, %error, "text that is not JSON before the handshake");
                }
                self.outbound.close(Close::plain());
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
            self.complain(Cause::Worker, "workers have a path of their own");
            self.outbound.close(Close::new(1008, "invalid-handshake"));
            return Handshake::Decided(Verdict::Refused);
        }
        let params = match ConnectParams::parse(&params) {
            Ok(params) => params,
            Err(message) => {
                let error = ErrorShape::invalid_request(message.as_str());
                return self.refuse(Some(&frame.id), &error, 1008, &message);
            }
        };
        let Some(attribution) = self.attribution.take() else {
            return Handshake::Decided(Verdict::Refused);
        };
        let attempt = Attempt {
            app: Arc::clone(&self.app),
            facts: Arc::clone(&self.facts),
            headers: std::mem::take(&mut self.headers),
            attribution,
            params,
            outbound: Arc::clone(&self.outbound),
            id: frame.id.clone().into_owned(),
            frame: text.to_owned(),
            session: Arc::clone(&self.session),
            losses: self.app.losses(),
        };
        Handshake::Pending(Box::pin(attempt.decide(self.dialled.take())))
    }

    fn receive(&mut self, text: &str) {
        if let Some(session) = self.session.get() {
            dispatch::receive(&self.app, session, text);
        }
    }

    fn complain(&self, cause: Cause, detail: &str) {
        let peer = self.facts.peer.ip();
        complaints::complain(cause, peer, Some(&self.facts.conn_id), &detail);
    }

    fn closed(&mut self, close: Option<(u16, String)>) {
        if let Some(session) = self.session.get() {
            session.leave();
            self.app.hub.remove(&self.facts.conn_id);
            if let Some(key) = presence_key(&session.principal, &self.facts.conn_id) {
                self.app.left(key);
            }
        }
        let (code, reason) = close.unwrap_or((1006, String::new()));
        tracing::debug!(conn = %self.facts.conn_id, code, reason, "connection closed");
    }
}

fn presence_key<'a>(principal: &'a Principal, conn_id: &'a str) -> Option<&'a str> {
    let device_id = principal.device_id.as_deref();
    presence::key(&principal.role, &principal.client_mode, conn_id, device_id)
}

struct Attempt {
    app: Arc<App>,
    facts: Arc<Facts>,
    headers: http::HeaderMap,
    attribution: Attribution,
    params: ConnectParams,
    outbound: Arc<Outbound>,
    id: String,
    frame: String,
    session: Arc<OnceLock<Arc<Session>>>,
    /// How much devices had lost when it came.
    losses: u64,
}

impl Attempt {
    async fn decide(self, mut dialled: Option<Dialled>) -> Verdict {
        let person = match self.app.tailscale() {
            Some(tailscale) => {
                let settings = self.app.auth.settings();
                let sent = self.params.auth.as_ref();
                tailscale
                    .person(&settings, &self.attribution, &self.headers, sent)
                    .await
            }
            None => None,
        };
        let person = person.as_deref();
        // Thrice at most: an unknown token of a known device is asked about once, and if its verdict did not
        // settle it (the token is another device's), it is no token.
        for round in 0..3 {
            let trust = match (&dialled, &*self.app.upstream.borrow()) {
                // A frame that the upstream's own credential would not open can't be relayed to it.
                _ if !self.app.shares_upstream_token() => UpstreamTrust::Absent,
                // What one on another machine thinks of this machine's clients says nothing: they are paired here. Nodes
                // are the upstream's wherever it is.
                (_, UpstreamState::Ready(ready))
                    if ready.device.is_some() && self.params.role.as_deref() != Some("node") =>
                {
                    UpstreamTrust::Absent
                }
                (Some(_), _) => UpstreamTrust::Reachable,
                (None, UpstreamState::Off) => UpstreamTrust::Absent,
                (None, _) => UpstreamTrust::Unreachable,
            };
            match self.judge(trust, person) {
                Decision::Accept(principal) => {
                    return match dialled {
                        // What Tailscale says counts here alone: the upstream would ask for its secret.
                        Some(dialled)
                            if trust == UpstreamTrust::Reachable
                                && principal.method != auth::Method::Tailscale
                                && (self.wants_exact_identity()
                                    || self.manages_itself_there(&principal)) =>
                        {
                            self.relay(dialled).await
                        }
                        dialled => self.admit(*principal, dialled).await,
                    };
                }
                Decision::Refuse(refusal) => return self.refuse(*refusal).await,
                Decision::Relay { why } => {
                    tracing::debug!(conn = %self.facts.conn_id, ?why, "relaying a handshake");
                    return match dialled.take() {
                        Some(dialled) => self.relay(dialled).await,
                        None => self.try_later(),
                    };
                }
                Decision::AskUpstream { token, device_id } => {
                    let ready = self.app.upstream.borrow().ready().cloned();
                    let verdict = match ready {
                        _ if round > 0 => Some(false),
                        Some(ready) => bridge::proxy::accepts_bearer(&ready, &token).await,
                        None => None,
                    };
                    let Some(accepted) = verdict else {
                        return self.try_later();
                    };
                    let now = crate::clock::now_ms();
                    if let Err(error) = self
                        .app
                        .auth
                        .upstream_token_verdict(&device_id, &token, accepted, now)
                    {
                        tracing::error!(%error, "cannot remember the upstream's verdict on a device token");
                        return self.try_later();
                    }
                }
            }
        }
        self.try_later()
    }

    fn judge(&self, upstream: UpstreamTrust, tailscale_user: Option<&str>) -> Decision {
        let attempt = ConnectAttempt {
            attribution: &self.attribution,
            headers: &self.headers,
            challenge: &self.facts.nonce,
            params: &self.params,
            upstream,
            tailscale_user,
            is_connected: &|device| self.app.hub.has_device(device),
        };
        self.app.auth.connect(&attempt, crate::clock::now_ms())
    }

    /// Whether the upstream must know this very client: the pages whose answers depend on a user profile or on
    /// the client id itself.
    fn wants_exact_identity(&self) -> bool {
        // At 0 % the upstream serves this machine's clients as if we were not there. A client elsewhere would look
        // local to it and stays with our own judgement.
        if crate::rollout::in_force(&self.app) == 0 && self.attribution.is_local() {
            return true;
        }
        let is_page = matches!(
            self.params.client.id.as_str(),
            client_id::CONTROL_UI
                | client_id::WEBCHAT_UI
                | client_id::WEBCHAT
                | client_id::BROWSER_COPILOT
        );
        match self.app.settings.load().identity {
            IdentityMode::Auto => is_page,
            IdentityMode::Exact => self.params.device.is_some(),
            IdentityMode::Backend => false,
        }
    }

    /// Whether this is a device of the upstream's that may manage itself alone: a backend client could manage every device.
    fn manages_itself_there(&self, judged: &auth::Principal) -> bool {
        bound_device(judged).is_some_and(|device| {
            judged.scopes.iter().any(|scope| scope == PAIRING)
                && self.app.auth.made_by(&device) != Some(auth::pairing::MadeBy::Local)
        })
    }

    /// Answers and closes as the original, after the delay it would take.
    async fn refuse(&self, refusal: Refusal) -> Verdict {
        // `doctor` repeats the last ten, whatever the log has.
        let client = Some(self.attribution.client_ip);
        if complaints::admits(Cause::Refused, client) {
            tracing::warn!(conn = %self.facts.conn_id, "{}", refusal.log);
        }
        self.app.announce(&refusal.events);
        if let Some(delay) = refusal.delay {
            tokio::time::sleep(delay).await;
        }
        let error = ErrorShape {
            code: refusal.code.to_owned(),
            message: refusal.message,
            details: refusal.details,
            retryable: refusal.retryable,
            retry_after_ms: refusal.retry_after_ms,
        };
        self.outbound.send(response_error(&self.id, &error));
        self.outbound.close(Close::new(
            refusal.close_code,
            wire::frame::close_reason(&refusal.close_reason),
        ));
        Verdict::Refused
    }

    /// The close a client retries by itself.
    fn try_later(&self) -> Verdict {
        let error = ErrorShape::retryable("gateway starting; retry shortly", Some(500));
        self.outbound.send(response_error(&self.id, &error));
        self.outbound.close(Close::new(1013, "gateway starting"));
        Verdict::Refused
    }

    /// A fresh upstream socket, if one is to be had at once.
    async fn dial_backend(&self, principal: &Principal) -> Option<Dialled> {
        let ready = self.app.upstream.borrow().ready().cloned()?;
        let headers = self.reconnect_headers(principal);
        let dialling = async {
            let _permit = ready.dial_permits.acquire().await.ok()?;
            link::dial(&ready, &headers).await.ok()
        };
        // Without one the client is greeted all the same, and its link dials for itself.
        tokio::time::timeout(BACKEND_WAIT, dialling).await.ok()?
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
    async fn admit(self, judged: auth::Principal, dialled: Option<Dialled>) -> Verdict {
        let principal = Principal {
            client_id: self.params.client.id.clone(),
            role: judged.role.as_str().to_owned(),
            scope_set: ScopeSet::parse(&judged.scopes),
            scopes: judged.scopes.clone(),
            caps: judged.caps.clone(),
            client_mode: judged.client.mode.clone(),
            device_id: judged.device.as_ref().map(|device| device.id.clone()),
            bound_device: bound_device(&judged),
        };
        // Whoever may manage one device alone would be no such device there.
        let mut scopes_there = principal.scopes.clone();
        scopes_there.retain(|scope| principal.bound_device.is_none() || scope != PAIRING);
        if principal.role == "node" && principal.client_mode == wire::connect::client_mode::BACKEND
        {
            // Without a word, as the original. Seen: `client-backend-node-role` of tests/conformance.
            self.outbound.close(Close::plain());
            return Verdict::Refused;
        }
        self.app.announce(&judged.effects.events);
        self.app.close_connections(&judged.effects.closes);
        let shown = &judged.hello_auth;
        // A socket that told the upstream of a client elsewhere can't become a backend client of this machine.
        let dialled = match dialled.filter(|_| self.attribution.is_local()) {
            Some(dialled) => Some(dialled),
            None if principal.role == "operator" => self.dial_backend(&principal).await,
            None => None,
        };
        let mut connected = None;
        let mut payload = None;
        if let Some(mut dialled) = dialled {
            let frame = dialled.backend_connect("hello", &scopes_there, &principal.caps);
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
            Some(payload) => hello::adopt(&self.app, payload, conn_id, &principal, Some(shown)),
            None => hello::remembered(&self.app, conn_id, &principal, shown)
                .unwrap_or_else(|| hello::own(&self.app, conn_id, &principal, shown)),
        };
        let frame = wire::frame::response_ok(&self.id, &hello.to_string());
        let identity = Identity::Backend {
            scopes: scopes_there,
            caps: principal.caps.clone(),
            headers: self.reconnect_headers(&principal),
        };
        let judged = Some(Arc::new(judged));
        self.open(principal, frame, judged, |outbound, presence| {
            link::start(connected, identity, outbound, &self.app, presence)
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
            let error: Value = serde_json::from_str(&answer).unwrap_or_default();
            let log = self.app.auth.note_relayed_refusal(
                &self.relayed(),
                &error["error"],
                crate::clock::now_ms(),
            );
            tracing::warn!(conn = %self.facts.conn_id, "{log}");
            self.outbound.send(answer);
            let (code, reason) = dialled.closing().await;
            self.outbound.close(Close::new(code, reason));
            return Verdict::Refused;
        }
        match self.accept(&answer) {
            Ok((principal, hello)) => {
                self.open(principal, hello, None, |outbound, presence| {
                    let relayed = Identity::Relayed;
                    link::start(Some(dialled), relayed, outbound, &self.app, presence)
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

    /// This attempt as one that the upstream judges.
    fn relayed(&self) -> ConnectAttempt<'_> {
        ConnectAttempt {
            attribution: &self.attribution,
            headers: &self.headers,
            challenge: &self.facts.nonce,
            params: &self.params,
            upstream: UpstreamTrust::Reachable,
            tailscale_user: None,
            is_connected: &|_| false,
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
        let principal = Principal {
            client_id: self.params.client.id.clone(),
            role: auth
                .get("role")
                .and_then(Value::as_str)
                .unwrap_or("operator")
                .to_owned(),
            scope_set: ScopeSet::parse(texts(auth.get("scopes"))),
            scopes: texts(auth.get("scopes")),
            caps: texts(connect.pointer("/params/caps")),
            client_mode: self.params.client.mode.clone(),
            device_id: connect
                .pointer("/params/device/id")
                .and_then(Value::as_str)
                .map(str::to_owned),
            bound_device: None,
        };
        let is_bound = auth.get("method").and_then(Value::as_str) == Some("device-token")
            && !principal.scopes.iter().any(|scope| scope == ADMIN);
        let principal = Principal {
            bound_device: principal.device_id.clone().filter(|_| is_bound),
            ..principal
        };
        self.app.learn_hello(hello);
        if let Err(error) =
            self.app
                .auth
                .remember_relayed(&self.relayed(), hello, crate::clock::now_ms())
        {
            tracing::error!(%error, "cannot remember a pairing made by the upstream; it will be asked again");
        }
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
        judged: Option<Arc<auth::Principal>>,
        link: impl FnOnce(Arc<Outbound>, Teller) -> link::Link,
    ) {
        self.outbound.send(hello);
        // Without an upstream a link would only wait for one, ten thousand times.
        let has_upstream = !matches!(*self.app.upstream.borrow(), UpstreamState::Off);
        let place = crate::rollout::place_of(&principal);
        let link = has_upstream.then(|| {
            let presence = Teller::new(&self.app, place);
            link(Arc::clone(&self.outbound), presence)
        });
        self.app.hub.add(Arc::new(Subscriber {
            conn_id: Arc::clone(&self.facts.conn_id),
            outbound: Arc::clone(&self.outbound),
            is_node: principal.role == "node",
            scopes: principal.scope_set,
            device_id: principal.device_id.clone(),
            judged: judged.clone(),
            wants_tools: principal.caps.iter().any(|cap| cap == "tool-events"),
            place,
            shows_approvals: shows_approvals(&principal),
        }));
        let (device, is_node) = (principal.device_id.as_deref(), principal.role == "node");
        if !self.app.keeps_rights(self.losses, device, is_node) {
            let close = Close::new(auth::DeviceClose::CODE, auth::DeviceClose::TEXT);
            self.outbound.close(close);
        }
        if let Some(key) = presence_key(&principal, &self.facts.conn_id) {
            let arrival = presence::Arrival {
                client: &self.params.client,
                role: &principal.role,
                scopes: &principal.scopes,
                device_id: principal.device_id.as_deref(),
                remote_ip: self.attribution.reported_ip(),
                user: None,
                online_since_ms: None,
            };
            self.app.arrived(key, arrival);
        }
        let session = Session::new(
            Arc::clone(&self.facts.conn_id),
            principal,
            Arc::clone(&self.outbound),
            link,
            judged,
        );
        if self.session.set(Arc::new(session)).is_err() {
            tracing::error!(conn = %self.facts.conn_id, "a session was opened twice");
        }
    }
}
/// The only device that a client may manage. Source: `resolveDeviceSessionAuthz` at 2026.9.6.
fn bound_device(judged: &auth::Principal) -> Option<String> {
    let is_admin = judged.scopes.iter().any(|scope| scope == ADMIN);
    judged
        .device
        .as_ref()
        .filter(|_| judged.is_device_token_auth() && !is_admin)
        .map(|device| device.id.clone())
}

/// Source: `canDeliverApprovals`, src/gateway/server-request-context.ts at 2026.9.6.
fn shows_approvals(principal: &Principal) -> bool {
    const CLIENTS: [&str; 4] = [
        "openclaw-control-ui",
        "openclaw-macos",
        "openclaw-ios",
        "openclaw-android",
    ];
    let mut caps = principal.caps.iter();
    CLIENTS.contains(&principal.client_id.as_str())
        || caps.any(|cap| cap == "approvals" || cap == "exec-approvals")
}
