//! What one VM has on the host, and how it goes away.
//!
//! Everything a boot makes is put into [`Belongings`] the moment it exists, so that there is one way
//! out for a boot that fails, a boot whose caller left, a guest that died and one that is stopped:
//! dropping the value. Removal takes time (a process has to die), so it runs as a task of its own,
//! in this order:
//!
//! ```text
//! kill the VMM ─▶ wait until it is reaped ─▶ cgroups ─▶ jail ─▶ network slot, uid
//! ```
//!
//! Each step runs whatever became of the one before it, and what failed is logged. Only the slot is
//! kept back if the process would not die: its uid and address must not be given out again.
use super::jail::Jail;
use super::vmm::Vmm;
use crate::cgroup::Group;
use crate::network::NetworkSlot;
use crate::slots::Slot;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// How long a killed VMM may take to be gone. Freeing tens of gigabytes takes seconds; a process
/// that is still there after this hangs in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// A VM's slot, with a network around it or without.
#[derive(Debug)]
pub(crate) enum Place {
    /// Network policy `none`: uids only.
    Alone(Slot),
    /// A namespace of its own.
    Networked(NetworkSlot),
}

impl Place {
    pub(crate) fn slot(&self) -> &Slot {
        match self {
            Place::Alone(slot) => slot,
            Place::Networked(network) => network.slot(),
        }
    }
}

/// All that a VM has on the host. Dropping it starts the removal.
#[derive(Debug)]
pub(crate) struct Belongings {
    // `None` only while being dropped.
    things: Option<Things>,
    tasks: TaskTracker,
    runtime: Handle,
}

#[derive(Debug)]
pub(crate) struct Things {
    pub(crate) id: String,
    pub(crate) place: Place,
    pub(crate) jail: Option<Jail>,
    pub(crate) cgroup: Group,
    pub(crate) vmm: Option<Vmm>,
    gone: watch::Sender<()>,
}

/// Tells when the belongings of a VM are gone.
#[derive(Debug, Clone)]
pub(crate) struct Gone(watch::Receiver<()>);

impl Gone {
    /// Resolves when the removal has ended.
    pub(crate) async fn wait(mut self) {
        // Nothing is ever sent: the sender is dropped at the end.
        while self.0.changed().await.is_ok() {}
    }
}

impl Belongings {
    /// Starts with a place and the name of the cgroup that the jailer will make. Must be called
    /// within a tokio runtime; the removal is one of `tasks`.
    pub(crate) fn new(id: String, place: Place, cgroup: Group, tasks: TaskTracker) -> (Self, Gone) {
        let (gone, receiver) = watch::channel(());
        let things = Things { id, place, jail: None, cgroup, vmm: None, gone };
        (Self { things: Some(things), tasks, runtime: Handle::current() }, Gone(receiver))
    }
}

impl std::ops::Deref for Belongings {
    type Target = Things;

    fn deref(&self) -> &Things {
        self.things.as_ref().expect("only drop takes them")
    }
}

impl std::ops::DerefMut for Belongings {
    fn deref_mut(&mut self) -> &mut Things {
        self.things.as_mut().expect("only drop takes them")
    }
}

impl Drop for Belongings {
    fn drop(&mut self) {
        if let Some(things) = self.things.take() {
            self.tasks.spawn_on(things.remove(), &self.runtime);
        }
    }
}

impl Things {
    async fn remove(self) {
        let Self { id, place, jail, cgroup, vmm, gone } = self;
        let is_dead = match vmm {
            Some(mut vmm) => {
                vmm.kill();
                tokio::time::timeout(KILL_TIMEOUT, vmm.exited()).await.is_ok()
            }
            None => true,
        };
        if !is_dead {
            tracing::error!(vm = id, "the virtual machine monitor does not die; its slot is kept");
        }
        let vm = id.clone();
        let files = tokio::task::spawn_blocking(move || {
            if let Err(error) = cgroup.kill() {
                tracing::error!(vm, %error, "cannot end what is left in a cgroup");
            }
            if let Err(error) = cgroup.remove() {
                tracing::error!(vm, %error, "cannot remove a cgroup");
            }
            if let Some(Err(error)) = jail.map(|jail| jail.remove()) {
                tracing::error!(vm, %error, "cannot remove a jail");
            }
        });
        if let Err(error) = files.await {
            tracing::error!(vm = id, %error, "removing cgroup and jail was cut short");
        }
        if is_dead {
            drop(place);
        } else {
            std::mem::forget(place);
        }
        drop(gone);
    }
}
