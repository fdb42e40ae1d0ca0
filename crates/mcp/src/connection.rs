//! One connection: begun, asked, ended.

use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    CancelledNotification, CancelledNotificationParam, ClientCapabilities, ClientConfig,
    ClientNotification, ClientRequest, CustomRequest, Implementation, ProtocolVersion, RequestId,
};
use rmcp::service::{
    ClientInitializeError, NotificationContext, Peer, PeerRequestOptions, RunningService,
    ServiceError, serve_client_with_ct,
};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::{DynamicTransportError, StreamableHttpClientTransport};
use rmcp::{ClientHandler, RoleClient};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::fate::Fate;
use crate::http::{Endpoint, Http};
use crate::lines::Lines;
use crate::message;
use crate::sse::Legacy;
use crate::way::{Kind, Way};
use crate::{Error, LIST_BYTES_MAX, LIST_ITEMS_MAX, LIST_PAGES_MAX, MESSAGE_BYTES_MAX};

/// How long an end by agreement may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// A tool as its server describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Without space around it; unique on its server, and not empty.
    pub name: String,
    pub title: Option<String>,
    pub description: Option<String>,
    /// JSON schema of the arguments.
    pub schema: Value,
}

/// Told that the server's list of tools is another one now.
type Changed = Arc<dyn Fn() + Send + Sync>;

struct Client(Changed);

impl ClientHandler for Client {
    fn get_info(&self) -> ClientConfig {
        let us = Implementation::new("openclaw-gateway", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), us)
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        (self.0)();
    }
}

/// A server that has been greeted. Dropping it ends the connection.
pub struct Connection {
    peer: Peer<RoleClient>,
    end: CancellationToken,
    /// Cancelled when nothing can be asked any more.
    ended: CancellationToken,
    fate: Fate,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Connection {
    /// Over a process's standard output and input.
    ///
    /// # Errors
    /// It does not get through `initialize` within the time, or at all.
    pub async fn over_pipes(
        reader: impl AsyncRead + Unpin + Send + 'static,
        writer: impl AsyncWrite + Unpin + Send + 'static,
        within: Duration,
        changed: Changed,
    ) -> Result<Self, Error> {
        let fate = Fate::default();
        let lines = Lines::new(Box::new(reader), Box::new(writer), fate.clone());
        let end = CancellationToken::new();
        Self::begin(Kind::Pipes(lines), (fate, end), within, changed).await
    }

    /// Over streamable HTTP.
    ///
    /// # Errors
    /// As [`Self::over_pipes`].
    pub async fn over_http(
        endpoint: Endpoint,
        within: Duration,
        changed: Changed,
    ) -> Result<Self, Error> {
        let config = StreamableHttpClientTransportConfig::with_uri(endpoint.url.as_str())
            .max_sse_event_size(MESSAGE_BYTES_MAX)
            .max_json_response_size(MESSAGE_BYTES_MAX);
        let (fate, end) = (Fate::default(), CancellationToken::new());
        let http = Http::new(endpoint, fate.clone(), end.clone());
        let transport = StreamableHttpClientTransport::with_client(http, config);
        let kind = Kind::Http(Box::new(transport));
        Self::begin(kind, (fate, end), within, changed).await
    }

    /// Over HTTP with one stream of events, as servers of 2024 speak it.
    ///
    /// # Errors
    /// As [`Self::over_pipes`].
    pub async fn over_events(
        endpoint: Endpoint,
        within: Duration,
        changed: Changed,
    ) -> Result<Self, Error> {
        let by = Instant::now() + within;
        let fate = Fate::default();
        let opened = timeout_at(by, Legacy::open(endpoint, fate.clone())).await;
        let legacy = opened.map_err(|_elapsed| late(within))??;
        let (kind, end) = (Kind::Events(legacy), CancellationToken::new());
        Self::begin(kind, (fate, end), by - Instant::now(), changed).await
    }

    /// `end` ends it, and `fate` says why.
    async fn begin(
        kind: Kind,
        (fate, end): (Fate, CancellationToken),
        within: Duration,
        changed: Changed,
    ) -> Result<Self, Error> {
        let ended = CancellationToken::new();
        let greeted = Box::pin(serve_client_with_ct(
            Client(changed),
            Way::new(kind),
            end.clone(),
        ));
        let service: RunningService<RoleClient, Client> = match timeout(within, greeted).await {
            Ok(Ok(service)) => service,
            Ok(Err(error)) => {
                return Err(Error::NotBegun(
                    fate.told().unwrap_or_else(|| reason(&error)),
                ));
            }
            Err(_elapsed) => {
                end.cancel();
                return Err(late(within));
            }
        };
        let peer = service.peer().clone();
        let over = ended.clone().drop_guard();
        tokio::spawn(async move {
            if let Err(error) = service.waiting().await {
                tracing::error!(%error, "a connection to an MCP server broke");
            }
            drop(over);
        });
        Ok(Self {
            peer,
            end,
            ended,
            fate,
        })
    }

    /// Why nothing can be asked any more, once that is so.
    pub fn closed(&self) -> Option<String> {
        let why = || {
            self.fate
                .told()
                .unwrap_or_else(|| "the connection ended".to_owned())
        };
        self.ended.is_cancelled().then(why)
    }

    /// Resolves when nothing can be asked any more.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Ends it: over HTTP the server is told, over pipes its input is closed. Bounded.
    pub async fn close(&self) {
        self.end.cancel();
        if timeout(GOODBYE, self.ended.cancelled()).await.is_err() {
            tracing::debug!("an MCP server does not let go");
        }
    }

    /// Whether the server says that it has `resources`, `prompts`.
    pub fn offers(&self, capability: &str) -> bool {
        let Some(info) = self.peer.peer_info() else {
            return false;
        };
        match capability {
            "tools" => info.capabilities.tools.is_some(),
            "resources" => info.capabilities.resources.is_some(),
            "prompts" => info.capabilities.prompts.is_some(),
            _ => false,
        }
    }

    /// All its tools. One that is none (no name, a name that two have, no schema) is left out; the log names it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn tools(&self, within: Duration) -> Result<Vec<Tool>, Error> {
        let listed = match self.list("tools/list", "tools", within).await {
            // A server of resources or prompts alone need not know the method.
            Err(error) if error.is_unknown_method() && !self.offers("tools") => Vec::new(),
            listed => listed?,
        };
        Ok(tools_of(listed))
    }

