//! `nova doctor`, as far as it concerns the host: is everything here that guests need, and is
//! anything in the way of their speed or safety?
//!
//! Looks and tries, changes nothing: the probe guest lives in a data directory of its own for as long
//! as it takes, and what a doctor that was killed left of such a guest is removed. What is wrong comes
//! with what to do about it.
mod firecracker;
mod host;
mod leftovers;
mod settings;
mod verdict;

use crate::backend::Backend;
use crate::images::{Artifacts, RuntimeCatalog};
use crate::slots::AddressRange;
use serde::Serialize;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) use leftovers::remove_leftovers;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Nova works, but slower, less safely, or not for long.
    Warn,
    /// Nova does not work with the backend that is wanted.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked, for example `kvm`. Stable.
    pub check: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was seen.
    pub detail: String,
    /// What to do, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Display) -> Self {
        Self { check, status: Status::Ok, detail: detail.to_string(), fix: None }
    }

    fn bad(
        check: &'static str,
        status: Status,
        detail: impl Display,
        fix: impl Into<String>,
    ) -> Self {
        Self { check, status, detail: detail.to_string(), fix: Some(fix.into()) }
    }
}

/// What is to be examined: the configuration of a daemon, running or not.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Where the daemon keeps everything.
    pub data_dir: PathBuf,
    /// Which backend is wanted.
    pub backend: Backend,
    /// Where images, kernel and Firecracker are.
    pub artifacts: Artifacts,
    /// The agent's program, static.
    pub agent: &'static [u8],
    /// The OCI runtime of the container backend.
    pub oci_runtime: PathBuf,
    /// Addresses for guests.
    pub network_range: AddressRange,
    /// How long the probe guest may take.
    pub probe_timeout: Duration,
}

impl Subject {
    /// How bad it is that Firecracker cannot be used.
    fn without_firecracker(&self) -> Status {
        match self.backend {
            Backend::Firecracker => Status::Fail,
            Backend::Auto => Status::Warn,
            Backend::Container | Backend::None => Status::Ok,
        }
    }

    /// How bad it is that containers cannot be used.
    fn without_containers(&self) -> Status {
        match self.backend {
            Backend::Container => Status::Fail,
            Backend::Auto => Status::Warn,
            Backend::Firecracker | Backend::None => Status::Ok,
        }
    }

    /// How bad it is that no guest of any backend can run.
    fn without_guests(&self) -> Status {
        if self.backend == Backend::None { Status::Ok } else { Status::Fail }
    }
}

/// Runs every check, whatever the others find. Takes as long as the probe guest does. `None` when
/// `interrupted` is cancelled meanwhile, once nothing is left of that guest.
pub async fn examine(subject: &Subject, interrupted: &CancellationToken) -> Option<Vec<Finding>> {
    let leftovers = leftovers::finding(subject).await;
    let probe = firecracker::probe_guest(subject, interrupted).await;
    interrupted.run_until_cancelled(look(subject, leftovers, probe)).await
}

/// The checks that make nothing, with the two findings of those that do where they belong.
async fn look(subject: &Subject, leftovers: Finding, probe: Finding) -> Vec<Finding> {
    let mut findings = vec![host::root(subject), host::kvm(subject)];
    findings.extend(firecracker::programs(subject).await);
    findings.extend([firecracker::kernel(subject), probe, leftovers]);
    findings.push(images(subject));
    findings.push(host::oci_runtime(subject).await);
    findings.extend([
        host::cgroups(subject),
        host::namespaces(subject),
        host::network(subject).await,
        host::data_dir(subject),
        host::disk_space(subject),
    ]);
    findings.extend(host::network_obstacles(subject));
    findings.extend(settings::all());
    findings.push(verdict::backend(subject, &findings));
    findings
}

