//! Boots that fail, at each step: a clear error, and nothing left.
use crate::rig::{Rig, Setup, possible};
use nova_vm::{BootError, VmDriver};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A stand-in for the OCI runtime: a script that is given the runtime's arguments, with `$pidfile`,
/// `$bundle` and `$state` (its state directory for the container) set.
struct StandIn {
    directory: TempDir,
}

impl StandIn {
    fn new(on_run: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = format!(
            r#"#!/bin/sh
root=$2; shift 2
if [ "$1" = --log ]; then shift 2; fi
command=$1
for last; do :; done
state=$root/$last
if [ "$command" = delete ]; then /bin/rm -rf "$state"; exit 0; fi
bundle=$4 pidfile=$6
/bin/mkdir -p "$state"
{on_run}
"#
        );
        let path = directory.path().join("runtime");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("runtime")
    }
}

/// Boots with this stand-in and returns the error, after a look at what is left.
async fn boot_with(on_run: &str, boot_timeout: Duration) -> BootError {
    let stand_in = StandIn::new(on_run);
    let rig = Rig::with(Setup { runtime: stand_in.path(), boot_timeout, ..Setup::default() });
    let error = rig.boot_fails().await;
    assert_eq!(rig.guests_left(), Vec::<String>::new());
    rig.finish().await;
    error
}

const PATIENT: Duration = Duration::from_secs(60);
/// Runs out only where the stand-in hangs on purpose; enough for it to get there on a slow machine.
const IMPATIENT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_runtime_that_fails_is_quoted() {
    if !possible() {
        return;
    }
    let error = boot_with("echo 'no room for another' >&2; exit 3", PATIENT).await.to_string();
    assert!(error.contains("no room for another"), "{error}");
    assert!(error.contains("exit status: 3"), "{error}");
}

#[tokio::test]
async fn a_runtime_that_hangs_is_killed_with_its_helpers() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let note = directory.path().join("helper");
    let on_run = format!("/bin/sleep 600 & echo $! > {}; wait", note.display());
    let error = boot_with(&on_run, IMPATIENT).await;
    assert!(matches!(error, BootError::Timeout { timeout_ms: 3_000, .. }), "{error}");
    let helper = std::fs::read_to_string(note).unwrap();
    // Not even as a zombie.
    assert!(!Path::new("/proc").join(helper.trim()).exists());
}

#[tokio::test]
async fn the_time_of_a_boot_counts_from_when_its_code_is_there() {
    if !possible() {
        return;
    }
    let (boot_timeout, code_takes) = (Duration::ZERO, Duration::from_millis(20));
    let rig = Rig::with(Setup { boot_timeout, code_takes, ..Setup::default() });
    let spec = rig.spec("echo 1");
    let code = rig.owner.data_dir().join("code").join(spec.code_hash.as_str());
    let error = rig.driver.boot(spec).await.err().expect("no container starts in no time");
    assert!(matches!(error, BootError::Timeout { timeout_ms: 0, .. }), "{error}");
    assert!(code.is_dir(), "the time was up before there was a container");
    rig.finish().await;
}

#[tokio::test]
async fn a_runtime_that_writes_no_pid_or_a_wrong_one_is_named() {
    if !possible() {
        return;
    }
    for on_run in ["exit 0", "echo 0 > $pidfile", "echo -5 > $pidfile", "echo many > $pidfile"] {
        let error = boot_with(on_run, PATIENT).await.to_string();
        assert!(error.contains("the pid that the OCI runtime wrote"), "{on_run}: {error}");
    }
}

#[tokio::test]
async fn a_container_that_ends_at_once_is_quoted() {
    if !possible() {
        return;
    }
    // The container's process says why and ends; its pid stays until the runtime has written it.
    let on_run = "( echo 'agent: bad news'; /bin/sleep 0.2 ) & echo $! > $pidfile";
    let error = boot_with(on_run, PATIENT).await.to_string();
    assert!(error.contains("the container ended"), "{error}");
    assert!(error.contains("bad news"), "{error}");
}

