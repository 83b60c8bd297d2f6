//! `POST /functions/{name}/invoke`: a request becomes an [`Invocation`], its [`Outcome`] an answer.
//!
//! The payload is checked to be one JSON value and then travels as the bytes that were sent. An empty
//! body stands for `{}`. A function's own failure is an answer (200) with `error`; only its timeout is
//! a problem (504), so that callers and proxies treat it as one. When the client goes away, hyper
//! drops this handler's future, and with it the call.
use super::Api;
use super::body::{self, Limit, Received};
use super::path::{FunctionPath, query};
use super::problem::{ErrorCode, Problem, REQUEST_ID_HEADER};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use nova_domain::{
    FunctionError, FunctionErrorKind, FunctionName, Invocation, LogLine, LogStream, Outcome,
    Phases, RequestId, Start, Trigger,
};
use nova_proto::{LOG_MAX_BYTES, PAYLOAD_MAX_BYTES};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt::Write;
use std::sync::Arc;
use tokio::sync::mpsc;
use uuid::Uuid;

/// The payload itself; the frame to the guest has room for it and its envelope.
const PAYLOAD_LIMIT: Limit =
    Limit { bytes: PAYLOAD_MAX_BYTES, what: "the payload", code: ErrorCode::PayloadTooLarge };
/// W3C trace context; version 00 has exactly this many characters.
const TRACEPARENT_CHARS: usize = 55;
/// Log lines on their way from the guest to an answer that shows them.
const LOG_LINES_IN_FLIGHT: usize = 256;
/// Where the time of a call went, for the browser's network view.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// How the command line introduces itself, so that records can tell it from other clients.
pub const CLI_USER_AGENT_PREFIX: &str = "nova-cli/";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InvokeQuery {
    /// Put the log lines of this call into the answer.
    #[serde(default)]
    logs: bool,
}

#[derive(Debug, Serialize)]
struct InvokeAnswer {
    request_id: RequestId,
    output: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<FunctionError>,
    duration_ms: f64,
    cold_start: bool,
    start: Start,
    version: u64,
    phases: Phases,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<Vec<LogView>>,
}

#[derive(Debug, Serialize)]
struct LogView {
    time: DateTime<Utc>,
    stream: LogStream,
    text: String,
}

/// `POST /functions/{name}/invoke`
pub async fn invoke(
    State(api): State<Arc<Api>>,
    FunctionPath(function): FunctionPath,
    request: Request,
) -> Result<Response, Problem> {
    let InvokeQuery { logs: wants_logs } = query(request.uri())?;
    let request_id = RequestId(Uuid::now_v7());
    let (parts, body) = request.into_parts();
    let payload = read_payload(&api, &parts.headers, body).await?;
    let invocation = Invocation {
        request_id,
        attempt: 1,
        function: function.clone(),
        trigger: trigger(&parts.headers),
        payload,
        traceparent: traceparent(&parts.headers),
    };
    let (sink, lines) = match wants_logs {
        true => {
            let (sink, lines) = mpsc::channel(LOG_LINES_IN_FLIGHT);
            (Some(sink), Some(lines))
        }
        false => (None, None),
    };
    let invoked = api.executor.invoke(invocation, sink);
    let (outcome, logs) = tokio::join!(invoked, collect(lines));
    let outcome = outcome.map_err(|error| Problem::from(error).of_request(request_id))?;
    answer(&function, outcome, logs)
}

/// The payload, which the executor counts from here on.
async fn read_payload(
    api: &Api,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<Box<RawValue>, Problem> {
    let Received { bytes, held: _held } =
        body::read(&api.bodies, headers, body, PAYLOAD_LIMIT).await?;
    let nothing = bytes.iter().all(u8::is_ascii_whitespace);
    let text: &[u8] = if nothing { b"{}" } else { &bytes };
    serde_json::from_slice(text).map_err(|error| {
        let detail = format!("the payload is not one JSON value: {error}");
        Problem::new(ErrorCode::InvalidJson, detail)
    })
}

/// Lines until the call ends; what is over the limit of a call's log is dropped here as well.
async fn collect(lines: Option<mpsc::Receiver<LogLine>>) -> Option<Vec<LogView>> {
    let mut lines = lines?;
    let (mut kept, mut bytes) = (Vec::new(), 0);
    while let Some(LogLine { time_unix_ms, stream, text }) = lines.recv().await {
        bytes += text.len();
        if bytes <= LOG_MAX_BYTES {
            let millis = i64::try_from(time_unix_ms).unwrap_or(i64::MAX);
            let time = DateTime::from_timestamp_millis(millis).unwrap_or_default();
            kept.push(LogView { time, stream, text });
        }
    }
    Some(kept)
}

fn answer(
    function: &FunctionName,
    outcome: Outcome,
    logs: Option<Vec<LogView>>,
) -> Result<Response, Problem> {
    let id = outcome.request_id;
    if let Some(error) = &outcome.error
        && error.kind == FunctionErrorKind::Timeout
    {
        let detail = format!("function {function}: {}", error.message);
        return Err(Problem::new(ErrorCode::FunctionTimeout, detail).of_request(id));
    }
    let timing = server_timing(&outcome);
    let answer = InvokeAnswer {
        request_id: id,
        output: outcome.output,
        error: outcome.error,
        duration_ms: outcome.duration_ms,
        cold_start: outcome.start != Start::Warm,
        start: outcome.start,
        version: outcome.version,
        phases: outcome.phases,
        logs,
    };
    let body = serde_json::to_vec(&answer)
        .map_err(|error| Problem::internal("an answer cannot be written", &error).of_request(id))?;
    let json = HeaderValue::from_static("application/json");
    let mut response = ([(header::CONTENT_TYPE, json)], body).into_response();
    let headers = response.headers_mut();
    for (name, value) in [(REQUEST_ID_HEADER, id.to_string()), (SERVER_TIMING, timing)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

fn server_timing(outcome: &Outcome) -> String {
    let Phases { queue_ms, acquire_ms, boot_ms, init_ms, exec_ms } = outcome.phases;
    let mut text = format!("queue;dur={queue_ms:.3}, acquire;dur={acquire_ms:.3}");
    let came_up = match outcome.start {
        Start::Cold => Some("boot"),
        Start::Restored => Some("restore"),
        Start::Warm => None,
    };
    // Writing to a String cannot fail.
    if let Some(name) = came_up {
        let _ = write!(text, ", {name};dur={boot_ms:.3}");
    }
    let _ = write!(text, ", init;dur={init_ms:.3}, exec;dur={exec_ms:.3}");
    text
}

fn trigger(headers: &HeaderMap) -> Trigger {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    match agent {
        Some(agent) if agent.starts_with(CLI_USER_AGENT_PREFIX) => Trigger::Cli,
        _ => Trigger::Http,
    }
}

/// The caller's trace context, if it looks like one; it becomes a variable of the function.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let plain = text.len() == TRACEPARENT_CHARS
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    plain.then(|| text.to_owned())
}
