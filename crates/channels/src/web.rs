//! One HTTP client for all channels: timeouts set, TLS by rustls, addresses guarded, failures sorted by what the
//! caller does next.

use crate::{ChannelError, SendError};
use bytes::{Bytes, BytesMut};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Where a client may connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Anywhere: the address is the operator's own choice (an API root from the user's file).
    Anywhere,
    /// Public addresses only: the address is somebody else's (a callback, a link in a message).
    Public,
}

/// Limits of one client.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    pub connect_timeout: Duration,
    /// From the first byte sent to the last received; a long poll needs more.
    pub timeout: Duration,
    pub reach: Reach,
    /// Instead of the public authorities and those of the environment.
    pub tls: Option<rustls::ClientConfig>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
            reach: Reach::Anywhere,
            tls: None,
        }
    }
}

const REDIRECTS_MAX: usize = 3;

/// A pooled client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    reach: Reach,
}

impl Http {
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(options: &HttpOptions) -> Result<Self, ChannelError> {
        let reach = options.reach;
        let redirects = redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS_MAX {
                attempt.error("too many redirects")
            } else if check_literal(attempt.url(), reach).is_err() {
                attempt.error("redirected to an address that is not public")
            } else {
                attempt.follow()
            }
        });
        let mut builder = Client::builder()
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(4)
            .user_agent(concat!("openclaw-gateway/", env!("CARGO_PKG_VERSION")))
            .redirect(redirects)
            .no_proxy()
            .use_preconfigured_tls(options.tls.clone().unwrap_or_else(tls_config));
        if reach == Reach::Public {
            builder = builder.dns_resolver(Arc::new(PublicOnly));
        }
        let client = builder
            .build()
            .map_err(|error| ChannelError::Disconnected {
                reason: format!("cannot set up TLS: {error}"),
                after: None,
            })?;
        Ok(Self { client, reach })
    }

    /// A request to build on.
    ///
    /// # Errors
    /// [`SendError::Rejected`] for an address that is no URL, not HTTP, or out of reach.
    pub fn request(
        &self,
        method: reqwest::Method,
        url: &str,
    ) -> Result<reqwest::RequestBuilder, SendError> {
        let url = Url::parse(url).map_err(|error| SendError::Rejected {
            reason: format!("not a URL: {error}"),
        })?;
        check_literal(&url, self.reach).map_err(|reason| SendError::Rejected { reason })?;
        Ok(self.client.request(method, url))
    }

    pub fn post(&self, url: &str) -> Result<reqwest::RequestBuilder, SendError> {
        self.request(reqwest::Method::POST, url)
    }

    pub fn get(&self, url: &str) -> Result<reqwest::RequestBuilder, SendError> {
        self.request(reqwest::Method::GET, url)
    }
}

/// Certificates of Mozilla's list and those of `SSL_CERT_FILE` or `NODE_EXTRA_CA_CERTS`, by ring.
pub fn tls_config() -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for variable in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
        let Some(path) = std::env::var_os(variable) else {
            continue;
        };
        match std::fs::read(&path) {
            Ok(pem) => add_pem(&mut roots, &pem),
            Err(error) => {
                tracing::warn!(variable, path = %path.display(), %error, "extra certificates cannot be read");
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Adds every certificate of a PEM text; what can't be used is left out.
pub fn add_pem(roots: &mut rustls::RootCertStore, pem: &[u8]) {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let certificates = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    roots.add_parsable_certificates(certificates);
}

/// Host names are judged when they are resolved; addresses in the URL are judged here.
fn check_literal(url: &Url, reach: Reach) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{} is not http or https", url.scheme()));
    }
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    match literal.parse::<IpAddr>() {
        Ok(address) if reach == Reach::Public && !is_public(address) => Err(format!(
            "{address} is not a public address; allow private addresses for this account if it is meant"
        )),
        _ => Ok(()),
    }
}

/// Resolves once and hands out only public addresses, so that what was checked is what is connected to.
#[derive(Debug)]
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let public: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| is_public(address.ip()))
                .collect();
            if public.is_empty() {
                return Err(format!("{} has no public address", name.as_str()).into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Neither this machine, nor a private network, nor link-local (cloud metadata), nor anything reserved.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_public_v4(v4),
            None => {
                let first = v6.segments()[0];
                // Global unicast is 2000::/3; documentation and 6to4 relays are of no use in it.
                (0x2000..0x4000).contains(&first)
                    && !(first == 0x2001 && v6.segments()[1] < 0x0200)
                    && !(first == 0x2001 && v6.segments()[1] == 0x0db8)
            }
        },
    }
}

