//! Two ranked lists to one, and what moves a hit after that: its age, and what was shown before it.

use std::collections::{HashMap, HashSet};

use crate::{Hit, words};

/// Days after which a dated note counts half, as the original has it.
pub const HALF_LIFE_DAYS: f64 = 30.0;
/// How much relevance counts against variety, as the original has it.
pub const MMR_LAMBDA: f64 = 0.7;
const DAY_MS: f64 = 86_400_000.0;

/// Notes lose weight with age: those whose file name begins with a date, and what is a conversation. All else stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recency {
    /// Milliseconds since 1970.
    pub now: i64,
    pub half_life_days: f64,
}

impl Recency {
    pub(crate) fn weight(&self, path: &str, kind: &str, at: Option<i64>) -> f64 {
        let written = date_of(path).or(if kind == "sessions" { at } else { None });
        let Some(written) = written else {
            return 1.0;
        };
        let days = (self.now.saturating_sub(written) as f64 / DAY_MS).max(0.0);
        0.5_f64.powf(days / self.half_life_days.max(f64::MIN_POSITIVE))
    }
}

/// Midnight UTC of `YYYY-MM-DD.md` and `YYYY-MM-DD-slug.md`.
fn date_of(path: &str) -> Option<i64> {
    let name = path.rsplit(['/', '\\']).next()?;
    let stem = name.strip_suffix(".md")?;
    let (date, rest) = stem.split_at_checked(10)?;
    if !(rest.is_empty() || rest.starts_with('-')) {
        return None;
    }
    midnight(date)
}

/// The beginning of a day, `YYYY-MM-DD`, UTC, in milliseconds since 1970.
#[must_use]
pub fn midnight(date: &str) -> Option<i64> {
    let mut parts = date.splitn(3, '-');
    let mut next = |digits: usize| -> Option<i64> {
        let part = parts.next()?;
        (part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))
            .then(|| part.parse().ok())?
    };
    let (year, month, day) = (next(4)?, next(2)?, next(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days of the civil calendar since 1970, years beginning in March.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400_000)
}

/// A chunk that one leg or both have found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) chunk: i64,
    pub(crate) keyword: Option<f64>,
    pub(crate) vector: Option<f64>,
    pub(crate) score: f64,
}

/// Each list in parts of its best, then the mean of both; best first. One list alone stays as it is.
pub(crate) fn fused(words: Vec<(i64, f64)>, near: &[(i64, f64)]) -> Vec<Candidate> {
    let best = |list: &[(i64, f64)]| {
        list.iter()
            .fold(f64::MIN_POSITIVE, |best, &(_, score)| best.max(score))
    };
    let (best_words, best_near) = (best(&words), best(near));
    let weight = if near.is_empty() || words.is_empty() {
        1.0
    } else {
        0.5
    };
    let mut out: Vec<Candidate> = words
        .into_iter()
        .map(|(chunk, score)| Candidate {
            chunk,
            keyword: Some(score),
            vector: None,
            score: weight * score / best_words,
        })
        .collect();
    let known: HashMap<i64, usize> = out
        .iter()
        .enumerate()
        .map(|(at, one)| (one.chunk, at))
        .collect();
    for &(chunk, score) in near {
        let part = weight * score.max(0.0) / best_near;
        match known.get(&chunk) {
            Some(&at) => {
                out[at].vector = Some(score);
                out[at].score += part;
            }
            None if score > 0.0 => out.push(Candidate {
                chunk,
                keyword: None,
                vector: Some(score),
                score: part,
            }),
            None => {}
        }
    }
    out.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk.cmp(&b.chunk)));
    out
}

