//! The ways to a server as one type: what the SDK makes of a transport is made once, and not for each of them.
//!
//! The SDK answers each request of a server in a task of its own, and goes on reading. So a server that only asks, and does
//! not take the answers, is not read here until it takes some.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use rmcp::RoleClient;
use rmcp::model::JsonRpcMessage;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::{StreamableHttpClientTransport, Transport};
use tokio::sync::Semaphore;

use crate::http::Http;
use crate::lines::Lines;
use crate::sse::Legacy;

/// Answers on their way to a server; while it is so many, nothing more is taken from it.
const ANSWERS_MAX: usize = 64;

pub(crate) enum Kind {
    Pipes(Lines),
    Http(Box<StreamableHttpClientTransport<Http>>),
    Events(Legacy),
}

pub(crate) struct Way {
    kind: Kind,
    /// A permit for each answer on its way.
    answers: Arc<Semaphore>,
    /// The last message began a task, which gets its turn before the next one is taken.
    is_owing: bool,
}

impl Way {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            answers: Arc::new(Semaphore::new(ANSWERS_MAX)),
            is_owing: false,
        }
    }
}

/// Why a message could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unsent(String);

fn unsent(error: impl std::error::Error) -> Unsent {
    Unsent(error.to_string())
}

impl Transport<RoleClient> for Way {
    type Error = Unsent;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), Unsent>> + Send + 'static {
        let is_answer = matches!(item, JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_));
        let sent: BoxFuture<'static, Result<(), Unsent>> = match &mut self.kind {
            Kind::Pipes(lines) => {
                let sent = lines.send(item);
                Box::pin(async move { sent.await.map_err(unsent) })
            }
            Kind::Http(http) => {
                let sent = http.send(item);
                Box::pin(async move { sent.await.map_err(unsent) })
            }
            Kind::Events(events) => {
                let sent = events.send(item);
                Box::pin(async move { sent.await.map_err(unsent) })
            }
        };
        let answers = is_answer.then(|| Arc::clone(&self.answers));
        async move {
            let _permit = match answers {
                Some(answers) => answers.acquire_owned().await.ok(),
                None => None,
            };
            sent.await
        }
    }

    // What is taken must not be lost when this is dropped: after the message there is no more `await`.
    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        if self.is_owing {
            tokio::task::yield_now().await;
            self.is_owing = false;
        }
        drop(self.answers.acquire().await);
        let message = match &mut self.kind {
            Kind::Pipes(lines) => lines.receive().await,
            Kind::Http(http) => http.receive().await,
            Kind::Events(events) => events.receive().await,
        };
        self.is_owing = matches!(
            message,
            Some(JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_))
        );
        message
    }

    async fn close(&mut self) -> Result<(), Unsent> {
        match &mut self.kind {
            Kind::Pipes(lines) => lines.close().await.map_err(unsent),
            Kind::Http(http) => http.close().await.map_err(unsent),
            Kind::Events(events) => events.close().await.map_err(unsent),
        }
    }
}
