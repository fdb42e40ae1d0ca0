//! Kinds of image, told by content alone: names and declared types lie.

use crate::MediaError;

/// A kind of image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the formats")]
pub enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Tiff,
    Bmp,
    Ico,
    Avif,
    Heic,
    Svg,
}

impl Format {
    /// The kind of these bytes; the first 256 decide.
    ///
    /// # Errors
    /// [`MediaError::Unsupported`] if they begin like no image.
    pub fn sniff(data: &[u8]) -> Result<Self, MediaError> {
        let head = &data[..data.len().min(256)];
        let found = match head {
            [0xFF, 0xD8, 0xFF, ..] => Self::Jpeg,
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Self::Png,
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Self::WebP,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Self::Gif,
            [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Self::Tiff,
            [b'B', b'M', ..] if head.len() >= 26 => Self::Bmp,
            [0, 0, 1, 0, count, ..] if *count > 0 && head.len() >= 22 => Self::Ico,
            [_, _, _, _, b'f', b't', b'y', b'p', brands @ ..] => {
                boxed(brands).ok_or_else(unknown)?
            }
            _ if looks_like_svg(head) => Self::Svg,
            _ => return Err(unknown()),
        };
        Ok(found)
    }

    /// Lower-case name, as on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Tiff => "tiff",
            Self::Bmp => "bmp",
            Self::Ico => "ico",
            Self::Avif => "avif",
            Self::Heic => "heic",
            Self::Svg => "svg",
        }
    }

    /// File extension without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        if self == Self::Jpeg {
            "jpg"
        } else {
            self.name()
        }
    }

    /// The kind that a name or an extension means.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "jpeg" | "jpg" => Self::Jpeg,
            "png" => Self::Png,
            "webp" => Self::WebP,
            "gif" => Self::Gif,
            "tiff" | "tif" => Self::Tiff,
            "bmp" => Self::Bmp,
            "ico" => Self::Ico,
            "avif" => Self::Avif,
            "heic" | "heif" => Self::Heic,
            "svg" => Self::Svg,
            _ => return None,
        })
    }
}

fn unknown() -> MediaError {
    MediaError::Unsupported("not an image of a known kind (judged by content, not by name)".into())
}

/// By the brands of an `ftyp` box, its own and those it is compatible with.
fn boxed(brands: &[u8]) -> Option<Format> {
    match brands.get(..4)? {
        b"avif" | b"avis" => Some(Format::Avif),
        // What both are made of; which of the two stands after it.
        b"mif1" | b"msf1"
            if brands
                .chunks(4)
                .any(|brand| matches!(brand, b"avif" | b"avis")) =>
        {
            Some(Format::Avif)
        }
        b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"hevm" | b"hevs" | b"mif1"
        | b"msf1" => Some(Format::Heic),
        _ => None,
    }
}

fn looks_like_svg(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let begins = |start: &str| text.starts_with(start);
    begins("<svg")
        || begins("<!DOCTYPE svg")
        || ((begins("<?xml") || begins("<!--"))
            && (text.contains("<svg") || text.contains("<!DOCTYPE svg")))
}
