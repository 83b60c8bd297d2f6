//! `nova layer`: archives that functions share at `/opt`.
use super::client::Client;
use super::connection::UrlArgs;
use super::output::{self, Column, OutputArgs, cell, column, time, wide};
use crate::pack;
use anyhow::Context;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct LayerArgs {
    #[command(subcommand)]
    pub command: LayerCommand,
    #[command(flatten)]
    pub url: UrlArgs,
}

#[derive(Debug, Subcommand)]
pub enum LayerCommand {
    /// Upload a layer; functions get it when they are created or updated with --layer
    Publish {
        /// Its name
        name: String,
        /// What will be in /opt: a directory, or a tar.gz or zip archive
        path: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List layers
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Delete layers that no function uses
    Delete {
        /// Names of the layers
        #[arg(required = true)]
        names: Vec<String>,
    },
}

const COLUMNS: &[Column] = &[
    column("NAME", |l| cell(&l["name"])),
    column("VERSION", |l| cell(&l["version"])),
    column("SIZE", |l| match l["size"].as_u64() {
        Some(bytes) => format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0)),
        None => "-".to_owned(),
    }),
    column("UPDATED", |l| time(&l["updated_at"])),
    wide("HASH", |l| cell(&l["hash"]).chars().take(12).collect()),
];

/// `nova layer`
pub async fn layer(client: &Client, command: LayerCommand) -> anyhow::Result<ExitCode> {
    match command {
        LayerCommand::Publish { name, path, output } => {
            // A single file keeps its name.
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let archive = pack::pack(&path, &file).context("the layer cannot be packed")?;
            let layer = client.put_raw(&["layers", &name], archive).await?;
            output::print_one(&layer, COLUMNS, output.format)?;
        }
        LayerCommand::List { output } => {
            output::print_list(&client.list(&["layers"]).await?, COLUMNS, output.format)?;
        }
        LayerCommand::Delete { names } => {
            for name in names {
                client.delete(&["layers", &name]).await?;
                eprintln!("deleted {name}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
