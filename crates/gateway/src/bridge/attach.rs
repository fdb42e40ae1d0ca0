//! Watches a TypeScript gateway that somebody else runs.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::process::Hints;
use super::process::life::Life;
use super::remote::Device;
use super::{Secret, UpstreamState};

/// Keeps `state` true until its receivers are gone. `hints` are what links notice before a probe does.
pub(crate) async fn watch(
    address: SocketAddr,
    token: Secret,
    device: Option<Arc<Device>>,
    state: watch::Sender<UpstreamState>,
    hints: Arc<Hints>,
) {
    state.send_replace(UpstreamState::Starting);
    let mut life = Life::new(address, token, None, 0).with_device(device);
    let mut told = false;
    loop {
        tokio::select! {
            news = life.next(&hints) => {
                if let Some(news) = news {
                    if let UpstreamState::Ready(ready) = &news {
                        tracing::info!(%address, epoch = ready.epoch, "upstream is ready");
                    }
                    told = true;
                    state.send_replace(news);
                } else if let Some(why) = life.waiting_for()
                    && !told
                {
                    // The first look found none: that is not a start that we wait for.
                    tracing::warn!(%address, %why, "the upstream to attach to does not answer; waiting for it");
                    told = true;
                    state.send_replace(UpstreamState::Down { why: why.to_owned() });
                }
            }
            () = state.closed() => return,
        }
    }
}
