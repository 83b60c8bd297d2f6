//! `nova invoke`: the function's result on stdout, as it was sent; the rest on stderr.
//!
//! With `--local` the function is code on this machine, and the daemon one of its own; see [`local`].
use super::client::Client;
use super::connection::{DataDirArgs, UrlArgs};
use super::function_args::LocalArgs;
use super::local;
use super::output::{self, Format, print_line};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use nova_domain::{FunctionError, Phases};
use nova_proto::PAYLOAD_MAX_BYTES;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct InvokeArgs {
    /// Name of the function; with --local the path of its code [default: .]
    #[arg(value_name = "FUNCTION", required_unless_present = "local")]
    function: Option<String>,
    /// Run code of this machine once, in a container and without a daemon: a project with a nova.yaml, or
    /// any file, directory or archive and a runtime. Needs root
    #[arg(long)]
    pub local: bool,
    #[command(flatten)]
    given: LocalArgs,
    /// The input: JSON, @FILE, or - for stdin
    #[arg(short, long, value_name = "JSON", default_value = "{}", allow_hyphen_values = true)]
    payload: String,
    /// Print what the function wrote, to stderr
    #[arg(long)]
    tail: bool,
    /// Print the whole answer instead of the result alone
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<AnswerFormat>,
    #[command(flatten)]
    url: UrlArgs,
}

/// How to print a whole answer.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum AnswerFormat {
    Json,
    Yaml,
}

#[derive(Deserialize)]
struct Answer<'a> {
    request_id: String,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    error: Option<FunctionError>,
    duration_ms: f64,
    start: String,
    phases: Phases,
    #[serde(default)]
    logs: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// `nova invoke`
pub async fn invoke(args: InvokeArgs, data_dir: &DataDirArgs) -> anyhow::Result<ExitCode> {
    let payload = read_payload(&args.payload)?;
    if args.local {
        let path = args.function.as_deref().unwrap_or(".");
        return local::invoke(Path::new(path), args.given, payload, args.output, &data_dir.path())
            .await;
    }
    let (client, name) = (args.url.client(data_dir)?, args.function.unwrap_or_default());
    let answer = call(&client, &name, payload, args.tail).await?;
    show(&name, &answer, args.output)
}

/// Calls a function; the answer as it was sent, with the log where that is wanted.
pub async fn call(
    client: &Client,
    name: &str,
    payload: Vec<u8>,
    logs: bool,
) -> anyhow::Result<Vec<u8>> {
    let query: &[(&str, String)] = if logs { &[("logs", "true".into())] } else { &[] };
    Ok(client.post_raw(&["functions", name, "invoke"], query, payload).await?)
}

/// Prints an answer: log lines, result, summary and failure.
pub fn show(name: &str, bytes: &[u8], output: Option<AnswerFormat>) -> anyhow::Result<ExitCode> {
    let answer: Answer = serde_json::from_slice(bytes).context("the answer makes no sense")?;
    for line in &answer.logs {
        eprintln!("{}", output::log_text(&line.text, io::stderr().is_terminal()));
    }
    match output {
        Some(AnswerFormat::Json) => {
            output::print_value(&serde_json::from_slice(bytes)?, Format::Json)?
        }
        Some(AnswerFormat::Yaml) => {
            output::print_value(&serde_json::from_slice(bytes)?, Format::Yaml)?
        }
        None => {
            if let Some(result) = answer.output {
                print_line(result.get())?;
            }
            eprintln!("{}", summary(&answer));
        }
    }
    match answer.error {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => {
            let kind = serde_json::to_string(&error.kind)?;
            eprintln!(
                "error: function {name} failed: {} [{}]",
                error.message,
                kind.trim_matches('"')
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

fn summary(answer: &Answer<'_>) -> String {
    let Answer { request_id, duration_ms, start, phases, .. } = answer;
    let Phases { queue_ms, acquire_ms, boot_ms, init_ms, exec_ms } = phases;
    format!(
        "request {request_id}: {start} start, {duration_ms:.1} ms (queue {queue_ms:.1}, acquire \
         {acquire_ms:.1}, boot {boot_ms:.1}, init {init_ms:.1}, exec {exec_ms:.1})"
    )
}

/// The payload that was given, as bytes that are JSON.
pub fn read_payload(given: &str) -> anyhow::Result<Vec<u8>> {
    let (bytes, whence) = if given == "-" {
        (read_bounded(std::io::stdin().lock()).context("stdin")?, "stdin".to_owned())
    } else if let Some(path) = given.strip_prefix('@') {
        let file = std::fs::File::open(path).with_context(|| format!("payload file {path}"))?;
        (read_bounded(file).with_context(|| format!("payload file {path}"))?, path.to_owned())
    } else {
        (given.as_bytes().to_vec(), "the payload".to_owned())
    };
    if bytes.len() > PAYLOAD_MAX_BYTES {
        let limit = PAYLOAD_MAX_BYTES / (1024 * 1024);
        bail!(
            "{whence} is over the limit of {limit} MiB; send less, or a reference to where the data \
             is [payload_too_large]"
        );
    }
    if let Err(error) = serde_json::from_slice::<&RawValue>(&bytes) {
        bail!("{whence} is not JSON: {error}; give JSON, for example -p '{{\"name\": \"Ada\"}}'");
    }
    Ok(bytes)
}

/// One byte more than is allowed is enough to see that it is too much.
fn read_bounded(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(PAYLOAD_MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
