//! The shell that runs commands, and the `PATH` that it has when a person logs in: a service's own is shorter.
//!
//! Source: src/agents/shell-utils.ts and src/infra/shell-env.ts at 2026.9.6.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::sync::OnceCell;

use super::environment::Environment;

const PATIENCE: Duration = Duration::from_secs(15);
const BYTES_MAX: u64 = 2 << 20;

/// Asked for once.
#[derive(Debug, Default)]
pub(super) struct LoginPath(OnceCell<Option<String>>);

impl LoginPath {
    /// `None`: the shell doesn't tell.
    pub(super) async fn get(&self, environment: &Environment, home: &Path) -> Option<&str> {
        let asked = self.0.get_or_init(|| ask(environment, home)).await;
        asked.as_deref()
    }
}

async fn ask(environment: &Environment, home: &Path) -> Option<String> {
    let shells = std::fs::read_to_string("/etc/shells").unwrap_or_default();
    let own = std::env::var("SHELL").unwrap_or_default();
    let shell = match shells.lines().any(|line| line.trim() == own) && own.starts_with('/') {
        true => own.as_str(),
        false => "/bin/sh",
    };
    let mut child = tokio::process::Command::new(shell)
        .args(["-l", "-c", "printf '\\0'; env -0"])
        .env_clear()
        .envs(environment.iter().filter(|(name, _)| *name != "ZDOTDIR"))
        .env("HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    let out = child.stdout.take()?;
    let mut bytes = Vec::new();
    let reading = async {
        let read = out.take(BYTES_MAX).read_to_end(&mut bytes).await;
        read.is_ok()
    };
    if tokio::time::timeout(PATIENCE, reading).await != Ok(true) {
        tracing::warn!(
            shell,
            "the login shell doesn't tell its PATH; commands run with this process's own"
        );
        return None;
    }
    let path = bytes
        .split(|byte| *byte == 0)
        .skip(1)
        .find_map(|line| std::str::from_utf8(line).ok()?.strip_prefix("PATH="))?;
    (!path.trim().is_empty()).then(|| path.trim().to_owned())
}

/// The shell with its arguments, the line to run excepted.
pub(super) fn shell(path: &str) -> Vec<String> {
    let own = std::env::var("SHELL").unwrap_or_default();
    let name_of = |shell: &str| shell.rsplit('/').next().unwrap_or_default().to_owned();
    let on_path = |name: &str| {
        super::allowlist::resolve(name, Path::new("/"), path)
            .map(|program| program.path.display().to_string())
    };
    let own = own.trim();
    let shell = match name_of(own).as_str() {
        "" | "false" | "nologin" => on_path("sh").or_else(|| on_path("bash")),
        "fish" => on_path("bash")
            .or_else(|| on_path("sh"))
            .or_else(|| Some(own.to_owned())),
        _ => Some(own.to_owned()),
    };
    let shell = shell.unwrap_or_else(|| "/bin/sh".to_owned());
    let arguments: &[&str] = match name_of(&shell).as_str() {
        // No startup file of the user's changes what was looked at.
        "bash" => &["--noprofile", "--norc", "-c"],
        "zsh" => &["-f", "-c"],
        "fish" => &["--no-config", "-c"],
        _ => &["-c"],
    };
    let mut argv = vec![shell];
    argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    argv
}
