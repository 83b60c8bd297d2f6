//! A world for the policy's tests: it does what the actions say, remembers who owns what, and
//! complains the moment a promise is broken.
use super::{Action, Event, Limits, Millis, PoolState, Refusal, Room, Shape, VmNumber, WaiterId};
use nova_domain::FunctionName;
use std::collections::BTreeMap;

pub(super) struct Guest {
    pub function: FunctionName,
    pub revision: u32,
    pub memory_mb: u64,
    pub slots: u32,
    pub calls: u32,
    pub stage: GuestStage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuestStage {
    Booting,
    Up,
    Stopping,
}

pub(super) struct World {
    pub state: PoolState,
    pub limits: Limits,
    pub now: Millis,
    next_waiter: u64,
    /// The shapes that exist.
    pub shapes: BTreeMap<FunctionName, Shape>,
    /// Who waits, in order of arrival, with its deadline.
    pub waiting: Vec<(FunctionName, WaiterId, Millis)>,
    pub guests: BTreeMap<VmNumber, Guest>,
    /// One entry per granted slot.
    pub leases: Vec<(WaiterId, VmNumber)>,
    /// Every answer: who got what.
    pub answers: BTreeMap<WaiterId, Result<(VmNumber, bool), Refusal>>,
    pub draining: bool,
}

pub(super) fn name(text: &str) -> FunctionName {
    FunctionName::parse(text).unwrap()
}

/// A shape of one slot and 128 MiB without replica bounds, waiting 30 s.
pub(super) fn shape(revision: u32) -> Shape {
    Shape {
        revision: revision.to_string().into(),
        memory_mb: 128,
        slots: 1,
        replicas_min: 0,
        replicas_max: 0,
        wait_max_ms: 30_000,
    }
}

/// That many callers, in order.
pub(super) fn burst(world: &mut World, function: &str, callers: usize) -> Vec<WaiterId> {
    (0..callers).map(|_| world.acquire(function)).collect()
}

/// Lets the oldest boot succeed.
pub(super) fn boot_first(world: &mut World) {
    let vm = world.at(GuestStage::Booting)[0];
    world.booted(vm);
}

impl World {
    pub fn new(vms_max: u32) -> Self {
        Self::with_limits(Limits {
            room: Room { vms: vms_max, memory_mb: 1_000_000 },
            boots_max: 100,
            idle_ttl_ms: 60_000,
            queue_max: 100,
        })
    }

    pub fn with_limits(limits: Limits) -> Self {
        Self {
            state: PoolState::new(limits),
            limits,
            now: 0,
            next_waiter: 0,
            shapes: BTreeMap::new(),
            waiting: Vec::new(),
            guests: BTreeMap::new(),
            leases: Vec::new(),
            answers: BTreeMap::new(),
            draining: false,
        }
    }

    pub fn configure(&mut self, function: &str, shape: Shape) {
        if !self.draining {
            self.shapes.insert(name(function), shape.clone());
        }
        self.event(Event::Configured { function: name(function), shape });
    }

    pub fn forget(&mut self, function: &str) {
        self.shapes.remove(&name(function));
        self.event(Event::Forgotten { function: name(function) });
    }

    pub fn acquire(&mut self, function: &str) -> WaiterId {
        let waiter = WaiterId(self.next_waiter);
        self.next_waiter += 1;
        let wait_max_ms = self.shapes.get(&name(function)).map_or(0, |shape| shape.wait_max_ms);
        self.waiting.push((name(function), waiter, self.now + wait_max_ms));
        self.event(Event::Acquire { function: name(function), waiter });
        waiter
    }

    pub fn cancel(&mut self, waiter: WaiterId) {
        let at = self.waiting.iter().position(|(_, id, _)| *id == waiter).unwrap();
        let (function, waiter, _) = self.waiting.remove(at);
        self.event(Event::Cancelled { function, waiter });
    }

    pub fn booted(&mut self, vm: VmNumber) {
        self.guests.get_mut(&vm).unwrap().stage = GuestStage::Up;
        self.event(Event::Booted { vm });
    }

    pub fn boot_failed(&mut self, vm: VmNumber) {
        self.guests.remove(&vm).unwrap();
        self.event(Event::BootFailed { vm });
    }

    /// The call of this waiter ends; its VM may be used again or not.
    pub fn release(&mut self, waiter: WaiterId, reusable: bool) {
        let at = self.leases.iter().position(|(id, _)| *id == waiter).unwrap();
        let (_, vm) = self.leases.remove(at);
        self.guests.get_mut(&vm).unwrap().calls -= 1;
        self.event(Event::Released { vm, reusable });
    }

    pub fn died(&mut self, vm: VmNumber) {
        self.event(Event::Died { vm });
    }

    pub fn stopped(&mut self, vm: VmNumber) {
        assert_eq!(self.guests.remove(&vm).unwrap().stage, GuestStage::Stopping);
        self.event(Event::Stopped { vm });
    }

    pub fn pass(&mut self, ms: Millis) {
        self.now += ms;
        self.event(Event::Tick);
    }

    pub fn at(&self, stage: GuestStage) -> Vec<VmNumber> {
        let of_stage = self.guests.iter().filter(|(_, guest)| guest.stage == stage);
        of_stage.map(|(vm, _)| *vm).collect()
    }

