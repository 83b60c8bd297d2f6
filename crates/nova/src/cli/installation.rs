//! `nova setup`, `nova runtime add` and `remove`: what a data directory needs to run functions.
//!
//! These work on the data directory itself, whether or not a daemon uses it; one that does notices a
//! new runtime the next time somebody asks for it.
use super::progress::Shown;
use super::{SetupArgs, output};
use anyhow::bail;
use nova_domain::RuntimeId;
use nova_vm::images::{InstallError, Installer, KernelChoice};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `nova runtime add`
pub async fn add_runtimes(data_dir: &Path, ids: &[String]) -> anyhow::Result<ExitCode> {
    let installer = Installer::new(data_dir);
    for id in parse(ids)? {
        let progress = Shown::new();
        let added = installer.add_runtime(&id, &progress).await;
        progress.finish();
        let image = added?.image;
        let size = image.size / (1024 * 1024);
        output::print_line(&format!("{} {} ({size} MiB)", image.id, image.version))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `nova runtime add --builder`
pub async fn add_builders(data_dir: &Path, languages: &[String]) -> anyhow::Result<ExitCode> {
    let installer = Installer::new(data_dir);
    for language in parse(languages)? {
        let progress = Shown::new();
        let added = installer.add_builder(&language, &progress).await;
        progress.finish();
        let record = added?;
        let size = record.size / (1024 * 1024);
        let line = format!("builder {} {} ({size} MiB)", record.language, record.version);
        output::print_line(&line)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `nova runtime remove --builder`
pub async fn remove_builders(data_dir: &Path, languages: &[String]) -> anyhow::Result<ExitCode> {
    let installer = Installer::new(data_dir);
    for language in parse(languages)? {
        installer.remove_builder(&language).await?;
        eprintln!("removed builder {language}");
    }
    Ok(ExitCode::SUCCESS)
}

/// `nova runtime remove`
pub async fn remove_runtimes(data_dir: &Path, ids: &[String]) -> anyhow::Result<ExitCode> {
    let installer = Installer::new(data_dir);
    let shared = std::env::var_os("NOVA_ARTIFACTS").map(PathBuf::from);
    for id in parse(ids)? {
        let removed = installer.remove_runtime(&id).await;
        if let (Err(InstallError::NotInstalled(_)), Some(record)) =
            (&removed, shared_record(shared.as_deref(), &id))
        {
            bail!(
                "runtime {id} is not in {}: it lies in NOVA_ARTIFACTS, which nova does not change; \
                 remove {} to be without it",
                data_dir.display(),
                record.display()
            );
        }
        removed?;
        eprintln!("removed {id}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The record of a runtime in the artefacts that several daemons share, if it is there.
fn shared_record(artifacts: Option<&Path>, id: &RuntimeId) -> Option<PathBuf> {
    let record = artifacts?.join("images").join(format!("{id}.json"));
    record.is_file().then_some(record)
}

/// `nova setup`
pub async fn setup(data_dir: &Path, args: SetupArgs) -> anyhow::Result<ExitCode> {
    let installer = Installer::new(data_dir);
    let kernel = match args.latest_kernel {
        true => KernelChoice::Latest,
        false => KernelChoice::Pinned,
    };
    let progress = Shown::new();
    let kernel = installer.install_kernel(kernel, &progress).await;
    let firecracker = match &kernel {
        Ok(_) => {
            Some(installer.install_firecracker(args.firecracker_dir.as_deref(), &progress).await)
        }
        Err(_) => None,
    };
    progress.finish();
    let kernel = kernel?;
    output::print_line(&format!("kernel {} {}", kernel.package, kernel.version))?;
    if let Some(firecracker) = firecracker {
        output::print_line(&format!("firecracker {}", firecracker?.version))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(ids: &[String]) -> anyhow::Result<Vec<RuntimeId>> {
    Ok(ids.iter().map(|id| RuntimeId::parse(id)).collect::<Result<_, _>>()?)
}
