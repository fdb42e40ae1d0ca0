//! Markdown, as agents write it, to what a service renders.

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use std::fmt::Write as _;

fn parser(text: &str) -> Parser<'_> {
    Parser::new_ext(
        text,
        Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TABLES | Options::ENABLE_TASKLISTS,
    )
}

/// `&`, `<`, `>` and `"` as entities.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// Which tags a service knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Html {
    /// `b i s code pre a blockquote`, line breaks as they are.
    /// Source: <https://core.telegram.org/bots/api#html-style>
    Telegram,
    /// Paragraphs, headings, lists, tables.
    /// Source: Matrix specification, `m.room.message` formatted body.
    Full,
}

/// Markdown as HTML. Raw HTML in the text is shown, not obeyed.
pub fn html(text: &str, dialect: Html) -> String {
    let mut writer = Writer {
        dialect,
        ..Writer::default()
    };
    for event in parser(text) {
        writer.event(event);
    }
    writer.out.trim_end().to_owned()
}

/// Markdown as plain text: links with their address behind, no signs.
pub fn plain(text: &str) -> String {
    let mut writer = Writer {
        plain: true,
        ..Writer::default()
    };
    for event in parser(text) {
        writer.event(event);
    }
    writer.out.trim_end().to_owned()
}

struct Writer {
    dialect: Html,
    plain: bool,
    out: String,
    /// The next number of each open list; `None`: bullets.
    lists: Vec<Option<u64>>,
    /// Cells of the table being read, row by row.
    table: Option<Vec<Vec<String>>>,
    links: Vec<(String, usize)>,
    in_code: bool,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            dialect: Html::Telegram,
            plain: false,
            out: String::new(),
            lists: Vec::new(),
            table: None,
            links: Vec::new(),
            in_code: false,
        }
    }
}

impl Writer {
    fn full(&self) -> bool {
        self.dialect == Html::Full && !self.plain
    }

