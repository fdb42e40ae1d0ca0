//! Any HTTP system: what it posts to us is a message, what we send is a signed POST to it.
//!
//! Both ways are signed as in Standard Webhooks (<https://www.standardwebhooks.com>): `webhook-id`,
//! `webhook-timestamp` and `webhook-signature: v1,<base64 HMAC-SHA256 of "id.timestamp.body">`. The id of a delivery
//! stays the same over retries, so a repeat is harmless to a receiver that keeps ids.
//!
//! `channels.webhook`: `secret`, `url` (where to send), `inbound` (false: send only), `allowPrivateNetwork`,
//! `toleranceSeconds`, `inboundFields` and `outboundFields` (names in bodies that the other side has designed).

mod fields;

use self::fields::Fields;
use crate::accounts::Account;
use crate::message::{Attachment, Chat, ChatKind, EventKind, InboundMessage, Sender};
use crate::sink::{Accepted, Batch, InboundSink};
use crate::web::{self, Http, HttpOptions, Reach};
use crate::{
    Action, Capabilities, Channel, ChannelError, Identity, Markup, OutboundMessage, Receipt,
    Reconciled, SendError, TextUnit,
};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use ring::hmac;
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

/// Largest body that is taken in.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How far a sender's clock may be off.
const TOLERANCE: Duration = Duration::from_secs(300);
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

static CAPABILITIES: Capabilities = Capabilities {
    channel: "webhook",
    text_max: 100_000,
    text_unit: TextUnit::Chars,
    caption_max: 100_000,
    markup: Markup::Markdown,
    media_bytes_max: 0,
    album_max: 1,
    pictures: None,
    replies: true,
    threads: true,
    edits: false,
    deletes: false,
    reactions: false,
    typing: false,
    buttons: false,
    idempotent_send: true,
};

/// One system at the other end.
#[derive(Debug)]
pub struct Webhook {
    key: hmac::Key,
    url: Option<String>,
    inbound: bool,
    tolerance: Duration,
    fields: Fields,
    http: Http,
}