fn images(subject: &Subject) -> Finding {
    const CHECK: &str = "images";
    let fix = "run `nova runtime add python`";
    match RuntimeCatalog::open(subject.artifacts.clone()).map(|catalog| catalog.list()) {
        Ok(list) if list.is_empty() => {
            Finding::bad(CHECK, Status::Warn, "no runtime image is installed", fix)
        }
        Ok(list) => {
            let ids: Vec<&str> = list.iter().map(|image| image.id.as_str()).collect();
            Finding::ok(CHECK, ids.join(", "))
        }
        Err(error) => Finding::bad(CHECK, subject.without_guests(), error, fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(backend: Backend) -> (tempfile::TempDir, Subject) {
        let dir = tempfile::tempdir().unwrap();
        let subject = Subject {
            data_dir: dir.path().to_owned(),
            backend,
            artifacts: Artifacts::new(dir.path(), None, None),
            agent: b"",
            oci_runtime: "/nowhere/runc".into(),
            network_range: AddressRange::default(),
            probe_timeout: Duration::from_secs(1),
        };
        (dir, subject)
    }

    async fn examine_all(subject: &Subject) -> Vec<Finding> {
        examine(subject, &CancellationToken::new()).await.unwrap()
    }

    async fn finding(backend: Backend, check: &str) -> Finding {
        let (_dir, subject) = subject(backend);
        let all = examine_all(&subject).await;
        all.into_iter().find(|finding| finding.check == check).unwrap()
    }

    #[tokio::test]
    async fn what_is_missing_is_as_bad_as_the_backend_needs_it() {
        for (backend, kernel, runtime) in [
            (Backend::Firecracker, Status::Fail, Status::Ok),
            (Backend::Auto, Status::Warn, Status::Warn),
            (Backend::Container, Status::Ok, Status::Fail),
        ] {
            assert_eq!(finding(backend, "kernel").await.status, kernel);
            assert_eq!(finding(backend, "oci_runtime").await.status, runtime);
        }
    }

    #[tokio::test]
    async fn a_host_on_which_a_daemon_would_not_start_fails() {
        for backend in [Backend::Auto, Backend::Firecracker, Backend::Container] {
            assert_eq!(finding(backend, "backend").await.status, Status::Fail, "{backend}");
        }
        let (dir, mut subject) = subject(Backend::Auto);
        // Anything that can tell its version.
        subject.oci_runtime = "/bin/cat".into();
        let verdict = async || examine_all(&subject).await.pop().unwrap();
        assert_eq!((verdict().await.check, verdict().await.status), ("backend", Status::Warn));
        std::fs::write(dir.path().join("ran-firecracker"), "").unwrap();
        let refused = verdict().await;
        assert_eq!(refused.status, Status::Fail);
        assert!(refused.fix.unwrap().contains("--backend container"));
    }

    #[tokio::test]
    async fn whatever_is_wrong_comes_with_a_fix() {
        for backend in [Backend::Firecracker, Backend::Container] {
            let (_dir, subject) = subject(backend);
            for finding in examine_all(&subject).await {
                assert!(finding.status == Status::Ok || finding.fix.is_some(), "{finding:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_probe_without_firecracker_does_not_ask_for_other_hardware() {
        let probe = finding(Backend::Auto, "probe").await;
        assert_eq!(probe.fix.as_deref(), Some("run `nova setup`"), "{probe:?}");
    }

    #[tokio::test]
    async fn a_firecracker_that_could_be_newer_comes_with_all_that_is_to_be_done() {
        let (dir, mut subject) = subject(Backend::Auto);
        for program in ["firecracker", "jailer"] {
            let path = dir.path().join(program);
            std::fs::write(&path, "#!/bin/sh\necho Firecracker v1.12.1\n").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).unwrap();
        }
        subject.artifacts = Artifacts::new(dir.path(), None, Some(dir.path().to_owned()));
        let programs = firecracker::programs(&subject).await;
        assert_eq!(programs[0].status, Status::Warn, "{programs:?}");
        let fix = programs[0].fix.as_deref().unwrap();
        for part in ["1.16.1 or a newer one", "`jailer`", "nova setup --firecracker-dir DIR"] {
            assert!(fix.contains(part), "{fix}");
        }
    }

    #[tokio::test]
    async fn a_finding_is_one_flat_object() {
        let finding = finding(Backend::Firecracker, "kernel").await;
        let json = serde_json::to_value(finding).unwrap();
        assert_eq!(json["status"], "fail");
        assert!(json["fix"].as_str().unwrap().contains("nova setup"), "{json}");
    }

    #[tokio::test]
    async fn every_check_has_a_name_of_its_own() {
        let (_dir, subject) = subject(Backend::Auto);
        let all = examine_all(&subject).await;
        let names: std::collections::HashSet<_> = all.iter().map(|finding| finding.check).collect();
        assert_eq!(names.len(), all.len());
    }
}