    fn tag(&mut self, text: &str) {
        // Cells are kept as text.
        if !self.plain && self.table.is_none() {
            self.out.push_str(text);
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(cell) = self
            .table
            .as_mut()
            .and_then(|t| t.last_mut())
            .and_then(|r| r.last_mut())
        {
            cell.push_str(text);
        } else if self.plain {
            self.out.push_str(text);
        } else {
            self.out.push_str(&escape(text));
        }
    }

    /// Starts a new block, a blank line below the last one.
    fn gap(&mut self) {
        if self.full() {
            return;
        }
        let trimmed = self.out.trim_end_matches('\n').len();
        self.out.truncate(trimmed);
        if !self.out.is_empty() && !self.out.ends_with("<blockquote>") {
            self.out.push_str("\n\n");
        }
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.text(&text),
            Event::Code(code) => {
                self.tag("<code>");
                self.text(&code);
                self.tag("</code>");
            }
            Event::Html(html) | Event::InlineHtml(html) => self.text(&html),
            Event::SoftBreak => self.text("\n"),
            Event::HardBreak => {
                if self.full() {
                    self.out.push_str("<br>");
                } else {
                    self.text("\n");
                }
            }
            Event::Rule => {
                if self.full() {
                    self.out.push_str("<hr>");
                } else {
                    self.gap();
                    self.text("———");
                }
            }
            Event::TaskListMarker(done) => self.text(if done { "☑ " } else { "☐ " }),
            Event::FootnoteReference(name) => self.text(&format!("[{name}]")),
            Event::InlineMath(text) | Event::DisplayMath(text) => self.text(&text),
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph => {
                if self.full() {
                    self.out.push_str("<p>");
                } else if self.lists.is_empty() {
                    self.gap();
                }
            }
            Tag::Heading { level, .. } => {
                if self.full() {
                    let _infallible = write!(self.out, "<h{}>", number(level));
                } else {
                    self.gap();
                    self.tag("<b>");
                }
            }
            Tag::BlockQuote(_) => {
                self.gap();
                self.tag("<blockquote>");
            }
            Tag::CodeBlock(kind) => {
                if !self.lists.is_empty() && !self.full() {
                    self.text("\n");
                } else {
                    self.gap();
                }
                self.in_code = true;
                match kind {
                    CodeBlockKind::Fenced(language) if !language.is_empty() => {
                        let word = language.split_whitespace().next().unwrap_or_default();
                        let word = escape(word);
                        self.tag(&format!("<pre><code class=\"language-{word}\">"));
                    }
                    _ => self.tag("<pre><code>"),
                }
            }
            Tag::List(first) => {
                if self.full() {
                    self.out
                        .push_str(if first.is_some() { "<ol>" } else { "<ul>" });
                } else if self.lists.is_empty() {
                    self.gap();
                }
                self.lists.push(first);
            }
            Tag::Item => {
                if self.full() {
                    self.out.push_str("<li>");
                    return;
                }
                if !self.out.is_empty()
                    && !self.out.ends_with('\n')
                    && !self.out.ends_with("<blockquote>")
                {
                    self.out.push('\n');
                }
                let depth = self.lists.len().saturating_sub(1);
                self.out.push_str(&"  ".repeat(depth));
                match self.lists.last_mut() {
                    Some(Some(next)) => {
                        let number = *next;
                        *next += 1;
                        let _infallible = write!(self.out, "{number}. ");
                    }
                    _ => self.out.push_str("• "),
                }
            }
            Tag::Emphasis => self.tag(if self.full() { "<em>" } else { "<i>" }),
            Tag::Strong => self.tag(if self.full() { "<strong>" } else { "<b>" }),
            Tag::Strikethrough => self.tag(if self.full() { "<del>" } else { "<s>" }),
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => {
                self.links.push((dest_url.to_string(), self.out.len()));
                if safe_link(&dest_url) && self.table.is_none() {
                    self.tag(&format!("<a href=\"{}\">", escape(&dest_url)));
                }
            }
            Tag::Table(_) => {
                self.gap();
                self.table = Some(Vec::new());
            }
            Tag::TableHead | Tag::TableRow => {
                if let Some(table) = &mut self.table {
                    table.push(Vec::new());
                }
            }
            Tag::TableCell => {
                if let Some(row) = self.table.as_mut().and_then(|t| t.last_mut()) {
                    row.push(String::new());
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph if self.full() => self.out.push_str("</p>"),
            TagEnd::Heading(level) => {
                if self.full() {
                    let _infallible = write!(self.out, "</h{}>", number(level));
                } else {
                    self.tag("</b>");
                }
            }
            TagEnd::BlockQuote(_) => {
                let trimmed = self.out.trim_end_matches('\n').len();
                self.out.truncate(trimmed);
                self.tag("</blockquote>");
            }
            TagEnd::CodeBlock => {
                self.in_code = false;
                let trimmed = self.out.trim_end_matches('\n').len();
                self.out.truncate(trimmed);
                self.tag("</code></pre>");
            }
            TagEnd::List(ordered) => {
                self.lists.pop();
                if self.full() {
                    self.out.push_str(if ordered { "</ol>" } else { "</ul>" });
                }
            }
            TagEnd::Item if self.full() => self.out.push_str("</li>"),
            TagEnd::Emphasis => self.tag(if self.full() { "</em>" } else { "</i>" }),
            TagEnd::Strong => self.tag(if self.full() { "</strong>" } else { "</b>" }),
            TagEnd::Strikethrough => self.tag(if self.full() { "</del>" } else { "</s>" }),
            TagEnd::Link | TagEnd::Image => {
                let Some((url, from)) = self.links.pop() else {
                    return;
                };
                if self.plain && self.table.is_none() {
                    let shown = self.out.get(from..).unwrap_or_default();
                    if shown.is_empty() {
                        self.out.push_str(&url);
                    } else if shown != url && !url.is_empty() {
                        let _infallible = write!(self.out, " ({url})");
                    }
                } else if safe_link(&url) && self.table.is_none() {
                    if self.out.ends_with('>')
                        && self.out.ends_with(&format!("{}\">", escape(&url)))
                    {
                        self.out.push_str(&escape(&url));
                    }
                    self.tag("</a>");
                }
            }
            TagEnd::Table => self.write_table(),
            _ => {}
        }
    }

    /// As a real table where there are any, else as aligned columns.
    fn write_table(&mut self) {
        let Some(rows) = self.table.take() else {
            return;
        };
        if self.full() {
            self.out.push_str("<table>");
            for (n, row) in rows.iter().enumerate() {
                self.out.push_str("<tr>");
                for cell in row {
                    let tag = if n == 0 { "th" } else { "td" };
                    let _infallible = write!(self.out, "<{tag}>{}</{tag}>", escape(cell));
                }
                self.out.push_str("</tr>");
            }
            self.out.push_str("</table>");
            return;
        }
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|c| {
                rows.iter()
                    .filter_map(|r| r.get(c))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        self.tag("<pre>");
        for row in &rows {
            let line: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            let line = line.join("  ");
            self.text(line.trim_end());
            self.text("\n");
        }
        let trimmed = self.out.trim_end_matches('\n').len();
        self.out.truncate(trimmed);
        self.tag("</pre>");
    }
}

fn number(level: HeadingLevel) -> u8 {
    level as u8
}

/// Nothing that runs in the reader's program.
fn safe_link(url: &str) -> bool {
    let lower = url.trim().to_ascii_lowercase();
    ["http://", "https://", "mailto:", "tg://", "matrix:", "tel:"]
        .iter()
        .any(|scheme| lower.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn telegram_gets_what_it_knows() {
        let check = |text: &str, expected: &str| assert_eq!(html(text, Html::Telegram), expected);
        check(
            "**bold** _it_ ~~no~~ `x<y`",
            "<b>bold</b> <i>it</i> <s>no</s> <code>x&lt;y</code>",
        );
        check("# Title\n\ntext", "<b>Title</b>\n\ntext");
        check("- a\n- b\n  - c\n", "• a\n• b\n  • c");
        check("1. a\n2. b", "1. a\n2. b");
        check(
            "```rust\nlet x = 1;\n```",
            "<pre><code class=\"language-rust\">let x = 1;</code></pre>",
        );
        check(
            "[a](https://b.c/?d=\"e\")",
            "<a href=\"https://b.c/?d=&quot;e&quot;\">a</a>",
        );
        check("[a](javascript:alert(1))", "a");
        check("a <script>b</script>", "a &lt;script&gt;b&lt;/script&gt;");
        check(
            "> quoted\n\nafter",
            "<blockquote>quoted</blockquote>\n\nafter",
        );
        check("| a | b |\n|---|---|\n| 1 | 22 |", "<pre>a  b\n1  22</pre>");
        check("one\ntwo\n\nthree", "one\ntwo\n\nthree");
    }

    #[test]
    fn full_html_has_structure() {
        assert_eq!(
            html("# T\n\n- a\n- b", Html::Full),
            "<h1>T</h1><ul><li>a</li><li>b</li></ul>"
        );
        assert_eq!(html("a\n\nb", Html::Full), "<p>a</p><p>b</p>");
    }

    #[test]
    fn plain_text_has_no_signs() {
        assert_eq!(plain("**a** [b](https://c) `d`"), "a b (https://c) d");
        assert_eq!(plain("<https://c>"), "https://c");
    }

    proptest! {
        #[test]
        fn tags_are_balanced_and_nothing_is_obeyed(text in "[a-z*_~`\\[\\]()<>#|\\-\n .&\"!0-9:/]{0,120}") {
            for dialect in [Html::Telegram, Html::Full] {
                let out = html(&text, dialect);
                let mut open = Vec::new();
                let mut rest = out.as_str();
                while let Some(at) = rest.find('<') {
                    let end = rest[at..].find('>').expect("a tag ends") + at;
                    let tag = &rest[at + 1..end];
                    rest = &rest[end + 1..];
                    if let Some(name) = tag.strip_prefix('/') {
                        let last = open.pop();
                        prop_assert_eq!(last.as_deref(), Some(name), "{}", out);
                    } else if !matches!(tag, "br" | "hr") {
                        open.push(tag.split(' ').next().unwrap_or_default().to_owned());
                    }
                }
                prop_assert!(open.is_empty(), "{out}");
            }
            plain(&text);
        }
    }
}
