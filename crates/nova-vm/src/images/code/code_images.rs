//! A revision's code on this host, in the form that a backend mounts.
//!
//! ```text
//! <directory>/<hash>/        unpacked, for the container backend
//! <directory>/<hash>.erofs   a read-only image, for Firecracker
//! <directory>/.making-*      being made; left only by a crash, removed at the next start
//! <directory>/.boot-id       the boot of the host in which all this was made
//! ```
//!
//! Each is made once, however many boots ask at the same moment, and appears by a rename: what has its
//! final name is whole. Who asks again gets the path from memory; nothing is read or hashed.
//!
//! All of it can be made again from the code source, so nothing waits for the disk: after a boot of the
//! host, when a power cut may have left files without their contents, everything is dropped and made
//! anew on demand. What is over [`KEPT_MAX_BYTES`] is dropped too, the longest unused first, but never what
//! a guest runs.
use super::read_canonical;
use crate::driver::CodeSource;
use crate::images::erofs::{self, Compression};
use crate::images::files::remove_prefixed;
use nova_domain::CodeHash;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore};

/// Most bytes that are kept on disk beside what guests run: a score of the largest, thousands of the usual
/// size. Each is made again in a second or so.
const KEPT_MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Archives that are fetched and unpacked at once, whatever functions they belong to: each takes its
/// unpacked size twice in memory, and a second one would gain nothing on the same disk. One whose caller
/// goes away counts until it is out of memory.
const UNPACKED_AT_ONCE: usize = 1;
/// Prefix of what is not finished.
const MAKING_PREFIX: &str = ".making-";
/// Holds the id of the host's boot.
const BOOT_ID_FILE: &str = ".boot-id";
/// Where the kernel tells it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Makes and remembers the mountable forms of code.
pub struct CodeImages {
    directory: PathBuf,
    source: Arc<dyn CodeSource>,
    made: Mutex<Made>,
    kept_max_bytes: u64,
    /// [`UNPACKED_AT_ONCE`]; in order of arrival.
    turns: Arc<Semaphore>,
}

/// Code in its mountable form. It stays on disk for as long as anybody has this value.
#[derive(Debug)]
pub struct CodeImage {
    path: PathBuf,
    bytes: u64,
}

impl CodeImage {
    /// The file or directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Made by the first who asks; the others wait for it.
type Making = Arc<OnceCell<Arc<CodeImage>>>;

/// What there is on disk, and what is being made.
#[derive(Default)]
struct Made {
    forms: HashMap<(CodeHash, Form), (Making, u64)>,
    /// Counts requests, so that the longest unused can be told.
    requests: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    Directory,
    Erofs,
}

impl CodeImages {
    /// Works in `directory`, which belongs to this daemon alone, and removes what a crash of the daemon
    /// or of the host may have left half made there. Call it while no guest runs.
    pub fn new(directory: impl Into<PathBuf>, source: Arc<dyn CodeSource>) -> io::Result<Self> {
        let directory = directory.into();
        std::fs::create_dir_all(&directory)?;
        let boot_id = std::fs::read_to_string(BOOT_ID)?;
        let boot_id_file = directory.join(BOOT_ID_FILE);
        if std::fs::read_to_string(&boot_id_file).is_ok_and(|made_in| made_in == boot_id) {
            remove_prefixed(&directory, MAKING_PREFIX)?;
        } else {
            remove_prefixed(&directory, "")?;
            std::fs::write(&boot_id_file, boot_id)?;
        }
        let made = Mutex::new(Made::found_in(&directory)?);
        let turns = Arc::new(Semaphore::new(UNPACKED_AT_ONCE));
        let images = Self { directory, source, made, kept_max_bytes: KEPT_MAX_BYTES, turns };
        drop(images.take_surplus()?);
        Ok(images)
    }

    /// The unpacked code: owned by the daemon's user, readable by all, for a read-only bind mount.
    pub async fn directory(&self, hash: &CodeHash) -> io::Result<Arc<CodeImage>> {
        self.get(hash, Form::Directory).await
    }

    /// The code as an EROFS file, readable by all.
    pub async fn erofs(&self, hash: &CodeHash) -> io::Result<Arc<CodeImage>> {
        self.get(hash, Form::Erofs).await
    }

