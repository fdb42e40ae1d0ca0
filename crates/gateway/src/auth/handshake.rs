//! The decision on one `connect`, in the original's order: protocol, role, origin, shared credential, missing device,
//! device proof, device token, pairing, token issue, scopes, Control UI build.
//!
//! Source: connect-admission.ts, connect-auth.ts, connect-device-pairing.ts, connect-existing-device.ts,
//! connect-session.ts and connect-hello.ts under src/gateway/server/ws-connection at 2026.9.6.

mod admission;
mod pair;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use wire::connect::{ConnectParams, DeviceProof, client_id};

use super::attribution::Attribution;
use super::credentials::{Counting, Denied, Granted, Question, Sent, Surface, trimmed};
use super::device::{self, Proven};
use super::limiter::{Class, Limiter, Verdict};
use super::origin::{self, BrowserOrigin};
use super::pairing::tokens::{Issued, TokenError};
use super::pairing::{About, MadeBy};
use super::policy::{self, Kind, MissingDevice, PairingLocality};
use super::refusal::{self, Refusal};
use super::settings::{AuthSettings, Mode};
use super::{
    Auth, ConnectAttempt, Decision, Effects, Method, Principal, RelayReason, Role, UpstreamTrust,
    address, scopes, secret,
};

/// Counted when a page's origin cannot be read. Source: `BROWSER_ORIGIN_LOOPBACK_RATE_LIMIT_IP`.
const UNREADABLE_ORIGIN_KEY: &str = "198.18.0.1";

pub(super) fn decide(auth: &Auth, attempt: &ConnectAttempt<'_>, now_ms: u64) -> Decision {
    let mut handshake = Handshake::new(auth, attempt, now_ms);
    match handshake.run() {
        Ok(principal) => Decision::Accept(Box::new(principal)),
        Err(Stop::Refuse(refusal)) => Decision::Refuse(Box::new(handshake.finish(*refusal))),
        Err(Stop::Relay(why)) => {
            handshake.settle();
            Decision::Relay { why }
        }
        Err(Stop::Ask { token, device_id }) => Decision::AskUpstream { token, device_id },
    }
}

/// The client that failures of this attempt are counted under, and where.
pub(super) fn counted_under<'a>(
    auth: &'a Auth,
    attribution: &Attribution,
) -> (&'a Limiter, String) {
    let client = attribution.client_ip.to_string();
    match attribution.browser_origin() {
        None => (&auth.limiter, client),
        Some(page) if address::is_loopback(attribution.client_ip) => {
            let key =
                origin::rate_limit_key(page).unwrap_or_else(|| UNREADABLE_ORIGIN_KEY.to_owned());
            (&auth.browser_limiter, key)
        }
        Some(_) => (&auth.browser_limiter, client),
    }
}

enum Stop {
    Refuse(Box<Refusal>),
    Relay(RelayReason),
    Ask { token: String, device_id: String },
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(Box::new(refusal))
    }
}

struct Handshake<'a> {
    auth: &'a Auth,
    attempt: ConnectAttempt<'a>,
    params: &'a ConnectParams,
    settings: Arc<AuthSettings>,
    now_ms: u64,
    kind: Kind,
    role: Role,
    /// Shrinks on the way, never grows but by a trusted proxy's grant.
    scopes: Vec<String>,
    browser_origin: Option<BrowserOrigin>,
    limiter: &'a Limiter,
    limiter_key: String,
    /// The shared secret was wrong, but a device token might still do; counted when it does not.
    pending_failure: bool,
    delay: Duration,
    effects: Effects,
}

/// What the credentials came to.
struct Credentials {
    shared_ok: bool,
    method: Method,
    user: Option<String>,
    /// Set when a device token was issued under a shared secret.
    token_generation: Option<String>,
}

impl<'a> Handshake<'a> {
    fn new(auth: &'a Auth, attempt: &ConnectAttempt<'a>, now_ms: u64) -> Self {
        let params = attempt.params;
        let (limiter, limiter_key) = counted_under(auth, attempt.attribution);
        Self {
            auth,
            attempt: *attempt,
            params,
            settings: auth.settings.load_full(),
            now_ms,
            kind: Kind::of(&params.client),
            role: Role::Operator,
            scopes: params.scopes.clone().unwrap_or_default(),
            browser_origin: None,
            limiter,
            limiter_key,
            pending_failure: false,
            delay: Duration::ZERO,
            effects: Effects::default(),
        }
    }

