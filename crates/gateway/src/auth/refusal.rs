//! A refused handshake: what the client is told, what the log says, and what would fix it.
//!
//! Texts are the original's byte for byte. Source: auth-messages.ts, connect-auth.ts, handshake-auth-helpers.ts
//! under src/gateway/server/ws-connection and packages/gateway-protocol/src/connect-error-details.ts at 2026.9.6.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use wire::connect::{ConnectAuth, ConnectParams, client_id, client_mode};

use super::credentials::Denied;
use super::settings::Mode;
use super::{AuthEvent, ConnectAttempt};

/// Longest close reason of a refused handshake, bytes. Source: src/gateway/server/close-reason.ts.
const CLOSE_REASON_MAX: usize = 120;
/// Refusals kept for `doctor`.
const RECENT_MAX: usize = 10;
/// Longest client-given text in a log line, characters.
const LOG_TEXT_MAX: usize = 120;

/// The answer to a refused `connect`, then the close.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub code: &'static str,
    pub message: String,
    pub details: Option<Value>,
    pub retryable: Option<bool>,
    pub retry_after_ms: Option<u64>,
    pub close_code: u16,
    pub close_reason: String,
    /// Hold the answer back this long.
    pub delay: Option<Duration>,
    pub log: RefusalLog,
    /// Events for other clients that this attempt caused (a pairing request, for one).
    pub events: Vec<AuthEvent>,
}

/// One log line's worth. Never holds a credential.
#[derive(Debug, Clone, Default)]
pub struct RefusalLog {
    pub at_ms: u64,
    /// The original's close cause, as `pairing-required`.
    pub cause: &'static str,
    /// More precise, where there is more: `token_mismatch`, `scope-upgrade`.
    pub reason: String,
    pub client_id: String,
    pub client_mode: String,
    pub client_version: String,
    pub ip: Option<IpAddr>,
    pub origin: Option<String>,
    pub device_id: Option<String>,
    /// A command or setting that makes the next attempt succeed.
    pub fix: String,
}

impl RefusalLog {
    /// Who was refused, and when.
    pub(super) fn about(&mut self, attempt: &ConnectAttempt<'_>, now_ms: u64) {
        let client = &attempt.params.client;
        self.at_ms = now_ms;
        self.client_id = client.id.clone();
        self.client_mode = client.mode.clone();
        self.client_version = client.version.clone();
        self.ip = Some(attempt.attribution.client_ip);
        self.origin = attempt.attribution.origin.clone();
        self.device_id = attempt
            .params
            .device
            .as_ref()
            .map(|device| device.id.clone());
    }

    /// Of the error with which the upstream refused a relayed handshake.
    pub(super) fn of_upstream(error: &Value, params: &ConnectParams) -> Self {
        let text = |name: &str| error["details"][name].as_str();
        let (cause, reason, fix) = match text("code") {
            Some("PAIRING_REQUIRED") => (
                "pairing-required",
                text("reason"),
                approval(text("requestId")),
            ),
            _ => {
                let reason = text("authReason").or_else(|| text("reason"));
                let fix = fix_for(reason.unwrap_or_default(), params);
                ("upstream-refused", reason.or_else(|| text("code")), fix)
            }
        };
        Self {
            cause,
            reason: plain(
                reason
                    .or_else(|| error["message"].as_str())
                    .unwrap_or_default(),
            ),
            fix,
            ..Self::default()
        }
    }
}

/// The command that lets a device in.
fn approval(request_id: Option<&str>) -> String {
    match request_id {
        Some(request_id) => format!("openclaw devices approve {}", plain(request_id)),
        None => "openclaw devices list, then openclaw devices approve <requestId>".to_owned(),
    }
}

