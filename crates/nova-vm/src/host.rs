//! Everything a daemon has of its host, put together in the one order that works and taken down in
//! the other.
//!
//! ```text
//! owner (data directory locked) ─▶ lease ─▶ reconcile ─▶ backend chosen ─▶ network ─▶ driver
//! ```
//! The reconciler runs with the lease held and before anything of this run exists; the network comes
//! after the choice of the backend, because each backend attaches its guests differently.
use crate::backend::{self, Backend, Choice, ChoiceError, Chosen, NoneDriver};
use crate::container::{ContainerConfig, ContainerDriver};
use crate::doctor::remove_leftovers;
use crate::driver::{BootError, CodeSource, VmDriver};
use crate::firecracker::{self, API_TIMEOUT_DEFAULT, FirecrackerConfig, FirecrackerDriver};
use crate::images::code::CodeImages;
use crate::images::{
    Artifacts, InstallError, Installer, RuntimeCatalog, prepare_initramfs, write_program,
};
use crate::lease::{Lease, LeaseError};
use crate::network::{Attachment, Network, NetworkConfig, NetworkError};
use crate::owner::{Owner, OwnerError};
use crate::reconcile::{Report, anything_left, reconcile};
use crate::slots::AddressRange;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Network namespaces kept ready: a burst of a few boots finds them made, and each costs little.
const NETWORK_STOCK: usize = 8;

/// What the operator decides about the host.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Where everything of this daemon lies.
    pub data_dir: PathBuf,
    /// Which backend is wanted.
    pub backend: Backend,
    /// Where images, kernel and Firecracker are.
    pub artifacts: Artifacts,
    /// The agent's program, static.
    pub agent: &'static [u8],
    /// Addresses for guests, shared with other daemons of this host.
    pub network_range: AddressRange,
    /// Name servers for guests; `None` takes those of the host.
    pub resolvers: Option<Vec<Ipv4Addr>>,
    /// The OCI runtime of the container backend, absolute.
    pub oci_runtime: PathBuf,
    /// How long the probe guest of `auto` may take.
    pub probe_timeout: Duration,
    /// How long a guest may take to boot.
    pub boot_timeout: Duration,
}

