//! The container's first process, watched through a pidfd.
//!
//! The OCI runtime is its parent and ends as soon as the container runs. The daemon takes such
//! orphans over (it is a child subreaper), so that they are reaped even where process 1 does not do
//! it, as in a container of the daemon's own.
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
        let pid = read_pid(path)?;
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("0 is not a pid"))?;
        Ok(Self(readable(pidfd_open(pid, PidfdFlags::empty())?)?))
    }

    /// Resolves when the process has ended.
    pub async fn ended(&self) {
        // A pidfd turns readable once and stays so; an error would mean that the runtime is ending.
        let _ = self.0.readable().await;
    }
}

/// The pid that the OCI runtime has written.
pub(super) fn read_pid(path: &Path) -> io::Result<i32> {
    let text = std::fs::read_to_string(path)?;
    let pid = text.trim().parse().ok().filter(|pid| *pid > 1);
    pid.ok_or_else(|| io::Error::other(format!("{text:?} is not the pid of a container")))
}

/// Makes this daemon the parent of containers whose OCI runtime has ended.
pub(super) fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Watches an open file for being readable. Must be called within a tokio runtime.
pub(super) fn readable(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor stays open for as long as it is registered, because an `OwnedFd` always
    // returns the same descriptor and closes it only when dropped, after the registration ended.
    unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }.map_err(Into::into)
}
