//! The addresses that `gateway.bind` means.
//!
//! Source: `resolveGatewayBindHost` and `resolveGatewayListenHosts` in src/gateway/net.ts at 2026.9.6.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

use crate::config::settings::{self, Settings};
use crate::config::{AuthMode, BindMode, ConfigError, Env, Secret};
use crate::procfs;

/// What of the machine decides where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Surroundings {
    is_container: bool,
    /// The first address of an interface in Tailscale's range.
    tailnet: Option<Ipv4Addr>,
}

impl Surroundings {
    /// Looks for what this mode asks, and nothing else.
    pub(crate) fn look(env: &Env, bind: BindMode) -> Self {
        Self {
            is_container: bind == BindMode::Auto && settings::is_container(env),
            tailnet: if bind == BindMode::Tailnet {
                tailnet_of_this_machine()
            } else {
                None
            },
        }
    }

    /// With the tailnet's address that a service manager holds for us, while Tailscale itself is away.
    fn with_held(&self, passed: &[std::net::TcpListener]) -> Self {
        let held = passed.iter().filter_map(|held| held.local_addr().ok());
        Self {
            tailnet: self
                .tailnet
                .or_else(|| held.map(|address| address.ip()).find_map(tailnet)),
            ..self.clone()
        }
    }
}

fn tailnet_of_this_machine() -> Option<Ipv4Addr> {
    addresses_of_this_machine().into_iter().find_map(tailnet)
}

fn addresses_of_this_machine() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.iter().map(if_addrs::Interface::ip).collect(),
        Err(error) => {
            tracing::warn!(%error, "the network interfaces cannot be listed");
            Vec::new()
        }
    }
}

/// The machine's first addresses in its tailnet.
pub(crate) fn tailnet_addresses() -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let all = addresses_of_this_machine();
    let ipv6 = all.iter().find_map(|address| match address {
        // Source: `TAILNET_IPV6_CIDR`, fd7a:115c:a1e0::/48, in src/infra/tailnet.ts.
        IpAddr::V6(address) if address.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0] => {
            Some(*address)
        }
        _ => None,
    });
    (all.into_iter().find_map(tailnet), ipv6)
}

/// Source: `TAILNET_IPV4_CIDR`, 100.64.0.0/10, in src/infra/tailnet.ts.
fn tailnet(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) if address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64 => {
            Some(address)
        }
        _ => None,
    }
}

/// The address to listen on, and one beside it. Whether the second must be had is [`Beside`].
fn addresses(bind: BindMode, around: &Surroundings) -> (Ipv4Addr, Beside) {
    let loopback = (Ipv4Addr::LOCALHOST, Beside::IfThere(Ipv6Addr::LOCALHOST));
    let other = |address: Ipv4Addr| match address {
        Ipv4Addr::UNSPECIFIED => (address, Beside::Nothing),
        address => (address, Beside::Always(Ipv4Addr::LOCALHOST)),
    };
    match bind {
        BindMode::Auto if around.is_container => other(Ipv4Addr::UNSPECIFIED),
        BindMode::Loopback | BindMode::Auto => loopback,
        BindMode::Lan => other(Ipv4Addr::UNSPECIFIED),
        BindMode::Custom(Ipv4Addr::LOCALHOST) => loopback,
        BindMode::Custom(address) => other(address),
        BindMode::Tailnet => around.tailnet.map_or(loopback, other),
    }
}

