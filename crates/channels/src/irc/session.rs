//! A registered connection: one task that reads, writes at the allowed pace and keeps the channels
//! joined.

use super::Timing;
use super::config::Config;
use super::flood::Bucket;
use super::line::{LINE_BYTES_MAX, Line, is_middle, mentions, split_text};
use super::register::{Welcome, last};
use super::stream::{Stream, gone};
use crate::message::{Chat, ChatKind, EventKind, Sender};
use crate::{Batch, ChannelError, InboundMessage, InboundSink, Receipt, SendError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Source: RFC 1459 section 8.10: a line each two seconds, ten seconds ahead.
const BURST: u32 = 5;
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Received and not committed: beyond it nothing more is read, and the server waits.
const INBOX_MAX: usize = 1024;
/// Messages of one commit.
const BATCH_MAX: usize = 64;
/// `user@host` of our own prefix while the server has not shown it: longest there is.
/// Source: ngircd and InspIRCd defaults, 10 and 64.
const OWN_HOST_BYTES_MAX: usize = 10 + 1 + 64;

/// What the connection is asked to do.
pub(super) enum What {
    Say {
        target: String,
        text: String,
        reply_to: Option<String>,
    },
    Typing {
        target: String,
        on: bool,
    },
    /// The receipt is our nick.
    WhoAmI,
}

pub(super) struct Request {
    pub(super) what: What,
    /// Set before the first byte is written: from then on the outcome may be unknown.
    pub(super) begun: Arc<AtomicBool>,
    pub(super) answer: oneshot::Sender<Result<Receipt, SendError>>,
}

/// What was received and is not committed yet.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<VecDeque<InboundMessage>>,
    changed: Notify,
}

impl Inbox {
    /// False: full, nothing was taken.
    fn is_full(&self) -> bool {
        self.waiting.lock().len() >= INBOX_MAX
    }

    fn push(&self, message: InboundMessage) {
        self.waiting.lock().push_back(message);
        self.changed.notify_waiters();
    }

    /// Commits all that waits. A message leaves only when it is committed.
    pub(super) async fn commit_waiting(&self, sink: &InboundSink) -> Result<(), ChannelError> {
        loop {
            let messages: Vec<_> = {
                let waiting = self.waiting.lock();
                waiting.iter().take(BATCH_MAX).cloned().collect()
            };
            if messages.is_empty() {
                return Ok(());
            }
            let taken = messages.len();
            sink.commit(Batch {
                messages,
                cursor: None,
            })
            .await?;
            self.waiting.lock().drain(..taken);
            self.changed.notify_waiters();
        }
    }

    /// Commits whatever comes, until the sink refuses.
    pub(super) async fn commit_always(&self, sink: &InboundSink) -> Result<(), ChannelError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking: what comes in between is not missed.
            changed.as_mut().enable();
            self.commit_waiting(sink).await?;
            changed.await;
        }
    }

    async fn has_room(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.is_full() {
                return;
            }
            changed.await;
        }
    }
}

/// A message on its way.
struct Sending {
    request: Request,
    target: String,
    lines: VecDeque<String>,
    /// Comes back when the server has worked off the lines before it.
    token: String,
    /// Set when all is written.
    deadline: Option<Instant>,
    /// Ids of the echoes.
    ids: Vec<String>,
    refused: Option<SendError>,
}

pub(super) struct Session<'a> {
    stream: Stream,
    welcome: Welcome,
    config: &'a Config,
    timing: Timing,
    inbox: &'a Inbox,
    bucket: Bucket,
    /// Makes ids of messages that have none, for this connection.
    started_ms: i64,
    seen: u64,
    sent: u64,
    /// `nick!user@host`, as others see us.
    own_prefix_bytes: usize,
    heard_at: Instant,
    pinged: bool,
    /// Channels to join again, and when.
    rejoin: BTreeMap<String, Instant>,
    sending: Option<Sending>,
    /// When the next line of `sending` may be written.
    slot: Option<Instant>,
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