impl std::fmt::Display for RefusalLog {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "connect refused: {}", self.cause)?;
        if !self.reason.is_empty() {
            write!(out, " ({})", self.reason)?;
        }
        write!(
            out,
            ", client {}/{} {}",
            plain(&self.client_id),
            plain(&self.client_mode),
            plain(&self.client_version)
        )?;
        if let Some(ip) = self.ip {
            write!(out, " from {ip}")?;
        }
        if let Some(origin) = &self.origin {
            write!(out, ", origin {}", plain(origin))?;
        }
        if let Some(device) = &self.device_id {
            write!(out, ", device {}", plain(device))?;
        }
        write!(out, "; fix: {}", self.fix)
    }
}

/// Client-given text, safe in a log line.
fn plain(text: &str) -> String {
    text.chars()
        .take(LOG_TEXT_MAX)
        .map(|own| if own.is_control() { ' ' } else { own })
        .collect()
}

/// The last refusals, for `doctor`.
#[derive(Default)]
pub struct Recent {
    kept: Mutex<VecDeque<RefusalLog>>,
    /// All that were noted since the start.
    noted: AtomicU64,
}

impl Recent {
    pub fn note(&self, log: RefusalLog) {
        self.noted.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.lock();
        if kept.len() == RECENT_MAX {
            kept.pop_front();
        }
        kept.push_back(log);
    }

    /// Oldest first.
    pub fn list(&self) -> Vec<RefusalLog> {
        self.kept.lock().iter().cloned().collect()
    }

    pub fn noted(&self) -> u64 {
        self.noted.load(Ordering::Relaxed)
    }
}

impl Refusal {
    /// Closes with 1008 and the message as reason.
    pub fn new(
        code: &'static str,
        message: impl Into<String>,
        cause: &'static str,
        fix: impl Into<String>,
    ) -> Self {
        let message = message.into();
        Self {
            code,
            close_reason: truncate(&message),
            message,
            details: None,
            retryable: None,
            retry_after_ms: None,
            close_code: 1008,
            delay: None,
            log: RefusalLog {
                cause,
                fix: fix.into(),
                ..RefusalLog::default()
            },
            events: Vec::new(),
        }
    }

    pub fn details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.log.reason = reason.into();
        self
    }

    pub fn close(mut self, code: u16, reason: impl Into<String>) -> Self {
        self.close_code = code;
        self.close_reason = reason.into();
        self
    }

    /// A first frame whose params do not fit; `message` is [`ConnectParams::parse`]'s.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(
            "INVALID_REQUEST",
            message,
            "invalid-handshake",
            "update the client to OpenClaw 2026.9.6",
        )
    }

    /// What this connect needs can only be done by the upstream, which is not there right now.
    pub fn upstream_starting(what: &str) -> Self {
        let mut refusal = Self::new(
            "UNAVAILABLE",
            "gateway starting; retry shortly",
            "upstream-unreachable",
            "wait for OpenClaw behind this gateway, or see `openclaw-gateway doctor`",
        )
        .details(json!({"reason": "startup-sidecars"}))
        .reason(what)
        .close(1013, "gateway starting");
        refusal.retryable = Some(true);
        refusal.retry_after_ms = Some(500);
        refusal
    }

    /// The pairing book could not be written, so nothing was granted.
    pub fn store(error: &dyn std::fmt::Display) -> Self {
        let mut refusal = Self::new(
            "UNAVAILABLE",
            "device pairing store is unavailable",
            "pairing-store-unavailable",
            error.to_string(),
        );
        refusal.retryable = Some(true);
        refusal.close_code = 1013;
        refusal
    }
}

