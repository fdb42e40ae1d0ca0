//! How a supervised TypeScript gateway is configured: beside us, on its own loopback port.
//!
//! Two ways, tried against 2026.9.6:
//! - [`Way::Direct`]: on the user's own file, with `--port`, `--bind loopback` and `--tailscale off`.
//!   Methods that write the configuration (`agents.create`, `plugins.install`, …) work as they do
//!   without us, and the secret is the user's, so that relayed handshakes are accepted.
//! - [`Way::Overlay`]: on a file of ours that `$include`s the user's. Needed where the command line
//!   cannot say it (TLS off, an authentication we cannot use, clients on other machines whose
//!   addresses the child must take from us). The original refuses to write through
//!   such a file (`CONFIG_INCLUDE_OWNERSHIP`), so there the writing methods fail.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::settings::{AuthMode, BindMode, GatewayMode, TailscaleMode};
use super::{ConfigDocument, ConfigError, Paths, Secret, Settings, file};

/// Name of the overlay file in our own directory.
const FILE: &str = "upstream.json";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Direct,
    Overlay,
}

/// What a child must be started with, after the command that is `openclaw` itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    pub way: Way,
    /// The configuration file it reads.
    pub config_file: PathBuf,
    /// Arguments after `openclaw`.
    pub args: Vec<String>,
    /// Variables to set over our own environment.
    pub env: Vec<(String, OsString)>,
    /// Variables of ours it must not inherit.
    pub env_remove: Vec<&'static str>,
    /// The secret it accepts on its port; `None` when it asks for none.
    pub secret: Option<Secret>,
    /// Whether `secret` is its password instead of its token. It takes either in both fields.
    pub secret_is_password: bool,
}

/// Channel accounts that the child must leave alone, because this gateway runs them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ours {
    None,
    Some(Vec<OurAccount>),
    /// Every account that is configured.
    All,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OurAccount {
    pub channel: String,
    /// `None`: the channel has no `accounts`.
    pub name: Option<String>,
}

impl Ours {
    /// `is_ours(channel, account)` says which.
    pub fn of(config: &Value, is_ours: impl Fn(&str, &str) -> bool) -> Self {
        let mut ours = Vec::new();
        let mut others = 0;
        for (channel, section) in config["channels"].as_object().into_iter().flatten() {
            for account in channels::accounts::of(channel, section) {
                if !account.enabled {
                    continue;
                }
                if is_ours(channel, &account.id) {
                    let named = section["accounts"]
                        .as_object()
                        .is_some_and(|named| !named.is_empty());
                    ours.push(OurAccount {
                        channel: channel.clone(),
                        name: named.then_some(account.id),
                    });
                } else {
                    others += 1;
                }
            }
        }
        match (ours.is_empty(), others) {
            (true, _) => Self::None,
            (false, 0) => Self::All,
            (false, _) => Self::Some(ours),
        }
    }
}

/// The way that suits these settings.
pub fn way(settings: &Settings) -> Way {
    let usable = match settings.auth.mode {
        AuthMode::Token | AuthMode::Password => settings.auth.has_shared_secret(),
        AuthMode::None => true,
        AuthMode::TrustedProxy => false,
    };
    if usable && !settings.tls.enabled && (!serves_others(settings) || trusts_us(settings)) {
        Way::Direct
    } else {
        Way::Overlay
    }
}

/// Whether clients on other machines may come: the child must then learn their addresses from us.
fn serves_others(settings: &Settings) -> bool {
    // `auto` means loopback here.
    let open = match settings.bind {
        BindMode::Loopback | BindMode::Auto => false,
        BindMode::Custom(address) => !address.is_loopback(),
        BindMode::Lan | BindMode::Tailnet => true,
    };
    open || settings.tailscale != TailscaleMode::Off || !settings.trusted_proxies.is_empty()
}

/// Whether the child takes a client's address from us. Without that it refuses whatever comes with one (403), and a
/// client without one would look as if it were on this machine.
fn trusts_us(settings: &Settings) -> bool {
    crate::auth::address::is_listed(Ipv4Addr::LOCALHOST.into(), &settings.trusted_proxies)
}

