//! Child processes: run one with its output in a log, a limit on its time, and signs of life.

use crate::Result;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// How often a running command says that it is still alive.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Between SIGTERM and SIGKILL, for a command that ran past its limit.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Ended {
    pub(crate) ok: bool,
    /// Why it is not ok; empty when it is.
    pub(crate) reason: String,
}

/// Runs `command` with stdout and stderr in `log`, prints a heartbeat with the log's last line, and
/// ends the command with everything it started once `limit` has passed.
pub(crate) fn run(
    label: &str,
    command: &mut Command,
    log: &Path,
    limit: Duration,
) -> Result<Ended> {
    let started = Instant::now();
    let file = create(log)?;
    let errors = file
        .try_clone()
        .map_err(|e| format!("{}: {e}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(|e| format!("{label}: cannot start {}: {e}", show(command)))?;
    let pid = child.id();
    let (tell, exited) = sync_channel(1);
    std::thread::spawn(move || {
        // The receiver outlives this thread in every path below; if not, nobody asks any more.
        drop(tell.send(child.wait()));
    });
    let mut next_sign = started + HEARTBEAT;
    loop {
        let until = next_sign.min(started + limit);
        match exited.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(status) => {
                let status = status.map_err(|e| format!("{label}: waiting: {e}"))?;
                return Ok(ended(status));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(format!("{label}: lost its child")),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if started.elapsed() >= limit {
            end(&tree(pid), &exited);
            return Ok(Ended {
                ok: false,
                reason: format!("still running after {} s, ended", limit.as_secs()),
            });
        }
        eprintln!(
            "    {label}: {} s, {}",
            started.elapsed().as_secs(),
            last_line(log)
        );
        next_sign += HEARTBEAT;
    }
}

fn ended(status: ExitStatus) -> Ended {
    let reason = if status.success() {
        String::new()
    } else {
        status.to_string()
    };
    Ended {
        ok: status.success(),
        reason,
    }
}

fn create(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    File::create(log).map_err(|e| format!("{}: {e}", log.display()))
}

/// The command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// The last `lines` lines of a log, reading no more than 64 KiB of it.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let size = file.metadata().map_or(0, |m| m.len());
        let read = file
            .seek(SeekFrom::Start(size.saturating_sub(64 << 10)))
            .and_then(|_| file.read_to_end(&mut bytes));
        if let Err(error) = read {
            return format!("(cannot read {}: {error})", log.display());
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn last_line(log: &Path) -> String {
    let text = tail(log, 20);
    let line = text
        .lines()
        .rfind(|l| !l.trim().is_empty())
        .unwrap_or("(no output yet)");
    line.trim().chars().take(100).collect()
}

/// `pid` and all its descendants, from /proc.
fn tree(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (child, stat) in proc_files("stat") {
        // "pid (comm) state ppid …"; comm may hold spaces and parentheses.
        let stat = String::from_utf8_lossy(&stat);
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|p| p.parse().ok()) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).unwrap_or_default());
        next += 1;
    }
    found
}

/// Processes whose environment holds `entry` (`NAME=value`): what a suite started and left behind,
/// also after its parent died.
pub(crate) fn with_environment(entry: &str) -> Vec<u32> {
    let own = std::process::id();
    proc_files("environ")
        .filter(|(pid, environ)| {
            *pid != own
                && environ
                    .split(|b| *b == 0)
                    .any(|item| item == entry.as_bytes())
        })
        .map(|(pid, _)| pid)
        .collect()
}

/// The command line of a process, shortened; empty when it is gone.
pub(crate) fn name(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line)
        .replace('\0', " ")
        .trim()
        .chars()
        .take(120)
        .collect()
}

/// The named file of every process we may read; processes that vanish meanwhile are left out.
fn proc_files(name: &'static str) -> impl Iterator<Item = (u32, Vec<u8>)> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(move |entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, fs::read(entry.path().join(name)).ok()?))
        })
}

fn end(pids: &[u32], exited: &Receiver<std::io::Result<ExitStatus>>) {
    signal("-TERM", pids);
    // Either outcome is fine: the second signal finds nobody if the first was obeyed.
    drop(exited.recv_timeout(GRACE));
    signal("-KILL", pids);
    // On a busy machine the kernel takes a moment; what is gone, or waits for its parent to ask, has no environment.
    let lives = |pid: &u32| fs::read(format!("/proc/{pid}/environ")).is_ok_and(|it| !it.is_empty());
    let deadline = Instant::now() + GRACE;
    while pids.iter().any(lives) && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Sends a signal; processes that are gone already are not an error.
pub(crate) fn signal(name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let mut kill = Command::new("kill");
    kill.arg(name).args(pids.iter().map(u32::to_string));
    drop(kill.stdout(Stdio::null()).stderr(Stdio::null()).status());
}

/// The first file called `name` on PATH.
pub(crate) fn on_path(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!(
            "openclaw-rs-xtask-{}-{name}.log",
            std::process::id()
        ))
    }

    #[test]
    fn output_and_exit_status_are_kept() {
        let log = log("status");
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let ended = run("sh", &mut command, &log, Duration::from_secs(20)).expect("sh starts");
        assert!(!ended.ok);
        assert!(ended.reason.contains('3'), "{}", ended.reason);
        assert_eq!(tail(&log, 9), "one\ntwo");
        fs::remove_file(log).expect("the log is there");
    }

    #[test]
    fn a_command_past_its_limit_is_ended_with_its_children() {
        let log = log("limit");
        let mark = format!("OPENCLAW_RS_XTASK_TEST=limit-{}", std::process::id());
        let (name, value) = mark.split_once('=').expect("mark has a value");
        let mut command = Command::new("sh");
        command
            .args(["-c", "sleep 600 & sleep 600"])
            .env(name, value);
        let ended = run("sh", &mut command, &log, Duration::from_millis(300)).expect("sh starts");
        assert!(!ended.ok);
        assert!(ended.reason.contains("ended"), "{}", ended.reason);
        assert_eq!(with_environment(&mark), Vec::<u32>::new());
        fs::remove_file(log).expect("the log is there");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let Err(error) = run(
            "x",
            &mut Command::new("no-such-program"),
            &log("none"),
            Duration::from_secs(1),
        ) else {
            panic!("it must not start");
        };
        assert!(error.contains("no-such-program"), "{error}");
    }
}
