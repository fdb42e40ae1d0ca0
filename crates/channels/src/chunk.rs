//! Splits Markdown at a service's limit without breaking what it means: paragraphs before lines before words, never
//! inside a grapheme, not inside a link or emphasis that fits into a part; a code fence that is cut is closed and
//! opened again.

use crate::capabilities::TextUnit;
use pulldown_cmark::{Event, Options, Parser, Tag};
use std::ops::Range;
use unicode_segmentation::UnicodeSegmentation as _;

impl TextUnit {
    /// Length as the service counts it.
    pub fn len(self, text: &str) -> usize {
        match self {
            Self::Utf16 => text.chars().map(char::len_utf16).sum(),
            Self::Chars => text.chars().count(),
            Self::Bytes => text.len(),
        }
    }
}

/// Parts of at most `max` units each. Empty text: no part. A limit below 16 counts as 16.
pub fn split(text: &str, max: usize, unit: TextUnit) -> Vec<String> {
    let max = max.max(16);
    let text = text.trim_end();
    let mut parts = Vec::new();
    let mut rest = text;
    let spans = if unit.len(text) > max {
        inline(text)
    } else {
        Vec::new()
    };
    // The fence that is open where `rest` begins.
    let mut fence: Option<String> = None;
    while !rest.is_empty() {
        let head = fence
            .as_ref()
            .map_or(String::new(), |open| format!("{open}\n"));
        let head_len = unit.len(&head);
        if head_len + unit.len(rest) <= max {
            parts.push(format!("{head}{rest}"));
            break;
        }
        // Room for a closing fence of the part.
        let may_close = fence.is_some() || rest.contains("```") || rest.contains("~~~");
        let mut closing = match may_close {
            true => 1 + unit.len(fence.as_deref().map_or("```", marker)).max(3),
            false => 0,
        };
        let (mut at, after) = loop {
            let room = max.saturating_sub(head_len + closing).max(1);
            let mut at = cut(rest, room, unit);
            if fence.is_none() {
                at = outside(&spans, text.len() - rest.len(), at);
            }
            // A fence of very many signs is a line of text: closing it would fill a part.
            let after = open_fence(&rest[..at], fence.clone())
                .filter(|open| unit.len(marker(open)) <= max / 4);
            // The part may itself open a longer fence than was reckoned with.
            let needed = after
                .as_deref()
                .map_or(0, |open| 1 + unit.len(marker(open)));
            if needed <= closing {
                break (at, after);
            }
            closing = needed;
        };
        // A closing line of the fence that just does not fit belongs to this part, not to the next.
        if let Some(open) = &after
            && let Some(line) = rest[at..].strip_prefix('\n').or(Some(&rest[at..]))
            && line
                .lines()
                .next()
                .is_some_and(|line| line.trim() == marker(open))
        {
            at += rest[at..].len() - line.len() + line.lines().next().map_or(0, str::len);
            let part = &rest[..at];
            parts.push(format!("{head}{part}"));
            rest = rest[at..].trim_start_matches('\n');
            fence = None;
            continue;
        }
        let part = rest[..at].trim_end();
        let closed = after
            .as_deref()
            .map_or(String::new(), |open| format!("\n{}", marker(open)));
        if !part.is_empty() {
            parts.push(format!("{head}{part}{closed}"));
        }
        rest = if after.is_some() {
            // Indentation is meaning there.
            rest[at..].strip_prefix('\n').unwrap_or(&rest[at..])
        } else {
            rest[at..].trim_start()
        };
        // The language of the fence goes along; a fence line longer than a quarter of the part does not.
        fence = after.map(|open| {
            if unit.len(&open) > max / 4 {
                "```".to_owned()
            } else {
                open
            }
        });
    }
    parts
}

/// What must not be cut inside a paragraph, outermost, in order: links, emphasis, inline code.
fn inline(text: &str) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for (event, range) in Parser::new_ext(text, Options::ENABLE_STRIKETHROUGH).into_offset_iter() {
        let is_span = matches!(
            event,
            Event::Code(_)
                | Event::Start(
                    Tag::Link { .. }
                        | Tag::Image { .. }
                        | Tag::Strong
                        | Tag::Emphasis
                        | Tag::Strikethrough
                )
        );
        if is_span && spans.last().is_none_or(|last| last.end <= range.start) {
            spans.push(range);
        }
    }
    spans
}

/// The place to cut, `at` or before a span that it lies in. One that begins in the first quarter is cut: parts
/// would become crumbs, or none at all.
fn outside(spans: &[Range<usize>], offset: usize, at: usize) -> usize {
    let place = offset + at;
    let n = spans.partition_point(|span| span.end <= place);
    match spans.get(n) {
        Some(span) if span.start < place && span.start > offset + at / 4 => span.start - offset,
        _ => at,
    }
}

/// The backticks or tildes that a fence line begins with.
fn marker(open: &str) -> &str {
    let trimmed = open.trim_start();
    let sign = trimmed.chars().next().unwrap_or('`');
    let length = trimmed.chars().take_while(|c| *c == sign).count();
    &trimmed[..length]
}

