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

/// Reason of the close of a client that does not read.
const SLOW_CONSUMER: &str = "slow consumer";

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

    /// The close of a client that does not read.
    fn slow_consumer() -> Self {
        Self::new(1008, SLOW_CONSUMER)
    }

    pub(crate) fn is_slow_consumer(&self) -> bool {
        self.code == Some(1008) && self.reason == SLOW_CONSUMER
    }

    /// The original's close without a cause to name.
    pub(crate) fn plain() -> Self {
        Self::new(1000, "")
    }

    /// The answer to an empty close frame.
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

#[derive(Debug)]
struct Segment {
    bytes: Bytes,
    /// It ends with the header of a frame whose payload is the next one.
    goes_on: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Encoded frames, oldest first; the front one may be partly written.
    segments: VecDeque<Segment>,
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
            self.seal_tail(true);
            self.push_payload(Bytes::copy_from_slice(payload));
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
        self.seal_tail(true);
        self.push_payload(Bytes::from(payload));
    }

    fn push_payload(&mut self, bytes: Bytes) {
        self.segments.push_back(Segment {
            bytes,
            goes_on: false,
        });
    }

    fn seal_tail(&mut self, goes_on: bool) {
        if !self.tail.is_empty() {
            let bytes = Bytes::from(std::mem::take(&mut self.tail));
            self.segments.push_back(Segment { bytes, goes_on });
        }
    }

    fn close_slow_consumer(&mut self) {
        // What waits can't be delivered in order any more; the close frame goes out in its place.
        // A frame that is on its way is finished, or the close would be read as the rest of it.
        let on_its_way = match self.segments.front() {
            None => 0,
            Some(front) if front.goes_on => 2,
            Some(_) => 1,
        };
        self.segments.truncate(on_its_way);
        self.tail = Vec::new();
        self.bytes = self.segments.iter().map(|kept| kept.bytes.len()).sum();
        self.closing = Some(Close::slow_consumer());
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
        state.seal_tail(false);
        let mut slices = [IoSlice::new(&[]); 16];
        let count = state.segments.len().min(slices.len());
        for (slice, segment) in slices.iter_mut().zip(&state.segments) {
            *slice = IoSlice::new(&segment.bytes);
        }
        let outcome = write(&slices[..count]);
        if let Poll::Ready(Ok(written)) = &outcome {
            state.bytes = state.bytes.saturating_sub(*written);
            let mut left = *written;
            while left > 0 {
                let Some(front) = state.segments.front_mut() else {
                    break;
                };
                if left < front.bytes.len() {
                    bytes::Buf::advance(&mut front.bytes, left);
                    break;
                }
                left -= front.bytes.len();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a queue of these tests may hold before it is full.
    const BYTES_MAX: usize = 1024;

    fn event() -> EventText {
        EventText::new("tick", Some("{}"), None)
    }

    /// A queue with one frame more than it may hold.
    fn full() -> Outbound {
        let outbound = Outbound::new(BYTES_MAX);
        assert_eq!(outbound.event(&event(), false), Pushed::Queued);
        assert_eq!(outbound.send("x".repeat(2 * BYTES_MAX)), Pushed::Queued);
        outbound
    }

    /// Takes at most `bytes_max` from the queue, as a socket would.
    fn written(outbound: &Outbound, bytes_max: usize) -> String {
        let mut taken = Vec::new();
        let outcome = outbound.write_with(|slices| {
            for slice in slices {
                let room = slice.len().min(bytes_max - taken.len());
                taken.extend_from_slice(&slice[..room]);
            }
            Poll::Ready(Ok::<_, std::io::Error>(taken.len()))
        });
        assert!(matches!(outcome, Poll::Ready(Ok(_))));
        String::from_utf8_lossy(&taken).into_owned()
    }

    #[test]
    fn an_event_that_may_be_dropped_is_dropped_and_its_number_is_used_up() {
        let outbound = full();
        assert_eq!(outbound.event(&event(), true), Pushed::Dropped);
        assert_eq!(outbound.event(&event(), true), Pushed::Dropped);
        assert_eq!(outbound.closing(), None);
        let before = written(&outbound, usize::MAX);
        assert!(before.contains(r#""seq":1"#), "{before}");
        assert!(!before.contains(r#""seq":2"#), "{before}");
        assert_eq!(outbound.event(&event(), true), Pushed::Queued);
        let after = written(&outbound, usize::MAX);
        assert!(after.contains(r#""seq":4"#), "{after}");
    }

    #[test]
    fn any_other_event_or_answer_closes_a_slow_consumer() {
        let pushes: [fn(&Outbound) -> Pushed; 3] = [
            |outbound| outbound.event(&event(), false),
            |outbound| outbound.send("{}".to_owned()),
            |outbound| outbound.control(Opcode::Ping, &[]),
        ];
        for push in pushes {
            let outbound = full();
            push(&outbound);
            let close = outbound.closing().unwrap();
            assert_eq!(close, Close::new(1008, "slow consumer"));
            assert!(close.is_slow_consumer());
            assert_eq!(outbound.event(&event(), true), Pushed::Closed);
            assert_eq!(outbound.send("{}".to_owned()), Pushed::Closed);
        }
    }

    #[test]
    fn a_frame_on_its_way_is_finished_before_the_close_and_what_waits_is_not_sent() {
        // Larger than what is joined with its neighbours: header and payload are segments of their own.
        let payload = 2 * COALESCE_BYTES_MAX;
        let (_, head) = websocket::header(Opcode::Text, payload);
        // Cut in the payload, and in the header.
        for (cut, left) in [(head + 10, payload - 10), (2, payload)] {
            let outbound = Outbound::new(head + payload);
            outbound.send("a".repeat(payload));
            outbound.send("b".repeat(payload));
            written(&outbound, cut);
            // The buffer is full: this one closes it, and does not follow.
            outbound.send("c".to_owned());
            let close = outbound.closing().unwrap();
            outbound.append_close_frame(&close);
            let rest = written(&outbound, usize::MAX);
            assert_eq!(rest.matches('a').count(), left);
            assert!(!rest.contains('b'), "what waited was sent");
            assert!(rest.ends_with("slow consumer"));
            assert_eq!(written(&outbound, usize::MAX), "");
        }
    }

    #[test]
    fn nothing_is_queued_for_one_that_is_gone() {
        let outbound = full();
        outbound.retire();
        assert_eq!(outbound.event(&event(), false), Pushed::Closed);
        assert_eq!(written(&outbound, usize::MAX), "");
    }
}
