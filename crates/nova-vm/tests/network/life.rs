//! How a daemon's network comes and goes: nothing is left, nothing of another daemon is touched.
use crate::arena::daemon::{Daemon, allow};
use crate::arena::{
    Arena, ECHO_PORT, HOST, PUBLIC, ask, inventory, ip, namespaces, nft, run, wait_for,
};
use nova_domain::{Limits, NetworkPolicy};
use nova_vm::lease::Lease;
use nova_vm::network::{Attachment, Network, NetworkError, obstacles};
use nova_vm::owner::Owner;
use nova_vm::slots::{AddressRange, SLOTS_MAX};
use std::path::Path;

/// The OCI runtime has nothing to do in these tests.
const NO_RUNTIME: &str = "/nonexistent/runc";

#[test]
fn a_hundred_slots_come_and_go_and_leave_nothing() {
    let arena = Arena::new();
    arena.on_host(async || {
        let before = inventory(arena.host());
        let daemon = Daemon::start(Attachment::Tap).await;
        let prefix = daemon.owner.name_prefix();
        let mut slots = Vec::new();
        for _ in 0..100 {
            let slot = daemon.network.take(&NetworkPolicy::Egress, &Limits::default()).await;
            slots.push(slot.unwrap());
        }
        assert!(namespaces(&prefix) >= 100);
        drop(slots);
        daemon.stop().await;
        assert_eq!(inventory(arena.host()), before);
        assert_eq!(namespaces(&prefix), 0);
    });
}

#[test]
fn a_dropped_slot_can_be_used_again_while_the_daemon_runs() {
    let arena = Arena::new();
    arena.on_host(async || {
        let daemon = Daemon::start(Attachment::Interface).await;
        let slots = daemon.lease.slots();
        let guest = daemon.take(&NetworkPolicy::Egress).await;
        let name = guest.netns().to_owned();
        drop(guest);
        wait_for("its namespace to go", || namespaces(&name) == 0);
        let all_back = || slots.free() + daemon.network.ready() == usize::from(SLOTS_MAX);
        wait_for("its slot to be free", all_back);
        daemon.stop().await;
    });
}

#[test]
fn a_caller_who_leaves_while_a_slot_is_made_leaves_nothing() {
    let arena = Arena::new();
    arena.on_host(async || {
        let daemon = Daemon::start(Attachment::Tap).await;
        let prefix = daemon.owner.name_prefix();
        let slots = daemon.lease.slots();
        // An allow list always has work to do, so that the future is dropped in its midst.
        let policy = allow(&["10.0.0.0/8"]);
        for _ in 0..10 {
            let limits = Limits::default();
            let mut taking = Box::pin(daemon.network.take(&policy, &limits));
            assert!(futures::poll!(&mut taking).is_pending());
        }
        let all_back = || slots.free() + daemon.network.ready() == usize::from(SLOTS_MAX);
        wait_for("all slots to be free", all_back);
        daemon.stop().await;
        assert_eq!(namespaces(&prefix), 0);
    });
}

#[test]
fn what_a_crash_leaves_is_found_and_a_daemon_beside_it_is_untouched() {
    let arena = Arena::new();
    arena.on_host(async || {
        let beside = Daemon::start(Attachment::Interface).await;
        let guest_beside = beside.take(&NetworkPolicy::Egress).await;
        wait_for("the stock to be full", || beside.network.ready() == 2);
        let before = inventory(arena.host());

        let crashed = Daemon::start(Attachment::Tap).await;
        let limits = Limits::default();
        let guest = crashed.network.take(&NetworkPolicy::Egress, &limits).await.unwrap();
        let owner = crashed.owner.clone();
        let lease = Path::new("/run/nova").join(format!("lease-{}", crashed.lease.index()));
        assert_ne!(crashed.network.bridge(), beside.network.bridge());
        assert_ne!(crashed.lease.index(), beside.lease.index());
        wait_for("the stock to be full", || crashed.network.ready() == 2);
        // What a crash does: no destructor runs.
        std::mem::forget((crashed, guest));
        assert!(namespaces(&owner.name_prefix()) > 0);

        let report = nova_vm::reconcile::reconcile(&owner, Path::new(NO_RUNTIME)).await;
        assert_eq!(report.failed, Vec::<String>::new());
        assert!(report.removed.iter().any(|what| what.starts_with("bridge ")), "{report:?}");
        assert_eq!(inventory(arena.host()), before);
        assert_eq!(namespaces(&owner.name_prefix()), 0);
        let answer = ask(guest_beside.netns(), PUBLIC[0], ECHO_PORT);
        assert_eq!(answer.as_deref(), Some(HOST));

        let again = nova_vm::reconcile::reconcile(&owner, Path::new(NO_RUNTIME)).await;
        assert!(again.removed.is_empty() && again.failed.is_empty(), "{again:?}");
        // What the next start of the crashed daemon would take over.
        std::fs::remove_file(lease).unwrap();
        drop(guest_beside);
        beside.stop().await;
    });
}

