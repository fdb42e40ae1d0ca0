//! Request, response and event frames. Payloads stay raw JSON: a relayed frame is never reparsed.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::ErrorShape;

/// `{"type":"req","id","method","params"?,"traceparent"?,"expectedProfileId"?}`; no other keys.
/// Source: `RequestFrameSchema` in packages/gateway-protocol/src/schema/frames.ts at 2026.9.6.
#[derive(Debug)]
pub struct RequestFrame<'a> {
    pub id: Cow<'a, str>,
    pub method: Cow<'a, str>,
    pub params: Option<&'a RawValue>,
    pub traceparent: Option<Cow<'a, str>>,
    pub expected_profile_id: Option<Cow<'a, str>>,
}

/// Why a text message is not a request frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not JSON at all. The original logs it and keeps an authenticated socket open.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// JSON, but not a request. `id` is what the response must carry.
    #[error("{message}")]
    Shape { id: String, message: String },
}

impl<'a> RequestFrame<'a> {
    /// Parses one text message.
    ///
    /// # Errors
    /// [`FrameError::Syntax`] for text that is not JSON, [`FrameError::Shape`] with the original's message
    /// (without its `invalid request frame: ` prefix) for JSON that is not a request frame.
    pub fn parse(text: &'a str) -> Result<Self, FrameError> {
        match serde_json::from_str::<Lenient<'a>>(text) {
            Ok(Lenient(frame)) if frame.is_valid() => Ok(frame),
            _ => Err(diagnose(text)),
        }
    }

    fn is_valid(&self) -> bool {
        let within = |text: &Option<Cow<'_, str>>, min: usize, max: usize| {
            text.as_ref().is_none_or(|text| {
                let length = text.chars().count();
                (min..=max).contains(&length)
            })
        };
        !self.id.is_empty()
            && !self.method.is_empty()
            && within(&self.traceparent, 0, 128)
            && within(&self.expected_profile_id, 1, 128)
    }
}

/// Accepts exactly the valid shape and fails on anything else; [`diagnose`] then says what was wrong.
struct Lenient<'a>(RequestFrame<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Lenient<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FrameVisitor;
        impl<'de> Visitor<'de> for FrameVisitor {
            type Value = RequestFrame<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a request frame")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                use serde::de::Error as _;
                let mut kind = false;
                let (mut id, mut method, mut params) = (None, None, None);
                let (mut traceparent, mut profile) = (None, None);
                while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
                    match &*key {
                        "type" => kind = map.next_value::<Text<'de>>()?.0 == "req",
                        "id" => id = Some(map.next_value::<Text<'de>>()?.0),
                        "method" => method = Some(map.next_value::<Text<'de>>()?.0),
                        "params" => params = Some(map.next_value::<&'de RawValue>()?),
                        "traceparent" => traceparent = Some(map.next_value::<Text<'de>>()?.0),
                        "expectedProfileId" => profile = Some(map.next_value::<Text<'de>>()?.0),
                        _ => return Err(A::Error::custom("unknown key")),
                    }
                }
                let (true, Some(id), Some(method)) = (kind, id, method) else {
                    return Err(A::Error::custom("incomplete"));
                };
                Ok(RequestFrame {
                    id,
                    method,
                    params,
                    traceparent,
                    expected_profile_id: profile,
                })
            }
        }
        deserializer.deserialize_map(FrameVisitor).map(Self)
    }
}

/// A string borrowed where it holds no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Cow<'de, str>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text))
            }
        }
        deserializer.deserialize_str(TextVisitor).map(Self)
    }
}

/// Says why a text is not a request frame, in the words of the original's validator: the errors in the order
/// in which its compiled schema reports them (it stops at the first keyword that fails).
fn diagnose(text: &str) -> FrameError {
    use serde_json::Value;
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => return FrameError::Syntax(error.to_string()),
    };
    let id = match &value {
        Value::Object(object) => match object.get("id") {
            Some(Value::String(id)) => id.clone(),
            _ => "invalid".to_owned(),
        },
        _ => "invalid".to_owned(),
    };
    let message = match &value {
        Value::Object(object) => object_errors(object).join("; "),
        _ => "must be object".to_owned(),
    };
    FrameError::Shape { id, message }
}

