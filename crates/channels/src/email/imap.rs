//! In: the mailbox from the last UID on, woken by IDLE where the server has it.
//! Source: RFC 3501, RFC 2177 (IDLE), RFC 4549 section 3 (UIDVALIDITY).

use super::config::{Config, Server};
use super::net::{Protocol, Stream, connect};
use super::parse::{self, Found, Place};
use super::{Email, Timing};
use crate::{Batch, ChannelError, Cursor, InboundSink};
use async_imap::Session;
use async_imap::error::Error;
use async_imap::extensions::idle::IdleResponse;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use rustls::ClientConfig;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// One command and its answer.
const COMMAND_MAX: Duration = Duration::from_secs(120);
/// Mails beyond this are not fetched: their sender is told nothing, the log is.
pub(super) const MAIL_BYTES_MAX: u32 = 40 << 20;

pub(super) type Connection = Session<Stream>;

pub(super) fn gone(reason: impl ToString) -> ChannelError {
    ChannelError::Disconnected {
        reason: reason.to_string(),
        after: None,
    }
}

async fn within<T>(
    what: &str,
    command: impl Future<Output = Result<T, Error>>,
) -> Result<T, ChannelError> {
    match timeout(COMMAND_MAX, command).await {
        Ok(done) => done.map_err(|e| gone(format!("IMAP {what}: {e}"))),
        Err(_elapsed) => Err(gone(format!("IMAP {what}: no answer in time"))),
    }
}

pub(super) async fn login(
    server: &Server,
    tls: &Arc<ClientConfig>,
) -> Result<Connection, ChannelError> {
    let stream = connect(server, tls, Protocol::Imap).await.map_err(gone)?;
    let mut client = async_imap::Client::new(stream);
    let greeting = timeout(COMMAND_MAX, client.read_response()).await;
    match greeting {
        Ok(Ok(Some(_greeting))) => {}
        Ok(Ok(None)) => return Err(gone("IMAP: closed without a greeting")),
        Ok(Err(error)) => return Err(gone(format!("IMAP: {error}"))),
        Err(_elapsed) => return Err(gone("IMAP: no greeting in time")),
    }
    let login = client.login(&server.username, &server.password);
    match timeout(COMMAND_MAX, login).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err((Error::No(said), _))) => Err(ChannelError::Unauthorized {
            reason: format!("IMAP login: {said}"),
        }),
        Ok(Err((error, _))) => Err(gone(format!("IMAP login: {error}"))),
        Err(_elapsed) => Err(gone("IMAP login: no answer in time")),
    }
}

/// How far we have read: everything up to `uid`, as long as the numbering is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    validity: u32,
    uid: u32,
    /// When the mailbox got the last one, seconds since the epoch: holds when the numbering changes.
    arrived_s: i64,
}

impl Position {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        Some(Self {
            validity: parts.next()?.parse().ok()?,
            uid: parts.next()?.parse().ok()?,
            arrived_s: parts.next()?.parse().ok()?,
        })
    }

    fn cursor(self, mailbox: &str) -> Cursor {
        Cursor {
            key: mailbox.to_owned(),
            value: format!("{}:{}:{}", self.validity, self.uid, self.arrived_s),
        }
    }
}

pub(super) struct Mailbox<'a> {
    email: &'a Email,
    config: &'a Config,
    sink: &'a InboundSink,
    timing: Timing,
}

impl<'a> Mailbox<'a> {
    pub(super) fn new(email: &'a Email, sink: &'a InboundSink) -> Self {
        Self {
            email,
            config: &email.config,
            sink,
            timing: email.timing,
        }
    }

    pub(super) async fn run(self) -> Result<(), ChannelError> {
        let mut session = login(&self.config.imap, &self.email.tls).await?;
        self.sink.alive();
        let can_idle = within("CAPABILITY", session.capabilities())
            .await?
            .has_str("IDLE");
        let mut at = self.start(&mut session).await?;
        loop {
            self.read_new(&mut session, &mut at).await?;
            session = self.wait(session, can_idle).await?;
            self.sink.alive();
        }
    }

