//! Which methods are answered here, and by what.

use std::sync::Arc;

use serde_json::value::RawValue;
use wire::error::ErrorShape;

use super::{Native, NativeReply, Principal, Session};
use crate::app::App;
use crate::bridge;

/// The native row of a method, unless it is handed back to the upstream (`native.disable`).
pub(crate) fn find(_app: &App, _principal: &Principal, _method: &str) -> Option<Native> {
    None
}

/// The error of a method that only an upstream could serve, when none is configured.
pub(crate) fn without_upstream(method: &str) -> ErrorShape {
    bridge::not_configured(method)
}

#[expect(dead_code, reason = "the shape every native method has")]
fn shape(_: &Arc<App>, _: &Arc<Session>, _: Option<&RawValue>) -> NativeReply {
    Ok("{}".to_owned())
}
