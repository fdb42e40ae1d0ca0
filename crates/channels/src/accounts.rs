//! The accounts of a channel, from the user's own file: the same keys as the original's.
//!
//! `channels.<id>` holds settings for all accounts and, under `accounts.<name>`, those of each; what an account does
//! not set it takes from above. Without `accounts` there is one, `default`.

use crate::ChannelError;
use serde_json::{Map, Value};

/// One account with the settings that hold for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    pub channel: String,
    pub id: String,
    pub enabled: bool,
    /// Where the settings stand, for messages: `channels.telegram` or `channels.telegram.accounts.work`.
    pub path: String,
    pub settings: Map<String, Value>,
}

/// The name of an account that nobody named.
pub const DEFAULT_ACCOUNT: &str = "default";

/// All accounts of one channel's section, in the order of the file.
pub fn of(channel: &str, section: &Value) -> Vec<Account> {
    let Some(root) = section.as_object() else {
        return Vec::new();
    };
    let enabled =
        |settings: &Map<String, Value>| settings.get("enabled") != Some(&Value::Bool(false));
    let path = format!("channels.{channel}");
    let named = root.get("accounts").and_then(Value::as_object);
    let mut shared = root.clone();
    for key in ["accounts", "defaultAccount"] {
        shared.shift_remove(key);
    }
    let Some(named) = named.filter(|named| !named.is_empty()) else {
        return vec![Account {
            channel: channel.to_owned(),
            id: DEFAULT_ACCOUNT.to_owned(),
            enabled: enabled(&shared),
            path,
            settings: shared,
        }];
    };
    named
        .iter()
        .map(|(id, own)| {
            let mut settings = shared.clone();
            // The secret of one account is never another's.
            for key in SECRETS {
                settings.shift_remove(*key);
            }
            if id == DEFAULT_ACCOUNT {
                settings.clone_from(&shared);
            }
            for (key, value) in own.as_object().into_iter().flatten() {
                settings.insert(key.clone(), value.clone());
            }
            Account {
                channel: channel.to_owned(),
                id: id.clone(),
                enabled: enabled(&shared) && enabled(&settings),
                path: format!("{path}.accounts.{id}"),
                settings,
            }
        })
        .collect()
}

const SECRETS: &[&str] = &[
    "botToken",
    "tokenFile",
    "accessToken",
    "password",
    "secret",
    "webhookSecret",
];

