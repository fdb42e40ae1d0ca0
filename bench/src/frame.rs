//! Just enough RFC 6455 for a client that measures: encode masked frames once, find frame borders in what arrives.
//! Fragmented messages are refused: neither gateway sends them.

use anyhow::{Result, bail};

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// One constant key. A server unmasks with it all the same; fresh keys would cost the generator, not the server.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Appends one masked final frame.
pub fn encode(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
}

pub struct Frame<'a> {
    pub opcode: u8,
    pub payload: &'a [u8],
    /// Bytes of the buffer this frame took.
    pub length: usize,
}

/// The first whole frame in `bytes`, or `None` when more must be read.
pub fn decode(bytes: &[u8]) -> Result<Option<Frame<'_>>> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & 0xf0 != 0x80 {
        bail!("server sent a fragmented or extended frame (first byte {first:#04x})");
    }
    if second & 0x80 != 0 {
        bail!("server sent a masked frame");
    }
    let (header, length) = match second & 0x7f {
        126 => match rest {
            [a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            _ => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(long) => (10, u64::from_be_bytes(*long) as usize),
            None => return Ok(None),
        },
        short => (2, usize::from(short)),
    };
    let Some(payload) = bytes.get(header..header + length) else {
        return Ok(None);
    };
    Ok(Some(Frame {
        opcode: first & 0x0f,
        payload,
        length: header + length,
    }))
}

/// What a text frame of the gateway protocol is, seen from its first bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    Response { id: &'a str, ok: bool },
    Event { name: &'a str },
}

const RESPONSE: &[u8] = br#"{"type":"res","id":""#;
const EVENT: &[u8] = br#"{"type":"event","event":""#;

/// Classifies without parsing: both gateways write these keys first and in this order.
pub fn classify(payload: &[u8]) -> Result<Kind<'_>> {
    let quoted = |after: &[u8]| {
        let rest = &payload[after.len()..];
        let end = rest.iter().position(|byte| *byte == b'"')?;
        Some((std::str::from_utf8(&rest[..end]).ok()?, &rest[end..]))
    };
    if payload.starts_with(RESPONSE)
        && let Some((id, rest)) = quoted(RESPONSE)
    {
        return Ok(Kind::Response {
            id,
            ok: rest.starts_with(br#"","ok":true"#),
        });
    }
    if payload.starts_with(EVENT)
        && let Some((name, _)) = quoted(EVENT)
    {
        return Ok(Kind::Event { name });
    }
    bail!(
        "frame is neither a response nor an event: {}",
        excerpt(payload)
    )
}

/// The first 300 bytes as text, for error messages.
pub fn excerpt(payload: &[u8]) -> String {
    String::from_utf8_lossy(&payload[..payload.len().min(300)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_form_are_found_and_cut_ones_wait() {
        for length in [0usize, 1, 125, 126, 127, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let mut sent = Vec::new();
            encode(TEXT, &payload, &mut sent);
            // As the server would send it: mask bit off, no key, payload as it is.
            let header = sent.len() - length - 4;
            let mut received = sent[..header].to_vec();
            received[1] &= 0x7f;
            received.extend_from_slice(&payload);
            let unmasked: Vec<u8> = sent[header + 4..]
                .iter()
                .zip(MASK.iter().cycle())
                .map(|(b, k)| b ^ k)
                .collect();
            assert_eq!(unmasked, payload);
            let frame = decode(&received).unwrap().expect("whole frame");
            assert_eq!(
                (frame.opcode, frame.payload.len(), frame.length),
                (TEXT, length, received.len())
            );
            assert!(decode(&received[..received.len() - 1]).unwrap().is_none() || length == 0);
        }
        assert!(decode(&[0x01, 0x00]).is_err(), "fragments are refused");
    }

    #[test]
    fn responses_and_events_are_told_apart() {
        assert_eq!(
            classify(br#"{"type":"res","id":"7","ok":true,"payload":{}}"#).unwrap(),
            Kind::Response { id: "7", ok: true }
        );
        assert_eq!(
            classify(br#"{"type":"res","id":"7","ok":false,"error":{}}"#).unwrap(),
            Kind::Response { id: "7", ok: false }
        );
        assert_eq!(
            classify(br#"{"type":"event","event":"tick","payload":{}}"#).unwrap(),
            Kind::Event { name: "tick" }
        );
        assert!(classify(b"{}").is_err());
    }
}
