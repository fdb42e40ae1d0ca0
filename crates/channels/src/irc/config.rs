//! The account's settings: the original's keys. Source: `docs/channels/irc.md` of OpenClaw 2026.9.6.

use super::line::is_middle;
use crate::ChannelError;
use crate::accounts::{Account, DEFAULT_ACCOUNT};
use serde_json::{Map, Value};

/// What we need of `channels.irc`. Who may talk to us is the gateway's affair.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    pub(super) nick: String,
    pub(super) username: String,
    pub(super) realname: String,
    pub(super) server_password: Option<String>,
    pub(super) channels: Vec<String>,
    pub(super) services: Services,
    /// `dangerouslyAllowNameMatching`: a bare nick counts in allow lists, though anybody can take it.
    pub(super) nick_is_name: bool,
}

/// Who we say we are to the network's services: by SASL where the server has it, otherwise by a
/// message to the service.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) nick: String,
    pub(super) password: Option<String>,
    /// Address to register with, once.
    pub(super) register: Option<String>,
}

impl Config {
    pub(super) fn read(account: &Account) -> Result<Self, ChannelError> {
        let host = match text(account, "host", "IRC_HOST") {
            Some(host) => host,
            None => account.required("host", "the server's host name")?,
        };
        let nick = match text(account, "nick", "IRC_NICK") {
            Some(nick) => nick,
            None => account.required("nick", "the bot's nick")?,
        };
        if !is_middle(&nick) || nick.starts_with(['#', '&', '@', '+', '%', '~']) {
            return Err(account.wrong("nick", "is not a nick: letters, digits and []\\`_^{|}-"));
        }
        let tls = match variable(account, "IRC_TLS") {
            Some(value) if !account.settings.contains_key("tls") => {
                value != "false" && value != "0"
            }
            _ => account.flag("tls", true),
        };
        let mut channels = account.list("channels");
        if channels.is_empty()
            && let Some(listed) = variable(account, "IRC_CHANNELS")
        {
            channels = listed.split(',').map(|c| c.trim().to_owned()).collect();
            channels.retain(|c| !c.is_empty());
        }
        if let Some(bad) = channels.iter().find(|c| !is_middle(c)) {
            return Err(account.wrong(
                "channels",
                &format!("holds {bad:?}, which is not a channel: write e.g. \"#room\""),
            ));
        }
        Ok(Self {
            port: port(account, tls)?,
            tls,
            username: name(text(account, "username", "IRC_USERNAME"), &nick),
            realname: text(account, "realname", "IRC_REALNAME")
                .unwrap_or_else(|| "OpenClaw".into())
                .replace(['\r', '\n', '\0'], " "),
            server_password: secret(account, "IRC_PASSWORD")?,
            services: Services::read(account)?,
            nick_is_name: account.flag("dangerouslyAllowNameMatching", false),
            host,
            nick,
            channels,
        })
    }
}

impl Services {
    fn read(account: &Account) -> Result<Self, ChannelError> {
        let settings = match account.settings.get("nickserv") {
            Some(Value::Object(settings)) => settings.clone(),
            None => Map::new(),
            Some(_) => return Err(account.wrong("nickserv", "must be an object")),
        };
        let own = Account {
            path: format!("{}.nickserv", account.path),
            settings,
            ..account.clone()
        };
        let nick = own.text("service").unwrap_or("NickServ").to_owned();
        if !is_middle(&nick) {
            return Err(own.wrong("service", "is not a nick"));
        }
        let mut password = secret(&own, "IRC_NICKSERV_PASSWORD")?;
        if !own.flag("enabled", true) {
            password = None;
        }
        let register = match own.flag("register", false) {
            false => None,
            true => Some(
                match text(&own, "registerEmail", "IRC_NICKSERV_REGISTER_EMAIL") {
                    Some(email) if is_middle(&email) => email,
                    _ => {
                        return Err(
                            own.wrong("registerEmail", "is missing: `register` needs an address")
                        );
                    }
                },
            ),
        };
        Ok(Self {
            nick,
            password,
            register,
        })
    }
}

