//! What the user's file says about commands: `tools.exec`, for all agents and for one.
//!
//! Source: src/infra/exec-approvals-core.ts, exec-policy.ts and docs/tools/exec.md of the package at 2026.9.6.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::safe_bins::Profile;

const TIMEOUT_S: f64 = 1800.0;
const YIELD_MS: u64 = 10_000;
const YIELD_MS_RANGE: std::ops::RangeInclusive<u64> = 10..=120_000;
const REMEMBERED_MS: u64 = 1_800_000;
const REMEMBERED_MS_RANGE: std::ops::RangeInclusive<u64> = 60_000..=10_800_000;

/// What may run. The stricter comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Security {
    Deny,
    Allowlist,
    Full,
}

/// When a person is asked. The stricter comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    Off,
    OnMiss,
    Always,
}

impl Security {
    pub(super) fn of(word: &str) -> Option<Self> {
        match word.trim().to_lowercase().as_str() {
            "deny" => Some(Self::Deny),
            "allowlist" => Some(Self::Allowlist),
            "full" => Some(Self::Full),
            _ => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allowlist => "allowlist",
            Self::Full => "full",
        }
    }
}

impl Ask {
    pub(super) fn of(word: &str) -> Option<Self> {
        match word.trim().to_lowercase().as_str() {
            "off" => Some(Self::Off),
            "on-miss" => Some(Self::OnMiss),
            "always" => Some(Self::Always),
            _ => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::OnMiss => "on-miss",
            Self::Always => "always",
        }
    }
}

/// Where commands run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    Auto,
    Sandbox,
    Gateway,
    Node,
}

impl Host {
    pub(super) fn of(word: &str) -> Option<Self> {
        match word.trim().to_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            "sandbox" => Some(Self::Sandbox),
            "gateway" => Some(Self::Gateway),
            "node" => Some(Self::Node),
            _ => None,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sandbox => "sandbox",
            Self::Gateway => "gateway",
            Self::Node => "node",
        }
    }

    /// Where a command runs that asks for `asked`.
    ///
    /// # Errors
    /// The original's words about a host that is not there, or not allowed.
    pub(super) fn resolve(self, asked: Option<Self>) -> Result<(), String> {
        let asked = asked.filter(|asked| *asked != Self::Auto);
        if let Some(asked) = asked
            && asked != self
            && self != Self::Auto
        {
            let asked = asked.as_str();
            return Err(format!(
                "exec host not allowed (requested {asked}; configured host is {}; set tools.exec.host={asked} or auto to allow this override).",
                self.as_str()
            ));
        }
        match asked.unwrap_or(self) {
            Self::Auto | Self::Gateway => Ok(()),
            Self::Sandbox => Err("exec host=sandbox requires a sandbox runtime for this session.\nEnable sandbox mode (`agents.defaults.sandbox.mode=\"non-main\"` or `\"all\"`) or use host=auto/gateway/node.".to_owned()),
            Self::Node => Err("exec host=node requires a paired node (none available). This requires a companion app or node host.".to_owned()),
        }
    }
}

/// `tools.exec` of one agent.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) host: Host,
    pub(super) security: Security,
    pub(super) ask: Ask,
    /// `None`: without end.
    pub(super) timeout_s: f64,
    /// Before a command goes on in the background.
    pub(super) yield_ms: u64,
    pub(super) remembered: Duration,
    pub(super) path_prepend: Vec<String>,
    pub(super) strict_inline_eval: bool,
    pub(super) safe_bins: Vec<String>,
    pub(super) trusted_dirs: Vec<PathBuf>,
    pub(super) profiles: BTreeMap<String, Profile>,
    /// `tools.elevated.enabled`.
    pub(super) is_elevated_enabled: bool,
}

