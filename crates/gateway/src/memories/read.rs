//! What an agent remembers of a question, and excerpts of its memory, in the original's shapes.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use memory::{Filter, Found, Hit, Indexed, Memory, MemoryError, Mode, Query, Recency, Usage};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::extra::{named, plain};
use super::sources::{self, Counts, Workspace};
use super::{Locks, Memories, Shelf, folder, provider};
use crate::clock;

/// Once the files were followed.
const SEARCH_TIME: Duration = Duration::from_secs(10);
/// Listing files and reading changed ones before it; what is not read by then is said.
const FOLLOW_TIME: Duration = Duration::from_secs(3);
/// Passages beyond which an index is worth its making before a search.
const PENDING_MAX: usize = 1000;
/// Source: packages/memory-host-sdk/src/host/read-file-shared.ts at 2026.9.6.
const LINES_DEFAULT: usize = 120;

pub(crate) struct Search<'a> {
    pub(crate) query: &'a str,
    pub(crate) limit: usize,
    pub(crate) min_score: f64,
    /// Of documents; empty is any.
    pub(crate) kinds: Vec<String>,
    /// No embedder is asked: for an answer that must not wait for a service.
    pub(crate) words_only: bool,
}

/// What a search found.
pub(super) struct Answer {
    pub(super) results: Vec<Value>,
    /// Who makes the vectors, `none` without any.
    pub(super) provider: String,
    pub(super) model: Option<String>,
    pub(super) by_meaning: bool,
    pub(super) warning: Option<String>,
    pub(super) search_ms: u128,
}

impl Answer {
    /// `searchMode` as the original has it.
    pub(super) const fn mode(&self) -> &'static str {
        match self.by_meaning {
            true => "hybrid",
            false => "fts-only",
        }
    }
}

pub(crate) struct Get<'a> {
    pub(crate) path: &'a str,
    /// From 1.
    pub(crate) from: Option<usize>,
    pub(crate) lines: Option<usize>,
}

/// Why nothing is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refusal {
    fn not_allowed() -> Self {
        Self {
            code: "MEMORY_PATH_NOT_ALLOWED",
            message: "path is not an allowed Markdown memory file".to_owned(),
        }
    }

    fn unreadable(why: impl ToString) -> Self {
        Self {
            code: "MEMORY_READ_FAILED",
            message: why.to_string(),
        }
    }
}

/// # Errors
/// The database's.
pub(super) fn search(
    memories: &Memories,
    shelf: &Shelf,
    asked: &Search<'_>,
) -> Result<Answer, MemoryError> {
    let began = Instant::now();
    let mut memory = memories.open(&shelf.file)?;
    let locks = memories.locks(&shelf.id);
    let counts = follow(&mut memory, shelf, &locks, Some(began + FOLLOW_TIME))?;
    memories.watching.want(shelf, counts.has_changed());
    let mut warnings = warnings(shelf, &counts);
    if counts.kept > 0
        && memory.status(&shelf.agent)?.pending > PENDING_MAX
        && let Some(_turn) = locks.index.try_lock()
    {
        // Without it every passage is read, and the same is found.
        if let Err(error) = memory.index(&shelf.agent, |_, _| {}) {
            warnings.push(error.to_string());
        }
    }
    let settings = provider::settings(&memory, shelf)?;
    let embedder = match asked.words_only {
        true => None,
        false => provider::open(&memory, shelf, &memories.keys)?.unwrap_or_else(|why| {
            warnings.push(format!("{why}; the words answer alone"));
            None
        }),
    };
    let query = Query {
        limit: asked.limit,
        min_score: asked.min_score,
        deadline: Instant::now().checked_add(SEARCH_TIME),
        filter: Filter {
            kinds: asked.kinds.clone(),
            ..Filter::default()
        },
        recency: Some(Recency {
            now: i64::try_from(clock::now_ms()).unwrap_or(i64::MAX),
            half_life_days: memory::HALF_LIFE_DAYS,
        }),
        mmr: embedder.is_some().then_some(memory::MMR_LAMBDA),
        ..Query::new(asked.query)
    };
    let found = memory.search_with(&shelf.agent, &query, embedder.as_deref())?;
    if let Some(embedder) = &embedder {
        memories.spent(&**embedder);
    }
    if found.partial {
        let late = "the time was over before everything was read: results are partial";
        warnings.push(late.to_owned());
    }
    warnings.extend(found.degraded.clone());
    if let Some((_, settings)) = &settings
        && found.mode == Mode::Hybrid
    {
        let of = memory.vector_status(&shelf.agent, &settings.model)?;
        if of.missing > 0 {
            warnings.push(format!(
                "{} passages have no vector yet and are found by their words: run memory.index",
                of.missing
            ));
        }
    }
    Ok(Answer {
        results: results(&found),
        by_meaning: found.mode == Mode::Hybrid,
        provider: settings
            .as_ref()
            .map_or_else(|| "none".to_owned(), |(id, _)| id.clone()),
        model: settings.map(|(_, of)| of.model.name),
        warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
        search_ms: began.elapsed().as_millis(),
    })
}