impl<'a> Session<'a> {
    pub(super) fn new(
        stream: Stream,
        welcome: Welcome,
        config: &'a Config,
        timing: Timing,
        inbox: &'a Inbox,
    ) -> Self {
        let now = Instant::now();
        Self {
            own_prefix_bytes: welcome.nick.len() + 1 + OWN_HOST_BYTES_MAX,
            stream,
            welcome,
            config,
            timing,
            inbox,
            bucket: Bucket::new(BURST, LINE_EVERY, now),
            started_ms: now_ms(),
            seen: 0,
            sent: 0,
            heard_at: now,
            pinged: false,
            rejoin: BTreeMap::new(),
            sending: None,
            slot: None,
        }
    }

    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        sink: &InboundSink,
        stop: &CancellationToken,
    ) -> Result<(), ChannelError> {
        let ended = self.serve(&mut requests, sink, stop).await;
        if let Some(sending) = self.sending.take() {
            let reason = "the connection ended before the server confirmed the message";
            let outcome = match sending.request.begun.load(Ordering::Acquire) {
                true => SendError::Unknown {
                    reason: reason.into(),
                },
                false => SendError::Retry {
                    after: None,
                    reason: reason.into(),
                },
            };
            answer(sending.request, Err(outcome));
        }
        ended
    }

    async fn serve(
        &mut self,
        requests: &mut mpsc::Receiver<Request>,
        sink: &InboundSink,
        stop: &CancellationToken,
    ) -> Result<(), ChannelError> {
        self.greet().await?;
        loop {
            let silence = match self.pinged {
                true => self.timing.ping_after + self.timing.answer_max,
                false => self.timing.ping_after,
            };
            let quiet_until = self.heard_at + silence;
            let slot = self.slot;
            let unanswered = self.sending.as_ref().and_then(|s| s.deadline);
            let rejoin = self.rejoin.values().min().copied();
            let full = self.inbox.is_full();
            tokio::select! {
                () = stop.cancelled() => {
                    return self.stream.write("QUIT :bye").await;
                }
                () = self.inbox.has_room(), if full => {}
                line = self.stream.next(), if !full => {
                    self.heard_at = Instant::now();
                    self.pinged = false;
                    sink.alive();
                    self.line(line?).await?;
                }
                Some(request) = requests.recv(), if self.sending.is_none() => {
                    self.begin(request).await?;
                }
                () = at(slot) => self.write_next().await?,
                () = at(unanswered) => {
                    return Err(gone("the server did not confirm a message in time"));
                }
                () = at(rejoin) => self.join_due().await?,
                () = sleep_until(quiet_until), if !full => {
                    if self.pinged {
                        return Err(gone("the server does not answer any more"));
                    }
                    self.pinged = true;
                    self.stream.write("PING :alive").await?;
                }
            }
        }
    }

    /// Says who we are and joins.
    async fn greet(&mut self) -> Result<(), ChannelError> {
        if let Some(mode) = self.welcome.bot_mode {
            let nick = &self.welcome.nick;
            self.stream.write(&format!("MODE {nick} +{mode}")).await?;
        }
        let services = &self.config.services;
        if let Some(password) = &services.password {
            if let Some(email) = &services.register {
                let line = format!("PRIVMSG {} :REGISTER {password} {email}", services.nick);
                self.stream.write(&line).await?;
            } else if !self.welcome.identified {
                let line = format!("PRIVMSG {} :IDENTIFY {password}", services.nick);
                self.stream.write(&line).await?;
            }
        }
        let now = Instant::now();
        for channel in &self.config.channels {
            self.rejoin.insert(channel.clone(), now);
        }
        Ok(())
    }

    async fn join_due(&mut self) -> Result<(), ChannelError> {
        let now = Instant::now();
        let due = self.rejoin.iter().find(|(_, at)| **at <= now);
        let Some(channel) = due.map(|(channel, _)| channel.clone()) else {
            return Ok(());
        };
        let at = self.bucket.take(now);
        if at > now {
            // The token is spent on this channel: it is joined then.
            self.rejoin.insert(channel, at);
            return Ok(());
        }
        self.rejoin.remove(&channel);
        self.stream.write(&format!("JOIN {channel}")).await
    }

    async fn begin(&mut self, request: Request) -> Result<(), ChannelError> {
        match &request.what {
            What::WhoAmI => {
                let nick = self.welcome.nick.clone();
                answer(request, Ok(receipt(nick)));
            }
            What::Typing { target, on } => {
                if !self.welcome.caps.contains("message-tags") {
                    let error = SendError::Unsupported {
                        channel: "irc",
                        what: "typing on this server",
                    };
                    answer(request, Err(error));
                    return Ok(());
                }
                let state = if *on { "active" } else { "done" };
                let line = format!("@+typing={state} TAGMSG {target}");
                answer(request, Ok(receipt(String::new())));
                self.stream.write(&line).await?;
            }
            What::Say {
                target,
                text,
                reply_to,
            } => {
                // What others receive has our prefix in front: ":prefix PRIVMSG target :text\r\n".
                let around = 1 + self.own_prefix_bytes + " PRIVMSG ".len() + target.len() + 4;
                let room = LINE_BYTES_MAX.saturating_sub(around);
                let tag = match reply_to {
                    Some(id) if self.welcome.caps.contains("message-tags") && is_middle(id) => {
                        format!("@+draft/reply={} ", id.replace(';', "\\:"))
                    }
                    _ => String::new(),
                };
                let lines: VecDeque<String> = split_text(text, room)
                    .into_iter()
                    .map(|part| format!("{tag}PRIVMSG {target} :{part}"))
                    .collect();
                if lines.is_empty() {
                    let reason = "nothing of the text can be shown on IRC".into();
                    answer(request, Err(SendError::Rejected { reason }));
                    return Ok(());
                }
                self.sent += 1;
                self.slot = Some(self.bucket.take(Instant::now()));
                self.sending = Some(Sending {
                    target: target.clone(),
                    token: format!("oc-{}-{}", self.started_ms, self.sent),
                    request,
                    lines,
                    deadline: None,
                    ids: Vec::new(),
                    refused: None,
                });
            }
        }
        Ok(())
    }

    async fn write_next(&mut self) -> Result<(), ChannelError> {
        self.slot = None;
        let Some(sending) = &mut self.sending else {
            return Ok(());
        };
        sending.request.begun.store(true, Ordering::Release);
        if let Some(line) = sending.lines.pop_front() {
            self.stream.write(&line).await?;
        }
        if sending.lines.is_empty() {
            let ping = format!("PING :{}", sending.token);
            sending.deadline = Some(Instant::now() + self.timing.answer_max);
            self.stream.write(&ping).await?;
        } else {
            self.slot = Some(self.bucket.take(Instant::now()));
        }
        Ok(())
    }

    async fn line(&mut self, line: Line) -> Result<(), ChannelError> {
        let own = self.welcome.case.same(line.nick(), &self.welcome.nick);
        match line.command.as_str() {
            "PING" => {
                self.stream
                    .write(&format!("PONG :{}", line.param(0)))
                    .await?
            }
            "PONG" => self.confirmed(last(&line)),
            "ERROR" => return Err(gone(format!("the server ends it: {}", last(&line)))),
            "005" => self.welcome.supports(&line),
            "NICK" if own => {
                line.param(0).clone_into(&mut self.welcome.nick);
                self.own_prefix_bytes = self.welcome.nick.len() + 1 + OWN_HOST_BYTES_MAX;
            }
            "JOIN" if own => {
                if let Some(prefix) = line.prefix.as_deref().filter(|p| p.contains('!')) {
                    self.own_prefix_bytes = prefix.len();
                }
                tracing::info!(channel = line.param(0), "irc: joined");
            }
            "KICK" if self.welcome.case.same(line.param(1), &self.welcome.nick) => {
                let channel = line.param(0).to_owned();
                tracing::warn!(
                    channel,
                    by = line.nick(),
                    reason = last(&line),
                    "irc: kicked"
                );
                let ours = |c: &String| self.welcome.case.same(c, &channel);
                if self.config.channels.iter().any(ours) {
                    self.rejoin
                        .insert(channel, Instant::now() + self.timing.rejoin_after);
                }
            }
            "PRIVMSG" if own => self.echoed(&line),
            "PRIVMSG" => {
                if let Some(message) = self.message(&line) {
                    self.inbox.push(message);
                }
            }
            numeric if numeric.len() == 3 => self.numeric(&line),
            // NOTICE is never answered, by definition (RFC 1459 section 4.4.2): no loop of bots.
            _ => {}
        }
        Ok(())
    }

    fn numeric(&mut self, line: &Line) {
        let (about, reason) = (line.param(1), last(line));
        match line.command.as_str() {
            // Not in, full, invite only, banned, bad key, bad name, too many.
            "403" | "405" | "471" | "473" | "474" | "475" | "476" | "477"
                if self
                    .config
                    .channels
                    .iter()
                    .any(|c| self.welcome.case.same(c, about)) =>
            {
                tracing::warn!(channel = about, reason, "irc: cannot be joined");
            }
            _ => {}
        }
        let Some(sending) = &mut self.sending else {
            return;
        };
        let to_target = self.welcome.case.same(about, &sending.target);
        let refused = match line.command.as_str() {
            "401" | "402" | "403" | "404" | "407" | "415" | "477" | "486" | "531" | "716"
                if to_target =>
            {
                SendError::Rejected {
                    reason: format!("{}: {reason}", sending.target),
                }
            }
            // Source: RFC 2812, RPL_TRYAGAIN; InspIRCd 439, target change too fast.
            "263" | "439" => SendError::Retry {
                after: Some(Duration::from_secs(30)),
                reason: reason.to_owned(),
            },
            _ => return,
        };
        sending.refused.get_or_insert(refused);
    }

    /// Our own message comes back with its id.
    fn echoed(&mut self, line: &Line) {
        if let (Some(sending), Some(id)) = (&mut self.sending, line.tag("msgid"))
            && self.welcome.case.same(line.param(0), &sending.target)
        {
            sending.ids.push(id.to_owned());
        }
    }

    fn confirmed(&mut self, token: &str) {
        let Some(mut sending) = self
            .sending
            .take_if(|s| s.deadline.is_some() && s.token == token)
        else {
            return;
        };
        let outcome = match sending.refused.take() {
            Some(refused) => Err(refused),
            None => {
                let mut ids = sending.ids.into_iter();
                Ok(Receipt {
                    // A server without message ids: the token is at least unique.
                    message_id: ids.next().unwrap_or(sending.token),
                    more_ids: ids.collect(),
                })
            }
        };
        answer(sending.request, outcome);
    }

    fn message(&mut self, line: &Line) -> Option<InboundMessage> {
        // Servers speak too; people have a user and a host.
        let prefix = line.prefix.as_deref().filter(|p| p.contains('!'))?;
        let mut text = last(line).to_owned();
        if let Some(ctcp) = text.strip_prefix('\u{1}') {
            let ctcp = ctcp.trim_end_matches('\u{1}');
            // VERSION, PING and their kin are not answered: two bots could go on for ever.
            text = format!("* {} {}", line.nick(), ctcp.strip_prefix("ACTION ")?);
        }
        let text = without_formatting(&text);
        if text.trim().is_empty() {
            return None;
        }
        self.seen += 1;
        // `@#room`: to those with a rank in it.
        let target = line.param(0).trim_start_matches(['@', '+', '%', '~']);
        let in_channel = self.welcome.is_channel(target);
        let sender = line.nick().to_owned();
        let id = match line.tag("msgid") {
            Some(id) if !id.is_empty() => id.to_owned(),
            // Stable within this connection only, as the original's.
            _ => format!("{}-{}", self.started_ms, self.seen),
        };
        let sent_at_ms = line
            .tag("time")
            .and_then(mail_parser::DateTime::parse_rfc3339)
            .map_or_else(now_ms, |at| at.to_timestamp().saturating_mul(1000));
        Some(InboundMessage {
            event_id: id.clone(),
            message_id: id,
            kind: EventKind::Message,
            chat: Chat {
                kind: if in_channel {
                    ChatKind::Group
                } else {
                    ChatKind::Direct
                },
                id: if in_channel {
                    target.to_owned()
                } else {
                    sender.clone()
                },
                thread: None,
                parent: None,
                title: None,
            },
            mentions_us: mentions(&text, &self.welcome.nick, self.welcome.case),
            sender: Sender {
                id: prefix.to_owned(),
                username: self.config.nick_is_name.then(|| sender.clone()),
                name: Some(sender),
                is_bot: line.tag("bot").is_some(),
                roles: Vec::new(),
            },
            text,
            reply_to: line.tag("+draft/reply").map(str::to_owned),
            edit_of: None,
            quoted: None,
            attachments: Vec::new(),
            sent_at_ms,
        })
    }
}

