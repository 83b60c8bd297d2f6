//! The memory that the bodies of all requests take together, counted as they arrive.
use super::problem::{ErrorCode, Problem};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most bytes of all bodies that are being read or worked on: three of the largest that carry code, or
/// some forty of the largest payloads. What is decoded or unpacked from a body takes a few times its size.
const BODIES_MAX_BYTES: usize = 256 * 1024 * 1024;
/// When a client whose body had no room may try again, seconds: a body is read in less.
const RETRY_AFTER_S: u64 = 1;

/// The room that all request bodies share.
#[derive(Debug, Clone)]
pub struct Bodies {
    room: Arc<Semaphore>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self::of(BODIES_MAX_BYTES)
    }
}

impl Bodies {
    /// Room for so many bytes.
    pub fn of(bytes: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(bytes)) }
    }

    /// Takes room for so many bytes, at once or not at all.
    pub fn hold(&self, bytes: usize) -> Result<Held, Problem> {
        let full = || {
            let detail = "the bodies of other requests take all the memory that there is for them; \
                          try again";
            Problem::new(ErrorCode::Saturated, detail).retry_after(RETRY_AFTER_S)
        };
        let bytes = u32::try_from(bytes).map_err(|_| full())?;
        let permit = self.room.clone().try_acquire_many_owned(bytes).map_err(|_| full())?;
        Ok(Held { permit })
    }
}

/// Room that a body takes, given back when dropped.
#[derive(Debug)]
pub struct Held {
    permit: OwnedSemaphorePermit,
}

impl Held {
    /// Holds what `more` holds as well.
    pub fn add(&mut self, more: Held) {
        self.permit.merge(more.permit);
    }
}
