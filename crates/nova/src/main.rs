//! The `nova` program: command line, daemon and HTTP API in one binary, the guest agent embedded.
//!
//! [`cli`] reads the command line; [`daemon`] assembles the other crates and serves [`api`]; the rest
//! is what these share.
#![forbid(unsafe_code)]

mod agent;
mod api;
mod cli;
mod config;
mod daemon;
mod data_dir;
mod idle_connections;
mod pack;
mod serve;
mod signals;
mod slow_client;
mod suggest;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
