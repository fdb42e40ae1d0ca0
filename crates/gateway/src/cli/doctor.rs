//! `doctor`: what breaks a first day.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::print;
use super::target::environment;
use crate::assistant;
use crate::bridge::process::find;
use crate::config::{
    AdminListen, ConfigDocument, Keepers, OwnSettings, Paths, Secrets, UpstreamMode,
};
use crate::lower;
use crate::procfs;

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
    findings.extend(
        own.as_ref()
            .ok()
            .and_then(|own| secrets(&document, &paths, own)),
    );
    let configured = document
        .get(&["gateway", "port"])
        .and_then(|port| port.as_u64())
        .and_then(|port| u16::try_from(port).ok());
    let port = crate::config::gateway_port(&env, configured);
    findings.push(match procfs::holder_of(port) {
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
    if let Ok(own) = &own
        && own.upstream.mode == UpstreamMode::Off
    {
        // Of agents that run here; OpenClaw honours them all.
        let (fault, words) = assistant::exec::findings(&document.resolved, &paths.state_dir);
        findings.extend(words.into_iter().map(|word| fine("exec", word)));
        if let Some(fault) = fault {
            findings.push(broken(
                "approvals",
                fault,
                "until then agents of this gateway run no commands",
            ));
        }
    }
    if let Ok(own) = &own
        && own.upstream.mode == UpstreamMode::Off
    {
        let words = assistant::unhonoured_compaction(&document.resolved).into_iter();
        findings.extend(words.map(|word| fine("compaction", word)));
        findings.extend(mcp(&document, own));
    }
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
    let refusals = own.as_ref().ok().and_then(|own| ask(own, "refusals"));
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

/// The references that this gateway follows itself, followed now. `None` without any.
fn secrets(document: &ConfigDocument, paths: &Paths, own: &OwnSettings) -> Option<Finding> {
    let keepers = Keepers {
        config: &document.resolved,
        env: &document.env,
        paths,
    };
    let wanted = lower::wanted(keepers, own, own.upstream.mode == UpstreamMode::Off);
    let count = wanted.len();
    let followed = Secrets::resolve(wanted, keepers);
    let failed: Vec<String> = followed
        .failed()
        .map(|(reference, why)| format!("{reference}: {why}"))
        .collect();
    match (count, failed.is_empty()) {
        (0, _) => None,
        (_, true) => Some(fine(
            "secrets",
            format!("{count} secret references can be resolved"),
        )),
        (_, false) => Some(broken(
            "secrets",
            failed.join("; "),
            "until then the channel accounts and models that use them do not work; SIGHUP or a change of the file tries again",
        )),
    }
}

/// MCP servers: as the running gateway sees them, or else what can be told without starting them.
fn mcp(document: &ConfigDocument, own: &OwnSettings) -> Vec<Finding> {
    let config = &document.resolved;
    let words = assistant::unhonoured_servers(config).into_iter();
    let mut findings: Vec<Finding> = words.map(|word| fine("mcp", word)).collect();
    let variable = |name: &str| document.env.trimmed(name).map(str::to_owned);
    let servers = assistant::server_findings(config, &variable);
    let live = match servers.is_empty() {
        true => None,
        false => ask(own, "mcp"),
    };
    for (name, found) in servers {
        let row = live.iter().flatten().find(|row| row["name"] == *name);
        let error = row.and_then(|row| row["error"].as_str().map(str::to_owned));
        let why = found.as_ref().err().cloned().or(error);
        findings.push(match (why, row) {
            (Some(why), _) => broken(
                "mcp",
                format!("{name}: {why}"),
                "until it works, agents go on without its tools; `enabled: false` keeps it for later",
            ),
            (None, Some(row)) if row["state"] == "ready" => fine(
                "mcp",
                format!("{name}: {} tools, sessions: {}", row["tools"], row["sessions"]),
            ),
            (None, _) => fine(
                "mcp",
                format!("{name}: {}, begun when a turn needs it", found.unwrap_or_default()),
            ),
        });
    }
    findings
}

/// The list that the running gateway has at this path of its admin address; `None` when none can be asked.
fn ask(own: &OwnSettings, name: &str) -> Option<Vec<Value>> {
    match &own.admin_listen {
        AdminListen::At(address) if address.port() != 0 => listed(*address, name),
        _ => None,
    }
}

fn listed(admin: SocketAddr, name: &str) -> Option<Vec<Value>> {
    const WAIT: Duration = Duration::from_secs(2);
    /// Ten refusals and all servers are far smaller.
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
    write!(stream, "GET /{name} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
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
    body[name].as_array().cloned()
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