impl Account {
    /// A text that is there and not blank.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.settings
            .get(key)
            .and_then(Value::as_str)
            .map(str::trim)
            .filter(|text| !text.is_empty())
    }

    pub fn flag(&self, key: &str, default: bool) -> bool {
        self.settings
            .get(key)
            .and_then(Value::as_bool)
            .unwrap_or(default)
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        self.settings.get(key).and_then(Value::as_u64)
    }

    /// Strings (and numbers, which people write for ids) of a list.
    pub fn list(&self, key: &str) -> Vec<String> {
        let Some(values) = self.settings.get(key).and_then(Value::as_array) else {
            return Vec::new();
        };
        values
            .iter()
            .filter_map(|value| match value {
                Value::String(text) => Some(text.trim().to_owned()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            })
            .filter(|text| !text.is_empty())
            .collect()
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// Names the key and what to write.
    pub fn required(&self, key: &str, what: &str) -> Result<String, ChannelError> {
        match self.settings.get(key) {
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            None => Err(self.wrong(key, &format!("is missing: set it to {what}"))),
            Some(Value::String(_)) => Err(self.wrong(key, &format!("is blank: set it to {what}"))),
            Some(Value::Object(_)) => Err(self.wrong(
                key,
                "is a secret reference that could not be resolved; see `openclaw-gateway doctor`",
            )),
            Some(_) => Err(self.wrong(key, &format!("must be a text: {what}"))),
        }
    }

    /// A secret: the key itself, a file named by `file_key`, or, for the default account, an environment variable.
    ///
    /// # Errors
    /// Names every place where it was looked for.
    pub fn secret(
        &self,
        key: &str,
        file_key: Option<&str>,
        variable: Option<&str>,
        what: &str,
    ) -> Result<String, ChannelError> {
        if self.settings.get(key).is_some() {
            return self.required(key, what);
        }
        if let Some(file_key) = file_key
            && let Some(path) = self.text(file_key)
        {
            let meta = std::fs::symlink_metadata(path)
                .map_err(|error| self.wrong(file_key, &format!("{path}: {error}")))?;
            if !meta.is_file() {
                return Err(self.wrong(file_key, &format!("{path} is not a regular file")));
            }
            let content = std::fs::read_to_string(path)
                .map_err(|error| self.wrong(file_key, &format!("{path}: {error}")))?;
            let secret = content.trim();
            if secret.is_empty() {
                return Err(
                    self.wrong(file_key, &format!("{path} is empty: it should hold {what}"))
                );
            }
            return Ok(secret.to_owned());
        }
        if self.id == DEFAULT_ACCOUNT
            && let Some(variable) = variable
            && let Ok(secret) = std::env::var(variable)
            && !secret.trim().is_empty()
        {
            return Ok(secret.trim().to_owned());
        }
        let mut places = vec![format!("{}.{key}", self.path)];
        places.extend(file_key.map(|key| format!("{}.{key}", self.path)));
        if self.id == DEFAULT_ACCOUNT {
            places.extend(variable.map(|name| format!("the environment variable {name}")));
        }
        Err(ChannelError::Config {
            key: format!("{}.{key}", self.path),
            reason: format!("is missing: put {what} into {}", places.join(" or ")),
        })
    }

    pub fn wrong(&self, key: &str, reason: &str) -> ChannelError {
        ChannelError::Config {
            key: format!("{}.{key}", self.path),
            reason: reason.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn accounts_inherit_all_but_secrets() {
        let section = json!({
            "botToken": "shared", "apiRoot": "http://x", "dmPolicy": "open",
            "accounts": { "work": { "botToken": "w" }, "home": { "dmPolicy": "pairing" }, "default": {} }
        });
        let all = of("telegram", &section);
        let by = |id: &str| all.iter().find(|a| a.id == id).unwrap();
        assert_eq!(by("work").text("botToken"), Some("w"));
        assert_eq!(by("work").text("apiRoot"), Some("http://x"));
        assert_eq!(by("home").text("botToken"), None);
        assert_eq!(by("home").text("dmPolicy"), Some("pairing"));
        assert_eq!(by("default").text("botToken"), Some("shared"));
        assert_eq!(by("home").path, "channels.telegram.accounts.home");
    }

    #[test]
    fn a_missing_or_blank_secret_is_named_with_its_places() {
        let one = &of("telegram", &json!({ "botToken": "  " }))[0];
        let blank = one
            .secret("botToken", Some("tokenFile"), None, "the bot's token")
            .unwrap_err();
        assert_eq!(
            blank.to_string(),
            "channels.telegram.botToken: is blank: set it to the bot's token"
        );
        let one = &of("telegram", &json!({}))[0];
        let missing = one
            .secret(
                "botToken",
                Some("tokenFile"),
                Some("NO_SUCH_VARIABLE_HERE"),
                "the bot's token",
            )
            .unwrap_err();
        assert!(
            missing.to_string().contains(
                "channels.telegram.tokenFile or the environment variable NO_SUCH_VARIABLE_HERE"
            ),
            "{missing}"
        );
    }

    #[test]
    fn a_disabled_channel_disables_its_accounts() {
        let all = of(
            "irc",
            &json!({ "enabled": false, "accounts": { "a": { "enabled": true } } }),
        );
        assert!(!all[0].enabled);
        assert!(of("irc", &json!("nonsense")).is_empty());
    }
}