impl Webhook {
    /// # Errors
    /// [`ChannelError::Config`] for a secret that is missing or too short, or a URL that is none.
    pub fn new(account: &Account) -> Result<Self, ChannelError> {
        let secret = account.secret(
            "secret",
            Some("secretFile"),
            None,
            "a random secret, such as `whsec_` and base64",
        )?;
        let bytes = match secret.strip_prefix("whsec_") {
            Some(encoded) => STANDARD.decode(encoded).map_err(|error| {
                account.wrong("secret", &format!("is not base64 behind `whsec_`: {error}"))
            })?,
            None => secret.into_bytes(),
        };
        // Source: Standard Webhooks, "between 24 bytes (192 bits) and 64 bytes (512 bits)".
        if bytes.len() < 24 {
            return Err(account.wrong("secret", "is shorter than 24 bytes: anybody could guess it"));
        }
        let url = account.text("url").map(str::to_owned);
        let inbound = account.flag("inbound", true);
        if url.is_none() && !inbound {
            return Err(account.wrong(
                "url",
                "is missing, and inbound is off: this account could do nothing",
            ));
        }
        if let Some(url) = &url
            && !url.starts_with("http://")
            && !url.starts_with("https://")
        {
            return Err(account.wrong("url", "must begin with http:// or https://"));
        }
        let reach = if account.flag("allowPrivateNetwork", false) {
            Reach::Anywhere
        } else {
            Reach::Public
        };
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
            url,
            inbound,
            tolerance: account
                .number("toleranceSeconds")
                .map_or(TOLERANCE, Duration::from_secs),
            fields: Fields::new(account)?,
            http: Http::new(&HttpOptions {
                reach,
                ..HttpOptions::default()
            })?,
        })
    }

    fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            context.update(part);
        }
        STANDARD.encode(context.sign())
    }

    /// Who it says it is, by a signature that is ours and not old.
    fn verify(&self, request: &Request<Bytes>, now_s: u64) -> Result<String, &'static str> {
        let header = |name: &str| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let id = header("webhook-id")
            .filter(|id| !id.is_empty() && id.len() <= 256)
            .ok_or("webhook-id is missing")?;
        let timestamp = header("webhook-timestamp").ok_or("webhook-timestamp is missing")?;
        let sent: u64 = timestamp
            .parse()
            .map_err(|_error| "webhook-timestamp is not a number of seconds")?;
        let signatures = header("webhook-signature").ok_or("webhook-signature is missing")?;
        let expected = self.sign(id, timestamp, request.body());
        // Several while a secret is being changed.
        let signed = signatures
            .split(' ')
            .filter_map(|one| one.strip_prefix("v1,"))
            .any(|one| bool::from(one.as_bytes().ct_eq(expected.as_bytes())));
        if !signed {
            return Err("the signature is wrong");
        }
        if now_s.abs_diff(sent) > self.tolerance.as_secs() {
            return Err("the timestamp is too far from our clock");
        }
        Ok(id.to_owned())
    }
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[async_trait]
impl Channel for Webhook {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    /// The other side comes to us.
    async fn receive(
        &self,
        sink: InboundSink,
        stop: CancellationToken,
    ) -> Result<(), ChannelError> {
        loop {
            sink.alive();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_secs(60)) => {}
            }
        }
    }

    async fn send(&self, message: &OutboundMessage) -> Result<Receipt, SendError> {
        let Some(url) = &self.url else {
            return Err(SendError::Rejected {
                reason: "this webhook account has no url to send to".to_owned(),
            });
        };
        let mut body = Map::new();
        for (key, value) in [
            ("type", "message"),
            ("id", &message.delivery_id),
            ("target", &message.target),
            ("text", &message.text),
        ] {
            body.insert(key.to_owned(), value.into());
        }
        for (key, value) in [
            ("thread", &message.thread),
            ("replyTo", &message.reply_to),
            ("subject", &message.subject),
        ] {
            if let Some(value) = value {
                body.insert(key.to_owned(), value.as_str().into());
            }
        }
        let body = Value::Object(self.fields.outward(body)).to_string();
        let timestamp = now_s().to_string();
        let signature = self.sign(&message.delivery_id, &timestamp, body.as_bytes());
        let sent = self
            .http
            .post(url)?
            .header("content-type", "application/json")
            .header("webhook-id", &message.delivery_id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", format!("v1,{signature}"))
            .body(body)
            .send()
            .await;
        let response = match sent {
            Ok(response) => response,
            // The receiver knows the id, so what may have arrived may go out again.
            Err(error) => {
                return Err(match web::failed(&error) {
                    SendError::Unknown { reason } => SendError::Retry {
                        after: None,
                        reason,
                    },
                    other => other,
                });
            }
        };
        let (status, after) = (response.status(), web::retry_after(&response));
        let answer = web::body(response, ANSWER_BYTES_MAX)
            .await
            .unwrap_or_default();
        if !status.is_success() {
            return Err(match status.as_u16() {
                // The receiver is gone for good.
                410 => SendError::Rejected {
                    reason: "HTTP 410: the receiver wants no more".to_owned(),
                },
                _ => web::refused(status, after, &String::from_utf8_lossy(&answer)),
            });
        }
        // The receiver may name it; else our own id is the name.
        let named = serde_json::from_slice::<Value>(&answer)
            .ok()
            .and_then(|answer| {
                answer["id"]
                    .as_str()
                    .or(answer["message_id"].as_str())
                    .map(str::to_owned)
            });
        Ok(Receipt {
            message_id: named.unwrap_or_else(|| message.delivery_id.clone()),
            more_ids: Vec::new(),
        })
    }

    async fn act(&self, action: &Action) -> Result<(), SendError> {
        match action {
            Action::Typing { .. } => Ok(()),
            Action::React { .. } | Action::Edit { .. } | Action::Delete { .. } => {
                Err(SendError::Unsupported {
                    channel: "webhook",
                    what: "changing what was sent",
                })
            }
        }
    }

    /// Sending again with the same id is what a receiver is made for.
    async fn reconcile(&self, _message: &OutboundMessage) -> Result<Reconciled, SendError> {
        Ok(Reconciled::NotArrived)
    }

    async fn probe(&self) -> Result<Identity, ChannelError> {
        Ok(Identity {
            id: self
                .url
                .clone()
                .unwrap_or_else(|| "inbound only".to_owned()),
            name: None,
        })
    }

    async fn handle_http(&self, request: Request<Bytes>, sink: InboundSink) -> Response<Bytes> {
        if !self.inbound {
            return answer(
                StatusCode::NOT_FOUND,
                &json!({ "error": "this account takes nothing in" }),
            );
        }
        if request.method() != http::Method::POST {
            return answer(
                StatusCode::METHOD_NOT_ALLOWED,
                &json!({ "error": "POST a message" }),
            );
        }
        let id = match self.verify(&request, now_s()) {
            Ok(id) => id,
            Err(why) => return answer(StatusCode::UNAUTHORIZED, &json!({ "error": why })),
        };
        let message = match parse(&id, request.body(), &self.fields) {
            Ok(message) => message,
            Err(why) => return answer(StatusCode::BAD_REQUEST, &json!({ "error": why })),
        };
        let batch = Batch {
            messages: vec![message],
            cursor: None,
        };
        match sink.commit(batch).await {
            Ok(accepted) => {
                let (id, duplicate) = match accepted.first() {
                    Some(Accepted::New { id }) => (Some(id.clone()), false),
                    Some(Accepted::Duplicate) | None => (None, true),
                };
                answer(
                    StatusCode::ACCEPTED,
                    &json!({ "accepted": true, "duplicate": duplicate, "id": id }),
                )
            }
            Err(error) => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({ "error": error.to_string() }),
            ),
        }
    }

    async fn fetch(&self, source: &str, bytes_max: u64) -> Result<Bytes, SendError> {
        let response = self
            .http
            .get(source)?
            .send()
            .await
            .map_err(|error| web::failed(&error))?;
        if !response.status().is_success() {
            return Err(web::refused(
                response.status(),
                web::retry_after(&response),
                "",
            ));
        }
        web::body(response, bytes_max).await
    }
}

