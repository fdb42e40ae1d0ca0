//! `channels add | test | remove`: the user's own file, one account at a time.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use channels::accounts::{self, Account, DEFAULT_ACCOUNT};
use serde_json::{Map, Value};

use super::target::environment;
use super::{To, print};
use crate::config::{ConfigDocument, Keepers, SecretRef, Secrets};
use crate::messages::owned;

#[derive(Debug, clap::Subcommand)]
pub(super) enum ChannelsCommand {
    /// Accounts of the running gateway and how they do.
    List {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        to: To,
    },
    /// Check an account against its service and write it to openclaw.json.
    Add {
        /// email, irc, matrix, telegram or webhook
        channel: String,
        /// Settings as the original names them: `botToken=123:abc`, `allowFrom=["42"]`.
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// Name of the account, when there is more than one.
        #[arg(long, default_value = DEFAULT_ACCOUNT)]
        account: String,
        /// Write it although the service could not be asked.
        #[arg(long)]
        no_test: bool,
    },
    /// Ask the service who the account is, with the settings of openclaw.json.
    Test {
        channel: String,
        #[arg(long)]
        account: Option<String>,
    },
    /// Take an account out of openclaw.json.
    Remove {
        channel: String,
        #[arg(long, default_value = DEFAULT_ACCOUNT)]
        account: String,
    },
}

pub(super) fn run(profile: Option<&str>, command: &ChannelsCommand) -> anyhow::Result<ExitCode> {
    match command {
        ChannelsCommand::List { json, to } => super::api::channel_list(profile, *json, to),
        ChannelsCommand::Add {
            channel,
            settings,
            account,
            no_test,
        } => add(profile, channel, settings, account, *no_test),
        ChannelsCommand::Test { channel, account } => test(profile, channel, account.as_deref()),
        ChannelsCommand::Remove { channel, account } => remove(profile, channel, account),
    }
}

fn add(
    profile: Option<&str>,
    channel: &str,
    settings: &[String],
    name: &str,
    no_test: bool,
) -> anyhow::Result<ExitCode> {
    known(channel)?;
    let mut own = Map::new();
    for setting in settings {
        let (key, value) = setting
            .split_once('=')
            .with_context(|| format!("{setting:?} is not KEY=VALUE"))?;
        // Lists, numbers and switches as JSON; anything else is a text.
        let value = serde_json::from_str::<Value>(value)
            .ok()
            .filter(|value| !(value.is_string() || value.is_number() && key.ends_with("oken")))
            .unwrap_or_else(|| Value::String(value.to_owned()));
        own.insert(key.to_owned(), value);
    }
    let file = AccountFile::open(profile, channel)?;
    let mut config = file.config.clone();
    place(&mut config, channel, name, own);
    let account = accounts::of(channel, &config["channels"][channel])
        .into_iter()
        .find(|account| account.id == name)
        .context("the account is not where it was put")?;
    if !no_test {
        print(&format!("{channel}/{name}: {}", probe(&account)?));
    }
    file.write(&config)?;
    print(&format!(
        "written to {}. A running gateway takes it at once.{}",
        file.path.display(),
        match channel {
            "webhook" => "",
            _ =>
                " With an OpenClaw gateway behind it, also name it in openclaw-gateway.toml: [channels] native = [\"CHANNEL/ACCOUNT\"].",
        }
    ));
    Ok(ExitCode::SUCCESS)
}

/// The account's settings where they belong: at the top for a lone default, else under `accounts`.
fn place(config: &mut Value, channel: &str, name: &str, own: Map<String, Value>) {
    if !config["channels"].is_object() {
        config["channels"] = Value::Object(Map::new());
    }
    let section = &mut config["channels"][channel];
    if !section.is_object() {
        *section = Value::Object(Map::new());
    }
    let several = section["accounts"]
        .as_object()
        .is_some_and(|accounts| !accounts.is_empty());
    let place = if name == DEFAULT_ACCOUNT && !several {
        section
    } else {
        if !section["accounts"].is_object() {
            section["accounts"] = Value::Object(Map::new());
        }
        &mut section["accounts"][name]
    };
    if !place.is_object() {
        *place = Value::Object(Map::new());
    }
    if let Some(place) = place.as_object_mut() {
        place.extend(own);
    }
}

fn test(profile: Option<&str>, channel: &str, name: Option<&str>) -> anyhow::Result<ExitCode> {
    known(channel)?;
    let file = AccountFile::open(profile, channel)?;
    let all = accounts::of(channel, &file.with_secrets(profile, channel)?);
    anyhow::ensure!(
        !all.is_empty(),
        "{}: channels.{channel} is missing; add it with `openclaw-gateway channels add {channel} …`",
        file.path.display()
    );
    let mut failed = false;
    for account in all
        .iter()
        .filter(|account| name.is_none_or(|name| name == account.id))
    {
        match probe(account) {
            Ok(who) => print(&format!("{channel}/{}: {who}", account.id)),
            Err(error) => {
                failed = true;
                print(&format!("{channel}/{}: {error:#}", account.id));
            }
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// Who the service says that we are.
fn probe(account: &Account) -> anyhow::Result<String> {
    let channel = owned::build(account)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let who = runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(30), channel.probe()).await });
    let who = who.context("no answer within 30 s")??;
    Ok(format!("{} {}", who.id, who.name.unwrap_or_default())
        .trim()
        .to_owned())
}

