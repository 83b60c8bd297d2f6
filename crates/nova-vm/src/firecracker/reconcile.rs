//! What a crashed daemon left of its microVMs, found by owner and removed.
//!
//! ```text
//! processes   root directory is one of the owner's jails, or a jailer about to enter one
//! cgroups     <hierarchy>/nova-<id6>/*, and whatever still runs in them
//! mounts      below <data-dir>/run/jail
//! files       <data-dir>/run/jail, <data-dir>/run/jail-files
//! ```
//!
//! A jailed process shows `/` as its root, so names do not tell whose it is; the inode of that root
//! does. Every step runs whatever became of the others.
use super::{Host, copies_dir};
use crate::cgroup::{Cgroups, Group};
use crate::owner::Owner;
use crate::reconcile::Report;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two looks at whether they are.
const KILL_PAUSE: Duration = Duration::from_millis(10);

/// Removes everything that earlier daemons with this owner's data directory left. Must run before
/// this daemon boots its first guest. Blocks for as long as processes take to die.
pub fn reconcile(owner: &Owner) -> Report {
    let mut report = Report::default();
    remove_processes(&owner.jail_base(), &mut report);
    match Cgroups::detect() {
        Ok(cgroups) => remove_cgroup(&cgroups.group(owner.cgroup_name()), &mut report),
        Err(error) => report.failed.push(format!("cgroups: {error}")),
    }
    remove_mounts(&owner.jail_base(), &mut report);
    for directory in [owner.jail_base(), copies_dir(owner)] {
        if directory.exists() {
            let removed = fs::remove_dir_all(&directory);
            note(&mut report, removed, || format!("directory {}", directory.display()));
        }
    }
    report
}

/// After the last guest of a driver: what all of them shared. Blocks.
pub(super) fn remove_shared(host: &Host) {
    let owner = &host.config.owner;
    if let Err(error) = host.cgroups.group(owner.cgroup_name()).remove() {
        tracing::error!(%error, "cannot remove the cgroup of all guests");
    }
    let jails = owner.jail_base();
    let removed =
        [(fs::remove_dir_all(&jails), jails), (host.shared.remove_copies(), copies_dir(owner))];
    for (result, directory) in removed {
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%error, directory = %directory.display(), "cannot remove");
            }
            _ => {}
        }
    }
}

fn note(report: &mut Report, result: io::Result<()>, what: impl Fn() -> String) {
    match result {
        Ok(()) => report.removed.push(what()),
        Err(error) => report.failed.push(format!("{}: {error}", what())),
    }
}

fn remove_cgroup(group: &Group, report: &mut Report) {
    if !group.exists() {
        return;
    }
    for result in [group.kill(), group.remove()] {
        if let Err(error) = result {
            report.failed.push(error.to_string());
        }
    }
    if !group.exists() {
        report.removed.push(format!("cgroup {}", group.name()));
    }
}

/// Kills every process in a jail below `base`, and every jailer about to make one.
fn remove_processes(base: &Path, report: &mut Report) {
    let roots = jail_roots(base);
    let find = || processes().filter(|pid| is_jailed(*pid, &roots) || is_jailer(*pid, base));
    let deadline = Instant::now() + KILL_TIMEOUT;
    let mut killed = HashSet::new();
    loop {
        let mut left = 0;
        for pid in find() {
            left += 1;
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) if killed.insert(pid) => report.removed.push(format!("process {pid}")),
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => report.failed.push(format!("process {pid}: {error}")),
            }
        }
        if left == 0 {
            return;
        }
        if Instant::now() > deadline {
            report.failed.push(format!("{left} processes in jails do not die"));
            return;
        }
        std::thread::sleep(KILL_PAUSE);
    }
}

/// Device and inode of the root of every jail: `<base>/<program>/<vm>/root`.
fn jail_roots(base: &Path) -> HashSet<(u64, u64)> {
    children(base)
        .flat_map(|program| children(&program))
        .filter_map(|vm| fs::metadata(vm.join("root")).ok())
        .map(|root| (root.dev(), root.ino()))
        .collect()
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn processes() -> impl Iterator<Item = i32> {
    children(Path::new("/proc"))
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .filter(|pid| *pid > 1)
}

/// Whether the process lives in one of the jails. The dead that nobody has reaped have no root.
fn is_jailed(pid: i32, roots: &HashSet<(u64, u64)>) -> bool {
    fs::metadata(format!("/proc/{pid}/root/."))
        .is_ok_and(|root| roots.contains(&(root.dev(), root.ino())))
}

/// Whether the process is a jailer that was told to work below `base`.
fn is_jailer(pid: i32, base: &Path) -> bool {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    arguments.windows(2).any(|pair| {
        pair[0] == b"--chroot-base-dir" && OsStr::from_bytes(pair[1]) == base.as_os_str()
    })
}

fn remove_mounts(base: &Path, report: &mut Report) {
    let mounts = fs::read("/proc/self/mounts").unwrap_or_default();
    // The last ones made lie on top of the earlier ones.
    for line in mounts.split(|byte| *byte == b'\n').rev() {
        let Some(target) = line.split(|byte| *byte == b' ').nth(1) else { continue };
        let target = Path::new(OsStr::from_bytes(target));
        if target.starts_with(base) {
            let result = umount2(target, MntFlags::MNT_DETACH).map_err(io::Error::from);
            note(report, result, || format!("mount {}", target.display()));
        }
    }
}
