//! Bounds that are checked before anything is allocated, and the way to stop.

use crate::MediaError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest side, as of a JPEG and of what is made. What decoders and resampling keep for a row or a column is not counted
/// in pixels: a picture one pixel high could have a hundred million of them.
const SIDE_MAX: u64 = 65_535;

/// What one image may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the input file.
    pub bytes: u64,
    /// Pixels of one frame.
    pub pixels: u64,
    /// Frames of an animation that are decoded.
    pub frames: u64,
    /// Pixels of all decoded frames together.
    pub animation_pixels: u64,
    /// Scans of a progressive JPEG; each one walks the whole image again.
    pub scans: u32,
    /// Bytes of an ICC profile after decompression.
    pub icc_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 100 << 20,
            pixels: 100_000_000,
            frames: 1_000,
            animation_pixels: 200_000_000,
            scans: 100,
            icc_bytes: 4 << 20,
        }
    }
}

impl Limits {
    pub(crate) fn check(what: &'static str, have: u64, limit: u64) -> Result<(), MediaError> {
        if have > limit {
            return Err(MediaError::Limit { what, have, limit });
        }
        Ok(())
    }

    pub(crate) fn frame(&self, width: u32, height: u32) -> Result<(), MediaError> {
        let longest = width.max(height);
        Self::check("longest side in pixels", longest.into(), SIDE_MAX)?;
        Self::check(
            "pixel count",
            u64::from(width) * u64::from(height),
            self.pixels,
        )
    }
}

/// Stops work from another thread. Looked at between the stages of an image and between frames.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ask for the end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether that was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<(), MediaError> {
        if self.is_cancelled() {
            return Err(MediaError::Cancelled);
        }
        Ok(())
    }
}
