//! `sessions_list`, `sessions_history`, `sessions_send`: an agent looks into other conversations and has one work.
//!
//! Source: docs/concepts/session-tool.md of the package at 2026.9.6.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use agent::{Sampling, Tool};
use serde_json::{Value, json};
use store::{AgentSession, Entry, RunState};

use super::policy::matches;
use super::{Done, Why, count, text, tool};
use crate::app::App;
use crate::assistant::{Accepted, Assistant, Input, rows};

const LIST_LIMIT: usize = 100;
const LIST_MAX: usize = 200;
/// Sessions that one call looks at.
const SCANNED_MAX: usize = 1000;
const HISTORY_LIMIT: usize = 50;
const HISTORY_MAX: usize = 1000;
/// Of a text in a history, and of all of them.
const TEXT_CHARS_MAX: usize = 4000;
const HISTORY_BYTES_MAX: usize = 80 * 1024;
/// How long `sessions_send` waits for the answer, seconds: where nothing is said, and at most.
const WAIT_S: usize = 30;
const WAIT_S_MAX: usize = 600;
/// Agents that ask each other on: so many hops, and no more.
const HOPS_MAX: usize = 3;
/// Who asks, in the transcript: no person.
pub(in crate::assistant) const BY_A_SESSION: &str = "sessions-send";
const HOP: &str = ":sessions-send:";
/// Another agent's conversation is there for what this says.
const TO_OTHERS: &str = "/tools/agentToAgent";

/// Who asks, and from which conversation.
pub(in crate::assistant) struct Desk {
    pub(in crate::assistant) app: Arc<App>,
    pub(in crate::assistant) assistant: Arc<Assistant>,
    pub(in crate::assistant) agent: String,
    pub(in crate::assistant) session_key: String,
    pub(in crate::assistant) run_id: String,
}

pub(super) fn offered() -> [Tool; 3] {
    [
        tool(
            "sessions_list",
            "List visible sessions (metadata only), newest first. Continue with nextOffset while hasMore. Use before sessions_history or sessions_send.",
            r#"{"type":"object","properties":{"limit":{"type":"integer","minimum":1},"offset":{"type":"integer","minimum":0},"agentId":{"type":"string"},"search":{"type":"string"},"archived":{"type":"boolean"}}}"#,
        ),
        tool(
            "sessions_history",
            "Read the newest lines of a visible session. includeTools: results of tools too.",
            r#"{"type":"object","required":["sessionKey"],"properties":{"sessionKey":{"type":"string"},"limit":{"type":"integer","minimum":1},"includeTools":{"type":"boolean"}}}"#,
        ),
        tool(
            "sessions_send",
            "Have another session, or the main session of an agent, work on a message. Waits timeoutSeconds (default 30, 0: not at all) for its answer; what takes longer goes on and is read with sessions_history.",
            r#"{"type":"object","required":["message"],"properties":{"sessionKey":{"type":"string"},"agentId":{"type":"string"},"message":{"type":"string"},"timeoutSeconds":{"type":"integer","minimum":0}}}"#,
        ),
    ]
}

pub(super) async fn call(desk: &Desk, name: &str, id: &str, args: &Value) -> Result<Done, Why> {
    match name {
        "sessions_list" => list(desk, args).await,
        "sessions_history" => history(desk, args).await,
        _ => send(desk, id, args).await,
    }
}

/// Whether a conversation may be seen, and why not. `from`: who asks, as agent and session.
fn sees(config: &Value, from: (&str, &str), agent: &str, key: &str) -> Result<(), String> {
    let (own_agent, own_key) = from;
    let visibility = config.pointer("/tools/sessions/visibility");
    let visibility = visibility.and_then(Value::as_str).unwrap_or("all");
    let is_same_agent = agent == own_agent;
    let allowed = match visibility {
        _ if key == own_key => true,
        "self" => false,
        "tree" => is_same_agent && own_key == format!("agent:{own_agent}:main"),
        "agent" => is_same_agent,
        _ if is_same_agent => true,
        _ => return speaks_to(config, own_agent, agent),
    };
    match allowed {
        true => Ok(()),
        false => Err(format!(
            "Session not visible from this session: tools.sessions.visibility is {visibility}"
        )),
    }
}

