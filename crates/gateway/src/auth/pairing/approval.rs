//! Turning a request into a paired device, within what the approver holds.
//!
//! Source: src/infra/device-pairing-approval.kernel.ts at 2026.9.6.

use super::tokens::Mint;
use super::{About, Book, MadeBy, PAIRED_MAX, Paired, Pending};
use crate::auth::scopes;

/// Who approves, and what is known about the device right now.
#[derive(Debug, Clone)]
pub struct Approver<'a> {
    pub scopes: &'a [String],
    pub via: &'static str,
    /// Set for a device that is connecting at this moment.
    pub seen: Option<Seen>,
    /// Replaces the requested scopes (trusted-proxy auto-approval only).
    pub grant: Option<&'a [String]>,
    pub made_by: MadeBy,
}

#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub display_name: Option<String>,
    pub remote_ip: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forbidden {
    ScopeOutsideRoles(String),
    CallerLacks(String),
    TooManyDevices,
}

impl Forbidden {
    /// The text clients see.
    pub fn message(&self) -> String {
        match self {
            Self::ScopeOutsideRoles(scope) => format!("invalid scope for requested roles: {scope}"),
            Self::CallerLacks(scope) => format!("missing scope: {scope}"),
            Self::TooManyDevices => format!(
                "{PAIRED_MAX} devices are paired, the most this gateway keeps; remove one with \
                 `openclaw devices remove <deviceId>`"
            ),
        }
    }
}

impl Book {
    /// Approves a request. `Ok(None)`: there is no such request, or it may not be approved this way.
    ///
    /// # Errors
    /// [`Forbidden`] when the approver lacks a scope that the device would get; nothing changes then.
    pub fn approve(
        &mut self,
        mint: Mint<'_>,
        request_id: &str,
        by: &Approver<'_>,
        now_ms: u64,
    ) -> Result<Option<Paired>, Forbidden> {
        self.drop_expired(now_ms);
        let Some(at) = self
            .pending
            .iter()
            .position(|own| own.request_id == request_id)
        else {
            return Ok(None);
        };
        let mut pending = self.pending[at].clone();
        let existing = self.paired.get(&pending.device_id).cloned();
        let roles = pending.requested_roles();
        if let Some(grant) = by.grant {
            let same_key = existing
                .as_ref()
                .is_some_and(|own| own.public_key == pending.public_key);
            let fresh = !pending.is_repair && existing.is_none();
            if !(fresh || same_key) || roles != ["operator"] {
                return Ok(None);
            }
            pending.scopes = Some(grant.to_vec());
        }
        if existing.is_none() && self.paired.len() >= PAIRED_MAX {
            return Err(Forbidden::TooManyDevices);
        }
        let asked = pending.requested_scopes();
        if let Some(scope) = scopes::outside_roles(&roles, &asked) {
            return Err(Forbidden::ScopeOutsideRoles(scope.to_owned()));
        }
        let device = build(mint, pending, existing, &roles, by, now_ms)?;
        self.pending.remove(at);
        self.paired.insert(device.device_id.clone(), device.clone());
        Ok(Some(device))
    }
}

fn build(
    mint: Mint<'_>,
    pending: Pending,
    existing: Option<Paired>,
    roles: &[String],
    by: &Approver<'_>,
    now_ms: u64,
) -> Result<Paired, Forbidden> {
    let baseline = existing.as_ref().and_then(|own| own.scopes.clone());
    let approved = merge(baseline.as_deref(), pending.scopes.as_deref());
    let mut tokens = existing
        .as_ref()
        .map(|own| own.tokens.clone())
        .unwrap_or_default();
    for role in roles {
        let current = tokens.get(role);
        let granted = token_scopes(
            role,
            &pending,
            current.map(|own| own.scopes.as_slice()),
            &approved,
            &baseline,
        );
        if role == "operator" && !granted.is_empty() {
            let mut needed = scopes::of_role(role, pending.scopes.as_deref().unwrap_or_default());
            needed.extend(granted.iter().cloned());
            if let Some(missing) = scopes::first_missing(role, &scopes::unique(&needed), by.scopes)
            {
                return Err(Forbidden::CallerLacks(missing.to_owned()));
            }
        }
        let issuer = current.and_then(|own| own.issuer.clone());
        let (entry, _) = mint.make(&pending.device_id, role, granted, current, issuer, now_ms);
        tokens.insert(role.clone(), entry);
    }
    let mut all_roles = existing
        .as_ref()
        .map(Paired::approved_roles)
        .unwrap_or_default();
    all_roles.extend(roles.iter().cloned());
    let seen = by.seen.clone();
    let previous = existing.as_ref();
    Ok(Paired {
        device_id: pending.device_id,
        public_key: pending.public_key,
        operator_label: previous.and_then(|own| own.operator_label.clone()),
        about: About {
            display_name: seen
                .as_ref()
                .and_then(|seen| seen.display_name.clone())
                .or(pending.about.display_name),
            ..pending.about
        },
        role: pending.role,
        roles: Some(scopes::unique(&all_roles)),
        scopes: approved,
        remote_ip: seen
            .as_ref()
            .and_then(|seen| seen.remote_ip.clone())
            .or(pending.remote_ip),
        tokens,
        approved_via: approved_via(previous, by.via),
        created_at_ms: previous.map_or(now_ms, |own| own.created_at_ms),
        approved_at_ms: now_ms,
        last_seen_at_ms: if seen.is_some() {
            Some(now_ms)
        } else {
            previous.and_then(|own| own.last_seen_at_ms)
        },
        last_seen_reason: match &seen {
            Some(_) => Some("connect".to_owned()),
            None => previous.and_then(|own| own.last_seen_reason.clone()),
        },
        made_by: by.made_by,
        learned_at_ms: now_ms,
    })
}

/// An owner's word outlives any later automatic approval.
fn approved_via(existing: Option<&Paired>, incoming: &str) -> Option<String> {
    match existing {
        None => Some(incoming.to_owned()),
        Some(_) if incoming == "owner" => Some(incoming.to_owned()),
        Some(own) => match own.approved_via.as_deref() {
            None => None,
            Some(kept @ ("owner" | "bootstrap")) => Some(kept.to_owned()),
            Some(_) => Some(incoming.to_owned()),
        },
    }
}

fn token_scopes(
    role: &str,
    pending: &Pending,
    current: Option<&[String]>,
    approved: &Option<Vec<String>>,
    baseline: &Option<Vec<String>>,
) -> Vec<String> {
    let asked = scopes::of_role(role, pending.scopes.as_deref().unwrap_or_default());
    if asked.is_empty() {
        let held = current.or(approved.as_deref()).or(baseline.as_deref());
        return scopes::of_role(role, held.unwrap_or_default());
    }
    let known = scopes::of_role(role, baseline.as_deref().unwrap_or_default());
    let added: Vec<String> = match current {
        Some(_) if !known.is_empty() => asked
            .into_iter()
            .filter(|scope| !known.contains(scope))
            .collect(),
        _ => asked,
    };
    let mut held = current.unwrap_or_default().to_vec();
    held.extend(added);
    scopes::of_role(role, &held)
}

/// Union, first seen first; `None` only when neither list is there.
fn merge(left: Option<&[String]>, right: Option<&[String]>) -> Option<Vec<String>> {
    if left.is_none() && right.is_none() {
        return None;
    }
    let all: Vec<&String> = left.into_iter().chain(right).flatten().collect();
    Some(scopes::unique(
        &all.iter().map(|scope| scope.as_str()).collect::<Vec<_>>(),
    ))
}
