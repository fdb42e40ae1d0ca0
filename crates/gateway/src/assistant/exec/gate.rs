//! Whether a command may run: what both files say, what is listed, what a person answers.
//!
//! Source: src/agents/bash-tools.exec-host-gateway.ts and bash-tools.exec-host-shared.ts at 2026.9.6: the same order of the
//! same questions, and their words.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::allowlist::{self, Lookup, Program, Trust};
use super::approvals::{Approval, Approvals, Decision, End, PATIENCE};
use super::binding::Binding;
use super::document::{Document, Rules};
use super::policy::{Ask, Security};
use super::safe_bins::SafeBins;
use super::shell::{Plan, Step};
use super::{Bench, Progress};
use crate::assistant::tools::{Origin, Why};

/// A longer command can't be shown to a person.
const SHOWN_CHARS_MAX: usize = 16_384;

pub(super) enum Verdict {
    /// The line for the shell.
    Run(String),
    /// Why not, in words for the model.
    Denied(String),
}

/// How strictly this command is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) security: Security,
    pub(super) ask: Ask,
}

pub(super) struct Request<'a> {
    pub(super) call_id: &'a str,
    pub(super) command: &'a str,
    pub(super) cwd: &'a Path,
    pub(super) path: &'a str,
    pub(super) env: Option<&'a Map<String, Value>>,
}

/// What was found out about a command before anybody was asked.
struct Case<'a> {
    request: &'a Request<'a>,
    limits: Limits,
    rules: Rules,
    fallback: Security,
    plan: Option<Plan>,
    programs: Vec<Option<Program>>,
    trusts: Vec<Option<Trust>>,
    /// Only a person's word counts, not what the document says for when nobody answers.
    is_for_a_person: bool,
}

impl Case<'_> {
    /// Every part of the line is listed, and nothing else decides what it does.
    fn is_listed(&self) -> bool {
        self.plan.is_some() && self.trusts.iter().all(Option::is_some) && !self.has_variables()
    }

    /// The call sets variables: programs take options, and programs to run, from some of them.
    fn has_variables(&self) -> bool {
        const HARMLESS: [&str; 5] = ["TERM", "LANG", "COLORTERM", "NO_COLOR", "FORCE_COLOR"];
        let mut names = self.request.env.into_iter().flat_map(Map::keys);
        names.any(|name| !HARMLESS.contains(&name.as_str()) && !name.starts_with("LC_"))
    }

    fn has_patterns(&self) -> bool {
        let steps = self.plan.iter().flat_map(|plan| &plan.steps);
        steps.into_iter().any(|step| step.has_patterns)
    }

    /// The line as it was judged: each program by its place, each word as it was read.
    fn pinned(&self) -> Option<String> {
        let plan = self
            .plan
            .as_ref()
            .filter(|_| self.is_listed() && !self.has_patterns())?;
        Some(
            plan.pinned(|at, step| match (&self.trusts[at], &self.programs[at]) {
                (Some(Trust::Builtin), _) | (_, None) => step.argv[0].clone(),
                (_, Some(program)) => program.path.display().to_string(),
            }),
        )
    }

    /// The line that a person allowed, pinned as far as that changes nothing.
    fn allowed(&self) -> String {
        let is_plain = |step: &Step| {
            !step.has_assignments && !step.has_patterns && !allowlist::carries(&step.argv[0])
        };
        match &self.plan {
            Some(plan) if plan.steps.iter().all(is_plain) => {
                plan.pinned(|at, step| match &self.programs[at] {
                    Some(program) => program.path.display().to_string(),
                    None => step.argv[0].clone(),
                })
            }
            _ => self.request.command.to_owned(),
        }
    }

    fn denied(&self, why: &str) -> Verdict {
        Verdict::Denied(format!("Exec denied ({why}): {}", self.request.command))
    }
}

