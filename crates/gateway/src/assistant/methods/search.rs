//! `sessions.search`: what was said in conversations, by words.
//!
//! As in the original all words must be there, whole, in any case and order. A scan, newest first and bounded: an index would
//! have to be kept for what is asked seldom.

use std::collections::HashMap;

use serde_json::{Value, json};
use store::{AgentSession, Agents, TxError};
use wire::error::ErrorShape;

use super::super::{clock_ms, rows, unavailable};
use super::Call;
use crate::native::agents::normalize_id;
use crate::native::sessions as empty;

const LIMIT: usize = 10;
const LIMIT_MAX: usize = 25;
/// Lines looked at.
const LOOKED_MAX: i64 = 100_000;
/// Lines with all words in them: the best are chosen among the latest of these.
const FOUND_MAX: usize = 2_000;
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

/// Where a search looks.
#[derive(Debug, PartialEq, Eq)]
enum Among {
    Sessions(Vec<String>),
    Agent(String),
    /// As `sessions.list` chooses them.
    Listed {
        agent: Option<String>,
        archived: bool,
        label: Option<String>,
        since_ms: i64,
    },
}

impl Among {
    fn listed(scope: &Value) -> Self {
        let text = |name: &str| {
            let text = scope[name].as_str().map(str::trim);
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let minutes = scope["activeMinutes"]
            .as_i64()
            .map(|minutes| minutes.max(1));
        Self::Listed {
            agent: text("agentId").map(|agent| normalize_id(&agent)),
            archived: scope["archived"] == true,
            label: text("label"),
            since_ms: minutes.map_or(i64::MIN, |minutes| {
                clock_ms().saturating_sub(minutes.saturating_mul(60_000))
            }),
        }
    }

    fn sessions(&self, agents: &Agents<'_>) -> Result<HashMap<String, AgentSession>, TxError> {
        let list = |agent: Option<&str>, archived| agents.list(agent, archived, 0, usize::MAX);
        let sessions = match self {
            Self::Sessions(keys) => {
                let mut sessions = Vec::new();
                for key in keys {
                    sessions.extend(agents.session(key)?);
                }
                sessions
            }
            Self::Agent(agent) => {
                let mut sessions = list(Some(agent), false)?;
                sessions.extend(list(Some(agent), true)?);
                sessions
            }
            Self::Listed {
                agent,
                archived,
                label,
                since_ms,
            } => {
                let mut sessions = list(agent.as_deref(), *archived)?;
                sessions.retain(|session| {
                    let has_label = |label: &String| rows::settings(session)["label"] == **label;
                    session.updated_ms >= *since_ms && label.as_ref().is_none_or(has_label)
                });
                sessions
            }
        };
        let by_key = sessions.into_iter();
        Ok(by_key
            .map(|session| (session.key.clone(), session))
            .collect())
    }
}

/// What was found, and where.
struct Found {
    /// As it is shown, how often each word is said in it, and its words.
    texts: Vec<(Value, Vec<usize>, usize)>,
    /// There may be more.
    is_cut: bool,
    sessions: HashMap<String, AgentSession>,
}

fn find(agents: &Agents<'_>, among: &Among, wanted: &[String]) -> Result<Found, TxError> {
    // What SQLite folds is ASCII alone.
    let all = wanted.iter().filter(|word| word.is_ascii());
    let longest = all.max_by_key(|word| word.len());
    let pattern = longest.map_or_else(|| "%".to_owned(), |word| format!("%{word}%"));
    let mut found = Found {
        texts: Vec::new(),
        is_cut: false,
        sessions: among.sessions(agents)?,
    };
    let Some(first) = wanted.first() else {
        return Ok(found);
    };
    agents.said_like(&pattern, LOOKED_MAX, |key, session_id, entry| {
        if !found.sessions.contains_key(key) || rows::is_hidden(&entry) {
            return true;
        }
        let message: Value = serde_json::from_str(&entry.message).unwrap_or_default();
        let text = rows::text_of(&message["content"]);
        let all = words(&text);
        let counts: Vec<usize> = wanted.iter().map(|word| times(word, &all)).collect();
        if counts.contains(&0) {
            return true;
        }
        if found.texts.len() == FOUND_MAX {
            found.is_cut = true;
            return false;
        }
        let shown = json!({
            "sessionKey": key, "sessionId": session_id, "messageId": entry.id,
            "role": entry.role, "timestamp": message["timestamp"].as_i64().unwrap_or(entry.at_ms),
            "snippet": snippet(&text, first),
        });
        found.texts.push((shown, counts, all.len()));
        true
    })?;
    Ok(found)
}

impl Call {
    pub(super) async fn search(&self) -> Result<Value, ErrorShape> {
        let query = self.text("query").unwrap_or_default().to_owned();
        if query.is_empty() {
            return Err(ErrorShape::invalid_request("query must not be empty"));
        }
        let keys = self.params["sessionKeys"].as_array();
        let is_scoped = self.params["scope"].is_object();
        if let Some(agent) = self.text("agentId")
            && keys.is_none()
            && !is_scoped
        {
            return match self.knows(agent) {
                true => Err(ErrorShape::invalid_request("agentId requires sessionKeys")),
                false => Ok(json!({ "results": [] })),
            };
        }
        let among = match keys {
            _ if is_scoped => Among::listed(&self.params["scope"]),
            keys => {
                let facts = self.app.facts.load();
                let roster = facts.inputs(0, 0).roster();
                match keys {
                    Some(keys) => {
                        let keys = keys.iter().filter_map(Value::as_str);
                        let agent = self.text("agentId");
                        let key = |key: &str| empty::canonical_key(&roster, key, agent);
                        Among::Sessions(keys.map(key).collect())
                    }
                    None => Among::Agent(roster.default_id.clone()),
                }
            }
        };
        let limit = self.params["limit"]
            .as_u64()
            .and_then(|limit| usize::try_from(limit).ok())
            .map_or(LIMIT, |limit| limit.clamp(1, LIMIT_MAX));
        let wanted = words(&query);
        let mut found = self
            .assistant
            .store
            .read(move |reader| find(&reader.agents(), &among, &wanted))
            .await
            .map_err(|error| unavailable(&error))?;
        let mut answer = ranked(found.texts, limit);
        if found.is_cut {
            answer["truncated"] = json!(true);
        }
        if is_scoped {
            let mut describer = rows::Describer::new(&self.app, &self.assistant);
            let results = answer["results"].as_array().into_iter().flatten();
            // Each once, in the order of the results.
            let rows: Vec<Value> = results
                .filter_map(|result| found.sessions.remove(result["sessionKey"].as_str()?))
                .map(|session| describer.row(&session))
                .collect();
            answer["sessions"] = Value::Array(rows);
        }
        Ok(answer)
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
    fn a_scope_says_which_sessions() {
        let scope = json!({ "agentId": "Main", "archived": true, "label": " x ", "limit": 50 });
        assert_eq!(
            Among::listed(&scope),
            Among::Listed {
                agent: Some("main".to_owned()),
                archived: true,
                label: Some("x".to_owned()),
                since_ms: i64::MIN,
            }
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
