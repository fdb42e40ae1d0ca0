//! One client's connection to the TypeScript gateway, and the task that owns it.
//!
//! Dialled when the client connects, before anything is known of it: the upstream's challenge is handed to the
//! client, so that after its `connect` is seen either the same frame can be relayed (the upstream then knows the
//! client's true identity) or the socket becomes a backend client with the client's scopes. A backend link
//! survives the upstream: it dials again, subscribes again and repeats what may be repeated.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::socket::{self, Incoming, Reader, Writer};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use wire::error::ErrorShape;
use wire::frame::{EventText, UpstreamFrame, response_error};
use wire::websocket::Opcode;

use super::{Ready, UpstreamState, Watch};
use crate::dispatch::presence::Teller;
use crate::ingress::outbound::{Close, Outbound};
use crate::metrics::{Metrics, Owner, Timing};

mod gap;
mod read;
mod runs;

pub(crate) use gap::held_room;

use gap::Gap;
use read::{code_of, is_first_of_two, params_text, up_ms};
use runs::Runs;

/// Calls that may wait between a client and its link.
const QUEUED_CALLS_MAX: usize = 256;
/// Calls of one client that may wait for the upstream's answer.
const PENDING_CALLS_MAX: usize = 1024;
/// Bytes of calls kept for repeating after a crash, per client.
const REPEATABLE_BYTES_MAX: usize = 1024 * 1024;
/// How long a call that may be repeated waits for the upstream to come back.
const REPEAT_WITHIN: Duration = Duration::from_secs(15);
/// How long the watcher may believe in an upstream whose socket just died.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the upstream's answer to our own `connect`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A call on its way up.
#[derive(Debug)]
pub(crate) struct UpCall {
    pub(crate) id: String,
    pub(crate) method: String,
    /// The whole request frame, as the client sent it.
    pub(crate) frame: String,
    /// Reads only, or carries an idempotency key: may be sent twice.
    pub(crate) repeatable: bool,
    pub(crate) timing: Timing,
    pub(crate) watch: Option<Box<dyn Watch>>,
}

/// The handle a session holds. Dropping it ends the link.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// Boxed: the channel holds room for 32 from the start, on every idle connection.
    calls: mpsc::Sender<Box<UpCall>>,
}

impl Link {
    /// # Errors
    /// The call comes back when the queue is full or the link is gone.
    pub(crate) fn forward(&self, call: Box<UpCall>) -> Result<(), Box<UpCall>> {
        self.calls.try_send(call).map_err(|error| match error {
            mpsc::error::TrySendError::Full(call) | mpsc::error::TrySendError::Closed(call) => call,
        })
    }
}

/// An upstream socket that has sent its challenge and nothing else.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) ready: Ready,
    pub(crate) nonce: String,
    pub(crate) issued_ms: u64,
    reader: Reader,
    writer: Writer,
}

/// Headers an upstream must see: never those that say where the client is (that is our judgement, not its).
pub(crate) type DialHeaders = Vec<(String, String)>;

/// Dials and waits for the challenge.
///
/// # Errors
/// Words for the log.
pub(crate) async fn dial(ready: &Ready, headers: &DialHeaders) -> Result<Dialled, String> {
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        // One elsewhere goes by its own name, whatever our clients call us.
        .filter(|(name, _)| ready.device.is_none() || !name.eq_ignore_ascii_case("host"))
        .collect();
    let host = ready.host();
    let headers = match ready.device {
        Some(_) => [headers, vec![("Host", host.as_str())]].concat(),
        None => headers,
    };
    let (mut reader, writer) = socket::dial(ready.address, "/", &headers, DIAL_TIMEOUT)
        .await
        .map_err(|error| error.to_string())?;
    let text = match tokio::time::timeout(DIAL_TIMEOUT, reader.next()).await {
        Ok(Ok(Incoming::Text(text))) => text,
        Ok(Ok(other)) => return Err(format!("expected a challenge, got {other:?}")),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_elapsed) => return Err("no challenge in time".to_owned()),
    };
    #[derive(serde::Deserialize)]
    struct Challenge {
        nonce: String,
        ts: u64,
    }
    let challenge: Challenge = match UpstreamFrame::parse(&text) {
        Ok(UpstreamFrame::Event {
            event,
            payload: Some(payload),
            ..
        }) if event == "connect.challenge" => serde_json::from_str(payload.get())
            .map_err(|error| format!("unreadable challenge: {error}"))?,
        _ => return Err("the first frame is not a challenge".to_owned()),
    };
    Ok(Dialled {
        ready: ready.clone(),
        nonce: challenge.nonce,
        issued_ms: challenge.ts,
        reader,
        writer,
    })
}

