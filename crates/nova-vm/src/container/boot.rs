//! The boot of one container, step by step.
//!
//! ```text
//! gather ──▶ write ──▶ start ──────▶ connect ──▶ init ──▶ running
//! image,     bundle,   OCI runtime,  the agent's  what to
//! code,      cgroups   pidfd         socket       become
//! network
//! ```
//!
//! The time that a boot may take counts from the write: what is gathered is shared with other boots, and a
//! wait for theirs is not this container's delay.
//!
//! Whatever a step makes is held by [`Remains`] before the next await, so a step that fails, a
//! deadline, and a caller that leaves all end the same way: everything is removed. From the start of
//! the container on its death ends the boot at once, with the end of its console.
use super::Host;
use super::bundle::{Bundle, FunctionCgroup};
use super::connect::connect;
use super::oci_runtime::pid_file;
use super::process::Process;
use super::remains::{Identity, Remains};
use crate::agent_line::{AgentLine, LineError};
use crate::cgroup::{CgroupError, GroupLimits};
use crate::driver::{BootError, FUNCTION_PIDS_MAX, VmSpec};
use crate::firecracker::console::Console;
use crate::images::code::CodeImage;
use nova_domain::NetworkPolicy;
use nova_proto::{Init, PROTOCOL_VERSION, Rootfs};
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long after the container's death the end of its console may take to be read.
const CONSOLE_WITHIN: Duration = Duration::from_millis(200);

/// What a boot leaves when it succeeds.
#[derive(Debug)]
pub(super) struct Running {
    pub line: AgentLine,
    pub process: Process,
    pub console: Console,
    pub remains: Remains,
}

/// Boots a container, or removes what there is of it and says why.
pub(super) async fn boot(host: &Arc<Host>, spec: VmSpec) -> Result<Running, BootError> {
    let mut boot = Boot { host, remains: Remains::new(host, &spec.id), console: None, spec };
    let result = match boot.gather().await {
        Ok(parts) => boot.start_within(host.boot_timeout, parts).await,
        Err(error) => Err(error),
    };
    let Boot { remains, console, .. } = boot;
    match (result, console) {
        (Ok((line, process)), Some(console)) => Ok(Running { line, process, console, remains }),
        (Ok(_), None) => Err(failed("starting the container", "no console")),
        (Err(error), _) => {
            remains.clear().await;
            Err(error)
        }
    }
}

struct Boot<'a> {
    host: &'a Arc<Host>,
    spec: VmSpec,
    remains: Remains,
    console: Option<Console>,
}

/// What the container is made of.
struct Parts {
    root: PathBuf,
    code: Arc<CodeImage>,
    layers: Option<Arc<CodeImage>>,
    uid_root: u32,
    uid_user: u32,
    network_namespace: Option<PathBuf>,
    resolvers: Vec<Ipv4Addr>,
}

