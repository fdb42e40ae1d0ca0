//! Images: bytes in, bytes out, under limits; and what video and audio files say of themselves.
//!
//! [`probe`] reads headers, [`process`] fits and converts. Both are synchronous: run them on threads
//! that may block. [`Limits`] bound pixels and bytes of one picture; the memory that its work takes
//! follows from these, and [`cost`] tells it before it is taken. JPEG to JPEG stays in Y, Cb
//! and Cr planes from the file to the file; everything else goes over RGB or RGBA. [`record`] reads
//! the headers of video and audio.

mod decode;
mod encode;
mod error;
mod fit;
mod format;
mod jpeg;
mod limits;
mod png;
mod probe;
mod process;
mod raster;
mod recording;
#[cfg(test)]
mod tests;

pub use error::MediaError;
pub use fit::{Crop, Fit};
pub use format::Format;
pub use limits::{Cancel, Limits};
pub use probe::{Exif, Metadata, probe};
pub use process::{Options, Output, Target, cost, process};
pub use recording::{Container, Recording, Stream, StreamKind, record};