fn object_errors(object: &serde_json::Map<String, serde_json::Value>) -> Vec<String> {
    use serde_json::Value;
    const KNOWN: [&str; 6] = [
        "type",
        "id",
        "method",
        "params",
        "traceparent",
        "expectedProfileId",
    ];
    let mut errors = Vec::new();
    for required in ["type", "id", "method"] {
        if !object.contains_key(required) {
            errors.push(format!("must have required property '{required}'"));
        }
    }
    for key in object.keys() {
        if !KNOWN.contains(&key.as_str()) {
            errors.push(format!("at root: unexpected property '{key}'"));
        }
    }
    if object.get("type").is_some_and(|kind| kind != "req") {
        errors.push("at /type: must be equal to constant".to_owned());
    }
    for (key, min, max) in [
        ("id", 1, usize::MAX),
        ("method", 1, usize::MAX),
        ("traceparent", 0, 128),
        ("expectedProfileId", 1, 128),
    ] {
        match object.get(key) {
            None => {}
            Some(Value::String(text)) => {
                let length = text.chars().count();
                if length < min {
                    errors.push(format!(
                        "at /{key}: must NOT have fewer than {min} characters"
                    ));
                } else if length > max {
                    errors.push(format!(
                        "at /{key}: must NOT have more than {max} characters"
                    ));
                }
            }
            Some(_) => errors.push(format!("at /{key}: must be string")),
        }
    }
    if errors.is_empty() {
        // Valid by these rules but refused by the fast path: a duplicate key whose last value wins.
        errors.push("unknown validation error".to_owned());
    }
    errors
}

/// What a relay needs of a frame that comes from an upstream gateway; everything else stays raw.
#[derive(Debug)]
pub enum UpstreamFrame<'a> {
    Response {
        id: Cow<'a, str>,
        ok: bool,
        payload: Option<&'a RawValue>,
        error: Option<&'a RawValue>,
    },
    Event {
        event: Cow<'a, str>,
        payload: Option<&'a RawValue>,
        seq: Option<u64>,
        state_version: Option<&'a RawValue>,
        recipient_profile_id: Option<&'a RawValue>,
    },
    /// A frame of a type we do not know: passed by, and counted.
    Other,
}

impl<'a> UpstreamFrame<'a> {
    /// # Errors
    /// The parser's message when `text` is not a JSON object.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Wide<'a> {
            #[serde(rename = "type", borrow)]
            kind: Text<'a>,
            #[serde(borrow)]
            id: Option<Text<'a>>,
            #[serde(borrow)]
            event: Option<Text<'a>>,
            ok: Option<bool>,
            #[serde(borrow)]
            payload: Option<&'a RawValue>,
            #[serde(borrow)]
            error: Option<&'a RawValue>,
            seq: Option<u64>,
            #[serde(rename = "stateVersion", borrow)]
            state_version: Option<&'a RawValue>,
            #[serde(rename = "recipientProfileId", borrow)]
            recipient_profile_id: Option<&'a RawValue>,
        }
        let wide: Wide<'a> = serde_json::from_str(text)?;
        Ok(match (&*wide.kind.0, wide.id, wide.event) {
            ("res", Some(id), _) => Self::Response {
                id: id.0,
                ok: wide.ok.unwrap_or(false),
                payload: wide.payload,
                error: wide.error,
            },
            ("event", _, Some(event)) => Self::Event {
                event: event.0,
                payload: wide.payload,
                seq: wide.seq,
                state_version: wide.state_version,
                recipient_profile_id: wide.recipient_profile_id,
            },
            _ => Self::Other,
        })
    }
}

/// Whether `text` is one JSON value and nothing else.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Appends `text` as a JSON string.
pub fn push_json_string(out: &mut String, text: &str) {
    // Ids and names are nearly always plain: copy them without going through the serializer.
    if text
        .bytes()
        .all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
    {
        out.reserve(text.len() + 2);
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::to_string(text).expect("a string always serialises"));
    }
}

