//! RFC 6455 framing as a state machine over bytes the caller owns; no IO, no extensions.
//!
//! Messages are handed out as slices of the caller's buffer, so an unfragmented request is never copied.
//! Errors carry the close code that the `ws` library of the original answers with.

/// Which end of the connection decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Receives masked frames.
    Server,
    /// Receives unmasked frames.
    Client,
}

/// One complete message or control frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// Code and reason; `None` for an empty close frame.
    Close(Option<(u16, &'a str)>),
}

/// A violation after which the connection is closed with `code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (close {code})")]
pub struct ProtocolError {
    pub code: u16,
    pub what: &'static str,
}

const fn violation(what: &'static str) -> ProtocolError {
    ProtocolError { code: 1002, what }
}

const OP_CONTINUATION: u8 = 0x0;
const OP_TEXT: u8 = 0x1;
const OP_BINARY: u8 = 0x2;
const OP_CLOSE: u8 = 0x8;
const OP_PING: u8 = 0x9;
const OP_PONG: u8 = 0xA;

/// Longest frame header: 2 bytes, 8 of length, 4 of mask.
pub const HEADER_BYTES_MAX: usize = 14;

/// Decodes one direction of one connection.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    payload_bytes_max: usize,
    /// Opcode of the fragmented message under way.
    fragmented: Option<u8>,
    /// Its bytes so far; after the last fragment, the message until the next call.
    collected: Vec<u8>,
}

/// What [`Decoder::decode`] found at the start of the buffer.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// Read on: the frame at the start needs `total` bytes (a lower bound while its header is incomplete).
    Incomplete { total: usize },
    /// `consumed` bytes made a message, or (`None`) a fragment of one.
    Frame {
        consumed: usize,
        message: Option<Message<'a>>,
    },
}

impl Decoder {
    pub const fn new(role: Role, payload_bytes_max: usize) -> Self {
        Self {
            role,
            payload_bytes_max,
            fragmented: None,
            collected: Vec::new(),
        }
    }

    /// Changes the limit, as after authentication.
    pub const fn set_payload_bytes_max(&mut self, payload_bytes_max: usize) {
        self.payload_bytes_max = payload_bytes_max;
    }

    /// Decodes the frame at the start of `buffer`, unmasking it in place. After [`Decoded::Frame`] the caller
    /// passes the buffer again from `consumed` on.
    ///
    /// # Errors
    /// [`ProtocolError`]; nothing more may be decoded after one.
    pub fn decode<'a>(&'a mut self, buffer: &'a mut [u8]) -> Result<Decoded<'a>, ProtocolError> {
        if self.fragmented.is_none() && self.collected.capacity() > 0 {
            self.collected = Vec::new();
        }
        let Some(&[first, second]) = buffer.first_chunk::<2>() else {
            return Ok(Decoded::Incomplete { total: 2 });
        };
        let fin = first & 0x80 != 0;
        let opcode = first & 0x0F;
        let masked = second & 0x80 != 0;
        if first & 0x70 != 0 {
            return Err(violation("reserved bits set"));
        }
        self.check_opcode(opcode, fin, second & 0x7F)?;
        if masked != (self.role == Role::Server) {
            return Err(violation(if masked {
                "mask not allowed"
            } else {
                "mask required"
            }));
        }
        let (length_bytes, length) = match second & 0x7F {
            126 => match buffer.get(2..4).and_then(|bytes| bytes.try_into().ok()) {
                Some(bytes) => (2, u64::from(u16::from_be_bytes(bytes))),
                None => return Ok(Decoded::Incomplete { total: 4 }),
            },
            127 => match buffer.get(2..10).and_then(|bytes| bytes.try_into().ok()) {
                Some(bytes) => (8, u64::from_be_bytes(bytes)),
                None => return Ok(Decoded::Incomplete { total: 10 }),
            },
            short => (0, u64::from(short)),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        // Judged by the header alone: an oversize message is refused before a byte of it is kept.
        if opcode < OP_CLOSE && length.saturating_add(self.collected.len()) > self.payload_bytes_max
        {
            return Err(ProtocolError {
                code: 1009,
                what: "message too big",
            });
        }
        let header = 2 + length_bytes + if masked { 4 } else { 0 };
        let total = header + length;
        if buffer.len() < total {
            return Ok(Decoded::Incomplete { total });
        }
        let (head, rest) = buffer.split_at_mut(header);
        let payload = &mut rest[..length];
        if masked {
            let key: [u8; 4] = head[header - 4..].try_into().expect("four bytes of mask");
            apply_mask(payload, key);
        }
        let message = self.assemble(opcode, fin, payload)?;
        Ok(Decoded::Frame {
            consumed: total,
            message,
        })
    }

    fn check_opcode(&self, opcode: u8, fin: bool, length: u8) -> Result<(), ProtocolError> {
        match opcode {
            OP_CONTINUATION if self.fragmented.is_none() => Err(violation("nothing to continue")),
            OP_TEXT | OP_BINARY if self.fragmented.is_some() => {
                Err(violation("message inside a message"))
            }
            OP_CONTINUATION | OP_TEXT | OP_BINARY => Ok(()),
            OP_CLOSE | OP_PING | OP_PONG if !fin => Err(violation("fragmented control frame")),
            OP_CLOSE | OP_PING | OP_PONG if length > 125 => {
                Err(violation("control frame too long"))
            }
            OP_CLOSE | OP_PING | OP_PONG => Ok(()),
            _ => Err(violation("unknown opcode")),
        }
    }

    fn assemble<'a>(
        &'a mut self,
        opcode: u8,
        fin: bool,
        payload: &'a [u8],
    ) -> Result<Option<Message<'a>>, ProtocolError> {
        match opcode {
            OP_PING => Ok(Some(Message::Ping(payload))),
            OP_PONG => Ok(Some(Message::Pong(payload))),
            OP_CLOSE => parse_close(payload).map(|close| Some(Message::Close(close))),
            OP_CONTINUATION => {
                self.collected.extend_from_slice(payload);
                if !fin {
                    return Ok(None);
                }
                let first = self.fragmented.take().expect("checked by check_opcode");
                text_or_binary(first, &self.collected).map(Some)
            }
            _ if fin => text_or_binary(opcode, payload).map(Some),
            _ => {
                self.fragmented = Some(opcode);
                self.collected = payload.to_vec();
                Ok(None)
            }
        }
    }
}

