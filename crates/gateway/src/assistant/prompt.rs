//! What a model is told: who it is, the files of its workspace, and the conversation as far as it fits.

use std::path::Path;

use agent::{Message, Model, Part, Tool, ToolCall, ToolResult};
use serde_json::Value;
use store::Entry;

use super::Image;
use super::compact::plan::beginning;
use super::freshness::is_a_persons;
use crate::native::Facts;

/// More entries than any window holds are not read.
pub(super) const ENTRIES_MAX: usize = 2_000;
/// The original's limits of one file and of all, characters (`bootstrapMaxChars`, `bootstrapTotalMaxChars`).
const FILE_CHARS_MAX: usize = 20_000;
const FILES_CHARS_MAX: usize = 60_000;
/// The files of a workspace that go into every prompt, in the original's order.
const FILES: [&str; 6] = [
    "AGENTS.md",
    "SOUL.md",
    "IDENTITY.md",
    "USER.md",
    "TOOLS.md",
    "MEMORY.md",
];
/// A rough measure that errs on the safe side for English and code.
const CHARS_PER_TOKEN: u64 = 3;

/// The system prompt of an agent, from its workspace as it is now.
pub(super) fn system(
    facts: &Facts,
    agent_id: &str,
    tools: &[Tool],
    extra: Option<String>,
) -> String {
    let inputs = facts.inputs(0, 0);
    let roster = inputs.roster();
    let agent = roster.get(agent_id);
    let name = agent
        .and_then(|agent| agent.entry.get("identity"))
        .and_then(|identity| identity.get("name"))
        .and_then(Value::as_str)
        .or_else(|| agent.and_then(|agent| agent.name.as_deref()))
        .unwrap_or("Assistant");
    let now = httpdate::fmt_http_date(std::time::SystemTime::now());
    let mut text = format!(
        "You are {name}, a personal AI assistant. Answer plainly and helpfully. {}\nThe time is {now}.\n",
        match tools.is_empty() {
            true =>
                "In this conversation you have no tools: when something would need one, say so.",
            false =>
                "Use your tools when they help; when something would need one that you don't have, say so.",
        }
    );
    if let Some(agent) = agent {
        let workspace = roster.workspace(inputs.config, agent, &inputs.places);
        if tools.iter().any(|tool| tool.name == "read") {
            text.push_str(&format!(
                "Your workspace is {}; tools for files work there and nowhere else.\n",
                workspace.display()
            ));
        }
        add_files(&mut text, &workspace);
    }
    if let Some(extra) = extra {
        text.push('\n');
        text.push_str(&extra);
        text.push('\n');
    }
    text
}

fn add_files(text: &mut String, workspace: &Path) {
    let Ok(root) = workspace.canonicalize() else {
        return;
    };
    let mut left = FILES_CHARS_MAX;
    for name in FILES {
        // A link that leads out of the workspace is not followed.
        let path = match root.join(name).canonicalize() {
            Ok(path) if path.starts_with(&root) => path,
            _ => continue,
        };
        let content = match read(&path, FILE_CHARS_MAX.min(left)) {
            Ok(content) => content,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "a workspace file cannot be read");
                continue;
            }
        };
        if content.trim().is_empty() {
            continue;
        }
        left = left.saturating_sub(content.chars().count());
        text.push_str(&format!("\n# {name}\n\n{}\n", content.trim_end()));
    }
}

/// The beginning of a file, at most so many characters.
fn read(path: &Path, chars_max: usize) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let limit = u64::try_from(chars_max * 4).unwrap_or(u64::MAX);
    std::fs::File::open(path)?
        .take(limit)
        .read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut short: String = text.chars().take(chars_max).collect();
    if short.len() < text.len() {
        short.push_str("\n[…]");
    }
    Ok(short)
}