/// Why a daemon cannot use its host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The data directory is not this daemon's.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// There is no share of addresses and user ids left.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// No backend may be used.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// The guests' network cannot be made.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The backend lacks something.
    #[error(transparent)]
    Backend(#[from] BootError),
    /// What an interrupted installation left cannot be removed.
    #[error(transparent)]
    Leftovers(#[from] InstallError),
    /// The start was given up, as asked; nothing that it had made is left.
    #[error("the start was interrupted")]
    Interrupted,
    /// A file or directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A host that is ready to run guests.
pub struct Host {
    owner: Owner,
    choice: Choice,
    leftovers: Report,
    catalog: Arc<RuntimeCatalog>,
    driver: Driver,
    network: Option<Arc<Network>>,
    _lease: Option<Lease>,
}

/// The backend in use, to be taken down in its own way.
enum Driver {
    Firecracker(Arc<FirecrackerDriver>),
    Container(Arc<ContainerDriver>),
    None(Arc<NoneDriver>),
}

impl Host {
    /// Takes the data directory, removes what a crash left, and prepares the backend. Gives up as
    /// soon as it can when `interrupted` is cancelled, and then returns when all that it had made is
    /// gone. To drop the future instead can leave something behind.
    pub async fn start(
        config: HostConfig,
        code: Arc<dyn CodeSource>,
        interrupted: &CancellationToken,
    ) -> Result<Self, HostError> {
        let owner = Owner::open(&config.data_dir)?;
        Installer::new(owner.data_dir()).remove_leftovers()?;
        let io = |path: PathBuf| move |source| HostError::Io { path, source };
        let catalog = RuntimeCatalog::open(config.artifacts.clone())
            .map_err(io(config.artifacts.own().to_owned()))?;
        let catalog = Arc::new(catalog);
        if config.backend == Backend::None {
            let leftovers = remove_left_by_guests(&owner, &config).await;
            return Ok(Self::without_guests(owner, catalog, leftovers));
        }
        let lease = Lease::take(&owner, config.network_range)?;
        let mut leftovers = reconcile(&owner, &config.oci_runtime).await;
        let of_doctors = remove_leftovers(owner.data_dir(), config.network_range).await;
        leftovers.add(Ok::<_, &str>(of_doctors));
        let code_dir = owner.data_dir().join("cache/code");
        let code = Arc::new(CodeImages::new(code_dir.clone(), code).map_err(io(code_dir))?);

        let firecracker = firecracker_config(&config, &owner);
        let choice =
            backend::choose(config.backend, owner.data_dir(), firecracker.clone(), |probed| {
                firecracker::probe(probed, lease.slots(), config.probe_timeout, interrupted)
            })
            .await;
        // An interrupted probe says nothing about this host.
        if interrupted.is_cancelled() {
            return Err(HostError::Interrupted);
        }
        let choice = choice?;
        let attachment = match choice.backend {
            Chosen::Firecracker => Attachment::Tap,
            Chosen::Container => Attachment::Interface,
            Chosen::None => return Ok(Self::without_guests(owner, catalog, leftovers)),
        };
        let resolvers = config.resolvers.clone();
        let network = NetworkConfig { attachment, resolvers, stock: NETWORK_STOCK };
        let network = Arc::new(Network::start(owner.clone(), &lease, network).await?);
        let made = make_driver(&config, &owner, &choice, firecracker, &network, &catalog, &code);
        let driver = match made {
            Ok(driver) => driver,
            Err(error) => {
                network.shutdown().await;
                return Err(error);
            }
        };
        let network = Some(network);
        Ok(Self { owner, choice, leftovers, catalog, driver, network, _lease: Some(lease) })
    }

    /// The backend `none`: needs nothing of the host, so that anybody may run it.
    fn without_guests(owner: Owner, catalog: Arc<RuntimeCatalog>, leftovers: Report) -> Self {
        Self {
            owner,
            choice: Choice { backend: Chosen::None, warning: None },
            leftovers,
            catalog,
            driver: Driver::None(Arc::new(NoneDriver)),
            network: None,
            _lease: None,
        }
    }

    /// Makes guests.
    pub fn driver(&self) -> Arc<dyn VmDriver> {
        match &self.driver {
            Driver::Firecracker(driver) => driver.clone(),
            Driver::Container(driver) => driver.clone(),
            Driver::None(driver) => driver.clone(),
        }
    }

    /// The runtime images that are installed.
    pub fn catalog(&self) -> Arc<RuntimeCatalog> {
        self.catalog.clone()
    }

    /// Which backend is used, with what the operator must know about it.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Who owns what this daemon makes.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// What the run before had left on the host.
    pub fn leftovers(&self) -> &Report {
        &self.leftovers
    }

    /// Removes everything but the data directory. To be called when every guest is stopped.
    pub async fn shutdown(self) {
        match self.driver {
            Driver::Firecracker(driver) => driver.shutdown().await,
            Driver::Container(driver) => driver.shutdown().await,
            Driver::None(_) => {}
        }
        if let Some(network) = self.network {
            network.shutdown().await;
        }
    }
}

/// What an earlier run with guests left, removed before a run without any. The lease is held as long
/// as that takes; whoever is not root is told that somebody else has to do it.
async fn remove_left_by_guests(owner: &Owner, config: &HostConfig) -> Report {
    let mut report = Report::default();
    if !anything_left(owner) {
        return report;
    }
    if !nix::unistd::geteuid().is_root() {
        let all = format!("everything named after {} (only root can)", owner.cgroup_name());
        report.failed.push(all);
        return report;
    }
    match Lease::take(owner, config.network_range) {
        Ok(lease) => {
            report = reconcile(owner, &config.oci_runtime).await;
            if !report.failed.is_empty() {
                lease.leave_behind();
            }
        }
        Err(error) => report.failed.push(error.to_string()),
    }
    report
}

/// What a microVM is made of here, or what is missing.
fn firecracker_config(config: &HostConfig, owner: &Owner) -> Result<FirecrackerConfig, String> {
    let files = config.artifacts.firecracker().map_err(|error| error.to_string())?;
    let kernel = config.artifacts.kernel().map_err(|error| error.to_string())?;
    let directory = owner.data_dir().join("cache/initramfs");
    let initramfs = prepare_initramfs(&directory, config.agent, &kernel)
        .map_err(|error| format!("initramfs in {}: {error}", directory.display()))?;
    Ok(FirecrackerConfig {
        owner: owner.clone(),
        firecracker: files.firecracker,
        jailer: files.jailer,
        kernel: kernel.vmlinux,
        initramfs,
        boot_timeout: config.boot_timeout,
        api_timeout: API_TIMEOUT_DEFAULT.max(config.boot_timeout),
    })
}

fn make_driver(
    config: &HostConfig,
    owner: &Owner,
    choice: &Choice,
    firecracker: Result<FirecrackerConfig, String>,
    network: &Arc<Network>,
    catalog: &Arc<RuntimeCatalog>,
    code: &Arc<CodeImages>,
) -> Result<Driver, HostError> {
    let slots = network.slots().clone();
    let (network, catalog, code) = (Some(network.clone()), catalog.clone(), code.clone());
    match choice.backend {
        Chosen::Firecracker => {
            let firecracker = firecracker.map_err(BootError::Unavailable)?;
            let driver = FirecrackerDriver::new(firecracker, slots, network, catalog, code)?;
            Ok(Driver::Firecracker(Arc::new(driver)))
        }
        Chosen::Container => {
            let agent = owner.data_dir().join("cache/nova-agent");
            write_program(&agent, config.agent)
                .map_err(|source| HostError::Io { path: agent.clone(), source })?;
            let container = ContainerConfig {
                owner: owner.clone(),
                runtime: config.oci_runtime.clone(),
                agent,
                boot_timeout: config.boot_timeout,
            };
            let driver = ContainerDriver::new(container, slots, network, catalog, code)?;
            Ok(Driver::Container(Arc::new(driver)))
        }
        Chosen::None => Ok(Driver::None(Arc::new(NoneDriver))),
    }
}
