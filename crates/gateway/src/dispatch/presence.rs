//! Who is here, with an upstream: clients of ours, and who has said something of themselves to the upstream alone. Asked for
//! (`system-presence`), told by the event `presence`, and in a hello.
//!
//! Clients that are bridged are backend clients there, which get no row. The person behind a client is in the upstream's book of
//! people alone: what its row has more than ours is added to ours. The upstream's own event is news of its rows, and goes to
//! those clients only whom the rollout leaves to it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use wire::scope::{Scope, ScopeSet};

use super::{Principal, Session, natives};
use crate::app::App;
use crate::bridge::UpstreamState;
use crate::clock;
use crate::messages::methods::Task;
use crate::native::presence;
use crate::rollout;

/// Everybody's list waits for the upstream's rows so long.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is kept of the upstream's rows; of a longer list nothing is, nor of the one before.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
const WATCHED: &str = "watchedSessions";

/// The task that answers `system-presence`. `None`: another method, no upstream, or a client that the rollout leaves to it.
pub(super) fn find(
    app: &Arc<App>,
    session: &Arc<Session>,
    method: &str,
    params: Option<&RawValue>,
) -> Option<Task> {
    if method != "system-presence" || matches!(*app.upstream.borrow(), UpstreamState::Off) {
        return None;
    }
    if !rollout::includes(rollout::in_force(app), session.place) {
        return None;
    }
    let checked = wire::schema::check(method, params);
    let (app, session) = (Arc::clone(app), Arc::clone(session));
    Some(Box::pin(async move {
        checked?;
        let is_there = app.upstream.borrow().ready().is_some();
        let theirs = match is_there {
            true => ask(&app).await,
            false => Vec::new(),
        };
        let rows = together(app.presence.lock().list(clock::now_ms()), theirs);
        Ok(shown(rows, &session.principal).to_string())
    }))
}

async fn ask(app: &App) -> Vec<Value> {
    let asking = app.control.call("system-presence", json!({}));
    let answer = match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err("no answer in time".to_owned()),
    };
    let rows = answer.and_then(|text| {
        keep(app, &text);
        parse(&text).map_err(|error| error.to_string())
    });
    rows.unwrap_or_else(|why| {
        tracing::debug!(%why, "OpenClaw does not say who is there");
        Vec::new()
    })
}

/// Tells everybody whose presence is ours. Called at most once per second.
pub(crate) fn tell(app: &App) {
    let percent = percent(app);
    if percent == 0 {
        return;
    }
    let ours = {
        let mut presence = app.presence.lock();
        presence.next_version();
        presence.list(clock::now_ms())
    };
    let rows = together(ours, theirs(app));
    let state_version = app.state_version().to_string();
    let tell = |rows: &[Value], is_told: &dyn Fn(ScopeSet) -> bool| {
        let payload = presence::event_payload(rows);
        app.hub
            .broadcast_if("presence", &payload, Some(&state_version), |subscriber| {
                rollout::includes(percent, subscriber.place) && is_told(subscriber.scopes)
            });
    };
    if !rows.iter().any(|row| row.get(WATCHED).is_some()) {
        return tell(&rows, &|_| true);
    }
    tell(&rows, &|scopes| scopes.contains(Scope::Admin));
    tell(&without_sessions(rows), &|scopes| {
        !scopes.contains(Scope::Admin)
    });
}

/// Puts who is here into the snapshot of an upstream's hello, which has the upstream's rows as this client may see them.
pub(crate) fn tell_in_hello(app: &App, principal: &Principal, snapshot: &mut Value) {
    if !is_ours(app, rollout::place_of(principal)) {
        return;
    }
    let Some(rows) = snapshot.get_mut("presence") else {
        return;
    };
    let theirs = match rows.take() {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    };
    let (ours, version) = {
        let mut presence = app.presence.lock();
        (presence.list(clock::now_ms()), presence.version())
    };
    let merged = together(ours, theirs);
    *rows = json!(presence::visible(
        &merged,
        &principal.role,
        principal.scope_set
    ));
    if let Some(told) = snapshot.pointer_mut("/stateVersion/presence") {
        *told = json!(version);
    }
}

