//! The guest once it is set up: the function, its cgroup, and what its processes are started with.
use crate::call::{Failure, failure};
use crate::cgroup::FunctionCgroup;
use crate::child::{Program, Stdin};
use crate::event::Event;
use crate::files;
use crate::ipc;
use crate::reaper::{Exit, Reaper};
use crate::rootfs::{CODE_DIR, TASK_DIR};
use nova_proto::{FunctionErrorKind, FunctionSetup, Mode};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::Arc;

/// Where programs are searched, and what the function's `PATH` is unless it sets its own.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin";

/// Set by Nova for each call or process; the function's own environment cannot replace them.
const RESERVED: [&str; 7] = [
    "NOVA_FUNCTION_NAME",
    "NOVA_FUNCTION_VERSION",
    "NOVA_REQUEST_ID",
    "NOVA_DEADLINE_MS",
    "NOVA_MEMORY_MB",
    "NOVA_CODE_DIR",
    "TRACEPARENT",
];

/// Everything that running a call needs to know.
pub struct Machine {
    /// The function.
    pub function: FunctionSetup,
    /// Its cgroup.
    pub cgroup: FunctionCgroup,
    /// Where processes are started and killed.
    pub reaper: Arc<Reaper>,
}

impl Machine {
    /// How many calls may run at once.
    pub fn slots(&self) -> u32 {
        match self.function.mode {
            Mode::Process => 1,
            Mode::Persistent | Mode::Lambda | Mode::Http => {
                self.function.instance_concurrency.max(1)
            }
        }
    }

    /// Starts the function's process with `own` in its environment, which nothing else replaces, on top
    /// of the common part.
    ///
    /// # Errors
    /// A message for the function's author.
    pub fn start(
        &self,
        command: &[String],
        own: &[(&str, &str)],
        stdin: Stdin,
        event: Arc<Event>,
    ) -> Result<(Child, Exit), String> {
        let memory_mb = self.function.memory_mb.to_string();
        let mut env = vec![("PATH", DEFAULT_PATH), ("HOME", "/tmp"), ("LANG", "C.UTF-8")];
        let user = self.function.env.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let is_own = |key: &str| own.iter().any(|(name, _)| *name == key);
        let user: Vec<_> =
            user.filter(|(key, _)| !RESERVED.contains(key) && !is_own(key)).collect();
        env.retain(|(key, _)| user.iter().all(|(name, _)| name != key) && !is_own(key));
        env.extend(user);
        env.extend([
            ("NOVA_FUNCTION_NAME", self.function.name.as_str()),
            ("NOVA_FUNCTION_VERSION", self.function.version.as_str()),
            ("NOVA_MEMORY_MB", memory_mb.as_str()),
            ("NOVA_CODE_DIR", CODE_DIR),
        ]);
        env.extend_from_slice(own);
        let procs_files = self.cgroup.procs_files();
        let directory = match (&self.function.own_image, self.function.mode) {
            (Some(image), _) => &image.working_dir,
            (None, Mode::Process | Mode::Persistent | Mode::Http) => CODE_DIR,
            (None, Mode::Lambda) => TASK_DIR,
        };
        Program { command, env, directory, procs_files, stdin }.start(&self.reaper, event)
    }

    /// What the end of the function's process means, where it was not Nova that ended it and nothing
    /// of the function runs any more.
    ///
    /// `/tmp` and System V IPC are memory and count as the function's. What filled them would fail every
    /// later call, so an out-of-memory empties them; anything else leaves `/tmp` to the next call.
    pub fn explain_exit(
        &self,
        status: ExitStatus,
        oom_kills_before: u64,
        stderr_tail: &str,
    ) -> Failure {
        if self.cgroup.oom_kills() > oom_kills_before {
            files::empty_temporary();
            ipc::remove_left();
            let limit = self.function.memory_mb;
            return failure(
                FunctionErrorKind::OutOfMemory,
                format!("the function ran out of memory: its limit is {limit} MiB (memory_mb)"),
            );
        }
        let (kind, what) = match (status.code(), status.signal()) {
            (Some(code), _) => (
                FunctionErrorKind::FunctionExited,
                format!("the function exited with status {code}"),
            ),
            (None, Some(signal)) => {
                let name = nix::sys::signal::Signal::try_from(signal)
                    .map_or_else(|_| String::new(), |signal| format!(" ({signal})"));
                let message = format!("the function was killed by signal {signal}{name}");
                (FunctionErrorKind::FunctionCrashed, message)
            }
            (None, None) => (FunctionErrorKind::FunctionCrashed, "the function ended".into()),
        };
        match stderr_tail.trim() {
            "" => failure(kind, what),
            tail => failure(kind, format!("{what}; its stderr ends with: {tail}")),
        }
    }
}
