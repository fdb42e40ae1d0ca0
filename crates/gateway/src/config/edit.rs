//! Changes values in a JSON5 text and leaves the rest of it as it is: comments, order, spacing, quotes,
//! trailing commas.
//!
//! The original prints the whole file anew and so drops its comments; here a person's file stays theirs.

use serde_json::{Map, Value};

use super::json5::{self, Spans};

/// `text` with as few changes as make it read as `new`. When `text` itself can't be read, or the outcome would
/// not read as `new`, the whole is printed anew.
pub(super) fn rewrite(text: &str, new: &Value) -> String {
    let edited = json5::parse(text).ok().map(|(old, spans)| {
        let mut editor = Editor {
            text,
            unit: indent_unit(text, &spans),
            edits: Vec::new(),
        };
        editor.value(&spans, &old, new);
        editor.apply()
    });
    match edited {
        Some(edited) if json5::parse(&edited).is_ok_and(|(value, _)| value == *new) => edited,
        _ => {
            let mut out = String::new();
            Style::default().render(&mut out, new, "");
            out.push('\n');
            out
        }
    }
}

/// The text between byte offsets, replaced.
struct Edit {
    from: usize,
    to: usize,
    with: String,
}

struct Editor<'a> {
    text: &'a str,
    unit: String,
    edits: Vec<Edit>,
}