fn text_or_binary(opcode: u8, bytes: &[u8]) -> Result<Message<'_>, ProtocolError> {
    if opcode != OP_TEXT {
        return Ok(Message::Binary(bytes));
    }
    std::str::from_utf8(bytes)
        .map(Message::Text)
        .map_err(|_invalid| ProtocolError {
            code: 1007,
            what: "invalid UTF-8",
        })
}

fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, ProtocolError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(violation("close code cut short"))
        };
    };
    let code = u16::from_be_bytes(*code);
    // The codes an endpoint may send: RFC 6455 section 7.4 and the IANA registry up to 1014.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(violation("invalid close code"));
    }
    match std::str::from_utf8(reason) {
        Ok(reason) => Ok(Some((code, reason))),
        Err(_) => Err(ProtocolError {
            code: 1007,
            what: "invalid UTF-8",
        }),
    }
}

/// XORs `payload` with the repeating `key`, eight bytes at a time.
fn apply_mask(payload: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Kind of an outgoing message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn bits(self) -> u8 {
        match self {
            Self::Text => OP_TEXT,
            Self::Binary => OP_BINARY,
            Self::Close => OP_CLOSE,
            Self::Ping => OP_PING,
            Self::Pong => OP_PONG,
        }
    }
}

/// Header of an unmasked, unfragmented frame: the bytes and how many of them count.
pub fn header(opcode: Opcode, payload_bytes: usize) -> ([u8; HEADER_BYTES_MAX], usize) {
    let mut bytes = [0; HEADER_BYTES_MAX];
    bytes[0] = 0x80 | opcode.bits();
    let used = if payload_bytes < 126 {
        bytes[1] = payload_bytes as u8;
        2
    } else if let Ok(short) = u16::try_from(payload_bytes) {
        bytes[1] = 126;
        bytes[2..4].copy_from_slice(&short.to_be_bytes());
        4
    } else {
        bytes[1] = 127;
        bytes[2..10].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
        10
    };
    (bytes, used)
}

/// Appends a frame as a server sends it.
pub fn push_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let (head, used) = header(opcode, payload.len());
    out.reserve(used + payload.len());
    out.extend_from_slice(&head[..used]);
    out.extend_from_slice(payload);
}

/// Appends a frame as a client sends it, masked with `key` (which must be unpredictable).
pub fn push_masked_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], key: [u8; 4]) {
    let (mut head, used) = header(opcode, payload.len());
    head[1] |= 0x80;
    out.reserve(used + 4 + payload.len());
    out.extend_from_slice(&head[..used]);
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], key);
}

