//! What can be seen of the engine from outside: plain data, made at the moment it is asked for.
use nova_domain::{FunctionName, RuntimeId};
use nova_vm::VmId;
use std::collections::BTreeMap;

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VmPhase {
    /// On its way up.
    Booting,
    /// Up, without a call.
    Idle,
    /// Running at least one call.
    Busy,
    /// On its way down; what it had on the host is not yet free.
    Stopping,
}

impl VmPhase {
    /// All of them, in the order of a VM's life.
    pub const ALL: [Self; 4] = [Self::Booting, Self::Idle, Self::Busy, Self::Stopping];

    /// The name that the API shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
        }
    }
}

/// One VM.
#[derive(Debug, Clone)]
pub struct VmStats {
    /// Its id.
    pub id: VmId,
    /// The function it is for.
    pub function: FunctionName,
    /// Where it is in its life.
    pub phase: VmPhase,
    /// Since its boot began, milliseconds.
    pub age_ms: u64,
    /// What admission counts for it, MiB: `memory_mb` and the backend's overhead.
    pub memory_mb: u64,
    /// Calls that it runs now.
    pub calls: u32,
}

/// The pool at one moment.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Every VM from booting to stopped, oldest first.
    pub vms: Vec<VmStats>,
    /// Callers that wait for a VM.
    pub waiting: usize,
    /// What admission counts for all VMs and for builds, MiB.
    pub memory_mb: u64,
    /// The limit of that.
    pub memory_max_mb: u64,
    /// The limit of the number of VMs.
    pub vms_max: u32,
    /// True once the engine takes no more calls.
    pub draining: bool,
}

impl Stats {
    /// VMs in that phase.
    pub fn count(&self, phase: VmPhase) -> usize {
        self.vms.iter().filter(|vm| vm.phase == phase).count()
    }
}

/// How a call ended, as coarse as a metric's label may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// With a result.
    Success,
    /// With an error of the function.
    FunctionError,
    /// Past its timeout.
    Timeout,
    /// Turned away for lack of capacity.
    Rejected,
    /// Nova failed.
    Failed,
    /// The caller went away.
    Cancelled,
}

impl Status {
    /// All of them; a status's place in here is its index.
    pub const ALL: [Self; 6] = [
        Self::Success,
        Self::FunctionError,
        Self::Timeout,
        Self::Rejected,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The value of the label `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::FunctionError => "function_error",
            Self::Timeout => "timeout",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A histogram at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HistogramSnapshot {
    /// Upper bound of each bucket in milliseconds and how many values lie at or below it
    /// (cumulative, as Prometheus wants it). Values above the last bound are in `count` only.
    pub buckets: Vec<(f64, u64)>,
    /// All values.
    pub count: u64,
    /// Their sum, milliseconds.
    pub sum_ms: f64,
}

/// What was counted for one function since the daemon started.
#[derive(Debug, Clone)]
pub struct FunctionMetrics {
    /// The function.
    pub function: FunctionName,
    /// Its runtime.
    pub runtime: RuntimeId,
    /// Calls by how they ended; every status is there.
    pub invocations: BTreeMap<Status, u64>,
    /// Calls that a VM was booted for.
    pub cold_starts: u64,
    /// Calls that found a VM waiting.
    pub warm_starts: u64,
    /// From the edge to the answer.
    pub duration: HistogramSnapshot,
}

/// Everything that is counted, at one moment.
#[derive(Debug, Clone, Default)]
pub struct MetricsSnapshot {
    /// By function, by name; a deleted function's counts are gone.
    pub functions: Vec<FunctionMetrics>,
    /// VMs that were booted.
    pub vms_created: u64,
    /// VMs that died by themselves.
    pub vms_crashed: u64,
    /// Boots that failed.
    pub boots_failed: u64,
    /// Boots that succeeded.
    pub boot_duration: HistogramSnapshot,
    /// VMs by phase; every phase is there.
    pub pool: BTreeMap<VmPhase, u64>,
    /// Calls between the edge and their answer.
    pub active_requests: u64,
    /// Invocation records that were lost because the store was away for too long.
    pub records_dropped: u64,
}
