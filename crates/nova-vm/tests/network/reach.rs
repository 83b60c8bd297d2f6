//! What guests reach and what they do not.
use crate::arena::daemon::{Daemon, Guest, allow};
use crate::arena::{
    Arena, ECHO_PORT, HOST, Listener, PRIVATE, PUBLIC, RESOLVER, ask, ask_as, counter, inside, ip,
    knock, nft, run, wait_for,
};
use nova_domain::{Limits, NetworkPolicy};
use nova_vm::network::Attachment;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU16, Ordering};

/// The port that listeners on the host and in other guests have.
const LISTENER_PORT: u16 = 9000;

/// Knocks on everything that no guest may reach, and says what was reached. The last word is a
/// question to a public address that must be answered: by then all that was sent has arrived.
async fn forbidden_things_reached(arena: &Arena, daemon: &Daemon, guest: &Guest) -> Vec<String> {
    let bridge = daemon.lease.space().bridge();
    let other = daemon.take(&NetworkPolicy::Egress).await;
    let other_address = other.slot().address();
    let on_host = Listener::new(arena.host(), HOST.parse().unwrap(), LISTENER_PORT);
    let on_bridge = Listener::new(arena.host(), bridge, LISTENER_PORT);
    let in_other = other.listen(LISTENER_PORT);
    for address in PRIVATE {
        knock(guest.netns(), address, ECHO_PORT);
    }
    // The name server answers on port 53 alone.
    knock(guest.netns(), RESOLVER, ECHO_PORT);
    for address in [HOST.to_owned(), bridge.to_string(), other_address.to_string()] {
        knock(guest.netns(), &address, LISTENER_PORT);
    }
    assert!(ask(guest.netns(), PUBLIC[0], ECHO_PORT).is_some());

    let mut reached: Vec<String> = arena.reached().into_iter().map(str::to_owned).collect();
    for (what, heard) in [
        ("name server", arena.count(RESOLVER) > 0),
        ("host", on_host.heard()),
        ("bridge", on_bridge.heard()),
        ("other guest", in_other.heard()),
    ] {
        reached.extend(heard.then(|| what.to_owned()));
    }
    reached
}

fn egress_reaches_the_public_only(attachment: Attachment) {
    let arena = Arena::new();
    arena.on_host(async || {
        let daemon = Daemon::start(attachment).await;
        let guest = daemon.take(&NetworkPolicy::Egress).await;
        for address in PUBLIC {
            // Seen from outside, it is the host that asks.
            assert_eq!(ask(guest.netns(), address, ECHO_PORT).as_deref(), Some(HOST));
        }
        let reached = forbidden_things_reached(&arena, &daemon, &guest).await;
        assert_eq!(reached, Vec::<String>::new());
        assert_eq!(ask(guest.netns(), RESOLVER, 53).as_deref(), Some(HOST));
        drop(guest);
        daemon.stop().await;
    });
}

#[test]
fn a_container_with_egress_reaches_the_public_only() {
    egress_reaches_the_public_only(Attachment::Interface);
}

#[test]
fn a_microvm_with_egress_reaches_the_public_only() {
    egress_reaches_the_public_only(Attachment::Tap);
}

/// The proof that the tests above can fail: the same knocks with the firewall's rules taken out.
fn without_the_rules_all_is_reached(attachment: Attachment) {
    let arena = Arena::new();
    arena.on_host(async || {
        let daemon = Daemon::start(attachment).await;
        let guest = daemon.take(&NetworkPolicy::Egress).await;
        let table = daemon.owner.firewall_table();
        let open = format!(
            "flush chain inet {table} input\nflush chain inet {table} forward\n\
             add rule inet {table} forward accept\n"
        );
        nft(arena.host(), &open);
        let open = "flush chain inet nova reach\nadd rule inet nova reach accept\n";
        nft(guest.slot.netns_name(), open);
        let reached = forbidden_things_reached(&arena, &daemon, &guest).await;
        let mut expected: Vec<&str> = PRIVATE.to_vec();
        expected.extend(["name server", "host", "bridge", "other guest"]);
        assert_eq!(reached, expected);
        drop(guest);
        daemon.stop().await;
    });
}

#[test]
fn without_the_rules_a_container_reaches_all() {
    without_the_rules_all_is_reached(Attachment::Interface);
}

#[test]
fn without_the_rules_a_microvm_reaches_all() {
    without_the_rules_all_is_reached(Attachment::Tap);
}

