//! `route explain`: what would happen to a message, without one being sent.

use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;

use super::print;
use super::target::environment;
use crate::config::ConfigDocument;
use crate::routing::Routing;
use crate::routing::explain::explain;

#[derive(Debug, clap::Subcommand)]
pub(super) enum RouteCommand {
    /// Say who would answer a message, in which session, and which rule decides it.
    Explain {
        /// `{"channel":"telegram","message":{"chat":{"kind":"direct","id":"42"},"sender":{"id":"42"}}}`; more fields:
        /// `account`, `paired`, `config` (in place of the file). Without it: one a line from standard input.
        envelope: Option<String>,
        /// A configuration other than the one of this machine.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

pub(super) fn run(profile: Option<&str>, command: RouteCommand) -> anyhow::Result<ExitCode> {
    let RouteCommand::Explain { envelope, config } = command;
    let (env, mut paths) = environment(profile)?;
    if let Some(file) = config {
        paths.config_file = file;
    }
    let mut config = ConfigDocument::load(&paths, &env)?.resolved;
    let mut routing = Routing::from_config(&config);
    let mut answer = |line: &str| -> anyhow::Result<()> {
        let mut envelope: Value = serde_json::from_str(line).context("the envelope is no JSON")?;
        // Holds for the lines after it too, until another comes.
        if let Some(own) = envelope.get_mut("config") {
            config = own.take();
            routing = Routing::from_config(&config);
        }
        print(&explain(&config, &routing, &envelope)?.to_string());
        Ok(())
    };
    match envelope {
        Some(envelope) => answer(&envelope)?,
        None => {
            for (n, line) in std::io::stdin().lock().lines().enumerate() {
                answer(&line?).with_context(|| format!("line {}", n + 1))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