/// Why a `connect` was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Refused without a response.
    #[error("closed with {code} {reason}")]
    Closed { code: u16, reason: String },
    #[error("{0}")]
    Failed(String),
}

impl From<std::io::Error> for ConnectError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Dialled {
    pub(super) fn into_parts(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    /// The close that follows a refusal: code and reason, 1008 when none comes within a second.
    pub(crate) async fn closing(&mut self) -> (u16, String) {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match tokio::time::timeout_at(deadline, self.reader.next()).await {
                Ok(Ok(Incoming::Closed(code, reason))) if code != 1006 => return (code, reason),
                Ok(Ok(Incoming::Text(_) | Incoming::Ping(_))) => {}
                _ => return (1008, String::new()),
            }
        }
    }

    /// Our `connect` frame for [`Identity::Backend`] on this socket.
    pub(crate) fn backend_connect(&self, id: &str, scopes: &[String], caps: &[String]) -> String {
        let token = self.ready.token.expose();
        let mut params = serde_json::json!({
            "minProtocol": wire::PROTOCOL_VERSION, "maxProtocol": wire::PROTOCOL_VERSION,
            "client": {
                "id": "gateway-client", "version": wire::REFERENCE_VERSION,
                "platform": std::env::consts::OS, "mode": "backend",
            },
            "caps": caps, "role": "operator", "scopes": scopes, "auth": { "token": token },
        });
        if let Some(device) = &self.ready.device {
            params["device"] = device.proof((&self.nonce, self.issued_ms), token, scopes);
        }
        serde_json::json!({ "type": "req", "id": id, "method": "connect", "params": params })
            .to_string()
    }

    /// Sends a `connect` frame and answers the response to it.
    ///
    /// # Errors
    /// The upstream's close, or why there was no answer.
    pub(crate) async fn connect(&mut self, frame: &str) -> Result<String, ConnectError> {
        self.writer.feed(Opcode::Text, frame.as_bytes());
        self.writer.flush().await?;
        let deadline = Instant::now() + HELLO_TIMEOUT;
        loop {
            match tokio::time::timeout_at(deadline, self.reader.next()).await {
                Err(_elapsed) => {
                    return Err(ConnectError::Failed(format!(
                        "no answer to connect within {HELLO_TIMEOUT:?}"
                    )));
                }
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(Incoming::Closed(1006, _))) => {
                    return Err(ConnectError::Failed(
                        "the socket ended before connect was answered".to_owned(),
                    ));
                }
                Ok(Ok(Incoming::Closed(code, reason))) => {
                    return Err(ConnectError::Closed { code, reason });
                }
                Ok(Ok(Incoming::Ping(payload))) => self.writer.feed(Opcode::Pong, &payload),
                Ok(Ok(Incoming::Text(text))) => {
                    if matches!(
                        UpstreamFrame::parse(&text),
                        Ok(UpstreamFrame::Response { .. })
                    ) {
                        return Ok(text);
                    }
                }
            }
        }
    }
}

/// Who the link is for its upstream.
#[derive(Debug, Clone)]
pub(crate) enum Identity {
    /// Our own backend client; can be made again by us.
    Backend {
        scopes: Vec<String>,
        caps: Vec<String>,
        headers: DialHeaders,
    },
    /// The client's own, relayed; only the client can make it again.
    Relayed,
}