    fn run(&mut self) -> Result<Principal, Stop> {
        self.admit()?;
        let (shared, sent) = self.ask_shared_credential();
        let shared_ok = self.shared_ok(&shared, &sent);
        let method = match &shared {
            Ok(granted) => granted.method,
            Err(_) if self.settings.mode == Mode::Password => Method::Password,
            Err(_) => Method::Token,
        };
        self.check_missing_device(&shared, shared_ok, method)?;
        let proven = self.prove_device()?;
        let credentials = self.settle_credentials(shared, shared_ok, proven.as_ref())?;
        self.relay_what_is_the_upstreams(&credentials)?;
        self.authorize(credentials, proven)
    }

    /// Step 2: the shared credential, before anything else is looked at.
    fn ask_shared_credential(&mut self) -> (Result<Granted, Denied>, Sent) {
        let auth = self.params.auth.as_ref();
        let sent = Sent::of(auth);
        let deferred = self.params.device.is_some() && self.device_credential().is_some();
        let counting = Counting {
            limiter: self.limiter,
            key: &self.limiter_key,
            now_ms: self.now_ms,
            deferred,
        };
        let question = Question {
            settings: &self.settings,
            attribution: self.attempt.attribution,
            headers: self.attempt.headers,
            sent: &sent,
            surface: Surface::WebSocket,
            counting: (!sent.is_empty()).then_some(counting),
        };
        let (verdict, delay) = question.decide();
        self.delay = self.delay.max(delay);
        self.pending_failure = deferred
            && matches!(&verdict, Err(denied) if matches!(denied.reason.as_str(), "token_mismatch" | "password_mismatch"));
        (verdict, sent)
    }

    /// Whether the secret is right, the limiter aside: decides which rule a refusal falls under, never an acceptance.
    fn shared_ok(&self, verdict: &Result<Granted, Denied>, sent: &Sent) -> bool {
        if matches!(verdict, Ok(granted) if granted.method == Method::TrustedProxy) {
            return true;
        }
        let question = Question {
            settings: &self.settings,
            attribution: self.attempt.attribution,
            headers: self.attempt.headers,
            sent,
            surface: Surface::WebSocket,
            counting: None,
        };
        !sent.is_empty()
            && matches!(question.decide().0, Ok(granted) if granted.method.is_shared_secret())
    }

    /// The device token sent, or the shared token that may turn out to be one.
    fn device_credential(&self) -> Option<(String, CredentialSource)> {
        let auth = self.params.auth.as_ref()?;
        if let Some(token) = trimmed(auth.device_token.as_deref()) {
            return Some((token, CredentialSource::DeviceToken));
        }
        trimmed(auth.token.as_deref()).map(|token| (token, CredentialSource::SharedToken))
    }

    /// Step 3: who may come without a device, and with which scopes.
    fn check_missing_device(
        &mut self,
        shared: &Result<Granted, Denied>,
        shared_ok: bool,
        method: Method,
    ) -> Result<(), Stop> {
        if self.params.device.is_some() {
            return Ok(());
        }
        let locality = policy::locality(self.attempt.attribution, self.params, shared_ok, method);
        let has_origin = self.attempt.attribution.browser_origin().is_some();
        let skips = policy::skips_pairing(self.kind, locality, has_origin, shared_ok, method);
        let keeps = policy::keeps_cli_scopes(self.kind, locality, has_origin, shared_ok, method);
        let decision = self.missing_device(shared.is_ok(), shared_ok, method, skips);
        let unbound = decision != MissingDevice::Allow
            || matches!(
                method,
                Method::Token | Method::Password | Method::TrustedProxy
            );
        if !skips && !keeps && unbound {
            // Self-declared scopes of a caller with only the shared secret count for nothing (GHSA-rqpp-rjj8-7wv8).
            self.scopes.clear();
        }
        let refusal = match decision {
            MissingDevice::Allow => return Ok(()),
            MissingDevice::ControlUiNeedsDevice => Refusal::new(
                "INVALID_REQUEST",
                "control ui requires device identity (use HTTPS or localhost secure context)",
                "control-ui-insecure-auth",
                "open the Control UI over HTTPS or at http://localhost, or update the client",
            )
            .details(json!({"code": "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"})),
            MissingDevice::Unauthorized => match shared {
                Err(denied) => self.unauthorized(denied),
                Ok(_) => self.unauthorized(&Denied::because("unauthorized")),
            },
            MissingDevice::DeviceRequired => Refusal::new(
                "NOT_PAIRED",
                "device identity required",
                "device-required",
                "send this gateway's token (`openclaw config get gateway.auth.token`), or connect with a device",
            )
            .details(json!({"code": "DEVICE_IDENTITY_REQUIRED"})),
        };
        self.settle();
        Err(refusal.into())
    }

