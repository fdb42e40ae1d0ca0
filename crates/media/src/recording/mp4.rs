//! MP4, M4A and MOV: boxes in boxes, of which those that describe the streams are read.
//!
//! Source of shapes: ISO/IEC 14496-12 (boxes), 14496-14 (`esds`).

use std::ops::Range;

use super::input::{Input, be, be32};
use super::{Stream, StreamKind, rate, seconds, sides, turned};
use crate::MediaError;

/// Boxes in boxes: a file's streams are six deep.
const DEPTH_MAX: usize = 8;
const STREAMS_MAX: usize = 64;
/// Entries of a table of sizes that are added up; a day of sound has four million.
const SIZES_MAX: u64 = 4 << 20;

/// Pieces of one written in pieces that are looked at; an hour of live video has some thousand, and the first tell the rate.
const FRAGMENTS_MAX: u64 = 256;
/// Longest table of a piece that is read; one of a minute of sound in one piece has some 20 KB.
const RUN_BYTES_MAX: u64 = 1 << 20;

#[derive(Default)]
struct Found {
    /// Of the whole file, in seconds.
    duration_s: Option<f64>,
    /// Of one in fragments, in the movie's own units and, with their scale, as an index tells.
    fragments: Option<u64>,
    indexed_s: Option<f64>,
    scale: u64,
    tracks: Vec<Track>,
    has_movie: bool,
    /// Whether there are fragments: the movie's own length is then that of its beginning.
    has_fragments: bool,
    /// What each sample of a track is where a fragment does not say, by the track's number.
    usual: Vec<(u32, Sample)>,
    /// Fragments looked at, and whether there were more.
    seen: u64,
    is_cut: bool,
    /// The track that a fragment is of, and what each of its samples is.
    current: Option<(usize, Sample)>,
}

/// Where not each says it for itself.
#[derive(Clone, Copy, Default)]
struct Sample {
    duration: u64,
    bytes: u64,
}

#[derive(Default)]
struct Track {
    stream: Stream,
    number: u32,
    scale: u64,
    /// As the samples make it, and as it is to be played, the latter in the movie's units.
    duration: u64,
    played: u64,
    samples: u64,
    bytes: Option<u64>,
    /// Of its fragments.
    pieces: Pieces,
    /// As shown, before the rotation, pixels.
    shown: Option<(u32, u32)>,
}

#[derive(Default)]
struct Pieces {
    samples: u64,
    duration: u64,
    bytes: u64,
    /// Some samples have a size that is not said.
    is_unsized: bool,
}

pub(super) fn read(input: &mut Input<'_>) -> Result<(Option<f64>, Vec<Stream>), MediaError> {
    let mut found = Found::default();
    walk(input, 0..input.len, 0, &mut found)?;
    if !found.has_movie {
        return Err(input.broken("its index (moov) is not there: it is cut short, or not finished"));
    }
    let (scale, is_cut) = (found.scale, found.is_cut);
    let fragments = found.fragments.and_then(|units| seconds(units, scale));
    // The movie's own length is that of its beginning where fragments go on from it.
    let is_grown = found.tracks.iter().any(Track::is_grown);
    let stated = found.duration_s.filter(|_| !is_grown);
    let tracks = found.tracks.into_iter();
    let streams: Vec<Stream> = tracks.map(|track| track.finish(scale, is_cut)).collect();
    let longest = streams.iter().filter_map(|stream| stream.duration_s);
    let whole = stated.or(fragments);
    let whole = whole
        .or_else(|| longest.reduce(f64::max))
        .or(found.indexed_s);
    Ok((whole, streams))
}

impl Track {
    /// Begun in the index and gone on with in fragments.
    fn is_grown(&self) -> bool {
        self.samples > 0 && self.pieces.samples > 0
    }

