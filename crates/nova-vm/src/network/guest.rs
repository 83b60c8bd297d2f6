//! One guest's namespace: made step by step, each step undone by the removal of the whole.
//!
//! ```text
//!   microVM                              container
//!   eth0 172.29.255.2/30                 processes in the namespace
//!    │                                    │
//!   tap0 172.29.255.1  ┐                 eth0 172.30.x.y/32  ┐ namespace nova-<id6>-<slot>
//!    │ NAT, policy     │                  │ policy           │
//!   up0  172.30.x.y/32 ┘                  ┊                  ┘
//!    ┊ veth                               ┊ veth
//!   nv<id6><slot> ── isolated port ── bridge 172.30.N.1/20 ── masquerade ── the world
//! ```
//!
//! A guest needs no ARP on the bridge and may not use it: its end and the host's know each other by
//! permanent entries. A /32 and a route through the bridge make even a neighbour's address take the
//! way through the host's firewall.
use super::firewall::Firewall;
use super::host::Bridge;
use super::netlink::{Mac, Netlink, VethPair};
use super::rules::{interface_ruleset, policy_rules, replace_policy, tap_ruleset};
use super::{Attachment, NetworkError, namespace, shaping, tap};
use crate::owner::Owner;
use crate::slots::{Slot, SlotSpace};
use nova_domain::{Limits, NetworkPolicy};
use nova_proto::NetworkSetup;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

/// The TAP of a microVM, in its namespace.
pub(super) const TAP: &str = "tap0";
/// Hardware address of the TAP: the same in each namespace, so that the neighbour table in a
/// snapshot stays true in every copy of it.
const TAP_MAC: Mac = [0x06, 0x00, 0xac, 0x1d, 0xff, 0x01];
/// The address of every microVM, and of its gateway, the TAP.
const INNER_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 29, 255, 2);
const INNER_GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 29, 255, 1);
const INNER_PREFIX_LENGTH: u8 = 30;
/// The interface as the guest sees it.
const GUEST_INTERFACE: &str = "eth0";
/// The namespace's end of the veth where the guest is behind a TAP.
const UPLINK: &str = "up0";

/// What all guests of a daemon have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) owner: Owner,
    pub(super) space: SlotSpace,
    pub(super) attachment: Attachment,
    pub(super) resolvers: Vec<Ipv4Addr>,
    pub(super) firewall: Firewall,
    pub(super) bridge: Bridge,
}

/// The hardware address of whoever has `address` on the bridge. Locally administered; it holds the
/// address, so no two are the same.
pub(super) fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x06, 0x01, a, b, c, d]
}

