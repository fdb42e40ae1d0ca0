//! JSON5 reader that remembers where every key and value stands.
//!
//! Accepts and rejects what the npm package `json5` 2.2.3 does, with its messages and positions
//! (`JSON5: invalid character 'x' at 1:2`), because `config.get` shows them to clients.

use serde_json::{Map, Number, Value};

/// Deeper nesting is an error; the original's limit is its stack.
const DEPTH_MAX: u32 = 256;

/// 1-based line and column (in UTF-16 units, as editors and the npm package count).
pub(super) type Position = (u32, u32);

/// Where a value and what is in it stand in a file. A member's position is its key's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spans {
    pub at: Position,
    /// Byte offsets in the text: where the member's key begins (the value itself in a list), and the value's
    /// first byte and the one after its last.
    pub key: usize,
    pub start: usize,
    pub end: usize,
    pub children: Vec<(String, Spans)>,
}

/// A container's value and the places of its members.
type Members = Result<(Value, Vec<(String, Spans)>), SyntaxError>;

impl Spans {
    /// The position of the value at `path`, or of the nearest enclosing one that exists.
    pub(crate) fn locate<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> (Position, bool) {
        let mut node = self;
        for segment in path {
            // The last of equal keys is the one that counts.
            match node.children.iter().rev().find(|(key, _)| key == segment) {
                Some((_, child)) => node = child,
                None => return (node.at, false),
            }
        }
        (node.at, true)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// The npm package's message, position included.
    pub message: String,
    pub at: Position,
}

pub(super) fn parse(text: &str) -> Result<(Value, Spans), SyntaxError> {
    let mut parser = Parser {
        rest: text.chars(),
        bytes: text.len(),
        line: 1,
        column: 0,
        depth: 0,
    };
    parser.blanks()?;
    let parsed = parser.value()?;
    parser.blanks()?;
    match parser.peek() {
        None => Ok(parsed),
        Some(_) => Err(parser.invalid()),
    }
}

struct Parser<'a> {
    rest: std::str::Chars<'a>,
    /// Of the whole text.
    bytes: usize,
    line: u32,
    column: u32,
    depth: u32,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn read(&mut self) -> Option<char> {
        let c = self.rest.next();
        match c {
            Some('\n') => {
                self.line += 1;
                self.column = 0;
            }
            Some(c) => self.column += u32::try_from(c.len_utf16()).expect("1 or 2"),
            None => self.column += 1,
        }
        c
    }

    /// Consumes the next character and says that it does not belong there.
    fn invalid(&mut self) -> SyntaxError {
        let what = match self.read() {
            Some(c) => format!("invalid character '{}'", shown(c)),
            None => "invalid end of input".to_owned(),
        };
        self.error(&what)
    }

    fn error(&self, what: &str) -> SyntaxError {
        let at = (self.line, self.column);
        SyntaxError {
            message: format!("JSON5: {what} at {}:{}", at.0, at.1),
            at,
        }
    }

    fn here(&self) -> Position {
        (self.line, self.column + 1)
    }

    /// The byte offset of the next character.
    fn offset(&self) -> usize {
        self.bytes - self.rest.as_str().len()
    }