    /// `is_cut`: there are more fragments than were looked at.
    fn finish(self, movie_scale: u64, is_cut: bool) -> Stream {
        let is_grown = self.is_grown();
        let mut stream = self.stream;
        let pieces = self.pieces;
        let in_pieces = Some(pieces.bytes).filter(|_| !pieces.is_unsized);
        let (samples, duration, bytes) = match self.samples {
            0 => (pieces.samples, pieces.duration, in_pieces),
            samples if is_grown => (
                samples.saturating_add(pieces.samples),
                self.duration.saturating_add(pieces.duration),
                self.bytes
                    .zip(in_pieces)
                    .map(|(begun, more)| begun.saturating_add(more)),
            ),
            samples => (samples, self.duration, self.bytes),
        };
        if let Some(length) = seconds(duration, self.scale) {
            stream.bit_rate = bytes
                .filter(|&bytes| bytes > 0)
                .map(|bytes| rate(bytes, length));
            let is_moving = stream.kind == StreamKind::Video && samples > 0;
            stream.frame_rate = is_moving.then(|| samples as f64 / length);
            let is_whole = self.samples > 0 && !is_grown;
            stream.duration_s = (is_whole || !is_cut).then_some(length);
        }
        // What an edit list leaves out is not heard: the samples before the first of AAC.
        let played = seconds(self.played, movie_scale).filter(|_| !is_grown);
        stream.duration_s = played.or(stream.duration_s);
        if stream.kind == StreamKind::Video {
            let shown = self.shown.or(stream.coded);
            stream.display = shown.map(|shown| turned(shown, stream.rotation));
        } else {
            stream.rotation = 0;
        }
        stream
    }
}

/// The boxes of `within`.
fn walk(
    input: &mut Input<'_>,
    within: Range<u64>,
    depth: usize,
    found: &mut Found,
) -> Result<(), MediaError> {
    if depth > DEPTH_MAX {
        return Err(input.broken("its boxes are nested too deep"));
    }
    let mut at = within.start;
    while at.saturating_add(8) <= within.end {
        input.part()?;
        let head = input.up_to(at, 16)?;
        let Some(kind) = head
            .get(4..8)
            .and_then(|kind| <[u8; 4]>::try_from(kind).ok())
        else {
            break;
        };
        let (size, skip) = match be(&head, 0, 4).unwrap_or(0) {
            0 => (within.end - at, 8),
            1 => (be(&head, 8, 8).unwrap_or(0), 16),
            size => (size, 8),
        };
        if size < skip {
            // QuickTime ends a list with four zero bytes; anything else is no box.
            return match kind {
                _ if depth > 0 => Ok(()),
                _ => Err(input.broken("a box is smaller than its own header")),
            };
        }
        if kind == *b"moov" && at.saturating_add(size) > within.end {
            return Err(input.broken("its index (moov) is cut short"));
        }
        let end = at.saturating_add(size).min(within.end);
        let from = at.saturating_add(skip);
        let body = from..end.max(from);
        one(input, &kind, body, depth, found)?;
        // What follows the index of a finished file is not needed, nor are all fragments of a long one.
        let is_finished = &kind == b"moov" && found.duration_s.is_some() && !found.has_fragments;
        if depth == 0 && (is_finished || found.is_cut) {
            return Ok(());
        }
        at = at.saturating_add(size);
    }
    Ok(())
}

