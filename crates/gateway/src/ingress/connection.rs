//! One WebSocket connection: the only task that touches its socket.
//!
//! Reads go through a buffer shared by the thread, so an idle connection owns no read memory; whole frames are
//! decoded in place and handed to the [`Peer`]. Writes come from [`Outbound`]. The handshake is a future polled
//! here; frames that arrive meanwhile wait, at most 15 of them.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use wire::limits;
use wire::websocket::{Decoded, Decoder, Message, Opcode, Role};

use super::complaints::Cause;
use super::outbound::{Close, Outbound};
use super::transport::Transport;

/// Size of the per-thread read buffer: one system call takes in a burst of small requests.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// What the connection does with what it reads.
pub(crate) trait Peer: Send {
    /// A text message before the session is open. Answers the future that decides the handshake.
    fn begin(&mut self, text: &str) -> Handshake;
    /// A text message of an open session.
    fn receive(&mut self, text: &str);
    /// It broke a rule; `detail` holds nothing of what it sent.
    fn complain(&self, cause: Cause, detail: &str);
    /// The socket is gone. `close` is what the peer sent, if it closed in order.
    fn closed(&mut self, close: Option<(u16, String)>);
}

/// The state of a handshake. `Open` lets the session's frames through.
pub(crate) enum Handshake {
    Pending(Pin<Box<dyn Future<Output = Verdict> + Send>>),
    Decided(Verdict),
}

pub(crate) enum Verdict {
    Open,
    /// A close was already asked of [`Outbound`].
    Refused,
}

/// Limits of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) preauth_bytes_max: usize,
    pub(crate) payload_bytes_max: usize,
    pub(crate) handshake_timeout: Duration,
}

enum Phase {
    AwaitingConnect,
    Deciding {
        verdict: Pin<Box<dyn Future<Output = Verdict> + Send>>,
        waiting: Vec<String>,
    },
    Open,
}

pub(crate) struct Connection<P> {
    transport: Transport,
    outbound: Arc<Outbound>,
    peer: P,
    decoder: Decoder,
    /// Bytes of a frame that is not complete yet.
    partial: Vec<u8>,
    phase: Phase,
    limits: Limits,
    /// The one timer: handshake deadline, then pings, then the grace of a close.
    timer: Pin<Box<Sleep>>,
    awaiting_pong: bool,
    /// Our close frame is queued; nothing is read as a request any more.
    closing: bool,
    peer_close: Option<(u16, String)>,
    /// What the peer sends can't be framed any more: it is read and thrown away until our close has reached it, since a
    /// socket that is dropped with bytes unread takes back what the peer has not read yet.
    draining: bool,
    preauth_permit: Option<Box<dyn Send>>,
}

impl<P: Peer + Unpin> Connection<P> {
    /// `early`: bytes that came with the upgrade. `preauth_permit` is dropped when the session opens.
    pub(crate) fn new(
        transport: Transport,
        early: &[u8],
        outbound: Arc<Outbound>,
        peer: P,
        limits: Limits,
        preauth_permit: Box<dyn Send>,
    ) -> Self {
        Self {
            transport,
            outbound,
            peer,
            decoder: Decoder::new(Role::Server, limits.preauth_bytes_max),
            partial: early.to_vec(),
            phase: Phase::AwaitingConnect,
            timer: Box::pin(tokio::time::sleep(limits.handshake_timeout)),
            limits,
            awaiting_pong: false,
            closing: false,
            peer_close: None,
            draining: false,
            preauth_permit: Some(preauth_permit),
        }
    }

