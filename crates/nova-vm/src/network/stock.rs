//! Namespaces made ahead: the default policy without limits, which nearly every function has.
use super::NetworkError;
use super::slot::{Builder, NetworkSlot};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the maker rests after a failure: long enough not to fill the log, short enough that a
/// mended host is noticed soon.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The shelf and the thread that fills it.
#[derive(Debug)]
pub(super) struct Stock {
    shelf: Arc<Shelf>,
    /// Taken by whoever closes.
    maker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shelf {
    state: Mutex<State>,
    /// Rung when something was taken and when the stock closes.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<NetworkSlot>,
    closed: bool,
}

impl Stock {
    /// Starts to keep `size` namespaces ready, in the caller's namespace.
    pub(super) fn start(builder: Builder, size: usize) -> Result<Self, NetworkError> {
        let shelf = Arc::new(Shelf::default());
        let filled = shelf.clone();
        let maker = std::thread::Builder::new()
            .name("nova-netns-maker".to_owned())
            .spawn(move || filled.fill(&builder, size))
            .map_err(|error| NetworkError::failed("the thread that makes namespaces", error))?;
        Ok(Self { shelf, maker: Mutex::new(Some(maker)) })
    }

    /// One that is ready, if any.
    pub(super) fn take(&self) -> Option<NetworkSlot> {
        let taken = self.shelf.lock().ready.pop_front();
        self.shelf.changed.notify_one();
        taken
    }

    /// Drops what is ready and makes no more. Blocks for the milliseconds of the one being made.
    pub(super) fn close(&self) {
        let ready = {
            let mut state = self.shelf.lock();
            state.closed = true;
            std::mem::take(&mut state.ready)
        };
        self.shelf.changed.notify_one();
        drop(ready);
        let maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if maker.is_some_and(|maker| maker.join().is_err()) {
            tracing::warn!("the thread that makes namespaces had panicked");
        }
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.shelf.lock().ready.len()
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes namespaces until the shelf is closed.
    fn fill(&self, builder: &Builder, size: usize) {
        loop {
            let full = |state: &mut State| !state.closed && state.ready.len() >= size;
            let state = self.changed.wait_while(self.lock(), full);
            if state.unwrap_or_else(PoisonError::into_inner).closed {
                return;
            }
            let made = builder.build();
            let mut state = self.lock();
            match made {
                Ok(slot) if !state.closed => state.ready.push_back(slot),
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "no network slot could be made ahead");
                    let open = |state: &mut State| !state.closed;
                    let rested = self.changed.wait_timeout_while(state, RETRY_AFTER, open);
                    drop(rested);
                }
            }
        }
    }
}