/// What to start a child with, on `port`. Writes the overlay file if one is needed. `own_secret` is
/// what the child gets where the user's own secret cannot be used; make one for each start.
pub fn child(
    document: &ConfigDocument,
    settings: &Settings,
    paths: &Paths,
    port: u16,
    own_secret: &Secret,
    ours: &Ours,
) -> Result<Child, ConfigError> {
    let way = match ours {
        Ours::Some(_) => Way::Overlay,
        Ours::None | Ours::All => way(settings),
    };
    let mut env: Vec<(String, OsString)> = vec![
        (
            "OPENCLAW_STATE_DIR".to_owned(),
            paths.state_dir.clone().into(),
        ),
        // Discovery on the network is ours: the child's address is of no use to others.
        ("OPENCLAW_DISABLE_BONJOUR".to_owned(), "1".into()),
        // An update restart must not leave a detached process that we do not watch.
        ("OPENCLAW_NO_RESPAWN".to_owned(), "1".into()),
    ];
    // For plugins that ask this gateway (plugins/memory).
    let scheme = if settings.tls.enabled {
        "https"
    } else {
        "http"
    };
    env.push((
        "OPENCLAW_RS_URL".to_owned(),
        format!("{scheme}://127.0.0.1:{}", settings.port).into(),
    ));
    if *ours == Ours::All {
        // Source: docs/gateway/embedding.md.
        env.push(("OPENCLAW_SKIP_CHANNELS".to_owned(), "1".into()));
    }
    let mut args: Vec<String> = ["gateway", "run", "--port"].map(str::to_owned).to_vec();
    args.push(port.to_string());
    for arg in ["--bind", "loopback", "--tailscale", "off"] {
        args.push(arg.to_owned());
    }
    if settings.mode.is_none() {
        args.push("--allow-unconfigured".to_owned());
    }
    let (config_file, secret) = match way {
        Way::Direct => {
            // A secret that the file lacks is one we made, or came to us from the environment.
            let (name, key) = match settings.auth.mode {
                AuthMode::Password => ("OPENCLAW_GATEWAY_PASSWORD", "password"),
                _ => ("OPENCLAW_GATEWAY_TOKEN", "token"),
            };
            if let Some(secret) = settings.auth.shared_secret()
                && document.get(&["gateway", "auth", key]).is_none()
            {
                env.push((name.to_owned(), secret.expose().into()));
            }
            (
                paths.config_file.clone(),
                settings.auth.shared_secret().cloned(),
            )
        }
        Way::Overlay => {
            let secret = match settings.auth.mode {
                AuthMode::Token | AuthMode::Password => settings.auth.shared_secret(),
                AuthMode::TrustedProxy | AuthMode::None => None,
            }
            .unwrap_or(own_secret)
            .clone();
            let overlay = write_overlay(document, settings, paths, port, &secret, ours)?;
            env.push((
                "OPENCLAW_INCLUDE_ROOTS".to_owned(),
                include_roots(document, paths),
            ));
            (overlay, Some(secret))
        }
    };
    env.push((
        "OPENCLAW_CONFIG_PATH".to_owned(),
        config_file.clone().into(),
    ));
    Ok(Child {
        way,
        config_file,
        args,
        env,
        // The port variable wins over the configuration in programs the child starts; `--port` is
        // enough for itself.
        env_remove: vec!["OPENCLAW_GATEWAY_PORT"],
        secret,
        secret_is_password: way == Way::Direct && settings.auth.mode == AuthMode::Password,
    })
}

/// Whether a supervised child makes sense at all: not when the user's gateway is elsewhere.
pub fn is_local(settings: &Settings) -> bool {
    settings.mode != Some(GatewayMode::Remote)
}

/// The keys the overlay sets over the user's. Objects merge; an array is appended to the user's.
fn overrides(settings: &Settings, port: u16, secret: &Secret, ours: &Ours) -> Value {
    let mut gateway = Map::new();
    let mut set = |key: &str, value: Value| gateway.insert(key.to_owned(), value);
    set("mode", json!("local"));
    set("port", json!(port));
    set("bind", json!("loopback"));
    set("auth", json!({"mode": "token", "token": secret.expose()}));
    // We tell it the address of every client that is not on this machine.
    set("trustedProxies", json!(["127.0.0.1", "::1"]));
    if settings.tls.enabled {
        set("tls", json!({"enabled": false}));
    }
    if settings.tailscale != TailscaleMode::Off {
        set("tailscale", json!({"mode": "off"}));
    }
    let mut all = json!({ "gateway": gateway, "discovery": {"mdns": {"mode": "off"}} });
    if let Ours::Some(accounts) = ours {
        let mut channels = json!({});
        for account in accounts {
            // Two that receive with the same credentials would get every message twice, or 409.
            match &account.name {
                None => channels[&account.channel]["enabled"] = false.into(),
                Some(name) => {
                    channels[&account.channel]["accounts"][name]["enabled"] = false.into()
                }
            }
        }
        all["channels"] = channels;
    }
    all
}

