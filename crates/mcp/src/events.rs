//! Server-sent events, bounded, read as the HTML standard says: a line that means nothing is left out, and breaks nothing.
//!
//! Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation. The SDK's own parser
//! ends the stream at such a line, and the SDK asks for the next stream at once.

use std::ops::RangeInclusive;

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use reqwest::Response;
use sse_stream::Sse;

use crate::http::words;

/// What a server may wish for the pause before its stream is asked for again, in milliseconds: more or less is taken as the nearest.
const RETRY_MS: RangeInclusive<u64> = 1_000..=600_000;

/// Why a stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("{}", words(.0))]
    Http(reqwest::Error),
    #[error("an event of more than {0} bytes")]
    TooLong(usize),
}

/// The events of an answer. What breaks them, one longer than `bytes_max` too, is the last that comes.
pub(crate) fn events(
    response: Response,
    bytes_max: usize,
) -> BoxStream<'static, Result<Sse, Broken>> {
    let source = Some((response, Bytes::new(), Reader::new(bytes_max)));
    let events = stream::unfold(source, |source| async move {
        let (mut response, mut piece, mut reader) = source?;
        loop {
            match reader.next(&mut piece) {
                Ok(Some(event)) => return Some((Ok(event), Some((response, piece, reader)))),
                Ok(None) => {}
                Err(broken) => return Some((Err(broken), None)),
            }
            piece = match response.chunk().await {
                Ok(next) => next?,
                Err(error) => return Some((Err(Broken::Http(error)), None)),
            };
        }
    });
    events.boxed()
}

/// What was read of the event and the line under way.
struct Reader {
    bytes_max: usize,
    event: Option<Sse>,
    event_bytes: usize,
    line: Vec<u8>,
    /// A line end of two bytes may come in two pieces.
    was_cr: bool,
    is_first_line: bool,
}

impl Reader {
    const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            event: None,
            event_bytes: 0,
            line: Vec::new(),
            was_cr: false,
            is_first_line: true,
        }
    }

    /// The next event that ends in `piece`, from which what was read is taken away.
    fn next(&mut self, piece: &mut Bytes) -> Result<Option<Sse>, Broken> {
        while let Some(first) = piece.first() {
            if std::mem::take(&mut self.was_cr) && *first == b'\n' {
                piece.advance(1);
                continue;
            }
            let end = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let read = piece.split_to(end.unwrap_or(piece.len()));
            if self.event_bytes + self.line.len() + read.len() > self.bytes_max {
                return Err(Broken::TooLong(self.bytes_max));
            }
            self.line.extend_from_slice(&read);
            let Some(end) = piece.first() else {
                break;
            };
            self.was_cr = *end == b'\r';
            piece.advance(1);
            if let Some(event) = self.end_line() {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn end_line(&mut self) -> Option<Sse> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = match std::mem::take(&mut self.is_first_line) {
            true => line.strip_prefix('\u{feff}').unwrap_or(&line),
            false => &line,
        };
        if line.is_empty() {
            self.event_bytes = 0;
            return self.event.take();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        let mut event = self.event.take().unwrap_or_default();
        let mut counts = true;
        match field {
            "data" => match &mut event.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => event.data = Some(value.to_owned()),
            },
            "event" => event.event = Some(value.to_owned()).filter(|name| !name.is_empty()),
            "id" if !value.contains('\0') => event.id = Some(value.to_owned()),
            "retry" => match value.parse::<u64>() {
                Ok(ms) => event.retry = Some(ms.clamp(*RETRY_MS.start(), *RETRY_MS.end())),
                Err(_no_count) => counts = false,
            },
            _ => counts = false,
        }
        if counts {
            self.event_bytes += line.len() + 1;
        }
        self.event = Some(event).filter(|event| *event != Sse::default());
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All events of a text that comes in pieces of so many bytes, and whether they break off.
    fn read(text: &str, piece_bytes: usize, bytes_max: usize) -> (Vec<Sse>, bool) {
        let mut reader = Reader::new(bytes_max);
        let mut events = Vec::new();
        for piece in text.as_bytes().chunks(piece_bytes) {
            let mut piece = Bytes::copy_from_slice(piece);
            loop {
                match reader.next(&mut piece) {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(_) => return (events, true),
                }
            }
        }
        (events, false)
    }

    fn event(data: &str) -> Sse {
        Sse {
            data: Some(data.to_owned()),
            ..Sse::default()
        }
    }

    #[test]
    fn events_are_read_however_they_come() {
        let check = |text: &str, expected: &[Sse]| {
            for piece_bytes in [1, 2, 3, 1000] {
                let (events, is_broken) = read(text, piece_bytes, 1000);
                assert_eq!(events, expected, "{text:?} by {piece_bytes}");
                assert!(!is_broken);
            }
        };
        for end in ["\n", "\r\n", "\r"] {
            let text = "data: a\ndata:b\n\n\ndata\n\ndata: c\n\n".replace('\n', end);
            check(&text, &[event("a\nb"), event(""), event("c")]);
        }
        let all = Sse {
            event: Some("message".to_owned()),
            data: Some("x: y".to_owned()),
            id: Some("7".to_owned()),
            retry: Some(2500),
        };
        let text = "\u{feff}: hi\nevent: other\nevent: message\nid: 7\nretry: 2500\ndata: x: y\n\n";
        check(text, &[all]);
        check(
            "no field\nunknown: 1\ndata: a\nid: \0\nretry: soon\n\nunknown\n\ndata: \u{fffd}\n\n",
            &[event("a"), event("\u{fffd}")],
        );
        // What has no end is no event.
        check("data: a\n\ndata: b\n", &[event("a")]);
    }

    #[test]
    fn what_is_not_utf_8_breaks_nothing() {
        let mut reader = Reader::new(100);
        let mut piece = Bytes::from_static(b"data: \xff\xfe\n\n");
        let read = reader.next(&mut piece).expect("read");
        assert_eq!(read, Some(event("\u{fffd}\u{fffd}")));
    }

    #[test]
    fn a_pause_is_neither_none_nor_endless() {
        for (wish, expected) in [
            ("0", 1_000),
            ("4000", 4_000),
            ("18446744073709551615", 600_000),
        ] {
            let (events, _) = read(&format!("retry: {wish}\n\n"), 1000, 1000);
            assert_eq!(events[0].retry, Some(expected), "{wish}");
        }
    }

    #[test]
    fn an_event_is_bounded_whatever_ends_its_lines() {
        for end in ["\n", "\r\n", "\r"] {
            for piece_bytes in [1, 7, 1000] {
                let lines = format!("data: 12345678{end}").repeat(20);
                assert_eq!(read(&lines, piece_bytes, 100), (vec![], true), "{end:?}");
                let empty = format!("data{end}").repeat(50);
                assert_eq!(read(&empty, piece_bytes, 100), (vec![], true), "{end:?}");
                let events = format!("data: 12345678{end}{end}").repeat(20);
                let (read, is_broken) = read(&events, piece_bytes, 100);
                assert_eq!((read.len(), is_broken), (20, false), "{end:?}");
            }
        }
        assert_eq!(read(&"x".repeat(101), 10, 100), (vec![], true));
        // Comments keep a connection alive, and nothing of them is kept.
        assert_eq!(read(&": alive\n".repeat(50), 10, 100), (vec![], false));
    }
}
