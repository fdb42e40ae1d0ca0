//! The first request of a connection: `connect` params, checked and typed.
//!
//! Source: `ConnectParamsSchema` in packages/gateway-protocol/src/schema/frames.ts at 2026.9.6. The error texts are
//! the original's byte for byte; `connect/tests.rs` holds pairs recorded from it.

pub mod shape;

use serde::Deserialize;
use serde_json::{Map, Value};

use shape::{Field, Pattern, Shape};

/// Client ids. Source: packages/gateway-protocol/src/client-info.ts at 2026.9.6.
pub mod client_id {
    pub const WEBCHAT_UI: &str = "webchat-ui";
    pub const CONTROL_UI: &str = "openclaw-control-ui";
    pub const BROWSER_COPILOT: &str = "openclaw-browser-copilot";
    pub const TUI: &str = "openclaw-tui";
    pub const WEBCHAT: &str = "webchat";
    pub const CLI: &str = "cli";
    pub const GATEWAY_CLIENT: &str = "gateway-client";
    pub const MACOS_APP: &str = "openclaw-macos";
    pub const LINUX_APP: &str = "openclaw-linux";
    pub const IOS_APP: &str = "openclaw-ios";
    pub const WATCHOS_APP: &str = "openclaw-watchos";
    pub const ANDROID_APP: &str = "openclaw-android";
    pub const NODE_HOST: &str = "node-host";
    pub const WORKER: &str = "openclaw-worker";
    pub const TEST: &str = "test";
    pub const FINGERPRINT: &str = "fingerprint";
    pub const PROBE: &str = "openclaw-probe";

    pub const ALL: &[&str] = &[
        WEBCHAT_UI,
        CONTROL_UI,
        BROWSER_COPILOT,
        TUI,
        WEBCHAT,
        CLI,
        GATEWAY_CLIENT,
        MACOS_APP,
        LINUX_APP,
        IOS_APP,
        WATCHOS_APP,
        ANDROID_APP,
        NODE_HOST,
        WORKER,
        TEST,
        FINGERPRINT,
        PROBE,
    ];
}

/// Client modes. Source: as [`client_id`].
pub mod client_mode {
    pub const WEBCHAT: &str = "webchat";
    pub const CLI: &str = "cli";
    pub const UI: &str = "ui";
    pub const BACKEND: &str = "backend";
    pub const NODE: &str = "node";
    pub const WORKER: &str = "worker";
    pub const PROBE: &str = "probe";
    pub const TEST: &str = "test";

    pub const ALL: &[&str] = &[WEBCHAT, CLI, UI, BACKEND, NODE, WORKER, PROBE, TEST];
}

/// Checked `params` of `connect`. `Debug` shows no credential.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectParams {
    pub min_protocol: f64,
    pub max_protocol: f64,
    pub client: ClientInfo,
    pub caps: Option<Vec<String>>,
    pub commands: Option<Vec<String>>,
    pub computer_use: Option<Value>,
    pub worker_runs: Option<Value>,
    pub permissions: Option<Map<String, Value>>,
    pub path_env: Option<String>,
    pub role: Option<String>,
    /// `None` when the key was absent: some rules tell that from an empty list.
    pub scopes: Option<Vec<String>>,
    pub model_catalog: Option<Value>,
    pub device: Option<DeviceProof>,
    pub auth: Option<ConnectAuth>,
    pub locale: Option<String>,
    pub user_agent: Option<String>,
}

/// Who is calling, by its own account.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientInfo {
    pub id: String,
    pub display_name: Option<String>,
    pub version: String,
    pub build_id: Option<String>,
    pub platform: String,
    pub device_family: Option<String>,
    pub model_identifier: Option<String>,
    pub time_zone: Option<String>,
    pub mode: String,
    pub instance_id: Option<String>,
}

/// The device's signature over this connection's challenge.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceProof {
    pub id: String,
    pub public_key: String,
    pub signature: String,
    /// Milliseconds since 1970 on the client's clock; a whole number.
    pub signed_at: f64,
    pub nonce: String,
}

/// Credentials as sent. Empty strings stay: the original tells them from absent ones in places.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectAuth {
    pub token: Option<String>,
    pub bootstrap_token: Option<String>,
    pub device_token: Option<String>,
    pub password: Option<String>,
    pub approval_runtime_token: Option<String>,
    pub agent_runtime_identity_token: Option<String>,
}

impl std::fmt::Debug for ConnectAuth {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sent = |field: &Option<String>| field.is_some();
        out.debug_struct("ConnectAuth")
            .field("token", &sent(&self.token))
            .field("bootstrap_token", &sent(&self.bootstrap_token))
            .field("device_token", &sent(&self.device_token))
            .field("password", &sent(&self.password))
            .field(
                "approval_runtime_token",
                &sent(&self.approval_runtime_token),
            )
            .field(
                "agent_runtime_identity_token",
                &sent(&self.agent_runtime_identity_token),
            )
            .finish()
    }
}

