//! Options as JavaScript writes them, checked once.

use media::{Crop, Fit, Format, Limits, MediaError, Options, Target};
use napi_derive::napi;

/// See `npm/index.d.ts`; what is absent is the crate's default.
#[napi(object)]
#[derive(Default)]
pub struct Wish {
    /// Pixels across.
    pub max_width: Option<u32>,
    /// Pixels down.
    pub max_height: Option<u32>,
    /// `inside`, `cover` or `exact`.
    pub fit: Option<String>,
    /// Whether a smaller image is blown up.
    pub enlarge: Option<bool>,
    /// Whether EXIF orientation is carried out.
    pub auto_orient: Option<bool>,
    /// Carried out in place of the file's own, 1–8.
    pub orientation: Option<u32>,
    /// Left, top, width, height of the part to keep, upright.
    pub crop: Option<Vec<f64>>,
    /// `same`, `auto` or a kind.
    pub format: Option<String>,
    /// 1–100.
    pub quality: Option<u32>,
    /// WebP without loss.
    pub lossless: Option<bool>,
    /// All frames, or the first.
    pub animated: Option<bool>,
    /// Red, green, blue behind transparency.
    pub background: Option<Vec<u32>>,
    /// Whether transparency is given up for the background in every kind.
    pub flatten: Option<bool>,
    /// Largest result.
    pub max_bytes: Option<f64>,
    /// Largest input.
    pub input_bytes: Option<f64>,
    /// Largest frame.
    pub input_pixels: Option<f64>,
    /// Most frames.
    pub input_frames: Option<f64>,
}

fn wrong(what: impl Into<String>) -> MediaError {
    MediaError::Options(what.into())
}

impl Wish {
    pub(crate) fn read(&self) -> Result<(Options, Limits), MediaError> {
        let defaults = Options::default();
        let fit = match self.fit.as_deref() {
            None | Some("inside") => Fit::Inside,
            Some("cover") => Fit::Cover,
            Some("exact") => Fit::Exact,
            Some(other) => return Err(wrong(format!("fit `{other}`: inside, cover or exact"))),
        };
        let target = match self.format.as_deref() {
            None | Some("same") => Target::Same,
            Some("auto") => Target::Auto,
            Some(name) => Target::Format(
                Format::from_name(name)
                    .ok_or_else(|| wrong(format!("format `{name}` is not known")))?,
            ),
        };
        let byte = |value: u32, what: &str| {
            u8::try_from(value).map_err(|_beyond| wrong(format!("{what} {value} is over 255")))
        };
        let background = match self.background.as_deref() {
            None => defaults.background,
            Some(&[red, green, blue]) => [
                byte(red, "red")?,
                byte(green, "green")?,
                byte(blue, "blue")?,
            ],
            Some(other) => {
                return Err(wrong(format!(
                    "a background of {} numbers: red, green and blue are 3",
                    other.len()
                )));
            }
        };
        let crop = match self.crop.as_deref() {
            None => None,
            Some(&[left, top, width, height]) => Some(Crop {
                left,
                top,
                width,
                height,
            }),
            Some(other) => return Err(wrong(format!("a crop of {} numbers, not 4", other.len()))),
        };
        let options = Options {
            max_width: self.max_width,
            max_height: self.max_height,
            fit,
            enlarge: self.enlarge.unwrap_or(defaults.enlarge),
            auto_orient: self.auto_orient.unwrap_or(defaults.auto_orient),
            orientation: self
                .orientation
                .map(|value| byte(value, "orientation"))
                .transpose()?,
            crop,
            target,
            quality: match self.quality {
                None => defaults.quality,
                Some(value) => byte(value, "quality")?,
            },
            lossless: self.lossless.unwrap_or(defaults.lossless),
            animated: self.animated.unwrap_or(defaults.animated),
            background,
            flatten: self.flatten.unwrap_or(defaults.flatten),
            max_bytes: self
                .max_bytes
                .map(|most| usize::try_from(whole(most)).unwrap_or(usize::MAX)),
        };
        let limits = limits(self.input_bytes, self.input_pixels, self.input_frames);
        Ok((options, limits))
    }
}

/// The crate's bounds, with what the caller states in their place.
pub(crate) fn limits(bytes: Option<f64>, pixels: Option<f64>, frames: Option<f64>) -> Limits {
    let mut limits = Limits::default();
    if let Some(bytes) = bytes {
        limits.bytes = whole(bytes);
    }
    if let Some(pixels) = pixels {
        limits.pixels = whole(pixels);
        limits.animation_pixels = limits.animation_pixels.max(limits.pixels);
    }
    if let Some(frames) = frames {
        limits.frames = whole(frames);
    }
    limits
}

/// JavaScript's number as a count; what is none is 0, `Infinity` is no bound.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and NaN is 0"
)]
pub(crate) fn whole(value: f64) -> u64 {
    value as u64
}
