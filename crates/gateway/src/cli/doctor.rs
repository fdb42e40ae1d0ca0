//! `doctor`: what breaks a first day.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::print;
use super::target::environment;
use crate::bridge::process::find;
use crate::config::{AdminListen, ConfigDocument, OwnSettings};

struct Finding {
    check: &'static str,
    ok: bool,
    what: String,
    fix: Option<String>,
}

/// What was found, and the connects that a running gateway turned away.
pub(super) struct Findings {
    all: Vec<Finding>,
    refusals: Vec<Value>,
}

impl Findings {
    fn healthy(&self) -> bool {
        self.all.iter().all(|finding| finding.ok)
    }

    /// `{ok, findings: [{check, ok, what, fix}], refusals}`.
    pub(super) fn json(&self) -> Value {
        let list: Vec<_> = self
            .all
            .iter()
            .map(|finding| json!({ "check": finding.check, "ok": finding.ok, "what": finding.what, "fix": finding.fix }))
            .collect();
        json!({ "ok": self.healthy(), "findings": list, "refusals": self.refusals })
    }
}

pub(super) fn look(profile: Option<&str>) -> anyhow::Result<Findings> {
    let (env, paths) = environment(profile)?;
    let mut findings = Vec::new();
    let document = ConfigDocument::read(&paths, &env);
    findings.push(match document.fault() {
        None => fine(
            "config",
            format!(
                "{} {}",
                paths.config_file.display(),
                if document.exists {
                    "is readable"
                } else {
                    "does not exist yet"
                }
            ),
        ),
        Some((_, error)) => broken(
            "config",
            error.to_string(),
            "correct the file; `openclaw-gateway config check` says when it is fine",
        ),
    });
    let own = OwnSettings::load(&paths.own_file);
    findings.push(match &own {
        Ok(_) => fine("settings", format!("{} is fine", paths.own_file.display())),
        Err(error) => broken(
            "settings",
            error.to_string(),
            "correct the file; `openclaw-gateway config example` prints every key",
        ),
    });
    findings.push(permissions(&paths.config_file));
    let configured = document
        .get(&["gateway", "port"])
        .and_then(|port| port.as_u64())
        .and_then(|port| u16::try_from(port).ok());
    let port = crate::config::gateway_port(&env, configured);
    findings.push(match holder_of(port) {
        None => fine("port", format!("port {port} is free: no gateway runs")),
        Some(holder) if holder.contains("openclaw-gateway") => {
            fine("port", format!("port {port} is ours: {holder}"))
        }
        Some(holder) => broken(
            "port",
            format!("port {port} is held by {holder}"),
            "stop it, or choose another port with gateway.port",
        ),
    });
    if let Ok(own) = &own {
        findings.push(
            match find::package(&find::Places::from_env(&env), &own.upstream.command) {
                Ok(found) => fine(
                    "openclaw",
                    format!("openclaw {} at {}", found.version, found.root.display()),
                ),
                Err(why) => Finding {
                    check: "openclaw",
                    ok: true,
                    what: format!("none: {why}"),
                    fix: None,
                },
            },
        );
    }
    let refusals = match own.as_ref().map(|own| &own.admin_listen) {
        Ok(AdminListen::At(address)) if address.port() != 0 => recent_refusals(*address),
        _ => None,
    };
    if let Some(refusals) = &refusals {
        findings.push(fine(
            "clients",
            match refusals.len() {
                0 => "no connect was refused since the gateway started".to_owned(),
                count => format!("the last {count} refused connects are listed below"),
            },
        ));
    }
    Ok(Findings {
        all: findings,
        refusals: refusals.unwrap_or_default(),
    })
}

pub(super) fn run(profile: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let found = look(profile)?;
    if json {
        print(&found.json().to_string());
    } else {
        for finding in &found.all {
            print(&format!(
                "{} {:<9} {}",
                if finding.ok { "ok " } else { "BAD" },
                finding.check,
                finding.what
            ));
            if let Some(fix) = &finding.fix {
                print(&format!("              {fix}"));
            }
        }
        for refusal in &found.refusals {
            let text = |key: &str| refusal[key].as_str().unwrap_or_default().to_owned();
            let at = Duration::from_millis(refusal["atMs"].as_u64().unwrap_or_default());
            print(&format!(
                "{}  {}",
                httpdate::fmt_http_date(UNIX_EPOCH + at),
                text("text")
            ));
        }
    }
    Ok(ExitCode::from(u8::from(!found.healthy())))
}

/// Connects that the running gateway turned away, oldest first; `None` when none can be asked.
fn recent_refusals(admin: SocketAddr) -> Option<Vec<Value>> {
    const WAIT: Duration = Duration::from_secs(2);
    /// Ten refusals are far smaller.
    const ANSWER_BYTES_MAX: u64 = 256 * 1024;
    let ip = match admin.ip() {
        ip if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, admin.port());
    let mut stream = TcpStream::connect_timeout(&address, WAIT).ok()?;
    stream.set_read_timeout(Some(WAIT)).ok()?;
    stream.set_write_timeout(Some(WAIT)).ok()?;
    // HTTP/1.0: the answer ends with the connection and comes in one piece.
    write!(stream, "GET /refusals HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if head.split(' ').nth(1) != Some("200") {
        return None;
    }
    let body: Value = serde_json::from_str(body).ok()?;
    body["refusals"].as_array().cloned()
}

const fn fine(check: &'static str, what: String) -> Finding {
    Finding {
        check,
        ok: true,
        what,
        fix: None,
    }
}

fn broken(check: &'static str, what: String, fix: &str) -> Finding {
    Finding {
        check,
        ok: false,
        what,
        fix: Some(fix.to_owned()),
    }
}

fn permissions(file: &std::path::Path) -> Finding {
    use std::os::unix::fs::PermissionsExt as _;
    match file.metadata() {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => broken(
            "secrets",
            format!("{} can be read by others", file.display()),
            &format!("chmod 600 {}", file.display()),
        ),
        _ => fine(
            "secrets",
            "the configuration is readable by its owner only".to_owned(),
        ),
    }
}

/// The process that listens on a TCP port, as `name (pid N)`; `None` when it is free or cannot be told.
/// Source: /proc/net/tcp and the socket inodes under /proc/<pid>/fd.
pub(super) fn holder_of(port: u16) -> Option<String> {
    let wanted = format!(":{port:04X}");
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| {
            let text = std::fs::read_to_string(table).ok()?;
            text.lines().skip(1).find_map(|line| {
                let columns: Vec<&str> = line.split_whitespace().collect();
                // Column 3: state 0A is LISTEN.
                let listens = columns.get(3) == Some(&"0A") && columns.get(1)?.ends_with(&wanted);
                if listens {
                    columns.get(9).map(|inode| (*inode).to_owned())
                } else {
                    None
                }
            })
        })?;
    let socket = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        if files.flatten().any(|file| {
            std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket.as_str())
        }) {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            return Some(format!(
                "{} (pid {pid})",
                command.trim().chars().take(80).collect::<String>()
            ));
        }
    }
    Some("another user's process".to_owned())
}
