//! How data is shown: a table for people, JSON and YAML for programs.
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::{self, Write};

/// How to print what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The most important columns
    Table,
    /// All columns
    Wide,
    /// JSON, as the daemon sent it
    Json,
    /// YAML
    Yaml,
}

/// Accepted wherever something is listed or shown.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// How to print it
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub format: Format,
}

/// A column of a table.
pub struct Column {
    title: &'static str,
    cell: fn(&Value) -> String,
    wide_only: bool,
}

/// A column that every table has.
pub const fn column(title: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { title, cell, wide_only: false }
}

/// A column of the wide table only.
pub const fn wide(title: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { title, cell, wide_only: true }
}

/// Prints a list.
pub fn print_list(items: &[Value], columns: &[Column], format: Format) -> io::Result<()> {
    match format {
        Format::Table | Format::Wide => print_table(items, columns, format),
        Format::Json | Format::Yaml => print_value(&Value::Array(items.to_vec()), format),
    }
}

/// Prints one thing: as a table of one row, or whole.
pub fn print_one(item: &Value, columns: &[Column], format: Format) -> io::Result<()> {
    match format {
        Format::Table | Format::Wide => print_table(std::slice::from_ref(item), columns, format),
        Format::Json | Format::Yaml => print_value(item, format),
    }
}

/// Prints a value as JSON, or as YAML.
pub fn print_value(value: &Value, format: Format) -> io::Result<()> {
    let text = match format {
        Format::Yaml => serde_saphyr::to_string(value).map_err(io::Error::other)?,
        Format::Table | Format::Wide | Format::Json => format!("{value:#}"),
    };
    print_line(text.trim_end())
}

/// What a function wrote, as it is shown: on a terminal, characters that would steer it are written
/// out. Elsewhere the text is what it was.
pub fn log_text(text: &str, to_terminal: bool) -> String {
    let steers = |c: char| c.is_control() && c != '\t';
    if !to_terminal || !text.contains(steers) {
        return text.to_owned();
    }
    let shown = |c: char| if steers(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// Prints a line of data. A reader that has seen enough (`| head`) is no error.
pub fn print_line(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn print_table(items: &[Value], columns: &[Column], format: Format) -> io::Result<()> {
    let shown = || columns.iter().filter(|column| format == Format::Wide || !column.wide_only);
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(shown().map(|column| column.title));
    for item in items {
        table.add_row(shown().map(|column| (column.cell)(item)));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim().to_owned()).collect();
    print_line(&lines.join("\n"))
}

/// A value of a table's cell; what is missing is a dash.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A time without its fractions.
pub fn time(value: &Value) -> String {
    let text = cell(value);
    text.split('.').next().unwrap_or(&text).trim_end_matches('Z').replace('T', " ")
}
