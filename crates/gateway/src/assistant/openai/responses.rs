//! `/v1/responses`: items in, one message out, whole or as events.
//!
//! Source: openresponses-http.ts and open-responses.schema.ts at 2026.9.6.

use std::collections::VecDeque;
use std::sync::Arc;

use agent::Sampling;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::RunState;
use tokio::sync::mpsc;

use super::request::{Asked, CallerTools, Must, Said};
use super::stream::{self, Gone};
use super::{
    Live, Outcome, Refusal, answer, assistant, begin, content, finish, model_of, outcome_for, read,
    route,
};
use crate::app::App;
use crate::clock;
use crate::config::type_name;
use crate::ingress::http::Body;

/// How long, and how many, answers can be continued by `previous_response_id`.
const CONTINUED_MS: u64 = 30 * 60 * 1000;
const CONTINUED_MAX: usize = 500;

/// Which conversation an answer was given in, for whom.
#[derive(Debug, Default)]
pub(in crate::assistant) struct Continued(Mutex<VecDeque<Known>>);

#[derive(Debug)]
struct Known {
    response: String,
    whose: String,
    session_key: String,
    at_ms: u64,
}

impl Continued {
    fn note(&self, response: &str, whose: String, session_key: String) {
        let mut known = self.0.lock();
        known.push_back(Known {
            response: response.to_owned(),
            whose,
            session_key,
            at_ms: clock::now_ms(),
        });
        while known.len() > CONTINUED_MAX {
            known.pop_front();
        }
    }

    fn find(&self, response: &str, whose: &str) -> Option<String> {
        let oldest_ms = clock::now_ms().saturating_sub(CONTINUED_MS);
        let mut known = self.0.lock();
        known.retain(|known| known.at_ms >= oldest_ms);
        let found = known
            .iter()
            .find(|known| known.response == response && known.whose == whose);
        found.map(|known| known.session_key.clone())
    }
}

/// Who may continue an answer: the same secret or person, agent and named conversation.
fn whose(headers: &HeaderMap, agent: &str, user: Option<&str>) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for name in [header::AUTHORIZATION.as_str(), "x-openclaw-session-key"] {
        let value = headers.get(name).map_or(&b""[..], |value| value.as_bytes());
        context.update(value.trim_ascii());
        context.update(&[0]);
    }
    // A trusted proxy's clients have no secret of their own.
    context.update(user.unwrap_or_default().as_bytes());
    let digest = context.finish();
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("{agent}:{}", hex.collect::<String>())
}

pub(super) async fn create(
    app: &Arc<App>,
    request: Request<Incoming>,
    user: Option<&str>,
) -> Result<Response<Body>, Refusal> {
    let assistant = assistant(app)?;
    let (headers, body) = read(request, super::BODY_BYTES_MAX).await?;
    let asked = asked(&body)?;
    let (agent, fresh) = route(app, &headers, &asked, "openresponses")?;
    let named = model_of(app, &assistant, &headers, &agent)?;
    let said = said(&body)?;
    let whose = whose(&headers, &agent, user);
    let previous = body["previous_response_id"].as_str();
    let continued = previous.and_then(|id| assistant.continued.find(id, &whose));
    drop(body);
    let session_key = continued.unwrap_or(fresh);
    let resource = Resource {
        id: format!("resp_{}", uuid::Uuid::new_v4()),
        item: format!("msg_{}", uuid::Uuid::new_v4()),
        created_at: clock::now_ms() / 1000,
        model: asked.model.clone(),
    };
    assistant
        .continued
        .note(&resource.id, whose, session_key.clone());
    let must = asked.tools.must.clone();
    let input = said.into_input(
        resource.id.clone(),
        (agent, session_key),
        named,
        asked.sampling,
        asked.tools,
    );
    let live = begin(app, &assistant, input).await?;
    if asked.is_stream {
        let (out, response) = stream::channel();
        tokio::spawn(async move {
            if resource.tell(&live, must.as_ref(), &out).await.is_err() {
                // The client went away, and takes its turn with it.
                live.abort();
            }
        });
        return Ok(response);
    }
    let outcome = outcome_for(&live).await;
    let lacks = Must::lacks(must.as_ref(), &outcome.calls);
    Ok(match (outcome.state, lacks) {
        (RunState::Ok, Some(why)) => answer(
            StatusCode::BAD_GATEWAY,
            &resource.failed(&outcome, Some(&why)),
        ),
        (RunState::Ok, None) => {
            let calls = Resource::calls(&outcome);
            answer(
                StatusCode::OK,
                &resource.ended(content(&outcome), calls, &outcome),
            )
        }
        // The reason is the provider's, so it is no fault of the request.
        _ => answer(StatusCode::BAD_GATEWAY, &resource.failed(&outcome, None)),
    })
}

struct Resource {
    id: String,
    /// Of its one message.
    item: String,
    created_at: u64,
    model: String,
}

impl Resource {
    fn is(&self, status: &str, output: Value, usage: Value) -> Value {
        json!({
            "id": self.id, "object": "response", "created_at": self.created_at, "status": status, "model": self.model,
            "output": output, "usage": usage,
        })
    }

