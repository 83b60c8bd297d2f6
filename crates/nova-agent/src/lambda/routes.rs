//! Which request means what: the Runtime API, the Extensions API, and their answers.
//!
//! Bodies are read only where they are wanted: the response to an event that is being worked on, whose
//! number is bounded, may be megabytes; everything else is small or is dropped as it comes.
mod extension;

use super::answer::{of_error, of_response};
use super::board::{Board, Refused, Waited};
use super::delivery::Invocation;
use super::environment;
use super::http::{Body, Broken, Connection, Head, Response};
use crate::event::Event;
use crate::line_protocol::answer_too_large;
use nova_proto::{FunctionErrorKind, FunctionSetup};
use serde_json::{Value, json};
use std::sync::Arc;

/// The largest response, bytes: AWS's limit, 100 bytes over the 6 MiB of a payload.
const RESPONSE_MAX_BYTES: usize = 6 * 1024 * 1024 + 100;
/// The largest body of anything but the answer to an event, bytes: an error with its stack trace.
const SMALL_MAX_BYTES: usize = 256 * 1024;

const JSON: &str = "application/json";
const OK: &str = "{\"status\":\"OK\"}\n";

/// What to do with a connection after a request.
pub enum Routed {
    /// Its next request may come.
    KeepOpen,
    /// It is over.
    Close,
    /// The same; it got an event, which it may or may not have read.
    Delivered,
    /// It is over, and what was sent over it did not arrive.
    Undelivered,
}

/// What the answers say about the function.
pub struct About {
    pub function_arn: String,
    name: String,
    version: String,
    handler: String,
}

impl About {
    /// What there is to say about this one.
    pub fn of(function: &FunctionSetup) -> Self {
        Self {
            function_arn: environment::function_arn(function),
            name: function.name.clone(),
            version: function.version.clone(),
            handler: function.handler.clone(),
        }
    }
}

/// One request being served.
struct Request<'a> {
    connection: &'a mut Connection,
    head: &'a Head,
    number: u64,
    waker: &'a Arc<Event>,
    board: &'a Board,
    about: &'a About,
}

/// Serves a request whose head was read.
///
/// # Errors
/// When the connection ended, or what came over it is not HTTP.
pub fn serve(
    connection: &mut Connection,
    head: &Head,
    number: u64,
    waker: &Arc<Event>,
    board: &Board,
    about: &About,
) -> Result<Routed, Broken> {
    Request { connection, head, number, waker, board, about }.route()
}

/// Says what was wrong with a request that cannot be read to its end.
pub fn refuse_broken(connection: &mut Connection, broken: &Broken) {
    let (error_type, message) = match broken {
        Broken::Truncated => ("TruncatedHTTPRequest", "the connection ended inside the request"),
        Broken::Malformed(message) => ("InvalidRequest", *message),
        Broken::Closed | Broken::Reset => return,
    };
    let body = error_body(error_type, message);
    let answer = Response { status: 400, content_type: JSON, headers: &[], body: body.as_bytes() };
    // Its client may be gone, which is no news.
    let _ = connection.respond(&answer, false);
}

