//! WAV: RIFF chunks, also with 64-bit sizes (RF64).

use super::input::{Input, le, le32};
use super::{Stream, StreamKind, rate, seconds};
use crate::MediaError;

pub(super) fn read(input: &mut Input<'_>) -> Result<(Option<f64>, Vec<Stream>), MediaError> {
    let mut at = 12;
    let mut long = None;
    let mut stream = None;
    loop {
        let head = input.up_to(at, 8)?;
        let (Some(kind), Some(size)) = (head.get(..4), le(&head, 4, 4)) else {
            return Err(input.broken("there is no data chunk"));
        };
        input.part()?;
        match kind {
            b"ds64" => long = le(&input.piece(at + 8, 28)?, 8, 8),
            b"fmt " => {
                let size = usize::try_from(size).unwrap_or(usize::MAX).clamp(16, 40);
                stream = Some(format(&input.piece(at + 8, size)?));
            }
            b"data" => {
                let (mut stream, bytes_second) =
                    stream.ok_or_else(|| input.broken("its data comes before its format"))?;
                // Streamed files state no size, cut ones a wrong one.
                let there = input.len.saturating_sub(at + 8);
                let stated = long.filter(|_| size == 0xFFFF_FFFF).unwrap_or(size);
                let bytes = if stated == 0 {
                    there
                } else {
                    stated.min(there)
                };
                stream.duration_s = seconds(bytes, bytes_second);
                stream.bit_rate = (bytes_second > 0).then(|| rate(bytes_second, 1.0));
                return Ok((stream.duration_s, vec![stream]));
            }
            _ => {}
        }
        at = at.saturating_add(8 + size + size % 2);
    }
}

/// The stream, and its bytes a second. Source: `WAVEFORMATEX`.
fn format(data: &[u8]) -> (Stream, u64) {
    let mut tag = le(data, 0, 2).unwrap_or(0);
    if tag == 0xFFFE {
        tag = le(data, 24, 2).unwrap_or(tag);
    }
    let bits = le(data, 14, 2).unwrap_or(0);
    let codec = match (tag, bits) {
        (1, 8) => "pcm_u8".to_owned(),
        (1, bits) => format!("pcm_s{bits}le"),
        (3, bits) => format!("pcm_f{bits}le"),
        (6, _) => "pcm_alaw".to_owned(),
        (7, _) => "pcm_mulaw".to_owned(),
        (2, _) => "adpcm_ms".to_owned(),
        (0x11, _) => "adpcm_ima_wav".to_owned(),
        (0x55, _) => "mp3".to_owned(),
        (tag, _) => format!("0x{tag:04x}"),
    };
    let stream = Stream {
        kind: StreamKind::Audio,
        codec,
        channels: le32(data, 2, 2).filter(|&count| count > 0),
        sample_rate: le32(data, 4, 4).filter(|&rate| rate > 0),
        ..Stream::default()
    };
    (stream, le(data, 8, 4).unwrap_or(0))
}
