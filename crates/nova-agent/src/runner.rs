//! How calls are run: by the function's mode, known from Init on.
use crate::call::Call;
use crate::console::say;
use crate::event::Event;
use crate::http::Http;
use crate::lambda::Lambda;
use crate::machine::Machine;
use crate::persistent::Persistent;
use crate::process;
use nova_proto::Mode;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Takes calls, each of which is answered by itself.
pub enum Runner {
    /// A process and a thread per call.
    Process(Arc<Machine>),
    /// One process for many calls, and one thread that owns it.
    Persistent(Persistent),
    /// The same, over the AWS Lambda Runtime API.
    Lambda(Lambda),
    /// The same, as requests to a server.
    Http(Http),
}

impl Runner {
    /// The runner of this machine's function.
    ///
    /// # Errors
    /// When its thread cannot be made.
    pub fn new(machine: Machine) -> Result<Self, String> {
        let machine = Arc::new(machine);
        let failed = |error| format!("start a thread: {error}");
        Ok(match machine.function.mode {
            Mode::Process => Self::Process(machine),
            Mode::Persistent => Self::Persistent(Persistent::start(machine).map_err(failed)?),
            Mode::Lambda => Self::Lambda(Lambda::start(machine).map_err(failed)?),
            Mode::Http => Self::Http(Http::start(machine).map_err(failed)?),
        })
    }

    /// What wakes whoever runs the next call.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn event(&self) -> std::io::Result<Arc<Event>> {
        match self {
            Self::Process(_) => Ok(Arc::new(Event::new()?)),
            Self::Persistent(persistent) => Ok(persistent.event()),
            Self::Lambda(lambda) => Ok(lambda.event()),
            Self::Http(http) => Ok(http.event()),
        }
    }

    /// Whether this guest has a result of a build to send. Only `process` mode leaves nothing running.
    pub fn can_export(&self) -> bool {
        matches!(self, Self::Process(machine) if machine.function.out_mb > 0)
    }

    /// Starts a call that [`Self::event`] wakes for.
    pub fn run(&self, call: Call, event: Arc<Event>) {
        let machine = match self {
            Self::Persistent(persistent) => return persistent.run(call),
            Self::Lambda(lambda) => return lambda.run(call),
            Self::Http(http) => return http.run(call),
            Self::Process(machine) => machine.clone(),
        };
        let run = move || {
            // A panic is reported by the hook, and drops the call, which answers.
            let _ = catch_unwind(AssertUnwindSafe(|| process::run(&machine, call, event)));
        };
        // Without a thread the call is dropped, and answers so.
        if let Err(error) = std::thread::Builder::new().name("call".into()).spawn(run) {
            say(format_args!("cannot start a thread for a call: {error}"));
        }
    }
}
