//! `memory_search` and `memory_get` over what the `memory` commands keep for an agent. Parameters as the original's
//! (extensions/memory-core at 2026.9.6).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memory::{Agent, Memory, Query};
use serde_json::{Value, json};

use super::{Done, Why, count, refuse, text};

const RESULTS_DEFAULT: usize = 6;
const RESULTS_MAX: usize = 50;
const LINES_DEFAULT: usize = 200;
const CHARS_MAX: usize = 20_000;
const SEARCH_TIME: Duration = Duration::from_secs(10);

/// The file, when something was ever kept.
pub(super) fn file(state_dir: &Path) -> Option<PathBuf> {
    let file = state_dir.join("openclaw-rs").join("memory.sqlite");
    file.is_file().then_some(file)
}

fn open(file: &Path, agent: &str) -> Result<(Memory, Agent), Why> {
    let why = |error: memory::MemoryError| Why::Error(error.to_string());
    Ok((
        Memory::open(file).map_err(why)?,
        Agent::parse(agent).map_err(why)?,
    ))
}

fn only_memory(args: &Value) -> Result<(), Why> {
    match args["corpus"].as_str() {
        None | Some("memory" | "all") => Ok(()),
        Some(other) => refuse(format!("there is no {other} corpus here; leave corpus out")),
    }
}

pub(super) fn search(file: &Path, agent: &str, args: &Value) -> Result<Done, Why> {
    let query = text(args, "query")?;
    only_memory(args)?;
    let (memory, agent) = open(file, agent)?;
    let limit = count(args, "maxResults")?
        .unwrap_or(RESULTS_DEFAULT)
        .clamp(1, RESULTS_MAX);
    let query = Query {
        limit,
        min_score: args["minScore"].as_f64().unwrap_or(0.0),
        deadline: Instant::now().checked_add(SEARCH_TIME),
        ..Query::new(query)
    };
    let found = memory
        .search(&agent, &query)
        .map_err(|error| Why::Error(error.to_string()))?;
    let mut left = CHARS_MAX;
    let results: Vec<Value> = found
        .hits
        .iter()
        .map(|hit| {
            let snippet: String = hit.text.chars().take(left.min(1500)).collect();
            left = left.saturating_sub(snippet.chars().count());
            json!({
                "path": hit.path, "startLine": hit.start_line, "endLine": hit.end_line,
                "score": hit.score, "snippet": snippet, "source": "memory",
            })
        })
        .collect();
    let mut answer = json!({ "results": results });
    if found.partial {
        answer["warning"] =
            json!("the time was over before everything was read: results are partial");
    } else if let Some(why) = found.degraded {
        answer["warning"] = json!(why);
    }
    Ok(Done::json(answer))
}

pub(super) fn get(file: &Path, agent: &str, args: &Value) -> Result<Done, Why> {
    let path = text(args, "path")?;
    only_memory(args)?;
    let (memory, agent) = open(file, agent)?;
    let kept = memory
        .get(&agent, path)
        .map_err(|error| Why::Error(error.to_string()))?;
    let Some(kept) = kept else {
        return Ok(Done::json(
            json!({ "status": "not_found", "path": path, "text": "" }),
        ));
    };
    let from = count(args, "from")?.unwrap_or(1).max(1);
    let wanted = count(args, "lines")?.unwrap_or(LINES_DEFAULT).max(1);
    let total = kept.lines().count();
    let mut out = String::new();
    let mut lines = 0;
    for line in kept.lines().skip(from - 1).take(wanted) {
        if out.len() + line.len() > CHARS_MAX && lines > 0 {
            break;
        }
        out.extend(line.chars().take(CHARS_MAX));
        out.push('\n');
        lines += 1;
    }
    let mut answer =
        json!({ "status": "ok", "path": path, "from": from, "lines": lines, "text": out });
    if from + lines <= total {
        answer["truncated"] = json!(true);
        answer["nextFrom"] = json!(from + lines);
    }
    Ok(Done::json(answer))
}
