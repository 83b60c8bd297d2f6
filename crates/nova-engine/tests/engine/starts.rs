//! Cold and warm calls, and callers who go away.
use crate::fake_driver::BOOT;
use crate::world::{World, output};
use nova_domain::{Mode, Start};
use nova_engine::VmPhase;
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn the_first_call_is_cold_and_the_next_one_warm_on_the_same_vm() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let cold = world.call("f", json!({"ms": 10})).await.unwrap();
    let warm = world.call("f", json!({"ms": 10})).await.unwrap();
    assert_eq!((cold.start, warm.start), (Start::Cold, Start::Warm));
    assert_eq!(output(&cold)["vm"], output(&warm)["vm"]);
    assert_eq!(cold.phases.boot_ms, BOOT.as_secs_f64() * 1000.0);
    assert_eq!((cold.phases.queue_ms, cold.phases.acquire_ms), (0.0, cold.phases.boot_ms));
    assert_eq!((warm.phases.boot_ms, warm.phases.acquire_ms), (0.0, 0.0));
    assert_eq!((warm.phases.init_ms, warm.phases.exec_ms), (2.0, 10.0));
    assert_eq!((cold.duration_ms, warm.duration_ms), (110.0, 10.0));
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn warm_calls_ask_the_store_nothing() {
    let world = World::new();
    world.set_secret("token", "s3cret").await;
    world
        .put("f", |f| f.config.env_vars = crate::world::environment(&[("TOKEN", "$SECRET:token")]))
        .await;
    world.call("f", json!({})).await.unwrap();
    let before = world.store.reads();
    for _ in 0..100 {
        assert_eq!(world.call("f", json!({})).await.unwrap().start, Start::Warm);
    }
    assert_eq!(world.store.reads(), before);
}

#[tokio::test(start_paused = true)]
async fn known_functions_stay_warm_while_the_store_is_down() {
    let world = World::new();
    world.put("f", |_| ()).await;
    world.call("f", json!({})).await.unwrap();
    world.store.set_down(true);
    world.call("f", json!({})).await.unwrap();
    let error = world.call("unknown", json!({})).await.unwrap_err();
    assert_eq!(error.code(), "store_unavailable");
}