impl ConnectParams {
    /// `Err` holds the whole message of the answer: `invalid connect params: at /client/id: …`.
    pub fn parse(params: &Value) -> Result<Self, String> {
        CONNECT
            .check(params)
            .map_err(|text| format!("invalid connect params: {text}"))?;
        Self::deserialize(params).map_err(|error| format!("invalid connect params: {error}"))
    }

    pub fn has_cap(&self, cap: &str) -> bool {
        self.caps
            .as_ref()
            .is_some_and(|caps| caps.iter().any(|own| own == cap))
    }
}

/// Whether unchecked params claim to be a cloud worker. Such a socket is closed with 1008 `invalid-handshake` and no
/// answer, whatever else is wrong. Source: `claimsWorkerConnectionIdentity` in message-handler.ts at 2026.9.6.
pub fn claims_worker(params: &Value) -> bool {
    let field = |value: &Value, key: &str, wanted: &str| {
        value.get(key).and_then(Value::as_str) == Some(wanted)
    };
    field(params, "role", "worker")
        || params.get("client").is_some_and(|client| {
            field(client, "id", client_id::WORKER) || field(client, "mode", client_mode::WORKER)
        })
}

const fn required(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        shape,
        required: true,
    }
}

const fn optional(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        shape,
        required: false,
    }
}

const CONNECT: Shape = Shape::Object(&[
    required("minProtocol", Shape::integer_from(1.0)),
    required("maxProtocol", Shape::integer_from(1.0)),
    required("client", CLIENT),
    optional("caps", Shape::NON_EMPTY_LIST),
    optional("commands", Shape::NON_EMPTY_LIST),
    optional("computerUse", Shape::Any),
    optional("workerRuns", WORKER_RUNS),
    optional("permissions", Shape::Record(&Shape::Bool)),
    optional("pathEnv", Shape::TEXT),
    optional("role", Shape::NON_EMPTY),
    optional("scopes", Shape::NON_EMPTY_LIST),
    optional(
        "modelCatalog",
        Shape::AnyOf(&[CATALOG_OF_SESSION, CATALOG_OF_SHORT_ID]),
    ),
    optional("device", DEVICE),
    optional("auth", AUTH),
    optional("locale", Shape::TEXT),
    optional("userAgent", Shape::TEXT),
]);

const CLIENT: Shape = Shape::Object(&[
    required("id", Shape::OneOf(client_id::ALL)),
    optional("displayName", Shape::NON_EMPTY),
    required("version", Shape::NON_EMPTY),
    optional("buildId", Shape::text(1, 96)),
    required("platform", Shape::NON_EMPTY),
    optional("deviceFamily", Shape::NON_EMPTY),
    optional("modelIdentifier", Shape::NON_EMPTY),
    optional("timeZone", Shape::text(1, 64)),
    required("mode", Shape::OneOf(client_mode::ALL)),
    optional("instanceId", Shape::NON_EMPTY),
]);

const DEVICE: Shape = Shape::Object(&[
    required("id", Shape::NON_EMPTY),
    required("publicKey", Shape::NON_EMPTY),
    required("signature", Shape::NON_EMPTY),
    required("signedAt", Shape::integer_from(0.0)),
    required("nonce", Shape::NON_EMPTY),
]);

const AUTH: Shape = Shape::Object(&[
    optional("token", Shape::TEXT),
    optional("bootstrapToken", Shape::TEXT),
    optional("deviceToken", Shape::TEXT),
    optional("password", Shape::TEXT),
    optional("approvalRuntimeToken", Shape::TEXT),
    optional("agentRuntimeIdentityToken", Shape::TEXT),
]);

const CATALOG_OF_SESSION: Shape = Shape::Object(&[
    optional("agentId", Shape::NON_EMPTY),
    optional("sessionKey", Shape::NON_EMPTY),
]);

const CATALOG_OF_SHORT_ID: Shape = Shape::Object(&[
    optional("agentId", Shape::NON_EMPTY),
    required("shortId", Shape::NON_EMPTY),
    optional("slugHint", Shape::NON_EMPTY),
]);

// The envelope of an older node host, still accepted. Source: src/.../worker-admission.ts at 2026.9.6.
const WORKER_RUNS: Shape = Shape::Object(&[
    required(
        "bundleHash",
        Shape::Text {
            min: 64,
            max: 64,
            pattern: Some(BUNDLE_HASH),
        },
    ),
    required("openclawVersion", Shape::text(1, 128)),
    required(
        "protocolFeatures",
        Shape::List {
            items: &Shape::text(1, 128),
            min: 0,
            max: 64,
            unique: true,
        },
    ),
    optional(
        "bundlePrewarm",
        Shape::Integer {
            min: 1.0,
            max: 9_007_199_254_740_991.0,
        },
    ),
]);

const BUNDLE_HASH: Pattern = Pattern {
    source: "^[a-f0-9]{64}$",
    matches: is_bundle_hash,
};

fn is_bundle_hash(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
