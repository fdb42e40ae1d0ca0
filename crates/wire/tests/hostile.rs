//! What a peer may send before it is known, mutated: the recorded handshakes and calls, byte by byte.
//!
//! The same bytes every time. `HOSTILE_ROUNDS=5000000 cargo test --release -p wire --test hostile` goes further.

use serde_json::Value;
use wire::connect::{ConnectParams, claims_worker};
use wire::frame::{FrameError, RequestFrame, UpstreamFrame, response_error_to};
use wire::websocket::{Decoded, Decoder, Message, Opcode, Role, push_masked_frame};

const ROUNDS: u64 = 20_000;
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Pieces that parsers stumble over.
const TOKENS: [&[u8]; 14] = [
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"[",
    b"}",
    b"]",
    b",\"id\":",
    b"1e999",
    b"-0",
    b"null",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
];

/// Xorshift: the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// A few changes of `bytes`: bits turned, pieces taken out, doubled, put in, or taken from another of the corpus.
fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let end = at + dice.below((bytes.len() - at).min(24) + 1);
        match dice.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.truncate(at),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let other = &corpus[dice.below(corpus.len())];
                let from = dice.below(other.len());
                let piece = &other[from..other.len().min(from + 40)];
                bytes.splice(at..end, piece.iter().copied());
            }
            _ => drop(bytes.splice(at..end, TOKENS[dice.below(TOKENS.len())].iter().copied())),
        }
    }
}

/// Request texts: each recorded `connect`, each recorded call.
fn corpus() -> Vec<Vec<u8>> {
    let connects: Vec<Value> =
        serde_json::from_str(include_str!("../src/connect/cases.json")).expect("recorded JSON");
    let request = |method: &str, params: &Value| {
        format!(r#"{{"type":"req","id":"1","method":"{method}","params":{params}}}"#).into_bytes()
    };
    let calls = include_str!("captures/params.jsonl").lines();
    let mut all: Vec<Vec<u8>> = connects
        .iter()
        .map(|case| request("connect", &case["params"]))
        .collect();
    all.extend(calls.filter_map(|line| {
        let call: Value = serde_json::from_str(line).ok()?;
        Some(request(call["method"].as_str()?, &call["params"]))
    }));
    all.push(br#"{"type":"event","event":"tick","payload":{},"seq":1}"#.to_vec());
    all.push(br#"{"type":"res","id":"1","ok":false,"error":{"code":"X","message":"y"}}"#.to_vec());
    all
}

/// All that happens to a text before its sender is known, and to a call before it is handed on.
fn read(text: &str) {
    drop(UpstreamFrame::parse(text));
    let frame = match RequestFrame::parse(text) {
        Ok(frame) => frame,
        Err(FrameError::Syntax(_) | FrameError::Shape { .. }) => return,
    };
    let answer = response_error_to(
        &Value::from(&*frame.id).to_string(),
        &wire::error::ErrorShape::invalid_request("x"),
    );
    let answer: Value = serde_json::from_str(&answer).expect("an answer is JSON, whatever the id");
    assert_eq!(answer["id"], *frame.id);
    wire::methods::required_scopes(&frame.method, frame.params);
    drop(wire::schema::check(&frame.method, frame.params));
    if let Some(Ok(params)) = frame.params.map(|raw| serde_json::from_str(raw.get())) {
        claims_worker(&params);
        drop(ConnectParams::parse(&params));
    }
}

#[test]
fn mutated_handshakes_and_calls_are_read_or_refused() {
    let rounds = std::env::var("HOSTILE_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let corpus = corpus();
    assert!(corpus.len() > 320);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..rounds.unwrap_or(ROUNDS) {
        let mut text = corpus[dice.below(corpus.len())].clone();
        mutate(&mut text, &corpus, &mut dice);
        read(&String::from_utf8_lossy(&text));

        // The same as a frame, and then the frame's own bytes.
        let mut bytes = Vec::new();
        push_masked_frame(&mut bytes, Opcode::Text, &text, [1, 2, 3, round as u8]);
        if round % 2 == 0 {
            mutate(&mut bytes, &corpus, &mut dice);
        }
        let mut decoder = Decoder::new(Role::Server, PAYLOAD_BYTES_MAX);
        let mut rest = &mut bytes[..];
        while let Ok(Decoded::Frame { consumed, message }) = decoder.decode(rest) {
            if let Some(Message::Text(text)) = message {
                assert!(text.len() <= PAYLOAD_BYTES_MAX);
                read(text);
            }
            assert!(consumed > 0, "a frame has bytes");
            rest = &mut rest[consumed..];
        }
    }
}

/// Not as it should be: JavaScript reads this number as infinity and the original refuses the frame's shape.
#[test]
fn a_number_past_f64_makes_a_bad_frame_no_json() {
    let text = r#"{"type":"req","id":"1","method":1e999}"#;
    assert!(matches!(
        RequestFrame::parse(text),
        Err(FrameError::Syntax(_))
    ));
}
