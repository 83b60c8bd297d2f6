//! A call of a function: on its way down an [`Invocation`], on its way up an [`Outcome`], and what
//! is remembered of it an [`InvocationRecord`].
use crate::{FunctionError, FunctionName, LogStream};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use uuid::Uuid;

/// The id of one call, made at the edge; UUIDv7, so that ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub Uuid);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What asked for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// `POST /functions/{name}/invoke`.
    Http,
    /// The same, by `nova invoke`.
    Cli,
}

/// One call to be made.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Its id, kept through retries.
    pub request_id: RequestId,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// The function to run.
    pub function: FunctionName,
    /// What asked for it.
    pub trigger: Trigger,
    /// The payload: any JSON, never parsed on its way to the guest.
    pub payload: Box<RawValue>,
    /// W3C trace context of the caller.
    pub traceparent: Option<String>,
}

/// How a call got its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// A VM was booted for it.
    Cold,
    /// A VM was waiting.
    Warm,
    /// A VM was restored from a snapshot.
    Restored,
}

/// Where the time of a call went, milliseconds with fractions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Waiting for admission: other calls had every VM the function may have.
    pub queue_ms: f64,
    /// Getting a VM, a boot included.
    pub acquire_ms: f64,
    /// Booting the VM, where this call had to.
    pub boot_ms: f64,
    /// Starting the function's process in the guest.
    pub init_ms: f64,
    /// Running the call in the guest.
    pub exec_ms: f64,
}

/// A call that ran: Nova got an answer, good or bad.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The call.
    pub request_id: RequestId,
    /// The function's result; `None` when `error` says why.
    pub output: Option<Box<RawValue>>,
    /// The function's failure.
    pub error: Option<FunctionError>,
    /// From the edge to the answer, milliseconds.
    pub duration_ms: f64,
    /// How it got its VM.
    pub start: Start,
    /// The version that ran.
    pub version: u64,
    /// Where the time went.
    pub phases: Phases,
}

/// What is remembered of a call. No payload, no output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InvocationRecord {
    /// The call.
    pub request_id: RequestId,
    /// Which try.
    pub attempt: u32,
    /// The function's name at the time.
    pub function: FunctionName,
    /// The version that ran.
    pub version: u64,
    /// What asked for it.
    pub trigger: Trigger,
    /// How it got its VM; `None` when it never got one.
    pub start: Option<Start>,
    /// From the edge to the answer, milliseconds.
    pub duration_ms: f64,
    /// Where the time went.
    pub phases: Phases,
    /// Stable code of the failure, the function's or Nova's; `None` for success.
    pub error_code: Option<String>,
    /// Its message.
    pub error_message: Option<String>,
    /// The node that ran it.
    pub node: String,
    /// When it arrived.
    pub created_at: DateTime<Utc>,
}

/// One stored log line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// The function's name at the time.
    pub function: FunctionName,
    /// The call that wrote it.
    pub request_id: RequestId,
    /// Which try.
    pub attempt: u32,
    /// Position within the call, from 0.
    pub sequence: u32,
    /// When it was written, by the guest's clock.
    pub time: DateTime<Utc>,
    /// Where it was written.
    pub stream: LogStream,
    /// The line.
    pub text: String,
}
