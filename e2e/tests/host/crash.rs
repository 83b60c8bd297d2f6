//! `kill -9` of the daemon under load, and the start after it.
use crate::{SLEEPER, call, create, scratch};
use nova_e2e::daemon::{DaemonOptions, guests, processes_in_cgroup, traces};
use nova_e2e::eventually;
use serde_json::json;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

#[tokio::test]
async fn after_kill_9_everything_is_found_and_a_second_daemon_is_untouched() {
    let (first_home, second_home) = (scratch(), scratch());
    let (first_data, second_data) =
        (first_home.path().join("data"), second_home.path().join("data"));
    let options = DaemonOptions::new(&first_data);
    let first = options.start().await;
    // Its guest is to be there at the end, however long all this takes here.
    let second = DaemonOptions {
        environment: &[("NOVA_IDLE_TTL", "1h")],
        ..DaemonOptions::new(&second_data)
    };
    let second = second.start().await;
    for daemon in [&first, &second] {
        create(daemon, "sleeper", SLEEPER, json!({"max_replicas": 2})).await;
        assert_eq!(call(daemon, "sleeper", json!(1)).await, 1);
    }
    let (first_id, second_id) = (first.id(), second.id());
    let of_second = things(&second_id, &second_data);

    // Under load: one VM is busy, another boots.
    let nova = first.nova.clone();
    let load = tokio::spawn(async move {
        let calls = (0..4).map(|_| {
            let request = nova
                .request(reqwest::Method::POST, "/functions/sleeper/invoke")
                .json(&json!({"sleep": 100}));
            request.send()
        });
        futures::future::join_all(calls).await
    });
    let stats = first.nova.clone();
    eventually("two VMs are on their way", async || {
        let stats = stats.get("/stats").await.ok();
        (stats["vms"].as_array().map(Vec::len) == Some(2)).then_some(())
    })
    .await;
    first.kill();
    assert!(load.await.unwrap().iter().all(Result::is_err), "the connections broke");
    assert!(!traces(&first_id, &first_data).is_empty(), "a crash leaves something to find");

    let killed = guests(&first_id);
    assert!(!killed.is_empty(), "guests outlive the daemon that was killed");
    let lost = things(&first_id, &first_data);
    let again = options.start().await;
    assert_eq!(again.id(), first_id, "it is the same owner");
    let alive: Vec<_> = killed.iter().filter(|guest| guests(&first_id).contains(guest)).collect();
    assert!(alive.is_empty(), "found and removed at the start: {alive:?}");
    // Right after the start, before an end in good order could remove them as well.
    for kind in ["link", "guest"] {
        let mut of_kind = lost.iter().filter(|thing| thing.starts_with(kind)).peekable();
        assert!(of_kind.peek().is_some(), "a crash leaves a {kind}: {lost:?}");
        let now = things(&first_id, &first_data);
        let left: Vec<_> = of_kind.filter(|thing| now.contains(thing)).collect();
        assert!(left.is_empty(), "found and removed at the start: {left:?}");
    }
    assert_eq!(call(&again, "sleeper", json!(2)).await, 2, "calls work again at once");
    let images = image_mounts(&first_id);
    let once: HashSet<_> = images.iter().collect();
    assert_eq!(once.len(), images.len(), "no mount lies on one of before: {images:?}");
    let answer = second.nova.post("/functions/sleeper/invoke", &json!(3)).await.ok();
    assert_eq!((&answer["output"], &answer["start"]), (&json!(3), &json!("warm")));
    let answer = second.nova.get("/stats").await.ok();
    assert_eq!(answer["active_vms"], 1, "{answer}");
    let still = things(&second_id, &second_data);
    for thing in &of_second {
        assert!(still.contains(thing), "{thing} of the second daemon is gone");
    }

    assert!(again.terminate().success());
    assert!(second.terminate().success());
    for (id, data) in [(&first_id, &first_data), (&second_id, &second_data)] {
        assert_eq!(traces(id, data), [""; 0], "nothing is left");
    }
}

