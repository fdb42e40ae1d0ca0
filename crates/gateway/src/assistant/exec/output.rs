//! What a command writes: made readable, bounded, read once by whoever polls.
//!
//! Source: src/agents/bash-process-registry.ts and shell-utils.ts at 2026.9.6.

/// Characters kept of all that a command writes.
const KEPT_CHARS_MAX: usize = 200_000;
/// Characters kept for the next poll.
const PENDING_CHARS_MAX: usize = 30_000;
/// Characters shown while it works.
const TAIL_CHARS: usize = 2000;
/// Bytes of an escape sequence that does not end, before it counts as text again.
const SEQUENCE_BYTES_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Output {
    kept: Kept,
    pending: Kept,
    reader: Reader,
}

/// The end of a text.
#[derive(Debug, Default)]
struct Kept {
    text: String,
    chars: usize,
    is_cut: bool,
}

impl Kept {
    fn push(&mut self, text: &str, chars_max: usize) {
        self.text.push_str(text);
        self.chars += text.chars().count();
        // Cut seldom: a flood must not move the text with every piece.
        if self.chars > chars_max * 2 {
            self.cut(chars_max);
        }
    }

    fn cut(&mut self, chars_max: usize) {
        if self.chars <= chars_max {
            return;
        }
        let drop = self.chars - chars_max;
        let at = self.text.char_indices().nth(drop).map_or(0, |(at, _)| at);
        self.text.drain(..at);
        self.chars = chars_max;
        self.is_cut = true;
    }
}

impl Output {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let text = self.reader.read(bytes);
        if !text.is_empty() {
            self.kept.push(&text, KEPT_CHARS_MAX);
            self.pending.push(&text, PENDING_CHARS_MAX);
        }
    }

    /// All that is kept, and whether there was more.
    pub(super) fn all(&mut self) -> (&str, bool) {
        self.kept.cut(KEPT_CHARS_MAX);
        (&self.kept.text, self.kept.is_cut)
    }

    pub(super) fn tail(&self) -> &str {
        let from = self.kept.text.char_indices().rev().nth(TAIL_CHARS - 1);
        &self.kept.text[from.map_or(0, |(at, _)| at)..]
    }

    /// What came since the last time, and whether some of it is left out.
    pub(super) fn take_pending(&mut self) -> (String, bool) {
        self.pending.cut(PENDING_CHARS_MAX);
        let pending = std::mem::take(&mut self.pending);
        (pending.text, pending.is_cut)
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.text.is_empty()
    }
}

/// Bytes to text: UTF-8 over the borders of reads, without what a terminal would act on.
#[derive(Debug, Default)]
struct Reader {
    /// The beginning of a character whose rest is still to come.
    rest: Vec<u8>,
    /// An escape sequence that has not ended.
    sequence: Option<String>,
}

impl Reader {
    fn read(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let mut decoded = String::with_capacity(self.rest.len());
        let mut from = 0;
        loop {
            match std::str::from_utf8(&self.rest[from..]) {
                Ok(text) => {
                    decoded.push_str(text);
                    from = self.rest.len();
                    break;
                }
                Err(error) => {
                    let good = from + error.valid_up_to();
                    decoded
                        .push_str(std::str::from_utf8(&self.rest[from..good]).unwrap_or_default());
                    match error.error_len() {
                        Some(bad) => {
                            decoded.push('\u{fffd}');
                            from = good + bad;
                        }
                        None => {
                            from = good;
                            break;
                        }
                    }
                }
            }
        }
        self.rest.drain(..from);
        let mut out = String::with_capacity(decoded.len());
        for char in decoded.chars() {
            self.take(char, &mut out);
        }
        out
    }

