//! The crate `media` as a Node addon: bytes in, bytes out, on a pool of its own.
//!
//! What JavaScript calls is in `npm/`; this is the least that has to be native. Nothing here throws for what a file
//! or its options are: an outcome carries `code` and `message`, and the JavaScript side makes the error, with the
//! caller's own stack. Inputs above 64 KiB are read where JavaScript has them and results are handed over without a
//! copy. Decision 0010 has the rules of this boundary.

mod outcome;
mod pool;
mod wish;

use media::{Cancel, Limits, probe};
use napi::bindgen_prelude::{Object, Uint8Array};
use napi::{Env, Result};
use napi_derive::napi;
use outcome::{Facts, Outcome, guarded};
use pool::{Job, POOL, WAITING_MAX};
use std::time::Instant;
use wish::Wish;

/// Stops one call from outside.
#[napi]
#[derive(Default)]
pub struct Ticket {
    cancel: Cancel,
}

#[napi]
impl Ticket {
    /// For one call.
    #[napi(constructor)]
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the work at its next look; a call that waits for its turn ends when that comes.
    #[napi]
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}

/// Fit and convert on the pool; the promise always resolves, to an [`Outcome`].
///
/// # Errors
/// Only if Node refuses the promise.
#[napi]
pub fn process<'env>(
    env: &'env Env,
    data: Uint8Array,
    wish: Wish,
    ticket: Option<&Ticket>,
) -> Result<Object<'env>> {
    let (deferred, promise) = env.create_deferred::<Outcome, outcome::Settle<Outcome>>()?;
    let cancel = ticket
        .map(|ticket| ticket.cancel.clone())
        .unwrap_or_default();
    let job = Job::new(move |turn| {
        if turn.is_refused() {
            drop(data);
            return deferred.resolve(Box::new(|_| Ok(Outcome::busy(WAITING_MAX))));
        }
        let outcome = guarded(|| {
            let (options, limits) = wish.read()?;
            let metadata = probe(&data, &limits)?;
            let frames = if options.animated { metadata.frames } else { 1 };
            let pixels =
                u64::from(metadata.width) * u64::from(metadata.height) * u64::from(frames.max(1));
            let _held = turn.pixels(pixels);
            let started = Instant::now();
            let output = media::process(&data, &options, &limits, &cancel)?;
            Ok(Outcome::made(output, started.elapsed()))
        });
        drop(data);
        deferred.resolve(Box::new(move |_| Ok(outcome)));
    });
    POOL.submit(job);
    Ok(promise)
}

/// The same on the calling thread, outside the pool and its bounds.
#[napi]
#[must_use]
pub fn process_sync(data: &[u8], wish: Wish) -> Outcome {
    guarded(|| {
        let (options, limits) = wish.read()?;
        let started = Instant::now();
        let output = media::process(data, &options, &limits, &Cancel::default())?;
        Ok(Outcome::made(output, started.elapsed()))
    })
}

/// What the headers say. Microseconds, so it stays on the calling thread.
#[napi]
#[must_use]
pub fn metadata(data: &[u8], max_bytes: Option<f64>, max_pixels: Option<f64>) -> Facts {
    let limits = wish::limits(max_bytes, max_pixels, None);
    guarded(|| Ok(Facts::from(probe(data, &limits)?)))
}

/// Threads and pixels (all images being worked on together) of the pool, for the whole process; answers what holds
/// now. Nothing given changes nothing.
#[napi]
#[must_use]
pub fn configure(threads: Option<u32>, pixels: Option<f64>) -> Vec<f64> {
    let (threads, pixels) = POOL.configure(threads, pixels.map(wish::whole));
    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
    let pixels = pixels as f64;
    vec![f64::from(threads), pixels]
}

/// Calls that wait, and calls that are being worked on.
#[napi]
#[must_use]
pub fn counters() -> Vec<u32> {
    let (waiting, running) = POOL.counters();
    vec![waiting, running]
}

/// Version of this addon.
#[napi]
#[must_use]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Bounds of one image unless the caller states others: bytes, pixels, frames, pixels of all frames.
#[napi]
#[must_use]
pub fn default_limits() -> Vec<f64> {
    let limits = Limits::default();
    let all = [
        limits.bytes,
        limits.pixels,
        limits.frames,
        limits.animation_pixels,
    ];
    all.map(|limit| limit as f64).to_vec()
}
