//! The policy on a full host: who gets the next VM, and who makes way.
use super::admission::TURN_MS;
use super::model::{GuestStage, World, boot_first, burst, name, shape};
use super::{Limits, Refusal, Room, Shape};

#[test]
fn on_a_full_host_the_longest_idle_vm_makes_way() {
    let mut world = World::new(2);
    for function in ["a", "b", "c"] {
        world.configure(function, shape(0));
    }
    for function in ["a", "b"] {
        let caller = world.acquire(function);
        world.settle();
        world.release(caller, true);
        world.pass(1);
    }
    let caller = world.acquire("c");
    assert_eq!(world.vms_of("a"), 0);
    assert_eq!(world.vms_of("b"), 1);
    assert!(world.at(GuestStage::Booting).is_empty(), "not before the old one has stopped");
    world.settle();
    assert!(world.granted(caller));
}

#[test]
fn no_more_vms_make_way_than_are_needed() {
    let mut world = World::new(2);
    for function in ["a", "b", "c"] {
        world.configure(function, shape(0));
    }
    for function in ["a", "b"] {
        let caller = world.acquire(function);
        world.settle();
        world.release(caller, true);
    }
    world.acquire("c");
    world.pass(1);
    assert_eq!(world.at(GuestStage::Stopping).len(), 1);
}

#[test]
fn of_many_busy_vms_with_many_slots_only_one_makes_way_for_one_caller() {
    let mut world = World::new(3);
    world.configure("a", Shape { slots: 2, ..shape(0) });
    world.configure("b", shape(0));
    let callers = burst(&mut world, "a", 6);
    world.settle();
    let other = world.acquire("b");
    // One call of each VM ends; the VMs stay busy with the other.
    for caller in [callers[0], callers[2], callers[4]] {
        world.release(caller, true);
    }
    let more = burst(&mut world, "a", 2);
    assert!(more.iter().all(|caller| world.granted(*caller)), "two VMs go on as before");
    world.release(callers[1], true);
    world.settle();
    assert!(world.granted(other));
}

#[test]
fn a_flood_gives_up_half_of_the_host_and_no_more() {
    let mut world = World::new(4);
    world.configure("a", shape(0));
    world.configure("b", shape(0));
    burst(&mut world, "a", 50);
    world.settle();
    burst(&mut world, "b", 50);
    let running = world.leases.clone();
    running.into_iter().for_each(|(caller, _)| world.release(caller, true));
    assert_eq!((world.vms_of("a"), world.at(GuestStage::Stopping).len()), (2, 2));
    world.settle();
    assert_eq!((world.vms_of("a"), world.vms_of("b")), (2, 2));
}

#[test]
fn vms_kept_ready_make_way_for_callers_only_when_no_other_vm_idles() {
    let mut world = World::new(2);
    world.configure("kept", Shape { replicas_min: 1, ..shape(0) });
    world.configure("other", shape(0));
    world.configure("third", shape(0));
    world.settle();
    world.pass(1);
    let caller = world.acquire("other");
    world.settle();
    world.release(caller, true);
    let third = world.acquire("third");
    world.settle();
    assert!(world.granted(third));
    assert_eq!((world.vms_of("kept"), world.vms_of("other")), (1, 0));
    let other = world.acquire("other");
    world.settle();
    assert!(world.granted(other), "a caller counts more than a VM kept ready");
    assert_eq!(world.vms_of("kept"), 0);
}

#[test]
fn memory_is_a_limit_like_the_number_of_vms() {
    let mut world = World::with_limits(Limits {
        room: Room { vms: 100, memory_mb: 1000 },
        boots_max: 100,
        idle_ttl_ms: 60_000,
        queue_max: 100,
    });
    world.configure("f", Shape { memory_mb: 400, ..shape(0) });
    world.configure("huge", Shape { memory_mb: 1001, ..shape(0) });
    burst(&mut world, "f", 3);
    assert_eq!(world.at(GuestStage::Booting).len(), 2);
    let never = world.acquire("huge");
    assert_eq!(world.refused(never), Some(Refusal::TooLarge { memory_mb: 1001 }));
}

