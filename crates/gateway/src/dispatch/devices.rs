//! `device.pair.*`, `device.token.*` and `gateway.identity.get` of a gateway without an upstream. With one, the
//! upstream owns them: it makes the pairings, and we learn from it.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use wire::error::ErrorShape;

use super::{Native, NativeReply, Session};
use crate::app::App;
use crate::auth::{Caller, MethodError};

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

pub(crate) fn find(method: &str) -> Option<Native> {
    let name = *NAMES.iter().find(|name| **name == method)?;
    Some(match name {
        "gateway.identity.get" => Native::Now(identity),
        "device.pair.approve" => Native::Blocking(|app, session, params| {
            serve("device.pair.approve", app, session, params)
        }),
        "device.pair.list" => {
            Native::Blocking(|app, session, params| serve("device.pair.list", app, session, params))
        }
        "device.pair.reject" => Native::Blocking(|app, session, params| {
            serve("device.pair.reject", app, session, params)
        }),
        "device.pair.remove" => Native::Blocking(|app, session, params| {
            serve("device.pair.remove", app, session, params)
        }),
        "device.pair.rename" => Native::Blocking(|app, session, params| {
            serve("device.pair.rename", app, session, params)
        }),
        "device.token.revoke" => Native::Blocking(|app, session, params| {
            serve("device.token.revoke", app, session, params)
        }),
        _ => Native::Blocking(|app, session, params| {
            serve("device.token.rotate", app, session, params)
        }),
    })
}

fn identity(app: &App, _: &Session, _: Option<&RawValue>) -> NativeReply {
    let identity = app.auth.identity();
    Ok(json!({ "deviceId": identity.device_id, "publicKey": identity.public_key }).to_string())
}

fn serve(
    method: &str,
    app: &Arc<App>,
    session: &Arc<Session>,
    params: Option<&RawValue>,
) -> NativeReply {
    let Some(judged) = &session.judged else {
        return Err(crate::bridge::not_configured(method));
    };
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
            &Caller::of(judged),
            &is_connected,
            crate::clock::now_ms(),
        )
        .ok_or_else(|| ErrorShape::invalid_request(format!("unknown method: {method}")))?
        .map_err(shape)?;
    app.announce(&outcome.effects.events);
    app.close_devices(&outcome.effects.closes);
    Ok(outcome.payload.to_string())
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
