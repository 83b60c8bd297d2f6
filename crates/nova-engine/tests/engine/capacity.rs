//! A host has limits: who waits, who is turned away, and that nobody starves.
use crate::world::{VM_MB, World};
use nova_engine::{RETRY_AFTER_S, VmPhase};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_full_queue_turns_callers_away_with_a_time_to_come_back() {
    let world = World::with_config(|config| config.queue_max_per_function = 2);
    world.put("f", |f| f.config.max_replicas = 1).await;
    let running = world.spawn("f", json!({"ms": 1000}));
    world.pass(200).await;
    let waiting: Vec<_> = (0..2).map(|_| world.spawn("f", json!({}))).collect();
    world.pass(10).await;
    let error = world.call("f", json!({})).await.unwrap_err();
    assert_eq!((error.code(), error.retry_after_s()), ("saturated", Some(RETRY_AFTER_S)));
    running.await.unwrap().unwrap();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_at_most_its_functions_timeout() {
    let world = World::new();
    world.put("f", |f| (f.config.max_replicas, f.config.timeout_s) = (1, 5)).await;
    let running = world.spawn("f", json!({"ms": 4900}));
    world.pass(200).await;
    let next = world.spawn("f", json!({"ms": 4900}));
    world.pass(10).await;
    let error = world.call("f", json!({})).await.unwrap_err();
    assert_eq!((error.code(), error.retry_after_s()), ("acquire_timeout", Some(RETRY_AFTER_S)));
    assert!(error.to_string().contains("within 5000 ms"), "{error}");
    running.await.unwrap().unwrap();
    next.await.unwrap().unwrap();
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn the_payloads_of_all_waiting_calls_have_a_limit_together() {
    let world = World::new();
    world.put("f", |f| f.config.max_replicas = 1).await;
    let running = world.spawn("f", json!({"ms": 1000}));
    world.pass(200).await;
    let payload = "x".repeat(6 * 1024 * 1024 - 2);
    let waiting: Vec<_> = (0..86).map(|_| world.spawn("f", json!(payload))).collect();
    world.pass(10).await;
    let mut turned_away = 0;
    for call in waiting {
        match call.await.unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert_eq!((error.code(), error.retry_after_s().is_some()), ("saturated", true));
                turned_away += 1;
            }
        }
    }
    assert_eq!(turned_away, 1, "85 payloads of 6 MiB fit 512 MiB");
    running.await.unwrap().unwrap();
    world.call("f", json!(payload)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn vms_and_their_memory_never_exceed_the_host() {
    let world = World::with_config(|config| config.memory_max_mb = 3 * VM_MB);
    for function in ["a", "b", "c", "d"] {
        world.put(function, |_| ()).await;
    }
    let functions = ["a", "b", "c", "d"].iter().cycle().take(40);
    let calls: Vec<_> =
        functions.map(|function| world.spawn(function, json!({"ms": 50}))).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(world.driver.host().most_alive, 3, "booting and stopping VMs counted");
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn a_function_larger_than_the_host_is_refused_at_once() {
    let world = World::with_config(|config| config.memory_max_mb = 1000);
    world.put("f", |f| f.config.memory_mb = 1000).await;
    let error = world.call("f", json!({})).await.unwrap_err();
    assert_eq!((error.code(), error.retry_after_s()), ("exceeds_host_memory", None));
    assert!(error.to_string().contains("lower memory_mb"), "{error}");
    assert_eq!(world.boots(), 0);
}

#[tokio::test(start_paused = true)]
async fn on_a_full_host_a_single_call_is_not_starved_by_a_flood_of_another_function() {
    let world = World::with_room_for(4);
    world.put("flood", |_| ()).await;
    world.put("quiet", |_| ()).await;
    let flood: Vec<_> = (0..400).map(|_| world.spawn("flood", json!({"ms": 100}))).collect();
    world.pass(1000).await;
    let quiet = world.call("quiet", json!({})).await.unwrap();
    assert!(quiet.duration_ms < 500.0, "waited {} ms", quiet.duration_ms);
    for call in flood {
        call.await.unwrap().unwrap();
    }
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn stats_show_every_vm_with_its_phase_and_memory() {
    let world = World::with_room_for(2);
    world.put("f", |_| ()).await;
    world.put("g", |_| ()).await;
    let call = world.spawn("f", json!({"ms": 500}));
    world.pass(50).await;
    assert_eq!(world.executor.stats().count(VmPhase::Booting), 1);
    world.pass(100).await;
    let stats = world.executor.stats();
    let vm = &stats.vms[0];
    assert_eq!((vm.phase, vm.function.as_str(), vm.calls), (VmPhase::Busy, "f", 1));
    assert_eq!((vm.memory_mb, vm.age_ms, stats.memory_mb), (VM_MB, 150, VM_MB));
    call.await.unwrap().unwrap();
    assert_eq!(world.executor.stats().count(VmPhase::Idle), 1);
    world.call("g", json!({})).await.unwrap();
    let evicting = world.spawn("g", json!({"ms": 10}));
    let second = world.spawn("g", json!({"ms": 10}));
    world.pass(1).await;
    assert_eq!(world.executor.stats().count(VmPhase::Stopping), 1, "f makes way for g");
    evicting.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}
