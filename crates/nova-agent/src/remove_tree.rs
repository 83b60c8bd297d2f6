//! Empties a directory in which somebody hostile made a tree, however deep or wide it is.
//!
//! Neither stack nor memory grows with the tree: one directory of it is open at a time, nothing is
//! remembered of those above, and the way back up is `..`. So nothing may change the tree meanwhile.
use crate::console::say;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::CStr;
use std::os::fd::OwnedFd;

/// A directory itself, never what a link leads to.
const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Removes everything in the directory. What cannot be removed stays and is named on the console.
///
/// # Errors
/// The directory cannot be opened or read.
pub fn empty(path: &str) -> nix::Result<()> {
    let directory = open(path, DIRECTORY, Mode::empty())?;
    for entry in listing(&directory)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if is_in(name)
            && let Err(error) = remove(&directory, name)
        {
            say(format_args!("cannot remove {path}/{}: {error}", name.to_string_lossy()));
        }
    }
    Ok(())
}

/// Removes what has this name, with all that is below it.
fn remove(parent: &OwnedFd, name: &CStr) -> nix::Result<()> {
    let Some(mut at) = remove_or_enter(parent, name)? else { return Ok(()) };
    let mut depth = 1_u64;
    while depth > 0 {
        if let Some(child) = clear(&at)? {
            at = child;
            depth += 1;
            continue;
        }
        depth -= 1;
        if depth > 0 {
            at = openat(&at, c"..", DIRECTORY, Mode::empty())?;
        }
    }
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)
}

/// Removes what is in a directory up to the first directory that is not empty, and enters that one.
fn clear(directory: &OwnedFd) -> nix::Result<Option<OwnedFd>> {
    for entry in listing(directory)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if is_in(name)
            && let Some(child) = remove_or_enter(directory, name)?
        {
            return Ok(Some(child));
        }
    }
    Ok(None)
}

/// Removes what has this name; a directory with something in it is opened instead.
fn remove_or_enter(parent: &OwnedFd, name: &CStr) -> nix::Result<Option<OwnedFd>> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => {}
        other => return other.map(|()| None),
    }
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Err(Errno::ENOTEMPTY) => {}
        other => return other.map(|()| None),
    }
    // Its owner may have closed it even to himself.
    fchmodat(parent, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
    openat(parent, name, DIRECTORY, Mode::empty()).map(Some)
}

/// A list of its own, from the start.
fn listing(directory: &OwnedFd) -> nix::Result<Dir> {
    Dir::openat(directory, c".", DIRECTORY, Mode::empty())
}

fn is_in(name: &CStr) -> bool {
    name != c"." && name != c".."
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_goes_with_its_files_and_nothing_that_its_links_lead_to() {
        let directory = tempfile::tempdir().unwrap();
        let (kept, emptied) = (directory.path().join("kept"), directory.path().join("emptied"));
        for path in ["a/b/c", "a/d", "e"] {
            fs::create_dir_all(emptied.join(path)).unwrap();
            fs::write(emptied.join(path).join("file"), "x").unwrap();
        }
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        symlink(&kept, emptied.join("a/b/link")).unwrap();
        symlink(&kept, emptied.join("link")).unwrap();
        fs::set_permissions(emptied.join("a/b"), Permissions::from_mode(0o000)).unwrap();
        empty(emptied.to_str().unwrap()).unwrap();
        assert_eq!(fs::read_dir(&emptied).unwrap().count(), 0);
        assert!(kept.join("file").exists());
    }
}
