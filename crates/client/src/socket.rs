//! A plain WebSocket as a client: dial, send text, receive text. No policy; TLS is the caller's, below it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use wire::websocket::{self, Decoded, Decoder, Message, Opcode, Role};

/// Largest upgrade answer that is read, bytes.
const RESPONSE_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Dials and upgrades within `timeout`. `headers` are sent as given (`Host`, `Origin`, …).
///
/// # Errors
/// The connect or protocol failure, in words for the log.
pub async fn dial(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    timeout: Duration,
) -> io::Result<(Reader, Writer)> {
    tokio::time::timeout(timeout, dial_unbounded(address, path, headers))
        .await
        .map_err(|_elapsed| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no WebSocket from {address} within {timeout:?}"),
            )
        })?
}

async fn dial_unbounded(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> io::Result<(Reader, Writer)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let rest = upgrade(&mut stream, path, headers).await?;
    let (read, write) = stream.into_split();
    Ok(over(ReadHalf::Tcp(read), WriteHalf::Tcp(write), rest))
}

/// The same over a stream that stands, for TLS. The caller bounds the time.
///
/// # Errors
/// As [`dial`].
pub async fn dial_over(
    mut stream: impl AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    path: &str,
    headers: &[(&str, &str)],
) -> io::Result<(Reader, Writer)> {
    let rest = upgrade(&mut stream, path, headers).await?;
    let (read, write) = tokio::io::split(stream);
    let (read, write) = (Box::new(read), Box::new(write));
    Ok(over(ReadHalf::Other(read), WriteHalf::Other(write), rest))
}

fn over(read: ReadHalf, write: WriteHalf, buffer: Vec<u8>) -> (Reader, Writer) {
    (
        Reader {
            read,
            decoder: Decoder::new(Role::Client, wire::limits::BUFFERED_BYTES_MAX),
            buffer,
            start: 0,
        },
        Writer {
            write,
            buffer: Vec::new(),
        },
    )
}

/// Asks for the upgrade; answers what came behind the server's consent.
async fn upgrade(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    path: &str,
    headers: &[(&str, &str)],
) -> io::Result<Vec<u8>> {
    let mut nonce = [0; 16];
    random(&mut nonce);
    let key = base64::engine::general_purpose::STANDARD.encode(nonce);
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    for (name, value) in headers {
        request.push_str(name);
        request.push_str(": ");
        request.push_str(value);
        request.push_str("\r\n");
    }
    request.push_str("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ");
    request.push_str(&key);
    request.push_str("\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::with_capacity(1024);
    let end = loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if head.len() > RESPONSE_HEAD_BYTES_MAX {
            return Err(io::Error::other("the upgrade answer has no end"));
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let text = String::from_utf8_lossy(&head[..end]);
    let status = text.split(' ').nth(1).unwrap_or("none");
    if status != "101" {
        return Err(io::Error::other(format!(
            "the upgrade was answered with HTTP {status}"
        )));
    }
    let expected = accept_key(key.as_bytes());
    let accepted = text.lines().any(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == expected
        })
    });
    if !accepted {
        return Err(io::Error::other(
            "the upgrade answer has a wrong accept key",
        ));
    }
    Ok(head.split_off(end))
}

/// A plain socket is spoken to without a lock; anything else shares one between its halves.
enum ReadHalf {
    Tcp(OwnedReadHalf),
    Other(Box<dyn AsyncRead + Send + Sync + Unpin>),
}

enum WriteHalf {
    Tcp(OwnedWriteHalf),
    Other(Box<dyn AsyncWrite + Send + Sync + Unpin>),
}

impl std::fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadHalf")
    }
}

impl std::fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriteHalf")
    }
}

/// Source: RFC 6455 section 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Sec-WebSocket-Accept` for a client's key.
pub fn accept_key(key: &[u8]) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(ACCEPT_GUID);
    base64::engine::general_purpose::STANDARD.encode(digest.finish())
}

fn random(bytes: &mut [u8]) {
    SystemRandom::new()
        .fill(bytes)
        .expect("the kernel gives random bytes");
}

/// What the upstream said.
#[derive(Debug)]
pub enum Incoming {
    Text(String),
    Ping(Vec<u8>),
    /// Code and reason; 1005 without a code, 1006 when the socket just ended.
    Closed(u16, String),
}

#[derive(Debug)]
pub struct Reader {
    read: ReadHalf,
    decoder: Decoder,
    buffer: Vec<u8>,
    start: usize,
}

impl Reader {
    /// The next message. Cancel safe: bytes read stay in the buffer.
    ///
    /// # Errors
    /// A broken socket or protocol; the connection is unusable then.
    pub async fn next(&mut self) -> io::Result<Incoming> {
        loop {
            match self.decoder.decode(&mut self.buffer[self.start..]) {
                Err(error) => return Err(io::Error::other(error)),
                Ok(Decoded::Frame { consumed, message }) => {
                    self.start += consumed;
                    match message {
                        Some(Message::Text(text)) => return Ok(Incoming::Text(text.to_owned())),
                        Some(Message::Ping(payload)) => {
                            return Ok(Incoming::Ping(payload.to_vec()));
                        }
                        Some(Message::Close(close)) => {
                            let (code, reason) = close.unwrap_or((1005, ""));
                            return Ok(Incoming::Closed(code, reason.to_owned()));
                        }
                        Some(Message::Binary(_) | Message::Pong(_)) | None => {}
                    }
                }
                Ok(Decoded::Incomplete { total }) => {
                    self.buffer.drain(..self.start);
                    self.start = 0;
                    if self.buffer.is_empty() && self.buffer.capacity() > 64 * 1024 {
                        self.buffer = Vec::new();
                    }
                    let missing = total.saturating_sub(self.buffer.len());
                    self.buffer.reserve(missing.clamp(2 * 1024, 256 * 1024));
                    let read = match &mut self.read {
                        ReadHalf::Tcp(stream) => stream.read_buf(&mut self.buffer).await?,
                        ReadHalf::Other(stream) => stream.read_buf(&mut self.buffer).await?,
                    };
                    if read == 0 {
                        return Ok(Incoming::Closed(1006, String::new()));
                    }
                }
            }
        }
    }
}

#[derive(Debug)]
pub struct Writer {
    write: WriteHalf,
    buffer: Vec<u8>,
}

impl Writer {
    /// Adds a frame to what the next [`Writer::flush`] writes.
    pub fn feed(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut key = [0; 4];
        random(&mut key);
        websocket::push_masked_frame(&mut self.buffer, opcode, payload, key);
    }

    pub fn waiting_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// # Errors
    /// A broken socket. Not cancel safe.
    pub async fn flush(&mut self) -> io::Result<()> {
        match &mut self.write {
            WriteHalf::Tcp(stream) => stream.write_all(&self.buffer).await?,
            WriteHalf::Other(stream) => {
                stream.write_all(&self.buffer).await?;
                stream.flush().await?;
            }
        }
        self.buffer.clear();
        self.buffer.shrink_to(16 * 1024);
        Ok(())
    }
}
