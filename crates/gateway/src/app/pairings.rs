//! What devices lose: at OpenClaw, which is asked for its list, and here, where their connections end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::App;
use crate::auth::{Auth, DeviceClose};
use crate::ingress::outbound::Close;

/// How often OpenClaw's list is read. What was taken away through another door than ours is found by it alone: nobody is
/// told of that.
const EVERY: Duration = Duration::from_secs(15);
/// Losses remembered for those whose handshake was under way; many times as many as can be taken away meanwhile.
const KEPT_MAX: usize = 256;
/// How long an OpenClaw that was asked may take to do it.
const DOUBTED: Duration = Duration::from_secs(120);

/// What devices lost lately, and may be about to lose.
#[derive(Debug, Default)]
pub(super) struct Losses {
    state: Mutex<State>,
    /// OpenClaw's list is to be read now.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many there were from the start on; `kept` are the last of them.
    count: u64,
    kept: VecDeque<DeviceClose>,
    doubts: VecDeque<Doubt>,
}

/// A loss that nobody heard the end of.
#[derive(Debug)]
struct Doubt {
    close: DeviceClose,
    /// The token that it was about.
    issued_at_ms: Option<u64>,
    until: Instant,
}

impl Doubt {
    fn issued_at_ms(auth: &Auth, close: &DeviceClose) -> Option<u64> {
        auth.token_issued_at_ms(&close.device_id, close.role.as_deref()?)
    }
}

impl Losses {
    fn add(&self, close: &DeviceClose) {
        let state = &mut *self.state.lock();
        state.count += 1;
        if state.kept.len() == KEPT_MAX {
            state.kept.pop_front();
        }
        state.kept.push_back(close.clone());
    }

    fn doubt(&self, auth: &Auth, close: DeviceClose) {
        let issued_at_ms = Doubt::issued_at_ms(auth, &close);
        let state = &mut *self.state.lock();
        if state.doubts.iter().any(|doubt| doubt.close == close) {
            return;
        }
        if state.doubts.len() == KEPT_MAX {
            state.doubts.pop_front();
        }
        state.doubts.push_back(Doubt {
            close,
            issued_at_ms,
            until: Instant::now() + DOUBTED,
        });
    }

    /// Of the doubts those whose token is another one now. A pairing or a token that is gone shows on the list itself.
    fn found_out(&self, auth: &Auth) -> Vec<DeviceClose> {
        let mut found = Vec::new();
        let now = Instant::now();
        self.state.lock().doubts.retain(|doubt| {
            let is_other = Doubt::issued_at_ms(auth, &doubt.close) != doubt.issued_at_ms;
            if is_other {
                found.push(doubt.close.clone());
            }
            !is_other && doubt.until > now
        });
        found
    }

    fn count(&self) -> u64 {
        self.state.lock().count
    }

    /// Whether `device` lost something since `count`. More losses than are kept count as one of everybody's.
    fn since(&self, count: u64, device: &str, is_node: bool) -> bool {
        let State {
            count: now, kept, ..
        } = &*self.state.lock();
        let fresh = usize::try_from(now - count).unwrap_or(usize::MAX);
        fresh > kept.len()
            || kept
                .iter()
                .rev()
                .take(fresh)
                .any(|close| is_of(close, device, is_node))
    }
}

fn is_of(close: &DeviceClose, device: &str, is_node: bool) -> bool {
    let is_role = |role: &str| (role == "node") == is_node;
    close.device_id == device && close.role.as_deref().is_none_or(is_role)
}

impl App {
    /// Closes the connections of devices that lost their rights, also those that are only on their way in
    /// ([`App::keeps_rights`]).
    pub(crate) fn close_devices(&self, closes: &[DeviceClose]) {
        for close in closes {
            self.losses.add(close);
        }
        self.close_connections(closes);
    }

