//! Texts to vectors, by whichever service or table was chosen.

use std::time::{Duration, Instant};

mod dialect;
mod http;

/// Which vectors may be compared: those of one provider, model and length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// `openai` (and all that speak its `/v1/embeddings`), `ollama`, `gemini` or `voyage`; after an `@` the address, where it
    /// alone tells whose model a name is.
    pub provider: String,
    pub name: String,
    /// As asked for; `None` when the model decides.
    pub dimensions: Option<usize>,
}

impl Model {
    /// # Errors
    /// Why it can't be asked for vectors of this length.
    pub fn check(&self) -> Result<(), String> {
        dialect::Dialect::of(&self.provider).map_or(Ok(()), |dialect| dialect.check(self))
    }
}

/// What a text is for: some models want to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Query,
    Document,
}

/// What was asked of a service and what it says that this cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub requests: u64,
    /// Of these, asked again after the service was busy or away.
    pub repeats: u64,
    /// Texts that were answered with a vector.
    pub texts: u64,
    /// As the service counts them; 0 from one that does not say.
    pub tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.repeats += other.repeats;
        self.texts += other.texts;
        self.tokens += other.tokens;
    }
}

/// Makes vectors of texts. Calls block.
pub trait Embedder: Send + Sync {
    fn model(&self) -> &Model;

    /// Since this was made; nothing of what works by itself.
    fn usage(&self) -> Usage {
        Usage::default()
    }

    /// One vector for each text, in order, all of one length; none is sent again once the deadline passed.
    ///
    /// # Errors
    /// [`EmbedError`]: nothing of the batch can be used.
    fn embed(
        &self,
        purpose: Purpose,
        texts: &[&str],
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>, EmbedError>;
}

/// Where vectors come from, as it is kept beside the memory whose vectors they are. A key is never part of it, only the
/// name of the environment variable that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedderSettings {
    pub model: Model,
    /// `http://127.0.0.1:11434` for Ollama; up to and with `/v1` for OpenAI's kind and Voyage, `/v1beta` for Gemini.
    pub at: String,
    pub key_variable: Option<String>,
}

impl EmbedderSettings {
    /// # Errors
    /// [`EmbedError::Settings`] for an unknown provider, an unusable address, a missing key.
    pub fn open(&self, client: &reqwest::Client) -> Result<Box<dyn Embedder>, EmbedError> {
        self.open_with(client, self.key()?)
    }

    fn key(&self) -> Result<Option<String>, EmbedError> {
        let Some(name) = &self.key_variable else {
            return Ok(None);
        };
        match std::env::var(name) {
            Ok(key) if !key.trim().is_empty() => Ok(Some(key.trim().to_owned())),
            _ => Err(EmbedError::Settings(format!(
                "the environment variable {name} has no key"
            ))),
        }
    }

    /// [`EmbedderSettings::open`] with a key that comes from elsewhere.
    ///
    /// # Errors
    /// [`EmbedError::Settings`] for an unknown provider or an unusable address.
    pub fn open_with(
        &self,
        client: &reqwest::Client,
        key: Option<String>,
    ) -> Result<Box<dyn Embedder>, EmbedError> {
        Ok(Box::new(http::Service::new(self, client.clone(), key)?))
    }
}

/// Why there is no vector. Never says a key.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[error("embeddings: {0}")]
    Settings(String),
    #[error("no embeddings: {at} can't be reached ({why}): check that it runs, and its address")]
    Unreachable { at: String, why: String },
    #[error("no embeddings: {at} answered {status}: {why}")]
    Refused {
        at: String,
        status: u16,
        why: String,
    },
    #[error("no embeddings: {at} gave no answer within {} ms", after.as_millis())]
    TimedOut { at: String, after: Duration },
    #[error(
        "no embeddings: {at} sent something else ({why}): check that it is an embeddings service of this kind"
    )]
    Garbage { at: String, why: String },
}
