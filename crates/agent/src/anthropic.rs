//! Anthropic messages, streamed.
//!
//! Source: the published API reference (`POST /v1/messages`, version 2023-06-01). The instructions and the end of the
//! conversation are marked for the provider's prompt cache: a turn with tools sends both again and again.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::http::{self, Framing};
use crate::{
    Answer, CallError, Completion, Limits, Message, Model, Part, Piece, Prompt, thinking, words_of,
};

const VERSION: &str = "2023-06-01";

/// Sampling, by this provider's names.
const NAMES: crate::Names = crate::Names {
    temperature: "temperature",
    top_p: "top_p",
    frequency_penalty: "",
    presence_penalty: "",
    seed: "",
    stop: "stop_sequences",
};

pub(crate) fn body_of(model: &Model, prompt: &Prompt) -> Value {
    let (system, messages): (Vec<&Message>, Vec<&Message>) = prompt
        .messages
        .iter()
        .partition(|message| message.role == "system");
    let system: Vec<&str> = system
        .iter()
        .flat_map(|message| &message.parts)
        .filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in messages {
        let role = if message.role == "assistant" {
            "assistant"
        } else {
            "user"
        };
        let blocks = message.parts.iter().filter_map(block_of);
        match turns.last_mut() {
            // Results and what is said after them are one turn.
            Some((last, kept)) if *last == role => kept.extend(blocks),
            _ => turns.push((role, blocks.collect())),
        }
    }
    turns.retain(|(_, blocks)| !blocks.is_empty());
    if turns.first().is_none_or(|(role, _)| *role != "user") {
        let text = json!({ "type": "text", "text": "(Earlier messages are left out.)" });
        turns.insert(0, ("user", vec![text]));
    }
    // Of the calls that this turn goes on after: whether they came without a thought before them.
    let resumes = match turns.as_slice() {
        [.., (_, calls), (_, results)] => {
            results.iter().any(|block| block["type"] == "tool_result")
                && calls.first().is_some_and(|block| !is_thought(block))
        }
        _ => false,
    };
    let cached = json!({ "type": "ephemeral" });
    if let Some(last) = turns.last_mut().and_then(|(_, blocks)| blocks.last_mut()) {
        last["cache_control"] = cached.clone();
    }
    let messages: Vec<Value> = turns
        .into_iter()
        .map(|(role, content)| json!({ "role": role, "content": content }))
        .collect();
    let mut body = json!({
        "model": model.id,
        "max_tokens": prompt.sampling.max_tokens.unwrap_or(model.max_tokens),
        "stream": true,
        "messages": messages,
    });
    if !system.is_empty() {
        body["system"] =
            json!([{ "type": "text", "text": system.join("\n\n"), "cache_control": cached }]);
    }
    if !prompt.tools.is_empty() {
        body["tools"] = prompt
            .tools
            .iter()
            .map(|tool| {
                json!({ "name": tool.name, "description": tool.description, "input_schema": tool.parameters })
            })
            .collect();
    }
    prompt.sampling.write(&mut body, &NAMES);
    thinking::anthropic(
        &mut body,
        model,
        prompt.sampling.thinking.unwrap_or_default(),
        resumes,
    );
    body
}

fn is_thought(block: &Value) -> bool {
    block["type"] == "thinking" || block["type"] == "redacted_thinking"
}

fn block_of(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text(text) if text.trim().is_empty() => return None,
        Part::Text(text) => json!({ "type": "text", "text": text }),
        Part::Image { data, mime } => json!({
            "type": "image", "source": { "type": "base64", "media_type": mime, "data": data },
        }),
        Part::Thought(thought) => {
            let signature = thought.signature.as_ref()?;
            match thought.is_redacted {
                true => json!({ "type": "redacted_thinking", "data": signature }),
                false => json!({
                    "type": "thinking", "thinking": thought.text, "signature": signature,
                }),
            }
        }
        Part::Call(call) => json!({
            "type": "tool_use", "id": id_of(&call.id), "name": call.name, "input": crate::object_of(&call.arguments),
        }),
        Part::Result(result) => json!({
            "type": "tool_result", "tool_use_id": id_of(&result.call_id), "content": result.text, "is_error": result.is_error,
        }),
    })
}

/// Ids of other providers hold what this one refuses.
fn id_of(id: &str) -> String {
    id.chars()
        .map(|char| match char {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => char,
            _ => '_',
        })
        .take(64)
        .collect()
}

pub(crate) async fn complete(
    client: &reqwest::Client,
    model: &Model,
    prompt: &Prompt,
    limits: &Limits,
    on: &mut (dyn FnMut(Piece) + Send),
) -> Result<Completion, CallError> {
    let base = model
        .base_url
        .strip_suffix("/v1")
        .unwrap_or(&model.base_url);
    let mut request = client
        .post(format!("{base}/v1/messages"))
        .header("anthropic-version", VERSION)
        .json(&body_of(model, prompt));
    if let Some(key) = &model.api_key {
        request = match model.is_bearer {
            true => request.bearer_auth(key),
            false => request.header("x-api-key", key),
        };
    }
    let mut answer = Answer::new(model, limits, on);
    let mut calls = HashMap::new();
    http::stream(model, request, limits, Framing::Events, &mut |data| {
        take(&mut answer, &mut calls, data)
    })
    .await?;
    answer.finish()
}

