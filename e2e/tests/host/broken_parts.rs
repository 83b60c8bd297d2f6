//! A boot that fails says what is broken and leaves nothing behind.
use crate::{call, create, scratch};
use nova_e2e::daemon::{Daemon, DaemonOptions, traces};
use nova_e2e::{eventually, setting};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Networks without a guest that a daemon keeps ready: `NETWORK_STOCK` in nova-vm.
const NETWORKS_READY: usize = 8;

/// A copy of the artefacts (as links), so that a test can break one of them.
fn artifacts_copy(into: &Path) -> PathBuf {
    let copy = into.join("artifacts");
    let status = std::process::Command::new("cp")
        .args(["-rs", &setting("NOVA_ARTIFACTS")])
        .arg(&copy)
        .status()
        .unwrap();
    assert!(status.success());
    copy
}

fn replace(file: &Path, content: &[u8]) {
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, content).unwrap();
}

fn python_image(artifacts: &Path) -> PathBuf {
    let record = std::fs::read(artifacts.join("images/python.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let digest =
        record["image"]["digest"].as_str().or(record["digest"].as_str()).unwrap().to_owned();
    artifacts.join("images").join(format!("{digest}.erofs"))
}

async fn start(data: &Path, artifacts: &Path, more: &[(&str, &str)]) -> Daemon {
    let mut environment = vec![("NOVA_ARTIFACTS", artifacts.to_str().unwrap())];
    environment.extend(more);
    let daemon =
        DaemonOptions { environment: &environment, ..DaemonOptions::new(data) }.start().await;
    // Before anything breaks: a create looks again at what is installed.
    create(&daemon, "f", "print(1)", json!({"timeout_s": 60})).await;
    daemon
}

/// Calls the function, which cannot boot; the answer must hold `quoted`, and no VM may stay.
async fn boot_fails(daemon: Daemon, data: &Path, quoted: &str) {
    let id = daemon.id();
    let fail = async || {
        let answer = daemon.nova.post("/functions/f/invoke", &json!({})).await;
        let problem = answer.problem(503, "boot_failed");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.to_lowercase().contains(quoted), "{detail:?} does not say {quoted:?}");
    };
    fail().await;
    // After the first call: it also makes what the daemon keeps for all guests, such as control groups.
    let before = traces(&id, data);
    fail().await;
    eventually("no VM is left", async || {
        (daemon.nova.get("/stats").await.ok()["active_vms"] == 0).then_some(())
    })
    .await;
    assert_eq!(vm_directories(data), [""; 0]);
    eventually("on the living daemon everything is as before the call", async || {
        let (ready, others): (Vec<_>, Vec<_>) =
            traces(&id, data).into_iter().partition(|trace| trace.starts_with("namespace"));
        // Networks are made ahead of time, so others than before may be ready, but not more.
        let of_a_network = |trace: &str| trace.starts_with("link") || trace.contains("/run/netns/");
        let new = others.iter().find(|trace| !of_a_network(trace) && !before.contains(trace));
        (ready.len() <= NETWORKS_READY && new.is_none()).then_some(())
    })
    .await;
    assert!(daemon.terminate().success());
    assert_eq!(traces(&id, data), [""; 0]);
}

/// What is left of VMs below the data directory: a container's files, or a microVM's jail.
fn vm_directories(data: &Path) -> Vec<String> {
    let jails = data.join("run/jail/firecracker");
    let entries = [data.join("run/vms"), jails].map(std::fs::read_dir).into_iter().flatten();
    let names = entries.flatten().flatten().map(|entry| entry.file_name());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_damaged_image() {
    let home = scratch();
    let artifacts = artifacts_copy(home.path());
    let data = home.path().join("data");
    let daemon = start(&data, &artifacts, &[("NOVA_BOOT_TIMEOUT", "60s")]).await;
    replace(&python_image(&artifacts), b"not a file system");
    boot_fails(daemon, &data, "image").await;
}

#[tokio::test]
async fn a_missing_image() {
    let home = scratch();
    let artifacts = artifacts_copy(home.path());
    let data = home.path().join("data");
    let daemon = start(&data, &artifacts, &[]).await;
    std::fs::remove_file(python_image(&artifacts)).unwrap();
    boot_fails(daemon, &data, "nova runtime add").await;
}

#[tokio::test]
async fn a_log_on_a_full_disk() {
    let home = scratch();
    let artifacts = artifacts_copy(home.path());
    let data = home.path().join("data");
    // Where the daemon's log goes.
    std::os::unix::fs::symlink("/dev/full", data.with_extension("log")).unwrap();
    let daemon = start(&data, &artifacts, &[]).await;
    std::fs::remove_file(python_image(&artifacts)).unwrap();
    boot_fails(daemon, &data, "nova runtime add").await;
}

#[tokio::test]
async fn a_broken_runtime_program() {
    let home = scratch();
    let data = home.path().join("data");
    let artifacts = artifacts_copy(home.path());
    if setting("NOVA_E2E_BACKEND") == "firecracker" {
        let daemon = start(&data, &artifacts, &[("NOVA_BOOT_TIMEOUT", "20s")]).await;
        replace(&artifacts.join("kernel/vmlinux"), b"not a kernel");
        boot_fails(daemon, &data, "kernel").await;
    } else {
        let broken = home.path().join("runc");
        std::fs::write(&broken, "#!/bin/sh\necho 'no containers today' >&2\nexit 1\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&broken, mode).unwrap();
        let runtime = [("NOVA_OCI_RUNTIME", broken.to_str().unwrap())];
        let daemon = start(&data, &artifacts, &runtime).await;
        boot_fails(daemon, &data, "no containers today").await;
    }
}

#[tokio::test]
async fn a_full_disk() {
    let home = scratch();
    let disk = SmallDisk::mount(&home.path().join("small"));
    let mount = &disk.0;
    let data = mount.join("data");
    let daemon = DaemonOptions::new(&data).start().await;
    create(&daemon, "f", "print(1)", json!({})).await;
    let filler = mount.join("filler");
    let full = std::process::Command::new("dd")
        .args(["if=/dev/zero", &format!("of={}", filler.display()), "bs=64k"])
        .output()
        .unwrap();
    assert!(!full.status.success(), "the disk is full");
    let ready = daemon.nova.get("/health/ready").await;
    assert_eq!(ready.status.as_u16(), 503, "who balances load is told");
    let answer = daemon.nova.post("/functions/f/invoke", &json!({})).await;
    let problem = answer.problem(503, "boot_failed");
    assert!(problem["detail"].as_str().unwrap().contains("space"), "{problem}");
    for n in 0..5 {
        // What is written while there is no room fails; that must not last longer than the lack.
        daemon.nova.patch("/functions/f", &json!({"description": format!("{n}")})).await;
        daemon.nova.post("/functions/f/invoke", &json!({})).await;
    }
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(call(&daemon, "f", json!({})).await, 1, "with room again, calls work again");
    for n in 0..5 {
        create(&daemon, &format!("after-{n}"), "print(1)", json!({})).await;
    }
    eventually("the calls made meanwhile are recorded", async || {
        let records = daemon.nova.get("/invocations?function=f").await.ok();
        (records["items"].as_array()?.len() >= 7).then_some(())
    })
    .await;
    let id = daemon.id();
    assert!(daemon.terminate().success());
    let left: Vec<_> = traces(&id, &data)
        .into_iter()
        .filter(|trace| !trace.starts_with("mount") || !trace.contains(mount.to_str().unwrap()))
        .collect();
    assert_eq!(left, [""; 0]);
}

/// A disk with room for what a microVM's jail needs copied, and little more. Unmounted when dropped,
/// which a daemon that a failing test leaves must not prevent: it is detached.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Self {
        std::fs::create_dir(path).unwrap();
        let arguments = ["-t", "tmpfs", "-o", "size=256m", "tmpfs"];
        let status = std::process::Command::new("mount").args(arguments).arg(path).status();
        assert!(status.unwrap().success(), "mount {}", path.display());
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
