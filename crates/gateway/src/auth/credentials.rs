//! The shared credential: token, password, a trusted proxy's word, or none.
//!
//! Source: src/gateway/auth.ts at 2026.9.6. The limiter is asked before a credential is compared, whatever else was
//! sent along (upstream PR 57647).

use std::time::Duration;

use http::HeaderMap;
use wire::connect::ConnectAuth;

use super::attribution::{Attribution, Ingress, header};
use super::limiter::{Class, Limiter, Verdict};
use super::origin::BrowserOrigin;
use super::settings::{AuthSettings, Mode, TrustedProxy};
use super::{address, secret};

/// How a caller proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    None,
    Token,
    Password,
    TrustedProxy,
    /// A person of the tailnet, named by Tailscale.
    Tailscale,
    DeviceToken,
    BootstrapToken,
}

impl Method {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token => "token",
            Self::Password => "password",
            Self::TrustedProxy => "trusted-proxy",
            Self::Tailscale => "tailscale",
            Self::DeviceToken => "device-token",
            Self::BootstrapToken => "bootstrap-token",
        }
    }

    pub const fn is_shared_secret(self) -> bool {
        matches!(self, Self::Token | Self::Password)
    }
}

/// A credential that held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub method: Method,
    /// Named by the trusted proxy or Tailscale.
    pub user: Option<String>,
}

/// A credential that did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The original's reason word, as in `details.authReason`.
    pub reason: String,
    /// `Some` when refused by the limiter.
    pub retry_after_ms: Option<u64>,
}

impl Denied {
    pub fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry_after_ms: None,
        }
    }

    pub fn limited(retry_after_ms: u64) -> Self {
        Self {
            reason: "rate_limited".to_owned(),
            retry_after_ms: Some(retry_after_ms),
        }
    }
}

/// What was sent, trimmed; blank is nothing.
#[derive(Clone, Default)]
pub struct Sent {
    pub token: Option<String>,
    pub password: Option<String>,
}

impl Sent {
    pub fn of(auth: Option<&ConnectAuth>) -> Self {
        Self {
            token: trimmed(auth.and_then(|auth| auth.token.as_deref())),
            password: trimmed(auth.and_then(|auth| auth.password.as_deref())),
        }
    }

    /// An HTTP bearer stands for both.
    pub fn bearer(token: Option<&str>) -> Self {
        let token = trimmed(token);
        Self {
            password: token.clone(),
            token,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.token.is_none() && self.password.is_none()
    }
}

/// Text without surrounding blanks, or nothing.
pub fn trimmed(value: Option<&str>) -> Option<String> {
    value
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
}

/// Which front door is asked; browsers are checked at the HTTP ones here and elsewhere at the WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    WebSocket,
    Http,
}

/// Counting failures: absent when nothing was sent that could be guessed.
#[derive(Clone, Copy)]
pub struct Counting<'a> {
    pub limiter: &'a Limiter,
    pub key: &'a str,
    pub now_ms: u64,
    /// A device token may still save this attempt, so the caller records the failure.
    pub deferred: bool,
}

pub struct Question<'a> {
    pub settings: &'a AuthSettings,
    pub attribution: &'a Attribution,
    pub headers: &'a HeaderMap,
    pub sent: &'a Sent,
    pub surface: Surface,
    pub counting: Option<Counting<'a>>,
    /// Who the client is, as Tailscale's daemon confirmed (`tailscale whois`).
    pub tailscale_user: Option<&'a str>,
}