    /// As [`App::close_devices`], for what a connect itself replaces: whoever connects meanwhile may stay.
    pub(crate) fn close_connections(&self, closes: &[DeviceClose]) {
        for close in closes {
            self.hub.close_if(
                &Close::new(DeviceClose::CODE, DeviceClose::TEXT),
                |subscriber| {
                    let device = subscriber.device_id.as_deref();
                    device.is_some_and(|device| is_of(close, device, subscriber.is_node))
                },
            );
        }
    }

    /// To be taken before a handshake is judged, for [`App::keeps_rights`].
    pub(crate) fn losses(&self) -> u64 {
        self.losses.count()
    }

    /// Whether a device that was judged after `losses` still has what it was let in by. To be asked once its connection can
    /// be found: what is lost later closes it.
    pub(crate) fn keeps_rights(&self, losses: u64, device: Option<&str>, is_node: bool) -> bool {
        device.is_none_or(|device| !self.losses.since(losses, device, is_node))
    }

    /// Learns the devices that are paired with the upstream: public keys and scopes, no tokens. Soon, and once for all who ask
    /// meanwhile.
    pub(crate) fn import_pairings(&self) {
        self.losses.wanted.notify_one();
    }

    /// Somebody asked OpenClaw to take something away and left before the answer: its lists tell what became of it.
    pub(crate) fn find_out(&self, close: DeviceClose) {
        self.losses.doubt(&self.auth, close);
        self.import_pairings();
    }

    async fn import(&self) -> Result<(), String> {
        let is_there = |ready: &crate::bridge::Ready| ready.device.is_some();
        if self.upstream.borrow().ready().is_some_and(is_there) {
            // Who may come to another machine may not come to this one for that.
            return Ok(());
        }
        let listed_at_ms = crate::clock::now_ms();
        let list = self
            .control
            .call("device.pair.list", serde_json::json!({}))
            .await?;
        let imported = serde_json::from_str(&list)
            .map_err(|error| error.to_string())
            .and_then(|list| {
                self.auth
                    .import_paired(&list, listed_at_ms)
                    .map_err(|error| error.to_string())
            });
        match imported {
            Ok(imported) => {
                tracing::debug!(?imported, "imported pairings");
                self.close_devices(&imported.lost);
                self.close_devices(&self.losses.found_out(&self.auth));
            }
            Err(error) => tracing::error!(error, "cannot keep the devices paired with OpenClaw"),
        }
        Ok(())
    }
}

/// Reads the list now and then, as long as there is somebody to ask.
pub(super) async fn keep(app: Arc<App>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let is_wanted = tokio::select! {
            () = app.losses.wanted.notified() => true,
            _ = every.tick() => false,
        };
        if app.upstream.borrow().ready().is_none() {
            continue;
        }
        match app.import().await {
            Err(error) if is_wanted => {
                tracing::warn!(error, "cannot list the devices paired with OpenClaw");
            }
            Err(error) => tracing::debug!(error, "cannot list the devices paired with OpenClaw"),
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(device: &str, role: Option<&str>) -> DeviceClose {
        DeviceClose {
            device_id: device.to_owned(),
            role: role.map(str::to_owned),
            reason: "device-pair-removed",
        }
    }

    #[test]
    fn what_is_lost_during_a_handshake_counts_and_what_was_lost_before_does_not() {
        let losses = Losses::default();
        losses.add(&close("a", None));
        let begun = losses.count();
        assert!(!losses.since(begun, "a", false));
        losses.add(&close("b", Some("node")));
        assert!(!losses.since(begun, "b", false), "another role");
        assert!(losses.since(begun, "b", true));
        losses.add(&close("a", None));
        assert!(losses.since(begun, "a", false));
        assert!(!losses.since(begun, "c", false));
    }

    #[test]
    fn more_losses_than_are_kept_are_everybodys() {
        let losses = Losses::default();
        let begun = losses.count();
        for _ in 0..KEPT_MAX {
            losses.add(&close("a", None));
        }
        assert!(!losses.since(begun, "b", false));
        losses.add(&close("a", None));
        assert!(losses.since(begun, "b", false));
    }
}
