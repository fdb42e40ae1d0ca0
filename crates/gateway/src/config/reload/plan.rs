//! What a change takes: nothing, a hot reload, or a restart. Pure.
//!
//! Source: src/gateway/config-reload-plan.ts and config-diff.ts at 2026.9.6, without the rules that
//! loaded plugins add (those are the upstream's).

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::config::Settings;
use crate::config::settings::AuthMode;

/// What a changed path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A new snapshot is enough.
    None,
    /// Applied while running.
    Hot,
    Restart,
}

/// A subsystem that a hot change concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    ReloadHooks,
    ReloadInternalHooks,
    RefreshHooksPolicy,
    RestartGmailWatcher,
    RestartCron,
    RestartHeartbeat,
    ReconcileSystemJobs,
    ReloadPlugins,
    DisposeMcpRuntimes,
}

use Action::*;

struct Rule {
    /// Dotted; `*` stands for one segment.
    prefix: &'static str,
    kind: Kind,
    actions: &'static [Action],
}

const fn rule(prefix: &'static str, kind: Kind, actions: &'static [Action]) -> Rule {
    Rule {
        prefix,
        kind,
        actions,
    }
}

const ROSTER: &[Action] = &[
    RestartHeartbeat,
    ReconcileSystemJobs,
    RefreshHooksPolicy,
    ReloadInternalHooks,
];
const HEARTBEAT: &[Action] = &[RestartHeartbeat, ReconcileSystemJobs];

