//! What we learn from the TypeScript gateway behind us: its devices, and which tokens it takes.
//!
//! Its list of devices has keys and scopes but no tokens. A device's token becomes known when the upstream takes it
//! once as a bearer, or when we relay the handshake that issues it; only its hash is kept.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde_json::{Value, json};
use wire::connect::client_mode;

use super::handshake::counted_under;
use super::limiter::Class;
use super::pairing::store::StoreError;
use super::pairing::tokens::TokenEntry;
use super::pairing::{About, Book, MadeBy, PAIRED_MAX, Paired, Pending};
use super::{Auth, ConnectAttempt, DeviceClose, RefusalLog, device, scopes, secret};

/// Refused tokens remembered, so that a repeated connect asks the upstream once.
const VERDICTS_MAX: usize = 1_024;
const VERDICT_TTL_MS: u64 = 60_000;
/// Removals remembered: many more than there are while a list is on its way.
const GONE_MAX: usize = 256;

/// Tokens that the upstream refused a moment ago.
#[derive(Default)]
pub(super) struct Verdicts(Mutex<VecDeque<Verdict>>);

struct Verdict {
    device_id: String,
    hash: String,
    until_ms: u64,
}

impl Verdicts {
    pub(super) fn is_refused(&self, device_id: &str, token: &str, now_ms: u64) -> bool {
        let hash = secret::sha256_hex(token.as_bytes());
        self.0
            .lock()
            .iter()
            .any(|own| own.until_ms > now_ms && own.device_id == device_id && own.hash == hash)
    }

    fn refuse(&self, device_id: &str, token: &str, now_ms: u64) {
        let mut kept = self.0.lock();
        kept.retain(|own| own.until_ms > now_ms);
        if kept.len() == VERDICTS_MAX {
            kept.pop_front();
        }
        kept.push_back(Verdict {
            device_id: device_id.to_owned(),
            hash: secret::sha256_hex(token.as_bytes()),
            until_ms: now_ms + VERDICT_TTL_MS,
        });
    }
}

/// Devices whose pairing was taken away lately, and the time of the word of it: an older list still has them.
#[derive(Default)]
pub(super) struct Gone(Mutex<VecDeque<(String, u64)>>);

impl Gone {
    fn add(&self, device_id: &str, at_ms: u64) {
        let mut kept = self.0.lock();
        if kept.len() == GONE_MAX {
            kept.pop_front();
        }
        kept.push_back((device_id.to_owned(), at_ms));
    }

    fn since(&self, device_id: &str, at_ms: u64) -> bool {
        let kept = self.0.lock();
        kept.iter()
            .any(|(id, gone)| id == device_id && *gone >= at_ms)
    }
}

/// What an import changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    pub devices: usize,
    /// What devices no longer have there: their connections by it must close.
    pub lost: Vec<DeviceClose>,
    /// Rows that could not be read, with the reason.
    pub skipped: Vec<String>,
}

impl Auth {
    /// Takes over the upstream's `device.pair.list`, fetched at `listed_at_ms`. Its devices are added and updated;
    /// those it no longer has are removed, unless we learned of them after the list was made.
    ///
    /// # Errors
    /// When the book cannot be written; nothing is changed then.
    pub fn import_paired(&self, list: &Value, listed_at_ms: u64) -> Result<Imported, StoreError> {
        let mut report = Imported::default();
        let rows = list
            .get("paired")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let complete = list.get("paired").is_some_and(Value::is_array);
        let mut devices = Vec::new();
        for row in rows {
            match read_row(row, listed_at_ms) {
                Ok(device) if self.gone.since(&device.device_id, listed_at_ms) => {}
                Ok(device) => devices.push(device),
                Err(what) => report.skipped.push(what),
            }
        }
        report.devices = devices.len();
        let report = self.commit(|book| {
            if complete && report.skipped.is_empty() {
                report.lost = drop_unlisted(book, &devices, listed_at_ms);
            }
            for device in devices {
                report.lost.extend(tokens_lost(book, &device, listed_at_ms));
                merge_row(book, device);
            }
            report
        })?;
        if !report.lost.is_empty() {
            self.bearers.clear();
        }
        for close in report.lost.iter().filter(|close| close.role.is_none()) {
            self.gone.add(&close.device_id, listed_at_ms);
        }
        Ok(report)
    }

