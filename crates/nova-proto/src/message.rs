//! Messages: what a frame's payload means, by its type number.
use crate::frame::encode;
use crate::{CHUNK_MAX_BYTES, Frame, FrameError, Init, Ready, base64_bytes};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// Everything that travels. The numbers are the wire's `type` and never change meaning.
#[derive(Debug, Clone)]
pub enum Message {
    /// 1, to the guest: become this machine. Answered by [`Reply::Ready`] or [`Reply::Refused`].
    Init(Box<Init>),
    /// 2, to the guest: run one call. Answered by [`Reply::Done`] or [`Reply::Refused`].
    Exec(Exec),
    /// 3, to the host: the one answer to the request with the same id.
    Resp(Reply),
    /// 4, to the guest: are you there? Answered by [`Reply::Pong`].
    Ping,
    /// 5, to the guest: end everything and power off. Answered by [`Reply::Stopping`].
    Stop,
    /// 6, to the guest: the caller of the Exec or Export with the same id left; end it.
    Cancel,
    /// 7, to the host: log lines of the Exec with the same id.
    Log(Log),
    /// 8, to the host: a piece of what the Export with the same id asked for.
    Chunk(Chunk),
    /// 9, to the guest: the reader of that stream is ready for more.
    Credit(Credit),
    /// 10, to the guest after a snapshot restore: who you are now. Answered by [`Reply::Pong`].
    Reconfigure(Reconfigure),
    /// 11, to the guest of a build: send what is in [`crate::OUT_DIR`], as a tar in chunks, of which
    /// [`crate::CREDIT_BYTES`] may be under way without further leave. Answered behind the last chunk by
    /// [`Reply::Exported`], or by [`Reply::Refused`] at any point.
    Export,
}

/// One call of the function.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The call's id, kept through retries.
    pub request_id: String,
    /// Which try this is, from 1. The agent runs one (request id, attempt) at most once.
    pub attempt: u32,
    /// Time the function may take, milliseconds; then its process group is killed.
    pub timeout_ms: u64,
    /// W3C trace context for the function's environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The caller's payload: any JSON, passed through unparsed.
    pub input: Box<RawValue>,
}

/// The answer to a request. Exactly one per Init, Exec, Ping, Stop, Reconfigure and Export.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// To Init: the machine is set up.
    Ready(Ready),
    /// To Exec: it ran, well or badly.
    Done(ExecReport),
    /// To Ping and Reconfigure.
    Pong {},
    /// To Stop.
    Stopping {},
    /// To Export: everything was sent.
    Exported {},
    /// To anything that was not carried out.
    Refused(Refusal),
}

/// How a call ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecReport {
    /// The function's result, raw JSON (`null` is one); `None` when `error` says why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub output: Option<Box<RawValue>>,
    /// The function's failure. The guest itself is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FunctionError>,
    /// Where the time went inside the guest.
    pub phases: GuestPhases,
    /// True when log lines were dropped at [`crate::LOG_MAX_BYTES`].
    pub log_truncated: bool,
}

/// Durations inside the guest, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestPhases {
    /// Starting the function's process, where this call had to (where it stays: the first call).
    pub init_us: u64,
    /// Running the call.
    pub exec_us: u64,
}

/// A failure of the user's function, with a stable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionError {
    /// What kind of failure.
    pub kind: FunctionErrorKind,
    /// One or two sentences for the function's author, at most 8 KiB.
    pub message: String,
    /// The function's own account: what a `persistent` function answered under `error`, or the error
    /// object of a `lambda` runtime (`errorType`, `errorMessage`, `stackTrace`).
    /// At most [`ERROR_DETAIL_MAX_BYTES`] of JSON.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "bounded")]
    pub detail: Option<serde_json::Value>,
}

/// Most bytes of [`FunctionError::detail`] as JSON. A megabyte of the shortest values takes a hundred
/// megabytes of memory once it is parsed; what is larger is quoted in the message, in part.
pub const ERROR_DETAIL_MAX_BYTES: usize = 64 * 1024;

/// The stable codes of function failures (docs/errors.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionErrorKind {
    /// The process ended with a status other than 0.
    FunctionExited,
    /// The process was killed by a signal that Nova did not send.
    FunctionCrashed,
    /// The process could not be started (missing, not executable, wrong format), or a `lambda` runtime
    /// could not load the function.
    FunctionNotStarted,
    /// The function answered with an error of its own (`persistent`, `lambda`).
    FunctionFailed,
    /// It ran past its timeout and was killed.
    Timeout,
    /// The kernel killed it at its memory limit.
    OutOfMemory,
    /// Its stdout does not end in a JSON value, a line of the line protocol makes no sense, or
    /// the response of a `lambda` runtime is no JSON.
    InvalidOutput,
    /// Its result is over [`crate::PAYLOAD_MAX_BYTES`].
    OutputTooLarge,
    /// The caller left and the call was killed.
    Cancelled,
}

/// Why the agent did not carry out a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// What kind of refusal.
    pub kind: RefusalKind,
    /// What was wrong, for Nova's log.
    pub message: String,
}

/// Kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The peer speaks another protocol version.
    ProtocolMismatch,
    /// Exec before Init, or a second Init.
    WrongState,
    /// This (request id, attempt) was run already, or is running.
    Duplicate,
    /// All call slots are taken.
    Busy,
    /// The machine could not be set up: a mount, the network, a limit.
    SetupFailed,
    /// The message cannot be understood.
    Malformed,
}

