//! `http` mode: one process for many calls, an HTTP server on `PORT`; each call is a `POST /` to it.
//!
//! ```text
//!   host ─▶ Http ─▶ Owner ──a thread per call──▶ exchange ──POST /──▶ the process
//!                     │ ◀────────news────────────── answer ◀──────────────┘
//!                     └─▶ starts, watches and ends the process; its stdout and stderr are logs
//! ```
//!
//! The process is started by the first call, which waits until something accepts a connection there, and
//! again by the first call after its end. Whatever ends it fails the calls that it has.
mod answer;
mod exchange;
mod owner;

use crate::call::Call;
use crate::event::Event;
use crate::machine::Machine;
use owner::Owner;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// The runner of a function in `http` mode.
pub struct Http {
    calls: Sender<Call>,
    event: Arc<Event>,
}

impl Http {
    /// Starts its thread; the process comes with the first call.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(machine: Arc<Machine>) -> std::io::Result<Self> {
        let event = Arc::new(Event::new()?);
        let (calls, incoming) = channel();
        let mut owner = Owner::new(machine, event.clone(), incoming);
        std::thread::Builder::new().name("http".into()).spawn(move || {
            loop {
                let step = std::panic::AssertUnwindSafe(|| owner.step());
                if std::panic::catch_unwind(step).is_err() {
                    owner.start_over();
                }
            }
        })?;
        Ok(Self { calls, event })
    }

    /// What wakes the thread: for the cancel handles of its calls.
    pub fn event(&self) -> Arc<Event> {
        self.event.clone()
    }

    /// Runs a call. It is answered by itself.
    pub fn run(&self, call: Call) {
        // The thread never ends; and if it did, the call would answer by being dropped.
        let _ = self.calls.send(call);
        self.event.raise();
    }
}
