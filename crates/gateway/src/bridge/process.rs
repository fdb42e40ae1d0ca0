//! Runs the TypeScript gateway as a child: start, readiness, restart after a crash, orderly stop.
//!
//! The child leads a process group of its own, so that its helpers go with it, and dies with us even when we are
//! killed. Its output is our log, target `openclaw`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::{Ready, Secret, UpstreamState, attach};

/// Longest output line that is logged whole, bytes.
const LOG_LINE_BYTES_MAX: usize = 4 * 1024;
/// Pause before a restart: doubled after each early death, from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// A child that lived this long was well: the back-off starts anew.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Exit code of a configuration error; restarting would not help.
/// Source: docs/gateway/embedding.md of the package.
const EXIT_CONFIG: i32 = 78;

/// How to start the child.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Where it will listen; loopback.
    pub address: SocketAddr,
    pub token: Secret,
    pub version: Option<String>,
    pub start_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub stop_timeout: Duration,
}

/// Keeps the child running and `state` true until `stop` turns true; returns when the child is gone.
pub async fn supervise(
    spec: ChildSpec,
    state: watch::Sender<UpstreamState>,
    mut stop: watch::Receiver<bool>,
) {
    let mut backoff = BACKOFF.0;
    let mut epoch = 0;
    while !*stop.borrow() {
        state.send_replace(UpstreamState::Starting);
        let started = Instant::now();
        let mut child = match spawn(&spec) {
            Ok(child) => child,
            Err(error) => {
                let why = format!("cannot start {}: {error}", spec.program.display());
                tracing::error!(%why, "OpenClaw was not started; check [upstream] command in openclaw-gateway.toml");
                state.send_replace(UpstreamState::Stopped { why });
                return;
            }
        };
        let pid = child.id();
        tracing::info!(pid, address = %spec.address, "OpenClaw is starting");
        epoch += 1;
        let exit = tokio::select! {
            exit = run(&spec, &mut child, pid, epoch, &state) => exit,
            () = stopped(&mut stop) => {
                state.send_replace(UpstreamState::Stopped { why: "this gateway is stopping".to_owned() });
                end(&mut child, spec.stop_timeout).await;
                return;
            }
        };
        // Whatever it left behind would hold its port and its locks.
        kill_group(pid, libc::SIGKILL);
        match exit {
            Some(0) => {
                tracing::info!(
                    "OpenClaw ended in order; it was stopped by a person and stays stopped"
                );
                state.send_replace(UpstreamState::Stopped {
                    why: "stopped by `openclaw gateway stop` or a signal".to_owned(),
                });
                return;
            }
            Some(EXIT_CONFIG) => {
                tracing::error!(
                    "OpenClaw refuses its configuration; run `openclaw doctor --fix`, then restart this gateway"
                );
                state.send_replace(UpstreamState::Stopped {
                    why: "OpenClaw refuses its configuration (exit 78)".to_owned(),
                });
                return;
            }
            code => {
                if started.elapsed() > STABLE_AFTER {
                    backoff = BACKOFF.0;
                }
                let why = code.map_or("killed by a signal".to_owned(), |code| {
                    format!("exited with {code}")
                });
                tracing::warn!(%why, pause = ?backoff, "OpenClaw ended unexpectedly; restarting it");
                state.send_replace(UpstreamState::Down { why });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = stopped(&mut stop) => return,
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Resolves once stopping is asked for, or whoever could ask is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// Waits for readiness, then for the end. Answers the exit code, `None` for a signal.
async fn run(
    spec: &ChildSpec,
    child: &mut Child,
    pid: Option<u32>,
    epoch: u64,
    state: &watch::Sender<UpstreamState>,
) -> Option<i32> {
    let readiness = async {
        let deadline = Instant::now() + spec.start_timeout;
        let mut pause = Duration::from_millis(20);
        while Instant::now() < deadline {
            if attach::is_ready(spec.address).await.unwrap_or(false) {
                return true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(200));
        }
        false
    };
    tokio::pin!(readiness);
    let exit = tokio::select! {
        status = child.wait() => status,
        ready = readiness => {
            if ready {
                tracing::info!(pid, address = %spec.address, epoch, "OpenClaw is ready");
                let ready = Ready::new(spec.address, spec.token.clone(), pid, spec.version.clone(), epoch);
                state.send_replace(UpstreamState::Ready(ready));
            } else {
                tracing::error!(after = ?spec.start_timeout, "OpenClaw did not become ready; ending it");
                kill_group(pid, libc::SIGKILL);
            }
            child.wait().await
        }
    };
    exit.ok().and_then(|status| status.code())
}

fn spawn(spec: &ChildSpec) -> std::io::Result<Child> {
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    die_with_us(&mut command);
    let mut child = command.spawn()?;
    if let Some(output) = child.stdout.take() {
        tokio::spawn(log(output, false));
    }
    if let Some(output) = child.stderr.take() {
        tokio::spawn(log(output, true));
    }
    Ok(child)
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "the kernel's parent-death signal can only be asked for between fork and exec"
)]
fn die_with_us(command: &mut Command) {
    // SAFETY: prctl with PR_SET_PDEATHSIG is async-signal-safe and touches nothing but the new process.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) == -1 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_us(_command: &mut Command) {}

#[expect(
    unsafe_code,
    reason = "the standard library cannot signal a process group"
)]
fn kill_group(pid: Option<u32>, signal: i32) {
    let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) else {
        return;
    };
    // SAFETY: kill takes two integers; the worst outcome is ESRCH.
    unsafe {
        libc::kill(-pid, signal);
    }
}

/// SIGTERM, then SIGKILL for the whole group at the deadline.
async fn end(child: &mut Child, timeout: Duration) {
    let pid = child.id();
    if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) {
        terminate(pid);
    }
    if tokio::time::timeout(timeout, child.wait()).await.is_err() {
        tracing::warn!(?timeout, "OpenClaw did not stop in time; killing it");
    }
    kill_group(pid, libc::SIGKILL);
    // Reaps it; after SIGKILL this is immediate.
    if let Err(error) = child.wait().await {
        tracing::debug!(%error, "the child was already reaped");
    }
}

#[expect(unsafe_code, reason = "the standard library can only send SIGKILL")]
fn terminate(pid: i32) {
    // SAFETY: as in kill_group. Only the gateway itself: it stops its helpers in order.
    unsafe {
        libc::kill(pid, libc::SIGTERM);
    }
}

async fn log(output: impl AsyncRead + Unpin, is_error: bool) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                line.truncate(LOG_LINE_BYTES_MAX);
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end();
                if is_error {
                    tracing::warn!(target: "openclaw", "{text}");
                } else {
                    tracing::info!(target: "openclaw", "{text}");
                }
            }
        }
    }
}
