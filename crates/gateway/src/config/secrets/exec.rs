//! Secrets that a program keeps: it gets a JSON request on its standard input and answers on its standard output.
//!
//! Source: `resolveExecRefs` and `assertSecureExecCommandPath` at 2026.9.6; docs/gateway/secrets/secretref-contract.md.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use serde_json::{Value, json};

use super::{Keepers, current_uid};
use crate::bridge::process::die_with_parent;

const TIMEOUT_MS: u64 = 5000;
const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;
const REQUEST_BYTES_MAX: usize = 256 * 1024;
const IDS_MAX: usize = 512;
/// The original's longest timer.
const TIMEOUT_MS_MAX: u64 = 2_147_483_647;

/// One answer for each id, in order. Blocks until the program ended or was ended.
///
/// # Errors
/// Why the program cannot be asked or gave nothing that can be read. Its output is never in the text.
pub(super) fn ask(
    provider: &str,
    settings: &Value,
    ids: &[&str],
    keepers: Keepers<'_>,
) -> Result<Vec<Result<String, String>>, String> {
    if settings.get("pluginIntegration").is_some() {
        return Err(format!(
            "Secret provider \"{provider}\" belongs to a plugin: it is resolved by OpenClaw only"
        ));
    }
    if ids.len() > IDS_MAX {
        return Err(format!(
            "Exec provider \"{provider}\" exceeded maxRefsPerProvider ({IDS_MAX})."
        ));
    }
    let program = program(provider, settings, keepers)?;
    let request = json!({ "protocolVersion": 1, "provider": provider, "ids": ids }).to_string();
    if request.len() > REQUEST_BYTES_MAX {
        return Err(format!(
            "Exec provider \"{provider}\" request exceeded maxBatchBytes ({REQUEST_BYTES_MAX})."
        ));
    }
    let output = run(provider, settings, &program, request, keepers)?;
    let json_only = settings.get("jsonOnly").and_then(Value::as_bool) != Some(false);
    answers(provider, ids, &output, json_only)
}

/// The program, if nobody else could have put another in its place.
fn program(provider: &str, settings: &Value, keepers: Keepers<'_>) -> Result<PathBuf, String> {
    let label = format!("secrets.providers.{provider}.command");
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    let command = settings.get("command").map(text).unwrap_or_default();
    if command.is_empty() {
        return Err(format!("{label} must be an absolute path."));
    }
    let path = keepers.paths.user_path(&command);
    let shown = path.display();
    let meta = path
        .symlink_metadata()
        .map_err(|error| format!("{label} is not readable: {shown}: {error}"))?;
    if meta.is_symlink() {
        return Err(format!("{label} must not be a symlink: {shown}"));
    }
    if !meta.is_file() {
        return Err(format!("{label} must be a file: {shown}"));
    }
    let trusted: Vec<PathBuf> = settings
        .get("trustedDirs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|dir| keepers.paths.user_path(&text(dir)))
        .collect();
    if !trusted.is_empty() && !trusted.iter().any(|dir| path.starts_with(dir)) {
        return Err(format!("{label} is outside trustedDirs: {shown}"));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(format!(
            "{label} permissions are too open: {shown} (chmod go-w)"
        ));
    }
    let uid = current_uid();
    if meta.uid() != uid {
        return Err(format!(
            "{label} must be owned by the current user (uid={uid}): {shown}"
        ));
    }
    Ok(path)
}

/// What the program wrote to its standard output.
fn run(
    provider: &str,
    settings: &Value,
    program: &Path,
    request: String,
    keepers: Keepers<'_>,
) -> Result<Vec<u8>, String> {
    let mut command = Command::new(program);
    let texts = |key: &str| {
        let listed = settings.get(key).and_then(Value::as_array);
        listed.into_iter().flatten().filter_map(Value::as_str)
    };
    command
        .args(texts("args"))
        .env_clear()
        .current_dir(program.parent().unwrap_or(Path::new("/")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    for name in texts("passEnv") {
        if let Some(value) = keepers.env.get(name) {
            command.env(name, value);
        }
    }
    let own = settings.get("env").and_then(Value::as_object);
    for (name, value) in own.into_iter().flatten() {
        command.env(name, value.as_str().unwrap_or_default());
    }
    die_with_parent(&mut command);
    let child = command.spawn().map_err(|error| {
        format!(
            "Exec provider \"{provider}\" cannot be started: {}: {error}",
            program.display()
        )
    })?;
    let mut group = Group(child, false);
    let number = |key: &str| {
        let number = settings.get(key).and_then(Value::as_f64);
        number.filter(|number| *number >= 1.0)
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float casts saturate"
    )]
    let whole = |key: &str, default: u64| number(key).map_or(default, |number| number as u64);
    let timeout = whole("timeoutMs", TIMEOUT_MS).min(TIMEOUT_MS_MAX);
    let silence = whole("noOutputTimeoutMs", timeout).min(TIMEOUT_MS_MAX);
    let most = whole("maxOutputBytes", OUTPUT_BYTES_MAX);
    let words = group.converse(request)?;
    let deadline = Instant::now() + Duration::from_millis(timeout);
    let (mut output, mut written) = (Vec::new(), 0_u64);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let quiet = Duration::from_millis(silence);
        match words.recv_timeout(left.min(quiet)) {
            Ok((is_answer, bytes)) => {
                written += bytes.len() as u64;
                if written > most {
                    return Err(format!(
                        "Exec provider output exceeded maxOutputBytes ({most})."
                    ));
                }
                if is_answer {
                    output.extend_from_slice(&bytes);
                }
            }
            // Both ends of its output are closed.
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if left <= quiet => {
                return Err(format!(
                    "Exec provider \"{provider}\" timed out after {timeout}ms."
                ));
            }
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!(
                    "Exec provider \"{provider}\" produced no output for {silence}ms."
                ));
            }
        }
    }
    match group.code(deadline) {
        Some(0) => Ok(output),
        Some(code) => Err(format!(
            "Exec provider \"{provider}\" exited with code {code}."
        )),
        None => Err(format!(
            "Exec provider \"{provider}\" did not end by itself."
        )),
    }
}

