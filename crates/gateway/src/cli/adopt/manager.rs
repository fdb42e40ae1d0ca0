//! The user's systemd, by the `systemctl` on PATH: units found, stopped, started, and what OpenClaw's says of its environment.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::config::replace_private;

/// Variables by which a gateway knows its own service; ours is another one. Source: src/daemon/service-env.ts at 2026.9.6.
const IDENTITY: &[&str] = &[
    "OPENCLAW_SYSTEMD_UNIT",
    "OPENCLAW_LAUNCHD_LABEL",
    "OPENCLAW_WINDOWS_TASK_NAME",
    "OPENCLAW_WINDOWS_TASK_HIDDEN_LAUNCHER",
    "OPENCLAW_SERVICE_MARKER",
    "OPENCLAW_SERVICE_KIND",
    "OPENCLAW_SERVICE_VERSION",
    "OPENCLAW_WRAPPER",
];
const DROP_IN: &str = "10-adopted.conf";

/// Name of OpenClaw's own unit. Source: docs/platforms/linux.md at 2026.9.6.
pub(super) fn original(profile: Option<&str>) -> String {
    match profile.map(str::trim) {
        None | Some("" | "default") => "openclaw-gateway.service".to_owned(),
        Some(profile) => format!("openclaw-gateway-{profile}.service"),
    }
}

/// What the manager knows of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) active: bool,
    pub(super) enabled: bool,
    /// Its file and drop-ins.
    files: Vec<PathBuf>,
}

/// Whether a manager of this user answers.
pub(super) fn answers() -> bool {
    let asked = Command::new("systemctl")
        .args(["--user", "show", "--property=Version"])
        .output();
    asked.is_ok_and(|said| said.status.success())
}

fn systemctl(args: &[&str]) -> anyhow::Result<String> {
    let said = Command::new("systemctl")
        .arg("--user")
        .args(args)
        .output()
        .context("systemctl can't be run")?;
    if !said.status.success() {
        bail!(
            "systemctl --user {} failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&said.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Reads changed unit files.
pub(super) fn reload() -> anyhow::Result<()> {
    systemctl(&["daemon-reload"]).map(drop)
}

impl Unit {
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            active: false,
            enabled: false,
            files: Vec::new(),
        }
    }

    /// `None`: there is no such unit.
    pub(super) fn find(name: &str) -> anyhow::Result<Option<Self>> {
        const WHAT: &str =
            "--property=LoadState,ActiveState,UnitFileState,FragmentPath,DropInPaths";
        Ok(Self::parse(name, &systemctl(&["show", name, WHAT])?))
    }

    fn parse(name: &str, said: &str) -> Option<Self> {
        let value = |key: &str| {
            said.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .unwrap_or_default()
        };
        if value("LoadState") != "loaded" {
            return None;
        }
        let files = std::iter::once(value("FragmentPath"))
            .chain(value("DropInPaths").split(' '))
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        Some(Self {
            name: name.to_owned(),
            active: matches!(
                value("ActiveState"),
                "active" | "activating" | "reloading" | "deactivating"
            ),
            enabled: matches!(value("UnitFileState"), "enabled" | "enabled-runtime"),
            files: files.collect(),
        })
    }

    /// Stops it and waits for it; `for_good`: it does not start with the machine any more.
    pub(super) fn stop(&self, for_good: bool) -> anyhow::Result<()> {
        match for_good {
            true => systemctl(&["disable", "--now", &self.name]),
            false => systemctl(&["stop", &self.name]),
        }
        .map(drop)
    }

    /// Starts it; `for_good`: with the machine, too.
    pub(super) fn start(&self, for_good: bool) -> anyhow::Result<()> {
        match for_good {
            true => systemctl(&["enable", "--now", &self.name]),
            false => systemctl(&["start", &self.name]),
        }
        .map(drop)
    }
}

/// What OpenClaw's unit says of its environment, line by line as it is written: OpenClaw goes on behind ours with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) lines: Vec<String>,
}

impl Carried {
    pub(super) fn of(unit: &Unit) -> anyhow::Result<Self> {
        let mut lines = Vec::new();
        for file in &unit.files {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            lines.extend(carried(&text));
        }
        Ok(Self { lines })
    }

