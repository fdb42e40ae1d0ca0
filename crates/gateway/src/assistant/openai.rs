//! `/v1/models`, `/v1/chat/completions` and `/v1/responses` for agents of ours, as OpenAI's clients speak them.
//!
//! Off until `gateway.http.endpoints.chatCompletions.enabled` and `responses.enabled`, as the original's. Source:
//! src/gateway/openai-http.ts, openresponses-http.ts, models-http.ts and http-utils.ts at 2026.9.6; `tests/assistant/openai.test.mjs` compares.

mod request;
mod responses;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use agent::ModelError;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use store::RunState;
use tokio::sync::Semaphore;
use wire::error::ErrorShape;

use super::{Accepted, Assistant, Input, Live, Outcome};
use crate::app::App;
use crate::auth::RemoteEnd;
use crate::clock;
use crate::ingress::http::{Body, full, text};
use crate::native::agents::{Ownership, Roster, normalize_id};
use crate::native::sessions::canonical_key;

pub(super) use responses::Continued;

const COMPLETIONS: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MODELS: &str = "/v1/models";
/// As the original's.
const BODY_BYTES_MAX: usize = 20 << 20;
/// How long a body may take to arrive: whoever stops in the middle holds one of the few places.
const BODY_PATIENCE: Duration = Duration::from_secs(60);
/// Requests that are being read at once; the others wait.
static READING: Semaphore = Semaphore::const_new(8);
/// Source: `AgentSelectionRequiredError`.
const NO_OWNER: &str = "Multiple agents are configured, but this operation has no explicit owner. Select an agent explicitly; CLI callers can pass --agent <id>, channels can add a binding, and ambient services can set their agentId target.";
const NO_ANSWER: &str = "No response from OpenClaw.";

pub(crate) fn is_ours(path: &str) -> bool {
    path == COMPLETIONS || path == RESPONSES || path == MODELS || path.starts_with("/v1/models/")
}

/// `None`: switched off, which is as if it were not there.
pub(crate) async fn respond(
    app: &Arc<App>,
    request: Request<Incoming>,
    peer: RemoteEnd,
) -> Option<Response<Body>> {
    let path = request.uri().path().to_owned();
    let is_on = |name: &str| {
        let facts = app.facts.load();
        let at = format!("/gateway/http/endpoints/{name}/enabled");
        facts.config.pointer(&at) == Some(&Value::Bool(true))
    };
    let (chat, responses) = (is_on("chatCompletions"), is_on("responses"));
    let is_there = match path.as_str() {
        COMPLETIONS => chat,
        RESPONSES => responses,
        _ => chat || responses,
    };
    if !is_there {
        return None;
    }
    let is_turn = path == COMPLETIONS || path == RESPONSES;
    let method = match is_turn {
        true => Method::POST,
        false => Method::GET,
    };
    if *request.method() != method {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        let allow = match method {
            Method::POST => "POST",
            _ => "GET",
        };
        let allow = HeaderValue::from_static(allow);
        response.headers_mut().insert(header::ALLOW, allow);
        return Some(response);
    }
    let scope = match (is_turn, request.headers().contains_key("x-openclaw-model")) {
        (true, true) => "operator.admin",
        (true, false) => "operator.write",
        (false, _) => "operator.read",
    };
    let admitted = crate::messages::api::admit(app, request.headers(), peer, scope).await;
    let user = match admitted {
        Ok(caller) => caller.user,
        Err(refusal) => return Some(*refusal),
    };
    if let Some(assistant) = app.assistant() {
        assistant.look(app).await;
    }
    let answered = match path.as_str() {
        COMPLETIONS => complete(app, request).await,
        RESPONSES => responses::create(app, request, user.as_deref()).await,
        _ => model(app, path.strip_prefix(MODELS).unwrap_or_default()),
    };
    Some(answered.unwrap_or_else(|refusal| refusal.response()))
}

/// What a client is told instead of an answer.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    fn of(error: &ErrorShape) -> Self {
        match error.code.as_str() {
            "INVALID_REQUEST" => Self::invalid(&error.message),
            _ => Self::new(StatusCode::SERVICE_UNAVAILABLE, "api_error", &error.message),
        }
    }

    /// Why a turn gave no answer. The reason is the provider's, so it is no fault of the request.
    fn failed(outcome: &Outcome) -> Self {
        let why = outcome.error.as_deref().unwrap_or("the turn failed");
        Self::new(StatusCode::BAD_GATEWAY, "api_error", why)
    }

    fn error(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind } })
    }

    pub(super) fn response(&self) -> Response<Body> {
        answer(self.status, &self.error())
    }
}

