//! Room for guests that are not for calls: those of builds.
//!
//! Calls come first: a reservation that room can be made for by VMs that idle is granted, and counts from
//! then on; one that would have to wait for calls to end holds nobody up until then.
use super::{Action, Millis, PoolState, ReservationId, Room};
use std::collections::BTreeMap;

/// What is reserved, and who asks.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    wanted: Option<(ReservationId, Room)>,
    granted: BTreeMap<ReservationId, Room>,
}

impl PoolState {
    /// Asks for room; more than the host has means all that it has. One at a time may ask.
    pub(super) fn reserve(&mut self, id: ReservationId, room: Room) {
        self.reservations.wanted = Some((id, self.limits.room.at_most(room)));
    }

    /// Gives room back, or the wish for it up.
    pub(super) fn unreserve(&mut self, id: ReservationId) {
        self.reservations.wanted.take_if(|(wanted, _)| *wanted == id);
        if let Some(room) = self.reservations.granted.remove(&id) {
            self.used -= room;
        }
    }

    /// Whether the room is there: it was granted, and what made way for it has stopped.
    pub fn is_reserved(&self, id: ReservationId) -> bool {
        self.reservations.granted.contains_key(&id) && self.limits.room.fits(self.used)
    }

    /// What is reserved.
    #[cfg(test)]
    pub fn reserved(&self) -> Room {
        let rooms = self.reservations.granted.values();
        rooms.fold(Room::default(), |sum, room| sum.with(*room))
    }

    /// Grants what is asked for if VMs that idle or stop can make way, and stops as many as must.
    pub(super) fn grant_reservation(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let Some((id, room)) = self.reservations.wanted else { return };
        let idle = self.idle.iter().filter_map(|(_, number)| self.vms.get(number));
        let idle = idle.fold(Room::default(), |sum, vm| sum.with(vm.room));
        let stays = self.used.without(self.stopping).without(idle);
        if !self.limits.room.fits(stays.with(room)) {
            return;
        }
        self.reservations.wanted = None;
        self.reservations.granted.insert(id, room);
        self.used += room;
        while !self.limits.room.fits(self.used.without(self.stopping)) {
            let Some(victim) = self.least_useful_idle() else { return };
            self.retire(victim, now, actions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{World, burst, shape};
    use super::super::{Event, ReservationId, Room};

    const BUILD: ReservationId = ReservationId(1);

    fn reserve(world: &mut World, vms: u32) {
        let room = (0..vms).fold(Room::default(), |sum, _| sum.with(Room::one(shape(0).memory_mb)));
        world.event(Event::Reserve { id: BUILD, room });
    }

    #[test]
    fn idle_vms_make_way_for_a_build_and_nobody_takes_their_room() {
        let mut world = World::new(3);
        world.configure("f", shape(0));
        world.configure("g", shape(0));
        let callers = burst(&mut world, "f", 3);
        world.settle();
        reserve(&mut world, 2);
        assert!(!world.state.is_reserved(BUILD), "all are busy");
        world.release(callers[0], true);
        world.release(callers[1], true);
        let other = world.acquire("g");
        assert!(!world.state.is_reserved(BUILD), "they have not stopped");
        world.settle();
        assert!(world.state.is_reserved(BUILD));
        assert!(!world.granted(other), "there is no room");
        world.event(Event::Unreserve { id: BUILD });
        world.settle();
        assert!(world.granted(other));
    }

    #[test]
    fn a_build_that_must_wait_for_calls_holds_nobody_up() {
        let mut world = World::new(3);
        world.configure("f", shape(0));
        burst(&mut world, "f", 2);
        world.settle();
        reserve(&mut world, 9);
        let third = world.acquire("f");
        world.settle();
        assert!(world.granted(third));
        world.event(Event::Unreserve { id: BUILD });
        assert!(!world.state.is_reserved(BUILD));
    }

    #[test]
    fn a_build_larger_than_the_host_gets_all_of_it() {
        let mut world = World::new(3);
        reserve(&mut world, 9);
        assert!(world.state.is_reserved(BUILD));
        assert_eq!(world.state.used().vms, 3);
        world.event(Event::Unreserve { id: BUILD });
        assert_eq!(world.state.used(), Room::default());
    }
}