impl Bench {
    /// What both files say of this agent; `asked`: stricter, by the model itself.
    ///
    /// # Errors
    /// Nothing may run.
    pub(super) async fn limits(&self, asked: Option<Ask>) -> Result<Limits, String> {
        let document = self.document().await;
        let rules = document.rules(&self.agent, Security::Full, Ask::Off);
        let security = self.settings.security.min(rules.security);
        let ask = self.settings.ask.max(rules.ask);
        if security == Security::Deny {
            let why = document
                .fault
                .map_or(String::new(), |fault| format!("\n{fault}"));
            return Err(format!("exec denied: host=gateway security=deny{why}"));
        }
        // A stranger's words do not make a gateway ask that never asks.
        let asked = asked.filter(|_| self.origin == Origin::Operator || ask != Ask::Off);
        Ok(Limits {
            security,
            ask: asked.map_or(ask, |asked| asked.max(ask)),
        })
    }

    async fn document(&self) -> Document {
        let state_dir = self.state_dir.clone();
        let read = tokio::task::spawn_blocking(move || Document::read(&state_dir)).await;
        // A panic is told by nothing being allowed.
        read.unwrap_or_else(|_panic| Document {
            path: self.state_dir.clone(),
            exists: false,
            file: json!({}),
            hash: String::new(),
            fault: Some("the approvals can't be read; the gateway's log says why".to_owned()),
        })
    }

