//! The client-server API over HTTP: authorised, bounded, errors sorted.
//! Source: <https://spec.matrix.org/v1.11/client-server-api/>

use super::config::{Config, Login};
use crate::web::{self, Http, HttpOptions, Reach};
use crate::{ChannelError, SendError};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// One answer of the server, `/sync` included.
const ANSWER_BYTES_MAX: u64 = 32 << 20;
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A path segment or a query value.
pub(super) fn quote(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// Who we are logged in as.
#[derive(Debug)]
pub(super) struct Credentials {
    token: String,
    pub(super) user: String,
}

pub(super) struct Api {
    http: Http,
    homeserver: String,
    login: Login,
    credentials: tokio::sync::Mutex<Option<Arc<Credentials>>>,
}

/// `errcode` and what goes with it.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) code: String,
    pub(super) error: SendError,
}

impl From<SendError> for Failed {
    fn from(error: SendError) -> Self {
        Self {
            code: String::new(),
            error,
        }
    }
}

impl Failed {
    pub(super) fn receiving(self) -> ChannelError {
        match self.error {
            SendError::Unauthorized { reason } => ChannelError::Unauthorized { reason },
            SendError::Retry { after, reason } => ChannelError::Disconnected { reason, after },
            error => ChannelError::Disconnected {
                reason: error.to_string(),
                after: None,
            },
        }
    }
}

