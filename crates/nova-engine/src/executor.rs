//! The one door for work: a call in, an answer out.
//!
//! [`Executor::invoke`] is the whole story. A call is never run twice: once it was sent to a guest,
//! whatever goes wrong is an error for the caller.
use crate::call::Call;
use crate::directory::Directory;
use crate::exec::{self, LogSink};
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::pool::{AcquireError, Lease, Pool, Reserved};
use crate::recorder::Recorder;
use crate::{BootFailure, EngineConfig, InvokeError, MetricsSnapshot, Stats, VmPhase};
use nova_domain::{FunctionName, Invocation, Outcome, SecretName};
use nova_store::{SecretVault, Store};
use nova_vm::images::RuntimeCatalog;
use nova_vm::{BootError, VmDriver};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// How long after a failed look at what is to be kept ready it is tried again.
const KEEP_READY_RETRY: Duration = Duration::from_secs(5);

/// How long a drain waits for callers to take their answers and for the last records to be written.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// What an executor is made of.
pub struct Parts {
    /// Makes guests.
    pub driver: Arc<dyn VmDriver>,
    /// Knows functions, takes records.
    pub store: Arc<dyn Store>,
    /// Opens secrets for guests.
    pub vault: SecretVault,
    /// Runtime images of this host.
    pub catalog: Arc<RuntimeCatalog>,
    /// Limits.
    pub config: EngineConfig,
}

/// What a drain had to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// Calls that were cut off because their time was over.
    pub calls_cut_off: u32,
    /// Whether all records have reached the store.
    pub records_written: bool,
}

/// Runs calls. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub config: EngineConfig,
    pub metrics: Arc<Metrics>,
    pub recorder: Recorder,
    /// What the payloads of all calls between arrival and answer take.
    pub payload_bytes: AtomicU64,
    pool: Pool,
    directory: Directory,
    /// Calls between their arrival and their answer.
    calls: TaskTracker,
}

impl Executor {
    /// Must be called within a tokio runtime, which then also runs the engine's own tasks.
    pub fn new(parts: Parts) -> Self {
        let Parts { driver, store, vault, catalog, config } = parts;
        let metrics = Arc::new(Metrics::default());
        let pool = Pool::new(driver, &config, Arc::clone(&metrics));
        let directory =
            Directory::new(Arc::clone(&store), vault, catalog, pool.clone(), Arc::clone(&metrics));
        let recorder = Recorder::new(store);
        let calls = TaskTracker::new();
        let payload_bytes = AtomicU64::new(0);
        let shared = Shared { config, metrics, recorder, payload_bytes, pool, directory, calls };
        Self { shared: Arc::new(shared) }
    }

    /// Runs a call and returns the function's answer, good or bad. Dropping the future cancels the
    /// call. `sink` gets the log lines as they come; one that does not read is given up.
    pub async fn invoke(
        &self,
        invocation: Invocation,
        sink: Option<LogSink>,
    ) -> Result<Outcome, InvokeError> {
        let _counted = self.shared.calls.token();
        let mut call = Call::begin(&self.shared, &invocation);
        let mut lease = match self.admit(&mut call, &invocation).await {
            Ok(lease) => lease,
            Err(error) => {
                call.failed(&error);
                return Err(error);
            }
        };
        let start = call.granted(&lease);
        match exec::run(&mut call, &mut lease, invocation, sink).await {
            Ok(report) => Ok(call.answered(report, start)),
            Err(cause) => {
                let function = lease.plan().name().clone();
                let error = InvokeError::GuestLost { function, cause: Arc::new(cause) };
                call.failed(&error);
                Err(error)
            }
        }
    }

    /// From the name to a VM of its current revision.
    async fn admit(
        &self,
        call: &mut Call<'_>,
        invocation: &Invocation,
    ) -> Result<Lease, InvokeError> {
        let mut plan = self.shared.directory.plan(&invocation.function).await?;
        call.found(&plan);
        call.hold_payload(invocation.payload.get().len())?;
        let mut acquired = self.shared.pool.acquire(&invocation.function).await;
        if let Err(AcquireError::Unknown) = acquired {
            // It was deleted, or deleted and created anew, since its plan was looked up.
            plan = self.shared.directory.plan(&invocation.function).await?;
            acquired = self.shared.pool.acquire(&invocation.function).await;
        }
        acquired.map_err(|error| self.invoke_error(&plan, error))
    }

