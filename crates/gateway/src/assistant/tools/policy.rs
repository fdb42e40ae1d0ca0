//! Which tools an agent may use, as the user's file says.
//!
//! Source: docs/gateway/config-tools/tool-policy.md of the package at 2026.9.6: profile, then a provider's profile,
//! then `allow` and `deny` of every layer; deny wins; names without regard to case, `*` stands for anything.

use serde_json::{Map, Value};

const FS: &[&str] = &["read", "write", "edit", "apply_patch", "ls", "grep", "find"];
const RUNTIME: &[&str] = &["exec", "process", "code_execution"];
const MEMORY: &[&str] = &["memory_search", "memory_get"];
const SESSIONS: &[&str] = &["sessions_list", "sessions_history", "sessions_send"];
const WEB: &[&str] = &["web_search", "x_search", "web_fetch"];

/// Where a turn came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::assistant) enum Origin {
    /// A client that was let in.
    Operator,
    /// A chat service: whoever may write there.
    Channel,
}

/// One list of what may be used and what may not. `allow` of `None`: everything.
#[derive(Debug, Default, Clone)]
struct Layer {
    allow: Option<Vec<String>>,
    deny: Vec<String>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Policy(Vec<Layer>);

impl Policy {
    /// What holds for an agent whose entry is `entry`, asked through `provider` and `model`.
    pub(super) fn read(
        config: &Value,
        entry: Option<&Map<String, Value>>,
        model: (&str, &str),
        origin: Origin,
    ) -> Self {
        let (provider, model) = model;
        let mut layers = Vec::new();
        let scopes = [
            config.get("tools"),
            entry.and_then(|entry| entry.get("tools")),
        ];
        // An agent's own profile stands in for the general one.
        let profile = scopes
            .iter()
            .rev()
            .flatten()
            .find_map(|tools| tools.get("profile"));
        layers.extend(profile_layer(profile, scopes.iter().flatten().copied()));
        for tools in scopes.into_iter().flatten() {
            layers.push(listed(tools));
            let by_provider = tools.get("byProvider").and_then(Value::as_object);
            for (name, own) in by_provider.into_iter().flatten() {
                let is_meant = name.eq_ignore_ascii_case(provider)
                    || name.eq_ignore_ascii_case(&format!("{provider}/{model}"));
                if is_meant {
                    layers.extend(profile_layer(own.get("profile"), std::iter::once(own)));
                    layers.push(listed(own));
                }
            }
            // Senders are not told apart yet: over a chat service every one of these entries holds.
            let by_sender = tools.get("toolsBySender").and_then(Value::as_object);
            let meant = by_sender
                .into_iter()
                .flatten()
                .filter(|(sender, _)| *sender == "*" || origin == Origin::Channel);
            layers.extend(meant.map(|(_, own)| listed(own)));
        }
        Self(layers)
    }

    /// Whether a deny list covers whatever the MCP server with this safe name may offer.
    /// Source: createMcpServerToolDenyMatcher in tool-policy-match.ts.
    pub(super) fn hides(&self, server: &str) -> bool {
        let prefix = format!("{}{}", server.to_lowercase(), mcp::names::SEPARATOR);
        let mut denied = self.0.iter().flat_map(|layer| &layer.deny);
        denied.any(|pattern| match pattern.as_str() {
            "bundle-mcp" | "group:plugins" => true,
            pattern => pattern.ends_with('*') && matches(pattern.as_bytes(), prefix.as_bytes()),
        })
    }

    pub(super) fn allows(&self, tool: &str) -> bool {
        let tool = &*tool.to_lowercase();
        self.0.iter().all(|layer| {
            !layer.deny.iter().any(|pattern| covers(pattern, tool))
                && layer
                    .allow
                    .as_ref()
                    .is_none_or(|allow| allow.iter().any(|pattern| covers(pattern, tool)))
        })
    }
}

fn strings(tools: &Value, key: &str) -> Option<Vec<String>> {
    let listed = tools.get(key)?.as_array()?;
    let names = listed.iter().filter_map(Value::as_str);
    Some(
        names
            .map(|name| name.trim().to_lowercase())
            .filter(|name| !name.is_empty())
            .collect(),
    )
}

fn listed(tools: &Value) -> Layer {
    Layer {
        // An empty list means that nothing was listed.
        allow: strings(tools, "allow").filter(|names| !names.is_empty()),
        deny: strings(tools, "deny").unwrap_or_default(),
    }
}

/// The tools of a profile, and what `alsoAllow` of these scopes adds to them.
fn profile_layer<'a>(
    profile: Option<&Value>,
    scopes: impl Iterator<Item = &'a Value>,
) -> Option<Layer> {
    let mut names: Vec<String> = match profile?.as_str()?.trim() {
        "minimal" => vec!["session_status".to_owned()],
        "coding" => [
            "group:fs",
            "group:runtime",
            "group:web",
            "group:sessions",
            "group:memory",
            "bundle-mcp",
        ]
        .map(str::to_owned)
        .to_vec(),
        "messaging" => [
            "group:messaging",
            "group:sessions",
            "session_status",
            "bundle-mcp",
        ]
        .map(str::to_owned)
        .to_vec(),
        _ => return None,
    };
    names.extend(
        scopes
            .filter_map(|tools| strings(tools, "alsoAllow"))
            .flatten(),
    );
    Some(Layer {
        allow: Some(names),
        deny: Vec::new(),
    })
}

/// Whether a tool is one of an MCP server: none of our own has such a name.
pub(super) fn is_of_a_server(tool: &str) -> bool {
    tool.contains(mcp::names::SEPARATOR)
}

