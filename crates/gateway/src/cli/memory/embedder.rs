//! Which service makes an agent's vectors, kept beside them; the key stays in the environment.

use memory::{Agent, EmbedderSettings, Memory, Model};
use serde_json::json;

use super::Said;
use crate::memories::provider;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Choice {
    /// `openai` for it and all that have its `/v1/embeddings`, `ollama`, `gemini`, `voyage`, or `none`; without it, what is chosen
    /// is shown.
    provider: Option<String>,
    /// The service's address: `https://api.openai.com/v1`, `http://127.0.0.1:11434` for Ollama.
    #[arg(long)]
    url: Option<String>,
    /// `text-embedding-3-small`, `nomic-embed-text` for Ollama.
    #[arg(long)]
    model: Option<String>,
    /// Numbers of a vector, for models that let one choose.
    #[arg(long)]
    dimensions: Option<usize>,
    /// The environment variable that has the key; at the usual addresses `OPENAI_API_KEY`, `GEMINI_API_KEY` or `VOYAGE_API_KEY`.
    #[arg(long)]
    key_variable: Option<String>,
}

pub(super) fn choose(memory: &mut Memory, agent: &Agent, choice: &Choice) -> anyhow::Result<Said> {
    if let Some(provider) = &choice.provider {
        let settings = match (provider.as_str(), provider::usual(provider)) {
            ("none", _) => None,
            (_, Some(usual)) => Some(settings(choice, provider, usual)),
            (other, None) => anyhow::bail!(
                "{other} is no provider known here: openai, ollama, gemini, voyage or none"
            ),
        };
        memory.set_embedder(agent, settings.as_ref())?;
    }
    let Some(settings) = memory.embedder(agent)? else {
        return Ok((
            json!({ "provider": "none" }),
            "none: the words are searched alone".to_owned(),
            true,
        ));
    };
    let EmbedderSettings {
        model,
        at,
        key_variable,
    } = &settings;
    let text = format!(
        "{} {} at {at}, key {}\nmemory index makes the vectors that are missing",
        model.provider,
        model.name,
        key_variable
            .as_ref()
            .map_or_else(|| "none".to_owned(), |name| format!("in {name}"))
    );
    let value = json!({
        "provider": model.provider, "model": model.name, "dimensions": model.dimensions, "url": at, "keyVariable": key_variable,
    });
    Ok((value, text, true))
}

fn settings(
    choice: &Choice,
    provider: &str,
    (url, model, variable): (&str, &str, Option<&str>),
) -> EmbedderSettings {
    // A key goes to its own service by itself, elsewhere only when it is said.
    let usual = variable.filter(|_| choice.url.is_none()).map(str::to_owned);
    EmbedderSettings {
        model: Model {
            provider: provider.to_owned(),
            name: choice.model.clone().unwrap_or_else(|| model.to_owned()),
            dimensions: choice.dimensions,
        },
        at: choice.url.clone().unwrap_or_else(|| url.to_owned()),
        key_variable: choice.key_variable.clone().or(usual),
    }
}
