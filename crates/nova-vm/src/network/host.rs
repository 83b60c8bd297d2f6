//! The host's side of the network: bridge and firewall, made and removed.
use super::firewall::Firewall;
use super::guest::{mac_of, mac_text};
use super::netlink::Netlink;
use super::obstacles::{refuse_overlap, turn_forwarding_on, warn_of_droppers};
use super::rules::{HostRules, remove_table};
use super::{NetworkError, namespace};
use crate::lease::Lease;
use crate::owner::Owner;
use crate::slots::{BLOCK_PREFIX_LENGTH, SLOTS_MAX, SlotSpace};
use std::net::Ipv4Addr;

/// The largest frames of guests where the host's way out is not known: Ethernet's.
const MTU_DEFAULT: u32 = 1500;
/// The bridge as it was made.
#[derive(Debug)]
pub(super) struct Bridge {
    pub(super) name: String,
    pub(super) index: u32,
    /// Largest packet of its guests, bytes.
    pub(super) mtu: u32,
}

/// Makes bridge and firewall in the calling thread's namespace.
pub(super) fn prepare(
    owner: &Owner,
    lease: &Lease,
    firewall: &Firewall,
    resolvers: &[Ipv4Addr],
) -> Result<Bridge, NetworkError> {
    namespace::prepare_directory()?;
    let netlink = Netlink::open()?;
    refuse_overlap(&netlink, lease.range())?;
    turn_forwarding_on()?;
    let links = netlink.links()?;
    let out = netlink.default_route_link()?;
    let mtu = links
        .iter()
        .find(|link| Some(link.index) == out)
        .map_or(MTU_DEFAULT, |link| link.mtu.min(MTU_DEFAULT));
    let bridge = make_bridge(&netlink, owner, lease, mtu)?;
    load_rules(owner, lease.space(), &bridge, firewall, resolvers)?;
    warn_of_droppers(owner, firewall, &bridge.name);
    // Up only now: nothing passes before the firewall stands.
    netlink.set_up(bridge.index)?;
    Ok(bridge)
}

/// Loads the host's firewall, whether it is there already or not.
pub(super) fn load_rules(
    owner: &Owner,
    space: SlotSpace,
    bridge: &Bridge,
    firewall: &Firewall,
    resolvers: &[Ipv4Addr],
) -> Result<(), NetworkError> {
    let ports: Vec<_> = (0..SLOTS_MAX)
        .map(|slot| {
            let address = space.address(slot);
            (owner.link_name(slot), mac_text(mac_of(address)), address)
        })
        .collect();
    let rules = HostRules {
        table: &owner.firewall_table(),
        bridge: &bridge.name,
        link_prefix: &owner.link_prefix(),
        space,
        ports: &ports,
        resolvers,
    };
    firewall.load("host", &rules.ruleset())
}

fn make_bridge(
    netlink: &Netlink,
    owner: &Owner,
    lease: &Lease,
    mtu: u32,
) -> Result<Bridge, NetworkError> {
    let address = lease.space().bridge();
    for name in owner.bridge_names() {
        if netlink.add_bridge(&name, &owner.link_alias(), mac_of(address), mtu)? {
            namespace::disable_ipv6(&name)?;
            // Guests have one way out; better ones are not to be recommended to them.
            namespace::write_setting(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
            let index = netlink.index(&name)?;
            netlink.add_address(index, address, BLOCK_PREFIX_LENGTH)?;
            return Ok(Bridge { name, index, mtu });
        }
    }
    Err(NetworkError::failed(
        format!("bridge {}", owner.bridge_names()[1]),
        "the name is taken by a link that is not ours; remove or rename it",
    ))
}

/// Removes everything of this owner by name, in the calling thread's namespace: for the end of a
/// daemon and for what a crash left. Each step is tried. Returns what went and what did not.
pub(crate) fn sweep(owner: &Owner) -> (Vec<String>, Vec<String>) {
    let mut done = Vec::new();
    let mut problems = Vec::new();
    let mut note = |what: String, result: Result<bool, NetworkError>| match result {
        Ok(true) => done.push(what),
        Ok(false) => {}
        Err(error) => problems.push(error.to_string()),
    };
    let netlink = Netlink::open();
    let links = netlink.as_ref().map_err(NetworkError::clone).and_then(Netlink::links);
    let (mut guests, mut bridges) = (Vec::new(), Vec::new());
    if let Ok(netlink) = &netlink {
        for link in links.as_deref().unwrap_or_default() {
            let ours = link.alias.as_deref() == Some(&owner.link_alias())
                || link.name == owner.bridge_names()[1];
            if link.name.starts_with(&owner.link_prefix()) {
                guests.push(link.name.clone());
            } else if ours {
                bridges.push(link.name.clone());
            }
        }
        let deleted = netlink.delete_links(guests.iter().cloned(), owner.link_group());
        for name in &guests {
            note(format!("link {name}"), deleted.clone().map(|()| true));
        }
    }
    match namespace::names(&owner.name_prefix()) {
        Ok(names) => {
            for name in names {
                note(format!("namespace {name}"), namespace::remove(&name).map(|()| true));
            }
        }
        Err(error) => note(String::new(), Err(error)),
    }
    let table = owner.firewall_table();
    let tables = Firewall::find().and_then(|firewall| {
        let both = remove_table("inet", &table) + &remove_table("bridge", &table);
        firewall.load("removal", &both)
    });
    note(format!("firewall tables {table}"), tables.map(|()| !bridges.is_empty()));
    // The bridge last: as long as it is there, no other daemon takes its name, which an old table
    // may still speak of.
    if let Ok(netlink) = &netlink {
        for name in bridges {
            note(format!("bridge {name}"), netlink.delete_link(&name));
        }
    }
    note(String::new(), links.map(|_| false));
    (done, problems)
}
