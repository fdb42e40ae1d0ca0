//! Pixels of what is not on JPEG's planar road.

use crate::jpeg::Jpeg;
use crate::raster::Raster;
use crate::{Cancel, Format, Limits, MediaError, Metadata};
use image::{AnimationDecoder, DynamicImage, Frames, ImageDecoder as _};
use std::io::Cursor;

/// One frame of an animation and how long it is shown.
pub(crate) struct Frame {
    pub(crate) raster: Raster,
    pub(crate) delay_ms: u32,
}

fn broken(format: Format, reason: impl ToString) -> MediaError {
    MediaError::Broken {
        format: format.name(),
        reason: reason.to_string(),
    }
}

/// The image, or the first frame of an animation. `shrink`: how much smaller it will become, for
/// decoders that can save work by it.
pub(crate) fn still(
    data: &[u8],
    metadata: &Metadata,
    limits: &Limits,
    shrink: f64,
) -> Result<Raster, MediaError> {
    let format = metadata.format;
    match format {
        Format::Jpeg => return Jpeg::open(data, limits)?.rgb(shrink),
        Format::WebP if metadata.frames <= 1 => {
            let image = webp::Decoder::new(data)
                .decode()
                .ok_or_else(|| broken(format, "the bitstream does not decode"))?;
            return Ok(Raster {
                width: image.width(),
                height: image.height(),
                channels: if image.is_alpha() { 4 } else { 3 },
                data: image.to_vec(),
            });
        }
        _ => {}
    }
    let mut reader = image::ImageReader::new(Cursor::new(data))
        .with_guessed_format()
        .map_err(|e| broken(format, e))?;
    let mut bounds = image::Limits::default();
    bounds.max_alloc = Some(match format {
        // The screen and the frame on it.
        Format::Gif => gif_bytes(metadata, 2),
        // Sixteen-bit RGBA and as much again for a decoder's own rows.
        _ => limits.pixels.saturating_mul(16),
    });
    reader.limits(bounds);
    Ok(raster(reader.decode().map_err(|e| broken(format, e))?))
}

/// So many RGBA pictures of the size of the screen. A frame may say that it is larger than its screen, up to 17 GB; some
/// small files are so.
fn gif_bytes(metadata: &Metadata, pictures: u64) -> u64 {
    let screen = u64::from(metadata.width) * u64::from(metadata.height);
    screen.max(1 << 20).saturating_mul(4 * pictures)
}

fn raster(image: DynamicImage) -> Raster {
    let (width, height) = (image.width(), image.height());
    let (channels, data) = if image.color().has_alpha() {
        (4, image.into_rgba8().into_raw())
    } else {
        (3, image.into_rgb8().into_raw())
    };
    Raster {
        width,
        height,
        channels,
        data,
    }
}

/// All frames, each at full size: both formats store differences, their decoders compose them.
pub(crate) fn frames(
    data: &[u8],
    metadata: &Metadata,
    limits: &Limits,
    cancel: &Cancel,
    mut take: impl FnMut(Frame) -> Result<(), MediaError>,
) -> Result<(), MediaError> {
    let format = metadata.format;
    let count = u64::from(metadata.frames);
    Limits::check("frame count", count, limits.frames)?;
    let pixels = u64::from(metadata.width) * u64::from(metadata.height) * count;
    Limits::check("pixel count of all frames", pixels, limits.animation_pixels)?;
    let frames: Frames<'_> = if format == Format::Gif {
        let mut decoder = image::codecs::gif::GifDecoder::new(Cursor::new(data))
            .map_err(|e| broken(format, e))?;
        let mut bounds = image::Limits::default();
        // The screen, the frame and what both make.
        bounds.max_alloc = Some(gif_bytes(metadata, 3));
        decoder.set_limits(bounds).map_err(|e| broken(format, e))?;
        decoder.into_frames()
    } else {
        let decoder = image::codecs::webp::WebPDecoder::new(Cursor::new(data))
            .map_err(|e| broken(format, e))?;
        decoder.into_frames()
    };
    // No more than were counted: room was taken for these.
    for frame in frames.take(usize::try_from(metadata.frames).unwrap_or(usize::MAX)) {
        cancel.check()?;
        let frame = frame.map_err(|e| broken(format, e))?;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let image = frame.into_buffer();
        let raster = Raster {
            width: image.width(),
            height: image.height(),
            channels: 4,
            data: image.into_raw(),
        };
        take(Frame {
            raster,
            delay_ms: numerator / denominator.max(1),
        })?;
    }
    Ok(())
}
