//! `memory add|index|search|status|forget|rebuild|embedder`: an agent's memory on this machine; needs no gateway and no
//! configuration.

mod embedder;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Subcommand;
use memory::{Agent, Document, Embedder, Filter, Indexed, Memory, Mode, Model, Query, Recency};
use serde_json::{Value, json};

use super::target::environment;
use super::{complain, print};
use crate::memories::{folder, provider};

#[derive(Debug, Subcommand)]
pub(super) enum MemoryCommand {
    /// Keep a text, a file, or what is piped in (`-`).
    Add {
        /// A file, `-`, or the text itself.
        #[arg(required = true)]
        what: Vec<String>,
        /// The name to keep it under; a file's own path, or `notes/<milliseconds>.md`, without it.
        #[arg(long)]
        path: Option<String>,
        #[command(flatten)]
        whose: Whose,
    },
    /// Keep every Markdown, text and JSONL file under a folder, and forget those that are gone; links are not followed.
    Index {
        #[arg(required = true)]
        folders: Vec<PathBuf>,
        #[command(flatten)]
        whose: Whose,
    },
    /// Find passages that say something of the query, best first. `"a phrase"` must be there, `pre*` is a beginning.
    Search {
        #[arg(required = true)]
        query: Vec<String>,
        #[arg(long, visible_alias = "max-results", default_value_t = 10)]
        limit: usize,
        /// Leave out what is below, in parts of the best hit: 0 to 1.
        #[arg(long, default_value_t = 0.0)]
        min_score: f64,
        /// Answer with what was read by then, milliseconds.
        #[arg(long, default_value_t = 10_000)]
        timeout: u64,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        whose: Whose,
    },
    /// How much is kept, and whether the index is up to it.
    Status {
        #[command(flatten)]
        whose: Whose,
    },
    /// Remove documents; their files stay.
    Forget {
        #[arg(required = true)]
        paths: Vec<String>,
        #[command(flatten)]
        whose: Whose,
    },
    /// Make the indexes again from what is kept.
    Rebuild {
        #[command(flatten)]
        whose: Whose,
    },
    /// Choose the service that makes vectors, so that a search is by meaning too.
    Embedder {
        #[command(flatten)]
        choice: embedder::Choice,
        #[command(flatten)]
        whose: Whose,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Only what is of this kind: `memory`, `sessions`. May be given again.
    #[arg(long)]
    kind: Vec<String>,
    /// Only paths that begin so.
    #[arg(long)]
    under: Option<String>,
    /// Only what was written on this day or later, `2026-01-31`.
    #[arg(long, value_parser = day)]
    since: Option<i64>,
    /// Only what was written before this day.
    #[arg(long, value_parser = day)]
    before: Option<i64>,
    /// By the words alone, although there is an embedder.
    #[arg(long)]
    words: bool,
    /// By relevance alone: neither age nor variety counts.
    #[arg(long)]
    plain: bool,
    /// Say where each score comes from.
    #[arg(long)]
    explain: bool,
}

fn day(text: &str) -> Result<i64, String> {
    memory::midnight(text).ok_or_else(|| "give a day as 2026-01-31".to_owned())
}

#[derive(Debug, clap::Args)]
pub(super) struct Whose {
    #[arg(long, default_value = "main")]
    agent: String,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Who makes an agent's vectors, if anybody does.
type Made<'a> = &'a dyn Fn(&Memory, &Agent) -> anyhow::Result<Option<Box<dyn Embedder>>>;

/// What a command has to say: for programs, for people, and whether it did what was asked.
type Said = (Value, String, bool);

pub(super) fn run(profile: Option<&str>, command: &MemoryCommand) -> anyhow::Result<ExitCode> {
    let (env, paths) = environment(profile)?;
    std::fs::create_dir_all(&paths.own_dir)
        .with_context(|| format!("cannot create {}", paths.own_dir.display()))?;
    let file = paths.own_dir.join("memory.sqlite");
    let embedder =
        |memory: &Memory, agent: &Agent| provider::from_files(memory, agent, &env, &paths);
    let mut memory = Memory::open(&file).with_context(|| format!("{}", file.display()))?;
    let (MemoryCommand::Add { whose, .. }
    | MemoryCommand::Index { whose, .. }
    | MemoryCommand::Search { whose, .. }
    | MemoryCommand::Status { whose }
    | MemoryCommand::Forget { whose, .. }
    | MemoryCommand::Rebuild { whose }
    | MemoryCommand::Embedder { whose, .. }) = command;
    let agent = Agent::parse(&whose.agent)?;
    let (value, text, done) = match command {
        MemoryCommand::Add { what, path, .. } => {
            add(&mut memory, &agent, what, path.as_deref(), &embedder)?
        }
        MemoryCommand::Index { folders, .. } => {
            let mut all = folder::Counts::default();
            for folder in folders {
                all += folder::index(&mut memory, &agent, folder, &mut bar("files"))?;
            }
            catch_up(&mut memory, &agent, &embedder);
            (all.value(), all.text(), true)
        }
        MemoryCommand::Search {
            query,
            limit,
            min_score,
            timeout,
            how,
            ..
        } => {
            let embedder = match how.words {
                true => None,
                false => embedder(&memory, &agent).unwrap_or_else(|error| {
                    complain(&format!("{error}; the words answer alone"));
                    None
                }),
            };
            let query = Query {
                limit: *limit,
                min_score: *min_score,
                deadline: Instant::now().checked_add(Duration::from_millis(*timeout)),
                filter: Filter {
                    kinds: how.kind.clone(),
                    under: how.under.clone(),
                    since: how.since,
                    until: how.before.map(|day| day - 1),
                },
                recency: (!how.plain).then_some(Recency {
                    now: i64::try_from(now_ms()?)?,
                    half_life_days: memory::HALF_LIFE_DAYS,
                }),
                mmr: (!how.plain && embedder.is_some()).then_some(memory::MMR_LAMBDA),
                ..Query::new(&query.join(" "))
            };
            let found = memory.search_with(&agent, &query, embedder.as_deref())?;
            if let Some(why) = &found.degraded {
                complain(why);
            }
            (
                answer(&found, how.explain),
                shown(&found, &query.text, how.explain),
                true,
            )
        }
        MemoryCommand::Embedder { choice, .. } => embedder::choose(&mut memory, &agent, choice)?,
        MemoryCommand::Status { .. } => {
            let model = provider::model_from_files(&memory, &agent, &env, &paths);
            let model = model.unwrap_or_else(|error| {
                complain(&format!("{error}; the words answer alone"));
                None
            });
            status(&memory, &agent, model)?
        }
        MemoryCommand::Forget { paths, .. } => {
            let mut forgotten = Vec::new();
            for path in paths {
                let known = [path.clone(), absolute(path)];
                for path in known {
                    if memory.forget(&agent, &path)? {
                        forgotten.push(path);
                        break;
                    }
                }
            }
            catch_up(&mut memory, &agent, &embedder);
            let missing = paths.len() - forgotten.len();
            let text = match missing {
                0 => format!("forgotten: {}", forgotten.len()),
                n => format!(
                    "forgotten: {}, not kept: {n}; search shows the paths there are",
                    forgotten.len()
                ),
            };
            (
                json!({ "forgotten": forgotten, "missing": missing }),
                text,
                missing == 0,
            )
        }
        MemoryCommand::Rebuild { .. } => match memory.rebuild(&agent, bar("chunks"))? {
            Indexed::Done(chunks) => (
                json!({ "chunks": chunks }),
                format!("the index holds {chunks} chunks"),
                true,
            ),
            Indexed::Busy => anyhow::bail!(
                "another process is writing this index: wait until it is done, then try again"
            ),
        },
    };
    print(&if whose.json { value.to_string() } else { text });
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What is kept is found without the index too, so a failure here is said and no more.
fn catch_up(memory: &mut Memory, agent: &Agent, embedder: Made<'_>) {
    if let Err(error) = memory.index(agent, bar("chunks")) {
        complain(&format!("{error}"));
    }
    embed(memory, agent, embedder);
}

/// What has no vector yet is found by its words.
fn embed(memory: &mut Memory, agent: &Agent, embedder: Made<'_>) {
    let made = embedder(memory, agent).and_then(|embedder| {
        if let Some(embedder) = embedder {
            memory.embed(agent, &*embedder, bar("vectors"))?;
        }
        Ok(())
    });
    if let Err(error) = made {
        complain(&format!(
            "{error}; what has no vector is found by its words"
        ));
    }
}

fn now_ms() -> anyhow::Result<u128> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())
}

fn add(
    memory: &mut Memory,
    agent: &Agent,
    what: &[String],
    path: Option<&str>,
    embedder: Made<'_>,
) -> anyhow::Result<Said> {
    let now = now_ms()?;
    let (name, text) = match what {
        [stdin] if stdin == "-" => (format!("notes/{now}.md"), folder::text_of(std::io::stdin())),
        [file] if Path::new(file).is_file() => {
            let open = std::fs::File::open(file).with_context(|| format!("cannot read {file}"))?;
            (absolute(file), folder::text_of(open))
        }
        words => (format!("notes/{now}.md"), Some(words.join(" "))),
    };
    let text = text.with_context(|| {
        format!(
            "{}: no text of at most {} bytes",
            what[0],
            memory::DOCUMENT_BYTES_MAX
        )
    })?;
    anyhow::ensure!(
        !text.trim().is_empty(),
        "there is nothing in it: give some text"
    );
    let name = path.map_or(name, str::to_owned);
    let document = Document {
        at: Some(i64::try_from(now)?),
        ..Document::new(&name, &text)
    };
    let changed = memory.put_documents(agent, &[document])? == 1;
    // One small text is found at once without a commit of the index; many are worth one.
    match memory.status(agent)?.pending > 1000 {
        true => catch_up(memory, agent, embedder),
        false => embed(memory, agent, embedder),
    }
    let text = if changed {
        format!("kept as {name}")
    } else {
        format!("{name} was kept already")
    };
    Ok((json!({ "path": name, "changed": changed }), text, true))
}

fn status(memory: &Memory, agent: &Agent, model: Option<Model>) -> anyhow::Result<Said> {
    let status = memory.status(agent)?;
    let mut text = format!(
        "documents  {}\nchunks     {}\nindex      {}",
        status.documents,
        status.chunks,
        match status.pending {
            0 => "up to date".to_owned(),
            n => format!("{n} chunks behind; they are found all the same"),
        }
    );
    if let Some(why) = &status.degraded {
        text.push_str(&format!("\nwarning    {why}"));
    }
    let mut value = json!({
        "agentId": agent.as_str(), "documents": status.documents, "chunks": status.chunks,
        "pending": status.pending, "warning": status.degraded,
    });
    if let Some(model) = model {
        let of = memory.vector_status(agent, &model)?;
        text.push_str(&format!(
            "\nvectors    {} of {} numbers by {}, {} missing",
            of.vectors, of.dimensions, model.name, of.missing
        ));
        value["vectors"] = json!({
            "model": model.name, "dimensions": of.dimensions, "kept": of.vectors, "missing": of.missing,
        });
    }
    Ok((value, text, true))
}

fn answer(found: &memory::Found, explain: bool) -> Value {
    let hits = || found.hits.iter();
    let best = hits()
        .filter_map(|hit| hit.explain.keyword)
        .fold(f64::MIN_POSITIVE, f64::max);
    let results: Vec<Value> = hits()
        .map(|hit| {
            let by = hit.explain;
            let mut value = json!({
                "path": hit.path, "startLine": hit.start_line, "endLine": hit.end_line, "score": hit.score,
                "textScore": by.keyword.map_or(0.0, |score| score / best), "snippet": hit.text, "source": hit.kind,
            });
            if let Some(cosine) = by.vector {
                value["vectorScore"] = json!(cosine);
            }
            if explain {
                value["explain"] = json!({
                    "bm25": by.keyword, "cosine": by.vector, "fused": by.fused, "recency": by.recency,
                });
            }
            value
        })
        .collect();
    let mode = match found.mode {
        Mode::Keyword => "keyword",
        Mode::Hybrid => "hybrid",
    };
    json!({ "results": results, "searchMode": mode, "partial": found.partial, "warning": found.degraded })
}

/// The part of each hit that says most of the query, its words marked on a terminal.
fn shown(found: &memory::Found, query: &str, explain: bool) -> String {
    let marked = std::io::stdout().is_terminal();
    let wanted = memory::terms(query);
    let mut out = Vec::new();
    for hit in &found.hits {
        let lines = hit.text.lines().enumerate();
        let told = |line: &str| {
            memory::terms(line)
                .iter()
                .filter(|term| wanted.contains(term))
                .count()
        };
        let best = lines.max_by_key(|&(at, line)| (told(line), std::cmp::Reverse(at)));
        let (at, line) = best.unwrap_or_default();
        out.push(format!(
            "{:.2}  {}:{}\n      {}",
            hit.score,
            hit.path,
            (hit.start_line + at).min(hit.end_line),
            highlighted(line, &wanted, marked)
        ));
        if explain {
            let by = hit.explain;
            let part = |score: Option<f64>| {
                score.map_or_else(|| "none".to_owned(), |score| format!("{score:.3}"))
            };
            out.push(format!(
                "      words {}, meaning {}, both {:.3}, age {:.3}",
                part(by.keyword),
                part(by.vector),
                by.fused,
                by.recency
            ));
        }
    }
    if out.is_empty() {
        out.push("nothing found".to_owned());
    }
    if found.partial {
        out.push(
            "the time was over before everything was read; give a longer --timeout".to_owned(),
        );
    }
    out.join("\n")
}

fn highlighted(line: &str, wanted: &[String], marked: bool) -> String {
    let mut out = String::new();
    for word in line
        .split_inclusive(char::is_whitespace)
        .scan(0, |chars, word| {
            *chars += word.chars().count();
            (*chars <= 200).then_some(word)
        })
    {
        let clean: String = word
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let hit = marked && memory::terms(word).iter().any(|term| wanted.contains(term));
        if hit {
            let text = clean.trim_end();
            out.push_str(&format!("\x1b[1m{text}\x1b[0m{}", &clean[text.len()..]));
        } else {
            out.push_str(&clean);
        }
    }
    if out.is_empty() {
        // One word longer than a line, as a path or data.
        out = line.chars().filter(|c| !c.is_control()).take(200).collect();
    }
    out.trim_end().to_owned()
}

fn absolute(path: &str) -> String {
    std::fs::canonicalize(path).map_or_else(
        |_| path.to_owned(),
        |full| full.to_string_lossy().into_owned(),
    )
}

/// A progress line on a terminal, nothing elsewhere.
fn bar(what: &'static str) -> impl FnMut(usize, usize) {
    let shown = std::io::stderr().is_terminal();
    let mut last = Instant::now();
    move |done, total| {
        if !shown || (done < total && last.elapsed() < Duration::from_millis(100)) {
            return;
        }
        last = Instant::now();
        let width = (done * 24).checked_div(total).unwrap_or(24);
        let end = if done >= total { "\n" } else { "" };
        let line = format!("\r[{:<24}] {done}/{total} {what}{end}", "#".repeat(width));
        // Nobody left to see it.
        drop(std::io::stderr().write_all(line.as_bytes()));
    }
}
