//! A TypeScript gateway on another machine: over TLS, as a device of our own that somebody there has approved.
//!
//! Everything else in the bridge speaks to a loopback address. Here that is a listener of this process, each of whose
//! connections is carried on over TLS of its own; whoever else on this machine connects to it is where the other
//! gateway's port is, and no further.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::{Ready, Secret, link};
use crate::auth::Identity;
use crate::pinned;

/// To a socket that has spoken TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// Carried at once; further ones wait for a place.
const CARRIED_MAX: usize = 4_096;

/// Where the other gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    host: String,
    port: u16,
}

/// What `[upstream] url` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// On this machine, without TLS.
    Here(SocketAddr),
    There(Place),
}

impl Target {
    /// Reads `ws://<loopback>:<port>` or `wss://<host>[:<port>]`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let secure = url.strip_prefix("wss://");
        let rest = secure.or_else(|| url.strip_prefix("ws://"));
        let Some(rest) = rest else {
            return Err("is neither ws:// nor wss://".to_owned());
        };
        // What stands there may be a secret: it is not repeated.
        if rest.contains(['@', '?', '#']) {
            return Err("holds more than a host and a port; a secret belongs into upstream.token or token_file".to_owned());
        }
        let authority = rest.trim_end_matches('/');
        if secure.is_none() {
            let address = authority.replacen("localhost", "127.0.0.1", 1);
            let address: SocketAddr = address
                .parse()
                .map_err(|_bad| format!("{url} has no address and port"))?;
            return match address.ip().is_loopback() {
                true => Ok(Self::Here(address)),
                false => Err(format!(
                    "{address} is on another machine, where ws:// would send the secret in the clear"
                )),
            };
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (
                host,
                port.parse()
                    .map_err(|_bad| format!("{url}: {port} is no port"))?,
            ),
            _ => (authority, 443),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if ServerName::try_from(host.to_owned()).is_err() {
            return Err(format!("{url}: {host:?} is no host name or address"));
        }
        Ok(Self::There(Place {
            host: host.to_owned(),
            port,
        }))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(to, "[{}]:{}", self.host, self.port),
            false => write!(to, "{}:{}", self.host, self.port),
        }
    }
}

/// Our device at a gateway elsewhere.
pub(crate) struct Device {
    pub(crate) place: Place,
    identity: Identity,
}

impl fmt::Debug for Device {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "device {} at {}", self.identity.device_id, self.place)
    }
}

impl Device {
    pub(crate) fn new(place: Place, identity: Identity) -> Self {
        Self { place, identity }
    }

    /// Words for the person who can mend it, of the error that its answer to our `connect` has.
    pub(super) fn refusal(&self, error: &Value) -> String {
        let place = &self.place;
        let message = error["message"].as_str().unwrap_or("no reason");
        match error["details"]["requestId"].as_str() {
            Some(request) => format!(
                "{place} does not know this gateway's device yet ({message}). Approve it there, then start this gateway again: openclaw devices approve {request}"
            ),
            None => format!(
                "{place} refuses this gateway ({message}); is [upstream] token the one of that gateway?"
            ),
        }
    }

    /// The `device` of a `connect`. Source: `buildDeviceAuthPayloadV3` in packages/gateway-client/src/device-auth.ts at
    /// 2026.9.6.
    pub(super) fn proof(
        &self,
        (nonce, issued_ms): (&str, u64),
        token: &str,
        scopes: &[String],
    ) -> Value {
        let payload = [
            "v3",
            &self.identity.device_id,
            "gateway-client",
            "backend",
            "operator",
            &scopes.join(","),
            &issued_ms.to_string(),
            token,
            nonce,
            std::env::consts::OS,
            "",
        ]
        .join("|");
        json!({
            "id": self.identity.device_id,
            "publicKey": self.identity.public_key,
            // Their clock, so that ours need not be right.
            "signedAt": issued_ms,
            "nonce": nonce,
            "signature": self.identity.sign(&payload),
        })
    }
}

/// How TLS with it is checked: its certificate's SHA-256, in hexadecimal with or without colons, or else the usual roots.
///
/// # Errors
/// The fingerprint is none, or TLS cannot be set up.
pub(crate) fn tls(fingerprint: Option<&str>) -> Result<ClientConfig, String> {
    let Some(fingerprint) = fingerprint else {
        return Ok(channels::web::tls_config());
    };
    pinned::by_fingerprint(digest(fingerprint)?).map_err(|error| error.to_string())
}

/// A fingerprint as it is compared: 64 lower-case digits.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn digest(fingerprint: &str) -> Result<String, String> {
    let digits = fingerprint.replace(':', "").to_ascii_lowercase();
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("is no SHA-256: 64 hexadecimal digits, colons allowed".to_owned());
    }
    Ok(digits)
}