/// Colours and the like go. Source: modern.ircdocs.horse/formatting.
fn without_formatting(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{3}' => {
                let mut digits = |most: usize| {
                    for _ in 0..most {
                        if chars.next_if(char::is_ascii_digit).is_none() {
                            break;
                        }
                    }
                };
                digits(2);
                let mut ahead = chars.clone();
                if ahead.next() == Some(',') && ahead.next().is_some_and(|c| c.is_ascii_digit()) {
                    chars.next();
                    for _ in 0..2 {
                        if chars.next_if(char::is_ascii_digit).is_none() {
                            break;
                        }
                    }
                }
            }
            '\u{4}' => while chars.next_if(char::is_ascii_hexdigit).is_some() {},
            '\u{2}' | '\u{1d}' | '\u{1f}' | '\u{1e}' | '\u{11}' | '\u{16}' | '\u{f}' => {}
            c => out.push(c),
        }
    }
    out
}

fn receipt(message_id: String) -> Receipt {
    Receipt {
        message_id,
        more_ids: Vec::new(),
    }
}

fn answer(request: Request, outcome: Result<Receipt, SendError>) {
    // Whoever asked may have given up meanwhile: the outbox then has it as unknown.
    if request.answer.send(outcome).is_err() {
        tracing::debug!("irc: nobody waits for this receipt any more");
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_go_and_text_stays() {
        let check = |raw, plain: &str| assert_eq!(without_formatting(raw), plain);
        check("\u{3}04,12red\u{3} \u{2}bold\u{2}", "red bold");
        check("\u{3}4,x", ",x");
        check("\u{3}1234", "34");
        check("plain, 12", "plain, 12");
    }

    proptest! {
        #[test]
        fn formatting_never_panics(text in any::<String>()) {
            without_formatting(&text);
        }
    }
}
