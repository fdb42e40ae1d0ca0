//! One image from file to file.

use crate::decode::{self, Frame};
use crate::fit::Plan;
use crate::jpeg::{Jpeg, Planes};
use crate::probe::{blocks, describe};
use crate::raster::Raster;
use crate::{Cancel, Crop, Fit, Format, Limits, MediaError, Metadata, encode};

/// What the result is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// The kind of the source where it can be written, else PNG.
    #[default]
    Same,
    /// The smallest of those that can hold the picture at the quality.
    Auto,
    /// This kind.
    Format(Format),
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pixels across at most (with [`Fit::Inside`]) or exactly.
    pub max_width: Option<u32>,
    /// Pixels down, likewise.
    pub max_height: Option<u32>,
    /// How the image meets that box.
    pub fit: Fit,
    /// Whether a smaller image is blown up.
    pub enlarge: bool,
    /// Whether EXIF orientation is carried out (the tag is never written).
    pub auto_orient: bool,
    /// Carried out in place of the file's own orientation, EXIF values 1–8.
    pub orientation: Option<u8>,
    /// The part that is kept, before the box is looked at; `None`: all of it.
    pub crop: Option<Crop>,
    /// The kind of the result.
    pub target: Target,
    /// 1–100, for lossy kinds.
    pub quality: u8,
    /// WebP without loss.
    pub lossless: bool,
    /// All frames, where the result can hold them; else the first alone.
    pub animated: bool,
    /// What shows through transparency where the result has none, RGB.
    pub background: [u8; 3],
    /// Whether stills lose their transparency to the background in every kind.
    pub flatten: bool,
    /// The result must fit into this many bytes: quality, then size, give way.
    pub max_bytes: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_width: None,
            max_height: None,
            fit: Fit::Inside,
            enlarge: false,
            auto_orient: true,
            orientation: None,
            crop: None,
            target: Target::Same,
            quality: 85,
            lossless: false,
            animated: true,
            background: [255; 3],
            flatten: false,
            max_bytes: None,
        }
    }
}

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The file.
    pub data: Vec<u8>,
    /// Its kind.
    pub format: Format,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Frames.
    pub frames: u32,
    /// The quality it took, below [`Options::quality`] if bytes were short.
    pub quality: u8,
}

/// Qualities tried, from the wanted one down, before the picture is made smaller.
const QUALITIES: [u8; 4] = [75, 65, 55, 45];
/// Below this side nothing is gained by going on.
const SIDE_MIN: u32 = 64;