    fn blanks(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.peek() {
                Some('/') => {
                    self.read();
                    self.comment()?;
                }
                Some(c) if is_blank(c) => {
                    self.read();
                }
                _ => return Ok(()),
            }
        }
    }

    fn comment(&mut self) -> Result<(), SyntaxError> {
        match self.peek() {
            Some('/') => {
                while let Some(c) = self.read() {
                    if matches!(c, '\n' | '\r' | '\u{2028}' | '\u{2029}') {
                        break;
                    }
                }
                Ok(())
            }
            Some('*') => {
                self.read();
                let mut star = false;
                loop {
                    match self.peek() {
                        None => return Err(self.invalid()),
                        Some('/') if star => {
                            self.read();
                            return Ok(());
                        }
                        Some(c) => {
                            star = c == '*';
                            self.read();
                        }
                    }
                }
            }
            _ => Err(self.invalid()),
        }
    }

    fn value(&mut self) -> Result<(Value, Spans), SyntaxError> {
        let (at, start) = (self.here(), self.offset());
        let leaf = |value| Ok((value, Vec::new()));
        let (value, children) = match self.peek() {
            Some('{') => self.nested(Self::object),
            Some('[') => self.nested(Self::array),
            Some('n') => self.word("null").and_then(|()| leaf(Value::Null)),
            Some('t') => self.word("true").and_then(|()| leaf(Value::Bool(true))),
            Some('f') => self.word("false").and_then(|()| leaf(Value::Bool(false))),
            Some('"' | '\'') => self.string().and_then(|text| leaf(Value::String(text))),
            Some('-' | '+' | '.' | '0'..='9' | 'I' | 'N') => {
                self.number().and_then(|number| leaf(number_value(number)))
            }
            _ => Err(self.invalid()),
        }?;
        let spans = Spans {
            at,
            key: start,
            start,
            end: self.offset(),
            children,
        };
        Ok((value, spans))
    }

    fn nested(&mut self, read: fn(&mut Self) -> Members) -> Members {
        self.read();
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error(&format!("more than {DEPTH_MAX} nested levels")));
        }
        let members = read(self)?;
        self.depth -= 1;
        Ok(members)
    }

    fn object(&mut self) -> Result<(Value, Vec<(String, Spans)>), SyntaxError> {
        let mut members = Map::new();
        let mut spans = Vec::new();
        loop {
            self.blanks()?;
            let (at, start) = (self.here(), self.offset());
            let key = match self.peek() {
                Some('}') => {
                    self.read();
                    break;
                }
                Some('"' | '\'') => self.string()?,
                _ => self.identifier()?,
            };
            self.blanks()?;
            if self.peek() != Some(':') {
                return Err(self.invalid());
            }
            self.read();
            self.blanks()?;
            let (value, inner) = self.value()?;
            let inner = Spans {
                at,
                key: start,
                ..inner
            };
            spans.push((key.clone(), inner));
            members.insert(key, value);
            self.blanks()?;
            match self.peek() {
                Some(',') => {
                    self.read();
                }
                Some('}') => {}
                _ => return Err(self.invalid()),
            }
        }
        Ok((Value::Object(members), spans))
    }

    fn array(&mut self) -> Result<(Value, Vec<(String, Spans)>), SyntaxError> {
        let mut items = Vec::new();
        let mut spans = Vec::new();
        loop {
            self.blanks()?;
            if self.peek() == Some(']') {
                self.read();
                break;
            }
            let (value, inner) = self.value()?;
            spans.push((items.len().to_string(), inner));
            items.push(value);
            self.blanks()?;
            match self.peek() {
                Some(',') => {
                    self.read();
                }
                Some(']') => {}
                _ => return Err(self.invalid()),
            }
        }
        Ok((Value::Array(items), spans))
    }

    fn word(&mut self, word: &str) -> Result<(), SyntaxError> {
        for expected in word.chars() {
            if self.peek() != Some(expected) {
                return Err(self.invalid());
            }
            self.read();
        }
        Ok(())
    }

    fn identifier(&mut self) -> Result<String, SyntaxError> {
        let mut name = String::new();
        loop {
            let first = name.is_empty();
            match self.peek() {
                Some('\\') => {
                    self.read();
                    if self.peek() != Some('u') {
                        return Err(self.invalid());
                    }
                    self.read();
                    let unit = self.hex_units(4)?;
                    let c = char::from_u32(u32::from(unit)).unwrap_or(char::REPLACEMENT_CHARACTER);
                    if !is_identifier(c, first) {
                        self.column = self.column.saturating_sub(5);
                        return Err(self.error("invalid identifier character"));
                    }
                    name.push(c);
                }
                Some(c) if is_identifier(c, first) => {
                    self.read();
                    name.push(c);
                }
                _ if first => return Err(self.invalid()),
                _ => return Ok(name),
            }
        }
    }

    fn number(&mut self) -> Result<f64, SyntaxError> {
        let mut sign = 1.0;
        if let Some(c @ ('-' | '+')) = self.peek() {
            self.read();
            if c == '-' {
                sign = -1.0;
            }
        }
        let mut digits = String::new();
        match self.peek() {
            Some('I') => return self.word("Infinity").map(|()| sign * f64::INFINITY),
            Some('N') => return self.word("NaN").map(|()| f64::NAN),
            Some('0') => {
                self.read();
                if matches!(self.peek(), Some('x' | 'X')) {
                    self.read();
                    return self.hexadecimal().map(|number| sign * number);
                }
                digits.push('0');
            }
            Some('1'..='9') => self.digits(&mut digits),
            Some('.') => {
                self.read();
                if !self.peek().is_some_and(|c| c.is_ascii_digit()) {
                    return Err(self.invalid());
                }
                digits.push_str("0.");
                self.digits(&mut digits);
                return self.exponent(digits).map(|number| sign * number);
            }
            _ => return Err(self.invalid()),
        }
        if self.peek() == Some('.') {
            self.read();
            digits.push('.');
            self.digits(&mut digits);
        }
        self.exponent(digits).map(|number| sign * number)
    }

    fn digits(&mut self, out: &mut String) {
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            self.read();
            out.push(c);
        }
    }

    fn exponent(&mut self, mut digits: String) -> Result<f64, SyntaxError> {
        if matches!(self.peek(), Some('e' | 'E')) {
            self.read();
            digits.push('e');
            if let Some(c @ ('+' | '-')) = self.peek() {
                self.read();
                digits.push(c);
            }
            if !self.peek().is_some_and(|c| c.is_ascii_digit()) {
                return Err(self.invalid());
            }
            self.digits(&mut digits);
        }
        Ok(digits
            .parse()
            .expect("digits, point and exponent are a number"))
    }

    fn hexadecimal(&mut self) -> Result<f64, SyntaxError> {
        let mut number = 0.0;
        let mut any = false;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) {
            self.read();
            number = number * 16.0 + f64::from(digit);
            any = true;
        }
        if any { Ok(number) } else { Err(self.invalid()) }
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let quote = self.read();
        let mut units: Vec<u16> = Vec::new();
        let mut buffer = [0; 2];
        loop {
            let c = match self.peek() {
                Some('\\') => {
                    self.read();
                    match self.escape()? {
                        Escape::Unit(unit) => units.push(unit),
                        Escape::Char(c) => units.extend_from_slice(c.encode_utf16(&mut buffer)),
                        Escape::Nothing => {}
                    }
                    continue;
                }
                None | Some('\n' | '\r') => return Err(self.invalid()),
                Some(c) => c,
            };
            self.read();
            if Some(c) == quote {
                return Ok(String::from_utf16_lossy(&units));
            }
            units.extend_from_slice(c.encode_utf16(&mut buffer));
        }
    }

    fn escape(&mut self) -> Result<Escape, SyntaxError> {
        let Some(c) = self.peek() else {
            return Err(self.invalid());
        };
        if matches!(c, '1'..='9') {
            return Err(self.invalid());
        }
        self.read();
        Ok(match c {
            'b' => Escape::Char('\u{8}'),
            'f' => Escape::Char('\u{c}'),
            'n' => Escape::Char('\n'),
            'r' => Escape::Char('\r'),
            't' => Escape::Char('\t'),
            'v' => Escape::Char('\u{b}'),
            '0' if self.peek().is_some_and(|c| c.is_ascii_digit()) => return Err(self.invalid()),
            '0' => Escape::Char('\0'),
            'x' => Escape::Unit(self.hex_units(2)?),
            'u' => Escape::Unit(self.hex_units(4)?),
            '\n' | '\u{2028}' | '\u{2029}' => Escape::Nothing,
            '\r' => {
                if self.peek() == Some('\n') {
                    self.read();
                }
                Escape::Nothing
            }
            other => Escape::Char(other),
        })
    }

    fn hex_units(&mut self, count: usize) -> Result<u16, SyntaxError> {
        let mut unit = 0u16;
        for _ in 0..count {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else {
                return Err(self.invalid());
            };
            self.read();
            unit = unit << 4 | u16::try_from(digit).expect("below 16");
        }
        Ok(unit)
    }
}

