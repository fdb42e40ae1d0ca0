//! A service over HTTP, in whichever [`Dialect`]: batches, waits, limits, what it cost.

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use reqwest::header;
use serde_json::Value;

use super::dialect::{Answered, Dialect, retry_info};
use super::{EmbedError, Embedder, EmbedderSettings, Model, Purpose, Usage};

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

pub(super) struct Service {
    model: Model,
    dialect: Dialect,
    base: String,
    key: Option<String>,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    usage: Mutex<Usage>,
}

/// What became of one request.
enum Outcome {
    Vectors(Answered),
    /// Worth another one, after what the service asked for.
    Again(EmbedError, Option<Duration>),
    Never(EmbedError),
}

impl Service {
    pub(super) fn new(
        settings: &EmbedderSettings,
        client: reqwest::Client,
        key: Option<String>,
    ) -> Result<Self, EmbedError> {
        let wrong = |why: String| Err(EmbedError::Settings(why));
        let Some(dialect) = Dialect::of(&settings.model.provider) else {
            return wrong(format!(
                "{} is no provider known here: openai, ollama, gemini or voyage",
                settings.model.provider
            ));
        };
        if let Err(why) = dialect.check(&settings.model) {
            return wrong(why);
        }
        let base = settings.at.trim_end_matches('/');
        let usable = reqwest::Url::parse(base)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !usable {
            return wrong(format!("{base} is no http address"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| EmbedError::Settings(error.to_string()))?;
        Ok(Self {
            model: settings.model.clone(),
            dialect,
            base: base.to_owned(),
            key,
            client,
            runtime,
            usage: Mutex::default(),
        })
    }

    fn batch(
        &self,
        purpose: Purpose,
        texts: &[&str],
        attempts: u32,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        let url = self.dialect.url(&self.base, &self.model, purpose);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let left = deadline.map_or(REQUEST_TIME_MAX, |deadline| {
                deadline
                    .saturating_duration_since(Instant::now())
                    .min(REQUEST_TIME_MAX)
            });
            let late = || EmbedError::TimedOut {
                at: url.clone(),
                after: left,
            };
            // One runtime for all: connections are kept between batches.
            let outcome = self.runtime.block_on(async {
                tokio::time::timeout(left, self.request(&url, purpose, texts))
                    .await
                    .unwrap_or_else(|_elapsed| Outcome::Again(late(), None))
            });
            {
                let mut usage = self.usage.lock();
                usage.requests += 1;
                usage.repeats += u64::from(attempt > 1);
            }
            let (error, asked) = match outcome {
                Outcome::Vectors(Answered { vectors, tokens }) => {
                    let mut usage = self.usage.lock();
                    usage.texts += texts.len() as u64;
                    usage.tokens += tokens;
                    return Ok(vectors);
                }
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

    async fn request(&self, url: &str, purpose: Purpose, texts: &[&str]) -> Outcome {
        let body = self.dialect.body(&self.model, purpose, texts);
        let mut request = self.client.post(url).json(&body);
        if let Some(key) = &self.key {
            let (name, value) = self.dialect.key_header(key);
            request = request.header(name, value);
        }
        let unreachable = |error: &reqwest::Error| EmbedError::Unreachable {
            at: url.to_owned(),
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
                    return Outcome::Never(
                        self.garbage(url, &format!("over {ANSWER_BYTES_MAX} bytes")),
                    );
                }
                Ok(None) => break,
                Err(error) => return Outcome::Again(unreachable(&error), asked),
            }
        }
        if !status.is_success() {
            let asked = match self.dialect {
                Dialect::Gemini => asked.max(retry_info(&answer)),
                _ => asked,
            };
            let error = EmbedError::Refused {
                at: url.to_owned(),
                status: status.as_u16(),
                why: self.without_key(&reason(&answer)),
            };
            return match status.as_u16() {
                408 | 425 | 429 | 500..=599 => Outcome::Again(error, asked),
                _ => Outcome::Never(error),
            };
        }
        match self.dialect.vectors(purpose, &answer, texts.len()) {
            Ok(answered) => Outcome::Vectors(answered),
            Err(why) => Outcome::Never(self.garbage(url, &why)),
        }
    }

    fn garbage(&self, url: &str, why: &str) -> EmbedError {
        EmbedError::Garbage {
            at: url.to_owned(),
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

    fn usage(&self) -> Usage {
        *self.usage.lock()
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
        let texts_max = self.dialect.texts_max(purpose, TEXTS_MAX);
        let mut out = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take(texts_max).take_while(|text| {
                bytes += text.len();
                bytes <= TEXT_BYTES_MAX
            });
            let (now, later) = rest.split_at(fitting.count().max(1));
            out.extend(self.batch(purpose, now, attempts, deadline)?);
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
