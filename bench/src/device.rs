//! A device identity, for client kinds that may not connect without one (UI clients).

use anyhow::{Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

/// One Ed25519 key, made fresh for this run.
pub struct Device {
    key: Ed25519KeyPair,
    id: String,
}

impl Device {
    pub fn generate() -> Result<Self> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|error| anyhow!("no Ed25519 key: {error}"))?;
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref())
            .map_err(|error| anyhow!("no Ed25519 key: {error}"))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        let id = digest
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self { key, id })
    }

    /// `connect.params.device`, payload version 3 without a device family.
    pub fn sign(&self, proof: &Proof<'_>) -> Value {
        let Proof {
            client_id,
            client_mode,
            scopes,
            signed_at_ms,
            token,
            nonce,
        } = proof;
        let text = format!(
            "v3|{}|{client_id}|{client_mode}|operator|{}|{signed_at_ms}|{token}|{nonce}|linux|",
            self.id,
            scopes.join(","),
        );
        json!({
            "id": self.id,
            "publicKey": URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref()),
            "signature": URL_SAFE_NO_PAD.encode(self.key.sign(text.as_bytes()).as_ref()),
            "signedAt": signed_at_ms,
            "nonce": nonce,
        })
    }
}

pub struct Proof<'a> {
    pub client_id: &'a str,
    pub client_mode: &'a str,
    pub scopes: &'a [String],
    pub signed_at_ms: u64,
    pub token: &'a str,
    pub nonce: &'a str,
}
