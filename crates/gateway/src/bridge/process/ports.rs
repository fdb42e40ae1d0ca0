//! The port of the supervised gateway: kept between starts, and free together with the ports it derives.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::Path;

use socket2::{Domain, Socket, Type};

/// Ports the original derives from its own by adding: the MCP App sandbox host, the browser control server, and the
/// start of the range for managed browsers' debug ports.
/// Source: `SANDBOX_HOST_PORT_OFFSET`, extensions/browser/src/config/port-defaults.ts at 2026.9.6.
const DERIVED: [u16; 3] = [1, 2, 11];
/// A managed browser takes the first free port of a range this long, so only its start is asked for here.
const BROWSER_KEPT: u16 = 99;
/// Bound, never listened at, by the gateway that has chosen the port: the original takes seconds to bind its own, and another gateway
/// that starts meanwhile must not choose the same. Nothing else is derived there (see [`DERIVED`]).
const HELD: u16 = 7;
/// Where we look: above the original's own defaults (18789 to 18899), below every system's ephemeral range.
const FIRST: u16 = 19_100;
const LAST: u16 = 29_900;
/// Steps leave room for the browser range of one gateway below the port of the next.
const STEP: u16 = 120;

#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error(
        "no port from {FIRST} to {LAST} is free on 127.0.0.1 and [::1] together with those OpenClaw derives from it: free some, or set [upstream] port in openclaw-gateway.toml"
    )]
    NoneFree,
    #[error("cannot remember the upstream's port in {file}: {why}")]
    NotKept { file: String, why: String },
}

/// A port that no other gateway chooses while this lives, whatever its process comes to.
#[derive(Debug)]
pub struct Held {
    port: u16,
    /// Its address is the lock.
    _lock: Socket,
}

impl Held {
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// `port`, when it is free with those derived from it, and nobody else holds it.
    fn take(port: u16) -> Option<Self> {
        let lock = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
        // Without SO_REUSEADDR, so that one bound socket is enough to keep everybody else out.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.checked_add(HELD)?));
        lock.bind(&address.into()).ok()?;
        is_free(port).then_some(Self { port, _lock: lock })
    }
}

/// The port kept in `file` if it is still free, else the first that is; written to `file`. `before`: what this gateway held until now.
///
/// # Errors
/// When none is free or `file` can't be written.
pub fn choose(file: &Path, before: Option<Held>) -> Result<Held, PortError> {
    choose_from(file, before, FIRST..=LAST)
}

fn choose_from(
    file: &Path,
    before: Option<Held>,
    range: RangeInclusive<u16>,
) -> Result<Held, PortError> {
    let kept = std::fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse::<u16>().ok())
        .filter(|&port| port >= 1024 && port <= u16::MAX - DERIVED[2] - BROWSER_KEPT);
    if let Some(held) = before
        && Some(held.port) == kept
        && is_free(held.port)
    {
        return Ok(held);
    }
    if let Some(held) = kept.and_then(Held::take) {
        return Ok(held);
    }
    let held = range
        .step_by(usize::from(STEP))
        .find_map(Held::take)
        .ok_or(PortError::NoneFree)?;
    let not_kept = |error: std::io::Error| PortError::NotKept {
        file: file.display().to_string(),
        why: error.to_string(),
    };
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(not_kept)?;
    }
    std::fs::write(file, format!("{}\n", held.port)).map_err(not_kept)?;
    Ok(held)
}

/// Whether `port` and the ports derived from it can be bound on both loopbacks now.
pub fn is_free(port: u16) -> bool {
    std::iter::once(0)
        .chain(DERIVED)
        .all(|offset| port.checked_add(offset).is_some_and(can_bind))
}

fn can_bind(port: u16) -> bool {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    TcpListener::bind(v4).is_ok()
        && match TcpListener::bind(v6) {
            Ok(_) => true,
            // A machine without IPv6 has nothing there that could be in the way.
            Err(error) => {
                error.kind() == ErrorKind::AddrNotAvailable
                    || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
            }
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Apart from each other and from what a running gateway takes: tests run side by side.
    const KEPT: RangeInclusive<u16> = 30_000..=30_900;
    const REPLACED: RangeInclusive<u16> = 31_000..=31_900;
    const SHARED: RangeInclusive<u16> = 32_000..=32_500;

    fn chosen(file: &Path, range: RangeInclusive<u16>) -> u16 {
        choose_from(file, None, range).unwrap().port()
    }

    #[test]
    fn the_port_is_kept_while_it_is_free_and_left_when_a_derived_one_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state/upstream-port");
        let port = chosen(&file, KEPT);
        assert_eq!(chosen(&file, KEPT), port);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{port}\n"));

        let taken = TcpListener::bind((Ipv6Addr::LOCALHOST, port + 2)).unwrap();
        assert!(!is_free(port));
        let next = chosen(&file, KEPT);
        assert_ne!(next, port);
        assert_eq!(chosen(&file, KEPT), next, "the new one is kept");
        drop(taken);
    }

    #[test]
    fn two_gateways_that_start_at_once_choose_two_ports() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let first = choose_from(&file("one"), None, SHARED).unwrap();
        let second = choose_from(&file("two"), None, SHARED).unwrap();
        assert_ne!(first.port(), second.port(), "nobody listens at either yet");
        let port = first.port();
        let again = choose_from(&file("one"), Some(first), SHARED).unwrap();
        assert_eq!(again.port(), port, "its own is no obstacle");
        drop(again);
        assert_eq!(chosen(&file("three"), SHARED), port, "let go");
    }

    #[test]
    fn a_file_that_makes_no_sense_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("upstream-port");
        for text in ["", "banana", "0", "80", "65535", "99999999999"] {
            std::fs::write(&file, text).unwrap();
            let port = chosen(&file, REPLACED);
            assert!(REPLACED.contains(&port), "{text:?} gave {port}");
        }
    }
}