/// What changed is read, and indexed if it is much. Vectors are left to [`index`], since they may cost money.
///
/// # Errors
/// The database's, or the index's.
pub(super) fn catch_up(memories: &Memories, shelf: &Shelf) -> Result<Counts, MemoryError> {
    let mut memory = memories.open(&shelf.file)?;
    let locks = memories.locks(&shelf.id);
    let counts = follow(&mut memory, shelf, &locks, None)?;
    if memory.status(&shelf.agent)?.pending > PENDING_MAX
        && let Some(_turn) = locks.index.try_lock()
    {
        memory.index(&shelf.agent, |_, _| {})?;
    }
    Ok(counts)
}

fn follow(
    memory: &mut Memory,
    shelf: &Shelf,
    locks: &Locks,
    until: Option<Instant>,
) -> Result<Counts, MemoryError> {
    sources::follow(
        memory,
        &shelf.agent,
        &shelf.workspace,
        &shelf.extra,
        &locks.files,
        until,
    )
}

fn warnings(shelf: &Shelf, counts: &Counts) -> Vec<String> {
    let mut out = Vec::new();
    if counts.behind > 0 {
        out.push(format!(
            "{} changed files are not read yet: run memory.index",
            counts.behind
        ));
    }
    if counts.is_cut {
        out.push(format!(
            "looking for files was ended early (too slow, or over {} entries): new ones may be missing, gone ones are kept; \
             run memory.index, or name smaller folders in memory.search.extraPaths",
            sources::SEEN_MAX
        ));
    }
    if counts.left_out > 0 {
        out.push(format!(
            "{} files are left out (over 16 MiB, unreadable, or more than 10000)",
            counts.left_out
        ));
    }
    if counts.is_away && shelf.workspace.exists() {
        out.push(format!(
            "the workspace {} can't be read; what was last read of it is searched",
            shelf.workspace.display()
        ));
    }
    out
}

fn results(found: &Found) -> Vec<Value> {
    let keywords = found.hits.iter().filter_map(|hit| hit.explain.keyword);
    let best = keywords.fold(f64::MIN_POSITIVE, f64::max);
    found.hits.iter().map(|hit| result(hit, best)).collect()
}

/// As JavaScript writes it: 1, not 1.0.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 {
        true => json!(value as i64),
        false => json!(value),
    }
}

fn result(hit: &Hit, best: f64) -> Value {
    let mut out = json!({
        "path": hit.path, "startLine": hit.start_line, "endLine": hit.end_line, "score": number(hit.score),
    });
    if let Some(cosine) = hit.explain.vector {
        out["vectorScore"] = number(cosine);
    }
    out["textScore"] = number(hit.explain.keyword.map_or(0.0, |score| score / best));
    out["snippet"] = json!(hit.text);
    out["source"] = json!(hit.kind);
    // The workspace is what the agent writes; who wrote the rest is not known.
    let origin = match sources::is_source(&hit.path) {
        true => "agent",
        false => "untrusted",
    };
    out["provenance"] = json!({ "originClass": origin, "sessionKind": "unknown" });
    if let Some(at) = hit.at {
        out["provenance"]["observedAt"] = json!(at);
    }
    out
}