    /// All entries of a list, over its pages.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list(
        &self,
        method: &str,
        field: &str,
        within: Duration,
    ) -> Result<Vec<Value>, Error> {
        let by = Instant::now() + within;
        let (mut entries, mut bytes, mut cursor) = (Vec::new(), 0, None::<String>);
        let mut seen = std::collections::HashSet::new();
        let broken = |why: String| Err(Error::Garbage(format!("{method} {why}")));
        for _ in 0..LIST_PAGES_MAX {
            let params = match &cursor {
                Some(cursor) => json!({ "cursor": cursor }),
                None => json!({}),
            };
            let page = self
                .ask(method, params, by.saturating_duration_since(Instant::now()))
                .await;
            let mut page = match page {
                Err(Error::TimedOut { .. }) => return Err(Error::TimedOut { after: within }),
                page => page?,
            };
            bytes += page.to_string().len();
            if bytes > LIST_BYTES_MAX {
                return broken(format!("exceeded {LIST_BYTES_MAX} bytes"));
            }
            match page[field].take() {
                Value::Array(page) => entries.extend(page),
                _ => return broken(format!("answered without {field}")),
            }
            if entries.len() > LIST_ITEMS_MAX {
                return broken(format!("exceeded {LIST_ITEMS_MAX} entries"));
            }
            match page["nextCursor"].as_str() {
                None => return Ok(entries),
                Some(next) if !seen.insert(next.to_owned()) => {
                    return broken("returned a repeated pagination cursor".to_owned());
                }
                Some(next) => cursor = Some(next.to_owned()),
            }
        }
        broken(format!("exceeded {LIST_PAGES_MAX} pages"))
    }

    /// `{content, structuredContent, isError}`, as the server says it. Dropping the future, or its time, tells the server
    /// that the answer is not wanted any more.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn call(
        &self,
        tool: &str,
        arguments: Map<String, Value>,
        within: Duration,
    ) -> Result<Value, Error> {
        let params = json!({ "name": tool, "arguments": arguments });
        self.ask("tools/call", params, within).await
    }

    /// Any request.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ask(&self, method: &str, params: Value, within: Duration) -> Result<Value, Error> {
        if let Some(why) = self.closed() {
            return Err(Error::Closed(why));
        }
        let request =
            ClientRequest::CustomRequest(CustomRequest::new(method.to_owned(), Some(params)));
        let asked = async {
            let options = PeerRequestOptions::no_options();
            let sent = self.peer.send_cancellable_request(request, options).await?;
            let mut unwanted = Unwanted {
                peer: &self.peer,
                id: Some(sent.id),
            };
            let answer = sent.rx.await;
            unwanted.id = None;
            answer.map_err(|_gone| ServiceError::TransportClosed)?
        };
        match timeout(within, Box::pin(asked)).await {
            Ok(Ok(answer)) => serde_json::to_value(answer)
                .map(message::answer)
                .map_err(|error| Error::Garbage(format!("an answer cannot be read: {error}"))),
            Ok(Err(error)) => Err(self.failure(error)),
            Err(_elapsed) => Err(Error::TimedOut { after: within }),
        }
    }

    fn failure(&self, error: ServiceError) -> Error {
        match error {
            ServiceError::McpError(refusal) => Error::Refused {
                code: refusal.code.0,
                message: refusal.message.into_owned(),
            },
            ServiceError::Timeout { timeout } => Error::TimedOut { after: timeout },
            ServiceError::TransportClosed => {
                let why = self.fate.told();
                Error::Closed(why.unwrap_or_else(|| "the connection ended".to_owned()))
            }
            ServiceError::TransportSend(error) => match self.fate.told() {
                Some(why) => Error::Closed(why),
                None => Error::Untaken(sent(&error)),
            },
            other => Error::Garbage(short(&other.to_string())),
        }
    }
}