    /// Lets a command pass, after asking if need be.
    ///
    /// # Errors
    /// It is refused for what it is, or because nobody can be asked.
    pub(super) async fn pass(
        &self,
        request: &Request<'_>,
        limits: Limits,
        warnings: &mut Vec<String>,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<Verdict, Why> {
        let document = self.document().await;
        let rules = document.rules(&self.agent, limits.security, limits.ask);
        let plan = Plan::read(request.command);
        let judged = match &plan {
            None => Vec::new(),
            Some(plan) => {
                let lookup = Lookup {
                    entries: &rules.allowlist,
                    safe_bins: SafeBins {
                        names: &self.settings.safe_bins,
                        trusted_dirs: &self.settings.trusted_dirs,
                        profiles: &self.settings.profiles,
                    },
                    cwd: request.cwd,
                    path: request.path,
                    home: &self.home,
                };
                lookup.judge(plan)
            }
        };
        let (trusts, programs) = judged.into_iter().unzip();
        let fallback = limits.security.min(rules.ask_fallback);
        let mut case = Case {
            request,
            limits,
            rules,
            fallback,
            plan,
            programs,
            trusts,
            is_for_a_person: false,
        };
        let is_listing = limits.security == Security::Allowlist;
        let is_satisfied = is_listing && case.is_listed();
        let inline = match self.settings.strict_inline_eval {
            true => inline_eval(case.plan.as_ref(), request.command),
            false => None,
        };
        if let Some(what) = &inline {
            warnings.push(format!(
                "Warning: strict inline-eval mode requires reviewer or explicit approval for {what}."
            ));
        }
        let is_unpinned = is_satisfied && case.has_patterns();
        let touches_audit = mentions_audit_suppressions(request.command)
            && !(limits.security == Security::Full && limits.ask == Ask::Off);
        let must_ask = limits.ask == Ask::Always
            || (limits.ask == Ask::OnMiss && is_listing && !is_satisfied)
            || is_unpinned
            || inline.is_some()
            || touches_audit;
        if is_unpinned {
            warnings.push(format!(
                "Warning: allowlist auto-execution is unavailable on {}; reviewer or explicit approval is required.",
                std::env::consts::OS
            ));
            if limits.ask == Ask::Off && case.rules.ask_fallback == Security::Deny {
                return Ok(case.denied("ask-fallback-deny: execution-plan-miss"));
            }
        }
        if !must_ask {
            if is_listing && !is_satisfied {
                return Err(Why::Error("exec denied: allowlist miss".to_owned()));
            }
            let line = match is_satisfied {
                true => case.pinned().unwrap_or_default(),
                false => request.command.to_owned(),
            };
            self.note_use(&case).await;
            return Ok(Verdict::Run(line));
        }
        if touches_audit {
            warnings.push("Warning: security audit suppression changes require explicit approval unless exec is running in yolo mode.".to_owned());
        }
        case.is_for_a_person = inline.is_some() || is_unpinned || touches_audit;
        let binding = match self.bind(&case).await {
            Ok(binding) => binding,
            Err(why) => return Ok(case.denied(&why)),
        };
        self.ask(&case, &binding, is_unpinned, warnings, progress)
            .await
    }

    async fn bind(&self, case: &Case<'_>) -> Result<Binding, String> {
        let (plan, cwd, path) = (
            case.plan.clone(),
            case.request.cwd.to_owned(),
            case.request.path.to_owned(),
        );
        tokio::task::spawn_blocking(move || Binding::of(plan.as_ref(), &cwd, &path))
            .await
            .unwrap_or_else(|_panic| {
                Err("SYSTEM_RUN_DENIED: approval cannot safely bind this command".to_owned())
            })
    }

    async fn ask(
        &self,
        case: &Case<'_>,
        binding: &Binding,
        is_unpinned: bool,
        warnings: &[String],
        progress: &mpsc::Sender<Progress>,
    ) -> Result<Verdict, Why> {
        let always = match &case.plan {
            Some(plan)
                if case.limits.ask != Ask::Always
                    && !binding.is_mutable
                    && !is_unpinned
                    && !case.is_for_a_person
                    && !case.has_variables() =>
            {
                allowlist::generated(plan, &case.programs, case.request.cwd)
            }
            _ => None,
        };
        let request = self.shown(case, always.is_some(), warnings)?;
        if self.app.hub.approvers(None) == 0 {
            return match case.without_a_word() {
                Ok(line) => self.run_bound(case, binding, line, "").await,
                Err(_) => Err(Why::Error(self.headless(case))),
            };
        }
        // On disk first: after a crash it is known that it had not begun.
        self.note(Some(case.request.call_id)).await?;
        let approval = self
            .execs
            .approvals
            .register(request, None, PATIENCE, None)
            .map_err(|error| {
                Why::Error(format!(
                    "Exec approval registration failed: {}",
                    error.message
                ))
            })?;
        let waiting = Waiting {
            approvals: &self.execs.approvals,
            approval: &approval,
            bench: self,
        };
        let (app, asked) = (Arc::clone(&self.app), Arc::clone(&approval));
        let waits = Progress::Waits {
            id: approval.id.clone(),
            // A turn that was stopped in the meantime asks nobody.
            ask: Box::new(move || {
                if asked.end().is_none() {
                    super::methods::broadcast_requested(&app, &asked);
                }
            }),
        };
        // The turn's end takes the receiver away; then nobody waits here either.
        drop(progress.send(waits).await);
        let end = approval.ended().await;
        drop(waiting);
        drop(progress.send(Progress::Decided(approval.id.clone())).await);
        self.act(case, binding, always, &approval, end).await
    }

    /// Does what was decided.
    async fn act(
        &self,
        case: &Case<'_>,
        binding: &Binding,
        always: Option<Vec<(String, String)>>,
        approval: &Approval,
        end: End,
    ) -> Result<Verdict, Why> {
        let prefix = format!("gateway id={}, ", approval.id);
        let verdict = match end.decision {
            Some(Decision::Deny) => {
                return self
                    .over(case.denied(&format!("{prefix}user-denied")))
                    .await;
            }
            None => match case.without_a_word() {
                Ok(line) => self.run_bound(case, binding, line, &prefix).await?,
                Err(why) => return self.over(case.denied(&format!("{prefix}{why}"))).await,
            },
            Some(decision) => {
                let verdict = self
                    .run_bound(case, binding, case.allowed(), &prefix)
                    .await?;
                if decision == Decision::AllowAlways
                    && let (Verdict::Run(_), Some(entries)) = (&verdict, always)
                {
                    self.allow(&entries, case.request.command)
                        .await
                        .map_err(Why::Error)?;
                }
                verdict
            }
        };
        // From here on it may have run: that is on disk before it does.
        self.over(verdict).await
    }

    async fn over(&self, verdict: Verdict) -> Result<Verdict, Why> {
        self.note(None).await?;
        Ok(verdict)
    }

    /// Lets a line run if all is still as it was when a person was asked.
    async fn run_bound(
        &self,
        case: &Case<'_>,
        binding: &Binding,
        line: String,
        prefix: &str,
    ) -> Result<Verdict, Why> {
        let (bound, plan, path) = (
            binding.clone(),
            case.plan.clone(),
            case.request.path.to_owned(),
        );
        let drift = tokio::task::spawn_blocking(move || bound.drift(plan.as_ref(), &path)).await;
        if let Some(why) = drift.unwrap_or(Some(super::binding::CHANGED)) {
            return Ok(case.denied(&format!("{prefix}{why}")));
        }
        let now = self
            .document()
            .await
            .rules(&self.agent, case.limits.security, case.limits.ask);
        if !case.rules.still_hold(&now) {
            return Err(Why::Error(
                "Exec approval changed before execution".to_owned(),
            ));
        }
        Ok(Verdict::Run(line))
    }

    async fn allow(&self, entries: &[(String, String)], command: &str) -> Result<(), String> {
        let (execs, state_dir) = (std::sync::Arc::clone(&self.execs), self.state_dir.clone());
        let (agent, entries, command) =
            (self.agent.clone(), entries.to_owned(), command.to_owned());
        let written = tokio::task::spawn_blocking(move || {
            let _one = execs.document.lock();
            let document = Document::read(&state_dir);
            document.write(&document.allowing(&agent, &entries, &command))
        });
        written.await.unwrap_or_else(|_panic| {
            Err("the approvals can't be written; the gateway's log says why".to_owned())
        })
    }

    /// Notes in the document which entries let a command run.
    async fn note_use(&self, case: &Case<'_>) {
        let entries: Vec<Value> = case
            .trusts
            .iter()
            .filter_map(|trust| match trust {
                Some(Trust::Entry(entry)) => Some(entry.clone()),
                _ => None,
            })
            .collect();
        if entries.is_empty() {
            return;
        }
        let (execs, state_dir, agent) = (
            std::sync::Arc::clone(&self.execs),
            self.state_dir.clone(),
            self.agent.clone(),
        );
        let command = case.request.command.to_owned();
        let resolved = case.first_program();
        let noted = tokio::task::spawn_blocking(move || {
            let _one = execs.document.lock();
            let document = Document::read(&state_dir);
            match document.used(&agent, &entries, &command, resolved.as_deref()) {
                Some(file) => document.write(&file),
                None => Ok(()),
            }
        });
        if let Ok(Err(error)) = noted.await {
            tracing::warn!(%error, "it can't be noted which entries of the approvals are in use");
        }
    }

    /// Notes that a call waits for approval and has not begun, or that this is over.
    async fn note(&self, call_id: Option<&str>) -> Result<(), Why> {
        let (run_id, note) = (
            self.run_id.clone(),
            call_id.map(|id| json!({ "waitsForApproval": id }).to_string()),
        );
        let written = self
            .execs
            .store
            .write(move |tx| tx.agents().note(&run_id, note.as_deref()))
            .await;
        written.map_err(|error| {
            tracing::error!(%error, "it could not be noted whether a command waits for approval");
            Why::Error(format!(
                "the command was not run: that it runs cannot be kept: {error}"
            ))
        })
    }

    /// What a person is shown.
    fn shown(
        &self,
        case: &Case<'_>,
        can_be_always: bool,
        warnings: &[String],
    ) -> Result<Value, Why> {
        let command = visible(case.request.command);
        if command.chars().count() > SHOWN_CHARS_MAX {
            return Err(Why::Error(
                "Exec approval registration failed: command exceeds exec approval display limit"
                    .to_owned(),
            ));
        }
        let (channel, to) = match self.origin {
            Origin::Operator => (json!("webchat"), json!(self.session_key)),
            Origin::Channel => (Value::Null, Value::Null),
        };
        let warning = warnings.join("\n");
        let mut request = json!({ "command": command });
        if let Some(env) = case.request.env.filter(|env| !env.is_empty()) {
            let mut keys: Vec<&str> = env.keys().map(String::as_str).collect();
            keys.sort_unstable();
            request["envKeys"] = json!(keys);
        }
        for (key, value) in [
            ("systemRunBinding", Value::Null),
            ("systemRunPlan", Value::Null),
            (
                "cwd",
                json!(visible(&case.request.cwd.display().to_string())),
            ),
            ("nodeId", Value::Null),
            ("host", json!("gateway")),
            ("security", json!(case.limits.security.as_str())),
            ("ask", json!(case.limits.ask.as_str())),
            (
                "warningText",
                if warning.is_empty() {
                    Value::Null
                } else {
                    json!(warning)
                },
            ),
            ("scope", Value::Null),
            ("commandAnalysis", analysis(case.plan.as_ref())),
        ] {
            request[key] = value;
        }
        request["allowedDecisions"] = match can_be_always {
            true => json!(["allow-once", "allow-always", "deny"]),
            false => {
                request["unavailableDecisions"] = json!(["allow-always"]);
                json!(["allow-once", "deny"])
            }
        };
        for (key, value) in [
            ("agentId", json!(self.agent)),
            ("resolvedPath", json!(case.first_program())),
            ("sessionKey", json!(self.session_key)),
            ("sessionId", Value::Null),
            ("runId", json!(self.run_id)),
            ("toolCallId", json!(case.request.call_id)),
            ("turnSourceChannel", channel),
            ("turnSourceTo", to),
            ("turnSourceAccountId", Value::Null),
            ("turnSourceThreadId", Value::Null),
            ("cronExecutionSource", Value::Null),
            ("cronOperationBinding", Value::Null),
        ] {
            request[key] = value;
        }
        Ok(request)
    }

    /// Why nobody could be asked.
    fn headless(&self, case: &Case<'_>) -> String {
        format!(
            "exec denied: Headless runs cannot wait for interactive exec approval.\nEffective host exec policy: security={} ask={} askFallback={}\nStricter values from tools.exec and {} both apply.\nFix one of these:\n- align both files to security=\"full\" and ask=\"off\" for trusted local automation\n- keep allowlist mode and add an explicit allowlist entry for this command\n- rerun interactively and approve when prompted (Control UI, TUI, or a chat channel with exec approvals)\nTip: run \"openclaw doctor\" and \"openclaw approvals get --gateway\" to inspect the effective policy.",
            case.limits.security.as_str(),
            case.limits.ask.as_str(),
            case.fallback.as_str(),
            Document::place(&self.state_dir).display(),
        )
    }
}

/// A command that waits: if its turn ends, nobody is asked any more.
struct Waiting<'a> {
    approvals: &'a Approvals,
    approval: &'a Approval,
    bench: &'a Bench,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.approvals.close(self.approval, "run-aborted") {
            super::methods::broadcast_resolved(
                &self.bench.app,
                self.approval,
                Decision::Deny,
                None,
            );
        }
    }
}