impl Editor<'_> {
    fn apply(mut self) -> String {
        self.edits.sort_by_key(|edit| (edit.from, edit.to));
        let mut out = String::with_capacity(self.text.len() + 64);
        let mut at = 0;
        for edit in &self.edits {
            // Overlapping edits would be a mistake here; `rewrite` then sees a wrong outcome.
            let from = edit.from.max(at);
            out.push_str(&self.text[at..from]);
            out.push_str(&edit.with);
            at = edit.to.max(from);
        }
        out.push_str(&self.text[at..]);
        out
    }

    fn replace(&mut self, from: usize, to: usize, with: impl Into<String>) {
        self.edits.push(Edit {
            from,
            to,
            with: with.into(),
        });
    }

    fn value(&mut self, spans: &Spans, old: &Value, new: &Value) {
        if old == new {
            return;
        }
        match (old, new) {
            (Value::Object(old), Value::Object(new)) if !old.is_empty() && !new.is_empty() => {
                self.object(spans, old, new);
            }
            (Value::Array(old), Value::Array(new)) if !old.is_empty() && !new.is_empty() => {
                self.array(spans, old, new);
            }
            _ => {
                let text = self.render(new, &self.indent_at(spans.key), self.is_bare(spans));
                self.replace(spans.start, spans.end, text);
            }
        }
    }

    fn object(&mut self, spans: &Spans, old: &Map<String, Value>, new: &Map<String, Value>) {
        let children: Vec<&(String, Spans)> = spans.children.iter().collect();
        let mut kept = vec![false; children.len()];
        for (index, (key, child)) in children.iter().enumerate() {
            // Of equal keys the last one counts; an earlier one is no longer said.
            let shadowed = children[index + 1..].iter().any(|(later, _)| later == key);
            if let Some(value) = new.get(key).filter(|_| !shadowed) {
                kept[index] = true;
                self.value(child, &old[key], value);
            }
        }
        let bare = self.is_bare(spans);
        let inner = self.inner_indent(spans);
        let added: Vec<String> = new
            .iter()
            .filter(|(key, _)| !old.contains_key(*key))
            .map(|(key, value)| {
                let key = Style::key(key, bare);
                format!("{key}: {}", self.render(value, &inner, bare))
            })
            .collect();
        let members: Vec<&Spans> = children.iter().map(|(_, child)| child).collect();
        self.members(spans, &members, &kept, &added);
    }

    fn array(&mut self, spans: &Spans, old: &[Value], new: &[Value]) {
        let same_head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
        let most = old.len().min(new.len()) - same_head;
        let same_tail = old
            .iter()
            .rev()
            .zip(new.iter().rev())
            .take(most)
            .take_while(|(a, b)| a == b)
            .count();
        let (old_end, new_end) = (old.len() - same_tail, new.len() - same_tail);
        let members: Vec<&Spans> = spans.children.iter().map(|(_, child)| child).collect();
        if old_end - same_head < new_end - same_head && same_tail > 0 {
            // Something goes in between: the list is short, so it is printed anew.
            let text = self.render(
                &Value::Array(new.to_vec()),
                &self.indent_at(spans.key),
                self.is_bare(spans),
            );
            self.replace(spans.start, spans.end, text);
            return;
        }
        let mut kept = vec![true; old.len()];
        for index in same_head..old_end {
            if index < new_end {
                self.value(members[index], &old[index], &new[index]);
            } else {
                kept[index] = false;
            }
        }
        let (inner, bare) = (self.inner_indent(spans), self.is_bare(spans));
        let added: Vec<String> = new[new_end.min(old_end).max(same_head)..new_end]
            .iter()
            .map(|value| self.render(value, &inner, bare))
            .collect();
        self.members(spans, &members, &kept, &added);
    }

    /// Removes what is not kept and appends what is added, with the commas that this takes.
    fn members(&mut self, container: &Spans, members: &[&Spans], kept: &[bool], added: &[String]) {
        let commas: Vec<Option<usize>> = members
            .iter()
            .map(|member| self.comma_after(member.end))
            .collect();
        let trailing = commas.last().copied().flatten().is_some();
        let Some(last) = kept.iter().rposition(|kept| *kept) else {
            // All goes. What is left of the container is its braces and what comes anew.
            self.edits
                .retain(|edit| edit.to <= container.start || edit.from >= container.end);
            let (open, close) = (
                &self.text[container.start..=container.start],
                &self.text[container.end - 1..container.end],
            );
            let (outer, inner) = (self.indent_at(container.key), self.inner_indent(container));
            let text = if added.is_empty() {
                format!("{open}{close}")
            } else if self.is_inline(container) {
                format!("{open} {} {close}", added.join(", "))
            } else {
                let glue = format!(",\n{inner}");
                format!("{open}\n{inner}{}\n{outer}{close}", added.join(&glue))
            };
            return self.replace(container.start, container.end, text);
        };
        for (index, member) in members.iter().enumerate() {
            if !kept[index] {
                let end = commas[index].map_or(member.end, |comma| comma + 1);
                let (from, to) = self.whole_lines(member.key, end);
                self.replace(from, to, "");
            }
        }
        let after = members[last].end;
        if added.is_empty() {
            if let (Some(comma), false, true) = (commas[last], trailing, last + 1 < members.len()) {
                self.replace(comma, comma + 1, "");
            }
            return;
        }
        let at = match commas[last] {
            Some(comma) => comma + 1,
            None => {
                self.replace(after, after, ",");
                after
            }
        };
        let end = if trailing { "," } else { "" };
        if self.is_inline(container) {
            self.replace(at, at, format!(" {}{end}", added.join(", ")));
        } else {
            let inner = self.inner_indent(container);
            let glue = format!(",\n{inner}");
            // Behind a comment that belongs to the last member.
            let at = self.end_of_remark(at).min(container.end - 1);
            self.replace(at, at, format!("\n{inner}{}{end}", added.join(&glue)));
        }
    }

    fn render(&self, value: &Value, indent: &str, bare: bool) -> String {
        let mut out = String::new();
        Style {
            unit: &self.unit,
            bare,
        }
        .render(&mut out, value, indent);
        out
    }

    /// Whether keys stand without quotes around here.
    fn is_bare(&self, spans: &Spans) -> bool {
        let first = |spans: &Spans| {
            spans
                .children
                .first()
                .map(|(_, child)| child)
                .filter(|child| child.key != child.start)
                .map(|child| !self.text[child.key..].starts_with(['"', '\'']))
        };
        first(spans).unwrap_or_else(|| {
            self.text
                .char_indices()
                .find(|(_, c)| c.is_alphabetic() || matches!(c, '"' | '\''))
                .is_some_and(|(_, c)| c.is_alphabetic())
        })
    }

    fn is_inline(&self, container: &Spans) -> bool {
        !self.text[container.start..container.end].contains('\n')
    }

    /// The blanks that begin the line of this offset.
    fn indent_at(&self, offset: usize) -> String {
        let line = self.text[..offset].rfind('\n').map_or(0, |at| at + 1);
        self.text[line..offset]
            .chars()
            .take_while(|c| matches!(c, ' ' | '\t'))
            .collect()
    }

    fn inner_indent(&self, container: &Spans) -> String {
        let first = container.children.first().map(|(_, child)| child.key);
        match first.filter(|_| !self.is_inline(container)) {
            Some(first) => self.indent_at(first),
            None => format!("{}{}", self.indent_at(container.key), self.unit),
        }
    }

    /// The comma that follows, behind blanks and comments.
    fn comma_after(&self, offset: usize) -> Option<usize> {
        let at = skip_blanks(self.text, offset);
        self.text[at..].starts_with(',').then_some(at)
    }

    /// Behind the comment that follows on the same line.
    fn end_of_remark(&self, offset: usize) -> usize {
        let rest = &self.text[offset..];
        let line = &rest[..rest.find('\n').unwrap_or(rest.len())];
        if line.trim_start().starts_with("//") {
            offset + line.trim_end().len()
        } else {
            offset
        }
    }

    /// The whole lines of a member, when it is alone on them, its remark included; else the member and the
    /// blanks behind it.
    fn whole_lines(&self, from: usize, to: usize) -> (usize, usize) {
        let line = self.text[..from].rfind('\n').map_or(0, |at| at + 1);
        let end = self.end_of_remark(to);
        let rest = &self.text[end..];
        let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r']).len();
        let alone = self.text[line..from].trim().is_empty();
        match rest[blank..].starts_with('\n') && alone && line > 0 {
            // From the end of the line before.
            true => (line - 1, end + blank),
            false => (from, to + (blank * usize::from(end == to))),
        }
    }
}

