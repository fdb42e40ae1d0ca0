//! Gemini: `streamGenerateContent`, as server-sent events.
//!
//! Source: the published API reference (v1beta). What the model signs (`thoughtSignature`) is sent back with its calls:
//! newer models refuse a conversation without it.

use serde_json::{Value, json};

use crate::http::{self, Framing};
use crate::{
    Answer, CallError, Completion, Limits, Message, Model, Part, Piece, Prompt, Usage, thinking,
    words_of,
};

/// Sampling, by this provider's names.
const NAMES: crate::Names = crate::Names {
    temperature: "temperature",
    top_p: "topP",
    frequency_penalty: "frequencyPenalty",
    presence_penalty: "presencePenalty",
    seed: "seed",
    stop: "stopSequences",
};

pub(crate) fn body_of(model: &Model, prompt: &Prompt) -> Value {
    let mut system = Vec::new();
    let mut contents: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in &prompt.messages {
        let role = match message.role {
            "system" => {
                system.extend(message.parts.iter().map(|part| part_of(message, part)));
                continue;
            }
            "assistant" => "model",
            _ => "user",
        };
        let parts = message.parts.iter().map(|part| part_of(message, part));
        match contents.last_mut() {
            Some((last, kept)) if *last == role => kept.extend(parts),
            _ => contents.push((role, parts.collect())),
        }
    }
    let contents: Vec<Value> = contents
        .into_iter()
        .map(|(role, parts)| json!({ "role": role, "parts": parts }))
        .collect();
    let mut body = json!({
        "contents": contents,
        "generationConfig": { "maxOutputTokens": prompt.sampling.max_tokens.unwrap_or(model.max_tokens) },
    });
    if !system.is_empty() {
        body["systemInstruction"] = json!({ "parts": system });
    }
    if !prompt.tools.is_empty() {
        let tools: Vec<Value> = prompt
            .tools
            .iter()
            .map(|tool| {
                json!({ "name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters })
            })
            .collect();
        body["tools"] = json!([{ "functionDeclarations": tools }]);
    }
    prompt.sampling.write(&mut body["generationConfig"], &NAMES);
    thinking::gemini(
        &mut body["generationConfig"],
        model,
        prompt.sampling.thinking.unwrap_or_default(),
    );
    body
}

fn part_of(message: &Message, part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({ "text": text }),
        Part::Image { data, mime } => {
            json!({ "inlineData": { "mimeType": mime, "data": data } })
        }
        Part::Thought(thought) => json!({ "text": thought.text, "thought": true }),
        Part::Call(call) => {
            let mut own = json!({
                "functionCall": { "name": call.name, "args": crate::object_of(&call.arguments) },
            });
            if let Some(signature) = &call.signature {
                own["thoughtSignature"] = json!(signature);
            }
            own
        }
        Part::Result(result) => {
            debug_assert_eq!(message.role, "tool");
            let key = if result.is_error { "error" } else { "output" };
            json!({ "functionResponse": { "name": result.name, "response": { key: result.text } } })
        }
    }
}

pub(crate) async fn complete(
    client: &reqwest::Client,
    model: &Model,
    prompt: &Prompt,
    limits: &Limits,
    on: &mut (dyn FnMut(Piece) + Send),
) -> Result<Completion, CallError> {
    let has_version = ["/v1", "/v1beta", "/v1alpha"]
        .iter()
        .any(|version| model.base_url.ends_with(version));
    let version = if has_version { "" } else { "/v1beta" };
    let mut request = client
        .post(format!(
            "{}{version}/models/{}:streamGenerateContent?alt=sse",
            model.base_url,
            model.id.trim_start_matches("models/"),
        ))
        .json(&body_of(model, prompt));
    if let Some(key) = &model.api_key {
        request = match model.is_bearer {
            true => request.bearer_auth(key),
            false => request.header("x-goog-api-key", key),
        };
    }
    let mut answer = Answer::new(model, limits, on);
    http::stream(model, request, limits, Framing::Events, &mut |data| {
        take(&mut answer, data)
    })
    .await?;
    answer.finish()
}

fn take(answer: &mut Answer<'_>, data: &str) -> Result<bool, CallError> {
    let mut chunk: Value = answer.parse(data)?;
    // A whole body comes as a list of chunks.
    if let Value::Array(chunks) = &mut chunk {
        for chunk in chunks {
            take_one(answer, chunk)?;
        }
        return Ok(false);
    }
    take_one(answer, &chunk)?;
    Ok(false)
}

fn take_one(answer: &mut Answer<'_>, chunk: &Value) -> Result<(), CallError> {
    if !chunk["error"].is_null() {
        return Err(http::broke_off(answer.model, &words_of(&chunk.to_string())));
    }
    if let Some(reason) = chunk["promptFeedback"]["blockReason"].as_str() {
        return Err(http::broke_off(
            answer.model,
            &format!("the provider blocked what was asked ({reason})"),
        ));
    }
    answer.named(
        crate::word(&chunk["responseId"]),
        crate::word(&chunk["modelVersion"]),
    );
    let usage = &chunk["usageMetadata"];
    if let Some(prompt) = usage["promptTokenCount"].as_u64() {
        let count = |key: &str| usage[key].as_u64().unwrap_or(0);
        let cached = count("cachedContentTokenCount");
        answer.out.usage = Usage {
            input: prompt.saturating_sub(cached),
            output: count("candidatesTokenCount") + count("thoughtsTokenCount"),
            cache_read: cached,
            cache_write: 0,
        };
    }
    let candidate = &chunk["candidates"][0];
    for part in candidate["content"]["parts"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let text = crate::word(&part["text"]);
        match part["thought"] == true {
            true => answer.reasoning(text)?,
            false => answer.text(text)?,
        }
        let call = &part["functionCall"];
        if let Some(name) = call["name"].as_str() {
            let at = answer.out.calls.len();
            let arguments = match &call["args"] {
                Value::Null => "{}".to_owned(),
                args => args.to_string(),
            };
            let own = answer.call(
                at,
                crate::word(&call["id"]),
                Some(name.to_owned()),
                &arguments,
            )?;
            own.signature = crate::word(&part["thoughtSignature"]);
        }
    }
    match candidate["finishReason"].as_str() {
        None => {}
        Some("STOP") => answer.out.stop_reason = "stop".to_owned(),
        Some("MAX_TOKENS") => answer.out.stop_reason = "length".to_owned(),
        Some(other) if !answer.has_begun() => {
            return Err(http::broke_off(
                answer.model,
                &format!("the provider stopped the answer ({other})"),
            ));
        }
        Some(other) => answer.out.stop_reason = other.to_lowercase(),
    }
    Ok(())
}
