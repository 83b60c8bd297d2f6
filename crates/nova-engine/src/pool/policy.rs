//! What the pool does next. Pure: no clock, no lock, no I/O; an [`Event`] goes in with the time, the
//! [`Action`]s come out.
//!
//! ```text
//!                               ┌────────── Released(reusable) ──────────┐
//!                               ▼                                        │
//!  Acquire ─▶ queue ─Boot─▶ booting ─Booted─▶ up, idle ─Grant─▶ up, leased
//!                               │                │ TTL, or room needed    │ not reusable, died, outdated
//!                               │                ▼                        ▼
//!                               │             stopping ◀────────────── retiring (no new calls)
//!                               └─BootFailed─▶ gone ◀─Stopped─┘
//! ```
//!
//! The rules:
//! * One queue per function, in order of arrival. Whatever VM of the function is free first serves
//!   its head; a boot is started only for callers whom the boots under way will not serve.
//! * A VM counts, against the host and its function, until it has *stopped*.
//! * When the host is full, the next boot is for the function with the fewest VMs, among equals for
//!   the caller who came first; nobody slips past while room is being made for it. Room is made by
//!   VMs that idle, longest first, and where none idles by VMs of a function that has more than its
//!   share, when their calls end ([`PoolState::must_yield`]).
//! * A function that changed has a new revision: its VMs retire, the calls on them finish, and
//!   callers that still wait get VMs of the new one.
//! * A boot that fails fails the callers that it was for, so failures cannot loop; VMs kept ready
//!   without callers are retried with growing delays.
mod admission;
#[cfg(test)]
mod fairness_tests;
mod lifecycle;
#[cfg(test)]
mod model;
#[cfg(test)]
mod property_tests;
mod reservations;
mod retirement;
#[cfg(test)]
mod tests;
mod types;
mod waiting;

pub use types::{
    Action, Event, Limits, Millis, Refusal, ReservationId, Room, Shape, VmNumber, VmView, WaiterId,
};

use crate::VmPhase;
use nova_domain::FunctionName;
use reservations::Reservations;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Everything the pool knows.
#[derive(Debug)]
pub struct PoolState {
    limits: Limits,
    functions: BTreeMap<FunctionName, Function>,
    vms: BTreeMap<VmNumber, Vm>,
    vms_made: u64,
    /// What all of `vms` take, and what is reserved.
    used: Room,
    /// What of it is on its way back: VMs that are stopping.
    stopping: Room,
    /// What of it comes back when calls end: VMs that made way for another function.
    yielding: Room,
    booting: u32,
    /// VMs that are up without a call, longest first.
    idle: BTreeSet<(Millis, VmNumber)>,
    /// Functions whose queue is not empty.
    hungry: BTreeSet<FunctionName>,
    /// Functions with fewer VMs than they want kept ready.
    short: BTreeSet<FunctionName>,
    /// When waiters give up. A waiter whose VM boots already is no longer in here.
    deadlines: BTreeMap<(Millis, WaiterId), FunctionName>,
    /// The function for whose next boot VMs in use must make way, and how many VMs it has or will
    /// have once those that stop have stopped.
    yield_for: Option<(FunctionName, u32)>,
    reservations: Reservations,
    draining: bool,
}

#[derive(Debug, Default)]
struct Function {
    /// `None` once it is deleted.
    shape: Option<Shape>,
    queue: VecDeque<Waiter>,
    /// Its VMs until they have stopped.
    vms: BTreeSet<VmNumber>,
    /// Of these, those that may take calls now or once they have booted.
    live: u32,
    /// Of the live ones, those that boot.
    booting: u32,
    /// Live VMs that are up and have a free slot; the one used last is taken first.
    free: Vec<VmNumber>,
    /// Since when `live` is 0.
    without_vm_since: Millis,
    /// Boots and VMs that failed since a call was served.
    failures: u32,
    /// No boots without callers before this.
    prewarm_after: Millis,
}

