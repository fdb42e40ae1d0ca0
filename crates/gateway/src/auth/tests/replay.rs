//! `handshakes.json` (see record-handshakes.mjs) against our own decisions, step by step.

use std::collections::BTreeMap;

use ::http::{HeaderMap, HeaderName};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Map, Value, json};
use wire::connect::{ConnectParams, claims_worker};

use crate::auth::settings::{DeviceAutoApprove, TrustedProxy};
use crate::auth::*;

const TOKEN: &str = "conformance-token-0123456789abcdef";
const START_MS: u64 = 1_790_000_000_000;
const VOLATILE: [&str; 10] = [
    "ts",
    "issuedAtMs",
    "createdAtMs",
    "approvedAtMs",
    "lastSeenAtMs",
    "rotatedAtMs",
    "revokedAtMs",
    "lastUsedAtMs",
    "retryAfterMs",
    "gatewayBuildId",
];

#[test]
fn recorded_handshakes_are_decided_as_the_original_decides_them() {
    let groups: Vec<Value> =
        serde_json::from_str(include_str!("handshakes.json")).expect("recording is JSON");
    let mut different = Vec::new();
    let mut steps = 0;
    for group in &groups {
        let mut world = World::new(&group["gateway"]);
        for step in group["steps"].as_array().expect("steps") {
            steps += 1;
            let mut got = world.run(step);
            if group["name"] == "trusted-proxy" {
                // No operator could look on while this was recorded.
                got["events"] = json!([]);
            }
            let mut wanted = step["expect"].clone();
            without_node_events(&mut wanted);
            if got != wanted {
                different.push(format!(
                    "{}: {}\n  original {wanted}\n  ours     {got}",
                    group["name"], step["name"]
                ));
            }
        }
    }
    assert!(steps > 200, "{steps} steps");
    assert!(
        different.is_empty(),
        "{} of {steps} differ\n{}",
        different.len(),
        different.join("\n")
    );
}

/// Node surfaces are the upstream's: their events have no counterpart here.
fn without_node_events(expect: &mut Value) {
    if let Some(events) = expect["events"].as_array_mut() {
        events.retain(|event| event["event"] != "node.pair.requested");
    }
}

struct World {
    auth: Auth,
    _dir: tempfile::TempDir,
    now_ms: u64,
    /// Placeholder → text.
    values: BTreeMap<String, String>,
    /// Text → placeholder.
    names: BTreeMap<String, String>,
    keys: BTreeMap<String, Ed25519KeyPair>,
    kept: BTreeMap<String, Principal>,
}