#[test]
fn a_host_that_loses_its_firewall_still_opens_no_private_network() {
    let arena = Arena::new();
    arena.on_host(async || {
        let daemon = Daemon::start(Attachment::Tap).await;
        let guest = daemon.take(&NetworkPolicy::Egress).await;
        nft(arena.host(), "flush ruleset\n");
        for address in PRIVATE {
            knock(guest.netns(), address, ECHO_PORT);
        }
        // Without masquerading the sink answers to the guest's own address; that it is asked at
        // all shows that the knocks had their time.
        ask(guest.netns(), PUBLIC[0], ECHO_PORT);
        assert!(arena.count(PUBLIC[0]) > 0);
        assert_eq!(arena.reached(), Vec::<&str>::new());

        // And the daemon notices.
        let whole = || ask(guest.netns(), PUBLIC[0], ECHO_PORT).as_deref() == Some(HOST);
        wait_for("the host's firewall to be back", whole);
        let reached = forbidden_things_reached(&arena, &daemon, &guest).await;
        assert_eq!(reached, Vec::<String>::new());
        drop(guest);
        daemon.stop().await;
    });
}

/// What a guest keeps open is the host's memory.
#[test]
fn a_guest_has_a_limited_number_of_connections() {
    let arena = Arena::new();
    arena.on_host(async || {
        for attachment in [Attachment::Interface, Attachment::Tap] {
            let daemon = Daemon::start(attachment).await;
            let guest = daemon.take(&NetworkPolicy::Egress).await;
            let neighbour = daemon.take(&NetworkPolicy::Egress).await;
            let refused = || counter(guest.slot.netns_name(), "inet nova", "denied");
            let socket = inside(guest.netns(), || UdpSocket::bind("0.0.0.0:0").unwrap());
            // Each port is a connection of its own. In portions, because a TAP drops what its
            // reader is too slow for.
            let port = AtomicU16::new(1024);
            wait_for("the limit to be reached", || {
                for _ in 0..200 {
                    let port = port.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.send_to(b"x", (PUBLIC[2], port.max(1)));
                }
                refused() > 0
            });
            let answer = ask(neighbour.netns(), PUBLIC[0], ECHO_PORT);
            assert_eq!(answer.as_deref(), Some(HOST));
            drop((guest, neighbour));
            daemon.stop().await;
        }
    });
}

#[test]
fn policy_none_reaches_nothing_at_all() {
    let arena = Arena::new();
    arena.on_host(async || {
        for attachment in [Attachment::Interface, Attachment::Tap] {
            let daemon = Daemon::start(attachment).await;
            let guest = daemon.take(&NetworkPolicy::None).await;
            let neighbour = daemon.take(&NetworkPolicy::Egress).await;
            let before = arena.count(PUBLIC[1]);
            for address in PUBLIC.into_iter().chain(PRIVATE) {
                knock(guest.netns(), address, ECHO_PORT);
            }
            knock(guest.netns(), RESOLVER, 53);
            assert!(ask(neighbour.netns(), PUBLIC[0], ECHO_PORT).is_some());
            assert_eq!(arena.count(PUBLIC[1]), before);
            assert_eq!(arena.count(RESOLVER), 0);
            assert_eq!(arena.reached(), Vec::<&str>::new());
            drop((guest, neighbour));
            daemon.stop().await;
        }
    });
}

#[test]
fn an_allow_list_opens_its_networks_and_no_others() {
    let arena = Arena::new();
    arena.on_host(async || {
        for attachment in [Attachment::Interface, Attachment::Tap] {
            let daemon = Daemon::start(attachment).await;
            let guest = daemon.take(&allow(&["10.20.0.0/16", "8.8.8.8"])).await;
            let before: Vec<u64> = PRIVATE.iter().map(|address| arena.count(address)).collect();
            for address in PUBLIC.into_iter().chain(PRIVATE) {
                knock(guest.netns(), address, ECHO_PORT);
            }
            assert_eq!(ask(guest.netns(), "10.20.0.5", ECHO_PORT).as_deref(), Some(HOST));
            assert_eq!(ask(guest.netns(), "8.8.8.8", ECHO_PORT).as_deref(), Some(HOST));
            assert_eq!(ask(guest.netns(), RESOLVER, 53).as_deref(), Some(HOST));
            assert_eq!(arena.count("1.1.1.1"), 0);
            for (address, before) in PRIVATE.iter().zip(before) {
                let came = arena.count(address) > before;
                assert_eq!(came, *address == "10.20.0.5", "{address}");
            }
            drop(guest);
            daemon.stop().await;
        }
    });
}

