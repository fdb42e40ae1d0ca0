//! What the log says of peers that break a rule: one line each with the reason, and never a byte of what they sent.
//!
//! A flood must not fill the disk: of one cause, a few lines are written in a stretch of time, and the rest are said as
//! one number at its end. Of refusals it is so of each address: one that floods hides nobody else's reason.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

/// Lines of one cause in a stretch.
const LINES_MAX: u32 = 10;
const STRETCH: Duration = Duration::from_secs(5);
/// Addresses that are counted by themselves; the others are counted together.
const ADDRESSES_MAX: usize = 256;

/// The rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Tls,
    Http,
    SlowHead,
    TooManySockets,
    SlowHandshake,
    Worker,
    TooManyFrames,
    Framing,
    Pong,
    SlowConsumer,
    NoJson,
    Refused,
}

impl Cause {
    const COUNT: usize = 12;

    const fn place(self) -> usize {
        match self {
            Self::Tls => 0,
            Self::Http => 1,
            Self::SlowHead => 2,
            Self::TooManySockets => 3,
            Self::SlowHandshake => 4,
            Self::Worker => 5,
            Self::TooManyFrames => 6,
            Self::Framing => 7,
            Self::Pong => 8,
            Self::SlowConsumer => 9,
            Self::NoJson => 10,
            Self::Refused => 11,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Tls => "TLS handshake failed",
            Self::Http => "client sent HTTP that can't be taken",
            Self::SlowHead => "client did not finish its request's head in time",
            Self::TooManySockets => "too many unauthenticated sockets of one address",
            Self::SlowHandshake => "handshake timeout",
            Self::Worker => "refused a client that claims to be a worker",
            Self::TooManyFrames => "too many frames before the handshake was decided",
            Self::Framing => "client broke the WebSocket protocol",
            Self::Pong => "client missed a pong; dropping the connection",
            Self::SlowConsumer => "slow consumer; dropping the connection",
            Self::NoJson => "client sent text that is not JSON; ignored",
            Self::Refused => "refused a connection",
        }
    }

    /// Laptops that sleep and networks that are gone do this without meaning harm.
    const fn is_ordinary(self) -> bool {
        matches!(self, Self::Pong | Self::SlowHead | Self::Tls)
    }

    const fn is_of_one_address(self) -> bool {
        matches!(self, Self::Refused)
    }
}

/// What was written of one cause lately.
#[derive(Debug)]
struct Stretch {
    since: Option<Instant>,
    seen: u32,
}

/// What to do with one complaint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admitted {
    Write,
    /// The first that is kept back: the sum is due at the end of the stretch.
    Count {
        until: Instant,
    },
    Counted,
}

impl Stretch {
    const fn new() -> Self {
        Self {
            since: None,
            seen: 0,
        }
    }

    fn admit(&mut self, now: Instant) -> Admitted {
        let since = match self.since {
            // Kept until its sum is taken, however late that is.
            Some(since) if self.seen > LINES_MAX || now < since + STRETCH => since,
            _ => {
                self.seen = 0;
                *self.since.insert(now)
            }
        };
        self.seen = self.seen.saturating_add(1);
        if self.seen <= LINES_MAX {
            Admitted::Write
        } else if self.seen == LINES_MAX + 1 {
            Admitted::Count {
                until: since + STRETCH,
            }
        } else {
            Admitted::Counted
        }
    }

    /// How many were kept back. A new stretch begins.
    fn take(&mut self) -> u32 {
        let more = self.seen.saturating_sub(LINES_MAX);
        *self = Self::new();
        more
    }

    /// Nothing of it is left to say.
    fn is_over(&self, now: Instant) -> bool {
        self.seen <= LINES_MAX && self.since.is_none_or(|since| now >= since + STRETCH)
    }
}

/// Of one cause: everybody's, and those of single addresses.
#[derive(Debug)]
struct Stretches {
    shared: Stretch,
    own: BTreeMap<IpAddr, Stretch>,
}

impl Stretches {
    const fn new() -> Self {
        Self {
            shared: Stretch::new(),
            own: BTreeMap::new(),
        }
    }

    /// With the address that it is counted for; `None`: for everybody.
    fn admit(&mut self, peer: Option<IpAddr>, now: Instant) -> (Admitted, Option<IpAddr>) {
        let peer = peer.filter(|peer| self.has_place(peer, now));
        let stretch = match peer {
            Some(peer) => self.own.entry(peer).or_insert_with(Stretch::new),
            None => &mut self.shared,
        };
        (stretch.admit(now), peer)
    }