/// A batch of log lines of one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// In the order they were written, at most [`crate::CHUNK_MAX_BYTES`] of text.
    pub lines: Vec<LogLine>,
}

/// One line that the function wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// Guest wall clock, milliseconds since the Unix epoch.
    pub time_unix_ms: u64,
    /// Where it was written.
    pub stream: LogStream,
    /// The text without its line end; invalid UTF-8 replaced.
    pub text: String,
}

/// Where a log line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output that is not the result.
    Stdout,
    /// Standard error.
    Stderr,
    /// Nova itself, for example the marker where a log was cut off.
    System,
}

/// A piece of a byte stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// At most [`CHUNK_MAX_BYTES`] bytes, as base64.
    #[serde(with = "base64_bytes")]
    pub data: Vec<u8>,
    /// True for the last piece.
    pub last: bool,
}

/// Leave to send more of a byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credit {
    /// Bytes granted on top of what was granted before.
    pub bytes: u32,
}

/// What a restored guest must change before it may run anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconfigure {
    /// Its name from now on.
    pub hostname: String,
    /// The host's wall clock, nanoseconds since the Unix epoch.
    pub clock_unix_ns: u64,
    /// Fresh randomness for the kernel.
    #[serde(with = "base64_bytes")]
    pub entropy: Vec<u8>,
}

/// Why a frame is not a message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The type number is not one of this protocol version.
    #[error("unknown message type {0}")]
    UnknownType(u8),
    /// The payload does not have the shape of its type.
    #[error("the payload of a message of type {kind} is malformed")]
    Malformed {
        /// The frame's type number.
        kind: u8,
        /// What the JSON parser found.
        #[source]
        source: serde_json::Error,
    },
    /// A chunk holds more than [`CHUNK_MAX_BYTES`].
    #[error("a chunk of {length} bytes is over the limit of {CHUNK_MAX_BYTES}")]
    ChunkTooLarge {
        /// Its size, bytes.
        length: usize,
    },
}

impl Message {
    /// The wire's type number.
    pub fn kind(&self) -> u8 {
        match self {
            Message::Init(_) => 1,
            Message::Exec(_) => 2,
            Message::Resp(_) => 3,
            Message::Ping => 4,
            Message::Stop => 5,
            Message::Cancel => 6,
            Message::Log(_) => 7,
            Message::Chunk(_) => 8,
            Message::Credit(_) => 9,
            Message::Reconfigure(_) => 10,
            Message::Export => 11,
        }
    }

    /// The bytes of this message as a frame with correlation id `id`.
    pub fn encode(&self, id: u64) -> Result<Vec<u8>, FrameError> {
        let kind = self.kind();
        match self {
            Message::Init(init) => encode(kind, id, init),
            Message::Exec(exec) => encode(kind, id, exec),
            Message::Resp(reply) => encode(kind, id, reply),
            Message::Ping | Message::Stop | Message::Cancel | Message::Export => {
                encode(kind, id, &Empty {})
            }
            Message::Log(log) => encode(kind, id, log),
            Message::Chunk(chunk) => encode(kind, id, chunk),
            Message::Credit(credit) => encode(kind, id, credit),
            Message::Reconfigure(reconfigure) => encode(kind, id, reconfigure),
        }
    }

    /// Reads a frame's payload as the message its type announces.
    pub fn decode(frame: &Frame) -> Result<Self, MessageError> {
        let message = match frame.kind {
            1 => Message::Init(parse(frame)?),
            2 => Message::Exec(parse(frame)?),
            3 => Message::Resp(parse(frame)?),
            4 => parse::<Empty>(frame).map(|_| Message::Ping)?,
            5 => parse::<Empty>(frame).map(|_| Message::Stop)?,
            6 => parse::<Empty>(frame).map(|_| Message::Cancel)?,
            7 => Message::Log(parse(frame)?),
            8 => {
                let chunk: Chunk = parse(frame)?;
                if chunk.data.len() > CHUNK_MAX_BYTES {
                    return Err(MessageError::ChunkTooLarge { length: chunk.data.len() });
                }
                Message::Chunk(chunk)
            }
            9 => Message::Credit(parse(frame)?),
            10 => Message::Reconfigure(parse(frame)?),
            11 => parse::<Empty>(frame).map(|_| Message::Export)?,
            other => return Err(MessageError::UnknownType(other)),
        };
        Ok(message)
    }
}

/// The payload of messages that carry nothing: `{}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

/// A field that is there has a value, even where that value is JSON's `null`. Without this, serde
/// reads a function's result of `null` as no result at all.
fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// A value that is looked at only when its text is within [`ERROR_DETAIL_MAX_BYTES`].
fn bounded<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<serde_json::Value>, D::Error> {
    let text = Box::<RawValue>::deserialize(deserializer)?;
    let length = text.get().len();
    if length > ERROR_DETAIL_MAX_BYTES {
        return Err(D::Error::custom(format_args!("a detail of {length} bytes")));
    }
    serde_json::from_str(text.get()).map(Some).map_err(D::Error::custom)
}

fn parse<'a, T: Deserialize<'a>>(frame: &'a Frame) -> Result<T, MessageError> {
    serde_json::from_slice(frame.payload())
        .map_err(|source| MessageError::Malformed { kind: frame.kind, source })
}
