//! What a query asks for, and BM25 over chunks that are read one by one.

use crate::analyse::{Analyser, terms, words};
use std::collections::HashMap;
use std::time::Instant;

/// The usual constants, those of FTS5, of Lucene and of the keyword index.
const K1: f64 = 1.2;
const B: f64 = 0.75;
/// Distinct terms, phrases and prefixes of one query that count; a pasted book does not take a search down.
const WANTED_MAX: usize = 256;
/// Words that one prefix stands for, the most frequent first.
pub(crate) const EXPANSIONS_MAX: usize = 64;

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Query {
    /// Words of which any may match; `"a phrase"` must be there as it stands; `pre*` is any word that begins so.
    pub text: String,
    pub limit: usize,
    /// The best hit has 1; those below are left out.
    pub min_score: f64,
    /// What is not read by then is not in the answer, which says so.
    pub deadline: Option<Instant>,
    pub filter: Filter,
    /// Age counts against dated notes, if asked for.
    pub recency: Option<crate::Recency>,
    /// Variety, if asked for: 1 is relevance alone, 0 variety alone.
    pub mmr: Option<f64>,
}

/// Which documents may be found; the default is all of the agent's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these; empty is any.
    pub kinds: Vec<String>,
    /// Paths that begin so.
    pub under: Option<String>,
    /// Written then or later, then or earlier, milliseconds since 1970; a document without a time is neither.
    pub since: Option<i64>,
    pub until: Option<i64>,
}

impl Query {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            limit: 10,
            min_score: 0.0,
            deadline: None,
            filter: Filter::default(),
            recency: None,
            mmr: None,
        }
    }
}

/// One chunk that matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub path: String,
    /// From 1, both included.
    pub start_line: usize,
    pub end_line: usize,
    pub text: String,
    /// In parts of the best hit's: (0, 1].
    pub score: f64,
    pub kind: String,
    /// When the document was written, milliseconds since 1970, if known.
    pub at: Option<i64>,
    pub explain: Explain,
}

/// Where a hit's score comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Explain {
    /// BM25, if the words found it.
    pub keyword: Option<f64>,
    /// The cosine, if it is among the nearest by meaning.
    pub vector: Option<f64>,
    /// Both, each in parts of its list's best.
    pub fused: f64,
    /// What its age made of that.
    pub recency: f64,
}

/// Which lists an answer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Keyword,
    Hybrid,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Best first; ties in the order they were written.
    pub hits: Vec<Hit>,
    /// The deadline passed before all chunks were read.
    pub partial: bool,
    /// What could not be used: an index (the answer is whole, but all had to be read) or the embedder (by words alone).
    pub degraded: Option<String>,
    pub mode: Mode,
}

impl Found {
    pub(crate) fn degrade(&mut self, why: &str) {
        match &mut self.degraded {
            Some(before) => {
                before.push_str("; ");
                before.push_str(why);
            }
            none => *none = Some(why.to_owned()),
        }
    }
}

/// Where a term is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Leg {
    /// Stems and whole identifiers.
    Terms,
    /// Words as they stand.
    Words,
}

/// A query taken apart.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// Any may match; how often the query says each, since FTS5 and Lucene count repeats.
    pub(crate) terms: Vec<(String, u32)>,
    /// All must match; one word or more each.
    pub(crate) phrases: Vec<Vec<String>>,
    pub(crate) prefixes: Vec<String>,
}

impl Parsed {
    pub(crate) fn new(text: &str) -> Self {
        let mut parsed = Self::default();
        let quotes = text.matches('"').count();
        for (at, part) in text.split('"').enumerate() {
            // A quote that is never closed is no phrase.
            let quoted = at % 2 == 1 && at < quotes;
            if quoted {
                let phrase = words(part);
                if !phrase.is_empty() {
                    parsed.phrases.push(phrase);
                }
                continue;
            }
            part.split_whitespace().for_each(|word| parsed.word(word));
        }
        parsed.terms.truncate(WANTED_MAX);
        parsed.phrases.truncate(WANTED_MAX);
        parsed.prefixes.truncate(WANTED_MAX / EXPANSIONS_MAX);
        parsed
    }

