//! Whether the gateway is announced, under which name, and with which records.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::zone::{self, Zone};
use crate::config::Env;
use crate::config::settings::{MdnsMode, Settings};

/// Longest label of a name, bytes. Source: RFC 1035 section 2.3.4.
const LABEL_BYTES_MAX: usize = 63;
const DEFAULT_SSH_PORT: u16 = 22;

/// What others see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beacon {
    pub(super) instance: String,
    /// Without `.local`.
    pub(super) host: String,
    pub(super) port: u16,
    is_direct: bool,
    /// SHA-256 of the certificate, with TLS.
    fingerprint: Option<String>,
    /// With `discovery.mdns.mode: "full"`.
    full: Option<Full>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Full {
    ssh_port: u16,
    cli_path: Option<String>,
    tailnet_name: Option<String>,
}

/// What a beacon is made of.
pub(crate) struct Source<'a> {
    pub(crate) config: &'a Value,
    pub(crate) settings: &'a Settings,
    pub(crate) env: &'a Env,
    /// Where clients connect.
    pub(crate) port: u16,
    pub(crate) fingerprint: Option<String>,
    /// Whether it is more than this machine that can connect.
    pub(crate) is_direct: bool,
    /// The machine's name.
    pub(crate) machine: &'a str,
    pub(crate) is_container: bool,
    /// The machine's name in its tailnet, where Tailscale is used.
    pub(crate) tailnet_name: Option<&'a str>,
}

impl Source<'_> {
    fn instance(&self) -> String {
        match strip_local(self.machine.trim()) {
            "" => "OpenClaw".to_owned(),
            name if name.to_lowercase().contains("openclaw") => name.to_owned(),
            name => format!("{name} (OpenClaw)"),
        }
    }

    fn tailnet_name(&self) -> Option<String> {
        let named = self.env.trimmed("OPENCLAW_TAILNET_DNS");
        named
            .map(|name| name.trim_end_matches('.'))
            .or(self.tailnet_name)
            .map(str::to_owned)
    }

    /// What `discovery.wideArea.domain` asks for; `None` if nothing is asked, or why it can't be is in the log.
    pub(crate) fn zone(&self, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> Option<Zone> {
        let asked = self.settings.wide_area_domain.as_deref()?;
        let Some(domain) = zone::domain(asked) else {
            tracing::warn!(%asked, "discovery: discovery.wideArea.domain is no DNS name; no zone is written");
            return None;
        };
        let Some(ipv4) = ipv4 else {
            tracing::warn!(
                "discovery: discovery.wideArea.domain is set and this machine has no Tailscale address; start Tailscale, then this gateway again. No zone is written"
            );
            return None;
        };
        let is_full = self.settings.mdns == MdnsMode::Full;
        let full = |name: &str| self.env.trimmed(name).filter(|_| is_full);
        Some(Zone {
            host: self
                .machine
                .split('.')
                .next()
                .unwrap_or_default()
                .to_owned(),
            display_name: self.instance(),
            fingerprint: self.fingerprint.clone(),
            is_direct: self.is_direct,
            tailnet_name: self.tailnet_name(),
            ssh_port: full("OPENCLAW_SSH_PORT").and_then(|port| port.parse().ok()),
            cli_path: full("OPENCLAW_CLI_PATH").map(str::to_owned),
            ipv6,
            ..Zone::new(domain, self.port, ipv4)
        })
    }
}

impl Beacon {
    /// `None` when the user's file, the environment or the machine says not to announce.
    pub(crate) fn of(source: &Source<'_>) -> Option<Self> {
        let Source {
            config,
            settings,
            env,
            ..
        } = source;
        let forced = forced(env);
        let is_off = forced.unwrap_or(source.is_container);
        if settings.mdns == MdnsMode::Off || is_off || !has_plugin(config) {
            return None;
        }
        let named = env.trimmed("OPENCLAW_MDNS_HOSTNAME").map(str::to_owned);
        let host = named
            .or_else(|| plain_label(source.machine))
            .map_or_else(|| "openclaw".to_owned(), |name| first_label(&name));
        let instance = source.instance();
        let full = (settings.mdns == MdnsMode::Full).then(|| Full {
            ssh_port: env
                .trimmed("OPENCLAW_SSH_PORT")
                .and_then(|port| port.parse().ok())
                .unwrap_or(DEFAULT_SSH_PORT),
            cli_path: env.trimmed("OPENCLAW_CLI_PATH").map(str::to_owned),
            tailnet_name: source.tailnet_name(),
        });
        Some(Self {
            instance: cut(&instance, LABEL_BYTES_MAX),
            host,
            port: source.port,
            is_direct: source.is_direct,
            fingerprint: source.fingerprint.clone(),
            full,
        })
    }

    /// The TXT records, in the original's words.
    pub(super) fn texts(&self) -> Vec<(&'static str, String)> {
        let shown = self
            .instance
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let shown = shown.strip_suffix(" (OpenClaw)").unwrap_or(&shown);
        let mut texts = vec![
            ("role", "gateway".to_owned()),
            ("gatewayPort", self.port.to_string()),
            ("lanHost", format!("{}.local", self.host)),
            ("displayName", shown.to_owned()),
        ];
        if let Some(fingerprint) = &self.fingerprint {
            texts.push(("gatewayTls", "1".to_owned()));
            texts.push(("gatewayTlsSha256", fingerprint.clone()));
        }
        if self.is_direct {
            texts.push(("gatewayDirectReachable", "1".to_owned()));
        }
        if let Some(full) = &self.full {
            texts.extend(
                full.tailnet_name
                    .iter()
                    .map(|name| ("tailnetDns", name.clone())),
            );
            texts.extend(full.cli_path.iter().map(|path| ("cliPath", path.clone())));
        }
        texts.push(("transport", "gateway".to_owned()));
        if let Some(full) = &self.full {
            texts.push(("sshPort", full.ssh_port.to_string()));
        }
        texts
    }
}

