//! Who gets the next boot, and who makes way for it.
use super::{Action, Millis, PoolState, Room, VmNumber, WaiterId};
use nova_domain::FunctionName;
use std::collections::BTreeSet;

/// How long a function without any VM may wait while another that holds the host serves callers who
/// came before it. Long against a call of some milliseconds, so that taking turns is not mostly
/// booting; short against the usual timeout of 30 s, so that many functions get their turn.
pub(super) const TURN_MS: Millis = 500;

/// A place in the line for boots: fewest VMs first; among functions without any whichever waits
/// without one for longest, so that one that has just made way stands behind all others; then
/// whoever came first.
type Place = (u32, Millis, WaiterId, FunctionName);

impl PoolState {
    /// Starts the boots that callers need and the host has room for; has room made for the next.
    pub(super) fn settle(&mut self, now: Millis, actions: &mut Vec<Action>) {
        self.yield_for = None;
        self.grant_reservation(now, actions);
        if self.boot_for_callers(now, actions) {
            self.boot_ahead(now, actions);
        }
    }

    /// Returns whether every caller who may have a VM got one or a boot.
    fn boot_for_callers(&mut self, now: Millis, actions: &mut Vec<Action>) -> bool {
        if self.hungry.is_empty() {
            return true;
        }
        let mut line: BTreeSet<Place> =
            self.hungry.iter().filter_map(|name| self.place(name, 0)).collect();
        // What the boots that must wait will have once VMs have stopped.
        let mut soon = self.limits.room.without(self.used.without(self.stopping));
        let mut waiting = 0;
        while let Some((share, _, _, name)) = line.pop_first() {
            let need = self.need(&name);
            if waiting == 0 && self.free_room().fits(need) {
                if self.booting >= self.limits.boots_max {
                    return false;
                }
                self.start_boot(&name, actions);
                soon -= need;
                line.extend(self.place(&name, 0));
                continue;
            }
            waiting += 1;
            while !soon.fits(need) {
                let Some(victim) = self.least_useful_idle() else { break };
                if let Some(vm) = self.vms.get(&victim) {
                    soon += vm.room;
                }
                self.retire(victim, now, actions);
            }
            if !soon.fits(need) {
                if !soon.with(self.yielding).fits(need) {
                    self.yield_for = Some((name, share));
                }
                return false;
            }
            soon -= need;
            let boots_ahead = share + 1 - self.functions.get(&name).map_or(0, |f| f.live);
            line.extend(self.place(&name, boots_ahead));
        }
        waiting == 0
    }

    /// Boots what `min_replicas` asks for, in room that nobody else needs.
    fn boot_ahead(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if self.draining || self.short.is_empty() {
            return;
        }
        for name in self.short.clone() {
            while let Some(function) = self.functions.get(&name) {
                let Some(shape) = &function.shape else { break };
                let more = function.live < shape.replicas_min
                    && function.may_have(0)
                    && now >= function.prewarm_after
                    && self.booting < self.limits.boots_max
                    && self.free_room().fits(Room::one(shape.memory_mb));
                if !more {
                    break;
                }
                self.start_boot(&name, actions);
            }
            self.note_replicas(&name);
        }
    }

    /// Where a function stands in line if `boots_ahead` further boots were started for it already;
    /// `None` where it needs or may have no more.
    fn place(&self, name: &FunctionName, boots_ahead: u32) -> Option<Place> {
        let function = self.functions.get(name)?;
        let served = function.served_by_boots(function.booting + boots_ahead);
        let first = function.queue.get(served)?;
        let share = function.live + boots_ahead;
        let since = if share == 0 { function.waits_without_vm_since() } else { 0 };
        function.may_have(boots_ahead).then(|| (share, since, first.id, name.clone()))
    }

    /// Whether a VM of function `name` that has just ended a call must make way for a function that
    /// no idle VM can make way for: where it holds at least two VMs more than that one, or where
    /// that one has none and its caller came first or has waited for a whole turn.
    pub(super) fn must_yield(&self, name: &FunctionName, now: Millis) -> bool {
        let Some((other, other_share)) = self.yield_for.as_ref().filter(|(it, _)| it != name)
        else {
            return false;
        };
        let (Some(own), Some(other)) = (self.functions.get(name), self.functions.get(other)) else {
            return false;
        };
        let Some(first) = other.queue.front() else { return false };
        if own.live > other_share + 1 {
            return true;
        }
        let came_first = own.queue.front().is_none_or(|waiter| first.id < waiter.id);
        let waited_a_turn = now >= other.waits_without_vm_since() + TURN_MS;
        *other_share == 0 && (came_first || waited_a_turn)
    }

    /// The VM that idles longest; one that `min_replicas` keeps only where all are kept.
    pub(super) fn least_useful_idle(&self) -> Option<VmNumber> {
        let mut idle = self.idle.iter().map(|(_, number)| *number);
        idle.clone().find(|number| !self.is_kept(*number)).or_else(|| idle.next())
    }

    fn free_room(&self) -> Room {
        self.limits.room.without(self.used)
    }

    fn need(&self, name: &FunctionName) -> Room {
        let shape = self.functions.get(name).and_then(|function| function.shape.as_ref());
        shape.map_or(Room::default(), |shape| Room::one(shape.memory_mb))
    }
}

impl super::Function {
    /// For a function without VMs: since when its first caller and it have neither.
    fn waits_without_vm_since(&self) -> Millis {
        self.queue.front().map_or(0, |first| first.arrived.max(self.without_vm_since))
    }

    /// Whether one more VM after `boots_ahead` others stays within `max_replicas`.
    fn may_have(&self, boots_ahead: u32) -> bool {
        let max = self.shape.as_ref().map_or(0, |shape| shape.replicas_max);
        max == 0 || self.vms.len() as u32 + boots_ahead < max
    }
}
