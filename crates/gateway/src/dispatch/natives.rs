//! Which methods are answered here, and by what.
//!
//! A row is native while there is no upstream, or while the upstream has told us what to say (its own health,
//! pushed to us whenever it changes). What is said is in `crate::native`.

use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;
use wire::error::ErrorShape;

use super::{Native, NativeReply, Session};
use crate::app::App;
use crate::assistant;
use crate::native::{self, Answer, health, presence, system};
use crate::{bridge, clock};

/// The native row of a method, unless it is handed back to the upstream (`native.disable`).
pub(crate) fn find(
    app: &App,
    session: &Session,
    frame: &wire::frame::RequestFrame<'_>,
) -> Option<Native> {
    let method = &*frame.method;
    let alone = matches!(&*app.upstream.borrow(), bridge::UpstreamState::Off);
    if is_disabled(app, method) {
        return None;
    }
    if !alone {
        // Of this gateway alone, wherever its caller is served.
        if let Some(row) = super::devices::ours(app, frame) {
            return Some(row);
        }
        if !crate::rollout::includes(crate::rollout::in_force(app), session.place) {
            return None;
        }
        return match method {
            "health" | "last-heartbeat" => Some(Native::Known(known)),
            _ => None,
        };
    }
    Some(match method {
        "health" => Native::Now(|app, _, _| Ok(own_health_text(app))),
        "last-heartbeat" => {
            Native::Now(|app, _, _| Ok(crate::schedule::methods::last_heartbeat(app)))
        }
        "system-presence" => Native::Now(system_presence),
        "system.info" => Native::Blocking(system_info),
        _ => {
            return super::devices::find(method)
                .or_else(|| native::alone::find(method).map(Native::Alone));
        }
    })
}

/// Whether the rollout's percent decides who answers this call: what its guard judges.
pub(crate) fn moves(app: &App, frame: &wire::frame::RequestFrame<'_>) -> bool {
    let (method, params) = (&*frame.method, frame.params);
    // By name first: all but a few calls need no more.
    let is_of_rollout = match method {
        // A probe is the upstream's to make, whoever asks.
        "health" => !health::wants_probe(params),
        "last-heartbeat" => true,
        _ => crate::memories::moves(app, method, params),
    };
    is_of_rollout
        && !matches!(&*app.upstream.borrow(), bridge::UpstreamState::Off)
        && !is_disabled(app, method)
}

/// The answer of a call that waits for something: about the configuration, agents, memories, messages or channel accounts
/// of ours.
pub(crate) fn task(
    app: &Arc<App>,
    session: &Arc<Session>,
    frame: &wire::frame::RequestFrame<'_>,
) -> Option<crate::messages::methods::Task> {
    let (method, params) = (&*frame.method, frame.params);
    if is_disabled(app, method) {
        return None;
    }
    super::config::find(app, method, params)
        .or_else(|| assistant::methods::find(app, session, &frame.id, method, params))
        .or_else(|| crate::schedule::methods::find(app, method, params))
        .or_else(|| crate::memories::find(app, session, method, params))
        .or_else(|| crate::log_stream::find(app, session, method, params))
        .or_else(|| super::presence::find(app, session, method, params))
        .or_else(|| super::devices::list(app, session, method, params))
        .or_else(|| crate::messages::methods::find(app.messages()?, method, params))
}

const OWN: [&str; 5] = [
    "health",
    "last-heartbeat",
    "system-presence",
    "system.info",
    "logs.tail",
];

/// Whether the row is handed back to the upstream.
pub(crate) fn is_disabled(app: &App, method: &str) -> bool {
    let settings = app.settings.load();
    settings
        .native_disable
        .iter()
        .any(|pattern| matches_pattern(pattern, method))
}

/// `sessions.*` covers every name that starts with `sessions.`; anything else is the name itself.
fn matches_pattern(pattern: &str, method: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => method.starts_with(prefix),
        None => pattern == method,
    }
}

fn is_served_alone(name: &str) -> bool {
    OWN.contains(&name)
        || super::config::NAMES.contains(&name)
        || assistant::methods::NAMES.contains(&name)
        || crate::schedule::methods::NAMES.contains(&name)
        || assistant::exec::methods::NAMES.contains(&name)
        || crate::memories::NAMES.contains(&name)
        || super::devices::NAMES.contains(&name)
        || native::alone::find(name).is_some()
}

/// Methods answered without an upstream, in the order in which the original lists them, then our own.
pub(crate) fn names(app: &App) -> Vec<&'static str> {
    wire::methods::all()
        .filter(|method| {
            method.advertised && is_served_alone(method.name) && !is_disabled(app, method.name)
        })
        .map(|method| method.name)
        .collect()
}

/// Events we send of our own accord.
pub(crate) fn emits(event: &str) -> bool {
    matches!(
        event,
        "connect.challenge"
            | "tick"
            | "health"
            | "presence"
            | "shutdown"
            | "config.changed"
            | "agent"
            | "chat"
            | "cron"
            | "heartbeat"
            | "session.message"
            | "session.operation"
            | "sessions.changed"
            | "exec.approval.requested"
            | "exec.approval.resolved"
    ) || event.starts_with("device.pair.")
}

/// The error of a method that only an upstream could serve, when none is configured: what is wrong with the
/// params comes first, as it does there.
pub(crate) fn without_upstream(method: &str, params: Option<&RawValue>) -> ErrorShape {
    wire::schema::check(method, params)
        .err()
        .unwrap_or_else(|| bridge::not_configured(method))
}

