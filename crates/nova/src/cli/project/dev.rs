//! `nova dev`: deploys a project whenever it changes, calls it, and shows what came of it.
//!
//! ```text
//! look at the files ─▶ changed? ─▶ build, deploy, call, show ─▶ look again
//!                         └─ no ─▶ wait for the kernel to report something
//! ```
//! Whatever fails is shown and the watching goes on; only a directory that is gone, or is no project at the
//! start, ends it.
use super::super::client::Client;
use super::super::connection::UrlArgs;
use super::super::{invoke, with_causes};
use super::watch::Watch;
use super::{EVENT_FILE, Project};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Directory of the project, with its nova.yaml
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// The input: JSON or @FILE [default: @event.json of the project, or {}]
    #[arg(short, long, value_name = "JSON", allow_hyphen_values = true)]
    payload: Option<String>,
    #[command(flatten)]
    pub url: UrlArgs,
}

/// `nova dev`
pub async fn dev(client: &Client, args: DevArgs) -> anyhow::Result<ExitCode> {
    let name = Project::read(&args.directory)?.name;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        followed = follow(client, &args) => return followed,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    eprintln!("stopped watching; function {name} stays: `nova delete {name}` removes it");
    Ok(ExitCode::SUCCESS)
}

async fn follow(client: &Client, args: &DevArgs) -> anyhow::Result<ExitCode> {
    let mut watch = Watch::new(&args.directory)?;
    let mut seen = None;
    loop {
        let project = Project::read(&args.directory);
        let built = project.as_ref().ok().and_then(Project::built);
        let turned = match watch.look(built.as_deref()) {
            Ok(now) if seen.as_ref() == Some(&now) => None,
            Ok(now) => {
                seen = Some(now);
                match project {
                    Ok(project) => Some(turn(client, args, &project).await),
                    Err(error) => Some(Err(error)),
                }
            }
            Err(error) if args.directory.is_dir() => Some(Err(error)),
            Err(error) => return Err(error),
        };
        if let Some(turned) = turned {
            if let Err(error) = turned {
                eprintln!("error: {}", with_causes(&error));
            }
            eprintln!("watching {}; Ctrl-C ends it", args.directory.display());
        }
        watch.changed().await?;
    }
}

/// One save.
async fn turn(client: &Client, args: &DevArgs, project: &Project) -> anyhow::Result<()> {
    let function = project.deploy(client).await?;
    let name = project.name();
    eprintln!("deployed {name}, version {}", function["version"]);
    let event = args.directory.join(EVENT_FILE);
    let payload = match &args.payload {
        Some(given) => given.clone(),
        None if event.exists() => format!("@{}", event.display()),
        None => "{}".to_owned(),
    };
    let answer = invoke::call(client, name, invoke::read_payload(&payload)?, true).await?;
    invoke::show(name, &answer, None)?;
    Ok(())
}