    /// The answer to [`super::Decision::AskUpstream`]. `accepted` false means the upstream said 401; on any other
    /// failure report nothing and let the client try again.
    ///
    /// # Errors
    /// When the book cannot be written.
    pub fn upstream_token_verdict(
        &self,
        device_id: &str,
        token: &str,
        accepted: bool,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let is_anothers = self.read(|book| {
            let others = book
                .paired
                .values()
                .filter(|own| own.device_id != device_id);
            others
                .flat_map(|own| own.tokens.values())
                .any(|entry| entry.matches(token) == Some(true))
        });
        if !accepted || is_anothers {
            self.verdicts.refuse(device_id, token, now_ms);
            return Ok(());
        }
        let generation = self.live.load().generation.clone();
        self.commit(|book| {
            let Some(own) = book.paired.get_mut(device_id) else {
                return;
            };
            let is_browser = own.is_browser_client();
            let Some(entry) = own
                .tokens
                .get_mut("operator")
                .filter(|entry| entry.revoked_at_ms.is_none())
            else {
                return;
            };
            entry.hash = Some(secret::sha256_hex(token.as_bytes()));
            entry.salt = None;
            // Browser tokens die with the shared secret they were issued under, there as here.
            entry.issuer = generation.filter(|_| is_browser);
        })
    }

    /// Learns from a relayed handshake that ended in `hello-ok`: the device is paired with the upstream, and this is
    /// its token.
    ///
    /// # Errors
    /// When the book cannot be written; the connection may go on all the same.
    pub fn remember_relayed(
        &self,
        attempt: &ConnectAttempt<'_>,
        hello: &Value,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let (limiter, key) = counted_under(self, attempt.attribution);
        for class in [
            Class::SharedSecret,
            Class::DeviceToken,
            Class::BootstrapToken,
        ] {
            limiter.reset(&key, class);
        }
        let Some(proof) = &attempt.params.device else {
            return Ok(());
        };
        let Some(public_key) = device::canonical_public_key(&proof.public_key) else {
            return Ok(());
        };
        let shown = hello.get("auth").unwrap_or(&Value::Null);
        let mut tokens = vec![shown];
        tokens.extend(
            shown
                .get("deviceTokens")
                .and_then(Value::as_array)
                .into_iter()
                .flatten(),
        );
        let tokens: Vec<TokenEntry> = tokens.into_iter().filter_map(read_issued).collect();
        if tokens.is_empty() {
            return Ok(());
        }
        let client = &attempt.params.client;
        let is_browser = client.mode == client_mode::WEBCHAT;
        let generation = self.live.load().generation.clone().filter(|_| is_browser);
        self.commit(|book| {
            if !book.paired.contains_key(&proof.id) && book.paired.len() >= PAIRED_MAX {
                return;
            }
            let own = book
                .paired
                .entry(proof.id.clone())
                .or_insert_with(|| Paired {
                    device_id: proof.id.clone(),
                    public_key: public_key.clone(),
                    operator_label: None,
                    about: About::default(),
                    role: tokens.first().map(|entry| entry.role.clone()),
                    roles: None,
                    scopes: Some(Vec::new()),
                    remote_ip: None,
                    tokens: Default::default(),
                    approved_via: None,
                    created_at_ms: now_ms,
                    approved_at_ms: now_ms,
                    last_seen_at_ms: None,
                    last_seen_reason: None,
                    made_by: MadeBy::Relayed,
                    learned_at_ms: now_ms,
                });
            if own.public_key != public_key {
                own.tokens.clear();
                own.public_key = public_key;
            }
            own.about = About {
                display_name: client.display_name.clone(),
                platform: Some(client.platform.clone()),
                device_family: client.device_family.clone(),
                client_id: Some(client.id.clone()),
                client_mode: Some(client.mode.clone()),
                browser_origin: own.about.browser_origin.take(),
            };
            let mut roles = own.approved_roles();
            let mut approved = own.scopes.take().unwrap_or_default();
            for mut entry in tokens {
                roles.push(entry.role.clone());
                approved.extend(entry.scopes.iter().cloned());
                entry.issuer = generation.clone();
                own.tokens.insert(entry.role.clone(), entry);
            }
            own.roles = Some(scopes::unique(&roles));
            own.scopes = Some(scopes::unique(&approved));
            own.made_by = MadeBy::Relayed;
            own.learned_at_ms = now_ms;
            own.last_seen_at_ms = Some(now_ms);
            own.last_seen_reason = Some("connect".to_owned());
        })
    }