impl World {
    fn new(gateway: &Value) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let (auth, damaged) = Auth::open(dir.path(), settings(gateway), START_MS).expect("opens");
        assert!(damaged.is_none());
        let mut world = Self {
            auth,
            _dir: dir,
            now_ms: START_MS,
            values: BTreeMap::new(),
            names: BTreeMap::new(),
            keys: BTreeMap::new(),
            kept: BTreeMap::new(),
        };
        world.name("$port", "18789");
        world
    }

    fn run(&mut self, step: &Value) -> Value {
        self.now_ms += 150;
        if step["call"].is_string() {
            self.call(step)
        } else {
            self.connect(step)
        }
    }

    fn call(&mut self, step: &Value) -> Value {
        let method = step["call"].as_str().expect("method");
        let params = self.fill(&step["params"]);
        let caller = match step["as"].as_str() {
            Some(kept) => Caller::of(&self.kept[kept]),
            None => operator(),
        };
        let connected: Vec<String> = self
            .kept
            .values()
            .filter_map(|own| own.device.as_ref().map(|device| device.id.clone()))
            .collect();
        let answer = if method == "device.scopes.waitUpgrade" {
            let now_ms = self.now_ms;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("runtime");
            let payload = runtime.block_on(self.auth.wait_upgrade(&params, &caller, || now_ms));
            payload.map(|payload| Outcome {
                payload,
                effects: Effects::default(),
            })
        } else {
            let is_connected = |id: &str| connected.iter().any(|own| own == id);
            self.auth
                .device_method(method, &params, &caller, &is_connected, self.now_ms)
                .expect("a method of ours")
        };
        match answer {
            Ok(outcome) => {
                let text = |key: &str| outcome.payload[key].as_str().map(str::to_owned);
                if let Some(token) = text("token") {
                    self.name("$rotated", &token);
                }
                if let Some(id) =
                    text("requestId").filter(|_| method == "device.scopes.requestUpgrade")
                {
                    self.name("$upgrade", &id);
                }
                if let Some(token) = text("deviceToken") {
                    self.name("$upgraded", &token);
                }
                let events = self.effects(&outcome.effects.events, &outcome.effects.closes);
                self.mask(json!({"ok": true, "payload": outcome.payload, "events": events}))
            }
            Err(error) => {
                let mut shown = json!({"code": error.code, "message": error.message});
                if let Some(retryable) = error.retryable {
                    shown["retryable"] = retryable.into();
                }
                if let Some(details) = error.details {
                    shown["details"] = details;
                }
                self.mask(json!({"ok": false, "error": shown, "events": []}))
            }
        }
    }

    fn connect(&mut self, step: &Value) -> Value {
        let mut headers = HeaderMap::new();
        headers.insert("host", "127.0.0.1:18789".parse().expect("host"));
        for (name, value) in self
            .fill(&step["headers"])
            .as_object()
            .into_iter()
            .flatten()
        {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("header name");
            headers.insert(
                name,
                value.as_str().expect("text").parse().expect("header value"),
            );
        }
        let attribution = match self.auth.attribute(
            std::net::SocketAddr::from(([127, 0, 0, 1], 40_000)).into(),
            &headers,
        ) {
            Ok(attribution) => attribution,
            Err(refusal) => {
                return json!({"http": refusal.status, "body": refusal.body, "events": []});
            }
        };
        let challenge = "b6a8a1de-0000-4000-8000-0123456789ab";
        let params = self.params(step, challenge);
        if claims_worker(&params) {
            return json!({"ok": false, "close": {"code": 1008, "reason": "invalid-handshake"}, "events": []});
        }
        let params = match ConnectParams::parse(&params) {
            Ok(params) => params,
            Err(message) => return self.refused(Refusal::invalid_params(message), step),
        };
        let connected: Vec<String> = self
            .kept
            .values()
            .filter_map(|own| own.device.as_ref().map(|device| device.id.clone()))
            .collect();
        let attempt = ConnectAttempt {
            attribution: &attribution,
            headers: &headers,
            challenge,
            params: &params,
            upstream: UpstreamTrust::Absent,
            tailscale_user: None,
            is_connected: &|id| connected.iter().any(|own| own == id),
        };
        match self.auth.connect(&attempt, self.now_ms) {
            Decision::Accept(principal) => self.accepted(*principal, step),
            Decision::Refuse(refusal) => self.refused(*refusal, step),
            other => json!({"unexpected": format!("{other:?}")}),
        }
    }

    fn accepted(&mut self, principal: Principal, step: &Value) -> Value {
        let device = step["device"].as_str().unwrap_or_default().to_owned();
        let mut auth = principal.hello_auth.clone();
        let mut out = Map::new();
        out.insert("ok".into(), true.into());
        if let Some(token) = auth["deviceToken"].as_str() {
            let placeholder = format!("$token:{device}");
            let same = self.values.get(&placeholder).map(String::as_str) == Some(token);
            out.insert("sameToken".into(), same.into());
            let token = token.to_owned();
            self.name(&placeholder, &token);
        }
        if (!device.is_empty() || principal.method == Method::TrustedProxy)
            && auth.get("recoveryScope").is_some()
        {
            auth["recoveryScope"] = "$volatile".into();
        }
        out.insert("auth".into(), auth);
        let events = self.effects(&principal.effects.events, &principal.effects.closes);
        out.insert("events".into(), events);
        if let Some(kept) = step["keep"].as_str() {
            self.kept.insert(kept.to_owned(), principal);
        }
        self.mask(Value::Object(out))
    }

    fn refused(&mut self, refusal: Refusal, step: &Value) -> Value {
        assert!(!refusal.log.fix.is_empty(), "{step}");
        let mut error = json!({"code": refusal.code, "message": refusal.message});
        if let Some(retryable) = refusal.retryable {
            error["retryable"] = retryable.into();
        }
        if let Some(after) = refusal.retry_after_ms {
            error["retryAfterMs"] = after.into();
        }
        if let Some(details) = refusal.details {
            if let Some(id) = details["requestId"].as_str() {
                self.name(
                    &format!("$request:{}", step["device"].as_str().expect("device")),
                    id,
                );
            }
            error["details"] = details;
        }
        let events = self.effects(&refusal.events, &[]);
        let close = json!({"code": refusal.close_code, "reason": refusal.close_reason});
        let mut shown =
            self.mask(json!({"ok": false, "error": error, "close": close, "events": events}));
        let reason = shown["close"]["reason"]
            .as_str()
            .expect("reason")
            .to_owned();
        if let Some((head, id)) = reason.split_once("requestId: ")
            && id
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        {
            shown["close"]["reason"] = format!("{head}requestId: $cut").into();
        }
        shown
    }

    fn effects(&mut self, events: &[AuthEvent], closes: &[DeviceClose]) -> Value {
        for close in closes {
            self.kept.retain(|_, own| {
                own.device
                    .as_ref()
                    .is_none_or(|device| device.id != close.device_id)
                    || close
                        .role
                        .as_deref()
                        .is_some_and(|role| role != own.role.as_str())
            });
        }
        events
            .iter()
            .map(|own| json!({"event": own.event, "payload": own.payload}))
            .collect()
    }

    fn params(&mut self, step: &Value, challenge: &str) -> Value {
        let mut client = json!({"version": "2026.9.6", "platform": "linux"});
        for (key, value) in step["client"].as_object().expect("client") {
            client[key] = value.clone();
        }
        let number = |key: &str| step[key].as_u64().unwrap_or(4);
        let caps = step.get("caps").cloned().unwrap_or_else(|| json!([]));
        let mut params = json!({"minProtocol": number("min"), "maxProtocol": number("max"), "client": client, "caps": caps});
        for key in ["role", "scopes"] {
            if step.get(key).is_some_and(|own| !own.is_null()) {
                params[key] = step[key].clone();
            }
        }
        if step.get("auth").is_some() {
            params["auth"] = self.fill(&step["auth"]);
        }
        if let Some(id) = step["device"].as_str() {
            params["device"] = self.sign(id, step, &params, challenge);
        }
        params
    }

    fn sign(&mut self, id: &str, step: &Value, params: &Value, challenge: &str) -> Value {
        if !self.keys.contains_key(id) {
            let seed = secret::random_bytes::<32>();
            let key = Ed25519KeyPair::from_seed_unchecked(&seed).expect("seed");
            let raw = key.public_key().as_ref();
            let device_id = secret::sha256_hex(raw);
            let public_key = URL_SAFE_NO_PAD.encode(raw);
            self.name(&format!("$device:{id}"), &device_id);
            self.name(&format!("$key:{id}"), &public_key);
            self.keys.insert(id.to_owned(), key);
        }
        let device_id = self.values[&format!("$device:{id}")].clone();
        let public_key = self.values[&format!("$key:{id}")].clone();
        let sig = &step["sig"];
        let skew = sig["skewMs"].as_i64().unwrap_or(0);
        let signed_at = self.now_ms.checked_add_signed(skew).expect("in range");
        let nonce = sig["nonce"].as_str().unwrap_or(challenge);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let auth = &params["auth"];
        let token = ["token", "deviceToken", "bootstrapToken"]
            .iter()
            .find_map(|key| auth[*key].as_str());
        let scopes: Vec<&str> = params["scopes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let client = &params["client"];
        let version = sig["version"].as_u64().unwrap_or(3);
        let mut payload = [
            format!("v{version}"),
            device_id.clone(),
            text(&client["id"]),
            text(&client["mode"]),
            params["role"].as_str().unwrap_or("operator").to_owned(),
            scopes.join(","),
            signed_at.to_string(),
            token.unwrap_or_default().to_owned(),
            nonce.to_owned(),
        ]
        .join("|");
        if version == 3 {
            let lower = |value: &Value| text(value).trim().to_ascii_lowercase();
            payload.push_str(&format!(
                "|{}|{}",
                lower(&client["platform"]),
                lower(&client["deviceFamily"])
            ));
        }
        let signature = match sig["flip"].as_bool() {
            Some(true) => URL_SAFE_NO_PAD.encode(secret::random_bytes::<64>()),
            _ => URL_SAFE_NO_PAD.encode(self.keys[id].sign(payload.as_bytes())),
        };
        let shown_key = match sig["pem"].as_bool() {
            Some(true) => device::public_key_pem(&public_key).expect("a key"),
            _ => public_key,
        };
        let mut device = json!({"id": device_id, "publicKey": shown_key, "signature": signature,
            "signedAt": signed_at, "nonce": nonce});
        for (key, value) in sig["fields"].as_object().into_iter().flatten() {
            device[key] = value.clone();
        }
        device
    }

    fn name(&mut self, placeholder: &str, text: &str) {
        self.names.insert(text.to_owned(), placeholder.to_owned());
        self.values.insert(placeholder.to_owned(), text.to_owned());
    }

    fn fill(&self, value: &Value) -> Value {
        replace(value, &mut |_, text| {
            let mut text = text.replace("$shared", TOKEN);
            let mut placeholders: Vec<&String> = self.values.keys().collect();
            placeholders.sort_by_key(|own| std::cmp::Reverse(own.len()));
            for placeholder in placeholders {
                text = text.replace(placeholder.as_str(), &self.values[placeholder]);
            }
            text
        })
    }

    fn mask(&self, value: Value) -> Value {
        let masked = replace(&value, &mut |_, text| {
            let mut text = text.to_owned();
            let mut known: Vec<&String> = self.names.keys().collect();
            known.sort_by_key(|own| std::cmp::Reverse(own.len()));
            for own in known {
                text = text.replace(own.as_str(), &self.names[own]);
            }
            mask_uuids(&text)
        });
        volatile(masked)
    }
}

