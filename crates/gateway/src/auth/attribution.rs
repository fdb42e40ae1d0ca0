//! Who is at the other end of a socket: the client's address and whether it is on this machine.
//!
//! Decided once per request, before any credential is read. Source: src/gateway/ingress-attribution.ts at 2026.9.6.
//! What Tailscale says of a client counts at the listener that only Tailscale was given (`gateway.tailscale`); at the
//! ordinary one its headers are a proxy's, never an identity.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use super::address;
use super::http::HttpRefusal;

/// Which listener a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Door {
    #[default]
    Ordinary,
    /// The one whose address only `tailscale serve` was told.
    Serve,
    /// The same for `tailscale funnel`.
    Funnel,
}

/// The other end of a socket, and where it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteEnd {
    pub address: SocketAddr,
    pub door: Door,
}

impl RemoteEnd {
    pub const fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

impl From<SocketAddr> for RemoteEnd {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            door: Door::Ordinary,
        }
    }
}

impl fmt::Display for RemoteEnd {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(to)
    }
}

/// The settings that decide; a view into [`super::AuthSettings`].
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// Addresses and CIDR ranges of proxies whose forwarded headers count.
    pub trusted_proxies: &'a [String],
    /// Take `X-Real-IP` from a trusted proxy that sends no usable `X-Forwarded-For`.
    pub allow_real_ip_fallback: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribution {
    pub ingress: Ingress,
    /// The socket's other end, canonical.
    pub peer: IpAddr,
    /// The client: `peer`, or what a trusted proxy says. Canonical.
    pub client_ip: IpAddr,
    pub host: Option<String>,
    pub origin: Option<String>,
    pub user_agent: Option<String>,
    /// `x-openclaw-scopes`: caps the scopes of the connection.
    pub scopes_cap: Option<String>,
    /// `sec-fetch-site`, for browser requests without an `Origin`.
    pub fetch_site: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    /// A loopback socket without any sign of a proxy.
    DirectLocal,
    DirectRemote,
    /// A trusted proxy that named a client which is not loopback.
    TrustedProxy {
        funnel: bool,
    },
    /// Tailscale's own proxy, for a client in the tailnet.
    TailscaleServe,
    /// Tailscale's own proxy, for anybody, and for clients in the tailnet that used the public address.
    TailscaleFunnel,
}

/// Where the client is, before its credentials are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locality {
    DirectLocal,
    Remote,
}

impl Attribution {
    /// # Errors
    /// The 403 that goes out instead of an upgrade or an answer, when a proxy speaks for a client that it may not
    /// speak for.
    pub fn of(
        peer: IpAddr,
        door: Door,
        headers: &HeaderMap,
        trust: Trust<'_>,
    ) -> Result<Self, HttpRefusal> {
        let peer = address::canonical(peer);
        let resolved = match door {
            Door::Ordinary => resolve(peer, headers, trust),
            Door::Serve | Door::Funnel => through_tailscale(peer, door, headers),
        };
        let (ingress, client_ip) = resolved.ok_or_else(HttpRefusal::proxy_attribution_required)?;
        Ok(Self {
            ingress,
            peer,
            client_ip,
            host: header(headers, "host"),
            origin: header(headers, "origin"),
            user_agent: header(headers, "user-agent"),
            scopes_cap: header(headers, "x-openclaw-scopes"),
            fetch_site: header(headers, "sec-fetch-site"),
        })
    }

    pub fn locality(&self) -> Locality {
        match self.ingress {
            Ingress::DirectLocal => Locality::DirectLocal,
            Ingress::DirectRemote
            | Ingress::TrustedProxy { .. }
            | Ingress::TailscaleServe
            | Ingress::TailscaleFunnel => Locality::Remote,
        }
    }

    pub fn is_local(&self) -> bool {
        self.ingress == Ingress::DirectLocal
    }

    pub fn forwarded(&self) -> bool {
        matches!(
            self.ingress,
            Ingress::TrustedProxy { .. } | Ingress::TailscaleServe | Ingress::TailscaleFunnel
        )
    }

    /// The address that may be stored and shown; `None` for local clients.
    pub fn reported_ip(&self) -> Option<IpAddr> {
        (!self.is_local() && !address::is_loopback(self.client_ip)).then_some(self.client_ip)
    }

    /// A browser that sent a non-blank `Origin`.
    pub fn browser_origin(&self) -> Option<&str> {
        self.origin
            .as_deref()
            .filter(|origin| !origin.trim().is_empty())
    }
}

fn resolve(peer: IpAddr, headers: &HeaderMap, trust: Trust<'_>) -> Option<(Ingress, IpAddr)> {
    let proxied = headers.keys().any(|name| is_proxy_header(name.as_str()));
    if address::is_loopback(peer) && !proxied {
        return Some((Ingress::DirectLocal, peer));
    }
    if address::is_listed(peer, trust.trusted_proxies) {
        let client = forwarded_client(headers, trust)?;
        let funnel = header(headers, "tailscale-funnel-request").as_deref() == Some("?1");
        return (!address::is_loopback(client))
            .then_some((Ingress::TrustedProxy { funnel }, client));
    }
    (!proxied).then_some((Ingress::DirectRemote, peer))
}

