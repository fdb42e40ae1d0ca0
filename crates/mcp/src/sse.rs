//! The transport of servers from before streamable HTTP, which answer over one stream of events.
//!
//! Source: the specification of 2024-11-05, "HTTP with SSE". The SDK has no client for it any more; the original takes it
//! for a server with a `url` and no `transport`.

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::header::{ACCEPT, CONTENT_TYPE};
use reqwest::Url;
use rmcp::RoleClient;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use sse_stream::Sse;

use crate::events::{self, Broken};
use crate::fate::Fate;
use crate::http::{EVENT_STREAM, Endpoint, words};
use crate::{Error, MESSAGE_BYTES_MAX, message};

pub(crate) struct Legacy {
    endpoint: Endpoint,
    /// Where messages are posted, as the server said.
    inbox: Url,
    events: BoxStream<'static, Result<Sse, Broken>>,
    fate: Fate,
}

impl Legacy {
    pub(crate) async fn open(endpoint: Endpoint, fate: Fate) -> Result<Self, Error> {
        let request = endpoint
            .client
            .get(endpoint.url.clone())
            .headers(endpoint.headers.clone())
            .header(ACCEPT, EVENT_STREAM);
        let failed = |why: String| Error::NotBegun(why);
        let response = request
            .send()
            .await
            .map_err(|error| failed(words(&error)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(failed(format!("the server answers HTTP {status}")));
        }
        let mut events = events::events(response, MESSAGE_BYTES_MAX);
        let inbox = loop {
            match events.next().await {
                Some(Ok(Sse {
                    event: Some(event),
                    data: Some(data),
                    ..
                })) if event == "endpoint" => break endpoint.url.join(data.trim()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(failed(error.to_string())),
                None => return Err(failed("the server closed its stream of events".to_owned())),
            }
        };
        let inbox = inbox
            .map_err(|error| failed(format!("the server names no usable endpoint: {error}")))?;
        if inbox.origin() != endpoint.url.origin() {
            return Err(failed(
                "the server names an endpoint of another origin".to_owned(),
            ));
        }
        Ok(Self {
            endpoint,
            inbox,
            events,
            fate,
        })
    }
}

impl Transport<RoleClient> for Legacy {
    type Error = std::io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = std::io::Result<()>> + Send + 'static {
        let request = self
            .endpoint
            .client
            .post(self.inbox.clone())
            .headers(self.endpoint.headers.clone())
            .header(CONTENT_TYPE, "application/json");
        async move {
            let response = request.body(serde_json::to_vec(&item)?).send().await;
            let response = response.map_err(|error| std::io::Error::other(words(&error)))?;
            match response.status() {
                status if status.is_success() => Ok(()),
                status => Err(std::io::Error::other(format!(
                    "the server answers HTTP {status}"
                ))),
            }
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        loop {
            let event = match self.events.next().await {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    self.fate
                        .tell(format!("the server's events break off: {error}"));
                    return None;
                }
                None => {
                    self.fate.tell("the server closed its stream of events");
                    return None;
                }
            };
            let is_message = event
                .event
                .as_deref()
                .is_none_or(|event| event == "message");
            let Some(data) = event.data.filter(|_| is_message) else {
                continue;
            };
            match message::read(data.as_bytes()) {
                Ok(message) => return Some(message),
                Err(error) => {
                    tracing::debug!(%error, bytes = data.len(), "an event of an MCP server is no message");
                }
            }
        }
    }

    async fn close(&mut self) -> std::io::Result<()> {
        self.events = stream::empty().boxed();
        Ok(())
    }
}
