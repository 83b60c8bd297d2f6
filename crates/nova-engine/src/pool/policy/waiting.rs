//! Callers: how they enter the queue, and the ways out of it.
use super::{Action, Function, Millis, PoolState, Refusal, Room, Shape, Waiter, WaiterId};
use nova_domain::FunctionName;

impl PoolState {
    pub(super) fn configured(
        &mut self,
        name: FunctionName,
        shape: Shape,
        now: Millis,
        actions: &mut Vec<Action>,
    ) {
        if self.draining {
            return;
        }
        let too_large = !self.limits.room.fits(Room::one(shape.memory_mb));
        let memory_mb = shape.memory_mb;
        let max = shape.replicas_max;
        let function = self
            .functions
            .entry(name.clone())
            .or_insert_with(|| Function { without_vm_since: now, ..Function::default() });
        let before = function.shape.replace(shape);
        if before.as_ref().map(|shape| &shape.revision)
            != function.shape.as_ref().map(|shape| &shape.revision)
        {
            function.failures = 0;
            function.prewarm_after = now;
            // Whoever waits past its deadline because its VM boots already has lost that boot.
            for waiter in &function.queue {
                self.deadlines.insert((waiter.deadline, waiter.id), name.clone());
            }
            self.retire_all(&name, now, actions);
        }
        if too_large {
            self.refuse_all(&name, Refusal::TooLarge { memory_mb }, actions);
        }
        let surplus = self.functions.get(&name).map_or(0, |function| match max {
            0 => 0,
            max => function.live.saturating_sub(max),
        });
        let idle: Vec<_> = self.idle.iter().map(|(_, vm)| *vm).collect();
        let own = |vm: &_| self.vms.get(vm).is_some_and(|vm| vm.function == name);
        let surplus: Vec<_> = idle.into_iter().filter(own).take(surplus as usize).collect();
        for vm in surplus {
            self.retire(vm, now, actions);
        }
        self.note_replicas(&name);
    }

    pub(super) fn forgotten(
        &mut self,
        name: &FunctionName,
        now: Millis,
        actions: &mut Vec<Action>,
    ) {
        let Some(function) = self.functions.get_mut(name) else { return };
        function.shape = None;
        self.refuse_all(name, Refusal::Unknown, actions);
        self.retire_all(name, now, actions);
        self.note_replicas(name);
    }

    pub(super) fn acquire(
        &mut self,
        name: FunctionName,
        id: WaiterId,
        now: Millis,
        actions: &mut Vec<Action>,
    ) {
        let refused = match self.functions.get_mut(&name) {
            _ if self.draining => Refusal::Draining,
            Some(Function { shape: Some(shape), queue, free, .. }) => {
                if !self.limits.room.fits(Room::one(shape.memory_mb)) {
                    Refusal::TooLarge { memory_mb: shape.memory_mb }
                } else if queue.len() >= self.limits.queue_max && free.is_empty() {
                    Refusal::QueueFull { waiting: queue.len() }
                } else {
                    let deadline = now.saturating_add(shape.wait_max_ms);
                    queue.push_back(Waiter { id, arrived: now, deadline });
                    if free.is_empty() {
                        self.deadlines.insert((deadline, id), name.clone());
                        self.hungry.insert(name);
                    } else {
                        self.serve(&name, false, actions);
                    }
                    return;
                }
            }
            Some(Function { shape: None, .. }) | None => Refusal::Unknown,
        };
        actions.push(Action::Refuse { waiter: id, why: refused });
    }

    pub(super) fn cancelled(&mut self, name: &FunctionName, id: WaiterId) {
        let Some(function) = self.functions.get_mut(name) else { return };
        // Waiters enter in the order of their ids, so the queue is sorted.
        let Ok(at) = function.queue.binary_search_by_key(&id, |waiter| waiter.id) else { return };
        if let Some(waiter) = function.queue.remove(at) {
            self.deadlines.remove(&(waiter.deadline, id));
        }
        self.note_queue(name);
    }

    /// Gives free slots to waiters, first come first served. `fresh` where the slots are those of a
    /// VM that has just booted.
    pub(super) fn serve(&mut self, name: &FunctionName, fresh: bool, actions: &mut Vec<Action>) {
        let Some(function) = self.functions.get_mut(name) else { return };
        while let Some(number) = function.free.last().copied() {
            let Some(waiter) = function.queue.pop_front() else { break };
            self.deadlines.remove(&(waiter.deadline, waiter.id));
            if let Some(vm) = self.vms.get_mut(&number) {
                self.idle.remove(&(vm.idle_since, number));
                vm.leased += 1;
                if vm.leased == vm.slots {
                    function.free.pop();
                }
            }
            actions.push(Action::Grant { waiter: waiter.id, vm: number, fresh });
        }
        self.note_queue(name);
    }

    /// Refuses the first `count` waiters.
    pub(super) fn refuse(
        &mut self,
        name: &FunctionName,
        count: usize,
        why: Refusal,
        actions: &mut Vec<Action>,
    ) {
        let Some(function) = self.functions.get_mut(name) else { return };
        let count = count.min(function.queue.len());
        for waiter in function.queue.drain(..count) {
            self.deadlines.remove(&(waiter.deadline, waiter.id));
            actions.push(Action::Refuse { waiter: waiter.id, why });
        }
        self.note_queue(name);
    }

    pub(super) fn refuse_all(
        &mut self,
        name: &FunctionName,
        why: Refusal,
        actions: &mut Vec<Action>,
    ) {
        self.refuse(name, usize::MAX, why, actions);
    }

    /// Refuses those whose time is over, except those whose VM boots already: a boot has a limit of
    /// its own, and a function with a timeout shorter than its boot could else never start.
    pub(super) fn expire_waiters(&mut self, now: Millis, actions: &mut Vec<Action>) {
        while let Some(((deadline, id), name)) = self.deadlines.pop_first() {
            if deadline > now {
                self.deadlines.insert((deadline, id), name);
                return;
            }
            let Some(function) = self.functions.get_mut(&name) else { continue };
            let Ok(at) = function.queue.binary_search_by_key(&id, |waiter| waiter.id) else {
                continue;
            };
            if at < function.served_by_boots(function.booting) {
                continue;
            }
            function.queue.remove(at);
            actions.push(Action::Refuse { waiter: id, why: Refusal::Expired });
            self.note_queue(&name);
        }
    }

    fn note_queue(&mut self, name: &FunctionName) {
        if self.functions.get(name).is_none_or(|function| function.queue.is_empty()) {
            self.hungry.remove(name);
        }
    }
}

impl Function {
    /// How many waiters that many booting VMs will serve.
    pub(super) fn served_by_boots(&self, booting: u32) -> usize {
        let slots = self.shape.as_ref().map_or(1, |shape| shape.slots);
        booting as usize * slots as usize
    }
}
