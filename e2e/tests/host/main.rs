//! What the owner of a machine notices: crashes, restarts, broken parts, packets. These tests start
//! daemons of their own and look behind them, so they run on the machine that hosts the guests, as
//! root. Needs `NOVA_BIN`, `NOVA_E2E_BACKEND` and `NOVA_ARTIFACTS`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backend_choice;
mod broken_parts;
mod builds;
mod containers;
mod crash;
mod fairness;
mod https;
mod interrupted;
mod network;
mod own_image;
mod packages;
mod secrets_at_rest;
mod shutdown;

use nova_e2e::daemon::Daemon;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A python function that echoes, or sleeps as many seconds as its input says.
const SLEEPER: &str = "import json, sys, time
value = json.load(open(sys.argv[1]))
if isinstance(value, dict):
    time.sleep(value['sleep'])
print(json.dumps(value))
";

/// Room for a data directory, named so that a leftover shows where it came from.
fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("nova-e2e-").tempdir().expect("a temporary directory")
}

/// Creates a function on a test's own daemon.
async fn create(daemon: &Daemon, name: &str, code: &str, fields: Value) {
    let mut body = json!({"name": name, "runtime": "python", "code": code, "timeout_s": 120});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    daemon.nova.post("/functions", &body).await.ok();
}

/// Invokes it; the call must succeed. Returns the function's output.
async fn call(daemon: &Daemon, name: &str, payload: Value) -> Value {
    let answer = daemon.nova.post(&format!("/functions/{name}/invoke"), &payload).await.ok();
    assert!(answer.get("error").is_none_or(Value::is_null), "{answer}");
    answer["output"].clone()
}
