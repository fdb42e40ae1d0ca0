//! The pairing book: devices that asked, devices that were approved, and the tokens they hold.
//!
//! Pure data and rules; [`store`] keeps it on disk. Source: src/infra/device-pairing-*.ts at 2026.9.6. Differences,
//! all on our side of the wire: tokens are stored as SHA-256, and a row remembers who made it.

pub mod approval;
pub mod store;
pub mod tokens;

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::scopes;
use tokens::TokenEntry;

/// A request lives this long after it was made or refreshed. Source: `DEVICE_PAIRING_PENDING_TTL_MS`.
pub const PENDING_TTL_MS: u64 = 300_000;
/// Requests kept; the oldest makes room.
pub const PENDING_MAX: usize = 512;
/// Devices kept; a new one is refused beyond it.
pub const PAIRED_MAX: usize = 8_192;
/// A silent pairing younger than this is not replaced by the next. Source: `PRUNE_RECENT_APPROVAL_GRACE_MS`.
const PRUNE_GRACE_MS: u64 = 60_000;

/// A device waiting for approval; serialised as clients see it, but for `refreshedAtMs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    pub request_id: String,
    pub device_id: String,
    pub public_key: String,
    #[serde(flatten)]
    pub about: About,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent: Option<bool>,
    pub is_repair: bool,
    pub ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refreshed_at_ms: Option<u64>,
}

/// What a device says about itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub browser_origin: Option<String>,
}

/// An approved device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paired {
    pub device_id: String,
    pub public_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_label: Option<String>,
    #[serde(flatten)]
    pub about: About,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    /// What was approved: the ceiling of every token. `None` on rows too old to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<String>,
    /// By role.
    #[serde(default)]
    pub tokens: BTreeMap<String, TokenEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_via: Option<String>,
    pub created_at_ms: u64,
    pub approved_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen_reason: Option<String>,
    pub made_by: MadeBy,
    /// When we first wrote this row, for telling a newer row from an older list of the upstream.
    pub learned_at_ms: u64,
}

/// Which gateway approved a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MadeBy {
    /// This gateway alone; the upstream does not know the device.
    Local,
    /// The upstream, through a handshake relayed by us.
    Relayed,
    /// The upstream, before or beside us; read from its list.
    Imported,
}

/// A pairing wish, from a handshake or a scope upgrade.
#[derive(Debug, Clone)]
pub struct Wish {
    pub device_id: String,
    pub public_key: String,
    pub about: About,
    pub role: String,
    pub scopes: Vec<String>,
    pub remote_ip: Option<String>,
    pub silent: bool,
}

/// What became of a [`Wish`].
#[derive(Debug, Clone)]
pub struct Asked {
    pub request: Pending,
    /// False when an existing request was refreshed.
    pub created: bool,
    /// Earlier requests of the device that this one replaces.
    pub superseded: Vec<(String, String)>,
    pub expires_at_ms: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Book {
    pub pending: Vec<Pending>,
    pub paired: BTreeMap<String, Paired>,
}

impl Book {
    pub fn device(&self, id: &str) -> Option<&Paired> {
        self.paired.get(id.trim())
    }

    pub fn pending_request(&self, request_id: &str, now_ms: u64) -> Option<&Pending> {
        self.pending
            .iter()
            .find(|own| own.request_id == request_id && !own.expired(now_ms))
    }

    pub fn drop_expired(&mut self, now_ms: u64) {
        self.pending.retain(|own| !own.expired(now_ms));
    }

    /// Makes a request, or refreshes the device's only one when it already covers what is asked.
    pub fn ask(&mut self, wish: Wish, now_ms: u64) -> Asked {
        self.drop_expired(now_ms);
        let is_repair = self.paired.contains_key(&wish.device_id);
        let mut own: Vec<usize> = (0..self.pending.len())
            .filter(|at| self.pending[*at].device_id == wish.device_id)
            .collect();
        if let [only] = own[..]
            && self.pending[only].covers(&wish)
        {
            let request = &mut self.pending[only];
            request.refresh(wish, is_repair, now_ms);
            let expires_at_ms = now_ms + PENDING_TTL_MS;
            return Asked {
                request: request.clone(),
                created: false,
                superseded: Vec::new(),
                expires_at_ms,
            };
        }
        own.sort_by_key(|at| std::cmp::Reverse(self.pending[*at].ts));
        let replaced: Vec<Pending> = own.iter().map(|at| self.pending[*at].clone()).collect();
        self.pending
            .retain(|request| request.device_id != wish.device_id);
        let request = Pending::replacing(&replaced, wish, is_repair, now_ms);
        self.make_room();
        self.pending.push(request.clone());
        let superseded = replaced
            .into_iter()
            .map(|old| (old.request_id, old.device_id))
            .collect();
        Asked {
            request,
            created: true,
            superseded,
            expires_at_ms: now_ms + PENDING_TTL_MS,
        }
    }

