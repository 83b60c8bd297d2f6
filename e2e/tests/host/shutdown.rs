//! SIGTERM: calls in flight finish, then nothing but the data directory is left.
use crate::{SLEEPER, call, create, scratch};
use nova_e2e::daemon::{DaemonOptions, traces};
use nova_e2e::eventually;
use serde_json::json;

#[tokio::test]
async fn calls_in_flight_finish_and_nothing_is_left() {
    let home = scratch();
    let data = home.path().join("data");
    let daemon = DaemonOptions::new(&data).start().await;
    create(&daemon, "sleeper", SLEEPER, json!({"min_replicas": 1})).await;
    call(&daemon, "sleeper", json!(1)).await;
    let (nova, id) = (daemon.nova.clone(), daemon.id());
    let in_flight = tokio::spawn(async move {
        nova.post("/functions/sleeper/invoke", &json!({"sleep": 3})).await.ok()
    });
    let nova = daemon.nova.clone();
    eventually("the call runs", async || {
        let stats = nova.get("/stats").await.ok();
        stats["vms"].as_array()?.iter().any(|vm| vm["state"] == "busy").then_some(())
    })
    .await;
    let stopped = tokio::task::spawn_blocking(move || daemon.terminate());
    assert_eq!(in_flight.await.unwrap()["output"], json!({"sleep": 3}));
    assert!(stopped.await.unwrap().success());
    assert_eq!(traces(&id, &data), [""; 0]);
}

#[tokio::test]
async fn state_survives_a_restart() {
    let home = scratch();
    let data = home.path().join("data");
    let options = DaemonOptions::new(&data);
    let daemon = options.start().await;
    create(&daemon, "sleeper", SLEEPER, json!({})).await;
    call(&daemon, "sleeper", json!(1)).await;
    let key = daemon.nova.key().to_owned();
    assert!(daemon.terminate().success());
    // The database's file is whole: nothing is left in the ones beside it.
    for leftover in ["nova.db-wal", "nova.db-shm"] {
        assert!(!data.join(leftover).exists(), "{leftover}");
    }
    let daemon = options.start().await;
    assert_eq!(daemon.nova.key(), key, "the admin key is made once");
    assert_eq!(call(&daemon, "sleeper", json!(2)).await, 2);
    let records = daemon.nova.get("/invocations?function=sleeper").await.ok();
    assert!(!records["items"].as_array().unwrap().is_empty(), "the first call is remembered");
    assert!(daemon.terminate().success());
}

#[tokio::test]
async fn a_second_daemon_on_the_same_directory_is_refused() {
    let home = scratch();
    let data = home.path().join("data");
    let options = DaemonOptions::new(&data);
    let daemon = options.start().await;
    let output = options.command().stderr(std::process::Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("used by another daemon"), "{said}");
    create(&daemon, "sleeper", SLEEPER, json!({})).await;
    assert_eq!(call(&daemon, "sleeper", json!(1)).await, 1, "the first is not disturbed");
    assert!(daemon.terminate().success());
}
