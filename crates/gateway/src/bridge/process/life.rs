//! What is known of a gateway by probing it: getting ready, ready, lost, ready again. Shared by `supervise` and `attach`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::probe::{self, Health};
use super::{Hints, Times};
use crate::bridge::remote::Device;
use crate::bridge::{Ready, Secret, UpstreamState};

/// Pause between probes while it is not ready. A refused connection costs microseconds.
const PROBE_WAITING: Duration = Duration::from_millis(100);
const PROBE_WAITING_THERE: Duration = Duration::from_secs(2);
/// Pause between probes while it is ready: links notice a crash at once, these notice a hang.
const PROBE_READY: Duration = Duration::from_secs(5);
/// Both ends count whole milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);
/// For this long after a link lost its socket, probes come fast: a restart closes sockets before the listener.
const SUSPICION: Duration = Duration::from_secs(3);
/// A busy event loop misses some probes, of two seconds each: while it begins its first run, on a machine that does something
/// else as well, for five seconds and more. Missing this many in a row is a hang. What is asked meanwhile waits, as it would
/// without us; after a hang is noticed it is refused.
const SILENT_PROBES_MAX: u32 = 6;

/// One gateway, as long as its process lives (`supervise`) or for ever (`attach`).
#[derive(Debug)]
pub(crate) struct Life {
    address: SocketAddr,
    token: Secret,
    pid: Option<u32>,
    epoch: u64,
    phase: Phase,
    uptime_ms: Option<u64>,
    /// The latest moment at which this run can have begun, by the last answer that nobody doubted.
    begun_by: Option<Instant>,
    /// When the last question was asked.
    asked: Instant,
    silent_probes: u32,
    suspicious_until: Option<Instant>,
    last: Option<Instant>,
    device: Option<Arc<Device>>,
}

#[derive(Debug)]
enum Phase {
    /// Not ready since then; `why` is the last probe's word.
    Waiting {
        since: Instant,
        silent_since: Option<Instant>,
        why: String,
    },
    Ready(Ready),
}

impl Life {
    /// `epoch` is that of the life before: the first readiness gets the next one.
    pub(crate) fn new(address: SocketAddr, token: Secret, pid: Option<u32>, epoch: u64) -> Self {
        Self {
            address,
            token,
            pid,
            epoch,
            phase: Phase::Waiting {
                since: Instant::now(),
                silent_since: None,
                why: "starting".to_owned(),
            },
            uptime_ms: None,
            begun_by: None,
            asked: Instant::now(),
            silent_probes: 0,
            suspicious_until: None,
            last: None,
            device: None,
        }
    }

    /// For a gateway on another machine.
    pub(crate) fn with_device(mut self, device: Option<Arc<Device>>) -> Self {
        self.device = device;
        self
    }