/// The longest prefix of whole characters within the limit.
fn truncate(reason: &str) -> String {
    let mut end = reason.len().min(CLOSE_REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

/// Which credential was sent, for the advice. Blank ones count as not sent.
pub fn provided(auth: Option<&ConnectAuth>) -> &'static str {
    let sent = |field: fn(&ConnectAuth) -> &Option<String>| {
        auth.and_then(|auth| field(auth).as_deref())
            .is_some_and(|value| !value.is_empty())
    };
    if sent(|auth| &auth.password) {
        "password"
    } else if sent(|auth| &auth.token) {
        "token"
    } else if sent(|auth| &auth.bootstrap_token) {
        "bootstrap-token"
    } else if sent(|auth| &auth.device_token) {
        "device-token"
    } else {
        "none"
    }
}

/// A wrong, missing or locked-out credential.
pub fn unauthorized(
    params: &ConnectParams,
    mode: Mode,
    denied: &Denied,
    is_local: bool,
) -> Refusal {
    let auth = params.auth.as_ref();
    let provided = provided(auth);
    let has_device_token = auth
        .and_then(|auth| auth.device_token.as_deref())
        .is_some_and(|own| !own.is_empty());
    let retry_with_device = denied.reason == "token_mismatch"
        && params.device.is_some()
        && provided == "token"
        && !has_device_token;
    let next = if retry_with_device {
        "retry_with_device_token"
    } else {
        next_step(&denied.reason)
    };
    let message = message(params, mode, provided, &denied.reason, is_local);
    let mut refusal = Refusal::new(
        "INVALID_REQUEST",
        message,
        "unauthorized",
        fix_for(&denied.reason, params),
    )
    .details(json!({
        "code": detail_code(&denied.reason),
        "authReason": denied.reason,
        "canRetryWithDeviceToken": retry_with_device,
        "recommendedNextStep": next,
    }))
    .reason(denied.reason.clone());
    if let Some(retry_after_ms) = denied.retry_after_ms {
        refusal.retryable = Some(true);
        refusal.retry_after_ms = Some(retry_after_ms);
    }
    refusal
}

fn next_step(reason: &str) -> &'static str {
    match reason {
        "token_missing"
        | "token_missing_config"
        | "token_redacted_config"
        | "password_redacted_config"
        | "password_missing"
        | "password_missing_config" => "update_auth_configuration",
        "token_mismatch" | "password_mismatch" | "device_token_mismatch" => {
            "update_auth_credentials"
        }
        "rate_limited" => "wait_then_retry",
        _ => "review_auth_configuration",
    }
}

fn detail_code(reason: &str) -> &'static str {
    match reason {
        "token_missing" => "AUTH_TOKEN_MISSING",
        "token_mismatch" => "AUTH_TOKEN_MISMATCH",
        "token_missing_config" => "AUTH_TOKEN_NOT_CONFIGURED",
        "password_missing" => "AUTH_PASSWORD_MISSING",
        "password_mismatch" => "AUTH_PASSWORD_MISMATCH",
        "password_missing_config" => "AUTH_PASSWORD_NOT_CONFIGURED",
        "bootstrap_token_invalid" => "AUTH_BOOTSTRAP_TOKEN_INVALID",
        "rate_limited" => "AUTH_RATE_LIMITED",
        "device_token_mismatch" => "AUTH_DEVICE_TOKEN_MISMATCH",
        "scope_mismatch" => "AUTH_SCOPE_MISMATCH",
        reason if reason.starts_with("trusted_proxy_missing_header_") => {
            "AUTH_IDENTITY_HEADER_REQUIRED"
        }
        _ => "AUTH_UNAUTHORIZED",
    }
}

const SETUP_CODE_REJECTED: &str = "unauthorized: setup code invalid, expired, revoked, or already used (create a new \
                                   code; review `openclaw devices list`)";

