//! What somebody asks to be sent, checked once at the edge.

use serde_json::{Map, Value};
use store::NewOutbound;

use super::{Messages, Owner, now_ms};
use crate::delivery::{Media, Payload};
use crate::routing::lane;

/// Longest text of one message, characters.
const CONTENT_CHARS_MAX: usize = 128 * 1024;
const TARGET_CHARS_MAX: usize = 512;
const NAME_CHARS_MAX: usize = 256;
const MEDIA_MAX: usize = 10;

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SendRequest {
    pub(crate) channel: String,
    /// `None`: the channel's default.
    pub(crate) account: Option<String>,
    pub(crate) target: String,
    pub(crate) payload: Payload,
    pub(crate) idempotency_key: Option<String>,
    /// Wait for the outcome instead of answering after the commit.
    pub(crate) wait: bool,
    /// Run an agent turn on the content and deliver the answer.
    pub(crate) turn: bool,
    /// Who asks holds an administrator's scope: the turn has an owner's tools.
    pub(crate) is_owner: bool,
}

/// Why a request can't be taken: which field, and what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    pub(crate) field: &'static str,
    pub(crate) message: String,
    pub(crate) fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It can never be taken.
    Malformed,
    /// It names something that is not configured.
    Unknown,
    /// Two parts of it contradict each other.
    Contradiction,
}

fn invalid(field: &'static str, message: impl Into<String>) -> Invalid {
    Invalid {
        field,
        message: message.into(),
        fault: Fault::Malformed,
    }
}

const FIELDS: &[&str] = &[
    "channel",
    "target",
    "content",
    "account",
    "media",
    "replyTo",
    "thread",
    "subject",
    "silent",
    "idempotencyKey",
    "mode",
    "turn",
];

impl SendRequest {
    /// From the body of `POST /api/message`.
    ///
    /// # Errors
    /// Names the field.
    pub(crate) fn parse(body: &Value, header_key: Option<&str>) -> Result<Self, Invalid> {
        let body = body
            .as_object()
            .ok_or_else(|| invalid("body", "must be a JSON object"))?;
        if let Some(unknown) = body.keys().find(|key| !FIELDS.contains(&key.as_str())) {
            return Err(invalid(
                "body",
                format!(
                    "unknown field {:?}; known are {}",
                    clip(unknown),
                    FIELDS.join(", ")
                ),
            ));
        }
        let channel = text(body, "channel", NAME_CHARS_MAX)?
            .ok_or_else(|| invalid("channel", "is missing: a channel id such as \"telegram\""))?;
        let channel = channel.to_lowercase();
        if !channel
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        {
            return Err(invalid("channel", "may hold only letters, digits, - and _"));
        }
        let target = text(body, "target", TARGET_CHARS_MAX)?
            .ok_or_else(|| invalid("target", "is missing: a chat, a person or a room"))?;
        let content = text(body, "content", CONTENT_CHARS_MAX)?;
        let media = media(body)?;
        let turn = flag(body, "turn")?;
        if content.is_none() && (media.is_empty() || turn) {
            return Err(invalid("content", "is missing or blank"));
        }
        let mode = text(body, "mode", NAME_CHARS_MAX)?;
        let wait = match mode.as_deref() {
            None | Some("async") => false,
            Some("wait") => true,
            Some(_) => return Err(invalid("mode", "must be \"async\" or \"wait\"")),
        };
        let own_key = text(body, "idempotencyKey", NAME_CHARS_MAX)?;
        let header_key = header_key.map(str::trim).filter(|key| !key.is_empty());
        if let Some(key) = header_key
            && key.chars().count() > NAME_CHARS_MAX
        {
            return Err(invalid(
                "Idempotency-Key",
                format!("is longer than {NAME_CHARS_MAX} characters"),
            ));
        }
        let idempotency_key = match (own_key, header_key) {
            (Some(own), Some(header)) if own != header => {
                return Err(Invalid {
                    fault: Fault::Contradiction,
                    ..invalid("idempotencyKey", "differs from the header Idempotency-Key")
                });
            }
            (own, header) => own.or_else(|| header.map(str::to_owned)),
        };
        Ok(Self {
            channel,
            account: text(body, "account", NAME_CHARS_MAX)?,
            target,
            payload: Payload {
                content: content.unwrap_or_default(),
                media,
                reply_to: text(body, "replyTo", NAME_CHARS_MAX)?,
                thread: text(body, "thread", NAME_CHARS_MAX)?,
                subject: text(body, "subject", NAME_CHARS_MAX)?,
                silent: flag(body, "silent")?,
                ..Payload::default()
            },
            idempotency_key,
            wait,
            turn,
            is_owner: false,
        })
    }

    /// What makes two requests the same.
    pub(crate) fn fingerprint(&self) -> String {
        let whole = serde_json::json!([
            self.channel,
            self.account,
            self.target,
            self.turn,
            serde_json::to_value(&self.payload).unwrap_or(Value::Null),
        ]);
        crate::auth::sha256_hex(whole.to_string().as_bytes())
    }

