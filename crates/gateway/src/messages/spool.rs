//! The spool as channels see it: on disk first, then the service is told.

use std::sync::Arc;

use async_trait::async_trait;
use channels::{Accepted, Batch, SinkError, Spool};
use store::{NewInbound, Spooled, Store};
use tokio::sync::Notify;

use super::halt::Urgent;
use super::{crash_point, now_ms};
use crate::routing::{commands, lane};

pub(super) struct StoreSpool {
    store: Store,
    inbox: Arc<Notify>,
    urgent: Arc<Urgent>,
}

impl StoreSpool {
    pub(super) fn new(store: Store, inbox: Arc<Notify>, urgent: Arc<Urgent>) -> Self {
        Self {
            store,
            inbox,
            urgent,
        }
    }
}

#[async_trait]
impl Spool for StoreSpool {
    async fn commit(
        &self,
        channel: &str,
        account: &str,
        batch: Batch,
    ) -> Result<Vec<Accepted>, SinkError> {
        let refused = |error: &dyn std::fmt::Display| SinkError {
            reason: error.to_string(),
        };
        let mut rows = Vec::with_capacity(batch.messages.len());
        for message in &batch.messages {
            rows.push(NewInbound {
                channel: channel.to_owned(),
                account: account.to_owned(),
                event_id: message.event_id.clone(),
                // Numbers of messages are unique within a chat alone.
                message_id: format!("{}/{}", message.chat.id, message.message_id),
                lane: lane(
                    channel,
                    account,
                    &message.chat.id,
                    message.chat.thread.as_deref(),
                ),
                payload: serde_json::to_string(&super::intake::Inbound::Channel(Box::new(
                    message.clone(),
                )))
                .map_err(|error| refused(&error))?,
            });
        }
        let (channel, account, cursor) = (channel.to_owned(), account.to_owned(), batch.cursor);
        crash_point!("inbound.before_commit");
        let spooled = self
            .store
            .write(move |tx| {
                let now = now_ms();
                let spooled = rows
                    .iter()
                    .map(|row| tx.inbox().spool(row, now))
                    .collect::<Result<Vec<_>, _>>()?;
                if let Some(cursor) = cursor {
                    tx.set_cursor(&channel, &account, &cursor.key, &cursor.value, now)?;
                }
                Ok(spooled)
            })
            .await
            .map_err(|error| refused(&error))?;
        crash_point!("inbound.after_commit");
        for (message, spooled) in batch.messages.iter().zip(&spooled) {
            if let Spooled::New(id) = spooled
                && commands::read(message).is_some_and(|order| order.kind.is_urgent())
            {
                self.urgent.push(id);
            }
        }
        self.inbox.notify_one();
        Ok(spooled
            .into_iter()
            .map(|spooled| match spooled {
                Spooled::New(id) => Accepted::New { id },
                Spooled::Duplicate(_) => Accepted::Duplicate,
            })
            .collect())
    }

    async fn cursor(
        &self,
        channel: &str,
        account: &str,
        key: &str,
    ) -> Result<Option<String>, SinkError> {
        let (channel, account, key) = (channel.to_owned(), account.to_owned(), key.to_owned());
        self.store
            .read(move |reader| reader.cursor(&channel, &account, &key))
            .await
            .map_err(|error| SinkError {
                reason: error.to_string(),
            })
    }
}
