//! `system-presence` with an upstream: who is here, and who has said something of themselves to the upstream alone.
//!
//! Clients that are bridged are backend clients there, which get no row. The person behind a client is in the upstream's book of
//! people alone: our rows have no `user`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Session;
use crate::app::App;
use crate::bridge::UpstreamState;
use crate::clock;
use crate::messages::methods::Task;
use crate::native::presence;

/// Everybody's list waits for the upstream's rows so long.
const PATIENCE: Duration = Duration::from_secs(2);

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
    if !crate::rollout::includes(crate::rollout::in_force(app), session.place) {
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
        let principal = &session.principal;
        let visible = presence::visible(&rows, &principal.role, principal.scope_set);
        Ok(json!(visible).to_string())
    }))
}

async fn ask(app: &App) -> Vec<Value> {
    let asking = app.control.call("system-presence", json!({}));
    let answer = match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err("no answer in time".to_owned()),
    };
    let rows = answer.and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string()));
    rows.unwrap_or_else(|why| {
        tracing::debug!(%why, "OpenClaw does not say who is there");
        Vec::new()
    })
}

/// Our rows and those of the upstream that are not about the same connection, the newest first.
fn together(mut ours: Vec<Value>, theirs: Vec<Value>) -> Vec<Value> {
    let is_same = |theirs: &Value, ours: &Value| {
        ["deviceId", "instanceId"]
            .iter()
            .any(|id| theirs[id].is_string() && theirs[id] == ours[id])
    };
    let others: Vec<Value> = theirs
        .into_iter()
        .filter(|row| match row["reason"].as_str() {
            Some("self") => false,
            // Of a connection, which is ours when it was relayed.
            Some("connect" | "disconnect") => !ours.iter().any(|own| is_same(row, own)),
            _ => true,
        })
        .collect();
    ours.extend(others);
    ours.sort_by_key(|row| std::cmp::Reverse(row["ts"].as_u64().unwrap_or_default()));
    ours
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
}
