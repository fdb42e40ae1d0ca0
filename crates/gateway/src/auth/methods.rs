//! `device.pair.*`, `device.token.*` and `device.scopes.*` on our own book.
//!
//! The dispatcher has checked the method's scope already; here is what each caller may do to which device.
//! Source: src/gateway/server-methods/devices.ts, device-management-authz.ts and device-scope-upgrade.ts at 2026.9.6.

mod upgrade;

use serde_json::{Value, json};
use wire::connect::ClientInfo;
use wire::connect::shape::{Field, Shape};

use super::pairing::approval::Approver;
use super::pairing::store::StoreError;
use super::pairing::{Book, MadeBy, Pending};
use super::{Auth, AuthEvent, DeviceClose, Effects, Principal, Role, scopes};

pub(super) use upgrade::Upgrades;

/// The connection that calls.
#[derive(Debug, Clone)]
pub struct Caller {
    pub role: Role,
    pub scopes: Vec<String>,
    /// Id and key, when the connection proved a device.
    pub device: Option<(String, String)>,
    /// Let in by that device's token: it may manage only that device.
    pub is_device_token_auth: bool,
    pub client: ClientInfo,
    pub client_ip: Option<String>,
}

impl Caller {
    pub fn of(principal: &Principal) -> Self {
        Self {
            role: principal.role,
            scopes: principal.scopes.clone(),
            device: principal
                .device
                .as_ref()
                .map(|own| (own.id.clone(), own.public_key.clone())),
            is_device_token_auth: principal.is_device_token_auth(),
            client: principal.client.clone(),
            client_ip: principal.client_ip.map(|ip| ip.to_string()),
        }
    }

    fn is_admin(&self) -> bool {
        self.scopes.iter().any(|scope| scope == scopes::ADMIN)
    }

    /// The device that the caller is bound to.
    fn own_device(&self) -> Option<&str> {
        self.device
            .as_ref()
            .filter(|_| self.is_device_token_auth)
            .map(|(id, _)| id.as_str())
    }

    /// Bound to its own device, and without admin.
    fn bound_device(&self) -> Option<&str> {
        self.own_device().filter(|_| !self.is_admin())
    }

    fn may_manage(&self, device_id: &str) -> bool {
        self.bound_device()
            .is_none_or(|own| own == device_id.trim())
    }
}

/// A method's success: the payload, and what others must be told.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub payload: Value,
    pub effects: Effects,
}

/// A method's error object.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodError {
    pub code: &'static str,
    pub message: String,
    pub details: Option<Value>,
    pub retryable: Option<bool>,
}

impl MethodError {
    fn invalid(message: impl Into<String>) -> Self {
        Self {
            code: "INVALID_REQUEST",
            message: message.into(),
            details: None,
            retryable: None,
        }
    }
}

impl From<StoreError> for MethodError {
    fn from(error: StoreError) -> Self {
        let message = format!("device pairing store is unavailable: {error}");
        Self {
            code: "UNAVAILABLE",
            message,
            details: None,
            retryable: Some(true),
        }
    }
}

/// The methods answered here at once; `device.scopes.waitUpgrade` is [`Auth::wait_upgrade`].
pub const METHODS: [&str; 8] = [
    "device.pair.list",
    "device.pair.approve",
    "device.pair.reject",
    "device.pair.remove",
    "device.pair.rename",
    "device.token.rotate",
    "device.token.revoke",
    "device.scopes.requestUpgrade",
];

type Answer = Result<Outcome, MethodError>;

impl Auth {
    /// Answers one of [`METHODS`]; `None` for any other.
    pub fn device_method(
        &self,
        method: &str,
        params: &Value,
        caller: &Caller,
        is_connected: &dyn Fn(&str) -> bool,
        now_ms: u64,
    ) -> Option<Answer> {
        let call = Call {
            auth: self,
            params,
            caller,
            now_ms,
        };
        Some(match method {
            "device.pair.list" => call.list(is_connected),
            "device.pair.approve" => call.approve(),
            "device.pair.reject" => call.reject(),
            "device.pair.remove" => call.remove(),
            "device.pair.rename" => call.rename(),
            "device.token.rotate" => call.rotate(),
            "device.token.revoke" => call.revoke(),
            "device.scopes.requestUpgrade" => call.request_upgrade(),
            _ => return None,
        })
    }
}

