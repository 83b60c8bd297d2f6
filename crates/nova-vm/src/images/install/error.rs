//! Why an artefact could not be installed. Nothing of it was left behind.
use crate::images::debian::DebianError;
use crate::images::host_tool::ToolError;
use crate::images::oci::OciError;
use crate::images::runtime::ManifestError;
use std::io;
use std::path::Path;

/// A failed installation.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The id is not one of the shipped runtimes.
    #[error("there is no runtime `{id}`; Nova ships {shipped}")]
    UnknownRuntime {
        /// What was asked for.
        id: String,
        /// What there is.
        shipped: String,
    },
    /// Nothing is compiled for this id.
    #[error("there is no builder for `{id}`; Nova ships those of {shipped}")]
    NoBuilder {
        /// What was asked for.
        id: String,
        /// What there is.
        shipped: String,
    },
    /// The runtime is not installed.
    #[error("runtime `{0}` is not installed; `nova runtime list` shows those that are")]
    NotInstalled(String),
    /// A manifest of this build is faulty.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Somebody's own image could not be taken.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// Packages could not be had.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// A program of the host failed or is missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Something fetched is not what it should be.
    #[error("{0}")]
    Unexpected(String),
}

impl InstallError {
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { path, source }
    }

    /// A task of ours that panicked or was stopped.
    pub(super) fn task(error: tokio::task::JoinError) -> Self {
        Self::Unexpected(format!("the work was interrupted: {error}"))
    }
}