#[tokio::test]
async fn an_agent_that_never_listens_times_out_with_its_console() {
    if !possible() {
        return;
    }
    let on_run = r#"for procs in /sys/fs/cgroup/*/$(/bin/sed -n 's/.*"cgroupsPath":"\/\([^"]*\)\/agent".*/\1/p' $bundle/config.json)/cgroup.procs; do
    [ -e $procs ] && group=$procs; done
( echo $(/bin/sh -c 'echo $PPID') > $group; echo 'still thinking'; exec /bin/sleep 600 ) &
echo $! > $pidfile"#;
    let error = boot_with(on_run, IMPATIENT).await;
    let BootError::Timeout { console, .. } = &error else { panic!("{error}") };
    assert!(console.contains("still thinking"), "{error}");
}

#[tokio::test]
async fn a_missing_agent_is_named() {
    if !possible() {
        return;
    }
    let rig = Rig::with(Setup { agent: "/nonexistent/nova-agent".into(), ..Setup::default() });
    let error = rig.boot_fails().await.to_string();
    assert!(error.contains("/nonexistent/nova-agent"), "{error}");
    assert_eq!(rig.guests_left(), Vec::<String>::new());
    rig.finish().await;
}

#[tokio::test]
async fn an_agent_that_is_no_program_is_named() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let agent = directory.path().join("agent");
    std::fs::write(&agent, "not a program").unwrap();
    std::fs::set_permissions(&agent, PermissionsExt::from_mode(0o755)).unwrap();
    let rig = Rig::with(Setup { agent, ..Setup::default() });
    let error = rig.boot_fails().await.to_string();
    assert!(error.to_lowercase().contains("exec format error"), "{error}");
    rig.finish().await;
}

#[tokio::test]
async fn a_corrupt_image_is_named() {
    if !possible() {
        return;
    }
    let rig = Rig::with(Setup { image: Some(vec![7; 8192]), ..Setup::default() });
    let error = rig.boot_fails().await;
    assert!(
        matches!(&error, BootError::Artifact { what, .. } if what.contains("image")),
        "{error}"
    );
    assert_eq!(rig.guests_left(), Vec::<String>::new());
    rig.finish().await;
}

#[tokio::test]
async fn an_image_that_is_gone_is_named() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    std::fs::remove_dir_all(rig.owner.data_dir().join("artifacts/images")).unwrap();
    let error = rig.boot_fails().await.to_string();
    assert!(error.contains("is missing"), "{error}");
    rig.finish().await;
}

#[tokio::test]
async fn an_image_without_a_mount_point_is_named() {
    if !possible() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let proc = root.path().join("proc");
    std::fs::create_dir(&proc).unwrap();
    for directory in [root.path(), &proc] {
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let file = root.path().with_extension("erofs");
    let made =
        Command::new("/usr/bin/mkfs.erofs").arg("--quiet").args([&file, root.path()]).status();
    assert!(made.unwrap().success());
    let image = Some(std::fs::read(&file).unwrap());
    std::fs::remove_file(&file).unwrap();
    let rig = Rig::with(Setup { image, ..Setup::default() });
    let error = rig.boot_fails().await.to_string();
    assert!(error.contains("/dev"), "{error}");
    assert_eq!(rig.guests_left(), Vec::<String>::new());
    rig.finish().await;
}

#[tokio::test]
async fn a_missing_runtime_is_refused_with_the_remedy() {
    if !possible() {
        return;
    }
    let stand_in = StandIn::new("exit 0");
    let rig = Rig::with(Setup { runtime: stand_in.path(), ..Setup::default() });
    std::fs::remove_file(stand_in.path()).unwrap();
    let error = rig.boot_fails().await;
    assert!(matches!(error, BootError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("install runc"), "{error}");
    rig.finish().await;
}

/// A tmpfs of one mebibyte, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
        let mounted = Command::new("/bin/mount").args(options).arg(at).status().unwrap();
        assert!(mounted.success());
        Self(at.to_owned())
    }

    fn fill(&self) {
        // Stops when there is no room; then the last page is taken too.
        let _ = std::fs::write(self.0.join("filler"), vec![0; 2 << 20]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("/bin/umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_named() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&directory.path().join("data/run"));
    let rig = Rig::in_directory(directory, Setup::default());
    disk.fill();
    let error = rig.boot_fails().await.to_string();
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(rig.guests_left(), Vec::<String>::new());
    std::fs::remove_file(rig.owner.data_dir().join("run/filler")).unwrap();
    rig.boot("echo 1").await.stop().await;
    drop(disk);
    rig.finish().await;
}
