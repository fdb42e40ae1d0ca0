//! What a change did to a text: one block, with the lines around it.

/// Lines shown before and after.
const AROUND: usize = 4;
/// A change of more lines is told as so many lines.
const LINES_MAX: usize = 400;

pub(super) struct Diff {
    /// Numbered lines, ` ` kept, `-` gone, `+` new.
    pub(super) lines: String,
    /// A unified patch.
    pub(super) patch: String,
    pub(super) first_changed_line: usize,
}

pub(super) fn of(path: &str, before: &str, after: &str) -> Diff {
    let old: Vec<&str> = before.lines().collect();
    let new: Vec<&str> = after.lines().collect();
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let most = old.len().min(new.len()) - same;
    let tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(most)
        .take_while(|(a, b)| a == b)
        .count();
    let (gone, came) = (&old[same..old.len() - tail], &new[same..new.len() - tail]);
    let first = same.saturating_sub(AROUND);
    let after_old = (old.len() - tail + AROUND).min(old.len());
    let width = old.len().max(new.len()).to_string().len();
    let mut lines = Vec::new();
    let mut body = String::new();
    let mut add = |sign: char, number: usize, line: &str| {
        lines.push(format!("{sign}{number:>width$} {line}"));
        body.push_str(&format!("{sign}{line}\n"));
    };
    for (at, line) in old[first..same].iter().enumerate() {
        add(' ', first + at + 1, line);
    }
    for (at, line) in gone.iter().take(LINES_MAX).enumerate() {
        add('-', same + at + 1, line);
    }
    for (at, line) in came.iter().take(LINES_MAX).enumerate() {
        add('+', same + at + 1, line);
    }
    for (at, line) in old[old.len() - tail..after_old].iter().enumerate() {
        add(' ', new.len() - tail + at + 1, line);
    }
    let left = gone.len().saturating_sub(LINES_MAX) + came.len().saturating_sub(LINES_MAX);
    if left > 0 {
        lines.push(format!("… {left} more lines"));
    }
    let around = (same - first) + (after_old - (old.len() - tail));
    let from = |lines: usize| if lines == 0 { first } else { first + 1 };
    let (was, is) = (around + gone.len(), around + came.len());
    let patch = match left {
        0 => format!(
            "--- {path}\n+++ {path}\n@@ -{},{was} +{},{is} @@\n{body}",
            from(was),
            from(is)
        ),
        // A patch with lines left out would not apply.
        _ => String::new(),
    };
    Diff {
        lines: lines.join("\n"),
        patch,
        first_changed_line: same + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected: what the original answered to the same changes.
    #[test]
    fn as_the_original_shows_them() {
        let edited = of(
            "conformance.txt",
            "line one\nline two\n",
            "line one\nline 2\n",
        );
        assert_eq!(edited.lines, " 1 line one\n-2 line two\n+2 line 2");
        assert_eq!(
            edited.patch,
            "--- conformance.txt\n+++ conformance.txt\n@@ -1,2 +1,2 @@\n line one\n-line two\n+line 2\n"
        );
        assert_eq!(edited.first_changed_line, 2);
        let created = of("sub/new.txt", "", "alpha\nbeta\n");
        assert_eq!(created.lines, "+1 alpha\n+2 beta");
        assert_eq!(
            created.patch,
            "--- sub/new.txt\n+++ sub/new.txt\n@@ -0,0 +1,2 @@\n+alpha\n+beta\n"
        );
    }

    #[test]
    fn repeated_lines_and_large_changes() {
        assert_eq!(of("f", "a\na\n", "a\na\na\n").lines, " 1 a\n 2 a\n+3 a");
        let large = "x\n".repeat(5000);
        let diff = of("f", "", &large);
        assert!(diff.lines.ends_with("… 4600 more lines") && diff.patch.is_empty());
    }
}
