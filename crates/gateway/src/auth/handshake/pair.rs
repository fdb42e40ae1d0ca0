//! Step 7: whether the device is paired, and if not, whether it may be paired now without asking a person.

use serde_json::json;

use super::{Credentials, Handshake, Stop, dedicated_copilot};
use crate::auth::device::Proven;
use crate::auth::pairing::approval::{Approver, Seen};
use crate::auth::pairing::{About, Asked, Book, MadeBy, Paired, Wish};
use crate::auth::policy::{self, PairingLocality};
use crate::auth::refusal::{PairingReason, PairingRequired, Refusal};
use crate::auth::settings::Mode;
use crate::auth::{
    AuthEvent, DeviceClose, Ingress, Method, RelayReason, Role, UpstreamTrust, address, scopes,
};

/// Scopes that a trusted proxy's users get by default. Source: connect-pairing-approval-plan.ts at 2026.9.6.
const PROXY_SCOPES: [&str; 4] = [
    scopes::READ,
    scopes::WRITE,
    scopes::APPROVALS,
    scopes::QUESTIONS,
];

/// What pairing came to.
#[derive(Default)]
pub(super) struct PairedState {
    /// The device may be given a token.
    pub has_baseline: bool,
    client_id: Option<String>,
    browser_origin: Option<String>,
}

/// How a request would be approved without a person.
struct Plan {
    local: Option<&'static str>,
    proxy_scopes: Option<Vec<String>>,
    /// The proxy's user asks for more scopes with the key that is already paired.
    is_same_key_upgrade: bool,
}

/// What became of a request in one write.
struct Settled {
    asked: Asked,
    /// An approval without a person was tried.
    inline: bool,
    granted: Option<Vec<String>>,
    approved: bool,
    /// Older silent pairings that the new one replaces, with their roles.
    pruned: Vec<(String, Vec<String>)>,
}

struct Pairing<'p> {
    credentials: &'p Credentials,
    proven: &'p Proven,
    locality: PairingLocality,
    /// Before pinning: what a request and a new row say.
    about: About,
}