fn write_overlay(
    document: &ConfigDocument,
    settings: &Settings,
    paths: &Paths,
    port: u16,
    secret: &Secret,
    ours: &Ours,
) -> Result<PathBuf, ConfigError> {
    let overlay = paths.own_dir.join(FILE);
    let mut tree = Map::new();
    if document.exists {
        tree.insert(
            "$include".to_owned(),
            json!(paths.config_file.to_string_lossy()),
        );
    }
    if let Value::Object(overrides) = overrides(settings, port, secret, ours) {
        tree.extend(overrides);
    }
    let text = serde_json::to_string_pretty(&tree).expect("a tree of strings is JSON") + "\n";
    let failed = |error: std::io::Error| {
        ConfigError::new(format!(
            "cannot write the configuration of the upstream: {error}"
        ))
        .file(&overlay)
        .fix("make its directory writable for this user")
    };
    file::create_private_dir(&paths.own_dir).map_err(failed)?;
    if std::fs::read_to_string(&overlay).is_ok_and(|known| known == text) {
        return Ok(overlay);
    }
    file::replace(&overlay, text.as_bytes()).map_err(failed)?;
    Ok(overlay)
}

/// The user's directory is not the overlay's, so that the original must be told it may be included.
fn include_roots(document: &ConfigDocument, paths: &Paths) -> OsString {
    let mut roots = OsString::from(paths.config_file.parent().unwrap_or(Path::new("/")));
    // A link elsewhere is read through its real directory.
    if let Ok(real) = paths.config_file.canonicalize()
        && let Some(dir) = real.parent()
        && Some(dir) != paths.config_file.parent()
    {
        roots.push(":");
        roots.push(dir);
    }
    for root in paths.include_roots(&document.env) {
        roots.push(":");
        roots.push(root);
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;

    fn plan(config: &str, vars: &[(&str, &str)]) -> (Child, Paths, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut env = Env::from_pairs(vars.iter().copied());
        env.set("OPENCLAW_STATE_DIR", dir.path().to_string_lossy());
        env.set("HOME", dir.path().to_string_lossy());
        std::fs::write(dir.path().join("openclaw.json"), config).expect("write");
        let paths = Paths::resolve(&env).expect("paths");
        let document = ConfigDocument::read(&paths, &env);
        let settings = Settings::read(&document, &paths).expect("valid");
        let own = Secret::new("made-for-this-start");
        let ours = Ours::of(&document.resolved, |channel, account| {
            channel == "telegram" && account != "theirs"
        });
        let child = child(&document, &settings, &paths, 18790, &own, &ours).expect("a plan");
        (child, paths, dir)
    }

    #[test]
    fn the_child_leaves_our_accounts_alone() {
        let (child, ..) = plan(
            r#"{"gateway":{"auth":{"token":"t0ken"}},"channels":{"telegram":{"botToken":"1"}}}"#,
            &[],
        );
        assert_eq!(
            (child.way, var(&child, "OPENCLAW_SKIP_CHANNELS")),
            (Way::Direct, Some("1"))
        );
        let (child, _, _dir) = plan(
            r#"{"gateway":{"auth":{"token":"t0ken"}},"channels":{"irc":{"host":"x"},"telegram":{"accounts":{"a":{"botToken":"1"},"theirs":{"botToken":"2"}}}}}"#,
            &[],
        );
        assert_eq!(
            (child.way, var(&child, "OPENCLAW_SKIP_CHANNELS")),
            (Way::Overlay, None)
        );
        let written: Value = serde_json::from_str(
            &std::fs::read_to_string(&child.config_file).expect("the overlay"),
        )
        .expect("JSON");
        assert_eq!(
            written["channels"],
            json!({ "telegram": { "accounts": { "a": { "enabled": false } } } })
        );
    }

    fn var<'a>(child: &'a Child, name: &str) -> Option<&'a str> {
        child
            .env
            .iter()
            .find(|(key, _)| key == name)
            .and_then(|(_, value)| value.to_str())
    }

    #[test]
    fn usually_the_user_s_own_file_serves() {
        let config = "{ gateway: { mode: 'local', port: 1, bind: 'loopback', auth: { mode: 'password', password: 'pw' } } }";
        let (child, paths, _dir) = plan(config, &[("OPENCLAW_GATEWAY_PORT", "4000")]);
        assert_eq!(
            (child.way, &child.config_file),
            (Way::Direct, &paths.config_file)
        );
        assert_eq!(
            child.args.join(" "),
            "gateway run --port 18790 --bind loopback --tailscale off"
        );
        assert_eq!(child.secret.as_ref().map(Secret::expose), Some("pw"));
        assert!(child.secret_is_password);
        assert_eq!(child.env_remove, ["OPENCLAW_GATEWAY_PORT"]);
        assert_eq!(var(&child, "OPENCLAW_GATEWAY_PASSWORD"), None);
        assert!(!paths.own_dir.exists());

        let config = "{ gateway: { bind: 'loopback' } }";
        let (child, ..) = plan(config, &[("OPENCLAW_GATEWAY_TOKEN", "from-env")]);
        assert_eq!(var(&child, "OPENCLAW_GATEWAY_TOKEN"), Some("from-env"));
    }

    #[test]
    fn tls_and_proxies_need_an_overlay() {
        let config = "{ gateway: { tls: { enabled: true }, bind: 'loopback', tailscale: { mode: 'serve' }, auth: { mode: 'token', token: 't' } } }";
        let (child, paths, _dir) = plan(config, &[("OPENCLAW_INCLUDE_ROOTS", "/shared")]);
        assert_eq!(child.way, Way::Overlay);
        assert!(child.args.contains(&"--allow-unconfigured".to_owned()));
        let roots = format!("{}:/shared", paths.state_dir.display());
        assert_eq!(var(&child, "OPENCLAW_INCLUDE_ROOTS"), Some(roots.as_str()));
        let text = std::fs::read_to_string(&child.config_file).expect("written");
        let tree: Value = serde_json::from_str(&text).expect("json");
        let want = json!({
            "$include": paths.config_file.to_string_lossy(),
            "gateway": {
                "mode": "local", "port": 18790, "bind": "loopback", "tls": {"enabled": false},
                "tailscale": {"mode": "off"}, "auth": {"mode": "token", "token": "t"},
                "trustedProxies": ["127.0.0.1", "::1"]
            },
            "discovery": {"mdns": {"mode": "off"}}
        });
        assert_eq!(tree, want);

        let config = "{ gateway: { bind: 'loopback', trustedProxies: ['10.0.0.1'], auth: { mode: 'trusted-proxy', trustedProxy: { userHeader: 'x' } } } }";
        let (child, ..) = plan(config, &[]);
        assert_eq!(child.way, Way::Overlay);
        assert_eq!(
            child.secret.as_ref().map(Secret::expose),
            Some("made-for-this-start")
        );
    }

    #[test]
    fn a_child_behind_an_open_port_must_trust_us() {
        let auth = "auth: { mode: 'token', token: 't' }";
        for open in [
            "bind: 'lan'",
            "tailscale: { mode: 'serve' }",
            "trustedProxies: ['10.0.0.1']",
        ] {
            let (child, ..) = plan(&format!("{{ gateway: {{ {open}, {auth} }} }}"), &[]);
            assert_eq!(child.way, Way::Overlay, "{open}");
        }
        let (child, ..) = plan(
            &format!("{{ gateway: {{ bind: 'lan', trustedProxies: ['127.0.0.0/8'], {auth} }} }}"),
            &[],
        );
        assert_eq!(child.way, Way::Direct, "it takes our word already");
    }

    #[test]
    fn an_open_gateway_has_an_open_child() {
        let (child, ..) = plan(
            "{ gateway: { bind: 'loopback', auth: { mode: 'none' } } }",
            &[],
        );
        assert_eq!((child.way, child.secret), (Way::Direct, None));
    }
}
