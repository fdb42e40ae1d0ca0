//! What a file says of itself, without decoding a pixel.

use crate::{Format, Limits, MediaError};
use image::ImageDecoder as _;
use std::borrow::Cow;
use std::io::Cursor;

/// Longest EXIF block that is read; of a JPEG it has at most 64 KiB.
const EXIF_BYTES_MAX: usize = 256 << 10;
/// Longest name of a colour profile that is told.
const NAME_CHARS_MAX: usize = 200;

/// Facts from the headers.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    /// Kind, by content.
    pub format: Format,
    /// Pixels across, as stored (before EXIF orientation).
    pub width: u32,
    /// Pixels down, as stored.
    pub height: u32,
    /// Whether the file declares transparency.
    pub alpha: bool,
    /// Frames; 1 for a still image.
    pub frames: u32,
    /// EXIF orientation, 1–8; 1 if absent.
    pub orientation: u8,
    /// Camera data, if there is a readable EXIF block.
    pub exif: Option<Exif>,
    /// Name of the ICC profile, if one is embedded.
    pub icc: Option<String>,
}

impl Metadata {
    /// Width and height as a person sees them, after orientation.
    #[must_use]
    pub fn upright(&self) -> (u32, u32) {
        if self.orientation >= 5 {
            (self.height, self.width)
        } else {
            (self.width, self.height)
        }
    }
}

/// From the EXIF block.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exif {
    /// `YYYY-MM-DD HH:MM:SS`, in the camera's own time.
    pub taken: Option<String>,
    /// Maker.
    pub make: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Degrees north and east.
    pub location: Option<(f64, f64)>,
}

/// The raw blocks found on the way.
#[derive(Default)]
pub(crate) struct Blocks<'a> {
    width: u32,
    height: u32,
    alpha: bool,
    frames: u32,
    exif: Option<Cow<'a, [u8]>>,
    pub(crate) icc: Option<Vec<u8>>,
}

/// Read the headers.
///
/// # Errors
/// [`MediaError::Unsupported`] for what is no image, [`MediaError::Broken`] for headers that do not
/// parse, [`MediaError::Limit`] for a file or a profile over its size.
pub fn probe(data: &[u8], limits: &Limits) -> Result<Metadata, MediaError> {
    crate::process::caught(Format::sniff(data).map_or("image", Format::name), || {
        let (format, blocks) = blocks(data, limits)?;
        Ok(describe(format, &blocks))
    })
}

pub(crate) fn describe(format: Format, blocks: &Blocks<'_>) -> Metadata {
    let (orientation, exif) = blocks.exif.as_deref().map_or((1, None), read_exif);
    Metadata {
        format,
        width: blocks.width,
        height: blocks.height,
        alpha: blocks.alpha,
        frames: blocks.frames.max(1),
        orientation,
        exif,
        icc: blocks.icc.as_deref().map(profile_name),
    }
}

pub(crate) fn blocks<'a>(
    data: &'a [u8],
    limits: &Limits,
) -> Result<(Format, Blocks<'a>), MediaError> {
    Limits::check("file size in bytes", data.len() as u64, limits.bytes)?;
    let format = Format::sniff(data)?;
    let found = match format {
        Format::Jpeg => jpeg(data, limits).ok_or("the markers end before the frame header"),
        Format::Png => png(data, limits)?.ok_or("the chunks end before the header"),
        Format::WebP => webp(data, limits).ok_or("the chunks end before the frame"),
        Format::Gif => gif(data).ok_or("the blocks end before the screen"),
        Format::Tiff | Format::Bmp | Format::Ico => {
            return other(data, format).map(|found| (format, found));
        }
        Format::Avif | Format::Heic | Format::Svg => return Err(undecoded(format)),
    };
    let found = found.map_err(|reason| MediaError::Broken {
        format: format.name(),
        reason: reason.into(),
    })?;
    if found.width == 0 || found.height == 0 {
        return Err(MediaError::Broken {
            format: format.name(),
            reason: "a side of 0 pixels".into(),
        });
    }
    Ok((format, found))
}

