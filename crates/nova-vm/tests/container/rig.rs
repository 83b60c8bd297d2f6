//! What the tests share: a daemon's worth of driver, and eyes for what it leaves.
use async_trait::async_trait;
use bytes::Bytes;
use nova_domain::{
    CodeHash, FunctionName, Limits, LogLine, Mode, NetworkPolicy, RequestId, RuntimeId,
    RuntimeImage,
};
use nova_proto::{ExecReport, FunctionSetup};
use nova_vm::cgroup::Cgroups;
use nova_vm::container::{ContainerConfig, ContainerDriver, reconcile};
use nova_vm::images::code::{CodeImages, UploadKind, canonicalise};
use nova_vm::images::{Artifacts, RuntimeCatalog};
use nova_vm::lease::Lease;
use nova_vm::owner::Owner;
use nova_vm::slots::{AddressRange, SlotAllocator};
use nova_vm::{BootError, CodeSource, ExecError, ExecRequest, MicroVm, VmDriver, VmId, VmSpec};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Digest that the image is known by; nothing checks it against the content.
const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// Long enough for a boot on a machine that is busy with other tests.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether these tests can run here. Says so loudly where not, and fails where they must.
pub fn possible() -> bool {
    let root = Command::new("/usr/bin/id").arg("-u").output().unwrap().stdout == b"0\n";
    let runtime = oci_runtime().is_file();
    if root && runtime && base_image().is_some() {
        return true;
    }
    let why = format!(
        "container driver tests need root (is: {root}), an OCI runtime (is there: {runtime}) and the runtime \
         `base`, which `make images` installs (is there: {})",
        base_image().is_some()
    );
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
    false
}

/// The OCI runtime to test with: `NOVA_OCI_RUNTIME`, as the daemon has it, or the default.
pub fn oci_runtime() -> PathBuf {
    std::env::var_os("NOVA_OCI_RUNTIME").map_or_else(|| "/usr/bin/runc".into(), PathBuf::from)
}

/// The file of the runtime image `base`, from `NOVA_ARTIFACTS` or where `make images` puts it.
fn base_image() -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache");
    let catalog = RuntimeCatalog::open(Artifacts::from_env(&cache)).unwrap();
    catalog.image_path(&catalog.get(&RuntimeId::parse("base").unwrap())?.digest)
}

/// The static agent: from `NOVA_AGENT`, or the newest of where `make build` and cargo put it.
fn agent() -> PathBuf {
    // <target>/debug/deps/<this program>
    let this = std::env::current_exe().unwrap();
    let target = this.ancestors().nth(3).unwrap();
    let built = [
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bin/nova-agent"),
        target.join("x86_64-unknown-linux-gnu/agent/nova-agent"),
    ];
    let modified = |path: &PathBuf| path.metadata().and_then(|about| about.modified()).ok();
    let newest = built.into_iter().filter(|path| path.is_file()).max_by_key(modified);
    let chosen = std::env::var_os("NOVA_AGENT").map(PathBuf::from).or(newest);
    chosen.expect("no agent: run `make build` first, or set NOVA_AGENT")
}

/// Code by hash, in memory.
struct Codes {
    archives: Mutex<HashMap<CodeHash, Bytes>>,
    takes: Duration,
}

#[async_trait]
impl CodeSource for Codes {
    async fn fetch(&self, hash: &CodeHash) -> std::io::Result<Bytes> {
        tokio::time::sleep(self.takes).await;
        let found = self.archives.lock().unwrap().get(hash).cloned();
        found.ok_or_else(|| std::io::Error::other("no such code"))
    }
}

/// A daemon's worth of driver.
pub struct Rig {
    pub owner: Owner,
    pub driver: Arc<ContainerDriver>,
    codes: Arc<Codes>,
    _lease: Lease,
    _directory: TempDir,
}

/// What a test may want different.
pub struct Setup {
    pub runtime: PathBuf,
    pub agent: PathBuf,
    pub boot_timeout: Duration,
    /// How long it takes to get code.
    pub code_takes: Duration,
    /// Content of the image's file; the runtime `base` if there is none.
    pub image: Option<Vec<u8>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            runtime: oci_runtime(),
            agent: agent(),
            boot_timeout: BOOT_TIMEOUT,
            code_takes: Duration::ZERO,
            image: None,
        }
    }
}

