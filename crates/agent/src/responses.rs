//! OpenAI responses, streamed; nothing is kept at the provider.
//!
//! Source: the published API reference (`POST /v1/responses`).

use reqwest::header;
use serde_json::{Value, json};

use crate::http::{self, Framing};
use crate::{
    Answer, CallError, Completion, Limits, Message, Model, Part, Piece, Prompt, Usage, thinking,
    words_of,
};

/// Sampling, by this provider's names.
const NAMES: crate::Names = crate::Names {
    temperature: "temperature",
    top_p: "top_p",
    frequency_penalty: "",
    presence_penalty: "",
    seed: "",
    stop: "",
};

pub(crate) fn body_of(model: &Model, prompt: &Prompt) -> Value {
    let input: Vec<Value> = prompt.messages.iter().flat_map(items_of).collect();
    let mut body = json!({
        "model": model.id,
        "input": input,
        "stream": true,
        "store": false,
        "max_output_tokens": prompt.sampling.max_tokens.unwrap_or(model.max_tokens),
    });
    if !prompt.tools.is_empty() {
        body["tools"] = prompt
            .tools
            .iter()
            .map(|tool| {
                json!({
                    "type": "function", "name": tool.name, "description": tool.description,
                    "parameters": tool.parameters, "strict": false,
                })
            })
            .collect();
    }
    prompt.sampling.write(&mut body, &NAMES);
    thinking::responses(
        &mut body,
        model,
        prompt.sampling.thinking.unwrap_or_default(),
    );
    body
}

fn items_of(message: &Message) -> Vec<Value> {
    let mut content = Vec::new();
    let mut items = Vec::new();
    let mut thoughts: Vec<Value> = Vec::new();
    let kind = match message.role {
        "assistant" => "output_text",
        _ => "input_text",
    };
    for part in &message.parts {
        match part {
            Part::Text(text) => content.push(json!({ "type": kind, "text": text })),
            Part::Image { data, mime } => content.push(json!({
                "type": "input_image", "detail": "auto", "image_url": format!("data:{mime};base64,{data}"),
            })),
            // Without its seal the provider would look for a thought that it has not kept.
            Part::Thought(thought) => thoughts.extend(thought.signature.as_ref().map(|sealed| {
                json!({ "type": "reasoning", "summary": [], "encrypted_content": sealed })
            })),
            Part::Call(call) => items.push(json!({
                "type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments,
            })),
            Part::Result(result) => items.push(json!({
                "type": "function_call_output", "call_id": result.call_id, "output": result.text,
            })),
        }
    }
    if !content.is_empty() {
        thoughts.push(json!({ "type": "message", "role": message.role, "content": content }));
    }
    thoughts.append(&mut items);
    thoughts
}

pub(crate) async fn complete(
    client: &reqwest::Client,
    model: &Model,
    prompt: &Prompt,
    limits: &Limits,
    on: &mut (dyn FnMut(Piece) + Send),
) -> Result<Completion, CallError> {
    let mut request = client
        .post(format!("{}/responses", model.base_url))
        .header(header::ACCEPT, "text/event-stream")
        .json(&body_of(model, prompt));
    if let Some(key) = &model.api_key {
        request = request.bearer_auth(key);
    }
    let mut answer = Answer::new(model, limits, on);
    http::stream(model, request, limits, Framing::Events, &mut |data| {
        take(&mut answer, data)
    })
    .await?;
    answer.finish()
}

fn take(answer: &mut Answer<'_>, data: &str) -> Result<bool, CallError> {
    if data == "[DONE]" {
        return Ok(true);
    }
    let event: Value = answer.parse(data)?;
    let response = &event["response"];
    match event["type"].as_str().unwrap_or_default() {
        "response.created" => {
            answer.named(
                crate::word(&response["id"]),
                crate::word(&response["model"]),
            );
        }
        "response.output_text.delta" | "response.refusal.delta" => {
            answer.text(crate::word(&event["delta"]))?;
        }
        "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
            answer.reasoning(crate::word(&event["delta"]))?;
        }
        "response.output_item.added" if event["item"]["type"] == "reasoning" => {
            answer.thinks_on()?;
        }
        "response.output_item.done" if event["item"]["type"] == "reasoning" => {
            if let Some(sealed) = event["item"]["encrypted_content"].as_str() {
                answer.sign(sealed)?;
            }
        }
        "response.output_item.done" if event["item"]["type"] == "function_call" => {
            let item = &event["item"];
            let at = answer.out.calls.len();
            let arguments = item["arguments"].as_str().unwrap_or("{}");
            answer.call(
                at,
                crate::word(&item["call_id"]),
                crate::word(&item["name"]),
                arguments,
            )?;
        }
        "response.completed" | "response.incomplete" => {
            let usage = &response["usage"];
            let count = |value: &Value| value.as_u64().unwrap_or(0);
            let cached = count(&usage["input_tokens_details"]["cached_tokens"]);
            answer.out.usage = Usage {
                input: count(&usage["input_tokens"]).saturating_sub(cached),
                output: count(&usage["output_tokens"]),
                cache_read: cached,
                cache_write: 0,
            };
            answer.out.stop_reason = match response["incomplete_details"]["reason"].as_str() {
                None => "stop".to_owned(),
                Some("max_output_tokens") => "length".to_owned(),
                Some(other) => other.to_owned(),
            };
            answer.end();
            return Ok(true);
        }
        "response.failed" => return Err(failed(answer, &response["error"])),
        "error" => return Err(failed(answer, &event)),
        _ => {}
    }
    Ok(false)
}

fn failed(answer: &Answer<'_>, error: &Value) -> CallError {
    let message = words_of(&json!({ "error": error }).to_string());
    match (answer.has_begun(), error["code"].as_str()) {
        (true, _) => http::broke_off(answer.model, &message),
        (false, code) => CallError::Refused {
            provider: answer.model.provider.clone(),
            status: match code {
                Some("rate_limit_exceeded") => 429,
                Some("server_error") | None => 500,
                Some(_) => 400,
            },
            message,
            retry_after: None,
        },
    }
}
