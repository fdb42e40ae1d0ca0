//! Commands that wait for a person: who may see them, who answered what, until when.
//!
//! Kept in memory, as the command that waits is. Source of the answers: src/gateway/server-methods/exec-approval.ts,
//! approval-shared.ts and approval-record-lookup.ts at 2026.9.6.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use wire::error::ErrorShape;

use crate::clock;

/// How long an answer is waited for. Source: DEFAULT_EXEC_APPROVAL_TIMEOUT_MS.
pub(super) const PATIENCE: Duration = Duration::from_millis(1_800_000);
/// How long one that was answered can still be asked about.
const REMEMBERED_MS: u64 = 15_000;
/// Commands that wait at once; one more is refused.
const WAITING_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    AllowOnce,
    AllowAlways,
    Deny,
}

impl Decision {
    pub(super) fn of(word: &str) -> Option<Self> {
        match word {
            "allow-once" => Some(Self::AllowOnce),
            "allow-always" => Some(Self::AllowAlways),
            "deny" => Some(Self::Deny),
            _ => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::AllowOnce => "allow-once",
            Self::AllowAlways => "allow-always",
            Self::Deny => "deny",
        }
    }
}

/// How the waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// `None`: nobody decided.
    pub(super) decision: Option<Decision>,
    pub(super) reason: &'static str,
    ended_ms: u64,
}

/// A client as far as approvals concern it.
#[derive(Debug, Clone)]
pub(super) struct Viewer {
    pub(super) conn_id: String,
    pub(super) device_id: Option<String>,
    pub(super) is_admin: bool,
}

/// One command that waits or waited.
#[derive(Debug)]
pub(super) struct Approval {
    pub(super) id: String,
    /// What people are shown.
    pub(super) request: Value,
    pub(super) created_ms: u64,
    pub(super) expires_ms: u64,
    /// The client that asked; `None`: a turn of ours.
    requester: Option<Viewer>,
    end: watch::Sender<Option<End>>,
}

impl Approval {
    pub(super) fn end(&self) -> Option<End> {
        *self.end.borrow()
    }

