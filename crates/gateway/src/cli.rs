//! The command line: `run` is the gateway, everything else talks to a running one.

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

mod adopt;
mod api;
mod backup;
mod call;
mod channels;
mod config;
mod console;
mod doctor;
#[cfg(test)]
mod man;
mod media;
mod memory;

mod report;
mod rollout;
mod route;
mod run;
mod service;
mod target;
mod upstream;

/// Exit code of a configuration error, as the original. Source: `EX_CONFIG`, docs/gateway/embedding.md.
pub const EXIT_CONFIG: u8 = 78;

#[derive(Debug, Parser)]
#[command(
    name = "openclaw-gateway",
    version,
    about = "The OpenClaw gateway in Rust: unmodified OpenClaw clients connect to it"
)]
pub struct Cli {
    /// Use the profile `<name>`: its state is in ~/.openclaw-<name>.
    #[arg(long, global = true, env = "OPENCLAW_PROFILE")]
    profile: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the gateway in the foreground.
    Run(run::Options),
    /// What the running gateway is and how it does.
    Status(Output),
    /// The health of the running gateway, as the method `health`.
    Health(Output),
    /// Call a method of the running gateway and print its payload.
    Call {
        method: String,
        /// Params as JSON.
        #[arg(long)]
        params: Option<String>,
        /// Go on printing every frame until interrupted.
        #[arg(long)]
        stream: bool,
        #[command(flatten)]
        to: To,
    },
    /// The gateway's log.
    Logs {
        /// Go on printing new lines.
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        to: To,
    },
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a link to the console, the page that shows what the gateway does; it signs in.
    Console(console::Console),
    /// Write a folder with what a bug report needs: versions, configuration, state, metrics and logs, secrets hidden.
    Report(report::Report),
    /// Our state in a folder, made while the gateway runs; and back.
    Backup {
        #[command(subcommand)]
        command: backup::BackupCommand,
    },
    /// Find what stops a gateway from working on this machine.
    Doctor {
        #[arg(long)]
        json: bool,
    },
    /// Paired devices and pairing requests.
    Devices {
        #[command(subcommand)]
        command: DevicesCommand,
    },
    /// Send a message through a channel.
    Send(api::SendArgs),
    /// What happened to a message, by any of its ids: ours, the service's, a run's.
    Why {
        id: String,
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        to: To,
    },
    /// Messages on their way, delivered, in doubt or given up.
    Messages {
        #[command(subcommand)]
        command: api::MessagesCommand,
    },
    /// Chat accounts that this gateway runs.
    Channels {
        #[command(subcommand)]
        command: channels::ChannelsCommand,
    },
    /// Which agent and session a message belongs to, and why.
    Route {
        #[command(subcommand)]
        command: route::RouteCommand,
    },
    /// Look at, fit and convert images; needs no gateway.
    Media {
        #[command(subcommand)]
        command: media::MediaCommand,
    },
    /// What an agent remembers: index a folder, search it; needs no gateway.
    Memory {
        #[command(subcommand)]
        command: memory::MemoryCommand,
    },
    /// Who may write to our accounts by direct message.
    Pairing {
        #[command(subcommand)]
        command: api::PairingCommand,
    },
    /// How many clients are served here, and how many by OpenClaw.
    Rollout {
        #[command(subcommand)]
        command: rollout::RolloutCommand,
    },
    /// The OpenClaw gateway behind this one: how it does, what it wrote, start it again.
    Upstream {
        #[command(subcommand)]
        command: upstream::UpstreamCommand,
    },
    /// Take the place of OpenClaw's own gateway: stop its service, serve its port, start it behind this one.
    Adopt(adopt::Adopt),
    /// What keeps the log of a gateway that `adopt` started, within bounds: from a pipe to the end of a file.
    #[command(hide = true)]
    KeepLog { file: std::path::PathBuf },
    /// Stop this gateway and remove its service; configuration and state stay.
    Uninstall(adopt::Uninstall),
    /// A systemd unit that runs this gateway.
    Service {
        #[command(subcommand)]
        command: service::ServiceCommand,
    },
    /// Print the version.
    Version {
        #[arg(long)]
        json: bool,
    },
    /// Print completions for a shell.
    Completions { shell: Shell },
}

