//! JPEG through libjpeg-turbo: planes in, planes out, no colour conversion on the main road.

use crate::fit::Plan;
use crate::raster::{Raster, resize};
use crate::{Limits, MediaError};
use turbojpeg::{
    Colorspace, Compressor, DecompressHeader, Decompressor, Image, PixelFormat, ScalingFactor,
    Subsamp, YuvImage,
};

/// The picture as it lies in the file: Y, Cb and Cr beside each other.
pub(crate) struct Planes {
    image: YuvImage<Vec<u8>>,
}

/// Reader with the limits set and the header read.
pub(crate) struct Jpeg<'a> {
    data: &'a [u8],
    reader: Decompressor,
    header: DecompressHeader,
}

fn broken(error: &turbojpeg::Error) -> MediaError {
    MediaError::Broken {
        format: "jpeg",
        reason: error.to_string(),
    }
}

fn unwritten(error: &turbojpeg::Error) -> MediaError {
    MediaError::Encode {
        format: "jpeg",
        reason: error.to_string(),
    }
}

impl<'a> Jpeg<'a> {
    pub(crate) fn open(data: &'a [u8], limits: &Limits) -> Result<Self, MediaError> {
        let mut reader = Decompressor::new().map_err(|e| broken(&e))?;
        reader
            .set_scan_limit(limits.scans)
            .map_err(|e| broken(&e))?;
        let header = reader.read_header(data).map_err(|e| broken(&e))?;
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        limits.frame(side(header.width), side(header.height))?;
        Ok(Self {
            data,
            reader,
            header,
        })
    }

    /// Whether it can stay in planes.
    pub(crate) fn planar(&self) -> bool {
        !self.header.is_lossless
            && match self.header.colorspace {
                Colorspace::YCbCr => matches!(
                    self.header.subsamp,
                    Subsamp::None | Subsamp::Sub2x1 | Subsamp::Sub2x2 | Subsamp::Sub1x2
                ),
                Colorspace::Gray => true,
                _ => false,
            }
    }

    /// Decode in the frequency domain at 1/2, 1/4 or 1/8 where enough pixels remain, as sharp decides
    /// it: the integer part of `shrink` must exceed the step, or the loss is visible.
    fn scale(&mut self, shrink: f64) -> Result<(usize, usize), MediaError> {
        let step = [8, 4, 2]
            .into_iter()
            .find(|&step| shrink.floor() > f64::from(step))
            .unwrap_or(1);
        let factor = if self.header.is_lossless {
            ScalingFactor::ONE
        } else {
            ScalingFactor::new(1, step as usize)
        };
        self.reader
            .set_scaling_factor(factor)
            .map_err(|e| broken(&e))?;
        Ok((
            factor.scale(self.header.width),
            factor.scale(self.header.height),
        ))
    }

    pub(crate) fn planes(mut self, shrink: f64) -> Result<Planes, MediaError> {
        let (width, height) = self.scale(shrink)?;
        let subsamp = self.header.subsamp;
        let len = turbojpeg::yuv_pixels_len(width, 1, height, subsamp).map_err(|e| broken(&e))?;
        let mut image = YuvImage {
            pixels: vec![0; len],
            width,
            align: 1,
            height,
            subsamp,
        };
        self.reader
            .decompress_to_yuv(self.data, image.as_deref_mut())
            .map_err(|e| broken(&e))?;
        Ok(Planes { image })
    }

    pub(crate) fn rgb(mut self, shrink: f64) -> Result<Raster, MediaError> {
        let (width, height) = self.scale(shrink)?;
        let cmyk = matches!(self.header.colorspace, Colorspace::CMYK | Colorspace::YCCK);
        let format = if cmyk {
            PixelFormat::CMYK
        } else {
            PixelFormat::RGB
        };
        let pitch = width * format.size();
        let mut pixels = vec![0; pitch * height];
        let image = Image {
            pixels: pixels.as_mut_slice(),
            width,
            pitch,
            height,
            format,
        };
        self.reader
            .decompress(self.data, image)
            .map_err(|e| broken(&e))?;
        if cmyk {
            // Adobe writes these inverted, so ink times key is light.
            let mul =
                |a: u8, b: u8| u8::try_from(u32::from(a) * u32::from(b) / 255).unwrap_or(u8::MAX);
            pixels = pixels
                .chunks_exact(4)
                .flat_map(|p| [mul(p[0], p[3]), mul(p[1], p[3]), mul(p[2], p[3])])
                .collect();
        }
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Raster {
            width: side(width),
            height: side(height),
            channels: 3,
            data: pixels,
        })
    }
}

