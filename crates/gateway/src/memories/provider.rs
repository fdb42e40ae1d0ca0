//! Who makes an agent's vectors: what `memory embedder` has chosen, else what `memory.search` of the user's file says.
//!
//! Source: docs/reference/memory-config.md at 2026.9.6, and extensions/google/embedding-provider.ts there for whose key goes
//! where. Only a provider that is named counts: without one, no text leaves this machine.

use memory::{Embedder, EmbedderSettings, Memory, MemoryError, Model};
use serde_json::Value;

use super::Shelf;
use crate::config::Secret;

/// A provider as the original knows it.
struct Known {
    id: &'static str,
    /// As `memory` has it.
    dialect: &'static str,
    /// In `models.providers`.
    entry: &'static str,
    at: &'static str,
    model: &'static str,
    key_variable: Option<&'static str>,
}

const KNOWN: [Known; 6] = [
    Known {
        id: "openai",
        dialect: "openai",
        entry: "openai",
        at: "https://api.openai.com/v1",
        model: "text-embedding-3-small",
        key_variable: Some("OPENAI_API_KEY"),
    },
    Known {
        id: "openai-compatible",
        dialect: "openai",
        entry: "",
        at: "",
        model: "",
        key_variable: None,
    },
    Known {
        id: "ollama",
        dialect: "ollama",
        entry: "ollama",
        at: "http://127.0.0.1:11434",
        model: "nomic-embed-text",
        key_variable: None,
    },
    Known {
        id: "gemini",
        dialect: "gemini",
        entry: "google",
        at: "https://generativelanguage.googleapis.com/v1beta",
        model: "gemini-embedding-001",
        key_variable: Some("GEMINI_API_KEY"),
    },
    Known {
        id: "voyage",
        dialect: "voyage",
        entry: "voyage",
        at: "https://api.voyageai.com/v1",
        model: "voyage-4-large",
        key_variable: Some("VOYAGE_API_KEY"),
    },
    Known {
        id: "mistral",
        dialect: "openai",
        entry: "mistral",
        at: "https://api.mistral.ai/v1",
        model: "mistral-embed",
        key_variable: Some("MISTRAL_API_KEY"),
    },
];

/// What the user's file says.
pub(super) enum Configured {
    Nothing,
    Service {
        settings: EmbedderSettings,
        /// As written in the file; without one, the variable of the settings has it.
        key: Option<Secret>,
    },
    Unusable(String),
}

/// An embedder that can be asked, or why the words must answer alone.
pub(super) type Chosen = Result<Option<Box<dyn Embedder>>, String>;

/// The usual address, model and key variable of a service that `memory embedder` names.
pub(crate) fn usual(provider: &str) -> Option<(&'static str, &'static str, Option<&'static str>)> {
    let known = KNOWN.iter().find(|known| known.dialect == provider)?;
    Some((known.at, known.model, known.key_variable))
}

/// `setting`: of `memory.search`, the agent's own or the general one.
pub(super) fn configured(config: &Value, setting: impl Fn(&str) -> Option<Value>) -> Configured {
    let text = |value: Option<Value>| {
        let text = value.and_then(|value| value.as_str().map(|text| text.trim().to_owned()));
        text.filter(|text| !text.is_empty())
    };
    let provider = match text(setting("provider")).as_deref() {
        None | Some("none" | "auto") => return Configured::Nothing,
        Some(named) => named.to_owned(),
    };
    let Some(known) = KNOWN.iter().find(|known| known.id == provider) else {
        let all: Vec<&str> = KNOWN.iter().map(|known| known.id).collect();
        return Configured::Unusable(format!(
            "memory.search.provider {provider} is not known here (known are {})",
            all.join(", ")
        ));
    };
    let entry = |name: &str| {
        let path = format!("/models/providers/{}/{name}", known.entry);
        text(config.pointer(&path).cloned()).filter(|_| !known.entry.is_empty())
    };
    let address = |at: String| match known.dialect {
        "gemini" => gemini_base(&at),
        _ => at.trim_end_matches('/').to_owned(),
    };
    let own = address(entry("baseUrl").unwrap_or_else(|| known.at.to_owned()));
    let at = text(setting("remote/baseUrl")).map_or_else(|| own.clone(), address);
    let model = text(setting("model")).unwrap_or_else(|| known.model.to_owned());
    let model = model
        .strip_prefix(&format!("{}/", known.id))
        .map_or(model.clone(), str::to_owned);
    if at.is_empty() || model.is_empty() {
        return Configured::Unusable(format!(
            "memory.search.provider {provider} needs memory.search.remote.baseUrl and memory.search.model"
        ));
    }
    // A provider's key goes to the provider alone.
    let is_own = at == own;
    let key = text(setting("remote/apiKey")).or_else(|| entry("apiKey").filter(|_| is_own));
    let dimensions = setting("outputDimensionality").and_then(|value| value.as_u64());
    let key_variable = known
        .key_variable
        .filter(|_| key.is_none() && is_own)
        .map(str::to_owned);
    Configured::Service {
        settings: EmbedderSettings {
            model: Model {
                provider: known.dialect.to_owned(),
                name: model,
                dimensions: dimensions.and_then(|number| usize::try_from(number).ok()),
            },
            at,
            key_variable,
        },
        key: key.map(Secret::new),
    }
}

