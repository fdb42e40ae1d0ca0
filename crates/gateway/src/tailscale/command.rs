//! The `tailscale` command line: found, asked, waited for.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::config::Env;

/// Of one question. Source: src/infra/tailscale.ts at 2026.9.6, as all numbers here.
const QUESTION: Duration = Duration::from_secs(5);
const VERSION: Duration = Duration::from_secs(3);
const OUTPUT_BYTES_MAX: u64 = 400_000;
/// How long a daemon that is still starting is waited for.
const DAEMON_WAIT: Duration = Duration::from_secs(90);
const DAEMON_POLL: Duration = Duration::from_secs(2);
const NAME_TRIES: u32 = 3;
const NAME_RETRY: Duration = Duration::from_millis(500);
/// Where the Mac's app has it.
const MAC_APP: &str = "/Applications/Tailscale.app/Contents/MacOS/Tailscale";

/// Runs its arguments until they end, or until its standard input does.
pub(super) const WHILE_INPUT_LASTS: &str = r#"exec 3<&0
"$@" </dev/null 3<&- & held=$!
(cat <&3 >/dev/null; kill "$held") & watch=$!
exec 3<&-
wait "$held"; status=$?
kill "$watch" 2>/dev/null
exit "$status""#;

/// How to run it.
#[derive(Debug, Clone)]
pub(super) struct Tailscale {
    /// The program and what stands before its arguments: itself, or `sudo -n` and it.
    words: Vec<String>,
}

/// Why a question has no answer.
#[derive(Debug)]
pub(super) struct Failed {
    /// What it said, or what the system said.
    pub(super) why: String,
    /// It may be answered a moment later: the daemon is not there yet.
    pub(super) is_passing: bool,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.why)
    }
}

impl Tailscale {
    /// The one on `PATH`, else the Mac's app.
    ///
    /// # Errors
    /// There is none that runs.
    pub(super) async fn find(env: &Env) -> Result<Self, String> {
        let on_path = std::env::split_paths(env.trimmed("PATH").unwrap_or_default())
            .map(|folder| folder.join("tailscale"))
            .filter(|file| is_program(file));
        let all = on_path.chain([PathBuf::from(MAC_APP)]);
        for file in all.filter(|file| file.exists()) {
            let Some(word) = file.to_str() else { continue };
            let found = Self {
                words: vec![word.to_owned()],
            };
            if found.ask(&["version"], VERSION).await.is_ok() {
                return Ok(found);
            }
        }
        Err("the program `tailscale` was not found; install Tailscale and log in, or set gateway.tailscale.mode to \"off\"".to_owned())
    }

    /// As root, where sudo asks for no password.
    pub(super) fn by_sudo(&self) -> Self {
        let mut words = vec!["sudo".to_owned(), "-n".to_owned()];
        words.extend(self.words.iter().cloned());
        Self { words }
    }

    /// Its command for a route that is held: what root runs can neither be signalled by us nor does it die with us, so there
    /// it ends when its input does.
    pub(super) fn holder(&self, args: &[&str]) -> (String, Vec<String>) {
        let (program, mut words) = self.command(args);
        if program != "sudo" {
            return (program, words);
        }
        let mut held = vec!["-n".to_owned()];
        held.extend(["sh", "-c", WHILE_INPUT_LASTS, "sh"].map(str::to_owned));
        held.extend(words.drain(1..));
        (program, held)
    }

    pub(super) fn command(&self, args: &[&str]) -> (String, Vec<String>) {
        let mut words = self.words.clone();
        words.extend(args.iter().map(|arg| (*arg).to_owned()));
        let program = words.remove(0);
        (program, words)
    }

    /// Runs it and reads the JSON it prints, whatever stands around it.
    ///
    /// # Errors
    /// It failed, took too long, or printed something else.
    pub(super) async fn json(&self, args: &[&str]) -> Result<Value, Failed> {
        let printed = self.ask(args, QUESTION).await?;
        if printed.trim().is_empty() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        object_in(&printed).ok_or_else(|| Failed {
            why: format!("`tailscale {}` printed no JSON", args.join(" ")),
            is_passing: false,
        })
    }