fn speaks_to(config: &Value, from: &str, to: &str) -> Result<(), String> {
    let policy = config.pointer(TO_OTHERS).unwrap_or(&Value::Null);
    if policy["enabled"] == false {
        return Err("Agent-to-agent access is off: tools.agentToAgent.enabled is false".to_owned());
    }
    let Some(allow) = policy["allow"].as_array().filter(|allow| !allow.is_empty()) else {
        return Ok(());
    };
    let is_listed = |agent: &str| {
        let mut patterns = allow.iter().filter_map(Value::as_str);
        patterns.any(|pattern| matches(pattern.trim().to_lowercase().as_bytes(), agent.as_bytes()))
    };
    match is_listed(from) && is_listed(to) {
        true => Ok(()),
        false => Err("Agent-to-agent access is not allowed by tools.agentToAgent.allow".to_owned()),
    }
}

impl Desk {
    fn sees(&self, session: &AgentSession) -> Result<(), String> {
        let config = &self.app.facts.load().config;
        sees(
            config,
            (&self.agent, &self.session_key),
            &session.agent,
            &session.key,
        )
    }

    /// A session that the arguments name and that may be seen.
    async fn session(&self, named: &str) -> Result<AgentSession, Why> {
        let facts = self.app.facts.load_full();
        let roster = facts.inputs(0, 0).roster();
        let key = crate::native::sessions::canonical_key(&roster, named, Some(&self.agent));
        let mut session = None;
        // As it is listed first: some services tell names apart by their case.
        for key in [named, &key] {
            if session.is_none() {
                let found = self.assistant.session(key).await;
                session = found.map_err(|error| Why::Error(error.message))?;
            }
        }
        let session = session.ok_or_else(|| {
            Why::Error(format!(
                "No session found: {named}; sessions_list shows them"
            ))
        })?;
        self.sees(&session).map_err(Why::Refused)?;
        Ok(session)
    }
}

async fn list(desk: &Desk, args: &Value) -> Result<Done, Why> {
    let limit = count(args, "limit")?
        .unwrap_or(LIST_LIMIT)
        .clamp(1, LIST_MAX);
    let offset = count(args, "offset")?.unwrap_or(0);
    let agent = args["agentId"]
        .as_str()
        .map(crate::native::agents::normalize_id);
    let archived = args["archived"] == true;
    let search = args["search"].as_str().map(str::to_lowercase);
    let read = desk.assistant.store.read(move |reader| {
        reader
            .agents()
            .list(agent.as_deref(), archived, offset, SCANNED_MAX)
    });
    let sessions = read.await.map_err(|error| Why::Error(error.to_string()))?;
    let scanned = sessions.len();
    let mut shown = Vec::new();
    let mut next = None;
    let mut describer = rows::Describer::new(&desk.app, &desk.assistant);
    for (at, session) in sessions.iter().enumerate() {
        if desk.sees(session).is_err() {
            continue;
        }
        let row = describer.row(session);
        let names = ["key", "label", "displayName", "derivedTitle"];
        let is_meant = search.as_ref().is_none_or(|words| {
            let mut texts = names.iter().filter_map(|name| row[*name].as_str());
            texts.any(|text| text.to_lowercase().contains(words))
        });
        if !is_meant {
            continue;
        }
        if shown.len() == limit {
            next = Some(offset + at);
            break;
        }
        shown.push(inventory(&row, session));
    }
    // More may lie behind what was looked at.
    if next.is_none() && scanned == SCANNED_MAX {
        next = Some(offset + scanned);
    }
    let mut answer = json!({
        "count": shown.len(), "sessions": shown, "hasMore": next.is_some(), "limitApplied": limit,
    });
    if let Some(next) = next {
        answer["nextOffset"] = json!(next);
    }
    Ok(Done::json(answer))
}

/// What is shown of a session's row.
fn inventory(row: &Value, session: &AgentSession) -> Value {
    let mut shown = json!({ "agentId": session.agent, "archived": session.archived });
    let names = [
        "key",
        "sessionId",
        "label",
        "displayName",
        "derivedTitle",
        "kind",
        "channel",
        "model",
        "contextTokens",
        "totalTokens",
        "status",
        "updatedAt",
        "pinned",
        "abortedLastRun",
    ];
    for name in names {
        if !row[name].is_null() {
            shown[name] = row[name].clone();
        }
    }
    shown
}