pub(super) fn answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// `/v1/models` and `/v1/models/{id}`: agents, not models of providers.
fn model(app: &App, rest: &str) -> Result<Response<Body>, Refusal> {
    let facts = app.facts.load();
    let roster = facts.inputs(0, 0).roster();
    let mut ids = vec!["openclaw".to_owned(), "openclaw/default".to_owned()];
    ids.push(format!("openclaw/{}", roster.default_id));
    for agent in &roster.agents {
        let id = format!("openclaw/{}", agent.id);
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let row = |id: &str| json!({ "id": id, "object": "model", "created": 0, "owned_by": "openclaw", "permission": [] });
    let Some(encoded) = rest.strip_prefix('/') else {
        let rows: Vec<Value> = ids.iter().map(|id| row(id)).collect();
        return Ok(answer(
            StatusCode::OK,
            &json!({ "object": "list", "data": rows }),
        ));
    };
    if encoded.is_empty() {
        return Err(Refusal::invalid("Missing model id."));
    }
    let id = percent_encoding::percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_not_utf8| Refusal::invalid("Invalid model id encoding."))?;
    if request::target(&id).is_none() {
        return Err(Refusal::invalid("Invalid model id."));
    }
    match ids.iter().any(|known| *known == id) {
        true => Ok(answer(StatusCode::OK, &row(&id))),
        false => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            format!("Model '{id}' not found."),
        )),
    }
}

/// The headers and the JSON of a body of so many bytes at most.
pub(super) async fn read(
    request: Request<Incoming>,
    bytes_max: usize,
) -> Result<(http::HeaderMap, Value), Refusal> {
    let (parts, body) = request.into_parts();
    let _turn = READING.acquire().await;
    let collected = Limited::new(body, bytes_max).collect();
    let bytes = tokio::time::timeout(BODY_PATIENCE, collected)
        .await
        .map_err(|_elapsed| {
            Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "invalid_request_error",
                "the body took too long",
            )
        })?
        .map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "invalid_request_error",
                "Payload too large",
            ),
            None => Refusal::invalid(error.to_string()),
        })?;
    let body = serde_json::from_slice(&bytes.to_bytes())
        .map_err(|error| Refusal::invalid(format!("the body is not JSON: {error}")))?;
    Ok((parts.headers, body))
}

fn assistant(app: &App) -> Result<Arc<Assistant>, Refusal> {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let starting = || Refusal::new(unavailable, "api_error", "the gateway is starting");
    app.assistant().cloned().ok_or_else(starting)
}

/// The model of a provider that the request names, if there is one to ask at all.
fn model_of(
    app: &App,
    assistant: &Assistant,
    headers: &http::HeaderMap,
    agent: &str,
) -> Result<Option<String>, Refusal> {
    let named = headers
        .get("x-openclaw-model")
        .map(|value| value.to_str().unwrap_or_default().trim());
    let named = named.filter(|name| !name.is_empty()).map(str::to_owned);
    if let Err(ModelError::None) = assistant.model(app, agent, named.as_deref()) {
        let why = "no model is configured: set agents.defaults.model and models.providers in openclaw.json";
        return Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "api_error",
            why,
        ));
    }
    Ok(named)
}

async fn begin(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    input: Input,
) -> Result<Arc<Live>, Refusal> {
    let mut leaving = Leaving(Some((Arc::clone(assistant), input.run_id.clone())));
    let accepted = assistant.accept(app, input).await;
    leaving.0 = None;
    match accepted {
        Ok(Accepted::Started(live) | Accepted::InFlight(live)) => Ok(live),
        Ok(Accepted::Ended(_)) => Err(Refusal::invalid("this run has ended")),
        Err(error) => Err(Refusal::of(&error)),
    }
}

async fn complete(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let assistant = assistant(app)?;
    let (headers, body) = read(request, BODY_BYTES_MAX).await?;
    let asked = request::Asked::of(&body)?;
    let (agent, key) = route(app, &headers, &asked, "openai")?;
    let named = model_of(app, &assistant, &headers, &agent)?;
    let said = request::Said::of(&body)?;
    drop(body);
    let run_id = format!("chatcmpl_{}", uuid::Uuid::new_v4());
    let identity = stream::Identity {
        id: run_id.clone(),
        created: clock::now_ms() / 1000,
        model: asked.model.clone(),
    };
    let must = asked.tools.must.clone();
    let input = said.into_input(run_id, (agent, key), named, asked.sampling, asked.tools);
    let live = begin(app, &assistant, input).await?;
    if asked.is_stream {
        return Ok(stream::respond(identity, live, asked.include_usage, must));
    }
    let outcome = outcome_for(&live).await;
    if outcome.state != RunState::Ok {
        return Err(Refusal::failed(&outcome));
    }
    if let Some(why) = request::Must::lacks(must.as_ref(), &outcome.calls) {
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, "api_error", why));
    }
    let mut message = json!({ "role": "assistant", "content": content(&outcome) });
    if !outcome.calls.is_empty() {
        let calls = outcome.calls.iter().map(|call| {
            json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } })
        });
        message["tool_calls"] = calls.collect();
    }
    Ok(answer(
        StatusCode::OK,
        &json!({
            "id": identity.id, "object": "chat.completion", "created": identity.created, "model": identity.model,
            "choices": [{
                "index": 0, "message": message, "finish_reason": finish(&outcome),
            }],
            "usage": usage(&outcome),
        }),
    ))
}

