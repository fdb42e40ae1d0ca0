//! What waits to be written to one client. Anyone may push; the connection's own task writes.
//!
//! The queue is bounded in bytes: past the limit an event that may be dropped is dropped (its number is still
//! used up, so the client sees the gap) and anything else closes the socket as a slow consumer, as the
//! original does.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::task::{Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use wire::frame::EventText;
use wire::websocket::{self, Opcode};

/// Frames up to this size are copied behind one another; larger ones are queued as they are.
const COALESCE_BYTES_MAX: usize = 8 * 1024;

/// Close code and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Close {
    /// `None`: an empty close frame.
    pub(crate) code: Option<u16>,
    pub(crate) reason: String,
}

impl Close {
    pub(crate) fn new(code: u16, reason: impl Into<String>) -> Self {
        Self {
            code: Some(code),
            reason: reason.into(),
        }
    }

    pub(crate) const fn without_code() -> Self {
        Self {
            code: None,
            reason: String::new(),
        }
    }
}

/// What became of a pushed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// Over the limit, and the event allowed it.
    Dropped,
    /// The connection is closing or gone.
    Closed,
}

#[derive(Debug)]
pub(crate) struct Outbound {
    state: Mutex<State>,
    buffered_bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Encoded frames, oldest first; the front one may be partly written.
    segments: VecDeque<Bytes>,
    /// Small frames behind the last segment.
    tail: Vec<u8>,
    bytes: usize,
    /// Number of the last event addressed to this client.
    seq: u64,
    /// Set once; frames pushed later are refused.
    closing: Option<Close>,
    /// The connection's task is gone.
    dead: bool,
    waker: Option<Waker>,
}

impl State {
    fn append(&mut self, opcode: Opcode, payload: &[u8]) {
        let (head, used) = websocket::header(opcode, payload.len());
        self.bytes += used + payload.len();
        if payload.len() > COALESCE_BYTES_MAX {
            self.tail.extend_from_slice(&head[..used]);
            self.seal_tail();
            self.segments.push_back(Bytes::copy_from_slice(payload));
        } else {
            self.tail.extend_from_slice(&head[..used]);
            self.tail.extend_from_slice(payload);
        }
    }

    fn append_owned(&mut self, opcode: Opcode, payload: String) {
        if payload.len() <= COALESCE_BYTES_MAX {
            return self.append(opcode, payload.as_bytes());
        }
        let (head, used) = websocket::header(opcode, payload.len());
        self.bytes += used + payload.len();
        self.tail.extend_from_slice(&head[..used]);
        self.seal_tail();
        self.segments.push_back(Bytes::from(payload));
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.segments
                .push_back(Bytes::from(std::mem::take(&mut self.tail)));
        }
    }

    fn close_slow_consumer(&mut self) {
        // What waits can't be delivered in order any more; the close frame goes out in its place.
        let partly_written = self.segments.pop_front();
        self.segments.clear();
        self.tail = Vec::new();
        self.bytes = 0;
        if let Some(front) = partly_written {
            self.bytes = front.len();
            self.segments.push_back(front);
        }
        self.closing = Some(Close::new(1008, "slow consumer"));
    }
}

impl Outbound {
    pub(crate) fn new(buffered_bytes_max: usize) -> Self {
        Self {
            state: Mutex::new(State::default()),
            buffered_bytes_max,
        }
    }

    /// Queues a response or an unnumbered frame.
    pub(crate) fn send(&self, text: String) -> Pushed {
        self.push(|state| state.append_owned(Opcode::Text, text))
    }

    /// Queues a control frame.
    pub(crate) fn control(&self, opcode: Opcode, payload: &[u8]) -> Pushed {
        self.push(|state| state.append(opcode, payload))
    }

