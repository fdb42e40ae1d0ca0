//! Chunks ranked for a query: BM25 over the terms, any of which may match.

use crate::analyse::terms;
use std::collections::HashMap;
use std::time::Instant;

/// The usual constants, those of FTS5 and of Lucene.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Query {
    pub text: String,
    pub limit: usize,
    /// The best hit has 1; those below are left out.
    pub min_score: f64,
    /// What is not read by then is not in the answer, which says so.
    pub deadline: Option<Instant>,
}

impl Query {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            limit: 10,
            min_score: 0.0,
            deadline: None,
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
}

#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Best first; ties in the order of path and line.
    pub hits: Vec<Hit>,
    /// The deadline passed before all chunks were read.
    pub partial: bool,
}

/// Collects what a scan shows it; knows document frequencies only at the end.
pub(crate) struct Scorer {
    /// Query terms and how often the query says each.
    wanted: HashMap<String, (usize, f64)>,
    chunks: usize,
    terms_total: usize,
    matched_by: Vec<usize>,
    matches: Vec<Match>,
}

struct Match {
    id: i64,
    terms: usize,
    counts: Vec<u32>,
}

impl Scorer {
    pub(crate) fn new(query: &str) -> Self {
        let mut wanted: HashMap<String, (usize, f64)> = HashMap::new();
        for term in terms(query) {
            let next = wanted.len();
            wanted.entry(term).or_insert((next, 0.0)).1 += 1.0;
        }
        Self {
            chunks: 0,
            terms_total: 0,
            matched_by: vec![0; wanted.len()],
            matches: Vec::new(),
            wanted,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    pub(crate) fn see(&mut self, id: i64, text: &str) {
        let all = terms(text);
        let mut counts = vec![0; self.wanted.len()];
        for term in &all {
            if let Some(&(slot, _)) = self.wanted.get(term) {
                counts[slot] += 1;
            }
        }
        self.chunks += 1;
        self.terms_total += all.len();
        if counts.iter().all(|&count| count == 0) {
            return;
        }
        for (matched, &count) in self.matched_by.iter_mut().zip(&counts) {
            *matched += usize::from(count > 0);
        }
        self.matches.push(Match {
            id,
            terms: all.len(),
            counts,
        });
    }

    /// Chunk ids with their scores, best first, the earliest id first among equals.
    pub(crate) fn ranked(self) -> Vec<(i64, f64)> {
        let chunks = self.chunks as f64;
        let mean = (self.terms_total as f64 / chunks.max(1.0)).max(1.0);
        let mut weights = vec![0.0; self.wanted.len()];
        for &(slot, repeats) in self.wanted.values() {
            let matched = self.matched_by[slot] as f64;
            weights[slot] = repeats * (1.0 + (chunks - matched + 0.5) / (matched + 0.5)).ln();
        }
        let mut ranked: Vec<(i64, f64)> = self
            .matches
            .into_iter()
            .map(|found| {
                let long = K1 * (1.0 - B + B * found.terms as f64 / mean);
                let score = found.counts.iter().zip(&weights).map(|(&count, weight)| {
                    let count = f64::from(count);
                    weight * count * (K1 + 1.0) / (count + long)
                });
                (found.id, score.sum())
            })
            .collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked
    }
}