/// How values are printed.
struct Style<'a> {
    unit: &'a str,
    /// Keys that are names stand without quotes.
    bare: bool,
}

impl Default for Style<'_> {
    fn default() -> Self {
        Self {
            unit: "  ",
            bare: false,
        }
    }
}

impl Style<'_> {
    fn key(key: &str, bare: bool) -> String {
        let mut chars = key.chars();
        let is_name = chars
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '_' | '$'))
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'));
        if bare && is_name {
            key.to_owned()
        } else {
            Value::from(key).to_string()
        }
    }

    fn render(&self, out: &mut String, value: &Value, indent: &str) {
        let inner = format!("{indent}{}", self.unit);
        match value {
            Value::Object(members) if !members.is_empty() => {
                for (index, (key, value)) in members.iter().enumerate() {
                    out.push_str(if index == 0 { "{\n" } else { ",\n" });
                    out.push_str(&inner);
                    out.push_str(&Self::key(key, self.bare));
                    out.push_str(": ");
                    self.render(out, value, &inner);
                }
                out.push('\n');
                out.push_str(indent);
                out.push('}');
            }
            Value::Array(items) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "[\n" } else { ",\n" });
                    out.push_str(&inner);
                    self.render(out, item, &inner);
                }
                out.push('\n');
                out.push_str(indent);
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
}

/// What one level is indented by: as the first member of the first object that has a line of its own.
fn indent_unit(text: &str, spans: &Spans) -> String {
    let first = spans.children.first().map(|(_, child)| child.key);
    first
        .map(|key| {
            let line = text[..key].rfind('\n').map_or(key, |at| at + 1);
            text[line..key]
                .chars()
                .take_while(|c| matches!(c, ' ' | '\t'))
                .collect::<String>()
        })
        .filter(|unit| !unit.is_empty())
        .unwrap_or_else(|| "  ".to_owned())
}

