//! One agent's memory as the user's file has it.

use std::path::PathBuf;

use memory::Agent;
use serde_json::{Map, Value};

use super::extra::Extra;
use super::provider::{self, Configured};
use crate::native::{Facts, agents};

/// Source: src/agents/memory-search.ts and packages/memory-host-sdk/src/host/read-file-shared.ts at 2026.9.6.
const RESULTS_DEFAULT: usize = 6;
const GET_CHARS_DEFAULT: usize = 12_000;

pub(crate) struct Shelf {
    pub(crate) id: String,
    pub(super) agent: Agent,
    /// The database of all agents.
    pub(super) file: PathBuf,
    pub(super) workspace: PathBuf,
    /// What is memory beside the workspace's own.
    pub(super) extra: Vec<Extra>,
    /// Who makes vectors, by the user's file.
    pub(super) provider: Configured,
    /// Hits of `memory_search` that asks for no number.
    pub(super) results: usize,
    /// Characters of one `memory_get`.
    pub(super) get_chars_max: usize,
    pub(super) citations: Citations,
}

/// Whether hits say where they are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Citations {
    On,
    Off,
    /// In direct conversations.
    Auto,
}

impl Citations {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Auto => "auto",
        }
    }
}

impl Shelf {
    /// `None` when memory is switched off for this agent (`memory.search.enabled`). An agent that is not configured has
    /// the workspace it would have.
    pub(crate) fn of(facts: &Facts, id: &str) -> Option<Self> {
        let inputs = facts.inputs(0, 0);
        let roster = inputs.roster();
        let id = agents::normalize_id(id);
        let agent = roster.get(&id).cloned().unwrap_or_else(|| agents::Agent {
            id: id.clone(),
            name: None,
            entry: Map::new(),
        });
        let own = Value::Object(agent.entry.clone());
        // An agent's own word stands in for the general one.
        let setting = |own_path: &str, general: &str| {
            own.pointer(own_path)
                .or_else(|| facts.config.pointer(general))
                .cloned()
        };
        let search = |key: &str| {
            setting(
                &format!("/memory/search/{key}"),
                &format!("/memory/search/{key}"),
            )
        };
        if search("enabled") == Some(Value::Bool(false)) {
            return None;
        }
        let count = |value: Option<Value>, default: usize| {
            let count = value.and_then(|value| value.as_u64());
            count.map_or(default, |count| {
                usize::try_from(count).unwrap_or(default).max(1)
            })
        };
        let workspace =
            super::extra::plain(&roster.workspace(&facts.config, &agent, &inputs.places));
        let extra = Extra::all(
            [
                facts.config.pointer("/memory/search/extraPaths"),
                own.pointer("/memory/search/extraPaths"),
            ],
            &workspace,
            &inputs.places,
        );
        Some(Self {
            agent: Agent::parse(&id).ok()?,
            file: super::file(&facts.state_dir),
            workspace,
            extra,
            provider: provider::configured(&facts.config, search),
            results: count(search("query/maxResults"), RESULTS_DEFAULT),
            get_chars_max: count(
                setting(
                    "/contextLimits/memoryGetMaxChars",
                    "/agents/defaults/contextLimits/memoryGetMaxChars",
                ),
                GET_CHARS_DEFAULT,
            ),
            citations: match facts
                .config
                .pointer("/memory/citations")
                .and_then(Value::as_str)
            {
                Some("on") => Citations::On,
                Some("off") => Citations::Off,
                _ => Citations::Auto,
            },
            id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn an_agents_own_word_stands_in_for_the_general_one() {
        let facts = Facts {
            config: json!({
                "memory": { "citations": "off", "search": { "enabled": false, "query": { "maxResults": 9 } } },
                "agents": { "entries": {
                    "a": { "memory": { "search": { "enabled": true } }, "contextLimits": { "memoryGetMaxChars": 5 } },
                    "b": {},
                } },
            }),
            state_dir: "/s".into(),
            state_dir_is_set: true,
            ..Facts::default()
        };
        assert!(Shelf::of(&facts, "b").is_none());
        let shelf = Shelf::of(&facts, "A").expect("it is on");
        assert_eq!((shelf.results, shelf.get_chars_max), (9, 5));
        assert_eq!(shelf.citations, Citations::Off);
        assert_eq!(shelf.workspace, Path::new("/s/workspace-a"));
        assert_eq!(shelf.file, Path::new("/s/openclaw-rs/memory.sqlite"));
    }
}
