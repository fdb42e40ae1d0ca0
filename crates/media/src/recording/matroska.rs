//! Matroska and WebM: EBML elements up to the first cluster.
//!
//! Source of shapes: RFC 8794 (EBML) and RFC 9559 (Matroska).

use std::ops::Range;

use super::input::{Input, be, be32};
use super::{Stream, StreamKind, sides, turned};
use crate::MediaError;

const SEGMENT: u32 = 0x1853_8067;
const INFO: u32 = 0x1549_A966;
const TRACKS: u32 = 0x1654_AE6B;
const TRACK: u32 = 0xAE;
const VIDEO: u32 = 0xE0;
const AUDIO: u32 = 0xE1;
const PROJECTION: u32 = 0x7670;
const CLUSTER: u32 = 0x1F43_B675;
/// A track's view is five deep.
const DEPTH_MAX: usize = 6;
const STREAMS_MAX: usize = 64;
/// Longest value that is looked at: a codec's name.
const VALUE_BYTES_MAX: u64 = 64;

struct Found {
    /// Nanoseconds of a tick.
    tick: u64,
    ticks: Option<f64>,
    tracks: Vec<Track>,
    has_tracks: bool,
    is_over: bool,
}

#[derive(Default)]
struct Track {
    stream: Stream,
    width: u32,
    height: u32,
    display: (u32, u32),
    /// 0: pixels; 1 to 3 say the shape alone.
    unit: u32,
    /// Of one sample, for PCM.
    bits: u32,
}

pub(super) fn read(input: &mut Input<'_>) -> Result<(Option<f64>, Vec<Stream>), MediaError> {
    let mut found = Found {
        tick: 1_000_000,
        ticks: None,
        tracks: Vec::new(),
        has_tracks: false,
        is_over: false,
    };
    walk(input, 0..input.len, 0, &mut found)?;
    if !found.has_tracks {
        return Err(input.broken("it ends before its list of tracks"));
    }
    let duration_s = found.ticks.map(|ticks| ticks * found.tick as f64 / 1e9);
    Ok((
        duration_s,
        found.tracks.into_iter().map(Track::finish).collect(),
    ))
}

impl Track {
    fn finish(self) -> Stream {
        let mut stream = self.stream;
        if stream.kind != StreamKind::Video {
            stream.frame_rate = None;
            stream.rotation = 0;
            if stream.kind == StreamKind::Audio {
                // Both have a default. Source: RFC 9559, 5.1.4.1.29.
                stream.channels = stream.channels.or(Some(1));
                stream.sample_rate = stream.sample_rate.or(Some(8000));
            }
            let (kind, order) = match &*stream.codec {
                "A_PCM/INT/LIT" if self.bits == 8 => ("u", ""),
                "A_PCM/INT/LIT" => ("s", "le"),
                "A_PCM/INT/BIG" => ("s", "be"),
                "A_PCM/FLOAT/IEEE" => ("f", "le"),
                _ => return stream,
            };
            stream.codec = format!("pcm_{kind}{}{order}", self.bits);
            return stream;
        }
        stream.coded = sides(self.width, self.height);
        let (width, height) = self.display;
        let shown = match (sides(width, height), stream.coded) {
            (Some(stated), _) if self.unit == 0 => Some(stated),
            (Some((across, down)), Some((_, height))) if self.unit <= 3 => {
                let width = f64::from(height) * f64::from(across) / f64::from(down);
                // Saturates.
                sides(width.round() as u32, height)
            }
            (_, coded) => coded,
        };
        stream.display = shown.map(|shown| turned(shown, stream.rotation));
        stream
    }
}

fn walk(
    input: &mut Input<'_>,
    within: Range<u64>,
    depth: usize,
    found: &mut Found,
) -> Result<(), MediaError> {
    if depth > DEPTH_MAX {
        return Err(input.broken("its elements are nested too deep"));
    }
    let mut at = within.start;
    while at < within.end && !found.is_over {
        input.part()?;
        let head = input.up_to(at, 12)?;
        let Some((id, id_bytes)) = number(&head, false) else {
            return Err(input.broken("an element has no readable name"));
        };
        let Some((size, size_bytes)) = number(&head[id_bytes..], true) else {
            // Cut off within a header.
            return match found.has_tracks {
                true => Ok(()),
                false => Err(input.broken("an element has no readable size")),
            };
        };
        let from = at + (id_bytes + size_bytes) as u64;
        // All ones: until the end of what it is in, as a recording is written that is still going on.
        let is_open = size == (1 << (7 * size_bytes)) - 1;
        let end = if is_open {
            within.end
        } else {
            from.saturating_add(size).min(within.end)
        };
        let is_cut = !is_open && from.saturating_add(size) > within.end;
        if is_cut && matches!(u32::try_from(id), Ok(INFO | TRACKS)) {
            return Err(input.broken("it ends in the middle of its headers"));
        }
        one(
            input,
            u32::try_from(id).unwrap_or(0),
            from..end.max(from),
            depth,
            found,
        )?;
        at = end.max(from);
    }
    Ok(())
}

