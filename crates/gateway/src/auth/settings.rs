//! What the operator decides about authentication; read anew for every request, swapped whole on reload.

use std::collections::BTreeMap;

use serde_json::json;

use super::attribution::Trust;
use super::limiter::Policy;
use super::{scopes, secret};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Token,
    Password,
    TrustedProxy,
    None,
}

impl Mode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Password => "password",
            Self::TrustedProxy => "trusted-proxy",
            Self::None => "none",
        }
    }
}

/// `gateway.auth` and its neighbours, secrets resolved. `Debug` shows no secret.
#[derive(Clone)]
pub struct AuthSettings {
    pub mode: Mode,
    pub token: Option<String>,
    pub password: Option<String>,
    pub trusted_proxy: Option<TrustedProxy>,
    /// `gateway.trustedProxies`: addresses and CIDR ranges.
    pub trusted_proxies: Vec<String>,
    pub allow_real_ip_fallback: bool,
    /// `gateway.auth.allowTailscale`: who Tailscale says that a person is takes the place of the secret, through Serve.
    pub allow_tailscale: bool,
    pub rate_limit: Policy,
    /// `gateway.controlUi.allowedOrigins`.
    pub allowed_origins: Vec<String>,
    /// `gateway.controlUi.dangerouslyAllowHostHeaderOriginFallback`.
    pub host_header_origin_fallback: bool,
    /// `gateway.controlUi.root` is set: its build is not ours to judge.
    pub control_ui_root_configured: bool,
    /// The build that the served Control UI must have; `None` judges none.
    pub build_id: Option<String>,
    /// `gateway.nodes.pairing.autoApproveLocal`.
    pub auto_approve_local: bool,
    /// `gateway.nodes.pairing.autoApproveCidrs`.
    pub auto_approve_cidrs: Vec<String>,
    /// `gateway.auth.identityScopes`: verified user → operator scopes.
    pub identity_scopes: BTreeMap<String, Vec<String>>,
    /// `gateway.roles` is set: who may do what then hangs on user profiles, which only the upstream has.
    pub roles_configured: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxy {
    pub user_header: String,
    pub required_headers: Vec<String>,
    pub allow_users: Vec<String>,
    pub allow_loopback: bool,
    pub device_auto_approve: Option<DeviceAutoApprove>,
}

/// `gateway.auth.trustedProxy.deviceAutoApprove` with `enabled: true`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceAutoApprove {
    /// `None`: the original's default list.
    pub scopes: Option<Vec<String>>,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            mode: Mode::Token,
            token: None,
            password: None,
            trusted_proxy: None,
            trusted_proxies: Vec::new(),
            allow_real_ip_fallback: false,
            allow_tailscale: false,
            rate_limit: Policy::default(),
            allowed_origins: Vec::new(),
            host_header_origin_fallback: false,
            control_ui_root_configured: false,
            build_id: None,
            auto_approve_local: true,
            auto_approve_cidrs: Vec::new(),
            identity_scopes: BTreeMap::new(),
            roles_configured: false,
        }
    }
}

impl AuthSettings {
    pub fn trust(&self) -> Trust<'_> {
        Trust {
            trusted_proxies: &self.trusted_proxies,
            allow_real_ip_fallback: self.allow_real_ip_fallback,
        }
    }

    /// Changes whenever the shared credential does; connections that rest on an older one must go.
    /// Source: src/gateway/server/ws-shared-generation.ts at 2026.9.6.
    pub fn generation(&self) -> Option<String> {
        let secret = match self.mode {
            Mode::Token => self.token.as_deref(),
            Mode::Password => self.password.as_deref(),
            Mode::TrustedProxy => return self.proxy_generation(),
            Mode::None => None,
        };
        let secret = secret.filter(|secret| !secret.trim().is_empty())?;
        Some(secret::sha256_base64url(&format!(
            "{}\0{secret}",
            self.mode.as_str()
        )))
    }

    fn proxy_generation(&self) -> Option<String> {
        let mut proxies = self.trusted_proxies.clone();
        proxies.sort_unstable();
        let shown = json!({
            "mode": "trusted-proxy",
            "trustedProxy": self.trusted_proxy.as_ref().map(|proxy| json!({
                "userHeader": proxy.user_header,
                "requiredHeaders": scopes::sorted_unique(&proxy.required_headers),
                "allowUsers": scopes::sorted_unique(&proxy.allow_users),
                "allowLoopback": proxy.allow_loopback,
            })),
            "trustedProxies": proxies,
        });
        Some(secret::sha256_base64url(&shown.to_string()))
    }

    /// Changes whenever a rule changes that decided who could come in.
    /// Source: `resolveGatewayAuthPolicyGeneration` in src/gateway/auth-policy.ts at 2026.9.6.
    pub fn policy_generation(&self) -> String {
        let mut proxies = self.trusted_proxies.clone();
        proxies.sort_unstable();
        let shown = json!([
            self.roles_configured,
            proxies,
            self.allow_real_ip_fallback,
            self.allow_tailscale,
            self.identity_scopes,
            format!("{:?}", self.trusted_proxy),
        ]);
        secret::sha256_base64url(&shown.to_string())
    }

    /// Scopes granted to a verified user by name; e-mail addresses compare without case.
    pub fn identity_scopes_of(&self, user: &str) -> Vec<String> {
        let found = self.identity_scopes.get(user).or_else(|| {
            let wanted = user.to_lowercase();
            let mail = |name: &str| name.contains('@') && name.to_lowercase() == wanted;
            let named = |(name, _): &(&String, _)| user.contains('@') && mail(name);
            self.identity_scopes
                .iter()
                .find(named)
                .map(|(_, scopes)| scopes)
        });
        found.cloned().unwrap_or_default()
    }
}

impl std::fmt::Debug for AuthSettings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("AuthSettings")
            .field("mode", &self.mode)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .field("password", &self.password.as_ref().map(|_| "set"))
            .field("trusted_proxies", &self.trusted_proxies)
            .field("allowed_origins", &self.allowed_origins)
            .finish_non_exhaustive()
    }
}
