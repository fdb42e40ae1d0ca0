//! Ollama's own protocol: `POST /api/chat`, a JSON text on each line.
//!
//! Source: docs/api.md of Ollama. Its OpenAI-compatible side cuts long prompts at the model's small default window; this
//! one is told how large the window is.

use serde_json::{Value, json};

use crate::http::{self, Framing};
use crate::{
    Answer, CallError, Completion, Limits, Message, Model, Part, Piece, Prompt, Usage, thinking,
    words_of,
};

/// The key that stands for none.
const NO_KEY: &str = "ollama-local";

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
    let mut options = json!({
        "num_ctx": model.context_window,
        "num_predict": prompt.sampling.max_tokens.unwrap_or(model.max_tokens),
    });
    prompt.sampling.write(&mut options, &NAMES);
    let mut body =
        json!({ "model": model.id, "messages": messages, "stream": true, "options": options });
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
    thinking::ollama(&mut body, prompt.sampling.thinking.unwrap_or_default());
    body
}

fn message_of(message: &Message) -> Vec<Value> {
    let mut out = Vec::new();
    let mut texts = Vec::new();
    let mut images = Vec::new();
    let mut calls = Vec::new();
    for part in &message.parts {
        match part {
            Part::Text(text) => texts.push(text.as_str()),
            Part::Image { data, .. } => images.push(data.as_str()),
            // Nothing there takes it back.
            Part::Thought(_) => {}
            Part::Call(call) => calls.push(json!({
                "function": { "name": call.name, "arguments": crate::object_of(&call.arguments) },
            })),
            Part::Result(result) => out.push(json!({
                "role": "tool", "tool_name": result.name, "content": result.text,
            })),
        }
    }
    if message.role == "tool" {
        return out;
    }
    let mut own = json!({ "role": message.role, "content": texts.join("\n\n") });
    if !images.is_empty() {
        own["images"] = json!(images);
    }
    if !calls.is_empty() {
        own["tool_calls"] = json!(calls);
    }
    out.push(own);
    out
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
        .post(format!("{base}/api/chat"))
        .json(&body_of(model, prompt));
    if let Some(key) = model.api_key.as_ref().filter(|key| *key != NO_KEY) {
        request = request.bearer_auth(key);
    }
    let mut answer = Answer::new(model, limits, on);
    http::stream(model, request, limits, Framing::Lines, &mut |line| {
        take(&mut answer, line)
    })
    .await?;
    answer.finish()
}

fn take(answer: &mut Answer<'_>, line: &str) -> Result<bool, CallError> {
    let chunk: Value = answer.parse(line)?;
    if !chunk["error"].is_null() {
        return Err(http::broke_off(answer.model, &words_of(line)));
    }
    answer.named(None, crate::word(&chunk["model"]));
    let message = &chunk["message"];
    answer.reasoning(crate::word(&message["thinking"]))?;
    answer.text(crate::word(&message["content"]))?;
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let function = &call["function"];
        let at = answer.out.calls.len();
        let arguments = match &function["arguments"] {
            Value::String(text) => text.clone(),
            Value::Null => "{}".to_owned(),
            object => object.to_string(),
        };
        answer.call(
            at,
            crate::word(&call["id"]),
            crate::word(&function["name"]),
            &arguments,
        )?;
    }
    if chunk["done"] != true {
        return Ok(false);
    }
    let count = |key: &str| chunk[key].as_u64().unwrap_or(0);
    answer.out.usage = Usage {
        input: count("prompt_eval_count"),
        output: count("eval_count"),
        ..Usage::default()
    };
    answer.out.stop_reason = match chunk["done_reason"].as_str() {
        Some("length") => "length".to_owned(),
        _ => "stop".to_owned(),
    };
    answer.end();
    Ok(true)
}