/// Whether an entry of a list means a tool.
fn covers(pattern: &str, tool: &str) -> bool {
    match pattern {
        "group:fs" => FS.contains(&tool),
        "group:runtime" => RUNTIME.contains(&tool),
        "group:memory" => MEMORY.contains(&tool),
        "group:web" => WEB.contains(&tool),
        "group:messaging" => tool == "message",
        "group:sessions" => SESSIONS.contains(&tool),
        // The tool had another name before.
        "group:automation" | "cron" => tool == "automations",
        "group:openclaw" => {
            !FS.contains(&tool) && !RUNTIME.contains(&tool) && !is_of_a_server(tool)
        }
        "group:plugins" | "bundle-mcp" => is_of_a_server(tool),
        // The name of older releases.
        "bash" => tool == "exec",
        // `write` also allows, and does not deny, what else writes; here there is no second tool for it.
        pattern => matches(pattern.as_bytes(), tool.as_bytes()),
    }
}

pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|at| matches(rest, &name[at..])),
        Some((byte, rest)) => name
            .split_first()
            .is_some_and(|(first, name)| first == byte && matches(rest, name)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALL: [&str; 9] = [
        "read",
        "write",
        "edit",
        "ls",
        "grep",
        "find",
        "memory_search",
        "memory_get",
        "web_fetch",
    ];

    fn allowed(config: Value, entry: Value) -> Vec<&'static str> {
        let policy = Policy::read(
            &config,
            entry.as_object(),
            ("scripted", "one"),
            Origin::Operator,
        );
        ALL.into_iter().filter(|tool| policy.allows(tool)).collect()
    }

    #[test]
    fn tools_of_servers_are_named_one_by_one_by_server_or_all_together() {
        const SERVERS: [&str; 3] = ["docs__Read", "docs__write", "other__x"];
        let check = |tools: Value, expected: &[&str], hidden: &[&str]| {
            let config = json!({ "tools": tools });
            let policy = Policy::read(&config, None, ("p", "m"), Origin::Operator);
            let allowed: Vec<&str> = SERVERS
                .into_iter()
                .filter(|tool| policy.allows(tool))
                .collect();
            assert_eq!(allowed, expected, "{tools}");
            let hides: Vec<&str> = ["docs", "other"]
                .into_iter()
                .filter(|server| policy.hides(server))
                .collect();
            assert_eq!(hides, hidden, "{tools}");
        };
        check(json!({}), &SERVERS, &[]);
        for profile in ["coding", "messaging"] {
            check(json!({ "profile": profile }), &SERVERS, &[]);
        }
        check(json!({ "profile": "minimal" }), &[], &[]);
        let also = json!({ "profile": "minimal", "alsoAllow": ["docs__read"] });
        check(also, &["docs__Read"], &[]);
        check(json!({ "allow": ["group:openclaw"] }), &[], &[]);
        check(json!({ "allow": ["bundle-mcp"] }), &SERVERS, &[]);
        check(json!({ "allow": ["read", "other__*"] }), &["other__x"], &[]);
        let denied = json!({ "deny": ["DOCS__READ", "other*"] });
        check(denied, &["docs__write"], &["other"]);
        check(json!({ "deny": ["bundle-mcp"] }), &[], &["docs", "other"]);
        check(
            json!({ "deny": ["group:plugins"] }),
            &[],
            &["docs", "other"],
        );
    }

    #[test]
    fn lists_profiles_and_layers_narrow_each_other() {
        let none = json!({});
        let config = json!({ "tools": { "toolsBySender": { "id:7": { "deny": ["*"] } } } });
        let reads = |origin| Policy::read(&config, None, ("p", "m"), origin).allows("read");
        assert!(reads(Origin::Operator) && !reads(Origin::Channel));
        let check = |tools: Value, own: Value, expected: &[&str]| {
            let entry = json!({ "tools": own });
            assert_eq!(
                allowed(json!({ "tools": tools }), entry),
                expected,
                "{tools}"
            );
        };
        check(none.clone(), none.clone(), &ALL);
        check(json!({ "profile": "full" }), none.clone(), &ALL);
        check(json!({ "profile": "coding" }), none.clone(), &ALL);
        check(json!({ "profile": "minimal" }), none.clone(), &[]);
        check(
            json!({ "profile": "minimal", "alsoAllow": ["Read"] }),
            none.clone(),
            &["read"],
        );
        check(
            json!({ "profile": "minimal" }),
            json!({ "profile": "full" }),
            &ALL,
        );
        check(
            json!({ "allow": ["group:memory", "l*"] }),
            none.clone(),
            &["ls", "memory_search", "memory_get"],
        );
        check(
            json!({ "allow": ["read", "write"], "deny": ["WRITE"] }),
            none.clone(),
            &["read"],
        );
        check(
            json!({ "allow": ["read", "ls"] }),
            json!({ "allow": ["ls", "edit"] }),
            &["ls"],
        );
        check(
            json!({ "deny": ["group:fs", "web_*"] }),
            none.clone(),
            &["memory_search", "memory_get"],
        );
        check(
            json!({ "byProvider": { "scripted": { "allow": ["find"] }, "other": { "deny": ["*"] } } }),
            none.clone(),
            &["find"],
        );
        check(
            json!({ "byProvider": { "Scripted/one": { "profile": "minimal", "alsoAllow": ["grep"] } } }),
            none.clone(),
            &["grep"],
        );
        check(
            json!({ "toolsBySender": { "*": { "deny": ["write", "edit"] } } }),
            none,
            &[
                "read",
                "ls",
                "grep",
                "find",
                "memory_search",
                "memory_get",
                "web_fetch",
            ],
        );
    }
}
