//! The tools of an agent that runs here: which it has, and what becomes of a call.
//!
//! Names, parameters and words as the original's at 2026.9.6, so that prompts and skills written for it hold.

mod automations;
mod diff;
mod fetch;
mod files;
mod html;
mod loops;
mod memory;
mod message;
mod policy;
mod root;
mod search;
mod sessions;
mod shared;

use std::path::PathBuf;
use std::sync::Arc;

use agent::Tool;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(super) use automations::Clock;
pub(super) use loops::{Loops, Verdict};
pub(super) use message::Post;
pub(super) use policy::Origin;
use policy::Policy;
use root::Root;
pub(crate) use root::beneath;
pub(crate) use search::PathGlob;
pub(super) use sessions::{BY_A_SESSION, Desk};
pub(super) use shared::Shared;

use super::exec::{Bench, Progress};
use super::{Image, servers};
use crate::memories::{Memories, Shelf};
use crate::native::Facts;

/// More of an answer than this is not kept and not sent to a model.
const ANSWER_CHARS_MAX: usize = 64_000;
/// Of these, what is left for the mark around a stranger's words and for what stands beside them.
const MARK_CHARS: usize = 4_000;

/// What a tool did.
pub(super) struct Done {
    /// For the model.
    pub(super) text: String,
    /// For clients.
    pub(super) details: Value,
    /// Of that, what the conversation keeps.
    pub(super) kept: Option<Value>,
}

impl Done {
    fn json(details: Value) -> Self {
        Self {
            text: format!("{details:#}"),
            details,
            kept: None,
        }
    }
}

/// Why a tool did nothing, in words for the model.
#[derive(Debug)]
pub(super) enum Why {
    Error(String),
    /// As an error, but it did not come to the tool's own work.
    Refused(String),
    /// The arguments are not what the tool takes.
    Arguments(String),
    /// There is no such tool.
    Unknown(String),
    /// It did something that failed: what is said is all there is to say.
    Failed {
        text: String,
        details: Value,
    },
}

fn refuse<T>(why: String) -> Result<T, Why> {
    Err(Why::Error(why))
}

/// A result as the conversation and clients have it.
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) details: Value,
    pub(super) kept: Option<Value>,
    /// Why it failed, in short.
    pub(super) error: Option<String>,
    /// The call never reached a tool.
    pub(super) is_blocked: bool,
    /// Its arguments were not what the tool takes.
    pub(super) is_invalid: bool,
}

impl Answer {
    fn of(tool: &str, arguments: &Value, outcome: Result<Done, Why>) -> Self {
        let was_refused = matches!(outcome, Err(Why::Refused(_)));
        let (text, error, is_invalid) = match outcome {
            Ok(done) => {
                return Self {
                    text: cut(done.text),
                    details: done.details,
                    kept: done.kept,
                    error: None,
                    is_blocked: false,
                    is_invalid: false,
                };
            }
            Err(Why::Error(why) | Why::Refused(why)) => {
                let why = cut(why);
                let details = json!({ "status": "error", "tool": tool, "error": why });
                return Self {
                    text: format!("{details:#}"),
                    details,
                    kept: None,
                    error: Some(why),
                    is_blocked: was_refused,
                    is_invalid: false,
                };
            }
            Err(Why::Arguments(why)) => {
                let first = format!("Validation failed for tool \"{tool}\":");
                let text = format!("{first}\n  - {why}\n\nReceived arguments:\n{arguments:#}");
                (cut(text), first, true)
            }
            Err(Why::Unknown(why)) => (why.clone(), why, false),
            Err(Why::Failed { text, details }) => {
                let said = details["error"]
                    .as_str()
                    .or_else(|| details["aggregated"].as_str());
                let first = said
                    .and_then(|said| said.lines().next())
                    .filter(|first| !first.is_empty());
                let error = first.unwrap_or("failed").chars().take(400).collect();
                return Self {
                    text: cut(text),
                    kept: Some(details.clone()),
                    details,
                    error: Some(error),
                    is_blocked: false,
                    is_invalid: false,
                };
            }
        };
        Self {
            text,
            details: json!({}),
            kept: None,
            error: Some(error),
            is_blocked: true,
            is_invalid,
        }
    }
}