impl Request<'_> {
    fn route(&mut self) -> Result<Routed, Broken> {
        let path = self.head.path.split('?').next().unwrap_or_default().to_owned();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match (self.head.method.as_str(), &parts[..]) {
            ("GET", ["2018-06-01", "ping"]) => self.small(|_| (200, "text/plain", "pong".into())),
            ("GET", ["2018-06-01", "runtime", "invocation", "next"]) => self.next(),
            ("POST", ["2018-06-01", "runtime", "invocation", id, "response"]) => self.response(id),
            ("POST", ["2018-06-01", "runtime", "invocation", id, "error"]) => self.error(id),
            ("POST", ["2018-06-01", "runtime", "init", "error"]) => self.init_error(),
            // There is nothing to restore from yet: the runtime may go on at once.
            ("GET", ["2018-06-01", "runtime", "restore", "next"]) => {
                self.small(|_| (200, JSON, String::new()))
            }
            ("POST", ["2018-06-01", "runtime", "restore", "error"]) => self.init_error(),
            ("POST", ["2020-01-01", "extension", "register"]) => self.register(),
            ("GET", ["2020-01-01", "extension", "event", "next"]) => self.extension_next(),
            ("POST", ["2020-01-01", "extension", "init", "error"]) => self.extension_error(true),
            ("POST", ["2020-01-01", "extension", "exit", "error"]) => self.extension_error(false),
            ("PUT", ["2020-08-15", "logs"]) => self.small(|_| unsupported("Logs")),
            ("PUT", ["2022-07-01", "telemetry"]) => self.small(|_| unsupported("Telemetry")),
            _ => self.unknown(),
        }
    }

    fn next(&mut self) -> Result<Routed, Broken> {
        self.read_small()?;
        if let Err(refused) = self.board.ask() {
            return Ok(self.refuse(&refused));
        }
        match self.board.next(self.number, self.connection, self.waker) {
            Waited::Got(invocation) => Ok(self.deliver(&invocation)),
            Waited::Over => Ok(Routed::Close),
        }
    }

    fn deliver(&mut self, invocation: &Invocation) -> Routed {
        let deadline = invocation.deadline_unix_ms.to_string();
        let headers = [
            ("Lambda-Runtime-Aws-Request-Id", invocation.request_id.as_str()),
            ("Lambda-Runtime-Deadline-Ms", &deadline),
            ("Lambda-Runtime-Invoked-Function-Arn", &self.about.function_arn),
            ("Lambda-Runtime-Trace-Id", invocation.trace_id.as_deref().unwrap_or_default()),
        ];
        let body = invocation.input.get().as_bytes();
        let answer = Response { status: 200, content_type: JSON, headers: &headers, body };
        // With an event under way the connection stays open: how it ends says whether it was read.
        match self.connection.respond(&answer, true) {
            Ok(()) => Routed::Delivered,
            Err(_) => Routed::Undelivered,
        }
    }

    fn response(&mut self, id: &str) -> Result<Routed, Broken> {
        let mode = self.head.header("lambda-runtime-function-response-mode").unwrap_or_default();
        if !["", "streaming", "buffered"].iter().any(|known| mode.eq_ignore_ascii_case(known)) {
            self.read_small()?;
            let message = "the response mode is `streaming` or not given";
            return Ok(self.problem(400, "InvalidFunctionResponseMode", message));
        }
        let content_type = self.head.header("content-type").unwrap_or_default().to_owned();
        self.answer(id, |body| match body {
            Body::Whole(bytes, trailers) => of_response(&content_type, bytes, &trailers),
            Body::TooLarge => Err(answer_too_large()),
        })
    }

    fn error(&mut self, id: &str) -> Result<Routed, Broken> {
        let error_type = self.head.header("lambda-runtime-function-error-type").map(str::to_owned);
        let error_type = error_type.as_deref();
        self.answer(id, |body| match body {
            Body::Whole(bytes, _) => {
                Err(of_error(FunctionErrorKind::FunctionFailed, error_type, &bytes))
            }
            Body::TooLarge => Err(answer_too_large()),
        })
    }

    /// Reads the answer to an event and hands it over.
    fn answer(
        &mut self,
        id: &str,
        read: impl FnOnce(Body) -> crate::line_protocol::CallResult,
    ) -> Result<Routed, Broken> {
        let delivery = match self.board.begin_answer(id) {
            Ok(delivery) => delivery,
            Err(refused) => {
                self.connection.read_body(self.head, 0)?;
                return Ok(self.refuse(&refused));
            }
        };
        let body = match self.connection.read_body(self.head, RESPONSE_MAX_BYTES) {
            Ok(body) => body,
            Err(broken) => {
                self.board.break_off_answer(id, delivery);
                return Err(broken);
            }
        };
        // The input may be megabytes, as is what may follow.
        drop(delivery);
        let is_too_large = matches!(body, Body::TooLarge);
        self.board.answer(id, read(body));
        if is_too_large {
            return Ok(self.too_large(RESPONSE_MAX_BYTES));
        }
        Ok(self.respond(202, JSON, &[], OK))
    }

    fn init_error(&mut self) -> Result<Routed, Broken> {
        let error_type = self.head.header("lambda-runtime-function-error-type").map(str::to_owned);
        let Body::Whole(bytes, _) = self.connection.read_body(self.head, SMALL_MAX_BYTES)? else {
            return Ok(self.too_large(SMALL_MAX_BYTES));
        };
        let kind = FunctionErrorKind::FunctionNotStarted;
        let failure = of_error(kind, error_type.as_deref(), &bytes);
        match self.board.fail_init(failure) {
            Ok(()) => Ok(self.respond(202, JSON, &[], OK)),
            Err(refused) => Ok(self.refuse(&refused)),
        }
    }

    fn unknown(&mut self) -> Result<Routed, Broken> {
        self.read_small()?;
        let message = format!("there is no {} {}", self.head.method, quoted(&self.head.path));
        Ok(self.problem(404, "NotFound", &message))
    }

    /// Answers a request that needs no body.
    fn small(
        &mut self,
        answer: impl FnOnce(&About) -> (u16, &'static str, String),
    ) -> Result<Routed, Broken> {
        self.read_small()?;
        let (status, content_type, body) = answer(self.about);
        Ok(self.respond(status, content_type, &[], &body))
    }

    /// Reads and drops the body of a request that has nothing to say.
    fn read_small(&mut self) -> Result<(), Broken> {
        self.connection.read_body(self.head, 0).map(drop)
    }

    fn refuse(&mut self, refused: &Refused) -> Routed {
        match refused {
            Refused::State => {
                let message = "this is not the time for that: an event is still to be answered, or the \
                               runtime is initialised, or it has failed to";
                self.problem(403, "InvalidStateTransition", message)
            }
            Refused::RequestId => {
                let message =
                    "no event with this request id is being worked on, or it was answered";
                self.problem(400, "InvalidRequestID", message)
            }
        }
    }

    fn too_large(&mut self, limit: usize) -> Routed {
        let message = format!("the body is over the limit of {limit} bytes");
        let body = error_body("RequestEntityTooLarge", &message);
        // Not all of it was read, perhaps.
        let answer =
            Response { status: 413, content_type: JSON, headers: &[], body: body.as_bytes() };
        let _ = self.connection.respond(&answer, false);
        Routed::Close
    }

    fn problem(&mut self, status: u16, error_type: &str, message: &str) -> Routed {
        self.respond(status, JSON, &[], &error_body(error_type, message))
    }

    fn respond(
        &mut self,
        status: u16,
        content_type: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Routed {
        let answer = Response { status, content_type, headers, body: body.as_bytes() };
        let keep_alive = self.head.keep_alive && !self.connection.is_lost();
        match self.connection.respond(&answer, keep_alive) {
            Ok(()) if keep_alive => Routed::KeepOpen,
            _ => Routed::Close,
        }
    }
}

fn unsupported(api: &str) -> (u16, &'static str, String) {
    let error_type = format!("{api}.NotSupported");
    (202, JSON, error_body(&error_type, &format!("{api} API is not supported")))
}

fn error_body(error_type: &str, message: &str) -> String {
    let body: Value = json!({"errorMessage": message, "errorType": error_type});
    format!("{body}\n")
}

/// A client's own text, cut to a length fit for an error message.
fn quoted(text: &str) -> String {
    text.chars().take(200).collect()
}
