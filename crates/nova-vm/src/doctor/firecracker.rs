//! Firecracker: its programs, its kernel, and whether a guest boots.
use super::leftovers::PREFIX;
use super::{Finding, Status, Subject};
use crate::driver::BootError;
use crate::firecracker::{
    API_TIMEOUT_DEFAULT, FirecrackerConfig, OLDEST, RECOMMENDED, Version, kvm_problem, probe,
};
use crate::images::prepare_initramfs;
use crate::lease::Lease;
use crate::owner::Owner;
use std::fmt::Display;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The two programs, there and of one version that works.
pub(super) async fn programs(subject: &Subject) -> Vec<Finding> {
    let bad = subject.without_firecracker();
    let files = match subject.artifacts.firecracker() {
        Ok(files) => files,
        Err(missing) => {
            return vec![Finding::bad("firecracker", bad, missing, "run `nova setup`")];
        }
    };
    let found = Version::of(&files.firecracker).await;
    let mut findings = vec![match &found {
        Err(problem) => Finding::bad("firecracker", bad, problem, "run `nova setup`"),
        Ok(version) if *version < OLDEST => Finding::bad(
            "firecracker",
            bad,
            format!("version {version} is older than {OLDEST}"),
            "run `nova setup`, or `nova setup --firecracker-dir DIR` with a newer release in DIR",
        ),
        Ok(version) if *version < RECOMMENDED => Finding::bad(
            "firecracker",
            bad.min(Status::Warn),
            format!("version {version} works; {RECOMMENDED} is recommended"),
            format!(
                "put `firecracker` and `jailer` of release {RECOMMENDED} or a newer one into DIR and run \
                 `nova setup --firecracker-dir DIR`, which keeps them"
            ),
        ),
        Ok(version) => Finding::ok("firecracker", format!("version {version}")),
    }];
    let fix = "use the jailer of the same release";
    findings.push(match (Version::of(&files.jailer).await, found) {
        (Err(problem), _) => Finding::bad("jailer", bad, problem, "run `nova setup`"),
        (Ok(jailer), Ok(vmm)) if jailer != vmm => {
            let detail = format!("version {jailer}, but firecracker is {vmm}");
            Finding::bad("jailer", bad, detail, fix)
        }
        (Ok(jailer), _) => Finding::ok("jailer", format!("version {jailer}")),
    });
    findings
}

/// The guest kernel.
pub(super) fn kernel(subject: &Subject) -> Finding {
    match subject.artifacts.kernel() {
        Ok(files) => Finding::ok("kernel", files.vmlinux.display()),
        Err(missing) => {
            Finding::bad("kernel", subject.without_firecracker(), missing, "run `nova setup`")
        }
    }
}

/// The only proof: a guest that boots and answers. Nothing of it is left when this returns, which it
/// does early when `interrupted` is cancelled.
pub(super) async fn probe_guest(subject: &Subject, interrupted: &CancellationToken) -> Finding {
    const CHECK: &str = "probe";
    let bad = subject.without_firecracker();
    if bad == Status::Ok {
        return Finding::ok(CHECK, format!("not needed with backend {}", subject.backend));
    }
    match boot_one(subject, interrupted).await {
        Ok(took) => Finding::ok(CHECK, format!("a guest booted in {} ms", took.as_millis())),
        Err(NoGuest { problem, fix }) => {
            Finding::bad(CHECK, bad, format!("no guest boots: {problem}"), fix)
        }
    }
}

/// Why the probe guest did not boot.
struct NoGuest {
    problem: String,
    fix: &'static str,
}

impl NoGuest {
    /// Before anything was booted.
    fn not_tried(problem: impl Display) -> Self {
        Self { problem: problem.to_string(), fix: "mend that, then run `nova doctor` again" }
    }

    fn not_installed(problem: impl Display) -> Self {
        Self { problem: problem.to_string(), fix: "run `nova setup`" }
    }

    fn failed(error: &BootError) -> Self {
        let fix = match (kvm_problem(), error) {
            (Some(kvm), _) => kvm.fix,
            (None, BootError::Artifact { .. }) => return Self::not_installed(error),
            (None, BootError::Unavailable(_)) => return Self::not_tried(error),
            (None, BootError::Failed { .. } | BootError::Timeout { .. }) => {
                "use a host with hardware virtualisation (bare metal, or nested virtualisation), or \
                 --backend container; a slow host may need a longer NOVA_PROBE_TIMEOUT"
            }
        };
        Self { problem: error.to_string(), fix }
    }
}

async fn boot_one(subject: &Subject, interrupted: &CancellationToken) -> Result<Duration, NoGuest> {
    let files = subject.artifacts.firecracker().map_err(NoGuest::not_installed)?;
    let kernel = subject.artifacts.kernel().map_err(NoGuest::not_installed)?;
    if !nix::unistd::geteuid().is_root() {
        let problem = "only root can boot one".into();
        return Err(NoGuest { problem, fix: "run `nova doctor` as root" });
    }
    // A data directory of its own, because a running daemon holds the lock of the real one. On the
    // same file system, because that decides whether jails work.
    let existing = subject.data_dir.ancestors().find(|path| path.is_dir());
    let parent = existing.ok_or_else(|| NoGuest::not_tried("the data directory has no parent"))?;
    let directory = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(parent)
        .map_err(|error| NoGuest::not_tried(format_args!("{}: {error}", parent.display())))?;
    let owner = Owner::open(directory.path()).map_err(NoGuest::not_tried)?;
    let lease = Lease::take(&owner, subject.network_range).map_err(NoGuest::not_tried)?;
    let initramfs =
        prepare_initramfs(owner.data_dir(), subject.agent, &kernel).map_err(|error| {
            NoGuest::not_tried(format_args!("the initramfs cannot be made: {error}"))
        })?;
    let config = FirecrackerConfig {
        owner,
        firecracker: files.firecracker,
        jailer: files.jailer,
        kernel: kernel.vmlinux,
        initramfs,
        boot_timeout: subject.probe_timeout,
        api_timeout: API_TIMEOUT_DEFAULT,
    };
    let booted = probe(config, lease.slots(), subject.probe_timeout, interrupted).await;
    booted.map_err(|error| NoGuest::failed(&error))
}
