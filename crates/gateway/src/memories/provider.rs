//! Who makes an agent's vectors: what `memory embedder` has chosen, else what `memory.search` of the user's file says.
//!
//! Source: docs/reference/memory-config.md at 2026.9.6, and extensions/google/embedding-provider.ts there for whose key goes
//! where. Only a provider that is named counts: without one, no text leaves this machine.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use memory::{Agent, Embedder, EmbedderSettings, Memory, MemoryError, Model};
use serde_json::Value;

use super::Shelf;
use crate::config::{ConfigDocument, Env, Keepers, Paths, Secret, SecretRef, Secrets};
use crate::native::Facts;
use crate::native::agents::Roster;

/// Settings of the original's that change nothing here.
const IGNORED: [&str; 5] = [
    "fallback",
    "inputType",
    "queryInputType",
    "documentInputType",
    "remote/headers",
];

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
    Service(Box<Service>),
    Unusable(String),
}

pub(super) struct Service {
    /// As it was named.
    id: &'static str,
    settings: EmbedderSettings,
    /// Without one, the variable of the settings has it.
    key: Option<Key>,
    /// What is set and not honoured.
    ignored: Vec<&'static str>,
}

/// Where a key is that the file has.
enum Key {
    Written(Secret),
    Kept(SecretRef),
    /// There is one that can't be used, and why.
    Unusable(String),
}

impl Key {
    /// # Errors
    /// What is wrong with it.
    fn of(config: &Value, value: &Value) -> Result<Self, &'static str> {
        if let Some(reference) = SecretRef::of(config, value) {
            return Ok(Self::Kept(reference));
        }
        match value.as_str().map(str::trim) {
            Some(text) if names_variable(text) => Err("names a variable that has no value"),
            Some(text) => Ok(Self::Written(Secret::new(text))),
            None => Err("is neither a text nor a reference to a secret"),
        }
    }
}

/// Whether a `${NAME}` is left: one that has a value was replaced when the file was read.
fn names_variable(text: &str) -> bool {
    text.split("${").skip(1).any(|rest| {
        rest.split_once('}').is_some_and(|(name, _)| {
            let is_meant = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
            !name.is_empty() && name.bytes().all(is_meant)
        })
    })
}

/// Where keys are looked up, as of the last reading of the user's file.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pub(crate) env: ArcSwap<Env>,
    pub(crate) secrets: ArcSwap<Secrets>,
}

impl Keys {
    fn open(
        &self,
        settings: &EmbedderSettings,
        key: Option<&Key>,
    ) -> Result<Box<dyn Embedder>, String> {
        let client = super::client().map_err(|error| error.to_string())?;
        let key = match (key, &settings.key_variable) {
            (Some(Key::Written(key)), _) => Some(key.expose().to_owned()),
            (Some(Key::Unusable(why)), _) => return Err(why.clone()),
            (Some(Key::Kept(reference)), _) => {
                let found = self.secrets.load().followed(reference);
                let key = found.map_err(|why| format!("no key of the embedder: {why}"))?;
                Some(key.expose().trim().to_owned())
            }
            (None, Some(name)) => self.env.load().trimmed(name).map(str::to_owned),
            (None, None) => None,
        };
        let opened = match key {
            Some(key) => settings.open_with(&client, Some(key)),
            None => settings.open(&client),
        };
        opened.map_err(|error| error.to_string())
    }
}

/// The references of the user's file that keys of embedding services are kept behind.
pub(crate) fn references(config: &Value) -> BTreeSet<SecretRef> {
    let roster = Roster::read(config);
    let own = roster
        .agents
        .iter()
        .map(|agent| agent.entry.get("memory")?.get("search"));
    let mut found = BTreeSet::new();
    for search in own.chain([config.pointer("/memory/search")]).flatten() {
        let id = search["provider"].as_str().map(str::trim);
        let known = KNOWN.iter().find(|known| Some(known.id) == id);
        let entry = known
            .and_then(|known| config.pointer(&format!("/models/providers/{}/apiKey", known.entry)));
        let fields = search.pointer("/remote/apiKey").into_iter().chain(entry);
        found.extend(fields.filter_map(|value| SecretRef::of(config, value)));
    }
    found
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
        let value = config.pointer(&path).cloned();
        value.filter(|_| !known.entry.is_empty())
    };
    let address = |at: String| match known.dialect {
        "gemini" => gemini_base(&at),
        _ => at.trim_end_matches('/').to_owned(),
    };
    let own = address(text(entry("baseUrl")).unwrap_or_else(|| known.at.to_owned()));
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
    let present = |value: Option<Value>| {
        let is_blank = |value: &Value| value.as_str().is_some_and(|text| text.trim().is_empty());
        value.filter(|value| !value.is_null() && !is_blank(value))
    };
    let key = present(setting("remote/apiKey"))
        .map(|value| ("memory.search.remote.apiKey".to_owned(), value))
        .or_else(|| {
            let value = present(entry("apiKey")).filter(|_| is_own)?;
            Some((format!("models.providers.{}.apiKey", known.entry), value))
        });
    let key = key.map(|(path, value)| {
        let key = Key::of(config, &value);
        key.unwrap_or_else(|why| Key::Unusable(format!("{path} {why}")))
    });
    let dimensions = match present(setting("outputDimensionality")) {
        None => None,
        Some(value) => match value.as_u64().map(usize::try_from) {
            Some(Ok(number)) if number > 0 => Some(number),
            _ => {
                return Configured::Unusable(
                    "memory.search.outputDimensionality is no whole number above 0".to_owned(),
                );
            }
        },
    };
    let key_variable = known
        .key_variable
        .filter(|_| key.is_none() && is_own)
        .map(str::to_owned);
    let model = Model {
        // Whoever speaks it: one name may be another model at another address.
        provider: match known.id {
            "openai-compatible" => format!("{}@{at}", known.dialect),
            _ => known.dialect.to_owned(),
        },
        name: model,
        dimensions,
    };
    if let Err(why) = model.check() {
        return Configured::Unusable(format!("memory.search.outputDimensionality: {why}"));
    }
    let is_set = |name: &str| match setting(name) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !matches!(text.trim(), "" | "none"),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(_) => true,
    };
    Configured::Service(Box::new(Service {
        id: known.id,
        settings: EmbedderSettings {
            model,
            at,
            key_variable,
        },
        key,
        ignored: IGNORED.into_iter().filter(|name| is_set(name)).collect(),
    }))
}

