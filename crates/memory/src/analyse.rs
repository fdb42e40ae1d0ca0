//! Text to terms: words folded and stemmed, the parts of identifiers and paths beside the whole, CJK by character pairs.

use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// Longest term, bytes: hashes and long paths stay whole, garbage does not.
const TERM_BYTES_MAX: usize = 256;

/// The terms of a text, in order, repeats kept: BM25 counts them. Words are stemmed as English, whole identifiers not.
#[must_use]
pub fn terms(text: &str) -> Vec<String> {
    let stemmer = Stemmer::create(Algorithm::English);
    let mut out = Vec::new();
    for word in tokens(text) {
        whole(word, &mut out);
        let stem_from = out.len();
        runs(word, &mut out);
        for term in &mut out[stem_from..] {
            if term.is_ascii()
                && let std::borrow::Cow::Owned(stem) = stemmer.stem(term)
            {
                *term = stem;
            }
        }
    }
    out
}

/// The words as they stand, folded but not stemmed, in order: what phrases and prefixes are looked up in.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    tokens(text).for_each(|word| runs(word, &mut out));
    out
}

fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
}

fn runs(word: &str, out: &mut Vec<String>) {
    for run in word.split(|c: char| !c.is_alphanumeric() && !is_combining_mark(c)) {
        parts(run, out);
    }
}

/// An identifier or path as one term, when it is more than its one part.
fn whole(word: &str, out: &mut Vec<String>) {
    let joined = word
        .chars()
        .any(|c| matches!(c, '_' | '/' | '.' | '-' | ':' | '#' | '@' | '\\'));
    let cased = humps(word).nth(1).is_some();
    if joined || (cased && !word.chars().any(is_cjk)) {
        push(word, out);
    }
}

fn parts(run: &str, out: &mut Vec<String>) {
    for hump in humps(run) {
        let mut rest = hump;
        while let Some(first) = rest.chars().next() {
            let cjk = is_cjk(first);
            let end = rest.find(|c| is_cjk(c) != cjk).unwrap_or(rest.len());
            let (same, after) = rest.split_at(end);
            if cjk {
                pairs(same, out)
            } else {
                push(same, out)
            }
            rest = after;
        }
    }
}

/// `fooBar` is `foo`, `Bar`.
fn humps(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let mut lower = false;
        let end = rest
            .char_indices()
            .find(|&(_, c)| {
                let hump = lower && c.is_uppercase();
                lower = c.is_lowercase();
                hump
            })
            .map_or(rest.len(), |(at, _)| at);
        let (hump, after) = rest.split_at(end);
        rest = after;
        (!hump.is_empty()).then_some(hump)
    })
}

fn pairs(run: &str, out: &mut Vec<String>) {
    let starts: Vec<usize> = run
        .char_indices()
        .map(|(at, _)| at)
        .chain([run.len()])
        .collect();
    match starts.len() {
        2 => push(run, out),
        _ => starts
            .windows(3)
            .for_each(|three| push(&run[three[0]..three[2]], out)),
    }
}

fn push(term: &str, out: &mut Vec<String>) {
    if term.is_empty() || term.len() > TERM_BYTES_MAX {
        return;
    }
    if term.is_ascii() {
        return out.push(term.to_ascii_lowercase());
    }
    // Accents go, compatibility forms become plain ones: "Café" and "cafe" are one word, "ﬁ" is "fi".
    let folded: String = term
        .nfkd()
        .filter(|&c| !is_combining_mark(c))
        .flat_map(char::to_lowercase)
        .nfc()
        .collect();
    if !folded.is_empty() && folded.len() <= TERM_BYTES_MAX {
        out.push(folded);
    }
}

/// Kana, Han and Hangul, which write no spaces or glue particles to words.
fn is_cjk(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(terms(text), expected, "{text}");
    }

    #[test]
    fn words_identifiers_paths_and_cjk() {
        check("Hello, World!", &["hello", "world"]);
        check("retry_after", &["retry_after", "retri", "after"]);
        check("queryIndex", &["queryindex", "queri", "index"]);
        check("running Müllers cafés", &["run", "muller", "cafe"]);
        check("src/main.rs", &["src/main.rs", "src", "main", "rs"]);
        assert_eq!(words("Retries, fooBar"), ["retries", "foo", "bar"]);
        check("東京都 水", &["東京", "京都", "水"]);
        check("Ärger\0OK", &["arger", "ok"]);
    }

    proptest! {
        #[test]
        fn any_text_gives_bounded_terms(text in any::<String>()) {
            for term in terms(&text) {
                prop_assert!(!term.is_empty() && term.len() <= TERM_BYTES_MAX);
            }
        }
    }
}
