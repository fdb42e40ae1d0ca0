//! `console`: where the console is, as a link that signs in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::target::{Target, environment};
use super::{To, print};
use crate::config::{AdminListen, OwnSettings};
use crate::console::PATH;

#[derive(Debug, clap::Args)]
pub(super) struct Console {
    /// Leave the secret out: the page asks for it.
    #[arg(long)]
    no_token: bool,
    #[command(flatten)]
    to: To,
}

pub(super) fn run(profile: Option<&str>, console: &Console) -> anyhow::Result<ExitCode> {
    let (_, paths) = environment(profile)?;
    let target = Target::resolve(profile, &console.to)?;
    let own = OwnSettings::load(&paths.own_file)?;
    let (scheme, address) = match own.admin_listen {
        // A port that the system chose is known to the running gateway alone; its own port has the page too.
        AdminListen::At(address) if address.port() != 0 && console.to.port.is_none() => {
            ("http", reachable(address))
        }
        _ if target.tls.is_some() => ("https", target.address),
        _ => ("http", target.address),
    };
    let secret = target
        .token
        .or(target.password)
        .filter(|_| !console.no_token);
    print(&link(scheme, address, secret.as_deref()));
    Ok(ExitCode::SUCCESS)
}

/// Every address of this machine is also its own.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The secret stands behind `#`, which a browser keeps to itself.
fn link(scheme: &str, address: SocketAddr, secret: Option<&str>) -> String {
    let secret = secret.map(|secret| utf8_percent_encode(secret, NON_ALPHANUMERIC));
    let secret = secret.map_or_else(String::new, |secret| format!("#token={secret}"));
    format!("{scheme}://{address}{PATH}/{secret}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_the_secret_where_no_server_sees_it() {
        let address = |text: &str| reachable(text.parse().expect("an address"));
        assert_eq!(
            link("http", address("0.0.0.0:18689"), Some("a+b c")),
            "http://127.0.0.1:18689/console/#token=a%2Bb%20c"
        );
        assert_eq!(
            link("https", address("[::]:1"), None),
            "https://[::1]:1/console/"
        );
    }
}
