//! The boot of one VM, in phases. Each is a value that holds all that exists so far; what it has is
//! removed when it is dropped, whether a step failed, the time is up, or the caller went away.
//!
//! ```text
//! Prepared ──spawn──▶ Spawned ──configure──▶ Configured ──start──▶ Started ──greet──▶ Ready
//! jail, files         jailer, VMM            API calls done        guest runs         agent answers
//! ```
use super::Host;
use super::api::{ApiClient, ApiError};
use super::belongings::{Belongings, Gone, Place};
use super::jail::Jail;
use super::plan::{DRIVES, Plan, name};
use super::vmm::Vmm;
use super::vsock;
use crate::agent_line::AgentLine;
use crate::cgroup::GroupLimits;
use crate::driver::BootError;
use nova_proto::Init;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep, timeout_at};

/// First and longest pause between two tries to reach a socket or the agent. Firecracker needs a
/// few milliseconds to its socket, the agent one between its driver and its `listen`.
const RETRY_PAUSE: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(5);

/// How long one connection to the agent may stay without an answer before another is tried. As long
/// as Firecracker itself waits for the guest.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// After an error: how long to wait for the VMM's end, which would explain it.
const EXPLANATION_TIMEOUT: Duration = Duration::from_millis(200);

/// The files that a VM is booted from.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Image and code; none for a guest that only has to answer.
    pub(crate) drives: Vec<PathBuf>,
}

/// What all phases share.
#[derive(Debug)]
struct Base {
    host: Arc<Host>,
    plan: Plan,
    belongings: Belongings,
    /// Counts from the spawn: a copy of a shared file made before is not the guest's delay.
    deadline: Instant,
}

/// The jail exists and holds the files.
#[derive(Debug)]
pub(crate) struct Prepared(Base);

/// The jailer runs, or is Firecracker already.
#[derive(Debug)]
pub(crate) struct Spawned(Base);

/// Firecracker knows the machine.
pub(crate) struct Configured(Base, ApiClient);

/// The guest's kernel runs.
#[derive(Debug)]
pub(crate) struct Started(Base);

/// The agent answers, and has been told what to become.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) belongings: Belongings,
    pub(crate) line: AgentLine,
}

impl Prepared {
    /// Makes the jail. The second value tells when everything is gone again, however this ends.
    pub(crate) fn begin(host: Arc<Host>, plan: Plan, place: Place) -> (Self, Gone) {
        let cgroup = host.cgroups.group(&plan.parent_cgroup).child(&plan.id);
        let (belongings, gone) =
            Belongings::new(plan.id.clone(), place, cgroup, host.removals.clone());
        let deadline = Instant::now();
        (Self(Base { host, plan, belongings, deadline }), gone)
    }

    /// Puts the files into the jail.
    pub(crate) async fn fill(mut self, files: Files) -> Result<Self, BootError> {
        const PHASE: &str = "preparing the jail";
        let base = &mut self.0;
        let config = &base.host.config;
        let jail = Jail::create(&config.owner.jail_base(), &base.host.program_name, &base.plan.id)
            .map_err(|error| failed(PHASE, error))?;
        let jail = base.belongings.jail.insert(jail);
        let mut wanted = vec![(files.kernel, name::KERNEL), (files.initramfs, name::INITRAMFS)];
        let drives = DRIVES.map(|(_, name)| name);
        wanted.extend(files.drives.into_iter().zip(drives));
        for (source, name) in wanted {
            base.host.shared.link_into(jail, &source, name).await.map_err(|error| {
                failed(PHASE, format_args!("{} as {name}: {error}", source.display()))
            })?;
        }
        Ok(self)
    }

    /// Starts the jailer.
    pub(crate) fn spawn(mut self) -> Result<Spawned, BootError> {
        let base = &mut self.0;
        let config = &base.host.config;
        let arguments = base.plan.jailer_arguments(
            &config.firecracker,
            &config.owner.jail_base(),
            base.host.cgroups.version(),
        );
        let vmm = Vmm::spawn(&config.jailer, &arguments).map_err(|error| {
            failed("starting the jailer", format_args!("{}: {error}", config.jailer.display()))
        })?;
        base.belongings.vmm = Some(vmm);
        base.deadline = Instant::now() + config.boot_timeout;
        Ok(Spawned(self.0))
    }
}

impl Spawned {
    /// Waits for the API and describes the machine.
    pub(crate) async fn configure(self) -> Result<Configured, BootError> {
        let base = self.0;
        let mut api = base.during("waiting for firecracker's socket", base.api()).await?;
        let plan = &base.plan;
        base.during("configuring the machine", async {
            api.put("/machine-config", &plan.machine_config()).await?;
            api.put("/boot-source", &plan.boot_source()).await
        })
        .await?;
        base.during("configuring the drives", async {
            for drive in plan.drives() {
                api.put(&format!("/drives/{}", drive.drive_id), &drive).await?;
            }
            Ok::<_, ApiError>(())
        })
        .await?;
        base.during("configuring the network", async {
            match plan.network_interface() {
                Some(nic) => api.put(&format!("/network-interfaces/{}", nic.iface_id), &nic).await,
                None => Ok(()),
            }
        })
        .await?;
        base.during("configuring the vsock", api.put("/vsock", &plan.vsock())).await?;
        Ok(Configured(base, api))
    }
}