impl Api {
    pub(super) fn new(config: Config, timeout: Duration) -> Result<Self, ChannelError> {
        let reach = if config.private_network {
            Reach::Anywhere
        } else {
            Reach::Public
        };
        Ok(Self {
            http: Http::new(&HttpOptions {
                timeout,
                reach,
                ..HttpOptions::default()
            })?,
            homeserver: config.homeserver,
            login: config.login,
            credentials: tokio::sync::Mutex::new(None),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.homeserver)
    }

    /// Our token and id: asked for once, by `whoami` or a login.
    pub(super) async fn credentials(&self) -> Result<Arc<Credentials>, Failed> {
        let mut held = self.credentials.lock().await;
        if let Some(credentials) = &*held {
            return Ok(Arc::clone(credentials));
        }
        let credentials = Arc::new(match &self.login {
            Login::Token(token) => {
                let url = self.url("/_matrix/client/v3/account/whoami");
                let request = self.http.get(&url)?.bearer_auth(token);
                let me = answer(request).await?;
                Credentials {
                    user: field(&me, "user_id")?,
                    token: token.clone(),
                }
            }
            Login::Password {
                user,
                password,
                device,
                device_name,
            } => {
                let body = json!({
                    "type": "m.login.password",
                    "identifier": { "type": "m.id.user", "user": user },
                    "password": password,
                    "device_id": device,
                    "initial_device_display_name": device_name,
                });
                let url = self.url("/_matrix/client/v3/login");
                let found = answer(self.http.post(&url)?.json(&body)).await;
                let found = found.map_err(|failed| match failed.error {
                    // A wrong password is `M_FORBIDDEN` here.
                    SendError::Rejected { reason } => Failed {
                        code: failed.code,
                        error: SendError::Unauthorized { reason },
                    },
                    error => Failed {
                        code: failed.code,
                        error,
                    },
                })?;
                Credentials {
                    user: field(&found, "user_id")?,
                    token: field(&found, "access_token")?,
                }
            }
        });
        *held = Some(Arc::clone(&credentials));
        Ok(credentials)
    }

    /// The token is refused: with a password there may be another.
    async fn forget(&self, refused: &Credentials) -> bool {
        let mut held = self.credentials.lock().await;
        if held.as_ref().is_some_and(|c| c.token == refused.token) {
            *held = None;
        }
        matches!(self.login, Login::Password { .. })
    }

    /// An authorised request, built by `build`, which may be called again after a new login.
    async fn respond(
        &self,
        method: &Method,
        path: &str,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Failed> {
        let mut renewed = false;
        loop {
            let credentials = self.credentials().await?;
            let request = self.http.request(method.clone(), &self.url(path))?;
            match sent(build(request.bearer_auth(&credentials.token))).await {
                Err(failed) if failed.code == "M_UNKNOWN_TOKEN" => {
                    let password = self.forget(&credentials).await;
                    if renewed || !password {
                        return Err(failed);
                    }
                    renewed = true;
                }
                other => return other,
            }
        }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Failed> {
        read(self.respond(&Method::GET, path, |request| request).await?).await
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Result<Value, Failed> {
        read(
            self.respond(&Method::PUT, path, |request| request.json(body))
                .await?,
        )
        .await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failed> {
        read(
            self.respond(&Method::POST, path, |request| request.json(body))
                .await?,
        )
        .await
    }

    /// The `mxc:` address of the uploaded bytes.
    pub(super) async fn upload(
        &self,
        name: &str,
        mime: &str,
        content: Bytes,
    ) -> Result<String, Failed> {
        let path = format!("/_matrix/media/v3/upload?filename={}", quote(name));
        let response = self.respond(&Method::POST, &path, |request| {
            request.header("content-type", mime).body(content.clone())
        });
        let found = read(response.await?).await.map_err(|failed| Failed {
            code: failed.code,
            // Nobody has seen the file yet: again is harmless.
            error: match failed.error {
                SendError::Unknown { reason } => SendError::Retry {
                    after: None,
                    reason,
                },
                error => error,
            },
        })?;
        field(&found, "content_uri")
    }

    pub(super) async fn download(&self, mxc: &str, bytes_max: u64) -> Result<Bytes, Failed> {
        let found = mxc
            .strip_prefix("mxc://")
            .and_then(|rest| rest.split_once('/'));
        let Some((server, id)) = found else {
            return Err(SendError::Rejected {
                reason: format!("{mxc:?} is no mxc: address"),
            }
            .into());
        };
        let place = format!("{}/{}", quote(server), quote(id));
        let path = format!("/_matrix/client/v1/media/download/{place}");
        let response = match self.respond(&Method::GET, &path, |request| request).await {
            // A server from before authenticated media (v1.11).
            Err(failed) if failed.code == "M_UNRECOGNIZED" => {
                let path = format!("/_matrix/media/v3/download/{place}");
                self.respond(&Method::GET, &path, |request| request).await?
            }
            other => other?,
        };
        Ok(web::body(response, bytes_max).await?)
    }
}

/// A text that the server must have sent.
fn field(value: &Value, name: &str) -> Result<String, Failed> {
    match value[name].as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(SendError::Unknown {
            reason: format!("the server's answer has no {name}"),
        }
        .into()),
    }
}

pub(super) fn event_id(value: &Value) -> Result<String, SendError> {
    field(value, "event_id").map_err(|failed| failed.error)
}

async fn answer(request: RequestBuilder) -> Result<Value, Failed> {
    read(sent(request).await?).await
}

async fn read(response: Response) -> Result<Value, Failed> {
    let body = web::body(response, ANSWER_BYTES_MAX).await?;
    serde_json::from_slice(&body).map_err(|error| {
        SendError::Unknown {
            reason: format!("the server's answer is not JSON: {error}"),
        }
        .into()
    })
}

async fn sent(request: RequestBuilder) -> Result<Response, Failed> {
    let response = request.send().await.map_err(|error| web::failed(&error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let header = web::retry_after(&response);
    let body = web::body(response, 64 << 10).await.unwrap_or_default();
    let said: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let code = said["errcode"].as_str().unwrap_or_default().to_owned();
    let reason = match said["error"].as_str() {
        Some(text) => format!("{code}: {}", web::head(text)),
        None => format!("HTTP {status}"),
    };
    let error = match (status.as_u16(), code.as_str()) {
        (_, "M_UNKNOWN_TOKEN" | "M_MISSING_TOKEN" | "M_USER_DEACTIVATED" | "M_USER_LOCKED") => {
            SendError::Unauthorized { reason }
        }
        (429, _) | (_, "M_LIMIT_EXCEEDED") => SendError::Retry {
            after: said["retry_after_ms"]
                .as_u64()
                .map(Duration::from_millis)
                .or(header),
            reason,
        },
        // 403 is about this room or this request, not about the account.
        (403, _) => SendError::Rejected { reason },
        _ => match web::refused(status, header, &reason) {
            SendError::Retry { after, .. } => SendError::Retry { after, reason },
            SendError::Unauthorized { .. } => SendError::Unauthorized { reason },
            _ => SendError::Rejected { reason },
        },
    };
    Err(Failed { code, error })
}
