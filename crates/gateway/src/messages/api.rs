//! The HTTP message API: `POST /api/message` and what shows a message's life; pictures and recordings (`media`). Described
//! by `api/openapi.json`, which is served and tested against.

pub(crate) mod media;
mod reads;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use store::StoreError;

use super::accept::{accept, outcome};
use super::request::{Fault, Invalid, SendRequest};
use super::{Messages, now_ms};
use crate::app::App;
use crate::auth::RemoteEnd;
use crate::auth::{Attribution, AuthSettings, HttpAuth, HttpSurface, Mode};
use crate::ingress::door;
use crate::ingress::http::{Body, full, refused};
use crate::packed::{Packed, packed};

/// Largest body of a request.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

const OPENAPI: Packed = packed!("messages/api/openapi.json");

/// An answer in JSON, or what is wrong.
type Answer = Result<(StatusCode, Value), Refusal>;

struct Refusal {
    status: StatusCode,
    code: &'static str,
    field: Option<String>,
    message: String,
    allow: Option<&'static str>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            field: None,
            message: message.into(),
            allow: None,
        }
    }

    fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    fn not_found(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", what)
    }

    fn body(&self) -> Value {
        let message = match &self.field {
            Some(field) => format!("{field}: {}", self.message),
            None => self.message.clone(),
        };
        json!({ "success": false, "message_id": null, "error": message, "code": self.code, "field": self.field })
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        let (status, code) = match invalid.fault {
            Fault::Malformed => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
            Fault::Unknown => (StatusCode::NOT_FOUND, "UNKNOWN_CHANNEL"),
            Fault::Contradiction => (StatusCode::CONFLICT, "IDEMPOTENCY_CONFLICT"),
        };
        Self::new(status, code, invalid.message).field(invalid.field)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let (status, code) = match &error {
            StoreError::Conflict => (StatusCode::CONFLICT, "IDEMPOTENCY_CONFLICT"),
            StoreError::NotFound { .. } => (StatusCode::CONFLICT, "WRONG_STATE"),
            StoreError::Busy => (StatusCode::TOO_MANY_REQUESTS, "BUSY"),
            StoreError::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, "STORAGE_FULL"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "STORAGE_UNAVAILABLE"),
        };
        let refusal = Self::new(status, code, error.to_string());
        match error {
            StoreError::Conflict => refusal.field("idempotencyKey"),
            _ => refusal,
        }
    }
}

