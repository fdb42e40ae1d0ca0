//! Device tokens: one per device and role, bounded by what was approved for the device.
//!
//! Source: src/infra/device-pairing-tokens.kernel.ts at 2026.9.6. The original keeps tokens in the clear and hands
//! the same one out again. We keep a hash and a random salt: the token is made again from the salt and a key that
//! lives in another file, so a copied `devices.json` opens nothing.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Book, Paired};
use crate::auth::{scopes, secret};

/// A token without the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenEntry {
    pub role: String,
    pub scopes: Vec<String>,
    /// Generation of the shared secret that this token was issued under; it dies with that secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    pub created_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotated_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at_ms: Option<u64>,
    /// SHA-256 of the token, hex. `None`: the upstream issued it and we have not seen it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// `None` for tokens of the upstream's making: those we cannot make again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
}

/// Why a device token is refused. The wire tells only [`TokenError::ScopeMismatch`] from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    NotPaired,
    Missing,
    Revoked,
    Mismatch,
    IssuerStale,
    LegacyBrowserToken,
    ScopeMismatch,
    /// The upstream issued the device's token and we do not know it.
    Unknown,
}

/// A token in the clear, for the one answer that carries it.
#[derive(Clone)]
pub struct Issued {
    pub token: String,
    pub role: String,
    pub scopes: Vec<String>,
    pub issued_at_ms: u64,
}

/// Why a rotation or revocation is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeError {
    UnknownDeviceOrRole,
    NoBaseline,
    OutsideBaseline,
    CallerLacks(String),
}

/// Makes tokens of this gateway.
#[derive(Clone, Copy)]
pub struct Mint<'a> {
    pub key: &'a [u8],
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Issued")
            .field("role", &self.role)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

impl TokenEntry {
    pub fn matches(&self, token: &str) -> Option<bool> {
        let hash = self.hash.as_deref()?;
        Some(!token.trim().is_empty() && secret::equal(&secret::sha256_hex(token.as_bytes()), hash))
    }

    pub fn summary(&self) -> Value {
        let mut shown =
            json!({"role": self.role, "scopes": self.scopes, "createdAtMs": self.created_at_ms});
        for (name, value) in [
            ("rotatedAtMs", self.rotated_at_ms),
            ("revokedAtMs", self.revoked_at_ms),
            ("lastUsedAtMs", self.last_used_at_ms),
        ] {
            if let Some(value) = value {
                shown[name] = value.into();
            }
        }
        shown
    }

    pub fn issued_at_ms(&self) -> u64 {
        self.rotated_at_ms.unwrap_or(self.created_at_ms)
    }
}

impl Mint<'_> {
    /// A new token that takes the place of `existing`.
    pub fn make(
        self,
        device_id: &str,
        role: &str,
        scopes: Vec<String>,
        existing: Option<&TokenEntry>,
        issuer: Option<String>,
        now_ms: u64,
    ) -> (TokenEntry, Issued) {
        let salt = secret::random_base64url::<16>();
        let token = self.token(device_id, role, &salt);
        let entry = TokenEntry {
            role: role.to_owned(),
            scopes: scopes.clone(),
            issuer,
            created_at_ms: existing.map_or(now_ms, |own| own.created_at_ms),
            rotated_at_ms: existing.map(|_| now_ms),
            revoked_at_ms: None,
            last_used_at_ms: existing.and_then(|own| own.last_used_at_ms),
            hash: Some(secret::sha256_hex(token.as_bytes())),
            salt: Some(salt),
        };
        let issued = Issued {
            token,
            role: role.to_owned(),
            scopes,
            issued_at_ms: entry.issued_at_ms(),
        };
        (entry, issued)
    }

    /// The token of an entry of our making; `None` when it is not ours or the key has changed since.
    pub fn again(self, device_id: &str, entry: &TokenEntry) -> Option<Issued> {
        let token = self.token(device_id, &entry.role, entry.salt.as_deref()?);
        (entry.matches(&token) == Some(true)).then(|| Issued {
            token,
            role: entry.role.clone(),
            scopes: entry.scopes.clone(),
            issued_at_ms: entry.issued_at_ms(),
        })
    }

    fn token(self, device_id: &str, role: &str, salt: &str) -> String {
        secret::derive(self.key, &format!("device-token|{device_id}|{role}|{salt}"))
    }
}

impl Book {
    /// Checks a device token for a role and the scopes asked, and notes its use.
    pub fn verify_token(
        &mut self,
        device_id: &str,
        role: &str,
        asked: &[String],
        token: &str,
        generation: Option<&str>,
        now_ms: u64,
    ) -> Result<Option<String>, TokenError> {
        let device = self
            .paired
            .get_mut(device_id.trim())
            .ok_or(TokenError::NotPaired)?;
        let is_browser = device.is_browser();
        let baseline = device.baseline();
        let entry = device
            .tokens
            .get_mut(role.trim())
            .ok_or(TokenError::Missing)?;
        if entry.revoked_at_ms.is_some() {
            return Err(TokenError::Revoked);
        }
        match entry.matches(token) {
            None => return Err(TokenError::Unknown),
            Some(false) => return Err(TokenError::Mismatch),
            Some(true) => {}
        }
        match &entry.issuer {
            Some(issuer) if Some(issuer.as_str()) != generation => {
                return Err(TokenError::IssuerStale);
            }
            None if generation.is_some() && is_browser => {
                return Err(TokenError::LegacyBrowserToken);
            }
            _ => {}
        }
        let within = baseline.is_some_and(|baseline| scopes::allow(role, &entry.scopes, &baseline));
        if !within || !scopes::allow(role, &scopes::normalize(asked), &entry.scopes) {
            return Err(TokenError::ScopeMismatch);
        }
        entry.last_used_at_ms = Some(now_ms);
        let issuer = entry.issuer.clone();
        device.last_seen_at_ms = Some(now_ms);
        device.last_seen_reason = Some("device-token-auth".to_owned());
        Ok(issuer)
    }

