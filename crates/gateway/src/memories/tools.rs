//! `memory_search` and `memory_get`, as agents call them and as `tools.invoke` does: arguments, answers and refusals of the
//! original at 2026.9.6 (extensions/memory-core/src/tools.ts, src/gateway/tools-invoke-shared.ts).

use std::time::Instant;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use wire::error::ErrorShape;
use wire::raw::{Fields, js_trim};

use super::read::{self, Get, Search};
use super::shelf::{Citations, Shelf};
use super::{Memories, is_usable};
use crate::native::agents::{IMPLICIT_AGENT, Ownership, Roster, normalize_id};
use crate::native::sessions::parse_agent_key;
use crate::native::{Facts, sessions};

pub(crate) const NAMES: [&str; 2] = ["memory_search", "memory_get"];
const RESULTS_MAX: usize = 200;

/// Why a tool has no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToolError {
    /// What is wrong with the arguments.
    Arguments(String),
    Broken(String),
}

/// The tool that params of `tools.invoke` name.
pub(super) fn named(params: &RawValue) -> Option<String> {
    let name = Fields::parse(params)?.text("name")?;
    let name = js_trim(&name);
    (!name.is_empty()).then(|| name.to_owned())
}

/// One of [`NAMES`]; `session` decides whether hits say where they are from.
pub(crate) fn call(
    memories: &Memories,
    shelf: &Shelf,
    name: &str,
    args: &Value,
    session: &str,
) -> Result<Value, ToolError> {
    match name {
        "memory_search" => search(memories, shelf, args, session),
        _ => get(memories, shelf, args),
    }
}

fn search(
    memories: &Memories,
    shelf: &Shelf,
    args: &Value,
    session: &str,
) -> Result<Value, ToolError> {
    let began = Instant::now();
    let query = required(args, "query")?;
    let limit = positive(args, "maxResults")?.unwrap_or(shelf.results);
    let limit = limit.min(RESULTS_MAX);
    let min_score = number(args, "minScore").map_err(|()| wrong("minScore", "a finite number"))?;
    let corpus = corpus(args, &["memory", "wiki", "all", "sessions"])?;
    match corpus {
        Some("sessions") => return Ok(no_sessions()),
        Some("wiki") => {
            return Ok(json!({
                "results": [], "citations": shelf.citations.word(), "corpora": [no_wiki()], "warning": NO_WIKI_WARNING,
            }));
        }
        _ => {}
    }
    let asked = Search {
        query,
        limit,
        min_score: min_score.unwrap_or(0.0),
        kinds: match corpus {
            Some("memory") => vec!["memory".to_owned()],
            _ => Vec::new(),
        },
        words_only: false,
    };
    let found = read::search(memories, shelf, &asked).map_err(|error| {
        tracing::warn!(%error, "memory_search failed");
        ToolError::Broken(error.to_string())
    })?;
    let cites = match shelf.citations {
        Citations::On => true,
        Citations::Off => false,
        Citations::Auto => is_direct(session),
    };
    let mode = found.mode();
    let (hits, by_meaning, search_ms) = (found.results.len(), found.by_meaning, found.search_ms);
    let results: Vec<Value> = found
        .results
        .into_iter()
        .map(|hit| presented(hit, cites))
        .collect();
    let mut out = json!({ "results": results, "provider": found.provider });
    if let Some(model) = found.model {
        out["model"] = json!(model);
    }
    out["citations"] = json!(shelf.citations.word());
    if by_meaning {
        out["mode"] = json!(mode);
    }
    match (corpus, &found.warning) {
        (Some("all"), _) => {
            out["corpora"] = json!([{ "corpus": "memory", "outcome": "ok" }, no_wiki()])
        }
        (_, Some(_)) => out["corpora"] = json!([]),
        (_, None) => {}
    }
    if let Some(warning) = found.warning {
        out["warning"] = json!(warning);
    }
    let tool_ms = began.elapsed().as_millis();
    out["debug"] = json!({
        "backend": "builtin", "effectiveMode": if by_meaning { mode } else { "n/a" },
        "managerMs": 0, "searchMs": search_ms, "hits": hits, "candidateHits": hits, "withheldHits": 0,
        "searchWindow": limit, "toolMs": tool_ms, "outsideSearchMs": tool_ms.saturating_sub(search_ms),
    });
    Ok(out)
}

