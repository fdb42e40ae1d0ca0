//! OpenAI-compatible chat completions: OpenAI, Ollama, LM Studio, llama.cpp, vLLM, OpenRouter and their like.
//!
//! Source: the published API reference, and what those servers were seen to send: usage in a last piece without
//! choices, `reasoning_content` or `reasoning` beside `content`, whole bodies where a stream was asked for.

use std::time::Duration;

use reqwest::{Response, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::sse::{Lines, data};
use crate::{CallError, Completion, Limits, Model, Part, Piece, Prompt, Usage, words_of};

/// An error body is read this far.
const ERROR_BYTES_MAX: usize = 64 * 1024;

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

fn body_of(model: &Model, prompt: &Prompt) -> Value {
    let messages: Vec<Value> = prompt
        .messages
        .iter()
        .map(|message| {
            let plain = matches!(message.parts.as_slice(), [Part::Text(_)]);
            let content = match (&message.parts[..], plain) {
                ([Part::Text(text)], true) => json!(text),
                (parts, _) => parts
                    .iter()
                    .map(|part| match part {
                        Part::Text(text) => json!({ "type": "text", "text": text }),
                        Part::Image { data, mime } => json!({
                            "type": "image_url",
                            "image_url": { "url": format!("data:{mime};base64,{data}") },
                        }),
                    })
                    .collect(),
            };
            json!({ "role": message.role, "content": content })
        })
        .collect();
    let mut body = json!({
        "model": model.id,
        "messages": messages,
        "stream": true,
        "stream_options": { "include_usage": true },
        "max_tokens": prompt.max_tokens.unwrap_or(model.max_tokens),
    });
    if let Some(temperature) = prompt.temperature {
        body["temperature"] = json!(temperature);
    }
    body
}

pub(crate) async fn complete(
    client: &reqwest::Client,
    model: &Model,
    prompt: &Prompt,
    limits: &Limits,
    on: &mut (impl FnMut(Piece) + Send),
) -> Result<Completion, CallError> {
    let provider = || model.provider.clone();
    let mut request = client
        .post(format!("{}/chat/completions", model.base_url))
        .header(header::ACCEPT, "text/event-stream");
    if let Some(key) = &model.api_key {
        request = request.bearer_auth(key);
    }
    for (name, value) in &model.headers {
        request = request.header(name, value);
    }
    let sent = request.json(&body_of(model, prompt)).send();
    let response = match tokio::time::timeout(limits.first_byte, sent).await {
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
    let mut reader = Reader {
        model,
        limits,
        out: Completion::default(),
        is_done: false,
    };
    reader.read(response, on).await?;
    let mut out = reader.out;
    if out.stop_reason.is_empty() {
        if out.text.is_empty() && out.reasoning.is_empty() {
            return Err(CallError::Garbage {
                provider: provider(),
                why: "an answer without content".to_owned(),
            });
        }
        if !reader.is_done {
            return Err(CallError::BrokeOff {
                provider: provider(),
                why: "the stream ended before the answer did".to_owned(),
            });
        }
        out.stop_reason = "stop".to_owned();
    }
    Ok(out)
}

struct Reader<'a> {
    model: &'a Model,
    limits: &'a Limits,
    out: Completion,
    /// `[DONE]` was seen.
    is_done: bool,
}

impl Reader<'_> {
    async fn read(
        &mut self,
        mut response: Response,
        on: &mut (impl FnMut(Piece) + Send),
    ) -> Result<(), CallError> {
        let is_stream = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_none_or(|kind| !kind.starts_with("application/json"));
        let mut lines = Lines::new(if is_stream {
            self.limits.line_bytes_max
        } else {
            self.limits.text_bytes_max
        });
        loop {
            let piece = tokio::time::timeout(self.limits.idle, response.chunk()).await;
            let piece = match piece {
                Err(_elapsed) => {
                    let after = self.limits.idle;
                    return Err(self.broke_off(&format!("nothing came for {after:?}")));
                }
                Ok(Err(error)) => return Err(self.broke_off(&chain(&error))),
                Ok(Ok(piece)) => piece,
            };
            let Some(piece) = piece else { break };
            lines.push(&piece).map_err(|why| self.garbage(why))?;
            if is_stream {
                while let Some(line) = lines.next() {
                    if let Some(data) = data(&line) {
                        self.take(data, on)?;
                    }
                }
            }
            if self.is_done {
                return Ok(());
            }
        }
        match lines.rest() {
            Some(rest) if is_stream => match data(rest.trim_end()) {
                Some(data) => self.take(data, on),
                None => Ok(()),
            },
            Some(rest) => {
                self.is_done = true;
                self.take(&rest, on)
            }
            None => Ok(()),
        }
    }

    fn take(&mut self, data: &str, on: &mut (impl FnMut(Piece) + Send)) -> Result<(), CallError> {
        let data = data.trim();
        if data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_str(data)
            .map_err(|error| self.garbage(format!("not JSON where JSON was due ({error})")))?;
        if let Some(error) = chunk.error {
            let words = words_of(&json!({ "error": error }).to_string());
            return Err(self.broke_off(&words));
        }
        self.out.response_id = self.out.response_id.take().or(chunk.id);
        if let Some(model) = chunk.model.filter(|model| !model.is_empty()) {
            self.out.response_model = Some(model);
        }
        if let Some(usage) = chunk.usage {
            let cached = usage
                .prompt_tokens_details
                .map_or(0, |details| details.cached_tokens);
            self.out.usage = Usage {
                input: usage.prompt_tokens.saturating_sub(cached),
                output: usage.completion_tokens,
                cache_read: cached,
                cache_write: 0,
            };
        }
        let Some(choice) = chunk.choices.into_iter().next() else {
            return Ok(());
        };
        if let Some(delta) = choice.delta.or(choice.message) {
            let reasoning = delta.reasoning_content.or(delta.reasoning);
            if let Some(text) = reasoning.filter(|text| !text.is_empty()) {
                self.out.reasoning.push_str(&text);
                on(Piece::Reasoning(text));
            }
            if let Some(text) = delta.content.filter(|text| !text.is_empty()) {
                self.out.text.push_str(&text);
                on(Piece::Text(text));
            }
            let bytes = self.out.text.len() + self.out.reasoning.len();
            if bytes > self.limits.text_bytes_max {
                let max = self.limits.text_bytes_max;
                return Err(self.garbage(format!("an answer of more than {max} bytes")));
            }
        }
        if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
            self.out.stop_reason = reason;
        }
        Ok(())
    }

    fn broke_off(&self, why: &str) -> CallError {
        CallError::BrokeOff {
            provider: self.model.provider.clone(),
            why: why.to_owned(),
        }
    }

    fn garbage(&self, why: String) -> CallError {
        CallError::Garbage {
            provider: self.model.provider.clone(),
            why,
        }
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
