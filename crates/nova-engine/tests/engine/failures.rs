//! Failures of functions, guests, boots and what a function refers to.
use crate::world::{World, environment};
use nova_domain::{FunctionErrorKind, RuntimeId, Start};
use nova_vm::BootError;
use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn a_function_that_fails_is_an_answer_and_its_vm_stays_warm() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let failed = world.call("f", json!({"fail": "function_exited"})).await.unwrap();
    assert_eq!(failed.error.unwrap().kind, FunctionErrorKind::FunctionExited);
    assert_eq!(world.call("f", json!({})).await.unwrap().start, Start::Warm);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_an_answer_too_and_the_vm_survives() {
    let world = World::new();
    world.put("f", |f| f.config.timeout_s = 1).await;
    let late = world.call("f", json!({"ms": 5000})).await.unwrap();
    assert_eq!(late.error.unwrap().kind, FunctionErrorKind::Timeout);
    assert_eq!(world.call("f", json!({})).await.unwrap().start, Start::Warm);
}

#[tokio::test(start_paused = true)]
async fn a_lost_guest_is_an_error_and_the_call_is_not_run_again() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let error = world.call("f", json!({"n": 1, "guest": "dies"})).await.unwrap_err();
    assert_eq!(error.code(), "guest_lost");
    assert_eq!(world.driver.host().order, [1], "once");
    assert_eq!(world.call("f", json!({})).await.unwrap().start, Start::Cold);
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_dies_while_it_idles_is_noticed_before_the_next_call() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.call("f", json!({})).await.unwrap();
    world.driver.kill_all();
    world.pass(100).await;
    assert_eq!(world.alive(), 0);
    assert_eq!(world.executor.metrics().vms_crashed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_boot_tells_every_caller_why_and_leaves_nothing() {
    let world = World::new();
    world.put("f", |f| f.config.max_replicas = 2).await;
    world.driver.host().boots_fail = Some(|| BootError::Failed {
        phase: "configuring the drives",
        problem: "no space left on device".into(),
    });
    let calls: Vec<_> = (0..6).map(|_| world.spawn("f", json!({}))).collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.code(), "boot_failed");
        assert!(error.to_string().contains("no space left on device"), "{error}");
    }
    assert_eq!(world.boots(), 6, "one boot per caller, none after that");
    world.driver.host().boots_fail = None;
    world.call("f", json!({})).await.unwrap();
    assert_eq!(world.executor.metrics().boots_failed, 6);
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_backend_says_so() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.driver.host().boots_fail = Some(|| BootError::Unavailable("chosen as none".into()));
    let error = world.call("f", json!({})).await.unwrap_err();
    assert_eq!(error.code(), "backend_unavailable");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_panics_fails_the_caller_and_nothing_else() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.driver.host().boots_fail = Some(|| panic!("a bug in the driver"));
    let error = world.call("f", json!({})).await.unwrap_err();
    assert_eq!(error.code(), "boot_failed");
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_named_before_any_boot() {
    let world = World::new();
    world.put("f", |f| f.config.runtime = RuntimeId::parse("cobol").unwrap()).await;
    let error = world.call("f", json!({})).await.unwrap_err();
    assert_eq!(error.code(), "runtime_not_installed");
    assert!(error.to_string().contains("nova runtime add cobol"), "{error}");
    world.put("g", |f| f.config.env_vars = environment(&[("KEY", "$SECRET:absent")])).await;
    assert_eq!(world.call("g", json!({})).await.unwrap_err().code(), "secret_missing");
    assert_eq!(world.call("nobody", json!({})).await.unwrap_err().code(), "function_not_found");
    assert_eq!(world.boots(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_payload_over_the_limit_is_refused() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let largest = Value::String("x".repeat(6 * 1024 * 1024 - 2));
    world.call("f", largest).await.unwrap();
    let too_large = Value::String("x".repeat(6 * 1024 * 1024 - 1));
    assert_eq!(world.call("f", too_large).await.unwrap_err().code(), "payload_too_large");
}
