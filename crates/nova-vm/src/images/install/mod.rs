//! Makes the host's artefacts: runtime images, the guest kernel, Firecracker.
//!
//! ```text
//! manifest ─▶ packages, archives ─▶ tree ─▶ EROFS ─▶ SHA-256 ─▶ images/<digest>.erofs + images/<id>.json
//!                   (cached)     (temporary)        (renamed into place: whole or not there)
//! ```
//! One installation runs at a time per data directory, held by a lock file. What an interrupted one
//! left half made is removed by the next; what it had downloaded is used.
mod archive_files;
mod archives;
mod builder;
mod error;
mod firecracker;
mod firecracker_sources;
mod image;
mod import;
mod java_keystore;
mod kernel;
mod lock;
mod pins;
mod tree;

pub use error::InstallError;
pub use firecracker::FirecrackerRecord;
pub use import::ImportOptions;
pub use kernel::{KernelChoice, KernelRecord};

use super::artifacts::Artifacts;
use super::debian::Apt;
use super::files::remove_prefixed;
use super::progress::Progress;
use super::runtime::common_recipe;
use lock::InstallLock;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Puts the directory `made` in the place of `place`; who looks sees the old one or the new one, whole.
/// What was there before is then at `made`, to be removed.
fn exchange(made: &Path, place: &Path) -> io::Result<()> {
    let flags = RenameFlags::RENAME_EXCHANGE;
    Ok(renameat2(AT_FDCWD, made, AT_FDCWD, place, flags)?)
}

/// Prefix of what is not finished.
const MAKING_PREFIX: &str = ".making-";

/// Installs artefacts into one data directory.
#[derive(Debug, Clone)]
pub struct Installer {
    artifacts: PathBuf,
    cache: PathBuf,
    debian_mirror: Option<String>,
}

impl Installer {
    /// For the data directory `data_dir`: artefacts go to its `artifacts`, downloads to its `cache`.
    /// `NOVA_DEBIAN_MIRROR` names a mirror to use instead of the one in the host's apt configuration.
    pub fn new(data_dir: &Path) -> Self {
        // Programs are run in other directories. Fails only for an empty path, or without a current
        // directory; then the first file that is written says so.
        let data_dir = &std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        Self {
            artifacts: Artifacts::new(data_dir, None, None).own().to_owned(),
            cache: data_dir.join("cache"),
            debian_mirror: std::env::var(super::debian::MIRROR_VARIABLE).ok(),
        }
    }

    /// Removes what a crashed installation left half made, unless one is running now. For the start of a
    /// daemon; each installation does it as well.
    pub fn remove_leftovers(&self) -> Result<(), InstallError> {
        let path = self.lock_path();
        if !path.exists() {
            return Ok(());
        }
        match InstallLock::try_take(&path)? {
            Some(_lock) => self.clear(),
            None => Ok(()),
        }
    }

    /// Waits until no other installation runs here, then clears what a crashed one left.
    async fn begin(&self, progress: &dyn Progress) -> Result<InstallLock, InstallError> {
        for directory in
            ["images", "builders", "kernel", "bin"].map(|name| self.artifacts.join(name))
        {
            std::fs::create_dir_all(&directory).map_err(InstallError::file(&directory))?;
        }
        std::fs::create_dir_all(&self.cache).map_err(InstallError::file(&self.cache))?;
        let lock = InstallLock::take(&self.lock_path(), progress).await?;
        self.clear()?;
        Ok(lock)
    }

    /// Removes what is half made, in the directories that are there. Only with the lock.
    fn clear(&self) -> Result<(), InstallError> {
        let artifacts =
            ["", "images", "builders", "kernel", "bin"].map(|name| self.artifacts.join(name));
        for directory in artifacts.into_iter().chain([self.cache.join("archives")]) {
            match remove_prefixed(&directory, MAKING_PREFIX) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(InstallError::file(&directory)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn lock_path(&self) -> PathBuf {
        self.cache.join("lock")
    }

    /// A directory beside the artefacts, so that what is made there can be renamed into place. It is
    /// removed when dropped.
    fn workshop(&self) -> Result<TempDir, InstallError> {
        let made = tempfile::Builder::new().prefix(MAKING_PREFIX).tempdir_in(&self.artifacts);
        made.map_err(InstallError::file(&self.artifacts))
    }

    async fn apt(&self, progress: &dyn Progress) -> Result<Apt, InstallError> {
        let (recipe, directory) = (common_recipe()?, self.cache.join("apt"));
        let mirror = self.debian_mirror.as_deref();
        Ok(Apt::open(&directory, &recipe, mirror, progress).await?)
    }
}