    /// Runs until the socket is gone. Answers the code that it was closed with, as WebSocket APIs name it.
    pub(crate) async fn run(mut self) -> u16 {
        let mut bytes = std::mem::take(&mut self.partial);
        let used = self.consume(&mut bytes);
        self.partial = bytes.split_off(used);
        std::future::poll_fn(|cx| self.poll(cx)).await;
        // The first to close decides, and ours repeats what the peer said.
        let code = match self.outbound.closing() {
            Some(close) => close.code.unwrap_or(1005),
            None => 1006,
        };
        self.outbound.retire();
        let close = self.peer_close.take();
        self.peer.closed(close);
        code
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.poll_verdict(cx);
            if !self.closing
                && let Some(close) = self.outbound.closing()
            {
                self.closing = true;
                if close.is_slow_consumer() {
                    self.peer
                        .complain(Cause::SlowConsumer, "it does not read what waits for it");
                }
                self.outbound.append_close_frame(&close);
                self.timer
                    .as_mut()
                    .reset(Instant::now() + limits::CLOSE_GRACE);
            }
            let flushed = match self.poll_write(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_gone)) => return Poll::Ready(()),
                Poll::Pending => false,
            };
            // Both sides have said goodbye.
            if self.closing && flushed && self.peer_close.is_some() {
                return Poll::Ready(());
            }
            if self.closing
                && flushed
                && self.draining
                && let Poll::Ready(Err(_gone)) = Pin::new(&mut self.transport).poll_shutdown(cx)
            {
                return Poll::Ready(());
            }
            if self.poll_timer(cx).is_ready() {
                return Poll::Ready(());
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    // A push between the write and here has set the waker off already.
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_verdict(&mut self, cx: &mut Context<'_>) {
        let Phase::Deciding { verdict, .. } = &mut self.phase else {
            return;
        };
        let Poll::Ready(verdict) = verdict.as_mut().poll(cx) else {
            return;
        };
        let Phase::Deciding { waiting, .. } =
            std::mem::replace(&mut self.phase, Phase::AwaitingConnect)
        else {
            return;
        };
        self.settle(verdict);
        for text in waiting {
            if self.outbound.closing().is_none() {
                self.peer.receive(&text);
            }
        }
    }

    fn settle(&mut self, verdict: Verdict) {
        if let Verdict::Open = verdict {
            self.phase = Phase::Open;
            self.preauth_permit = None;
            self.decoder
                .set_payload_bytes_max(self.limits.payload_bytes_max);
            self.timer
                .as_mut()
                .reset(Instant::now() + limits::PING_INTERVAL);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while self.outbound.has_work(cx) {
            let transport = &mut self.transport;
            let written = ready!(self.outbound.write_with(|slices| {
                Pin::new(&mut *transport).poll_write_vectored(cx, slices)
            }))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
        }
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Ready when the connection must be dropped.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            match self.phase {
                _ if self.closing => return Poll::Ready(()),
                Phase::Open if self.awaiting_pong => {
                    self.peer.complain(Cause::Pong, "no answer to a ping");
                    return Poll::Ready(());
                }
                Phase::Open => {
                    self.awaiting_pong = true;
                    self.outbound.control(Opcode::Ping, &[]);
                    self.timer
                        .as_mut()
                        .reset(Instant::now() + limits::PING_INTERVAL);
                }
                Phase::AwaitingConnect | Phase::Deciding { .. } => {
                    self.peer
                        .complain(Cause::SlowHandshake, "it is not authenticated in time");
                    self.outbound.close(Close::plain());
                    // The grace is set where the close is noticed.
                    self.timer
                        .as_mut()
                        .reset(Instant::now() + limits::CLOSE_GRACE);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        Poll::Pending
    }

    /// Reads once and handles what is complete. `Ok(false)`: the peer is gone.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        if self.partial.is_empty() {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buffer))?;
                let filled = buffer.filled_mut();
                if filled.is_empty() {
                    return Poll::Ready(Ok(false));
                }
                let used = self.consume(filled);
                self.partial = filled[used..].to_vec();
                Poll::Ready(Ok(true))
            })
        } else {
            let mut bytes = std::mem::take(&mut self.partial);
            let start = bytes.len();
            // Grows with what has really arrived, never with what a header claims.
            let want = start.clamp(4 * 1024, 1024 * 1024);
            bytes.resize(start + want, 0);
            let mut buffer = ReadBuf::new(&mut bytes[start..]);
            let outcome = Pin::new(&mut self.transport).poll_read(cx, &mut buffer);
            let filled = buffer.filled().len();
            bytes.truncate(start + filled);
            if outcome.is_pending() {
                self.partial = bytes;
                return Poll::Pending;
            }
            ready!(outcome)?;
            if filled == 0 {
                return Poll::Ready(Ok(false));
            }
            let used = self.consume(&mut bytes);
            if used == bytes.len() {
                self.partial = Vec::new();
            } else {
                bytes.drain(..used);
                self.partial = bytes;
            }
            Poll::Ready(Ok(true))
        }
    }

    /// Decodes and handles every complete frame at the start of `bytes`; answers how many bytes they took.
    fn consume(&mut self, bytes: &mut [u8]) -> usize {
        let mut used = 0;
        while self.peer_close.is_none() && !self.draining {
            let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Role::Server, 0));
            let outcome = decoder.decode(&mut bytes[used..]);
            let step = match outcome {
                Ok(Decoded::Incomplete { .. }) => None,
                Ok(Decoded::Frame { consumed, message }) => {
                    if let Some(message) = message {
                        self.handle(message);
                    }
                    Some(consumed)
                }
                Err(error) => {
                    self.peer.complain(Cause::Framing, error.what);
                    self.outbound.close(Close::new(error.code, ""));
                    self.draining = true;
                    Some(bytes.len() - used)
                }
            };
            // The limit may have changed while the message was handled.
            let limit = if matches!(self.phase, Phase::Open) {
                self.limits.payload_bytes_max
            } else {
                self.limits.preauth_bytes_max
            };
            decoder.set_payload_bytes_max(limit);
            self.decoder = decoder;
            match step {
                Some(consumed) => used += consumed,
                None => break,
            }
        }
        if self.draining { bytes.len() } else { used }
    }

    fn handle(&mut self, message: Message<'_>) {
        match message {
            Message::Text(text) => self.text(text),
            // The original reads the bytes of a binary message as text.
            Message::Binary(bytes) => {
                let text = String::from_utf8_lossy(bytes).into_owned();
                self.text(&text);
            }
            Message::Ping(payload) => {
                self.outbound.control(Opcode::Pong, payload);
            }
            Message::Pong(_) => {
                self.awaiting_pong = false;
            }
            Message::Close(close) => {
                let (code, reason) = close.map_or((1005, String::new()), |(code, reason)| {
                    (code, reason.to_owned())
                });
                self.outbound.close(match close {
                    Some((code, _)) => Close::new(code, ""),
                    None => Close::without_code(),
                });
                self.peer_close = Some((code, reason));
            }
        }
    }

    fn text(&mut self, text: &str) {
        if self.closing || self.outbound.closing().is_some() {
            return;
        }
        match &mut self.phase {
            Phase::Open => self.peer.receive(text),
            Phase::AwaitingConnect => match self.peer.begin(text) {
                Handshake::Decided(verdict) => self.settle(verdict),
                Handshake::Pending(verdict) => {
                    self.phase = Phase::Deciding {
                        verdict,
                        waiting: Vec::new(),
                    }
                }
            },
            Phase::Deciding { waiting, .. } if waiting.len() >= limits::HANDSHAKE_FRAMES_MAX => {
                self.peer
                    .complain(Cause::TooManyFrames, "too many pending handshake frames");
                self.outbound
                    .close(Close::new(1008, "too many pending handshake frames"));
            }
            Phase::Deciding { waiting, .. } => waiting.push(text.to_owned()),
        }
    }
}
