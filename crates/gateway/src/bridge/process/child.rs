//! One run of the child: its own process group, its output in our log, and no way to outlive us.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{oneshot, watch};

use super::output::Output;
use crate::bridge::Secret;

/// Longest line of the child's output that is logged whole.
const LINE_BYTES_MAX: usize = 4096;
/// Lines kept for telling why it ended.
const TAIL_LINES_MAX: usize = 12;
/// How long a process group may take to end after SIGKILL.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// Variables by which OpenClaw believes that systemd, launchd or a task scheduler restarts it. They may be true of us,
/// and are never true of our child.
/// Source: src/infra/supervisor-markers.ts at 2026.9.6.
const SUPERVISOR_HINTS: [&str; 12] = [
    "OPENCLAW_SUPERVISOR_MODE",
    "LAUNCH_JOB_LABEL",
    "LAUNCH_JOB_NAME",
    "XPC_SERVICE_NAME",
    "OPENCLAW_LAUNCHD_LABEL",
    "OPENCLAW_SYSTEMD_UNIT",
    "INVOCATION_ID",
    "SYSTEMD_EXEC_PID",
    "JOURNAL_STREAM",
    "OPENCLAW_WINDOWS_TASK_NAME",
    "OPENCLAW_SERVICE_MARKER",
    "OPENCLAW_SERVICE_KIND",
];

/// The service manager's socket and watchdog are for us alone: a child that said READY or STOPPING would say it of us.
const MANAGER_VARIABLES: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// Variables of a service that are not true of a process that this program starts.
pub(crate) fn service_variables() -> impl Iterator<Item = &'static str> {
    SUPERVISOR_HINTS.into_iter().chain(MANAGER_VARIABLES)
}

/// What to start.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    /// The Node binary.
    pub program: PathBuf,
    /// `openclaw.mjs gateway run …`.
    pub args: Vec<OsString>,
    /// Added to our own environment, without what would make the child think it has another supervisor.
    pub env: Vec<(OsString, OsString)>,
    /// Variables of ours the child must not see.
    pub env_remove: Vec<OsString>,
    pub cwd: PathBuf,
    /// Where it will listen, on 127.0.0.1.
    pub port: u16,
    /// The token it accepts.
    pub token: Secret,
}

impl ChildSpec {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            // docs/gateway/embedding.md: restarts stay in the process we watch; discovery is ours; a login shell's
            // snapshot would start a second Node in our name.
            .env("OPENCLAW_NO_RESPAWN", "1")
            .env("OPENCLAW_DISABLE_BONJOUR", "1")
            .env("NO_COLOR", "1");
        for name in service_variables() {
            command.env_remove(name);
        }
        for name in &self.env_remove {
            command.env_remove(name);
        }
        for (name, value) in &self.env {
            command.env(name, value);
        }
        command
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or_default()),
        }
    }

    /// Ended because somebody asked it to: it closed itself, or it was asked before it listened for signals.
    pub(super) fn on_request(self) -> bool {
        matches!(self, Self::Code(0))
            || self == Self::Signal(Signal::TERM.as_raw())
            || self == Self::Signal(Signal::INT.as_raw())
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

/// A started child. Dropping it kills its group.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    exited: watch::Receiver<Option<Exit>>,
    /// Whether the group may be signalled: false before the pid can be anybody else's.
    group: Arc<Mutex<bool>>,
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts a child. Its output goes to the log, target `openclaw`.
    ///
    /// # Errors
    /// When it can't be started.
    pub(super) async fn start(spec: &ChildSpec, output: &Arc<Output>) -> io::Result<Self> {
        let mut command = spec.command();
        let (started, starting) = oneshot::channel();
        let (ended, exited) = watch::channel(None);
        let group = Arc::new(Mutex::new(true));
        let signalled = Arc::clone(&group);
        // A thread of its own, for as long as the child lives: Linux sends the parent-death signal when the thread that
        // started the child ends, so it must not be one that a pool may retire.
        std::thread::Builder::new()
            .name("openclaw-child".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                die_with_parent(&mut command);
                let mut child = match command.spawn() {
                    Ok(child) => child,
                    Err(error) => {
                        // Nobody waiting means that the start was given up.
                        drop(started.send(Err(error)));
                        return;
                    }
                };
                let pid = Pid::from_child(&child);
                drop(started.send(Ok((pid, child.stdout.take(), child.stderr.take()))));
                // First only look: while it is a zombie its number is nobody else's, and its group can be ended.
                while rustix::process::waitid(
                    WaitId::Pid(pid),
                    WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
                )
                .is_err_and(|error| error == rustix::io::Errno::INTR)
                {}
                {
                    let mut may_signal = signalled.lock();
                    *may_signal = false;
                    kill_group(pid, Signal::KILL);
                }
                let exit = child.wait().map_or(Exit::Code(-1), Exit::of);
                ended.send_replace(Some(exit));
            })?;
        let (pid, stdout, stderr) = starting
            .await
            .map_err(|_gone| io::Error::other("the thread that starts the child ended"))??;
        let tail = Arc::new(Mutex::new(VecDeque::with_capacity(TAIL_LINES_MAX)));
        let child = Self {
            pid,
            exited,
            group,
            tail: Arc::clone(&tail),
        };
        output.started();
        let sink = |stream| Sink {
            stream,
            pid: child.pid(),
            token: spec.token.clone(),
            tail: Arc::clone(&tail),
            output: Arc::clone(output),
        };
        if let Some(stdout) = stdout {
            let stdout = tokio::process::ChildStdout::from_std(stdout)?;
            tokio::spawn(log_lines(stdout, sink("stdout")));
        }
        if let Some(stderr) = stderr {
            let stderr = tokio::process::ChildStderr::from_std(stderr)?;
            tokio::spawn(log_lines(stderr, sink("stderr")));
        }
        Ok(child)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Resolves when the child has ended and its group was killed. Cancel-safe.
    pub(super) async fn exited(&mut self) -> Exit {
        match self.exited.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Code(-1)),
            Err(_thread_gone) => Exit::Code(-1),
        }
    }

    /// SIGTERM, then SIGKILL to the whole group after `grace`.
    pub(super) async fn stop(&mut self, grace: Duration) -> Exit {
        if *self.group.lock() {
            ignore_gone(rustix::process::kill_process(self.pid, Signal::TERM));
        }
        if let Ok(exit) = tokio::time::timeout(grace, self.exited()).await {
            return exit;
        }
        tracing::warn!(
            pid = self.pid(),
            ?grace,
            "openclaw did not stop in time; killing it and what it started"
        );
        self.kill();
        tokio::time::timeout(KILL_WAIT, self.exited())
            .await
            .unwrap_or_else(|_elapsed| {
                tracing::error!(pid = self.pid(), "openclaw does not end even after SIGKILL");
                Exit::Signal(Signal::KILL.as_raw())
            })
    }

    /// SIGKILL to the whole group, now.
    pub(super) fn kill(&self) {
        let may_signal = self.group.lock();
        if *may_signal {
            kill_group(self.pid, Signal::KILL);
        }
    }

    /// The last lines it wrote, oldest first.
    pub(super) fn last_output(&self) -> Vec<String> {
        self.tail.lock().iter().cloned().collect()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes the kernel kill the child when we die, however we die.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(
    unsafe_code,
    reason = "a parent-death signal can only be asked for between fork and exec"
)]
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: the closure runs in the forked child before exec, where only async-signal-safe calls are allowed. It makes
    // two system calls (prctl, getppid), allocates nothing, takes no lock and touches no memory but its own copy of
    // `parent`. The io::Error made from an errno holds no allocation.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // We may have died before the line above: then the signal was missed.
            if rustix::process::getppid() != Some(parent) {
                return Err(rustix::io::Errno::SRCH.into());
            }
            Ok(())
        });
    }
}

