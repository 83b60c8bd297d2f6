//! The container's first process, watched through a pidfd.
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process that is not a child of ours: the agent, PID 1 of its container.
#[derive(Debug)]
pub(super) struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// The process whose pid the OCI runtime has written. Must be called within a tokio runtime.
    pub fn from_pid_file(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let pid = text.trim().parse().ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other(format!("{text:?} is not a pid")))?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self(readable(process)?))
    }

    /// Resolves when the process has ended.
    pub async fn ended(&self) {
        // A pidfd turns readable once and stays so; an error would mean that the runtime is ending.
        let _ = self.0.readable().await;
    }
}

/// Watches an open file for being readable. Must be called within a tokio runtime.
pub(super) fn readable(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor stays open for as long as it is registered, because an `OwnedFd` always
    // returns the same descriptor and closes it only when dropped, after the registration ended.
    unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }.map_err(Into::into)
}