fn one(
    input: &mut Input<'_>,
    id: u32,
    body: Range<u64>,
    depth: usize,
    found: &mut Found,
) -> Result<(), MediaError> {
    match id {
        SEGMENT | INFO | VIDEO | AUDIO | PROJECTION => {
            return walk(input, body, depth + 1, found);
        }
        TRACKS => {
            found.has_tracks = true;
            return walk(input, body, depth + 1, found);
        }
        TRACK => {
            if found.tracks.len() == STREAMS_MAX {
                let (have, limit) = (STREAMS_MAX as u64 + 1, STREAMS_MAX as u64);
                let what = "number of streams";
                return Err(MediaError::Limit { what, have, limit });
            }
            found.tracks.push(Track::default());
            return walk(input, body, depth + 1, found);
        }
        // Those after it are only of frames, once the tracks are known.
        CLUSTER if found.has_tracks => {
            found.is_over = true;
            return Ok(());
        }
        _ => {}
    }
    let is_wanted = matches!(id, 0x2A_D7B1 | 0x4489)
        || (!found.tracks.is_empty()
            && matches!(
                id,
                0x83 | 0x86
                    | 0x23_E383
                    | 0xB0
                    | 0xBA
                    | 0x54B0
                    | 0x54BA
                    | 0x54B2
                    | 0x7675
                    | 0xB5
                    | 0x78B5
                    | 0x6264
                    | 0x9F
            ));
    if !is_wanted {
        return Ok(());
    }
    let value = input.up_to(
        body.start,
        (body.end - body.start).min(VALUE_BYTES_MAX) as usize,
    )?;
    let whole = be(&value, 0, value.len().min(8)).unwrap_or(0);
    let small = u32::try_from(whole).unwrap_or(0);
    match id {
        0x2A_D7B1 => found.tick = whole,
        0x4489 => found.ticks = float(&value),
        _ => {}
    }
    let Some(track) = found.tracks.last_mut() else {
        return Ok(());
    };
    let stream = &mut track.stream;
    match id {
        0x83 => {
            stream.kind = match whole {
                1 => StreamKind::Video,
                2 => StreamKind::Audio,
                0x11 => StreamKind::Subtitle,
                _ => StreamKind::Data,
            };
        }
        0x86 => stream.codec = codec(&value),
        0x23_E383 if whole > 0 => stream.frame_rate = Some(1e9 / whole as f64),
        0xB0 => track.width = small,
        0xBA => track.height = small,
        0x54B0 => track.display.0 = small,
        0x54BA => track.display.1 = small,
        0x54B2 => track.unit = small,
        0x7675 => {
            // Counter-clockwise. Source: RFC 9559, 5.1.4.1.28.47.
            let roll = float(&value).filter(|roll| roll.is_finite()).unwrap_or(0.0);
            stream.rotation = ((-roll / 90.0).round() as i32 % 4 * 90).rem_euclid(360) as u16;
        }
        // As coded, and as it comes out where that differs.
        0xB5 | 0x78B5 => {
            let stated = float(&value).map(|rate| rate as u32);
            let stated = stated.filter(|&rate| rate > 0);
            stream.sample_rate = match id {
                0x78B5 => stated.or(stream.sample_rate),
                _ => stream.sample_rate.or(stated),
            };
        }
        0x6264 => track.bits = small,
        0x9F => stream.channels = Some(small).filter(|&count| count > 0),
        _ => {}
    }
    Ok(())
}

/// An element's name (with its marker) or size (without), and how many bytes it has.
fn number(data: &[u8], is_size: bool) -> Option<(u64, usize)> {
    let first = *data.first()?;
    let bytes = first.leading_zeros() as usize + 1;
    if bytes > if is_size { 8 } else { 4 } {
        return None;
    }
    let value = be(data, 0, bytes)?;
    let marker = 1u64 << (7 * bytes);
    Some((if is_size { value & (marker - 1) } else { value }, bytes))
}

fn float(value: &[u8]) -> Option<f64> {
    match value.len() {
        4 => Some(f64::from(f32::from_bits(be32(value, 0, 4)?))),
        8 => Some(f64::from_bits(be(value, 0, 8)?)),
        _ => None,
    }
}

fn codec(value: &[u8]) -> String {
    let name = String::from_utf8_lossy(value);
    let name = name.trim_end_matches('\0');
    let known = match name {
        "V_MPEG4/ISO/AVC" => "h264",
        "V_MPEGH/ISO/HEVC" => "hevc",
        "V_AV1" => "av1",
        "V_VP8" => "vp8",
        "V_VP9" => "vp9",
        "V_THEORA" => "theora",
        "V_MJPEG" => "mjpeg",
        "V_PRORES" => "prores",
        "V_MPEG4/ISO/SP" | "V_MPEG4/ISO/ASP" => "mpeg4",
        "V_MPEG1" => "mpeg1video",
        "V_MPEG2" => "mpeg2video",
        "A_OPUS" => "opus",
        "A_VORBIS" => "vorbis",
        "A_FLAC" => "flac",
        "A_ALAC" => "alac",
        "A_MPEG/L3" => "mp3",
        "A_MPEG/L2" => "mp2",
        "A_AC3" => "ac3",
        "A_EAC3" => "eac3",
        "A_DTS" => "dts",
        "S_TEXT/UTF8" => "subrip",
        "S_TEXT/ASS" | "S_ASS" => "ass",
        "S_TEXT/WEBVTT" => "webvtt",
        "S_HDMV/PGS" => "hdmv_pgs_subtitle",
        name if name.starts_with("A_AAC") => "aac",
        name => name,
    };
    known.chars().filter(char::is_ascii_graphic).collect()
}
