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

/// A part of an image as a person sees it, in pixels; fractions are fine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crop {
    /// Pixels left of it.
    pub left: f64,
    /// Pixels above it.
    pub top: f64,
    /// Pixels across.
    pub width: f64,
    /// Pixels down.
    pub height: f64,
}

impl Crop {
    pub(crate) fn plan(
        self,
        source: (u32, u32),
        bounds: (Option<u32>, Option<u32>),
        fit: Fit,
        enlarge: bool,
    ) -> Result<Plan, MediaError> {
        let (width, height) = (f64::from(source.0), f64::from(source.1));
        // What callers compute from ratios may be over by a rounding error.
        let inside = |from: f64, length: f64, whole: f64| {
            from >= 0.0 && length > 0.0 && from + length <= whole + 1e-6
        };
        if !inside(self.left, self.width, width) || !inside(self.top, self.height, height) {
            return Err(MediaError::Options(format!(
                "{}x{} pixels from {},{} are not inside an image of {width}x{height}",
                self.width, self.height, self.left, self.top
            )));
        }
        let part = (
            self.width.min(width - self.left),
            self.height.min(height - self.top),
        );
        let plan = Plan::of(part, bounds, fit, enlarge)?;
        Ok(Plan {
            left: plan.left + self.left,
            top: plan.top + self.top,
            ..plan
        })
    }
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
        let source = (f64::from(source.0), f64::from(source.1));
        Self::of(source, bounds, fit, enlarge)
    }

    fn of(
        (sw, sh): (f64, f64),
        bounds: (Option<u32>, Option<u32>),
        fit: Fit,
        enlarge: bool,
    ) -> Result<Self, MediaError> {
        if bounds.0 == Some(0) || bounds.1 == Some(0) {
            return Err(MediaError::Options("a width or height of 0 pixels".into()));
        }
        let whole = |to| Self {
            left: 0.0,
            top: 0.0,
            width: sw,
            height: sh,
            to,
        };
        let (mut bw, mut bh) = match bounds {
            (None, None) => return Ok(whole((side(sw), side(sh)))),
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

    /// The same plan for an image stored with this EXIF orientation at this size.
    pub(crate) fn stored(self, orientation: u8, (width, height): (u32, u32)) -> Self {
        // Not below 0 by a rounding error.
        let from_right = |left: f64, length: f64| (f64::from(width) - left - length).max(0.0);
        let from_bottom = |top: f64, length: f64| (f64::from(height) - top - length).max(0.0);
        let turned = orientation >= 5;
        // Upright x runs along the stored height if it is turned.
        let (x, y, w, h) = if turned {
            (self.top, self.left, self.height, self.width)
        } else {
            (self.left, self.top, self.width, self.height)
        };
        Self {
            left: if matches!(orientation, 2 | 3 | 7 | 8) {
                from_right(x, w)
            } else {
                x
            },
            top: if matches!(orientation, 3 | 4 | 6 | 7) {
                from_bottom(y, h)
            } else {
                y
            },
            width: w,
            height: h,
            to: if turned {
                (self.to.1, self.to.0)
            } else {
                self.to
            },
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
