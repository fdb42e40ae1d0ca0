//! The user's systemd, by the `systemctl` on PATH: units found, stopped, started, and what OpenClaw's says of its environment.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::config::{Env, replace_private};
use crate::procfs;

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
/// Tries of a service manager after which a gateway will not come.
const RETRIES_MAX: u32 = 3;
/// Between a service's first process and what serves in it there are no more.
const GENERATIONS_MAX: usize = 16;
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
    /// The manager has started it, though perhaps in vain: one that waits for its next try is active too.
    pub(super) active: bool,
    pub(super) enabled: bool,
    /// What it runs now; `None` between two tries.
    main_pid: Option<u32>,
    /// It waits for its next try, after so many that failed.
    retries: Option<u32>,
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
        // Ctrl-C is for this command, which undoes what was half done.
        .process_group(0)
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

/// The variables that every service of this user starts with.
pub(super) fn environment() -> Env {
    let said = systemctl(&["show-environment"]).unwrap_or_default();
    Env::from_pairs(said.lines().filter_map(|line| line.split_once('=')))
}

impl Unit {
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            active: false,
            enabled: false,
            main_pid: None,
            retries: None,
            files: Vec::new(),
        }
    }

    /// `None`: there is no such unit.
    pub(super) fn find(name: &str) -> anyhow::Result<Option<Self>> {
        const WHAT: &str = "--property=LoadState,ActiveState,SubState,MainPID,NRestarts,UnitFileState,FragmentPath,DropInPaths";
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
            main_pid: value("MainPID").parse().ok().filter(|pid| *pid != 0),
            retries: (value("SubState") == "auto-restart")
                .then(|| value("NRestarts").parse().unwrap_or_default()),
            enabled: matches!(value("UnitFileState"), "enabled" | "enabled-runtime"),
            files: files.collect(),
        })
    }

    /// Whether it runs something now. That this has the port is not said.
    pub(super) const fn is_up(&self) -> bool {
        self.active && self.main_pid.is_some()
    }

    /// Whether this process is what it runs, or was started by that. A unit that runs something need not have the port: beside
    /// another one it starts and ends, again and again.
    pub(super) fn runs(&self, pid: u32) -> bool {
        let Some(main) = self.main_pid.filter(|_| self.active) else {
            return false;
        };
        let line = std::iter::successors(Some(pid), |pid| procfs::parent_of(*pid));
        line.take(GENERATIONS_MAX).any(|pid| pid == main)
    }

    /// Whether it was started again and again and came to nothing.
    pub(super) fn loops(&self) -> bool {
        self.retries.is_some_and(|tries| tries >= RETRIES_MAX)
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

    /// It starts with the machine, and not now.
    pub(super) fn enable(&self) -> anyhow::Result<()> {
        systemctl(&["enable", &self.name]).map(drop)
    }

    /// It does not start with the machine any more; one that runs goes on.
    pub(super) fn disable(&self) -> anyhow::Result<()> {
        systemctl(&["disable", &self.name]).map(drop)
    }

    /// The port that its command or its environment names.
    pub(super) fn port(&self) -> anyhow::Result<Option<u16>> {
        Ok(port_of(&self.lines()?))
    }

    /// What its files say of the service.
    fn lines(&self) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        for file in &self.files {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            lines.extend(service_lines(&text));
        }
        Ok(lines)
    }
}

/// What OpenClaw's unit says of its environment, line by line as it is written: OpenClaw goes on behind ours with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) lines: Vec<String>,
}

impl Carried {
    pub(super) fn of(unit: &Unit) -> anyhow::Result<Self> {
        Ok(Self {
            lines: carried(&unit.lines()?),
        })
    }