/// The conversation from its last compaction on, newest kept, as far as `window` tokens of the model's take it beside an
/// answer. Every call in it has its result, and every result its call: providers refuse anything else.
///
/// `pictured`: the id of an entry, and the pictures that came with it; only for a model that takes some.
pub(super) fn conversation(
    entries: &[Entry],
    model: &Model,
    window: u64,
    pictured: (&str, &[Image]),
) -> Vec<Message> {
    let tokens = window.saturating_sub(model.max_tokens).max(window / 4);
    let mut left = usize::try_from(tokens * CHARS_PER_TOKEN).unwrap_or(usize::MAX);
    let (from, summary) = beginning(entries);
    let summary = summary.map(|summary| {
        format!("What was said before is summed up here:\n\n<summary>\n{summary}\n</summary>")
    });
    left = left.saturating_sub(summary.as_ref().map_or(0, |text| text.chars().count()));
    let mut kept: Vec<Message> = Vec::new();
    let mut cut = false;
    for entry in entries[from..].iter().rev() {
        let Some(mut said) = said(entry, model) else {
            continue;
        };
        if let [Part::Result(result)] = said.parts.as_mut_slice()
            && result.text.chars().count() > left
        {
            result.text = "[left out here: it does not fit any more]".to_owned();
        }
        if entry.id == pictured.0 && model.takes_images {
            let pictures = pictured.1.iter().map(|image| Part::Image {
                data: image.data.clone(),
                mime: image.mime.clone(),
            });
            said.parts.extend(pictures);
        }
        let length: usize = said.parts.iter().map(weight).sum();
        if length > left && !kept.is_empty() {
            cut = true;
            break;
        }
        left = left.saturating_sub(length);
        // The same side twice in a row (an answer failed between them) is one message to a model.
        match kept.last_mut() {
            Some(last) if last.role == said.role => join(last, said),
            _ => kept.push(said),
        }
    }
    if let Some(summary) = summary {
        let summary = Message::text("user", summary);
        match kept.last_mut() {
            Some(last) if last.role == summary.role => join(last, summary),
            _ => kept.push(summary),
        }
    }
    kept.reverse();
    let mut kept = paired(kept);
    if cut {
        kept.insert(
            0,
            Message::text(
                "system",
                "Earlier messages of this conversation are left out here: they do not fit.",
            ),
        );
    }
    kept
}

fn weight(part: &Part) -> usize {
    match part {
        Part::Text(text) => text.chars().count(),
        Part::Call(call) => {
            call.arguments.chars().count() + call.name.len() + length(call.signature.as_ref())
        }
        Part::Thought(thought) => thought.text.chars().count() + length(thought.signature.as_ref()),
        Part::Result(result) => result.text.chars().count(),
        Part::Image { .. } => 0,
    }
}

/// What a provider wants back is sent, too.
fn length(signature: Option<&String>) -> usize {
    signature.map_or(0, String::len)
}

/// Puts an earlier message before a later one of the same side.
fn join(later: &mut Message, mut earlier: Message) {
    if let (Some(Part::Text(before)), Some(Part::Text(after))) =
        (earlier.parts.last_mut(), later.parts.first())
    {
        before.push_str("\n\n");
        before.push_str(after);
        later.parts.remove(0);
    }
    earlier.parts.append(&mut later.parts);
    *later = earlier;
}

/// Drops results without a call, and answers calls without a result.
fn paired(messages: Vec<Message>) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::new();
    let mut open: Vec<ToolCall> = Vec::new();
    for mut message in messages {
        if message.role == "tool" {
            message.parts.retain(|part| match part {
                Part::Result(result) => {
                    match open.iter().position(|call| call.id == result.call_id) {
                        Some(at) => {
                            open.remove(at);
                            true
                        }
                        None => false,
                    }
                }
                _ => true,
            });
            message.parts.extend(open.drain(..).map(lost));
            if !message.parts.is_empty() {
                out.push(message);
            }
            continue;
        }
        if !open.is_empty() {
            let parts = open.drain(..).map(lost).collect();
            out.push(Message {
                role: "tool",
                parts,
            });
        }
        open.extend(message.parts.iter().filter_map(|part| match part {
            Part::Call(call) => Some(call.clone()),
            _ => None,
        }));
        out.push(message);
    }
    if !open.is_empty() {
        let parts = open.drain(..).map(lost).collect();
        out.push(Message {
            role: "tool",
            parts,
        });
    }
    out
}

fn lost(call: ToolCall) -> Part {
    Part::Result(ToolResult {
        call_id: call.id,
        name: call.name,
        text: "No result of this call was kept.".to_owned(),
        is_error: true,
    })
}

