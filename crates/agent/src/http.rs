//! One streamed request: sending it, its refusals, and its lines, whatever the protocol inside.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, header};

use crate::sse::{Lines, data};
use crate::{CallError, Limits, Model, words_of};

/// An error body is read this far.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// How the pieces of an answer are told apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Server-sent events; a body of `application/json` is one piece.
    Events,
    /// A JSON text on each line.
    Lines,
}

/// Takes one piece; `true` when the answer is whole.
pub(crate) type Take<'a> = dyn FnMut(&str) -> Result<bool, CallError> + Send + 'a;

/// Sends a request and hands its pieces to `take` until that has enough or the body ends.
///
/// # Errors
/// See [`CallError`]; those of `take` as they are.
pub(crate) async fn stream(
    model: &Model,
    request: RequestBuilder,
    limits: &Limits,
    framing: Framing,
    take: &mut Take<'_>,
) -> Result<(), CallError> {
    let mut request = request;
    for (name, value) in &model.headers {
        request = request.header(name, value);
    }
    let provider = || model.provider.clone();
    let response = match tokio::time::timeout(limits.first_byte, request.send()).await {
        Err(_elapsed) => {
            return Err(CallError::TimedOut {
                provider: provider(),
                after: limits.first_byte,
            });
        }
        Ok(Err(error)) => {
            return Err(CallError::Unreachable {
                provider: provider(),
                why: chain(&error),
            });
        }
        Ok(Ok(response)) => response,
    };
    if !response.status().is_success() {
        return Err(refused(model, response, limits).await);
    }
    read(model, response, limits, framing, take).await
}

async fn read(
    model: &Model,
    mut response: Response,
    limits: &Limits,
    framing: Framing,
    take: &mut Take<'_>,
) -> Result<(), CallError> {
    let is_whole = framing == Framing::Events
        && response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/json"));
    let mut lines = Lines::new(if is_whole {
        limits.text_bytes_max
    } else {
        limits.line_bytes_max
    });
    loop {
        let piece = match tokio::time::timeout(limits.idle, response.chunk()).await {
            Err(_elapsed) => {
                return Err(broke_off(
                    model,
                    &format!("nothing came for {:?}", limits.idle),
                ));
            }
            Ok(Err(error)) => return Err(broke_off(model, &chain(&error))),
            Ok(Ok(piece)) => piece,
        };
        let Some(piece) = piece else { break };
        lines.push(&piece).map_err(|why| garbage(model, why))?;
        while !is_whole && let Some(line) = lines.next() {
            if let Some(piece) = piece_of(&line, framing)
                && take(piece)?
            {
                return Ok(());
            }
        }
    }
    let Some(rest) = lines.rest() else {
        return Ok(());
    };
    let piece = match is_whole {
        true => Some(rest.trim()),
        false => piece_of(&rest, framing),
    };
    match piece {
        Some(piece) => take(piece).map(drop),
        None => Ok(()),
    }
}

fn piece_of(line: &str, framing: Framing) -> Option<&str> {
    let piece = match framing {
        Framing::Events => data(line)?,
        Framing::Lines => line,
    };
    Some(piece.trim()).filter(|piece| !piece.is_empty())
}

pub(crate) fn broke_off(model: &Model, why: &str) -> CallError {
    CallError::BrokeOff {
        provider: model.provider.clone(),
        why: why.to_owned(),
    }
}

pub(crate) fn garbage(model: &Model, why: impl Into<String>) -> CallError {
    CallError::Garbage {
        provider: model.provider.clone(),
        why: why.into(),
    }
}

async fn refused(model: &Model, mut response: Response, limits: &Limits) -> CallError {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(after);
    let mut body = Vec::new();
    while body.len() < ERROR_BYTES_MAX {
        match tokio::time::timeout(limits.idle, response.chunk()).await {
            Ok(Ok(Some(piece))) => body.extend_from_slice(&piece),
            _ => break,
        }
    }
    CallError::Refused {
        provider: model.provider.clone(),
        status,
        message: words_of(&String::from_utf8_lossy(&body)),
        retry_after,
    }
}

/// `Retry-After`: seconds or a date.
fn after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value.trim()).ok()?;
    date.duration_since(std::time::SystemTime::now()).ok()
}

/// An error and its causes; reqwest keeps the telling part in them.
fn chain(error: &reqwest::Error) -> String {
    let mut words = Vec::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let said = error.to_string();
        if words.last() != Some(&said) {
            words.push(said);
        }
        next = error.source();
    }
    // The address may hold a key in its query.
    let url = error.url().map(|url| url.as_str().to_owned());
    let text = words.join(": ");
    match url {
        Some(url) => text.replace(&url, "its address"),
        None => text,
    }
}
