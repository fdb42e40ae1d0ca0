//! Device identity: Ed25519 keys and the signature over the connection's challenge.
//!
//! Source: src/gateway/server/ws-connection/connect-device-proof.ts, src/infra/ed25519-signature.ts and
//! packages/gateway-client/src/device-auth.ts at 2026.9.6.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ring::signature::{ED25519, UnparsedPublicKey};
use wire::connect::{ConnectParams, DeviceProof};

use super::secret;

/// How far a client's clock may be off, either way.
pub const SIGNATURE_SKEW_MS: f64 = 120_000.0;
/// Longest key or signature text looked at.
const BASE64_INPUT_MAX: usize = 4096;
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A device that proved to hold its key on this connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    pub id: String,
    /// Raw key, base64url without padding.
    pub public_key: String,
    pub payload: PayloadVersion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadVersion {
    V2,
    V3,
}

/// Why a proof is refused, in the order it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofError {
    IdMismatch,
    Stale,
    NonceMissing,
    NonceMismatch,
    Signature,
    PublicKey,
}

impl ProofError {
    /// (`details.code`, `details.reason`, message and close reason).
    pub const fn texts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::IdMismatch => (
                "DEVICE_AUTH_DEVICE_ID_MISMATCH",
                "device-id-mismatch",
                "device identity mismatch",
            ),
            Self::Stale => (
                "DEVICE_AUTH_SIGNATURE_EXPIRED",
                "device-signature-stale",
                "device signature expired",
            ),
            Self::NonceMissing => (
                "DEVICE_AUTH_NONCE_REQUIRED",
                "device-nonce-missing",
                "device nonce required",
            ),
            Self::NonceMismatch => (
                "DEVICE_AUTH_NONCE_MISMATCH",
                "device-nonce-mismatch",
                "device nonce mismatch",
            ),
            Self::Signature => (
                "DEVICE_AUTH_SIGNATURE_INVALID",
                "device-signature",
                "device signature invalid",
            ),
            Self::PublicKey => (
                "DEVICE_AUTH_PUBLIC_KEY_INVALID",
                "device-public-key",
                "device public key invalid",
            ),
        }
    }
}

/// Checks the device's signature. `role` and `scopes` are those of the handshake, in the order sent.
pub fn prove(
    device: &DeviceProof,
    params: &ConnectParams,
    role: &str,
    scopes: &[String],
    challenge: &str,
    now_ms: u64,
) -> Result<Proven, ProofError> {
    let raw = raw_public_key(&device.public_key).filter(|raw| secret::sha256_hex(raw) == device.id);
    let raw = raw.ok_or(ProofError::IdMismatch)?;
    if (now_ms as f64 - device.signed_at).abs() > SIGNATURE_SKEW_MS {
        return Err(ProofError::Stale);
    }
    let nonce = device.nonce.trim();
    if nonce.is_empty() {
        return Err(ProofError::NonceMissing);
    }
    if nonce != challenge {
        return Err(ProofError::NonceMismatch);
    }
    let signature = decode(&device.signature).ok_or(ProofError::Signature)?;
    let key = UnparsedPublicKey::new(&ED25519, &raw);
    let signed = |payload: &str| key.verify(payload.as_bytes(), &signature).is_ok();
    let v3 = payload_v3(device, params, role, scopes, nonce);
    let payload = if signed(&v3) {
        PayloadVersion::V3
    } else if signed(&payload_v2(device, params, role, scopes, nonce)) {
        PayloadVersion::V2
    } else {
        return Err(ProofError::Signature);
    };
    Ok(Proven {
        id: device.id.clone(),
        public_key: URL_SAFE_NO_PAD.encode(raw),
        payload,
    })
}

/// `v2|deviceId|client.id|client.mode|role|scopes|signedAtMs|token|nonce`.
pub fn payload_v2(
    device: &DeviceProof,
    params: &ConnectParams,
    role: &str,
    scopes: &[String],
    nonce: &str,
) -> String {
    payload("v2", device, params, role, scopes, nonce)
}

/// [`payload_v2`] with `v3` and `|platform|deviceFamily`.
pub fn payload_v3(
    device: &DeviceProof,
    params: &ConnectParams,
    role: &str,
    scopes: &[String],
    nonce: &str,
) -> String {
    let base = payload("v3", device, params, role, scopes, nonce);
    let platform = metadata(Some(&params.client.platform));
    let family = metadata(params.client.device_family.as_deref());
    format!("{base}|{platform}|{family}")
}

fn payload(
    version: &str,
    device: &DeviceProof,
    params: &ConnectParams,
    role: &str,
    scopes: &[String],
    nonce: &str,
) -> String {
    let token = params.auth.as_ref().and_then(|auth| {
        auth.token
            .as_deref()
            .or(auth.device_token.as_deref())
            .or(auth.bootstrap_token.as_deref())
    });
    let client = &params.client;
    [
        version,
        &device.id,
        &client.id,
        &client.mode,
        role,
        &scopes.join(","),
        &format!("{:.0}", device.signed_at),
        token.unwrap_or_default(),
        nonce,
    ]
    .join("|")
}

/// Platform and family as they are signed and pinned: trimmed, ASCII lower case.
pub fn metadata(value: Option<&str>) -> String {
    value.unwrap_or_default().trim().to_ascii_lowercase()
}

/// Raw base64url of a key given as raw base64(url) or as PEM.
pub fn canonical_public_key(text: &str) -> Option<String> {
    raw_public_key(text).map(|raw| URL_SAFE_NO_PAD.encode(raw))
}

fn raw_public_key(text: &str) -> Option<Vec<u8>> {
    if text.contains("BEGIN") {
        let (_, rest) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
        let (body, _) = rest.split_once("-----END PUBLIC KEY-----")?;
        let der = decode(body)?;
        return der
            .strip_prefix(&SPKI_PREFIX)
            .filter(|raw| raw.len() == 32)
            .map(<[u8]>::to_vec);
    }
    decode(text).filter(|raw| !raw.is_empty())
}

/// As Node's decoder: either alphabet, anything else skipped, a lone last character dropped.
fn decode(text: &str) -> Option<Vec<u8>> {
    if text.len() > BASE64_INPUT_MAX {
        return None;
    }
    let mut clean: String = text
        .chars()
        .filter_map(|own| match own {
            '-' => Some('+'),
            '_' => Some('/'),
            '+' | '/' => Some(own),
            _ => own.is_ascii_alphanumeric().then_some(own),
        })
        .collect();
    if clean.len() % 4 == 1 {
        clean.pop();
    }
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    engine.decode(clean).ok()
}

/// A raw key as PEM, for tests and for showing it to tools that want PEM.
pub fn public_key_pem(raw_base64url: &str) -> Option<String> {
    let raw = decode(raw_base64url).filter(|raw| raw.len() == 32)?;
    let der = [SPKI_PREFIX.as_slice(), &raw].concat();
    Some(format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD_NO_PAD.encode(der)
    ))
}
