//! What the service manager is told: that we are ready, stopping, and alive; and the sockets that it holds for us.
//!
//! Source: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3). One datagram each; without `NOTIFY_SOCKET` nothing is said.

use std::net::TcpListener;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use socket2::Socket;

use crate::config::Env;

/// The service manager's socket, when there is one.
#[derive(Debug)]
pub(crate) struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// Silence for longer than this is death to the service manager.
    watchdog: Option<Duration>,
}

impl Notifier {
    pub(crate) fn new(env: &Env) -> Self {
        let to = env.trimmed("NOTIFY_SOCKET").and_then(|path| {
            let to = address(path).and_then(|to| Ok((UnixDatagram::unbound()?, to)));
            to.inspect_err(|error| tracing::warn!(%error, path, "NOTIFY_SOCKET can't be used"))
                .ok()
        });
        let number = |name| env.trimmed(name).and_then(|text| text.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC")
            .filter(|usec| *usec > 0 && is_ours)
            .map(Duration::from_micros);
        Self { to, watchdog }
    }

    /// A manager that does not listen costs a line in the log and nothing else.
    fn say(&self, state: &str) {
        if let Some((socket, to)) = &self.to
            && let Err(error) = socket.send_to_addr(state.as_bytes(), to)
        {
            tracing::warn!(%error, state, "the service manager can't be told");
        }
    }

    pub(crate) fn ready(&self) {
        self.say("READY=1\nSTATUS=serving");
    }

    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping");
    }

    /// Says twice in each period that the runtime still turns. Ends only by being dropped.
    pub(crate) async fn keep_alive(&self) {
        let Some(period) = self.watchdog.filter(|_| self.to.is_some()) else {
            return std::future::pending().await;
        };
        let mut every = tokio::time::interval(period / 2);
        loop {
            every.tick().await;
            self.say("WATCHDOG=1");
        }
    }
}

/// The first descriptor that a service manager passes.
const PASSED_FROM: RawFd = 3;
/// More than a gateway has addresses is a mistake.
const PASSED_MAX: RawFd = 16;

/// The sockets that the service manager listens on for us, and goes on to when we end; none without one. To be asked once, since
/// each is owned by whoever gets it.
///
/// # Errors
/// What was passed is no listening TCP socket.
pub(crate) fn passed_sockets(env: &Env) -> Result<Vec<TcpListener>, String> {
    let number = |name| env.trimmed(name).and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok());
    let count = count.unwrap_or_default();
    if count > PASSED_MAX {
        return Err(format!(
            "{count} sockets were passed (LISTEN_FDS), at most {PASSED_MAX} can be"
        ));
    }
    (PASSED_FROM..PASSED_FROM + count).map(passed).collect()
}

#[expect(
    unsafe_code,
    reason = "a descriptor becomes owned here, as sd_listen_fds(3) hands it over"
)]
fn passed(fd: RawFd) -> Result<TcpListener, String> {
    let wrong = |what: &str| format!("descriptor {fd} of LISTEN_FDS {what}: see the .socket unit");
    // A number that is none must not become owned.
    if std::fs::read_link(format!("/proc/self/fd/{fd}")).is_err() {
        return Err(wrong("is not open"));
    }
    // SAFETY: it is open, and LISTEN_PID says that it was passed to this process, in which nothing else owns it.
    let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // What we start is not to hold our port.
    socket
        .set_cloexec(true)
        .map_err(|error| wrong(&error.to_string()))?;
    let is_tcp = socket
        .local_addr()
        .is_ok_and(|address| address.as_socket().is_some());
    if !is_tcp || !socket.is_listener().unwrap_or_default() {
        return Err(wrong("is no TCP socket that listens"));
    }
    Ok(socket.into())
}

/// A path, or `@name` in Linux's abstract namespace.
fn address(path: &str) -> std::io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = path.strip_prefix('@') {
        use std::os::linux::net::SocketAddrExt as _;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(more: &[(&str, &str)]) -> Env {
        let mut env = Env::default();
        for (name, value) in more {
            env.set(*name, *value);
        }
        env
    }

    fn next(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let read = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }

    #[tokio::test]
    async fn a_manager_hears_ready_alive_and_stopping() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let path = path.to_str().unwrap();
        let notifier = Notifier::new(&env(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "20000")]));
        notifier.ready();
        assert_eq!(next(&manager), "READY=1\nSTATUS=serving");
        let heard = tokio::task::spawn_blocking(move || {
            let heard = [next(&manager), next(&manager)];
            (heard, manager)
        });
        let (heard, manager) = tokio::select! {
            heard = heard => heard.unwrap(),
            () = notifier.keep_alive() => unreachable!("it never ends"),
        };
        assert_eq!(heard, ["WATCHDOG=1", "WATCHDOG=1"]);
        manager.set_nonblocking(true).unwrap();
        while manager.recv(&mut [0; 64]).is_ok() {}
        manager.set_nonblocking(false).unwrap();
        notifier.stopping();
        assert_eq!(next(&manager), "STOPPING=1\nSTATUS=stopping");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_name_is_one() {
        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("openclaw-rs-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        Notifier::new(&env(&[("NOTIFY_SOCKET", &format!("@{name}"))])).ready();
        assert_eq!(next(&manager), "READY=1\nSTATUS=serving");
    }

    #[test]
    fn nothing_is_said_without_a_manager_and_no_watchdog_is_kept_for_another_process() {
        let silent = Notifier::new(&env(&[]));
        assert!(silent.to.is_none() && silent.watchdog.is_none());
        silent.ready();
        let other = Notifier::new(&env(&[("WATCHDOG_USEC", "20000"), ("WATCHDOG_PID", "1")]));
        assert!(other.watchdog.is_none());
        Notifier::new(&env(&[("NOTIFY_SOCKET", "/nowhere/notify")])).ready();
    }
}
