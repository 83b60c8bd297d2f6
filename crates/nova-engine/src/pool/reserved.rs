//! Room that is set aside for a guest outside of the pool.
use super::Pool;
use super::policy::{Event, ReservationId, Room};

/// Room for one guest, until it is dropped.
pub(crate) struct Reserved {
    pool: Pool,
    id: ReservationId,
}

impl Pool {
    /// Sets `memory_mb` and one VM aside, or all there is where that is less. Waits until there is room;
    /// dropping the future gives up.
    pub async fn reserve(&self, memory_mb: u64) -> Reserved {
        let mut last = self.inner.reserving.lock().await;
        last.0 += 1;
        let id = *last;
        let reserved = Reserved { pool: self.clone(), id };
        self.handle(Event::Reserve { id, room: Room::one(memory_mb) });
        while !self.books().state.is_reserved(id) {
            self.inner.roomier.notified().await;
        }
        reserved
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.pool.handle(Event::Unreserve { id: self.id });
    }
}
