//! Commands that are calls to the running gateway.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::socket::{self, Reader, Writer};
use client::{Client, ClientError, ConnectOptions};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::target::Target;
use super::{Command, DevicesCommand, To, print};

pub(super) fn run(profile: Option<&str>, command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            Command::Status(output) => status(profile, &output.to, output.json).await,
            Command::Health(output) => {
                let mut client = connect(profile, &output.to, "health").await?;
                let health = client.call("health", None).await.map_err(explain)?;
                print(&if output.json {
                    serde_json::to_string_pretty(&health)?
                } else {
                    health_text(&health)
                });
                Ok(ExitCode::from(u8::from(health["ok"] != true)))
            }
            Command::Call {
                method,
                params,
                stream,
                to,
            } => call(profile, &method, params.as_deref(), stream, &to).await,
            Command::Logs { follow, to } => logs(profile, follow, &to).await,
            Command::Devices { command } => devices(profile, command).await,
            _ => anyhow::bail!("not a call"),
        }
    })
}

/// Connects with the least scope the method needs.
pub(super) async fn connect(
    profile: Option<&str>,
    to: &To,
    method: &str,
) -> anyhow::Result<Client> {
    let target = Target::resolve(profile, to)?;
    let scopes: Vec<String> = wire::methods::required_scopes(method, None)
        .iter()
        .map(|scope| scope.as_str().to_owned())
        .collect();
    // Who approves a device gives it no more than they have themselves.
    let scopes = if scopes.is_empty() || method == "device.pair.approve" {
        vec!["operator.admin".to_owned()]
    } else {
        scopes
    };
    let options = ConnectOptions {
        token: target.token,
        password: target.password,
        scopes,
        timeout: to.timeout(),
    };
    let connected = match target.tls {
        None => Client::connect(target.address, &options).await,
        Some(tls) => match secured(target.address, tls, options.timeout).await {
            Ok(socket) => Client::over(socket, &options).await,
            Err(source) => Err(ClientError::Unreachable {
                address: target.address,
                source,
            }),
        },
    };
    connected.map_err(explain)
}

/// A WebSocket over TLS, within `timeout`.
async fn secured(
    address: SocketAddr,
    tls: rustls::ClientConfig,
    timeout: Duration,
) -> io::Result<(Reader, Writer)> {
    let dial = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(address.ip().into(), stream)
            .await?;
        socket::dial_over(stream, "/", &[("Host", &address.to_string())]).await
    };
    let timed_out = || {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no WebSocket within {timeout:?}"),
        )
    };
    tokio::time::timeout(timeout, dial)
        .await
        .unwrap_or_else(|_elapsed| Err(timed_out()))
}

/// Adds what to do next.
fn explain(error: ClientError) -> anyhow::Error {
    let hint = match &error {
        ClientError::Unreachable { .. } => {
            "is the gateway running? start it with `openclaw-gateway run`"
        }
        ClientError::Refused(shape)
            if shape.message.contains("unauthorized") || shape.code == "NOT_PAIRED" =>
        {
            "pass --token, or set gateway.auth.token in openclaw.json to the gateway's token"
        }
        ClientError::Timeout(_) => "`openclaw-gateway doctor` looks for the cause",
        ClientError::Refused(_) | ClientError::Lost(_) => return anyhow::Error::new(error),
    };
    anyhow::Error::new(error).context(hint)
}

async fn call(
    profile: Option<&str>,
    method: &str,
    params: Option<&str>,
    stream: bool,
    to: &To,
) -> anyhow::Result<ExitCode> {
    let params: Option<Value> = params
        .map(serde_json::from_str)
        .transpose()
        .context("--params is not JSON")?;
    let mut client = connect(profile, to, method).await?;
    if !stream {
        print(&serde_json::to_string_pretty(
            &client.call(method, params).await.map_err(explain)?,
        )?);
        return Ok(ExitCode::SUCCESS);
    }
    client.send(method, params).await.map_err(explain)?;
    loop {
        print(&client.next().await.map_err(explain)?);
    }
}

