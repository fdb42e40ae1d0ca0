//! Interleaved 8-bit pixels, and single planes of them.

use crate::MediaError;
use crate::fit::Plan;
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3, U8x4};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

/// `channels` bytes a pixel, rows without padding: 1 grey or a plane, 3 RGB, 4 RGBA (not premultiplied).
#[derive(Debug, Clone)]
pub(crate) struct Raster {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) channels: usize,
    pub(crate) data: Vec<u8>,
}

impl Raster {
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Lanczos 3, in gamma space as sharp does it, alpha premultiplied around it.
    pub(crate) fn resized(&self, plan: Plan) -> Result<Self, MediaError> {
        let data = resize(&self.data, self.size(), self.channels, plan)?;
        Ok(Self {
            width: plan.to.0,
            height: plan.to.1,
            channels: self.channels,
            data,
        })
    }

    /// Turned as EXIF `orientation` (1–8) says; anything else is 1.
    pub(crate) fn oriented(self, orientation: u8) -> Self {
        if !(2..=8).contains(&orientation) {
            return self;
        }
        let (w, h, n) = (self.width as usize, self.height as usize, self.channels);
        let (ow, oh) = if orientation >= 5 { (h, w) } else { (w, h) };
        let mut data = vec![0; self.data.len()];
        for (y, row) in data.chunks_exact_mut(ow * n).enumerate() {
            for (x, pixel) in row.chunks_exact_mut(n).enumerate() {
                let (sx, sy) = match orientation {
                    2 => (w - 1 - x, y),
                    3 => (w - 1 - x, h - 1 - y),
                    4 => (x, h - 1 - y),
                    5 => (y, x),
                    6 => (y, h - 1 - x),
                    7 => (w - 1 - y, h - 1 - x),
                    _ => (w - 1 - y, x),
                };
                let at = (sy * w + sx) * n;
                pixel.copy_from_slice(&self.data[at..at + n]);
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "the sides were u32 before")]
        let (width, height) = (ow as u32, oh as u32);
        Self {
            width,
            height,
            channels: n,
            data,
        }
    }

    pub(crate) fn has_transparency(&self) -> bool {
        self.channels == 4 && self.data.chunks_exact(4).any(|pixel| pixel[3] != 255)
    }

    /// RGB over `background`.
    pub(crate) fn flattened(&self, background: [u8; 3]) -> Self {
        let data = match self.channels {
            4 => self
                .data
                .chunks_exact(4)
                .flat_map(|p| {
                    let alpha = u32::from(p[3]);
                    let mix = |i: usize| {
                        let sum =
                            u32::from(p[i]) * alpha + u32::from(background[i]) * (255 - alpha);
                        u8::try_from((sum + 127) / 255).unwrap_or(u8::MAX)
                    };
                    [mix(0), mix(1), mix(2)]
                })
                .collect(),
            1 => self.data.iter().flat_map(|&v| [v, v, v]).collect(),
            _ => self.data.clone(),
        };
        Self {
            width: self.width,
            height: self.height,
            channels: 3,
            data,
        }
    }
}

/// One resize of `channels` interleaved bytes.
pub(crate) fn resize(
    data: &[u8],
    size: (u32, u32),
    channels: usize,
    plan: Plan,
) -> Result<Vec<u8>, MediaError> {
    // By type, not by the library's own choice at run time: that keeps its code for every kind of pixel, 1.2 MB of it.
    match channels {
        1 => resize_as::<U8>(data, size, plan),
        3 => resize_as::<U8x3>(data, size, plan),
        _ => resize_as::<U8x4>(data, size, plan),
    }
}

fn resize_as<P: PixelTrait>(
    data: &[u8],
    (width, height): (u32, u32),
    plan: Plan,
) -> Result<Vec<u8>, MediaError> {
    let failed = |reason: String| MediaError::Encode {
        format: "resized image",
        reason,
    };
    let source = TypedImageRef::<P>::from_buffer(width, height, data)
        .map_err(|error| failed(error.to_string()))?;
    let bytes = plan.to.0 as usize * plan.to.1 as usize * P::size();
    let mut resized = vec![0; bytes];
    let mut target = TypedImage::<P>::from_buffer(plan.to.0, plan.to.1, &mut resized)
        .map_err(|error| failed(error.to_string()))?;
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .crop(
            plan.left,
            plan.top,
            plan.width.min(f64::from(width) - plan.left),
            plan.height.min(f64::from(height) - plan.top),
        );
    Resizer::new()
        .resize_typed(&source, &mut target, &options)
        .map_err(|error| failed(error.to_string()))?;
    Ok(resized)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_orientation_of_two_by_three() {
        let image = || Raster {
            width: 2,
            height: 3,
            channels: 1,
            data: vec![1, 2, 3, 4, 5, 6],
        };
        let turned = |o| image().oriented(o).data;
        assert_eq!(turned(1), [1, 2, 3, 4, 5, 6]);
        assert_eq!(turned(2), [2, 1, 4, 3, 6, 5]);
        assert_eq!(turned(3), [6, 5, 4, 3, 2, 1]);
        assert_eq!(turned(4), [5, 6, 3, 4, 1, 2]);
        assert_eq!(turned(5), [1, 3, 5, 2, 4, 6]);
        assert_eq!(turned(6), [5, 3, 1, 6, 4, 2]);
        assert_eq!(turned(7), [6, 4, 2, 5, 3, 1]);
        assert_eq!(turned(8), [2, 4, 6, 1, 3, 5]);
    }
}