impl Planes {
    pub(crate) fn size(&self) -> (u32, u32) {
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (side(self.image.width), side(self.image.height))
    }

    /// `plan` in this image's pixels → JPEG 4:2:0 (or grey), turned as `orientation` says.
    pub(crate) fn to_jpeg(
        &self,
        plan: Plan,
        orientation: u8,
        quality: u8,
    ) -> Result<Vec<u8>, MediaError> {
        let source = &self.image;
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (y_size, c_size) = (source.y_size(), source.uv_size());
        let (y, chroma) = source.pixels.split_at(y_size.0 * y_size.1);
        let luma = plane(y, (side(y_size.0), side(y_size.1)), plan)?.oriented(orientation);
        let (width, height) = luma.size();
        let grey = source.subsamp == Subsamp::Gray;
        let subsamp = if grey { Subsamp::Gray } else { Subsamp::Sub2x2 };
        let mut pixels = padded(luma, if grey { 1 } else { 2 });
        if !grey {
            // Plane sizes are rounded up; the picture inside is exactly this fraction of the luma.
            let (hx, vy) = source.subsamp.size();
            let (hx, vy) = (f64::from(side(hx)), f64::from(side(vy)));
            let to = (plan.to.0.div_ceil(2), plan.to.1.div_ceil(2));
            let over = |half: u32, whole: u32| f64::from(half) * 2.0 / f64::from(whole);
            let (left, top) = (plan.left / hx, plan.top / vy);
            let room = |n: usize| f64::from(side(n));
            let chroma_plan = Plan {
                left,
                top,
                width: (plan.width / hx * over(to.0, plan.to.0)).min(room(c_size.0) - left),
                height: (plan.height / vy * over(to.1, plan.to.1)).min(room(c_size.1) - top),
                to,
            };
            for part in chroma.chunks_exact(c_size.0 * c_size.1).take(2) {
                let size = (side(c_size.0), side(c_size.1));
                pixels
                    .extend_from_slice(&plane(part, size, chroma_plan)?.oriented(orientation).data);
            }
        }
        let image = YuvImage {
            pixels: pixels.as_slice(),
            width: width as usize,
            align: 1,
            height: height as usize,
            subsamp,
        };
        writer(quality)?
            .compress_yuv_to_vec(image)
            .map_err(|e| unwritten(&e))
    }
}

fn plane(data: &[u8], size: (u32, u32), plan: Plan) -> Result<Raster, MediaError> {
    let data = resize(data, size, 1, plan)?;
    Ok(Raster {
        width: plan.to.0,
        height: plan.to.1,
        channels: 1,
        data,
    })
}

/// Rows and columns rounded up to `multiple` by repeating the last, as the plane layout wants.
fn padded(plane: Raster, multiple: usize) -> Vec<u8> {
    let (w, h) = (plane.width as usize, plane.height as usize);
    let (pw, ph) = (w.next_multiple_of(multiple), h.next_multiple_of(multiple));
    if (pw, ph) == (w, h) {
        return plane.data;
    }
    let mut out = Vec::with_capacity(pw * ph);
    for y in 0..ph {
        let at = y.min(h - 1) * w;
        let row = &plane.data[at..at + w];
        out.extend_from_slice(row);
        out.resize((y + 1) * pw, row[w - 1]);
    }
    out
}

fn writer(quality: u8) -> Result<Compressor, MediaError> {
    let mut writer = Compressor::new().map_err(|e| unwritten(&e))?;
    writer
        .set_quality(i32::from(quality))
        .map_err(|e| unwritten(&e))?;
    writer.set_optimize(true).map_err(|e| unwritten(&e))?;
    writer
        .set_subsamp(Subsamp::Sub2x2)
        .map_err(|e| unwritten(&e))?;
    Ok(writer)
}

/// RGB → JPEG 4:2:0 with optimised Huffman tables.
pub(crate) fn encode(rgb: &Raster, quality: u8) -> Result<Vec<u8>, MediaError> {
    let (width, height) = (rgb.width as usize, rgb.height as usize);
    let image = Image {
        pixels: rgb.data.as_slice(),
        width,
        pitch: width * 3,
        height,
        format: PixelFormat::RGB,
    };
    writer(quality)?
        .compress_to_vec(image)
        .map_err(|e| unwritten(&e))
}
