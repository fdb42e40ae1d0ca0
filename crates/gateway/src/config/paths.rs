//! Where things live: the state directory, the user's file, our own directory in it, the port.

use std::path::{Component, Path, PathBuf};

use super::{ConfigError, Env};

/// The gateway's default port. Source: `DEFAULT_GATEWAY_PORT`, src/config/paths.ts at 2026.9.6.
pub const DEFAULT_PORT: u16 = 18789;

const CONFIG_FILE: &str = "openclaw.json";
const CONFIG_FILE_LEGACY: &str = "clawdbot.json";
const STATE_DIR: &str = ".openclaw";
const STATE_DIR_LEGACY: &str = ".clawdbot";

/// Every location this gateway uses, resolved once from the environment.
///
/// Source of the rules: src/config/paths.ts, state-dir.ts and src/cli/profile.ts at 2026.9.6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The home that `~` means: `OPENCLAW_HOME`, else `HOME`, else the current directory.
    pub home: PathBuf,
    /// The original's state directory; its databases are never opened by us.
    pub state_dir: PathBuf,
    /// The user's `openclaw.json`; it need not exist.
    pub config_file: PathBuf,
    /// Our own directory, `<state>/openclaw-rs`; it need not exist.
    pub own_dir: PathBuf,
    /// Our own settings file, `<own_dir>/openclaw-gateway.toml`; it need not exist.
    pub own_file: PathBuf,
}

impl Paths {
    /// Locations for this environment. Apply [`select_profile`] first when `--profile` was given;
    /// `OPENCLAW_PROFILE` alone selects a profile here.
    ///
    /// Errors when no home can be found or the profile name is invalid.
    pub fn resolve(env: &Env) -> Result<Self, ConfigError> {
        let home = home_dir(env)?;
        let state_dir = match env.trimmed("OPENCLAW_STATE_DIR") {
            Some(dir) => resolve_user_path(dir, &home),
            None => default_state_dir(&home),
        };
        let config_file = match env.trimmed("OPENCLAW_CONFIG_PATH") {
            Some(file) => resolve_user_path(file, &home),
            None => config_file(
                &state_dir,
                &home,
                env.trimmed("OPENCLAW_STATE_DIR").is_some(),
            ),
        };
        let own_dir = state_dir.join("openclaw-rs");
        let own_file = own_dir.join("openclaw-gateway.toml");
        Ok(Self {
            home,
            state_dir,
            config_file,
            own_dir,
            own_file,
        })
    }

    /// Expands a leading `~` and makes the path absolute.
    pub fn user_path(&self, path: &str) -> PathBuf {
        resolve_user_path(path, &self.home)
    }

    /// Directories outside the configuration directory that `$include` may read
    /// (`OPENCLAW_INCLUDE_ROOTS`, separated by `:`).
    pub fn include_roots(&self, env: &Env) -> Vec<PathBuf> {
        let mut roots = Vec::new();
        for entry in env
            .trimmed("OPENCLAW_INCLUDE_ROOTS")
            .unwrap_or_default()
            .split(':')
        {
            let entry = entry.trim();
            if entry.is_empty() {
                continue;
            }
            let root = self.user_path(entry);
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        roots
    }
}

/// Makes `--profile NAME` (or `OPENCLAW_PROFILE` in the environment) choose `~/.openclaw-NAME`, by
/// setting `OPENCLAW_STATE_DIR` and `OPENCLAW_CONFIG_PATH` where they are not set. An environment that
/// points at another profile's default directory is moved to this one; `dev` also means port 19001.
///
/// Source: `applyCliProfileEnv`, src/cli/profile.ts at 2026.9.6.
pub fn select_profile(env: &mut Env, profile: &str) -> Result<(), ConfigError> {
    let profile = profile.trim();
    if profile.is_empty() {
        return Ok(());
    }
    if !is_profile_name(profile) {
        return Err(ConfigError::new(
            "Invalid --profile (use letters, numbers, \"_\", \"-\" only)",
        )
        .key("--profile"));
    }
    let home = home_dir(env)?;
    let inherited = env
        .trimmed("OPENCLAW_PROFILE")
        .unwrap_or("default")
        .to_owned();
    let inherited_dir = profile_state_dir(&inherited, &home)?;
    let selected_dir = profile_state_dir(profile, &home)?;
    let switches = inherited_dir != selected_dir;
    let state_dir = env.trimmed("OPENCLAW_STATE_DIR").map(str::to_owned);
    let config_file = env.trimmed("OPENCLAW_CONFIG_PATH").map(str::to_owned);
    let switches_state = switches
        && state_dir
            .as_deref()
            .is_some_and(|dir| resolve_user_path(dir, &home) == inherited_dir);
    let replaces_config = switches
        && (state_dir.is_none() || switches_state)
        && config_file
            .as_deref()
            .is_some_and(|file| resolve_user_path(file, &home) == inherited_dir.join(CONFIG_FILE));

    env.set("OPENCLAW_PROFILE", profile);
    let chosen = match &state_dir {
        Some(dir) if !switches_state => PathBuf::from(dir),
        _ => {
            env.set("OPENCLAW_STATE_DIR", selected_dir.to_string_lossy());
            selected_dir
        }
    };
    if config_file.is_none() || replaces_config {
        env.set(
            "OPENCLAW_CONFIG_PATH",
            chosen.join(CONFIG_FILE).to_string_lossy(),
        );
    }
    if profile == "dev" && env.trimmed("OPENCLAW_GATEWAY_PORT").is_none() {
        env.set("OPENCLAW_GATEWAY_PORT", "19001");
    }
    Ok(())
}

/// The port to listen on: `OPENCLAW_GATEWAY_PORT` (also as `host:port`), then `gateway.port`, then one
/// derived from the profile's name, then [`DEFAULT_PORT`]. A variable that is no port is ignored.
///
/// Source: `resolveGatewayPort`, src/config/paths.ts at 2026.9.6.
pub fn gateway_port(env: &Env, configured: Option<u16>) -> u16 {
    if let Some(port) = env.trimmed("OPENCLAW_GATEWAY_PORT").and_then(port_from_env) {
        return port;
    }
    if let Some(port) = configured.filter(|port| *port > 0) {
        return port;
    }
    let Some(profile) = env
        .trimmed("OPENCLAW_PROFILE")
        .filter(|name| is_profile_name(name) && !name.eq_ignore_ascii_case("default"))
    else {
        return DEFAULT_PORT;
    };
    // FNV-1a, as the original derives a profile's port.
    let hash = profile.bytes().fold(2_166_136_261u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(16_777_619)
    });
    u16::try_from(20_000 + hash % 40_000).expect("at most 59,999")
}

