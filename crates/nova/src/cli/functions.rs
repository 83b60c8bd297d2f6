//! `nova register`, `list`, `get`, `update`, `delete`.
use super::build;
use super::client::{Client, ClientError};
use super::function_args::FunctionArgs;
use super::output::{self, Column, OutputArgs, cell, column, time, wide};
use anyhow::bail;
use nova_domain::{Mode, default_handler};
use reqwest::Method;
use serde_json::{Value, json};
use std::process::ExitCode;

const COLUMNS: &[Column] = &[
    column("NAME", |f| cell(&f["name"])),
    column("RUNTIME", |f| cell(&f["runtime"])),
    column("MODE", |f| cell(&f["mode"])),
    column("MEMORY", |f| format!("{} MiB", cell(&f["memory_mb"]))),
    column("TIMEOUT", |f| format!("{} s", cell(&f["timeout_s"]))),
    column("VERSION", |f| cell(&f["version"])),
    column("STATUS", |f| cell(&f["status"])),
    column("UPDATED", |f| time(&f["updated_at"])),
    wide("REVISION", |f| cell(&f["revision"])),
    wide("HANDLER", |f| cell(&f["handler"])),
    wide("REPLICAS", |f| format!("{}-{}", cell(&f["min_replicas"]), maximum(&f["max_replicas"]))),
    wide("NETWORK", |f| match &f["network"]["allow"] {
        Value::Null => cell(&f["network"]),
        allowed => cell(allowed),
    }),
    wide("CODE", |f| cell(&f["code_hash"]).chars().take(12).collect()),
    wide("ID", |f| cell(&f["id"])),
];

fn maximum(replicas: &Value) -> String {
    if replicas == &json!(0) { String::new() } else { cell(replicas) }
}

/// `nova register`
pub async fn register(
    client: &Client,
    name: &str,
    args: FunctionArgs,
    output: OutputArgs,
) -> anyhow::Result<ExitCode> {
    if !args.has_runtime() {
        bail!("a runtime is needed: --runtime RUNTIME; `nova runtime list` shows them");
    }
    if args.code().is_none() {
        bail!("code is needed: --code PATH, a file, a directory or an archive");
    }
    let mode = args.mode().unwrap_or(Mode::Process);
    let handler = args.handler().unwrap_or(default_handler(mode)).to_owned();
    let mut body = args.body(mode, &handler)?;
    body.insert("name".into(), json!(name));
    let created = client.send_json(Method::POST, &["functions"], &Value::Object(body)).await?;
    let created = build::follow(client, created).await?;
    output::print_one(&created, COLUMNS, output.format)?;
    Ok(ExitCode::SUCCESS)
}

/// `nova list`
pub async fn list(client: &Client, output: OutputArgs) -> anyhow::Result<ExitCode> {
    let functions = client.list(&["functions"]).await?;
    output::print_list(&functions, COLUMNS, output.format)?;
    Ok(ExitCode::SUCCESS)
}

/// `nova get`
pub async fn get(client: &Client, name: &str, output: OutputArgs) -> anyhow::Result<ExitCode> {
    let function = client.get(&["functions", name], &[]).await?;
    output::print_one(&function, COLUMNS, output.format)?;
    Ok(ExitCode::SUCCESS)
}

/// `nova update`
pub async fn update(
    client: &Client,
    name: &str,
    args: FunctionArgs,
    output: OutputArgs,
) -> anyhow::Result<ExitCode> {
    let (mode, handler) = match args.code() {
        Some(_) => kept_or_given(client, name, &args).await?,
        // Only code is stored somewhere.
        None => (Mode::Process, String::new()),
    };
    let body = args.body(mode, &handler)?;
    if body.is_empty() {
        bail!("nothing to change; `nova update --help` shows what can be changed");
    }
    let path = ["functions", name];
    let updated = client.send_json(Method::PATCH, &path, &Value::Object(body)).await?;
    let updated = build::follow(client, updated).await?;
    output::print_one(&updated, COLUMNS, output.format)?;
    Ok(ExitCode::SUCCESS)
}

/// The mode and handler that an updated function will have: where a single file of code is stored.
async fn kept_or_given(
    client: &Client,
    name: &str,
    args: &FunctionArgs,
) -> anyhow::Result<(Mode, String)> {
    let function = client.get(&["functions", name], &[]).await?;
    let before: Mode = serde_json::from_value(function["mode"].clone())?;
    let mode = args.mode().unwrap_or(before);
    let kept = cell(&function["handler"]);
    let handler = match args.handler() {
        Some(given) => given.to_owned(),
        // The daemon gives the new mode's own to a function whose handler nobody chose.
        None if kept == default_handler(before) => default_handler(mode).to_owned(),
        None => kept,
    };
    Ok((mode, handler))
}

/// `nova delete`: all that can be deleted are, also where one cannot.
pub async fn delete(client: &Client, names: &[String]) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match client.delete(&["functions", name]).await {
            Ok(()) => eprintln!("deleted {name}"),
            Err(error @ ClientError::Refused { .. }) => {
                eprintln!("error: {error}");
                code = ExitCode::FAILURE;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(code)
}
