//! What is known of a gateway by probing it: getting ready, ready, lost, ready again. Shared by `supervise` and `attach`.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::probe::{self, Health};
use super::{Hints, Times};
use crate::bridge::{Ready, Secret, UpstreamState};

/// Pause between probes while it is not ready. A refused connection costs microseconds.
const PROBE_WAITING: Duration = Duration::from_millis(100);
/// Pause between probes while it is ready: links notice a crash at once, these notice a hang.
const PROBE_READY: Duration = Duration::from_secs(5);
/// For this long after a link lost its socket, probes come fast: a restart closes sockets before the listener.
const SUSPICION: Duration = Duration::from_secs(3);
/// A busy event loop may miss one probe; missing this many in a row is a hang.
const SILENT_PROBES_MAX: u32 = 2;

/// One gateway, as long as its process lives (`supervise`) or for ever (`attach`).
#[derive(Debug)]
pub(crate) struct Life {
    address: SocketAddr,
    token: Secret,
    pid: Option<u32>,
    epoch: u64,
    phase: Phase,
    uptime_ms: Option<u64>,
    silent_probes: u32,
    suspicious_until: Option<Instant>,
    last: Option<Instant>,
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
            silent_probes: 0,
            suspicious_until: None,
            last: None,
        }
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
            _ => PROBE_WAITING,
        };
        let due = self.last.map_or(now, |last| last + pause);
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = hints.suspect.notified() => self.suspicious_until = Some(Instant::now() + SUSPICION),
        }
        let health = probe::ready(self.address).await;
        let version = match (&health, &self.phase) {
            (Health::Ready { .. }, Phase::Waiting { .. }) => probe::version(self.address).await,
            _ => None,
        };
        self.last = Some(Instant::now());
        self.learn(health, version)
    }

    fn learn(&mut self, health: Health, version: Option<String>) -> Option<UpstreamState> {
        match health {
            Health::Ready { uptime_ms } => {
                let same_run = matches!((self.uptime_ms, uptime_ms), (Some(before), Some(now)) if now >= before);
                self.uptime_ms = uptime_ms;
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
        );
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

    fn silent() -> Health {
        Health::Silent {
            why: "no answer".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_in_the_same_process_is_a_new_epoch_even_when_no_probe_failed() {
        let mut life = life();
        assert!(
            life.learn(
                Health::NotReady {
                    failing: "startup-sidecars".to_owned()
                },
                None
            )
            .is_none()
        );
        assert!(
            matches!(life.learn(READY(10_000), None), Some(UpstreamState::Ready(ready)) if ready.epoch == 1)
        );
        assert!(life.learn(READY(15_000), None).is_none());
        assert!(
            matches!(life.learn(READY(300), None), Some(UpstreamState::Ready(ready)) if ready.epoch == 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_hang_is_lost_at_the_second_silence_and_found_again_in_the_same_epoch() {
        let mut life = life();
        life.learn(READY(10), None);
        assert!(
            life.learn(silent(), None).is_none(),
            "one silence is not a hang"
        );
        assert!(matches!(
            life.learn(silent(), None),
            Some(UpstreamState::Down { .. })
        ));
        tokio::time::advance(Times::default().silent - Duration::from_millis(1)).await;
        life.learn(silent(), None);
        assert_eq!(life.hopeless(&Times::default()), None);
        assert!(
            matches!(life.learn(READY(40_000), None), Some(UpstreamState::Ready(ready)) if ready.epoch == 1)
        );

        life.learn(silent(), None);
        life.learn(silent(), None);
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
        life.learn(READY(10), None);
        let draining = || Health::NotReady {
            failing: "draining".to_owned(),
        };
        assert!(life.learn(draining(), None).is_none());
        life.suspicious_until = Some(Instant::now() + SUSPICION);
        assert!(matches!(
            life.learn(draining(), None),
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