/// Starts the task that serves one client's calls and events.
///
/// `connected` is an upstream socket whose `connect` was accepted; without one (the upstream is down) a backend
/// link starts by waiting for the upstream.
pub(crate) fn start(
    connected: Option<Dialled>,
    identity: Identity,
    outbound: Arc<Outbound>,
    app: &crate::app::App,
    presence: Teller,
) -> Link {
    let (calls, queue) = mpsc::channel(QUEUED_CALLS_MAX);
    let task = Task {
        identity,
        outbound,
        upstream: app.upstream.clone(),
        metrics: Arc::clone(&app.metrics),
        gap: Gap::of(app),
        presence,
        queue,
        held: 0,
        pending: HashMap::new(),
        repeatable_bytes: 0,
        epoch: None,
        place: None,
        subscriptions: HashMap::new(),
        runs: Runs::default(),
    };
    tokio::spawn(task.run(connected));
    Link { calls }
}

struct Pending {
    method: String,
    /// Kept until the first answer, where there is room.
    frame: Option<String>,
    /// May be sent although the upstream may have had it.
    repeatable: bool,
    /// The upstream has not had it, or said that it did not take it: waits for the next one.
    held: Option<OwnedSemaphorePermit>,
    since: Instant,
    /// Until its first answer.
    timing: Option<Timing>,
    watch: Option<Box<dyn Watch>>,
    /// Of a call that starts a run: where.
    starts_in: Option<String>,
}

struct Task {
    identity: Identity,
    outbound: Arc<Outbound>,
    upstream: watch::Receiver<UpstreamState>,
    metrics: Arc<Metrics>,
    gap: Gap,
    /// Whose `presence` the client is told.
    presence: Teller,
    queue: mpsc::Receiver<Box<UpCall>>,
    /// Calls of `pending` that are held.
    held: usize,
    pending: HashMap<String, Pending>,
    repeatable_bytes: usize,
    /// Of the upstream last served from.
    epoch: Option<u64>,
    /// Where that listened, on this machine.
    place: Option<std::net::SocketAddr>,
    /// The last frame of each subscription, by method and params, to be sent again on a new socket.
    subscriptions: HashMap<String, String>,
    runs: Runs,
}

impl Pending {
    /// Whether it may go to a new socket.
    const fn may_go(&self) -> bool {
        self.frame.is_some() && (self.repeatable || self.held.is_some())
    }
}

/// Answers calls that the upstream does not.
struct Refuser {
    outbound: Arc<Outbound>,
    metrics: Arc<Metrics>,
}

impl Refuser {
    /// `timing` is there unless the call had a first answer.
    fn refuse(&self, id: &str, timing: Option<Timing>, error: &ErrorShape) {
        self.outbound.send(response_error(id, error));
        if let Some(timing) = timing {
            self.metrics.end(timing, Owner::Upstream, Some(&error.code));
        }
    }
}

/// Why a stretch of service ended.
enum Ended {
    ClientGone,
    UpstreamGone(String),
}

impl Task {
    async fn run(mut self, mut connected: Option<Dialled>) {
        loop {
            let ended = match connected.take() {
                Some(dialled) => self.serve(dialled).await,
                None => Ended::UpstreamGone("not connected".to_owned()),
            };
            let why = match ended {
                Ended::ClientGone => return,
                Ended::UpstreamGone(why) => why,
            };
            tracing::debug!(%why, pending = self.pending.len(), "upstream link ended");
            self.fail_unrepeatable();
            connected = match self.wait_for_upstream().await {
                Some(dialled) => Some(dialled),
                None => return,
            };
        }
    }

    /// Answers every call that may not be sent a second time.
    fn fail_unrepeatable(&mut self) {
        let refuser = self.refuser();
        let mut released = 0;
        self.pending.retain(|id, call| {
            let keep = call.may_go();
            if !keep {
                released += call.frame.as_ref().map_or(0, String::len);
                refuser.refuse(id, call.timing, &super::unavailable(&call.method));
            }
            keep
        });
        self.repeatable_bytes -= released;
    }

