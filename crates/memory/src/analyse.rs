//! Text to terms: words folded and stemmed, the parts of identifiers and paths beside the whole, CJK by character pairs.

use rust_stemmers::{Algorithm, Stemmer};
use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// Longest term, bytes: hashes and long paths stay whole, garbage does not.
const TERM_BYTES_MAX: usize = 256;
/// Between the terms of a [`Joined`]: no term has it, since text is cut at control characters.
pub(crate) const BETWEEN: char = '\0';
/// Places for words whose stems are remembered, 48 bytes each.
const STEMS: usize = 1 << 14;
const STEMMED_BYTES_MAX: usize = 23;
/// Words after which it is worth remembering.
const MANY: usize = 500;

/// The terms of a text, in order, repeats kept: BM25 counts them. Words are stemmed as English, whole identifiers not.
#[must_use]
pub fn terms(text: &str) -> Vec<String> {
    let mut analyser = Analyser::new();
    analyser.see(text);
    analyser.terms.each().map(str::to_owned).collect()
}

/// The words as they stand, folded but not stemmed, in order: what phrases and prefixes are looked up in.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    let mut words = Joined::default();
    tokens(text).for_each(|word| runs(word, &mut |term| words.push(term)));
    words.each().map(str::to_owned).collect()
}

/// Terms one after the other in one string, so that a chunk of a hundred words is no hundred allocations.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    text: String,
    pub(crate) count: usize,
}

impl Joined {
    fn clear(&mut self) {
        self.text.clear();
        self.count = 0;
    }

    fn push(&mut self, term: &str) {
        if self.count > 0 {
            self.text.push(BETWEEN);
        }
        self.text.push_str(term);
        self.count += 1;
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = &str> {
        self.text.split(BETWEEN).take(self.count)
    }
}

/// Takes many texts apart, each once for both fields, and remembers the stems of words it has seen: stemming is most of
/// the work otherwise.
pub(crate) struct Analyser {
    stems: Stems,
    pub(crate) terms: Joined,
    pub(crate) words: Joined,
}

impl Analyser {
    pub(crate) fn new() -> Self {
        Self {
            stems: Stems::new(),
            terms: Joined::default(),
            words: Joined::default(),
        }
    }

    /// `terms` and `words` are this text's afterwards.
    pub(crate) fn see(&mut self, text: &str) {
        let Self {
            stems,
            terms,
            words,
        } = self;
        terms.clear();
        words.clear();
        for word in tokens(text) {
            whole(word, &mut |term| terms.push(term));
            runs(word, &mut |term| {
                words.push(term);
                match term.is_ascii() {
                    true => stems.stem(term, |stem| terms.push(stem)),
                    false => terms.push(term),
                }
            });
        }
    }
}

/// Stems by their words: each word has one place, from which the next that has it too pushes it out. So it is bounded,
/// nothing is allocated, and no text can make it slow.
struct Stems {
    stemmer: Stemmer,
    /// None until many words were seen: a question of five is not worth a megabyte.
    places: Vec<Place>,
    seen: usize,
}

#[derive(Clone, Copy)]
struct Place {
    word_bytes: u8,
    stem_bytes: u8,
    word: [u8; STEMMED_BYTES_MAX],
    stem: [u8; STEMMED_BYTES_MAX],
}

impl Place {
    const EMPTY: Self = Self {
        word_bytes: 0,
        stem_bytes: 0,
        word: [0; STEMMED_BYTES_MAX],
        stem: [0; STEMMED_BYTES_MAX],
    };
}

impl Stems {
    fn new() -> Self {
        Self {
            stemmer: Stemmer::create(Algorithm::English),
            places: Vec::new(),
            seen: 0,
        }
    }

    fn stem(&mut self, word: &str, out: impl FnOnce(&str)) {
        if self.places.is_empty() && self.seen >= MANY {
            self.places = vec![Place::EMPTY; STEMS];
        }
        if word.len() > STEMMED_BYTES_MAX || self.places.is_empty() {
            self.seen += 1;
            return out(&self.stemmer.stem(word));
        }
        let hash = word.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| {
            (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        let place = &mut self.places[(hash >> 32) as usize % STEMS];
        let known = &place.word[..usize::from(place.word_bytes)];
        if known == word.as_bytes()
            && let Ok(stem) = std::str::from_utf8(&place.stem[..usize::from(place.stem_bytes)])
        {
            return out(stem);
        }
        let stem = self.stemmer.stem(word);
        if stem.len() <= STEMMED_BYTES_MAX {
            place.word_bytes = word.len() as u8;
            place.stem_bytes = stem.len() as u8;
            place.word[..word.len()].copy_from_slice(word.as_bytes());
            place.stem[..stem.len()].copy_from_slice(stem.as_bytes());
        }
        out(&stem);
    }
}

/// Runs without spaces and control characters, less what is around their first and last letter or digit.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let bytes = rest.as_bytes();
        let mut at = 0;
        let next = loop {
            match bytes.get(at) {
                None => break at,
                Some(&b) if b.is_ascii() => {
                    at += 1;
                    if b <= b' ' || b == 0x7f {
                        break at;
                    }
                }
                Some(_) => {
                    let c = rest[at..].chars().next().unwrap_or(' ');
                    at += c.len_utf8();
                    if c.is_whitespace() || c.is_control() {
                        break at;
                    }
                }
            }
        };
        let (word, after) = rest.split_at(next);
        rest = after;
        Some(word.trim_matches(|c: char| !c.is_alphanumeric()))
    })
}