#[test]
fn everything_can_be_allowed_except_the_host_and_other_guests() {
    let arena = Arena::new();
    arena.on_host(async || {
        let daemon = Daemon::start(Attachment::Interface).await;
        let guest = daemon.take(&allow(&["0.0.0.0/0"])).await;
        let reached = forbidden_things_reached(&arena, &daemon, &guest).await;
        let mut expected: Vec<&str> = PRIVATE.to_vec();
        expected.push("name server");
        assert_eq!(reached, expected);
        drop(guest);
        daemon.stop().await;
    });
}

#[test]
fn a_false_source_does_not_leave_the_guest() {
    let arena = Arena::new();
    arena.on_host(async || {
        for attachment in [Attachment::Interface, Attachment::Tap] {
            let daemon = Daemon::start(attachment).await;
            let guest = daemon.take(&NetworkPolicy::Egress).await;
            let other = daemon.lease.space().address(77);
            ip(guest.netns(), &format!("address add {other}/32 dev eth0"));
            assert!(ask_as(guest.netns(), other, PUBLIC[1]).is_none());
            assert_eq!(arena.count(PUBLIC[1]), 0);
            assert!(ask(guest.netns(), PUBLIC[0], ECHO_PORT).is_some());
            drop(guest);
            daemon.stop().await;
        }
    });
}

/// Somebody has become root in the namespace and taken its rules away: the bridge still knows
/// which hardware and which source address belong to its port, and wants nothing but IPv4.
#[test]
fn the_bridge_takes_nothing_but_a_ports_own_addresses() {
    let arena = Arena::new();
    arena.on_host(async || {
        let daemon = Daemon::start(Attachment::Interface).await;
        let guest = daemon.take(&NetworkPolicy::Egress).await;
        let netns = guest.netns();
        let (bridge, other) = (daemon.lease.space().bridge(), daemon.lease.space().address(77));
        let table = format!("bridge {}", daemon.owner.firewall_table());
        let refused = || counter(arena.host(), &table, "denied_spoofed");
        let mut before = 0;
        nft(netns, "delete table inet nova\n");

        ip(netns, &format!("address add {other}/32 dev eth0"));
        assert!(ask_as(netns, other, PUBLIC[1]).is_none());
        assert!(refused() > before, "another source address");
        before = refused();

        ip(netns, &format!("neighbour del {bridge} dev eth0"));
        assert!(ask_as(netns, guest.slot().address(), PUBLIC[1]).is_none());
        assert!(refused() > before, "ARP");
        before = refused();

        run(&["ip", "netns", "exec", netns, "sysctl", "-q", "net.ipv6.conf.eth0.disable_ipv6=0"]);
        wait_for("an IPv6 packet to be refused", || refused() > before);
        assert_eq!(arena.count(PUBLIC[1]), 0);
        drop(guest);
        daemon.stop().await;
    });
}

#[test]
fn a_containers_bandwidth_is_limited_both_ways() {
    let arena = Arena::new();
    arena.on_host(async || {
        let daemon = Daemon::start(Attachment::Interface).await;
        let limits = Limits {
            net_rx_bandwidth: 1_000_000,
            net_tx_bandwidth: 2_000_000,
            ..Limits::default()
        };
        let guest = daemon.take_with(&NetworkPolicy::Egress, &limits).await;
        let link = daemon.owner.link_name(guest.slot().number());
        let received = run(&["tc", "-n", arena.host(), "qdisc", "show", "dev", &link]);
        let sent = run(&["tc", "-n", guest.netns(), "qdisc", "show", "dev", "eth0"]);
        assert!(received.contains("tbf") && received.contains("rate 8Mbit"), "{received}");
        assert!(sent.contains("tbf") && sent.contains("rate 16Mbit"), "{sent}");
        assert_eq!(ask(guest.netns(), PUBLIC[0], ECHO_PORT).as_deref(), Some(HOST));
        drop(guest);
        daemon.stop().await;
    });
}

#[test]
fn only_the_slots_own_uid_may_open_the_tap() {
    let arena = Arena::new();
    arena.on_host(async || {
        let daemon = Daemon::start(Attachment::Tap).await;
        let slot = daemon.network.take(&NetworkPolicy::Egress, &Limits::default()).await.unwrap();
        let devices = ip(slot.netns_name(), "tuntap show");
        let owner = format!("user {}", slot.slot().uid_root());
        assert!(devices.contains("tap0: tap persist") && devices.contains(&owner), "{devices}");
        drop(slot);
        daemon.stop().await;
    });
}
