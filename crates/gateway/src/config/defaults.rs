//! The configuration as the original runs it: what the user left out, filled in.
//!
//! Source: `materializeRuntimeConfig`, src/config/materialize.ts and defaults.ts at 2026.9.6. What the
//! installed plugins know of models (their catalogues) is not filled in here.

use serde_json::{Map, Value, json};

use super::Paths;

const MAX_TOKENS: u64 = 8192;
const CONTEXT_WINDOW: u64 = 200_000;

/// A configured model of this name gets this short name.
const ALIASES: &[(&str, &str)] = &[
    ("opus", "anthropic/claude-opus-5"),
    ("sonnet", "anthropic/claude-sonnet-5"),
    ("gpt", "openai/gpt-5.4"),
    ("gpt-mini", "openai/gpt-5.4-mini"),
    ("gpt-nano", "openai/gpt-5.4-nano"),
    ("gemini", "google/gemini-3.1-pro-preview"),
    ("gemini-flash", "google/gemini-3-flash-preview"),
    ("gemini-flash-lite", "google/gemini-3.1-flash-lite"),
];

/// The roster that a file without one stands for: one agent, `main`.
///
/// Source: `migratePersistedImplicitMainRoster`, src/config/legacy.roster.ts.
pub(super) fn with_roster(resolved: &Value) -> Value {
    let mut config = resolved.clone();
    let Some(root) = config.as_object_mut() else {
        return config;
    };
    if let Some(agents) = root.get_mut("agents").and_then(Value::as_object_mut)
        && !agents.contains_key("entries")
        && agents.get("list").is_some_and(Value::is_array)
    {
        let entries: Map<String, Value> = roster(&Value::Object(agents.clone()))
            .into_iter()
            .map(|(id, mut agent)| {
                agent.shift_remove("id");
                (id, Value::Object(agent))
            })
            .collect();
        agents.shift_remove("list");
        agents.insert("entries".to_owned(), Value::Object(entries));
    }
    let has_roster = root.get("agents").is_some_and(|agents| {
        !agents.is_object() || agents.get("entries").is_some() || agents.get("list").is_some()
    });
    if !has_roster {
        let agents = root.entry("agents").or_insert_with(|| json!({}));
        agents["entries"] = json!({ "main": {} });
    }
    config
}

/// The agents of an `agents` section, keyed or listed: id and settings.
pub(super) fn roster(agents: &Value) -> Vec<(String, Map<String, Value>)> {
    if let Some(entries) = agents.get("entries").and_then(Value::as_object) {
        return entries
            .iter()
            .map(|(id, agent)| (id.clone(), agent.as_object().cloned().unwrap_or_default()))
            .collect();
    }
    let listed = agents.get("list").and_then(Value::as_array);
    listed
        .into_iter()
        .flatten()
        .filter_map(|agent| {
            let agent = agent.as_object()?;
            Some((agent.get("id")?.as_str()?.to_owned(), agent.clone()))
        })
        .collect()
}