/// A hardware address as people write it.
pub(super) fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Common {
    /// The namespace's end of the veth.
    fn interface(&self) -> &'static str {
        match self.attachment {
            Attachment::Tap => UPLINK,
            Attachment::Interface => GUEST_INTERFACE,
        }
    }

    /// What the agent is told about the network of the guest in `slot`.
    pub(super) fn setup(&self, slot: &Slot) -> NetworkSetup {
        let (address, prefix_length, gateway) = match self.attachment {
            Attachment::Tap => (INNER_ADDRESS, INNER_PREFIX_LENGTH, INNER_GATEWAY),
            Attachment::Interface => (slot.address(), 32, self.space.bridge()),
        };
        NetworkSetup {
            interface: GUEST_INTERFACE.to_owned(),
            address,
            prefix_length,
            gateway,
            resolvers: self.resolvers.clone(),
        }
    }

    /// Makes the namespace of a guest with policy `Egress`. After an error the caller removes what
    /// there is by name.
    pub(super) fn make(&self, slot: &Slot) -> Result<(), NetworkError> {
        let name = self.owner.netns_name(slot.number());
        namespace::on_thread(|| {
            // Opened before the thread leaves the host's namespace.
            let host = Netlink::open()?;
            namespace::enter_new(&name)?;
            let inner = Netlink::open()?;
            prepare(&inner)?;
            if self.attachment == Attachment::Tap {
                namespace::write_setting("net/ipv4/ip_forward", "1")?;
                tap::create(TAP, slot.uid_root())?;
                let tap = inner.index(TAP)?;
                inner.set_mac(tap, TAP_MAC)?;
                inner.add_address(tap, INNER_GATEWAY, INNER_PREFIX_LENGTH)?;
                inner.set_up(tap)?;
            }
            let policy = policy_rules(&NetworkPolicy::Egress, &self.resolvers);
            self.firewall.load("guest", &self.guest_ruleset(slot, &policy))?;
            self.connect(slot, &host, &inner)
        })
    }

    fn guest_ruleset(&self, slot: &Slot, policy: &str) -> String {
        match self.attachment {
            Attachment::Tap => tap_ruleset(TAP, UPLINK, INNER_ADDRESS, slot.address(), policy),
            Attachment::Interface => interface_ruleset(GUEST_INTERFACE, slot.address(), policy),
        }
    }

    /// The veth: last, when the firewall is in place.
    fn connect(&self, slot: &Slot, host: &Netlink, inner: &Netlink) -> Result<(), NetworkError> {
        let link = self.owner.link_name(slot.number());
        let mac = mac_of(slot.address());
        let this = namespace::current()?;
        host.add_veth(&VethPair {
            name: &link,
            mtu: self.bridge.mtu,
            peer_name: self.interface(),
            peer_mac: mac,
            peer_namespace: this.as_fd(),
        })?;
        let port = host.index(&link)?;
        let interface = inner.index(self.interface())?;
        namespace_neighbours(self, slot, inner, interface)?;
        host.attach_port(port, self.bridge.index)?;
        host.add_forwarding(port, mac)?;
        host.add_neighbour(self.bridge.index, slot.address(), mac)?;
        // With its first port the bridge, too, gets a carrier.
        host.wait_until_ready(port)?;
        host.wait_until_ready(self.bridge.index)?;
        inner.wait_until_ready(interface)
    }

    /// Turns a namespace as [`Common::make`] leaves it into one for this policy and these limits.
    pub(super) fn adapt(
        &self,
        slot: &Slot,
        policy: &NetworkPolicy,
        limits: &Limits,
    ) -> Result<(), NetworkError> {
        if *policy != NetworkPolicy::Egress {
            let rules = replace_policy(&policy_rules(policy, &self.resolvers));
            let name = self.owner.netns_name(slot.number());
            namespace::inside(&name, || self.firewall.load("policy", &rules))?;
        }
        if self.shapes(limits) { self.shape(slot, limits) } else { Ok(()) }
    }

    /// Whether `limits` ask for bandwidth limits that are ours to set: a microVM's are set by
    /// Firecracker.
    pub(super) fn shapes(&self, limits: &Limits) -> bool {
        self.attachment == Attachment::Interface
            && (limits.net_rx_bandwidth > 0 || limits.net_tx_bandwidth > 0)
    }

    fn shape(&self, slot: &Slot, limits: &Limits) -> Result<(), NetworkError> {
        if limits.net_rx_bandwidth > 0 {
            // What the guest receives is what the host's end of the veth sends.
            let link = self.owner.link_name(slot.number());
            namespace::on_thread(|| shaping::limit(&link, limits.net_rx_bandwidth))?;
        }
        if limits.net_tx_bandwidth > 0 {
            let name = self.owner.netns_name(slot.number());
            namespace::inside(&name, || shaping::limit(GUEST_INTERFACE, limits.net_tx_bandwidth))?;
        }
        Ok(())
    }
}

/// What every guest's namespace has: loopback, and no IPv6.
fn prepare(inner: &Netlink) -> Result<(), NetworkError> {
    namespace::disable_ipv6("all")?;
    namespace::disable_ipv6("default")?;
    inner.set_up(inner.index("lo")?)
}

/// The namespace's address and its only way out.
fn namespace_neighbours(
    common: &Common,
    slot: &Slot,
    inner: &Netlink,
    interface: u32,
) -> Result<(), NetworkError> {
    let gateway = common.space.bridge();
    inner.add_address(interface, slot.address(), 32)?;
    inner.set_up(interface)?;
    inner.add_neighbour(interface, gateway, mac_of(gateway))?;
    inner.add_default_route(interface, gateway)
}
