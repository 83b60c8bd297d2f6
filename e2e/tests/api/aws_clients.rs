//! The runtime clients of AWS, as functions bring them: unmodified, in place of Nova's own.
use crate::bad_input::tar_gz;
use crate::lambda::{NODE, PYTHON, assert_answers, detail, of_archive};
use flate2::{Compression, write::GzEncoder};
use nova_e2e::{FunctionUnderTest, Nova, install_awslambdaric, node_client, rust_function};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes the program that starts a client.
fn write_bootstrap(directory: &Path, command: &str) {
    let bootstrap = directory.join("bootstrap");
    std::fs::write(&bootstrap, format!("#!/bin/sh\nexec {command} \"$_HANDLER\"\n")).unwrap();
    std::fs::set_permissions(&bootstrap, Permissions::from_mode(0o755)).unwrap();
}

/// Everything below a directory, as an archive.
fn archive_of(directory: &Path) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    archive.append_dir_all(".", directory).unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

#[tokio::test]
async fn the_python_client_of_aws_runs_unmodified() {
    let nova = Nova::from_env();
    let directory = tempfile::tempdir().unwrap();
    install_awslambdaric(directory.path());
    std::fs::write(directory.path().join("main.py"), PYTHON).unwrap();
    write_bootstrap(directory.path(), "/usr/bin/python3 -m awslambdaric");
    let function = of_archive(&nova, "python", &archive_of(directory.path()), json!({})).await;
    assert_answers(&function, "/var/task/main.py").await;
    let error = function.failure(&json!({"do": "raise"}), "function_failed").await;
    assert_eq!(detail(&error), ("KeyError", "'no such order'"));
    assert!(error["detail"]["stackTrace"].to_string().contains("main.py"), "{error}");
    // It takes a SystemExit for an error of the handler, and goes on to end.
    let error = function.invoke(&json!({"do": "exit"})).await.ok();
    assert!(!error["error"].is_null(), "{error}");
    assert_eq!(function.output(&json!({})).await["calls"], 1);
    function.update(&json!({"handler": "elsewhere.handler"})).await;
    let error = function.failure(&json!({}), "function_not_started").await;
    assert_eq!(detail(&error).0, "Runtime.ImportModuleError");
    function.delete().await;
}

#[tokio::test]
async fn the_rust_client_of_aws_runs_unmodified() {
    let nova = Nova::from_env();
    let archive = tar_gz(&[("bootstrap", &rust_function(), 0o755)]);
    let function = of_archive(&nova, "base", &archive, json!({"handler": "rust.handler"})).await;
    let answer = function.call(&json!({"a": 1})).await;
    let output = &answer["output"];
    assert_eq!((&output["input"], &output["name"]), (&json!({"a": 1}), &json!(function.name)));
    assert_eq!((&output["request_id"], &output["memory_mb"]), (&answer["request_id"], &json!(128)));
    assert!(output["deadline_ms"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{output}");
    let error = function.failure(&json!({"do": "fail"}), "function_failed").await;
    assert!(error["message"].as_str().unwrap().contains("no such order"), "{error}");
    let error = function.failure(&json!({"do": "panic"}), "function_failed").await;
    assert!(error["message"].as_str().unwrap().contains("a bug"), "{error}");
    assert_eq!(function.call(&json!({})).await["start"], "warm");
    function.delete().await;
}

/// A function with the Node.js client and this module.
async fn with_the_node_client(nova: &Nova, code: &str, fields: Value) -> FunctionUnderTest {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    archive.append_dir_all("node_modules", node_client()).unwrap();
    let own = tempfile::tempdir().unwrap();
    write_bootstrap(own.path(), "/usr/bin/node node_modules/aws-lambda-ric/index.mjs");
    std::fs::write(own.path().join("main.js"), code).unwrap();
    archive.append_dir_all(".", own.path()).unwrap();
    let archive = archive.into_inner().unwrap().finish().unwrap();
    of_archive(nova, "node", &archive, fields).await
}

#[tokio::test]
async fn the_node_client_of_aws_runs_unmodified() {
    let nova = Nova::from_env();
    let function = with_the_node_client(&nova, NODE, json!({})).await;
    assert_answers(&function, "/var/task/main.js").await;
    assert_eq!(function.output(&json!({"do": "nothing"})).await, Value::Null);
    let error = function.failure(&json!({"do": "raise"}), "function_failed").await;
    assert_eq!(error["message"], "RangeError: no such order");
    // Its own form: what other clients call `stackTrace`.
    assert!(error["detail"]["trace"].to_string().contains("/var/task/main.js"), "{error}");
    assert_eq!(function.output(&json!({})).await["calls"], 5, "the process lives");
    let error = function.failure(&json!({"do": "exit"}), "function_exited").await;
    assert!(error["message"].as_str().unwrap().contains("status 3"), "{error}");
    assert_eq!(function.output(&json!({})).await["calls"], 1, "the next one is new");
    function.update(&json!({"handler": "elsewhere.handler"})).await;
    let error = function.failure(&json!({}), "function_not_started").await;
    assert!(
        error["message"].as_str().unwrap().starts_with("Runtime.ImportModuleError: "),
        "{error}"
    );
    function.delete().await;
}

#[tokio::test]
async fn the_node_client_of_aws_streams_and_takes_several_events() {
    let nova = Nova::from_env();
    let code = r#"
exports.handler = awslambda.streamifyResponse(async (event, stream) => {
  stream.write("[1,");
  if (event.fail) throw new Error("half way");
  stream.write("2]");
  stream.end();
});"#;
    let function = with_the_node_client(&nova, code, json!({})).await;
    assert_eq!(function.output(&json!({})).await, json!([1, 2]));
    let error = function.failure(&json!({"fail": true}), "function_failed").await;
    assert_eq!(error["message"], "Error: half way");
    assert_eq!(function.output(&json!({})).await, json!([1, 2]));
    function.delete().await;

    // It asks for more before it has answered. No handler returns before five are at work.
    let code = r#"
const fs = require("node:fs");
exports.handler = async (event) => {
  fs.mkdirSync(`/tmp/${event.round}/${event.n}`, { recursive: true });
  while (fs.readdirSync(`/tmp/${event.round}`).length < 5) await new Promise((again) => setTimeout(again, 5));
  return event;
};"#;
    let one_thread = json!({"AWS_LAMBDA_NODEJS_WORKER_COUNT": "1"});
    let fields = json!({"instance_concurrency": 5, "max_replicas": 1, "env_vars": one_thread});
    let function = with_the_node_client(&nova, code, fields).await;
    for round in 0..3 {
        let calls = (0..5).map(|n| {
            let (function, event) = (&function, json!({"round": round, "n": n}));
            async move { assert_eq!(function.output(&event).await, event) }
        });
        futures::future::join_all(calls).await;
    }
    function.delete().await;
}
