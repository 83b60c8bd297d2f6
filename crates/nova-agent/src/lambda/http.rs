//! HTTP/1.1 as far as the Runtime API needs it: requests in, small answers out, over one socket.
//!
//! Heads are parsed by `httparse`; bodies come with a length or in chunks, the latter with trailers.
//! Everything is bounded here, before it is kept. What a client could not have meant is malformed; after
//! that, where its next request begins is not known, so the connection ends.
use super::trailer::Trailers;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Longest head of a request, bytes: `Lambda-Runtime-Function-XRay-Error-Cause` may take a MiB.
const HEAD_MAX_BYTES: usize = 1024 * 1024 + 16 * 1024;
/// Most headers of a request. Clients send about ten.
const HEADERS_MAX: usize = 64;
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

/// How long the body of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
}

/// A request without its body.
#[derive(Debug)]
pub struct Head {
    pub method: String,
    pub path: String,
    headers: Vec<(String, Vec<u8>)>,
    framing: Framing,
    wants_continue: bool,
    /// Whether the client wants to go on with this connection.
    pub keep_alive: bool,
}

impl Head {
    /// The value of a header; `None` also where it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.and_then(|(_, value)| std::str::from_utf8(value).ok()).map(str::trim)
    }
}

/// A request's body.
#[derive(Debug)]
pub enum Body {
    /// All of it, and what came behind it.
    Whole(Vec<u8>, Trailers),
    /// It is longer than was allowed.
    TooLarge,
}

/// What to answer.
#[derive(Debug)]
pub struct Response<'a> {
    pub status: u16,
    pub content_type: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
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
    /// What was read and not used.
    buffer: Vec<u8>,
    /// A body was not read to its end: where the next request begins is not known.
    is_lost: bool,
}

impl Connection {
    /// Takes over a connection.
    pub fn new(stream: TcpStream) -> Self {
        // Only a matter of speed.
        let _ = stream.set_nodelay(true);
        Self { stream, buffer: Vec::new(), is_lost: false }
    }

    /// The socket, to wait for.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What the client does while it is to wait for an answer.
    pub fn peer(&self) -> Peer {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.stream.as_raw_fd(), &mut [0], flags) {
            Err(Errno::EAGAIN | Errno::EINTR) if self.buffer.is_empty() => Peer::Waiting,
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
            if let Some((head, length)) = parse_head(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(head);
            }
            if self.buffer.len() > HEAD_MAX_BYTES {
                return Err(Broken::Malformed("the head of the request is too long"));
            }
            self.fill().map_err(|broken| match broken {
                Broken::Closed if !self.buffer.is_empty() => Broken::Truncated,
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
            if self.buffer.is_empty() {
                self.fill_inside()?;
            }
            let now = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            take(&self.buffer[..now]);
            self.buffer.drain(..now);
            left -= now as u64;
        }
        Ok(())
    }

    fn read_chunks(&mut self, take: &mut impl FnMut(&[u8])) -> Result<Trailers, Broken> {
        let mut total = 0;
        loop {
            let length = self.read_chunk_length()?;
            if length == 0 {
                return self.read_trailers();
            }
            total += length;
            if length > DISCARD_MAX_BYTES || total > DISCARD_MAX_BYTES {
                return Err(Broken::Malformed("the body is endless"));
            }
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
            match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete((used, length))) => {
                    self.buffer.drain(..used);
                    return Ok(length);
                }
                Ok(httparse::Status::Partial) if self.buffer.len() <= CHUNK_LINE_MAX_BYTES => {
                    self.fill_inside()?;
                }
                _ => return Err(Broken::Malformed("the length of a chunk is no number")),
            }
        }
    }

    fn read_trailers(&mut self) -> Result<Trailers, Broken> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            match httparse::parse_headers(&self.buffer, &mut headers) {
                Ok(httparse::Status::Complete((used, found))) => {
                    let trailers = Trailers::of(found);
                    self.buffer.drain(..used);
                    return Ok(trailers);
                }
                Ok(httparse::Status::Partial) if self.buffer.len() <= HEAD_MAX_BYTES => {
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

    fn fill(&mut self) -> Result<(), Broken> {
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

fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Broken> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Broken::Malformed("the request has too many headers"));
        }
        Err(_) => return Err(Broken::Malformed("this is no HTTP request")),
    };
    let headers: Vec<(String, Vec<u8>)> = request
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), header.value.to_vec()))
        .collect();
    let mut head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: request.path.unwrap_or_default().to_owned(),
        framing: Framing::Length(0),
        wants_continue: false,
        keep_alive: request.version == Some(1),
        headers,
    };
    let said = head.header("connection").map(str::to_ascii_lowercase).unwrap_or_default();
    head.keep_alive = if head.keep_alive { said != "close" } else { said == "keep-alive" };
    head.wants_continue =
        head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    head.framing = framing(&head)?;
    Ok(Some((head, length)))
}

fn framing(head: &Head) -> Result<Framing, Broken> {
    let all =
        |name: &str| head.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).count();
    let (lengths, encodings) = (all("content-length"), all("transfer-encoding"));
    match (lengths, encodings) {
        (0, 0) => Ok(Framing::Length(0)),
        (1, 0) => {
            let text = head.header("content-length").unwrap_or_default();
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let length = text.parse().ok().filter(|_| digits).map(Framing::Length);
            length.ok_or(Broken::Malformed("the content length is no number"))
        }
        (0, 1) if head.header("transfer-encoding").is_some_and(is_chunked) => Ok(Framing::Chunked),
        _ => Err(Broken::Malformed("how long the body is, is said twice or not clearly")),
    }
}

fn is_chunked(value: &str) -> bool {
    value.eq_ignore_ascii_case("chunked")
}

fn head_of(response: &Response<'_>, keep_alive: bool) -> Vec<u8> {
    let reason = match response.status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Request Entity Too Large",
        _ => "Error",
    };
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", response.status);
    let length = response.body.len().to_string();
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let fixed = [
        ("Content-Type", response.content_type),
        ("Content-Length", length.as_str()),
        ("Connection", connection),
    ];
    for (name, value) in fixed.iter().chain(response.headers) {
        if value.is_empty() {
            continue;
        }
        head.push_str(name);
        head.push_str(": ");
        // Values come from the host and the function's name; a line end in one would begin a header.
        head.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }));
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

#[cfg(test)]
mod tests;