/// An excerpt of a file of the workspace as it is now, or of a document that is kept under this path.
pub(super) fn get(memories: &Memories, shelf: &Shelf, asked: &Get<'_>) -> Result<Value, Refusal> {
    let path = asked.path.trim();
    let inside = inside(&shelf.workspace, path);
    if let Some(inside) = inside.filter(|inside| may_be_read(inside)) {
        return match text_of(&shelf.workspace, &inside)? {
            Some(text) => Ok(excerpt(&text, &inside, asked, shelf.get_chars_max, true)),
            None => Ok(json!({ "status": "not_found", "text": "", "path": inside })),
        };
    }
    if let Some((name, opened)) = beside(shelf, path) {
        return match regular(opened, &name)? {
            Some(text) => Ok(excerpt(&text, &name, asked, shelf.get_chars_max, false)),
            None => Ok(json!({ "status": "not_found", "text": "", "path": name })),
        };
    }
    // Nothing was ever kept: the database need not come into being for that.
    if !shelf.file.is_file() {
        return Err(Refusal::not_allowed());
    }
    let kept = memories
        .open(&shelf.file)
        .and_then(|memory| memory.get(&shelf.agent, path))
        .map_err(Refusal::unreadable)?;
    let text = kept.ok_or_else(Refusal::not_allowed)?;
    Ok(excerpt(&text, path, asked, shelf.get_chars_max, false))
}

/// Source: `isMemoryPath` of packages/memory-host-sdk at 2026.9.6: what is searched, and the diary of dreams.
fn may_be_read(inside: &str) -> bool {
    sources::is_source(inside)
        || (inside.eq_ignore_ascii_case("dreams.md") && inside.ends_with(".md"))
}

/// A path from the workspace on, whatever links there are; `None` when it leads out.
fn inside(workspace: &Path, asked: &str) -> Option<String> {
    let full = plain(&workspace.join(asked));
    let inside = full.strip_prefix(workspace).ok()?.to_str()?;
    (!inside.is_empty()).then(|| inside.to_owned())
}

/// A file of `memory.search.extraPaths`: its name, and it itself or why not. `None`: it is none, or a link.
fn beside(shelf: &Shelf, asked: &str) -> Option<(String, Result<File, Errno>)> {
    let full = plain(&shelf.workspace.join(asked));
    shelf.extra.iter().find_map(|extra| {
        let inside = extra.inside(&full).filter(|inside| extra.has(inside))?;
        // A configured path that is a link, or not there, names nothing.
        let root = extra.path.symlink_metadata().ok()?;
        if root.is_symlink() || root.is_dir() == inside.is_empty() {
            return None;
        }
        match sources::extra_file(extra, &inside) {
            Err(Errno::LOOP | Errno::XDEV) => None,
            opened => Some((named(&shelf.workspace, &full)?, opened)),
        }
    })
}

fn text_of(workspace: &Path, inside: &str) -> Result<Option<String>, Refusal> {
    let opened = Workspace::open(workspace).and_then(|workspace| workspace.file(inside));
    regular(opened, inside)
}

/// `None` when there is no such file.
fn regular(opened: Result<File, Errno>, inside: &str) -> Result<Option<String>, Refusal> {
    let irregular = || Refusal::unreadable("path must be a regular file");
    let file = match opened {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP | Errno::XDEV) => return Err(irregular()),
        Err(error) => return Err(Refusal::unreadable(io::Error::from(error))),
    };
    let data = file.metadata().map_err(Refusal::unreadable)?;
    if !Metadata::is_file(&data) {
        return Err(irregular());
    }
    let bytes = folder::bytes_of(file).ok_or_else(|| {
        Refusal::unreadable(format!(
            "{inside} can't be read or is over {} bytes",
            memory::DOCUMENT_BYTES_MAX
        ))
    })?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Source: `buildMemoryReadResult` of packages/memory-host-sdk at 2026.9.6, which counts as JavaScript does.
