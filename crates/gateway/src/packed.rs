//! Texts within the binary, packed by the build (`build.rs`): they are read seldom, and a page is a third of its size so.

use std::io::Read as _;

use flate2::read::ZlibDecoder;

/// A text as zlib has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packed(pub(crate) &'static [u8]);

/// The packed text of a file below `src`.
macro_rules! packed {
    ($file:literal) => {
        $crate::packed::Packed(include_bytes!(concat!(env!("OUT_DIR"), "/", $file, ".zz")))
    };
}
pub(crate) use packed;

impl Packed {
    pub(crate) fn text(self) -> String {
        let mut text = String::new();
        let read = ZlibDecoder::new(self.0).read_to_string(&mut text);
        read.expect("the build packed a text");
        text
    }

    /// # Panics
    /// When it is no JSON: a test reads each.
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.text()).expect("the build packed JSON")
    }
}
