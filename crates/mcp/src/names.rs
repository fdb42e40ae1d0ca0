//! Names that every provider of models takes, from what servers and tools are called.
//!
//! Source: agent-bundle-mcp-names.ts at 2026.9.6.

use std::cmp::Ordering;
use std::collections::HashSet;

const SERVER_CHARS_MAX: usize = 30;
const CHARS_MAX: usize = 64;

/// Between the server's name and the tool's.
pub const SEPARATOR: &str = "__";

/// The names of these servers, in the order of the file: who comes first keeps a name that two would have.
pub fn of_servers<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut taken = HashSet::new();
    names
        .map(|name| {
            let whole = fragment(name, "mcp");
            let base = &whole[..whole.len().min(SERVER_CHARS_MAX)];
            free(base, SERVER_CHARS_MAX, &mut taken, str::to_owned)
        })
        .collect()
}

/// The name of a tool; `taken`: those of all tools so far, in lower case.
pub fn of_tool(server: &str, tool: &str, taken: &mut HashSet<String>) -> String {
    let room = CHARS_MAX
        .saturating_sub(server.len() + SEPARATOR.len())
        .max(1);
    let whole = fragment(tool, "tool");
    let base = &whole[..whole.len().min(room)];
    free(base, room, taken, |own| format!("{server}{SEPARATOR}{own}"))
}

/// `base`, or with the first number that makes it free, at most so long.
fn free(
    base: &str,
    chars_max: usize,
    taken: &mut HashSet<String>,
    name: impl Fn(&str) -> String,
) -> String {
    let mut candidate = name(base);
    for number in 2.. {
        if taken.insert(candidate.to_lowercase()) {
            break;
        }
        let suffix = format!("-{number}");
        let room = chars_max.saturating_sub(suffix.len()).max(1);
        candidate = name(&format!("{}{suffix}", &base[..base.len().min(room)]));
    }
    candidate
}

/// Letters, digits, `_` and `-`, a letter first.
fn fragment(raw: &str, fallback: &str) -> String {
    let mut safe = String::new();
    for char in raw.trim().chars() {
        match char.is_ascii_alphanumeric() || matches!(char, '_' | '-') {
            true => safe.push(char),
            // As the original counts them: in units of UTF-16.
            false => (0..char.len_utf16()).for_each(|_| safe.push('-')),
        }
    }
    match safe.chars().next() {
        None => fallback.to_owned(),
        Some(first) if first.is_ascii_alphabetic() => safe,
        Some(_) => format!("{fallback}-{safe}"),
    }
}

/// The order of names as the original's `localeCompare` has it: without regard to case at first, then small before capital.
pub fn compare(left: &str, right: &str) -> Ordering {
    fn rank(char: char) -> (u8, char) {
        match char {
            '_' => (0, char),
            '-' => (1, char),
            _ if char.is_numeric() => (3, char),
            _ if char.is_alphabetic() => (4, char.to_ascii_lowercase()),
            _ => (2, char),
        }
    }
    let small_first = |char: char| (rank(char), char.is_ascii_uppercase());
    left.chars()
        .map(rank)
        .cmp(right.chars().map(rank))
        .then_with(|| {
            left.chars()
                .map(small_first)
                .cmp(right.chars().map(small_first))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_get_safe_names_in_the_order_of_the_file() {
        let long = "x".repeat(40);
        let names = of_servers(
            [
                "Outlook Graph",
                "outlook-graph",
                "7zip",
                "",
                "日本",
                "😀",
                &long,
                &long,
            ]
            .into_iter(),
        );
        let expected = [
            "Outlook-Graph",
            "outlook-graph-2",
            "mcp-7zip",
            "mcp",
            "mcp---",
            "mcp----2",
            &"x".repeat(30),
            &format!("{}-2", "x".repeat(28)),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn tools_get_safe_names_of_bounded_length() {
        let mut taken = HashSet::new();
        let mut name = |tool: &str| of_tool("docs", tool, &mut taken);
        assert_eq!(name("read.page"), "docs__read-page");
        assert_eq!(name("read page"), "docs__read-page-2");
        assert_eq!(name("READ-PAGE"), "docs__READ-PAGE-3");
        assert_eq!(name("1st"), "docs__tool-1st");
        let long = name(&"y".repeat(100));
        assert_eq!(long.len(), 64);
        let second = name(&"y".repeat(100));
        assert!(second.len() == 64 && second.ends_with("-2"));
    }

    #[test]
    fn names_are_sorted_as_people_read_them() {
        let mut names = ["b", "B", "a-b", "a_b", "ab", "A", "a1"];
        names.sort_by(|left, right| compare(left, right));
        assert_eq!(names, ["A", "a_b", "a-b", "a1", "ab", "b", "B"]);
    }
}