fn excerpt(text: &str, path: &str, asked: &Get<'_>, chars_max: usize, has_file: bool) -> Value {
    let lines: Vec<&str> = text
        .strip_suffix('\n')
        .unwrap_or(text)
        .split('\n')
        .collect();
    let lines = if text.is_empty() { &[][..] } else { &lines };
    let from = asked.from.unwrap_or(1).max(1);
    let wanted = asked.lines.unwrap_or(LINES_DEFAULT).max(1);
    let first = (from - 1).min(lines.len());
    let selected = &lines[first..first.saturating_add(wanted).min(lines.len())];
    let more = first + selected.len() < lines.len();
    let (mut fitted, mut chars) = (0, 0);
    for line in selected {
        let next = chars + line.encode_utf16().count() + usize::from(fitted > 0);
        if fitted > 0 && next > chars_max {
            break;
        }
        fitted += 1;
        chars = next;
    }
    let mut out = selected[..fitted].join("\n");
    let is_cut = chars > chars_max;
    if is_cut {
        let mut left = chars_max;
        out = out
            .chars()
            .take_while(|c| {
                let fits = c.len_utf16() <= left;
                left = left.saturating_sub(c.len_utf16());
                fits
            })
            .collect();
    }
    let truncated = is_cut || fitted < selected.len() || more;
    let next = (truncated && !is_cut).then_some(from + fitted);
    if truncated && (!out.is_empty() || is_cut) {
        out.push_str("\n\n[More content available. ");
        match next {
            Some(next) => out.push_str(&format!("Use from={next} to continue.")),
            None => out.push_str("Requested excerpt exceeded the default maxChars budget."),
        }
        if is_cut && has_file {
            out.push_str(" If you need the full raw line, use read on the source file.");
        }
        out.push(']');
    }
    let mut answer =
        json!({ "status": "ok", "text": out, "path": path, "from": from, "lines": fitted });
    if truncated {
        answer["truncated"] = json!(true);
    }
    if let Some(next) = next {
        answer["nextFrom"] = json!(next);
    }
    answer
}

/// Everything that is there read, indexed and, where there is an embedder, given vectors.
///
/// # Errors
/// The database's.
pub(super) fn index(memories: &Memories, shelf: &Shelf) -> Result<Value, MemoryError> {
    let mut memory = memories.open(&shelf.file)?;
    let locks = memories.locks(&shelf.id);
    let counts = follow(&mut memory, shelf, &locks, None)?;
    memories.watching.want(shelf, counts.has_changed());
    let mut warnings = warnings(shelf, &counts);
    let turn = locks.index.lock();
    let indexed = memory.index(&shelf.agent, |_, _| {});
    drop(turn);
    match indexed {
        Ok(Indexed::Done(_)) => {}
        Ok(Indexed::Busy) => warnings.push("another process is writing this index".to_owned()),
        Err(error) => warnings.push(error.to_string()),
    }
    warnings.extend(provider::ignored(shelf));
    let mut cost = None;
    match provider::open(&memory, shelf, &memories.keys)? {
        Ok(None) => {}
        Ok(Some(embedder)) => {
            if let Err(error) = memory.embed(&shelf.agent, &*embedder, |_, _| {}) {
                warnings.push(format!("{error}; what has no vector is found by its words"));
            }
            cost = Some(memories.spent(&*embedder));
        }
        Err(why) => warnings.push(format!("{why}; what has no vector is found by its words")),
    }
    let mut answer = state(&memory, shelf)?;
    if let Some(Usage {
        requests,
        repeats,
        texts,
        tokens,
    }) = cost
    {
        answer["embedded"] =
            json!({ "requests": requests, "repeats": repeats, "texts": texts, "tokens": tokens });
    }
    for (name, count) in [
        ("kept", counts.kept),
        ("unchanged", counts.unchanged),
        ("forgotten", counts.forgotten),
        ("leftOut", counts.left_out),
    ] {
        answer[name] = json!(count);
    }
    warn(&mut answer, warnings);
    Ok(answer)
}

/// # Errors
/// The database's.
pub(super) fn status(memories: &Memories, shelf: &Shelf) -> Result<Value, MemoryError> {
    let memory = memories.open(&shelf.file)?;
    let mut answer = state(&memory, shelf)?;
    let degraded = memory.status(&shelf.agent)?.degraded;
    warn(
        &mut answer,
        degraded
            .into_iter()
            .chain(provider::ignored(shelf))
            .collect(),
    );
    Ok(answer)
}

fn warn(answer: &mut Value, warnings: Vec<String>) {
    if !warnings.is_empty() {
        answer["warning"] = json!(warnings.join("; "));
    }
}