    fn message(&self, text: &str, outcome: &Outcome) -> Value {
        let phase = match outcome.calls.is_empty() {
            true => "final_answer",
            false => "commentary",
        };
        json!({
            "type": "message", "id": self.item, "role": "assistant",
            "content": [{ "type": "output_text", "text": text }], "phase": phase, "status": status(outcome),
        })
    }

    /// The calls that are the caller's to make, as items.
    fn calls(outcome: &Outcome) -> Vec<Value> {
        let calls = outcome.calls.iter().map(|call| {
            json!({
                "type": "function_call", "id": format!("call_{}", uuid::Uuid::new_v4()), "call_id": call.id,
                "name": call.name, "arguments": call.arguments,
            })
        });
        calls.collect()
    }

    fn ended(&self, text: &str, calls: Vec<Value>, outcome: &Outcome) -> Value {
        let status = status(outcome);
        // Nothing need be said with a call.
        let said = (!text.is_empty() || calls.is_empty()).then(|| self.message(text, outcome));
        let output: Value = said.into_iter().chain(calls).collect();
        let mut whole = self.is(status, output, usage(Some(outcome)));
        if status == "incomplete" {
            whole["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        whole
    }

    fn failed(&self, outcome: &Outcome, lacks: Option<&str>) -> Value {
        let why = lacks.or(outcome.error.as_deref());
        let why = why.unwrap_or("the turn failed");
        let mut whole = self.is("failed", json!([]), usage(Some(outcome)));
        whole["error"] = json!({ "code": "api_error", "message": why });
        whole
    }

    /// The answer as events, while it is made.
    async fn tell(
        &self,
        live: &Arc<Live>,
        must: Option<&Must>,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<(), Gone> {
        let send = async |event: Value| out.send(named(&event)).await.map_err(|_closed| Gone);
        let begun = self.is("in_progress", json!([]), usage(None));
        for kind in ["response.created", "response.in_progress"] {
            send(json!({ "type": kind, "response": begun })).await?;
        }
        let item = json!({
            "type": "message", "id": self.item, "role": "assistant", "content": [], "status": "in_progress",
        });
        let added = "response.output_item.added";
        send(json!({ "type": added, "output_index": 0, "item": item })).await?;
        let part = |kind: &str, text: &str| {
            let part = json!({ "type": "output_text", "text": text });
            json!({ "type": kind, "item_id": self.item, "output_index": 0, "content_index": 0, "part": part })
        };
        send(part("response.content_part.added", "")).await?;
        let of_text = |kind: &str, key: &str, text: &str| {
            let mut event = json!({ "type": kind, "item_id": self.item, "output_index": 0, "content_index": 0 });
            event[key] = json!(text);
            event
        };
        let mut whole = String::new();
        let outcome = stream::follow(live, must, out, |more| {
            whole.push_str(more);
            named(&of_text("response.output_text.delta", "delta", more))
        })
        .await?;
        let lacks = Must::lacks(must, &outcome.calls);
        if outcome.state == RunState::Ok && lacks.is_none() {
            send(of_text("response.output_text.done", "text", &whole)).await?;
            send(part("response.content_part.done", &whole)).await?;
            let item = self.message(&whole, &outcome);
            let done = "response.output_item.done";
            send(json!({ "type": done, "output_index": 0, "item": item })).await?;
            let mut calls = Self::calls(&outcome);
            for (index, call) in calls.iter_mut().enumerate() {
                let index = index + 1;
                send(json!({ "type": added, "output_index": index, "item": call })).await?;
                call["status"] = json!("completed");
                send(json!({ "type": done, "output_index": index, "item": call })).await?;
            }
            let kind = format!("response.{}", status(&outcome));
            let response = self.ended(&whole, calls, &outcome);
            send(json!({ "type": kind, "response": response })).await?;
        } else {
            let response = self.failed(&outcome, lacks.as_deref());
            send(json!({ "type": "response.failed", "response": response })).await?;
        }
        let end = Bytes::from_static(b"data: [DONE]\n\n");
        out.send(end).await.map_err(|_closed| Gone)
    }
}

fn named(event: &Value) -> Bytes {
    let kind = event["type"].as_str().unwrap_or_default();
    Bytes::from(format!("event: {kind}\ndata: {event}\n\n"))
}

fn status(outcome: &Outcome) -> &'static str {
    match finish(outcome) {
        "length" => "incomplete",
        _ => "completed",
    }
}

/// Source: `toOpenAiResponsesUsage`.
fn usage(outcome: Option<&Outcome>) -> Value {
    let counted = outcome.map(|outcome| &outcome.meta["agentMeta"]["usage"]);
    let count = |name: &str| {
        counted
            .and_then(|counted| counted[name].as_u64())
            .unwrap_or(0)
    };
    let (read, write) = (count("cacheRead"), count("cacheWrite"));
    let (input, output) = (count("input") + read + write, count("output"));
    json!({
        "input_tokens": input,
        "input_tokens_details": { "cached_tokens": read, "cache_write_tokens": write },
        "output_tokens": output,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": count("total").max(input + output),
    })
}

/// What is asked for, but the conversation.
///
/// # Errors
/// The first thing that is wrong with it, in the original's words.
fn asked(body: &Value) -> Result<Asked, Refusal> {
    let wrong = |name: &str, expected: &str, value: Option<&Value>| {
        let received = value.map_or("undefined", type_name);
        Refusal::invalid(format!(
            "{name}: Invalid input: expected {expected}, received {received}"
        ))
    };
    if !body.is_object() {
        return Err(wrong("", "object", Some(body)));
    }
    let check = |name: &str, expected: &str, good: fn(&Value) -> bool| match body.get(name) {
        Some(value) if !good(value) => Err(wrong(name, expected, Some(value))),
        _ => Ok(()),
    };
    if !body.get("model").is_some_and(Value::is_string) {
        return Err(wrong("model", "string", body.get("model")));
    }
    if !(body["input"].is_string() || body["input"].is_array()) {
        return Err(Refusal::invalid("input: Invalid input"));
    }
    check("instructions", "string", Value::is_string)?;
    check("tools", "array", Value::is_array)?;
    check("stream", "boolean", Value::is_boolean)?;
    check("max_output_tokens", "number", Value::is_number)?;
    check("user", "string", Value::is_string)?;
    check("temperature", "number", Value::is_number)?;
    check("top_p", "number", Value::is_number)?;
    check("previous_response_id", "string", Value::is_string)?;
    let max_tokens = match body["max_output_tokens"].as_f64() {
        None => None,
        Some(tokens) if tokens <= 0.0 => {
            let why = "max_output_tokens: Too small: expected number to be >0";
            return Err(Refusal::invalid(why));
        }
        Some(tokens) if tokens.fract() != 0.0 => {
            let why = "max_output_tokens: Invalid input: expected int, received number";
            return Err(Refusal::invalid(why));
        }
        Some(_) => body["max_output_tokens"].as_u64(),
    };
    Ok(Asked {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        user: body["user"].as_str().unwrap_or_default().to_owned(),
        is_stream: body["stream"] == true,
        include_usage: false,
        sampling: Sampling {
            max_tokens,
            temperature: body["temperature"].as_f64(),
            top_p: body["top_p"].as_f64(),
            ..Sampling::default()
        },
        tools: CallerTools::of(body)?,
    })
}

/// The conversation: items as the messages that chat completions are made of.
fn said(body: &Value) -> Result<Said, Refusal> {
    let mut messages = Vec::new();
    if let Some(instructions) = body["instructions"].as_str() {
        messages.push(json!({ "role": "system", "content": instructions }));
    }
    match &body["input"] {
        Value::String(text) => messages.push(json!({ "role": "user", "content": text })),
        items => {
            for item in items.as_array().into_iter().flatten() {
                messages.extend(message(item)?);
            }
        }
    }
    Said::in_messages(&Value::Array(messages), "input")
}

fn message(item: &Value) -> Result<Option<Value>, Refusal> {
    Ok(match item["type"].as_str() {
        // OpenAI's client leaves it out.
        Some("message") | None if item["role"].is_string() => {
            let content = match &item["content"] {
                Value::Array(parts) => {
                    let parts: Result<Vec<Value>, Refusal> = parts.iter().map(part).collect();
                    Value::Array(parts?)
                }
                other => other.clone(),
            };
            Some(json!({ "role": item["role"], "content": content }))
        }
        Some("function_call") => {
            let function = json!({ "name": item["name"], "arguments": item["arguments"] });
            let call = json!({ "id": item["call_id"], "type": "function", "function": function });
            Some(json!({ "role": "assistant", "content": "", "tool_calls": [call] }))
        }
        Some("function_call_output") => Some(json!({
            "role": "tool", "tool_call_id": item["call_id"], "content": item["output"],
        })),
        Some("reasoning" | "item_reference") => None,
        _ => return Err(Refusal::invalid("input: Invalid input")),
    })
}

fn part(part: &Value) -> Result<Value, Refusal> {
    match part["type"].as_str() {
        Some("input_text" | "output_text") => Ok(json!({ "type": "text", "text": part["text"] })),
        Some("input_image") => {
            let source = &part["source"];
            let url = match source["type"].as_str() {
                Some("base64") => {
                    let text = |key: &str| source[key].as_str().unwrap_or_default();
                    format!("data:{};base64,{}", text("media_type"), text("data"))
                }
                Some(_) => source["url"].as_str().unwrap_or_default().to_owned(),
                // As OpenAI's client writes it.
                None => part["image_url"].as_str().unwrap_or_default().to_owned(),
            };
            Ok(json!({ "type": "image_url", "image_url": { "url": url } }))
        }
        Some("input_file") => Err(Refusal::invalid(
            "input_file: this gateway's own agents read no files of a request; put its text into the message",
        )),
        _ => Err(Refusal::invalid("input: Invalid input")),
    }
}