/// Whether a path is ours.
pub(crate) fn is_ours(path: &str) -> bool {
    Route::of(path).is_some()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    OpenApi,
    Send,
    Message(&'a str),
    Messages,
    Sessions,
    Routes,
    Why(&'a str),
    DeadLetters,
    DeadLetter(&'a str),
    Resend(&'a str),
    Channels,
    Pairings,
    Approve,
    Media(media::Operation),
    /// What a service posts to an account of ours.
    Hook(&'a str, &'a str),
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix("/webhooks/") {
            let (channel, account) = rest.split_once('/').unwrap_or((rest, ""));
            return (!channel.is_empty() && !account.contains('/'))
                .then_some(Self::Hook(channel, account));
        }
        let rest = path.strip_prefix("/api/")?;
        let parts: Vec<&str> = rest.split('/').collect();
        Some(match parts.as_slice() {
            ["openapi.json"] => Self::OpenApi,
            ["message"] => Self::Send,
            ["message", id] if !id.is_empty() => Self::Message(id),
            ["messages"] => Self::Messages,
            ["sessions"] => Self::Sessions,
            ["routes"] => Self::Routes,
            ["why", id] if !id.is_empty() => Self::Why(id),
            ["dead-letters"] => Self::DeadLetters,
            ["dead-letters", id] if !id.is_empty() => Self::DeadLetter(id),
            ["dead-letters", id, "resend"] if !id.is_empty() => Self::Resend(id),
            ["channels"] => Self::Channels,
            ["pairings"] => Self::Pairings,
            ["pairings", "approve"] => Self::Approve,
            ["media", operation] => Self::Media(media::Operation::of(operation)?),
            _ => return None,
        })
    }

    /// Method, and the scope it takes.
    fn rule(self) -> (Method, &'static str) {
        match self {
            Self::OpenApi | Self::Hook(..) => (Method::GET, ""),
            Self::Send | Self::Resend(_) => (Method::POST, "operator.write"),
            Self::Media(media::Operation::Probe) => (Method::POST, "operator.read"),
            // Nothing is changed, but much work is done.
            Self::Media(_) => (Method::POST, "operator.write"),
            Self::Approve => (Method::POST, "operator.admin"),
            Self::DeadLetter(_) => (Method::DELETE, "operator.write"),
            Self::Message(_)
            | Self::Messages
            | Self::Sessions
            | Self::Routes
            | Self::Why(_)
            | Self::DeadLetters
            | Self::Channels
            | Self::Pairings => (Method::GET, "operator.read"),
        }
    }
}

/// Answers a request whose path [`is_ours`].
pub(crate) async fn respond(
    app: &App,
    messages: &Arc<Messages>,
    request: Request<Incoming>,
    peer: RemoteEnd,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let Some(route) = Route::of(&path) else {
        return json_response(StatusCode::NOT_FOUND, &json!({}));
    };
    if let Route::Hook(channel, account) = route {
        return hook(messages, channel, account, request).await;
    }
    let (method, scope) = route.rule();
    let wrong_method = *request.method() != method
        && !(method == Method::GET && *request.method() == Method::HEAD);
    let caller = match admit(app, request.headers(), peer, scope).await {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    if wrong_method {
        let mut refusal = Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            format!("use {method}"),
        );
        refusal.allow = Some(match method {
            Method::POST => "POST",
            Method::DELETE => "DELETE",
            _ => "GET, HEAD",
        });
        return answer(Err(refusal));
    }
    if let Route::Media(operation) = route {
        return media::respond(&app.media, operation, request).await;
    }
    let is_head = *request.method() == Method::HEAD;
    let mut response = answer(serve(messages, route, request, &caller).await);
    if is_head {
        *response.body_mut() = full("");
    }
    response
}

/// Who was let in.
#[derive(Debug, Default)]
pub(crate) struct Caller {
    /// The person that a trusted proxy names.
    pub(crate) user: Option<String>,
    /// Holds `operator.admin`.
    pub(crate) is_admin: bool,
}

/// Whether a request may do what takes `scope` (empty: anybody may): a bearer of the gateway's own secret, or what the mode
/// knows instead.
///
/// # Errors
/// The answer that refuses it.
pub(crate) async fn admit(
    app: &App,
    headers: &http::HeaderMap,
    peer: RemoteEnd,
    scope: &str,
) -> Result<Caller, Box<Response<Body>>> {
    let attribution = app
        .auth
        .attribute(peer, headers)
        .map_err(|refusal| Box::new(refused(&refusal)))?;
    if scope.is_empty() {
        return Ok(Caller::default());
    }
    if is_rebound(&app.auth.settings(), &attribution, headers) {
        return Err(Box::new(answer(Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "HOST_NOT_ALLOWED",
            "without authentication this gateway is used by its IP address or as localhost; another name must be in gateway.controlUi.allowedOrigins",
        )))));
    }
    let now = crate::clock::now_ms();
    let trust = crate::auth::UpstreamTrust::Absent;
    match app
        .auth
        .bearer(headers, &attribution, HttpSurface::Api, trust, now)
    {
        HttpAuth::Allowed(principal) => {
            let is_admin = principal.scopes.iter().any(|have| have == "operator.admin");
            let is_allowed = principal.scopes.iter().any(|have| {
                have == scope || (scope == "operator.read" && have == "operator.write")
            });
            if is_admin || is_allowed {
                return Ok(Caller {
                    user: principal.user,
                    is_admin,
                });
            }
            Err(Box::new(answer(Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "MISSING_SCOPE",
                format!("missing scope: {scope}"),
            )))))
        }
        HttpAuth::Refused(refusal) => {
            if !refusal.delay.is_zero() {
                tokio::time::sleep(refusal.delay).await;
            }
            Err(Box::new(refused(&refusal)))
        }
        HttpAuth::AskUpstream { .. } => Err(Box::new(refused(
            &crate::auth::HttpRefusal::unauthorized("device token"),
        ))),
    }
}

/// Whether a browser may have come by a name that somebody else pointed at this machine, while nothing but the place
/// says who may: then a page could read what its visitor may.
fn is_rebound(settings: &AuthSettings, attribution: &Attribution, headers: &HeaderMap) -> bool {
    let is_named = |origin: &String| {
        crate::auth::is_gateway_host(attribution.host.as_deref(), Some(origin.as_str()))
    };
    settings.mode == Mode::None
        && attribution.is_local()
        && !door::names_an_address(headers)
        && !settings.allowed_origins.iter().any(is_named)
}