    fn word(&mut self, word: &str) {
        if let Some(start) = word.strip_suffix('*') {
            let mut all = words(start);
            if let Some(prefix) = all.pop().filter(|last| last.chars().count() > 1) {
                self.prefixes.push(prefix);
                all.iter()
                    .flat_map(|word| terms(word))
                    .for_each(|term| self.term(term));
                return;
            }
        }
        terms(word).into_iter().for_each(|term| self.term(term));
    }

    fn term(&mut self, term: String) {
        match self.terms.iter_mut().find(|(known, _)| *known == term) {
            Some((_, repeats)) => *repeats += 1,
            None => self.terms.push((term, 1)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.terms.is_empty() && self.phrases.is_empty() && self.prefixes.is_empty()
    }

    const fn needs_words(&self) -> bool {
        !self.phrases.is_empty() || !self.prefixes.is_empty()
    }
}

/// What an index knows of its chunks: document frequencies of the query's terms among it.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    pub(crate) chunks: u64,
    pub(crate) terms: u64,
    pub(crate) words: u64,
    pub(crate) frequencies: HashMap<(Leg, String), u64>,
    /// Words of the index that the query's prefixes stand for.
    pub(crate) expansions: Vec<String>,
}

/// Scores the chunks it is shown as if they were in the index whose statistics it was given.
pub(crate) struct Scorer<'a> {
    parsed: &'a Parsed,
    statistics: Statistics,
    slots: Slots,
    /// How many of the shown chunks have the slot's term.
    shown_by: Vec<u64>,
    matches: Vec<Match>,
    analyser: Analyser,
}

/// The query's words, each with its place among the counts and its weight.
#[derive(Default)]
struct Slots {
    terms: HashMap<String, (usize, f64)>,
    words: HashMap<String, (usize, f64)>,
}

impl Slots {
    const fn of(&mut self, leg: Leg) -> &mut HashMap<String, (usize, f64)> {
        match leg {
            Leg::Terms => &mut self.terms,
            Leg::Words => &mut self.words,
        }
    }

    fn each(&self) -> impl Iterator<Item = (Leg, &String, usize, f64)> {
        let terms = self.terms.iter().map(|all| (Leg::Terms, all));
        let words = self.words.iter().map(|all| (Leg::Words, all));
        terms
            .chain(words)
            .map(|(leg, (text, &(slot, weight)))| (leg, text, slot, weight))
    }
}

struct Match {
    id: i64,
    terms: usize,
    words: usize,
    counts: Vec<(usize, u32)>,
    phrases: Vec<u32>,
}

impl<'a> Scorer<'a> {
    pub(crate) fn new(parsed: &'a Parsed, statistics: Statistics) -> Self {
        let mut scorer = Self {
            parsed,
            slots: Slots::default(),
            shown_by: Vec::new(),
            matches: Vec::new(),
            analyser: Analyser::new(),
            statistics,
        };
        for (term, repeats) in &parsed.terms {
            scorer.slot(Leg::Terms, term, f64::from(*repeats));
        }
        for word in scorer.statistics.expansions.clone() {
            scorer.slot(Leg::Words, &word, 1.0);
        }
        // Words of phrases are counted for their weight; only the phrase scores.
        for word in parsed.phrases.iter().flatten() {
            let scores = parsed
                .prefixes
                .iter()
                .any(|prefix| word.starts_with(prefix));
            scorer.slot(Leg::Words, word, f64::from(u8::from(scores)));
        }
        scorer
    }

    fn slot(&mut self, leg: Leg, text: &str, weight: f64) {
        let next = self.shown_by.len();
        let slots = self.slots.of(leg);
        if !slots.contains_key(text) {
            slots.insert(text.to_owned(), (next, weight));
            self.shown_by.push(0);
        }
    }

