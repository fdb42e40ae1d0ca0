//! Services: OpenAI's `/v1/embeddings` (OpenAI, LM Studio, llama.cpp, vLLM, Mistral and their like) and Ollama's own
//! `/api/embed`.

use std::time::{Duration, Instant, SystemTime};

use reqwest::header;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{EmbedError, Embedder, EmbedderSettings, Model, Purpose};

/// Of one request: services take 2048 texts at most, small ones fewer.
const TEXTS_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 256 * 1024;
/// 64 vectors of 8192 numbers as text.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
const ERROR_BYTES_MAX: usize = 300;
const ATTEMPTS_MAX: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// A service that wants a longer one is asked again at the next indexing.
const WAIT_MAX: Duration = Duration::from_secs(60);
const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);
const DIMENSIONS_MAX: usize = 8192;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    OpenAi,
    Ollama,
}

pub(super) struct Service {
    model: Model,
    dialect: Dialect,
    url: String,
    key: Option<String>,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

/// What became of one request.
enum Outcome {
    Vectors(Vec<Vec<f32>>),
    /// Worth another one, after what the service asked for.
    Again(EmbedError, Option<Duration>),
    Never(EmbedError),
}

impl Service {
    pub(super) fn new(
        settings: &EmbedderSettings,
        client: reqwest::Client,
    ) -> Result<Self, EmbedError> {
        let wrong = |why: String| Err(EmbedError::Settings(why));
        let (dialect, path) = match settings.model.provider.as_str() {
            "openai" => (Dialect::OpenAi, "embeddings"),
            "ollama" => (Dialect::Ollama, "api/embed"),
            other => {
                return wrong(format!(
                    "{other} is no provider known here: openai or ollama"
                ));
            }
        };
        let base = settings.at.trim_end_matches('/');
        let usable = reqwest::Url::parse(base)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !usable {
            return wrong(format!("{base} is no http address"));
        }
        let key = match &settings.key_variable {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(key) if !key.trim().is_empty() => Some(key.trim().to_owned()),
                _ => return wrong(format!("the environment variable {name} has no key")),
            },
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| EmbedError::Settings(error.to_string()))?;
        Ok(Self {
            model: settings.model.clone(),
            dialect,
            url: format!("{base}/{path}"),
            key,
            client,
            runtime,
        })
    }

