//! IP addresses and host names as the original sees them.
//!
//! Source: src/gateway/net.ts and packages/net-policy/src/ip.ts at 2026.9.6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A literal address, brackets and zone dropped; an IPv4 address inside IPv6 becomes plain IPv4, so that
/// `1.2.3.4` and `::ffff:1.2.3.4` are one client (GHSA-5847-rm3g-23mw).
pub fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let text = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address = if text.contains(':') {
        text.split('%').next().unwrap_or(text)
    } else {
        text
    };
    address.parse().ok().map(canonical)
}

pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

pub fn is_loopback(address: IpAddr) -> bool {
    canonical(address).is_loopback()
}

/// Loopback, RFC 1918, link-local, carrier-grade NAT and the special IPv6 ranges.
pub fn is_private_or_loopback(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => {
            !is_local_nat64(v6) && (is_special_v6(v6) || embedded_v4(v6).is_some_and(is_private_v4))
        }
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || (a == 100 && (64..128).contains(&b))
}

fn is_local_nat64(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [0x64, 0xff9b, 1, ..])
}

fn is_special_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || (s[0] & 0xffc0) == 0xfe80 // link-local
        || (s[0] & 0xfe00) == 0xfc00 // unique local
        || (s[0] & 0xffc0) == 0xfec0 // deprecated site-local
        || s[..4] == [0x100, 0, 0, 0] // discard
        || (s[0] == 0x2001 && s[1] == 2 && s[2] == 0) // benchmarking
        || (s[0] == 0x2001 && (s[1] & 0xfff0) == 0x20) // ORCHIDv2
        || (s[0] == 0x2001 && s[1] == 0xdb8) // documentation
        || (s[0] == 0x3fff && s[1] < 0x1000) // documentation
        || (s[0] == 0x2001 && s[1] < 0x200 && !is_named_2001(s)) // the rest of 2001::/23
}

/// Ranges inside 2001::/23 that have a name of their own in ipaddr.js and so are not "reserved".
fn is_named_2001(s: [u16; 8]) -> bool {
    s[1] == 0
        || s[1] == 3
        || (s[1] == 4 && s[2] == 0x112)
        || (s[1] & 0xfff0) == 0x10
        || (s[1] & 0xfff0) == 0x30
}

fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let join = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match s {
        [0, 0, 0, 0, 0xffff, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            join(high, low)
        }
        [0x2002, high, low, ..] => join(high, low),
        [0x2001, 0, .., high, low] => join(!high, !low),
        [0, 0, 0, 0, 0, 0, high, low] => join(high, low),
        [.., e, 0x5efe, high, low] if e & 0xfcff == 0 => join(high, low),
        _ => None,
    }
}

/// Whether `address` is in one of the listed addresses or CIDR ranges. A line that is neither matches nothing.
pub fn is_listed(address: IpAddr, list: &[String]) -> bool {
    list.iter().any(|entry| in_range(address, entry.trim()))
}

fn in_range(address: IpAddr, range: &str) -> bool {
    let address = canonical(address);
    let Some((base, bits)) = range.split_once('/') else {
        return parse(range) == Some(address);
    };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let width = if base.is_ipv4() { 32 } else { 128 };
    if bits > width {
        return false;
    }
    match (address, canonical(base)) {
        (IpAddr::V4(own), IpAddr::V4(base_v4)) => {
            let bits = if base.is_ipv6() {
                bits.saturating_sub(96)
            } else {
                bits
            };
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(own) & mask == u32::from(base_v4) & mask
        }
        (IpAddr::V6(own), IpAddr::V6(base)) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(own) & mask == u128::from(base) & mask
        }
        _ => false,
    }
}

/// The host of a `Host` header without its port, lower case; IPv6 without brackets. Empty when there is none.
pub fn host_name(host_header: &str) -> String {
    let host = host_header.trim().to_lowercase();
    if let Some(rest) = host.strip_prefix('[')
        && let Some((inside, _)) = rest.split_once(']')
    {
        return inside.to_owned();
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return host;
    }
    host.split(':').next().unwrap_or_default().to_owned()
}

