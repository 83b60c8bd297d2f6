//! The function's cgroup: a limit of its own, so that the agent survives an out-of-memory.
//!
//! In a container the host has made it (on cgroup v1: one per hierarchy) and the child only joins it.
//! In a microVM the agent mounts cgroup2 and makes it, with the same limits.
use nova_proto::{CgroupSetup, FunctionSetup};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

/// Where cgroup2 is mounted in a microVM.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Where the function's processes go.
pub struct FunctionCgroup {
    procs_files: Vec<File>,
    oom_counter: PathBuf,
}

impl FunctionCgroup {
    /// Makes or takes the cgroup.
    ///
    /// # Errors
    /// Which file could not be written or opened.
    pub fn set_up(setup: &CgroupSetup, function: &FunctionSetup) -> Result<Self, String> {
        let (procs_files, oom_counter) = match setup {
            CgroupSetup::Given { procs_files, oom_counter } => {
                (procs_files.iter().map(PathBuf::from).collect(), PathBuf::from(&oom_counter.path))
            }
            CgroupSetup::Own { pids_max } => {
                let directory = make(function.memory_mb, *pids_max)?;
                (vec![directory.join("cgroup.procs")], directory.join("memory.events"))
            }
        };
        let procs_files =
            procs_files.iter().map(|path: &PathBuf| open(path)).collect::<Result<_, _>>()?;
        Ok(Self { procs_files, oom_counter })
    }

    /// The files that a child writes `0` to, to join.
    pub fn procs_files(&self) -> &[File] {
        &self.procs_files
    }

    /// How many processes the kernel has killed at the memory limit so far.
    pub fn oom_kills(&self) -> u64 {
        let text = fs::read_to_string(&self.oom_counter).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

fn open(path: &Path) -> Result<File, String> {
    let file = OpenOptions::new().write(true).open(path);
    file.map_err(|error| format!("open the cgroup file {}: {error}", path.display()))
}

/// Makes the cgroup `function` with these limits, in the mounted cgroup2.
fn make(memory_mb: u32, pids_max: u32) -> Result<PathBuf, String> {
    let root = Path::new(CGROUP_ROOT);
    write(&root.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
    let directory = root.join("function");
    fs::create_dir_all(&directory)
        .map_err(|error| format!("make the cgroup {}: {error}", directory.display()))?;
    let memory_bytes = u64::from(memory_mb) * 1024 * 1024;
    write(&directory.join("memory.max"), &memory_bytes.to_string())?;
    write(&directory.join("pids.max"), &pids_max.to_string())?;
    // One killed process of a function would leave the others in an unknown state.
    write(&directory.join("memory.oom.group"), "1")?;
    // Only there where the kernel knows swap; a guest has none, but a limit that leaks is no limit.
    let swap = directory.join("memory.swap.max");
    if swap.exists() {
        write(&swap, "0")?;
    }
    Ok(directory)
}

fn write(path: &Path, value: &str) -> Result<(), String> {
    fs::write(path, value).map_err(|error| format!("write {value} to {}: {error}", path.display()))
}
