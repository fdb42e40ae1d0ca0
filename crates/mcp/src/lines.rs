//! Messages as lines over a pair of pipes.
//!
//! What is no message is left out, as the SDKs do it, since servers print banners and logs where they should not; a server that
//! writes nothing else, or one line without an end, is given up.

use std::io;
use std::sync::Arc;

use rmcp::RoleClient;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::Mutex;

use crate::MESSAGE_BYTES_MAX;
use crate::fate::Fate;
use crate::message;

/// Bytes in a row that are no message.
const NOISE_BYTES_MAX: usize = 16 * 1024 * 1024;

type Reader = Box<dyn AsyncRead + Unpin + Send>;
type Writer = Box<dyn AsyncWrite + Unpin + Send>;

pub(crate) struct Lines {
    reader: BufReader<Reader>,
    line: Vec<u8>,
    noise_bytes: usize,
    writer: Arc<Mutex<Option<Writer>>>,
    fate: Fate,
}

impl Lines {
    pub(crate) fn new(reader: Reader, writer: Writer, fate: Fate) -> Self {
        Self {
            reader: BufReader::with_capacity(64 * 1024, reader),
            line: Vec::new(),
            noise_bytes: 0,
            writer: Arc::new(Mutex::new(Some(writer))),
            fate,
        }
    }

    /// The next line is in `self.line`; false: there is none any more. What was read stays when this is dropped.
    async fn fill(&mut self) -> bool {
        loop {
            let read = match self.reader.fill_buf().await {
                Ok([]) => {
                    self.fate.tell("the server closed its output");
                    return false;
                }
                Ok(read) => read,
                Err(error) => {
                    self.fate
                        .tell(format!("the server's output cannot be read: {error}"));
                    return false;
                }
            };
            let end = read.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(read.len(), |end| end + 1);
            if self.line.len() + taken > MESSAGE_BYTES_MAX {
                self.fate.tell(format!(
                    "the server wrote a line of more than {MESSAGE_BYTES_MAX} bytes"
                ));
                return false;
            }
            self.line.extend_from_slice(&read[..taken]);
            self.reader.consume(taken);
            if end.is_some() {
                return true;
            }
        }
    }
}

impl Transport<RoleClient> for Lines {
    type Error = io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let writer = Arc::clone(&self.writer);
        async move {
            let mut line = serde_json::to_vec(&item)?;
            line.push(b'\n');
            match writer.lock().await.as_mut() {
                Some(writer) => {
                    writer.write_all(&line).await?;
                    writer.flush().await
                }
                None => Err(io::Error::other("the connection is closed")),
            }
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        while self.fill().await {
            let message = message::read(&self.line);
            let bytes = self.line.len();
            self.line.clear();
            // A long message was the exception.
            self.line.shrink_to(64 * 1024);
            match message {
                Ok(message) => {
                    self.noise_bytes = 0;
                    return Some(message);
                }
                Err(error) => {
                    tracing::debug!(%error, bytes, "a line of an MCP server is no message");
                    self.noise_bytes += bytes;
                }
            }
            if self.noise_bytes > NOISE_BYTES_MAX {
                self.fate.tell(format!(
                    "the server wrote {NOISE_BYTES_MAX} bytes that are no messages"
                ));
                return None;
            }
        }
        None
    }

    async fn close(&mut self) -> io::Result<()> {
        // Whoever writes holds it: that ends with the process.
        if let Ok(mut writer) = self.writer.try_lock() {
            writer.take();
        }
        Ok(())
    }
}
