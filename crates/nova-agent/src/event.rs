//! A flag that `poll` can wait for: how one thread wakes another that waits for pipes.
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};

/// Raised by any thread, lowered by the one that waits. Raising twice is raising once.
pub struct Event(EventFd);

impl Event {
    /// An event that is not raised.
    pub fn new() -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_flags(flags)?))
    }

    /// Wakes the waiting thread.
    pub fn raise(&self) {
        // Fails only when the counter is at its end, and then it is raised.
        let _ = self.0.write(1);
    }

    /// Whether it is raised. Without lowering it.
    pub fn is_raised(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Lowers it. Do this before looking at what it announces, so that nothing is missed.
    pub fn lower(&self) {
        // Fails only when it is not raised.
        let _ = self.0.read();
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
