//! MP3: frames, with or without a tag before them and a count in the first.

use super::input::{Input, be};
use super::{Stream, StreamKind, rate, seconds};
use crate::MediaError;

/// Padding or a broken tag may stand before the first frame.
const SEARCH_BYTES: usize = 64 * 1024;

/// A frame's header. Source: ISO/IEC 11172-3, 2.4.2.3, and 13818-3 for the lower rates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) layer: u8,
    /// Bits a second.
    bit_rate: u64,
    sample_rate: u32,
    channels: u32,
    /// Of sound, for each channel.
    samples: u64,
    bytes: u64,
    /// From the header to where an encoder leaves its count.
    side: usize,
}

impl Frame {
    pub(super) fn read(data: &[u8]) -> Option<Self> {
        const LAYERS: [[u64; 14]; 5] = [
            [
                32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448,
            ],
            [
                32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384,
            ],
            [
                32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320,
            ],
            [
                32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256,
            ],
            [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
        ];
        let &[0xFF, second, third, fourth, ..] = data else {
            return None;
        };
        if second & 0xE0 != 0xE0 {
            return None;
        }
        let version = second >> 3 & 3;
        let layer = 4 - (second >> 1 & 3);
        if version == 1 || layer == 4 {
            return None;
        }
        let is_first = version == 3;
        let row = match (is_first, layer) {
            (true, layer) => usize::from(layer) - 1,
            (false, 1) => 3,
            (false, _) => 4,
        };
        let bit_rate = *LAYERS[row].get(usize::from(third >> 4).checked_sub(1)?)? * 1000;
        let base = *[44_100u32, 48_000, 32_000].get(usize::from(third >> 2 & 3))?;
        let sample_rate = base >> [2, 0, 1, 0][usize::from(version)];
        let samples: u64 = match layer {
            1 => 384,
            3 if !is_first => 576,
            _ => 1152,
        };
        let padding = u64::from(third >> 1 & 1);
        let bytes = match layer {
            1 => (12 * bit_rate / u64::from(sample_rate) + padding) * 4,
            _ => samples / 8 * bit_rate / u64::from(sample_rate) + padding,
        };
        let is_mono = fourth >> 6 == 3;
        Some(Self {
            layer,
            bit_rate,
            sample_rate,
            channels: if is_mono { 1 } else { 2 },
            samples,
            bytes,
            side: match (is_first, is_mono) {
                (true, false) => 36,
                (false, true) => 13,
                _ => 21,
            },
        })
    }
}

pub(super) fn read(input: &mut Input<'_>) -> Result<(Option<f64>, Vec<Stream>), MediaError> {
    let tag = input.up_to(0, 10)?;
    let mut from = 0;
    if tag.starts_with(b"ID3") {
        let size = tag.get(6..10).unwrap_or_default().iter();
        from = 10 + size.fold(0, |sum, &byte| sum << 7 | u64::from(byte & 0x7F));
        // A footer repeats the header.
        from += u64::from(tag.get(5).unwrap_or(&0) >> 4 & 1) * 10;
    }
    let window = input.up_to(from, SEARCH_BYTES)?;
    let found = (0..window.len()).find_map(|at| {
        let frame = Frame::read(&window[at..])?;
        let next = at.saturating_add(usize::try_from(frame.bytes).ok()?);
        // Two bytes of anything look like a frame: a second one follows where it must, or the file ends.
        let follows = match window.get(next..) {
            Some(rest) if rest.len() >= 4 => {
                Frame::read(rest).is_some_and(|other| other.layer == frame.layer)
            }
            _ => from + next as u64 <= input.len,
        };
        (frame.bytes > 4 && follows).then_some((at, frame))
    });
    let (at, frame) = found.ok_or_else(|| input.broken("there is no frame of sound in it"))?;
    let end = input.len.saturating_sub(128);
    let has_old_tag = input.len > 128 && input.up_to(end, 3)? == b"TAG";
    let sound = if has_old_tag { end } else { input.len }.saturating_sub(from + at as u64);
    let first = &window[at..];
    let (duration_s, is_constant) = match count(first, &frame) {
        Some((frames, is_constant)) => {
            let samples = frames.saturating_mul(frame.samples);
            (seconds(samples, frame.sample_rate.into()), is_constant)
        }
        None => (seconds(sound.saturating_mul(8), frame.bit_rate), true),
    };
    // The first frame, which holds no sound then, may have a rate of its own.
    let next = first.get(usize::try_from(frame.bytes).unwrap_or(usize::MAX)..);
    let sounding = next.and_then(Frame::read).unwrap_or(frame);
    let bit_rate = match is_constant {
        true => Some(sounding.bit_rate),
        false => duration_s.map(|seconds| rate(sound, seconds)),
    };
    let stream = Stream {
        kind: StreamKind::Audio,
        codec: format!("mp{}", frame.layer),
        duration_s,
        bit_rate,
        sample_rate: Some(frame.sample_rate),
        channels: Some(frame.channels),
        ..Stream::default()
    };
    Ok((duration_s, vec![stream]))
}

/// Frames, as the encoder says in the first, and whether all have one rate: Xing's form (`Info` for that) or Fraunhofer's.
fn count(first: &[u8], frame: &Frame) -> Option<(u64, bool)> {
    let xing = first.get(frame.side..)?;
    if xing.starts_with(b"Xing") || xing.starts_with(b"Info") {
        let frames = be(xing, 8, 4).filter(|_| xing.get(7).is_some_and(|flags| flags & 1 == 1));
        return frames.map(|frames| (frames, xing.starts_with(b"Info")));
    }
    let vbri = first.get(36..)?;
    let frames = be(vbri, 14, 4).filter(|_| vbri.starts_with(b"VBRI"));
    frames.map(|frames| (frames, false))
}
