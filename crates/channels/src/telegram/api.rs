//! Calls of the Bot API and what their errors mean.

use crate::web::{self, Http};
use crate::{ChannelError, SendError};
use bytes::Bytes;
use serde_json::Value;
use std::time::Duration;

/// An upload has this, and a second more for each half megabyte, up to what the gateway waits for one send (90 s).
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(40);
const UPLOAD_TIMEOUT_MAX: Duration = Duration::from_secs(85);
const UPLOAD_BYTES_PER_SECOND: u64 = 512 * 1024;
/// Largest answer to a call: 100 updates are well below.
const ANSWER_BYTES_MAX: u64 = 20 * 1024 * 1024;

pub(super) struct Api {
    http: Http,
    /// `https://api.telegram.org`, without a slash at the end.
    root: String,
    token: String,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The service said no.
    #[error("Telegram: {description} ({code})")]
    Refused {
        code: i64,
        description: String,
        retry_after: Option<Duration>,
        migrate_to: Option<i64>,
    },
    /// It said nothing that can be understood.
    #[error(transparent)]
    Transport(SendError),
}

impl ApiError {
    /// As the end of receiving.
    pub(super) fn receiving(self) -> ChannelError {
        match self {
            Self::Refused {
                code: 401 | 404,
                description,
                ..
            } => ChannelError::Unauthorized {
                reason: format!("{description}; is the bot token right?"),
            },
            Self::Refused {
                code: 409,
                description,
                ..
            } => ChannelError::Conflict {
                reason: description,
            },
            Self::Refused {
                description,
                retry_after,
                ..
            } => ChannelError::Disconnected {
                reason: description,
                after: retry_after,
            },
            Self::Transport(error) => ChannelError::Disconnected {
                reason: error.to_string(),
                after: None,
            },
        }
    }

    /// As the end of a send.
    pub(super) fn sending(self) -> SendError {
        match self {
            Self::Refused {
                code: 429,
                description,
                retry_after,
                ..
            } => SendError::Retry {
                after: retry_after,
                reason: description,
            },
            Self::Refused {
                code: 401 | 404,
                description,
                ..
            } => SendError::Unauthorized {
                reason: format!("{description}; is the bot token right?"),
            },
            // The Bot API itself says that it failed; what stands before it (a bare 502) does not come here.
            Self::Refused {
                code: 500..,
                description,
                ..
            } => SendError::Retry {
                after: None,
                reason: description,
            },
            Self::Refused {
                code, description, ..
            } => SendError::Rejected {
                reason: format!("{description} ({code})"),
            },
            Self::Transport(error) => error,
        }
    }
}

impl Api {
    pub(super) fn new(http: Http, root: &str, token: &str) -> Self {
        Self {
            http,
            root: root.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
        }
    }

    /// The `result` of a method.
    pub(super) async fn call(&self, method: &str, params: &Value) -> Result<Value, ApiError> {
        let request = self
            .http
            .post(&self.url(method))
            .map_err(ApiError::Transport)?
            .json(params);
        self.answer(request).await
    }

    /// As [`call`](Self::call), with files of so many bytes.
    pub(super) async fn upload(
        &self,
        method: &str,
        form: reqwest::multipart::Form,
        bytes: u64,
    ) -> Result<Value, ApiError> {
        let request = self
            .http
            .post(&self.url(method))
            .map_err(ApiError::Transport)?
            .timeout(upload_timeout(bytes))
            .multipart(form);
        self.answer(request).await
    }

    fn url(&self, method: &str) -> String {
        format!("{}/bot{}/{method}", self.root, self.token)
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Value, ApiError> {
        let response = request
            .send()
            .await
            .map_err(|error| ApiError::Transport(web::failed(&error)))?;
        let status = response.status();
        let body = web::body(response, ANSWER_BYTES_MAX)
            .await
            .map_err(ApiError::Transport)?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match answer["ok"].as_bool() {
            Some(true) => Ok(answer["result"].clone()),
            Some(false) => {
                let parameters = &answer["parameters"];
                Err(ApiError::Refused {
                    code: answer["error_code"]
                        .as_i64()
                        .unwrap_or_else(|| i64::from(status.as_u16())),
                    description: web::head(
                        answer["description"].as_str().unwrap_or("no description"),
                    ),
                    retry_after: parameters["retry_after"]
                        .as_u64()
                        .map(|s| Duration::from_secs(s.min(3600))),
                    migrate_to: parameters["migrate_to_chat_id"].as_i64(),
                })
            }
            None => {
                let text = String::from_utf8_lossy(&body);
                let reason = format!(
                    "HTTP {status} that is not an answer of the Bot API: {}",
                    web::head(&text)
                );
                // 4xx from whatever stands before it was not passed on; anything else may have been.
                Err(ApiError::Transport(if status.is_client_error() {
                    SendError::Retry {
                        after: None,
                        reason,
                    }
                } else {
                    SendError::Unknown { reason }
                }))
            }
        }
    }

    /// The content of a file by its `file_id`.
    pub(super) async fn download(&self, file_id: &str, bytes_max: u64) -> Result<Bytes, SendError> {
        let file = self
            .call("getFile", &serde_json::json!({ "file_id": file_id }))
            .await
            .map_err(ApiError::sending)?;
        let path = file["file_path"]
            .as_str()
            .ok_or_else(|| SendError::Rejected {
                reason: "Telegram no longer has this file".to_owned(),
            })?;
        if path.contains("..") || path.starts_with('/') {
            return Err(SendError::Rejected {
                reason: format!("a file path that leads elsewhere: {}", web::head(path)),
            });
        }
        let url = format!("{}/file/bot{}/{path}", self.root, self.token);
        let response = self
            .http
            .get(&url)?
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

fn upload_timeout(bytes: u64) -> Duration {
    let more = Duration::from_secs(bytes / UPLOAD_BYTES_PER_SECOND);
    UPLOAD_TIMEOUT.saturating_add(more).min(UPLOAD_TIMEOUT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_upload_has_longer() {
        for (megabytes, seconds) in [(0, 40), (10, 60), (20, 80), (50, 85)] {
            let timeout = upload_timeout(megabytes << 20);
            assert_eq!(timeout, Duration::from_secs(seconds), "{megabytes} MB");
        }
    }
}