impl Question<'_> {
    /// The verdict, and how long an answer must be held back.
    pub fn decide(&self) -> (Result<Granted, Denied>, Duration) {
        let settings = self.settings;
        let granted = |method| Ok(Granted { method, user: None });
        match settings.mode {
            Mode::Token if redacted(settings.token.as_deref()) => (
                Err(Denied::because("token_redacted_config")),
                Duration::ZERO,
            ),
            Mode::Password if redacted(settings.password.as_deref()) => (
                Err(Denied::because("password_redacted_config")),
                Duration::ZERO,
            ),
            Mode::TrustedProxy => self.trusted_proxy(),
            Mode::None => {
                if self.attribution.ingress == (Ingress::TrustedProxy { funnel: true }) {
                    return (
                        Err(Denied::because("gateway_auth_required")),
                        Duration::ZERO,
                    );
                }
                if !self.browser_allowed(self.attribution.is_local()) {
                    return (Err(Denied::because("origin_not_allowed")), Duration::ZERO);
                }
                (granted(Method::None), Duration::ZERO)
            }
            Mode::Token | Mode::Password if self.tailscale_person().is_some() => {
                if let Some(counting) = &self.counting {
                    counting.limiter.reset(counting.key, Class::SharedSecret);
                }
                let user = self.tailscale_person().map(str::to_owned);
                let method = Method::Tailscale;
                (Ok(Granted { method, user }), Duration::ZERO)
            }
            Mode::Token => {
                let sent = self.sent.token.as_deref().or(self.sent.password.as_deref());
                self.secret(Method::Token, settings.token.as_deref(), sent)
            }
            Mode::Password => {
                let sent = self.sent.password.as_deref().or(self.sent.token.as_deref());
                self.secret(Method::Password, settings.password.as_deref(), sent)
            }
        }
    }

    /// The person that Tailscale vouches for, where that is enough: `gateway.auth.allowTailscale`, a WebSocket through
    /// `tailscale serve`, and no secret sent along, which would be compared instead.
    fn tailscale_person(&self) -> Option<&str> {
        let counts = self.settings.allow_tailscale
            && self.surface == Surface::WebSocket
            && self.attribution.ingress == Ingress::TailscaleServe
            && self.sent.is_empty();
        self.tailscale_user.filter(|_| counts)
    }

    fn secret(
        &self,
        method: Method,
        expected: Option<&str>,
        sent: Option<&str>,
    ) -> (Result<Granted, Denied>, Duration) {
        let denied = |what: &str| Err(Denied::because(format!("{}_{what}", method.as_str())));
        if let Some(counting) = &self.counting
            && let Verdict::Locked { retry_after_ms } =
                counting
                    .limiter
                    .check(counting.key, Class::SharedSecret, counting.now_ms)
        {
            return (Err(Denied::limited(retry_after_ms)), Duration::ZERO);
        }
        let configured = |secret: &&str| match method {
            Method::Token => !secret::is_blank(secret),
            _ => !secret.is_empty(),
        };
        let Some(expected) = expected.filter(configured) else {
            return (denied("missing_config"), Duration::ZERO);
        };
        let Some(sent) = sent.filter(|sent| !sent.is_empty()) else {
            return (denied("missing"), Duration::ZERO);
        };
        if secret::equal(sent, expected) {
            if let Some(counting) = &self.counting {
                counting.limiter.reset(counting.key, Class::SharedSecret);
            }
            return (Ok(Granted { method, user: None }), Duration::ZERO);
        }
        let delay = match &self.counting {
            Some(counting) if !counting.deferred => counting.limiter.record_failure_and_delay(
                counting.key,
                Class::SharedSecret,
                counting.now_ms,
            ),
            _ => Duration::ZERO,
        };
        (denied("mismatch"), delay)
    }

    fn trusted_proxy(&self) -> (Result<Granted, Denied>, Duration) {
        let deny = |reason: &str| (Err(Denied::because(reason)), Duration::ZERO);
        let Some(proxy) = &self.settings.trusted_proxy else {
            return deny("trusted_proxy_config_missing");
        };
        if self.settings.trusted_proxies.is_empty() {
            return deny("trusted_proxy_no_proxies_configured");
        }
        match self.proxied_user(proxy) {
            Ok(user) => {
                if !self.attribution.forwarded() {
                    return deny("proxy_attribution_required");
                }
                if !self.browser_allowed(false) {
                    return deny("trusted_proxy_origin_not_allowed");
                }
                (
                    Ok(Granted {
                        method: Method::TrustedProxy,
                        user: Some(user),
                    }),
                    Duration::ZERO,
                )
            }
            Err(reason) => {
                let local_password = self.attribution.is_local()
                    && self
                        .settings
                        .password
                        .as_deref()
                        .is_some_and(|own| !own.is_empty())
                    && self.sent.password.is_some();
                if local_password {
                    if redacted(self.settings.password.as_deref()) {
                        return deny("password_redacted_config");
                    }
                    let sent = self.sent.password.as_deref();
                    return self.secret(Method::Password, self.settings.password.as_deref(), sent);
                }
                deny(&reason)
            }
        }
    }

    fn proxied_user(&self, proxy: &TrustedProxy) -> Result<String, String> {
        let peer = self.attribution.peer;
        if !address::is_listed(peer, &self.settings.trusted_proxies) {
            return Err("trusted_proxy_untrusted_source".to_owned());
        }
        if address::is_loopback(peer) {
            if !proxy.allow_loopback {
                return Err("trusted_proxy_loopback_source".to_owned());
            }
        } else {
            match address::is_own_interface(peer) {
                None => return Err("trusted_proxy_local_interface_check_failed".to_owned()),
                Some(true) => return Err("trusted_proxy_local_interface_source".to_owned()),
                Some(false) => {}
            }
        }
        let value =
            |name: &str| trimmed(header(self.headers, &name.trim().to_lowercase()).as_deref());
        if let Some(missing) = proxy
            .required_headers
            .iter()
            .find(|name| value(name).is_none())
        {
            return Err(format!("trusted_proxy_missing_header_{missing}"));
        }
        let user = value(&proxy.user_header).ok_or("trusted_proxy_user_missing")?;
        if !proxy.allow_users.is_empty() && !proxy.allow_users.contains(&user) {
            return Err("trusted_proxy_user_not_allowed".to_owned());
        }
        Ok(user)
    }

    fn browser_allowed(&self, is_local: bool) -> bool {
        let Some(origin) = self
            .attribution
            .browser_origin()
            .filter(|_| self.surface == Surface::Http)
        else {
            return true;
        };
        let origin = BrowserOrigin {
            request_host: self.attribution.host.clone(),
            origin: Some(origin.trim().to_owned()),
            is_local,
        };
        origin
            .check(
                &self.settings.allowed_origins,
                self.settings.host_header_origin_fallback,
            )
            .is_ok()
    }
}

fn redacted(secret: Option<&str>) -> bool {
    secret.is_some_and(secret::is_redacted)
}
