//! The words of a web page: no scripts, no styles, headings and links kept.

/// Tags whose content nobody reads.
const SILENT: [&str; 8] = [
    "script", "style", "noscript", "template", "svg", "iframe", "head", "nav",
];
/// Tags that begin a new line.
const BLOCKS: [&str; 23] = [
    "p",
    "div",
    "section",
    "article",
    "main",
    "header",
    "footer",
    "aside",
    "ul",
    "ol",
    "table",
    "tr",
    "br",
    "hr",
    "blockquote",
    "pre",
    "figure",
    "figcaption",
    "form",
    "dl",
    "dt",
    "dd",
    "details",
];

pub(super) struct Page {
    pub(super) title: Option<String>,
    pub(super) text: String,
}

/// `markdown`: headings, list items and links keep their marks.
pub(super) fn read(html: &str, markdown: bool) -> Page {
    let mut out = Words::default();
    let mut title = None;
    let mut links: Vec<Option<String>> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        out.add(&decoded(&rest[..at]));
        rest = &rest[at..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
            continue;
        }
        let is_tag = rest[1..].starts_with(|char: char| {
            char.is_ascii_alphabetic() || matches!(char, '/' | '!' | '?')
        });
        if !is_tag {
            out.add("<");
            rest = &rest[1..];
            continue;
        }
        let end = end_of_tag(rest);
        let tag = rest[1..end].trim_end_matches('>');
        rest = &rest[end..];
        let closes = tag.starts_with('/');
        let name: String = tag
            .trim_start_matches('/')
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_ascii_lowercase();
        if name == "title" && !closes && title.is_none() {
            let (content, after) = until_closed(rest, "title");
            title = Some(
                decoded(content)
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" "),
            )
            .filter(|title| !title.is_empty());
            rest = after;
        } else if SILENT.contains(&name.as_str()) && !closes && !tag.ends_with('/') {
            let (content, after) = until_closed(rest, &name);
            if name == "head" && title.is_none() {
                title = read(&content.replace("<head", ""), false).title;
            }
            rest = after;
        } else if matches!(name.as_str(), "h1" | "h2" | "h3" | "h4" | "h5" | "h6") {
            out.line(2);
            if markdown && !closes {
                out.add(&"#".repeat(usize::from(name.as_bytes()[1] - b'0')));
                out.add(" ");
            }
        } else if name == "li" && !closes {
            out.line(1);
            out.add("- ");
        } else if name == "a" && markdown {
            if closes {
                if let Some(Some(href)) = links.pop() {
                    out.add(&format!("]({href})"));
                }
            } else if links.len() < 16 {
                let href = attribute(tag, "href")
                    .filter(|href| href.starts_with("http") || href.starts_with('/'));
                if href.is_some() {
                    out.add("[");
                }
                links.push(href);
            }
        } else if matches!(name.as_str(), "td" | "th") && closes {
            out.add(" | ");
        } else if BLOCKS.contains(&name.as_str()) {
            out.line(if name == "p" { 2 } else { 1 });
        }
    }
    out.add(&decoded(rest));
    Page {
        title,
        text: out.text.trim().to_owned(),
    }
}

/// Text in which blanks are one blank and empty lines are one empty line.
#[derive(Default)]
struct Words {
    text: String,
    blank: bool,
    lines: usize,
}

impl Words {
    fn add(&mut self, text: &str) {
        for char in text.chars() {
            if char.is_whitespace() {
                self.blank = true;
                continue;
            }
            if self.lines > 0 && !self.text.is_empty() {
                self.text.push_str(&"\n".repeat(self.lines));
            } else if self.blank
                && !self.text.is_empty()
                && self.lines == 0
                && !self.text.ends_with('\n')
            {
                self.text.push(' ');
            }
            self.blank = false;
            self.lines = 0;
            self.text.push(char);
        }
    }

    fn line(&mut self, lines: usize) {
        self.lines = self.lines.max(lines);
        self.blank = false;
    }
}

/// Where a tag ends: a `>` inside quotes is none.
fn end_of_tag(text: &str) -> usize {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at + 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    text.len()
}

/// What stands before `</name`, and what comes after that tag.
fn until_closed<'a>(text: &'a str, name: &str) -> (&'a str, &'a str) {
    let mut from = 0;
    while let Some(at) = text[from..].find("</") {
        let at = from + at;
        let rest = &text[at + 2..];
        let is_it = rest
            .get(..name.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(name))
            && !rest[name.len()..].starts_with(|char: char| char.is_ascii_alphanumeric());
        if is_it {
            return (&text[..at], &text[at + end_of_tag(&text[at..])..]);
        }
        from = at + 2;
    }
    (text, "")
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let mut from = 0;
    while let Some(at) = tag[from..].find(name) {
        let rest = tag[from + at + name.len()..].trim_start();
        from += at + name.len();
        let Some(value) = rest.strip_prefix('=') else {
            continue;
        };
        let value = value.trim_start();
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split(quote).next()?,
            _ => value.split_whitespace().next()?,
        };
        return Some(decoded(value));
    }
    None
}

fn decoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(12).position(|byte| byte == b';');
        let char = end.and_then(|end| entity(&rest[1..end]));
        match (char, end) {
            (Some(char), Some(end)) => {
                out.push(char);
                rest = &rest[end + 1..];
            }
            _ => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "mdash" => '—',
        "ndash" => '–',
        "hellip" => '…',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "copy" => '©',
        "euro" => '€',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_of_a_page() {
        let html = "<!doctype html><html><head><title>A &amp; B</title><style>p{}</style></head><body><nav>menu</nav><h1>Head</h1><p>One <b>two</b>\n three &lt;x&gt; &#8364;</p><ul><li>a</li><li><a href='https://x.y/?a=1&amp;b=2'>link</a></li></ul><script>if (a < b) { alert('</p>') }</script><!-- no --><p>1 < 2</p></body>";
        let page = read(html, true);
        assert_eq!(page.title.as_deref(), Some("A & B"));
        assert_eq!(
            page.text,
            "# Head\n\nOne two three <x> €\n\n- a\n- [link](https://x.y/?a=1&b=2)\n\n1 < 2"
        );
        assert_eq!(
            read("<h2>T</h2>x<br>y <a href=/z>w</a>", false).text,
            "T\n\nx\ny w"
        );
        assert_eq!(read("<script>never closed", true).text, "");
    }

    proptest! {
        #[test]
        fn anything_is_read(html in "[<>/a-z\"'=&;#! é-]{0,200}") {
            read(&html, true);
        }
    }
}
