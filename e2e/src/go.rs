//! The function in Go that speaks HTTPS, and the server that it speaks to: one program.
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What builds it with the toolchain of the examples, once, and prints where it is.
const RUNTIMES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/runtimes");

/// The program. `NOVA_E2E_GO_FUNCTION` names it ready made; else it is built.
pub fn go_function() -> PathBuf {
    if let Some(path) = std::env::var_os("NOVA_E2E_GO_FUNCTION") {
        return PathBuf::from(path);
    }
    let mut command = Command::new(RUNTIMES);
    command.args(["built", "go", "https"]).stderr(Stdio::inherit());
    let built = command.output().expect("python3 is installed");
    assert!(built.status.success(), "the function in Go was not built");
    let said = String::from_utf8_lossy(&built.stdout);
    // Behind what it tells of its progress.
    PathBuf::from(said.lines().last().unwrap_or_default())
}
