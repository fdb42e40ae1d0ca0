//! Commands that agents run: `exec` and `process`, who allows what, who is asked.
//!
//! Source: src/agents/bash-tools.exec-run.ts, bash-tools.exec-host-gateway.ts and bash-tools.process.ts at 2026.9.6. A command
//! runs through the shell on this machine, in the agent's workspace, as the user of this process; there is no sandbox.

mod allowlist;
mod approvals;
mod binding;
mod control;
mod document;
mod environment;
mod gate;
mod login_path;
pub(crate) mod methods;
mod names;
mod output;
mod policy;
mod process;
mod safe_bins;
mod shell;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use store::Store;
use tokio::sync::mpsc;

use self::approvals::Approvals;
use self::gate::Verdict;
use self::policy::{Host, Settings};
use self::process::{Exit, Order, Process, Processes, Reason};
use super::tools::{Done, Origin, Why};
use crate::app::App;
use crate::clock;

/// What a person should know of commands: why none run, and which keys of the file mean less than with OpenClaw.
pub(crate) fn findings(config: &Value, state_dir: &Path) -> (Option<String>, Vec<String>) {
    let fault = document::Document::read(state_dir).fault;
    (fault, policy::unhonoured(config))
}

/// Between two pieces of a command's output that clients are told of.
const TOLD_EVERY: Duration = Duration::from_millis(100);
const FOLLOW_UP: &str =
    "Use process (list/poll/log/write/send-keys/submit/paste/kill/clear/remove) for follow-up.";
const CUT: &str = "[earlier output was discarded at the retention cap and cannot be recovered]\n\n";
const RETRY: &str = "The command was terminated, but external side effects may already have completed. Verify the resulting state before retrying. Do not automatically rerun non-idempotent commands. Use a higher timeout only when the command is known to be safe to retry.";

/// What all agents share.
#[derive(Debug)]
pub(crate) struct Execs {
    store: Store,
    processes: Arc<Processes>,
    approvals: Arc<Approvals>,
    /// One change of the document at a time.
    document: parking_lot::Mutex<()>,
    login_path: login_path::LoginPath,
}

impl Execs {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            processes: Arc::default(),
            approvals: Arc::default(),
            document: parking_lot::Mutex::default(),
            login_path: login_path::LoginPath::default(),
        }
    }
}

/// Whether a variable may not be set for an MCP server, since it changes what programs load or run.
pub(super) fn is_dangerous_for_servers(name: &str) -> bool {
    environment::is_dangerous_for_servers(name)
}

/// The variable by which what we start is found again after we were killed.
pub(super) fn mark(state_dir: &Path) -> (String, String) {
    (process::OWNER.to_owned(), process::owner(state_dir))
}

/// Kills what a gateway that was killed left running.
pub(crate) fn end_orphans(state_dir: &Path) {
    match process::end_orphans(state_dir) {
        0 => {}
        ended => tracing::warn!(
            ended,
            "processes of commands outlived the last gateway; they were killed"
        ),
    }
}

/// What clients are told while a command waits or runs.
pub(super) enum Progress {
    Output {
        text: String,
        details: Value,
    },
    /// The id of the approval that is waited for, and what asks for it: whoever decides may be quick, and is told of the command's
    /// waiting before of its end.
    Waits {
        id: String,
        ask: Box<dyn FnOnce() + Send>,
    },
    Decided(String),
}

/// Where the agent of one turn works.
pub(super) struct Bench {
    pub(super) app: Arc<App>,
    pub(super) execs: Arc<Execs>,
    pub(super) agent: String,
    pub(super) session_key: String,
    pub(super) run_id: String,
    pub(super) origin: Origin,
    pub(super) workspace: PathBuf,
    settings: Settings,
    home: PathBuf,
    state_dir: PathBuf,
}