    /// The upstream refused a relayed handshake with `error`: noted as a refusal of ours, and worth a line in the log.
    pub fn note_relayed_refusal(
        &self,
        attempt: &ConnectAttempt<'_>,
        error: &Value,
        now_ms: u64,
    ) -> RefusalLog {
        let mut log = RefusalLog::of_upstream(error, attempt.params);
        log.about(attempt, now_ms);
        self.note_refusal(log.clone());
        log
    }

    /// The upstream took a device's pairing away, or its token of `role`: what we know of it goes, so that the upstream
    /// is asked at its next connect.
    ///
    /// # Errors
    /// When the book cannot be written; nothing is changed then.
    pub fn forget_upstreams(
        &self,
        device_id: &str,
        role: Option<&str>,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.bearers.clear();
        if role.is_none() {
            self.gone.add(device_id.trim(), now_ms);
        }
        self.commit(|book| match role {
            None => {
                book.remove(device_id);
            }
            Some(role) => {
                let own = book.paired.get_mut(device_id.trim());
                if let Some(entry) = own.and_then(|own| own.tokens.get_mut(role.trim())) {
                    entry.hash = None;
                    entry.salt = None;
                }
            }
        })
    }

    /// When the token of a device's role was issued, Unix time in milliseconds.
    pub fn token_issued_at_ms(&self, device_id: &str, role: &str) -> Option<u64> {
        self.read(|book| {
            let own = book.device(device_id.trim())?;
            Some(own.tokens.get(role.trim())?.issued_at_ms())
        })
    }

    /// Whether a request waits in our own book.
    pub fn has_request(&self, request_id: &str, now_ms: u64) -> bool {
        self.read(|book| book.pending_request(request_id.trim(), now_ms).is_some())
    }

    /// `{pending, paired}` of what only this gateway knows. Paired devices carry `madeBy: "local"`, which tells them from
    /// the upstream's.
    pub fn own_devices(&self, is_connected: &dyn Fn(&str) -> bool, now_ms: u64) -> Value {
        self.read(|book| {
            let pending = book.pending.iter().filter(|own| !own.expired(now_ms));
            let pending: Vec<Value> = pending.map(Pending::public).collect();
            let paired = book.paired.values();
            let paired: Vec<Value> = paired
                .filter(|own| own.made_by == MadeBy::Local)
                .map(|own| {
                    let mut row = own.public(Some(is_connected(own.device_id.trim())));
                    row["madeBy"] = "local".into();
                    row
                })
                .collect();
            json!({ "pending": pending, "paired": paired })
        })
    }

    /// Which gateway a device belongs to: changes to the upstream's devices must be made there.
    pub fn made_by(&self, device_id: &str) -> Option<MadeBy> {
        self.read(|book| book.device(device_id.trim()).map(|own| own.made_by))
    }
}

impl Paired {
    fn is_browser_client(&self) -> bool {
        self.about.client_mode.as_deref() == Some(client_mode::WEBCHAT)
    }
}

/// A token of `hello-ok`, without the token.
fn read_issued(shown: &Value) -> Option<TokenEntry> {
    let token = shown
        .get("deviceToken")?
        .as_str()
        .filter(|token| !token.is_empty())?;
    Some(TokenEntry {
        role: shown.get("role")?.as_str()?.to_owned(),
        scopes: scopes::normalize(&strings(shown.get("scopes"))),
        issuer: None,
        created_at_ms: shown
            .get("issuedAtMs")
            .and_then(Value::as_u64)
            .unwrap_or_default(),
        rotated_at_ms: None,
        revoked_at_ms: None,
        last_used_at_ms: None,
        hash: Some(secret::sha256_hex(token.as_bytes())),
        salt: None,
    })
}

