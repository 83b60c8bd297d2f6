//! HTTP/1.1 as far as the Runtime API needs it: requests in, small answers out, over one socket.
//!
//! Heads are parsed by `httparse`; bodies come with a length or in chunks, the latter with trailers.
//! Everything is bounded here, before it is kept. What a client could not have meant is malformed; after
//! that, where its next request begins is not known, so the connection ends.
mod head;
mod reply;

use super::trailer::Trailers;
use head::{Framing, HEADERS_MAX, head_of, parse_head};
pub use head::{Head, Response};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
pub use reply::Reply;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Longest head of a request, bytes: `Lambda-Runtime-Function-XRay-Error-Cause` may take a MiB.
const HEAD_MAX_BYTES: usize = 1024 * 1024 + 16 * 1024;
/// Longest line that says how long a chunk is, bytes, extensions included.
const CHUNK_LINE_MAX_BYTES: usize = 1024;
/// How much of a body that is not wanted is read all the same, so that the client gets to the answer.
const DISCARD_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;
/// Bodies up to this size are sent in one write with their head, bytes.
const JOINED_MAX_BYTES: usize = 16 * 1024;

/// Why a connection is over.
#[derive(Debug)]
pub enum Broken {
    /// The client closed it.
    Closed,
    /// The client closed it without reading what was sent to it last.
    Reset,
    /// It ended inside a request.
    Truncated,
    /// What it sent is not HTTP, or not what this server takes.
    Malformed(&'static str),
}

/// A request's body.
#[derive(Debug)]
pub enum Body {
    /// All of it, and what came behind it.
    Whole(Vec<u8>, Trailers),
    /// It is longer than was allowed.
    TooLarge,
}

/// What the client of an idle connection does.
#[derive(Debug, PartialEq, Eq)]
pub enum Peer {
    /// It waits.
    Waiting,
    /// It has gone.
    Gone,
    /// It sends more, before it was answered.
    Talking,
}

/// One connection.
pub struct Connection {
    stream: TcpStream,
    /// What was read; in front of it what is used already.
    buffer: Vec<u8>,
    /// How much of it is used. Moving the rest to the front for each chunk of a body would take time that
    /// grows with the square of their number.
    used: usize,
    /// A body was not read to its end: where the next request begins is not known.
    is_lost: bool,
}

impl Connection {
    /// Takes over a connection.
    pub fn new(stream: TcpStream) -> Self {
        // Only a matter of speed.
        let _ = stream.set_nodelay(true);
        Self { stream, buffer: Vec::new(), used: 0, is_lost: false }
    }

    /// The socket, to wait for.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What the client does while it is to wait for an answer.
    pub fn peer(&self) -> Peer {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.stream.as_raw_fd(), &mut [0], flags) {
            Err(Errno::EAGAIN | Errno::EINTR) if self.unused().is_empty() => Peer::Waiting,
            Err(Errno::EAGAIN | Errno::EINTR) => Peer::Talking,
            Ok(length) if length > 0 => Peer::Talking,
            _ => Peer::Gone,
        }
    }

    /// Waits for the next request.
    ///
    /// # Errors
    /// When there is none: the connection is over.
    pub fn read_head(&mut self) -> Result<Head, Broken> {
        loop {
            if let Some((head, length)) = parse_head(self.unused())? {
                self.used += length;
                return Ok(head);
            }
            if self.unused().len() > HEAD_MAX_BYTES {
                return Err(Broken::Malformed("the head of the request is too long"));
            }
            self.fill().map_err(|broken| match broken {
                Broken::Closed if !self.unused().is_empty() => Broken::Truncated,
                other => other,
            })?;
        }
    }