    fn missing_device(
        &self,
        auth_ok: bool,
        shared_ok: bool,
        method: Method,
        skips: bool,
    ) -> MissingDevice {
        let is_operator = self.role == Role::Operator;
        let has_shared = self.params.auth.as_ref().is_some_and(|auth| {
            [&auth.token, &auth.password]
                .into_iter()
                .flatten()
                .any(|value| !value.is_empty())
        });
        if self.kind.is_control_ui && self.is_proxied_control_ui(auth_ok, method)
            || skips && is_operator
        {
            MissingDevice::Allow
        } else if self.kind.is_control_ui {
            MissingDevice::ControlUiNeedsDevice
        } else if is_operator && shared_ok {
            MissingDevice::Allow
        } else if !auth_ok && has_shared {
            MissingDevice::Unauthorized
        } else {
            MissingDevice::DeviceRequired
        }
    }

    fn is_proxied_control_ui(&self, auth_ok: bool, method: Method) -> bool {
        self.kind.is_control_ui
            && self.role == Role::Operator
            && self.settings.mode == Mode::TrustedProxy
            && auth_ok
            && method == Method::TrustedProxy
    }

    /// Step 4: the signature over this connection's challenge.
    fn prove_device(&mut self) -> Result<Option<Proven>, Stop> {
        let Some(device) = &self.params.device else {
            return Ok(None);
        };
        let proof = device::prove(
            device,
            self.params,
            self.role.as_str(),
            &self.scopes,
            self.attempt.challenge,
            self.now_ms,
        );
        proof.map(Some).map_err(|error| {
            let (code, reason, message) = error.texts();
            let fix = match error {
                device::ProofError::Stale => "set the clock of the client or of this machine: they differ by 2 minutes or more",
                _ => "remove the client's device identity so that it makes a new one, then connect again",
            };
            self.settle();
            Refusal::new("INVALID_REQUEST", message, "device-auth-invalid", fix)
                .details(json!({"code": code, "reason": reason}))
                .reason(reason)
                .close(1008, message)
                .into()
        })
    }

    /// Step 5: setup codes and device tokens, for those whose shared credential did not do.
    fn settle_credentials(
        &mut self,
        shared: Result<Granted, Denied>,
        shared_ok: bool,
        proven: Option<&Proven>,
    ) -> Result<Credentials, Stop> {
        let granted = |method, user, token_generation| {
            Ok(Credentials {
                shared_ok,
                method,
                user,
                token_generation,
            })
        };
        let mut denied = match shared {
            Ok(own) => {
                self.check_bootstrap(true)?;
                return granted(own.method, own.user, None);
            }
            Err(denied) => denied,
        };
        let Some(proven) = proven else {
            return Err(self.unauthorized(&denied).into());
        };
        let beyond_help = matches!(
            denied.reason.as_str(),
            "proxy_attribution_required" | "token_redacted_config" | "password_redacted_config"
        );
        if !beyond_help {
            if let Some(worse) = self.check_bootstrap(false)? {
                denied = worse;
            }
            if let Some((token, source)) = self.device_credential() {
                match self.check_device_token(&token, proven)? {
                    Ok(generation) => {
                        self.pending_failure = false;
                        return granted(Method::DeviceToken, None, generation);
                    }
                    Err(failure) => denied = failure.denied(source, &denied),
                }
            }
        }
        self.settle();
        Err(self.unauthorized(&denied).into())
    }