/// The program and what it started, ended with this value; whether they are.
struct Group(Child, bool);

impl Group {
    /// Gives it the request and hears what it says: `true` with what came from the standard output.
    fn converse(&mut self, request: String) -> Result<mpsc::Receiver<(bool, Vec<u8>)>, String> {
        let (told, words) = mpsc::channel();
        let failed = |error: std::io::Error| format!("a thread could not be started: {error}");
        if let Some(mut input) = self.0.stdin.take() {
            // A program that does not read ends when it likes: the pipe breaks then.
            std::thread::Builder::new()
                .spawn(move || input.write_all(request.as_bytes()).ok())
                .map_err(failed)?;
        }
        if let Some(output) = self.0.stdout.take() {
            let told = told.clone();
            std::thread::Builder::new()
                .spawn(move || hear(output, true, &told))
                .map_err(failed)?;
        }
        if let Some(errors) = self.0.stderr.take() {
            std::thread::Builder::new()
                .spawn(move || hear(errors, false, &told))
                .map_err(failed)?;
        }
        Ok(words)
    }

    /// Its exit code, if it ends in time. What it left running is ended.
    fn code(&mut self, deadline: Instant) -> Option<i32> {
        let leader = self.leader();
        let (told, ended) = mpsc::channel();
        let waiting = std::thread::Builder::new().spawn(move || {
            let asked = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            // Also ends, with an error, once its status has been taken.
            while rustix::process::waitid(WaitId::Pid(leader), asked)
                .is_err_and(|error| error == rustix::io::Errno::INTR)
            {}
            told.send(()).ok();
        });
        waiting.ok()?;
        let left = deadline.saturating_duration_since(Instant::now());
        ended.recv_timeout(left).ok()?;
        self.end()
    }