/// The upstream's rows as a client may see them.
pub(crate) fn theirs_for(app: &App, principal: &Principal) -> Value {
    shown(theirs(app), principal)
}

/// Keeps the upstream's rows as it last said them.
pub(crate) fn keep(app: &App, rows: &str) {
    if rows.len() > KEPT_BYTES_MAX {
        tracing::debug!(
            bytes = rows.len(),
            "OpenClaw's presence is too long to keep"
        );
        // The one before is not who is there now.
        app.upstream_presence.store(None);
        return;
    }
    app.upstream_presence.store(Some(Arc::new(rows.to_owned())));
}

/// Who tells one client of presence: we, or the upstream by its own events.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    app: Weak<App>,
    place: u16,
}

impl Teller {
    /// Of the client at this place of the rollout.
    pub(crate) fn new(app: &Arc<App>, place: u16) -> Self {
        Self {
            app: Arc::downgrade(app),
            place,
        }
    }

    pub(crate) fn is_us(&self) -> bool {
        self.app
            .upgrade()
            .is_some_and(|app| is_ours(&app, self.place))
    }
}

fn is_ours(app: &App, place: u16) -> bool {
    rollout::includes(percent(app), place)
}

/// For which share of clients presence is ours to tell.
fn percent(app: &App) -> u8 {
    let is_alone = matches!(*app.upstream.borrow(), UpstreamState::Off);
    match is_alone {
        true => 100,
        false if natives::is_disabled(app, "system-presence") => 0,
        false => rollout::in_force(app),
    }
}

/// What the upstream last said; nobody while it is away.
fn theirs(app: &App) -> Vec<Value> {
    if app.upstream.borrow().ready().is_none() {
        return Vec::new();
    }
    let known = app.upstream_presence.load();
    let rows = known.as_deref().map(|rows| parse(rows));
    rows.and_then(Result::ok).unwrap_or_default()
}

fn parse(rows: &str) -> serde_json::Result<Vec<Value>> {
    let mut rows: Vec<Value> = serde_json::from_str(rows)?;
    rows.truncate(presence::ENTRIES_MAX);
    Ok(rows)
}

/// Rows as one caller may see them.
fn shown(rows: Vec<Value>, principal: &Principal) -> Value {
    let rows = match principal.scope_set.contains(Scope::Admin) {
        true => rows,
        false => without_sessions(rows),
    };
    json!(presence::visible(
        &rows,
        &principal.role,
        principal.scope_set
    ))
}

/// What the upstream tells us, who may see every session, for somebody who may not. Which of them they may see, the upstream
/// alone knows (`createPresenceRecipientProjection` at 2026.9.6).
fn without_sessions(mut rows: Vec<Value>) -> Vec<Value> {
    for fields in rows.iter_mut().filter_map(Value::as_object_mut) {
        fields.shift_remove(WATCHED);
    }
    rows
}

/// Our rows and those of the upstream that are not about the same connection, the newest first.
fn together(mut ours: Vec<Value>, theirs: Vec<Value>) -> Vec<Value> {
    if theirs.is_empty() {
        return ours;
    }
    // A client chooses its instance by itself and everybody sees it, so it tells connections of one device apart, and no more.
    let is_same = |theirs: &Value, ours: &Value| {
        theirs["deviceId"] == ours["deviceId"]
            && ["deviceId", "instanceId"]
                .iter()
                .any(|id| theirs[id].is_string() && theirs[id] == ours[id])
    };
    let mut others = Vec::new();
    // A device may have several connections: each row of the upstream's is about another one, in order.
    let mut is_told = vec![false; ours.len()];
    for row in theirs {
        let is_kept = match row["reason"].as_str() {
            Some("self") => false,
            // Of a connection, which is ours when it was relayed.
            Some("connect" | "disconnect") => !ours.iter().any(|own| is_same(&row, own)),
            _ => true,
        };
        if is_kept {
            others.push(row);
        } else if let Some(at) = (0..ours.len()).find(|&at| !is_told[at] && is_one(&row, &ours[at]))
        {
            is_told[at] = true;
            take_over(&mut ours[at], row);
        }
    }
    ours.extend(others);
    ours.sort_by_key(|row| std::cmp::Reverse(row["ts"].as_u64().unwrap_or_default()));
    ours
}

