//! One daemon's network on the arena's host, and its guests.
use super::vm::Vm;
use super::{Listener, nft};
use nova_domain::{Limits, NetworkPolicy};
use nova_vm::lease::Lease;
use nova_vm::network::{Attachment, Network, NetworkConfig, NetworkSlot};
use nova_vm::owner::Owner;
use nova_vm::slots::{AddressRange, Slot};
use tempfile::TempDir;

pub struct Daemon {
    pub network: Network,
    pub owner: Owner,
    pub lease: Lease,
    pub attachment: Attachment,
    _data_dir: TempDir,
}

impl Daemon {
    /// Takes a share of this machine and makes a network in the thread's namespace.
    pub async fn start(attachment: Attachment) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let owner = Owner::open(data_dir.path()).unwrap();
        let lease = Lease::take(&owner, AddressRange::default()).unwrap();
        let config = Self::config(attachment);
        let network = Network::start(owner.clone(), &lease, config).await.unwrap();
        Self { network, owner, lease, attachment, _data_dir: data_dir }
    }

    pub fn config(attachment: Attachment) -> NetworkConfig {
        let resolvers = Some(vec![super::RESOLVER.parse().unwrap()]);
        NetworkConfig { attachment, resolvers, stock: 2 }
    }

    pub async fn take(&self, policy: &NetworkPolicy) -> Guest {
        self.take_with(policy, &Limits::default()).await
    }

    pub async fn take_with(&self, policy: &NetworkPolicy, limits: &Limits) -> Guest {
        let slot = self.network.take(policy, limits).await.unwrap();
        let vm = (self.attachment == Attachment::Tap).then(|| Vm::boot(&slot));
        Guest { vm, slot }
    }

    pub async fn stop(self) {
        self.network.shutdown().await;
    }
}

/// Somebody in a slot: a stand-in for a microVM, or just the namespace for a container.
pub struct Guest {
    vm: Option<Vm>,
    pub slot: NetworkSlot,
}

impl Guest {
    /// Where its programs run.
    pub fn netns(&self) -> &str {
        self.vm.as_ref().map_or(self.slot.netns_name(), Vm::netns)
    }

    pub fn slot(&self) -> &Slot {
        self.slot.slot()
    }

    /// Listens behind whatever its own namespace would drop: only what the host and the other
    /// guest's own rules keep away is to be measured.
    pub fn listen(&self, port: u16) -> Listener {
        nft(self.slot.netns_name(), "delete table inet nova\n");
        Listener::new(self.slot.netns_name(), self.slot().address(), port)
    }
}

/// An allow list.
pub fn allow(networks: &[&str]) -> NetworkPolicy {
    let networks: Vec<String> = networks.iter().map(|text| (*text).to_owned()).collect();
    NetworkPolicy::egress_to(&networks).unwrap()
}