    fn invoke_error(&self, plan: &Plan, error: AcquireError) -> InvokeError {
        let function = plan.name().clone();
        match error {
            AcquireError::Unknown => InvokeError::FunctionNotFound(function),
            AcquireError::QueueFull { waiting } => InvokeError::Saturated { function, waiting },
            AcquireError::TimedOut { waited } => {
                InvokeError::AcquireTimeout { function, waited_ms: waited.as_millis() as u64 }
            }
            AcquireError::TooLarge { memory_mb } => InvokeError::ExceedsHostMemory {
                function,
                memory_mb,
                limit_mb: self.shared.config.memory_max_mb,
            },
            AcquireError::Boot(cause) => match cause.as_ref() {
                BootFailure::Driver(BootError::Unavailable(why)) => {
                    InvokeError::BackendUnavailable(why.clone())
                }
                BootFailure::GivenUp => InvokeError::ShuttingDown,
                BootFailure::Driver(_) | BootFailure::Setup(_) => {
                    InvokeError::BootFailed { function, cause }
                }
            },
            AcquireError::Draining => InvokeError::ShuttingDown,
        }
    }

    /// Boots what functions with `min_replicas` want kept ready, in the background; tries again until
    /// the store has answered.
    pub fn start(&self) {
        let executor = self.clone();
        tokio::spawn(async move {
            while let Err(error) = executor.shared.directory.keep_ready().await {
                tracing::warn!(%error, "cannot look up which functions want microVMs kept ready");
                sleep(KEEP_READY_RETRY).await;
            }
        });
    }

    /// The function was created, replaced or deleted in the store. When this returns, the next call
    /// runs what is there now, and VMs of an older revision end with their calls.
    pub async fn functions_changed(&self, name: &FunctionName) {
        if let Err(error) = self.shared.directory.changed(name).await
            && !matches!(error, InvokeError::FunctionNotFound(_))
            && !error.is_of_a_build()
        {
            tracing::warn!(function = %name, %error, "a changed function cannot run as it is");
        }
    }

    /// The secret was set or deleted. When this returns, the next call of each function that uses it
    /// gets the new value, in a new VM.
    pub async fn secrets_changed(&self, secret: &SecretName) {
        for name in self.shared.directory.users_of(secret) {
            self.functions_changed(&name).await;
        }
        self.start();
    }

    /// A runtime image was added or removed, and the catalog has been reloaded.
    pub async fn runtimes_changed(&self) {
        for name in self.shared.directory.known_names() {
            self.functions_changed(&name).await;
        }
        self.start();
    }

    /// Waits until the calls that have ended are in the store, at most `within`: for readers of logs
    /// and records, who have just called.
    pub async fn records_written(&self, within: Duration) -> bool {
        self.shared.recorder.flush(within).await
    }

    /// Room for a guest that is not for calls, once there is some: see [`Pool::reserve`].
    pub(crate) async fn reserve(&self, memory_mb: u64) -> Reserved {
        self.shared.pool.reserve(memory_mb).await
    }

    /// The pool at this moment.
    pub fn stats(&self) -> Stats {
        self.shared.pool.stats()
    }

    /// Everything that is counted, at this moment.
    pub fn metrics(&self) -> MetricsSnapshot {
        let stats = self.stats();
        let mut snapshot = self.shared.metrics.snapshot();
        snapshot.pool = VmPhase::ALL.map(|phase| (phase, stats.count(phase) as u64)).into();
        snapshot.records_dropped = self.shared.recorder.dropped();
        snapshot
    }

    /// Takes no more calls, waits for those that are here, stops every VM and writes the last
    /// records. Calls that take longer than `within` are cut off.
    pub async fn drain(&self, within: Duration) -> DrainReport {
        let calls_cut_off = self.shared.pool.drain(within).await;
        self.shared.calls.close();
        let answered = timeout(FLUSH_MAX, self.shared.calls.wait()).await.is_ok();
        let written = self.shared.recorder.flush(FLUSH_MAX).await;
        DrainReport { calls_cut_off, records_written: answered && written }
    }
}
