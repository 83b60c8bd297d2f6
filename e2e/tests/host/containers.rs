//! Containers on this machine, whatever backend the suite is run for: the testbed's control groups are
//! of version 2, those of many a host of version 1.
use crate::scratch;
use nova_e2e::daemon::{DaemonOptions, traces};
use serde_json::json;

/// Answers, or takes more memory than it may have, or all of the time.
const ACTS: &str = "import json, sys, time
act = json.load(open(sys.argv[1]))
if act == 'memory':
    held = bytearray(256 * 1024 * 1024)
    for at in range(0, len(held), 4096):
        held[at] = 1
if act == 'time':
    time.sleep(600)
print(json.dumps(act))
";

#[tokio::test]
async fn a_container_answers_is_held_to_its_limits_and_leaves_nothing() {
    let home = scratch();
    let data = home.path().join("data");
    let options = DaemonOptions { backend: Some("container"), ..DaemonOptions::new(&data) };
    let daemon = options.start().await;
    let body = json!({
        "name": "acts", "runtime": "python", "code": ACTS, "memory_mb": 64, "timeout_s": 10,
        "max_replicas": 1,
    });
    daemon.nova.post("/functions", &body).await.ok();
    let invoke =
        async |act: &str| daemon.nova.post("/functions/acts/invoke", &json!(act)).await.text;
    assert!(invoke("answer").await.contains(r#""output":"answer""#));
    for (act, error) in [("memory", "out_of_memory"), ("time", "timeout")] {
        let said = invoke(act).await;
        assert!(said.contains(error), "{act}: {said}");
        assert!(invoke("answer").await.contains(r#""output":"answer""#), "after {act}");
    }
    let id = daemon.id();
    assert!(daemon.terminate().success());
    assert_eq!(traces(&id, &data), [""; 0]);
}
