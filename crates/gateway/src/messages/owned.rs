//! Channel accounts that are ours, from the user's own file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use channels::accounts::{self, Account};
use channels::email::Email;
use channels::irc::Irc;
use channels::matrix::Matrix;
use channels::telegram::Telegram;
use channels::webhook::Webhook;
use channels::{Channel, ChannelError};
use serde_json::{Map, Value};

/// Channels that we can run.
pub(crate) const KINDS: &[&str] = &["email", "irc", "matrix", "telegram", "webhook"];

/// Channels that the original does not know, and whose section in its file it would refuse: theirs is
/// `channels.json` in our own directory, `{"webhook": {…}, "email": {…}}`.
pub(crate) const OURS_ALONE: &[&str] = &["email", "webhook"];

/// Name of that file.
pub(crate) const OWN_FILE: &str = "channels.json";

/// The configuration with the channels of our own file in it.
///
/// # Errors
/// Names the file, and the line that is wrong.
pub(crate) fn with_own(config: &Value, own_dir: &Path) -> Result<Value, String> {
    let file = own_dir.join(OWN_FILE);
    let mut config = config.clone();
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(config),
        Err(error) => return Err(format!("{}: {error}", file.display())),
    };
    let own: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    if let Some(unknown) = own.keys().find(|id| !OURS_ALONE.contains(&id.as_str())) {
        return Err(format!(
            "{}: {unknown:?} does not belong here; only {} do, the others are in openclaw.json",
            file.display(),
            OURS_ALONE.join(", ")
        ));
    }
    if !config["channels"].is_object() {
        config["channels"] = Value::Object(Map::new());
    }
    for (id, section) in own {
        config["channels"][id] = section;
    }
    Ok(config)
}

/// Builds the channel of an account.
///
/// # Errors
/// [`ChannelError::Config`] names the key that is wrong.
pub(crate) fn build(account: &Account) -> Result<Arc<dyn Channel>, ChannelError> {
    match account.channel.as_str() {
        "email" => Ok(Arc::new(Email::new(account)?)),
        "irc" => Ok(Arc::new(Irc::new(account)?)),
        "matrix" => Ok(Arc::new(Matrix::new(account)?)),
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
    /// The upstream's. What came in while one was ours is answered by its rules still.
    others: BTreeMap<(String, String), Account>,
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
            let (ours, others): (Vec<Account>, Vec<Account>) = accounts::of(channel, section)
                .into_iter()
                .filter(|account| account.enabled)
                // The original does not know these.
                .partition(|account| {
                    alone
                        || OURS_ALONE.contains(&channel.as_str())
                        || is_named(patterns, channel, &account.id)
                });
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
            let by_name = |account: Account| ((channel.clone(), account.id.clone()), account);
            read.all.extend(ours.into_iter().map(by_name));
            read.others.extend(others.into_iter().map(by_name));
        }
        read
    }

    pub(crate) fn all(&self) -> &BTreeMap<(String, String), Account> {
        &self.all
    }

    pub(crate) fn get(&self, channel: &str, account: &str) -> Option<&Account> {
        self.all.get(&(channel.to_owned(), account.to_owned()))
    }

    /// The settings of an account, whoever runs it.
    pub(crate) fn settings(&self, channel: &str, account: &str) -> Option<&Map<String, Value>> {
        let name = (channel.to_owned(), account.to_owned());
        let account = self.all.get(&name).or_else(|| self.others.get(&name));
        account.map(|account| &account.settings)
    }

    /// An enabled account that the upstream runs.
    pub(crate) fn other(&self, channel: &str, account: &str) -> Option<&Account> {
        self.others.get(&(channel.to_owned(), account.to_owned()))
    }

    pub(crate) fn default_of(&self, channel: &str) -> Option<String> {
        self.defaults.get(channel).cloned()
    }
}

/// `telegram` means all its accounts, `telegram/work` one.
pub(crate) fn is_named(patterns: &[String], channel: &str, account: &str) -> bool {
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