fn message(
    params: &ConnectParams,
    mode: Mode,
    provided: &str,
    reason: &str,
    is_local: bool,
) -> String {
    let client = &params.client;
    let is_cli = client.mode == client_mode::CLI;
    let is_ui = matches!(
        client.id.as_str(),
        client_id::CONTROL_UI | client_id::BROWSER_COPILOT | client_id::TUI
    ) || client.mode == client_mode::WEBCHAT
        || client.id == client_id::WEBCHAT_UI;
    if client.mode == client_mode::NODE && reason.starts_with("trusted_proxy_missing_header_") {
        return "gateway rejected this node: trusted-proxy identity-header authentication is required and no usable \
                machine credential was accepted; run `openclaw doctor` on the Gateway"
            .to_owned();
    }
    let hint = |cli_local: &'static str,
                cli_remote: &'static str,
                ui: &'static str,
                other: &'static str| {
        if is_cli {
            if is_local { cli_local } else { cli_remote }
        } else if is_ui {
            ui
        } else {
            other
        }
    };
    let token_hint = hint(
        "use this gateway's gateway.auth.token or pair the device",
        "set gateway.remote.token to match gateway.auth.token",
        "open the dashboard URL and paste the token in Control UI settings",
        "provide gateway auth token",
    );
    let password_hint = hint(
        "use this gateway's gateway.auth.password",
        "set gateway.remote.password to match gateway.auth.password",
        "enter the password in Control UI settings",
        "provide gateway auth password",
    );
    let missing_token_hint = if is_ui {
        "paste in Control UI settings or openclaw doctor --generate-gateway-token; restart"
    } else {
        token_hint
    };
    let text = match reason {
        "token_missing" => {
            return format!("unauthorized: gateway token missing ({missing_token_hint})");
        }
        "token_mismatch" => return format!("unauthorized: gateway token mismatch ({token_hint})"),
        "password_missing" => {
            return format!("unauthorized: gateway password missing ({password_hint})");
        }
        "password_mismatch" => {
            return format!("unauthorized: gateway password mismatch ({password_hint})");
        }
        "token_missing_config" => {
            "unauthorized: gateway token not configured on gateway (set gateway.auth.token)"
        }
        "token_redacted_config" | "password_redacted_config" => {
            "gateway credential is a redaction sentinel (run openclaw doctor --fix on the Gateway, then restart and \
             re-pair)"
        }
        "password_missing_config" => {
            "unauthorized: gateway password not configured on gateway (set gateway.auth.password)"
        }
        "bootstrap_token_invalid" => SETUP_CODE_REJECTED,
        "rate_limited" => "unauthorized: too many failed authentication attempts (retry later)",
        "proxy_attribution_required" => {
            "unauthorized: proxy client attribution is required (configure gateway.trustedProxies narrowly and make \
             the proxy overwrite or safely rebuild forwarded client headers)"
        }
        "device_token_mismatch" => {
            "unauthorized: device token mismatch (rotate/reissue device token)"
        }
        "scope_mismatch" => {
            "unauthorized: device token scope mismatch (re-pair or approve scope upgrade)"
        }
        _ => match (mode, provided) {
            (Mode::Token, "none") => {
                return format!("unauthorized: gateway token missing ({token_hint})");
            }
            (Mode::Token, "device-token") => {
                "unauthorized: device token rejected (pair/repair this device, or provide gateway token)"
            }
            (_, "bootstrap-token") => SETUP_CODE_REJECTED,
            (Mode::Password, "none") => {
                return format!("unauthorized: gateway password missing ({password_hint})");
            }
            _ => "unauthorized",
        },
    };
    text.to_owned()
}

