//! Ranked search here and by SQLite's FTS5 over the same chunks, query by query in turn, in one process: `make
//! bench-memory`. Arguments: a folder of real text, then numbers of chunks. Prints one JSON object for each number.
//!
//! Chunks are real sentences of the folder in a new order, a third with an identifier of its own. FTS5 has its best
//! shape: external content, `ORDER BY rank`, optimised, a warm cache of 64 MiB, prepared statements, the same words
//! and English stems. Both answer ten rows with their text. Times are wall milliseconds, the median of three rounds of
//! each query; percentiles are over queries.
#![expect(clippy::print_stdout, reason = "the result of a measuring program")]

use memory::{Agent, Indexed, Memory, Query, words};
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

const ROUNDS: usize = 3;
const QUERIES: usize = 60;

/// The same for every run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args
        .next()
        .ok_or("give a folder of text, then numbers of chunks")?;
    let mut sentences = Vec::new();
    read(Path::new(&folder), &mut sentences)?;
    sentences.sort();
    sentences.dedup();
    for size in args {
        println!("{}", measure(&sentences, size.parse()?)?);
    }
    Ok(())
}

fn read(folder: &Path, out: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, out)?;
        } else if path.extension().is_some_and(|end| end == "md") {
            let text = std::fs::read_to_string(&path)?;
            let lines = text
                .lines()
                .map(str::trim)
                .filter(|line| (40..400).contains(&line.len()));
            out.extend(lines.map(str::to_owned));
        }
    }
    Ok(())
}

fn corpus(sentences: &[String], size: usize) -> Vec<String> {
    let mut seeded = Seeded(20_261_127);
    (0..size)
        .map(|n| {
            let start = seeded.below(sentences.len());
            let mut text = String::new();
            for at in 0..2 + seeded.below(5) {
                text.push_str(&sentences[(start + at) % sentences.len()]);
                text.push('\n');
            }
            if seeded.below(3) == 0 {
                text.push_str(&format!("ticket-{n} error{}\n", seeded.below(size)));
            }
            text
        })
        .collect()
}

/// Ours and FTS5's words for the same question.
struct Asked {
    ours: String,
    theirs: String,
}

fn or(all: &[String]) -> Asked {
    let quoted: Vec<String> = all.iter().map(|word| format!("\"{word}\"")).collect();
    Asked {
        ours: all.join(" "),
        theirs: quoted.join(" OR "),
    }
}