/// `source` with what it leaves out.
pub(super) fn fill(source: &Value, paths: &Paths) -> Value {
    let mut config = source.clone();
    let Some(root) = config.as_object_mut() else {
        return config;
    };
    let messages = object(root, "messages");
    messages
        .entry("ackReactionScope")
        .or_insert_with(|| json!("group-mentions"));
    if let Some(session) = root.get_mut("session").and_then(Value::as_object_mut)
        && session.contains_key("mainKey")
    {
        session.insert("mainKey".to_owned(), json!("main"));
    }
    let defaults = object(object(root, "agents"), "defaults");
    let number = |map: &mut Map<String, Value>, key: &str, value: u64| {
        if !map.get(key).is_some_and(Value::is_number) {
            map.insert(key.to_owned(), json!(value));
        }
    };
    number(defaults, "maxConcurrent", 8);
    let subagents = object(defaults, "subagents");
    number(subagents, "maxConcurrent", 8);
    number(subagents, "archiveAfterMinutes", 60);
    let compaction = object(defaults, "compaction");
    let mode = compaction.get("mode").and_then(Value::as_str);
    if mode.is_none_or(str::is_empty) {
        compaction.insert("mode".to_owned(), json!("safeguard"));
    }
    if let Some(models) = defaults.get_mut("models").and_then(Value::as_object_mut) {
        name_models(models);
    }
    let commands = object(root, "commands");
    for (key, value) in [
        ("native", json!("auto")),
        ("nativeSkills", json!("auto")),
        ("restart", json!(true)),
    ] {
        commands.entry(key).or_insert(value);
    }
    if let Some(providers) = root
        .get_mut("models")
        .and_then(|models| models.get_mut("providers"))
        .and_then(Value::as_object_mut)
    {
        for (_, provider) in providers.iter_mut() {
            fill_provider(provider);
        }
    }
    expand_paths(None, &mut config, paths);
    config
}

fn object<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = map.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("made one above")
}

fn name_models(models: &mut Map<String, Value>) {
    for (alias, target) in ALIASES {
        let taken = models.iter().any(|(name, model)| {
            name != target
                && model
                    .get("alias")
                    .and_then(Value::as_str)
                    .is_some_and(|other| other.trim().eq_ignore_ascii_case(alias))
        });
        if let Some(model) = models.get_mut(*target).and_then(Value::as_object_mut)
            && !taken
            && !model.contains_key("alias")
        {
            model.insert("alias".to_owned(), json!(alias));
        }
    }
}

fn fill_provider(provider: &mut Value) {
    let api = provider.get("api").cloned();
    let provider_max = provider.get("maxTokens").and_then(Value::as_u64);
    let Some(models) = provider.get_mut("models").and_then(Value::as_array_mut) else {
        return;
    };
    for model in models.iter_mut().filter_map(Value::as_object_mut) {
        if !model.get("reasoning").is_some_and(Value::is_boolean) {
            model.insert("reasoning".to_owned(), json!(false));
        }
        model.entry("input").or_insert_with(|| json!(["text"]));
        let cost = object(model, "cost");
        for key in ["input", "output", "cacheRead", "cacheWrite"] {
            if !cost.get(key).is_some_and(Value::is_number) {
                cost.insert(key.to_owned(), json!(0));
            }
        }
        let positive = |key: &str| {
            model
                .get(key)
                .filter(|value| value.as_f64().is_some_and(|n| n > 0.0))
        };
        let window = positive("contextWindow")
            .and_then(Value::as_u64)
            .unwrap_or(CONTEXT_WINDOW);
        let max = positive("maxTokens")
            .and_then(Value::as_u64)
            .unwrap_or(provider_max.unwrap_or(MAX_TOKENS));
        model.insert("maxTokens".to_owned(), json!(max.min(window)));
        if let Some(api) = &api {
            model.entry("api").or_insert_with(|| api.clone());
        }
    }
}

/// `~/…` under keys that hold paths.
fn expand_paths(key: Option<&str>, value: &mut Value, paths: &Paths) {
    match value {
        Value::String(text) => {
            let written = text.trim();
            let is_home = written == "~" || written.starts_with("~/") || written.starts_with("~\\");
            if is_home && key.is_some_and(holds_path) {
                *text = paths.user_path(text).display().to_string();
            }
        }
        Value::Array(items) => {
            let listed = key.filter(|key| matches!(*key, "paths" | "pathPrepend"));
            for item in items {
                let key = listed.filter(|_| item.is_string());
                expand_paths(key, item, paths);
            }
        }
        Value::Object(members) => {
            for (key, value) in members {
                expand_paths(Some(key), value, paths);
            }
        }
        _ => {}
    }
}

fn holds_path(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["dir", "path", "paths", "file", "root", "workspace"]
        .iter()
        .any(|end| key.ends_with(end))
        || key == "pathprepend"
}
