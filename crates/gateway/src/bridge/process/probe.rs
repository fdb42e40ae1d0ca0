//! Asks a gateway on loopback how it is: `/readyz` and `/startupz`, one short-lived connection each.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A probe that takes longer counts as unanswered.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);
/// More than any probe answer has; what is longer is not a gateway.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// What a gateway says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// It takes calls. Time since its start, where it says so: a restart in the same process makes it go back.
    Ready { uptime_ms: Option<u64> },
    /// It listens but does not take calls yet, or not any more.
    NotReady { failing: String },
    /// Nobody listens.
    Refused { why: String },
    /// Somebody listens and does not answer: stalled, stopped, or not a gateway.
    Silent { why: String },
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Readiness {
    failing: Vec<String>,
    uptime_ms: Option<u64>,
}

/// One `GET /readyz`.
pub(crate) async fn ready(address: SocketAddr, host: &str) -> Health {
    match get(address, host, "/readyz").await {
        Ok((status, body)) => {
            let said: Readiness = serde_json::from_slice(&body).unwrap_or_default();
            match status {
                200 => Health::Ready {
                    uptime_ms: said.uptime_ms,
                },
                503 if said.failing.is_empty() => Health::NotReady {
                    failing: "starting".to_owned(),
                },
                503 => Health::NotReady {
                    failing: said.failing.join(", "),
                },
                other => Health::Silent {
                    why: format!("/readyz answered {other}: is this an OpenClaw gateway?"),
                },
            }
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Health::Refused {
            why: format!("nothing listens on {address}"),
        },
        Err(error) => Health::Silent {
            why: error.to_string(),
        },
    }
}

/// The version a gateway reports to local callers.
pub(crate) async fn version(address: SocketAddr, host: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Startup {
        version: String,
    }
    let (_, body) = get(address, host, "/startupz").await.ok()?;
    serde_json::from_slice::<Startup>(&body)
        .ok()
        .map(|startup| startup.version)
}

async fn get(address: SocketAddr, host: &str, path: &str) -> io::Result<(u16, Vec<u8>)> {
    tokio::time::timeout(TIMEOUT, exchange(address, host, path))
        .await
        .unwrap_or_else(|_elapsed| {
            Err(io::Error::other(format!(
                "no answer to {path} within {TIMEOUT:?}"
            )))
        })
}

async fn exchange(address: SocketAddr, host: &str, path: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(1024);
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    parse(&answer).ok_or_else(|| io::Error::other(format!("{path} was not answered in HTTP")))
}

/// Status and body of an answer that ends with its connection.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let status = answer.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    let status = std::str::from_utf8(status).ok()?.parse().ok()?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((status, answer[end + 4..].to_vec()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn check(answer: &'static str, expected: Health) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        assert_eq!(ready(address, "gateway").await, expected);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn every_answer_is_told_apart() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"ready\":true,\"failing\":[],\"uptimeMs\":7}",
            Health::Ready { uptime_ms: Some(7) },
        )
        .await;
        check(
            "HTTP/1.1 200 OK\r\n\r\n{\"ready\":true}",
            Health::Ready { uptime_ms: None },
        )
        .await;
        check(
            "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"ready\":false,\"failing\":[\"startup-sidecars\"],\"uptimeMs\":7}",
            Health::NotReady { failing: "startup-sidecars".to_owned() },
        )
        .await;
        check(
            "HTTP/1.1 404 Not Found\r\n\r\n",
            Health::Silent {
                why: "/readyz answered 404: is this an OpenClaw gateway?".to_owned(),
            },
        )
        .await;
        check(
            "SSH-2.0-x\r\n",
            Health::Silent {
                why: "/readyz was not answered in HTTP".to_owned(),
            },
        )
        .await;
    }

    #[tokio::test]
    async fn a_closed_port_and_a_silent_one_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(
            matches!(ready(address, "gateway").await, Health::Silent { .. }),
            "accepted by the kernel alone"
        );
        drop(listener);
        assert!(matches!(
            ready(address, "gateway").await,
            Health::Refused { .. }
        ));
    }
}
