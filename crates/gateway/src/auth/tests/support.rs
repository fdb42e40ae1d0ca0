//! A gateway's authentication on a temporary directory, and devices that sign.

use std::cell::Cell;

use ::http::{HeaderMap, HeaderName};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use wire::connect::ConnectParams;

use crate::auth::*;

pub(super) const TOKEN: &str = "shared-token-of-the-tests";
pub(super) const CHALLENGE: &str = "5d0c9f5e-0000-4000-8000-0123456789ab";
pub(super) const LOCAL: &str = "127.0.0.1";
pub(super) const REMOTE: &str = "203.0.113.7";

pub(super) struct World {
    pub auth: Auth,
    pub dir: tempfile::TempDir,
    pub now_ms: Cell<u64>,
    pub upstream: Cell<UpstreamTrust>,
}

/// One attempt, to be filled in.
pub(super) struct Try<'a> {
    pub peer: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub client: (&'a str, &'a str),
    pub role: &'a str,
    pub scopes: &'a [&'a str],
    pub auth: Value,
    pub device: Option<&'a Device>,
    pub challenge: &'a str,
}

impl Default for Try<'_> {
    fn default() -> Self {
        Self {
            peer: LOCAL,
            headers: &[],
            client: ("test", "test"),
            role: "operator",
            scopes: &["operator.read"],
            auth: json!({"token": TOKEN}),
            device: None,
            challenge: CHALLENGE,
        }
    }
}

pub(super) struct Device {
    key: Ed25519KeyPair,
    pub id: String,
    pub public_key: String,
}

impl Device {
    pub(super) fn new() -> Self {
        let key =
            Ed25519KeyPair::from_seed_unchecked(&secret::random_bytes::<32>()).expect("a seed");
        let raw = key.public_key().as_ref();
        let (id, public_key) = (secret::sha256_hex(raw), URL_SAFE_NO_PAD.encode(raw));
        Self {
            key,
            id,
            public_key,
        }
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(settings())
    }

    pub(super) fn with(settings: AuthSettings) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let now_ms = 1_790_000_000_000;
        let (auth, damaged) = Auth::open(dir.path(), settings, now_ms).expect("opens");
        assert!(damaged.is_none());
        Self {
            auth,
            dir,
            now_ms: Cell::new(now_ms),
            upstream: Cell::new(UpstreamTrust::Absent),
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now_ms.get()
    }

    pub(super) fn pass(&self, ms: u64) {
        self.now_ms.set(self.now() + ms);
    }

    pub(super) fn attribute(&self, peer: &str, headers: &HeaderMap) -> Attribution {
        self.auth
            .attribute(from(peer), headers)
            .expect("attributable")
    }

    pub(super) fn params(&self, own: &Try<'_>) -> ConnectParams {
        let mut params = json!({
            "minProtocol": 4, "maxProtocol": 4, "role": own.role, "scopes": own.scopes,
            "client": {"id": own.client.0, "mode": own.client.1, "version": "2026.9.6", "platform": "linux"},
        });
        if !own.auth.is_null() {
            params["auth"] = own.auth.clone();
        }
        if let Some(device) = own.device {
            let token = ["token", "deviceToken", "bootstrapToken"]
                .iter()
                .find_map(|key| own.auth[*key].as_str());
            let payload = [
                "v3",
                &device.id,
                own.client.0,
                own.client.1,
                own.role,
                &own.scopes.join(","),
                &self.now().to_string(),
                token.unwrap_or_default(),
                own.challenge,
                "linux",
                "",
            ]
            .join("|");
            params["device"] = json!({
                "id": device.id, "publicKey": device.public_key, "signedAt": self.now(), "nonce": own.challenge,
                "signature": URL_SAFE_NO_PAD.encode(device.key.sign(payload.as_bytes())),
            });
        }
        ConnectParams::parse(&params).expect("valid params")
    }

    pub(super) fn connect(&self, own: &Try<'_>) -> Decision {
        let headers = headers(own.headers);
        let attribution = self.attribute(own.peer, &headers);
        let params = self.params(own);
        self.auth
            .connect(&self.attempt(&attribution, &headers, &params), self.now())
    }

    pub(super) fn attempt<'a>(
        &self,
        attribution: &'a Attribution,
        headers: &'a HeaderMap,
        params: &'a ConnectParams,
    ) -> ConnectAttempt<'a> {
        ConnectAttempt {
            attribution,
            headers,
            challenge: CHALLENGE,
            params,
            upstream: self.upstream.get(),
            tailscale_user: None,
            is_connected: &|_| false,
        }
    }

    pub(super) fn accepted(&self, own: &Try<'_>) -> Principal {
        match self.connect(own) {
            Decision::Accept(principal) => *principal,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub(super) fn refused(&self, own: &Try<'_>) -> Refusal {
        match self.connect(own) {
            Decision::Refuse(refusal) => *refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Pairs a device silently and returns its token.
    pub(super) fn pair(&self, device: &Device, scopes: &[&str]) -> String {
        let principal = self.accepted(&Try {
            device: Some(device),
            scopes,
            ..Try::default()
        });
        principal.hello_auth["deviceToken"]
            .as_str()
            .expect("a device token")
            .to_owned()
    }

    pub(super) fn call(
        &self,
        method: &str,
        params: Value,
        caller: &Caller,
    ) -> Result<Outcome, MethodError> {
        self.auth
            .device_method(method, &params, caller, &|_| false, self.now())
            .expect("a method of ours")
    }

    pub(super) fn bearer(
        &self,
        peer: &str,
        token: Option<&str>,
        surface: HttpSurface<'_>,
    ) -> HttpAuth {
        let value = token.map(|token| format!("Bearer {token}"));
        let pairs: Vec<(&str, &str)> = value
            .iter()
            .map(|value| ("authorization", value.as_str()))
            .collect();
        let headers = headers(&pairs);
        let attribution = self.attribute(peer, &headers);
        self.auth.bearer(
            &headers,
            &attribution,
            surface,
            self.upstream.get(),
            self.now(),
        )
    }
}

pub(super) fn settings() -> AuthSettings {
    AuthSettings {
        token: Some(TOKEN.to_owned()),
        ..AuthSettings::default()
    }
}

/// An address at the ordinary listener.
pub(super) fn from(address: &str) -> RemoteEnd {
    let ip = address.parse().expect("ip");
    std::net::SocketAddr::new(ip, 40_000).into()
}

pub(super) fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("host", "127.0.0.1:18789".parse().expect("host"));
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("header name");
        headers.insert(name, value.parse().expect("header value"));
    }
    headers
}

pub(super) fn reason(refusal: &Refusal) -> &str {
    refusal
        .details
        .as_ref()
        .and_then(|details| details["authReason"].as_str())
        .unwrap_or_default()
}

pub(super) fn admin(scopes: &[&str]) -> Caller {
    Caller {
        role: Role::Operator,
        scopes: scopes.iter().map(|own| (*own).to_owned()).collect(),
        device: None,
        is_device_token_auth: false,
        client: serde_json::from_value(
            json!({"id": "gateway-client", "mode": "backend", "version": "1", "platform": "linux"}),
        )
        .expect("client"),
        client_ip: None,
    }
}
