//! Doors for the fuzz targets (`fuzz/`): what anybody can write to an account of ours.

use crate::markup::{self, Html};
use crate::{email, irc, matrix, telegram};
use serde_json::Value;

/// A mail as it lies in the mailbox.
pub fn mail(bytes: &[u8]) {
    email::read(bytes);
}

/// A line from an IRC server.
pub fn irc(bytes: &[u8]) {
    irc::read(bytes);
}

/// An update of Telegram, an event of a Matrix room.
pub fn updates(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        telegram::read(&value);
        matrix::read(&value);
    }
}

/// A text with Markdown, as HTML.
pub fn markup(text: &str) {
    markup::html(text, Html::Telegram);
    markup::html(text, Html::Full);
}
