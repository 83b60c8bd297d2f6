//! Real AWS runtime clients, as functions bring them: Rust's crate in a static `bootstrap`, and Python's and
//! Node.js's from their package indices.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version that the wire shapes were taken from.
const AWSLAMBDARIC: &str = "awslambdaric==4.2.2";
/// Where the crate with the function in Rust is.
const RUST_FUNCTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/rust-function");
/// What builds the client for Node.js, once, and prints where it is.
const NODE_CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/node-client/build");
/// What it is built for: a target of its own, so that the static C library is for it alone.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The bytes of the function in Rust. `NOVA_E2E_RUST_FUNCTION` names it ready made; else it is built.
pub fn rust_function() -> Vec<u8> {
    let path = match std::env::var_os("NOVA_E2E_RUST_FUNCTION") {
        Some(path) => PathBuf::from(path),
        None => build_rust_function(),
    };
    std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

fn build_rust_function() -> PathBuf {
    let target_dir = Path::new(RUST_FUNCTION).join("../../target/rust-function");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(RUST_FUNCTION)
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()
        .expect("cargo is installed");
    assert!(status.success(), "the function in Rust was not built");
    target_dir.join(TARGET).join("release/bootstrap")
}

/// Puts the Python client into `directory`, for the Python of the runtime image.
pub fn install_awslambdaric(directory: &Path) {
    let status = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"])
        .args([
            "--root-user-action",
            "ignore",
            "--only-binary",
            ":all:",
            "--python-version",
            "3.11",
        ])
        .args(["--implementation", "cp", "--platform", "manylinux_2_28_x86_64"])
        .args(["--platform", "manylinux2014_x86_64", "--target"])
        .arg(directory)
        .arg(AWSLAMBDARIC)
        .status()
        .expect("python3 is installed");
    assert!(status.success(), "pip did not install {AWSLAMBDARIC}");
}

/// The `node_modules` of a function with the Node.js client.
pub fn node_client() -> PathBuf {
    let built = Command::new(NODE_CLIENT).stderr(Stdio::inherit()).output();
    let built = built.expect("python3 is installed");
    assert!(built.status.success(), "aws-lambda-ric was not built");
    PathBuf::from(String::from_utf8_lossy(&built.stdout).trim())
}
