//! Which model an agent means, from the user's own configuration.
//!
//! Source: `models.providers` and `agents.*.model` as described in docs/concepts/models.md and
//! docs/gateway/configuration-reference.md of the package at 2026.9.6.

use serde_json::Value;

/// How a provider is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `POST {base}/chat/completions`, streamed.
    OpenAiCompletions,
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
    pub headers: Vec<(String, String)>,
    pub context_window: u64,
    pub max_tokens: u64,
    pub takes_images: bool,
    pub is_reasoning: bool,
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
        "models.providers.{provider}.api is {api}, which this gateway does not speak yet (openai-completions it does)"
    )]
    Api { provider: String, api: String },
    #[error("models.providers.{0}.baseUrl is missing")]
    NoAddress(String),
    #[error("models.providers.{provider}.apiKey refers to {name}, which has no value")]
    NoKey { provider: String, name: String },
}

const CONTEXT_WINDOW: u64 = 200_000;
const MAX_TOKENS: u64 = 8192;

impl Model {
    /// The model of an agent: what `chosen` names, else the agent's, else the default, else the first there is.
    ///
    /// `variable` gives the value of an environment variable, for keys that refer to one.
    ///
    /// # Errors
    /// See [`ModelError`].
    pub fn resolve(
        config: &Value,
        agent: &str,
        chosen: Option<&str>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ModelError> {
        let named = chosen
            .map(str::to_owned)
            .or_else(|| named_for(config, agent));
        let Some(named) = named else {
            let (provider, model) = first(config).ok_or(ModelError::None)?;
            return Self::of(config, &provider, &model, variable);
        };
        let (provider, id) = named
            .split_once('/')
            .ok_or_else(|| ModelError::Unknown(named.clone()))?;
        Self::of(config, provider, id, variable)
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
        variable: &dyn Fn(&str) -> Option<String>,
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
        let api = match api.and_then(Value::as_str).unwrap_or("openai-completions") {
            "openai-completions" => Api::OpenAiCompletions,
            other => {
                return Err(ModelError::Api {
                    provider: provider.to_owned(),
                    api: other.to_owned(),
                });
            }
        };
        let base_url = settings
            .get("baseUrl")
            .and_then(Value::as_str)
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
            api_key: key_of(provider, settings, variable)?,
            headers: headers_of(settings),
            context_window,
            max_tokens: number("maxTokens")
                .unwrap_or(MAX_TOKENS)
                .min(context_window),
            takes_images: own("input")
                .and_then(Value::as_array)
                .is_some_and(|kinds| kinds.iter().any(|kind| kind == "image")),
            is_reasoning: own("reasoning") == Some(&Value::Bool(true)),
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

fn named_for(config: &Value, agent: &str) -> Option<String> {
    let agents = config.get("agents")?;
    let keyed = agents.get("entries").and_then(|entries| entries.get(agent));
    let listed = agents
        .get("list")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|entry| entry.get("id").and_then(Value::as_str) == Some(agent));
    keyed
        .or(listed)
        .and_then(|entry| entry.get("model"))
        .and_then(name_in)
        .or_else(|| agents.pointer("/defaults/model").and_then(name_in))
}

fn key_of(
    provider: &str,
    settings: &Value,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, ModelError> {
    match settings.get("apiKey") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(key)) => Ok(Some(key.trim().to_owned()).filter(|key| !key.is_empty())),
        Some(reference) => {
            let name = reference.get("id").and_then(Value::as_str).unwrap_or("?");
            let is_env = reference.get("source").and_then(Value::as_str) == Some("env");
            let value = is_env.then(|| variable(name)).flatten();
            value.map(Some).ok_or_else(|| ModelError::NoKey {
                provider: provider.to_owned(),
                name: name.to_owned(),
            })
        }
    }
}

fn headers_of(settings: &Value) -> Vec<(String, String)> {
    let headers = settings.get("headers").and_then(Value::as_object);
    headers
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}
