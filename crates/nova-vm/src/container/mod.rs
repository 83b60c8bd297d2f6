//! The container backend: the same agent, image, protocol and limits as in a microVM, in an OCI
//! container made by an existing runtime (`runc` unless configured otherwise).
//!
//! Weaker isolation than a microVM: guests share the host's kernel. What stands between them and it:
//! a user namespace of two uids of their own, no capabilities that reach beyond it, no new
//! privileges, a list of allowed system calls, a read-only root, cgroups, and a network namespace
//! that the network module has cut off.
//!
//! ```text
//! cgroup nova-<id6>/<vm>            CPU limit
//!        ├── agent                  the agent: PID 1, root of the user namespace
//!        └── fn                     the function: uid 1000, memory_mb, pids limit
//! ```
//!
//! What a guest costs in time: nearly all of a cold start is the OCI runtime's, which works 20 to
//! 40 ms per guest, so a burst is as fast as the processors are. A warm call touches neither it nor
//! any file: it is one frame each way on a connection that stays.
//!
//! Not enforced here, for want of something to enforce it on: `disk_iops` and `disk_bandwidth`. A
//! container has no drive of its own; its only writable places are in memory, and the image is in
//! the page cache that all share. Bandwidth of the network is the network module's.
mod boot;
mod bundle;
mod connect;
mod image_mounts;
mod oci_runtime;
mod process;
mod reconcile;
mod remains;
mod seccomp;

pub(crate) use image_mounts::directory as image_mounts_directory;
pub use reconcile::reconcile;

use self::boot::Running;
use self::image_mounts::ImageMounts;
use self::oci_runtime::{OciRuntime, at_once};
use crate::cgroup::Cgroups;
use crate::driver::{
    BootError, EventSink, ExecError, ExecRequest, MicroVm, VmDriver, VmId, VmSpec,
};
use crate::images::RuntimeCatalog;
use crate::images::code::CodeImages;
use crate::network::Network;
use crate::owner::Owner;
use crate::slots::SlotAllocator;
use async_trait::async_trait;
use nova_proto::ExecReport;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// What a container costs on top of its function's memory, MiB. Measured on the agent's cgroup: 3 with
/// small payloads, 14 with the largest both ways; the rest is for namespaces and mounts.
const OVERHEAD_MB: u32 = 16;
/// How long an agent may take to acknowledge an orderly end before it is killed.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// After the line to the agent broke: how long to wait for what may explain it, the container's end
/// and the last of its console.
const EXPLANATION_WITHIN: Duration = Duration::from_millis(200);
/// What the driver is told.
#[derive(Debug, Clone)]
pub struct ContainerConfig {
    /// Whose containers these are.
    pub owner: Owner,
    /// The OCI runtime's program, absolute.
    pub runtime: PathBuf,
    /// The agent's program on the host.
    pub agent: PathBuf,
    /// How long a boot may take.
    pub boot_timeout: Duration,
}

/// Makes containers.
#[derive(Debug)]
pub struct ContainerDriver {
    host: Arc<Host>,
}

/// What all containers of a daemon share.
struct Host {
    owner: Owner,
    runtime: OciRuntime,
    agent: PathBuf,
    boot_timeout: Duration,
    cgroups: Cgroups,
    slots: SlotAllocator,
    network: Option<Arc<Network>>,
    catalog: Arc<RuntimeCatalog>,
    code: Arc<CodeImages>,
    mounts: ImageMounts,
    /// Bounds the OCI runtimes at work; in order of arrival.
    starts: Semaphore,
    /// What goes on even if nobody waits for it: removals, and mounts of images.
    tasks: TaskTracker,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

impl ContainerDriver {
    /// A driver for this host. `slots` are for guests without a network; without `network` there
    /// can be no others. Fails where there is no OCI runtime or no usable cgroups.
    pub fn new(
        config: ContainerConfig,
        slots: SlotAllocator,
        network: Option<Arc<Network>>,
        catalog: Arc<RuntimeCatalog>,
        code: Arc<CodeImages>,
    ) -> Result<Self, BootError> {
        let unavailable = |problem: &dyn fmt::Display| BootError::Unavailable(problem.to_string());
        let cgroups = Cgroups::detect().map_err(|error| unavailable(&error))?;
        check_runtime(&config.runtime)?;
        process::adopt_orphans().map_err(|error| unavailable(&error))?;
        let owner = config.owner;
        for directory in [owner.runc_root(), owner.vms_dir()] {
            make_private(&directory).map_err(|error| {
                unavailable(&format!("directory {}: {error}", directory.display()))
            })?;
        }
        let host = Host {
            runtime: OciRuntime::new(config.runtime, owner.runc_root()),
            agent: config.agent,
            boot_timeout: config.boot_timeout,
            cgroups,
            slots,
            network,
            catalog,
            code,
            mounts: ImageMounts::new(&owner),
            starts: Semaphore::new(at_once()),
            tasks: TaskTracker::new(),
            owner,
        };
        Ok(Self { host: Arc::new(host) })
    }

