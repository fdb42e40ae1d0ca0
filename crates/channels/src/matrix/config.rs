//! The account's settings: the original's keys. Source: `docs/channels/matrix.md` and
//! `docs/channels/matrix/setup.md` of OpenClaw 2026.9.6.

use crate::ChannelError;
use crate::accounts::{Account, DEFAULT_ACCOUNT};
use serde_json::Value;

/// What we need of `channels.matrix`. Who may talk to us is the gateway's affair.
pub(super) struct Config {
    /// Without a slash at the end.
    pub(super) homeserver: String,
    pub(super) private_network: bool,
    pub(super) login: Login,
    pub(super) auto_join: AutoJoin,
    pub(super) threads: Threads,
    pub(super) direct_threads: Threads,
    /// All direct rooms with a person are one conversation (`dm.sessionScope: "per-user"`).
    pub(super) per_user: bool,
    /// Reactions of others to our messages are passed on.
    pub(super) reactions: bool,
    pub(super) text_max: usize,
    pub(super) media_bytes_max: u64,
}

#[derive(Clone)]
pub(super) enum Login {
    Token(String),
    /// Logs in at each start as the same device: nothing secret is kept anywhere.
    Password {
        user: String,
        password: String,
        device: String,
        device_name: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AutoJoin {
    Off,
    Always,
    /// Room ids and aliases.
    Only(Vec<String>),
}

/// `threadReplies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    Off,
    Inbound,
    Always,
}

impl Config {
    pub(super) fn read(account: &Account) -> Result<Self, ChannelError> {
        let homeserver = match text(account, "homeserver", "HOMESERVER") {
            Some(url) => url,
            None => account.required("homeserver", "the homeserver's URL")?,
        };
        if !homeserver.starts_with("http://") && !homeserver.starts_with("https://") {
            return Err(account.wrong("homeserver", "must begin with https:// or http://"));
        }
        if account.flag("encryption", false) {
            return Err(account.wrong(
                "encryption",
                "is true, and this channel cannot decrypt: leave the account to the TypeScript gateway, or set it to false",
            ));
        }
        if account.text("proxy").is_some() {
            return Err(account.wrong(
                "proxy",
                "is not supported by this channel: leave the account to the TypeScript gateway, or remove it",
            ));
        }
        let network = account.settings.get("network");
        let private = network.and_then(|n| n["dangerouslyAllowPrivateNetwork"].as_bool());
        let dm = account.settings.get("dm");
        let threads = threads(account, "threadReplies", account.text("threadReplies"))?
            .unwrap_or(Threads::Inbound);
        let direct = dm.and_then(|dm| dm["threadReplies"].as_str());
        let direct_threads = self::threads(account, "dm.threadReplies", direct)?.unwrap_or(threads);
        let text_max = account.number("textChunkLimit");
        Ok(Self {
            homeserver: homeserver.trim_end_matches('/').to_owned(),
            private_network: private.unwrap_or(false),
            login: login(account)?,
            auto_join: auto_join(account)?,
            direct_threads,
            per_user: match dm.and_then(|dm| dm["sessionScope"].as_str()) {
                None | Some("per-user") => true,
                Some("per-room") => false,
                Some(other) => {
                    return Err(account.wrong(
                        "dm.sessionScope",
                        &format!("is {other:?}: write \"per-user\" or \"per-room\""),
                    ));
                }
            },
            threads,
            reactions: account.text("reactionNotifications") != Some("off"),
            text_max: text_max
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(4000)
                .max(1),
            media_bytes_max: account
                .number("mediaMaxMb")
                .unwrap_or(20)
                .saturating_mul(1 << 20),
        })
    }
}

fn login(account: &Account) -> Result<Login, ChannelError> {
    if account.settings.contains_key("accessToken") {
        let token = account.required("accessToken", "an access token")?;
        return Ok(Login::Token(token));
    }
    if let Some(token) = variable(account, "ACCESS_TOKEN") {
        return Ok(Login::Token(token));
    }
    let password = match (
        account.settings.contains_key("password"),
        variable(account, "PASSWORD"),
    ) {
        (false, Some(password)) => password,
        (false, None) => {
            return Err(account.wrong(
                "accessToken",
                "is missing: set it to an access token, or set userId and password",
            ));
        }
        (true, _) => account.required("password", "the account's password")?,
    };
    let user = match text(account, "userId", "USER_ID") {
        Some(user) => user,
        None => account.required("userId", "the account's id, @name:server")?,
    };
    // One device for all starts: a login replaces its token instead of leaving one device more.
    let own_device = || format!("OPENCLAW-GATEWAY-{}", account.id.to_ascii_uppercase());
    Ok(Login::Password {
        user,
        password,
        device: text(account, "deviceId", "DEVICE_ID").unwrap_or_else(own_device),
        device_name: text(account, "deviceName", "DEVICE_NAME")
            .unwrap_or_else(|| "OpenClaw Gateway".into()),
    })
}

fn auto_join(account: &Account) -> Result<AutoJoin, ChannelError> {
    match account.text("autoJoin") {
        None | Some("off") => Ok(AutoJoin::Off),
        Some("always") => Ok(AutoJoin::Always),
        Some("allowlist") => {
            let rooms = account.list("autoJoinAllowlist");
            if rooms.iter().any(|room| room == "*") {
                return Ok(AutoJoin::Always);
            }
            if let Some(bad) = rooms.iter().find(|room| !room.starts_with(['!', '#'])) {
                return Err(account.wrong(
                    "autoJoinAllowlist",
                    &format!(
                        "holds {bad:?}: write room ids (!room:server) or aliases (#alias:server)"
                    ),
                ));
            }
            Ok(AutoJoin::Only(rooms))
        }
        Some(other) => Err(account.wrong(
            "autoJoin",
            &format!("is {other:?}: write \"off\", \"allowlist\" or \"always\""),
        )),
    }
}

fn threads(
    account: &Account,
    key: &str,
    written: Option<&str>,
) -> Result<Option<Threads>, ChannelError> {
    Ok(Some(match written {
        None => return Ok(None),
        Some("off") => Threads::Off,
        Some("inbound") => Threads::Inbound,
        Some("always") => Threads::Always,
        Some(other) => {
            return Err(account.wrong(
                key,
                &format!("is {other:?}: write \"off\", \"inbound\" or \"always\""),
            ));
        }
    }))
}

/// `MATRIX_…` for the default account, `MATRIX_<ID>_…` for others, where punctuation of the id is
/// `_X2D_` and the like. Source: `docs/channels/matrix/setup.md`, environment variables.
fn variable(account: &Account, name: &str) -> Option<String> {
    let name = if account.id == DEFAULT_ACCOUNT {
        format!("MATRIX_{name}")
    } else {
        let escape = |c: char| match c {
            c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase().to_string(),
            c => format!("_X{:X}_", u32::from(c)),
        };
        let id: String = account.id.chars().map(escape).collect();
        format!("MATRIX_{id}_{name}")
    };
    let value = std::env::var(name).ok()?;
    Some(value.trim().to_owned()).filter(|v| !v.is_empty())
}

fn text(account: &Account, key: &str, name: &str) -> Option<String> {
    match account.settings.get(key) {
        Some(Value::String(_)) => account.text(key).map(str::to_owned),
        Some(_) => None,
        None => variable(account, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts;
    use serde_json::json;

    fn read(section: &Value) -> Result<Config, ChannelError> {
        Config::read(&accounts::of("matrix", section)[0])
    }

    #[test]
    fn the_originals_keys_are_read() {
        let config = read(&json!({
            "homeserver": "https://matrix.example.org/", "userId": "@b:example.org", "password": "p",
            "autoJoin": "allowlist", "autoJoinAllowlist": ["!a:x", "#b:x"],
            "dm": {"policy": "pairing", "threadReplies": "off"}, "groupPolicy": "open"
        }))
        .expect("whole");
        assert_eq!(config.homeserver, "https://matrix.example.org");
        let only = AutoJoin::Only(vec!["!a:x".into(), "#b:x".into()]);
        assert_eq!(config.auto_join, only);
        assert_eq!(
            (config.threads, config.direct_threads),
            (Threads::Inbound, Threads::Off)
        );
        let Login::Password { device, .. } = config.login else {
            panic!("a password login");
        };
        assert_eq!(device, "OPENCLAW-GATEWAY-DEFAULT");
    }

    #[test]
    fn what_cannot_work_names_its_key() {
        let check = |extra: Value, key: &str| {
            let mut section = json!({"homeserver": "https://h", "accessToken": "t"});
            for (name, value) in extra.as_object().expect("an object") {
                section[name] = value.clone();
            }
            match read(&section) {
                Err(ChannelError::Config { key: found, .. }) => {
                    assert_eq!(found, format!("channels.matrix.{key}"));
                }
                Err(other) => panic!("{key}: {other:?}"),
                Ok(_) => panic!("{key} was accepted"),
            }
        };
        check(json!({"homeserver": ""}), "homeserver");
        check(json!({"homeserver": "matrix.org"}), "homeserver");
        check(json!({"accessToken": " "}), "accessToken");
        check(json!({"encryption": true}), "encryption");
        check(json!({"autoJoin": "yes"}), "autoJoin");
        check(
            json!({"autoJoin": "allowlist", "autoJoinAllowlist": ["Ops"]}),
            "autoJoinAllowlist",
        );
        check(json!({"threadReplies": "sometimes"}), "threadReplies");
        check(json!({"dm": {"sessionScope": "all"}}), "dm.sessionScope");
        assert!(read(&json!({"homeserver": "https://h"})).is_err());
        assert!(read(&json!({"homeserver": "https://h", "password": "p"})).is_err());
    }
}
