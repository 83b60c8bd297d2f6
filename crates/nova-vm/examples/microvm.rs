//! Uses a host as the daemon does, without a daemon: chooses the backend, boots guests, calls them,
//! and checks that nothing is left. For hosts with KVM, and for the testbed.
//!
//! ```text
//! microvm AGENT choose                              which backend does `auto` take, and why?
//! microvm AGENT doctor                              what does the doctor find?
//! microvm AGENT call RUNTIME FILE [N] [NETWORK]     two calls of a program file in each of N new guests
//! microvm AGENT crash RUNTIME FILE DIR              boots a guest and ends without cleaning up
//! microvm AGENT recover DIR                         starts in the same data directory, and ends well
//! ```
//! AGENT is the static `nova-agent`, NETWORK `none` (the default) or `egress`. Kernel, images and
//! Firecracker are found as the daemon finds them (`NOVA_ARTIFACTS`, `NOVA_FIRECRACKER_DIR`).
use anyhow::{Context, bail, ensure};
use nova_domain::{CodeHash, FunctionName, Limits, NetworkPolicy, RequestId, RuntimeId};
use nova_proto::{ExecReport, FunctionSetup, Mode};
use nova_vm::backend::{Backend, Chosen};
use nova_vm::cgroup::Cgroups;
use nova_vm::doctor::{Subject, examine};
use nova_vm::host::{Host, HostConfig};
use nova_vm::images::code::{UploadKind, canonicalise};
use nova_vm::images::{Artifacts, RuntimeCatalog};
use nova_vm::slots::AddressRange;
use nova_vm::{CodeSource, ExecRequest, MicroVm, VmId, VmSpec};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// For the testbed, where everything takes 50 times as long as on hardware.
const TIMEOUT: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let dir = tempfile::tempdir()?;
    match words[..] {
        [agent, "choose"] => {
            let host = start(dir.path(), agent, Backend::Auto, Vec::new()).await?;
            println!("{:?}", host.choice());
            finish(host).await
        }
        [agent, "doctor"] => doctor(dir.path(), agent).await,
        [agent, "call", runtime, file] => {
            calls(dir.path(), agent, runtime, file, 1, NetworkPolicy::None).await
        }
        [agent, "call", runtime, file, count] => {
            calls(dir.path(), agent, runtime, file, count.parse()?, NetworkPolicy::None).await
        }
        [agent, "call", runtime, file, count, "egress"] => {
            calls(dir.path(), agent, runtime, file, count.parse()?, NetworkPolicy::Egress).await
        }
        [agent, "crash", runtime, file, dir] => {
            let (archive, code_hash) = pack(file)?;
            let host = start(Path::new(dir), agent, Backend::Firecracker, archive).await?;
            let spec = spec(&host.catalog(), runtime, &code_hash, &NetworkPolicy::Egress)?;
            let vm = host.driver().boot(spec).await?;
            call(&*vm).await?;
            println!("left guest {} behind", vm.id());
            // Runs no destructor: what a crash leaves.
            std::process::exit(0);
        }
        [agent, "recover", dir] => {
            let host = start(Path::new(dir), agent, Backend::Firecracker, Vec::new()).await?;
            println!("{:#?}", host.leftovers());
            ensure!(host.leftovers().failed.is_empty(), "something could not be removed");
            finish(host).await
        }
        _ => bail!("usage: microvm AGENT choose|doctor|call|crash|recover ...; see the source"),
    }
}

async fn doctor(dir: &Path, agent: &str) -> anyhow::Result<()> {
    let config = config(dir, agent, Backend::Auto)?;
    let subject = Subject {
        data_dir: config.data_dir,
        backend: config.backend,
        artifacts: config.artifacts,
        agent: config.agent,
        oci_runtime: config.oci_runtime,
        network_range: config.network_range,
        probe_timeout: config.probe_timeout,
    };
    let findings = examine(&subject, &CancellationToken::new()).await;
    println!("{}", serde_json::to_string_pretty(&findings)?);
    Ok(())
}

async fn calls(
    dir: &Path,
    agent: &str,
    runtime: &str,
    file: &str,
    count: u32,
    network: NetworkPolicy,
) -> anyhow::Result<()> {
    let (archive, code_hash) = pack(file)?;
    let host = start(dir, agent, Backend::Firecracker, archive).await?;
    let called = call_new_guests(&host, runtime, &code_hash, count, &network).await;
    finish(host).await?;
    called
}

