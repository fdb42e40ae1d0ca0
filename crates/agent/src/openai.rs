//! OpenAI-compatible chat completions: OpenAI, LM Studio, llama.cpp, vLLM, OpenRouter and their like.
//!
//! Source: the published API reference, and what those servers were seen to send: usage in a last piece without
//! choices, `reasoning_content` or `reasoning` beside `content`, whole bodies where a stream was asked for, calls
//! without an id.

use reqwest::header;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::{self, Framing};
use crate::{
    Answer, CallError, Completion, Limits, Message, Model, Part, Piece, Prompt, Usage, thinking,
    words_of,
};

#[derive(Deserialize, Default)]
#[serde(default)]
struct Chunk {
    id: Option<String>,
    model: Option<String>,
    choices: Vec<Choice>,
    usage: Option<RawUsage>,
    error: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Choice {
    delta: Option<Delta>,
    message: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CallDelta {
    index: Option<usize>,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: u64,
}

/// Sampling, by this provider's names.
const NAMES: crate::Names = crate::Names {
    temperature: "temperature",
    top_p: "top_p",
    frequency_penalty: "frequency_penalty",
    presence_penalty: "presence_penalty",
    seed: "seed",
    stop: "stop",
};

pub(crate) fn body_of(model: &Model, prompt: &Prompt) -> Value {
    let messages: Vec<Value> = prompt.messages.iter().flat_map(message_of).collect();
    let mut body = json!({
        "model": model.id,
        "messages": messages,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    // OpenAI's own models that think refuse the older name; some servers know no other.
    let limit = match (&model.thinking.max_tokens_field, model.is_reasoning) {
        (Some(named), _) => named.as_str(),
        (None, true) => "max_completion_tokens",
        (None, false) => "max_tokens",
    };
    body[limit] = json!(prompt.sampling.max_tokens.unwrap_or(model.max_tokens));
    if !prompt.tools.is_empty() {
        body["tools"] = prompt
            .tools
            .iter()
            .map(|tool| {
                json!({ "type": "function", "function": {
                    "name": tool.name, "description": tool.description, "parameters": tool.parameters,
                } })
            })
            .collect();
    }
    prompt.sampling.write(&mut body, &NAMES);
    if let Some(format) = &prompt.sampling.response_format {
        body["response_format"] = format.clone();
    }
    thinking::chat(
        &mut body,
        model,
        prompt.sampling.thinking.unwrap_or_default(),
    );
    body
}

/// One message, or one for each result of a tool.
fn message_of(message: &Message) -> Vec<Value> {
    let mut content = Vec::new();
    let mut calls = Vec::new();
    let mut out = Vec::new();
    for part in &message.parts {
        match part {
            Part::Text(text) => content.push(json!({ "type": "text", "text": text })),
            Part::Image { data, mime } => content.push(json!({
                "type": "image_url",
                "image_url": { "url": format!("data:{mime};base64,{data}") },
            })),
            // Nothing there takes it back.
            Part::Thought(_) => {}
            Part::Call(call) => calls.push(json!({
                "id": call.id, "type": "function",
                "function": { "name": call.name, "arguments": call.arguments },
            })),
            Part::Result(result) => out.push(json!({
                "role": "tool", "tool_call_id": result.call_id, "content": result.text,
            })),
        }
    }
    if content.is_empty() && calls.is_empty() {
        return out;
    }
    let content = match content.as_slice() {
        [] => Value::Null,
        [only] if only["type"] == "text" => only["text"].clone(),
        _ => json!(content),
    };
    let mut said = json!({ "role": message.role, "content": content });
    if !calls.is_empty() {
        said["tool_calls"] = json!(calls);
    }
    out.push(said);
    out
}

pub(crate) async fn complete(
    client: &reqwest::Client,
    model: &Model,
    prompt: &Prompt,
    limits: &Limits,
    on: &mut (dyn FnMut(Piece) + Send),
) -> Result<Completion, CallError> {
    let mut request = client
        .post(format!("{}/chat/completions", model.base_url))
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
        answer.end();
        return Ok(true);
    }
    let chunk: Chunk = answer.parse(data)?;
    if let Some(error) = chunk.error {
        return Err(http::broke_off(
            answer.model,
            &words_of(&json!({ "error": error }).to_string()),
        ));
    }
    answer.named(chunk.id, chunk.model);
    if let Some(usage) = chunk.usage {
        let cached = usage
            .prompt_tokens_details
            .map_or(0, |details| details.cached_tokens);
        answer.out.usage = Usage {
            input: usage.prompt_tokens.saturating_sub(cached),
            output: usage.completion_tokens,
            cache_read: cached,
            cache_write: 0,
        };
    }
    let Some(choice) = chunk.choices.into_iter().next() else {
        return Ok(false);
    };
    if let Some(delta) = choice.delta.or(choice.message) {
        answer.reasoning(delta.reasoning_content.or(delta.reasoning))?;
        answer.text(delta.content)?;
        for (at, call) in delta.tool_calls.into_iter().flatten().enumerate() {
            let function = call.function.unwrap_or_default();
            let arguments = match function.arguments {
                Some(Value::String(text)) => text,
                None | Some(Value::Null) => String::new(),
                Some(whole) => whole.to_string(),
            };
            answer.call(call.index.unwrap_or(at), call.id, function.name, &arguments)?;
        }
    }
    if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
        answer.out.stop_reason = match reason.as_str() {
            "tool_calls" | "function_call" => crate::TOOL_USE.to_owned(),
            _ => reason,
        };
    }
    Ok(false)
}
