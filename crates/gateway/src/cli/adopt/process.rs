//! A gateway as a process: found by OpenClaw's lock, asked to stop, started again as it was.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use serde::Deserialize;

use crate::bridge::process::service_variables;
use crate::cli::{api, print};
use crate::config::Env;
use crate::procfs::{self, Holder};

/// After SIGKILL it is gone within this, or never.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
/// Between two words about one that takes its time.
const TOLD_EVERY: Duration = Duration::from_secs(15);

/// Where and with which variables a process runs.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
}

impl Surroundings {
    /// Those of this command.
    pub(super) fn own() -> Self {
        Self {
            env: std::env::vars_os().collect(),
            cwd: std::env::current_dir().unwrap_or_else(|_gone| PathBuf::from("/")),
        }
    }

    pub(super) fn env(&self) -> Env {
        Env::from_pairs(self.env.iter().filter_map(|(name, value)| {
            Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()))
        }))
    }

    /// Variables that look like secrets and are not in `there`.
    pub(super) fn secrets_beyond(&self, there: &Env) -> Vec<String> {
        const ENDS: [&str; 4] = ["_KEY", "_TOKEN", "_SECRET", "_PASSWORD"];
        let own = self.env();
        let names = own.iter().filter(|(name, value)| {
            !value.is_empty()
                && ENDS.iter().any(|end| name.ends_with(end))
                && there.get(name).is_none()
        });
        names.map(|(name, _)| name.to_owned()).collect()
    }

    /// Starts a program here that outlives this command and that no service manager keeps; what it says goes to `log`.
    pub(super) fn start(
        &self,
        program: &Path,
        args: &[impl AsRef<OsStr>],
        log: OwnedFd,
    ) -> anyhow::Result<Child> {
        let errors = log.try_clone()?;
        let mut command = Command::new(program);
        // A group of its own: what ends this command does not reach it.
        command
            .args(args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        // Those of the service that ran here before.
        for name in service_variables() {
            command.env_remove(name);
        }
        command
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))
    }
}

/// A process that runs.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) pid: u32,
    pub(super) surroundings: Surroundings,
}

impl Running {
    /// # Errors
    /// When it is another user's, or gone.
    pub(super) fn read(pid: u32) -> anyhow::Result<Self> {
        let of = |what: &str| PathBuf::from(format!("/proc/{pid}/{what}"));
        let env = fs::read(of("environ")).with_context(|| {
            format!("cannot look at process {pid}: run this as the user that it belongs to")
        })?;
        let env = env
            .split(|byte| *byte == 0)
            .filter_map(|pair| {
                let at = pair.iter().position(|byte| *byte == b'=')?;
                let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
                Some((part(&pair[..at]), part(&pair[at + 1..])))
            })
            .collect();
        Ok(Self {
            pid,
            surroundings: Surroundings {
                env,
                cwd: fs::read_link(of("cwd")).unwrap_or_else(|_gone| PathBuf::from("/")),
            },
        })
    }

    pub(super) fn lives(&self) -> bool {
        lives(self.pid)
    }

    /// The service that it belongs to. One that this command runs in, too, is not about gateways: a terminal's, a build's.
    pub(super) fn service(&self) -> Option<Service> {
        let of = |pid: &str| Service::of(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?);
        let own = of("self");
        of(&self.pid.to_string()).filter(|service| own.as_ref() != Some(service))
    }

    /// Asks it to stop and waits until it is gone, then kills it.
    pub(super) fn end(&self, within: Duration) -> anyhow::Result<()> {
        for (signal, within) in [(Signal::TERM, within), (Signal::KILL, KILLED_WITHIN)] {
            let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
            let pid = pid.context("no process number")?;
            match rustix::process::kill_process(pid, signal) {
                Err(rustix::io::Errno::SRCH) => return Ok(()),
                sent => sent.with_context(|| format!("cannot stop process {}", self.pid))?,
            }
            let began = Instant::now();
            let mut told = began;
            while began.elapsed() < within {
                if !self.lives() {
                    return Ok(());
                }
                if told.elapsed() >= TOLD_EVERY {
                    told = Instant::now();
                    print(&format!(
                        "   process {} finishes what it does: {} of {} s",
                        self.pid,
                        began.elapsed().as_secs(),
                        within.as_secs()
                    ));
                }
                api::pause(Duration::from_millis(20))?;
            }
        }
        bail!("process {} does not end", self.pid)
    }
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything. One that ended may wait long for somebody to take notice.
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Ends what this command started, with its whole group: it is asked to stop, then what is left is killed.
pub(super) fn end_group(child: &mut Child, within: Duration) {
    let group = Pid::from_child(child);
    // Until it is waited for, its number is nobody else's.
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    for (signal, within) in [(Signal::TERM, within), (Signal::KILL, KILLED_WITHIN)] {
        // What is gone needs no signal.
        rustix::process::kill_process_group(group, signal).ok();
        let began = Instant::now();
        while lives(child.id())
            && began.elapsed() < within
            && api::pause(Duration::from_millis(20)).is_ok()
        {}
    }
    child.try_wait().ok();
}

/// A service of systemd.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: String,
    /// A user's manager keeps it, not the machine's.
    pub(super) is_users: bool,
}

