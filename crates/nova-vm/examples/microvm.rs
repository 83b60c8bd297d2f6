//! Boots real Firecracker guests through the driver, and checks what must hold for each: for hosts
//! with KVM, and for the testbed.
//!
//! ```text
//! microvm AGENT probe                       does a guest boot here?
//! microvm AGENT call RUNTIME FILE [N]       N calls of a program file, each in a new guest
//! ```
//! AGENT is the static `nova-agent`. Kernel, images and Firecracker are found as the daemon finds them (`NOVA_ARTIFACTS`,
//! `NOVA_FIRECRACKER_DIR`).
use anyhow::{Context, bail, ensure};
use nova_domain::{CodeHash, FunctionName, Limits, NetworkPolicy, RequestId, RuntimeId};
use nova_proto::{ExecReport, FunctionSetup, Mode};
use nova_vm::cgroup::Cgroups;
use nova_vm::firecracker::{FirecrackerConfig, FirecrackerDriver, probe};
use nova_vm::images::code::{CodeImages, UploadKind, canonicalise};
use nova_vm::images::{Artifacts, RuntimeCatalog, prepare_initramfs};
use nova_vm::owner::Owner;
use nova_vm::slots::{AddressRange, SlotAllocator, SlotSpace};
use nova_vm::{CodeSource, ExecRequest, MicroVm, VmDriver, VmId, VmSpec};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For the testbed, where everything takes 50 times as long as on hardware.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let dir = tempfile::tempdir()?;
    match words[..] {
        [agent, "probe"] => {
            let bench = Bench::new(dir.path(), agent, Vec::new())?;
            let took = probe(bench.config.clone(), &bench.slots, BOOT_TIMEOUT).await?;
            println!("a guest booted in {} ms", took.as_millis());
            bench.finish().await
        }
        [agent, "call", runtime, file] => calls(dir.path(), agent, runtime, file, 1).await,
        [agent, "call", runtime, file, count] => {
            calls(dir.path(), agent, runtime, file, count.parse()?).await
        }
        _ => bail!("usage: microvm AGENT probe | microvm AGENT call RUNTIME FILE [N]"),
    }
}

async fn calls(
    dir: &Path,
    agent: &str,
    runtime: &str,
    file: &str,
    count: u32,
) -> anyhow::Result<()> {
    let program = std::fs::read(file).with_context(|| file.to_owned())?;
    let archive = canonicalise(&program, UploadKind::Inline { handler: "handler" })?;
    let bench = Bench::new(dir, agent, archive)?;
    for number in 1..=count {
        let start = Instant::now();
        let vm = bench.driver.boot(bench.spec(runtime)?).await?;
        let booted = start.elapsed();
        let cold = call(&*vm).await?;
        let called = start.elapsed();
        let warm = call(&*vm).await?;
        let warmed = start.elapsed();
        println!(
            "guest {number}: boot {} ms, first call {} ms ({} us in the guest), second {} ms: {}",
            booted.as_millis(),
            (called - booted).as_millis(),
            cold.phases.exec_us,
            (warmed - called).as_millis(),
            serde_json::to_string(&warm)?,
        );
        ensure!(cold.error.is_none() && warm.error.is_none(), "the function failed");
        let stopping = Instant::now();
        vm.stop().await;
        println!("guest {number}: gone after {} ms", stopping.elapsed().as_millis());
    }
    bench.finish().await
}

struct Bench {
    owner: Owner,
    slots: SlotAllocator,
    config: FirecrackerConfig,
    catalog: Arc<RuntimeCatalog>,
    driver: FirecrackerDriver,
    code_hash: CodeHash,
}

/// The one program that is called.
struct Program(Vec<u8>);

#[async_trait::async_trait]
impl CodeSource for Program {
    async fn fetch(&self, _: &CodeHash) -> std::io::Result<bytes::Bytes> {
        Ok(self.0.clone().into())
    }
}

impl Bench {
    fn new(dir: &Path, agent: &str, archive: Vec<u8>) -> anyhow::Result<Self> {
        let owner = Owner::open(&dir.join("data"))?;
        let artifacts = Artifacts::from_env(owner.data_dir());
        let programs = artifacts.firecracker()?;
        let kernel = artifacts.kernel()?;
        let agent = std::fs::read(agent).with_context(|| agent.to_owned())?;
        let initramfs = prepare_initramfs(owner.data_dir(), &agent, &kernel)?;
        let config = FirecrackerConfig {
            owner: owner.clone(),
            firecracker: programs.firecracker,
            jailer: programs.jailer,
            kernel: kernel.vmlinux,
            initramfs,
            boot_timeout: BOOT_TIMEOUT,
            api_timeout: BOOT_TIMEOUT,
        };
        let space = SlotSpace::new(AddressRange::default(), 15).context("no such lease")?;
        let slots = SlotAllocator::new(space);
        let code_hash = CodeHash::of(&archive);
        let code = Arc::new(CodeImages::new(dir.join("data/code"), Arc::new(Program(archive)))?);
        let catalog = Arc::new(RuntimeCatalog::open(artifacts)?);
        let driver = FirecrackerDriver::new(
            config.clone(),
            slots.clone(),
            None,
            Arc::clone(&catalog),
            code,
        )?;
        Ok(Self { owner, slots, config, catalog, driver, code_hash })
    }

    fn spec(&self, runtime: &str) -> anyhow::Result<VmSpec> {
        let image = self
            .catalog
            .get(&RuntimeId::parse(runtime)?)
            .with_context(|| format!("runtime {runtime} is not installed"))?;
        let command = image.commands.get(&Mode::Process).context("no process mode")?;
        let command = command.iter().map(|word| word.replace("{handler}", "handler")).collect();
        Ok(VmSpec {
            id: VmId::from_random(rand::random()),
            function: FunctionName::parse("example")?,
            image_digest: image.digest,
            code_hash: self.code_hash.clone(),
            memory_mb: 128,
            limits: Limits::default(),
            network: NetworkPolicy::None,
            setup: FunctionSetup {
                name: "example".into(),
                version: "1".into(),
                mode: Mode::Process,
                command,
                env: image.env,
                secrets: Vec::new(),
                memory_mb: 128,
                tmp_mb: 0,
                instance_concurrency: 1,
            },
        })
    }

    /// Checks that nothing of any guest is left.
    async fn finish(self) -> anyhow::Result<()> {
        self.driver.shutdown().await;
        let group = Cgroups::detect()?.group(self.owner.cgroup_name());
        ensure!(!group.exists(), "cgroup {} is left", group.name());
        ensure!(!self.owner.jail_base().exists(), "the directory of jails is left");
        println!("nothing is left");
        Ok(())
    }
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
