//! One line of IRC: parsed without trust, written without letting text become a command.
//! Source: RFC 1459 section 2.3, IRCv3 message tags.

/// Bytes of one line, CR LF included, tags not. Source: RFC 1459 section 2.3.
pub(super) const LINE_BYTES_MAX: usize = 512;
/// Bytes of the tags that a server may put before it. Source: IRCv3 message tags.
pub(super) const TAGS_BYTES_MAX: usize = 8191;

/// A line from the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Line {
    pub(super) tags: Vec<(String, String)>,
    /// `nick!user@host` or a server's name.
    pub(super) prefix: Option<String>,
    /// Upper case, or three digits.
    pub(super) command: String,
    pub(super) params: Vec<String>,
}

impl Line {
    /// `None`: nothing that has a command. Bytes that are no UTF-8 become U+FFFD.
    pub(super) fn parse(raw: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(raw);
        let mut rest = text.trim_end_matches(['\r', '\n']);
        let mut line = Self::default();
        if let Some(tagged) = rest.strip_prefix('@') {
            let (tags, after) = tagged.split_once(' ')?;
            line.tags = tags
                .split(';')
                .filter(|tag| !tag.is_empty())
                .map(|tag| match tag.split_once('=') {
                    Some((key, value)) => (key.to_owned(), unescape(value)),
                    None => (tag.to_owned(), String::new()),
                })
                .collect();
            rest = after.trim_start_matches(' ');
        }
        if let Some(prefixed) = rest.strip_prefix(':') {
            let (prefix, after) = prefixed.split_once(' ')?;
            line.prefix = Some(prefix.to_owned());
            rest = after.trim_start_matches(' ');
        }
        let (command, mut rest) = rest.split_once(' ').unwrap_or((rest, ""));
        if command.is_empty() || !command.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        line.command = command.to_ascii_uppercase();
        while !rest.is_empty() {
            if let Some(trailing) = rest.strip_prefix(':') {
                line.params.push(trailing.to_owned());
                break;
            }
            let (param, after) = rest.split_once(' ').unwrap_or((rest, ""));
            if !param.is_empty() {
                line.params.push(param.to_owned());
            }
            rest = after;
        }
        Some(line)
    }

    pub(super) fn tag(&self, key: &str) -> Option<&str> {
        self.tags
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn param(&self, at: usize) -> &str {
        self.params.get(at).map_or("", String::as_str)
    }

    /// The nick of the prefix.
    pub(super) fn nick(&self) -> &str {
        let prefix = self.prefix.as_deref().unwrap_or("");
        prefix.split(['!', '@']).next().unwrap_or(prefix)
    }
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some(':') => out.push(';'),
            Some('s') => out.push(' '),
            Some('r') => out.push('\r'),
            Some('n') => out.push('\n'),
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

/// True for what can stand as a parameter in the middle: a target, a nick, a channel.
pub(super) fn is_middle(param: &str) -> bool {
    !param.is_empty()
        && !param.starts_with(':')
        && !param
            .bytes()
            .any(|b| matches!(b, 0 | b'\r' | b'\n' | b' ' | b','))
}

/// The texts of the lines that carry `text`, none longer than `bytes_max`, cut between words where
/// there are any and never inside a character. Control characters that would end the line go.
pub(super) fn split_text(text: &str, bytes_max: usize) -> Vec<String> {
    // A character has up to four bytes: less room than that would never end.
    let bytes_max = bytes_max.max(4);
    let mut out = Vec::new();
    for line in text.split(['\n', '\r']) {
        let clean: String = line
            .chars()
            .filter(|c| !matches!(c, '\0' | '\u{1}'))
            .map(|c| if c == '\t' { ' ' } else { c })
            .collect();
        let mut rest = clean.trim_end();
        while rest.len() > bytes_max {
            let hard = rest.floor_char_boundary(bytes_max);
            let cut = match rest[..hard].rfind(' ') {
                // A word longer than half a line is cut rather than leaving the line half empty.
                Some(space) if space >= hard / 2 => space,
                _ => hard,
            };
            out.push(rest[..cut].to_owned());
            rest = rest[cut..].trim_start_matches(' ');
        }
        if !rest.trim().is_empty() {
            out.push(rest.to_owned());
        }
    }
    out
}

/// How the server compares names. Source: `CASEMAPPING` of its 005.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum CaseMapping {
    Ascii,
    #[default]
    Rfc1459,
}

impl CaseMapping {
    pub(super) fn fold(self, name: &str) -> String {
        name.chars()
            .map(|c| match (self, c) {
                (Self::Rfc1459, '[') => '{',
                (Self::Rfc1459, ']') => '}',
                (Self::Rfc1459, '\\') => '|',
                (Self::Rfc1459, '~') => '^',
                (_, c) => c.to_ascii_lowercase(),
            })
            .collect()
    }

