//! `sessions.search`: what was said in conversations, by words.
//!
//! As in the original all words must be there, whole, in any case and order. A scan, newest first and bounded: an index would
//! have to be kept for what is asked seldom.

use serde_json::{Value, json};
use wire::error::ErrorShape;

use super::super::{rows, unavailable};
use super::Call;
use crate::native::sessions as empty;

const LIMIT: usize = 10;
const LIMIT_MAX: usize = 25;
/// Lines looked at.
const LOOKED_MAX: i64 = 100_000;
/// Lines with the rarest-looking word in them.
const FOUND_MAX: i64 = 2_000;
const SNIPPET_CHARS_MAX: usize = 300;
/// Weights of Okapi's BM25, as SQLite's full-text search has them.
const K1: f64 = 1.2;
const B: f64 = 0.75;

fn words(text: &str) -> Vec<String> {
    text.split(|char: char| !char.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

fn times(word: &String, text: &[String]) -> usize {
    text.iter().filter(|one| *one == word).count()
}

/// The part of a text around the first of the words.
fn snippet(text: &str, first: &str) -> String {
    let chars: Vec<char> = text.trim().chars().collect();
    if chars.len() <= SNIPPET_CHARS_MAX {
        return chars.into_iter().collect();
    }
    let lower = text.trim().to_lowercase();
    let at = lower.find(first).unwrap_or(0);
    let at = lower[..at].chars().count().min(chars.len());
    let from = at.saturating_sub(SNIPPET_CHARS_MAX / 3);
    let to = (from + SNIPPET_CHARS_MAX).min(chars.len());
    let middle: String = chars[from..to].iter().collect();
    let before = if from > 0 { "…" } else { "" };
    let after = if to < chars.len() { "…" } else { "" };
    format!("{before}{}{after}", middle.trim())
}

impl Call {
    pub(super) async fn search(&self) -> Result<Value, ErrorShape> {
        let query = self.text("query").unwrap_or_default().to_owned();
        if query.is_empty() {
            return Err(ErrorShape::invalid_request("query must not be empty"));
        }
        let keys = self.params["sessionKeys"].as_array();
        if let Some(agent) = self.text("agentId")
            && keys.is_none()
        {
            return match self.knows(agent) {
                true => Err(ErrorShape::invalid_request("agentId requires sessionKeys")),
                false => Ok(json!({ "results": [] })),
            };
        }
        let keys: Option<Vec<String>> = keys.map(|keys| {
            let facts = self.app.facts.load();
            let roster = facts.inputs(0, 0).roster();
            let keys = keys.iter().filter_map(Value::as_str);
            keys.map(|key| empty::canonical_key(&roster, key, self.text("agentId")))
                .collect()
        });
        let limit = self.params["limit"]
            .as_u64()
            .and_then(|limit| usize::try_from(limit).ok())
            .map_or(LIMIT, |limit| limit.clamp(1, LIMIT_MAX));
        let wanted = words(&query);
        let found = self
            .assistant
            .store
            .read(move |reader| {
                // What SQLite folds is ASCII alone.
                let all = wanted.iter().filter(|word| word.is_ascii());
                let longest = all.max_by_key(|word| word.len());
                let pattern = longest.map_or_else(|| "%".to_owned(), |word| format!("%{word}%"));
                let lines = reader.agents().said_like(&pattern, LOOKED_MAX, FOUND_MAX)?;
                let mut texts = Vec::new();
                for (key, session_id, entry) in lines {
                    if keys.as_ref().is_some_and(|keys| !keys.contains(&key))
                        || rows::is_hidden(&entry)
                    {
                        continue;
                    }
                    let message: Value = serde_json::from_str(&entry.message).unwrap_or_default();
                    let text = rows::text_of(&message["content"]);
                    let all = words(&text);
                    let counts: Vec<usize> =
                        wanted.iter().map(|word| times(word, &all)).collect();
                    if !counts.is_empty() && counts.iter().all(|count| *count > 0) {
                        let shown = json!({
                            "sessionKey": key, "sessionId": session_id, "messageId": entry.id,
                            "role": entry.role, "timestamp": message["timestamp"].as_i64().unwrap_or(entry.at_ms),
                            "snippet": snippet(&text, &wanted[0]),
                        });
                        texts.push((shown, counts, all.len()));
                    }
                }
                Ok(texts)
            })
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(ranked(found, limit))
    }
}

/// The best of what was found: often said, in few words.
fn ranked(found: Vec<(Value, Vec<usize>, usize)>, limit: usize) -> Value {
    let total = found.len() as f64;
    let mean = found
        .iter()
        .map(|(_, _, length)| *length as f64)
        .sum::<f64>()
        / total.max(1.0);
    let mut scored: Vec<(f64, Value)> = found
        .into_iter()
        .map(|(shown, counts, length)| {
            let share = K1 * (1.0 - B + B * length as f64 / mean.max(1.0));
            let score = counts
                .iter()
                .map(|count| *count as f64 * (K1 + 1.0) / (*count as f64 + share))
                .sum();
            (score, shown)
        })
        .collect();
    // As good ones stay newest first.
    scored.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let is_cut = scored.len() > limit;
    let results: Vec<Value> = scored
        .into_iter()
        .take(limit)
        .map(|(score, mut shown)| {
            shown["score"] = json!(score);
            shown
        })
        .collect();
    let mut answer = json!({ "results": results });
    if is_cut {
        answer["truncated"] = json!(true);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole_and_in_any_case() {
        let text = words("The purple Elephant, and a PURPLE umbrella.");
        let count = |word: &str| times(&word.to_owned(), &text);
        assert_eq!(
            (count("purple"), count("elephant"), count("purp")),
            (2, 1, 0)
        );
    }

    #[test]
    fn a_long_text_is_shown_around_the_word() {
        let text = format!("{} needle {}", "hay ".repeat(200), "hay ".repeat(200));
        let shown = snippet(&text, "needle");
        assert!(shown.contains("needle"));
        assert!(shown.starts_with('…') && shown.ends_with('…'));
        assert!(shown.chars().count() <= SNIPPET_CHARS_MAX + 2);
    }

    #[test]
    fn short_and_often_comes_first() {
        let of = |name: &str, counts: usize, length: usize| {
            (json!({ "messageId": name }), vec![counts], length)
        };
        let answer = ranked(
            vec![of("long", 1, 40), of("short", 1, 4), of("often", 3, 4)],
            2,
        );
        let ids: Vec<&Value> = answer["results"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| &row["messageId"])
            .collect();
        assert_eq!(ids, ["often", "short"]);
        assert_eq!(answer["truncated"], true);
    }
}
