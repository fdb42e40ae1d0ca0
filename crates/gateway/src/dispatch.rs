//! Which method, may they, who serves it. Never talks to a socket.
//!
//! A request is admitted (shape, role, scope, flood guard), then answered natively in place or handed to the
//! session's upstream link as it came.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use wire::error::ErrorShape;
use wire::frame::{FrameError, RequestFrame, response_error, response_ok};
use wire::methods::{self, ScopeRule};
use wire::scope::{Scope, ScopeSet};

use crate::app::App;
use crate::auth;
use crate::bridge::link::{Link, UpCall};
use crate::bridge::{self, UpstreamState};
use crate::ingress::complaints::{Cause, complain};
use crate::ingress::outbound::{Close, Outbound};
use crate::metrics::{Owner, Timing};
use crate::shadow;

pub(crate) mod budget;
pub(crate) mod config;
pub(crate) mod devices;
pub(crate) mod fault;
pub(crate) mod natives;
pub(crate) mod presence;
mod setup_code;

/// Who a connection is, as decided by its handshake.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    /// `operator` or `node`.
    pub(crate) role: String,
    pub(crate) scopes: Vec<String>,
    /// The same, as checked on every call.
    pub(crate) scope_set: ScopeSet,
    pub(crate) caps: Vec<String>,
    pub(crate) client_id: String,
    pub(crate) client_mode: String,
    pub(crate) device_id: Option<String>,
    /// The only device that it may manage: it came by that device's token, without admin.
    pub(crate) bound_device: Option<String>,
}

/// One open session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn_id: Arc<str>,
    pub(crate) principal: Principal,
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) link: Option<Link>,
    /// What our own authentication found; `None` when the upstream judged this client.
    pub(crate) judged: Option<Arc<auth::Principal>>,
    unauthorized_in_a_row: AtomicU32,
    /// Calls of this client that wait for their answer without a thread.
    waiting_calls: Arc<Semaphore>,
    /// Closed when the client is gone.
    left: Semaphore,
    /// Its place in the rollout; see [`crate::rollout`].
    pub(crate) place: u16,
}

impl Session {
    pub(crate) fn new(
        conn_id: Arc<str>,
        principal: Principal,
        outbound: Arc<Outbound>,
        link: Option<Link>,
        judged: Option<Arc<auth::Principal>>,
    ) -> Self {
        Self {
            place: crate::rollout::place_of(&principal),
            conn_id,
            principal,
            outbound,
            link,
            judged,
            unauthorized_in_a_row: AtomicU32::new(0),
            waiting_calls: Arc::new(Semaphore::new(wire::limits::REQUESTS_WAITING_MAX)),
            left: Semaphore::const_new(0),
        }
    }

    /// The client is gone.
    pub(crate) fn leave(&self) {
        self.left.close();
    }

    /// Answers once the client is gone, for calls that would wait for nobody.
    pub(crate) async fn left(&self) {
        // It has no permits: only its end answers.
        drop(self.left.acquire().await);
    }
}

/// What a native method answers: JSON text, or an error.
pub(crate) type NativeReply = Result<String, ErrorShape>;

/// The profile of whoever holds the gateway's own secret.
const OWNER_PROFILE: &str = "gateway-owner";