impl Bench {
    pub(super) fn new(
        app: &Arc<App>,
        execs: &Arc<Execs>,
        agent: &str,
        session_key: &str,
        run_id: &str,
        origin: Origin,
    ) -> Option<Self> {
        let facts = app.facts.load();
        let inputs = facts.inputs(0, 0);
        let roster = inputs.roster();
        let entry = roster.get(agent)?;
        Some(Self {
            app: Arc::clone(app),
            execs: Arc::clone(execs),
            agent: entry.id.clone(),
            session_key: session_key.to_owned(),
            run_id: run_id.to_owned(),
            origin,
            workspace: roster.workspace(inputs.config, entry, &inputs.places),
            settings: Settings::read(&facts.config, Some(&entry.entry), &facts.home),
            home: facts.home.clone(),
            state_dir: facts.state_dir.clone(),
        })
    }

    /// The tool `process`.
    pub(super) async fn control(&self, args: &Value) -> Result<Done, Why> {
        control::control(&self.execs.processes, &self.session_key, args).await
    }

    /// The tool `exec`. `can_continue`: the agent has `process` for what goes on in the background.
    pub(super) async fn exec(
        &self,
        call_id: &str,
        args: &Value,
        can_continue: bool,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<Done, Why> {
        let asked = Asked::read(args)?;
        let error = |why: String| Why::Error(why);
        if asked.elevated {
            return Err(error(self.not_elevated()));
        }
        self.settings.host.resolve(asked.host).map_err(error)?;
        let limits = self.limits(asked.ask).await.map_err(error)?;
        if asked.command.is_empty() {
            return Err(error("Provide a command to start.".to_owned()));
        }
        gate::refuse_control(&asked.command, &self.state_dir, &self.home, &self.workspace)
            .map_err(error)?;
        let began = Instant::now();
        let cwd = match self.cwd(asked.workdir) {
            Ok(cwd) => cwd,
            Err(named) => {
                let reason = format!(
                    "workdir \"{named}\" is unavailable or not a directory: command was not executed. workdir is treated as a literal path; shell expansions such as \"~\" are not applied. Use an existing directory, omit an explicit workdir to use the default cwd, or update the configured default cwd."
                );
                let details = json!({
                    "status": "failed", "exitCode": null, "exitSignal": null, "failureKind": "runtime-error",
                    "durationMs": 0, "aggregated": "", "timedOut": false, "cwd": named,
                });
                return Err(Why::Failed {
                    text: reason,
                    details,
                });
            }
        };
        let mut warnings = Vec::new();
        let mut environment = self.environment(asked.env).await.map_err(error)?;
        let request = gate::Request {
            call_id,
            command: &asked.command,
            cwd: &cwd,
            path: environment.get("PATH").map_or("", String::as_str),
            env: asked.env,
        };
        let line = match self.pass(&request, limits, &mut warnings, progress).await? {
            Verdict::Run(line) => line,
            Verdict::Denied(text) => {
                let details = json!({
                    "status": "failed", "exitCode": null, "durationMs": 0, "aggregated": text,
                    "timedOut": text.contains("timeout"), "cwd": cwd.display().to_string(),
                });
                return Err(Why::Failed { text, details });
            }
        };
        if asked.pty {
            warnings.push(format!(
                "Warning: PTY spawn failed (this gateway has no PTY); retrying without PTY for `{}`.",
                asked.command
            ));
        }
        if !can_continue && (asked.background || asked.yield_ms.is_some()) {
            warnings.push(
                "Warning: continuation options are unavailable; running synchronously.".to_owned(),
            );
        }
        let timeout_s = asked.timeout_s.unwrap_or(self.settings.timeout_s);
        let line = self.with_path(&line, &mut environment);
        environment.insert("OPENCLAW_SHELL".to_owned(), "exec".to_owned());
        environment.insert("OPENCLAW_CLI".to_owned(), "1".to_owned());
        environment.insert(process::OWNER.to_owned(), process::owner(&self.state_dir));
        let mut argv = login_path::shell(environment.get("PATH").map_or("", String::as_str));
        argv.push(line);
        let order = Order {
            command: asked.command.clone(),
            argv,
            environment,
            cwd,
            timeout: (timeout_s > 0.0).then(|| Duration::from_secs_f64(timeout_s.min(1e9))),
            session: self.session_key.clone(),
            remembered: self.settings.remembered,
        };
        let stopping = self.app.stopping.subscribe();
        let started = self
            .execs
            .processes
            .start(order, stopping)
            .await
            .map_err(error)?;
        let patience = match (can_continue, asked.background) {
            (false, _) => None,
            (true, true) => Some(Duration::ZERO),
            (true, false) => Some(self.settings.yield_for(asked.yield_ms)),
        };
        let attended = Attended(&started);
        let exit = attended.wait(patience, &warnings, progress).await;
        let warning = match warnings.is_empty() {
            true => String::new(),
            false => format!("{}\n\n", warnings.join("\n")),
        };
        match exit {
            None => Ok(still_running(&started, &warning)),
            Some(exit) => finished(&started, &exit, &warning, began, timeout_s, can_continue),
        }
    }

    /// Why nothing runs elevated, in the original's words.
    fn not_elevated(&self) -> String {
        let gate = match self.settings.is_elevated_enabled {
            false => "enabled (tools.elevated.enabled / agents.entries.*.tools.elevated.enabled)",
            true => {
                "allowFrom (tools.elevated.allowFrom.<provider> / agents.entries.*.tools.elevated.allowFrom.<provider>)"
            }
        };
        let provider = match self.origin {
            Origin::Operator => "provider=webchat ",
            Origin::Channel => "",
        };
        format!(
            "elevated is not available right now (runtime=direct).\nFailing gates: {gate}\nContext: {provider}session={}\nFix-it keys:\n- tools.elevated.enabled\n- tools.elevated.allowFrom.<provider>\n- agents.entries.*.tools.elevated.enabled\n- agents.entries.*.tools.elevated.allowFrom.<provider>",
            self.session_key
        )
    }

    /// The folder that a command runs in, links followed; what was asked for when it is none.
    fn cwd(&self, workdir: Option<&str>) -> Result<PathBuf, String> {
        let folder = |path: &Path, named: &str| {
            let real = path.canonicalize().ok().filter(|path| path.is_dir());
            real.ok_or_else(|| named.to_owned())
        };
        match workdir {
            None | Some("") => {
                // The first command of a new agent; what fails here is told by the next line.
                drop(std::fs::create_dir_all(&self.workspace));
                folder(&self.workspace, &self.workspace.display().to_string())
            }
            Some(named) if named.trim().is_empty() => Err(named.to_owned()),
            Some(named) => folder(&self.workspace.join(named.trim()), named.trim()),
        }
    }

    async fn environment(
        &self,
        asked: Option<&Map<String, Value>>,
    ) -> Result<environment::Environment, String> {
        let own = self.app.environment();
        let secrets = environment::secrets(&self.app.facts.load().config, own.iter());
        let mut environment = environment::inherited(own.iter(), &secrets);
        // Before the call's own variables: what the login shell reads is not the model's to say.
        let login_path = self.execs.login_path.get(&environment, &self.home).await;
        if let Some(asked) = asked {
            environment::add(&mut environment, asked)?;
        }
        if let Some(path) = login_path {
            let parts: Vec<String> = path.split(':').map(str::to_owned).collect();
            environment::prepend_path(&mut environment, &parts);
        }
        environment::prepend_path(&mut environment, &self.settings.path_prepend);
        Ok(environment)
    }

    /// The user's folders come first even when the shell's own files put others there.
    fn with_path(&self, line: &str, environment: &mut environment::Environment) -> String {
        if self.settings.path_prepend.is_empty() {
            return line.to_owned();
        }
        environment.insert(
            "OPENCLAW_PREPEND_PATH".to_owned(),
            self.settings.path_prepend.join(":"),
        );
        format!(
            "export PATH=\"${{OPENCLAW_PREPEND_PATH}}${{PATH:+:$PATH}}\"; unset OPENCLAW_PREPEND_PATH; {line}"
        )
    }
}

/// A command that somebody waits for: if nobody does any more, it ends.
struct Attended<'a>(&'a Arc<Process>);

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        if !self.0.is_background() {
            self.0.cancel();
        }
    }
}

