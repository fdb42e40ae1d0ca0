//! The process that holds the route: `tailscale serve|funnel --yes --bg=false <port>`.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;

use super::command::Tailscale;
use super::routes;
use crate::leader::Group;

/// Printed once the route is there. Source: src/infra/tailscale-route-owner.worker.ts at 2026.9.6, as the times.
const HELD: &str = "Press Ctrl+C to exit.";
const START_WAIT: Duration = Duration::from_secs(15);
/// After SIGTERM.
const STOP_WAIT: Duration = Duration::from_secs(2);
/// Of what it prints the end is kept.
const SAID_BYTES_MAX: usize = 16 * 1024;

/// Dies with this gateway; ends when it is released or dropped.
pub(crate) struct Claim {
    group: Group,
    said: watch::Receiver<String>,
    /// Held open as long as the route is to be.
    input: Option<io::PipeWriter>,
}

/// Takes the route to `target` on 127.0.0.1. `port`: of the ordinary listener, whose route an older OpenClaw may have
/// left behind.
///
/// # Errors
/// Why not, and what to do.
pub(super) async fn take(
    tailscale: &mut Tailscale,
    word: &str,
    target: u16,
    port: u16,
) -> Result<Claim, String> {
    match take_as(tailscale, word, target, port).await {
        Err(why) if is_denied(&why) => {
            let root = tailscale.by_sudo();
            let by_root = take_as(&root, word, target, port).await;
            let claim = by_root.map_err(|of_sudo| {
                format!(
                    "{why}; with sudo: {of_sudo}. Run once: sudo tailscale set --operator=$USER"
                )
            })?;
            *tailscale = root;
            Ok(claim)
        }
        outcome => outcome,
    }
}

async fn take_as(
    tailscale: &Tailscale,
    word: &str,
    target: u16,
    port: u16,
) -> Result<Claim, String> {
    tailscale.wait_for_daemon().await;
    let status = tailscale.json(&["serve", "status", "--json"]).await;
    let status = status.map_err(|error| error.to_string())?;
    if routes::is_left_by_openclaw(&status, port) {
        let off = ["serve", "--yes", "--https=443", "--set-path=/", "off"];
        let off = tailscale.ask(&off, Duration::from_secs(5)).await;
        off.map_err(|error| {
            format!("the route of an earlier OpenClaw cannot be taken over: {error}")
        })?;
        tracing::info!("tailscale: took over the route that an earlier OpenClaw had left");
    }
    let target = target.to_string();
    let (program, args) = tailscale.holder(&[word, "--yes", "--bg=false", &target]);
    let mut claim = start(&program, &args)
        .await
        .map_err(|error| format!("{program}: {error}"))?;
    let held = {
        let mut said = claim.said.clone();
        let waiting = async {
            tokio::select! {
                seen = said.wait_for(|said| said.contains(HELD)) => seen.is_ok(),
                () = claim.ended() => false,
            }
        };
        timeout(START_WAIT, waiting).await
    };
    match held {
        Ok(true) => Ok(claim),
        Ok(false) => {
            // All that it said has been read when its pipe is closed.
            while claim.said.changed().await.is_ok() {}
            let said = claim.said.borrow().clone();
            Err(held_by_another(&said, &status).unwrap_or_else(|| claim.why_it_ended()))
        }
        Err(_elapsed) => Err(format!(
            "no route within {} s: {}",
            START_WAIT.as_secs(),
            last_line(&claim.said.borrow()).unwrap_or_default()
        )),
    }
}

/// Starts it in a group of its own, with both outputs in one pipe.
async fn start(program: &str, args: &[String]) -> io::Result<Claim> {
    let (ours, theirs) = io::pipe()?;
    let (their_input, input) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::from(OwnedFd::from(their_input)))
        .stdout(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
        .stderr(Stdio::from(OwnedFd::from(theirs)));
    let group = Group::start("tailscale", command).await?;
    let ours = OwnedFd::from(ours);
    rustix::io::ioctl_fionbio(&ours, true)?;
    let (tell_said, said) = watch::channel(String::new());
    tokio::spawn(listen(pipe::Receiver::from_owned_fd(ours)?, tell_said));
    Ok(Claim {
        group,
        said,
        input: Some(input),
    })
}

/// Keeps the end of what it prints.
async fn listen(mut output: pipe::Receiver, said: watch::Sender<String>) {
    let mut buffer = vec![0; 4 * 1024];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..count]);
        said.send_modify(|said| {
            said.push_str(&text);
            if let Some(surplus) = said.len().checked_sub(SAID_BYTES_MAX) {
                let from = (surplus..said.len()).find(|at| said.is_char_boundary(*at));
                said.drain(..from.unwrap_or(surplus));
            }
        });
    }
}

