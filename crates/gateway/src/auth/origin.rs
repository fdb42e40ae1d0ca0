//! The browser-origin rule and the Control UI build rule.
//!
//! Source: src/gateway/origin-check.ts, src/gateway/server/ws-origin-policy.ts and
//! src/gateway/server/ws-connection/control-ui-build-admission.ts at 2026.9.6.

use super::address;

/// What a connection keeps so that a changed allow-list can close it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrowserOrigin {
    pub request_host: Option<String>,
    pub origin: Option<String>,
    pub is_local: bool,
}

/// Which rule let an origin in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    AllowList,
    HostHeaderFallback,
    PrivateSameOrigin,
    LocalLoopback,
}

impl BrowserOrigin {
    /// # Errors
    /// `origin missing or invalid` or `origin not allowed`.
    pub fn check(
        &self,
        allowed: &[String],
        host_header_fallback: bool,
    ) -> Result<Matched, &'static str> {
        let origin = self
            .origin
            .as_deref()
            .and_then(Origin::parse)
            .ok_or("origin missing or invalid")?;
        if allowed.iter().any(|entry| {
            let entry = entry.trim().to_lowercase();
            entry == "*" || entry == origin.text
        }) {
            return Ok(Matched::AllowList);
        }
        let host = normalize_host(self.request_host.as_deref());
        let same_host = !host.is_empty() && origin.host == host;
        if host_header_fallback && same_host {
            return Ok(Matched::HostHeaderFallback);
        }
        if same_host && is_trusted_host(&host, self.is_local) {
            return Ok(Matched::PrivateSameOrigin);
        }
        if self.is_local && address::is_loopback_host(&origin.hostname) {
            return Ok(Matched::LocalLoopback);
        }
        Err("origin not allowed")
    }
}

/// Whether the page came from this gateway itself.
pub fn is_gateway_host(request_host: Option<&str>, origin: Option<&str>) -> bool {
    let host = normalize_host(request_host);
    !host.is_empty()
        && origin
            .and_then(Origin::parse)
            .is_some_and(|origin| origin.host == host)
}

/// A canonical Chrome extension origin, or nothing.
pub fn chrome_extension(origin: Option<&str>) -> Option<String> {
    let origin = Origin::parse(origin?)?;
    let id = origin.text.strip_prefix("chrome-extension://")?;
    (id.len() == 32 && id.bytes().all(|byte| (b'a'..=b'p').contains(&byte))).then_some(origin.text)
}

/// The key that failures of one web page are counted under.
pub fn rate_limit_key(origin: &str) -> Option<String> {
    Origin::parse_loosely(origin).map(|origin| format!("browser-origin:{}", origin.text))
}

/// Host name of an origin, IPv6 in brackets; empty if there is none.
pub fn hostname(origin: Option<&str>) -> String {
    origin
        .and_then(Origin::parse_loosely)
        .map(|origin| origin.hostname)
        .unwrap_or_default()
}

fn normalize_host(host: Option<&str>) -> String {
    host.unwrap_or_default().trim().to_lowercase()
}

fn is_trusted_host(host_header: &str, is_local: bool) -> bool {
    let host = address::host_name(host_header);
    if host.is_empty() {
        return false;
    }
    if address::is_loopback_host(&host) {
        return is_local;
    }
    match address::parse(&host) {
        Some(ip) => address::is_private_or_loopback(ip),
        None => host.ends_with(".local") || host.ends_with(".ts.net"),
    }
}

/// A serialised origin: lower case, default port dropped.
struct Origin {
    text: String,
    host: String,
    hostname: String,
}

impl Origin {
    fn parse(raw: &str) -> Option<Self> {
        let raw = raw.trim();
        let (_, rest) = raw.split_once("://")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() || rest.contains(['/', '?', '#', '\\']) {
            return None;
        }
        Self::parse_loosely(raw)
    }

    /// As `new URL(raw)`: a path or query is dropped, but user and password make it no origin.
    fn parse_loosely(raw: &str) -> Option<Self> {
        let (scheme, rest) = raw.trim().split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let mut letters = scheme.bytes();
        if !letters.next()?.is_ascii_lowercase()
            || !letters
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'-'))
        {
            return None;
        }
        let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
        let (hostname, port) = split_port(authority)?;
        let hostname = canonical_host(hostname)?;
        let default = match scheme.as_str() {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            "ftp" => Some(21),
            _ => None,
        };
        let host = match port.filter(|port| Some(*port) != default) {
            Some(port) => format!("{hostname}:{port}"),
            None => hostname.clone(),
        };
        Some(Self {
            text: format!("{scheme}://{host}"),
            host,
            hostname,
        })
    }
}

fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let port_at = if authority.starts_with('[') {
        let end = authority.find(']')?;
        if authority.len() > end + 1 && !authority[end + 1..].starts_with(':') {
            return None;
        }
        (authority.len() > end + 1).then_some(end + 1)
    } else {
        authority.find(':')
    };
    let Some(at) = port_at else {
        return Some((authority, None));
    };
    let digits = &authority[at + 1..];
    if digits.is_empty() {
        return Some((&authority[..at], None));
    }
    let numeric = digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse().ok().filter(|_| numeric)?;
    Some((&authority[..at], Some(port)))
}