/// Payload of a close frame. `reason` is cut to what fits.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let reason = crate::frame::close_reason(reason);
    let mut payload = Vec::with_capacity(2 + reason.len());
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(reason.as_bytes());
    payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes all of `bytes`, cut into pieces at `cuts`, as a connection would.
    fn decode_all(
        bytes: &[u8],
        cuts: &[usize],
        limit: usize,
    ) -> Result<Vec<String>, ProtocolError> {
        let mut decoder = Decoder::new(Role::Server, limit);
        let (mut pending, mut out, mut fed) = (Vec::new(), Vec::new(), 0);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        for end in ends {
            pending.extend_from_slice(&bytes[fed..end]);
            fed = end;
            let mut start = 0;
            loop {
                match decoder.decode(&mut pending[start..])? {
                    Decoded::Incomplete { total } => {
                        assert!(total > 0);
                        break;
                    }
                    Decoded::Frame { consumed, message } => {
                        if let Some(message) = message {
                            out.push(format!("{message:?}"));
                        }
                        start += consumed;
                    }
                }
            }
            pending.drain(..start);
        }
        Ok(out)
    }

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push_masked_frame(&mut out, Opcode::Text, payload, [1, 2, 3, 4]);
        out[0] = first;
        out
    }

    #[test]
    fn the_masked_example_of_the_standard_decodes() {
        // RFC 6455 section 5.7. Encoder and decoder share a masking function, so a round trip proves nothing.
        let bytes = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(
            decode_all(&bytes, &[], 64).expect("valid"),
            ["Text(\"Hello\")"]
        );
    }

    #[test]
    fn fragments_join_around_a_ping() {
        let bytes = [
            masked(0x01, b"hel"),
            masked(0x89, b"p"),
            masked(0x80, b"lo"),
        ]
        .concat();
        let seen = decode_all(&bytes, &[], 1024).expect("valid");
        assert_eq!(seen, ["Ping([112])", "Text(\"hello\")"]);
    }

    #[test]
    fn violations_carry_the_close_code() {
        let code = |bytes: &[u8]| decode_all(bytes, &[], 16).expect_err("must fail").code;
        assert_eq!(code(&masked(0xC1, b"x")), 1002, "reserved bit");
        assert_eq!(code(&masked(0x83, b"x")), 1002, "reserved opcode");
        assert_eq!(code(&masked(0x80, b"x")), 1002, "continuation of nothing");
        assert_eq!(code(&masked(0x09, b"x")), 1002, "fragmented ping");
        assert_eq!(
            code(&[masked(0x01, b"a"), masked(0x81, b"b")].concat()),
            1002,
            "nested message"
        );
        assert_eq!(code(&[0x81, 0x01, b'x']), 1002, "unmasked");
        assert_eq!(code(&masked(0x81, &[0xFF])), 1007, "not UTF-8");
        assert_eq!(code(&masked(0x81, &[b'x'; 17])), 1009, "too big");
        assert_eq!(
            code(&[masked(0x01, &[b'x'; 9]), masked(0x80, &[b'x'; 9])].concat()),
            1009,
            "too big in sum"
        );
        assert_eq!(code(&masked(0x88, &[3])), 1002, "close code cut");
        assert_eq!(
            code(&masked(0x88, &1005_u16.to_be_bytes())),
            1002,
            "close code not for the wire"
        );
    }

    #[test]
    fn an_oversize_header_is_refused_before_its_bytes_arrive() {
        let header = [0x81, 0xFF, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF];
        assert_eq!(
            decode_all(&header, &[], 1 << 20).expect_err("too big").code,
            1009
        );
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_cleanly(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in any::<usize>()) {
            let _ = decode_all(&bytes, &[cut], 128);
        }

        #[test]
        fn messages_survive_any_cut(texts in proptest::collection::vec(".{0,300}", 1..6), cuts in proptest::collection::vec(any::<usize>(), 0..5), key in any::<[u8; 4]>()) {
            let mut bytes = Vec::new();
            for text in &texts {
                push_masked_frame(&mut bytes, Opcode::Text, text.as_bytes(), key);
            }
            let expected: Vec<String> = texts.iter().map(|text| format!("{:?}", Message::Text(text))).collect();
            prop_assert_eq!(decode_all(&bytes, &cuts, 1 << 20).expect("valid"), expected);
        }
    }
}
