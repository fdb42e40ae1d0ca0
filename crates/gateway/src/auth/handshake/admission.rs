//! What is checked before any credential: protocol, role, the browser extension's form, the origin.

use serde_json::{Number, Value, json};
use wire::connect::client_mode;

use super::{Handshake, Stop};
use crate::auth::Role;
use crate::auth::origin::BrowserOrigin;
use crate::auth::refusal::Refusal;

const PROTOCOL: f64 = 4.0;
/// Oldest protocol of probes and nodes.
const PROTOCOL_MIN: f64 = 3.0;

impl Handshake<'_> {
    pub(super) fn admit(&mut self) -> Result<(), Stop> {
        self.check_protocol()?;
        self.role = match self.params.role.as_deref().unwrap_or("operator") {
            "operator" => Role::Operator,
            "node" => Role::Node,
            other => {
                return Err(Refusal::new(
                    "INVALID_REQUEST",
                    "invalid role",
                    "invalid-role",
                    "use role operator or node",
                )
                .reason(other.chars().take(40).collect::<String>())
                .into());
            }
        };
        self.check_copilot()?;
        self.check_origin()
    }

    fn check_protocol(&self) -> Result<(), Stop> {
        let (min, max) = (self.params.min_protocol, self.params.max_protocol);
        let is_node = self.params.role.as_deref() == Some("node")
            && self.params.client.mode == client_mode::NODE;
        let current = max >= PROTOCOL && min <= PROTOCOL;
        let probe =
            self.params.client.mode == client_mode::PROBE && max >= PROTOCOL_MIN && min <= PROTOCOL;
        let older_node = is_node && max >= PROTOCOL_MIN && min <= PROTOCOL_MIN;
        if current || probe || older_node {
            return Ok(());
        }
        Err(Refusal::new(
            "INVALID_REQUEST",
            "protocol mismatch",
            "protocol-mismatch",
            "update the client to OpenClaw 2026.9.6",
        )
        .details(json!({
            "code": "PROTOCOL_MISMATCH",
            "clientMinProtocol": number(min),
            "clientMaxProtocol": number(max),
            "expectedProtocol": 4,
            "minimumProbeProtocol": 3,
        }))
        .close(1002, "protocol mismatch")
        .into())
    }

    fn check_copilot(&self) -> Result<(), Stop> {
        if !self.kind.is_copilot {
            return Ok(());
        }
        let fix = "update the OpenClaw browser extension";
        let capable = ["run-tool-bindings", "session-scoped-events"]
            .iter()
            .all(|cap| self.params.has_cap(cap));
        if self.params.client.mode != client_mode::UI || !capable {
            let message = "browser copilot requires ui mode with run-tool-bindings and session-scoped-events capabilities";
            return Err(Refusal::new("INVALID_REQUEST", message, "invalid-client", fix).into());
        }
        if self.copilot_origin().is_none() {
            let message = "browser copilot requires a canonical Chrome extension origin";
            return Err(
                Refusal::new("INVALID_REQUEST", message, "origin-mismatch", fix)
                    .details(json!({
                        "code": "CONTROL_UI_ORIGIN_NOT_ALLOWED",
                        "reason": "invalid browser copilot origin",
                    }))
                    .into(),
            );
        }
        Ok(())
    }

    fn check_origin(&mut self) -> Result<(), Stop> {
        let attribution = self.attempt.attribution;
        let governed = attribution.browser_origin().is_some()
            || self.kind.is_browser_operator_ui
            || self.kind.is_webchat;
        if !governed || self.copilot_origin().is_some() {
            return Ok(());
        }
        let origin = BrowserOrigin {
            request_host: attribution.host.clone(),
            origin: attribution.origin.clone(),
            is_local: attribution.is_local(),
        };
        let settings = &self.settings;
        let checked = origin.check(
            &settings.allowed_origins,
            settings.host_header_origin_fallback,
        );
        self.browser_origin = Some(origin);
        let Err(reason) = checked else { return Ok(()) };
        let message = "origin not allowed (open the Control UI from the gateway host or allow it in \
                       gateway.controlUi.allowedOrigins)";
        let shown = attribution.browser_origin().unwrap_or("<origin>");
        let shown: String = shown
            .chars()
            .filter(|own| !own.is_control() && *own != '\'')
            .take(120)
            .collect();
        let fix = format!("openclaw config set gateway.controlUi.allowedOrigins '[\"{shown}\"]'");
        Err(
            Refusal::new("INVALID_REQUEST", message, "origin-mismatch", fix)
                .details(json!({"code": "CONTROL_UI_ORIGIN_NOT_ALLOWED", "reason": reason}))
                .reason(reason)
                .into(),
        )
    }
}

/// A whole number as JSON shows it.
fn number(value: f64) -> Value {
    // Exact up to 2^53, beyond which a protocol version is nonsense in any spelling.
    if value.abs() <= 9_007_199_254_740_992.0 {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}
