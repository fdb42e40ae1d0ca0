//! A file of which a few places are read.

use std::io::{BufReader, Read, Seek, SeekFrom};

use crate::MediaError;

/// Parts (boxes, elements, pages) that are looked at; an hour of video has some hundred before its frames.
const PARTS_MAX: u64 = 20_000;
/// Longest piece that is read at once.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// All that is read of one file; the tables of a day of sound have 16 MiB.
const READ_BYTES_MAX: u64 = 64 << 20;

/// What can be read at any place. One type, so that the readers are compiled once.
pub(super) trait Source: Read + Seek {}

impl<T: Read + Seek> Source for T {}

pub(super) struct Input<'a> {
    source: BufReader<&'a mut dyn Source>,
    /// Where the source stands.
    at: u64,
    pub(super) len: u64,
    pub(super) format: &'static str,
    parts: u64,
    read: u64,
}

impl<'a> Input<'a> {
    pub(super) fn new(source: &'a mut dyn Source) -> Result<Self, MediaError> {
        let len = source.seek(SeekFrom::End(0));
        let len = len.and_then(|len| source.rewind().map(|()| len));
        Ok(Self {
            len: len.map_err(|error| unread(&error))?,
            source: BufReader::with_capacity(4096, source),
            at: 0,
            format: "media",
            parts: 0,
            read: 0,
        })
    }

    /// `len` bytes from `at`, or those that there are.
    pub(super) fn up_to(&mut self, at: u64, len: usize) -> Result<Vec<u8>, MediaError> {
        debug_assert!(len <= PIECE_BYTES_MAX);
        let len = len
            .min(PIECE_BYTES_MAX)
            .min(usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX));
        self.read += len as u64;
        crate::Limits::check("bytes of headers", self.read, READ_BYTES_MAX)?;
        let mut piece = vec![0; len];
        if len > 0 {
            // Relative, so that what is buffered stays of use.
            let step = at.cast_signed().wrapping_sub(self.at.cast_signed());
            let read = self
                .source
                .seek_relative(step)
                .and_then(|()| self.source.read_exact(&mut piece));
            read.map_err(|error| unread(&error))?;
            self.at = at + len as u64;
        }
        Ok(piece)
    }

    /// Exactly `len` bytes.
    pub(super) fn piece(&mut self, at: u64, len: usize) -> Result<Vec<u8>, MediaError> {
        let piece = self.up_to(at, len)?;
        if piece.len() < len {
            return Err(self.broken("it ends in the middle of its headers"));
        }
        Ok(piece)
    }

    /// One more part is looked at.
    pub(super) fn part(&mut self) -> Result<(), MediaError> {
        self.parts += 1;
        crate::Limits::check("number of parts", self.parts, PARTS_MAX)
    }

    pub(super) fn broken(&self, reason: &str) -> MediaError {
        MediaError::Broken {
            format: self.format,
            reason: reason.to_owned(),
        }
    }
}

fn unread(error: &std::io::Error) -> MediaError {
    MediaError::Broken {
        format: "media",
        reason: format!("it can't be read: {error}"),
    }
}

/// A big-endian number of up to 8 bytes; `None` past the end.
pub(super) fn be(data: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let part = data.get(at..at.checked_add(bytes)?)?;
    Some(part.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
}

/// The same, little-endian.
pub(super) fn le(data: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let part = data.get(at..at.checked_add(bytes)?)?;
    let parts = part.iter().rev();
    Some(parts.fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
}

/// Of 32 bits at most.
pub(super) fn be32(data: &[u8], at: usize, bytes: usize) -> Option<u32> {
    u32::try_from(be(data, at, bytes)?).ok()
}

/// Of 32 bits at most.
pub(super) fn le32(data: &[u8], at: usize, bytes: usize) -> Option<u32> {
    u32::try_from(le(data, at, bytes)?).ok()
}
