//! An event on its way to a runtime, and how often it may be on its way.
use serde_json::value::RawValue;
use std::sync::Arc;

/// To how many processes an event is offered, and how often a process may leave it unread. A runtime
/// that does so this often will not read it the next time.
const ATTEMPTS_MAX: u32 = 3;

/// What the runtime gets of a call.
#[derive(Debug)]
pub struct Invocation {
    pub request_id: String,
    /// When it will be killed, milliseconds since the Unix epoch.
    pub deadline_unix_ms: u64,
    /// X-Ray's form of the caller's trace context.
    pub trace_id: Option<String>,
    pub input: Box<RawValue>,
}

/// An invocation on its way to a runtime.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub invocation: Arc<Invocation>,
    /// Processes that it was offered to.
    processes: u32,
    /// How often the present one has left it unread.
    unread: u32,
}

impl Delivery {
    /// One that is offered for the first time.
    pub fn new(invocation: Invocation) -> Self {
        Self { invocation: Arc::new(invocation), processes: 1, unread: 0 }
    }

    /// Counts that the present process has left it unread; false when it did so too often.
    pub fn left_unread(&mut self) -> bool {
        self.unread += 1;
        self.unread < ATTEMPTS_MAX
    }

    /// The same for another process; `None` after too many.
    pub fn again(self) -> Option<Self> {
        let processes = self.processes + 1;
        (processes <= ATTEMPTS_MAX).then_some(Self { processes, unread: 0, ..self })
    }
}
