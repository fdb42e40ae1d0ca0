//! What a model is shown of a conversation that was compacted, how much of its window that fills, and where it is cut.
//! Pure: no clock, no store, no model.
//!
//! Source: docs/concepts/compaction.md and docs/reference/session-management-compaction/compaction.md of the package at
//! 2026.9.6, and what the original does with the conversations of tests/assistant/compact.test.mjs.

use serde_json::Value;
use store::Entry;

/// The role of the entry that stands for what is older.
pub(in crate::assistant) const ROLE: &str = "compaction";

/// Of a window, for an answer, a summary and what the estimate misses; a quarter of it at most.
const RESERVE: u64 = 20_000;
/// Characters that make a token, roughly, in Latin script.
const CHARS_PER_TOKEN: u64 = 4;
/// From here on (CJK radicals) a character is about a token.
const WIDE: char = '\u{2E80}';

/// Tokens of a window that a conversation leaves free before it is compacted.
pub(in crate::assistant) fn reserve(window: u64) -> u64 {
    RESERVE.min(window / 4)
}

/// A rough count of the tokens of a text.
pub(in crate::assistant) fn tokens_in(text: &str) -> u64 {
    chars_in(text).div_ceil(CHARS_PER_TOKEN)
}

fn chars_in(text: &str) -> u64 {
    let weight = |c: char| if c >= WIDE { CHARS_PER_TOKEN } else { 1 };
    text.chars().map(weight).sum()
}

/// A conversation from its last compaction on.
pub(in crate::assistant) struct Visible<'a> {
    /// The compaction, when there is one.
    pub(in crate::assistant) boundary: Option<&'a Entry>,
    pub(in crate::assistant) summary: Option<String>,
    /// Those that the compaction kept and those that came after it, without failures: a model is not shown them.
    pub(in crate::assistant) entries: Vec<&'a Entry>,
}

/// The entry that models are shown first, by its place, and the summary that stands for those before it.
pub(in crate::assistant) fn beginning(entries: &[Entry]) -> (usize, Option<String>) {
    let Some(at) = entries.iter().rposition(|entry| entry.role == ROLE) else {
        return (0, None);
    };
    let message = message_of(&entries[at]);
    let kept = message["firstKeptEntryId"].as_str();
    let from = kept.and_then(|id| entries.iter().position(|entry| entry.id == id));
    // What it kept may not be among these: what came after it is.
    (
        from.unwrap_or(at),
        message["summary"].as_str().map(str::to_owned),
    )
}

/// `entries` in order; what is older than the first of them counts as not there.
pub(in crate::assistant) fn visible(entries: &[Entry]) -> Visible<'_> {
    let (from, summary) = beginning(entries);
    let boundary = entries.iter().rfind(|entry| entry.role == ROLE);
    let is_shown = |entry: &&Entry| {
        entry.role != ROLE
            && !(entry.role == "assistant" && message_of(entry)["stopReason"] == "error")
    };
    Visible {
        boundary,
        summary,
        entries: entries[from..].iter().filter(is_shown).collect(),
    }
}

pub(super) fn message_of(entry: &Entry) -> Value {
    serde_json::from_str(&entry.message).unwrap_or_default()
}

/// A rough count of the tokens of an entry.
pub(super) fn tokens(entry: &Entry) -> u64 {
    let message = message_of(entry);
    let parts = message["content"].as_array().into_iter().flatten();
    let chars: u64 = match &message["content"] {
        Value::String(text) => chars_in(text),
        _ => parts
            .map(|part| {
                let word = |key: &str| part[key].as_str().map_or(0, chars_in);
                match part["type"].as_str() {
                    Some("toolCall") => {
                        let arguments = chars_in(&part["arguments"].to_string());
                        word("name") + arguments + word("thoughtSignature")
                    }
                    _ => word("text") + word("thinking") + word("thinkingSignature"),
                }
            })
            .sum(),
    };
    chars.div_ceil(CHARS_PER_TOKEN)
}

/// How much of a window a conversation fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::assistant) struct Fill {
    /// Tokens: the provider's count of the last answer where there is one, and a rough one of what came after it.
    pub(in crate::assistant) tokens: u64,
    /// A rough count of the entries alone.
    pub(super) estimated: u64,
    /// The provider's part of `tokens`.
    pub(super) counted: u64,
}

/// `fixed`: tokens of instructions and tools, which a provider's count has in it.
pub(in crate::assistant) fn fill(visible: &Visible<'_>, fixed: u64) -> Fill {
    let summary = visible.summary.as_deref().map_or(0, tokens_in);
    let each: Vec<u64> = visible.entries.iter().map(|entry| tokens(entry)).collect();
    let estimated = summary + each.iter().sum::<u64>();
    let since = visible.boundary.map_or(i64::MIN, |boundary| boundary.seq);
    // What was counted before the compaction was another conversation.
    let counted = visible
        .entries
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, entry)| entry.role == "assistant" && entry.seq > since)
        .find_map(|(at, entry)| {
            let total = message_of(entry)["usage"]["totalTokens"].as_u64()?;
            (total > 0).then_some((at, total))
        });
    match counted {
        Some((at, counted)) => Fill {
            tokens: counted + each[at + 1..].iter().sum::<u64>(),
            estimated,
            counted,
        },
        None => Fill {
            tokens: estimated + fixed,
            estimated,
            counted: 0,
        },
    }
}

/// A conversation in two: what a summary will stand for, and what stays as it is.
pub(super) struct Cut<'a> {
    pub(super) older: Vec<&'a Entry>,
    pub(super) kept: Vec<&'a Entry>,
}

