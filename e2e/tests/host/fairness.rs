//! A full host: what one function wants does not keep another from being served.
use crate::{create, scratch};
use nova_e2e::daemon::DaemonOptions;
use nova_e2e::eventually;
use serde_json::json;

const NAP: &str = "import time\ntime.sleep(0.2)\nprint('1')\n";

#[tokio::test]
async fn a_flood_of_one_function_does_not_starve_another() {
    let home = scratch();
    let data = home.path().join("data");
    // Room for two guests, and both are the busy function's when the other is called.
    let options =
        DaemonOptions { environment: &[("NOVA_VMS_MAX", "2")], ..DaemonOptions::new(&data) };
    let daemon = options.start().await;
    create(&daemon, "busy", NAP, json!({"timeout_s": 600})).await;
    create(&daemon, "other", NAP, json!({"timeout_s": 600})).await;
    let nova = daemon.nova.clone();
    let flood = tokio::spawn(async move {
        let payload = json!({});
        let calls = (0..60).map(|_| nova.post("/functions/busy/invoke", &payload));
        futures::future::join_all(calls).await
    });
    eventually("the flood has the whole host", async || {
        let stats = daemon.nova.get("/stats").await.ok();
        let vms = stats["vms"].as_array()?;
        let full = vms.len() == 2 && vms.iter().all(|vm| vm["state"] == "busy");
        full.then_some(())
    })
    .await;
    daemon.nova.post("/functions/other/invoke", &json!({})).await.ok();
    assert!(!flood.is_finished(), "the other was served while the flood went on");
    for answer in flood.await.unwrap() {
        answer.ok();
    }
    assert!(daemon.terminate().success());
}
