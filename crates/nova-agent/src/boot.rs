//! The first steps of a microVM: the kernel's own filesystems, and the drivers that the agent needs
//! before the host can speak to it.
//!
//! The initramfs holds `/init` (the agent) and `/modules`: the modules of a stock kernel, and their
//! names in the file `order`, one a line, in the order of loading. A kernel with everything built in
//! needs no `/modules`. It also holds `/dev/console` and `/dev/null`: without them the kernel and the
//! Rust runtime do not get as far as `main`.
use crate::rootfs::attach;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::MsFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

/// Where the initramfs has the kernel's modules.
const MODULES: &str = "/modules";

/// Open files of a process. The kernel's default for PID 1, 1024, is too few for a busy server; this
/// is what distributions give their services.
const OPEN_FILES_MAX: u64 = 65536;

/// Makes the machine ready to listen for the host.
///
/// # Errors
/// Which mount or module failed.
pub fn prepare() -> Result<(), String> {
    umask(Mode::from_bits_truncate(0o022));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    attach("devtmpfs", "/dev", "devtmpfs", flags, "")?;
    attach("proc", "/proc", "proc", flags | MsFlags::MS_NODEV, "")?;
    attach("sysfs", "/sys", "sysfs", flags | MsFlags::MS_NODEV, "")?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES_MAX, OPEN_FILES_MAX)
        .map_err(|error| format!("raise the limit of open files: {error}"))?;
    // As in a container, it is the function's cgroup that says how much memory there is. The default
    // would have the kernel refuse a large allocation at once, by the size of this small machine.
    fs::write("/proc/sys/vm/overcommit_memory", "1")
        .map_err(|error| format!("allow overcommitted memory: {error}"))?;
    // Should all of the machine's memory be gone, the function goes and the agent says why. (In a
    // container it may not exempt itself, and has a cgroup of its own instead.)
    fs::write("/proc/self/oom_score_adj", "-1000")
        .map_err(|error| format!("exempt the agent from the OOM killer: {error}"))?;
    load_modules(Path::new(MODULES))
}

fn load_modules(directory: &Path) -> Result<(), String> {
    let order = match fs::read_to_string(directory.join("order")) {
        Ok(order) => order,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("read {MODULES}/order: {error}")),
    };
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let path = directory.join(name);
        load(&path).map_err(|error| format!("load the kernel module {name}: {error}"))?;
    }
    // They lie in memory, which is the function's from here on.
    fs::remove_dir_all(directory).map_err(|error| format!("remove {MODULES}: {error}"))
}

fn load(path: &Path) -> std::io::Result<()> {
    match finit_module(File::open(path)?, c"", ModuleInitFlags::empty()) {
        // Built into this kernel, or loaded by it.
        Err(nix::Error::EEXIST) => Ok(()),
        other => Ok(other?),
    }
}