/// Decode, fit, encode. Metadata and location are left behind; colours come out as sRGB.
///
/// # Errors
/// Every [`MediaError`]; nothing large is allocated before the limits are checked.
pub fn process(
    data: &[u8],
    options: &Options,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Output, MediaError> {
    let format = Format::sniff(data).map_or("image", Format::name);
    caught(format, || processed(data, options, limits, cancel))
}

/// Bytes of memory that [`process`] takes for a file of which this was found, beside the file and the result: what is
/// decoded, what it becomes, and what codecs keep for a pixel meanwhile, as measured.
///
/// # Errors
/// [`MediaError::Options`] for a box or a crop that makes no picture.
pub fn cost(found: &Metadata, options: &Options) -> Result<u64, MediaError> {
    let bounds = (options.max_width, options.max_height);
    let (fit, enlarge) = (options.fit, options.enlarge);
    let plan = match options.crop {
        None => Plan::new(found.upright(), bounds, fit, enlarge)?,
        Some(crop) => crop.plan(found.upright(), bounds, fit, enlarge)?,
    };
    let (width, height) = (u64::from(plan.to.0), u64::from(plan.to.1));
    let wanted = target(found.format, options.target);
    let is_moving = matches!(wanted, Some(Format::Gif | Format::WebP));
    let frames = match found.frames {
        frames if is_moving && options.animated => u64::from(frames),
        _ => 1,
    };
    let from = u64::from(found.width) * u64::from(found.height);
    let to = (width * height).saturating_mul(frames);
    // Between the two passes of a resampling stands a picture as wide as the source and as high as the result.
    let turned = found.orientation >= 5;
    let between = u64::from(found.width) * if turned { width } else { height };
    let read = match found.format {
        Format::Jpeg => 10,
        Format::Tiff => 20,
        _ => 12,
    };
    // Transparency is multiplied in a copy.
    let resized = if found.format == Format::Jpeg { 4 } else { 8 };
    let is_lossless = options.lossless && matches!(wanted, None | Some(Format::WebP));
    let made = match wanted {
        _ if is_lossless => 64,
        // One frame after the other; WebP's animations are encoded with all at hand.
        Some(Format::Gif) if frames > 1 => 12,
        _ => 20,
    };
    let sum = |source: u64, each: u64, result: u64, other: u64| {
        let source = source.saturating_mul(each);
        source.saturating_add(result.saturating_mul(other))
    };
    let decoding = sum(from, read, to, 4);
    let resizing = sum(from, resized, to.saturating_add(between), 4);
    let encoding = sum(from, 4, to, made);
    Ok(decoding.max(resizing).max(encoding))
}

/// A decoder that panics over a file has found it broken: whoever sent it must not end a process with it.
pub(crate) fn caught<T>(
    format: &'static str,
    work: impl FnOnce() -> Result<T, MediaError>,
) -> Result<T, MediaError> {
    // What the work holds is dropped with it; nothing of it is looked at again.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_panic| {
        Err(MediaError::Broken {
            format,
            reason: "the decoder can't make sense of it".to_owned(),
        })
    })
}

