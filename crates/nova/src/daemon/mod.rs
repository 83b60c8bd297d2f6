//! The daemon, in one straight line: Starting → Serving → Draining → Stopped.
//!
//! ```text
//! config ─▶ data directory taken ─▶ listener bound ─▶ store, secrets, code ─▶ host ─▶ engine ─▶ serve
//!                                                                                               │
//! exit ◀─ host taken down ◀─ VMs stopped, records written ◀─ calls in flight end ◀─ SIGTERM ◀───┘
//! ```
//! The listener is bound early, so that a port in use is found before anything is made on the host, and
//! served late, so that nobody is answered before everything is there.
mod host_setup;
mod unused_code;

use crate::api::{self, AllowedHosts, Api, Bodies, CODE_JOBS, KeyRing, Settings};
use crate::cli::DaemonArgs;
use crate::config::{Config, LogFormat, RawConfig};
use crate::data_dir::DataDir;
use crate::serve::{self, Connections};
use crate::signals::Signals;
use anyhow::{Context, anyhow, bail};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use nova_domain::CodeHash;
use nova_engine::{BuildNetwork, BuildParts, Builds, Executor, Parts};
use nova_store::{ApiKeyText, Blobs, DirectoryBlobs, MasterKey, SecretVault, SqlStore, Store};
use nova_vm::CodeSource;
use nova_vm::host::{Host, HostError};
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

pub use host_setup::artifacts;
use host_setup::{backend, engine_config, host_config, report};

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
/// Why work that a signal ended has no result.
const INTERRUPTED: &str = "interrupted";