    pub(crate) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) const fn ready(&self) -> Option<&Ready> {
        match &self.phase {
            Phase::Ready(ready) => Some(ready),
            Phase::Waiting { .. } => None,
        }
    }

    /// What the last probe said while it is not ready.
    pub(crate) fn waiting_for(&self) -> Option<&str> {
        match &self.phase {
            Phase::Waiting { why, .. } => Some(why),
            Phase::Ready(_) => None,
        }
    }

    /// Why waiting longer makes no sense, if it does not.
    pub(crate) fn hopeless(&self, times: &Times) -> Option<String> {
        let Phase::Waiting {
            since,
            silent_since,
            why,
        } = &self.phase
        else {
            return None;
        };
        if self.epoch > 0 && silent_since.is_some_and(|silent| silent.elapsed() >= times.silent) {
            return Some(format!(
                "openclaw has not answered for {} s ({why})",
                times.silent.as_secs()
            ));
        }
        (since.elapsed() >= times.start).then(|| {
            format!(
                "openclaw was not ready within {} s ({why})",
                times.start.as_secs()
            )
        })
    }

    /// Waits for the next moment to look, looks, and answers the new state if it changed. Cancel-safe: a probe that is
    /// given up is made again.
    pub(crate) async fn next(&mut self, hints: &Hints) -> Option<UpstreamState> {
        let now = Instant::now();
        let pause = match &self.phase {
            Phase::Ready(_) if self.suspicious_until.is_none_or(|until| now >= until) => {
                PROBE_READY
            }
            // Each is a connection of its own to another machine.
            _ if self.device.is_some() => PROBE_WAITING_THERE,
            _ => PROBE_WAITING,
        };
        let due = self.last.map_or(now, |last| last + pause);
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = hints.suspect.notified() => self.suspicious_until = Some(Instant::now() + SUSPICION),
        }
        let host = match &self.device {
            Some(device) => device.place.to_string(),
            None => self.address.to_string(),
        };
        self.asked = Instant::now();
        let health = probe::ready(self.address, &host).await;
        let answered = Instant::now();
        let version = match (&health, &self.phase) {
            (Health::Ready { .. }, Phase::Waiting { .. }) => {
                probe::version(self.address, &host).await
            }
            _ => None,
        };
        self.last = Some(Instant::now());
        self.learn(health, answered, version)
    }

    fn learn(
        &mut self,
        health: Health,
        answered: Instant,
        version: Option<String>,
    ) -> Option<UpstreamState> {
        match health {
            Health::Ready { uptime_ms } => {
                let same_run = self.is_same_run(uptime_ms);
                self.uptime_ms = uptime_ms;
                if !same_run || !self.is_suspicious() {
                    let uptime = uptime_ms.map(Duration::from_millis);
                    self.begun_by = uptime.and_then(|uptime| answered.checked_sub(uptime));
                }
                self.silent_probes = 0;
                match &self.phase {
                    // Without an uptime a restart shows as a refused or failing probe only.
                    Phase::Ready(_) if same_run || uptime_ms.is_none() => None,
                    Phase::Ready(before) => {
                        let version = before.version.clone();
                        Some(self.become_ready(version, true))
                    }
                    Phase::Waiting { .. } => Some(self.become_ready(version, !same_run)),
                }
            }
            // It listens and counts its own time: a person drains or suspends it, or its event loop is late. Its sockets
            // stay, so it stays ours, unless a link has just lost one.
            Health::NotReady { .. } if self.ready().is_some() && !self.is_suspicious() => None,
            Health::NotReady { failing } => self.lost(format!("it is not ready: {failing}"), false),
            Health::Refused { why } => self.lost(why, false),
            Health::Silent { why } => {
                self.silent_probes += 1;
                if self.ready().is_some() && self.silent_probes < SILENT_PROBES_MAX {
                    // Ask again at once.
                    self.suspicious_until = Some(Instant::now() + SUSPICION);
                    return None;
                }
                self.lost(why, true)
            }
        }
    }

    /// Whether the run that has this uptime is the one of before. After a link has lost its socket, an uptime that grew but
    /// began too late tells of a restart too: one that came soon after the start.
    fn is_same_run(&self, uptime_ms: Option<u64>) -> bool {
        let (Some(before), Some(now)) = (self.uptime_ms, uptime_ms) else {
            return false;
        };
        let began = self.asked.checked_sub(Duration::from_millis(now));
        let began_later = match (began, self.begun_by) {
            (Some(began), Some(begun_by)) => began > begun_by + ROUNDING,
            _ => false,
        };
        now >= before && !(began_later && self.is_suspicious())
    }

    fn is_suspicious(&self) -> bool {
        self.suspicious_until
            .is_some_and(|until| Instant::now() < until)
    }

    fn become_ready(&mut self, version: Option<String>, new_run: bool) -> UpstreamState {
        if new_run || self.epoch == 0 {
            self.epoch += 1;
        }
        self.suspicious_until = None;
        let ready = Ready::new(
            self.address,
            self.token.clone(),
            self.pid,
            version,
            self.epoch,
        )
        .with_device(self.device.clone());
        self.phase = Phase::Ready(ready.clone());
        UpstreamState::Ready(ready)
    }

    fn lost(&mut self, why: String, silent: bool) -> Option<UpstreamState> {
        let now = Instant::now();
        if let Phase::Waiting {
            silent_since,
            why: before,
            ..
        } = &mut self.phase
        {
            *silent_since = silent.then(|| silent_since.unwrap_or(now));
            *before = why;
            return None;
        }
        tracing::warn!(address = %self.address, %why, "openclaw does not answer");
        self.phase = Phase::Waiting {
            since: now,
            silent_since: silent.then_some(now),
            why: why.clone(),
        };
        Some(UpstreamState::Down { why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: fn(u64) -> Health = |uptime_ms| Health::Ready {
        uptime_ms: Some(uptime_ms),
    };

    fn life() -> Life {
        Life::new(([127, 0, 0, 1], 1).into(), Secret::new("t"), None, 0)
    }

    fn told(life: &mut Life, health: Health, version: Option<String>) -> Option<UpstreamState> {
        life.asked = Instant::now();
        life.learn(health, Instant::now(), version)
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_soon_after_the_start_is_seen_when_a_link_has_lost_its_socket() {
        let mut life = life();
        told(&mut life, READY(3), None);
        tokio::time::advance(Duration::from_millis(40)).await;
        // Restarted 20 ms ago, and its uptime has grown all the same.
        assert!(
            told(&mut life, READY(20), None).is_none(),
            "nobody doubts it"
        );
        for (uptime_ms, epoch) in [(43, None), (20, Some(2))] {
            let mut life = self::life();
            told(&mut life, READY(3), None);
            life.suspicious_until = Some(Instant::now() + SUSPICION);
            tokio::time::advance(Duration::from_millis(40)).await;
            let news = told(&mut life, READY(uptime_ms), None);
            let found = news.and_then(|news| news.ready().map(|ready| ready.epoch));
            assert_eq!(found, epoch, "{uptime_ms}");
            tokio::time::advance(Duration::from_millis(100)).await;
            assert!(
                told(&mut life, READY(uptime_ms + 100), None).is_none(),
                "once"
            );
        }
    }

    fn silent() -> Health {
        Health::Silent {
            why: "no answer".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_in_the_same_process_is_a_new_epoch_even_when_no_probe_failed() {
        let mut life = life();
        assert!(
            told(
                &mut life,
                Health::NotReady {
                    failing: "startup-sidecars".to_owned()
                },
                None
            )
            .is_none()
        );
        assert!(
            matches!(told(&mut life, READY(10_000), None), Some(UpstreamState::Ready(ready)) if ready.epoch == 1)
        );
        assert!(told(&mut life, READY(15_000), None).is_none());
        assert!(
            matches!(told(&mut life, READY(300), None), Some(UpstreamState::Ready(ready)) if ready.epoch == 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_hang_is_lost_after_some_silences_and_found_again_in_the_same_epoch() {
        let mut life = life();
        told(&mut life, READY(10), None);
        for _ in 1..SILENT_PROBES_MAX {
            assert!(
                told(&mut life, silent(), None).is_none(),
                "an event loop that is late is not a hang"
            );
        }
        assert!(matches!(
            told(&mut life, silent(), None),
            Some(UpstreamState::Down { .. })
        ));
        tokio::time::advance(Times::default().silent - Duration::from_millis(1)).await;
        told(&mut life, silent(), None);
        assert_eq!(life.hopeless(&Times::default()), None);
        assert!(
            matches!(told(&mut life, READY(40_000), None), Some(UpstreamState::Ready(ready)) if ready.epoch == 1)
        );

        for _ in 0..SILENT_PROBES_MAX {
            told(&mut life, silent(), None);
        }
        tokio::time::advance(Times::default().silent).await;
        assert!(
            life.hopeless(&Times::default())
                .unwrap()
                .contains("has not answered for 60 s")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn not_ready_counts_only_after_a_link_lost_its_socket() {
        let mut life = life();
        told(&mut life, READY(10), None);
        let draining = || Health::NotReady {
            failing: "draining".to_owned(),
        };
        assert!(told(&mut life, draining(), None).is_none());
        life.suspicious_until = Some(Instant::now() + SUSPICION);
        assert!(matches!(
            told(&mut life, draining(), None),
            Some(UpstreamState::Down { .. })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_takes_too_long_is_hopeless() {
        let life = life();
        tokio::time::advance(Times::default().start).await;
        assert!(
            life.hopeless(&Times::default())
                .unwrap()
                .contains("was not ready within 180 s (starting)")
        );
    }
}