async fn call_new_guests(
    host: &Host,
    runtime: &str,
    code_hash: &CodeHash,
    count: u32,
    network: &NetworkPolicy,
) -> anyhow::Result<()> {
    for number in 1..=count {
        let spec = spec(&host.catalog(), runtime, code_hash, network)?;
        let start = Instant::now();
        let vm = host.driver().boot(spec).await?;
        let booted = start.elapsed();
        let cold = call(&*vm).await?;
        let called = start.elapsed();
        let warm = call(&*vm).await?;
        let warmed = start.elapsed();
        println!(
            "guest {number}: boot {} ms, first call {} ms, second {} ms: {}",
            booted.as_millis(),
            (called - booted).as_millis(),
            (warmed - called).as_millis(),
            serde_json::to_string(&warm)?,
        );
        ensure!(cold.error.is_none() && warm.error.is_none(), "the function failed");
        let stopping = Instant::now();
        vm.stop().await;
        println!("guest {number}: gone after {} ms", stopping.elapsed().as_millis());
    }
    Ok(())
}

/// A program file as a code archive.
fn pack(file: &str) -> anyhow::Result<(Vec<u8>, CodeHash)> {
    let program = std::fs::read(file).with_context(|| file.to_owned())?;
    let archive = canonicalise(&program, UploadKind::Inline { handler: "handler" })?;
    let code_hash = CodeHash::of(&archive);
    Ok((archive, code_hash))
}

/// The one program that is called.
struct Program(Vec<u8>);

#[async_trait::async_trait]
impl CodeSource for Program {
    async fn fetch(&self, _: &CodeHash) -> std::io::Result<bytes::Bytes> {
        Ok(self.0.clone().into())
    }
}

fn config(dir: &Path, agent: &str, backend: Backend) -> anyhow::Result<HostConfig> {
    let data_dir = dir.join("data");
    Ok(HostConfig {
        artifacts: Artifacts::from_env(&data_dir),
        data_dir,
        backend,
        // Lives as long as the process anyway.
        agent: std::fs::read(agent).with_context(|| agent.to_owned())?.leak(),
        network_range: AddressRange::default(),
        resolvers: None,
        oci_runtime: "/usr/sbin/runc".into(),
        probe_timeout: TIMEOUT,
        boot_timeout: TIMEOUT,
    })
}

async fn start(
    dir: &Path,
    agent: &str,
    backend: Backend,
    archive: Vec<u8>,
) -> anyhow::Result<Host> {
    let never = CancellationToken::new();
    Ok(Host::start(config(dir, agent, backend)?, Arc::new(Program(archive)), &never).await?)
}

fn spec(
    catalog: &RuntimeCatalog,
    runtime: &str,
    code_hash: &CodeHash,
    network: &NetworkPolicy,
) -> anyhow::Result<VmSpec> {
    let image = catalog
        .get(&RuntimeId::parse(runtime)?)
        .with_context(|| format!("runtime {runtime} is not installed"))?;
    let command = image.commands.get(&Mode::Process).context("no process mode")?;
    let command = command.iter().map(|word| word.replace("{handler}", "handler")).collect();
    Ok(VmSpec {
        id: VmId::from_random(rand::random()),
        function: FunctionName::parse("example")?,
        image_digest: image.digest,
        code_hash: code_hash.clone(),
        layers_hash: None,
        memory_mb: 128,
        limits: Limits::default(),
        network: network.clone(),
        setup: FunctionSetup {
            name: "example".into(),
            version: "1".into(),
            mode: Mode::Process,
            handler: "handler".into(),
            command,
            env: image.env,
            secrets: Vec::new(),
            memory_mb: 128,
            tmp_mb: 0,
            out_mb: 0,
            instance_concurrency: 1,
            own_image: None,
        },
    })
}

/// Takes the host down and checks that no guest left anything.
async fn finish(host: Host) -> anyhow::Result<()> {
    let owner = host.owner().clone();
    let backend = host.choice().backend;
    host.shutdown().await;
    let group = Cgroups::detect()?.group(owner.cgroup_name());
    ensure!(!group.exists(), "cgroup {} is left", group.name());
    ensure!(
        backend != Chosen::Firecracker || !owner.jail_base().exists(),
        "the directory of jails is left"
    );
    for directory in ["/run/netns", "/sys/class/net"] {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        for entry in entries {
            let name = entry?.file_name().into_string().unwrap_or_default();
            ensure!(!name.starts_with(&owner.name_prefix()), "{directory}/{name} is left");
            ensure!(!name.starts_with(&owner.link_prefix()), "{directory}/{name} is left");
        }
    }
    println!("nothing is left");
    Ok(())
}

async fn call(vm: &dyn MicroVm) -> anyhow::Result<ExecReport> {
    let (events, mut lines) = tokio::sync::mpsc::channel(64);
    let request = ExecRequest {
        request_id: RequestId(uuid::Uuid::now_v7()),
        attempt: 1,
        timeout_ms: 60_000,
        traceparent: None,
        input: serde_json::value::to_raw_value(&serde_json::json!({"name": "Nova"}))?,
    };
    let report = vm.exec(request, events).await?;
    while let Ok(line) = lines.try_recv() {
        println!("log: {}", line.text);
    }
    Ok(report)
}
