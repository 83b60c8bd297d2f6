//! A caller's side of the queue: to ask for a VM, to wait, to be answered or to leave.
use super::policy::{Event, Refusal, WaiterId};
use super::{Lease, Pool};
use crate::BootFailure;
use nova_domain::FunctionName;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Why a caller gets no VM.
#[derive(Debug)]
pub(crate) enum AcquireError {
    /// The pool does not know the function (any more).
    Unknown,
    /// As many as may wait do so already.
    QueueFull { waiting: usize },
    /// None became free in time.
    TimedOut { waited: Duration },
    /// One VM is more than the host has.
    TooLarge { memory_mb: u64 },
    /// The boot that was for this caller failed.
    Boot(Arc<BootFailure>),
    /// The pool ends.
    Draining,
}

type Answer = Result<Lease, AcquireError>;

/// Somebody who waits, as the pool's books know them.
pub(super) struct Caller {
    answer: oneshot::Sender<Answer>,
    pub arrived: Instant,
}

impl Caller {
    /// Hands the lease over; returns it where nobody is there to take it.
    pub fn grant(self, lease: Lease) -> Option<Lease> {
        self.answer.send(Ok(lease)).err().and_then(Result::ok)
    }

    /// Says why there is none. `failure` is that of the boot that was for this caller.
    pub fn refuse(self, why: Refusal, failure: Option<&Arc<BootFailure>>) {
        let refused = match why {
            Refusal::Unknown => AcquireError::Unknown,
            Refusal::QueueFull { waiting } => AcquireError::QueueFull { waiting },
            Refusal::Expired => AcquireError::TimedOut { waited: self.arrived.elapsed() },
            Refusal::TooLarge { memory_mb } => AcquireError::TooLarge { memory_mb },
            Refusal::Draining => AcquireError::Draining,
            Refusal::BootFailed => AcquireError::Boot(
                failure.cloned().unwrap_or_else(|| Arc::new(BootFailure::GivenUp)),
            ),
        };
        // A caller who left needs no answer.
        let _ = self.answer.send(Err(refused));
    }
}

impl Pool {
    /// A slot of a VM for one call. Waits as long as the function's timeout allows; dropping the
    /// future gives the place in the queue up.
    pub async fn acquire(&self, function: &FunctionName) -> Result<Lease, AcquireError> {
        let (waiter, granted) = self.enqueue(function);
        let leaving = Leaving { pool: self, function, waiter };
        let granted = granted.await;
        // Whoever has its answer has left the queue already.
        std::mem::forget(leaving);
        granted.unwrap_or(Err(AcquireError::Draining))
    }

    fn enqueue(&self, function: &FunctionName) -> (WaiterId, oneshot::Receiver<Answer>) {
        let (answer, granted) = oneshot::channel();
        let mut books = self.books();
        let waiter = WaiterId(books.next_waiter);
        books.next_waiter += 1;
        books.callers.insert(waiter, Caller { answer, arrived: Instant::now() });
        self.act(books, Event::Acquire { function: function.clone(), waiter }, None);
        (waiter, granted)
    }
}

/// A place in the queue. Dropped without an answer, it is given up.
struct Leaving<'a> {
    pool: &'a Pool,
    function: &'a FunctionName,
    waiter: WaiterId,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut books = self.pool.books();
        books.callers.remove(&self.waiter);
        let event = Event::Cancelled { function: self.function.clone(), waiter: self.waiter };
        self.pool.act(books, event, None);
    }
}
