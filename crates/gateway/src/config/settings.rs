//! What the user's file means to a gateway: a typed view of the parts we act on, defaults applied.
//!
//! Unknown keys elsewhere are left alone. Source of keys, types and defaults:
//! src/config/zod-schema.gateway.ts, zod-schema.session-config.ts and the code that reads them, at
//! 2026.9.6.

mod auth;
mod view;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use auth::{
    AuthMode, AuthModeSource, AuthOverrides, AuthSettings, DeviceAutoApprove, RateLimit,
    TrustedProxyAuth,
};

use super::{ConfigDocument, ConfigError, Env, Issue, Paths, paths};
use view::View;

/// The agent that exists when the file names none.
pub const DEFAULT_AGENT_ID: &str = "main";

/// Everything a gateway reads from `openclaw.json` and its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `None` when unset: the original then refuses to start without `--allow-unconfigured`.
    pub mode: Option<GatewayMode>,
    /// After `OPENCLAW_GATEWAY_PORT`, `gateway.port` and the profile.
    pub port: u16,
    pub bind: BindMode,
    pub public_origin: Option<String>,
    pub auth: AuthSettings,
    /// Addresses or CIDR ranges, as written.
    pub trusted_proxies: Vec<String>,
    pub allow_real_ip_fallback: bool,
    pub control_ui: ControlUiSettings,
    pub http: HttpEndpoints,
    pub tls: TlsSettings,
    pub tailscale: TailscaleMode,
    /// `gateway.tailscale.preserveFunnel`: a Funnel that leads here and is not ours is left alone.
    pub tailscale_preserve_funnel: bool,
    pub nodes: NodeSettings,
    pub reload: ReloadMode,
    pub agents: AgentSettings,
    pub session: SessionSettings,
    pub hooks: HookSettings,
    pub logging: LoggingSettings,
    pub mdns: MdnsMode,
    /// `discovery.wideArea.domain`.
    pub wide_area_domain: Option<String>,
    /// `gateway.roles` as written: its rules belong to the authorisation code.
    pub roles: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayMode {
    Local,
    Remote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindMode {
    /// 127.0.0.1, and ::1 where it can be bound.
    Loopback,
    /// 0.0.0.0.
    Lan,
    /// Loopback if it can be bound (0.0.0.0 in a container), else 0.0.0.0.
    Auto,
    /// The Tailscale address and 127.0.0.1, else 127.0.0.1.
    Tailnet,
    /// This address, and 127.0.0.1 beside it.
    Custom(Ipv4Addr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailscaleMode {
    Off,
    Serve,
    Funnel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadMode {
    Hybrid,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MdnsMode {
    Off,
    Minimal,
    Full,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlUiSettings {
    pub enabled: bool,
    /// Empty, or `/prefix` without a slash at the end.
    pub base_path: String,
    pub root: Option<PathBuf>,
    /// Trimmed, blank ones left out.
    pub allowed_origins: Vec<String>,
    pub dangerously_allow_host_header_origin_fallback: bool,
    pub dangerously_disable_device_auth: bool,
    pub embed_sandbox: String,
    pub allow_external_embed_urls: bool,
    pub automatically_fetch_favicons: bool,
    pub custom_plugins: bool,
    pub community_invite: bool,
    pub session_observer: bool,
    /// Label and colour of `gateway.controlUi.environment`.
    pub environment: Option<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpEndpoints {
    pub chat_completions: bool,
    pub responses: bool,
    /// Value of `Strict-Transport-Security`; `None` when unset or `false`.
    pub strict_transport_security: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub enabled: bool,
    pub auto_generate: bool,
    /// Absolute; `gateway/tls/gateway-cert.pem` in the state directory when not set, as the original.
    pub cert_path: PathBuf,
    pub key_path: PathBuf,
    pub ca_path: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    pub pairing: NodePairing,
    pub commands_allow: Vec<String>,
    pub commands_deny: Vec<String>,
    pub plugin_tools: bool,
    pub allow_skills: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePairing {
    pub auto_approve_local: bool,
    pub auto_approve_cidrs: Vec<String>,
    /// `false` only when written so; the object form tunes it and belongs to the upstream.
    pub ssh_verify: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSettings {
    /// Normalised ids in the order of the file; `main` when the file names none.
    pub ids: Vec<String>,
    /// The agent marked default, or the only one.
    pub default_id: Option<String>,
    pub ownership_explicit: bool,
    /// Display names by id, where set.
    pub names: BTreeMap<String, String>,
    /// `agents.defaults.model` (or its `primary`), if any.
    pub default_model: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// `per-sender` or `global`.
    pub scope: String,
    pub dm_scope: String,
    pub group_scope: String,
    pub identity_links: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookSettings {
    pub enabled: bool,
    /// Begins with a slash and does not end with one; never `/`.
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggingSettings {
    /// The original's log file, when the user set one.
    pub file: Option<PathBuf>,
    pub level: Option<String>,
    pub redact_patterns: Vec<String>,
}

impl Settings {
    /// Reads the typed view. The first fault is returned as an error with file, line, key and fix;
    /// [`issues`](Self::issues) gives all of them in the original's form.
    pub fn read(document: &ConfigDocument, paths: &Paths) -> Result<Self, ConfigError> {
        Self::read_with(document, paths, &AuthOverrides::default())
    }

    /// As [`read`](Self::read), with the command line's choices.
    pub fn read_with(
        document: &ConfigDocument,
        paths: &Paths,
        overrides: &AuthOverrides,
    ) -> Result<Self, ConfigError> {
        let view = View::new(document);
        let settings = Self::from_view(&view, paths, overrides);
        if let Some((_, error)) = document.fault() {
            return Err(error.clone());
        }
        match view.first_error() {
            Some(error) => Err(error),
            None => settings,
        }
    }

    /// Every wrong type or value in the parts this view reads, as the original reports them.
    pub fn issues(document: &ConfigDocument, paths: &Paths) -> Vec<Issue> {
        let view = View::new(document);
        // Only the view's findings count here; errors of combinations are for the start.
        let _combination = Self::from_view(&view, paths, &AuthOverrides::default());
        view.into_issues()
    }

    fn from_view(
        view: &View<'_>,
        paths: &Paths,
        overrides: &AuthOverrides,
    ) -> Result<Self, ConfigError> {
        let env = &view.document.env;
        let tailscale = match view.word("gateway.tailscale.mode", &["off", "serve", "funnel"]) {
            Some("serve") => TailscaleMode::Serve,
            Some("funnel") => TailscaleMode::Funnel,
            _ => TailscaleMode::Off,
        };
        let auth = AuthSettings::read(view, paths, overrides, tailscale);
        let bind = read_bind(view, env, tailscale);
        let configured_port = view.port("gateway.port");
        let settings = Self {
            mode: match view.word("gateway.mode", &["local", "remote"]) {
                Some("local") => Some(GatewayMode::Local),
                Some("remote") => Some(GatewayMode::Remote),
                _ => None,
            },
            port: paths::gateway_port(env, configured_port),
            bind: bind.as_ref().map_or(BindMode::Loopback, |bind| *bind),
            public_origin: view.text("gateway.publicOrigin"),
            auth: auth.clone().unwrap_or_else(|_| AuthSettings::locked()),
            trusted_proxies: view.texts("gateway.trustedProxies"),
            allow_real_ip_fallback: view.bool("gateway.allowRealIpFallback", false),
            control_ui: read_control_ui(view, paths),
            http: read_http(view),
            tls: read_tls(view, paths),
            tailscale,
            tailscale_preserve_funnel: view.bool("gateway.tailscale.preserveFunnel", false),
            nodes: read_nodes(view),
            reload: match view.word("gateway.reload.mode", &["off", "hybrid"]) {
                Some("off") => ReloadMode::Off,
                _ => ReloadMode::Hybrid,
            },
            agents: read_agents(view),
            session: read_session(view),
            hooks: read_hooks(view)?,
            logging: LoggingSettings {
                file: view.path("logging.file", paths),
                level: view.text("logging.level"),
                redact_patterns: view.texts("logging.redactPatterns"),
            },
            wide_area_domain: view.text("discovery.wideArea.domain"),
            mdns: match view.word("discovery.mdns.mode", &["off", "minimal", "full"]) {
                Some("off") => MdnsMode::Off,
                Some("full") => MdnsMode::Full,
                _ => MdnsMode::Minimal,
            },
            roles: view
                .get("gateway.roles")
                .filter(|roles| roles.is_object())
                .cloned(),
        };
        bind?;
        auth?;
        Ok(settings)
    }

    /// The combination rules the original checks when it starts and reloads, for the address that
    /// `bind` came to. Source: `assertGatewayRuntimeSecurityConfig`, server-runtime-config.ts.
    pub fn check_exposure(&self, bind_host: &str) -> Result<(), ConfigError> {
        let loopback = bind_host
            .parse::<std::net::IpAddr>()
            .map_or(bind_host == "localhost", |address| address.is_loopback());
        let conflict = |what: String| Err(ConfigError::new(what));
        self.auth.check_configured()?;
        if self.tailscale == TailscaleMode::Funnel && self.auth.mode != AuthMode::Password {
            return conflict("tailscale funnel requires gateway auth mode=password (set gateway.auth.password or OPENCLAW_GATEWAY_PASSWORD)".to_owned());
        }
        if self.tailscale == TailscaleMode::Serve && self.auth.mode == AuthMode::None {
            return conflict("tailscale serve cannot be combined with gateway auth mode=none (set gateway.auth.mode=token or password)".to_owned());
        }
        if self.tailscale != TailscaleMode::Off && !loopback {
            return conflict(
                "tailscale serve/funnel requires gateway bind=loopback (127.0.0.1)".to_owned(),
            );
        }
        if !loopback && !self.auth.has_shared_secret() && self.auth.mode != AuthMode::TrustedProxy {
            return conflict(format!(
                "refusing to bind gateway to {bind_host}:{} without auth (set gateway.auth.token/password, or set OPENCLAW_GATEWAY_TOKEN/OPENCLAW_GATEWAY_PASSWORD; legacy CLAWDBOT_* and MOLTBOT_* environment variables are ignored)",
                self.port
            ));
        }
        let ui = &self.control_ui;
        if ui.enabled
            && !loopback
            && ui.allowed_origins.is_empty()
            && !ui.dangerously_allow_host_header_origin_fallback
        {
            return conflict("non-loopback Control UI requires gateway.controlUi.allowedOrigins (set explicit origins), or set gateway.controlUi.dangerouslyAllowHostHeaderOriginFallback=true to use Host-header origin fallback mode".to_owned());
        }
        if self.auth.mode == AuthMode::TrustedProxy && self.trusted_proxies.is_empty() {
            return conflict("gateway auth mode=trusted-proxy requires gateway.trustedProxies to be configured with at least one proxy IP".to_owned());
        }
        Ok(())
    }
}

fn read_bind(
    view: &View<'_>,
    env: &Env,
    tailscale: TailscaleMode,
) -> Result<BindMode, ConfigError> {
    const MODES: &[&str] = &["auto", "lan", "loopback", "custom", "tailnet"];
    let custom = view.text("gateway.customBindHost");
    Ok(match view.word("gateway.bind", MODES) {
        Some("lan") => BindMode::Lan,
        Some("auto") => BindMode::Auto,
        Some("tailnet") => BindMode::Tailnet,
        Some("custom") => {
            let error = |what: String| {
                view.document
                    .error(&["gateway", "customBindHost"], what)
                    .fix("set gateway.customBindHost to an IPv4 address of this machine")
            };
            let Some(host) = custom
                .as_deref()
                .map(str::trim)
                .filter(|host| !host.is_empty())
            else {
                return Err(error(
                    "gateway.bind=custom requires gateway.customBindHost".to_owned(),
                ));
            };
            BindMode::Custom(host.parse().map_err(|_cause| {
                error(format!(
                    "gateway.bind=custom requires a valid IPv4 customBindHost (got {host})"
                ))
            })?)
        }
        Some(_) => BindMode::Loopback,
        None if tailscale == TailscaleMode::Off && is_container(env) => BindMode::Auto,
        None => BindMode::Loopback,
    })
}

/// Whether this process is in a container, where the default bind is `auto`.
///
/// Source: `detectContainerEnvironment`, src/infra/container-environment.ts at 2026.9.6.
pub fn is_container(env: &Env) -> bool {
    if env.trimmed("FLY_MACHINE_ID").is_some() && env.trimmed("FLY_APP_NAME").is_some() {
        return true;
    }
    if [
        "/.dockerenv",
        "/run/.containerenv",
        "/var/run/.containerenv",
    ]
    .iter()
    .any(|file| Path::new(file).exists())
    {
        return true;
    }
    std::fs::read_to_string("/proc/1/cgroup").is_ok_and(|text| names_container(&text))
}

fn names_container(cgroup: &str) -> bool {
    let word_lxc = cgroup
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .any(|word| word == "lxc");
    let hex_after = |marker: &str, count: usize| {
        cgroup.match_indices(marker).any(|(at, _)| {
            let digits = cgroup[at + marker.len()..]
                .bytes()
                .take_while(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            digits.count() >= count
        })
    };
    cgroup.contains("/docker/")
        || cgroup.contains("/kubepods/")
        || cgroup.contains("/kubepods.")
        || hex_after("cri-containerd-", 1)
        || hex_after("containerd/", 64)
        || word_lxc
}

fn read_control_ui(view: &View<'_>, paths: &Paths) -> ControlUiSettings {
    let key = |name: &str| format!("gateway.controlUi.{name}");
    let base = view.text(&key("basePath")).unwrap_or_default();
    let environment = view
        .text(&key("environment.label"))
        .zip(view.text(&key("environment.color")));
    ControlUiSettings {
        enabled: view.bool(&key("enabled"), true),
        base_path: normalize_base_path(&base),
        root: view.path(&key("root"), paths),
        allowed_origins: view
            .texts(&key("allowedOrigins"))
            .into_iter()
            .map(|origin| origin.trim().to_owned())
            .filter(|origin| !origin.is_empty())
            .collect(),
        dangerously_allow_host_header_origin_fallback: view
            .bool(&key("dangerouslyAllowHostHeaderOriginFallback"), false),
        dangerously_disable_device_auth: view.bool(&key("dangerouslyDisableDeviceAuth"), false),
        embed_sandbox: view
            .word(&key("embedSandbox"), &["strict", "scripts", "trusted"])
            .unwrap_or("scripts")
            .to_owned(),
        allow_external_embed_urls: view.bool(&key("allowExternalEmbedUrls"), false),
        automatically_fetch_favicons: view.bool(&key("automaticallyFetchFavicons"), true),
        custom_plugins: view.bool(&key("experimental.customPlugins"), false),
        community_invite: view.bool(&key("communityInvite"), true),
        session_observer: view.bool(&key("sessionObserver"), true),
        environment,
    }
}

/// Source: `normalizeControlUiBasePath`, src/gateway/control-ui-shared.ts at 2026.9.6.
fn normalize_base_path(path: &str) -> String {
    match path.trim() {
        "" | "/" => String::new(),
        path => {
            let path = path.strip_suffix('/').unwrap_or(path);
            if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            }
        }
    }
}

fn read_tls(view: &View<'_>, paths: &Paths) -> TlsSettings {
    let file = |key: &str, name: &str| {
        let default = || paths.state_dir.join("gateway/tls").join(name);
        view.path(key, paths).unwrap_or_else(default)
    };
    TlsSettings {
        enabled: view.bool("gateway.tls.enabled", false),
        auto_generate: view.bool("gateway.tls.autoGenerate", true),
        cert_path: file("gateway.tls.certPath", "gateway-cert.pem"),
        key_path: file("gateway.tls.keyPath", "gateway-key.pem"),
        ca_path: view.path("gateway.tls.caPath", paths),
    }
}

impl TlsSettings {
    /// Of a document whose other parts may be wrong: what a client on this machine needs to know.
    pub fn of(document: &ConfigDocument, paths: &Paths) -> Self {
        read_tls(&View::new(document), paths)
    }
}

fn read_http(view: &View<'_>) -> HttpEndpoints {
    const HSTS: &str = "gateway.http.securityHeaders.strictTransportSecurity";
    HttpEndpoints {
        chat_completions: view.bool("gateway.http.endpoints.chatCompletions.enabled", false),
        responses: view.bool("gateway.http.endpoints.responses.enabled", false),
        strict_transport_security: match view.get(HSTS) {
            Some(Value::Bool(false)) => None,
            _ => view
                .text(HSTS)
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty()),
        },
    }
}

fn read_nodes(view: &View<'_>) -> NodeSettings {
    NodeSettings {
        pairing: NodePairing {
            auto_approve_local: view.bool("gateway.nodes.pairing.autoApproveLocal", true),
            auto_approve_cidrs: view.texts("gateway.nodes.pairing.autoApproveCidrs"),
            ssh_verify: !matches!(
                view.get("gateway.nodes.pairing.sshVerify"),
                Some(Value::Bool(false))
            ),
        },
        commands_allow: view.texts("gateway.nodes.commands.allow"),
        commands_deny: view.texts("gateway.nodes.commands.deny"),
        plugin_tools: view.bool("gateway.nodes.pluginTools.enabled", true),
        allow_skills: view.bool("gateway.nodes.allowSkills", true),
    }
}

/// Source: src/agents/agent-roster.ts at 2026.9.6.
fn read_agents(view: &View<'_>) -> AgentSettings {
    let mut entries: Vec<(String, &Value)> = Vec::new();
    let mut named = false;
    if let Some(roster) = view.get("agents.entries") {
        named = true;
        for (id, entry) in roster.as_object().into_iter().flatten() {
            if entry.is_object() {
                entries.push((normalize_agent_id(id), entry));
            }
        }
    } else if let Some(roster) = view.get("agents.list") {
        named = true;
        for entry in roster
            .as_array()
            .into_iter()
            .flatten()
            .filter(|entry| entry.is_object())
        {
            let id = entry.get("id").and_then(Value::as_str).unwrap_or_default();
            entries.push((normalize_agent_id(id), entry));
        }
    }
    let ownership_explicit = view.text("agents.ownership").as_deref() == Some("explicit");
    let marked: Vec<&String> = entries
        .iter()
        .filter(|(_, entry)| entry.get("default") == Some(&Value::Bool(true)))
        .map(|(id, _)| id)
        .collect();
    let default_id = match (marked.as_slice(), entries.as_slice()) {
        ([id], _) if !ownership_explicit => Some((*id).clone()),
        (_, [(id, _)]) => Some(id.clone()),
        (_, []) if !named => Some(DEFAULT_AGENT_ID.to_owned()),
        _ => None,
    };
    let mut ids: Vec<String> = Vec::new();
    let mut names = BTreeMap::new();
    for (id, entry) in &entries {
        if !ids.contains(id) {
            ids.push(id.clone());
        }
        if let Some(name) = entry.get("name").and_then(Value::as_str) {
            names.entry(id.clone()).or_insert_with(|| name.to_owned());
        }
    }
    if !named {
        ids.push(DEFAULT_AGENT_ID.to_owned());
    }
    let model = view.get("agents.defaults.model");
    let default_model = model
        .and_then(|model| model.as_str().or_else(|| model.get("primary")?.as_str()))
        .map(str::to_owned);
    AgentSettings {
        ids,
        default_id,
        ownership_explicit,
        names,
        default_model,
    }
}

/// Source: `normalizeAgentId`, packages/normalization-core/src/agent-id.ts at 2026.9.6.
pub fn normalize_agent_id(id: &str) -> String {
    let lower = id.trim().to_lowercase();
    let mut out = String::new();
    for c in lower.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') {
            out.push(c);
        } else if !out.ends_with('-') || out.is_empty() {
            out.push('-');
        }
    }
    let valid =
        out == lower && out.len() <= 64 && out.starts_with(|c: char| c.is_ascii_alphanumeric());
    let out = if valid {
        out.as_str()
    } else {
        out.trim_matches('-')
    };
    match &out[..out.len().min(64)] {
        "" => DEFAULT_AGENT_ID.to_owned(),
        id => id.to_owned(),
    }
}

fn read_session(view: &View<'_>) -> SessionSettings {
    const DM: &[&str] = &[
        "main",
        "per-peer",
        "per-channel-peer",
        "per-account-channel-peer",
    ];
    let links = view.get("session.identityLinks").and_then(Value::as_object);
    SessionSettings {
        scope: view
            .word("session.scope", &["per-sender", "global"])
            .unwrap_or("per-sender")
            .to_owned(),
        dm_scope: view
            .word("session.dmScope", DM)
            .unwrap_or("main")
            .to_owned(),
        group_scope: view
            .word("session.groupScope", &["main", "per-group"])
            .unwrap_or("per-group")
            .to_owned(),
        identity_links: links
            .into_iter()
            .flatten()
            .map(|(name, peers)| {
                let peers = peers.as_array().into_iter().flatten();
                (
                    name.clone(),
                    peers.filter_map(Value::as_str).map(str::to_owned).collect(),
                )
            })
            .collect(),
    }
}

/// Source: `resolveHooksConfig`, src/gateway/hooks.ts at 2026.9.6.
fn read_hooks(view: &View<'_>) -> Result<HookSettings, ConfigError> {
    let enabled = view.bool("hooks.enabled", false);
    let raw = view
        .text("hooks.path")
        .map(|path| path.trim().to_owned())
        .unwrap_or_default();
    let path = match raw.as_str() {
        "" => "/hooks".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    let trimmed = path.trim_end_matches('/');
    if enabled && trimmed.is_empty() {
        let error = view
            .document
            .error(&["hooks", "path"], "hooks.path may not be '/'");
        return Err(error.fix("set hooks.path to a path of its own, such as /hooks"));
    }
    let has_token = match view.get("hooks.token") {
        Some(Value::String(token)) => !token.trim().is_empty(),
        Some(Value::Object(_)) => true,
        _ => false,
    };
    if enabled && !has_token {
        let error = view
            .document
            .error(&["hooks", "enabled"], "hooks.enabled requires hooks.token");
        return Err(error.fix("set hooks.token to a secret of its own, or hooks.enabled to false"));
    }
    Ok(HookSettings {
        enabled,
        path: trimmed.to_owned(),
    })
}

#[cfg(test)]
pub(crate) mod tests;