/// Who said what; nothing for what only tells of a failure.
fn said(entry: &Entry, model: &Model) -> Option<Message> {
    let message: Value = serde_json::from_str(&entry.message).ok()?;
    if message["stopReason"] == "error" {
        return None;
    }
    let mut text = super::rows::text_of(&message["content"]);
    // How hard to think was meant for the gateway; only who is at a client may say it.
    let client = &message["__openclaw"]["transport"]["clients"][0]["id"];
    if entry.role == "user"
        && client.as_str().is_some_and(is_a_persons)
        && let Some((_, rest)) = super::thinking::inline(&text)
    {
        text = rest;
    }
    let texts = (!text.trim().is_empty()).then(|| Part::Text(text.clone()));
    let (role, parts): (_, Vec<Part>) = match entry.role.as_str() {
        "user" => ("user", texts.into_iter().collect()),
        "assistant" => {
            let calls = super::rows::calls_of(&message["content"]);
            // What one model has thought means nothing to another, and its signature less.
            let is_own = message["provider"] == *model.provider && message["model"] == *model.id;
            let thoughts = match is_own {
                true => super::rows::thoughts_of(&message["content"]),
                false => Vec::new(),
            };
            (
                "assistant",
                thoughts
                    .into_iter()
                    .map(Part::Thought)
                    .chain(texts)
                    .chain(calls.into_iter().map(Part::Call))
                    .collect(),
            )
        }
        "toolResult" => {
            let word = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
            let result = ToolResult {
                call_id: word("toolCallId"),
                name: word("toolName"),
                text,
                is_error: message["isError"] == true,
            };
            ("tool", vec![Part::Result(result)])
        }
        _ => return None,
    };
    let says = |part: &Part| !matches!(part, Part::Thought(_));
    parts.iter().any(says).then_some(Message { role, parts })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(role: &str, text: &str, stop: &str) -> Entry {
        Entry {
            seq: 0,
            id: String::new(),
            role: role.to_owned(),
            run_id: None,
            message: json!({ "content": [{ "type": "text", "text": text }], "stopReason": stop })
                .to_string(),
            at_ms: 0,
        }
    }

    fn model(context_window: u64) -> Model {
        let config = json!({ "models": { "providers": { "p": { "baseUrl": "http://h", "models": [{ "id": "m", "contextWindow": context_window, "maxTokens": 1 }] } } } });
        Model::resolve(&config, "main", None, &|_| None).expect("a model")
    }

    fn texts(messages: &[Message]) -> Vec<(&str, String)> {
        messages
            .iter()
            .map(|message| match &message.parts[0] {
                agent::Part::Text(text) => (message.role, text.clone()),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn failures_are_left_out_and_sides_take_turns() {
        let entries = [
            entry("user", "one", ""),
            entry("assistant", "it failed", "error"),
            entry("user", "two", ""),
            entry("assistant", "three", "stop"),
        ];
        let messages = conversation(&entries, &model(1000), 1000, ("", &[]));
        assert_eq!(
            texts(&messages),
            [
                ("user", "one\n\ntwo".to_owned()),
                ("assistant", "three".to_owned())
            ]
        );
    }

    #[test]
    fn how_hard_to_think_is_said_at_a_client_alone() {
        let told = |client: Value| {
            let mut entry = entry("user", "", "");
            let clients = json!({ "transport": { "clients": [{ "id": client }] } });
            entry.message =
                json!({ "content": "/think high what is it?", "__openclaw": clients }).to_string();
            texts(&conversation(&[entry], &model(1000), 1000, ("", &[])))[0]
                .1
                .clone()
        };
        assert_eq!(told(json!("cli")), "what is it?");
        for other in [json!("cron"), json!("sessions-send"), Value::Null] {
            assert_eq!(told(other), "/think high what is it?");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_from_the_oldest_on_and_said() {
        let long = "x".repeat(200);
        let entries = [
            entry("user", &long, ""),
            entry("assistant", &long, "stop"),
            entry("user", "last", ""),
        ];
        let messages = conversation(&entries, &model(80), 80, ("", &[]));
        let texts = texts(&messages);
        assert_eq!(texts[0].0, "system");
        assert_eq!(texts[1].0, "assistant");
        assert_eq!(texts[2].1, "last");
        // Even what passes the window alone is sent: the provider says so in its own words.
        assert_eq!(
            conversation(&entries[..1], &model(10), 10, ("", &[])).len(),
            1
        );
    }

    #[test]
    fn a_summary_stands_for_what_a_compaction_left_out() {
        let kept = |id: &str, entry: Entry| Entry {
            id: id.to_owned(),
            ..entry
        };
        let boundary = Entry {
            message: json!({ "summary": "S", "firstKeptEntryId": "k" }).to_string(),
            ..entry("compaction", "", "")
        };
        let entries = [
            entry("user", "one", ""),
            entry("assistant", "two", "stop"),
            kept("k", entry("user", "three", "")),
            boundary.clone(),
            entry("assistant", "four", "stop"),
        ];
        let shown = conversation(&entries, &model(1000), 1000, ("", &[]));
        let head = "What was said before is summed up here:\n\n<summary>\nS\n</summary>";
        assert_eq!(
            texts(&shown),
            [
                ("user", format!("{head}\n\nthree")),
                ("assistant", "four".to_owned())
            ]
        );
        // It stays when nothing else fits.
        let large = [boundary, entry("user", &"x".repeat(2_000), "")];
        let shown = conversation(&large, &model(100), 100, ("", &[]));
        assert!(texts(&shown)[0].1.starts_with(head));
    }

    #[test]
    fn pictures_stand_beside_what_was_said_with_them() {
        let mut model = model(1000);
        model.takes_images = true;
        let asked = Entry {
            id: "r:user".to_owned(),
            ..entry("user", "look", "")
        };
        let image = Image {
            data: "AA==".to_owned(),
            mime: "image/png".to_owned(),
        };
        let images = [image];
        let shape = |entries: &[Entry], model: &Model| -> Vec<Vec<&'static str>> {
            let shown = conversation(entries, model, 1000, ("r:user", &images));
            let kind = |part: &Part| match part {
                Part::Text(_) => "text",
                Part::Image { .. } => "image",
                _ => "other",
            };
            shown
                .iter()
                .map(|message| message.parts.iter().map(kind).collect())
                .collect()
        };
        let later = entry("user", "and hurry", "");
        let answer = entry("assistant", "I look.", "stop");
        let apart = [asked.clone(), answer, later.clone()];
        assert_eq!(
            shape(&apart, &model),
            [vec!["text", "image"], vec!["text"], vec!["text"]]
        );
        let joined = [entry("user", "before", ""), asked, later];
        assert_eq!(shape(&joined, &model), [vec!["text", "image", "text"]]);
        model.takes_images = false;
        assert_eq!(shape(&joined, &model), [vec!["text"]]);
    }

    #[test]
    fn calls_and_results_stay_together() {
        let row = |role: &str, message: Value| Entry {
            message: message.to_string(),
            ..entry(role, "", "")
        };
        let call = |id: &str| {
            row(
                "assistant",
                json!({ "content": [{ "type": "text", "text": "I look." }, { "type": "toolCall", "id": id, "name": "read", "arguments": { "path": "x" } }], "stopReason": "toolUse" }),
            )
        };
        let result = |id: &str, text: &str| {
            row(
                "toolResult",
                json!({ "toolCallId": id, "toolName": "read", "content": [{ "type": "text", "text": text }], "isError": false }),
            )
        };
        let shape = |entries: &[Entry], window: u64| -> Vec<String> {
            conversation(entries, &model(window), window, ("", &[]))
                .iter()
                .map(|message| {
                    let parts: Vec<String> = message
                        .parts
                        .iter()
                        .map(|part| match part {
                            Part::Text(_) => "text".to_owned(),
                            Part::Call(call) => format!("call {}", call.id),
                            Part::Result(result) => {
                                format!("result {} {}", result.call_id, result.text)
                            }
                            Part::Image { .. } => "image".to_owned(),
                            Part::Thought(thought) => format!("thought {}", thought.text),
                        })
                        .collect();
                    format!("{}: {}", message.role, parts.join(", "))
                })
                .collect()
        };
        let user = entry("user", "one", "");
        // Two calls in two rows, the same id in another turn, a call that was never answered, a result of nothing.
        let entries = [
            result("z", "orphan"),
            user.clone(),
            call("a"),
            result("a", "A"),
            entry("assistant", "done", "stop"),
            user.clone(),
            call("a"),
            user.clone(),
            call("b"),
            result("b", "B"),
        ];
        assert_eq!(
            shape(&entries, 1000),
            [
                "user: text",
                "assistant: text, call a",
                "tool: result a A",
                "assistant: text",
                "user: text",
                "assistant: text, call a",
                "tool: result a No result of this call was kept.",
                "user: text",
                "assistant: text, call b",
                "tool: result b B",
            ]
        );
        // A large result gives way before the conversation does.
        let large = [
            user,
            call("a"),
            result("a", &"x".repeat(2000)),
            call("b"),
            result("b", "B"),
        ];
        assert_eq!(
            shape(&large, 100)[2],
            "tool: result a [left out here: it does not fit any more]"
        );
    }

    #[test]
    fn files_of_the_workspace_are_read_and_links_out_of_it_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let outside = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("SOUL.md"), "Be kind.").expect("written");
        std::fs::write(outside.path().join("secret"), "hidden").expect("written");
        std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("USER.md"))
            .expect("linked");
        std::fs::write(dir.path().join("MEMORY.md"), "y".repeat(50_000)).expect("written");
        let facts = Facts {
            config: json!({ "agents": { "defaults": { "workspace": dir.path() }, "entries": { "main": { "identity": { "name": "Otto" } } } } }),
            ..Facts::default()
        };
        let text = system(&facts, "main", &[], Some("More.".to_owned()));
        assert!(text.contains("You are Otto"), "{text}");
        assert!(text.contains("# SOUL.md\n\nBe kind.\n"), "{text}");
        assert!(!text.contains("hidden"));
        assert!(text.contains("[…]") && text.len() < 25_000);
        assert!(text.ends_with("More.\n"));
    }
}
