//! Draining: calls in flight finish, VMs go, records are kept.
use crate::world::World;
use serde_json::json;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_drain_serves_who_is_there_refuses_who_comes_and_stops_every_vm() {
    let world = World::new();
    world.put("f", |f| (f.config.max_replicas, f.config.min_replicas) = (1, 1)).await;
    let running = world.spawn("f", json!({"ms": 1000, "log": 1}));
    world.pass(200).await;
    let waiting = world.spawn("f", json!({"ms": 1000}));
    world.pass(10).await;
    let executor = world.executor.clone();
    let drain = tokio::spawn(async move { executor.drain(LONG).await });
    world.pass(10).await;
    assert!(world.executor.stats().draining);
    let late = world.call("f", json!({})).await.unwrap_err();
    assert_eq!((late.code(), late.retry_after_s().is_some()), ("shutting_down", true));
    let report = drain.await.unwrap();
    assert_eq!((report.calls_cut_off, report.records_written), (0, true));
    assert!(running.await.unwrap().is_ok() && waiting.await.unwrap().is_ok());
    assert_eq!(world.alive(), 0);
    let content = world.store.content();
    assert_eq!((content.invocations.len(), content.logs.len()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn calls_and_boots_that_take_too_long_are_cut_off() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.put("g", |_| ()).await;
    let running = world.spawn("f", json!({"ms": 29_000}));
    world.pass(200).await;
    world.driver.host().boots_hang = true;
    let booting = world.spawn("g", json!({}));
    world.pass(10).await;
    let report = world.executor.drain(Duration::from_secs(1)).await;
    assert_eq!((report.calls_cut_off, report.records_written), (1, true));
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.code(), "guest_lost");
    assert!(error.to_string().contains("nova shut down"), "{error}");
    assert_eq!(booting.await.unwrap().unwrap_err().code(), "shutting_down");
    assert_eq!(world.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_pool_drains_at_once() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.call("f", json!({})).await.unwrap();
    let report = world.executor.drain(LONG).await;
    assert!(report.records_written);
    assert_eq!(world.alive(), 0);
}
