//! What bounds the engine. Everything it holds is counted against one of these.
use std::time::Duration;

/// How long a VM waits for its next call by default before it is stopped.
pub const IDLE_TTL: Duration = Duration::from_secs(60);

/// Callers of one function that may wait by default. Each holds its payload, 6 MiB at most, so this
/// bounds what one function can make the daemon keep; a thousand callers are already many seconds
/// of work for any host.
pub const QUEUE_MAX_PER_FUNCTION: usize = 1000;

/// Boots at the same time by default, per processor: a boot is mostly processor time, and more at
/// once only makes each of them slower.
pub const BOOTS_MAX_PER_CPU: u32 = 4;

/// The engine's limits.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Most VMs on this host, from booting to stopped.
    pub vms_max: u32,
    /// Most memory of all VMs, MiB, the backend's overhead included.
    pub memory_max_mb: u64,
    /// Most VMs that boot at the same time.
    pub boots_max: u32,
    /// How long a VM without calls is kept.
    pub idle_ttl: Duration,
    /// Most callers of one function that wait for a VM; the next is told to come back later.
    pub queue_max_per_function: usize,
    /// The name of this node, part of every record.
    pub node: String,
}

impl EngineConfig {
    /// The defaults for a host with this much memory for VMs and this many processors.
    pub fn new(node: String, memory_max_mb: u64, cpus: u32) -> Self {
        Self {
            vms_max: VMS_MAX,
            memory_max_mb,
            boots_max: BOOTS_MAX_PER_CPU * cpus.max(1),
            idle_ttl: IDLE_TTL,
            queue_max_per_function: QUEUE_MAX_PER_FUNCTION,
            node,
        }
    }
}

/// VMs on one host by default: well below the 4090 network slots that a daemon has.
const VMS_MAX: u32 = 2000;