/// How a native method runs.
pub(crate) enum Native {
    /// In place: no waiting, no blocking.
    Now(fn(&App, &Session, Option<&RawValue>) -> NativeReply),
    /// On the blocking pool: reads or writes files.
    Blocking(fn(&Arc<App>, &Arc<Session>, Option<&RawValue>) -> NativeReply),
    /// On the blocking pool too: a row of [`devices`], after whose answer connections may have to end.
    Device(&'static str),
    /// From what the upstream last told us; `None` hands the call to it.
    Known(fn(&App, &str, Option<&RawValue>) -> Option<String>),
    /// Without an upstream: a pure answer from configuration and state.
    Alone(crate::native::alone::Serve),
}

/// Handles one text message of an open session.
pub(crate) fn receive(app: &Arc<App>, session: &Arc<Session>, text: &str) {
    app.metrics.requests.fetch_add(1, Ordering::Relaxed);
    let frame = match RequestFrame::parse(text) {
        Ok(frame) => frame,
        Err(FrameError::Syntax(error)) => {
            let peer = session.judged.as_ref().and_then(|judged| judged.client_ip);
            complain(Cause::NoJson, peer, Some(&session.conn_id), &error);
            return;
        }
        Err(FrameError::Shape { id, message }) => {
            let error = ErrorShape::invalid_request(format!("invalid request frame: {message}"));
            app.metrics.error(Owner::Native, &error.code);
            session
                .outbound
                .send(wire::frame::response_error_to(&id, &error));
            return;
        }
    };
    let principal = &session.principal;
    // A plugin's scope is known to the upstream alone, which checks it against the same scopes.
    let timing = app.metrics.begin(&frame.method);
    let row = timing.method();
    let asked_upstream = principal.role == "operator"
        && app.upstream.borrow().word() != "off"
        && (row.is_some_and(methods::Method::decided_upstream)
            || app.is_plugin_method(&frame.method));
    if !asked_upstream
        && let Err(error) = methods::authorize(
            &frame.method,
            &principal.role,
            principal.scope_set,
            frame.params,
        )
    {
        refuse(app, session, &frame.id, timing, &error.to_error());
        return;
    }
    session.unauthorized_in_a_row.store(0, Ordering::Relaxed);
    if let Some(profile) = frame.expected_profile_id.as_deref()
        && profile != OWNER_PROFILE
    {
        // Who a connection's person is, only the upstream knows.
        if app.upstream.borrow().word() == "off" {
            return refuse(app, session, &frame.id, timing, &profile_mismatch());
        }
        return forward(app, session, &frame, timing, text);
    }
    if frame.method == "connect" {
        let error = ErrorShape::invalid_request("connect is only valid as the first request");
        return fail(app, session, &frame.id, timing, Owner::Native, &error);
    }
    let timing = timing.moving(natives::moves(app, &frame));
    let is_counted = row.is_some_and(|row| row.control_plane);
    let over_budget = |method: &str| {
        let now_ms = crate::clock::now_ms();
        let checked = is_counted.then(|| app.write_budget.lock().check(session, method, now_ms));
        checked.and_then(Result::err)
    };
    if let Some(task) = natives::task(app, session, &frame) {
        if let Some(error) = over_budget(&frame.method) {
            return fail(app, session, &frame.id, timing, Owner::Native, &error);
        }
        app.metrics.taken(timing);
        let task = match fault::planted(&frame.method) {
            Some(fault) => fault.before(task),
            None => task,
        };
        return run_task(app, session, &frame, timing, task);
    }
    let native = natives::find(app, session, &frame);
    if native.is_some()
        && let Some(error) = over_budget(&frame.method)
    {
        return fail(app, session, &frame.id, timing, Owner::Native, &error);
    }
    match native {
        Some(Native::Now(serve)) => {
            let reply = guarded(&frame.method, || serve(app, session, frame.params));
            answer(app, session, &frame.id, timing, reply);
        }
        Some(Native::Blocking(serve)) => run_blocking(
            app,
            session,
            &frame,
            timing,
            move |app, session, params, _| serve(app, session, params),
        ),
        Some(Native::Device(name)) => run_blocking(
            app,
            session,
            &frame,
            timing,
            move |app, session, params, closes| devices::serve(name, app, session, params, closes),
        ),
        Some(Native::Alone(serve)) => {
            let reply = guarded(&frame.method, || {
                natives::alone(app, &frame.method, serve, frame.params)
            });
            answer(app, session, &frame.id, timing, reply);
        }
        Some(Native::Known(known)) => match known(app, &frame.method, frame.params) {
            Some(payload) => {
                app.metrics.taken(timing);
                if let Some(fault) = fault::planted(&frame.method) {
                    let task = fault.before(Box::pin(async { Ok(payload) }));
                    return run_task(app, session, &frame, timing, task);
                }
                answer(app, session, &frame.id, timing, Ok(payload));
            }
            None => forward(app, session, &frame, timing, text),
        },
        None => forward(app, session, &frame, timing, text),
    }
}

/// Source: src/gateway/server/expected-profile.ts at 2026.9.6.
fn profile_mismatch() -> ErrorShape {
    ErrorShape::invalid_request(
        "Selected account changed or is unavailable. Select the account again before retrying.",
    )
    .with_details(serde_json::json!({
        "reason": "EXPECTED_PROFILE_MISMATCH",
        "execution": "not_started",
    }))
}

fn refuse(app: &App, session: &Session, id: &str, timing: Timing, error: &ErrorShape) {
    fail(app, session, id, timing, Owner::Native, error);
    if error.message.starts_with("unauthorized role:") {
        let count = session
            .unauthorized_in_a_row
            .fetch_add(1, Ordering::Relaxed)
            + 1;
        if count > wire::limits::UNAUTHORIZED_CALLS_MAX {
            tracing::warn!(conn = %session.conn_id, count, "closing after repeated unauthorized calls");
            session
                .outbound
                .close(Close::new(1008, "repeated unauthorized calls"));
        }
    } else {
        session.unauthorized_in_a_row.store(0, Ordering::Relaxed);
    }
}

fn answer(app: &App, session: &Session, id: &str, timing: Timing, reply: NativeReply) {
    match reply {
        Ok(payload) => {
            session.outbound.send(response_ok(id, &payload));
            app.metrics.end(timing, Owner::Native, None);
        }
        Err(error) => fail(app, session, id, timing, Owner::Native, &error),
    }
}

fn fail(app: &App, session: &Session, id: &str, timing: Timing, owner: Owner, error: &ErrorShape) {
    session.outbound.send(response_error(id, error));
    app.metrics.end(timing, owner, Some(&error.code));
}

fn busy() -> ErrorShape {
    ErrorShape::retryable("The server is busy. Please try again in a moment.", None)
}

/// A panic answers one caller only.
fn guarded(method: &str, serve: impl FnOnce() -> NativeReply) -> NativeReply {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve)).unwrap_or_else(|_panic| {
        tracing::error!(method, "native method panicked; answered UNAVAILABLE");
        Err(ErrorShape::retryable(
            format!("{method} failed inside the gateway; see its log"),
            None,
        ))
    })
}