    fn take(&mut self, char: char, out: &mut String) {
        if let Some(sequence) = &mut self.sequence {
            sequence.push(char);
            match ended(sequence) {
                Some(true) => self.sequence = None,
                Some(false) => {
                    let text = self.sequence.take().unwrap_or_default();
                    text.chars().for_each(|char| show(char, out));
                }
                None if sequence.len() > SEQUENCE_BYTES_MAX => self.sequence = None,
                None => {}
            }
            return;
        }
        match char {
            '\u{1b}' => self.sequence = Some(char.to_string()),
            // The same sequences in one character.
            '\u{9b}' => self.sequence = Some("\u{1b}[".to_owned()),
            '\u{9d}' => self.sequence = Some("\u{1b}]".to_owned()),
            char => show(char, out),
        }
    }
}

/// Whether what begins with an escape has ended: `Some(false)` when it is no sequence.
fn ended(sequence: &str) -> Option<bool> {
    let mut chars = sequence.chars().skip(1);
    let last = sequence.chars().next_back()?;
    match chars.next()? {
        // Parameters, then one letter.
        '[' => match last {
            _ if sequence.chars().count() == 2 => None,
            '\u{40}'..='\u{7e}' => Some(true),
            '\u{20}'..='\u{3f}' => None,
            _ => Some(false),
        },
        // A string, up to a bell or a string terminator.
        ']' | 'P' | '_' | '^' | 'X' => {
            let has_ended = last == '\u{7}' || last == '\u{9c}' || sequence.ends_with("\u{1b}\\");
            has_ended.then_some(true)
        }
        '\u{20}'..='\u{2f}' => match last {
            _ if sequence.chars().count() == 2 => None,
            '\u{20}'..='\u{2f}' => None,
            '\u{30}'..='\u{7e}' => Some(true),
            _ => Some(false),
        },
        '\u{30}'..='\u{7e}' => Some(true),
        _ => Some(false),
    }
}

fn show(char: char, out: &mut String) {
    match char {
        '\t' | '\n' | '\r' => out.push(char),
        char if char.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(char))),
        char if is_format(char) => {}
        char => out.push(char),
    }
}

/// Characters that are not seen but change how others are (category Cf).
pub(super) fn is_format(char: char) -> bool {
    matches!(u32::from(char),
        0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2 | 0x180e | 0x200b..=0x200f
        | 0x202a..=0x202e | 0x2060..=0x2064 | 0x2066..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0x110bd | 0x110cd
        | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0001 | 0xe0020..=0xe007f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> String {
        let mut output = Output::default();
        for piece in pieces {
            output.push(piece);
        }
        output.all().0.to_owned()
    }

    #[test]
    fn colours_go_and_the_rest_can_be_read() {
        assert_eq!(read(&[b"a\x1b[3", b"1mred\x1b[0m\n"]), "ared\n");
        assert_eq!(read(&[b"\x1b]0;title\x07x\x1b]8;;u\x1b\\y"]), "xy");
        assert_eq!(read(&[b"\x1b(Bq\x1b7z"]), "qz");
        assert_eq!(read(&[b"\x00\x07\t\r\n"]), "\\x00\\x07\t\r\n");
        assert_eq!(
            read(&["zero\u{200b}width\u{202e}!".as_bytes()]),
            "zerowidth!"
        );
        assert_eq!(read(&[b"\xc3", b"\xa9\xff!"]), "\u{e9}\u{fffd}!");
    }

    #[test]
    fn a_flood_keeps_its_end() {
        let mut output = Output::default();
        for at in 0..200_000 {
            output.push(format!("{at}\n").as_bytes());
        }
        assert_eq!(output.tail().chars().count(), TAIL_CHARS);
        let (pending, is_cut) = output.take_pending();
        assert!(
            is_cut && pending.chars().count() == PENDING_CHARS_MAX && pending.ends_with("199999\n")
        );
        assert!(!output.has_pending());
        let (all, is_cut) = output.all();
        assert!(is_cut && all.chars().count() == KEPT_CHARS_MAX && all.ends_with("199999\n"));
    }
}
