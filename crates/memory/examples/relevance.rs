//! How well the words alone find what a person means: nDCG@10, MRR and recall@10 on the judged set of `bench/relevance`, for this
//! engine and for SQLite's FTS5 with the same terms, and with its own. Argument: the folder. Prints one JSON object.
//!
//! FTS5 with the same terms is given a name of its own for each of our terms, so that only the ranking differs: BM25 with the
//! same constants, any term may match. With its own it has `porter unicode61`.
#![expect(clippy::print_stdout, reason = "the result of a measuring program")]

use memory::{Agent, Memory, Query, terms};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::path::Path;

const FIRST: usize = 10;
/// Draws of the questions for the interval of a difference.
const DRAWS: usize = 10_000;

struct Question {
    class: String,
    /// 2 answers it, 1 belongs to it.
    judged: HashMap<String, f64>,
    text: String,
}

#[derive(Clone, Copy, Default)]
struct Score {
    ndcg: f64,
    reciprocal: f64,
    recall: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("give the folder of a judged set")?;
    let folder = Path::new(&folder);
    let documents = documents(&folder.join("documents.tsv"))?;
    let questions = questions(&folder.join("questions.tsv"), &documents)?;
    let dir = tempfile::tempdir()?;
    let agent = Agent::parse("main")?;
    let mut memory = Memory::open(&dir.path().join("memory.sqlite"))?;
    let rows: Vec<(&str, &str)> = documents
        .iter()
        .map(|(id, text)| (id.as_str(), text.as_str()))
        .collect();
    memory.put_all(&agent, &rows)?;
    memory.index(&agent, |_, _| {})?;

    let mut names = Names::default();
    let same = Fts5::new("unicode61", &documents, |text| names.of(&terms(text)))?;
    let own = Fts5::new("porter unicode61", &documents, str::to_owned)?;
    let mut scores: [Vec<Score>; 3] = Default::default();
    for question in &questions {
        let found = memory.search(&agent, &Query::new(&question.text))?.hits;
        let ours: Vec<String> = found.into_iter().map(|hit| hit.path).collect();
        let by_terms = same.search(names.of(&terms(&question.text)).split(' '))?;
        // Each cut by FTS5 itself.
        let by_words = own.search(question.text.split_whitespace())?;
        for (scores, found) in scores.iter_mut().zip([ours, by_terms, by_words]) {
            scores.push(score(&found, &question.judged));
        }
    }
    let [ours, same, own] = &scores;
    let mut classes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, question) in questions.iter().enumerate() {
        classes.entry(&question.class).or_default().push(at);
    }
    let by_class: serde_json::Map<String, serde_json::Value> = classes
        .into_iter()
        .map(|(class, at)| {
            let of = |all: &[Score]| mean(&at.iter().map(|&at| all[at]).collect::<Vec<_>>());
            let row = serde_json::json!({ "questions": at.len(), "ours": of(ours), "fts5SameTerms": of(same), "fts5": of(own) });
            (class.to_owned(), row)
        })
        .collect();
    println!(
        "{}",
        serde_json::json!({
            "documents": documents.len(), "questions": questions.len(), "sqlite": rusqlite::version(),
            "numbers": "[nDCG@10, MRR, recall@10]",
            "all": { "ours": mean(ours), "fts5SameTerms": mean(same), "fts5": mean(own) },
            "ndcgDifference95": { "fts5SameTerms": interval(ours, same), "fts5": interval(ours, own) },
            "byClass": by_class,
        })
    );
    Ok(())
}

fn documents(file: &Path) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let text = std::fs::read_to_string(file)?;
    text.lines()
        .map(|line| {
            let (id, text) = line.split_once('\t').ok_or(format!("no tab in {line:?}"))?;
            Ok((id.to_owned(), text.to_owned()))
        })
        .collect()
}

