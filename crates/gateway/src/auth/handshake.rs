//! The decision on one `connect`, in the original's order: protocol, role, origin, shared credential, missing device,
//! device proof, device token, pairing, token issue, scopes, Control UI build.
//!
//! Source: connect-admission.ts, connect-auth.ts, connect-device-pairing.ts, connect-existing-device.ts,
//! connect-session.ts and connect-hello.ts under src/gateway/server/ws-connection at 2026.9.6.

mod admission;
mod credential;
mod grant;
mod pair;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use wire::connect::{ClientInfo, ConnectParams};

use super::attribution::Attribution;
use super::credentials::Denied;
use super::device::Proven;
use super::limiter::{Class, Limiter};
use super::origin::{self, BrowserOrigin};
use super::pairing::About;
use super::policy::{self, Kind};
use super::refusal::{self, Refusal};
use super::settings::{AuthSettings, Mode};
use super::{
    Auth, ConnectAttempt, Decision, Effects, Live, Method, Principal, RelayReason, Role, address,
    scopes,
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
    live: Arc<Live>,
    settings: Arc<AuthSettings>,
    now_ms: u64,
    kind: Kind,
    /// As it describes itself, in today's words for its platform, later pinned to what was paired.
    client: ClientInfo,
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
        let live = auth.live.load_full();
        let (limiter, limiter_key) = counted_under(auth, attempt.attribution);
        let mut client = params.client.clone();
        policy::normalize_node_host(&mut client);
        Self {
            auth,
            attempt: *attempt,
            params,
            settings: Arc::clone(&live.settings),
            live,
            now_ms,
            kind: Kind::of(&params.client),
            client,
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

    fn authorize(
        &mut self,
        credentials: Credentials,
        proven: Option<Proven>,
    ) -> Result<Principal, Stop> {
        let method = credentials.method;
        let generation = self.live.generation.clone();
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
        let mut issued = None;
        if let Some(proven) = &proven {
            let paired = self.pair(&credentials, proven, locality)?;
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
            client: self.client.clone(),
            caps: self.params.caps.clone().unwrap_or_default(),
            commands: self.params.commands.clone().unwrap_or_default(),
            is_local: self.attempt.attribution.is_local(),
            locality,
            client_ip: self.attempt.attribution.reported_ip(),
            uses_shared_auth,
            generation: session_generation,
            policy_generation: self.live.policy_generation.clone(),
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
        refusal.log.about(&self.attempt, self.now_ms);
        refusal
    }

    fn about(&self) -> About {
        let client = &self.client;
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
