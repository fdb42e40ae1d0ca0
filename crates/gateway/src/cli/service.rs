//! `service install|uninstall|status`: a hardened systemd unit, `openclaw-rs.service`.
//!
//! `openclaw-gateway.service` is the original's own name, so it is never ours.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;

use super::target::environment;
use super::{complain, print};
use crate::config::{ConfigDocument, Env, OwnSettings, Paths, Settings, UpstreamMode};
use crate::ingress::listen::{self, Surroundings};

#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
    /// Write the unit; what is to be typed to start it is printed.
    Install {
        #[command(flatten)]
        scope: Scope,
        /// The user that a system service runs as.
        #[arg(long, default_value = "openclaw")]
        run_as: String,
        /// A socket unit too: systemd holds the port, and clients that connect during a restart wait instead of being refused.
        #[arg(long)]
        socket: bool,
        /// Print the unit and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove the unit; configuration and state stay.
    Uninstall {
        #[command(flatten)]
        scope: Scope,
    },
    /// Whether it is installed and runs.
    Status {
        #[command(flatten)]
        scope: Scope,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Scope {
    /// For the whole machine, in /etc/systemd/system, instead of for this user.
    #[arg(long)]
    system: bool,
}

/// Where a system service keeps its state.
const SYSTEM_STATE: &str = "/var/lib/openclaw";
/// What `ProtectHome=` and `PrivateTmp=` hide.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
pub(super) const UNIT: &str = "openclaw-rs.service";
/// Named as the service, so that systemd passes its sockets to that.
pub(super) const SOCKET: &str = "openclaw-rs.socket";

/// Seccomp and flags alone: what a user's manager may set too.
const HARDENED: &str = "\
NoNewPrivileges=yes
LimitCORE=0
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
";

/// What only the machine's manager may set.
const HARDENED_SYSTEM: &str = "\
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
DevicePolicy=closed
ProtectProc=invisible
ProtectHostname=yes
ProtectClock=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
RemoveIPC=yes
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
";

/// What is to be written in a unit.
struct Unit<'a> {
    program: &'a Path,
    state_dir: &'a Path,
    /// The user of a system service; `None` for a user's own.
    run_as: Option<&'a str>,
    /// Whether it may start Node, which makes code while it runs and reads the machine's memory.
    node: bool,
}

impl Unit<'_> {
    fn text(&self) -> String {
        let mut out = String::from("[Unit]\nDescription=OpenClaw gateway (openclaw-rs)\n");
        if self.run_as.is_some() {
            out.push_str("After=network-online.target\nWants=network-online.target\n");
        }
        // Exit code 78 is a configuration that can't be used: starting again would not help.
        write!(
            out,
            "\n[Service]\nType=notify\nExecStart={} run\nExecReload=kill -HUP $MAINPID\nRestart=always\nRestartSec=2\n\
             RestartPreventExitStatus=78\nWatchdogSec=30\nTimeoutStopSec=10\nKillMode=mixed\nUMask=0077\nEnvironment={}\n",
            // Only commands expand variables.
            quoted(&self.program.display().to_string()).replace('$', "$$"),
            quoted(&format!("OPENCLAW_STATE_DIR={}", self.state_dir.display())),
        )
        .expect("writing to a string cannot fail");
        if let Some(user) = self.run_as {
            writeln!(
                out,
                "User={user}\nReadWritePaths={}",
                quoted(&self.state_dir.display().to_string())
            )
            .expect("writing to a string cannot fail");
            if self.state_dir == Path::new(SYSTEM_STATE) {
                out.push_str("StateDirectory=openclaw\nStateDirectoryMode=0700\n");
            }
        }
        out.push_str(HARDENED);
        if self.run_as.is_some() {
            out.push_str(HARDENED_SYSTEM);
        }
        if !self.node {
            out.push_str("MemoryDenyWriteExecute=yes\n");
            if self.run_as.is_some() {
                out.push_str("ProcSubset=pid\n");
            }
        }
        let wanted = if self.run_as.is_some() {
            "multi-user"
        } else {
            "default"
        };
        writeln!(out, "\n[Install]\nWantedBy={wanted}.target")
            .expect("writing to a string cannot fail");
        out
    }
}

/// The unit of the sockets that systemd holds for the gateway.
fn socket_text(addresses: &[SocketAddr]) -> String {
    let mut out =
        String::from("[Unit]\nDescription=OpenClaw gateway (openclaw-rs), its port\n\n[Socket]\n");
    for address in addresses {
        writeln!(out, "ListenStream={address}").expect("writing to a string cannot fail");
    }
    out.push_str("BindIPv6Only=ipv6-only\n\n[Install]\nWantedBy=sockets.target\n");
    out
}

/// Where the gateway with the state in `state_dir` listens.
fn addresses(mut env: Env, state_dir: &Path) -> anyhow::Result<Vec<SocketAddr>> {
    env.set("OPENCLAW_STATE_DIR", state_dir.display().to_string());
    let paths = Paths::resolve(&env)?;
    let document = ConfigDocument::load(&paths, &env)?;
    let settings = Settings::read(&document, &paths)?;
    let around = Surroundings::look(&env, settings.bind);
    Ok(listen::addresses_of(&settings, &around))
}

