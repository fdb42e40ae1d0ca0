//! What went wrong, by what the caller does next.

use std::time::Duration;

/// Why a send or an action did not end in a receipt.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Certainly not sent; again later. `after` is the service's own wish (`Retry-After`).
    #[error("{reason}")]
    Retry {
        after: Option<Duration>,
        reason: String,
    },
    /// Certainly not sent, and never will be as it is (chat gone, blocked, too long).
    #[error("{reason}")]
    Rejected { reason: String },
    /// The account's credentials are refused: nothing of this account can be sent until a person
    /// acts.
    #[error("{reason}")]
    Unauthorized { reason: String },
    /// May have been sent. Only a reconciliation or a harmless repeat may resolve it.
    #[error("{reason}")]
    Unknown { reason: String },
    #[error("{what} is not possible on {channel}")]
    Unsupported {
        channel: &'static str,
        what: &'static str,
    },
}

/// Why receiving ended or an account could not start.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The account's settings cannot work: names the key and what to write. Not retried until the
    /// settings change.
    #[error("{key}: {reason}")]
    Config { key: String, reason: String },
    /// The service refuses our credentials. Retried slowly.
    #[error("the service refuses the credentials: {reason}")]
    Unauthorized { reason: String },
    /// Another process receives with the same credentials (Telegram 409).
    #[error("another process receives with these credentials: {reason}")]
    Conflict { reason: String },
    /// Network, protocol, service down. Retried with back-off.
    #[error("{reason}")]
    Disconnected {
        reason: String,
        after: Option<Duration>,
    },
    /// The spool does not accept: nothing was acknowledged. Retried with back-off.
    #[error(transparent)]
    Sink(#[from] crate::SinkError),
}
