//! Secrets: comparing without telling how far it got, making, hashing, and refusing what is no secret at all.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

/// Equal bytes, in time that depends on neither content nor where they differ.
pub fn equal(given: &str, expected: &str) -> bool {
    let given = digest(&SHA256, given.as_bytes());
    let expected = digest(&SHA256, expected.as_bytes());
    given.as_ref().ct_eq(expected.as_ref()).into()
}

pub fn sha256_hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

pub fn sha256_base64url(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

/// Fresh random bytes as base64url without padding.
pub fn random_base64url<const BYTES: usize>() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<BYTES>())
}

pub fn random_bytes<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system gives random bytes");
    bytes
}

/// A token that the holder of `key` can make again from `label`: 43 characters of base64url, like the original's.
pub fn derive(key: &[u8], label: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    URL_SAFE_NO_PAD.encode(hmac::sign(&key, label.as_bytes()))
}

/// Display markers that stand for a secret. Source: src/config/redact-sentinel.ts at 2026.9.6.
pub fn is_redacted(secret: &str) -> bool {
    matches!(
        secret.trim(),
        "__OPENCLAW_REDACTED__"
            | "REDACTED"
            | "xoxb-REDACTED"
            | "xapp-REDACTED"
            | "***"
            | "[redacted]"
            | "[REDACTED]"
            | "<redacted>"
            | "[REDACTED_PRIVATE_KEY]"
            | "[REDACTED CREDENTIAL]"
    )
}

/// Left over from blank input or JavaScript string coercion. Source: known-weak-gateway-secrets.ts at 2026.9.6.
pub fn is_blank(secret: &str) -> bool {
    matches!(secret.trim(), "" | "undefined" | "null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparing_hashing_deriving() {
        assert!(equal("abc", "abc"));
        assert!(!equal("abc", "abcd"));
        assert!(!equal("", "a"));
        assert_eq!(
            sha256_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(derive(b"key", "label").len(), 43);
        assert_eq!(derive(b"key", "label"), derive(b"key", "label"));
        assert_ne!(derive(b"key", "label"), derive(b"yek", "label"));
        assert_ne!(random_base64url::<32>(), random_base64url::<32>());
    }
}
