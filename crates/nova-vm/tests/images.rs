//! Real images, made from the distribution's packages and run. Needs a package mirror, erofs-utils and
//! user namespaces; what is downloaded is kept between runs of the tests.
#![allow(clippy::unwrap_used)]
use nova_domain::{Mode, RuntimeId};
use nova_vm::images::{
    Installer, KernelChoice, Progress, RuntimeRecord, Silent, shipped_manifests,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tokio::sync::mpsc;

/// A data directory whose packages outlive the test. Tests that use the same one wait for each other.
fn data_directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("images")
}

fn id(text: &str) -> RuntimeId {
    RuntimeId::parse(text).unwrap()
}

async fn add(runtime: &str) -> RuntimeRecord {
    Installer::new(&data_directory()).add_runtime(&id(runtime), &Silent).await.unwrap()
}

/// The files of an image, unpacked by the file system's own tool.
fn unpack(record: &RuntimeRecord) -> tempfile::TempDir {
    let image = data_directory().join(format!("artifacts/images/{}.erofs", record.image.digest));
    let directory = tempfile::tempdir().unwrap();
    let extract = format!("--extract={}", directory.path().display());
    let output = Command::new("fsck.erofs").args([&extract, "--overwrite"]).arg(image).output();
    succeeded(output.unwrap());
    directory
}

