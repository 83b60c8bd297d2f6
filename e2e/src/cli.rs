//! The command line, as a user runs it.
use crate::setting;
use std::io::Write;
use std::process::{Command, Stdio};

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
    let mut child = Command::new(setting("NOVA_BIN"))
        .args(arguments)
        .env("NOVA_URL", setting("NOVA_URL"))
        .env("NOVA_API_KEY", setting("NOVA_API_KEY"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("NOVA_BIN starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("nova reads its input or has closed it");
    drop(stdin);
    let output = child.wait_with_output().expect("nova ends");
    CliOutput {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
