//! The Firecracker backend: one microVM per guest, under the jailer.
//!
//! [`FirecrackerDriver`] turns a spec into a running guest ([`boot`]), [`FirecrackerVm`] is such a
//! guest. A VM is only ever Ready or gone: whatever it owns lies in one value ([`belongings`]) whose
//! drop removes it, so no state has to be cleaned up by hand, not even when the future of a boot is
//! dropped half-way.
mod api;
mod api_types;
mod belongings;
mod boot;
pub(crate) mod console;
mod jail;
mod plan;
mod probe;
mod reconcile;
mod version;
mod vmm;
mod vsock;

pub(crate) use jail::check_file_system;
pub use plan::GUEST_OVERHEAD_MB;
pub use probe::probe;
pub use reconcile::reconcile;
pub use version::{OLDEST, RECOMMENDED, Version};

use self::belongings::{Belongings, Gone, Place};
use self::boot::{Files, Prepared};
use self::jail::SharedFiles;
use self::plan::{CODE_DEVICE, IMAGE_DEVICE, Nic, Plan, VMM_OVERHEAD_MB};
use crate::agent_line::AgentLine;
use crate::backend::remember_firecracker;
use crate::cgroup::Cgroups;
use crate::driver::{
    BootError, EventSink, ExecError, ExecRequest, MicroVm, VmDriver, VmId, VmSpec,
};
use crate::images::RuntimeCatalog;
use crate::images::code::CodeImages;
use crate::network::{Network, NetworkSlot};
use crate::owner::Owner;
use crate::slots::SlotAllocator;
use async_trait::async_trait;
use nova_domain::NetworkPolicy;
use nova_proto::{CgroupSetup, ExecReport, Init, PROTOCOL_VERSION, Rootfs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// A boot takes 0.1 to 0.3 s on hardware; ten seconds are for a host that is busy with fifty.
pub const BOOT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// How long Firecracker may take for one API call. `InstanceStart` is the longest: it loads the
/// kernel and the initramfs, from disk if they are not in the page cache.
pub const API_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// How long a guest may take to end by itself before it is killed. It has nothing to save.
const STOP_TIMEOUT: Duration = Duration::from_millis(250);

/// Processes and threads of a function at most. Enough for thread pools of any runtime, few enough
/// that a fork bomb is stopped in a guest of 64 MiB.
const FUNCTION_PIDS_MAX: u32 = 1024;

/// Fresh randomness for each guest's kernel, bytes: what the kernel's own generator is seeded with.
const ENTROPY_BYTES: usize = 64;

/// After the line to the agent broke: how long to wait for the VMM's end, which would explain it.
const EXPLANATION_TIMEOUT: Duration = Duration::from_secs(1);

/// What the driver needs to know of its host.
#[derive(Debug, Clone)]
pub struct FirecrackerConfig {
    /// Whose guests these are.
    pub owner: Owner,
    /// The `firecracker` program.
    pub firecracker: PathBuf,
    /// The `jailer` program, of the same release.
    pub jailer: PathBuf,
    /// The guest kernel, an uncompressed ELF image.
    pub kernel: PathBuf,
    /// The initramfs: the agent and the kernel modules it loads.
    pub initramfs: PathBuf,
    /// From the start of a boot until the agent has answered `Init`.
    pub boot_timeout: Duration,
    /// For one call of Firecracker's API.
    pub api_timeout: Duration,
}

impl FirecrackerConfig {
    /// The jailer names a directory after the program that it runs.
    fn program_name(&self) -> Option<String> {
        Some(self.firecracker.canonicalize().ok()?.file_name()?.to_str()?.to_owned())
    }
}

/// What all boots of one driver share.
#[derive(Debug)]
struct Host {
    config: FirecrackerConfig,
    program_name: String,
    cgroups: Cgroups,
    shared: SharedFiles,
    /// Removals under way.
    removals: TaskTracker,
}

impl Host {
    fn new(config: FirecrackerConfig) -> Result<Arc<Self>, BootError> {
        for (what, path) in [
            ("firecracker", &config.firecracker),
            ("jailer", &config.jailer),
            ("guest kernel", &config.kernel),
            ("initramfs", &config.initramfs),
        ] {
            if !path.is_file() {
                return Err(BootError::Artifact {
                    what: what.into(),
                    problem: format!("{} is missing; run `nova setup`", path.display()),
                });
            }
        }
        check_file_system(config.owner.data_dir()).map_err(BootError::Unavailable)?;
        let program_name = config.program_name().ok_or_else(|| BootError::Artifact {
            what: "firecracker".into(),
            problem: format!("{} has no usable file name", config.firecracker.display()),
        })?;
        let cgroups =
            Cgroups::detect().map_err(|error| BootError::Unavailable(error.to_string()))?;
        Ok(Arc::new(Self {
            shared: SharedFiles::new(copies_dir(&config.owner)),
            program_name,
            cgroups,
            removals: TaskTracker::new(),
            config,
        }))
    }

    /// Boots one guest to the point where its agent answers.
    async fn boot(
        self: &Arc<Self>,
        plan: Plan,
        place: Place,
        files: Files,
        init: Option<Init>,
    ) -> Result<(boot::Ready, Gone), BootError> {
        let (prepared, gone) = Prepared::begin(Arc::clone(self), plan, place);
        let result = async {
            let spawned = prepared.fill(files).await?.spawn()?;
            spawned.configure().await?.start().await?.greet(init).await
        }
        .await;
        match result {
            Ok(ready) => Ok((ready, gone)),
            Err(error) => {
                // The phase that failed was dropped: its removal is under way. A caller who sees
                // the error may rely on nothing being left.
                gone.wait().await;
                Err(error)
            }
        }
    }
}

/// Copies of shared files that cannot be linked into jails from where they are.
fn copies_dir(owner: &Owner) -> PathBuf {
    owner.data_dir().join("run/jail-files")
}

/// Boots guests as Firecracker microVMs.
pub struct FirecrackerDriver {
    host: Arc<Host>,
    slots: SlotAllocator,
    network: Option<Arc<Network>>,
    catalog: Arc<RuntimeCatalog>,
    code: Arc<CodeImages>,
    is_remembered: AtomicBool,
}

impl FirecrackerDriver {
    /// A driver for this host. `slots` are for guests without a network; without `network` there
    /// can be no others. Fails where a file is missing or the host has no usable cgroups.
    pub fn new(
        config: FirecrackerConfig,
        slots: SlotAllocator,
        network: Option<Arc<Network>>,
        catalog: Arc<RuntimeCatalog>,
        code: Arc<CodeImages>,
    ) -> Result<Self, BootError> {
        let is_remembered = AtomicBool::new(false);
        Ok(Self { host: Host::new(config)?, slots, network, catalog, code, is_remembered })
    }

    /// Waits until everything that ended guests had is gone, and removes what the guests shared.
    /// To be called once no guest is left and none will be booted.
    pub async fn shutdown(&self) {
        self.host.removals.close();
        self.host.removals.wait().await;
        let host = Arc::clone(&self.host);
        let swept = tokio::task::spawn_blocking(move || reconcile::remove_shared(&host)).await;
        if let Err(error) = swept {
            tracing::error!(%error, "removing the directory of jails was cut short");
        }
    }

    /// After the first boot: this data directory has run microVMs from now on.
    fn remember(&self) -> Result<(), BootError> {
        if self.is_remembered.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        remember_firecracker(self.host.config.owner.data_dir()).map_err(|error| BootError::Failed {
            phase: "remembering the backend",
            problem: error.to_string(),
        })
    }

    async fn place(&self, spec: &VmSpec) -> Result<Place, BootError> {
        if spec.network == NetworkPolicy::None {
            let slot = self.slots.take().ok_or_else(|| {
                BootError::Unavailable("every slot of this host is in use; try again later".into())
            })?;
            return Ok(Place::Alone(slot));
        }
        let network = self
            .network
            .as_ref()
            .ok_or_else(|| BootError::Unavailable("this host has no network for guests".into()))?;
        let taken = network.take(&spec.network, &spec.limits).await;
        taken.map(Place::Networked).map_err(|error| BootError::Failed {
            phase: "preparing the network",
            problem: error.to_string(),
        })
    }

    async fn files(&self, spec: &VmSpec) -> Result<Files, BootError> {
        let code = self.code.erofs(&spec.code_hash).await.map_err(|error| BootError::Artifact {
            what: format!("code of function {}", spec.function),
            problem: error.to_string(),
        })?;
        let image =
            self.catalog.image_path(&spec.image_digest).ok_or_else(|| BootError::Artifact {
                what: format!("runtime image {}", spec.image_digest),
                problem: "it is not installed any more; `nova runtime add` brings it back".into(),
            })?;
        let config = &self.host.config;
        Ok(Files {
            kernel: config.kernel.clone(),
            initramfs: config.initramfs.clone(),
            drives: Some((image, code)),
        })
    }

    fn plan(&self, spec: &VmSpec, place: &Place) -> Plan {
        let nic = match place {
            Place::Alone(_) => None,
            Place::Networked(network) => Some(Nic {
                netns: network.netns_path(),
                tap: NetworkSlot::TAP.into(),
                guest_mac: NetworkSlot::GUEST_MAC.into(),
            }),
        };
        Plan {
            id: spec.id.to_string(),
            uid: place.slot().uid_root(),
            parent_cgroup: self.host.config.owner.cgroup_name(),
            memory_mb: spec.memory_mb,
            limits: spec.limits,
            has_drives: true,
            nic,
        }
    }
}

#[async_trait]
impl VmDriver for FirecrackerDriver {
    fn backend(&self) -> &'static str {
        "firecracker"
    }

    fn overhead_mb(&self) -> u32 {
        GUEST_OVERHEAD_MB + VMM_OVERHEAD_MB
    }

    async fn boot(&self, spec: VmSpec) -> Result<Box<dyn MicroVm>, BootError> {
        let files = self.files(&spec).await?;
        let place = self.place(&spec).await?;
        let plan = self.plan(&spec, &place);
        let init = introduction(&spec, &place);
        let (ready, gone) = self.host.boot(plan, place, files, Some(init)).await?;
        self.remember()?;
        let boot::Ready { belongings, line } = ready;
        Ok(Box::new(FirecrackerVm { id: spec.id, line, belongings, gone }))
    }
}

