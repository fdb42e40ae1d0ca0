//! Which model an agent means, from the user's own configuration.
//!
//! Source: `models.providers` and `agents.*.model` as described in docs/concepts/models.md and
//! docs/gateway/configuration-reference.md of the package at 2026.9.6.

use serde_json::Value;

use crate::thinking::{Contract, Level};

/// How a provider is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `POST {base}/v1/messages`.
    AnthropicMessages,
    /// `POST {base}/models/{id}:streamGenerateContent`.
    GoogleGenerativeAi,
    /// `POST {base}/api/chat`.
    Ollama,
    /// `POST {base}/chat/completions`.
    OpenAiCompletions,
    /// `POST {base}/responses`.
    OpenAiResponses,
}

impl Api {
    const ALL: [Self; 5] = [
        Self::AnthropicMessages,
        Self::GoogleGenerativeAi,
        Self::Ollama,
        Self::OpenAiCompletions,
        Self::OpenAiResponses,
    ];

    /// As `models.providers.*.api` says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AnthropicMessages => "anthropic-messages",
            Self::GoogleGenerativeAi => "google-generative-ai",
            Self::Ollama => "ollama",
            Self::OpenAiCompletions => "openai-completions",
            Self::OpenAiResponses => "openai-responses",
        }
    }

    /// What a provider of this name speaks, and where it is, when its settings don't say.
    fn of_provider(name: &str) -> (Self, Option<&'static str>) {
        match name {
            "anthropic" => (Self::AnthropicMessages, Some("https://api.anthropic.com")),
            "google" => (
                Self::GoogleGenerativeAi,
                Some("https://generativelanguage.googleapis.com/v1beta"),
            ),
            "ollama" => (Self::Ollama, Some("http://127.0.0.1:11434")),
            "openai" => (Self::OpenAiResponses, Some("https://api.openai.com/v1")),
            _ => (Self::OpenAiCompletions, None),
        }
    }
}

/// One model of one provider, ready to be called.
#[derive(Clone, PartialEq)]
pub struct Model {
    pub provider: String,
    pub id: String,
    pub name: String,
    pub api: Api,
    /// Without a slash at the end.
    pub base_url: String,
    pub api_key: Option<String>,
    /// The key goes into `Authorization`, whatever the protocol is used to.
    pub is_bearer: bool,
    pub headers: Vec<(String, String)>,
    pub context_window: u64,
    pub max_tokens: u64,
    pub takes_images: bool,
    pub is_reasoning: bool,
    /// How it is told to think.
    pub thinking: Contract,
    /// Price of a million tokens: input, output, cache read, cache write.
    pub cost: [f64; 4],
}

impl std::fmt::Debug for Model {
    /// Without the key and the headers, which may hold one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("provider", &self.provider)
            .field("id", &self.id)
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

/// Why a configuration names no model that can be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    #[error(
        "no model is configured: add one under models.providers in openclaw.json (baseUrl, api: \"openai-completions\", models), and name it in agents.defaults.model"
    )]
    None,
    #[error("the model {0} is not among models.providers in openclaw.json")]
    Unknown(String),
    #[error(
        "models.providers.{provider}.api is {api}, which this gateway does not speak yet (anthropic-messages, google-generative-ai, ollama, openai-completions and openai-responses it does)"
    )]
    Api { provider: String, api: String },
    #[error("models.providers.{0}.baseUrl is missing")]
    NoAddress(String),
    #[error("models.providers.{provider}.{key}: {reason}")]
    NoSecret {
        provider: String,
        key: String,
        reason: String,
    },
}

/// What a field that may hold a secret refers to: `None` when it is no reference, else the secret or why there is none.
pub type Follow<'a> = &'a dyn Fn(&Value) -> Option<Result<String, String>>;

const CONTEXT_WINDOW: u64 = 200_000;
const MAX_TOKENS: u64 = 8192;

impl Model {
    /// The model of an agent: what `chosen` names, else the agent's, else the default, else the first there is.
    ///
    /// `secret` follows a field that refers to a secret kept elsewhere; see [`Follow`].
    ///
    /// # Errors
    /// See [`ModelError`].
    pub fn resolve(
        config: &Value,
        agent: &str,
        chosen: Option<&str>,
        secret: Follow<'_>,
    ) -> Result<Self, ModelError> {
        let named = chosen
            .map(str::to_owned)
            .or_else(|| named_for(config, agent));
        let Some(named) = named else {
            let (provider, model) = first(config).ok_or(ModelError::None)?;
            return Self::of(config, &provider, &model, secret);
        };
        let (provider, id) = named
            .split_once('/')
            .ok_or_else(|| ModelError::Unknown(named.clone()))?;
        Self::of(config, provider, id, secret)
    }