impl Service {
    /// By `/proc/<pid>/cgroup`: systemd's tree is the named one of cgroups 1, or that of cgroups 2. A session, a terminal's scope
    /// and a program of the desktop (`app-`, which is not started again) keep no gateway. Source: cgroups(7), systemd.slice(5).
    fn of(cgroups: &str) -> Option<Self> {
        let named = cgroups
            .lines()
            .find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path));
        let path = named.or_else(|| cgroups.lines().find_map(|line| line.strip_prefix("0::")))?;
        let name = path.rsplit('/').find(|part| !part.is_empty())?;
        name.strip_suffix(".service")?;
        if name.starts_with("user@") || name.starts_with("app-") {
            return None;
        }
        Some(Self {
            name: name.to_owned(),
            is_users: path.contains("/user@"),
        })
    }
}

/// OpenClaw's lock of a state directory.
#[derive(Debug, Deserialize)]
pub(super) struct Lock {
    pub(super) pid: u32,
    pub(super) port: Option<u16>,
}

/// The lock of this state directory, when its holder lives and is OpenClaw's gateway.
/// Source: docs/gateway/gateway-lock.md at 2026.9.6, and the file of a running one.
pub(super) fn lock_of(state_dir: &Path) -> Option<Lock> {
    /// A lock has a dozen short lines.
    const BYTES_MAX: usize = 64 * 1024;
    let user = rustix::process::getuid().as_raw();
    let file = state_dir.join(format!("tmp/openclaw-{user}/gateway.state.lock"));
    let text = fs::read_to_string(file).ok()?;
    if text.len() > BYTES_MAX {
        return None;
    }
    let lock: Lock = serde_json::from_str(&text).ok()?;
    // A child of ours has the lock of its state directory too, and goes with us.
    let parent = procfs::parent_of(lock.pid)?;
    let is_ours = matches!(procfs::process(parent), Some(Holder::Us(_)));
    let is_original = matches!(procfs::process(lock.pid), Some(Holder::OpenClaw(_)));
    (is_original && !is_ours).then_some(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_told_from_a_session_and_a_terminal() {
        let check = |cgroups: &str, expected: Option<(&str, bool)>| {
            let service = Service::of(cgroups);
            let seen = service.as_ref();
            let seen = seen.map(|service| (service.name.as_str(), service.is_users));
            assert_eq!(seen, expected, "{cgroups}");
        };
        let user = "0::/user.slice/user-1000.slice";
        check(
            "0::/system.slice/claw.service\n",
            Some(("claw.service", false)),
        );
        check(
            &format!("{user}/user@1000.service/app.slice/claw.service\n"),
            Some(("claw.service", true)),
        );
        check(
            "2:cpu:/\n1:name=systemd:/system.slice/claw.service\n0::/\n",
            Some(("claw.service", false)),
        );
        for by_hand in [
            "/session-3.scope",
            "/user@1000.service",
            "/user@1000.service/app.slice/vte-spawn-1.scope",
            "/user@1000.service/app.slice/app-org.kde.konsole@1.service",
        ] {
            check(&format!("{user}{by_hand}\n"), None);
        }
        check("0::/\n", None);
        check("", None);
    }

    #[test]
    fn what_is_given_up_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("log");
        let said = fs::File::create(&log).expect("a file");
        let script = "sleep 1000 & echo $!; wait";
        let mut child = Surroundings::own()
            .start(Path::new("/bin/sh"), &["-c", script], said.into())
            .expect("started");
        let grandchild = loop {
            let said = fs::read_to_string(&log).expect("a file");
            if let Some(pid) = said.strip_suffix('\n') {
                break pid.parse::<u32>().expect("a number");
            }
            api::pause(Duration::from_millis(5)).expect("a pause");
        };
        assert!(lives(grandchild));
        end_group(&mut child, KILLED_WITHIN);
        assert!(!matches!(child.try_wait(), Ok(None)));
        let began = Instant::now();
        while lives(grandchild) && began.elapsed() < KILLED_WITHIN {
            api::pause(Duration::from_millis(5)).expect("a pause");
        }
        assert!(!lives(grandchild));
    }

    #[test]
    fn what_is_started_by_hand_knows_of_no_service() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("log");
        let said = fs::File::create(&log).expect("a file");
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let surroundings = Surroundings {
            env: vec![
                pair("INVOCATION_ID", "x"),
                pair("NOTIFY_SOCKET", "/x"),
                pair("KEPT", "yes"),
            ],
            cwd: dir.path().to_owned(),
        };
        let script = "echo ${INVOCATION_ID-none} ${NOTIFY_SOCKET-none} $KEPT; exit 3";
        let mut child = surroundings
            .start(Path::new("/bin/sh"), &["-c", script], said.into())
            .expect("started");
        assert_eq!(child.wait().expect("ended").code(), Some(3));
        let said = fs::read_to_string(&log).expect("a file");
        assert_eq!(said, "none none yes\n");
    }
}
