//! A server that is a program of its own: started in a group of its own, ended with all that it started.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::leader::Group;

/// After its input is closed, and then after SIGTERM.
const GRACE: Duration = Duration::from_secs(1);
/// Of what it writes to standard error the end is kept, for the reason why it ended.
const LAST_WORDS_BYTES: usize = 8 * 1024;
/// Lines of it that go to the log, from each start.
const LOGGED_LINES_MAX: usize = 200;

#[derive(Debug)]
pub(super) struct Child {
    group: Group,
    last_words: Arc<Mutex<Vec<u8>>>,
    /// Cancelled when everything that it complained of has been read.
    heard: CancellationToken,
}

/// How a program ended.
#[derive(Debug, Clone)]
pub(super) struct End {
    /// `exit code 1`, `signal 9`.
    pub(super) how: String,
    /// The last line that it wrote to standard error.
    pub(super) complaint: Option<String>,
}

/// A program that runs, with the ends of its pipes.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) output: pipe::Receiver,
    pub(super) input: pipe::Sender,
}

/// Starts a program. `server`: whose log lines it writes.
///
/// # Errors
/// As the system says it.
pub(super) async fn start(
    server: &str,
    (program, args): (&str, &[String]),
    environment: &BTreeMap<String, String>,
    cwd: Option<&Path>,
) -> io::Result<Started> {
    let (their_input, our_input) = io::pipe()?;
    let (our_output, their_output) = io::pipe()?;
    let (our_errors, their_errors) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::from(OwnedFd::from(their_input)))
        .stdout(Stdio::from(OwnedFd::from(their_output)))
        .stderr(Stdio::from(OwnedFd::from(their_errors)));
    if let Some(cwd) = cwd {
        command.current_dir(cwd);
    }
    let group = Group::start("mcp", command).await?;
    let child = Child {
        group,
        last_words: Arc::default(),
        heard: CancellationToken::new(),
    };
    let (errors, heard) = (
        receiver(our_errors.into())?,
        child.heard.clone().drop_guard(),
    );
    let listening = listen(errors, server.to_owned(), Arc::clone(&child.last_words));
    tokio::spawn(async move {
        listening.await;
        drop(heard);
    });
    let our_input = OwnedFd::from(our_input);
    rustix::io::ioctl_fionbio(&our_input, true)?;
    Ok(Started {
        output: receiver(our_output.into())?,
        input: pipe::Sender::from_owned_fd(our_input)?,
        child,
    })
}

fn receiver(end: OwnedFd) -> io::Result<pipe::Receiver> {
    rustix::io::ioctl_fionbio(&end, true)?;
    pipe::Receiver::from_owned_fd(end)
}

/// Reads what it complains of, however much that is.
async fn listen(mut errors: pipe::Receiver, server: String, last_words: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; LAST_WORDS_BYTES];
    let mut logged = 0;
    while let Ok(count @ 1..) = errors.read(&mut buffer).await {
        let read = &buffer[..count];
        if logged < LOGGED_LINES_MAX {
            for line in String::from_utf8_lossy(read).lines() {
                tracing::debug!(server, "{}", line.trim_end());
                logged += 1;
            }
        }
        let mut last_words = last_words.lock();
        last_words.extend_from_slice(read);
        let over = last_words.len().saturating_sub(LAST_WORDS_BYTES);
        last_words.drain(..over);
    }
}

impl Child {
    /// At once, without waiting.
    pub(super) fn kill(&self) {
        self.group.signal(Signal::KILL);
    }

    /// Waits for its end, and brings it about: its input should be closed before. Bounded.
    pub(super) async fn end(&self) {
        for signal in [Signal::TERM, Signal::KILL] {
            if timeout(GRACE, self.group.ended()).await.is_ok() {
                return;
            }
            self.group.signal(signal);
        }
        if timeout(GRACE, self.group.ended()).await.is_err() {
            tracing::warn!(pid = ?self.group.leader, "an MCP server does not end");
        }
    }

    /// How it ended, once it has.
    pub(super) async fn post_mortem(&self) -> Option<End> {
        let status = timeout(GRACE, self.group.ended()).await.ok()??;
        // What it started and left behind may still hold its standard error.
        timeout(GRACE, self.heard.cancelled()).await.ok();
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        let complaint = self.last_line();
        Some(End { how, complaint })
    }

    fn last_line(&self) -> Option<String> {
        let said = self.last_words.lock();
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(
            last.chars()
                .filter(|char| !char.is_control())
                .take(200)
                .collect(),
        )
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}
