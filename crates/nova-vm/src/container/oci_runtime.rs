//! The OCI runtime as a program: every call is a plain spawn of an absolute path.
//!
//! No environment is handed on, so that nothing of the daemon's (keys, paths) can end up anywhere
//! near a container. Each run has a process group of its own: a Ctrl-C in the daemon's terminal is
//! for the daemon alone, and a runtime that hangs is killed with the helpers that it started.
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::io::{self, PipeWriter};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// How long deleting a container whose processes are dead may take.
const DELETE_WITHIN: Duration = Duration::from_secs(10);

/// How long the helpers of a killed runtime may take to die: they do nothing that would take time.
const REAP_WITHIN: Duration = Duration::from_secs(1);
/// Pause between two looks at whether they have.
const REAP_PAUSE: Duration = Duration::from_millis(1);
/// How many OCI runtimes may be at work at once per processor. Each is a process of some 30 MiB that
/// uses a processor to the full: more of them would only finish later, all together.
const RUNTIMES_PER_PROCESSOR: usize = 2;
/// How much of its log is read: a failure takes a dozen lines.
const LOG_MAX_BYTES: usize = 16 * 1024;

/// An OCI runtime and the directory where it keeps its state.
#[derive(Debug)]
pub(super) struct OciRuntime {
    program: PathBuf,
    root: PathBuf,
    /// Bounds the deletions at work, apart from the starts: a runtime that hangs when it starts must
    /// not keep what is to go from going.
    deletions: Semaphore,
}

impl OciRuntime {
    pub fn new(program: PathBuf, root: PathBuf) -> Self {
        Self { program, root, deletions: Semaphore::new(at_once()) }
    }

    /// Its program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Where it keeps the state of its containers, a directory per container.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Creates and starts a container, and detaches from it. The container's output and the
    /// runtime's own complaints go to `output`.
    pub fn run(&self, id: &str, bundle: &Path, output: PipeWriter) -> io::Result<Child> {
        self.command()
            // Its warnings go to a file, and only the last reason of a failure to `output`.
            .arg("--log")
            .arg(log_file(bundle))
            .arg("run")
            .arg("--detach")
            .arg("--bundle")
            .arg(bundle)
            .arg("--pid-file")
            .arg(pid_file(bundle))
            .arg(id)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
    }

    /// The errors that the last run logged, each after a semicolon.
    pub fn complaints(&self, bundle: &Path) -> String {
        let log = std::fs::read(log_file(bundle)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log[..log.len().min(LOG_MAX_BYTES)]);
        let severe = |line: &&str| line.contains("level=error") || line.contains("level=fatal");
        log.lines().filter(severe).map(|line| format!("; {line}")).collect()
    }

    /// Removes a container whose processes were killed.
    pub async fn delete(&self, id: &str) -> io::Result<()> {
        let state = self.root.join(id);
        if !state.exists() {
            return Ok(());
        }
        // Never closed, so there is always a permit in the end.
        let _turn = self.deletions.acquire().await;
        let mut command = self.command();
        command.args(["delete", "--force", id]).stdout(Stdio::null()).stderr(Stdio::null());
        if let Ok(mut child) = command.spawn()
            && timeout(DELETE_WITHIN, child.wait()).await.is_err()
        {
            kill_group(&mut child).await;
        }
        // A runtime that was killed half-way leaves a state that it cannot read itself.
        match tokio::fs::remove_dir_all(&state).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).env_clear().stdin(Stdio::null()).process_group(0);
        command
    }
}

/// How many runtimes may be at work at once for one purpose.
pub(super) fn at_once() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get) * RUNTIMES_PER_PROCESSOR
}

/// Where the runtime writes what it has to say beside the reason of its failure.
fn log_file(bundle: &Path) -> PathBuf {
    bundle.join("runtime.log")
}

/// Where the runtime writes the pid of the container's first process.
pub(super) fn pid_file(bundle: &Path) -> PathBuf {
    bundle.join("pid")
}

/// Kills a runtime that does not end, with all that it started, and reaps them.
pub(super) async fn kill_group(child: &mut Child) {
    let Some(group) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) else { return };
    // It has not been reaped, so the pid, which is the group's id too, is still its own.
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait().await;
    // Its children are ours now that it is gone; an error says that there are none (left).
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let deadline = Instant::now() + REAP_WITHIN;
    while let Ok(reaped) = waitid(WaitId::Pgid(Some(group)), options) {
        if reaped.is_none() {
            sleep(REAP_PAUSE).await;
        }
        if Instant::now() > deadline {
            return;
        }
    }
}
