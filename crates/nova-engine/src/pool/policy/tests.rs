//! The policy's rules, one by one.
use super::admission::TURN_MS;
use super::model::{GuestStage, World, name, shape};
use super::{Event, Limits, Refusal, Room, Shape, WaiterId};

fn burst(world: &mut World, function: &str, callers: usize) -> Vec<WaiterId> {
    (0..callers).map(|_| world.acquire(function)).collect()
}

fn boot_first(world: &mut World) {
    let vm = world.at(GuestStage::Booting)[0];
    world.booted(vm);
}

#[test]
fn fifty_callers_of_a_function_with_five_replicas_boot_five_and_are_served_in_order() {
    let mut world = World::new(100);
    world.configure("f", Shape { replicas_max: 5, ..shape(0) });
    let callers = burst(&mut world, "f", 50);
    assert_eq!(world.at(GuestStage::Booting).len(), 5);
    world.settle();
    for (served, caller) in callers.iter().enumerate() {
        assert!(world.granted(*caller), "caller {served}");
        assert_eq!(world.leases.len(), 5.min(50 - served));
        world.release(*caller, true);
    }
    assert_eq!(world.guests.len(), 5, "no VM beyond the first five was ever booted");
}

#[test]
fn a_caller_takes_the_vm_that_was_used_last() {
    let mut world = World::new(10);
    world.configure("f", shape(0));
    let [first, second] = burst(&mut world, "f", 2)[..] else { unreachable!() };
    world.settle();
    let (vm, fresh) = world.answers[&second].unwrap();
    assert!(fresh, "it waited for that boot");
    world.release(first, true);
    world.release(second, true);
    let third = world.acquire("f");
    assert_eq!(world.answers[&third], Ok((vm, false)), "the memory of that one is warm");
}

#[test]
fn a_caller_who_waits_for_a_boot_is_served_by_whatever_vm_is_free_first() {
    let mut world = World::new(10);
    world.configure("f", shape(0));
    let first = world.acquire("f");
    world.settle();
    let second = world.acquire("f");
    world.release(first, true);
    assert!(world.granted(second), "the VM of the first caller is free before the boot is done");
    boot_first(&mut world);
    let third = world.acquire("f");
    assert!(matches!(world.answers[&third], Ok((_, false))), "the boot was not in vain");
}

#[test]
fn calls_share_a_vm_up_to_its_slots() {
    let mut world = World::new(10);
    world.configure("f", Shape { slots: 3, ..shape(0) });
    let callers = burst(&mut world, "f", 4);
    assert_eq!(world.at(GuestStage::Booting).len(), 2);
    world.settle();
    assert!(callers.iter().all(|caller| world.granted(*caller)));
    world.release(callers[0], true);
    world.acquire("f");
    assert_eq!(world.guests.len(), 2);
}

#[test]
fn an_idle_vm_goes_after_its_ttl_and_not_before() {
    let mut world = World::new(10);
    world.configure("f", shape(0));
    let caller = world.acquire("f");
    world.settle();
    world.release(caller, true);
    world.pass(59_999);
    assert_eq!(world.vms_of("f"), 1);
    assert_eq!(world.state.next_tick(world.now), Some(60_000));
    world.pass(1);
    assert_eq!(world.vms_of("f"), 0);
    assert_eq!(world.guests.len(), 1, "it counts until it has stopped");
    world.settle();
    assert!(world.state.is_empty());
}

#[test]
fn min_replicas_are_booted_ahead_kept_past_the_ttl_and_replaced_when_they_die() {
    let mut world = World::new(10);
    world.configure("f", Shape { replicas_min: 2, ..shape(0) });
    assert_eq!(world.at(GuestStage::Booting).len(), 2);
    world.settle();
    world.pass(600_000);
    assert_eq!(world.vms_of("f"), 2);
    let vm = world.at(GuestStage::Up)[0];
    world.died(vm);
    world.settle();
    assert_eq!(world.vms_of("f"), 1, "not at once: it may die for a reason that is still there");
    world.pass(1000);
    assert_eq!(world.vms_of("f"), 2);
}

#[test]
fn boots_ahead_that_fail_are_tried_again_ever_more_slowly() {
    let mut world = World::new(10);
    world.configure("f", Shape { replicas_min: 1, ..shape(0) });
    let mut tries = Vec::new();
    for _ in 0..10 {
        let vm = world.at(GuestStage::Booting)[0];
        world.boot_failed(vm);
        let next = world.state.next_tick(world.now).unwrap();
        tries.push(next - world.now);
        world.pass(next - world.now);
    }
    assert_eq!(tries[..3], [1000, 2000, 4000]);
    assert_eq!(tries[9], 60_000);
    let caller = world.acquire("f");
    world.settle();
    world.release(caller, true);
    let vm = world.at(GuestStage::Up)[0];
    world.died(vm);
    let next = world.state.next_tick(world.now).unwrap();
    assert_eq!(next - world.now, 1000, "a call that was served ends the bad luck");
}

#[test]
fn a_failed_boot_fails_the_callers_it_was_for_and_no_others() {
    let mut world = World::new(10);
    world.configure("f", Shape { slots: 2, ..shape(0) });
    let callers = burst(&mut world, "f", 3);
    let boots = world.at(GuestStage::Booting);
    world.boot_failed(boots[0]);
    assert_eq!(world.refused(callers[0]), Some(Refusal::BootFailed));
    assert_eq!(world.at(GuestStage::Booting), [boots[1]], "no new boot for those who have one");
    world.booted(boots[1]);
    assert!(world.granted(callers[1]) && world.granted(callers[2]));
}