#[test]
fn a_daemon_whose_network_is_dropped_without_a_shutdown_leaves_nothing() {
    let arena = Arena::new();
    arena.on_host(async || {
        let before = inventory(arena.host());
        let daemon = Daemon::start(Attachment::Interface).await;
        let prefix = daemon.owner.name_prefix();
        let guest = daemon.take(&NetworkPolicy::Egress).await;
        let lease = Path::new("/run/nova").join(format!("lease-{}", daemon.lease.index()));
        drop(daemon);
        assert!(lease.exists(), "the share is used until the last guest is gone");
        drop(guest);
        wait_for("everything to go", || inventory(arena.host()) == before);
        assert_eq!(namespaces(&prefix), 0);
    });
}

#[test]
fn a_range_that_the_host_uses_is_refused_by_name() {
    let arena = Arena::new();
    arena.on_host(async || {
        for taken in ["address add 172.30.77.1/24 dev out0", "route add 172.16.0.0/12 dev out0"] {
            ip(arena.host(), taken);
            let before = inventory(arena.host());
            let data_dir = tempfile::tempdir().unwrap();
            let owner = Owner::open(data_dir.path()).unwrap();
            let lease = Lease::take(&owner, AddressRange::default()).unwrap();
            let config = Daemon::config(Attachment::Interface);
            let refused = Network::start(owner, &lease, config).await.unwrap_err();
            assert!(matches!(refused, NetworkError::Overlap { .. }), "{refused}");
            let text = refused.to_string();
            assert!(text.contains("network_range") && text.contains("out0"), "{text}");
            assert_eq!(inventory(arena.host()), before);
            ip(arena.host(), &taken.replace(" add ", " del "));
        }
    });
}

#[test]
fn what_stands_in_the_way_is_named_before_the_start() {
    let arena = Arena::new();
    arena.on_host(async || {
        let problems = || {
            let found = obstacles(AddressRange::default(), "novabr0").into_iter();
            found.map(|one| one.problem).collect::<Vec<_>>().join("\n")
        };
        assert!(!problems().contains("172.30.77.1") && !problems().contains("FORWARD"));
        for (value, is_named) in [("0", true), ("1", false)] {
            let setting = format!("net.ipv4.ip_forward={value}");
            run(&["ip", "netns", "exec", arena.host(), "sysctl", "-q", &setting]);
            assert_eq!(problems().contains("ip_forward"), is_named);
        }
        let docker = "table ip filter {\n chain FORWARD {\n  type filter hook forward priority 0; \
                      policy drop;\n }\n}\n";
        nft(arena.host(), docker);
        ip(arena.host(), "address add 172.30.77.1/24 dev out0");
        assert!(problems().contains("drop forwarded packets: ip filter FORWARD"));
        assert!(problems().contains("172.30.77.1/24 on out0"));
    });
}

#[test]
fn another_range_works_as_well() {
    let arena = Arena::new();
    arena.on_host(async || {
        ip(arena.host(), "address add 172.30.77.1/24 dev out0");
        let data_dir = tempfile::tempdir().unwrap();
        let owner = Owner::open(data_dir.path()).unwrap();
        let lease = Lease::take(&owner, "10.200.0.0/16".parse().unwrap()).unwrap();
        let config = Daemon::config(Attachment::Interface);
        let network = Network::start(owner, &lease, config).await.unwrap();
        let slot = network.take(&NetworkPolicy::Egress, &Limits::default()).await.unwrap();
        assert_eq!(slot.slot().address().octets()[..2], [10, 200]);
        assert_eq!(ask(slot.netns_name(), PUBLIC[0], ECHO_PORT).as_deref(), Some(HOST));
        drop(slot);
        network.shutdown().await;
    });
}
