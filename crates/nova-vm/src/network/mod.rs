//! The network of guests: a namespace each, made ahead of need, cut off from all but what the
//! function's policy opens.
use crate::lease::Lease;
use crate::owner::Owner;
use crate::slots::{Slot, SlotAllocator};
use nova_domain::{Limits, NetworkPolicy};
use nova_proto::NetworkSetup;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// How a guest is attached inside its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// Firecracker: a TAP that the slot's `uid_root` may open, behind NAT in the namespace.
    Tap,
    /// Containers: the guest's address on `eth0` in the namespace, set up already.
    Interface,
}

/// What the operator may set.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// How guests are attached.
    pub attachment: Attachment,
    /// Resolvers that guests may ask; `None` takes those of the host's resolv.conf.
    pub resolvers: Option<Vec<Ipv4Addr>>,
    /// Slots kept ready.
    pub stock: usize,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A step failed.
    #[error("{what}: {problem}")]
    Failed {
        /// The thing that was worked on.
        what: String,
        /// What went wrong and what to try.
        problem: String,
    },
}

/// The bridge, the firewall and the stock of slots of one daemon.
#[derive(Debug)]
pub struct Network {
    slots: SlotAllocator,
}

impl Network {
    /// Makes bridge and firewall, and starts to make slots ahead.
    pub async fn start(
        owner: Owner,
        lease: &Lease,
        config: NetworkConfig,
    ) -> Result<Self, NetworkError> {
        let _ = (owner, config);
        Ok(Self { slots: SlotAllocator::new(lease.space()) })
    }

    /// Where slots come from, for guests without a network: they need their uids all the same.
    pub fn slots(&self) -> &SlotAllocator {
        &self.slots
    }

    /// A namespace for a guest with this policy. `limits` bound the bandwidth of
    /// [`Attachment::Interface`]; Firecracker has limiters of its own.
    pub async fn take(
        &self,
        policy: &NetworkPolicy,
        limits: &Limits,
    ) -> Result<NetworkSlot, NetworkError> {
        let _ = (policy, limits);
        Err(NetworkError::Failed { what: "network".into(), problem: "not yet".into() })
    }

    /// Removes all slots, the firewall and the bridge.
    pub async fn shutdown(self) {}
}

/// A guest's network namespace and its slot. Dropping it removes all of it; drop it only when the
/// guest's last process is gone.
#[derive(Debug)]
pub struct NetworkSlot {
    slot: Slot,
    netns_name: String,
    guest: Option<NetworkSetup>,
}

impl NetworkSlot {
    /// The TAP in the namespace, for Firecracker.
    pub const TAP: &'static str = "tap0";
    /// The guest's MAC address on the TAP: the same in each, every guest has its own namespace.
    pub const GUEST_MAC: &'static str = "06:00:ac:1d:ff:02";

    /// The slot: its uids are those to run the guest under.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Name of the namespace.
    pub fn netns_name(&self) -> &str {
        &self.netns_name
    }

    /// Path of the namespace, for the jailer and the OCI runtime.
    pub fn netns_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.netns_name)
    }

    /// What the guest is to be told at `Init`: the address inside a microVM, or for a container
    /// what it was given already (only its resolvers are left to write). `None` without a network.
    pub fn guest(&self) -> Option<&NetworkSetup> {
        self.guest.as_ref()
    }
}
