//! The pool: which VMs there are, and who may use them. The decisions are [`policy`]'s; this shell
//! asks it under a lock, and does what it says outside of it.
//!
//! ```text
//!  acquire ──Acquire──▶ ┌────────┐ ──Grant──▶ Lease ──drop──▶ Released
//!  caller left ───────▶ │ policy │ ──Boot───▶ task of one VM: boot, watch, stop
//!  Ticker ──Tick──────▶ └────────┘ ──Stop───▶   (vm.rs)       └▶ Booted, Died, Stopped
//! ```
//!
//! What surprises: a `Lease` may be made and dropped inside [`Pool::act`], when its caller left at
//! the same moment; it is dropped after the lock is released, because dropping it takes the lock.
mod acquire;
mod lease;
pub(crate) mod policy;
mod reserved;
mod ticker;
mod vm;

pub(crate) use acquire::AcquireError;
pub(crate) use lease::{Lease, ms};
pub(crate) use reserved::Reserved;

use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::{BootFailure, EngineConfig, Stats, VmStats};
use acquire::Caller;
use lease::Waited;
use nova_domain::FunctionName;
use nova_vm::{VmDriver, VmId};
use policy::{Action, Event, Limits, PoolState, ReservationId, Room, VmNumber, WaiterId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a drain waits for VMs to be gone once calls and boots have been cut off. A driver's
/// stop kills what does not end by itself, in a few seconds at worst.
const STOP_MAX: Duration = Duration::from_secs(30);

/// All VMs of this host. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    driver: Arc<dyn VmDriver>,
    metrics: Arc<Metrics>,
    limits: Limits,
    epoch: Instant,
    books: Mutex<Books>,
    /// Wakes the ticker where it must tick earlier than it thinks.
    ticker: Arc<Notify>,
    /// Held by whoever waits for room to be reserved; the last who did.
    reserving: tokio::sync::Mutex<ReservationId>,
    /// Wakes whoever waits for that.
    roomier: Notify,
    /// One task per VM.
    tasks: TaskTracker,
    /// Cancelled when a drain's time is over: ends boots and calls.
    cut_off: CancellationToken,
}

/// What changes, all under one lock.
struct Books {
    state: PoolState,
    next_waiter: u64,
    callers: HashMap<WaiterId, Caller>,
    plans: HashMap<FunctionName, Arc<Plan>>,
    vms: HashMap<VmNumber, vm::Entry>,
    /// When the ticker will tick.
    next_tick: Option<policy::Millis>,
}

impl Pool {
    /// An empty pool. Must be called within a tokio runtime.
    pub fn new(driver: Arc<dyn VmDriver>, config: &EngineConfig, metrics: Arc<Metrics>) -> Self {
        let limits = Limits {
            room: Room { vms: config.vms_max, memory_mb: config.memory_max_mb },
            boots_max: config.boots_max,
            idle_ttl_ms: config.idle_ttl.as_millis() as u64,
            queue_max: config.queue_max_per_function,
        };
        let books = Books {
            state: PoolState::new(limits),
            next_waiter: 0,
            callers: HashMap::new(),
            plans: HashMap::new(),
            vms: HashMap::new(),
            next_tick: None,
        };
        let inner = Arc::new(Inner {
            driver,
            metrics,
            limits,
            epoch: Instant::now(),
            books: Mutex::new(books),
            ticker: Arc::default(),
            reserving: tokio::sync::Mutex::default(),
            roomier: Notify::new(),
            tasks: TaskTracker::new(),
            cut_off: CancellationToken::new(),
        });
        tokio::spawn(ticker::run(Arc::downgrade(&inner), Arc::clone(&inner.ticker)));
        Self { inner }
    }

    /// The function exists like this from now on. VMs of an older revision take no new calls.
    pub fn configure(&self, plan: Arc<Plan>) {
        let shape = plan.shape(self.inner.driver.as_ref());
        let function = plan.name().clone();
        let mut books = self.books();
        books.plans.insert(function.clone(), plan);
        self.act(books, Event::Configured { function, shape }, None);
    }

    /// The function is gone or cannot run: its VMs end with their calls.
    pub fn forget(&self, function: &FunctionName) {
        let mut books = self.books();
        books.plans.remove(function);
        self.act(books, Event::Forgotten { function: function.clone() }, None);
    }

