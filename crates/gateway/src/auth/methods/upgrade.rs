//! A connected device asks for more scopes and waits for a person's answer.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use wire::connect::shape::Shape;

use super::{Answer, Call, Caller, MethodError, Outcome, check, required};
use crate::auth::pairing::{About, Wish};
use crate::auth::{Auth, AuthEvent, Role, scopes};

/// Requests waited for at once.
const WAITING_MAX: usize = 512;
/// An answer can still be fetched this long after the request ended. Source: `TERMINAL_GRACE_MS`.
const GRACE_MS: u64 = 15_000;

const REQUEST: Shape = Shape::Object(&[required(
    "scopes",
    Shape::List {
        items: &Shape::NON_EMPTY,
        min: 1,
        max: 8,
        unique: true,
    },
)]);
const WAIT: Shape = Shape::Object(&[required("requestId", Shape::NON_EMPTY)]);

/// Upgrades that somebody may be waiting for.
#[derive(Default)]
pub(in crate::auth) struct Upgrades(Mutex<HashMap<String, Upgrade>>);

#[derive(Clone)]
struct Upgrade {
    device_id: String,
    public_key: String,
    scopes: Vec<String>,
    expires_at_ms: u64,
    initial_hash: Option<String>,
    initial_approved_at_ms: u64,
    /// What a person said, if it was said through us.
    approved: Option<bool>,
}

impl Upgrades {
    pub(in crate::auth) fn notify(&self, request_id: &str, approved: bool) {
        if let Some(own) = self.0.lock().get_mut(request_id) {
            own.approved = Some(approved);
        }
    }

    /// False when the request belongs to another device, or too many wait.
    fn register(&self, request_id: &str, upgrade: Upgrade, now_ms: u64) -> bool {
        let mut waiting = self.0.lock();
        waiting.retain(|_, own| own.expires_at_ms + GRACE_MS > now_ms);
        let is_full = waiting.len() >= WAITING_MAX;
        match waiting.get_mut(request_id) {
            Some(own)
                if own.device_id != upgrade.device_id || own.public_key != upgrade.public_key =>
            {
                false
            }
            Some(own) => {
                own.scopes = upgrade.scopes;
                own.expires_at_ms = upgrade.expires_at_ms;
                true
            }
            None if is_full => false,
            None => {
                waiting.insert(request_id.to_owned(), upgrade);
                true
            }
        }
    }

    fn get(&self, request_id: &str, owner: &(String, String)) -> Option<Upgrade> {
        let waiting = self.0.lock();
        let own = waiting.get(request_id)?;
        (own.device_id == owner.0 && own.public_key == owner.1).then(|| own.clone())
    }
}

impl Call<'_> {
    pub(super) fn request_upgrade(&self) -> Answer {
        check("device.scopes.requestUpgrade", &REQUEST, self.params)?;
        let owner = owner(self.caller).ok_or_else(device_required)?;
        let paired = self.auth.read(|book| book.device(&owner.0).cloned());
        let paired = paired
            .filter(|own| own.public_key == owner.1)
            .ok_or_else(device_required)?;
        let asked: Vec<&str> = self.params["scopes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let asked = scopes::normalize(&asked);
        if !asked
            .iter()
            .all(|scope| scopes::ALL.contains(&scope.as_str()))
        {
            return Err(MethodError::invalid(
                "requested scopes contain an unknown operator scope",
            ));
        }
        if !scopes::allow("operator", &self.caller.scopes, &asked) {
            return Err(MethodError::invalid(
                "requested scopes must include the connection's current scopes",
            ));
        }
        let client = &self.caller.client;
        let wish = Wish {
            device_id: owner.0.clone(),
            public_key: owner.1.clone(),
            about: About {
                display_name: client.display_name.clone(),
                platform: Some(client.platform.clone()),
                device_family: client.device_family.clone(),
                client_id: Some(client.id.clone()),
                client_mode: Some(client.mode.clone()),
                browser_origin: paired.about.browser_origin.clone(),
            },
            role: "operator".to_owned(),
            scopes: asked.clone(),
            remote_ip: self.caller.client_ip.clone(),
            silent: false,
        };
        let pairing = self.auth.commit(|book| book.ask(wish, self.now_ms))?;
        let upgrade = Upgrade {
            device_id: owner.0.clone(),
            public_key: owner.1,
            scopes: asked.clone(),
            expires_at_ms: pairing.expires_at_ms,
            initial_hash: paired
                .tokens
                .get("operator")
                .and_then(|entry| entry.hash.clone()),
            initial_approved_at_ms: paired.approved_at_ms,
            approved: None,
        };
        let request_id = &pairing.request.request_id;
        if !self
            .auth
            .upgrades
            .register(request_id, upgrade, self.now_ms)
        {
            return Err(MethodError {
                code: "UNAVAILABLE",
                message: "device scope upgrade is temporarily unavailable".to_owned(),
                details: None,
                retryable: Some(true),
            });
        }
        let mut outcome = Outcome::plain(json!({"requestId": request_id}));
        for (superseded, device_id) in &pairing.superseded {
            self.auth.upgrades.notify(superseded, false);
            outcome = outcome.event(self.resolved(superseded, device_id, "rejected"));
        }
        if pairing.created {
            let payload = pairing.request.public();
            outcome = outcome.event(AuthEvent {
                event: "device.pair.requested",
                payload,
            });
        }
        tracing::warn!(
            device = owner.0,
            from = self.caller.scopes.join(","),
            to = asked.join(","),
            "security audit: live device scope upgrade requested"
        );
        Ok(outcome)
    }
}

