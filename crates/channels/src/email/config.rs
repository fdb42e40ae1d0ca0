//! The account's settings. The original has no email channel: these keys are ours.

use crate::ChannelError;
use crate::accounts::Account;
use serde_json::{Map, Value};

pub(super) struct Config {
    /// Our address, lower case.
    pub(super) address: String,
    pub(super) name: Option<String>,
    pub(super) imap: Server,
    pub(super) smtp: Server,
    pub(super) mailbox: String,
    /// Copies of what we send go here; empty: none.
    pub(super) sent_mailbox: String,
    pub(super) verify: Verify,
    pub(super) media_bytes_max: u64,
}

#[derive(Clone)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: Security,
    pub(super) username: String,
    pub(super) password: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Security {
    Tls,
    StartTls,
    Plain,
}

/// How it is known that a message is from whom it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verify {
    /// By the `Authentication-Results` of this server, the one that receives our mail.
    Results(String),
    /// Everybody is believed.
    Off,
}

impl Config {
    pub(super) fn read(account: &Account) -> Result<Self, ChannelError> {
        let address = account
            .required("address", "the account's address")?
            .to_lowercase();
        if address.parse::<lettre::Address>().is_err() {
            return Err(account.wrong("address", "is not an address: name@example.org"));
        }
        let verify = match account.text("verifySender") {
            None | Some("authentication-results") => match account.text("authservId") {
                Some(id) => Verify::Results(id.to_lowercase()),
                None => {
                    return Err(account.wrong(
                        "authservId",
                        "is missing: set it to the name with which your mail server begins its Authentication-Results header, or set verifySender to \"off\" to believe every From",
                    ));
                }
            },
            Some("off") => Verify::Off,
            Some(other) => {
                return Err(account.wrong(
                    "verifySender",
                    &format!("is {other:?}: write \"authentication-results\" or \"off\""),
                ));
            }
        };
        let sent = account.settings.get("sentMailbox").and_then(Value::as_str);
        Ok(Self {
            imap: server(account, "imap", &address, [993, 143, 143])?,
            smtp: server(account, "smtp", &address, [465, 587, 25])?,
            name: account.text("name").map(str::to_owned),
            mailbox: account.text("mailbox").unwrap_or("INBOX").to_owned(),
            sent_mailbox: sent.unwrap_or("Sent").to_owned(),
            verify,
            media_bytes_max: account
                .number("mediaMaxMb")
                .unwrap_or(20)
                .saturating_mul(1 << 20),
            address,
        })
    }
}

/// `ports`: with TLS, with STARTTLS, without.
fn server(
    account: &Account,
    key: &str,
    address: &str,
    ports: [u16; 3],
) -> Result<Server, ChannelError> {
    let settings = match account.settings.get(key) {
        Some(Value::Object(settings)) => settings.clone(),
        None => Map::new(),
        Some(_) => return Err(account.wrong(key, "must be an object with host, port, security")),
    };
    let own = Account {
        path: format!("{}.{key}", account.path),
        settings,
        ..account.clone()
    };
    let (security, standard) = match own.text("security") {
        None | Some("tls") => (Security::Tls, ports[0]),
        Some("starttls") => (Security::StartTls, ports[1]),
        Some("none") => (Security::Plain, ports[2]),
        Some(other) => {
            return Err(own.wrong(
                "security",
                &format!("is {other:?}: write \"tls\", \"starttls\" or \"none\""),
            ));
        }
    };
    let port = match own.settings.get("port") {
        None => Some(standard),
        Some(value) => value
            .as_u64()
            .and_then(|n| u16::try_from(n).ok())
            .filter(|n| *n != 0),
    };
    let has_own = ["password", "passwordFile"]
        .iter()
        .any(|key| own.settings.contains_key(*key));
    let holder = if has_own { &own } else { account };
    let password = holder.secret(
        "password",
        Some("passwordFile"),
        Some("EMAIL_PASSWORD"),
        "the password",
    )?;
    if password.contains(['\r', '\n', '\0']) {
        return Err(holder.wrong("password", "has more than one line"));
    }
    Ok(Server {
        host: own.required("host", "the server's host name")?,
        port: port.ok_or_else(|| own.wrong("port", "must be a number from 1 to 65535"))?,
        security,
        username: own.text("username").unwrap_or(address).to_owned(),
        password,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts;
    use serde_json::json;

    #[test]
    fn what_cannot_work_names_its_key() {
        let whole = || {
            json!({"address": "Bot@Example.org", "password": "p", "authservId": "mx.example.org",
                "imap": {"host": "i"}, "smtp": {"host": "s", "security": "starttls"}})
        };
        let read = |section: &Value| Config::read(&accounts::of("email", section)[0]);
        let config = read(&whole()).expect("whole");
        assert_eq!((config.imap.port, config.smtp.port), (993, 587));
        assert_eq!(config.imap.username, "bot@example.org");
        let check = |change: Value, key: &str| {
            let mut section = whole();
            for (name, value) in change.as_object().expect("an object") {
                section[name] = value.clone();
            }
            match read(&section) {
                Err(ChannelError::Config { key: found, .. }) => {
                    assert_eq!(found, format!("channels.email.{key}"));
                }
                Err(other) => panic!("{key}: {other:?}"),
                Ok(_) => panic!("{key} was accepted"),
            }
        };
        check(json!({"address": "nobody"}), "address");
        check(json!({"password": ""}), "password");
        check(json!({"authservId": ""}), "authservId");
        check(json!({"verifySender": "maybe"}), "verifySender");
        check(json!({"imap": {}}), "imap.host");
        check(json!({"smtp": {"host": "s", "port": 0}}), "smtp.port");
        check(
            json!({"smtp": {"host": "s", "security": "ssl"}}),
            "smtp.security",
        );
    }
}