    /// Into a drop-in of the unit at `unit`, readable by its owner alone: there may be secrets in it.
    pub(super) fn write(&self, unit: &Path) -> anyhow::Result<()> {
        if self.lines.is_empty() {
            return Self::remove(unit);
        }
        let folder = unit.with_extension("service.d");
        let file = folder.join(DROP_IN);
        let text = format!(
            "# From OpenClaw's own unit, by `openclaw-gateway adopt`.\n[Service]\n{}\n",
            self.lines.join("\n")
        );
        std::fs::create_dir_all(&folder)
            .and_then(|()| replace_private(&file, text.as_bytes()))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    pub(super) fn remove(unit: &Path) -> anyhow::Result<()> {
        let folder = unit.with_extension("service.d");
        let file = folder.join(DROP_IN);
        if file.exists() {
            std::fs::remove_file(&file)
                .with_context(|| format!("cannot remove {}", file.display()))?;
        }
        // With a person's own drop-ins in it, it stays.
        if std::fs::remove_dir(&folder).is_err() {
            tracing::debug!(folder = %folder.display(), "the drop-ins stay");
        }
        Ok(())
    }
}

/// `Environment=` and `EnvironmentFile=` of `[Service]`, without what names the service itself.
fn carried(unit: &str) -> Vec<String> {
    let joined = unit.replace("\\\n", " ");
    let mut section = "";
    let mut lines = Vec::new();
    for line in joined.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let is_environment = ["Environment=", "EnvironmentFile="]
            .iter()
            .any(|key| line.starts_with(key));
        let names_it = |name: &&str| {
            ["", "\"", "'"]
                .iter()
                .any(|quote| line.starts_with(&format!("Environment={quote}{name}=")))
        };
        if section == "[Service]" && is_environment && !IDENTITY.iter().any(names_it) {
            lines.push(line.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_read_from_what_systemctl_says() {
        let said = "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nFragmentPath=/u/a.service\nDropInPaths=/u/a.service.d/1.conf /u/a.service.d/2.conf\n";
        let unit = Unit::parse("a.service", said).expect("a unit");
        assert!(unit.active && unit.enabled);
        assert_eq!(unit.files.len(), 3);
        let gone = "LoadState=not-found\nActiveState=inactive\nUnitFileState=\n";
        assert_eq!(Unit::parse("a.service", gone), None);
    }

    #[test]
    fn what_openclaw_s_unit_says_of_its_environment_is_carried_but_for_its_name() {
        let unit = "[Unit]\nEnvironment=NOT=here\n[Service]\nExecStart=node openclaw.mjs gateway --port 18789\nEnvironment=HOME=/home/a\nEnvironment=\"PATH=/a b:/usr/bin\"\nEnvironment=OPENCLAW_SYSTEMD_UNIT=openclaw-gateway.service\nEnvironment=\"OPENCLAW_SERVICE_MARKER=openclaw\"\nEnvironment=OPENCLAW_GATEWAY_PORT=18789\nEnvironmentFile=-/home/a/.openclaw/service.env\n[Install]\nWantedBy=default.target\n";
        assert_eq!(
            carried(unit),
            [
                "Environment=HOME=/home/a",
                "Environment=\"PATH=/a b:/usr/bin\"",
                "Environment=OPENCLAW_GATEWAY_PORT=18789",
                "EnvironmentFile=-/home/a/.openclaw/service.env",
            ]
        );
    }

    #[test]
    fn the_drop_in_is_private_and_goes_without_what_a_person_put_beside_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        let unit = dir.path().join("openclaw-rs.service");
        let carried = Carried {
            lines: vec!["Environment=KEY=secret".to_owned()],
        };
        carried.write(&unit).expect("written");
        let folder = dir.path().join("openclaw-rs.service.d");
        let file = folder.join(DROP_IN);
        let mode = file.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mine = folder.join("mine.conf");
        std::fs::write(&mine, "[Service]\n").expect("written");
        Carried::remove(&unit).expect("removed");
        assert!(!file.exists() && mine.exists());
    }
}
