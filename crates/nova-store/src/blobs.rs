//! Code archives by hash. Truth lives here; what nodes unpack from it is a cache.
use async_trait::async_trait;
use bytes::Bytes;
use nova_domain::CodeHash;
use std::io;
use std::path::PathBuf;

/// Keeps immutable byte strings by their SHA-256.
#[async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// Stores `bytes` under their hash; storing the same again changes nothing.
    async fn put(&self, bytes: Bytes) -> io::Result<CodeHash>;

    /// The bytes of that hash, verified; an error of kind `NotFound` where there are none, of kind
    /// `InvalidData` where they no longer match.
    async fn get(&self, hash: &CodeHash) -> io::Result<Bytes>;

    /// Removes everything that is not in `keep`; returns how many were removed.
    async fn retain(&self, keep: &[CodeHash]) -> io::Result<u64>;
}

/// Blobs as files of a directory: `<hash>`, written beside and renamed, so that a crash leaves no
/// half of one.
#[derive(Debug, Clone)]
pub struct DirectoryBlobs {
    directory: PathBuf,
}

/// Prefix of files that are being written.
const PARTIAL_PREFIX: &str = ".partial-";

impl DirectoryBlobs {
    /// Opens the directory, making it if needed and removing what a crash left half written.
    pub async fn open(directory: PathBuf) -> io::Result<Self> {
        tokio::fs::create_dir_all(&directory).await?;
        let mut entries = tokio::fs::read_dir(&directory).await?;
        while let Some(entry) = entries.next_entry().await? {
            if entry.file_name().to_string_lossy().starts_with(PARTIAL_PREFIX) {
                tokio::fs::remove_file(entry.path()).await?;
            }
        }
        Ok(Self { directory })
    }
}

#[async_trait]
impl Blobs for DirectoryBlobs {
    async fn put(&self, bytes: Bytes) -> io::Result<CodeHash> {
        let directory = self.directory.clone();
        let written = tokio::task::spawn_blocking(move || {
            let hash = CodeHash::of(&bytes);
            let target = directory.join(hash.as_str());
            if target.exists() {
                return Ok(hash);
            }
            let partial = directory.join(format!("{PARTIAL_PREFIX}{:016x}", rand::random::<u64>()));
            let result = write_durably(&partial, &bytes)
                .and_then(|()| std::fs::rename(&partial, &target))
                .and_then(|()| std::fs::File::open(&directory)?.sync_all());
            if let Err(error) = result {
                // The first error is the one to report; a partial file that stays is removed at
                // the next start.
                std::fs::remove_file(&partial).ok();
                return Err(error);
            }
            Ok(hash)
        });
        written.await.map_err(io::Error::other)?
    }

    async fn get(&self, hash: &CodeHash) -> io::Result<Bytes> {
        let path = self.directory.join(hash.as_str());
        let expected = hash.clone();
        let read = tokio::task::spawn_blocking(move || {
            let bytes = std::fs::read(&path)?;
            if CodeHash::of(&bytes) != expected {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("code {expected} is damaged on disk; deploy the function again"),
                ));
            }
            Ok(Bytes::from(bytes))
        });
        read.await.map_err(io::Error::other)?
    }

    async fn retain(&self, keep: &[CodeHash]) -> io::Result<u64> {
        let mut removed = 0;
        let mut entries = tokio::fs::read_dir(&self.directory).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(hash) = CodeHash::try_from(name) else { continue };
            if !keep.contains(&hash) {
                tokio::fs::remove_file(entry.path()).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn write_durably(path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create_new(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_put_is_what_is_got_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(directory.path().to_owned()).await.unwrap();
        let hash = blobs.put(Bytes::from_static(b"code")).await.unwrap();
        assert_eq!(blobs.put(Bytes::from_static(b"code")).await.unwrap(), hash);
        assert_eq!(blobs.get(&hash).await.unwrap(), "code");
        std::fs::write(directory.path().join(hash.as_str()), b"rot").unwrap();
        assert_eq!(blobs.get(&hash).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn only_what_is_kept_stays_and_half_written_files_go_at_start() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(".partial-1"), b"half").unwrap();
        let blobs = DirectoryBlobs::open(directory.path().to_owned()).await.unwrap();
        let kept = blobs.put(Bytes::from_static(b"kept")).await.unwrap();
        let gone = blobs.put(Bytes::from_static(b"gone")).await.unwrap();
        assert_eq!(blobs.retain(std::slice::from_ref(&kept)).await.unwrap(), 1);
        assert_eq!(blobs.get(&gone).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
