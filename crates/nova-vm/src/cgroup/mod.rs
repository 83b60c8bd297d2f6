//! Control groups, by plain file writes, on hosts with cgroup v1, v2 or both.
//!
//! A [`Group`] is one name in every hierarchy of the host, for example `nova-0123ab/5f..`. Where the
//! controllers that Nova needs (memory, cpu, pids) are attached decides where a group is made:
//!
//! ```text
//! v1      /sys/fs/cgroup/memory/G   /sys/fs/cgroup/cpu,cpuacct/G   /sys/fs/cgroup/pids/G
//! v2      /sys/fs/cgroup/G                 (all controllers in one directory)
//! hybrid  as v1; the bare v2 mount beside it has no controllers that matter here
//! ```
//!
//! What surprises: an OCI runtime and the jailer make directories of the same name in hierarchies
//! that Nova itself never writes to (freezer, devices, name=systemd, the bare v2 mount), so killing,
//! listing and removing always look at all of them.
mod group;
mod hierarchy;
mod kill;
#[cfg(test)]
mod tests;

pub use group::{Group, GroupLimits};
use hierarchy::{Hierarchy, Kind};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The controllers that limits are made of.
const NEEDED: [&str; 3] = ["memory", "cpu", "pids"];

/// The cgroup interface that a limit is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// One hierarchy for all.
    V2,
}

/// The cgroup hierarchies of this host.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Arc<[Hierarchy]>,
}

/// Why a cgroup cannot be had, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A controller is not attached anywhere that is mounted.
    #[error(
        "this host has no cgroup hierarchy with the {0} controller; \
         mount one, or boot without cgroup_disable={0}"
    )]
    NoController(&'static str),
    /// A file of a cgroup cannot be read or written.
    #[error("cgroup file {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Processes are still there long after they were killed.
    #[error("cgroup {path}: {count} processes are still alive {within_ms} ms after SIGKILL")]
    Alive {
        /// The cgroup's name.
        path: String,
        /// How many.
        count: usize,
        /// How long was waited, milliseconds.
        within_ms: u64,
    },
}

impl Cgroups {
    /// Finds the hierarchies that are mounted now.
    pub fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(path).map_err(failed(path))?;
        Self::from_mountinfo(&text)
    }

    fn from_mountinfo(text: &str) -> Result<Self, CgroupError> {
        let hierarchies: Arc<[Hierarchy]> = hierarchy::mounted(text).into();
        for controller in NEEDED {
            if !hierarchies.iter().any(|hierarchy| hierarchy.has(controller)) {
                return Err(CgroupError::NoController(controller));
            }
        }
        Ok(Self { hierarchies })
    }

    /// Which interface the memory controller has here: what the jailer's `--cgroup-version` asks.
    pub fn version(&self) -> Version {
        match self.hierarchies.iter().find(|hierarchy| hierarchy.has("memory")) {
            Some(Hierarchy { kind: Kind::V2, .. }) => Version::V2,
            Some(Hierarchy { kind: Kind::V1, .. }) | None => Version::V1,
        }
    }

    /// The group of this name, which need not exist: nothing is made.
    pub fn group(&self, name: impl Into<String>) -> Group {
        Group::new(Arc::clone(&self.hierarchies), name.into())
    }

    /// Names of the groups directly below `name`, in any hierarchy.
    pub fn children(&self, name: &str) -> Result<BTreeSet<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for hierarchy in self.hierarchies.iter() {
            let groups = subdirectories(&hierarchy.mount_point.join(name))?;
            names.extend(
                groups.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())),
            );
        }
        Ok(names)
    }
}

/// The groups below a directory; none where it does not exist.
fn subdirectories(path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut directories = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            }
        }
        Ok(directories)
    };
    match read() {
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        result => result.map_err(failed(path)),
    }
}

/// Whether a file or directory of a cgroup is not there (any more): the kernel answers `ENODEV` for one
/// that was opened and then removed.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// Turns an I/O error into one that names its file.
fn failed(path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { path, source }
}