impl Case<'_> {
    /// What the document says for when nobody answers: the line to run, or why not.
    fn without_a_word(&self) -> Result<String, &'static str> {
        match self.fallback {
            _ if self.is_for_a_person => Err("approval-timeout"),
            Security::Deny => Err("approval-timeout"),
            Security::Full => Ok(self.allowed()),
            Security::Allowlist if !self.is_listed() => Err("approval-timeout: allowlist-miss"),
            Security::Allowlist => self.pinned().ok_or("approval-timeout: execution-plan-miss"),
        }
    }

    fn first_program(&self) -> Option<String> {
        let first = self.programs.first()?.as_ref()?;
        Some(first.real.display().to_string())
    }
}

/// What a person should look at.
pub(super) fn analysis(plan: Option<&Plan>) -> Value {
    let Some(plan) = plan else { return Value::Null };
    let (mut kinds, mut lines) = (Vec::new(), Vec::new());
    let mut add = |kind: &str, line: String| {
        if !kinds.iter().any(|known| known == kind) {
            kinds.push(kind.to_owned());
        }
        if !lines.contains(&line) {
            lines.push(line);
        }
    };
    for step in &plan.steps {
        if let Some(what) = allowlist::inline_eval(&step.argv) {
            add("inline-eval", format!("Contains inline-eval: {what}"));
        }
        if step.has_patterns {
            add(
                "dynamic-argument",
                format!(
                    "Contains dynamic-argument: {} dynamic argument",
                    step.argv[0]
                ),
            );
        }
        if allowlist::is_shell(&step.argv[0]) && step.argv.iter().any(|argument| argument == "-c") {
            add(
                "shell-wrapper",
                format!("Contains shell-wrapper: {} -c", step.argv[0]),
            );
        }
    }
    json!({ "commandCount": plan.steps.len(), "nestedCommandCount": 0, "riskKinds": kinds, "warningLines": lines })
}