enum Escape {
    Unit(u16),
    Char(char),
    Nothing,
}

/// A JavaScript number as JSON would carry it: whole ones without a point, others as they are, and
/// `null` for those JSON has no word for.
pub(super) fn number_value(number: f64) -> Value {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= WHOLE_MAX {
        #[allow(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        return Value::Number(Number::from(number as i64));
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

fn is_blank(c: char) -> bool {
    // JSON5 white space: these and Unicode category Zs, which `char::is_whitespace` covers but for
    // U+0085, a control character that JSON5 rejects.
    (c.is_whitespace() && c != '\u{85}') || c == '\u{feff}'
}

fn is_identifier(c: char, first: bool) -> bool {
    if matches!(c, '$' | '_') || c.is_alphabetic() {
        return true;
    }
    !first && (matches!(c, '\u{200c}' | '\u{200d}') || c.is_numeric())
}

fn shown(c: char) -> String {
    match c {
        '\'' | '"' | '\\' => format!("\\{c}"),
        '\u{8}' => "\\b".to_owned(),
        '\u{c}' => "\\f".to_owned(),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        '\u{b}' => "\\v".to_owned(),
        '\0' => "\\0".to_owned(),
        '\u{2028}' => "\\u2028".to_owned(),
        '\u{2029}' => "\\u2029".to_owned(),
        c if c < ' ' => format!("\\x{:02x}", u32::from(c)),
        c => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_json5() {
        let text = "// head\n{ /* x */ a: 1, 'b': [1, .5, +2, 0x1F, 1e3, -0,], \"c\": 'it\\'s \\x41\\uD83D\\uDE00\\\n!',\n $_é: null, t: true, u: 5., f: {}, }  // end";
        let (value, _) = parse(text).expect("valid");
        let want = json!({
            "a": 1, "b": [1, 0.5, 2, 31, 1000, 0], "c": "it's A😀!", "$_é": null, "t": true,
            "u": 5, "f": {}
        });
        assert_eq!(value, want);
    }

    #[test]
    fn remembers_positions() {
        let (_, spans) =
            parse("{\n  gateway: {\n    port: 'x',\n    list: [1,\n 2] }\n}").expect("valid");
        let at = |path: &[&str]| spans.locate(path.iter().copied());
        assert_eq!(at(&["gateway", "port"]), ((3, 5), true));
        assert_eq!(at(&["gateway", "list", "1"]), ((5, 2), true));
        assert_eq!(at(&["gateway", "none", "x"]), ((2, 3), false));
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(
            parse(&"[".repeat(100_000))
                .expect_err("too deep")
                .message
                .contains("nested")
        );
        assert!(parse(&format!("{}{}", "[".repeat(200), "]".repeat(200))).is_ok());
    }

    /// Messages of json5 2.2.3 for the same texts, recorded by tests/config/record.mjs.
    #[test]
    fn errors_are_the_npm_package_s() {
        let recorded = include_str!("../../../../tests/config/fixtures/json5-errors.json");
        let cases: Vec<(String, Option<String>)> = serde_json::from_str(recorded).expect("fixture");
        assert!(cases.len() > 30);
        for (text, error) in cases {
            let got = parse(&text).err().map(|error| error.message);
            assert_eq!(got, error, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_reads_json(text in "[\\PC\\n]{0,40}", tree in crate::config::tests::tree()) {
            let _ignored = parse(&text);
            let pretty = serde_json::to_string_pretty(&tree).expect("json");
            proptest::prop_assert_eq!(parse(&pretty).expect("valid").0, tree);
        }
    }
}
