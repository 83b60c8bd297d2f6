//! A revision's code on this host, in the form that a backend mounts.
//!
//! ```text
//! <directory>/<hash>/        unpacked, for the container backend
//! <directory>/<hash>.erofs   a read-only image, for Firecracker
//! <directory>/.making-*      being made; left only by a crash, removed at the next start
//! ```
//!
//! Each is made once, however many boots ask at the same moment, and appears by a rename: what has its
//! final name is whole. Who asks again gets the path from memory; nothing is read or hashed. What is
//! here can be made again from the code source at any time, so deleting the directory of a stopped
//! daemon is harmless.
use super::read_canonical;
use crate::driver::CodeSource;
use crate::images::erofs::{self, Compression};
use nova_domain::CodeHash;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// Prefix of what is not finished.
const MAKING_PREFIX: &str = ".making-";

/// Makes and remembers the mountable forms of code.
pub struct CodeImages {
    directory: PathBuf,
    source: Arc<dyn CodeSource>,
    made: Mutex<HashMap<(CodeHash, Form), Making>>,
}

/// Made by the first who asks; the others wait for it.
type Making = Arc<OnceCell<PathBuf>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    Directory,
    Erofs,
}

impl CodeImages {
    /// Works in `directory`, which belongs to this daemon alone, and removes what a crashed one left
    /// half made there.
    pub fn new(directory: impl Into<PathBuf>, source: Arc<dyn CodeSource>) -> io::Result<Self> {
        let directory = directory.into();
        std::fs::create_dir_all(&directory)?;
        super::super::files::remove_prefixed(&directory, MAKING_PREFIX)?;
        Ok(Self { directory, source, made: Mutex::default() })
    }

    /// The unpacked code: owned by the daemon's user, readable by all, for a read-only bind mount.
    pub async fn directory(&self, hash: &CodeHash) -> io::Result<PathBuf> {
        self.get(hash, Form::Directory).await
    }

    /// The code as an EROFS file, readable by all.
    pub async fn erofs(&self, hash: &CodeHash) -> io::Result<PathBuf> {
        self.get(hash, Form::Erofs).await
    }

    async fn get(&self, hash: &CodeHash, form: Form) -> io::Result<PathBuf> {
        let cell = {
            let mut made = self.made.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            made.entry((hash.clone(), form)).or_default().clone()
        };
        cell.get_or_try_init(|| self.make(hash, form)).await.cloned()
    }

    async fn make(&self, hash: &CodeHash, form: Form) -> io::Result<PathBuf> {
        let path = match form {
            Form::Directory => self.directory.join(hash.as_str()),
            Form::Erofs => self.directory.join(format!("{hash}.erofs")),
        };
        if tokio::fs::try_exists(&path).await? {
            return Ok(path);
        }
        let archive = self.source.fetch(hash).await?;
        let (making, expected) = (self.temporary()?, hash.clone());
        let making = tokio::task::spawn_blocking(move || {
            unpack_verified(&archive, &expected, &making.path().join("code")).map(|()| making)
        })
        .await??;
        let unpacked = making.path().join("code");
        match form {
            Form::Directory => tokio::fs::rename(unpacked, &path).await?,
            Form::Erofs => {
                let image = making.path().join("image");
                erofs::write(&unpacked, &image, Compression::None)
                    .await
                    .map_err(io::Error::other)?;
                tokio::fs::rename(image, &path).await?;
            }
        }
        Ok(path)
    }

    fn temporary(&self) -> io::Result<TempDir> {
        tempfile::Builder::new().prefix(MAKING_PREFIX).tempdir_in(&self.directory)
    }
}

fn unpack_verified(archive: &[u8], hash: &CodeHash, target: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if CodeHash::of(archive) != *hash {
        let problem = format!("stored code {hash} is damaged: its hash differs; register it again");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let tree = read_canonical(archive).map_err(|error| {
        let problem = format!("stored code {hash} is not acceptable: {error}");
        io::Error::new(io::ErrorKind::InvalidData, problem)
    })?;
    std::fs::create_dir(target)?;
    std::fs::set_permissions(target, PermissionsExt::from_mode(0o755))?;
    tree.unpack(target)
}