/// Runs a row of `native::alone`.
pub(crate) fn alone(
    app: &App,
    method: &str,
    serve: native::alone::Serve,
    params: Option<&RawValue>,
) -> NativeReply {
    wire::schema::check(method, params)?;
    let facts = app.facts.load();
    reply(serve(
        &facts.inputs(clock::now_ms(), app.uptime_ms()),
        params,
    ))
}

fn reply(answer: Answer) -> NativeReply {
    answer.map(|payload| payload.to_string())
}

/// What the upstream last said, `None` when it must be asked: nothing is known yet, the caller wants a probe,
/// or what is known is old while the upstream is there to be asked.
pub(crate) fn known(app: &App, method: &str, params: Option<&RawValue>) -> Option<String> {
    let known = app.known.load();
    match method {
        "last-heartbeat" => known.last_heartbeat.as_deref().map(str::to_owned),
        _ => {
            let fresh = known.health.serve(params, clock::now_ms());
            let away = app.upstream.borrow().ready().is_none() && !health::wants_probe(params);
            fresh
                .or_else(|| known.health.text().filter(|_| away))
                .map(str::to_owned)
        }
    }
}

/// Health of a gateway without an upstream.
pub(crate) fn own_health(app: &App) -> Value {
    health::alone(&app.facts.load().inputs(clock::now_ms(), app.uptime_ms()))
}

/// The same as text.
pub(crate) fn own_health_text(app: &App) -> String {
    let (facts, now_ms) = (app.facts.load(), clock::now_ms());
    if let Some(known) = &*app.own_health.load()
        && known.is_of(&facts)
    {
        return known.at(now_ms);
    }
    let made = health::AloneText::of(&facts);
    let text = made.at(now_ms);
    app.own_health.store(Some(Arc::new(made)));
    text
}

fn system_presence(app: &App, session: &Session, _: Option<&RawValue>) -> NativeReply {
    let rows = app.presence.lock().list(clock::now_ms());
    let principal = &session.principal;
    let visible = presence::visible(&rows, &principal.role, principal.scope_set);
    reply(Ok(Value::Array(visible.to_vec())))
}

fn system_info(app: &Arc<App>, _: &Arc<Session>, params: Option<&RawValue>) -> NativeReply {
    wire::schema::check("system.info", params)?;
    let facts = app.facts.load();
    reply(Ok(system::info(
        &facts.inputs(clock::now_ms(), app.uptime_ms()),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_one_method_or_a_family() {
        let check =
            |pattern, method, expected| assert_eq!(matches_pattern(pattern, method), expected);
        check("health", "health", true);
        check("health", "healthy", false);
        check("sessions.*", "sessions.list", true);
        check("sessions.*", "session.members.list", false);
        check("*", "anything", true);
    }

    /// What each side answers, with an upstream and without, as `docs/protocol.md` has it.
    fn document() -> String {
        let mut out = String::from(
            "# Methods\n\nWho answers each method that OpenClaw 2026.9.6 has, and ours. Made from the code: `UPDATE_DOCS=1 cargo test -p gateway\nnatives` writes it anew. *With OpenClaw* is the default; `native.disable` and `rollout` hand rows back to it. *Accounts of ours*:\nfor channel accounts in `channels.native`. A dash: `UNAVAILABLE`, which says what to start.\n\n\
             | method | scope | with OpenClaw | without |\n|---|---|---|---|\n",
        );
        for method in wire::methods::all() {
            let scope = match method.rule {
                wire::methods::ScopeRule::Static(scope) => scope.as_str(),
                wire::methods::ScopeRule::Node => "role node",
                wire::methods::ScopeRule::Dynamic(_) => "by its params",
            };
            let is_own = wire::methods::OWN.iter().any(|own| own.name == method.name);
            let with = match method.name {
                "health" | "last-heartbeat" => "here, from what it last said",
                "logs.tail" => "here, with its lines",
                "system-presence" | "device.pair.list" => "here, with its rows",
                name if name.starts_with("device.pair.")
                    && super::super::devices::NAMES.contains(&name) =>
                {
                    "OpenClaw; devices of ours here"
                }
                "device.token.revoke" | "device.token.rotate" => "OpenClaw; devices of ours here",
                "send" | "message.action" | "channels.status" | "channels.start"
                | "channels.stop" | "channels.logout" => "OpenClaw; accounts of ours here",
                "memory.search" | "tools.invoke" => "OpenClaw; memory here with `memory.native`",
                name if is_own || super::super::config::NAMES.contains(&name) => "here",
                _ => "OpenClaw",
            };
            let alone = match is_served_alone(method.name) {
                true => "here",
                false if with.ends_with("of ours here") => "accounts of ours",
                false => "–",
            };
            out.push_str(&format!(
                "| `{}` | {scope} | {with} | {alone} |\n",
                method.name
            ));
        }
        out
    }

    #[test]
    fn the_document_is_that_of_the_code() {
        let made = document();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &made).expect("written");
        }
        assert!(
            std::fs::read_to_string(&path).is_ok_and(|written| written == made),
            "docs/protocol.md is not in step: run UPDATE_DOCS=1 cargo test -p gateway natives"
        );
    }

    #[test]
    fn no_row_is_served_twice() {
        for name in OWN {
            assert!(native::alone::find(name).is_none(), "{name}");
            assert!(!super::super::devices::NAMES.contains(&name), "{name}");
        }
        for name in super::super::devices::NAMES {
            assert!(native::alone::find(name).is_none(), "{name}");
        }
    }
}
