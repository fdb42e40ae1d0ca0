//! Our own settings: `<state>/openclaw-rs/openclaw-gateway.toml`.
//!
//! OpenClaw rejects unknown keys in its file, so ours have one of their own. [`KEYS`] is the only
//! list of them: reading, the example file and `docs/configuration.md` all come from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::{ConfigError, Secret};
use crate::bridge::remote;

mod effective;
mod keys;

pub use effective::Effective;
use keys::MIB;
pub use keys::{KEYS, Kind, OwnKey};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamMode {
    Off,
    Attach,
    Supervise,
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityMode {
    Auto,
    Backend,
    Exact,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Auto,
    Pretty,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminListen {
    Off,
    At(SocketAddr),
}

/// Our own settings, each key of [`KEYS`] once, under the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSettings {
    pub upstream: UpstreamSettings,
    /// Patterns of methods handed back to the upstream; see [`Self::is_native_disabled`].
    pub native_disable: Vec<String>,
    pub limits: Limits,
    /// Patterns of channel accounts that are ours.
    pub channels_native: Vec<String>,
    pub messages: MessageSettings,
    pub admin_listen: AdminListen,
    /// A level word that `tracing` knows.
    pub log_level: String,
    pub log_format: LogFormat,
    pub control_ui_package: Option<PathBuf>,
    pub control_ui_native: bool,
    /// Memories are searched here although there is an upstream.
    pub memory_native: bool,
    /// `[rollout] percent`.
    pub rollout_percent: u8,
    pub rollout_paused: bool,
    pub shadow_percent: u8,
    pub guard: GuardSettings,
}

/// `[rollout.guard]`: when what is answered here is bad enough to go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardSettings {
    pub enabled: bool,
    pub window: Duration,
    pub calls_min: u64,
    pub error_percent: u64,
    pub error_factor: u64,
    pub p99_floor: Duration,
    pub p99_factor: u64,
    pub p99_alone: Duration,
    /// `None`: not looked at.
    pub queue_age: Option<Duration>,
    pub mismatch_percent: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSettings {
    pub mode: UpstreamMode,
    pub url: Option<String>,
    /// From `upstream.token`, or the content of `upstream.token_file`.
    pub token: Option<Secret>,
    /// Of the certificate that a `wss://` gateway shows.
    pub tls_fingerprint: Option<String>,
    pub command: Vec<String>,
    pub node: Option<PathBuf>,
    /// `None`: choose a free one and keep it.
    pub port: Option<u16>,
    pub start_timeout: Duration,
    pub stop_timeout: Duration,
    pub on_demand: bool,
    pub idle_stop: Duration,
    /// How long a call waits while it is replaced; 0: not at all.
    pub hold: Duration,
    /// Bytes; 0: no ceiling.
    pub memory_max: u64,
    pub identity: IdentityMode,
}

/// What becomes of a message that may have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InDoubt {
    Hold,
    Resend,
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageSettings {
    pub in_doubt: InDoubt,
    pub attempts_max: u32,
    pub inbound_age_max: Duration,
    pub reply_age_max: Duration,
    pub turn_timeout: Duration,
    pub legacy_url: Option<String>,
    pub keep: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub preauth_connections_per_ip: usize,
    pub handshake_timeout: Duration,
    pub preauth_bytes_max: usize,
    pub payload_bytes_max: usize,
    pub buffered_bytes_max: usize,
    pub requests_waiting_max: usize,
    pub http_header_timeout: Duration,
    pub upstream_pending_max: usize,
    pub upstream_links_max: usize,
}

impl Default for OwnSettings {
    fn default() -> Self {
        Self::parse(Path::new("openclaw-gateway.toml"), "").expect("the defaults are valid")
    }
}

impl OwnSettings {
    /// Reads `file`; defaults when it does not exist. Unknown keys and wrong types are errors that
    /// name file, line, key and, for a misspelt key, the nearest known one.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = match super::document::read_text(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(ConfigError::new(format!("cannot be read: {error}"))
                    .file(file)
                    .fix("make it readable by this user, or remove it to use the defaults"));
            }
        };
        Self::parse(file, &text)
    }

    /// As [`load`](Self::load), for a text in hand; `file` is for messages and relative paths.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let values = Values::read(file, text)?;
        let upstream = values.upstream()?;
        Ok(Self {
            upstream,
            native_disable: values.patterns("native.disable")?,
            limits: Limits {
                preauth_connections_per_ip: values.size("limits.preauth_connections_per_ip"),
                handshake_timeout: values.seconds("limits.handshake_timeout_s"),
                preauth_bytes_max: values.size("limits.preauth_bytes_max"),
                payload_bytes_max: values.size("limits.payload_bytes_max"),
                buffered_bytes_max: values.size("limits.buffered_bytes_max"),
                requests_waiting_max: values.size("limits.requests_waiting_max"),
                http_header_timeout: values.seconds("limits.http_header_timeout_s"),
                upstream_pending_max: values.size("limits.upstream_pending_max"),
                upstream_links_max: values.size("limits.upstream_links_max"),
            },
            channels_native: values.list("channels.native"),
            messages: MessageSettings {
                in_doubt: match values.word("messages.in_doubt") {
                    "resend" => InDoubt::Resend,
                    "drop" => InDoubt::Drop,
                    _ => InDoubt::Hold,
                },
                attempts_max: u32::try_from(values.number("messages.attempts_max"))
                    .expect("its range fits"),
                inbound_age_max: values.seconds("messages.inbound_age_max_s"),
                reply_age_max: values.seconds("messages.reply_age_max_s"),
                turn_timeout: values.seconds("messages.turn_timeout_s"),
                legacy_url: values.text("messages.legacy_url"),
                keep: Duration::from_secs(values.number("messages.keep_days") * 24 * 60 * 60),
            },
            admin_listen: values.admin_listen(),
            log_level: values.text("log.level").expect("it has a default"),
            log_format: match values.word("log.format") {
                "pretty" => LogFormat::Pretty,
                "json" => LogFormat::Json,
                _ => LogFormat::Auto,
            },
            control_ui_package: values.path("control_ui.package"),
            control_ui_native: values.switch("control_ui.native"),
            memory_native: values.switch("memory.native"),
            rollout_percent: u8::try_from(values.number("rollout.percent")).unwrap_or(100),
            rollout_paused: values.switch("rollout.paused"),
            shadow_percent: u8::try_from(values.number("rollout.shadow_percent")).unwrap_or(0),
            guard: values.guard(),
        })
    }

    /// Whether `native.disable` hands `method` back to the upstream.
    pub fn is_native_disabled(&self, method: &str) -> bool {
        self.native_disable
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => method.starts_with(prefix),
                None => pattern == method,
            })
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Parsed {
    Text(String),
    List(Vec<String>),
    Bool(bool),
    Number(u64),
}

