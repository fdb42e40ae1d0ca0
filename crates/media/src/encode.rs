//! Pixels to files.

use crate::decode::Frame;
use crate::raster::Raster;
use crate::{Cancel, Format, MediaError, Options, jpeg, png};
use image::codecs::gif::{GifEncoder, Repeat};
use webp::{AnimEncoder, AnimFrame, PixelLayout, WebPConfig};

fn failed(format: Format, reason: impl ToString) -> MediaError {
    MediaError::Encode {
        format: format.name(),
        reason: reason.to_string(),
    }
}

pub(crate) fn still(
    image: &Raster,
    format: Format,
    options: &Options,
    quality: u8,
    cancel: &Cancel,
) -> Result<Vec<u8>, MediaError> {
    cancel.check()?;
    match format {
        Format::Jpeg if image.channels == 3 => jpeg::encode(image, quality),
        Format::Jpeg => jpeg::encode(&image.flattened(options.background), quality),
        Format::Png if image.channels == 4 && !image.has_transparency() => {
            png::encode(&image.flattened(options.background))
        }
        Format::Png => png::encode(image),
        Format::WebP => {
            let config = webp_config(options.lossless, quality)?;
            let layout = if image.channels == 4 {
                PixelLayout::Rgba
            } else {
                PixelLayout::Rgb
            };
            // libwebp's own importer averages chroma with gamma; planes of ours would lose that.
            let encoder = webp::Encoder::new(&image.data, layout, image.width, image.height);
            let file = encoder
                .encode_advanced(&config)
                .map_err(|e| failed(format, format!("{e:?}")))?;
            Ok(file.to_vec())
        }
        Format::Gif => {
            let frame = Frame {
                raster: image.clone(),
                delay_ms: 0,
            };
            gif(&[frame], cancel)
        }
        _ => Err(MediaError::Unsupported(format!(
            "{} images are not written in this build",
            format.name()
        ))),
    }
}

pub(crate) fn animation(
    frames: &[Frame],
    format: Format,
    options: &Options,
    quality: u8,
    cancel: &Cancel,
) -> Result<Vec<u8>, MediaError> {
    if format == Format::Gif {
        return gif(frames, cancel);
    }
    let Some(first) = frames.first() else {
        return Err(failed(format, "no frames"));
    };
    let config = webp_config(options.lossless, quality)?;
    let mut encoder = AnimEncoder::new(first.raster.width, first.raster.height, &config);
    let mut at_ms = 0_i32;
    for Frame { raster, delay_ms } in frames {
        encoder.add_frame(AnimFrame::from_rgba(
            &raster.data,
            raster.width,
            raster.height,
            at_ms,
        ));
        at_ms = at_ms.saturating_add(i32::try_from(*delay_ms).unwrap_or(i32::MAX));
    }
    cancel.check()?;
    let file = encoder
        .try_encode()
        .map_err(|e| failed(format, format!("{e:?}")))?;
    Ok(file.to_vec())
}

fn webp_config(lossless: bool, quality: u8) -> Result<WebPConfig, MediaError> {
    let mut config = WebPConfig::new()
        .map_err(|()| failed(Format::WebP, "the library refuses its own defaults"))?;
    config.lossless = i32::from(lossless);
    config.quality = f32::from(quality);
    Ok(config)
}

fn gif(frames: &[Frame], cancel: &Cancel) -> Result<Vec<u8>, MediaError> {
    let mut file = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut file, 10);
    if frames.len() > 1 {
        encoder
            .set_repeat(Repeat::Infinite)
            .map_err(|e| failed(Format::Gif, e))?;
    }
    for Frame { raster, delay_ms } in frames {
        cancel.check()?;
        let rgba = if raster.channels == 4 {
            raster.data.clone()
        } else {
            let rgb = raster.flattened([0; 3]);
            rgb.data
                .chunks_exact(3)
                .flat_map(|p| [p[0], p[1], p[2], 255])
                .collect()
        };
        let image = image::RgbaImage::from_raw(raster.width, raster.height, rgba)
            .ok_or_else(|| failed(Format::Gif, "fewer pixels than the size says"))?;
        let delay = image::Delay::from_numer_denom_ms(*delay_ms, 1);
        encoder
            .encode_frame(image::Frame::from_parts(image, 0, 0, delay))
            .map_err(|e| failed(Format::Gif, e))?;
    }
    drop(encoder);
    Ok(file)
}
