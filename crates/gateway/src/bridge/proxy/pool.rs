//! Connections to the upstream, kept for the next request.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::bridge::Ready;
use crate::ingress::http::Body;

/// Idle connections kept; more are closed when their answer is through.
const IDLE_MAX: usize = 32;
/// The upstream closes a connection that was idle for 5 s (Node's default); we give it up before.
const IDLE_TIME: Duration = Duration::from_secs(4);
/// Loopback: what takes longer is a full accept queue.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bounds of an answer's header section.
const ANSWER_HEADERS_MAX: usize = 256;
const ANSWER_BUFFER_MAX: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Last used last.
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Body>,
    since: Instant,
    epoch: u64,
}

/// A connection in use.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) sender: SendRequest<Body>,
    epoch: u64,
    reused: bool,
}

impl Lease {
    /// Whether it has carried a request before: the upstream may be closing it.
    pub(super) const fn is_reused(&self) -> bool {
        self.reused
    }
}

impl Pool {
    /// A kept connection that still looks good, or a new one.
    pub(super) async fn take(&self, ready: &Ready) -> io::Result<Lease> {
        if let Some(lease) = self.kept(ready.epoch) {
            return Ok(lease);
        }
        let connecting = TcpStream::connect(ready.address);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_elapsed| Err(io::Error::from(io::ErrorKind::TimedOut)))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = Builder::new()
            // Names as the upstream writes them: the client sees no difference.
            .preserve_header_case(true)
            .title_case_headers(true)
            .max_headers(ANSWER_HEADERS_MAX)
            .max_buf_size(ANSWER_BUFFER_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a proxied connection ended");
            }
        });
        Ok(Lease {
            sender,
            epoch: ready.epoch,
            reused: false,
        })
    }

    fn kept(&self, epoch: u64) -> Option<Lease> {
        let mut idle = self.idle.lock();
        idle.retain(|kept| {
            kept.epoch == epoch && kept.since.elapsed() < IDLE_TIME && !kept.sender.is_closed()
        });
        let kept = idle.pop()?;
        Some(Lease {
            sender: kept.sender,
            epoch,
            reused: true,
        })
    }

    /// Keeps a connection once its answer is through.
    pub(super) fn put_back(self: &Arc<Self>, mut lease: Lease) {
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            // Closed, or not to be kept alive: nothing to keep.
            if lease.sender.ready().await.is_err() {
                return;
            }
            let mut idle = pool.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push(Idle {
                    sender: lease.sender,
                    since: Instant::now(),
                    epoch: lease.epoch,
                });
            }
        });
    }
}
