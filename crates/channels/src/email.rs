//! Email: IMAP in, SMTP out.
//!
//! The sender of a mail is whoever it says: only what our own server found authentic is taken for
//! it. What machines sent is not answered, and what we send says that a machine did. The Message-ID
//! of a mail is made from the delivery id, so that a copy in the sent mailbox proves a delivery.

mod compose;
mod config;
mod imap;
mod net;
mod parse;
mod smtp;

use crate::accounts::Account;
use crate::{
    Action, Capabilities, Channel, ChannelError, Identity, InboundSink, Markup, OutboundMessage,
    Receipt, Reconciled, SendError, TextUnit, web,
};
use async_trait::async_trait;
use bytes::Bytes;
use compose::Answered;
use config::{Config, Security};
use mail_parser::MessageParser;
use parking_lot::Mutex;
use parse::{Mail, Place};
use rustls::ClientConfig;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// For the fuzz targets: a mail read as one of ours.
pub(crate) fn read(raw: &[u8]) {
    let place = Place {
        validity: 1,
        uid: 1,
    };
    let verify = config::Verify::Results("mx.example".into());
    parse::parse(raw, place, "bot@example.com", &verify);
}

/// Subjects that are remembered for answers; others are looked up.
const SUBJECTS_MAX: usize = 500;

const CAPABILITIES: Capabilities = Capabilities {
    channel: "email",
    text_max: 200_000,
    text_unit: TextUnit::Chars,
    caption_max: 200_000,
    markup: Markup::Html,
    media_bytes_max: 20 << 20,
    album_max: 1,
    pictures: None,
    replies: true,
    threads: true,
    edits: false,
    deletes: false,
    reactions: false,
    typing: false,
    buttons: false,
    idempotent_send: false,
};

/// How long silence may last.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// One IDLE, before the server is asked whether it is there.
    pub idle_max: Duration,
    pub answer_max: Duration,
    /// Between two looks where the server has no IDLE.
    pub poll_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            // Routers forget a silent connection after about five minutes.
            idle_max: Duration::from_secs(4 * 60),
            answer_max: Duration::from_secs(30),
            poll_every: Duration::from_secs(30),
        }
    }
}

/// One address.
pub struct Email {
    config: Config,
    capabilities: Capabilities,
    tls: Arc<ClientConfig>,
    timing: Timing,
    /// Message-ID to subject.
    subjects: Mutex<HashMap<String, String>>,
}

impl Email {
    /// # Errors
    /// [`ChannelError::Config`] names the key that cannot work.
    pub fn new(account: &Account) -> Result<Self, ChannelError> {
        Self::with(account, Arc::new(web::tls_config()), Timing::default())
    }

    /// With its own trust and patience.
    ///
    /// # Errors
    /// As [`Email::new`].
    pub fn with(
        account: &Account,
        tls: Arc<ClientConfig>,
        timing: Timing,
    ) -> Result<Self, ChannelError> {
        let config = Config::read(account)?;
        if config.imap.security == Security::Plain {
            tracing::warn!(
                host = config.imap.host,
                "email: the password goes to the server in the clear"
            );
        }
        Ok(Self {
            capabilities: Capabilities {
                media_bytes_max: config.media_bytes_max,
                ..CAPABILITIES
            },
            config,
            tls,
            timing,
            subjects: Mutex::default(),
        })
    }

    fn remember(&self, mail: &Mail) {
        let mut subjects = self.subjects.lock();
        if subjects.len() >= SUBJECTS_MAX {
            subjects.clear();
        }
        subjects.insert(mail.message.message_id.clone(), mail.subject.clone());
    }

    /// The subject of the mail that is answered.
    async fn answered(&self, message: &OutboundMessage) -> Answered {
        let Some(id) = message
            .reply_to
            .as_ref()
            .filter(|_| message.subject.is_none())
        else {
            return Answered::default();
        };
        if let Some(subject) = self.subjects.lock().get(id) {
            return Answered {
                subject: Some(subject.clone()),
            };
        }
        match imap::find(&self.config, &self.tls, &self.config.mailbox, id).await {
            Ok(found) => Answered {
                subject: found.and_then(|raw| {
                    let mail = MessageParser::default().parse_headers(&raw[..])?;
                    mail.subject().map(str::to_owned)
                }),
            },
            Err(error) => {
                tracing::warn!(id, %error, "email: the subject of the answered mail is not known");
                Answered::default()
            }
        }
    }
}