    /// Where to begin: after what was read last, or, the first time, after what lies there.
    async fn start(&self, session: &mut Connection) -> Result<Position, ChannelError> {
        let mailbox = &self.config.mailbox;
        let found = within("SELECT", session.select(mailbox)).await?;
        let validity = found.uid_validity.unwrap_or(0);
        let last = found.uid_next.unwrap_or(1).saturating_sub(1);
        let stored = self.sink.cursor(mailbox).await?;
        match stored.as_deref().and_then(Position::parse) {
            Some(stored) if stored.validity == validity => Ok(stored),
            Some(stored) => {
                // All numbers are new. What arrived since the last one is read again; what we have
                // is known by its Message-ID.
                tracing::warn!(
                    mailbox,
                    old = stored.validity,
                    new = validity,
                    "email: the mailbox was renumbered"
                );
                let first = self.first_since(session, stored.arrived_s).await?;
                Ok(Position {
                    validity,
                    uid: first.map_or(last, |uid| uid.saturating_sub(1)),
                    arrived_s: stored.arrived_s,
                })
            }
            None => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let position = Position {
                    validity,
                    uid: last,
                    arrived_s: now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0)),
                };
                self.commit(Vec::new(), position).await?;
                Ok(position)
            }
        }
    }

    async fn first_since(
        &self,
        session: &mut Connection,
        arrived_s: i64,
    ) -> Result<Option<u32>, ChannelError> {
        let fetched = within("FETCH", async {
            session
                .uid_fetch("1:*", "(UID INTERNALDATE)")
                .await?
                .try_collect::<Vec<_>>()
                .await
        })
        .await?;
        let newer = fetched.iter().filter(|mail| {
            mail.internal_date()
                .is_some_and(|at| at.timestamp() >= arrived_s)
        });
        Ok(newer.filter_map(|mail| mail.uid).min())
    }

    async fn read_new(
        &self,
        session: &mut Connection,
        at: &mut Position,
    ) -> Result<(), ChannelError> {
        let range = format!("{}:*", at.uid.saturating_add(1));
        let listed = within("FETCH", async {
            let list = session
                .uid_fetch(range, "(UID INTERNALDATE RFC822.SIZE)")
                .await?;
            list.try_collect::<Vec<_>>().await
        })
        .await?;
        let mut new: Vec<_> = listed
            .iter()
            .filter_map(|mail| {
                let arrived = mail.internal_date().map_or(at.arrived_s, |d| d.timestamp());
                Some((mail.uid?, arrived, mail.size.unwrap_or(0)))
            })
            // `n:*` names the last one also when it is below n.
            .filter(|(uid, ..)| *uid > at.uid)
            .collect();
        new.sort_unstable();
        for (uid, arrived_s, size) in new {
            let place = Place {
                validity: at.validity,
                uid,
            };
            let mut messages = Vec::new();
            if size > MAIL_BYTES_MAX {
                tracing::warn!(uid, size, "email: too large, not read");
            } else if let Some(raw) = raw(session, uid).await? {
                match parse::parse(&raw, place, &self.config.address, &self.config.verify) {
                    Found::Message(mail) => {
                        self.email.remember(&mail);
                        messages.push(mail.message);
                    }
                    Found::Ignored(reason) => tracing::info!(uid, reason, "email: not answered"),
                }
            }
            let position = Position {
                validity: at.validity,
                uid,
                arrived_s,
            };
            self.commit(messages, position).await?;
            *at = position;
            let flag = async {
                let flagged = session
                    .uid_store(uid.to_string(), "+FLAGS.SILENT (\\Seen)")
                    .await?;
                flagged.try_collect::<Vec<_>>().await
            };
            within("STORE", flag).await?;
            self.sink.alive();
        }
        Ok(())
    }

    async fn commit(
        &self,
        messages: Vec<crate::InboundMessage>,
        position: Position,
    ) -> Result<(), ChannelError> {
        let batch = Batch {
            messages,
            cursor: Some(position.cursor(&self.config.mailbox)),
        };
        self.sink.commit(batch).await?;
        Ok(())
    }

    /// Until there may be something new. A server that is silent is asked whether it is there.
    async fn wait(&self, session: Connection, can_idle: bool) -> Result<Connection, ChannelError> {
        let mut session = session;
        if can_idle {
            let mut idle = session.idle();
            within("IDLE", idle.init()).await?;
            let (woken, _stop) = idle.wait_with_timeout(self.timing.idle_max);
            let woken = woken.await.map_err(|e| gone(format!("IMAP IDLE: {e}")))?;
            if matches!(woken, IdleResponse::ManualInterrupt) {
                return Err(gone("IMAP: the server closed the connection"));
            }
            session = match timeout(self.timing.answer_max, idle.done()).await {
                Ok(done) => done.map_err(|e| gone(format!("IMAP DONE: {e}")))?,
                Err(_elapsed) => return Err(gone("IMAP: the server does not answer any more")),
            };
        } else {
            tokio::time::sleep(self.timing.poll_every).await;
        }
        match timeout(self.timing.answer_max, session.noop()).await {
            Ok(done) => done.map_err(|e| gone(format!("IMAP NOOP: {e}")))?,
            Err(_elapsed) => return Err(gone("IMAP: the server does not answer any more")),
        }
        Ok(session)
    }
}