/// [`addresses`], as far as it is safe to open them.
///
/// # Errors
/// An unsafe combination that somebody chose.
fn safe(settings: &Settings, around: &Surroundings) -> Result<(Ipv4Addr, Beside), ConfigError> {
    let (first, beside) = addresses(settings.bind, around);
    match settings.check_exposure(&first.to_string()) {
        // Chosen by nobody: what is not safe to open stays closed, and the gateway starts.
        Err(error) if settings.bind == BindMode::Auto && !first.is_loopback() => {
            tracing::warn!(%error, "listening inside this container alone; set gateway.bind to lan to be told what opening it takes");
            Ok(addresses(BindMode::Loopback, around))
        }
        checked => checked.map(|()| (first, beside)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    IfThere(Ipv6Addr),
    Always(Ipv4Addr),
}

/// Where a service manager is to listen for a gateway with these settings.
pub(crate) fn addresses_of(settings: &Settings, around: &Surroundings) -> Vec<SocketAddr> {
    let mut started = settings.clone();
    if started.auth.mode == AuthMode::Token && started.auth.token.is_none() {
        started.auth.token = Some(Secret::new("made at the first start"));
    }
    // What is refused is told at the start.
    let (first, beside) =
        safe(&started, around).unwrap_or_else(|_refused| addresses(settings.bind, around));
    let also: Option<IpAddr> = match beside {
        Beside::Nothing => None,
        // As for us, where the machine has it.
        Beside::IfThere(address) => std::net::TcpListener::bind((address, 0))
            .is_ok()
            .then(|| address.into()),
        Beside::Always(address) => Some(address.into()),
    };
    let all = std::iter::once(IpAddr::from(first)).chain(also);
    all.map(|address| SocketAddr::new(address, settings.port))
        .collect()
}

/// The sockets that a service manager listens on for us: where we would listen ourselves, and nowhere else.
///
/// # Errors
/// When they are others than the configuration asks for: more of them would open the gateway, fewer would close it.
fn take(
    first: Ipv4Addr,
    beside: &Beside,
    port: u16,
    passed: Vec<std::net::TcpListener>,
) -> Result<Vec<TcpListener>, String> {
    let unusable = |error: Error| format!("a passed socket can't be used: {error}");
    let held = passed.iter().map(std::net::TcpListener::local_addr);
    let held: Vec<SocketAddr> = held.collect::<Result<_, _>>().map_err(unusable)?;
    agree(&held, first, beside, port)?;
    let usable = passed.into_iter().map(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    usable.collect::<Result<_, _>>().map_err(unusable)
}

/// Whether these are the addresses that we would have ourselves.
fn agree(held: &[SocketAddr], first: Ipv4Addr, beside: &Beside, port: u16) -> Result<(), String> {
    let (also, must): (Option<IpAddr>, bool) = match *beside {
        Beside::Nothing => (None, false),
        Beside::IfThere(address) => (Some(address.into()), false),
        Beside::Always(address) => (Some(address.into()), true),
    };
    let first = SocketAddr::new(first.into(), port);
    let also = also.map(|address| SocketAddr::new(address, port));
    let is_asked_for = |address: &SocketAddr| *address == first || also.as_ref() == Some(address);
    let mut needed = std::iter::once(first).chain(also.filter(|_| must));
    if held.iter().all(is_asked_for) && needed.all(|address| held.contains(&address)) {
        return Ok(());
    }
    Err(format!(
        "the service manager listens on {} for this gateway, which is to listen on {}: install its socket unit again (`openclaw-gateway service install --socket`) or change ListenStream= in it; or change gateway.bind and gateway.port",
        listed(held.iter().copied()),
        listed(std::iter::once(first).chain(also)),
    ))
}

fn listed(addresses: impl Iterator<Item = SocketAddr>) -> String {
    let all: Vec<String> = addresses.map(|address| address.to_string()).collect();
    all.join(" and ")
}

/// Listens where the settings say, or on what the service manager has `passed`.
///
/// # Errors
/// An unsafe combination, what was passed and is not meant, or who holds the port and what to do about it.
pub(crate) async fn bind(
    settings: &Settings,
    port: u16,
    around: &Surroundings,
    passed: Vec<std::net::TcpListener>,
) -> Result<Vec<TcpListener>, String> {
    let around = &around.with_held(&passed);
    if settings.bind == BindMode::Tailnet && around.tailnet.is_none() {
        tracing::warn!(
            "gateway.bind is tailnet and no interface has a Tailscale address: listening on this machine alone; start Tailscale, then this gateway again"
        );
    }
    let (first, beside) = safe(settings, around).map_err(|error| error.to_string())?;
    if !passed.is_empty() {
        return take(first, &beside, port, passed);
    }
    let first = SocketAddr::new(first.into(), port);
    let listener = TcpListener::bind(first)
        .await
        .map_err(|error| held(first, &error))?;
    let port = listener.local_addr().map_or(port, |address| address.port());
    let mut listeners = vec![listener];
    let (also, must): (IpAddr, bool) = match beside {
        Beside::Nothing => return Ok(listeners),
        Beside::IfThere(address) => (address.into(), false),
        Beside::Always(address) => (address.into(), true),
    };
    let also = SocketAddr::new(also, port);
    match TcpListener::bind(also).await {
        Ok(listener) => listeners.push(listener),
        Err(error) if must || error.kind() == ErrorKind::AddrInUse => {
            return Err(held(also, &error));
        }
        Err(error) => tracing::debug!(%error, address = %also, "not listening there as well"),
    }
    Ok(listeners)
}

/// Who holds a port and what to do about it.
fn held(address: SocketAddr, error: &Error) -> String {
    if error.kind() != ErrorKind::AddrInUse {
        return format!("cannot listen on {address}: {error}");
    }
    let port = address.port();
    match procfs::holder_of(port) {
        Some(holder @ procfs::Holder::OpenClaw(_)) => format!(
            "port {port} is held by {holder}; stop it with `openclaw gateway stop`, or start this gateway with --port <other>"
        ),
        Some(holder @ procfs::Holder::Manager(_)) => format!(
            "port {port} is held by {holder}; `systemctl --user list-sockets` or `systemctl list-sockets` names the unit: start the service that belongs to it, or stop it, or start this gateway with --port <other>"
        ),
        Some(holder) => format!(
            "port {port} is held by {holder}; stop it, or start this gateway with --port <other>"
        ),
        None => format!(
            "port {port} is in use; stop what holds it, or start this gateway with --port <other>"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_has_the_original_s_addresses() {
        let home = Surroundings {
            is_container: false,
            tailnet: None,
        };
        let away = Surroundings {
            is_container: true,
            tailnet: Some(Ipv4Addr::new(100, 101, 1, 2)),
        };
        let own = || (Ipv4Addr::LOCALHOST, Beside::IfThere(Ipv6Addr::LOCALHOST));
        let all = || (Ipv4Addr::UNSPECIFIED, Beside::Nothing);
        let with_loopback = |address| (address, Beside::Always(Ipv4Addr::LOCALHOST));
        for (mode, at_home, in_container) in [
            (BindMode::Loopback, own(), own()),
            (BindMode::Auto, own(), all()),
            (BindMode::Lan, all(), all()),
            (
                BindMode::Tailnet,
                own(),
                with_loopback(Ipv4Addr::new(100, 101, 1, 2)),
            ),
            (BindMode::Custom(Ipv4Addr::LOCALHOST), own(), own()),
            (
                BindMode::Custom(Ipv4Addr::new(10, 0, 0, 1)),
                with_loopback(Ipv4Addr::new(10, 0, 0, 1)),
                with_loopback(Ipv4Addr::new(10, 0, 0, 1)),
            ),
        ] {
            assert_eq!(addresses(mode, &home), at_home, "{mode:?}");
            assert_eq!(
                addresses(mode, &away),
                in_container,
                "{mode:?} in a container"
            );
        }
    }

    #[test]
    fn passed_sockets_are_those_that_the_configuration_asks_for() {
        #[track_caller]
        fn check(bind: BindMode, held: &[&str], fits: bool) {
            let home = Surroundings {
                is_container: false,
                tailnet: None,
            };
            let (first, beside) = addresses(bind, &home);
            let held: Vec<SocketAddr> = held
                .iter()
                .map(|address| address.parse().expect("an address"))
                .collect();
            let answer = agree(&held, first, &beside, 18_789);
            assert_eq!(answer.is_ok(), fits, "{answer:?}");
            if let Err(why) = answer {
                assert!(why.contains(&held[0].to_string()), "{why}");
                assert!(why.contains(&format!("{first}:18789")), "{why}");
            }
        }
        let custom = BindMode::Custom(Ipv4Addr::new(10, 0, 0, 1));
        check(BindMode::Loopback, &["127.0.0.1:18789"], true);
        let both = ["127.0.0.1:18789", "[::1]:18789"];
        check(BindMode::Loopback, &both, true);
        check(BindMode::Lan, &["0.0.0.0:18789"], true);
        check(custom, &["127.0.0.1:18789", "10.0.0.1:18789"], true);
        // Open where it is to be closed, and the other way round; another port, and half of what is asked for.
        check(BindMode::Loopback, &["0.0.0.0:18789"], false);
        check(BindMode::Loopback, &["[::]:18789"], false);
        check(BindMode::Loopback, &["192.168.0.2:18789", both[0]], false);
        check(BindMode::Lan, &["127.0.0.1:18789"], false);
        check(BindMode::Loopback, &["127.0.0.1:18790"], false);
        check(BindMode::Loopback, &["[::1]:18789"], false);
        check(custom, &["10.0.0.1:18789"], false);
    }

    #[test]
    fn a_service_manager_listens_in_a_container_where_the_gateway_would() {
        let around = Surroundings {
            is_container: true,
            tailnet: None,
        };
        let first = |gateway: serde_json::Value| {
            let config = serde_json::json!({ "gateway": gateway });
            let settings = settings::tests::read(&config).expect("valid");
            addresses_of(&settings, &around)[0].to_string()
        };
        let closed = serde_json::json!({ "bind": "auto" });
        assert_eq!(first(closed), "127.0.0.1:18789");
        // Its token is made at the first start.
        let open = serde_json::json!({ "bind": "auto", "controlUi": { "enabled": false } });
        assert_eq!(first(open), "0.0.0.0:18789");
        let open = serde_json::json!({ "bind": "auto", "auth": { "mode": "none" }, "controlUi": { "enabled": false } });
        assert_eq!(first(open), "127.0.0.1:18789");
    }

    #[test]
    fn tailscale_s_range_is_told_from_its_neighbours() {
        let is = |address: &str| tailnet(address.parse().expect("an address")).is_some();
        assert!(is("100.64.0.0") && is("100.127.255.255"));
        assert!(
            !is("100.63.255.255")
                && !is("100.128.0.0")
                && !is("101.64.0.0")
                && !is("fd7a:115c:a1e0::1")
        );
    }
}