/// In the original's order: of equally long prefixes the first counts.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    rule("gateway.remote", Kind::None, &[]),
    rule("gateway.reload", Kind::None, &[]),
    rule("gateway.auth.token", Kind::Restart, &[]),
    rule("gateway.auth.password", Kind::Restart, &[]),
    rule("mcp.apps", Kind::Restart, &[]),
    rule("secrets.egressProxy", Kind::Restart, &[]),
    rule("gateway.portals", Kind::Restart, &[]),
    rule("gateway.http.endpoints", Kind::Hot, &[]),
    rule("gateway.http.securityHeaders.strictTransportSecurity", Kind::Hot, &[]),
    rule("gateway.tools", Kind::Hot, &[]),
    rule("gateway.cliAgents", Kind::Hot, &[]),
    rule("gateway.controlUi.enabled", Kind::Hot, &[]),
    rule("gateway.controlUi.environment", Kind::Hot, &[]),
    rule("gateway.controlUi.communityInvite", Kind::Hot, &[]),
    rule("gateway.controlUi.github", Kind::Hot, &[]),
    rule("gateway.controlUi.sessionObserver", Kind::Hot, &[]),
    rule("gateway.controlUi.embedSandbox", Kind::Hot, &[]),
    rule("gateway.controlUi.allowExternalEmbedUrls", Kind::Hot, &[]),
    rule("gateway.controlUi.automaticallyFetchFavicons", Kind::Hot, &[]),
    rule("gateway.controlUi.experimental.customPlugins", Kind::Hot, &[]),
    rule("gateway.controlUi.allowedOrigins", Kind::Hot, &[]),
    rule("gateway.controlUi.dangerouslyAllowHostHeaderOriginFallback", Kind::Hot, &[]),
    rule("gateway.nodes.browser", Kind::Hot, &[]),
    rule("gateway.nodes.pairing", Kind::Hot, &[]),
    rule("gateway.nodes.commands", Kind::Hot, &[]),
    rule("gateway.nodes.pluginTools.enabled", Kind::Hot, &[]),
    rule("gateway.nodes.allowSkills", Kind::Hot, &[]),
    rule("gateway.push.apns.relay", Kind::Hot, &[]),
    rule("gateway.terminal", Kind::Hot, &[]),
    rule("gateway.auth.rateLimit", Kind::Hot, &[]),
    rule("gateway.roles", Kind::Hot, &[]),
    rule("gateway.trustedProxies", Kind::Hot, &[]),
    rule("gateway.allowRealIpFallback", Kind::Hot, &[]),
    rule("gateway.auth.allowTailscale", Kind::Hot, &[]),
    rule("gateway.auth.identityScopes", Kind::Hot, &[]),
    rule("gateway.auth.trustedProxy", Kind::Hot, &[]),
    rule("diagnostics.enabled", Kind::Hot, &[]),
    rule("discovery.mdns.mode", Kind::Hot, &[]),
    rule("mcp.apps.sandboxOrigin", Kind::Hot, &[]),
    rule("agents.defaults", Kind::Hot, &[]),
    rule("desktop.host", Kind::Hot, &[]),
    rule("cloudWorkers", Kind::Hot, &[]),
    rule("hooks.gmail", Kind::Hot, &[RestartGmailWatcher, ReloadHooks]),
    rule("hooks.internal", Kind::Hot, &[ReloadInternalHooks]),
    rule("agents.defaults.workspace", Kind::Hot, &[ReloadInternalHooks]),
    rule("hooks", Kind::Hot, &[ReloadHooks]),
    rule("agents.defaults.heartbeat", Kind::Hot, HEARTBEAT),
    rule("agents.defaults.models", Kind::Hot, HEARTBEAT),
    rule("agents.defaults.modelPolicy", Kind::Hot, HEARTBEAT),
    rule("agents.defaults.model", Kind::Hot, HEARTBEAT),
    rule("models", Kind::Hot, HEARTBEAT),
    rule("agent.heartbeat", Kind::Hot, HEARTBEAT),
    rule("agents.entries", Kind::Hot, ROSTER),
    rule("agents.entries.*.decisionModel", Kind::Hot,
        &[RestartHeartbeat, ReconcileSystemJobs, RefreshHooksPolicy, ReloadInternalHooks, ReloadPlugins]),
    rule("agents.defaults.sessionStore", Kind::Hot, &[RefreshHooksPolicy]),
    rule("agents.ownership", Kind::Hot, &[RefreshHooksPolicy]),
    rule("skills.workshop.autonomous.mode", Kind::Hot, &[ReconcileSystemJobs]),
    rule("agents.defaults.decisionModel", Kind::Hot, &[ReloadPlugins]),
    rule("plugins.load", Kind::Hot, &[ReloadPlugins]),
    rule("plugins.installs", Kind::Hot, &[ReloadPlugins]),
    rule("cron", Kind::Hot, &[RestartCron]),
    rule("transcripts", Kind::Hot, &[ReloadPlugins]),
    rule("cloudWorkers.profiles", Kind::Hot, &[ReloadPlugins]),
    rule("mcp", Kind::Hot, &[DisposeMcpRuntimes]),
    rule("gateway.publicOrigin", Kind::Hot, &[DisposeMcpRuntimes]),
    rule("talk.provider", Kind::Hot, &[ReloadPlugins]),
    rule("talk.realtime.provider", Kind::Hot, &[ReloadPlugins]),
    // Shared by the channels: nothing to do while none is loaded.
    rule("agents.defaults.mediaMaxMb", Kind::None, &[]),
    rule("channels.defaults", Kind::None, &[]),
    rule("channels.modelByChannel", Kind::None, &[]),
    rule("messages.inbound", Kind::None, &[]),
    rule("messages.ackReactionScope", Kind::None, &[]),
    rule("commands", Kind::None, &[]),
    rule("accessGroups", Kind::None, &[]),
    rule("tts", Kind::None, &[]),
    rule("surfaces", Kind::None, &[]),
    rule("acp.stream", Kind::None, &[]),
    rule("diagnostics.flags", Kind::None, &[]),
    rule("session.scope", Kind::Hot, &[RefreshHooksPolicy]),
    rule("session.store", Kind::Hot, &[RefreshHooksPolicy]),
    rule("meta", Kind::None, &[]),
    rule("identity", Kind::None, &[]),
    rule("wizard", Kind::None, &[]),
    rule("logging", Kind::None, &[]),
    rule("agents", Kind::None, &[]),
    rule("bindings", Kind::None, &[]),
    rule("audio", Kind::None, &[]),
    rule("agent", Kind::None, &[]),
    rule("routing", Kind::None, &[]),
    rule("messages", Kind::None, &[]),
    rule("session", Kind::None, &[]),
    rule("talk", Kind::None, &[]),
    rule("skills", Kind::None, &[]),
    rule("secrets", Kind::None, &[]),
    rule("tui", Kind::None, &[]),
    rule("ui", Kind::None, &[]),
    rule("tools", Kind::Hot, &[]),
    rule("approvals.exec", Kind::Hot, &[]),
    rule("approvals.plugin", Kind::Hot, &[]),
    rule("auth.order", Kind::Hot, &[]),
    rule("auth.profiles", Kind::Hot, &[]),
    rule("broadcast", Kind::Hot, &[]),
    rule("memory.citations", Kind::Hot, &[]),
    rule("worktreeRoot", Kind::Hot, &[]),
    rule("worktreeAcceleration", Kind::Hot, &[]),
    rule("security.audit.suppressions", Kind::Hot, &[]),
    rule("security.installPolicy", Kind::Hot, &[]),
    rule("diagnostics.cacheTrace.enabled", Kind::Hot, &[]),
    rule("acp", Kind::Hot, &[]),
    rule("attachments.ttlHours", Kind::Hot, &[]),
    rule("update.checkOnStart", Kind::Hot, &[]),
    rule("update.channel", Kind::Hot, &[]),
    rule("update.auto.enabled", Kind::Hot, &[]),
    rule("telemetry.enabled", Kind::Hot, &[]),
    rule("telemetry.consentedAt", Kind::Hot, &[]),
    rule("plugins", Kind::Hot, &[ReloadPlugins, DisposeMcpRuntimes]),
    rule("channels", Kind::Hot, &[ReloadPlugins]),
    rule("gateway", Kind::Restart, &[]),
    rule("discovery", Kind::Restart, &[]),
];

