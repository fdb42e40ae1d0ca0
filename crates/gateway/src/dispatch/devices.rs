//! `device.pair.*`, `device.token.*` and `gateway.identity.get`.
//!
//! Without an upstream they are about our own book. With one its devices are its own: it makes and changes them, and we
//! learn from it. Those that only this gateway knows (paired while there was no upstream, or by a secret that it does not
//! share) are served here all the same, and listed with its own.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use wire::connect::ClientInfo;
use wire::error::ErrorShape;
use wire::frame::RequestFrame;

use super::{Native, NativeReply, Session};
use crate::app::App;
use crate::auth::pairing::MadeBy;
use crate::auth::{Caller, DeviceClose, MethodError, Role};
use crate::bridge;
use crate::clock;
use crate::messages::methods::Task;

/// The methods answered here.
pub(crate) const NAMES: &[&str] = &[
    "device.pair.approve",
    "device.pair.list",
    "device.pair.reject",
    "device.pair.remove",
    "device.pair.rename",
    "device.token.revoke",
    "device.token.rotate",
    "gateway.identity.get",
];
const LIST: &str = "device.pair.list";

/// The row of a gateway without an upstream.
pub(crate) fn find(method: &str) -> Option<Native> {
    let name = *NAMES.iter().find(|name| **name == method)?;
    Some(match name {
        "gateway.identity.get" => Native::Now(identity),
        name => Native::Device(name),
    })
}

/// With an upstream: the row of a call about a request or a device that only this gateway knows.
pub(crate) fn ours(app: &App, frame: &RequestFrame<'_>) -> Option<Native> {
    let Some(Native::Device(name)) = find(&frame.method) else {
        return None;
    };
    let params: Value = serde_json::from_str(frame.params?.get()).ok()?;
    let is_ours = match (params["requestId"].as_str(), params["deviceId"].as_str()) {
        (Some(request), _) => app.auth.has_request(request, clock::now_ms()),
        (None, Some(device)) => app.auth.made_by(device) == Some(MadeBy::Local),
        (None, None) => false,
    };
    is_ours.then_some(Native::Device(name))
}

/// With an upstream: the list of its devices and ours. `None` for any other method, and while it is away.
pub(crate) fn list(
    app: &Arc<App>,
    session: &Arc<Session>,
    method: &str,
    params: Option<&RawValue>,
) -> Option<Task> {
    if method != LIST {
        return None;
    }
    app.upstream.borrow().ready()?;
    let checked = wire::schema::check(method, params);
    let (app, session) = (Arc::clone(app), Arc::clone(session));
    Some(Box::pin(async move {
        checked?;
        let theirs = app.control.call(LIST, json!({})).await;
        let theirs: Value = theirs
            .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
            .map_err(|error| super::config::refusal(&error))?;
        let is_connected = |device: &str| app.hub.has_device(device);
        let ours = app.auth.own_devices(&is_connected, clock::now_ms());
        let bound = session.principal.bound_device.as_deref();
        Ok(together(theirs, ours, bound, &is_connected).to_string())
    }))
}

/// One list, the newest first as each of them is. `bound`: the only device that the caller may see.
fn together(
    mut theirs: Value,
    mut ours: Value,
    bound: Option<&str>,
    is_connected: &dyn Fn(&str) -> bool,
) -> Value {
    for (name, since) in [("pending", "ts"), ("paired", "approvedAtMs")] {
        let mut rows = Vec::new();
        for list in [&mut theirs, &mut ours] {
            if let Some(Value::Array(more)) = list.get_mut(name).map(Value::take) {
                rows.extend(more);
            }
        }
        rows.retain(|row| bound.is_none_or(|own| row["deviceId"] == own));
        rows.sort_by_key(|row| std::cmp::Reverse(row[since].as_u64().unwrap_or_default()));
        for row in &mut rows {
            // The upstream knows bridged clients by no device.
            if row["connected"] == false && row["deviceId"].as_str().is_some_and(is_connected) {
                row["connected"] = true.into();
            }
        }
        theirs[name] = rows.into();
    }
    theirs
}

/// What a change of the upstream's devices means here. It tells nobody of these, and our connections to it are none of
/// the device's: what we remember must go, and the device with it.
pub(crate) fn watch(app: &Arc<App>, frame: &RequestFrame<'_>) -> Option<Box<dyn bridge::Watch>> {
    let reason = match &*frame.method {
        "device.pair.remove" => "device-pair-removed",
        "device.token.revoke" => "device-token-revoked",
        "device.token.rotate" => "device-token-rotated",
        _ => return None,
    };
    let params: Value = serde_json::from_str(frame.params?.get()).ok()?;
    let text = |key: &str| params[key].as_str().map(|text| text.trim().to_owned());
    Some(Box::new(Loss {
        app: Arc::clone(app),
        close: Some(DeviceClose {
            device_id: text("deviceId")?,
            role: text("role"),
            reason,
        }),
    }))
}