/// The file's values by key name, defaults filled in.
struct Values<'a> {
    file: &'a Path,
    text: &'a str,
    values: BTreeMap<&'static str, Parsed>,
    /// Offsets of the keys that the file sets.
    offsets: BTreeMap<&'static str, usize>,
}

impl<'a> Values<'a> {
    fn read(file: &'a Path, text: &'a str) -> Result<Self, ConfigError> {
        let mut all = Self {
            file,
            text,
            values: BTreeMap::new(),
            offsets: BTreeMap::new(),
        };
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            let table = format!("default = {}", key.default);
            let table = DeTable::parse(&table).expect("a default is valid TOML");
            let value = table
                .get_ref()
                .get("default")
                .expect("just written")
                .get_ref();
            all.values.insert(
                key.name,
                all.accept(key, 0, value).expect("a default has its type"),
            );
        }
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map(|span| position(text, span.start));
            ConfigError::new(error.message().replace('\n', " "))
                .file(file)
                .at(at)
                .fix("correct the TOML there")
        })?;
        all.table("", table.get_ref())?;
        Ok(all)
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for (name, value) in table {
            let dotted = match prefix {
                "" => name.get_ref().to_string(),
                prefix => format!("{prefix}.{}", name.get_ref()),
            };
            let offset = name.span().start;
            let is_section = KEYS.iter().any(|key| {
                key.name
                    .strip_prefix(&dotted)
                    .is_some_and(|rest| rest.starts_with('.'))
            });
            if is_section {
                let DeValue::Table(inner) = value.get_ref() else {
                    return Err(self
                        .error(offset, &dotted, "is a section, not a value")
                        .fix(format!("write [{dotted}] and its keys below it")));
                };
                self.table(&dotted, inner)?;
                continue;
            }
            let Some(key) = KEYS.iter().find(|key| key.name == dotted) else {
                return Err(self.unknown(offset, &dotted));
            };
            let parsed = self.accept(key, offset, value.get_ref())?;
            self.values.insert(key.name, parsed);
            self.offsets.insert(key.name, offset);
        }
        Ok(())
    }

    fn accept(
        &self,
        key: &OwnKey,
        offset: usize,
        value: &DeValue<'_>,
    ) -> Result<Parsed, ConfigError> {
        let wrong = |got: &str| {
            self.error(
                offset,
                key.name,
                format!("expected {}, got {got}", expected(key.kind)),
            )
        };
        let got = || type_name(value);
        match (key.kind, value) {
            (Kind::Word(words), DeValue::String(text)) => match words.contains(&text.as_ref()) {
                true => Ok(Parsed::Text(text.to_string())),
                false => Err(wrong(&format!("{text:?}"))),
            },
            (Kind::Text, DeValue::String(text)) if text.trim().is_empty() => {
                Err(wrong("an empty string"))
            }
            (Kind::Text, DeValue::String(text)) => Ok(Parsed::Text(text.to_string())),
            (Kind::Bool, DeValue::Boolean(value)) => Ok(Parsed::Bool(*value)),
            (Kind::Number(least, most), DeValue::Integer(number)) => {
                let digits = number.as_str().replace('_', "");
                match u64::from_str_radix(&digits, number.radix()) {
                    Ok(number) if (least..=most).contains(&number) => Ok(Parsed::Number(number)),
                    _ => Err(wrong(&digits)),
                }
            }
            (Kind::List, DeValue::Array(items)) => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Ok(text.to_string()),
                    other => Err(wrong(&format!("a list with {}", type_name(other)))),
                })
                .collect::<Result<_, _>>()
                .map(Parsed::List),
            (Kind::Listen, DeValue::String(text)) => {
                if text == "off" || text.parse::<SocketAddr>().is_ok() {
                    Ok(Parsed::Text(text.to_string()))
                } else {
                    Err(wrong(&format!("{text:?}")))
                }
            }
            _ => Err(wrong(got())),
        }
    }

    fn unknown(&self, offset: usize, dotted: &str) -> ConfigError {
        let nearest = KEYS
            .iter()
            .map(|key| (distance(dotted, key.name), key.name))
            .min()
            .filter(|(distance, name)| *distance * 2 < name.len().max(dotted.len()));
        self.error(offset, dotted, "unknown key")
            .fix(match nearest {
                Some((_, name)) => {
                    format!("did you mean {name}? (all keys: docs/configuration.md)")
                }
                None => "remove it (all keys: docs/configuration.md)".to_owned(),
            })
    }

    fn error(&self, offset: usize, key: &str, what: impl Into<String>) -> ConfigError {
        ConfigError::new(what)
            .file(self.file)
            .at(Some(position(self.text, offset)))
            .key(key)
    }

    fn fault(&self, key: &str, what: impl Into<String>) -> ConfigError {
        match self.offsets.get(key) {
            Some(offset) => self.error(*offset, key, what),
            None => ConfigError::new(what).file(self.file).key(key),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.values.get(name) {
            Some(Parsed::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn word(&self, name: &str) -> &str {
        match self.values.get(name) {
            Some(Parsed::Text(text)) => text,
            _ => "",
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.values.get(name) {
            Some(Parsed::List(list)) => list.clone(),
            _ => Vec::new(),
        }
    }

    fn switch(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some(Parsed::Bool(true)))
    }

    fn number(&self, name: &str) -> u64 {
        match self.values.get(name) {
            Some(Parsed::Number(number)) => *number,
            other => unreachable!("{name} is a number with a default, not {other:?}"),
        }
    }

    fn size(&self, name: &str) -> usize {
        usize::try_from(self.number(name)).expect("its range fits 64 bits")
    }

    fn seconds(&self, name: &str) -> Duration {
        Duration::from_secs(self.number(name))
    }

    fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(self.number(name))
    }

    fn guard(&self) -> GuardSettings {
        GuardSettings {
            enabled: self.switch("rollout.guard.enabled"),
            window: self.seconds("rollout.guard.window_s"),
            calls_min: self.number("rollout.guard.calls_min"),
            error_percent: self.number("rollout.guard.error_percent"),
            error_factor: self.number("rollout.guard.error_factor"),
            p99_floor: self.millis("rollout.guard.p99_floor_ms"),
            p99_factor: self.number("rollout.guard.p99_factor"),
            p99_alone: self.millis("rollout.guard.p99_alone_ms"),
            queue_age: Some(self.seconds("rollout.guard.queue_age_s")).filter(|age| !age.is_zero()),
            mismatch_percent: self.number("rollout.guard.mismatch_percent"),
        }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        let text = self.text(name)?;
        let dir = self.file.parent().unwrap_or(Path::new(""));
        Some(dir.join(text))
    }

    fn admin_listen(&self) -> AdminListen {
        match self.word("admin.listen").parse() {
            Ok(address) => AdminListen::At(address),
            Err(_) => AdminListen::Off,
        }
    }

    fn patterns(&self, name: &str) -> Result<Vec<String>, ConfigError> {
        let patterns = self.list(name);
        match patterns
            .iter()
            .find(|p| p.is_empty() || p.trim_end_matches('*').contains('*'))
        {
            None => Ok(patterns),
            Some(pattern) => Err(self
                .fault(name, format!("{pattern:?} is no pattern"))
                .fix("write a method name, or a prefix followed by one *")),
        }
    }

    fn upstream(&self) -> Result<UpstreamSettings, ConfigError> {
        let mode = match self.word("upstream.mode") {
            "off" => UpstreamMode::Off,
            "attach" => UpstreamMode::Attach,
            "supervise" => UpstreamMode::Supervise,
            _ => UpstreamMode::Auto,
        };
        let url = self.text("upstream.url");
        // What is left there for another mode need not be right in all.
        let is_used = mode == UpstreamMode::Attach;
        let is_of_sockets = |url: &str| url.starts_with("ws://") || url.starts_with("wss://");
        if let Some(why) = url
            .as_deref()
            .filter(|url| is_used || !is_of_sockets(url))
            .and_then(|url| remote::Target::parse(url).err())
        {
            let fix =
                "use ws://127.0.0.1:<port> on this machine, wss://<host>:<port> on another one";
            return Err(self.fault("upstream.url", why).fix(fix));
        }
        let tls_fingerprint = self.text("upstream.tls_fingerprint");
        let digest = tls_fingerprint.as_deref().map(remote::digest);
        if let Some(Err(why)) = digest.filter(|_| is_used) {
            return Err(self.fault("upstream.tls_fingerprint", why).fix(
                "copy it from the start-up summary there, or from `openssl x509 -noout -fingerprint -sha256`",
            ));
        }
        if mode == UpstreamMode::Attach && url.is_none() {
            return Err(self
                .fault("upstream.mode", "\"attach\" needs upstream.url")
                .fix("add url = \"ws://127.0.0.1:PORT\" below [upstream]"));
        }
        let command = self.list("upstream.command");
        if self.offsets.contains_key("upstream.command")
            && command
                .first()
                .is_none_or(|program| program.trim().is_empty())
        {
            return Err(self
                .fault("upstream.command", "is empty")
                .fix("name the program, or remove the key to have it found"));
        }
        Ok(UpstreamSettings {
            mode,
            url,
            token: self.upstream_token()?,
            tls_fingerprint,
            command,
            node: self.path("upstream.node"),
            port: Some(u16::try_from(self.number("upstream.port")).expect("its range fits"))
                .filter(|port| *port > 0),
            start_timeout: self.seconds("upstream.start_timeout_s"),
            stop_timeout: self.seconds("upstream.stop_timeout_s"),
            on_demand: self.switch("upstream.on_demand"),
            idle_stop: self.seconds("upstream.idle_stop_s"),
            hold: self.seconds("upstream.hold_s"),
            memory_max: self.number("upstream.memory_max_mib") * MIB,
            identity: match self.word("upstream.identity") {
                "backend" => IdentityMode::Backend,
                "exact" => IdentityMode::Exact,
                _ => IdentityMode::Auto,
            },
        })
    }

    fn upstream_token(&self) -> Result<Option<Secret>, ConfigError> {
        let inline = self
            .text("upstream.token")
            .map(|token| Secret::new(token.trim()));
        let Some(file) = self.path("upstream.token_file") else {
            return Ok(inline);
        };
        if inline.is_some() {
            return Err(self
                .fault(
                    "upstream.token_file",
                    "both upstream.token and upstream.token_file are set",
                )
                .fix("remove one"));
        }
        let text = std::fs::read_to_string(&file).map_err(|error| {
            self.fault(
                "upstream.token_file",
                format!("cannot read {}: {error}", file.display()),
            )
            .fix("write the token into that file, readable by its owner only")
        })?;
        match text.trim() {
            "" => Err(self
                .fault(
                    "upstream.token_file",
                    format!("{} is empty", file.display()),
                )
                .fix("write the token into it")),
            token => Ok(Some(Secret::new(token))),
        }
    }
}

fn expected(kind: Kind) -> String {
    match kind {
        Kind::Word(words) => {
            let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
            format!("one of {}", quoted.join(", "))
        }
        Kind::Text => "a string".to_owned(),
        Kind::List => "a list of strings".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::Number(least, most) => format!("a whole number from {least} to {most}"),
        Kind::Listen => "\"address:port\" or \"off\"".to_owned(),
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// 1-based line and column of a byte offset.
fn position(text: &str, offset: usize) -> (u32, u32) {
    let before = &text[..offset.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (
        u32::try_from(line).unwrap_or(u32::MAX),
        u32::try_from(column).unwrap_or(u32::MAX),
    )
}

/// Edit distance, for suggesting the key that was meant.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The example file: every key with its default, commented out.
pub fn example() -> String {
    let mut out = String::from(
        "# Settings of openclaw-gateway that have no place in openclaw.json.\n\
         # Put this file at <state>/openclaw-rs/openclaw-gateway.toml (~/.openclaw by default).\n\
         # Every line shows its default; changes are picked up while the gateway runs.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (in_section, name) = key.name.rsplit_once('.').expect("section.key");
        if in_section != section {
            section = in_section;
            write!(out, "\n[{section}]\n").expect("to a string");
        }
        for line in wrapped(key.doc, 96) {
            writeln!(out, "# {line}").expect("to a string");
        }
        match key.default {
            "" => writeln!(out, "# {name} = {}", placeholder(key.kind)),
            default => writeln!(out, "# {name} = {default}"),
        }
        .expect("to a string");
    }
    out
}

fn placeholder(kind: Kind) -> &'static str {
    match kind {
        Kind::List => "[\"…\"]",
        Kind::Bool => "false",
        Kind::Number(..) => "0",
        Kind::Word(_) | Kind::Text | Kind::Listen => "\"…\"",
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("never empty");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// The table of `docs/configuration.md`.
pub fn reference() -> String {
    let mut out = String::from(
        "| key | value | default | without restart | what it does |\n|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let default = match key.default {
            "" => "unset".to_owned(),
            default => format!("`{default}`"),
        };
        let hot = if key.hot { "yes" } else { "no" };
        let kind = expected(key.kind).replace('|', "\\|");
        writeln!(
            out,
            "| `{}` | {kind} | {default} | {hot} | {} |",
            key.name, key.doc
        )
        .expect("to a string");
    }
    out
}

#[cfg(test)]
mod tests;
