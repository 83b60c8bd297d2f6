//! A data directory, a driver that uses the stand-in, and a look at everything a guest can leave.
use nova_domain::{CodeHash, FunctionName, Limits, NetworkPolicy, RequestId};
use nova_proto::{FunctionSetup, Mode};
use nova_vm::cgroup::Cgroups;
use nova_vm::firecracker::{FirecrackerConfig, FirecrackerDriver, probe};
use nova_vm::images::code::{CodeImages, UploadKind, canonicalise};
use nova_vm::images::{Artifacts, RuntimeCatalog};
use nova_vm::lease::Lease;
use nova_vm::network::{Attachment, Network, NetworkConfig};
use nova_vm::owner::Owner;
use nova_vm::slots::{AddressRange, SLOTS_MAX, SlotAllocator, SlotSpace};
use nova_vm::{BootError, CodeSource, ExecError, ExecRequest, MicroVm, VmDriver, VmId, VmSpec};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Long enough that only a boot that is stuck reaches it, short enough to wait for.
const BOOT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the boot's, so that the two can be told apart.
const API_TIMEOUT: Duration = Duration::from_secs(1);
/// How long removal may take that nobody waits for.
const PATIENCE: Duration = Duration::from_secs(20);

const DIGEST: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// One daemon's worth of driver, on a data directory of its own.
pub struct Bench {
    // Dropped in this order: whatever holds the data directory's lock keeps its disk mounted.
    driver: FirecrackerDriver,
    network: Option<Networked>,
    config: FirecrackerConfig,
    slots: SlotAllocator,
    owner: Sweeper,
    small: Option<SmallDisk>,
    dir: TempDir,
}

/// The real network, of a bench whose guests have one.
struct Networked {
    network: Arc<Network>,
    lease: Lease,
}

/// Cleans up when a test fails half-way.
struct Sweeper(Owner);

impl Drop for Sweeper {
    fn drop(&mut self) {
        nova_vm::firecracker::reconcile(&self.0);
    }
}

/// The same small program for any hash.
struct OneProgram;

#[async_trait::async_trait]
impl CodeSource for OneProgram {
    async fn fetch(&self, _: &CodeHash) -> std::io::Result<bytes::Bytes> {
        Ok(archive().into())
    }
}

fn archive() -> Vec<u8> {
    canonicalise(b"#!/bin/sh", UploadKind::Inline { handler: "handler" }).unwrap()
}

impl Bench {
    pub fn new(behaviour: Value) -> Self {
        let (dir, owner) = Self::data_dir();
        Self::on(&behaviour, dir, owner, None, None)
    }

    /// Its guests have a network of their own: namespace, TAP, address.
    pub async fn with_network(behaviour: Value) -> Self {
        let (dir, owner) = Self::data_dir();
        let lease = Lease::take(&owner, AddressRange::default()).unwrap();
        let config =
            NetworkConfig { attachment: Attachment::Tap, resolvers: Some(Vec::new()), stock: 1 };
        let network = Arc::new(Network::start(owner.clone(), &lease, config).await.unwrap());
        Self::on(&behaviour, dir, owner, None, Some(Networked { network, lease }))
    }

    /// The data directory's disk has room for the code, but not for a copy of the kernel.
    pub fn on_full_disk() -> Self {
        let dir = TempDir::new().unwrap();
        let disk = SmallDisk::mount(&dir.path().join("data"));
        let owner = Owner::open(&disk.0).unwrap();
        Self::on(&json!({}), dir, owner, Some(disk), None)
    }

    fn data_dir() -> (TempDir, Owner) {
        let dir = TempDir::new().unwrap();
        let owner = Owner::open(&dir.path().join("data")).unwrap();
        (dir, owner)
    }