impl Settings {
    /// Of an agent whose entry is `entry`.
    pub(super) fn read(config: &Value, entry: Option<&Map<String, Value>>, home: &Path) -> Self {
        let general = config.pointer("/tools/exec");
        let own = entry.and_then(|entry| entry.get("tools")?.get("exec"));
        let layers = [general, own];
        let get = |key: &str| {
            let mut narrow_first = layers.iter().rev().flatten();
            narrow_first.find_map(|layer| layer.get(key).filter(|value| !value.is_null()))
        };
        let (mut security, mut ask) = (Security::Full, Ask::Off);
        for layer in layers.into_iter().flatten() {
            let word = |key: &str| layer.get(key).and_then(Value::as_str);
            if let Some(mode) = word("mode") {
                // `auto` would let a model review what is not listed: here a person is asked. A mode of another release
                // is refused.
                (security, ask) = match mode.trim().to_lowercase().as_str() {
                    "full" => (Security::Full, Ask::Off),
                    "ask" | "auto" => (Security::Allowlist, Ask::OnMiss),
                    "allowlist" => (Security::Allowlist, Ask::Off),
                    _ => (Security::Deny, Ask::Off),
                };
                continue;
            }
            if let Some(word) = word("security") {
                security = Security::of(word).unwrap_or(Security::Deny);
            }
            if let Some(word) = word("ask") {
                ask = Ask::of(word).unwrap_or(Ask::Always);
            }
        }
        let ms = |key: &str, default: u64, range: std::ops::RangeInclusive<u64>| {
            get(key).and_then(Value::as_f64).map_or(default, |ms| {
                (ms.max(0.0) as u64).clamp(*range.start(), *range.end())
            })
        };
        let texts = |value: &Value| -> Vec<String> {
            let all = value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str);
            all.map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
                .collect()
        };
        let timeout_s = get("timeoutSeconds")
            .or_else(|| get("timeoutSec"))
            .and_then(Value::as_f64);
        let dirs = layers
            .iter()
            .flatten()
            .filter_map(|layer| layer.get("safeBinTrustedDirs"))
            .flat_map(texts);
        let elevated = [
            config.get("tools"),
            entry.and_then(|entry| entry.get("tools")),
        ];
        let is_elevated_enabled = !elevated
            .into_iter()
            .flatten()
            .any(|tools| tools.pointer("/elevated/enabled") == Some(&Value::Bool(false)));
        let mut profiles = super::safe_bins::profiles();
        for layer in layers.into_iter().flatten() {
            let own = layer.get("safeBinProfiles").and_then(Value::as_object);
            for (name, profile) in own.into_iter().flatten() {
                profiles.insert(name.trim().to_lowercase(), Profile::read(profile));
            }
        }
        Self {
            host: get("host")
                .and_then(Value::as_str)
                .map_or(Host::Auto, |word| Host::of(word).unwrap_or(Host::Node)),
            security,
            ask,
            timeout_s: timeout_s
                .filter(|seconds| *seconds > 0.0)
                .unwrap_or(TIMEOUT_S),
            yield_ms: ms("backgroundMs", YIELD_MS, YIELD_MS_RANGE),
            remembered: Duration::from_millis(ms("cleanupMs", REMEMBERED_MS, REMEMBERED_MS_RANGE)),
            path_prepend: get("pathPrepend")
                .map(|list| texts(list).iter().map(|path| expand(path, home)).collect())
                .unwrap_or_default(),
            strict_inline_eval: get("strictInlineEval") == Some(&Value::Bool(true)),
            safe_bins: match get("safeBins") {
                Some(list) => texts(list).iter().map(|name| name.to_lowercase()).collect(),
                None => super::safe_bins::DEFAULT
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect(),
            },
            trusted_dirs: ["/bin", "/usr/bin"]
                .map(str::to_owned)
                .into_iter()
                .chain(dirs)
                .map(PathBuf::from)
                .collect(),
            profiles,
            is_elevated_enabled,
        }
    }

    /// How long a call waits before its command goes on in the background.
    pub(super) fn yield_for(&self, asked_ms: Option<f64>) -> Duration {
        let ms = asked_ms.map_or(self.yield_ms, |ms| {
            (ms.max(0.0) as u64).clamp(*YIELD_MS_RANGE.start(), *YIELD_MS_RANGE.end())
        });
        Duration::from_millis(ms)
    }
}

/// `~` at the beginning of a path.
pub(super) fn expand(path: &str, home: &Path) -> String {
    match path.strip_prefix('~') {
        Some("") => home.display().to_string(),
        Some(rest) if rest.starts_with('/') => format!("{}{rest}", home.display()),
        _ => path.to_owned(),
    }
}