    fn leader(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// Until the leader's status is taken here, its number is nobody else's.
    fn end(&mut self) -> Option<i32> {
        if !std::mem::replace(&mut self.1, true) {
            // A group without members is no error.
            rustix::process::kill_process_group(self.leader(), Signal::KILL).ok();
        }
        self.0.wait().ok()?.code()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

fn hear(mut from: impl Read, is_answer: bool, told: &Sender<(bool, Vec<u8>)>) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = buffer.get(..count).unwrap_or_default().to_vec();
        // Nobody listens any more: it is being ended.
        if told.send((is_answer, bytes)).is_err() {
            return;
        }
    }
}

fn answers(
    provider: &str,
    ids: &[&str],
    output: &[u8],
    json_only: bool,
) -> Result<Vec<Result<String, String>>, String> {
    let output = String::from_utf8_lossy(output);
    let output = output.trim();
    if output.is_empty() {
        return Err(format!(
            "Exec provider \"{provider}\" returned empty stdout."
        ));
    }
    let is_plain = !json_only && ids.len() == 1;
    let parsed: Value = match serde_json::from_str(output) {
        Ok(parsed) => parsed,
        Err(_) if is_plain => return Ok(vec![Ok(output.to_owned())]),
        Err(_) => {
            return Err(format!(
                "Exec provider \"{provider}\" returned invalid JSON."
            ));
        }
    };
    if let Value::String(secret) = &parsed
        && is_plain
    {
        return Ok(vec![Ok(secret.clone())]);
    }
    if !parsed.is_object() {
        return Err(format!(
            "Exec provider \"{provider}\" response must be an object."
        ));
    }
    if parsed.get("protocolVersion").and_then(Value::as_f64) != Some(1.0) {
        return Err(format!(
            "Exec provider \"{provider}\" protocolVersion must be 1."
        ));
    }
    let Some(values) = parsed.get("values").and_then(Value::as_object) else {
        return Err(format!(
            "Exec provider \"{provider}\" response missing \"values\"."
        ));
    };
    let errors = parsed.get("errors").and_then(Value::as_object);
    let one = |id: &&str| {
        if let Some(error) = errors.and_then(|errors| errors.get(*id)) {
            // Other codes may be anything, a secret too.
            let code = match error.get("code").and_then(Value::as_str) {
                Some(code @ ("AMBIGUOUS_DUPLICATE_KEY" | "NOT_FOUND")) => format!(" ({code})"),
                _ => String::new(),
            };
            return Err(format!(
                "Exec provider \"{provider}\" failed for id \"{id}\"{code}."
            ));
        }
        match values.get(*id) {
            Some(Value::String(secret)) => Ok(secret.clone()),
            Some(_) => Err(format!(
                "Secret reference \"exec:{provider}:{id}\" resolved to a non-string or empty value."
            )),
            None => Err(format!(
                "Exec provider \"{provider}\" response missing id \"{id}\"."
            )),
        }
    };
    Ok(ids.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, Paths};
    use std::os::unix::fs::PermissionsExt;

    struct Place {
        dir: tempfile::TempDir,
        env: Env,
        paths: Paths,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let home = dir.path().to_str().expect("UTF-8").to_owned();
            let env = Env::from_pairs([("HOME", home.as_str()), ("PASSED", "on")]);
            let paths = Paths::resolve(&env).expect("paths");
            Self { dir, env, paths }
        }

        fn script(&self, text: &str) -> PathBuf {
            let file = self.dir.path().join("keeper");
            // Not written by this process itself: a copy of its open handle in a child would make it "busy".
            let status = Command::new("/bin/sh")
                .args(["-c", "printf '%s' \"$2\" > \"$1\"; chmod 700 \"$1\"", "sh"])
                .arg(&file)
                .arg(format!("#!/bin/sh\n{text}\n"))
                .status();
            assert!(status.is_ok_and(|status| status.success()));
            file
        }

        fn ask(
            &self,
            text: &str,
            more: &Value,
            ids: &[&str],
        ) -> Result<Vec<Result<String, String>>, String> {
            let mut settings = json!({ "source": "exec", "command": self.script(text) });
            for (key, value) in more.as_object().into_iter().flatten() {
                settings[key] = value.clone();
            }
            let config = json!({});
            let keepers = Keepers {
                config: &config,
                env: &self.env,
                paths: &self.paths,
            };
            super::ask("vault", &settings, ids, keepers)
        }
    }

    fn ok(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }

    #[test]
    fn a_program_is_asked_once_for_all_it_keeps() {
        let place = Place::new();
        let text = r#"read -r line || true
            case "$line" in '{"protocolVersion":1,"provider":"vault","ids":["a/b","c","d"]}') ;; *) exit 9 ;; esac
            echo "progress" >&2
            printf '{"protocolVersion":1,"values":{"a/b":"%s-%s","c":5},"errors":{"d":{"code":"NOT_FOUND","message":"s3cret"}}}' "$1" "$PASSED$OWN$HOME""#;
        let more =
            json!({ "args": ["--x"], "passEnv": ["PASSED", "ABSENT"], "env": { "OWN": "ours" } });
        let answers = place.ask(text, &more, &["a/b", "c", "d"]).expect("answers");
        assert_eq!(answers[0], ok("--x-onours"));
        assert_eq!(
            answers[1],
            Err(
                "Secret reference \"exec:vault:c\" resolved to a non-string or empty value."
                    .to_owned()
            )
        );
        assert_eq!(
            answers[2],
            Err("Exec provider \"vault\" failed for id \"d\" (NOT_FOUND).".to_owned())
        );
    }

    #[test]
    fn plain_text_is_taken_when_the_user_says_so() {
        let place = Place::new();
        let plain = json!({ "jsonOnly": false });
        assert_eq!(
            place.ask("echo plain", &plain, &["a"]),
            Ok(vec![ok("plain")])
        );
        assert_eq!(
            place.ask("echo '\"quoted\"'", &plain, &["a"]),
            Ok(vec![ok("quoted")])
        );
        let failed = |text: &str, more: &Value, ids: &[&str]| {
            place.ask(text, more, ids).expect_err("an error")
        };
        assert_eq!(
            failed("echo plain", &plain, &["a", "b"]),
            "Exec provider \"vault\" returned invalid JSON."
        );
        assert_eq!(
            failed("true", &plain, &["a"]),
            "Exec provider \"vault\" returned empty stdout."
        );
        assert_eq!(
            failed("echo 5", &json!({}), &["a"]),
            "Exec provider \"vault\" response must be an object."
        );
        assert_eq!(
            failed("echo '{}'", &json!({}), &["a"]),
            "Exec provider \"vault\" protocolVersion must be 1."
        );
        assert_eq!(
            failed("echo s3cret; exit 3", &json!({}), &["a"]),
            "Exec provider \"vault\" exited with code 3."
        );
    }

    #[test]
    fn a_program_that_hangs_or_floods_is_ended_with_what_it_started() {
        let place = Place::new();
        let failed =
            |text: &str, more: Value| place.ask(text, &more, &["a"]).expect_err("an error");
        let mark = place.dir.path().join("pid");
        let hang = format!("sleep 600 & echo $! > {}; wait", mark.display());
        assert_eq!(
            failed(&hang, json!({ "timeoutMs": 3000 })),
            "Exec provider \"vault\" timed out after 3000ms."
        );
        let pid = std::fs::read_to_string(&mark).expect("its child's number");
        assert!(pid.trim().parse::<u32>().is_ok(), "{pid:?}");
        let gone = Instant::now() + Duration::from_secs(10);
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        // A zombie is gone too: whoever inherits it takes its status.
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < gone, "what the program started still runs");
            std::thread::yield_now();
        }
        assert_eq!(
            failed(
                "echo begun; sleep 600",
                json!({ "timeoutMs": 60_000, "noOutputTimeoutMs": 300 })
            ),
            "Exec provider \"vault\" produced no output for 300ms."
        );
        assert_eq!(
            failed("yes", json!({ "maxOutputBytes": 5000 })),
            "Exec provider output exceeded maxOutputBytes (5000)."
        );
    }

    #[test]
    fn a_program_that_others_could_replace_is_not_started() {
        let place = Place::new();
        let file = place.script("true");
        let link = place.dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        let refused = |settings: Value| {
            let config = json!({});
            let keepers = Keepers {
                config: &config,
                env: &place.env,
                paths: &place.paths,
            };
            super::ask("vault", &settings, &["a"], keepers).expect_err("refused")
        };
        let begins = |text: String, expected: &str| {
            assert!(
                text.starts_with(&format!("secrets.providers.vault.command {expected}")),
                "{text}"
            );
        };
        begins(refused(json!({})), "must be an absolute path.");
        begins(refused(json!({ "command": link })), "must not be a symlink");
        begins(
            refused(json!({ "command": place.dir.path() })),
            "must be a file",
        );
        begins(
            refused(json!({ "command": place.dir.path().join("absent") })),
            "is not readable",
        );
        begins(
            refused(json!({ "command": file, "trustedDirs": ["/opt/secrets"] })),
            "is outside trustedDirs",
        );
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o722)).expect("a mode");
        begins(
            refused(json!({ "command": file })),
            "permissions are too open",
        );
    }
}