/// Google's chat address has `/openai` at its end, which the embeddings have not.
fn gemini_base(at: &str) -> String {
    let at = at.trim_end_matches('/');
    let Ok(mut url) = reqwest::Url::parse(at) else {
        return at.to_owned();
    };
    let path = url.path().split("/openai").next().unwrap_or_default();
    let path = match (url.host_str(), path.trim_end_matches('/')) {
        (Some("generativelanguage.googleapis.com"), "") => "/v1beta".to_owned(),
        (_, path) => path.to_owned(),
    };
    url.set_path(&path);
    url.as_str().trim_end_matches('/').to_owned()
}

/// What the user's file says of the embedder and nothing heeds.
pub(super) fn ignored(shelf: &Shelf) -> Option<String> {
    let Configured::Service(service) = &shelf.provider else {
        return None;
    };
    let names = service.ignored.iter().map(|name| name.replace('/', "."));
    let names: Vec<String> = names.map(|name| format!("memory.search.{name}")).collect();
    (!names.is_empty()).then(|| format!("not honoured here: {}", names.join(", ")))
}

/// Which service it is, asked or not, and how it is called by whoever chose it.
///
/// # Errors
/// The database's.
pub(super) fn settings(
    memory: &Memory,
    shelf: &Shelf,
) -> Result<Option<(String, EmbedderSettings)>, MemoryError> {
    if let Some(chosen) = memory.embedder(&shelf.agent)? {
        return Ok(Some((chosen.model.provider.clone(), chosen)));
    }
    Ok(match &shelf.provider {
        Configured::Service(service) => Some((service.id.to_owned(), service.settings.clone())),
        Configured::Nothing | Configured::Unusable(_) => None,
    })
}

/// The model whose vectors an agent has, for a program that runs beside the gateway. No key is looked for: none is needed to know
/// it, and a person's own program might be run for one.
///
/// # Errors
/// The database's, the user's file's.
pub(crate) fn model_from_files(
    memory: &Memory,
    agent: &Agent,
    env: &Env,
    paths: &Paths,
) -> anyhow::Result<Option<Model>> {
    if let Some(chosen) = memory.embedder(agent)? {
        return Ok(Some(chosen.model));
    }
    let document = ConfigDocument::load(paths, env)?;
    let facts = facts(document.resolved, paths);
    let Some(shelf) = Shelf::of(&facts, agent.as_str()) else {
        return Ok(None);
    };
    match &shelf.provider {
        Configured::Unusable(why) => Err(anyhow::Error::msg(why.clone())),
        Configured::Nothing | Configured::Service(_) => {
            let settings = settings(memory, &shelf)?;
            Ok(settings.map(|(_, settings)| settings.model))
        }
    }
}

fn facts(config: Value, paths: &Paths) -> Facts {
    Facts {
        config,
        state_dir: paths.state_dir.clone(),
        home: paths.home.clone(),
        ..Facts::default()
    }
}

