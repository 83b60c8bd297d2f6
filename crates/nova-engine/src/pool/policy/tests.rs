//! The policy's rules, one by one, on a host with room.
use super::model::{GuestStage, World, boot_first, burst, shape};
use super::{Event, Refusal, Shape};

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