    /// The models to ask when this one can't answer, in order. None for a model that a person chose.
    ///
    /// Source: docs/concepts/model-failover.md: an agent's own model is strict unless its own object lists others.
    pub fn fallbacks(config: &Value, agent: &str, chosen: Option<&str>) -> Vec<String> {
        if chosen.is_some() {
            return Vec::new();
        }
        let own = entry_of(config, agent).and_then(|entry| entry.get("model"));
        let listed = |model: &Value| {
            let names = model.get("fallbacks")?.as_array()?;
            let names = names.iter().filter_map(Value::as_str);
            Some(names.map(|name| name.trim().to_owned()).collect::<Vec<_>>())
        };
        match own {
            Some(own) if listed(own).is_some() || name_in(own).is_some() => {
                listed(own).unwrap_or_default()
            }
            _ => config
                .pointer("/agents/defaults/model")
                .and_then(listed)
                .unwrap_or_default(),
        }
    }

    /// How hard an agent's turns think with this model: what the configuration says, else the model's own default.
    ///
    /// Source: the order of docs/tools/thinking.md.
    pub fn thinking_default(&self, config: &Value, agent: &str) -> Level {
        let profile = crate::thinking::Profile::of(self);
        let configured = self.thinking_configured(config, agent);
        configured.map_or(profile.default(), |level| profile.nearest(level))
    }

    /// What the configuration says of it, whether the model can or not.
    pub fn thinking_configured(&self, config: &Value, agent: &str) -> Option<Level> {
        let own = entry_of(config, agent);
        let defaults = config.pointer("/agents/defaults");
        let word = |holder: Option<&Value>| {
            let said = holder?.get("thinkingDefault")?.as_str()?;
            Level::parse(said)
        };
        let named = format!("{}/{}", self.provider, self.id);
        let of_model = |holder: Option<&Value>| {
            let params = holder?.get("models")?.get(&named)?.get("params")?;
            match params.get("thinking")? {
                Value::Bool(false) => Some(Level::Off),
                Value::String(said) if said == "disabled" => Some(Level::Off),
                said => said.as_str().and_then(Level::parse),
            }
        };
        word(own)
            .or_else(|| of_model(own))
            .or_else(|| of_model(defaults))
            .or_else(|| word(defaults))
    }

    /// Every configured model, as `provider/id`.
    pub fn all(config: &Value) -> Vec<(String, Value)> {
        providers(config)
            .flat_map(|(provider, settings)| {
                let models = settings.get("models").and_then(Value::as_array);
                models
                    .into_iter()
                    .flatten()
                    .map(move |model| (provider.to_owned(), model.clone()))
            })
            .collect()
    }

    fn of(
        config: &Value,
        provider: &str,
        id: &str,
        secret: Follow<'_>,
    ) -> Result<Self, ModelError> {
        let unknown = || ModelError::Unknown(format!("{provider}/{id}"));
        let (_, settings) = providers(config)
            .find(|(name, _)| *name == provider)
            .ok_or_else(unknown)?;
        let models = settings.get("models").and_then(Value::as_array);
        let entry = models
            .into_iter()
            .flatten()
            .find(|model| model.get("id").and_then(Value::as_str) == Some(id));
        // A provider that lists none serves whatever is asked of it.
        let lists = models.is_some_and(|models| !models.is_empty());
        if entry.is_none() && lists {
            return Err(unknown());
        }
        let own = |key: &str| entry.and_then(|entry| entry.get(key));
        let api = own("api").or_else(|| settings.get("api"));
        let (usual, at) = Api::of_provider(provider);
        let api = match api.and_then(Value::as_str) {
            None => usual,
            Some(name) => *Api::ALL
                .iter()
                .find(|api| api.name() == name)
                .ok_or_else(|| ModelError::Api {
                    provider: provider.to_owned(),
                    api: name.to_owned(),
                })?,
        };
        let base_url = settings
            .get("baseUrl")
            .or_else(|| settings.get("baseURL"))
            .and_then(Value::as_str)
            .or(at)
            .map(|url| url.trim().trim_end_matches('/').to_owned())
            .filter(|url| !url.is_empty())
            .ok_or_else(|| ModelError::NoAddress(provider.to_owned()))?;
        let number = |key: &str| own(key).and_then(Value::as_u64).filter(|n| *n > 0);
        let context_window = number("contextWindow").unwrap_or(CONTEXT_WINDOW);
        let price = |key: &str| {
            own("cost")
                .and_then(|cost| cost.get(key))
                .and_then(Value::as_f64)
                .unwrap_or(0.0)
        };
        Ok(Self {
            provider: provider.to_owned(),
            id: id.to_owned(),
            name: own("name").and_then(Value::as_str).unwrap_or(id).to_owned(),
            api,
            base_url,
            api_key: key_of(provider, settings, secret)?,
            is_bearer: settings.get("authHeader") == Some(&Value::Bool(true)),
            headers: headers_of(provider, settings, secret)?,
            context_window,
            max_tokens: number("maxTokens")
                .or_else(|| {
                    settings
                        .get("maxTokens")
                        .and_then(Value::as_u64)
                        .filter(|n| *n > 0)
                })
                .unwrap_or(MAX_TOKENS)
                .min(context_window),
            takes_images: own("input")
                .and_then(Value::as_array)
                .is_some_and(|kinds| kinds.iter().any(|kind| kind == "image")),
            is_reasoning: own("reasoning") == Some(&Value::Bool(true)),
            thinking: Contract::of(entry),
            cost: [
                price("input"),
                price("output"),
                price("cacheRead"),
                price("cacheWrite"),
            ],
        })
    }