impl Attended<'_> {
    /// How it ended; `None` when it goes on in the background.
    async fn wait(
        &self,
        patience: Option<Duration>,
        warnings: &[String],
        progress: &mpsc::Sender<Progress>,
    ) -> Option<Exit> {
        let process = self.0;
        let mut changes = process.changes();
        let until = patience.map(|patience| tokio::time::Instant::now() + patience);
        let far = tokio::time::Instant::now() + Duration::from_secs(365 * 24 * 60 * 60);
        let mut told = (0, tokio::time::Instant::now());
        let mut is_due = false;
        loop {
            if let Some(exit) = process.exit() {
                return Some(exit);
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until.unwrap_or(far)) => {
                    // It may have ended meanwhile.
                    return match process.exit() {
                        Some(exit) => Some(exit),
                        None => {
                            process.send_to_background();
                            None
                        }
                    };
                }
                changed = changes.changed() => is_due = changed.is_ok(),
                () = tokio::time::sleep_until(told.1), if is_due => {
                    is_due = false;
                    if process.last_output_ms() > 0 && process.with_output(|output| output.has_pending()) {
                        told = (told.0 + 1, tokio::time::Instant::now() + TOLD_EVERY);
                        // Whoever is slow is told the next time.
                        drop(progress.try_send(Progress::of(process, warnings)));
                    }
                }
            }
        }
    }
}

