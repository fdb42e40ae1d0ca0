//! Who this gateway is: its own Ed25519 key, and the key that device tokens are derived from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};

use super::{files, secret};

/// Made once and kept in `identity.json`, readable by its owner only.
pub struct Identity {
    pub device_id: String,
    /// Raw key, base64url without padding.
    pub public_key: String,
    key: Ed25519KeyPair,
    token_key: [u8; 32],
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read or write {path}: {source}; check that this user owns it")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not a gateway identity: {what}; move it away and start again to make a new one \
         (devices then pair again)"
    )]
    Unreadable { path: PathBuf, what: String },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    version: u32,
    device_id: String,
    public_key: String,
    private_seed: String,
    token_key: String,
}

impl Identity {
    /// Reads the identity at `path`, or makes one and stores it.
    ///
    /// # Errors
    /// When the file cannot be read, written or understood. A damaged file is never replaced.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        let io_error = |source| IdentityError::Io {
            path: path.to_owned(),
            source,
        };
        match fs::read(path) {
            Ok(bytes) => Self::parse(&bytes).map_err(|what| IdentityError::Unreadable {
                path: path.to_owned(),
                what,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (identity, stored) = Self::generate();
                let text =
                    serde_json::to_vec_pretty(&stored).expect("an identity is plain strings");
                files::replace_private(path, &text).map_err(io_error)?;
                Ok(identity)
            }
            Err(error) => Err(io_error(error)),
        }
    }

    /// Signs a payload; base64url without padding.
    pub fn sign(&self, payload: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.key.sign(payload.as_bytes()))
    }

    /// Key for [`secret::derive`].
    pub fn token_key(&self) -> &[u8] {
        &self.token_key
    }

    fn generate() -> (Self, Stored) {
        let seed = secret::random_bytes::<32>();
        let token_key = secret::random_bytes::<32>();
        let key =
            Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are an Ed25519 seed");
        let identity = Self::of(key, token_key);
        let stored = Stored {
            version: 1,
            device_id: identity.device_id.clone(),
            public_key: identity.public_key.clone(),
            private_seed: URL_SAFE_NO_PAD.encode(seed),
            token_key: URL_SAFE_NO_PAD.encode(token_key),
        };
        (identity, stored)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if stored.version != 1 {
            return Err(format!(
                "version {} is not known to this release",
                stored.version
            ));
        }
        let bytes_of = |name: &str, text: &str| {
            let bytes = URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|error| format!("{name}: {error}"))?;
            <[u8; 32]>::try_from(bytes)
                .map_err(|bytes| format!("{name} has {} bytes, not 32", bytes.len()))
        };
        let seed = bytes_of("privateSeed", &stored.private_seed)?;
        let public = bytes_of("publicKey", &stored.public_key)?;
        let token_key = bytes_of("tokenKey", &stored.token_key)?;
        let key = Ed25519KeyPair::from_seed_and_public_key(&seed, &public).map_err(|error| {
            format!("privateSeed and publicKey do not belong together: {error}")
        })?;
        Ok(Self::of(key, token_key))
    }

    fn of(key: Ed25519KeyPair, token_key: [u8; 32]) -> Self {
        let raw = key.public_key().as_ref();
        Self {
            device_id: secret::sha256_hex(raw),
            public_key: URL_SAFE_NO_PAD.encode(raw),
            key,
            token_key,
        }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Identity")
            .field("device_id", &self.device_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("openclaw-rs/identity.json");
        let first = Identity::load_or_create(&path).expect("made");
        let again = Identity::load_or_create(&path).expect("read");
        assert_eq!(first.device_id, again.device_id);
        assert_eq!(first.token_key(), again.token_key());
        assert_eq!(first.sign("x"), again.sign("x"));
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_identity_is_named_and_kept() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("identity.json");
        fs::write(&path, "{\"version\":1").expect("written");
        let error = Identity::load_or_create(&path)
            .expect_err("damaged")
            .to_string();
        assert!(
            error.contains("identity.json") && error.contains("move it away"),
            "{error}"
        );
        assert_eq!(
            fs::read_to_string(&path).expect("still there"),
            "{\"version\":1"
        );
    }
}
