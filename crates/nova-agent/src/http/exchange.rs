//! One call as a request to the function's server, in a thread of its own.
//!
//! The thread owns nothing but its connection: when the process dies, the connection does; when the process
//! is ended while the thread still waits for it to listen, an event says so.
use crate::event::Event;
use crate::http::answer;
use crate::lambda::http::{Broken, Connection};
use crate::line_protocol::{CallResult, answer_too_large};
use crate::pipes::wait;
use nova_proto::PAYLOAD_MAX_BYTES;
use serde_json::value::RawValue;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// How often a server that does not listen yet is tried.
const RETRY: Duration = Duration::from_millis(5);
/// How long one attempt may take; on loopback it is answered at once, unless the server's queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Where servers listen that do so on this machine only, or everywhere.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// What a thread has to tell.
pub enum News {
    /// The server has accepted the call's connection.
    Accepted,
    /// It has answered.
    Answered(CallResult),
    /// It has not, and will not.
    Broken(&'static str),
}

/// A call as its thread needs it.
pub struct Exchange {
    /// The call's request id.
    pub request_id: String,
    /// When it is killed, milliseconds since 1970.
    pub deadline_unix_ms: u64,
    /// Trace context of the caller.
    pub traceparent: Option<String>,
    /// The body of the request.
    pub input: Box<RawValue>,
    /// Where the server listens.
    pub port: u16,
    /// Raised when the process has been ended.
    pub stop: Arc<Event>,
    /// Takes the news, with the request id.
    pub news: Sender<(String, News)>,
    /// Wakes who reads them.
    pub wake: Arc<Event>,
}

impl Exchange {
    /// Starts the thread.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn start(self) -> std::io::Result<()> {
        std::thread::Builder::new().name("exchange".into()).spawn(move || self.run())?;
        Ok(())
    }

    fn run(self) {
        let Some(stream) = self.connect() else { return };
        self.tell(News::Accepted);
        let news = match self.exchange(stream) {
            Ok(result) => News::Answered(result),
            Err(Broken::Malformed(problem)) => News::Broken(problem),
            Err(Broken::Closed | Broken::Reset | Broken::Truncated) => {
                News::Broken("it closed the connection before its response was complete")
            }
        };
        self.tell(news);
    }

    fn tell(&self, news: News) {
        // Fails when the process was ended meanwhile, and nobody is waiting.
        let _ = self.news.send((self.request_id.clone(), news));
        self.wake.raise();
    }

    /// Waits until the server listens; `None` when its process was ended before.
    fn connect(&self) -> Option<TcpStream> {
        while !self.stop.is_raised() {
            for address in ADDRESSES {
                let server = SocketAddr::new(address, self.port);
                let connected = TcpStream::connect_timeout(&server, CONNECT_TIMEOUT);
                // A port that nobody listens at may be given to this very end: then it talks to itself.
                let is_other = |stream: &TcpStream| {
                    stream.local_addr().is_ok_and(|local| local.port() != self.port)
                };
                if let Some(stream) = connected.ok().filter(is_other) {
                    return Some(stream);
                }
            }
            wait(&[self.stop.as_fd()], None, Some(Instant::now() + RETRY), false);
        }
        None
    }

    fn exchange(&self, mut stream: TcpStream) -> Result<CallResult, Broken> {
        let body = self.input.get().as_bytes();
        let mut head = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nAccept: application/json, */*\r\nConnection: close\r\n\
             X-Nova-Request-Id: {}\r\nX-Nova-Deadline-Ms: {}\r\n",
            self.port,
            body.len(),
            plain(&self.request_id),
            self.deadline_unix_ms
        );
        if let Some(traceparent) = &self.traceparent {
            head.push_str(&format!("Traceparent: {}\r\n", plain(traceparent)));
        }
        head.push_str("\r\n");
        // A server may answer before it has read everything, and close: its answer counts.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        let reply = Connection::new(stream).read_reply(PAYLOAD_MAX_BYTES)?;
        Ok(reply.map_or_else(|| Err(answer_too_large()), answer::of_reply))
    }
}

/// A line end in a value would begin a header.
fn plain(value: &str) -> String {
    value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
