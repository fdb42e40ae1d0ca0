//! What each kind of service is asked and how it answers.
//!
//! OpenAI's `/v1/embeddings` is published by OpenAI and spoken by most; Voyage's is the same with its own words for what a
//! text is for and how long a vector is (docs.voyageai.com). Ollama: docs/api.md. Gemini: `embedContent` and
//! `batchEmbedContents` of ai.google.dev, asked as OpenClaw asks them (extensions/google/embedding-provider.ts at 2026.9.6).

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Model, Purpose};

const DIMENSIONS_MAX: usize = 8192;
/// The first model of Gemini's that takes a text's purpose as words before it.
const GEMINI_2: &str = "gemini-embedding-2";
/// What OpenClaw asks of it where no other number is configured.
const GEMINI_2_DIMENSIONS: usize = 3072;
/// The models of Gemini's that can be asked for a length, and the lengths. Source: extensions/google/embedding-provider.ts.
const GEMINI_SIZED: [&str; 3] = [
    "gemini-embedding-001",
    GEMINI_2,
    "gemini-embedding-2-preview",
];
const GEMINI_DIMENSIONS: RangeInclusive<usize> = 128..=3072;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Ollama,
    Gemini,
    Voyage,
}

/// An answer's vectors, and the tokens that it says it cost.
pub(super) struct Answered {
    pub(super) vectors: Vec<Vec<f32>>,
    pub(super) tokens: u64,
}

impl Dialect {
    /// After an `@` is whose it is.
    pub(super) fn of(provider: &str) -> Option<Self> {
        let kind = provider.split_once('@').map_or(provider, |(kind, _)| kind);
        Some(match kind {
            "openai" => Self::OpenAi,
            "ollama" => Self::Ollama,
            "gemini" => Self::Gemini,
            "voyage" => Self::Voyage,
            _ => return None,
        })
    }