/// The fence line that is open at the end of `text`, given the one open at its start.
fn open_fence(text: &str, mut open: Option<String>) -> Option<String> {
    for line in text.lines() {
        let trimmed = line.trim();
        match &open {
            Some(fence) => {
                let sign = marker(fence);
                if trimmed.len() >= sign.len()
                    && trimmed.starts_with(sign)
                    && trimmed.chars().all(|c| sign.starts_with(c))
                {
                    open = None;
                }
            }
            None if trimmed.starts_with("```") || trimmed.starts_with("~~~") => {
                // A fence with a closing one on its own line is inline code.
                let sign = marker(trimmed);
                if !trimmed[sign.len()..].contains(sign) {
                    open = Some(trimmed.to_owned());
                }
            }
            None => {}
        }
    }
    open
}

/// Byte offset of the best place to cut within `room` units; at least one grapheme.
fn cut(text: &str, room: usize, unit: TextUnit) -> usize {
    let mut used = 0;
    let mut end = 0;
    for grapheme in text.graphemes(true) {
        let length = unit.len(grapheme);
        if used + length > room {
            break;
        }
        used += length;
        end += grapheme.len();
    }
    if end == 0 {
        // One grapheme larger than the room: cut it at a character, or nothing would ever go.
        let mut used = 0;
        for (at, c) in text.char_indices() {
            let length = unit.len(c.encode_utf8(&mut [0; 4]));
            if used + length > room && at > 0 {
                return at;
            }
            used += length;
        }
        return text.chars().next().map_or(0, char::len_utf8);
    }
    if end == text.len() || text[end..].starts_with('\n') {
        return end;
    }
    let window = &text[..end];
    // Not so early that parts become crumbs.
    let floor = end / 2;
    for separator in ["\n\n", "\n", ". ", "! ", "? ", "。", " "] {
        if let Some(at) = window.rfind(separator)
            && at >= floor
        {
            return if separator.starts_with('\n') {
                at
            } else {
                at + separator.len()
            };
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bare(text: &str) -> String {
        text.chars().filter(|c| !c.is_whitespace()).collect()
    }

    #[test]
    fn short_text_is_one_part() {
        assert_eq!(split("hello", 100, TextUnit::Chars), ["hello"]);
        assert_eq!(split("", 100, TextUnit::Chars), Vec::<String>::new());
    }

    #[test]
    fn paragraphs_are_kept_together() {
        let text = format!("{}\n\n{}", "a".repeat(30), "b".repeat(30));
        assert_eq!(
            split(&text, 45, TextUnit::Chars),
            ["a".repeat(30), "b".repeat(30)]
        );
    }

    #[test]
    fn a_cut_fence_is_closed_and_opened_again() {
        let code: String = (0..20).map(|n| format!("    line {n}\n")).collect();
        let text = format!("Look:\n```rust\n{code}```\nDone.");
        let parts = split(&text, 80, TextUnit::Chars);
        assert!(parts.len() > 2);
        for part in &parts {
            assert!(TextUnit::Chars.len(part) <= 80, "{part}");
            assert_eq!(part.matches("```").count() % 2, 0, "{part}");
        }
        assert!(parts[1].starts_with("```rust\n    line"), "{}", parts[1]);
        let lines: Vec<_> = parts
            .iter()
            .flat_map(|p| p.lines())
            .filter(|l| l.contains("line "))
            .collect();
        assert_eq!(lines.len(), 20);
    }

    #[test]
    fn links_and_emphasis_go_whole_into_the_next_part() {
        let words = "word ".repeat(6);
        for span in [
            "[a link with words](https://example.org/a)",
            "**bold words here, some of them**",
            "`code with some spaces in it`",
        ] {
            let parts = split(&format!("{words}{span} end."), 50, TextUnit::Chars);
            assert_eq!(parts.len(), 2, "{parts:?}");
            assert_eq!(parts[1], format!("{span} end."));
        }
        // What fits into no part is cut like anything else.
        let long = format!("**{}**", "word ".repeat(30).trim_end());
        assert!(
            split(&long, 50, TextUnit::Chars)
                .iter()
                .all(|part| part.len() <= 50)
        );
    }

    #[test]
    fn emoji_are_counted_as_the_service_does_and_never_cut() {
        let family = "👨‍👩‍👧‍👦";
        let text = family.repeat(10);
        let parts = split(&text, 40, TextUnit::Utf16);
        assert_eq!(parts.concat(), text);
        for part in parts {
            assert!(TextUnit::Utf16.len(&part) <= 40);
            assert_eq!(part.len() % family.len(), 0);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_every_part_fits(
            text in "([a-zé👍 .\n]{0,40}|[*][*][a-z ]{1,30}[*][*]|\\[[a-z ]{1,9}\\]\\(http:[a-z/]{1,30}\\)|```[a-z]{0,5}\n[a-z \n]{0,60}\n```\n){0,12}",
            max in 16_usize..120,
        ) {
            for unit in [TextUnit::Utf16, TextUnit::Chars, TextUnit::Bytes] {
                let parts = split(&text, max, unit);
                for part in &parts {
                    prop_assert!(unit.len(part) <= max, "{} > {max}: {part:?}", unit.len(part));
                    prop_assert!(!part.trim().is_empty());
                }
                // But for the fences that were closed and opened again.
                let strip = |text: &str| bare(text).replace('`', "");
                let joined = strip(&parts.concat());
                let whole = strip(&text);
                if text.contains("```") {
                    prop_assert!(joined.len() >= whole.len());
                } else {
                    prop_assert_eq!(joined, whole);
                }
            }
        }
    }
}