    /// Setup codes live in the upstream's state: it alone can honour one.
    fn check_bootstrap(&mut self, auth_ok: bool) -> Result<Option<Denied>, Stop> {
        let code = self
            .params
            .auth
            .as_ref()
            .and_then(|auth| trimmed(auth.bootstrap_token.as_deref()));
        if code.is_none() || self.params.device.is_none() {
            return Ok(None);
        }
        if let Verdict::Locked { retry_after_ms } =
            self.limiter
                .check(&self.limiter_key, Class::BootstrapToken, self.now_ms)
        {
            return Ok((!auth_ok).then(|| Denied::limited(retry_after_ms)));
        }
        match self.attempt.upstream {
            UpstreamTrust::Reachable => {
                self.count_until_relayed(Class::BootstrapToken);
                Err(Stop::Relay(RelayReason::Bootstrap))
            }
            UpstreamTrust::Unreachable => Err(Refusal::upstream_starting("bootstrap-token").into()),
            UpstreamTrust::Absent if auth_ok => Ok(None),
            UpstreamTrust::Absent => {
                self.limiter
                    .record_failure(&self.limiter_key, Class::BootstrapToken, self.now_ms);
                Ok(Some(Denied::because("bootstrap_token_invalid")))
            }
        }
    }

    fn check_device_token(
        &mut self,
        token: &str,
        proven: &Proven,
    ) -> Result<Result<Option<String>, TokenFailure>, Stop> {
        let class = Class::DeviceToken;
        if let Verdict::Locked { retry_after_ms } =
            self.limiter.check(&self.limiter_key, class, self.now_ms)
        {
            return Ok(Err(TokenFailure::Limited(retry_after_ms)));
        }
        let role = self.role.as_str();
        let generation = self.settings.generation();
        let known = self.auth.read(|book| {
            book.device(&proven.id)
                .map(|own| (own.public_key == proven.public_key, own.made_by))
        });
        let verdict = self.auth.touch(|book| {
            book.verify_token(
                &proven.id,
                role,
                &self.scopes,
                token,
                generation.as_deref(),
                self.now_ms,
            )
        });
        let error = match verdict {
            Ok(issuer) => {
                self.limiter.reset(&self.limiter_key, class);
                return Ok(Ok(issuer));
            }
            Err(error) => error,
        };
        let upstream_may_know = match known {
            None => true,
            Some((_, made_by)) => made_by != MadeBy::Local,
        };
        if upstream_may_know && error != TokenError::ScopeMismatch && error != TokenError::Revoked {
            self.ask_upstream(token, proven, known.is_some(), error)?;
        }
        self.limiter
            .record_failure(&self.limiter_key, class, self.now_ms);
        Ok(Err(if error == TokenError::ScopeMismatch {
            TokenFailure::Scope
        } else {
            TokenFailure::Mismatch
        }))
    }

    /// A token that we cannot judge: the upstream can, once.
    fn ask_upstream(
        &self,
        token: &str,
        proven: &Proven,
        is_known: bool,
        error: TokenError,
    ) -> Result<(), Stop> {
        match self.attempt.upstream {
            UpstreamTrust::Absent => Ok(()),
            UpstreamTrust::Unreachable if error == TokenError::Unknown => {
                Err(Refusal::upstream_starting("device-token").into())
            }
            UpstreamTrust::Unreachable => Ok(()),
            UpstreamTrust::Reachable
                if self
                    .auth
                    .verdicts
                    .is_refused(&proven.id, token, self.now_ms) =>
            {
                Ok(())
            }
            UpstreamTrust::Reachable if self.role == Role::Node => {
                self.count_until_relayed(Class::DeviceToken);
                Err(Stop::Relay(RelayReason::Node))
            }
            UpstreamTrust::Reachable if !is_known => {
                self.count_until_relayed(Class::DeviceToken);
                Err(Stop::Relay(RelayReason::UnknownDevice))
            }
            UpstreamTrust::Reachable => Err(Stop::Ask {
                token: token.to_owned(),
                device_id: proven.id.clone(),
            }),
        }
    }