/// `{"type":"res","id":…,"ok":true,"payload":…}`; `payload` must be JSON.
pub fn response_ok(id: &str, payload: &str) -> String {
    let mut out = String::with_capacity(payload.len() + id.len() + 44);
    out.push_str(r#"{"type":"res","id":"#);
    push_json_string(&mut out, id);
    out.push_str(r#","ok":true,"payload":"#);
    out.push_str(payload);
    out.push('}');
    out
}

/// `{"type":"res","id":…,"ok":false,"error":…}`.
pub fn response_error(id: &str, error: &ErrorShape) -> String {
    let error = serde_json::to_string(error).expect("an error shape always serialises");
    let mut out = String::with_capacity(error.len() + id.len() + 44);
    out.push_str(r#"{"type":"res","id":"#);
    push_json_string(&mut out, id);
    out.push_str(r#","ok":false,"error":"#);
    out.push_str(&error);
    out.push('}');
    out
}

/// An event serialised once for all its receivers; only the sequence number differs between them.
#[derive(Debug, Clone)]
pub struct EventText {
    /// `{"type":"event","event":…,"payload":…`
    head: std::sync::Arc<str>,
    /// `,"stateVersion":…` or empty; then the closing brace.
    tail: std::sync::Arc<str>,
}

impl EventText {
    /// `payload` and `state_version` must be JSON.
    pub fn new(event: &str, payload: Option<&str>, state_version: Option<&str>) -> Self {
        Self::with_recipient(event, payload, state_version, None)
    }

    /// As [`EventText::new`], with the `recipientProfileId` an upstream put on it.
    pub fn with_recipient(
        event: &str,
        payload: Option<&str>,
        state_version: Option<&str>,
        recipient_profile_id: Option<&str>,
    ) -> Self {
        let mut head = String::with_capacity(payload.map_or(0, str::len) + event.len() + 40);
        head.push_str(r#"{"type":"event","event":"#);
        push_json_string(&mut head, event);
        if let Some(payload) = payload {
            head.push_str(r#","payload":"#);
            head.push_str(payload);
        }
        let mut tail = String::new();
        if let Some(version) = state_version {
            tail.push_str(r#","stateVersion":"#);
            tail.push_str(version);
        }
        if let Some(profile) = recipient_profile_id {
            tail.push_str(r#","recipientProfileId":"#);
            tail.push_str(profile);
        }
        tail.push('}');
        Self {
            head: head.into(),
            tail: tail.into(),
        }
    }

    /// The frame for one receiver; without a number for targeted events.
    pub fn render(&self, seq: Option<u64>) -> String {
        let mut out = String::with_capacity(self.head.len() + self.tail.len() + 28);
        out.push_str(&self.head);
        if let Some(seq) = seq {
            write!(out, r#","seq":{seq}"#).expect("writing to a string cannot fail");
        }
        out.push_str(&self.tail);
        out
    }
}

/// Cuts a close reason to what a close frame carries, on a character boundary.
pub fn close_reason(text: &str) -> &str {
    let mut end = text.len().min(crate::limits::CLOSE_REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_keeps_its_params_raw() {
        let frame = RequestFrame::parse(
            r#"{"type":"req","id":"1","method":"health","params":{"b" : 1.50}}"#,
        )
        .expect("valid");
        assert_eq!(frame.params.map(RawValue::get), Some(r#"{"b" : 1.50}"#));
        let bare =
            RequestFrame::parse(r#"{"method":"health","id":"a\"b","type":"req"}"#).expect("valid");
        assert_eq!((&*bare.id, bare.params.is_none()), ("a\"b", true));
    }

    #[test]
    fn wrong_shapes_name_what_is_wrong() {
        let shape = |text: &str| match RequestFrame::parse(text) {
            Err(FrameError::Shape { id, message }) => (id, message),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            shape(r#"{"type":"req","id":"1","method":"health","extra":1}"#),
            (
                "1".to_owned(),
                "at root: unexpected property 'extra'".to_owned()
            )
        );
        assert_eq!(
            shape("[]"),
            ("invalid".to_owned(), "must be object".to_owned())
        );
        assert_eq!(
            shape(r#"{"type":"req","id":7,"method":"health"}"#),
            ("invalid".to_owned(), "at /id: must be string".to_owned())
        );
        assert!(matches!(
            RequestFrame::parse("{"),
            Err(FrameError::Syntax(_))
        ));
    }

    #[test]
    fn events_differ_only_in_their_number() {
        let event = EventText::new(
            "presence",
            Some(r#"{"presence":[]}"#),
            Some(r#"{"presence":1,"health":2}"#),
        );
        assert_eq!(
            event.render(Some(7)),
            r#"{"type":"event","event":"presence","payload":{"presence":[]},"seq":7,"stateVersion":{"presence":1,"health":2}}"#
        );
        assert_eq!(
            EventText::new("x", None, None).render(None),
            r#"{"type":"event","event":"x"}"#
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,200}") {
            let _ = RequestFrame::parse(&text);
            let _ = UpstreamFrame::parse(&text);
        }

        #[test]
        fn ids_survive_the_round_trip(id in "\\PC{1,40}") {
            let text = response_ok(&id, "{}");
            let UpstreamFrame::Response { id: back, ok, .. } = UpstreamFrame::parse(&text).expect("ours") else {
                panic!("not a response")
            };
            prop_assert!(ok);
            prop_assert_eq!(&*back, id.as_str());
        }

        #[test]
        fn close_reasons_fit_a_control_frame(text in "\\PC{0,200}") {
            prop_assert!(close_reason(&text).len() <= 123);
        }
    }
}