fn presented(mut hit: Value, cites: bool) -> Value {
    hit["corpus"] = hit["source"].clone();
    if cites {
        let path = hit["path"].as_str().unwrap_or_default();
        let (start, end) = (&hit["startLine"], &hit["endLine"]);
        let citation = match start == end {
            true => format!("{path}#L{start}"),
            false => format!("{path}#L{start}-L{end}"),
        };
        let snippet = hit["snippet"].as_str().unwrap_or_default().trim_end();
        hit["snippet"] = json!(format!("{snippet}\n\nSource: {citation}"));
        hit["citation"] = json!(citation);
    }
    hit
}

/// Source: `deriveChatTypeFromSessionKey` of extensions/memory-core/src/tools.citations.ts.
fn is_direct(session: &str) -> bool {
    let session = session.to_lowercase();
    let Some((_, rest)) = parse_agent_key(&session) else {
        return true;
    };
    !rest
        .split(':')
        .any(|part| matches!(part, "channel" | "group"))
}

fn get(memories: &Memories, shelf: &Shelf, args: &Value) -> Result<Value, ToolError> {
    let path = required(args, "path")?;
    let (from, lines) = (positive(args, "from")?, positive(args, "lines")?);
    let corpus = corpus(args, &["memory", "wiki", "all"])?;
    if corpus == Some("wiki") {
        return Ok(json!({
            "path": path, "text": "", "corpora": [no_wiki()], "warning": NO_WIKI_WARNING,
        }));
    }
    let asked = Get { path, from, lines };
    let is_all = corpus == Some("all");
    Ok(match read::get(memories, shelf, &asked) {
        Ok(mut answer) => {
            if is_all {
                answer["corpora"] = json!([{ "corpus": "memory", "outcome": "ok" }, no_wiki()]);
            }
            answer
        }
        Err(refusal) if is_all => json!({
            "status": "error", "path": path, "text": "",
            "corpora": [{ "corpus": "memory", "outcome": "unavailable", "error": refusal.message }, no_wiki()],
            "warning": format!("Memory corpus unavailable: {}", refusal.message), "error": refusal.message,
        }),
        Err(refusal) => json!({
            "path": path, "text": "", "status": "error", "code": refusal.code, "error": refusal.message,
        }),
    })
}

const NO_WIKI_WARNING: &str =
    "Wiki corpus is not registered; results do not cover that requested corpus.";

fn no_wiki() -> Value {
    json!({ "corpus": "wiki", "outcome": "not-registered" })
}

fn no_sessions() -> Value {
    let error = "Session transcript search is not enabled.";
    let warning = "Session transcript search is unavailable for this agent.";
    let action = "If an exact session-history capability is available for this run, use it. Otherwise, ask the operator to \
        enable semantic session search by enabling memory.search.experimental.sessionMemory and adding \"sessions\" to \
        memory.search.sources.";
    json!({
        "results": [], "disabled": true, "unavailable": true, "error": error, "warning": warning, "action": action,
        "debug": { "warning": warning, "action": action, "error": error },
    })
}

/// An argument under its name, or as some models spell it: `max_results`.
fn argument<'a>(args: &'a Value, name: &str) -> &'a Value {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    args.get(name).unwrap_or(&args[snake.as_str()])
}

fn required<'a>(args: &'a Value, name: &str) -> Result<&'a str, ToolError> {
    let text = argument(args, name).as_str().map_or("", js_trim);
    match text {
        "" => Err(ToolError::Arguments(format!("{name} required"))),
        text => Ok(text),
    }
}

fn wrong(name: &str, what: &str) -> ToolError {
    ToolError::Arguments(format!("{name} must be {what}"))
}

/// Some models write numbers as text.
fn number(args: &Value, name: &str) -> Result<Option<f64>, ()> {
    let number = match argument(args, name) {
        Value::Null => return Ok(None),
        Value::String(text) if js_trim(text).is_empty() => return Ok(None),
        Value::String(text) => js_trim(text).parse().ok(),
        other => other.as_f64(),
    };
    number
        .filter(|number| f64::is_finite(*number))
        .map(Some)
        .ok_or(())
}

fn positive(args: &Value, name: &str) -> Result<Option<usize>, ToolError> {
    let bad = || wrong(name, "a positive integer");
    match number(args, name).map_err(|()| bad())? {
        None => Ok(None),
        Some(number) if number >= 1.0 && number.fract() == 0.0 && number < 9e15 => {
            Ok(Some(number as usize))
        }
        Some(_) => Err(bad()),
    }
}

fn corpus<'a>(args: &'a Value, allowed: &[&str]) -> Result<Option<&'a str>, ToolError> {
    match argument(args, "corpus").as_str().map(js_trim) {
        None | Some("") => Ok(None),
        Some(corpus) if allowed.contains(&corpus) => Ok(Some(corpus)),
        Some(_) => Err(ToolError::Broken(format!(
            "corpus must be one of: {}",
            allowed.join(", ")
        ))),
    }
}

