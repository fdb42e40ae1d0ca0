//! Bytes to an authenticated request, and frames back to bytes.

pub(crate) mod admin;
pub(crate) mod api;
pub(crate) mod complaints;
pub(crate) mod connection;
pub(crate) mod door;
pub(crate) mod handshake;
pub(crate) mod hello;
pub(crate) mod http;
pub(crate) mod listen;
pub(crate) mod outbound;
pub(crate) mod preauth;
pub(crate) mod tls;
pub(crate) mod transport;
pub(crate) mod websocket;
