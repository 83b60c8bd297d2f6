//! Why a call got no answer. A function that fails is not among these: that is an
//! [`nova_domain::Outcome`] with an error, from a healthy VM.
use nova_domain::{FunctionName, Mode, RuntimeId};
use nova_store::{StoreError, VaultError};
use nova_vm::images::ManifestError;
use nova_vm::{BootError, ExecError};
use std::sync::Arc;

/// Seconds after which a caller who was turned away for lack of capacity may come back. VMs free
/// themselves call by call, so there is no better estimate than "soon".
pub const RETRY_AFTER_S: u32 = 1;

/// Why a guest was not booted.
#[derive(Debug, thiserror::Error)]
pub enum BootFailure {
    /// What the guest is to be told could not be put together.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The driver failed.
    #[error(transparent)]
    Driver(#[from] BootError),
    /// The daemon is shutting down and gave the boot up.
    #[error("the boot was given up because nova is shutting down")]
    GivenUp,
}

/// Why a function cannot be set up in a guest: something that it refers to is missing or unusable.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Its runtime has no image on this host.
    #[error("runtime {0} is not installed; install it with `nova runtime add {0}`")]
    RuntimeNotInstalled(RuntimeId),
    /// Its runtime has no command for its mode.
    #[error("runtime {runtime} has no mode {mode:?}; `nova runtime list` shows the modes it has")]
    ModeNotSupported {
        /// The runtime.
        runtime: RuntimeId,
        /// The mode.
        mode: Mode,
    },
    /// Its code is source, and the build of it is not done.
    #[error("it is being built; `nova get` shows when it is ready")]
    BuildPending,
    /// Its code is source that could not be built.
    #[error("it was not built: {0}")]
    BuildFailed(String),
    /// A secret is missing, or may not be used, or does not open.
    #[error(transparent)]
    Secret(#[from] VaultError),
    /// This build is faulty.
    #[error(transparent)]
    Layers(#[from] ManifestError),
    /// A secret's value cannot be a variable, or all of them together are too long.
    #[error("variable {variable}: {problem}")]
    Variable {
        /// The variable.
        variable: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

/// Why there is no [`nova_domain::Outcome`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvokeError {
    /// There is no function of that name.
    #[error("function {0} does not exist; `nova list` shows those that do")]
    FunctionNotFound(FunctionName),
    /// The payload is over the limit.
    #[error("the payload of {bytes} bytes is over the limit of {limit}")]
    PayloadTooLarge {
        /// Its size.
        bytes: usize,
        /// [`nova_proto::PAYLOAD_MAX_BYTES`].
        limit: usize,
    },
    /// As many callers as may wait are waiting already.
    #[error("function {function} has {waiting} calls waiting already; try again later")]
    Saturated {
        /// The function.
        function: FunctionName,
        /// Callers that wait.
        waiting: usize,
    },
    /// The payloads of all calls in flight take as much memory as they may.
    #[error("the payloads of all calls in flight take {held_mb} MiB already; try again later")]
    PayloadsFull {
        /// What they take.
        held_mb: u64,
    },
    /// No VM became free within the function's timeout.
    #[error(
        "no microVM became free for function {function} within {waited_ms} ms; try again later"
    )]
    AcquireTimeout {
        /// The function.
        function: FunctionName,
        /// How long the call waited.
        waited_ms: u64,
    },
    /// One VM of this function is larger than all the memory that VMs may use on this host.
    #[error(
        "function {function} needs {memory_mb} MiB, more than the {limit_mb} MiB that this host \
         gives to microVMs; lower memory_mb"
    )]
    ExceedsHostMemory {
        /// The function.
        function: FunctionName,
        /// What one VM of it takes, the backend's overhead included.
        memory_mb: u64,
        /// What there is.
        limit_mb: u64,
    },
    /// This host cannot run guests.
    #[error("backend unavailable: {0}")]
    BackendUnavailable(String),
    /// The guest did not come up, or could not be set up.
    #[error("function {function} could not be started: {cause}")]
    BootFailed {
        /// The function.
        function: FunctionName,
        /// Why not.
        cause: Arc<BootFailure>,
    },
    /// The function refers to something that is not there; found before any boot.
    #[error("function {function} cannot run: {cause}")]
    Setup {
        /// The function.
        function: FunctionName,
        /// What is missing.
        cause: Arc<SetupError>,
    },
    /// The guest gave no answer. The call may have run; it is not run again.
    #[error("function {function}: {cause}")]
    GuestLost {
        /// The function.
        function: FunctionName,
        /// What is known.
        cause: Arc<ExecError>,
    },
    /// The daemon takes no more calls.
    #[error("nova is shutting down; try again later")]
    ShuttingDown,
    /// The store was needed and failed.
    #[error("{0}")]
    Store(Arc<StoreError>),
}

impl InvokeError {
    /// The stable code of docs/errors.md.
    pub fn code(&self) -> &'static str {
        match self {
            Self::FunctionNotFound(_) => "function_not_found",
            Self::PayloadTooLarge { .. } => "payload_too_large",
            Self::Saturated { .. } | Self::PayloadsFull { .. } => "saturated",
            Self::AcquireTimeout { .. } => "acquire_timeout",
            Self::ExceedsHostMemory { .. } => "exceeds_host_memory",
            Self::BackendUnavailable(_) => "backend_unavailable",
            Self::BootFailed { cause, .. } => match cause.as_ref() {
                BootFailure::Setup(error) => error.code(),
                BootFailure::Driver(BootError::Unavailable(_)) => "backend_unavailable",
                BootFailure::Driver(_) => "boot_failed",
                BootFailure::GivenUp => "shutting_down",
            },
            Self::Setup { cause, .. } => cause.code(),
            Self::GuestLost { .. } => "guest_lost",
            Self::ShuttingDown => "shutting_down",
            Self::Store(_) => "store_unavailable",
        }
    }

    /// Whether there is nothing to run yet: the build of the function is not done, or failed.
    pub(crate) fn is_of_a_build(&self) -> bool {
        let Self::Setup { cause, .. } = self else { return false };
        matches!(**cause, SetupError::BuildPending | SetupError::BuildFailed(_))
    }

    /// Seconds after which the same call may succeed, for `Retry-After`; `None` where waiting does
    /// not help.
    pub fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::Setup { cause, .. } if matches!(**cause, SetupError::BuildPending) => {
                Some(RETRY_AFTER_S)
            }
            Self::Saturated { .. }
            | Self::PayloadsFull { .. }
            | Self::AcquireTimeout { .. }
            | Self::ShuttingDown
            | Self::Store(_) => Some(RETRY_AFTER_S),
            Self::FunctionNotFound(_)
            | Self::PayloadTooLarge { .. }
            | Self::ExceedsHostMemory { .. }
            | Self::BackendUnavailable(_)
            | Self::BootFailed { .. }
            | Self::Setup { .. }
            | Self::GuestLost { .. } => None,
        }
    }
}

impl SetupError {
    /// The stable code of docs/errors.md.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RuntimeNotInstalled(_) => "runtime_not_installed",
            Self::ModeNotSupported { .. } => "mode_not_supported",
            Self::BuildPending => "build_pending",
            Self::BuildFailed(_) => "build_failed",
            Self::Secret(VaultError::NotFound(_)) => "secret_missing",
            Self::Secret(VaultError::NotAllowed { .. }) => "secret_forbidden",
            Self::Secret(VaultError::Store(_)) => "store_unavailable",
            Self::Secret(_) | Self::Variable { .. } => "secret_unusable",
            Self::Layers(_) => "internal",
        }
    }
}