    /// Step 6: what must keep its exact identity at the upstream.
    fn relay_what_is_the_upstreams(&self, credentials: &Credentials) -> Result<(), Stop> {
        let sent = self.params.auth.as_ref();
        let is_internal = sent.is_some_and(|auth| {
            auth.agent_runtime_identity_token.is_some() || auth.approval_runtime_token.is_some()
        });
        let by_profile = self.settings.roles_configured
            && self.role == Role::Operator
            && !credentials.method.is_shared_secret()
            && credentials.user.is_some();
        let (why, what) = if self.role == Role::Node {
            (RelayReason::Node, "node")
        } else if is_internal {
            (RelayReason::ExactIdentity, "runtime-identity")
        } else if by_profile {
            (RelayReason::UserProfile, "user-profile")
        } else {
            return Ok(());
        };
        match self.attempt.upstream {
            UpstreamTrust::Reachable => Err(Stop::Relay(why)),
            UpstreamTrust::Unreachable => Err(Refusal::upstream_starting(what).into()),
            UpstreamTrust::Absent if why == RelayReason::UserProfile => {
                Err(Refusal::upstream_starting(what).into())
            }
            UpstreamTrust::Absent => Ok(()),
        }
    }

    /// A relayed guess counts here too: the upstream may see it as coming from this machine.
    /// [`Auth::remember_relayed`] takes it back.
    fn count_until_relayed(&self, class: Class) {
        self.limiter
            .record_failure(&self.limiter_key, class, self.now_ms);
    }

    fn authorize(
        &mut self,
        credentials: Credentials,
        proven: Option<Proven>,
    ) -> Result<Principal, Stop> {
        let method = credentials.method;
        let generation = self.settings.generation();
        let by_shared = matches!(
            method,
            Method::Token | Method::Password | Method::TrustedProxy
        );
        let uses_shared_auth = by_shared || credentials.token_generation.is_some();
        let session_generation = if by_shared {
            generation
        } else {
            credentials.token_generation.clone()
        };
        if self.is_proxied_control_ui(true, method) {
            self.scopes = self.capped(self.scopes.clone());
        }
        self.check_verified_user(&credentials)?;

        let locality = policy::locality(
            self.attempt.attribution,
            self.params,
            credentials.shared_ok,
            method,
        );
        let mut client = self.params.client.clone();
        policy::normalize_node_host(&mut client);
        let mut issued = None;
        if let Some(proven) = &proven {
            let paired = self.pair(&credentials, proven, locality, &mut client)?;
            self.check_copilot_identity(&paired)?;
            if paired.has_baseline && !self.is_proxied_control_ui(true, method) {
                let browser = self.kind.is_browser_operator_ui || self.kind.is_webchat;
                let binds = credentials.token_generation.is_some() || uses_shared_auth && browser;
                let issuer = session_generation.as_deref().filter(|_| binds);
                issued = self.issue_token(proven, issuer)?;
            }
        } else if self.kind.is_copilot {
            return Err(dedicated_copilot().into());
        }

        let mut granted = self.scopes.clone();
        if let Some(user) = credentials
            .user
            .as_deref()
            .filter(|_| self.role == Role::Operator)
        {
            granted.extend(self.settings.identity_scopes_of(user));
        }
        self.scopes = self.capped(scopes::unique(&granted));
        self.check_runtime_identity(locality)?;
        self.check_control_ui_build()?;
        let hello_auth = self.hello_auth(
            method,
            credentials.user.as_deref(),
            issued.as_ref(),
            session_generation.as_deref(),
            proven.as_ref(),
        );
        Ok(Principal {
            role: self.role,
            scopes: self.scopes.clone(),
            method,
            user: credentials.user,
            device: proven,
            client,
            caps: self.params.caps.clone().unwrap_or_default(),
            commands: self.params.commands.clone().unwrap_or_default(),
            is_local: self.attempt.attribution.is_local(),
            locality,
            client_ip: self.attempt.attribution.reported_ip(),
            uses_shared_auth,
            generation: session_generation,
            policy_generation: self.settings.policy_generation(),
            browser_origin: self.browser_origin.clone(),
            hello_auth,
            effects: std::mem::take(&mut self.effects),
        })
    }

