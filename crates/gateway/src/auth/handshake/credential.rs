//! Steps 2 to 6: what the credentials are worth, and whether the upstream must judge them.

use serde_json::json;

use super::{Credentials, Handshake, Stop};
use crate::auth::credentials::{Counting, Denied, Granted, Question, Sent, Surface, trimmed};
use crate::auth::device::{self, Proven};
use crate::auth::limiter::{Class, Verdict};
use crate::auth::pairing::MadeBy;
use crate::auth::pairing::tokens::TokenError;
use crate::auth::policy::{self, MissingDevice};
use crate::auth::refusal::{PairingReason, Refusal};
use crate::auth::settings::Mode;
use crate::auth::{Method, RelayReason, Role, UpstreamTrust, scopes};

impl Handshake<'_> {
    /// Step 2: the shared credential, before anything else is looked at.
    pub(super) fn ask_shared_credential(&mut self) -> (Result<Granted, Denied>, Sent) {
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
            tailscale_user: self.attempt.tailscale_user,
        };
        let (verdict, delay) = question.decide();
        self.delay = self.delay.max(delay);
        self.pending_failure = deferred
            && matches!(&verdict, Err(denied) if matches!(denied.reason.as_str(), "token_mismatch" | "password_mismatch"));
        (verdict, sent)
    }

    /// Whether the secret is right, the limiter aside: decides which rule a refusal falls under, never an acceptance.
    pub(super) fn shared_ok(&self, verdict: &Result<Granted, Denied>, sent: &Sent) -> bool {
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
            tailscale_user: None,
        };
        !sent.is_empty()
            && matches!(question.decide().0, Ok(granted) if granted.method.is_shared_secret())
    }

    /// The device token sent, or the shared token that may turn out to be one.
    pub(super) fn device_credential(&self) -> Option<(String, CredentialSource)> {
        let auth = self.params.auth.as_ref()?;
        if let Some(token) = trimmed(auth.device_token.as_deref()) {
            return Some((token, CredentialSource::DeviceToken));
        }
        trimmed(auth.token.as_deref()).map(|token| (token, CredentialSource::SharedToken))
    }

    /// Step 3: who may come without a device, and with which scopes.
    pub(super) fn check_missing_device(
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

    pub(super) fn is_proxied_control_ui(&self, auth_ok: bool, method: Method) -> bool {
        self.kind.is_control_ui
            && self.role == Role::Operator
            && self.settings.mode == Mode::TrustedProxy
            && auth_ok
            && method == Method::TrustedProxy
    }

    /// Step 4: the signature over this connection's challenge.
    pub(super) fn prove_device(&mut self) -> Result<Option<Proven>, Stop> {
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
    pub(super) fn settle_credentials(
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
        let generation = self.live.generation.clone();
        let known = self.auth.read(|book| {
            let own = book.device(&proven.id)?;
            let reads = own
                .tokens
                .get(role)
                .is_some_and(|entry| scopes::covers(&entry.scopes, scopes::READ));
            Some(Known {
                made_by: own.made_by,
                reads,
            })
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
        if known.is_none_or(|own| own.made_by != MadeBy::Local) {
            self.ask_upstream(token, proven, known, error)?;
        }
        self.limiter
            .record_failure(&self.limiter_key, class, self.now_ms);
        Ok(Err(if error == TokenError::ScopeMismatch {
            TokenFailure::Scope
        } else {
            TokenFailure::Mismatch
        }))
    }

    /// A token that we cannot judge: the upstream can, once. Falls through where our own answer stands.
    fn ask_upstream(
        &self,
        token: &str,
        proven: &Proven,
        known: Option<Known>,
        error: TokenError,
    ) -> Result<(), Stop> {
        let relay = |why| {
            self.count_until_relayed(Class::DeviceToken);
            Err(Stop::Relay(why))
        };
        match self.attempt.upstream {
            UpstreamTrust::Absent => Ok(()),
            UpstreamTrust::Unreachable if error == TokenError::Unknown => {
                Err(Refusal::upstream_starting("device-token").into())
            }
            UpstreamTrust::Unreachable => Ok(()),
            UpstreamTrust::Reachable if error == TokenError::Revoked => Ok(()),
            UpstreamTrust::Reachable if self.role == Role::Node => relay(RelayReason::Node),
            UpstreamTrust::Reachable => match known {
                None => relay(RelayReason::UnknownDevice),
                // Our list of what the device may do can be older than the upstream's.
                Some(_) if error == TokenError::ScopeMismatch => {
                    relay(RelayReason::Upgrade(PairingReason::ScopeUpgrade))
                }
                // The upstream's HTTP side takes only tokens that can read.
                Some(own) if !own.reads => relay(RelayReason::ExactIdentity),
                Some(_)
                    if self
                        .auth
                        .verdicts
                        .is_refused(&proven.id, token, self.now_ms) =>
                {
                    Ok(())
                }
                Some(_) => Err(Stop::Ask {
                    token: token.to_owned(),
                    device_id: proven.id.clone(),
                }),
            },
        }
    }

    /// Step 6: what must keep its exact identity at the upstream.
    pub(super) fn relay_what_is_the_upstreams(
        &self,
        credentials: &Credentials,
    ) -> Result<(), Stop> {
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
                Err(profile_unavailable().into())
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
}

/// `gateway.roles` asks who a user is, and user profiles live in the upstream's state.
/// Source: `authenticatedProfileUnavailableError` at 2026.9.6.
fn profile_unavailable() -> Refusal {
    let message = "Authenticated profile verification is unavailable. Retry shortly; if this continues, contact a \
                   gateway administrator.";
    let fix = "start OpenClaw behind this gateway: gateway.roles needs its user profiles; or connect with the \
               gateway token";
    let mut refusal = Refusal::new(
        "UNAVAILABLE",
        message,
        "authenticated-profile-unavailable",
        fix,
    )
    .details(json!({"code": "AUTHENTICATED_PROFILE_UNAVAILABLE"}));
    refusal.retryable = Some(true);
    refusal.retry_after_ms = Some(1_000);
    refusal.close_code = 1013;
    refusal
}

/// What the book says of a device whose token did not hold.
#[derive(Debug, Clone, Copy)]
struct Known {
    made_by: MadeBy,
    reads: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CredentialSource {
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