/// A kind that is known and not read, and what its sender can do.
fn undecoded(format: Format) -> MediaError {
    let why = match format {
        Format::Heic => {
            "HEIC pictures are not read here: send JPEG (on an iPhone: Settings, Camera, Formats, Most Compatible), or convert it \
             first, for one with `heif-convert picture.heic picture.jpg`"
        }
        Format::Svg => {
            "SVG drawings are not drawn here: make a PNG of it first, for one with `rsvg-convert -o picture.png picture.svg`"
        }
        _ => {
            "AVIF pictures are not read here: convert it to JPEG, PNG or WebP first, for one with `ffmpeg -i picture.avif \
             picture.png`"
        }
    };
    MediaError::Unsupported(why.to_owned())
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn be32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

fn le(data: &[u8], at: usize, bytes: usize) -> Option<u32> {
    let part = data.get(at..at + bytes)?;
    Some(
        part.iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | u32::from(byte)),
    )
}

fn jpeg<'a>(data: &'a [u8], limits: &Limits) -> Option<Blocks<'a>> {
    let mut found = Blocks {
        frames: 1,
        ..Blocks::default()
    };
    let mut icc: Vec<(u8, &[u8])> = Vec::new();
    let mut at = 2;
    loop {
        // Fill bytes before a marker are legal.
        while *data.get(at)? == 0xFF && *data.get(at + 1)? == 0xFF {
            at += 1;
        }
        if *data.get(at)? != 0xFF {
            return None;
        }
        let marker = *data.get(at + 1)?;
        let length = usize::from(be16(data, at + 2)?);
        let Some(body) = data.get(at + 4..at + 2 + length) else {
            break;
        };
        match marker {
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                found.height = u32::from(be16(body, 1)?);
                found.width = u32::from(be16(body, 3)?);
            }
            0xE1 if found.exif.is_none() => {
                found.exif = body.strip_prefix(b"Exif\0\0").map(Cow::Borrowed);
            }
            0xE2 => {
                if let Some([number, _, part @ ..]) = body.strip_prefix(b"ICC_PROFILE\0") {
                    icc.push((*number, part));
                }
            }
            0xDA | 0xD9 => break,
            _ => {}
        }
        at += 2 + length;
    }
    icc.sort_by_key(|&(number, _)| number);
    let profile = icc
        .into_iter()
        .flat_map(|(_, part)| part)
        .take(limits.icc_bytes)
        .copied();
    found.icc = Some(profile.collect()).filter(|profile: &Vec<u8>| !profile.is_empty());
    (found.width > 0).then_some(found)
}

fn png<'a>(data: &'a [u8], limits: &Limits) -> Result<Option<Blocks<'a>>, MediaError> {
    let mut found = Blocks {
        frames: 1,
        ..Blocks::default()
    };
    let mut at = 8;
    while let Some(length) = be32(data, at) {
        let from = at + 8;
        let Some(body) = data.get(from..from.saturating_add(length as usize)) else {
            break;
        };
        match &data[at + 4..from] {
            // The first, as the decoder takes it.
            b"IHDR" if found.width == 0 && body.len() >= 13 => {
                found.width = be32(body, 0).unwrap_or(0);
                found.height = be32(body, 4).unwrap_or(0);
                found.alpha = matches!(body[9], 4 | 6);
            }
            b"tRNS" => found.alpha = true,
            b"acTL" => found.frames = be32(body, 0).unwrap_or(1),
            b"eXIf" => found.exif = Some(Cow::Borrowed(body)),
            // One is allowed; a file of nothing else would be inflated for minutes.
            b"iCCP" if found.icc.is_none() => {
                let name = body
                    .iter()
                    .position(|&byte| byte == 0)
                    .unwrap_or(body.len());
                if let Some(packed) = body.get(name + 2..) {
                    found.icc = Some(inflate(packed, limits.icc_bytes)?);
                }
            }
            b"IEND" => break,
            _ => {}
        }
        at = from + body.len() + 4;
    }
    Ok((found.width > 0).then_some(found))
}

