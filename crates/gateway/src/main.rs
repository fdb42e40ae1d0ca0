//! The life of the process.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use gateway::app::{App, Runtime};
use gateway::bridge::{Secret, UpstreamState, attach};
use tokio::net::TcpListener;
use tokio::sync::watch;

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let state_dir = std::env::var("OPENCLAW_STATE_DIR")?;
    let config: serde_json::Value = json5::from_str(&std::fs::read_to_string(std::env::var(
        "OPENCLAW_CONFIG_PATH",
    )?)?)?;
    let own: toml::Table =
        std::fs::read_to_string(format!("{state_dir}/openclaw-rs/openclaw-gateway.toml"))
            .unwrap_or_default()
            .parse()?;
    let port = u16::try_from(config["gateway"]["port"].as_u64().unwrap_or(18789))?;
    let (state, upstream) = watch::channel(UpstreamState::Off);
    if let Some(url) = own
        .get("upstream")
        .and_then(|table| table.get("url"))
        .and_then(toml::Value::as_str)
    {
        let address: SocketAddr = url
            .trim_start_matches("ws://")
            .parse()
            .context("upstream url")?;
        let token = own["upstream"]["token"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        state.send_replace(UpstreamState::Starting);
        tokio::spawn(attach::watch(address, Secret::new(token), state));
    }
    let app = App::new(
        Runtime {
            token: config["gateway"]["auth"]["token"].as_str().map(Secret::new),
            ..Runtime::default()
        },
        upstream,
        Arc::default(),
    );
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    app.run(vec![listener], async {
        term.recv().await;
    })
    .await;
    Ok(())
}