    /// As a row of the outbox.
    pub(crate) fn outbound(
        &self,
        messages: &Messages,
        source: &str,
    ) -> Result<NewOutbound, Invalid> {
        let account = self
            .account
            .clone()
            .unwrap_or_else(|| messages.default_account(&self.channel));
        let owner = messages.owner(&self.channel, &account);
        if owner == Owner::Upstream
            && messages.upstream.is_off()
            && messages.settings.load().legacy_url.is_none()
        {
            let field = if messages.accounts.load().default_of(&self.channel).is_some() {
                "account"
            } else {
                "channel"
            };
            return Err(Invalid {
                fault: Fault::Unknown,
                ..invalid(
                    field,
                    format!(
                        "{:?} is no channel account of this gateway and no OpenClaw gateway is behind it; add it under channels in openclaw.json, or send to \"webchat\"",
                        clip(&format!("{}/{account}", self.channel))
                    ),
                )
            });
        }
        let payload = serde_json::to_string(&self.payload)
            .map_err(|error| invalid("content", error.to_string()))?;
        Ok(NewOutbound {
            id: Some(store::new_id(now_ms())),
            lane: lane(
                &self.channel,
                &account,
                &self.target,
                self.payload.thread.as_deref(),
            ),
            channel: self.channel.clone(),
            account,
            target: self.target.clone(),
            payload,
            source: source.to_owned(),
            cause: None,
            expires_ms: None,
        })
    }
}

/// A text that is not blank; `null` is as good as nothing.
fn text(
    body: &Map<String, Value>,
    key: &'static str,
    chars_max: usize,
) -> Result<Option<String>, Invalid> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.chars().count() > chars_max => Err(invalid(
            key,
            format!("is longer than {chars_max} characters"),
        )),
        Some(Value::String(text)) if text.contains('\0') => Err(invalid(key, "holds a zero byte")),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        // The content keeps its blanks; a name does not.
        Some(Value::String(text)) if key == "content" => Ok(Some(text.clone())),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
        Some(_) => Err(invalid(key, "must be a string")),
    }
}

fn flag(body: &Map<String, Value>, key: &'static str) -> Result<bool, Invalid> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(invalid(key, "must be true or false")),
    }
}

fn media(body: &Map<String, Value>) -> Result<Vec<Media>, Invalid> {
    let list: Vec<&Value> = match body.get("media") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().collect(),
        Some(one @ Value::String(_)) => vec![one],
        Some(_) => return Err(invalid("media", "must be a list of URLs")),
    };
    if list.len() > MEDIA_MAX {
        return Err(invalid(
            "media",
            format!("holds more than {MEDIA_MAX} files"),
        ));
    }
    list.into_iter()
        .map(|entry| match entry.as_str() {
            // A path would let whoever may send read every file of this machine.
            Some(url) if url.starts_with("https://") || url.starts_with("http://") => Ok(Media {
                source: url.to_owned(),
                voice: false,
            }),
            _ => Err(invalid("media", "must be a list of http or https URLs")),
        })
        .collect()
}

/// The start of what somebody sent, for an error message.
fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_named() {
        let good = json!({ "channel": "Telegram", "target": " 42 ", "content": " hi " });
        let request = SendRequest::parse(&good, Some("k")).unwrap();
        assert_eq!(
            (
                request.channel.as_str(),
                request.target.as_str(),
                request.payload.content.as_str()
            ),
            ("telegram", "42", " hi ")
        );
        assert_eq!(request.idempotency_key.as_deref(), Some("k"));
        let check = |change: Value, field: &str| {
            let mut body = good.clone();
            body.as_object_mut()
                .unwrap()
                .extend(change.as_object().unwrap().clone());
            let error = SendRequest::parse(&body, Some("k")).unwrap_err();
            assert_eq!(error.field, field, "{change}: {}", error.message);
        };
        check(json!({ "channel": null }), "channel");
        check(json!({ "channel": "a/b" }), "channel");
        check(json!({ "target": "" }), "target");
        check(json!({ "target": 42 }), "target");
        check(json!({ "content": "  " }), "content");
        check(json!({ "content": "a\u{0}b" }), "content");
        check(
            json!({ "content": "x".repeat(CONTENT_CHARS_MAX + 1) }),
            "content",
        );
        check(json!({ "media": ["/etc/passwd"] }), "media");
        check(json!({ "media": ["file:///etc/passwd"] }), "media");
        check(json!({ "media": [1] }), "media");
        check(json!({ "mode": "later" }), "mode");
        check(json!({ "turn": "yes" }), "turn");
        check(json!({ "idempotencyKey": "other" }), "idempotencyKey");
        check(json!({ "chanel": "x" }), "body");
        assert_eq!(
            SendRequest::parse(&json!([]), None).unwrap_err().field,
            "body"
        );
    }

    #[test]
    fn the_same_request_has_the_same_fingerprint() {
        let parse = |body: Value| SendRequest::parse(&body, None).unwrap().fingerprint();
        let one = parse(json!({ "channel": "a", "target": "b", "content": "c", "mode": "wait" }));
        assert_eq!(
            one,
            parse(json!({ "channel": "a", "target": "b", "content": "c" }))
        );
        assert_ne!(
            one,
            parse(json!({ "channel": "a", "target": "b", "content": "d" }))
        );
    }
}