impl Handshake<'_> {
    pub(super) fn pair(
        &mut self,
        credentials: &Credentials,
        proven: &Proven,
        locality: PairingLocality,
    ) -> Result<PairedState, Stop> {
        let has_origin = self.attempt.attribution.browser_origin().is_some();
        let method = credentials.method;
        let skips = policy::skips_pairing(
            self.kind,
            locality,
            has_origin,
            credentials.shared_ok,
            method,
        );
        let is_operator_ui = self.kind.is_control_ui && self.role == Role::Operator;
        let open_ui = is_operator_ui && self.settings.mode == Mode::None;
        // Tailscale has said who it is: no person need be asked whether the device may come.
        let vouched_ui = is_operator_ui && method == Method::Tailscale;
        let known = self.auth.read(|book| book.device(&proven.id).cloned());
        let paired = known
            .as_ref()
            .filter(|own| own.public_key == proven.public_key);
        let pairing = Pairing {
            credentials,
            proven,
            locality,
            about: self.about(),
        };
        match paired {
            Some(own) if skips || open_ui => {
                self.note_seen(&proven.id, None);
                Ok(PairedState::of(own))
            }
            Some(own) => self.check_paired(&pairing, own),
            None if open_ui || skips || vouched_ui => {
                let has_baseline = open_ui || vouched_ui || method != Method::DeviceToken;
                Ok(PairedState {
                    has_baseline,
                    ..PairedState::default()
                })
            }
            None => {
                let now = self.require(&pairing, PairingReason::NotPaired, known.as_ref())?;
                Ok(PairedState {
                    has_baseline: true,
                    ..now
                })
            }
        }
    }

    /// A browser extension keeps to its own device and origin.
    pub(super) fn check_copilot_identity(&self, paired: &PairedState) -> Result<(), Stop> {
        let own_id = self.params.client.id.as_str();
        let copilot = wire::connect::client_id::BROWSER_COPILOT;
        let paired_as_copilot = paired.client_id.as_deref() == Some(copilot);
        let mixed = paired.client_id.as_deref() != Some(own_id)
            && (self.kind.is_copilot || paired_as_copilot);
        let moved = self.kind.is_copilot
            && (paired.browser_origin.is_none() || paired.browser_origin != self.copilot_origin());
        if mixed || moved {
            Err(dedicated_copilot().into())
        } else {
            Ok(())
        }
    }

    /// A paired device may ask for what it has; anything more is an upgrade.
    fn check_paired(&mut self, pairing: &Pairing<'_>, own: &Paired) -> Result<PairedState, Stop> {
        let mut state = PairedState::of(own);
        let pins = policy::pin(
            &self.client,
            own.about.platform.as_deref(),
            own.about.device_family.as_deref(),
        );
        if pins.mismatch {
            state = self.require(pairing, PairingReason::MetadataUpgrade, Some(own))?;
        } else {
            if let Some(platform) = pins.platform {
                self.client.platform = platform;
            }
            if pins.device_family.is_some() {
                self.client.device_family = pins.device_family;
            }
        }
        let role = self.role.as_str();
        if !own.has_role(role) {
            state = self.require(pairing, PairingReason::RoleUpgrade, Some(own))?;
        }
        let held = own.access_scopes();
        if !self.scopes.is_empty() && (held.is_empty() || !scopes::allow(role, &self.scopes, &held))
        {
            state = self.require(pairing, PairingReason::ScopeUpgrade, Some(own))?;
        }
        self.note_seen(&pairing.proven.id, pins.refresh_platform);
        Ok(PairedState {
            has_baseline: true,
            ..state
        })
    }

    /// Pairs or upgrades the device, or refuses and leaves a request for a person.
    fn require(
        &mut self,
        pairing: &Pairing<'_>,
        reason: PairingReason,
        existing: Option<&Paired>,
    ) -> Result<PairedState, Stop> {
        self.leave_to_upstream(reason, existing)?;
        let plan = self.plan(pairing, reason, existing);
        if let Some(live) = self.upgrade_already_held(pairing, &plan) {
            return Ok(live);
        }
        let wish = self.wish(pairing, plan.local.is_some());
        // Asked, approved and pruned in one write: a crash leaves all of it or nothing.
        let settled = self.commit(|book| self.ask_and_approve(book, wish, plan, existing))?;
        let asked = &settled.asked;
        for (request_id, device_id) in &asked.superseded {
            self.resolved(request_id, device_id, "rejected");
        }
        if !settled.inline && asked.created {
            self.requested(asked);
        }
        if settled.approved {
            self.resolved(
                &asked.request.request_id,
                &asked.request.device_id,
                "approved",
            );
            self.close_pruned(settled.pruned);
            if let Some(granted) = settled.granted {
                self.scopes = granted;
            }
        }
        let live = self
            .auth
            .read(|book| book.device(&pairing.proven.id).cloned());
        match live.filter(|own| self.allows(own, pairing.proven)) {
            Some(own) => Ok(PairedState::of(&own)),
            None => {
                Err(self.needs_person(pairing, reason, existing, &settled.asked, settled.inline))
            }
        }
    }

    /// While the upstream is there, it makes the pairings; while it is down, its own devices stay as they are.
    fn leave_to_upstream(
        &self,
        reason: PairingReason,
        existing: Option<&Paired>,
    ) -> Result<(), Stop> {
        let is_local = existing.is_none_or(|own| own.made_by == MadeBy::Local);
        match self.attempt.upstream {
            UpstreamTrust::Reachable if existing.is_none() => {
                Err(Stop::Relay(RelayReason::UnknownDevice))
            }
            UpstreamTrust::Reachable => Err(Stop::Relay(RelayReason::Upgrade(reason))),
            UpstreamTrust::Unreachable if !is_local => {
                Err(Refusal::upstream_starting(reason.as_str()).into())
            }
            UpstreamTrust::Unreachable | UpstreamTrust::Absent => Ok(()),
        }
    }

    fn plan(
        &self,
        pairing: &Pairing<'_>,
        reason: PairingReason,
        existing: Option<&Paired>,
    ) -> Plan {
        let method = pairing.credentials.method;
        let is_operator = self.role == Role::Operator;
        let is_same_key_upgrade = reason == PairingReason::ScopeUpgrade
            && existing.is_some_and(|own| own.public_key == pairing.proven.public_key);
        let fresh = reason == PairingReason::NotPaired && existing.is_none();
        let person =
            self.kind.is_browser_operator_ui || self.kind.is_webchat || self.kind.is_native_app_ui;
        let auto = self
            .settings
            .trusted_proxy
            .as_ref()
            .and_then(|proxy| proxy.device_auto_approve.as_ref());
        let proxy_scopes = auto
            .filter(|_| {
                (fresh || is_same_key_upgrade)
                    && is_operator
                    && person
                    && method == Method::TrustedProxy
                    && pairing.credentials.user.is_some()
            })
            .map(|auto| self.capped(self.proxy_scopes(auto.scopes.as_deref())));
        let has_origin = self.attempt.attribution.browser_origin().is_some();
        let silent = (existing.is_none() || is_operator)
            && policy::pairs_silently(
                self.kind,
                pairing.locality,
                has_origin,
                self.settings.auto_approve_local,
                method,
                reason,
            );
        let local = if silent {
            Some("silent")
        } else {
            self.is_trusted_node(reason, existing)
                .then_some("trusted-cidr")
        };
        Plan {
            local,
            proxy_scopes,
            is_same_key_upgrade,
        }
    }

    fn proxy_scopes(&self, configured: Option<&[String]>) -> Vec<String> {
        let ceiling = match configured {
            Some(own) => scopes::sorted_unique(own),
            None => scopes::sorted_unique(&PROXY_SCOPES),
        };
        if self.params.scopes.is_none() {
            return ceiling;
        }
        let mut asked: Vec<&str> = self.scopes.iter().map(String::as_str).collect();
        if configured.is_none() {
            asked.push(scopes::QUESTIONS);
        }
        scopes::sorted_unique(&asked)
            .into_iter()
            .filter(|scope| ceiling.contains(scope))
            .collect()
    }

    /// A fresh node without scopes from a listed address.
    fn is_trusted_node(&self, reason: PairingReason, existing: Option<&Paired>) -> bool {
        let attribution = self.attempt.attribution;
        let spoofable = attribution.forwarded() && address::is_loopback(attribution.peer);
        existing.is_none()
            && self.role == Role::Node
            && reason == PairingReason::NotPaired
            && self.scopes.is_empty()
            && attribution.browser_origin().is_none()
            && !self.kind.is_control_ui
            && !self.kind.is_webchat
            && !spoofable
            && attribution.ingress != Ingress::DirectLocal
            && attribution
                .reported_ip()
                .is_some_and(|ip| address::is_listed(ip, &self.settings.auto_approve_cidrs))
    }

    /// A proxy's user whose live pairing already holds what would be granted.
    fn upgrade_already_held(&mut self, pairing: &Pairing<'_>, plan: &Plan) -> Option<PairedState> {
        let granted = plan
            .proxy_scopes
            .as_ref()
            .filter(|_| plan.is_same_key_upgrade)?;
        let live = self
            .auth
            .read(|book| book.device(&pairing.proven.id).cloned())?;
        let role = self.role.as_str();
        let held = live.access_scopes();
        let fits = live.public_key == pairing.proven.public_key && live.has_role(role);
        if !fits || !scopes::allow(role, granted, &held) {
            return None;
        }
        let wanted: Vec<&String> = self.scopes.iter().chain(granted).collect();
        let wanted: Vec<&str> = wanted.into_iter().map(String::as_str).collect();
        self.scopes = scopes::sorted_unique(&wanted)
            .into_iter()
            .filter(|scope| scopes::allow(role, &[scope], &held))
            .collect();
        Some(PairedState::of(&live))
    }

    fn ask_and_approve(
        &self,
        book: &mut Book,
        wish: Wish,
        plan: Plan,
        existing: Option<&Paired>,
    ) -> Settled {
        let now_ms = self.now_ms;
        let asked = book.ask(wish, now_ms);
        let granted = plan
            .proxy_scopes
            .filter(|_| !asked.request.is_repair || plan.is_same_key_upgrade);
        let inline = granted.is_some() || asked.request.silent == Some(true);
        let via = match granted {
            Some(_) => Some("trusted-proxy"),
            None => plan.local.filter(|_| inline),
        };
        let mut settled = Settled {
            asked,
            inline,
            granted,
            approved: false,
            pruned: Vec::new(),
        };
        let Some(via) = via else { return settled };
        let mut caller = settled
            .granted
            .clone()
            .unwrap_or_else(|| self.scopes.clone());
        if settled.granted.is_none() {
            caller.extend(existing.map(Paired::access_scopes).unwrap_or_default());
        }
        let approver = Approver {
            scopes: &caller,
            via,
            seen: Some(self.seen()),
            grant: settled.granted.as_deref(),
            made_by: MadeBy::Local,
        };
        let request_id = &settled.asked.request.request_id;
        if let Ok(Some(device)) = book.approve(self.auth.mint(), request_id, &approver, now_ms) {
            settled.approved = true;
            settled.pruned =
                book.prune_silent(&device.device_id, self.attempt.is_connected, now_ms);
        }
        settled
    }

    fn close_pruned(&mut self, pruned: Vec<(String, Vec<String>)>) {
        for (device_id, roles) in pruned {
            if roles.iter().any(|role| role == "node") {
                self.effects.events.push(AuthEvent {
                    event: "node.pair.resolved",
                    payload: json!({
                        "requestId": "", "nodeId": device_id, "decision": "removed", "ts": self.now_ms,
                    }),
                });
            }
            let close = DeviceClose {
                device_id,
                role: None,
                reason: "device-pair-removed",
            };
            self.effects.closes.push(close);
        }
    }

    fn allows(&self, own: &Paired, proven: &Proven) -> bool {
        let role = self.role.as_str();
        let pins = policy::pin(
            &self.client,
            own.about.platform.as_deref(),
            own.about.device_family.as_deref(),
        );
        own.public_key == proven.public_key
            && !pins.mismatch
            && own.has_role(role)
            && scopes::allow(role, &self.scopes, &own.access_scopes())
    }

    fn needs_person(
        &mut self,
        pairing: &Pairing<'_>,
        reason: PairingReason,
        existing: Option<&Paired>,
        asked: &Asked,
        inline: bool,
    ) -> Stop {
        let (proven, now_ms) = (pairing.proven, self.now_ms);
        let pending = self.auth.read(|book| {
            let exact = book.pending_request(&asked.request.request_id, now_ms);
            let same = || {
                book.pending.iter().find(|own| {
                    !own.expired(now_ms)
                        && own.device_id == proven.id
                        && own.public_key == proven.public_key
                })
            };
            exact.or_else(same).map(|own| own.request_id.clone())
        });
        if inline && pending.as_deref() == Some(asked.request.request_id.as_str()) {
            self.requested(asked);
        }
        let shown = existing.filter(|own| own.public_key == proven.public_key);
        let is_operator = self.role == Role::Operator;
        PairingRequired {
            reason,
            request_id: pending.as_deref(),
            device_id: &proven.id,
            role: self.role.as_str(),
            scopes: &self.scopes,
            waits: self.kind.is_control_ui && is_operator && pending.is_some(),
            approved_roles: shown.map(Paired::approved_roles).unwrap_or_default(),
            approved_scopes: shown.map(Paired::access_scopes).unwrap_or_default(),
        }
        .refusal()
        .into()
    }

    fn wish(&self, pairing: &Pairing<'_>, silent: bool) -> Wish {
        let proven = pairing.proven;
        Wish {
            device_id: proven.id.clone(),
            public_key: proven.public_key.clone(),
            about: pairing.about.clone(),
            role: self.role.as_str().to_owned(),
            scopes: self.scopes.clone(),
            remote_ip: self.seen().remote_ip,
            silent,
        }
    }

    fn seen(&self) -> Seen {
        Seen {
            display_name: self.params.client.display_name.clone(),
            remote_ip: self
                .attempt
                .attribution
                .reported_ip()
                .map(|ip| ip.to_string()),
        }
    }

    fn note_seen(&self, device_id: &str, platform: Option<String>) {
        let seen = self.seen();
        let noted: Result<(), ()> = self.auth.touch(|book: &mut Book| {
            let own = book.paired.get_mut(device_id).ok_or(())?;
            own.about.display_name = seen.display_name;
            own.remote_ip = seen.remote_ip;
            own.last_seen_at_ms = Some(self.now_ms);
            own.last_seen_reason = Some("connect".to_owned());
            if platform.is_some() {
                own.about.platform = platform;
            }
            Ok(())
        });
        debug_assert!(noted.is_ok(), "the device was paired a moment ago");
    }

    fn commit<T>(&self, change: impl FnOnce(&mut Book) -> T) -> Result<T, Stop> {
        self.auth
            .commit(change)
            .map_err(|error| Refusal::store(&error).into())
    }

    fn requested(&mut self, asked: &Asked) {
        let payload = asked.request.public();
        self.effects.events.push(AuthEvent {
            event: "device.pair.requested",
            payload,
        });
    }

    fn resolved(&mut self, request_id: &str, device_id: &str, decision: &str) {
        let payload = json!({"requestId": request_id, "deviceId": device_id, "decision": decision, "ts": self.now_ms});
        self.effects.events.push(AuthEvent {
            event: "device.pair.resolved",
            payload,
        });
    }
}

impl PairedState {
    fn of(own: &Paired) -> Self {
        Self {
            has_baseline: true,
            client_id: own.about.client_id.clone(),
            browser_origin: own.about.browser_origin.clone(),
        }
    }
}
