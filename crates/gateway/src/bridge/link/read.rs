//! What is read of a frame on its way: as little as the link must know.

use serde_json::value::RawValue;

/// For how long an upstream has been running, as its hello says.
pub(super) fn up_ms(hello: &RawValue) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Hello {
        snapshot: Snapshot,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Snapshot {
        uptime_ms: u64,
    }
    let hello: Hello = serde_json::from_str(hello.get()).ok()?;
    Some(hello.snapshot.uptime_ms)
}

/// `code` of an error object; empty when it has none.
pub(super) fn code_of(error: &RawValue) -> String {
    #[derive(serde::Deserialize)]
    struct Coded {
        code: String,
    }
    serde_json::from_str::<Coded>(error.get()).map_or_else(|_| String::new(), |error| error.code)
}

/// Whether a response announces another one for the same id (`agent`: first `accepted`, later the result).
pub(super) fn is_first_of_two(payload: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Status<'a> {
        #[serde(borrow)]
        status: Option<std::borrow::Cow<'a, str>>,
    }
    payload.len() < 4096
        && serde_json::from_str::<Status<'_>>(payload)
            .is_ok_and(|payload| payload.status.as_deref() == Some("accepted"))
}

/// The params of a request frame as text; empty when it has none.
pub(super) fn params_text(frame: &str) -> String {
    wire::frame::RequestFrame::parse(frame)
        .ok()
        .and_then(|frame| frame.params.map(|params| params.get().to_owned()))
        .unwrap_or_default()
}