    /// What there is now.
    pub fn stats(&self) -> Stats {
        let now = Instant::now();
        let books = self.books();
        let vms = books.state.vms().filter_map(|view| {
            let entry = books.vms.get(&view.number)?;
            Some(VmStats {
                id: entry.id.clone(),
                function: view.function.clone(),
                phase: view.phase,
                age_ms: now.duration_since(entry.boot_started).as_millis() as u64,
                memory_mb: view.memory_mb,
                calls: view.calls,
            })
        });
        Stats {
            vms: vms.collect(),
            waiting: books.state.waiting(),
            memory_mb: books.state.used().memory_mb,
            memory_max_mb: self.inner.limits.room.memory_mb,
            vms_max: self.inner.limits.room.vms,
            draining: books.state.is_draining(),
        }
    }

    /// Takes no new callers, serves those that are here, and returns when every VM has stopped.
    /// After `within`, calls and boots are cut off; returns how many calls were.
    pub async fn drain(&self, within: Duration) -> u32 {
        self.handle(Event::Drain);
        self.inner.tasks.close();
        if timeout(within, self.inner.tasks.wait()).await.is_ok() {
            return 0;
        }
        let cut_off = self.stats().vms.iter().map(|vm| vm.calls).sum();
        self.handle(Event::CutOff);
        self.inner.cut_off.cancel();
        if timeout(STOP_MAX, self.inner.tasks.wait()).await.is_err() {
            let left = self.stats().vms.len();
            tracing::error!(left, "microVMs did not stop; the next start removes what they left");
        }
        cut_off
    }

    fn handle(&self, event: Event) {
        self.act(self.books(), event, None);
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.inner.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> policy::Millis {
        self.inner.epoch.elapsed().as_millis() as u64
    }

    /// Tells the policy what happened and does what it says. `failure` is why a boot failed, for the
    /// callers that it was for.
    fn act(
        &self,
        mut books: MutexGuard<'_, Books>,
        event: Event,
        failure: Option<Arc<BootFailure>>,
    ) {
        let now = self.now();
        let roomier = matches!(
            event,
            Event::Stopped { .. } | Event::BootFailed { .. } | Event::Unreserve { .. }
        );
        let mut unclaimed = Vec::new();
        for action in books.state.handle(event, now) {
            match action {
                Action::Boot { vm, function } => self.boot(&mut books, vm, &function),
                Action::Grant { waiter, vm, fresh } => {
                    unclaimed.extend(self.grant(&mut books, waiter, vm, fresh));
                }
                Action::Refuse { waiter, why } => {
                    let Some(caller) = books.callers.remove(&waiter) else { continue };
                    caller.refuse(why, failure.as_ref());
                }
                Action::Stop { vm } => {
                    if let Some(entry) = books.vms.get_mut(&vm) {
                        entry.stop();
                    }
                }
            }
        }
        let next = books.state.next_tick(now);
        if next.is_some_and(|next| books.next_tick.is_none_or(|at| next < at)) {
            self.inner.ticker.notify_one();
        }
        drop(books);
        if roomier {
            self.inner.roomier.notify_one();
        }
        // Leases of callers who left: dropped without the lock, because that takes it.
        drop(unclaimed);
    }

    fn boot(&self, books: &mut Books, number: VmNumber, function: &FunctionName) {
        let mut id = VmId::from_random(rand::random());
        while books.vms.values().any(|entry| entry.id == id) {
            id = VmId::from_random(rand::random());
        }
        // The policy boots only for functions that were configured, and both are told at once.
        let Some(plan) = books.plans.get(function).cloned() else { return };
        let (entry, stop) = vm::Entry::new(id.clone(), function.clone());
        books.vms.insert(number, entry);
        self.inner.tasks.spawn(vm::live(self.clone(), number, id, plan, stop));
    }

    /// Answers the waiter with a lease; returns the lease where nobody takes it.
    fn grant(
        &self,
        books: &mut Books,
        waiter: WaiterId,
        number: VmNumber,
        fresh: bool,
    ) -> Option<Lease> {
        let caller = books.callers.remove(&waiter)?;
        let entry = books.vms.get(&number)?;
        let plan = books.plans.get(&entry.function)?;
        let waited = Waited::new(caller.arrived, fresh.then_some(entry.boot_started));
        let lease = Lease::new(self.clone(), number, entry.guest()?, Arc::clone(plan), waited);
        caller.grant(lease)
    }
}