    pub(crate) fn see(&mut self, id: i64, text: &str) {
        self.analyser.see(text);
        let wanted = self.parsed;
        let (all, plain) = (&self.analyser.terms, &self.analyser.words);
        let words: Vec<&str> = if wanted.needs_words() {
            plain.each().collect()
        } else {
            Vec::new()
        };
        self.statistics.chunks += 1;
        self.statistics.terms += all.count as u64;
        self.statistics.words += words.len() as u64;
        let phrases: Vec<u32> = wanted
            .phrases
            .iter()
            .map(|phrase| {
                words
                    .windows(phrase.len())
                    .filter(|run| run == phrase)
                    .count() as u32
            })
            .collect();
        let sizes = (all.count, words.len());
        let mut counts: HashMap<usize, u32> = HashMap::new();
        for term in all.each() {
            if let Some(&(slot, _)) = self.slots.terms.get(term) {
                *counts.entry(slot).or_default() += 1;
            }
        }
        for word in words {
            let next = self.shown_by.len();
            let slot = match self.slots.words.get(word) {
                Some(&(slot, _)) => slot,
                // A word the index does not have yet, bounded as those it has.
                None if next < WANTED_MAX + EXPANSIONS_MAX
                    && wanted
                        .prefixes
                        .iter()
                        .any(|prefix| word.starts_with(prefix)) =>
                {
                    self.slots.words.insert(word.to_owned(), (next, 1.0));
                    self.shown_by.push(0);
                    next
                }
                None => continue,
            };
            *counts.entry(slot).or_default() += 1;
        }
        for &slot in counts.keys() {
            self.shown_by[slot] += 1;
        }
        let required = phrases.iter().all(|&count| count > 0);
        if required && (!counts.is_empty() || !phrases.is_empty()) {
            let mut counts: Vec<_> = counts.into_iter().collect();
            counts.sort_unstable();
            self.matches.push(Match {
                id,
                terms: sizes.0,
                words: sizes.1,
                counts,
                phrases,
            });
        }
    }

    /// What index and shown chunks are together.
    pub(crate) fn statistics(&self) -> Statistics {
        let mut frequencies = self.statistics.frequencies.clone();
        for (leg, text, slot, _) in self.slots.each() {
            *frequencies.entry((leg, text.clone())).or_default() += self.shown_by[slot];
        }
        Statistics {
            chunks: self.statistics.chunks,
            terms: self.statistics.terms,
            words: self.statistics.words,
            frequencies,
            expansions: self.statistics.expansions.clone(),
        }
    }

    /// Ids of the shown chunks that match, with their scores, in no order.
    pub(crate) fn scored(self) -> Vec<(i64, f64)> {
        let all = self.statistics();
        let chunks = all.chunks as f64;
        let idf = |leg, term: &str| {
            let known = all
                .frequencies
                .get(&(leg, term.to_owned()))
                .copied()
                .unwrap_or(0) as f64;
            (1.0 + (chunks - known + 0.5).max(0.0) / (known + 0.5)).ln()
        };
        let mean = |total: u64| (total as f64 / chunks.max(1.0)).max(1.0);
        let means = (mean(all.terms), mean(all.words));
        let mut weights = vec![(Leg::Terms, 0.0); self.shown_by.len()];
        for (leg, term, slot, repeats) in self.slots.each() {
            weights[slot] = (leg, repeats * idf(leg, term));
        }
        let phrase_weights: Vec<f64> = self
            .parsed
            .phrases
            .iter()
            .map(|phrase| phrase.iter().map(|word| idf(Leg::Words, word)).sum())
            .collect();
        let saturate = |count: u32, length: usize, mean: f64| {
            let count = f64::from(count);
            count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length as f64 / mean))
        };
        self.matches
            .into_iter()
            .map(|found| {
                let words: f64 = found
                    .counts
                    .iter()
                    .map(|&(slot, count)| match weights[slot] {
                        (Leg::Terms, weight) => weight * saturate(count, found.terms, means.0),
                        (Leg::Words, weight) => weight * saturate(count, found.words, means.1),
                    })
                    .sum();
                let phrases: f64 = found
                    .phrases
                    .iter()
                    .zip(&phrase_weights)
                    .map(|(&count, weight)| weight * saturate(count, found.words, means.1))
                    .sum();
                (found.id, words + phrases)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_words_phrases_and_prefixes() {
        let parsed = Parsed::new("retry retry \"the quick fox\" snake_ca* \"open");
        assert_eq!(
            parsed.terms,
            [
                ("retri".to_owned(), 2),
                ("snake".to_owned(), 1),
                ("open".to_owned(), 1)
            ]
        );
        assert_eq!(parsed.phrases, [["the", "quick", "fox"]]);
        assert_eq!(parsed.prefixes, ["ca"]);
        assert!(Parsed::new("\"\" * ?").is_empty());
        assert_eq!(
            Parsed::new(&"word ".repeat(10_000)).terms,
            [("word".to_owned(), 10_000)]
        );
    }
}
