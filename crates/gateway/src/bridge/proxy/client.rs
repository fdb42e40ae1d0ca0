//! How the upstream learns who calls: our connection to it comes from loopback, so a client on another machine is always
//! named, and nothing a client says of itself is passed on unchecked.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::auth::attribution::{Attribution, Ingress};
use crate::bridge::Secret;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FUNNEL: HeaderName = HeaderName::from_static("tailscale-funnel-request");

/// The client of a request, as judged by us.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    origin: Origin,
    /// A credential put in place of the client's own, where it was checked here by rules the upstream does not have.
    bearer: Option<Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// On this machine, without a proxy.
    Local,
    /// Elsewhere. `https` is how it reached us, or the proxy that we trust.
    Remote {
        ip: IpAddr,
        https: bool,
        behind_proxy: bool,
    },
    /// A proxy speaks for it that may not. The upstream refuses it (403), except on routes of plugins that check their
    /// callers themselves, such as webhooks.
    Unknown,
}

impl Client {
    /// The client of a request whose attribution is known.
    pub(crate) fn of(attribution: &Attribution, https: bool) -> Self {
        let origin = match attribution.ingress {
            Ingress::DirectLocal => Origin::Local,
            Ingress::DirectRemote => Origin::Remote {
                ip: attribution.client_ip,
                https,
                behind_proxy: false,
            },
            Ingress::TrustedProxy { .. } | Ingress::TailscaleServe | Ingress::TailscaleFunnel => {
                Origin::Remote {
                    ip: attribution.client_ip,
                    https,
                    behind_proxy: true,
                }
            }
        };
        Self {
            origin,
            bearer: None,
        }
    }

    /// The client of a request for which a proxy speaks that is not trusted.
    pub(crate) const fn unknown() -> Self {
        Self {
            origin: Origin::Unknown,
            bearer: None,
        }
    }

    /// With `Authorization: Bearer <secret>` instead of what the client sent.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for an upstream in another auth mode than ours")
    )]
    pub(crate) fn with_bearer(mut self, secret: Secret) -> Self {
        self.bearer = Some(secret);
        self
    }

    /// Writes what the upstream is told, over what the client said.
    ///
    /// `is_there`: the upstream is on another machine.
    ///
    /// Source: src/gateway/ingress-attribution.ts at 2026.9.6: a loopback socket with any of these headers is a client
    /// elsewhere if the socket's address is trusted and the forwarded one is not loopback, else it is refused; without
    /// them it is on this machine.
    pub(super) fn write(&self, headers: &mut HeaderMap, is_there: bool) {
        let (proto, host, funnel) = match self.origin {
            Origin::Remote {
                behind_proxy: true, ..
            } => (
                headers.get(&FORWARDED_PROTO).cloned(),
                headers.get(&FORWARDED_HOST).cloned(),
                headers.get(&FUNNEL).cloned(),
            ),
            _ => (None, None, None),
        };
        let spoken: Vec<HeaderName> = headers
            .keys()
            .filter(|name| speaks_for_a_client(name.as_str()))
            .cloned()
            .collect();
        for name in spoken {
            headers.remove(name);
        }
        match self.origin {
            Origin::Local => {}
            // It need not trust us as its proxy, and nobody of us looks local to it.
            Origin::Remote { .. } if is_there => {}
            Origin::Remote { ip, https, .. } => {
                let own = HeaderValue::from_static(if https { "https" } else { "http" });
                if let Ok(ip) = HeaderValue::from_str(&ip.to_string()) {
                    headers.insert(FORWARDED_FOR, ip);
                }
                headers.insert(FORWARDED_PROTO, proto.unwrap_or(own));
                if let Some(host) = host.or_else(|| headers.get(header::HOST).cloned()) {
                    headers.insert(FORWARDED_HOST, host);
                }
                if let Some(funnel) = funnel {
                    headers.insert(FUNNEL, funnel);
                }
            }
            // A loopback address is what makes it unattributable, whether or not the upstream trusts us.
            Origin::Unknown => {
                headers.insert(FORWARDED_FOR, HeaderValue::from_static("127.0.0.1"));
            }
        }
        if let Some(bearer) = &self.bearer
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", bearer.expose()))
        {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
    }
}

fn speaks_for_a_client(name: &str) -> bool {
    name.starts_with("x-forwarded-")
        || name.starts_with("tailscale-")
        || matches!(name, "forwarded" | "x-real-ip")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: [(&str, &str); 8] = [
        ("host", "gateway.example"),
        ("x-forwarded-for", "127.0.0.1, 10.0.0.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "public.example"),
        ("x-real-ip", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1"),
        ("tailscale-user-login", "someone@example.com"),
        ("authorization", "Bearer client"),
    ];

    fn check(client: &Client, expected: &[(&str, &str)]) {
        let mut headers: HeaderMap = SAID
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        client.write(&mut headers, false);
        let mut told: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        told.sort_unstable();
        assert_eq!(told, expected);
    }

    fn remote(https: bool, behind_proxy: bool) -> Client {
        Client {
            origin: Origin::Remote {
                ip: "203.0.113.7".parse().unwrap(),
                https,
                behind_proxy,
            },
            bearer: None,
        }
    }

    #[test]
    fn a_local_client_is_told_without_any_forwarded_header() {
        let local = Client {
            origin: Origin::Local,
            bearer: None,
        };
        check(
            &local,
            &[
                ("authorization", "Bearer client"),
                ("host", "gateway.example"),
            ],
        );
    }

    #[test]
    fn a_remote_client_cannot_say_where_it_is() {
        check(
            &remote(false, false),
            &[
                ("authorization", "Bearer client"),
                ("host", "gateway.example"),
                ("x-forwarded-for", "203.0.113.7"),
                ("x-forwarded-host", "gateway.example"),
                ("x-forwarded-proto", "http"),
            ],
        );
    }

    #[test]
    fn a_trusted_proxy_says_how_it_was_reached_but_the_address_is_ours() {
        check(
            &remote(false, true),
            &[
                ("authorization", "Bearer client"),
                ("host", "gateway.example"),
                ("x-forwarded-for", "203.0.113.7"),
                ("x-forwarded-host", "public.example"),
                ("x-forwarded-proto", "https"),
            ],
        );
    }

    #[test]
    fn an_unknown_client_stays_unknown() {
        check(
            &Client::unknown(),
            &[
                ("authorization", "Bearer client"),
                ("host", "gateway.example"),
                ("x-forwarded-for", "127.0.0.1"),
            ],
        );
    }

    #[test]
    fn a_credential_of_ours_replaces_the_clients() {
        check(
            &Client {
                origin: Origin::Local,
                bearer: None,
            }
            .with_bearer(Secret::new("upstream")),
            &[
                ("authorization", "Bearer upstream"),
                ("host", "gateway.example"),
            ],
        );
    }
}