/// What the agent is told to become.
fn introduction(spec: &VmSpec, place: &Place) -> Init {
    let network = match place {
        Place::Alone(_) => None,
        Place::Networked(network) => network.guest().cloned(),
    };
    Init {
        protocol: PROTOCOL_VERSION,
        hostname: format!("nova-{}", spec.id),
        // Set when it is sent.
        clock_unix_ns: None,
        entropy: rand::random::<[u8; ENTROPY_BYTES]>().to_vec(),
        rootfs: Rootfs::Drives {
            image_device: IMAGE_DEVICE.into(),
            code_device: CODE_DEVICE.into(),
        },
        network,
        cgroup: CgroupSetup::Own { pids_max: FUNCTION_PIDS_MAX },
        function: spec.setup.clone(),
    }
}

/// A running microVM.
#[derive(Debug)]
pub struct FirecrackerVm {
    id: VmId,
    line: AgentLine,
    belongings: Belongings,
    gone: Gone,
}

#[async_trait]
impl MicroVm for FirecrackerVm {
    fn id(&self) -> &VmId {
        &self.id
    }

    async fn exec(&self, request: ExecRequest, events: EventSink) -> Result<ExecReport, ExecError> {
        self.line.exec(request, events).await
    }

    async fn died(&self) -> String {
        let Some(vmm) = &self.belongings.vmm else { return "it was never started".into() };
        let how = tokio::select! {
            how = vmm.exited() => format!("firecracker {how}"),
            reason = self.line.closed() => {
                match tokio::time::timeout(EXPLANATION_TIMEOUT, vmm.exited()).await {
                    Ok(how) => format!("{reason}; firecracker {how}"),
                    Err(_) => reason,
                }
            }
        };
        vmm.console.ended(EXPLANATION_TIMEOUT).await;
        format!("{how}; console ends with: {}", vmm.console.quote())
    }

    async fn stop(self: Box<Self>) {
        let Self { id, line, belongings, gone } = *self;
        if let Err(error) = line.stop(STOP_TIMEOUT).await {
            tracing::debug!(vm = %id, %error, "the guest did not end by itself");
        }
        drop((line, belongings));
        gone.wait().await;
    }
}