/// `nova daemon`
pub async fn main(args: DaemonArgs, data_dir: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let config = read_config(args, data_dir)?;
    start_log(config.log_format, LOG_FILTER);
    host_setup::raise_open_files();
    host_setup::forbid_core_dumps();
    let mut signals = Signals::new()?;
    let Some(starting) = Starting::unless_interrupted(&config, &mut signals).await? else {
        tracing::info!("the start was interrupted; nothing of it is left");
        return Ok(ExitCode::SUCCESS);
    };
    let Starting { daemon, listener, router, url, first_key, interrupted } = starting;
    tracing::info!(%url, data_dir = %config.data_dir.display(), "serving");
    if config.insecure_no_auth {
        tracing::warn!("no keys are asked for: every user of this host may do everything");
    }
    if let Some(key) = first_key {
        show_first_key(&config, &key);
    }
    let stop = CancellationToken::new();
    let serving = serve::serve(listener, router, stop.clone());
    let stopped = async {
        // A start that was told to end too late to give up is a run without calls.
        if !interrupted {
            daemon.executor.start();
            if let Err(error) = daemon.builds.resume().await {
                tracing::warn!(%error, "builds that were interrupted wait for the next start");
            }
            signals.next().await;
        }
        daemon.draining.cancel();
        stop.cancel();
    };
    let (connections, ()) = tokio::join!(serving, stopped);
    tracing::info!("draining");
    daemon.drain(connections, &mut signals, config.drain_timeout).await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Serves for one piece of work, which gets the address, and takes everything down again. Only problems are
/// logged. A signal ends the work.
pub async fn serve_for<T>(
    config: &Config,
    work: impl AsyncFnOnce(&str) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    start_log(config.log_format, "error");
    let mut signals = Signals::new()?;
    let Some(starting) = Starting::unless_interrupted(config, &mut signals).await? else {
        bail!(INTERRUPTED);
    };
    let Starting { daemon, listener, router, url, first_key: _, interrupted } = starting;
    let stop = CancellationToken::new();
    let serving = serve::serve(listener, router, stop.clone());
    let worked = async {
        let result = tokio::select! {
            result = work(&url), if !interrupted => result,
            _ = signals.next(), if !interrupted => Err(anyhow!(INTERRUPTED)),
            else => Err(anyhow!(INTERRUPTED)),
        };
        daemon.draining.cancel();
        stop.cancel();
        result
    };
    let (connections, result) = tokio::join!(serving, worked);
    daemon.drain(connections, &mut signals, Duration::ZERO).await;
    result
}

fn show_first_key(config: &Config, key: &ApiKeyText) {
    let place = config.data_dir.display();
    let shown = format!("API key (shown once; also in {place}/admin.key):\n{}", key.reveal());
    if let Err(error) = writeln!(io::stdout(), "{shown}") {
        tracing::warn!(%error, "the first key could not be shown; it is in admin.key");
    }
}

fn read_config(args: DaemonArgs, data_dir: Option<PathBuf>) -> anyhow::Result<Config> {
    let mut raw = RawConfig::read(args.config.as_deref(), data_dir.as_deref())?;
    raw.add_flag("listen", args.listen);
    raw.add_flag("backend", args.backend);
    raw.add_flag("log_format", args.log_format);
    raw.add_flag("insecure_no_auth", args.insecure_no_auth.then(|| "true".to_owned()));
    Ok(Config::new(raw)?)
}

/// The log goes to stderr; `RUST_LOG` chooses what is in it, else `usual` does.
fn start_log(format: LogFormat, usual: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        // A log that cannot be written (its disk is full) must cost nothing but the line: complaining on
        // stderr about stderr panics, in whatever task had something to say.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// A daemon that is complete and not yet serving.
struct Starting {
    daemon: Daemon,
    listener: TcpListener,
    router: axum::Router,
    /// Where it can be reached from this host.
    url: String,
    /// The API key, where this is the first run in its directory.
    first_key: Option<ApiKeyText>,
    /// Whether a signal came too late for the start to be given up.
    interrupted: bool,
}

/// What is to be stopped, in this order.
struct Daemon {
    executor: Executor,
    builds: Builds,
    draining: CancellationToken,
    tidying: tokio::task::JoinHandle<((), ())>,
    host: Host,
    database: SqlStore,
    /// Last: until here nobody else may use the directory.
    _directory: DataDir,
}

impl Starting {
    /// Gives up at a signal: `None` where nothing of the start is left.
    async fn unless_interrupted(
        config: &Config,
        signals: &mut Signals,
    ) -> anyhow::Result<Option<Self>> {
        let interrupted = CancellationToken::new();
        let mut starting = pin!(Self::new(config, &interrupted));
        let started = tokio::select! {
            started = &mut starting => started,
            _ = signals.next() => {
                interrupted.cancel();
                // Waited for: dropped, it could leave something of a guest or a network behind.
                starting.await
            }
        };
        match started {
            Err(error) if matches!(error.downcast_ref(), Some(HostError::Interrupted)) => Ok(None),
            started => Ok(Some(Self { interrupted: interrupted.is_cancelled(), ..started? })),
        }
    }

    async fn new(config: &Config, interrupted: &CancellationToken) -> anyhow::Result<Self> {
        let mut directory = DataDir::take(&config.data_dir)?;
        let listener = TcpListener::bind(config.listen).await.with_context(|| {
            format!("cannot listen on {}; choose another address with --listen", config.listen)
        })?;
        let address = listener.local_addr()?;
        let database = SqlStore::open(&config.data_dir.join(DATABASE_FILE)).await?;
        let store: Arc<dyn Store> = Arc::new(database.clone());
        let master_key = MasterKey::of_store(&config.master_key_file, store.as_ref()).await?;
        let vault = SecretVault::new(store.clone(), master_key);
        let blobs = open_blobs(config, store.as_ref()).await?;
        let engine = engine_config(config)?;
        let code = Arc::new(BlobSource(blobs.clone()));
        let host = Host::start(host_config(config), code, interrupted).await?;
        // Only now: it is shown once, and a start that fails for want of something shows nothing.
        let first_key = match directory.first_key(store.as_ref()).await {
            Ok(first_key) => first_key,
            Err(error) => {
                host.shutdown().await;
                return Err(error.into());
            }
        };
        let backend = backend(&host);
        report(&host, &backend);
        let executor = Executor::new(Parts {
            driver: host.driver(),
            store: store.clone(),
            vault: vault.clone(),
            catalog: host.catalog(),
            config: engine,
        });
        let builds = Builds::new(BuildParts {
            driver: host.driver(),
            store: store.clone(),
            blobs: blobs.clone(),
            catalog: host.catalog(),
            executor: executor.clone(),
            network: BuildNetwork {
                env: config.build_env.clone(),
                policy: config.build_network.clone(),
            },
        });
        let draining = CancellationToken::new();
        let tidying = tokio::spawn(futures::future::join(
            forget_old_records(store.clone()),
            unused_code::remove(store.clone(), blobs.clone()),
        ));
        let router = api::router(Arc::new(Api {
            keys: KeyRing::new(store.clone()),
            store,
            blobs,
            vault,
            executor: executor.clone(),
            builds: builds.clone(),
            catalog: host.catalog(),
            backend,
            settings: Settings {
                authentication: !config.insecure_no_auth,
                hosts: AllowedHosts::new(address, config.allowed_hosts.clone()),
                data_dir: config.data_dir.clone(),
                code_paths: config.code_paths.clone(),
            },
            bodies: Bodies::default(),
            code_jobs: Semaphore::new(CODE_JOBS),
            draining: draining.clone(),
        }));
        let url = format!("http://{}", reachable(address));
        if let Err(error) = directory.announce(&url) {
            tracing::warn!(%error, "the command line has to be told the address with --url");
        }
        let daemon =
            Daemon { executor, builds, draining, tidying, host, database, _directory: directory };
        Ok(Self { daemon, listener, router, url, first_key, interrupted: false })
    }
}

impl Daemon {
    /// Ends calls in flight, waiting for them up to `within`; another signal ends the waiting.
    async fn drain(self, connections: Connections, signals: &mut Signals, within: Duration) {
        self.builds.stop().await;
        let report = tokio::select! {
            report = self.executor.drain(within) => report,
            _ = signals.next() => {
                tracing::warn!("second signal: calls in flight are cut off");
                self.executor.drain(Duration::ZERO).await
            }
        };
        if report.calls_cut_off > 0 || !report.records_written {
            let (cut_off, written) = (report.calls_cut_off, report.records_written);
            tracing::warn!(calls_cut_off = cut_off, records_written = written, "drained");
        }
        let left = connections.end(ANSWERS_TIMEOUT).await;
        if left > 0 {
            tracing::warn!(left, "clients that did not take their answer were cut off");
        }
        self.tidying.abort();
        drop((self.builds, self.executor));
        self.host.shutdown().await;
        if let Err(error) = self.database.close().await {
            tracing::warn!(%error, "the database was not closed; the next start reads it as it is");
        }
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