const fn required(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        shape,
        required: true,
    }
}

const NOTHING: Shape = Shape::Object(&[]);
const REQUEST_ID: Shape = Shape::Object(&[required("requestId", Shape::NON_EMPTY)]);
const DEVICE_ID: Shape = Shape::Object(&[required("deviceId", Shape::NON_EMPTY)]);
const RENAME: Shape = Shape::Object(&[
    required("deviceId", Shape::NON_EMPTY),
    required("label", Shape::text(1, 64)),
]);
const ROTATE: Shape = Shape::Object(&[
    required("deviceId", Shape::NON_EMPTY),
    required("role", Shape::NON_EMPTY),
    Field {
        name: "scopes",
        shape: Shape::NON_EMPTY_LIST,
        required: false,
    },
]);
const REVOKE: Shape = Shape::Object(&[
    required("deviceId", Shape::NON_EMPTY),
    required("role", Shape::NON_EMPTY),
]);

fn check(method: &str, shape: &Shape, params: &Value) -> Result<(), MethodError> {
    shape
        .check(params)
        .map_err(|text| MethodError::invalid(format!("invalid {method} params: {text}")))
}

struct Call<'a> {
    auth: &'a Auth,
    params: &'a Value,
    caller: &'a Caller,
    now_ms: u64,
}