    pub(super) fn same(self, one: &str, other: &str) -> bool {
        self.fold(one) == self.fold(other)
    }
}

/// The nick stands in the text as a word of its own.
pub(super) fn mentions(text: &str, nick: &str, mapping: CaseMapping) -> bool {
    let (text, nick) = (mapping.fold(text), mapping.fold(nick));
    let in_nick = |c: char| c.is_alphanumeric() || "{}|^_-`".contains(c);
    !nick.is_empty()
        && text.match_indices(&nick).any(|(at, found)| {
            !text[..at].chars().next_back().is_some_and(in_nick)
                && !text[at + found.len()..].chars().next().is_some_and(in_nick)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_has_tags_prefix_command_and_parameters() {
        let line =
            Line::parse(b"@msgid=a\\sb\\:;+x :amy!u@h privmsg #room :hello  there : all\r\n")
                .expect("a line");
        assert_eq!(line.tag("msgid"), Some("a b;"));
        assert_eq!(line.tag("+x"), Some(""));
        assert_eq!(line.nick(), "amy");
        assert_eq!(line.command, "PRIVMSG");
        assert_eq!(line.params, ["#room", "hello  there : all"]);
    }

    #[test]
    fn what_has_no_command_is_no_line() {
        for raw in ["", "\r\n", ":only", "@tags", "@a :b", ": ", "a-b c"] {
            assert_eq!(Line::parse(raw.as_bytes()), None, "{raw:?}");
        }
    }

    #[test]
    fn a_nick_is_mentioned_as_a_word() {
        let check = |text| mentions(text, "Bot[x]", CaseMapping::Rfc1459);
        assert!(check("bot{X}: hello"));
        assert!(check("hello BOT[x]"));
        assert!(check("(bot[x])"));
        assert!(!check("robot[x] hello"));
        assert!(!check("bot[x]_ hello"));
        assert!(!mentions("anything", "", CaseMapping::Ascii));
    }

    #[test]
    fn lines_are_cut_between_words() {
        assert_eq!(split_text("aaa bbb ccc", 8), ["aaa bbb", "ccc"]);
        assert_eq!(split_text("one\r\n\r\ntwo", 400), ["one", "two"]);
        assert_eq!(split_text("äöüß", 4), ["äö", "üß"]);
        assert!(split_text("\u{1}\0 ", 400).is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(raw in proptest::collection::vec(any::<u8>(), 0..700)) {
            if let Some(line) = Line::parse(&raw) {
                prop_assert!(!line.command.is_empty());
            }
        }

        #[test]
        fn text_can_never_become_a_second_line(text in any::<String>(), max in 1usize..500) {
            for part in split_text(&text, max) {
                prop_assert!(part.len() <= max.max(4));
                prop_assert!(!part.contains(['\r', '\n', '\0']));
                prop_assert!(!part.trim().is_empty());
            }
        }

        #[test]
        fn splitting_loses_no_visible_character(text in "[a-zäöü漢 ]{0,300}", max in 4usize..60) {
            let letters = |s: &str| s.chars().filter(|c| *c != ' ').collect::<String>();
            prop_assert_eq!(letters(&split_text(&text, max).concat()), letters(&text));
        }
    }
}
