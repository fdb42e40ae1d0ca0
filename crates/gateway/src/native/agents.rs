//! The agents that the user's configuration names, and what follows from their order and defaults.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use wire::raw::js_trim;

/// The agent that exists when a configuration names none. Source: `LEGACY_IMPLICIT_AGENT_ID`.
pub const IMPLICIT_AGENT: &str = "main";

/// The name of every agent's main session. `session.mainKey` is ignored since 2026.9.
pub const MAIN_KEY: &str = "main";

/// Agents by the rules of src/agents/agent-scope-config.ts at 2026.9.6.
#[derive(Debug, Clone, PartialEq)]
pub struct Roster {
    /// In the order of the configuration, each id once, normalised.
    pub agents: Vec<Agent>,
    pub default_id: String,
    pub ownership: Ownership,
    /// Nobody says which agent a client without a choice means.
    pub selection_required: bool,
    /// `agents.ownership: "explicit"`: nothing without an owner is anybody's.
    pub is_explicit: bool,
    /// `session.scope`, `per-sender` by default.
    pub scope: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    pub id: String,
    pub name: Option<String>,
    /// The entry as configured; empty for the implicit agent.
    pub entry: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    Sole,
    Legacy,
    Explicit,
}

impl Ownership {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sole => "sole",
            Self::Legacy => "legacy",
            Self::Explicit => "explicit",
        }
    }
}

impl Roster {
    /// `config` is the effective configuration, includes and variables resolved.
    pub fn read(config: &Value) -> Self {
        let listed = entries(config);
        let explicit =
            config.pointer("/agents/ownership").and_then(Value::as_str) == Some("explicit");
        let sole = marked_default(&listed, explicit).or_else(|| sole(&listed, config));
        let mut seen = HashSet::new();
        let mut agents: Vec<Agent> = listed
            .into_iter()
            .filter(|agent| seen.insert(agent.id.clone()))
            .collect();
        if agents.is_empty() {
            agents.push(Agent {
                id: IMPLICIT_AGENT.to_owned(),
                name: None,
                entry: Map::new(),
            });
        }
        // Source: `resolveGatewayAgentSelectionState` in src/gateway/agent-list.ts.
        let (default_id, ownership, selection_required) = match sole {
            Some(id) => (id, Ownership::Sole, false),
            None => {
                let system = text(config, "/agents/defaults/systemAgent/agentId")
                    .map(|id| normalize_id(&id))
                    .filter(|id| explicit && agents.iter().any(|agent| agent.id == *id));
                let required = system.is_none();
                let id = system.unwrap_or_else(|| agents[0].id.clone());
                (id, Ownership::Explicit, required)
            }
        };
        Self {
            agents,
            default_id,
            ownership,
            selection_required,
            is_explicit: explicit,
            scope: config
                .pointer("/session/scope")
                .and_then(Value::as_str)
                .unwrap_or("per-sender")
                .to_owned(),
        }
    }

    pub fn get(&self, id: &str) -> Option<&Agent> {
        let id = normalize_id(id);
        self.agents.iter().find(|agent| agent.id == id)
    }

    /// `agent:<id>:main`.
    pub fn main_session_key(&self, agent_id: &str) -> String {
        format!("agent:{agent_id}:{MAIN_KEY}")
    }

    /// The session a client gets that names none.
    pub fn default_session_key(&self) -> String {
        match self.scope.as_str() {
            "global" => "global".to_owned(),
            _ => self.main_session_key(&self.default_id),
        }
    }

    /// The default agent first, the others by name. Source: `listGatewayAgentsBasic`.
    pub fn ordered(&self) -> Vec<&Agent> {
        let mut agents: Vec<&Agent> = self.agents.iter().collect();
        agents.sort_by_key(|agent| (agent.id != self.default_id, agent.id.clone()));
        agents
    }

    /// Where an agent works. Source: `resolveAgentWorkspaceDir`.
    pub fn workspace(&self, config: &Value, agent: &Agent, places: &Places<'_>) -> PathBuf {
        if let Some(own) = agent.entry.get("workspace").and_then(Value::as_str)
            && !js_trim(own).is_empty()
        {
            return places.expand(js_trim(own));
        }
        let shared = text(config, "/agents/defaults/workspace");
        let owns_data = match self.ownership {
            Ownership::Sole => agent.id == self.default_id,
            _ => self.is_legacy_first(config, agent),
        };
        match (shared, owns_data) {
            (Some(shared), true) => places.expand(&shared),
            (Some(shared), false) => places.expand(&shared).join(&agent.id),
            (None, true) => places.default_workspace(),
            (None, false) => places.state_dir.join(format!("workspace-{}", agent.id)),
        }
    }

