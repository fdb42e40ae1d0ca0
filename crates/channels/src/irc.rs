//! IRC: one connection, `PRIVMSG` in and out.
//!
//! IRC acknowledges nothing: a message that was on its way when the connection broke is lost to us,
//! and one of ours counts as delivered when the server has answered a `PING` that was written after
//! it, because it works lines off in order. Settings are the original's (`channels.irc`).

mod config;
mod flood;
mod line;
mod register;
mod session;
mod stream;

use crate::accounts::Account;
use crate::{
    Action, Capabilities, Channel, ChannelError, Identity, InboundSink, Markup, OutboundMessage,
    Receipt, SendError, TextUnit, markup, web,
};
use async_trait::async_trait;
use bytes::Bytes;
use config::Config;
use parking_lot::Mutex;
use rustls::ClientConfig;
use session::{Inbox, Request, Session, What};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stream::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// For the fuzz targets: a line read, its text cut for sending and searched for us.
pub(crate) fn read(raw: &[u8]) {
    let Some(line) = line::Line::parse(raw) else {
        return;
    };
    assert!(!line.command.is_empty(), "a line without a command");
    line.nick();
    for at in 0..line.params.len() {
        line::is_middle(line.param(at));
        line::mentions(line.param(at), "Bot[x]", line::CaseMapping::default());
        for part in line::split_text(line.param(at), 64) {
            assert!(
                part.len() <= 64 && !part.contains(['\r', '\n']),
                "not one line"
            );
        }
    }
}

/// Messages that wait for the connection to write them.
const REQUESTS_MAX: usize = 32;

const CAPABILITIES: Capabilities = Capabilities {
    channel: "irc",
    // Source: the original's chunk limit; with target and prefix it is one line of 512 bytes.
    text_max: 350,
    text_unit: TextUnit::Bytes,
    caption_max: 0,
    markup: Markup::Plain,
    media_bytes_max: 0,
    album_max: 1,
    pictures: None,
    replies: true,
    threads: false,
    edits: false,
    deletes: false,
    reactions: false,
    typing: true,
    buttons: false,
    idempotent_send: false,
};

/// How long silence may last.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// After so long without a line from the server we ask whether it is there.
    pub ping_after: Duration,
    /// And give it so long to answer, as it has for each message.
    pub answer_max: Duration,
    /// Before a channel that we were kicked from is joined again.
    pub rejoin_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping_after: Duration::from_secs(60),
            answer_max: Duration::from_secs(30),
            rejoin_after: Duration::from_secs(10),
        }
    }
}

/// One nick on one network.
pub struct Irc {
    config: Config,
    capabilities: Capabilities,
    tls: Arc<ClientConfig>,
    timing: Timing,
    /// Into the running connection.
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    /// Received and not yet committed; survives a reconnect.
    inbox: Inbox,
}

impl Irc {
    /// # Errors
    /// [`ChannelError::Config`] names the key that cannot work.
    pub fn new(account: &Account) -> Result<Self, ChannelError> {
        Self::with(account, Arc::new(web::tls_config()), Timing::default())
    }

    /// With its own trust and patience.
    ///
    /// # Errors
    /// As [`Irc::new`].
    pub fn with(
        account: &Account,
        tls: Arc<ClientConfig>,
        timing: Timing,
    ) -> Result<Self, ChannelError> {
        let mut capabilities = CAPABILITIES;
        if let Some(limit) = account.number("textChunkLimit") {
            capabilities.text_max = usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        }
        Ok(Self {
            config: Config::read(account)?,
            capabilities,
            tls,
            timing,
            requests: Mutex::new(None),
            inbox: Inbox::default(),
        })
    }

