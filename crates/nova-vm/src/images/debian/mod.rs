//! Packages of the distribution, without touching the host's own package system.
//!
//! apt does what it is good at (signatures, dependencies, resumed downloads) with directories of its
//! own below the cache, so that any user can run it, and with Debian's key as the only one it trusts.
//! Packages are unpacked, never installed: no maintainer script runs, nothing needs root or a chroot.
//! A download that was interrupted goes on where it stopped; a package that is there is not fetched
//! again, but its SHA-256 is checked before each use.
mod apt;
mod package;
mod sources;

pub(crate) use apt::{Apt, MIRROR_VARIABLE};
pub(crate) use package::Package;

use super::host_tool::ToolError;

/// Why packages could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// A program failed or is missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The host knows no Debian mirror.
    #[error(
        "apt on this host has no Debian sources; run `apt-get update` if it should have, or set \
         {variable} to the address of a Debian mirror"
    )]
    NoMirror {
        /// The setting.
        variable: &'static str,
    },
    /// The key that package lists are verified with is not there.
    #[error("{0} is missing; try `apt-get install debian-archive-keyring`")]
    NoKeyring(String),
    /// A package is not there under this name, or in this version.
    #[error("the Debian mirror has no package {0}; try again after a while, or another mirror")]
    NoPackage(String),
    /// A package is not what the signed list says.
    #[error(
        "{package} is damaged: its SHA-256 is {found}, not {expected}; it was removed, try again"
    )]
    Damaged {
        /// Its file.
        package: String,
        /// What it has.
        found: String,
        /// What the list says.
        expected: String,
    },
    /// The cache cannot be used.
    #[error("{path}: {source}")]
    Cache {
        /// File or directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

impl DebianError {
    fn cache(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Cache { path, source }
    }
}