async fn history(desk: &Desk, args: &Value) -> Result<Done, Why> {
    let session = desk.session(text(args, "sessionKey")?).await?;
    let limit = count(args, "limit")?
        .unwrap_or(HISTORY_LIMIT)
        .clamp(1, HISTORY_MAX);
    let with_tools = args["includeTools"] == true;
    // Results that are left out must not use up what was asked for.
    let read = desk
        .assistant
        .entries(&session.session_id, limit.saturating_mul(4));
    let entries = read.await.map_err(|error| Why::Error(error.message))?;
    let lines = entries.iter().filter(|entry| {
        matches!(&*entry.role, "user" | "assistant") || (with_tools && entry.role == "toolResult")
    });
    let lines: Vec<&Entry> = lines.filter(|entry| !rows::is_hidden(entry)).collect();
    let lines = &lines[lines.len().saturating_sub(limit)..];
    let (mut bytes, mut cut, mut messages) = (0, false, Vec::new());
    for entry in lines.iter().rev() {
        let (message, was_cut) = line(entry, with_tools);
        let size = message.to_string().len();
        if bytes + size > HISTORY_BYTES_MAX {
            break;
        }
        bytes += size;
        cut |= was_cut;
        messages.push(message);
    }
    messages.reverse();
    let dropped = messages.len() < lines.len();
    Ok(Done::json(json!({
        "sessionKey": session.key, "messages": messages, "truncated": dropped || cut, "droppedMessages": dropped,
        "contentTruncated": cut, "contentRedacted": false, "bytes": bytes,
    })))
}

/// A line without what only the gateway and the model's maker need; whether a text was cut.
fn line(entry: &Entry, with_tools: bool) -> (Value, bool) {
    let message: Value = serde_json::from_str(&entry.message).unwrap_or_default();
    let whole = rows::text_of(&message["content"]);
    let text: String = whole.chars().take(TEXT_CHARS_MAX).collect();
    let was_cut = text.len() < whole.len();
    let text = if was_cut {
        format!("{text}\n…(truncated)…")
    } else {
        text
    };
    let mut shown = json!({ "role": entry.role, "content": text, "timestamp": entry.at_ms });
    let calls = rows::calls_of(&message["content"]);
    if with_tools && !calls.is_empty() {
        shown["tools"] = calls.iter().map(|call| json!(call.name)).collect();
    }
    if let Some(name) = message["toolName"].as_str() {
        shown["toolName"] = json!(name);
    }
    (shown, was_cut)
}

/// Boxed by hand: a turn calls this, and this begins turns.
fn send<'a>(
    desk: &'a Desk,
    id: &'a str,
    args: &'a Value,
) -> Pin<Box<dyn Future<Output = Result<Done, Why>> + Send + 'a>> {
    Box::pin(async move {
        let message = text(args, "message")?;
        let wait = count(args, "timeoutSeconds")?
            .unwrap_or(WAIT_S)
            .min(WAIT_S_MAX);
        let (agent, key) = target(desk, args).await?;
        if key == desk.session_key {
            return Err(Why::Error(
                "this is the session that asks: answer here instead".to_owned(),
            ));
        }
        let hops = desk.run_id.matches(HOP).count();
        if hops >= HOPS_MAX {
            return Err(Why::Refused(format!(
                "sessions have asked each other on {hops} times: answer with what there is"
            )));
        }
        // By what is said too: there are models' servers that number the calls of each answer anew.
        let call = json!([id, key, message]).to_string();
        let digest = crate::auth::sha256_hex(call.as_bytes());
        let short = digest.get(..16).unwrap_or(&digest);
        let run_id = format!("{}{HOP}{short}", desk.run_id);
        let input = Input {
            run_id: run_id.clone(),
            session_key: key.clone(),
            agent,
            message: format!("[From session {}]\n{message}", desk.session_key),
            images: Vec::new(),
            extra_system: None,
            is_chat: false,
            queue: false,
            client: Some((BY_A_SESSION.to_owned(), "backend".to_owned())),
            model: None,
            sampling: Sampling::default(),
            caller_tools: Vec::new(),
        };
        // On disk before it is said to be accepted; it goes on, whether it is waited for or not.
        let accepted = desk.assistant.accept(&desk.app, input).await;
        let ended = match accepted.map_err(|error| Why::Error(error.message))? {
            Accepted::Started(live) | Accepted::InFlight(live) => {
                let wait = Duration::from_secs(u64::try_from(wait).unwrap_or(0));
                match tokio::time::timeout(wait, live.ended()).await {
                    Ok(outcome) => outcome,
                    Err(_elapsed) => {
                        let accepted =
                            json!({ "runId": run_id, "status": "accepted", "sessionKey": key });
                        return Ok(Done::json(accepted));
                    }
                }
            }
            Accepted::Ended(run) => crate::assistant::ended(&run),
        };
        let mut answer = json!({ "runId": run_id, "sessionKey": key, "status": "ok" });
        let reply = ended.text.trim();
        match ended.state {
            RunState::Ok if reply.is_empty() => answer["status"] = json!("no_reply"),
            RunState::Ok => answer["reply"] = json!(reply),
            _ => {
                answer["status"] = json!("error");
                answer["error"] = json!(ended.error.as_deref().unwrap_or("the turn was stopped"));
            }
        }
        Ok(Done::json(answer))
    })
}