/// Shells that completions exist for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    #[value(name = "powershell")]
    Power,
    Zsh,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Elvish => Self::Elvish,
            Shell::Fish => Self::Fish,
            Shell::Power => Self::PowerShell,
            Shell::Zsh => Self::Zsh,
        }
    }
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read both files and say what is wrong with them; exit 78 if something is.
    Check {
        #[arg(long)]
        json: bool,
    },
    /// What is set, secrets hidden, and where each value comes from.
    Show {
        /// Also what is not set: defaults of openclaw-gateway.toml, and values from variables.
        #[arg(long)]
        effective: bool,
        #[arg(long)]
        json: bool,
    },
    /// What would change, and whether it takes a restart, if FILE replaced the present one.
    Diff {
        /// A candidate for openclaw.json, or for openclaw-gateway.toml if its name ends in .toml.
        file: std::path::PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Print an openclaw-gateway.toml with every key and its default.
    Example,
}

#[derive(Debug, Subcommand)]
enum DevicesCommand {
    /// Paired devices and waiting requests.
    List(Output),
    /// Let a device in.
    Approve { request_id: String },
    /// Turn a request down.
    Reject { request_id: String },
    /// Forget a device; its connections are closed.
    Remove { device_id: String },
}

/// Where the running gateway is. Without flags: as configured on this machine.
#[derive(Debug, Clone, clap::Args)]
struct To {
    #[arg(long)]
    port: Option<u16>,
    /// The shared token, if it differs from the configured one.
    #[arg(long)]
    token: Option<String>,
    /// Longest wait for an answer, milliseconds.
    #[arg(long, default_value_t = 10_000)]
    timeout: u64,
}

impl To {
    const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }
}

#[derive(Debug, Clone, clap::Args)]
struct Output {
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    to: To,
}

/// Runs one command. Exit codes: 0 done, 1 failed, 2 wrong usage, 78 configuration.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Run(options) => run::run(cli.profile.as_deref(), &options),
        Command::Version { json } => version(json),
        Command::Completions { shell } => {
            let shell = clap_complete::Shell::from(shell);
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "openclaw-gateway",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Config { command } => config::run(cli.profile.as_deref(), command),
        Command::Console(args) => console::run(cli.profile.as_deref(), &args),
        Command::Report(args) => report::run(cli.profile.as_deref(), &args),
        Command::Backup { command } => backup::run(cli.profile.as_deref(), &command),
        Command::Doctor { json } => doctor::run(cli.profile.as_deref(), json),
        Command::Send(args) => api::send(cli.profile.as_deref(), &args),
        Command::Why { id, json, to } => api::why(cli.profile.as_deref(), &id, json, &to),
        Command::Messages { command } => api::messages(cli.profile.as_deref(), &command),
        Command::Channels { command } => channels::run(cli.profile.as_deref(), &command),
        Command::Route { command } => route::run(cli.profile.as_deref(), command),
        Command::Rollout { command } => rollout::run(cli.profile.as_deref(), &command),
        Command::Upstream { command } => upstream::run(cli.profile.as_deref(), &command),
        Command::Adopt(args) => adopt::adopt(cli.profile.as_deref(), &args),
        Command::KeepLog { file } => adopt::keep_log(&file),
        Command::Uninstall(args) => adopt::uninstall(cli.profile.as_deref(), &args),
        Command::Service { command } => service::run(cli.profile.as_deref(), &command),
        Command::Media { command } => Ok(media::run(command)),
        Command::Memory { command } => memory::run(cli.profile.as_deref(), &command),
        Command::Pairing { command } => api::pairing(cli.profile.as_deref(), &command),
        command => call::run(cli.profile.as_deref(), command),
    };
    outcome.unwrap_or_else(|error| {
        let code = error
            .downcast_ref::<crate::config::ConfigError>()
            .map_or(1, |_| EXIT_CONFIG);
        complain(&format!("{error:#}"));
        ExitCode::from(code)
    })
}

fn version(json: bool) -> anyhow::Result<ExitCode> {
    let (own, reference) = (env!("CARGO_PKG_VERSION"), wire::REFERENCE_VERSION);
    print(&if json {
        serde_json::json!({ "version": own, "openclaw": reference, "protocol": wire::PROTOCOL_VERSION }).to_string()
    } else {
        format!(
            "openclaw-gateway {own} (speaks as OpenClaw {reference}, protocol {})",
            wire::PROTOCOL_VERSION
        )
    });
    Ok(ExitCode::SUCCESS)
}

/// A line for whoever reads the output; a closed pipe is no failure.
#[expect(
    clippy::let_underscore_must_use,
    reason = "head and less close the pipe when they have enough"
)]
fn print(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[expect(clippy::let_underscore_must_use, reason = "nobody is left to tell")]
fn complain(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "openclaw-gateway: {text}");
}
