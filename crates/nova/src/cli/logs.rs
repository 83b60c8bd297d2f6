//! `nova logs`: what a function wrote.
use super::client::Client;
use super::connection::UrlArgs;
use super::output::{self, Format, cell, print_line, time};
use clap::{Args, ValueEnum};
use std::io::{self, IsTerminal};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Name of the function
    name: String,
    /// How many lines, the newest
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    tail: u32,
    /// Only of this call
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Only lines with this text
    #[arg(short, long, value_name = "TEXT")]
    q: Option<String>,
    /// How to print them
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORMAT")]
    output: LogFormat,
    #[command(flatten)]
    pub url: UrlArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Lines with their time
    Text,
    /// Lines with their time, call and stream
    Wide,
    Json,
    Yaml,
}

/// `nova logs`
pub async fn logs(client: &Client, args: LogsArgs) -> anyhow::Result<ExitCode> {
    let narrowed = args.request_id.is_some() || args.q.is_some();
    let mut query = vec![("tail", args.tail.to_string())];
    query.extend(args.request_id.map(|id| ("request_id", id)));
    query.extend(args.q.map(|text| ("q", text)));
    let mut answer = client.get(&["functions", &args.name, "logs"], &query).await?;
    let items = answer["items"].take();
    if items.as_array().is_some_and(Vec::is_empty) {
        match narrowed {
            true => eprintln!("no log lines of {} match", args.name),
            false => eprintln!("no log lines of {} yet", args.name),
        }
    }
    match args.output {
        LogFormat::Json => output::print_value(&items, Format::Json)?,
        LogFormat::Yaml => output::print_value(&items, Format::Yaml)?,
        LogFormat::Text | LogFormat::Wide => {
            for line in items.as_array().into_iter().flatten() {
                let at = time(&line["time"]);
                let text = output::log_text(&cell(&line["text"]), io::stdout().is_terminal());
                let wide = matches!(args.output, LogFormat::Wide);
                let origin = wide
                    .then(|| format!(" {} {}", cell(&line["request_id"]), cell(&line["stream"])));
                print_line(&format!("{at}{} {text}", origin.unwrap_or_default()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
