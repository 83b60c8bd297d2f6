//! The data directory: one daemon at a time uses it, and what that daemon leaves in it for the
//! command line.
//!
//! * `daemon.pid`: there and locked for the life of the daemon; holds its process id and address. One
//!   that is there without a lock was left by a daemon that did not end in an orderly way.
//! * `admin.key`: the API key of the first run, readable by its owner only.
use nova_store::{ApiKey, ApiKeyText, Role, Store, StoreError};
use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOCK_FILE: &str = "daemon.pid";
const ADMIN_KEY_FILE: &str = "admin.key";
/// What the first key is called.
const ADMIN_KEY_NAME: &str = "admin";
/// Most bytes that are read of a file of ours; real ones hold a line or two.
const FILE_MAX_BYTES: u64 = 4096;
/// Rights of group and others: nobody's business in a data directory.
const OTHERS_MODE: u32 = 0o077;
/// How often a lock that is held is looked at again, and after which pause: the command line holds it
/// for microseconds, to see whether a daemon does.
const LOCK_LOOKS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// What makes a directory Nova's: left by a daemon, by `nova setup` or by `nova runtime add`.
const OURS: [&str; 4] = [LOCK_FILE, "daemon-id", "nova.db", "artifacts"];

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made, or a file in it cannot be written.
    #[error("{path}: {source}; choose a data directory that you may write to with --data-dir")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is somebody else's: making it private would take it away from them.
    #[error(
        "{0} is open to other users and holds what is not Nova's; choose another data directory with \
         --data-dir, or make it yours with `chmod 700 {0}`"
    )]
    Foreign(PathBuf),
    /// It belongs to another user, or something in it does: what that user may still change, or leads
    /// elsewhere, is not to be trusted with keys and code.
    #[error(
        "{path} belongs to another user (id {owner}); choose another data directory with --data-dir, or \
         take all of it over with `chown -R`"
    )]
    NotYours {
        /// The directory, or what is in it.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Another daemon uses it.
    #[error(
        "the data directory {path} is used by another daemon{}; stop that one, or choose another \
         directory with --data-dir",
        pid.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other daemon, if it has said so already.
        pid: Option<String>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A data directory that this process alone uses, until dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
}

impl DataDir {
    /// Makes the directory where it does not exist, for its owner only, and takes it.
    pub fn take(path: &Path) -> Result<Self, DataDirError> {
        Self::take_as(rustix::process::geteuid().as_raw(), path)
    }

    /// Takes it for a daemon that runs as this user.
    fn take_as(user: u32, path: &Path) -> Result<Self, DataDirError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error(path))?;
        check_owner(user, path, &path.symlink_metadata().map_err(error(path))?)?;
        let metadata = std::fs::metadata(path).map_err(error(path))?;
        check_owner(user, path, &metadata)?;
        if metadata.mode() & OTHERS_MODE != 0 {
            if !is_ours(path).map_err(error(path))? {
                return Err(DataDirError::Foreign(path.to_owned()));
            }
            // Database and code lie in it.
            std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(error(path))?;
        }
        // From here on nobody else can add anything. A link counts as its maker's, wherever it leads.
        for entry in path.read_dir().map_err(error(path))? {
            let entry = entry.map_err(error(path))?;
            match entry.metadata() {
                // Another daemon's, which has just ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                metadata => {
                    let path = entry.path();
                    check_owner(user, &path, &metadata.map_err(error(&path))?)?;
                }
            }
        }
        let lock_path = path.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut looks_left = LOCK_LOOKS;
        let lock = loop {
            let mut lock = options.open(&lock_path).map_err(error(&lock_path))?;
            match lock.try_lock() {
                Ok(()) if is_still_at(&lock, &lock_path) => break lock,
                // A daemon that ended has removed the file between our opening and locking it.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if looks_left > 0 => {
                    looks_left -= 1;
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    let pid = read_short(&mut lock).ok().and_then(|text| line(&text, 0));
                    return Err(DataDirError::InUse { path: path.to_owned(), pid });
                }
                Err(TryLockError::Error(source)) => return Err(error(&lock_path)(source)),
            }
        };
        let mut taken = Self { path: path.to_owned(), lock };
        taken.write_lock(&format!("{}\n", std::process::id()))?;
        Ok(taken)
    }

    /// Tells the command line of this user where the daemon is.
    pub fn announce(&mut self, url: &str) -> Result<(), DataDirError> {
        self.write_lock(&format!("{}\n{url}\n", std::process::id()))
    }

    /// Makes the first key where the store has none, and returns its text to be shown once. The file
    /// is written first: a key that is stored and nowhere else would be lost.
    pub async fn first_key(&self, store: &dyn Store) -> Result<Option<ApiKeyText>, DataDirError> {
        if !store.api_keys().await?.is_empty() {
            return Ok(None);
        }
        let text = ApiKeyText::generate();
        let path = self.path.join(ADMIN_KEY_FILE);
        write_private(&path, &format!("{}\n", text.reveal()))
            .map_err(|source| DataDirError::Io { path, source })?;
        let key = ApiKey {
            id: text.id().to_owned(),
            name: ADMIN_KEY_NAME.to_owned(),
            secret_sha256: text.secret_sha256(),
            role: Role::Admin,
            functions: vec![],
            expires_at: None,
            created_at: chrono::Utc::now(),
        };
        store.create_api_key(&key).await?;
        Ok(Some(text))
    }

    fn write_lock(&mut self, text: &str) -> Result<(), DataDirError> {
        let written = self
            .lock
            .set_len(0)
            .and_then(|()| self.lock.rewind())
            .and_then(|()| self.lock.write_all(text.as_bytes()));
        written.map_err(|source| DataDirError::Io { path: self.path.join(LOCK_FILE), source })
    }
}