async fn serve(
    messages: &Arc<Messages>,
    route: Route<'_>,
    request: Request<Incoming>,
    caller: &Caller,
) -> Answer {
    let query = request.uri().query().unwrap_or_default().to_owned();
    match route {
        Route::OpenApi => Ok((StatusCode::OK, OPENAPI.json())),
        Route::Send => {
            let (headers, body) = read_json(request).await?;
            let key = match headers.get("idempotency-key") {
                None => None,
                Some(value) => Some(value.to_str().map_err(|_not_text| {
                    Refusal::new(
                        StatusCode::BAD_REQUEST,
                        "INVALID_REQUEST",
                        "is not plain text",
                    )
                    .field("Idempotency-Key")
                })?),
            };
            let request = SendRequest {
                is_owner: caller.is_admin,
                ..SendRequest::parse(&body, key)?
            };
            send(messages, &request, "api")
                .await
                .map(|sent| (StatusCode::OK, sent))
        }
        Route::Message(id) => reads::message(messages, &decoded(id)).await,
        Route::Messages => reads::list(messages, &query).await,
        Route::Sessions => reads::sessions(messages, &query).await,
        Route::Routes => Ok((StatusCode::OK, reads::routes(messages))),
        Route::Why(id) => reads::why(messages, &decoded(id)).await,
        Route::DeadLetters => reads::dead_letters(messages, &query).await,
        Route::Resend(id) => resend(messages, &decoded(id)).await,
        Route::DeadLetter(id) => {
            let id = decoded(id);
            must_exist(messages, &id).await?;
            messages
                .store
                .write(move |tx| match tx.outbox().get(&id)? {
                    Some(_) => tx.outbox().drop_dead(&id, now_ms()),
                    None => tx.inbox().drop_failed(&id, now_ms()),
                })
                .await?;
            Ok((StatusCode::OK, json!({ "success": true })))
        }
        Route::Channels => Ok((
            StatusCode::OK,
            json!({ "channels": messages.supervisor.status() }),
        )),
        Route::Pairings => {
            let list = messages
                .store
                .read(|reader| reader.pairings().list(None))
                .await?;
            Ok((StatusCode::OK, json!({ "pairings": list })))
        }
        Route::Approve => {
            let (_, body) = read_json(request).await?;
            approve(messages, &body).await
        }
        Route::Hook(..) | Route::Media(_) => Err(Refusal::not_found("not here")),
    }
}

/// Takes a message: on disk when this answers. Shared with the method `send`.
async fn send(
    messages: &Arc<Messages>,
    request: &SendRequest,
    source: &str,
) -> Result<Value, Refusal> {
    let mut finished = request.wait.then(|| messages.finished.subscribe());
    let row = request.outbound(messages, source)?;
    let (id, repeated) = accept(messages, request, row).await?;
    let (state, error) = match &mut finished {
        None => ("queued", None),
        Some(finished) => outcome(messages, &id, request.turn, finished).await?,
    };
    Ok(json!({
        "success": true, "message_id": id, "error": error, "status": state, "duplicate": repeated,
    }))
}

async fn must_exist(messages: &Messages, id: &str) -> Result<(), Refusal> {
    let wanted = id.to_owned();
    let found = messages
        .store
        .read(move |reader| {
            Ok(reader.outbox().get(&wanted)?.is_some() || reader.inbox().get(&wanted)?.is_some())
        })
        .await?;
    if found {
        Ok(())
    } else {
        Err(Refusal::not_found(format!("no message {:?}", clip(id))))
    }
}

async fn resend(messages: &Messages, id: &str) -> Answer {
    must_exist(messages, id).await?;
    let wanted = id.to_owned();
    let outbound = messages
        .store
        .write(move |tx| {
            let now = now_ms();
            if tx.outbox().get(&wanted)?.is_some() {
                tx.outbox().resend(&wanted, "by hand", now)?;
                Ok(true)
            } else {
                if let Some(row) = tx.inbox().get(&wanted)? {
                    // A command is asked for anew: it was not given before.
                    let key = super::orders::said_key(&row.id);
                    tx.set_cursor(&row.channel, &row.account, &key, "0", now)?;
                }
                tx.inbox().retry(&wanted, now)?;
                Ok(false)
            }
        })
        .await?;
    if outbound {
        messages.outbox.notify_one();
    } else {
        messages.inbox.notify_one();
    }
    Ok((StatusCode::OK, json!({ "success": true })))
}

async fn approve(messages: &Messages, body: &Value) -> Answer {
    let text = |key: &'static str| {
        body[key]
            .as_str()
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
            .ok_or_else(|| {
                Refusal::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", "is missing").field(key)
            })
    };
    let (channel, code) = (text("channel")?, text("code")?);
    let found = messages
        .store
        .write(move |tx| tx.pairings().approve(&channel, &code, now_ms()))
        .await?;
    match found {
        Some(pairing) => Ok((
            StatusCode::OK,
            json!({ "success": true, "pairing": pairing }),
        )),
        None => {
            Err(Refusal::not_found("no such code waits; codes are good for an hour").field("code"))
        }
    }
}

