//! What guests reach and what they do not, with real namespaces, links and firewall. Needs root.
mod network_arena;

use network_arena::{
    Arena, ECHO_PORT, HOST, Listener, PUBLIC, RESOLVER, ask, counter, inventory, ip, knock, nft,
    wait_for,
};
use nova_domain::{EgressRule, Limits, NetworkPolicy};
use nova_vm::lease::Lease;
use nova_vm::network::{Attachment, Network, NetworkConfig, NetworkSlot};
use nova_vm::owner::Owner;
use nova_vm::slots::AddressRange;
use tempfile::TempDir;

/// One daemon's network on the arena's host.
struct Daemon {
    network: Network,
    owner: Owner,
    lease: Lease,
    _data_dir: TempDir,
}

impl Daemon {
    async fn start(attachment: Attachment) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let owner = Owner::open(data_dir.path()).unwrap();
        let lease = Lease::take(&owner, AddressRange::default()).unwrap();
        let resolvers = Some(vec![RESOLVER.parse().unwrap()]);
        let config = NetworkConfig { attachment, resolvers, stock: 2 };
        let network = Network::start(owner.clone(), &lease, config).await.unwrap();
        Self { network, owner, lease, _data_dir: data_dir }
    }

    async fn take(&self, policy: &NetworkPolicy) -> NetworkSlot {
        self.network.take(policy, &Limits::default()).await.unwrap()
    }
}

#[test]
fn a_container_with_egress_reaches_public_addresses_and_nothing_else() {
    let arena = Arena::new();
    arena.on_host(async || {
        let daemon = Daemon::start(Attachment::Interface).await;
        let guest = daemon.take(&NetworkPolicy::Egress).await;
        for address in PUBLIC {
            assert_eq!(ask(guest.netns_name(), address, ECHO_PORT).as_deref(), Some(HOST));
        }
        drop(guest);
        daemon.network.shutdown().await;
    });
}
