//! `lambda` mode: one process for many calls, which it fetches over the AWS Lambda Runtime API.
//!
//! ```text
//!   host ─▶ Lambda ─▶ Owner ──offer──▶ Board ◀──next, response, error── connections ◀── the process
//!                       │ ◀──answers── (board.rs)                        (server.rs, routes.rs, http.rs)
//!                       └─▶ starts, watches and ends the process; its stdout and stderr are logs
//! ```
//!
//! The process is started by the first call, and again by the first one after its end. Whatever ends it
//! fails the calls that it has fetched; those that it has not are offered to the next process. With
//! several call slots a cancel alone does not end it: the others go on, the answer is dropped.
mod answer;
mod board;
mod delivery;
mod environment;
mod extensions;
pub mod http;
mod owner;
mod program;
mod routes;
mod server;
mod trailer;

use crate::call::Call;
use crate::event::Event;
use crate::machine::Machine;
use owner::Owner;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// The runner of a function in `lambda` mode.
pub struct Lambda {
    calls: Sender<Call>,
    event: Arc<Event>,
}

impl Lambda {
    /// Starts its thread; the process comes with the first call.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(machine: Arc<Machine>) -> std::io::Result<Self> {
        let event = Arc::new(Event::new()?);
        let (calls, incoming) = channel();
        let mut owner = Owner::new(machine, event.clone(), incoming);
        std::thread::Builder::new().name("lambda".into()).spawn(move || {
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
