//! What is remembered and counted of calls.
use crate::world::World;
use nova_domain::Start;
use nova_engine::{Status, VmPhase};
use serde_json::json;
use tokio::sync::mpsc;

#[tokio::test(start_paused = true)]
async fn a_call_and_its_log_are_in_the_store_within_a_second() {
    let world = World::new();
    world.put("f", |f| f.version = 7).await;
    let outcome = world.call("f", json!({"log": 3, "ms": 5})).await.unwrap();
    world.pass(1000).await;
    let content = world.store.content();
    let record = &content.invocations[0];
    assert_eq!(record.request_id, outcome.request_id);
    assert_eq!((record.version, record.start), (7, Some(Start::Cold)));
    assert_eq!((record.duration_ms, record.phases), (outcome.duration_ms, outcome.phases));
    assert_eq!((&record.error_code, record.node.as_str()), (&None, "node-1"));
    let lines: Vec<_> = content.logs.iter().map(|line| (line.sequence, &*line.text)).collect();
    assert_eq!(lines, [(0, "line 0"), (1, "line 1"), (2, "line 2")]);
    assert!(content.logs.iter().all(|line| line.request_id == outcome.request_id));
}

#[tokio::test(start_paused = true)]
async fn many_calls_are_few_writes() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let calls: Vec<_> = (0..200).map(|_| world.spawn("f", json!({}))).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    world.pass(1000).await;
    assert_eq!(world.store.content().invocations.len(), 200);
    assert!(world.store.writes() <= 5, "{} writes", world.store.writes());
}

#[tokio::test(start_paused = true)]
async fn every_way_a_call_can_end_is_recorded_with_its_code() {
    let world = World::with_config(|config| config.queue_max_per_function = 1);
    world.put("f", |f| (f.config.max_replicas, f.config.timeout_s) = (1, 1)).await;
    world.call("f", json!({"fail": "out_of_memory"})).await.unwrap();
    world.call("f", json!({"ms": 2000})).await.unwrap();
    let left = world.spawn("f", json!({"ms": 900}));
    world.pass(100).await;
    let waiting = world.spawn("f", json!({}));
    world.pass(100).await;
    world.call("f", json!({})).await.unwrap_err();
    left.abort();
    waiting.await.unwrap().unwrap();
    world.call("f", json!({"guest": "dies"})).await.unwrap_err();
    world.call("unknown", json!({})).await.unwrap_err();
    world.pass(1000).await;
    let content = world.store.content();
    let code = |record: &nova_domain::InvocationRecord| record.error_code.clone();
    let codes: Vec<_> = content.invocations.iter().filter_map(code).collect();
    assert_eq!(codes, ["out_of_memory", "timeout", "saturated", "cancelled", "guest_lost"]);
    assert_eq!(content.invocations.len(), 6, "calls of unknown functions leave no trace");
}

#[tokio::test(start_paused = true)]
async fn records_survive_a_store_that_is_away_for_a_while() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.call("f", json!({})).await.unwrap();
    world.store.set_down(true);
    for _ in 0..10 {
        world.call("f", json!({"log": 1})).await.unwrap();
        world.pass(1000).await;
    }
    assert_eq!(world.store.content().invocations.len(), 0);
    world.store.set_down(false);
    world.pass(10_000).await;
    let content = world.store.content();
    assert_eq!((content.invocations.len(), content.logs.len()), (11, 10));
    assert_eq!(world.executor.metrics().records_dropped, 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_for_long_loses_the_oldest_records_and_the_loss_is_counted() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.store.set_down(true);
    for _ in 0..100 {
        world.call("f", json!({"log": 10_000})).await.unwrap();
    }
    let dropped = world.executor.metrics().records_dropped;
    assert!(dropped > 0);
    world.store.set_down(false);
    world.pass(60_000).await;
    let kept = world.store.content().invocations.len() as u64;
    assert_eq!(kept + dropped, 100, "each is either kept or counted");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_log_lines_is_cut_with_a_marker() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.call("f", json!({"log": 100_000})).await.unwrap();
    world.pass(1000).await;
    let content = world.store.content();
    assert!(content.logs.len() < 100_000);
    assert_eq!(content.logs.last().unwrap().text, "the rest of the log was too long to keep");
}

#[tokio::test(start_paused = true)]
async fn log_lines_are_seen_while_the_call_runs() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let (sink, mut lines) = mpsc::channel(1);
    let call = world.call_with_sink("f", json!({"log": 200, "ms": 1000}), sink);
    let read = async {
        let mut read = 0;
        while lines.recv().await.is_some() {
            read += 1;
        }
        read
    };
    let (outcome, read) = tokio::join!(call, read);
    assert_eq!((outcome.unwrap().error, read), (None, 200));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_the_log_holds_up_neither_the_call_nor_the_record() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let (sink, _unread) = mpsc::channel(1);
    let outcome = world.call_with_sink("f", json!({"log": 200}), sink).await.unwrap();
    assert!(outcome.duration_ms < 2000.0, "{} ms", outcome.duration_ms);
    world.pass(1000).await;
    assert_eq!(world.store.content().logs.len(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_the_log_takes_nothing_from_the_record() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let (sink, mut lines) = mpsc::channel(1);
    let call = world.call_with_sink("f", json!({"log": 50}), sink);
    let read = async {
        while lines.recv().await.is_some() {
            world.pass(900).await;
        }
    };
    let (outcome, ()) = tokio::join!(call, read);
    assert!(outcome.unwrap().duration_ms < 60_000.0);
    world.pass(1000).await;
    assert_eq!(world.store.content().logs.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn metrics_count_by_function_status_and_start() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.call("f", json!({"ms": 40})).await.unwrap();
    world.call("f", json!({"fail": "function_failed"})).await.unwrap();
    let metrics = world.executor.metrics();
    let function = &metrics.functions[0];
    assert_eq!((function.function.as_str(), function.runtime.as_str()), ("f", "base"));
    assert_eq!(function.invocations[&Status::Success], 1);
    assert_eq!(function.invocations[&Status::FunctionError], 1);
    assert_eq!(function.invocations[&Status::Timeout], 0);
    assert_eq!((function.cold_starts, function.warm_starts), (1, 1));
    assert_eq!((function.duration.count, function.duration.sum_ms), (2, 140.0));
    assert_eq!((metrics.vms_created, metrics.vms_crashed), (1, 0));
    assert_eq!((metrics.boot_duration.count, metrics.boot_duration.sum_ms), (1, 100.0));
    assert_eq!((metrics.pool[&VmPhase::Idle], metrics.pool[&VmPhase::Busy]), (1, 0));
    let running = world.spawn("f", json!({"ms": 40}));
    world.pass(10).await;
    assert_eq!(world.executor.metrics().active_requests, 1);
    running.await.unwrap().unwrap();
}
