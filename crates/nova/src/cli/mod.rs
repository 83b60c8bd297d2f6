//! The command line: flags and what they mean. Each command lives in a module of its own; all but
//! `daemon`, `runtime add`, `import` and `remove`, `setup`, `doctor`, `init` and `invoke --local` are clients of the daemon.
//!
//! Data goes to stdout, everything else to stderr; an error says what to try next. Exit status: 0
//! success, 1 a function failed or a request was refused, 2 the command line makes no sense.
mod build;
mod client;
mod connection;
mod doctor;
mod function_args;
mod functions;
mod import;
mod installation;
mod invoke;
mod layers;
mod local;
mod logs;
mod output;
mod progress;
mod project;
mod runtimes;
mod secrets;
#[cfg(test)]
mod tests;

use crate::{agent, daemon};
use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use connection::{DataDirArgs, UrlArgs};
use function_args::FunctionArgs;
use import::{FunctionImageArgs, ImportArgs};
use output::OutputArgs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Nova: your functions, each in a microVM of its own.
#[derive(Debug, Parser)]
#[command(name = "nova", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    data_dir: DataDirArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: the HTTP API and the functions
    Daemon(DaemonArgs),
    /// Create a function
    Register(RegisterArgs),
    /// List functions
    List(ListArgs),
    /// Show one function
    Get(GetArgs),
    /// Change a function; what is not given stays as it is
    Update(UpdateArgs),
    /// Delete functions
    Delete(DeleteArgs),
    /// Call a function and print its result
    Invoke(invoke::InvokeArgs),
    /// Make a project: a program, an event to call it with, and its settings
    Init(project::init::InitArgs),
    /// Deploy a project on every save, call it, and show its log and result
    Dev(project::dev::DevArgs),
    /// Show what a function wrote
    Logs(logs::LogsArgs),
    /// List, install and remove language runtimes
    #[command(subcommand)]
    Runtime(RuntimeCommand),
    /// Set, show, list and delete secrets
    Secret(secrets::SecretArgs),
    /// Publish, list and delete layers: archives that functions share at /opt
    Layer(layers::LayerArgs),
    /// Check this host and say what to do about each finding
    Doctor(doctor::DoctorArgs),
    /// Install the guest kernel and Firecracker into the data directory
    Setup(SetupArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the embedded guest agent to a file, for packaging
    #[command(hide = true)]
    AgentBinary {
        /// The file
        path: PathBuf,
    },
}

/// Flags go before environment variables (NOVA_LISTEN, ...), those before the file.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Address to listen on [env: NOVA_LISTEN] [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Where functions run: auto, firecracker, container or none [env: NOVA_BACKEND] [default: auto]
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<String>,
    /// Configuration file, TOML or YAML
    #[arg(long, value_name = "FILE", env = "NOVA_CONFIG")]
    pub config: Option<PathBuf>,
    /// Format of the log on stderr: text or json [env: NOVA_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Ask nobody for a key; only together with a loopback address
    #[arg(long)]
    pub insecure_no_auth: bool,
}

#[derive(Debug, Args)]
struct SetupArgs {
    /// Take Firecracker and its jailer from this directory
    #[arg(long, value_name = "DIR")]
    firecracker_dir: Option<PathBuf>,
    /// Take the distribution's newest kernel instead of the one that Nova was tested with
    #[arg(long)]
    latest_kernel: bool,
}

#[derive(Debug, Args)]
struct RegisterArgs {
    /// Name of the function
    name: String,
    #[command(flatten)]
    image: FunctionImageArgs,
    #[command(flatten)]
    function: FunctionArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    url: UrlArgs,
}

#[derive(Debug, Args)]
struct UpdateArgs {
    /// Name of the function
    name: String,
    #[command(flatten)]
    image: FunctionImageArgs,
    #[command(flatten)]
    function: FunctionArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    url: UrlArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    url: UrlArgs,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// Name of the function
    name: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    url: UrlArgs,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    /// Names of the functions
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    url: UrlArgs,
}

