//! What a model is told: who it is, the files of its workspace, and the conversation as far as it fits.

use std::path::Path;

use agent::{Message, Model};
use serde_json::Value;
use store::Entry;

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
pub(super) fn system(facts: &Facts, agent_id: &str, extra: Option<String>) -> String {
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
        "You are {name}, a personal AI assistant. Answer plainly and helpfully. In this conversation you have no tools: when something would need one, say so.\nThe time is {now}.\n"
    );
    if let Some(agent) = agent {
        let workspace = roster.workspace(inputs.config, agent, &inputs.places);
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

/// The conversation, newest kept, as far as the model's window takes it beside an answer.
pub(super) fn conversation(entries: &[Entry], model: &Model) -> Vec<Message> {
    let tokens = model
        .context_window
        .saturating_sub(model.max_tokens)
        .max(model.context_window / 4);
    let mut left = usize::try_from(tokens * CHARS_PER_TOKEN).unwrap_or(usize::MAX);
    let mut kept: Vec<Message> = Vec::new();
    let mut cut = false;
    for entry in entries.iter().rev() {
        let Some((role, text)) = said(entry) else {
            continue;
        };
        let length = text.chars().count();
        if length > left && !kept.is_empty() {
            cut = true;
            break;
        }
        left = left.saturating_sub(length);
        // The same side twice in a row (an answer failed between them) is one message to a model.
        match kept.last_mut() {
            Some(last) if last.role == role => {
                if let Some(agent::Part::Text(after)) = last.parts.first_mut() {
                    *after = format!("{text}\n\n{after}");
                }
            }
            _ => kept.push(Message::text(role, text)),
        }
    }
    if cut {
        kept.push(Message::text(
            "system",
            "Earlier messages of this conversation are left out here: they do not fit.",
        ));
    }
    kept.reverse();
    kept
}

/// Who said what; nothing for what only tells of a failure.
fn said(entry: &Entry) -> Option<(&'static str, String)> {
    let role = match entry.role.as_str() {
        "user" => "user",
        "assistant" => "assistant",
        _ => return None,
    };
    let message: Value = serde_json::from_str(&entry.message).ok()?;
    if message["stopReason"] == "error" {
        return None;
    }
    let text = super::rows::text_of(&message["content"]);
    (!text.trim().is_empty()).then_some((role, text))
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
        let messages = conversation(&entries, &model(1000));
        assert_eq!(
            texts(&messages),
            [
                ("user", "one\n\ntwo".to_owned()),
                ("assistant", "three".to_owned())
            ]
        );
    }

    #[test]
    fn what_does_not_fit_is_left_out_from_the_oldest_on_and_said() {
        let long = "x".repeat(200);
        let entries = [
            entry("user", &long, ""),
            entry("assistant", &long, "stop"),
            entry("user", "last", ""),
        ];
        let messages = conversation(&entries, &model(80));
        let texts = texts(&messages);
        assert_eq!(texts[0].0, "system");
        assert_eq!(texts[1].0, "assistant");
        assert_eq!(texts[2].1, "last");
        // Even what passes the window alone is sent: the provider says so in its own words.
        assert_eq!(conversation(&entries[..1], &model(10)).len(), 1);
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
        let text = system(&facts, "main", Some("More.".to_owned()));
        assert!(text.contains("You are Otto"), "{text}");
        assert!(text.contains("# SOUL.md\n\nBe kind.\n"), "{text}");
        assert!(!text.contains("hidden"));
        assert!(text.contains("[…]") && text.len() < 25_000);
        assert!(text.ends_with("More.\n"));
    }
}