fn port_from_env(value: &str) -> Option<u16> {
    let digits = |text: &str| {
        let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        all_digits
            .then(|| text.parse::<u16>().ok().filter(|port| *port > 0))
            .flatten()
    };
    if let Some(port) = digits(value) {
        return Some(port);
    }
    if let Some((host, port)) = value
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]:"))
    {
        return (!host.is_empty() && !host.contains(']'))
            .then(|| digits(port))
            .flatten();
    }
    let (host, port) = value.split_once(':')?;
    (!host.is_empty() && !port.contains(':'))
        .then(|| digits(port))
        .flatten()
}

fn is_profile_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= 64
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn profile_state_dir(profile: &str, home: &Path) -> Result<PathBuf, ConfigError> {
    if !is_profile_name(profile) {
        return Err(
            ConfigError::new(format!("Invalid profile name: {profile:?}"))
                .key("OPENCLAW_PROFILE")
                .fix("use letters, numbers, \"_\" and \"-\" only"),
        );
    }
    Ok(if profile.eq_ignore_ascii_case("default") {
        home.join(STATE_DIR)
    } else {
        home.join(format!("{STATE_DIR}-{profile}"))
    })
}

fn home_dir(env: &Env) -> Result<PathBuf, ConfigError> {
    let os_home = env
        .home_value("HOME")
        .or_else(|| env.home_value("USERPROFILE"));
    let raw = match env.home_value("OPENCLAW_HOME") {
        Some(home) => match home.strip_prefix('~') {
            Some("") => os_home.map(PathBuf::from),
            Some(rest) if rest.starts_with('/') => {
                os_home.map(|home| PathBuf::from(format!("{home}{rest}")))
            }
            _ => Some(PathBuf::from(home)),
        },
        None => os_home.map(PathBuf::from),
    };
    raw.map(|home| absolute(&home))
        .or_else(|| std::env::current_dir().ok())
        .ok_or_else(|| {
            ConfigError::new("Unable to resolve an OpenClaw home")
                .fix("set OPENCLAW_HOME, HOME, or USERPROFILE, or run from an existing directory.")
        })
}

fn default_state_dir(home: &Path) -> PathBuf {
    let dir = home.join(STATE_DIR);
    let legacy = home.join(STATE_DIR_LEGACY);
    if !dir.exists() && legacy.exists() {
        legacy
    } else {
        dir
    }
}

fn config_file(state_dir: &Path, home: &Path, explicit_state: bool) -> PathBuf {
    let mut candidates = vec![
        state_dir.join(CONFIG_FILE),
        state_dir.join(CONFIG_FILE_LEGACY),
    ];
    if !explicit_state {
        for dir in [home.join(STATE_DIR), home.join(STATE_DIR_LEGACY)] {
            candidates.extend([dir.join(CONFIG_FILE), dir.join(CONFIG_FILE_LEGACY)]);
        }
    }
    candidates
        .into_iter()
        .find(|candidate| candidate.exists())
        .unwrap_or_else(|| state_dir.join(CONFIG_FILE))
}

fn resolve_user_path(path: &str, home: &Path) -> PathBuf {
    let path = path.trim();
    match path.strip_prefix('~') {
        Some("") => home.to_path_buf(),
        Some(rest) if rest.starts_with('/') => absolute(&home.join(rest.trim_start_matches('/'))),
        _ => absolute(Path::new(path)),
    }
}

