//! A guest's network as the drivers hold it: one value that owns the namespace and the slot.
use super::guest::{self, Common};
use super::remover::Job;
use super::{NetworkError, namespace};
use crate::slots::{SLOTS_MAX, Slot, SlotAllocator};
use nova_domain::{Limits, NetworkPolicy};
use nova_proto::NetworkSetup;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// A guest's network namespace and its slot. Dropping it removes all of it; drop it only when the
/// guest's last process is gone.
#[derive(Debug)]
pub struct NetworkSlot {
    /// There until `drop` hands it to the remover.
    slot: Option<Slot>,
    netns_name: String,
    guest: NetworkSetup,
    remover: Sender<Job>,
}

impl NetworkSlot {
    /// The TAP in the namespace, for Firecracker.
    pub const TAP: &'static str = guest::TAP;
    /// The guest's hardware address on the TAP: the same in each, every guest has its own
    /// namespace.
    pub const GUEST_MAC: &'static str = "06:00:ac:1d:ff:02";

    /// The slot: its uids are those to run the guest under.
    pub fn slot(&self) -> &Slot {
        self.slot.as_ref().expect("only drop takes the slot")
    }

    /// Name of the namespace.
    pub fn netns_name(&self) -> &str {
        &self.netns_name
    }

    /// Path of the namespace, for the jailer and the OCI runtime.
    pub fn netns_path(&self) -> PathBuf {
        namespace::path(&self.netns_name)
    }

    /// What the guest is to be told at `Init`: the address inside a microVM, or for a container
    /// what it was given already (only its resolvers are left to write).
    pub fn guest(&self) -> Option<&NetworkSetup> {
        Some(&self.guest)
    }
}

impl Drop for NetworkSlot {
    fn drop(&mut self) {
        // Without a remover the network has been shut down, and its sweep has removed this too.
        if let Some(slot) = self.slot.take() {
            let _ = self.remover.send(Job::Remove(slot));
        }
    }
}

/// Makes namespaces. Blocks for milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Builder {
    pub(super) common: Arc<Common>,
    pub(super) slots: SlotAllocator,
    pub(super) remover: Sender<Job>,
}

impl Builder {
    /// A namespace with the default policy.
    pub(super) fn build(&self) -> Result<NetworkSlot, NetworkError> {
        let slot = self.slots.take().ok_or(NetworkError::Exhausted(SLOTS_MAX))?;
        // From here on whatever is made is removed by the drop of this value.
        let made = NetworkSlot {
            netns_name: self.common.owner.netns_name(slot.number()),
            guest: self.common.setup(&slot),
            slot: Some(slot),
            remover: self.remover.clone(),
        };
        self.common.make(made.slot())?;
        Ok(made)
    }

    /// Changes what [`Builder::build`] made.
    pub(super) fn adapt(
        &self,
        made: NetworkSlot,
        policy: &NetworkPolicy,
        limits: &Limits,
    ) -> Result<NetworkSlot, NetworkError> {
        self.common.adapt(made.slot(), policy, limits)?;
        Ok(made)
    }
}