/// Answers when the task is done; the connection goes on meanwhile.
fn run_task(
    app: &Arc<App>,
    session: &Arc<Session>,
    frame: &RequestFrame<'_>,
    timing: Timing,
    task: crate::messages::methods::Task,
) {
    // A client that waits for a thousand runs keeps nobody else from calling.
    let of = |calls: &Arc<Semaphore>| Arc::clone(calls).try_acquire_owned();
    let (Ok(own), Ok(shared)) = (of(&session.waiting_calls), of(&app.waiting_calls)) else {
        return fail(app, session, &frame.id, timing, Owner::Native, &busy());
    };
    let (app, session) = (Arc::clone(app), Arc::clone(session));
    let (id, method) = (
        frame.id.clone().into_owned(),
        frame.method.clone().into_owned(),
    );
    tokio::spawn(async move {
        // In a task of its own, so that a panic answers this caller alone.
        let reply = tokio::spawn(task).await.unwrap_or_else(|_panic| {
            tracing::error!(method, "native method panicked; answered UNAVAILABLE");
            Err(ErrorShape::retryable(
                format!("{method} failed inside the gateway; see its log"),
                None,
            ))
        });
        answer(&app, &session, &id, timing, reply);
        drop((own, shared));
    });
}

/// `serve` may name devices whose connections end after the answer: the caller's own may be among them.
fn run_blocking(
    app: &Arc<App>,
    session: &Arc<Session>,
    frame: &RequestFrame<'_>,
    timing: Timing,
    serve: impl FnOnce(
        &Arc<App>,
        &Arc<Session>,
        Option<&RawValue>,
        &mut Vec<auth::DeviceClose>,
    ) -> NativeReply
    + Send
    + 'static,
) {
    let Ok(permit) = Arc::clone(&app.blocking_calls).try_acquire_owned() else {
        return fail(app, session, &frame.id, timing, Owner::Native, &busy());
    };
    let (app, session) = (Arc::clone(app), Arc::clone(session));
    let (id, method) = (
        frame.id.clone().into_owned(),
        frame.method.clone().into_owned(),
    );
    let params = frame.params.map(ToOwned::to_owned);
    tokio::task::spawn_blocking(move || {
        let mut closes = Vec::new();
        let reply = guarded(&method, || {
            serve(&app, &session, params.as_deref(), &mut closes)
        });
        answer(&app, &session, &id, timing, reply);
        app.close_devices(&closes);
        drop(permit);
    });
}