    async fn ask(&self, what: What) -> Result<Receipt, SendError> {
        let retry = |reason: &str| SendError::Retry {
            after: None,
            reason: reason.into(),
        };
        let requests = self.requests.lock().clone();
        let requests = requests.ok_or_else(|| retry("not connected"))?;
        let (answer, answered) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let request = Request {
            what,
            begun: Arc::clone(&begun),
            answer,
        };
        // A full queue is a busy connection, not a dead one: the outbox waits better than we do.
        requests
            .try_send(request)
            .map_err(|_full| retry("too many messages wait for this connection"))?;
        match answered.await {
            Ok(outcome) => outcome,
            Err(_dropped) if begun.load(Ordering::Acquire) => Err(SendError::Unknown {
                reason: "the connection ended while the message was written".into(),
            }),
            Err(_dropped) => Err(retry("the connection ended before the message was written")),
        }
    }
}

#[async_trait]
impl Channel for Irc {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn receive(
        &self,
        sink: InboundSink,
        stop: CancellationToken,
    ) -> Result<(), ChannelError> {
        self.inbox.commit_waiting(&sink).await?;
        let opened = async {
            let mut stream = Stream::connect(&self.config, Arc::clone(&self.tls)).await?;
            let welcome = register::register(&mut stream, &self.config).await?;
            Ok::<_, ChannelError>((stream, welcome))
        };
        let (stream, welcome) = tokio::select! {
            opened = opened => opened?,
            () = stop.cancelled() => return Ok(()),
        };
        sink.alive();
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let session = Session::new(stream, welcome, &self.config, self.timing, &self.inbox);
        *self.requests.lock() = Some(sender);
        let ended = tokio::select! {
            ended = session.run(requests, &sink, &stop) => ended,
            failed = self.inbox.commit_always(&sink) => failed,
        };
        *self.requests.lock() = None;
        // What came before the end is kept; a sink that refuses gets it at the next start.
        let kept = self.inbox.commit_waiting(&sink).await;
        ended.and(kept)
    }

    async fn send(&self, message: &OutboundMessage) -> Result<Receipt, SendError> {
        if !line::is_middle(&message.target) {
            return Err(SendError::Rejected {
                reason: format!("{:?} is neither a channel nor a nick", message.target),
            });
        }
        let mut text = markup::plain(&message.text);
        for attachment in &message.attachments {
            let is_link = ["http://", "https://"]
                .iter()
                .any(|scheme| attachment.source.starts_with(scheme));
            if !is_link {
                return Err(SendError::Unsupported {
                    channel: "irc",
                    what: "sending a file",
                });
            }
            text = format!("{text}\n{}", attachment.source);
        }
        self.ask(What::Say {
            target: message.target.clone(),
            text,
            reply_to: message.reply_to.clone(),
        })
        .await
    }

    async fn act(&self, action: &Action) -> Result<(), SendError> {
        let unsupported = |what| SendError::Unsupported {
            channel: "irc",
            what,
        };
        match action {
            Action::Typing { target, on, .. } if line::is_middle(target) => {
                let what = What::Typing {
                    target: target.clone(),
                    on: *on,
                };
                self.ask(what).await.map(|_receipt| ())
            }
            Action::Typing { .. } => Err(unsupported("typing to such a target")),
            Action::React { .. } => Err(unsupported("a reaction")),
            Action::Edit { .. } => Err(unsupported("an edit")),
            Action::Delete { .. } => Err(unsupported("a deletion")),
        }
    }

    async fn probe(&self) -> Result<Identity, ChannelError> {
        let nick = if self.requests.lock().is_some() {
            let asked = self.ask(What::WhoAmI).await;
            asked.map_err(|e| stream::gone(e.to_string()))?.message_id
        } else {
            let mut stream = Stream::connect(&self.config, Arc::clone(&self.tls)).await?;
            let welcome = register::register(&mut stream, &self.config).await?;
            stream.write("QUIT").await?;
            welcome.nick
        };
        Ok(Identity {
            name: Some(nick.clone()),
            id: nick,
        })
    }

    async fn fetch(&self, _source: &str, _bytes_max: u64) -> Result<Bytes, SendError> {
        Err(SendError::Unsupported {
            channel: "irc",
            what: "a file",
        })
    }
}
