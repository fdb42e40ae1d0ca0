//! What a service can do and where its limits are, as data: the delivery worker splits text and
//! fits media by this, and the API answers from it.

/// How a service counts the length of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextUnit {
    /// UTF-16 code units (Telegram).
    Utf16,
    /// Unicode scalar values.
    Chars,
    /// UTF-8 bytes (IRC, Matrix events).
    Bytes,
}

/// What the service renders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Markup {
    Plain,
    /// Markdown is converted to the service's HTML by the channel.
    Html,
    /// Markdown goes out as it is.
    Markdown,
}

/// Limits of pictures that are shown as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pictures {
    pub bytes_max: u64,
    /// Pixels across and down together.
    pub sides_max: u32,
    /// How many times longer one side may be than the other.
    pub ratio_max: u32,
}

/// Limits and abilities of one service.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// Channel id as in the user's file: `telegram`, `matrix`, `irc`, `email`, `webhook`.
    pub channel: &'static str,
    /// Longest text of one message, in `text_unit`.
    pub text_max: usize,
    pub text_unit: TextUnit,
    /// Longest caption of a message with media, in `text_unit`; 0: text goes in its own message.
    pub caption_max: usize,
    pub markup: Markup,
    /// Largest upload, bytes; 0: no media, a link is sent instead.
    pub media_bytes_max: u64,
    /// Files of one message at most; 1: each goes in its own.
    pub album_max: usize,
    /// What a file must be to be shown as a picture; `None`: any file may be one.
    pub pictures: Option<Pictures>,
    pub replies: bool,
    pub threads: bool,
    pub edits: bool,
    pub deletes: bool,
    pub reactions: bool,
    pub typing: bool,
    pub buttons: bool,
    /// A repeat with the same delivery id cannot make a second message (Matrix transaction ids).
    pub idempotent_send: bool,
}