#[derive(Debug, Subcommand)]
enum RuntimeCommand {
    /// List the runtimes that are installed and those that can be
    List(ListArgs),
    /// Make and install runtime images in the data directory
    Add {
        /// Runtimes, for example python; with --builder languages, for example go
        #[arg(required = true, value_name = "RUNTIME")]
        ids: Vec<String>,
        /// Install the compiler of a language, so that functions can be deployed as source
        #[arg(long)]
        builder: bool,
    },
    /// Make a runtime of somebody's own container image, for linux/amd64
    Import(ImportArgs),
    /// Remove runtime images from the data directory
    Remove {
        /// Runtimes, for example python; with --builder languages, for example go
        #[arg(required = true, value_name = "RUNTIME")]
        ids: Vec<String>,
        /// Remove the compiler of a language
        #[arg(long)]
        builder: bool,
    },
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, those left out that it quotes already.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        text
    })
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "nova", &mut script);
        output::print_line(String::from_utf8_lossy(&script).trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::AgentBinary { path } = &cli.command {
        write_agent(path).with_context(|| path.display().to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = match cli.command {
        Command::Daemon(_) => tokio::runtime::Runtime::new()?,
        Command::Invoke(ref args) if args.local => tokio::runtime::Runtime::new()?,
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    let Cli { data_dir, command } = cli;
    let client = |url: &UrlArgs| url.client(&data_dir);
    runtime.block_on(async {
        match command {
            Command::Daemon(args) => daemon::main(args, data_dir.given()).await,
            Command::Register(RegisterArgs { name, image, function, output, url }) => {
                let client = client(&url)?;
                let image = image.make(&data_dir.path()).await?;
                functions::register(&client, &name, image, function, output).await
            }
            Command::List(args) => functions::list(&client(&args.url)?, args.output).await,
            Command::Get(args) => {
                functions::get(&client(&args.url)?, &args.name, args.output).await
            }
            Command::Update(UpdateArgs { name, image, function, output, url }) => {
                let client = client(&url)?;
                let image = image.make(&data_dir.path()).await?;
                functions::update(&client, &name, image, function, output).await
            }
            Command::Delete(args) => functions::delete(&client(&args.url)?, &args.names).await,
            Command::Invoke(args) => invoke::invoke(args, &data_dir).await,
            Command::Init(args) => project::init::init(args),
            Command::Dev(args) => project::dev::dev(&client(&args.url)?, args).await,
            Command::Logs(args) => logs::logs(&client(&args.url)?, args).await,
            Command::Runtime(RuntimeCommand::List(args)) => {
                runtimes::list(&client(&args.url)?, args.output).await
            }
            Command::Runtime(RuntimeCommand::Add { ids, builder: false }) => {
                installation::add_runtimes(&data_dir.path(), &ids).await
            }
            Command::Runtime(RuntimeCommand::Add { ids, builder: true }) => {
                installation::add_builders(&data_dir.path(), &ids).await
            }
            Command::Runtime(RuntimeCommand::Import(args)) => {
                import::import(&data_dir.path(), args).await
            }
            Command::Runtime(RuntimeCommand::Remove { ids, builder: false }) => {
                installation::remove_runtimes(&data_dir.path(), &ids).await
            }
            Command::Runtime(RuntimeCommand::Remove { ids, builder: true }) => {
                installation::remove_builders(&data_dir.path(), &ids).await
            }
            Command::Secret(args) => secrets::secret(&client(&args.url)?, args.command).await,
            Command::Layer(args) => layers::layer(&client(&args.url)?, args.command).await,
            Command::Doctor(args) => doctor::doctor(data_dir.given(), args).await,
            Command::Setup(args) => installation::setup(&data_dir.path(), args).await,
            Command::Completions { .. } | Command::AgentBinary { .. } => Ok(ExitCode::SUCCESS),
        }
    })
}

fn write_agent(path: &Path) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o755).open(path)?;
    file.write_all(agent::PROGRAM)
}