/// Opens the loopback address behind which the other gateway is.
///
/// # Errors
/// No listener is to be had.
pub(crate) async fn tunnel(place: Place, tls: ClientConfig) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(carry(listener, place, TlsConnector::from(Arc::new(tls))));
    Ok(address)
}

async fn carry(listener: TcpListener, place: Place, tls: TlsConnector) {
    let places = Arc::new(Semaphore::new(CARRIED_MAX));
    // Why it was last not reached: said once, not with every try.
    let told = Arc::new(Mutex::new(None::<String>));
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let mut near = match listener.accept().await {
            Ok((near, _)) => near,
            Err(error) => {
                tracing::error!(%error, "cannot accept for the gateway elsewhere; trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (place, tls, told) = (place.clone(), tls.clone(), Arc::clone(&told));
        tokio::spawn(async move {
            let far = match tokio::time::timeout(CONNECT, reach(&place, &tls)).await {
                Ok(Ok(far)) => Ok(far),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_elapsed) => Err("no answer in time".to_owned()),
            };
            match far {
                Ok(mut far) => {
                    *told.lock() = None;
                    near.set_nodelay(true).ok();
                    // How it ends is seen at both ends.
                    tokio::io::copy_bidirectional(&mut near, &mut far)
                        .await
                        .ok();
                }
                Err(why) => {
                    let mut told = told.lock();
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(%place, %why, "the gateway elsewhere is not reached");
                        *told = Some(why);
                    }
                }
            }
            drop(permit);
        });
    }
}

async fn reach(
    place: &Place,
    tls: &TlsConnector,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect((place.host.as_str(), place.port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(place.host.clone()).map_err(io::Error::other)?;
    tls.connect(name, stream).await
}

/// Whether we may come, as far as it answers now: its refusal in words for the person who starts this gateway.
///
/// # Errors
/// It refuses us. One that is not reached is no error: it is waited for.
pub(crate) async fn introduce(ready: &Ready, scopes: &[String]) -> Result<(), String> {
    let Some(device) = &ready.device else {
        return Ok(());
    };
    let place = &device.place;
    let headers = vec![("Host".to_owned(), place.to_string())];
    let mut dialled = match link::dial(ready, &headers).await {
        Ok(dialled) => dialled,
        Err(why) => {
            tracing::warn!(%place, %why, "the gateway to attach to does not answer; waiting for it");
            return Ok(());
        }
    };
    let frame = dialled.backend_connect("introduce", scopes, &[]);
    let answer = match dialled.connect(&frame).await {
        Ok(answer) => answer,
        Err(why) => {
            tracing::warn!(%place, %why, "the gateway to attach to does not answer; waiting for it");
            return Ok(());
        }
    };
    let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    if answer["ok"] == true {
        return Ok(());
    }
    Err(device.refusal(&answer["error"]))
}

/// What we know of it before anything has answered.
pub(crate) fn ready(address: SocketAddr, token: Secret, device: Arc<Device>) -> Ready {
    Ready::new(address, token, None, None, 0).with_device(Some(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(host: &str, port: u16) -> Target {
        Target::There(Place {
            host: host.to_owned(),
            port,
        })
    }

    #[test]
    fn an_address_is_here_without_tls_or_there_with_it() {
        let here = |address: &str| Target::Here(address.parse().expect("an address"));
        for (url, expected) in [
            ("ws://127.0.0.1:18790", here("127.0.0.1:18790")),
            ("ws://localhost:18790/", here("127.0.0.1:18790")),
            ("ws://[::1]:18790", here("[::1]:18790")),
            ("wss://box.tail1.ts.net", there("box.tail1.ts.net", 443)),
            ("wss://192.0.2.7:18789/", there("192.0.2.7", 18789)),
            ("wss://[fd00::2]:18789", there("fd00::2", 18789)),
            ("wss://[fd00::2]", there("fd00::2", 443)),
        ] {
            assert_eq!(Target::parse(url), Ok(expected), "{url}");
        }
        for (url, why) in [
            ("ws://192.0.2.7:18789", "in the clear"),
            ("ws://127.0.0.1", "no address and port"),
            ("wss://", "no host name"),
            ("wss://u:p@a:1", "more than a host and a port"),
            ("wss://a:1/?token=t", "more than a host and a port"),
            ("wss://a b:1", "no host name"),
            ("wss://a:99999", "no port"),
            ("http://127.0.0.1:1", "neither"),
        ] {
            let error = Target::parse(url).expect_err(url);
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn a_fingerprint_is_64_digits() {
        assert!(tls(Some(&"ab".repeat(32))).is_ok());
        assert!(tls(Some(&["AB"; 32].join(":"))).is_ok());
        assert!(tls(Some("abc")).is_err());
        assert!(tls(Some(&"zz".repeat(32))).is_err());
    }
}
