//! What on a host stands in the way of guests' network: for the start of a daemon, and for the
//! doctor before that.
use super::firewall::Firewall;
use super::netlink::Netlink;
use super::{NetworkError, namespace, resolvers};
use crate::owner::{LINK_ALIAS_PREFIX, Owner};
use crate::slots::AddressRange;

/// Whether the kernel forwards packets between links.
const FORWARDING: &str = "net/ipv4/ip_forward";

/// Something to be done by the administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What was looked at, one word. Stable.
    pub check: &'static str,
    /// What was found.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// Looks for all of them and changes nothing. `bridge` is the name that the bridge will have.
/// Blocks for some milliseconds.
pub fn obstacles(range: AddressRange, bridge: &str) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let overlap =
        namespace::on_thread(|| Netlink::open().and_then(|link| refuse_overlap(&link, range)));
    if let Err(error) = overlap {
        found.push(Obstacle {
            check: "network_range",
            problem: error.to_string(),
            fix: "set network_range (or NOVA_NETWORK_RANGE) to a private network of your own"
                .into(),
        });
    }
    // Without nft nothing works anyway, which is a finding of its own.
    let chains = Firewall::find().and_then(|firewall| firewall.forward_droppers(""));
    found.extend(droppers(&chains.unwrap_or_default(), bridge));
    if !forwards() {
        found.push(Obstacle {
            check: "ip_forward",
            problem: "net.ipv4.ip_forward is off; the daemon will turn it on and leave it on"
                .into(),
            fix: "nothing, or turn it on yourself: sysctl net.ipv4.ip_forward=1".into(),
        });
    }
    if resolvers::of_host().is_empty() {
        found.push(Obstacle {
            check: "resolvers",
            problem: "/etc/resolv.conf names no server that a guest can reach".into(),
            fix: "set resolvers (or NOVA_RESOLVERS)".into(),
        });
    }
    found
}

/// Refuses a range that the host uses for something else: guests would hide it, or it them.
pub(super) fn refuse_overlap(netlink: &Netlink, range: AddressRange) -> Result<(), NetworkError> {
    let links = netlink.links()?;
    for known in netlink.known_networks()? {
        let link = links.iter().find(|link| link.index == known.link_index);
        let is_nova = link.is_some_and(|link| {
            link.alias.as_deref().is_some_and(|alias| alias.starts_with(LINK_ALIAS_PREFIX))
        });
        if !is_nova && range.overlaps(known.address, known.prefix_length) {
            return Err(NetworkError::Overlap {
                range,
                other: format!("{}/{}", known.address, known.prefix_length),
                link: link.map_or_else(|| "a route".to_owned(), |link| link.name.clone()),
            });
        }
    }
    Ok(())
}

/// Guests need forwarding. It stays on when the daemon ends: others may have come to rely on it.
pub(super) fn turn_forwarding_on() -> Result<(), NetworkError> {
    if forwards() {
        return Ok(());
    }
    namespace::write_setting(FORWARDING, "1")?;
    tracing::warn!(
        "turned on net.ipv4.ip_forward, which guests with a network need; it stays on after nova \
         ends"
    );
    Ok(())
}

fn forwards() -> bool {
    std::fs::read_to_string(format!("/proc/sys/{FORWARDING}"))
        .is_ok_and(|value| value.trim_end() != "0")
}

/// Says in the log that another firewall may keep guests from the network.
pub(super) fn warn_of_droppers(owner: &Owner, firewall: &Firewall, bridge: &str) {
    match firewall.forward_droppers(&owner.firewall_table()) {
        Ok(chains) => {
            if let Some(Obstacle { problem, fix, .. }) = droppers(&chains, bridge) {
                tracing::warn!("{problem}; {fix}");
            }
        }
        Err(error) => tracing::warn!(%error, "other firewalls could not be looked at"),
    }
}

/// A packet passes only if every firewall of the host accepts it; Docker's, for one, drops what it
/// does not know.
fn droppers(chains: &[String], bridge: &str) -> Option<Obstacle> {
    (!chains.is_empty()).then(|| Obstacle {
        check: "forward_policy",
        problem: format!("other firewalls drop forwarded packets: {}", chains.join(", ")),
        fix: format!(
            "let them accept what comes from and goes to {bridge}, or guests have no network (with \
             Docker: iptables -I DOCKER-USER -i {bridge} -j ACCEPT, and the same with -o)"
        ),
    })
}
