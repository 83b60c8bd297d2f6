//! One group: made with its limits, asked for its files, listed.
use super::hierarchy::{Hierarchy, Kind};
use super::{CgroupError, failed, is_gone, subdirectories};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Length of a period of CPU time, microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// Bounds of a group; `None` sets no limit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupLimits {
    /// Memory, bytes. Swap is not given on top.
    pub memory_bytes: Option<u64>,
    /// CPU time, in CPUs.
    pub cpus: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// A cgroup of this name in every hierarchy, whether it exists or not.
#[derive(Debug, Clone)]
pub struct Group {
    pub(super) hierarchies: Arc<[Hierarchy]>,
    pub(super) name: String,
}

impl Group {
    pub(super) fn new(hierarchies: Arc<[Hierarchy]>, name: String) -> Self {
        Self { hierarchies, name }
    }

    /// Its name: a path relative to the root of each hierarchy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The group of this name below it.
    pub fn child(&self, name: &str) -> Self {
        Self::new(Arc::clone(&self.hierarchies), format!("{}/{name}", self.name))
    }

    /// Makes the group, with its parents, in the hierarchies that the limits need, and sets them. A
    /// group that fails half-way is removed by [`Group::remove`], like any other.
    pub fn create(&self, limits: &GroupLimits) -> Result<(), CgroupError> {
        if let Some(bytes) = limits.memory_bytes {
            let (directory, kind) = self.make("memory")?;
            limit_memory(&directory, kind, bytes)?;
        }
        if let Some(cpus) = limits.cpus {
            let (directory, kind) = self.make("cpu")?;
            let quota = u64::from(cpus) * CPU_PERIOD_US;
            match kind {
                Kind::V1 => {
                    set(&directory, "cpu.cfs_period_us", CPU_PERIOD_US)?;
                    set(&directory, "cpu.cfs_quota_us", quota)?;
                }
                Kind::V2 => set(&directory, "cpu.max", format!("{quota} {CPU_PERIOD_US}"))?,
            }
        }
        if let Some(pids) = limits.pids {
            let (directory, _) = self.make("pids")?;
            set(&directory, "pids.max", pids)?;
        }
        Ok(())
    }

    /// The `cgroup.procs` files of the group: a process is in it when it has written itself to each.
    pub fn procs_files(&self) -> Vec<PathBuf> {
        self.directories().map(|(directory, _)| directory.join("cgroup.procs")).collect()
    }

    /// The file with the `oom_kill N` line that counts processes killed at the memory limit.
    pub fn oom_counter(&self) -> Option<PathBuf> {
        let hierarchy = self.hierarchies.iter().find(|hierarchy| hierarchy.has("memory"))?;
        let file = match hierarchy.kind {
            Kind::V1 => "memory.oom_control",
            Kind::V2 => "memory.events",
        };
        Some(hierarchy.mount_point.join(&self.name).join(file))
    }

    /// Lets `uid` move its own processes from this group into its child `into`. On v2 the kernel asks
    /// for the right to write the common ancestor's `cgroup.procs` as well as the target's.
    pub fn let_move(&self, uid: u32, into: &Group) -> Result<(), CgroupError> {
        let own = self.directories().filter(|(_, kind)| *kind == Kind::V2);
        for (directory, _) in own.chain(into.directories()) {
            let file = directory.join("cgroup.procs");
            chown(&file, Some(uid), Some(uid)).map_err(failed(&file))?;
        }
        Ok(())
    }

    /// The processes in the group and below it, as the pids of this process's pid namespace. Only a
    /// group that is gone has none: one that cannot be looked at may be full of them.
    pub fn processes(&self) -> Result<BTreeSet<i32>, CgroupError> {
        let mut pids = BTreeSet::new();
        let mut open: Vec<PathBuf> = self.directories().map(|(directory, _)| directory).collect();
        while let Some(directory) = open.pop() {
            let file = directory.join("cgroup.procs");
            let text = match std::fs::read_to_string(&file) {
                Ok(text) => text,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(failed(&file)(error)),
            };
            // A 0 stands for a process outside this pid namespace.
            pids.extend(
                text.lines().filter_map(|line| line.parse().ok()).filter(|pid: &i32| *pid > 0),
            );
            open.extend(subdirectories(&directory)?);
        }
        Ok(pids)
    }

    /// Whether there is a directory of the group in any hierarchy.
    pub fn exists(&self) -> bool {
        self.directories().next().is_some()
    }

    /// The group's directories that exist.
    pub(super) fn directories(&self) -> impl Iterator<Item = (PathBuf, Kind)> {
        self.hierarchies
            .iter()
            .map(|hierarchy| (hierarchy.mount_point.join(&self.name), hierarchy.kind))
            .filter(|(directory, _)| directory.is_dir())
    }

    /// Makes the group's directory in the hierarchy of `controller`.
    fn make(&self, controller: &'static str) -> Result<(PathBuf, Kind), CgroupError> {
        let hierarchy = self
            .hierarchies
            .iter()
            .find(|hierarchy| hierarchy.has(controller))
            .ok_or(CgroupError::NoController(controller))?;
        let mut directory = hierarchy.mount_point.clone();
        for part in self.name.split('/') {
            if hierarchy.kind == Kind::V2 {
                // A child has the controllers that its parent hands down.
                set(&directory, "cgroup.subtree_control", format!("+{controller}"))?;
            }
            directory.push(part);
            match std::fs::create_dir(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(&directory)(error)),
            }
        }
        Ok((directory, hierarchy.kind))
    }
}

fn limit_memory(directory: &Path, kind: Kind, bytes: u64) -> Result<(), CgroupError> {
    let (memory, swap, swap_bytes) = match kind {
        // On v1 the second limit is that of memory and swap together.
        Kind::V1 => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes),
        Kind::V2 => ("memory.max", "memory.swap.max", 0),
    };
    set(directory, memory, bytes)?;
    // The kernel may count no swap; then there is none to limit.
    if directory.join(swap).exists() {
        set(directory, swap, swap_bytes)?;
    }
    Ok(())
}

/// Writes a value to a file of a cgroup.
pub(super) fn set(
    directory: &Path,
    file: &str,
    value: impl std::fmt::Display,
) -> Result<(), CgroupError> {
    let path = directory.join(file);
    // One write call: the kernel parses each write by itself. Never creates a file: on a directory
    // that is no cgroup this must fail.
    let write = || -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).open(&path)?;
        file.write_all(value.to_string().as_bytes())
    };
    write().map_err(failed(&path))
}
