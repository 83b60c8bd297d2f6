//! The promises of the policy over random histories; [`super::model::World`] checks them at every
//! step.
use super::model::{GuestStage, World, shape};
use super::{Event, Limits, Refusal, Room, Shape, VmNumber};
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Debug, Clone)]
enum Step {
    Configure { function: u8, revision: u32, min: u32, max: u32 },
    Forget { function: u8 },
    Acquire { function: u8 },
    Cancel(Index),
    Booted(Index),
    BootFailed(Index),
    Release(Index, bool),
    Died(Index),
    Stopped(Index),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        1 => (0..3u8, 0..3u32, 0..3u32, 0..4u32).prop_map(|(function, revision, min, max)| {
            Step::Configure { function, revision, min, max }
        }),
        1 => (0..3u8).prop_map(|function| Step::Forget { function }),
        8 => (0..3u8).prop_map(|function| Step::Acquire { function }),
        2 => index().prop_map(Step::Cancel),
        6 => index().prop_map(Step::Booted),
        2 => index().prop_map(Step::BootFailed),
        8 => (index(), prop::bool::weighted(0.8)).prop_map(|(at, ok)| Step::Release(at, ok)),
        1 => index().prop_map(Step::Died),
        6 => index().prop_map(Step::Stopped),
        2 => prop_oneof![0..1000u64, 0..90_000u64].prop_map(Step::Pass),
    ]
}

/// Three functions of different size: one slot, several slots, and much memory.
fn shape_of(function: u8, revision: u32, min: u32, max: u32) -> Shape {
    Shape {
        memory_mb: [100, 250, 600][function as usize],
        slots: [1, 3, 1][function as usize],
        replicas_min: if max == 0 { min } else { min.min(max) },
        replicas_max: max,
        wait_max_ms: [30_000, 1000, 5000][function as usize],
        ..shape(revision)
    }
}

fn take(world: &World, stage: GuestStage, at: &Index) -> Option<VmNumber> {
    let vms = world.at(stage);
    (!vms.is_empty()).then(|| *at.get(&vms))
}

fn run(world: &mut World, step: &Step) {
    let function_name = |function: u8| format!("f{function}");
    match step {
        Step::Configure { function, revision, min, max } => {
            let shape = shape_of(*function, *revision, *min, *max);
            world.configure(&function_name(*function), shape);
        }
        Step::Forget { function } => world.forget(&function_name(*function)),
        Step::Acquire { function } => {
            world.acquire(&function_name(*function));
        }
        Step::Cancel(at) if !world.waiting.is_empty() => {
            let waiter = at.get(&world.waiting).1;
            world.cancel(waiter);
        }
        Step::Booted(at) => {
            if let Some(vm) = take(world, GuestStage::Booting, at) {
                world.booted(vm);
            }
        }
        Step::BootFailed(at) => {
            if let Some(vm) = take(world, GuestStage::Booting, at) {
                world.boot_failed(vm);
            }
        }
        Step::Release(at, reusable) if !world.leases.is_empty() => {
            let waiter = at.get(&world.leases).0;
            world.release(waiter, *reusable);
        }
        Step::Died(at) => {
            if let Some(vm) = take(world, GuestStage::Up, at) {
                world.died(vm);
            }
        }
        Step::Stopped(at) => {
            if let Some(vm) = take(world, GuestStage::Stopping, at) {
                world.stopped(vm);
            }
        }
        Step::Pass(ms) => world.pass(*ms),
        Step::Cancel(_) | Step::Release(..) => {}
    }
}

fn small_host() -> World {
    let mut world = World::with_limits(Limits {
        room: Room { vms: 5, memory_mb: 1000 },
        boots_max: 3,
        idle_ttl_ms: 60_000,
        queue_max: 4,
    });
    for function in 0..3 {
        world.configure(&format!("f{function}"), shape_of(function, 0, 0, 0));
    }
    world
}

/// Lets every call end and every boot succeed, taking the VMs in order, until nobody waits.
fn serve_everyone(world: &mut World) {
    for _ in 0..200 {
        world.settle();
        let Some((waiter, _)) = world.leases.first().copied() else { break };
        world.release(waiter, true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_promise_holds_over_any_history(
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut world = small_host();
        for step in &steps {
            run(&mut world, step);
        }
    }

    #[test]
    fn after_any_history_everyone_is_served_and_nothing_leaks(
        steps in prop::collection::vec(step(), 0..100),
    ) {
        let mut world = small_host();
        for step in &steps {
            run(&mut world, step);
        }
        for function in 0..3 {
            world.configure(&format!("f{function}"), shape_of(function, 7, 0, 0));
        }
        serve_everyone(&mut world);
        prop_assert!(world.waiting.is_empty(), "somebody starves");
        world.pass(60_000);
        world.settle();
        prop_assert!(world.state.is_empty());
        prop_assert_eq!(world.state.next_tick(world.now), None, "no timer without a reason");
    }

    #[test]
    fn a_drain_ends_after_any_history(
        steps in prop::collection::vec(step(), 0..100),
        more in prop::collection::vec(step(), 0..30),
        cut_off in any::<bool>(),
    ) {
        let mut world = small_host();
        for step in &steps {
            run(&mut world, step);
        }
        world.draining = true;
        world.event(Event::Drain);
        for step in &more {
            run(&mut world, step);
        }
        let late = world.acquire("f0");
        prop_assert_eq!(world.refused(late), Some(Refusal::Draining));
        if cut_off {
            world.event(Event::CutOff);
            prop_assert!(world.waiting.is_empty());
        }
        serve_everyone(&mut world);
        world.settle();
        prop_assert!(world.state.is_empty());
        prop_assert_eq!(world.guests.len(), 0);
    }

    #[test]
    fn a_burst_boots_no_more_than_it_can_use(
        callers in 1..40usize, slots in 1..6u32, max in 0..8u32, vms_max in 1..20u32,
    ) {
        let mut world = World::new(vms_max);
        world.configure("f", Shape { slots, replicas_max: max, ..shape(0) });
        let waiters: Vec<_> = (0..callers).map(|_| world.acquire("f")).collect();
        let useful = callers.div_ceil(slots as usize);
        let allowed = if max == 0 { vms_max } else { max.min(vms_max) } as usize;
        prop_assert_eq!(world.at(GuestStage::Booting).len(), useful.min(allowed));
        serve_everyone(&mut world);
        prop_assert!(waiters.iter().all(|waiter| world.granted(*waiter)));
        prop_assert!(world.guests.len() <= useful.min(allowed), "a later boot was for nobody");
    }
}
