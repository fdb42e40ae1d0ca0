//! Channel accounts that are ours, from the user's own file.

use std::collections::BTreeMap;
use std::sync::Arc;

use channels::accounts::{self, Account};
use channels::telegram::Telegram;
use channels::webhook::Webhook;
use channels::{Channel, ChannelError};
use serde_json::Value;

/// Channels that we can run.
pub(crate) const KINDS: &[&str] = &["telegram", "webhook"];

/// Builds the channel of an account.
///
/// # Errors
/// [`ChannelError::Config`] names the key that is wrong.
pub(crate) fn build(account: &Account) -> Result<Arc<dyn Channel>, ChannelError> {
    match account.channel.as_str() {
        "telegram" => Ok(Arc::new(Telegram::new(account)?)),
        "webhook" => Ok(Arc::new(Webhook::new(account)?)),
        other => Err(ChannelError::Config {
            key: format!("channels.{other}"),
            reason: format!(
                "is no channel that this gateway runs (it runs {})",
                KINDS.join(", ")
            ),
        }),
    }
}

/// The accounts of one configuration that are ours.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    all: BTreeMap<(String, String), Account>,
    defaults: BTreeMap<String, String>,
}

impl Accounts {
    /// `patterns`: `channels.native`. `alone`: there is no upstream that could run the others.
    pub(crate) fn read(config: &Value, patterns: &[String], alone: bool) -> Self {
        let mut read = Self::default();
        for (channel, section) in config["channels"].as_object().into_iter().flatten() {
            if !KINDS.contains(&channel.as_str()) {
                continue;
            }
            let ours: Vec<Account> = accounts::of(channel, section)
                .into_iter()
                .filter(|account| account.enabled)
                // A webhook channel is our own invention: the original knows none.
                .filter(|account| {
                    alone || channel == "webhook" || is_named(patterns, channel, &account.id)
                })
                .collect();
            let named = section["defaultAccount"].as_str();
            let default = ours
                .iter()
                .find(|account| named == Some(&account.id))
                .or_else(|| {
                    ours.iter()
                        .find(|account| account.id == accounts::DEFAULT_ACCOUNT)
                })
                .or(ours.first());
            if let Some(default) = default {
                read.defaults.insert(channel.clone(), default.id.clone());
            }
            for account in ours {
                read.all
                    .insert((channel.clone(), account.id.clone()), account);
            }
        }
        read
    }

    pub(crate) fn all(&self) -> &BTreeMap<(String, String), Account> {
        &self.all
    }

    pub(crate) fn get(&self, channel: &str, account: &str) -> Option<&Account> {
        self.all.get(&(channel.to_owned(), account.to_owned()))
    }

    pub(crate) fn default_of(&self, channel: &str) -> Option<String> {
        self.defaults.get(channel).cloned()
    }
}

/// `telegram` means all its accounts, `telegram/work` one.
fn is_named(patterns: &[String], channel: &str, account: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| match pattern.split_once('/') {
            None => pattern == channel || pattern == "*",
            Some((of, one)) => of == channel && (one == account || one == "*"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_account_has_one_owner() {
        let config = json!({ "channels": {
            "telegram": { "accounts": { "a": { "botToken": "1" }, "b": { "botToken": "2" }, "c": { "enabled": false } }, "defaultAccount": "b" },
            "discord": { "token": "x" },
            "webhook": { "secret": "s" },
        } });
        let names = |patterns: &[&str], alone| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            Accounts::read(&config, &patterns, alone)
                .all
                .keys()
                .map(|(channel, account)| format!("{channel}/{account}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&[], false), ["webhook/default"]);
        assert_eq!(
            names(&["telegram/a"], false),
            ["telegram/a", "webhook/default"]
        );
        assert_eq!(
            names(&["telegram"], false),
            ["telegram/a", "telegram/b", "webhook/default"]
        );
        assert_eq!(
            names(&[], true),
            ["telegram/a", "telegram/b", "webhook/default"]
        );
        assert_eq!(
            Accounts::read(&config, &[], true)
                .default_of("telegram")
                .as_deref(),
            Some("b")
        );
    }
}
