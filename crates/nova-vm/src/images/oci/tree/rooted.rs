//! A directory in which paths are looked up as if it were the root of the file system.
//!
//! The kernel does it (`openat2` with `RESOLVE_IN_ROOT`): absolute links and `..` end at the directory.
//! What is made, changed or removed is named by its last part in a directory that is open, and never through
//! a link.
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Nothing set-uid or set-gid; sticky stays, on directories.
const MODE_MASK: u32 = 0o1777;

/// Most directories below each other. A path has fewer, but one that begins with a link leads on from there; and
/// who removes such a tree goes as deep.
const DEPTH_MAX: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Rooted {
    root: OwnedFd,
    /// How deep the root itself lies.
    depth: usize,
}

impl Rooted {
    /// Makes the directory.
    pub fn create(path: &Path) -> io::Result<Self> {
        fs::mkdir(path, Mode::from_raw_mode(0o755))?;
        let root = fs::open(path, directory_flags(), Mode::empty())?;
        fs::fchmod(&root, Mode::from_raw_mode(0o755))?;
        let depth = depth_of(&root)?;
        Ok(Self { root, depth })
    }

    /// A directory, whose owner may always go on working in it.
    pub fn add_directory(&self, path: &Path, mode: u32) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        let mode = Mode::from_raw_mode(mode & MODE_MASK | 0o700);
        if kind_of(&parent, name)? != Some(FileType::Directory) {
            remove(&parent, name)?;
            fs::mkdirat(&parent, name, mode)?;
        }
        let made = fs::openat(&parent, name, directory_flags(), Mode::empty())?;
        Ok(fs::fchmod(made, mode)?)
    }

    /// A file in place of what is there, which its owner may always read.
    pub fn add_file(&self, path: &Path, mode: u32, content: &mut dyn Read) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        remove(&parent, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = fs::openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(made);
        io::copy(content, &mut file)?;
        Ok(fs::fchmod(file, Mode::from_raw_mode(mode & 0o777 | 0o400))?)
    }

    /// A symbolic link in place of what is there. Where it leads is nobody's business here.
    pub fn add_link(&self, path: &Path, target: &[u8]) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        remove(&parent, name)?;
        Ok(fs::symlinkat(target, &parent, name)?)
    }

    /// Another name of a file that is there. One of a link is the link's, not of where it leads.
    pub fn add_hard_link(&self, path: &Path, target: &Path) -> io::Result<()> {
        if path == target {
            return Err(io::Error::other("it is a link to itself"));
        }
        let Some(target_name) = target.file_name() else {
            return Err(io::Error::other("it is a link to the root"));
        };
        let from = self.open_directory(target.parent().unwrap_or(Path::new("")))?;
        match kind_of(&from, target_name)? {
            None => return Err(io::Error::other("what it links to is not there")),
            Some(FileType::Directory) => return Err(io::Error::other("it links to a directory")),
            Some(_) => {}
        }
        let (parent, name) = self.parent_of(path)?;
        remove(&parent, name)?;
        Ok(fs::linkat(&from, target_name, &parent, name, AtFlags::empty())?)
    }

    /// Removes a file or directory, except for what is in `kept`.
    pub fn hide(&self, path: &Path, kept: &HashSet<PathBuf>) -> io::Result<()> {
        let Some(name) = path.file_name() else { return Ok(()) };
        let parent = match self.open_directory(path.parent().unwrap_or(Path::new(""))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        hide_in(&parent, name, path, kept)
    }

    /// Removes what is in a directory, except for what is in `kept`.
    pub fn clear(&self, path: &Path, kept: &HashSet<PathBuf>) -> io::Result<()> {
        let directory = match self.open_directory(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        clear_in(&directory, path, kept)
    }

    /// Opens a file to read it, through links as the image's own programs would.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(File::from(self.look_up(path, flags)?))
    }

    /// What is at the path itself; `None` where nothing is, or the way to it is none.
    pub fn kind(&self, path: &Path) -> io::Result<Option<FileType>> {
        let Some(name) = path.file_name() else { return Ok(Some(FileType::Directory)) };
        match self.open_directory(path.parent().unwrap_or(Path::new(""))) {
            Ok(parent) => kind_of(&parent, name),
            Err(_) => Ok(None),
        }
    }

    /// Gives others what the owner may do, but for writing.
    pub fn open_to_others(&self, path: &Path) -> io::Result<()> {
        let file = match self.look_up(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC) {
            // A later layer removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let about = fs::fstat(&file)?;
        if FileType::from_raw_mode(about.st_mode) == FileType::Symlink {
            return Ok(());
        }
        let mode = about.st_mode & 0o1777;
        let file = self.look_up(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
        Ok(fs::fchmod(file, Mode::from_raw_mode(mode | (mode >> 6) & 0o5))?)
    }

    /// The open directory of a path, made where it is missing, and the path's last part.
    fn parent_of<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or_else(|| io::Error::other("it is the root"))?;
        let parent = self.make_directory(path.parent().unwrap_or(Path::new("")))?;
        self.check_depth(&parent)?;
        Ok((parent, name))
    }

    /// Opens a directory, and makes it and those above it where they are missing.
    pub fn make_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let missing = match self.open_directory(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => error,
            other => return other,
        };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(missing);
        };
        let parent = self.make_directory(parent)?;
        self.check_depth(&parent)?;
        fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        self.open_directory(path)
    }

    /// Refuses to go on where links have led too far down.
    fn check_depth(&self, directory: &OwnedFd) -> io::Result<()> {
        if depth_of(directory)? > self.depth + DEPTH_MAX {
            return Err(io::Error::other("it lies too deep"));
        }
        Ok(())
    }

    fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        self.look_up(path, directory_flags() - OFlags::NOFOLLOW)
    }

    fn look_up(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(fs::openat2(&self.root, path, flags, Mode::empty(), resolve)?)
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW
}

/// How many directories an open one is below the file system's root.
fn depth_of(directory: &OwnedFd) -> io::Result<usize> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    Ok(path.components().count())
}

/// What is there by this name, itself.
fn kind_of(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<FileType>> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(about) => Ok(Some(FileType::from_raw_mode(about.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes whatever is there by this name.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    hide_in(parent, name, Path::new(""), &HashSet::new())
}

fn hide_in(parent: &OwnedFd, name: &OsStr, path: &Path, kept: &HashSet<PathBuf>) -> io::Result<()> {
    match kind_of(parent, name)? {
        None => Ok(()),
        Some(FileType::Directory) => {
            let directory = fs::openat(parent, name, directory_flags(), Mode::empty())?;
            clear_in(&directory, path, kept)?;
            if kept.contains(path) {
                return Ok(());
            }
            match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                // It holds what this layer brought.
                Err(Errno::NOTEMPTY | Errno::EXIST) if !kept.is_empty() => Ok(()),
                other => Ok(other?),
            }
        }
        Some(_) if kept.contains(path) => Ok(()),
        Some(_) => Ok(fs::unlinkat(parent, name, AtFlags::empty())?),
    }
}

/// Never deeper than [`DEPTH_MAX`].
fn clear_in(directory: &OwnedFd, path: &Path, kept: &HashSet<PathBuf>) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    for name in names {
        hide_in(directory, &name, &path.join(&name), kept)?;
    }
    Ok(())
}