    /// Waits until a new socket is connected, answering calls meanwhile. `None`: the client is gone.
    async fn wait_for_upstream(&mut self) -> Option<Dialled> {
        let mut backoff = Duration::from_millis(20);
        let (lost, lost_ms) = (Instant::now(), crate::clock::now_ms());
        loop {
            self.end_runs_of_the_dead().await;
            let ready = match &*self.upstream.borrow_and_update() {
                UpstreamState::Ready(ready) => Some(ready.clone()),
                _ => None,
            };
            if let Some(ready) = ready {
                let Identity::Backend {
                    scopes,
                    caps,
                    headers,
                } = self.identity.clone()
                else {
                    // Only the client can sign for itself: it is told once the upstream is back. While the
                    // watcher still believes in the one that died, that is not yet so.
                    if Some(ready.epoch) != self.epoch || lost.elapsed() > NOTICED_WITHIN {
                        self.outbound.close(Close::new(1012, "service restart"));
                        return None;
                    }
                    self.answer_calls_for(Duration::from_millis(50)).await?;
                    continue;
                };
                match reconnect(&ready, &scopes, &caps, &headers).await {
                    Ok((dialled, up_ms)) => {
                        // Back before anybody noticed: it says itself since when it runs.
                        let began =
                            crate::clock::now_ms().saturating_sub(up_ms.unwrap_or(u64::MAX));
                        if began > lost_ms || Some(ready.epoch) != self.epoch {
                            self.end_runs();
                        }
                        return Some(dialled);
                    }
                    Err(why) => tracing::debug!(%why, "upstream link could not be made again"),
                }
                backoff = (backoff * 2).min(Duration::from_secs(2));
            }
            let pause = if ready_known(&self.upstream) {
                backoff
            } else {
                Duration::from_millis(250)
            };
            self.answer_calls_for(pause).await?;
            self.fail_overdue(false);
        }
    }

