//! The OpenClaw gateway protocol as data: frames, errors, limits and the WebSocket framing under them.
//!
//! Wire protocol 4 as spoken by the npm package `openclaw` 2026.9.6. Nothing here opens a socket, reads a
//! clock or knows a handler. Read in this order: [`websocket`], [`frame`], [`error`], [`limits`],
//! [`methods`], [`events`], [`scope`], [`schema`], [`raw`].

pub mod connect;
pub mod error;
pub mod events;
pub mod frame;
pub mod limits;
pub mod methods;
pub mod raw;
pub mod schema;
pub mod scope;
pub mod websocket;

/// The protocol version this gateway speaks. Source: `hello-ok.protocol` of OpenClaw 2026.9.6.
pub const PROTOCOL_VERSION: u32 = 4;

/// The OpenClaw release whose behaviour is the reference.
pub const REFERENCE_VERSION: &str = "2026.9.6";