impl Rig {
    pub fn new() -> Self {
        Self::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::in_directory(directory, setup)
    }

    pub fn in_directory(directory: TempDir, setup: Setup) -> Self {
        let data = directory.path().join("data");
        let owner = Owner::open(&data).unwrap();
        let lease = Lease::take(&owner, AddressRange::default()).unwrap();
        let images = data.join("artifacts/images");
        std::fs::create_dir_all(&images).unwrap();
        let file = images.join(format!("{DIGEST}.erofs"));
        match setup.image {
            Some(content) => std::fs::write(&file, content).unwrap(),
            None => std::os::unix::fs::symlink(base_image().unwrap(), &file).unwrap(),
        }
        let record = RuntimeImage {
            id: RuntimeId::parse("test").unwrap(),
            version: "1".into(),
            digest: DIGEST.into(),
            size: file.metadata().unwrap().len(),
            commands: BTreeMap::new(),
            extension: None,
            env: BTreeMap::new(),
            memory_min_mb: 0,
            own: None,
        };
        std::fs::write(images.join("test.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        let catalog = RuntimeCatalog::open(Artifacts::new(&data, None, None)).unwrap();
        let codes = Arc::new(Codes { archives: Mutex::default(), takes: setup.code_takes });
        let code = CodeImages::new(data.join("code"), Arc::clone(&codes) as _).unwrap();
        let config = ContainerConfig {
            owner: owner.clone(),
            runtime: setup.runtime,
            agent: setup.agent,
            boot_timeout: setup.boot_timeout,
        };
        let slots = SlotAllocator::new(lease.space());
        let driver =
            ContainerDriver::new(config, slots, None, Arc::new(catalog), Arc::new(code)).unwrap();
        Self { owner, driver: Arc::new(driver), codes, _lease: lease, _directory: directory }
    }

    /// A guest for a shell script: `$1` is the input's file, stdout the result.
    pub fn spec(&self, script: &str) -> VmSpec {
        self.spec_in(Mode::Process, script)
    }

    /// A guest for a shell script that answers line by line.
    pub fn persistent(&self, script: &str) -> VmSpec {
        self.spec_in(Mode::Persistent, script)
    }

    fn spec_in(&self, mode: Mode, script: &str) -> VmSpec {
        let upload = format!("#!/bin/sh\n{script}\n");
        let kind = UploadKind::Inline { handler: "handler" };
        let archive = canonicalise(upload.as_bytes(), kind).unwrap();
        let code_hash = CodeHash::of(&archive);
        self.codes.archives.lock().unwrap().insert(code_hash.clone(), archive.into());
        let mut command = vec!["/bin/sh".to_owned(), "/code/handler".to_owned()];
        if mode == Mode::Process {
            command.push("{input}".into());
        }
        VmSpec {
            id: VmId::from_random(rand::random()),
            function: FunctionName::parse("test").unwrap(),
            image_digest: DIGEST.into(),
            code_hash,
            layers_hash: None,
            memory_mb: 64,
            limits: Limits { tmp_mb: 8, ..Limits::default() },
            network: NetworkPolicy::None,
            setup: FunctionSetup {
                name: "test".into(),
                version: "1".into(),
                mode,
                handler: "handler".into(),
                command,
                env: BTreeMap::from([("PATH".into(), "/bin".into())]),
                secrets: Vec::new(),
                memory_mb: 64,
                tmp_mb: 8,
                out_mb: 0,
                instance_concurrency: 1,
                own_image: None,
            },
        }
    }

    pub async fn boot(&self, script: &str) -> Box<dyn MicroVm> {
        self.driver.boot(self.spec(script)).await.unwrap()
    }

    pub async fn boot_fails(&self) -> BootError {
        let result = self.driver.boot(self.spec("echo 1")).await;
        result.err().expect("the boot was to fail")
    }

    /// Ends the daemon and looks at the host.
    pub async fn finish(self) {
        self.driver.shutdown().await;
        assert_eq!(self.left(), Vec::<String>::new());
    }

    /// All guests' belongings on the host; the images and cgroup that they share are not counted.
    pub fn guests_left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let cgroups = Cgroups::detect().unwrap().children(&self.owner.cgroup_name()).unwrap();
        left.extend(cgroups.into_iter().map(|name| format!("cgroup {name}")));
        for directory in [self.owner.vms_dir(), self.owner.runc_root()] {
            left.extend(entries(&directory));
        }
        left.extend(processes_with(self.owner.id6()));
        left
    }

    /// Everything that is still on the host.
    pub fn left(&self) -> Vec<String> {
        let mut left = self.guests_left();
        if Cgroups::detect().unwrap().group(self.owner.cgroup_name()).exists() {
            left.push("the owner's cgroup".into());
        }
        left.extend(
            entries(Path::new("/run")).into_iter().filter(|path| path.contains(self.owner.id6())),
        );
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let data = self.owner.data_dir().display().to_string();
        let ours = |line: &&str| line.contains(self.owner.id6()) || line.contains(&data);
        left.extend(mounts.lines().filter(ours).map(str::to_owned));
        left
    }

    /// Waits until no guest has anything on the host.
    pub async fn until_no_guests(&self) {
        let gone = async {
            // There is nothing to wait on that would cover all that is looked at.
            while !self.guests_left().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(BOOT_TIMEOUT, gone).await;
        assert!(waited.is_ok(), "still there: {:?}", self.guests_left());
    }
}

/// After a test that failed: what it left must not stay on the host.
impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let owner = self.owner.clone();
        // Not on this thread, which is within a runtime that is unwinding.
        let swept = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(reconcile(&owner, &oci_runtime()))
        });
        eprintln!("swept up after the failed test: {:?}", swept.join());
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path().display().to_string()).collect()
}