/// Keys under `tools` that mean something to OpenClaw and nothing, or less, here: each with what happens instead.
pub(super) fn unhonoured(config: &Value) -> Vec<String> {
    const KEYS: [(&str, &str); 9] = [
        ("exec/node", "no commands run on nodes"),
        (
            "exec/reviewer",
            "no model reviews commands: a person is asked",
        ),
        (
            "exec/notifyOnExit",
            "a command that ends in the background wakes nobody: process poll tells",
        ),
        (
            "exec/notifyOnExitEmptySuccess",
            "a command that ends in the background wakes nobody: process poll tells",
        ),
        (
            "exec/approvalRunningNoticeMs",
            "there is no notice of commands that run long",
        ),
        (
            "exec/commandHighlighting",
            "commands that wait for approval are not marked up",
        ),
        (
            "exec/grantExpiryDays",
            "there are no automations that grants could be for",
        ),
        ("exec/applyPatch", "there is no apply_patch yet"),
        ("elevated/allowFrom", "nothing runs elevated"),
    ];
    let mut scopes = vec![("tools".to_owned(), config.get("tools"))];
    let entries = config.pointer("/agents/entries").and_then(Value::as_object);
    for (name, entry) in entries.into_iter().flatten() {
        scopes.push((format!("agents.entries.{name}.tools"), entry.get("tools")));
    }
    let listed = config.pointer("/agents/list").and_then(Value::as_array);
    for (at, entry) in listed.into_iter().flatten().enumerate() {
        scopes.push((format!("agents.list.{at}.tools"), entry.get("tools")));
    }
    let mut out = Vec::new();
    for (scope, tools) in scopes {
        let Some(tools) = tools else { continue };
        let at = |path: &str| {
            tools
                .pointer(&format!("/{path}"))
                .filter(|value| !value.is_null())
        };
        for (path, instead) in KEYS {
            let is_off = at(path) == Some(&Value::Bool(false));
            if at(path).is_some() && !is_off {
                out.push(format!("{scope}.{}: {instead}", path.replace('/', ".")));
            }
        }
        match at("exec/mode").and_then(Value::as_str) {
            Some("auto") => out.push(format!(
                "{scope}.exec.mode=auto: no model reviews commands: a person is asked, as with ask"
            )),
            Some("deny" | "allowlist" | "ask" | "full") | None => {}
            Some(other) => out.push(format!(
                "{scope}.exec.mode={other}: not known, so every command is refused"
            )),
        }
        if let Some(host @ ("sandbox" | "node")) = at("exec/host").and_then(Value::as_str) {
            out.push(format!(
                "{scope}.exec.host={host}: there is none here, so every command is refused"
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_agent_s_own_layer_comes_over_the_general_one() {
        let check = |tools: Value, own: Value, expected: (Security, Ask)| {
            let config = json!({ "tools": { "exec": tools } });
            let entry = json!({ "tools": { "exec": own } });
            let settings = Settings::read(&config, entry.as_object(), Path::new("/h"));
            assert_eq!((settings.security, settings.ask), expected, "{tools} {own}");
        };
        let none = json!({});
        check(none.clone(), none.clone(), (Security::Full, Ask::Off));
        check(
            json!({ "mode": "ask" }),
            none.clone(),
            (Security::Allowlist, Ask::OnMiss),
        );
        check(
            json!({ "mode": "auto" }),
            none.clone(),
            (Security::Allowlist, Ask::OnMiss),
        );
        check(
            json!({ "mode": "deny" }),
            json!({ "mode": "full" }),
            (Security::Full, Ask::Off),
        );
        check(
            json!({ "mode": "allowlist" }),
            json!({ "ask": "always" }),
            (Security::Allowlist, Ask::Always),
        );
        check(
            json!({ "security": "allowlist" }),
            none.clone(),
            (Security::Allowlist, Ask::Off),
        );
        check(
            json!({ "mode": "yolo" }),
            none.clone(),
            (Security::Deny, Ask::Off),
        );
        check(
            json!({ "security": "fulll", "ask": "neverr" }),
            none,
            (Security::Deny, Ask::Always),
        );
    }

    #[test]
    fn hosts_are_refused_as_the_original_refuses_them() {
        let check = |configured: Host, asked: Option<Host>, expected: Option<&str>| {
            let resolved = configured.resolve(asked);
            match expected {
                None => assert!(resolved.is_ok(), "{configured:?} {asked:?}"),
                Some(words) => assert!(resolved.expect_err("refused").contains(words)),
            }
        };
        check(Host::Auto, None, None);
        check(Host::Auto, Some(Host::Gateway), None);
        check(Host::Gateway, Some(Host::Auto), None);
        check(
            Host::Auto,
            Some(Host::Sandbox),
            Some("requires a sandbox runtime"),
        );
        check(Host::Sandbox, None, Some("requires a sandbox runtime"));
        check(Host::Auto, Some(Host::Node), Some("requires a paired node"));
        check(
            Host::Gateway,
            Some(Host::Node),
            Some("set tools.exec.host=node or auto"),
        );
    }

    #[test]
    fn keys_without_effect_are_named() {
        let config = json!({
            "tools": { "exec": { "mode": "auto", "notifyOnExit": false, "reviewer": { "model": "m" } } },
            "agents": { "entries": { "ops": { "tools": { "exec": { "host": "node" } } } } },
        });
        let named = unhonoured(&config).join("\n");
        for words in [
            "tools.exec.mode=auto",
            "tools.exec.reviewer",
            "agents.entries.ops.tools.exec.host=node",
        ] {
            assert!(named.contains(words), "{named}");
        }
        assert!(!named.contains("notifyOnExit"));
        assert!(unhonoured(&json!({ "tools": { "exec": { "mode": "ask" } } })).is_empty());
    }
}
