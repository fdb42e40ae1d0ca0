//! What a file of pictures, video or sound says of itself, as JSON: for the command line and over HTTP.

use media::{Limits, MediaError, Metadata, Recording, Stream};
use serde_json::{Value, json};

/// As many bytes as every kind is told by.
pub(crate) const HEAD_BYTES: usize = 256;

/// What was found in a file.
#[derive(Debug)]
pub(crate) enum Found {
    Image(Metadata),
    Recording(Recording),
}

/// Whether a file that begins so is video or sound, which is read in place and never whole.
pub(crate) fn is_recording(head: &[u8]) -> bool {
    media::Format::sniff(head).is_err() && media::Container::sniff(head).is_some()
}

/// From the whole file.
///
/// # Errors
/// As [`media::probe`] and [`media::record`].
pub(crate) fn find(data: &[u8], limits: &Limits) -> Result<Found, MediaError> {
    match is_recording(&data[..data.len().min(HEAD_BYTES)]) {
        true => media::record(std::io::Cursor::new(data)).map(Found::Recording),
        false => media::probe(data, limits)
            .map(Found::Image)
            .map_err(|error| match media::Format::sniff(data) {
                Err(_) => MediaError::Unsupported(
                    "not an image, video or sound of a known kind (judged by content, not by name)"
                        .to_owned(),
                ),
                Ok(_) => error,
            }),
    }
}

impl Found {
    /// An object; `bytes` is the file's size.
    pub(crate) fn json(&self, bytes: u64) -> Value {
        match self {
            Self::Image(found) => image(found, bytes),
            Self::Recording(found) => recording(found, bytes),
        }
    }

    /// `jpeg 4000×3000, 1234 bytes, …`.
    pub(crate) fn line(&self, bytes: u64) -> String {
        let (head, facts) = match self {
            Self::Image(found) => {
                let (width, height) = found.upright();
                let head = format!("{} {width}×{height}", found.format.name());
                (head, image_facts(found))
            }
            Self::Recording(found) => {
                let length = found.duration_s.map(|seconds| format!("{seconds:.3} s"));
                let rate = found.bit_rate.map(|rate| format!("{} kbit/s", rate / 1000));
                let streams = found.streams.iter().map(stream_line);
                let facts = length.into_iter().chain(rate).chain(streams);
                (found.container.name().to_owned(), facts.collect())
            }
        };
        let facts = std::iter::once(format!("{bytes} bytes")).chain(facts);
        let facts: Vec<String> = std::iter::once(head).chain(facts).collect();
        facts.join(", ")
    }
}

fn image(found: &Metadata, bytes: u64) -> Value {
    let exif = found.exif.as_ref().map(|exif| {
        json!({
            "taken": exif.taken,
            "make": exif.make,
            "model": exif.model,
            "location": exif.location.map(|(north, east)| json!({ "latitude": north, "longitude": east })),
        })
    });
    json!({
        "format": found.format.name(),
        "bytes": bytes,
        "width": found.width,
        "height": found.height,
        "frames": found.frames,
        "alpha": found.alpha,
        "orientation": found.orientation,
        "icc": found.icc,
        "exif": exif,
    })
}

fn image_facts(found: &Metadata) -> Vec<String> {
    let exif = found.exif.clone().unwrap_or_default();
    let facts = [
        (found.frames > 1).then(|| format!("{} frames", found.frames)),
        found.alpha.then(|| "transparency".to_owned()),
        (found.orientation > 1).then(|| format!("orientation {}", found.orientation)),
        exif.taken,
        exif.make,
        exif.model,
        exif.location
            .map(|(north, east)| format!("taken at {north:.5}, {east:.5}")),
        found.icc.as_ref().map(|name| format!("profile {name}")),
    ];
    facts.into_iter().flatten().collect()
}

fn recording(found: &Recording, bytes: u64) -> Value {
    let streams: Vec<Value> = found.streams.iter().map(stream).collect();
    json!({
        "format": found.container.name(),
        "bytes": bytes,
        "duration_s": found.duration_s,
        "bit_rate": found.bit_rate,
        "streams": streams,
    })
}

fn stream(stream: &Stream) -> Value {
    let mut shown = json!({
        "kind": stream.kind.name(),
        "codec": stream.codec,
        "duration_s": stream.duration_s,
        "bit_rate": stream.bit_rate,
    });
    match stream.kind {
        media::StreamKind::Video => {
            shown["width"] = json!(stream.coded.map(|sides| sides.0));
            shown["height"] = json!(stream.coded.map(|sides| sides.1));
            shown["display_width"] = json!(stream.display.map(|sides| sides.0));
            shown["display_height"] = json!(stream.display.map(|sides| sides.1));
            shown["rotation"] = json!(stream.rotation);
            shown["frame_rate"] = json!(stream.frame_rate);
        }
        media::StreamKind::Audio => {
            shown["sample_rate"] = json!(stream.sample_rate);
            shown["channels"] = json!(stream.channels);
        }
        media::StreamKind::Subtitle | media::StreamKind::Data => {}
    }
    shown
}

/// `video h264 1920×1080 29.97 fps turned by 90°`.
fn stream_line(stream: &Stream) -> String {
    let facts = [
        stream
            .display
            .map(|(width, height)| format!("{width}×{height}")),
        stream.frame_rate.map(|rate| format!("{rate:.2} fps")),
        (stream.rotation > 0).then(|| format!("turned by {}°", stream.rotation)),
        stream.sample_rate.map(|rate| format!("{rate} Hz")),
        stream.channels.map(|count| match count {
            1 => "mono".to_owned(),
            2 => "stereo".to_owned(),
            more => format!("{more} channels"),
        }),
    ];
    let mut line = format!("{} {}", stream.kind.name(), stream.codec);
    for fact in facts.into_iter().flatten() {
        line.push(' ');
        line.push_str(&fact);
    }
    line
}
