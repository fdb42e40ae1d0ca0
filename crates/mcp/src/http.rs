//! Streamable HTTP, over the HTTP client that the caller has.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reqwest::{RequestBuilder, Response, Url};
use rmcp::model::{ClientJsonRpcMessage, JsonRpcMessage, RequestId, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_client::{
    AuthRequiredError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    StreamableHttpResponseLimits,
};
use sse_stream::Sse;
use tokio_util::sync::CancellationToken;

use crate::connection::short;
use crate::events::{self, Broken};
use crate::fate::Fate;
use crate::{MESSAGE_BYTES_MAX, message};

const JSON: &str = "application/json";
pub(crate) const EVENT_STREAM: &str = "text/event-stream";
const SESSION: &str = "mcp-session-id";
/// Of an answer that says why there is none.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

type Events = BoxStream<'static, Result<Sse, sse_stream::Error>>;

/// Where a server is, and what every request to it carries.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Must not follow redirects to another origin: the headers go with every request.
    pub client: reqwest::Client,
    pub url: Url,
    pub headers: HeaderMap,
}

/// A request without an answer, in words without the address: it may hold a secret.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HttpError(String);

impl From<reqwest::Error> for HttpError {
    fn from(error: reqwest::Error) -> Self {
        Self(words(&error))
    }
}

type Failure = StreamableHttpError<HttpError>;

/// The HTTP client of one connection, as the SDK's transport takes it.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    endpoint: Endpoint,
    fate: Fate,
    /// Ends the connection.
    end: CancellationToken,
}

impl Http {
    pub(crate) const fn new(endpoint: Endpoint, fate: Fate, end: CancellationToken) -> Self {
        Self {
            endpoint,
            fate,
            end,
        }
    }

    fn dressed(
        &self,
        request: RequestBuilder,
        session: Option<&str>,
        token: Option<String>,
        more: HashMap<HeaderName, HeaderValue>,
    ) -> RequestBuilder {
        let mut request = request.headers(self.endpoint.headers.clone());
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in more {
            request = request.header(name, value);
        }
        match session {
            Some(session) => request.header(SESSION, session),
            None => request,
        }
    }

    /// A message that is too long is the connection's last.
    fn lost(&self, why: &str) {
        self.fate.tell(format!("the server sent {why}"));
        self.end.cancel();
    }

    /// The messages of a stream of events. It just ends where it breaks: the SDK asks again at once after an error, and
    /// after an end it waits.
    fn messages(&self, response: Response) -> Events {
        let own = self.clone();
        let messages = events::events(response, MESSAGE_BYTES_MAX).scan((), move |(), event| {
            let event = match event {
                Ok(mut event) => {
                    if let Some(read) = event.data.as_deref().and_then(message::rewritten) {
                        event.data = Some(read);
                    }
                    Some(Ok(event))
                }
                Err(broken) => {
                    match &broken {
                        Broken::TooLong(_) => own.lost(&broken.to_string()),
                        Broken::Http(_) => {
                            tracing::debug!(%broken, "an MCP server's events break off")
                        }
                    }
                    None
                }
            };
            std::future::ready(event)
        });
        messages.boxed()
    }

    /// An answer in JSON to the request with this id.
    async fn answer(
        &self,
        response: Response,
        request: Option<&RequestId>,
        is_in_session: bool,
    ) -> Result<ServerJsonRpcMessage, Failure> {
        let status = response.status();
        let said = match is(&response, JSON) {
            true if status.is_success() => {
                let body = body(response, MESSAGE_BYTES_MAX).await?;
                let body = body.ok_or_else(|| {
                    let why = format!("an answer of more than {MESSAGE_BYTES_MAX} bytes");
                    self.lost(&why);
                    unexpected(why)
                })?;
                Some(message::read(&body).map_err(StreamableHttpError::Deserialize)?)
            }
            true => {
                let body = body(response, REFUSAL_BYTES_MAX).await?.unwrap_or_default();
                message::read(&body).ok()
            }
            false => None,
        };
        match said {
            Some(JsonRpcMessage::Error(refusal))
                if refusal.id.as_ref().map(RequestId::to_string)
                    != request.map(RequestId::to_string)
                    || request.is_none() =>
            {
                let why = refusal.error.message;
                // The specification says 404 for a session that is unknown; servers after the SDKs' examples say this.
                let is_unknown = is_in_session
                    && status == StatusCode::BAD_REQUEST
                    && why.to_lowercase().contains("session");
                Err(match is_unknown {
                    true => StreamableHttpError::SessionExpired,
                    // Nobody waits for an answer without the request's id.
                    false => unexpected(format!("HTTP {status}: {}", short(&why))),
                })
            }
            Some(answer) if status.is_success() || matches!(answer, JsonRpcMessage::Error(_)) => {
                Ok(answer)
            }
            None if status.is_success() => Err(unexpected(
                "neither JSON nor events where an answer was due".to_owned(),
            )),
            _ => Err(unexpected(format!("HTTP {status}"))),
        }
    }
}