/// [`open`] for a program that runs beside the gateway: keys come from the same places. Blocks on programs that keep secrets, if
/// one of them has the key.
///
/// # Errors
/// Why the words must answer alone: the database's, the user's file's, the key's.
pub(crate) fn from_files(
    memory: &Memory,
    agent: &Agent,
    env: &Env,
    paths: &Paths,
) -> anyhow::Result<Option<Box<dyn Embedder>>> {
    let chosen = memory.embedder(agent)?;
    let document = match (ConfigDocument::load(paths, env), &chosen) {
        (Ok(document), _) => document,
        // Chosen here, with its key in the environment: another file's fault is no reason against it.
        (Err(_), Some(chosen)) => return Ok(Some(chosen.open(&super::client()?)?)),
        (Err(error), None) => return Err(error.into()),
    };
    let keys = Keys::default();
    keys.env.store(Arc::new(document.env.clone()));
    let facts = facts(document.resolved, paths);
    let opened = match (&chosen, Shelf::of(&facts, agent.as_str())) {
        (Some(chosen), _) => keys.open(chosen, None).map(Some),
        (None, None) => Ok(None),
        (None, Some(shelf)) => {
            if let Configured::Service(service) = &shelf.provider
                && let Some(Key::Kept(reference)) = &service.key
            {
                let keepers = Keepers {
                    config: &facts.config,
                    env: &document.env,
                    paths,
                };
                let found = Secrets::resolve(BTreeSet::from([reference.clone()]), keepers);
                keys.secrets.store(Arc::new(found));
            }
            open(memory, &shelf, &keys)?
        }
    };
    opened.map_err(anyhow::Error::msg)
}

/// The embedder itself.
///
/// # Errors
/// The database's.
pub(super) fn open(memory: &Memory, shelf: &Shelf, keys: &Keys) -> Result<Chosen, MemoryError> {
    let chosen = memory.embedder(&shelf.agent)?;
    let opened = match (&chosen, &shelf.provider) {
        (Some(chosen), _) => keys.open(chosen, None),
        (None, Configured::Nothing) => return Ok(Ok(None)),
        (None, Configured::Unusable(why)) => Err(why.clone()),
        (None, Configured::Service(service)) => keys.open(&service.settings, service.key.as_ref()),
    };
    Ok(opened.map(Some))
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
            Configured::Service(service) => {
                let Service { settings, key, .. } = *service;
                let key = match key {
                    None => None,
                    Some(Key::Written(key)) => Some(key.expose().to_owned()),
                    Some(Key::Kept(reference)) => Some(reference.label()),
                    Some(Key::Unusable(why)) => return Err(why),
                };
                Ok((
                    settings.model.provider,
                    settings.model.name,
                    settings.at,
                    key.or(settings.key_variable),
                ))
            }
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

    #[test]
    fn a_key_may_be_kept_elsewhere_and_one_that_cannot_be_used_is_said() {
        let search = |key: Value| json!({ "provider": "voyage", "remote": { "apiKey": key } });
        let kept = |id: &str| {
            let voyage = "https://api.voyageai.com/v1";
            row(["voyage", "voyage-4-large", voyage], Some(id))
        };
        let object = json!({ "source": "env", "provider": "default", "id": "V" });
        assert_eq!(
            check(search(object.clone()), json!({})),
            kept("env:default:V")
        );
        let models = json!({ "voyage": { "apiKey": object } });
        assert_eq!(
            check(search(json!(" ")), models.clone()),
            kept("env:default:V")
        );
        for (key, expected) in [
            (
                json!("${VOYAGE_KEY}"),
                "apiKey names a variable that has no value",
            ),
            (json!({ "source": "env" }), "apiKey is neither a text"),
            (json!(5), "apiKey is neither a text"),
        ] {
            let why = check(search(key), models.clone()).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
        let config = json!({
            "models": { "providers": models },
            "memory": { "search": { "provider": "voyage" } },
            "agents": { "entries": { "a": { "memory": { "search": { "remote": { "apiKey": "$OWN" } } } } } },
        });
        let labels: Vec<String> = references(&config).iter().map(SecretRef::label).collect();
        assert_eq!(labels, ["env:default:OWN", "env:default:V"]);
    }

    #[test]
    fn an_address_is_cut_in_its_path_alone_and_tells_models_apart() {
        for (at, expected) in [
            (
                "https://openai.example/v1beta/openai/",
                "https://openai.example/v1beta",
            ),
            (
                "https://openai.example/v1beta",
                "https://openai.example/v1beta",
            ),
            ("http://openai/openai", "http://openai"),
            (
                "https://generativelanguage.googleapis.com/",
                "https://generativelanguage.googleapis.com/v1beta",
            ),
        ] {
            assert_eq!(gemini_base(at), expected);
        }
        let search = json!({
            "provider": "openai-compatible", "model": "m", "remote": { "baseUrl": "http://127.0.0.1:1/v1/" }
        });
        assert_eq!(
            check(search, json!({})),
            row(
                ["openai@http://127.0.0.1:1/v1", "m", "http://127.0.0.1:1/v1"],
                None
            )
        );
    }

    #[test]
    fn what_is_set_and_not_honoured_is_known() {
        let search = json!({
            "provider": "ollama", "fallback": "openai", "inputType": "", "remote": { "headers": { "a": "b" } }
        });
        let setting = |name: &str| search.pointer(&format!("/{name}")).cloned();
        let Configured::Service(service) = configured(&json!({}), setting) else {
            panic!("a service");
        };
        assert_eq!(service.ignored, ["fallback", "remote/headers"]);
    }
}