/// Whether a row of the upstream's can be about this very connection.
fn is_one(theirs: &Value, ours: &Value) -> bool {
    let id = match theirs["instanceId"].is_string() {
        true => "instanceId",
        false => "deviceId",
    };
    // One that has just come, or gone, on one side alone is what its socket here shows.
    theirs["deviceId"] == ours["deviceId"]
        && theirs["reason"] == ours["reason"]
        && theirs[id].is_string()
        && theirs[id] == ours[id]
}

/// A row as the upstream has it: who the person is, what they look at, and its own words for the rest.
fn take_over(ours: &mut Value, theirs: Value) {
    if let (Value::Object(ours), Value::Object(theirs)) = (ours, theirs) {
        // The last sign of life is what its socket here has shown.
        for (name, value) in theirs.into_iter().filter(|(name, _)| name != "ts") {
            ours.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_listed_once_and_what_only_the_upstream_knows_too() {
        let ours = vec![
            json!({ "host": "gateway", "reason": "self", "ts": 9, "instanceId": "g" }),
            json!({ "host": "page", "reason": "connect", "ts": 5, "instanceId": "p" }),
            json!({ "host": "node", "reason": "connect", "ts": 4, "deviceId": "n" }),
        ];
        let theirs = vec![
            json!({ "host": "theirs", "reason": "self", "ts": 9, "instanceId": "t" }),
            json!({ "host": "node", "reason": "connect", "ts": 3, "deviceId": "n" }),
            json!({ "host": "direct", "reason": "connect", "ts": 8, "deviceId": "d" }),
            json!({ "host": "beacon", "reason": "periodic", "ts": 4, "instanceId": "p" }),
        ];
        let rows = together(ours, theirs);
        let hosts: Vec<&str> = rows.iter().filter_map(|row| row["host"].as_str()).collect();
        assert_eq!(hosts, ["gateway", "direct", "page", "node", "beacon"]);
    }

    #[test]
    fn a_person_is_added_to_the_row_of_their_own_connection_and_sessions_are_not_for_everybody() {
        let page = |instance: &str| json!({ "host": "page", "reason": "connect", "ts": 5, "deviceId": "d", "instanceId": instance });
        let mut theirs = page("2");
        theirs["ts"] = json!(4);
        theirs["user"] = json!({ "id": "ada" });
        theirs["watchedSessions"] = json!(["agent:main:main"]);
        let rows = together(vec![page("1"), page("2")], vec![theirs]);
        let mut second = page("2");
        second["user"] = json!({ "id": "ada" });
        second["watchedSessions"] = json!(["agent:main:main"]);
        assert_eq!(rows, [page("1"), second.clone()]);
        second
            .as_object_mut()
            .expect("an object")
            .remove("watchedSessions");
        assert_eq!(without_sessions(rows), [page("1"), second]);
    }

    #[test]
    fn an_instance_of_another_device_s_is_nobody_else_s_row() {
        let page = |device: &str| json!({ "host": "page", "reason": "connect", "ts": 5, "deviceId": device, "instanceId": "i" });
        let mut theirs = page("b");
        theirs["user"] = json!({ "id": "ada" });
        let rows = together(vec![page("a"), page("b")], vec![theirs.clone()]);
        assert_eq!(rows, [page("a"), theirs.clone()]);
        // Nor does it hide who is connected to the upstream itself.
        let rows = together(vec![page("a")], vec![theirs.clone()]);
        assert_eq!(rows, [page("a"), theirs]);
    }
}