/// What a change of the configuration takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadPlan {
    pub changed: Vec<String>,
    /// Changed paths that need a restart; empty when none does.
    pub restart: Vec<String>,
    /// Changed paths that apply while running.
    pub hot: Vec<String>,
    /// Changed paths that need nothing but the new snapshot.
    pub none: Vec<String>,
    pub actions: BTreeSet<Action>,
}

impl ReloadPlan {
    pub fn needs_restart(&self) -> bool {
        !self.restart.is_empty()
    }

    pub fn is_noop(&self) -> bool {
        self.restart.is_empty() && self.hot.is_empty()
    }
}

/// The plan from one effective configuration (defaults applied) to the next. The settings decide
/// whether a changed secret may be rotated while running: only within one authentication mode.
pub fn plan(old: (&Value, Option<&Settings>), new: (&Value, Option<&Settings>)) -> ReloadPlan {
    let rotation = match (old.1, new.1) {
        (Some(old), Some(new)) => {
            old.auth.mode == new.auth.mode
                && matches!(old.auth.mode, AuthMode::Token | AuthMode::Password)
        }
        _ => false,
    };
    plan_of(changed_paths(old.0, new.0), rotation)
}

fn plan_of(changed: Vec<String>, rotation: bool) -> ReloadPlan {
    let mut plan = ReloadPlan {
        changed,
        ..ReloadPlan::default()
    };
    for path in plan.changed.clone() {
        if is_install_time(&path) {
            plan.none.push(path);
            continue;
        }
        let rule = find_rule(&path);
        let kind = rule.map_or(Kind::Restart, |rule| rule.kind);
        let is_credential = rule.is_some_and(|rule| {
            matches!(rule.prefix, "gateway.auth.token" | "gateway.auth.password")
        });
        match kind {
            Kind::Restart if !(rotation && is_credential) => plan.restart.push(path),
            Kind::None => plan.none.push(path),
            Kind::Restart | Kind::Hot => {
                plan.actions
                    .extend(rule.into_iter().flat_map(|rule| rule.actions));
                plan.hot.push(path);
            }
        }
    }
    plan
}

/// What a change below `path` takes, without looking at values.
pub fn rule_kind(path: &str) -> Kind {
    if is_install_time(path) {
        return Kind::None;
    }
    find_rule(path).map_or(Kind::Restart, |rule| rule.kind)
}

/// Every prefix with a rule: changes are told apart at least this finely.
pub fn refinement_prefixes() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.prefix)
}

/// The longest matching rule; of equally long ones the one with fewer wildcards, then the first.
fn find_rule(path: &str) -> Option<&'static Rule> {
    let mut best: Option<(&Rule, usize, usize)> = None;
    for rule in RULES
        .iter()
        .filter(|rule| matches_prefix(path, rule.prefix))
    {
        let segments = rule.prefix.split('.').count();
        let wildcards = rule
            .prefix
            .split('.')
            .filter(|segment| *segment == "*")
            .count();
        let better = best.is_none_or(|(_, known, wild)| {
            segments > known || (segments == known && wildcards < wild)
        });
        if better {
            best = Some((rule, segments, wildcards));
        }
    }
    best.map(|(rule, ..)| rule)
}

fn matches_prefix(path: &str, prefix: &str) -> bool {
    let mut segments = path.split('.');
    prefix.split('.').all(|wanted| {
        segments.next().is_some_and(|segment| match wanted {
            "*" => !segment.is_empty(),
            wanted => segment == wanted,
        })
    })
}

