//! `bench/run`: what a warm call costs beside doing the same with nothing in between.
//!
//! Machines are shared and noisy, so nothing here is judged by a wall-clock time alone: Nova and its
//! raw baselines run interleaved, round by round, and the result is the median of the rounds' ratios.
//! Baselines are processes of their own, started from this same program.
#![forbid(unsafe_code)]

mod baseline;
mod client;
mod daemon;
mod report;
mod statistics;
mod warm;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Benchmarks of Nova against raw baselines.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// B3: a warm call at concurrency 1, and the gateway's processor time at concurrency 16.
    Warm {
        /// The nova binary.
        #[arg(long)]
        nova: PathBuf,
        /// Where the results go, as JSON and as a page.
        #[arg(long)]
        results: PathBuf,
        /// The page.
        #[arg(long)]
        page: PathBuf,
        /// What was measured: the source's git sha.
        #[arg(long)]
        git_sha: String,
    },
    /// A baseline: an HTTP server that answers each POST with its body.
    #[command(hide = true)]
    HttpEcho,
    /// A baseline: a Unix socket that sends back each line.
    #[command(hide = true)]
    UnixEcho {
        /// The socket.
        path: PathBuf,
    },
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Warm { nova, results, page, git_sha } => {
            let measured = warm::measure(&nova).await?;
            report::write(&measured, &git_sha, &results, &page)
        }
        Command::HttpEcho => baseline::serve_http().await,
        Command::UnixEcho { path } => baseline::serve_unix(&path).await,
    }
}