fn mask_uuids(text: &str) -> String {
    let is_uuid = |at: usize| {
        text.get(at..at + 36)
            .is_some_and(|own| uuid::Uuid::try_parse(own).is_ok())
    };
    match (0..text.len()).find(|at| is_uuid(*at)) {
        Some(at) => format!("{}$uuid{}", &text[..at], mask_uuids(&text[at + 36..])),
        None => text.to_owned(),
    }
}

fn replace(value: &Value, change: &mut impl FnMut(&str, &str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(change("", text)),
        Value::Array(list) => list.iter().map(|own| replace(own, change)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, own)| (key.clone(), replace(own, change)))
            .collect(),
        other => other.clone(),
    }
}

fn volatile(value: Value) -> Value {
    match value {
        Value::Array(list) => list.into_iter().map(volatile).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(key, own)| {
                let own = if VOLATILE.contains(&key.as_str()) {
                    "$volatile".into()
                } else {
                    volatile(own)
                };
                (key, own)
            })
            .collect(),
        other => other,
    }
}

fn operator() -> Caller {
    let client = serde_json::from_value(
        json!({"id": "gateway-client", "mode": "backend", "version": "2026.9.6", "platform": "linux"}),
    );
    Caller {
        role: Role::Operator,
        scopes: scopes::SHARED_SECRET_HTTP.map(str::to_owned).to_vec(),
        device: None,
        is_device_token_auth: false,
        client: client.expect("client"),
        client_ip: None,
    }
}

