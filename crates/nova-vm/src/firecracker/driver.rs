//! From a spec to a running guest: what it needs is fetched, and what it is to become is told.
use super::belongings::Place;
use super::boot::{Files, Ready};
use super::plan::{CODE_DEVICE, IMAGE_DEVICE, LAYERS_DEVICE, Nic, Plan, vmm_memory_mb};
use super::{FirecrackerConfig, FirecrackerVm, Host, reconcile};
use crate::backend::remember_firecracker;
use crate::driver::{BootError, FUNCTION_PIDS_MAX, MicroVm, VmDriver, VmSpec};
use crate::images::RuntimeCatalog;
use crate::images::code::{CodeImage, CodeImages};
use crate::network::{Network, NetworkSlot};
use crate::slots::SlotAllocator;
use async_trait::async_trait;
use nova_domain::{CodeHash, NetworkPolicy};
use nova_proto::{CgroupSetup, Init, PROTOCOL_VERSION, Rootfs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Fresh randomness for each guest's kernel, bytes: what the kernel's own generator is seeded with.
const ENTROPY_BYTES: usize = 64;

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
        if self.is_remembered.load(Ordering::Relaxed) {
            return Ok(());
        }
        remember_firecracker(self.host.config.owner.data_dir()).map_err(|error| {
            BootError::Failed { phase: "remembering the backend", problem: error.to_string() }
        })?;
        self.is_remembered.store(true, Ordering::Relaxed);
        Ok(())
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

    /// The files, and the code and layers that have to stay on disk until they are linked into the jail.
    async fn files(&self, spec: &VmSpec) -> Result<(Files, Vec<Arc<CodeImage>>), BootError> {
        let erofs = async |what: &str, hash: &CodeHash| {
            self.code.erofs(hash).await.map_err(|error| BootError::Artifact {
                what: format!("{what} of function {}", spec.function),
                problem: error.to_string(),
            })
        };
        let mut code = vec![erofs("code", &spec.code_hash).await?];
        if let Some(layers) = &spec.layers_hash {
            code.push(erofs("layers", layers).await?);
        }
        let mut drives = vec![self.image(&spec.image_digest)?];
        drives.extend(code.iter().map(|code| code.path().to_owned()));
        let config = &self.host.config;
        let (kernel, initramfs) = (config.kernel.clone(), config.initramfs.clone());
        Ok((Files { kernel, initramfs, drives }, code))
    }

    /// The image's file, or which runtime to add again.
    fn image(&self, digest: &str) -> Result<PathBuf, BootError> {
        match self.catalog.image_path(digest) {
            Some(path) if path.is_file() => Ok(path),
            missing => {
                let runtime = self.catalog.list().into_iter().find(|image| image.digest == digest);
                let id = runtime.map_or_else(|| "ID".to_owned(), |image| image.id.to_string());
                let seen = match missing {
                    Some(path) => format!("{} is gone", path.display()),
                    None => "it is not installed any more".into(),
                };
                Err(BootError::Artifact {
                    what: format!("runtime image {digest}"),
                    problem: format!("{seen}; `nova runtime add {id}` brings it back"),
                })
            }
        }
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
            drives: 2 + usize::from(spec.layers_hash.is_some()),
            nic,
        }
    }
}

#[async_trait]
impl VmDriver for FirecrackerDriver {
    fn backend(&self) -> &'static str {
        "firecracker"
    }

    fn overhead_mb(&self, memory_mb: u32) -> u32 {
        vmm_memory_mb(memory_mb) - memory_mb
    }

    async fn boot(&self, spec: VmSpec) -> Result<Box<dyn MicroVm>, BootError> {
        let (files, _code) = self.files(&spec).await?;
        let place = self.place(&spec).await?;
        let plan = self.plan(&spec, &place);
        let init = introduction(&spec, &place);
        let (ready, gone) = self.host.boot(plan, place, files, Some(init)).await?;
        self.remember()?;
        let Ready { belongings, line } = ready;
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
            layers_device: spec.layers_hash.as_ref().map(|_| LAYERS_DEVICE.into()),
        },
        network,
        cgroup: CgroupSetup::Own { pids_max: FUNCTION_PIDS_MAX },
        function: spec.setup.clone(),
    }
}
