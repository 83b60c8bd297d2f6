//! The Firecracker driver against a stand-in for the jailer and Firecracker that fails on demand:
//! whatever goes wrong, at whatever moment, the error says what it was and nothing is left on the host.
//!
//! Needs root, for the jail's uid and the cgroups; no KVM. The stand-in is a Python program.
// Outside of #[test] functions clippy does not know that this is a test.
#![allow(clippy::unwrap_used)]

mod stand_in;

use nova_vm::BootError;
use serde_json::json;
use stand_in::{Bench, call};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Boots with a behaviour that must fail, checks that nothing is left, and returns the error.
async fn failure(behaviour: serde_json::Value) -> String {
    let bench = Bench::new(behaviour);
    let error = match bench.boot().await {
        Ok(_) => panic!("the boot succeeded"),
        Err(error) => error.to_string(),
    };
    // No waiting: with the error the caller is told that everything is gone.
    bench.assert_nothing_left();
    bench.finish().await;
    error
}

#[tokio::test]
async fn a_guest_boots_answers_a_call_and_leaves_nothing() {
    let bench = Bench::new(json!({}));
    let vm = bench.boot().await.unwrap();
    let answer = call(&*vm).await.unwrap();
    assert_eq!(answer["input"], json!({"n": 1}));
    assert_eq!(answer["uid"], bench.uid_of_first_slot());
    let requests = &answer["requests"];
    assert_eq!(requests["/machine-config"]["vcpu_count"], 2);
    assert_eq!(requests["/machine-config"]["mem_size_mib"], 128 + 2 + bench.guest_overhead_mb());
    assert_eq!(requests["/drives/image"]["is_read_only"], true);
    assert_eq!(requests["/drives/code"]["rate_limiter"]["ops"]["size"], 500);
    assert_eq!(requests["/vsock"]["guest_cid"], 3);
    assert!(requests.get("/network-interfaces/eth0").is_none());
    vm.stop().await;
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn layers_are_a_third_drive_where_there_are_any() {
    let bench = Bench::new(json!({}));
    let plain = bench.boot().await.unwrap();
    assert!(call(&*plain).await.unwrap()["requests"].get("/drives/layers").is_none());
    plain.stop().await;
    let mut spec = bench.spec();
    spec.layers_hash = Some(spec.code_hash.clone());
    let layered = bench.boot_spec(spec).await.unwrap();
    let answer = call(&*layered).await.unwrap();
    assert_eq!(answer["requests"]["/drives/layers"]["is_read_only"], true);
    layered.stop().await;
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn a_guest_that_does_not_stop_is_killed() {
    let bench = Bench::new(json!({"agent": "stays"}));
    bench.boot().await.unwrap().stop().await;
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn a_dropped_guest_leaves_nothing() {
    let bench = Bench::new(json!({}));
    drop(bench.boot().await.unwrap());
    bench.until_nothing_left().await;
    bench.finish().await;
}

#[tokio::test]
async fn a_guest_that_is_limited_has_its_quota_once_it_is_up() {
    let bench = Bench::new(json!({}));
    let vm = bench.boot().await.unwrap();
    assert_eq!(bench.cpu_quota_us(vm.id()), 200_000);
    vm.stop().await;
    bench.finish().await;
}

#[tokio::test]
async fn a_guest_that_dies_is_noticed_with_its_last_words() {
    let bench = Bench::new(json!({}));
    let vm = bench.boot().await.unwrap();
    bench.kill_vmm();
    let why = vm.died().await;
    assert!(why.contains("firecracker was killed by signal 9"), "{why}");
    assert!(why.contains("the guest's console"), "{why}");
    let lost = call(&*vm).await.unwrap_err().to_string();
    assert!(lost.contains("firecracker was killed by signal 9"), "{lost}");
    vm.stop().await;
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn an_agent_that_is_slow_to_listen_is_waited_for() {
    let bench = Bench::new(json!({"vsock": 5}));
    bench.boot().await.unwrap().stop().await;
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn without_a_jailer_the_error_names_it() {
    let bench = Bench::new(json!({}));
    bench.remove_jailer();
    let error = bench.boot().await.err().unwrap().to_string();
    assert!(error.starts_with("boot failed while starting the jailer: "), "{error}");
    assert!(error.contains("No such file or directory"), "{error}");
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn without_a_firecracker_the_error_names_it() {
    let bench = Bench::new(json!({}));
    bench.remove_firecracker();
    let error = bench.boot().await.err().unwrap().to_string();
    assert!(error.contains("firecracker"), "{error}");
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn a_jailer_that_refuses_is_quoted() {
    let error = failure(json!({"jailer": "exits"})).await;
    assert!(error.contains("firecracker exited with status 1"), "{error}");
    assert!(error.contains("the jailer does not like this host"), "{error}");
}

#[tokio::test]
async fn a_socket_that_never_appears_ends_at_the_deadline() {
    let error = failure(json!({"jailer": "hangs"})).await;
    assert!(error.contains("waiting for firecracker's socket: not done within"), "{error}");
}

const REQUESTS: [(&str, &str); 7] = [
    ("GET /", "waiting for firecracker's socket"),
    ("PUT /machine-config", "configuring the machine"),
    ("PUT /boot-source", "configuring the machine"),
    ("PUT /drives/image", "configuring the drives"),
    ("PUT /drives/code", "configuring the drives"),
    ("PUT /vsock", "configuring the vsock"),
    ("PUT /actions", "starting the guest"),
];

#[tokio::test]
async fn a_request_that_is_refused_ends_the_boot_with_the_fault_message() {
    for (request, phase) in REQUESTS {
        let error = failure(json!({request: "refuses"})).await;
        assert!(error.starts_with(&format!("boot failed while {phase}: ")), "{error}");
        let path = request.split(' ').next_back().unwrap();
        assert!(error.contains(&format!("{path} is not to my liking")), "{error}");
    }
}

#[tokio::test]
async fn a_network_that_cannot_be_configured_ends_the_boot_and_gives_its_slot_back() {
    for (what, said) in [
        ("refuses", "/network-interfaces/eth0 is not to my liking"),
        ("closes", ""),
        ("garbage", ""),
        ("endless", ""),
        ("hangs", "no answer within"),
        ("dies", "firecracker exited with status 148"),
    ] {
        let bench = Bench::with_network(json!({"PUT /network-interfaces/eth0": what})).await;
        let error = bench.boot().await.err().expect("a failure").to_string();
        assert!(error.starts_with("boot failed while configuring the network: "), "{error}");
        assert!(error.contains(said), "{what}: {error}");
        bench.assert_nothing_left_but_slots();
        // Nothing of its namespace and link either, once the daemon ends.
        bench.finish().await;
    }
}

#[tokio::test]
async fn a_guest_with_a_network_has_its_interface_and_leaves_nothing() {
    let bench = Bench::with_network(json!({})).await;
    let vm = bench.boot().await.unwrap();
    let answer = call(&*vm).await.unwrap();
    assert_eq!(answer["requests"]["/network-interfaces/eth0"]["iface_id"], "eth0");
    vm.stop().await;
    bench.assert_nothing_left_but_slots();
    bench.finish().await;
}

#[tokio::test]
async fn a_request_without_a_proper_answer_ends_the_boot() {
    for (request, phase) in REQUESTS {
        for what in ["closes", "garbage", "endless"] {
            let error = failure(json!({request: what})).await;
            assert!(error.starts_with(&format!("boot failed while {phase}: ")), "{what}: {error}");
        }
    }
}

#[tokio::test]
async fn a_request_that_hangs_ends_at_its_timeout() {
    for (request, phase) in REQUESTS {
        let error = failure(json!({request: "hangs"})).await;
        assert!(error.starts_with(&format!("boot failed while {phase}: ")), "{error}");
        assert!(error.contains("no answer within"), "{error}");
    }
}

#[tokio::test]
async fn a_firecracker_that_dies_is_reported_with_its_last_words() {
    for (request, phase) in REQUESTS {
        let error = failure(json!({request: "dies"})).await;
        assert!(error.starts_with(&format!("boot failed while {phase}: ")), "{error}");
        assert!(error.contains("firecracker exited with status 148"), "{error}");
        assert!(error.contains("firecracker: a fatal error"), "{error}");
    }
}

#[tokio::test]
async fn a_guest_that_never_answers_is_a_timeout_that_quotes_the_console() {
    for behaviour in
        [json!({"vsock": "silent"}), json!({"vsock": "closes"}), json!({"agent": "mute"})]
    {
        let error = failure(behaviour).await;
        assert!(error.contains("guest did not answer within"), "{error}");
        assert!(error.contains("the guest's console"), "{error}");
    }
}

#[tokio::test]
async fn an_agent_that_refuses_or_speaks_otherwise_is_quoted() {
    for (what, expected) in [
        ("refuses", "mount /dev/vda: no such device"),
        ("other_protocol", "protocol version 99"),
        ("garbage", "setting up the guest"),
    ] {
        let error = failure(json!({"agent": what})).await;
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_guest_that_panics_at_init_is_quoted() {
    let error = failure(json!({"agent": "dies"})).await;
    assert!(error.contains("firecracker exited with status 0"), "{error}");
    assert!(error.contains("Kernel panic - not syncing"), "{error}");
}

/// Behaviours that keep a boot in one phase for ever.
fn stuck() -> Vec<serde_json::Value> {
    let mut all =
        vec![json!({"jailer": "hangs"}), json!({"vsock": "silent"}), json!({"agent": "mute"})];
    all.extend(REQUESTS.iter().map(|(request, _)| json!({*request: "hangs"})));
    all
}

#[tokio::test]
async fn a_boot_that_is_given_up_in_any_phase_leaves_nothing() {
    for behaviour in stuck() {
        let bench = Bench::new(behaviour);
        let mut boot = Box::pin(bench.boot());
        // Give up as soon as the phase has something to leave behind.
        while !bench.has_process_in_jail() {
            let pause = tokio::time::timeout(Duration::from_millis(5), &mut boot).await;
            assert!(pause.is_err(), "the boot ended");
        }
        let more = tokio::time::timeout(Duration::from_millis(100), &mut boot).await;
        assert!(more.is_err(), "the boot ended");
        drop(boot);
        bench.until_nothing_left().await;
        bench.finish().await;
    }
}

#[tokio::test]
async fn a_burst_of_boots_given_up_at_every_moment_leaves_nothing() {
    let bench = Bench::new(json!({}));
    let boots = (0..24).map(|number| {
        let patience = Duration::from_millis(number * 15);
        tokio::time::timeout(patience, bench.boot())
    });
    // Some are given up before they begin, some in each phase, some as running guests.
    drop(futures::future::join_all(boots).await);
    bench.until_nothing_left().await;
    bench.finish().await;
}

#[tokio::test]
async fn a_full_disk_is_named_and_leaves_nothing() {
    let bench = Bench::on_full_disk();
    let error = bench.boot().await.err().unwrap().to_string();
    assert!(error.starts_with("boot failed while preparing the jail: "), "{error}");
    assert!(error.contains("No space left on device"), "{error}");
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn a_file_that_guests_could_write_is_refused() {
    let bench = Bench::new(json!({}));
    bench.make_kernel_writable_by_all();
    let error = bench.boot().await.err().unwrap().to_string();
    assert!(error.contains("chmod it to 644"), "{error}");
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn an_image_that_is_not_installed_is_named() {
    let bench = Bench::new(json!({}));
    let mut spec = bench.spec();
    spec.image_digest = "f".repeat(64);
    let error = bench.boot_spec(spec).await.err().unwrap();
    assert!(matches!(error, BootError::Artifact { .. }), "{error}");
    assert!(error.to_string().contains("nova runtime add"), "{error}");
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn an_image_whose_file_is_gone_is_named_with_its_runtime() {
    let bench = Bench::new(json!({}));
    bench.remove_image();
    let error = bench.boot().await.err().unwrap().to_string();
    assert!(error.contains("`nova runtime add base` brings it back"), "{error}");
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn guests_run_side_by_side_under_uids_of_their_own() {
    let bench = Bench::new(json!({}));
    let (first, second) = tokio::join!(bench.boot(), bench.boot());
    let (first, second) = (first.unwrap(), second.unwrap());
    let (one, two) = (call(&*first).await.unwrap(), call(&*second).await.unwrap());
    assert_ne!(one["uid"], two["uid"]);
    first.stop().await;
    assert!(call(&*second).await.is_ok());
    second.stop().await;
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn what_a_crashed_daemon_left_is_found_and_another_daemons_guests_live_on() {
    let crashed = Bench::new(json!({}));
    let other = Bench::new(json!({}));
    let lost = crashed.boot().await.unwrap();
    let kept = other.boot().await.unwrap();
    // As after a crash: nobody will ever stop this guest.
    std::mem::forget(lost);
    let report = nova_vm::firecracker::reconcile(crashed.owner());
    assert_eq!(report.failed, Vec::<String>::new());
    assert!(report.removed.iter().any(|what| what.starts_with("process ")), "{report:?}");
    crashed.assert_nothing_left_but_slots();
    assert!(call(&*kept).await.is_ok());
    kept.stop().await;
    other.finish().await;
}

#[tokio::test]
async fn a_probe_succeeds_where_a_guest_answers_and_leaves_nothing() {
    let bench = Bench::new(json!({}));
    bench.probe(Duration::from_secs(20)).await.unwrap();
    bench.until_nothing_left().await;
    bench.finish().await;
}

#[tokio::test]
async fn a_probe_whose_guest_never_answers_ends_in_time_and_leaves_nothing() {
    let bench = Bench::new(json!({"vsock": "closes"}));
    let error = bench.probe(Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(error, BootError::Timeout { timeout_ms: 2000, .. }), "{error}");
    bench.assert_nothing_left();
    bench.finish().await;
}

#[tokio::test]
async fn a_probe_that_is_interrupted_in_any_phase_has_left_nothing_when_it_returns() {
    for behaviour in stuck() {
        let bench = Bench::new(behaviour);
        let interrupted = CancellationToken::new();
        let interrupt = async {
            while !bench.has_process_in_jail() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            interrupted.cancel();
        };
        let probe = bench.probe_until(Duration::from_secs(60), &interrupted);
        let (probed, ()) = tokio::join!(probe, interrupt);
        assert!(probed.unwrap_err().to_string().contains("interrupted"));
        // No waiting: the process may end as soon as the probe has returned.
        bench.assert_nothing_left();
        bench.finish().await;
    }
}
