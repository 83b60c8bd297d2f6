//! The VMM's process: spawned through the jailer, watched, killed and reaped by one task.
//!
//! The jailer is asked for neither a daemon nor a process-id namespace, so it never forks: it sets
//! up its jail and *becomes* Firecracker. The child that was spawned here is the VMM itself; killing
//! it kills the guest, and its exit status is known.
//!
//! The spawn names an absolute path and asks for nothing that needs code between `fork` and `exec`,
//! so the standard library uses `posix_spawn`: a fork of a large daemon would cost 16 ms and more.
use super::console::Console;
use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};

/// A running VMM. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Vmm {
    kill: Option<oneshot::Sender<()>>,
    exited: watch::Receiver<Option<String>>,
    pub(crate) console: Console,
}

impl Vmm {
    /// Starts `jailer` with `arguments`. Must be called within a tokio runtime.
    pub(crate) fn spawn(jailer: &Path, arguments: &[OsString]) -> std::io::Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        // Before the process, so that nothing can fail once it runs.
        let console = Console::read(reader)?;
        let child = Command::new(jailer)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            // A Ctrl-C in the daemon's terminal is for the daemon alone: it drains first.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (kill, killed) = oneshot::channel();
        let (status, exited) = watch::channel(None);
        tokio::spawn(attend(child, killed, status));
        Ok(Self { kill: Some(kill), exited, console })
    }

    /// Resolves when the process has ended and was reaped, with how it ended.
    pub(crate) fn exited(&self) -> impl Future<Output = String> + Send + 'static {
        let mut exited = self.exited.clone();
        async move {
            match exited.wait_for(Option::is_some).await {
                Ok(status) => status.clone().unwrap_or_default(),
                // The task is gone because the runtime is; the child was killed with it.
                Err(_) => "was killed with the daemon".into(),
            }
        }
    }

    /// Kills the process; [`exited`](Self::exited) says when it is gone.
    pub(crate) fn kill(&mut self) {
        // Dropping the sender is the signal.
        self.kill = None;
    }
}

/// Owns the child: nobody else can signal a process id that was reaped and given out again.
async fn attend(
    mut child: Child,
    killed: oneshot::Receiver<()>,
    exited: watch::Sender<Option<String>>,
) {
    let status = tokio::select! {
        status = child.wait() => status,
        _ = killed => {
            if let Err(error) = child.start_kill() {
                tracing::error!(%error, "cannot kill a virtual machine monitor");
            }
            child.wait().await
        }
    };
    exited.send_replace(Some(match status {
        Ok(status) => describe(status),
        Err(error) => format!("was lost: {error}"),
    }));
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => format!("ended: {status}"),
    }
}
