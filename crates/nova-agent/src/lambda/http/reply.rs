//! The other direction: the response of a function's own server.
use super::head::HEADERS_MAX;
use super::{Broken, Connection, HEAD_MAX_BYTES};

/// A response, its body unpacked.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// As the server wrote it; empty where it did not.
    pub content_type: String,
    pub body: Vec<u8>,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    /// To the end of the connection.
    ToTheEnd,
}

struct ReplyHead {
    status: u16,
    content_type: String,
    framing: Framing,
}

/// A body as far as it is wanted.
struct Kept {
    bytes: Vec<u8>,
    limit: usize,
    fits: bool,
}

impl Kept {
    fn take(&mut self, piece: &[u8]) {
        self.fits = self.fits && self.bytes.len() + piece.len() <= self.limit;
        if self.fits {
            self.bytes.extend_from_slice(piece);
        }
    }
}

impl Connection {
    /// Reads a response; `None` for one with a body over `limit` bytes.
    ///
    /// # Errors
    /// When it does not come to its end, or is none.
    pub fn read_reply(&mut self, limit: usize) -> Result<Option<Reply>, Broken> {
        let head = self.read_reply_head()?;
        let mut kept = Kept { bytes: Vec::new(), limit, fits: true };
        match head.framing {
            Framing::Length(length) if length > limit as u64 => return Ok(None),
            Framing::Length(length) => self.read_exactly(length, &mut |piece| kept.take(piece))?,
            Framing::Chunked => {
                self.read_chunks(&mut |piece| kept.take(piece))?;
            }
            Framing::ToTheEnd => loop {
                kept.take(&self.buffer);
                self.buffer.clear();
                if !kept.fits {
                    break;
                }
                match self.fill() {
                    Ok(()) => {}
                    Err(Broken::Closed) => break,
                    Err(broken) => return Err(broken),
                }
            },
        }
        let ReplyHead { status, content_type, .. } = head;
        Ok(kept.fits.then_some(Reply { status, content_type, body: kept.bytes }))
    }

    /// The head of the final response: those that say "go on" are passed over.
    fn read_reply_head(&mut self) -> Result<ReplyHead, Broken> {
        loop {
            if let Some((head, length)) = parse(&self.buffer)? {
                self.buffer.drain(..length);
                if head.status >= 200 {
                    return Ok(head);
                }
                continue;
            }
            if self.buffer.len() > HEAD_MAX_BYTES {
                return Err(Broken::Malformed("the head of its response is too long"));
            }
            self.fill()?;
        }
    }
}

/// The head at the beginning of these bytes, and its length; `None` while it is not all there.
fn parse(bytes: &[u8]) -> Result<Option<(ReplyHead, usize)>, Broken> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Broken::Malformed("its response has too many headers"));
        }
        Err(_) => return Err(Broken::Malformed("what it answers is no HTTP response")),
    };
    let status = response.code.unwrap_or_default();
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).trim().to_owned())
    };
    let framing = match (header("transfer-encoding"), header("content-length")) {
        _ if status < 200 || status == 204 || status == 304 => Framing::Length(0),
        (Some(encoding), _) if encoding.eq_ignore_ascii_case("chunked") => Framing::Chunked,
        (Some(_), _) => return Err(Broken::Malformed("its response is encoded in an unknown way")),
        (None, Some(length)) => match length.parse() {
            Ok(length) => Framing::Length(length),
            Err(_) => return Err(Broken::Malformed("the length of its response is no number")),
        },
        (None, None) => Framing::ToTheEnd,
    };
    let content_type = header("content-type").unwrap_or_default();
    Ok(Some((ReplyHead { status, content_type, framing }, length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    /// What is read of these bytes, sent by a server that then closes.
    fn read(bytes: &[u8]) -> Result<Option<Reply>, Broken> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.accept().unwrap().0.write_all(bytes).unwrap();
        Connection::new(client).read_reply(10)
    }

    fn body(bytes: &[u8]) -> Option<String> {
        read(bytes).unwrap().map(|reply| String::from_utf8(reply.body).unwrap())
    }

    #[test]
    fn a_body_has_a_length_comes_in_chunks_or_ends_with_the_connection() {
        let go_on = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n\
            Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi and more";
        let reply = read(go_on).unwrap().unwrap();
        let expected =
            Reply { status: 201, content_type: "text/plain".into(), body: b"hi".to_vec() };
        assert_eq!(reply, expected);
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n";
        assert_eq!(body(chunked).as_deref(), Some("hi!"));
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\nto the end").as_deref(), Some("to the end"));
        assert_eq!(body(b"HTTP/1.1 204 No Content\r\n\r\n").as_deref(), Some(""));
    }

    #[test]
    fn a_body_over_the_limit_is_none() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n"), None);
        assert_eq!(body(b"HTTP/1.1 200 OK\r\n\r\n01234567890"), None);
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n";
        assert_eq!(body(chunked), None);
    }

    #[test]
    fn what_is_no_response_is_an_error() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        ] {
            assert!(matches!(read(bytes), Err(Broken::Malformed(_))), "{bytes:?}");
        }
        assert!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi").is_err());
        assert!(read(b"").is_err());
    }
}
