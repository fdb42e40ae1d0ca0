//! From a fresh connection to a session with a nick, an account and its capabilities.
//! Source: RFC 2812 section 3.1, IRCv3 capability negotiation 302, IRCv3 SASL.

use super::config::Config;
use super::line::{CaseMapping, Line};
use super::stream::{Stream, gone};
use crate::ChannelError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

const REGISTER_MAX: Duration = Duration::from_secs(60);
const CAPABILITIES: [&str; 6] = [
    "echo-message",
    "message-tags",
    "server-time",
    "account-tag",
    "multi-prefix",
    "sasl",
];
/// How many other nicks are tried when ours is taken.
const NICK_TRIES_MAX: u32 = 5;

/// What the server said about itself and us.
#[derive(Debug, Default)]
pub(super) struct Welcome {
    pub(super) nick: String,
    pub(super) caps: BTreeSet<String>,
    pub(super) case: CaseMapping,
    pub(super) channel_types: String,
    /// The user mode that marks a bot. Source: IRCv3 bot mode.
    pub(super) bot_mode: Option<char>,
    /// SASL has told the services who we are.
    pub(super) identified: bool,
}

impl Welcome {
    /// `005`.
    pub(super) fn supports(&mut self, line: &Line) {
        for token in line.params.iter().skip(1) {
            match token.split_once('=') {
                Some(("CASEMAPPING", "ascii")) => self.case = CaseMapping::Ascii,
                Some(("CHANTYPES", types)) => self.channel_types = types.to_owned(),
                Some(("BOT", mode)) => self.bot_mode = mode.chars().next(),
                _ => {}
            }
        }
    }

    pub(super) fn is_channel(&self, target: &str) -> bool {
        target.starts_with(|c| self.channel_types.contains(c))
    }
}

pub(super) async fn register(
    stream: &mut Stream,
    config: &Config,
) -> Result<Welcome, ChannelError> {
    timeout(REGISTER_MAX, Registration::new(config).run(stream))
        .await
        .map_err(|_elapsed| gone(format!("the server let us not in within {REGISTER_MAX:?}")))?
}

struct Registration<'a> {
    config: &'a Config,
    welcome: Welcome,
    offered: Vec<(String, String)>,
    nick_tries: u32,
    negotiated: bool,
}

impl<'a> Registration<'a> {
    fn new(config: &'a Config) -> Self {
        Self {
            config,
            welcome: Welcome {
                nick: config.nick.clone(),
                channel_types: "#&".into(),
                ..Welcome::default()
            },
            offered: Vec::new(),
            nick_tries: 0,
            negotiated: false,
        }
    }

    async fn run(mut self, stream: &mut Stream) -> Result<Welcome, ChannelError> {
        stream.write("CAP LS 302").await?;
        if let Some(password) = &self.config.server_password {
            stream.write(&format!("PASS :{password}")).await?;
        }
        stream.write(&format!("NICK {}", self.config.nick)).await?;
        let (user, real) = (&self.config.username, &self.config.realname);
        stream.write(&format!("USER {user} 0 * :{real}")).await?;
        loop {
            let line = stream.next().await?;
            match line.command.as_str() {
                "PING" => stream.write(&format!("PONG :{}", line.param(0))).await?,
                "CAP" => self.cap(stream, &line).await?,
                "AUTHENTICATE" if line.param(0) == "+" => self.authenticate(stream).await?,
                "903" => {
                    self.welcome.identified = true;
                    self.negotiated(stream).await?;
                }
                // Source: IRCv3 SASL: locked, failed, too long, aborted, mechanisms.
                "902" | "904" | "905" | "906" | "908" => {
                    return Err(ChannelError::Unauthorized {
                        reason: format!("SASL: {}", last(&line)),
                    });
                }
                "464" => {
                    return Err(ChannelError::Unauthorized {
                        reason: format!("server password: {}", last(&line)),
                    });
                }
                "432" => {
                    return Err(ChannelError::Config {
                        key: "channels.irc.nick".into(),
                        reason: format!("the server refuses it: {}", last(&line)),
                    });
                }
                "433" | "436" | "437" => self.next_nick(stream).await?,
                "465" | "ERROR" => {
                    return Err(gone(format!("the server refuses us: {}", last(&line))));
                }
                "001" => line.param(0).clone_into(&mut self.welcome.nick),
                "005" => self.welcome.supports(&line),
                // End of the message of the day, or none: all that the server says by itself is said.
                "376" | "422" => return Ok(self.welcome),
                _ => {}
            }
        }
    }

