//! Load generator for gateways that speak the OpenClaw protocol; one JSON object per result on stdout.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use bench::client::Target;
use bench::device::Device;
use bench::modes::closed::{self, Closed};
use bench::modes::fanout::{self, Cause, Fanout};
use bench::modes::idle::{self, Idle};
use bench::modes::rate::{self, Rate};
use clap::{Args, Parser, Subcommand};
use serde_json::Value;

#[derive(Parser)]
#[command(
    name = "ws-load",
    about = "WebSocket load on a gateway (or a bare echo peer)"
)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Each connection sends its next request when an answer arrives
    Closed {
        #[command(flatten)]
        peer: Peer,
        #[command(flatten)]
        call: Call,
        /// Requests each connection keeps in flight
        #[arg(long, default_value_t = 1)]
        depth: usize,
        /// Generator threads
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// The peer only echoes: no gateway handshake
        #[arg(long)]
        echo: bool,
        /// Go on past the duration until there are this many answers
        #[arg(long, default_value_t = 0)]
        at_least: u64,
        /// Longest time for that
        #[arg(long, default_value_t = 30.0)]
        longest_s: f64,
    },
    /// Requests leave at a fixed rate; latency counts from when each was due
    Rate {
        #[command(flatten)]
        peer: Peer,
        #[command(flatten)]
        call: Call,
        /// Requests per second to each target
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// A further target (`host:port`), asked in the other half of each slot
        #[arg(long)]
        also: Vec<String>,
    },
    /// Authenticated connections that only listen, until stdin ends or the server closes them all
    Idle {
        #[command(flatten)]
        peer: Peer,
        /// Connections that have one call in flight
        #[arg(long, default_value_t = 0)]
        calls: usize,
        #[arg(long, default_value = "health")]
        method: String,
        /// JSON; `{n}` in it becomes the number of the call
        #[arg(long, default_value = "{}")]
        params: String,
        /// Answers after which a call counts as in flight
        #[arg(long, default_value_t = 0)]
        accepts: usize,
    },
    /// Many listeners wait for one event
    Fanout {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        event: String,
        /// Method that causes the event; without one the event is awaited
        #[arg(long)]
        trigger: Option<String>,
        /// The cause is a UI client that connects (and so changes `presence`)
        #[arg(long, conflicts_with = "trigger")]
        trigger_arrival: bool,
        #[arg(long, default_value = "{}")]
        trigger_params: String,
        /// Method that each listener calls first
        #[arg(long)]
        subscribe: Option<String>,
        #[arg(long, default_value = "{}")]
        subscribe_params: String,
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        #[arg(long, default_value_t = 1000)]
        gap_ms: u64,
        #[arg(long, default_value_t = 40)]
        patience_s: u64,
    },
}

#[derive(Args)]
struct Peer {
    /// `host:port`
    #[arg(long)]
    target: String,
    #[arg(long, default_value = "", env = "WS_LOAD_TOKEN")]
    token: String,
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Handshakes under way at a time
    #[arg(long, default_value_t = 16)]
    batch: usize,
    #[arg(long, default_value = "gateway-client")]
    client_id: String,
    #[arg(long, default_value = "backend")]
    client_mode: String,
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "operator.admin,operator.read,operator.write"
    )]
    scopes: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    caps: Vec<String>,
    /// Sign in with a device key of this run (UI clients need one)
    #[arg(long)]
    device: bool,
    /// Server process whose CPU and memory to report
    #[arg(long)]
    pid: Option<u32>,
}

#[derive(Args)]
struct Call {
    #[arg(long, default_value = "health")]
    method: String,
    /// JSON, or `none` to leave the key out
    #[arg(long, default_value = "{}")]
    params: String,
    #[arg(long, default_value_t = 1.0)]
    warmup_s: f64,
    #[arg(long, default_value_t = 8.0)]
    duration_s: f64,
}

impl Peer {
    fn target(&self, authority: &str, echo: bool) -> Result<Target> {
        Ok(Target {
            authority: authority.to_owned(),
            token: self.token.clone(),
            client_id: self.client_id.clone(),
            client_mode: self.client_mode.clone(),
            scopes: self.scopes.clone(),
            caps: self.caps.clone(),
            device: self.device.then(Device::generate).transpose()?,
            echo,
        })
    }
}

impl Call {
    fn params(&self) -> Result<Value> {
        match self.params.as_str() {
            "none" => Ok(Value::Null),
            text => {
                serde_json::from_str(text).with_context(|| format!("--params {text} is not JSON"))
            }
        }
    }
}

fn main() -> Result<()> {
    let report = std::panic::take_hook();
    // The other threads wait for the one that panics, so it ends them all.
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(101);
    }));
    match Cli::parse().mode {
        Mode::Closed {
            peer,
            call,
            depth,
            threads,
            echo,
            at_least,
            longest_s,
        } => {
            let load = Closed {
                connections: peer.connections,
                depth: depth.max(1),
                threads,
                batch: peer.batch,
                warmup: Duration::from_secs_f64(call.warmup_s),
                duration: Duration::from_secs_f64(call.duration_s),
                at_least,
                longest: Duration::from_secs_f64(longest_s),
                params: call.params()?,
                method: call.method,
                pid: peer.pid,
            };
            print(&closed::run(peer.target(&peer.target, echo)?, load)?)
        }
        Mode::Rate {
            peer,
            call,
            rate,
            also,
        } => {
            let mut targets = vec![peer.target(&peer.target, false)?];
            for authority in &also {
                targets.push(peer.target(authority, false)?);
            }
            let load = Rate {
                per_second: rate.max(1),
                connections: peer.connections.max(1),
                batch: peer.batch,
                warmup: Duration::from_secs_f64(call.warmup_s),
                duration: Duration::from_secs_f64(call.duration_s),
                params: call.params()?,
                method: call.method,
                pid: peer.pid,
            };
            print(&rate::run(targets, &load)?)
        }
        Mode::Idle {
            peer,
            calls,
            method,
            params,
            accepts,
        } => {
            let load = Idle {
                connections: peer.connections,
                batch: peer.batch,
                calls,
                method,
                params,
                accepts,
                pid: peer.pid,
            };
            idle::run(peer.target(&peer.target, false)?, &load, print)
        }
        Mode::Fanout {
            peer,
            event,
            trigger,
            trigger_arrival,
            trigger_params,
            subscribe,
            subscribe_params,
            rounds,
            gap_ms,
            patience_s,
        } => {
            let cause = match trigger {
                Some(method) => Cause::Call(method, trigger_params),
                None if trigger_arrival => {
                    let mut guest = peer.target(&peer.target, false)?;
                    guest.client_id = "openclaw-tui".to_owned();
                    guest.client_mode = "ui".to_owned();
                    guest.device = Some(Device::generate()?);
                    Cause::Arrival(Box::new(guest))
                }
                None => Cause::Awaited,
            };
            let load = Fanout {
                listeners: peer.connections,
                batch: peer.batch,
                event,
                cause,
                subscribe: subscribe.map(|method| (method, subscribe_params)),
                rounds,
                gap: Duration::from_millis(gap_ms),
                patience: Duration::from_secs(patience_s),
                pid: peer.pid,
            };
            print(&fanout::run(peer.target(&peer.target, false)?, &load)?)
        }
    }
}

fn print(result: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{result}")?;
    Ok(out.flush()?)
}
