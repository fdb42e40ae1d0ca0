//! Every parser that takes bytes from outside, as a function of bytes: it may refuse them, it may not panic, hang or
//! break what it promises.
//!
//! `make fuzz` hands them to libFuzzer, one at a time; `cargo test -p fuzz` replays what was found before.

use std::path::PathBuf;

use media::{Cancel, Fit, Limits, Options};
use serde_json::Value;
use wire::connect::{ConnectParams, claims_worker};
use wire::frame::{RequestFrame, UpstreamFrame, response_error_to};
use wire::websocket::{Decoded, Decoder, Message, Role};

/// A parser, and who can reach it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Longest input worth trying, bytes.
    pub bytes_max: usize,
}

const fn target(name: &'static str, run: fn(&[u8]), bytes_max: usize) -> Target {
    Target {
        name,
        run,
        bytes_max,
    }
}

pub const TARGETS: [Target; 13] = [
    // Before anybody is known.
    target("websocket", websocket, 4096),
    target("frame", frame, 4096),
    target("headers", gateway::fuzzing::headers, 2048),
    target("path", gateway::fuzzing::path, 512),
    // From who is known, or from files.
    target("config", config, 4096),
    target("session-key", gateway::fuzzing::session_key, 256),
    target("text", text, 2048),
    target("memory", memory_text, 4096),
    target("media", media, 8192),
    target("recording", recording, 8192),
    // From anybody who can write to a chat account.
    target("mail", channels::fuzzing::mail, 8192),
    target("irc", channels::fuzzing::irc, 1024),
    target("updates", channels::fuzzing::updates, 4096),
];

/// Its name, or the names there are.
///
/// # Errors
/// No target of that name.
pub fn find(name: &str) -> Result<Target, String> {
    let found = TARGETS.iter().find(|target| target.name == name).copied();
    found.ok_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        format!("no fuzz target `{name}`: {}", names.join(", "))
    })
}

/// Where a target's inputs are kept.
#[must_use]
pub fn corpus(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name)
}

const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// What is sent on a socket, in two pieces whose place the first byte chooses.
fn websocket(bytes: &[u8]) {
    let Some((&cut, stream)) = bytes.split_first() else {
        return;
    };
    let whole = messages(stream, stream.len());
    assert_eq!(
        whole,
        messages(stream, usize::from(cut).min(stream.len())),
        "what is read depends on how the bytes arrive"
    );
}

/// Each whole message, and how it ended.
fn messages(stream: &[u8], first: usize) -> (Vec<String>, Option<u16>) {
    let mut decoder = Decoder::new(Role::Server, PAYLOAD_BYTES_MAX);
    let mut read = Vec::new();
    let mut waiting: Vec<u8> = Vec::new();
    for piece in [&stream[..first], &stream[first..]] {
        waiting.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut waiting) {
                Err(error) => return (read, Some(error.code)),
                Ok(Decoded::Incomplete { total }) => {
                    assert!(total > waiting.len(), "a whole frame is not read");
                    break;
                }
                Ok(Decoded::Frame { consumed, message }) => {
                    assert!(consumed > 0, "a frame has bytes");
                    if let Some(Message::Text(text)) = &message {
                        assert!(text.len() <= PAYLOAD_BYTES_MAX);
                    }
                    read.extend(message.map(|message| format!("{message:?}")));
                    waiting.drain(..consumed);
                }
            }
        }
    }
    (read, None)
}

/// What a frame's text says, from the first look to `connect` and the check of a call's params.
fn frame(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    drop(UpstreamFrame::parse(text));
    let Ok(frame) = RequestFrame::parse(text) else {
        return;
    };
    let error = wire::error::ErrorShape::invalid_request("x");
    let answer = response_error_to(&Value::from(&*frame.id).to_string(), &error);
    let answer: Value = serde_json::from_str(&answer).expect("an answer is JSON, whatever the id");
    assert_eq!(answer["id"], *frame.id, "the answer is to another call");
    wire::methods::required_scopes(&frame.method, frame.params);
    drop(wire::schema::check(&frame.method, frame.params));
    let Some(Ok(params)) = frame.params.map(|raw| serde_json::from_str(raw.get())) else {
        return;
    };
    claims_worker(&params);
    if let Ok(connect) = ConnectParams::parse(&params) {
        gateway::fuzzing::prove(&connect);
    }
}

/// A person's `openclaw.json`. What an edit does not touch, it must not change.
fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    gateway::fuzzing::config(text);
}

/// What an agent says, on its way to a chat service: nothing is lost in the cutting.
fn text(bytes: &[u8]) {
    use channels::TextUnit;
    let Some((&first, bytes)) = bytes.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(bytes);
    let max = usize::from(first) + 16;
    for unit in [TextUnit::Chars, TextUnit::Utf16, TextUnit::Bytes] {
        let pieces = channels::chunk::split(&text, max, unit);
        for piece in &pieces {
            assert!(unit.len(piece) <= max, "a piece is too long");
        }
    }
    channels::markup::plain(&text);
    channels::fuzzing::markup(&text);
}

/// A file of an agent's memory: chunks are of the text, in order.
fn memory_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split('\n').count();
    for chunk in memory::chunks(&text) {
        assert!(chunk.start_line >= 1 && chunk.start_line <= chunk.end_line);
        assert!(chunk.end_line <= lines, "a chunk is past the end");
    }
    let entries = memory::entries(&text);
    assert!(entries.iter().all(|entry| entry.end_line <= lines));
    drop(memory::terms(&text));
    drop(memory::words(&text));
}

/// A picture somebody sent.
fn media(bytes: &[u8]) {
    let limits = Limits {
        pixels: 1 << 16,
        animation_pixels: 1 << 18,
        frames: 16,
        ..Limits::default()
    };
    drop(media::probe(bytes, &limits));
    let options = Options {
        max_width: Some(64),
        max_height: Some(64),
        fit: Fit::Inside,
        ..Options::default()
    };
    if let Ok(output) = media::process(bytes, &options, &limits, &Cancel::default()) {
        assert!(output.width <= 64 && output.height <= 64);
    }
}

/// A video or a voice message somebody sent.
fn recording(bytes: &[u8]) {
    let Ok(found) = media::record(std::io::Cursor::new(bytes)) else {
        return;
    };
    assert!(!found.streams.is_empty(), "a recording of nothing");
    for seconds in found.streams.iter().map(|stream| stream.duration_s) {
        let is_time = |seconds: f64| seconds.is_finite() && seconds > 0.0;
        assert!(
            seconds.or(found.duration_s).is_none_or(is_time),
            "a length is none"
        );
    }
}
