//! `memory add|index|search|status|forget|rebuild`: an agent's memory on this machine; needs no gateway and no
//! configuration.

mod folder;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Subcommand;
use memory::{Agent, Indexed, Memory, Query};
use serde_json::{Value, json};

use super::target::environment;
use super::{complain, print};

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
    /// Make the keyword index again from what is kept.
    Rebuild {
        #[command(flatten)]
        whose: Whose,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Whose {
    #[arg(long, default_value = "main")]
    agent: String,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// What a command has to say: for programs, for people, and whether it did what was asked.
type Said = (Value, String, bool);

pub(super) fn run(profile: Option<&str>, command: &MemoryCommand) -> anyhow::Result<ExitCode> {
    let (_, paths) = environment(profile)?;
    std::fs::create_dir_all(&paths.own_dir)
        .with_context(|| format!("cannot create {}", paths.own_dir.display()))?;
    let file = paths.own_dir.join("memory.sqlite");
    let mut memory = Memory::open(&file).with_context(|| format!("{}", file.display()))?;
    let (MemoryCommand::Add { whose, .. }
    | MemoryCommand::Index { whose, .. }
    | MemoryCommand::Search { whose, .. }
    | MemoryCommand::Status { whose }
    | MemoryCommand::Forget { whose, .. }
    | MemoryCommand::Rebuild { whose }) = command;
    let agent = Agent::parse(&whose.agent)?;
    let (value, text, done) = match command {
        MemoryCommand::Add { what, path, .. } => add(&mut memory, &agent, what, path.as_deref())?,
        MemoryCommand::Index { folders, .. } => {
            let mut all = folder::Counts::default();
            for folder in folders {
                all += folder::index(&mut memory, &agent, folder, &mut bar("files"))?;
            }
            catch_up(&mut memory, &agent);
            (all.value(), all.text(), true)
        }
        MemoryCommand::Search {
            query,
            limit,
            min_score,
            timeout,
            ..
        } => {
            let query = Query {
                limit: *limit,
                min_score: *min_score,
                deadline: Instant::now().checked_add(Duration::from_millis(*timeout)),
                ..Query::new(&query.join(" "))
            };
            let found = memory.search(&agent, &query)?;
            if let Some(why) = &found.degraded {
                complain(why);
            }
            (answer(&found), shown(&found, &query.text), true)
        }
        MemoryCommand::Status { .. } => status(&memory, &agent)?,
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
            catch_up(&mut memory, &agent);
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
fn catch_up(memory: &mut Memory, agent: &Agent) {
    if let Err(error) = memory.index(agent, bar("chunks")) {
        complain(&format!("{error}"));
    }
}

fn add(
    memory: &mut Memory,
    agent: &Agent,
    what: &[String],
    path: Option<&str>,
) -> anyhow::Result<Said> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
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
    let changed = memory.put(agent, &name, &text)?;
    // One small text is found at once without a commit of the index; many are worth one.
    if memory.status(agent)?.pending > 1000 {
        catch_up(memory, agent);
    }
    let text = if changed {
        format!("kept as {name}")
    } else {
        format!("{name} was kept already")
    };
    Ok((json!({ "path": name, "changed": changed }), text, true))
}

fn status(memory: &Memory, agent: &Agent) -> anyhow::Result<Said> {
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
    let value = json!({
        "agentId": agent.as_str(), "documents": status.documents, "chunks": status.chunks,
        "pending": status.pending, "warning": status.degraded,
    });
    Ok((value, text, true))
}

fn answer(found: &memory::Found) -> Value {
    let results: Vec<Value> = found.hits.iter().map(|hit| {
        json!({
            "path": hit.path, "startLine": hit.start_line, "endLine": hit.end_line, "score": hit.score,
            "textScore": hit.score, "snippet": hit.text, "source": "memory",
        })
    }).collect();
    json!({ "results": results, "partial": found.partial, "warning": found.degraded })
}

/// The part of each hit that says most of the query, its words marked on a terminal.
fn shown(found: &memory::Found, query: &str) -> String {
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
