//! One task that tells the policy that time has passed, exactly when the policy wants to know.
use super::policy::{Event, Millis};
use super::{Inner, Pool};
use std::future;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Ticks until the pool is gone. `woken` is notified when the next tick is due earlier than this
/// task knows, and when the pool goes.
pub(super) async fn run(pool: Weak<Inner>, woken: Arc<Notify>) {
    loop {
        let Some(due) = pool.upgrade().map(|inner| Pool { inner }.next_tick()) else { return };
        tokio::select! {
            () = at(due) => {
                let Some(inner) = pool.upgrade() else { return };
                Pool { inner }.handle(Event::Tick);
            }
            () = woken.notified() => {}
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => future::pending().await,
    }
}

impl Pool {
    /// When the next tick is due; remembered, so that an earlier need is noticed.
    fn next_tick(&self) -> Option<Instant> {
        let mut books = self.books();
        books.next_tick = books.state.next_tick(self.now());
        books.next_tick.map(|due: Millis| self.inner.epoch + Duration::from_millis(due))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ticker.notify_one();
    }
}
