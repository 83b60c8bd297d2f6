//! The right to run one call on one VM.
use super::Pool;
use super::policy::{Event, VmNumber};
use super::vm::Guest;
use crate::plan::Plan;
use nova_domain::{Phases, Start};
use nova_proto::ExecReport;
use nova_vm::{EventSink, ExecError, ExecRequest};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A slot of a VM. Not clonable: whoever holds it is the slot's one owner. Dropping it gives the slot
/// back. After a call that was cancelled the slot stays taken until the guest has ended that call;
/// after one that failed, or is not ended in time, the VM is stopped, because what runs in it is
/// unknown.
pub(crate) struct Lease {
    pool: Pool,
    number: VmNumber,
    /// Present until drop.
    guest: Option<Guest>,
    plan: Arc<Plan>,
    waited: Waited,
    call: Call,
}

/// What is known of the call on a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// None runs.
    Ended,
    /// One was sent; still so at the drop, its caller has left.
    Sent,
    /// It got no answer.
    Failed,
}

/// How long a caller waited, and for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waited {
    total: Duration,
    /// The part of it in which the VM booted; `None` for a VM that was up already.
    boot: Option<Duration>,
}

impl Waited {
    /// Until now. `boot_started` where the caller waited for this VM's boot.
    pub fn new(arrived: Instant, boot_started: Option<Instant>) -> Self {
        let boot = boot_started.map(|started| started.max(arrived).elapsed());
        Self { total: arrived.elapsed(), boot }
    }

    /// The phases of the call so far.
    pub fn phases(self) -> Phases {
        let boot = self.boot.unwrap_or_default();
        Phases {
            queue_ms: ms(self.total.saturating_sub(boot)),
            acquire_ms: ms(self.total),
            boot_ms: ms(boot),
            ..Phases::default()
        }
    }

    /// Whether a VM was booted for the caller.
    pub fn start(self) -> Start {
        match self.boot {
            Some(_) => Start::Cold,
            None => Start::Warm,
        }
    }
}

/// Milliseconds with fractions, as everything that is shown.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

impl Lease {
    pub(super) fn new(
        pool: Pool,
        number: VmNumber,
        guest: Guest,
        plan: Arc<Plan>,
        waited: Waited,
    ) -> Self {
        Self { pool, number, guest: Some(guest), plan, waited, call: Call::Ended }
    }

    /// What the VM runs. Newer than what the caller asked for if it changed while it waited.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What it took to get it.
    pub fn waited(&self) -> Waited {
        self.waited
    }

    /// Runs the call. Dropping the future cancels it.
    pub async fn exec(
        &mut self,
        request: ExecRequest,
        events: EventSink,
    ) -> Result<ExecReport, ExecError> {
        let Some(guest) = &self.guest else {
            return Err(ExecError::Lost("the microVM was given back".into()));
        };
        // Until proven otherwise: a future that is dropped here leaves a guest in the middle of a call.
        self.call = Call::Sent;
        let report = tokio::select! {
            report = guest.exec(request, events) => report,
            () = self.pool.inner.cut_off.cancelled() => {
                Err(ExecError::Lost("nova shut down before the call ended".into()))
            }
        };
        self.call = if report.is_ok() { Call::Ended } else { Call::Failed };
        report
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Before the policy may order the VM to stop: its task then holds the only reference.
        let guest = self.guest.take();
        let number = self.number;
        match (self.call, guest) {
            (Call::Sent, Some(guest)) => {
                let pool = self.pool.clone();
                self.pool.inner.tasks.spawn(async move {
                    let reusable = tokio::select! {
                        settled = guest.settled() => settled,
                        () = pool.inner.cut_off.cancelled() => false,
                    };
                    drop(guest);
                    pool.handle(Event::Released { vm: number, reusable });
                });
            }
            (call, guest) => {
                drop(guest);
                let reusable = call == Call::Ended;
                self.pool.handle(Event::Released { vm: number, reusable });
            }
        }
    }
}