impl Call<'_> {
    fn list(&self, is_connected: &dyn Fn(&str) -> bool) -> Answer {
        check("device.pair.list", &NOTHING, self.params)?;
        let bound = self.caller.bound_device();
        let visible = |id: &str| bound.is_none_or(|own| own == id.trim());
        let (mut pending, mut paired) = self.auth.read(|book| {
            let pending: Vec<Pending> = book
                .pending
                .iter()
                .filter(|own| !own.expired(self.now_ms) && visible(&own.device_id))
                .cloned()
                .collect();
            let paired: Vec<_> = book
                .paired
                .values()
                .filter(|own| visible(&own.device_id))
                .cloned()
                .collect();
            (pending, paired)
        });
        pending.sort_by_key(|own| std::cmp::Reverse(own.ts));
        paired.sort_by_key(|own| std::cmp::Reverse(own.approved_at_ms));
        let pending: Vec<Value> = pending.iter().map(Pending::public).collect();
        let paired: Vec<Value> = paired
            .iter()
            .map(|own| own.public(Some(is_connected(own.device_id.trim()))))
            .collect();
        Ok(Outcome::plain(
            json!({"pending": pending, "paired": paired}),
        ))
    }

    fn approve(&self) -> Answer {
        check("device.pair.approve", &REQUEST_ID, self.params)?;
        let denied = || MethodError::invalid("device pairing approval denied");
        let request_id = self.text("requestId");
        let request_id = request_id.trim();
        if !self.caller.is_admin() {
            let pending = self.pending(request_id).ok_or_else(denied)?;
            let others = self
                .caller
                .own_device()
                .is_some_and(|own| own != pending.device_id.trim());
            if others
                || pending
                    .requested_roles()
                    .iter()
                    .any(|role| role != "operator")
            {
                tracing::warn!(request = request_id, "device pairing approval denied");
                return Err(denied());
            }
        }
        let approver = Approver {
            scopes: &self.caller.scopes,
            via: "owner",
            seen: None,
            grant: None,
            made_by: MadeBy::Local,
        };
        let mint = self.auth.mint();
        let approved = self
            .auth
            .commit(|book| book.approve(mint, request_id, &approver, self.now_ms))?;
        let device = approved
            .map_err(|forbidden| MethodError::invalid(forbidden.message()))?
            .ok_or_else(|| MethodError::invalid("unknown requestId"))?;
        self.auth.upgrades.notify(request_id, true);
        let role = device.role.as_deref().unwrap_or("unknown");
        tracing::info!(device = device.device_id, role, "device pairing approved");
        let payload = json!({"requestId": request_id, "device": device.public(None)});
        Ok(Outcome::plain(payload).event(self.resolved(request_id, &device.device_id, "approved")))
    }

    fn reject(&self) -> Answer {
        check("device.pair.reject", &REQUEST_ID, self.params)?;
        let denied = || MethodError::invalid("device pairing rejection denied");
        let request_id = self.text("requestId");
        let request_id = request_id.trim();
        if let Some(own) = self.caller.bound_device() {
            let pending = self.pending(request_id).ok_or_else(denied)?;
            if pending.device_id.trim() != own {
                tracing::warn!(request = request_id, "device pairing rejection denied");
                return Err(denied());
            }
        }
        let rejected = self
            .auth
            .commit(|book| book.reject(request_id, self.now_ms))?;
        let rejected = rejected.ok_or_else(|| MethodError::invalid("unknown requestId"))?;
        self.auth.upgrades.notify(request_id, false);
        let payload = json!({"requestId": request_id, "deviceId": rejected.device_id});
        Ok(Outcome::plain(payload).event(self.resolved(
            request_id,
            &rejected.device_id,
            "rejected",
        )))
    }

    fn remove(&self) -> Answer {
        check("device.pair.remove", &DEVICE_ID, self.params)?;
        let device_id = self.text("deviceId");
        self.check_management(&device_id, "device pairing removal denied")?;
        let removed = self.auth.commit(|book| book.remove(&device_id))?;
        let id = removed.ok_or_else(|| MethodError::invalid("unknown deviceId"))?;
        tracing::info!(device = id, "device pairing removed");
        let close = DeviceClose {
            device_id: id.clone(),
            role: None,
            reason: "device-pair-removed",
        };
        Ok(Outcome::plain(json!({"deviceId": id})).close(close))
    }

    fn rename(&self) -> Answer {
        check("device.pair.rename", &RENAME, self.params)?;
        let device_id = self.text("deviceId");
        let label = self.text("label").trim().to_owned();
        if label.is_empty() {
            return Err(MethodError::invalid("label required"));
        }
        self.check_management(&device_id, "device pairing rename denied")?;
        let renamed = self.auth.commit(|book| {
            let own = book.paired.get_mut(device_id.trim())?;
            own.operator_label = Some(label.clone());
            Some(())
        })?;
        renamed.ok_or_else(|| MethodError::invalid("unknown deviceId"))?;
        tracing::info!(device = device_id, label, "device pairing renamed");
        let changed = AuthEvent {
            event: "device.pair.changed",
            payload: json!({}),
        };
        Ok(Outcome::plain(json!({"deviceId": device_id, "label": label})).event(changed))
    }

    fn rotate(&self) -> Answer {
        check("device.token.rotate", &ROTATE, self.params)?;
        let (device_id, role) = (self.text("deviceId"), self.text("role"));
        self.check_token_management(&device_id, &role, "device token rotation denied")?;
        let asked: Option<Vec<String>> =
            self.params
                .get("scopes")
                .and_then(Value::as_array)
                .map(|list| {
                    list.iter()
                        .filter_map(Value::as_str)
                        .map(str::to_owned)
                        .collect()
                });
        let caller = self.caller_scopes(&role);
        let mint = self.auth.mint();
        let rotated = self.auth.commit(|book| {
            let issued = book.rotate_token(
                mint,
                &device_id,
                &role,
                asked.as_deref(),
                caller,
                self.now_ms,
            );
            if issued.is_ok() {
                claim(book, &device_id);
            }
            issued
        })?;
        let issued = rotated.map_err(|error| {
            tracing::warn!(
                device = device_id,
                role,
                reason = error.reason(),
                "device token rotation denied"
            );
            MethodError::invalid("device token rotation denied")
        })?;
        tracing::info!(
            device = device_id,
            role = issued.role,
            "device token rotated"
        );
        let in_band = self.caller.own_device() == Some(device_id.trim());
        let mut payload = json!({"deviceId": device_id, "role": issued.role});
        if in_band {
            payload["token"] = issued.token.into();
        }
        payload["scopes"] = json!(issued.scopes);
        payload["rotatedAtMs"] = issued.issued_at_ms.into();
        payload["tokenDelivery"] = if in_band {
            "in-band"
        } else {
            "withheld-cross-device"
        }
        .into();
        let close = DeviceClose {
            device_id: device_id.trim().to_owned(),
            role: Some(issued.role),
            reason: "device-token-rotated",
        };
        Ok(Outcome::plain(payload).close(close))
    }

    fn revoke(&self) -> Answer {
        check("device.token.revoke", &REVOKE, self.params)?;
        let (device_id, role) = (self.text("deviceId"), self.text("role"));
        self.check_token_management(&device_id, &role, "device token revocation denied")?;
        let caller = self.caller_scopes(&role);
        let revoked = self
            .auth
            .commit(|book| book.revoke_token(&device_id, &role, caller, self.now_ms))?;
        let entry = revoked.map_err(|error| {
            tracing::warn!(
                device = device_id,
                role,
                reason = error.reason(),
                "device token revocation denied"
            );
            MethodError::invalid("device token revocation denied")
        })?;
        let id = device_id.trim();
        tracing::info!(device = id, role = entry.role, "device token revoked");
        let payload = json!({"deviceId": id, "role": entry.role, "revokedAtMs": self.now_ms});
        let close = DeviceClose {
            device_id: id.to_owned(),
            role: Some(entry.role),
            reason: "device-token-revoked",
        };
        Ok(Outcome::plain(payload).close(close))
    }

    /// Others' devices need admin, and so do one's own when they are more than operators.
    fn check_management(&self, device_id: &str, message: &str) -> Result<(), MethodError> {
        let is_more = || {
            let more = |book: &Book| {
                book.device(device_id)
                    .is_some_and(|own| own.has_non_operator_role())
            };
            self.auth.read(more)
        };
        let refused =
            !self.caller.may_manage(device_id) || self.caller.bound_device().is_some() && is_more();
        if refused {
            tracing::warn!(device = device_id, "{message}");
            return Err(MethodError::invalid(message));
        }
        Ok(())
    }

    fn check_token_management(
        &self,
        device_id: &str,
        role: &str,
        message: &str,
    ) -> Result<(), MethodError> {
        let role = role.trim();
        let needs_admin = !role.is_empty() && role != "operator" && !self.caller.is_admin();
        if !self.caller.may_manage(device_id) || needs_admin {
            tracing::warn!(device = device_id, role, "{message}");
            return Err(MethodError::invalid(message));
        }
        Ok(())
    }

    fn caller_scopes(&self, role: &str) -> Option<&[String]> {
        (role.trim() == "operator").then_some(self.caller.scopes.as_slice())
    }

    fn pending(&self, request_id: &str) -> Option<Pending> {
        self.auth
            .read(|book| book.pending_request(request_id, self.now_ms).cloned())
    }

    fn text(&self, key: &str) -> String {
        self.params
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    fn resolved(&self, request_id: &str, device_id: &str, decision: &str) -> AuthEvent {
        let payload = json!({"requestId": request_id, "deviceId": device_id, "decision": decision, "ts": self.now_ms});
        AuthEvent {
            event: "device.pair.resolved",
            payload,
        }
    }
}

/// A device whose token we made is ours from then on.
fn claim(book: &mut Book, device_id: &str) {
    if let Some(own) = book.paired.get_mut(device_id.trim()) {
        own.made_by = MadeBy::Local;
    }
}

impl Outcome {
    fn plain(payload: Value) -> Self {
        Self {
            payload,
            effects: Effects::default(),
        }
    }

    fn event(mut self, event: AuthEvent) -> Self {
        self.effects.events.push(event);
        self
    }

    fn close(mut self, close: DeviceClose) -> Self {
        self.effects.closes.push(close);
        self
    }
}
