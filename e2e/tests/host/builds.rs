//! A daemon that is killed in the middle of a build: nothing of it stays, and the next one builds again.
use crate::scratch;
use nova_e2e::daemon::{DaemonOptions, traces};
use nova_e2e::eventually;
use serde_json::json;

/// Includes itself twice, a hundred deep: no compiler comes to the end of it.
const ENDLESS: &str = "#if __INCLUDE_LEVEL__ < 100
#include \"main.c\"
#include \"main.c\"
#endif
";

#[tokio::test]
async fn a_build_that_was_killed_with_its_daemon_leaves_nothing_and_is_begun_again() {
    let home = scratch();
    let data = home.path().join("data");
    let options = DaemonOptions::new(&data);
    let daemon = options.start().await;
    let id = daemon.id();
    let body = json!({"name": "endless", "runtime": "c", "code": ENDLESS, "memory_mb": 64});
    assert_eq!(daemon.nova.post("/functions", &body).await.ok()["status"], "pending");
    eventually("the build runs", async || {
        let found = traces(&id, &data);
        found.iter().any(|trace| trace.contains("mount")).then_some(())
    })
    .await;
    daemon.kill();

    let again = options.start().await;
    let shown = again.nova.get("/functions/endless").await.ok();
    assert_eq!(shown["status"], "pending", "{shown}");
    assert!(again.log().contains("its build is begun again"), "{}", again.log());
    again.nova.delete("/functions/endless").await.ok();
    eventually("its guest is gone with it", async || {
        let found = traces(&id, &data);
        (!found.iter().any(|trace| trace.contains("cgroup") && trace.contains("/fn"))).then_some(())
    })
    .await;
    assert!(again.terminate().success());
    assert_eq!(traces(&id, &data), Vec::<String>::new());
}
