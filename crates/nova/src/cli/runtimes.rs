//! `nova runtime list`: as the daemon sees them.
use super::client::Client;
use super::output::{self, Column, OutputArgs, cell, column, wide};
use serde_json::Value;
use std::process::ExitCode;

const COLUMNS: &[Column] = &[
    column("ID", |r| cell(&r["id"])),
    column("VERSION", |r| cell(&r["version"])),
    column("INSTALLED", |r| if r["installed"] == Value::Bool(true) { "yes" } else { "no" }.into()),
    column("SIZE", |r| match r["size"].as_u64() {
        Some(bytes) => format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0)),
        None => "-".to_owned(),
    }),
    column("MODES", |r| cell(&r["modes"])),
    column("BUILDERS", |r| cell(&r["builders"])),
    wide("MEMORY MIN", |r| format!("{} MiB", cell(&r["memory_min_mb"]))),
    wide("ALIASES", |r| cell(&r["aliases"])),
    wide("DIGEST", |r| cell(&r["digest"]).chars().take(12).collect()),
    wide("DESCRIPTION", |r| {
        cell(if r["image"].is_null() { &r["description"] } else { &r["image"] })
    }),
];

/// `nova runtime list`
pub async fn list(client: &Client, output: OutputArgs) -> anyhow::Result<ExitCode> {
    let runtimes = client.get(&["runtimes"], &[]).await?["items"].take();
    let runtimes = runtimes.as_array().cloned().unwrap_or_default();
    output::print_list(&runtimes, COLUMNS, output.format)?;
    Ok(ExitCode::SUCCESS)
}