fn read_row(row: &Value, listed_at_ms: u64) -> Result<Paired, String> {
    let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
    let millis = |key: &str| row.get(key).and_then(Value::as_u64);
    let device_id = text("deviceId").ok_or("a device without deviceId")?;
    let raw_key = text("publicKey").unwrap_or_default();
    let public_key = device::canonical_public_key(&raw_key)
        .ok_or_else(|| format!("device {device_id}: publicKey is no Ed25519 key"))?;
    let list = |key: &str| {
        row.get(key)
            .filter(|own| own.is_array())
            .map(|own| strings(Some(own)))
    };
    let tokens = row
        .get("tokens")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let tokens = tokens.iter().filter_map(|shown| {
        let role = shown.get("role")?.as_str()?.to_owned();
        let at = |key: &str| shown.get(key).and_then(Value::as_u64);
        let entry = TokenEntry {
            role: role.clone(),
            scopes: strings(shown.get("scopes")),
            issuer: None,
            created_at_ms: at("createdAtMs").unwrap_or_default(),
            rotated_at_ms: at("rotatedAtMs"),
            revoked_at_ms: at("revokedAtMs"),
            last_used_at_ms: at("lastUsedAtMs"),
            hash: None,
            salt: None,
        };
        Some((role, entry))
    });
    Ok(Paired {
        operator_label: text("operatorLabel"),
        about: About {
            display_name: text("displayName"),
            platform: text("platform"),
            device_family: text("deviceFamily"),
            client_id: text("clientId"),
            client_mode: text("clientMode"),
            browser_origin: text("browserOrigin"),
        },
        role: text("role"),
        roles: list("roles"),
        scopes: list("scopes"),
        remote_ip: text("remoteIp"),
        tokens: tokens.collect(),
        approved_via: text("approvedVia"),
        created_at_ms: millis("createdAtMs").unwrap_or_default(),
        approved_at_ms: millis("approvedAtMs").unwrap_or_default(),
        last_seen_at_ms: millis("lastSeenAtMs"),
        last_seen_reason: text("lastSeenReason"),
        made_by: MadeBy::Imported,
        learned_at_ms: listed_at_ms,
        device_id,
        public_key,
    })
}

fn drop_unlisted(book: &mut Book, listed: &[Paired], listed_at_ms: u64) -> Vec<DeviceClose> {
    let gone: Vec<String> = book
        .paired
        .values()
        .filter(|own| {
            own.made_by != MadeBy::Local
                && own.learned_at_ms <= listed_at_ms
                && !listed
                    .iter()
                    .any(|device| device.device_id == own.device_id)
        })
        .map(|own| own.device_id.clone())
        .collect();
    let close = |device_id: String| {
        book.remove(&device_id);
        DeviceClose {
            device_id,
            role: None,
            reason: "device-pair-removed",
        }
    };
    gone.into_iter().map(close).collect()
}

/// The tokens that are taken away in `listed`. What we learned after the list was made is not on it. A new token in the place
/// of an old one is no loss: the original issues one at a device's upgrade too.
fn tokens_lost(book: &Book, listed: &Paired, listed_at_ms: u64) -> Vec<DeviceClose> {
    let known = book.paired.get(&listed.device_id).filter(|own| {
        own.made_by != MadeBy::Local
            && own.learned_at_ms <= listed_at_ms
            && own.public_key == listed.public_key
    });
    let tokens = known.into_iter().flat_map(|own| &own.tokens);
    let lost = tokens.filter(|(role, token)| {
        let theirs = listed.tokens.get(*role);
        let is_gone = theirs.is_none_or(|theirs| theirs.revoked_at_ms.is_some());
        is_gone && token.revoked_at_ms.is_none()
    });
    let lost = lost.map(|(role, _)| DeviceClose {
        device_id: listed.device_id.clone(),
        role: Some(role.clone()),
        reason: "device-token-revoked",
    });
    lost.collect()
}

/// The upstream's word counts, but hashes that we learned stay as long as its token is the same.
fn merge_row(book: &mut Book, mut device: Paired) {
    let existing = book.paired.get(&device.device_id);
    if existing.is_none() && book.paired.len() >= PAIRED_MAX {
        return;
    }
    if let Some(own) = existing.filter(|own| own.public_key == device.public_key) {
        for (role, entry) in &mut device.tokens {
            let Some(known) = own.tokens.get(role) else {
                continue;
            };
            let is_same =
                known.issued_at_ms() == entry.issued_at_ms() || own.made_by == MadeBy::Local;
            if is_same && entry.revoked_at_ms.is_none() {
                entry.hash = known.hash.clone();
                entry.salt = known.salt.clone();
                entry.issuer = known.issuer.clone();
            }
        }
        device.learned_at_ms = own.learned_at_ms;
    }
    book.paired.insert(device.device_id.clone(), device);
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    list.iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
