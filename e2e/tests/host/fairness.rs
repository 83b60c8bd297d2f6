//! A full host: what one function wants does not keep another from being served.
use crate::{create, scratch};
use nova_e2e::daemon::DaemonOptions;
use nova_e2e::eventually;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Callers of the flood: ten for each guest that there is room for.
const CALLERS: usize = 20;

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
    create(&daemon, "other", NAP, json!({"timeout_s": 120})).await;
    let (nova, over) = (daemon.nova.clone(), Arc::new(AtomicBool::new(false)));
    let goes_on = over.clone();
    let flood = tokio::spawn(async move {
        let callers = (0..CALLERS).map(async |_| {
            // Without an end of its own: whoever is served is served while it goes on.
            while !goes_on.load(Ordering::Relaxed) {
                nova.post("/functions/busy/invoke", &json!({})).await.ok();
            }
        });
        futures::future::join_all(callers).await;
    });
    eventually("the flood has the whole host", async || {
        let stats = daemon.nova.get("/stats").await.ok();
        let vms = stats["vms"].as_array()?;
        let full = vms.len() == 2 && vms.iter().all(|vm| vm["state"] == "busy");
        full.then_some(())
    })
    .await;
    // Starved, it would be told so when its time is up.
    daemon.nova.post("/functions/other/invoke", &json!({})).await.ok();
    over.store(true, Ordering::Relaxed);
    flood.await.unwrap();
    assert!(daemon.terminate().success());
}