/// A zlib stream of unknown size, never more than `limit` bytes of it.
fn inflate(packed: &[u8], limit: usize) -> Result<Vec<u8>, MediaError> {
    let mut size = packed.len().saturating_mul(4).clamp(1 << 12, limit);
    loop {
        let mut out = vec![0; size];
        match libdeflater::Decompressor::new().zlib_decompress(packed, &mut out) {
            Ok(len) => {
                out.truncate(len);
                return Ok(out);
            }
            Err(libdeflater::DecompressionError::InsufficientSpace) if size < limit => {
                size = size.saturating_mul(4).min(limit);
            }
            Err(libdeflater::DecompressionError::InsufficientSpace) => {
                let limit = limit as u64;
                return Err(MediaError::Limit {
                    what: "ICC profile size in bytes",
                    have: limit + 1,
                    limit,
                });
            }
            Err(e) => {
                return Err(MediaError::Broken {
                    format: "png",
                    reason: format!("ICC profile: {e}"),
                });
            }
        }
    }
}

fn webp<'a>(data: &'a [u8], limits: &Limits) -> Option<Blocks<'a>> {
    let mut found = Blocks::default();
    let mut at = 12;
    while let (Some(kind), Some(length)) = (data.get(at..at + 4), le(data, at + 4, 4)) {
        let from = at + 8;
        let end = from.saturating_add(length as usize).min(data.len());
        let body = &data[from.min(end)..end];
        match kind {
            // The first, as the decoder takes it.
            b"VP8X" if found.width == 0 => {
                found.alpha = body.first()? & 0x10 != 0;
                found.width = le(body, 4, 3)? + 1;
                found.height = le(body, 7, 3)? + 1;
            }
            b"VP8 " if found.width == 0 => {
                found.width = le(body, 6, 2)? & 0x3FFF;
                found.height = le(body, 8, 2)? & 0x3FFF;
            }
            b"VP8L" if found.width == 0 => {
                let bits = le(body, 1, 4)?;
                found.width = (bits & 0x3FFF) + 1;
                found.height = (bits >> 14 & 0x3FFF) + 1;
                found.alpha = bits >> 28 & 1 == 1;
            }
            b"ANMF" => found.frames += 1,
            b"EXIF" => {
                found.exif = Some(Cow::Borrowed(
                    body.strip_prefix(b"Exif\0\0").unwrap_or(body),
                ))
            }
            b"ICCP" => found.icc = Some(body[..body.len().min(limits.icc_bytes)].to_vec()),
            _ => {}
        }
        at = from.saturating_add((length as usize).next_multiple_of(2));
    }
    (found.width > 0).then_some(found)
}

fn gif(data: &[u8]) -> Option<Blocks<'_>> {
    let mut found = Blocks {
        width: le(data, 6, 2)?,
        height: le(data, 8, 2)?,
        ..Blocks::default()
    };
    let table = |flags: u8| {
        if flags & 0x80 != 0 {
            3 << ((flags & 7) + 1)
        } else {
            0
        }
    };
    let mut at = 13 + table(*data.get(10)?);
    // A file cut short still has a size and the frames before the cut.
    while let Some(&kind) = data.get(at) {
        match kind {
            0x21 => {
                if data.get(at + 1) == Some(&0xF9)
                    && data.get(at + 3).is_some_and(|flags| flags & 1 == 1)
                {
                    found.alpha = true;
                }
                at += 2;
            }
            0x2C => {
                found.frames += 1;
                let Some(&flags) = data.get(at + 9) else {
                    break;
                };
                at += 11 + table(flags);
            }
            _ => break,
        }
        while let Some(&length) = data.get(at) {
            at += 1 + usize::from(length);
            if length == 0 {
                break;
            }
        }
    }
    Some(found)
}