fn variable(account: &Account, name: &str) -> Option<String> {
    if account.id != DEFAULT_ACCOUNT {
        return None;
    }
    let value = std::env::var(name).ok()?;
    Some(value.trim().to_owned()).filter(|v| !v.is_empty())
}

fn text(account: &Account, key: &str, name: &str) -> Option<String> {
    match account.text(key) {
        Some(text) => Some(text.to_owned()),
        None => variable(account, name),
    }
}

fn port(account: &Account, tls: bool) -> Result<u16, ChannelError> {
    let standard = if tls { 6697 } else { 6667 };
    let written = match account.settings.get("port") {
        Some(value) => value.as_u64().and_then(|n| u16::try_from(n).ok()),
        None => match variable(account, "IRC_PORT") {
            Some(text) => text.parse().ok(),
            None => Some(standard),
        },
    };
    written
        .filter(|port| *port != 0)
        .ok_or_else(|| account.wrong("port", "must be a number from 1 to 65535"))
}

/// The user name of `USER` is one word.
fn name(written: Option<String>, nick: &str) -> String {
    let clean = |text: &str| -> String {
        text.chars()
            .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
            .collect()
    };
    let name = clean(&written.unwrap_or_else(|| nick.to_owned()));
    if name.is_empty() {
        "openclaw".into()
    } else {
        name
    }
}

/// `password`, `passwordFile` or the variable; `None` when none of them is there.
fn secret(account: &Account, name: &str) -> Result<Option<String>, ChannelError> {
    let there = ["password", "passwordFile"]
        .iter()
        .any(|key| account.settings.contains_key(*key));
    if !there && variable(account, name).is_none() {
        return Ok(None);
    }
    let secret = account.secret("password", Some("passwordFile"), Some(name), "the password")?;
    if secret.contains(['\r', '\n', '\0']) {
        return Err(account.wrong("password", "has more than one line"));
    }
    Ok(Some(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts;
    use serde_json::json;

    fn read(section: Value) -> Result<Config, ChannelError> {
        Config::read(&accounts::of("irc", &section)[0])
    }

    #[test]
    fn the_originals_keys_are_read() {
        let config = read(json!({
            "enabled": true, "host": "irc.example.com", "nick": "bot", "channels": ["#a"],
            "groupPolicy": "open", "nickserv": {"password": "p"}
        }))
        .expect("whole");
        assert_eq!((config.port, config.tls), (6697, true));
        assert_eq!(config.services.password.as_deref(), Some("p"));
        assert_eq!(
            (config.username.as_str(), config.realname.as_str()),
            ("bot", "OpenClaw")
        );
        let plain = read(json!({"host": "h", "nick": "b", "tls": false,
            "nickserv": {"enabled": false, "password": "p"}}))
        .expect("whole");
        assert_eq!((plain.port, plain.services.password), (6667, None));
    }

    #[test]
    fn what_cannot_work_names_its_key() {
        let check = |value, key: &str| match read(value) {
            Err(ChannelError::Config { key: found, .. }) => {
                assert_eq!(found, format!("channels.irc.{key}"));
            }
            Err(other) => panic!("{key}: {other:?}"),
            Ok(_) => panic!("{key} was accepted"),
        };
        check(json!({"nick": "bot"}), "host");
        check(json!({"host": "h"}), "nick");
        check(json!({"host": "h", "nick": "a b"}), "nick");
        check(json!({"host": "h", "nick": "b", "port": 70000}), "port");
        check(
            json!({"host": "h", "nick": "b", "password": " "}),
            "password",
        );
        check(
            json!({"host": "h", "nick": "b", "password": "a\nQUIT"}),
            "password",
        );
        check(
            json!({"host": "h", "nick": "b", "channels": ["#a\r\nQUIT"]}),
            "channels",
        );
        check(
            json!({"host": "h", "nick": "b", "passwordFile": "/dev/zero"}),
            "passwordFile",
        );
        check(
            json!({"host": "h", "nick": "b", "nickserv": {"password": ""}}),
            "nickserv.password",
        );
        check(
            json!({"host": "h", "nick": "b", "nickserv": {"register": true}}),
            "nickserv.registerEmail",
        );
    }
}