fn is_install_time(path: &str) -> bool {
    path.strip_prefix("plugins.installs.")
        .and_then(|rest| rest.rsplit_once('.'))
        .is_some_and(|(id, key)| !id.is_empty() && matches!(key, "installedAt" | "resolvedAt"))
}

/// Dotted paths that differ. Below a key only one side has, as fine as there are rules.
///
/// Source: `diffGatewayReloadPaths`, src/gateway/config-diff.ts.
pub fn changed_paths(old: &Value, new: &Value) -> Vec<String> {
    let mut prefixes: Vec<String> = refinement_prefixes()
        .filter(|prefix| !prefix.contains('*'))
        .map(str::to_owned)
        .collect();
    for config in [old, new] {
        let entries = config.pointer("/agents/entries").and_then(Value::as_object);
        for (id, agent) in entries.into_iter().flatten() {
            if agent.get("decisionModel").is_some() {
                prefixes.push(format!("agents.entries.{id}.decisionModel"));
            }
        }
    }
    let mut paths = Vec::new();
    collect(Some(old), Some(new), "", &prefixes, &mut paths);
    paths
}

fn collect(
    old: Option<&Value>,
    new: Option<&Value>,
    prefix: &str,
    refinements: &[String],
    paths: &mut Vec<String>,
) {
    if old == new {
        return;
    }
    let (left, right) = (
        old.and_then(Value::as_object),
        new.and_then(Value::as_object),
    );
    let refined = || {
        prefix.is_empty()
            || refinements.iter().any(|known| {
                known
                    .strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with('.'))
            })
    };
    let descend = match (left, right) {
        (Some(_), Some(_)) => true,
        (None, None) => false,
        _ => refined(),
    };
    if !descend {
        paths.push(if prefix.is_empty() {
            "<root>".to_owned()
        } else {
            prefix.to_owned()
        });
        return;
    }
    let none = Map::new();
    let (left, right) = (left.unwrap_or(&none), right.unwrap_or(&none));
    for key in left
        .keys()
        .chain(right.keys().filter(|key| !left.contains_key(*key)))
    {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        collect(left.get(key), right.get(key), &path, refinements, paths);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The table of `docs/gateway/configuration/hot-reload.md`, row by row.
    #[test]
    fn every_documented_row() {
        use Kind::{Hot, None as Nothing, Restart};
        let rows: &[(&str, Kind)] = &[
            ("channels.telegram.enabled", Hot),
            ("web", Restart),
            ("agents", Nothing),
            ("agents.defaults.imageModel", Hot),
            ("models.providers.x.baseUrl", Hot),
            ("auth.order", Hot),
            ("auth.profiles.x", Hot),
            ("broadcast", Hot),
            ("worktreeRoot", Hot),
            ("worktreeAcceleration", Hot),
            ("hooks.token", Hot),
            ("cron.enabled", Hot),
            ("agents.defaults.heartbeat.every", Hot),
            ("session.dmScope", Nothing),
            ("session.scope", Hot),
            ("messages.queue", Nothing),
            ("tools.exec", Hot),
            ("skills.load", Nothing),
            ("mcp.servers.x", Hot),
            ("mcp.apps.port", Restart),
            ("mcp.apps.sandboxOrigin", Hot),
            ("audio", Nothing),
            ("talk.voice", Nothing),
            ("tts.enabled", Nothing),
            ("memory.citations", Hot),
            ("memory.search", Restart),
            ("attachments.ttlHours", Hot),
            ("plugins.entries.x", Hot),
            ("plugins.installs.x.installedAt", Nothing),
            ("plugins.installs.x.version", Hot),
            ("ui.prefs", Nothing),
            ("logging.level", Nothing),
            ("identity", Nothing),
            ("bindings", Nothing),
            ("surfaces", Nothing),
            ("approvals.exec", Hot),
            ("approvals.plugin", Hot),
            ("security.installPolicy", Hot),
            ("security.audit.suppressions", Hot),
            ("security.other", Restart),
            ("diagnostics.flags", Nothing),
            ("diagnostics.cacheTrace.enabled", Hot),
            ("diagnostics.otel", Restart),
            ("acp.agents", Hot),
            ("update.checkOnStart", Hot),
            ("update.channel", Hot),
            ("update.auto.enabled", Hot),
            ("telemetry.enabled", Hot),
            ("gateway.publicOrigin", Hot),
            ("gateway.http.endpoints.responses.enabled", Hot),
            ("gateway.http.securityHeaders.strictTransportSecurity", Hot),
            ("gateway.tools.deny", Hot),
            ("gateway.nodes.pairing.autoApproveLocal", Hot),
            ("gateway.nodes.commands.allow", Hot),
            ("gateway.cliAgents", Hot),
            ("gateway.push.apns.relay", Hot),
            ("gateway.terminal.enabled", Hot),
            ("desktop.host", Hot),
            ("cloudWorkers.profiles", Hot),
            ("gateway.auth.token", Restart),
            ("gateway.auth.password", Restart),
            ("gateway.auth.mode", Restart),
            ("gateway.auth.rateLimit.maxAttempts", Hot),
            ("gateway.auth.allowTailscale", Hot),
            ("gateway.auth.identityScopes.x", Hot),
            ("gateway.auth.trustedProxy.userHeader", Hot),
            ("gateway.roles", Hot),
            ("gateway.trustedProxies", Hot),
            ("gateway.allowRealIpFallback", Hot),
            ("transcripts.enabled", Hot),
            ("discovery.mdns.mode", Hot),
            ("discovery.wideArea", Restart),
            ("gateway.controlUi.allowedOrigins", Hot),
            ("gateway.controlUi.basePath", Restart),
            ("gateway.controlUi.root", Restart),
            ("gateway.port", Restart),
            ("gateway.bind", Restart),
            ("gateway.tls.enabled", Restart),
            ("gateway.tailscale.mode", Restart),
            ("gateway.reload.mode", Nothing),
            ("gateway.remote.url", Nothing),
            ("secrets.egressProxy", Restart),
            ("secrets.providers", Nothing),
            ("browser.enabled", Restart),
            ("nobody.knows", Restart),
        ];
        for (path, kind) in rows {
            assert_eq!(rule_kind(path), *kind, "{path}");
        }
    }

    #[test]
    fn rules_are_unique_and_reachable() {
        for (index, rule) in RULES.iter().enumerate() {
            assert!(
                RULES[..index]
                    .iter()
                    .all(|known| known.prefix != rule.prefix),
                "{}",
                rule.prefix
            );
            let path = rule.prefix.replace('*', "x");
            assert_eq!(find_rule(&path).map(|rule| rule.prefix), Some(rule.prefix));
        }
    }

    #[test]
    fn paths_are_as_fine_as_the_rules() {
        let paths = |old: Value, new: Value| changed_paths(&old, &new);
        assert_eq!(
            paths(json!({}), json!({"ui": {"prefs": {"theme": "x"}}})),
            ["ui"]
        );
        assert_eq!(
            paths(
                json!({}),
                json!({"gateway": {"auth": {"token": "x", "mode": "token"}}})
            ),
            ["gateway.auth.token", "gateway.auth.mode"]
        );
        assert_eq!(
            paths(
                json!({"session": {"a": [1]}}),
                json!({"session": {"a": [2]}})
            ),
            ["session.a"]
        );
        assert_eq!(paths(json!([]), json!({})), ["<root>"; 0]);
        assert_eq!(
            paths(
                json!({}),
                json!({"agents": {"entries": {"x": {"decisionModel": "m"}}}})
            ),
            ["agents.entries.x.decisionModel"]
        );
    }

    #[test]
    fn a_secret_rotates_only_within_its_mode() {
        let paths = || {
            vec![
                "gateway.auth.token".to_owned(),
                "messages.ackReaction".to_owned(),
            ]
        };
        let kept = plan_of(paths(), false);
        assert!(kept.needs_restart() && kept.restart == ["gateway.auth.token"]);
        let rotated = plan_of(paths(), true);
        assert!(!rotated.needs_restart() && rotated.hot == ["gateway.auth.token"]);
        assert_eq!(rotated.none, ["messages.ackReaction"]);
        let hooks = plan_of(vec!["hooks.gmail.x".to_owned()], false);
        assert!(
            hooks.actions.contains(&RestartGmailWatcher) && hooks.actions.contains(&ReloadHooks)
        );
        assert!(plan_of(Vec::new(), false).is_noop());
    }

    proptest::proptest! {
        #[test]
        fn equal_configurations_need_nothing(tree in crate::config::tests::tree()) {
            proptest::prop_assert!(changed_paths(&tree, &tree).is_empty());
        }
    }
}