    async fn cap(&mut self, stream: &mut Stream, line: &Line) -> Result<(), ChannelError> {
        match line.param(1) {
            "LS" => {
                let more = line.param(2) == "*";
                for cap in last(line).split_whitespace() {
                    let (name, value) = cap.split_once('=').unwrap_or((cap, ""));
                    self.offered.push((name.to_owned(), value.to_owned()));
                }
                if !more {
                    self.request(stream).await?;
                }
            }
            "ACK" => {
                let granted = last(line).split_whitespace().map(str::to_owned);
                self.welcome.caps.extend(granted);
                if self.welcome.caps.contains("sasl") {
                    stream.write("AUTHENTICATE PLAIN").await?;
                } else {
                    self.negotiated(stream).await?;
                }
            }
            "NAK" => self.negotiated(stream).await?,
            _ => {}
        }
        Ok(())
    }

    async fn request(&mut self, stream: &mut Stream) -> Result<(), ChannelError> {
        let wanted: Vec<&str> = CAPABILITIES
            .into_iter()
            .filter(|wanted| {
                self.offered.iter().any(|(name, value)| {
                    name == wanted && (*wanted != "sasl" || self.can_authenticate(value))
                })
            })
            .collect();
        if wanted.is_empty() {
            return self.negotiated(stream).await;
        }
        stream
            .write(&format!("CAP REQ :{}", wanted.join(" ")))
            .await
    }

    /// A password to show, and a mechanism for it (an old server does not list them).
    fn can_authenticate(&self, mechanisms: &str) -> bool {
        self.config.services.password.is_some()
            && (mechanisms.is_empty() || mechanisms.split(',').any(|m| m == "PLAIN"))
    }

    async fn authenticate(&self, stream: &mut Stream) -> Result<(), ChannelError> {
        let password = self.config.services.password.as_deref().unwrap_or_default();
        let nick = &self.config.nick;
        let answer = STANDARD.encode(format!("{nick}\0{nick}\0{password}"));
        // Source: IRCv3 SASL: pieces of 400 bytes, and an empty one after a full one.
        for piece in answer.as_bytes().chunks(400) {
            let piece = String::from_utf8_lossy(piece);
            stream.write(&format!("AUTHENTICATE {piece}")).await?;
        }
        if answer.len().is_multiple_of(400) {
            stream.write("AUTHENTICATE +").await?;
        }
        Ok(())
    }

    async fn negotiated(&mut self, stream: &mut Stream) -> Result<(), ChannelError> {
        if std::mem::replace(&mut self.negotiated, true) {
            return Ok(());
        }
        stream.write("CAP END").await
    }

    async fn next_nick(&mut self, stream: &mut Stream) -> Result<(), ChannelError> {
        self.nick_tries += 1;
        if self.nick_tries > NICK_TRIES_MAX {
            return Err(gone(format!(
                "nick {} and {NICK_TRIES_MAX} others like it are in use",
                self.config.nick
            )));
        }
        let nick = match self.nick_tries {
            1 => format!("{}_", self.config.nick),
            n => format!("{}{n}", self.config.nick),
        };
        stream.write(&format!("NICK {nick}")).await
    }
}

pub(super) fn last(line: &Line) -> &str {
    line.params.last().map_or("", String::as_str)
}