impl Progress {
    fn of(process: &Process, warnings: &[String]) -> Self {
        let tail = process.with_output(|output| output.tail().to_owned());
        let text = match warnings.is_empty() {
            true => tail.clone(),
            false => format!("{}\n\n{tail}", warnings.join("\n")),
        };
        let mut details = running(process);
        details["tail"] = json!(tail);
        Self::Output { text, details }
    }
}

fn running(process: &Process) -> Value {
    json!({
        "status": "running", "sessionId": process.id, "pid": process.pid, "startedAt": process.started_ms,
        "cwd": process.cwd.display().to_string(),
    })
}

fn still_running(process: &Process, warning: &str) -> Done {
    let mut details = running(process);
    details["tail"] = json!(process.with_output(|output| output.tail().to_owned()));
    details["followUp"] = json!(FOLLOW_UP);
    let text = format!(
        "{warning}Command still running (session {}, pid {}). {FOLLOW_UP}",
        process.id, process.pid
    );
    Done {
        text,
        kept: Some(details.clone()),
        details,
    }
}

/// A result as the original words it.
fn finished(
    process: &Process,
    exit: &Exit,
    warning: &str,
    began: Instant,
    timeout_s: f64,
    can_continue: bool,
) -> Result<Done, Why> {
    let (output, is_cut) = process.with_output(|output| {
        let (all, is_cut) = output.all();
        (all.trim().to_owned(), is_cut)
    });
    let cut = if is_cut { CUT } else { "" };
    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let cwd = process.cwd.display().to_string();
    if exit.is_completed() {
        let code = exit.code.unwrap_or(0);
        let shown = if output.is_empty() {
            "(no output)"
        } else {
            &output
        };
        let aggregated = match code {
            0 => output.clone(),
            code => format!("{shown}\n\n(Command exited with code {code})"),
        };
        let text = match code {
            0 => shown,
            _ => &aggregated,
        };
        let text = format!("{cut}{warning}{text}");
        let details = json!({
            "status": "completed", "exitCode": code, "exitSignal": exit.signal, "exitReason": exit.reason.as_str(),
            "durationMs": duration_ms, "aggregated": aggregated, "noOutputTimedOut": false, "cwd": cwd,
        });
        return Ok(Done {
            text,
            kept: Some(details.clone()),
            details,
        });
    }
    let (kind, reason) = match (exit.reason, exit.code, exit.signal) {
        (Reason::Exit, Some(127), _) => ("shell-command-not-found", "Command not found".to_owned()),
        (Reason::Exit, Some(126), _) => (
            "shell-not-executable",
            "Command not executable (permission denied)".to_owned(),
        ),
        (Reason::Timeout, ..) => {
            let more = match can_continue {
                true => {
                    "\n\nIf it should keep running, start it with exec background=true or yieldMs so OpenClaw can register a pollable process session. Do not rely on shell backgrounding with a trailing &."
                }
                false => "",
            };
            (
                "overall-timeout",
                format!("Command timed out after {timeout_s} seconds.\n\n{RETRY}{more}"),
            )
        }
        (_, _, Some(signal)) => ("signal", format!("Command aborted by signal {signal}")),
        _ => (
            "aborted",
            "Command aborted before exit code was captured".to_owned(),
        ),
    };
    let reason = match output.is_empty() {
        true => reason,
        false => format!("{output}\n\n{reason}"),
    };
    let details = json!({
        "status": "failed", "exitCode": exit.code, "exitSignal": exit.signal, "failureKind": kind,
        "exitReason": exit.reason.as_str(), "durationMs": duration_ms, "aggregated": output,
        "timedOut": exit.reason == Reason::Timeout, "noOutputTimedOut": false, "cwd": cwd,
    });
    Err(Why::Failed {
        text: format!("{cut}{warning}{reason}"),
        details,
    })
}

