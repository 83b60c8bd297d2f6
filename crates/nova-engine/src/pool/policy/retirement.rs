//! How VMs end: they take no new calls, stop when they have none, and count until they are gone.
use super::{Action, Millis, PoolState, Refusal, Stage, VmNumber};
use nova_domain::FunctionName;

impl PoolState {
    /// Gives the VM no more calls; stops it as soon as it has none.
    pub(super) fn retire(&mut self, number: VmNumber, now: Millis, actions: &mut Vec<Action>) {
        let Some(vm) = self.vms.get_mut(&number) else { return };
        if vm.retiring {
            return;
        }
        vm.retiring = true;
        self.idle.remove(&(vm.idle_since, number));
        let (name, stage, leased) = (vm.function.clone(), vm.stage, vm.leased);
        if let Some(function) = self.functions.get_mut(&name) {
            function.free.retain(|free| *free != number);
            function.booting -= u32::from(stage == Stage::Booting);
        }
        self.lose_live(&name, now);
        if stage == Stage::Up && leased == 0 {
            self.stop(number, actions);
        }
    }

    pub(super) fn retire_all(
        &mut self,
        name: &FunctionName,
        now: Millis,
        actions: &mut Vec<Action>,
    ) {
        let Some(function) = self.functions.get(name) else { return };
        for number in function.vms.clone() {
            self.retire(number, now, actions);
        }
    }

    pub(super) fn stop(&mut self, number: VmNumber, actions: &mut Vec<Action>) {
        let Some(vm) = self.vms.get_mut(&number) else { return };
        vm.stage = Stage::Stopping;
        self.stopping += vm.room;
        if std::mem::take(&mut vm.yielding) {
            self.yielding -= vm.room;
        }
        actions.push(Action::Stop { vm: number });
    }

    /// The VM is gone, whatever it was.
    pub(super) fn remove(&mut self, number: VmNumber, now: Millis) {
        let Some(vm) = self.vms.remove(&number) else { return };
        self.used -= vm.room;
        self.idle.remove(&(vm.idle_since, number));
        match vm.stage {
            Stage::Booting => self.booting -= 1,
            Stage::Up => {}
            Stage::Stopping => self.stopping -= vm.room,
        }
        if vm.yielding {
            self.yielding -= vm.room;
        }
        let Some(function) = self.functions.get_mut(&vm.function) else { return };
        function.vms.remove(&number);
        function.free.retain(|free| *free != number);
        if !vm.retiring {
            function.booting -= u32::from(vm.stage == Stage::Booting);
            self.lose_live(&vm.function, now);
        } else {
            self.note_replicas(&vm.function);
        }
    }

    fn lose_live(&mut self, name: &FunctionName, now: Millis) {
        if let Some(function) = self.functions.get_mut(name) {
            function.live -= 1;
            if function.live == 0 {
                function.without_vm_since = now;
            }
        }
        self.note_replicas(name);
    }

    /// Remembers whether a function is short of VMs, and forgets a deleted one with its last VM.
    pub(super) fn note_replicas(&mut self, name: &FunctionName) {
        let Some(function) = self.functions.get(name) else { return };
        if function.live < function.replicas_min() {
            self.short.insert(name.clone());
        } else {
            self.short.remove(name);
        }
        if function.shape.is_none() && function.vms.is_empty() {
            self.functions.remove(name);
        }
    }

    pub(super) fn drain(&mut self, now: Millis, actions: &mut Vec<Action>) {
        self.draining = true;
        let idle: Vec<_> = self.idle.iter().map(|(_, number)| *number).collect();
        for number in idle {
            self.retire(number, now, actions);
        }
    }

    /// Ends everything: see [`super::Event::CutOff`].
    pub(super) fn cut_off(&mut self, now: Millis, actions: &mut Vec<Action>) {
        self.draining = true;
        for name in self.hungry.clone() {
            self.refuse_all(&name, Refusal::Draining, actions);
        }
        let all: Vec<_> = self.vms.keys().copied().collect();
        for number in all {
            self.retire(number, now, actions);
        }
    }
}