    fn push(&self, append: impl FnOnce(&mut State)) -> Pushed {
        let waker = {
            let mut state = self.state.lock();
            if state.dead || state.closing.is_some() {
                return Pushed::Closed;
            }
            if state.bytes > self.buffered_bytes_max {
                state.close_slow_consumer();
            } else {
                append(&mut state);
            }
            state.waker.take()
        };
        wake(waker);
        Pushed::Queued
    }

    /// Queues an event, giving it this client's next number.
    pub(crate) fn event(&self, event: &EventText, drop_if_slow: bool) -> Pushed {
        let waker = {
            let mut state = self.state.lock();
            if state.dead || state.closing.is_some() {
                return Pushed::Closed;
            }
            state.seq += 1;
            if state.bytes > self.buffered_bytes_max {
                if drop_if_slow {
                    return Pushed::Dropped;
                }
                state.close_slow_consumer();
            } else {
                let frame = event.render(Some(state.seq));
                state.append_owned(Opcode::Text, frame);
            }
            state.waker.take()
        };
        wake(waker);
        Pushed::Queued
    }

    /// Queues a targeted event, which carries no number.
    pub(crate) fn targeted(&self, event: &EventText) -> Pushed {
        self.send(event.render(None))
    }

    /// Asks for an orderly close after what is queued. The first call wins.
    pub(crate) fn close(&self, close: Close) {
        let waker = {
            let mut state = self.state.lock();
            if state.dead || state.closing.is_some() {
                return;
            }
            state.closing = Some(close);
            state.waker.take()
        };
        wake(waker);
    }

    /// Bytes that wait, as the original's `bufferedAmount`.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.state.lock().bytes
    }

    // The connection task's side.

    /// Whether something waits. The task is woken by every push and close from here on, also while it waits for
    /// the socket.
    pub(crate) fn has_work(&self, cx: &std::task::Context<'_>) -> bool {
        let mut state = self.state.lock();
        if !state
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            state.waker = Some(cx.waker().clone());
        }
        state.bytes > 0
    }

    /// The close that was asked for, once.
    pub(crate) fn closing(&self) -> Option<Close> {
        self.state.lock().closing.clone()
    }

    /// Queues the close frame itself, behind everything else.
    pub(crate) fn append_close_frame(&self, close: &Close) {
        let payload = close
            .code
            .map(|code| websocket::close_payload(code, &close.reason))
            .unwrap_or_default();
        self.state.lock().append(Opcode::Close, &payload);
    }

    /// Hands waiting buffers to `write`, which answers how many bytes it wrote. Pushers wait for the length of
    /// one non-blocking system call.
    pub(crate) fn write_with<E>(
        &self,
        write: impl FnOnce(&[IoSlice<'_>]) -> Poll<Result<usize, E>>,
    ) -> Poll<Result<usize, E>> {
        let mut state = self.state.lock();
        state.seal_tail();
        let mut slices = [IoSlice::new(&[]); 16];
        let count = state.segments.len().min(slices.len());
        for (slice, segment) in slices.iter_mut().zip(&state.segments) {
            *slice = IoSlice::new(segment);
        }
        let outcome = write(&slices[..count]);
        if let Poll::Ready(Ok(written)) = &outcome {
            state.bytes = state.bytes.saturating_sub(*written);
            let mut left = *written;
            while left > 0 {
                let Some(front) = state.segments.front_mut() else {
                    break;
                };
                if left < front.len() {
                    bytes::Buf::advance(front, left);
                    break;
                }
                left -= front.len();
                state.segments.pop_front();
            }
            if state.segments.is_empty() && state.segments.capacity() > 64 {
                state.segments = VecDeque::new();
            }
        }
        outcome
    }

    /// Ends the queue: later pushes answer [`Pushed::Closed`], what waited is freed.
    pub(crate) fn retire(&self) {
        let mut state = self.state.lock();
        state.dead = true;
        state.segments = VecDeque::new();
        state.tail = Vec::new();
        state.bytes = 0;
        state.waker = None;
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