    /// Resolves when it was decided or nobody will.
    pub(super) async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await.map(|end| *end);
        match ended {
            Ok(Some(end)) => end,
            // The sender lives as long as this.
            _ => unreachable!("an approval outlives who waits for it"),
        }
    }

    /// Ends it, once; `tell` before those who wait for it go on. `false`: it had ended.
    fn settle(
        &self,
        decision: Option<Decision>,
        reason: &'static str,
        tell: impl FnOnce(),
    ) -> bool {
        self.end.send_if_modified(|end| {
            let is_first = end.is_none();
            if is_first {
                tell();
                *end = Some(End {
                    decision,
                    reason,
                    ended_ms: clock::now_ms(),
                });
            }
            is_first
        })
    }

    pub(super) fn is_visible_to(&self, viewer: &Viewer) -> bool {
        if viewer.is_admin {
            return true;
        }
        match &self.requester {
            None => true,
            Some(Viewer {
                device_id: Some(device),
                ..
            }) => viewer.device_id.as_ref() == Some(device),
            Some(requester) => requester.conn_id == viewer.conn_id,
        }
    }

    pub(super) fn allows(&self, decision: Decision) -> bool {
        let mut allowed = self.request["allowedDecisions"]
            .as_array()
            .into_iter()
            .flatten();
        allowed.any(|allowed| allowed == decision.as_str())
    }

    /// `exec.approval.requested`.
    pub(super) fn event(&self) -> Value {
        json!({
            "approvalKind": "exec", "id": self.id, "request": self.request,
            "createdAtMs": self.created_ms, "expiresAtMs": self.expires_ms,
        })
    }

    /// The answer of those who waited for a decision.
    pub(super) fn waited(&self, end: End) -> Value {
        json!({
            "id": self.id, "decision": end.decision.map(Decision::as_str),
            "createdAtMs": self.created_ms, "expiresAtMs": self.expires_ms, "terminalReason": end.reason,
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Approvals {
    all: Mutex<HashMap<String, Arc<Approval>>>,
}

impl Approvals {
    /// # Errors
    /// The original's words about an id that can't be used.
    pub(super) fn register(
        self: &Arc<Self>,
        request: Value,
        id: Option<&str>,
        patience: Duration,
        requester: Option<Viewer>,
    ) -> Result<Arc<Approval>, ErrorShape> {
        let id = match id.filter(|id| !id.is_empty()) {
            None => uuid::Uuid::new_v4().to_string(),
            Some(id) => {
                let is_fine = id.len() <= 128
                    && !matches!(id, "." | "..")
                    && id
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte));
                if !is_fine {
                    return Err(ErrorShape::invalid_request("approval id must be 1-128 characters using only letters, numbers, '.', '_', ':', or '-', and cannot be '.' or '..'")
                        .with_details(json!({ "code": "EXEC_APPROVAL_ID_INVALID", "reason": "INVALID_APPROVAL_ID" })));
                }
                id.to_owned()
            }
        };
        let now = clock::now_ms();
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let mut all = self.all.lock();
        forget(&mut all);
        if all.contains_key(&id) {
            return Err(ErrorShape::invalid_request("approval id already pending"));
        }
        if all
            .values()
            .filter(|approval| approval.end().is_none())
            .count()
            >= WAITING_MAX
        {
            return Err(ErrorShape::retryable(
                format!("{WAITING_MAX} commands wait for approval already"),
                None,
            ));
        }
        let approval = Arc::new(Approval {
            id: id.clone(),
            request,
            created_ms: now,
            expires_ms: now.saturating_add(patience_ms),
            requester,
            end: watch::Sender::new(None),
        });
        all.insert(id, Arc::clone(&approval));
        let waits = Arc::clone(&approval);
        tokio::spawn(async move {
            if tokio::time::timeout(patience, waits.ended()).await.is_err() {
                waits.settle(None, "timeout", || {});
            }
        });
        Ok(approval)
    }

    /// Those that wait, oldest first.
    pub(super) fn waiting(&self, viewer: &Viewer) -> Vec<Arc<Approval>> {
        let mut all = self.all.lock();
        forget(&mut all);
        let mut waiting: Vec<Arc<Approval>> = all
            .values()
            .filter(|approval| approval.end().is_none() && approval.is_visible_to(viewer))
            .cloned()
            .collect();
        waiting.sort_by_key(|approval| (approval.created_ms, approval.id.clone()));
        waiting
    }

    /// By its id, or the beginning of it that only one has.
    fn find(
        &self,
        asked: &str,
        viewer: &Viewer,
        with_ended: bool,
    ) -> Result<Arc<Approval>, ErrorShape> {
        let mut all = self.all.lock();
        forget(&mut all);
        let asked = asked.trim();
        let is_meant = |approval: &Approval| {
            approval.is_visible_to(viewer) && (with_ended || approval.end().is_none())
        };
        if let Some(exact) = all.get(asked) {
            return match is_meant(exact) {
                true => Ok(Arc::clone(exact)),
                false => Err(unknown()),
            };
        }
        let start = asked.to_lowercase();
        let begun = |id: &str| !start.is_empty() && id.to_lowercase().starts_with(&start);
        let mut found = all
            .values()
            .filter(|approval| begun(&approval.id) && is_meant(approval));
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(Arc::clone(only)),
            (Some(_), Some(_)) => Err(ErrorShape::invalid_request(
                "ambiguous approval id prefix; use the full id",
            )),
            (None, _) => Err(unknown()),
        }
    }

    /// One that waits.
    ///
    /// # Errors
    /// None of this id waits, or several could be meant.
    pub(super) fn get(&self, asked: &str, viewer: &Viewer) -> Result<Arc<Approval>, ErrorShape> {
        self.find(asked, viewer, false)
    }

    /// One to wait for, by its whole id.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn await_of(
        &self,
        asked: &str,
        viewer: &Viewer,
    ) -> Result<Arc<Approval>, ErrorShape> {
        if asked.trim().is_empty() {
            return Err(ErrorShape::invalid_request("id is required"));
        }
        let mut all = self.all.lock();
        forget(&mut all);
        all.get(asked.trim())
            .filter(|approval| approval.is_visible_to(viewer))
            .cloned()
            .ok_or_else(|| ErrorShape::invalid_request("approval expired or not found"))
    }

    /// Decides; the first word counts, and is told by `tell`. `false`: it had been decided so.
    ///
    /// # Errors
    /// It is not there, was decided otherwise, or can't be decided so.
    pub(super) fn resolve(
        &self,
        asked: &str,
        decision: Decision,
        viewer: &Viewer,
        tell: impl FnOnce(&Approval),
    ) -> Result<bool, ErrorShape> {
        let waiting = match self.find(asked, viewer, false) {
            Ok(waiting) => waiting,
            Err(why) => {
                let ended = self.find(asked, viewer, true).map_err(|_as_before| why)?;
                return repeated(&ended, decision);
            }
        };
        if !waiting.allows(decision) {
            return Err(ErrorShape::invalid_request(
                "allow-always is unavailable for this command",
            )
            .with_details(json!({ "reason": "APPROVAL_ALLOW_ALWAYS_UNAVAILABLE" })));
        }
        match waiting.settle(Some(decision), "user", || tell(&waiting)) {
            true => Ok(true),
            false => repeated(&waiting, decision),
        }
    }

    /// Nobody is there to decide, or nobody waits any more.
    pub(super) fn close(&self, approval: &Approval, reason: &'static str) -> bool {
        approval.settle(None, reason, || {})
    }
}

