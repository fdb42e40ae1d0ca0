//! Lines of a server-sent event stream, bounded.

use bytes::BytesMut;

/// Collects bytes into lines; what is longer than the limit is an error before it is in memory.
pub(crate) struct Lines {
    buffer: BytesMut,
    line_bytes_max: usize,
}

impl Lines {
    pub(crate) fn new(line_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            line_bytes_max,
        }
    }

    /// Adds a piece of the stream.
    ///
    /// # Errors
    /// When a line grows too long.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        // Searched from the end: a long line is refused while it grows.
        let tail = bytes.iter().rposition(|byte| *byte == b'\n');
        let open = match tail {
            Some(at) => bytes.len() - at - 1,
            None => self.buffer.len() + bytes.len(),
        };
        self.buffer.extend_from_slice(bytes);
        if open > self.line_bytes_max {
            return Err(format!("a line of more than {} bytes", self.line_bytes_max));
        }
        Ok(())
    }

    /// The next whole line, without its end.
    pub(crate) fn next(&mut self) -> Option<String> {
        let at = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let line = self.buffer.split_to(at + 1);
        let line = &line[..at];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Some(String::from_utf8_lossy(line).into_owned())
    }

    /// What came after the last line end.
    pub(crate) fn rest(&mut self) -> Option<String> {
        let rest = self.buffer.split();
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }
}

/// The data of a line; `None` for comments, names and blanks.
pub(crate) fn data(line: &str) -> Option<&str> {
    let data = line.strip_prefix("data:")?;
    Some(data.strip_prefix(' ').unwrap_or(data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_are_cut(
            text in "[a-z\r\n]{0,80}",
            cuts in prop::collection::vec(0usize..80, 0..6),
        ) {
            let whole = {
                let mut lines = Lines::new(1 << 20);
                lines.push(text.as_bytes()).expect("short");
                std::iter::from_fn(|| lines.next()).collect::<Vec<_>>()
            };
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.push(0);
            cuts.push(text.len());
            cuts.sort_unstable();
            let mut lines = Lines::new(1 << 20);
            let mut parts = Vec::new();
            for pair in cuts.windows(2) {
                lines.push(&text.as_bytes()[pair[0]..pair[1]]).expect("short");
                parts.extend(std::iter::from_fn(|| lines.next()));
            }
            prop_assert_eq!(parts, whole);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::new(10);
        lines.push(b"123456789\nabc").expect("fits");
        assert!(lines.push(b"defghijkl").is_err());
    }
}
