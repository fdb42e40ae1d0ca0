//! Text to terms: words in lower case, the parts of identifiers and paths beside the whole, CJK by character pairs.

/// Longest term, bytes: hashes and long paths stay whole, garbage does not.
const TERM_BYTES_MAX: usize = 256;

/// The terms of a text, in order, repeats kept: BM25 counts them.
#[must_use]
pub fn terms(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        let word = word.trim_matches(|c: char| !c.is_alphanumeric());
        whole(word, &mut out);
        for run in word.split(|c: char| !c.is_alphanumeric()) {
            parts(run, &mut out);
        }
    }
    out
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
    if !term.is_empty() && term.len() <= TERM_BYTES_MAX {
        out.push(term.to_lowercase());
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
        check("retry_after", &["retry_after", "retry", "after"]);
        check("queryIndex", &["queryindex", "query", "index"]);
        check("src/main.rs", &["src/main.rs", "src", "main", "rs"]);
        check("東京都 水", &["東京", "京都", "水"]);
        check("Ärger\0OK", &["ärger", "ok"]);
    }

    proptest! {
        #[test]
        fn any_text_gives_bounded_terms(text in any::<String>()) {
            for term in terms(&text) {
                prop_assert!(!term.is_empty() && term.len() <= 2 * TERM_BYTES_MAX);
            }
        }
    }
}
