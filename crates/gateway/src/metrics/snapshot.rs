//! What is known elsewhere than in the counters, read at once when somebody asks for metrics.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use store::Waiting;

use crate::app::App;
use crate::bridge::process::Vitals;
use crate::messages::{Messages, WEBCHAT};
use crate::procfs;
use crate::rollout::guard::Report;

/// Read files and the message store: not on a thread that serves.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Of this process; also in `system.info` and hellos.
    pub(crate) instance_id: String,
    /// Of the Control UI that is served.
    pub(crate) build_id: Option<String>,
    pub(crate) started_seconds: f64,
    pub(crate) uptime_seconds: u64,
    pub(crate) own: procfs::Own,
    /// In use by the allocator, bytes.
    pub(crate) heap_bytes: u64,
    pub(crate) connections: u64,
    pub(crate) refused_connects: u64,
    pub(crate) reloads_applied: u64,
    pub(crate) reloads_refused: u64,
    /// What embedding services were asked for memories, and what they say that it cost.
    pub(crate) embedding: memory::Usage,
    pub(crate) percent: u8,
    /// What shadow comparisons gave, in words.
    pub(crate) shadow: [(&'static str, u64); 3],
    /// The same of rows that move with the percent: equal and different.
    pub(crate) shadow_moving: [u64; 2],
    pub(crate) guard: Report,
    /// By [`crate::rollout::window::Signal::ALL`].
    pub(crate) guard_trips: [u64; 4],
    pub(crate) effective: u8,
    pub(crate) upstream: Upstream,
    pub(crate) messages: Option<MessageFacts>,
    pub(crate) media: crate::messages::api::media::Counts,
}

#[derive(Debug, Default)]
pub(crate) struct Upstream {
    /// One of [`crate::bridge::UpstreamState::WORDS`].
    pub(crate) state: &'static str,
    pub(crate) epoch: u64,
    pub(crate) tree: procfs::Tree,
    /// What the supervisor has done; zeros without one.
    pub(crate) vitals: Vitals,
}

#[derive(Debug, Default)]
pub(crate) struct MessageFacts {
    pub(crate) healthy: bool,
    pub(crate) commits: u64,
    /// Channels that have a series: configured ones, and those with messages.
    pub(crate) channels: BTreeSet<String>,
    /// Channel, what, how many.
    pub(crate) counters: Vec<(String, String, i64)>,
    pub(crate) outbound: Vec<Waiting>,
    /// Channel, rows, when the oldest came.
    pub(crate) inbound: Vec<(String, i64, i64)>,
    pub(crate) now_ms: i64,
}

impl Snapshot {
    pub(crate) fn take(app: &App) -> Self {
        let state = app.upstream.borrow().clone();
        let child = app.supervisor();
        let vitals = child.map(|child| child.vitals()).unwrap_or_default();
        let pid = vitals
            .pid
            .or_else(|| state.ready().and_then(|ready| ready.pid));
        Self {
            instance_id: app.boot_id.clone(),
            build_id: app.auth.settings().build_id.clone(),
            started_seconds: app.started_ms as f64 / 1000.0,
            uptime_seconds: app.uptime_ms() / 1000,
            own: procfs::Own::read(),
            heap_bytes: crate::app::heap::in_use(),
            connections: app.hub.len() as u64,
            refused_connects: app.auth.refused(),
            reloads_applied: app.reloads.applied.load(Ordering::Relaxed),
            reloads_refused: app.reloads.refused.load(Ordering::Relaxed),
            embedding: app.memories.usage(),
            percent: app.settings.load().rollout_percent,
            shadow: [
                ("equal", app.shadow.equal.load(Ordering::Relaxed)),
                ("different", app.shadow.different.load(Ordering::Relaxed)),
                ("skipped", app.shadow.skipped.load(Ordering::Relaxed)),
            ],
            shadow_moving: [&app.shadow.moving_equal, &app.shadow.moving_different]
                .map(|counter| counter.load(Ordering::Relaxed)),
            guard: app.guard.report(),
            guard_trips: app.guard.trips(),
            effective: crate::rollout::effective(app),
            upstream: Upstream {
                state: state.word(),
                epoch: state.ready().map_or(0, |ready| ready.epoch),
                tree: pid.and_then(procfs::tree).unwrap_or_default(),
                vitals,
            },
            messages: app.messages().map(|messages| MessageFacts::read(messages)),
            media: app.media.counts(),
        }
    }
}

impl MessageFacts {
    pub(crate) fn read(messages: &Messages) -> Self {
        let read = messages.store.read_now(|reader| {
            Ok((
                reader.history().counters()?,
                reader.outbox().waiting()?,
                reader.inbox().waiting()?,
            ))
        });
        let healthy = messages.outage().is_none() && read.is_ok();
        let (counters, outbound, inbound) = read.unwrap_or_default();
        let accounts = messages.accounts.load();
        let mut channels: BTreeSet<String> =
            accounts.all().keys().map(|key| key.0.clone()).collect();
        channels.insert(WEBCHAT.to_owned());
        channels.extend(counters.iter().map(|(channel, ..)| channel.clone()));
        channels.extend(outbound.iter().map(|waiting| waiting.channel.clone()));
        channels.extend(inbound.iter().map(|(channel, ..)| channel.clone()));
        Self {
            healthy,
            commits: messages.store.commits(),
            channels,
            counters,
            outbound,
            inbound,
            now_ms: crate::messages::now_ms(),
        }
    }
}