fn cut(text: String) -> String {
    cut_to(text, ANSWER_CHARS_MAX)
}

fn cut_to(text: String, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text,
        Some((at, _)) => format!("{}\n[… {} bytes left out]", &text[..at], text.len() - at),
    }
}

/// One call, as far as it is the turn's.
pub(super) struct Calling<'a> {
    pub(super) id: &'a str,
    pub(super) cancel: &'a CancellationToken,
    pub(super) progress: &'a mpsc::Sender<Progress>,
}

/// The tools of one turn.
pub(super) struct Toolbox {
    workspace: Option<PathBuf>,
    /// Whose memory it is and which session asks; `None` when memory is switched off.
    memory: Option<(Arc<Memories>, Arc<Shelf>, Arc<str>)>,
    fetch: Option<fetch::Settings>,
    /// Where commands run.
    bench: Option<Bench>,
    /// Whose jobs by the clock.
    clock: Option<Clock>,
    /// Who speaks in chats.
    post: Option<Post>,
    /// Who looks into other conversations.
    desk: Option<Desk>,
    /// Of MCP servers.
    offer: Option<servers::Offer>,
    policy: Policy,
}

impl Toolbox {
    /// `session`: the key of the session that they are for. `model`: provider and id, by which a policy may tell.
    pub(super) fn of(
        facts: &Facts,
        memories: &Arc<Memories>,
        agent_id: &str,
        session: &str,
        model: (&str, &str),
        origin: Origin,
        bench: Option<Bench>,
    ) -> Self {
        let inputs = facts.inputs(0, 0);
        let roster = inputs.roster();
        let agent = roster.get(agent_id);
        let entry = agent.map(|agent| &agent.entry);
        Self {
            workspace: agent.map(|agent| roster.workspace(inputs.config, agent, &inputs.places)),
            memory: Shelf::of(facts, agent_id)
                .map(|shelf| (Arc::clone(memories), Arc::new(shelf), session.into())),
            fetch: fetch::Settings::read(&facts.config),
            bench,
            clock: None,
            post: None,
            desk: None,
            offer: None,
            policy: Policy::read(&facts.config, entry, model, origin),
        }
    }

    /// With jobs by the clock.
    pub(super) fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// With other conversations.
    pub(super) fn with_desk(mut self, desk: Desk) -> Self {
        self.desk = Some(desk);
        self
    }

    /// With a voice in chats, where there are any.
    pub(super) fn with_post(mut self, post: Post) -> Self {
        self.post = Some(post).filter(Post::is_of_use);
        self
    }

    /// With the tools of MCP servers.
    pub(super) fn with_servers(mut self, offer: Option<servers::Offer>) -> Self {
        self.offer = offer;
        self
    }

    /// Whether no tool of the MCP server with this safe name can be one of these.
    pub(super) fn hides(&self, server: &str) -> bool {
        self.policy.hides(server)
    }

    /// Pictures that came with answers since the last time.
    pub(super) fn pictures(&self) -> Vec<Image> {
        self.offer
            .as_ref()
            .map(servers::Offer::pictures)
            .unwrap_or_default()
    }

    /// What the model is told it has.
    pub(super) fn list(&self) -> Vec<Tool> {
        let mut tools = Vec::new();
        if self.workspace.is_some() {
            tools.extend(of_files());
        }
        if self.bench.is_some() {
            tools.extend(of_commands(self.policy.allows("process")));
        }
        if self.memory.is_some() {
            tools.extend(of_memory());
        }
        if self.fetch.is_some() {
            tools.push(of_the_web());
        }
        if self.clock.is_some() {
            tools.push(automations::offered());
        }
        if self.post.is_some() {
            tools.push(message::offered());
        }
        if self.desk.is_some() {
            tools.extend(sessions::offered());
        }
        if let Some(offer) = &self.offer {
            tools.extend(offer.list().cloned());
        }
        tools.retain(|tool| self.policy.allows(&tool.name));
        tools
    }

