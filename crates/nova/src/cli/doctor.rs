//! `nova doctor`: what is wrong with this host and what to do about it.
//!
//! The host's side is examined by `nova-vm`, with the configuration that a daemon started here would
//! have; this adds what only the binary knows: the daemon and its store. Exit status 1 when
//! anything is broken; warnings alone are 0. A signal ends it with 128 and the signal's number, once
//! nothing of the probe guest is left.
use super::client::Client;
use super::output::{self, Format, print_line};
use crate::config::{Config, RawConfig};
use crate::data_dir::announced_url;
use crate::signals::Signals;
use crate::{agent, daemon};
use clap::Args;
use nova_vm::doctor::{Finding, Status, Subject, examine};
use reqwest::Url;
use serde_json::json;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::SignalKind;
use tokio_util::sync::CancellationToken;

/// How long a running daemon may take to say how it is.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// How every SQLite database begins.
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Where functions are to run: auto, firecracker, container or none [env: NOVA_BACKEND]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// The daemon's configuration file
    #[arg(long, value_name = "FILE", env = "NOVA_CONFIG")]
    config: Option<PathBuf>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// `nova doctor`
pub async fn doctor(data_dir: Option<PathBuf>, args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut raw = RawConfig::read(args.config.as_deref(), data_dir.as_deref())?;
    raw.add_flag("backend", args.backend);
    let config = Config::new(raw)?;
    let mut findings = match examine_until_signalled(&subject(&config)).await? {
        Ok(findings) => findings,
        Err(signal) => {
            // Whoever hung up reads nothing, which is no error.
            let _ =
                writeln!(io::stderr(), "error: interrupted; nothing of the probe guest is left");
            // Signals are numbered from 1 to 64.
            return Ok(ExitCode::from(128 + signal.as_raw_value() as u8));
        }
    };
    findings.push(daemon_health(&config.data_dir).await);
    findings.push(store(&config.data_dir));
    if args.json {
        output::print_value(&json!({ "findings": findings }), Format::Json)?;
    } else {
        for finding in &findings {
            print(finding)?;
        }
    }
    let broken = findings.iter().any(|finding| finding.status == Status::Fail);
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is found, or the signal that came before.
async fn examine_until_signalled(
    subject: &Subject,
) -> anyhow::Result<Result<Vec<Finding>, SignalKind>> {
    let mut signals = Signals::with_hangup()?;
    let interrupted = CancellationToken::new();
    let mut examined = pin!(examine(subject, &interrupted));
    tokio::select! {
        Some(findings) = &mut examined => Ok(Ok(findings)),
        signal = signals.next() => {
            interrupted.cancel();
            // Waited for, whatever it finds now: it ends when nothing is left.
            examined.await;
            Ok(Err(signal))
        }
    }
}

fn subject(config: &Config) -> Subject {
    Subject {
        data_dir: config.data_dir.clone(),
        backend: config.backend,
        artifacts: daemon::artifacts(config),
        agent: agent::PROGRAM,
        oci_runtime: config.oci_runtime.clone(),
        network_range: config.network_range,
        probe_timeout: config.probe_timeout,
    }
}

fn print(finding: &Finding) -> io::Result<()> {
    let mark = match finding.status {
        Status::Ok => "ok  ",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    print_line(&format!("{mark}  {:<20} {}", finding.check, finding.detail))?;
    match &finding.fix {
        Some(fix) => print_line(&format!("      {:<20} -> {fix}", "")),
        None => Ok(()),
    }
}

fn found(check: &'static str, status: Status, detail: String, fix: Option<&str>) -> Finding {
    Finding { check, status, detail, fix: fix.map(str::to_owned) }
}

/// A daemon that uses this data directory, if there is one.
async fn daemon_health(data_dir: &Path) -> Finding {
    const CHECK: &str = "daemon";
    let url = announced_url(data_dir).and_then(|url| Url::parse(&url).ok());
    let Some(url) = url else {
        return found(CHECK, Status::Ok, "none runs from this data directory".into(), None);
    };
    let Ok(client) = Client::new(url.clone(), None) else {
        return found(
            CHECK,
            Status::Warn,
            format!("{url} cannot be asked"),
            Some("check the host's TLS set-up"),
        );
    };
    match tokio::time::timeout(HEALTH_TIMEOUT, client.get(&["health"], &[])).await {
        Ok(Ok(health)) => {
            let (status, backend) = (&health["status"], &health["backend"]);
            found(CHECK, Status::Ok, format!("{url} answers: {status}, backend {backend}"), None)
        }
        Ok(Err(_)) | Err(_) => {
            let fix = "start it with `nova daemon`, unless it is meant to be stopped";
            found(CHECK, Status::Warn, format!("{url} does not answer"), Some(fix))
        }
    }
}

/// The database: looked at, never opened, so that nothing is changed.
fn store(data_dir: &Path) -> Finding {
    const CHECK: &str = "store";
    let path = data_dir.join(daemon::DATABASE_FILE);
    let shown = path.display().to_string();
    let mut start = Vec::new();
    let read = std::fs::File::open(&path)
        .and_then(|file| file.take(SQLITE_MAGIC.len() as u64).read_to_end(&mut start));
    match read {
        Ok(_) if start == SQLITE_MAGIC => found(CHECK, Status::Ok, shown, None),
        Ok(_) => {
            let fix = "restore it from your backup, or remove it to start without functions";
            found(CHECK, Status::Fail, format!("{shown} is not a database"), Some(fix))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            found(CHECK, Status::Ok, format!("{shown} will be made by the first run"), None)
        }
        Err(error) => {
            let fix = "run it as the user that the daemon runs as";
            found(CHECK, Status::Fail, format!("{shown}: {error}"), Some(fix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_database_is_broken_and_none_at_all_is_not() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(store(root.path()).status, Status::Ok);
        std::fs::write(root.path().join(daemon::DATABASE_FILE), "text").unwrap();
        let finding = store(root.path());
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.fix.unwrap().contains("backup"));
    }

    #[tokio::test]
    async fn a_daemon_that_is_gone_is_a_warning_with_a_fix() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(daemon_health(root.path()).await.status, Status::Ok);
        let mut directory = crate::data_dir::DataDir::take(root.path()).unwrap();
        directory.announce("http://127.0.0.1:1").unwrap();
        let finding = daemon_health(root.path()).await;
        assert_eq!(finding.status, Status::Warn);
        assert!(finding.fix.unwrap().contains("nova daemon"));
    }
}
