//! The wire format between the host and the guest agent.
//!
//! A connection (vsock port 9999, or a Unix socket in the container backend) carries *frames*:
//!
//! ```text
//!  0        4                                     4 + length
//!  ┌────────┬──────────────────────────────────────────┐
//!  │ length │ {"type":2,"id":7,"payload":{...}}        │
//!  │ u32 BE │ UTF-8 JSON, at most FRAME_MAX_BYTES      │
//!  └────────┴──────────────────────────────────────────┘
//! ```
//! The envelope is written exactly so: these three fields in this order, no blank space between them.
//!
//! `type` says which [`Message`] the payload holds, `id` matches replies, log lines and chunks to the
//! request that caused them. This crate is pure: it neither reads sockets nor clocks, so both ends
//! share one decoder and the property tests can feed it garbage. Everything the peer sends is hostile:
//! a length is checked before a byte is allocated, and user payloads stay raw JSON that is never
//! re-encoded on its way through.
#![forbid(unsafe_code)]

mod base64_bytes;
mod frame;
mod message;
mod setup;

pub use frame::{Frame, FrameDecoder, FrameError, body_length};
pub use message::{
    Chunk, Credit, ERROR_DETAIL_MAX_BYTES, Exec, ExecReport, FunctionError, FunctionErrorKind,
    GuestPhases, Log, LogLine, LogStream, Message, MessageError, Reconfigure, Refusal, RefusalKind,
    Reply,
};
pub use setup::{
    CgroupSetup, FunctionSetup, Init, Mode, NetworkSetup, OomCounter, OwnImage, Ready, Rootfs,
    SecretFile,
};

/// The version of this protocol. Both sides send theirs in `Init` and `Ready`; they must be equal.
pub const PROTOCOL_VERSION: u32 = 1;

/// The vsock port that the agent listens on inside a microVM.
pub const AGENT_VSOCK_PORT: u32 = 9999;

/// The largest user payload, in or out: 6 MiB, the limit of AWS Lambda that clients already know.
pub const PAYLOAD_MAX_BYTES: usize = 6 * 1024 * 1024;

/// The largest frame body: one whole payload and 64 KiB of envelope around it.
pub const FRAME_MAX_BYTES: usize = PAYLOAD_MAX_BYTES + 64 * 1024;

/// The largest piece of a byte stream in one [`Chunk`], before base64.
pub const CHUNK_MAX_BYTES: usize = 64 * 1024;

/// The directory of a build's guest that its result is written to, and that [`Message::Export`] sends.
pub const OUT_DIR: &str = "/out";

/// How many bytes of chunks may be in flight per request before the reader grants more [`Credit`].
pub const CREDIT_BYTES: usize = 256 * 1024;

/// The most log text that one call may produce before it is cut off with a marker.
pub const LOG_MAX_BYTES: usize = 1024 * 1024;