fn classes(chunks: &[String]) -> Vec<(&'static str, Vec<Asked>)> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for text in chunks {
        for word in words(text).into_iter().collect::<HashSet<_>>() {
            *seen.entry(word).or_default() += 1;
        }
    }
    let letters = |word: &String| word.len() > 2 && word.bytes().all(|b| b.is_ascii_lowercase());
    let mut ranked: Vec<(String, usize)> = seen
        .iter()
        .filter(|(word, _)| letters(word))
        .map(|(word, &n)| (word.clone(), n))
        .collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let from = |low: usize, high: usize| -> Vec<String> {
        ranked
            .iter()
            .filter(|(_, n)| (low..=high).contains(n))
            .map(|(word, _)| word.clone())
            .collect()
    };
    let size = chunks.len();
    let (rare, middling, common) = (
        from(2, size / 2000 + 3),
        from(size / 500, size / 100),
        from(size / 20, size),
    );
    let mut seeded = Seeded(7);
    let mut some = |pool: &[String], count: usize| -> Vec<String> {
        (0..count)
            .map(|_| pool[seeded.below(pool.len())].clone())
            .collect()
    };
    let mixed: Vec<String> = ranked
        .iter()
        .take(4000)
        .map(|(word, _)| word.clone())
        .collect();
    let one = |pool: &[String], some: &mut dyn FnMut(&[String], usize) -> Vec<String>| {
        (0..QUERIES).map(|_| or(&some(pool, 1))).collect::<Vec<_>>()
    };
    let mut out = vec![
        ("one rare term", one(&rare, &mut some)),
        ("one middling term", one(&middling, &mut some)),
        ("one common term", one(&common, &mut some)),
    ];
    for (name, count) in [("2 terms OR", 2), ("3 terms OR", 3), ("5 terms OR", 5)] {
        out.push((
            name,
            (0..QUERIES).map(|_| or(&some(&mixed, count))).collect(),
        ));
    }
    let mut runs = Seeded(11);
    let mut running = |low: usize, more: usize| -> Vec<String> {
        loop {
            let all = words(&chunks[runs.below(chunks.len())]);
            let count = low + runs.below(more);
            if all.len() > count && all.iter().all(|word| word.is_ascii()) {
                let start = runs.below(all.len() - count);
                return all[start..start + count].to_vec();
            }
        }
    };
    out.push((
        "6-9 running words OR",
        (0..QUERIES).map(|_| or(&running(6, 4))).collect(),
    ));
    let phrase = |all: Vec<String>| {
        let text = format!("\"{}\"", all.join(" "));
        Asked {
            ours: text.clone(),
            theirs: text,
        }
    };
    out.push((
        "phrase of 2-3 words",
        (0..QUERIES).map(|_| phrase(running(2, 2))).collect(),
    ));
    let prefix = |word: &String| {
        let text: String = word.chars().take(4).collect();
        Asked {
            ours: format!("{text}*"),
            theirs: format!("{text}*"),
        }
    };
    out.push((
        "prefix of 3-4 letters",
        (0..QUERIES).map(|_| prefix(&some(&mixed, 1)[0])).collect(),
    ));
    out
}

