//! The one owner of `waitpid`: reaps every process of the guest and tells who started it how it ended.
//!
//! The agent is PID 1, so every process whose parent died becomes its child. The reaper looks at an
//! ended process without reaping it (`WNOWAIT`), takes the lock, and only then reaps it. Starting and
//! killing happen under the same lock; so no pid is ever reused between a look and a deed.
//!
//! One guest runs one function, so everything that is not the agent belongs to it, and killing means
//! killing everything: `kill(-1)` as PID 1 reaches processes that made sessions of their own, and,
//! as the kernel holds its process list while it signals, none can fork its way out.
use crate::event::Event;
use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// Starts, kills and reaps processes.
#[derive(Default)]
pub struct Reaper {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Who waits for which process.
    started: HashMap<i32, Waiter>,
    /// How often a process was started; tells whether "no children" is still true.
    starts: u64,
    /// The kernel said that the agent has no children.
    alone: bool,
}

struct Waiter {
    exit: Exit,
    event: Arc<Event>,
}

/// How a process ended, once it has.
#[derive(Clone, Default)]
pub struct Exit(Arc<OnceLock<ExitStatus>>);

impl Exit {
    /// Its status; `None` while it runs.
    pub fn status(&self) -> Option<ExitStatus> {
        self.0.get().copied()
    }
}

impl Reaper {
    /// Starts the reaping thread.
    pub fn start() -> io::Result<Arc<Self>> {
        let reaper = Arc::new(Self::default());
        let thread = reaper.clone();
        std::thread::Builder::new().name("reaper".into()).spawn(move || {
            loop {
                // A panic in here would leave zombies for ever.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| thread.reap()));
            }
        })?;
        Ok(reaper)
    }

    /// Starts a process; `event` is raised when it has ended.
    ///
    /// # Errors
    /// Those of [`Command::spawn`]; nothing runs then.
    pub fn spawn(&self, command: &mut Command, event: Arc<Event>) -> io::Result<(Child, Exit)> {
        let mut state = self.lock();
        // A failed start makes a child, too, which the standard library waits for itself; it does so
        // under this lock, before the reaper can.
        state.starts += 1;
        state.alone = false;
        self.changed.notify_all();
        let child = command.spawn()?;
        let exit = Exit::default();
        let waiter = Waiter { exit: exit.clone(), event };
        state.started.insert(child.id() as i32, waiter);
        Ok((child, exit))
    }

    /// Kills every process but the agent, and returns when all are reaped.
    pub fn kill_all(&self) {
        let mut state = self.lock();
        while !state.alone {
            signal_all();
            // The signal reached all that there were; wait for the reaper to see the last one off.
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for one process to end, or for there to be any; reaps it.
    fn reap(&self) {
        let starts = self.lock().starts;
        match next_ended() {
            Some(pid) => {
                let mut state = self.lock();
                // None: the standard library was faster, for a process that could not be started.
                if let Some(status) = reap(pid)
                    && let Some(waiter) = state.started.remove(&pid)
                {
                    // Set once per process: the waiter is gone from the map now.
                    let _ = waiter.exit.0.set(status);
                    waiter.event.raise();
                }
            }
            None => {
                let mut state = self.lock();
                if state.starts == starts {
                    state.alone = true;
                    self.changed.notify_all();
                    while state.starts == starts {
                        state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kills everything but the agent.
fn signal_all() {
    // Outside of a pid namespace of its own this would kill the host. `main` refuses to run there.
    assert_eq!(std::process::id(), 1, "only PID 1 of a guest kills everything");
    // SAFETY: kill takes no pointers. It fails only where there is nothing to signal.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Blocks until a child has ended and says which, leaving it a zombie; `None` if there are no children.
fn next_ended() -> Option<i32> {
    loop {
        // SAFETY: all zero bytes are a valid siginfo_t, which waitid overwrites.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOWAIT;
        // SAFETY: `info` is a valid place for the result. Not nix: it fails on real-time signals.
        if unsafe { libc::waitid(libc::P_ALL, 0, &mut info, flags) } == 0 {
            // SAFETY: waitid succeeded, so the union holds the fields of SIGCHLD.
            return Some(unsafe { info.si_pid() });
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None;
        }
    }
}

fn reap(pid: i32) -> Option<ExitStatus> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    let reaped = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
    (reaped == pid).then(|| ExitStatus::from_raw(status))
}