/// Maximal marginal relevance: each place goes to the hit that is best of what remains, less what it has in common with
/// those above it (Jaccard over its words). Scores stay.
pub(crate) fn varied(hits: Vec<Hit>, lambda: f64, limit: usize) -> Vec<Hit> {
    let sets: Vec<HashSet<String>> = hits
        .iter()
        .map(|hit| words(&hit.text).into_iter().collect())
        .collect();
    let mut rest: Vec<(usize, Hit, f64)> = hits
        .into_iter()
        .enumerate()
        .map(|(at, hit)| (at, hit, 0.0))
        .collect();
    let mut out = Vec::new();
    while out.len() < limit && !rest.is_empty() {
        let value =
            |(_, hit, common): &(usize, Hit, f64)| lambda * hit.score - (1.0 - lambda) * common;
        let mut best = 0;
        for at in 1..rest.len() {
            if value(&rest[at]) > value(&rest[best]) {
                best = at;
            }
        }
        let (chosen, hit, _) = rest.remove(best);
        for (at, _, common) in &mut rest {
            *common = common.max(jaccard(&sets[chosen], &sets[*at]));
        }
        out.push(hit);
    }
    out
}

fn jaccard(a: &HashSet<String>, b: &HashSet<String>) -> f64 {
    let both = a.intersection(b).count();
    both as f64 / (a.len() + b.len() - both).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_counts_in_parts_of_its_best_and_both_alike() {
        let list = |all: Vec<Candidate>| -> Vec<(i64, f64)> {
            all.into_iter()
                .map(|one| (one.chunk, (one.score * 1e6).round() / 1e6))
                .collect()
        };
        let words = || vec![(1, 12.0), (2, 9.0), (3, 3.0)];
        assert_eq!(
            list(fused(words(), &[(2, 0.8), (4, 0.6), (5, -0.2)])),
            [(2, 0.875), (1, 0.5), (4, 0.375), (3, 0.125)]
        );
        assert_eq!(list(fused(words(), &[])), [(1, 1.0), (2, 0.75), (3, 0.25)]);
        assert_eq!(
            list(fused(vec![], &[(7, 0.5), (8, 0.25)])),
            [(7, 1.0), (8, 0.5)]
        );
    }

    #[test]
    fn dated_notes_and_conversations_halve_in_thirty_days_and_the_rest_never() {
        // 2026-03-31T00:00:00Z
        let recency = Recency {
            now: 1_774_915_200_000,
            half_life_days: HALF_LIFE_DAYS,
        };
        let check = |path: &str, kind: &str, at: Option<i64>, expected: f64| {
            let weight = recency.weight(path, kind, at);
            assert!((weight - expected).abs() < 1e-9, "{path}: {weight}");
        };
        check("memory/2026-03-31.md", "memory", None, 1.0);
        check("memory/a/2026-03-01-standup.md", "memory", None, 0.5);
        check("memory/2026-01-30.md", "memory", None, 0.25);
        check("memory/2030-01-30.md", "memory", None, 1.0);
        let month_ago = recency.now - 30 * 86_400_000;
        check("sessions/x.jsonl", "sessions", Some(month_ago), 0.5);
        for evergreen in [
            "MEMORY.md",
            "memory/2026-13-01.md",
            "memory/2026-03-01x.md",
            "memory/notes.md",
            "é-2026.md",
        ] {
            check(evergreen, "memory", Some(month_ago), 1.0);
        }
        assert_eq!(date_of("1970-01-01.md"), Some(0));
        assert_eq!(date_of("2024-02-29.md"), Some(1_709_164_800_000));
    }

    #[test]
    fn a_repetition_goes_below_what_says_something_else() {
        let hit = |text: &str, score: f64| Hit {
            path: String::new(),
            start_line: 1,
            end_line: 1,
            text: text.to_owned(),
            score,
            kind: String::new(),
            at: None,
            explain: crate::Explain::default(),
        };
        let all = || {
            vec![
                hit("the router has a new address", 1.0),
                hit("the router has a new address today", 0.95),
                hit("ada keeps the spare key", 0.8),
            ]
        };
        let texts = |lambda, limit| -> Vec<f64> {
            varied(all(), lambda, limit)
                .into_iter()
                .map(|hit| hit.score)
                .collect()
        };
        assert_eq!(texts(MMR_LAMBDA, 10), [1.0, 0.8, 0.95]);
        assert_eq!(texts(1.0, 2), [1.0, 0.95]);
    }
}
