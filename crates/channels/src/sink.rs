//! Where received messages go: committed first, acknowledged after.

use crate::InboundMessage;
use async_trait::async_trait;
use std::sync::Arc;

/// The durable side, as a channel sees it. The gateway implements it on the store.
#[async_trait]
pub trait Spool: Send + Sync + 'static {
    /// Commits messages and cursor in one transaction; answers per message, in order.
    async fn commit(
        &self,
        channel: &str,
        account: &str,
        batch: Batch,
    ) -> Result<Vec<Accepted>, SinkError>;

    /// The cursor last committed under `key`.
    async fn cursor(
        &self,
        channel: &str,
        account: &str,
        key: &str,
    ) -> Result<Option<String>, SinkError>;

    /// Something happened that proves the connection is alive (a poll returned, a ping answered).
    fn alive(&self, _channel: &str, _account: &str) {}
}

/// What arrived together: acknowledged together.
#[derive(Debug, Default)]
pub struct Batch {
    pub messages: Vec<InboundMessage>,
    /// Where to go on after a restart (Telegram offset, Matrix `next_batch`, IMAP UID).
    pub cursor: Option<Cursor>,
}

#[derive(Debug, Clone)]
pub struct Cursor {
    /// Name of the cursor within the account: `offset`, `since`, `INBOX`.
    pub key: String,
    pub value: String,
}

/// What became of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// On disk, under this id.
    New { id: String },
    /// Seen before: harmless.
    Duplicate,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("not accepted, nothing is acknowledged: {reason}")]
pub struct SinkError {
    pub reason: String,
}

/// Handle to the spool for one account. Cheap to clone.
#[derive(Clone)]
pub struct InboundSink {
    spool: Arc<dyn Spool>,
    channel: Arc<str>,
    account: Arc<str>,
}

impl InboundSink {
    pub fn new(spool: Arc<dyn Spool>, channel: &str, account: &str) -> Self {
        Self {
            spool,
            channel: channel.into(),
            account: account.into(),
        }
    }

    /// Returns after the commit. Cancel-safe: dropping the future may or may not have committed,
    /// and offering the same messages again is harmless.
    pub async fn commit(&self, batch: Batch) -> Result<Vec<Accepted>, SinkError> {
        self.spool.commit(&self.channel, &self.account, batch).await
    }

    pub async fn cursor(&self, key: &str) -> Result<Option<String>, SinkError> {
        self.spool.cursor(&self.channel, &self.account, key).await
    }

    /// Call whenever the service has answered; an account that is silent for too long counts as
    /// deaf and is restarted.
    pub fn alive(&self) {
        self.spool.alive(&self.channel, &self.account);
    }
}
