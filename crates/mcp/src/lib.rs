//! Talks to one MCP server: what it offers, and what its tools answer.
//!
//! A [`Connection`] is over pipes, which the caller's process hands in, or over HTTP; the protocol is the official SDK's.
//! What comes from a server is a stranger's word: every size and time has a limit, and what breaks one ends the connection
//! with a reason. [`names`], [`filter`], [`metadata`] and [`content`] say what a model is shown of it, as the original does.
//! Processes, sessions, configuration and policy are the caller's.

mod connection;
pub mod content;
mod events;
mod fate;
pub mod filter;
mod http;
mod lines;
mod message;
pub mod metadata;
pub mod names;
mod sse;
mod way;

pub use connection::{Connection, Tool};
pub use http::Endpoint;

use std::time::Duration;

/// Bytes of one message. A longer one ends the connection. Source: STDIO_DEFAULT_MAX_BUFFER_SIZE of the TypeScript SDK.
pub const MESSAGE_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Pages, entries and bytes of one list. Source: agent-bundle-mcp-runtime.ts at 2026.9.6.
pub const LIST_PAGES_MAX: usize = 128;
pub const LIST_ITEMS_MAX: usize = 16_384;
pub const LIST_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Why a server gave no answer. The words of what a call meets are the original's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Its own refusal.
    #[error("MCP error {code}: {message}")]
    Refused { code: i32, message: String },
    #[error("MCP error -32001: Request timed out")]
    TimedOut { after: Duration },
    /// Nothing can be asked any more: why.
    #[error("MCP error -32000: Connection closed: {0}")]
    Closed(String),
    /// It did not take the request; the connection may hold.
    #[error("the server did not take the request: {0}")]
    Untaken(String),
    /// The server did not get through `initialize`.
    #[error("{0}")]
    NotBegun(String),
    /// An answer that is none, or passes a limit.
    #[error("{0}")]
    Garbage(String),
}

impl Error {
    /// The method is none of the server's.
    pub const fn is_unknown_method(&self) -> bool {
        matches!(self, Self::Refused { code: -32601, .. })
    }
}
