//! The port of the supervised gateway: kept between starts, and free together with the ports it derives.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::Path;

/// Ports the original derives from its own by adding: the MCP App sandbox host, the browser control server, and the
/// start of the range for managed browsers' debug ports.
/// Source: `SANDBOX_HOST_PORT_OFFSET`, extensions/browser/src/config/port-defaults.ts at 2026.9.6.
const DERIVED: [u16; 3] = [1, 2, 11];
/// A managed browser takes the first free port of a range this long, so only its start is asked for here.
const BROWSER_KEPT: u16 = 99;
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

/// The port kept in `file` if it is still free, else the first that is; written to `file`.
///
/// # Errors
/// When none is free or `file` can't be written.
pub fn choose(file: &Path) -> Result<u16, PortError> {
    choose_from(file, FIRST..=LAST)
}

fn choose_from(file: &Path, range: RangeInclusive<u16>) -> Result<u16, PortError> {
    let kept = std::fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse::<u16>().ok())
        .filter(|&port| port >= 1024 && port <= u16::MAX - DERIVED[2] - BROWSER_KEPT);
    if let Some(port) = kept
        && is_free(port)
    {
        return Ok(port);
    }
    let port = range
        .step_by(usize::from(STEP))
        .find(|&port| is_free(port))
        .ok_or(PortError::NoneFree)?;
    let not_kept = |error: std::io::Error| PortError::NotKept {
        file: file.display().to_string(),
        why: error.to_string(),
    };
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(not_kept)?;
    }
    std::fs::write(file, format!("{port}\n")).map_err(not_kept)?;
    Ok(port)
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

    #[test]
    fn the_port_is_kept_while_it_is_free_and_left_when_a_derived_one_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state/upstream-port");
        let port = choose_from(&file, KEPT).unwrap();
        assert_eq!(choose_from(&file, KEPT).unwrap(), port);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{port}\n"));

        let taken = TcpListener::bind((Ipv6Addr::LOCALHOST, port + 2)).unwrap();
        assert!(!is_free(port));
        let next = choose_from(&file, KEPT).unwrap();
        assert_ne!(next, port);
        assert_eq!(
            choose_from(&file, KEPT).unwrap(),
            next,
            "the new one is kept"
        );
        drop(taken);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("upstream-port");
        for text in ["", "banana", "0", "80", "65535", "99999999999"] {
            std::fs::write(&file, text).unwrap();
            let port = choose_from(&file, REPLACED).unwrap();
            assert!(REPLACED.contains(&port), "{text:?} gave {port}");
        }
    }
}