    /// Runs it to its end and answers what it printed.
    ///
    /// # Errors
    /// It could not be run, failed or took too long.
    pub(super) async fn ask(&self, args: &[&str], limit: Duration) -> Result<String, Failed> {
        let (program, words) = self.command(args);
        let failed = |why: String| Failed {
            is_passing: is_passing(&why),
            why,
        };
        let mut child = Command::new(&program)
            .args(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("{program}: {error}")))?;
        let (mut printed, mut complaint) = (String::new(), String::new());
        let mut out = child.stdout.take().map(|out| out.take(OUTPUT_BYTES_MAX));
        let mut errors = child.stderr.take().map(|out| out.take(OUTPUT_BYTES_MAX));
        let reading = async {
            let out = async {
                match &mut out {
                    Some(out) => out.read_to_string(&mut printed).await,
                    None => Ok(0),
                }
            };
            let errors = async {
                match &mut errors {
                    Some(out) => out.read_to_string(&mut complaint).await,
                    None => Ok(0),
                }
            };
            let (out, errors) = tokio::join!(out, errors);
            out.and(errors)?;
            child.wait().await
        };
        let Ok(ended) = tokio::time::timeout(limit, reading).await else {
            return Err(Failed {
                why: format!(
                    "`tailscale {}` did not answer within {} s",
                    args.join(" "),
                    limit.as_secs()
                ),
                is_passing: true,
            });
        };
        match ended {
            Ok(status) if status.success() => Ok(printed),
            Ok(status) => {
                let said = [complaint.trim(), printed.trim()]
                    .into_iter()
                    .find(|said| !said.is_empty())
                    .map_or_else(
                        || status.to_string(),
                        |said| said.chars().take(2_000).collect(),
                    );
                Err(failed(said))
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Waits while the daemon is still starting, as after a boot; whatever else is wrong, the route will say.
    pub(super) async fn wait_for_daemon(&self) {
        let waiting = async {
            let mut told = None;
            loop {
                let pending = match self.json(&["status", "--json"]).await {
                    Ok(status) => match status["BackendState"].as_str() {
                        Some(state @ ("NoState" | "Starting")) => state.to_owned(),
                        _ => return,
                    },
                    Err(error) if error.is_passing => "not reachable".to_owned(),
                    Err(_) => return,
                };
                if told.as_ref() != Some(&pending) {
                    tracing::info!(daemon = %pending, "tailscale: waiting for its daemon, 90 s at most");
                    told = Some(pending);
                }
                tokio::time::sleep(DAEMON_POLL).await;
            }
        };
        // At the deadline the route is asked for all the same, and says what is wrong.
        tokio::time::timeout(DAEMON_WAIT, waiting).await.ok();
    }

    /// The machine's name, while the daemon may still be settling.
    ///
    /// # Errors
    /// It has none, or does not say.
    pub(super) async fn hostname_once_settled(&self) -> Result<String, Failed> {
        let mut tries = 1;
        loop {
            match self.json(&["status", "--json"]).await {
                Ok(status) => {
                    return name_of(&status).ok_or_else(|| Failed {
                        why: "it gives neither a name nor an address".to_owned(),
                        is_passing: false,
                    });
                }
                Err(error) if error.is_passing && tries < NAME_TRIES => {}
                Err(error) => return Err(error),
            }
            tries += 1;
            tokio::time::sleep(NAME_RETRY).await;
        }
    }
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

fn is_passing(why: &str) -> bool {
    let why = why.to_lowercase();
    [
        "failed to connect to local tailscale",
        "connection refused",
        "503 service unavailable",
    ]
    .iter()
    .any(|sign| why.contains(sign))
}

/// From the first `{` to the last `}`: some versions print warnings around it.
fn object_in(printed: &str) -> Option<Value> {
    let (start, end) = (printed.find('{')?, printed.rfind('}')?);
    serde_json::from_str(printed.get(start..=end)?).ok()
}

/// `Self.DNSName` without its dot, else the first of `Self.TailscaleIPs`.
fn name_of(status: &Value) -> Option<String> {
    let own = &status["Self"];
    let name = own["DNSName"].as_str().filter(|name| !name.is_empty());
    let name = name.map(|name| name.strip_suffix('.').unwrap_or(name));
    name.or_else(|| own["TailscaleIPs"][0].as_str())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_is_read_from_noise_and_an_address_stands_in_for_it() {
        let noisy =
            "# warning: client and daemon differ\n{\"Self\":{\"DNSName\":\"box.tail1.ts.net.\"}}\n";
        let status = object_in(noisy).expect("an object");
        assert_eq!(name_of(&status).as_deref(), Some("box.tail1.ts.net"));
        let bare = json!({"Self": {"DNSName": "", "TailscaleIPs": ["100.64.0.1", "fd7a::1"]}});
        assert_eq!(name_of(&bare).as_deref(), Some("100.64.0.1"));
        assert_eq!(name_of(&json!({"Self": null})), None);
        assert_eq!(object_in("nothing } here {"), None);
    }

    #[test]
    fn what_may_pass_is_told_from_what_stays() {
        assert!(is_passing(
            "failed to connect to local tailscaled; it doesn't appear to be running"
        ));
        assert!(!is_passing("Logged out."));
    }
}
