//! Code archives by hash. Truth lives here; what nodes unpack from it is a cache.
use async_trait::async_trait;
use bytes::Bytes;
use nova_domain::CodeHash;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncRead;

/// How long what was stored is kept without anybody referring to it: far longer than a deployment takes
/// from its code to its function.
pub const NEW_FOR: Duration = Duration::from_secs(20 * 60);

/// A blob that is being read.
pub struct BlobReader {
    /// How many bytes it has.
    pub length: u64,
    /// All of them.
    pub bytes: Box<dyn AsyncRead + Send + Unpin>,
}

/// Keeps immutable byte strings by their SHA-256.
#[async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// Stores `bytes` under their hash; storing the same again changes nothing but what is damaged.
    async fn put(&self, bytes: Bytes) -> io::Result<CodeHash>;

    /// The bytes of that hash, verified; an error of kind `NotFound` where there are none, of kind
    /// `InvalidData` where they no longer match.
    async fn get(&self, hash: &CodeHash) -> io::Result<Bytes>;

    /// The same to be read piece by piece, for who would hold all of it for long. Verified before.
    async fn open(&self, hash: &CodeHash) -> io::Result<BlobReader>;

    /// Removes everything that is not in `keep`; returns how many were removed. What was stored within the
    /// last [`NEW_FOR`] stays: whoever stored it may be about to refer to it.
    async fn retain(&self, keep: &[CodeHash]) -> io::Result<u64>;
}

/// Blobs as files of a directory: `<hash>`, written beside and renamed, so that a crash leaves no
/// half of one.
#[derive(Debug, Clone)]
pub struct DirectoryBlobs {
    directory: PathBuf,
    /// What was stored lately, and when. Held while a file appears or goes.
    new: Arc<Mutex<HashMap<CodeHash, Instant>>>,
}

/// Bytes read at once of a blob that is not held as a whole.
const PIECE_BYTES: usize = 64 * 1024;

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
        Ok(Self { directory, new: Arc::default() })
    }
}

#[async_trait]
impl Blobs for DirectoryBlobs {
    async fn put(&self, bytes: Bytes) -> io::Result<CodeHash> {
        let (directory, new) = (self.directory.clone(), self.new.clone());
        let written = tokio::task::spawn_blocking(move || {
            let hash = CodeHash::of(&bytes);
            let target = directory.join(hash.as_str());
            let is_there = {
                let mut new = new.lock().unwrap_or_else(PoisonError::into_inner);
                new.insert(hash.clone(), Instant::now());
                target.exists()
            };
            // What cannot be read is written again as well, or else that says why it cannot.
            if is_there && File::open(&target).and_then(|mut file| verify(&mut file, &hash)).is_ok()
            {
                return Ok(hash);
            }
            let partial = directory.join(format!("{PARTIAL_PREFIX}{:016x}", rand::random::<u64>()));
            let result = write_durably(&partial, &bytes)
                .and_then(|()| std::fs::rename(&partial, &target))
                .and_then(|()| File::open(&directory)?.sync_all());
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
                return Err(damaged(&expected));
            }
            Ok(Bytes::from(bytes))
        });
        read.await.map_err(io::Error::other)?
    }

    async fn open(&self, hash: &CodeHash) -> io::Result<BlobReader> {
        let path = self.directory.join(hash.as_str());
        let expected = hash.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let mut file = File::open(&path)?;
            verify(&mut file, &expected)?;
            file.rewind()?;
            let length = file.metadata()?.len();
            Ok(BlobReader { length, bytes: Box::new(tokio::fs::File::from_std(file)) })
        });
        opened.await.map_err(io::Error::other)?
    }

    async fn retain(&self, keep: &[CodeHash]) -> io::Result<u64> {
        let mut removed = 0;
        let mut entries = tokio::fs::read_dir(&self.directory).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(hash) = CodeHash::try_from(name) else { continue };
            if !keep.contains(&hash) && self.remove_old(&hash)? {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl DirectoryBlobs {
    /// Removes a file unless it is new; says whether it did. Who stores the same at this moment does so
    /// wholly before or wholly after.
    fn remove_old(&self, hash: &CodeHash) -> io::Result<bool> {
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        new.retain(|_, stored| stored.elapsed() < NEW_FOR);
        if new.contains_key(hash) {
            return Ok(false);
        }
        std::fs::remove_file(self.directory.join(hash.as_str()))?;
        Ok(true)
    }
}

fn damaged(hash: &CodeHash) -> io::Error {
    let problem = format!("code {hash} is damaged on disk; deploy the function again");
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Reads the file to its end and compares.
fn verify(file: &mut File, expected: &CodeHash) -> io::Result<()> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            length => hasher.update(&piece[..length]),
        }
    }
    match hex::encode(hasher.finalize()) == expected.as_str() {
        true => Ok(()),
        false => Err(damaged(expected)),
    }
}

fn write_durably(path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn what_is_put_is_what_is_got_and_damage_is_noticed_and_repaired() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(directory.path().to_owned()).await.unwrap();
        let hash = blobs.put(Bytes::from_static(b"code")).await.unwrap();
        assert_eq!(blobs.put(Bytes::from_static(b"code")).await.unwrap(), hash);
        assert_eq!(blobs.get(&hash).await.unwrap(), "code");
        let mut reader = blobs.open(&hash).await.unwrap();
        let mut text = String::new();
        reader.bytes.read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), reader.length), ("code", 4));
        std::fs::write(directory.path().join(hash.as_str()), b"rot").unwrap();
        assert_eq!(blobs.get(&hash).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let opened = blobs.open(&hash).await.err();
        assert_eq!(opened.unwrap().kind(), io::ErrorKind::InvalidData);
        assert_eq!(blobs.put(Bytes::from_static(b"code")).await.unwrap(), hash);
        assert_eq!(blobs.get(&hash).await.unwrap(), "code", "a deployment repairs it");
    }

    #[tokio::test]
    async fn only_what_is_kept_stays_and_half_written_files_go_at_start() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(".partial-1"), b"half").unwrap();
        let blobs = DirectoryBlobs::open(directory.path().to_owned()).await.unwrap();
        let kept = blobs.put(Bytes::from_static(b"kept")).await.unwrap();
        let gone = blobs.put(Bytes::from_static(b"gone")).await.unwrap();
        assert_eq!(blobs.retain(std::slice::from_ref(&kept)).await.unwrap(), 0, "both are new");
        let blobs = DirectoryBlobs::open(directory.path().to_owned()).await.unwrap();
        assert_eq!(blobs.retain(std::slice::from_ref(&kept)).await.unwrap(), 1);
        assert_eq!(blobs.get(&gone).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
