//! What a host is ready to read of an export: sending waits for it.
use nova_proto::CREDIT_BYTES;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many bytes the host is ready to read.
pub struct Credits {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    bytes: u64,
    cancelled: bool,
}

impl Credits {
    /// What may be sent without being asked.
    pub fn new() -> Self {
        let state = State { bytes: CREDIT_BYTES as u64, cancelled: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The host has read so many bytes.
    pub fn grant(&self, bytes: u32) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_add(u64::from(bytes));
        self.changed.notify_all();
    }

    /// Nobody reads any more.
    pub fn cancel(&self) {
        self.lock().cancelled = true;
        self.changed.notify_all();
    }

    /// Waits until so many bytes may be sent.
    pub fn take(&self, bytes: usize) -> io::Result<()> {
        let mut state = self.lock();
        while !state.cancelled && state.bytes < bytes as u64 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.cancelled {
            return Err(io::Error::other("the host reads no more"));
        }
        state.bytes -= bytes as u64;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_beyond_the_credit_until_the_host_has_read() {
        let credits = Credits::new();
        credits.take(CREDIT_BYTES).expect("the first credit");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| credits.take(10));
            credits.grant(4);
            credits.grant(6);
            waiting.join().expect("no panic").expect("granted");
            let cancelled = scope.spawn(|| credits.take(1));
            credits.cancel();
            cancelled.join().expect("no panic").expect_err("cancelled");
        });
    }
}