fn forward(
    app: &Arc<App>,
    session: &Session,
    frame: &RequestFrame<'_>,
    timing: Timing,
    text: &str,
) {
    let known = timing.method().is_some() || app.is_plugin_method(&frame.method);
    let state = app.upstream.borrow().word();
    let Some(link) = session.link.as_ref().filter(|_| state != "off") else {
        let error = if !known {
            ErrorShape::invalid_request(format!("unknown method: {}", frame.method))
        } else {
            natives::without_upstream(&frame.method, frame.params)
        };
        // Refused for want of somebody to ask, which the rollout decides nothing about.
        let timing = timing.moving(false);
        return fail(app, session, &frame.id, timing, Owner::Native, &error);
    };
    let told = match setup_code::told(app, frame, text) {
        Ok(told) => told,
        Err(error) => return fail(app, session, &frame.id, timing, Owner::Native, &error),
    };
    if matches!(&*app.upstream.borrow(), UpstreamState::Asleep) {
        app.wake_upstream();
    }
    let call = UpCall {
        id: frame.id.clone().into_owned(),
        method: frame.method.clone().into_owned(),
        frame: told.unwrap_or_else(|| text.to_owned()),
        repeatable: is_repeatable(frame),
        timing,
        watch: shadow::sampled(app, frame).or_else(|| devices::watch(app, frame)),
    };
    app.metrics.bridged.fetch_add(1, Ordering::Relaxed);
    if let Err(call) = link.forward(Box::new(call)) {
        let error = bridge::unavailable(&call.method);
        fail(app, session, &call.id, timing, Owner::Upstream, &error);
    }
}

/// Whether a call may reach the upstream twice: it only reads, or it carries a key by which the upstream
/// recognises the repetition.
fn is_repeatable(frame: &RequestFrame<'_>) -> bool {
    #[derive(serde::Deserialize)]
    struct Keyed<'a> {
        #[serde(rename = "idempotencyKey", borrow)]
        key: Option<std::borrow::Cow<'a, str>>,
    }
    let reads = matches!(
        methods::lookup(&frame.method).map(|method| method.rule),
        Some(ScopeRule::Static(Scope::Read | Scope::SessionsRead))
    );
    // Reads by scope that start something all the same.
    let starts =
        matches!(&*frame.method, "sessions.companion.ask") || frame.method.contains("authorize");
    (reads && !starts)
        || frame.params.is_some_and(|params| {
            serde_json::from_str::<Keyed<'_>>(params.get())
                .is_ok_and(|params| params.key.is_some_and(|key| !key.is_empty()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reads_and_keyed_calls_may_be_sent_twice() {
        let repeatable = |text: &str| is_repeatable(&RequestFrame::parse(text).expect("a request"));
        assert!(repeatable(
            r#"{"type":"req","id":"1","method":"sessions.list"}"#
        ));
        assert!(repeatable(
            r#"{"type":"req","id":"1","method":"chat.send","params":{"idempotencyKey":"k"}}"#
        ));
        assert!(!repeatable(
            r#"{"type":"req","id":"1","method":"chat.send","params":{"idempotencyKey":""}}"#
        ));
        assert!(!repeatable(
            r#"{"type":"req","id":"1","method":"cron.run","params":{"id":"x"}}"#
        ));
        assert!(!repeatable(
            r#"{"type":"req","id":"1","method":"users.github.authorize.start"}"#
        ));
    }
}