    /// Removes what is left when all guests were stopped or dropped: waits for removals under way,
    /// unmounts the images, removes the cgroup above those of the guests.
    pub async fn shutdown(&self) {
        self.host.tasks.close();
        self.host.tasks.wait().await;
        let owner = self.host.owner.clone();
        let cgroup = self.host.cgroups.group(owner.cgroup_name());
        let failed = tokio::task::spawn_blocking(move || {
            let (_, mut failed) = image_mounts::unmount_all(&owner);
            failed.extend(cgroup.remove().err().map(|error| error.to_string()));
            failed
        });
        for problem in failed.await.unwrap_or_default() {
            tracing::error!("cannot remove {problem}");
        }
    }
}

/// Checks that the OCI runtime is there and can be run.
fn check_runtime(program: &Path) -> Result<(), BootError> {
    use std::os::unix::fs::PermissionsExt;
    let found = program.metadata().is_ok_and(|about| {
        program.is_absolute() && about.is_file() && about.permissions().mode() & 0o111 != 0
    });
    if found {
        return Ok(());
    }
    Err(BootError::Unavailable(format!(
        "there is no OCI runtime at {}; install runc (`apt-get install runc`), or set the absolute \
         path of another",
        program.display()
    )))
}

/// Makes a directory that only the daemon's user may enter.
fn make_private(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[async_trait]
impl VmDriver for ContainerDriver {
    fn backend(&self) -> &'static str {
        "container"
    }

    fn overhead_mb(&self, _: u32) -> u32 {
        OVERHEAD_MB
    }

    async fn boot(&self, spec: VmSpec) -> Result<Box<dyn MicroVm>, BootError> {
        let id = spec.id.clone();
        let running = boot::boot(&self.host, spec).await?;
        Ok(Box::new(ContainerVm { id, running }))
    }
}

/// A running container. Dropping it removes it in the background.
#[derive(Debug)]
struct ContainerVm {
    id: VmId,
    running: Running,
}

#[async_trait]
impl MicroVm for ContainerVm {
    fn id(&self) -> &VmId {
        &self.id
    }

    async fn exec(&self, request: ExecRequest, events: EventSink) -> Result<ExecReport, ExecError> {
        self.running.line.exec(request, events).await
    }

    async fn export(&self, limit: usize) -> Result<Vec<u8>, ExecError> {
        self.running.line.export(limit).await
    }

    async fn settled(&self) -> bool {
        self.running.line.settled().await
    }

    async fn died(&self) -> String {
        let Running { line, process, console, .. } = &self.running;
        let how = tokio::select! {
            () = process.ended() => "the container ended".to_owned(),
            reason = line.closed() => match timeout(EXPLANATION_WITHIN, process.ended()).await {
                Ok(()) => "the container ended".into(),
                Err(_) => reason,
            },
        };
        console.ended(EXPLANATION_WITHIN).await;
        format!("{how}; console ends with: {}", console.quote())
    }

    async fn stop(self: Box<Self>) {
        let Running { line, remains, .. } = self.running;
        // An agent that does not answer is killed like one that does.
        let _ = line.stop(STOP_WITHIN).await;
        remains.clear().await;
    }
}