/// Google's chat address has `/openai` at its end, which the embeddings have not.
fn gemini_base(at: &str) -> String {
    let at = at
        .split("/openai")
        .next()
        .unwrap_or(at)
        .trim_end_matches('/');
    match at {
        "https://generativelanguage.googleapis.com" => format!("{at}/v1beta"),
        at => at.to_owned(),
    }
}

/// Which service it is, asked or not.
///
/// # Errors
/// The database's.
pub(super) fn settings(
    memory: &Memory,
    shelf: &Shelf,
) -> Result<Option<EmbedderSettings>, MemoryError> {
    if let Some(chosen) = memory.embedder(&shelf.agent)? {
        return Ok(Some(chosen));
    }
    Ok(match &shelf.provider {
        Configured::Service { settings, .. } => Some(settings.clone()),
        Configured::Nothing | Configured::Unusable(_) => None,
    })
}

/// The embedder itself.
///
/// # Errors
/// The database's.
pub(super) fn open(memory: &Memory, shelf: &Shelf) -> Result<Chosen, MemoryError> {
    if memory.embedder(&shelf.agent)?.is_some() {
        return Ok(super::embedder(memory, &shelf.agent).map_err(|error| error.to_string()));
    }
    Ok(match &shelf.provider {
        Configured::Nothing => Ok(None),
        Configured::Unusable(why) => Err(why.clone()),
        Configured::Service { settings, key } => super::client()
            .map_err(|error| error.to_string())
            .and_then(|client| {
                let opened = match key {
                    Some(key) => settings.open_with(&client, Some(key.expose().to_owned())),
                    None => settings.open(&client),
                };
                opened.map(Some).map_err(|error| error.to_string())
            }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(
        search: Value,
        models: Value,
    ) -> Result<(String, String, String, Option<String>), String> {
        let config = json!({ "models": { "providers": models } });
        let setting = |name: &str| search.pointer(&format!("/{name}")).cloned();
        match configured(&config, setting) {
            Configured::Nothing => Err("nothing".to_owned()),
            Configured::Unusable(why) => Err(why),
            Configured::Service { settings, key } => Ok((
                settings.model.provider,
                settings.model.name,
                settings.at,
                key.map(|key| key.expose().to_owned())
                    .or(settings.key_variable),
            )),
        }
    }

    fn row(
        all: [&str; 3],
        key: Option<&str>,
    ) -> Result<(String, String, String, Option<String>), String> {
        let [provider, model, at] = all.map(str::to_owned);
        Ok((provider, model, at, key.map(str::to_owned)))
    }

    #[test]
    fn only_a_named_provider_counts_and_its_key_goes_to_itself_alone() {
        for search in [
            json!({}),
            json!({ "provider": "none" }),
            json!({ "provider": "auto" }),
        ] {
            assert_eq!(check(search, json!({})), Err("nothing".to_owned()));
        }
        let gemini = "https://generativelanguage.googleapis.com/v1beta";
        assert_eq!(
            check(json!({ "provider": "gemini" }), json!({})),
            row(
                ["gemini", "gemini-embedding-001", gemini],
                Some("GEMINI_API_KEY")
            )
        );
        let google = json!({ "google": { "apiKey": "k", "baseUrl": format!("{gemini}/openai/") } });
        assert_eq!(
            check(
                json!({ "provider": "gemini", "model": "gemini-embedding-2" }),
                google.clone()
            ),
            row(["gemini", "gemini-embedding-2", gemini], Some("k"))
        );
        let elsewhere =
            json!({ "provider": "gemini", "remote": { "baseUrl": "http://127.0.0.1:1/v1beta" } });
        assert_eq!(
            check(elsewhere, google),
            row(
                [
                    "gemini",
                    "gemini-embedding-001",
                    "http://127.0.0.1:1/v1beta"
                ],
                None
            )
        );
        assert_eq!(
            check(
                json!({ "provider": "voyage", "model": "voyage/voyage-3", "remote": { "apiKey": "r" } }),
                json!({})
            ),
            row(
                ["voyage", "voyage-3", "https://api.voyageai.com/v1"],
                Some("r")
            )
        );
        assert!(check(json!({ "provider": "openai-compatible" }), json!({})).is_err());
        let why = check(json!({ "provider": "bedrock" }), json!({})).unwrap_err();
        assert!(why.contains("bedrock is not known here"), "{why}");
    }
}
