//! A text cut into overlapping chunks of whole lines, each knowing its lines, as the original cuts memory files.

/// 400 tokens of about four characters, as the original's default.
const CHARS_MAX: usize = 400 * 4;
/// 80 tokens of the chunk before are repeated.
const OVERLAP_CHARS: usize = 80 * 4;

/// A run of lines. A line longer than a chunk is cut, so that one line may be in several chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// First line, from 1.
    pub start_line: usize,
    /// Last line, included.
    pub end_line: usize,
    pub text: String,
}

/// A whole line or a piece of a long one.
#[derive(Clone, Copy)]
struct Piece<'a> {
    line: usize,
    text: &'a str,
    /// Characters, with the line break.
    chars: usize,
}

/// The chunks of a text, in order. Text without a visible character has none.
#[must_use]
pub fn chunks(text: &str) -> Vec<Chunk> {
    cut(text, |_| false)
}

/// [`chunks`], none of which goes over a heading or the beginning of an item (`- `), as the original cuts the files that
/// are lists of what to remember. Source: `curatedMarkdownEntryKind` of packages/memory-host-sdk at 2026.9.6.
#[must_use]
pub fn entries(text: &str) -> Vec<Chunk> {
    cut(text, |line| {
        let after = line.trim_start_matches('#');
        line.starts_with("- ")
            || ((1..=6).contains(&(line.len() - after.len()))
                && after.chars().next().is_none_or(char::is_whitespace))
    })
}

fn cut(text: &str, begins: impl Fn(&str) -> bool) -> Vec<Chunk> {
    let mut out = Vec::new();
    let mut current: Vec<Piece<'_>> = Vec::new();
    let mut held = 0;
    for piece in pieces(text) {
        let is_new_line = current.last().is_some_and(|last| last.line != piece.line);
        if is_new_line && begins(piece.text) {
            out.extend(join(&current));
            (current, held) = (Vec::new(), 0);
        }
        if held + piece.chars > CHARS_MAX && !current.is_empty() {
            out.extend(join(&current));
            current = overlap(&current, CHARS_MAX.saturating_sub(piece.chars));
            held = current.iter().map(|kept| kept.chars).sum();
        }
        held += piece.chars;
        current.push(piece);
    }
    out.extend(join(&current));
    out
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    // What is behind the last line break is a line too, if an empty one: so count the original and its readers.
    text.split('\n').enumerate().flat_map(|(index, line)| {
        let mut rest = Some(line);
        std::iter::from_fn(move || {
            let here = rest?;
            let cut = here.char_indices().nth(CHARS_MAX - 1).map(|(at, _)| at);
            let (text, after) = cut.map_or((here, None), |at| (&here[..at], Some(&here[at..])));
            rest = after;
            Some(Piece {
                line: index + 1,
                text,
                chars: text.chars().count() + 1,
            })
        })
    })
}

/// The last pieces that fit the overlap and leave room for what comes next.
fn overlap<'a>(pieces: &[Piece<'a>], room: usize) -> Vec<Piece<'a>> {
    let mut kept = 0;
    let from = pieces
        .iter()
        .rposition(|piece| {
            kept += piece.chars;
            kept > OVERLAP_CHARS.min(room)
        })
        .map_or(0, |at| at + 1);
    pieces[from..].to_vec()
}

fn join(pieces: &[Piece<'_>]) -> Option<Chunk> {
    let (first, last) = (pieces.first()?, pieces.last()?);
    let mut text = String::new();
    let mut line = first.line;
    for piece in pieces {
        if piece.line != line {
            text.push('\n');
            line = piece.line;
        }
        text.push_str(piece.text);
    }
    (!text.trim().is_empty()).then_some(Chunk {
        start_line: first.line,
        end_line: last.line,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_chunk_is_bounded_and_its_range_holds_its_text(text in "([a-zé漢 ]{0,60}\n|[a-z]{0,900}){0,60}") {
            let lines: Vec<&str> = text.split('\n').collect();
            for chunk in chunks(&text) {
                prop_assert!(chunk.text.chars().count() <= CHARS_MAX);
                prop_assert!(1 <= chunk.start_line && chunk.end_line <= lines.len());
                let range = lines[chunk.start_line - 1..chunk.end_line].join("\n");
                prop_assert!(range.contains(&chunk.text));
            }
        }

        #[test]
        fn every_visible_line_is_in_a_chunk(text in "([a-zé漢]{1,60}\n){0,120}") {
            let chunks = chunks(&text);
            for (index, line) in text.split('\n').enumerate().filter(|(_, line)| !line.is_empty()) {
                prop_assert!(chunks.iter().any(|chunk| (chunk.start_line..=chunk.end_line).contains(&(index + 1))
                    && chunk.text.contains(line)));
            }
        }
    }

    #[test]
    fn a_list_is_cut_before_each_heading_and_item() {
        let text = "# Home\n\n- a\n  more of a\n- b\n#no heading\n## Work\n";
        let cut: Vec<_> = entries(text)
            .into_iter()
            .map(|chunk| (chunk.start_line, chunk.end_line, chunk.text))
            .collect();
        let expected = [
            (1, 2, "# Home\n"),
            (3, 4, "- a\n  more of a"),
            (5, 6, "- b\n#no heading"),
            (7, 8, "## Work\n"),
        ];
        assert_eq!(cut, expected.map(|(a, b, text)| (a, b, text.to_owned())));
        assert_eq!(chunks(text).len(), 1);
    }

    #[test]
    fn neighbours_overlap_and_a_long_line_is_cut() {
        let text = "0123456789 abcdefgh\n".repeat(200);
        let all = chunks(&text);
        assert!(
            all.windows(2)
                .all(|two| two[1].start_line <= two[0].end_line)
        );
        assert_eq!(chunks(&"x".repeat(CHARS_MAX * 3)).len(), 4);
        assert!(chunks(" \n\n\t").is_empty());
    }
}