impl Claim {
    pub(super) fn is_held(&self) -> bool {
        !self.group.has_ended()
    }

    /// Resolves when the route is gone.
    pub(super) async fn ended(&self) {
        self.group.ended().await;
    }

    pub(super) fn why_it_ended(&self) -> String {
        match last_line(&self.said.borrow()) {
            Some(line) => format!("the process that holds the route ended: {line}"),
            None => "the process that holds the route ended without a word".to_owned(),
        }
    }

    /// Gives the route back and waits until it is gone.
    pub(super) async fn release(mut self) {
        drop(self.input.take());
        self.group.signal(Signal::TERM);
        if timeout(STOP_WAIT, self.ended()).await.is_ok() {
            return;
        }
        self.group.signal(Signal::KILL);
        if timeout(STOP_WAIT, self.ended()).await.is_err() {
            tracing::error!(
                "tailscale: the process that holds the route does not end; see `tailscale serve status`"
            );
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.group.signal(Signal::TERM);
    }
}

fn last_line(said: &str) -> Option<String> {
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(line.chars().take(500).collect())
}

/// What to do about a port that another route has. Nothing of another's is ever changed.
fn held_by_another(said: &str, status: &serde_json::Value) -> Option<String> {
    let lower = said.to_lowercase();
    let (_, rest) = lower.split_once("listener already exists for port ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let port: u16 = digits.parse().ok()?;
    Some(match routes::holder(status, port) {
        Some(holder) => format!(
            "HTTPS port {port} is held by {holder}; see `tailscale serve status --json`, stop the process that holds it, then start this gateway again"
        ),
        None => format!(
            "HTTPS port {port} has a route already, see `tailscale serve status`; if it is an old one to this gateway, remove it with `tailscale serve --yes --https={port} --set-path=/ off`, else set gateway.tailscale.mode to \"off\""
        ),
    })
}

/// Source: `isPermissionDeniedError` in src/infra/tailscale.ts at 2026.9.6.
fn is_denied(why: &str) -> bool {
    let why = why.to_lowercase();
    [
        "permission denied",
        "access denied",
        "not permitted",
        "requires root",
        "must be run as root",
        "must be run with sudo",
        "requires sudo",
        "need sudo",
    ]
    .iter()
    .any(|sign| why.contains(sign))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn it_is_held_until_it_is_released() {
        let script = format!("echo '{HELD}'; exec sleep 1000");
        let claim = start("sh", &["-c".to_owned(), script])
            .await
            .expect("starts");
        let mut said = claim.said.clone();
        said.wait_for(|said| said.contains(HELD))
            .await
            .expect("its words");
        assert!(claim.is_held());
        let leader = claim.group.leader;
        claim.release().await;
        assert!(rustix::process::test_kill_process(leader).is_err());
    }

    /// As root runs it, where no signal of ours arrives.
    #[tokio::test]
    async fn what_cannot_be_signalled_ends_with_its_input() {
        let held = |script: &str| {
            let words = [
                "-c",
                super::super::command::WHILE_INPUT_LASTS,
                "sh",
                "sh",
                "-c",
                script,
            ];
            words.map(str::to_owned)
        };
        let mut claim = start("sh", &held("echo held; exec sleep 1000"))
            .await
            .expect("starts");
        let mut said = claim.said.clone();
        said.wait_for(|said| said.contains("held"))
            .await
            .expect("its words");
        assert!(claim.is_held());
        drop(claim.input.take());
        claim.ended().await;

        let claim = start("sh", &held("exit 3")).await.expect("starts");
        claim.ended().await;
        assert!(claim.input.is_some(), "it ends by itself, too");
    }

    #[tokio::test]
    async fn why_it_ended_is_its_last_line() {
        let script = "echo one; echo 'two ' >&2; exit 3".to_owned();
        let mut claim = start("sh", &["-c".to_owned(), script])
            .await
            .expect("starts");
        claim.ended().await;
        while claim.said.changed().await.is_ok() {}
        assert!(!claim.is_held());
        assert_eq!(
            claim.why_it_ended(),
            "the process that holds the route ended: two"
        );
    }

    #[test]
    fn a_port_that_is_taken_names_its_holder() {
        let said = "sending serve config: listener already exists for port 443";
        let why = held_by_another(said, &json!({})).expect("a conflict");
        assert!(why.contains("--https=443"), "{why}");
        let status = json!({"Foreground": {"s1": {"TCP": {"443": {"HTTPS": true}}}}});
        let why = held_by_another(said, &status).expect("a conflict");
        assert!(why.contains("session s1"), "{why}");
        assert_eq!(held_by_another("Logged out.", &status), None);
    }

    #[test]
    fn what_root_would_help_with() {
        assert!(is_denied("error: Access denied: serve config denied"));
        assert!(!is_denied("Logged out."));
    }
}
