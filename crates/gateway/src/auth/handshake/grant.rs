//! Steps 8 and 9: the token to store, the last checks, and `auth` of `hello-ok`.

use serde_json::{Map, Value, json};
use wire::connect::client_id;

use super::{Handshake, Stop};
use crate::auth::device::Proven;
use crate::auth::pairing::MadeBy;
use crate::auth::pairing::tokens::Issued;
use crate::auth::policy::PairingLocality;
use crate::auth::refusal::Refusal;
use crate::auth::{Method, Role, UpstreamTrust, origin, secret};

impl Handshake<'_> {
    /// Step 8: the device's token, to be stored by the client.
    pub(super) fn issue_token(
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
        let known = self
            .auth
            .read(|book| book.reusable_token(mint, &proven.id, role, &self.scopes, issuer));
        if known.is_some() {
            return Ok(known);
        }
        let issued = self
            .auth
            .commit(|book| book.ensure_token(mint, &proven.id, role, &self.scopes, issuer, now_ms));
        issued.map_err(|error| Refusal::store(&error).into())
    }

    /// Tokens that only the upstream's own child processes hold.
    pub(super) fn check_runtime_identity(&self, locality: PairingLocality) -> Result<(), Stop> {
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
    pub(super) fn check_control_ui_build(&self) -> Result<(), Stop> {
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

    pub(super) fn hello_auth(
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
}