#[test]
fn a_large_vm_is_not_starved_by_small_ones_that_would_fit() {
    let mut world = World::with_limits(Limits {
        room: Room { vms: 100, memory_mb: 1000 },
        boots_max: 100,
        idle_ttl_ms: 60_000,
        queue_max: 1000,
    });
    world.configure("small", Shape { memory_mb: 100, ..shape(0) });
    world.configure("large", Shape { memory_mb: 900, ..shape(0) });
    let mut running = burst(&mut world, "small", 10);
    world.settle();
    let large = world.acquire("large");
    for _ in 0..100 {
        running.push(world.acquire("small"));
        let at = running.iter().position(|caller| world.granted(*caller)).unwrap();
        world.release(running.remove(at), true);
        world.settle();
        if world.granted(large) {
            return;
        }
        world.pass(10);
    }
    panic!("the large function never got its VM");
}

/// Both functions always have more callers than the host has room for; each call takes 10 ms.
fn share_of_a_contended_host(vms_max: u32, shapes: [Shape; 2]) -> [usize; 2] {
    let mut world = World::new(vms_max);
    let functions = ["a", "b"];
    for (function, shape) in functions.iter().zip(shapes) {
        world.configure(function, shape);
    }
    let mut served = [0, 0];
    burst(&mut world, "a", 50);
    world.settle();
    burst(&mut world, "b", 50);
    for _ in 0..500 {
        world.pass(10);
        let leases = world.leases.clone();
        for (caller, vm) in leases {
            let function = world.guests[&vm].function.clone();
            let at = functions.iter().position(|it| name(it) == function).unwrap();
            served[at] += 1;
            world.acquire(functions[at]);
            world.release(caller, true);
        }
        world.settle();
    }
    served
}

#[test]
fn two_functions_that_fill_the_host_share_it_evenly() {
    let [a, b] = share_of_a_contended_host(4, [shape(0), shape(0)]);
    assert!(a.abs_diff(b) * 10 < a + b, "{a} calls of one, {b} of the other");
}

#[test]
fn with_a_single_vm_two_functions_take_turns() {
    let [a, b] = share_of_a_contended_host(1, [shape(0), shape(0)]);
    assert!(a.min(b) * 3 > a.max(b), "{a} calls of one, {b} of the other");
}

#[test]
fn a_vm_with_many_slots_makes_way_although_it_never_idles() {
    let [a, b] = share_of_a_contended_host(1, [Shape { slots: 10, ..shape(0) }, shape(0)]);
    assert!(a > 0 && b > 20, "{a} calls of one, {b} of the other");
}

#[test]
fn a_call_that_came_first_is_served_first_also_across_functions() {
    let mut world = World::new(1);
    world.configure("a", shape(0));
    world.configure("b", shape(0));
    let running = world.acquire("a");
    world.settle();
    let (first, second) = (world.acquire("b"), world.acquire("a"));
    world.release(running, true);
    world.settle();
    assert!(world.granted(first) && !world.granted(second));
    world.release(first, true);
    world.settle();
    assert!(world.granted(second));
}

#[test]
fn a_function_behind_a_long_queue_waits_for_a_turn_not_for_the_queue() {
    let mut world = World::new(1);
    world.configure("a", shape(0));
    world.configure("b", shape(0));
    burst(&mut world, "a", 50);
    world.settle();
    let other = world.acquire("b");
    let next = |world: &World| world.leases[0].0;
    let caller = next(&world);
    world.release(caller, true);
    assert!(!world.granted(other), "those who came first go on for a while");
    world.pass(TURN_MS);
    let caller = next(&world);
    world.release(caller, true);
    world.settle();
    assert!(world.granted(other));
}

#[test]
fn boots_at_a_time_are_limited_and_the_next_follows() {
    let mut world = World::with_limits(Limits {
        room: Room { vms: 100, memory_mb: 1_000_000 },
        boots_max: 2,
        idle_ttl_ms: 60_000,
        queue_max: 100,
    });
    world.configure("f", shape(0));
    burst(&mut world, "f", 5);
    assert_eq!(world.at(GuestStage::Booting).len(), 2);
    boot_first(&mut world);
    assert_eq!(world.at(GuestStage::Booting).len(), 2);
}
