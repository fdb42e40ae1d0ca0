//! One gateway connection: WebSocket upgrade, protocol handshake, then frames in and out of one buffer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::device::{Device, Proof};
use crate::frame::{self, CLOSE, Frame, PING, PONG, TEXT};

/// Whom to connect to, and as whom. `echo` skips the gateway handshake: the peer is a bare echo server.
pub struct Target {
    /// `host:port`.
    pub authority: String,
    pub token: String,
    pub client_id: String,
    pub client_mode: String,
    pub scopes: Vec<String>,
    pub caps: Vec<String>,
    pub device: Option<Device>,
    pub echo: bool,
}

/// How long one connection may take to be opened and authenticated.
const CONNECT_TIME: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 16 * 1024;

pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
}

/// Why a connection ended, as the server said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// 1005: closed without a code; 1006: TCP ended without a close frame.
    pub code: u16,
    pub reason: String,
}

impl Client {
    /// Opens and authenticates one connection.
    pub async fn connect(target: &Target, name: &str) -> Result<Self> {
        match tokio::time::timeout(CONNECT_TIME, Self::try_connect(target, name)).await {
            Ok(client) => {
                client.with_context(|| format!("connecting {name} to {}", target.authority))
            }
            Err(_) => bail!(
                "{} did not finish the handshake of {name} within 60 s",
                target.authority
            ),
        }
    }

    async fn try_connect(target: &Target, name: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(&target.authority).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            target.authority
        );
        stream.write_all(request.as_bytes()).await?;
        let mut client = Self {
            stream,
            buffer: Vec::new(),
            start: 0,
        };
        let head = loop {
            if let Some(end) = client
                .buffer
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
            {
                break end + 4;
            }
            if client.read_more().await? == 0 {
                bail!("the server closed before answering the upgrade");
            }
        };
        if !client.buffer.starts_with(b"HTTP/1.1 101") {
            bail!("upgrade refused: {}", frame::excerpt(&client.buffer));
        }
        client.start = head;
        if !target.echo {
            client.hello(target, name).await?;
        }
        client.release();
        Ok(client)
    }

    async fn hello(&mut self, target: &Target, name: &str) -> Result<()> {
        let challenge = self.next_json().await?;
        let nonce = challenge["payload"]["nonce"]
            .as_str()
            .context("connect.challenge without nonce")?;
        let signed_at_ms = challenge["payload"]["ts"]
            .as_u64()
            .context("connect.challenge without ts")?;
        let mut params = json!({
            "minProtocol": 4,
            "maxProtocol": 4,
            "client": {
                "id": target.client_id, "version": "2026.9.6", "platform": "linux",
                "mode": target.client_mode, "instanceId": name,
            },
            "caps": target.caps,
            "role": "operator",
            "scopes": target.scopes,
            "auth": { "token": target.token },
        });
        if let Some(device) = &target.device {
            params["device"] = device.sign(&Proof {
                client_id: &target.client_id,
                client_mode: &target.client_mode,
                scopes: &target.scopes,
                signed_at_ms,
                token: &target.token,
                nonce,
            });
        }
        self.stream
            .write_all(&request("connect", "connect", &params))
            .await?;
        loop {
            let answer = self.next_json().await?;
            if answer["type"] == "res" {
                if answer["payload"]["type"] != "hello-ok" {
                    bail!("connect refused: {answer}");
                }
                return Ok(());
            }
        }
    }

    /// The next text frame, parsed; for the handshake and for calls whose answer matters.
    pub async fn next_json(&mut self) -> Result<Value> {
        loop {
            let mut answer = None;
            let step = self.drain(|event| match event {
                Incoming::Text(payload) => {
                    answer = Some(serde_json::from_slice(payload).context("not JSON")?);
                    Ok(Flow::Pause)
                }
                Incoming::Closed(closed) => {
                    bail!("closed by the server: {} {}", closed.code, closed.reason)
                }
            });
            let pongs = step?;
            if !pongs.is_empty() {
                self.stream.write_all(&pongs).await?;
            }
            if let Some(answer) = answer {
                return Ok(answer);
            }
            if self.read_more().await? == 0 {
                bail!("TCP closed by the server");
            }
        }
    }

    /// Reads once; 0 means that TCP ended.
    pub async fn read_more(&mut self) -> io::Result<usize> {
        self.make_room();
        self.stream.read_buf(&mut self.buffer).await
    }

    /// The same on a socket that was made blocking.
    pub fn into_blocking(self) -> Result<BlockingClient> {
        let stream = self.stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(BlockingClient {
            stream,
            buffer: self.buffer,
            start: self.start,
        })
    }

    fn make_room(&mut self) {
        compact(&mut self.buffer, &mut self.start);
        self.buffer.reserve(READ_BYTES);
    }

    /// Hands every whole frame to `on`, until it pauses; answers the pongs to send.
    pub fn drain(&mut self, on: impl FnMut(Incoming<'_>) -> Result<Flow>) -> Result<Vec<u8>> {
        drain(&self.buffer, &mut self.start, on)
    }

    /// Gives the buffer back while it is empty: ten thousand idle clients must not weigh on the machine.
    pub fn release(&mut self) {
        if self.start == self.buffer.len() {
            self.buffer = Vec::new();
            self.start = 0;
        }
    }
}