fn settings(gateway: &Value) -> AuthSettings {
    let list = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let auth = &gateway["auth"];
    let pairing = &gateway["nodes"]["pairing"];
    let proxy = &auth["trustedProxy"];
    let mode = match auth["mode"].as_str() {
        Some("password") => Mode::Password,
        Some("none") => Mode::None,
        Some("trusted-proxy") => Mode::TrustedProxy,
        _ => Mode::Token,
    };
    let identity_scopes = auth["identityScopes"].as_object().into_iter().flatten();
    AuthSettings {
        mode,
        token: (mode == Mode::Token).then(|| TOKEN.to_owned()),
        password: auth["password"].as_str().map(str::to_owned),
        trusted_proxy: proxy.is_object().then(|| TrustedProxy {
            user_header: proxy["userHeader"].as_str().unwrap_or_default().to_owned(),
            required_headers: list(&proxy["requiredHeaders"]),
            allow_users: list(&proxy["allowUsers"]),
            allow_loopback: proxy["allowLoopback"] == true,
            device_auto_approve: (proxy["deviceAutoApprove"]["enabled"] == true).then(|| {
                DeviceAutoApprove {
                    scopes: Some(list(&proxy["deviceAutoApprove"]["scopes"])),
                }
            }),
        }),
        trusted_proxies: list(&gateway["trustedProxies"]),
        allowed_origins: list(&gateway["controlUi"]["allowedOrigins"]),
        build_id: Some("2026.9.6-release".to_owned()),
        auto_approve_local: pairing["autoApproveLocal"].as_bool().unwrap_or(true),
        auto_approve_cidrs: list(&pairing["autoApproveCidrs"]),
        identity_scopes: identity_scopes
            .map(|(user, scopes)| (user.clone(), list(scopes)))
            .collect(),
        ..AuthSettings::default()
    }
}
