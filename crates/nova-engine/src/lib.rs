//! How a call gets a microVM and an answer.
//!
//! ```text
//!  Invocation ──▶ Executor ──▶ Directory: name → Plan (cached; no query on a warm call)
//!                    │
//!                    ├──▶ Pool ──▶ Lease ──▶ MicroVm::exec ──▶ Outcome
//!                    │     └ policy: a pure state machine decides, the shell acts
//!                    └──▶ Recorder: records and log lines in batches, Metrics in memory
//! ```
//!
//! # For the edge
//! ```text
//! Executor::new(Parts { driver, store, vault, catalog, config })  -> Executor      (Clone; in a tokio runtime)
//! executor.start()                            pre-warms what has min_replicas; call once the API listens
//! executor.invoke(invocation, log_sink).await -> Result<Outcome, InvokeError>      drop the future to cancel
//! executor.functions_changed(&name).await     after a function was created, replaced or deleted in the store
//! executor.secrets_changed(&secret).await     after a secret was set or deleted
//! executor.runtimes_changed().await           after a runtime image was added or removed
//! executor.stats() -> Stats                   every VM: id, function, phase, age, memory
//! executor.metrics() -> MetricsSnapshot       for JSON and Prometheus
//! executor.drain(within).await -> DrainReport no new calls; waits for those in flight; stops every VM
//! Builds::{new, submit, log, resume, stop} functions whose code is source; see `build`
//! InvokeError::{code, retry_after_s}          saturated and acquire_timeout are 429
//! ```
//! The three `*_changed` calls are what keeps the cached plans true: they return when the next call
//! runs the new state. Calls in flight finish on what they started with.
#![forbid(unsafe_code)]

mod build;
mod call;
mod config;
mod directory;
mod error;
mod exec;
mod executor;
mod metrics;
mod plan;
mod pool;
mod recorder;
mod stats;

pub use build::{BuildNetwork, BuildParts, Builds, LiveLog, LogPart};
pub use call::error_code;
pub use config::{BOOTS_MAX_PER_CPU, EngineConfig, IDLE_TTL, QUEUE_MAX_PER_FUNCTION};
pub use error::{BootFailure, InvokeError, RETRY_AFTER_S, SetupError};
pub use exec::LogSink;
pub use executor::{DrainReport, Executor, Parts};
pub use stats::{
    FunctionMetrics, HistogramSnapshot, MetricsSnapshot, Stats, Status, VmPhase, VmStats,
};