    pub fn reject(&mut self, request_id: &str, now_ms: u64) -> Option<Pending> {
        self.drop_expired(now_ms);
        let at = self
            .pending
            .iter()
            .position(|own| own.request_id == request_id)?;
        Some(self.pending.remove(at))
    }

    /// Forgets a device and its requests; returns its trimmed id.
    pub fn remove(&mut self, device_id: &str) -> Option<String> {
        let id = device_id.trim();
        self.paired.remove(id)?;
        self.pending.retain(|own| own.device_id != id);
        Some(id.to_owned())
    }

    /// Forgets older silent pairings of the same client that the newly approved `anchor` replaces.
    /// Programs with a throw-away state directory pair anew at every run, so these would pile up.
    pub fn prune_silent(
        &mut self,
        anchor: &str,
        connected: &dyn Fn(&str) -> bool,
        now_ms: u64,
    ) -> Vec<(String, Vec<String>)> {
        let Some(anchor) = self.paired.get(anchor).filter(|own| own.is_silent()) else {
            return Vec::new();
        };
        let Some(cluster) = anchor.cluster() else {
            return Vec::new();
        };
        let anchor = anchor.device_id.clone();
        let victims: Vec<(String, Vec<String>)> = self
            .paired
            .values()
            .filter(|own| {
                own.device_id != anchor
                    && own.is_silent()
                    && own.cluster().as_ref() == Some(&cluster)
                    && now_ms.saturating_sub(own.approved_at_ms) >= PRUNE_GRACE_MS
                    && !connected(&own.device_id)
            })
            .map(|own| (own.device_id.clone(), own.approved_roles()))
            .collect();
        for (id, _) in &victims {
            self.remove(id);
        }
        victims
    }

    fn make_room(&mut self) {
        if self.pending.len() >= PENDING_MAX {
            let oldest = (0..self.pending.len()).min_by_key(|at| self.pending[*at].touched_at());
            if let Some(oldest) = oldest {
                self.pending.remove(oldest);
            }
        }
    }
}

impl Pending {
    pub fn expired(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.touched_at()) > PENDING_TTL_MS
    }

    pub fn requested_roles(&self) -> Vec<String> {
        merge_roles(self.roles.as_deref(), self.role.as_deref())
    }

    pub fn requested_scopes(&self) -> Vec<String> {
        scopes::normalize(self.scopes.as_deref().unwrap_or_default())
    }

    /// As clients see it.
    pub fn public(&self) -> Value {
        let shown = Self {
            refreshed_at_ms: None,
            ..self.clone()
        };
        serde_json::to_value(shown).expect("a request is plain data")
    }

    fn touched_at(&self) -> u64 {
        self.refreshed_at_ms.unwrap_or(self.ts)
    }

    /// Whether approving this request would also give what `wish` asks.
    fn covers(&self, wish: &Wish) -> bool {
        let role = wish.role.trim();
        let held = self.requested_scopes();
        self.public_key == wish.public_key
            && self.about.browser_origin == wish.about.browser_origin
            && self.role.as_deref().map(str::trim) == Some(role)
            && self.requested_roles().iter().any(|own| own == role)
            && (same_set(&held, &scopes::normalize(&wish.scopes))
                || scopes::normalize(&wish.scopes)
                    .iter()
                    .all(|scope| scopes::allow(role, &[scope], &held)))
    }

    fn refresh(&mut self, wish: Wish, is_repair: bool, now_ms: u64) {
        let About {
            display_name,
            platform,
            device_family,
            client_id,
            client_mode,
            ..
        } = wish.about;
        self.public_key = wish.public_key;
        let about = &mut self.about;
        about.display_name = display_name.or(about.display_name.take());
        about.platform = platform.or(about.platform.take());
        about.device_family = device_family.or(about.device_family.take());
        about.client_id = client_id.or(about.client_id.take());
        about.client_mode = client_mode.or(about.client_mode.take());
        self.remote_ip = wish.remote_ip.or(self.remote_ip.take());
        self.silent = Some(self.silent == Some(true) && wish.silent);
        self.is_repair |= is_repair;
        self.refreshed_at_ms = Some(now_ms);
    }