#[async_trait]
impl Channel for Email {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn receive(
        &self,
        sink: InboundSink,
        stop: CancellationToken,
    ) -> Result<(), ChannelError> {
        tokio::select! {
            ended = Box::pin(imap::Mailbox::new(self, &sink).run()) => ended,
            () = stop.cancelled() => Ok(()),
        }
    }

    async fn send(&self, message: &OutboundMessage) -> Result<Receipt, SendError> {
        let target = message.target.trim();
        if target.parse::<lettre::Address>().is_err() {
            return Err(SendError::Rejected {
                reason: format!("{target:?} is not an address"),
            });
        }
        let (own, name) = (&self.config.address, self.config.name.as_deref());
        let answered = self.answered(message).await;
        let room = self.config.media_bytes_max;
        let mail = compose::compose(message, own, name, &answered, room).await?;
        let mail = Bytes::from(mail);
        smtp::send(&self.config.smtp, &self.tls, own, target, &mail).await?;
        if !self.config.sent_mailbox.is_empty()
            && let Err(error) = imap::keep(&self.config, &self.tls, &mail).await
        {
            // It is sent: only the copy is missing.
            tracing::warn!(%error, mailbox = self.config.sent_mailbox, "email: no copy was kept");
        }
        Ok(Receipt {
            message_id: compose::message_id(&message.delivery_id, own),
            more_ids: Vec::new(),
        })
    }

    async fn act(&self, action: &Action) -> Result<(), SendError> {
        Err(SendError::Unsupported {
            channel: "email",
            what: match action {
                Action::Typing { .. } => "typing",
                Action::React { .. } => "a reaction",
                Action::Edit { .. } => "an edit",
                Action::Delete { .. } => "a deletion",
            },
        })
    }

    /// A copy in the sent mailbox proves that it was sent. None proves nothing: it is kept after.
    async fn reconcile(&self, message: &OutboundMessage) -> Result<Reconciled, SendError> {
        let id = compose::message_id(&message.delivery_id, &self.config.address);
        for mailbox in [&self.config.sent_mailbox, &self.config.mailbox] {
            if mailbox.is_empty() {
                continue;
            }
            let found = imap::find(&self.config, &self.tls, mailbox, &id).await;
            if found.map_err(|e| unreachable_now(&e))?.is_some() {
                return Ok(Reconciled::Arrived(Receipt {
                    message_id: id,
                    more_ids: Vec::new(),
                }));
            }
        }
        Ok(Reconciled::CannotTell)
    }

    async fn probe(&self) -> Result<Identity, ChannelError> {
        let session = imap::login(&self.config.imap, &self.tls).await?;
        imap::bye(session).await;
        Ok(Identity {
            id: self.config.address.clone(),
            name: self.config.name.clone(),
        })
    }

    async fn fetch(&self, source: &str, bytes_max: u64) -> Result<Bytes, SendError> {
        let rejected = |reason: String| SendError::Rejected { reason };
        let mut parts = source.split(':').map(str::parse::<u32>);
        let (Some(Ok(validity)), Some(Ok(uid)), Some(Ok(part)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(rejected(format!("{source:?} names no attachment")));
        };
        let found = imap::mail_at(&self.config, &self.tls, Place { validity, uid }).await;
        let raw = found.map_err(|e| unreachable_now(&e))?;
        let raw = raw.ok_or_else(|| rejected("the mail is not there any more".into()))?;
        let mail = MessageParser::default().parse(&raw);
        let content = mail.as_ref().and_then(|mail| mail.attachment(part));
        let content = content.map(|part| part.contents());
        let content = content.ok_or_else(|| rejected("the mail has no such attachment".into()))?;
        if content.len() as u64 > bytes_max {
            return Err(rejected(format!(
                "{} bytes, at most {bytes_max}",
                content.len()
            )));
        }
        Ok(Bytes::copy_from_slice(content))
    }
}

fn unreachable_now(error: &ChannelError) -> SendError {
    SendError::Retry {
        after: None,
        reason: error.to_string(),
    }
}