impl Drop for DataDir {
    /// Removes the file while it is still locked: whoever opened it before sees that it is gone.
    fn drop(&mut self) {
        let path = self.path.join(LOCK_FILE);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), %error, "the lock file stays");
        }
    }
}

fn check_owner(user: u32, path: &Path, metadata: &Metadata) -> Result<(), DataDirError> {
    match metadata.uid() {
        owner if owner == user => Ok(()),
        owner => Err(DataDirError::NotYours { path: path.to_owned(), owner }),
    }
}

/// Whether the directory is empty, or Nova has used it before.
fn is_ours(path: &Path) -> io::Result<bool> {
    let used = OURS.iter().any(|name| path.join(name).symlink_metadata().is_ok());
    Ok(used || std::fs::read_dir(path)?.next().is_none())
}

/// Whether the open file is the one that the path names.
fn is_still_at(file: &File, path: &Path) -> bool {
    let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (opened, named) = (file.metadata().map(place), std::fs::metadata(path).map(place));
    matches!((opened, named), (Ok(opened), Ok(named)) if opened == named)
}

/// The address of the daemon that uses this directory. Where one crashed, somebody else may listen at
/// its address by now, and would be told the key.
pub fn announced_url(data_dir: &Path) -> Option<String> {
    let mut file = File::open(data_dir.join(LOCK_FILE)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => line(&read_short(&mut file).ok()?, 1),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// The key that the first run left in this directory, if this user may read it.
pub fn admin_key(data_dir: &Path) -> Option<String> {
    let mut file = File::open(data_dir.join(ADMIN_KEY_FILE)).ok()?;
    line(&read_short(&mut file).ok()?, 0)
}

fn read_short(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.take(FILE_MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn line(text: &str, index: usize) -> Option<String> {
    text.lines().nth(index).map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned)
}

/// Replaces the file as a whole, never readable by others, not even for a moment.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("partial");
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nova_store::SqlStore;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_daemon_is_refused_with_the_first_ones_process_id() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let mut first = DataDir::take(&path).unwrap();
        first.announce("http://127.0.0.1:9000").unwrap();
        let error = DataDir::take(&path).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert_eq!(announced_url(&path).as_deref(), Some("http://127.0.0.1:9000"));
        drop(first);
        assert!(!path.join(LOCK_FILE).exists(), "nothing says that a daemon runs");
        let _second = DataDir::take(&path).unwrap();
        assert_eq!(announced_url(&path), None, "a daemon that is starting has no address yet");
    }

    #[test]
    fn what_is_somebody_elses_stays_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let mode = || std::fs::metadata(root.path()).unwrap().permissions().mode() & 0o7777;
        let open =
            || std::fs::set_permissions(root.path(), Permissions::from_mode(0o1777)).unwrap();
        open();
        let file = root.path().join("diary");
        std::fs::write(&file, "dear").unwrap();
        let error = DataDir::take(root.path()).unwrap_err().to_string();
        assert!(error.contains("--data-dir") && error.contains("chmod 700"), "{error}");
        assert_eq!((mode(), root.path().read_dir().unwrap().count()), (0o1777, 1));

        std::fs::create_dir(root.path().join("artifacts")).unwrap();
        let _ours = DataDir::take(root.path()).unwrap();
        assert_eq!(mode(), 0o700);
    }

    #[test]
    fn a_directory_of_another_user_is_refused_and_what_its_links_lead_to_is_untouched() {
        let root = tempfile::tempdir().unwrap();
        let (victim, data) = (root.path().join("victim"), root.path().join("data"));
        std::fs::write(&victim, "precious").unwrap();
        std::fs::create_dir(&data).unwrap();
        let user = rustix::process::geteuid().as_raw();
        let error = DataDir::take_as(user + 1, &data).unwrap_err().to_string();
        assert!(error.contains("--data-dir") && error.contains("chown"), "{error}");

        let link = data.join(LOCK_FILE);
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        assert_eq!(user, 0, "links of others can be made by root only: run this test as root");
        std::os::unix::fs::lchown(&link, Some(65_534), None).unwrap();
        let error = DataDir::take(&data).unwrap_err().to_string();
        assert!(error.contains(LOCK_FILE) && error.contains("65534"), "{error}");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn what_a_crash_left_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(LOCK_FILE), "1\nhttp://127.0.0.1:9000\n").unwrap();
        assert_eq!(announced_url(root.path()), None, "nobody is known to listen there now");
        let _directory = DataDir::take(root.path()).unwrap();
        assert_eq!(announced_url(root.path()), None);
    }

    #[test]
    fn of_many_at_once_one_at_a_time_has_the_directory() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let root = tempfile::tempdir().unwrap();
        let (inside, times) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while times.load(Ordering::SeqCst) < 200 {
                        if let Ok(_directory) = DataDir::take(root.path()) {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            times.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
    }

    #[tokio::test]
    async fn the_first_run_leaves_a_key_that_only_its_owner_can_read() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDir::take(root.path()).unwrap();
        let store = SqlStore::open(&root.path().join("nova.db")).await.unwrap();
        let text = directory.first_key(&store).await.unwrap().unwrap();
        assert_eq!(admin_key(root.path()), Some(text.reveal()));
        let stored = store.api_key(text.id()).await.unwrap().unwrap();
        assert!(text.opens(&stored));
        assert_eq!(stored.role, Role::Admin);
        let mode =
            std::fs::metadata(root.path().join(ADMIN_KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(directory.first_key(&store).await.unwrap().is_none(), "only once");
    }
}