/// Absolute and without `.` and `..`, by the text alone (symbolic links are not followed).
pub(super) fn absolute(path: &Path) -> PathBuf {
    let joined = match std::env::current_dir() {
        Ok(current) if !path.is_absolute() => current.join(path),
        _ => path.to_path_buf(),
    };
    let mut out = PathBuf::new();
    for component in joined.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        Env::from_pairs(pairs.iter().copied())
    }

    #[test]
    fn the_port_comes_from_the_variable_then_the_file_then_the_profile() {
        let port = |pairs: &[(&str, &str)], configured| gateway_port(&env(pairs), configured);
        assert_eq!(port(&[], None), 18789);
        assert_eq!(port(&[], Some(4000)), 4000);
        assert_eq!(port(&[("OPENCLAW_GATEWAY_PORT", "5000")], Some(4000)), 5000);
        assert_eq!(
            port(&[("OPENCLAW_GATEWAY_PORT", "127.0.0.1:5001")], None),
            5001
        );
        assert_eq!(port(&[("OPENCLAW_GATEWAY_PORT", "[::1]:5002")], None), 5002);
        for ignored in ["0", "65536", "x", "a:b:5", ":5", "-1", "+5", "5.0"] {
            assert_eq!(
                port(&[("OPENCLAW_GATEWAY_PORT", ignored)], None),
                18789,
                "{ignored}"
            );
        }
        // Value printed by the original for this profile: see tests/config/paths.test.mjs.
        assert_eq!(
            port(&[("OPENCLAW_PROFILE", "work")], None),
            profile_port("work")
        );
        assert_eq!(port(&[("OPENCLAW_PROFILE", "Default")], None), 18789);
    }

    fn profile_port(name: &str) -> u16 {
        let mut hash: u64 = 2_166_136_261;
        for byte in name.bytes() {
            hash = ((hash ^ u64::from(byte)) * 16_777_619) & 0xffff_ffff;
        }
        20_000 + u16::try_from(hash % 40_000).expect("small")
    }

    #[test]
    fn state_and_file_follow_the_variables() {
        let dir = tempfile::tempdir().expect("temp dir");
        let home = dir.path().to_str().expect("utf-8");
        let plain = Paths::resolve(&env(&[("HOME", home)])).expect("paths");
        assert_eq!(plain.state_dir, dir.path().join(".openclaw"));
        assert_eq!(
            plain.config_file,
            dir.path().join(".openclaw/openclaw.json")
        );
        assert_eq!(
            plain.own_file,
            dir.path()
                .join(".openclaw/openclaw-rs/openclaw-gateway.toml")
        );

        let moved = Paths::resolve(&env(&[
            ("HOME", "/nowhere"),
            ("OPENCLAW_HOME", home),
            ("OPENCLAW_STATE_DIR", "~/x/../state"),
            ("OPENCLAW_CONFIG_PATH", "~/mine.json5"),
        ]))
        .expect("paths");
        assert_eq!(moved.state_dir, dir.path().join("state"));
        assert_eq!(moved.config_file, dir.path().join("mine.json5"));

        std::fs::create_dir(dir.path().join(".clawdbot")).expect("mkdir");
        std::fs::write(dir.path().join(".clawdbot/clawdbot.json"), "{}").expect("write");
        let legacy = Paths::resolve(&env(&[("HOME", home)])).expect("paths");
        assert_eq!(
            legacy.config_file,
            dir.path().join(".clawdbot/clawdbot.json")
        );
    }

    #[test]
    fn a_profile_has_its_own_state() {
        let mut work = env(&[("HOME", "/home/a")]);
        select_profile(&mut work, "work").expect("valid");
        let paths = Paths::resolve(&work).expect("paths");
        assert_eq!(
            paths.config_file,
            Path::new("/home/a/.openclaw-work/openclaw.json")
        );

        let mut explicit = env(&[("HOME", "/home/a"), ("OPENCLAW_STATE_DIR", "/srv/state")]);
        select_profile(&mut explicit, "work").expect("valid");
        assert_eq!(
            Paths::resolve(&explicit).expect("paths").state_dir,
            Path::new("/srv/state")
        );

        // Switching from an inherited profile moves off its default directory.
        select_profile(&mut work, "dev").expect("valid");
        let dev = Paths::resolve(&work).expect("paths");
        assert_eq!(
            dev.config_file,
            Path::new("/home/a/.openclaw-dev/openclaw.json")
        );
        assert_eq!(gateway_port(&work, None), 19001);

        assert!(select_profile(&mut work, "../x").is_err());
    }

    #[test]
    fn include_roots_are_absolute_and_unique() {
        let env = env(&[
            ("HOME", "/home/a"),
            ("OPENCLAW_INCLUDE_ROOTS", "~/x: /y/ :/y::"),
        ]);
        let roots = Paths::resolve(&env).expect("paths").include_roots(&env);
        assert_eq!(roots, [PathBuf::from("/home/a/x"), PathBuf::from("/y")]);
    }
}
