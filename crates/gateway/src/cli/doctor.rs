//! `doctor`: what breaks a first day.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use client::{Client, ClientError, ConnectOptions};
use serde_json::{Value, json};

use super::target::environment;
use super::{To, call, print, service};
use crate::assistant;
use crate::bridge::process::find;
use crate::bridge::remote::Target;
use crate::config::{
    AdminListen, ConfigDocument, Env, Keepers, OwnSettings, Paths, Secrets, UpstreamMode,
};
use crate::lower;
use crate::procfs;

/// Longest wait for a gateway's answer, milliseconds.
const ANSWER_MS: u64 = 15_000;
/// 2026-09-01: no clock is earlier.
const RELEASED: Duration = Duration::from_secs(1_788_220_800);
/// As far as a device's clock may be off. Source: `DEVICE_SIGNATURE_SKEW_MS`, 2 minutes, at 2026.9.6.
const CLOCK_SKEW: Duration = Duration::from_secs(120);

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
    findings.push(permissions(&[&paths.config_file, &paths.own_dir]));
    findings.push(clock(&[&paths.config_file, &paths.own_dir], clock_now()));
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
    // Before anything is asked of it that it may refuse.
    let refusals = own.as_ref().ok().and_then(|own| ask(own, "refusals"));
    let holder = procfs::holder_of(port);
    let is_ours = matches!(holder, Some(procfs::Holder::Us(_)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    findings.extend(runtime.block_on(token(profile, &document, &paths, is_ours)));
    findings.push(match holder {
        None => fine("port", format!("port {port} is free: no gateway runs")),
        Some(holder) if is_ours => fine("port", format!("port {port} is ours: {holder}")),
        Some(holder @ procfs::Holder::Manager(_)) if service::socket_listens() => fine(
            "port",
            format!(
                "port {port} is ours: {} starts this gateway as soon as somebody connects ({holder})",
                service::SOCKET
            ),
        ),
        Some(holder) => broken(
            "port",
            format!("port {port} is held by {holder}"),
            match holder {
                procfs::Holder::OpenClaw(_) => "stop it with `openclaw gateway stop`",
                procfs::Holder::Manager(_) => {
                    "`systemctl --user list-sockets` or `systemctl list-sockets` names the unit: stop and disable that, or choose another port with gateway.port"
                }
                _ => "stop it, or choose another port with gateway.port",
            },
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
        findings.extend(runtime.block_on(openclaw(&env, &document, own)));
    }
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

/// Whether the running gateway takes the secret that is configured, and OpenClaw's command line can know it.
async fn token(
    profile: Option<&str>,
    document: &ConfigDocument,
    paths: &Paths,
    is_running: bool,
) -> Option<Finding> {
    let here = To {
        port: None,
        token: None,
        timeout: ANSWER_MS,
    };
    let refused = match is_running {
        true => match call::connect(profile, &here, "health").await {
            Ok(_) => None,
            Err(error) => match error.downcast_ref::<ClientError>() {
                Some(ClientError::Refused(shape)) => Some(shape.message.clone()),
                _ => {
                    let what = format!("the running gateway does not answer: {error:#}");
                    return Some(broken("token", what, "openclaw-gateway status"));
                }
            },
        },
        false => None,
    };
    let variable = document.env.trimmed("OPENCLAW_GATEWAY_TOKEN").is_some();
    if let Some(why) = refused {
        let (what, fix) = match variable {
            true => (
                "the variable OPENCLAW_GATEWAY_TOKEN".to_owned(),
                "unset it, or give the gateway the same one and restart it",
            ),
            false => (
                paths.config_file.display().to_string(),
                "restart the gateway, which was started with another secret",
            ),
        };
        let what = format!("the running gateway does not take the secret of {what}: {why}");
        return Some(broken("token", what, fix));
    }
    let stored = paths.own_dir.join("token");
    let auth = |key: &str| document.get(&["gateway", "auth", key]);
    let is_configured = variable
        || auth("token").is_some()
        || auth("password").is_some()
        || auth("mode").is_some_and(|mode| mode != "token");
    if !is_configured && stored.exists() {
        return Some(broken(
            "token",
            format!(
                "{} has no gateway.auth.token: OpenClaw's command line can't know the gateway's",
                paths.config_file.display()
            ),
            &format!(
                "openclaw config set gateway.auth.token \"$(cat '{}')\"",
                stored.display()
            ),
        ));
    }
    is_running.then(|| {
        fine(
            "token",
            "the running gateway takes the configured secret".to_owned(),
        )
    })
}

/// The package, a Node that can run it, and the gateway that is attached to.
async fn openclaw(env: &Env, document: &ConfigDocument, own: &OwnSettings) -> Vec<Finding> {
    let settings = &own.upstream;
    let places = find::Places::from_env(env);
    let package = match find::package(&places, &settings.command) {
        Ok(package) => package,
        Err(why) if settings.mode == UpstreamMode::Supervise => {
            return vec![broken(
                "openclaw",
                why.to_string(),
                "or run without it: [upstream] mode = \"off\" in openclaw-gateway.toml",
            )];
        }
        Err(why) => {
            let none = fine("openclaw", format!("none: {why}"));
            return std::iter::once(none)
                .chain(attached(document, own).await)
                .collect();
        }
    };
    let found = fine(
        "openclaw",
        format!("openclaw {} at {}", package.version, package.root.display()),
    );
    let node = match settings.mode {
        UpstreamMode::Supervise | UpstreamMode::Auto => {
            let node = find::node(
                &places,
                &package,
                &settings.command,
                settings.node.as_deref(),
            );
            Some(match node.await {
                Ok(node) => fine(
                    "node",
                    format!("Node {} at {}", node.version, node.program.display()),
                ),
                Err(why) => broken(
                    "node",
                    why.to_string(),
                    "until then OpenClaw is not started behind this gateway",
                ),
            })
        }
        UpstreamMode::Attach | UpstreamMode::Off => attached(document, own).await,
    };
    std::iter::once(found).chain(node).collect()
}

/// Whether the gateway at `[upstream] url` answers and takes our token, where it is on this machine.
async fn attached(document: &ConfigDocument, own: &OwnSettings) -> Option<Finding> {
    let settings = &own.upstream;
    let url = settings.url.as_deref()?;
    let Target::Here(address) = Target::parse(url).ok()? else {
        return None;
    };
    if settings.mode != UpstreamMode::Attach {
        return None;
    }
    let configured = document.get(&["gateway", "auth", "token"]);
    let token = settings
        .token
        .as_ref()
        .map(|token| token.expose().to_owned());
    let options = ConnectOptions {
        token: token.or_else(|| configured.and_then(Value::as_str).map(str::to_owned)),
        password: None,
        scopes: vec!["operator.read".to_owned()],
        timeout: Duration::from_millis(ANSWER_MS),
    };
    Some(match Client::connect(address, &options).await {
        Ok(_) => fine("upstream", format!("{url} answers and takes our token")),
        Err(ClientError::Refused(shape)) => broken(
            "upstream",
            format!("{url} refuses our token: {}", shape.message),
            "set token or token_file under [upstream] in openclaw-gateway.toml to the gateway.auth.token of that gateway",
        ),
        Err(why) => broken(
            "upstream",
            format!("{url}: {why}"),
            "start that gateway (`openclaw gateway run`), or correct [upstream] url",
        ),
    })
}

/// A clock that is off makes certificates and the signatures of devices worthless.
fn clock(written: &[&Path], now: SystemTime) -> Finding {
    let fix = "set this machine's clock (`timedatectl set-ntp true`): devices are refused when it is 2 minutes off";
    if now < UNIX_EPOCH + RELEASED {
        let what = "this machine's clock is before the release of OpenClaw 2026.9.6";
        return broken("clock", what.to_owned(), fix);
    }
    let folders = written.iter().filter_map(|path| path.read_dir().ok());
    let inside = folders.flatten().flatten().map(|entry| entry.path());
    let all = written.iter().map(|path| path.to_path_buf()).chain(inside);
    let ahead = all
        .filter_map(|path| {
            let at = path.metadata().and_then(|file| file.modified()).ok()?;
            Some((at.duration_since(now).ok()?, path))
        })
        .max();
    match ahead {
        Some((ahead, path)) if ahead > CLOCK_SKEW => broken(
            "clock",
            format!(
                "{} was written {} s from now: this machine's clock was set back",
                path.display(),
                ahead.as_secs()
            ),
            fix,
        ),
        _ => fine(
            "clock",
            "the clock agrees with what was written here".to_owned(),
        ),
    }
}

fn clock_now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(crate::clock::now_ms())
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

/// The first of these files that others can read.
fn permissions(files: &[&Path]) -> Finding {
    use std::os::unix::fs::PermissionsExt as _;
    let is_open = |file: &&&Path| {
        file.metadata()
            .is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
    };
    match files.iter().find(is_open) {
        Some(file) => broken(
            "secrets",
            format!("{} can be read by others", file.display()),
            &format!("chmod go= {}", file.display()),
        ),
        None => fine(
            "secrets",
            "the configuration is readable by its owner only".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_or_never_set_is_seen() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("token"), "x").expect("written");
        let looked = |now| clock(&[dir.path()], now);
        let now = dir.path().metadata().and_then(|own| own.modified());
        let now = now.expect("a time");
        assert!(looked(now).ok);
        let earlier = looked(now - Duration::from_secs(200));
        assert!(
            !earlier.ok && earlier.what.contains("set back"),
            "{}",
            earlier.what
        );
        assert!(!looked(UNIX_EPOCH).ok);
    }
}
