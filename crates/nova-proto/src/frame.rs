//! Frames: a length, then JSON. The length is refused before anything is allocated for it.
//!
//! The envelope is always written the same way, so that reading it is a look at its first bytes and
//! its last one: a payload of megabytes is parsed once, by [`crate::Message::decode`].
use crate::FRAME_MAX_BYTES;
use serde::Serialize;
use std::ops::Range;

/// Bytes of the length that precedes every frame body.
const HEADER_BYTES: usize = 4;

/// One frame, its payload not yet looked at.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Which message the payload holds; see [`crate::Message`].
    pub kind: u8,
    /// Matches a reply to its request. Chosen by the host, never reused on one connection.
    pub id: u64,
    body: Vec<u8>,
    payload: Range<usize>,
}

/// Why bytes from the peer are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The header announces more than [`FRAME_MAX_BYTES`].
    #[error("a frame of {length} bytes is over the limit of {FRAME_MAX_BYTES}")]
    TooLarge {
        /// What the header announced, in bytes.
        length: usize,
    },
    /// The body does not begin and end as a frame does.
    #[error("a frame body is not of the form {{\"type\":N,\"id\":N,\"payload\":...}}")]
    Malformed,
    /// The message to send has no JSON.
    #[error("a message cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
}

/// Reads a frame header: the number of body bytes that follow, refused when over the limit.
pub fn body_length(header: [u8; HEADER_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(header) as usize;
    if length > FRAME_MAX_BYTES { Err(FrameError::TooLarge { length }) } else { Ok(length) }
}

impl Frame {
    /// Reads the envelope of a frame body that a reader has fetched after [`body_length`].
    pub fn decode(body: Vec<u8>) -> Result<Self, FrameError> {
        let (kind, id, payload) = envelope(&body).ok_or(FrameError::Malformed)?;
        Ok(Self { kind, id, body, payload })
    }

    /// What the peer says is the JSON of a message.
    pub fn payload(&self) -> &[u8] {
        &self.body[self.payload.clone()]
    }
}

/// The type, the id, and where the payload lies.
fn envelope(body: &[u8]) -> Option<(u8, u64, Range<usize>)> {
    let (kind, rest) = number(body.strip_prefix(br#"{"type":"#)?)?;
    let (id, rest) = number(rest.strip_prefix(br#","id":"#)?)?;
    let payload = rest.strip_prefix(br#","payload":"#)?.strip_suffix(b"}")?;
    let end = body.len() - 1;
    Some((u8::try_from(kind).ok()?, id, end - payload.len()..end))
}

/// A number in JSON's only form of it, and what follows.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = bytes.split_at(digits);
    if digits > 1 && number[0] == b'0' {
        return None;
    }
    Some((str::from_utf8(number).ok()?.parse().ok()?, rest))
}

/// Writes a frame around a payload, without an intermediate copy: payloads are megabytes, guests small.
pub(crate) fn encode<T: Serialize>(kind: u8, id: u64, payload: &T) -> Result<Vec<u8>, FrameError> {
    #[derive(Serialize)]
    struct Envelope<'a, T> {
        #[serde(rename = "type")]
        kind: u8,
        id: u64,
        payload: &'a T,
    }
    let mut bytes = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, &Envelope { kind, id, payload })
        .map_err(FrameError::Unwritable)?;
    let length = bytes.len() - HEADER_BYTES;
    if length > FRAME_MAX_BYTES {
        return Err(FrameError::TooLarge { length });
    }
    // FRAME_MAX_BYTES is far below u32::MAX, so the cast is exact.
    bytes[..HEADER_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// Capacity that a decoder keeps between frames; what a rare large frame needed on top is given back.
const KEPT_BYTES: usize = 64 * 1024;

/// Turns a byte stream cut anywhere into frames. Holds at most one partial frame.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
}

impl FrameDecoder {
    /// Takes the next bytes of the stream. Call [`next_frame`](Self::next_frame) until it is `None`
    /// before pushing more, so that the buffer never holds more than a frame and one read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if the bytes so far hold one. After an error the stream is unusable.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let end = HEADER_BYTES + body_length(*header)?;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let body = self.buffer[HEADER_BYTES..end].to_vec();
        self.buffer.drain(..end);
        self.buffer.shrink_to(KEPT_BYTES);
        Frame::decode(body).map(Some)
    }

    /// True when the stream may end here: no partial frame is held.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}