#[tokio::test]
async fn a_start_without_a_backend_removes_what_a_crash_left() {
    let home = scratch();
    let data = home.path().join("data");
    let crashed = DaemonOptions::new(&data).start().await;
    create(&crashed, "sleeper", SLEEPER, json!({})).await;
    assert_eq!(call(&crashed, "sleeper", json!(1)).await, 1);
    let id = crashed.id();
    crashed.kill();
    assert!(!guests(&id).is_empty(), "guests outlive the daemon that was killed");

    let options = DaemonOptions { backend: Some("none"), ..DaemonOptions::new(&data) };
    let daemon = options.start().await;
    assert_eq!(guests(&id), [0; 0]);
    let itself = format!("process {}:", daemon.pid());
    let left: Vec<_> =
        traces(&id, &data).into_iter().filter(|trace| !trace.starts_with(&itself)).collect();
    assert_eq!(left, [""; 0]);
    assert!(daemon.log().contains("its remains were removed"), "{}", daemon.log());
    assert!(daemon.terminate().success());
    assert_eq!(traces(&id, &data), [""; 0]);
}

#[tokio::test]
async fn a_guest_that_is_killed_costs_its_own_call_only() {
    let home = scratch();
    let data = home.path().join("data");
    let daemon = DaemonOptions::new(&data).start().await;
    create(&daemon, "victim", SLEEPER, json!({"max_replicas": 1})).await;
    create(&daemon, "other", SLEEPER, json!({})).await;
    call(&daemon, "other", json!(1)).await;
    call(&daemon, "victim", json!(1)).await;
    let nova = daemon.nova.clone();
    let in_flight =
        tokio::spawn(
            async move { nova.post("/functions/victim/invoke", &json!({"sleep": 100})).await },
        );
    let vm = eventually("the call runs", async || {
        let stats = daemon.nova.get("/stats").await.ok();
        let busy = stats["vms"].as_array()?.iter().find(|vm| vm["state"] == "busy")?.clone();
        Some(busy["id"].as_str()?.to_owned())
    })
    .await;
    for pid in processes_of(&vm) {
        // The first that is killed may take the others along.
        std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    }
    in_flight.await.unwrap().problem(502, "guest_lost");
    assert_eq!(call(&daemon, "other", json!(2)).await, 2);
    assert_eq!(call(&daemon, "victim", json!(2)).await, 2, "a new guest answers");
    let (id, status) = (daemon.id(), daemon.terminate());
    assert!(status.success());
    assert_eq!(traces(&id, &data), [""; 0]);
}

/// What a daemon has on the host, each thing by a name that it keeps while it is there. Those of links
/// (by number) and of guests are never used twice.
fn things(id: &str, data: &Path) -> Vec<String> {
    let first = |text: &str, words: usize| {
        text.split_whitespace().take(words).collect::<Vec<_>>().join(" ")
    };
    let traces = traces(id, data).into_iter().filter(|trace| !trace.starts_with("process"));
    let mut all: Vec<String> = traces
        .map(|trace| match trace.split_once(": ") {
            Some(("link", line)) => format!("link {}", first(line, 2)),
            Some(("namespace", line)) => format!("namespace {}", first(line, 1)),
            _ => trace,
        })
        .collect();
    let cgroups = all.iter().filter_map(|trace| trace.strip_prefix("cgroup: "));
    let mut above: Vec<PathBuf> = cgroups.map(PathBuf::from).collect();
    above.extend(["run/vms", "run/jail/firecracker", "run/runc"].map(|part| data.join(part)));
    for directory in above {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.path().is_dir());
        all.extend(directories.map(|entry| format!("guest {}", entry.path().display())));
    }
    all
}

/// Where images are mounted for a daemon's containers, one entry for each mount.
fn image_mounts(id: &str) -> Vec<String> {
    let directory = format!("/run/nova-{}/", &id[..6]);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    targets.filter(|target| target.starts_with(&directory)).map(str::to_owned).collect()
}

/// Processes of one guest.
fn processes_of(vm: &str) -> Vec<u32> {
    let pids = processes_in_cgroup(vm);
    assert!(!pids.is_empty(), "no process of VM {vm}");
    pids
}