/// `localhost` and loopback literals; not `0.0.0.0` or `::`.
pub fn is_loopback_host(host: &str) -> bool {
    let host = host.trim().to_lowercase();
    host.trim_end_matches('.') == "localhost" || parse(&host).is_some_and(is_loopback)
}

/// [`is_loopback_host`] and private literals.
pub fn is_private_or_loopback_host(host: &str) -> bool {
    let host = host.trim().to_lowercase();
    if host.trim_end_matches('.') == "localhost" {
        return true;
    }
    match parse(&host) {
        Some(IpAddr::V6(v6)) if v6.is_multicast() || v6.is_unspecified() => false,
        Some(address) => is_private_or_loopback(address),
        None => false,
    }
}

/// Whether this machine owns the address: only then can a socket be bound to it. `None` if that cannot be told.
pub fn is_own_interface(address: IpAddr) -> Option<bool> {
    match std::net::UdpSocket::bind((address, 0)) {
        Ok(_) => Some(true),
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => Some(false),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ghsa_5847_a_mapped_address_and_its_plain_form_are_one_client() {
        for text in [
            "1.2.3.4",
            "::ffff:1.2.3.4",
            "::ffff:102:304",
            "[::ffff:1.2.3.4]",
            " 1.2.3.4 ",
        ] {
            assert_eq!(
                parse(text).map(|ip| ip.to_string()).as_deref(),
                Some("1.2.3.4"),
                "{text}"
            );
        }
        for text in [
            "1.2.3",
            "01.2.3.4",
            "1.2.3.4:80",
            "",
            "localhost",
            "256.1.1.1",
            "0x7f.1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn private_and_loopback() {
        for (text, private, loopback) in [
            ("127.0.0.1", true, true),
            ("127.9.9.9", true, true),
            ("::1", true, true),
            ("::ffff:127.0.0.1", true, true),
            ("10.0.0.1", true, false),
            ("172.31.0.1", true, false),
            ("172.32.0.1", false, false),
            ("192.168.1.1", true, false),
            ("169.254.1.1", true, false),
            ("100.64.0.1", true, false),
            ("100.128.0.1", false, false),
            ("8.8.8.8", false, false),
            ("0.0.0.0", false, false),
            ("fe80::1%eth0", true, false),
            ("fd00::1", true, false),
            ("2a00::1", false, false),
            ("64:ff9b::a00:1", true, false),
            ("64:ff9b:1::a00:1", false, false),
            ("2002:a00:1::", true, false),
            ("2001:0:0:0:0:0:f5ff:fffe", true, false),
        ] {
            let address = parse(text).expect(text);
            assert_eq!(is_private_or_loopback(address), private, "{text}");
            assert_eq!(is_loopback(address), loopback, "{text}");
        }
    }

    #[test]
    fn lists_hold_addresses_and_ranges() {
        for (address, entry, expected) in [
            ("10.1.2.3", "10.0.0.0/8", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("::ffff:10.1.2.3", "10.1.2.3/32", true),
            ("10.1.2.3", "::ffff:10.0.0.0/104", true),
            ("1.1.1.1", "0.0.0.0/0", true),
            ("fd00::5", "fd00::/8", true),
            ("fd00::5", "10.0.0.0/8", false),
            ("10.1.2.3", "10.0.0.0/33", false),
            ("10.1.2.3", "proxy.local", false),
            ("10.1.2.3", "", false),
        ] {
            let address = parse(address).expect(address);
            assert_eq!(
                is_listed(address, &[entry.to_owned()]),
                expected,
                "{address} in {entry}"
            );
        }
    }

    #[test]
    fn host_names() {
        for (header, name) in [
            ("LocalHost:18789", "localhost"),
            ("[::1]:18789", "::1"),
            ("::1", "::1"),
            ("example.org", "example.org"),
            ("", ""),
        ] {
            assert_eq!(host_name(header), name, "{header}");
        }
        assert!(is_loopback_host("localhost."));
        assert!(!is_loopback_host("0.0.0.0"));
        assert!(is_private_or_loopback_host("192.168.0.9"));
        assert!(!is_private_or_loopback_host("::"));
        assert!(!is_private_or_loopback_host("gateway.example"));
    }
}
