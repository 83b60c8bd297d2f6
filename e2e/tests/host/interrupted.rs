//! A signal, or a crash, while a probe guest boots: nothing of that guest stays behind.
use crate::scratch;
use nova_e2e::daemon::{DaemonOptions, guests, traces};
use nova_e2e::{eventually, setting};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A doctor whose probe guest is booting.
struct Doctor {
    child: Child,
    /// The data directory of the guest, and the id that names what it has.
    directory: PathBuf,
    id: String,
}

impl Doctor {
    async fn at_work(home: &Path) -> Self {
        let start = || {
            let mut command = doctor(home, "auto");
            command.env("NOVA_PROBE_TIMEOUT", "60s").stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let before = directories(home);
        let mut child = start();
        let (directory, id) = eventually("a probe guest boots", async || {
            if child.try_wait().unwrap().is_some() {
                // Where guests boot in no time, one may be missed.
                child = start();
            }
            let directory = directories(home).into_iter().find(|one| !before.contains(one))?;
            let id = std::fs::read_to_string(directory.join("daemon-id")).ok()?.trim().to_owned();
            (!guests(&id).is_empty()).then_some((directory, id))
        })
        .await;
        Self { child, directory, id }
    }

    /// Ends it by a signal. Returns its exit code, or the signal where that ended it at once.
    fn signal(&mut self, signal: &str) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        status.code().or(status.signal()).unwrap()
    }
}

fn doctor(home: &Path, backend: &str) -> Command {
    let mut command = Command::new(setting("NOVA_BIN"));
    command.args(["doctor", "--json", "--backend", backend, "--data-dir"]).arg(home.join("data"));
    command
}

/// The data directories of doctors' guests.
fn directories(home: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains("/.doctor-")).collect()
}

#[tokio::test]
async fn a_doctor_that_is_told_to_end_takes_its_guest_along() {
    let home = scratch();
    let mut doctor = Doctor::at_work(home.path()).await;
    assert_eq!(doctor.signal("-HUP"), 129);
    assert_eq!(guests(&doctor.id), [0; 0]);
    assert_eq!(traces(&doctor.id, &doctor.directory), [""; 0]);
    assert!(directories(home.path()).is_empty());
}

#[tokio::test]
async fn what_a_killed_doctor_left_is_removed_by_the_next_and_a_living_one_is_untouched() {
    let home = scratch();
    let mut killed = Doctor::at_work(home.path()).await;
    assert_eq!(killed.signal("-KILL"), 9);
    assert!(!guests(&killed.id).is_empty(), "its guest outlives it");

    let mut living = Doctor::at_work(home.path()).await;
    assert_eq!(guests(&killed.id), [0; 0]);
    assert_eq!(traces(&killed.id, &killed.directory), [""; 0]);
    assert!(!killed.directory.exists());

    let Output { stdout, .. } = doctor(home.path(), "container").output().unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
    let findings = findings["findings"].as_array().unwrap();
    let leftovers = findings.iter().find(|finding| finding["check"] == "leftovers").unwrap();
    assert_eq!(leftovers["detail"], "no guest of an interrupted doctor", "{leftovers}");
    // Where guests boot in no time it may have ended by now, well.
    if living.child.try_wait().unwrap().is_none() {
        assert!(!guests(&living.id).is_empty(), "a living doctor keeps its guest");
        assert_eq!(living.signal("-INT"), 130);
    }
    assert_eq!(traces(&living.id, &living.directory), [""; 0]);
    assert!(directories(home.path()).is_empty());
}

#[tokio::test]
async fn a_daemon_that_is_told_to_end_while_its_probe_guest_boots_takes_that_along() {
    let home = scratch();
    let data = home.path().join("data");
    let options = DaemonOptions {
        backend: Some("auto"),
        environment: &[("NOVA_PROBE_TIMEOUT", "60s")],
        ..DaemonOptions::new(&data)
    };
    let mut daemon = options.command().spawn().unwrap();
    let id = eventually("a probe guest boots", async || {
        if daemon.try_wait().unwrap().is_some() {
            panic!("the daemon ended by itself");
        }
        let id = std::fs::read_to_string(data.join("daemon-id")).ok()?.trim().to_owned();
        // Where guests boot in no time, the one that is told to end may be serving already.
        (!guests(&id).is_empty() || data.join("probe.json").exists()).then_some(id)
    })
    .await;
    let pid = daemon.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(daemon.wait().unwrap().success());
    assert_eq!(guests(&id), [0; 0]);
    assert_eq!(traces(&id, &data), [""; 0]);
    assert!(!data.join("run/jail").exists());
    assert!(!data.join("daemon.pid").exists(), "nothing says that a daemon runs");
    let log = std::fs::read_to_string(data.with_extension("log")).unwrap();
    let probed = data.join("probe.json").exists();
    assert!(probed || log.contains("the start was interrupted"), "{log}");
}