async fn status(profile: Option<&str>, to: &To, json: bool) -> anyhow::Result<ExitCode> {
    let target = Target::resolve(profile, to)?;
    let started = std::time::Instant::now();
    let mut client = connect(profile, to, "status").await?;
    let hello = client.hello().clone();
    let health = client.call("health", None).await.map_err(explain)?;
    let answer = json!({
        "address": target.address.to_string(),
        "version": hello["server"]["version"], "bootId": hello["server"]["bootId"],
        "methods": hello["features"]["methods"].as_array().map_or(0, Vec::len),
        "uptimeMs": hello["snapshot"]["uptimeMs"],
        "health": { "ok": health["ok"], "sessions": health["sessions"]["count"] },
        "tookMs": u64::try_from(started.elapsed().as_millis())?,
    });
    if json {
        print(&serde_json::to_string_pretty(&answer)?);
    } else {
        print(&format!(
            "gateway   {} (OpenClaw {}), {} methods\nhealth    {}\nuptime    {} s\nanswered  in {} ms",
            target.address,
            hello["server"]["version"].as_str().unwrap_or("?"),
            answer["methods"],
            if health["ok"] == true { "ok" } else { "not ok" },
            answer["uptimeMs"].as_u64().unwrap_or(0) / 1000,
            answer["tookMs"],
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn health_text(health: &Value) -> String {
    let agents = health["agents"].as_array().map_or(0, Vec::len);
    let channels = health["channelOrder"].as_array().map_or(0, Vec::len);
    format!(
        "{}\nagents    {agents}\nchannels  {channels}\nsessions  {}",
        if health["ok"] == true { "ok" } else { "not ok" },
        health["sessions"]["count"].as_u64().unwrap_or(0)
    )
}

async fn logs(profile: Option<&str>, follow: bool, to: &To) -> anyhow::Result<ExitCode> {
    let mut client = connect(profile, to, "logs.tail").await?;
    let mut cursor = None;
    loop {
        let params = cursor
            .as_ref()
            .map_or(json!({}), |cursor| json!({ "cursor": cursor }));
        let page = client
            .call("logs.tail", Some(params))
            .await
            .map_err(explain)?;
        for line in page["lines"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            print(line);
        }
        cursor = Some(page["cursor"].clone());
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

async fn devices(profile: Option<&str>, command: DevicesCommand) -> anyhow::Result<ExitCode> {
    let here = To {
        port: None,
        token: None,
        timeout: 10_000,
    };
    let (method, params) = match command {
        DevicesCommand::List(output) => {
            let mut client = connect(profile, &output.to, "device.pair.list").await?;
            let list = client
                .call("device.pair.list", Some(json!({})))
                .await
                .map_err(explain)?;
            print(&if output.json {
                serde_json::to_string_pretty(&list)?
            } else {
                devices_text(&list)
            });
            return Ok(ExitCode::SUCCESS);
        }
        DevicesCommand::Approve { request_id } => {
            ("device.pair.approve", json!({ "requestId": request_id }))
        }
        DevicesCommand::Reject { request_id } => {
            ("device.pair.reject", json!({ "requestId": request_id }))
        }
        DevicesCommand::Remove { device_id } => {
            ("device.pair.remove", json!({ "deviceId": device_id }))
        }
    };
    let mut client = connect(profile, &here, method).await?;
    print(&serde_json::to_string_pretty(
        &client.call(method, Some(params)).await.map_err(explain)?,
    )?);
    Ok(ExitCode::SUCCESS)
}

fn devices_text(list: &Value) -> String {
    let row = |device: &Value, key: &str| device[key].as_str().unwrap_or("-").to_owned();
    let mut lines = Vec::new();
    for request in list["pending"].as_array().into_iter().flatten() {
        lines.push(format!(
            "waiting  {}  {}  approve with: openclaw-gateway devices approve {}",
            row(request, "deviceId"),
            row(request, "clientId"),
            row(request, "requestId")
        ));
    }
    for device in list["paired"].as_array().into_iter().flatten() {
        lines.push(format!(
            "paired   {}  {}  {}{}",
            row(device, "deviceId"),
            row(device, "clientId"),
            row(device, "platform"),
            if device["madeBy"] == "local" {
                "  known to this gateway alone: `devices remove` lets it pair with OpenClaw at its next connect"
            } else {
                ""
            }
        ));
    }
    if lines.is_empty() {
        "no devices".to_owned()
    } else {
        lines.join("\n")
    }
}
