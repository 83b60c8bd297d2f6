//! The two traits between the engine and a backend, and the data that crosses them.
//!
//! A driver turns a [`VmSpec`] into a running guest or leaves nothing behind; a [`MicroVm`] runs
//! calls until it is stopped. Dropping a `MicroVm` without [`MicroVm::stop`] must not leak either:
//! whatever the boot created removes itself.
use async_trait::async_trait;
use bytes::Bytes;
use nova_domain::{CodeHash, FunctionName, Limits, NetworkPolicy, RequestId};
use nova_proto::{ExecReport, FunctionSetup, LogLine};
use serde_json::value::RawValue;
use std::fmt;
use tokio::sync::mpsc;

/// Names one guest on this host: 12 hex digits, unique for the life of a data directory. Part of
/// file, cgroup and namespace names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmId(String);

impl VmId {
    /// From the tail of a random 64-bit number.
    pub fn from_random(random: u64) -> Self {
        Self(format!("{:012x}", random & 0xffff_ffff_ffff))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A guest to be made.
#[derive(Debug, Clone)]
pub struct VmSpec {
    /// Its id, chosen by the pool.
    pub id: VmId,
    /// The function it is for, to label what is made.
    pub function: FunctionName,
    /// Digest of the runtime image.
    pub image_digest: String,
    /// The code to mount at `/code`.
    pub code_hash: CodeHash,
    /// The layers to mount at `/opt`, as one archive; `None` where there are none.
    pub layers_hash: Option<CodeHash>,
    /// The limit of the function's cgroup, MiB. The driver adds its own overhead.
    pub memory_mb: u32,
    /// Bounds on devices and CPUs.
    pub limits: Limits,
    /// What the guest may reach.
    pub network: NetworkPolicy,
    /// What the agent is told to run.
    pub setup: FunctionSetup,
}

/// One call for a guest.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// The call's id, kept through retries.
    pub request_id: RequestId,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// Time the function may take, milliseconds; the agent enforces it.
    pub timeout_ms: u64,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The payload.
    pub input: Box<RawValue>,
}

/// Processes and threads of a function at most, on every backend. Enough for thread pools of any
/// runtime, few enough that a fork bomb is stopped in a guest of 64 MiB.
pub(crate) const FUNCTION_PIDS_MAX: u32 = 1024;

/// Where log lines of a running call go. Bounded: a guest that writes faster than the host reads is
/// held back, never buffered without end.
pub type EventSink = mpsc::Sender<LogLine>;

/// Why no guest came up. Everything made on the way is gone again.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The backend cannot run here, or was chosen as `none`.
    #[error("backend unavailable: {0}")]
    Unavailable(String),
    /// Something that the guest needs is not there or not readable.
    #[error("{what}: {problem}")]
    Artifact {
        /// The thing, for example `runtime image python`.
        what: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A step of the boot failed.
    #[error("boot failed while {phase}: {problem}")]
    Failed {
        /// The step, for example `configuring the drives`.
        phase: &'static str,
        /// The cause, with the end of the guest's console where that helps.
        problem: String,
    },
    /// The guest did not answer in time.
    #[error("guest did not answer within {timeout_ms} ms ({phase}); {console}")]
    Timeout {
        /// What was waited for.
        phase: &'static str,
        /// How long was waited.
        timeout_ms: u64,
        /// How the guest's console ends, in words.
        console: String,
    },
}

/// Why a call got no answer. The guest is not to be used again.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The guest died or closed the connection after the call was sent: it may have run.
    #[error("the guest was lost during the call: {0}")]
    Lost(String),
    /// The agent refused the call.
    #[error("the guest refused the call: {0}")]
    Refused(String),
    /// The agent broke the protocol.
    #[error("the guest broke the protocol: {0}")]
    Protocol(String),
    /// The agent did not answer although the timeout and its grace have passed.
    #[error("the guest did not answer within {0} ms after the timeout")]
    Silent(u64),
}

/// Makes guests.
#[async_trait]
pub trait VmDriver: Send + Sync + 'static {
    /// The backend's name: `firecracker`, `container`, `none`.
    fn backend(&self) -> &'static str;

    /// Memory that a guest costs on top of its `memory_mb`, MiB: measured, and counted by admission.
    fn overhead_mb(&self, memory_mb: u32) -> u32;

    /// Boots a guest to the point where it answers. Dropping the future undoes everything.
    async fn boot(&self, spec: VmSpec) -> Result<Box<dyn MicroVm>, BootError>;
}

/// One running guest.
#[async_trait]
pub trait MicroVm: Send + Sync + 'static {
    /// Its id.
    fn id(&self) -> &VmId;

    /// Runs one call; several at once where the function allows it. Log lines arrive on `events`
    /// while it runs. Dropping the future cancels the call in the guest.
    async fn exec(&self, request: ExecRequest, events: EventSink) -> Result<ExecReport, ExecError>;

    /// What a build has written to [`nova_proto::OUT_DIR`], as the tar that its guest makes of it: at most
    /// `limit` bytes, and hostile like any upload. Only guests with an `out_mb` have that.
    async fn export(&self, limit: usize) -> Result<Vec<u8>, ExecError> {
        Err(ExecError::Refused(format!("this guest cannot send a result of up to {limit} bytes")))
    }

    /// After the future of an [`exec`](Self::exec) was dropped: resolves to true once the guest has
    /// ended every cancelled call and is as good as before, to false when it does not in time. A
    /// guest that cannot tell is not to be used again.
    async fn settled(&self) -> bool {
        false
    }

    /// Resolves when the guest has died by itself, with what is known of why.
    async fn died(&self) -> String;

    /// Ends the guest and removes everything that it had on the host. Returns when all is gone.
    async fn stop(self: Box<Self>);
}

/// Where a driver gets a function's code from, by hash.
#[async_trait]
pub trait CodeSource: Send + Sync + 'static {
    /// The canonical archive (tar) with this hash.
    async fn fetch(&self, hash: &CodeHash) -> std::io::Result<Bytes>;
}