/// Browsers send hosts in ASCII (punycode) and addresses in their usual form; anything else is no origin.
fn canonical_host(host: &str) -> Option<String> {
    let host = host.to_ascii_lowercase();
    if let Some(inside) = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return inside
            .parse::<std::net::Ipv6Addr>()
            .ok()
            .map(|ip| format!("[{ip}]"));
    }
    let clean = !host.is_empty()
        && host.bytes().all(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'.' | b'-'
                        | b'_'
                        | b'~'
                        | b'!'
                        | b'$'
                        | b'&'
                        | b'\''
                        | b'('
                        | b')'
                        | b'*'
                        | b'+'
                        | b','
                        | b';'
                        | b'='
                )
        });
    clean.then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_allowed_in_the_originals_order() {
        let allowed = vec![
            "https://ui.example".to_owned(),
            "chrome-extension://abc".to_owned(),
        ];
        let missing = Err("origin missing or invalid");
        let refused = Err("origin not allowed");
        for (origin, host, local, fallback, expected) in [
            (None, "127.0.0.1:18789", true, false, missing),
            (Some("null"), "127.0.0.1:18789", true, false, missing),
            (
                Some("http://u@127.0.0.1:18789"),
                "127.0.0.1:18789",
                true,
                false,
                missing,
            ),
            (
                Some("http://127.0.0.1:18789/x"),
                "127.0.0.1:18789",
                true,
                false,
                missing,
            ),
            (
                Some("https://UI.example/"),
                "x",
                false,
                false,
                Ok(Matched::AllowList),
            ),
            (
                Some("https://ui.example:443"),
                "x",
                false,
                false,
                Ok(Matched::AllowList),
            ),
            (Some("https://ui.example:444"), "x", false, false, refused),
            (
                Some("chrome-extension://abc"),
                "x",
                false,
                false,
                Ok(Matched::AllowList),
            ),
            (
                Some("https://g.example"),
                "g.example",
                false,
                true,
                Ok(Matched::HostHeaderFallback),
            ),
            (
                Some("https://g.example"),
                "g.example",
                false,
                false,
                refused,
            ),
            (
                Some("http://127.0.0.1:18789"),
                "127.0.0.1:18789",
                true,
                false,
                Ok(Matched::PrivateSameOrigin),
            ),
            (
                Some("http://127.0.0.1:18789"),
                "127.0.0.1:18789",
                false,
                false,
                refused,
            ),
            (
                Some("http://192.168.1.2:1"),
                "192.168.1.2:1",
                false,
                false,
                Ok(Matched::PrivateSameOrigin),
            ),
            (Some("http://8.8.8.8:1"), "8.8.8.8:1", false, false, refused),
            (
                Some("http://box.local"),
                "box.local",
                false,
                false,
                Ok(Matched::PrivateSameOrigin),
            ),
            (
                Some("http://localhost:5173"),
                "127.0.0.1:18789",
                true,
                false,
                Ok(Matched::LocalLoopback),
            ),
            (
                Some("http://[::1]:5173"),
                "127.0.0.1:18789",
                true,
                false,
                Ok(Matched::LocalLoopback),
            ),
            (
                Some("http://evil.example"),
                "127.0.0.1:18789",
                true,
                false,
                refused,
            ),
            (
                Some("http://localhost:5173"),
                "127.0.0.1:18789",
                false,
                false,
                refused,
            ),
        ] {
            let own = BrowserOrigin {
                request_host: Some(host.to_owned()),
                origin: origin.map(str::to_owned),
                is_local: local,
            };
            assert_eq!(
                own.check(&allowed, fallback),
                expected,
                "{origin:?} at {host}, local {local}"
            );
        }
        let anything = BrowserOrigin {
            request_host: None,
            origin: Some("http://evil.example".into()),
            is_local: false,
        };
        assert_eq!(
            anything.check(&["*".to_owned()], false),
            Ok(Matched::AllowList)
        );
    }

    #[test]
    fn extension_ids_and_limiter_keys() {
        let id = "abcdefghijklmnopabcdefghijklmnop";
        let origin = format!("chrome-extension://{id}");
        assert_eq!(chrome_extension(Some(&origin)), Some(origin.clone()));
        assert_eq!(chrome_extension(Some("chrome-extension://abc")), None);
        assert_eq!(chrome_extension(Some("https://x")), None);
        assert_eq!(
            rate_limit_key("HTTP://A.example:80/x").as_deref(),
            Some("browser-origin:http://a.example")
        );
        assert_eq!(rate_limit_key("nonsense"), None);
        assert!(is_gateway_host(
            Some("LOCALHOST:1"),
            Some("http://localhost:1")
        ));
        assert!(!is_gateway_host(
            Some("localhost:1"),
            Some("http://localhost:2")
        ));
    }
}
