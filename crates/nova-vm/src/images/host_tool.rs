//! Programs of the host that images are made with: found once by absolute path (a bare name would make
//! every start search PATH, and a large daemon fork), run to the end, killed when their caller goes.
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

/// Where programs of the administrator are; often not in an ordinary user's PATH.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
/// Most bytes of a failed program's complaint that an error repeats: its end, where the reason is.
const COMPLAINT_MAX_BYTES: usize = 1000;

/// Why a program of the host did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not there.
    #[error("{tool} is not installed; try `apt-get install {package}`")]
    Missing {
        /// The program.
        tool: &'static str,
        /// Debian's package with it.
        package: &'static str,
    },
    /// It could not be started.
    #[error("cannot start {tool}: {source}")]
    Start {
        /// The program.
        tool: String,
        /// Why.
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{tool} failed ({status}): {complaint}")]
    Failed {
        /// The program.
        tool: String,
        /// Its exit status.
        status: String,
        /// The end of what it wrote to its standard error.
        complaint: String,
    },
}

/// A program of the host that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostTool {
    path: PathBuf,
}

impl HostTool {
    /// Looks in PATH and the administrator's directories; `package` is for the error.
    pub(crate) fn find(tool: &'static str, package: &'static str) -> Result<Self, ToolError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
            .map(|directory| directory.join(tool))
            .find(|candidate| is_program(candidate))
            .map(|path| Self { path })
            .ok_or(ToolError::Missing { tool, package })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A command of it, without input, killed when its handle is dropped.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it to its end and returns its standard output.
    pub(crate) async fn run<I>(&self, arguments: I) -> Result<Vec<u8>, ToolError>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        run(self.command().args(arguments)).await
    }
}

/// Runs a command to its end and returns its standard output.
pub(crate) async fn run(command: &mut Command) -> Result<Vec<u8>, ToolError> {
    let tool = name_of(command);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await;
    let output = output.map_err(|source| ToolError::Start { tool: tool.clone(), source })?;
    check(tool, output)
}

/// Runs a command to its end, handing on each line of its standard output as it comes.
pub(crate) async fn run_with_lines(
    command: &mut Command,
    mut on_line: impl FnMut(&str),
) -> Result<(), ToolError> {
    let tool = name_of(command);
    let failed_start = |source| ToolError::Start { tool: tool.clone(), source };
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed_start)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let lines = async {
        let mut last = String::new();
        if let Some(stdout) = stdout {
            let mut lines = BufReader::new(stdout).lines();
            while let Some(line) = lines.next_line().await? {
                on_line(&line);
                last = line;
            }
        }
        Ok::<_, std::io::Error>(last)
    };
    let complaint = async {
        let mut complaint = Vec::new();
        if let Some(mut stderr) = stderr {
            let mut piece = [0; 4096];
            loop {
                let read = stderr.read(&mut piece).await?;
                if read == 0 {
                    break;
                }
                // Only the end is ever shown: twice that much is enough to hold.
                if complaint.len() > COMPLAINT_MAX_BYTES {
                    complaint.drain(..complaint.len() - COMPLAINT_MAX_BYTES);
                }
                complaint.extend_from_slice(&piece[..read]);
            }
        }
        Ok::<_, std::io::Error>(complaint)
    };
    let (last_line, stderr) = tokio::try_join!(lines, complaint).map_err(failed_start)?;
    let status = child.wait().await.map_err(failed_start)?;
    check(tool, Output { status, stdout: last_line.into_bytes(), stderr }).map(|_| ())
}

/// The standard output of a program that succeeded, or why it failed.
pub(crate) fn check(tool: String, output: Output) -> Result<Vec<u8>, ToolError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    Err(ToolError::Failed { tool, status: output.status.to_string(), complaint: tail(complaint) })
}

/// The end of what a program wrote, as one line.
pub(crate) fn tail(output: &[u8]) -> String {
    let start = output.len().saturating_sub(COMPLAINT_MAX_BYTES);
    String::from_utf8_lossy(&output[start..]).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The file name of a command's program.
pub(crate) fn name_of(command: &Command) -> String {
    let program = Path::new(command.as_std().get_program());
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_the_way_to_get_it() {
        let error = HostTool::find("mkfs.nonesuch", "nonesuch-utils").unwrap_err();
        let expected = "mkfs.nonesuch is not installed; try `apt-get install nonesuch-utils`";
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn a_failed_program_says_why() {
        let tool = HostTool::find("ls", "coreutils").unwrap();
        let error = tool.run(["/nonesuch/file"]).await.unwrap_err();
        assert!(error.to_string().contains("/nonesuch/file"), "{error}");
    }
}
