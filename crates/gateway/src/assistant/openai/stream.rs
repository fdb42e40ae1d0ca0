//! The answer of a turn as server-sent events, while it is made.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use store::RunState;
use tokio::sync::mpsc;

use super::super::{Live, Outcome};
use super::request::Must;
use super::{NO_ANSWER, Refusal, finish, usage};
use crate::ingress::http::Body;

/// What every chunk of one answer says of it.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

/// Chunks that wait for a slow client; what is said meanwhile goes into the next one.
const CHUNKS_WAITING_MAX: usize = 4;

pub(super) fn respond(
    identity: Identity,
    live: Arc<Live>,
    include_usage: bool,
    must: Option<Must>,
) -> Response<Body> {
    let (out, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
    tokio::spawn(async move {
        if tell(&identity, &live, include_usage, must.as_ref(), &out)
            .await
            .is_err()
        {
            // The client went away, and takes its turn with it.
            live.abort();
        }
    });
    events(chunks)
}

/// What `out` is given, as it comes. Whoever holds the other end is told when nobody reads any more.
pub(super) fn channel() -> (mpsc::Sender<Bytes>, Response<Body>) {
    let (out, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
    (out, events(chunks))
}

fn events(chunks: mpsc::Receiver<Bytes>) -> Response<Body> {
    let body = Events(chunks).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONNECTION, "keep-alive"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Nobody reads any more.
pub(super) struct Gone;

/// Hands out the text of a turn as it grows, piece by piece, and its outcome. What must have a call is held back until it does.
pub(super) async fn follow(
    live: &Arc<Live>,
    must: Option<&Must>,
    out: &mpsc::Sender<Bytes>,
    mut piece: impl FnMut(&str) -> Bytes,
) -> Result<Outcome, Gone> {
    let mut grown = live.grown.subscribe();
    let ended = live.ended();
    tokio::pin!(ended);
    let mut told = 0;
    loop {
        let outcome = tokio::select! {
            outcome = &mut ended => Some(outcome),
            _ = grown.changed() => None,
            () = out.closed() => return Err(Gone),
        };
        let lacks = outcome
            .as_ref()
            .and_then(|outcome| Must::lacks(must, &outcome.calls));
        match outcome {
            None if must.is_some() => continue,
            Some(outcome) if lacks.is_some() => return Ok(outcome),
            _ => {}
        }
        // Blanks at the end wait for what follows them: they may turn out to be the end. The outcome has the text of the last
        // round alone; what was said before a tool's call has been told and stays.
        let mut text = live.text().trim_end().to_owned();
        if let Some(outcome) = outcome.as_ref().filter(|it| it.state == RunState::Ok)
            && text.is_empty()
        {
            text = match outcome.text.is_empty() && outcome.calls.is_empty() {
                true => NO_ANSWER.to_owned(),
                false => outcome.text.clone(),
            };
        }
        if let Some(more) = text.get(told..)
            && !more.is_empty()
        {
            out.send(piece(more)).await.map_err(|_closed| Gone)?;
            told = text.len();
        }
        if let Some(outcome) = outcome {
            return Ok(outcome);
        }
    }
}

async fn tell(
    identity: &Identity,
    live: &Arc<Live>,
    include_usage: bool,
    must: Option<&Must>,
    out: &mpsc::Sender<Bytes>,
) -> Result<(), Gone> {
    let chunk = |more: Value| {
        let mut chunk = json!({
            "id": identity.id, "object": "chat.completion.chunk", "created": identity.created, "model": identity.model,
        });
        if let (Some(chunk), Value::Object(more)) = (chunk.as_object_mut(), more) {
            chunk.extend(more);
        }
        event(&chunk.to_string())
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] }))
    };
    let send = async |bytes: Bytes| out.send(bytes).await.map_err(|_closed| Gone);
    send(delta(json!({ "role": "assistant" }), Value::Null)).await?;
    let outcome = follow(live, must, out, |more| {
        delta(json!({ "content": more }), Value::Null)
    })
    .await?;
    let lacks = Must::lacks(must, &outcome.calls);
    if let (RunState::Ok, Some(why)) = (outcome.state, lacks) {
        let refusal = Refusal::new(StatusCode::BAD_GATEWAY, "api_error", why);
        send(event(&refusal.error().to_string())).await?;
    } else if outcome.state == RunState::Ok {
        for (index, call) in outcome.calls.iter().enumerate() {
            let function = json!({ "name": call.name, "arguments": "" });
            let begun =
                json!({ "index": index, "id": call.id, "type": "function", "function": function });
            let rest = json!({ "index": index, "function": { "arguments": call.arguments } });
            for piece in [begun, rest] {
                send(delta(json!({ "tool_calls": [piece] }), Value::Null)).await?;
            }
        }
        send(delta(json!({}), json!(finish(&outcome)))).await?;
        if include_usage {
            send(chunk(json!({ "choices": [], "usage": usage(&outcome) }))).await?;
        }
    } else {
        send(event(&Refusal::failed(&outcome).error().to_string())).await?;
    }
    send(event("[DONE]")).await
}

fn event(data: &str) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}

/// A body of events as they come.
struct Events(mpsc::Receiver<Bytes>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