/// One word of a unit file. Source: systemd.service(5), "Command lines"; systemd.unit(5), specifiers.
fn quoted(word: &str) -> String {
    let word = word
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%");
    format!("\"{word}\"")
}

pub(super) fn run(profile: Option<&str>, command: &ServiceCommand) -> anyhow::Result<ExitCode> {
    match command {
        ServiceCommand::Install {
            scope,
            run_as,
            socket,
            dry_run,
        } => install(profile, *scope, run_as, *socket, *dry_run),
        ServiceCommand::Uninstall { scope } => uninstall(profile, *scope),
        ServiceCommand::Status { scope, json } => status(profile, *scope, *json),
    }
}

fn unit_file(profile: Option<&str>, scope: Scope) -> anyhow::Result<PathBuf> {
    if scope.system {
        return Ok(Path::new("/etc/systemd/system").join(UNIT));
    }
    let (env, paths) = environment(profile)?;
    let config = env
        .trimmed("XDG_CONFIG_HOME")
        .map_or_else(|| paths.home.join(".config"), PathBuf::from);
    Ok(config.join("systemd/user").join(UNIT))
}

fn install(
    profile: Option<&str>,
    scope: Scope,
    run_as: &str,
    socket: bool,
    dry_run: bool,
) -> anyhow::Result<ExitCode> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if run_as.is_empty() || !run_as.chars().all(valid) {
        anyhow::bail!("--run-as {run_as:?} is no user name");
    }
    let (env, paths) = environment(profile)?;
    // A service of the machine has no home.
    let in_var = scope.system && env.trimmed("OPENCLAW_STATE_DIR").is_none();
    let (state_dir, own_file) = if in_var {
        let state_dir = PathBuf::from(SYSTEM_STATE);
        let own_file = state_dir.join("openclaw-rs/openclaw-gateway.toml");
        (state_dir, own_file)
    } else {
        (paths.state_dir, paths.own_file)
    };
    let own = OwnSettings::load(&own_file)?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let hidden = |path: &Path| scope.system && HIDDEN.iter().any(|dir| path.starts_with(dir));
    if hidden(&state_dir) {
        anyhow::bail!(
            "{} is hidden from a system service; unset OPENCLAW_STATE_DIR to use {SYSTEM_STATE}, or install without --system",
            state_dir.display()
        );
    }
    if hidden(&program) {
        complain(&format!(
            "{} is hidden from a system service; install it to /usr/local/bin first",
            program.display()
        ));
    }
    let unit = Unit {
        program: &program,
        state_dir: &state_dir,
        run_as: scope.system.then_some(run_as),
        node: may_start_node(&own),
    };
    let text = unit.text();
    let sockets = match socket {
        true => Some(socket_text(&addresses(env, &state_dir)?)),
        false => None,
    };
    if dry_run {
        print(text.trim_end());
        if let Some(sockets) = &sockets {
            print(&format!("\n# {SOCKET}\n{}", sockets.trim_end()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let file = write(&unit_file(profile, scope)?, &text)?;
    let manager = manager(scope);
    print(&format!("written   {}", file.display()));
    let Some(sockets) = &sockets else {
        remove_socket(scope, &file)?;
        print(&format!(
            "to start  {manager} daemon-reload && {manager} enable --now {UNIT}"
        ));
        return Ok(ExitCode::SUCCESS);
    };
    let file = write(&file.with_file_name(SOCKET), sockets)?;
    print(&format!("written   {}", file.display()));
    // A socket unit does not start beside a service that runs, and one that listens already keeps its addresses.
    print(&format!(
        "to start  {manager} daemon-reload && {manager} stop {SOCKET} {UNIT}; {manager} enable --now {SOCKET} {UNIT}"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Stops the socket unit beside this unit and removes it, when there is one: it would hold the port at the next start of the
/// machine, and start the gateway for whoever connects.
fn remove_socket(scope: Scope, unit: &Path) -> anyhow::Result<()> {
    let file = unit.with_file_name(SOCKET);
    if !file.exists() {
        return Ok(());
    }
    // Where no manager answers, nothing listens.
    if active(scope, SOCKET).is_some() {
        let mut order = systemctl(scope);
        let said = order
            .args(["disable", "--now", SOCKET])
            .output()
            .context("systemctl can't be run")?;
        if !said.status.success() {
            anyhow::bail!(
                "{SOCKET} stays: {} disable --now {SOCKET} failed: {}",
                manager(scope),
                String::from_utf8_lossy(&said.stderr).trim()
            );
        }
    }
    let link = file
        .parent()
        .map(|folder| folder.join("sockets.target.wants").join(SOCKET));
    for path in link.into_iter().chain([file]) {
        match std::fs::remove_file(&path) {
            Ok(()) => print(&format!("removed   {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
        }
    }
    Ok(())
}

/// Whether a socket unit of this gateway listens now, this user's or the machine's.
pub(super) fn socket_listens() -> bool {
    let of = |system| active(Scope { system }, SOCKET).as_deref() == Some("active");
    of(false) || of(true)
}

/// Where a user's own unit is.
pub(super) fn unit_for_user(profile: Option<&str>) -> anyhow::Result<PathBuf> {
    unit_file(profile, Scope { system: false })
}

/// Writes the unit for this user, without a word; answers where it is.
pub(super) fn write_for_user(profile: Option<&str>) -> anyhow::Result<PathBuf> {
    let (_, paths) = environment(profile)?;
    let own = OwnSettings::load(&paths.own_file)?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let unit = Unit {
        program: &program,
        state_dir: &paths.state_dir,
        run_as: None,
        node: may_start_node(&own),
    };
    write(&unit_for_user(profile)?, &unit.text())
}

pub(super) fn write(file: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let folder = file.parent().context("the unit has no folder")?;
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&temporary, text))
        .and_then(|()| std::fs::rename(&temporary, file))
        .with_context(|| {
            format!(
                "cannot write {}; a system service needs root (sudo)",
                file.display()
            )
        })?;
    Ok(file.to_owned())
}

const fn may_start_node(own: &OwnSettings) -> bool {
    matches!(
        own.upstream.mode,
        UpstreamMode::Supervise | UpstreamMode::Auto
    )
}

fn uninstall(profile: Option<&str>, scope: Scope) -> anyhow::Result<ExitCode> {
    let file = unit_file(profile, scope)?;
    let socket = file.with_file_name(SOCKET);
    let mut installed = vec![(SOCKET, &socket), (UNIT, &file)];
    installed.retain(|(_, file)| file.exists());
    if installed.is_empty() {
        complain(&format!("{} is not there", file.display()));
        return Ok(ExitCode::FAILURE);
    }
    let runs = |state: &str| matches!(state, "active" | "activating" | "reloading");
    let mut states = installed.iter().filter_map(|(name, _)| active(scope, name));
    if states.any(|state| runs(&state)) {
        // The socket first: it would start the gateway again for whoever connects.
        let orders: Vec<String> = installed
            .iter()
            .map(|(name, _)| format!("{} disable --now {name}", manager(scope)))
            .collect();
        complain(&format!("it runs; stop it first: {}", orders.join(" && ")));
        return Ok(ExitCode::FAILURE);
    }
    remove_socket(scope, &file)?;
    if file.exists() {
        std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        print(&format!("removed   {}", file.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn status(profile: Option<&str>, scope: Scope, as_json: bool) -> anyhow::Result<ExitCode> {
    let file = unit_file(profile, scope)?;
    let installed = file.exists();
    let state = active(scope, UNIT);
    let has_socket = file.with_file_name(SOCKET).exists();
    let socket = has_socket.then(|| active(scope, SOCKET)).flatten();
    if as_json {
        print(
            &json!({ "unit": file, "installed": installed, "active": state, "socket": socket })
                .to_string(),
        );
        return Ok(ExitCode::SUCCESS);
    }
    let word = if installed { "" } else { " (not installed)" };
    let state = state
        .as_deref()
        .unwrap_or("unknown: systemd does not answer");
    print(&format!(
        "unit      {}{word}\nstate     {state}",
        file.display()
    ));
    if let Some(socket) = socket {
        print(&format!("socket    {socket}"));
    }
    Ok(ExitCode::SUCCESS)
}

const fn manager(scope: Scope) -> &'static str {
    if scope.system {
        "systemctl"
    } else {
        "systemctl --user"
    }
}

fn systemctl(scope: Scope) -> Command {
    let mut command = Command::new("systemctl");
    if !scope.system {
        command.arg("--user");
    }
    command
}

/// As `systemctl is-active` says; `None` where no manager answers.
fn active(scope: Scope, unit: &str) -> Option<String> {
    let said = systemctl(scope).args(["is-active", unit]).output().ok()?;
    let word = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    Some(word).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares what is shipped, or writes it.
    fn check(name: &str, made: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(folder.join(name), made).unwrap();
        }
        let written = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(
            written == made,
            "deploy/systemd/{name} is not in step: run UPDATE_DOCS=1 cargo test -p gateway unit"
        );
    }

    #[test]
    fn the_socket_unit_of_the_package_is_that_of_the_command() {
        let both = ["127.0.0.1:18789", "[::1]:18789"];
        check(
            SOCKET,
            &socket_text(&both.map(|address| address.parse().unwrap())),
        );
    }

    #[test]
    fn the_unit_of_the_package_is_that_of_the_command() {
        let made = Unit {
            program: Path::new("/usr/bin/openclaw-gateway"),
            state_dir: Path::new(SYSTEM_STATE),
            run_as: Some("openclaw"),
            // `upstream.mode` is `auto` by default.
            node: true,
        }
        .text();
        check(UNIT, &made);
    }
}