    fn capped(&self, scopes: Vec<String>) -> Vec<String> {
        scopes::cap(scopes, self.attempt.attribution.scopes_cap.as_deref())
    }

    fn check_verified_user(&self, credentials: &Credentials) -> Result<(), Stop> {
        let shared = credentials.method.is_shared_secret();
        if !self.settings.roles_configured
            || self.role != Role::Operator
            || shared
            || credentials.user.is_some()
        {
            return Ok(());
        }
        let message = "operator role policies require a verified user identity for this authentication method; \
                       reconnect through the trusted proxy or Tailscale, or use the shared gateway token/password";
        Err(Refusal::new(
            "NOT_PAIRED",
            message,
            "verified-user-required",
            "connect with the gateway token",
        )
        .details(json!({"code": "AUTH_VERIFIED_USER_REQUIRED"}))
        .into())
    }

    /// Step 8: the device's token, to be stored by the client.
    fn issue_token(
        &mut self,
        proven: &Proven,
        issuer: Option<&str>,
    ) -> Result<Option<Issued>, Stop> {
        let (role, now_ms) = (self.role.as_str(), self.now_ms);
        let row = self.auth.read(|book| {
            let device = book.device(&proven.id)?;
            Some((device.made_by, device.tokens.get(role).cloned()))
        });
        let Some((made_by, entry)) = row else {
            return Ok(None);
        };
        if made_by != MadeBy::Local && self.attempt.upstream != UpstreamTrust::Absent {
            // The upstream's token stays the device's token: one of ours would not open the upstream.
            let presented = self.device_credential().map(|(token, _)| token);
            return Ok(entry.zip(presented).and_then(|(entry, token)| {
                (entry.matches(&token) == Some(true)).then(|| Issued {
                    token,
                    role: entry.role.clone(),
                    scopes: entry.scopes.clone(),
                    issued_at_ms: entry.issued_at_ms(),
                })
            }));
        }
        let mint = self.auth.mint();
        let issued = self.auth.commit(|book| {
            book.ensure_token(mint, &proven.id, role, &self.scopes, issuer, now_ms)
                .map(|(issued, _)| issued)
        });
        issued.map_err(|error| Refusal::store(&error).into())
    }

    /// Tokens that only the upstream's own child processes hold.
    fn check_runtime_identity(&self, locality: PairingLocality) -> Result<(), Stop> {
        let sent = self
            .params
            .auth
            .as_ref()
            .and_then(|auth| auth.agent_runtime_identity_token.as_ref());
        if sent.is_none() {
            return Ok(());
        }
        let fix = "start OpenClaw behind this gateway: it alone knows its agents' tokens";
        let message = if locality == PairingLocality::Remote || !self.kind.is_backend {
            "agent runtime identity token is only accepted from local backend gateway clients"
        } else {
            "invalid agent runtime identity token"
        };
        Err(Refusal::new(
            "INVALID_REQUEST",
            message,
            "agent-runtime-identity-invalid",
            fix,
        )
        .into())
    }

    /// Step 9: a page of an older build must reload before it may speak.
    fn check_control_ui_build(&self) -> Result<(), Stop> {
        let attribution = self.attempt.attribution;
        let Some(build) = self
            .settings
            .build_id
            .as_deref()
            .map(str::trim)
            .filter(|own| !own.is_empty())
        else {
            return Ok(());
        };
        let own = self.params.client.build_id.as_deref().map(str::trim);
        let served_here = self.params.client.id == client_id::CONTROL_UI
            && !self.settings.control_ui_root_configured
            && origin::is_gateway_host(attribution.host.as_deref(), attribution.origin.as_deref());
        if !served_here || own == Some("dev") || own == Some(build) {
            return Ok(());
        }
        let message = "protocol mismatch: Control UI updated; reload this page to continue";
        let mut refusal = Refusal::new(
            "UNAVAILABLE",
            message,
            "control-ui-build-mismatch",
            "reload the page",
        )
        .details(json!({
            "code": "PROTOCOL_MISMATCH",
            "gatewayBuildId": build,
            "reloadRequired": true,
        }));
        refusal.retryable = Some(false);
        Err(refusal.reason(own.unwrap_or("legacy")).into())
    }