impl Configured {
    /// Powers the machine on.
    pub(crate) async fn start(self) -> Result<Started, BootError> {
        let Self(base, mut api) = self;
        base.during("starting the guest", api.start_instance()).await?;
        Ok(Started(base))
    }
}

impl Started {
    /// Waits until the agent answers a ping, then tells it what to become.
    pub(crate) async fn greet(self, init: Option<Init>) -> Result<Ready, BootError> {
        let base = self.0;
        let line = base
            .during("waiting for the guest's agent", base.agent())
            .await
            .map_err(|error| base.or_timeout(error))?;
        if let Some(mut init) = init {
            // As late as possible: the guest sets its clock by it.
            init.clock_unix_ns = Some(unix_time_ns());
            let left = base.deadline.saturating_duration_since(Instant::now());
            base.during("setting up the guest", line.init(init, left))
                .await
                .map_err(|error| base.or_timeout(error))?;
        }
        // Only now: a quota on the CPU makes a boot slower, and the jailer cannot forbid swap.
        let limits = GroupLimits {
            memory_bytes: Some(base.plan.memory_limit_bytes()),
            cpus: Some(base.plan.limits.vcpus),
            pids: None,
        };
        base.belongings
            .cgroup
            .create(&limits)
            .map_err(|error| failed("limiting CPU and memory", error))?;
        Ok(Ready { belongings: base.belongings, line })
    }
}

impl Base {
    /// Runs one step until it ends, the time is up, or the VMM dies.
    async fn during<T, E: Display>(
        &self,
        phase: &'static str,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, BootError> {
        let Some(vmm) = &self.belongings.vmm else {
            return Err(failed(phase, "there is no process"));
        };
        let start = Instant::now();
        let (problem, ended) = tokio::select! {
            result = timeout_at(self.deadline, step) => match result {
                Ok(Ok(value)) => {
                    let took_us = start.elapsed().as_micros() as u64;
                    tracing::debug!(vm = self.plan.id, took_us, "{phase}");
                    return Ok(value);
                }
                Ok(Err(error)) => {
                    match tokio::time::timeout(EXPLANATION_TIMEOUT, vmm.exited()).await {
                        Ok(how) => (format!("{error}; firecracker {how}"), true),
                        Err(_) => (error.to_string(), false),
                    }
                }
                Err(_) => (format!("not done within {} ms", self.timeout_ms()), false),
            },
            how = vmm.exited() => (format!("firecracker {how}"), true),
        };
        if ended {
            vmm.console.ended(EXPLANATION_TIMEOUT).await;
        }
        Err(failed(phase, format_args!("{problem}; console ends with: {}", vmm.console.quote())))
    }

    /// Firecracker's API, as soon as it is served.
    async fn api(&self) -> Result<ApiClient, String> {
        let path = self.path(name::API_SOCKET)?;
        let mut pause = RETRY_PAUSE.start;
        let stream = loop {
            match vsock::connect(&path, self.plan.uid).await {
                Ok(stream) => break stream,
                Err(error) if is_too_early(&error) => sleep(pause).await,
                Err(error) => return Err(error.to_string()),
            }
            pause = (pause * 2).min(RETRY_PAUSE.end);
        };
        let timeout = self.host.config.api_timeout;
        let mut api = ApiClient::over(stream, timeout).await.map_err(|error| error.to_string())?;
        let info = api.instance_info().await.map_err(|error| error.to_string())?;
        tracing::debug!(vm = self.plan.id, version = info.vmm_version, "firecracker is there");
        Ok(api)
    }

    /// The line to the agent, as soon as it answers. A connection that is made too early can be
    /// closed, or be dead without being closed: so only an answer counts.
    async fn agent(&self) -> Result<AgentLine, String> {
        let path = self.path(name::VSOCK)?;
        let mut pause = RETRY_PAUSE.start;
        loop {
            let attempt = async {
                let stream = vsock::connect(&path, self.plan.uid).await?;
                let line = AgentLine::start(vsock::to_agent(stream).await?);
                line.ping(GREETING_TIMEOUT).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(line)
            };
            match tokio::time::timeout(GREETING_TIMEOUT, attempt).await {
                Ok(Ok(line)) => return Ok(line),
                Ok(Err(error)) => tracing::trace!(vm = self.plan.id, %error, "no agent yet"),
                Err(_) => tracing::trace!(vm = self.plan.id, "no answer from the agent yet"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE.end);
        }
    }

    /// The error to report: that the guest did not answer in time, where that is what happened.
    fn or_timeout(&self, error: BootError) -> BootError {
        match (&self.belongings.vmm, error) {
            (Some(vmm), BootError::Failed { phase, .. }) if Instant::now() >= self.deadline => {
                let console = vmm.console.of_guest();
                BootError::Timeout { phase, timeout_ms: self.timeout_ms(), console }
            }
            (_, error) => error,
        }
    }

    fn timeout_ms(&self) -> u64 {
        self.host.config.boot_timeout.as_millis() as u64
    }

    fn path(&self, name: &str) -> Result<PathBuf, String> {
        let jail = self.belongings.jail.as_ref().ok_or("there is no jail")?;
        Ok(jail.path(name))
    }
}

/// Whether a socket is not there yet, or not listened on yet.
fn is_too_early(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused)
}

fn unix_time_ns() -> u64 {
    // A clock before 1970 or after 2554 is one the guest had better not be given.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or_default()
}

fn failed(phase: &'static str, problem: impl Display) -> BootError {
    BootError::Failed { phase, problem: problem.to_string() }
}
