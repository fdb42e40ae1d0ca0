//! Connections to mail servers: TLS from the start, after STARTTLS, or none.

use super::config::{Security, Server};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

const CONNECT_MAX: Duration = Duration::from_secs(30);
/// Longest line of a server before TLS.
const LINE_BYTES_MAX: usize = 4096;

pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + Sync + Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync + Debug> Duplex for T {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Imap,
    Smtp,
}

/// A connection and what of it was read already: SMTP has no second greeting after STARTTLS, and
/// the client waits for one.
#[derive(Debug)]
pub(super) struct Stream {
    before: &'static [u8],
    socket: Box<dyn Duplex>,
    peer: SocketAddr,
}

pub(super) async fn connect(
    server: &Server,
    tls: &Arc<ClientConfig>,
    protocol: Protocol,
) -> io::Result<Stream> {
    timeout(CONNECT_MAX, open(server, tls, protocol))
        .await
        .map_err(|_elapsed| io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))
        .flatten()
        .map_err(|e| io::Error::new(e.kind(), format!("{}:{}: {e}", server.host, server.port)))
}

async fn open(server: &Server, tls: &Arc<ClientConfig>, protocol: Protocol) -> io::Result<Stream> {
    let mut tcp = TcpStream::connect((server.host.as_str(), server.port)).await?;
    let peer = tcp.peer_addr()?;
    let mut before: &'static [u8] = b"";
    if server.security == Security::StartTls {
        start_tls(&mut tcp, protocol).await?;
        before = match protocol {
            Protocol::Imap => b"* OK after STARTTLS\r\n",
            Protocol::Smtp => b"220 after STARTTLS\r\n",
        };
    }
    let socket: Box<dyn Duplex> = match server.security {
        Security::Plain => Box::new(tcp),
        Security::Tls | Security::StartTls => {
            let name = ServerName::try_from(server.host.clone())
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
            let secured = connector.connect(name, tcp).await;
            Box::new(secured.map_err(|e| io::Error::new(e.kind(), format!("TLS: {e}")))?)
        }
    };
    Ok(Stream {
        before,
        socket,
        peer,
    })
}

/// Asks for TLS. A server that will not is refused: nothing goes out in the clear instead.
async fn start_tls(tcp: &mut TcpStream, protocol: Protocol) -> io::Result<()> {
    let refused = |line: &str| io::Error::other(format!("no STARTTLS: {line}"));
    let greeting = line(tcp).await?;
    match protocol {
        Protocol::Imap if greeting.starts_with("* OK") => {
            tcp.write_all(b"s STARTTLS\r\n").await?;
            loop {
                let answer = line(tcp).await?;
                if answer.starts_with("s OK") {
                    return Ok(());
                }
                if answer.starts_with("s ") {
                    return Err(refused(&answer));
                }
            }
        }
        Protocol::Smtp if greeting.starts_with("220") => {
            let mut last = greeting;
            while last.as_bytes().get(3) == Some(&b'-') {
                last = line(tcp).await?;
            }
            for (ask, code) in [("EHLO localhost", "250"), ("STARTTLS", "220")] {
                tcp.write_all(format!("{ask}\r\n").as_bytes()).await?;
                loop {
                    let answer = line(tcp).await?;
                    if !answer.starts_with(code) {
                        return Err(refused(&answer));
                    }
                    if answer.as_bytes().get(3) != Some(&b'-') {
                        break;
                    }
                }
            }
            Ok(())
        }
        _ => Err(refused(&greeting)),
    }
}

/// One line, byte by byte: what comes after it belongs to TLS, not to us.
async fn line(tcp: &mut TcpStream) -> io::Result<String> {
    let mut raw = Vec::new();
    while !raw.ends_with(b"\n") {
        if raw.len() > LINE_BYTES_MAX {
            return Err(io::Error::other("a line without end"));
        }
        raw.push(tcp.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&raw).trim_end().to_owned())
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let (now, later) = self
                .before
                .split_at(self.before.len().min(into.remaining()));
            into.put_slice(now);
            self.before = later;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_read(context, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl lettre::transport::smtp::client::AsyncTokioStream for Stream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}
