//! The daemon, in one straight line: Starting → Serving → Draining → Stopped.
//!
//! ```text
//! config ─▶ data directory taken ─▶ listener bound ─▶ store, secrets, code ─▶ host ─▶ engine ─▶ serve
//!                                                                                               │
//! exit ◀─ host taken down ◀─ VMs stopped, records written ◀─ calls in flight end ◀─ SIGTERM ◀───┘
//! ```
//! The listener is bound early, so that a port in use is found before anything is made on the host, and
//! served late, so that nobody is answered before everything is there.
use crate::agent;
use crate::api::{self, AllowedHosts, Api, Backend, CODE_JOBS, KeyRing, Settings};
use crate::cli::DaemonArgs;
use crate::config::{Config, LogFormat, RawConfig};
use crate::data_dir::DataDir;
use crate::serve;
use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use hyper_util::server::graceful::GracefulShutdown;
use nova_domain::CodeHash;
use nova_engine::{EngineConfig, Executor, Parts};
use nova_store::{Blobs, DirectoryBlobs, MasterKey, SecretVault, SqlStore, Store};
use nova_vm::CodeSource;
use nova_vm::backend::Chosen;
use nova_vm::host::{Host, HostConfig};
use nova_vm::images::Artifacts;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The database, in the data directory.
pub const DATABASE_FILE: &str = "nova.db";
/// Time for the last answers to be written when their calls have ended.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long records of calls and log lines are kept.
const RECORDS_KEPT: TimeDelta = TimeDelta::days(30);
/// How often old records are removed.
const FORGET_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// What is logged unless `RUST_LOG` says otherwise: of the database only what is wrong.
const LOG_FILTER: &str = "info,sqlx=warn,sea_orm_migration=warn";
/// The part of the host's memory that VMs may take; the rest is for the host itself.
const VM_MEMORY_PERCENT: u64 = 80;