    /// Tells the client that its runs have ended, once the upstream that worked on them is known to be gone. One that was merely
    /// cut off, or that hangs, goes on with them.
    async fn end_runs_of_the_dead(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let Some(place) = self.place else { return };
        let epoch = self.upstream.borrow().ready().map(|ready| ready.epoch);
        let is_another = epoch.is_some() && epoch != self.epoch;
        // Nobody listens where it was. Our way to one on another machine is always there, and proves nothing.
        let is_refused = || async {
            let tried = tokio::net::TcpStream::connect(place);
            let tried = tokio::time::timeout(DIAL_TIMEOUT, tried).await;
            matches!(tried, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
        };
        if is_another || is_refused().await {
            self.end_runs();
        }
    }

    fn end_runs(&mut self) {
        for (event, text) in self.runs.lost() {
            self.outbound
                .event(&text, crate::events::drop_if_slow(event));
        }
    }

    /// What is known of the upstream has changed while its socket works: one that has another epoch began after the runs that were
    /// carried over to this socket.
    fn look_at_epoch(&mut self) {
        let epoch = self
            .upstream
            .borrow_and_update()
            .ready()
            .map(|ready| ready.epoch);
        if epoch.is_none() || epoch == self.epoch {
            return;
        }
        self.epoch = epoch;
        for (event, text) in self.runs.lost_before_this_socket() {
            self.outbound
                .event(&text, crate::events::drop_if_slow(event));
        }
    }

    /// Takes calls while there is no upstream, until its state changes or `pause` is over. `None`: the client is
    /// gone.
    async fn answer_calls_for(&mut self, pause: Duration) -> Option<()> {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                call = self.queue.recv() => {
                    let call = call?;
                    let held = self.room_in_gap(&call);
                    if (call.repeatable || held.is_some()) && self.has_room_for(&call) {
                        self.held += usize::from(held.is_some());
                        self.note_subscription(&call);
                        self.remember(*call, held);
                    } else {
                        let error = super::unavailable(&call.method);
                        self.refuser().refuse(&call.id, Some(call.timing), &error);
                    }
                }
                changed = self.upstream.changed() => return changed.ok(),
                () = tokio::time::sleep_until(until) => return Some(()),
            }
        }
    }

    fn refuser(&self) -> Refuser {
        Refuser {
            outbound: Arc::clone(&self.outbound),
            metrics: Arc::clone(&self.metrics),
        }
    }

    fn has_room_for(&self, call: &UpCall) -> bool {
        self.pending.len() < PENDING_CALLS_MAX
            && self.repeatable_bytes + call.frame.len() <= REPEATABLE_BYTES_MAX
    }

    fn remember(&mut self, call: UpCall, held: Option<OwnedSemaphorePermit>) {
        let starts_in = runs::session_of_call(&call.method, &call.frame);
        // One that may not be repeated is kept too, for a child of ours that says that it takes nothing more.
        let is_kept = (call.repeatable || self.gap.may_open()) && self.has_room_for(&call);
        let frame = is_kept.then_some(call.frame);
        self.repeatable_bytes += frame.as_ref().map_or(0, String::len);
        let replaced = self.pending.insert(
            call.id,
            Pending {
                method: call.method,
                frame,
                repeatable: call.repeatable,
                held,
                since: Instant::now(),
                timing: Some(call.timing),
                watch: call.watch,
                starts_in,
            },
        );
        // An id used again by the client: the older call can't be told apart any more.
        self.repeatable_bytes -= replaced
            .and_then(|call| call.frame)
            .map_or(0, |frame| frame.len());
    }

    async fn serve(&mut self, dialled: Dialled) -> Ended {
        let Dialled {
            mut reader,
            mut writer,
            ready,
            ..
        } = dialled;
        self.epoch = Some(ready.epoch);
        self.place = ready.device.is_none().then_some(ready.address);
        self.runs.carry_over();
        for frame in self.subscriptions.values() {
            writer.feed(Opcode::Text, frame.as_bytes());
        }
        self.send_waiting(&mut writer);
        if let Err(error) = writer.flush().await {
            return Ended::UpstreamGone(error.to_string());
        }
        // Goes on while events stream.
        let mut looks = tokio::time::interval(gap::LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                call = self.queue.recv() => {
                    let Some(call) = call else { return Ended::ClientGone };
                    self.call(call, &mut writer);
                    // Take what else is waiting into the same write.
                    while writer.waiting_bytes() < 256 * 1024 {
                        let Ok(call) = self.queue.try_recv() else { break };
                        self.call(call, &mut writer);
                    }
                    if let Err(error) = writer.flush().await {
                        return Ended::UpstreamGone(error.to_string());
                    }
                }
                _ = looks.tick(), if self.held > 0 => {
                    if let Err(error) = self.look_at_held(&mut writer).await {
                        return Ended::UpstreamGone(error.to_string());
                    }
                }
                changed = self.upstream.changed() => match changed {
                    Ok(()) => self.look_at_epoch(),
                    Err(_gateway_stops) => return Ended::ClientGone,
                },
                incoming = reader.next() => match incoming {
                    Ok(Incoming::Text(text)) => self.receive(text),
                    Ok(Incoming::Ping(payload)) => {
                        writer.feed(Opcode::Pong, &payload);
                        if let Err(error) = writer.flush().await {
                            return Ended::UpstreamGone(error.to_string());
                        }
                    }
                    Ok(Incoming::Closed(code, reason)) => {
                        return self.closed(code, &reason, &ready);
                    }
                    Err(error) => return Ended::UpstreamGone(error.to_string()),
                }
            }
        }
    }

    fn closed(&self, code: u16, reason: &str, ready: &Ready) -> Ended {
        // A relayed identity was refused or rotated by the upstream itself: that is the client's to know.
        if matches!(self.identity, Identity::Relayed)
            && matches!(code, 4000..=4999 | 1008 | 1002 | 1009)
        {
            self.outbound.close(Close::new(code, reason));
            return Ended::ClientGone;
        }
        Ended::UpstreamGone(format!(
            "closed with {code} {reason} (epoch {})",
            ready.epoch
        ))
    }

    fn call(&mut self, call: Box<UpCall>, writer: &mut Writer) {
        if self.pending.len() >= PENDING_CALLS_MAX {
            let busy =
                ErrorShape::retryable("The server is busy. Please try again in a moment.", None);
            return self.refuser().refuse(&call.id, Some(call.timing), &busy);
        }
        self.note_subscription(&call);
        if let Some(held) = self.room_in_gap(&call) {
            self.held += 1;
            return self.remember(*call, Some(held));
        }
        writer.feed(Opcode::Text, call.frame.as_bytes());
        self.remember(*call, None);
    }

    fn note_subscription(&mut self, call: &UpCall) {
        match call.method.as_str() {
            "sessions.subscribe" | "sessions.messages.subscribe" => self.subscribe(call),
            "sessions.messages.unsubscribe" => {
                self.subscriptions.remove(&format!(
                    "sessions.messages.subscribe {}",
                    params_text(&call.frame)
                ));
            }
            _ => {}
        }
    }

    fn subscribe(&mut self, call: &UpCall) {
        if self.subscriptions.len() >= 256 {
            return;
        }
        let key = format!("{} {}", call.method, params_text(&call.frame));
        // Answers to a repeated subscription must reach nobody: their id is one no client uses.
        let frame = super::with_id(&call.frame, "bridge:resubscribe");
        self.subscriptions.insert(key, frame);
    }

    fn receive(&mut self, text: String) {
        match UpstreamFrame::parse(&text) {
            Ok(UpstreamFrame::Response {
                id,
                ok,
                payload,
                error,
            }) => {
                if id == "bridge:resubscribe" || (!ok && self.hold(&id, error)) {
                    return;
                }
                let accepted = payload.is_some_and(|payload| is_first_of_two(payload.get()));
                if let Some(timing) = self
                    .pending
                    .get_mut(&*id)
                    .and_then(|call| call.timing.take())
                {
                    let code = (!ok).then(|| error.map(code_of).unwrap_or_default());
                    self.metrics.end(timing, Owner::Upstream, code.as_deref());
                }
                let watch = self
                    .pending
                    .get_mut(&*id)
                    .and_then(|call| call.watch.take());
                let afterwards =
                    watch.and_then(|watch| watch.hear(ok, if ok { payload } else { error }));
                if let Some(Pending {
                    starts_in: Some(session_key),
                    ..
                }) = self.pending.get(&*id)
                    && let Some(payload) = payload
                {
                    self.runs.answered(session_key, payload);
                }
                match self.pending.get_mut(&*id) {
                    // Its effect has begun: from here on it must not be sent again.
                    Some(call) if accepted => {
                        self.repeatable_bytes -= call.frame.take().map_or(0, |frame| frame.len());
                    }
                    Some(_) => {
                        if let Some(call) = self.pending.remove(&*id) {
                            self.repeatable_bytes -= call.frame.map_or(0, |frame| frame.len());
                        }
                    }
                    None => {}
                }
                self.outbound.send(text);
                if let Some(afterwards) = afterwards {
                    afterwards();
                }
            }
            Ok(UpstreamFrame::Event {
                event,
                payload,
                seq,
                state_version,
                recipient_profile_id,
            }) => {
                // Ours: the client has our tick, and hears of a shutdown, of the user's file and of who is there from us.
                if matches!(
                    &*event,
                    "connect.challenge" | "tick" | "shutdown" | "config.changed"
                ) || (event == "presence" && self.presence.is_us())
                {
                    return;
                }
                self.runs.told(&event, payload);
                let ours = EventText::with_recipient(
                    &event,
                    payload.map(RawValue::get),
                    state_version.map(RawValue::get),
                    recipient_profile_id.map(RawValue::get),
                );
                if seq.is_some() {
                    self.outbound
                        .event(&ours, crate::events::drop_if_slow(&event));
                } else {
                    self.outbound.targeted(&ours);
                }
            }
            Ok(UpstreamFrame::Other) => tracing::debug!("upstream sent a frame of an unknown type"),
            Err(error) => tracing::warn!(%error, "upstream sent something that is not JSON"),
        }
    }
}

fn ready_known(upstream: &watch::Receiver<UpstreamState>) -> bool {
    matches!(&*upstream.borrow(), UpstreamState::Ready(_))
}

/// The new socket, and for how long the upstream behind it has been running.
async fn reconnect(
    ready: &Ready,
    scopes: &[String],
    caps: &[String],
    headers: &DialHeaders,
) -> Result<(Dialled, Option<u64>), String> {
    let _permit = ready
        .dial_permits
        .acquire()
        .await
        .map_err(|closed| closed.to_string())?;
    let mut dialled = dial(ready, headers).await?;
    let frame = dialled.backend_connect("bridge:connect", scopes, caps);
    let answer = dialled
        .connect(&frame)
        .await
        .map_err(|error| error.to_string())?;
    match UpstreamFrame::parse(&answer) {
        Ok(UpstreamFrame::Response {
            ok: true, payload, ..
        }) => Ok((dialled, payload.and_then(up_ms))),
        _ => Err(format!(
            "the upstream refused our connect: {}",
            answer.chars().take(300).collect::<String>()
        )),
    }
}