/// What is evaluated of a line's own words. Rather once too often: of a line that is not understood, any name counts.
fn inline_eval(plan: Option<&Plan>, command: &str) -> Option<String> {
    match plan {
        Some(plan) => plan.steps.iter().find_map(|step| {
            let nested = step.argv.iter().filter(|word| word.contains(' '));
            let mut nested = nested.filter_map(|word| Plan::read(word));
            allowlist::inline_eval(&step.argv).or_else(|| {
                nested.find_map(|plan| {
                    plan.steps
                        .iter()
                        .find_map(|step| allowlist::inline_eval(&step.argv))
                })
            })
        }),
        None => command
            .split(|char: char| !(char.is_alphanumeric() || "._-/".contains(char)))
            .find(|word| allowlist::is_interpreter(word))
            .map(|word| format!("{word} in a command that is not understood")),
    }
}

fn mentions_audit_suppressions(command: &str) -> bool {
    let command = command.to_lowercase();
    let mut from = 0;
    ["security", "audit", "suppressions"].iter().all(|word| {
        let found = command[from..].find(word);
        from += found.map_or(0, |at| at + word.len());
        found.is_some()
    })
}

/// Characters that are not seen, made seen.
pub(super) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        let is_hidden = char.is_control()
            || super::output::is_format(char)
            || (char.is_whitespace() && char != ' ')
            || matches!(u32::from(char), 0x115f | 0x1160 | 0x3164 | 0xffa0);
        match is_hidden {
            true => out.push_str(&format!("\\u{{{:X}}}", u32::from(char))),
            false => out.push(char),
        }
    }
    out
}