    /// The first of a roster in the form of a list, of which nobody says who owns what: it keeps the workspace that it had as the only
    /// one. Source: `resolveLegacyFirstAgentWorkspacePin`.
    fn is_legacy_first(&self, config: &Value, agent: &Agent) -> bool {
        let agents = &config["agents"];
        let is_listed = agents["list"].is_array() && agents.get("entries").is_none();
        is_listed && agents.get("ownership").is_none() && self.agents[0].id == agent.id
    }

    /// The model a new session of this agent uses, when the configuration names one.
    pub fn primary_model(&self, config: &Value, agent_id: &str) -> Option<String> {
        let primary = |model: Option<&Value>| match model? {
            Value::String(name) => Some(js_trim(name).to_owned()),
            Value::Object(fields) => fields
                .get("primary")?
                .as_str()
                .map(|name| js_trim(name).to_owned()),
            _ => None,
        };
        let own = self
            .get(agent_id)
            .and_then(|agent| primary(agent.entry.get("model")));
        own.or_else(|| primary(config.pointer("/agents/defaults/model")))
            .filter(|name| !name.is_empty())
            .or_else(|| first_model(config))
    }
}

/// Without a choice the first model of the first provider is meant: the original writes that into a file that names
/// none (`agents.defaults.model`).
fn first_model(config: &Value) -> Option<String> {
    let providers = config.pointer("/models/providers")?.as_object()?;
    providers.iter().find_map(|(provider, settings)| {
        let id = settings.get("models")?.get(0)?.get("id")?.as_str()?;
        Some(format!("{provider}/{id}"))
    })
}

/// The directories that paths are derived from.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    pub state_dir: &'a Path,
    pub home: &'a Path,
    /// `OPENCLAW_WORKSPACE_DIR`.
    pub workspace_variable: Option<&'a str>,
    /// `OPENCLAW_STATE_DIR` is set, which moves the default workspace with it.
    pub state_dir_is_set: bool,
}

impl Places<'_> {
    /// `~` is the home folder.
    pub(crate) fn expand(&self, path: &str) -> PathBuf {
        match path.strip_prefix('~') {
            Some("") => self.home.to_owned(),
            Some(rest) if rest.starts_with('/') => self.home.join(&rest[1..]),
            _ => PathBuf::from(path),
        }
    }

    fn default_workspace(&self) -> PathBuf {
        match self.workspace_variable.map(js_trim) {
            Some(set) if !set.is_empty() => self.expand(set),
            _ if self.state_dir_is_set => self.state_dir.join("workspace"),
            _ => self.home.join(".openclaw/workspace"),
        }
    }

    /// Where the original keeps the sessions of an agent.
    pub fn session_store(&self, agent_id: &str) -> PathBuf {
        self.state_dir
            .join("agents")
            .join(agent_id)
            .join("agent/openclaw-agent.sqlite")
    }
}

