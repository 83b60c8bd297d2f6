//! `nova register`, `list`, `get`, `update`, `delete`.
use super::build;
use super::client::{Client, ClientError};
use super::function_args::FunctionArgs;
use super::output::{self, Column, OutputArgs, cell, column, time, wide};
use anyhow::bail;
use nova_domain::{Mode, RuntimeImage, default_handler};
use reqwest::Method;
use serde_json::{Map, Value, json};
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
    wide("LAYERS", |f| {
        let layers = f["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        cell(&layers.iter().map(|layer| layer["name"].clone()).collect::<Value>())
    }),
    wide("CODE", |f| cell(&f["code_hash"]).chars().take(12).collect()),
    wide("ID", |f| cell(&f["id"])),
];

fn maximum(replicas: &Value) -> String {
    if replicas == &json!(0) { String::new() } else { cell(replicas) }
}

/// `nova register`; `image` is the runtime that was just made of an image.
pub async fn register(
    client: &Client,
    name: &str,
    image: Option<RuntimeImage>,
    args: FunctionArgs,
    output: OutputArgs,
) -> anyhow::Result<ExitCode> {
    match (&image, args.runtime(), args.code()) {
        (Some(_), _, _) | (None, Some(_), Some(_)) => {}
        (None, None, _) => bail!(
            "a runtime is needed: --runtime RUNTIME; `nova runtime list` shows them; or an image of \
             your own: --image IMAGE"
        ),
        (None, Some(runtime), None) if brings_program(client, runtime).await? => {}
        (None, Some(_), None) => {
            bail!("code is needed: --code PATH, a file, a directory or an archive")
        }
    }
    let found = image.as_ref().and_then(|image| image.own.as_ref()).map(|own| own.mode);
    let mut body = new_body(name, found.unwrap_or(Mode::Process), args)?;
    if let Some(image) = image {
        body.insert("runtime".into(), json!(image.id));
    }
    let created = client.send_json(Method::POST, &["functions"], &Value::Object(body)).await?;
    let created = build::follow(client, created).await?;
    output::print_one(&created, COLUMNS, output.format)?;
    Ok(ExitCode::SUCCESS)
}

/// The body that creates a function, which is of this mode unless another one is given.
pub fn new_body(name: &str, mode: Mode, args: FunctionArgs) -> anyhow::Result<Map<String, Value>> {
    let mode = args.mode().unwrap_or(mode);
    let handler = args.handler().unwrap_or(default_handler(mode)).to_owned();
    let mut body = args.body(mode, &handler)?;
    body.insert("name".into(), json!(name));
    Ok(body)
}

/// Whether a runtime is somebody's own image, on which functions need no code.
async fn brings_program(client: &Client, runtime: &str) -> anyhow::Result<bool> {
    let runtimes = client.get(&["runtimes"], &[]).await?;
    let all = runtimes["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(all.iter().any(|one| one["id"] == runtime && !one["image"].is_null()))
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

/// `nova update`; `image` is the runtime that was just made of an image.
pub async fn update(
    client: &Client,
    name: &str,
    image: Option<RuntimeImage>,
    args: FunctionArgs,
    output: OutputArgs,
) -> anyhow::Result<ExitCode> {
    let (mode, handler) = match args.code() {
        Some(_) => kept_or_given(client, name, &args).await?,
        // Only code is stored somewhere.
        None => (Mode::Process, String::new()),
    };
    let mut body = args.body(mode, &handler)?;
    if let Some(image) = image {
        body.insert("runtime".into(), json!(image.id));
    }
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
