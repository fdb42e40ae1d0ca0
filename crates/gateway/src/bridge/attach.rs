//! Watches a TypeScript gateway that somebody else runs.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{Ready, Secret, UpstreamState};

/// Probe interval while it answers, and while it does not.
const PROBE_READY: Duration = Duration::from_secs(1);
const PROBE_DOWN: Duration = Duration::from_millis(100);
/// A probe that takes longer counts as failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// A gateway whose event loop stalls keeps its sockets: only this many failed probes in a row mean it is gone.
const FAILURES_MAX: u32 = 3;

/// Keeps `state` true until its receivers are gone.
pub async fn watch(address: SocketAddr, token: Secret, state: watch::Sender<UpstreamState>) {
    let (mut epoch, mut failures) = (0, 0);
    loop {
        let probe = tokio::time::timeout(PROBE_TIMEOUT, is_ready(address)).await;
        let ready_now = state.borrow().ready().is_some();
        match probe {
            Ok(Ok(true)) => {
                failures = 0;
                if !ready_now {
                    epoch += 1;
                    tracing::info!(%address, epoch, "upstream is ready");
                    state.send_replace(UpstreamState::Ready(Ready::new(
                        address,
                        token.clone(),
                        None,
                        None,
                        epoch,
                    )));
                }
            }
            outcome => {
                failures += 1;
                // Refused means nobody listens; silence may be a stalled event loop.
                let gone = matches!(outcome, Ok(Err(_)));
                if ready_now && (gone || failures >= FAILURES_MAX) || !ready_now && failures == 1 {
                    let why = match outcome {
                        Ok(Ok(_)) => "it says it is not ready".to_owned(),
                        Ok(Err(error)) => error.to_string(),
                        Err(_elapsed) => format!("no answer to /readyz within {PROBE_TIMEOUT:?}"),
                    };
                    tracing::warn!(%address, %why, "upstream is down");
                    state.send_replace(UpstreamState::Down { why });
                }
            }
        }
        let pause = if state.borrow().ready().is_some() {
            PROBE_READY
        } else {
            PROBE_DOWN
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = state.closed() => return,
        }
    }
}

pub(crate) async fn is_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(
            format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(&head[9..12] == b"200")
}
