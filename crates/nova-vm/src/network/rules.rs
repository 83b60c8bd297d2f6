//! What is dropped, as the text of nftables rulesets. Pure; [`super::firewall`] loads them.
//!
//! Three layers, each loaded in one transaction:
//!
//! ```text
//! guest ─▶ namespace: table inet nova          the function's policy; source must be the guest's
//!       ─▶ bridge:    table bridge nova_<id6>  link, hardware and source address belong together
//!       ─▶ host:      table inet nova_<id6>    nothing to the host, between guests, or inward
//! ```
//!
//! The policy is in the guest's own namespace, so that a host whose firewall is reloaded
//! (`nft flush ruleset`) loses masquerading but still lets no guest into a private network, and so
//! that nothing about a guest is left on the host when its namespace goes. Packets of a guest are
//! judged one by one, never by connection tracking: an address that is used again cannot inherit
//! what its last user had open.
use crate::slots::{BLOCK_PREFIX_LENGTH, SlotSpace};
use nova_domain::{EgressRule, NetworkPolicy};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// The table in a guest's namespace.
pub(super) const GUEST_TABLE: &str = "nova";
/// What `Egress` never reaches: the special-purpose addresses of RFC 6890 and its successors.
const NOT_PUBLIC: [&str; 14] = [
    "0.0.0.0/8",       // this host
    "10.0.0.0/8",      // private
    "100.64.0.0/10",   // carrier-grade NAT
    "127.0.0.0/8",     // loopback
    "169.254.0.0/16",  // link-local, and the clouds' metadata
    "172.16.0.0/12",   // private, and the guests themselves
    "192.0.0.0/24",    // protocol assignments
    "192.0.2.0/24",    // documentation
    "192.88.99.0/24",  // the former 6to4 relays
    "192.168.0.0/16",  // private
    "198.18.0.0/15",   // benchmarks
    "198.51.100.0/24", // documentation
    "203.0.113.0/24",  // documentation
    "224.0.0.0/3",     // multicast, reserved, broadcast
];

/// Most connections of a guest at once. Tracking one costs the host 300 bytes that no cgroup counts,
/// and the kernel's default table holds 262144 for all of the machine.
const CONNECTIONS_MAX: u32 = 8192;

/// The facts that the host's rules are made of.
#[derive(Debug)]
pub(super) struct HostRules<'a> {
    /// Name of the tables.
    pub(super) table: &'a str,
    /// The bridge.
    pub(super) bridge: &'a str,
    /// Start of the names of its ports.
    pub(super) link_prefix: &'a str,
    /// The daemon's addresses.
    pub(super) space: SlotSpace,
    /// Each port's name, hardware address and address.
    pub(super) ports: &'a [(String, String, Ipv4Addr)],
    /// Name servers that may be asked even where the host itself is one.
    pub(super) resolvers: &'a [Ipv4Addr],
}

impl HostRules<'_> {
    /// The tables of the host, replacing an earlier version of themselves.
    pub(super) fn ruleset(&self) -> String {
        let Self { table, bridge, link_prefix, space, .. } = self;
        let ports: Vec<String> = self
            .ports
            .iter()
            .map(|(link, mac, address)| format!("\"{link}\" . {mac} . {address}"))
            .collect();
        let network = space.network();
        format!(
            r#"{replace_bridge}{replace_inet}
table bridge {table} {{
  counter denied_spoofed {{ }}
  set ports {{
    type ifname . ether_addr . ipv4_addr
    elements = {{ {ports} }}
  }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    iifname != "{link_prefix}*" accept
    iifname . ether saddr . ip saddr @ports accept
    counter name denied_spoofed drop
  }}
}}
table inet {table} {{
  counter denied_host {{ }}
  counter denied_guest {{ }}
  counter denied_inbound {{ }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != "{bridge}" accept
    {dns}
    counter name denied_host drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{bridge}" oifname "{bridge}" counter name denied_guest drop
    iifname "{bridge}" meta nfproto ipv6 drop
    iifname "{bridge}" tcp flags syn tcp option maxseg size set rt mtu
    iifname "{bridge}" accept
    oifname != "{bridge}" accept
    tcp flags syn tcp option maxseg size set rt mtu
    ct state established,related accept
    counter name denied_inbound drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {network}/{BLOCK_PREFIX_LENGTH} oifname != "{bridge}" masquerade
  }}
}}
"#,
            replace_bridge = remove_table("bridge", table),
            replace_inet = remove_table("inet", table),
            ports = ports.join(", "),
            dns = dns_rule(self.resolvers),
        )
    }
}

/// Commands that remove a table whether it exists or not.
pub(crate) fn remove_table(family: &str, table: &str) -> String {
    format!("add table {family} {table}\ndelete table {family} {table}\n")
}