#[test]
fn a_failed_boot_fails_all_the_callers_that_would_have_shared_its_vm() {
    let mut world = World::new(10);
    world.configure("f", Shape { slots: 2, replicas_max: 1, ..shape(0) });
    let callers = burst(&mut world, "f", 3);
    let vm = world.at(GuestStage::Booting)[0];
    world.boot_failed(vm);
    assert_eq!(world.refused(callers[1]), Some(Refusal::BootFailed));
    assert_eq!(world.refused(callers[2]), None);
    assert_eq!(world.at(GuestStage::Booting).len(), 1, "the third is tried for once more");
}

#[test]
fn boots_that_always_fail_end_when_every_caller_has_heard_of_it() {
    let mut world = World::new(3);
    world.configure("f", shape(0));
    let callers = burst(&mut world, "f", 10);
    let mut boots = 0;
    while let Some(vm) = world.at(GuestStage::Booting).first().copied() {
        boots += 1;
        world.boot_failed(vm);
    }
    assert_eq!(boots, 10);
    assert!(callers.iter().all(|caller| world.refused(*caller) == Some(Refusal::BootFailed)));
    assert!(world.state.is_empty());
}

#[test]
fn callers_wait_at_most_their_time_and_a_full_queue_turns_them_away() {
    let mut world = World::new(1);
    world.limits.queue_max = 100;
    world.configure("f", Shape { replicas_max: 1, ..shape(0) });
    let running = world.acquire("f");
    world.settle();
    let callers = burst(&mut world, "f", 101);
    assert_eq!(world.refused(callers[100]), Some(Refusal::QueueFull { waiting: 100 }));
    world.pass(29_999);
    assert_eq!(world.refused(callers[0]), None);
    world.pass(1);
    assert!(callers[..100].iter().all(|it| world.refused(*it) == Some(Refusal::Expired)));
    world.release(running, true);
    assert_eq!(world.vms_of("f"), 1);
}

#[test]
fn a_caller_whose_vm_boots_already_waits_for_it_however_short_its_timeout() {
    let mut world = World::new(10);
    world.configure("f", Shape { replicas_max: 1, wait_max_ms: 1000, ..shape(0) });
    let callers = burst(&mut world, "f", 2);
    world.pass(1000);
    assert_eq!(world.refused(callers[1]), Some(Refusal::Expired), "no boot is on its way for it");
    world.pass(60_000);
    boot_first(&mut world);
    assert!(world.granted(callers[0]));
}

#[test]
fn a_caller_who_leaves_is_passed_over_and_its_boot_serves_the_next() {
    let mut world = World::new(1);
    world.configure("f", shape(0));
    let [left, stayed] = burst(&mut world, "f", 2)[..] else { unreachable!() };
    world.cancel(left);
    world.settle();
    assert!(world.granted(stayed));
}

#[test]
fn a_new_revision_gets_new_vms_while_calls_finish_on_the_old() {
    let mut world = World::new(10);
    world.configure("f", shape(1));
    let [old, idle] = burst(&mut world, "f", 2)[..] else { unreachable!() };
    world.settle();
    world.release(idle, true);
    world.configure("f", shape(2));
    assert_eq!(world.at(GuestStage::Stopping).len(), 1, "the idle VM of the old code goes at once");
    let new = world.acquire("f");
    world.settle();
    assert!(world.granted(new), "the world checks that it got the new revision");
    assert_eq!(world.leases.len(), 2, "the old call still runs");
    world.release(old, true);
    world.settle();
    assert_eq!(world.vms_of("f"), 1, "its VM is not used again");
}

#[test]
fn a_change_of_replica_counts_keeps_the_vms() {
    let mut world = World::new(10);
    world.configure("f", shape(1));
    let callers = burst(&mut world, "f", 3);
    world.settle();
    world.release(callers[0], true);
    world.configure("f", Shape { replicas_max: 2, ..shape(1) });
    world.settle();
    assert_eq!(world.vms_of("f"), 2, "the surplus went, the calls stayed");
}

#[test]
fn after_a_lower_limit_of_replicas_the_surplus_goes_as_its_calls_end() {
    let mut world = World::new(10);
    world.configure("f", shape(1));
    let callers = burst(&mut world, "f", 3);
    world.settle();
    world.configure("f", Shape { replicas_max: 1, ..shape(1) });
    callers.into_iter().for_each(|caller| world.release(caller, true));
    world.settle();
    assert_eq!(world.vms_of("f"), 1);
}

#[test]
fn a_deleted_function_has_no_callers_and_no_vms_left() {
    let mut world = World::new(1);
    world.configure("f", shape(0));
    let [running, waiting] = burst(&mut world, "f", 2)[..] else { unreachable!() };
    world.settle();
    world.forget("f");
    assert_eq!(world.refused(waiting), Some(Refusal::Unknown));
    world.release(running, true);
    world.settle();
    assert!(world.state.is_empty());
    assert_eq!(world.state.functions.len(), 0);
}

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

#[test]
fn a_drain_serves_those_who_wait_and_refuses_those_who_come() {
    let mut world = World::new(1);
    world.configure("f", Shape { replicas_min: 1, ..shape(0) });
    let [running, waiting] = burst(&mut world, "f", 2)[..] else { unreachable!() };
    world.settle();
    world.event(Event::Drain);
    let late = world.acquire("f");
    assert_eq!(world.refused(late), Some(Refusal::Draining));
    world.release(running, true);
    assert!(world.granted(waiting));
    world.release(waiting, true);
    world.settle();
    assert!(world.state.is_empty(), "nothing is kept ready any more");
}
