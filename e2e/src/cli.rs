//! The command line, as a user runs it.
use crate::setting;
use std::io::Write;
use std::process::{Child, Command, Stdio};

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct CliOutput {
    /// Exit status; -1 when killed.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `nova` with these arguments against the daemon under test.
pub fn cli(arguments: &[&str]) -> CliOutput {
    cli_with_input(arguments, "")
}

/// The same, with something on standard input.
pub fn cli_with_input(arguments: &[&str], input: &str) -> CliOutput {
    let mut child = command(arguments).stdin(Stdio::piped()).spawn().expect("NOVA_BIN starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("nova reads its input or has closed it");
    drop(stdin);
    output_of(child)
}

/// Runs a command that was put together with [`command`].
pub fn run(command: &mut Command) -> CliOutput {
    output_of(command.spawn().expect("NOVA_BIN starts"))
}

/// `nova` with these arguments, for the daemon under test; what it prints is taken.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(setting("NOVA_BIN"));
    command
        .args(arguments)
        .env("NOVA_URL", setting("NOVA_URL"))
        .env("NOVA_API_KEY", setting("NOVA_API_KEY"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn output_of(child: Child) -> CliOutput {
    let output = child.wait_with_output().expect("nova ends");
    CliOutput {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