    /// The variables that it sets itself; those of its files are not known.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let values = self
            .lines
            .iter()
            .filter_map(|line| line.strip_prefix("Environment="));
        values.flat_map(words).map(name_of)
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

/// The lines of `[Service]`; those that end in a backslash are joined with the next.
fn service_lines(unit: &str) -> Vec<String> {
    let joined = unit.replace("\\\n", " ");
    let mut section = "";
    let mut lines = Vec::new();
    for line in joined.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[Service]" {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// `Environment=` and `EnvironmentFile=`, without what names the service itself.
fn carried(service: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    for line in service {
        if line.starts_with("EnvironmentFile=") {
            lines.push(line.clone());
        }
        let Some(value) = line.strip_prefix("Environment=") else {
            continue;
        };
        let all = words(value);
        let is_carried = |word: &&str| !IDENTITY.contains(&name_of(word));
        let kept: Vec<&str> = all.iter().copied().filter(is_carried).collect();
        if kept.len() == all.len() {
            lines.push(line.clone());
        } else if !kept.is_empty() {
            lines.push(format!("Environment={}", kept.join(" ")));
        }
    }
    lines
}

/// `--port` of the command, which OpenClaw prefers, or else its variable.
fn port_of(service: &[String]) -> Option<u16> {
    const QUOTES: [char; 2] = ['"', '\''];
    let number = |word: &str| -> Option<u16> { word.trim_matches(QUOTES).parse().ok() };
    let (mut by_command, mut by_environment) = (None, None);
    for line in service {
        if let Some(command) = line.strip_prefix("ExecStart=") {
            let all = words(command);
            let apart = all
                .iter()
                .position(|word| word.trim_matches(QUOTES) == "--port");
            let joined = all
                .iter()
                .find_map(|word| word.trim_matches(QUOTES).strip_prefix("--port="));
            by_command = apart
                .and_then(|at| all.get(at + 1).copied())
                .or(joined)
                .and_then(number);
        } else if let Some(value) = line.strip_prefix("Environment=") {
            for word in words(value) {
                if name_of(word) == "OPENCLAW_GATEWAY_PORT" {
                    by_environment = word.split_once('=').and_then(|(_, port)| number(port));
                }
            }
        }
    }
    by_command.or(by_environment)
}

/// The words of a value as they are written, with their quotes. Source: systemd.syntax(7), "Quoting".
fn words(value: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut from: Option<usize> = None;
    let mut quote: Option<char> = None;
    let mut is_escaped = false;
    for (at, c) in value.char_indices() {
        if is_escaped {
            is_escaped = false;
            continue;
        }
        if quote.is_none() && c.is_whitespace() {
            words.extend(from.take().map(|from| &value[from..at]));
            continue;
        }
        match c {
            '\\' => is_escaped = true,
            '"' | '\'' if quote.is_none() => quote = Some(c),
            _ if quote == Some(c) => quote = None,
            _ => {}
        }
        from.get_or_insert(at);
    }
    words.extend(from.map(|from| &value[from..]));
    words
}

/// The variable that a word sets.
fn name_of(word: &str) -> &str {
    let word = word.trim_start_matches(['"', '\'']);
    word.split_once('=').map_or(word, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_read_from_what_systemctl_says() {
        let said = "LoadState=loaded\nActiveState=active\nSubState=running\nMainPID=7\nNRestarts=9\nUnitFileState=enabled\nFragmentPath=/u/a.service\nDropInPaths=/u/a.service.d/1.conf /u/a.service.d/2.conf\n";
        let unit = Unit::parse("a.service", said).expect("a unit");
        assert!(unit.active && unit.enabled && !unit.loops());
        assert_eq!(unit.main_pid, Some(7));
        assert_eq!(unit.files.len(), 3);
        // Between two tries nobody has the port, and somebody else may.
        let waits = |tries| {
            format!(
                "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nMainPID=0\nNRestarts={tries}\nUnitFileState=enabled\n"
            )
        };
        let unit = Unit::parse("a.service", &waits(1)).expect("a unit");
        assert!(unit.active && unit.main_pid.is_none() && !unit.loops());
        assert!(Unit::parse("a.service", &waits(7)).is_some_and(|unit| unit.loops()));
        let gone = "LoadState=not-found\nActiveState=inactive\nUnitFileState=\n";
        assert_eq!(Unit::parse("a.service", gone), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_a_unit_runs_is_its_process_and_what_that_started() {
        let own = std::process::id();
        let parent = procfs::parent_of(own).expect("a parent");
        let of = |main_pid| Unit {
            active: true,
            main_pid,
            ..Unit::named("a.service")
        };
        assert!(of(Some(own)).runs(own) && of(Some(parent)).runs(own));
        assert!(!of(Some(own)).runs(parent) && !of(None).runs(own));
    }

    #[test]
    fn what_openclaw_s_unit_says_of_its_environment_is_carried_but_for_its_name() {
        let unit = "[Unit]\nEnvironment=NOT=here\n[Service]\nExecStart=node openclaw.mjs gateway --port 18789\nEnvironment=HOME=/home/a\nEnvironment=\"PATH=/a b:/usr/bin\"\nEnvironment=OPENCLAW_SYSTEMD_UNIT=openclaw-gateway.service\nEnvironment=\"OPENCLAW_SERVICE_MARKER=openclaw\"\nEnvironment=OPENCLAW_GATEWAY_PORT=18789\nEnvironmentFile=-/home/a/.openclaw/service.env\n[Install]\nWantedBy=default.target\n";
        assert_eq!(
            carried(&service_lines(unit)),
            [
                "Environment=HOME=/home/a",
                "Environment=\"PATH=/a b:/usr/bin\"",
                "Environment=OPENCLAW_GATEWAY_PORT=18789",
                "EnvironmentFile=-/home/a/.openclaw/service.env",
            ]
        );
    }

    #[test]
    fn one_line_may_set_several_variables() {
        let check = |line: &str, expected: &[&str]| {
            assert_eq!(carried(&[line.to_owned()]), expected, "{line}");
        };
        check(
            "Environment=A=1 OPENCLAW_SERVICE_KIND=gateway \"B=a b\" 'OPENCLAW_SERVICE_MARKER=x y' C=3",
            &["Environment=A=1 \"B=a b\" C=3"],
        );
        check(
            "Environment=OPENCLAW_SYSTEMD_UNIT=a OPENCLAW_WRAPPER=b",
            &[],
        );
        check(
            "Environment=\"A=say \\\"x\\\" y\"  B=2",
            &["Environment=\"A=say \\\"x\\\" y\"  B=2"],
        );
        let several = Carried {
            lines: vec!["Environment=A=1 \"B=a b\"".to_owned()],
        };
        assert_eq!(several.names().collect::<Vec<_>>(), ["A", "B"]);
    }

    #[test]
    fn the_port_is_the_command_s_or_the_environment_s() {
        let check = |lines: &[&str], expected: Option<u16>| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            assert_eq!(port_of(&lines), expected, "{lines:?}");
        };
        let environment = "Environment=A=1 \"OPENCLAW_GATEWAY_PORT=19001\"";
        check(&["ExecStart=node x gateway"], None);
        check(&["ExecStart=node x gateway", environment], Some(19_001));
        check(
            &["ExecStart=node x \"--port\" 19002", environment],
            Some(19_002),
        );
        check(
            &["ExecStart=node x --port 1", "ExecStart=node x --port=19003"],
            Some(19_003),
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
