//! One account on one chat service: receive, send, act.
//!
//! A channel knows its service's protocol and limits and nothing else: it has never heard of
//! sessions, SQL or OpenClaw's wire. What it receives goes into an [`InboundSink`], which returns
//! after the commit; only then is the service told that we have it. What it sends comes from an
//! outbox row and ends as a [`Receipt`] or a [`SendError`] that says what to do next.
//!
//! Start with [`Channel`], then [`message`]; one folder per service.

pub mod accounts;
mod capabilities;
pub mod chunk;
pub mod email;
mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod irc;
pub mod markup;
pub mod matrix;
pub mod message;
mod sink;
pub mod supervisor;
pub mod telegram;
pub mod web;
pub mod webhook;

pub use capabilities::{Capabilities, Markup, Pictures, TextUnit};
pub use error::{ChannelError, SendError};
pub use message::{Action, InboundMessage, OutboundMessage, Receipt};
pub use sink::{Accepted, Batch, Cursor, InboundSink, SinkError, Spool};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// One account on one chat service. Object-safe; one instance per running account.
#[async_trait]
pub trait Channel: Send + Sync + 'static {
    /// Limits and abilities, as data. Constant for the life of the instance.
    fn capabilities(&self) -> &Capabilities;

    /// Receives until `stop` is cancelled (then `Ok`) or the connection ends (then why). Reconnects
    /// within one login are the channel's own affair; anything else is the supervisor's, which
    /// calls again with back-off. Everything goes through `sink`, and the service is acknowledged
    /// only after `sink` has answered.
    async fn receive(&self, sink: InboundSink, stop: CancellationToken)
    -> Result<(), ChannelError>;

    /// Sends one message that is already within the service's limits. Not retried inside, except
    /// where the service guarantees that a repeat is harmless.
    async fn send(&self, message: &OutboundMessage) -> Result<Receipt, SendError>;

    /// Typing, reaction, edit, delete. [`SendError::Unsupported`] where the service has no such
    /// thing.
    async fn act(&self, action: &Action) -> Result<(), SendError>;

    /// Asks the service whether a send whose outcome is unknown arrived. `None`: it cannot tell.
    async fn reconcile(&self, _message: &OutboundMessage) -> Result<Reconciled, SendError> {
        Ok(Reconciled::CannotTell)
    }

    /// A cheap authenticated request (`getMe`, `whoami`, `NOOP`): who we are there.
    async fn probe(&self) -> Result<Identity, ChannelError>;

    /// Handles a request that the service makes to us. 404 where the service makes none. Returns
    /// 2xx only after the sink has committed.
    async fn handle_http(
        &self,
        _request: http::Request<Bytes>,
        _sink: InboundSink,
    ) -> http::Response<Bytes> {
        let mut response = http::Response::new(Bytes::new());
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        response
    }

    /// Fetches an attachment that came in as a reference, up to `bytes_max`.
    async fn fetch(&self, source: &str, bytes_max: u64) -> Result<Bytes, SendError>;
}

/// What the service says about a send whose outcome was unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reconciled {
    Arrived(Receipt),
    /// Sending again cannot make a second message.
    NotArrived,
    CannotTell,
}

/// Who the account is on its service.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Identity {
    /// The service's id of the account (`123456`, `@bot:example.org`, a nick, an address).
    pub id: String,
    /// How people see it.
    pub name: Option<String>,
}
