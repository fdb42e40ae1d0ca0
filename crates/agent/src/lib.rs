//! Talks to language models: which one a configuration means, over what protocol, and what comes back.
//!
//! [`Model::resolve`] reads the user's configuration; [`complete`] makes one call and hands out what arrives as it
//! arrives. Dropping its future ends the request at the provider. A model's wish to call a tool is part of its answer;
//! calling it, sessions and storage are the caller's.

mod answer;
mod anthropic;
mod gemini;
mod http;
mod model;
mod ollama;
mod openai;
mod overflow;
mod responses;
mod sse;
pub mod thinking;

use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use answer::Answer;
pub use model::{Api, Follow, Model, ModelError};

/// [`Completion::stop_reason`] of an answer that waits for the results of its calls.
pub const TOOL_USE: &str = "toolUse";

/// Limits of one call.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until the provider begins to answer.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// Of one line of the stream, bytes.
    pub line_bytes_max: usize,
    /// Of all text of an answer, bytes.
    pub text_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(300),
            idle: Duration::from_secs(120),
            line_bytes_max: 1 << 20,
            text_bytes_max: 4 << 20,
        }
    }
}

/// One thing said, in the caller's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant`, or `tool` for results.
    pub role: &'static str,
    pub parts: Vec<Part>,
}

impl Message {
    pub fn text(role: &'static str, text: impl Into<String>) -> Self {
        Self {
            role,
            parts: vec![Part::Text(text.into())],
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Text(String),
    /// Base64 data and its type (`image/png`).
    Image {
        data: String,
        mime: String,
    },
    /// What this very model thought: others are not shown it.
    Thought(Thought),
    Call(ToolCall),
    Result(ToolResult),
}

/// A piece of thinking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thought {
    /// What the provider shows of it.
    pub text: String,
    /// What the provider wants back, opaque.
    pub signature: Option<String>,
    /// The provider shows nothing of it; the signature is all there is.
    pub is_redacted: bool,
}

/// A tool that a model wants called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON, as the model wrote it: it may be broken.
    pub arguments: String,
    /// What the provider wants back with the call, opaque.
    pub signature: Option<String>,
}

/// What a called tool answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    pub call_id: String,
    pub name: String,
    pub text: String,
    pub is_error: bool,
}

/// A tool that a model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    pub name: std::borrow::Cow<'static, str>,
    pub description: String,
    /// JSON schema of an object.
    pub parameters: Value,
}

/// What is asked of a model.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    pub messages: Vec<Message>,
    pub tools: Arc<[Tool]>,
    pub sampling: Sampling,
}

/// How an answer is drawn. `None`: as the provider does it. What a provider has no field for is left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// At most so many tokens of answer; the model's own limit when `None`.
    pub max_tokens: Option<u64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub seed: Option<i64>,
    pub stop: Vec<String>,
    /// `response_format` of OpenAI's chat completions.
    pub response_format: Option<Value>,
    /// One that the model offers ([`thinking::Profile`]); a model that thinks is told not to when `None`.
    pub thinking: Option<thinking::Level>,
}

/// The fields of [`Sampling`] but `max_tokens`, `response_format` and `thinking`, by one provider's names; `""`: it has none.
pub(crate) struct Names {
    pub(crate) temperature: &'static str,
    pub(crate) top_p: &'static str,
    pub(crate) frequency_penalty: &'static str,
    pub(crate) presence_penalty: &'static str,
    pub(crate) seed: &'static str,
    pub(crate) stop: &'static str,
}

impl Sampling {
    pub(crate) fn write(&self, body: &mut Value, names: &Names) {
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value
                && !name.is_empty()
            {
                body[name] = value;
            }
        };
        put(names.temperature, self.temperature.map(Value::from));
        put(names.top_p, self.top_p.map(Value::from));
        put(
            names.frequency_penalty,
            self.frequency_penalty.map(Value::from),
        );
        put(
            names.presence_penalty,
            self.presence_penalty.map(Value::from),
        );
        put(names.seed, self.seed.map(Value::from));
        put(
            names.stop,
            (!self.stop.is_empty()).then(|| Value::from(self.stop.clone())),
        );
    }
}

/// What arrives while a model answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Text(String),
    /// Thinking that the provider shows.
    Reasoning(String),
}

/// Tokens, as the provider counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
}