async fn raw(session: &mut Connection, uid: u32) -> Result<Option<Vec<u8>>, ChannelError> {
    let fetched = within("FETCH", async {
        let list = session
            .uid_fetch(uid.to_string(), "(UID BODY.PEEK[])")
            .await?;
        list.try_collect::<Vec<_>>().await
    })
    .await?;
    let found = fetched.iter().find(|mail| mail.uid == Some(uid));
    // Gone in between: somebody else reads this mailbox too.
    Ok(found.and_then(|mail| mail.body().map(<[u8]>::to_vec)))
}

/// Fetches one mail again, for its attachments or its subject.
pub(super) async fn mail_at(
    config: &Config,
    tls: &Arc<ClientConfig>,
    place: Place,
) -> Result<Option<Vec<u8>>, ChannelError> {
    let mut session = login(&config.imap, tls).await?;
    let found = within("EXAMINE", session.examine(&config.mailbox)).await?;
    let mail = match found.uid_validity == Some(place.validity) {
        true => raw(&mut session, place.uid).await?,
        false => None,
    };
    bye(session).await;
    Ok(mail)
}

/// The mail with this Message-ID in a mailbox; `None` also when there is no such mailbox.
pub(super) async fn find(
    config: &Config,
    tls: &Arc<ClientConfig>,
    mailbox: &str,
    id: &str,
) -> Result<Option<Vec<u8>>, ChannelError> {
    // It stands between quotes.
    if id.contains(['"', '\\']) || !id.is_ascii() {
        return Ok(None);
    }
    let mut session = login(&config.imap, tls).await?;
    let mut mail = None;
    if within("EXAMINE", session.examine(mailbox)).await.is_ok() {
        let query = format!("HEADER Message-ID \"{id}\"");
        let uids = within("SEARCH", session.uid_search(query)).await?;
        if let Some(uid) = uids.into_iter().max() {
            mail = raw(&mut session, uid).await?;
        }
    }
    bye(session).await;
    Ok(mail)
}

/// Keeps a copy of what was sent, for people and for the question whether it was.
pub(super) async fn keep(
    config: &Config,
    tls: &Arc<ClientConfig>,
    mail: &Bytes,
) -> Result<(), ChannelError> {
    let mut session = login(&config.imap, tls).await?;
    let mailbox = &config.sent_mailbox;
    let kept = within(
        "APPEND",
        session.append(mailbox, Some("(\\Seen)"), None, mail),
    )
    .await;
    if kept.is_err() {
        within("CREATE", session.create(mailbox)).await?;
        within(
            "APPEND",
            session.append(mailbox, Some("(\\Seen)"), None, mail),
        )
        .await?;
    }
    bye(session).await;
    Ok(())
}

pub(super) async fn bye(mut session: Connection) {
    // What was asked for is here: how the connection ends is of no consequence.
    let _ended = timeout(Duration::from_secs(5), session.logout()).await;
}