    /// Calls a tool. Dropping the future or cancelling stops waiting for it; what a write has begun is done or not done,
    /// never half.
    pub(super) async fn call(&self, name: &str, arguments: &str, call: &Calling<'_>) -> Answer {
        let arguments = match arguments.trim() {
            "" => "{}",
            given => given,
        };
        let parsed: Result<Value, _> = serde_json::from_str(arguments);
        let args = match parsed {
            Ok(args) if args.is_object() => args,
            Ok(other) => {
                let why = Why::Arguments("the arguments must be a JSON object".to_owned());
                return Answer::of(name, &other, Err(why));
            }
            Err(error) => {
                let why = Why::Arguments(format!("the arguments are not JSON: {error}"));
                let shown: String = arguments.chars().take(500).collect();
                return Answer::of(name, &json!(shown), Err(why));
            }
        };
        let outcome = match self.list().iter().any(|tool| tool.name == name) {
            false => Err(Why::Unknown(format!("Tool {name} not found"))),
            true => self.run(name, &args, call).await,
        };
        Answer::of(name, &args, outcome)
    }

    async fn run(&self, name: &str, args: &Value, call: &Calling<'_>) -> Result<Done, Why> {
        match (name, &self.bench) {
            ("exec", Some(bench)) => {
                let can_continue = self.policy.allows("process");
                return bench.exec(call.id, args, can_continue, call.progress).await;
            }
            ("process", Some(bench)) => return bench.control(args).await,
            _ => {}
        }
        if let Some(offer) = &self.offer
            && let Some(done) = offer.call(name, args).await
        {
            return done;
        }
        if name == "automations"
            && let Some(clock) = &self.clock
        {
            return automations::call(clock, args).await;
        }
        if name == "message"
            && let Some(post) = &self.post
        {
            return message::call(post, call.id, args).await;
        }
        if name.starts_with("sessions_")
            && let Some(desk) = &self.desk
        {
            return sessions::call(desk, name, call.id, args).await;
        }
        if name == "web_fetch"
            && let Some(settings) = &self.fetch
        {
            return fetch::fetch(settings, args).await;
        }
        let (name, args, cancel) = (name.to_owned(), args.clone(), call.cancel.clone());
        let (workspace, memory) = (self.workspace.clone(), self.memory.clone());
        let work = move || {
            if let (Some((memories, shelf, session)), "memory_search" | "memory_get") =
                (&memory, name.as_str())
            {
                return memory::call(memories, shelf, &name, &args, session);
            }
            let Some(workspace) = workspace else {
                return refuse("this agent has no workspace".to_owned());
            };
            // The first note of a new agent; what fails here is told by the next line.
            if name == "write" {
                drop(std::fs::create_dir_all(&workspace));
            }
            let root = Root::open(&workspace).map_err(Why::Error)?;
            match name.as_str() {
                "read" => files::read(&root, &args),
                "write" => files::write(&root, &args),
                "edit" => files::edit(&root, &args),
                "ls" => files::ls(&root, &args),
                "grep" => search::grep(&root, &args, &cancel),
                _ => search::find(&root, &args, &cancel),
            }
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(%error, "a tool broke");
                refuse("the tool broke; the gateway's log says why".to_owned())
            }
        }
    }
}

/// Whether an operator may call a tool of an agent, as the user's file says (`tools`, `gateway.tools.deny`).
pub(crate) fn may_use(facts: &Facts, agent_id: &str, tool: &str) -> bool {
    let roster = facts.inputs(0, 0).roster();
    let entry = roster.get(agent_id).map(|agent| &agent.entry);
    let denied = facts.config.pointer("/gateway/tools/deny");
    let mut denied = denied.and_then(Value::as_array).into_iter().flatten();
    let is_denied = denied.any(|name| {
        name.as_str()
            .is_some_and(|name| name.trim().eq_ignore_ascii_case(tool))
    });
    !is_denied && Policy::read(&facts.config, entry, ("", ""), Origin::Operator).allows(tool)
}