/// The innermost cause, without the address.
pub(crate) fn words(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match error.is_connect() {
        true => format!("the server cannot be reached: {cause}"),
        false => format!("HTTP failed: {cause}"),
    }
}

fn is(response: &Response, kind: &str) -> bool {
    let named = response.headers().get(CONTENT_TYPE);
    named
        .and_then(|named| named.to_str().ok())
        .and_then(|named| named.split(';').next())
        .is_some_and(|named| named.trim().eq_ignore_ascii_case(kind))
}

/// A body; `None`: it is longer than that.
async fn body(mut response: Response, bytes_max: usize) -> Result<Option<Vec<u8>>, Failure> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > bytes_max {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body))
}

fn failed(error: reqwest::Error) -> Failure {
    StreamableHttpError::Client(HttpError::from(error))
}

fn unexpected(why: String) -> Failure {
    StreamableHttpError::UnexpectedServerResponse(why.into())
}

impl StreamableHttpClient for Http {
    type Error = HttpError;

    async fn post_message(
        &self,
        _uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        more: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        let request = self
            .endpoint
            .client
            .post(self.endpoint.url.clone())
            .header(ACCEPT, format!("{JSON}, {EVENT_STREAM}"))
            .header(CONTENT_TYPE, JSON)
            .body(serde_json::to_vec(&message)?);
        let request = self.dressed(request, session.as_deref(), token, more);
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = response.headers().get(WWW_AUTHENTICATE);
            let challenge = challenge.and_then(|challenge| challenge.to_str().ok());
            return Err(StreamableHttpError::AuthRequired(AuthRequiredError::new(
                challenge.unwrap_or_default().to_owned(),
            )));
        }
        if status == StatusCode::NOT_FOUND && session.is_some() {
            return Err(StreamableHttpError::SessionExpired);
        }
        let of_session = response.headers().get(SESSION);
        let of_session = of_session
            .and_then(|session| session.to_str().ok())
            .map(str::to_owned);
        let request = match &message {
            ClientJsonRpcMessage::Request(request) => Some(&request.id),
            _ => None,
        };
        if status.is_success() && (request.is_none() || status == StatusCode::ACCEPTED) {
            return Ok(StreamableHttpPostResponse::Accepted);
        }
        if is(&response, EVENT_STREAM) && status.is_success() {
            let messages = self.messages(response);
            return Ok(StreamableHttpPostResponse::Sse(messages, of_session));
        }
        let answer = self.answer(response, request, session.is_some()).await?;
        Ok(StreamableHttpPostResponse::Json(answer, of_session))
    }

    async fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        more: HashMap<HeaderName, HeaderValue>,
        _limits: StreamableHttpResponseLimits,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        self.post_message(uri, message, session, token, more).await
    }

    async fn delete_session(
        &self,
        _uri: Arc<str>,
        session: Arc<str>,
        token: Option<String>,
        more: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), Failure> {
        let request = self.endpoint.client.delete(self.endpoint.url.clone());
        let request = self.dressed(request, Some(&session), token, more);
        let response = request.send().await.map_err(failed)?;
        match response.status() {
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            StatusCode::METHOD_NOT_ALLOWED => {
                Err(StreamableHttpError::ServerDoesNotSupportDeleteSession)
            }
            status => Err(unexpected(format!("HTTP {status}"))),
        }
    }

    async fn get_stream(
        &self,
        _uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        token: Option<String>,
        more: HashMap<HeaderName, HeaderValue>,
    ) -> Result<Events, Failure> {
        let mut request = self
            .endpoint
            .client
            .get(self.endpoint.url.clone())
            .header(ACCEPT, EVENT_STREAM);
        if let Some(last_event) = last_event {
            request = request.header("last-event-id", last_event);
        }
        let request = self.dressed(request, session.as_deref(), token, more);
        let response = request.send().await.map_err(failed)?;
        match response.status() {
            StatusCode::METHOD_NOT_ALLOWED => Err(StreamableHttpError::ServerDoesNotSupportSse),
            status if !status.is_success() => Err(unexpected(format!("HTTP {status}"))),
            _ if !is(&response, EVENT_STREAM) => Err(StreamableHttpError::UnexpectedContentType(
                Some("no stream of events".to_owned()),
            )),
            _ => Ok(self.messages(response)),
        }
    }
}

#[cfg(test)]
mod tests;