/// A tool that was not called, as `tools.invoke` says it.
pub(crate) struct Refused(pub(crate) &'static str, pub(crate) String);

/// `tools.invoke` of one of [`NAMES`]; params are checked against their schema.
///
/// # Errors
/// What is refused before a tool is looked for.
pub(crate) fn invoke(
    memories: &Memories,
    facts: &Facts,
    params: &Value,
) -> Result<Value, ErrorShape> {
    let name = params["name"].as_str().map_or("", js_trim);
    if name.is_empty() {
        return Err(ErrorShape::invalid_request(
            "invalid tools.invoke params: name required",
        ));
    }
    let roster = facts.inputs(0, 0).roster();
    let no_args = json!({});
    let args = params.get("args").unwrap_or(&no_args);
    let answer = target(&roster, params)?.and_then(|(agent, session)| {
        let unavailable = || Refused("not_found", format!("Tool not available: {name}"));
        let shelf = Shelf::of(facts, &agent)
            .filter(|_| crate::assistant::may_use(facts, &agent, name))
            .ok_or_else(unavailable)?;
        call(memories, &shelf, name, args, &session).map_err(|error| match error {
            ToolError::Arguments(why) => Refused("internal_error", why),
            ToolError::Broken(_) => Refused("internal_error", "tool execution failed".to_owned()),
        })
    });
    Ok(match answer {
        Ok(details) => json!({
            "ok": true, "toolName": name,
            "output": { "content": [{ "type": "text", "text": format!("{details:#}") }], "details": details },
            "source": "plugin",
        }),
        Err(Refused(code, message)) => json!({
            "ok": false, "toolName": name, "error": { "code": code, "message": message },
        }),
    })
}

/// The agent and the session that a call is for.
/// Source: src/gateway/session-request-agent.ts at 2026.9.6, and the guard of session keys before it.
pub(crate) fn target(
    roster: &Roster,
    params: &Value,
) -> Result<Result<(String, String), Refused>, ErrorShape> {
    let text = |name: &str| {
        let text = params[name].as_str().map(js_trim);
        text.filter(|text| !text.is_empty())
    };
    let (key, asked) = (text("sessionKey"), text("agentId"));
    let lower = key.unwrap_or("main").to_lowercase();
    let of_key = parse_agent_key(&lower).map(|(agent, _)| normalize_id(agent));
    if lower.starts_with("agent:") && of_key.is_none() {
        return Err(ErrorShape::invalid_request(format!(
            "malformed session key \"{}\"",
            key.unwrap_or_default()
        )));
    }
    let refuse = |why: String| Ok(Err(Refused("validation_error", why)));
    let wanted = asked.map(normalize_id);
    if let (Some(wanted), Some(of_key)) = (&wanted, &of_key)
        && wanted != of_key
    {
        return Err(ErrorShape::invalid_request(format!(
            "Multiple agents are configured, but session agent resolution has no explicit owner. The agent-scoped session \
             key belongs to \"{of_key}\", not \"{wanted}\"."
        )));
    }
    if let (Some(asked), Some(wanted)) = (asked, &wanted)
        && (!is_usable(asked) || roster.get(wanted).is_none())
    {
        return refuse(format!("Unknown agent id \"{asked}\""));
    }
    let agent = match of_key.or(wanted) {
        Some(agent) => agent,
        None if roster.ownership == Ownership::Sole || !roster.selection_required => {
            roster.default_id.clone()
        }
        // Sessions of before there were several agents are this one's.
        None if !roster.is_explicit && roster.get(IMPLICIT_AGENT).is_some() => {
            IMPLICIT_AGENT.to_owned()
        }
        None => {
            let who = "Multiple agents are configured, but session key";
            return match key {
                Some(key) => Err(ErrorShape::invalid_request(format!(
                    "{who} \"{key}\" has no explicit owner. Use an agent-prefixed session key or select an agent explicitly."
                ))),
                None => refuse(format!(
                    "{who} \"main\" has no explicit owner. Pass agentId or use an agent-prefixed session key."
                )),
            };
        }
    };
    if let Some(asked) = asked
        && asked != agent
    {
        return refuse(format!(
            "agent id \"{asked}\" does not match session agent \"{agent}\""
        ));
    }
    let session = sessions::canonical_key(roster, &lower, Some(&agent));
    Ok(Ok((agent, session)))
}
