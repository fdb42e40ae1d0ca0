//! A child that a killed gateway left behind: remembered in a file, ended before the next one starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::child::kill_group;

/// How long an orphan may take to end after SIGKILL.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// The child we started last. `started` tells it from a later process with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pid: u32,
    started: String,
}

/// Where the child in charge is remembered.
#[derive(Debug)]
pub(super) struct Memory {
    file: PathBuf,
}

impl Memory {
    pub(super) fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into() }
    }

    /// Remembers a child. Failing to is logged: it only matters after a kill -9 of ours.
    pub(super) async fn remember(&self, pid: u32) {
        let Some(started) = start_identity(pid).await else {
            return;
        };
        let record = Record { pid, started };
        let written = serde_json::to_vec(&record)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(&self.file, text));
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "cannot remember the openclaw process");
        }
    }

    /// The child is gone.
    pub(super) fn forget(&self) {
        if let Err(error) = std::fs::remove_file(&self.file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %self.file.display(), %error, "cannot forget the openclaw process");
        }
    }

    /// Ends the remembered child if it still runs, with everything it started.
    pub(super) async fn end_orphan(&self) {
        let Some(record) = read(&self.file) else {
            return;
        };
        let same = start_identity(record.pid).await.as_deref() == Some(&record.started);
        let pid = i32::try_from(record.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| same) {
            tracing::warn!(
                pid = record.pid,
                "ending an openclaw process that an earlier run of this gateway left behind"
            );
            kill_group(pid, Signal::KILL);
            let gone = async {
                while rustix::process::test_kill_process(pid).is_ok()
                    && start_identity(record.pid).await.as_deref() == Some(&record.started)
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            if tokio::time::timeout(KILL_WAIT, gone).await.is_err() {
                tracing::error!(
                    pid = record.pid,
                    "it does not end; starting another may have to wait for its lock"
                );
            }
        }
        self.forget();
    }
}

fn read(file: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// When a process started, in words that are never repeated for the same number; none when it does not run.
#[cfg(target_os = "linux")]
async fn start_identity(pid: u32) -> Option<String> {
    let stat = tokio::fs::read_to_string(format!("/proc/{pid}/stat"))
        .await
        .ok()?;
    // The command's name, in parentheses, may hold anything. State and start time are fields 3 and 22.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let state = *fields.first()?;
    (state != "Z")
        .then(|| fields.get(19).map(|ticks| (*ticks).to_owned()))
        .flatten()
}

#[cfg(not(target_os = "linux"))]
async fn start_identity(pid: u32) -> Option<String> {
    let output = tokio::process::Command::new("ps")
        .args(["-o", "lstart=", "-p", &pid.to_string()])
        .output()
        .await
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;

    use super::*;

    #[tokio::test]
    async fn an_orphan_and_what_it_started_are_ended() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(folder.path().join("child.json"));
        let mut orphan = std::process::Command::new("sh")
            .args(["-c", "sleep 600 & wait"])
            .process_group(0)
            .spawn()
            .unwrap();
        memory.remember(orphan.id()).await;
        // Its parent must collect it, or it stays a zombie.
        let collected = tokio::task::spawn_blocking(move || orphan.wait().unwrap());
        memory.end_orphan().await;
        assert!(!collected.await.unwrap().success());
        assert!(!memory.file.exists());
    }

    #[tokio::test]
    async fn another_process_with_the_same_number_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(folder.path().join("child.json"));
        let mut other = std::process::Command::new("sleep")
            .arg("600")
            .process_group(0)
            .spawn()
            .unwrap();
        memory.remember(other.id()).await;
        let mut record = read(&memory.file).unwrap();
        record.started.push('1');
        std::fs::write(&memory.file, serde_json::to_vec(&record).unwrap()).unwrap();
        memory.end_orphan().await;
        assert!(other.try_wait().unwrap().is_none(), "it still runs");
        assert!(!memory.file.exists());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
