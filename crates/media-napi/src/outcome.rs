//! What goes back to JavaScript: a result or a reason, as plain objects.

use media::{MediaError, Metadata, Output};
use napi::bindgen_prelude::Buffer;
use napi::{Env, Result};
use napi_derive::napi;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Makes the value on JavaScript's thread.
pub(crate) type Settle<T> = Box<dyn FnOnce(Env) -> Result<T> + Send>;

/// Why there is no result.
#[napi(object)]
#[derive(Default)]
pub struct Refusal {
    /// [`MediaError::code`], `busy` or `internal`.
    pub code: String,
    /// For a person.
    pub message: String,
    /// What is bounded, if a bound was passed.
    pub what: Option<String>,
    /// What was asked for.
    pub have: Option<f64>,
    /// What is allowed.
    pub limit: Option<f64>,
}

/// A finished file, or why there is none.
#[napi(object)]
#[derive(Default)]
pub struct Outcome {
    /// Set if it failed; then nothing else is.
    pub refusal: Option<Refusal>,
    /// The file; its memory is Rust's and goes when JavaScript lets go of it.
    pub data: Option<Buffer>,
    /// Its kind.
    pub format: Option<String>,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Frames.
    pub frames: u32,
    /// The quality it took.
    pub quality: u32,
    /// Milliseconds inside the crate, without queue and boundary.
    pub elapsed_ms: f64,
}

/// What the headers say, or why they say nothing.
#[napi(object)]
#[derive(Default)]
pub struct Facts {
    /// Set if it failed; then nothing else is.
    pub refusal: Option<Refusal>,
    /// Kind, by content.
    pub format: String,
    /// Pixels across, as stored.
    pub width: u32,
    /// Pixels down, as stored.
    pub height: u32,
    /// Whether the file declares transparency.
    pub alpha: bool,
    /// Frames.
    pub frames: u32,
    /// EXIF orientation, 1–8; 1 if absent.
    pub orientation: u32,
    /// `YYYY-MM-DD HH:MM:SS`, the camera's own time.
    pub taken: Option<String>,
    /// Maker of the camera.
    pub make: Option<String>,
    /// Model of the camera.
    pub model: Option<String>,
    /// Degrees north and east.
    pub location: Option<Vec<f64>>,
    /// Name of the embedded ICC profile.
    pub icc: Option<String>,
}

/// Holds either a value or a refusal.
pub(crate) trait Refused {
    fn refused(refusal: Refusal) -> Self;
}

impl Refused for Outcome {
    fn refused(refusal: Refusal) -> Self {
        Self {
            refusal: Some(refusal),
            ..Self::default()
        }
    }
}

impl Refused for Facts {
    fn refused(refusal: Refusal) -> Self {
        Self {
            refusal: Some(refusal),
            ..Self::default()
        }
    }
}

/// Runs `work`; an error or a panic becomes a refusal. The process goes on: everything the work touched is its own.
pub(crate) fn guarded<T: Refused>(work: impl FnOnce() -> std::result::Result<T, MediaError>) -> T {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => T::refused(Refusal::from(&error)),
        Err(panic) => {
            let words = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no words");
            T::refused(Refusal {
                code: "internal".into(),
                message: format!(
                    "a bug in the image engine, please report it with the file: {words}"
                ),
                ..Refusal::default()
            })
        }
    }
}

impl From<&MediaError> for Refusal {
    fn from(error: &MediaError) -> Self {
        let mut refusal = Self {
            code: error.code().into(),
            message: error.to_string(),
            ..Self::default()
        };
        if let MediaError::Limit { what, have, limit } = error {
            refusal.what = Some((*what).into());
            refusal.have = Some(number(*have));
            refusal.limit = Some(number(*limit));
        }
        refusal
    }
}

impl Outcome {
    pub(crate) fn busy(waiting_max: usize) -> Self {
        Self::refused(Refusal {
            code: "busy".into(),
            message: format!("{waiting_max} calls wait already: await some of them first"),
            what: Some("waiting calls".into()),
            have: Some(number(waiting_max as u64)),
            limit: Some(number(waiting_max as u64)),
        })
    }

    pub(crate) fn made(output: Output, elapsed: Duration) -> Self {
        Self {
            refusal: None,
            format: Some(output.format.name().into()),
            width: output.width,
            height: output.height,
            frames: output.frames,
            quality: u32::from(output.quality),
            elapsed_ms: elapsed.as_secs_f64() * 1e3,
            data: Some(Buffer::from(output.data)),
        }
    }
}

impl From<Metadata> for Facts {
    fn from(metadata: Metadata) -> Self {
        let exif = metadata.exif.unwrap_or_default();
        Self {
            refusal: None,
            format: metadata.format.name().into(),
            width: metadata.width,
            height: metadata.height,
            alpha: metadata.alpha,
            frames: metadata.frames,
            orientation: u32::from(metadata.orientation),
            taken: exif.taken,
            make: exif.make,
            model: exif.model,
            location: exif.location.map(|(north, east)| vec![north, east]),
            icc: metadata.icc,
        }
    }
}

/// JavaScript has no larger whole numbers than 2^53; what is beyond is only ever said to be too much.
#[expect(clippy::cast_precision_loss, reason = "for a message")]
fn number(value: u64) -> f64 {
    value as f64
}
