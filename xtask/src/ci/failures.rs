//! Which tests failed and with which words, for the closing lines: often they are all that one sees of a run.

/// Named per suite; the rest is a number, and all of it is in the log.
const NAMED_MAX: usize = 8;
const LINE_MAX: usize = 500;

/// A line per failed test of a `node --test` (spec) or `cargo test` log, shortened.
pub(super) fn failed_tests(log: &str) -> Vec<String> {
    let mut all = match log.split_once("✖ failing tests:") {
        Some((_, summed_up)) => node(summed_up),
        None => cargo(log),
    };
    let more = all.len().saturating_sub(NAMED_MAX);
    all.truncate(NAMED_MAX);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all
}

/// Blocks of "test at FILE:LINE:COLUMN", "✖ NAME (SECONDS)" and the error, indented.
fn node(summed_up: &str) -> Vec<String> {
    summed_up
        .split("\ntest at ")
        .skip(1)
        .filter_map(|block| {
            let mut lines = block.lines();
            let at = lines.next()?;
            let name = lines.next()?.trim_start_matches("✖ ");
            let words = lines
                .take_while(|line| line.starts_with(' ') || line.is_empty())
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with("at "))
                .filter(|line| *line != "+ actual - expected");
            Some(short(
                &format!("{at} {name}"),
                telling(words.collect()).into_iter(),
            ))
        })
        .collect()
}

/// Of a long comparison, what differs: the rest of a screen or a table would hide it.
fn telling(words: Vec<&str>) -> Vec<&str> {
    let differs = |line: &&str| line.starts_with("+ ") || line.starts_with("- ");
    if !words.iter().any(differs) {
        return words;
    }
    let head = words.first().copied().filter(|line| !differs(line));
    head.into_iter()
        .chain(words.iter().copied().filter(differs))
        .collect()
}

/// Blocks of "---- NAME stdout ----" and what the test said.
fn cargo(log: &str) -> Vec<String> {
    log.split("\n---- ")
        .skip(1)
        .filter_map(|block| {
            let (name, said) = block.split_once(" stdout ----")?;
            let words = said
                .lines()
                .map(str::trim)
                .take_while(|line| !line.starts_with("note: "))
                .filter(|line| !line.is_empty());
            Some(short(name, words))
        })
        .collect()
}

fn short<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> String {
    let text = format!("{name}: {}", words.collect::<Vec<_>>().join(" "));
    text.chars().take(LINE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_node_the_place_the_name_and_the_error() {
        let log = "✔ fine (1ms)\nℹ fail 2\n\n✖ failing tests:\n\ntest at tests/a.test.mjs:2:87\n✖ one (6.9ms)\n  \
                   AssertionError [ERR_ASSERTION]: not equal:\n  + actual - expected\n  \n    {\n  +   a: 1\n  -   a: 2\n    \
                   }\n      at Test.run (node:internal)\n\ntest at tests/b.test.mjs:9:1\n✖ two (1ms)\n  Error: timed out\n      at x\n";
        assert_eq!(
            failed_tests(log),
            [
                "tests/a.test.mjs:2:87 one (6.9ms): AssertionError [ERR_ASSERTION]: not equal: +   a: 1 -   a: 2",
                "tests/b.test.mjs:9:1 two (1ms): Error: timed out",
            ]
        );
    }

    #[test]
    fn of_cargo_the_name_and_the_panic() {
        let log = "failures:\n\n---- a::b stdout ----\n\nthread 'a::b' panicked at src/x.rs:3:5:\nno such thing\nnote: run with \
                   `RUST_BACKTRACE=1`\n\n\nfailures:\n    a::b\n";
        assert_eq!(
            failed_tests(log),
            ["a::b: thread 'a::b' panicked at src/x.rs:3:5: no such thing"]
        );
        assert_eq!(
            failed_tests("test result: ok. 3 passed"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn many_are_counted_and_long_ones_cut() {
        let log: String = (0..20)
            .map(|n| format!("\n---- t{n} stdout ----\n{}\n", "x".repeat(900)))
            .collect();
        let named = failed_tests(&log);
        assert_eq!(named.len(), NAMED_MAX + 1);
        assert_eq!(named[0].chars().count(), LINE_MAX);
        assert_eq!(named[NAMED_MAX], "and 12 more");
    }
}
