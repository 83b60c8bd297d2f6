//! `nova secret`: values go in from an argument, a file or stdin, and are never shown.
use super::client::Client;
use super::connection::UrlArgs;
use super::output::{self, Column, OutputArgs, cell, column, time, wide};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

/// Most bytes that are read of a value; the daemon's own limit is far below.
const VALUE_MAX_BYTES: u64 = 1024 * 1024;

const COLUMNS: &[Column] = &[
    column("NAME", |s| cell(&s["name"])),
    column("VERSION", |s| cell(&s["version"])),
    column("FUNCTIONS", |s| match s["functions"].as_array() {
        Some(functions) if functions.is_empty() => "all".to_owned(),
        _ => cell(&s["functions"]),
    }),
    column("UPDATED", |s| time(&s["updated_at"])),
    wide("CREATED", |s| time(&s["created_at"])),
];

#[derive(Debug, Args)]
pub struct SecretArgs {
    #[command(flatten)]
    pub url: UrlArgs,
    #[command(subcommand)]
    pub command: SecretCommand,
}

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Set a secret's value
    Set(SetArgs),
    /// Show a secret's name, version and functions; never its value
    Get {
        /// Name of the secret
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List secrets, without their values
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Delete secrets
    Delete {
        /// Names of the secrets
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// Name of the secret
    name: String,
    /// The value; left out, it is read from stdin, without a line end at its end
    #[arg(conflicts_with = "from_file", allow_hyphen_values = true)]
    value: Option<String>,
    /// Take the value from a file, every byte of it
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Function that may use it; left out, every function may
    #[arg(long = "function", value_name = "NAME")]
    functions: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// `nova secret ...`
pub async fn secret(client: &Client, command: SecretCommand) -> anyhow::Result<ExitCode> {
    match command {
        SecretCommand::Set(args) => {
            let value = read_value(args.value, args.from_file)?;
            let body = json!({ "value": value, "functions": args.functions });
            let set = client.send_json(Method::PUT, &["secrets", &args.name], &body).await?;
            output::print_one(&set, COLUMNS, args.output.format)?;
        }
        SecretCommand::Get { name, output } => {
            let secret = client.get(&["secrets", &name], &[]).await?;
            output::print_one(&secret, COLUMNS, output.format)?;
        }
        SecretCommand::List { output } => {
            let mut secrets = client.get(&["secrets"], &[]).await?;
            let items = secrets["items"].take();
            let items = items.as_array().cloned().unwrap_or_default();
            output::print_list(&items, COLUMNS, output.format)?;
        }
        SecretCommand::Delete { names } => {
            for name in names {
                client.delete(&["secrets", &name]).await?;
                eprintln!("deleted {name}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read_value(given: Option<String>, file: Option<PathBuf>) -> anyhow::Result<String> {
    let mut text = String::new();
    match (given, file) {
        (Some(value), _) => return Ok(value),
        (None, Some(path)) => {
            let file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
            file.take(VALUE_MAX_BYTES)
                .read_to_string(&mut text)
                .with_context(|| format!("{} is not text", path.display()))?;
        }
        (None, None) => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                eprintln!("type the value, then Ctrl-D:");
            }
            stdin.lock().take(VALUE_MAX_BYTES).read_to_string(&mut text).context("stdin")?;
            let end = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text));
            text = end.unwrap_or(&text).to_owned();
            if text.is_empty() {
                bail!("no value on stdin; give it as an argument, with --from-file or on stdin");
            }
        }
    }
    Ok(text)
}