/// Cuts so that about `keep` tokens stay, the last message in any case: never between a call and its result, and never behind the entry
/// `pending`, which is not answered yet. `None`: there is nothing older.
pub(super) fn cut<'a>(visible: &Visible<'a>, keep: u64, pending: Option<&str>) -> Option<Cut<'a>> {
    let entries = &visible.entries;
    let pending = pending.and_then(|id| entries.iter().position(|entry| entry.id == id));
    let end = pending.unwrap_or(entries.len());
    let may_begin = |entry: &Entry| matches!(entry.role.as_str(), "user" | "assistant");
    let mut at = pending.or_else(|| entries.iter().rposition(|entry| may_begin(entry)))?;
    let mut sum = 0;
    for (index, entry) in entries[..end].iter().enumerate().rev() {
        if may_begin(entry) {
            at = index;
        }
        sum += tokens(entry);
        if sum >= keep {
            break;
        }
    }
    (at > 0).then(|| Cut {
        older: entries[..at].to_vec(),
        kept: entries[at..].to_vec(),
    })
}

/// `keep` in the rough counts of [`tokens`], where the provider counts more: those of a cut are compared with it.
pub(super) fn scaled(keep: u64, fill: &Fill) -> u64 {
    let scale = fill
        .counted
        .checked_div(fill.estimated)
        .unwrap_or(1)
        .clamp(1, keep.max(1));
    keep / scale
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(seq: i64, role: &str, message: Value) -> Entry {
        Entry {
            seq,
            id: format!("e{seq}"),
            role: role.to_owned(),
            run_id: None,
            message: message.to_string(),
            at_ms: 0,
        }
    }

    fn user(seq: i64, text: &str) -> Entry {
        entry(seq, "user", json!({ "content": text }))
    }

    fn answer(seq: i64, text: &str, total: u64) -> Entry {
        let content = json!([{ "type": "text", "text": text }]);
        entry(
            seq,
            "assistant",
            json!({ "content": content, "stopReason": "stop", "usage": { "totalTokens": total } }),
        )
    }

    fn ids(entries: &[&Entry]) -> Vec<String> {
        entries.iter().map(|entry| entry.id.clone()).collect()
    }

    #[test]
    fn a_compaction_hides_what_is_older_than_what_it_kept() {
        let boundary = entry(4, ROLE, json!({ "summary": "S", "firstKeptEntryId": "e3" }));
        let failed = entry(
            5,
            "assistant",
            json!({ "content": "no", "stopReason": "error" }),
        );
        let entries = [
            user(1, "a"),
            answer(2, "b", 9),
            user(3, "c"),
            boundary,
            failed,
            user(6, "d"),
        ];
        let shown = visible(&entries);
        assert_eq!(shown.summary.as_deref(), Some("S"));
        assert_eq!(ids(&shown.entries), ["e3", "e6"]);
        // Read without what it kept, it still stands.
        let shown = visible(&entries[3..]);
        assert_eq!(ids(&shown.entries), ["e6"]);
        assert_eq!(shown.summary.as_deref(), Some("S"));
    }

    #[test]
    fn a_provider_s_count_is_taken_until_a_compaction_makes_it_old() {
        let mut entries = vec![user(1, "12345678"), answer(2, "1234", 900), user(3, "1234")];
        let full = fill(&visible(&entries), 50);
        assert_eq!((full.tokens, full.estimated), (901, 4));
        entries.push(entry(
            4,
            ROLE,
            json!({ "summary": "1234", "firstKeptEntryId": "e2" }),
        ));
        let full = fill(&visible(&entries), 50);
        assert_eq!(
            (full.tokens, full.counted),
            (53, 0),
            "summary, answer, user and what is fixed"
        );
    }

    #[test]
    fn a_cut_keeps_calls_with_results_and_the_question_that_waits() {
        let call = entry(
            3,
            "assistant",
            json!({ "content": [{ "type": "toolCall", "name": "read", "arguments": { "path": "x" } }] }),
        );
        let result = entry(
            4,
            "toolResult",
            json!({ "content": [{ "type": "text", "text": "r".repeat(400) }] }),
        );
        let entries = [
            user(1, "first"),
            answer(2, "answer", 0),
            call,
            result,
            user(5, "last"),
        ];
        let shown = visible(&entries);
        let kept =
            |keep, pending| cut(&shown, keep, pending).map(|cut| (ids(&cut.older), ids(&cut.kept)));
        let words = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            kept(1, None),
            Some((words(&["e1", "e2", "e3", "e4"]), words(&["e5"])))
        );
        assert_eq!(
            kept(102, None),
            Some((words(&["e1", "e2"]), words(&["e3", "e4", "e5"]))),
            "a result stays with its call"
        );
        // The one that waits is not counted, and always kept.
        assert_eq!(kept(101, Some("e5")), kept(102, None));
        assert_eq!(
            kept(1, Some("e1")),
            None,
            "nothing is older than the question"
        );
        assert_eq!(kept(10_000, None), None);
    }

    #[test]
    fn what_is_kept_is_measured_as_the_provider_measures() {
        let fill = Fill {
            tokens: 125_005,
            estimated: 20,
            counted: 125_005,
        };
        assert_eq!(scaled(20_000, &fill), 3);
        let unknown = Fill { counted: 0, ..fill };
        assert_eq!(scaled(20_000, &unknown), 20_000);
    }

    #[test]
    fn wide_characters_are_tokens() {
        assert_eq!(tokens_in("12345"), 2);
        assert_eq!(tokens_in("漢字"), 2);
        assert_eq!((reserve(128_000), reserve(8_000)), (20_000, 2_000));
    }
}