/// The end of a turn. A client that goes away meanwhile takes the turn with it.
async fn outcome_for(live: &Arc<Live>) -> Outcome {
    let mut leaving = AbortOnDrop(Some(Arc::clone(live)));
    let outcome = live.ended().await;
    leaving.0 = None;
    outcome
}

fn content(outcome: &Outcome) -> &str {
    match outcome.text.is_empty() && outcome.calls.is_empty() {
        true => NO_ANSWER,
        false => &outcome.text,
    }
}

/// Whose agent, and which conversation.
fn route(
    app: &App,
    headers: &http::HeaderMap,
    asked: &request::Asked,
    prefix: &str,
) -> Result<(String, String), Refusal> {
    let text = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    };
    let facts = app.facts.load();
    let roster: Roster = facts.inputs(0, 0).roster();
    let target = match asked.model.trim() {
        "" => None,
        name => request::target(name).ok_or_else(|| {
            Refusal::invalid("Invalid `model`. Use `openclaw` or `openclaw/<agentId>`.")
        })?,
    };
    let named = text("x-openclaw-agent-id")
        .or_else(|| text("x-openclaw-agent"))
        .or(target);
    let agent = match named {
        None if roster.ownership != Ownership::Sole => return Err(Refusal::invalid(NO_OWNER)),
        None => roster.default_id.clone(),
        Some(name) if roster.get(&name).is_some() => normalize_id(&name),
        Some(name) => return Err(Refusal::invalid(format!("Unknown agent '{name}'."))),
    };
    if let Some(key) = text("x-openclaw-session-key") {
        let lower = key.to_lowercase();
        let reserved = ["subagent:", "cron:", "acp:"]
            .iter()
            .any(|space| lower.starts_with(space) || lower.contains(&format!(":{space}")));
        if reserved {
            let why = "`x-openclaw-session-key` cannot use reserved internal session namespaces.";
            return Err(Refusal::invalid(why));
        }
        let key = canonical_key(&roster, &key, Some(&agent));
        let owner = super::agent_for(app, &key);
        if roster.get(&owner).is_none() {
            return Err(Refusal::invalid(format!("Unknown agent '{owner}'.")));
        }
        return Ok((owner, key));
    }
    let name = match asked.user.trim() {
        "" => format!("{prefix}:{}", uuid::Uuid::new_v4()),
        user => format!("{prefix}-user:{}", user.to_lowercase()),
    };
    let key = format!("agent:{agent}:{name}");
    Ok((agent, key))
}

/// A client that goes away before its turn has begun: the turn ends when it begins.
struct Leaving(Option<(Arc<Assistant>, String)>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some((assistant, run_id)) = &self.0
            && let Some(live) = assistant.live(run_id)
        {
            live.abort();
        }
    }
}

struct AbortOnDrop(Option<Arc<Live>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(live) = &self.0 {
            live.abort();
        }
    }
}

fn finish(outcome: &Outcome) -> &'static str {
    match outcome.stop_reason.as_str() {
        _ if !outcome.calls.is_empty() => "tool_calls",
        "length" => "length",
        _ => "stop",
    }
}

/// Source: `toOpenAiChatCompletionsUsage`.
fn usage(outcome: &Outcome) -> Value {
    let counted = &outcome.meta["agentMeta"]["usage"];
    let count = |name: &str| counted[name].as_u64().unwrap_or(0);
    let (prompt, completion) = (count("input") + count("cacheRead"), count("output"));
    let mut out = json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": count("total").max(prompt + completion),
    });
    if count("cacheRead") > 0 {
        out["prompt_tokens_details"] = json!({ "cached_tokens": count("cacheRead") });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, in_time, input, until_entered};
    use super::*;

    #[tokio::test]
    async fn a_client_that_goes_away_before_its_turn_begins_takes_it_along() {
        let world = World::start();
        let beginning = async {
            let begun = begin(&world.app, &world.assistant, input("r", "hello")).await;
            begun.expect("it begins");
        };
        let live = until_entered(&world, "r", beginning).await;
        assert_eq!(in_time(live.ended()).await.state, RunState::Aborted);
        assert!(world.assistant.live("r").is_none());
    }
}
