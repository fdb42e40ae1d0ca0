//! The socket: lines in, lines out, TLS or not.

use super::config::Config;
use super::line::{LINE_BYTES_MAX, Line, TAGS_BYTES_MAX};
use crate::ChannelError;
use bytes::BytesMut;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const CONNECT_MAX: Duration = Duration::from_secs(20);
/// A server that takes no bytes for so long is gone.
const WRITE_MAX: Duration = Duration::from_secs(30);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(super) struct Stream {
    socket: Box<dyn Duplex>,
    unread: BytesMut,
    /// Inside a line that is longer than any may be: dropped up to its end.
    overlong: bool,
}

pub(super) fn gone(reason: impl ToString) -> ChannelError {
    ChannelError::Disconnected {
        reason: reason.to_string(),
        after: None,
    }
}

impl Stream {
    pub(super) async fn connect(
        config: &Config,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, ChannelError> {
        let at = format!("{}:{}", config.host, config.port);
        let connecting = async {
            let tcp = TcpStream::connect((config.host.as_str(), config.port))
                .await
                .map_err(|e| gone(format!("{at}: {e}")))?;
            let socket: Box<dyn Duplex> = if config.tls {
                let name = ServerName::try_from(config.host.clone())
                    .map_err(|e| gone(format!("{at}: {e}")))?;
                let secured = tokio_rustls::TlsConnector::from(tls)
                    .connect(name, tcp)
                    .await
                    .map_err(|e| gone(format!("{at}: TLS: {e}")))?;
                Box::new(secured)
            } else {
                Box::new(tcp)
            };
            Ok(Self {
                socket,
                unread: BytesMut::new(),
                overlong: false,
            })
        };
        timeout(CONNECT_MAX, connecting)
            .await
            .map_err(|_elapsed| gone(format!("{at}: no connection within {CONNECT_MAX:?}")))?
    }

    /// The next line. Cancel-safe: what was read stays.
    pub(super) async fn next(&mut self) -> Result<Line, ChannelError> {
        loop {
            while let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let raw = self.unread.split_to(end + 1);
                if std::mem::take(&mut self.overlong) {
                    continue;
                }
                if let Some(line) = Line::parse(&raw) {
                    return Ok(line);
                }
            }
            if self.unread.len() > TAGS_BYTES_MAX + LINE_BYTES_MAX {
                self.unread.clear();
                self.overlong = true;
            }
            let read = self.socket.read_buf(&mut self.unread).await;
            if read.map_err(gone)? == 0 {
                return Err(gone("the server closed the connection"));
            }
        }
    }

    /// Writes one line (without its end).
    pub(super) async fn write(&mut self, line: &str) -> Result<(), ChannelError> {
        // The last guard: whatever came here, it stays one line.
        let mut raw: Vec<u8> = line
            .bytes()
            .filter(|b| !matches!(b, b'\r' | b'\n' | 0))
            .collect();
        raw.extend_from_slice(b"\r\n");
        let writing = async {
            self.socket.write_all(&raw).await?;
            self.socket.flush().await
        };
        timeout(WRITE_MAX, writing)
            .await
            .map_err(|_elapsed| gone("the server takes no more bytes"))?
            .map_err(gone)
    }
}
