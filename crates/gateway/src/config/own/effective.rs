//! Every value in force, and where it comes from.

use std::path::Path;

use serde_json::Value;

use super::{KEYS, OwnSettings, Parsed, Values, position};
use crate::config::ConfigError;
use crate::config::redact::SENTINEL;

/// One key of our file as it takes effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// `section.key`.
    pub name: &'static str,
    /// `None` when it is unset and has no default; a secret is [`SENTINEL`].
    pub value: Option<Value>,
    /// Line and column in the file; `None` for a default.
    pub at: Option<(u32, u32)>,
    /// Whether a change applies without a restart.
    pub hot: bool,
}

impl OwnSettings {
    /// All keys, in the order of the example file. `text` is the content of `file`.
    pub fn effective(file: &Path, text: &str) -> Result<Vec<Effective>, ConfigError> {
        Self::parse(file, text)?;
        let values = Values::read(file, text)?;
        let row = |key: &'static super::OwnKey| Effective {
            name: key.name,
            value: values
                .values
                .get(key.name)
                .map(|value| shown(key.name, value)),
            at: values
                .offsets
                .get(key.name)
                .map(|offset| position(text, *offset)),
            hot: key.hot,
        };
        Ok(KEYS.iter().map(row).collect())
    }
}

fn shown(name: &str, value: &Parsed) -> Value {
    match value {
        Parsed::Text(text) if name == "upstream.token" || has_credentials(text) => {
            Value::from(SENTINEL)
        }
        Parsed::Text(text) => Value::from(text.as_str()),
        Parsed::List(items) => Value::from(items.clone()),
        Parsed::Bool(value) => Value::from(*value),
        Parsed::Number(number) => Value::from(*number),
    }
}

/// A URL with a user part or a query, either of which may hold a secret.
fn has_credentials(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.contains('@') || rest.contains('?')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_place_and_secrets_are_hidden() {
        let text = "[upstream]\nmode = 'attach'\n  url = 'ws://127.0.0.1:1'\ntoken = 'hunter2'\n[log]\nlevel = 'warn'\n[messages]\nlegacy_url = 'http://u:p@127.0.0.1:1'\n";
        let rows = OwnSettings::effective(Path::new("/s/own.toml"), text).expect("valid");
        let row = |name: &str| rows.iter().find(|row| row.name == name).expect("a row");
        assert_eq!(rows.len(), KEYS.len());
        assert_eq!(row("log.level").value, Some(Value::from("warn")));
        assert_eq!(row("log.level").at, Some((6, 1)));
        assert_eq!(
            row("messages.legacy_url").value,
            Some(Value::from(SENTINEL))
        );
        assert_eq!(
            row("upstream.url").value,
            Some(Value::from("ws://127.0.0.1:1"))
        );
        assert_eq!(row("upstream.url").at, Some((3, 3)));
        assert_eq!(row("upstream.token").value, Some(Value::from(SENTINEL)));
        assert_eq!(row("messages.keep_days").value, Some(Value::from(30)));
        assert_eq!(row("messages.keep_days").at, None);
        assert_eq!(row("upstream.node").value, None);
        assert!(OwnSettings::effective(Path::new("/s/own.toml"), "x = 1").is_err());
    }
}
