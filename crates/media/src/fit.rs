//! From a size and a wish to what is cut and what it becomes.

use crate::MediaError;

/// How the image meets the wanted box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// Whole image, inside the box, proportions kept.
    #[default]
    Inside,
    /// The box filled, proportions kept, the middle kept.
    Cover,
    /// The box filled, proportions lost.
    Exact,
}

/// A part of the source and the size it becomes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plan {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) to: (u32, u32),
}

impl Plan {
    /// `source` and `bounds` are in the same orientation. A missing bound does not bind; with
    /// [`Fit::Cover`] and [`Fit::Exact`] it follows the proportions.
    pub(crate) fn new(
        source: (u32, u32),
        bounds: (Option<u32>, Option<u32>),
        fit: Fit,
        enlarge: bool,
    ) -> Result<Self, MediaError> {
        if bounds.0 == Some(0) || bounds.1 == Some(0) {
            return Err(MediaError::Options("a width or height of 0 pixels".into()));
        }
        let (sw, sh) = (f64::from(source.0), f64::from(source.1));
        let whole = |to| Self {
            left: 0.0,
            top: 0.0,
            width: sw,
            height: sh,
            to,
        };
        let (mut bw, mut bh) = match bounds {
            (None, None) => return Ok(whole(source)),
            (Some(w), None) => (f64::from(w), f64::INFINITY),
            (None, Some(h)) => (f64::INFINITY, f64::from(h)),
            (Some(w), Some(h)) => (f64::from(w), f64::from(h)),
        };
        let fit = if bw.is_infinite() || bh.is_infinite() {
            Fit::Inside
        } else {
            fit
        };
        if fit == Fit::Inside {
            let mut scale = (bw / sw).min(bh / sh);
            if !enlarge {
                scale = scale.min(1.0);
            }
            return Ok(whole((side(sw * scale), side(sh * scale))));
        }
        if !enlarge {
            // Cover and exact shrink the box itself rather than blow the image up.
            let scale = (sw / bw).min(sh / bh).min(1.0);
            (bw, bh) = (bw * scale, bh * scale);
        }
        let to = (side(bw), side(bh));
        if fit == Fit::Exact {
            return Ok(whole(to));
        }
        let scale = (bw / sw).max(bh / sh);
        let (width, height) = ((bw / scale).min(sw), (bh / scale).min(sh));
        Ok(Self {
            left: (sw - width) / 2.0,
            top: (sh - height) / 2.0,
            width,
            height,
            to,
        })
    }

    /// The same plan for an image stored on its side (EXIF orientations 5–8).
    pub(crate) fn transposed(self) -> Self {
        Self {
            left: self.top,
            top: self.left,
            width: self.height,
            height: self.width,
            to: (self.to.1, self.to.0),
        }
    }

    /// How many source pixels become one, along the side that is shrunk least.
    pub(crate) fn shrink(self) -> f64 {
        (self.width / f64::from(self.to.0)).min(self.height / f64::from(self.to.1))
    }

    /// Whether anything is to be done at all.
    pub(crate) fn is_identity(self, source: (u32, u32)) -> bool {
        self.to == source && self.width == f64::from(source.0) && self.height == f64::from(source.1)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range"
)]
fn side(pixels: f64) -> u32 {
    pixels.round().clamp(1.0, 65_535.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(
        source: (u32, u32),
        bounds: (Option<u32>, Option<u32>),
        fit: Fit,
        enlarge: bool,
    ) -> (u32, u32) {
        Plan::new(source, bounds, fit, enlarge)
            .map(|plan| plan.to)
            .unwrap_or_default()
    }

    #[test]
    fn sizes() {
        assert_eq!(
            to((4032, 3024), (Some(1920), Some(1920)), Fit::Inside, false),
            (1920, 1440)
        );
        assert_eq!(
            to((3024, 4032), (Some(1920), None), Fit::Inside, false),
            (1920, 2560)
        );
        assert_eq!(
            to((100, 50), (Some(1920), Some(1920)), Fit::Inside, false),
            (100, 50)
        );
        assert_eq!(
            to((100, 50), (Some(200), Some(200)), Fit::Inside, true),
            (200, 100)
        );
        assert_eq!(
            to((400, 300), (Some(100), Some(100)), Fit::Cover, false),
            (100, 100)
        );
        assert_eq!(
            to((400, 300), (Some(100), Some(100)), Fit::Exact, false),
            (100, 100)
        );
        assert_eq!(
            to((10_000, 1), (Some(100), Some(100)), Fit::Inside, false),
            (100, 1)
        );
    }

    #[test]
    fn cover_cuts_the_middle() {
        let plan =
            Plan::new((400, 300), (Some(100), Some(100)), Fit::Cover, false).expect("a plan");
        assert_eq!(
            (plan.left, plan.top, plan.width, plan.height),
            (50.0, 0.0, 300.0, 300.0)
        );
    }
}