impl Auth {
    /// `device.scopes.waitUpgrade`: waits until the request is approved, rejected or expired (five minutes at most).
    ///
    /// # Errors
    /// The method's error object, as for a request of another device.
    pub async fn wait_upgrade(
        &self,
        params: &Value,
        caller: &Caller,
        now_ms: impl Fn() -> u64,
    ) -> Result<Value, MethodError> {
        check("device.scopes.waitUpgrade", &WAIT, params)?;
        let owner = owner(caller).ok_or_else(device_required)?;
        let request_id = params["requestId"].as_str().unwrap_or_default();
        let mut changed = self.revision.subscribe();
        loop {
            let gone = || MethodError::invalid("scope upgrade expired or not found");
            let upgrade = self.upgrades.get(request_id, &owner).ok_or_else(gone)?;
            let now = now_ms();
            if let Some(result) = self.upgrade_result(request_id, &upgrade, now) {
                return Ok(result);
            }
            let left = Duration::from_millis(upgrade.expires_at_ms.saturating_sub(now) + 1);
            // Either way the state is looked at again: by a change of the book, or because the request expired.
            drop(tokio::time::timeout(left, changed.changed()).await);
        }
    }

    fn upgrade_result(&self, request_id: &str, upgrade: &Upgrade, now_ms: u64) -> Option<Value> {
        if now_ms >= upgrade.expires_at_ms {
            return Some(json!({"status": "expired", "requestId": request_id}));
        }
        let (is_pending, paired) = self.read(|book| {
            let pending = book.pending_request(request_id, now_ms).is_some();
            (pending, book.device(&upgrade.device_id).cloned())
        });
        if is_pending {
            return None;
        }
        let rejected = || Some(json!({"status": "rejected", "requestId": request_id}));
        if upgrade.approved == Some(false) {
            return rejected();
        }
        let Some(own) = paired.filter(|own| own.public_key == upgrade.public_key) else {
            return rejected();
        };
        let Some(entry) = own
            .tokens
            .get("operator")
            .filter(|entry| entry.revoked_at_ms.is_none())
        else {
            return rejected();
        };
        let renewed = entry.hash != upgrade.initial_hash
            && own.approved_at_ms != upgrade.initial_approved_at_ms;
        let covered = scopes::allow("operator", &upgrade.scopes, &entry.scopes);
        let issued = self.mint().again(&own.device_id, entry);
        match issued.filter(|_| covered && (upgrade.approved == Some(true) || renewed)) {
            Some(issued) => Some(json!({
                "status": "approved",
                "requestId": request_id,
                "deviceToken": issued.token,
                "scopes": issued.scopes,
            })),
            None => rejected(),
        }
    }
}

/// The paired device behind the connection.
fn owner(caller: &Caller) -> Option<(String, String)> {
    let (id, key) = caller
        .device
        .as_ref()
        .filter(|_| caller.role == Role::Operator)?;
    let (id, key) = (id.trim(), key.trim());
    (!id.is_empty() && !key.is_empty()).then(|| (id.to_owned(), key.to_owned()))
}

fn device_required() -> MethodError {
    MethodError {
        details: Some(json!({
            "code": "DEVICE_IDENTITY_REQUIRED",
            "recommendedNextStep": "reopen_control_ui_securely",
        })),
        ..MethodError::invalid(
            "device scope upgrade requires a paired browser identity; reopen the Control UI over HTTPS or localhost, \
             then retry",
        )
    }
}