/// The offset of the first character that is neither blank nor in a comment.
fn skip_blanks(text: &str, mut offset: usize) -> usize {
    loop {
        let rest = &text[offset..];
        let trimmed = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        offset += rest.len() - trimmed.len();
        let skipped = if trimmed.starts_with("//") {
            trimmed
                .find(['\n', '\r', '\u{2028}', '\u{2029}'])
                .unwrap_or(trimmed.len())
        } else if trimmed.starts_with("/*") {
            trimmed.find("*/").map_or(trimmed.len(), |at| at + 2)
        } else {
            return offset;
        };
        offset += skipped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const MINE: &str = "// mine\n{\n\t// where\n\tgateway: { mode: 'local', port: 1, }, // here\n\tlist: [\n\t\t'a', // first\n\t\t'b',\n\t],\n\tmessages: {\n\t\tackReaction: \"x\", // seen\n\t}, /* end */\n}\n// bye\n";

    #[track_caller]
    fn check(text: &str, change: impl FnOnce(&mut Value), expected: &str) {
        let (mut value, _) = json5::parse(text).expect("JSON5");
        change(&mut value);
        assert_eq!(rewrite(text, &value), expected);
    }

    #[test]
    fn one_value_changes_and_the_rest_stays() {
        check(
            MINE,
            |v| v["messages"]["ackReaction"] = json!("y"),
            &MINE.replace("\"x\"", "\"y\""),
        );
        check(
            MINE,
            |v| v["gateway"]["port"] = json!(2),
            &MINE.replace("port: 1", "port: 2"),
        );
        check(
            MINE,
            |v| v["list"][1] = json!("c"),
            &MINE.replace("'b'", "\"c\""),
        );
        check(MINE, |_| {}, MINE);
    }

    #[test]
    fn members_come_in_the_style_of_their_place() {
        check(
            MINE,
            |v| v["gateway"]["bind"] = json!("lan"),
            &MINE.replace("port: 1, }", "port: 1, bind: \"lan\", }"),
        );
        check(
            MINE,
            |v| v["messages"]["responsePrefix"] = json!("p"),
            &MINE.replace("// seen\n", "// seen\n\t\tresponsePrefix: \"p\",\n"),
        );
        check(
            "{\n  \"a\": 1\n}\n",
            |v| v["b c"] = json!({"d": [true]}),
            "{\n  \"a\": 1,\n  \"b c\": {\n    \"d\": [\n      true\n    ]\n  }\n}\n",
        );
        check(
            "{ a: 1 /* one */ }",
            |v| v["b"] = json!(2),
            "{ a: 1, b: 2 /* one */ }",
        );
        check("{}", |v| v["a"] = json!(1), "{\n  \"a\": 1\n}");
    }

    #[test]
    fn members_go_with_their_lines_and_commas() {
        let remove = |key: &'static str| {
            move |v: &mut Value| {
                v.as_object_mut().expect("object").shift_remove(key);
            }
        };
        check(
            "{\n  \"a\": 1,\n  \"b\": 2\n}\n",
            remove("b"),
            "{\n  \"a\": 1\n}\n",
        );
        check(
            "{\n  \"a\": 1,\n  \"b\": 2\n}\n",
            remove("a"),
            "{\n  \"b\": 2\n}\n",
        );
        check("{ a: 1, b: 2 }", remove("b"), "{ a: 1 }");
        check(
            MINE,
            |v| {
                v["list"].as_array_mut().expect("list").remove(0);
            },
            &MINE.replace("\n\t\t'a', // first", ""),
        );
        check("{\n  a: 1 // x\n}", remove("a"), "{}");
    }

    #[test]
    fn a_root_that_can_not_be_read_is_printed_anew() {
        assert_eq!(rewrite("{ a: ", &json!({"b": 1})), "{\n  \"b\": 1\n}\n");
    }

    proptest! {
        #[test]
        fn whatever_changes_reads_as_wanted(
            old in crate::config::tests::tree(),
            new in crate::config::tests::tree(),
            lines in any::<bool>(),
        ) {
            let text = if lines { format!("{old:#}") } else { old.to_string() };
            let out = rewrite(&text, &new);
            let (read, _) = json5::parse(&out).expect("JSON5");
            prop_assert_eq!(&read, &new);
            // It was edited, not printed anew, when both are objects that share something.
            prop_assert_eq!(rewrite(&out, &new), out);
        }
    }
}