fn processed(
    data: &[u8],
    options: &Options,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Output, MediaError> {
    if !(1..=100).contains(&options.quality) {
        return Err(MediaError::Options(format!(
            "quality {} is not within 1–100",
            options.quality
        )));
    }
    let (format, found) = blocks(data, limits)?;
    let metadata = describe(format, &found);
    limits.frame(metadata.width, metadata.height)?;
    cancel.check()?;

    let orientation = match options.orientation {
        Some(stated @ 1..=8) => stated,
        Some(other) => {
            return Err(MediaError::Options(format!(
                "orientation {other} is not within 1–8"
            )));
        }
        None if options.auto_orient => metadata.orientation,
        None => 1,
    };
    let stored = (metadata.width, metadata.height);
    let upright = if orientation >= 5 {
        (stored.1, stored.0)
    } else {
        stored
    };
    let bounds = (options.max_width, options.max_height);
    let plan = match options.crop {
        None => Plan::new(upright, bounds, options.fit, options.enlarge)?,
        Some(crop) => crop.plan(upright, bounds, options.fit, options.enlarge)?,
    };
    limits.frame(plan.to.0, plan.to.1)?;
    let plan = plan.stored(orientation, stored);
    // Between its two passes a resampling keeps a picture as wide as the source and as high as the result: of a wide and a
    // high one, which are both within bounds, it is not.
    limits.frame(stored.0, plan.to.1)?;

    let wanted = target(format, options.target);
    let mut picture = match wanted {
        Some(Format::Gif | Format::WebP) if metadata.frames > 1 && options.animated => {
            // All are kept at the size they are to have, which may be more than they come with.
            let each = u64::from(plan.to.0) * u64::from(plan.to.1);
            let all = each.saturating_mul(metadata.frames.into());
            Limits::check("pixel count of all frames", all, limits.animation_pixels)?;
            let mut frames = Vec::new();
            decode::frames(data, &metadata, limits, cancel, |frame| {
                let raster = if plan.is_identity(stored) {
                    frame.raster
                } else {
                    frame.raster.resized(plan)?
                };
                frames.push(Frame { raster, ..frame });
                Ok(())
            })?;
            Picture::Frames(frames)
        }
        _ => still(data, &metadata, limits, plan, wanted, found.icc.as_deref())?,
    };
    cancel.check()?;

    // The picture may be decoded smaller than stored; the plan follows it.
    let mut plan = match picture.size() {
        Some(have) => scaled(plan, stored, have),
        None => plan,
    };
    let qualities = || {
        std::iter::once(options.quality)
            .chain(QUALITIES.into_iter().filter(|&q| q < options.quality))
    };
    let mut least = usize::MAX;
    loop {
        let mut encoder = picture.fitted(plan, orientation, options)?;
        for quality in qualities() {
            cancel.check()?;
            let output = encoder.encode(wanted, options, quality, cancel)?;
            if options
                .max_bytes
                .is_none_or(|most| output.data.len() <= most)
            {
                return Ok(output);
            }
            least = least.min(output.data.len());
            if matches!(output.format, Format::Png | Format::Gif) || options.lossless {
                break;
            }
        }
        let limit = options.max_bytes.unwrap_or(usize::MAX);
        if plan.to.0.min(plan.to.1) * 3 / 4 < SIDE_MIN {
            return Err(MediaError::Limit {
                what: "smallest result in bytes",
                have: least as u64,
                limit: limit as u64,
            });
        }
        plan.to = (plan.to.0 * 3 / 4, plan.to.1 * 3 / 4);
        picture.shrink(plan.to)?;
    }
}

/// `None`: the smallest of several.
fn target(source: Format, wanted: Target) -> Option<Format> {
    match wanted {
        Target::Format(format) => Some(format),
        Target::Auto => None,
        Target::Same => Some(match source {
            Format::Jpeg | Format::Png | Format::WebP | Format::Gif => source,
            _ => Format::Png,
        }),
    }
}

fn scaled(plan: Plan, from: (u32, u32), to: (u32, u32)) -> Plan {
    let (x, y) = (
        f64::from(to.0) / f64::from(from.0),
        f64::from(to.1) / f64::from(from.1),
    );
    let (left, top) = (plan.left * x, plan.top * y);
    Plan {
        left,
        top,
        width: (plan.width * x).min(f64::from(to.0) - left),
        height: (plan.height * y).min(f64::from(to.1) - top),
        to: plan.to,
    }
}

/// A decoded source, kept while several results are tried.
enum Picture {
    Planes(Planes),
    Raster(Raster),
    Frames(Vec<Frame>),
}

fn still(
    data: &[u8],
    metadata: &Metadata,
    limits: &Limits,
    plan: Plan,
    wanted: Option<Format>,
    icc: Option<&[u8]>,
) -> Result<Picture, MediaError> {
    let profile = icc.filter(|_| {
        !metadata
            .icc
            .as_deref()
            .is_some_and(|name| name.contains("sRGB"))
    });
    if metadata.format == Format::Jpeg && wanted == Some(Format::Jpeg) && profile.is_none() {
        let jpeg = Jpeg::open(data, limits)?;
        if jpeg.planar() {
            return Ok(Picture::Planes(jpeg.planes(plan.shrink())?));
        }
    }
    let mut raster = decode::still(data, metadata, limits, plan.shrink())?;
    if let Some(profile) = profile {
        to_srgb(&mut raster, profile);
    }
    Ok(Picture::Raster(raster))
}

/// Pixels of an RGB profile as sRGB. A profile that is broken or of other colours changes nothing:
/// the pixels are then taken as sRGB, as viewers do.
fn to_srgb(raster: &mut Raster, profile: &[u8]) {
    use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};
    let Ok(source) = ColorProfile::new_from_slice(profile) else {
        return;
    };
    if source.color_space != DataColorSpace::Rgb {
        return;
    }
    let layout = if raster.channels == 4 {
        Layout::Rgba
    } else {
        Layout::Rgb
    };
    let srgb = ColorProfile::new_srgb();
    let Ok(transform) =
        source.create_transform_8bit(layout, &srgb, layout, TransformOptions::default())
    else {
        return;
    };
    let mut out = vec![0; raster.data.len()];
    if transform.transform(&raster.data, &mut out).is_ok() {
        raster.data = out;
    }
}

