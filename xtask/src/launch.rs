//! Commands that become another process: the pinned Node, and the gateway with OpenClaw behind it.

use crate::setup::{self, Scope};
use crate::{Result, process};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the pinned Node in place of this process.
pub(crate) fn node(root: &Path, args: &[String]) -> Result<()> {
    let tools = setup::setup(root, Scope::Openclaw)?;
    become_(
        Command::new(&tools.node)
            .args(args)
            .env("PATH", tools.path()?),
    )
}

/// Builds the gateway in release mode and becomes it, supervising the pinned OpenClaw.
pub(crate) fn with_openclaw(root: &Path, args: &[String]) -> Result<()> {
    let tools = setup::setup(root, Scope::Openclaw)?;
    build_release(root)?;
    let openclaw = format!(
        "{} {}",
        tools.node.display(),
        tools.openclaw_entry.display()
    );
    let mut gateway = Command::new(target(root).join("release/openclaw-gateway"));
    gateway
        .args([
            "run",
            "--upstream",
            "supervise",
            "--openclaw-command",
            &openclaw,
        ])
        .args(args);
    become_(gateway.env("PATH", tools.path()?))
}

/// Cargo's own progress goes to the terminal.
fn build_release(root: &Path) -> Result<()> {
    let mut build = cargo();
    build
        .args(["build", "--release", "--locked", "-p", "gateway"])
        .current_dir(root);
    let status = build
        .status()
        .map_err(|e| format!("{}: {e}", process::show(&build)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{}`: {status}", process::show(&build)))
    }
}

/// Cargo without what `cargo run` told this program of itself: build scripts that ask for such variables (ring's) would run
/// again, and what depends on them be built again, for whoever calls cargo without us.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |set| root.join(set))
}

fn become_(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(format!("{}: {error}", process::show(command)))
}