fn remove(profile: Option<&str>, channel: &str, name: &str) -> anyhow::Result<ExitCode> {
    let file = AccountFile::open(profile, channel)?;
    let mut config = file.config.clone();
    let removed = config["channels"][channel]
        .as_object_mut()
        .is_some_and(|section| {
            let named = section.get_mut("accounts").and_then(Value::as_object_mut);
            match named {
                Some(accounts) if accounts.contains_key(name) => {
                    accounts.shift_remove(name).is_some()
                }
                _ => {
                    name == DEFAULT_ACCOUNT && {
                        section.clear();
                        true
                    }
                }
            }
        });
    anyhow::ensure!(
        removed,
        "{}: channels.{channel} has no account {name:?}",
        file.path.display()
    );
    if let Some(channels) = config["channels"].as_object_mut() {
        channels.retain(|id, section| {
            id != channel
                || section
                    .as_object()
                    .is_none_or(|section| !section.is_empty())
        });
    }
    file.write(&config)?;
    print(&format!("removed from {}", file.path.display()));
    Ok(ExitCode::SUCCESS)
}

fn known(channel: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        owned::KINDS.contains(&channel),
        "{channel:?} is no channel that this gateway runs; it runs {}. The others are set up with `openclaw channels add`",
        owned::KINDS.join(", ")
    );
    Ok(())
}

/// The file that an account is written in, as far as it can be written back without losing anything.
struct AccountFile {
    path: std::path::PathBuf,
    /// As written; null when it holds what rewriting would lose.
    config: Value,
    /// As it is in force, below `channels`.
    resolved: Value,
    /// Whether the file is ours, with the channels at its top.
    is_own: bool,
}

impl AccountFile {
    fn open(profile: Option<&str>, channel: &str) -> anyhow::Result<Self> {
        let (env, paths) = environment(profile)?;
        let document = ConfigDocument::load(&paths, &env)?;
        let whole =
            owned::with_own(&document.resolved, &paths.own_dir).map_err(anyhow::Error::msg)?;
        let resolved = whole["channels"].clone();
        if owned::OURS_ALONE.contains(&channel) {
            let path = paths.own_dir.join(owned::OWN_FILE);
            let own = std::fs::read_to_string(&path)
                .ok()
                .and_then(|text| serde_json::from_str::<Value>(&text).ok());
            let config =
                serde_json::json!({ "channels": own.unwrap_or_else(|| Value::Object(Map::new())) });
            return Ok(Self {
                path,
                config,
                resolved,
                is_own: true,
            });
        }
        let config = match document.exists {
            true => serde_json::from_str(document.raw.as_deref().unwrap_or_default())
                .unwrap_or(Value::Null),
            false => serde_json::json!({ "gateway": { "mode": "local" } }),
        };
        Ok(Self {
            path: document.file,
            config,
            resolved,
            is_own: false,
        })
    }

    /// As it is in force, with what its references stand for.
    fn with_secrets(&self, profile: Option<&str>, channel: &str) -> anyhow::Result<Value> {
        let (env, paths) = environment(profile)?;
        let document = ConfigDocument::load(&paths, &env)?;
        let keepers = Keepers {
            config: &document.resolved,
            env: &document.env,
            paths: &paths,
        };
        let mut section = self.resolved[channel].clone();
        let mut wanted = BTreeSet::new();
        SecretRef::within(keepers.config, &section, &mut wanted);
        let secrets = Secrets::resolve(wanted, keepers);
        if let Some((reference, why)) = secrets.failed().next() {
            anyhow::bail!("{reference} can't be resolved: {why}");
        }
        secrets.fill(keepers.config, &mut section);
        Ok(section)
    }

    /// Comments would be lost, so a file with any is left alone.
    fn write(&self, config: &Value) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.config.is_object(),
            "{} holds comments or other JSON5, which rewriting would lose. Put this there by hand:\n{}",
            self.path.display(),
            serde_json::to_string_pretty(&serde_json::json!({ "channels": config["channels"] }))?
        );
        let written = if self.is_own {
            &config["channels"]
        } else {
            config
        };
        if let Some(folder) = self.path.parent() {
            crate::config::create_private_dir(folder)?;
        }
        crate::config::replace_private(&self.path, format!("{written:#}\n").as_bytes())
            .with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_account_goes_where_the_original_looks_for_it() {
        let own = |token: &str| json!({ "botToken": token }).as_object().unwrap().clone();
        let mut config = json!({ "gateway": {} });
        place(&mut config, "telegram", "default", own("1"));
        assert_eq!(config["channels"]["telegram"], json!({ "botToken": "1" }));
        place(&mut config, "telegram", "work", own("2"));
        assert_eq!(
            config["channels"]["telegram"]["accounts"]["work"],
            json!({ "botToken": "2" })
        );
        place(&mut config, "telegram", "default", own("3"));
        assert_eq!(
            config["channels"]["telegram"]["accounts"]["default"],
            json!({ "botToken": "3" })
        );
    }
}
