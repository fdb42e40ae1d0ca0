//! The files of a message: fetched, or an agent's own, and fitted to what its service takes.

use std::path::{Path, PathBuf};

use channels::message::Attachment;
use channels::{Capabilities, SendError};

use super::fit;
use super::prepare::{self, Media};
use crate::messages::Messages;

/// File `n` of a message as its service takes it.
pub(super) async fn file(
    messages: &Messages,
    id: &str,
    n: usize,
    media: &Media,
    limits: &Capabilities,
) -> Result<Attachment, SendError> {
    // A picture can be made smaller.
    let bytes_max = limits.media_bytes_max.max(fit::PICTURE_BYTES_MAX);
    let file = fetch(messages, id, n, media, bytes_max).await?;
    let made = messages.media_dir.join(format!("{id}-{n}-fitted"));
    let fetched = PathBuf::from(&file.source);
    let fitted = fit::fit(file, limits, &made, &messages.fitting).await;
    let is_needless = match &fitted {
        Ok(fitted) => Path::new(&fitted.source) != fetched,
        Err(_) => true,
    };
    if is_needless {
        forget(&messages.media_dir, &fetched).await;
    }
    fitted
}

/// The file of a message on this disk: fetched, or one that the agent made.
async fn fetch(
    messages: &Messages,
    id: &str,
    n: usize,
    media: &Media,
    bytes_max: u64,
) -> Result<Attachment, SendError> {
    let rejected = |reason: String| SendError::Rejected { reason };
    let is_url = media.source.starts_with("http://") || media.source.starts_with("https://");
    let (path, mime) = if is_url {
        let http = channels::web::Http::new(&channels::web::HttpOptions {
            reach: channels::web::Reach::Public,
            ..channels::web::HttpOptions::default()
        })
        .map_err(|error| rejected(error.to_string()))?;
        let response = http
            .get(&media.source)?
            .send()
            .await
            .map_err(|error| SendError::Retry {
                after: None,
                reason: channels::web::describe(&error),
            })?;
        if !response.status().is_success() {
            let status = response.status();
            let why = |text: String| format!("the file answers {text}");
            return Err(match channels::web::refused(status, None, "") {
                SendError::Retry { after, reason } => SendError::Retry {
                    after,
                    reason: why(reason),
                },
                _ => rejected(why(format!("HTTP {status}"))),
            });
        }
        let mime = response
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .map(|value| {
                value
                    .split(';')
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            });
        let bytes = channels::web::body(response, bytes_max).await;
        let bytes = bytes.map_err(|error| match error {
            // Nothing was sent yet.
            SendError::Unknown { reason } => SendError::Retry {
                after: None,
                reason,
            },
            error => error,
        })?;
        tokio::fs::create_dir_all(&messages.media_dir)
            .await
            .map_err(|error| rejected(error.to_string()))?;
        let path = messages.media_dir.join(format!("{id}-{n}"));
        tokio::fs::write(&path, &bytes)
            .await
            .map_err(|error| SendError::Retry {
                after: None,
                reason: format!("{}: {error}", path.display()),
            })?;
        (path, mime)
    } else {
        let path = tokio::fs::canonicalize(&media.source)
            .await
            .map_err(|error| rejected(format!("{}: {error}", media.source)))?;
        if !messages
            .file_roots
            .iter()
            .any(|root| path.starts_with(root))
        {
            return Err(rejected(format!(
                "{} is outside the agents' folders",
                media.source
            )));
        }
        (path, None)
    };
    let bytes = tokio::fs::metadata(&path).await.map(|meta| meta.len()).ok();
    if bytes.is_some_and(|bytes| bytes > bytes_max) {
        return Err(rejected(format!(
            "{} is larger than the {bytes_max} bytes that this service takes",
            media.source
        )));
    }
    let name = media
        .source
        .split(['?', '#'])
        .next()
        .and_then(|url| url.rsplit('/').next());
    Ok(Attachment {
        source: path.display().to_string(),
        name: name.filter(|name| !name.is_empty()).map(str::to_owned),
        mime: mime.or_else(|| prepare::guess_mime(&media.source).map(str::to_owned)),
        bytes,
        voice: media.voice,
        as_file: false,
    })
}

/// Removes what was fetched; an agent's own file stays.
pub(super) async fn forget(media_dir: &Path, path: &Path) {
    if path.starts_with(media_dir)
        && let Err(error) = tokio::fs::remove_file(path).await
    {
        tracing::debug!(%error, "a sent file could not be removed");
    }
}
