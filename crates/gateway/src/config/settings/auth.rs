//! Who may connect: mode, shared secret, proxy identity and failed-attempt limits.
//!
//! Source: src/gateway/auth-resolve.ts, startup-auth.ts, credential-planner.ts and
//! known-weak-gateway-secrets at 2026.9.6.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::TailscaleMode;
use super::view::View;
use crate::config::{ConfigError, Keepers, Paths, Secret, SecretRef};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    Token,
    Password,
    TrustedProxy,
    None,
}

impl AuthMode {
    /// The word used in the file and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Password => "password",
            Self::TrustedProxy => "trusted-proxy",
            Self::None => "none",
        }
    }
}

/// Where the mode comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthModeSource {
    Override,
    Config,
    Password,
    Token,
    Default,
}

/// What the command line says about authentication, above the file and the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthOverrides {
    pub mode: Option<AuthMode>,
    pub token: Option<Secret>,
    pub password: Option<Secret>,
}

/// Resolved authentication. Mode `Token` without a token is possible here: it is the first start, and
/// the caller makes one (`cli::run`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSettings {
    pub mode: AuthMode,
    pub mode_source: AuthModeSource,
    pub token: Option<Secret>,
    pub password: Option<Secret>,
    pub allow_tailscale: bool,
    /// Scopes by verified identity.
    pub identity_scopes: BTreeMap<String, Vec<String>>,
    pub rate_limit: RateLimit,
    pub trusted_proxy: Option<TrustedProxyAuth>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    pub max_attempts: u32,
    pub window: Duration,
    pub lockout: Duration,
    pub exempt_loopback: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxyAuth {
    pub user_header: String,
    pub required_headers: Vec<String>,
    /// Empty: every user the proxy names.
    pub allow_users: Vec<String>,
    pub allow_loopback: bool,
    pub device_auto_approve: DeviceAutoApprove,
    /// `cloudflareAccessOidc` as written.
    pub cloudflare_access_oidc: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceAutoApprove {
    pub enabled: bool,
    /// `None`: the original's default set.
    pub scopes: Option<Vec<String>>,
}

impl AuthSettings {
    pub(super) fn read(
        view: &View<'_>,
        paths: &Paths,
        overrides: &AuthOverrides,
        tailscale: TailscaleMode,
    ) -> Result<Self, ConfigError> {
        let configured = match view.word(
            "gateway.auth.mode",
            &["none", "token", "password", "trusted-proxy"],
        ) {
            Some("none") => Some(AuthMode::None),
            Some("token") => Some(AuthMode::Token),
            Some("password") => Some(AuthMode::Password),
            Some("trusted-proxy") => Some(AuthMode::TrustedProxy),
            _ => None,
        };
        let trusted_proxy = read_trusted_proxy(view);
        let rate_limit = read_rate_limit(view);
        let identity_scopes = read_identity_scopes(view);
        let allow_tailscale = view.get("gateway.auth.allowTailscale").is_some();
        let allow_tailscale =
            allow_tailscale.then(|| view.bool("gateway.auth.allowTailscale", false));
        let explicit = overrides.mode.or(configured);
        let (token, password) = Credentials::new(view, paths, overrides)?.resolve(explicit)?;
        let mode = explicit.unwrap_or(if password.is_some() {
            AuthMode::Password
        } else {
            AuthMode::Token
        });
        let mode_source = match (overrides.mode, configured, &password, &token) {
            (Some(_), ..) => AuthModeSource::Override,
            (_, Some(_), ..) => AuthModeSource::Config,
            (.., Some(_), _) => AuthModeSource::Password,
            (.., Some(_)) => AuthModeSource::Token,
            _ => AuthModeSource::Default,
        };
        let auth = Self {
            mode,
            mode_source,
            token,
            password,
            allow_tailscale: allow_tailscale.unwrap_or(
                tailscale == TailscaleMode::Serve
                    && !matches!(mode, AuthMode::Password | AuthMode::TrustedProxy),
            ),
            identity_scopes,
            rate_limit,
            trusted_proxy,
        };
        auth.check_strength(view)?;
        Ok(auth)
    }

    /// Nothing gets in: stands where the file could not be read.
    pub(super) fn locked() -> Self {
        Self {
            mode: AuthMode::Token,
            mode_source: AuthModeSource::Default,
            token: None,
            password: None,
            allow_tailscale: false,
            identity_scopes: BTreeMap::new(),
            rate_limit: RateLimit::default(),
            trusted_proxy: None,
        }
    }

    /// The secret the mode checks: the token, or the password. Clients may send it as either.
    pub fn shared_secret(&self) -> Option<&Secret> {
        match self.mode {
            AuthMode::Token => self.token.as_ref(),
            AuthMode::Password => self.password.as_ref(),
            AuthMode::TrustedProxy | AuthMode::None => None,
        }
    }

    pub fn has_shared_secret(&self) -> bool {
        self.shared_secret().is_some()
    }

    /// Whether the mode has what it needs. Source: `assertGatewayAuthConfigured`, auth.ts.
    pub fn check_configured(&self) -> Result<(), ConfigError> {
        const NOTE: &str = "; legacy CLAWDBOT_* and MOLTBOT_* environment variables are ignored";
        let fail = |key: &str, what: &str| Err(ConfigError::new(what).key(key));
        match self.mode {
            AuthMode::Token if self.token.is_none() && !self.allow_tailscale => {
                let what = "gateway auth mode is token, but no token was configured (set gateway.auth.token or OPENCLAW_GATEWAY_TOKEN).";
                Err(ConfigError::new(what).key("gateway.auth.token"))
            }
            AuthMode::Password if self.password.is_none() => fail(
                "gateway.auth.password",
                &format!("gateway auth mode is password, but no password was configured{NOTE}"),
            ),
            AuthMode::TrustedProxy => match &self.trusted_proxy {
                None => fail(
                    "gateway.auth.trustedProxy",
                    "gateway auth mode is trusted-proxy, but no trustedProxy config was provided (set gateway.auth.trustedProxy)",
                ),
                Some(proxy) if proxy.user_header.trim().is_empty() => fail(
                    "gateway.auth.trustedProxy.userHeader",
                    "gateway auth mode is trusted-proxy, but trustedProxy.userHeader is empty (set gateway.auth.trustedProxy.userHeader)",
                ),
                Some(_) if self.token.is_some() => fail(
                    "gateway.auth.token",
                    "gateway auth mode is trusted-proxy, but a shared token is also configured; remove gateway.auth.token / OPENCLAW_GATEWAY_TOKEN because trusted-proxy and token auth are mutually exclusive",
                ),
                Some(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Refuses secrets everyone knows. Source: `assertGatewayAuthNotKnownWeak`.
    fn check_strength(&self, view: &View<'_>) -> Result<(), ConfigError> {
        const WEAK_TOKENS: &[&str] = &["change-me-to-a-long-random-token", "change-me-now"];
        const WEAK_PASSWORDS: &[&str] = &["change-me-to-a-strong-password"];
        let (kind, weak) = match self.mode {
            AuthMode::Token => ("token", WEAK_TOKENS),
            AuthMode::Password => ("password", WEAK_PASSWORDS),
            AuthMode::TrustedProxy | AuthMode::None => return Ok(()),
        };
        let raw = view
            .get(&format!("gateway.auth.{kind}"))
            .and_then(Value::as_str);
        let Some(secret) = self.shared_secret().map(Secret::expose).or(raw) else {
            return Ok(());
        };
        let secret = secret.trim();
        let error = |what: String| view.document.error(&["gateway", "auth", kind], what);
        if secret == crate::config::redact::SENTINEL {
            return Err(error(format!(
                "Gateway auth {kind} is a known redaction sentinel, not a credential."
            ))
            .fix(format!("write a real {kind} there")));
        }
        if matches!(secret, "" | "undefined" | "null") || weak.contains(&secret) {
            return Err(error(format!("Invalid config: gateway auth {kind} is blank, a published example placeholder, or the literal string undefined/null."))
                .fix(format!("generate a real secret (for example, `openssl rand -hex 32`) and set gateway.auth.{kind} or OPENCLAW_GATEWAY_{}", kind.to_uppercase())));
        }
        Ok(())
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            window: Duration::from_millis(60_000),
            lockout: Duration::from_millis(300_000),
            exempt_loopback: true,
        }
    }
}

/// One credential field of the file.
enum Field {
    Missing,
    Value(Secret),
    /// Set, but its environment variable has no value.
    Unresolved,
    Reference(SecretRef),
}

impl Field {
    fn read(view: &View<'_>, path: &str) -> Self {
        match view.get(path) {
            None | Some(Value::Null) => Self::Missing,
            Some(Value::String(text)) => {
                if view
                    .document
                    .missing_vars
                    .iter()
                    .any(|(_, place)| place == path)
                {
                    return Self::Unresolved;
                }
                let authored = path
                    .split('.')
                    .try_fold(&view.document.parsed, |value, key| value.get(key));
                // `$NAME` is a reference where it is written so, not where substitution gave it.
                if let Some(reference) = authored
                    .filter(|authored| authored.as_str() == Some(text))
                    .and_then(|authored| SecretRef::of(&view.document.resolved, authored))
                {
                    return Self::Reference(reference);
                }
                match text.trim() {
                    "" => Self::Missing,
                    text => Self::Value(Secret::new(text)),
                }
            }
            Some(value) => match SecretRef::of(&view.document.resolved, value) {
                Some(reference) => Self::Reference(reference),
                None => {
                    view.wrong(path, "string", value);
                    Self::Missing
                }
            },
        }
    }

    fn is_configured(&self) -> bool {
        !matches!(self, Self::Missing)
    }
}

struct Credentials<'a> {
    view: &'a View<'a>,
    paths: &'a Paths,
    overrides: &'a AuthOverrides,
    token: Field,
    password: Field,
    env_token: Option<Secret>,
    env_password: Option<Secret>,
}

impl<'a> Credentials<'a> {
    fn new(
        view: &'a View<'a>,
        paths: &'a Paths,
        overrides: &'a AuthOverrides,
    ) -> Result<Self, ConfigError> {
        let env = |name: &str| view.document.env.trimmed(name).map(Secret::new);
        Ok(Self {
            view,
            paths,
            overrides,
            token: Field::read(view, "gateway.auth.token"),
            password: Field::read(view, "gateway.auth.password"),
            env_token: env("OPENCLAW_GATEWAY_TOKEN"),
            env_password: env("OPENCLAW_GATEWAY_PASSWORD"),
        })
    }

    /// Token and password: the command line, then the file, then the environment, then
    /// `gateway.remote`. A reference is resolved only when the mode may use it.
    fn resolve(
        &self,
        mode: Option<AuthMode>,
    ) -> Result<(Option<Secret>, Option<Secret>), ConfigError> {
        if mode.is_none() && self.token.is_configured() && self.password.is_configured() {
            let what = "gateway.auth.token and gateway.auth.password are both configured, but gateway.auth.mode is unset.";
            return Err(self
                .view
                .document
                .error(&["gateway", "auth"], what)
                .fix("Set gateway.auth.mode to token or password."));
        }
        let token_used = match mode {
            Some(mode) => mode == AuthMode::Token,
            None => {
                self.overrides.password.is_none()
                    && self.env_password.is_none()
                    && !self.password.is_configured()
            }
        };
        let password_used = match mode {
            Some(mode) => matches!(mode, AuthMode::Password | AuthMode::TrustedProxy),
            None => {
                self.overrides.token.is_none()
                    && self.env_token.is_none()
                    && !self.token.is_configured()
            }
        };
        let remote = |key: &str| match Field::read(self.view, &format!("gateway.remote.{key}")) {
            Field::Value(secret) => Some(secret),
            _ => None,
        };
        let mut token = match &self.overrides.token {
            Some(token) => Some(token.clone()),
            None => self.field("token", &self.token, token_used)?,
        };
        if token.is_none() && !matches!(self.token, Field::Reference(_)) {
            token = self.env_token.clone().or_else(|| remote("token"));
        }
        let mut password = match &self.overrides.password {
            Some(password) => Some(password.clone()),
            None => self.field("password", &self.password, password_used)?,
        };
        if password.is_none() && !matches!(self.password, Field::Reference(_)) {
            let fallback = || match mode {
                Some(AuthMode::TrustedProxy) => None,
                _ => remote("password"),
            };
            password = self.env_password.clone().or_else(fallback);
        }
        Ok((token, password))
    }

    fn field(&self, key: &str, field: &Field, used: bool) -> Result<Option<Secret>, ConfigError> {
        match field {
            Field::Value(secret) => Ok(Some(secret.clone())),
            Field::Missing | Field::Unresolved => Ok(None),
            Field::Reference(_) if !used => Ok(None),
            Field::Reference(reference) => {
                let keepers = Keepers {
                    config: &self.view.document.resolved,
                    env: &self.view.document.env,
                    paths: self.paths,
                };
                reference.resolve(keepers).map(Some).map_err(|reason| {
                    let what = format!("SecretRef {} cannot be resolved: {reason}", reference.label());
                    let variable = format!("OPENCLAW_GATEWAY_{}", key.to_uppercase());
                    self.view.document.error(&["gateway", "auth", key], what).fix(format!(
                        "make the secret available, or write the {key} as a string, or start with {variable} set and the key removed"
                    ))
                })
            }
        }
    }
}

fn read_rate_limit(view: &View<'_>) -> RateLimit {
    let default = RateLimit::default();
    let number = |key: &str| view.number(&format!("gateway.auth.rateLimit.{key}"));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float casts saturate"
    )]
    let whole = |number: f64| number.max(0.0) as u64;
    RateLimit {
        max_attempts: number("maxAttempts").map_or(default.max_attempts, |attempts| {
            u32::try_from(whole(attempts)).unwrap_or(u32::MAX)
        }),
        window: number("windowMs").map_or(default.window, |ms| Duration::from_millis(whole(ms))),
        lockout: number("lockoutMs").map_or(default.lockout, |ms| Duration::from_millis(whole(ms))),
        exempt_loopback: view.bool("gateway.auth.rateLimit.exemptLoopback", true),
    }
}

fn read_trusted_proxy(view: &View<'_>) -> Option<TrustedProxyAuth> {
    let key = |name: &str| format!("gateway.auth.trustedProxy.{name}");
    let proxy = view
        .get("gateway.auth.trustedProxy")
        .filter(|proxy| !proxy.is_null())?;
    if !proxy.is_object() {
        view.wrong("gateway.auth.trustedProxy", "object", proxy);
        return None;
    }
    let has_scopes = view.get(&key("deviceAutoApprove.scopes")).is_some();
    Some(TrustedProxyAuth {
        user_header: view.text(&key("userHeader")).unwrap_or_default(),
        required_headers: view.texts(&key("requiredHeaders")),
        allow_users: view.texts(&key("allowUsers")),
        allow_loopback: view.bool(&key("allowLoopback"), false),
        device_auto_approve: DeviceAutoApprove {
            enabled: view.bool(&key("deviceAutoApprove.enabled"), false),
            scopes: has_scopes.then(|| view.texts(&key("deviceAutoApprove.scopes"))),
        },
        cloudflare_access_oidc: view.get(&key("cloudflareAccessOidc")).cloned(),
    })
}

fn read_identity_scopes(view: &View<'_>) -> BTreeMap<String, Vec<String>> {
    let scopes = view
        .get("gateway.auth.identityScopes")
        .and_then(Value::as_object);
    scopes
        .into_iter()
        .flatten()
        .map(|(identity, scopes)| {
            let scopes = scopes.as_array().into_iter().flatten();
            (
                identity.clone(),
                scopes
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
            )
        })
        .collect()
}