/// `calls`: which block is which call.
fn take(
    answer: &mut Answer<'_>,
    calls: &mut HashMap<u64, usize>,
    data: &str,
) -> Result<bool, CallError> {
    let event: Value = answer.parse(data)?;
    let block = event["index"].as_u64().unwrap_or_default();
    match event["type"].as_str().unwrap_or_default() {
        "message_start" => {
            let message = &event["message"];
            answer.named(crate::word(&message["id"]), crate::word(&message["model"]));
            count(answer, &message["usage"]);
        }
        "content_block_start" => begin(answer, calls, block, &event["content_block"])?,
        "content_block_delta" => {
            let delta = &event["delta"];
            answer.text(crate::word(&delta["text"]))?;
            answer.reasoning(crate::word(&delta["thinking"]))?;
            if let Some(signature) = delta["signature"].as_str() {
                answer.sign(signature)?;
            }
            if let (Some(json), Some(at)) = (delta["partial_json"].as_str(), calls.get(&block)) {
                answer.call(*at, None, None, json)?;
            }
        }
        "message_delta" => {
            stop(answer, &event["delta"]["stop_reason"])?;
            count(answer, &event["usage"]);
        }
        "message_stop" => {
            answer.end();
            return Ok(true);
        }
        "error" => return Err(refused(answer, &event)),
        // The whole message at once.
        "message" => {
            answer.named(crate::word(&event["id"]), crate::word(&event["model"]));
            for (at, content) in event["content"]
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
            {
                begin(answer, calls, at as u64, content)?;
            }
            count(answer, &event["usage"]);
            stop(answer, &event["stop_reason"])?;
            answer.end();
        }
        _ => {}
    }
    Ok(false)
}

fn begin(
    answer: &mut Answer<'_>,
    calls: &mut HashMap<u64, usize>,
    block: u64,
    content: &Value,
) -> Result<(), CallError> {
    answer.text(crate::word(&content["text"]))?;
    match content["type"].as_str() {
        Some("thinking") => {
            answer.thinks_on()?;
            answer.reasoning(crate::word(&content["thinking"]))?;
            if let Some(signature) = content["signature"].as_str().filter(|own| !own.is_empty()) {
                answer.sign(signature)?;
            }
        }
        Some("redacted_thinking") => {
            answer.thinks_on()?;
            answer.sign(content["data"].as_str().unwrap_or_default())?;
            if let Some(thought) = answer.out.thoughts.last_mut() {
                thought.is_redacted = true;
            }
        }
        _ => {}
    }
    if content["type"] == "tool_use" {
        let at = calls.len();
        calls.insert(block, at);
        // A stream begins with an empty object and sends the real one in pieces.
        let input = &content["input"];
        let is_empty = input.as_object().is_none_or(serde_json::Map::is_empty);
        let arguments = if is_empty {
            String::new()
        } else {
            input.to_string()
        };
        answer.call(
            at,
            crate::word(&content["id"]),
            crate::word(&content["name"]),
            &arguments,
        )?;
    }
    Ok(())
}

fn count(answer: &mut Answer<'_>, usage: &Value) {
    let own = &mut answer.out.usage;
    for (key, count) in [
        ("input_tokens", &mut own.input),
        ("output_tokens", &mut own.output),
        ("cache_read_input_tokens", &mut own.cache_read),
        ("cache_creation_input_tokens", &mut own.cache_write),
    ] {
        if let Some(tokens) = usage[key].as_u64() {
            *count = tokens;
        }
    }
}

fn stop(answer: &mut Answer<'_>, reason: &Value) -> Result<(), CallError> {
    let Some(reason) = reason.as_str() else {
        return Ok(());
    };
    answer.out.stop_reason = match reason {
        "end_turn" | "stop_sequence" | "pause_turn" => "stop".to_owned(),
        "max_tokens" | "model_context_window_exceeded" => "length".to_owned(),
        "tool_use" => crate::TOOL_USE.to_owned(),
        "refusal" if answer.out.text.is_empty() => {
            return Err(http::broke_off(answer.model, "the model refused to answer"));
        }
        other => other.to_owned(),
    };
    Ok(())
}

/// An error in a stream that had begun with 200.
fn refused(answer: &Answer<'_>, event: &Value) -> CallError {
    let message = words_of(&event.to_string());
    let status = match event["error"]["type"].as_str() {
        Some("rate_limit_error") => 429,
        Some("overloaded_error") => 529,
        Some("authentication_error") => 401,
        Some("invalid_request_error") => 400,
        _ => 500,
    };
    match answer.has_begun() {
        true => http::broke_off(answer.model, &message),
        false => CallError::Refused {
            provider: answer.model.provider.clone(),
            status,
            message,
            retry_after: None,
        },
    }
}
