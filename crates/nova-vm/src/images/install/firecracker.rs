//! `nova setup`, Firecracker and its jailer: fetched in one of several ways, but always the same bytes;
//! or taken from a directory that the administrator vouches for.
use super::firecracker_sources::{Programs, from_directory};
use super::pins::{FirecrackerPin, Pins};
use super::{InstallError, Installer, exchange};
use crate::images::files::{sha256_of, write_atomically};
use crate::images::progress::Progress;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::Path;

/// `firecracker.json`: which Firecracker this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirecrackerRecord {
    /// Its version.
    pub version: String,
    /// Whether it is the one that this Nova was tested with.
    pub pinned: bool,
    /// SHA-256 of the program.
    pub firecracker_sha256: String,
    /// SHA-256 of the jailer.
    pub jailer_sha256: String,
}

impl Installer {
    /// Installs Firecracker and its jailer, from `directory` if that is given. What is there already is
    /// left as it is if it is the pinned one, or was given in a directory before.
    pub async fn install_firecracker(
        &self,
        directory: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<FirecrackerRecord, InstallError> {
        let pin = Pins::shipped()?.firecracker;
        let _lock = self.begin(progress).await?;
        let (programs, version) = match directory {
            Some(directory) => from_directory(directory).await?,
            None => {
                if let Some(record) = self.installed_firecracker(&pin) {
                    return Ok(record);
                }
                (self.fetch_firecracker(&pin, progress).await?, pin.version.clone())
            }
        };
        let record = FirecrackerRecord {
            version,
            pinned: are_pinned(&programs, &pin),
            firecracker_sha256: sha256(&programs.firecracker),
            jailer_sha256: sha256(&programs.jailer),
        };
        let workshop = self.workshop()?;
        let made = workshop.path().join("bin");
        write(&made, &programs, &record).map_err(InstallError::file(&made))?;
        let place = self.artifacts.join("bin");
        exchange(&made, &place).map_err(InstallError::file(&place))?;
        Ok(record)
    }

    /// What is installed, if it is whole and either the pinned one or the administrator's choice.
    fn installed_firecracker(&self, pin: &FirecrackerPin) -> Option<FirecrackerRecord> {
        let directory = self.artifacts.join("bin");
        let record = fs::read(directory.join("firecracker.json")).ok()?;
        let record: FirecrackerRecord = serde_json::from_slice(&record).ok()?;
        let has = |name, hash: &str| sha256_of(&directory.join(name)).is_ok_and(|sum| sum == hash);
        let whole =
            has("firecracker", &record.firecracker_sha256) && has("jailer", &record.jailer_sha256);
        let is_pinned = record.firecracker_sha256 == pin.firecracker_sha256
            && record.jailer_sha256 == pin.jailer_sha256;
        (whole && (is_pinned || !record.pinned)).then_some(record)
    }
}

fn write(made: &Path, programs: &Programs, record: &FirecrackerRecord) -> io::Result<()> {
    fs::create_dir(made)?;
    write_atomically(&made.join("firecracker"), &programs.firecracker, 0o755)?;
    write_atomically(&made.join("jailer"), &programs.jailer, 0o755)?;
    let text = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
    write_atomically(&made.join("firecracker.json"), &text, 0o644)
}

/// Whether these are the programs that this Nova was tested with.
pub(super) fn are_pinned(programs: &Programs, pin: &FirecrackerPin) -> bool {
    sha256(&programs.firecracker) == pin.firecracker_sha256
        && sha256(&programs.jailer) == pin.jailer_sha256
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::progress::Silent;

    fn directory_with(firecracker: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("firecracker", firecracker), ("jailer", "#!/bin/sh\n")] {
            write_atomically(&directory.path().join(name), text.as_bytes(), 0o755).unwrap();
        }
        directory
    }

    #[tokio::test]
    async fn programs_of_the_administrator_are_taken_and_marked_as_such() {
        let given = directory_with("#!/bin/sh\necho 'Firecracker v1.16.1'\n");
        let data = tempfile::tempdir().unwrap();
        let installer = Installer::new(data.path());
        let record = installer.install_firecracker(Some(given.path()), &Silent).await.unwrap();
        assert_eq!((record.version.as_str(), record.pinned), ("1.16.1", false));
        assert!(data.path().join("artifacts/bin/jailer").is_file());
        let kept = installer.install_firecracker(None, &Silent).await.unwrap();
        assert_eq!(kept, record, "the administrator's choice outlives the next set-up");
    }

    #[tokio::test]
    async fn an_old_or_foreign_program_is_refused_and_nothing_is_left() {
        for (printed, problem) in [("Firecracker v1.11.0", "too old"), ("hello", "not Firecracker")]
        {
            let given = directory_with(&format!("#!/bin/sh\necho '{printed}'\n"));
            let data = tempfile::tempdir().unwrap();
            let installer = Installer::new(data.path());
            let error =
                installer.install_firecracker(Some(given.path()), &Silent).await.unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
            assert!(!data.path().join("artifacts/bin/firecracker").exists());
        }
    }
}