    /// Whether no request can follow the present one.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Reads the body of a request, up to `limit` bytes; a longer one is read and dropped, if the client
    /// can be expected to send it all the same.
    ///
    /// # Errors
    /// When it does not come to its end.
    pub fn read_body(&mut self, head: &Head, limit: usize) -> Result<Body, Broken> {
        let mut bytes = Vec::new();
        let mut fits = true;
        if let Framing::Length(length) = head.framing {
            fits = length <= limit as u64;
            if fits {
                bytes.reserve_exact(length as usize);
            } else if head.wants_continue || length > DISCARD_MAX_BYTES {
                self.is_lost = true;
                return Ok(Body::TooLarge);
            }
        }
        if head.wants_continue {
            // On a broken connection the body does not come either, which is the error.
            let _ = self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let mut take = |piece: &[u8]| {
            fits = fits && bytes.len() + piece.len() <= limit;
            if fits {
                bytes.extend_from_slice(piece);
            } else {
                bytes = Vec::new();
            }
        };
        let trailers = match head.framing {
            Framing::Length(length) => {
                self.read_exactly(length, &mut take)?;
                Trailers::default()
            }
            Framing::Chunked => self.read_chunks(&mut take)?,
        };
        Ok(if fits { Body::Whole(bytes, trailers) } else { Body::TooLarge })
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// When the client has gone.
    pub fn respond(&mut self, response: &Response<'_>, keep_alive: bool) -> std::io::Result<()> {
        let mut bytes = head_of(response, keep_alive);
        if response.body.len() <= JOINED_MAX_BYTES {
            bytes.extend_from_slice(response.body);
            return self.stream.write_all(&bytes);
        }
        self.stream.write_all(&bytes)?;
        self.stream.write_all(response.body)
    }

    fn read_exactly(&mut self, length: u64, take: &mut impl FnMut(&[u8])) -> Result<(), Broken> {
        let mut left = length;
        while left > 0 {
            if self.unused().is_empty() {
                self.fill_inside()?;
            }
            let now = self.unused().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            take(&self.unused()[..now]);
            self.used += now;
            left -= now as u64;
        }
        Ok(())
    }

    fn read_chunks(&mut self, take: &mut impl FnMut(&[u8])) -> Result<Trailers, Broken> {
        let mut left = DISCARD_MAX_BYTES;
        loop {
            let length = self.read_chunk_length()?;
            if length == 0 {
                return self.read_trailers();
            }
            left = left.checked_sub(length).ok_or(Broken::Malformed("the body is endless"))?;
            self.read_exactly(length, take)?;
            let mut line_end = Vec::new();
            self.read_exactly(2, &mut |bytes| line_end.extend_from_slice(bytes))?;
            if line_end != b"\r\n" {
                return Err(Broken::Malformed("a chunk does not end where it says"));
            }
        }
    }

    fn read_chunk_length(&mut self) -> Result<u64, Broken> {
        loop {
            match httparse::parse_chunk_size(self.unused()) {
                Ok(httparse::Status::Complete((used, length))) => {
                    self.used += used;
                    return Ok(length);
                }
                Ok(httparse::Status::Partial) if self.unused().len() <= CHUNK_LINE_MAX_BYTES => {
                    self.fill_inside()?;
                }
                _ => return Err(Broken::Malformed("the length of a chunk is no number")),
            }
        }
    }

    fn read_trailers(&mut self) -> Result<Trailers, Broken> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            match httparse::parse_headers(self.unused(), &mut headers) {
                Ok(httparse::Status::Complete((used, found))) => {
                    let trailers = Trailers::of(found);
                    self.used += used;
                    return Ok(trailers);
                }
                Ok(httparse::Status::Partial) if self.unused().len() <= HEAD_MAX_BYTES => {
                    self.fill_inside()?;
                }
                _ => return Err(Broken::Malformed("the trailers are no headers")),
            }
        }
    }

    /// Reads more, where there must be more.
    fn fill_inside(&mut self) -> Result<(), Broken> {
        self.fill().map_err(|broken| match broken {
            Broken::Closed | Broken::Reset => Broken::Truncated,
            other => other,
        })
    }

    /// What was read and not used.
    fn unused(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    fn fill(&mut self) -> Result<(), Broken> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + READ_BYTES, 0);
        loop {
            let read = self.stream.read(&mut self.buffer[before..]);
            self.buffer.truncate(before + read.as_ref().map_or(0, |length| *length));
            return match read {
                Ok(0) => Err(Broken::Closed),
                Ok(_) => Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    self.buffer.resize(before + READ_BYTES, 0);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(Broken::Reset),
                Err(_) => Err(Broken::Closed),
            };
        }
    }
}

#[cfg(test)]
mod tests;
