//! Video and audio files: what their headers say, without decoding a frame.
//!
//! A file is read where its headers are and nowhere else, so one of any size costs the same. Numbers that a file states
//! are never used as a size before they are checked; how many parts are looked at, how deep, and how much is read in
//! all is bounded.

mod input;
mod matroska;
mod mp4;
mod mpeg;
mod ogg;
#[cfg(test)]
mod tests;
mod wave;

use std::io::{Read, Seek};

use crate::MediaError;
use input::Input;

/// What wraps the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the containers")]
pub enum Container {
    Mp4,
    M4a,
    Mov,
    Matroska,
    WebM,
    Ogg,
    Mp3,
    Wav,
}

impl Container {
    /// The container that these bytes begin; the first 64 decide.
    #[must_use]
    pub fn sniff(head: &[u8]) -> Option<Self> {
        Some(match head {
            [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4)? {
                b"qt  " => Self::Mov,
                b"M4A " | b"M4B " => Self::M4a,
                // Pictures in the same boxes.
                _ if crate::Format::sniff(head).is_ok() => return None,
                _ => Self::Mp4,
            },
            // QuickTime before there was `ftyp`.
            [_, _, _, _, b'm', b'o', b'o', b'v' | b'f', ..]
            | [_, _, _, _, b'm', b'd', b'a', b't', ..]
            // An empty box; anything else is a text with "wide" in it.
            | [0, 0, 0, 8, b'w', b'i', b'd', b'e', ..] => Self::Mov,
            [0x1A, 0x45, 0xDF, 0xA3, ..] => {
                let is_webm = head.windows(4).any(|word| word == b"webm");
                if is_webm { Self::WebM } else { Self::Matroska }
            }
            [b'O', b'g', b'g', b'S', 0, ..] => Self::Ogg,
            [b'R', b'I', b'F', b'F', ..] | [b'R', b'F', b'6', b'4', ..]
                if head.get(8..12) == Some(b"WAVE") =>
            {
                Self::Wav
            }
            [b'I', b'D', b'3', 2..=4, ..] => Self::Mp3,
            // Two bytes of UTF-16 look like a frame of layer 1, which nobody has.
            _ if mpeg::Frame::read(head).is_some_and(|frame| frame.layer > 1) => Self::Mp3,
            _ => return None,
        })
    }

    /// Lower-case name, as on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::M4a => "m4a",
            Self::Mov => "mov",
            Self::Matroska => "mkv",
            Self::WebM => "webm",
            Self::Ogg => "ogg",
            Self::Mp3 => "mp3",
            Self::Wav => "wav",
        }
    }
}

/// A video or audio file.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// By content.
    pub container: Container,
    /// Seconds; `None` where the headers do not say, as in a recording that was streamed.
    pub duration_s: Option<f64>,
    /// Bits a second of the whole file.
    pub bit_rate: Option<u64>,
    /// In the file's order.
    pub streams: Vec<Stream>,
}

/// One of its streams.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stream {
    /// What it carries.
    pub kind: StreamKind,
    /// As ffmpeg calls it (`h264`, `aac`, `opus`), or what the file says where that is none we know;
    /// `unknown` where it says nothing.
    pub codec: String,
    /// Seconds, where the container tells it of streams.
    pub duration_s: Option<f64>,
    /// Bits a second, where the container tells it.
    pub bit_rate: Option<u64>,
    /// Pixels across and down, as coded.
    pub coded: Option<(u32, u32)>,
    /// Pixels as they are to be shown, with the shape of a pixel and the rotation carried out.
    pub display: Option<(u32, u32)>,
    /// Degrees clockwise by which it is turned to be shown: 0, 90, 180 or 270.
    pub rotation: u16,
    /// Frames a second, on average.
    pub frame_rate: Option<f64>,
    /// Samples a second.
    pub sample_rate: Option<u32>,
    /// Channels of sound.
    pub channels: Option<u32>,
}

/// What a stream carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum StreamKind {
    Video,
    Audio,
    Subtitle,
    #[default]
    Data,
}

impl StreamKind {
    /// Lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Subtitle => "subtitle",
            Self::Data => "data",
        }
    }
}

/// Read the headers of a video or audio file.
///
/// # Errors
/// [`MediaError::Unsupported`] for what is none, [`MediaError::Broken`] for headers that end early or contradict
/// themselves, [`MediaError::Limit`] for more parts, streams or tables than any honest file has.
pub fn record(mut source: impl Read + Seek) -> Result<Recording, MediaError> {
    crate::process::caught("media", || read(Input::new(&mut source)?))
}

fn read(mut input: Input<'_>) -> Result<Recording, MediaError> {
    let head = input.up_to(0, 64)?;
    let container = Container::sniff(&head).ok_or_else(|| {
        MediaError::Unsupported(
            "not a video or audio file of a known kind (judged by content, not by name)".into(),
        )
    })?;
    input.format = container.name();
    let (duration_s, mut streams) = match container {
        Container::Mp4 | Container::M4a | Container::Mov => mp4::read(&mut input)?,
        Container::Matroska | Container::WebM => matroska::read(&mut input)?,
        Container::Ogg => ogg::read(&mut input)?,
        Container::Mp3 => mpeg::read(&mut input)?,
        Container::Wav => wave::read(&mut input)?,
    };
    if streams.is_empty() {
        return Err(input.broken("there is no stream in it"));
    }
    for stream in streams.iter_mut().filter(|stream| stream.codec.is_empty()) {
        stream.codec = "unknown".to_owned();
    }
    let duration_s = duration_s.filter(|seconds| seconds.is_finite() && *seconds > 0.0);
    Ok(Recording {
        container,
        bit_rate: duration_s.map(|seconds| rate(input.len, seconds)),
        duration_s,
        streams,
    })
}

/// Bits a second.
fn rate(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 * 8.0 / seconds) as u64
}

/// `value` of `scale` a second, as seconds.
fn seconds(value: u64, scale: u64) -> Option<f64> {
    (value > 0 && scale > 0).then(|| value as f64 / scale as f64)
}

fn turned((width, height): (u32, u32), rotation: u16) -> (u32, u32) {
    match rotation {
        90 | 270 => (height, width),
        _ => (width, height),
    }
}

fn sides(width: u32, height: u32) -> Option<(u32, u32)> {
    (width > 0 && height > 0).then_some((width, height))
}