fn fix_for(reason: &str, params: &ConnectParams) -> String {
    let device = params
        .device
        .as_ref()
        .map_or("<deviceId>", |device| device.id.as_str());
    match reason {
        "token_mismatch" | "token_missing" => {
            "give the client the token that `openclaw config get gateway.auth.token` prints on this machine \
             (gateway.remote.token, or OPENCLAW_GATEWAY_TOKEN)"
                .to_owned()
        }
        "password_mismatch" | "password_missing" => {
            "give the client this gateway's gateway.auth.password (gateway.remote.password, or \
             OPENCLAW_GATEWAY_PASSWORD)"
                .to_owned()
        }
        "token_missing_config" => "openclaw doctor --generate-gateway-token".to_owned(),
        "password_missing_config" => "openclaw config set gateway.auth.password <password>".to_owned(),
        "token_redacted_config" | "password_redacted_config" => "openclaw doctor --fix".to_owned(),
        "device_token_mismatch" => {
            format!("openclaw devices rotate --device {device} --role operator")
        }
        "scope_mismatch" => "openclaw devices list, then openclaw devices approve <requestId>".to_owned(),
        "rate_limited" => "wait until the lockout ends (gateway.auth.rateLimit.lockoutMs)".to_owned(),
        "bootstrap_token_invalid" => "make a new setup code with `openclaw qr`".to_owned(),
        reason if reason.starts_with("trusted_proxy") => {
            "make the proxy send the user header of gateway.auth.trustedProxy, from an address in \
             gateway.trustedProxies"
                .to_owned()
        }
        _ => "openclaw-gateway doctor".to_owned(),
    }
}

/// Why a pairing must be approved by a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairingReason {
    NotPaired,
    RoleUpgrade,
    ScopeUpgrade,
    MetadataUpgrade,
}

impl PairingReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotPaired => "not-paired",
            Self::RoleUpgrade => "role-upgrade",
            Self::ScopeUpgrade => "scope-upgrade",
            Self::MetadataUpgrade => "metadata-upgrade",
        }
    }

    const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::NotPaired => (
                "pairing required: device is not approved yet",
                "Approve this device from the pending pairing requests.",
            ),
            Self::RoleUpgrade => (
                "pairing required: device is asking for a higher role than currently approved",
                "Review the requested role upgrade, then approve the pending request.",
            ),
            Self::ScopeUpgrade => (
                "pairing required: device is asking for more scopes than currently approved",
                "Review the requested scopes, then approve the pending upgrade.",
            ),
            Self::MetadataUpgrade => (
                "pairing required: device identity changed and must be re-approved",
                "Review the refreshed device details, then approve the pending request.",
            ),
        }
    }
}

/// What a pairing refusal tells the client.
pub struct PairingRequired<'a> {
    pub reason: PairingReason,
    pub request_id: Option<&'a str>,
    pub device_id: &'a str,
    pub role: &'a str,
    pub scopes: &'a [String],
    /// The client may try again by itself while a person decides.
    pub waits: bool,
    pub approved_roles: Vec<String>,
    pub approved_scopes: Vec<String>,
}

impl PairingRequired<'_> {
    pub fn refusal(self) -> Refusal {
        let (message, hint) = self.reason.texts();
        let mut details = Map::new();
        let mut put = |name: &str, value: Value| {
            details.insert(name.to_owned(), value);
        };
        put("code", "PAIRING_REQUIRED".into());
        put("reason", self.reason.as_str().into());
        if let Some(request_id) = self.request_id {
            put("requestId", request_id.into());
        }
        put("remediationHint", hint.into());
        if self.waits {
            put("recommendedNextStep", "wait_then_retry".into());
            put("retryable", true.into());
            put("pauseReconnect", false.into());
        }
        put("deviceId", self.device_id.into());
        put("requestedRole", self.role.into());
        for (name, list) in [
            ("requestedScopes", trimmed(self.scopes)),
            ("approvedRoles", self.approved_roles),
            ("approvedScopes", self.approved_scopes),
        ] {
            if !list.is_empty() {
                put(name, json!(list));
            }
        }
        let fix = approval(self.request_id);
        let close = match self.request_id {
            Some(request_id) => format!("{message} (requestId: {request_id})"),
            None => message.to_owned(),
        };
        Refusal::new("NOT_PAIRED", message, "pairing-required", fix)
            .details(Value::Object(details))
            .reason(self.reason.as_str())
            .close(1008, truncate(&close))
    }
}

fn trimmed(list: &[String]) -> Vec<String> {
    list.iter()
        .map(|own| own.trim().to_owned())
        .filter(|own| !own.is_empty())
        .collect()
}