    async fn get(&self, hash: &CodeHash, form: Form) -> io::Result<Arc<CodeImage>> {
        let cell = {
            let mut made = self.made();
            made.requests += 1;
            let now = made.requests;
            let (cell, last_request) = made.forms.entry((hash.clone(), form)).or_default();
            *last_request = now;
            cell.clone()
        };
        let failed =
            |error: io::Error| io::Error::new(error.kind(), format!("code {hash}: {error}"));
        let is_new = !cell.initialized();
        let image = cell.get_or_try_init(|| self.make(hash, form)).await.map_err(failed)?.clone();
        if is_new {
            match self.take_surplus() {
                Ok(surplus) => drop(tokio::task::spawn_blocking(move || drop(surplus))),
                Err(error) => tracing::warn!(%error, "code that is not used was not removed"),
            }
        }
        Ok(image)
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what is too much out of the way, into directories that end with the result. What somebody has,
    /// or is about to get, stays.
    fn take_surplus(&self) -> io::Result<Vec<TempDir>> {
        let mut made = self.made();
        let image = |making: &Making| making.get().cloned();
        let all = made.forms.values().filter_map(|(making, _)| image(making));
        let mut kept_bytes: u64 = all.map(|image| image.bytes).sum();
        let mut surplus = Vec::new();
        while kept_bytes > self.kept_max_bytes {
            let unused = made.forms.iter().filter(|(_, (making, _))| {
                let held_once = making.get().is_some_and(|image| Arc::strong_count(image) == 1);
                held_once && Arc::strong_count(making) == 1
            });
            let oldest = unused.min_by_key(|(_, (_, last_request))| *last_request);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { break };
            let Some(image) = made.forms.remove(&key).and_then(|(making, _)| image(&making)) else {
                continue;
            };
            kept_bytes -= image.bytes;
            let place = self.temporary()?;
            std::fs::rename(&image.path, place.path().join("code"))?;
            surplus.push(place);
        }
        Ok(surplus)
    }

    async fn make(&self, hash: &CodeHash, form: Form) -> io::Result<Arc<CodeImage>> {
        let path = match form {
            Form::Directory => self.directory.join(hash.as_str()),
            Form::Erofs => self.directory.join(format!("{hash}.erofs")),
        };
        // Left whole by a caller who went away before it was counted.
        if tokio::fs::try_exists(&path).await? {
            return Self::count(path).await;
        }
        let turn = self.turns.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (making, expected) = (self.temporary()?, hash.clone());
        let (source, runtime) = (self.source.clone(), Handle::current());
        // Goes to its end even if nobody waits for it any more, so that the turn goes with it.
        let making = tokio::task::spawn_blocking(move || {
            let archive = runtime.block_on(source.fetch(&expected))?;
            let unpacked = unpack_verified(&archive, &expected, &making.path().join("code"));
            drop(archive);
            drop(turn);
            unpacked.map(|()| making)
        })
        .await??;
        let unpacked = making.path().join("code");
        match form {
            Form::Directory => tokio::fs::rename(unpacked, &path).await?,
            Form::Erofs => {
                let image = making.path().join("image");
                let written = erofs::write(&unpacked, &image, Compression::None).await;
                written.map_err(io::Error::other)?;
                tokio::fs::rename(image, &path).await?;
            }
        }
        Self::count(path).await
    }

    async fn count(path: PathBuf) -> io::Result<Arc<CodeImage>> {
        let counted = tokio::task::spawn_blocking(move || {
            bytes_on_disk(&path).map(|bytes| Arc::new(CodeImage { path, bytes }))
        });
        counted.await?
    }

    fn temporary(&self) -> io::Result<TempDir> {
        tempfile::Builder::new().prefix(MAKING_PREFIX).tempdir_in(&self.directory)
    }
}

impl Made {
    /// What an earlier daemon has made.
    fn found_in(directory: &Path) -> io::Result<Self> {
        let mut made = Self::default();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let (hash, form) = match name.strip_suffix(".erofs") {
                Some(hash) => (hash, Form::Erofs),
                None => (name, Form::Directory),
            };
            let Ok(hash) = CodeHash::try_from(hash.to_owned()) else { continue };
            let image = CodeImage { bytes: bytes_on_disk(&path)?, path };
            let cell = OnceCell::new_with(Some(Arc::new(image)));
            made.forms.insert((hash, form), (Arc::new(cell), 0));
        }
        Ok(made)
    }
}

/// What a file, or a directory with all that is in it, takes.
fn bytes_on_disk(path: &Path) -> io::Result<u64> {
    /// The unit of the kernel's count.
    const BLOCK_BYTES: u64 = 512;
    let (mut bytes, mut todo) = (0, vec![path.to_owned()]);
    while let Some(path) = todo.pop() {
        let metadata = path.symlink_metadata()?;
        bytes += metadata.blocks() * BLOCK_BYTES;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        }
    }
    Ok(bytes)
}