    /// # Errors
    /// Why the model can't be asked for this length.
    pub(super) fn check(self, model: &Model) -> Result<(), String> {
        let is_sized = self == Self::Gemini && GEMINI_SIZED.contains(&gemini_name(model));
        match model.dimensions {
            Some(asked) if is_sized && !GEMINI_DIMENSIONS.contains(&asked) => Err(format!(
                "{} has vectors of {} to {} numbers, not {asked}",
                gemini_name(model),
                GEMINI_DIMENSIONS.start(),
                GEMINI_DIMENSIONS.end()
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn url(self, base: &str, model: &Model, purpose: Purpose) -> String {
        match self {
            Self::OpenAi | Self::Voyage => format!("{base}/embeddings"),
            Self::Ollama => format!("{base}/api/embed"),
            Self::Gemini => {
                let verb = match purpose {
                    Purpose::Query => "embedContent",
                    Purpose::Document => "batchEmbedContents",
                };
                format!("{base}/models/{}:{verb}", gemini_name(model))
            }
        }
    }

    /// The header that a key goes into, and its value.
    pub(super) fn key_header(self, key: &str) -> (&'static str, String) {
        match self {
            Self::Gemini => ("x-goog-api-key", key.to_owned()),
            _ => ("authorization", format!("Bearer {key}")),
        }
    }

    /// Gemini takes one question at a time.
    pub(super) const fn texts_max(self, purpose: Purpose, usual: usize) -> usize {
        match (self, purpose) {
            (Self::Gemini, Purpose::Query) => 1,
            _ => usual,
        }
    }

    pub(super) fn body(self, model: &Model, purpose: Purpose, texts: &[&str]) -> Value {
        let mut body = json!({ "model": model.name, "input": texts });
        match self {
            Self::OpenAi | Self::Ollama => {
                if let Some(dimensions) = model.dimensions {
                    body["dimensions"] = json!(dimensions);
                }
            }
            Self::Voyage => {
                body["input_type"] = json!(match purpose {
                    Purpose::Query => "query",
                    Purpose::Document => "document",
                });
                if let Some(dimensions) = model.dimensions {
                    body["output_dimension"] = json!(dimensions);
                }
            }
            Self::Gemini => match purpose {
                Purpose::Query => {
                    let text = texts.first().copied().unwrap_or_default();
                    body = gemini(model, purpose, text);
                }
                Purpose::Document => {
                    let requests: Vec<Value> = texts
                        .iter()
                        .map(|text| {
                            let mut one = gemini(model, purpose, text);
                            one["model"] = json!(format!("models/{}", gemini_name(model)));
                            one
                        })
                        .collect();
                    body = json!({ "requests": requests });
                }
            },
        }
        body
    }

    /// # Errors
    /// What is wrong with the answer.
    pub(super) fn vectors(
        self,
        purpose: Purpose,
        answer: &[u8],
        count: usize,
    ) -> Result<Answered, String> {
        let read = match self {
            Self::OpenAi | Self::Voyage => openai_vectors(answer)?,
            Self::Ollama => ollama_vectors(answer)?,
            Self::Gemini => gemini_vectors(purpose, answer)?,
        };
        let vectors = &read.vectors;
        let length = vectors.first().map_or(0, Vec::len);
        if vectors.len() != count {
            return Err(format!("{} vectors for {count} texts", vectors.len()));
        }
        if length == 0 || length > DIMENSIONS_MAX || vectors.iter().any(|one| one.len() != length) {
            return Err("its vectors are of no, of too great or of different length".to_owned());
        }
        if vectors.iter().flatten().any(|x| !x.is_finite()) {
            return Err("a number that is none".to_owned());
        }
        Ok(read)
    }
}

fn openai_vectors(answer: &[u8]) -> Result<Answered, String> {
    #[derive(Deserialize)]
    struct One {
        index: usize,
        embedding: Vec<f32>,
    }
    #[derive(Deserialize, Default)]
    struct Usage {
        #[serde(default)]
        total_tokens: u64,
    }
    #[derive(Deserialize)]
    struct All {
        data: Vec<One>,
        #[serde(default)]
        usage: Option<Usage>,
    }
    let mut answer: All = serde_json::from_slice(answer).map_err(|e| e.to_string())?;
    answer.data.sort_by_key(|one| one.index);
    let follows = |(at, one): (usize, &One)| one.index == at;
    if !answer.data.iter().enumerate().all(follows) {
        return Err("its vectors do not follow the texts".to_owned());
    }
    Ok(Answered {
        vectors: answer.data.into_iter().map(|one| one.embedding).collect(),
        tokens: answer.usage.unwrap_or_default().total_tokens,
    })
}

fn ollama_vectors(answer: &[u8]) -> Result<Answered, String> {
    #[derive(Deserialize)]
    struct All {
        embeddings: Vec<Vec<f32>>,
        #[serde(default)]
        prompt_eval_count: u64,
    }
    let answer: All = serde_json::from_slice(answer).map_err(|e| e.to_string())?;
    Ok(Answered {
        vectors: answer.embeddings,
        tokens: answer.prompt_eval_count,
    })
}

fn gemini_vectors(purpose: Purpose, answer: &[u8]) -> Result<Answered, String> {
    #[derive(Deserialize)]
    struct One {
        values: Vec<f32>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct Usage {
        #[serde(default)]
        prompt_token_count: u64,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct All {
        embedding: Option<One>,
        embeddings: Option<Vec<One>>,
        usage_metadata: Option<Usage>,
    }
    let answer: All = serde_json::from_slice(answer).map_err(|e| e.to_string())?;
    let all = match purpose {
        Purpose::Query => answer.embedding.map(|one| vec![one]),
        Purpose::Document => answer.embeddings,
    };
    Ok(Answered {
        vectors: all
            .ok_or("it has no embeddings")?
            .into_iter()
            .map(|one| one.values)
            .collect(),
        tokens: answer.usage_metadata.unwrap_or_default().prompt_token_count,
    })
}

/// As people write it: with the service's name before it, or Google's `models/`.
fn gemini_name(model: &Model) -> &str {
    let name = model.name.trim();
    let name = name.strip_prefix("models/").unwrap_or(name);
    ["gemini/", "google/"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name)
}

fn gemini(model: &Model, purpose: Purpose, text: &str) -> Value {
    let (task, words) = match purpose {
        Purpose::Query => ("RETRIEVAL_QUERY", "task: search result | query:"),
        Purpose::Document => ("RETRIEVAL_DOCUMENT", "title: none | text:"),
    };
    let name = gemini_name(model);
    let mut body = match name {
        GEMINI_2 => json!({ "content": { "parts": [{ "text": format!("{words} {text}") }] } }),
        _ => json!({ "content": { "parts": [{ "text": text }] }, "taskType": task }),
    };
    let usual = name.starts_with(GEMINI_2).then_some(GEMINI_2_DIMENSIONS);
    if GEMINI_SIZED.contains(&name)
        && let Some(dimensions) = model.dimensions.or(usual)
    {
        body["outputDimensionality"] = json!(dimensions);
    }
    body
}

/// How long Google's error asks to wait: the longest `google.rpc.RetryInfo` of its details, such as `"12.5s"`.
pub(super) fn retry_info(body: &[u8]) -> Option<Duration> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let details = body["error"]["details"].as_array()?;
    let waits = details.iter().filter_map(|detail| {
        if detail["@type"] != "type.googleapis.com/google.rpc.RetryInfo" {
            return None;
        }
        let seconds = detail["retryDelay"].as_str()?.trim().strip_suffix('s')?;
        let seconds: f64 = seconds.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    });
    waits.max()
}