/// `nova daemon`
pub async fn main(args: DaemonArgs, data_dir: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let config = read_config(args, data_dir)?;
    start_log(config.log_format);
    let mut signals = Signals::new()?;
    let Starting { daemon, listener, router } = tokio::select! {
        started = Starting::new(&config) => started?,
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let stop = CancellationToken::new();
    let serving = serve::serve(listener, router, stop.clone());
    let stopped = async {
        daemon.executor.start();
        signals.next().await;
        daemon.draining.cancel();
        stop.cancel();
    };
    let (connections, ()) = tokio::join!(serving, stopped);
    tracing::info!("draining");
    daemon.drain(connections, &mut signals, config.drain_timeout).await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn read_config(args: DaemonArgs, data_dir: Option<PathBuf>) -> anyhow::Result<Config> {
    let mut raw = RawConfig::read(args.config.as_deref(), data_dir.as_deref())?;
    raw.add_flag("listen", args.listen);
    raw.add_flag("backend", args.backend);
    raw.add_flag("log_format", args.log_format);
    raw.add_flag("insecure_no_auth", args.insecure_no_auth.then(|| "true".to_owned()));
    Ok(Config::new(raw)?)
}

/// The log goes to stderr; `RUST_LOG` chooses what is in it.
fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be handled");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A daemon that is complete and not yet serving.
struct Starting {
    daemon: Daemon,
    listener: TcpListener,
    router: axum::Router,
}

/// What is to be stopped, in this order.
struct Daemon {
    executor: Executor,
    draining: CancellationToken,
    forgetting: tokio::task::JoinHandle<()>,
    host: Host,
    /// Last: until here nobody else may use the directory.
    _directory: DataDir,
}

impl Starting {
    async fn new(config: &Config) -> anyhow::Result<Self> {
        let mut directory = DataDir::take(&config.data_dir)?;
        let listener = TcpListener::bind(config.listen).await.with_context(|| {
            format!("cannot listen on {}; choose another address with --listen", config.listen)
        })?;
        let address = listener.local_addr()?;
        let store = SqlStore::open(&config.data_dir.join(DATABASE_FILE)).await?;
        let store: Arc<dyn Store> = Arc::new(store);
        let vault =
            SecretVault::new(store.clone(), MasterKey::load_or_create(&config.master_key_file)?);
        let blobs = open_blobs(config, store.as_ref()).await?;
        let first_key = directory.first_key(store.as_ref()).await?;
        let host = Host::start(host_config(config), Arc::new(BlobSource(blobs.clone()))).await?;
        let backend = backend(&host);
        report(&host, &backend);
        let executor = Executor::new(Parts {
            driver: host.driver(),
            store: store.clone(),
            vault: vault.clone(),
            catalog: host.catalog(),
            config: engine_config(config)?,
        });
        let draining = CancellationToken::new();
        let forgetting = tokio::spawn(forget_old_records(store.clone()));
        let router = api::router(Arc::new(Api {
            keys: KeyRing::new(store.clone()),
            store,
            blobs,
            vault,
            executor: executor.clone(),
            catalog: host.catalog(),
            backend,
            settings: Settings {
                authentication: !config.insecure_no_auth,
                hosts: AllowedHosts::new(address, config.allowed_hosts.clone()),
                code_paths: config.code_paths.clone(),
            },
            code_jobs: Semaphore::new(CODE_JOBS),
            draining: draining.clone(),
        }));
        let url = format!("http://{}", reachable(address));
        directory.announce(&url)?;
        tracing::info!(%url, data_dir = %config.data_dir.display(), "serving");
        if config.insecure_no_auth {
            tracing::warn!("no keys are asked for: every user of this host may do everything");
        }
        if let Some(key) = first_key {
            println!("API key (shown once; also in {}/admin.key):", config.data_dir.display());
            println!("{}", key.reveal());
        }
        let daemon = Daemon { executor, draining, forgetting, host, _directory: directory };
        Ok(Self { daemon, listener, router })
    }
}

impl Daemon {
    /// Ends calls in flight, waiting for them up to `within`; another signal ends the waiting.
    async fn drain(self, connections: GracefulShutdown, signals: &mut Signals, within: Duration) {
        let report = tokio::select! {
            report = self.executor.drain(within) => report,
            () = signals.next() => {
                tracing::warn!("second signal: calls in flight are cut off");
                self.executor.drain(Duration::ZERO).await
            }
        };
        if report.calls_cut_off > 0 || !report.records_written {
            let (cut_off, written) = (report.calls_cut_off, report.records_written);
            tracing::warn!(calls_cut_off = cut_off, records_written = written, "drained");
        }
        if tokio::time::timeout(ANSWERS_TIMEOUT, connections.shutdown()).await.is_err() {
            tracing::warn!("some clients did not take their answer");
        }
        self.forgetting.abort();
        drop(self.executor);
        self.host.shutdown().await;
    }
}

/// Code by hash, for the drivers.
struct BlobSource(Arc<dyn Blobs>);

#[async_trait]
impl CodeSource for BlobSource {
    async fn fetch(&self, hash: &CodeHash) -> io::Result<Bytes> {
        self.0.get(hash).await
    }
}

/// Opens the code archives and removes those that no function refers to: left by a create that failed
/// half-way, or replaced since.
async fn open_blobs(config: &Config, store: &dyn Store) -> anyhow::Result<Arc<dyn Blobs>> {
    let directory = config.data_dir.join("blobs");
    let blobs = DirectoryBlobs::open(directory.clone())
        .await
        .with_context(|| format!("code directory {}", directory.display()))?;
    let removed = blobs.retain(&store.code_in_use().await?).await?;
    if removed > 0 {
        tracing::info!(removed, "code that no function uses was removed");
    }
    Ok(Arc::new(blobs))
}

/// Where images, kernel and Firecracker are.
pub fn artifacts(config: &Config) -> Artifacts {
    let Config { data_dir, artifacts, firecracker_dir, .. } = config;
    Artifacts::new(data_dir, artifacts.clone(), firecracker_dir.clone())
}

fn host_config(config: &Config) -> HostConfig {
    HostConfig {
        data_dir: config.data_dir.clone(),
        backend: config.backend,
        artifacts: artifacts(config),
        agent: agent::PROGRAM,
        network_range: config.network_range,
        resolvers: config.resolvers.clone(),
        oci_runtime: config.oci_runtime.clone(),
        probe_timeout: config.probe_timeout,
        boot_timeout: config.boot_timeout,
    }
}

fn backend(host: &Host) -> Backend {
    let choice = host.choice();
    let (name, reason) = match choice.backend {
        Chosen::Firecracker => ("firecracker", "each call runs in a microVM of its own"),
        Chosen::Container => ("container", "functions run in containers"),
        Chosen::None => ("none", "no functions are run, as chosen"),
    };
    let warnings: Vec<String> = choice.warning.iter().cloned().collect();
    Backend { name, reason: warnings.first().map_or(reason, String::as_str).to_owned(), warnings }
}

fn report(host: &Host, backend: &Backend) {
    let leftovers = host.leftovers();
    if !leftovers.removed.is_empty() {
        let removed = leftovers.removed.join(", ");
        tracing::warn!(removed, "the run before did not end cleanly; its remains were removed");
    }
    for failed in &leftovers.failed {
        tracing::error!(failed, "remains of the run before could not be removed");
    }
    tracing::info!(backend = backend.name, "backend chosen");
    for warning in &backend.warnings {
        tracing::warn!("{warning}");
    }
}

fn engine_config(config: &Config) -> anyhow::Result<EngineConfig> {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let memory = match config.memory_max_mb {
        Some(memory) => memory,
        None => host_memory_mb()? * VM_MEMORY_PERCENT / 100,
    };
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let mut engine = EngineConfig::new(node, memory, cpus);
    engine.idle_ttl = config.idle_ttl;
    if let Some(vms_max) = config.vms_max {
        engine.vms_max = vms_max;
    }
    Ok(engine)
}

fn host_memory_mb() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib / 1024).context("/proc/meminfo does not say how much memory there is")
}

async fn forget_old_records(store: Arc<dyn Store>) {
    loop {
        match store.forget_records(Utc::now() - RECORDS_KEPT).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(forgotten, "old records of calls were removed"),
            Err(error) => tracing::warn!(%error, "old records of calls were not removed"),
        }
        tokio::time::sleep(FORGET_INTERVAL).await;
    }
}

/// An address that a client on this host can connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let loopback = match address {
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(loopback, address.port())
}