/// Elsewhere a child can outlive a killed parent; the next start ends it (see `orphan`).
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn die_with_parent(_command: &mut Command) {}

pub(super) fn kill_group(leader: Pid, signal: Signal) {
    ignore_gone(rustix::process::kill_process_group(leader, signal));
}

fn ignore_gone(result: rustix::io::Result<()>) {
    if let Err(error) = result
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(%error, "cannot signal openclaw");
    }
}

/// Where lines of one stream go.
struct Sink {
    stream: &'static str,
    pid: u32,
    token: Secret,
    tail: Arc<Mutex<VecDeque<String>>>,
    output: Arc<Output>,
}

/// Logs line by line until the stream ends. A longer line is cut; its rest is read and counted, so that the child never
/// waits for us.
async fn log_lines(mut stream: impl AsyncRead + Unpin, sink: Sink) {
    let mut line = Vec::with_capacity(256);
    let mut cut = 0_usize;
    let mut chunk = [0; 4096];
    loop {
        let read = match stream.read(&mut chunk).await {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, stream = sink.stream, "cannot read openclaw's output");
                break;
            }
        };
        let mut rest = &chunk[..read];
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            take(&mut line, &mut cut, &rest[..end]);
            log_line(&mut line, &mut cut, &sink);
            rest = &rest[end + 1..];
        }
        take(&mut line, &mut cut, rest);
    }
    if !line.is_empty() {
        log_line(&mut line, &mut cut, &sink);
    }
}

fn take(line: &mut Vec<u8>, cut: &mut usize, bytes: &[u8]) {
    let room = LINE_BYTES_MAX - line.len();
    let (kept, dropped) = bytes.split_at(bytes.len().min(room));
    line.extend_from_slice(kept);
    *cut += dropped.len();
}

fn log_line(line: &mut Vec<u8>, cut: &mut usize, sink: &Sink) {
    let (stream, token) = (sink.stream, &sink.token);
    let mut text = String::from_utf8_lossy(line).trim_end().to_owned();
    if !token.expose().is_empty() && text.contains(token.expose()) {
        text = text.replace(token.expose(), "***");
    }
    if *cut > 0 {
        text.push_str(&format!(" … ({cut} more bytes)"));
    }
    line.clear();
    *cut = 0;
    if text.is_empty() {
        return;
    }
    tracing::info!(target: "openclaw", stream, "{text}");
    sink.output.push(sink.pid, stream, text.clone());
    let mut tail = sink.tail.lock();
    if tail.len() == TAIL_LINES_MAX {
        tail.pop_front();
    }
    tail.push_back(text);
}