/// Commands that would answer for the person, or go behind this gateway's back.
///
/// # Errors
/// The original's words.
pub(super) fn refuse_control(
    command: &str,
    state_dir: &Path,
    home: &Path,
    workspace: &Path,
) -> Result<(), String> {
    let steps: Vec<Vec<String>> = match Plan::read(command) {
        Some(plan) => plan.steps.into_iter().map(|step| step.argv).collect(),
        None => command
            .split(['\n', ';', '|', '&', '(', ')'])
            .map(|part| {
                part.split_whitespace()
                    .map(|word| word.trim_matches(['\'', '"']).to_owned())
                    .collect()
            })
            .collect(),
    };
    for words in &steps {
        let word = |at: usize| words.get(at).map_or("", String::as_str);
        let name = |word: &str| word.rsplit('/').next().unwrap_or_default().to_lowercase();
        let is_approve = word(0).to_lowercase().split('@').next() == Some("/approve")
            && ["allow-once", "allow-always", "always", "deny"]
                .contains(&word(2).to_lowercase().as_str());
        if is_approve {
            return Err("exec cannot run /approve commands. Show the /approve command to the user as chat text, or route it through the approval command handler instead of shell execution.".to_owned());
        }
        let openclaw = words.iter().position(|word| name(word) == "openclaw");
        if let Some(at) = openclaw
            && matches!(word(at + 1), "channels" | "channel")
            && word(at + 2) == "login"
        {
            return Err("exec cannot run interactive OpenClaw channel login commands. Run `openclaw channels login` in a terminal on the gateway host, or use the channel-specific login agent tool when available (for WhatsApp: `whatsapp_login`).".to_owned());
        }
        let Some(at) = words.iter().position(|word| name(word) == "sqlite3") else {
            continue;
        };
        let is_inside = |word: &String| {
            let word = word.strip_prefix("file:").unwrap_or(word);
            let word = word.split(['?', '#']).next().unwrap_or(word);
            let word = word
                .replace("${OPENCLAW_STATE_DIR}", "$OPENCLAW_STATE_DIR")
                .replace("$OPENCLAW_STATE_DIR", &state_dir.display().to_string())
                .replace("${HOME}", "$HOME")
                .replace("$HOME", &home.display().to_string());
            let path = workspace.join(super::policy::expand(&word, home));
            let folder = path.parent().unwrap_or(&path);
            let real = folder
                .canonicalize()
                .unwrap_or_else(|_gone| folder.to_owned());
            // The agents' own folders lie in there too.
            let own = state_dir
                .canonicalize()
                .unwrap_or_else(|_gone| state_dir.to_owned());
            real.starts_with(&own)
                && !real.starts_with(
                    workspace
                        .canonicalize()
                        .unwrap_or_else(|_gone| workspace.to_owned()),
                )
                && word.contains(['/', '.'])
        };
        if words[at + 1..].iter().any(is_inside) {
            return Err("external sqlite3 cannot open databases under the active OpenClaw state directory. Use OpenClaw commands for live state, or inspect a private backup copy outside `OPENCLAW_STATE_DIR`.".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_answers_for_a_person_or_opens_our_databases() {
        let dir = tempfile::tempdir().expect("a directory");
        let workspace = dir.path().join("workspace");
        std::fs::create_dir(&workspace).expect("made");
        let check = |command: &str, expected: Option<&str>| {
            let refused = refuse_control(command, dir.path(), Path::new("/h"), &workspace);
            match expected {
                None => assert!(refused.is_ok(), "{command}: {refused:?}"),
                Some(words) => assert!(refused.expect_err(command).contains(words), "{command}"),
            }
        };
        check("/approve abc allow-once", Some("/approve"));
        check("ls > x; /approve abc deny", Some("/approve"));
        check("npx openclaw channels login", Some("channel login"));
        check(
            "sqlite3 $OPENCLAW_STATE_DIR/openclaw-rs/messages.db .dump",
            Some("sqlite3"),
        );
        check("sqlite3 ../messages.db", Some("sqlite3"));
        check("sqlite3 own.db", None);
        check("sqlite3 /tmp/x.db", None);
        check("openclaw channels list", None);
        check("echo approve", None);
    }

    #[test]
    fn hidden_characters_are_shown_and_words_found() {
        assert_eq!(
            visible("a\nb\u{200b}c\u{a0}d"),
            "a\\u{A}b\\u{200B}c\\u{A0}d"
        );
        assert!(mentions_audit_suppressions(
            "openclaw config set Security.audit.suppressions '[]'"
        ));
        assert!(!mentions_audit_suppressions("audit the security"));
        let evaluates = |line: &str| inline_eval(Plan::read(line).as_ref(), line).is_some();
        for line in [
            "python3 -c 1",
            "ls; node -e 1",
            "echo $X | python3",
            "sed p",
            "env perl -e 1",
            "sh -c 'python3 -c 1'",
        ] {
            assert!(evaluates(line), "{line}");
        }
        for line in ["python3 script.py", "ls -la", "echo $X"] {
            assert!(!evaluates(line), "{line}");
        }
    }
}