    /// Boots and stops everything that is on its way.
    pub fn settle(&mut self) {
        loop {
            let (booting, stopping) = (self.at(GuestStage::Booting), self.at(GuestStage::Stopping));
            if booting.is_empty() && stopping.is_empty() {
                return;
            }
            booting.into_iter().for_each(|vm| self.booted(vm));
            stopping.into_iter().for_each(|vm| self.stopped(vm));
        }
    }

    /// VMs of a function that are up or booting.
    pub fn vms_of(&self, function: &str) -> usize {
        let function = name(function);
        let live = |guest: &&Guest| guest.stage != GuestStage::Stopping;
        self.guests.values().filter(live).filter(|guest| guest.function == function).count()
    }

    pub fn granted(&self, waiter: WaiterId) -> bool {
        matches!(self.answers.get(&waiter), Some(Ok(_)))
    }

    pub fn refused(&self, waiter: WaiterId) -> Option<Refusal> {
        self.answers.get(&waiter).and_then(|answer| answer.err())
    }

    pub fn event(&mut self, event: Event) {
        let actions = self.state.handle(event.clone(), self.now);
        for action in actions {
            self.apply(action);
        }
        self.check(&event);
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Boot { vm, function } => {
                let shape = self.shapes.get(&function).expect("boots only what exists").clone();
                let own = self.guests.values().filter(|guest| guest.function == function).count();
                assert!(
                    shape.replicas_max == 0 || own < shape.replicas_max as usize,
                    "more than max_replicas"
                );
                let guest = Guest {
                    function,
                    revision: shape.revision.parse().unwrap(),
                    memory_mb: shape.memory_mb,
                    slots: shape.slots,
                    calls: 0,
                    stage: GuestStage::Booting,
                };
                assert!(self.guests.insert(vm, guest).is_none(), "a VM number is used once");
            }
            Action::Grant { waiter, vm, fresh } => {
                let function = self.answered(waiter);
                let guest = self.guests.get_mut(&vm).expect("grants only VMs that are there");
                assert_eq!(guest.stage, GuestStage::Up);
                assert_eq!(guest.function, function, "a VM serves its own function");
                let current = &self.shapes[&function].revision;
                assert_eq!(guest.revision.to_string(), **current, "a new call runs new code");
                guest.calls += 1;
                assert!(guest.calls <= guest.slots, "a slot has one owner");
                assert!(
                    !self.waiting.iter().any(|(other, id, _)| *other == function && *id < waiter),
                    "granted in the order of arrival"
                );
                self.leases.push((waiter, vm));
                self.answers.insert(waiter, Ok((vm, fresh)));
            }
            Action::Refuse { waiter, why } => {
                self.answered(waiter);
                self.answers.insert(waiter, Err(why));
            }
            Action::Stop { vm } => {
                let guest = self.guests.get_mut(&vm).expect("stops only VMs that are there");
                assert_eq!(guest.stage, GuestStage::Up, "stopped once, after its boot");
                assert_eq!(guest.calls, 0, "no call is cut off");
                guest.stage = GuestStage::Stopping;
            }
        }
    }

    fn answered(&mut self, waiter: WaiterId) -> FunctionName {
        let at = self.waiting.iter().position(|(_, id, _)| *id == waiter);
        self.waiting.remove(at.expect("answers only those who wait, and once")).0
    }

    fn check(&self, event: &Event) {
        let memory_mb = self.guests.values().map(|guest| guest.memory_mb).sum::<u64>();
        let used = Room { vms: self.guests.len() as u32, memory_mb };
        let reserved = self.state.reserved();
        assert_eq!(self.state.used(), used.with(reserved), "the books are right");
        assert!(self.limits.room.fits(used), "the host is never overfilled");
        let booting = self.at(GuestStage::Booting).len();
        assert!(booting <= self.limits.boots_max as usize, "too many boots at a time");
        assert_eq!(self.state.waiting(), self.waiting.len());
        for (function, shape) in &self.shapes {
            let waiting = self.waiting.iter().filter(|(name, ..)| name == function).count();
            assert!(waiting <= self.limits.queue_max, "queues are bounded");
            let current = |guest: &&Guest| {
                guest.function == *function && guest.revision.to_string() == *shape.revision
            };
            let usable = self.guests.values().filter(current).any(|guest| {
                guest.stage == GuestStage::Up && guest.calls < guest.slots && guest.calls == 0
            });
            assert!(!(usable && waiting > 0), "nobody waits beside an idle VM");
        }
        // Whoever waits has something on its way: a boot, a VM that stops, or a call that ends.
        let on_the_way = booting > 0
            || !self.at(GuestStage::Stopping).is_empty()
            || self.guests.values().any(|guest| guest.calls > 0);
        assert!(self.waiting.is_empty() || on_the_way, "somebody waits for nothing");
        if matches!(event, Event::Tick) {
            for (function, waiter, deadline) in &self.waiting {
                let boots = self
                    .guests
                    .values()
                    .any(|guest| guest.function == *function && guest.stage == GuestStage::Booting);
                assert!(*deadline > self.now || boots, "{waiter:?} waits past its deadline");
            }
        }
    }
}