    fn replacing(old: &[Self], wish: Wish, is_repair: bool, now_ms: u64) -> Self {
        let mut roles: Vec<String> = old.iter().flat_map(Self::requested_roles).collect();
        roles.push(wish.role.clone());
        let mut asked: Vec<String> = old
            .iter()
            .filter_map(|own| own.scopes.as_deref())
            .flatten()
            .cloned()
            .collect();
        asked.extend(wish.scopes);
        Self {
            request_id: uuid::Uuid::new_v4().to_string(),
            device_id: wish.device_id,
            public_key: wish.public_key,
            about: wish.about,
            role: Some(wish.role),
            roles: Some(scopes::unique(&roles)),
            scopes: Some(scopes::unique(&asked)),
            remote_ip: wish.remote_ip,
            silent: Some(wish.silent && old.iter().all(|own| own.silent == Some(true))),
            is_repair,
            ts: now_ms,
            refreshed_at_ms: None,
        }
    }
}

impl Paired {
    /// Roles an owner approved.
    pub fn approved_roles(&self) -> Vec<String> {
        merge_roles(self.roles.as_deref(), self.role.as_deref())
    }

    /// Approved roles that also hold a live token.
    pub fn effective_roles(&self) -> Vec<String> {
        let approved = self.approved_roles();
        let live: Vec<&str> = self
            .tokens
            .values()
            .filter(|token| token.revoked_at_ms.is_none())
            .map(|token| token.role.as_str())
            .collect();
        scopes::unique(&live)
            .into_iter()
            .filter(|role| approved.contains(role))
            .collect()
    }

    pub fn has_role(&self, role: &str) -> bool {
        self.effective_roles().iter().any(|own| own == role.trim())
    }

    /// The approved scopes: sorted and unique.
    pub fn access_scopes(&self) -> Vec<String> {
        scopes::sorted_unique(self.scopes.as_deref().unwrap_or_default())
    }

    /// The ceiling for tokens, or `None` when the row does not know one.
    pub fn baseline(&self) -> Option<Vec<String>> {
        self.scopes.as_deref().map(scopes::normalize)
    }

    pub fn has_non_operator_role(&self) -> bool {
        self.approved_roles().iter().any(|role| role != "operator")
            || self
                .tokens
                .values()
                .any(|token| token.role.trim() != "operator")
    }

    /// As clients see it: no token, no ceiling, nothing of ours. `connected` only where the original shows it.
    pub fn public(&self, connected: Option<bool>) -> Value {
        let mut shown = serde_json::to_value(self).expect("a device is plain data");
        let map = shown.as_object_mut().expect("a device is an object");
        for hidden in ["tokens", "madeBy", "learnedAtMs"] {
            map.remove(hidden);
        }
        if let Some(connected) = connected {
            map.insert("connected".into(), connected.into());
        }
        let mut tokens: Vec<&TokenEntry> = self.tokens.values().collect();
        tokens.sort_by(|a, b| a.role.cmp(&b.role));
        if !tokens.is_empty() {
            let summaries: Vec<Value> = tokens.iter().map(|token| token.summary()).collect();
            map.insert("tokens".into(), json!(summaries));
        }
        shown
    }

    fn is_silent(&self) -> bool {
        self.approved_via.as_deref() == Some("silent")
    }

    /// What tells one program's pairings from another's; `None` when it says nothing about itself.
    fn cluster(&self) -> Option<[String; 3]> {
        let lower =
            |value: &Option<String>| value.as_deref().unwrap_or_default().trim().to_lowercase();
        let about = &self.about;
        let key = [
            lower(&about.client_id),
            lower(&about.client_mode),
            lower(&about.display_name),
        ];
        key.iter().any(|part| !part.is_empty()).then_some(key)
    }
}

fn merge_roles(roles: Option<&[String]>, role: Option<&str>) -> Vec<String> {
    let mut all: Vec<&str> = roles
        .unwrap_or_default()
        .iter()
        .map(String::as_str)
        .collect();
    all.extend(role);
    scopes::unique(&all)
}

fn same_set(left: &[String], right: &[String]) -> bool {
    left.len() == right.len()
        && left.iter().collect::<HashSet<_>>() == right.iter().collect::<HashSet<_>>()
}
