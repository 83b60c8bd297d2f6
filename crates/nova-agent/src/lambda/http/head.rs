//! Heads of requests and of answers, as bytes and as values.
use super::Broken;

/// Most headers of a request. Clients send about ten.
pub const HEADERS_MAX: usize = 64;

/// How long the body of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

/// A request without its body.
#[derive(Debug)]
pub struct Head {
    pub method: String,
    pub path: String,
    headers: Vec<(String, Vec<u8>)>,
    /// How long its body is.
    pub framing: Framing,
    /// Whether the client waits to be told that its body is wanted.
    pub wants_continue: bool,
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

/// What to answer.
#[derive(Debug)]
pub struct Response<'a> {
    pub status: u16,
    pub content_type: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

/// The head at the beginning of these bytes, and its length; `None` while it is not all there.
///
/// # Errors
/// When they are no head, or one that nobody could mean.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Broken> {
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

/// The head of an answer, up to its body.
pub fn head_of(response: &Response<'_>, keep_alive: bool) -> Vec<u8> {
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
