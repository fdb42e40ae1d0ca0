//! A gateway as a process: found by OpenClaw's lock, asked to stop, started again as it was.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use serde::Deserialize;

use crate::cli::api;
use crate::config::Env;
use crate::procfs::{self, Holder};

/// After SIGKILL it is gone within this, or never.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

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

    /// Starts a program here that outlives this command; what it says goes to the end of `log`.
    pub(super) fn start(
        &self,
        program: &Path,
        args: &[impl AsRef<OsStr>],
        log: &Path,
    ) -> anyhow::Result<()> {
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let errors = file.try_clone()?;
        // A group of its own: what ends this command does not reach it.
        Command::new(program)
            .args(args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(())
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
        procfs::tree(self.pid).is_some_and(|tree| tree.resident_bytes > 0)
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
            let deadline = Instant::now() + within;
            while Instant::now() < deadline {
                if !self.lives() {
                    return Ok(());
                }
                api::pause(Duration::from_millis(20))?;
            }
        }
        bail!("process {} does not end", self.pid)
    }
}

/// Who holds OpenClaw's lock of this state directory, when that lives and is OpenClaw's gateway.
/// Source: docs/gateway/gateway-lock.md at 2026.9.6, and the file of a running one.
pub(super) fn locked_by(state_dir: &Path) -> Option<u32> {
    #[derive(Deserialize)]
    struct Lock {
        pid: u32,
    }
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
    (is_original && !is_ours).then_some(lock.pid)
}