fn answer(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

/// `{text, from, chat?, group?, thread?, replyTo?, media?}`: who says what, and where.
fn parse(id: &str, body: &[u8], fields: &Fields) -> Result<InboundMessage, String> {
    let body: Value =
        serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    let body = fields.inward(body);
    let text = |key: &str| {
        body[key]
            .as_str()
            .map(str::trim)
            .filter(|text| !text.is_empty())
    };
    let content = text("text").or_else(|| text("content"));
    let attachments: Vec<Attachment> = body["media"]
        .as_array()
        .into_iter()
        .flatten()
        .take(16)
        .filter_map(Value::as_str)
        .map(|url| Attachment {
            source: url.to_owned(),
            name: None,
            mime: None,
            bytes: None,
            voice: false,
            as_file: false,
        })
        .collect();
    if content.is_none() && attachments.is_empty() {
        return Err("`text` is missing".to_owned());
    }
    let from = match &body["from"] {
        Value::String(id) if !id.trim().is_empty() => Sender {
            id: id.trim().to_owned(),
            username: None,
            name: None,
            is_bot: false,
            roles: Vec::new(),
        },
        Value::Object(from) => Sender {
            id: from
                .get("id")
                .and_then(Value::as_str)
                .filter(|id| !id.is_empty())
                .ok_or("`from.id` is missing")?
                .to_owned(),
            username: from
                .get("username")
                .and_then(Value::as_str)
                .map(str::to_owned),
            name: from.get("name").and_then(Value::as_str).map(str::to_owned),
            is_bot: from.get("isBot") == Some(&Value::Bool(true)),
            roles: Vec::new(),
        },
        _ => {
            return Err(
                "`from` is missing: the sender's id, or an object with `id` and `name`".to_owned(),
            );
        }
    };
    let group = body["group"] == true;
    Ok(InboundMessage {
        event_id: id.to_owned(),
        message_id: text("messageId").unwrap_or(id).to_owned(),
        kind: EventKind::Message,
        chat: Chat {
            kind: if group {
                ChatKind::Group
            } else {
                ChatKind::Direct
            },
            id: text("chat").map_or_else(|| from.id.clone(), str::to_owned),
            thread: text("thread").map(str::to_owned),
            parent: None,
            title: None,
        },
        sender: from,
        text: content.unwrap_or_default().to_owned(),
        reply_to: text("replyTo").map(str::to_owned),
        edit_of: None,
        quoted: None,
        mentions_us: body["mention"] == true,
        attachments,
        sent_at_ms: i64::try_from(now_s()).unwrap_or(0) * 1000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SinkError, Spool};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn account(settings: &Value) -> Account {
        crate::accounts::of("webhook", settings).remove(0)
    }

    struct Taking;

    #[async_trait]
    impl Spool for Taking {
        async fn commit(&self, _: &str, _: &str, batch: Batch) -> Result<Vec<Accepted>, SinkError> {
            Ok(batch
                .messages
                .iter()
                .map(|m| Accepted::New {
                    id: m.event_id.clone(),
                })
                .collect())
        }
        async fn cursor(&self, _: &str, _: &str, _: &str) -> Result<Option<String>, SinkError> {
            Ok(None)
        }
    }

    fn request(
        hook: &Webhook,
        id: &str,
        timestamp: u64,
        body: &str,
        signature: Option<&str>,
    ) -> Request<Bytes> {
        let ours = format!(
            "v1,{}",
            hook.sign(id, &timestamp.to_string(), body.as_bytes())
        );
        Request::post("/")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", signature.unwrap_or(&ours))
            .body(Bytes::from(body.to_owned()))
            .unwrap()
    }

    #[tokio::test]
    async fn only_a_fresh_and_signed_message_is_taken() {
        let hook = Webhook::new(&account(&json!({ "secret": "x".repeat(32) }))).unwrap();
        let sink = || InboundSink::new(Arc::new(Taking), "webhook", "default");
        let good = r#"{"text":"hi","from":"ann"}"#;
        let cases = [
            (now_s(), good, None, 202),
            (now_s() - 400, good, None, 401),
            (now_s() + 400, good, None, 401),
            (now_s(), good, Some("v1,AAAA"), 401),
            (now_s(), good, Some("v1a,AAAA"), 401),
            (now_s(), "{", None, 400),
            (now_s(), r#"{"from":"ann"}"#, None, 400),
            (now_s(), r#"{"text":"x","from":{}}"#, None, 400),
        ];
        for (timestamp, body, signature, expected) in cases {
            let answer = hook
                .handle_http(request(&hook, "msg_1", timestamp, body, signature), sink())
                .await;
            assert_eq!(answer.status().as_u16(), expected, "{body} {signature:?}");
        }
    }

    /// Source: the example of the Standard Webhooks specification.
    #[test]
    fn signs_as_the_specification_says() {
        let hook = Webhook::new(&account(
            &json!({ "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" }),
        ))
        .unwrap();
        let signature = hook.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_weak_or_missing_secret_refuses_to_start() {
        for (settings, key) in [
            (json!({}), "channels.webhook.secret"),
            (json!({ "secret": "short" }), "channels.webhook.secret"),
            (json!({ "secret": "whsec_!!" }), "channels.webhook.secret"),
            (
                json!({ "secret": "x".repeat(32), "url": "example.org" }),
                "channels.webhook.url",
            ),
            (
                json!({ "secret": "x".repeat(32), "inbound": false }),
                "channels.webhook.url",
            ),
            (
                json!({ "secret": "x".repeat(32), "inboundFields": { "txt": "/a" } }),
                "channels.webhook.inboundFields.txt",
            ),
            (
                json!({ "secret": "x".repeat(32), "inboundFields": { "text": "a" } }),
                "channels.webhook.inboundFields.text",
            ),
        ] {
            let error = Webhook::new(&account(&settings)).unwrap_err();
            assert!(error.to_string().starts_with(key), "{error}");
        }
    }

    proptest! {
        /// Whatever is posted is a message with a sender and content, or a reason.
        #[test]
        fn no_body_is_a_panic(
            junk in proptest::collection::vec(any::<u8>(), 0..64),
            parts in proptest::collection::vec((
                prop_oneof![Just("text"), Just("from"), Just("chat"), Just("media"), Just("group"), Just("thread")],
                prop_oneof![Just("null"), Just("7"), Just("\" \""), Just("\"x\""), Just("{}"), Just("{\"id\":\"a\"}"),
                    Just("{\"id\":9}"), Just("[\"u\",1]"), Just("true")],
            ), 0..6),
            mapped in any::<bool>(),
        ) {
            let settings = match mapped {
                true => json!({ "secret": "x".repeat(32), "inboundFields": { "text": "/chat", "from": "/from" } }),
                false => json!({ "secret": "x".repeat(32) }),
            };
            let fields = Fields::new(&account(&settings)).unwrap();
            let _junk = parse("id", &junk, &fields);
            let body: Vec<_> = parts.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            if let Ok(message) = parse("id", format!("{{{}}}", body.join(",")).as_bytes(), &fields) {
                prop_assert!(!message.sender.id.is_empty());
                prop_assert!(!message.text.is_empty() || !message.attachments.is_empty());
            }
        }
    }
}
