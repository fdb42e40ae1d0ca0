//! `rollout move account`: one channel account changes hands, by `channels.native` of `openclaw-gateway.toml`.
//!
//! The running gateway follows the file: OpenClaw lets go of the account before this gateway takes it, and the other way round.

use std::path::Path;

use channels::accounts;
use serde_json::Value;

use super::failed;
use crate::config::{ConfigError, OwnSettings, UpstreamMode, replace_private};
use crate::messages::owned::{KINDS, OURS_ALONE, is_named};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Side {
    /// This gateway runs it.
    Native,
    /// OpenClaw runs it.
    Upstream,
}

/// An account, or all of a channel, and where it is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    channel: String,
    /// `None`: all of the channel's.
    account: Option<String>,
    side: Side,
}

impl Move {
    /// `id`: `telegram`, or `telegram/work`.
    pub(crate) fn new(id: &str, side: Side) -> Self {
        let (channel, account) = match id.split_once('/') {
            Some((channel, account)) => (channel, Some(account.to_owned())),
            None => (id, None),
        };
        Self {
            channel: channel.to_owned(),
            account,
            side,
        }
    }

    /// `account=ID&to=native|upstream`, as a query.
    pub(crate) fn parse(query: &str) -> Result<Self, String> {
        let value = |key: &str| {
            let raw = query
                .split('&')
                .find_map(|part| part.strip_prefix(key)?.strip_prefix('='))?;
            let text = percent_encoding::percent_decode_str(raw).decode_utf8();
            text.ok().map(String::from)
        };
        let side = match value("to").as_deref() {
            Some("native") => Side::Native,
            Some("upstream") => Side::Upstream,
            _ => return Err("to: use native or upstream".to_owned()),
        };
        match value("account").filter(|id| !id.is_empty()) {
            Some(id) => Ok(Self::new(&id, side)),
            None => Err("account: use a channel, or channel/account".to_owned()),
        }
    }

    /// Writes it into the settings file, whose comments stay. `config`: the user's, with the channels of our own file. Answers
    /// what `channels.native` says now.
    ///
    /// # Errors
    /// When it means nothing, or the file can't be read or written; then nothing has changed.
    pub(crate) fn write(
        &self,
        own_file: &Path,
        config: &Value,
    ) -> Result<Vec<String>, ConfigError> {
        let own = OwnSettings::load(own_file)?;
        let wrong = |what: String| ConfigError::new(what).file(own_file);
        match own.upstream.mode {
            UpstreamMode::Off => {
                return Err(wrong(
                    "there is no OpenClaw behind this gateway, so it runs every account".to_owned(),
                )
                .key("upstream.mode"));
            }
            UpstreamMode::Attach => {
                return Err(wrong(
                    "the gateway that this one is attached to is not started by it, and would go on running its accounts".to_owned(),
                )
                .key("upstream.mode")
                .fix("disable the account in its openclaw.json first, then add it to channels.native here"));
            }
            UpstreamMode::Auto | UpstreamMode::Supervise => {}
        }
        let next = self
            .patterns(&own.channels_native, &configured(config))
            .map_err(|why| wrong(why).key("channels.native"))?;
        let text = match std::fs::read_to_string(own_file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(own_file, "read", &error)),
        };
        let text = written(&text, &next).map_err(|why| wrong(why).key("channels.native"))?;
        OwnSettings::parse(own_file, &text)?;
        if let Some(folder) = own_file.parent() {
            crate::config::create_private_dir(folder)
                .map_err(|error| failed(folder, "made", &error))?;
        }
        replace_private(own_file, text.as_bytes())
            .map_err(|error| failed(own_file, "written", &error))?;
        Ok(next)
    }

    /// The enabled accounts that it is about, `(channel, account)`.
    pub(crate) fn accounts(&self, config: &Value) -> Vec<(String, String)> {
        let mut all = configured(config);
        all.retain(|(channel, account)| self.includes(channel, account));
        all
    }

    /// Whether an account is among those that move.
    fn includes(&self, channel: &str, account: &str) -> bool {
        channel == self.channel && self.account.as_deref().is_none_or(|own| own == account)
    }

    pub(crate) const fn side(&self) -> Side {
        self.side
    }

    /// `channels.native` after it. `all`: the enabled accounts, `(channel, account)`.
    fn patterns(&self, before: &[String], all: &[(String, String)]) -> Result<Vec<String>, String> {
        let channel = self.channel.as_str();
        if !KINDS.contains(&channel) {
            return Err(format!(
                "{channel:?} is no channel that this gateway runs; it runs {}",
                KINDS.join(", ")
            ));
        }
        if OURS_ALONE.contains(&channel) {
            return Err(format!(
                "OpenClaw has no channel {channel:?}: it stays with this gateway"
            ));
        }
        let moved: Vec<&(String, String)> = all
            .iter()
            .filter(|(channel, account)| self.includes(channel, account))
            .collect();
        if moved.is_empty() {
            let names: Vec<String> = all.iter().map(|(c, a)| format!("{c}/{a}")).collect();
            return Err(format!(
                "no enabled account is meant; there are: {}",
                if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                }
            ));
        }
        let is_native = |(channel, account): &(String, String)| is_named(before, channel, account);
        let goes = |owned: &(String, String)| self.includes(&owned.0, &owned.1);
        match self.side {
            Side::Native if moved.iter().all(|owned| is_native(owned)) => {
                Err("this gateway runs it already".to_owned())
            }
            Side::Upstream if !moved.iter().any(|owned| is_native(owned)) => {
                Err("OpenClaw runs it already".to_owned())
            }
            Side::Native => {
                let own = match &self.account {
                    Some(account) => format!("{channel}/{account}"),
                    None => channel.to_owned(),
                };
                let rest = before.iter().filter(|pattern| {
                    self.account.is_some() || !pattern.starts_with(&format!("{channel}/"))
                });
                Ok(rest.cloned().chain([own]).collect())
            }
            Side::Upstream => {
                let mut next: Vec<String> = Vec::new();
                for pattern in before {
                    let one = std::slice::from_ref(pattern);
                    let covered: Vec<&(String, String)> =
                        all.iter().filter(|(c, a)| is_named(one, c, a)).collect();
                    if !covered.iter().any(|owned| goes(owned)) {
                        next.push(pattern.clone());
                        continue;
                    }
                    // It named more than what goes: the rest is named one by one.
                    for (channel, account) in covered.into_iter().filter(|owned| !goes(owned)) {
                        let name = format!("{channel}/{account}");
                        if !OURS_ALONE.contains(&channel.as_str()) && !next.contains(&name) {
                            next.push(name);
                        }
                    }
                }
                Ok(next)
            }
        }
    }
}