/// `OPENCLAW_DISABLE_BONJOUR`: true is off, false is on also in a container, anything else says nothing.
fn forced(env: &Env) -> Option<bool> {
    match env
        .trimmed("OPENCLAW_DISABLE_BONJOUR")?
        .to_lowercase()
        .as_str()
    {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Whether the original's plugin would run: named in the user's file, or by itself on macOS.
fn has_plugin(config: &Value) -> bool {
    let plugins = &config["plugins"];
    let lists = |name: &str| {
        let names = plugins[name].as_array();
        names.map(|names| names.iter().any(|it| it == "bonjour"))
    };
    let is_allowed = plugins["enabled"] != false
        && lists("deny") != Some(true)
        && (lists("allow") != Some(false)
            || plugins["allow"].as_array().is_some_and(Vec::is_empty));
    let entry = plugins["entries"]["bonjour"]["enabled"].as_bool();
    is_allowed && entry.unwrap_or(cfg!(target_os = "macos"))
}

/// The machine's first label, when a DNS name can have it.
fn plain_label(machine: &str) -> Option<String> {
    let label = strip_local(machine.trim()).split('.').next()?.trim();
    let is_plain = (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-');
    is_plain.then(|| label.to_owned())
}

fn first_label(name: &str) -> String {
    let label = strip_local(name)
        .split('.')
        .next()
        .unwrap_or_default()
        .trim();
    match cut(label, LABEL_BYTES_MAX) {
        empty if empty.is_empty() => "openclaw".to_owned(),
        label => label,
    }
}

fn strip_local(name: &str) -> &str {
    let at = name.len().saturating_sub(".local".len());
    match name.get(at..) {
        Some(end) if end.eq_ignore_ascii_case(".local") => &name[..at],
        _ => name,
    }
}

/// At most `bytes`, between characters.
fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)]
        .trim_end_matches('-')
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings;
    use serde_json::json;

    fn beacon(config: Value, vars: &[(&str, &str)], is_container: bool) -> Option<Beacon> {
        let settings = settings::tests::read(&config).expect("valid");
        Beacon::of(&Source {
            config: &config,
            settings: &settings,
            env: &Env::from_pairs(vars.iter().copied()),
            port: 18789,
            fingerprint: None,
            is_direct: false,
            machine: "my box.local",
            is_container,
            tailnet_name: None,
        })
    }

    fn on() -> Value {
        json!({"plugins": {"entries": {"bonjour": {"enabled": true}}}})
    }

    fn with(key: &str, value: Value) -> Value {
        let mut config = on();
        config["plugins"][key] = value;
        config
    }

    #[test]
    fn only_who_asks_is_announced() {
        let is_on = |config: Value| beacon(config, &[], false).is_some();
        assert!(is_on(on()));
        assert_eq!(is_on(json!({})), cfg!(target_os = "macos"));
        assert!(!is_on(with("enabled", json!(false))));
        assert!(!is_on(with("deny", json!(["bonjour"]))));
        assert!(!is_on(with("allow", json!(["telegram"]))));
        assert!(is_on(with("allow", json!([]))) && is_on(with("allow", json!(["bonjour"]))));
        let mut off = on();
        off["discovery"] = json!({"mdns": {"mode": "off"}});
        assert!(!is_on(off));
    }

    #[test]
    fn the_environment_decides_and_a_container_is_quiet() {
        let set = |value| [("OPENCLAW_DISABLE_BONJOUR", value)];
        assert!(beacon(on(), &[], true).is_none());
        assert!(beacon(on(), &set("0"), true).is_some());
        assert!(beacon(on(), &set("yes"), false).is_none());
        assert!(beacon(on(), &set("perhaps"), false).is_some());
    }

    #[test]
    fn names_are_those_a_network_can_carry() {
        let plain = beacon(on(), &[], false).expect("announced");
        assert_eq!(
            (plain.instance.as_str(), plain.host.as_str()),
            ("my box (OpenClaw)", "openclaw")
        );
        let named = beacon(on(), &[("OPENCLAW_MDNS_HOSTNAME", "kitchen.local")], false);
        assert_eq!(named.expect("announced").host, "kitchen");
        assert_eq!(plain_label("srv-1.example.org").as_deref(), Some("srv-1"));
        assert_eq!(cut(&"ü".repeat(40), 63).chars().count(), 31);
    }

    #[test]
    fn little_is_told_unless_asked_for_more() {
        let keys = |beacon: &Beacon| {
            beacon
                .texts()
                .iter()
                .map(|(key, _)| *key)
                .collect::<Vec<_>>()
        };
        let minimal = beacon(on(), &[("OPENCLAW_CLI_PATH", "/x")], false).expect("announced");
        assert_eq!(
            keys(&minimal),
            ["role", "gatewayPort", "lanHost", "displayName", "transport"]
        );
        let mut config = on();
        config["discovery"] = json!({"mdns": {"mode": "full"}});
        let vars = [
            ("OPENCLAW_CLI_PATH", "/x"),
            ("OPENCLAW_TAILNET_DNS", "a.ts.net."),
        ];
        let full = beacon(config, &vars, false).expect("announced");
        let texts = full.texts();
        assert!(texts.contains(&("tailnetDns", "a.ts.net".to_owned())));
        assert!(
            texts.contains(&("sshPort", "22".to_owned()))
                && texts.contains(&("cliPath", "/x".to_owned()))
        );
    }
}
