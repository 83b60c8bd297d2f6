//! The guest's network: loopback, and one address where it was given one.
//!
//! In a container the host makes all of it: the agent may not. In a microVM the agent speaks netlink
//! itself, three kinds of messages and their acknowledgements; `ip=` on the kernel's command line would
//! cost 20 ms.
use crate::identity::replace;
use crate::netlink::Netlink;
use crate::place::Place;
use nova_proto::NetworkSetup;
use std::fs;
use std::path::Path;

/// Most resolvers that a C library reads.
const RESOLVERS_MAX: usize = 3;

/// Configures what a microVM was given.
///
/// # Errors
/// What the kernel refused.
pub fn set_up(place: Place, network: Option<&NetworkSetup>) -> Result<(), String> {
    if place == Place::Container {
        return match network {
            None => Ok(()),
            Some(_) => Err("a container's network is made by the host, not by its agent".into()),
        };
    }
    disable_ipv6()?;
    let mut netlink = Netlink::open().map_err(|error| format!("open netlink: {error}"))?;
    netlink.link_up("lo").map_err(|error| format!("bring loopback up: {error}"))?;
    let Some(network) = network else { return replace("/etc/resolv.conf", "") };
    configure(&mut netlink, network)
        .map_err(|error| format!("configure {}: {error}", network.interface))?;
    let resolvers = network.resolvers.iter().take(RESOLVERS_MAX);
    let lines: String = resolvers.map(|address| format!("nameserver {address}\n")).collect();
    replace("/etc/resolv.conf", &lines)
}

/// Address, link and route, in the order that the kernel wants them.
fn configure(netlink: &mut Netlink, network: &NetworkSetup) -> std::io::Result<()> {
    netlink.add_address(&network.interface, network.address, network.prefix_length)?;
    netlink.link_up(&network.interface)?;
    netlink.add_default_route(&network.interface, network.gateway)
}

/// Nova's networks are IPv4 only; a guest that tries IPv6 would wait for answers that never come.
fn disable_ipv6() -> Result<(), String> {
    for scope in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        // A kernel without IPv6 needs no switch.
        if Path::new(&path).exists() {
            fs::write(&path, "1").map_err(|error| format!("write {path}: {error}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use std::process::Command;

    /// What `ip` prints in this thread's network namespace.
    fn ip(arguments: &[&str]) -> String {
        let output = Command::new("ip").args(arguments).output().expect("ip of iproute2");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn the_kernel_takes_the_messages() {
        let network = NetworkSetup {
            interface: "eth0".into(),
            address: "172.29.255.2".parse().expect("an address"),
            prefix_length: 30,
            gateway: "172.29.255.1".parse().expect("an address"),
            resolvers: vec![],
        };
        // A thread of its own: the namespace goes with it.
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root, to make a network namespace");
            ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
            let mut netlink = Netlink::open().expect("netlink");
            netlink.link_up("lo").expect("loopback");
            configure(&mut netlink, &network).expect("the address");
            assert!(ip(&["link", "show", "lo"]).contains("LOOPBACK,UP"));
            assert!(ip(&["-4", "addr", "show", "eth0"]).contains("inet 172.29.255.2/30 "));
            assert!(ip(&["route"]).contains("default via 172.29.255.1 dev eth0"));

            let again = configure(&mut netlink, &network).expect_err("the address is there");
            assert_eq!(again.raw_os_error(), Some(libc::EEXIST));
            let missing = netlink.link_up("eth7").expect_err("no such interface");
            assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
        })
        .join()
        .expect("the thread");
    }
}