fn repeated(ended: &Approval, decision: Decision) -> Result<bool, ErrorShape> {
    match ended.end().and_then(|end| end.decision) == Some(decision) {
        true => Ok(false),
        false => Err(ErrorShape::invalid_request("approval already resolved")
            .with_details(json!({ "reason": "APPROVAL_ALREADY_RESOLVED" }))),
    }
}

fn forget(all: &mut HashMap<String, Arc<Approval>>) {
    let now = clock::now_ms();
    all.retain(|_, approval| {
        approval
            .end()
            .is_none_or(|end| now.saturating_sub(end.ended_ms) < REMEMBERED_MS)
    });
}

fn unknown() -> ErrorShape {
    ErrorShape::invalid_request("unknown or expired approval id").with_details(json!({
        "reason": "APPROVAL_NOT_FOUND",
        "remediation": "Re-request the action; pending approvals are cleared after expiry or restart.",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer(conn: &str, is_admin: bool) -> Viewer {
        Viewer {
            conn_id: conn.to_owned(),
            device_id: None,
            is_admin,
        }
    }

    fn request() -> Value {
        json!({ "command": "x", "allowedDecisions": ["allow-once", "deny"] })
    }

    #[tokio::test]
    async fn the_first_word_counts() {
        let approvals = Arc::new(Approvals::default());
        let one = approvals
            .register(request(), Some("abc-1"), PATIENCE, None)
            .expect("registered");
        approvals
            .register(request(), Some("abd-2"), PATIENCE, None)
            .expect("registered");
        let who = viewer("c", false);
        assert!(
            approvals
                .register(request(), Some("abc-1"), PATIENCE, None)
                .is_err()
        );
        assert!(
            approvals
                .register(request(), Some("a b"), PATIENCE, None)
                .is_err()
        );
        assert!(
            approvals
                .get("ab", &who)
                .expect_err("two")
                .message
                .contains("ambiguous")
        );
        assert_eq!(approvals.get("ABC", &who).expect("one").id, "abc-1");
        let refused = approvals
            .resolve("abc", Decision::AllowAlways, &who, |_| {})
            .expect_err("refused");
        assert!(refused.message.contains("allow-always is unavailable"));
        assert!(
            approvals
                .resolve("abc", Decision::AllowOnce, &who, |_| {})
                .expect("resolved")
        );
        assert_eq!(one.ended().await.decision, Some(Decision::AllowOnce));
        assert!(
            !approvals
                .resolve("abc-1", Decision::AllowOnce, &who, |_| {})
                .expect("again")
        );
        let other = approvals
            .resolve("abc-1", Decision::Deny, &who, |_| {})
            .expect_err("another");
        assert_eq!(other.message, "approval already resolved");
        assert!(approvals.get("abc-1", &who).is_err());
        assert!(approvals.await_of("abc-1", &who).is_ok());
        assert_eq!(approvals.waiting(&who).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_s_answer_is_told_in_time() {
        let approvals = Arc::new(Approvals::default());
        let one = approvals
            .register(request(), None, PATIENCE, None)
            .expect("registered");
        let end = one.ended().await;
        assert_eq!((end.decision, end.reason), (None, "timeout"));
        assert!(
            approvals
                .resolve(&one.id, Decision::AllowOnce, &viewer("c", true), |_| {})
                .is_err(),
            "too late"
        );
    }

    #[tokio::test]
    async fn what_a_client_asked_for_others_do_not_see() {
        let approvals = Arc::new(Approvals::default());
        let own = viewer("own", false);
        approvals
            .register(request(), Some("x"), PATIENCE, Some(own.clone()))
            .expect("registered");
        assert!(
            approvals.get("x", &own).is_ok() && approvals.get("x", &viewer("admin", true)).is_ok()
        );
        assert!(approvals.get("x", &viewer("other", false)).is_err());
        assert!(approvals.waiting(&viewer("other", false)).is_empty());
    }
}