#[tokio::test(start_paused = true)]
async fn fifty_cold_calls_with_five_replicas_use_five_vms_in_order_of_arrival() {
    let world = World::new();
    world.put("f", |f| f.config.max_replicas = 5).await;
    let mut calls = Vec::new();
    for n in 0..50 {
        calls.push(world.spawn("f", json!({"n": n, "ms": 20})));
        tokio::task::yield_now().await;
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let (most_alive, order) = {
        let host = world.driver.host();
        (host.most_alive, host.order.clone())
    };
    assert_eq!(most_alive, 5);
    // Five at a time start at the same moment; a batch never overtakes the one before.
    let mut batches: Vec<Vec<u64>> = order.chunks(5).map(<[u64]>::to_vec).collect();
    batches.iter_mut().for_each(|batch| batch.sort_unstable());
    assert_eq!(batches.concat(), (0..50).collect::<Vec<_>>());
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_somebody_elses_vm_is_warm_and_its_wait_is_queueing() {
    let world = World::new();
    world.put("f", |f| f.config.max_replicas = 1).await;
    let first = world.spawn("f", json!({"ms": 500}));
    tokio::task::yield_now().await;
    let second = world.call("f", json!({})).await.unwrap();
    assert_eq!(first.await.unwrap().unwrap().start, Start::Cold);
    assert_eq!(second.start, Start::Warm);
    assert_eq!((second.phases.queue_ms, second.phases.boot_ms), (600.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn concurrent_calls_share_a_vm_where_the_function_allows_it() {
    let world = World::new();
    world
        .put("f", |f| (f.config.mode, f.config.instance_concurrency) = (Mode::Persistent, 10))
        .await;
    let calls: Vec<_> = (0..10).map(|_| world.spawn("f", json!({"ms": 100}))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().start, Start::Cold);
    }
    assert_eq!(world.boots(), 1);
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn vms_kept_ready_are_there_before_the_first_call_and_stay() {
    let world = World::new();
    world.put_silently("f", |f| f.config.min_replicas = 2);
    world.store.set_down(true);
    world.executor.start();
    world.pass(1000).await;
    assert_eq!(world.boots(), 0, "the store did not answer");
    world.store.set_down(false);
    world.pass(10_000).await;
    assert_eq!(world.executor.stats().count(VmPhase::Idle), 2);
    assert_eq!(world.call("f", json!({})).await.unwrap().start, Start::Warm);
    world.pass(600_000).await;
    assert_eq!((world.alive(), world.boots()), (2, 2));
    world.put("f", |f| f.config.min_replicas = 0).await;
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_the_queue_gives_its_place_up() {
    let world = World::new();
    world.put("f", |f| f.config.max_replicas = 1).await;
    let running = world.spawn("f", json!({"ms": 1000}));
    world.pass(200).await;
    let waiting = world.spawn("f", json!({"n": 1}));
    world.pass(10).await;
    assert_eq!(world.executor.stats().waiting, 1);
    waiting.abort();
    world.pass(10).await;
    assert_eq!(world.executor.stats().waiting, 0);
    running.await.unwrap().unwrap();
    assert!(world.driver.host().order.is_empty(), "the abandoned call never ran");
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_during_the_boot_leaves_a_warm_vm_to_the_next() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let call = world.spawn("f", json!({}));
    world.pass(50).await;
    call.abort();
    world.pass(100).await;
    assert_eq!(world.call("f", json!({})).await.unwrap().start, Start::Warm);
    assert_eq!(world.boots(), 1);
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_lives_on_when_its_guest_has_ended_the_cancelled_call() {
    let world = World::new();
    world.put("f", |f| f.config.max_replicas = 1).await;
    world.driver.host().guests_settle = true;
    let call = world.spawn("f", json!({"ms": 20_000}));
    world.pass(200).await;
    call.abort();
    world.pass(5).await;
    assert_eq!(world.executor.stats().count(VmPhase::Busy), 1, "until the guest says so");
    assert_eq!(world.call("f", json!({})).await.unwrap().start, Start::Warm);
    assert_eq!(world.driver.host().cancelled, 1);
    assert_eq!(world.boots(), 1);
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_whose_guest_cannot_tell_is_not_reused_after_a_cancelled_call() {
    let world = World::new();
    world.put("f", |_| ()).await;
    let call = world.spawn("f", json!({"ms": 20_000}));
    world.pass(200).await;
    call.abort();
    world.pass(100).await;
    assert_eq!(world.driver.host().cancelled, 1);
    assert_eq!(world.alive(), 0, "what runs in that guest is unknown");
    assert_eq!(world.call("f", json!({})).await.unwrap().start, Start::Cold);
    world.assert_nothing_leaks().await;
}

#[tokio::test(start_paused = true)]
async fn callers_who_leave_at_any_moment_leak_nothing() {
    let world = World::with_room_for(3);
    world.put("f", |_| ()).await;
    world.put("g", |f| f.config.max_replicas = 1).await;
    for moment in 0..300 {
        let function = if moment % 2 == 0 { "f" } else { "g" };
        let calls: Vec<_> = (0..4).map(|_| world.spawn(function, json!({"ms": 30}))).collect();
        world.pass(moment % 150).await;
        calls.iter().for_each(|call| call.abort());
    }
    world.assert_nothing_leaks().await;
}

/// The other tests run on one thread and a paused clock; this one is for races between threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_changes_and_departures_on_many_threads_leak_nothing() {
    let world = World::with_room_for(4);
    for function in ["f", "g", "h"] {
        world.put(function, |f| f.config.max_replicas = 2).await;
    }
    let mut calls = Vec::new();
    for n in 0..600u64 {
        let function = ["f", "g", "h"][n as usize % 3];
        calls.push(world.spawn(function, json!({"ms": n % 3})));
        if n % 7 == 0 {
            calls.swap_remove(n as usize * 31 % calls.len()).abort();
        }
        if n % 50 == 0 {
            world.put(function, |f| f.config.timeout_s = 30 + n as u32 % 100).await;
        }
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let report = world.executor.drain(std::time::Duration::from_secs(60)).await;
    assert_eq!((report.calls_cut_off, report.records_written), (0, true));
    let stats = world.executor.stats();
    assert_eq!((stats.vms.len(), stats.waiting, world.alive()), (0, 0, 0));
    assert!(world.driver.host().most_alive <= 4);
}