/// Whether a call may have changed something.
pub(super) fn has_effects(name: &str, arguments: &str) -> bool {
    match name {
        "automations" => automations::has_effects(arguments),
        // What a tool of a server does, only the server knows.
        name => {
            matches!(
                name,
                "write" | "edit" | "exec" | "message" | "sessions_send"
            ) || policy::is_of_a_server(name)
        }
    }
}

/// What a call is about, as clients show it: `from notes.md`.
pub(super) fn about(name: &str, arguments: &str) -> Option<String> {
    let args: Value = serde_json::from_str(arguments).ok()?;
    let text = |key: &str| {
        args[key]
            .as_str()
            .map(|text| text.chars().take(200).collect::<String>())
    };
    match name {
        "read" => {
            let path = text("path")?;
            let lines = |key: &str| args[key].as_u64().map(|lines| lines.max(1));
            Some(match (lines("offset"), lines("limit")) {
                (Some(from), Some(1)) => format!("line {from}-{from} from {path}"),
                (Some(from), Some(count)) => {
                    format!(
                        "lines {from}-{} from {path}",
                        from.saturating_add(count - 1)
                    )
                }
                (Some(from), None) => format!("from line {from} in {path}"),
                (None, Some(1)) => format!("first 1 line of {path}"),
                (None, Some(count)) => format!("first {count} lines of {path}"),
                (None, None) => format!("from {path}"),
            })
        }
        "write" => Some(match args["content"].as_str() {
            Some(content) => format!("to {} ({} chars)", text("path")?, content.chars().count()),
            None => format!("to {}", text("path")?),
        }),
        "edit" => Some(format!("in {}", text("path")?)),
        "exec" => {
            text("command").map(|command| command.split_whitespace().collect::<Vec<_>>().join(" "))
        }
        "process" => text("sessionId"),
        "ls" => text("path"),
        "grep" | "find" => text("pattern"),
        "memory_search" => text("query"),
        "memory_get" => text("path"),
        "web_fetch" => Some(format!("from {}", text("url")?)),
        "automations" => text("action"),
        "message" => message::about(&args),
        "sessions_history" | "sessions_send" => text("sessionKey").or_else(|| text("agentId")),
        _ => None,
    }
}

