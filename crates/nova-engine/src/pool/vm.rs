//! The life of one VM, as one task: boot, watch, stop. The task owns the guest; leases borrow it.
use super::Pool;
use super::lease::ms;
use super::policy::{Event, VmNumber};
use crate::BootFailure;
use crate::plan::Plan;
use futures::FutureExt;
use nova_domain::FunctionName;
use nova_vm::{BootError, MicroVm, VmId};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A running guest, shared by the calls on it.
pub(super) type Guest = Arc<Box<dyn MicroVm>>;

/// What the pool's books hold of a VM, from the decision to boot it until nothing is left of it.
pub(super) struct Entry {
    pub id: VmId,
    pub function: FunctionName,
    pub boot_started: Instant,
    guest: Option<Guest>,
    stop: Option<oneshot::Sender<()>>,
}

impl Entry {
    /// A VM that is about to boot, and the end on which its task hears that it shall stop.
    pub fn new(id: VmId, function: FunctionName) -> (Self, oneshot::Receiver<()>) {
        let (stop, stopped) = oneshot::channel();
        let boot_started = Instant::now();
        (Self { id, function, boot_started, guest: None, stop: Some(stop) }, stopped)
    }

    /// The guest, once it is up.
    pub fn guest(&self) -> Option<Guest> {
        self.guest.clone()
    }

    /// Tells the task to stop the guest.
    pub fn stop(&mut self) {
        self.guest = None;
        if let Some(stop) = self.stop.take() {
            // The task listens until it hears this.
            let _ = stop.send(());
        }
    }
}

/// Boots the VM, tells the pool when it is up or has died, and stops it when the pool says so.
pub(super) async fn live(
    pool: Pool,
    number: VmNumber,
    id: VmId,
    plan: Arc<Plan>,
    mut stop: oneshot::Receiver<()>,
) {
    let function = plan.name();
    let guest: Guest = match boot(&pool, &plan, id.clone()).await {
        Ok(guest) => Arc::new(guest),
        Err(failure) => {
            match &failure {
                // Known since the start, and what every caller is told.
                BootFailure::Driver(BootError::Unavailable(_)) => {}
                failure => tracing::warn!(%function, vm = %id, %failure, "microVM did not boot"),
            }
            pool.inner.metrics.boots_failed.fetch_add(1, Ordering::Relaxed);
            gone(&pool, number, Event::BootFailed { vm: number }, Some(Arc::new(failure)));
            return;
        }
    };
    drop(plan);
    up(&pool, number, Arc::clone(&guest));
    tokio::select! {
        why = guest.died() => {
            tracing::warn!(vm = %id, why, "microVM died");
            pool.inner.metrics.vms_crashed.fetch_add(1, Ordering::Relaxed);
            pool.handle(Event::Died { vm: number });
            // An error means that the pool itself is gone, which is as good a reason.
            let _ = stop.await;
        }
        _ = &mut stop => {}
    }
    // The pool stops a VM when no call holds it, so this is the only reference.
    match Arc::try_unwrap(guest) {
        Ok(guest) => {
            if AssertUnwindSafe(guest.stop()).catch_unwind().await.is_err() {
                tracing::error!(vm = %id, "the driver panicked while stopping a microVM");
            }
        }
        Err(_) => tracing::error!(vm = %id, "a microVM was to be stopped while it was in use"),
    }
    gone(&pool, number, Event::Stopped { vm: number }, None);
}

async fn boot(pool: &Pool, plan: &Plan, id: VmId) -> Result<Box<dyn MicroVm>, BootFailure> {
    let started = Instant::now();
    let boot = async {
        let spec = plan.spec(id).await?;
        Ok::<_, BootFailure>(pool.inner.driver.boot(spec).await?)
    };
    let booted = tokio::select! {
        booted = AssertUnwindSafe(boot).catch_unwind() => booted,
        () = pool.inner.cut_off.cancelled() => return Err(BootFailure::GivenUp),
    };
    // A panic must not leave callers waiting for a boot that nobody works on.
    let panicked = |_| {
        let problem = "the driver panicked; nova's own log has the message".to_owned();
        Err(BootError::Failed { phase: "booting", problem }.into())
    };
    let guest = booted.unwrap_or_else(panicked)?;
    pool.inner.metrics.vms_created.fetch_add(1, Ordering::Relaxed);
    pool.inner.metrics.boot_duration.record(ms(started.elapsed()));
    Ok(guest)
}

fn up(pool: &Pool, number: VmNumber, guest: Guest) {
    let mut books = pool.books();
    if let Some(entry) = books.vms.get_mut(&number) {
        entry.guest = Some(guest);
    }
    pool.act(books, Event::Booted { vm: number }, None);
}

fn gone(pool: &Pool, number: VmNumber, event: Event, failure: Option<Arc<BootFailure>>) {
    let mut books = pool.books();
    books.vms.remove(&number);
    pool.act(books, event, failure);
}
