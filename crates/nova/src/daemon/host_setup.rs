//! From the configuration to the host and the engine, and what the operator is told about both.
use crate::agent;
use crate::api::Backend;
use crate::config::Config;
use anyhow::Context;
use nova_engine::EngineConfig;
use nova_vm::backend::Chosen;
use nova_vm::host::{Host, HostConfig};
use nova_vm::images::Artifacts;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// The part of the host's memory that VMs may take; the rest is for the host itself.
const VM_MEMORY_PERCENT: u64 = 80;

/// Allows this process as many open files as it may have. Shells and service managers start programs
/// with 1024, which a quarter of the connections that the server takes would use up.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Lets no crash write this process's memory to disk: the master key and secrets are in it.
pub fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, none);
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Err(error) = limited.and(hidden) {
        tracing::warn!(%error, "a crash of the daemon may write its memory to disk");
    }
}

/// Where images, kernel and Firecracker are.
pub fn artifacts(config: &Config) -> Artifacts {
    let Config { data_dir, artifacts, firecracker_dir, .. } = config;
    Artifacts::new(data_dir, artifacts.clone(), firecracker_dir.clone())
}

/// What the configuration says about the host.
pub fn host_config(config: &Config) -> HostConfig {
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

/// What clients are told about the backend.
pub fn backend(host: &Host) -> Backend {
    let choice = host.choice();
    let (name, reason) = match choice.backend {
        Chosen::Firecracker => ("firecracker", "each call runs in a microVM of its own"),
        Chosen::Container => ("container", "functions run in containers"),
        Chosen::None => ("none", "no functions are run, as chosen"),
    };
    let warnings: Vec<String> = choice.warning.iter().cloned().collect();
    Backend { name, reason: warnings.first().map_or(reason, String::as_str).to_owned(), warnings }
}

/// Tells the log what was found at the start.
pub fn report(host: &Host, backend: &Backend) {
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

/// The engine's limits: those of the configuration, or what fits this host.
pub fn engine_config(config: &Config) -> anyhow::Result<EngineConfig> {
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