/// `web_fetch` as `Web Fetch`.
pub(super) fn title(name: &str) -> String {
    name.split('_')
        .filter(|word| !word.is_empty())
        .map(|word| {
            let mut chars = word.chars();
            chars
                .next()
                .map(|first| first.to_uppercase().chain(chars).collect::<String>())
                .unwrap_or_default()
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Words of strangers, marked as such. What an answer has no room for is cut off before, so that the mark has its end.
pub(super) fn untrusted(source: &str, content: &str) -> String {
    let safe = cut_to(fetch::safe(content), ANSWER_CHARS_MAX - MARK_CHARS);
    fetch::wrapped(source, &safe)
}

/// A text that must be there.
fn text<'a>(args: &'a Value, name: &str) -> Result<&'a str, Why> {
    match args[name].as_str() {
        Some(text) if !text.trim().is_empty() => Ok(text),
        Some(_) => Err(Why::Arguments(format!("{name}: must not be empty"))),
        None if args[name].is_null() => Err(Why::Arguments(format!(
            "{name}: must have required properties {name}"
        ))),
        None => Err(Why::Arguments(format!("{name}: must be string"))),
    }
}

/// A count that may be there. Some models write numbers as text.
fn count(args: &Value, name: &str) -> Result<Option<usize>, Why> {
    let bad = || Why::Arguments(format!("{name}: must be a number at least 0"));
    let number = match &args[name] {
        Value::Null => return Ok(None),
        Value::String(text) => text.trim().parse::<f64>().ok(),
        other => other.as_f64(),
    };
    let number = number
        .filter(|number| (0.0..1e15).contains(number))
        .ok_or_else(bad)?;
    Ok(Some(number as usize))
}

fn tool(name: &'static str, description: &str, parameters: &str) -> Tool {
    let parameters = serde_json::from_str(parameters);
    debug_assert!(parameters.is_ok(), "{name}: {parameters:?}");
    Tool {
        name: name.into(),
        description: description.to_owned(),
        parameters: parameters.unwrap_or_default(),
    }
}

fn of_files() -> [Tool; 6] {
    [
        tool(
            "read",
            "Read a text file of the workspace. Text caps 2000 lines or 50KB. Continue with offset/limit, or cursor within a long line.",
            r#"{"type":"object","required":["path"],"properties":{"path":{"type":"string","description":"File path; relative/absolute."},"offset":{"type":"integer","minimum":1,"description":"Start line; 1-based."},"limit":{"type":"number","description":"Max lines."},"cursor":{"type":"integer","minimum":0,"description":"Character position within the start line; 0-based."},"optional":{"type":"boolean","const":true,"description":"Missing paths return structured not_found instead of failing."}}}"#,
        ),
        tool(
            "write",
            "Write/overwrite file; creates parent directories.",
            r#"{"type":"object","required":["path","content"],"properties":{"path":{"type":"string","description":"File path; relative/absolute."},"content":{"type":"string","description":"File content."}}}"#,
        ),
        tool(
            "edit",
            "Exact single-file replacements. oldText unique/non-overlapping against original. Merge nearby changes; omit large unchanged spans.",
            r#"{"type":"object","required":["path","edits"],"properties":{"path":{"type":"string","description":"File path; relative/absolute."},"edits":{"type":"array","items":{"type":"object","required":["oldText","newText"],"properties":{"oldText":{"type":"string","description":"Exact original text; unique and non-overlapping in this call."},"newText":{"type":"string","description":"Replacement text."}}},"description":"Targeted replacements against original file; no overlap/nesting. Merge nearby changes."}}}"#,
        ),
        tool(
            "ls",
            "List directory entries in binary filename order, including dotfiles and links. Names are JSON-quoted; / marks actual directories. Pass the returned after cursor with the same path to continue.",
            r#"{"type":"object","properties":{"path":{"type":"string","description":"Directory; default cwd."},"limit":{"type":"number","description":"Max entries; default 500."},"after":{"type":"string","description":"Filename cursor returned by the previous page."}}}"#,
        ),
        tool(
            "grep",
            "Search contents; returns path:line matches. Leaves out .git, node_modules and links. Caps 100 matches/50KB; lines cap 500 chars.",
            r#"{"type":"object","required":["pattern"],"properties":{"pattern":{"type":"string","description":"Regex/literal pattern."},"path":{"type":"string","description":"File/dir; default cwd."},"glob":{"type":"string","description":"File glob, e.g. *.ts."},"ignoreCase":{"type":"boolean","description":"Ignore case; default false."},"literal":{"type":"boolean","description":"Literal, not regex; default false."},"context":{"type":"number","description":"Context lines each side; default 0."},"limit":{"type":"number","description":"Max matches; default 100."}}}"#,
        ),
        tool(
            "find",
            "Find by glob; paths relative to search dir. Leaves out .git, node_modules and links. Caps 1000 results/50KB.",
            r#"{"type":"object","required":["pattern"],"properties":{"pattern":{"type":"string","description":"File glob, e.g. **/*.ts."},"path":{"type":"string","description":"Search dir; default cwd."},"limit":{"type":"integer","description":"Max results; default 1000."}}}"#,
        ),
    ]
}

/// `exec`, and `process` for what goes on in the background.
fn of_commands(can_continue: bool) -> [Tool; 2] {
    let begins = match can_continue {
        true => {
            "Run shell now; background continuation supported. Completed calls return command output directly. Use process only when exec reports running with a sessionId; output text alone is not a process handle. Nothing wakes you when a background run ends: process tells."
        }
        false => "Run shell and wait for completion.",
    };
    let properties = r#""command":{"type":"string","description":"Shell command."},"workdir":{"type":"string","description":"Omit/empty string: default; whitespace-only invalid."},"env":{"type":"object","additionalProperties":{"type":"string"},"description":"Literal overrides; no expansion. Omit to inherit."},"timeoutSeconds":{"type":"number","description":"Process lifetime in seconds; 0 disables."},"host":{"type":"string","enum":["auto","sandbox","gateway","node"],"description":"Omit/auto: inherit configured host."},"ask":{"type":"string","description":"Requests stricter approvals under tools.exec.mode and host policy; channel-origin calls cannot override host ask=off."}"#;
    let continued = match can_continue {
        true => {
            r#","yieldMs":{"type":"number","description":"Milliseconds before backgrounding; default 10000."},"background":{"type":"boolean","description":"Background now; timeoutSeconds applies."}"#
        }
        false => "",
    };
    [
        tool(
            "exec",
            &format!(
                "{begins} There is no terminal: use noninteractive flags. Quote arguments containing shell metacharacters, including URL query strings with `?` or `&`."
            ),
            &format!(
                r#"{{"type":"object","required":["command"],"properties":{{{properties}{continued}}}}}"#
            ),
        ),
        tool(
            "process",
            "Control existing exec: list, poll, log, kill, clear, remove. poll/log: status, output, quiet success, completion. Commands have no terminal, so write, send-keys, submit and paste are refused.",
            r#"{"type":"object","required":["action"],"properties":{"action":{"type":"string","enum":["list","poll","log","write","send-keys","submit","paste","kill","clear","remove"],"description":"Process action (list|poll|log|write|send-keys|submit|paste|kill|clear|remove)"},"sessionId":{"type":"string","description":"Required for every action except list."},"offset":{"type":"number","description":"Log offset"},"limit":{"type":"number","description":"Log length"},"timeout":{"type":"number","minimum":0,"description":"For poll: wait up to this many milliseconds before returning; max 30000 ms, higher values are clamped to 30000"}}}"#,
        ),
    ]
}

fn of_memory() -> [Tool; 2] {
    [
        tool(
            "memory_search",
            "Mandatory recall step: search what is kept in memory before answering questions about prior work, decisions, dates, people, preferences, or todos. If the response has a warning, results are partial: tell the user.",
            r#"{"type":"object","properties":{"query":{"type":"string"},"maxResults":{"type":"integer","minimum":1},"minScore":{"type":"number"},"corpus":{"type":"string","enum":["memory","wiki","all","sessions"]}},"required":["query"],"additionalProperties":false}"#,
        ),
        tool(
            "memory_get",
            "Exact excerpt of a document found by memory_search. status=ok means the requested excerpt was read; status=not_found means that nothing is kept under this path. Defaults to a bounded excerpt and says nextFrom when more exists.",
            r#"{"type":"object","properties":{"path":{"type":"string"},"from":{"type":"integer","minimum":1},"lines":{"type":"integer","minimum":1},"corpus":{"type":"string","enum":["memory","wiki","all"]}},"required":["path"],"additionalProperties":false}"#,
        ),
    ]
}

fn of_the_web() -> Tool {
    tool(
        "web_fetch",
        "Fetch URL; extract readable markdown/text. Lightweight; no browser automation.",
        r#"{"type":"object","required":["url"],"properties":{"url":{"type":"string","description":"HTTP or HTTPS URL to fetch."},"extractMode":{"type":"string","enum":["markdown","text"],"description":"Extraction mode (\"markdown\" or \"text\").","default":"markdown"},"maxChars":{"type":"number","description":"Maximum characters to return (truncates when exceeded).","minimum":100}}}"#,
    )
}

#[cfg(test)]
mod tests {
    use agent::Model;

    use super::*;

    #[test]
    fn every_tool_has_a_schema_and_clients_a_title() {
        for tool in of_files()
            .into_iter()
            .chain(of_memory())
            .chain([of_the_web()])
            .chain(of_commands(true))
            .chain(of_commands(false))
        {
            assert_eq!(tool.parameters["type"], "object", "{}", tool.name);
        }
        assert_eq!(title("memory_search"), "Memory Search");
        assert_eq!(
            about(
                "write",
                r#"{"path":"sub/new.txt","content":"alpha\nbeta\n"}"#
            )
            .as_deref(),
            Some("to sub/new.txt (11 chars)")
        );
        assert_eq!(about("read", "{nope"), None);
    }

    #[test]
    fn what_is_cut_keeps_the_end_of_its_mark() {
        for words in ["é", "<", "a\n"] {
            let marked = untrusted("MCP server x", &words.repeat(200_000));
            let text = cut(marked.clone());
            assert_eq!(text, marked, "it is not cut again");
            assert!(text.contains("bytes left out]\n<<<END_EXTERNAL_UNTRUSTED"));
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_to_the_model() {
        let dir = tempfile::tempdir().expect("a directory");
        let workspace = dir.path().join("work");
        let facts = Facts {
            config: json!({ "agents": { "defaults": { "workspace": workspace } }, "tools": { "deny": ["edit"] } }),
            state_dir: dir.path().to_owned(),
            ..Facts::default()
        };
        let config = json!({ "models": { "providers": { "p": { "baseUrl": "http://h", "models": [{ "id": "m" }] } } } });
        let model = Model::resolve(&config, "main", None, &|_| None).expect("a model");
        let memories = Arc::default();
        let toolbox = Toolbox::of(
            &facts,
            &memories,
            "main",
            "agent:main:main",
            (&model.provider, &model.id),
            Origin::Operator,
            None,
        );
        let names = toolbox.list();
        let names: Vec<&str> = names.iter().map(|tool| &*tool.name).collect();
        assert_eq!(
            names,
            [
                "read",
                "write",
                "ls",
                "grep",
                "find",
                "memory_search",
                "memory_get",
                "web_fetch"
            ]
        );
        let cancel = CancellationToken::new();
        let (progress, _told) = mpsc::channel(1);
        let calling = Calling {
            id: "c",
            cancel: &cancel,
            progress: &progress,
        };
        let check = async |name: &str, arguments: &str, expected: &str, is_blocked: bool| {
            let answer = toolbox.call(name, arguments, &calling).await;
            assert!(answer.text.contains(expected), "{}", answer.text);
            assert!(answer.error.is_some());
            assert_eq!(answer.is_blocked, is_blocked);
        };
        check("frobnicate", "{}", "Tool frobnicate not found", true).await;
        check("edit", "{}", "Tool edit not found", true).await;
        check("read", "{nope", "not JSON", true).await;
        check("read", "[]", "must be a JSON object", true).await;
        check("ls", "", "the workspace", false).await;
        check(
            "read",
            "{\"path\":\"x\"}",
            "agents.defaults.workspace",
            false,
        )
        .await;
        let written = toolbox
            .call("write", "{\"path\":\"x\",\"content\":\"y\"}", &calling)
            .await;
        assert_eq!(written.text, "Successfully wrote 1 bytes to x");
        check("read", "{\"pth\":1}", "Validation failed for tool \"read\":\n  - path: must have required properties path\n\nReceived arguments:\n{\n  \"pth\": 1\n}", true).await;
        // A folder where nothing may be written, unless the tests run as one who may do anything.
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&workspace, std::fs::Permissions::from_mode(0o555)).expect("set");
        if std::fs::write(workspace.join("probe"), "").is_err() {
            check(
                "write",
                "{\"path\":\"z\",\"content\":\"y\"}",
                "not open to that; tell the user",
                false,
            )
            .await;
        }
        std::fs::set_permissions(&workspace, std::fs::Permissions::from_mode(0o755)).expect("set");
    }
}