    fn has_place(&mut self, peer: &IpAddr, now: Instant) -> bool {
        if self.own.len() >= ADDRESSES_MAX && !self.own.contains_key(peer) {
            self.own.retain(|_, stretch| !stretch.is_over(now));
        }
        self.own.len() < ADDRESSES_MAX || self.own.contains_key(peer)
    }

    fn take(&mut self, peer: Option<IpAddr>) -> u32 {
        match peer {
            Some(peer) => self
                .own
                .remove(&peer)
                .map_or(0, |mut stretch| stretch.take()),
            None => self.shared.take(),
        }
    }
}

/// Of the process, as its log is.
static STRETCHES: [Mutex<Stretches>; Cause::COUNT] =
    [const { Mutex::new(Stretches::new()) }; Cause::COUNT];

/// Writes it, or counts it. `detail` is ours to word: nothing in it may come from the peer.
///
/// `peer`: `None` when it is known by its connection alone. Only within a runtime: the sum comes later.
pub(crate) fn complain(
    cause: Cause,
    peer: impl Into<Option<IpAddr>>,
    conn: Option<&str>,
    detail: &dyn Display,
) {
    let peer = peer.into();
    if !admits(cause, peer) {
        return;
    }
    let peer = peer.map(tracing::field::display);
    match cause.is_ordinary() {
        true => tracing::info!(peer, conn, %detail, "{}", cause.text()),
        false => tracing::warn!(peer, conn, %detail, "{}", cause.text()),
    }
}

/// Whether a line may be written now; it is counted if not. Only within a runtime: the sum comes later.
pub(crate) fn admits(cause: Cause, peer: Option<IpAddr>) -> bool {
    let peer = peer.filter(|_| cause.is_of_one_address()).map(one);
    let (admitted, counted_for) = STRETCHES[cause.place()].lock().admit(peer, Instant::now());
    if let Admitted::Count { until } = admitted {
        drop(tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            let more = STRETCHES[cause.place()].lock().take(counted_for);
            let peer = counted_for.map(tracing::field::display);
            tracing::warn!(peer, more, "{more} more like it: {}", cause.text());
        }));
    }
    admitted == Admitted::Write
}

/// Who is one peer: whoever has one address of a /64 has them all.
fn one(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_number() {
        let start = Instant::now();
        let mut stretch = Stretch::new();
        for _ in 0..LINES_MAX {
            assert_eq!(stretch.admit(start), Admitted::Write);
        }
        let until = start + STRETCH;
        assert_eq!(stretch.admit(start), Admitted::Count { until });
        for _ in 0..100 {
            assert_eq!(stretch.admit(until), Admitted::Counted);
        }
        assert_eq!(stretch.take(), 101);
        assert_eq!(stretch.admit(until), Admitted::Write);
    }

    #[test]
    fn few_at_a_time_are_all_written() {
        let start = Instant::now();
        let mut stretch = Stretch::new();
        for turn in 0..100 {
            assert_eq!(stretch.admit(start + STRETCH * turn), Admitted::Write);
        }
    }

    #[test]
    fn a_flood_of_one_address_hides_no_other() {
        let start = Instant::now();
        let mut stretches = Stretches::new();
        let address = |n: u32| Some(IpAddr::from(std::net::Ipv4Addr::from(n)));
        for _ in 0..100 {
            stretches.admit(address(0), start);
        }
        for n in (1..).take(ADDRESSES_MAX - 1) {
            let own = (Admitted::Write, address(n));
            assert_eq!(stretches.admit(address(n), start), own);
        }
        // One more is counted with everybody, until those that are over make room.
        let shared = (Admitted::Write, None);
        assert_eq!(stretches.admit(address(1000), start), shared);
        let later = start + STRETCH;
        let own = (Admitted::Write, address(1000));
        assert_eq!(stretches.admit(address(1000), later), own);
        // What was kept back is still to be said.
        assert_eq!(stretches.take(address(0)), 90);
        assert_eq!(stretches.own.len(), 1);
    }

    #[test]
    fn the_addresses_of_one_network_are_one_peer() {
        let one = |address: &str| one(address.parse().expect("an address")).to_string();
        assert_eq!(one("192.0.2.7"), "192.0.2.7");
        assert_eq!(one("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }

    #[test]
    fn every_cause_has_a_place_of_its_own() {
        let causes = [
            Cause::Tls,
            Cause::Http,
            Cause::SlowHead,
            Cause::TooManySockets,
            Cause::SlowHandshake,
            Cause::Worker,
            Cause::TooManyFrames,
            Cause::Framing,
            Cause::Pong,
            Cause::SlowConsumer,
            Cause::NoJson,
            Cause::Refused,
        ];
        let places: Vec<usize> = causes.iter().map(|cause| cause.place()).collect();
        assert_eq!(places, (0..Cause::COUNT).collect::<Vec<_>>());
    }
}
