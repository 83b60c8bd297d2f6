//! Where the host's artefacts lie: runtime images, the guest kernel, Firecracker.
//!
//! ```text
//! <data-dir>/artifacts/
//!   images/<id>.json  images/<digest>.erofs
//!   builders/<id>.json  builders/<digest>.erofs
//!   kernel/vmlinux    kernel/modules/{order,*.ko}    kernel/kernel.json
//!   bin/firecracker   bin/jailer                     bin/firecracker.json
//! ```
//! A second, read-only directory of the same shape may be given (`NOVA_ARTIFACTS`): it is looked at
//! first, never written to, and lets many daemons share one set.
use std::path::{Path, PathBuf};

/// Names a shared, read-only artefact directory.
const SHARED_VARIABLE: &str = "NOVA_ARTIFACTS";
/// Names a directory with `firecracker` and `jailer` that goes before all others.
const FIRECRACKER_VARIABLE: &str = "NOVA_FIRECRACKER_DIR";

/// The artefact directories of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifacts {
    shared: Option<PathBuf>,
    own: PathBuf,
    firecracker: Option<PathBuf>,
}

/// The guest kernel and its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFiles {
    /// The uncompressed kernel, as Firecracker loads it.
    pub vmlinux: PathBuf,
    /// Modules, and the file `order` that lists them as they are to be loaded.
    pub modules: PathBuf,
}

/// The VMM and its jailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirecrackerFiles {
    /// The VMM.
    pub firecracker: PathBuf,
    /// What starts it without rights.
    pub jailer: PathBuf,
}

/// An artefact that is not installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not installed (no {path}); run `nova setup`")]
pub struct MissingArtifact {
    /// For example `the guest kernel`.
    pub what: &'static str,
    /// Where it would be.
    pub path: String,
}

impl Artifacts {
    /// The directories for a data directory; `shared` is looked at first.
    pub fn new(data_dir: &Path, shared: Option<PathBuf>, firecracker: Option<PathBuf>) -> Self {
        Self { shared, own: data_dir.join("artifacts"), firecracker }
    }

    /// The same, with the shared directories named by the environment.
    pub fn from_env(data_dir: &Path) -> Self {
        let named = |variable| std::env::var_os(variable).map(PathBuf::from);
        Self::new(data_dir, named(SHARED_VARIABLE), named(FIRECRACKER_VARIABLE))
    }

    /// The directory that is this data directory's own, and written to.
    pub fn own(&self) -> &Path {
        &self.own
    }

    /// The guest kernel.
    pub fn kernel(&self) -> Result<KernelFiles, MissingArtifact> {
        let directory = self.find("the guest kernel", |at| at.join("kernel/vmlinux"))?;
        let kernel = directory.join("kernel");
        Ok(KernelFiles { vmlinux: kernel.join("vmlinux"), modules: kernel.join("modules") })
    }

    /// Firecracker and its jailer, always from the same directory.
    pub fn firecracker(&self) -> Result<FirecrackerFiles, MissingArtifact> {
        let directory = match &self.firecracker {
            Some(directory) => directory.clone(),
            None => self.find("Firecracker", |at| at.join("bin/firecracker"))?.join("bin"),
        };
        let firecracker = directory.join("firecracker");
        let jailer = directory.join("jailer");
        for (what, path) in [("Firecracker", &firecracker), ("Firecracker's jailer", &jailer)] {
            if !path.is_file() {
                return Err(MissingArtifact { what, path: path.display().to_string() });
            }
        }
        Ok(FirecrackerFiles { firecracker, jailer })
    }

    /// Where builders are, in the order in which they are looked for.
    pub(crate) fn builder_directories(&self) -> Vec<PathBuf> {
        self.directories().map(|directory| directory.join("builders")).collect()
    }

    /// Where images are, in the order in which they are looked for.
    pub(crate) fn image_directories(&self) -> Vec<PathBuf> {
        self.directories().map(|directory| directory.join("images")).collect()
    }

    fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        self.shared.iter().chain([&self.own])
    }

    /// The first directory that has the file.
    fn find(
        &self,
        what: &'static str,
        file: impl Fn(&Path) -> PathBuf,
    ) -> Result<&Path, MissingArtifact> {
        let path = file(&self.own).display().to_string();
        let found = self.directories().find(|directory| file(directory).is_file());
        found.map(PathBuf::as_path).ok_or(MissingArtifact { what, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_missing_is_named_with_the_way_to_get_it() {
        let data = tempfile::tempdir().unwrap();
        let error = Artifacts::new(data.path(), None, None).kernel().unwrap_err().to_string();
        assert!(error.starts_with("the guest kernel is not installed (no "), "{error}");
        assert!(error.ends_with("artifacts/kernel/vmlinux); run `nova setup`"), "{error}");
    }

    #[test]
    fn a_shared_directory_goes_before_the_own_one() {
        let (data, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for directory in [&data.path().join("artifacts"), shared.path()] {
            fs::create_dir_all(directory.join("kernel")).unwrap();
            fs::write(directory.join("kernel/vmlinux"), "").unwrap();
        }
        let found = |shared| Artifacts::new(data.path(), shared, None).kernel().unwrap().vmlinux;
        assert!(found(Some(shared.path().to_owned())).starts_with(shared.path()));
        assert!(found(None).starts_with(data.path()));
        fs::remove_file(shared.path().join("kernel/vmlinux")).unwrap();
        assert!(found(Some(shared.path().to_owned())).starts_with(data.path()));
    }

    #[test]
    fn firecracker_without_its_jailer_is_not_enough() {
        let (data, given) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let artifacts = Artifacts::new(data.path(), None, Some(given.path().to_owned()));
        fs::write(given.path().join("firecracker"), "").unwrap();
        assert_eq!(artifacts.firecracker().unwrap_err().what, "Firecracker's jailer");
        fs::write(given.path().join("jailer"), "").unwrap();
        assert_eq!(artifacts.firecracker().unwrap().jailer, given.path().join("jailer"));
    }
}
