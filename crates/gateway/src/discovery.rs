//! The gateway's address on the local network, by mDNS, and in the tailnet, by a DNS zone: what OpenClaw's phones and its `gateway discover` look for.
//!
//! The original's bundled `bonjour` plugin does this; a child of ours is told not to, since its address is of no use to
//! others. When it is on, and every record: docs/gateway/bonjour.md, extensions/bonjour/src/advertiser.ts and
//! src/gateway/server-discovery.ts at 2026.9.6.

mod beacon;
mod zone;

use std::sync::Arc;
use std::time::Duration;

use mdns_sd::{DaemonEvent, ServiceDaemon, ServiceInfo, UnregisterStatus};
use parking_lot::Mutex;

pub(crate) use beacon::{Beacon, Source};
pub(crate) use zone::Zone;

const SERVICE: &str = "_openclaw-gw._tcp.local.";
/// How long a stop waits until the network was told.
const GOODBYE: Duration = Duration::from_millis(500);

/// One advertisement, replaced when what it says changes.
#[derive(Default)]
pub(crate) struct Advertiser(Mutex<Option<Running>>);

struct Running {
    beacon: Beacon,
    daemon: ServiceDaemon,
    full_name: String,
}

impl Advertiser {
    /// Makes the network see `beacon`, or nothing. A failure is a line in the log: the gateway is reached without it.
    pub(crate) fn show(&self, beacon: Option<Beacon>) {
        let mut running = self.0.lock();
        if running.as_ref().map(|it| &it.beacon) == beacon.as_ref() {
            return;
        }
        if let Some(former) = running.take() {
            former.withdraw();
        }
        let Some(beacon) = beacon else { return };
        match Running::start(beacon) {
            Ok(started) => *running = Some(started),
            Err(error) => tracing::warn!(
                %error,
                "discovery: nothing is announced on the local network; clients need the address"
            ),
        }
    }
}

impl Running {
    fn start(beacon: Beacon) -> Result<Self, mdns_sd::Error> {
        let host = format!("{}.local.", beacon.host);
        let texts = beacon.texts();
        let info = ServiceInfo::new(
            SERVICE,
            &beacon.instance,
            &host,
            (),
            beacon.port,
            &texts[..],
        )?
        .enable_addr_auto();
        let full_name = info.get_fullname().to_owned();
        let daemon = ServiceDaemon::new()?;
        let events = daemon.monitor()?;
        daemon.register(info)?;
        // Ends with the daemon, which drops its side.
        std::thread::Builder::new()
            .name("mdns-events".to_owned())
            .spawn(move || {
                let mut is_told = false;
                for event in events {
                    tell(event, &mut is_told);
                }
            })
            .map_err(|error| mdns_sd::Error::Msg(error.to_string()))?;
        Ok(Self {
            beacon,
            daemon,
            full_name,
        })
    }

    /// Says goodbye, so that nobody offers this address until its records run out.
    fn withdraw(self) {
        match self.daemon.unregister(&self.full_name) {
            Ok(told) => {
                if !matches!(told.recv_timeout(GOODBYE), Ok(UnregisterStatus::OK)) {
                    tracing::debug!("discovery: the network may show this gateway a while longer");
                }
            }
            Err(error) => tracing::debug!(%error, "discovery: not withdrawn"),
        }
        if let Err(error) = self.daemon.shutdown() {
            tracing::debug!(%error, "discovery: the responder did not end");
        }
    }
}

fn tell(event: DaemonEvent, is_told: &mut bool) {
    match event {
        DaemonEvent::Announce(name, _) if !std::mem::replace(is_told, true) => {
            tracing::info!(%name, "discovery: announced on the local network");
        }
        DaemonEvent::NameChange(change) => tracing::warn!(
            from = %change.original, to = %change.new_name,
            "discovery: the name is taken on this network; another one is used"
        ),
        DaemonEvent::Error(error) => tracing::debug!(%error, "discovery"),
        _ => {}
    }
}

/// Withdraws what is announced, off the async threads.
pub(crate) async fn stop(advertiser: Arc<Advertiser>) {
    let stopped = tokio::task::spawn_blocking(move || advertiser.show(None)).await;
    if let Err(error) = stopped {
        tracing::debug!(%error, "discovery: not withdrawn");
    }
}