/// Processes whose command line or cgroup has this text, dead ones that nobody has reaped included.
fn processes_with(text: &str) -> Vec<String> {
    let read = |path: PathBuf| {
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    };
    let processes = entries(Path::new("/proc"));
    let numbers = processes.into_iter().filter(|path| path[6..].parse::<u32>().is_ok());
    numbers
        .filter(|path| path[6..] != std::process::id().to_string())
        .filter(|path| {
            let path = Path::new(path);
            read(path.join("cmdline")).contains(text) || read(path.join("cgroup")).contains(text)
        })
        .collect()
}

/// One call that may take half a minute.
pub async fn call(vm: &dyn MicroVm, input: &str) -> Result<ExecReport, ExecError> {
    call_within(vm, input, 30_000).await
}

pub async fn call_within(
    vm: &dyn MicroVm,
    input: &str,
    timeout_ms: u64,
) -> Result<ExecReport, ExecError> {
    let (sink, _) = mpsc::channel(1);
    vm.exec(request(input, timeout_ms), sink).await
}

/// The result of a call that succeeds.
pub async fn output(vm: &dyn MicroVm, input: &str) -> String {
    let report = call(vm, input).await.unwrap();
    match report.output {
        Some(output) => output.get().to_owned(),
        None => panic!("{:?}", report.error),
    }
}

/// A call's lines, and its report.
pub async fn call_with_logs(vm: &dyn MicroVm, input: &str) -> (ExecReport, Vec<LogLine>) {
    let (sink, mut events) = mpsc::channel(16);
    let lines = async {
        let mut lines = Vec::new();
        while let Some(line) = events.recv().await {
            lines.push(line);
        }
        lines
    };
    let (report, lines) = tokio::join!(vm.exec(request(input, 30_000), sink), lines);
    (report.unwrap(), lines)
}

pub fn request(input: &str, timeout_ms: u64) -> ExecRequest {
    ExecRequest {
        request_id: RequestId(uuid::Uuid::now_v7()),
        attempt: 1,
        timeout_ms,
        traceparent: None,
        input: RawValue::from_string(input.to_owned()).unwrap(),
    }
}