fn questions(file: &Path, documents: &[(String, String)]) -> Result<Vec<Question>, Box<dyn Error>> {
    let known: HashSet<&str> = documents.iter().map(|(id, _)| id.as_str()).collect();
    let text = std::fs::read_to_string(file)?;
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [class, judged, text] = fields[..] else {
                return Err(format!("{line:?} has not three fields").into());
            };
            let judged = judged
                .split(',')
                .map(|one| {
                    let (id, grade) = one.split_once('=').ok_or(format!("no grade in {one:?}"))?;
                    if !known.contains(id) {
                        return Err(format!("there is no document {id}").into());
                    }
                    Ok((id.to_owned(), grade.parse()?))
                })
                .collect::<Result<_, Box<dyn Error>>>()?;
            Ok(Question {
                class: class.to_owned(),
                judged,
                text: text.to_owned(),
            })
        })
        .collect()
}

/// A word of letters and digits for each term, which no tokeniser cuts.
#[derive(Default)]
struct Names(HashMap<String, usize>);

impl Names {
    fn of(&mut self, terms: &[String]) -> String {
        let named = terms.iter().map(|term| {
            let next = self.0.len();
            format!("t{}", self.0.entry(term.clone()).or_insert(next))
        });
        named.collect::<Vec<_>>().join(" ")
    }
}

struct Fts5(Connection);

impl Fts5 {
    fn new(
        tokenizer: &str,
        documents: &[(String, String)],
        mut text_of: impl FnMut(&str) -> String,
    ) -> rusqlite::Result<Self> {
        let db = Connection::open_in_memory()?;
        db.execute_batch(&format!(
            "CREATE VIRTUAL TABLE fts USING fts5 (id UNINDEXED, text, tokenize = '{tokenizer}')"
        ))?;
        for (id, text) in documents {
            db.execute("INSERT INTO fts VALUES (?1, ?2)", [id, &text_of(text)])?;
        }
        Ok(Self(db))
    }

    fn search<'a>(&self, words: impl Iterator<Item = &'a str>) -> rusqlite::Result<Vec<String>> {
        let all: Vec<String> = words
            .map(|word| word.replace('"', ""))
            .filter(|word| !word.is_empty())
            .map(|word| format!("\"{word}\""))
            .collect();
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let mut select = self.0.prepare_cached(
            "SELECT id FROM fts WHERE fts MATCH ?1 ORDER BY rank, rowid LIMIT ?2",
        )?;
        select
            .query_map((all.join(" OR "), FIRST as i64), |row| row.get(0))?
            .collect()
    }
}

fn score(found: &[String], judged: &HashMap<String, f64>) -> Score {
    let gain = |grade: f64, at: usize| (grade.exp2() - 1.0) / ((at + 2) as f64).log2();
    let grades = found.iter().take(FIRST).map(|id| judged.get(id).copied());
    let mut out = Score::default();
    for (at, grade) in grades.enumerate() {
        let Some(grade) = grade else { continue };
        out.ndcg += gain(grade, at);
        out.recall += 1.0 / judged.len() as f64;
        if out.reciprocal == 0.0 {
            out.reciprocal = 1.0 / (at + 1) as f64;
        }
    }
    let mut best: Vec<f64> = judged.values().copied().collect();
    best.sort_by(|a, b| b.total_cmp(a));
    let most: f64 = best
        .iter()
        .take(FIRST)
        .enumerate()
        .map(|(at, &grade)| gain(grade, at))
        .sum();
    out.ndcg /= most;
    out
}

fn mean(all: &[Score]) -> [f64; 3] {
    let of = |part: fn(&Score) -> f64| {
        let mean = all.iter().map(part).sum::<f64>() / all.len() as f64;
        (mean * 1000.0).round() / 1000.0
    };
    [
        of(|one| one.ndcg),
        of(|one| one.reciprocal),
        of(|one| one.recall),
    ]
}

/// Of the mean difference in nDCG@10, question by question, drawn with a fixed seed.
fn interval(ours: &[Score], other: &[Score]) -> [f64; 2] {
    let each: Vec<f64> = ours
        .iter()
        .zip(other)
        .map(|(a, b)| a.ndcg - b.ndcg)
        .collect();
    let mut state = 20_261_201_u64;
    let mut below = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % each.len()
    };
    let mut means: Vec<f64> = (0..DRAWS)
        .map(|_| (0..each.len()).map(|_| each[below()]).sum::<f64>() / each.len() as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    [0.025, 0.975].map(|part| (means[(DRAWS as f64 * part) as usize] * 1000.0).round() / 1000.0)
}