fn other<'a>(data: &'a [u8], format: Format) -> Result<Blocks<'a>, MediaError> {
    let broken = |e: image::ImageError| MediaError::Broken {
        format: format.name(),
        reason: e.to_string(),
    };
    let mut decoder = image::ImageReader::new(Cursor::new(data))
        .with_guessed_format()
        .map_err(|e| MediaError::Broken {
            format: format.name(),
            reason: e.to_string(),
        })?
        .into_decoder()
        .map_err(broken)?;
    let (width, height) = decoder.dimensions();
    Ok(Blocks {
        width,
        height,
        alpha: decoder.color_type().has_alpha(),
        frames: 1,
        exif: decoder.exif_metadata().map_err(broken)?.map(Cow::Owned),
        icc: decoder.icc_profile().map_err(broken)?,
    })
}

/// Orientation and camera data; a block that does not parse has neither, nor has one that no camera writes.
fn read_exif(block: &[u8]) -> (u8, Option<Exif>) {
    use exif::{In, Tag, Value};
    // The parser makes a string, of 24 bytes, of every zero byte in a text.
    if block.len() > EXIF_BYTES_MAX {
        return (1, None);
    }
    let Ok(found) = exif::Reader::new().read_raw(block.to_vec()) else {
        return (1, None);
    };
    let text = |tag| match &found.get_field(tag, In::PRIMARY)?.value {
        Value::Ascii(lines) => {
            let line = String::from_utf8_lossy(lines.first()?).trim().to_owned();
            (!line.is_empty()).then_some(line)
        }
        _ => None,
    };
    let degrees = |tag, side| match &found.get_field(tag, In::PRIMARY)?.value {
        Value::Rational(parts) if parts.len() >= 3 => {
            let sum = parts[0].to_f64() + parts[1].to_f64() / 60.0 + parts[2].to_f64() / 3600.0;
            let behind = matches!(text(side).as_deref(), Some("S" | "W"));
            sum.is_finite().then_some(if behind { -sum } else { sum })
        }
        _ => None,
    };
    let orientation = found
        .get_field(Tag::Orientation, In::PRIMARY)
        .and_then(|field| field.value.get_uint(0))
        .and_then(|value| u8::try_from(value).ok())
        .filter(|value| (1..=8).contains(value))
        .unwrap_or(1);
    let taken = text(Tag::DateTimeOriginal)
        .or_else(|| text(Tag::DateTime))
        .map(|date| {
            let (day, time) = date.split_at_checked(10).unwrap_or((&date, ""));
            format!("{}{time}", day.replace(':', "-"))
        });
    let location = degrees(Tag::GPSLatitude, Tag::GPSLatitudeRef)
        .zip(degrees(Tag::GPSLongitude, Tag::GPSLongitudeRef));
    let exif = Exif {
        taken,
        make: text(Tag::Make),
        model: text(Tag::Model),
        location,
    };
    (orientation, Some(exif))
}

/// The `desc` tag of a profile: version 2 has ASCII, version 4 UTF-16.
fn profile_name(profile: &[u8]) -> String {
    let read = || {
        let count = be32(profile, 128)?.min(100) as usize;
        let entry = (0..count)
            .map(|i| 132 + i * 12)
            .find(|&at| profile.get(at..at + 4) == Some(b"desc"))?;
        let at = be32(profile, entry + 4)? as usize;
        let tag = profile.get(at..)?;
        let text = match tag.get(..4)? {
            b"desc" => {
                String::from_utf8_lossy(tag.get(12..12 + be32(tag, 8)? as usize)?).into_owned()
            }
            b"mluc" => {
                let (length, from) = (be32(tag, 20)? as usize, be32(tag, 24)? as usize);
                let units = tag.get(from..from + length)?.chunks_exact(2);
                String::from_utf16_lossy(
                    &units
                        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
                        .collect::<Vec<_>>(),
                )
            }
            _ => return None,
        };
        let name = text.trim_end_matches('\0').trim();
        Some(name.chars().take(NAME_CHARS_MAX).collect::<String>())
    };
    read().unwrap_or_else(|| "unnamed".into())
}