/// Agent and session that a message is for.
async fn target(desk: &Desk, args: &Value) -> Result<(String, String), Why> {
    if let Some(named) = args["sessionKey"].as_str() {
        let session = desk.session(named).await?;
        if session.archived {
            return Err(Why::Refused(format!(
                "{named} is archived: restore it first"
            )));
        }
        return Ok((session.agent, session.key));
    }
    let agent = crate::native::agents::normalize_id(text(args, "agentId")?);
    let facts = desk.app.facts.load_full();
    let roster = facts.inputs(0, 0).roster();
    if roster.get(&agent).is_none() {
        return Err(Why::Error(format!("no agent {agent} is configured")));
    }
    let key = roster.main_session_key(&agent);
    let from = (&*desk.agent, &*desk.session_key);
    sees(&facts.config, from, &agent, &key).map_err(Why::Refused)?;
    Ok((agent, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_seen_is_as_the_file_says() {
        let check = |config: Value, from: (&str, &str), seen: [bool; 3]| {
            let keys = [
                ("main", "agent:main:a"),
                ("main", from.1),
                ("work", "agent:work:main"),
            ];
            let got = keys.map(|(agent, key)| sees(&config, from, agent, key).is_ok());
            assert_eq!(got, seen, "{config} {from:?}");
        };
        let visibility = |word: &str| json!({ "tools": { "sessions": { "visibility": word } } });
        let (main, other) = (("main", "agent:main:main"), ("main", "agent:main:b"));
        check(json!({}), other, [true, true, true]);
        check(visibility("self"), main, [false, true, false]);
        check(visibility("tree"), main, [true, true, false]);
        check(visibility("tree"), other, [false, true, false]);
        check(visibility("agent"), other, [true, true, false]);
        let others = |policy: Value| json!({ "tools": { "agentToAgent": policy } });
        check(
            others(json!({ "enabled": false })),
            other,
            [true, true, false],
        );
        check(
            others(json!({ "allow": ["main", "w*"] })),
            other,
            [true, true, true],
        );
        check(
            others(json!({ "allow": ["main"] })),
            other,
            [true, true, false],
        );
    }

    #[test]
    fn a_line_is_bounded_and_says_so() {
        let of = |message: Value| Entry {
            seq: 1,
            id: "e".to_owned(),
            role: "assistant".to_owned(),
            run_id: None,
            message: message.to_string(),
            at_ms: 5,
        };
        let long = of(json!({ "content": [
            { "type": "thinking", "thinking": "hm" }, { "type": "text", "text": "é".repeat(5000) },
            { "type": "toolCall", "id": "c", "name": "read", "arguments": {} },
        ] }));
        let (shown, was_cut) = line(&long, true);
        assert!(was_cut);
        assert!(
            shown["content"]
                .as_str()
                .is_some_and(|text| text.ends_with("…(truncated)…") && !text.contains("hm"))
        );
        assert_eq!(shown["tools"], json!(["read"]));
        let (short, was_cut) = line(&of(json!({ "content": "x" })), false);
        assert_eq!(
            (short, was_cut),
            (
                json!({ "role": "assistant", "content": "x", "timestamp": 5 }),
                false
            )
        );
    }
}