/// A request whose answer nobody waits for once this is dropped.
struct Unwanted<'a> {
    peer: &'a Peer<RoleClient>,
    id: Option<RequestId>,
}

impl Drop for Unwanted<'_> {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let why = "the caller does not wait any more".to_owned();
        let params = CancelledNotificationParam::new(Some(id), Some(why));
        let told = ClientNotification::CancelledNotification(CancelledNotification::new(params));
        let peer = self.peer.clone();
        runtime.spawn(async move {
            if timeout(GOODBYE, peer.send_notification(told))
                .await
                .is_err()
            {
                tracing::debug!("an MCP server could not be told that a call is over");
            }
        });
    }
}

/// Why a server did not get through `initialize`.
fn reason(error: &ClientInitializeError) -> String {
    match error {
        ClientInitializeError::TransportError { error, .. } => sent(error),
        ClientInitializeError::JsonRpcError(refusal) => short(&format!(
            "MCP error {}: {}",
            refusal.code.0, refusal.message
        )),
        ClientInitializeError::ConnectionClosed(_) => "the connection ended".to_owned(),
        other => short(&other.to_string()),
    }
}

/// Why a message could not be sent, without the SDK's names for it.
fn sent(error: &DynamicTransportError) -> String {
    let words = error.error.to_string();
    let names = ["Client error: ", "unexpected server response: "];
    let plain = names.iter().find_map(|name| words.strip_prefix(name));
    short(plain.unwrap_or(&words))
}

fn late(within: Duration) -> Error {
    Error::NotBegun(format!(
        "timed out: did not complete initialize within {}s",
        within.as_secs_f64()
    ))
}

/// A stranger's words, short enough for a log.
pub(crate) fn short(words: &str) -> String {
    const CHARS_MAX: usize = 300;
    match words.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", &words[..at]),
        None => words.to_owned(),
    }
}

/// Names that two tools have mean neither.
fn tools_of(listed: Vec<Value>) -> Vec<Tool> {
    let name = |entry: &Value| entry["name"].as_str().unwrap_or_default().trim().to_owned();
    let mut times = std::collections::HashMap::<String, usize>::new();
    for entry in &listed {
        *times.entry(name(entry)).or_default() += 1;
    }
    let mut tools = Vec::new();
    for mut entry in listed {
        let name = name(&entry);
        let is_task = entry["execution"]["taskSupport"] == "required";
        let why = match (name.as_str(), times[&name]) {
            ("", _) => "it has no name",
            (_, 2..) => "two have this name",
            _ if is_task => "it can only be called as a task",
            _ if !entry["inputSchema"].is_object() => "it has no schema",
            _ => {
                let text = |key: &str| entry[key].as_str().map(str::to_owned);
                tools.push(Tool {
                    title: text("title"),
                    description: text("description"),
                    schema: entry["inputSchema"].take(),
                    name,
                });
                continue;
            }
        };
        tracing::warn!(
            tool = short(&name),
            why,
            "a tool of an MCP server is left out"
        );
    }
    tools
}

#[cfg(test)]
mod tests;
