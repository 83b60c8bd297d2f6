//! The next call runs what is in the store now; calls in flight finish on what they started with.
use crate::world::{World, environment, secret};
use nova_domain::{CodeHash, Start};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn new_code_is_what_the_next_call_runs_while_the_old_call_finishes() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let old = world.spawn("f", json!({"ms": 5000}));
    world.pass(500).await;
    world
        .put("f", |f| {
            f.code_hash = CodeHash::of(b"second");
            f.version = 2;
        })
        .await;
    let new = world.call("f", json!({})).await.unwrap();
    assert_eq!((new.start, new.version), (Start::Cold, 2));
    assert_eq!(crate::world::output(&new)["code"], CodeHash::of(b"second").as_str());
    let old = old.await.unwrap().unwrap();
    assert_eq!(old.version, 1);
    assert_eq!(crate::world::output(&old)["code"], CodeHash::of(b"first").as_str());
    world.pass(1000).await;
    assert_eq!(world.alive(), 1, "the old VM is gone with its call");
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_still_waits_when_the_code_changes_runs_the_new_code() {
    let world = World::new();
    world.put("f", |f| f.config.max_replicas = 1).await;
    let running = world.spawn("f", json!({"ms": 1000}));
    world.pass(200).await;
    let waiting = world.spawn("f", json!({}));
    world.pass(10).await;
    world
        .put("f", |f| {
            f.code_hash = CodeHash::of(b"second");
            f.version = 2;
        })
        .await;
    running.await.unwrap().unwrap();
    let waited = waiting.await.unwrap().unwrap();
    assert_eq!(waited.version, 2);
    assert_eq!(crate::world::output(&waited)["code"], CodeHash::of(b"second").as_str());
}

#[tokio::test(start_paused = true)]
async fn new_memory_and_new_variables_mean_a_new_vm() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let before = world.output("f", json!({})).await;
    world.put("f", |f| f.config.memory_mb = 256).await;
    let after = world.output("f", json!({})).await;
    assert_eq!((&before["memory_mb"], &after["memory_mb"]), (&json!(128), &json!(256)));
    world.put("f", |f| f.config.env_vars = environment(&[("COLOUR", "blue")])).await;
    let with_variable = world.output("f", json!({})).await;
    assert_eq!(with_variable["env"], json!({"COLOUR": "blue", "LANG": "C.UTF-8"}));
    assert_eq!(with_variable["command"], json!(["/bin/run", "/code/handler"]));
}

#[tokio::test(start_paused = true)]
async fn a_new_description_keeps_the_warm_vm() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.call("f", json!({})).await.unwrap();
    world.put("f", |f| f.config.description = "new words".into()).await;
    assert_eq!(world.call("f", json!({})).await.unwrap().start, Start::Warm);
}

#[tokio::test(start_paused = true)]
async fn a_secret_reaches_the_guest_and_a_new_value_means_a_new_vm() {
    let world = World::new();
    world.set_secret("token", "one").await;
    world.put("f", |f| f.config.env_vars = environment(&[("TOKEN", "$SECRET:token")])).await;
    assert_eq!(world.output("f", json!({})).await["env"]["TOKEN"], "one");
    world.set_secret("token", "two").await;
    assert_eq!(world.output("f", json!({})).await["env"]["TOKEN"], "two");
    world.set_secret("other", "x").await;
    assert_eq!(world.call("f", json!({})).await.unwrap().start, Start::Warm, "not its secret");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_secret_stops_the_function_until_it_is_set_again() {
    let world = World::new();
    world.set_secret("token", "one").await;
    world
        .put("f", |f| {
            f.config.env_vars = environment(&[("TOKEN", "$SECRET:token")]);
            f.config.min_replicas = 1;
        })
        .await;
    world.call("f", json!({})).await.unwrap();
    world.vault.delete(&secret("token")).await.unwrap();
    world.executor.secrets_changed(&secret("token")).await;
    let error = world.call("f", json!({})).await.unwrap_err();
    assert_eq!(error.code(), "secret_missing");
    assert!(error.to_string().contains("nova secret set token"), "{error}");
    world.pass(1000).await;
    assert_eq!(world.alive(), 0, "no guest that still knows the secret");
    world.set_secret("token", "two").await;
    world.pass(1000).await;
    assert_eq!(world.alive(), 1, "kept ready again");
    assert_eq!(world.output("f", json!({})).await["env"]["TOKEN"], "two");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_function_is_not_found_and_its_vms_go() {
    let world = World::new();
    world.put("f", |f| f.config.max_replicas = 1).await;
    let running = world.spawn("f", json!({"ms": 1000}));
    world.pass(200).await;
    let waiting = world.spawn("f", json!({}));
    world.pass(10).await;
    world.delete("f").await;
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), "function_not_found");
    assert!(running.await.unwrap().unwrap().error.is_none(), "a call in flight finishes");
    assert_eq!(world.call("f", json!({})).await.unwrap_err().code(), "function_not_found");
    world.pass(100).await;
    assert_eq!(world.alive(), 0);
    assert!(world.executor.metrics().functions.is_empty());
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn a_function_created_anew_under_the_same_name_gets_new_vms() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.call("f", json!({})).await.unwrap();
    world.delete("f").await;
    world.put("f", |_| ()).await;
    assert_eq!(world.call("f", json!({})).await.unwrap().start, Start::Cold);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_read_back_never_runs_the_old_code() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.call("f", json!({})).await.unwrap();
    world.put_silently("f", |f| f.code_hash = CodeHash::of(b"second"));
    world.store.set_down(true);
    world.executor.functions_changed(&crate::world::name("f")).await;
    assert_eq!(world.call("f", json!({})).await.unwrap_err().code(), "store_unavailable");
    world.store.set_down(false);
    let output = world.output("f", json!({})).await;
    assert_eq!(output["code"], CodeHash::of(b"second").as_str());
}
