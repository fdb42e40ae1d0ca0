//! Speaks the gateway protocol as a client: the command line's calls, and the socket under the bridge.
//!
//! One connection, one task's worth of state: the caller awaits answers in turn. No reconnect: a command that
//! fails says so.

pub mod socket;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use socket::{Incoming, Reader, Writer};
use wire::error::ErrorShape;
use wire::frame::UpstreamFrame;
use wire::websocket::Opcode;

/// Whose fault a failed call is.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there, or not in our protocol.
    #[error("cannot reach a gateway at {address}: {source}")]
    Unreachable {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// The gateway answered with an error.
    #[error("{}: {}", .0.code, .0.message)]
    Refused(ErrorShape),
    /// The connection ended before the answer.
    #[error("the connection ended: {0}")]
    Lost(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Whom to connect as.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub token: Option<String>,
    pub password: Option<String>,
    pub scopes: Vec<String>,
    pub timeout: Duration,
}

/// An open session.
#[derive(Debug)]
pub struct Client {
    reader: Reader,
    writer: Writer,
    hello: Value,
    next_id: u64,
    timeout: Duration,
}

impl Client {
    /// Dials and completes the handshake as `cli`.
    ///
    /// # Errors
    /// [`ClientError`], [`ClientError::Refused`] with the gateway's reason.
    pub async fn connect(
        address: SocketAddr,
        options: &ConnectOptions,
    ) -> Result<Self, ClientError> {
        let host = address.to_string();
        let dialled = socket::dial(address, "/", &[("Host", &host)], options.timeout).await;
        let socket = dialled.map_err(|source| ClientError::Unreachable { address, source })?;
        Self::over(socket, options).await
    }

    /// Completes the handshake as `cli` on a socket that stands.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn over(
        (reader, writer): (Reader, Writer),
        options: &ConnectOptions,
    ) -> Result<Self, ClientError> {
        let mut client = Self {
            reader,
            writer,
            hello: Value::Null,
            next_id: 0,
            timeout: options.timeout,
        };
        client.until(|frame| matches!(frame, UpstreamFrame::Event { event, .. } if event == "connect.challenge")).await?;
        let mut auth = serde_json::Map::new();
        for (key, secret) in [("token", &options.token), ("password", &options.password)] {
            if let Some(secret) = secret {
                auth.insert(key.to_owned(), Value::from(secret.as_str()));
            }
        }
        let mut params = json!({
            "minProtocol": wire::PROTOCOL_VERSION, "maxProtocol": wire::PROTOCOL_VERSION,
            "client": { "id": "cli", "version": wire::REFERENCE_VERSION, "platform": std::env::consts::OS, "mode": "cli" },
            "caps": [], "role": "operator", "scopes": options.scopes,
        });
        if !auth.is_empty() {
            params["auth"] = Value::Object(auth);
        }
        client.hello = client.call("connect", Some(params)).await?;
        Ok(client)
    }

    /// The payload of `hello-ok`.
    pub const fn hello(&self) -> &Value {
        &self.hello
    }

    /// Calls a method and answers its (first) payload.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the gateway's error object.
    pub async fn call(
        &mut self,
        method: &str,
        params: Option<Value>,
    ) -> Result<Value, ClientError> {
        let id = self.send(method, params).await?;
        self.answer(&id).await
    }

    /// Sends a call; answers its id.
    ///
    /// # Errors
    /// [`ClientError::Lost`].
    pub async fn send(
        &mut self,
        method: &str,
        params: Option<Value>,
    ) -> Result<String, ClientError> {
        self.next_id += 1;
        let id = format!("cli:{}", self.next_id);
        let mut frame = json!({ "type": "req", "id": id, "method": method });
        if let Some(params) = params {
            frame["params"] = params;
        }
        self.writer.feed(Opcode::Text, frame.to_string().as_bytes());
        self.writer
            .flush()
            .await
            .map_err(|error| ClientError::Lost(error.to_string()))?;
        Ok(id)
    }

    /// Waits for a response to `id`. Events that come before it are passed over.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn answer(&mut self, id: &str) -> Result<Value, ClientError> {
        let text = self
            .until(|frame| matches!(frame, UpstreamFrame::Response { id: of, .. } if of == id))
            .await?;
        let mut frame: Value =
            serde_json::from_str(&text).map_err(|error| ClientError::Lost(error.to_string()))?;
        if frame["ok"] == true {
            return Ok(frame["payload"].take());
        }
        let error = serde_json::from_value(frame["error"].take()).unwrap_or_else(|error| {
            ErrorShape::invalid_request(format!("unreadable error: {error}"))
        });
        Err(ClientError::Refused(error))
    }

    /// The next frame as text, without a deadline: for streams of events.
    ///
    /// # Errors
    /// [`ClientError::Lost`] with close code and reason.
    pub async fn next(&mut self) -> Result<String, ClientError> {
        loop {
            match self.reader.next().await {
                Ok(Incoming::Text(text)) => return Ok(text),
                Ok(Incoming::Ping(payload)) => {
                    self.writer.feed(Opcode::Pong, &payload);
                    self.writer
                        .flush()
                        .await
                        .map_err(|error| ClientError::Lost(error.to_string()))?;
                }
                Ok(Incoming::Closed(code, reason)) => {
                    return Err(ClientError::Lost(format!("closed with {code} {reason}")));
                }
                Err(error) => return Err(ClientError::Lost(error.to_string())),
            }
        }
    }

    async fn until(
        &mut self,
        wanted: impl Fn(&UpstreamFrame<'_>) -> bool,
    ) -> Result<String, ClientError> {
        let deadline = tokio::time::Instant::now() + self.timeout;
        loop {
            let text = tokio::time::timeout_at(deadline, self.next())
                .await
                .map_err(|_elapsed| ClientError::Timeout(self.timeout))??;
            if UpstreamFrame::parse(&text).is_ok_and(|frame| wanted(&frame)) {
                return Ok(text);
            }
        }
    }
}