fn state(memory: &Memory, shelf: &Shelf) -> Result<Value, MemoryError> {
    let status = memory.status(&shelf.agent)?;
    let mut out = json!({
        "agentId": shelf.id, "workspaceDir": shelf.workspace, "provider": "none", "documents": status.documents,
        "files": memory.files(&shelf.agent)?.len(), "chunks": status.chunks, "pending": status.pending,
    });
    out["fts"] = json!({ "available": status.degraded.is_none() });
    if let Some(why) = &status.degraded {
        out["fts"]["error"] = json!(why);
    }
    if let Some((id, settings)) = provider::settings(memory, shelf)? {
        let of = memory.vector_status(&shelf.agent, &settings.model)?;
        out["provider"] = json!(id);
        out["model"] = json!(settings.model.name);
        out["vectors"] =
            json!({ "dimensions": of.dimensions, "kept": of.vectors, "missing": of.missing });
    }
    Ok(out)
}

/// Documents of which there is a file stay: they would come back.
///
/// # Errors
/// The database's.
pub(super) fn forget(
    memories: &Memories,
    shelf: &Shelf,
    paths: &[&str],
) -> Result<Value, MemoryError> {
    let mut memory = memories.open(&shelf.file)?;
    let workspace = Workspace::open(&shelf.workspace).ok();
    let has_file = |path: &str| {
        let workspace = workspace.as_ref().filter(|_| sources::is_source(path));
        workspace.is_some_and(|workspace| workspace.file(path).is_ok())
            || beside(shelf, path).is_some_and(|(name, opened)| name == path && opened.is_ok())
    };
    let (files, others): (Vec<&str>, Vec<&str>) = paths.iter().partition(|path| has_file(path));
    let forgotten = memory.forget_all(&shelf.agent, &others)?;
    let missing: Vec<&str> = others
        .into_iter()
        .filter(|path| !forgotten.contains(path))
        .collect();
    Ok(json!({ "agentId": shelf.id, "forgotten": forgotten, "missing": missing, "files": files }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_in_the_workspace() {
        let check = |asked: &str, expected: Option<&str>| {
            let inside = inside(Path::new("/w/s"), asked);
            let readable = inside.filter(|inside| may_be_read(inside));
            assert_eq!(readable.as_deref(), expected, "{asked}");
        };
        check("MEMORY.md", Some("MEMORY.md"));
        check("./memory/a/b.md", Some("memory/a/b.md"));
        check("/w/s/memory/a.md", Some("memory/a.md"));
        check("memory/x/../a.md", Some("memory/a.md"));
        check("DREAMS.md", Some("DREAMS.md"));
        for out in [
            "",
            ".",
            "memory",
            "memory.md",
            "notes.md",
            "memory/a.txt",
            "memory/../notes.md",
            "../s2/MEMORY.md",
            "/w/MEMORY.md",
            "/etc/passwd",
            "DREAMS.MD",
        ] {
            check(out, None);
        }
    }

    #[test]
    fn an_excerpt_says_where_it_goes_on() {
        let check = |text: &str, from: Option<usize>, lines: Option<usize>, expected: Value| {
            let asked = Get {
                path: "a",
                from,
                lines,
            };
            let mut answer = excerpt(text, "a", &asked, 10, true);
            let answer = answer.as_object_mut().expect("an object");
            answer.remove("path");
            answer.remove("status");
            assert_eq!(json!(answer), expected, "{text:?}");
        };
        check("", None, None, json!({ "text": "", "from": 1, "lines": 0 }));
        check(
            "a\nb\n",
            None,
            None,
            json!({ "text": "a\nb", "from": 1, "lines": 2 }),
        );
        check(
            "a\nb",
            Some(9),
            None,
            json!({ "text": "", "from": 9, "lines": 0 }),
        );
        check(
            "a\nb\nc",
            Some(2),
            Some(1),
            json!({ "text": "b\n\n[More content available. Use from=3 to continue.]", "from": 2, "lines": 1,
                "truncated": true, "nextFrom": 3 }),
        );
        check(
            "aaaaaa\nbbbb",
            None,
            None,
            json!({ "text": "aaaaaa\n\n[More content available. Use from=2 to continue.]", "from": 1, "lines": 1,
                "truncated": true, "nextFrom": 2 }),
        );
        // Nine units and a pair that has no room left.
        check(
            "aaaaaaaaa\u{1f600}",
            None,
            None,
            json!({ "text": "aaaaaaaaa\n\n[More content available. Requested excerpt exceeded the default maxChars budget. \
                If you need the full raw line, use read on the source file.]", "from": 1, "lines": 1, "truncated": true }),
        );
    }
}