fn unpack_verified(archive: &[u8], hash: &CodeHash, target: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let damaged = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
    if CodeHash::of(archive) != *hash {
        return Err(damaged(
            "what is stored is damaged (its hash differs); register it again".into(),
        ));
    }
    let tree = read_canonical(archive)
        .map_err(|error| damaged(format!("what is stored is not acceptable: {error}")))?;
    std::fs::create_dir(target)?;
    std::fs::set_permissions(target, PermissionsExt::from_mode(0o755))?;
    tree.unpack(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::code::{UploadKind, canonicalise};
    use bytes::Bytes;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use tokio::sync::Notify;

    /// Hands out one archive under every hash that has none of its own, counts how often, and notes if
    /// two were in memory at once.
    #[derive(Default)]
    struct Stored {
        archive: Bytes,
        own: HashMap<CodeHash, Bytes>,
        fetched: AtomicU32,
        in_memory: Arc<AtomicU32>,
        together: AtomicBool,
        /// The first to be fetched says that it has begun, and waits.
        gate: Option<Gate>,
    }

    #[derive(Default)]
    struct Gate {
        reached: Notify,
        open: Notify,
    }

    /// An archive that counts for as long as anybody has it.
    struct Counted(Bytes, Arc<AtomicU32>);

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[async_trait::async_trait]
    impl CodeSource for Stored {
        async fn fetch(&self, hash: &CodeHash) -> io::Result<Bytes> {
            let is_first = self.fetched.fetch_add(1, Ordering::Relaxed) == 0;
            if self.in_memory.fetch_add(1, Ordering::Relaxed) > 0 {
                self.together.store(true, Ordering::Relaxed);
            }
            let archive = self.own.get(hash).unwrap_or(&self.archive).clone();
            let counted = Counted(archive, self.in_memory.clone());
            match &self.gate {
                Some(gate) if is_first => {
                    gate.reached.notify_one();
                    gate.open.notified().await;
                }
                _ => tokio::task::yield_now().await,
            }
            match counted.0.is_empty() {
                true => Err(io::Error::new(io::ErrorKind::NotFound, "no such blob")),
                false => Ok(Bytes::from_owner(counted)),
            }
        }
    }

    struct Bench {
        directory: tempfile::TempDir,
        stored: Arc<Stored>,
        hash: CodeHash,
    }

    fn bench(archive: Vec<u8>) -> Bench {
        let hash = CodeHash::of(&archive);
        let stored = Arc::new(Stored { archive: archive.into(), ..Stored::default() });
        Bench { directory: tempfile::tempdir().unwrap(), stored, hash }
    }

    impl Bench {
        fn images(&self) -> CodeImages {
            CodeImages::new(self.directory.path(), self.stored.clone()).unwrap()
        }

        /// The names in the directory, without the boot id's.
        fn left(&self) -> Vec<String> {
            let entries = fs::read_dir(self.directory.path()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name != BOOT_ID_FILE).collect()
        }
    }

    fn program() -> Vec<u8> {
        canonicalise(b"#!/bin/sh\n", UploadKind::Inline { handler: "bin/run" }).unwrap()
    }

    /// One of many programs.
    fn numbered(n: u8) -> Vec<u8> {
        let text = [b"#!/bin/sh\n", [n].as_slice()].concat();
        canonicalise(&text, UploadKind::Inline { handler: "run" }).unwrap()
    }

    #[tokio::test]
    async fn code_is_unpacked_for_a_user_who_is_not_its_owner() {
        let bench = bench(program());
        let directory = bench.images().directory(&bench.hash).await.unwrap();
        let mode = |path: &str| {
            fs::metadata(directory.path().join(path)).unwrap().permissions().mode() & 0o7777
        };
        assert_eq!((mode(""), mode("bin"), mode("bin/run")), (0o755, 0o755, 0o755));
        assert_eq!(fs::read(directory.path().join("bin/run")).unwrap(), b"#!/bin/sh\n");
    }

    #[tokio::test]
    async fn many_boots_at_once_make_it_once() {
        let bench = bench(program());
        let images = bench.images();
        let calls = futures::future::join_all((0..20).map(|_| images.directory(&bench.hash))).await;
        let path = |call: &io::Result<Arc<CodeImage>>| call.as_ref().unwrap().path().to_owned();
        assert!(calls.iter().all(|call| path(call) == path(&calls[0])));
        assert_eq!(bench.stored.fetched.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_code_of_many_functions_is_in_memory_one_at_a_time() {
        let mut bench = bench(program());
        let archives = (0..20).map(numbered);
        let own = archives.map(|archive| (CodeHash::of(&archive), archive.into())).collect();
        bench.stored = Arc::new(Stored { own, ..Stored::default() });
        let (images, hashes) = (bench.images(), bench.stored.own.keys());
        let made = futures::future::join_all(hashes.map(|hash| images.directory(hash))).await;
        assert!(made.iter().all(Result::is_ok), "{made:?}");
        assert_eq!(bench.stored.fetched.load(Ordering::Relaxed), 20);
        assert!(!bench.stored.together.load(Ordering::Relaxed), "two were in memory at once");
    }

    #[tokio::test]
    async fn code_whose_caller_went_away_counts_until_it_is_out_of_memory() {
        let mut bench = bench(program());
        let archive = bench.stored.archive.clone();
        let gate = Some(Gate::default());
        bench.stored = Arc::new(Stored { archive, gate, ..Stored::default() });
        let (images, gate) = (bench.images(), bench.stored.gate.as_ref().unwrap());
        tokio::select! {
            made = images.directory(&bench.hash) => panic!("{made:?}"),
            () = gate.reached.notified() => {}
        }
        let turns_left = images.turns.available_permits();
        gate.open.notify_one();
        assert_eq!(turns_left, 0, "its turn ended with its caller");
        images.directory(&bench.hash).await.unwrap();
        assert!(!bench.stored.together.load(Ordering::Relaxed), "two were in memory at once");
    }

    #[tokio::test]
    async fn an_erofs_image_is_made_of_it() {
        let bench = bench(program());
        let image = bench.images().erofs(&bench.hash).await.unwrap();
        let bytes = fs::read(image.path()).unwrap();
        assert_eq!(bytes[1024..1028], 0xe0f5_e1e2_u32.to_le_bytes(), "the magic of EROFS");
        assert_eq!(bench.left(), [format!("{}.erofs", bench.hash)]);
    }

    #[tokio::test]
    async fn a_restarted_daemon_finds_what_is_whole_and_removes_what_is_not() {
        let bench = bench(program());
        let made = bench.images().directory(&bench.hash).await.unwrap();
        fs::create_dir(bench.directory.path().join(".making-crashed")).unwrap();
        let found = bench.images().directory(&bench.hash).await.unwrap();
        assert_eq!((found.path(), found.bytes), (made.path(), made.bytes));
        assert_eq!(bench.stored.fetched.load(Ordering::Relaxed), 1);
        assert_eq!(bench.left(), [bench.hash.to_string()]);
    }

    #[tokio::test]
    async fn the_longest_unused_goes_and_what_a_guest_runs_stays() {
        let mut bench = bench(numbered(b'0'));
        let mut images = bench.images();
        let running = images.directory(&bench.hash).await.unwrap();
        // Room for three of them.
        images.kept_max_bytes = 3 * running.bytes;
        let mut made = vec![running.path().to_owned()];
        for n in [b'1', b'2', b'1', b'3'] {
            bench.stored = Arc::new(Stored { archive: numbered(n).into(), ..Stored::default() });
            images.source = bench.stored.clone();
            let image = images.directory(&CodeHash::of(&numbered(n))).await.unwrap();
            made.push(image.path().to_owned());
        }
        let there: Vec<_> = made.iter().map(|path| path.exists()).collect();
        assert_eq!(there, [true, true, false, true, true], "the second was unused for longest");
        let again = bench.images();
        assert_eq!(again.made().forms.len(), 3, "a restarted daemon counts what is there");
    }

    #[tokio::test]
    async fn after_a_boot_of_the_host_everything_is_made_anew() {
        let bench = bench(program());
        let made = bench.images().directory(&bench.hash).await.unwrap();
        fs::write(made.path().join("bin/run"), "").unwrap();
        fs::write(bench.directory.path().join(BOOT_ID_FILE), "another boot").unwrap();
        let made = bench.images().directory(&bench.hash).await.unwrap();
        assert_eq!(fs::read(made.path().join("bin/run")).unwrap(), b"#!/bin/sh\n");
    }

    #[tokio::test]
    async fn damaged_and_hostile_blobs_are_refused_and_leave_nothing() {
        let mut bench = bench(program());
        bench.hash = CodeHash::of(b"something else");
        let error = bench.images().directory(&bench.hash).await.unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
        assert!(error.to_string().contains(bench.hash.as_str()), "{error}");
        assert!(bench.left().is_empty());

        let bench = self::bench(b"not a tar at all".to_vec());
        let error = bench.images().erofs(&bench.hash).await.unwrap_err();
        assert!(error.to_string().contains("not acceptable"), "{error}");
        assert!(bench.left().is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        let mut bench = bench(Vec::new());
        let images = bench.images();
        assert!(images.directory(&bench.hash).await.is_err());
        assert!(images.directory(&bench.hash).await.is_err());
        assert_eq!(bench.stored.fetched.load(Ordering::Relaxed), 2);
        bench.stored = Arc::new(Stored { archive: program().into(), ..Stored::default() });
        bench.hash = CodeHash::of(&program());
        assert!(bench.images().directory(&bench.hash).await.is_ok());
    }
}