#[derive(Debug)]
struct Waiter {
    id: WaiterId,
    arrived: Millis,
    deadline: Millis,
}

#[derive(Debug)]
struct Vm {
    function: FunctionName,
    room: Room,
    slots: u32,
    leased: u32,
    stage: Stage,
    /// Takes no new calls; stops when it has none.
    retiring: bool,
    /// Retires to make way for another function.
    yielding: bool,
    idle_since: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Booting,
    Up,
    Stopping,
}

impl PoolState {
    /// An empty pool.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            functions: BTreeMap::new(),
            vms: BTreeMap::new(),
            vms_made: 0,
            used: Room::default(),
            stopping: Room::default(),
            yielding: Room::default(),
            booting: 0,
            idle: BTreeSet::new(),
            hungry: BTreeSet::new(),
            short: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            yield_for: None,
            reservations: Reservations::default(),
            draining: false,
        }
    }

    /// Takes what happened, says what to do. `now` never goes back.
    pub fn handle(&mut self, event: Event, now: Millis) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Configured { function, shape } => {
                self.configured(function, shape, now, &mut actions);
            }
            Event::Forgotten { function } => self.forgotten(&function, now, &mut actions),
            Event::Acquire { function, waiter } => {
                self.acquire(function, waiter, now, &mut actions);
            }
            Event::Cancelled { function, waiter } => self.cancelled(&function, waiter),
            Event::Booted { vm } => self.booted(vm, now, &mut actions),
            Event::BootFailed { vm } => self.boot_failed(vm, now, &mut actions),
            Event::Released { vm, reusable } => self.released(vm, reusable, now, &mut actions),
            Event::Died { vm } => self.died(vm, now, &mut actions),
            Event::Stopped { vm } => self.remove(vm, now),
            Event::Reserve { id, room } => self.reserve(id, room),
            Event::Unreserve { id } => self.unreserve(id),
            Event::Tick => {
                self.expire_waiters(now, &mut actions);
                self.expire_idle(now, &mut actions);
            }
            Event::Drain => self.drain(now, &mut actions),
            Event::CutOff => self.cut_off(now, &mut actions),
        }
        self.settle(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is due next, if nothing happens before.
    pub fn next_tick(&self, now: Millis) -> Option<Millis> {
        let deadline = self.deadlines.keys().next().map(|(at, _)| *at);
        let idle = self.idle.iter().next().map(|(since, _)| since + self.limits.idle_ttl_ms);
        let prewarm = self
            .short
            .iter()
            .filter_map(|name| self.functions.get(name))
            .map(|function| function.prewarm_after)
            .filter(|after| *after > now && !self.draining)
            .min();
        [deadline, idle, prewarm].into_iter().flatten().min()
    }

    /// Whether nothing is left of all that ever happened but the functions themselves.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        let rooms = [self.used, self.stopping, self.yielding];
        self.vms.is_empty()
            && self.hungry.is_empty()
            && self.idle.is_empty()
            && self.deadlines.is_empty()
            && self.booting == 0
            && rooms == [Room::default(); 3]
    }

    /// Whether new callers are refused.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Callers that wait.
    pub fn waiting(&self) -> usize {
        self.hungry.iter().filter_map(|name| self.functions.get(name)).map(|f| f.queue.len()).sum()
    }

    /// What the VMs take, and what is reserved.
    pub fn used(&self) -> Room {
        self.used
    }

    /// Every VM from booting to stopped, oldest first.
    pub fn vms(&self) -> impl Iterator<Item = VmView<'_>> {
        self.vms.iter().map(|(number, vm)| VmView {
            number: *number,
            function: &vm.function,
            phase: match vm.stage {
                Stage::Booting => VmPhase::Booting,
                Stage::Up if vm.leased > 0 => VmPhase::Busy,
                Stage::Up => VmPhase::Idle,
                Stage::Stopping => VmPhase::Stopping,
            },
            calls: vm.leased,
            memory_mb: vm.room.memory_mb,
        })
    }
}