fn measure(sentences: &[String], size: usize) -> Result<serde_json::Value, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let chunks = corpus(sentences, size);
    let agent = Agent::parse("main")?;
    let mut ours = Memory::open(&dir.path().join("ours.sqlite"))?;
    let names: Vec<String> = (0..size).map(|n| format!("{n}.md")).collect();
    for (names, texts) in names.chunks(10_000).zip(chunks.chunks(10_000)) {
        let rows: Vec<(&str, &str)> = names
            .iter()
            .map(String::as_str)
            .zip(texts.iter().map(String::as_str))
            .collect();
        ours.put_all(&agent, &rows)?;
    }
    let started = Clock::start()?;
    let Indexed::Done(_) = ours.index(&agent, |_, _| {})? else {
        return Err("nobody else has this index".into());
    };
    let our_build = started.seconds()?;
    let theirs = Connection::open(dir.path().join("fts5.sqlite"))?;
    theirs.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536; PRAGMA mmap_size = 4000000000;
         CREATE TABLE chunk (id INTEGER PRIMARY KEY, path TEXT, text TEXT);
         CREATE VIRTUAL TABLE fts USING fts5 (text, content='chunk', content_rowid='id', tokenize='porter unicode61');",
    )?;
    let batched =
        |insert: &str,
         row: &dyn Fn(&mut rusqlite::Statement<'_>, usize) -> rusqlite::Result<usize>| {
            for from in (0..size).step_by(10_000) {
                theirs.execute_batch("BEGIN")?;
                let mut statement = theirs.prepare_cached(insert)?;
                for n in from..(from + 10_000).min(size) {
                    row(&mut statement, n)?;
                }
                theirs.execute_batch("COMMIT")?;
            }
            Ok::<_, rusqlite::Error>(())
        };
    // The texts are there before either index is made.
    batched("INSERT INTO chunk VALUES (?1, ?2, ?3)", &|statement, n| {
        statement.execute((n, &names[n], &chunks[n]))
    })?;
    let started = Clock::start()?;
    batched(
        "INSERT INTO fts (rowid, text) VALUES (?1, ?2)",
        &|statement, n| statement.execute((n, &chunks[n])),
    )?;
    theirs.execute_batch("INSERT INTO fts (fts) VALUES ('optimize')")?;
    let their_build = started.seconds()?;
    let mut select = theirs.prepare(
        "SELECT path, text FROM (SELECT rowid AS id FROM fts WHERE fts MATCH ?1 ORDER BY rank LIMIT 10) JOIN chunk USING (id)",
    )?;
    let mut rows = Vec::new();
    for (class, asked) in classes(&chunks) {
        let (mut a, mut b, mut overlap, mut empty) = (Vec::new(), Vec::new(), 0.0, 0);
        for one in &asked {
            let (mut mine, mut other) = (Vec::new(), Vec::new());
            let (mut found, mut peer) = (HashSet::new(), HashSet::new());
            for _ in 0..=ROUNDS {
                let started = Instant::now();
                let hits = ours.search(&agent, &Query::new(&one.ours))?.hits;
                mine.push(started.elapsed().as_secs_f64() * 1e3);
                let started = Instant::now();
                let texts: Vec<(String, String)> = select
                    .query_map([&one.theirs], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<Result<_, _>>()?;
                other.push(started.elapsed().as_secs_f64() * 1e3);
                found = hits.into_iter().map(|hit| hit.path).collect();
                peer = texts.into_iter().map(|(path, _)| path).collect();
            }
            a.push(middle(&mut mine[1..]));
            b.push(middle(&mut other[1..]));
            empty += usize::from(peer.is_empty());
            let most = found.len().max(peer.len()).max(1) as f64;
            overlap += if peer.is_empty() && found.is_empty() {
                1.0
            } else {
                found.intersection(&peer).count() as f64 / most
            };
        }
        let (ours, fts5) = (spread(a), spread(b));
        rows.push(serde_json::json!({
            "class": class, "queries": asked.len(), "empty": empty, "ours": ours, "fts5": fts5,
            "ratio": { "p50": round(fts5[0] / ours[0]), "p95": round(fts5[1] / ours[1]) },
            "overlapAt10": round(overlap / asked.len() as f64),
        }));
    }
    let (mut write, mut seen) = (Vec::new(), 0);
    for n in 0..100 {
        let text = format!("written{n} while others search\n");
        let started = Instant::now();
        ours.put(&agent, &format!("written/{n}.md"), &text)?;
        write.push(started.elapsed().as_secs_f64() * 1e3);
        seen += usize::from(
            ours.search(&agent, &Query::new(&format!("written{n}")))?
                .hits
                .len()
                == 1,
        );
    }
    Ok(serde_json::json!({
        "chunks": size, "bytes": chunks.iter().map(String::len).sum::<usize>(), "sqlite": rusqlite::version(),
        "milliseconds": "[p50, p95, p99] over queries", "classes": rows,
        "index": { "wallAndCpuSeconds": { "ours": our_build, "fts5": their_build }, "ratio": { "cpu": round(their_build[1] / our_build[1]) } },
        "write": { "milliseconds": spread(write), "foundAtOnce": seen, "of": 100 },
    }))
}

/// Wall and processor seconds of this process, all threads.
struct Clock(Instant, f64);

impl Clock {
    fn start() -> Result<Self, Box<dyn Error>> {
        Ok(Self(Instant::now(), processor_seconds()?))
    }

    fn seconds(&self) -> Result<[f64; 2], Box<dyn Error>> {
        let cpu = processor_seconds()? - self.1;
        Ok([round(self.0.elapsed().as_secs_f64()), round(cpu)])
    }
}

/// Linux counts hundredths, in user and system, in the 14th and 15th field.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no end of the name")?;
    let ticks: Vec<f64> = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

fn middle(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn spread(mut all: Vec<f64>) -> [f64; 3] {
    all.sort_by(f64::total_cmp);
    [0.50, 0.95, 0.99].map(|part| round3(all[((all.len() - 1) as f64 * part).round() as usize]))
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn round3(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
