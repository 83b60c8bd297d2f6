//! One VM's jail: the directory that becomes the VMM's root.
//!
//! ```text
//! <data-dir>/run/jail/firecracker/<vm id>/root/    the jailer makes it private to the VM's uid
//!     vmlinux  initramfs  image.erofs  code.erofs  hard links, owned by root, mode 0444 or 0644
//!     api.sock v.sock                              made by Firecracker
//!     firecracker dev/ run/                        made by the jailer
//! ```
//!
//! A VM costs no copy of its image: files that several VMs read are hard links. Where a link is
//! impossible (the artefacts lie on another file system), one copy per file and daemon is made
//! beside the jails and linked from there; a bind mount instead would slow every later jail down.
use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::spawn_blocking;

/// Mode bits of a file that nobody but its owner may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Mode bit of a file that the VM's uid can read.
const READABLE_BY_OTHERS: u32 = 0o004;

/// A jail's directory. Must be [removed](Jail::remove) after the VMM has ended.
#[derive(Debug)]
pub(crate) struct Jail {
    directory: PathBuf,
    root: PathBuf,
}

impl Jail {
    /// Makes the directory of the VM `id` below `base`, where the jailer will look for it.
    pub(crate) fn create(base: &Path, program_name: &str, id: &str) -> io::Result<Self> {
        let parent = base.join(program_name);
        let mut private = DirBuilder::new();
        private.mode(0o700);
        private.recursive(true).create(&parent)?;
        let directory = parent.join(id);
        // Not recursive: a directory that is there already belongs to another VM.
        private.recursive(false).create(&directory)?;
        let jail = Self { root: directory.join("root"), directory };
        if let Err(error) = private.create(&jail.root) {
            fs::remove_dir(&jail.directory)?;
            return Err(error);
        }
        Ok(jail)
    }

    /// The path of a file in the jail, as the host sees it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Removes the jail and all in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether jails below `data_dir` can work: the VMM opens device files in its jail, and is run from
/// there.
pub(crate) fn check_file_system(data_dir: &Path) -> Result<(), String> {
    let flags = statvfs(data_dir)
        .map_err(|error| format!("data directory {}: {error}", data_dir.display()))?
        .flags();
    match forbidden(flags) {
        None => Ok(()),
        Some(option) => Err(format!(
            "data directory {} is on a file system that is mounted {option}; microVMs need device \
             files and programs there: choose another --data-dir or remount it",
            data_dir.display()
        )),
    }
}

/// The mount option that forbids what a jail needs.
fn forbidden(flags: FsFlags) -> Option<&'static str> {
    [(FsFlags::ST_NODEV, "nodev"), (FsFlags::ST_NOEXEC, "noexec")]
        .into_iter()
        .find_map(|(flag, option)| flags.contains(flag).then_some(option))
}

/// Puts shared read-only files into jails.
#[derive(Debug, Clone)]
pub(crate) struct SharedFiles {
    /// Copies of files that cannot be linked into jails from where they are.
    copies: PathBuf,
    copying: Arc<Mutex<Copying>>,
}

/// Whether copies may be made. Locked by whoever makes or removes them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Copying {
    #[default]
    Allowed,
    Ended,
}

impl SharedFiles {
    /// Keeps copies in `copies`, which must be on the file system of the jails.
    pub(crate) fn new(copies: PathBuf) -> Self {
        Self { copies, copying: Arc::default() }
    }

