//! Everything that one container has on the host, as a value that removes itself.
//!
//! All names follow from the guest's id, and every step is content to find nothing, so the same
//! removal serves a boot that failed at any step, an orderly stop, and a dropped guest. A step that
//! fails does not keep the next from being tried, and is tried again itself. What is dropped while the daemon's runtime itself
//! ends is left to the reconciler of the next start.
use super::Host;
use super::oci_runtime::{kill_group, pid_file};
use super::process::read_pid;
use crate::VmId;
use crate::cgroup::Group;
use crate::images::code::CodeImage;
use crate::network::NetworkSlot;
use crate::slots::Slot;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

/// How long a runtime that is still at work may go on before it is killed: ten times what it needs.
/// Letting it finish is cleaner, its half-made containers are hard to tell from none.
const RUNTIME_FINISH_WITHIN: Duration = Duration::from_secs(2);

/// How often the removal of a guest is tried, and the pause between two tries: what fails for lack of
/// something (open files, memory, disk) works a few seconds later.
const REMOVAL_ATTEMPTS: u32 = 6;
const REMOVAL_PAUSE: Duration = Duration::from_secs(2);

/// A guest's share of the host's identities.
#[derive(Debug)]
pub(super) enum Identity {
    /// With a network.
    Network(NetworkSlot),
    /// For a guest without one.
    Slot(Slot),
}

impl Identity {
    pub fn slot(&self) -> &Slot {
        match self {
            Identity::Network(network) => network.slot(),
            Identity::Slot(slot) => slot,
        }
    }
}

/// What there is of a guest. Dropping it removes all in the background.
#[derive(Debug)]
pub(super) struct Remains {
    inner: Option<Inner>,
    host: Arc<Host>,
    handle: Handle,
}

#[derive(Debug)]
struct Inner {
    id: String,
    cgroup: Group,
    directory: PathBuf,
    identity: Option<Identity>,
    /// What is mounted at `/code` and `/opt`.
    code: [Option<Arc<CodeImage>>; 2],
    /// A step on a blocking thread, which goes on even if nobody waits for it.
    step: Option<JoinHandle<()>>,
    /// The OCI runtime at work.
    runtime: Option<Child>,
}

impl Remains {
    /// For a guest of which there is nothing yet. Must be called within a tokio runtime.
    pub fn new(host: &Arc<Host>, vm: &VmId) -> Self {
        let inner = Inner {
            id: host.owner.container_id(vm),
            cgroup: host.cgroups.group(format!("{}/{vm}", host.owner.cgroup_name())),
            directory: host.owner.vm_dir(vm),
            identity: None,
            code: [None, None],
            step: None,
            runtime: None,
        };
        Self { inner: Some(inner), host: Arc::clone(host), handle: Handle::current() }
    }

    fn inner(&mut self) -> &mut Inner {
        // Taken only by `clear` and `drop`, which have the value for themselves.
        self.inner.as_mut().expect("the remains of a guest were used after they were cleared")
    }

    /// The container's id.
    pub fn id(&mut self) -> &str {
        &self.inner().id
    }

    /// The guest's cgroup.
    pub fn cgroup(&mut self) -> &Group {
        &self.inner().cgroup
    }

    /// The guest's own directory.
    pub fn directory(&mut self) -> PathBuf {
        self.inner().directory.clone()
    }

    /// Takes over a slot; it is given back when all else is gone.
    pub fn hold(&mut self, identity: Identity) {
        self.inner().identity = Some(identity);
    }

    /// Keeps code and layers on disk until the guest is gone.
    pub fn hold_code(&mut self, code: [Option<Arc<CodeImage>>; 2]) {
        self.inner().code = code;
    }

    /// Runs file work on a blocking thread. Removal waits for its end even if the caller leaves.
    pub async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = tokio::sync::oneshot::channel();
        self.inner().step = Some(spawn_blocking(move || {
            // The caller may have left; removal does not need the result.
            let _ = done.send(work());
        }));
        let result = result.await.ok();
        self.inner().step = None;
        result
    }

    /// Waits for the OCI runtime to end. Removal waits for it too, if the caller leaves.
    pub async fn run(&mut self, runtime: Child) -> std::io::Result<std::process::ExitStatus> {
        let status = self.inner().runtime.insert(runtime).wait().await;
        self.inner().runtime = None;
        status
    }

    /// Removes everything; returns when it is gone. Goes on if the caller leaves.
    pub async fn clear(mut self) {
        if let Some(task) = self.start_clearing() {
            // It fails only with the runtime's own end.
            let _ = task.await;
        }
    }

    fn start_clearing(&mut self) -> Option<JoinHandle<()>> {
        let inner = self.inner.take()?;
        Some(self.host.tasks.spawn_on(inner.clear(Arc::clone(&self.host)), &self.handle))
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        self.start_clearing();
    }
}

impl Inner {
    async fn clear(mut self, host: Arc<Host>) {
        if let Some(step) = self.step.take() {
            let _ = step.await;
        }
        if let Some(runtime) = &mut self.runtime
            && timeout(RUNTIME_FINISH_WITHIN, runtime.wait()).await.is_err()
        {
            kill_group(runtime).await;
        }
        let id = self.id.clone();
        let report = |what: &str, problem: &dyn Display| {
            tracing::error!(container = id, "cannot remove {what}: {problem}");
        };
        for attempt in 1..=REMOVAL_ATTEMPTS {
            let problems = self.remove(&host).await;
            if problems.is_empty() {
                return;
            }
            for (what, problem) in problems {
                report(what, &problem);
            }
            if attempt < REMOVAL_ATTEMPTS {
                sleep(REMOVAL_PAUSE).await;
            }
        }
        // Uids and address of what cannot be removed must not go to another guest. The next start
        // tries again.
        std::mem::forget(self.identity.take());
    }

    /// Tries every step once; what failed, and why. The slot is given back when nothing did.
    async fn remove(&mut self, host: &Host) -> Vec<(&'static str, String)> {
        let (cgroup, pid_file) = (self.cgroup.clone(), pid_file(&self.directory));
        let kill = move || cgroup.kill().inspect(|()| cgroup.reap(read_pid(&pid_file).ok()));
        let killed = flat(spawn_blocking(kill).await);
        let deleted = host.runtime.delete(&self.id).await.map_err(|error| error.to_string());
        let cgroup = self.cgroup.clone();
        let ungrouped = flat(spawn_blocking(move || cgroup.remove()).await);
        let directory = self.directory.clone();
        let emptied = flat(spawn_blocking(move || remove_directory(&directory)).await);
        let steps = [
            ("its processes", killed),
            ("its state", deleted),
            ("its cgroup", ungrouped),
            ("its directory", emptied),
        ];
        let problems: Vec<_> =
            steps.into_iter().filter_map(|(what, step)| Some((what, step.err()?))).collect();
        if problems.is_empty() {
            self.identity = None;
        }
        problems
    }
}

fn flat<E: Display>(result: Result<Result<(), E>, tokio::task::JoinError>) -> Result<(), String> {
    match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn remove_directory(directory: &std::path::Path) -> Result<(), String> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
        Ok(()) | Err(_) => Ok(()),
    }
}
