//! Ogg: the first pages name the streams, the last one says when they end.

use super::input::{Input, be32, le, le32};
use super::{Stream, StreamKind, seconds, sides};
use crate::MediaError;

/// Twice the longest page.
const TAIL_BYTES: usize = 128 * 1024;
const STREAMS_MAX: usize = 32;
/// Latest end of the first page of one that begins with the file; a page of 255 short packets of speech has five seconds.
const START_S_MAX: f64 = 30.0;

/// A stream and how its pages tell the time.
struct Track {
    serial: u32,
    stream: Stream,
    /// Positions a second; 0 where they are not times.
    scale: u64,
    /// Positions before what is heard.
    skip: u64,
    /// Theora's: bits of a position that count from the last key frame.
    shift: Option<u32>,
}

pub(super) fn read(input: &mut Input<'_>) -> Result<(Option<f64>, Vec<Stream>), MediaError> {
    let mut tracks = Vec::new();
    let mut at = 0;
    while tracks.len() < STREAMS_MAX {
        let head = input.up_to(at, 27 + 255)?;
        let (true, Some(&flags), Some(&segments), Some(serial)) = (
            head.starts_with(b"OggS"),
            head.get(5),
            head.get(26),
            le32(&head, 14, 4),
        ) else {
            break;
        };
        // Pages that begin a stream come before all others.
        if flags & 2 == 0 {
            break;
        }
        input.part()?;
        let table = head.get(27..27 + usize::from(segments));
        let table = table.ok_or_else(|| input.broken("a page ends before its table"))?;
        let size: u64 = table.iter().map(|&length| u64::from(length)).sum();
        let body = at + 27 + u64::from(segments);
        let packet = input.up_to(body, size.min(64) as usize)?;
        tracks.extend(track(serial, &packet));
        at = body + size;
    }
    let from = input.len.saturating_sub(TAIL_BYTES as u64);
    let tail = input.up_to(from, TAIL_BYTES)?;
    let first = input.up_to(at, TAIL_BYTES)?;
    let mut longest = None;
    for track in &mut tracks {
        let end = positions(&tail, track.serial).next_back().unwrap_or(0);
        let start = positions(&first, track.serial).find(|&position| position > 0);
        // Recorded from a stream that was on air: its positions count from before the file.
        let is_late = start
            .and_then(|start| track.time(start))
            .is_some_and(|seconds| seconds > START_S_MAX);
        track.stream.duration_s = track.time(end).filter(|_| !is_late);
        longest = track
            .stream
            .duration_s
            .into_iter()
            .chain(longest)
            .reduce(f64::max);
    }
    let streams = tracks.into_iter().map(|track| track.stream).collect();
    Ok((longest, streams))
}

/// Of the pages of a stream, in their order. One on which no packet ends has none.
fn positions(pages: &[u8], serial: u32) -> impl DoubleEndedIterator<Item = u64> {
    let pages = pages.windows(18);
    pages
        .filter(move |page| page.starts_with(b"OggS\0") && le32(page, 14, 4) == Some(serial))
        .filter_map(|page| le(page, 6, 8).filter(|&position| position != u64::MAX))
}

impl Track {
    /// Seconds up to a position.
    fn time(&self, position: u64) -> Option<f64> {
        match (self.shift, self.stream.frame_rate) {
            (Some(shift), Some(rate)) => {
                let frames = (position >> shift) + (position & ((1 << shift) - 1));
                (frames > 0 && rate > 0.0).then(|| frames as f64 / rate)
            }
            _ => seconds(position.saturating_sub(self.skip), self.scale),
        }
    }
}

fn track(serial: u32, packet: &[u8]) -> Option<Track> {
    let audio = |codec: &str, channels, sample_rate: Option<u32>, skip| Track {
        serial,
        scale: sample_rate.unwrap_or(0).into(),
        skip,
        shift: None,
        stream: Stream {
            kind: StreamKind::Audio,
            codec: codec.to_owned(),
            channels,
            sample_rate: sample_rate.filter(|&rate| rate > 0),
            ..Stream::default()
        },
    };
    Some(match packet {
        // Source: RFC 7845, 5.1; positions are of 48 kHz whatever went in.
        [b'O', b'p', b'u', b's', b'H', b'e', b'a', b'd', ..] => audio(
            "opus",
            le32(packet, 9, 1),
            Some(48_000),
            le(packet, 10, 2).unwrap_or(0),
        ),
        [1, b'v', b'o', b'r', b'b', b'i', b's', ..] => {
            let mut track = audio("vorbis", le32(packet, 11, 1), le32(packet, 12, 4), 0);
            // What its encoder aimed at.
            let aim = le32(packet, 20, 4).map(u32::cast_signed);
            track.stream.bit_rate = aim.filter(|&rate| rate > 0).map(|rate| rate as u64);
            track
        }
        [0x7F, b'F', b'L', b'A', b'C', ..] => {
            // 20 bits of rate, 3 of channels less one. Source: RFC 9639, 8.2.
            let rate = be32(packet, 27, 3).map(|bits| bits >> 4);
            let channels = packet.get(29).map(|bits| u32::from(bits >> 1 & 7) + 1);
            audio("flac", channels, rate, 0)
        }
        [b'S', b'p', b'e', b'e', b'x', b' ', b' ', b' ', ..] => {
            audio("speex", le32(packet, 48, 4), le32(packet, 36, 4), 0)
        }
        [0x80, b't', b'h', b'e', b'o', b'r', b'a', ..] => {
            let coded = sides(be32(packet, 10, 2)? * 16, be32(packet, 12, 2)? * 16);
            let pictured = sides(be32(packet, 14, 3)?, be32(packet, 17, 3)?);
            let shape = be32(packet, 30, 3).zip(be32(packet, 33, 3));
            let display = pictured.and_then(|(width, height)| match shape {
                Some((across, down)) if across > 0 && down > 0 => {
                    let width = f64::from(width) * f64::from(across) / f64::from(down);
                    sides(width.round() as u32, height)
                }
                _ => Some((width, height)),
            });
            let frames = be32(packet, 22, 4).zip(be32(packet, 26, 4));
            Track {
                serial,
                scale: 0,
                skip: 0,
                // A position holds a key frame's number and how far it is behind. Source: Theora I, 6.2.
                shift: be32(packet, 40, 2).map(|bits| bits >> 5 & 31),
                stream: Stream {
                    kind: StreamKind::Video,
                    codec: "theora".to_owned(),
                    coded: pictured.or(coded),
                    display: display.or(pictured).or(coded),
                    frame_rate: frames
                        .filter(|&(_, below)| below > 0)
                        .map(|(above, below)| f64::from(above) / f64::from(below)),
                    ..Stream::default()
                },
            }
        }
        // What describes the others.
        [b'f', b'i', b's', b'h', ..] => return None,
        _ => Track {
            serial,
            scale: 0,
            skip: 0,
            shift: None,
            stream: Stream {
                codec: "unknown".to_owned(),
                ..Stream::default()
            },
        },
    })
}