fn one(
    input: &mut Input<'_>,
    kind: &[u8; 4],
    body: Range<u64>,
    depth: usize,
    found: &mut Found,
) -> Result<(), MediaError> {
    let len = body.end - body.start;
    let mut head = |bytes: u64| input.up_to(body.start, len.min(bytes) as usize);
    match kind {
        b"moov" | b"mdia" | b"minf" | b"stbl" | b"mvex" => {
            found.has_movie |= kind == b"moov";
            found.has_fragments |= kind == b"mvex";
            return walk(input, body, depth + 1, found);
        }
        b"moof" if found.seen == FRAGMENTS_MAX => found.is_cut = true,
        b"moof" | b"traf" => {
            found.seen += u64::from(kind == b"moof");
            found.current = None;
            return walk(input, body, depth + 1, found);
        }
        b"trex" => {
            let data = head(24)?;
            if let Some(number) = be32(&data, 4, 4)
                && found.usual.len() < STREAMS_MAX
            {
                let usual = Sample {
                    duration: be(&data, 12, 4).unwrap_or(0),
                    bytes: be(&data, 16, 4).unwrap_or(0),
                };
                found.usual.push((number, usual));
            }
        }
        b"tfhd" => {
            let data = head(24)?;
            let number = be32(&data, 4, 4).unwrap_or(0);
            let place = found.tracks.iter().position(|track| track.number == number);
            found.current = place.map(|place| (place, usual(&data, number, &found.usual)));
        }
        b"trun" => {
            if let Some((place, each)) = found.current
                && let Some(track) = found.tracks.get_mut(place)
            {
                run(&head(RUN_BYTES_MAX)?, each, &mut track.pieces);
                found.is_cut |= len > RUN_BYTES_MAX;
            }
        }
        b"trak" => {
            if found.tracks.len() == STREAMS_MAX {
                let (have, limit) = (STREAMS_MAX as u64 + 1, STREAMS_MAX as u64);
                let what = "number of streams";
                return Err(MediaError::Limit { what, have, limit });
            }
            found.tracks.push(Track::default());
            return walk(input, body, depth + 1, found);
        }
        b"mvhd" => {
            let (scale, duration) = times(&head(32)?);
            found.scale = scale;
            found.duration_s = seconds(duration, scale);
        }
        b"mehd" => {
            let data = head(12)?;
            let is_long = data.first() == Some(&1);
            found.fragments = be(&data, 4, if is_long { 8 } else { 4 });
        }
        b"sidx" => found.indexed_s = found.indexed_s.or(indexed(&head(1 << 16)?)),
        _ => {
            let Some(track) = found.tracks.last_mut() else {
                return Ok(());
            };
            match kind {
                b"tkhd" => shape(&head(96)?, track),
                b"mdhd" => (track.scale, track.duration) = times(&head(32)?),
                // The first is the track's; another one may follow for its data.
                b"hdlr" if track.stream.kind == StreamKind::Data => {
                    track.stream.kind = match head(12)?.get(8..12) {
                        Some(b"vide") => StreamKind::Video,
                        Some(b"soun") => StreamKind::Audio,
                        Some(b"sbtl" | b"subt" | b"text" | b"clcp") => StreamKind::Subtitle,
                        _ => StreamKind::Data,
                    };
                }
                b"stsd" => describe(&head(1024)?, track),
                b"stsz" => {
                    let data = head(12)?;
                    let each = be(&data, 4, 4).unwrap_or(0);
                    track.samples = be(&data, 8, 4).unwrap_or(0);
                    track.bytes = match each {
                        0 => sizes(input, body, track.samples)?,
                        // Of uncompressed sound the entries are samples, and this is not their size.
                        1 => None,
                        each => Some(each.saturating_mul(track.samples)),
                    };
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The scale and the duration of a `mvhd` or `mdhd`; all ones: unknown.
fn times(data: &[u8]) -> (u64, u64) {
    let (scale, duration, unknown) = match data.first() {
        Some(1) => (be(data, 20, 4), be(data, 24, 8), u64::MAX),
        _ => (be(data, 12, 4), be(data, 16, 4), u64::from(u32::MAX)),
    };
    let duration = duration.filter(|&duration| duration != unknown);
    (scale.unwrap_or(0), duration.unwrap_or(0))
}

/// What a sample of a fragment is: as its `tfhd` says, or the track's `trex`.
fn usual(data: &[u8], number: u32, known: &[(u32, Sample)]) -> Sample {
    let flags = be(data, 1, 3).unwrap_or(0);
    // A place in the file and a description may stand before it.
    let at = 8 + (flags & 1) as usize * 8 + (flags >> 1 & 1) as usize * 4;
    let duration = be(data, at, 4).filter(|_| flags & 8 != 0);
    let at = at + (flags >> 3 & 1) as usize * 4;
    let bytes = be(data, at, 4).filter(|_| flags & 0x10 != 0);
    let known = known.iter().find(|(other, _)| *other == number);
    let known = known.map(|known| known.1).unwrap_or_default();
    Sample {
        duration: duration.unwrap_or(known.duration),
        bytes: bytes.unwrap_or(known.bytes),
    }
}

/// Adds what a `trun` lists, as far as it was read.
fn run(data: &[u8], each: Sample, pieces: &mut Pieces) {
    let flags = be(data, 1, 3).unwrap_or(0);
    let has = |bit: u64| usize::from(flags & bit != 0);
    let count = be(data, 4, 4).unwrap_or(0);
    let from = 8 + has(1) * 4 + has(4) * 4;
    let (lasts, sizes) = (has(0x100), has(0x200));
    let step = (lasts + sizes + has(0x400) + has(0x800)) * 4;
    let entries = data.get(from..).unwrap_or_default();
    let count = match entries.len().checked_div(step) {
        Some(there) => count.min(there as u64),
        None => count,
    };
    let all = |value: u64| count.saturating_mul(value);
    pieces.samples = pieces.samples.saturating_add(count);
    if lasts == 0 {
        pieces.duration = pieces.duration.saturating_add(all(each.duration));
    }
    if sizes == 0 {
        pieces.bytes = pieces.bytes.saturating_add(all(each.bytes));
        pieces.is_unsized |= count > 0 && each.bytes == 0;
    }
    let Some(entries) = (step > 0).then(|| entries.chunks_exact(step)) else {
        return;
    };
    for entry in entries.take(usize::try_from(count).unwrap_or(usize::MAX)) {
        let number = |at: usize| be(entry, at * 4, 4).unwrap_or(0);
        let (lasting, bytes) = (lasts as u64 * number(0), sizes as u64 * number(lasts));
        pieces.duration = pieces.duration.saturating_add(lasting);
        pieces.bytes = pieces.bytes.saturating_add(bytes);
    }
}

/// The number, the size and the matrix of a `tkhd`.
fn shape(data: &[u8], track: &mut Track) {
    let is_long = data.first() == Some(&1);
    let from = if is_long { 52 } else { 40 };
    track.number = be32(data, if is_long { 20 } else { 12 }, 4).unwrap_or(0);
    let (played, unknown) = match is_long {
        true => (be(data, 28, 8), u64::MAX),
        false => (be(data, 20, 4), u64::from(u32::MAX)),
    };
    track.played = played.filter(|&played| played != unknown).unwrap_or(0);
    let matrix = |at: usize| {
        let bits = be32(data, from + at * 4, 4).unwrap_or(0);
        f64::from(bits.cast_signed()) / 65_536.0
    };
    let degrees = matrix(1).atan2(matrix(0)).to_degrees();
    track.stream.rotation = ((degrees / 90.0).round() as i32 * 90).rem_euclid(360) as u16;
    let side =
        |at| be32(data, from + 36 + at, 4).map_or(0, |fixed| fixed.saturating_add(0x8000) >> 16);
    track.shown = sides(side(0), side(4));
}

/// The first entry of a `stsd`.
fn describe(data: &[u8], track: &mut Track) {
    let Some(kind) = data.get(12..16) else {
        return;
    };
    let stream = &mut track.stream;
    stream.codec = codec(kind);
    match stream.kind {
        StreamKind::Video => {
            stream.coded = be32(data, 40, 2)
                .zip(be32(data, 42, 2))
                .and_then(|(width, height)| sides(width, height));
        }
        StreamKind::Audio => {
            sound(data, stream);
            if kind == b"mp4a"
                && let Some(config) = decoder(data)
            {
                stream.codec = match config.object {
                    0x69 | 0x6B => "mp3",
                    0xA5 => "ac3",
                    0xA9 => "dts",
                    0xDD => "vorbis",
                    _ => "aac",
                }
                .to_owned();
                // What is written beside it is often just 2.
                if stream.codec == "aac" {
                    stream.channels = config.channels.or(stream.channels);
                    stream.sample_rate = config.sample_rate.or(stream.sample_rate);
                }
            }
        }
        StreamKind::Subtitle | StreamKind::Data => {}
    }
}

/// Channels and rate of a sound's description; QuickTime has a longer one. Source: QuickTime File Format, Sound Sample
/// Descriptions.
fn sound(data: &[u8], stream: &mut Stream) {
    let (channels, rate) = match be(data, 24, 2) {
        Some(2) => {
            let rate = be(data, 48, 8).map(|bits| f64::from_bits(bits) as u32);
            (be32(data, 56, 4), rate)
        }
        _ => (be32(data, 32, 2), be32(data, 40, 2)),
    };
    stream.channels = channels.filter(|&count| count > 0);
    stream.sample_rate = rate.filter(|&rate| rate > 0);
    if stream.codec == "lpcm" {
        let (bits, flags) = (be(data, 64, 4).unwrap_or(0), be(data, 68, 4).unwrap_or(0));
        let kind = if flags & 1 == 1 { 'f' } else { 's' };
        let order = if flags & 2 == 2 { "be" } else { "le" };
        stream.codec = format!("pcm_{kind}{bits}{order}");
    }
}

/// What an `esds` says of the decoder.
struct Decoder {
    object: u8,
    channels: Option<u32>,
    sample_rate: Option<u32>,
}

fn decoder(data: &[u8]) -> Option<Decoder> {
    let from = data.windows(4).position(|word| word == b"esds")? + 8;
    let es = descriptor(data.get(from..)?, 3)?;
    // Its number, then what its flags announce: another's number, an address, a clock.
    let flags = *es.get(2)?;
    let mut skip = 3 + usize::from(flags >> 7 & 1) * 2 + usize::from(flags >> 5 & 1) * 2;
    if flags >> 6 & 1 == 1 {
        skip += 1 + usize::from(*es.get(skip)?);
    }
    let config = descriptor(es.get(skip..)?, 4)?;
    let specific = config.get(13..).and_then(|rest| descriptor(rest, 5));
    let (channels, sample_rate) = specific.map_or((None, None), aac);
    Some(Decoder {
        object: *config.first()?,
        channels,
        sample_rate,
    })
}

/// The body of a descriptor of this kind, which has a length of one to four bytes before it.
fn descriptor(data: &[u8], tag: u8) -> Option<&[u8]> {
    let (&first, mut rest) = data.split_first()?;
    let mut length = 0usize;
    for _ in 0..4 {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        length = length << 7 | usize::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            break;
        }
    }
    (first == tag).then(|| &rest[..length.min(rest.len())])
}

/// Channels and samples a second of an `AudioSpecificConfig`. Source: ISO/IEC 14496-3, 1.6.2.1.
fn aac(data: &[u8]) -> (Option<u32>, Option<u32>) {
    const RATES: [u32; 13] = [
        96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
        8000, 7350,
    ];
    let mut at = 0;
    let mut bits = |count: usize| {
        let value = (at..at + count).try_fold(0u32, |sum, bit| {
            let byte = *data.get(bit / 8)?;
            Some(sum << 1 | u32::from(byte >> (7 - bit % 8) & 1))
        });
        at += count;
        value
    };
    let mut read = || {
        let object = match bits(5)? {
            31 => 32 + bits(6)?,
            object => object,
        };
        let rate = match bits(4)? {
            15 => bits(24),
            place => RATES.get(place as usize).copied(),
        };
        let layout = bits(4)?;
        // Of spectral band replication, the rate that comes out of it stands after.
        let doubled = match object {
            5 | 29 => match bits(4)? {
                15 => bits(24),
                place => RATES.get(place as usize).copied(),
            },
            _ => None,
        };
        let channels = match layout {
            // Parametric stereo makes two of one.
            1 if object == 29 => Some(2),
            1..=6 => Some(layout),
            7 | 12 | 14 => Some(8),
            11 => Some(7),
            _ => None,
        };
        Some((channels, doubled.or(rate).filter(|&rate| rate > 0)))
    };
    read().unwrap_or((None, None))
}

fn codec(kind: &[u8]) -> String {
    let known = match kind {
        b"avc1" | b"avc2" | b"avc3" | b"avc4" => "h264",
        b"hvc1" | b"hev1" | b"dvh1" | b"dvhe" => "hevc",
        b"av01" => "av1",
        b"vp08" => "vp8",
        b"vp09" => "vp9",
        b"mp4v" => "mpeg4",
        b"s263" | b"h263" => "h263",
        b"jpeg" | b"mjpa" | b"mjpb" => "mjpeg",
        b"apch" | b"apcn" | b"apcs" | b"apco" | b"ap4h" | b"ap4x" => "prores",
        b"mp4a" => "aac",
        b".mp3" => "mp3",
        b"Opus" => "opus",
        b"fLaC" => "flac",
        b"alac" => "alac",
        b"ac-3" => "ac3",
        b"ec-3" => "eac3",
        b"samr" => "amr_nb",
        b"sawb" => "amr_wb",
        b"raw " => "pcm_u8",
        b"in24" => "pcm_s24be",
        b"in32" => "pcm_s32be",
        b"fl32" => "pcm_f32be",
        b"fl64" => "pcm_f64be",
        b"sowt" => "pcm_s16le",
        b"twos" => "pcm_s16be",
        b"ulaw" => "pcm_mulaw",
        b"alaw" => "pcm_alaw",
        b"tx3g" | b"text" => "mov_text",
        other => {
            return other
                .iter()
                .map(|&byte| {
                    if byte.is_ascii_graphic() {
                        char::from(byte)
                    } else {
                        '.'
                    }
                })
                .collect();
        }
    };
    known.to_owned()
}

/// The sum of a `stsz`; `None` for one with more entries than are added up.
fn sizes(input: &mut Input<'_>, body: Range<u64>, count: u64) -> Result<Option<u64>, MediaError> {
    let there = body.end.saturating_sub(body.start + 12) / 4;
    if count > SIZES_MAX || count > there {
        return Ok(None);
    }
    let (mut at, end) = (body.start + 12, body.start + 12 + count * 4);
    let mut sum = 0;
    while at < end {
        let piece = input.piece(at, (end - at).min(1 << 16) as usize)?;
        sum += piece
            .chunks_exact(4)
            .filter_map(|entry| be(entry, 0, 4))
            .sum::<u64>();
        at += piece.len() as u64;
    }
    Ok(Some(sum))
}

/// Seconds of all that a `sidx` lists.
fn indexed(data: &[u8]) -> Option<f64> {
    let is_long = data.first() == Some(&1);
    let scale = be(data, 8, 4)?;
    let from = if is_long { 28 } else { 20 };
    let count = be(data, from + 2, 2)?;
    let entries = (0..count as usize).map(|at| be(data, from + 4 + at * 12 + 4, 4));
    seconds(entries.sum::<Option<u64>>()?, scale)
}
