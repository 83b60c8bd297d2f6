//! The end of a group: everything in it killed, then its directories removed.
//!
//! Blocking, because it must also work where nothing async does (a drop, a reconciler before the
//! runtime serves); callers with a runtime use `spawn_blocking`.
use super::group::set;
use super::hierarchy::Kind;
use super::{CgroupError, Group, failed, subdirectories};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long killed processes may take to go. A process in uninterruptible sleep on a slow disk may
/// need seconds; one that needs longer is stuck in the kernel.
const KILL_WITHIN: Duration = Duration::from_secs(10);
/// How long a process that has left its cgroup may take to become a zombie: no work is left in
/// between, only a scheduler that must come round.
const REAP_WITHIN: Duration = Duration::from_secs(1);
/// How long the kernel may call an empty group busy: it lets go of the last process a moment after
/// its parent has seen it end.
const REMOVE_WITHIN: Duration = Duration::from_secs(2);
/// First pause before another attempt to remove; doubled each time.
const REMOVE_PAUSE: Duration = Duration::from_micros(200);

impl Group {
    /// Kills every process in the group and below, and returns when all are gone.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + KILL_WITHIN;
        loop {
            let members = self.processes()?;
            if members.is_empty() {
                return Ok(());
            }
            for (directory, _) in self.directories() {
                // A fork bomb could outrun the loop: from here on nothing forks. Most hierarchies
                // have no such file, and where it fails the loop just has more to do.
                let _ = set(&directory, "pids.max", 0);
            }
            let open = self.open(&members);
            let at_once = self.kill_at_once();
            for process in &open {
                if !at_once {
                    // It may have ended by itself meanwhile.
                    let _ = pidfd_send_signal(process, Signal::KILL);
                }
            }
            if open.is_empty() {
                // Members that could not be opened have ended, or end at once; do not spin on them.
                std::thread::sleep(REMOVE_PAUSE);
            }
            if !wait_all(&open, deadline) {
                return Err(CgroupError::Alive {
                    path: self.name.clone(),
                    count: self.processes()?.len(),
                    within_ms: KILL_WITHIN.as_millis() as u64,
                });
            }
        }
    }

    /// Removes the group and all below it in every hierarchy. Call [`Group::kill`] first.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut first_error = None;
        for hierarchy in self.hierarchies.iter() {
            if let Err(error) = remove_tree(&hierarchy.mount_point.join(&self.name)) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Reaps the children of this process that have died in the group: orphans that it has taken over
    /// as a subreaper. Call it after [`Group::kill`] and before [`Group::remove`]. With `only`, the
    /// search through all children is spared if that one is found.
    pub(crate) fn reap(&self, only: Option<i32>) {
        let deadline = Instant::now() + REAP_WITHIN;
        let orphans = match only.and_then(|pid| self.open_member(pid)) {
            Some(orphan) => vec![orphan],
            None => self.open(&children()),
        };
        // A process leaves its cgroup a moment before its parent can take note of its end.
        wait_all(&orphans, deadline);
        for orphan in orphans {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            // An error says that somebody else was faster.
            let _ = waitid(WaitId::PidFd(orphan.as_fd()), options);
        }
    }

    fn open(&self, pids: &BTreeSet<i32>) -> Vec<OwnedFd> {
        pids.iter().filter_map(|pid| self.open_member(*pid)).collect()
    }

    /// A handle to the process with this pid, if it still belongs to the group: pids are reused.
    fn open_member(&self, pid: i32) -> Option<OwnedFd> {
        let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let suffix = format!("/{}", self.name);
        text.lines()
            .filter_map(|line| line.splitn(3, ':').nth(2))
            // The path is seen from the root of a hierarchy, or of the daemon's cgroup namespace.
            .any(|path| path.ends_with(&suffix) || path.contains(&format!("{suffix}/")))
            .then_some(process)
    }

    /// Kills the whole group in one step where the kernel can (cgroup v2 from Linux 5.14 on).
    fn kill_at_once(&self) -> bool {
        let mut any = false;
        for (directory, kind) in self.directories() {
            let whole = kind == Kind::V2 && directory.join("cgroup.procs").exists();
            if whole && set(&directory, "cgroup.kill", 1).is_ok() {
                any = true;
            }
        }
        // On a hybrid host some processes may be in v1 groups only.
        any && self.directories().all(|(_, kind)| kind == Kind::V2)
    }
}

/// The children of this process, whichever thread they belong to.
fn children() -> BTreeSet<i32> {
    // Whoever cannot be listed is reaped with a later guest.
    let tasks = subdirectories(Path::new("/proc/self/task")).unwrap_or_default();
    let lists = tasks.iter().filter_map(|task| std::fs::read_to_string(task.join("children")).ok());
    lists
        .flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Waits until every process has ended; false when the deadline came first.
fn wait_all(processes: &[OwnedFd], deadline: Instant) -> bool {
    for process in processes {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let timeout =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut ended = [PollFd::new(process, PollFlags::IN)];
            match poll(&mut ended, Some(&timeout)) {
                Ok(0) => return false,
                Err(rustix::io::Errno::INTR) => {}
                // An error of poll itself would come again at once: the next look at the members
                // decides.
                Ok(_) | Err(_) => break,
            }
        }
    }
    Instant::now() < deadline
}

/// Removes a cgroup's directory and those below it, deepest first.
fn remove_tree(directory: &Path) -> Result<(), CgroupError> {
    for child in subdirectories(directory)? {
        remove_tree(&child)?;
    }
    let deadline = Instant::now() + REMOVE_WITHIN;
    let mut pause = REMOVE_PAUSE;
    loop {
        match std::fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == ErrorKind::ResourceBusy && Instant::now() + pause < deadline =>
            {
                std::thread::sleep(pause);
                pause *= 2;
            }
            Err(error) => return Err(failed(directory)(error)),
        }
    }
}