/// A service posts to an account of ours; the account itself judges who it is.
async fn hook(
    messages: &Messages,
    channel: &str,
    account: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let account = if account.is_empty() {
        messages.default_account(channel)
    } else {
        decoded(account)
    };
    let (Some(running), Some(sink)) = (
        messages.supervisor.get(channel, &account),
        messages.supervisor.sink(channel, &account),
    ) else {
        return answer(Err(Refusal::not_found("no such account runs here")));
    };
    let (parts, body) = request.into_parts();
    let collected =
        tokio::time::timeout(BODY_PATIENCE, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_too_large)) => {
            return answer(Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "TOO_LARGE",
                format!("the body is larger than {BODY_BYTES_MAX} bytes"),
            )));
        }
        Err(_elapsed) => {
            return answer(Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "TIMEOUT",
                "the body took too long",
            )));
        }
    };
    let answered = running
        .handle_http(Request::from_parts(parts, body), sink)
        .await;
    let (parts, body) = answered.into_parts();
    Response::from_parts(parts, full(body))
}

async fn read_json(request: Request<Incoming>) -> Result<(HeaderMap, Value), Refusal> {
    let (parts, body) = request.into_parts();
    let collected =
        tokio::time::timeout(BODY_PATIENCE, Limited::new(body, BODY_BYTES_MAX).collect())
            .await
            .map_err(|_elapsed| {
                Refusal::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "TIMEOUT",
                    "the body took too long",
                )
            })?
            .map_err(|_too_large| {
                Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "TOO_LARGE",
                    format!("the body is larger than {BODY_BYTES_MAX} bytes"),
                )
            })?
            .to_bytes();
    let body = serde_json::from_slice(&collected).map_err(|error| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "INVALID_REQUEST",
            format!("is not JSON: {error}"),
        )
        .field("body")
    })?;
    Ok((parts.headers, body))
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

fn answer(answer: Answer) -> Response<Body> {
    match answer {
        Ok((status, body)) => json_response(status, &body),
        Err(refusal) => {
            let mut response = json_response(refusal.status, &refusal.body());
            if let Some(allow) = refusal.allow {
                response
                    .headers_mut()
                    .insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            if refusal.status == StatusCode::SERVICE_UNAVAILABLE
                || refusal.status == StatusCode::TOO_MANY_REQUESTS
            {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            response
        }
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_ours_or_the_upstreams() {
        for path in [
            "/api/message",
            "/api/message/x",
            "/api/dead-letters/x/resend",
            "/api/media/fit",
            "/webhooks/telegram",
            "/webhooks/webhook/work",
        ] {
            assert!(is_ours(path), "{path}");
        }
        for path in [
            "/api",
            "/api/",
            "/api/message/",
            "/api/users/x/avatar",
            "/api/media",
            "/api/media/x",
            "/api/diagnostics/prometheus",
            "/webhooks/",
            "/webhooks/a/b/c",
            "/api/legacy/message",
        ] {
            assert!(!is_ours(path), "{path}");
        }
    }

    #[test]
    fn without_authentication_a_foreign_name_is_no_way_in() {
        let rebound = |mode: Mode, host: &str, peer: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            let settings = AuthSettings {
                mode,
                allowed_origins: vec!["https://claw.example".to_owned()],
                ..AuthSettings::default()
            };
            let attribution = Attribution::of(
                peer.parse().unwrap(),
                crate::auth::Door::Ordinary,
                &headers,
                settings.trust(),
            )
            .unwrap();
            is_rebound(&settings, &attribution, &headers)
        };
        assert!(rebound(Mode::None, "evil.example:18789", "127.0.0.1"));
        assert!(!rebound(Mode::None, "127.0.0.1:18789", "127.0.0.1"));
        assert!(!rebound(Mode::None, "localhost:18789", "127.0.0.1"));
        assert!(!rebound(Mode::None, "claw.example", "127.0.0.1"));
        // There the secret says who may.
        assert!(!rebound(Mode::Token, "evil.example:18789", "127.0.0.1"));
    }

    #[test]
    fn every_path_is_in_the_document() {
        let document = OPENAPI.json();
        let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
        for path in &paths {
            assert!(
                is_ours(
                    &path
                        .replace("{id}", "x")
                        .replace("{channel}", "c")
                        .replace("{account}", "a")
                ),
                "{path}"
            );
        }
        assert_eq!(paths.len(), 16);
    }
}
