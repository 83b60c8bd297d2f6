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
// The container backend reads its consoles in the same way.
pub(crate) mod console;
mod driver;
mod jail;
mod kvm;
mod plan;
mod probe;
mod reconcile;
mod version;
mod vm;
mod vmm;
mod vsock;

pub use driver::FirecrackerDriver;
pub(crate) use jail::check_file_system;
pub(crate) use kvm::kvm_problem;
pub use plan::GUEST_OVERHEAD_MB;
pub use probe::probe;
pub use reconcile::reconcile;
pub use version::{OLDEST, RECOMMENDED, Version};
pub use vm::FirecrackerVm;

use self::belongings::{Gone, Place};
use self::boot::{Files, Prepared};
use self::jail::SharedFiles;
use self::plan::Plan;
use crate::cgroup::Cgroups;
use crate::driver::BootError;
use crate::owner::Owner;
use nova_proto::Init;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// How long Firecracker may take for one API call. `InstanceStart` is the longest: it loads the
/// kernel and the initramfs, from disk if they are not in the page cache.
pub const API_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

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