/// The arguments of `exec`.
struct Asked<'a> {
    command: String,
    workdir: Option<&'a str>,
    env: Option<&'a Map<String, Value>>,
    yield_ms: Option<f64>,
    background: bool,
    timeout_s: Option<f64>,
    pty: bool,
    elevated: bool,
    host: Option<Host>,
    ask: Option<policy::Ask>,
}

impl<'a> Asked<'a> {
    fn read(args: &'a Value) -> Result<Self, Why> {
        let wrong = |name: &str, what: &str| Why::Arguments(format!("{name}: must be {what}"));
        let text = |name: &str| match &args[name] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.as_str())),
            _ => Err(wrong(name, "string")),
        };
        // Some models write numbers and truth as text.
        let number = |name: &str| match &args[name] {
            Value::Null => Ok(None),
            Value::String(text) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|_text| wrong(name, "number")),
            other => other
                .as_f64()
                .map(Some)
                .ok_or_else(|| wrong(name, "number")),
        };
        let truth = |name: &str| match &args[name] {
            Value::Null => Ok(false),
            Value::Bool(truth) => Ok(*truth),
            Value::String(text) if text == "true" => Ok(true),
            Value::String(text) if text == "false" => Ok(false),
            _ => Err(wrong(name, "boolean")),
        };
        let Some(command) = text("command")? else {
            return Err(Why::Arguments(
                "command: must have required properties command".to_owned(),
            ));
        };
        let host = match text("host")? {
            None => None,
            Some(word) => Some(
                Host::of(word)
                    .ok_or_else(|| wrong("host", "equal to one of the allowed values"))?,
            ),
        };
        let env = match &args["env"] {
            Value::Null => None,
            Value::Object(env) => {
                if let Some((name, _)) = env.iter().find(|(_, value)| !value.is_string()) {
                    return Err(wrong(&format!("env.{name}"), "string"));
                }
                Some(env)
            }
            _ => return Err(wrong("env", "object")),
        };
        if args.get("timeout").is_some() {
            return Err(Why::Refused(
                "exec parameter \"timeout\" is unsupported; use \"timeoutSeconds\" instead"
                    .to_owned(),
            ));
        }
        Ok(Self {
            command: command.to_owned(),
            workdir: text("workdir")?,
            env,
            yield_ms: number("yieldMs")?,
            background: truth("background")?,
            timeout_s: number("timeoutSeconds")?,
            pty: truth("pty")?,
            elevated: truth("elevated")?,
            host,
            ask: text("ask")?.and_then(policy::Ask::of),
        })
    }
}

/// `45s`, `2m5s`: the original's formatDurationCompact.
fn compact(ms: u64) -> String {
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let seconds = (ms + 500) / 1000;
    let parts = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let mut left = seconds;
    let mut out = Vec::new();
    for (size, unit) in parts {
        if left >= size {
            out.push(format!("{}{unit}", left / size));
            left %= size;
        }
    }
    out.truncate(2);
    out.concat()
}

fn now_ms() -> u64 {
    clock::now_ms()
}