impl Boot<'_> {
    async fn start_within(
        &mut self,
        within: Duration,
        parts: Parts,
    ) -> Result<(AgentLine, Process), BootError> {
        match timeout(within, self.steps(parts)).await {
            Ok(result) => result,
            Err(_) => Err(BootError::Timeout {
                phase: "booting the container",
                timeout_ms: within.as_millis() as u64,
                console: format!("console ends with: {}", self.console_end()),
            }),
        }
    }

    async fn steps(&mut self, parts: Parts) -> Result<(AgentLine, Process), BootError> {
        let cgroup = self.write(parts).await?;
        let process = self.start().await?;
        let line = tokio::select! {
            line = self.converse(&cgroup) => line,
            () = process.ended() => Err(Self::died()),
        };
        match line {
            Ok(line) => Ok((line, process)),
            Err(error) => Err(self.with_console(error).await),
        }
    }

    /// Image, code and network, all at once: each may take a while the first time.
    async fn gather(&mut self) -> Result<Parts, BootError> {
        let (host, spec) = (self.host, &self.spec);
        let root = async {
            let image = host.catalog.image_path(&spec.image_digest);
            let image = image.ok_or_else(|| BootError::Artifact {
                what: format!("runtime image {}", spec.image_digest),
                problem: "it is not installed any more; `nova runtime add` brings it back".into(),
            })?;
            host.mounts.get(&spec.image_digest, &image, &host.tasks).await
        };
        let code = async {
            let problem = |error: io::Error| BootError::Artifact {
                what: format!("code of function {}", spec.function),
                problem: error.to_string(),
            };
            host.code.directory(&spec.code_hash).await.map_err(problem)
        };
        let layers = async {
            let Some(hash) = &spec.layers_hash else { return Ok(None) };
            let problem = |error: io::Error| BootError::Artifact {
                what: format!("layers of function {}", spec.function),
                problem: error.to_string(),
            };
            host.code.directory(hash).await.map(Some).map_err(problem)
        };
        let (root, code, layers, identity) = tokio::join!(root, code, layers, self.identity());
        let identity = identity?;
        let slot = identity.slot();
        let (uid_root, uid_user) = (slot.uid_root(), slot.uid_user());
        let (network_namespace, resolvers) = match &identity {
            Identity::Network(network) => {
                let resolvers = network.guest().map(|guest| guest.resolvers.clone());
                (Some(network.netns_path()), resolvers.unwrap_or_default())
            }
            Identity::Slot(_) => (None, Vec::new()),
        };
        self.remains.hold(identity);
        let (code, layers) = (code?, layers?);
        self.remains.hold_code([Some(Arc::clone(&code)), layers.clone()]);
        let root = root?;
        Ok(Parts { root, code, layers, uid_root, uid_user, network_namespace, resolvers })
    }

    async fn identity(&self) -> Result<Identity, BootError> {
        if self.spec.network == NetworkPolicy::None {
            return self.host.slots.take().map(Identity::Slot).ok_or_else(|| {
                BootError::Unavailable("every slot of this host is in use; try again later".into())
            });
        }
        let network =
            self.host.network.as_ref().ok_or_else(|| {
                BootError::Unavailable("this host has no network for guests".into())
            })?;
        let slot = network.take(&self.spec.network, &self.spec.limits).await;
        slot.map(Identity::Network).map_err(|error| failed("preparing the network", error))
    }

    /// The bundle and the cgroups.
    async fn write(&mut self, parts: Parts) -> Result<FunctionCgroup, BootError> {
        let directory = self.remains.directory();
        let vm = self.remains.cgroup().clone();
        let agent = self.host.agent.clone();
        let has_code = self.spec.setup.own_image.as_ref().is_none_or(|image| image.has_code);
        let hostname = self.hostname();
        let memory_mb = self.spec.memory_mb;
        let limits = self.spec.limits;
        let concurrency = self.spec.setup.instance_concurrency;
        // A tmpfs without a limit of its own ends where the function's memory does.
        let out_mb = self.spec.setup.out_mb;
        let tmp_mb = if limits.tmp_mb == 0 { memory_mb } else { limits.tmp_mb };
        let written = self.remains.blocking(move || {
            let (agent_cgroup, function) = (vm.child("agent"), vm.child("fn"));
            let cgroup = make_cgroups(&vm, &function, memory_mb, limits.vcpus, parts.uid_root)
                .map_err(|error| failed("making its cgroups", error))?;
            let bundle = Bundle {
                directory: &directory,
                root: &parts.root,
                code: has_code.then(|| parts.code.path()),
                layers: parts.layers.as_ref().map(|layers| layers.path()),
                agent: &agent,
                hostname: &hostname,
                uid_root: parts.uid_root,
                uid_user: parts.uid_user,
                network_namespace: parts.network_namespace.as_deref(),
                resolvers: &parts.resolvers,
                agent_cgroup: agent_cgroup.name(),
                function_cgroup: &cgroup,
                tmp_mb,
                out_mb,
                concurrency,
            };
            let directory = directory.display();
            bundle
                .write()
                .map_err(|error| failed("writing its files", format!("{directory}: {error}")))?;
            Ok(cgroup)
        });
        let gone = || failed("writing its files", "the daemon is ending");
        written.await.unwrap_or_else(|| Err(gone()))
    }

    /// Has the OCI runtime start the container.
    async fn start(&mut self) -> Result<Process, BootError> {
        let failed = |problem: &dyn std::fmt::Display| failed("starting the container", problem);
        let runtime = &self.host.runtime;
        let directory = self.remains.directory();
        let turn = self.host.starts.acquire().await.map_err(|error| failed(&error))?;
        let (reader, writer) = io::pipe().map_err(|error| failed(&error))?;
        self.console = Some(Console::read(reader).map_err(|error| failed(&error))?);
        let child = runtime.run(self.remains.id(), &directory, writer).map_err(|error| {
            BootError::Unavailable(format!(
                "{} cannot be run: {error}; install runc, or set the OCI runtime's path",
                runtime.program().display()
            ))
        })?;
        let status = self.remains.run(child).await.map_err(|error| failed(&error))?;
        drop(turn);
        if !status.success() {
            let program = runtime.program().display();
            let complaints = runtime.complaints(&directory);
            let error = failed(&format_args!("{program} failed ({status}){complaints}"));
            return Err(self.with_console(error).await);
        }
        Process::from_pid_file(&pid_file(&directory))
            .map_err(|error| failed(&format_args!("the pid that the OCI runtime wrote: {error}")))
    }

    /// Connects to the agent and tells it what to become.
    async fn converse(&mut self, cgroup: &FunctionCgroup) -> Result<AgentLine, BootError> {
        let stream = connect(&self.remains.directory().join("nova"))
            .await
            .map_err(|error| failed("connecting to the agent", error))?;
        let line = AgentLine::start(stream);
        let init = Init {
            protocol: PROTOCOL_VERSION,
            hostname: self.hostname(),
            // The container shares the host's clock, random numbers and network stack: its
            // interface and resolv.conf are set up from outside.
            clock_unix_ns: None,
            entropy: Vec::new(),
            rootfs: Rootfs::Mounted,
            network: None,
            cgroup: cgroup.setup(),
            function: self.spec.setup.clone(),
        };
        // The whole boot's deadline is the one that counts.
        match line.init(init, self.host.boot_timeout).await {
            Ok(_) => Ok(line),
            Err(LineError::Closed(_)) => Err(Self::died()),
            Err(error) => Err(failed("setting up the guest", error)),
        }
    }

    fn hostname(&self) -> String {
        format!("nova-{}", self.spec.id)
    }

    fn died() -> BootError {
        failed("starting the agent", "the container ended")
    }

    /// Adds the end of the console to an error: there the reason is, if anywhere.
    async fn with_console(&self, error: BootError) -> BootError {
        if let Some(console) = &self.console {
            console.ended(CONSOLE_WITHIN).await;
        }
        match error {
            BootError::Failed { phase, problem } => BootError::Failed {
                phase,
                problem: format!("{problem}; console ends with: {}", self.console_end()),
            },
            other => other,
        }
    }

    fn console_end(&self) -> String {
        self.console.as_ref().map(Console::quote).unwrap_or_default()
    }
}

/// The guest's cgroup with its CPU limit, and in it the function's, which root of the container may
/// move its processes into.
fn make_cgroups(
    vm: &crate::cgroup::Group,
    function: &crate::cgroup::Group,
    memory_mb: u32,
    vcpus: u32,
    uid_root: u32,
) -> Result<FunctionCgroup, CgroupError> {
    vm.create(&GroupLimits { cpus: Some(vcpus), ..GroupLimits::default() })?;
    function.create(&GroupLimits {
        memory_bytes: Some(u64::from(memory_mb) << 20),
        // The same limit as the guest's, for the sake of a group of its own: a thousand processes in
        // it then weigh as much as one, and the agent beside it gets its turn to kill them.
        cpus: Some(vcpus),
        pids: Some(FUNCTION_PIDS_MAX),
    })?;
    vm.let_move(uid_root, function)?;
    Ok(FunctionCgroup {
        procs_files: function.procs_files(),
        oom_counter: function.oom_counter().ok_or(CgroupError::NoController("memory"))?,
    })
}

/// An error of a step.
fn failed(phase: &'static str, problem: impl std::fmt::Display) -> BootError {
    BootError::Failed { phase, problem: problem.to_string() }
}