fn runs(word: &str, out: &mut impl FnMut(&str)) {
    if word.is_ascii() {
        return ascii_runs(word, out);
    }
    for run in word.split(|c: char| !c.is_alphanumeric() && !is_combining_mark(c)) {
        parts(run, out);
    }
}

/// The same for the most frequent case, byte by byte.
fn ascii_runs(word: &str, out: &mut impl FnMut(&str)) {
    let bytes = word.as_bytes();
    let mut start = 0;
    for at in 0..=bytes.len() {
        let here = bytes.get(at).copied().unwrap_or(b' ');
        let ends = !here.is_ascii_alphanumeric();
        let hump = at > start && here.is_ascii_uppercase() && bytes[at - 1].is_ascii_lowercase();
        if ends || hump {
            push(&word[start..at], out);
            start = if ends { at + 1 } else { at };
        }
    }
}

/// An identifier or path as one term, when it is more than its one part.
fn whole(word: &str, out: &mut impl FnMut(&str)) {
    let joined = word
        .bytes()
        .any(|c| matches!(c, b'_' | b'/' | b'.' | b'-' | b':' | b'#' | b'@' | b'\\'));
    let cased = !joined && humps(word).nth(1).is_some();
    if joined || (cased && !word.chars().any(is_cjk)) {
        push(word, out);
    }
}

fn parts(run: &str, out: &mut impl FnMut(&str)) {
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

fn pairs(run: &str, out: &mut impl FnMut(&str)) {
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

fn push(term: &str, out: &mut impl FnMut(&str)) {
    if term.is_empty() || term.len() > TERM_BYTES_MAX {
        return;
    }
    if let Some(folded) = folded(term) {
        out(&folded);
    }
}

fn folded(term: &str) -> Option<Cow<'_, str>> {
    if term.is_ascii() {
        let lower = !term.bytes().any(|b| b.is_ascii_uppercase());
        return Some(match lower {
            true => Cow::Borrowed(term),
            false => Cow::Owned(term.to_ascii_lowercase()),
        });
    }
    // Accents go, compatibility forms become plain ones: "Café" and "cafe" are one word, "ﬁ" is "fi".
    let folded: String = term
        .nfkd()
        .filter(|&c| !is_combining_mark(c))
        .flat_map(char::to_lowercase)
        .nfc()
        .collect();
    (!folded.is_empty() && folded.len() <= TERM_BYTES_MAX).then_some(Cow::Owned(folded))
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
                prop_assert!(!term.is_empty() && term.len() <= TERM_BYTES_MAX && !term.contains(BETWEEN));
            }
        }

        #[test]
        fn tokens_are_what_is_between_spaces(text in any::<String>()) {
            let plain: Vec<&str> = text
                .split(|c: char| c.is_whitespace() || c.is_control())
                .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
                .filter(|word| !word.is_empty())
                .collect();
            prop_assert_eq!(tokens(&text).filter(|word| !word.is_empty()).collect::<Vec<_>>(), plain);
        }

        #[test]
        fn ascii_words_are_cut_as_others_are(word in "[ -~]{0,24}") {
            let (mut fast, mut slow) = (Vec::new(), Vec::new());
            ascii_runs(&word, &mut |term| fast.push(term.to_owned()));
            for run in word.split(|c: char| !c.is_alphanumeric()) {
                parts(run, &mut |term| slow.push(term.to_owned()));
            }
            prop_assert_eq!(fast, slow);
        }

        #[test]
        fn remembered_stems_change_nothing(texts in proptest::collection::vec("[a-eA-E_ .]{0,40}", 1..200)) {
            let mut analyser = Analyser::new();
            for text in &texts {
                analyser.see(text);
                prop_assert_eq!(analyser.terms.each().collect::<Vec<_>>(), terms(text));
                prop_assert_eq!(analyser.words.each().collect::<Vec<_>>(), words(text));
            }
        }
    }
}