/// The rules in the namespace of a guest whose packets arrive on a TAP: only those with the guest's
/// inner address go on, under its own address on the bridge. Nothing else in the namespace talks.
pub(super) fn tap_ruleset(
    tap: &str,
    uplink: &str,
    inner: Ipv4Addr,
    outer: Ipv4Addr,
    policy: &str,
) -> String {
    format!(
        r#"table inet {GUEST_TABLE} {{
  counter denied {{ }}
  chain reach {{
{policy}  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname "{tap}" ct state new ct count over {CONNECTIONS_MAX} counter name denied drop
    iifname "{tap}" oifname "{uplink}" ip saddr {inner} goto reach
    iifname "{uplink}" oifname "{tap}" ct state established,related accept
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
  }}
  chain output {{
    type filter hook output priority filter; policy drop;
    oifname "{tap}" meta l4proto icmp accept comment "path MTU"
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{uplink}" snat ip to {outer}
  }}
}}
"#
    )
}

/// The rules in the namespace of a guest that lives in it, as a container does.
pub(super) fn interface_ruleset(interface: &str, address: Ipv4Addr, policy: &str) -> String {
    format!(
        r#"table inet {GUEST_TABLE} {{
  counter denied {{ }}
  chain reach {{
{policy}  }}
  chain output {{
    type filter hook output priority filter; policy drop;
    oifname "lo" accept
    ct state new ct count over {CONNECTIONS_MAX} counter name denied drop
    oifname "{interface}" ip saddr {address} goto reach
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
  }}
}}
"#
    )
}

/// Replaces the policy in the namespace of a guest.
pub(super) fn replace_policy(policy: &str) -> String {
    format!(
        "flush chain inet {GUEST_TABLE} reach\ntable inet {GUEST_TABLE} {{\n  chain reach \
         {{\n{policy}  }}\n}}\n"
    )
}

/// The rules of the chain `reach`: name servers, then what the function may reach.
pub(super) fn policy_rules(policy: &NetworkPolicy, resolvers: &[Ipv4Addr]) -> String {
    let mut rules = String::new();
    let mut rule = |text: &str| {
        if !text.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(rules, "    {text}");
        }
    };
    match policy {
        NetworkPolicy::None => {}
        NetworkPolicy::Egress => {
            rule(&dns_rule(resolvers));
            let refused = NOT_PUBLIC.join(", ");
            rule(&format!("ip daddr {{ {refused} }} counter name denied drop"));
            rule("meta nfproto ipv4 accept");
        }
        NetworkPolicy::EgressTo(networks) => {
            rule(&dns_rule(resolvers));
            for network in without_nested(networks) {
                rule(&format!("ip daddr {} accept", String::from(network)));
            }
        }
    }
    rule("counter name denied drop");
    rules
}

/// The one exception to every refusal: port 53 of exactly the configured name servers.
fn dns_rule(resolvers: &[Ipv4Addr]) -> String {
    if resolvers.is_empty() {
        return String::new();
    }
    let list: Vec<String> = resolvers.iter().map(Ipv4Addr::to_string).collect();
    format!("ip daddr {{ {} }} meta l4proto {{ tcp, udp }} th dport 53 accept", list.join(", "))
}

/// Networks without those that lie within another of them: the same addresses in fewer rules.
fn without_nested(networks: &[EgressRule]) -> Vec<EgressRule> {
    let mut sorted = networks.to_vec();
    sorted.sort_by_key(|rule| (rule.prefix_length, rule.network));
    let mut kept: Vec<EgressRule> = Vec::new();
    for rule in sorted {
        let within = |outer: &EgressRule| {
            let mask = u32::MAX.checked_shl(32 - u32::from(outer.prefix_length)).unwrap_or(0);
            rule.network.to_bits() & mask == outer.network.to_bits()
        };
        if !kept.iter().any(within) {
            kept.push(rule);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> EgressRule {
        EgressRule::parse(text).unwrap()
    }

    #[test]
    fn egress_refuses_what_is_not_public_after_allowing_the_name_servers() {
        let resolver = Ipv4Addr::new(10, 0, 0, 2);
        let rules = policy_rules(&NetworkPolicy::Egress, &[resolver]);
        let lines: Vec<&str> = rules.lines().map(str::trim).collect();
        assert_eq!(lines[0], "ip daddr { 10.0.0.2 } meta l4proto { tcp, udp } th dport 53 accept");
        assert!(lines[1].contains("169.254.0.0/16") && lines[1].ends_with("drop"));
        assert_eq!(lines[2], "meta nfproto ipv4 accept");
        assert_eq!(lines[3], "counter name denied drop");
    }

    #[test]
    fn an_allow_list_opens_its_networks_and_nothing_else() {
        let policy = NetworkPolicy::EgressTo(vec![rule("10.1.0.0/16"), rule("10.1.2.0/24")]);
        let rules = policy_rules(&policy, &[]);
        assert_eq!(rules, "    ip daddr 10.1.0.0/16 accept\n    counter name denied drop\n");
        assert_eq!(
            policy_rules(&NetworkPolicy::None, &[Ipv4Addr::new(9, 9, 9, 9)]),
            "    counter name denied drop\n"
        );
    }

    #[test]
    fn nested_networks_are_left_out() {
        let networks = [rule("0.0.0.0/0"), rule("10.0.0.0/8")];
        assert_eq!(without_nested(&networks), [rule("0.0.0.0/0")]);
        let apart = [rule("10.0.0.0/9"), rule("10.128.0.0/9"), rule("10.0.0.1")];
        assert_eq!(without_nested(&apart), [rule("10.0.0.0/9"), rule("10.128.0.0/9")]);
    }
}