    fn on(
        behaviour: &Value,
        dir: TempDir,
        owner: Owner,
        small: Option<SmallDisk>,
        network: Option<Networked>,
    ) -> Self {
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in/jailer");
        fs::copy(program, bin.join("jailer")).unwrap();
        fs::write(bin.join("behaviour.json"), behaviour.to_string()).unwrap();
        for file in ["firecracker", "vmlinux", "initramfs"] {
            fs::write(bin.join(file), vec![0; 256 * 1024]).unwrap();
        }
        let data_dir = owner.data_dir().to_owned();
        install_image(&data_dir.join("artifacts/images"));
        let slots = match &network {
            Some(networked) => networked.lease.slots().clone(),
            None => SlotAllocator::new(SlotSpace::new(AddressRange::default(), 15).unwrap()),
        };
        let config = FirecrackerConfig {
            owner: owner.clone(),
            firecracker: bin.join("firecracker"),
            jailer: bin.join("jailer"),
            kernel: bin.join("vmlinux"),
            initramfs: bin.join("initramfs"),
            boot_timeout: BOOT_TIMEOUT,
            api_timeout: API_TIMEOUT,
        };
        let artifacts = Artifacts::new(&data_dir, None, None);
        let driver = FirecrackerDriver::new(
            config.clone(),
            slots.clone(),
            network.as_ref().map(|networked| networked.network.clone()),
            Arc::new(RuntimeCatalog::open(artifacts).unwrap()),
            Arc::new(CodeImages::new(data_dir.join("code"), Arc::new(OneProgram)).unwrap()),
        )
        .unwrap();
        Self { driver, network, config, slots, owner: Sweeper(owner), small, dir }
    }

    pub fn owner(&self) -> &Owner {
        &self.owner.0
    }

    pub fn spec(&self) -> VmSpec {
        VmSpec {
            id: VmId::from_random(rand::random()),
            function: FunctionName::parse("hello").unwrap(),
            image_digest: DIGEST.into(),
            code_hash: CodeHash::of(&archive()),
            layers_hash: None,
            memory_mb: 128,
            limits: Limits { vcpus: 2, disk_iops: 500, ..Limits::default() },
            network: match self.network {
                Some(_) => NetworkPolicy::Egress,
                None => NetworkPolicy::None,
            },
            setup: FunctionSetup {
                name: "hello".into(),
                version: "1".into(),
                mode: Mode::Process,
                handler: "handler".into(),
                command: vec!["/code/handler".into(), "{input}".into()],
                env: Default::default(),
                secrets: vec![],
                memory_mb: 128,
                tmp_mb: 0,
                out_mb: 0,
                instance_concurrency: 1,
                own_image: None,
            },
        }
    }

    pub async fn boot(&self) -> Result<Box<dyn MicroVm>, BootError> {
        self.boot_spec(self.spec()).await
    }

    pub async fn boot_spec(&self, spec: VmSpec) -> Result<Box<dyn MicroVm>, BootError> {
        self.driver.boot(spec).await
    }

    pub async fn probe(&self, timeout: Duration) -> Result<Duration, BootError> {
        self.probe_until(timeout, &CancellationToken::new()).await
    }

    pub async fn probe_until(
        &self,
        timeout: Duration,
        interrupted: &CancellationToken,
    ) -> Result<Duration, BootError> {
        probe(self.config.clone(), &self.slots, timeout, interrupted).await
    }

    /// What the driver adds to the function's memory inside the guest: all but the VMM's share.
    pub fn guest_overhead_mb(&self) -> u32 {
        nova_vm::firecracker::GUEST_OVERHEAD_MB
    }

    /// Slots are given out in order.
    pub fn uid_of_first_slot(&self) -> u32 {
        nova_vm::slots::uid_first(15)
    }

    pub fn remove_firecracker(&self) {
        fs::remove_file(&self.config.firecracker).unwrap();
    }

    pub fn remove_jailer(&self) {
        fs::remove_file(&self.config.jailer).unwrap();
    }

    pub fn remove_image(&self) {
        let images = self.owner.0.data_dir().join("artifacts/images");
        fs::remove_file(images.join(format!("{DIGEST}.erofs"))).unwrap();
    }

    pub fn make_kernel_writable_by_all(&self) {
        fs::set_permissions(&self.config.kernel, fs::Permissions::from_mode(0o666)).unwrap();
    }

