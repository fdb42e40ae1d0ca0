//! Calls that come while the child is replaced: they wait for the next one, bounded in number, bytes and time.
//!
//! What nobody has had may wait whatever it does. What the child refuses because it was asked to stop was not begun, and waits too;
//! what it had and did not answer is as after a crash.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use client::socket::Writer;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use wire::websocket::Opcode;

use super::{Identity, Pending, REPEAT_WITHIN, Task, UpCall, ready_known};
use crate::app::App;
use crate::bridge::{process, unavailable};

/// Bytes of calls of all clients that wait.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Pause between looks at calls that are held while the socket still works.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Room for [`HELD_BYTES_MAX`], of all clients.
pub(crate) fn held_room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(HELD_BYTES_MAX))
}

/// The time between two children of ours, when the first was stopped on purpose.
pub(super) struct Gap {
    child: Option<process::Handle>,
    longest: Duration,
    room: Arc<Semaphore>,
}

impl Gap {
    pub(super) fn of(app: &App) -> Self {
        Self {
            child: app.supervisor().cloned(),
            longest: app.settings.load().upstream_hold,
            room: Arc::clone(&app.held_room),
        }
    }

    /// Whether there can be one.
    pub(super) fn may_open(&self) -> bool {
        self.child.is_some() && !self.longest.is_zero()
    }

    pub(super) fn is_open(&self) -> bool {
        self.child
            .as_ref()
            .is_some_and(process::Handle::is_replacing)
    }

    /// Somebody waits: a child that goes to sleep is started again.
    fn wake(&self, is_awaited: bool) {
        if let Some(child) = self.child.as_ref().filter(|_| is_awaited) {
            child.wake();
        }
    }

    const fn longest(&self) -> Duration {
        self.longest
    }

    /// Room for a frame; `None`: it can't wait.
    pub(super) fn hold(&self, frame: &str) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(frame.len()).ok()?;
        if self.longest().is_zero() {
            return None;
        }
        Arc::clone(&self.room).try_acquire_many_owned(bytes).ok()
    }
}

impl Task {
    /// Room for a call that comes while the child goes or is away: nobody has had it, so it may wait whatever it does. A child that
    /// is asked to stop refuses all, and what reaches it last is lost with it.
    pub(super) fn room_in_gap(&self, call: &UpCall) -> Option<OwnedSemaphorePermit> {
        let may_wait = matches!(self.identity, Identity::Backend { .. })
            && self.gap.is_open()
            && self.has_room_for(call);
        let held = may_wait.then(|| self.gap.hold(&call.frame)).flatten();
        self.gap.wake(held.is_some());
        held
    }

    /// Puts what waits for an upstream that takes it on its way.
    pub(super) fn send_waiting(&mut self, writer: &mut Writer) {
        let mut waiting: Vec<&Pending> = self.pending.values().filter(|c| c.may_go()).collect();
        feed(&mut waiting, writer);
        self.release();
    }

    fn release(&mut self) {
        for call in self.pending.values_mut() {
            call.held = None;
        }
        self.held = 0;
    }

    /// Whether a refusal says that nothing was begun since the child is going, and the call now waits for the next one.
    /// Source: a 2026.9.6 that was asked to suspend, and to end.
    pub(super) fn hold(&mut self, id: &str, error: Option<&RawValue>) -> bool {
        if !self.gap.is_open() || matches!(self.identity, Identity::Relayed) {
            return false;
        }
        let Some(call) = self.pending.get_mut(id) else {
            return false;
        };
        if call.held.is_some() || !error.is_some_and(is_suspending) {
            return false;
        }
        call.held = call.frame.as_ref().and_then(|frame| self.gap.hold(frame));
        call.since = Instant::now();
        let is_held = call.held.is_some();
        self.held += usize::from(is_held);
        self.gap.wake(is_held);
        is_held
    }

    /// Calls that are held while the socket works: overdue, or the child stayed after all.
    pub(super) async fn look_at_held(&mut self, writer: &mut Writer) -> io::Result<()> {
        if self.gap.is_open() {
            self.fail_overdue(true);
            return Ok(());
        }
        let held = self.pending.values().filter(|call| call.held.is_some());
        feed(&mut held.collect(), writer);
        self.release();
        writer.flush().await
    }

    /// Answers what has waited too long. While the socket works, of those that are held alone: the upstream may still answer the others.
    pub(super) fn fail_overdue(&mut self, held_alone: bool) {
        let refuser = self.refuser();
        let longest = self.gap.longest();
        let within = match self.gap.is_open() {
            true => longest.max(REPEAT_WITHIN),
            false => REPEAT_WITHIN,
        };
        // One that failed to come is not waited for.
        let may_come = self.gap.is_open() || ready_known(&self.upstream);
        let (mut released, mut held) = (0, 0);
        self.pending.retain(|id, call| {
            let keep = match call.held {
                Some(_) => may_come && call.since.elapsed() < longest,
                None => held_alone || call.since.elapsed() < within,
            };
            if !keep {
                released += call.frame.as_ref().map_or(0, String::len);
                refuser.refuse(id, call.timing, &unavailable(&call.method));
            }
            held += usize::from(keep && call.held.is_some());
            keep
        });
        self.held = held;
        self.repeatable_bytes -= released;
    }
}

/// In the order in which they came.
fn feed(calls: &mut Vec<&Pending>, writer: &mut Writer) {
    calls.sort_by_key(|call| call.since);
    for frame in calls.iter().filter_map(|call| call.frame.as_ref()) {
        writer.feed(Opcode::Text, frame.as_bytes());
    }
}

/// Whether an error object says that the upstream takes nothing new because it was asked to stop.
fn is_suspending(error: &RawValue) -> bool {
    #[derive(serde::Deserialize)]
    struct Refusal<'a> {
        #[serde(borrow)]
        details: Option<Reason<'a>>,
    }
    #[derive(serde::Deserialize)]
    struct Reason<'a> {
        #[serde(borrow)]
        reason: Option<std::borrow::Cow<'a, str>>,
    }
    serde_json::from_str::<Refusal<'_>>(error.get()).is_ok_and(|error| {
        error
            .details
            .and_then(|details| details.reason)
            .is_some_and(|reason| matches!(&*reason, "gateway-suspending" | "gateway-restarting"))
    })
}