impl Usage {
    pub const fn add(&mut self, other: &Self) {
        self.input += other.input;
        self.output += other.output;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
    }

    pub const fn total(&self) -> u64 {
        self.input + self.output + self.cache_read + self.cache_write
    }
}

/// A whole answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Completion {
    pub text: String,
    /// In the order they came.
    pub thoughts: Vec<Thought>,
    /// In the order they were asked for.
    pub calls: Vec<ToolCall>,
    pub usage: Usage,
    /// `stop`, `length`, [`TOOL_USE`], or what the provider said.
    pub stop_reason: String,
    /// The model that answered, when the provider names it.
    pub response_model: Option<String>,
    pub response_id: Option<String>,
}

/// Why a model gave no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CallError {
    /// The provider refused. `message` is its own word.
    #[error("{provider} refused ({status}): {message}")]
    Refused {
        provider: String,
        status: u16,
        message: String,
        retry_after: Option<Duration>,
    },
    #[error("{provider} cannot be reached: {why}")]
    Unreachable { provider: String, why: String },
    #[error("{provider} did not answer within {after:?}")]
    TimedOut { provider: String, after: Duration },
    /// After the answer had begun.
    #[error("{provider} broke off: {why}")]
    BrokeOff { provider: String, why: String },
    /// What came is no answer, or passes a limit.
    #[error("{provider} sent what cannot be used: {why}")]
    Garbage { provider: String, why: String },
}

impl CallError {
    /// Whether another model may do better: nothing of an answer has been handed out, and what was asked is not at fault.
    pub const fn is_another_s_chance(&self) -> bool {
        match self {
            Self::Refused { status, .. } => !matches!(*status, 400 | 413 | 422),
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Garbage { .. } => true,
            Self::BrokeOff { .. } => false,
        }
    }

    /// Whether another try may do better: nothing of an answer has been handed out.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(*status, 408 | 409 | 429 | 500..=599),
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::BrokeOff { .. } | Self::Garbage { .. } => false,
        }
    }

    /// Whether the model takes less than it was asked with. `false` for limits of a rate, which pass by themselves.
    pub fn is_too_long(&self) -> bool {
        match self {
            Self::Refused {
                status, message, ..
            } => *status != 429 && *status < 500 && overflow::is_named(message),
            // A stream may begin with 200 and say so then.
            Self::BrokeOff { why, .. } => overflow::is_named(why),
            _ => false,
        }
    }

    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Makes one call. `on` gets what arrives, in order; dropping the future ends the request.
///
/// # Errors
/// See [`CallError`]; whatever `on` was given before stays said.
pub async fn complete(
    client: &reqwest::Client,
    model: &Model,
    prompt: &Prompt,
    limits: &Limits,
    mut on: impl FnMut(Piece) + Send,
) -> Result<Completion, CallError> {
    match model.api {
        Api::AnthropicMessages => anthropic::complete(client, model, prompt, limits, &mut on).await,
        Api::GoogleGenerativeAi => gemini::complete(client, model, prompt, limits, &mut on).await,
        Api::Ollama => ollama::complete(client, model, prompt, limits, &mut on).await,
        Api::OpenAiCompletions => openai::complete(client, model, prompt, limits, &mut on).await,
        Api::OpenAiResponses => responses::complete(client, model, prompt, limits, &mut on).await,
    }
}

/// Arguments of a call as providers want them back: an object, whatever the model wrote.
pub(crate) fn object_of(arguments: &str) -> Value {
    let parsed: Option<Value> = serde_json::from_str(arguments).ok();
    parsed
        .filter(Value::is_object)
        .unwrap_or_else(|| Value::Object(serde_json::Map::new()))
}

pub(crate) fn word(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// The provider's own words in an error body, short enough for a log and a chat.
pub(crate) fn words_of(body: &str) -> String {
    const CHARS_MAX: usize = 300;
    let parsed: Option<Value> = serde_json::from_str(body).ok();
    let said = parsed.as_ref().and_then(|body| {
        let error = body.get("error").unwrap_or(body);
        error
            .as_str()
            .or_else(|| error.get("message").and_then(Value::as_str))
    });
    let said = said.unwrap_or(body).trim();
    let mut short: String = said.chars().take(CHARS_MAX).collect();
    if short.len() < said.len() {
        short.push('…');
    }
    if short.is_empty() {
        short.push_str("no reason given");
    }
    short
}

#[cfg(test)]
mod tests;