    /// Makes `source` appear in the jail as `name`. Copies the file at most once.
    pub(crate) async fn link_into(&self, jail: &Jail, source: &Path, name: &str) -> io::Result<()> {
        // A link to a symlink would point out of the jail, to nowhere.
        let source = source.canonicalize()?;
        let metadata = fs::metadata(&source)?;
        let target = jail.path(name);
        let mode = metadata.permissions().mode();
        if mode & WRITABLE_BY_OTHERS != 0 || mode & READABLE_BY_OTHERS == 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "mode {:o}, but a file for guests must be readable by all and writable by \
                     its owner only; chmod it to 644",
                    mode & 0o7777
                ),
            ));
        }
        match fs::hard_link(&source, &target) {
            Err(error) if error.raw_os_error() == Some(Errno::EXDEV as i32) => {
                let shared = self.clone();
                // Takes long, but belongs to no VM: a boot given up meanwhile loses nothing.
                let copy = spawn_blocking(move || shared.copy_of(&source, &metadata)).await??;
                fs::hard_link(copy, &target)
            }
            result => result,
        }
    }

    /// Removes all copies, and makes none from now on: a boot that was given up may be copying still,
    /// which is waited for. Blocks.
    pub(crate) fn remove_copies(&self) -> io::Result<()> {
        let mut copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        *copying = Copying::Ended;
        fs::remove_dir_all(&self.copies)
    }

    /// The one copy of `source`, made if it is missing.
    fn copy_of(&self, source: &Path, metadata: &fs::Metadata) -> io::Result<PathBuf> {
        let name = format!(
            "{:x}-{:x}-{:x}-{:x}-{:x}",
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        let copy = self.copies.join(&name);
        let one_at_a_time = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        if *one_at_a_time == Copying::Ended {
            return Err(io::Error::other("no copies are made any more, because nova is ending"));
        }
        if copy.exists() {
            return Ok(copy);
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.copies)?;
        let unfinished = self.copies.join(format!("{name}.new"));
        let copied = fs::copy(source, &unfinished).and_then(|_| {
            fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o444))?;
            fs::rename(&unfinished, &copy)
        });
        if let Err(error) = copied {
            // The copy's own error says more than one about its removal would.
            fs::remove_file(&unfinished).ok();
            return Err(error);
        }
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        jail: Jail,
        shared: SharedFiles,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let jail = Jail::create(&dir.path().join("jail"), "firecracker", "0123456789ab").unwrap();
        let shared = SharedFiles::new(dir.path().join("copies"));
        Fixture { dir, jail, shared }
    }

    #[tokio::test]
    async fn a_file_is_linked_not_copied_and_outlives_the_jail() {
        let Fixture { dir, jail, shared } = fixture();
        let source = dir.path().join("image");
        fs::write(&source, "image").unwrap();
        shared.link_into(&jail, &source, "image.erofs").await.unwrap();
        let inode = fs::metadata(jail.path("image.erofs")).unwrap().ino();
        assert_eq!(inode, fs::metadata(&source).unwrap().ino());
        jail.remove().unwrap();
        jail.remove().unwrap();
        assert_eq!(fs::read(&source).unwrap(), b"image");
        assert_eq!(fs::read_dir(dir.path().join("jail/firecracker")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_symlink_is_followed_before_it_is_linked() {
        let Fixture { dir, jail, shared } = fixture();
        let (image, link) = (dir.path().join("image"), dir.path().join("link"));
        fs::write(&image, "image").unwrap();
        std::os::unix::fs::symlink(&image, &link).unwrap();
        shared.link_into(&jail, &link, "image.erofs").await.unwrap();
        let linked = fs::symlink_metadata(jail.path("image.erofs")).unwrap();
        assert_eq!(linked.ino(), fs::metadata(&image).unwrap().ino());
    }

    #[tokio::test]
    async fn a_file_on_another_file_system_is_copied_once() {
        let Fixture { dir, jail, shared } = fixture();
        // /proc is never the file system of a temporary directory.
        let source = Path::new("/proc/version");
        let second = Jail::create(&dir.path().join("jail"), "firecracker", "ba9876543210").unwrap();
        shared.link_into(&jail, source, "x").await.unwrap();
        // Files of /proc have no stable time stamps, so their copies have no stable names either.
        let copy = fs::read_dir(dir.path().join("copies")).unwrap().next().unwrap().unwrap();
        assert_eq!(fs::read(copy.path()).unwrap(), fs::read(source).unwrap());
        shared.link_into(&second, &copy.path(), "x").await.unwrap();
        assert_eq!(fs::metadata(second.path("x")).unwrap().mode() & 0o7777, 0o444);
    }

    #[tokio::test]
    async fn a_file_that_guests_could_write_or_not_read_is_refused() {
        let Fixture { dir, jail, shared } = fixture();
        let source = dir.path().join("image");
        fs::write(&source, "image").unwrap();
        for mode in [0o666, 0o600] {
            fs::set_permissions(&source, fs::Permissions::from_mode(mode)).unwrap();
            let error = shared.link_into(&jail, &source, "image.erofs").await.unwrap_err();
            assert!(error.to_string().contains("chmod it to 644"), "{error}");
        }
    }

    #[test]
    fn a_file_system_that_forbids_devices_or_programs_is_no_place_for_jails() {
        assert_eq!(forbidden(FsFlags::ST_NOATIME), None);
        assert_eq!(forbidden(FsFlags::ST_NODEV | FsFlags::ST_NOATIME), Some("nodev"));
        assert_eq!(forbidden(FsFlags::ST_NOEXEC), Some("noexec"));
        assert_eq!(check_file_system(Path::new("/dev")), Ok(()));
    }

    #[test]
    fn two_vms_never_share_a_jail() {
        let Fixture { dir, jail: _jail, .. } = fixture();
        let again = Jail::create(&dir.path().join("jail"), "firecracker", "0123456789ab");
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