    pub fn cpu_quota_us(&self, vm: &VmId) -> u64 {
        let group = format!("{}/{vm}", self.owner.0.cgroup_name());
        let v1 = format!("/sys/fs/cgroup/cpu/{group}/cpu.cfs_quota_us");
        let v2 = format!("/sys/fs/cgroup/{group}/cpu.max");
        let text = fs::read_to_string(v1).or_else(|_| fs::read_to_string(v2)).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Kills the VMM behind the driver's back.
    pub fn kill_vmm(&self) {
        for pid in self.processes() {
            let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
            assert!(status.success());
        }
    }

    pub fn has_process_in_jail(&self) -> bool {
        let groups = Cgroups::detect().unwrap().children(&self.owner.0.cgroup_name()).unwrap();
        !groups.is_empty()
    }

    /// Processes that were started for this daemon's jails.
    fn processes(&self) -> Vec<i32> {
        let base = self.owner.0.jail_base();
        let base = base.to_str().unwrap();
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                fs::read_to_string(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.split('\0').any(|argument| argument == base))
            })
            .collect()
    }

    /// Everything of guests that is on the host now.
    fn leftovers(&self) -> Vec<String> {
        let mut found: Vec<String> =
            self.processes().iter().map(|pid| format!("process {pid}")).collect();
        let groups = Cgroups::detect().unwrap().children(&self.owner.0.cgroup_name()).unwrap();
        found.extend(groups.iter().map(|name| format!("cgroup {name}")));
        for program in fs::read_dir(self.owner.0.jail_base()).into_iter().flatten().flatten() {
            let jails = fs::read_dir(program.path()).unwrap().flatten();
            found.extend(jails.map(|jail| format!("directory {}", jail.path().display())));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let base = self.owner.0.jail_base();
        found.extend(
            mounts
                .lines()
                .filter(|line| line.contains(base.to_str().unwrap()))
                .map(|line| format!("mount {line}")),
        );
        found
    }

    pub fn assert_nothing_left(&self) {
        self.assert_nothing_left_but_slots();
        assert_eq!(self.slots.free(), usize::from(SLOTS_MAX));
    }

    pub fn assert_nothing_left_but_slots(&self) {
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }

    pub async fn until_nothing_left(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.leftovers().is_empty() || self.slots.free() != usize::from(SLOTS_MAX) {
            assert!(Instant::now() < deadline, "still there: {:?}", self.leftovers());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The end of the daemon: what all guests shared goes too.
    pub async fn finish(self) {
        self.driver.shutdown().await;
        assert!(!Cgroups::detect().unwrap().group(self.owner.0.cgroup_name()).exists());
        assert!(!self.owner.0.jail_base().exists());
        let Self { dir, small, owner, config, driver, network, slots } = self;
        if let Some(Networked { network, lease }) = network {
            // With the driver's, the last handle: what a failed boot kept of it would keep it alive.
            network.shutdown().await;
            drop((network, lease));
            assert_eq!(network_of(&owner.0), Vec::<String>::new());
        }
        drop((owner, config, driver, slots));
        drop(small);
        dir.close().unwrap();
    }
}

/// Namespaces and links with this daemon's names.
fn network_of(owner: &Owner) -> Vec<String> {
    let named = |directory: &str, prefix: String| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(move |name| name.starts_with(&prefix)).collect::<Vec<_>>()
    };
    let mut found = named("/run/netns", owner.name_prefix());
    found.extend(named("/sys/class/net", owner.link_prefix()));
    found
}

/// One call that echoes its input.
pub async fn call(vm: &dyn MicroVm) -> Result<Value, ExecError> {
    let request = ExecRequest {
        request_id: RequestId(uuid::Uuid::now_v7()),
        attempt: 1,
        timeout_ms: 10_000,
        traceparent: None,
        input: serde_json::value::to_raw_value(&json!({"n": 1})).unwrap(),
    };
    let (events, _logs) = tokio::sync::mpsc::channel(16);
    let report = vm.exec(request, events).await?;
    Ok(serde_json::from_str(report.output.unwrap().get()).unwrap())
}

fn install_image(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join(format!("{DIGEST}.erofs")), "image").unwrap();
    let record = json!({
        "id": "base", "version": "1", "digest": DIGEST, "size": 5,
        "commands": {}, "env": {}, "memory_min_mb": 64
    });
    fs::write(directory.join("base.json"), record.to_string()).unwrap();
}

/// A file system of 128 KiB. Unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        let arguments = ["-t", "tmpfs", "-o", "size=128k", "nova-test"];
        let status = Command::new("mount").args(arguments).arg(path).status().unwrap();
        assert!(status.success());
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().unwrap();
    }
}