    /// In dollars.
    pub fn price(&self, usage: &crate::Usage) -> f64 {
        let [input, output, read, write] = self.cost;
        (usage.input as f64 * input
            + usage.output as f64 * output
            + usage.cache_read as f64 * read
            + usage.cache_write as f64 * write)
            / 1_000_000.0
    }
}

fn providers(config: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let providers = config
        .pointer("/models/providers")
        .and_then(Value::as_object);
    providers
        .into_iter()
        .flatten()
        .map(|(name, settings)| (name.as_str(), settings))
}

fn first(config: &Value) -> Option<(String, String)> {
    Model::all(config)
        .into_iter()
        .find_map(|(provider, model)| Some((provider, model.get("id")?.as_str()?.to_owned())))
}

/// What `model` says: a name, or `{primary: name}`.
fn name_in(model: &Value) -> Option<String> {
    let name = model
        .as_str()
        .or_else(|| model.get("primary").and_then(Value::as_str))?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn entry_of<'a>(config: &'a Value, agent: &str) -> Option<&'a Value> {
    let agents = config.get("agents")?;
    let keyed = agents.get("entries").and_then(|entries| entries.get(agent));
    let listed = agents
        .get("list")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|entry| entry.get("id").and_then(Value::as_str) == Some(agent));
    keyed.or(listed)
}

fn named_for(config: &Value, agent: &str) -> Option<String> {
    entry_of(config, agent)
        .and_then(|entry| entry.get("model"))
        .and_then(name_in)
        .or_else(|| config.pointer("/agents/defaults/model").and_then(name_in))
}

/// The text of a field that may hold a secret. `None`: there is none.
fn secret_in(
    provider: &str,
    key: &str,
    value: &Value,
    secret: Follow<'_>,
) -> Result<Option<String>, ModelError> {
    let wrong = |reason: String| ModelError::NoSecret {
        provider: provider.to_owned(),
        key: key.to_owned(),
        reason,
    };
    match (secret(value), value) {
        (Some(followed), _) => followed.map(Some).map_err(wrong),
        (None, Value::Null) => Ok(None),
        (None, Value::String(text)) => {
            Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
        }
        (None, _) => Err(wrong(
            "must be a text, or a reference {source, provider, id}".to_owned(),
        )),
    }
}

fn key_of(
    provider: &str,
    settings: &Value,
    secret: Follow<'_>,
) -> Result<Option<String>, ModelError> {
    let key = settings.get("apiKey").unwrap_or(&Value::Null);
    secret_in(provider, "apiKey", key, secret)
}

fn headers_of(
    provider: &str,
    settings: &Value,
    secret: Follow<'_>,
) -> Result<Vec<(String, String)>, ModelError> {
    let headers = settings.get("headers").and_then(Value::as_object);
    let mut all = Vec::new();
    for (name, value) in headers.into_iter().flatten() {
        let text = secret_in(provider, &format!("headers.{name}"), value, secret)?;
        all.extend(text.map(|text| (name.clone(), text)));
    }
    Ok(all)
}
