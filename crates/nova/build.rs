//! Builds the guest agent and embeds it: `bin/nova` is enough by itself.
//!
//! The agent is linked statically, for which the C library's static flavour and a target of its own
//! are needed; so a second cargo builds it into this package's own output directory, with nothing of
//! the environment that the first one sets for its build scripts.
use std::env;
use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "agent";

/// What the agent is made of, from the workspace's directory.
const SOURCES: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "crates/nova-agent/Cargo.toml",
    "crates/nova-agent/src",
    "crates/nova-proto/Cargo.toml",
    "crates/nova-proto/src",
];

/// Variables of the outer cargo that would change what the inner one builds.
const CLEARED: &[&str] = &[
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_LINKS",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "__CARGO_DEFAULT_LIB_METADATA",
];

/// And those that start so.
const CLEARED_PREFIXES: &[&str] = &["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PKG_", "CARGO_PROFILE_"];

fn main() {
    let manifest_dir = path_variable("CARGO_MANIFEST_DIR");
    let workspace = manifest_dir.join("../..");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    let target_dir = path_variable("OUT_DIR").join("agent-build");
    let mut build = Command::new(path_variable("CARGO"));
    build
        .current_dir(&workspace)
        .args(["build", "--package", "nova-agent", "--profile", PROFILE, "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir);
    for (name, _) in env::vars() {
        if CLEARED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            build.env_remove(name);
        }
    }
    for name in CLEARED {
        build.env_remove(name);
    }
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    match build.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("building nova-agent failed: {status}"),
        Err(error) => panic!("cargo cannot be started to build nova-agent: {error}"),
    }
    let agent = target_dir.join(TARGET).join(PROFILE).join("nova-agent");
    println!("cargo::rustc-env=NOVA_AGENT_PROGRAM={}", agent.display());
}

fn path_variable(name: &str) -> PathBuf {
    match env::var_os(name) {
        Some(value) => PathBuf::from(value),
        None => panic!("cargo sets {name} for build scripts"),
    }
}
