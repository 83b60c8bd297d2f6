//! The key that seals secrets: 32 bytes in a file of mode 0600, never in the database or a backup.
use crate::{Store, StoreError};
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes of the key: AES-256.
const KEY_BYTES: usize = 32;
/// Bytes of a GCM nonce. Random nonces are safe for 2^32 messages of one key.
const NONCE_BYTES: usize = 12;

/// Why there is no master key, or why it does not open something.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file cannot be read or made.
    #[error("master key file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others may read the file.
    #[error("master key file {path} has mode {mode:o}; run `chmod 600 {path}`")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Another user owns the file, and so may have put it there and knows what is in it.
    #[error(
        "master key file {path} belongs to another user (id {owner}); put one of your own there"
    )]
    NotYours {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The file does not hold 64 hex digits.
    #[error("master key file {path} does not hold 64 hex digits; restore it from your backup")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The file is gone, and what was sealed with the key is not.
    #[error(
        "master key file {path} is gone, and {secrets} secrets were sealed with it; restore it from your \
         backup; without it nothing opens them, and to go on a new key (64 hex digits, mode 600) has to be put \
         there and each secret set again"
    )]
    Lost {
        /// Where the file was.
        path: PathBuf,
        /// How many secrets need it.
        secrets: usize,
    },
    /// The store, which knows whether there are secrets, does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another key sealed it, or the sealed bytes were changed or moved.
    #[error("sealed with another master key, or damaged")]
    DoesNotOpen,
}

/// The key itself. `Debug` shows only its id.
#[derive(Clone)]
pub struct MasterKey {
    cipher: Aes256Gcm,
    id: String,
}

impl MasterKey {
    /// Reads the key of this store's secrets. One is made where there is no file and there are no secrets:
    /// in the place of a lost key it would only hide the loss.
    pub async fn of_store(path: &Path, store: &dyn Store) -> Result<Self, MasterKeyError> {
        let found = path.symlink_metadata();
        if found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            let secrets = store.secrets().await?.len();
            if secrets > 0 {
                return Err(MasterKeyError::Lost { path: path.to_owned(), secrets });
            }
        }
        Self::load_or_create(path)
    }

    /// Reads the key, or makes one where the file does not exist.
    pub fn load_or_create(path: &Path) -> Result<Self, MasterKeyError> {
        let file_error = |source| MasterKeyError::File { path: path.to_owned(), source };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path).map_err(file_error)?
            }
            Err(error) => return Err(file_error(error)),
        };
        let metadata = std::fs::metadata(path).map_err(file_error)?;
        let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
        if owner != user && owner != 0 {
            return Err(MasterKeyError::NotYours { path: path.to_owned(), owner });
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(MasterKeyError::Exposed { path: path.to_owned(), mode });
        }
        let mut bytes = [0; KEY_BYTES];
        hex::decode_to_slice(text.trim(), &mut bytes)
            .map_err(|_| MasterKeyError::Malformed { path: path.to_owned() })?;
        Ok(Self::from_bytes(&bytes))
    }

    fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let id = hex::encode(&Sha256::digest(bytes)[..4]);
        Self { cipher: Aes256Gcm::new(bytes.into()), id }
    }

    /// A public name of the key: the start of its SHA-256.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Nonce and ciphertext of `plain`, bound to `context`.
    pub fn seal(&self, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, MasterKeyError> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let payload = Payload { msg: plain, aad: context };
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), payload)
            .map_err(|_| MasterKeyError::DoesNotOpen)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// What [`seal`](Self::seal) was given, if key and context are the same.
    pub fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, MasterKeyError> {
        let (nonce, ciphertext) =
            sealed.split_first_chunk::<NONCE_BYTES>().ok_or(MasterKeyError::DoesNotOpen)?;
        self.cipher
            .decrypt(&Nonce::from(*nonce), Payload { msg: ciphertext, aad: context })
            .map_err(|_| MasterKeyError::DoesNotOpen)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

/// Writes a new key beside its place first: a full disk or a crash leaves no file without a key in it.
fn create(path: &Path) -> io::Result<String> {
    let text = hex::encode(rand::random::<[u8; KEY_BYTES]>());
    let partial = path.with_extension("partial");
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // A link, unlike a rename, never replaces a key that somebody else has put there meanwhile.
    std::fs::hard_link(&partial, path)?;
    std::fs::remove_file(&partial)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SecretVault, SqlStore};
    use chrono::Utc;
    use std::sync::Arc;

    #[test]
    fn the_key_is_made_once_and_others_may_not_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        let first = MasterKey::load_or_create(&path).unwrap();
        let sealed = first.seal(b"value", b"name:1").unwrap();
        let second = MasterKey::load_or_create(&path).unwrap();
        assert_eq!(second.open(&sealed, b"name:1").unwrap(), b"value");
        assert!(second.open(&sealed, b"name:2").is_err(), "bound to its name and version");

        let left: Vec<_> = directory.path().read_dir().unwrap().collect();
        assert_eq!(left.len(), 1, "nothing half made stays: {left:?}");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = MasterKey::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[tokio::test]
    async fn a_lost_key_is_not_replaced_while_secrets_are_sealed_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        let store = SqlStore::open(&directory.path().join("nova.db")).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let key = MasterKey::of_store(&path, store.as_ref()).await.unwrap();
        let name = nova_domain::SecretName::parse("token").unwrap();
        SecretVault::new(store.clone(), key)
            .set(&name, b"value", vec![], Utc::now())
            .await
            .unwrap();

        std::fs::remove_file(&path).unwrap();
        let error = MasterKey::of_store(&path, store.as_ref()).await.unwrap_err().to_string();
        assert!(error.contains("master.key is gone") && error.contains("restore it"), "{error}");
        assert!(!path.exists(), "no other key in its place");

        store.delete_secret(&name).await.unwrap();
        MasterKey::of_store(&path, store.as_ref()).await.unwrap();
    }

    #[test]
    fn a_key_of_another_user_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        MasterKey::load_or_create(&path).unwrap();
        let changed = std::os::unix::fs::chown(&path, Some(65_534), None);
        changed.expect("only root can give files away: run this test as root");
        let error = MasterKey::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("another user (id 65534)"), "{error}");
    }

    #[test]
    fn a_key_that_was_half_written_is_no_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        std::fs::write(path.with_extension("partial"), "abc").unwrap();
        MasterKey::load_or_create(&path).unwrap();
    }
}