/// Source: `collectAgentEntries`: `agents.entries` by id, or the older `agents.list`.
fn entries(config: &Value) -> Vec<Agent> {
    let named = |id: &str, entry: &Map<String, Value>| {
        let name = entry
            .get("name")
            .or_else(|| entry.get("identity")?.get("name"));
        Agent {
            id: normalize_id(id),
            name: name
                .and_then(Value::as_str)
                .map(|name| js_trim(name).to_owned())
                .filter(|name| !name.is_empty()),
            entry: entry.clone(),
        }
    };
    match roster_property(config) {
        Some(Value::Object(by_id)) => by_id
            .iter()
            .filter_map(|(id, entry)| Some(named(id, entry.as_object()?)))
            .collect(),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(Value::as_object)
            .map(|entry| {
                named(
                    entry.get("id").and_then(Value::as_str).unwrap_or_default(),
                    entry,
                )
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn roster_property(config: &Value) -> Option<&Value> {
    let agents = config.get("agents")?;
    match agents.get("entries") {
        Some(entries) => Some(entries).filter(|entries| entries.is_object()),
        None => agents.get("list").filter(|list| list.is_array()),
    }
}

fn marked_default(listed: &[Agent], explicit: bool) -> Option<String> {
    let mut marked = listed
        .iter()
        .filter(|agent| agent.entry.get("default") == Some(&Value::Bool(true)));
    match (explicit, marked.next(), marked.next()) {
        (false, Some(only), None) => Some(only.id.clone()),
        _ => None,
    }
}

fn sole(listed: &[Agent], config: &Value) -> Option<String> {
    match listed {
        [] => {
            let named = config
                .pointer("/agents/entries")
                .or_else(|| config.pointer("/agents/list"));
            named.is_none().then(|| IMPLICIT_AGENT.to_owned())
        }
        [only] => Some(only.id.clone()),
        _ => None,
    }
}

fn text(config: &Value, pointer: &str) -> Option<String> {
    let value = js_trim(config.pointer(pointer)?.as_str()?);
    (!value.is_empty()).then(|| value.to_owned())
}

/// Source: `normalizeAgentId` in packages/normalization-core/src/agent-id.ts.
pub fn normalize_id(id: &str) -> String {
    let id = js_trim(id).to_lowercase();
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if id.len() <= 64
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(valid)
    {
        return id;
    }
    // Each run of anything else becomes one dash.
    let parts: Vec<&str> = id.split(|c| !valid(c)).collect();
    let mut out = String::with_capacity(id.len());
    for (at, part) in parts.iter().enumerate() {
        let within_run = at > 0 && part.is_empty() && at + 1 < parts.len();
        if at > 0 && !within_run {
            out.push('-');
        }
        out.push_str(part);
    }
    let mut out = out.trim_matches('-').to_owned();
    out.truncate(64);
    match out.is_empty() {
        true => IMPLICIT_AGENT.to_owned(),
        false => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_are_normalised_as_the_original_does() {
        let check = |id: &str, expected: &str| assert_eq!(normalize_id(id), expected, "{id:?}");
        check("Main", "main");
        check(" My Agent! ", "my-agent");
        check("a-", "a-");
        check("-a-", "a");
        check("ä", "main");
        check("", "main");
        check("a__b", "a__b");
        check(&"x".repeat(80), &"x".repeat(64));
    }

    #[test]
    fn the_default_agent_follows_the_configuration() {
        let check = |config: Value, default: &str, ownership, required| {
            let roster = Roster::read(&config);
            assert_eq!(
                (
                    &*roster.default_id,
                    roster.ownership,
                    roster.selection_required
                ),
                (default, ownership, required),
                "{config}"
            );
        };
        check(json!({}), "main", Ownership::Sole, false);
        check(
            json!({"agents":{"entries":{"Ops":{}}}}),
            "ops",
            Ownership::Sole,
            false,
        );
        check(
            json!({"agents":{"list":[{"id":"a"},{"id":"b","default":true}]}}),
            "b",
            Ownership::Sole,
            false,
        );
        check(
            json!({"agents":{"entries":{"a":{},"b":{}}}}),
            "a",
            Ownership::Explicit,
            true,
        );
        check(
            json!({"agents":{"ownership":"explicit","defaults":{"systemAgent":{"agentId":"b"}},"entries":{"a":{},"b":{}}}}),
            "b",
            Ownership::Explicit,
            false,
        );
    }

    #[test]
    fn workspaces_and_keys_follow_too() {
        let places = Places {
            state_dir: Path::new("/s"),
            home: Path::new("/h"),
            workspace_variable: None,
            state_dir_is_set: true,
        };
        let check = |config: Value, id: &str, expected: &str| {
            let roster = Roster::read(&config);
            let agent = roster.get(id).expect("an agent");
            assert_eq!(
                roster.workspace(&config, agent, &places),
                Path::new(expected),
                "{config}"
            );
        };
        check(json!({}), "main", "/s/workspace");
        check(
            json!({"agents":{"defaults":{"workspace":"~/w"}}}),
            "main",
            "/h/w",
        );
        check(
            json!({"agents":{"entries":{"a":{},"b":{"workspace":"/x"}}}}),
            "a",
            "/s/workspace-a",
        );
        check(
            json!({"agents":{"entries":{"a":{},"b":{"workspace":"/x"}}}}),
            "b",
            "/x",
        );
        let listed = json!({"agents":{"list":[{"id":"a"},{"id":"b"}]}});
        check(listed.clone(), "a", "/s/workspace");
        check(listed.clone(), "b", "/s/workspace-b");
        let mut owned = listed;
        owned["agents"]["ownership"] = "explicit".into();
        check(owned, "a", "/s/workspace-a");
        let roster = Roster::read(&json!({"agents":{"entries":{"z":{"name":" Z "},"a":{}}}}));
        assert_eq!(roster.main_session_key("z"), "agent:z:main");
        assert_eq!(roster.agents[0].name.as_deref(), Some("Z"));
        let global = Roster::read(&json!({"session":{"scope":"global"}}));
        assert_eq!(global.default_session_key(), "global");
    }

    #[test]
    fn a_model_is_known_only_when_configured() {
        let check = |config: Value, expected: Option<&str>| {
            let roster = Roster::read(&config);
            assert_eq!(
                roster.primary_model(&config, "main").as_deref(),
                expected,
                "{config}"
            );
        };
        check(json!({}), None);
        check(json!({"agents":{"defaults":{"model":"a/b"}}}), Some("a/b"));
        check(
            json!({"agents":{"defaults":{"model":{"primary":"a/b"}},"entries":{"main":{"model":{"primary":" c/d "}}}}}),
            Some("c/d"),
        );
    }
}