/// A request at the listener that Tailscale alone was told of: it must look like Tailscale's, from this machine.
fn through_tailscale(peer: IpAddr, door: Door, headers: &HeaderMap) -> Option<(Ingress, IpAddr)> {
    let has = |name| header(headers, name).is_some_and(|value| !value.is_empty());
    let is_tailscale = address::is_loopback(peer)
        && has("x-forwarded-for")
        && has("x-forwarded-proto")
        && has("x-forwarded-host");
    let proxies = ["127.0.0.1".to_owned(), "::1".to_owned()];
    let trust = Trust {
        trusted_proxies: &proxies,
        allow_real_ip_fallback: false,
    };
    let client = is_tailscale.then(|| forwarded_client(headers, trust))??;
    if address::is_loopback(client) {
        return None;
    }
    let marker = header(headers, "tailscale-funnel-request").filter(|marker| !marker.is_empty());
    let ingress = match (door, marker.as_deref()) {
        (Door::Funnel, None | Some("?1")) => Ingress::TailscaleFunnel,
        (Door::Serve, None) => Ingress::TailscaleServe,
        _ => return None,
    };
    Some((ingress, client))
}

fn is_proxy_header(name: &str) -> bool {
    name.starts_with("x-forwarded-")
        || matches!(
            name,
            "forwarded"
                | "x-real-ip"
                | "tailscale-funnel-request"
                | "tailscale-headers-info"
                | "tailscale-user-login"
                | "tailscale-user-name"
                | "tailscale-user-profile-pic"
        )
}

/// The nearest hop that is no proxy of ours. Source: `resolveForwardedClientIp` in src/gateway/net.ts at 2026.9.6.
fn forwarded_client(headers: &HeaderMap, trust: Trust<'_>) -> Option<IpAddr> {
    let chain = header(headers, "x-forwarded-for").unwrap_or_default();
    let hop = chain.split(',').filter_map(hop_address).rev().find(|hop| {
        !address::is_loopback(*hop) && !address::is_listed(*hop, trust.trusted_proxies)
    });
    hop.or_else(|| {
        let real = header(headers, "x-real-ip").filter(|_| trust.allow_real_ip_fallback)?;
        hop_address(&real)
    })
}

/// `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]:80`.
fn hop_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Some((inside, _)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address::parse(inside);
    }
    address::parse(text).or_else(|| {
        let (host, _) = text.rsplit_once(':')?;
        host.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4)
    })
}

/// A header's value; repeated headers are joined as Node joins them, `Host` and `User-Agent` keep the first.
pub fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers
        .get_all(name)
        .iter()
        .map(|value| value.as_bytes().iter().map(|byte| char::from(*byte)));
    let mut joined: String = values.next()?.collect();
    if !matches!(name, "host" | "user-agent" | "authorization") {
        for value in values {
            joined.push_str(", ");
            joined.extend(value);
        }
    }
    Some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        peer: &str,
        pairs: &[(&str, &str)],
        trusted: &[&str],
        expected: Option<(Ingress, &str)>,
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                http::HeaderName::from_bytes(name.as_bytes()).expect("header name"),
                value.parse().expect("header value"),
            );
        }
        let trusted_proxies: Vec<String> =
            trusted.iter().map(|entry| (*entry).to_owned()).collect();
        let trust = Trust {
            trusted_proxies: &trusted_proxies,
            allow_real_ip_fallback: true,
        };
        let got = Attribution::of(peer.parse().expect("peer"), Door::Ordinary, &headers, trust);
        let got = got
            .as_ref()
            .ok()
            .map(|own| (own.ingress, own.client_ip.to_string()));
        let expected = expected.map(|(ingress, ip)| (ingress, ip.to_owned()));
        assert_eq!(got, expected, "{peer} {pairs:?} trusted {trusted:?}");
    }

    #[test]
    fn ingress_of_a_socket() {
        let local = Some((Ingress::DirectLocal, "127.0.0.1"));
        let proxied = |ip| Some((Ingress::TrustedProxy { funnel: false }, ip));
        check("127.0.0.1", &[("host", "gateway.example")], &[], local);
        check("::ffff:127.0.0.1", &[], &["127.0.0.1"], local);
        check("::1", &[], &[], Some((Ingress::DirectLocal, "::1")));
        check("127.0.0.1", &[("x-forwarded-for", "1.2.3.4")], &[], None);
        check("127.0.0.1", &[("x-forwarded-proto", "https")], &[], None);
        check("127.0.0.1", &[("forwarded", "for=1.2.3.4")], &[], None);
        check("127.0.0.1", &[("tailscale-user-login", "a@b")], &[], None);
        check(
            "127.0.0.1",
            &[("x-forwarded-for", "1.2.3.4")],
            &["127.0.0.1"],
            proxied("1.2.3.4"),
        );
        check(
            "127.0.0.1",
            &[("x-forwarded-for", "127.0.0.1")],
            &["127.0.0.1"],
            None,
        );
        check(
            "127.0.0.1",
            &[("x-real-ip", "9.9.9.9")],
            &["127.0.0.1"],
            proxied("9.9.9.9"),
        );
        check("10.0.0.2", &[], &["10.0.0.0/8"], None);
        check(
            "10.0.0.2",
            &[("x-forwarded-for", "6.6.6.6, 1.2.3.4:77, 10.0.0.9")],
            &["10.0.0.0/8"],
            proxied("1.2.3.4"),
        );
        check(
            "10.0.0.2",
            &[
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-for", "[2a00::1]:5"),
            ],
            &["10.0.0.0/8"],
            proxied("2a00::1"),
        );
        check(
            "8.8.8.8",
            &[],
            &[],
            Some((Ingress::DirectRemote, "8.8.8.8")),
        );
        check("8.8.8.8", &[("x-forwarded-for", "1.1.1.1")], &[], None);
        check(
            "10.0.0.2",
            &[
                ("x-forwarded-for", "6.6.6.6"),
                ("tailscale-funnel-request", "?1"),
            ],
            &["10.0.0.2"],
            Some((Ingress::TrustedProxy { funnel: true }, "6.6.6.6")),
        );
    }
}
