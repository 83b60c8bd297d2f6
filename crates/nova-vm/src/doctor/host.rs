//! What the host must offer to any guest.
use super::{Finding, Status, Subject};
use crate::backend::Backend;
use crate::cgroup::{Cgroups, Version};
use crate::firecracker::{check_file_system, kvm_problem};
use crate::network::obstacles;
use crate::owner::BRIDGE_PREFERRED;
use nix::sys::statvfs::statvfs;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Free space below which images and code have no room.
const SPACE_NEEDED_MB: u64 = 1024;

/// Free space below which a busy host soon has too little: room for a dozen runtime images.
const SPACE_COMFORTABLE_MB: u64 = 4096;

/// Printing a version takes milliseconds.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Where system programs are; `sbin` is not in everybody's `PATH`.
const SYSTEM_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];

/// Namespaces that guests get, as the kernel names them.
const NAMESPACES: [&str; 4] = ["mnt", "net", "pid", "user"];

pub(super) fn root(subject: &Subject) -> Finding {
    if nix::unistd::geteuid().is_root() {
        return Finding::ok("privileges", "root");
    }
    let fix = "run the daemon as root; what it starts gives up all rights by itself";
    Finding::bad("privileges", subject.without_guests(), "not root", fix)
}

pub(super) fn kvm(subject: &Subject) -> Finding {
    const CHECK: &str = "kvm";
    match kvm_problem() {
        None => Finding::ok(CHECK, "/dev/kvm can be opened, which the probe has to confirm"),
        Some(kvm) => Finding::bad(CHECK, subject.without_firecracker(), kvm.problem, kvm.fix),
    }
}

pub(super) async fn oci_runtime(subject: &Subject) -> Finding {
    const CHECK: &str = "oci_runtime";
    let fix = "install runc, or name another OCI runtime in the configuration";
    match first_line(&subject.oci_runtime, "--version").await {
        Ok(line) => Finding::ok(CHECK, line),
        Err(problem) => Finding::bad(CHECK, subject.without_containers(), problem, fix),
    }
}

pub(super) fn cgroups(subject: &Subject) -> Finding {
    match Cgroups::detect() {
        Ok(cgroups) => match cgroups.version() {
            Version::V2 => Finding::ok("cgroups", "version 2"),
            Version::V1 => Finding::ok("cgroups", "version 1, or hybrid"),
        },
        Err(error) => Finding::bad(
            "cgroups",
            subject.without_guests(),
            error,
            "mount cgroup2 at /sys/fs/cgroup with the controllers memory, cpu and pids",
        ),
    }
}

pub(super) fn namespaces(subject: &Subject) -> Finding {
    let missing: Vec<&str> = NAMESPACES
        .iter()
        .filter(|name| {
            let allowed = fs::read_to_string(format!("/proc/sys/user/max_{name}_namespaces"));
            let none = allowed.is_ok_and(|text| text.trim() == "0");
            none || !Path::new("/proc/self/ns").join(name).exists()
        })
        .copied()
        .collect();
    if missing.is_empty() {
        return Finding::ok("namespaces", "mnt, net, pid and user");
    }
    Finding::bad(
        "namespaces",
        subject.without_guests(),
        format!("not available: {}", missing.join(", ")),
        "use a kernel with these namespaces, and raise user.max_*_namespaces",
    )
}

/// The firewall's tool, and the device behind every TAP.
pub(super) async fn network(subject: &Subject) -> Finding {
    const CHECK: &str = "network";
    let bad = subject.without_guests();
    let nft = SYSTEM_DIRECTORIES.iter().map(|at| Path::new(at).join("nft")).find(|p| p.exists());
    let Some(nft) = nft else {
        return Finding::bad(CHECK, bad, "nft is missing", "install the package nftables");
    };
    let version = match first_line(&nft, "--version").await {
        Ok(line) => line,
        Err(problem) => {
            return Finding::bad(CHECK, bad, problem, "reinstall the package nftables");
        }
    };
    let needs_tap = matches!(subject.backend, Backend::Firecracker | Backend::Auto);
    if needs_tap && !Path::new("/dev/net/tun").exists() {
        let status = subject.without_firecracker();
        return Finding::bad(CHECK, status, "no /dev/net/tun", "load the kernel module tun");
    }
    Finding::ok(CHECK, version)
}

/// What else keeps guests from the network that they may have.
pub(super) fn network_obstacles(subject: &Subject) -> Vec<Finding> {
    if subject.backend == Backend::None {
        return Vec::new();
    }
    let found = obstacles(subject.network_range, BRIDGE_PREFERRED).into_iter();
    found.map(|one| Finding::bad(one.check, Status::Warn, one.problem, one.fix)).collect()
}

pub(super) fn data_dir(subject: &Subject) -> Finding {
    const CHECK: &str = "data_dir";
    if !subject.data_dir.is_dir() {
        let detail = format!("{} will be made at the first start", subject.data_dir.display());
        return Finding::ok(CHECK, detail);
    }
    match check_file_system(&subject.data_dir) {
        Ok(()) => Finding::ok(CHECK, subject.data_dir.display()),
        Err(problem) => Finding::bad(
            CHECK,
            subject.without_firecracker(),
            problem,
            "choose another --data-dir, or remount its file system",
        ),
    }
}

pub(super) fn disk_space(subject: &Subject) -> Finding {
    const CHECK: &str = "disk_space";
    let fix = "free space, remove runtimes that are not used, or choose another --data-dir";
    // The directory need not be there yet; its file system is.
    let Some(existing) = subject.data_dir.ancestors().find(|path| path.is_dir()) else {
        return Finding::bad(CHECK, Status::Fail, "the data directory has no parent", fix);
    };
    let status = match statvfs(existing) {
        Ok(status) => status,
        Err(error) => {
            let detail = format!("{}: {error}", existing.display());
            return Finding::bad(CHECK, Status::Fail, detail, fix);
        }
    };
    let free_mb = status.blocks_available().saturating_mul(status.fragment_size()) >> 20;
    let detail = format!("{free_mb} MiB free for {}", subject.data_dir.display());
    match free_mb {
        ..SPACE_NEEDED_MB => Finding::bad(CHECK, Status::Fail, detail, fix),
        SPACE_NEEDED_MB..SPACE_COMFORTABLE_MB => Finding::bad(CHECK, Status::Warn, detail, fix),
        SPACE_COMFORTABLE_MB.. => Finding::ok(CHECK, detail),
    }
}

/// What a program says of itself.
async fn first_line(program: &Path, argument: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_TIMEOUT, command.output())
        .await
        .map_err(|_| format!("{} {argument} does not end", program.display()))?
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if !output.status.success() {
        return Err(format!("{} {argument} fails: {}", program.display(), output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().chars().take(100).collect())
}