    /// The device's token for a role, when the one it has serves and can be made again.
    pub fn reusable_token(
        &self,
        mint: Mint<'_>,
        device_id: &str,
        role: &str,
        asked: &[String],
        issuer: Option<&str>,
    ) -> Option<Issued> {
        let device = self.device(device_id)?;
        let baseline = device.baseline()?;
        let own = device
            .tokens
            .get(role)
            .filter(|own| own.revoked_at_ms.is_none())?;
        let serves = device.approved_roles().iter().any(|own| own == role)
            && scopes::allow(role, &own.scopes, &baseline)
            && own.issuer.as_deref() == issuer
            && scopes::allow(role, &scopes::normalize(asked), &own.scopes);
        if serves {
            mint.again(&device.device_id, own)
        } else {
            None
        }
    }

    /// [`Book::reusable_token`], or a new token. `None` when the device has no such role or was not approved for the
    /// scopes.
    pub fn ensure_token(
        &mut self,
        mint: Mint<'_>,
        device_id: &str,
        role: &str,
        asked: &[String],
        issuer: Option<&str>,
        now_ms: u64,
    ) -> Option<Issued> {
        if let Some(issued) = self.reusable_token(mint, device_id, role, asked, issuer) {
            return Some(issued);
        }
        let device = self.paired.get_mut(device_id.trim())?;
        let asked = scopes::normalize(asked);
        let has_role = device.approved_roles().iter().any(|own| own == role);
        if !has_role || !scopes::allow(role, &asked, &device.baseline()?) {
            return None;
        }
        let existing = device.tokens.get(role);
        let issuer = issuer.map(str::to_owned);
        let (entry, issued) = mint.make(&device.device_id, role, asked, existing, issuer, now_ms);
        device.tokens.insert(role.to_owned(), entry);
        Some(issued)
    }

    /// Replaces a role's token. The new one holds no scope that the device was not approved for or that the caller
    /// lacks (GHSA-4jpw-hj22-2xmc).
    pub fn rotate_token(
        &mut self,
        mint: Mint<'_>,
        device_id: &str,
        role: &str,
        asked: Option<&[String]>,
        caller: Option<&[String]>,
        now_ms: u64,
    ) -> Result<Issued, ChangeError> {
        let (device, role) = self.token_holder(device_id, role)?;
        let existing = device.tokens.get(role);
        let held = existing
            .map(|own| own.scopes.as_slice())
            .or(device.scopes.as_deref());
        let wanted = scopes::normalize(asked.or(held).unwrap_or_default());
        let baseline = device.baseline().ok_or(ChangeError::NoBaseline)?;
        if !scopes::allow(role, &wanted, &baseline) {
            return Err(ChangeError::OutsideBaseline);
        }
        caller_holds(role, &wanted, caller)?;
        let issuer = existing.and_then(|own| own.issuer.clone());
        let (mut entry, mut issued) =
            mint.make(&device.device_id, role, wanted, existing, issuer, now_ms);
        entry.rotated_at_ms = Some(now_ms);
        issued.issued_at_ms = now_ms;
        device.tokens.insert(role.to_owned(), entry);
        Ok(issued)
    }

    pub fn revoke_token(
        &mut self,
        device_id: &str,
        role: &str,
        caller: Option<&[String]>,
        now_ms: u64,
    ) -> Result<TokenEntry, ChangeError> {
        let (device, role) = self.token_holder(device_id, role)?;
        let entry = device
            .tokens
            .get_mut(role)
            .ok_or(ChangeError::UnknownDeviceOrRole)?;
        caller_holds(role, &scopes::normalize(&entry.scopes), caller)?;
        entry.revoked_at_ms = Some(now_ms);
        Ok(entry.clone())
    }

    fn token_holder<'a, 'r>(
        &'a mut self,
        device_id: &str,
        role: &'r str,
    ) -> Result<(&'a mut Paired, &'r str), ChangeError> {
        let role = role.trim();
        let device = self
            .paired
            .get_mut(device_id.trim())
            .ok_or(ChangeError::UnknownDeviceOrRole)?;
        if role.is_empty() || !device.approved_roles().iter().any(|own| own == role) {
            return Err(ChangeError::UnknownDeviceOrRole);
        }
        Ok((device, role))
    }
}

impl ChangeError {
    /// As the original logs it; clients see one text for all.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownDeviceOrRole => "unknown-device-or-role",
            Self::NoBaseline => "missing-approved-scope-baseline",
            Self::OutsideBaseline => "scope-outside-approved-baseline",
            Self::CallerLacks(_) => "caller-missing-scope",
        }
    }
}

fn caller_holds(
    role: &str,
    wanted: &[String],
    caller: Option<&[String]>,
) -> Result<(), ChangeError> {
    match caller.and_then(|held| scopes::first_missing(role, wanted, held)) {
        Some(missing) => Err(ChangeError::CallerLacks(missing.to_owned())),
        None => Ok(()),
    }
}

impl Paired {
    fn is_browser(&self) -> bool {
        let is = |value: &Option<String>, wanted: &[&str]| {
            value
                .as_deref()
                .is_some_and(|own| wanted.contains(&own.trim().to_lowercase().as_str()))
        };
        is(&self.about.client_mode, &["webchat"])
            || is(
                &self.about.client_id,
                &["openclaw-control-ui", "webchat-ui"],
            )
    }
}