    fn hello_auth(
        &self,
        method: Method,
        user: Option<&str>,
        issued: Option<&Issued>,
        generation: Option<&str>,
        proven: Option<&Proven>,
    ) -> Value {
        let is_operator = self.role == Role::Operator;
        let device = proven.map_or("", |own| own.id.as_str());
        let material = if let Some(user) = user {
            Some(json!(["principal", user, device]))
        } else if let Some(issued) = issued {
            Some(json!(["device-token", issued.token]))
        } else if let Some(generation) = generation {
            Some(json!(["shared-auth", generation, device]))
        } else {
            proven.map(|own| json!(["device", own.id]))
        };
        let mut shown = Map::new();
        shown.insert("method".into(), method.as_str().into());
        shown.insert("role".into(), self.role.as_str().into());
        shown.insert("scopes".into(), json!(self.scopes));
        if let Some(material) = material.filter(|_| is_operator) {
            shown.insert(
                "recoveryScope".into(),
                secret::sha256_base64url(&material.to_string()).into(),
            );
        }
        if let Some(issued) = issued {
            if is_operator && user.is_none() {
                shown.insert("recoveryMigrationAllowed".into(), true.into());
            }
            shown.insert("deviceToken".into(), issued.token.clone().into());
            shown.insert("issuedAtMs".into(), issued.issued_at_ms.into());
        }
        Value::Object(shown)
    }

    /// Counts a wrong shared secret that no device token made good.
    fn settle(&mut self) {
        if std::mem::take(&mut self.pending_failure) {
            let delay = self.limiter.record_failure_and_delay(
                &self.limiter_key,
                Class::SharedSecret,
                self.now_ms,
            );
            self.delay = self.delay.max(delay);
        }
    }

    fn unauthorized(&self, denied: &Denied) -> Refusal {
        refusal::unauthorized(
            self.params,
            self.settings.mode,
            denied,
            self.attempt.attribution.is_local(),
        )
    }

    fn finish(&mut self, mut refusal: Refusal) -> Refusal {
        refusal.delay = (!self.delay.is_zero()).then_some(self.delay);
        refusal.events = std::mem::take(&mut self.effects.events);
        let client = &self.params.client;
        let log = &mut refusal.log;
        log.at_ms = self.now_ms;
        log.client_id = client.id.clone();
        log.client_mode = client.mode.clone();
        log.client_version = client.version.clone();
        log.ip = Some(self.attempt.attribution.client_ip);
        log.origin = self.attempt.attribution.origin.clone();
        log.device_id = self
            .params
            .device
            .as_ref()
            .map(|device: &DeviceProof| device.id.clone());
        refusal
    }

    fn about(&self) -> About {
        let client = &self.params.client;
        About {
            display_name: client.display_name.clone(),
            platform: Some(client.platform.clone()),
            device_family: client.device_family.clone(),
            client_id: Some(client.id.clone()),
            client_mode: Some(client.mode.clone()),
            browser_origin: self.copilot_origin(),
        }
    }

    fn copilot_origin(&self) -> Option<String> {
        let origin = self.attempt.attribution.origin.as_deref();
        origin::chrome_extension(origin).filter(|_| self.kind.is_copilot)
    }
}

fn dedicated_copilot() -> Refusal {
    Refusal::new(
        "NOT_PAIRED",
        "browser copilot requires a dedicated paired device identity",
        "copilot-identity",
        "pair the browser extension with a device of its own",
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CredentialSource {
    DeviceToken,
    SharedToken,
}

enum TokenFailure {
    Limited(u64),
    Scope,
    Mismatch,
}

impl TokenFailure {
    /// Source: `mapDeviceTokenAuthFailureReason` in auth-context.ts at 2026.9.6.
    fn denied(self, source: CredentialSource, shared: &Denied) -> Denied {
        match self {
            Self::Limited(retry_after_ms) => Denied::limited(retry_after_ms),
            Self::Scope => Denied::because("scope_mismatch"),
            Self::Mismatch if source == CredentialSource::DeviceToken => {
                Denied::because("device_token_mismatch")
            }
            Self::Mismatch => Denied::because(shared.reason.clone()),
        }
    }
}