/// A device that is to lose its pairing, or the token of one role.
struct Loss {
    app: Arc<App>,
    /// Until the upstream's answer is heard.
    close: Option<DeviceClose>,
}

/// Its caller left before the answer: what became of it is on the upstream's list.
impl Drop for Loss {
    fn drop(&mut self) {
        if let Some(close) = self.close.take() {
            self.app.find_out(close);
        }
    }
}

impl std::fmt::Debug for Loss {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.close.fmt(out)
    }
}

impl bridge::Watch for Loss {
    fn hear(mut self: Box<Self>, ok: bool, _: Option<&RawValue>) -> Option<bridge::Afterwards> {
        let close = self.close.take().filter(|_| ok)?;
        let app = Arc::clone(&self.app);
        // Before anybody knows of it, so that nobody comes in by it once it is said to be gone.
        if let Err(error) =
            app.auth
                .forget_upstreams(&close.device_id, close.role.as_deref(), clock::now_ms())
        {
            tracing::error!(%error, device = close.device_id, "cannot forget what a device lost; its next connect may be let in until OpenClaw's list is read again");
        }
        Some(Box::new(move || {
            app.close_devices(&[close]);
            app.import_pairings();
        }))
    }
}

fn identity(app: &App, _: &Session, _: Option<&RawValue>) -> NativeReply {
    let identity = app.auth.identity();
    Ok(json!({ "deviceId": identity.device_id, "publicKey": identity.public_key }).to_string())
}

/// Answers from our own book. `closes`: whose connections must end once the caller has its answer.
pub(super) fn serve(
    method: &str,
    app: &Arc<App>,
    session: &Session,
    params: Option<&RawValue>,
    closes: &mut Vec<DeviceClose>,
) -> NativeReply {
    let params: Value = params
        .map_or(Ok(json!({})), |params| serde_json::from_str(params.get()))
        .map_err(|error| {
            ErrorShape::invalid_request(format!("invalid {method} params: {error}"))
        })?;
    let is_connected = |device: &str| app.hub.has_device(device);
    let outcome = app
        .auth
        .device_method(
            method,
            &params,
            &caller(session),
            &is_connected,
            clock::now_ms(),
        )
        .ok_or_else(|| ErrorShape::invalid_request(format!("unknown method: {method}")))?
        .map_err(shape)?;
    app.announce(&outcome.effects.events);
    closes.extend(outcome.effects.closes);
    Ok(outcome.payload.to_string())
}

fn caller(session: &Session) -> Caller {
    if let Some(judged) = &session.judged {
        return Caller::of(judged);
    }
    // The upstream judged it: what it may is in its hello.
    let principal = &session.principal;
    Caller {
        role: if principal.role == "node" {
            Role::Node
        } else {
            Role::Operator
        },
        scopes: principal.scopes.clone(),
        device: principal
            .device_id
            .clone()
            .map(|device| (device, String::new())),
        is_device_token_auth: principal.bound_device.is_some(),
        client: ClientInfo {
            id: principal.client_id.clone(),
            mode: principal.client_mode.clone(),
            display_name: None,
            version: String::new(),
            build_id: None,
            platform: String::new(),
            device_family: None,
            model_identifier: None,
            time_zone: None,
            instance_id: None,
        },
        client_ip: None,
    }
}

fn shape(error: MethodError) -> ErrorShape {
    ErrorShape {
        code: error.code.to_owned(),
        message: error.message,
        details: error.details,
        retryable: error.retryable,
        retry_after_ms: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_are_one_and_a_bound_caller_sees_its_own() {
        let theirs = json!({ "pending": [], "paired": [
            { "deviceId": "a", "approvedAtMs": 9, "connected": false },
            { "deviceId": "b", "approvedAtMs": 3, "connected": false },
        ] });
        let ours = json!({ "pending": [{ "deviceId": "d", "ts": 1 }], "paired": [{ "deviceId": "c", "approvedAtMs": 5, "connected": true }] });
        let ids = |list: &Value| -> Vec<String> {
            let rows = list.as_array().into_iter().flatten();
            rows.map(|row| format!("{}{}", row["deviceId"], row["connected"]))
                .collect()
        };
        let all = together(theirs.clone(), ours.clone(), None, &|id| id == "b");
        assert_eq!(
            ids(&all["paired"]),
            ["\"a\"false", "\"c\"true", "\"b\"true"]
        );
        assert_eq!(ids(&all["pending"]), ["\"d\"null"]);
        let own = together(theirs, ours, Some("a"), &|_| false);
        assert_eq!(ids(&own["paired"]), ["\"a\"false"]);
        assert!(ids(&own["pending"]).is_empty());
    }
}
