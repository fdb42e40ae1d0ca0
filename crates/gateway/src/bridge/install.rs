//! Where OpenClaw is installed, and how to start it as our child.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Secret;
use super::process::ChildSpec;
use crate::config::{ConfigDocument, Env, Paths, UpstreamSettings};

#[derive(Debug)]
pub struct Installed {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub version: String,
}

/// # Errors
/// What is missing, and what to do.
pub fn find(env: &Env, command: &[String], node: Option<&Path>) -> Result<Installed, String> {
    let on_path = |name: &str| {
        std::env::split_paths(env.get("PATH").unwrap_or_default())
            .map(|dir| dir.join(name))
            .find(|file| file.is_file())
    };
    let (program, args) = match command {
        [] => (on_path("openclaw").ok_or("openclaw is not on PATH; install it with `npm install -g openclaw`, or set upstream.command")?, Vec::new()),
        [program, args @ ..] => (PathBuf::from(program), args.to_vec()),
    };
    let entry = args.first().map_or_else(|| program.clone(), PathBuf::from);
    let entry = entry
        .canonicalize()
        .map_err(|error| format!("{}: {error}", entry.display()))?;
    let package = entry
        .parent()
        .ok_or("the openclaw command has no directory")?
        .join("package.json");
    let text = std::fs::read_to_string(&package).map_err(|error| {
        format!(
            "{}: {error}; is upstream.command the openclaw package's own?",
            package.display()
        )
    })?;
    let manifest: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", package.display()))?;
    let version = manifest["version"].as_str().unwrap_or("unknown").to_owned();
    match node {
        Some(node) if args.is_empty() => Ok(Installed {
            program: node.to_owned(),
            args: vec![entry.display().to_string()],
            version,
        }),
        _ => Ok(Installed {
            program,
            args,
            version,
        }),
    }
}

/// The child's command line, environment and configuration: an overlay beside ours that includes the user's file
/// and gives the child a loopback port of its own.
///
/// # Errors
/// A file that cannot be written, or no free port.
pub fn child_spec(
    paths: &Paths,
    document: &ConfigDocument,
    installed: &Installed,
    settings: &UpstreamSettings,
    token: &Secret,
) -> anyhow::Result<ChildSpec> {
    let port = match settings.port {
        Some(port) => port,
        None => kept_port(&paths.own_dir.join("upstream-port"))?,
    };
    let overlay = json!({
        "$include": paths.config_file,
        "gateway": {
            "port": port, "bind": "loopback",
            "tls": { "enabled": false },
            "auth": { "mode": "token", "token": token.expose() },
        },
        "discovery": { "mdns": { "mode": "off" } },
    });
    let file = paths.own_dir.join("overlay.json");
    crate::cli::write_private(&file, &format!("{overlay:#}\n"))?;
    let config_dir = document
        .file
        .parent()
        .unwrap_or_else(|| Path::new("/"))
        .display()
        .to_string();
    let env = [
        ("OPENCLAW_CONFIG_PATH", file.display().to_string()),
        ("OPENCLAW_STATE_DIR", paths.state_dir.display().to_string()),
        ("OPENCLAW_INCLUDE_ROOTS", config_dir),
        ("OPENCLAW_GATEWAY_PORT", port.to_string()),
        ("OPENCLAW_GATEWAY_TOKEN", token.expose().to_owned()),
        ("OPENCLAW_DISABLE_BONJOUR", "1".to_owned()),
        ("OPENCLAW_NO_RESPAWN", "1".to_owned()),
        ("NO_COLOR", "1".to_owned()),
    ];
    let mut args = installed.args.clone();
    args.extend(["gateway".to_owned(), "run".to_owned()]);
    Ok(ChildSpec {
        program: installed.program.clone(),
        args,
        env: env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        token: token.clone(),
        version: Some(installed.version.clone()),
        start_timeout: settings.start_timeout,
        stop_timeout: settings.stop_timeout,
    })
}

/// The port of the last start if it is still free, else another one that is.
fn kept_port(file: &Path) -> anyhow::Result<u16> {
    let kept = std::fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse::<u16>().ok());
    if let Some(port) = kept.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
    {
        return Ok(port);
    }
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    std::fs::write(file, port.to_string())?;
    Ok(port)
}
