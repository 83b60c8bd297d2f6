//! The host's side: bridge, forwarding, the host's firewall, and what stands in the way of them.
use super::firewall::Firewall;
use super::guest::{mac_of, mac_text};
use super::netlink::Netlink;
use super::rules::{HostRules, remove_table};
use super::{NetworkError, namespace};
use crate::lease::Lease;
use crate::owner::{LINK_ALIAS_PREFIX, Owner};
use crate::slots::{BLOCK_PREFIX_LENGTH, SLOTS_MAX, SlotSpace};
use std::net::Ipv4Addr;

/// The largest frames of guests where the host's way out is not known: Ethernet's.
const MTU_DEFAULT: u32 = 1500;
/// Whether the kernel forwards packets between links.
const FORWARDING: &str = "net/ipv4/ip_forward";

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
    refuse_overlap(&netlink, lease)?;
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

/// A packet passes only if every firewall of the host accepts it; Docker's, for one, drops what it
/// does not know.
fn warn_of_droppers(owner: &Owner, firewall: &Firewall, bridge: &str) {
    match firewall.forward_droppers(&owner.firewall_table()) {
        Ok(chains) if chains.is_empty() => {}
        Ok(chains) => tracing::warn!(
            ?chains,
            "another firewall drops forwarded packets by default: guests have no network unless it \
             accepts what comes from and goes to {bridge} (with Docker: iptables -I DOCKER-USER \
             -i {bridge} -j ACCEPT, and the same with -o)"
        ),
        Err(error) => tracing::warn!(%error, "other firewalls could not be looked at"),
    }
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

/// Refuses a range that the host uses for something else: guests would hide it, or it them.
fn refuse_overlap(netlink: &Netlink, lease: &Lease) -> Result<(), NetworkError> {
    let links = netlink.links()?;
    for known in netlink.known_networks()? {
        let link = links.iter().find(|link| link.index == known.link_index);
        let is_nova = link.is_some_and(|link| {
            link.alias.as_deref().is_some_and(|alias| alias.starts_with(LINK_ALIAS_PREFIX))
        });
        if !is_nova && lease.range().overlaps(known.address, known.prefix_length) {
            return Err(NetworkError::Overlap {
                range: lease.range(),
                other: format!("{}/{}", known.address, known.prefix_length),
                link: link.map_or_else(|| "a route".to_owned(), |link| link.name.clone()),
            });
        }
    }
    Ok(())
}

/// Guests need forwarding. It stays on when the daemon ends: others may have come to rely on it.
fn turn_forwarding_on() -> Result<(), NetworkError> {
    let on = std::fs::read_to_string(format!("/proc/sys/{FORWARDING}"))
        .is_ok_and(|value| value.trim_end() != "0");
    if on {
        return Ok(());
    }
    namespace::write_setting(FORWARDING, "1")?;
    tracing::warn!(
        "turned on net.ipv4.ip_forward, which guests with a network need; it stays on after nova \
         ends"
    );
    Ok(())
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
    let mut bridges = Vec::new();
    if let Ok(netlink) = &netlink {
        for link in links.as_deref().unwrap_or_default() {
            let ours = link.alias.as_deref() == Some(&owner.link_alias())
                || link.name == owner.bridge_names()[1];
            if link.name.starts_with(&owner.link_prefix()) {
                note(format!("link {}", link.name), netlink.delete_link(&link.name));
            } else if ours {
                bridges.push(link.name.clone());
            }
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