/// The IPv4 address that an IPv6 one really leads to: mapped, compatible, 6to4, NAT64.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    if s[..5] == [0; 5] && (s[5] == 0xffff || s[5] == 0) && v6 != Ipv6Addr::LOCALHOST {
        return Some(v4(s[6], s[7]));
    }
    if s[0] == 0x2002 {
        return Some(v4(s[1], s[2]));
    }
    (s[..6] == [0x64, 0xff9b, 0, 0, 0, 0]).then(|| v4(s[6], s[7]))
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    !(v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_broadcast()
        || v4.is_documentation()
        || v4.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b)))
}

/// What a failed request means for a message: a connection that was never made carried nothing.
pub fn failed(error: &reqwest::Error) -> SendError {
    // The URL may hold a token.
    let reason = describe(error);
    if error.is_connect() {
        SendError::Retry {
            after: None,
            reason,
        }
    } else if error.is_builder() || error.is_redirect() {
        SendError::Rejected { reason }
    } else {
        SendError::Unknown { reason }
    }
}

/// The error and its causes, without the URL.
pub fn describe(error: &reqwest::Error) -> String {
    use std::error::Error as _;
    let mut text = if error.is_timeout() {
        "no answer in time".to_owned()
    } else if error.is_connect() {
        "cannot connect".to_owned()
    } else if error.is_redirect() {
        "bad redirect".to_owned()
    } else {
        "the connection failed".to_owned()
    };
    let mut cause = error.source();
    let mut last = String::new();
    while let Some(next) = cause {
        last = next.to_string();
        cause = next.source();
    }
    if !last.is_empty() {
        text = format!("{text}: {last}");
    }
    text
}

/// `Retry-After` in seconds or as a date is honoured up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

pub fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get("retry-after")?.to_str().ok()?;
    wish(value.trim(), std::time::SystemTime::now())
}

/// Source: RFC 9110 section 10.2.3, seconds or an HTTP date. Fractions are what some services send.
fn wish(value: &str, now: std::time::SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.parse::<f64>() {
        let seconds = Some(seconds).filter(|seconds| seconds.is_finite())?;
        return Some(Duration::from_secs_f64(
            seconds.clamp(0.0, RETRY_AFTER_MAX.as_secs_f64()),
        ));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    // One in the past: now.
    Some(
        until
            .duration_since(now)
            .unwrap_or_default()
            .min(RETRY_AFTER_MAX),
    )
}

/// What an HTTP status means where a repeat is harmless (the receiver knows the id).
pub fn refused(status: StatusCode, after: Option<Duration>, body: &str) -> SendError {
    let reason = if body.is_empty() {
        format!("HTTP {status}")
    } else {
        format!("HTTP {status}: {}", head(body))
    };
    match status.as_u16() {
        401 | 403 => SendError::Unauthorized { reason },
        408 | 425 | 429 => SendError::Retry { after, reason },
        500..=599 => SendError::Retry { after, reason },
        _ => SendError::Rejected { reason },
    }
}

/// The start of a text for an error message: one line, bounded.
pub fn head(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(200).collect()
}

/// The body, refused past `bytes_max`.
///
/// # Errors
/// [`SendError::Rejected`] when it is larger; else as [`failed`].
pub async fn body(mut response: Response, bytes_max: u64) -> Result<Bytes, SendError> {
    let too_large = || SendError::Rejected {
        reason: format!("the answer is larger than {bytes_max} bytes"),
    };
    if response.content_length().is_some_and(|n| n > bytes_max) {
        return Err(too_large());
    }
    let mut all = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        if (all.len() + chunk.len()) as u64 > bytes_max {
            return Err(too_large());
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_seconds_or_a_date() {
        let now = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, expected) in [
            ("7", Some(7)),
            ("-1", Some(0)),
            ("999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:40:07 GMT", Some(0)),
            ("soon", None),
            ("NaN", None),
        ] {
            assert_eq!(
                wish(value, now),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
    }

    #[test]
    fn only_public_addresses_are_public() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "192.0.2.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "2002:7f00:1::",
            "64:ff9b::a00:1",
            "2001:db8::1",
            "ff02::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[tokio::test]
    async fn an_address_out_of_reach_is_refused_before_anything_is_sent() {
        let http = Http::new(&HttpOptions {
            reach: Reach::Public,
            ..HttpOptions::default()
        })
        .unwrap();
        for url in [
            "http://127.0.0.1:1/",
            "http://[::1]/",
            "ftp://example.org/",
            "http://2130706433/",
            "http://0x7f.1/",
        ] {
            let refused = http.post(url).map(drop);
            assert!(
                matches!(refused, Err(SendError::Rejected { .. })),
                "{url}: {refused:?}"
            );
        }
        // By name: judged when it is resolved.
        let answer = http
            .post("http://localhost:1/")
            .unwrap()
            .send()
            .await
            .unwrap_err();
        assert!(
            describe(&answer).contains("no public address"),
            "{}",
            describe(&answer)
        );
    }
}
