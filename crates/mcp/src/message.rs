//! Messages of a server, read so that nothing of an answer is lost.
//!
//! The SDK reads an answer as the first of its types that fits, and drops what that type does not know. So an answer travels
//! through it inside of an object that is none of its types, and comes out as it was.

use rmcp::RoleClient;
use rmcp::service::RxJsonRpcMessage;
use serde_json::{Value, json};

const WRAPPER: &str = "openclaw-gateway/answer";

/// # Errors
/// It is no message.
pub(crate) fn read(bytes: &[u8]) -> serde_json::Result<RxJsonRpcMessage<RoleClient>> {
    // As text, since the SDK reads events so: its many types are then read by one piece of code, not by two.
    serde_json::from_str(&wrapped(serde_json::from_slice(bytes)?).to_string())
}

/// The same, as text.
pub(crate) fn rewritten(text: &str) -> Option<String> {
    let message = serde_json::from_str(text).ok()?;
    Some(wrapped(message).to_string())
}

fn wrapped(mut message: Value) -> Value {
    let is_answer = message.get("id").is_some() && message.get("result").is_some();
    // The SDK itself reads the one to `initialize`.
    if is_answer && message["result"].get("protocolVersion").is_none() {
        let answer = message["result"].take();
        message["result"] = json!({ WRAPPER: answer });
    }
    message
}

/// An answer as the server gave it.
pub(crate) fn answer(mut answer: Value) -> Value {
    match answer.get_mut(WRAPPER) {
        Some(wrapped) => wrapped.take(),
        None => answer,
    }
}
