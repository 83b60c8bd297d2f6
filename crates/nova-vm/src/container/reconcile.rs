//! Finds and removes the containers that a crashed daemon left behind.
//!
//! In an order that leaves nothing to come back: first the OCI runtimes that may still be at work,
//! then all processes by cgroup, then what they had.
use super::image_mounts::unmount_all;
use super::oci_runtime::OciRuntime;
use crate::cgroup::{CgroupError, Cgroups};
use crate::owner::Owner;
use crate::reconcile::Report;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tokio::task::spawn_blocking;

/// Removes everything of this owner's guests: processes, cgroups, the OCI runtime's state, their
/// directories, image mounts and the loop devices below them. Every step is tried. To be called
/// before the first guest of this run is made.
pub async fn reconcile(owner: &Owner, runtime: &Path) -> Report {
    let mut report = Report::default();
    let runtime = OciRuntime::new(runtime.to_owned(), owner.runc_root());
    let (owner_, root) = (owner.clone(), runtime.root().to_owned());
    report.add(spawn_blocking(move || end_processes(&owner_, &root)).await);
    for id in names(runtime.root()) {
        match runtime.delete(&id).await {
            Ok(()) => report.removed.push(format!("container {id}")),
            Err(error) => report.failed.push(format!("container {id}: {error}")),
        }
    }
    let owner = owner.clone();
    report.add(spawn_blocking(move || remove_files(&owner)).await);
    report
}

impl Report {
    fn note(&mut self, what: String, result: Result<(), impl std::fmt::Display>) {
        match result {
            Ok(()) => self.removed.push(what),
            Err(error) => self.failed.push(format!("{what}: {error}")),
        }
    }
}

fn end_processes(owner: &Owner, runc_root: &Path) -> Report {
    let mut report = Report::default();
    for (pid, runtime) in processes_with_argument(runc_root) {
        let killed = pidfd_send_signal(&runtime, Signal::KILL);
        report.note(format!("OCI runtime, process {pid}"), killed);
    }
    let cgroups = match Cgroups::detect() {
        Ok(cgroups) => cgroups,
        Err(error) => {
            report.failed.push(error.to_string());
            return report;
        }
    };
    let guests = cgroups.children(&owner.cgroup_name()).unwrap_or_else(|error| {
        report.failed.push(error.to_string());
        BTreeSet::new()
    });
    for vm in guests {
        let name = format!("{}/{vm}", owner.cgroup_name());
        let group = cgroups.group(&name);
        let result = group.kill().and_then(|()| {
            // Own children only where the daemon has replaced its program in place.
            group.reap(None);
            group.remove()
        });
        report.note(format!("cgroup {name}"), result);
    }
    let above: Result<(), CgroupError> = cgroups.group(owner.cgroup_name()).remove();
    if let Err(error) = above {
        report.failed.push(error.to_string());
    }
    report
}

fn remove_files(owner: &Owner) -> Report {
    let mut report = Report::default();
    for vm in names(&owner.vms_dir()) {
        let directory = owner.vms_dir().join(&vm);
        report.note(format!("directory of guest {vm}"), std::fs::remove_dir_all(directory));
    }
    let (removed, failed) = unmount_all(owner);
    report.removed.extend(removed);
    report.failed.extend(failed);
    report
}

/// The entries of a directory; none where it does not exist.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Processes that were started with this path as one of their arguments.
fn processes_with_argument(argument: &Path) -> Vec<(i32, std::os::fd::OwnedFd)> {
    let has_argument = |pid: i32| {
        let path = PathBuf::from(format!("/proc/{pid}/cmdline"));
        let line = std::fs::read(path).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|one| OsStr::from_bytes(one) == argument)
    };
    names(Path::new("/proc"))
        .into_iter()
        .filter_map(|name| name.parse::<i32>().ok())
        .filter(|pid| has_argument(*pid))
        .filter_map(|pid| {
            let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            // Looked at again: the pid may have gone to another process meanwhile.
            has_argument(pid).then_some((pid, process))
        })
        .collect()
}
