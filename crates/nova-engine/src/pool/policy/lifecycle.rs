//! VMs that live: booted, used, idle. How they end is in [`super::retirement`].
use super::{Action, Function, Millis, PoolState, Refusal, Room, Stage, Vm, VmNumber};
use nova_domain::FunctionName;

/// Delay after the first failed boot of a VM kept ready without callers; doubles with each further
/// failure. Short enough that a passing cause (a full disk being cleared) is not noticed.
const PREWARM_DELAY_MS: Millis = 1000;

/// The longest such delay: once a minute costs nothing, and an operator who mends the cause sees it
/// work within that time.
const PREWARM_DELAY_MAX_MS: Millis = 60_000;

impl PoolState {
    pub(super) fn start_boot(&mut self, name: &FunctionName, actions: &mut Vec<Action>) {
        let Some(function) = self.functions.get_mut(name) else { return };
        let Some(shape) = &function.shape else { return };
        let number = VmNumber(self.vms_made);
        self.vms_made += 1;
        let vm = Vm {
            function: name.clone(),
            room: Room::one(shape.memory_mb),
            slots: shape.slots.max(1),
            leased: 0,
            stage: Stage::Booting,
            retiring: false,
            yielding: false,
            idle_since: 0,
        };
        self.used += vm.room;
        self.booting += 1;
        function.booting += 1;
        function.live += 1;
        function.vms.insert(number);
        self.vms.insert(number, vm);
        actions.push(Action::Boot { vm: number, function: name.clone() });
    }

    pub(super) fn booted(&mut self, number: VmNumber, now: Millis, actions: &mut Vec<Action>) {
        let Some(vm) = self.vms.get_mut(&number) else { return };
        if vm.stage != Stage::Booting {
            return;
        }
        vm.stage = Stage::Up;
        self.booting -= 1;
        if vm.retiring {
            self.stop(number, actions);
            return;
        }
        let name = vm.function.clone();
        if let Some(function) = self.functions.get_mut(&name) {
            function.booting -= 1;
            function.free.push(number);
        }
        self.serve(&name, true, actions);
        self.rest(number, now, actions);
    }

    pub(super) fn boot_failed(&mut self, number: VmNumber, now: Millis, actions: &mut Vec<Action>) {
        let Some(vm) = self.vms.get(&number) else { return };
        let (name, slots, retiring) = (vm.function.clone(), vm.slots as usize, vm.retiring);
        self.remove(number, now);
        let Some(function) = self.functions.get_mut(&name) else { return };
        if retiring {
            return;
        }
        function.note_failure(now);
        // The callers that this VM would have served and no other boot will.
        let others = function.served_by_boots(function.booting);
        let unserved = function.queue.len().saturating_sub(others).min(slots);
        self.refuse(&name, unserved, Refusal::BootFailed, actions);
    }

    pub(super) fn released(
        &mut self,
        number: VmNumber,
        reusable: bool,
        now: Millis,
        actions: &mut Vec<Action>,
    ) {
        let Some(vm) = self.vms.get_mut(&number) else { return };
        let was_full = vm.leased == vm.slots;
        vm.leased = vm.leased.saturating_sub(1);
        if vm.retiring {
            if vm.leased == 0 && vm.stage == Stage::Up {
                self.stop(number, actions);
            }
            return;
        }
        let name = vm.function.clone();
        if reusable && self.must_yield(&name, now) {
            if let Some(vm) = self.vms.get_mut(&number) {
                vm.yielding = true;
                self.yielding += vm.room;
            }
            self.yield_for = None;
            self.retire(number, now, actions);
            return;
        }
        let Some(function) = self.functions.get_mut(&name) else { return };
        let max = function.shape.as_ref().map_or(0, |shape| shape.replicas_max);
        if !reusable || (max != 0 && function.live > max) {
            self.retire(number, now, actions);
            return;
        }
        function.failures = 0;
        if was_full {
            function.free.push(number);
        }
        self.serve(&name, false, actions);
        self.rest(number, now, actions);
    }

    pub(super) fn died(&mut self, number: VmNumber, now: Millis, actions: &mut Vec<Action>) {
        let Some(vm) = self.vms.get(&number) else { return };
        if vm.stage != Stage::Up {
            return;
        }
        if let Some(function) = self.functions.get_mut(&vm.function) {
            function.note_failure(now);
        }
        self.retire(number, now, actions);
    }

    /// A VM without a call waits for one, unless the pool ends.
    fn rest(&mut self, number: VmNumber, now: Millis, actions: &mut Vec<Action>) {
        let Some(vm) = self.vms.get_mut(&number) else { return };
        if vm.leased > 0 {
            return;
        }
        if self.draining {
            self.retire(number, now, actions);
        } else {
            vm.idle_since = now;
            self.idle.insert((now, number));
        }
    }

    /// Stops VMs that idled for the whole TTL, except those that `min_replicas` keeps.
    pub(super) fn expire_idle(&mut self, now: Millis, actions: &mut Vec<Action>) {
        while let Some((since, number)) = self.idle.first().copied() {
            if now < since + self.limits.idle_ttl_ms {
                return;
            }
            if self.is_kept(number) {
                // Looked at again after another TTL; it has also shown that the function's VMs live.
                self.idle.remove(&(since, number));
                self.idle.insert((now, number));
                if let Some(vm) = self.vms.get_mut(&number) {
                    vm.idle_since = now;
                    if let Some(function) = self.functions.get_mut(&vm.function) {
                        function.failures = 0;
                    }
                }
            } else {
                self.retire(number, now, actions);
            }
        }
    }

    /// Whether stopping this VM would leave its function with fewer than `min_replicas`.
    pub(super) fn is_kept(&self, number: VmNumber) -> bool {
        let function = self.vms.get(&number).and_then(|vm| self.functions.get(&vm.function));
        function.is_some_and(|function| function.live <= function.replicas_min())
    }
}

impl Function {
    pub(super) fn replicas_min(&self) -> u32 {
        self.shape.as_ref().map_or(0, |shape| shape.replicas_min)
    }

    /// Puts off boots without callers, longer each time.
    fn note_failure(&mut self, now: Millis) {
        let doublings = self.failures.min(16);
        self.prewarm_after = now + (PREWARM_DELAY_MS << doublings).min(PREWARM_DELAY_MAX_MS);
        self.failures += 1;
    }
}
