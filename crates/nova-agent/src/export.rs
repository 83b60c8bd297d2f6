//! The result of a build on its way to the host: a tar of [`OUT_DIR`] in chunks.
//!
//! The host gives leave for so many bytes at a time ([`Credits`]), so that what it has not read yet never
//! piles up, neither here nor there. What the build wrote is hostile to the agent: it is read with the
//! build's own rights, links are sent as links and never followed, and what is neither file, directory
//! nor link is refused. Nothing of the build runs any more, so that what was looked at stays what it is.
mod credits;

pub use credits::Credits;

use crate::child::FUNCTION_ID;
use crate::files::as_user;
use crate::outgoing::Outgoing;
use nova_proto::{CHUNK_MAX_BYTES, Chunk, Message, OUT_DIR};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Most files, directories and links of a result: what the host takes of any code.
const ENTRIES_MAX: usize = 65_536;

/// Sends everything as chunks of request `id`, the last of them marked.
///
/// # Errors
/// Which entry cannot be sent and why, for the function's author.
pub fn send(id: u64, outgoing: &Outgoing, credits: &Credits) -> Result<(), String> {
    let send = |data: Vec<u8>, last: bool| {
        credits.take(data.len())?;
        outgoing.send_bulk(id, Message::Chunk(Chunk { data, last }));
        Ok(())
    };
    as_user(FUNCTION_ID, FUNCTION_ID, || pack(Path::new(OUT_DIR), Chunks::new(send)))
}

/// Cuts what is written into chunks.
struct Chunks<S> {
    buffer: Vec<u8>,
    send: S,
}

impl<S: FnMut(Vec<u8>, bool) -> io::Result<()>> Chunks<S> {
    fn new(send: S) -> Self {
        Self { buffer: Vec::with_capacity(CHUNK_MAX_BYTES), send }
    }

    fn finish(mut self) -> io::Result<()> {
        (self.send)(self.buffer, true)
    }
}

impl<S: FnMut(Vec<u8>, bool) -> io::Result<()>> Write for Chunks<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Kept until more follows: the last chunk has to be known.
        if self.buffer.len() == CHUNK_MAX_BYTES {
            let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_MAX_BYTES));
            (self.send)(full, false)?;
        }
        let taken = bytes.len().min(CHUNK_MAX_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes everything below `root` as a tar, each directory before what is in it.
fn pack<S>(root: &Path, chunks: Chunks<S>) -> Result<(), String>
where
    S: FnMut(Vec<u8>, bool) -> io::Result<()>,
{
    let mut tar = tar::Builder::new(chunks);
    let mut directories = vec![PathBuf::new()];
    let mut entries = 0;
    while let Some(directory) = directories.pop() {
        let failed = |error| format!("read {}: {error}", root.join(&directory).display());
        for entry in fs::read_dir(root.join(&directory)).map_err(failed)? {
            let name = directory.join(entry.map_err(failed)?.file_name());
            entries += 1;
            if entries > ENTRIES_MAX {
                return Err(format!("{OUT_DIR} holds more than {ENTRIES_MAX} entries"));
            }
            let path = root.join(&name);
            append(&mut tar, &path, &name)
                .map_err(|error| format!("send {}: {error}", path.display()))?;
            if fs::symlink_metadata(&path).map_err(failed)?.is_dir() {
                directories.push(name);
            }
        }
    }
    let chunks = tar.into_inner().map_err(|error| format!("end the archive: {error}"))?;
    chunks.finish().map_err(|error| format!("end the archive: {error}"))
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &Path, name: &Path) -> io::Result<()> {
    let about = fs::symlink_metadata(path)?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(about.mode() & 0o777);
    header.set_size(0);
    if about.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        return tar.append_data(&mut header, name, io::empty());
    }
    if about.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        return tar.append_link(&mut header, name, fs::read_link(path)?);
    }
    if !about.is_file() {
        return Err(io::Error::other("it is neither a file, a directory nor a link"));
    }
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(about.len());
    tar.append_data(&mut header, name, open(path)?)
}

/// Opens a file that is none of the kernel's surprises.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// The chunks of a directory.
    fn packed(root: &Path) -> Result<Vec<(Vec<u8>, bool)>, String> {
        let mut chunks = Vec::new();
        pack(
            root,
            Chunks::new(|data, last| {
                chunks.push((data, last));
                Ok(())
            }),
        )?;
        Ok(chunks)
    }

    /// Contents by path; a link's is its target.
    fn unpacked(chunks: &[(Vec<u8>, bool)]) -> BTreeMap<String, String> {
        let bytes: Vec<u8> = chunks.iter().flat_map(|(data, _)| data.clone()).collect();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().expect("an archive").map(|entry| {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a path").display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            let target = entry.link_name().expect("a target").map(|to| to.display().to_string());
            (name, target.unwrap_or(text))
        });
        entries.collect()
    }

    #[test]
    fn everything_is_sent_and_links_are_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        let long = "n".repeat(200);
        fs::create_dir(root.join("lib")).expect("a directory");
        fs::write(root.join("lib").join(&long), "deep").expect("a file");
        fs::write(root.join("handler"), "x".repeat(3 * CHUNK_MAX_BYTES)).expect("a file");
        symlink("/etc/passwd", root.join("outside")).expect("a link");
        let chunks = packed(root).expect("packed");
        assert!(chunks.iter().all(|(data, _)| data.len() <= CHUNK_MAX_BYTES));
        let last: Vec<bool> = chunks.iter().map(|(_, last)| *last).collect();
        assert_eq!(last.iter().filter(|last| **last).count(), 1);
        assert_eq!(last.last(), Some(&true));
        let found = unpacked(&chunks);
        assert_eq!(found["outside"], "/etc/passwd");
        assert_eq!(found[&format!("lib/{long}")], "deep");
        assert_eq!(found["handler"].len(), 3 * CHUNK_MAX_BYTES);
    }

    #[test]
    fn an_empty_result_is_an_archive_of_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(unpacked(&packed(directory.path()).expect("packed")).is_empty());
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let error = packed(directory.path()).expect_err("refused");
        assert!(error.contains("pipe: it is neither a file"), "{error}");
    }

    #[test]
    fn modes_are_sent_without_what_raises_rights() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("handler");
        fs::write(&path, "").expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).expect("permissions");
        let chunks = packed(directory.path()).expect("packed");
        let header = tar::Header::from_byte_slice(&chunks[0].0[..512]).clone();
        assert_eq!(header.mode().expect("a mode"), 0o755);
    }
}
