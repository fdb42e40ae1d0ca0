//! What a gateway says that no service manager keeps: through a process of this program, which bounds the file.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::cli::api;

/// Of the file, and of the one before it, whose name ends in `.1`.
const BYTES_MAX: u64 = 8 * 1024 * 1024;
/// What was said last is in the file this long after its end.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

/// A process that writes what it is told to the end of a file; it ends when nobody can tell it anything any more.
#[derive(Debug)]
pub(super) struct Keeper {
    process: Child,
    pub(super) file: PathBuf,
}

impl Keeper {
    /// The keeper, and where it is told.
    pub(super) fn start(file: &Path) -> anyhow::Result<(Self, OwnedFd)> {
        // Here, where it can be said why not.
        open(file).with_context(|| format!("cannot write {}", file.display()))?;
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let mut process = Command::new(&program)
            .arg("keep-log")
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What ends this command does not reach it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let told = process.stdin.take().context("a pipe was asked for")?;
        let keeper = Self {
            process,
            file: file.to_owned(),
        };
        Ok((keeper, told.into()))
    }

    /// The last lines of the file, once whoever told them is gone.
    pub(super) fn end(&mut self) -> String {
        let deadline = Instant::now() + WRITTEN_WITHIN;
        while matches!(self.process.try_wait(), Ok(None))
            && Instant::now() < deadline
            && api::pause(Duration::from_millis(10)).is_ok()
        {}
        end_of(&self.file)
    }
}

/// `keep-log FILE`.
pub(in crate::cli) fn keep_log(file: &Path) -> anyhow::Result<ExitCode> {
    keep(&mut std::io::stdin().lock(), file, BYTES_MAX)?;
    Ok(ExitCode::SUCCESS)
}

/// Whoever says something is never kept waiting and never finds nobody: what can't be written is lost.
fn keep(said: &mut impl Read, file: &Path, bytes_max: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut open_file: Option<(File, u64)> = None;
    loop {
        let read = match said.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let written = append(&mut open_file, file, &buffer[..read], bytes_max);
        if written.is_err() {
            // A full disk, or a folder that went: tried again with what comes next.
            open_file = None;
        }
    }
}

fn append(
    kept: &mut Option<(File, u64)>,
    file: &Path,
    bytes: &[u8],
    bytes_max: u64,
) -> std::io::Result<()> {
    let (mut out, mut size) = match kept.take() {
        Some(open_file) => open_file,
        None => open(file)?,
    };
    let length = bytes.len() as u64;
    if size > 0 && size + length > bytes_max {
        fs::rename(file, before(file))?;
        (out, size) = open(file)?;
    }
    out.write_all(bytes)?;
    *kept = Some((out, size + length));
    Ok(())
}

/// The file before this one.
fn before(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// To be written at its end, and what it holds already, bytes.
fn open(file: &Path) -> std::io::Result<(File, u64)> {
    let open_file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(file)?;
    let size = open_file.metadata()?.len();
    Ok((open_file, size))
}

/// The last lines of a log.
fn end_of(log: &Path) -> String {
    const LINES_MAX: usize = 8;
    const TAIL: u64 = 4096;
    let tail = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let from = file.metadata()?.len().saturating_sub(TAIL);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = tail().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says one line at a time, as a program does.
    struct Lines(Vec<String>);

    impl Read for Lines {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let Some(line) = self.0.pop() else {
                return Ok(0);
            };
            buffer[..line.len()].copy_from_slice(line.as_bytes());
            Ok(line.len())
        }
    }

    #[test]
    fn a_log_is_two_bounded_files_one_going_on_where_the_other_ends() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("gateway.log");
        let lines: Vec<String> = (0..1000).rev().map(|n| format!("line {n}\n")).collect();
        keep(&mut Lines(lines), &log, 1000).expect("kept");
        let read = |file: &Path| fs::read_to_string(file).expect("a file");
        let (last, former) = (read(&log), read(&before(&log)));
        assert!(last.len() <= 1000 && former.len() <= 1000);
        assert!(last.ends_with("line 999\n"));
        let first = last
            .lines()
            .next()
            .and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
        let expected = format!("line {}\n", first.expect("a line") - 1);
        assert!(former.ends_with(&expected), "{former}");
        assert!(former.starts_with("line "));
        assert_eq!(end_of(&log).lines().count(), 8);
        // What was there is gone on with.
        keep(&mut Lines(vec!["more\n".to_owned()]), &log, 1000).expect("kept");
        assert!(read(&log).ends_with("line 999\nmore\n"));
    }

    #[test]
    fn what_can_t_be_written_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("gone/gateway.log");
        let lines = vec!["two\n".to_owned(), "one\n".to_owned()];
        keep(&mut Lines(lines), &log, 1000).expect("read to the end");
        assert!(!log.exists());
    }
}