/// A connection for threads that block on it.
pub struct BlockingClient {
    pub stream: std::net::TcpStream,
    buffer: Vec<u8>,
    start: usize,
}

impl BlockingClient {
    pub fn read_more(&mut self) -> io::Result<usize> {
        compact(&mut self.buffer, &mut self.start);
        let old = self.buffer.len();
        self.buffer.resize(old + READ_BYTES, 0);
        let read = io::Read::read(&mut self.stream, &mut self.buffer[old..]);
        self.buffer.truncate(old + *read.as_ref().unwrap_or(&0));
        read
    }

    pub fn drain(&mut self, on: impl FnMut(Incoming<'_>) -> Result<Flow>) -> Result<Vec<u8>> {
        drain(&self.buffer, &mut self.start, on)
    }
}

pub enum Incoming<'a> {
    Text(&'a [u8]),
    Closed(Closed),
}

pub enum Flow {
    Continue,
    Pause,
}

fn compact(buffer: &mut Vec<u8>, start: &mut usize) {
    if *start == buffer.len() {
        buffer.clear();
    } else {
        buffer.drain(..*start);
    }
    *start = 0;
}

fn drain(
    buffer: &[u8],
    start: &mut usize,
    mut on: impl FnMut(Incoming<'_>) -> Result<Flow>,
) -> Result<Vec<u8>> {
    let mut pongs = Vec::new();
    while let Some(Frame {
        opcode,
        payload,
        length,
    }) = frame::decode(&buffer[*start..])?
    {
        *start += length;
        let flow = match opcode {
            TEXT => on(Incoming::Text(payload))?,
            PING => {
                frame::encode(PONG, payload, &mut pongs);
                Flow::Continue
            }
            CLOSE => on(Incoming::Closed(close_reason(payload)))?,
            PONG => Flow::Continue,
            other => bail!("server sent a frame with opcode {other}"),
        };
        if let Flow::Pause = flow {
            break;
        }
    }
    Ok(pongs)
}

fn close_reason(payload: &[u8]) -> Closed {
    match payload {
        [high, low, reason @ ..] => Closed {
            code: u16::from_be_bytes([*high, *low]),
            reason: String::from_utf8_lossy(reason).into_owned(),
        },
        _ => Closed {
            code: 1005,
            reason: String::new(),
        },
    }
}

/// One encoded request frame.
pub fn request(id: &str, method: &str, params: &Value) -> Vec<u8> {
    let mut body = json!({ "type": "req", "id": id, "method": method });
    if !params.is_null() {
        body["params"] = params.clone();
    }
    let mut out = Vec::new();
    frame::encode(TEXT, body.to_string().as_bytes(), &mut out);
    out
}

/// Opens `count` connections, `batch` handshakes at a time (the gateway allows 32 unauthenticated sockets per address).
pub async fn connect_all(target: Arc<Target>, count: usize, batch: usize) -> Result<Vec<Client>> {
    let gate = Arc::new(Semaphore::new(batch));
    let mut opening = tokio::task::JoinSet::new();
    for index in 0..count {
        let permit = Arc::clone(&gate).acquire_owned().await?;
        let target = Arc::clone(&target);
        opening.spawn(async move {
            let client = Client::connect(&target, &format!("load-{index}")).await;
            drop(permit);
            client
        });
    }
    let mut clients = Vec::with_capacity(count);
    while let Some(opened) = opening.join_next().await {
        clients.push(opened??);
    }
    Ok(clients)
}
