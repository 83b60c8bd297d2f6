//! The bodies of Firecracker's API that Nova uses, as types. Field names are Firecracker's.
use serde::{Deserialize, Serialize};

/// `PUT /machine-config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct MachineConfig {
    /// Virtual CPUs, 1 to 32.
    pub(crate) vcpu_count: u32,
    /// Memory of the guest, MiB.
    pub(crate) mem_size_mib: u32,
    /// Hyperthreads as vCPUs: off, as a sibling may leak what the other does.
    pub(crate) smt: bool,
}

/// `PUT /boot-source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct BootSource {
    pub(crate) kernel_image_path: String,
    pub(crate) initrd_path: String,
    pub(crate) boot_args: String,
}

/// `PUT /drives/{drive_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Drive {
    pub(crate) drive_id: String,
    pub(crate) path_on_host: String,
    pub(crate) is_root_device: bool,
    pub(crate) is_read_only: bool,
    pub(crate) io_engine: IoEngine,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate_limiter: Option<RateLimiter>,
}

/// How Firecracker reads a drive's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum IoEngine {
    /// Plain system calls. `Async` (io_uring) adds up to 110 ms per drive at start.
    Sync,
}

/// `PUT /network-interfaces/{iface_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NetworkInterface {
    pub(crate) iface_id: String,
    pub(crate) host_dev_name: String,
    pub(crate) guest_mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rx_rate_limiter: Option<RateLimiter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tx_rate_limiter: Option<RateLimiter>,
}

/// `PUT /vsock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Vsock {
    pub(crate) guest_cid: u32,
    pub(crate) uds_path: String,
}

/// Bounds on a device: bytes and operations, each a token bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RateLimiter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth: Option<TokenBucket>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ops: Option<TokenBucket>,
}

/// `size` tokens per `refill_time` milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TokenBucket {
    pub(crate) size: u64,
    pub(crate) refill_time: u64,
}

impl RateLimiter {
    /// A limiter for `bytes` and `operations` per second, 0 being unlimited; `None` without a limit.
    pub(crate) fn per_second(bytes: u64, operations: u64) -> Option<Self> {
        let bucket = |size| (size != 0).then_some(TokenBucket { size, refill_time: 1000 });
        let limiter = Self { bandwidth: bucket(bytes), ops: bucket(operations) };
        (limiter.bandwidth.is_some() || limiter.ops.is_some()).then_some(limiter)
    }
}

/// `PUT /actions`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct InstanceAction {
    pub(crate) action_type: Action,
}

/// What `PUT /actions` does.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) enum Action {
    /// Power on.
    InstanceStart,
}

/// The answer to `GET /`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct InstanceInfo {
    pub(crate) vmm_version: String,
}

/// The body of a refused request.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Fault {
    pub(crate) fault_message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_zero_is_no_limiter() {
        assert_eq!(RateLimiter::per_second(0, 0), None);
        let limiter = RateLimiter::per_second(1_000_000, 0).unwrap();
        assert_eq!(
            serde_json::to_value(limiter).unwrap(),
            serde_json::json!({"bandwidth": {"size": 1_000_000, "refill_time": 1000}})
        );
    }
}