/// The enabled accounts of channels that this gateway can run.
fn configured(config: &Value) -> Vec<(String, String)> {
    let sections = config["channels"].as_object().into_iter().flatten();
    sections
        .filter(|(channel, _)| KINDS.contains(&channel.as_str()))
        .flat_map(|(channel, section)| accounts::of(channel, section))
        .filter(|account| account.enabled)
        .map(|account| (account.channel, account.id))
        .collect()
}

/// The file's text with this list, everything else as it was.
fn written(text: &str, patterns: &[String]) -> Result<String, String> {
    let mut document: toml_edit::DocumentMut =
        text.parse().map_err(|error| format!("not TOML: {error}"))?;
    let table = document.entry("channels").or_insert_with(toml_edit::table);
    if !table.is_table_like() {
        return Err("channels is a section, not a value".to_owned());
    }
    let list = &mut table["native"];
    if !list.is_array() {
        *list = toml_edit::value(toml_edit::Array::new());
    }
    let list = list.as_array_mut().ok_or("is no list")?;
    list.retain(|item| {
        item.as_str()
            .is_some_and(|name| patterns.iter().any(|pattern| pattern == name))
    });
    for pattern in patterns {
        if !list.iter().any(|item| item.as_str() == Some(pattern)) {
            list.push(pattern.as_str());
        }
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Value {
        json!({ "channels": {
            "telegram": { "accounts": { "a": { "botToken": "1" }, "b": { "botToken": "2" }, "off": { "enabled": false } } },
            "matrix": { "homeserver": "h" },
            "discord": { "token": "x" },
            "webhook": { "secret": "s" },
        } })
    }

    #[track_caller]
    fn check(before: &[&str], id: &str, side: Side, expected: Result<&[&str], &str>) {
        let before: Vec<String> = before.iter().map(|p| (*p).to_owned()).collect();
        let next = Move::new(id, side).patterns(&before, &configured(&config()));
        match expected {
            Ok(expected) => assert_eq!(next.as_deref().unwrap_or_default(), expected, "{next:?}"),
            Err(named) => assert!(
                next.as_ref().is_err_and(|why| why.contains(named)),
                "{next:?}"
            ),
        }
    }

    #[test]
    fn one_account_goes_and_the_others_stay_where_they_are() {
        use Side::{Native, Upstream};
        check(&[], "telegram/a", Native, Ok(&["telegram/a"]));
        check(&["telegram/a"], "telegram", Native, Ok(&["telegram"]));
        check(&["telegram"], "telegram/a", Upstream, Ok(&["telegram/b"]));
        check(
            &["*"],
            "telegram/a",
            Upstream,
            Ok(&["telegram/b", "matrix/default"]),
        );
        check(
            &["matrix", "telegram/*"],
            "telegram",
            Upstream,
            Ok(&["matrix"]),
        );
        check(&["telegram"], "telegram/a", Native, Err("already"));
        check(&[], "telegram", Upstream, Err("already"));
        check(&[], "telegram/off", Native, Err("telegram/a, telegram/b"));
        check(
            &[],
            "discord",
            Native,
            Err("no channel that this gateway runs"),
        );
        check(&[], "webhook", Upstream, Err("stays with this gateway"));
    }

    #[test]
    fn the_person_s_file_keeps_its_comments() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("openclaw-gateway.toml");
        let mine = "# mine\n[channels] # who runs what\nnative = [\n  \"matrix\", # ours since May\n]\n\n[log]\nlevel = \"info\" # quiet\n";
        std::fs::write(&file, mine).expect("written");
        let to = |id, side| Move::new(id, side).write(&file, &config());
        assert_eq!(
            to("telegram/a", Side::Native).expect("moved"),
            ["matrix", "telegram/a"]
        );
        let text = std::fs::read_to_string(&file).expect("read");
        for kept in ["# mine", "# who runs what", "# ours since May", "# quiet"] {
            assert!(text.contains(kept), "{text}");
        }
        assert_eq!(to("telegram/a", Side::Upstream).expect("moved"), ["matrix"]);
        std::fs::write(&file, "[upstream]\nmode = \"off\"\n").expect("written");
        let refused = to("telegram/a", Side::Native).expect_err("refused");
        assert!(refused.to_string().contains("runs every account"));
    }

    #[test]
    fn a_query_is_read_and_what_is_wrong_is_named() {
        assert_eq!(
            Move::parse("account=telegram%2Fwork&to=native"),
            Ok(Move::new("telegram/work", Side::Native))
        );
        for wrong in [
            "account=telegram",
            "to=native",
            "account=&to=native",
            "account=x&to=y",
        ] {
            assert!(Move::parse(wrong).is_err(), "{wrong}");
        }
    }
}