    fn batch(
        &self,
        texts: &[&str],
        attempts: u32,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let left = deadline.map_or(REQUEST_TIME_MAX, |deadline| {
                deadline
                    .saturating_duration_since(Instant::now())
                    .min(REQUEST_TIME_MAX)
            });
            let late = || EmbedError::TimedOut {
                at: self.url.clone(),
                after: left,
            };
            // One runtime for all: connections are kept between batches.
            let outcome = self.runtime.block_on(async {
                tokio::time::timeout(left, self.request(texts))
                    .await
                    .unwrap_or_else(|_elapsed| Outcome::Again(late(), None))
            });
            let (error, asked) = match outcome {
                Outcome::Vectors(vectors) => return Ok(vectors),
                Outcome::Never(error) => return Err(error),
                Outcome::Again(error, asked) => (error, asked),
            };
            let wait = asked.unwrap_or(FIRST_WAIT * 2_u32.pow(attempt - 1));
            let over = deadline.is_some_and(|deadline| Instant::now() + wait >= deadline);
            if attempt >= attempts || wait > WAIT_MAX || over {
                return Err(error);
            }
            self.runtime
                .block_on(async { tokio::time::sleep(wait).await });
        }
    }

    async fn request(&self, texts: &[&str]) -> Outcome {
        let mut body = json!({ "model": self.model.name, "input": texts });
        if let Some(dimensions) = self.model.dimensions {
            body["dimensions"] = json!(dimensions);
        }
        let mut request = self.client.post(&self.url).json(&body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let unreachable = |error: &reqwest::Error| EmbedError::Unreachable {
            at: self.url.clone(),
            why: self.without_key(&chain(error)),
        };
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Outcome::Again(unreachable(&error), None),
        };
        let status = response.status();
        let asked = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
        let mut answer = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(piece)) if answer.len() + piece.len() <= ANSWER_BYTES_MAX => {
                    answer.extend_from_slice(&piece);
                }
                Ok(Some(_)) => {
                    return Outcome::Never(self.garbage(&format!("over {ANSWER_BYTES_MAX} bytes")));
                }
                Ok(None) => break,
                Err(error) => return Outcome::Again(unreachable(&error), asked),
            }
        }
        if !status.is_success() {
            let error = EmbedError::Refused {
                at: self.url.clone(),
                status: status.as_u16(),
                why: self.without_key(&reason(&answer)),
            };
            return match status.as_u16() {
                408 | 425 | 429 | 500..=599 => Outcome::Again(error, asked),
                _ => Outcome::Never(error),
            };
        }
        match self.vectors(&answer, texts.len()) {
            Ok(vectors) => Outcome::Vectors(vectors),
            Err(why) => Outcome::Never(self.garbage(&why)),
        }
    }

    fn vectors(&self, answer: &[u8], count: usize) -> Result<Vec<Vec<f32>>, String> {
        #[derive(Deserialize)]
        struct One {
            index: usize,
            embedding: Vec<f32>,
        }
        #[derive(Deserialize)]
        struct OpenAi {
            data: Vec<One>,
        }
        #[derive(Deserialize)]
        struct Ollama {
            embeddings: Vec<Vec<f32>>,
        }
        let vectors = match self.dialect {
            Dialect::Ollama => {
                let answer: Ollama = serde_json::from_slice(answer).map_err(|e| e.to_string())?;
                answer.embeddings
            }
            Dialect::OpenAi => {
                let mut answer: OpenAi =
                    serde_json::from_slice(answer).map_err(|e| e.to_string())?;
                answer.data.sort_by_key(|one| one.index);
                if answer
                    .data
                    .iter()
                    .enumerate()
                    .any(|(at, one)| one.index != at)
                {
                    return Err("its vectors do not follow the texts".to_owned());
                }
                answer.data.into_iter().map(|one| one.embedding).collect()
            }
        };
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
        Ok(vectors)
    }

    fn garbage(&self, why: &str) -> EmbedError {
        EmbedError::Garbage {
            at: self.url.clone(),
            why: self.without_key(why),
        }
    }

    /// Some services repeat the key in their refusal.
    fn without_key(&self, text: &str) -> String {
        match &self.key {
            Some(key) => text.replace(key.as_str(), "(the key)"),
            None => text.to_owned(),
        }
    }
}

impl Embedder for Service {
    fn model(&self) -> &Model {
        &self.model
    }

    fn embed(
        &self,
        purpose: Purpose,
        texts: &[&str],
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        // Somebody waits for a question's vector, and there is the keyword index.
        let attempts = match purpose {
            Purpose::Query => 1,
            Purpose::Document => ATTEMPTS_MAX,
        };
        let mut out = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take(TEXTS_MAX).take_while(|text| {
                bytes += text.len();
                bytes <= TEXT_BYTES_MAX
            });
            let (now, later) = rest.split_at(fitting.count().max(1));
            out.extend(self.batch(now, attempts, deadline)?);
            rest = later;
        }
        Ok(out)
    }
}

/// Seconds or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    value.parse().ok().map(Duration::from_secs).or_else(|| {
        let at = httpdate::parse_http_date(value).ok()?;
        Some(at.duration_since(now).unwrap_or_default())
    })
}

/// The service's own words, cut.
fn reason(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let parsed: Option<Value> = serde_json::from_str(&text).ok();
    let said = parsed.as_ref().and_then(|value| {
        let error = &value["error"];
        error.as_str().or_else(|| error["message"].as_str())
    });
    let said: String = said
        .unwrap_or(&text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(ERROR_BYTES_MAX)
        .collect();
    if said.is_empty() {
        "no reason given".to_owned()
    } else {
        said
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        out.push_str(": ");
        out.push_str(&error.to_string());
        cause = error.source();
    }
    out
}

#[cfg(test)]
mod tests;