impl Picture {
    /// Size of the decoded source; animations are fitted while they are decoded.
    fn size(&self) -> Option<(u32, u32)> {
        match self {
            Self::Planes(planes) => Some(planes.size()),
            Self::Raster(raster) => Some(raster.size()),
            Self::Frames(_) => None,
        }
    }

    fn fitted(
        &self,
        plan: Plan,
        orientation: u8,
        options: &Options,
    ) -> Result<Fitted<'_>, MediaError> {
        Ok(match self {
            Self::Planes(planes) => Fitted::Planes(planes, plan, orientation),
            Self::Raster(raster) => {
                let fitted = if plan.is_identity(raster.size()) {
                    raster.clone()
                } else {
                    raster.resized(plan)?
                };
                let fitted = fitted.oriented(orientation);
                Fitted::Raster(if options.flatten && fitted.channels == 4 {
                    fitted.flattened(options.background)
                } else {
                    fitted
                })
            }
            Self::Frames(frames) => Fitted::Frames(frames),
        })
    }

    /// Animations are made smaller in place: their full-size frames are gone.
    fn shrink(&mut self, to: (u32, u32)) -> Result<(), MediaError> {
        if let Self::Frames(frames) = self {
            for frame in frames {
                let plan = Plan::new(
                    frame.raster.size(),
                    (Some(to.0), Some(to.1)),
                    Fit::Exact,
                    false,
                )?;
                frame.raster = frame.raster.resized(plan)?;
            }
        }
        Ok(())
    }
}

/// A picture at its size, ready for one or more encodes.
enum Fitted<'a> {
    Planes(&'a Planes, Plan, u8),
    Raster(Raster),
    Frames(&'a [Frame]),
}

impl Fitted<'_> {
    fn encode(
        &mut self,
        wanted: Option<Format>,
        options: &Options,
        quality: u8,
        cancel: &Cancel,
    ) -> Result<Output, MediaError> {
        match self {
            Self::Planes(planes, plan, orientation) => {
                let data = planes.to_jpeg(*plan, *orientation, quality)?;
                let (width, height) = if *orientation >= 5 {
                    (plan.to.1, plan.to.0)
                } else {
                    plan.to
                };
                Ok(Output {
                    data,
                    format: Format::Jpeg,
                    width,
                    height,
                    frames: 1,
                    quality,
                })
            }
            Self::Raster(raster) => {
                let candidates: &[Format] = match wanted {
                    Some(ref format) => std::slice::from_ref(format),
                    None if raster.has_transparency() => &[Format::WebP, Format::Png],
                    None => &[Format::WebP, Format::Jpeg, Format::Png],
                };
                let mut best: Option<(Format, Vec<u8>)> = None;
                for &format in candidates {
                    let data = encode::still(raster, format, options, quality, cancel)?;
                    if best
                        .as_ref()
                        .is_none_or(|(_, least)| data.len() < least.len())
                    {
                        best = Some((format, data));
                    }
                }
                let (format, data) =
                    best.ok_or_else(|| MediaError::Options("no kind to write".into()))?;
                Ok(Output {
                    data,
                    format,
                    width: raster.width,
                    height: raster.height,
                    frames: 1,
                    quality,
                })
            }
            Self::Frames(frames) => {
                let format = wanted.unwrap_or(Format::WebP);
                let data = encode::animation(frames, format, options, quality, cancel)?;
                let (width, height) = frames.first().map_or((0, 0), |frame| frame.raster.size());
                let count = u32::try_from(frames.len()).unwrap_or(u32::MAX);
                Ok(Output {
                    data,
                    format,
                    width,
                    height,
                    frames: count,
                    quality,
                })
            }
        }
    }
}