/// Runs a program with an image as its root, as a user without rights.
fn run(root: &Path, program: &[&str]) -> String {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=1000", "--root"]).arg(root);
    succeeded(command.arg("--wd=/").args(program).env_clear().output().unwrap())
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the example that is shipped for a runtime's mode, with `input` as its file or its first line.
fn run_example(runtime: &str, mode: Mode, input: &str) -> String {
    let manifests = shipped_manifests().unwrap();
    let manifest = manifests.iter().find(|manifest| manifest.id == id(runtime)).unwrap();
    let record =
        fs::read(data_directory().join(format!("artifacts/images/{runtime}.json"))).unwrap();
    let root = unpack(&serde_json::from_slice(&record).unwrap());
    let handler = root.path().join("code/handler");
    fs::write(&handler, manifest.example(mode).unwrap()).unwrap();
    fs::set_permissions(&handler, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(root.path().join("tmp/input"), format!("{input}\n")).unwrap();
    let words: Vec<String> = manifest.modes[&mode]
        .command
        .iter()
        .map(|word| word.replace("{handler}", "handler").replace("{input}", "/tmp/input"))
        .collect();
    let fed = format!("exec \"$@\" < {}", "/tmp/input");
    let mut program = vec!["/bin/sh", "-c", &fed, "sh"];
    program.extend(words.iter().map(String::as_str));
    run(root.path(), &program)
}

#[tokio::test]
async fn the_same_packages_give_the_same_image_again() {
    let directory = tempfile::tempdir().unwrap();
    let installer = Installer::new(directory.path());
    let first = installer.add_runtime(&id("base"), &Silent).await.unwrap();
    installer.remove_runtime(&id("base")).await.unwrap();
    let images = directory.path().join("artifacts/images");
    assert_eq!(fs::read_dir(&images).unwrap().count(), 0, "removed with its record");
    let second = installer.add_runtime(&id("base"), &Silent).await.unwrap();
    assert_eq!(first, second);
    let left: Vec<_> = fs::read_dir(directory.path().join("artifacts"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[tokio::test]
async fn a_runtime_that_is_there_is_not_made_again() {
    let made = add("base").await;
    let path = data_directory().join("artifacts/images/base.json");
    let when = fs::metadata(&path).unwrap().modified().unwrap();
    // An alias names the same runtime.
    assert_eq!(add("go").await, made);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), when);
}

#[tokio::test]
async fn an_image_has_what_a_guest_needs_and_nothing_set_uid() {
    let record = add("base").await;
    let root = unpack(&record);
    for place in ["code", "var/task", "tmp", "run", "proc", "sys", "dev", "opt", "nova"] {
        assert!(root.path().join(place).is_dir(), "{place}");
    }
    for file in ["etc/resolv.conf", "etc/hosts"] {
        assert_eq!(fs::read(root.path().join(file)).unwrap(), b"", "{file} is there to mount over");
    }
    let certificates = fs::read_to_string(root.path().join("etc/ssl/certs/ca-certificates.crt"));
    assert!(certificates.unwrap().matches("BEGIN CERTIFICATE").count() > 100);
    assert_eq!(run(root.path(), &["/bin/id", "-un"]).trim(), "nova");
    let set_uid = run(root.path(), &["/usr/bin/find", "/usr", "-perm", "-4000"]);
    assert_eq!(set_uid, "");
    assert!(record.packages.iter().any(|package| package.starts_with("libc6=")));
}

#[tokio::test]
async fn the_examples_of_base_run_in_it() {
    add("base").await;
    let output = run_example("base", Mode::Process, r#"{"name": "Ada"}"#);
    assert_eq!(output.trim(), r#"{"message": "Hello, Ada!"}"#);
    let output = run_example("base", Mode::Persistent, r#"{"input": {"name": "Ada"}}"#);
    assert!(output.contains("Hello, Ada!"), "{output}");
}

#[tokio::test]
async fn python_has_its_standard_library_compiled_and_runs_its_examples() {
    let record = add("python3.11").await;
    assert!(record.image.version.starts_with("3.11."), "{}", record.image.version);
    let root = unpack(&record);
    let check =
        "import asyncio, bz2, ctypes, curses, decimal, http.client, json, lzma, sqlite3, ssl, uuid
import zoneinfo
assert len(ssl.create_default_context().get_ca_certs()) > 100
zoneinfo.ZoneInfo('Europe/Berlin'), uuid.uuid4()
import importlib.util
print(importlib.util.cache_from_source(json.__file__) == json.__cached__)";
    assert_eq!(run(root.path(), &["/usr/bin/python3", "-c", check]).trim(), "True");
    let compiled = root.path().join("usr/lib/python3.11/json/__pycache__/__init__.cpython-311.pyc");
    assert!(compiled.is_file(), "else every start compiles what it imports");
    let output = run_example("python", Mode::Process, r#"{"name": "Ada"}"#);
    assert_eq!(output.trim(), r#"{"message": "Hello, Ada!"}"#);
    let output = run_example("python", Mode::Persistent, r#"{"input": {"name": "Ada"}}"#);
    assert_eq!(output.trim(), r#"{"output": {"message": "Hello, Ada!", "calls": 1}}"#);
}

#[tokio::test]
async fn node_has_https_and_runs_its_examples() {
    let record = add("node").await;
    let root = unpack(&record);
    let check = "const https = require('https'), tls = require('tls');
        console.log(typeof https.get, typeof fetch, tls.rootCertificates.length > 100)";
    assert_eq!(run(root.path(), &["/usr/bin/node", "-e", check]).trim(), "function function true");
    let output = run_example("node", Mode::Process, r#"{"name": "Ada"}"#);
    assert_eq!(output.trim(), r#"{"message":"Hello, Ada!"}"#);
    let output = run_example("node", Mode::Persistent, r#"{"input": {"name": "Ada"}}"#);
    assert_eq!(output.trim(), r#"{"output":{"message":"Hello, Ada!","calls":1}}"#);
}

#[tokio::test]
async fn a_runtime_that_is_not_shipped_is_refused_with_those_that_are() {
    let data = tempfile::tempdir().unwrap();
    let installer = Installer::new(data.path());
    let error = installer.add_runtime(&id("javascript"), &Silent).await.unwrap_err().to_string();
    assert!(error.contains("`javascript`") && error.contains("base, bash, "), "{error}");
    let error = installer.remove_runtime(&id("python")).await.unwrap_err().to_string();
    assert!(error.contains("`python` is not installed"), "{error}");
}

/// Reports the steps of an installation.
struct Steps(mpsc::UnboundedSender<String>);

impl Progress for Steps {
    fn step(&self, what: &str) {
        self.0.send(what.to_owned()).unwrap();
    }

    fn percent(&self, percent: f32) {
        assert!((0.0..=100.0).contains(&percent), "{percent}");
    }
}

fn half_made(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("artifacts")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

#[tokio::test]
async fn an_interrupted_installation_goes_on_with_what_it_had_downloaded() {
    let data = tempfile::tempdir().unwrap();
    let installer = Installer::new(data.path());
    let (steps, mut seen) = mpsc::unbounded_channel();
    let steps = Steps(steps);
    let unpacking = async {
        while let Some(step) = seen.recv().await {
            if step.starts_with("unpacking") {
                return;
            }
        }
    };
    let base = id("base");
    tokio::select! {
        _ = installer.add_runtime(&base, &steps) => panic!("it was not interrupted"),
        () = unpacking => {}
    }
    // As after a crash.
    fs::create_dir(data.path().join("artifacts/.making-crashed")).unwrap();
    installer.add_runtime(&id("base"), &steps).await.unwrap();
    drop(steps);
    let mut again = Vec::new();
    while let Some(step) = seen.recv().await {
        again.push(step);
    }
    assert!(again.iter().any(|step| step == "writing the image"), "{again:?}");
    assert!(!again.iter().any(|step| step.starts_with("downloading")), "{again:?}");
    assert_eq!(half_made(data.path()), [""; 0]);
}

#[tokio::test]
async fn a_daemon_that_starts_removes_what_a_crashed_installation_left() {
    let data = tempfile::tempdir().unwrap();
    let installer = Installer::new(data.path());
    installer.remove_leftovers().unwrap();
    fs::create_dir_all(data.path().join("artifacts/.making-crashed")).unwrap();
    for directory in ["artifacts/images", "artifacts/kernel", "artifacts/bin", "cache"] {
        fs::create_dir_all(data.path().join(directory)).unwrap();
    }
    let lock = fs::File::create(data.path().join("cache/lock")).unwrap();
    lock.lock().unwrap();
    installer.remove_leftovers().unwrap();
    assert_eq!(half_made(data.path()), [".making-crashed"], "somebody is still making it");
    drop(lock);
    installer.remove_leftovers().unwrap();
    assert_eq!(half_made(data.path()), [""; 0]);
}

#[tokio::test]
async fn a_damaged_download_is_found_and_fetched_again() {
    let data = tempfile::tempdir().unwrap();
    let installer = Installer::new(data.path());
    let made = installer.add_runtime(&id("base"), &Silent).await.unwrap();
    installer.remove_runtime(&id("base")).await.unwrap();
    let archives = fs::read_dir(data.path().join("cache/apt/archives")).unwrap();
    let package = archives
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("netbase_"))
        .unwrap();
    let mut bytes = fs::read(&package).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&package, bytes).unwrap();
    let error = installer.add_runtime(&id("base"), &Silent).await.unwrap_err().to_string();
    assert!(error.contains("netbase_") && error.contains("damaged"), "{error}");
    assert_eq!(half_made(data.path()), [""; 0]);
    assert_eq!(installer.add_runtime(&id("base"), &Silent).await.unwrap(), made);
}

#[tokio::test]
async fn the_guest_kernel_is_an_elf_file_with_its_modules_in_order() {
    let installer = Installer::new(&data_directory());
    let record = installer.install_kernel(KernelChoice::Pinned, &Silent).await.unwrap();
    assert!(record.pinned);
    let kernel = data_directory().join("artifacts/kernel");
    assert!(fs::read(kernel.join("vmlinux")).unwrap().starts_with(b"\x7fELF"));
    let order = fs::read_to_string(kernel.join("modules/order")).unwrap();
    let at = |module: &str| order.lines().position(|line| line == format!("{module}.ko")).unwrap();
    assert!(at("virtio") < at("virtio_blk") && at("libcrc32c") < at("erofs"), "{order}");
    assert!(
        at("failover") < at("net_failover") && at("net_failover") < at("virtio_net"),
        "{order}"
    );
    let when = fs::metadata(kernel.join("vmlinux")).unwrap().modified().unwrap();
    assert_eq!(installer.install_kernel(KernelChoice::Pinned, &Silent).await.unwrap(), record);
    assert_eq!(fs::metadata(kernel.join("vmlinux")).unwrap().modified().unwrap(), when);
}

#[tokio::test]
async fn firecracker_and_its_jailer_are_the_pinned_ones() {
    let installer = Installer::new(&data_directory());
    let record = installer.install_firecracker(None, &Silent).await.unwrap();
    assert!(record.pinned);
    for program in ["firecracker", "jailer"] {
        let path = data_directory().join("artifacts/bin").join(program);
        let printed = succeeded(Command::new(path).arg("--version").output().unwrap());
        assert!(printed.contains(&record.version), "{printed}");
    }
}
